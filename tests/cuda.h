// cuda.h: what the tests of haste_cuda.cuh share: every operation is compared with the double references of haste.h, on odd
// shapes, with poisoned outputs.
//
// A program tests one subject matter, and links with haste_cuda.o:
//     int main(int argc, char **argv)
//     { if (!cuda_begin(argc, argv)) return check_end(); RUN(subject); ... return check_end(); }
// Without a device it says so and passes. Alone, `build/tests/test_cuda_x NAME` runs only the subjects whose name contains
// NAME.
#ifndef CUDA_H
#define CUDA_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cuda_runtime.h>

#define HASTE_IMPLEMENTATION
#include "haste_cuda.cuh"
#include "check.h"
#include "layers.h"

// With its seconds, so that a run that is cut off shows what ran.
#undef RUN
#define RUN(subject)                                                                                            \
    do {                                                                                                        \
        if (!check_filter || strstr(#subject, check_filter)) {                                                  \
            const double begin = seconds();                                                                     \
            check_subject = #subject;                                                                           \
            subject();                                                                                          \
            printf("    %-16s %6.2f s, %d checks so far\n", #subject, seconds() - begin, check_count);          \
        }                                                                                                       \
    } while (0)
static inline double seconds()
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Is there a device? Else this is said.
static inline int cuda_begin(int argc, char **argv)
{
    int devices = 0;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    check_begin(argc, argv);
    if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return 1;
    cudaGetLastError();
    CHECK(haste_cuda_supported(&test_error) == HASTE_ERR_DEVICE && test_error.text[0]);
    printf("no device: skipped\n");
    return 0;
}

static inline void must(cudaError_t result, const char *what)
{
    if (result == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(result));
    exit(1);
}

#define MUST(call) must((call), #call)

enum { GUARD = 256 };

// n bytes on the device, all 0xff (NaN), with guard bytes after them.
static inline void *device_bytes(size_t n)
{
    void *p = NULL;
    MUST(cudaMalloc(&p, n + GUARD));
    MUST(cudaMemset(p, 0xff, n + GUARD));
    return p;
}

static inline void *device_copy(const void *from, size_t n)
{
    void *p = device_bytes(n);
    if (n) MUST(cudaMemcpy(p, from, n, cudaMemcpyHostToDevice));
    return p;
}

// Back to the host, freed on the device; checks the guard.
static inline void *host_copy(const void *from, size_t n)
{
    char *p = (char *)test_alloc(n + GUARD);
    size_t i;
    int whole = 1;
    MUST(cudaMemcpy(p, from, n + GUARD, cudaMemcpyDeviceToHost));
    for (i = n; i < n + GUARD; i++) whole &= (unsigned char)p[i] == 0xff;
    CHECK(whole);
    return p;
}

static inline void *host_take(void *from, size_t n)
{
    void *p = host_copy(from, n);
    MUST(cudaFree(from));
    return p;
}

static inline uint16_t to_bf16(float value)   // to nearest
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float round_bf16(float value) { return test_from_bf16(to_bf16(value)); }

static inline float round_stochastic(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return test_from_bf16((uint16_t)((bits + (uint32_t)(check_random() & 0xffff)) >> 16));
}

static inline uint16_t to_f16(float value)   // to nearest; normal numbers and 0 only
{
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits < 0x38800000) return (uint16_t)sign;
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}

static inline float from_f16(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x8000) << 16;
    float value;
    if (half & 0x7fff) bits |= ((uint32_t)(half & 0x7fff) << 13) + 0x38000000;
    memcpy(&value, &bits, 4);
    return value;
}

// n numbers as an array of `type` on the device; what was lost in rounding is lost in `numbers` too.
static inline void *device_numbers(float *numbers, size_t n, haste_cuda_type type)
{
    uint16_t *half = (uint16_t *)test_alloc(n * 2);
    void *p;
    size_t i;
    if (type == HASTE_CUDA_F32) { free(half); return device_copy(numbers, n * 4); }
    for (i = 0; i < n; i++) {
        half[i] = type == HASTE_CUDA_BF16 ? to_bf16(numbers[i]) : to_f16(numbers[i]);
        numbers[i] = type == HASTE_CUDA_BF16 ? test_from_bf16(half[i]) : from_f16(half[i]);
    }
    p = device_copy(half, n * 2);
    free(half);
    return p;
}

