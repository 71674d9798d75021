/* baseline.c: see baseline.h. */
#define _POSIX_C_SOURCE 200809L
#include "baseline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef BENCH_BLAS
    #include <cblas.h>
#endif
#ifdef BENCH_DNNL
    #include <dnnl.h>
#endif
#ifdef _OPENMP
    #include <omp.h>
#else
    static int  omp_get_thread_num(void) { return 0; }
    static void omp_set_num_threads(int n) { (void)n; }
#endif

#if defined(__AVX512F__)
    #include <immintrin.h>
    #define LANES 16
#elif defined(__AVX__)
    #define LANES 8
#else
    #define LANES 4
#endif
typedef float lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t integers __attribute__((vector_size(LANES * 4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE lanes load(const float *p) { lanes v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, lanes v) { memcpy(p, &v, sizeof v); }

/* To memory at once, where it can be done: what is not read again soon need not go through the caches. */
INLINE void stream(float *p, lanes v)
{
#if defined(__AVX512F__)
    if ((uintptr_t)p % sizeof v == 0) { _mm512_stream_ps(p, (__m512)v); return; }
#endif
    store(p, v);
}

/* bfloat16: the upper half of a float32, rounded to nearest. */
INLINE lanes load_half(const uint16_t *p)
{
    halves h;
    memcpy(&h, p, sizeof h);
    return (lanes)(__builtin_convertvector(h, words) << 16);
}

INLINE void store_half(uint16_t *p, lanes v)
{
    const words bits = (words)v;
    const halves h = __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, halves);
    memcpy(p, &h, sizeof h);
}

/* Sums of neighbours: first those of a, then those of b. Done again and again it turns LANES vectors into the vector of
   their sums. */
#if LANES == 16
    #define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
    #define ODD  1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif LANES == 8
    #define EVEN 0, 2, 4, 6, 8, 10, 12, 14
    #define ODD  1, 3, 5, 7, 9, 11, 13, 15
#else
    #define EVEN 0, 2, 4, 6
    #define ODD  1, 3, 5, 7
#endif
INLINE lanes neighbours(lanes a, lanes b)
{
#ifdef __clang__
    return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
#else
    return __builtin_shuffle(a, b, (integers){ EVEN }) + __builtin_shuffle(a, b, (integers){ ODD });
#endif
}

INLINE lanes sums(lanes *a)
{
    int n, i;
    UNROLL for (n = LANES / 2; n > 0; n /= 2) {
        UNROLL for (i = 0; i < n; i++) a[i] = neighbours(a[2 * i], a[2 * i + 1]);
    }
    return a[0];
}

INLINE float sum(lanes v)
{
    int n;
    UNROLL for (n = LANES / 2; n > 0; n /= 2) v = neighbours(v, v);
    return v[0];
}

/* e^-z: 2^k times a polynomial of the rest, for z from -87 on. Relative error about 1e-7. */
INLINE lanes rest(lanes r)
{
    return 1 - r * (1 - r * (.5f - r * (.166666667f - r * (.0416666667f - r * (.00833333333f - r * .00138888889f)))));
}
#if defined(__AVX512F__)
INLINE lanes larger(lanes a, float least) { return (lanes)_mm512_max_ps((__m512)a, _mm512_set1_ps(least)); }
INLINE lanes power(lanes z)
{
    const lanes k = (lanes)_mm512_roundscale_ps((__m512)(z * -1.44269504f), 8);
    return (lanes)_mm512_scalef_ps((__m512)rest(z + k * .693147181f), (__m512)k);
}
#else
INLINE lanes larger(lanes a, float least)   /* C has no a > b ? a : b for vectors */
{
    const lanes b = (lanes){ 0 } + least;
    const integers more = a > b;
    return (lanes)(((integers)a & more) | ((integers)b & ~more));
}
INLINE lanes power(lanes z)
{
    const lanes s = -larger(-z, -87);
    /* positive before it is cut: rounds to nearest */
    const integers k = __builtin_convertvector(151.5f - s * 1.44269504f, integers) - 151;
    return rest(s + __builtin_convertvector(k, lanes) * .693147181f) * (lanes)((k + 127) << 23);
}
#endif

INLINE lanes sigmoid(lanes z, float B) { return 1 / (B + B * power(larger(z, -87))); }   /* divided by B */

/* ---- fixed fan-in ---------------------------------------------------------------------------------------------- */

enum { VECTORS = 2, RUN = VECTORS * LANES };   /* of one input, for a block of samples */

void fan_in_sizes(fan_in *layer)
{
    layer->run = RUN;
    layer->padded = (layer->B + RUN - 1) / RUN * RUN;
}

int64_t fan_in_scratch(const fan_in *layer) { return (int64_t)FAN_IN_TILE * (layer->F + RUN); }

static void transpose_in(fan_in *layer, const float *x)
{
    const int32_t D = layer->D, run = layer->run;
    int32_t first, d, b;
    #pragma omp parallel for num_threads(layer->threads) private(d, b)
    for (first = 0; first < layer->padded; first += run) {
        float *to = layer->xt + (int64_t)first * D;
        for (d = 0; d < D; d++)
            for (b = 0; b < run; b++) to[d * run + b] = first + b < layer->B ? x[(int64_t)(first + b) * D + d] : 0;
    }
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
    const int32_t D = layer->D, run = layer->run;
    const int64_t n = (int64_t)D * layer->padded;
    int32_t d, b;
    int t;
    #pragma omp parallel for num_threads(layer->threads) private(d, t)
    for (b = 0; b < layer->B; b++)
        for (d = 0; d < D; d++) {
            const int64_t i = (int64_t)(b / run) * run * D + (int64_t)d * run + b % run;
            float g = 0;
            for (t = 0; t < layer->threads; t++) g += layer->grad_xt[t * n + i];
            grad_x[(int64_t)b * D + d] += g;
        }
}

/* z += the products of one label with `count` of its inputs, for a block of samples. Two chains of sums hide the latency. */
INLINE void label_logits(const float *x, const uint16_t *index, const float *weight, const int count, float *z)
{
    lanes a[VECTORS], b[VECTORS];
    int f = 0, i;
    UNROLL for (i = 0; i < VECTORS; i++) { a[i] = load(z + i * LANES); b[i] = a[i] - a[i]; }
    for (; f + 2 <= count; f += 2) {
        const float *x0 = x + index[f] * RUN, *x1 = x + index[f + 1] * RUN;
        const float w0 = weight[f], w1 = weight[f + 1];
        UNROLL for (i = 0; i < VECTORS; i++) { a[i] += w0 * load(x0 + i * LANES); b[i] += w1 * load(x1 + i * LANES); }
    }
    if (f < count) UNROLL for (i = 0; i < VECTORS; i++) a[i] += weight[f] * load(x + index[f] * RUN + i * LANES);
    UNROLL for (i = 0; i < VECTORS; i++) store(z + i * LANES, a[i] + b[i]);
}

/* The gradient of x's rows, += */
INLINE void label_grad_x(float *grad_x, const uint16_t *index, const float *weight, const int count, const float *grad_z)
{
    lanes z[VECTORS];
    int f, i;
    UNROLL for (i = 0; i < VECTORS; i++) z[i] = load(grad_z + i * LANES);
    for (f = 0; f < count; f++) {
        float *row = grad_x + index[f] * RUN;
        UNROLL for (i = 0; i < VECTORS; i++) store(row + i * LANES, load(row + i * LANES) + weight[f] * z[i]);
    }
}

/* The gradients of one label's weights, +=. LANES of them are summed over their samples together. */
INLINE void label_grad_weight(const float *x, const uint16_t *index, float *grad_weight, const int count,
                              const float *grad_z)
{
    lanes z[VECTORS], a[LANES];
    int f = 0, i, j;
    UNROLL for (i = 0; i < VECTORS; i++) z[i] = load(grad_z + i * LANES);
    for (; f < count; f += LANES) {
        const int many = count - f < LANES ? count - f : LANES;
        UNROLL for (j = 0; j < LANES; j++) {
            const float *row = x + index[f + (j < many ? j : 0)] * RUN;
            a[j] = z[0] * load(row);
            UNROLL for (i = 1; i < VECTORS; i++) a[j] += z[i] * load(row + i * LANES);
        }
        a[0] = sums(a);
        if (many == LANES) store(grad_weight + f, load(grad_weight + f) + a[0]);
        else for (j = 0; j < many; j++) grad_weight[f + j] += a[0][j];
    }
}

/* Logits to gradients for one label and the samples from `first` on; their sum is returned. */
INLINE float label_loss(const fan_in *layer, int64_t l, int32_t first, float *z)
{
    const float scale = 1 / (float)layer->B;
    lanes total = { 0 };
    int64_t i;
    int32_t b;
    int j;
    UNROLL for (j = 0; j < VECTORS; j++) store(z + j * LANES, sigmoid(load(z + j * LANES), (float)layer->B));
    for (i = layer->offset[l]; i < layer->offset[l + 1]; i++)
        if (layer->sample[i] >= first && layer->sample[i] < first + RUN) z[layer->sample[i] - first] -= scale;
    for (b = layer->B > first ? layer->B - first : 0; b < RUN; b++) z[b] = 0;
    UNROLL for (j = 0; j < VECTORS; j++) total += load(z + j * LANES);
    return sum(total);
}

/* Does something with MANY inputs of every label of the tile, then with the next ones; at: the first one's place in index
   and weight. Inputs ascend, so those that the tile reads together are a part of all, and more of them are found in the
   first-level cache. */
#define FOR_CHUNKS(MANY, something)                                                                                        \
    for (f = 0; f < F; f += MANY)                                                                                          \
        for (l = begin; l < end; l++) {                                                                                    \
            const int64_t at = l * F + f;                                                                                  \
            float *logits = row + (l - begin) * stride;                                                                    \
            if (f + MANY <= F) { const int count = MANY; something; }                                                      \
            else { const int count = F - f; something; }                                                                   \
        }

/* What belongs to `what`, for a tile of labels, one block of samples after the other. PASS_UPDATE: weight gradient and
   update. */
typedef enum pass { PASS_FORWARD, PASS_LOSS, PASS_GRAD_WEIGHT, PASS_UPDATE, PASS_GRAD_X, PASS_STEP } pass;

INLINE void tile_pass(fan_in *layer, const pass what, int64_t tile, float *z, float lr)
{
    const int32_t F = layer->F, D = layer->D;
    const int64_t begin = tile * FAN_IN_TILE, end = begin + FAN_IN_TILE < layer->L ? begin + FAN_IN_TILE : layer->L;
    const int64_t stride = what == PASS_STEP || what == PASS_FORWARD ? RUN : layer->padded;   /* sums stay in scratch */
    const int forward = what == PASS_FORWARD || what == PASS_STEP, loss = what == PASS_LOSS || what == PASS_STEP;
    const int update = what == PASS_UPDATE || what == PASS_STEP, grad_weight = update || what == PASS_GRAD_WEIGHT;
    const int thread = omp_get_thread_num();
    float *scratch = layer->tile + thread * fan_in_scratch(layer);
    float *grad = what == PASS_GRAD_WEIGHT ? layer->grad_weight + begin * F : scratch + FAN_IN_TILE * RUN;
    float grad_bias[FAN_IN_TILE] = { 0 };
    int32_t first, f;
    int64_t l, i;
    if (grad_weight) memset(grad, 0, (size_t)((end - begin) * F) * sizeof(float));
    for (first = 0; first < layer->padded; first += RUN) {
        const float *x = layer->xt + (int64_t)first * D;
        float *grad_x = layer->grad_xt + (int64_t)thread * D * layer->padded + (int64_t)first * D;
        float *row = what == PASS_STEP || what == PASS_FORWARD ? scratch : z + begin * layer->padded + first;
        if (forward) {
            for (l = begin; l < end; l++)
                for (i = 0; i < RUN; i += LANES) store(row + (l - begin) * stride + i, layer->bias[l] - (lanes){ 0 });
            FOR_CHUNKS(32, label_logits(x, layer->index + at, layer->weight + at, count, logits))
        }
        if (what == PASS_FORWARD)
            for (l = begin; l < end; l++)
                for (i = 0; i < RUN; i += LANES)
                    stream(z + l * layer->padded + first + i, load(row + (l - begin) * RUN + i));
        if (loss)
            for (l = begin; l < end; l++) grad_bias[l - begin] += label_loss(layer, l, first, row + (l - begin) * stride);
        if (what == PASS_GRAD_X || what == PASS_STEP)
            FOR_CHUNKS(32, label_grad_x(grad_x, layer->index + at, layer->weight + at, count, logits))
        if (grad_weight) FOR_CHUNKS(16, label_grad_weight(x, layer->index + at, grad + at - begin * F, count, logits))
    }
    if (update) for (i = 0; i < (end - begin) * F; i++) layer->weight[begin * F + i] -= lr * grad[i];
    if (loss) for (l = begin; l < end; l++) layer->bias[l] -= lr * grad_bias[l - begin];
}

static void all_tiles(fan_in *layer, const pass what, float *z, float lr)
{
    const int64_t tiles = (layer->L + FAN_IN_TILE - 1) / FAN_IN_TILE;
    int64_t tile;
    #pragma omp parallel for num_threads(layer->threads) schedule(static)
    for (tile = 0; tile < tiles; tile++) {
        switch (what) {   /* each with its own code: what is not wanted is not there */
        case PASS_FORWARD:     tile_pass(layer, PASS_FORWARD, tile, z, lr); break;
        case PASS_LOSS:        tile_pass(layer, PASS_LOSS, tile, z, lr); break;
        case PASS_GRAD_WEIGHT: tile_pass(layer, PASS_GRAD_WEIGHT, tile, z, lr); break;
        case PASS_UPDATE:      tile_pass(layer, PASS_UPDATE, tile, z, lr); break;
        case PASS_GRAD_X:      tile_pass(layer, PASS_GRAD_X, tile, z, lr); break;
        case PASS_STEP:        tile_pass(layer, PASS_STEP, tile, z, lr); break;
        }
    }
}

void fan_in_forward(fan_in *layer, const float *x, float *z)
{
    transpose_in(layer, x);
    all_tiles(layer, PASS_FORWARD, z, 0);
}

void fan_in_grad_weight(fan_in *layer, const float *x, const float *z)
{
    transpose_in(layer, x);
    all_tiles(layer, PASS_GRAD_WEIGHT, (float *)(uintptr_t)z, 0);   /* read only */
}

void fan_in_grad_x(fan_in *layer, const float *z, float *grad_x)
{
    clear_gradient(layer);
    all_tiles(layer, PASS_GRAD_X, (float *)(uintptr_t)z, 0);   /* read only */
    transpose_out(layer, grad_x);
}

void fan_in_step(fan_in *layer, const float *x, float lr, float *grad_x)
{
    transpose_in(layer, x);
    clear_gradient(layer);
    all_tiles(layer, PASS_STEP, NULL, lr);
    transpose_out(layer, grad_x);
}

void fan_in_unfused(fan_in *layer, const float *x, float lr, float *z, float *grad_x)
{
    transpose_in(layer, x);
    clear_gradient(layer);
    all_tiles(layer, PASS_FORWARD, z, lr);
    all_tiles(layer, PASS_LOSS, z, lr);
    all_tiles(layer, PASS_GRAD_X, z, lr);
    all_tiles(layer, PASS_UPDATE, z, lr);
    transpose_out(layer, grad_x);
}

/* ---- dense layers: what every library needs -------------------------------------------------------------------- */

enum { COLUMNS = 8192 };   /* logits of a row that are done before the next row: their bias stays in a cache */

INLINE void loss_columns(void *logits, const int bf16, float *bias, int64_t L, int32_t B, int64_t first,
                         const int64_t *offset, const int32_t *sample, float lr)
{
    const int n = (int)(first + COLUMNS < L ? COLUMNS : L - first);
    const float scale = 1 / (float)B;
    float base[COLUMNS] = { 0 }, moved[COLUMNS] = { 0 };
    int32_t b;
    int j;
    int64_t l, i;
    if (bias) memcpy(base, bias + first, (size_t)n * sizeof(float));
    for (b = 0; b < B; b++) {
        float *z = (float *)logits + b * L + first;
        uint16_t *half = (uint16_t *)logits + b * L + first;
        for (j = 0; j + LANES <= n; j += LANES) {
            const lanes v = sigmoid((bf16 ? load_half(half + j) : load(z + j)) + load(base + j), (float)B);
            if (bf16) store_half(half + j, v);
            else store(z + j, v);
            store(moved + j, load(moved + j) + v);
        }
        for (; j < n; j++) {   /* L is not a multiple of LANES */
            float v;
            if (bf16) { uint32_t bits = (uint32_t)half[j] << 16; memcpy(&v, &bits, sizeof v); }
            else v = z[j];
            v = scale / (1 + expf(-v - base[j]));
            if (bf16) to_half(half + j, &v, 1, 1);
            else z[j] = v;
            moved[j] += v;
        }
    }
    for (l = first; l < first + n; l++)
        for (i = offset[l]; i < offset[l + 1]; i++) {
            const int64_t at = sample[i] * L + l;
            float v;
            moved[l - first] -= scale;
            if (!bf16) { ((float *)logits)[at] -= scale; continue; }
            { uint32_t bits = (uint32_t)((uint16_t *)logits)[at] << 16; memcpy(&v, &bits, sizeof v); }
            v -= scale;
            to_half((uint16_t *)logits + at, &v, 1, 1);
        }
    if (bias) for (j = 0; j < n; j++) bias[first + j] -= lr * moved[j];
}

void loss_gradient(void *logits, int bf16, float *bias, int64_t L, int32_t B, int threads, const int64_t *offset,
                   const int32_t *sample, float lr)
{
    int64_t first;
    (void)threads;   /* without OpenMP */
    #pragma omp parallel for num_threads(threads) schedule(static)
    for (first = 0; first < L; first += COLUMNS) {
        if (bf16) loss_columns(logits, 1, bias, L, B, first, offset, sample, lr);
        else loss_columns(logits, 0, bias, L, B, first, offset, sample, lr);
    }
}

void plain_update(float *weight, const float *gradient, int64_t n, float lr, int threads)
{
    int64_t i;
    (void)threads;
    #pragma omp parallel for num_threads(threads)
    for (i = 0; i < n; i++) weight[i] -= lr * gradient[i];
}

void to_half(uint16_t *to, const float *from, int64_t n, int threads)
{
    const int64_t whole = n / LANES * LANES;
    int64_t i;
    (void)threads;
    #pragma omp parallel for num_threads(threads) if (n > 1 << 16)
    for (i = 0; i < whole; i += LANES) store_half(to + i, load(from + i));
    for (i = whole; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        to[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

static void *aligned(int64_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, 64, (size_t)bytes) != 0) { fprintf(stderr, "baseline: out of memory\n"); exit(1); }
    return memory;
}

static void make_gradient(dense *layer)   /* the first time that something asks for it */
{
    if (!layer->grad_weight) layer->grad_weight = aligned(layer->weight_bytes);
}

/* ---- OpenBLAS -------------------------------------------------------------------------------------------------- */

#ifdef BENCH_BLAS
static void blas_forward(const dense *p, const float *x, float *z)
{
    const int L = (int)p->L, B = p->B, K = p->K, lf = p->layout == LAYOUT_LF;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, lf ? CblasTrans : CblasNoTrans, B, L, K, 1, x, K, (float *)p->weight,
                lf ? K : L, 0, z, L);
}

static void blas_grad_x(const dense *p, const float *z, float *grad_x)
{
    const int L = (int)p->L, B = p->B, K = p->K, lf = p->layout == LAYOUT_LF;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, lf ? CblasNoTrans : CblasTrans, B, K, L, 1, z, L, (float *)p->weight,
                lf ? K : L, 0, grad_x, K);
}

/* out = beta*out + alpha*dW */
static void blas_grad_weight(const dense *p, const float *x, const float *z, float alpha, float beta, float *out)
{
    const int L = (int)p->L, B = p->B, K = p->K;
    if (p->layout == LAYOUT_LF)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, L, K, B, alpha, z, L, x, K, beta, out, K);
    else cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, K, L, B, alpha, x, K, z, L, beta, out, L);
}

