/* baseline.c: see baseline.h. */
#define _POSIX_C_SOURCE 200809L
#include "baseline.h"

#include <math.h>
#include <string.h>
#include <time.h>
#ifdef BENCH_BLAS
    #include <cblas.h>
#endif
#ifdef _OPENMP
    #include <omp.h>
#else
    static int omp_get_thread_num(void) { return 0; }
#endif

#if defined(__AVX512F__)
    #define LANES 16
#elif defined(__AVX__)
    #define LANES 8
#else
    #define LANES 4
#endif
typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4)));
typedef float four __attribute__((vector_size(16)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE lanes load(const float *p) { lanes v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, lanes v) { memcpy(p, &v, sizeof v); }

INLINE float sum(lanes v)
{
    four a, b;
#if LANES == 16
    typedef float eight __attribute__((vector_size(32)));
    eight half[2];
    memcpy(half, &v, sizeof v);
    half[0] += half[1];
    memcpy(&a, &half[0], sizeof a);
    memcpy(&b, (const char *)&half[0] + sizeof a, sizeof b);
    a += b;
#elif LANES == 8
    memcpy(&a, &v, sizeof a);
    memcpy(&b, (const char *)&v + sizeof a, sizeof b);
    a += b;
#else
    a = v;
    (void)b;
#endif
    return (a[0] + a[1]) + (a[2] + a[3]);
}

INLINE lanes below(lanes a, lanes most)   /* the smaller one; C has no a < b ? a : b for vectors */
{
    const integers smaller = a < most;
    return (lanes)(((integers)a & smaller) | ((integers)most & ~smaller));
}

/* z = sigmoid(z) * scale; n is a multiple of LANES. e^t by halving t's range and a polynomial: relative error about 1e-7. */
INLINE void sigmoid(float *z, int n, float scale)
{
    int i;
    for (i = 0; i < n; i += LANES) {
        lanes t = -load(z + i), r, p;
        integers k;
        t = below(t, (lanes){ 0 } + 87);
        t = -below(-t, (lanes){ 0 } + 87);
        k = __builtin_convertvector(t * 1.44269504f + 151.5f, integers) - 151;   /* positive before it is cut: rounds to nearest */
        r = t - __builtin_convertvector(k, lanes) * .693147181f;
        p = 1 + r * (1 + r * (.5f + r * (.166666667f + r * (.0416666667f + r * (.00833333333f + r * .00138888889f)))));
        store(z + i, scale / (1 + p * (lanes)((k + 127) << 23)));
    }
}

/* ---- fixed fan-in ---------------------------------------------------------------------------------------------- */

static void transpose_in(fan_in *layer, const float *x)
{
    const int32_t D = layer->D, padded = layer->padded;
    int32_t d, b;
    #pragma omp parallel for num_threads(layer->threads) private(b)
    for (d = 0; d < D; d++)
        for (b = 0; b < padded; b++) layer->xt[(int64_t)d * padded + b] = b < layer->B ? x[(int64_t)b * D + d] : 0;
}

static void clear_gradient(fan_in *layer)
{
    const int64_t n = (int64_t)layer->D * layer->padded;
    int t;
    #pragma omp parallel for num_threads(layer->threads)
    for (t = 0; t < layer->threads; t++) memset(layer->grad_xt + t * n, 0, (size_t)n * sizeof(float));
}

static void transpose_out(fan_in *layer, float *grad_x)
{
    const int32_t D = layer->D, padded = layer->padded;
    const int64_t n = (int64_t)D * padded;
    int32_t d, b;
    int t;
    #pragma omp parallel for num_threads(layer->threads) private(d, t)
    for (b = 0; b < layer->B; b++)
        for (d = 0; d < D; d++) {
            float g = 0;
            for (t = 0; t < layer->threads; t++) g += layer->grad_xt[t * n + (int64_t)d * padded + b];
            grad_x[(int64_t)b * D + d] += g;
        }
}

/* Logits of one label for n * LANES samples, all in registers. Two chains of sums, where n is small, hide the latency. */
INLINE void label_logits(const float *xt, int32_t padded, const uint16_t *index, const float *weight, int32_t F, float bias, const int n, float *z)
{
    lanes a[FAN_IN_MOST / LANES], b[FAN_IN_MOST / LANES];
    int32_t f = 0;
    int i;
    UNROLL for (i = 0; i < n; i++) { a[i] = bias - (lanes){ 0 }; b[i] = a[i] - a[i]; }
    for (; f + 2 <= F; f += 2) {
        const float *x0 = xt + (int64_t)index[f] * padded, *x1 = xt + (int64_t)index[f + 1] * padded;
        const float w0 = weight[f], w1 = weight[f + 1];
        UNROLL for (i = 0; i < n; i++) { a[i] += w0 * load(x0 + i * LANES); b[i] += w1 * load(x1 + i * LANES); }
    }
    if (f < F) {
        const float *x0 = xt + (int64_t)index[f] * padded;
        UNROLL for (i = 0; i < n; i++) a[i] += weight[f] * load(x0 + i * LANES);
    }
    UNROLL for (i = 0; i < n; i++) store(z + i * LANES, a[i] + b[i]);
}

/* Both gradients of one label. change: 0, then grad [F] is set; else weight is updated by it. */
INLINE void label_gradients(const float *xt, float *grad_xt, int32_t padded, const uint16_t *index, float *weight, float *grad, int32_t F,
                            const float *z, const int n, const int update, float lr)
{
    int32_t f;
    int i;
    for (f = 0; f < F; f++) {
        const float *x0 = xt + (int64_t)index[f] * padded, w = weight[f];
        float *g0 = grad_xt + (int64_t)index[f] * padded, g;
        lanes a = { 0 }, b = { 0 };
        UNROLL for (i = 0; i < n; i += 2) {
            lanes z0 = load(z + i * LANES), z1 = load(z + (i + 1) * LANES);
            a += z0 * load(x0 + i * LANES);
            b += z1 * load(x0 + (i + 1) * LANES);
            store(g0 + i * LANES, load(g0 + i * LANES) + w * z0);
            store(g0 + (i + 1) * LANES, load(g0 + (i + 1) * LANES) + w * z1);
        }
        g = sum(a + b);
        if (update) weight[f] = w - lr * g;
        else grad[f] = g;
    }
}

/* The batch is cut into runs of 64 samples (forward) that fit the registers; gradients take all samples of a label at once. */
INLINE void logits_of(const fan_in *layer, int64_t l, float *z)
{
    const uint16_t *index = layer->index + l * layer->F;
    const float *weight = layer->weight + l * layer->F;
    int32_t b = 0;
    for (; b + 64 <= layer->padded; b += 64) label_logits(layer->xt + b, layer->padded, index, weight, layer->F, layer->bias[l], 64 / LANES, z + b);
    for (; b < layer->padded; b += 32) label_logits(layer->xt + b, layer->padded, index, weight, layer->F, layer->bias[l], 32 / LANES, z + b);
}

INLINE void gradients_of(const fan_in *layer, int64_t l, float *grad_xt, const float *z, const int update, float lr)
{
    const uint16_t *index = layer->index + l * layer->F;
    float *weight = layer->weight + l * layer->F, *grad = layer->grad_weight + l * layer->F;
    const int32_t P = layer->padded, F = layer->F;
    if (P == 32) label_gradients(layer->xt, grad_xt, P, index, weight, grad, F, z, 32 / LANES, update, lr);
    else if (P == 64) label_gradients(layer->xt, grad_xt, P, index, weight, grad, F, z, 64 / LANES, update, lr);
    else if (P == 96) label_gradients(layer->xt, grad_xt, P, index, weight, grad, F, z, 96 / LANES, update, lr);
    else label_gradients(layer->xt, grad_xt, P, index, weight, grad, F, z, 128 / LANES, update, lr);
}

void fan_in_forward(fan_in *layer, const float *x, float *z)
{
    int64_t l;
    transpose_in(layer, x);
    #pragma omp parallel for num_threads(layer->threads) schedule(static)
    for (l = 0; l < layer->L; l++) logits_of(layer, l, z + l * layer->padded);
}

void fan_in_backward(fan_in *layer, const float *x, const float *z, float *grad_x)
{
    const int64_t n = (int64_t)layer->D * layer->padded;
    int64_t l;
    transpose_in(layer, x);
    clear_gradient(layer);
    #pragma omp parallel for num_threads(layer->threads) schedule(static)
    for (l = 0; l < layer->L; l++)
        gradients_of(layer, l, layer->grad_xt + omp_get_thread_num() * n, z + l * layer->padded, 0, 0);
    transpose_out(layer, grad_x);
}

void fan_in_step(fan_in *layer, const float *x, float lr, float *grad_x)
{
    const int64_t n = (int64_t)layer->D * layer->padded;
    const float scale = 1 / (float)layer->B;
    int64_t l;
    transpose_in(layer, x);
    clear_gradient(layer);
    #pragma omp parallel for num_threads(layer->threads) schedule(static)
    for (l = 0; l < layer->L; l++) {
        float z[FAN_IN_MOST], g = 0;
        int64_t i;
        int32_t b;
        logits_of(layer, l, z);
        sigmoid(z, layer->padded, scale);
        for (i = layer->offset[l]; i < layer->offset[l + 1]; i++) z[layer->sample[i]] -= scale;
        for (b = layer->B; b < layer->padded; b++) z[b] = 0;
        for (b = 0; b < layer->padded; b++) g += z[b];
        gradients_of(layer, l, layer->grad_xt + omp_get_thread_num() * n, z, 1, lr);
        layer->bias[l] -= lr * g;
    }
    transpose_out(layer, grad_x);
}

/* ---- a BLAS ---------------------------------------------------------------------------------------------------- */

#ifdef BENCH_BLAS
int blas_found(void) { return 1; }

void blas_forward(blas_layer *layer, const float *x, float *logits)
{
    const int L = (int)layer->L, B = layer->B, F = layer->F;
    int b;
    openblas_set_num_threads(layer->threads);
    for (b = 0; b < B; b++) memcpy(logits + (int64_t)b * L, layer->bias, (size_t)L * sizeof(float));
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, B, L, F, 1, x, F, layer->weight, L, 1, logits, L);
}

void blas_backward(blas_layer *layer, const float *x, const float *grad_logits, float *grad_x)
{
    const int L = (int)layer->L, B = layer->B, F = layer->F;
    openblas_set_num_threads(layer->threads);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, F, L, B, 1, x, F, grad_logits, L, 0, layer->grad_weight, L);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, B, F, L, 1, grad_logits, L, layer->weight, L, 1, grad_x, F);
}

