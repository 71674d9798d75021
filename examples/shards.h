/* shards.h: a layer cut into ranges of whole groups, one for each of several processes, none of which holds all weights.
   haste-train-mpi and -nccl (train_mpi.c, train_nccl.cu) train such ranges; nothing here depends on how processes talk.

   What all of them know is the outline: the layer's sizes and the order of its labels, 8 bytes a label, without weights. A
   range is made by itself (haste_layer_options.first_slot), and is bit for bit what those groups are in a layer that one
   process makes. Its labels have ids of their own, ascending with those of the whole. */
#ifndef SHARDS_H
#define SHARDS_H

#include "haste.h"
#include "reader.h"

/* ---- >>outlines ---------------------------------------------------------------------------------------------- */

static inline void shards_free(haste_layer *outline)
{
    free(outline->label_of);
    free(outline->slot_of);
    memset(outline, 0, sizeof *outline);
}

/* The outline (=) of a layer, which may lie in a file. 0: out of memory. */
static inline int shards_outline_of(haste_layer *outline, const haste_layer *layer)
{
    haste_layer o = *layer;
    int i;
    for (i = 0; i < o.block_count; i++) {
        haste_block *block = &o.block[i];
        block->weight = block->weight_state[0] = block->weight_state[1] = NULL;
        block->index = NULL;
        block->bias = block->bias_state[0] = block->bias_state[1] = NULL;
    }
    o.memory = NULL;
    o.bytes = 0;
    o.label_of = (int32_t *)malloc((size_t)o.slots * sizeof(int32_t));
    o.slot_of = (int32_t *)malloc((size_t)o.labels * sizeof(int32_t));
    if (!o.label_of || !o.slot_of) { shards_free(&o); return 0; }
    memcpy(o.label_of, layer->label_of, (size_t)o.slots * sizeof(int32_t));
    memcpy(o.slot_of, layer->slot_of, (size_t)o.labels * sizeof(int32_t));
    *outline = o;
    return 1;
}

/* The outline (=) of the layer that options would make. They are right, say all sizes, and have an order. 0: out of
   memory. */
static inline int shards_outline(haste_layer *outline, const haste_layer_options *options)
{
    haste_layer o;
    int64_t placed = 0, j;
    int i;
    memset(&o, 0, sizeof o);
    o.labels = options->labels;
    o.inputs = options->inputs;
    o.dtype = options->dtype;
    o.state_dtype = options->state_dtype;
    o.loss = options->loss;
    o.optimizer = options->optimizer;
    o.seed = options->seed;
    o.block_count = options->block_count;
    for (i = 0; i < o.block_count; i++) {
        haste_block *block = &o.block[i];
        block->labels = options->block[i].labels;
        block->group_size = options->block[i].group_size;
        block->groups = (block->labels + block->group_size - 1) / block->group_size;
        block->first_slot = o.slots;
        block->begin = options->block[i].begin;
        block->end = options->block[i].end ? options->block[i].end : o.inputs;
        block->fan_in = options->block[i].fan_in == HASTE_DENSE ? block->end - block->begin : options->block[i].fan_in;
        o.slots += block->groups * block->group_size;
    }
    o.label_of = (int32_t *)malloc((size_t)o.slots * sizeof(int32_t));
    o.slot_of = (int32_t *)malloc((size_t)o.labels * sizeof(int32_t));
    if (!o.label_of || !o.slot_of) { shards_free(&o); return 0; }
    for (j = 0; j < o.slots; j++) o.label_of[j] = -1;
    for (i = 0; i < o.block_count; i++)
        for (j = 0; j < o.block[i].labels; j++, placed++) {
            o.label_of[o.block[i].first_slot + j] = options->order[placed];
            o.slot_of[options->order[placed]] = (int32_t)(o.block[i].first_slot + j);
        }
    *outline = o;
    return 1;
}

/* ---- >>cutting ----------------------------------------------------------------------------------------------- */

/* What a group of a block costs in a step: the weights that are read and written. */
static inline double shards_cost(const haste_block *block) { return (double)block->group_size * block->fan_in; }