// A device array of float32 or bfloat16, as floats on the host; freed on the device.
static inline float *take_numbers(void *from, size_t n, haste_cuda_type type)
{
    void *raw = host_take(from, n * (type == HASTE_CUDA_F32 ? 4 : 2));
    float *out;
    size_t i;
    if (type == HASTE_CUDA_F32) return (float *)raw;
    out = (float *)test_alloc(n * 4);
    for (i = 0; i < n; i++) out[i] = test_from_bf16(((uint16_t *)raw)[i]);
    free(raw);
    return out;
}

static inline float rounded_to(haste_cuda_type type,
                               float value) { return type == HASTE_CUDA_BF16 ? round_bf16(value) : value; }

static inline haste_cuda_layer upload(const haste_layer *layer)
{
    haste_cuda_layer dev;
    memset(&dev, 0, sizeof dev);
    if (haste_cuda_upload(&dev, layer, NULL, NULL, &test_error) != HASTE_OK)
        { printf("no layer: %s\n", test_error.text); exit(1); }
    return dev;
}

/* Does a path take a block, by the words of haste_cuda_path? 1, 0, or -1: a slice whose width is on the edge. Apart from what
   the header decides, so that a path which refuses what it should take does not pass unseen. */
static inline int path_takes(const haste_layer *layer, int k, haste_cuda_path path)
{
    const haste_block *block = &layer->block[k];
    const int32_t S = block->group_size, F = block->fan_in, width = block->end - block->begin;
    int device, shared;
    if (path == HASTE_CUDA_GENERAL) return 1;
    if (layer->dtype != HASTE_BF16) return 0;
    if (path == HASTE_CUDA_WIDE) return (S == 32 || S == 64 || S == 128) && F % 16 == 0;
    if (!block->index || (S != 16 && S != 32)) return 0;
    if (F != 16 && F != 32 && F != 48 && F != 64 && F != 96 && F != 128) return 0;
    // 32 samples and their gradient, and four warps' weights and states
    MUST(cudaGetDevice(&device));
    MUST(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    return 192 * width + 84000 <= shared ? 1 : 192 * width + 8000 <= shared ? -1 : 0;
}

/* Has this build, on this device, the kernels of a path? Asked about a block that it takes. */
static inline int has_path(haste_cuda_path path)
{
    static uint16_t any;
    haste_cuda_layer layer;
    memset(&layer, 0, sizeof layer);
    layer.dtype = HASTE_BF16;
    layer.inputs = 64;
    layer.block_count = 1;
    layer.path[0] = path;
    layer.block[0].groups = 1;
    layer.block[0].labels = layer.block[0].group_size = layer.block[0].fan_in = 32;
    layer.block[0].end = 64;
    layer.block[0].index = &any;   // not read
    return haste_cuda_path_of(&layer, NULL, 0, 64, NULL) == path;
}

// On a path, where it takes all blocks (narrow: dense ones may be wide); else general.
static inline haste_cuda_layer upload_for(const haste_layer *layer, haste_cuda_path path, int32_t B)
{
    int takes = 1, built = 1;
    haste_cuda_layer dev;
    haste_cuda_options options;
    int32_t k;
    memset(&options, 0, sizeof options);
    options.batch = B;
    for (k = 0; k < layer->block_count; k++) options.path[k] = path;
    if (path == HASTE_CUDA_NARROW)
        for (k = 0; k < layer->block_count; k++) if (!layer->block[k].index) options.path[k] = HASTE_CUDA_WIDE;
    for (k = 0; k < layer->block_count; k++) {
        const int one = path_takes(layer, k, options.path[k]);
        if (takes > 0 || one == 0) takes = one;
    }
    if (haste_cuda_upload(&dev, layer, &options, NULL, &test_error) == HASTE_OK) { CHECK(takes != 0); return dev; }
    for (k = 0; k < layer->block_count; k++) built &= has_path(options.path[k]);
    CHECK(takes != 1 || !built);
    for (k = 0; k < layer->block_count; k++) options.path[k] = HASTE_CUDA_GENERAL;
    CHECK_STATUS(haste_cuda_upload(&dev, layer, &options, NULL, &test_error), HASTE_OK, test_error);
    return dev;
}

static inline haste_cuda_workspace workspace(const haste_cuda_layer *layer, int32_t batch, int deterministic)
{
    haste_cuda_workspace work;
    haste_cuda_workspace_options options;
    memset(&options, 0, sizeof options);
    options.batch = batch;
    options.ids = 100000;
    options.top_k = 64;
    options.deterministic = deterministic;
    options.chunks = layer->inputs > 10000 ? 2 : 5;
    if (haste_cuda_workspace_create(&work, layer, &options, &test_error) != HASTE_OK)
        { printf("no workspace: %s\n", test_error.text); exit(1); }
    return work;
}

static inline haste_cuda_lists device_lists(const test_batch *batch)
{
    haste_cuda_lists lists;
    lists.offset = (const int64_t *)device_copy(batch->offset, ((size_t)batch->B + 1) * 8);
    lists.id = (const int32_t *)device_copy(batch->id, (size_t)batch->offset[batch->B] * 4);
    lists.on_host = 0;
    return lists;
}

// Their address, good until the end of the statement.
static inline const haste_cuda_lists *lists_of(const haste_cuda_lists &lists) { return &lists; }

// Options of a search without these labels, or NULL; likewise.
static inline const haste_cuda_search_options *without(const haste_cuda_lists *excluded, haste_cuda_search_options &&o = {})
{
    o.excluded = excluded;
    return excluded ? &o : NULL;
}

static inline void free_lists(haste_cuda_lists lists) { cudaFree((void *)lists.offset); cudaFree((void *)lists.id); }

static inline haste_cuda_lists host_lists(const test_batch *batch)
{
    haste_cuda_lists lists;
    lists.offset = batch->offset;
    lists.id = batch->id;
    lists.on_host = 1;
    return lists;
}

// bfloat16 weights go with x and logit gradients rounded to bfloat16, and sums in float32.
static inline float *naive_x(const haste_layer *layer, const test_batch *batch)
{
    size_t n = (size_t)batch->B * (size_t)layer->inputs, i;
    float *x = (float *)test_alloc(n * 4);
    for (i = 0; i < n; i++) x[i] = layer->dtype == HASTE_BF16 ? round_bf16(batch->x[i]) : batch->x[i];
    return x;
}

/* test_judge, but for bfloat16 with few numbers: there the naive version may be lucky with all of them, so that its errors
   have a 16th of
   the largest value's last bit as their floor. */
static inline int judge(haste_dtype dtype, const test_errors *got, const test_errors *naive, const char *what, int line)
{
    test_errors floored = *naive;
    double least = naive->scale * 0x1p-13;
    if (dtype == HASTE_BF16 && naive->n < 200) {
        if (floored.largest < least) floored.largest = least;
        if (floored.square < least * least * (double)naive->n) floored.square = least * least * (double)naive->n;
    }
    return test_judge(got, &floored, what, line);
}

static inline void naive_round(const haste_layer *layer, float *grad, size_t n)
{
    size_t i;
    for (i = 0; i < n && layer->dtype == HASTE_BF16; i++) grad[i] = round_bf16(grad[i]);
}

// Shapes of the panel kernels, and of the streaming ones on every order of weights: units of 16 and 32 labels, parts of
// groups, chunks of inputs, short last groups, slices, dense heads, and general blocks between them.
static const test_shape panel_shapes[] = {
    { "S 16, F 64",       1003, 200, 1, { { 0,  16,  64, 0, 0 } }, 1 },
    { "S 16, F 48",        333, 128, 1, { { 0,  16,  48, 0, 0 } }, 1 },
    { "S 16, F 128",       600, 384, 1, { { 0,  16, 128, 0, 0 } }, 0 },
    { "S 32, F 64",        700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
    { "S 32, F 96",        333, 256, 1, { { 0,  32,  96, 16, 208 } }, 1 },
    { "S 48, F 32",        200, 100, 1, { { 0,  48,  32, 0, 0 } }, 1 },
    { "S 64, F 128",      1000, 160, 1, { { 0,  64, 128, 0, 0 } }, 1 },
    { "S 128, F 48",       300, 200, 1, { { 0, 128,  48, 8, 200 } }, 1 },
    { "S 64, F 208",       500, 400, 1, { { 0,  64, 208, 0, 0 } }, 1 },
    { "dense and S 32",    900, 208, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 32, 80, 16, 208 } }, 1 },
    { "dense and S 16",    800, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 16, 32, 144, 288 } }, 1 },
    { "general between",   290,  96, 4, { { 40, 8, HASTE_DENSE, 0, 40 }, { 100, 16, 16, 8, 90 }, { 50, 32, 20, 0, 0 },
                                          { 0, 32, 32, 30, 94 } }, 1 },
    { "9 labels",            9,  64, 1, { { 0,  32,  16, 0, 0 } }, 1 } };