void blas_step(blas_layer *layer, const float *x, float lr, float *logits, float *grad_x)
{
    const int64_t L = layer->L, n = L * layer->F;
    const int B = layer->B;
    const float scale = 1 / (float)B;
    int64_t l, i;
    int b;
    blas_forward(layer, x, logits);
    #pragma omp parallel for num_threads(layer->threads)
    for (b = 0; b < B; b++) sigmoid(logits + b * L, (int)L, scale);
    for (l = 0; l < L; l++)
        for (i = layer->offset[l]; i < layer->offset[l + 1]; i++) logits[layer->sample[i] * L + l] -= scale;
    blas_backward(layer, x, logits, grad_x);
    #pragma omp parallel for num_threads(layer->threads)
    for (i = 0; i < n; i++) layer->weight[i] -= lr * layer->grad_weight[i];
    for (b = 0; b < B; b++)
        for (l = 0; l < L; l++) layer->bias[l] -= lr * logits[b * L + l];
}
#else
int  blas_found(void) { return 0; }
void blas_forward(blas_layer *layer, const float *x, float *logits) { (void)layer; (void)x; (void)logits; }
void blas_backward(blas_layer *layer, const float *x, const float *g, float *grad_x) { (void)layer; (void)x; (void)g; (void)grad_x; }
void blas_step(blas_layer *layer, const float *x, float lr, float *logits, float *grad_x)
{
    (void)layer; (void)x; (void)lr; (void)logits; (void)grad_x;
}
#endif