static int blas_make(dense *p)
{
    p->weight_bytes = p->L * p->K * 4;
    p->fused = 1;
    return p->layout != LAYOUT_PACKED && !p->bf16;
}
static void blas_threads(const dense *p) { openblas_set_num_threads(p->threads); }
static const char *blas_version(void) { return openblas_get_config(); }
#else
static void blas_forward(const dense *p, const float *x, float *z) { (void)p; (void)x; (void)z; }
static void blas_grad_x(const dense *p, const float *z, float *grad_x) { (void)p; (void)z; (void)grad_x; }
static void blas_grad_weight(const dense *p, const float *x, const float *z, float alpha, float beta, float *out)
{
    (void)p; (void)x; (void)z; (void)alpha; (void)beta; (void)out;
}
static int  blas_make(dense *p) { (void)p; return 0; }
static void blas_threads(const dense *p) { (void)p; }
static const char *blas_version(void) { return NULL; }
#endif

static void blas_copy(const dense *p, const float *from, float *to, int set)   /* between [L, K] and the layout */
{
    int64_t l;
    #pragma omp parallel for num_threads(p->threads)
    for (l = 0; l < p->L; l++) {
        int32_t k;
        if (p->layout == LAYOUT_LF) memcpy(to + l * p->K, from + l * p->K, (size_t)p->K * sizeof(float));
        else if (set) for (k = 0; k < p->K; k++) to[k * p->L + l] = from[l * p->K + k];
        else for (k = 0; k < p->K; k++) to[l * p->K + k] = from[k * p->L + l];
    }
}