enum { PANEL_SHAPES = sizeof panel_shapes / sizeof panel_shapes[0] };

// One layer of each shape, on each path that takes all of its blocks.
static inline int upload_on(haste_cuda_layer *dev, const haste_layer *layer, int path, int32_t B)
{
    int32_t k, other = 0;
    if (path == HASTE_CUDA_AUTO) { *dev = upload(layer); return 1; }
    *dev = upload_for(layer, (haste_cuda_path)path, B);
    for (k = 0; k < layer->block_count; k++) other += dev->path[k] != HASTE_CUDA_GENERAL;
    if (path == HASTE_CUDA_GENERAL || other) return 1;
    haste_cuda_layer_free(dev);
    return 0;
}

// Judges gradient buffers and grad_x against double; frees nothing.
static inline void judge_gradients(const haste_layer *layer, haste_cuda_gradient *gradient, test_gradients *want,
                            const float *grad_x, const double *want_x,
                            const float *naive_x_gradient, int32_t B, const char *what)
{
    int32_t k;
    size_t i;
    test_errors got_errors = {}, naive_errors = {}, got_w = {}, naive_w = {}, got_b = {}, naive_b = {};
    // blocks together: in one with a single label the naive version may be lucky
    for (k = 0; k < layer->block_count; k++) {
        size_t n = (size_t)test_weights(&layer->block[k]), m = (size_t)test_places(&layer->block[k]);
        float *weight = (float *)test_alloc(n * 4), *bias = (float *)test_alloc(m * 4);
        MUST(cudaMemcpy(weight, gradient->weight[k], n * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(bias, gradient->bias[k], m * 4, cudaMemcpyDeviceToHost));
        for (i = 0; i < n; i++) {
            test_add_error(&got_w, (double)weight[i], want->weight[k][i]);
            test_add_error(&naive_w, (double)want->naive_weight[k][i], want->weight[k][i]);
        }
        for (i = 0; i < m; i++) {
            test_add_error(&got_b, (double)bias[i], want->bias[k][i]);
            test_add_error(&naive_b, (double)want->naive_bias[k][i], want->bias[k][i]);
        }
        free(weight);
        free(bias);
    }
    judge(layer->dtype, &got_w, &naive_w, what, __LINE__);
    judge(layer->dtype, &got_b, &naive_b, what, __LINE__);
    for (i = 0; i < (size_t)B * (size_t)layer->inputs; i++) {
        test_add_error(&got_errors, (double)grad_x[i], want_x[i]);
        test_add_error(&naive_errors, (double)naive_x_gradient[i], want_x[i]);
    }
    judge(layer->dtype, &got_errors, &naive_errors, what, __LINE__);
}

// Gradients from given logit gradients, of float32 or bfloat16. apart 1, 2: those of weights and of x by a call each, those
// of weights first or last.
static inline void backward_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int type, int32_t B,
                                 int apart)
{
    static int turn;   // x and its gradient in each of their types
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3), gx_type = (haste_cuda_type)(turn / 2 % 2);
    int i;
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload_for(&layer, path, B);
    haste_cuda_workspace work = workspace(&dev, B + 5, 0);
    test_batch batch = test_make_batch(&layer, B);
    size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs, k;
    float *slopes = (float *)test_alloc(n * 4), *naive_slopes = (float *)test_alloc(n * 4),
        *naive_gx = (float *)test_zeros(d * 4), *gx, *rounded;
    double *slopes64 = test_doubles(n), *want_x = test_doubles(d);
    float *start = (float *)test_alloc(d * 4);
    test_gradients want = test_make_gradients(&layer);
    haste_cuda_gradient gradient;
    void *x, *dev_slopes, *dev_gx;
    // padding is not read
    for (k = 0; k < n; k++) slopes[k] = layer.label_of[k % (size_t)layer.slots] < 0 ? NAN : check_normal() * .01f;
    for (k = 0; k < d; k++) start[k] = .5f;
    turn++;
    x = device_numbers(batch.x, d, x_type);
    dev_slopes = device_numbers(slopes, n, (haste_cuda_type)type);
    dev_gx = device_numbers(start, d, gx_type);
    for (k = 0; k < n; k++)
        { if (layer.label_of[k % (size_t)layer.slots] < 0) slopes[k] = 0; slopes64[k] = (double)slopes[k];
            naive_slopes[k] = slopes[k]; }
    haste_backward_ref(&layer, batch.x, B, slopes64, want.weight, want.bias, want_x);
    naive_round(&layer, naive_slopes, n);
    rounded = naive_x(&layer, &batch);
    naive_backward(&layer, rounded, B, naive_slopes, want.naive_weight, want.naive_bias, naive_gx);
    for (k = 0; k < d; k++) { want_x[k] += .5; naive_gx[k] = rounded_to(gx_type, naive_gx[k] + .5f); }
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
    for (i = 0; i < (apart ? 2 : 1); i++) {
        const int weights = !apart || i == apart - 1, inputs = !apart || !weights;
        CHECK_STATUS(haste_cuda_backward(&dev, &work, x, x_type, B, dev_slopes, (haste_cuda_type)type,
                                         weights ? &gradient : NULL, inputs ? dev_gx : NULL, gx_type, NULL,
                                         &test_error), HASTE_OK, test_error);
    }
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    gx = take_numbers(dev_gx, d, gx_type);
    judge_gradients(&layer, &gradient, &want, gx, want_x, naive_gx, B, shape->name);
    free(gx); free(slopes); free(naive_slopes); free(naive_gx); free(slopes64); free(want_x); free(start); free(rounded);
    cudaFree(x);
    cudaFree(dev_slopes);
    haste_cuda_gradient_free(&gradient);
    test_free_gradients(&want, &layer);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

