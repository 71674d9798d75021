// cuda_runtime.h: CUDA on a CPU, as far as haste_cuda.cuh and its tests use it, so that its kernels can be tested, debugged and
// looked at with the tools of a CPU where there is no GPU. It is about correctness, not about time:
//
//     g++ -x c++ -std=c++17 -I tests/emulator -D__CUDACC__ ...
//
// A thread of CUDA is a coroutine here (a stack, setjmp and longjmp), all in one thread of the CPU. It runs until it waits: at a
// barrier, in an instruction that a warp executes together, for an mbarrier. The thread blocks of a grid run one after the other, those
// of a cluster together. What never comes true is reported as a deadlock. Asynchronous copies to shared memory are made when
// they are waited for, and until then their target holds NaN: a wait that is missing shows.
//
// The environment says what device this is: HASTE_EMULATED_CAPABILITY (90), _SHARED (bytes for a thread block: 232448),
// _PROCESSORS (3), _DEVICES (how many there are: 1); and HASTE_EMULATED_ORDER, a number, lets threads run in an order drawn from it instead of in turn: what comes
// out then differs where a barrier is missing.
#ifndef EMULATOR_CUDA_RUNTIME_H
#define EMULATOR_CUDA_RUNTIME_H

#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__          static
#define __constant__
#define __grid_constant__
#define __forceinline__     inline
#define __launch_bounds__(...)
#define __align__(n)        __attribute__((aligned(n)))
#define HASTE__CU_INSTRUCTIONS "instructions.h"   /* in place of the PTX of haste_cuda.cuh */
#define HASTE__CU_KERNEL(...) emulator::kernel_of(__VA_ARGS__)
#define HASTE__CU_SHARED(name, alignment) unsigned char *const name = emulator::shared()

// ---- types ---------------------------------------------------------------------------------------------------------

struct uint3  { unsigned x, y, z; };
struct dim3   { unsigned x, y, z; dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {} };
struct uint2  { unsigned x, y; };
struct int2   { int x, y; };
struct float2 { float x, y; };
struct alignas(16) uint4  { unsigned x, y, z, w; };
struct alignas(16) int4   { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) longlong2  { long long x, y; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }
static inline int2 make_int2(int x, int y) { return { x, y }; }
static inline float2 make_float2(float x, float y) { return { x, y }; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }
static inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }

// ---- threads -------------------------------------------------------------------------------------------------------

namespace emulator {

enum { STACK = 128 << 10, MOST_THREADS = 1024, MOST_CLUSTER = 8, SHARED = 232448 + 1024, BARRIERS = 16 };

struct copy { uint32_t to; const void *from; int bytes; bool wanted; };   // asynchronous, not made yet

struct warp {   // an instruction that lanes execute together: the last one that comes does it for all
    uint32_t arrived, released;
    void    *argument[32];
};

struct block {
    unsigned char *shared;
    uint3    index;
    unsigned rank;                        // in the cluster
    int      alive;                       // threads that have not ended
    int      arrived[BARRIERS];           // at each named barrier, 0: __syncthreads
    unsigned phase[BARRIERS];
    int      sum[BARRIERS], result[BARRIERS];
    warp     warps[MOST_THREADS / 32];
};

struct thread {
    jmp_buf  at;
    block   *home;
    uint3    index;
    bool     started, ended;
    copy    *copies;                      // in the order of issue
    int      copy_count, copy_room;
    int      batches[64], batch_count;    // where each batch that was closed ends
    int      waits;                       // since something came true for it
};

inline thread     threads[MOST_THREADS * MOST_CLUSTER];
inline block      blocks[MOST_CLUSTER];
inline thread    *self;
inline int        count;                  // threads of the cluster
inline int        cluster_arrived;
inline unsigned   cluster_phase;
inline jmp_buf    scheduler;
inline char      *stacks;
inline unsigned   cluster_size = 1;
inline const char *running = "";
inline void     (*body)(void *);
inline void      *body_arguments;
inline long       idle;
inline uint64_t   order;                  // of threads: 0: in turn

inline unsigned char *shared() { return self->home->shared; }

// An address of shared memory: the block's rank in the cluster, and the offset.
inline uint32_t shared_address(const void *p)
{
    for (unsigned i = 0; i < cluster_size; i++) {
        const ptrdiff_t offset = (const unsigned char *)p - blocks[i].shared;
        if (offset >= 0 && offset < SHARED) return i << 24 | (uint32_t)offset;
    }
    const uint32_t kept = 1u << 31;       // a variable that is static: of the only block
    const intptr_t apart = (const char *)p - (const char *)&threads;
    return kept | (uint32_t)(int32_t)(apart & 0x7fffffff);
}
inline void *shared_pointer(uint32_t address)
{
    if (address >> 31) return (char *)&threads + ((int32_t)(address << 1) >> 1);
    return blocks[address >> 24 & 7].shared + (address & 0xffffff);
}

}  // namespace emulator

