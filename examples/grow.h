/* grow.h: a trained model gets features and labels that it did not have, for haste-train --resume with other documents.
   What was there keeps its numbers, bit for bit. */
#ifndef GROW_H
#define GROW_H

#include "encoder.h"

/* Embeddings of `features` in all, the new ones as those of a new encoder, in memory of their own. The bias stays the
   last row. 0: out of memory, nothing changed. */
static inline int grow_encoder(encoder *e, int32_t features, double scale)
{
    encoder grown = *e;
    const size_t D = (size_t)e->width, old = (size_t)e->features, V = (size_t)features;
    grown.features = features;
    if (features == e->features) return 1;
    if (!encoder_create(&grown, scale)) return 0;
    memcpy(grown.row, e->row, old * D * sizeof(float));
    memcpy(grown.moment, e->moment, old * sizeof(float));
    memcpy(grown.seen, e->seen, old * sizeof(int64_t));
    memcpy(grown.row + V * D, e->row + old * D, D * sizeof(float));
    grown.moment[V] = e->moment[old];
    grown.seen[V] = e->seen[old];
    *e = grown;
    return 1;
}

/* The layer gets n more labels, in its last block: with weights 0, and the prior of their frequency among `samples` as
   bias. 0 with error, nothing changed. */
static inline int grow_layer(haste_layer *layer, int32_t n, const int64_t *frequency, int64_t samples, char *error)
{
    haste_layer grown;
    haste_rows rows;
    haste_error why;
    memset(&rows, 0, sizeof rows);
    rows.frequency = frequency;
    rows.samples = samples;
    if (n == 0) return 1;
    if (haste_labels_add(&grown, layer, layer->block_count - 1, n, &rows, 0, NULL, &why) != HASTE_OK)
        return data_fail(error, "new labels: %s", why.text);
    haste_layer_free(layer);
    *layer = grown;
    return 1;
}

#endif /* GROW_H */