/* ---- oneDNN ---------------------------------------------------------------------------------------------------- */

#ifdef BENCH_DNNL

/* A primitive, its three operands, and the names it has for them. */
typedef struct product {
    dnnl_primitive_t primitive;
    dnnl_memory_t    memory[3];
    int              name[3];
} product;

struct dense_plan {
    dnnl_engine_t      engine;
    dnnl_stream_t      stream;
    dnnl_memory_desc_t weight, plain;   /* both [K, L], as their strides say */
    product            forward, grad_x, grad_weight, update;
};

static void onednn_must(dnnl_status_t status)
{
    if (status == dnnl_success) return;
    fprintf(stderr, "baseline: oneDNN returned %d\n", (int)status);
    exit(1);
}

static dnnl_memory_desc_t matrix(int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
                                 dnnl_data_type_t type)
{
    dnnl_memory_desc_t d;
    dnnl_dims_t dims = { 0 }, strides = { 0 };
    dims[0] = rows;
    dims[1] = columns;
    strides[0] = row_stride;
    strides[1] = column_stride;
    onednn_must(dnnl_memory_desc_init_by_strides(&d, 2, dims, type, strides));
    return d;
}

/* From an operation's description; takes the operands' layouts from what the library made of it. 0: it has no such
   primitive. */