inline uint3 threadIdx, blockIdx;
inline dim3  blockDim, gridDim;
static const int warpSize = 32;

namespace emulator {

[[noreturn]] inline void die(const char *what)
{
    fprintf(stderr, "emulator: %s: %s (thread block %u, thread %u)\n", running, what, self ? self->home->index.x : 0, self ? self->index.x : 0);
    abort();
}

inline void resume(thread *t)
{
    self = t;
    threadIdx = t->index;
    blockIdx = t->home->index;
}

inline void yield()
{
    if (_setjmp(self->at) == 0) _longjmp(scheduler, 1);
}

template <typename F> inline void wait_until(F ready)
{
    while (!ready()) {
        if (++idle > (long)count * (order ? 65536 : 64)) die("deadlock");
        yield();
    }
    idle = 0;
}

// What may spin: others get their turn.
inline void pause() { if (++idle > (long)count * 100000) die("spins for ever"); yield(); }

inline void enter()
{
    body(body_arguments);
    self->ended = true;
    self->home->alive--;
    idle = 0;
    for (int i = 0; i < BARRIERS; i++) {   // those that wait for all are not kept waiting
        block *b = self->home;
        if (i == 0 && b->alive > 0 && b->arrived[0] == b->alive) {
            b->arrived[0] = 0; b->result[0] = b->sum[0]; b->sum[0] = 0; b->phase[0]++;
        }
    }
    _longjmp(scheduler, 1);
}

inline void start(int i)
{
    static ucontext_t context, back;
    getcontext(&context);
    context.uc_stack.ss_sp = stacks + (size_t)i * STACK;
    context.uc_stack.ss_size = STACK;
    context.uc_link = &back;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

// Runs all threads of `blocks` [cluster_size] to their end.
inline void run_cluster(unsigned per_block)
{
    static volatile int next;
    static volatile int left;
    count = left = (int)(per_block * cluster_size);
    for (int i = 0; i < count; i++) {
        thread *t = &threads[i];
        t->home = &blocks[(unsigned)i / per_block];
        t->index = { (unsigned)i % per_block, 0, 0 };
        t->started = t->ended = false;
        t->copy_count = t->batch_count = 0;
    }
    idle = 0;
    next = 0;
    self = NULL;
    if (_setjmp(scheduler) != 0 && self->ended) left--;
    if (left == 0) { self = NULL; return; }
    int i = next;
    if (order) {   // a warp runs for a while, and so gets far ahead of others
        static int warp, left_of_burst;
        if (left_of_burst-- <= 0 || warp >= (count + 31) / 32) {
            order = order * 6364136223846793005u + 1442695040888963407u;
            warp = (int)((order >> 33) % (uint64_t)((count + 31) / 32));
            left_of_burst = (int)(order >> 20 & 1023);
        }
        i = warp * 32 + (next & 31);
        if (i >= count) i = count - 1;
    }
    while (threads[i].ended) i = i + 1 < count ? i + 1 : 0;
    next = i + 1 < count ? i + 1 : 0;
    resume(&threads[i]);
    if (threads[i].started) _longjmp(threads[i].at, 1);
    threads[i].started = true;
    start(i);
}

inline void run_grid(void (*call)(void *), void *arguments, dim3 grid, dim3 per_block, unsigned cluster)
{
    if (!stacks) {
        const char *seed = getenv("HASTE_EMULATED_ORDER");
        order = seed ? strtoull(seed, NULL, 10) : 0;
        stacks = (char *)mmap(NULL, (size_t)STACK * MOST_THREADS * MOST_CLUSTER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (int i = 0; i < MOST_CLUSTER; i++) blocks[i].shared = (unsigned char *)aligned_alloc(1024, (SHARED + 1023) / 1024 * 1024);
    }
    if (grid.x % cluster || per_block.x > MOST_THREADS || cluster > MOST_CLUSTER || per_block.y != 1 || per_block.z != 1) die("no such grid");
    body = call;
    body_arguments = arguments;
    blockDim = per_block;
    gridDim = grid;
    cluster_size = cluster;
    for (unsigned z = 0; z < grid.z; z++) for (unsigned y = 0; y < grid.y; y++) for (unsigned x = 0; x < grid.x; x += cluster) {
        for (unsigned i = 0; i < cluster; i++) {
            block *b = &blocks[i];
            unsigned char *kept = b->shared;
            memset(b, 0, sizeof *b);
            b->shared = kept;
            memset(kept, 0xff, SHARED);
            b->index = { x + i, y, z };
            b->rank = i;
            b->alive = (int)per_block.x;
        }
        cluster_arrived = 0;
        run_cluster(per_block.x);
    }
}

// All threads of the block, or n at a named barrier; returns the sum of `value`.
inline int barrier(int id, int n, int value)
{
    block *b = self->home;
    const unsigned phase = b->phase[id];
    b->sum[id] += value;
    if (++b->arrived[id] == (n ? n : b->alive)) {
        b->arrived[id] = 0;
        b->result[id] = b->sum[id];
        b->sum[id] = 0;
        b->phase[id]++;
        idle = 0;
    } else wait_until([=] { return b->phase[id] != phase; });
    return b->result[id];
}

// Lanes of `mask` execute together: operation(arguments [32], lanes). What an argument points to lives until all go on.
template <typename A, typename F> inline void together(uint32_t mask, A *argument, F operation)
{
    const unsigned lane = self->index.x % 32;
    warp *w = &self->home->warps[self->index.x / 32];
    const uint32_t bit = 1u << lane;
    if (!(mask & bit)) die("a lane outside its mask");
    w->argument[lane] = argument;
    w->arrived |= bit;
    if ((w->arrived & mask) == mask) {
        operation((A **)w->argument, mask);
        w->arrived &= ~mask;
        w->released |= mask;
        idle = 0;
    } else wait_until([=] { return (w->released & bit) != 0; });
    w->released &= ~bit;
}

template <typename T> struct value_of { T in, out; int from; };

}  // namespace emulator

static inline void __syncthreads() { emulator::barrier(0, 0, 0); }
static inline int __syncthreads_or(int v) { return emulator::barrier(0, 0, v != 0) != 0; }
static inline int __syncthreads_and(int v) { return emulator::barrier(0, 0, v == 0) == 0; }
static inline int __syncthreads_count(int v) { return emulator::barrier(0, 0, v != 0); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

static inline void __syncwarp(uint32_t mask = ~0u)
{
    int none = 0;
    emulator::together(mask, &none, [](int **, uint32_t) {});
}

// from: the lane of whom, or -1: its own.
template <typename T> static inline T emulated_shuffle(uint32_t mask, T v, int from)
{
    emulator::value_of<T> a = { v, v, from };
    emulator::together(mask, &a, [](emulator::value_of<T> **all, uint32_t lanes) {
        for (int i = 0; i < 32; i++)
            if (lanes >> i & 1) {
                const int j = all[i]->from;
                if (j >= 0 && j < 32 && !(lanes >> j & 1)) emulator::die("a shuffle from a lane outside the mask");
                if (j >= 0 && j < 32) all[i]->out = all[j]->in;
            }
    });
    return a.out;
}
static inline int emulated_lane() { return (int)(emulator::self->index.x % 32); }
template <typename T> static inline T __shfl_sync(uint32_t mask, T v, int from, int width = 32)
{
    return emulated_shuffle(mask, v, (emulated_lane() & ~(width - 1)) + (from & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(uint32_t mask, T v, int with, int = 32)
{
    return emulated_shuffle(mask, v, emulated_lane() ^ with);
}
template <typename T> static inline T __shfl_up_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    return emulated_shuffle(mask, v, (emulated_lane() & (width - 1)) < (int)by ? -1 : emulated_lane() - (int)by);
}
template <typename T> static inline T __shfl_down_sync(uint32_t mask, T v, unsigned by, int width = 32)
{
    return emulated_shuffle(mask, v, (emulated_lane() & (width - 1)) + (int)by >= width ? -1 : emulated_lane() + (int)by);
}

template <typename T, typename F> static inline T emulated_reduce(uint32_t mask, T v, F operation)
{
    emulator::value_of<T> a = { v, v, 0 };
    emulator::together(mask, &a, [=](emulator::value_of<T> **all, uint32_t lanes) {
        T sum{};
        int n = 0;
        for (int i = 0; i < 32; i++) if (lanes >> i & 1) sum = n++ ? operation(sum, all[i]->in) : all[i]->in;
        for (int i = 0; i < 32; i++) if (lanes >> i & 1) all[i]->out = sum;
    });
    return a.out;
}
static inline unsigned __ballot_sync(uint32_t mask, int v)
{
    return emulated_reduce(mask, v ? 1u << emulated_lane() : 0u, [](unsigned a, unsigned b) { return a | b; });
}
static inline int __any_sync(uint32_t mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(uint32_t mask, int v) { return __ballot_sync(mask, v) == mask; }
template <typename T> static inline T __reduce_add_sync(uint32_t mask, T v) { return emulated_reduce(mask, v, [](T a, T b) { return (T)(a + b); }); }
template <typename T> static inline T __reduce_min_sync(uint32_t mask, T v) { return emulated_reduce(mask, v, [](T a, T b) { return a < b ? a : b; }); }
template <typename T> static inline T __reduce_max_sync(uint32_t mask, T v) { return emulated_reduce(mask, v, [](T a, T b) { return a > b ? a : b; }); }
static inline unsigned __reduce_or_sync(uint32_t mask, unsigned v) { return emulated_reduce(mask, v, [](unsigned a, unsigned b) { return a | b; }); }
static inline unsigned __match_any_sync(uint32_t mask, unsigned v)
{
    struct match { unsigned in, out; } a = { v, 0 };
    emulator::together(mask, &a, [](match **all, uint32_t lanes) {
        for (int i = 0; i < 32; i++) for (int j = 0; j < 32; j++)
            if ((lanes >> i & 1) && (lanes >> j & 1) && all[i]->in == all[j]->in) all[i]->out |= 1u << j;
    });
    return a.out;
}

// ---- arithmetic ----------------------------------------------------------------------------------------------------

template <typename T> static inline T emulated_bits(const void *from) { T v; memcpy(&v, from, sizeof v); return v; }
static inline float __uint_as_float(unsigned v) { return emulated_bits<float>(&v); }
static inline unsigned __float_as_uint(float v) { return emulated_bits<unsigned>(&v); }
static inline float __int_as_float(int v) { return emulated_bits<float>(&v); }
static inline int __float_as_int(float v) { return emulated_bits<int>(&v); }
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; i++) out |= (unsigned)(both >> 8 * (s >> 4 * i & 7) & 0xff) << 8 * i;
    return out;
}
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline float emulated_expf(float v) { return expf(v); }
#define __expf emulated_expf   /* libm has a function of that name */
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmul_rn(float a, float b) { volatile float p = a * b; return p; }
static inline float __fadd_rn(float a, float b) { volatile float s = a + b; return s; }
static inline float rsqrtf(float v) { return 1 / sqrtf(v); }
template <typename A, typename B> static inline typename std::common_type<A, B>::type min(A a, B b) { typedef typename std::common_type<A, B>::type T; return (T)a < (T)b ? (T)a : (T)b; }
template <typename A, typename B> static inline typename std::common_type<A, B>::type max(A a, B b) { typedef typename std::common_type<A, B>::type T; return (T)a > (T)b ? (T)a : (T)b; }

// ---- memory --------------------------------------------------------------------------------------------------------

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { emulator::pause(); return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T v) { *p = v; }
template <typename T, typename V> static inline T atomicAdd(T *p, V v) { const T old = *p; *p = (T)(old + (T)v); return old; }
template <typename T, typename V> static inline T atomicMax(T *p, V v) { const T old = *p; if ((T)v > old) *p = (T)v; return old; }
template <typename T, typename V> static inline T atomicMin(T *p, V v) { const T old = *p; if ((T)v < old) *p = (T)v; return old; }
template <typename T, typename V> static inline T atomicOr(T *p, V v) { const T old = *p; *p = (T)(old | (T)v); return old; }
template <typename T, typename V> static inline T atomicExch(T *p, V v) { const T old = *p; *p = (T)v; return old; }
template <typename T, typename C, typename V> static inline T atomicCAS(T *p, C c, V v)
{
    const T old = *p;
    if (old == (T)c) *p = (T)v; else emulator::pause();
    return old;
}
static inline size_t __cvta_generic_to_shared(const void *p) { return emulator::shared_address(p); }

// ---- the runtime: everything is done at once -----------------------------------------------------------------------

typedef struct CUstream_st *cudaStream_t;
typedef struct emulated_event *cudaEvent_t;
typedef struct emulated_graph *cudaGraph_t, *cudaGraphExec_t;
struct emulated_graph { std::vector<std::function<void()>> work; };
inline emulated_graph *emulated_capture;   // what is captured goes there instead of being done
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorInvalidConfiguration, cudaErrorMisalignedAddress,
                   cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction, cudaErrorNotSupported, cudaErrorUnknown, cudaErrorNotReady };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaDevAttrComputeCapabilityMajor,
                      cudaDevAttrComputeCapabilityMinor, cudaDevAttrL2CacheSize };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout,
                         cudaFuncAttributeNonPortableClusterSizeAllowed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension, cudaLaunchAttributeProgrammaticStreamSerialization };
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    struct { struct { unsigned x, y, z; } clusterDim; int programmaticStreamSerializationAllowed; } val;
};
struct cudaLaunchConfig_t { dim3 gridDim, blockDim; size_t dynamicSmemBytes; cudaStream_t stream; cudaLaunchAttribute *attrs; unsigned numAttrs; };
struct cudaFuncAttributes { size_t sharedSizeBytes, localSizeBytes; int numRegs, ptxVersion, binaryVersion, maxDynamicSharedSizeBytes, maxThreadsPerBlock; };
struct cudaDeviceProp { char name[64]; int major, minor, multiProcessorCount; size_t sharedMemPerBlockOptin, totalGlobalMem; };
#define cudaStreamNonBlocking 1
#define cudaEventDisableTiming 2
#define cudaStreamLegacy ((cudaStream_t)1)

