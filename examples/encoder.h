/* encoder.h: an embedding bag, the smallest encoder of sparse documents, for the example programs.

       h = drop(act(bias + sum over features j of a document: value[j] * row[j]))        [D]

   act is relu or nothing; drop zeroes a share of h in training and scales the rest up. Trained with Adam without momentum
   (beta1 = 0): a row changes only in steps whose batch has the feature, and its second moment then catches up with the steps
   between. Adam's momentum would go on moving a rare feature's row for some ten steps after its document; a version that applies
   momentum only to the rows at hand moves such rows ten times too little, and cost 2.5 points of P@1 on held-out documents of
   win32-seealso. The second moment is one number for a row, the mean square of its gradient, so that a row moves along its gradient:
   with one for each element a rare feature's row takes the gradient's signs alone, which cost .9, 1.3 and .8 points of P@1, P@3 and
   P@5 there. One thread per document forward, one per feature
   backward, sums in the order of the documents: the same bits for any number of threads.

   An encoder may also be a slice of one: some columns of all rows (first, columns), with the numbers that the whole has there.
   All that crosses slices is the sum of squares of a row's gradient: encoder_backward then takes three steps, encoder_mask,
   encoder_row_gradient and encoder_adam, with the sums of all slices in between (train_mpi.c, train_nccl.cu). */
#ifndef ENCODER_H
#define ENCODER_H

#include "data.h"

#ifdef _OPENMP
    #include <omp.h>
#endif

/* sqrtf may set errno, which keeps loops with it from being vectorised; nothing here reads errno. */
#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
    #pragma GCC push_options
    #pragma GCC optimize("no-math-errno")
#endif

typedef struct encoder {
    int32_t  features, width;               /* V, D */
    int32_t  first, columns;                /* of a slice: where in a row it begins, a multiple of 4, and what a whole row
                                               has; columns 0: this is the whole */
    int      relu;
    double   dropout;
    uint64_t seed;
    int      threads;
    int64_t  step;                          /* updates so far: Adam's t, and the counter of dropout */
    float   *row;                           /* [V + 1, D] embeddings; row V is the bias */
    float   *moment;                        /* [V + 1] their second moments */
    int64_t *seen;                          /* [V + 1] the step that a row last changed in */

    /* What backward needs, grown to the largest batch. */
    int32_t *count;                         /* [V] pairs of each feature in the batch; 0 between calls */
    int32_t *touched;                       /* the features of the batch */
    int64_t *start;                         /* where each one's pairs begin */
    int32_t *sample;                        /* pairs, feature by feature */
    float   *value;
    float   *gradient;                      /* [threads, D] */
    int64_t  pairs, touched_room, start_room, sample_room, value_room;
} encoder;

/* nvcc compiles this header too: encoder_cuda.cuh draws the same numbers on the device. */
#ifdef __CUDACC__
    #define ENCODER_DEVICE __host__ __device__
#else
    #define ENCODER_DEVICE
#endif

ENCODER_DEVICE static inline uint64_t encoder_random(uint64_t seed, uint64_t stream, uint64_t position)
{
    uint64_t z = seed * UINT64_C(0x9e3779b97f4a7c15) + stream;
    int i;
    for (i = 0; i < 2; i++) {
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        z ^= z >> 31;
        if (i == 0) z += (position + 1) * UINT64_C(0x9e3779b97f4a7c15);
    }
    return z;
}

/* Bytes of row; 0 where they overflow. */
static inline size_t encoder_bytes(int32_t features, int32_t width)
{
    uint64_t count = ((uint64_t)features + 1) * (uint64_t)width;
    return count > SIZE_MAX / sizeof(float) ? 0 : (size_t)count * sizeof(float);
}

/* Columns of a whole row. */
static inline int32_t encoder_columns(const encoder *e) { return e->columns ? e->columns : e->width; }

static inline size_t encoder_moment_bytes(int32_t features) { return ((size_t)features + 1) * sizeof(float); }

static inline void encoder_free(encoder *e)
{
    free(e->row);
    free(e->moment);
    free(e->seen);
    free(e->count);
    free(e->touched);
    free(e->start);
    free(e->sample);
    free(e->value);
    free(e->gradient);
    memset(e, 0, sizeof *e);
}