static int product_make(product *p, dnnl_engine_t engine, const void *description, dnnl_primitive_attr_t attributes,
                        dnnl_primitive_desc_t hint, const int *name, const dnnl_query_t *query, dnnl_primitive_desc_t *keep)
{
    dnnl_primitive_desc_t made;
    int i;
    if (dnnl_primitive_desc_create(&made, description, attributes, engine, hint) != dnnl_success) return 0;
    onednn_must(dnnl_primitive_create(&p->primitive, made));
    for (i = 0; i < 3; i++) {
        p->name[i] = name[i];
        onednn_must(
            dnnl_memory_create(&p->memory[i], dnnl_primitive_desc_query_md(made, query[i], 0), engine, DNNL_MEMORY_NONE));
    }
    if (keep) *keep = made;
    else onednn_must(dnnl_primitive_desc_destroy(made));
    return 1;
}

/* c = scale * a * b, or c += that. */
static int product_of(product *p, dnnl_engine_t engine, dnnl_memory_desc_t a, dnnl_memory_desc_t b, dnnl_memory_desc_t c,
                      float scale, int add)
{
    static const int name[3] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST };
    static const dnnl_query_t query[3] = { dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md };
    dnnl_matmul_desc_t description;
    dnnl_primitive_attr_t attributes;
    dnnl_post_ops_t after;
    int made;
    onednn_must(dnnl_primitive_attr_create(&attributes));
    if (scale != 1) onednn_must(dnnl_primitive_attr_set_output_scales(attributes, 1, 0, &scale));
    if (add) {
        onednn_must(dnnl_post_ops_create(&after));
        onednn_must(dnnl_post_ops_append_sum(after, 1));
        onednn_must(dnnl_primitive_attr_set_post_ops(attributes, after));
        onednn_must(dnnl_post_ops_destroy(after));
    }
    onednn_must(dnnl_matmul_desc_init(&description, &a, &b, NULL, &c));
    made = product_make(p, engine, &description, attributes, NULL, name, query, NULL);
    onednn_must(dnnl_primitive_attr_destroy(attributes));
    return made;
}