static inline int emulated_setting(const char *name, int otherwise) { const char *v = getenv(name); return v ? atoi(v) : otherwise; }

#define EMULATED_DOES_NOTHING(name, ...) static inline cudaError_t name(__VA_ARGS__) { return cudaSuccess; }
EMULATED_DOES_NOTHING(cudaSetDevice, int)
EMULATED_DOES_NOTHING(cudaStreamDestroy, cudaStream_t)
EMULATED_DOES_NOTHING(cudaStreamSynchronize, cudaStream_t)
EMULATED_DOES_NOTHING(cudaStreamQuery, cudaStream_t)
EMULATED_DOES_NOTHING(cudaDeviceSynchronize)
EMULATED_DOES_NOTHING(cudaEventDestroy, cudaEvent_t)
EMULATED_DOES_NOTHING(cudaEventRecord, cudaEvent_t, cudaStream_t = NULL)
EMULATED_DOES_NOTHING(cudaEventSynchronize, cudaEvent_t)
EMULATED_DOES_NOTHING(cudaStreamWaitEvent, cudaStream_t, cudaEvent_t, unsigned = 0)
inline cudaError_t emulated_error;   // the last one
static inline cudaError_t emulated_result(cudaError_t e) { if (e != cudaSuccess) emulated_error = e; return e; }
static inline cudaError_t cudaPeekAtLastError() { return emulated_error; }
static inline cudaError_t cudaGetLastError() { const cudaError_t e = emulated_error; emulated_error = cudaSuccess; return e; }
template <typename K> static inline cudaError_t cudaFuncSetAttribute(K, cudaFuncAttribute, int) { return cudaSuccess; }
static inline cudaError_t cudaGetDevice(int *device) { *device = 0; return cudaSuccess; }
static inline cudaError_t cudaGetDeviceCount(int *devices) { *devices = emulated_setting("HASTE_EMULATED_DEVICES", 1); return cudaSuccess; }
static inline const char *cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "an error of the emulator"; }
static inline cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int)
{
    const int capability = emulated_setting("HASTE_EMULATED_CAPABILITY", 90);
    if (what < 0 || what > cudaDevAttrL2CacheSize) return emulated_result(cudaErrorInvalidValue);
    *value = what == cudaDevAttrMultiProcessorCount ? emulated_setting("HASTE_EMULATED_PROCESSORS", 3)
           : what == cudaDevAttrMaxSharedMemoryPerBlockOptin ? emulated_setting("HASTE_EMULATED_SHARED", 232448)
           : what == cudaDevAttrComputeCapabilityMajor ? capability / 10
           : what == cudaDevAttrComputeCapabilityMinor ? capability % 10 : 50 << 20;
    return cudaSuccess;
}
static inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "emulated");
    cudaDeviceGetAttribute(&p->major, cudaDevAttrComputeCapabilityMajor, 0);
    cudaDeviceGetAttribute(&p->minor, cudaDevAttrComputeCapabilityMinor, 0);
    cudaDeviceGetAttribute(&p->multiProcessorCount, cudaDevAttrMultiProcessorCount, 0);
    return cudaSuccess;
}
template <typename K> static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, K)
{
    memset(a, 0, sizeof *a);
    a->numRegs = 128;
    cudaDeviceGetAttribute(&a->ptxVersion, cudaDevAttrComputeCapabilityMajor, 0);
    a->ptxVersion = a->binaryVersion = a->ptxVersion * 10;
    a->maxThreadsPerBlock = 1024;
    return cudaSuccess;
}
template <typename K> static inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, K, int, size_t) { *n = 1; return cudaSuccess; }
template <typename T> static inline cudaError_t cudaMalloc(T **p, size_t n)
{
    *p = n > (size_t)1 << 36 ? NULL : (T *)aligned_alloc(512, (n + 511) / 512 * 512 + 512);
    if (*p) memset((void *)*p, 0xee, n);
    return emulated_result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
template <typename T> static inline cudaError_t cudaMallocHost(T **p, size_t n) { return cudaMalloc(p, n); }
static inline cudaError_t cudaFree(void *p) { free(p); return cudaSuccess; }
static inline cudaError_t cudaFreeHost(void *p) { free(p); return cudaSuccess; }
static inline cudaError_t cudaMemGetInfo(size_t *left, size_t *all) { *left = *all = (size_t)1 << 33; return cudaSuccess; }
static inline cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind) { memmove(to, from, n); return cudaSuccess; }
template <typename F> static inline cudaError_t emulated_do(F work)
{
    if (emulated_capture) emulated_capture->work.push_back(work); else work();
    return cudaSuccess;
}
static inline cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t)
{
    return emulated_do([=] { memmove(to, from, n); });
}
static inline cudaError_t cudaMemset(void *p, int v, size_t n) { memset(p, v, n); return cudaSuccess; }
static inline cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t) { return emulated_do([=] { memset(p, v, n); }); }
static inline cudaError_t cudaStreamCreate(cudaStream_t *s) { *s = NULL; return cudaSuccess; }
static inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) { *s = NULL; return cudaSuccess; }
static inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) { *e = NULL; return cudaSuccess; }
static inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus *s)
{
    *s = emulated_capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
static inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) { emulated_capture = new emulated_graph; return cudaSuccess; }
static inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *g) { *g = emulated_capture; emulated_capture = NULL; return cudaSuccess; }
static inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *ready, cudaGraph_t g, unsigned long long = 0) { *ready = new emulated_graph(*g); return cudaSuccess; }
static inline cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t) { for (const auto &work : g->work) work(); return cudaSuccess; }
static inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) { delete g; return cudaSuccess; }
static inline cudaError_t cudaGraphDestroy(cudaGraph_t g) { delete g; return cudaSuccess; }