/* Scratch for training, beside embeddings that were made (encoder_create) or read. 0: out of memory. */
static inline int encoder_scratch(encoder *e)
{
    if (e->threads < 1) e->threads = 1;
    e->count = (int32_t *)calloc((size_t)e->features, sizeof(int32_t));
    e->gradient = (float *)malloc((size_t)e->threads * (size_t)e->width * sizeof(float));
    return e->count && e->gradient;
}

/* Embeddings uniform in +-scale, bias and moments 0, without scratch. features, width, seed, threads etc. are set by the caller.
   0: out of memory. */
static inline int encoder_create(encoder *e, double scale)
{
    const size_t bytes = encoder_bytes(e->features, e->width), rows = (size_t)e->features + 1, D = (size_t)e->width;
    size_t r, d;
    e->row = bytes ? (float *)malloc(bytes) : NULL;
    e->moment = (float *)calloc(rows, sizeof(float));
    e->seen = (int64_t *)calloc(rows, sizeof(int64_t));
    if (!e->row || !e->moment || !e->seen) { encoder_free(e); return 0; }
    for (r = 0; r + 1 < rows; r++)
        for (d = 0; d < D; d++) {
            const uint64_t i = (uint64_t)r * (uint64_t)encoder_columns(e) + (uint64_t)e->first + (uint64_t)d;
            e->row[r * D + d] = (float)(scale * ((double)(encoder_random(e->seed, 1, i) >> 40) / 8388608.0 - 1));
        }
    memset(e->row + r * D, 0, D * sizeof(float));
    return 1;
}

/* Sixteen random bits decide on each element, the same ones forward and backward. */
static inline void encoder_drop(const encoder *e, int32_t sample, float *h)
{
    uint64_t limit = (uint64_t)(e->dropout * 65536), bits = 0;
    float scale = (float)(65536.0 / (double)(65536 - limit));
    int32_t d;
    for (d = 0; d < e->width; d++) {
        if (d % 4 == 0) bits = encoder_random(e->seed + 2 + (uint64_t)e->step, (uint64_t)sample, (uint64_t)(e->first + d));
        h[d] *= (bits & 65535) < limit ? 0 : scale;
        bits >>= 16;
    }
}

/* h [B, D] (=) of the documents named; training: with dropout. */
static inline void encoder_forward(const encoder *e, const data_set *data, const int64_t *document, int32_t B, int training, float *h)
{
    const int32_t D = e->width;
    int32_t b;
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->threads) schedule(static)
#endif
    for (b = 0; b < B; b++) {
        float *out = h + (int64_t)b * D;
        int64_t j;
        int32_t d;
        memcpy(out, e->row + (int64_t)e->features * D, (size_t)D * sizeof(float));
        for (j = data->feature_offset[document[b]]; j < data->feature_offset[document[b] + 1]; j++) {
            const float *row = e->row + (int64_t)data->feature[j] * D;
            const float value = data->value[j];
            for (d = 0; d < D; d++) out[d] += value * row[d];
        }
        if (e->relu) for (d = 0; d < D; d++) out[d] = out[d] > 0 ? out[d] : 0;
        if (training && e->dropout > 0) encoder_drop(e, b, out);
    }
}

/* The sum of squares of a row's gradient. Sixteen sums, that they may be one register. */
static inline double encoder_squares(const encoder *e, const float *gradient)
{
    const int32_t D = e->width;
    float sum[16] = { 0 };
    double total = 0;
    int32_t d, i;
    for (d = 0; d + 16 <= D; d += 16)
        for (i = 0; i < 16; i++) sum[i] += gradient[d + i] * gradient[d + i];
    for (; d < D; d++) sum[d % 16] += gradient[d] * gradient[d];
    for (i = 0; i < 16; i++) total += sum[i];
    return total;
}

/* One row's step from its gradient, whose squares are `total`. `correct` is Adam's bias correction. */
static inline void encoder_adam(const encoder *e, int64_t r, const float *gradient, double total, float lr, float correct)
{
    const int32_t D = e->width;
    float *row = e->row + r * D, rate;
    int32_t d;
    e->moment[r] = (float)(pow(.999, (double)(e->step - e->seen[r])) * e->moment[r] + .001 * total / encoder_columns(e));
    e->seen[r] = e->step;
    rate = lr / (sqrtf(e->moment[r] * correct) + 1e-8f);
#ifdef _OPENMP
    #pragma omp simd
#endif
    for (d = 0; d < D; d++) row[d] -= rate * gradient[d];
}

/* Orders the pairs of a batch by feature: touched, start, sample and value. Returns how many features it has; -1: out of
   memory. */