static void product_run(const product *p, const struct dense_plan *plan, const void *a, const void *b, void *c)
{
    dnnl_exec_arg_t arg[3];
    int i;
    for (i = 0; i < 3; i++) { arg[i].arg = p->name[i]; arg[i].memory = p->memory[i]; }
    onednn_must(dnnl_memory_set_data_handle(p->memory[0], (void *)(uintptr_t)a));
    onednn_must(dnnl_memory_set_data_handle(p->memory[1], (void *)(uintptr_t)b));
    onednn_must(dnnl_memory_set_data_handle(p->memory[2], c));
    onednn_must(dnnl_primitive_execute(p->primitive, plan->stream, 3, arg));
    onednn_must(dnnl_stream_wait(plan->stream));
}

static void product_free(product *p)
{
    int i;
    if (!p->primitive) return;
    dnnl_primitive_destroy(p->primitive);
    for (i = 0; i < 3; i++) dnnl_memory_destroy(p->memory[i]);
}

/* The three passes of an inner product, on one layout of the weights: the forward pass chooses, the others follow. */
static int inner_products(dense *layer, dnnl_memory_desc_t x, dnnl_memory_desc_t z, dnnl_memory_desc_t grad_x)
{
    static const int forward_name[3] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST };
    static const int grad_x_name[3] = { DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC };
    static const int grad_weight_name[3] = { DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS };
    static const dnnl_query_t forward_query[3] = { dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_dst_md };
    static const dnnl_query_t grad_x_query[3] = { dnnl_query_diff_dst_md, dnnl_query_weights_md, dnnl_query_diff_src_md };
    static const dnnl_query_t grad_weight_query[3] = { dnnl_query_src_md, dnnl_query_diff_dst_md,
                                                       dnnl_query_diff_weights_md };
    struct dense_plan *plan = layer->plan;
    dnnl_inner_product_desc_t description;
    dnnl_memory_desc_t any;
    dnnl_primitive_desc_t hint;
    dnnl_dims_t dims = { 0 };
    int made;
    dims[0] = layer->L;
    dims[1] = layer->K;
    onednn_must(dnnl_memory_desc_init_by_tag(&any, 2, dims, layer->bf16 ? dnnl_bf16 : dnnl_f32, dnnl_format_tag_any));
    onednn_must(dnnl_inner_product_forward_desc_init(&description, dnnl_forward_training, &x, &any, NULL, &z));
    if (!product_make(&plan->forward, plan->engine, &description, NULL, NULL, forward_name, forward_query, &hint)) return 0;
    plan->weight = *dnnl_primitive_desc_query_md(hint, dnnl_query_weights_md, 0);
    onednn_must(dnnl_inner_product_backward_data_desc_init(&description, &grad_x, &plan->weight, &z));
    made = product_make(&plan->grad_x, plan->engine, &description, NULL, hint, grad_x_name, grad_x_query, NULL);
    onednn_must(dnnl_inner_product_backward_weights_desc_init(&description, &x, &plan->weight, NULL, &z));
    made = made && product_make(&plan->grad_weight, plan->engine, &description, NULL, hint, grad_weight_name,
                                grad_weight_query, NULL);
    onednn_must(dnnl_primitive_desc_destroy(hint));
    plan->plain = matrix(layer->L, layer->K, layer->K, 1, dnnl_f32);
    return made;
}