/* Where the ranges of `parts` processes begin: slots at [parts + 1] (=), from 0 to all. Each has a group or more, and the cuts
   are those nearest to equal costs. 0: there are fewer groups than processes. */
static inline int shards_cut(const haste_layer *outline, int parts, int64_t *at)
{
    double all = 0, before = 0;
    int64_t left = 0, g;
    int i, part = 1;
    for (i = 0; i < outline->block_count; i++) {
        all += (double)outline->block[i].groups * shards_cost(&outline->block[i]);
        left += outline->block[i].groups;
    }
    if (left < parts) return 0;
    at[0] = 0;
    for (i = 0; i < outline->block_count; i++)
        for (g = 0; g < outline->block[i].groups && part < parts; g++) {
            const double cost = shards_cost(&outline->block[i]), wanted = all * part / parts;
            const int64_t slot = outline->block[i].first_slot + g * outline->block[i].group_size;
            /* before this group, where its middle lies behind the wanted cut, or the others are needed for those to come */
            if (slot > at[part - 1] && (before + cost / 2 > wanted || left <= parts - part)) at[part++] = slot;
            before += cost;
            left--;
        }
    at[parts] = outline->slots;
    return 1;
}

/* Which of the ranges a slot lies in. */
static inline int shards_owner(const int64_t *at, int parts, int64_t slot)
{
    int low = 0, high = parts - 1;
    while (low < high) {
        const int middle = (low + high) / 2;
        if (slot < at[middle + 1]) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* The labels of the ranges: id [L] (=), those of the first range first, ascending within each; label [L] (=): the id that each
   label has in its range; first [parts + 1] (=): where those of each begin. */
static inline void shards_ids(const haste_layer *outline, const int64_t *at, int parts, int32_t *id, int32_t *label, int64_t *first)
{
    int64_t l;
    int part;
    for (part = 0; part <= parts; part++) first[part] = 0;
    for (l = 0; l < outline->labels; l++) first[shards_owner(at, parts, outline->slot_of[l]) + 1]++;
    for (part = 0; part < parts; part++) first[part + 1] += first[part];
    for (l = 0; l < outline->labels; l++) {
        part = shards_owner(at, parts, outline->slot_of[l]);
        label[l] = (int32_t)first[part];
        id[first[part]++] = (int32_t)l;
    }
    for (part = parts; part > 0; part--) first[part] = first[part - 1];
    first[0] = 0;
    for (l = 0; l < outline->labels; l++) label[l] -= (int32_t)first[shards_owner(at, parts, outline->slot_of[l])];
}

/* Options (=) that make slots begin .. end - 1, from those of the whole. label: of shards_ids; order, frequency: room for one
   number for each label of the range. */
static inline void shards_options(const haste_layer *outline, const haste_layer_options *whole, int64_t begin, int64_t end,
                                  const int32_t *label, int32_t *order, int64_t *frequency, haste_layer_options *part)
{
    int64_t slot;
    int i;
    *part = *whole;
    memset(part->block, 0, sizeof part->block);
    part->labels = 0;
    part->block_count = 0;
    part->order = order;
    part->frequency = whole->frequency ? frequency : NULL;
    part->first_slot = begin;
    for (i = 0; i < outline->block_count; i++) {
        const haste_block *block = &outline->block[i];
        const int64_t last = block->first_slot + block->groups * block->group_size;
        const int64_t from = begin > block->first_slot ? begin : block->first_slot, to = end < last ? end : last;
        haste_block_options *one = &part->block[part->block_count];
        if (from >= to) {
            if (part->block_count > 0) continue;
            part->first_group += block->groups;
            part->first_block++;
            continue;
        }
        if (part->block_count++ == 0) part->first_group += (from - block->first_slot) / block->group_size;
        one->labels = (to - block->first_slot < block->labels ? to - block->first_slot : block->labels) - (from - block->first_slot);
        one->group_size = block->group_size;
        one->fan_in = block->fan_in;
        one->begin = block->begin;
        one->end = block->end;
    }
    for (slot = begin; slot < end; slot++) {
        const int32_t l = outline->label_of[slot];
        if (l < 0) continue;
        order[part->labels++] = label[l];
        if (whole->frequency) frequency[label[l]] = whole->frequency[l];
    }
}

/* ---- >>columns ----------------------------------------------------------------------------------------------- */

/* nvcc compiles this header too: the columns are packed on the device (train_nccl.cu). */
#ifdef __CUDACC__
    #define SHARDS_DEVICE __host__ __device__
#else
    #define SHARDS_DEVICE
#endif

/* Where the columns of a process begin, of D that are shared out in fours (or sixteens, where there are enough). */
SHARDS_DEVICE static inline int32_t shards_column(int32_t D, int parts, int part)
{
    const int32_t unit = D >= 32 * parts ? 16 : 4, units = (D + unit - 1) / unit;
    const int32_t column = (int32_t)((int64_t)units * part / parts) * unit;
    return column < D ? column : D;
}

/* Between rows [B, D] and the columns of each process, one process after the other: packed [B, columns of the first], and so
   on. */
static inline void shards_pack(const float *rows, int32_t B, int32_t D, int parts, float *packed)
{
    int32_t b;
    int part;
    for (part = 0; part < parts; part++) {
        const int32_t first = shards_column(D, parts, part), n = shards_column(D, parts, part + 1) - first;
        for (b = 0; b < B; b++, packed += n) memcpy(packed, rows + (int64_t)b * D + first, (size_t)n * sizeof(float));
    }
}

static inline void shards_unpack(const float *packed, int32_t B, int32_t D, int parts, float *rows)
{
    int32_t b;
    int part;
    for (part = 0; part < parts; part++) {
        const int32_t first = shards_column(D, parts, part), n = shards_column(D, parts, part + 1) - first;
        for (b = 0; b < B; b++, packed += n) memcpy(rows + (int64_t)b * D + first, packed, (size_t)n * sizeof(float));
    }
}

/* ---- >>a file of ranges -------------------------------------------------------------------------------------- */

enum { SHARDS_ARRAYS = 7 };   /* of a block */

/* Array `which` of a block; NULL where it has none. */
static inline void *shards_array(const haste_block *block, int which)
{
    if (which == 0) return block->index;
    if (which == 1) return block->weight;
    if (which == 2) return block->bias;
    return which < 5 ? block->weight_state[which - 3] : (void *)block->bias_state[which - 5];
}

static inline void shards_set_array(haste_block *block, int which, void *array)
{
    if (which == 0) block->index = (uint16_t *)array;
    else if (which == 1) block->weight = array;
    else if (which == 2) block->bias = (float *)array;
    else if (which < 5) block->weight_state[which - 3] = array;
    else block->bias_state[which - 5] = (float *)array;
}

/* Bytes of a group in array `which`; 0 where the layer has no such array. */
static inline size_t shards_group_bytes(const haste_layer *layer, const haste_block *block, int which)
{
    const size_t S = (size_t)block->group_size, F = (size_t)block->fan_in;
    const int states = (int)layer->optimizer;   /* 0, 1 or 2 */
    if (which == 0) return block->fan_in == block->end - block->begin ? 0 : F * sizeof(uint16_t);
    if (which == 1) return F * S * (layer->dtype == HASTE_BF16 ? 2 : 4);
    if (which == 2) return S * sizeof(float);
    if ((which - 3) % 2 >= states) return 0;
    return which < 5 ? F * S * (layer->state_dtype == HASTE_BF16 ? 2 : 4) : S * sizeof(float);
}

/* Where, in a file that holds the whole layer's arrays one after the other, array `which` of a block begins. The end of them
   is where block `block_count` would begin. */
static inline uint64_t shards_offset(const haste_layer *outline, int number, int which)
{
    uint64_t at = 0;
    int i, k;
    for (i = 0; i < outline->block_count; i++)
        for (k = 0; k < SHARDS_ARRAYS; k++) {
            if (i == number && k == which) return at;
            at += ((uint64_t)outline->block[i].groups * shards_group_bytes(outline, &outline->block[i], k) + 63) / 64 * 64;
        }
    return at;
}

#endif /* SHARDS_H */
