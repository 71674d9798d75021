// haste_cuda.cuh on a device: every operation against the double references of haste.h, on odd shapes, with poisoned
// outputs.
// Without a device it says so and passes. Alone: build/tests/test_cuda NAME runs only the subjects whose name contains NAME.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <atomic>
#include <mutex>
#include <thread>
#include <cuda_runtime.h>

// What the library takes, and how it can be made to fail: its allocations (device, pinned, host), and all its CUDA calls.
// Two host threads may be at it.
static int alloc_fail_at = -1, call_fail_at = -1;   // the allocation, the CUDA call that fails, counted from 0
static std::atomic<int>    alloc_count, call_count;
static std::atomic<size_t> alloc_last;              // the size of the last allocation on the device
static std::atomic<long>   held;                    // allocations and events that have not been given back

static bool alloc_fails() { return alloc_count++ == alloc_fail_at; }
static bool call_fails() { return call_count++ == call_fail_at; }
static int zeroed;   // memory is cleared, for a test that copies it whole, what lies between arrays too
static cudaError_t take_device(void **memory, size_t bytes)
{
    cudaError_t result;
    alloc_last = bytes;
    if (alloc_fails()) return cudaErrorMemoryAllocation;
    result = cudaMalloc(memory, bytes);
    held += result == cudaSuccess;
    if (result == cudaSuccess && zeroed) result = cudaMemset(*memory, 0, bytes);
    return result;
}
static cudaError_t give_device(void *memory) { held -= memory != NULL; return cudaFree(memory); }
static cudaError_t take_pinned(void **memory, size_t bytes)
{
    cudaError_t result = alloc_fails() ? cudaErrorMemoryAllocation : cudaMallocHost(memory, bytes);
    held += result == cudaSuccess;
    return result;
}
static cudaError_t give_pinned(void *memory) { held--; return cudaFreeHost(memory); }
static void *take_host(size_t bytes)
{
    void *memory = alloc_fails() ? NULL : malloc(bytes);
    held += memory != NULL;
    return memory;
}
static void give_host(void *memory) { held -= memory != NULL; free(memory); }
static cudaError_t take_event(cudaEvent_t *event, unsigned flags)
{
    cudaError_t result = call_fails() ? cudaErrorUnknown : cudaEventCreateWithFlags(event, flags);
    held += result == cudaSuccess;
    return result;
}
static cudaError_t give_event(cudaEvent_t event) { held--; return cudaEventDestroy(event); }

// The limits of shared memory that kernels were given, and how many of them were given a second, other one.
static struct { const void *kernel; int limit; } limits[256];
static int limit_count, limit_changes;
static std::mutex limit_lock;
template <typename K> static void note_limit(K *which, int, int limit)
{
    const std::lock_guard<std::mutex> alone(limit_lock);
    const void *kernel = (const void *)which;
    int i = 0;
    while (i < limit_count && limits[i].kernel != kernel) i++;
    if (i == 256) return;
    if (i == limit_count) { limits[limit_count].kernel = kernel; limits[limit_count++].limit = limit; }
    limit_changes += limits[i].limit != limit;
}

// A device that is made up, wholly (on) or in its answers; image: what asking for a kernel gives.
static struct { int on, major, minor; cudaError_t image; } fake;
static cudaError_t ask_device(int *device)
{
    if (!fake.on) return cudaGetDevice(device);
    *device = 0;
    return cudaSuccess;
}
static cudaError_t ask_error() { return fake.on ? cudaSuccess : cudaGetLastError(); }
static cudaError_t ask_attribute(int *value, cudaDeviceAttr which, int device)
{
    if (fake.major && which == cudaDevAttrComputeCapabilityMajor) { *value = fake.major; return cudaSuccess; }
    if (fake.major && which == cudaDevAttrComputeCapabilityMinor) { *value = fake.minor; return cudaSuccess; }
    if (!fake.on) return cudaDeviceGetAttribute(value, which, device);
    *value = which == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 232448 : 132;   // else the multiprocessors
    return cudaSuccess;
}
template <typename K> static cudaError_t ask_kernel(cudaFuncAttributes *about, K *kernel)
{
    if (fake.image != cudaSuccess) return fake.image;
    if (!fake.on) return cudaFuncGetAttributes(about, kernel);
    memset(about, 0, sizeof *about);
    about->numRegs = 128;
    about->ptxVersion = 90;
    return cudaSuccess;
}

#define HASTE_CUDA_MALLOC(pointer, bytes)    take_device((pointer), (bytes))
#define HASTE_CUDA_FREE(pointer)             give_device(pointer)
#define HASTE_MALLOC(bytes)                  take_host(bytes)
#define HASTE_FREE(pointer)                  give_host(pointer)
#define cudaMallocHost(pointer, bytes)       take_pinned((pointer), (bytes))
#define cudaFreeHost(pointer)                give_pinned(pointer)
#define cudaEventCreateWithFlags(event, f)   take_event((event), (f))
#define cudaEventDestroy(event)              give_event(event)
#define TRY(call)                            (call_fails() ? cudaErrorUnknown : call)
#define cudaGetDevice(...)                   TRY(ask_device(__VA_ARGS__))
#define cudaGetLastError(...)                TRY(ask_error(__VA_ARGS__))
#define cudaDeviceGetAttribute(...)          TRY(ask_attribute(__VA_ARGS__))
#define cudaFuncGetAttributes(...)           TRY(ask_kernel(__VA_ARGS__))
#define cudaFuncSetAttribute(...)            TRY((note_limit(__VA_ARGS__), cudaFuncSetAttribute(__VA_ARGS__)))
#define cudaMemcpyAsync(...)                 TRY(cudaMemcpyAsync(__VA_ARGS__))
#define cudaMemsetAsync(...)                 TRY(cudaMemsetAsync(__VA_ARGS__))
#define cudaMemset(...)                      TRY(cudaMemset(__VA_ARGS__))
#define cudaStreamSynchronize(...)           TRY(cudaStreamSynchronize(__VA_ARGS__))
#define cudaEventRecord(...)                 TRY(cudaEventRecord(__VA_ARGS__))
#define cudaEventSynchronize(...)            TRY(cudaEventSynchronize(__VA_ARGS__))
#define cudaLaunchKernelExC(...)             TRY(cudaLaunchKernelExC(__VA_ARGS__))
#define cudaStreamIsCapturing(...)           TRY(cudaStreamIsCapturing(__VA_ARGS__))
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor(...) TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(__VA_ARGS__))

#define HASTE_IMPLEMENTATION
#define HASTE_CUDA_IMPLEMENTATION
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
static double seconds()
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- device memory ---------------------------------------------------------------------------------------------------

static void must(cudaError_t result, const char *what)
{
    if (result == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(result));
    exit(1);
}
#define MUST(call) must((call), #call)

enum { GUARD = 256 };

// n bytes on the device, all 0xff (NaN), with guard bytes after them.
static void *device_bytes(size_t n)
{
    void *p = NULL;
    MUST(cudaMalloc(&p, n + GUARD));
    MUST(cudaMemset(p, 0xff, n + GUARD));
    return p;
}

static void *device_copy(const void *from, size_t n)
{
    void *p = device_bytes(n);
    if (n) MUST(cudaMemcpy(p, from, n, cudaMemcpyHostToDevice));
    return p;
}

// Back to the host, freed on the device; checks the guard.
static void *host_copy(const void *from, size_t n)
{
    char *p = (char *)test_alloc(n + GUARD);
    size_t i;
    int whole = 1;
    MUST(cudaMemcpy(p, from, n + GUARD, cudaMemcpyDeviceToHost));
    for (i = n; i < n + GUARD; i++) whole &= (unsigned char)p[i] == 0xff;
    CHECK(whole);
    return p;
}

static void *host_take(void *from, size_t n)
{
    void *p = host_copy(from, n);
    MUST(cudaFree(from));
    return p;
}

static uint16_t to_bf16(float value)   // to nearest
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
static float round_bf16(float value) { return test_from_bf16(to_bf16(value)); }
static float round_stochastic(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return test_from_bf16((uint16_t)((bits + (uint32_t)(check_random() & 0xffff)) >> 16));
}

static uint16_t to_f16(float value)   // to nearest; normal numbers and 0 only
{
    uint32_t bits, sign;
    memcpy(&bits, &value, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits < 0x38800000) return (uint16_t)sign;
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | (bits - 0x38000000) >> 13);
}
static float from_f16(uint16_t half)
{
    uint32_t bits = (uint32_t)(half & 0x8000) << 16;
    float value;
    if (half & 0x7fff) bits |= ((uint32_t)(half & 0x7fff) << 13) + 0x38000000;
    memcpy(&value, &bits, 4);
    return value;
}

// n numbers as an array of `type` on the device; what was lost in rounding is lost in `numbers` too.
static void *device_numbers(float *numbers, size_t n, haste_cuda_type type)
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
static float *take_numbers(void *from, size_t n, haste_cuda_type type)
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

static float rounded_to(haste_cuda_type type, float value) { return type == HASTE_CUDA_BF16 ? round_bf16(value) : value; }

static haste_cuda_layer upload(const haste_layer *layer)
{
    haste_cuda_layer dev;
    memset(&dev, 0, sizeof dev);
    if (haste_cuda_upload(&dev, layer, NULL, NULL, &test_error) != HASTE_OK)
        { printf("no layer: %s\n", test_error.text); exit(1); }
    return dev;
}
/* Does a path take a block, by the words of haste_cuda_path? 1, 0, or -1: a slice whose width is on the edge. Apart from what
   the header decides, so that a path which refuses what it should take does not pass unseen. */
static int path_takes(const haste_layer *layer, int k, haste_cuda_path path, int32_t B)
{
    const haste_block *block = &layer->block[k];
    const int32_t S = block->group_size, F = block->fan_in, width = block->end - block->begin;
    if (path == HASTE_CUDA_GENERAL) return 1;
    if (layer->dtype != HASTE_BF16) return 0;
    if (path == HASTE_CUDA_WIDE) return (S == 32 || S == 64 || S == 128) && F % 16 == 0;
    if (!block->index || (S != 16 && S != 32) || B > 128) return 0;
    if (F != 16 && F != 32 && F != 48 && F != 64 && F != 96 && F != 128) return 0;
    return width <= 380 ? 1 : width < 600 ? -1 : 0;
}
static int fast_device(void)
{
    return haste__cu_device_value(cudaDevAttrComputeCapabilityMajor) == 9 && haste__wide_compiled();
}

// On a path, where it takes all blocks (narrow: dense ones may be wide); else general.
static haste_cuda_layer upload_for(const haste_layer *layer, haste_cuda_path path, int32_t B)
{
    int takes = 1;
    haste_cuda_layer dev;
    haste_cuda_options options;
    int32_t k;
    memset(&options, 0, sizeof options);
    options.batch = B;
    for (k = 0; k < layer->block_count; k++) options.path[k] = path;
    if (path == HASTE_CUDA_NARROW)
        for (k = 0; k < layer->block_count; k++) if (!layer->block[k].index) options.path[k] = HASTE_CUDA_WIDE;
    for (k = 0; k < layer->block_count; k++) {
        const int one = path_takes(layer, k, options.path[k], B);
        if (takes > 0 || one == 0) takes = one;
    }
    if (haste_cuda_upload(&dev, layer, &options, NULL, &test_error) == HASTE_OK) { CHECK(takes != 0); return dev; }
    CHECK(takes != 1 || !fast_device());
    for (k = 0; k < layer->block_count; k++) options.path[k] = HASTE_CUDA_GENERAL;
    CHECK_STATUS(haste_cuda_upload(&dev, layer, &options, NULL, &test_error), HASTE_OK, test_error);
    return dev;
}

static haste_cuda_workspace workspace(const haste_cuda_layer *layer, int32_t batch, int deterministic)
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

static haste_cuda_lists device_lists(const test_batch *batch)
{
    haste_cuda_lists lists;
    lists.offset = (const int64_t *)device_copy(batch->offset, ((size_t)batch->B + 1) * 8);
    lists.id = (const int32_t *)device_copy(batch->id, (size_t)batch->offset[batch->B] * 4);
    lists.on_host = 0;
    return lists;
}
static void free_lists(haste_cuda_lists lists) { cudaFree((void *)lists.offset); cudaFree((void *)lists.id); }
static haste_cuda_lists host_lists(const test_batch *batch)
{
    haste_cuda_lists lists;
    lists.offset = batch->offset;
    lists.id = batch->id;
    lists.on_host = 1;
    return lists;
}

// ---- the same precision, naively -------------------------------------------------------------------------------------

// bfloat16 weights go with x and logit gradients rounded to bfloat16, and sums in float32.
static float *naive_x(const haste_layer *layer, const test_batch *batch)
{
    size_t n = (size_t)batch->B * (size_t)layer->inputs, i;
    float *x = (float *)test_alloc(n * 4);
    for (i = 0; i < n; i++) x[i] = layer->dtype == HASTE_BF16 ? round_bf16(batch->x[i]) : batch->x[i];
    return x;
}
/* test_judge, but for bfloat16 with few numbers: there the naive version may be lucky with all of them, so that its errors
   have a 16th of
   the largest value's last bit as their floor. */
static int judge(haste_dtype dtype, const test_errors *got, const test_errors *naive, const char *what, int line)
{
    test_errors floored = *naive;
    double least = naive->scale * 0x1p-13;
    if (dtype == HASTE_BF16 && naive->n < 200) {
        if (floored.largest < least) floored.largest = least;
        if (floored.square < least * least * (double)naive->n) floored.square = least * least * (double)naive->n;
    }
    return test_judge(got, &floored, what, line);
}
static void naive_round(const haste_layer *layer, float *grad, size_t n)
{
    size_t i;
    for (i = 0; i < n && layer->dtype == HASTE_BF16; i++) grad[i] = round_bf16(grad[i]);
}

// ---- layers on the device --------------------------------------------------------------------------------------------

static void round_trip()
{
    int i, dtype;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, dtype ? HASTE_ADAMW : HASTE_MOMENTUM,
                                                   (haste_dtype)dtype, HASTE_BF16);
        haste_layer layer = test_layer(&options), back;
        haste_cuda_layer dev = upload(&layer);
        CHECK(haste_layer_create(&back, &options, NULL) == HASTE_OK);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// A layer made on the device equals one made on the host.