static int onednn_make(dense *layer)
{
    struct dense_plan *plan = (struct dense_plan *)calloc(1, sizeof *plan);
    const dnnl_data_type_t type = layer->bf16 ? dnnl_bf16 : dnnl_f32;
    const int64_t L = layer->L, K = layer->K, B = layer->B;
    const int lf = layer->layout == LAYOUT_LF;
    dnnl_memory_desc_t x, z, grad_x, turned_x, turned_z, weight;
    int made;
    if (!plan) return 0;
    layer->plan = plan;
    onednn_must(dnnl_engine_create(&plan->engine, dnnl_cpu, 0));
    onednn_must(dnnl_stream_create(&plan->stream, plan->engine, dnnl_stream_default_flags));
    x = matrix(B, K, K, 1, type);
    z = matrix(B, L, L, 1, type);
    grad_x = matrix(B, K, K, 1, dnnl_f32);
    turned_x = matrix(K, B, 1, K, type);
    turned_z = matrix(L, B, 1, L, type);
    if (layer->layout == LAYOUT_PACKED) made = inner_products(layer, x, z, grad_x);
    else {
        plan->weight = lf ? matrix(K, L, 1, K, type) : matrix(K, L, L, 1, type);
        plan->plain = matrix(K, L, 1, K, dnnl_f32);
        made = product_of(&plan->forward, plan->engine, x, plan->weight, z, 1, 0);
        weight = lf ? matrix(L, K, K, 1, type) : matrix(L, K, 1, L, type);
        made = made && product_of(&plan->grad_x, plan->engine, z, weight, grad_x, 1, 0);
        if (lf) made = made && product_of(&plan->grad_weight, plan->engine, turned_z, x, weight, 1, 0);
        else made = made && product_of(&plan->grad_weight, plan->engine, turned_x, z, plan->weight, 1, 0);
        if (lf) layer->fused = product_of(&plan->update, plan->engine, turned_z, x, weight, -layer->lr, 1);
        else layer->fused = product_of(&plan->update, plan->engine, turned_x, z, plan->weight, -layer->lr, 1);
    }
    layer->weight_bytes = (int64_t)dnnl_memory_desc_get_size(&plan->weight);
    if (layer->bf16) layer->half = (uint16_t *)aligned(B * K * 2);
    return made;
}

