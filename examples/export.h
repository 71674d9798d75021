/* export.h: a model without what only training needs, for haste-train --export: optimizer state, the encoder's moments,
   progress. In float32 it predicts the same; in bfloat16 it is half as large again. */
#ifndef EXPORT_H
#define EXPORT_H

#include "model.h"

#define EXPORT_BATCH 256

/* Rounded to the nearest bfloat16, ties to even. Weights are finite. */
static inline uint16_t export_round(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Writes it. sections: those of the whole model. 0 with error. */
static inline int export_model(const char *path, const haste_layer *layer, const haste_section *sections, int32_t count,
                               int bf16, char *error)
{
    static const char *const training[] = { "encoder.moment", "encoder.seen", "progress", "history" };
    haste_section section[HASTE_MAX_SECTIONS];
    haste_layer plain = *layer;
    haste_error why;
    haste_status status;
    uint16_t *rounded = NULL;
    int32_t kept = 0, i;
    size_t k;
    for (i = 0; i < count; i++) {
        haste_section *s = &section[kept];
        for (k = 0; k < 4 && strcmp(sections[i].name, training[k]) != 0; k++) { }
        if (k < 4) continue;
        *s = sections[i];
        kept++;
        if (!bf16 || strcmp(s->name, "encoder") != 0) continue;
        s->bytes = sections[i].bytes / 2;
        rounded = (uint16_t *)malloc((size_t)s->bytes);
        if (!rounded) return data_fail(error, "out of memory for the embeddings");
        for (k = 0; k < s->bytes / 2; k++) rounded[k] = export_round(((const float *)sections[i].data)[k]);
        memcpy(s->name, "encoder.bf16", sizeof "encoder.bf16");
        s->data = rounded;
    }
    plain.optimizer = HASTE_SGD;
    for (i = 0; i < plain.block_count; i++) {
        haste_block *block = &plain.block[i];
        for (k = 0; k < 2; k++) {
            block->weight_state[k] = NULL;
            block->bias_state[k] = NULL;
        }
    }
    status = haste_save(path, &plain, bf16 ? HASTE_BF16 : layer->dtype, section, kept, &why);
    free(rounded);
    return status == HASTE_OK ? 1 : data_fail(error, "%s", why.text);
}

/* P@1 of the model at `path` on n documents, weighed already, in percent. 0 with error. */
static inline int export_precision(const char *path, const data_set *data, const int64_t *document, int64_t n,
                                   int threads, double *precision, char *error)
{
    haste_file file;
    haste_workspace work;
    haste_workspace_options options;
    haste_error why;
    model_shape shape;
    encoder bag;
    float *x = NULL, *rows = NULL;
    int32_t best[EXPORT_BATCH], b, B;
    int64_t i, j, right = 0;
    int ok = 0;
    memset(&options, 0, sizeof options);
    memset(&work, 0, sizeof work);
    memset(&bag, 0, sizeof bag);
    options.batch = EXPORT_BATCH;
    options.top_k = 1;
    options.threads = threads;
    if (haste_load(path, 0, &file, &why) != HASTE_OK) return data_fail(error, "%s", why.text);
    if (haste_workspace_create(&work, &file.layer, &options, &why) != HASTE_OK) data_fail(error, "%s", why.text);
    else if (model_read_shape(&file, path, &shape, error) &&
             model_read_encoder(&file, path, &shape, &bag, &rows, error)) {
        bag.threads = threads;
        x = (float *)malloc(EXPORT_BATCH * (size_t)shape.width * sizeof(float));
        if (!(ok = x != NULL)) data_fail(error, "out of memory");
    }
    for (i = 0; i < n && ok; i += EXPORT_BATCH) {
        B = (int32_t)(n - i < EXPORT_BATCH ? n - i : EXPORT_BATCH);
        if (!shape.dense) encoder_forward(&bag, data, document + i, B, 0, x);
        else for (b = 0; b < B; b++)
            memcpy(x + (int64_t)b * shape.width, data->dense + document[i + b] * data->width,
                   (size_t)shape.width * sizeof(float));
        if (haste_top_k(&file.layer, &work, x, B, 1, NULL, best, NULL, &why) != HASTE_OK)
            ok = data_fail(error, "%s: %s", path, why.text);
        for (b = 0; b < B && ok; b++)
            for (j = data->label_offset[document[i + b]]; j < data->label_offset[document[i + b] + 1]; j++)
                right += data->label[j] == best[b];
    }
    *precision = n > 0 ? 100 * (double)right / (double)n : 0;
    haste_workspace_free(&work);
    haste_file_free(&file);
    free(rows);
    free(x);
    return ok;
}

#endif /* EXPORT_H */