static void create_equals_host()
{
    int i, dtype, loss;
    static int64_t frequency[4096];
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (loss = 0; loss < 3; loss++) {
        haste_layer_options options = test_options(&test_shapes[i], (haste_loss)loss, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer, back;
        haste_cuda_layer dev;
        int32_t l;
        const char *difference;
        for (l = 0; l < options.labels; l++) frequency[l] = l % 7;
        options.frequency = frequency;
        options.samples = 1000;
        CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK &&
              haste_layer_create(&back, &options, NULL) == HASTE_OK);
        memset(back.memory, 0x3f, (size_t)((char *)back.label_of - (char *)back.memory));
        CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        difference = test_difference(&layer, &back);
        if (difference) printf("    %s: %s differs\n", test_shapes[i].name, difference);
        CHECK(difference == NULL);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// The planner says what is then allocated, byte for byte.
static void plan()
{
    int i, dtype;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_ADAMW, (haste_dtype)dtype, HASTE_BF16);
        haste_cuda_workspace_options work_options;
        haste_rewire_options rewire;
        haste_cuda_lists none;
        haste_cuda_plan plan;
        haste_cuda_layer layer;
        haste_cuda_workspace work;
        haste_cuda_gradient gradient;
        memset(&work_options, 0, sizeof work_options);
        memset(&rewire, 0, sizeof rewire);
        memset(&none, 0, sizeof none);
        work_options.batch = 70;
        work_options.deterministic = dtype;
        CHECK_STATUS(haste_cuda_plan_bytes(&options, &work_options, NULL, &plan, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_layer_create(&layer, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.layer && layer.bytes == plan.layer);
        CHECK_STATUS(haste_cuda_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.workspace && work.bytes == plan.workspace && work.pinned_bytes == plan.pinned);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.gradient);
        rewire.share = .3f;
        alloc_last = plan.rewire;   // where no place can move, nothing is allocated
        CHECK_STATUS(haste_cuda_rewire(&layer, &work, &rewire, NULL, HASTE_CUDA_F32, 0, none, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK(alloc_last == plan.rewire);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&layer);
    }
}

// ---- forward and backward --------------------------------------------------------------------------------------------

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
static int upload_on(haste_cuda_layer *dev, const haste_layer *layer, int path, int32_t B)
{
    int32_t k, other = 0;
    if (path == HASTE_CUDA_AUTO) { *dev = upload(layer); return 1; }
    *dev = upload_for(layer, (haste_cuda_path)path, B);
    for (k = 0; k < layer->block_count; k++) other += dev->path[k] != HASTE_CUDA_GENERAL;
    if (path == HASTE_CUDA_GENERAL || other) return 1;
    haste_cuda_layer_free(dev);
    return 0;
}

static void forward_case(const test_shape *shape, haste_dtype dtype, int path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch;
    double *want;
    float *naive;
    size_t n, k;
    int type;
    if (!upload_on(&dev, &layer, path, B < 128 ? B : 128)) { haste_layer_free(&layer); return; }
    work = workspace(&dev, B, 0);
    batch = test_make_batch(&layer, B);
    n = (size_t)B * (size_t)layer.slots;
    want = test_doubles(n);
    naive = (float *)test_alloc(n * 4);
    for (type = 0; type < 3; type++) {
        void *x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, (haste_cuda_type)type);
        haste_cuda_type out_type = type == 1 ? HASTE_CUDA_BF16 : HASTE_CUDA_F32;
        void *logits = device_bytes(n * (out_type == HASTE_CUDA_F32 ? 4 : 2));
        test_errors got_errors = {}, naive_errors = {};
        float *got, *rounded = naive_x(&layer, &batch);
        haste_forward_ref(&layer, batch.x, B, want);
        naive_forward(&layer, rounded, B, naive);
        CHECK_STATUS(haste_cuda_forward(&dev, &work, x, (haste_cuda_type)type, B, logits, out_type, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        got = take_numbers(logits, n, out_type);
        for (k = 0; k < n; k++) {
            if (layer.label_of[k % (size_t)layer.slots] < 0) { if (got[k] != 0) CHECK(got[k] == 0); continue; }
            test_add_error(&got_errors, (double)got[k], want[k]);
            test_add_error(&naive_errors, (double)(out_type == HASTE_CUDA_BF16 ? round_bf16(naive[k]) : naive[k]), want[k]);
        }
        if (!judge(layer.dtype, &got_errors, &naive_errors, "forward", __LINE__))
            printf("    %s, dtype %d, path %d, B %d, x type %d\n", shape->name, (int)dtype, path, (int)B, type);
        free(got);
        free(rounded);
        cudaFree(x);
    }
    free(want);
    free(naive);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void forward()
{
    static const int32_t batches[] = { 1, 33, 64, 130 };
    int i, dtype, j, path;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 4; j++)
        forward_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_AUTO,
                     test_shapes[i].inputs > 10000 && batches[j] > 33 ? 65 : batches[j]);
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (j = 0; j < 4; j++) forward_case(&panel_shapes[i], HASTE_BF16, path, batches[j]);
}

// Judges gradient buffers and grad_x against double; frees nothing.
static void judge_gradients(const haste_layer *layer, haste_cuda_gradient *gradient, test_gradients *want,
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
static void backward_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int type, int32_t B, int apart)
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

static void backward()
{
    int i, dtype, type;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (type = 0; type < 2; type++)
        backward_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_GENERAL, type, type ? 65 : 31, type);
}

// Shapes that the kernels of >>backward take, in the order of each path; and with blocks beside that they don't.
static void backward_fast()
{
    static const test_shape shapes[] = {
        { "S 16 F 64",       333,  768, 1, { { 0, 16, 64, 0, 0 } }, 1 },
        { "S 32 F 64",      1001,  768, 1, { { 0, 32, 64, 0, 0 } }, 1 },
        { "S 64 F 128",      643,  301, 1, { { 0, 64, 128, 0, 0 } }, 0 },
        { "S 32 F 128",      100, 3000, 1, { { 0, 32, 128, 0, 0 } }, 1 },
        { "S 48 F 80",       301,  200, 1, { { 0, 48, 80, 0, 0 } }, 1 },
        { "S 128 F 96",      500,  300, 1, { { 0, 128, 96, 7, 300 } }, 1 },
        { "S 16 F 192",      111,  400, 1, { { 0, 16, 192, 0, 0 } }, 1 },
        { "three slices",    333,  300, 3, { { 70, 32, 16, 8, 101 }, { 100, 16, 48, 3, 300 }, { 0, 64, 64, 100, 300 } }, 1 },
        { "others too",      300,  200, 3, { { 20, 8, HASTE_DENSE, 0, 40 }, { 99, 16, 32, 8, 99 }, { 0, 24, 7, 0, 9 } }, 1 }
    };
    static const int32_t batches[] = { 1, 31, 65, 128, 200 };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW };
    int i, j, k = 0, n;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) for (j = 0; j < 5; j++) for (n = 0; n < 3; n++, k++) {
        if (shapes[i].inputs > 1000 && batches[j] > 65) continue;
        backward_case(&shapes[i], HASTE_BF16, paths[n], k % 2, batches[j], k % 3);
    }
    for (i = 0; i < 3; i++) {   // nobody but the kernels of >>backward: x is not even read
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev = upload_for(&layer, HASTE_CUDA_GENERAL, 128);
        haste_cuda_workspace work = workspace(&dev, 128, 0);
        haste__cu_pass p;
        haste__cu_pass_make(&p, &dev, &work, 128);
        if (haste__cu_device_value(cudaDevAttrComputeCapabilityMajor) == 9 && haste__wide_compiled())
            CHECK(!haste__cu_given_needs_x(&dev, &p, NULL));
        else if (i == 0) printf("    not on this device\n");
        p.deterministic = 1;
        CHECK(haste__cu_given_needs_x(&dev, &p, NULL));
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

// ---- training --------------------------------------------------------------------------------------------------------

// One stored number after an update: the naive one, give or take an error, and for bfloat16 one of its two neighbours.
static int close_to(haste_dtype dtype, float got, double want, double slack)
{
    double low = want - slack, high = want + slack, unused;
    if (dtype == HASTE_BF16) {
        test_bf16_neighbours(low, &low, &unused);
        test_bf16_neighbours(high, &unused, &high);
    }
    return (double)got >= low && (double)got <= high;
}

/* What a fast path made of weights, biases and states, against the rule on the exact gradient; the naive version takes its
   own gradient and rounds stochastically as well: to nearest, a slow moment would not move at all, which looks better than
   it is. */
static void judge_update(const haste_layer *layer, const haste_block *old, const haste_block *now,
                         const haste_step_options *o, const double *want, const double *want_bias, const float *naive,
                         const float *naive_bias, const char *what)
{
    const size_t weights = (size_t)test_weights(old), places = (size_t)test_places(old);
    const haste_dtype state = layer->state_dtype;
    test_errors got_errors[3] = {}, naive_errors[3] = {}, got_b = {}, naive_b = {};
    size_t i;
    int k, states = layer->optimizer == HASTE_ADAMW ? 2 : layer->optimizer == HASTE_MOMENTUM ? 1 : 0;
    for (i = 0; i < weights; i++) {
        double s[2] = { 0, 0 }, n[2], w = (double)test_get(layer->dtype, old->weight, i), new_w, naive_w;
        for (k = 0; k < states; k++) s[k] = (double)test_get(state, old->weight_state[k], i);
        n[0] = s[0];
        n[1] = s[1];
        new_w = haste_update_ref(layer->optimizer, o, 1, 1, w, want[i], &s[0], &s[1]);
        naive_w = haste_update_ref(layer->optimizer, o, 1, 1, w, (double)naive[i], &n[0], &n[1]);
        test_add_error(&got_errors[0], (double)test_get(layer->dtype, now->weight, i), new_w);
        test_add_error(&naive_errors[0], (double)round_stochastic((float)naive_w), new_w);
        for (k = 0; k < states; k++) {
            test_add_error(&got_errors[1 + k], (double)test_get(state, now->weight_state[k], i), s[k]);
            test_add_error(&naive_errors[1 + k], state == HASTE_BF16 ? (double)round_stochastic((float)n[k]) : n[k], s[k]);
        }
    }
    for (i = 0; i < places; i++) {
        double s[2] = { 0, 0 }, n[2], new_b, naive_new;
        for (k = 0; k < states; k++) s[k] = (double)old->bias_state[k][i];
        n[0] = s[0];
        n[1] = s[1];
        new_b = haste_update_ref(layer->optimizer, o, 1, 0, (double)old->bias[i], want_bias[i], &s[0], &s[1]);
        naive_new = haste_update_ref(layer->optimizer, o, 1, 0, (double)old->bias[i], (double)naive_bias[i], &n[0], &n[1]);
        test_add_error(&got_b, (double)now->bias[i], new_b);
        test_add_error(&naive_b, naive_new, new_b);
    }
    for (k = 0; k <= states; k++)
        if (!judge(HASTE_BF16, &got_errors[k], &naive_errors[k], what, __LINE__)) printf("    array %d\n", k);
    judge(HASTE_BF16, &got_b, &naive_b, what, __LINE__);
}

static int compare_sizes(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// A size that no slope is near, in double or in naive arithmetic: the middle of the widest gap with a tenth of them below
// and some above. 0: no gap is as wide as a tenth.
static double widest_gap(const double *slope, const float *naive, size_t n)
{
    double *size = test_doubles(2 * n), ratio = 1.1, best = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        size[2 * i] = fabs(slope[i]);
        size[2 * i + 1] = fabs((double)naive[i]);
    }
    qsort(size, 2 * n, sizeof *size, compare_sizes);
    for (i = n / 5; i + 4 < 2 * n; i++)
        if (size[i] > 0 && size[i + 1] / size[i] > ratio) {
            ratio = size[i + 1] / size[i];
            best = sqrt(size[i] * size[i + 1]);
        }
    free(size);
    return best;
}

// A third of its labels with large biases, the others with small ones, so that there is a gap.
static haste_layer spread_layer(const haste_layer_options *options)
{
    haste_layer layer = test_layer(options);
    int k, i;
    for (k = 0; k < layer.block_count; k++)
        for (i = 0; i < layer.block[k].labels; i++) layer.block[k].bias[i] += i % 3 ? -5 : 5;
    return layer;
}
static int small_dropped;   // cases that did leave out small slopes

static void step_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                      haste_dtype state, int32_t B, int device, haste_cuda_path path, float lr)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, state);
    haste_layer layer = spread_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload_for(&layer, path, B);
    haste_cuda_workspace work = workspace(&dev, B + 3, 0);
    test_batch batch = test_make_batch(&layer, B);
    haste_cuda_lists lists = device ? device_lists(&batch) : host_lists(&batch);
    size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs, i;
    static int turn;   // x and its gradients in each of their types
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3), gx_type = (haste_cuda_type)(turn / 2 % 2),
        gx2_type = (haste_cuda_type)(turn / 5 % 2);
    void *x = device_numbers(batch.x, d, x_type);
    double *logits = test_doubles(n), *slopes = test_doubles(n), *want_x = test_doubles(d), want_loss, got_loss[2];
    float *naive_logits = (float *)test_alloc(n * 4), *naive_slopes = (float *)test_alloc(n * 4),
        *naive_gx = (float *)test_zeros(d * 4), *naive_gx2 = (float *)test_alloc(d * 4), unused;
    double naive_loss_value;
    float *rounded = naive_x(&layer, &batch), *gx, *gx2;
    test_gradients want = test_make_gradients(&layer);
    haste_cuda_gradient gradient;
    haste_step_options o;
    void *dev_gx = device_bytes(d * (gx_type ? 2 : 4)), *dev_loss = device_bytes(16),
        *dev_gx2 = device_bytes(d * (gx2_type ? 2 : 4));
    int32_t k;
    int bad = 0, fast = 0;
    turn++;
    memset(&o, 0, sizeof o);
    o.lr = lr;
    o.weight_decay = .125f;
    MUST(cudaMemset(dev_gx, 0, d * (gx_type ? 2 : 4)));
    MUST(cudaMemset(dev_gx2, 0, d * (gx2_type ? 2 : 4)));
    haste_forward_ref(&layer, batch.x, B, logits);
    haste_loss_ref(&layer, logits, B, batch.positives, 0, &want_loss, slopes);
    naive_forward(&layer, rounded, B, naive_logits);
    naive_loss(&layer, naive_logits, B, batch.positives, 0, &unused, naive_slopes);
    if (turn % 2) {   // every other case leaves out small slopes
        o.negligible = (float)(widest_gap(slopes, naive_slopes, n) * B);
        small_dropped += o.negligible > 0;
        for (i = 0; i < n; i++) if (fabs(slopes[i]) * B < (double)o.negligible) slopes[i] = naive_slopes[i] = 0;
    }
    haste_backward_ref(&layer, batch.x, B, slopes, want.weight, want.bias, want_x);
    for (i = 0; i < n; i++) logits[i] = (double)naive_logits[i];
    haste_loss_ref(&layer, logits, B, batch.positives, 0, &naive_loss_value, slopes);
    naive_round(&layer, naive_slopes, n);
    naive_backward(&layer, rounded, B, naive_slopes, want.naive_weight, want.naive_bias, naive_gx);
    for (i = 0; i < d; i++) naive_gx2[i] = rounded_to(gx2_type, naive_gx[i]);
    for (i = 0; i < d; i++) naive_gx[i] = rounded_to(gx_type, naive_gx[i]);

    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, x_type, B, lists, &o, &gradient, (double *)dev_loss, dev_gx, gx_type,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    CHECK(dev.pending == 1 && dev.step == 0);
    gx = take_numbers(dev_gx, d, gx_type);
    judge_gradients(&layer, &gradient, &want, gx, want_x, naive_gx, B, test_loss_name(loss));
    dev.pending = 0;
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, x_type, B, lists, &o, (double *)dev_loss + 1, dev_gx2, gx2_type, NULL,
                                       &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    gx2 = take_numbers(dev_gx2, d, gx2_type);
    for (k = 0; k < layer.block_count; k++) fast += haste_cuda_path_of(&dev, &work, k, B, NULL) != HASTE_CUDA_GENERAL;
    if (fast) {   // other sums, other roundings of dz: judged like the first
        test_errors got_errors = {}, naive_errors = {};
        for (i = 0; i < d; i++) {
            test_add_error(&got_errors, (double)gx2[i], want_x[i]);
            test_add_error(&naive_errors, (double)naive_gx2[i], want_x[i]);
        }
        if (!judge(dtype, &got_errors, &naive_errors, "grad_x of a fast path", __LINE__))
            printf("    %s, B %d\n", shape->name, (int)B);
    } else {   // bfloat16: the last bit
        const double slack = (gx_type || gx2_type ? 1. / 128 : 0) + 1e-3;
        for (i = 0; i < d; i++) bad += !(fabs((double)gx2[i] - (double)gx[i]) <= slack * fabs((double)gx[i]) + 1e-5);
    }
    CHECK(bad == 0);
    MUST(cudaMemcpy(got_loss, dev_loss, 16, cudaMemcpyDeviceToHost));
    // of the same rounded x
    if (dtype == HASTE_BF16) CHECK_NEAR(got_loss[0], naive_loss_value, 1e-5 * fabs(want_loss) + 1e-6);
    else CHECK_NEAR(got_loss[0], want_loss, 2e-6 * fabs(want_loss) + 1e-6);
    CHECK_NEAR(got_loss[1], got_loss[0], (fast ? 2e-5 : 1e-6) * fabs(want_loss));   // fast paths have shorter logarithms
    CHECK(dev.step == 1);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_layer_check(&after, &test_error), HASTE_OK, test_error);
    for (k = 0, bad = 0; k < layer.block_count; k++) {
        const haste_block *old = &layer.block[k], *now = &after.block[k];
        size_t weights = (size_t)test_weights(old), places = (size_t)test_places(old);
        float *g = (float *)test_alloc(weights * 4), *gb = (float *)test_alloc(places * 4);
        MUST(cudaMemcpy(g, gradient.weight[k], weights * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(gb, gradient.bias[k], places * 4, cudaMemcpyDeviceToHost));
        if (haste_cuda_path_of(&dev, &work, k, B, NULL) != HASTE_CUDA_GENERAL) {
            judge_update(&layer, old, now, &o, want.weight[k], want.bias[k], want.naive_weight[k], want.naive_bias[k],
                         shape->name);
            free(g);
            free(gb);
            continue;
        }
        for (i = 0; i < weights; i++) {
            double m = old->weight_state[0] ? (double)test_get(state, old->weight_state[0], i) : 0;
            double v = old->weight_state[1] ? (double)test_get(state, old->weight_state[1], i) : 0;
            double w = (double)test_get(dtype, old->weight, i), parts = fabs(m) + fabs((double)g[i]) + fabs(w);
            double new_w = haste_update_ref(optimizer, &o, 1, 1, w, (double)g[i], &m, &v);
            /* as if nothing cancelled; t = 1 */
            double change = optimizer == HASTE_ADAMW ? 10 * parts / (sqrt(1000 * v) + 1e-8) : parts;
            double slack = 4e-6 * (fabs(w) + (double)o.lr * change) + 1e-12;
            bad += !close_to(dtype, test_get(dtype, now->weight, i), new_w, slack);
            if (old->weight_state[0])
                bad += !close_to(state, test_get(state, now->weight_state[0], i), m,
                                 4e-6 * (fabs(m) + fabs((double)g[i]) + fabs(w)));
            if (old->weight_state[1])
                bad += !close_to(state, test_get(state, now->weight_state[1], i), v,
                                 4e-6 * (fabs(v) + (double)g[i] * (double)g[i]));
        }
        for (i = 0; i < places; i++) {
            double m = old->bias_state[0] ? (double)old->bias_state[0][i] : 0,
                v = old->bias_state[1] ? (double)old->bias_state[1][i] : 0;
            double new_b = haste_update_ref(optimizer, &o, 1, 0, (double)old->bias[i], (double)gb[i], &m, &v);
            bad += !(fabs((double)now->bias[i] - new_b) <= 4e-6 * (fabs(new_b) + fabs((double)old->bias[i]) + 1e-3));
        }
        free(g);
        free(gb);
    }
    CHECK(bad == 0);
    if (bad) printf("    %s, loss %d, optimizer %d, dtype %d, state %d, B %d: %d numbers\n", shape->name, loss, optimizer,
                    dtype, state, (int)B, bad);
    haste_cuda_gradient_free(&gradient);
    test_free_gradients(&want, &layer);
    free(logits); free(slopes); free(want_x); free(naive_logits); free(naive_slopes); free(naive_gx); free(naive_gx2);
    free(rounded); free(gx); free(gx2);
    cudaFree(x);
    cudaFree(dev_loss);
    if (device) free_lists(lists);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Something small of everything, for compute-sanitizer.
static void small()
{
    static const test_shape shapes[] = {
        { "S 16",  70,  64, 1, { { 0, 16, 16, 0, 0 } }, 1 },
        { "S 32",  77, 100, 1, { { 0, 32, 32, 0, 0 } }, 1 },
        { "S 64", 130, 100, 1, { { 0, 64, 16, 0, 0 } }, 1 },
        { "dense", 70,  48, 2, { { 40, 64, HASTE_DENSE, 0, 0 }, { 0, 24, 9, 3, 40 } }, 1 } };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW };
    int i, j, n = 0;
    for (i = 0; i < 4; i++) for (j = 0; j < 3; j++, n++) {
        backward_case(&shapes[i], HASTE_BF16, paths[j], n % 2, j ? 70 : 33, n % 3);
        step_case(&shapes[i], (haste_loss)(n % 3), (haste_optimizer)((n + j) % 3), HASTE_BF16, (haste_dtype)(n / 2 % 2),
                  j ? 70 : 33, n % 2, paths[j], 20.f);
    }
}

static void step()
{
    static const int32_t batches[] = { 1, 33, 64, 130 };
    int i, loss, optimizer, dtype, n = 0;
    for (i = 0; i < TEST_SHAPES; i++) for (loss = 0; loss < 3; loss++) for (dtype = 0; dtype < 2; dtype++)
        for (optimizer = 0; optimizer < 3; optimizer++, n++) {
        int32_t B = batches[(n + n / 4) % 4];
        if (test_shapes[i].inputs > 10000 && (B > 64 || optimizer == 1)) continue;
        step_case(&test_shapes[i], (haste_loss)loss, (haste_optimizer)optimizer, (haste_dtype)dtype,
                  (haste_dtype)((n / 2) % 2), B, n % 2, HASTE_CUDA_GENERAL, .25f);
    }
    CHECK(small_dropped >= 10);
}

// Larger ones, where weights, inputs and labels come in several runs and a group has many positives.
static void step_large()
{
    static const test_shape shapes[] = {
        { "F 200, S 256", 700, 400, 1, { { 0, 256, 200, 0, 0 } }, 1 },
        { "dense 300",    500, 300, 2, { { 100, 64, HASTE_DENSE, 0, 300 }, { 0, 32, 64, 0, 0 } }, 1 },
        { "S 72",         500, 128, 1, { { 0,  72,  65, 0, 0 } }, 0 },
        { "few groups",    17,  64, 1, { { 0,  16,  64, 0, 0 } }, 0 } };
    int i, loss, dtype;
    for (i = 0; i < 4; i++) for (loss = 0; loss < 3; loss++) for (dtype = 0; dtype < 2; dtype++)
        step_case(&shapes[i], (haste_loss)loss, HASTE_MOMENTUM, (haste_dtype)dtype, (haste_dtype)dtype, 200, loss % 2,
                  HASTE_CUDA_GENERAL, .25f);
}

// The fast paths, each forced where it takes a block; a large rate shows the gradient through the rounding of the weights.
static void step_fast()
{
    static const test_shape shapes[] = {
        { "wide S 32",        700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
        { "wide S 64",       1000, 160, 1, { { 0,  64, 128, 0, 0 } }, 1 },
        { "wide S 128",       300, 200, 1, { { 0, 128,  48, 8, 200 } }, 1 },
        { "wide, chunks",     500, 400, 1, { { 0,  64, 208, 0, 0 } }, 1 },
        { "dense and wide",   900, 208, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 32, 80, 16, 208 } }, 1 },
        { "narrow S 16",     1003, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "narrow S 32",      333, 256, 1, { { 0,  32,  48, 0, 0 } }, 1 },
        { "narrow F 128",     600, 384, 1, { { 0,  16, 128, 0, 0 } }, 0 },
        { "dense and narrow", 800, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 16, 32, 144, 288 } }, 1 } };
    static const int32_t batches[] = { 1, 37, 64, 100, 128, 200 };
    int i, loss, optimizer, n = 0;
    haste_cuda_layer probe;
    small_dropped = 0;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) {
        const haste_cuda_path path = strstr(shapes[i].name, "narrow") ? HASTE_CUDA_NARROW : HASTE_CUDA_WIDE;
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
        haste_layer layer = test_layer(&options);
        const char *why = "";
        probe = upload_for(&layer, path, 64);
        if (probe.path[probe.block_count - 1] != path) {   // says so rather than pass unseen
            haste_cuda_path_of(&probe, NULL, probe.block_count - 1, 64, &why);
            printf("    %s: not on this device: %s\n", shapes[i].name, why);
        } else for (loss = 0; loss < 3; loss++) for (optimizer = 0; optimizer < 3; optimizer++, n++) {
            int32_t B = batches[n % (path == HASTE_CUDA_NARROW ? 5 : 6)];
            step_case(&shapes[i], (haste_loss)loss, (haste_optimizer)optimizer, HASTE_BF16, (haste_dtype)(n / 2 % 2), B,
                      n % 2, path, optimizer == HASTE_ADAMW ? .25f : 32.0f);
        }
        haste_cuda_layer_free(&probe);
        haste_layer_free(&layer);
    }
    CHECK(small_dropped >= 10);
    // Momentum in bfloat16 where velocities have no room of their own on chip; one shape has several groups for each worker.
    {
        static const test_shape many = { "dense, many groups", 36000, 96, 1, { { 0, 64, HASTE_DENSE, 0, 0 } }, 0 };
        step_case(&many, HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_BF16, 100, 0, HASTE_CUDA_WIDE, 32.0f);
        for (i = 3; i < 5; i++) for (n = 2; n < 6; n++)
            step_case(&shapes[i], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_BF16, batches[n], n % 2, HASTE_CUDA_WIDE,
                      32.0f);
    }
}

// Two micro-batches and an update give what one batch gives.
static void accumulate()
{
    int dtype;
    for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = test_layer(&options), a = test_copy(&layer), b = test_copy(&layer);
        haste_cuda_layer one = upload(&layer), two = upload(&layer);
        haste_cuda_workspace work = workspace(&one, 64, 0);
        test_batch batch = test_make_batch(&layer, 64), rest = batch;
        haste_cuda_gradient gradient;
        haste_step_options o;
        size_t half = 32 * (size_t)layer.inputs, i;
        float *x = (float *)device_copy(batch.x, 2 * half * 4);
        int32_t k;
        int bad = 0;
        memset(&o, 0, sizeof o);
        o.lr = .01f;
        o.divisor = 64;
        rest.offset += 32;
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &two, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&one, &work, x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_accumulate(&two, &work, x, HASTE_CUDA_F32, 32, host_lists(&batch), &o, &gradient, NULL,
                                           NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_accumulate(&two, &work, x + half, HASTE_CUDA_F32, 32, host_lists(&rest), &o, &gradient,
                                           NULL, NULL, HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&two, &work, x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_ERR_STATE, test_error);
        CHECK_STATUS(haste_cuda_apply(&two, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK(two.step == 1 && two.pending == 0);
        haste_cuda_download(&one, &a, NULL, NULL);
        haste_cuda_download(&two, &b, NULL, NULL);
        for (k = 0; k < layer.block_count; k++)
            for (i = 0; i < (size_t)test_weights(&layer.block[k]); i++) {
                double v = (double)test_get(layer.dtype, a.block[k].weight, i),
                    w = (double)test_get(layer.dtype, b.block[k].weight, i);
                bad += !(fabs(v - w) <= (dtype ? .02 : 1e-5) * (fabs(v) + .05));
            }
        CHECK(bad == 0);
        {   // the buffers are 0 again
            float *g = (float *)test_alloc(gradient.bytes);
            size_t used = 0;
            MUST(cudaMemcpy(g, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
            for (i = 0; i < gradient.bytes / 4; i++) used += g[i] != 0;
            CHECK(used == 0);
            free(g);
        }
        cudaFree(x);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&one);
        haste_cuda_layer_free(&two);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&a);
        haste_layer_free(&b);
    }
}

// grad_x in bfloat16: added to what is there.
static void grad_x_bf16()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 64, 0);
    test_batch batch = test_make_batch(&layer, 50);
    size_t d = 50 * (size_t)layer.inputs, i;
    void *x = device_copy(batch.x, d * 4), *a = device_bytes(d * 4), *b = device_bytes(d * 2);
    float *wide, *narrow;
    haste_step_options o;
    int bad = 0;
    memset(&o, 0, sizeof o);
    MUST(cudaMemset(a, 0, d * 4));
    MUST(cudaMemset(b, 0, d * 2));
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 50, host_lists(&batch), &o, NULL, a, HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 50, host_lists(&batch), &o, NULL, b, HASTE_CUDA_BF16,
                                       NULL, &test_error), HASTE_OK, test_error);
    wide = take_numbers(a, d, HASTE_CUDA_F32);
    narrow = take_numbers(b, d, HASTE_CUDA_BF16);
    for (i = 0; i < d; i++) bad += !(fabs((double)wide[i] - (double)narrow[i]) <= fabs((double)wide[i]) / 250 + 1e-7);
    CHECK(bad == 0);
    free(wide); free(narrow);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

// Stochastic rounding: right in the mean, the same for the same seed and step, another for another step.
static void rounding()
{
    haste_layer_options options;
    haste_layer layer, a, b;
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    haste_step_options o;
    float x[1] = { 1 };
    int64_t offset[2] = { 0, 0 };
    int32_t id[1] = { 0 };
    haste_cuda_lists lists = { offset, id, 1 };
    void *dev_x;
    int64_t i, n, up = 0;
    int draw, draws = 4;
    double p = .3, sigma;
    memset(&options, 0, sizeof options);
    options.labels = 32768;
    options.inputs = 1;
    options.loss = HASTE_SQUARED_HINGE;
    options.dtype = HASTE_BF16;
    options.zero_weights = 1;
    options.seed = 11;
    CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
    n = layer.block[0].groups * 32;
    for (i = 0; i < n; i++) ((uint16_t *)layer.block[0].weight)[i] = 0x3f80;   // 1, so that z = 1 and the gradient 4
    a = test_copy(&layer);
    b = test_copy(&layer);
    dev_x = device_copy(x, 4);
    memset(&o, 0, sizeof o);
    o.lr = (float)(p * 0x1p-8 / 4);   // downwards from 1 a step of bfloat16 is 2^-8
    for (draw = 0; draw < draws; draw++) {
        int64_t moved = 0;
        layer.step = draw;
        dev = upload(&layer);
        work = workspace(&dev, 1, 0);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &a, NULL, NULL);
        for (i = 0; i < n; i++) {
            uint16_t w = ((uint16_t *)a.block[0].weight)[i];
            moved += w == 0x3f7f;
            if (w != 0x3f7f && w != 0x3f80) CHECK(w == 0x3f80);
        }
        up += moved;
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &b, NULL, NULL);
        CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) == 0);
        haste_cuda_layer_free(&dev);
        layer.step = draw + 100;
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &b, NULL, NULL);
        CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) != 0);
        haste_cuda_layer_free(&dev);
        haste_cuda_workspace_free(&work);
    }
    sigma = sqrt(p * (1 - p) / (double)(n * draws));
    CHECK_NEAR((double)up / (double)(n * draws), p, 5 * sigma);
    cudaFree(dev_x);
    haste_layer_free(&layer);
    haste_layer_free(&a);
    haste_layer_free(&b);
}

// What rounding makes of n numbers that all lie a share p of the way from `low` to the next bfloat16, `high` (bit patterns):
// either one or the other; the latter as often as p says, over all, over each place of a group (a noise that is the same in
// each group, or leans to one side there, shows), and over each group (one that is the same within a group).
static void judge_rounding(const uint16_t *array, int64_t groups, int64_t each, uint16_t low, uint16_t high, double p,
                           const char *what)
{
    int64_t *of_place = (int64_t *)test_zeros((size_t)each * 8), up = 0, other = 0, g, i;
    const double n = (double)groups * (double)each;
    double places = 0, all_groups = 0;
    for (g = 0; g < groups; g++) {
        int64_t count = 0;
        for (i = 0; i < each; i++) {
            const uint16_t v = array[g * each + i];
            count += v == high;
            of_place[i] += v == high;
            other += v != high && v != low;
        }
        up += count;
        all_groups += ((double)count - p * (double)each) * ((double)count - p * (double)each) / (p * (1 - p) * (double)each);
    }
    for (i = 0; i < each; i++)
        places += ((double)of_place[i] - p * (double)groups) * ((double)of_place[i] - p * (double)groups)
                / (p * (1 - p) * (double)groups);
    CHECK(other == 0);
    // 2^-16: noise has 16 bits; the rest are sums of squares of normal numbers, near enough
    if (!(CHECK_NEAR((double)up / n, p, 5.5 * sqrt(p * (1 - p) / n) + 0x1p-15) &
          CHECK_NEAR(places, (double)each, 8 * sqrt(2 * (double)each)) &
          CHECK_NEAR(all_groups, (double)groups, 8 * sqrt(2 * (double)groups)) & (other == 0)))
        printf("    %s, p %g, %lld numbers, %lld of them neither\n", what, p, (long long)n, (long long)other);
    free(of_place);
}

/* Stochastic rounding of weights and states on a path: the mean is right, the same seed and step round the same, others
   otherwise. All weights are 1 or -1 and all have the gradient 1/16 or -1/16, exactly; rates and decays are such that what
   is to be rounded lies a share p of the way between two numbers. turn: which signs. */