static void onednn_copy(const dense *layer, const void *from, void *to, int set)
{
    const struct dense_plan *plan = layer->plan;
    const dnnl_memory_desc_t *a = set ? &plan->plain : &plan->weight, *b = set ? &plan->weight : &plan->plain;
    dnnl_primitive_desc_t made;
    dnnl_primitive_t reorder;
    dnnl_exec_arg_t arg[2];
    onednn_must(dnnl_reorder_primitive_desc_create(&made, a, plan->engine, b, plan->engine, NULL));
    onednn_must(dnnl_primitive_create(&reorder, made));
    arg[0].arg = DNNL_ARG_FROM;
    arg[1].arg = DNNL_ARG_TO;
    onednn_must(dnnl_memory_create(&arg[0].memory, a, plan->engine, (void *)(uintptr_t)from));
    onednn_must(dnnl_memory_create(&arg[1].memory, b, plan->engine, to));
    onednn_must(dnnl_primitive_execute(reorder, plan->stream, 2, arg));
    onednn_must(dnnl_stream_wait(plan->stream));
    dnnl_memory_destroy(arg[0].memory);
    dnnl_memory_destroy(arg[1].memory);
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(made);
}

static const void *onednn_x(dense *layer, const float *x)
{
    if (!layer->bf16) return x;
    to_half(layer->half, x, (int64_t)layer->B * layer->K, layer->threads);
    return layer->half;
}

/* A product's operands in its order: matmul takes x^T z for [K, L] and z^T x for [L, K]; the inner product x, then z. */
static void onednn_weights(const dense *layer, const product *p, const void *x, const void *z, void *out)
{
    const int z_first = layer->layout == LAYOUT_LF;
    product_run(p, layer->plan, z_first ? z : x, z_first ? x : z, out);
}

static void onednn_forward(dense *p, const float *x, void *z)
{
    product_run(&p->plan->forward, p->plan, onednn_x(p, x), p->weight, z);
}
static void onednn_grad_x(dense *p, const void *z, float *grad_x)
{
    product_run(&p->plan->grad_x, p->plan, z, p->weight, grad_x);
}
static void onednn_grad_weight(dense *p, const float *x, const void *z)
{
    onednn_weights(p, &p->plan->grad_weight, onednn_x(p, x), z, p->grad_weight);
}
static void onednn_fused(dense *p, const float *x, const void *z)
{
    onednn_weights(p, &p->plan->update, onednn_x(p, x), z, p->weight);
}

static void onednn_free(dense *layer)
{
    struct dense_plan *plan = layer->plan;
    if (!plan) return;
    product_free(&plan->forward);
    product_free(&plan->grad_x);
    product_free(&plan->grad_weight);
    product_free(&plan->update);
    dnnl_stream_destroy(plan->stream);
    dnnl_engine_destroy(plan->engine);
    free(plan);
    layer->plan = NULL;
}

static const char *onednn_version(void)
{
    static char text[32];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "%d.%d.%d", v->major, v->minor, v->patch);
    return text;
}
#else
static int  onednn_make(dense *p) { (void)p; return 0; }
static void onednn_copy(const dense *p, const void *from, void *to, int set) { (void)p; (void)from; (void)to; (void)set; }
static void onednn_forward(dense *p, const float *x, void *z) { (void)p; (void)x; (void)z; }
static void onednn_grad_x(dense *p, const void *z, float *grad_x) { (void)p; (void)z; (void)grad_x; }
static void onednn_grad_weight(dense *p, const float *x, const void *z) { (void)p; (void)x; (void)z; }
static void onednn_fused(dense *p, const float *x, const void *z) { (void)p; (void)x; (void)z; }
static void onednn_free(dense *p) { (void)p; }
static const char *onednn_version(void) { return NULL; }
#endif

/* ---- dense layers, either library ------------------------------------------------------------------------------ */

const char *library_version(library which) { return which == OPENBLAS ? blas_version() : onednn_version(); }

static void use_threads(const dense *layer)   /* oneDNN takes OpenMP's, OpenBLAS has its own */
{
    omp_set_num_threads(layer->threads);
    if (layer->library == OPENBLAS) blas_threads(layer);
}

int dense_make(dense *layer)
{
    if (!library_version(layer->library)) return 0;
    use_threads(layer);
    if (!(layer->library == OPENBLAS ? blas_make(layer) : onednn_make(layer))) { dense_free(layer); return 0; }
    layer->weight = aligned(layer->weight_bytes);
    return 1;
}

void dense_free(dense *layer)
{
    onednn_free(layer);
    free(layer->weight);
    free(layer->grad_weight);
    free(layer->half);
    layer->weight = layer->grad_weight = NULL;
    layer->half = NULL;
}

void dense_set(dense *layer, const float *plain)
{
    use_threads(layer);
    if (layer->library == OPENBLAS) blas_copy(layer, plain, (float *)layer->weight, 1);
    else onednn_copy(layer, plain, layer->weight, 1);
}

