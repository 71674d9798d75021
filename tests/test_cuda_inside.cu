// haste_cuda.cuh on a device: what needs the inside of the library: CUDA calls and allocations that fail, devices that are
// not here, memory counted byte for byte, and the private order of weights. Without a device it does what needs none. The
// implementation is compiled here, with functions of CUDA replaced by ours.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <mutex>
#include <cuda_runtime.h>

// What the library takes, and how it can be made to fail: its allocations (device, pinned, host), and all its CUDA calls.
// Two host threads may be at it.
static int alloc_fail_at = -1, call_fail_at = -1;   // the allocation, the CUDA call that fails, counted from 0
static std::atomic<int>    alloc_count, call_count;
static std::atomic<size_t> alloc_last;              // the size of the last allocation on the device
static std::atomic<long>   held;                    // allocations and events that have not been given back

static bool alloc_fails() { return alloc_count++ == alloc_fail_at; }
static bool call_fails() { return call_count++ == call_fail_at; }
static cudaError_t take_device(void **memory, size_t bytes)
{
    cudaError_t result;
    alloc_last = bytes;
    if (alloc_fails()) return cudaErrorMemoryAllocation;
    result = cudaMalloc(memory, bytes);
    held += result == cudaSuccess;
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
#define cudaLaunchKernel(...)                TRY(cudaLaunchKernel(__VA_ARGS__))
#define cudaLaunchKernelExC(...)             TRY(cudaLaunchKernelExC(__VA_ARGS__))
#define cudaStreamIsCapturing(...)           TRY(cudaStreamIsCapturing(__VA_ARGS__))
#define cudaOccupancyMaxActiveBlocksPerMultiprocessor(...) TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(__VA_ARGS__))

#define HASTE_CUDA_IMPLEMENTATION
#include "cuda.h"

// The planner says what is then allocated, byte for byte.
static void plan()
{
    int i, dtype;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_BF16);
        haste_cuda_workspace_options work_options;
        haste_rewire_options rewire;
        haste_cuda_plan plan;
        haste_cuda_layer layer;
        haste_cuda_workspace work;
        haste_cuda_gradient gradient;
        memset(&work_options, 0, sizeof work_options);
        memset(&rewire, 0, sizeof rewire);
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
        CHECK_STATUS(haste_cuda_rewire(&layer, &work, &rewire, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK(alloc_last == plan.rewire);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&layer);
    }
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
        static int64_t frequency[1003];
        int32_t l;
        memset(&range, 0, sizeof range);
        memset(&rewire, 0, sizeof rewire);
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
        CHECK_STATUS(haste_cuda_rewire(&made, &work, &rewire, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
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

/* A layer and a workspace in the caller's memory, on every path, train to the bits of those that are allocated, take no
   device memory (but rewiring), write no byte beyond what was planned,
   and give nothing back that is not theirs. And a view
   of arrays in the order of haste.h does what a layer of general paths does. */
static void own_memory()
{
    int turn, view;
    for (turn = 0; turn < SHARD_SHAPES; turn++) for (view = 0; view < 2; view++) {
        haste_layer_options options = test_options(&shard_shapes[turn], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16,
                                                   HASTE_F32);
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
        CHECK_STATUS(haste_cuda_workspace_create(&own_work, &own, &work_options, &test_error), HASTE_ERR_SIZE,
                     test_error);
        work_options.bytes = plan.workspace;
        CHECK_STATUS(haste_cuda_workspace_create(&own_work, &own, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(held == before + 3);   // pinned memory and two events
        for (i = 0; i < 2; i++) {
            haste_cuda_layer *l = i ? &own : &dev;
            haste_cuda_workspace *w = i ? &own_work : &work;
            CHECK_STATUS(haste_cuda_train_step(l, w, x, HASTE_CUDA_F32, 64, lists_of(host_lists(&batch)), &o, NULL,
                                               NULL,
                                               HASTE_CUDA_F32,
                                               NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_rewire(l, w, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_forward(l, w, x, HASTE_CUDA_F32, 64, out, HASTE_CUDA_F32, NULL, &test_error),
                         HASTE_OK,
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
    OP_UPLOAD, OP_CREATE, OP_WORKSPACE, OP_GRADIENT, OP_DOWNLOAD, OP_STEP, OP_ACCUMULATE, OP_APPLY, OP_FORWARD,
    OP_BACKWARD,
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
        return haste_cuda_train_step(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, &c->lists, &o, (double *)c->loss,
                                     c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_ACCUMULATE:
        return haste_cuda_accumulate(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, &c->lists, &o, &c->gradient,
                                     (double *)c->loss, c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_APPLY:     return haste_cuda_apply(&c->dev, &c->work, &c->gradient, &o, NULL, &test_error);
    case OP_FORWARD:
        return haste_cuda_forward(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->logits, HASTE_CUDA_F32, NULL,
                                  &test_error);
    case OP_BACKWARD:
        return haste_cuda_backward(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, c->logits, HASTE_CUDA_F32,
                                   &c->gradient,
                                   c->grad_x, HASTE_CUDA_F32, NULL, &test_error);
    case OP_SCORE:
        return haste_cuda_score(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, &c->lists, (float *)c->score, NULL,
                                &test_error);
    case OP_BEST_FEW: case OP_BEST:
        return haste_cuda_top_k(&c->dev, &c->work, c->x, HASTE_CUDA_F32, op == OP_BEST ? c->B : 1, 5, without(&c->lists),
                                (int32_t *)c->id, (float *)c->score, NULL, &test_error);
    case OP_ABOVE:
        return haste_cuda_above(&c->dev, &c->work, c->x, HASTE_CUDA_F32, c->B, 0, without(&c->lists), (int64_t *)c->offset,
                                (int32_t *)c->id, (float *)c->score, 4096, &needed, NULL, &test_error);
    case OP_REWIRE:
        return haste_cuda_rewire(&c->dev, &c->work, &r, c->x, HASTE_CUDA_F32, c->B, &c->lists, NULL, NULL, &test_error);
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
        int32_t pending;
        haste_status status;
        c->gradient.pending = pending = 1;   // for haste_cuda_apply
        c->gradient.rewires = rewires;
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
        CHECK(c->dev.step == step && c->gradient.pending == pending && c->dev.rewires == rewires);
        c->gradient.pending = 1;
        CHECK_STATUS(one_call(c, op), HASTE_OK, test_error);
        free_made(c, op);
    }
    CHECK(n < 400 && !failed);
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
        c.options = test_options(i ? &fast : &test_shapes[11], i ? HASTE_BCE : HASTE_SOFTMAX, HASTE_MOMENTUM,
                                 HASTE_BF16,
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
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 37, k, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error),
                     HASTE_OK, test_error);
    CHECK(limit_count > 0 && limit_changes == 0);
    cudaFree(x);
    cudaFree(id);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

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
static void backward_beyond(const haste_cuda_layer *dev, const void *x, const float *rounded, int32_t B,
                            int deterministic)
{
    enum { GROUPS = 6, S = 32, F = 64 };
    const int64_t groups = dev->block[0].groups, of[GROUPS] = { groups - 1, groups - 2, groups / 2, 5, 0,
                                                               groups / 128 + 1 };
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
            MUST(cudaMemcpy((char *)slopes + (size_t)b * row + (size_t)of[n] * S * 2, own, S * 2,
                            cudaMemcpyHostToDevice));
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
    if (bad) printf("    backward beyond 2^31, path %d, deterministic %d: %d numbers\n", (int)dev->path[0],
                    deterministic,
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
        haste_loss_ref(&before, want, B, &own, NULL, &own_loss, slopes);
        grad[0] = test_doubles(64 * 32);
        bias[0] = test_doubles(32);
        haste_backward_ref(&before, rounded, B, slopes, grad, bias, NULL);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, &lists, &o, (double *)loss, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        after = fetch_group(&dev, groups - 1);
        for (i = 0; i < 64 * 32; i++) {
            double w = (double)test_get(HASTE_BF16, before.block[0].weight, i) - grad[0][i];
            bad += !close_to(HASTE_BF16, test_get(HASTE_BF16, after.block[0].weight, i), w,
                             4e-3 * fabs(grad[0][i]) + 1e-3);
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
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, 1, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error),
                     HASTE_OK, test_error);
        MUST(cudaMemcpy(best, id, B * 4, cudaMemcpyDeviceToHost));
        for (b = 0; b < B; b++) CHECK(best[b] == options.labels - 5);
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 1, 1, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error),
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
        { 16,  64,  300, HASTE_BF16, 200, "made with the general path" },
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
            CHECK(says(&view, 0, 1000, HASTE_CUDA_NARROW, ""));
            CHECK(says(&view, 1, 1000, HASTE_CUDA_GENERAL, "the workspace was not made for"));
            fake.major = 8;
            CHECK(says(&view, 0, 128, HASTE_CUDA_NARROW, ""));
            view.path[0] = HASTE_CUDA_WIDE;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "9.0"));
            fake.major = 9;
            fake.image = cudaErrorNoKernelImageForDevice;
            CHECK(says(&view, 0, 128, HASTE_CUDA_GENERAL, "compiled without"));
            view.path[0] = HASTE_CUDA_NARROW;   // without clusters
            CHECK(says(&view, 0, 128, HASTE_CUDA_NARROW, ""));
            CHECK(says(&view, 1, 128, HASTE_CUDA_GENERAL, "the workspace was not made for"));
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
            { "narrow",  "narrow",  "panel",   "given",   "given",   "panel",   "panel",   "general" } },
        { 32, 64, 300, HASTE_BF16, HASTE_CUDA_WIDE,   128, 9, 0,
            { "wide",    "panel",   "panel",   "given",   "given",   "panel",   "panel",   "candidates" } },
        { 32, 64, 300, HASTE_BF16, HASTE_CUDA_WIDE,   128, 9, 1,
            { "general", "panel",   "panel",   "given",   "general", "panel",   "panel",   "candidates" } },
        { 64, 64,  64, HASTE_BF16, HASTE_CUDA_WIDE,     1, 9, 0,   // all inputs in each group: dense
            { "wide",    "panel",   "panel",   "general", "general", "few",     "panel",   "" } },
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
        if (!CHECK(!strcmp(got.step, is->step) && !strcmp(got.forward, is->forward) &&
                   !strcmp(got.softmax, is->softmax) &&
                   !strcmp(got.grad_weight, is->grad_weight) && !strcmp(got.grad_x, is->grad_x) &&
                   !strcmp(got.top_k, is->top_k) && !strcmp(got.above, is->above) && !strcmp(got.rewire, is->rewire)))
            printf("    case %d: step %s, forward %s, softmax %s, grad_weight %s, grad_x %s, top_k %s, above %s, rewire %s\n",
                   i, got.step, got.forward, got.softmax, got.grad_weight, got.grad_x, got.top_k, got.above,
                   got.rewire);
        got = haste_cuda_kernels_of(&view, NULL, 1, cases[i].B);
        CHECK(!got.step[0] && !got.rewire[0]);
        got = haste_cuda_kernels_of(&view, NULL, 0, 0);
        CHECK(!got.top_k[0]);
        haste_layer_free(&layer);
    }
    memset(&fake, 0, sizeof fake);
}

// Without a device: what is said of that, and what can be known without one.
static void no_device()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_cuda_layer layer;
    haste_cuda_plan plan;
    CHECK(haste_cuda_layer_create(&layer, &options, NULL, NULL, &test_error) == HASTE_ERR_DEVICE);
    CHECK(haste_cuda_plan_bytes(&options, NULL, NULL, &plan, &test_error) == HASTE_OK && plan.layer > 0 &&
          plan.workspace > 0);
    memset(&layer, 0, sizeof layer);
    layer.block_count = 1;
    CHECK(haste_cuda_kernels_of(&layer, NULL, 0, 1).top_k[0] == 0);
}

// Where the kernels of >>backward make all that is asked for, x is not even read.
static void reads_x()
{
    static const test_shape shapes[] = {
        { "S 16 F 64",       333,  768, 1, { { 0, 16, 64, 0, 0 } }, 1 },
        { "S 32 F 64",      1001,  768, 1, { { 0, 32, 64, 0, 0 } }, 1 },
        { "S 64 F 128",      643,  301, 1, { { 0, 64, 128, 0, 0 } }, 0 } };
    int i;
    for (i = 0; i < 3; i++) {
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev = upload_for(&layer, HASTE_CUDA_GENERAL, 128);
        haste_cuda_workspace made = workspace(&dev, 128, 0);
        haste__cu_work work;
        haste__cu_pass p;
        haste__cu_work_make(&work, &made);
        haste__cu_pass_make(&p, &dev, &work, 128);
        if (haste__cu_device_value(cudaDevAttrComputeCapabilityMajor) == 9 && haste__wide_compiled())
            CHECK(!haste__cu_given_needs_x(&dev, &p, NULL));
        else if (i == 0) printf("    not on this device\n");
        p.deterministic = 1;
        CHECK(haste__cu_given_needs_x(&dev, &p, NULL));
        haste_cuda_workspace_free(&made);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    const int device = cuda_begin(argc, argv);
    RUN(other_devices);
    RUN(path_reasons);
    RUN(kernels_named);
    if (!device) RUN(no_device);
    if (!device) return check_end();
    RUN(plan);
    RUN(create_shards);
    RUN(own_memory);
    RUN(failing);
    RUN(too_large);
    RUN(one_limit);
    RUN(beyond_2_31);
    RUN(reads_x);
    return check_end();
}