// One stored number after an update: the naive one, give or take an error, and for bfloat16 one of its two neighbours.
static inline int close_to(haste_dtype dtype, float got, double want, double slack)
{
    double low = want - slack, high = want + slack, unused;
    if (dtype == HASTE_BF16) {
        test_bf16_neighbours(low, &low, &unused);
        test_bf16_neighbours(high, &unused, &high);
    }
    return (double)got >= low && (double)got <= high;
}

static inline haste_cuda_workspace chunked(const haste_cuda_layer *layer, int32_t B, int deterministic, int32_t chunks)
{
    haste_cuda_workspace work;
    haste_cuda_workspace_options options;
    memset(&options, 0, sizeof options);
    options.batch = B;
    options.deterministic = deterministic;
    options.chunks = chunks;
    CHECK_STATUS(haste_cuda_workspace_create(&work, layer, &options, &test_error), HASTE_OK, test_error);
    return work;
}

// Small whole numbers: every sum is exact in any order and type, and there are many ties.
static inline haste_layer whole_layer(const haste_layer_options *options)
{
    haste_layer layer = test_layer(options);
    int32_t k;
    int64_t i;
    for (k = 0; k < layer.block_count; k++) {
        haste_block *block = &layer.block[k];
        for (i = 0; i < test_weights(block); i++)
            if (i / (block->fan_in * (int64_t)block->group_size) * block->group_size + i % block->group_size < block->labels)
                test_put(layer.dtype, block->weight, (size_t)i, (float)((int)(check_random() % 5) - 2));
        for (i = 0; i < block->labels; i++) block->bias[i] = (float)((int)(check_random() % 3) - 1);
    }
    return layer;
}