/* ---- ceilings -------------------------------------------------------------------------------------------------- */

double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static float fma_loop(int64_t rounds, float seed)
{
    lanes a[10], m = seed - (lanes){ 0 };
    int64_t i;
    int k;
    for (k = 0; k < 10; k++) a[k] = m + (float)k;
    for (i = 0; i < rounds; i++) {
        UNROLL for (k = 0; k < 10; k++) a[k] = a[k] * m + m;
    }
    for (k = 1; k < 10; k++) a[0] += a[k];
    return sum(a[0]);
}

double ceiling_fma(int threads)
{
    const int64_t rounds = 20000000 / LANES;
    double best = 0;
    volatile float keep = .5f;
    int r;
    for (r = 0; r < 5; r++) {
        double begin = bench_seconds(), rate;
        int t;
        #pragma omp parallel for num_threads(threads)
        for (t = 0; t < threads; t++) {
            float result = fma_loop(rounds, keep);
            if (result == 12345) keep = result;
        }
        rate = 2.0 * 10 * LANES * (double)rounds * threads / (bench_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

double ceiling_copy(int threads, char *to, const char *from, int64_t bytes)
{
    double best = 0;
    int r;
    for (r = 0; r < 5; r++) {
        double begin = bench_seconds(), rate;
        int t;
        #pragma omp parallel for num_threads(threads)
        for (t = 0; t < threads; t++) {
            int64_t first = bytes * t / threads, last = bytes * (t + 1) / threads;
            memcpy(to + first, from + first, (size_t)(last - first));
        }
        rate = 2.0 * (double)bytes / (bench_seconds() - begin) * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}