static inline int64_t encoder_order(encoder *e, const data_set *data, const int64_t *document, int32_t B)
{
    int64_t pairs = 0, rows = 0, i, j;
    int32_t b;
    for (b = 0; b < B; b++) pairs += data->feature_offset[document[b] + 1] - data->feature_offset[document[b]];
    if (!data_reserve((void **)&e->touched, &e->touched_room, pairs, sizeof(int32_t)) ||
        !data_reserve((void **)&e->start, &e->start_room, pairs + 1, sizeof(int64_t)) ||
        !data_reserve((void **)&e->sample, &e->sample_room, pairs, sizeof(int32_t)) ||
        !data_reserve((void **)&e->value, &e->value_room, pairs, sizeof(float)))
        return -1;

    /* Count, then place. count becomes each feature's next place. */
    for (b = 0; b < B; b++)
        for (j = data->feature_offset[document[b]]; j < data->feature_offset[document[b] + 1]; j++)
            if (e->count[data->feature[j]]++ == 0) e->touched[rows++] = data->feature[j];
    for (i = 0, pairs = 0; i < rows; i++) {
        int32_t n = e->count[e->touched[i]];
        e->start[i] = pairs;
        e->count[e->touched[i]] = (int32_t)pairs;
        pairs += n;
    }
    e->start[rows] = pairs;
    for (b = 0; b < B; b++)
        for (j = data->feature_offset[document[b]]; j < data->feature_offset[document[b] + 1]; j++) {
            const int32_t place = e->count[data->feature[j]]++;
            e->sample[place] = b;
            e->value[place] = data->value[j];
        }
    for (i = 0; i < rows; i++) e->count[e->touched[i]] = 0;
    return rows;
}

/* Adam's bias correction after so many steps. */
static inline float encoder_correction(int64_t step) { return (float)(1 / (1 - pow(.999, (double)step))); }

/* grad_h [B, D] (in, out): from d loss / d h to the gradient before dropout and activation. */
static inline void encoder_mask(const encoder *e, int32_t B, const float *h, float *grad_h)
{
    const int32_t D = e->width;
    int32_t b, d;
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->threads) schedule(static) private(d)
#endif
    for (b = 0; b < B; b++) {
        float *g = grad_h + (int64_t)b * D;
        if (e->dropout > 0) encoder_drop(e, b, g);
        if (e->relu) for (d = 0; d < D; d++) g[d] = h[(int64_t)b * D + d] > 0 ? g[d] : 0;
    }
}

/* The gradient (=) of the i-th of `rows` rows that a batch touches; the last, i = rows, is the bias. Returns the row. */
static inline int64_t encoder_row_gradient(const encoder *e, int64_t i, int64_t rows, int32_t B, const float *grad_h, float *gradient)
{
    const int32_t D = e->width;
    int64_t j;
    int32_t d;
    memset(gradient, 0, (size_t)D * sizeof(float));
    if (i == rows) {   /* in every document, with value 1 */
        for (j = 0; j < B; j++)
            for (d = 0; d < D; d++) gradient[d] += grad_h[j * D + d];
        return e->features;
    }
    for (j = e->start[i]; j < e->start[i + 1]; j++) {
        const float *g = grad_h + (int64_t)e->sample[j] * D, value = e->value[j];
        for (d = 0; d < D; d++) gradient[d] += value * g[d];
    }
    return e->touched[i];
}

/* From h and d loss / d h of the same documents (overwritten): one update of their embeddings and of the bias.
   0: out of memory, nothing changed. */
static inline int encoder_backward(encoder *e, const data_set *data, const int64_t *document, int32_t B, const float *h, float *grad_h,
                                   float lr)
{
    const int64_t rows = encoder_order(e, data, document, B);
    int64_t i;
    float correct;

    if (rows < 0) return 0;
    encoder_mask(e, B, h, grad_h);
    e->step++;
    correct = encoder_correction(e->step);
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->threads) schedule(dynamic, 32)
#endif
    for (i = 0; i <= rows; i++) {
#ifdef _OPENMP
        float *gradient = e->gradient + (int64_t)omp_get_thread_num() * e->width;
#else
        float *gradient = e->gradient;
#endif
        const int64_t r = encoder_row_gradient(e, i, rows, B, grad_h, gradient);
        encoder_adam(e, r, gradient, encoder_squares(e, gradient), lr, correct);
    }
    return 1;
}

#if defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
    #pragma GCC pop_options
#endif

#endif /* ENCODER_H */