static inline void whole_x(test_batch *batch, const haste_layer *layer)
{
    size_t i;
    for (i = 0; i < (size_t)batch->B * (size_t)layer->inputs; i++) batch->x[i] = (float)((int)(check_random() % 5) - 2);
}

static inline int find_id(const int32_t *id, int64_t n, int32_t wanted)
{
    int64_t i;
    for (i = 0; i < n; i++) if (id[i] == wanted) return 1;
    return 0;
}

// Where shards are cut: in the middle of the last block, at a whole group.
static inline int64_t middle_of(const haste_layer *layer)
{
    const haste_block *last = &layer->block[layer->block_count - 1];
    return last->first_slot + last->groups / 2 * last->group_size;
}

// Views of one layer's halves, and two uploaded shards, train to the bits that the whole layer trains to.
static const test_shape shard_shapes[] = {
    { "head and tail",   200,  64, 3, { { 20,  8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } },
     1 },
    { "wide",            700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
    { "wide S 64",      1000, 160, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 64, 128, 0, 0 } }, 1 },
    { "narrow",         1003, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
    { "narrow S 32",     800, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 32, 32, 144, 288 } }, 1 } };

enum { SHARD_SHAPES = sizeof shard_shapes / sizeof shard_shapes[0] };

static inline haste_cuda_path shard_path(int i)
{
    return i == 0 ? HASTE_CUDA_GENERAL : shard_shapes[i].name[0] == 'w' ? HASTE_CUDA_WIDE : HASTE_CUDA_NARROW;
}

#endif  // CUDA_H