void dense_get(dense *layer, int gradient, float *plain)
{
    const void *from = gradient ? layer->grad_weight : layer->weight;
    use_threads(layer);
    if (layer->library == OPENBLAS) blas_copy(layer, (const float *)from, plain, 0);
    else onednn_copy(layer, from, plain, 0);
}

void dense_forward(dense *layer, const float *x, void *logits)
{
    use_threads(layer);
    if (layer->library == OPENBLAS) blas_forward(layer, x, (float *)logits);
    else onednn_forward(layer, x, logits);
}

void dense_grad_weight(dense *layer, const float *x, const void *grad_logits)
{
    use_threads(layer);
    make_gradient(layer);
    if (layer->library == OPENBLAS)
        blas_grad_weight(layer, x, (const float *)grad_logits, 1, 0, (float *)layer->grad_weight);
    else onednn_grad_weight(layer, x, grad_logits);
}

void dense_grad_x(dense *layer, const void *grad_logits, float *grad_x)
{
    use_threads(layer);
    if (layer->library == OPENBLAS) blas_grad_x(layer, (const float *)grad_logits, grad_x);
    else onednn_grad_x(layer, grad_logits, grad_x);
}

/* n is a multiple of LANES */
static void half_update(uint16_t *weight, const uint16_t *gradient, int64_t n, float lr, int threads)
{
    int64_t i;
    (void)threads;
    #pragma omp parallel for num_threads(threads)
    for (i = 0; i < n; i += LANES) store_half(weight + i, load_half(weight + i) - lr * load_half(gradient + i));
}

void dense_step(dense *layer, const float *x, void *logits, float *grad_x)
{
    dense_forward(layer, x, logits);
    loss_gradient(logits, layer->bf16, layer->bias, layer->L, layer->B, layer->threads, layer->offset, layer->sample,
                  layer->lr);
    dense_grad_x(layer, logits, grad_x);
    if (!layer->fused) {
        dense_grad_weight(layer, x, logits);
        if (layer->bf16)
            half_update((uint16_t *)layer->weight, (const uint16_t *)layer->grad_weight, layer->weight_bytes / 2, layer->lr,
                        layer->threads);
        else
            plain_update((float *)layer->weight, (const float *)layer->grad_weight, layer->weight_bytes / 4, layer->lr,
                         layer->threads);
    } else if (layer->library == OPENBLAS)
        blas_grad_weight(layer, x, (const float *)logits, -layer->lr, 1, (float *)layer->weight);
    else onednn_fused(layer, x, logits);
}

double dense_added(const dense *layer)
{
    return (double)layer->B * (double)layer->L * (layer->bf16 ? 2 : 4) + (layer->fused ? 0 : (double)layer->weight_bytes) +
           (layer->bf16 ? (double)layer->B * layer->K * 2 : 0);
}

/* ---- ceilings -------------------------------------------------------------------------------------------------- */

double bench_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { CHAINS = 10 };   /* independent sums: more than the latency of a multiply-add times two units */

/* Factor and summand are two unknowns: -ffast-math makes a * m + m an addition and a multiplication, (a + 1) * m. */
static float fma_loop(int64_t rounds, float factor, float summand)
{
    const lanes m = factor - (lanes){ 0 }, n = summand - (lanes){ 0 };
    lanes a[CHAINS];
    int64_t i;
    int k;
    for (k = 0; k < CHAINS; k++) a[k] = m + (float)k;
    for (i = 0; i < rounds; i++) {
        UNROLL for (k = 0; k < CHAINS; k++) a[k] = a[k] * m + n;
    }
    for (k = 1; k < CHAINS; k++) a[0] += a[k];
    return sum(a[0]);
}

double fma_flops(int64_t rounds, int threads) { return 2.0 * CHAINS * LANES * (double)rounds * threads; }

void run_fma(int64_t rounds, int threads)
{
    volatile float keep = .5f;
    int t;
    #pragma omp parallel for num_threads(threads)
    for (t = 0; t < threads; t++) {
        float result = fma_loop(rounds, keep, keep);
        if (result == 12345) keep = result;
    }
}

/* bytes: a multiple of 4 vectors for each thread, else the rest is left out */
void run_read(const char *from, int64_t bytes, int threads)
{
    const int64_t step = 4 * (int64_t)sizeof(lanes), part = bytes / threads / step * step;
    volatile float keep = 0;
    int t;
    #pragma omp parallel for num_threads(threads)
    for (t = 0; t < threads; t++) {
        const float *p = (const float *)(const void *)(from + t * part);
        lanes a = { 0 }, b = a, c = a, d = a;
        int64_t i;
        for (i = 0; i < part / 4; i += 4 * LANES) {
            a += load(p + i);
            b += load(p + i + LANES);
            c += load(p + i + 2 * LANES);
            d += load(p + i + 3 * LANES);
        }
        if (sum(a + b + c + d) == 12345) keep = 1;
    }
    (void)keep;
}

void run_copy(char *to, const char *from, int64_t bytes, int threads)
{
    int t;
    #pragma omp parallel for num_threads(threads)
    for (t = 0; t < threads; t++) {
        int64_t first = bytes * t / threads, last = bytes * (t + 1) / threads;
        memcpy(to + first, from + first, (size_t)(last - first));
    }
}