static void rounding_on(const test_shape *shape, haste_cuda_path path, int32_t B, haste_optimizer optimizer, double p,
                        int turn)
{
    const int minus = turn & 1, up = turn >> 1 & 1,
        grows = minus != up;   /* weights below 0; gradients below 0; |w| grows */
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, optimizer, HASTE_BF16, HASTE_BF16);
    haste_layer layer, a, b;
    haste_cuda_workspace work;
    haste_step_options o;
    const double slope = up ? -1. / 16 : 1. / 16, ulp = grows ? 0x1p-7 : 0x1p-8;
    double m = 0, v = 0, change;
    int64_t *offset, i, n;
    int32_t *id;
    float *x;
    void *dev_x;
    uint16_t *w;
    int run;
    options.zero_weights = 1;
    options.seed = 11 + (uint64_t)turn;
    CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
    layer.step = 5 + turn;
    n = test_weights(&layer.block[0]);
    w = (uint16_t *)layer.block[0].weight;
    for (i = 0; i < n; i++) {
        w[i] = minus ? 0xbf80 : 0x3f80;
        if (layer.block[0].weight_state[0]) ((uint16_t *)layer.block[0].weight_state[0])[i] = up ? 0xbf80 : 0x3f80;
        if (layer.block[0].weight_state[1]) ((uint16_t *)layer.block[0].weight_state[1])[i] = 0x3f80;
    }
    // x is 1/64 in sample 0, else 0; biases turn its logits to 1 (no positives), or to -1 (all are): dz = 4 or -4
    for (i = 0; i < test_places(&layer.block[0]); i++)
        layer.block[0].bias[i] = (up ? -1.f : 1.f) - (minus ? -1.f : 1.f) * (float)layer.block[0].fan_in / 64;
    x = (float *)test_zeros((size_t)B * (size_t)layer.inputs * 4);
    for (i = 0; i < layer.inputs; i++) x[i] = 1.f / 64;
    id = (int32_t *)test_alloc((size_t)layer.labels * 4);
    for (i = 0; i < layer.labels; i++) id[i] = (int32_t)i;
    offset = (int64_t *)test_zeros(((size_t)B + 1) * 8);
    for (i = 1; i <= B; i++) offset[i] = up ? layer.labels : 0;
    memset(&o, 0, sizeof o);
    o.divisor = 1;
    change = fabs(slope);
    if (optimizer == HASTE_MOMENTUM) {   // 246/256 is a bfloat16 number, 247/256 the next
        o.momentum = (float)((246 + p) / 256 - 1. / 16);
        m = change = (double)o.momentum + 1. / 16;
    } else if (optimizer == HASTE_ADAMW) {
        const double t = (double)layer.step + 1;
        o.beta1 = (float)(((246 + p) / 256 - 1. / 16) * 16 / 15);
        o.beta2 = (float)(((246 + p) / 256 - 1. / 256) * 256 / 255);
        m = (double)o.beta1 + (1 - (double)o.beta1) / 16;
        v = (double)o.beta2 + (1 - (double)o.beta2) / 256;
        change = m / (1 - pow((double)o.beta1, t)) / (sqrt(v / (1 - pow((double)o.beta2, t))) + 1e-8);
    }
    o.lr = (float)(p * ulp / change);
    a = test_copy(&layer);
    b = test_copy(&layer);
    dev_x = device_copy(x, (size_t)B * (size_t)layer.inputs * 4);
    for (run = 0; run < (turn ? 1 : 4); run++) {   // again; another step; another seed
        haste_cuda_lists lists = { offset, id, 1 };
        haste_cuda_layer dev;
        layer.step = 5 + turn + (run == 2);
        layer.seed += run == 3;
        dev = upload_for(&layer, path, B);
        work = workspace(&dev, B, 0);
        CHECK(haste_cuda_path_of(&dev, &work, 0, B, NULL) == path);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, B, lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, run ? &b : &a, NULL, &test_error), HASTE_OK, test_error);
        if (run == 1) CHECK(test_difference(&a, &b) == NULL);
        if (run >= 2) CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) != 0);
        if (run >= 2 && m > 0) CHECK(memcmp(a.block[0].weight_state[0], b.block[0].weight_state[0], (size_t)n * 2) != 0);
        if (run >= 2 && v > 0) CHECK(memcmp(a.block[0].weight_state[1], b.block[0].weight_state[1], (size_t)n * 2) != 0);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
    }
    {
        const int64_t groups = layer.block[0].groups, each = n / groups;
        const uint16_t one = minus ? 0xbf80 : 0x3f80, sign = up ? 0x8000 : 0;
        judge_rounding((const uint16_t *)a.block[0].weight, groups, each, one, (uint16_t)(grows ? one + 1 : one - 1), p,
                       shape->name);
        if (m > 0) judge_rounding((const uint16_t *)a.block[0].weight_state[0], groups, each, (uint16_t)(0x3f76 | sign),
                                  (uint16_t)(0x3f77 | sign), m * 256 - 246, "momentum, or the first moment");
        if (v > 0) judge_rounding((const uint16_t *)a.block[0].weight_state[1], groups, each, 0x3f76, 0x3f77, v * 256 - 246,
                                  "the second moment");
    }
    free(x); free(id); free(offset);
    cudaFree(dev_x);
    haste_layer_free(&layer);
    haste_layer_free(&a);
    haste_layer_free(&b);
}

static void rounding_paths()
{
    static const test_shape shapes[] = {   // F = D; no padding
        { "S 32, F 64",    8192,  64, 1, { { 0,  32,  64, 0, 0 } }, 0 },
        { "S 64, F 128",   8192, 128, 1, { { 0,  64, 128, 0, 0 } }, 0 },
        { "S 128, F 208",  8192, 208, 1, { { 0, 128, 208, 0, 0 } }, 0 },
        { "S 16, F 64",    4096,  64, 1, { { 0,  16,  64, 0, 0 } }, 0 },
        { "S 32, F 48",    8192,  48, 1, { { 0,  32,  48, 0, 0 } }, 0 },
        { "S 16, F 128",   4096, 128, 1, { { 0,  16, 128, 0, 0 } }, 0 } };
    static const struct { int shape; haste_cuda_path path; int32_t B; } cases[] = {
        { 0, HASTE_CUDA_GENERAL, 1 }, { 0, HASTE_CUDA_WIDE, 1 }, { 1, HASTE_CUDA_WIDE, 64 }, { 2, HASTE_CUDA_WIDE, 1 },
        { 3, HASTE_CUDA_NARROW, 1 }, { 4, HASTE_CUDA_NARROW, 128 }, { 5, HASTE_CUDA_NARROW, 64 } };
    static const double shares[] = { .1, .5, .9 };
    int i, optimizer, turn;
    for (i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        const test_shape *shape = &shapes[cases[i].shape];
        haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer probe = upload_for(&layer, cases[i].path, cases[i].B);
        if (probe.path[0] != cases[i].path) printf("    %s: not on this device\n", shape->name);
        else for (optimizer = 0; optimizer < 3; optimizer++) for (turn = 0; turn < 4; turn++)
            rounding_on(shape, cases[i].path, cases[i].B, (haste_optimizer)optimizer, shares[(turn + optimizer + i) % 3],
                        turn);
        haste_cuda_layer_free(&probe);
        haste_layer_free(&layer);
    }
}

// The deterministic mode: the same bits of weights, states, loss and grad_x in 100 runs, each from the same layer and from a
// workspace that holds other rubbish. Would catch atomics on the way to grad_x (in the fast mode most runs differ), sums
// whose order hangs on which thread block comes first, and what a call takes over from the one before.
static int same_runs = 100;   // HASTE_TEST_RUNS=3: fewer, for compute-sanitizer

static void scramble(const haste_cuda_workspace *work, int run)
{
    MUST(cudaMemset(work->memory, run * 85 & 0xff, work->bytes));
    MUST(cudaMemset(work->flag, 0, HASTE__CU_FLAGS * 4));
}

static haste_cuda_workspace chunked(const haste_cuda_layer *layer, int32_t B, int deterministic, int32_t chunks)
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

static void deterministic_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                               haste_cuda_path path, int32_t B, int32_t chunks)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, HASTE_BF16);
    haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer);
    zeroed = 1;
    haste_cuda_layer dev = upload_for(&layer, path, B < 128 ? B : 128), general = upload_for(&layer, HASTE_CUDA_GENERAL, B);
    zeroed = 0;
    haste_cuda_workspace work = chunked(&dev, B, 1, chunks), fast = chunked(&dev, B, 0, 0);
    test_batch batch = test_make_batch(&layer, B);
    size_t d = (size_t)B * (size_t)layer.inputs, all = dev.bytes + d * 4 + 8;
    void *x = device_copy(batch.x, d * 4), *dev_gx = device_bytes(d * 4), *dev_loss = device_bytes(8), *start;
    char *first = (char *)test_alloc(all), *now = (char *)test_alloc(all);
    haste_step_options o;
    int run, differ = 0, same_path = 1, falls_back = 1;
    int32_t k;
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    MUST(cudaMalloc(&start, dev.bytes));
    MUST(cudaMemcpy(start, dev.memory, dev.bytes, cudaMemcpyDeviceToDevice));
    for (run = 0; run <= same_runs; run++) {   // the last one: fast mode
        haste_cuda_workspace *w = run < same_runs ? &work : &fast;
        char *to = run ? now : first;
        scramble(w, run);
        MUST(cudaMemcpy(dev.memory, start, dev.bytes, cudaMemcpyDeviceToDevice));
        MUST(cudaMemset(dev_gx, 0, d * 4));
        dev.step = 0;
        CHECK_STATUS(haste_cuda_train_step(&dev, w, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, (double *)dev_loss, dev_gx,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(w, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(to, dev.memory, dev.bytes, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + dev.bytes, dev_gx, d * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + dev.bytes + d * 4, dev_loss, 8, cudaMemcpyDeviceToHost));
        if (run && run < same_runs) differ += memcmp(first, now, all) != 0;
    }
    CHECK(differ == 0);
    for (k = 0; k < layer.block_count; k++) {
        same_path &= haste_cuda_path_of(&dev, &work, k, B, NULL) == haste_cuda_path_of(&dev, &fast, k, B, NULL);
        falls_back &= haste_cuda_path_of(&dev, &work, k, B, NULL) == HASTE_CUDA_GENERAL;
    }
    if (same_path) CHECK(memcmp(first, now, dev.bytes) == 0);   // weights do not depend on the mode
    if (falls_back) {   // the general kernels make the same of every order of weights
        float *gx;
        MUST(cudaMemset(dev_gx, 0, d * 4));
        CHECK_STATUS(haste_cuda_train_step(&general, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, NULL, dev_gx,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&general, &one, NULL, &test_error), HASTE_OK, test_error);
        gx = (float *)host_copy(dev_gx, d * 4);
        CHECK(memcmp(gx, first + dev.bytes, d * 4) == 0);
        free(gx);
        MUST(cudaMemcpy(dev.memory, first, dev.bytes, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_download(&dev, &two, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&one, &two) == NULL);
        CHECK(test_difference(&layer, &one) != NULL);
    }
    if (differ) printf("    %s, path %d, B %d, optimizer %d: %d of %d runs differ\n", shape->name, (int)path, (int)B,
                       (int)optimizer, differ, same_runs);
    free(first); free(now);
    free(host_take(dev_gx, d * 4));
    cudaFree(x); cudaFree(dev_loss); cudaFree(start);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_workspace_free(&fast);
    haste_cuda_layer_free(&dev);
    haste_cuda_layer_free(&general);
    haste_layer_free(&layer);
    haste_layer_free(&one);
    haste_layer_free(&two);
}

// Likewise gradients from given logit gradients.
static void deterministic_given(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload_for(&layer, path, B < 128 ? B : 128);
    haste_cuda_workspace work = chunked(&dev, B, 1, 5);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, B);
    size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs, i, all;
    float *slopes = (float *)test_alloc(n * 4);
    void *x = device_copy(batch.x, d * 4), *dev_gx = device_bytes(d * 4), *dev_slopes;
    char *first, *now;
    int run, differ = 0;
    for (i = 0; i < n; i++) slopes[i] = check_normal() * .01f;
    dev_slopes = device_numbers(slopes, n, HASTE_CUDA_BF16);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    all = gradient.bytes + d * 4;
    first = (char *)test_alloc(all);
    now = (char *)test_alloc(all);
    for (run = 0; run < same_runs; run++) {
        char *to = run ? now : first;
        scramble(&work, run);
        MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
        MUST(cudaMemset(dev_gx, 0, d * 4));
        CHECK_STATUS(haste_cuda_backward(&dev, &work, x, HASTE_CUDA_F32, B, dev_slopes, HASTE_CUDA_BF16, &gradient, dev_gx,
                                         HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(to, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + gradient.bytes, dev_gx, d * 4, cudaMemcpyDeviceToHost));
        if (run) differ += memcmp(first, now, all) != 0;
    }
    CHECK(differ == 0);
    if (differ) printf("    %s, path %d, B %d: %d runs differ\n", shape->name, (int)path, (int)B, differ);
    free(first); free(now); free(slopes);
    cudaFree(x); cudaFree(dev_gx); cudaFree(dev_slopes);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void deterministic()
{
    static const test_shape shapes[] = {
        { "narrow S 16",     12011, 128, 1, { { 0, 16,  64, 0, 0 } }, 0 },
        { "narrow S 32",      4003, 256, 1, { { 0, 32,  48, 0, 0 } }, 1 },
        { "dense, narrow",    2500, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 16, 32, 144, 288 } }, 1 },
        { "wide S 64",        2000, 160, 1, { { 0, 64, 128, 0, 0 } }, 1 },
        { "dense, wide",      2000, 208, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 32, 80, 16, 208 } }, 1 } };
    int i;
    for (i = 0; i < 2; i++)
        deterministic_case(&test_shapes[11], HASTE_SOFTMAX, HASTE_ADAMW, (haste_dtype)i, HASTE_CUDA_GENERAL, 70, 5);
    deterministic_case(&shapes[3], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_GENERAL, 130, 64);
    deterministic_case(&shapes[0], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_NARROW, 64, 5);
    deterministic_case(&shapes[0], HASTE_SOFTMAX, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_NARROW, 128, 64);
    deterministic_case(&shapes[1], HASTE_SQUARED_HINGE, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_NARROW, 128, 5);
    deterministic_case(&shapes[1], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_NARROW, 33, 64);
    deterministic_case(&shapes[2], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_NARROW, 100, 5);
    deterministic_case(&shapes[1], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_NARROW, 200, 5);   // too many for it
    deterministic_case(&shapes[3], HASTE_SOFTMAX, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_WIDE, 128, 5);
    deterministic_case(&shapes[4], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_WIDE, 64, 64);
    for (i = 0; i < 2; i++) deterministic_given(&test_shapes[11], (haste_dtype)i, HASTE_CUDA_GENERAL, 70);
    deterministic_given(&shapes[1], HASTE_BF16, HASTE_CUDA_NARROW, 128);
    deterministic_given(&shapes[3], HASTE_BF16, HASTE_CUDA_WIDE, 130);
    deterministic_given(&shapes[4], HASTE_BF16, HASTE_CUDA_GENERAL, 64);
}

// More chunks than the fast mode has thread blocks for so large a batch: each has its logit gradients to itself.
static void many_chunks()
{
    static const test_shape shape = { "F above 64", 8192, 80, 1, { { 0, 8, 72, 0, 0 } }, 0 };
    enum { B = 640 };
    haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer);
    test_batch batch = test_make_batch(&layer, B);
    void *x = device_copy(batch.x, B * 80 * 4);
    haste_step_options o;
    int many;
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    for (many = 0; many < 2; many++) {
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work;
        haste_cuda_workspace_options work_options;
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = B;
        work_options.deterministic = many;
        work_options.chunks = 1024;
        CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, NULL, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, many ? &two : &one, NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
    }
    CHECK(test_difference(&one, &two) == NULL);
    CHECK(test_difference(&layer, &one) != NULL);
    cudaFree(x);
    test_free_batch(&batch);
    haste_layer_free(&layer);
    haste_layer_free(&one);
    haste_layer_free(&two);
}

// ---- prediction ------------------------------------------------------------------------------------------------------

// Small whole numbers: every sum is exact in any order and type, and there are many ties.
static haste_layer whole_layer(const haste_layer_options *options)
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
static void whole_x(test_batch *batch, const haste_layer *layer)
{
    size_t i;
    for (i = 0; i < (size_t)batch->B * (size_t)layer->inputs; i++) batch->x[i] = (float)((int)(check_random() % 5) - 2);
}

// n varies what else there is to vary: types, where lists lie, whether scores are wanted.
static void top_k_case(const test_shape *shape, haste_dtype dtype, int path, int32_t B, int32_t k, int with, int n)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch;
    haste_cuda_lists excluded;
    double *logits, want_score[64];
    int32_t want_id[64], *id, b, r;
    float *score;
    void *x, *dev_id, *dev_score;
    int bad = 0;
    if (!upload_on(&dev, &layer, path, B < 128 ? B : 128)) { haste_layer_free(&layer); return; }
    work = workspace(&dev, B > 100 ? B : 100, 0);
    batch = test_make_batch(&layer, B);
    excluded = n % 3 ? device_lists(&batch) : host_lists(&batch);
    logits = test_doubles((size_t)B * (size_t)layer.slots);
    dev_id = device_bytes((size_t)B * (size_t)k * 4);
    dev_score = device_bytes((size_t)B * (size_t)k * 4);
    whole_x(&batch, &layer);
    x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, (haste_cuda_type)(n % 3));
    haste_forward_ref(&layer, batch.x, B, logits);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, (haste_cuda_type)(n % 3), B, k, with ? &excluded : NULL, (int32_t *)dev_id,
                                  n % 5 ? (float *)dev_score : NULL, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    id = (int32_t *)host_take(dev_id, (size_t)B * (size_t)k * 4);
    score = (float *)host_take(dev_score, (size_t)B * (size_t)k * 4);
    for (b = 0; b < B; b++) {
        haste_top_k_ref(&layer, logits + (size_t)b * (size_t)layer.slots, k, batch.id + batch.offset[b],
                        with ? batch.offset[b + 1] - batch.offset[b] : 0, want_id, want_score);
        for (r = 0; r < k; r++) {
            bad += id[b * k + r] != want_id[r];
            if (n % 5) bad += (double)score[b * k + r] != want_score[r];
        }
    }
    CHECK(bad == 0);
    if (bad) printf("    %s, dtype %d, path %d, B %d, k %d, excluded %d: %d differ\n", shape->name, (int)dtype, path, (int)B,
                    (int)k, with, bad);
    free(id); free(score); free(logits);
    cudaFree(x);
    if (!excluded.on_host) free_lists(excluded);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void top_k_general()
{
    static const int32_t batches[] = { 1, 3, 4, 37, 100 }, depths[] = { 1, 5, 33, 64 };
    int i, dtype, j, n = 0, with;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 5; j++)
        for (with = 0; with < 2; with++, n++)
            top_k_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_AUTO,
                       test_shapes[i].inputs > 10000 && j > 2 ? 9 : batches[j], depths[n % 4], with, n);
}

// The shapes of the fast kernels, on each path.
static void top_k_shapes(const int32_t *batches, int count)
{
    static const int32_t depths[] = { 1, 5, 33, 64 };
    int i, j, n = 0, with, path;
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (j = 0; j < count; j++) for (with = 0; with < 2; with++, n++)
            top_k_case(&panel_shapes[i], HASTE_BF16, path, batches[j], depths[n / 2 % 4], with, n);
}

// Few samples: the streaming kernels.
static void top_k_few()
{
    static const int32_t batches[] = { 1, 2, 4, 5, 8 };
    static const test_shape many_inputs = { "12,000 inputs", 300, 12000, 1, { { 0, 32, 64, 0, 0 } }, 1 };
    int j, path;
    top_k_shapes(batches, 5);
    for (j = 0; j < 5; j++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_WIDE; path++)   // x beyond shared memory
        top_k_case(&many_inputs, HASTE_BF16, path, batches[j], 5, path % 2, j);
}

// More of them: the panel kernels.
static void top_k_panel()
{
    static const int32_t batches[] = { 9, 70, 130 };
    top_k_shapes(batches, 3);
    top_k_case(&panel_shapes[3], HASTE_BF16, HASTE_CUDA_GENERAL, 2100, 5, 0, 0);   // more tiles than there are parts
}

// The best of B samples and their scores, from x (float32) on the host; free both.
static void best_of(const haste_cuda_layer *dev, haste_cuda_workspace *work, const float *x, int32_t B, int32_t k,
                    const haste_cuda_lists *excluded, int32_t **id, float **score)
{
    const size_t n = (size_t)B * (size_t)k;
    void *dev_x = device_copy(x, (size_t)B * (size_t)dev->inputs * 4), *dev_id = device_bytes(n * 4),
        *dev_score = device_bytes(n * 4);
    CHECK_STATUS(haste_cuda_top_k(dev, work, dev_x, HASTE_CUDA_F32, B, k, excluded, (int32_t *)dev_id, (float *)dev_score,
                                  NULL, &test_error), HASTE_OK, test_error);
    *id = (int32_t *)host_take(dev_id, n * 4);
    *score = (float *)host_take(dev_score, n * 4);
    cudaFree(dev_x);
}