// A kernel for the runtime: its function, and how to call it.
namespace emulator {
struct kernel {
    void (*function)();
    std::function<void()> (*bind)(const kernel *, void **);   // the call, with arguments of its own
    kernel *next;
};
inline kernel *kernels;
template <typename... P, size_t... I> inline std::function<void()> bind_kernel(const kernel *k, void **arguments, std::index_sequence<I...>)
{
    const auto function = (void (*)(P...))k->function;
    const auto values = std::make_shared<std::tuple<typename std::decay<P>::type...>>(*(typename std::decay<P>::type *)arguments[I]...);
    return [=] { function(std::get<I>(*values)...); };
}
template <typename... P> inline const void *kernel_of(void (*function)(P...))
{
    kernel *k = kernels;
    while (k && k->function != (void (*)())function) k = k->next;
    if (!k) {
        k = new kernel { (void (*)())function, [](const kernel *self, void **arguments) {
            return bind_kernel<P...>(self, arguments, std::index_sequence_for<P...>()); }, kernels };
        kernels = k;
    }
    return k;
}
inline const void *kernel_of(const void *kernel) { return kernel; }
}  // namespace emulator

static inline cudaError_t emulated_launch(const void *kernel, dim3 grid, dim3 threads, void **arguments, size_t shared, unsigned cluster)
{
    const emulator::kernel *k = (const emulator::kernel *)kernel;
    int most;
    cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
    if (shared > (size_t)most || threads.x == 0 || threads.x > 1024 || grid.x == 0 || grid.y == 0 || grid.y > 65535) return emulated_result(cudaErrorInvalidConfiguration);
    std::function<void()> call = k->bind(k, arguments);
    return emulated_do([=]() mutable { emulator::run_grid([](void *p) { (*(std::function<void()> *)p)(); }, &call, grid, threads, cluster); });
}
static inline cudaError_t cudaLaunchKernel(const void *kernel, dim3 grid, dim3 threads, void **arguments, size_t shared, cudaStream_t)
{
    return emulated_launch(kernel, grid, threads, arguments, shared, 1);
}
static inline cudaError_t cudaOccupancyMaxActiveClusters(int *clusters, const void *, const cudaLaunchConfig_t *c)
{
    cudaDeviceGetAttribute(clusters, cudaDevAttrMultiProcessorCount, 0);
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeClusterDimension) *clusters /= (int)c->attrs[i].val.clusterDim.x;
    return cudaSuccess;
}
static inline cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *kernel, void **arguments)
{
    unsigned cluster = 1;
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeClusterDimension) cluster = c->attrs[i].val.clusterDim.x;
    return emulated_launch(kernel, c->gridDim, c->blockDim, arguments, c->dynamicSmemBytes, cluster);
}

// kernel<<<grid, threads, shared, stream>>>(...), which the Makefile writes as emulated_call(kernel, grid, threads, shared, stream)(...).
template <typename... P> static inline auto emulated_call(void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, cudaStream_t)
{
    return [=](P... values) {
        void *arguments[] = { (void *)&values... };
        emulated_launch(emulator::kernel_of(kernel), grid, threads, arguments, shared, 1);
    };
}

#endif  // EMULATOR_CUDA_RUNTIME_H
