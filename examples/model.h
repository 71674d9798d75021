/* model.h: what haste-train keeps in a model file beside the layer, and haste-predict takes from it.

       encoder.shape    a model_shape
       encoder          [V + 1, D] embeddings, the last row the bias; absent with dense inputs.
                        Or encoder.bf16, the same rounded
       encoder.moment   [V + 1] their second moments, to go on training; [V + 1, D] in models of version 0.1
       encoder.seen     [V + 1] int64: the step each row last changed in
       idf              [V] weights of features
       mean             [V] their means, where values are standardised
       vocabulary       a vocabulary_shape; absent in models of version 0.1, where documents are numbered features
       words            the features' words, each with a newline, where documents are text that is not hashed
       labels           the labels' names, each with a newline, where they have some
       frequency        [L] int64: training documents of each label
       settings         the options that made the model, as text
       progress         a model_progress
       run              the name of the training run, as text; absent in models of version 0.1
       history          report_points (report.h) of the run so far; likewise */
#ifndef MODEL_H
#define MODEL_H

#include "haste.h"
#include "encoder.h"
#include "schedule.h"
#include "vocabulary.h"

#define MODEL_VERSION  2     /* 1 where values are not standardised */
#define MODEL_STANDARD 2
#define MODEL_MOST     (INT64_C(1) << 53)   /* documents or steps: far more than anybody has, and no sum overflows */

typedef struct model_shape {
    int64_t version;
    int64_t features, width;     /* V, D */
    int64_t dense;               /* 1: inputs come as dense rows; there is no encoder */
    int64_t relu;
    int64_t tfidf, unit;         /* how values are weighted: data_weigh; tfidf MODEL_STANDARD: data_standardise */
    int64_t documents;           /* of the training split */
} model_shape;

typedef struct model_progress {
    int64_t  step, encoder_step; /* updates done */
    int64_t  moved;              /* inputs moved by rewiring in this epoch so far */
    uint64_t fingerprint;        /* of the training documents */
    double   loss;               /* sum over the samples of this epoch so far */
    double   seconds;            /* of training so far */
    /* since version 0.2 */
    int64_t  epoch, seen;        /* epochs done; samples of this one so far */
    int64_t  watch;              /* 1: the documents held out say how long to train */
    int64_t  joined;             /* the step from which they are trained on too; 0: not yet */
    schedule plan;
} model_progress;

#define MODEL_PROGRESS_OLD offsetof(model_progress, epoch)

/* One section more to save. */
static inline void model_add(haste_section *section, int32_t *count, const char *name, const void *data, size_t bytes)
{
    haste_section *s = &section[(*count)++];
    memset(s, 0, sizeof *s);
    memcpy(s->name, name, strlen(name));
    s->data = data;
    s->bytes = bytes;
}

static inline void model_add_vocabulary(haste_section *section, int32_t *count, const vocabulary *v)
{
    model_add(section, count, "vocabulary", &v->shape, sizeof v->shape);
    if (v->words.count) model_add(section, count, "words", v->words.text, (size_t)v->words.offset[v->words.count]);
    if (v->labels.count) model_add(section, count, "labels", v->labels.text, (size_t)v->labels.offset[v->labels.count]);
}

/* A section of exactly so many bytes; NULL with a message otherwise. */
static inline const void *model_section(const haste_file *file, const char *name, uint64_t bytes, const char *path,
                                        char *error)
{
    const haste_section *section = haste_file_find(file, name);
    if (!section) { data_fail(error, "%s: no section '%s': not a model of haste-train", path, name); return NULL; }
    if (bytes != 0 && section->bytes != bytes) {
        data_fail(error, "%s: section '%s' has %llu bytes; expected %llu", path, name,
                  (unsigned long long)section->bytes, (unsigned long long)bytes);
        return NULL;
    }
    return section->data;
}