// Of few samples, x counts to 16 bits: the scores' errors are far below what rounding x to bfloat16 costs.
static void top_k_precise()
{
    int path;
    int32_t B, b, r;
    for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++) for (B = 1; B <= 4; B++) {
        haste_layer_options options = test_options(&panel_shapes[3], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev = upload_for(&layer, (haste_cuda_path)path, B);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        test_batch batch = test_make_batch(&layer, B);
        const size_t n = (size_t)B * (size_t)layer.slots;
        double *want = test_doubles(n), *coarse = test_doubles(n), error = 0, rounding = 0;
        float *rounded = naive_x(&layer, &batch), *score;
        int32_t *id;
        haste_forward_ref(&layer, batch.x, B, want);
        haste_forward_ref(&layer, rounded, B, coarse);
        best_of(&dev, &work, batch.x, B, 33, NULL, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        for (b = 0; b < B; b++) for (r = 0; r < 33; r++) {
            const size_t at = (size_t)b * (size_t)layer.slots + (size_t)layer.slot_of[id[b * 33 + r]];
            error = fmax(error, fabs((double)score[b * 33 + r] - want[at]));
            rounding = fmax(rounding, fabs(coarse[at] - want[at]));
            if (r) CHECK(score[b * 33 + r - 1] >= score[b * 33 + r]);
        }
        CHECK(rounding > 0 && error < rounding / 16);
        if (!(error < rounding / 16))
            printf("    path %d, B %d: error %g, of rounding x %g\n", path, (int)B, error, rounding);
        free(id); free(score); free(want); free(coarse); free(rounded);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

// Nothing but ties, of more labels than a merge looks at together: the smallest ids, but for those excluded.
static void top_k_ties()
{
    static const int32_t batches[] = { 1, 4, 7, 20 };
    static const test_shape shape = { "ties", 20000, 64, 1, { { 0, 32, 16, 0, 0 } }, 0 };
    int dtype, j, with;
    for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 4; j++) for (with = 0; with < 2; with++) {
        const int32_t B = batches[j], k = 64;
        haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        test_batch batch = test_make_batch(&layer, B);
        haste_cuda_lists excluded;
        int64_t offset[21];
        int32_t *id, *banned = (int32_t *)test_alloc(100 * (size_t)B * 4), b, r, bad = 0;
        float *score;
        memset(layer.block[0].weight, 0, (size_t)test_weights(&layer.block[0]) * (dtype == HASTE_BF16 ? 2 : 4));
        for (r = 0; r < layer.block[0].labels; r++) layer.block[0].bias[r] = 1.5f;
        for (b = 0; b < B; b++) for (r = 0; r < 100; r++) banned[b * 100 + r] = b + 2 * (99 - r);
        for (b = 0; b <= B; b++) offset[b] = 100 * b;
        excluded.offset = offset;
        excluded.id = banned;
        excluded.on_host = 1;
        dev = upload(&layer);
        work = workspace(&dev, B, 0);
        best_of(&dev, &work, batch.x, B, k, with ? &excluded : NULL, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        for (b = 0; b < B; b++) {
            int32_t next = 0;
            for (r = 0; r < k; r++, next++) {
                while (with && next >= b && next <= b + 198 && (next - b) % 2 == 0) next++;
                bad += id[b * k + r] != next || score[b * k + r] != 1.5f;
            }
        }
        CHECK(bad == 0);
        if (bad) printf("    dtype %d, B %d, excluded %d: %d differ\n", dtype, (int)B, with, (int)bad);
        free(id); free(score); free(banned);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

// Excluded ids that are none, on the device: flagged whatever the batch, and passed over.
static void top_k_bad_ids()
{
    static const int32_t batches[] = { 1, 3, 4, 8, 40 };
    int dtype, j, kind;
    for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 5; j++) for (kind = 0; kind < 4; kind++) {
        const int32_t B = batches[j], k = 5, b = B - 1;
        haste_layer_options options = test_options(&panel_shapes[3], HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = whole_layer(&options);
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        test_batch batch = test_make_batch(&layer, B);
        haste_cuda_lists lists;
        int64_t offset[41];
        int32_t banned[120], *id, *want, i;
        float *score, *want_score;
        char sample[40];
        whole_x(&batch, &layer);
        for (i = 0; i < 3 * B; i++) banned[i] = i * 5 % layer.labels;
        for (i = 0; i <= B; i++) offset[i] = 3 * i;
        lists.on_host = 1;
        lists.offset = offset;
        lists.id = banned;
        banned[3 * b + 1] = banned[3 * b + 2];   // this one will be none
        best_of(&dev, &work, batch.x, B, k, &lists, &want, &want_score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        banned[3 * b + 1] = kind == 0 ? -1 : kind == 1 ? layer.labels : kind == 2 ? INT32_MIN : INT32_MAX;
        lists.on_host = 0;
        lists.offset = (const int64_t *)device_copy(offset, ((size_t)B + 1) * 8);
        lists.id = (const int32_t *)device_copy(banned, (size_t)B * 12);
        best_of(&dev, &work, batch.x, B, k, &lists, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        snprintf(sample, sizeof sample, "sample %d ", (int)b);
        CHECK(strstr(test_error.text, sample) != NULL);
        CHECK(memcmp(id, want, (size_t)B * (size_t)k * 4) == 0 && memcmp(score, want_score, (size_t)B * (size_t)k * 4) == 0);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free(id); free(want); free(score); free(want_score);
        free_lists(lists);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

static int find_id(const int32_t *id, int64_t n, int32_t wanted)
{
    int64_t i;
    for (i = 0; i < n; i++) if (id[i] == wanted) return 1;
    return 0;
}

static void above_case(const test_shape *shape, haste_dtype dtype, int path, int with)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer dev = upload_for(&layer, (haste_cuda_path)path, 70);
    int32_t B = layer.inputs > 10000 ? 3 : 70, b;
    haste_cuda_workspace work = workspace(&dev, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    haste_cuda_lists excluded = host_lists(&batch);
    static int turn;
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3);
    double *logits = test_doubles((size_t)B * (size_t)layer.slots);
    size_t capacity = (size_t)B * (size_t)layer.labels;
    void *x, *dev_offset = device_bytes(((size_t)B + 1) * 8), *dev_id = device_bytes(capacity * 4),
        *dev_score = device_bytes(capacity * 4);
    int64_t needed = -1, *offset, slot, at, total = 0, first_needed;
    int32_t *id;
    float *score, threshold = 2;
    int bad = 0;
    turn++;
    whole_x(&batch, &layer);
    x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, x_type);
    haste_forward_ref(&layer, batch.x, B, logits);
    haste_cuda_above(&dev, &work, x, x_type, B, threshold, with ? &excluded : NULL, (int64_t *)dev_offset, NULL,
                     NULL, 0, &first_needed, NULL, &test_error);
    CHECK_STATUS(haste_cuda_above(&dev, &work, x, x_type, B, threshold, with ? &excluded : NULL,
                                  (int64_t *)dev_offset, (int32_t *)dev_id,
                                  (float *)dev_score, (int64_t)capacity, &needed, NULL, &test_error), HASTE_OK,
                                      test_error);
    CHECK(needed == first_needed);
    offset = (int64_t *)host_take(dev_offset, ((size_t)B + 1) * 8);
    id = (int32_t *)host_take(dev_id, capacity * 4);
    score = (float *)host_take(dev_score, capacity * 4);
    for (b = 0; b < B; b++) {
        int64_t own = 0;
        bad += offset[b] != total;
        for (slot = 0; slot < layer.slots; slot++) {
            int32_t label = layer.label_of[slot];
            if (label < 0 || !(logits[b * layer.slots + slot] > (double)threshold)) continue;
            if (with && find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], label)) continue;
            own++;
            bad += !find_id(id + offset[b], offset[b + 1] - offset[b], label);
        }
        for (at = offset[b]; at < offset[b + 1]; at++) {
            bad += (double)score[at] != logits[b * layer.slots + layer.slot_of[id[at]]];
            if (at > offset[b]) bad += !(score[at - 1] > score[at] ||
                                         (score[at - 1] == score[at] && id[at - 1] < id[at]));
        }
        total += own;
    }
    CHECK(bad == 0 && total == needed && offset[B] == total);
    if (total > 0)
        CHECK_STATUS(haste_cuda_above(&dev, &work, x, x_type, B, threshold, with ? &excluded : NULL, work.count,
                                      (int32_t *)x, (float *)x, total - 1,
                                      &needed, NULL, &test_error), HASTE_ERR_SIZE, test_error);
    free(offset); free(id); free(score); free(logits);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void above()
{
    int i, dtype, with, path;
    for (with = 0; with < 2; with++) {
        for (i = 0; i < TEST_SHAPES; i++)
            for (dtype = 0; dtype < 2; dtype++) above_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_GENERAL, with);
        for (i = 0; i < PANEL_SHAPES; i++)
            for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
                above_case(&panel_shapes[i], HASTE_BF16, path, with);
    }
}

static void score_case(const test_shape *shape, int dtype, int path)
{
    static int turn;
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3);
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = path == HASTE_CUDA_AUTO ? upload(&layer) : upload_for(&layer, (haste_cuda_path)path, 40);
    haste_cuda_workspace work = workspace(&dev, 40, 0);
    test_batch batch = test_make_batch(&layer, 40);
    haste_cuda_lists lists = dtype ? device_lists(&batch) : host_lists(&batch);
    size_t n = (size_t)(batch.offset[40] - batch.offset[0]);
    void *x = device_numbers(batch.x, 40 * (size_t)layer.inputs, x_type), *dev_score = device_bytes(n * 4);
    double *logits = test_doubles(40 * (size_t)layer.slots);
    float *got, *naive = (float *)test_alloc(40 * (size_t)layer.slots * 4);
    test_errors got_errors = {}, naive_errors = {};
    int32_t b;
    int64_t j;
    turn++;
    haste_forward_ref(&layer, batch.x, 40, logits);
    naive_forward(&layer, batch.x, 40, naive);
    CHECK_STATUS(haste_cuda_score(&dev, &work, x, x_type, 40, lists, (float *)dev_score, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_take(dev_score, n * 4);
    for (b = 0; b < 40; b++) for (j = batch.offset[b]; j < batch.offset[b + 1]; j++) {
        size_t at = (size_t)b * (size_t)layer.slots + (size_t)layer.slot_of[batch.id[j]];
        test_add_error(&got_errors, (double)got[j - batch.offset[0]], logits[at]);
        test_add_error(&naive_errors, (double)naive[at], logits[at]);
    }
    test_judge(&got_errors, &naive_errors, "score", __LINE__);
    free(got); free(logits); free(naive);
    cudaFree(x);
    if (dtype) free_lists(lists);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void score()
{
    int i, dtype, path;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++)
        score_case(&test_shapes[i], dtype, HASTE_CUDA_AUTO);
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        score_case(&panel_shapes[i], 1, path);
}

// ---- rewiring --------------------------------------------------------------------------------------------------------

// The CPU and the device move the same places. Whole numbers and the hinge make gradients exact, so that growth agrees too.
static void rewire()
{
    static const test_shape shapes[] = {
        { "S 16", 260, 64, 1, { { 0, 16, 16, 0, 0 } }, 1 }, { "S 24", 77, 33, 1, { { 0, 24, 17, 0, 0 } }, 1 },
        { "S 128", 300, 170, 1, { { 0, 128, 70, 0, 0 } }, 0 }, { "F near D", 90, 20, 1, { { 0, 40, 19, 0, 0 } }, 0 },
        { "head and tail", 200, 64, 3, { { 20, 8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } }, 1 } };
    int i, dtype, scope, growth, prune, uniform;
    for (i = 0; i < 5; i++) for (dtype = 0; dtype < 2; dtype++) for (scope = 0; scope < 2; scope++)
        for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++) {
        haste_layer_options options = test_options(&shapes[i], HASTE_SQUARED_HINGE, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer = whole_layer(&options), back;
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        haste_workspace host_work = test_workspace(&layer, 32, 1, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 32);
        haste_rewire_options o;
        int64_t moved = -1, host_moved = -2;
        void *x;
        const char *difference;
        size_t k;
        whole_x(&batch, &layer);
        // slopes below 256: exact in bfloat16
        for (k = 0; k < 32 * (size_t)layer.inputs; k++) batch.x[k] = batch.x[k] > 0 ? 1.0f : 0.0f;
        dev = upload(&layer);
        work = workspace(&dev, 32, 0);
        x = device_numbers(batch.x, 32 * (size_t)layer.inputs, (haste_cuda_type)((i + scope + prune) % 3));
        back = test_copy(&layer);
        memset(&o, 0, sizeof o);
        o.share = .35f;
        o.scope = (haste_scope)scope;
        o.growth = (haste_growth)growth;
        o.prune = (haste_prune)prune;
        uniform = (i + growth) % 2;
        o.uniform = uniform;
        CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, 32, batch.positives, &host_moved, &test_error), HASTE_OK,
                     test_error);
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &o, x, (haste_cuda_type)((i + scope + prune) % 3), 32,
                                       host_lists(&batch), &moved, NULL, &test_error), HASTE_OK, test_error);
        CHECK(moved == host_moved && dev.rewires == 1);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        difference = test_difference(&layer, &back);
        CHECK(difference == NULL);
        if (difference) printf("    %s, dtype %d, scope %d, growth %d, prune %d: %s differs\n", shapes[i].name, dtype,
                               scope, growth, prune, difference);
        cudaFree(x);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// Gradient growth on the fast paths' shapes. The hinge with whole numbers (exact, so B is a power of 2) moves the CPU's
// places to its inputs. The other losses' gradients differ in bfloat16's last bits: nearly all inputs must be the CPU's.
// Biases are low there, so that positives decide.
static void rewire_paths()
{
    static const test_shape wide_slice = { "S 64, F 128, D 768", 200, 768, 1, { { 0, 64, 128, 0, 0 } }, 1 };
    static const int32_t batches[] = { 32, 64, 128 };
    int i, path, n, loss;
    int64_t others = 0, everything = 0;   // moved to other inputs than the CPU's; all moved
    for (i = 0; i <= PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (n = 0; n < 3; n++) for (loss = 0; loss < 3; loss++) {
        const test_shape *shape = i < PANEL_SHAPES ? &panel_shapes[i] : &wide_slice;
        const int32_t B = loss == HASTE_SQUARED_HINGE ? batches[n] : batches[n] - 7;
        haste_layer_options options = test_options(shape, (haste_loss)loss, n == 1 ? HASTE_ADAMW : HASTE_SGD, HASTE_BF16,
                                                   n == 1 ? HASTE_BF16 : HASTE_F32);
        haste_layer layer = whole_layer(&options), back;
        haste_cuda_layer dev;
        haste_rewire_options o;
        int64_t moved = -1, host_moved = -2, other = 0, all = 0, slot, g;
        size_t k;
        int32_t b;
        if (!upload_on(&dev, &layer, path, B)) { haste_layer_free(&layer); continue; }
        haste_cuda_layer_free(&dev);
        if (loss != HASTE_SQUARED_HINGE)
            for (b = 0; b < layer.block_count; b++) {
                haste_block *block = &layer.block[b];
                for (slot = 0; slot < block->labels; slot++) block->bias[slot] = -4;
                for (slot = 0; slot < test_weights(block); slot++)
                    test_put(layer.dtype, block->weight, (size_t)slot,
                             test_get(layer.dtype, block->weight, (size_t)slot) * .0625f);
            }
        {
            haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
            haste_cuda_workspace work;
            test_batch batch = test_make_batch(&layer, B);
            void *x;
            for (k = 0; k < (size_t)B * (size_t)layer.inputs; k++)
                batch.x[k] = loss == HASTE_SQUARED_HINGE ? (float)(batch.x[k] > 0) : (float)(int)(batch.x[k] * 8) / 8;
            CHECK(upload_on(&dev, &layer, path, B));
            work = workspace(&dev, B, 0);
            x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
            back = test_copy(&layer);
            memset(&o, 0, sizeof o);
            o.share = n == 2 ? .03f : .2f;
            o.growth = HASTE_GROW_GRADIENT;
            o.uniform = n == 1;
            CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, B, batch.positives, &host_moved, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_rewire(&dev, &work, &o, x, HASTE_CUDA_F32, B, host_lists(&batch), &moved, NULL,
                                           &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
            cudaFree(x);
            test_free_batch(&batch);
            haste_cuda_workspace_free(&work);
            haste_workspace_free(&host_work);
        }
        CHECK(moved == host_moved);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        for (b = 0; b < layer.block_count; b++) if (layer.block[b].index)
            for (g = 0; g < layer.block[b].groups; g++) {
                const int32_t F = layer.block[b].fan_in;
                const uint16_t *mine = layer.block[b].index + g * F, *theirs = back.block[b].index + g * F;
                int32_t at = 0, f;
                for (f = 0; f < F; f++) {
                    while (at < F && mine[at] < theirs[f]) at++;
                    other += at == F || mine[at] != theirs[f];
                }
            }
        all = moved > 0 ? moved : 1;
        if (loss == HASTE_SQUARED_HINGE) CHECK(test_difference(&layer, &back) == NULL);
        else CHECK(other * 20 <= all || other == 1);   // one of a few
        others += loss == HASTE_SQUARED_HINGE ? 0 : other;
        everything += loss == HASTE_SQUARED_HINGE ? 0 : all;
        if (other && (loss == HASTE_SQUARED_HINGE || other * 20 > all))
            printf("    %s, path %d, B %d, loss %d: %lld of %lld inputs differ\n", shape->name, path, (int)B, loss,
                   (long long)other, (long long)moved);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
    CHECK(others * 20 <= everything);
}

// A logit that is not finite stops a rewiring only where its group moves something, on the CPU and on the device.
static void rewire_not_finite()
{
    static const test_shape shape = { "three groups", 96, 100, 1, { { 0, 32, 16, 0, 0 } }, 0 };
    int dtype, path, where;
    for (dtype = 0; dtype < 2; dtype++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (where = 0; where < 3 && (dtype == HASTE_BF16 || path == HASTE_CUDA_GENERAL); where++) {
        haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = test_layer(&options), before, back;
        haste_workspace host_work = test_workspace(&layer, 32, 1, HASTE_PATH_AUTO);
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        test_batch batch = test_make_batch(&layer, 32);
        const haste_status expected = where == 1 ? HASTE_ERR_NONFINITE : HASTE_OK;
        haste_rewire_options o;
        int64_t i, moved = -1;
        void *x;
        for (i = 0; i < test_weights(&layer.block[0]); i++)   /* only the second group moves something */
            test_put(layer.dtype, layer.block[0].weight, (size_t)i,
                     test_get(layer.dtype, layer.block[0].weight, (size_t)i) * (i / (16 * 32) == 1 ? .001f : 1));
        layer.block[0].bias[where * 32 + 5] = where == 2 ? NAN : INFINITY;
        before = test_copy(&layer);
        back = test_copy(&layer);
        CHECK(upload_on(&dev, &layer, path, 32));
        work = workspace(&dev, 32, 0);
        x = device_copy(batch.x, 32 * (size_t)layer.inputs * 4);
        memset(&o, 0, sizeof o);
        o.share = .1f;
        o.growth = HASTE_GROW_GRADIENT;
        CHECK(haste_rewire(&layer, &host_work, &o, batch.x, 32, batch.positives, NULL, &test_error) == expected);
        CHECK(haste_cuda_rewire(&dev, &work, &o, x, HASTE_CUDA_F32, 32, host_lists(&batch), &moved, NULL, &test_error) ==
              expected);
        CHECK(moved == (where == 1 ? -1 : 4));
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        for (i = 0; i < 3; i++)
            CHECK((memcmp(before.block[0].index + i * 16, back.block[0].index + i * 16, 32) == 0) == (i != 1 || where == 1));
        if (where == 1) CHECK(test_difference(&before, &back) == NULL);
        cudaFree(x);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
        haste_layer_free(&before);
        haste_layer_free(&back);
    }
}

// ---- shards ----------------------------------------------------------------------------------------------------------

// Where shards are cut: in the middle of the last block, at a whole group.
static int64_t middle_of(const haste_layer *layer)
{
    const haste_block *last = &layer->block[layer->block_count - 1];
    return last->first_slot + last->groups / 2 * last->group_size;
}

// Views of one layer's halves, and two uploaded shards, train to the bits that the whole layer trains to.
static const test_shape shard_shapes[] = {
    { "head and tail",   200,  64, 3, { { 20,  8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } }, 1 },
    { "wide",            700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
    { "wide S 64",      1000, 160, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 64, 128, 0, 0 } }, 1 },
    { "narrow",         1003, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
    { "narrow S 32",     800, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 32, 32, 144, 288 } }, 1 } };
enum { SHARD_SHAPES = sizeof shard_shapes / sizeof shard_shapes[0] };
static haste_cuda_path shard_path(int i)
{
    return i == 0 ? HASTE_CUDA_GENERAL : shard_shapes[i].name[0] == 'w' ? HASTE_CUDA_WIDE : HASTE_CUDA_NARROW;
}

static void shards()
{
    int dtype, own, turn;
    for (turn = 0; turn < SHARD_SHAPES; turn++) for (dtype = turn > 0; dtype < 2; dtype++) for (own = 0; own < 2; own++) {
        haste_layer_options options = test_options(&shard_shapes[turn], HASTE_BCE, (haste_optimizer)((turn + 1) % 3),
                                                   (haste_dtype)dtype, HASTE_BF16);
        haste_layer layer = test_layer(&options), a = test_copy(&layer), b = test_copy(&layer);
        haste_cuda_layer whole = upload_for(&layer, shard_path(turn), 50), base = upload_for(&layer, shard_path(turn), 50),
            part;
        haste_cuda_workspace work = workspace(&whole, 50, 0);
        test_batch batch = test_make_batch(&layer, 50);
        size_t d = 50 * (size_t)layer.inputs, i;
        void *x = device_copy(batch.x, d * 4), *loss = device_bytes(24), *gx = device_bytes(d * 4),
            *gx2 = device_bytes(d * 4);
        float *one, *two;
        double l[3];
        int64_t middle = middle_of(&layer);
        haste_step_options o;
        int p, bad = 0;
        memset(&o, 0, sizeof o);
        o.lr = .1f;
        MUST(cudaMemset(gx, 0, d * 4));
        MUST(cudaMemset(gx2, 0, d * 4));
        CHECK_STATUS(haste_cuda_train_step(&whole, &work, x, HASTE_CUDA_F32, 50, host_lists(&batch), &o, (double *)loss, gx,
                                           HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        haste_cuda_download(&whole, &a, NULL, NULL);
        for (p = 0; p < 2; p++) {
            haste_cuda_options range;
            memset(&range, 0, sizeof range);
            range.first_slot = p ? middle : 0;
            range.end_slot = p ? layer.slots : middle;
            memcpy(range.path, whole.path, sizeof range.path);
            if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
            else CHECK_STATUS(haste_cuda_layer_range(&part, &base, range.first_slot, range.end_slot, &test_error), HASTE_OK,
                              test_error);
            CHECK_STATUS(haste_cuda_train_step(&part, &work, x, HASTE_CUDA_F32, 50, host_lists(&batch), &o,
                                               (double *)loss + 1 + p, gx2, HASTE_CUDA_F32, NULL,
                                               &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&part, &b, NULL, &test_error), HASTE_OK, test_error);
            haste_cuda_layer_free(&part);
        }
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&a, &b) == NULL);
        MUST(cudaMemcpy(l, loss, 24, cudaMemcpyDeviceToHost));
        CHECK_NEAR(l[1] + l[2], l[0], (turn ? 2e-5 : 1e-6) * l[0]);
        one = take_numbers(gx, d, HASTE_CUDA_F32);
        two = take_numbers(gx2, d, HASTE_CUDA_F32);
        for (i = 0; i < d; i++) bad += !(fabs((double)one[i] - (double)two[i]) <= 1e-5);
        CHECK(bad == 0);
        if (bad || test_difference(&a, &b)) printf("    %s, dtype %d, own %d\n", shard_shapes[turn].name, dtype, own);
        CHECK_STATUS(haste_cuda_layer_range(&part, &base, 1, layer.slots, &test_error), HASTE_ERR_ARG, test_error);
        free(one); free(two);
        cudaFree(x);
        cudaFree(loss);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&whole);
        haste_cuda_layer_free(&base);
        haste_layer_free(&layer);
        haste_layer_free(&a);
        haste_layer_free(&b);
    }
}

// A part's share of what the whole layer computes: logits, the best, those above, scores, gradients. Whole numbers, so that
// all of it is exact. Would catch slots, groups or labels that are counted from the wrong place.
static void part_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int own, int32_t B)
{
    enum { K = 5 };
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_MOMENTUM, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer base = upload_for(&layer, path, 64), part;
    haste_cuda_workspace work = workspace(&base, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    const size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs;
    const size_t pairs = (size_t)(batch.offset[B] - batch.offset[0]), most = (size_t)B * (size_t)layer.labels;
    double *want = test_doubles(n), *masked = test_doubles((size_t)layer.slots), *slopes = test_doubles(n),
        *want_gx = test_doubles(d), best_score[K];
    test_gradients grads = test_make_gradients(&layer);
    haste_cuda_lists excluded = host_lists(&batch);
    void *x, *gx = device_bytes(d * 4);
    float *got_gx;
    int64_t first, end, slot, bad = 0, scored = 0;
    int32_t b, k, best_id[K];
    int p;
    size_t i;
    whole_x(&batch, &layer);
    for (i = 0; i < n; i++)
        slopes[i] = layer.label_of[i % (size_t)layer.slots] < 0 ? 0 : (double)((int)(check_random() % 3) - 1);
    x = device_copy(batch.x, d * 4);
    MUST(cudaMemset(gx, 0, d * 4));
    haste_forward_ref(&layer, batch.x, B, want);
    haste_backward_ref(&layer, batch.x, B, slopes, grads.weight, grads.bias, want_gx);
    for (p = 0; p < 2; p++) {
        haste_cuda_options range;
        haste_cuda_gradient gradient;
        size_t own_slots;
        void *out, *id = device_bytes(most * 4), *score = device_bytes(most * 4),
            *offset = device_bytes(((size_t)B + 1) * 8);
        float *z, *own_slopes, *got_score;
        int32_t *got_id;
        int64_t *got_offset, needed = -1, total = 0;
        memset(&range, 0, sizeof range);
        memcpy(range.path, base.path, sizeof range.path);
        range.first_slot = first = p ? middle_of(&layer) : 0;
        range.end_slot = end = p ? layer.slots : middle_of(&layer);
        if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
        else CHECK_STATUS(haste_cuda_layer_range(&part, &base, first, end, &test_error), HASTE_OK, test_error);
        own_slots = (size_t)(end - first);
        CHECK(part.slots == end - first && part.first_slot == first);
        // forward
        out = device_bytes((size_t)B * own_slots * 4);
        CHECK_STATUS(haste_cuda_forward(&part, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        z = (float *)host_take(out, (size_t)B * own_slots * 4);
        for (b = 0; b < B; b++) for (slot = first; slot < end; slot++)
            bad += (double)z[(size_t)b * own_slots + (size_t)(slot - first)] !=
                   (layer.label_of[slot] < 0 ? 0 : want[b * layer.slots + slot]);
        free(z);
        CHECK(bad == 0);
        // top-k
        CHECK_STATUS(haste_cuda_top_k(&part, &work, x, HASTE_CUDA_F32, B, K, &excluded, (int32_t *)id, (float *)score, NULL,
                                      &test_error), HASTE_OK, test_error);
        got_id = (int32_t *)host_copy(id, most * 4);
        got_score = (float *)host_copy(score, most * 4);
        for (b = 0; b < B; b++) {
            for (slot = 0; slot < layer.slots; slot++)
                masked[slot] = slot < first || slot >= end ? -1e30 : want[b * layer.slots + slot];
            haste_top_k_ref(&layer, masked, K, batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], best_id,
                            best_score);
            for (k = 0; k < K; k++) bad += got_id[b * K + k] != best_id[k] || (double)got_score[b * K + k] != best_score[k];
        }
        CHECK(bad == 0);
        free(got_id); free(got_score);
        // above
        CHECK_STATUS(haste_cuda_above(&part, &work, x, HASTE_CUDA_F32, B, 2, &excluded, (int64_t *)offset, (int32_t *)id,
                                      (float *)score, (int64_t)most, &needed, NULL, &test_error), HASTE_OK, test_error);
        got_offset = (int64_t *)host_take(offset, ((size_t)B + 1) * 8);
        got_id = (int32_t *)host_take(id, most * 4);
        got_score = (float *)host_copy(score, most * 4);
        for (b = 0; b < B; b++) {
            bad += got_offset[b] != total;
            for (slot = first; slot < end; slot++)
                total += layer.label_of[slot] >= 0 && want[b * layer.slots + slot] > 2 &&
                         !find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], layer.label_of[slot]);
            for (slot = got_offset[b]; slot < got_offset[b + 1] && bad == 0; slot++) {
                const int64_t at = layer.slot_of[got_id[slot]];
                bad += at < first || at >= end || (double)got_score[slot] != want[b * layer.slots + at] ||
                       find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], got_id[slot]);
                if (slot > got_offset[b])
                    bad += !(got_score[slot - 1] > got_score[slot] ||
                             (got_score[slot - 1] == got_score[slot] && got_id[slot - 1] < got_id[slot]));
            }
        }
        CHECK(bad == 0 && total == needed && got_offset[B] == total);
        free(got_offset); free(got_id); free(got_score);
        // score: other parts' places are left alone
        MUST(cudaMemset(score, 0xff, most * 4));
        CHECK_STATUS(haste_cuda_score(&part, &work, x, HASTE_CUDA_F32, B, excluded, (float *)score, NULL, &test_error),
                     HASTE_OK, test_error);
        got_score = (float *)host_take(score, most * 4);
        for (b = 0; b < B; b++) for (i = (size_t)batch.offset[b]; i < (size_t)batch.offset[b + 1]; i++) {
            const float v = got_score[i - (size_t)batch.offset[0]];
            slot = layer.slot_of[batch.id[i]];
            if (slot < first || slot >= end) bad += !isnan(v);
            else { bad += (double)v != want[b * layer.slots + slot]; scored++; }
        }
        CHECK(bad == 0);
        free(got_score);
        // backward
        own_slopes = (float *)test_alloc((size_t)B * own_slots * 4);
        for (b = 0; b < B; b++) for (slot = first; slot < end; slot++)
            own_slopes[(size_t)b * own_slots + (size_t)(slot - first)] = (float)slopes[b * layer.slots + slot];
        out = device_numbers(own_slopes, (size_t)B * own_slots, own ? HASTE_CUDA_BF16 : HASTE_CUDA_F32);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &part, &test_error), HASTE_OK, test_error);
        MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
        CHECK_STATUS(haste_cuda_backward(&part, &work, x, HASTE_CUDA_F32, B, out, own ? HASTE_CUDA_BF16 : HASTE_CUDA_F32,
                                         &gradient, gx, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        for (k = 0; k < part.block_count; k++) {
            const haste_block *block = &part.block[k];
            const int64_t S = block->group_size, F = block->fan_in, at = first + block->first_slot;   // of the whole
            float *w = (float *)test_alloc((size_t)test_weights(block) * 4), *bias = (float *)test_alloc(
                (size_t)test_places(block) * 4);
            int32_t whole_k = 0;
            int64_t base_group;
            while (whole_k + 1 < layer.block_count && at >= layer.block[whole_k + 1].first_slot) whole_k++;
            base_group = (at - layer.block[whole_k].first_slot) / S;
            MUST(cudaMemcpy(w, gradient.weight[k], (size_t)test_weights(block) * 4, cudaMemcpyDeviceToHost));
            MUST(cudaMemcpy(bias, gradient.bias[k], (size_t)test_places(block) * 4, cudaMemcpyDeviceToHost));
            for (i = 0; i < (size_t)test_weights(block); i++)
                bad += (double)w[i] != grads.weight[whole_k][(size_t)(base_group * F * S) + i];
            for (i = 0; i < (size_t)test_places(block); i++)
                bad += (double)bias[i] != grads.bias[whole_k][(size_t)(base_group * S) + i];
            free(w); free(bias);
        }
        CHECK(bad == 0);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free(own_slopes);
        cudaFree(out);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_layer_free(&part);
    }
    got_gx = (float *)host_take(gx, d * 4);
    for (i = 0; i < d; i++) bad += (double)got_gx[i] != want_gx[i];
    CHECK(bad == 0 && scored == (int64_t)pairs);
    if (bad) printf("    %s, dtype %d, path %d, own %d, B %d\n", shape->name, (int)dtype, (int)path, own, (int)B);
    free(got_gx); free(want); free(masked); free(slopes); free(want_gx);
    cudaFree(x);
    test_free_gradients(&grads, &layer);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&base);
    haste_layer_free(&layer);
}

static void parts()
{
    static const int32_t batches[] = { 3, 40, 130 };
    int i, own, j;
    for (i = 0; i < SHARD_SHAPES; i++) for (own = 0; own < 2; own++) for (j = 0; j < 3; j++)
        part_case(&shard_shapes[i], i || j % 2 ? HASTE_BF16 : HASTE_F32, shard_path(i), own, batches[j]);
}

/* Rewiring on every path, of the whole layer or of its two parts, decides as the CPU does for the whole (parts: in the scope
   of a group, where a part's ranking is the whole's). Would catch weights that are read in another path's order, random
   numbers that count a part's own groups, and rows of parts that land elsewhere. */
static void rewire_parts(const test_shape *shape, haste_cuda_path path, int count, int own, haste_scope scope,
                         haste_growth growth, haste_prune prune)
{
    enum { B = 32 };
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = whole_layer(&options), back = test_copy(&layer);
    haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, B);
    haste_cuda_layer base = upload_for(&layer, path, B), part;
    haste_cuda_workspace work = workspace(&base, B, 0);
    haste_rewire_options o;
    int64_t moved, all_moved = 0, host_moved = -1;
    const char *difference;
    size_t k;
    void *x;
    int p;
    memset(&o, 0, sizeof o);
    o.share = .35f;
    o.scope = scope;
    o.growth = growth;
    o.prune = prune;
    for (k = 0; k < B * (size_t)layer.inputs; k++) batch.x[k] = (float)(check_random() % 2);   // slopes are exact
    x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
    for (p = 0; p < count; p++) {
        haste_cuda_options range;
        memset(&range, 0, sizeof range);
        memcpy(range.path, base.path, sizeof range.path);
        range.first_slot = p ? middle_of(&layer) : 0;
        range.end_slot = p || count == 1 ? layer.slots : middle_of(&layer);
        if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
        else CHECK_STATUS(haste_cuda_layer_range(&part, &base, range.first_slot, range.end_slot, &test_error), HASTE_OK,
                          test_error);
        CHECK_STATUS(haste_cuda_rewire(&part, &work, &o, x, HASTE_CUDA_F32, B, host_lists(&batch), &moved, NULL,
                                       &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&part, &back, NULL, &test_error), HASTE_OK, test_error);
        all_moved += moved;
        haste_cuda_layer_free(&part);
    }
    CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, B, batch.positives, &host_moved, &test_error), HASTE_OK,
                 test_error);
    CHECK(all_moved == host_moved && host_moved > 0);
    CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
    difference = test_difference(&layer, &back);
    if (!CHECK(difference == NULL))
        printf("    %s, path %d, %d parts, own %d, scope %d, growth %d, prune %d: %s differs\n", shape->name, (int)path,
               count, own, (int)scope, (int)growth, (int)prune, difference);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&base);
    haste_workspace_free(&host_work);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

