/* order.h: which labels share a group, for haste-train: in the order that the layer is made with, the head is the most
   frequent labels, and the rest is random, by frequency, or such that neighbours have similar documents. */
#ifndef ORDER_H
#define ORDER_H

#include "haste.h"
#include "data.h"

#define ORDER_EMBEDDING 256    /* dimensions of label embeddings */
#define ORDER_BATCH     4096   /* documents at a time */

enum { GROUPING_RANDOM, GROUPING_FREQUENCY, GROUPING_SEMANTIC };

/* Labels embedded as the mean of the n documents named: embedding [L, E] (=). 0 with error. */
static inline int order_embed(const data_set *data, const int64_t *document, int64_t n, int32_t E, uint64_t seed, int threads,
                              float *embedding, char *error)
{
    const int32_t L = data->labels;
    int64_t offset[ORDER_BATCH + 1], labels[ORDER_BATCH + 1], i, j, value_room = 0, feature_room = 0, label_room = 0;
    float *value = NULL;
    int32_t *feature = NULL, *label = NULL, b;
    haste_error why;
    int ok = 1;
    memset(embedding, 0, (size_t)L * (size_t)E * sizeof(float));
    why.text[0] = 0;
    for (i = 0; i < n && ok; i += ORDER_BATCH) {
        const int32_t B = (int32_t)(n - i < ORDER_BATCH ? n - i : ORDER_BATCH);
        haste_lists positives;
        haste_sparse x;
        offset[0] = labels[0] = 0;
        for (b = 0; b < B && ok; b++) {
            const int64_t d = document[i + b], features = data->dense ? E : data->feature_offset[d + 1] - data->feature_offset[d];
            labels[b + 1] = labels[b] + data->label_offset[d + 1] - data->label_offset[d];
            offset[b + 1] = offset[b] + features;
            ok = data_reserve((void **)&label, &label_room, labels[b + 1], sizeof(int32_t)) &&
                 data_reserve((void **)&value, &value_room, offset[b + 1], sizeof(float)) &&
                 data_reserve((void **)&feature, &feature_room, offset[b + 1], sizeof(int32_t));
            for (j = labels[b]; j < labels[b + 1] && ok; j++) label[j] = data->label[data->label_offset[d] + j - labels[b]];
            for (j = 0; j < features && ok; j++) {
                value[offset[b] + j] = data->dense ? data->dense[d * E + j] : data->value[data->feature_offset[d] + j];
                feature[offset[b] + j] = data->dense ? 0 : data->feature[data->feature_offset[d] + j];
            }
        }
        if (!ok) { data_fail(error, "embedding labels: out of memory"); break; }
        positives.offset = labels;
        positives.id = label;
        x.offset = offset;
        x.feature = feature;
        x.value = value;
        ok = (data->dense ? haste_embed_dense(embedding, L, E, value, B, &positives, threads, &why)
                          : haste_embed_sparse(embedding, L, E, seed, &x, B, &positives, threads, &why)) == HASTE_OK;
        if (!ok) data_fail(error, "embedding labels: %s", why.text);
    }
    if (ok && haste_embed_finish(embedding, L, E, &why) != HASTE_OK) ok = data_fail(error, "embedding labels: %s", why.text);
    free(label);
    free(feature);
    free(value);
    return ok;
}

/* The order of labels, from the n documents named: order [L] (=). cohesion of semantic groups (=): of those by
   frequency, and of these; else unchanged. 0 with error. */
static inline int order_labels(const data_set *data, const int64_t *document, int64_t n, const int64_t *frequency, int64_t head,
                               int32_t S, int grouping, uint64_t seed, int threads, int32_t *order, double *before,
                               double *after, char *error)
{
    const int32_t L = data->labels, E = data->dense ? data->width : ORDER_EMBEDDING, tail = (int32_t)(L - head);
    float *embedding;
    haste_group_options options;
    haste_error why;
    int ok;
    if (haste_order_by_frequency(frequency, L, order, &why) != HASTE_OK) return data_fail(error, "%s", why.text);
    if (tail == 0 || grouping == GROUPING_FREQUENCY) return 1;
    if (grouping == GROUPING_RANDOM)
        return haste_order_random(order + head, tail, seed, &why) == HASTE_OK || data_fail(error, "%s", why.text);
    embedding = (float *)malloc((size_t)L * (size_t)E * sizeof(float));
    if (!embedding) return data_fail(error, "out of memory for embeddings of %ld labels", (long)L);
    memset(&options, 0, sizeof options);
    options.group_size = S;
    options.threads = threads;
    options.seed = seed;
    ok = order_embed(data, document, n, E, seed, threads, embedding, error);
    if (ok && (haste_cohesion(embedding, L, E, order + head, tail, S, threads, before, NULL, &why) != HASTE_OK ||
               haste_group(embedding, L, E, order + head, tail, &options, &why) != HASTE_OK ||
               haste_cohesion(embedding, L, E, order + head, tail, S, threads, after, NULL, &why) != HASTE_OK))
        ok = data_fail(error, "grouping: %s", why.text);
    free(embedding);
    return ok;
}

#endif /* ORDER_H */