/* The shape, checked against the layer. */
static inline int model_read_shape(const haste_file *file, const char *path, model_shape *shape, char *error)
{
    const void *bytes = model_section(file, "encoder.shape", sizeof *shape, path, error);
    if (!bytes) return 0;
    memcpy(shape, bytes, sizeof *shape);
    if (shape->version < 1 || shape->version > MODEL_VERSION)
        return data_fail(error, "%s: encoder of version %lld; expected 1 to %d", path, (long long)shape->version,
                         MODEL_VERSION);
    if ((shape->dense | 1) != 1 || (shape->relu | 1) != 1 || (shape->unit | 1) != 1 ||
        ((shape->tfidf | 1) != 1 && (shape->tfidf != MODEL_STANDARD || shape->version < 2 || shape->unit || shape->dense)))
        return data_fail(error, "%s: an encoder whose switches are neither 0 nor 1", path);
    if (shape->features < 0 || shape->features > INT32_MAX || shape->width != file->layer.inputs ||
        shape->documents < 1 || shape->documents > MODEL_MOST)
        return data_fail(error, "%s: an encoder of %lld features and width %lld does not fit a layer of %ld inputs",
                         path, (long long)shape->features, (long long)shape->width, (long)file->layer.inputs);
    return 1;
}

/* What training goes on from, checked: checksums are right in a file that was forged, too. */
static inline int model_read_progress(const haste_file *file, const char *path, model_progress *progress, char *error)
{
    const haste_section *section = haste_file_find(file, "progress");
    const int is_old = section && section->bytes == MODEL_PROGRESS_OLD;
    const size_t bytes = is_old ? MODEL_PROGRESS_OLD : sizeof *progress;
    const void *kept = model_section(file, "progress", bytes, path, error);
    const schedule *plan = &progress->plan;
    if (!kept) return 0;
    memset(progress, 0, sizeof *progress);
    memcpy(progress, kept, bytes);
    if (progress->step < 0 || progress->step > MODEL_MOST || progress->encoder_step < 0 ||
        progress->encoder_step > MODEL_MOST || progress->moved < 0 || progress->moved > INT64_MAX / 2 ||
        !(progress->loss >= 0 && progress->loss <= 1e300) || !(progress->seconds >= 0 && progress->seconds <= 1e300))
        return data_fail(error, "%s: progress that makes no sense: step %lld, encoder %lld, %g seconds", path,
                         (long long)progress->step, (long long)progress->encoder_step, progress->seconds);
    if (progress->epoch < 0 || progress->epoch > 1000000 || progress->seen < 0 || progress->seen > MODEL_MOST ||
        (progress->watch | 1) != 1 || progress->joined < 0 || progress->joined > progress->step || !schedule_good(plan))
        return data_fail(error, "%s: a plan of training that makes no sense: epoch %lld, %lld steps of %lld", path,
                         (long long)progress->epoch, (long long)progress->step, (long long)plan->total);
    return 1;
}

/* The encoder to train on: rows, moments and steps in the file, which the caller changes there, checked likewise. Of a
   model of version 0.1, which has a moment for each number, a row gets the mean of its moments, in the same place. */
static inline int model_read_training(const haste_file *file, const char *path, const model_shape *shape, int64_t step,
                                      encoder *bag, char *error)
{
    const haste_section *section = haste_file_find(file, "encoder.moment");
    const size_t bytes = encoder_bytes((int32_t)shape->features, (int32_t)shape->width);
    const size_t rows = (size_t)shape->features + 1, D = (size_t)shape->width;
    const size_t moments = section && section->bytes == bytes ? bytes : encoder_moment_bytes((int32_t)shape->features);
    size_t i, d;
    bag->row = (float *)(uintptr_t)model_section(file, "encoder", bytes, path, error);
    if (!bag->row) return 0;
    bag->moment = (float *)(uintptr_t)model_section(file, "encoder.moment", moments, path, error);
    if (!bag->moment) return 0;
    bag->seen = (int64_t *)(uintptr_t)model_section(file, "encoder.seen", rows * sizeof(int64_t), path, error);
    if (!bag->seen) return 0;
    for (i = 0; i < bytes / sizeof(float); i++)
        if (!(bag->row[i] - bag->row[i] == 0))
            return data_fail(error, "%s: number %lld of the encoder is not finite", path, (long long)i);
    for (i = 0; i < moments / sizeof(float); i++)
        if (!(bag->moment[i] >= 0 && bag->moment[i] <= 1e38f))
            return data_fail(error, "%s: moment %lld of the encoder is negative, or not finite", path, (long long)i);
    for (i = 0; i < rows; i++)
        if (bag->seen[i] < 0 || bag->seen[i] > step)
            return data_fail(error, "%s: row %lld of the encoder changed in step %lld of %lld", path,
                             (long long)i, (long long)bag->seen[i], (long long)step);
    for (i = 0; i < rows && moments == bytes; i++) {
        double sum = 0;
        for (d = 0; d < D; d++) sum += bag->moment[i * D + d];
        bag->moment[i] = (float)(sum / (double)D);
    }
    return 1;
}