static void rewire_orders()
{
    static const test_shape shapes[] = {
        { "S 32, F 32",  333, 100, 1, { { 0, 32, 32, 0, 0 } }, 1 },
        { "S 64, F 64",  300, 170, 1, { { 0, 64, 64, 0, 0 } }, 1 },
        { "S 32, D 768", 200, 768, 1, { { 0, 32, 64, 0, 0 } }, 1 } };
    int i, growth, prune, scope, path;
    for (i = 0; i < 3; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++) for (scope = 0; scope < 2; scope++)
            rewire_parts(&shapes[i], (haste_cuda_path)path, 1, 1, (haste_scope)scope, (haste_growth)growth,
                         (haste_prune)prune);
    for (i = 0; i < SHARD_SHAPES; i++) for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++)
        rewire_parts(&shard_shapes[i], shard_path(i), 2, prune ^ growth, HASTE_SCOPE_GROUP, (haste_growth)growth,
                     (haste_prune)prune);
}

// A shard that is made on the device equals one that is uploaded, and takes what was planned for it.
static void create_shards()
{
    int i, p;
    for (i = 0; i < SHARD_SHAPES; i++) for (p = 0; p < 2; p++) {
        haste_layer_options options = test_options(&shard_shapes[i], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_BF16);
        haste_layer layer, one, two;
        haste_cuda_layer made, sent;
        haste_cuda_workspace work;
        haste_cuda_workspace_options work_options;
        haste_cuda_gradient gradient;
        haste_cuda_options range;
        haste_cuda_plan plan;
        haste_rewire_options rewire;
        haste_cuda_lists none;
        static int64_t frequency[1003];
        int32_t l;
        memset(&range, 0, sizeof range);
        memset(&rewire, 0, sizeof rewire);
        memset(&none, 0, sizeof none);
        memset(&work_options, 0, sizeof work_options);
        for (l = 0; l < options.labels; l++) frequency[l] = l % 7;
        options.frequency = frequency;
        options.samples = 1000;
        rewire.share = .3f;
        work_options.batch = 70;
        CHECK(haste_layer_create(&layer, &options, &test_error) == HASTE_OK);
        one = test_copy(&layer);
        two = test_copy(&layer);
        // what is not the shard's stays
        memset(one.block[0].weight, 0x3f, (size_t)((char *)one.label_of - (char *)one.block[0].weight));
        memset(two.block[0].weight, 0x3f, (size_t)((char *)two.label_of - (char *)two.block[0].weight));
        range.first_slot = p ? middle_of(&layer) : 0;
        range.end_slot = p ? layer.slots : middle_of(&layer);
        CHECK_STATUS(haste_cuda_plan_bytes(&options, &work_options, &range, &plan, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_layer_create(&made, &options, &range, NULL, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.layer && made.slots == range.end_slot - range.first_slot);
        CHECK_STATUS(haste_cuda_upload(&sent, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.layer);
        CHECK_STATUS(haste_cuda_workspace_create(&work, &made, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(work.bytes == plan.workspace && work.pinned_bytes == plan.pinned);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &made, &test_error), HASTE_OK, test_error);
        CHECK(alloc_last == plan.gradient);
        CHECK_STATUS(haste_cuda_download(&made, &one, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&sent, &two, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&one, &two) == NULL && test_difference(&one, &layer) != NULL);
        CHECK_STATUS(haste_cuda_rewire(&made, &work, &rewire, NULL, HASTE_CUDA_F32, 0, none, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK(alloc_last == plan.rewire);
        if (p) {   // the other half comes from the other shard: together the layer
            CHECK_STATUS(haste_cuda_download(&sent, &two, NULL, &test_error), HASTE_OK, test_error);
            haste_cuda_layer_free(&sent);
            range.first_slot = 0;
            range.end_slot = middle_of(&layer);
            CHECK_STATUS(haste_cuda_layer_create(&sent, &options, &range, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&sent, &two, NULL, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(layer.block[0].weight, two.block[0].weight, (size_t)test_weights(&layer.block[0]) * 2) == 0);
            CHECK_STATUS(haste_layer_check(&two, &test_error), HASTE_OK, test_error);
        }
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&made);
        haste_cuda_layer_free(&sent);
        haste_layer_free(&layer);
        haste_layer_free(&one);
        haste_layer_free(&two);
    }
}

// Softmax over a part of the labels is refused, with nothing changed; what can be done with a part still is.
static void part_softmax()
{
    haste_layer_options options = test_options(&shard_shapes[0], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer), part, all;
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, 8);
    void *x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4), *out = device_bytes(8 * (size_t)layer.slots * 4);
    haste_step_options o;
    haste_rewire_options r;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .1f;
    r.share = .2f;
    CHECK_STATUS(haste_cuda_layer_range(&part, &dev, middle_of(&layer), layer.slots, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_layer_range(&all, &dev, 0, layer.slots, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &part, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&part, &work, x, HASTE_CUDA_F32, 8, host_lists(&batch), &o, NULL, NULL,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK(strstr(test_error.text, "softmax") != NULL);
    CHECK_STATUS(haste_cuda_accumulate(&part, &work, x, HASTE_CUDA_F32, 8, host_lists(&batch), &o, &gradient, NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
    r.growth = HASTE_GROW_GRADIENT;
    CHECK_STATUS(haste_cuda_rewire(&part, &work, &r, x, HASTE_CUDA_F32, 8, host_lists(&batch), NULL, NULL, &test_error),
                 HASTE_ERR_ARG, test_error);
    CHECK(part.step == 0 && part.pending == 0 && part.rewires == 0);
    CHECK_STATUS(haste_cuda_forward(&part, &work, x, HASTE_CUDA_F32, 8, out, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_backward(&part, &work, x, HASTE_CUDA_F32, 8, out, HASTE_CUDA_F32, &gradient, NULL,
                                     HASTE_CUDA_F32,
                                     NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &back) == NULL);
    CHECK_STATUS(haste_cuda_apply(&part, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
    r.growth = HASTE_GROW_RANDOM;
    CHECK_STATUS(haste_cuda_rewire(&part, &work, &r, NULL, HASTE_CUDA_F32, 0, host_lists(&batch), NULL, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&all, &work, x, HASTE_CUDA_F32, 8, host_lists(&batch), &o, NULL, NULL, HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);   // a range of all slots is no part
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    free(host_take(out, 8 * (size_t)layer.slots * 4));
    cudaFree(x);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

// ---- what goes wrong -------------------------------------------------------------------------------------------------

static void not_finite()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    test_batch batch = test_make_batch(&layer, 8);
    haste_step_options o;
    size_t group = (size_t)(layer.block[0].fan_in * layer.block[0].group_size);
    int64_t g, f;
    int kept = 0, changed = 0;
    void *x, *id = device_bytes(8 * 5 * 4), *score = device_bytes(8 * 5 * 4);
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    batch.x[3 * layer.inputs + 10] = INFINITY;   // one input of one sample
    x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, host_lists(&batch), &o, NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    haste_cuda_download(&dev, &after, NULL, NULL);
    for (g = 0; g < layer.block[0].groups; g++) {
        int reads = 0, same = memcmp((float *)layer.block[0].weight + (size_t)g * group,
                                     (float *)after.block[0].weight + (size_t)g * group, group * 4) == 0;
        for (f = 0; f < layer.block[0].fan_in; f++) reads |= layer.block[0].index[g * layer.block[0].fan_in + f] == 10;
        CHECK(same == reads);
        kept += same;
        changed += !same;
    }
    CHECK(kept > 0 && changed > 0);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 5, NULL, (int32_t *)id, (float *)score, NULL,
                                  &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, (float *)x + 3 * layer.inputs, HASTE_CUDA_F32, 1, 5, NULL, (int32_t *)id,
                                  (float *)score, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    {   // rewiring changes nothing
        haste_rewire_options r;
        memset(&r, 0, sizeof r);
        r.share = .2f;
        r.growth = HASTE_GROW_GRADIENT;
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, x, HASTE_CUDA_F32, 8, host_lists(&batch), NULL, NULL, &test_error),
                     HASTE_ERR_NONFINITE, test_error);
        haste_cuda_download(&dev, &after, NULL, NULL);
        CHECK(test_difference(&layer, &after) == NULL);
    }
    {   // ids on the device that are out of range, and offsets that descend: passed over, and reported
        int64_t offset[9] = { 0, 1, 1, 1, 1, 1, 1, 1, 1 }, descending[9] = { 0, 3, 1, 1, 1, 1, 1, 1, 1 };
        int32_t bad_id[3] = { 333, 0, 0 };
        haste_cuda_lists lists;
        lists.offset = (const int64_t *)device_copy(offset, sizeof offset);
        lists.id = (const int32_t *)device_copy(bad_id, sizeof bad_id);
        lists.on_host = 0;
        batch.x[3 * layer.inputs + 10] = 0;
        MUST(cudaMemcpy(x, batch.x, 8 * (size_t)layer.inputs * 4, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, lists, &o, NULL, NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 0 ") && !strstr(test_error.text, "finite"));
        bad_id[0] = 0;
        MUST(cudaMemcpy((void *)lists.id, bad_id, sizeof bad_id, cudaMemcpyHostToDevice));
        MUST(cudaMemcpy((void *)lists.offset, descending, sizeof descending, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, lists, &o, NULL, NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") != NULL);
        CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, 8, lists, (float *)score, NULL, &test_error), HASTE_OK,
                     test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") != NULL);
        batch.x[0] = NAN;   // both at once: neither is forgotten
        for (f = 0; f < layer.inputs; f++) MUST(cudaMemcpy((float *)x + f, batch.x, 4, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, lists, &o, NULL, NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") && strstr(test_error.text, "finite"));
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free_lists(lists);
    }
    cudaFree(x); cudaFree(id); cudaFree(score);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// What is wrong with a batch of spared_case.
typedef enum trouble {
    BAD_INPUT,        // an input of one sample is infinite: groups that have it are spared
    BAD_BIAS,         // a logit is not finite for all samples
    LARGE_LOGIT,      // 3e37, of 8 samples: only the wide path spares its group
    LARGER_LOGIT,     // 6e37, of 64 samples and more: narrow too
    LARGE_WEIGHTS,    // gradients of 2e19 of one input's weights, while that of the bias is 2e15
    LARGE_BIAS,       // a gradient of 2e20 of a bias, none of weights
    OVERFLOWING_BIAS  // and a rate of 1e20, for SGD
} trouble;
static const char *const trouble_name[] = { "input", "bias", "large logit", "larger logit", "large gradient of weights",
                                            "large gradient of a bias", "bias that overflows" };

// Whether the numbers of place (f, i) of a block are what they were: the weight and its states; f = F: the bias and its.
static int unchanged(const haste_layer *layer, const haste_block *a, const haste_block *b, int64_t i, int64_t f)
{
    const int64_t S = a->group_size, F = a->fan_in;
    const size_t at = (size_t)(f < F ? (i / S * F + f) * S + i % S : i);
    const size_t w = test_width(layer->dtype), v = test_width(layer->state_dtype);
    int k, same;
    if (f == F) {
        same = memcmp(a->bias + at, b->bias + at, 4) == 0;
        for (k = 0; k < 2; k++) if (a->bias_state[k]) same &= memcmp(a->bias_state[k] + at, b->bias_state[k] + at, 4) == 0;
        return same;
    }
    same = memcmp((char *)a->weight + at * w, (char *)b->weight + at * w, w) == 0;
    for (k = 0; k < 2; k++)
        if (a->weight_state[k])
            same &= memcmp((char *)a->weight_state[k] + at * v, (char *)b->weight_state[k] + at * v, v) == 0;
    return same;
}

/* What NOT FINITE in haste_cuda.cuh promises: exactly what it names is left as it was, bit for bit, all else moves (states
   are float32, so that they do), and haste_cuda_check says so, once. One block; with the squared hinge and no positives a
   logit's gradient is 2 * (1 + z) / B. Would catch a check that is missing, or one that spares more than is said. */
static void spared_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B,
                        haste_optimizer optimizer, haste_loss loss, trouble what)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_block *block = &layer.block[0];
    const int64_t S = block->group_size, F = block->fan_in, g0 = block->groups / 2, i0 = g0 * S + S - 3;   /* the label */
    const int dense = block->index == NULL;
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch = test_make_batch(&layer, B);
    haste_step_options o;
    void *x;
    int64_t i, f, d, unit = S, loud = F * 3 / 4, wrong = 0, spared = 0, moved = 0;
    int sgd = optimizer == HASTE_SGD, found = 0, turn_of[16] = { 0 };
    memset(&o, 0, sizeof o);
    o.lr = .25f;
    d = dense ? loud : block->index[g0 * F + loud];
    if (what == BAD_INPUT) batch.x[(B / 2) * layer.inputs + d] = path == HASTE_CUDA_NARROW ? -INFINITY : INFINITY;
    else {
        if (what == BAD_BIAS) block->bias[i0] = loss == HASTE_SOFTMAX ? NAN : INFINITY;
        if (what == LARGE_LOGIT) block->bias[i0] = 3e37f;
        if (what == LARGER_LOGIT) block->bias[i0] = 6e37f;
        if (what == LARGE_WEIGHTS) {
            block->bias[i0] = 1e15f;
            for (i = 0; i < B; i++) batch.x[i * layer.inputs + d] = 1e4f;
        }
        if (what == LARGE_BIAS || what == OVERFLOWING_BIAS) {
            if (what == OVERFLOWING_BIAS) o.lr = 1e20f;
            block->bias[i0] = 1e20f;
            memset(batch.x, 0, (size_t)B * (size_t)layer.inputs * 4);
        }
        if (loss == HASTE_SQUARED_HINGE) for (i = 0; i <= B; i++) batch.offset[i] = 3;
    }
    dev = upload_for(&layer, path, B);
    work = workspace(&dev, B, 0);
    if (dev.path[0] != path) { printf("    %s: not on this device\n", shape->name); goto end; }
    x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, NULL, NULL, HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    {
        const haste_status status = haste_cuda_check(&work, NULL, &test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
        found = status == HASTE_ERR_NONFINITE;
        CHECK(found || status == HASTE_OK);
    }
    if (path == HASTE_CUDA_GENERAL && S > 64) unit = 64;
    if (path == HASTE_CUDA_NARROW) unit = S == 32 && F <= 64 ? 32 : 16;
    if (path == HASTE_CUDA_WIDE && what == LARGE_WEIGHTS && (dense || F > 128 || (F > 64 && S > 64)))
        for (f = 0; f < F; f += 64) turn_of[f / 64] = unchanged(&layer, block, &after.block[0], i0, f) ? 1 : -1;
    for (i = 0; i < block->labels; i++) {
        int reads = dense;
        const int near_it = i / unit == i0 / unit && i / S == g0;
        for (f = 0; f < F && !reads; f++) reads |= block->index[i / S * F + f] == d;
        for (f = 0; f <= F; f++) {   /* f = F: the bias */
            int want = 0, same = unchanged(&layer, block, &after.block[0], i, f);
            switch (what) {
            case BAD_INPUT:    want = reads; break;
            case BAD_BIAS:     want = near_it; break;
            case LARGE_LOGIT:  want = near_it && path == HASTE_CUDA_WIDE; break;
            case LARGER_LOGIT: want = near_it && path != HASTE_CUDA_GENERAL; break;
            case LARGE_WEIGHTS:
                if (path == HASTE_CUDA_GENERAL) want = near_it && f < F && f / 64 == loud / 64;
                else if (path == HASTE_CUDA_WIDE) want = near_it && (!turn_of[0] || f == F || turn_of[f / 64] > 0);
                else if (!sgd)
                    want = near_it && (B <= 64 || (f < F ? f % (F / 8) >= F / 16 : 0) == (loud % (F / 8) >= F / 16));
                break;
            case LARGE_BIAS:
                if (path == HASTE_CUDA_GENERAL) want = near_it && f == F && i == i0;
                else if (path == HASTE_CUDA_WIDE) want = near_it;
                else if (!sgd) want = near_it && (B <= 64 || f == F || f % (F / 8) < F / 16);
                break;
            case OVERFLOWING_BIAS: want = near_it && f == F; break;
            }
            spared += want;
            moved += !want && !same;
            /* without states a weight may well stay: its gradient is 0, or rounded off */
            wrong += want ? !same : same && (!sgd || (f == F && i != i0 && loss != HASTE_SQUARED_HINGE));
        }
    }
    if (turn_of[0]) {   /* pieces of 64 inputs come in turn, from any one on: the spared ones end where the turn does */
        const int pieces = (int)((F + 63) / 64), at = (int)(loud / 64);
        int n = 0, k, run = 0;
        for (k = 0; k < pieces; k++) n += turn_of[k] > 0;
        while (run < pieces && turn_of[(at + run) % pieces] > 0) run++;
        CHECK(n > 0 && run == n);
    }
    if (!(CHECK(wrong == 0) & CHECK(found == (spared > 0)) & CHECK(moved > 0)))
        printf("    %s, dtype %d, path %d, B %d, optimizer %d, loss %d, %s: %lld wrong, %lld were to be spared, found %d\n",
               shape->name, (int)dtype, (int)path, (int)B, (int)optimizer, (int)loss, trouble_name[what], (long long)wrong,
               (long long)spared, found);
    cudaFree(x);
end:
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Logits that are not finite take no part in softmax's sums: the biases of all other labels move by the gradient of that
// softmax, on each path.
static void spared_softmax(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_SOFTMAX, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload_for(&layer, path, B);
    haste_cuda_workspace work = workspace(&dev, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    const haste_block *block = &layer.block[0];
    const int64_t slots = layer.slots;
    double *z = test_doubles((size_t)(B * slots)), *grad = test_doubles((size_t)slots), worst = 0, largest = 0;
    float *rounded;
    haste_step_options o;
    void *x;
    const int64_t d = block->index[block->fan_in / 2];
    int64_t i, j;
    int32_t b, kept = 0;
    memset(&o, 0, sizeof o);
    o.lr = 16;
    batch.x[11 * layer.inputs + d] = INFINITY;   // neither of these has an empty list
    batch.x[(B - 2) * layer.inputs + d] = NAN;
    x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
    rounded = naive_x(&layer, &batch);
    haste_forward_ref(&layer, rounded, B, z);
    for (b = 0; b < B; b++) {
        const double *row = z + b * slots;
        const int32_t *ids = batch.id + batch.offset[b];
        const int64_t count = batch.offset[b + 1] - batch.offset[b];
        double peak = -INFINITY, sum = 0, n = 0;
        for (i = 0; i < slots; i++) if (layer.label_of[i] >= 0 && isfinite(row[i]) && row[i] > peak) peak = row[i];
        for (i = 0; i < slots; i++) if (layer.label_of[i] >= 0 && isfinite(row[i])) sum += exp(row[i] - peak);
        for (j = 0; j < count; j++) n += !find_id(ids, j, ids[j]);   // distinct ones
        for (i = 0; i < slots && n > 0; i++) if (layer.label_of[i] >= 0)
            grad[i] += (exp(row[i] - peak) / sum - (find_id(ids, count, layer.label_of[i]) ? 1 / n : 0)) / B;
    }
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, NULL, NULL, HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    for (i = 0; i < block->labels; i++) {
        int reads = 0;
        for (j = 0; j < block->fan_in && !reads; j++)
            reads |= block->index[i / block->group_size * block->fan_in + j] == d;
        if (reads) { kept += CHECK(after.block[0].bias[i] == block->bias[i]); continue; }
        worst = fmax(worst, fabs((double)after.block[0].bias[i] - ((double)block->bias[i] - (double)o.lr * grad[i])));
        if (!(fabs((double)after.block[0].bias[i]) < 1e6)) worst = INFINITY;
        largest = fmax(largest, (double)o.lr * fabs(grad[i]));
    }
    // dz is rounded to bfloat16 for the weights only
    CHECK(kept > 0 && largest > 1e-3);
    CHECK_NEAR(worst, 0, 1e-4 * largest);
    cudaFree(x);
    free(z); free(grad); free(rounded);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Accumulating spares what a step of the general kernels does, applying a run of 64 labels as a whole; prediction: forward
// and score say nothing, top-k and above do; rewiring changes nothing.
static void spared_elsewhere(const test_shape *shape, haste_dtype dtype, haste_cuda_path path)
{
    enum { B = 40 };
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, HASTE_ADAMW, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_block *block = &layer.block[0];
    const int64_t S = block->group_size, F = block->fan_in, d = block->index[F / 2];
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, B);
    const size_t n = (size_t)B * (size_t)layer.slots, inputs = (size_t)B * (size_t)layer.inputs;
    double *want = test_doubles(n);
    float *got, *rounded, one = NAN;
    haste_step_options o;
    haste_rewire_options r;
    void *x, *out = device_bytes(n * 4), *id = device_bytes((size_t)B * 5 * 4), *offset = device_bytes((B + 1) * 8);
    int64_t i, f, needed, wrong = 0, spared = 0;
    size_t k;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .25f;
    batch.x[3 * layer.inputs + d] = NAN;
    x = device_copy(batch.x, inputs * 4);
    dev = upload_for(&layer, path, B);
    work = workspace(&dev, B, 0);
    rounded = naive_x(&layer, &batch);
    haste_forward_ref(&layer, rounded, B, want);
    // forward and score: such logits as they are
    CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_copy(out, n * 4);
    for (k = 0; k < n; k++) {
        if (layer.label_of[k % (size_t)layer.slots] < 0) continue;
        wrong += isfinite(want[k]) ? !(fabs((double)got[k] - want[k]) <= 1e-4 * (fabs(want[k]) + 1)) : isfinite(got[k]);
        spared += !isfinite(want[k]);
    }
    CHECK(wrong == 0 && spared > 0);
    free(got);
    batch.offset[0] = 0;
    for (i = 0; i < B; i++) { batch.id[i] = layer.label_of[i % S]; batch.offset[i + 1] = i + 1; }   // the first group has d
    CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), (float *)out, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_copy(out, n * 4);
    for (i = 0; i < B; i++) CHECK(isfinite(got[i]) == (i != 3));
    free(got);
    // top-k by panels and by streaming, and above: reported
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, i ? 4 : B, 5, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    }
    haste_cuda_above(&dev, &work, x, HASTE_CUDA_F32, B, 1e30f, NULL, (int64_t *)offset, (int32_t *)out, (float *)out, 0,
                     &needed, NULL, &test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    // rewiring: a bad batch, a bad weight
    r.share = .2f;
    for (i = 0; i < 2; i++) {
        r.growth = i ? HASTE_GROW_RANDOM : HASTE_GROW_GRADIENT;
        r.prune = i ? HASTE_PRUNE_SALIENCY : HASTE_PRUNE_MAGNITUDE;
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, x, HASTE_CUDA_F32, B, host_lists(&batch), NULL, NULL, &test_error),
                     HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &after) == NULL);
    }
    haste_cuda_check(&work, NULL, NULL);
    // accumulate: runs whose logits are not finite get nothing, all others do
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, host_lists(&batch), &o, &gradient, NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    got = (float *)test_alloc((size_t)test_weights(block) * 4);
    MUST(cudaMemcpy(got, gradient.weight[0], (size_t)test_weights(block) * 4, cudaMemcpyDeviceToHost));
    for (i = 0, wrong = 0; i < block->groups; i++) {
        int reads = 0, used = 0, finite = 1;
        for (f = 0; f < F; f++) reads |= block->index[i * F + f] == d;
        for (f = 0; f < F * S; f++) { used |= got[i * F * S + f] != 0; finite &= isfinite(got[i * F * S + f]) != 0; }
        wrong += used == reads || !finite;
    }
    CHECK(wrong == 0);
    free(got);
    // apply: one gradient of the last group that is not finite spares 64 labels, weights and biases, and becomes 0 too
    MUST(cudaMemcpy(gradient.weight[0] + test_weights(block) - S / 2, &one, 4, cudaMemcpyHostToDevice));
    CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    for (i = 0, wrong = 0; i < block->labels; i++) for (f = 0; f <= F; f++)
        wrong += unchanged(&layer, block, &after.block[0], i, f)
              != (i / S == block->groups - 1 && (S <= 64 || i % S / 64 == S / 2 / 64));
    CHECK(wrong == 0);
    got = (float *)test_alloc(gradient.bytes);
    MUST(cudaMemcpy(got, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
    for (k = 0, wrong = 0; k < (size_t)test_weights(block); k++) wrong += got[k] != 0;
    CHECK(wrong == 0);
    free(got); free(want); free(rounded);
    cudaFree(x); cudaFree(out); cudaFree(id); cudaFree(offset);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Padding slots have the logit 0, also of a sample whose inputs are not finite.
static void padding_is_zero()
{
    enum { B = 37 };
    int i, path, type;
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (type = HASTE_CUDA_F32; type <= HASTE_CUDA_BF16; type++) {
            haste_layer_options options = test_options(&panel_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
            haste_layer layer = test_layer(&options);
            haste_cuda_layer dev;
            haste_cuda_workspace work;
            test_batch batch;
            size_t n = B * (size_t)layer.slots, k, other = 0, padding = 0;
            float *got;
            void *x, *out;
            if (!upload_on(&dev, &layer, path, B)) { haste_layer_free(&layer); continue; }
            work = workspace(&dev, B, 0);
            batch = test_make_batch(&layer, B);
            for (k = 0; k < (size_t)layer.inputs; k++) batch.x[5 * (size_t)layer.inputs + k] = INFINITY;
            x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
            out = device_bytes(n * 4);
            CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, (haste_cuda_type)type, NULL, &test_error),
                         HASTE_OK, test_error);
            got = take_numbers(out, n, (haste_cuda_type)type);
            for (k = 0; k < n; k++) if (layer.label_of[k % (size_t)layer.slots] < 0) { padding++; other += got[k] != 0; }
            CHECK(other == 0 && (padding > 0 || layer.slots == layer.labels));
            CHECK(!isfinite(got[5 * layer.slots]));
            free(got);
            cudaFree(x);
            test_free_batch(&batch);
            haste_cuda_workspace_free(&work);
            haste_cuda_layer_free(&dev);
            haste_layer_free(&layer);
        }
}

static void spared()
{
    static const test_shape shapes[] = {
        { "S 32, F 64",   700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
        { "S 64, F 128",  640, 400, 1, { { 0,  64, 128, 0, 0 } }, 1 },
        { "S 128, F 208", 640, 900, 1, { { 0, 128, 208, 0, 0 } }, 1 },
        { "dense, S 32",  100, 208, 1, { { 0,  32, HASTE_DENSE, 0, 0 } }, 1 },
        { "S 16, F 64",   500, 300, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "S 32, F 128",  500, 300, 1, { { 0,  32, 128, 0, 0 } }, 1 },
        { "S 256, F 100", 900, 400, 1, { { 0, 256, 100, 0, 0 } }, 1 } };
    static const struct { int shape; haste_dtype dtype; haste_cuda_path path; } cases[] = {
        { 6, HASTE_F32,  HASTE_CUDA_GENERAL }, { 6, HASTE_BF16, HASTE_CUDA_GENERAL }, { 0, HASTE_BF16, HASTE_CUDA_WIDE },
        { 1, HASTE_BF16, HASTE_CUDA_WIDE },    { 2, HASTE_BF16, HASTE_CUDA_WIDE },    { 3, HASTE_BF16, HASTE_CUDA_WIDE },
        { 4, HASTE_BF16, HASTE_CUDA_NARROW },  { 0, HASTE_BF16, HASTE_CUDA_NARROW },  { 5, HASTE_BF16, HASTE_CUDA_NARROW } };
    int n, optimizer, k;
    for (n = 0; n < (int)(sizeof cases / sizeof cases[0]); n++) {
        const test_shape *shape = &shapes[cases[n].shape];
        const haste_dtype dtype = cases[n].dtype;
        const haste_cuda_path path = cases[n].path;
        for (k = 0; k < 2; k++) for (optimizer = 0; optimizer < 3; optimizer++) {
            const int32_t B = k ? 100 : 64;
            if (cases[n].shape != 3) {   // a dense block is in every way one group, all of it is spared
                spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_BCE, BAD_INPUT);
                spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SOFTMAX, BAD_INPUT);
            }
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_BCE, BAD_BIAS);
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SOFTMAX, BAD_BIAS);
            spared_case(shape, dtype, path, k ? B : 8, (haste_optimizer)optimizer, HASTE_BCE,
                        k ? LARGER_LOGIT : LARGE_LOGIT);
            if (optimizer == HASTE_SGD && path != HASTE_CUDA_NARROW) continue;   // some weights may well stay
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SQUARED_HINGE, LARGE_WEIGHTS);
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SQUARED_HINGE, LARGE_BIAS);
            if (optimizer == HASTE_SGD) spared_case(shape, dtype, path, B, HASTE_SGD, HASTE_SQUARED_HINGE, OVERFLOWING_BIAS);
        }
        if (cases[n].shape == 3) continue;
        spared_softmax(shape, dtype, path, 70);
        spared_elsewhere(shape, dtype, path);
    }
}

static void errors()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), other;
    haste_cuda_layer dev = upload(&layer), failed, view;
    haste_cuda_workspace work = workspace(&dev, 8, 0), none;
    haste_cuda_options forced;
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, 8);
    haste_cuda_lists lists = host_lists(&batch), wrong = lists;
    haste_step_options o;
    void *x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4);
    const char *why = NULL;
    int32_t id[16], k;
    memset(&o, 0, sizeof o);
    memset(&failed, 0x5a, sizeof failed);
    memset(&none, 0, sizeof none);
    #define STEP(layer, work, x, B, lists, options) \
        haste_cuda_train_step(layer, work, x, HASTE_CUDA_F32, B, lists, options, NULL, NULL, HASTE_CUDA_F32, NULL, \
                              &test_error)
    CHECK_STATUS(STEP(NULL, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, NULL, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &none, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, NULL, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, 0, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, 9, lists, &o), HASTE_ERR_SIZE, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, NULL), HASTE_ERR_ARG, test_error);
    o.lr = -1;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    o.lr = .1f;
    wrong.offset = NULL;
    CHECK_STATUS(STEP(&dev, &work, x, 8, wrong, &o), HASTE_ERR_ARG, test_error);
    k = batch.id[batch.offset[0]];
    for (wrong = lists; batch.offset[8] == batch.offset[0]; ) break;
    batch.id[batch.offset[8] - 1] = layer.labels;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_DATA, test_error);
    batch.id[batch.offset[8] - 1] = k >= 0 ? k : 0;
    CHECK(dev.step == 0);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 65, NULL, id, NULL, NULL, &test_error), HASTE_ERR_SIZE,
                 test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 0, NULL, id, NULL, NULL, &test_error), HASTE_ERR_ARG,
                 test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, (haste_cuda_type)3, 8, 1, NULL, id, NULL, NULL, &test_error),
                 HASTE_ERR_ARG, test_error);
    // another device, and an error that an earlier call has left behind
    dev.device = work.device = 1;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &layer, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_workspace_create(&none, &dev, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_ERR_ARG, test_error);
    dev.device = work.device = 0;
    for (k = 0; k < 2; k++) {
        void *never = NULL;
        CHECK(cudaMalloc(&never, (size_t)1 << 50) != cudaSuccess);
        if (k == 0) CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_DEVICE, test_error);
        else CHECK_STATUS(haste_cuda_upload(&failed, &layer, NULL, NULL, &test_error), HASTE_ERR_DEVICE, test_error);
        CHECK(strstr(test_error.text, "earlier") != NULL);
    }
    CHECK(dev.step == 0 && ((unsigned char *)&failed)[0] == 0x5a);
    {
        haste_layer back = test_copy(&layer);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);   // nothing above has changed a weight
        haste_layer_free(&back);
    }
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_OK, test_error);   // and all is as before
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    // paths
    memset(&forced, 0, sizeof forced);
    forced.path[0] = HASTE_CUDA_GENERAL;
    CHECK_STATUS(haste_cuda_upload(&failed, &layer, &forced, NULL, &test_error), HASTE_OK, test_error);
    CHECK(haste_cuda_path_of(&failed, NULL, 0, 8, &why) == HASTE_CUDA_GENERAL && why && why[0]);
    haste_cuda_layer_free(&failed);
    CHECK(strcmp(haste_cuda_path_text(HASTE_CUDA_WIDE), "wide") == 0 && haste_status_text(HASTE_ERR_DEVICE)[0]);
    // a view on memory of one's own
    {
        haste_layer arrays = layer;
        haste_block *b = &arrays.block[0];
        b->index = dev.block[0].index;
        b->weight = dev.block[0].weight;
        b->bias = dev.block[0].bias;
        arrays.label_of = dev.label_of;
        arrays.slot_of = dev.slot_of;
        CHECK_STATUS(haste_cuda_layer_view(&view, &arrays, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(STEP(&view, &work, x, 8, lists, &o), HASTE_OK, test_error);
        haste_cuda_layer_free(&view);
        b->weight = NULL;
        CHECK_STATUS(haste_cuda_layer_view(&view, &arrays, &test_error), HASTE_ERR_STATE, test_error);
    }
    options = test_options(&test_shapes[4], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    other = test_layer(&options);
    CHECK_STATUS(haste_cuda_download(&dev, &other, NULL, &test_error), HASTE_ERR_ARG, test_error);
    haste_layer_free(&other);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

/* A layer and a workspace in the caller's memory, on every path, train to the bits of those that are allocated, take no
   device memory (but rewiring), write no byte beyond what was planned, and give nothing back that is not theirs. And a view
   of arrays in the order of haste.h does what a layer of general paths does. */
static void own_memory()
{
    int turn, view;
    for (turn = 0; turn < SHARD_SHAPES; turn++) for (view = 0; view < 2; view++) {
        haste_layer_options options = test_options(&shard_shapes[turn], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_F32);
        haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer), arrays = layer;
        haste_cuda_layer dev = upload_for(&layer, view ? HASTE_CUDA_GENERAL : shard_path(turn), 64), own;
        haste_cuda_workspace work, own_work;
        haste_cuda_workspace_options work_options;
        haste_cuda_options cuda;
        haste_cuda_plan plan;
        test_batch batch = test_make_batch(&layer, 64);
        haste_step_options o;
        haste_rewire_options r;
        const size_t n = 64 * (size_t)layer.slots * 4;
        void *x = device_copy(batch.x, 64 * (size_t)layer.inputs * 4), *out = device_bytes(n),
            *id = device_bytes(64 * 5 * 4),
            *memory, *scratch, *taken[TEST_SPANS];
        char *got[2], *best[2];
        long before;
        int k, i, spans = 0;
        memset(&work_options, 0, sizeof work_options);
        memset(&cuda, 0, sizeof cuda);
        memset(&o, 0, sizeof o);
        memset(&r, 0, sizeof r);
        work_options.batch = 64;
        o.lr = .5f;
        r.share = .2f;
        CHECK_STATUS(haste_cuda_plan_bytes(&options, &work_options, NULL, &plan, &test_error), HASTE_OK, test_error);
        memory = device_bytes(plan.layer);
        scratch = device_bytes(plan.workspace);
        CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_OK, test_error);
        before = held;
        memcpy(cuda.path, dev.path, sizeof cuda.path);
        cuda.memory = memory;
        cuda.bytes = plan.layer - 1;
        memset(&own, 0x5a, sizeof own);
        CHECK_STATUS(haste_cuda_upload(&own, &layer, &cuda, NULL, &test_error), HASTE_ERR_SIZE, test_error);
        cuda.bytes = plan.layer;
        cuda.memory = (char *)memory + 16;
        CHECK_STATUS(haste_cuda_layer_create(&own, &options, &cuda, NULL, &test_error), HASTE_ERR_ARG, test_error);
        CHECK(((unsigned char *)&own)[0] == 0x5a);
        cuda.memory = memory;
        if (view) {
            test_span span[TEST_SPANS], to[TEST_SPANS];
            spans = test_spans(&layer, span);
            for (i = 0; i < spans; i++) taken[i] = device_copy(span[i].data, span[i].bytes);
            for (k = 0, i = 0; k < arrays.block_count; k++) {   // in the order of test_spans
                haste_block *b = &arrays.block[k];
                if (b->index) b->index = (uint16_t *)taken[i++];
                b->weight = taken[i++];
                b->bias = (float *)taken[i++];
                b->weight_state[0] = taken[i++];
                b->bias_state[0] = (float *)taken[i++];
            }
            arrays.label_of = (int32_t *)taken[i++];
            arrays.slot_of = (int32_t *)taken[i++];
            CHECK(i == spans && test_spans(&arrays, to) == spans);
            CHECK_STATUS(haste_cuda_layer_view(&own, &arrays, &test_error), HASTE_OK, test_error);
        } else {   // made there first: the same as on the host
            haste_layer fresh;
            CHECK_STATUS(haste_cuda_layer_create(&own, &options, &cuda, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&own, &one, NULL, &test_error), HASTE_OK, test_error);
            CHECK(haste_layer_create(&fresh, &options, NULL) == HASTE_OK);
            CHECK(test_difference(&one, &fresh) == NULL);
            haste_layer_free(&fresh);
            haste_cuda_layer_free(&own);
            CHECK_STATUS(haste_cuda_upload(&own, &layer, &cuda, NULL, &test_error), HASTE_OK, test_error);
        }
        work_options.memory = scratch;
        work_options.bytes = plan.workspace - 256;
        CHECK_STATUS(haste_cuda_workspace_create(&own_work, &own, &work_options, &test_error), HASTE_ERR_SIZE, test_error);
        work_options.bytes = plan.workspace;
        CHECK_STATUS(haste_cuda_workspace_create(&own_work, &own, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(held == before + 3);   // pinned memory and two events
        for (i = 0; i < 2; i++) {
            haste_cuda_layer *l = i ? &own : &dev;
            haste_cuda_workspace *w = i ? &own_work : &work;
            CHECK_STATUS(haste_cuda_train_step(l, w, x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL,
                                               HASTE_CUDA_F32,
                                               NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_rewire(l, w, &r, NULL, HASTE_CUDA_F32, 0, host_lists(&batch), NULL, NULL, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_forward(l, w, x, HASTE_CUDA_F32, 64, out, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK,
                         test_error);
            CHECK_STATUS(haste_cuda_top_k(l, w, x, HASTE_CUDA_F32, 64, 5, NULL, (int32_t *)id, NULL, NULL, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_check(w, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(l, i ? &two : &one, NULL, &test_error), HASTE_OK, test_error);
            got[i] = (char *)host_copy(out, n);
            best[i] = (char *)host_copy(id, 64 * 5 * 4);
        }
        CHECK(test_difference(&one, &two) == NULL && test_difference(&one, &layer) != NULL);
        CHECK(memcmp(got[0], got[1], n) == 0 && memcmp(best[0], best[1], 64 * 5 * 4) == 0);
        haste_cuda_workspace_free(&own_work);
        haste_cuda_layer_free(&own);
        CHECK(held == before);
        free(host_take(memory, plan.layer));   // still the caller's; nothing was written beyond
        free(host_take(scratch, plan.workspace));
        for (i = 0; i < spans; i++) cudaFree(taken[i]);
        for (i = 0; i < 2; i++) { free(got[i]); free(best[i]); }
        cudaFree(x); cudaFree(out); cudaFree(id);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&one);
        haste_layer_free(&two);
    }
}

// What failing() calls, over and over.
enum {
    OP_UPLOAD, OP_CREATE, OP_WORKSPACE, OP_GRADIENT, OP_DOWNLOAD, OP_STEP, OP_ACCUMULATE, OP_APPLY, OP_FORWARD, OP_BACKWARD,
    OP_SCORE, OP_BEST_FEW, OP_BEST, OP_ABOVE, OP_REWIRE, OP_CHECK, OPS
};
typedef struct calls {
    haste_layer_options  options;
    haste_layer          host, back;
    haste_cuda_layer     dev;
    haste_cuda_workspace work;
    haste_cuda_gradient  gradient;
    haste_cuda_lists     lists;       // on the host
    void                *x, *logits, *loss, *grad_x, *id, *score, *offset;
    int32_t              B;
    union { haste_cuda_layer layer; haste_cuda_workspace work; haste_cuda_gradient gradient; unsigned char bytes[1]; } made;
} calls;

static haste_status one_call(calls *c, int op)
{
    haste_step_options o;
    haste_rewire_options r;
    int64_t needed = -1;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .01f;
    r.share = .2f;
    r.growth = HASTE_GROW_GRADIENT;
    switch (op) {
    case OP_UPLOAD:    return haste_cuda_upload(&c->made.layer, &c->host, NULL, NULL, &test_error);
    case OP_CREATE:    return haste_cuda_layer_create(&c->made.layer, &c->options, NULL, NULL, &test_error);
    case OP_WORKSPACE: return haste_cuda_workspace_create(&c->made.work, &c->dev, NULL, &test_error);
    case OP_GRADIENT:  return haste_cuda_gradient_create(&c->made.gradient, &c->dev, &test_error);
    case OP_DOWNLOAD:  return haste_cuda_download(&c->dev, &c->back, NULL, &test_error);
    case OP_STEP:
        return haste_cuda_train_step(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->lists, &o, (double *)c->loss,
                                     c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_ACCUMULATE:
        return haste_cuda_accumulate(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->lists, &o, &c->gradient,
                                     (double *)c->loss, c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_APPLY:     return haste_cuda_apply(&c->dev, &c->work, &c->gradient, &o, NULL, &test_error);
    case OP_FORWARD:
        return haste_cuda_forward(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->logits, HASTE_CUDA_F32, NULL,
                                  &test_error);
    case OP_BACKWARD:
        return haste_cuda_backward(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->logits, HASTE_CUDA_F32, &c->gradient,
                                   c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_SCORE:
        return haste_cuda_score(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->lists, (float *)c->score, NULL,
                                &test_error);
    case OP_BEST_FEW: case OP_BEST:
        return haste_cuda_top_k(&c->dev, &c->work, c->x, HASTE_CUDA_F32, op == OP_BEST ? c->B : 1, 5, &c->lists,
                                (int32_t *)c->id, (float *)c->score, NULL, &test_error);
    case OP_ABOVE:
        return haste_cuda_above(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, 0, &c->lists, (int64_t *)c->offset,
                                (int32_t *)c->id, (float *)c->score, 4096, &needed, NULL, &test_error);
    case OP_REWIRE:
        return haste_cuda_rewire(&c->dev, &c->work, &r, c->x, HASTE_CUDA_F32, c->B, c->lists, NULL, NULL, &test_error);
    default:           return haste_cuda_check(&c->work, NULL, &test_error);
    }
}

static void free_made(calls *c, int op)
{
    if (op <= OP_CREATE) haste_cuda_layer_free(&c->made.layer);
    else if (op == OP_WORKSPACE) haste_cuda_workspace_free(&c->made.work);
    else if (op == OP_GRADIENT) haste_cuda_gradient_free(&c->made.gradient);
}

// Makes each allocation, or each CUDA call, of each function fail in turn: a status and a sentence come back, nothing leaks,
// outputs and counters stay as they were, and the next call succeeds.
static void fail_each(calls *c, int op, int *fail_at, std::atomic<int> *count)
{
    int n, failed;
    for (n = 0; n < 400; n++) {
        const long before = held;
        const int64_t step = c->dev.step, rewires = c->dev.rewires;
        const int32_t pending = c->dev.pending;
        haste_status status;
        memset(&c->made, 0x5a, sizeof c->made);
        memset(&test_error, 0, sizeof test_error);
        *count = 0;
        *fail_at = n;
        status = one_call(c, op);
        *fail_at = -1;
        failed = *count > n;
        if (status == HASTE_OK) {   // nothing was left to fail; or what failed was an answer that it can do without
            free_made(c, op);
            if (!failed) break;
            CHECK(fail_at == &call_fail_at);
            CHECK(held == before);
            continue;
        }
        CHECK(failed && test_error.status == status && test_error.text[0]);
        CHECK(status == (fail_at == &alloc_fail_at ? HASTE_ERR_MEMORY : HASTE_ERR_DEVICE));
        if (!CHECK(held == before)) printf("    operation %d, failure %d: %ld are held\n", op, n, held - before);
        CHECK(c->made.bytes[0] == 0x5a && c->made.bytes[sizeof c->made - 1] == 0x5a);
        CHECK(c->dev.step == step && c->dev.pending == pending && c->dev.rewires == rewires);
        CHECK_STATUS(one_call(c, op), HASTE_OK, test_error);
        free_made(c, op);
    }
    CHECK(n < 400 && !failed);
    while (c->dev.pending > 1) c->dev.pending--;   // what each success has added
}

static void failing()
{
    static const test_shape fast = { "narrow and wide", 400, 128, 2, { { 100, 64, HASTE_DENSE, 0, 64 },
                                                                       { 0, 32, 64, 0, 128 } }, 1 };
    int i, op;
    for (i = 0; i < 2; i++) {
        const long before = held;
        calls c;
        test_batch batch;
        size_t n;
        memset(&c, 0, sizeof c);
        c.B = 8;
        c.options = test_options(i ? &fast : &test_shapes[11], i ? HASTE_BCE : HASTE_SOFTMAX, HASTE_MOMENTUM, HASTE_BF16,
                                 HASTE_F32);
        c.host = test_layer(&c.options);
        c.back = test_copy(&c.host);
        c.dev = upload(&c.host);
        c.work = workspace(&c.dev, c.B, 0);
        CHECK_STATUS(haste_cuda_gradient_create(&c.gradient, &c.dev, &test_error), HASTE_OK, test_error);
        batch = test_make_batch(&c.host, c.B);
        c.lists = host_lists(&batch);
        n = (size_t)c.B * (size_t)c.host.inputs;
        c.x = device_copy(batch.x, n * 4);
        c.grad_x = device_bytes(n * 4);
        c.logits = device_bytes((size_t)c.B * (size_t)c.host.slots * 4);
        c.loss = device_bytes(8);
        c.offset = device_bytes(9 * 8);
        c.id = device_bytes(4096 * 4);
        c.score = device_bytes(4096 * 4);
        MUST(cudaMemset(c.grad_x, 0, n * 4));
        for (op = 0; op < OPS; op++) {
            fail_each(&c, op, &alloc_fail_at, &alloc_count);
            fail_each(&c, op, &call_fail_at, &call_count);
        }
        CHECK_STATUS(haste_cuda_check(&c.work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&c.dev, &c.back, NULL, &test_error), HASTE_OK, test_error);
        c.back.pending = 0;
        CHECK_STATUS(haste_layer_check(&c.back, &test_error), HASTE_OK, test_error);
        free(host_take(c.x, n * 4));   // and no call has written past an array
        free(host_take(c.grad_x, n * 4));
        free(host_take(c.logits, (size_t)c.B * (size_t)c.host.slots * 4));
        free(host_take(c.loss, 8));
        free(host_take(c.offset, 9 * 8));
        free(host_take(c.id, 4096 * 4));
        free(host_take(c.score, 4096 * 4));
        haste_cuda_gradient_free(&c.gradient);
        haste_cuda_workspace_free(&c.work);
        haste_cuda_layer_free(&c.dev);
        test_free_batch(&batch);
        haste_layer_free(&c.host);
        haste_layer_free(&c.back);
        CHECK(held == before);
    }
}

// Plans larger than the card: its own answer, not one that a test has made up.
static void too_large()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer), never;
    haste_cuda_workspace work;
    haste_cuda_workspace_options work_options;
    haste_cuda_plan plan;
    const long before = held;
    memset(&work_options, 0, sizeof work_options);
    memset(&never, 0x5a, sizeof never);
    memset(&work, 0x5a, sizeof work);
    options.labels = 4000000;   // half a terabyte
    options.inputs = 65536;
    options.block_count = 1;
    options.block[0].fan_in = HASTE_DENSE;
    options.order = NULL;
    CHECK_STATUS(haste_cuda_plan_bytes(&options, NULL, NULL, &plan, &test_error), HASTE_OK, test_error);
    CHECK(plan.layer > (size_t)480 << 30);
    CHECK_STATUS(haste_cuda_layer_create(&never, &options, NULL, NULL, &test_error), HASTE_ERR_MEMORY, test_error);
    CHECK(alloc_last == plan.layer && ((unsigned char *)&never)[0] == 0x5a);
    work_options.batch = 1 << 24;
    work_options.top_k = 64;
    CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_ERR_MEMORY, test_error);
    CHECK(alloc_last > (size_t)200 << 30 && ((unsigned char *)&work)[0] == 0x5a);
    CHECK(held == before);
    CHECK(cudaGetLastError() == cudaSuccess);   // nor is an error left for the next launch
    CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &back) == NULL);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

// Blocks whose groups are larger than shared memory: their weights are brought into a path's order piece by piece.
static void large_groups()
{
    static const test_shape shapes[2] = {
        { "dense, S 64, D 2048",  130, 2048, 1, { { 0,  64, HASTE_DENSE, 0, 0 } }, 1 },
        { "S 128, F 1008",        200, 1200, 1, { { 0, 128, 1008,        0, 0 } }, 1 }
    };
    int i, dtype;
    for (i = 0; i < 2; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, (haste_dtype)dtype);
        haste_layer layer = test_layer(&options), back = test_copy(&layer);
        haste_cuda_layer dev = upload(&layer);
        size_t k, weights = (size_t)test_weights(&layer.block[0]);
        for (k = 0; k < weights; k++) test_put(options.state_dtype, layer.block[0].weight_state[0], k, (float)(k % 251));
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        memset(back.block[0].weight, 0xff, weights * 2);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// What is made zeroed is zero for every stream, also for those that do not wait for the default one.
static void ready_at_once()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_cuda_layer dev;
    haste_cuda_gradient gradient;
    options.labels = 1000000;   // 256 MB of gradients
    options.inputs = 64;
    options.order = NULL;
    CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK(cudaStreamQuery(NULL) == cudaSuccess);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_layer_free(&dev);
}

// A kernel's limit of shared memory is the same for all calls: two host threads must not take it from each other.
static void one_limit()
{
    haste_layer_options options = test_options(&test_shapes[7], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 37, 0);
    test_batch batch = test_make_batch(&layer, 37);
    void *x = device_copy(batch.x, 37 * (size_t)layer.inputs * 4), *id = device_bytes(37 * 64 * 4);
    int32_t k;
    limit_changes = 0;
    for (k = 64; k > 0; k--)
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 37, k, NULL, (int32_t *)id, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
    CHECK(limit_count > 0 && limit_changes == 0);
    cudaFree(x);
    cudaFree(id);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

// Two layers on two streams at once give what they give alone.
static void two_streams()
{
    enum { STEPS = 10 };
    haste_layer_options options = test_options(&test_shapes[9], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), a = test_copy(&layer), b = test_copy(&layer), c = test_copy(&layer);
    haste_cuda_layer alone = upload(&layer), one = upload(&layer), two = upload(&layer);
    haste_cuda_workspace work[3] = { workspace(&alone, 64, 0), workspace(&one, 64, 0), workspace(&two, 64, 0) };
    test_batch batch = test_make_batch(&layer, 64);
    void *x = device_copy(batch.x, 64 * (size_t)layer.inputs * 4);
    cudaStream_t stream[2];
    haste_step_options o;
    int i;
    memset(&o, 0, sizeof o);
    o.lr = .5f;
    MUST(cudaStreamCreate(&stream[0]));
    MUST(cudaStreamCreate(&stream[1]));
    MUST(cudaDeviceSynchronize());
    for (i = 0; i < STEPS; i++)
        haste_cuda_train_step(&alone, &work[0], x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL, HASTE_CUDA_F32,
                              NULL, NULL);
    haste_cuda_download(&alone, &a, NULL, NULL);
    for (i = 0; i < STEPS; i++) {
        CHECK_STATUS(haste_cuda_train_step(&one, &work[1], x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL,
                                           HASTE_CUDA_F32, stream[0], &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&two, &work[2], x, HASTE_CUDA_F32, 64, host_lists(&batch), &o, NULL, NULL,
                                           HASTE_CUDA_F32, stream[1], &test_error), HASTE_OK, test_error);
    }
    CHECK_STATUS(haste_cuda_check(&work[1], stream[0], &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work[2], stream[1], &test_error), HASTE_OK, test_error);
    haste_cuda_download(&one, &b, stream[0], NULL);
    haste_cuda_download(&two, &c, stream[1], NULL);
    CHECK(test_difference(&a, &b) == NULL);
    CHECK(test_difference(&a, &c) == NULL);
    CHECK(test_difference(&layer, &a) != NULL);
    MUST(cudaStreamDestroy(stream[0]));
    MUST(cudaStreamDestroy(stream[1]));
    for (i = 0; i < 3; i++) haste_cuda_workspace_free(&work[i]);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_layer_free(&alone);
    haste_cuda_layer_free(&one);
    haste_cuda_layer_free(&two);
    haste_layer_free(&layer);
    haste_layer_free(&a);
    haste_layer_free(&b);
    haste_layer_free(&c);
}

// ---- two layers on two streams, from two host threads ----

static __global__ void delay(long long cycles) { const long long begin = clock64(); while (clock64() - begin < cycles) { } }

enum { BUSY_STEPS = 30, BUSY_B = 64, BUSY_K = 5, BUSY_BATCHES = 3 };

typedef struct busy {
    haste_cuda_layer     dev;
    haste_cuda_workspace work;
    cudaStream_t         stream;
    test_batch           batch[BUSY_BATCHES];
    float               *x[BUSY_BATCHES];
    int32_t             *best;         // [BUSY_STEPS][BUSY_B][BUSY_K], device
    int                  overwrite;    // host lists are overwritten as soon as a call returns
    haste_status         status;
    haste_error          error;
} busy;

static busy make_busy(const haste_layer *layer, haste_cuda_path path)
{
    busy one;
    int i;
    memset(&one, 0, sizeof one);
    one.dev = upload_for(layer, path, BUSY_B);
    one.work = workspace(&one.dev, BUSY_B, 0);
    MUST(cudaStreamCreateWithFlags(&one.stream, cudaStreamNonBlocking));
    for (i = 0; i < BUSY_BATCHES; i++) {
        one.batch[i] = test_make_batch(layer, BUSY_B);
        one.x[i] = (float *)device_copy(one.batch[i].x, BUSY_B * (size_t)layer->inputs * 4);
    }
    one.best = (int32_t *)device_bytes((size_t)BUSY_STEPS * BUSY_B * BUSY_K * 4);
    return one;
}
static void free_busy(busy *one)
{
    int i;
    for (i = 0; i < BUSY_BATCHES; i++) { test_free_batch(&one->batch[i]); cudaFree(one->x[i]); }
    cudaFree(one->best);
    MUST(cudaStreamDestroy(one->stream));
    haste_cuda_workspace_free(&one->work);
    haste_cuda_layer_free(&one->dev);
}

// Steps, the best of each, now and then rewiring. Touches nothing that another thread touches (no checks either).
static void work_along(busy *w)
{
    int64_t offset[BUSY_B + 1];
    int32_t id[BUSY_B * 6 + 3];
    haste_cuda_lists lists = { offset, id, 1 };
    haste_step_options o;
    haste_rewire_options r;
    int step, turn;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .5f;
    r.share = .1f;
    w->status = HASTE_OK;
    // ends with the device far behind: what a call takes from the host must have been copied by then
    if (w->overwrite) delay<<<1, 1, 0, w->stream>>>(40000000);
    for (step = 0; step < BUSY_STEPS && w->status == HASTE_OK; step++) {
        const test_batch *batch = &w->batch[step % BUSY_BATCHES];
        const float *x = w->x[step % BUSY_BATCHES];
        for (turn = 0; turn < 3 && w->status == HASTE_OK; turn++) {
            memcpy(offset, batch->offset, sizeof offset);
            memcpy(id, batch->id, (size_t)batch->offset[BUSY_B] * 4);
            r.growth = step % 8 == 7 ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM;
            if (turn == 0)
                w->status = haste_cuda_train_step(&w->dev, &w->work, x, HASTE_CUDA_F32, BUSY_B, lists, &o, NULL, NULL,
                                                  HASTE_CUDA_F32, w->stream, &w->error);
            else if (turn == 1)
                w->status = haste_cuda_top_k(&w->dev, &w->work, x, HASTE_CUDA_F32, step % 2 ? 1 : BUSY_B, BUSY_K, &lists,
                                             w->best + (size_t)step * BUSY_B * BUSY_K, NULL, w->stream, &w->error);
            else if (step % 4 == 3)
                w->status = haste_cuda_rewire(&w->dev, &w->work, &r, x, HASTE_CUDA_F32, BUSY_B, lists, NULL, w->stream,
                                              &w->error);
            if (!w->overwrite) continue;
            memset(offset, 0x77, sizeof offset);
            memset(id, 0x77, sizeof id);
        }
    }
    if (w->status == HASTE_OK) w->status = haste_cuda_check(&w->work, w->stream, &w->error);
}

// Prediction by one of several threads that share a layer, each with a workspace, a stream and outputs of its own.
static void predict_along(busy *w, const haste_cuda_layer *layer, float *logits)
{
    int step;
    w->status = HASTE_OK;
    for (step = 0; step < BUSY_STEPS && w->status == HASTE_OK; step++) {
        const float *x = w->x[step % BUSY_BATCHES];
        w->status = haste_cuda_top_k(layer, &w->work, x, HASTE_CUDA_F32, step % 3 ? BUSY_B : 2, BUSY_K, NULL,
                                     w->best + (size_t)step * BUSY_B * BUSY_K, NULL, w->stream, &w->error);
        if (w->status == HASTE_OK)
            w->status = haste_cuda_forward(layer, &w->work, x, HASTE_CUDA_F32, BUSY_B, logits, HASTE_CUDA_F32, w->stream,
                                           &w->error);
    }
    if (w->status == HASTE_OK) w->status = haste_cuda_check(&w->work, w->stream, &w->error);
}

// Two threads that ask one layer get what one thread gets.
static void two_readers()
{
    static const test_shape shape = { "S 16, F 64", 4000, 128, 1, { { 0, 16, 64, 0, 0 } }, 1 };
    const size_t best = (size_t)BUSY_STEPS * BUSY_B * BUSY_K * 4;
    haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
    haste_layer layer = test_layer(&options);
    busy one[2] = { make_busy(&layer, HASTE_CUDA_NARROW), make_busy(&layer, HASTE_CUDA_NARROW) };
    const size_t n = BUSY_B * (size_t)layer.slots * 4;
    float *logits[2] = { (float *)device_bytes(n), (float *)device_bytes(n) };
    char *alone_best[2], *alone_logits[2], *got;
    int i, run;
    for (run = 0; run < 4; run++) {   // the first: one after the other
        for (i = 0; i < 2; i++) { MUST(cudaMemset(one[i].best, 0xff, best)); MUST(cudaMemset(logits[i], 0xff, n)); }
        MUST(cudaDeviceSynchronize());
        if (run == 0) for (i = 0; i < 2; i++) predict_along(&one[i], &one[0].dev, logits[i]);
        else {
            std::thread first(predict_along, &one[0], &one[0].dev, logits[0]),
                second(predict_along, &one[1], &one[0].dev, logits[1]);
            first.join();
            second.join();
        }
        for (i = 0; i < 2; i++) {
            CHECK_STATUS(one[i].status, HASTE_OK, one[i].error);
            if (run == 0) {
                alone_best[i] = (char *)host_copy(one[i].best, best);
                alone_logits[i] = (char *)host_copy(logits[i], n);
                continue;
            }
            got = (char *)host_copy(one[i].best, best);
            CHECK(memcmp(got, alone_best[i], best) == 0);
            free(got);
            got = (char *)host_copy(logits[i], n);
            CHECK(memcmp(got, alone_logits[i], n) == 0);
            free(got);
        }
    }
    CHECK(memcmp(alone_logits[0], alone_logits[1], n) != 0);   // of other batches
    for (i = 0; i < 2; i++) { free(alone_best[i]); free(alone_logits[i]); cudaFree(logits[i]); free_busy(&one[i]); }
    haste_layer_free(&layer);
}

/* Two layers at once, each with a workspace and a stream of its own, from two host threads, end with the bits that each ends
   with alone. Would catch memory, events or limits of kernels that calls share, work on the default stream, and lists that
   are read after the call has returned. */
static void two_threads()
{
    static const test_shape shapes[] = {
        { "wide",    4000, 300, 1, { { 0, 32, 64, 0, 0 } }, 1 },
        { "narrow",  4000, 128, 1, { { 0, 16, 64, 0, 0 } }, 1 },
        { "general", 1500, 100, 1, { { 0, 40, 70, 0, 0 } }, 1 } };
    static const struct { int shape[2]; haste_cuda_path path[2]; } pairs[] = {
        { { 0, 1 }, { HASTE_CUDA_WIDE, HASTE_CUDA_NARROW } }, { { 1, 1 }, { HASTE_CUDA_NARROW, HASTE_CUDA_NARROW } },
        { { 2, 0 }, { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE } } };
    const size_t best = (size_t)BUSY_STEPS * BUSY_B * BUSY_K * 4;
    int pair, i, run;
    for (pair = 0; pair < 3; pair++) {
        haste_layer layer[2], alone[2], together;
        busy one[2];
        int32_t *alone_best[2], *got;
        for (i = 0; i < 2; i++) {
            haste_layer_options options = test_options(&shapes[pairs[pair].shape[i]], HASTE_BCE,
                                                       i ? HASTE_MOMENTUM : HASTE_SGD,
                                                       HASTE_BF16, HASTE_BF16);
            layer[i] = test_layer(&options);
            alone[i] = test_copy(&layer[i]);
            one[i] = make_busy(&layer[i], pairs[pair].path[i]);
            MUST(cudaDeviceSynchronize());
            work_along(&one[i]);
            CHECK_STATUS(one[i].status, HASTE_OK, one[i].error);
            CHECK_STATUS(haste_cuda_download(&one[i].dev, &alone[i], one[i].stream, &test_error), HASTE_OK, test_error);
            CHECK(test_difference(&layer[i], &alone[i]) != NULL);
            alone_best[i] = (int32_t *)host_copy(one[i].best, best);
        }
        for (run = 0; run < 3; run++) {
            for (i = 0; i < 2; i++) {
                haste_cuda_layer_free(&one[i].dev);
                one[i].dev = upload_for(&layer[i], pairs[pair].path[i], BUSY_B);
                one[i].overwrite = 1;
                MUST(cudaMemset(one[i].best, 0xff, best));
            }
            MUST(cudaDeviceSynchronize());
            {
                std::thread first(work_along, &one[0]), second(work_along, &one[1]);
                first.join();
                second.join();
            }
            for (i = 0; i < 2; i++) {
                CHECK_STATUS(one[i].status, HASTE_OK, one[i].error);
                together = test_copy(&layer[i]);
                CHECK_STATUS(haste_cuda_download(&one[i].dev, &together, one[i].stream, &test_error), HASTE_OK, test_error);
                got = (int32_t *)host_copy(one[i].best, best);
                if (!(CHECK(test_difference(&alone[i], &together) == NULL) & CHECK(memcmp(got, alone_best[i], best) == 0)))
                    printf("    pair %d, layer %d, run %d\n", pair, i, run);
                free(got);
                haste_layer_free(&together);
            }
        }
        for (i = 0; i < 2; i++) {
            free(alone_best[i]);
            free_busy(&one[i]);
            haste_layer_free(&layer[i]);
            haste_layer_free(&alone[i]);
        }
    }
}

// ---- the trained whole -----------------------------------------------------------------------------------------------

// A small problem that can be solved: CPU and device train on it from one seed, and predict equally well.
static void trains_as_cpu()
{
    enum { L = 300, D = 64, B = 64, N = 1024, BEST = 5 };
    static float data[2 * N * D], centre[L * D];   // N to learn, N to judge
    static int64_t offset[2 * N + 1];
    static int32_t id[2 * N];
    int dtype, i, d, k, step;
    check_seed = 1;   // the same documents, whatever ran before
    for (i = 0; i < L * D; i++) centre[i] = check_normal();
    for (i = 0; i < 2 * N; i++) {
        id[i] = (int32_t)(check_random() % L);
        offset[i] = i;
        for (d = 0; d < D; d++) data[i * D + d] = (centre[id[i] * D + d] + .5f * check_normal()) / 8;
    }
    offset[2 * N] = 2 * N;
    for (dtype = 0; dtype < 2; dtype++) {
        const int apart = dtype ? N / 50 : N / 100;   // bfloat16: rounding is drawn
        haste_layer_options options;
        haste_layer layer;
        haste_cuda_layer dev;
        haste_workspace host_work;
        haste_cuda_workspace work;
        haste_step_options o;
        void *x = device_copy(data, sizeof data), *dev_id = device_bytes(B * BEST * 4);
        int32_t found[B * BEST], best[B * BEST];
        int cpu[2] = { 0, 0 }, device[2] = { 0, 0 };   // right at the first place; among all BEST
        memset(&options, 0, sizeof options);
        memset(&o, 0, sizeof o);
        options.labels = L;
        options.inputs = D;
        options.optimizer = HASTE_ADAMW;
        options.dtype = (haste_dtype)dtype;
        options.seed = 5;
        options.block_count = 1;
        options.block[0].fan_in = 32;
        options.block[0].group_size = 16;
        o.lr = .06f;
        CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
        dev = upload(&layer);
        host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
        work = workspace(&dev, B, 0);
        for (step = 0; step < 128; step++) {
            int first = step * B % N;
            haste_lists lists = { offset + first, id };
            haste_cuda_lists dev_lists = { offset + first, id, 1 };
            CHECK(haste_train_step(&layer, &host_work, data + (size_t)first * D, B, lists, &o, NULL, NULL,
                                   NULL) == HASTE_OK);
            CHECK(haste_cuda_train_step(&dev, &work, (float *)x + (size_t)first * D, HASTE_CUDA_F32, B, dev_lists, &o, NULL,
                                        NULL, HASTE_CUDA_F32, NULL, NULL) == HASTE_OK);
        }
        for (step = N / B; step < 2 * N / B; step++) {
            CHECK(haste_top_k(&layer, &host_work, data + (size_t)step * B * D, B, BEST, NULL, best, NULL, NULL) == HASTE_OK);
            CHECK(haste_cuda_top_k(&dev, &work, (float *)x + (size_t)step * B * D, HASTE_CUDA_F32, B, BEST, NULL,
                                   (int32_t *)dev_id, NULL, NULL, NULL) == HASTE_OK);
            MUST(cudaMemcpy(found, dev_id, sizeof found, cudaMemcpyDeviceToHost));
            for (i = 0; i < B; i++) for (k = 0; k < BEST; k++) {
                const int32_t right = id[step * B + i];
                if (best[i * BEST + k] == right) { cpu[0] += k == 0; cpu[1]++; }
                if (found[i * BEST + k] == right) { device[0] += k == 0; device[1]++; }
            }
        }
        CHECK(cpu[0] > N * 55 / 100 && abs(cpu[0] - device[0]) <= apart);
        CHECK(cpu[1] > N * 70 / 100 && abs(cpu[1] - device[1]) <= apart);
        printf("    trains_as_cpu, dtype %d: %.1f%% and %.1f%% right at once, %.1f%% and %.1f%% among %d\n", dtype,
               100.0 * cpu[0] / N, 100.0 * device[0] / N, 100.0 * cpu[1] / N, 100.0 * device[1] / N, (int)BEST);
        cudaFree(x);
        cudaFree(dev_id);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
    }
}

// ---- sizes beyond 2^31 -----------------------------------------------------------------------------------------------

/* The group of a slot as a host layer of one block, from a layer too large to be downloaded: its own arrays are fetched, and
   references are asked about it alone. */
static haste_layer fetch_group(const haste_cuda_layer *dev, int64_t g)
{
    haste_layer_options options;
    haste_layer layer;
    const haste_block *from = &dev->block[0];
    size_t S = (size_t)from->group_size, F = (size_t)from->fan_in, width = test_width(dev->dtype);
    memset(&options, 0, sizeof options);
    options.labels = from->group_size;
    options.inputs = dev->inputs;
    options.dtype = dev->dtype;
    options.loss = dev->loss;
    options.block_count = 1;
    options.block[0].group_size = from->group_size;
    options.block[0].fan_in = from->fan_in;
    if (haste_layer_create(&layer, &options, &test_error) != HASTE_OK)
        { printf("no layer: %s\n", test_error.text); exit(1); }
    MUST(cudaMemcpy(layer.block[0].index, from->index + (size_t)g * F, F * 2, cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(layer.block[0].weight, (char *)from->weight + (size_t)g * F * S * width, F * S * width,
                    cudaMemcpyDeviceToHost));
    MUST(cudaMemcpy(layer.block[0].bias, from->bias + (size_t)g * S, S * 4, cudaMemcpyDeviceToHost));
    if (dev->path[0] != HASTE_CUDA_GENERAL) {   // from the path's order
        const haste_layer ordered = test_copy(&layer);
        size_t i;
        for (i = 0; i < F * S; i++)
            memcpy((char *)layer.block[0].weight + i * width,
                   (const char *)ordered.block[0].weight + width * (size_t)haste__cu_place(
                       dev->path[0], (int)S, (int)F, (int)(i / S), (int)(i % S)), width);
        haste_layer_free((haste_layer *)&ordered);
    }
    return layer;
}

/* haste_cuda_backward with B*L beyond 2^31: gradients are 0 but for those of a few groups, the last among them; so all of
   grad_x, and the groups' gradients, can be had from the references. */
static void backward_beyond(const haste_cuda_layer *dev, const void *x, const float *rounded, int32_t B, int deterministic)
{
    enum { GROUPS = 6, S = 32, F = 64 };
    const int64_t groups = dev->block[0].groups, of[GROUPS] = { groups - 1, groups - 2, groups / 2, 5, 0, groups / 128 + 1 };
    const size_t row = (size_t)dev->slots * 2, d = (size_t)B * (size_t)dev->inputs;
    haste_cuda_workspace work = chunked(dev, B, deterministic, 16);
    haste_cuda_gradient gradient;
    void *slopes, *gx = device_bytes(d * 4);
    double *want_x = test_doubles(d), *one_x = test_doubles(d), *z = test_doubles((size_t)B * S), *weight[1], *bias[1];
    float *got = (float *)test_alloc(S * F * 4), own_bias[S], *got_x;
    size_t i;
    int32_t b, n;
    int bad = 0;
    MUST(cudaMalloc(&slopes, (size_t)B * row));
    MUST(cudaMemset(slopes, 0, (size_t)B * row));
    MUST(cudaMemset(gx, 0, d * 4));
    weight[0] = test_doubles(S * F);
    bias[0] = test_doubles(S);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, dev, &test_error), HASTE_OK, test_error);
    MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
    for (n = 0; n < GROUPS; n++) {   // small whole numbers, which the order of sums does not change much
        uint16_t own[S];
        check_seed = 77 + (uint64_t)n;
        for (b = 0; b < B; b++) {
            for (i = 0; i < S; i++) own[i] = to_bf16((float)((int)(check_random() % 7) - 3));
            MUST(cudaMemcpy((char *)slopes + (size_t)b * row + (size_t)of[n] * S * 2, own, S * 2, cudaMemcpyHostToDevice));
        }
    }
    CHECK_STATUS(haste_cuda_backward(dev, &work, x, HASTE_CUDA_F32, B, slopes, HASTE_CUDA_BF16, &gradient, gx,
                                     HASTE_CUDA_F32,
                                     NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    for (n = 0; n < GROUPS; n++) {
        haste_layer layer = fetch_group(dev, of[n]);
        check_seed = 77 + (uint64_t)n;
        for (i = 0; i < (size_t)B * S; i++) z[i] = (double)((int)(check_random() % 7) - 3);
        haste_backward_ref(&layer, rounded, B, z, weight, bias, one_x);
        for (i = 0; i < d; i++) want_x[i] += one_x[i];
        MUST(cudaMemcpy(got, gradient.weight[0] + (size_t)of[n] * S * F, S * F * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(own_bias, gradient.bias[0] + (size_t)of[n] * S, S * 4, cudaMemcpyDeviceToHost));
        for (i = 0; i < S * F; i++) bad += !(fabs((double)got[i] - weight[0][i]) <= 1e-4);
        for (i = 0; i < S; i++) bad += !(fabs((double)own_bias[i] - bias[0][i]) <= 1e-4);
        haste_layer_free(&layer);
    }
    CHECK(bad == 0);
    for (n = 0; n < 8; n++) {   // and nothing elsewhere
        const int64_t g = n < 2 ? groups - 3 - n : (int64_t)(check_random() % (uint32_t)groups);
        int32_t k, given = 0;
        for (k = 0; k < GROUPS; k++) given |= g == of[k];
        MUST(cudaMemcpy(got, gradient.weight[0] + (size_t)g * S * F, S * F * 4, cudaMemcpyDeviceToHost));
        for (i = 0; i < S * F && !given; i++) bad += got[i] != 0;
    }
    got_x = (float *)host_take(gx, d * 4);
    for (i = 0; i < d; i++) bad += !(fabs((double)got_x[i] - want_x[i]) <= 1e-3);
    CHECK(bad == 0);
    if (bad) printf("    backward beyond 2^31, path %d, deterministic %d: %d numbers\n", (int)dev->path[0], deterministic,
                    bad);
    free(got_x); free(want_x); free(one_x); free(z); free(got); free(weight[0]); free(bias[0]);
    cudaFree(slopes);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_workspace_free(&work);
}

static void beyond_case(haste_cuda_path path)
{
    haste_status status;
    haste_layer_options options;
    haste_cuda_options general;
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    haste_cuda_workspace_options work_options;
    haste_step_options o;
    size_t free_bytes = 0, all_bytes = 0, i;
    enum { D = 128, B = 128 };
    float *data = (float *)test_alloc(B * D * 4), *rounded = (float *)test_alloc(B * D * 4);
    void *x, *logits, *loss, *id;
    int64_t *offset = (int64_t *)test_alloc((B + 1) * 8), g, groups;
    int32_t *label = (int32_t *)test_alloc(B * 4), *best = (int32_t *)test_alloc(B * 4), b, s, n;
    haste_cuda_lists lists = { offset, label, 1 };
    MUST(cudaMemGetInfo(&free_bytes, &all_bytes));
    if (free_bytes < (size_t)40 << 30)
        { printf("    beyond_2_31: skipped, needs 40 GiB of device memory\n"); free(data); free(rounded); free(offset);
            free(label); free(best); return; }
    memset(&options, 0, sizeof options);
    memset(&general, 0, sizeof general);
    memset(&work_options, 0, sizeof work_options);
    memset(&o, 0, sizeof o);
    options.labels = 36000000;   // 2.3e9 weights, and B*L = 4.6e9
    options.inputs = D;
    options.dtype = HASTE_BF16;
    options.seed = 3;
    general.path[0] = path;
    o.lr = 1;
    status = haste_cuda_layer_create(&dev, &options, &general, NULL, &test_error);
    if (status == HASTE_ERR_ARG) {
        printf("    beyond_2_31, %s: %s\n", haste_cuda_path_text(path), test_error.text);
        free(data); free(rounded); free(offset); free(label); free(best);
        return;
    }
    CHECK_STATUS(status, HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_OK, test_error);
    groups = dev.block[0].groups;
    for (i = 0; i < B * D; i++) { data[i] = check_normal(); rounded[i] = round_bf16(data[i]); }
    for (b = 0; b <= B; b++) offset[b] = b;
    for (b = 0; b < B; b++) label[b] = options.labels - 1 - 31 * b;
    x = device_copy(data, B * D * 4);
    logits = device_bytes((size_t)B * (size_t)dev.slots * 2);
    loss = device_bytes(8);
    id = device_bytes(B * 4);
    CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, logits, HASTE_CUDA_BF16, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    for (n = 0; n < 8; n++) {
        haste_layer layer;
        double want[B * 32];
        uint16_t row[32];
        int bad = 0;
        g = n < 2 ? groups - 1 - n : (int64_t)(check_random() % (uint32_t)groups);
        layer = fetch_group(&dev, g);
        haste_forward_ref(&layer, rounded, B, want);
        for (b = 0; b < B; b++) {
            MUST(cudaMemcpy(row, (uint16_t *)logits + (size_t)b * (size_t)dev.slots + (size_t)g * 32, 64,
                            cudaMemcpyDeviceToHost));
            for (s = 0; s < 32; s++)
                bad += !(fabs((double)test_from_bf16(row[s]) - want[b * 32 + s]) <= 5e-3 * (fabs(want[b * 32 + s]) + .1));
        }
        CHECK(bad == 0);
        haste_layer_free(&layer);
    }
    cudaFree(logits);
    backward_beyond(&dev, x, rounded, B, 0);
    if (path == HASTE_CUDA_GENERAL) backward_beyond(&dev, x, rounded, B, 1);
    {   // a step: the groups of the last labels change as the reference says
        haste_layer before = fetch_group(&dev, groups - 1), after;
        double want[B * 32], slopes[B * 32], *grad[1], *bias[1], own_loss;
        int64_t own_offset[B + 1];
        int32_t own_id[B], count = 0;
        haste_lists own = { own_offset, own_id };
        int bad = 0;
        for (b = 0; b < B; b++) {
            own_offset[b] = count;
            if (label[b] >= options.labels - 32) own_id[count++] = label[b] - (options.labels - 32);
        }
        own_offset[B] = count;
        CHECK(count == 2);
        haste_forward_ref(&before, rounded, B, want);
        haste_loss_ref(&before, want, B, own, 0, &own_loss, slopes);
        grad[0] = test_doubles(64 * 32);
        bias[0] = test_doubles(32);
        haste_backward_ref(&before, rounded, B, slopes, grad, bias, NULL);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists, &o, (double *)loss, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        after = fetch_group(&dev, groups - 1);
        for (i = 0; i < 64 * 32; i++) {
            double w = (double)test_get(HASTE_BF16, before.block[0].weight, i) - grad[0][i];
            bad += !close_to(HASTE_BF16, test_get(HASTE_BF16, after.block[0].weight, i), w, 4e-3 * fabs(grad[0][i]) + 1e-3);
        }
        for (s = 0; s < 32; s++) bad += !(fabs((double)after.block[0].bias[s] + bias[0][s]) <= 1e-4);
        CHECK(bad == 0);
        MUST(cudaMemcpy(&own_loss, loss, 8, cudaMemcpyDeviceToHost));
        CHECK(own_loss > .6 * options.labels && own_loss < 1.2 * options.labels);   // ln 2 each, and a little
        free(grad[0]); free(bias[0]);
        haste_layer_free(&before);
        haste_layer_free(&after);
    }
    // Make one label the best of all, for all samples, and ask for it.
    {
        float high = 1000;
        MUST(cudaMemcpy(dev.block[0].bias + (options.labels - 5), &high, 4, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, 1, NULL, (int32_t *)id, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        MUST(cudaMemcpy(best, id, B * 4, cudaMemcpyDeviceToHost));
        for (b = 0; b < B; b++) CHECK(best[b] == options.labels - 5);
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 1, 1, NULL, (int32_t *)id, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        MUST(cudaMemcpy(best, id, 4, cudaMemcpyDeviceToHost));
        CHECK(best[0] == options.labels - 5);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    }
    cudaFree(x); cudaFree(loss); cudaFree(id);
    free(data); free(rounded); free(offset); free(label); free(best);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
}

static void beyond_2_31()
{
    int path;
    for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++) beyond_case((haste_cuda_path)path);
}

// ---- devices that are not here -----------------------------------------------------------------------------------------

// What this library says of a device that it cannot run on: of too low a capability, not compiled for, or another than 9.0
// for the fast paths. Needs no device.
static void other_devices()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_cuda_layer made;
    haste_layer host = test_layer(&options);
    static const struct { int major, minor; cudaError_t image; const char *says; } cases[] = {
        { 7, 5, cudaSuccess, "expected at least 8.0" },
        { 8, 0, cudaErrorNoKernelImageForDevice, "not compiled for device 0, of compute capability 8.0" },
        { 12, 1, cudaErrorInvalidDeviceFunction, "not compiled for device 0, of compute capability 12.1" } };
    int i;
    memset(&made, 0x5a, sizeof made);
    for (i = 0; i < 3; i++) {
        fake.on = 1;
        fake.major = cases[i].major;
        fake.minor = cases[i].minor;
        fake.image = cases[i].image;
        CHECK_STATUS(haste_cuda_supported(&test_error), HASTE_ERR_DEVICE, test_error);
        CHECK(strstr(test_error.text, cases[i].says) != NULL);
        CHECK_STATUS(haste_cuda_upload(&made, &host, NULL, NULL, &test_error), HASTE_ERR_DEVICE, test_error);
        CHECK_STATUS(haste_cuda_layer_create(&made, &options, NULL, NULL, &test_error), HASTE_ERR_DEVICE, test_error);
        CHECK_STATUS(haste_cuda_layer_view(&made, &host, &test_error), HASTE_ERR_DEVICE, test_error);
        CHECK(((unsigned char *)&made)[0] == 0x5a);
        fake.image = cudaSuccess;
        if (cases[i].major >= 8) CHECK_STATUS(haste_cuda_supported(&test_error), HASTE_OK, test_error);
    }
    memset(&fake, 0, sizeof fake);
    haste_layer_free(&host);
}

static int says(const haste_cuda_layer *layer, int deterministic, int32_t B, haste_cuda_path path, const char *reason)
{
    haste_cuda_workspace work;
    const char *why = NULL;
    haste_cuda_path got;
    memset(&work, 0, sizeof work);
    work.deterministic = deterministic;
    got = haste_cuda_path_of(layer, deterministic ? &work : NULL, 0, B, &why);
    if (got == path && why && (reason[0] ? strstr(why, reason) != NULL : why[0] == 0)) return 1;
    printf("    path %s: %s\n", haste_cuda_path_text(got), why ? why : "no reason");
    return 0;
}

// One block of 300 labels on the host, and a view of it as if it lay on a device.
static haste_cuda_layer view_of(haste_layer *layer, int32_t S, int32_t F, int32_t D, haste_dtype dtype)
{
    haste_layer_options options;
    haste_cuda_layer view;
    memset(&options, 0, sizeof options);
    memset(&view, 0, sizeof view);
    options.labels = 300;
    options.inputs = D;
    options.dtype = dtype;
    options.block_count = 1;
    options.block[0].group_size = S;
    options.block[0].fan_in = F;
    CHECK_STATUS(haste_layer_create(layer, &options, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_layer_view(&view, layer, &test_error), HASTE_OK, test_error);
    return view;
}

// Which path, and the sentence that says why not a faster one: of the path that is nearest to the block. Needs no device:
// the layers are views of host memory that nobody reads.
static void path_reasons()
{
    static const struct { int32_t S, F, D; haste_dtype dtype; int32_t B; const char *says; } cases[] = {
        { 16,  80,  300, HASTE_BF16, 128, "narrow path takes F = 16" },
        { 16,  64, 2000, HASTE_BF16, 128, "the slice is too wide" },
        { 16,  64,  300, HASTE_BF16, 200, "at most 128 samples" },
        { 32,  40,  300, HASTE_BF16, 128, "wide: fan-in is not a multiple of 16" },
        { 64,  40,  300, HASTE_BF16, 128, "wide: fan-in is not a multiple of 16" },
        { 40,  32,  300, HASTE_BF16, 128, "group size" },
        { 32,  64,  300, HASTE_F32,  128, "float32" },
        { 32,  64,  300, HASTE_BF16, 128, "made with the general path" } };
    int i;
    fake.on = 1;
    fake.major = 9;
    for (i = 0; i < 8; i++) {
        haste_layer layer;
        haste_cuda_layer view = view_of(&layer, cases[i].S, cases[i].F, cases[i].D, cases[i].dtype);
        CHECK(says(&view, 0, cases[i].B, HASTE_CUDA_GENERAL, cases[i].says));
        if (i == 7) {   // as if made for a fast path: its own reason counts
            view.path[0] = HASTE_CUDA_WIDE;
            CHECK(says(&view, 0, 128, HASTE_CUDA_WIDE, ""));
            CHECK(says(&view, 1, 128, HASTE_CUDA_GENERAL, "no fixed order"));
            view.path[0] = HASTE_CUDA_NARROW;
            CHECK(says(&view, 0, 128, HASTE_CUDA_NARROW, ""));
            CHECK(says(&view, 1, 128, HASTE_CUDA_NARROW, ""));
            CHECK(says(&view, 0, 129, HASTE_CUDA_GENERAL, "at most 128 samples"));
            fake.major = 8;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "9.0"));
            view.path[0] = HASTE_CUDA_WIDE;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "9.0"));
            fake.major = 9;
            fake.image = cudaErrorNoKernelImageForDevice;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "compiled without"));
            view.path[0] = HASTE_CUDA_NARROW;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "compiled for less"));
            fake.image = cudaSuccess;
        }
        haste_layer_free(&layer);
    }
    memset(&fake, 0, sizeof fake);
}

// Which kernels serve each operation. Needs no device either.
static void kernels_named()
{
    static const struct {
        int32_t S, F, D; haste_dtype dtype; haste_cuda_path path; int32_t B; int major, deterministic; haste_cuda_kernels is;
    } cases[] = {
    // S,  F,   D, weights,    path,                 B, major, deterministic
        //     step,      forward,   softmax,   grad_weight, grad_x,  top_k,     above,     rewire
        { 16, 64, 128, HASTE_BF16, HASTE_CUDA_NARROW,  64, 9, 0,
            { "narrow",  "narrow",  "panel",   "given",   "given",   "panel",   "panel",   "candidates" } },
        { 16, 64, 128, HASTE_BF16, HASTE_CUDA_NARROW,   8, 9, 0,
            { "narrow",  "narrow",  "panel",   "given",   "given",   "few",     "panel",   "candidates" } },
        { 16, 64, 128, HASTE_BF16, HASTE_CUDA_NARROW, 200, 9, 0,
            { "general", "narrow",  "panel",   "given",   "given",   "panel",   "panel",   "general" } },
        { 32, 64, 300, HASTE_BF16, HASTE_CUDA_WIDE,   128, 9, 0,
            { "wide",    "panel",   "panel",   "given",   "given",   "panel",   "panel",   "candidates" } },
        { 32, 64, 300, HASTE_BF16, HASTE_CUDA_WIDE,   128, 9, 1,
            { "general", "panel",   "panel",   "given",   "general", "panel",   "panel",   "candidates" } },
        { 64, 64,  64, HASTE_BF16, HASTE_CUDA_WIDE,     1, 9, 0,   // all inputs in each group: nothing can move
            { "wide",    "panel",   "panel",   "given",   "given",   "few",     "panel",   "" } },
        { 64, HASTE_DENSE, 64, HASTE_BF16, HASTE_CUDA_WIDE, 9, 9, 0,
            { "wide",    "panel",   "panel",   "general", "general", "panel",   "panel",   "" } },
        { 32, 64, 300, HASTE_BF16, HASTE_CUDA_GENERAL, 64, 8, 0,
            { "general", "panel",   "panel",   "general", "general", "panel",   "panel",   "candidates" } },
        { 32, 64, 3000, HASTE_BF16, HASTE_CUDA_GENERAL, 64, 9, 0,   // too wide for shared memory
            { "general", "general", "general", "given",   "general", "general", "general", "general" } },
        { 24,  7,  99, HASTE_BF16, HASTE_CUDA_GENERAL,  4, 9, 0,
            { "general", "general", "general", "general", "general", "stream",  "general", "general" } },
        { 32, 64, 300, HASTE_F32,  HASTE_CUDA_GENERAL,  4, 9, 0,
            { "general", "general", "general", "general", "general", "stream",  "general", "general" } },
        { 32, 64, 300, HASTE_F32,  HASTE_CUDA_GENERAL,  5, 9, 0,
            { "general", "general", "general", "general", "general", "general", "general", "general" } } };
    int i;
    fake.on = 1;
    for (i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        const haste_cuda_kernels *is = &cases[i].is;
        haste_cuda_kernels got;
        haste_cuda_workspace work;
        haste_layer layer;
        haste_cuda_layer view;
        fake.major = cases[i].major;
        view = view_of(&layer, cases[i].S, cases[i].F, cases[i].D, cases[i].dtype);
        memset(&work, 0, sizeof work);
        work.top_k = 16;
        work.deterministic = cases[i].deterministic;
        view.path[0] = cases[i].path;
        got = haste_cuda_kernels_of(&view, cases[i].deterministic ? &work : NULL, 0, cases[i].B);
        if (!CHECK(!strcmp(got.step, is->step) && !strcmp(got.forward, is->forward) && !strcmp(got.softmax, is->softmax) &&
                   !strcmp(got.grad_weight, is->grad_weight) && !strcmp(got.grad_x, is->grad_x) &&
                   !strcmp(got.top_k, is->top_k) && !strcmp(got.above, is->above) && !strcmp(got.rewire, is->rewire)))
            printf("    case %d: step %s, forward %s, softmax %s, grad_weight %s, grad_x %s, top_k %s, above %s, rewire %s\n",
                   i, got.step, got.forward, got.softmax, got.grad_weight, got.grad_x, got.top_k, got.above, got.rewire);
        got = haste_cuda_kernels_of(&view, NULL, 1, cases[i].B);
        CHECK(!got.step[0] && !got.rewire[0]);
        got = haste_cuda_kernels_of(&view, NULL, 0, 0);
        CHECK(!got.top_k[0]);
        haste_layer_free(&layer);
    }
    memset(&fake, 0, sizeof fake);
}

int main(int argc, char **argv)
{
    int devices = 0;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    check_begin(argc, argv);
    if (getenv("HASTE_TEST_RUNS")) same_runs = atoi(getenv("HASTE_TEST_RUNS")) > 2 ? atoi(getenv("HASTE_TEST_RUNS")) : 2;
    RUN(other_devices);
    RUN(path_reasons);
    RUN(kernels_named);
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_cuda_layer layer;
        haste_cuda_plan plan;
        cudaGetLastError();
        CHECK(haste_cuda_supported(&test_error) == HASTE_ERR_DEVICE && test_error.text[0]);
        CHECK(haste_cuda_layer_create(&layer, &options, NULL, NULL, &test_error) == HASTE_ERR_DEVICE);
        CHECK(haste_cuda_plan_bytes(&options, NULL, NULL, &plan, &test_error) == HASTE_OK && plan.layer > 0 &&
              plan.workspace > 0);
        memset(&layer, 0, sizeof layer);
        layer.block_count = 1;
        CHECK(haste_cuda_kernels_of(&layer, NULL, 0, 1).top_k[0] == 0);
        printf("no device: skipped\n");
    } else {
        RUN(round_trip);
        RUN(create_equals_host);
        RUN(plan);
        RUN(forward);
        RUN(backward);
        RUN(backward_fast);
        RUN(step);
        RUN(step_large);
        RUN(step_fast);
        RUN(small);
        RUN(accumulate);
        RUN(grad_x_bf16);
        RUN(rounding);
        RUN(rounding_paths);
        RUN(deterministic);
        RUN(top_k_general);
        RUN(top_k_few);
        RUN(top_k_panel);
        RUN(top_k_precise);
        RUN(top_k_ties);
        RUN(top_k_bad_ids);
        RUN(above);
        RUN(score);
        RUN(rewire);
        RUN(rewire_paths);
        RUN(rewire_not_finite);
        RUN(shards);
        RUN(parts);
        RUN(part_softmax);
        RUN(create_shards);
        RUN(rewire_orders);
        RUN(not_finite);
        RUN(spared);
        RUN(padding_is_zero);
        RUN(errors);
        RUN(own_memory);
        RUN(failing);
        RUN(too_large);
        RUN(large_groups);
        RUN(ready_at_once);
        RUN(one_limit);
        RUN(many_chunks);
        RUN(two_streams);
        RUN(two_threads);
        RUN(two_readers);
        RUN(trains_as_cpu);
        RUN(beyond_2_31);
    }
    check_end();
    printf("tests: %d passed, %d failed\n", check_count - check_failures, check_failures);
    return check_failures != 0 || check_count == 0;
}
