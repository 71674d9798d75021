/* split.h: which documents are trained on and which are held out, for haste-train; and what they are, in one number. */
#ifndef SPLIT_H
#define SPLIT_H

#include "data.h"
#include "encoder.h"

static inline uint64_t split_hash(uint64_t hash, uint64_t word) { return (hash ^ word) * UINT64_C(1099511628211); }

static inline uint64_t split_hash_float(uint64_t hash, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return split_hash(hash, bits);
}

/* What documents are, in one number: a resumed run must see the same ones. */
static inline uint64_t split_fingerprint(const data_set *data)
{
    uint64_t hash = UINT64_C(14695981039346656037);
    int64_t i, labels = data->label_offset[data->documents], features = data->feature_offset[data->documents];
    for (i = 0; i <= data->documents; i++) {
        hash = split_hash(hash, (uint64_t)data->label_offset[i]);
        hash = split_hash(hash, (uint64_t)data->feature_offset[i]);
    }
    for (i = 0; i < labels; i++) hash = split_hash(hash, (uint64_t)data->label[i]);
    for (i = 0; i < features; i++) hash = split_hash(hash, (uint64_t)data->feature[i]);
    for (i = 0; i < features; i++) hash = split_hash_float(hash, data->value[i]);
    for (i = 0; data->dense && i < data->documents * data->width; i++) hash = split_hash_float(hash, data->dense[i]);
    return hash;
}

typedef struct split_draw { uint64_t number; int64_t document; } split_draw;

static inline int split_order(const void *a, const void *b)
{
    const split_draw *x = (const split_draw *)a, *y = (const split_draw *)b;
    if (x->number != y->number) return x->number > y->number ? 1 : -1;
    return (x->document > y->document) - (x->document < y->document);
}

/* All documents in document [N] (=), with about n of them, those with the largest random numbers, last. The number is
   drawn from what is in a document, so that copies stay together: of arxiv-authors' documents every fourth has one, and
   a model is not to be judged on what it has seen. Returns how many were held out: copies may make it more; -1: no
   other document would be left; -2: out of memory. */
static inline int64_t split_hold_out(const data_set *data, int64_t n, uint64_t seed, int64_t *document)
{
    split_draw *drawn;
    int64_t i, j, first = data->documents - n;
    for (i = 0; i < data->documents; i++) document[i] = i;
    if (n == 0) return 0;
    drawn = (split_draw *)malloc((size_t)data->documents * sizeof *drawn);
    if (!drawn) return -2;
    for (i = 0; i < data->documents; i++) {
        uint64_t hash = UINT64_C(14695981039346656037);
        /* nothing in it is no copy */
        if (data->feature_offset[i] == data->feature_offset[i + 1]) hash ^= (uint64_t)i;
        for (j = data->feature_offset[i]; j < data->feature_offset[i + 1]; j++)
            hash = split_hash_float(split_hash(hash, (uint64_t)data->feature[j]), data->value[j]);
        for (j = 0; data->dense && j < data->width; j++)
            hash = split_hash_float(hash, data->dense[i * data->width + j]);
        drawn[i].number = encoder_random(seed, 5, hash);
        drawn[i].document = i;
    }
    qsort(drawn, (size_t)data->documents, sizeof *drawn, split_order);
    while (first > 0 && drawn[first - 1].number == drawn[first].number) first--;
    for (i = 0; i < data->documents; i++) document[i] = drawn[i].document;
    free(drawn);
    return first == 0 ? -1 : data->documents - first;
}

/* The first n documents in the order of an epoch: order [n] (=). */
static inline void split_shuffle(const int64_t *document, int64_t n, uint64_t seed, int64_t epoch, int64_t *order)
{
    int64_t i;
    memcpy(order, document, (size_t)n * sizeof(int64_t));
    for (i = n - 1; i > 0; i--) {
        const uint64_t random = encoder_random(seed, (uint64_t)epoch + (UINT64_C(1) << 32), (uint64_t)i);
        const int64_t j = (int64_t)(random % (uint64_t)(i + 1)), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
}

#endif /* SPLIT_H */