/* The encoder to predict with: rows in the file, or in *rows, which the caller frees, where they are kept as
   bfloat16. */
static inline int model_read_encoder(const haste_file *file, const char *path, const model_shape *shape, encoder *bag,
                                     float **rows, char *error)
{
    const size_t bytes = encoder_bytes((int32_t)shape->features, (int32_t)shape->width);
    bag->features = (int32_t)shape->features;
    bag->width = (int32_t)shape->width;
    bag->relu = shape->relu != 0;
    *rows = NULL;
    if (shape->dense) return 1;
    if (haste_file_find(file, "encoder.bf16")) {
        const uint16_t *half = (const uint16_t *)model_section(file, "encoder.bf16", bytes / 2, path, error);
        size_t i;
        if (!half) return 0;
        *rows = (float *)malloc(bytes);
        if (!*rows) return data_fail(error, "%s: out of memory for the embeddings", path);
        for (i = 0; i < bytes / sizeof(float); i++) {
            const uint32_t bits = (uint32_t)half[i] << 16;
            memcpy(*rows + i, &bits, sizeof bits);
        }
        bag->row = *rows;
    } else bag->row = (float *)(uintptr_t)model_section(file, "encoder", bytes, path, error);
    return bag->row != NULL;
}

/* The vocabulary, checked against the layer and the encoder. */
static inline int model_read_vocabulary(const haste_file *file, const char *path, const model_shape *shape,
                                        vocabulary *v, char *error)
{
    const haste_section *words = haste_file_find(file, "words"), *labels = haste_file_find(file, "labels");
    vocabulary_shape kept;
    const void *bytes;
    if (!haste_file_find(file, "vocabulary")) {
        vocabulary_ids(v, shape->features, file->layer.labels);
        return 1;
    }
    bytes = model_section(file, "vocabulary", sizeof kept, path, error);
    if (!bytes) return 0;
    memcpy(&kept, bytes, sizeof kept);
    if (kept.labels != file->layer.labels || kept.features != shape->features)
        return data_fail(error, "%s: a vocabulary of %lld features and %lld labels; expected %lld and %ld", path,
                         (long long)kept.features,
                         (long long)kept.labels, (long long)shape->features, (long)file->layer.labels);
    return vocabulary_read(v, &kept, words ? (const char *)words->data : NULL, words ? words->bytes : 0,
                           labels ? (const char *)labels->data : NULL, labels ? labels->bytes : 0, path, error);
}

/* Brings documents into the form that the model was trained on. mean: NULL unless values are standardised. 0: out of memory. */
static inline int model_weigh(data_set *data, const model_shape *shape, const float *weight, const float *mean)
{
    if (shape->dense) {
        if (shape->unit) data_unit_rows(data);
        return 1;
    }
    data->features = (int32_t)shape->features;
    if (shape->tfidf == MODEL_STANDARD) return data_standardise(data, weight, mean);
    data_weigh(data, weight, (int)shape->tfidf, (int)shape->unit);
    return 1;
}

#endif /* MODEL_H */
