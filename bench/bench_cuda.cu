// bench_cuda: the layer on this machine's GPU, beside what one would use instead. What is timed is first checked, with few
// labels and otherwise the same shape, against double precision; then medians of at least 15 runs, by CUDA events.
//
//     make bench-cuda                                        all tables, half a minute
//     make bench-cuda ARGS="--csv bench/results/x.csv"
//     make bench-cuda ARGS="--only step,topk --seconds 60"   some tables; what does not fit the time is left out, and named
//     make bench-cuda ARGS=--quick                           small shapes, seconds; its numbers mean little
//     sh bench/plot_cuda.sh x.csv > x.svg                    time per step against the number of labels; or: forward
//
// cuBLAS stands for dense layers and cuSPARSE for sparse matrices where make finds them. Everything but cuSPARSE rotates
// over two copies of the weights, which keeps them out of the L2.
#define HASTE_IMPLEMENTATION
#include "haste_cuda.cuh"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <time.h>
#ifdef BENCH_CUBLAS
    #include <cublas_v2.h>
#endif
#ifdef BENCH_CUSPARSE
    #include <cusparse.h>
#endif
#ifndef BENCH_FLAGS
    #define BENCH_FLAGS "unknown"
#endif

typedef __nv_bfloat16 bf16;
enum { POSITIVES = 32, SEED = 1, COPIES = 2, MOST_RUNS = 51, BEST = 5, HEAD_GROUP = 64 };

static void must_cuda(cudaError_t result, const char *what)
{
    if (result == cudaSuccess) return;
    fflush(stdout);
    fprintf(stderr, "haste-bench-cuda: %s: %s\n", what, cudaGetErrorString(result));
    exit(1);
}
#define CUDA(call) must_cuda((call), #call)

static haste_error failure;
static void must(haste_status status, const char *what)
{
    if (status == HASTE_OK) return;
    fflush(stdout);
    fprintf(stderr, "haste-bench-cuda: %s: %s\n", what, failure.text);
    exit(1);
}
#define MUST(call) must((call), #call)

// ---- >>state -----------------------------------------------------------------------------------------------------------

static struct {
    FILE       *csv;
    const char *only;       // names of tables, or NULL: all
    double      seconds;    // no row is begun after that many
    int         quick, wrong, processors;
    double      copy;       // bytes/s, read and written counted
    double      products;   // flop/s of a large bf16 product; 0: no cuBLAS
    size_t      shared;     // bytes of shared memory a thread block may have
    double      sparse_seconds;   // spent on cuSPARSE, which gets SPARSE_SECONDS
#ifdef BENCH_CUBLAS
    cublasHandle_t blas;
#endif
#ifdef BENCH_CUSPARSE
    cusparseHandle_t sparse;
#endif
} G;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double begun;

static int wanted(const char *table)
{
    const size_t n = strlen(table);
    const char *p;
    if (!G.only) return 1;
    for (p = strstr(G.only, table); p; p = strstr(p + 1, table))
        if ((p == G.only || p[-1] == ',') && (p[n] == 0 || p[n] == ',')) return 1;
    return 0;
}

static int late(const char *row)
{
    if (now() - begun < G.seconds) return 0;
    printf("%-34s not run: the %.0f seconds are over\n", row, G.seconds);
    return 1;
}

// Device memory; NULL where `optional` and there is not enough.
static void *device(size_t bytes, int optional)
{
    void *p = NULL;
    const cudaError_t result = cudaMalloc(&p, bytes ? bytes : 1);
    if (result == cudaErrorMemoryAllocation && optional) { cudaGetLastError(); return NULL; }
    must_cuda(result, "cudaMalloc");
    return p;
}
static void *device_copy(const void *from, size_t bytes)
{
    void *p = device(bytes, 0);
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}
static void *host(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    if (!p) { fprintf(stderr, "haste-bench-cuda: out of host memory\n"); exit(1); }
    return p;
}

// ---- >>memory ----------------------------------------------------------------------------------------------------------

// Every byte that this program and the library ask CUDA for: make has the linker send cudaMalloc, cudaFree and
// cudaMallocHost here (--wrap). The device itself hands out whole pages of 2 MB, which is what nvidia-smi shows.
static struct {
    struct { void *at; size_t bytes; } block[1024];
    size_t held, most, pinned;   // now, and the most since forget_most; pinned: since the start
} M;

extern "C" cudaError_t __real_cudaMalloc(void **memory, size_t bytes);
extern "C" cudaError_t __real_cudaFree(void *memory);
extern "C" cudaError_t __real_cudaMallocHost(void **memory, size_t bytes);

extern "C" cudaError_t __wrap_cudaMalloc(void **memory, size_t bytes)
{
    const cudaError_t result = __real_cudaMalloc(memory, bytes);
    int i;
    if (result != cudaSuccess) return result;
    for (i = 0; i < 1024; i++)
        if (!M.block[i].at) {
            M.block[i].at = *memory;
            M.block[i].bytes = bytes;
            M.held += bytes;
            if (M.held > M.most) M.most = M.held;
            return result;
        }
    fprintf(stderr, "haste-bench-cuda: more than 1024 allocations\n");
    exit(1);
}
extern "C" cudaError_t __wrap_cudaFree(void *memory)
{
    int i;
    for (i = 0; i < 1024; i++)
        if (memory && M.block[i].at == memory) {
            M.held -= M.block[i].bytes;
            M.block[i].at = NULL;
        }
    return __real_cudaFree(memory);
}
extern "C" cudaError_t __wrap_cudaMallocHost(void **memory, size_t bytes)
{
    const cudaError_t result = __real_cudaMallocHost(memory, bytes);
    if (result == cudaSuccess) M.pinned += bytes;
    return result;
}
static void forget_most(void) { M.most = M.held; }

// ---- >>timing ----------------------------------------------------------------------------------------------------------

typedef void (*work_call)(void *context, int turn);
typedef struct timing { double ms, least, most; int runs; } timing;

static int ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// The calls follow each other without a pause, an event after each: a host too slow for the device would show. At least
// `least` of them, 15 but for what is slow and only stands beside.
static timing measure_few(work_call call, void *context, int least)
{
    static cudaEvent_t event[MOST_RUNS + 1];
    float ms[MOST_RUNS], one;
    timing t;
    int i;
    if (!event[0]) for (i = 0; i <= MOST_RUNS; i++) CUDA(cudaEventCreate(&event[i]));
    for (i = 0; i < 3; i++) call(context, i);
    CUDA(cudaEventRecord(event[0]));
    for (i = 0; i < 2; i++) call(context, 3 + i);
    CUDA(cudaEventRecord(event[1]));
    CUDA(cudaEventSynchronize(event[1]));
    CUDA(cudaEventElapsedTime(&one, event[0], event[1]));
    t.runs = (int)(100 / (one / 2 + 1e-3));
    t.runs = t.runs < least ? least : t.runs > MOST_RUNS ? MOST_RUNS : t.runs;
    CUDA(cudaEventRecord(event[0]));
    for (i = 0; i < t.runs; i++) { call(context, 5 + i); CUDA(cudaEventRecord(event[i + 1])); }
    CUDA(cudaDeviceSynchronize());
    for (i = 0; i < t.runs; i++) CUDA(cudaEventElapsedTime(&ms[i], event[i], event[i + 1]));
    qsort(ms, (size_t)t.runs, sizeof ms[0], ascending);
    t.ms = ms[t.runs / 2];
    t.least = ms[0];
    t.most = ms[t.runs - 1];
    return t;
}

static timing measure(work_call call, void *context) { return measure_few(call, context, 15); }

static double floor_ms(double bytes, double flops)
{
    const double moving = bytes / G.copy * 1e3, counting = G.products > 0 ? flops / G.products * 1e3 : 0;
    return moving > counting ? moving : counting;
}

// One line of the CSV file; ms <= 0: not run.
static void record(const char *table, const char *row, const char *who, const char *what, int64_t L, int32_t D, double K,
                   int32_t S, int32_t B, timing t, double floor, const char *path)
{
    char name[64];   // as in the text, without its commas
    int i, n = 0;
    if (!G.csv || t.ms <= 0) return;
    for (i = 0; row[i] && n < 63; i++) if (row[i] != ',') name[n++] = row[i];
    name[n] = 0;
    fprintf(G.csv, "%s,%s,%s,%s,%lld,%d,%.4g,%d,%d,%.5f,%.5f,%.5f,%d,%.5f,%.3f,%s\n", table, name, who, what, (long long)L,
            D, K, S, B, t.ms, t.least, t.most, t.runs, floor, floor > 0 ? t.ms / floor : 0, path);
}

// "1.234 ( 5.6x)": a time, and how many times ours it is.
static const char *beside(char *text, timing other, double ours)
{
    if (other.ms > 0) snprintf(text, 32, "%9.4f (%5.2fx)", other.ms, other.ms / ours);
    else snprintf(text, 32, "%18s", "-");
    return text;
}

// ---- >>data ------------------------------------------------------------------------------------------------------------

static __host__ __device__ uint32_t scramble(uint64_t i)
{
    i = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    i = (i ^ (i >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    i = (i ^ (i >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(i >> 32);
}
static __host__ __device__ float number(uint64_t i)   // in +-1
{
    return (float)(scramble(i) >> 8) * (2.0f / 16777216.0f) - 1;
}

static __global__ void fill_kernel(bf16 *out, int64_t n, float scale, uint64_t stream)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        out[i] = __float2bfloat16(scale * number((stream << 40) + (uint64_t)i));
}
static void fill(bf16 *out, int64_t n, float scale, uint64_t stream)
{
    fill_kernel<<<4096, 256>>>(out, n, scale, stream);
    CUDA(cudaGetLastError());
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Numbers that a device holds as bfloat16, as floats.
static float *host_numbers(const bf16 *from, int64_t n)
{
    uint16_t *raw = (uint16_t *)host((size_t)n * 2);
    float *out = (float *)host((size_t)n * 4);
    int64_t i;
    CUDA(cudaMemcpy(raw, from, (size_t)n * 2, cudaMemcpyDeviceToHost));
    for (i = 0; i < n; i++) out[i] = from_bf16(raw[i]);
    free(raw);
    return out;
}

// A batch: x in +-1, exact in bfloat16 so that no contestant rounds it; POSITIVES labels a sample, each from another part
// of all.
typedef struct batch {
    int32_t  B, D;
    int64_t  L;
    float   *x, *dev_x, *dev_grad_x;
    int64_t *offset, *dev_offset;
    int32_t *id, *dev_id;
    double  *dev_loss;
} batch;

static void make_batch(batch *b, int64_t L, int32_t D, int32_t B)
{
    const size_t n = (size_t)B * (size_t)D;
    const int64_t part = L / POSITIVES;
    size_t i;
    uint32_t bits;
    b->B = B;
    b->D = D;
    b->L = L;
    b->x = (float *)host(n * 4);
    b->offset = (int64_t *)host(((size_t)B + 1) * 8);
    b->id = (int32_t *)host((size_t)B * POSITIVES * 4);
    for (i = 0; i < n; i++) {
        b->x[i] = number(((uint64_t)9 << 40) + i);
        memcpy(&bits, &b->x[i], 4);
        bits &= 0xffff0000u;
        memcpy(&b->x[i], &bits, 4);
    }
    for (i = 0; i <= (size_t)B; i++) b->offset[i] = (int64_t)i * POSITIVES;
    for (i = 0; i < (size_t)B * POSITIVES; i++)
        b->id[i] = (int32_t)((int64_t)(i % POSITIVES) * part + scramble(((uint64_t)8 << 40) + i) % (uint32_t)part);
    b->dev_x = (float *)device_copy(b->x, n * 4);
    b->dev_grad_x = (float *)device(n * 4, 0);
    CUDA(cudaMemset(b->dev_grad_x, 0, n * 4));
    b->dev_offset = (int64_t *)device_copy(b->offset, ((size_t)B + 1) * 8);
    b->dev_id = (int32_t *)device_copy(b->id, (size_t)B * POSITIVES * 4);
    b->dev_loss = (double *)device(8, 0);
}
// Of each sample's positives 19 become some of the first 400 labels.
static void make_skewed(batch *b)
{
    const size_t n = (size_t)b->B * POSITIVES;
    size_t i;
    for (i = 0; i < n; i++)
        if (i % POSITIVES < 19) b->id[i] = (int32_t)(i % POSITIVES * 21 + scramble(((uint64_t)7 << 40) + i) % 21);
    CUDA(cudaMemcpy(b->dev_id, b->id, n * 4, cudaMemcpyHostToDevice));
}
static void free_batch(batch *b)
{
    free(b->x); free(b->offset); free(b->id);
    cudaFree(b->dev_x); cudaFree(b->dev_grad_x); cudaFree(b->dev_offset); cudaFree(b->dev_id); cudaFree(b->dev_loss);
}

// ---- >>ours ------------------------------------------------------------------------------------------------------------

// A shape. kind: 0, or a sum of these; bfloat16 and plain SGD unless they say otherwise.
enum {
    HALVES   = 1,   // head labels read all of [0, D/2), the tail F of [D/2, D); else both of all of [0, D)
    FLOAT32  = 2,   // weights
    MOMENTUM = 4,   // velocities in bfloat16
    ADAMW    = 8,   // both moments in bfloat16,
    WIDE_STATE = 16 // or in float32
};
typedef struct shape { const char *name; int64_t L, head; int32_t S, F, D, B, kind; } shape;

static int64_t rounded16(int64_t n) { return (n + 15) / 16 * 16; }

static double weights_of(const shape *s)
{
    const double width = s->kind & HALVES ? s->D / 2 : s->D;
    return (double)s->head * width + (double)(s->L - s->head) * s->F;
}
static double index_bytes(const shape *s) { return s->S ? (double)(s->L - s->head) / s->S * s->F * 2 : 0; }

static haste_layer_options layer_options(const shape *s)
{
    haste_layer_options o;
    haste_block_options *tail;
    memset(&o, 0, sizeof o);
    o.labels = (int32_t)s->L;
    o.inputs = s->D;
    o.block_count = s->head && s->head < s->L ? 2 : 1;
    if (s->head) {
        o.block[0].labels = s->head;
        o.block[0].group_size = HEAD_GROUP;
        o.block[0].fan_in = HASTE_DENSE;
        o.block[0].end = s->kind & HALVES ? s->D / 2 : s->D;
    }
    if (s->head < s->L) {
        tail = &o.block[o.block_count - 1];
        tail->group_size = s->S;
        tail->fan_in = s->F;
        tail->begin = s->kind & HALVES ? s->D / 2 : 0;
        tail->end = s->D;
    }
    o.dtype = s->kind & FLOAT32 ? HASTE_F32 : HASTE_BF16;
    o.state_dtype = s->kind & WIDE_STATE ? HASTE_F32 : HASTE_BF16;
    o.optimizer = s->kind & MOMENTUM ? HASTE_MOMENTUM : s->kind & ADAMW ? HASTE_ADAMW : HASTE_SGD;
    o.seed = SEED;
    return o;
}

static haste_cuda_workspace_options scratch_options(int32_t B)
{
    haste_cuda_workspace_options o;
    memset(&o, 0, sizeof o);
    o.batch = B;
    o.top_k = BEST;
    return o;
}

typedef struct ours {
    shape                s;
    int                  copies;
    haste_cuda_layer     layer[COPIES];
    haste_cuda_workspace work;
    haste_cuda_gradient  gradient;
    batch               *b;
    void                *logits;        // [B, slots] bfloat16
    int32_t             *dev_best;      // [B, BEST]
    float               *dev_score;
    haste_step_options   step;
    cudaStream_t         stream;        // of our_step; NULL: the default stream
    cudaGraphExec_t      graph[COPIES];
} ours;

// path: of all blocks. Prediction and the kernels alone are general kernels, fastest from their own order of weights.
static void make_ours(ours *o, const shape *s, batch *b, int copies, haste_cuda_path path)
{
    haste_layer_options options = layer_options(s);
    haste_cuda_workspace_options scratch = scratch_options(b->B);
    haste_cuda_options choose;
    int i;
    memset(o, 0, sizeof *o);
    memset(&choose, 0, sizeof choose);
    choose.batch = b->B;
    for (i = 0; i < options.block_count; i++) choose.path[i] = path;
    o->s = *s;
    o->copies = copies;
    o->b = b;
    o->step.lr = .01f;
    for (i = 0; i < copies; i++) {
        options.seed = (uint64_t)(SEED + i);
        MUST(haste_cuda_layer_create(&o->layer[i], &options, &choose, NULL, &failure));
    }
    MUST(haste_cuda_workspace_create(&o->work, &o->layer[0], &scratch, &failure));
    o->dev_best = (int32_t *)device((size_t)b->B * BEST * 4, 0);
    o->dev_score = (float *)device((size_t)b->B * BEST * 4, 0);
}
static void free_ours(ours *o)
{
    int i;
    MUST(haste_cuda_check(&o->work, NULL, &failure));
    for (i = 0; i < o->copies; i++) haste_cuda_layer_free(&o->layer[i]);
    haste_cuda_workspace_free(&o->work);
    haste_cuda_gradient_free(&o->gradient);
    cudaFree(o->logits); cudaFree(o->dev_best); cudaFree(o->dev_score);
}

static haste_cuda_lists lists_of(const batch *b)
{
    haste_cuda_lists lists;
    lists.offset = b->dev_offset;
    lists.id = b->dev_id;
    lists.on_host = 0;
    return lists;
}

static void our_step(void *context, int turn)
{
    ours *o = (ours *)context;
    const haste_cuda_lists positives = lists_of(o->b);
    MUST(haste_cuda_train_step(&o->layer[turn % o->copies], &o->work, o->b->dev_x, HASTE_CUDA_F32, o->b->B, &positives,
                               &o->step, o->b->dev_loss, o->b->dev_grad_x, HASTE_CUDA_F32, (haste_cuda_stream)o->stream,
                               &failure));
}
static void our_replay(void *context, int turn)
{
    ours *o = (ours *)context;
    CUDA(cudaGraphLaunch(o->graph[turn % o->copies], NULL));
}
static void our_forward(void *context, int turn)
{
    ours *o = (ours *)context;
    MUST(haste_cuda_forward(&o->layer[turn % o->copies], &o->work, o->b->dev_x, HASTE_CUDA_F32, o->b->B, o->logits,
                            HASTE_CUDA_BF16, NULL, &failure));
}
static void our_weight_gradient(void *context, int turn)
{
    ours *o = (ours *)context;
    haste_cuda_gradient shared;   // copies of the layer have seeds of their own: the same arrays for each
    MUST(haste_cuda_gradient_init(&shared, &o->layer[turn % o->copies], o->gradient.weight, o->gradient.bias, &failure));
    MUST(haste_cuda_backward(&o->layer[turn % o->copies], &o->work, o->b->dev_x, HASTE_CUDA_F32, o->b->B, o->logits,
                             HASTE_CUDA_BF16, &shared, NULL, HASTE_CUDA_F32, NULL, &failure));
}
static void our_input_gradient(void *context, int turn)
{
    ours *o = (ours *)context;
    MUST(haste_cuda_backward(&o->layer[turn % o->copies], &o->work, o->b->dev_x, HASTE_CUDA_F32, o->b->B, o->logits,
                             HASTE_CUDA_BF16, NULL, o->b->dev_grad_x, HASTE_CUDA_F32, NULL, &failure));
}
static void our_best(void *context, int turn)
{
    ours *o = (ours *)context;
    MUST(haste_cuda_top_k(&o->layer[turn % o->copies], &o->work, o->b->dev_x, HASTE_CUDA_F32, o->b->B, BEST, NULL,
                          o->dev_best, o->dev_score, NULL, &failure));
}

// "wide+narrow": which kernels train the blocks.
static const char *path_of(const ours *o, char *text)
{
    int i;
    text[0] = 0;
    for (i = 0; i < o->layer[0].block_count; i++) {
        if (i) strcat(text, "+");
        strcat(text, haste_cuda_path_text(haste_cuda_path_of(&o->layer[0], &o->work, i, o->b->B, NULL)));
    }
    return text;
}

// ---- >>dense -----------------------------------------------------------------------------------------------------------

// A dense layer out of cuBLAS products, or a bottleneck: x projected to K inputs, then a dense layer on those. bfloat16
// weights [L, K], L padded to 8. Its update happens inside the product (W -= lr * dW, rounded to nearest): the least that
// such a layer can do; stochastic rounding would need a gradient array and a pass of its own.
typedef struct dense {
    int64_t L, padded;
    int32_t K, copies;
    batch  *b;
    float   lr;
    bf16   *weight[COPIES], *project, *x, *h, *z, *grad_h_half;
    bf16   *grad_weight;
    float  *bias, *kept, *grad_h;
    uint64_t *candidate;
    int32_t *dev_best;
    float   *dev_score;
    int     failed;
} dense;

#ifdef BENCH_CUBLAS
static __global__ void to_bf16_kernel(const float *in, bf16 *out, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        out[i] = __float2bfloat16(in[i]);
}

static __device__ double block_sum(float value)   // of 256 threads, valid in thread 0
{
    __shared__ float part[8];
    double sum = 0;
    for (int i = 16; i; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0) for (int i = 0; i < 8; i++) sum += part[i];
    return sum;
}

// The logits of positives, before the next kernel overwrites them. A block is one sample.
static __global__ void keep_kernel(const bf16 *z, const float *bias, int64_t padded, const int64_t *offset,
                                   const int32_t *id, float *kept)
{
    for (int64_t i = offset[blockIdx.x] + threadIdx.x; i < offset[blockIdx.x + 1]; i += blockDim.x)
        kept[i] = __bfloat162float(z[blockIdx.x * padded + id[i]]) + bias[id[i]];
}

// Binary cross-entropy as if all labels were negative: z becomes its slope, the bias is updated. A thread owns two labels.
static __global__ void slope_kernel(bf16 *z, float *bias, int64_t L, int64_t padded, int B, float lr, double *loss)
{
    const int64_t l = (blockIdx.x * 256ll + threadIdx.x) * 2;
    float sum = 0;
    if (l < padded) {
        const float b0 = bias[l], b1 = bias[l + 1];
        const float scale = 1.0f / (float)B;
        float g0 = 0, g1 = 0;
#pragma unroll 8
        for (int b = 0; b < B; b++) {
            __nv_bfloat162 *at = (__nv_bfloat162 *)(z + b * padded + l);
            const float2 v = __bfloat1622float2(*at);
            const float z0 = v.x + b0, z1 = v.y + b1, e0 = __expf(-fabsf(z0)), e1 = __expf(-fabsf(z1));
            const float s0 = __fdividef(z0 > 0 ? 1 : e0, 1 + e0) * scale, s1 = __fdividef(z1 > 0 ? 1 : e1, 1 + e1) * scale;
            const bool first = l < L, second = l + 1 < L;
            if (first) { sum += fmaxf(z0, 0) + __logf(1 + e0); g0 += s0; }
            if (second) { sum += fmaxf(z1, 0) + __logf(1 + e1); g1 += s1; }
            *at = __floats2bfloat162_rn(first ? s0 : 0, second ? s1 : 0);
        }
        bias[l] = b0 - lr * g0;
        bias[l + 1] = b1 - lr * g1;
    }
    const double all = block_sum(sum);
    if (threadIdx.x == 0) atomicAdd(loss, all / B);
}

// What positives change of that.
static __global__ void positive_kernel(bf16 *z, float *bias, int64_t padded, const int64_t *offset, const int32_t *id,
                                       const float *kept, int B, float lr, double *loss)
{
    for (int64_t i = offset[blockIdx.x] + threadIdx.x; i < offset[blockIdx.x + 1]; i += blockDim.x) {
        z[blockIdx.x * padded + id[i]] = __float2bfloat16(-1 / ((1 + __expf(kept[i])) * (float)B));
        atomicAdd(&bias[id[i]], lr / (float)B);
        atomicAdd(loss, -(double)kept[i] / B);
    }
}

// The BEST largest logits of a stretch of one sample, as ordered numbers; then, from those, of the whole sample.
static __device__ __forceinline__ uint64_t as_ordered(float z, uint32_t id)
{
    const uint32_t bits = __float_as_uint(z);
    return (uint64_t)(bits & 0x80000000u ? ~bits : bits | 0x80000000u) << 32 | ~id;
}
static __device__ __forceinline__ void keep_best(uint64_t *list, uint64_t entry)
{
    if (entry <= list[BEST - 1]) return;
    list[BEST - 1] = entry;
#pragma unroll
    for (int i = BEST - 1; i > 0; i--) {
        const uint64_t a = list[i - 1], b = list[i];
        list[i - 1] = a > b ? a : b;
        list[i] = a > b ? b : a;
    }
}
static __device__ void best_of_block(uint64_t *list, uint64_t *out)
{
    __shared__ uint64_t part[8], top;
    for (int k = 0; k < BEST; k++) {
        uint64_t most = list[0];
        for (int i = 16; i; i /= 2) {
            const uint64_t other = __shfl_xor_sync(0xffffffffu, most, i);
            most = most > other ? most : other;
        }
        if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = most;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < 8; i++) if (part[i] > most) most = part[i];
            out[k] = top = most;
        }
        __syncthreads();
        if (list[0] == top) {
#pragma unroll
            for (int i = 0; i + 1 < BEST; i++) list[i] = list[i + 1];
            list[BEST - 1] = 0;
        }
    }
}
static __global__ void best_kernel(const bf16 *z, int64_t L, int64_t padded, uint64_t *out)
{
    uint64_t list[BEST] = { 0 };
    const bf16 *row = z + blockIdx.y * padded;
    for (int64_t l = (blockIdx.x * 256ll + threadIdx.x) * 8; l < padded; l += gridDim.x * 2048ll) {
        const uint4 four = *(const uint4 *)(row + l);
        const uint32_t word[4] = { four.x, four.y, four.z, four.w };
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float v = __uint_as_float(j % 2 ? word[j / 2] & 0xffff0000u : word[j / 2] << 16);
            if (l + j < L) keep_best(list, as_ordered(v, (uint32_t)(l + j)));
        }
    }
    best_of_block(list, out + (blockIdx.y * gridDim.x + blockIdx.x) * BEST);
}
static __global__ void best_of_best_kernel(const uint64_t *from, int n, int32_t *id, float *score)
{
    __shared__ uint64_t out[BEST];
    uint64_t list[BEST] = { 0 };
    for (int i = threadIdx.x; i < n; i += 256) keep_best(list, from[(int64_t)blockIdx.x * n + i]);
    best_of_block(list, out);
    __syncthreads();
    if (threadIdx.x < BEST) {
        const uint32_t ordered = (uint32_t)(out[threadIdx.x] >> 32);
        id[blockIdx.x * BEST + threadIdx.x] = (int32_t)~(uint32_t)out[threadIdx.x];
        score[blockIdx.x * BEST + threadIdx.x] = __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
    }
}

#endif

enum { STRETCHES = 64 };   // of a sample's logits, for best_kernel

static void free_dense(dense *d)
{
    int i;
    for (i = 0; i < d->copies; i++) cudaFree(d->weight[i]);
    cudaFree(d->project); cudaFree(d->x); cudaFree(d->h); cudaFree(d->z); cudaFree(d->grad_h_half); cudaFree(d->grad_weight);
    cudaFree(d->bias); cudaFree(d->kept); cudaFree(d->grad_h); cudaFree(d->candidate); cudaFree(d->dev_best);
    cudaFree(d->dev_score);
    memset(d, 0, sizeof *d);
}

// 1, or 0 where there is no cuBLAS or not enough memory. K = D: no projection.
static int make_dense(dense *d, batch *b, int32_t K, int copies, int gradient)
{
    const int64_t padded = (b->L + 7) / 8 * 8;
    int i;
    memset(d, 0, sizeof *d);
#ifndef BENCH_CUBLAS
    (void)K; (void)copies; (void)gradient; (void)i; (void)padded;
    return 0;
#else
    d->L = b->L;
    d->padded = padded;
    d->K = K;
    d->b = b;
    d->lr = .01f;
    d->z = (bf16 *)device((size_t)(padded * b->B) * 2, 1);
    for (i = 0; i < copies && d->z; i++) {
        d->weight[i] = (bf16 *)device((size_t)(padded * K) * 2, 1);
        if (!d->weight[i]) break;
        d->copies++;
        fill(d->weight[i], padded * K, 1 / sqrtf((float)K), (uint64_t)(20 + i));
    }
    if (gradient && d->copies == copies) d->grad_weight = (bf16 *)device((size_t)(padded * K) * 2, 1);
    if (d->copies < copies || (gradient && !d->grad_weight)) { free_dense(d); return 0; }
    d->bias = (float *)device((size_t)padded * 4, 0);
    CUDA(cudaMemset(d->bias, 0, (size_t)padded * 4));
    d->x = (bf16 *)device((size_t)b->B * (size_t)b->D * 2, 0);
    d->h = K == b->D ? NULL : (bf16 *)device((size_t)b->B * (size_t)K * 2, 0);
    d->grad_h = (float *)device((size_t)b->B * (size_t)K * 4, 0);
    d->grad_h_half = (bf16 *)device((size_t)b->B * (size_t)K * 2, 0);
    d->kept = (float *)device((size_t)b->B * POSITIVES * 4, 0);
    d->candidate = (uint64_t *)device((size_t)b->B * STRETCHES * BEST * 8, 0);
    d->dev_best = (int32_t *)device((size_t)b->B * BEST * 4, 0);
    d->dev_score = (float *)device((size_t)b->B * BEST * 4, 0);
    if (d->h) {
        d->project = (bf16 *)device((size_t)K * (size_t)b->D * 2, 0);
        fill(d->project, (int64_t)K * b->D, 1 / sqrtf((float)b->D), 30);
    }
    return 1;
#endif
}

#ifdef BENCH_CUBLAS
// Column-major C [m, n] = alpha * op(A) op(B) + beta * C with bfloat16 factors and float32 sums.
static void product(dense *d, int ta, int tb, int64_t m, int64_t n, int64_t k, float alpha, const bf16 *a, int64_t lda,
                    const bf16 *b, int64_t ldb, float beta, void *c, int c_float, int64_t ldc)
{
    const cublasOperation_t op_a = ta ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cudaDataType_t type = c_float ? CUDA_R_32F : CUDA_R_16BF;
    if (cublasGemmEx(G.blas, op_a, op_b, (int)m, (int)n, (int)k, &alpha, a, CUDA_R_16BF, (int)lda, b, CUDA_R_16BF, (int)ldb,
                     &beta,
                     c, type, (int)ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) d->failed = 1;
}
static const bf16 *dense_input(const dense *d) { return d->h ? d->h : d->x; }
static void dense_prepare(dense *d)
{
    to_bf16_kernel<<<128, 256>>>(d->b->dev_x, d->x, (int64_t)d->b->B * d->b->D);
    if (d->h) product(d, 1, 0, d->K, d->b->B, d->b->D, 1, d->project, d->b->D, d->x, d->b->D, 0, d->h, 0, d->K);
}
static void dense_forward(void *context, int turn)
{
    dense *d = (dense *)context;
    product(d, 1, 0, d->padded, d->b->B, d->K, 1, d->weight[turn % d->copies], d->K, dense_input(d), d->K, 0, d->z, 0,
            d->padded);
}
static void dense_weight_gradient(void *context, int turn)
{
    dense *d = (dense *)context;
    (void)turn;
    product(d, 0, 1, d->K, d->padded, d->b->B, 1, dense_input(d), d->K, d->z, d->padded, 0, d->grad_weight, 0, d->K);
}
static void dense_input_gradient(void *context, int turn)
{
    dense *d = (dense *)context;
    product(d, 0, 0, d->K, d->b->B, d->padded, 1, d->weight[turn % d->copies], d->K, d->z, d->padded, 0, d->grad_h, 1, d->K);
}
static void dense_step(void *context, int turn)
{
    dense *d = (dense *)context;
    batch *b = d->b;
    bf16 *w = d->weight[turn % d->copies];
    float *grad = d->h ? d->grad_h : b->dev_grad_x;
    dense_prepare(d);
    CUDA(cudaMemsetAsync(b->dev_loss, 0, 8));
    dense_forward(d, turn);
    keep_kernel<<<b->B, 32>>>(d->z, d->bias, d->padded, b->dev_offset, b->dev_id, d->kept);
    slope_kernel<<<(unsigned)((d->padded / 2 + 255) / 256), 256>>>(d->z, d->bias, d->L, d->padded, b->B, d->lr, b->dev_loss);
    positive_kernel<<<b->B, 32>>>(d->z, d->bias, d->padded, b->dev_offset, b->dev_id, d->kept, b->B, d->lr, b->dev_loss);
    CUDA(cudaGetLastError());
    product(d, 0, 0, d->K, b->B, d->padded, 1, w, d->K, d->z, d->padded, d->h ? 0.0f : 1.0f, grad, 1, d->K);
    product(d, 0, 1, d->K, d->padded, b->B, -d->lr, dense_input(d), d->K, d->z, d->padded, 1, w, 0, d->K);
    if (d->h) {
        to_bf16_kernel<<<128, 256>>>(d->grad_h, d->grad_h_half, (int64_t)b->B * d->K);
        product(d, 0, 0, b->D, b->B, d->K, 1, d->project, b->D, d->grad_h_half, d->K, 1, b->dev_grad_x, 1, b->D);
        product(d, 0, 1, b->D, d->K, b->B, -d->lr, d->x, b->D, d->grad_h_half, d->K, 1, d->project, 0, b->D);
    }
}
static void dense_best(void *context, int turn)
{
    dense *d = (dense *)context;
    dense_prepare(d);
    dense_forward(d, turn);
    best_kernel<<<dim3(STRETCHES, (unsigned)d->b->B), 256>>>(d->z, d->L, d->padded, d->candidate);
    best_of_best_kernel<<<d->b->B, 256>>>(d->candidate, STRETCHES * BEST, d->dev_best, d->dev_score);
    CUDA(cudaGetLastError());
}
#else
static void dense_prepare(dense *d) { (void)d; }
static void dense_forward(void *context, int turn) { (void)context; (void)turn; }
static void dense_weight_gradient(void *context, int turn) { (void)context; (void)turn; }
static void dense_input_gradient(void *context, int turn) { (void)context; (void)turn; }
static void dense_step(void *context, int turn) { (void)context; (void)turn; }
static void dense_best(void *context, int turn) { (void)context; (void)turn; }
#endif

// Times one call of a dense layer of K inputs that is made and freed here; ms 0: it does not fit, or cuBLAS refused.
static timing time_dense(work_call call, batch *b, int32_t K, int copies)
{
    const int gradient = call == dense_weight_gradient;
    timing t = { 0, 0, 0, 0 };
    dense d;
    if (!make_dense(&d, b, K, copies, gradient)) return t;
    dense_prepare(&d);
    if (gradient || call == dense_input_gradient) fill(d.z, d.padded * b->B, 1e-2f, 40);
    t = measure(call, &d);
    if (d.failed) t.ms = 0;
    free_dense(&d);
    return t;
}

// ---- >>per-label -------------------------------------------------------------------------------------------------------

// Fixed fan-in without groups: each label its own F inputs (F 32, 64 or 128; B = 64). The batch lies in shared memory,
// feature-major, so an input is a row of 128 bytes without bank conflicts; indices and weights are read 16 bytes at a time,
// once. Logits and their gradients are label-major [L][64] and gradients of inputs feature-major, which spares it the
// transpositions that ours does inside its times.
enum { SAMPLES = 64, STAGE_PAIRS = 512, STAGE_BYTES = 3072, STAGES = 4 };

typedef struct per_label {
    int64_t   L;
    int32_t   F, D;
    batch    *b;
    uint16_t *index[COPIES];
    bf16     *weight[COPIES], *x, *z, *grad_weight;
    float    *grad_x;
} per_label;

// Distinct inputs: one from each of F parts of D.
static __global__ void index_kernel(uint16_t *index, int64_t n, int F, int D, uint64_t stream)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        index[i] = (uint16_t)((int)(i % F) * (D / F) + (int)(scramble((stream << 40) + (uint64_t)i) % (uint32_t)(D / F)));
}

static __global__ void transpose_kernel(const float *x, bf16 *out, int D)   // [64, D] to [D][64]
{
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i < D * SAMPLES) out[i] = __float2bfloat16(x[i % SAMPLES * D + i / SAMPLES]);
}

static __device__ __forceinline__ uint32_t half_of(const uint4 &v, int j)   // the j-th of eight 16-bit numbers
{
    const uint32_t word = j / 2 == 0 ? v.x : j / 2 == 1 ? v.y : j / 2 == 2 ? v.z : v.w;
    return j % 2 ? word >> 16 : word & 0xffffu;
}
static __device__ __forceinline__ float number_of(const uint4 &v, int j)
{
    const uint32_t word = j / 2 == 0 ? v.x : j / 2 == 1 ? v.y : j / 2 == 2 ? v.z : v.w;
    return __uint_as_float(j % 2 ? word & 0xffff0000u : word << 16);
}
static __device__ void load_batch(uint4 *rows, const bf16 *x, int D)
{
    for (int i = threadIdx.x; i < D * 8; i += blockDim.x) rows[i] = ((const uint4 *)x)[i];
    __syncthreads();
}

// A warp takes four labels at once, eight lanes a label, eight samples a lane.
static __global__ __launch_bounds__(512)
void per_label_forward_kernel(const uint16_t *index, const bf16 *weight, const bf16 *x, int64_t L, int F, int D, bf16 *z)
{
    extern __shared__ uint4 rows[];
    const int part = threadIdx.x % 8;
    load_batch(rows, x, D);
    for (int64_t l = (blockIdx.x * 512ll + threadIdx.x) / 8; l < L; l += gridDim.x * 64ll) {
        float sum[8] = { 0 };
        uint4 out;
#pragma unroll 2
        for (int f = 0; f < F; f += 8) {
            const uint4 i8 = __ldg((const uint4 *)(index + l * F + f)), w8 = __ldg((const uint4 *)(weight + l * F + f));
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const uint4 row = rows[half_of(i8, j) * 8 + part];
                const float w = number_of(w8, j);
#pragma unroll
                for (int s = 0; s < 8; s++) sum[s] += w * number_of(row, s);
            }
        }
        __nv_bfloat162 *pair = (__nv_bfloat162 *)&out;
#pragma unroll
        for (int s = 0; s < 4; s++) pair[s] = __floats2bfloat162_rn(sum[2 * s], sum[2 * s + 1]);
        ((uint4 *)z)[l * 8 + part] = out;
    }
}

static __global__ __launch_bounds__(512)
void per_label_weight_kernel(const uint16_t *index, const bf16 *z, const bf16 *x, int64_t L, int F, int D, bf16 *grad_weight)
{
    extern __shared__ uint4 rows[];
    const int part = threadIdx.x % 8;
    load_batch(rows, x, D);
    // `first` is one for the whole warp, because all of it is needed for the shuffles.
    for (int64_t first = (blockIdx.x * 512ll + threadIdx.x / 32 * 32) / 8; first < L; first += gridDim.x * 64ll) {
        const int64_t own = first + threadIdx.x % 32 / 8, l = own < L ? own : L - 1;
        const uint4 dz = ((const uint4 *)z)[l * 8 + part];
#pragma unroll 2
        for (int f = 0; f < F; f += 8) {
            const uint4 i8 = __ldg((const uint4 *)(index + l * F + f));
            float sum[8];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const uint4 row = rows[half_of(i8, j) * 8 + part];
                sum[j] = 0;
#pragma unroll
                for (int s = 0; s < 8; s++) sum[j] += number_of(dz, s) * number_of(row, s);
            }
            // Eight sums over eight lanes: each exchange halves what a lane still has to do, and lane j ends with sum j.
#pragma unroll
            for (int half = 4; half; half /= 2) {
                const bool upper = part & half;
#pragma unroll
                for (int j = 0; j < half; j++) {
                    const float give = upper ? sum[j] : sum[j + half], keep = upper ? sum[j + half] : sum[j];
                    sum[j] = keep + __shfl_xor_sync(0xffffffffu, give, half);
                }
            }
            if (own < L) grad_weight[l * F + f + part] = __float2bfloat16(sum[0]);
        }
    }
}

static __device__ __forceinline__ void copy16(void *to, const void *from)
{
    const unsigned at = (unsigned)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(from) : "memory");
}

// A block is one warp that owns the sums of 32 samples over all inputs: nobody else adds to them, and the inputs of one
// label are distinct, so neither atomics nor barriers are needed. Labels come through a queue of four stages. Assumes L %
// 16 == 0.
static __global__ __launch_bounds__(32)
void per_label_input_kernel(const uint16_t *index, const bf16 *weight, const bf16 *z, int64_t L, int F, int D, float *grad_x)
{
    extern __shared__ uint4 rows[];
    float *sum = (float *)rows;
    unsigned char *queue = (unsigned char *)(sum + D * 32);
    const int lane = threadIdx.x, first = blockIdx.x % 2 * 32, n = STAGE_PAIRS / F;
    const int64_t runs = gridDim.x / 2, stages = L / n;
    int64_t stage = blockIdx.x / 2, ahead = stage;
    int slot = 0, ahead_slot = 0;
    for (int i = lane; i < D * 32; i += 32) sum[i] = 0;
    for (int64_t s = 0; ; s++) {
        if (ahead < stages) {
            unsigned char *to = queue + ahead_slot * STAGE_BYTES;
            for (int i = lane; i < 64; i += 32) {
                copy16(to + i * 16, (const unsigned char *)(index + ahead * STAGE_PAIRS) + i * 16);
                copy16(to + 1024 + i * 16, (const unsigned char *)(weight + ahead * STAGE_PAIRS) + i * 16);
            }
            for (int i = lane; i < n * 4; i += 32)
                copy16(to + 2048 + i * 16, (const unsigned char *)(z + (ahead * n + i / 4) * SAMPLES + first) + i % 4 * 16);
            ahead += runs;
        }
        ahead_slot = (ahead_slot + 1) % STAGES;
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (s < STAGES - 1) continue;
        if (stage >= stages) break;
        asm volatile("cp.async.wait_group %0;" :: "n"(STAGES - 1) : "memory");
        __syncwarp();
        const unsigned char *from = queue + slot * STAGE_BYTES;
        for (int k = 0; k < n; k++) {
            const float dz = __bfloat162float(((const bf16 *)(from + 2048))[k * 32 + lane]);
            for (int f = 0; f < F; f += 16) {
                // Copies in registers: from the queue they would be read anew after each store.
                const uint4 *at = (const uint4 *)(from + (k * F + f) * 2);
                const uint4 i8[2] = { at[0], at[1] }, w8[2] = { at[64], at[65] };
                float v[16];
#pragma unroll
                for (int j = 0; j < 16; j++) v[j] = sum[half_of(i8[j / 8], j % 8) * 32 + lane];
#pragma unroll
                for (int j = 0; j < 16; j++) v[j] += number_of(w8[j / 8], j % 8) * dz;
#pragma unroll
                for (int j = 0; j < 16; j++) sum[half_of(i8[j / 8], j % 8) * 32 + lane] = v[j];
            }
        }
        __syncwarp();
        slot = (slot + 1) % STAGES;
        stage += runs;
    }
    for (int i = 0; i < D; i++) atomicAdd(&grad_x[i * SAMPLES + first + lane], sum[i * 32 + lane]);
}

static int rows_bytes(const per_label *p) { return p->D * SAMPLES * 2; }
static int sums_bytes(const per_label *p) { return p->D * 128 + STAGES * STAGE_BYTES; }

static void make_per_label(per_label *p, batch *b, int32_t F)
{
    const int64_t n = b->L * F;
    int i;
    memset(p, 0, sizeof *p);
    p->L = b->L;
    p->F = F;
    p->D = b->D;
    p->b = b;
    for (i = 0; i < COPIES; i++) {
        p->index[i] = (uint16_t *)device((size_t)n * 2, 0);
        p->weight[i] = (bf16 *)device((size_t)n * 2, 0);
        index_kernel<<<4096, 256>>>(p->index[i], n, F, b->D, (uint64_t)(50 + i));
        fill(p->weight[i], n, 1 / sqrtf((float)F), (uint64_t)(60 + i));
    }
    p->x = (bf16 *)device((size_t)b->D * SAMPLES * 2, 0);
    p->z = (bf16 *)device((size_t)b->L * SAMPLES * 2, 0);
    p->grad_weight = (bf16 *)device((size_t)n * 2, 0);
    p->grad_x = (float *)device((size_t)b->D * SAMPLES * 4, 0);
    CUDA(cudaMemset(p->grad_x, 0, (size_t)b->D * SAMPLES * 4));
    CUDA(cudaFuncSetAttribute(per_label_forward_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, rows_bytes(p)));
    CUDA(cudaFuncSetAttribute(per_label_weight_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, rows_bytes(p)));
    CUDA(cudaFuncSetAttribute(per_label_input_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sums_bytes(p)));
}
static void free_per_label(per_label *p)
{
    int i;
    for (i = 0; i < COPIES; i++) { cudaFree(p->index[i]); cudaFree(p->weight[i]); }
    cudaFree(p->x); cudaFree(p->z); cudaFree(p->grad_weight); cudaFree(p->grad_x);
}
static void per_label_prepare(per_label *p)
{
    transpose_kernel<<<(unsigned)(p->D * SAMPLES + 255) / 256, 256>>>(p->b->dev_x, p->x, p->D);
    CUDA(cudaGetLastError());
}
static void per_label_forward(void *context, int turn)
{
    per_label *p = (per_label *)context;
    const int i = turn % COPIES;
    per_label_prepare(p);
    per_label_forward_kernel<<<2 * G.processors, 512, rows_bytes(p)>>>(p->index[i], p->weight[i], p->x, p->L, p->F, p->D,
                                                                       p->z);
    CUDA(cudaGetLastError());
}
static void per_label_weight_gradient(void *context, int turn)
{
    per_label *p = (per_label *)context;
    const int i = turn % COPIES;
    per_label_prepare(p);
    per_label_weight_kernel<<<2 * G.processors, 512, rows_bytes(p)>>>(p->index[i], p->z, p->x, p->L, p->F, p->D,
                                                                      p->grad_weight);
    CUDA(cudaGetLastError());
}
static void per_label_input_gradient(void *context, int turn)
{
    per_label *p = (per_label *)context;
    const int i = turn % COPIES;
    per_label_input_kernel<<<2 * G.processors, 32, sums_bytes(p)>>>(p->index[i], p->weight[i], p->z, p->L, p->F, p->D,
                                                                    p->grad_x);
    CUDA(cudaGetLastError());
}

// ---- >>cuSPARSE --------------------------------------------------------------------------------------------------------

// Our layer as a CSR matrix [L, D]: forward is a product with x [D, 64], the weight gradient a sampled product (SDDMM), the
// input gradient a product of the transpose. And as many weights in blocks of 32 labels x 32 inputs (blocked-ELL): another
// structure, of equal flops. Numbers are bfloat16, or float32 where cuSPARSE refuses that; logits are label-major, as
// cuSPARSE likes them, which spares it the transpositions that ours does inside its times.
enum { SPARSE_SECONDS = 1, SPARSE_BLOCK = 32 };
typedef enum sparse_kind { SPARSE_FORWARD, SPARSE_WEIGHT, SPARSE_INPUT, SPARSE_BLOCKS } sparse_kind;

#ifdef BENCH_CUSPARSE
typedef struct sparse {
    sparse_kind kind;
    int64_t     L;
    int32_t     F, D;
    int32_t    *offset, *column;   // CSR; of blocks: column only
    bf16       *half_weight, *half_x, *half_z;       // the numbers
    void       *weight, *x, *z;    // the same as cuSPARSE gets them
    float      *grad_x;
    void       *scratch;
    cusparseSpMatDescr_t matrix;
    cusparseDnMatDescr_t matrix_x, matrix_z, matrix_grad_x;
    int         refused;
} sparse;

static __global__ void sparse_offset_kernel(int32_t *offset, int64_t n, int F)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        offset[i] = (int32_t)(i * F);
}
// Row i has `each` columns, one from each of as many parts of `width`; `together` rows share them.
static __global__ void sparse_column_kernel(int32_t *column, int64_t n, int each, int together, int width)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t group = i / each / together;
        const int f = (int)(i % each), part = width / each;
        column[i] = f * part + (int)(scramble((70ull << 40) + (uint64_t)(group * each + f)) % (uint32_t)part);
    }
}
static __global__ void widen_kernel(const bf16 *in, float *out, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x)
        out[i] = __bfloat162float(in[i]);
}
static void *as_type(bf16 *numbers, int64_t n, int f32)
{
    float *wide;
    if (!f32) return numbers;
    wide = (float *)device((size_t)n * 4, 0);
    widen_kernel<<<4096, 256>>>(numbers, wide, n);
    CUDA(cudaGetLastError());
    return wide;
}

static void free_sparse(sparse *p)
{
    if (p->matrix) cusparseDestroySpMat(p->matrix);
    if (p->matrix_x) cusparseDestroyDnMat(p->matrix_x);
    if (p->matrix_z) cusparseDestroyDnMat(p->matrix_z);
    if (p->matrix_grad_x) cusparseDestroyDnMat(p->matrix_grad_x);
    if (p->weight != p->half_weight) { cudaFree(p->weight); cudaFree(p->x); cudaFree(p->z); }
    cudaFree(p->half_weight); cudaFree(p->half_x); cudaFree(p->half_z);
    cudaFree(p->offset); cudaFree(p->column); cudaFree(p->grad_x); cudaFree(p->scratch);
    memset(p, 0, sizeof *p);
}

static void sparse_ok(sparse *p, cusparseStatus_t status) { if (status != CUSPARSE_STATUS_SUCCESS) p->refused = 1; }

// What is timed. How: 0 asks for the bytes of scratch memory, 1 prepares, 2 works.
static void sparse_work(sparse *p, int how, size_t *bytes)
{
    const cusparseOperation_t same = CUSPARSE_OPERATION_NON_TRANSPOSE, turned = CUSPARSE_OPERATION_TRANSPOSE;
    const cusparseSpMMAlg_t fastest = p->kind == SPARSE_BLOCKS ? CUSPARSE_SPMM_BLOCKED_ELL_ALG1 :
                                      p->kind == SPARSE_INPUT ? CUSPARSE_SPMM_ALG_DEFAULT : CUSPARSE_SPMM_CSR_ALG2;
    const cusparseOperation_t op = p->kind == SPARSE_INPUT ? turned : same;
    const cusparseDnMatDescr_t from = p->kind == SPARSE_INPUT ? p->matrix_z : p->matrix_x;
    const cusparseDnMatDescr_t to = p->kind == SPARSE_INPUT ? p->matrix_grad_x : p->matrix_z;
    const float one = 1, zero = 0;
    if (p->kind == SPARSE_WEIGHT) {
        if (how == 0) sparse_ok(p, cusparseSDDMM_bufferSize(G.sparse, same, turned, &one, p->matrix_z, p->matrix_x, &zero,
                                                            p->matrix, CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT, bytes));
        if (how == 1) sparse_ok(p, cusparseSDDMM_preprocess(G.sparse, same, turned, &one, p->matrix_z, p->matrix_x, &zero,
                                                            p->matrix, CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT, p->scratch));
        if (how == 2) sparse_ok(p, cusparseSDDMM(G.sparse, same, turned, &one, p->matrix_z, p->matrix_x, &zero, p->matrix,
                                                 CUDA_R_32F, CUSPARSE_SDDMM_ALG_DEFAULT, p->scratch));
        return;
    }
    if (how == 0) sparse_ok(p, cusparseSpMM_bufferSize(G.sparse, op, same, &one, p->matrix, from, &zero, to, CUDA_R_32F,
                                                       fastest, bytes));
    if (how == 1) sparse_ok(p, cusparseSpMM_preprocess(G.sparse, op, same, &one, p->matrix, from, &zero, to, CUDA_R_32F,
                                                       fastest, p->scratch));
    if (how == 2) sparse_ok(p, cusparseSpMM(G.sparse, op, same, &one, p->matrix, from, &zero, to, CUDA_R_32F, fastest,
                                            p->scratch));
}
static void sparse_call(void *context, int turn) { (void)turn; sparse_work((sparse *)context, 2, NULL); }

// 1 where cuSPARSE takes it, and then it has been done once.
static int make_sparse(sparse *p, sparse_kind kind, const shape *s, batch *b, int f32)
{
    const cudaDataType type = f32 ? CUDA_R_32F : CUDA_R_16BF;
    const int64_t n = s->L * s->F, each = s->F / SPARSE_BLOCK;
    size_t bytes = 0;
    memset(p, 0, sizeof *p);
    if (kind == SPARSE_WEIGHT && !f32) return 0;   // cuSPARSE 12.6 samples no bfloat16, and says so on the terminal
    p->kind = kind;
    p->L = s->L;
    p->F = s->F;
    p->D = s->D;
    p->half_weight = (bf16 *)device((size_t)n * 2, 0);
    p->half_x = (bf16 *)device((size_t)s->D * SAMPLES * 2, 0);
    p->half_z = (bf16 *)device((size_t)s->L * SAMPLES * 2, 0);
    p->grad_x = (float *)device((size_t)s->D * SAMPLES * 4, 0);
    fill(p->half_weight, n, 1 / sqrtf((float)s->F), 71);
    fill(p->half_z, s->L * SAMPLES, 1e-2f, 40);
    transpose_kernel<<<(unsigned)(s->D * SAMPLES + 255) / 256, 256>>>(b->dev_x, p->half_x, s->D);
    p->weight = as_type(p->half_weight, n, f32);
    p->x = as_type(p->half_x, (int64_t)s->D * SAMPLES, f32);
    p->z = as_type(p->half_z, s->L * SAMPLES, f32);
    if (kind == SPARSE_BLOCKS) {
        p->column = (int32_t *)device((size_t)(s->L / SPARSE_BLOCK * each) * 4, 0);
        sparse_column_kernel<<<4096, 256>>>(p->column, s->L / SPARSE_BLOCK * each, (int)each, 1, s->D / SPARSE_BLOCK);
        sparse_ok(p, cusparseCreateBlockedEll(&p->matrix, s->L, s->D, SPARSE_BLOCK, s->F, p->column, p->weight,
                                              CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, type));
    } else {
        p->offset = (int32_t *)device(((size_t)s->L + 1) * 4, 0);
        p->column = (int32_t *)device((size_t)n * 4, 0);
        sparse_offset_kernel<<<4096, 256>>>(p->offset, s->L + 1, s->F);
        sparse_column_kernel<<<4096, 256>>>(p->column, n, s->F, s->S, s->D);
        sparse_ok(p, cusparseCreateCsr(&p->matrix, s->L, s->D, n, p->offset, p->column, p->weight, CUSPARSE_INDEX_32I,
                                       CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, type));
    }
    CUDA(cudaGetLastError());
    sparse_ok(p, cusparseCreateDnMat(&p->matrix_x, s->D, SAMPLES, SAMPLES, p->x, type, CUSPARSE_ORDER_ROW));
    sparse_ok(p, cusparseCreateDnMat(&p->matrix_z, s->L, SAMPLES, SAMPLES, p->z, type, CUSPARSE_ORDER_ROW));
    sparse_ok(p, cusparseCreateDnMat(&p->matrix_grad_x, s->D, SAMPLES, SAMPLES, p->grad_x, CUDA_R_32F, CUSPARSE_ORDER_ROW));
    if (!p->refused) sparse_work(p, 0, &bytes);
    if (!p->refused) p->scratch = device(bytes, 0);
    if (!p->refused) sparse_work(p, 1, NULL);
    if (!p->refused) sparse_work(p, 2, NULL);
    CUDA(cudaDeviceSynchronize());
    if (!p->refused) return 1;
    free_sparse(p);
    return 0;
}
#endif

// ms 0: no cuSPARSE, refused, or its time is over. *f32: which numbers it took.
static timing time_sparse(sparse_kind kind, const shape *s, batch *b, int *f32)
{
    timing t = { 0, 0, 0, 0 };
#ifdef BENCH_CUSPARSE
    const double begin = now();
    sparse p;
    if (G.sparse_seconds < SPARSE_SECONDS && s->L <= 1000000)   // 2^31 entries are far, and so is a second a call
        for (*f32 = 0; *f32 < 2; (*f32)++)
            if (make_sparse(&p, kind, s, b, *f32)) {
                t = measure_few(sparse_call, &p, 5);
                if (p.refused) t.ms = 0;
                free_sparse(&p);
                break;
            }
    G.sparse_seconds += now() - begin;
#else
    (void)kind; (void)s; (void)b; (void)f32;
#endif
    return t;
}

// ---- >>checks ----------------------------------------------------------------------------------------------------------

// Any layer, written out label by label, and its operations as one would first write them, in double precision (on the
// device: the host is too slow for them): weight[offset[l]..] of label l, reading input[offset[l]..] of x [B, width].
// Biases are 0.
typedef struct plain {
    int64_t  L, n;
    int32_t  B, width;
    int64_t *offset;
    int32_t *input;
    float   *weight;                                   // on the host
    double  *z, *slope, *grad_weight, *grad_x, loss;   // on the host: [L][B], [L][B], [n], [B, width]
} plain;

static __global__ void plain_logits_kernel(int64_t L, int B, int width, const int64_t *offset, const int32_t *input,
                                           const float *weight, const float *x, double *z)
{
    const int64_t i = blockIdx.x * 256ll + threadIdx.x, l = i / B;
    const int b = (int)(i % B);
    double sum = 0;
    if (l >= L) return;
    for (int64_t k = offset[l]; k < offset[l + 1]; k++) sum += (double)weight[k] * x[(int64_t)b * width + input[k]];
    z[i] = sum;
}
static __global__ void plain_slopes_kernel(int64_t L, int B, const double *z, const int64_t *list, const int32_t *id,
                                           double *slope, double *loss)
{
    const int64_t i = blockIdx.x * 256ll + threadIdx.x, l = i / B;
    const int b = (int)(i % B);
    double y = 0;
    if (l >= L) return;
    for (int64_t k = list[b]; k < list[b + 1]; k++) if (id[k] == l) y = 1;
    slope[i] = (1 / (1 + exp(-z[i])) - y) / B;
    atomicAdd(loss, ((z[i] > 0 ? z[i] : 0) + log1p(exp(-fabs(z[i]))) - y * z[i]) / B);
}
static __global__ void plain_gradients_kernel(int64_t L, int B, int width, const int64_t *offset, const int32_t *input,
                                              const float *weight, const float *x, const double *slope, double *grad_weight,
                                              double *grad_x)
{
    const int64_t l = blockIdx.x;
    for (int64_t k = offset[l] + threadIdx.x; k < offset[l + 1]; k += blockDim.x) {
        double sum = 0;
        for (int b = 0; b < B; b++) {
            sum += slope[l * B + b] * x[(int64_t)b * width + input[k]];
            atomicAdd(&grad_x[(int64_t)b * width + input[k]], slope[l * B + b] * weight[k]);
        }
        grad_weight[k] = sum;
    }
}

static void *host_take(void *from, size_t bytes)   // a device array, freed there
{
    void *p = host(bytes);
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(from));
    return p;
}

// Fills in p's results. slope NULL: that of the loss, from the logits and the positives of `b`.
static void work_out(plain *p, const float *x, const batch *b, const double *slope)
{
    const size_t pairs = (size_t)p->L * (size_t)p->B * 8;
    int64_t *offset = (int64_t *)device_copy(p->offset, ((size_t)p->L + 1) * 8);
    int32_t *input = (int32_t *)device_copy(p->input, (size_t)p->n * 4);
    float *weight = (float *)device_copy(p->weight, (size_t)p->n * 4);
    float *dev_x = (float *)device_copy(x, (size_t)p->B * (size_t)p->width * 4);
    double *z = (double *)device(pairs, 0), *dz = slope ? (double *)device_copy(slope, pairs) : (double *)device(pairs, 0);
    double *grad_weight = (double *)device((size_t)p->n * 8, 0);
    double *grad_x = (double *)device((size_t)p->B * (size_t)p->width * 8, 0);
    double *loss = (double *)device(8, 0);
    const unsigned blocks = (unsigned)((p->L * p->B + 255) / 256);
    CUDA(cudaMemset(loss, 0, 8));
    CUDA(cudaMemset(grad_x, 0, (size_t)p->B * (size_t)p->width * 8));
    plain_logits_kernel<<<blocks, 256>>>(p->L, p->B, p->width, offset, input, weight, dev_x, z);
    if (!slope) plain_slopes_kernel<<<blocks, 256>>>(p->L, p->B, z, b->dev_offset, b->dev_id, dz, loss);
    plain_gradients_kernel<<<(unsigned)p->L, 128>>>(p->L, p->B, p->width, offset, input, weight, dev_x, dz, grad_weight,
                                                    grad_x);
    CUDA(cudaGetLastError());
    CUDA(cudaMemcpy(&p->loss, loss, 8, cudaMemcpyDeviceToHost));
    free(p->z); free(p->slope); free(p->grad_weight); free(p->grad_x);
    p->z = (double *)host_take(z, pairs);
    p->slope = (double *)host_take(dz, pairs);
    p->grad_weight = (double *)host_take(grad_weight, (size_t)p->n * 8);
    p->grad_x = (double *)host_take(grad_x, (size_t)p->B * (size_t)p->width * 8);
    cudaFree(offset); cudaFree(input); cudaFree(weight); cudaFree(dev_x); cudaFree(loss);
}
static void make_plain(plain *p, int64_t L, int64_t n, int32_t B, int32_t width)
{
    memset(p, 0, sizeof *p);
    p->L = L;
    p->n = n;
    p->B = B;
    p->width = width;
    p->offset = (int64_t *)host(((size_t)L + 1) * 8);
    p->input = (int32_t *)host((size_t)n * 4);
    p->weight = (float *)host((size_t)n * 4);
}
static void free_plain(plain *p)
{
    free(p->offset); free(p->input); free(p->weight); free(p->z); free(p->slope); free(p->grad_weight); free(p->grad_x);
}

// |got - want| / |want| over n numbers has to be within the limit.
static void judge(const char *who, const char *what, const double *got, const double *want, int64_t n, double limit)
{
    double off = 0, size = 0, error;
    int64_t i;
    for (i = 0; i < n; i++) { off += (got[i] - want[i]) * (got[i] - want[i]); size += want[i] * want[i]; }
    error = sqrt(off / (size > 0 ? size : 1));
    if (error <= limit) return;
    G.wrong++;
    printf("WRONG: %s: %s: relative error %.3g, allowed %.3g\n", who, what, error, limit);
}
static double *in_double(const float *from, int64_t n)
{
    double *out = (double *)host((size_t)n * 8);
    int64_t i;
    for (i = 0; i < n; i++) out[i] = (double)from[i];
    return out;
}
static double *device_in_double(const float *from, int64_t n)
{
    float *raw = (float *)host((size_t)n * 4);
    double *out;
    CUDA(cudaMemcpy(raw, from, (size_t)n * 4, cudaMemcpyDeviceToHost));
    out = in_double(raw, n);
    free(raw);
    return out;
}

// The labels named must have, by the plain logits, as large logits as the best have; and the scores must be theirs.
static void judge_best(const char *who, const plain *p, const int32_t *dev_id, const float *dev_score)
{
    const size_t n = (size_t)p->B * BEST;
    int32_t *id = (int32_t *)host(n * 4), b, k, j;
    double *score = device_in_double(dev_score, (int64_t)n), *want = (double *)host(n * 8), *own = (double *)host(n * 8);
    int64_t l;
    int ok = 1;
    CUDA(cudaMemcpy(id, dev_id, n * 4, cudaMemcpyDeviceToHost));
    for (b = 0; b < p->B; b++) {
        double *best = want + (int64_t)b * BEST;
        for (k = 0; k < BEST; k++) best[k] = -1e300;
        for (l = 0; l < p->L; l++) {
            double z = p->z[l * p->B + b];
            for (k = 0; k < BEST; k++) if (z > best[k]) { const double t = best[k]; best[k] = z; z = t; }
        }
        for (k = 0; k < BEST; k++) {
            const int32_t at = id[(int64_t)b * BEST + k];
            for (j = 0; j < k; j++) if (id[(int64_t)b * BEST + j] == at) ok = 0;
            if (at < 0 || at >= p->L) ok = 0;
            else own[(int64_t)b * BEST + k] = p->z[at * (int64_t)p->B + b];   // the true logit of the label that was named
        }
    }
    if (!ok) { G.wrong++; printf("WRONG: %s: top-k: ids\n", who); }
    judge(who, "top-k, labels", own, want, (int64_t)n, 1e-2);
    judge(who, "top-k, scores", score, want, (int64_t)n, 1e-2);
    free(id); free(score); free(want); free(own);
}

// The same shape with few labels: a last group as short as that of the whole, and several groups for each processor.
static shape few_labels(const shape *s)
{
    shape f = *s;
    f.head = s->head ? 256 + s->head % HEAD_GROUP : 0;
    f.L = f.head + (s->head < s->L ? 300 * s->S + (s->L - s->head) % s->S : 0);
    return f;
}

static void write_out(plain *p, const haste_layer *layer)
{
    int64_t l, n = 0, f, k;
    int i;
    for (i = 0; i < layer->block_count; i++) n += layer->block[i].labels * layer->block[i].fan_in;
    make_plain(p, layer->labels, n, p->B, layer->inputs);
    for (l = 0, k = 0; l < layer->labels; l++) {
        const int64_t slot = layer->slot_of[l];
        const haste_block *block = layer->block;
        while (slot >= block->first_slot + block->groups * block->group_size) block++;
        p->offset[l] = k;
        for (f = 0; f < block->fan_in; f++, k++) {
            const int64_t at = slot - block->first_slot, g = at / block->group_size, s = at % block->group_size;
            const int64_t place = (g * block->fan_in + f) * block->group_size + s;
            p->input[k] = block->begin + (block->index ? block->index[g * block->fan_in + f] : (int32_t)f);
            p->weight[k] = layer->dtype == HASTE_F32 ? ((const float *)block->weight)[place]
                                                     : from_bf16(((const uint16_t *)block->weight)[place]);
        }
    }
    p->offset[layer->labels] = k;
}

static void check_ours(const shape *whole, haste_cuda_path path)
{
    static shape done[64];
    static haste_cuda_path done_path[64];
    static int count;
    const shape s = few_labels(whole);
    haste_layer_options options = layer_options(&s);
    haste_layer back;
    char who[96];
    batch b;
    ours o;
    plain p, after;
    double *got, most = 0, loss;
    int64_t i, l, slots, pairs;
    int32_t j;
    for (j = 0; j < count; j++)
        if (done_path[j] == path && done[j].L == s.L && done[j].head == s.head && done[j].S == s.S && done[j].F == s.F &&
            done[j].D == s.D && done[j].B == s.B && done[j].kind == s.kind) return;
    if (count < 64) {
        done[count] = s;
        done_path[count++] = path;
    }
    snprintf(who, sizeof who, "haste (%s) L %lld S %d F %d D %d B %d%s%s", haste_cuda_path_text(path), (long long)s.L,
             (int)s.S, (int)s.F, (int)s.D, (int)s.B, s.kind & FLOAT32 ? " float32" : "",
             s.kind & MOMENTUM ? " momentum" : s.kind & ADAMW ? " AdamW" : "");
    make_batch(&b, s.L, s.D, s.B);
    make_ours(&o, &s, &b, 1, path);
    MUST(haste_layer_create(&back, &options, &failure));
    MUST(haste_cuda_download(&o.layer[0], &back, NULL, &failure));
    memset(&p, 0, sizeof p);
    memset(&after, 0, sizeof after);
    p.B = after.B = s.B;
    write_out(&p, &back);
    slots = o.layer[0].slots;
    pairs = s.L * s.B;

    // Forward, top-k, and the backward kernels from the logits as if they were gradients.
    o.logits = device((size_t)(slots * s.B) * 2, 0);
    CUDA(cudaMemset(o.logits, 0xff, (size_t)(slots * s.B) * 2));
    our_forward(&o, 0);
    our_best(&o, 0);
    MUST(haste_cuda_gradient_create(&o.gradient, &o.layer[0], &failure));
    our_weight_gradient(&o, 0);
    our_input_gradient(&o, 0);
    {
        float *z = host_numbers((const bf16 *)o.logits, slots * s.B);
        got = (double *)host((size_t)pairs * 8);
        for (l = 0; l < s.L; l++) for (j = 0; j < s.B; j++) got[l * s.B + j] = (double)z[j * slots + back.slot_of[l]];
        free(z);
    }
    work_out(&p, b.x, &b, got);
    judge(who, "forward", got, p.z, pairs, 6e-3);
    judge_best(who, &p, o.dev_best, o.dev_score);
    free(got);
    got = device_in_double(b.dev_grad_x, (int64_t)s.B * s.D);
    judge(who, "input gradient", got, p.grad_x, (int64_t)s.B * s.D, 1e-2);
    free(got);
    got = (double *)host((size_t)p.n * 8);
    for (i = 0; i < back.block_count; i++) {
        const haste_block *block = &back.block[i];
        double *grad = device_in_double(o.gradient.weight[i], block->groups * block->group_size * block->fan_in);
        int64_t f;
        for (l = 0; l < s.L; l++) {
            const int64_t slot = back.slot_of[l] - block->first_slot, at = slot % block->group_size;
            if (slot < 0 || slot >= block->labels) continue;
            for (f = 0; f < block->fan_in; f++)
                got[p.offset[l] + f] = grad[(slot / block->group_size * block->fan_in + f) * block->group_size + at];
        }
        free(grad);
    }
    judge(who, "weight gradient", got, p.grad_weight, p.n, 1e-2);
    free(got);

    // The step, with a rate at which the change of a weight is far above its last bit. Momentum: its first step is SGD's.
    work_out(&p, b.x, &b, NULL);
    for (i = 0; i < p.n; i++) if (fabs(p.grad_weight[i]) > most) most = fabs(p.grad_weight[i]);
    o.step.lr = (float)(.5 / most);
    CUDA(cudaMemset(b.dev_grad_x, 0, (size_t)s.B * (size_t)s.D * 4));
    our_step(&o, 0);
    CUDA(cudaMemcpy(&loss, b.dev_loss, 8, cudaMemcpyDeviceToHost));
    judge(who, "step: loss", &loss, &p.loss, 1, 1e-3);
    got = device_in_double(b.dev_grad_x, (int64_t)s.B * s.D);
    judge(who, "step: input gradient", got, p.grad_x, (int64_t)s.B * s.D, 1e-2);
    free(got);
    MUST(haste_cuda_download(&o.layer[0], &back, NULL, &failure));
    write_out(&after, &back);
    got = (double *)host((size_t)p.n * 8);
    for (i = 0; i < p.n; i++) got[i] = (double)(p.weight[i] - after.weight[i]) / (double)o.step.lr;
    judge(who, "step: change of weights", got, p.grad_weight, p.n, 2e-2);
    free(got);
    free_plain(&p);
    free_plain(&after);
    haste_layer_free(&back);
    free_ours(&o);
    free_batch(&b);
}

static void check_dense(int32_t D, int32_t K, int32_t B)
{
    const int64_t L = 2003;
    char who[96];
    batch b;
    dense d;
    plain p;
    float *weight, *x;
    double *got, loss;
    int64_t l, k;
    make_batch(&b, L, D, B);
    if (!make_dense(&d, &b, K, 1, 1)) { free_batch(&b); return; }
    snprintf(who, sizeof who, "dense D %d K %d B %d", (int)D, (int)K, (int)B);
    make_plain(&p, L, L * K, B, K);
    weight = host_numbers(d.weight[0], L * K);
    for (l = 0; l <= L; l++) p.offset[l] = l * K;
    for (k = 0; k < L * K; k++) { p.input[k] = (int32_t)(k % K); p.weight[k] = weight[k]; }
    dense_best(&d, 0);
    x = K == D ? b.x : host_numbers(d.h, (int64_t)B * K);
    work_out(&p, x, &b, NULL);
    judge_best(who, &p, d.dev_best, d.dev_score);
    d.lr = 1;
    dense_step(&d, 0);
    CUDA(cudaMemcpy(&loss, b.dev_loss, 8, cudaMemcpyDeviceToHost));
    judge(who, "step: loss", &loss, &p.loss, 1, 1e-3);
    got = device_in_double(K == D ? b.dev_grad_x : d.grad_h, (int64_t)B * K);
    judge(who, "step: input gradient", got, p.grad_x, (int64_t)B * K, 1e-2);
    free(got);
    // The gradients of the step are what its kernels left in z; the weight gradient from them is that of the plain layer.
    dense_weight_gradient(&d, 0);
    {
        float *grad = host_numbers(d.grad_weight, L * K);
        got = in_double(grad, L * K);
        judge(who, "weight gradient", got, p.grad_weight, L * K, 1e-2);
        free(grad);
        free(got);
    }
    if (d.failed) { G.wrong++; printf("WRONG: %s: cuBLAS refused a product\n", who); }
    free(weight);
    if (K != D) free(x);
    free_plain(&p);
    free_dense(&d);
    free_batch(&b);
}

static void check_per_label(int32_t D, int32_t F)
{
    const int64_t L = 48 * 1024 / 4 + 16;
    char who[96];
    batch b;
    per_label c;
    plain p;
    uint16_t *index;
    float *raw;
    double *got;
    int64_t i;
    int32_t d, s;
    make_batch(&b, L, D, SAMPLES);
    make_per_label(&c, &b, F);
    snprintf(who, sizeof who, "per-label D %d F %d", (int)D, (int)F);
    make_plain(&p, L, L * F, SAMPLES, D);
    index = (uint16_t *)host((size_t)(L * F) * 2);
    CUDA(cudaMemcpy(index, c.index[0], (size_t)(L * F) * 2, cudaMemcpyDeviceToHost));
    raw = host_numbers(c.weight[0], L * F);
    for (i = 0; i <= L; i++) p.offset[i] = i * F;
    for (i = 0; i < L * F; i++) { p.input[i] = index[i]; p.weight[i] = raw[i]; }
    free(raw);
    free(index);
    CUDA(cudaMemset(c.z, 0xff, (size_t)L * SAMPLES * 2));
    CUDA(cudaMemset(c.grad_weight, 0xff, (size_t)(L * F) * 2));
    per_label_forward(&c, 0);
    per_label_weight_gradient(&c, 0);
    per_label_input_gradient(&c, 0);
    raw = host_numbers(c.z, L * SAMPLES);
    got = in_double(raw, L * SAMPLES);
    free(raw);
    work_out(&p, b.x, &b, got);
    judge(who, "forward", got, p.z, L * SAMPLES, 6e-3);
    free(got);
    raw = host_numbers(c.grad_weight, L * F);
    got = in_double(raw, L * F);
    free(raw);
    judge(who, "weight gradient", got, p.grad_weight, L * F, 6e-3);
    free(got);
    raw = (float *)host((size_t)D * SAMPLES * 4);
    CUDA(cudaMemcpy(raw, c.grad_x, (size_t)D * SAMPLES * 4, cudaMemcpyDeviceToHost));
    got = (double *)host((size_t)D * SAMPLES * 8);
    for (d = 0; d < D; d++) for (s = 0; s < SAMPLES; s++) got[s * D + d] = (double)raw[d * SAMPLES + s];
    judge(who, "input gradient", got, p.grad_x, (int64_t)D * SAMPLES, 1e-3);
    free(raw);
    free(got);
    free_plain(&p);
    free_per_label(&c);
    free_batch(&b);
}

static void check_sparse(int32_t D, int32_t F)
{
#ifdef BENCH_CUSPARSE
    static const char *const name[4] = { "forward", "weight gradient", "input gradient", "forward, blocks" };
    const shape s = { "", 12 * 1024, 0, 32, F, D, SAMPLES, 0 };
    const int64_t n = s.L * F, pairs = s.L * SAMPLES;
    bf16 *numbers = (bf16 *)device((size_t)(n > pairs ? n : pairs) * 2, 0);
    float *weight, *slope;
    double *dz;
    batch b;
    int kind, f32;
    fill(numbers, n, 1 / sqrtf((float)F), 71);   // what make_sparse begins with
    weight = host_numbers(numbers, n);
    fill(numbers, pairs, 1e-2f, 40);
    slope = host_numbers(numbers, pairs);
    dz = in_double(slope, pairs);
    make_batch(&b, s.L, s.D, s.B);
    for (kind = 0; kind < 4; kind++) for (f32 = 0; f32 < 2; f32++) {
        char who[96];
        float *raw;
        double *got;
        int32_t *column, d, k;
        int64_t i, columns = kind == SPARSE_BLOCKS ? s.L / SPARSE_BLOCK : n;
        sparse c;
        plain p;
        if ((kind == SPARSE_BLOCKS && F != SPARSE_BLOCK) || !make_sparse(&c, (sparse_kind)kind, &s, &b, f32)) continue;
        snprintf(who, sizeof who, "cuSPARSE D %d F %d, %s", (int)D, (int)F, f32 ? "float32" : "bfloat16");
        make_plain(&p, s.L, n, SAMPLES, D);
        column = (int32_t *)host((size_t)columns * 4);
        CUDA(cudaMemcpy(column, c.column, (size_t)columns * 4, cudaMemcpyDeviceToHost));
        for (i = 0; i <= s.L; i++) p.offset[i] = i * F;
        for (i = 0; i < n; i++) {   // one block in a row of blocks
            p.input[i] = kind == SPARSE_BLOCKS ? column[i / F / SPARSE_BLOCK] * SPARSE_BLOCK + (int32_t)(i % F) : column[i];
            p.weight[i] = weight[i];
        }
        work_out(&p, b.x, &b, dz);
        if (kind == SPARSE_INPUT) {
            raw = (float *)host((size_t)D * SAMPLES * 4);
            CUDA(cudaMemcpy(raw, c.grad_x, (size_t)D * SAMPLES * 4, cudaMemcpyDeviceToHost));
            got = (double *)host((size_t)D * SAMPLES * 8);
            for (d = 0; d < D; d++) for (k = 0; k < SAMPLES; k++) got[k * D + d] = (double)raw[d * SAMPLES + k];
            judge(who, name[kind], got, p.grad_x, (int64_t)D * SAMPLES, 1e-2);
        } else {
            const void *from = kind == SPARSE_WEIGHT ? c.weight : c.z;
            const int64_t count = kind == SPARSE_WEIGHT ? n : pairs;
            if (f32) {
                raw = (float *)host((size_t)count * 4);
                CUDA(cudaMemcpy(raw, from, (size_t)count * 4, cudaMemcpyDeviceToHost));
            } else raw = host_numbers((const bf16 *)from, count);
            got = in_double(raw, count);
            judge(who, name[kind], got, kind == SPARSE_WEIGHT ? p.grad_weight : p.z, count, 1e-2);
        }
        free(got); free(raw); free(column);
        free_plain(&p);
        free_sparse(&c);
    }
    free(weight); free(slope); free(dz);
    cudaFree(numbers);
    free_batch(&b);
#else
    (void)D; (void)F;
#endif
}

// ---- >>tables ----------------------------------------------------------------------------------------------------------

// Above 3 GB one copy is far larger than any cache.
static int copies_for(double weight_bytes) { return weight_bytes > 3e9 ? 1 : COPIES; }

static void title(const char *text) { printf("\n%s\n", text); fflush(stdout); }

static int32_t rounded8(double k) { return (int32_t)((k + 4) / 8) * 8 < 8 ? 8 : (int32_t)((k + 4) / 8) * 8; }

// What is asked of the numbers: at most, or (1) at least. row NULL: of each row, the worst is kept. got 0: not run.
static struct ask { const char *table, *row, *what; double asked; int least; const char *unit; double got; } asks[] = {
    { "step", "A670K L 670,091 head S16 F64 B64", "step", .28, 0, "ms", 0 },
    { "step", "A670K L 670,091 head S16 F64 B128", "step", .45, 0, "ms", 0 },
    { "step", "L 670,208 S32 F64 D768 B128", "step", .30, 0, "ms", 0 },
    { "step", "A3M L 2,812,281 head S64 F128 B128", "step", 1.7, 0, "ms", 0 },
    { "step", "L 8,192,000 S32 F64 D384 B128", "step", 3.0, 0, "ms", 0 },
    { "kernels", "L 670,208 S16 F64 D768 B128", "forward", .13, 0, "ms", 0 },
    { "kernels", "L 670,208 S16 F64 D768 B128", "grad W", .12, 0, "ms", 0 },
    { "kernels", "L 670,208 S16 F64 D768 B128", "grad x", .20, 0, "ms", 0 },
    { "kernels", "L 670,208 S32 F64 D768 B128", "forward", .10, 0, "ms", 0 },
    { "kernels", "L 670,208 S32 F64 D768 B128", "grad W", .09, 0, "ms", 0 },
    { "kernels", "L 670,208 S32 F64 D768 B128", "grad x", .12, 0, "ms", 0 },
    { "momentum", NULL, "more than SGD, in velocities moved", 1.15, 0, "x", 0 },
    { "topk", NULL, "B 1, weights read (worst row)", 75, 1, "% of copy", 0 },
    { "order", NULL, "B 1, weights read (worst order)", 75, 1, "% of copy", 0 },
    { "rewire", NULL, "growth by gradient (worst row)", 10, 0, "steps", 0 },
};

static void answer(const char *table, const char *row, const char *what, double got)
{
    size_t i;
    for (i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        struct ask *a = &asks[i];
        if (strcmp(a->table, table) || (a->row && (strcmp(a->row, row) || strcmp(a->what, what)))) continue;
        if (a->got == 0 || (a->least ? got < a->got : got > a->got)) a->got = got;
    }
}

static void print_asks(void)
{
    size_t i;
    printf("%-36s %-36s %10s %10s\n", "", "", "asked", "got");
    for (i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        const struct ask *a = &asks[i];
        char got[32] = "not run";
        const char *verdict = "";
        if (a->got > 0) {
            snprintf(got, sizeof got, "%.3g", a->got);
            verdict = (a->least ? a->got >= a->asked : a->got <= a->asked) ? "" : "  MISSED";
        }
        printf("%-36s %-36s %s%7.3g %10s %s%s\n", a->row ? a->row : a->table, a->what, a->least ? ">= " : "<= ", a->asked,
               got, a->unit, verdict);
    }
}

// What memory a step takes and what rewiring costs is seen beside the whole steps, and printed after them.
static char memory_rows[16][256], rewire_rows[16][256];
static int memory_count, rewire_count;

// What the planner says of a shape, beside what the calls then take, byte for byte.
static void planned_and_taken(const shape *s, batch *b)
{
    haste_layer_options options = layer_options(s);
    haste_cuda_workspace_options scratch = scratch_options(s->B);
    haste_cuda_options choose;
    haste_cuda_plan plan;
    haste_cuda_layer layer;
    haste_cuda_workspace work;
    haste_cuda_gradient gradient;
    haste_rewire_options rewire;
    const haste_cuda_lists positives = lists_of(b);
    size_t before, pinned, took[5], planned[5];
    int64_t moved;
    int i, n;
    memset(&choose, 0, sizeof choose);
    memset(&rewire, 0, sizeof rewire);
    choose.batch = s->B;
    rewire.share = .1f;
    rewire.growth = HASTE_GROW_GRADIENT;
    MUST(haste_cuda_plan_bytes(&options, &scratch, &choose, &plan, &failure));
    before = M.held;
    MUST(haste_cuda_layer_create(&layer, &options, &choose, NULL, &failure));
    took[0] = M.held - before;
    before = M.held;
    pinned = M.pinned;
    MUST(haste_cuda_workspace_create(&work, &layer, &scratch, &failure));
    took[1] = M.held - before;
    took[2] = M.pinned - pinned;
    before = M.held;
    forget_most();
    MUST(haste_cuda_rewire(&layer, &work, &rewire, b->dev_x, HASTE_CUDA_F32, b->B, &positives, &moved, NULL, &failure));
    CUDA(cudaDeviceSynchronize());
    took[3] = M.most - before;
    before = M.held;
    MUST(haste_cuda_gradient_create(&gradient, &layer, &failure));
    took[4] = M.held - before;
    haste_cuda_gradient_free(&gradient);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&layer);
    planned[0] = plan.layer;
    planned[1] = plan.workspace;
    planned[2] = plan.pinned;
    planned[3] = plan.rewire;
    planned[4] = plan.gradient;
    n = snprintf(memory_rows[memory_count % 16], sizeof memory_rows[0], "%-40s", s->name);
    for (i = 0; i < 5; i++) {
        n += snprintf(memory_rows[memory_count % 16] + n, sizeof memory_rows[0] - (size_t)n, " %10.2f %10.2f",
                      (double)planned[i] / 1e6, (double)took[i] / 1e6);
        if (planned[i] == took[i]) continue;
        G.wrong++;
        printf("WRONG: %s: memory, part %d: planned %zu bytes, took %zu\n", s->name, i, planned[i], took[i]);
    }
    snprintf(memory_rows[memory_count++ % 16] + n, sizeof memory_rows[0] - (size_t)n, " %10.1f",
             (double)s->L * (2.0 * s->D + 2.0 * s->B + 4) / 1e6);
}

static double timed_rewire(ours *o, int growth)
{
    const haste_cuda_lists positives = lists_of(o->b);
    haste_rewire_options options;
    float ms[3];
    double begin;
    int64_t moved;
    int i;
    memset(&options, 0, sizeof options);
    options.share = .1f;
    options.growth = growth ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM;
    for (i = 0; i < 3; i++) {
        CUDA(cudaDeviceSynchronize());
        begin = now();
        MUST(haste_cuda_rewire(&o->layer[i % o->copies], &o->work, &options, o->b->dev_x, HASTE_CUDA_F32, o->b->B,
                               &positives, &moved, NULL, &failure));
        CUDA(cudaDeviceSynchronize());
        ms[i] = (float)((now() - begin) * 1e3);
    }
    qsort(ms, 3, sizeof ms[0], ascending);
    return (double)ms[1];
}

static void whole_steps(const shape *list, int n, const char *table, int extras)
{
    int i;
    printf("%-40s %9s %8s %8s %7s  %-18s %-18s  %s\n", "", "haste ms", "(least)", "floor", "x floor", "dense ms",
           "bottleneck ms", "path");
    for (i = 0; i < n; i++) {
        const shape *s = &list[i];
        const double weights = weights_of(s), L = (double)s->L, fan_in = weights / L;
        const double floor = floor_ms(weights * 4 + index_bytes(s) + L * 8, 6 * weights * s->B);
        const int32_t K = rounded8(fan_in);
        const int copies = copies_for(weights * 2);
        timing t, t_dense, t_narrow, random, gradient;
        size_t free_bytes, total;
        char path[64], one[40], two[40];
        batch b;
        ours o;
        if (late(s->name)) continue;
        memset(&random, 0, sizeof random);
        memset(&gradient, 0, sizeof gradient);
        check_ours(s, HASTE_CUDA_AUTO);
        make_batch(&b, s->L, s->D, s->B);
        if (extras) planned_and_taken(s, &b);
        make_ours(&o, s, &b, copies, HASTE_CUDA_AUTO);
        t = measure(our_step, &o);
        path_of(&o, path);
        if (extras) {
            random.ms = timed_rewire(&o, 0);
            gradient.ms = timed_rewire(&o, 1);
            snprintf(rewire_rows[rewire_count++ % 16], sizeof rewire_rows[0], "%-40s %10.3f %8.1f %12.3f %8.1f", s->name,
                     random.ms, random.ms / t.ms, gradient.ms, gradient.ms / t.ms);
            random.runs = gradient.runs = 3;
            record("rewire", s->name, "haste", "random", s->L, s->D, fan_in, s->S, s->B, random, 0, path);
            record("rewire", s->name, "haste", "gradient", s->L, s->D, fan_in, s->S, s->B, gradient, 0, path);
            answer("rewire", s->name, "gradient", gradient.ms / t.ms);
        }
        free_ours(&o);
        CUDA(cudaMemGetInfo(&free_bytes, &total));
        memset(&t_dense, 0, sizeof t_dense);
        if (L * (2.0 * s->D + 2.0 * s->B + 16) < .97 * (double)free_bytes)
            t_dense = time_dense(dense_step, &b, s->D, copies_for(L * s->D * 2));
        t_narrow = time_dense(dense_step, &b, K, copies_for(L * K * 2));
        printf("%-40s %9.4f %8.4f %8.4f %7.2f  %s %s  %s\n", s->name, t.ms, t.least, floor, t.ms / floor,
               beside(one, t_dense, t.ms), beside(two, t_narrow, t.ms), path);
        fflush(stdout);
        record(table, s->name, "haste", "step", s->L, s->D, fan_in, s->S, s->B, t, floor, path);
        answer(table, s->name, "step", t.ms);
        record(table, s->name, "dense", "step", s->L, s->D, s->D, 0, s->B, t_dense,
               floor_ms(L * s->D * 4, 6 * L * s->D * s->B), "cuBLAS");
        record(table, s->name, "bottleneck", "step", s->L, s->D, K, 0, s->B, t_narrow, floor_ms(L * K * 4, 6 * L * K * s->B),
               "cuBLAS");
        free_batch(&b);
    }
}

// Whole steps of layers made for each batch size: milliseconds, microseconds a sample, and the paths by their first letters.
static void batch_sizes(const shape *list, int n)
{
    static const int32_t sizes[] = { 1, 8, 32, 64, 128, 129, 256, 512, 1024, 2048, 4096 };
    const int count = (int)(sizeof sizes / sizeof sizes[0]);
    int i, k;
    printf("%-32s", "");
    for (k = 0; k < count; k++) printf("        B %-8d", (int)sizes[k]);
    printf("\n");
    for (i = 0; i < n; i++) {
        printf("%-32s", list[i].name);
        for (k = 0; k < count; k++) {
            shape s = list[i];
            const double weights = weights_of(&s);
            timing t;
            char path[64], letters[8];
            const char *plus;
            batch b;
            ours o;
            s.B = sizes[k];
            if (late(s.name)) break;
            if (s.B <= 512) check_ours(&s, HASTE_CUDA_AUTO);
            make_batch(&b, s.L, s.D, s.B);
            make_ours(&o, &s, &b, copies_for(weights * 2), HASTE_CUDA_AUTO);
            t = measure(our_step, &o);
            path_of(&o, path);
            free_ours(&o);
            free_batch(&b);
            plus = strchr(path, '+');
            snprintf(letters, sizeof letters, "%c%c", path[0], plus ? plus[1] : ' ');
            printf(" %7.3f (%5.1f)%s", t.ms, t.ms * 1e3 / s.B, letters);
            fflush(stdout);
            record("batch", s.name, "haste", "step", s.L, s.D, weights / (double)s.L, s.S, s.B, t,
                   floor_ms(weights * 4 + index_bytes(&s) + (double)s.L * 8, 6 * weights * s.B), path);
        }
        printf("\n");
    }
}

static timing time_kernel(work_call call, const shape *s, batch *b, haste_cuda_path path, char *text)
{
    ours o;
    timing t;
    make_ours(&o, s, b, copies_for(weights_of(s) * 2), path);
    o.logits = device((size_t)(o.layer[0].slots * s->B) * 2, 0);
    fill((bf16 *)o.logits, o.layer[0].slots * s->B, 1e-2f, 40);
    if (call == our_weight_gradient) MUST(haste_cuda_gradient_create(&o.gradient, &o.layer[0], &failure));
    t = measure(call, &o);
    path_of(&o, text);
    free_ours(&o);
    return t;
}

// Forward, weight gradient and input gradient, each alone.
static void kernels_alone(const shape *list, int n, const char *table, int full_dense, int fan_in)
{
    static const char *const operation[3] = { "forward", "grad W", "grad x" };
    static const work_call mine[3] = { our_forward, our_weight_gradient, our_input_gradient };
    static const work_call blas[3] = { dense_forward, dense_weight_gradient, dense_input_gradient };
    static const work_call single[3] = { per_label_forward, per_label_weight_gradient, per_label_input_gradient };
    static const sparse_kind sparse_operation[3] = { SPARSE_FORWARD, SPARSE_WEIGHT, SPARSE_INPUT };
    const timing none = { 0, 0, 0, 0 };
    int i, j;
    printf("%-28s %-7s %9s %9s %8s %7s  %-18s %-18s %-18s", "", "", "haste ms", "general", "floor", "x floor", "dense ms",
           "bottleneck ms", "per-label ms");
    puts(fan_in ? "  cuSPARSE ms            blocks ms" : "");
    for (i = 0; i < n; i++) {
        const shape *s = &list[i];
        const double weights = weights_of(s), grads = 2.0 * s->B * (double)s->L, flops = 2 * weights * s->B;
        const int32_t K = rounded8(s->F);   // cuBLAS is slow with others
        const double read = index_bytes(s) + grads;
        const double bytes[3] = { weights * 2 + read, weights * 4 + read, weights * 2 + read };
        batch b;
        per_label c;
        char path[64], one[40], two[40], three[40], four[40], five[40];
        if (late(s->name)) continue;
        check_ours(s, HASTE_CUDA_AUTO);
        check_ours(s, HASTE_CUDA_GENERAL);
        make_batch(&b, s->L, s->D, s->B);
        for (j = 0; j < 3; j++) {
            timing t, t_general, t_dense = none, t_narrow, t_single = none, t_sparse = none, t_blocks = none;
            int f32 = 0, blocks_f32 = 0;
            double floor, ours_ms;
            t_general = time_kernel(mine[j], s, &b, HASTE_CUDA_GENERAL, path);
            t = time_kernel(mine[j], s, &b, HASTE_CUDA_AUTO, path);
            ours_ms = t.ms < t_general.ms ? t.ms : t_general.ms;
            if (full_dense) t_dense = time_dense(blas[j], &b, s->D, copies_for((double)s->L * s->D * 2));
            t_narrow = time_dense(blas[j], &b, K, copies_for((double)s->L * K * 2));
            if (fan_in && s->B == SAMPLES && STAGE_PAIRS % s->F == 0 &&
                (size_t)s->D * 128 + STAGES * STAGE_BYTES <= G.shared) {
                make_per_label(&c, &b, s->F);
                fill(c.z, s->L * SAMPLES, 1e-2f, 40);
                t_single = measure(single[j], &c);
                free_per_label(&c);
            }
            if (fan_in && s->B == SAMPLES) {
                t_sparse = time_sparse(sparse_operation[j], s, &b, &f32);
                if (j == 0 && s->F % SPARSE_BLOCK == 0) t_blocks = time_sparse(SPARSE_BLOCKS, s, &b, &blocks_f32);
            }
            floor = floor_ms(bytes[j], flops);
            printf("%-28s %-7s %9.4f %9.4f %8.4f %7.2f  %s %s %s", j ? "" : s->name, operation[j], t.ms, t_general.ms,
                   floor, ours_ms / floor, beside(one, t_dense, ours_ms), beside(two, t_narrow, ours_ms),
                   beside(three, t_single, ours_ms));
            if (fan_in) printf(" %s %s %s %s", beside(four, t_sparse, ours_ms), t_sparse.ms > 0 && f32 ? "f32" : "   ",
                               beside(five, t_blocks, ours_ms), t_blocks.ms > 0 && blocks_f32 ? "f32" : "");
            puts("");
            answer(table, s->name, operation[j], ours_ms);
            record(table, s->name, "haste", operation[j], s->L, s->D, s->F, s->S, s->B, t, floor, path);
            record(table, s->name, "haste", operation[j], s->L, s->D, s->F, s->S, s->B, t_general, floor, "general");
            record(table, s->name, "dense", operation[j], s->L, s->D, s->D, 0, s->B, t_dense, 0, "cuBLAS");
            record(table, s->name, "bottleneck", operation[j], s->L, s->D, K, 0, s->B, t_narrow, 0, "cuBLAS");
            record(table, s->name, "per-label", operation[j], s->L, s->D, s->F, 1, s->B, t_single, 0, "");
            record(table, s->name, "cuSPARSE", operation[j], s->L, s->D, s->F, s->S, s->B, t_sparse, 0,
                   f32 ? "CSR float32" : "CSR bfloat16");
            record(table, s->name, "blocks", operation[j], s->L, s->D, s->F, SPARSE_BLOCK, s->B, t_blocks, 0,
                   blocks_f32 ? "blocked-ELL float32" : "blocked-ELL bfloat16");
        }
        fflush(stdout);
        free_batch(&b);
    }
}

static void best_labels(const int64_t *labels, int n)
{
    static const int32_t sizes[3] = { 1, 32, 256 };
    int i, j;
    printf("%-32s %9s %9s %8s %7s %14s  %-18s\n", "", "haste ms", "general", "floor", "x floor", "weights, copy",
           "dense ms");
    for (i = 0; i < n; i++) for (j = 0; j < 3; j++) {
        shape s = { "", 0, 0, 32, 64, 768, 0, 0 };
        char row[64], one[40], path[64];
        double weights, bytes, flops, floor, ours_ms;
        timing t, t_general, t_dense;
        batch b;
        ours o;
        s.L = labels[i];
        s.B = sizes[j];
        weights = weights_of(&s);
        bytes = weights * 2 + index_bytes(&s);
        flops = 2 * weights * s.B;
        snprintf(row, sizeof row, "L %lld, B %d", (long long)s.L, (int)s.B);
        if (late(row)) continue;
        check_ours(&s, HASTE_CUDA_AUTO);
        check_ours(&s, HASTE_CUDA_GENERAL);
        make_batch(&b, s.L, s.D, s.B);
        make_ours(&o, &s, &b, copies_for(weights * 2), HASTE_CUDA_GENERAL);
        t_general = measure(our_best, &o);
        free_ours(&o);
        make_ours(&o, &s, &b, copies_for(weights * 2), HASTE_CUDA_AUTO);
        t = measure(our_best, &o);
        path_of(&o, path);
        free_ours(&o);
        ours_ms = t.ms < t_general.ms ? t.ms : t_general.ms;
        floor = floor_ms(bytes, flops);
        t_dense = time_dense(dense_best, &b, s.D, copies_for((double)s.L * s.D * 2));
        printf("%-32s %9.4f %9.4f %8.4f %7.2f %13.0f%%  %s\n", row, t.ms, t_general.ms, floor, ours_ms / floor,
               100 * weights * 2 / (ours_ms * 1e-3) / G.copy, beside(one, t_dense, ours_ms));
        fflush(stdout);
        record("topk", row, "haste", "top-5", s.L, s.D, s.F, s.S, s.B, t, floor, path);
        if (s.B == 1) answer("topk", row, "", 100 * weights * 2 / (ours_ms * 1e-3) / G.copy);
        record("topk", row, "haste", "top-5", s.L, s.D, s.F, s.S, s.B, t_general, floor, "general");
        bytes = 2.0 * (double)s.L * s.D;
        record("topk", row, "dense", "top-5", s.L, s.D, s.D, 0, s.B, t_dense, floor_ms(bytes, bytes * s.B), "cuBLAS");
        free_batch(&b);
    }
}

// Optimizers beside SGD: what they add to a step, and how often their states' bytes, read and written, would go into that time.
static void optimizer_steps(const shape *list, int n)
{
    enum { RULES = 4 };
    static const struct { const char *name; int kind; double moved; } rules[RULES] = {   // moved: bytes of a weight's state
        { "SGD", 0, 0 }, { "momentum", MOMENTUM, 4 }, { "AdamW", ADAMW, 8 }, { "AdamW f32", ADAMW | WIDE_STATE, 16 } };
    int i, k;
    printf("%-36s", "");
    for (k = 0; k < RULES; k++) printf(k ? " %10s ms (x bytes)" : " %10s ms", rules[k].name);
    printf("  path\n");
    for (i = 0; i < n; i++) {
        shape with = list[i];
        const double weights = weights_of(&with);
        timing t[RULES];
        char path[64];
        batch b;
        if (late(with.name)) continue;
        make_batch(&b, with.L, with.D, with.B);
        printf("%-36s", with.name);
        for (k = 0; k < RULES; k++) {
            const double moved = rules[k].moved * weights / G.copy * 1e3;
            ours o;
            with.kind = list[i].kind | rules[k].kind;
            if (!(with.kind & ADAMW)) check_ours(&with, HASTE_CUDA_AUTO);   // its first steps are signs
            make_ours(&o, &with, &b, copies_for(weights * 2), HASTE_CUDA_AUTO);
            o.step.momentum = .9f;
            t[k] = measure(our_step, &o);
            path_of(&o, path);
            free_ours(&o);
            record("optimizers", with.name, "haste", rules[k].name, with.L, with.D, weights / (double)with.L, with.S, with.B,
                   t[k], moved, path);
            if (k) printf(" %13.4f (%5.2f)", t[k].ms, (t[k].ms - t[0].ms) / moved);
            else printf(" %13.4f", t[k].ms);
            if (k == 1) answer("momentum", with.name, "", (t[1].ms - t[0].ms) / moved);
        }
        free_batch(&b);
        printf("  %s\n", path);
        fflush(stdout);
    }
}

// Steps whose positives are spread evenly, and ones with the most of them among 400 labels, as frequent labels are.
static void skewed_steps(const shape *list, int n)
{
    static const int32_t sizes[] = { 128, 1024 };
    int i, k, skewed;
    printf("%-40s %6s %10s %10s %8s  %s\n", "", "B", "even ms", "skewed ms", "ratio", "path");
    for (i = 0; i < n; i++) for (k = 0; k < 2; k++) {
        shape s = list[i];
        timing t[2];
        char path[64];
        batch b;
        s.B = sizes[k];
        if (late(s.name)) continue;
        make_batch(&b, s.L, s.D, s.B);
        for (skewed = 0; skewed < 2; skewed++) {
            ours o;
            if (skewed) make_skewed(&b);
            make_ours(&o, &s, &b, copies_for(weights_of(&s) * 2), HASTE_CUDA_AUTO);
            t[skewed] = measure(our_step, &o);
            path_of(&o, path);
            free_ours(&o);
            record("skew", s.name, "haste", skewed ? "skewed" : "even", s.L, s.D, weights_of(&s) / (double)s.L, s.S, s.B,
                   t[skewed], 0, path);
        }
        free_batch(&b);
        printf("%-40s %6d %10.4f %10.4f %8.3f  %s\n", s.name, (int)s.B, t[0].ms, t[1].ms, t[1].ms / t[0].ms, path);
        fflush(stdout);
    }
}

// Microseconds of the host for a call.
static double host_us(work_call call, void *context)
{
    float us[21];
    int i;
    CUDA(cudaDeviceSynchronize());
    for (i = 0; i < 21; i++) {
        const double begin = now();
        call(context, i);
        us[i] = (float)((now() - begin) * 1e6);
        CUDA(cudaDeviceSynchronize());
    }
    qsort(us, 21, sizeof us[0], ascending);
    return (double)us[10];
}

// A step as a call, and as a graph whose learning rate and number of steps lie on the device.
static void graph_steps(const shape *list, int n)
{
    int i, k;
    printf("%-40s %9s %9s %12s %12s  %s\n", "", "call ms", "graph ms", "call host us", "graph host us", "path");
    for (i = 0; i < n; i++) {
        const shape *s = &list[i];
        timing t[2];
        double us[2];
        char path[64];
        void *numbers;
        batch b;
        ours o;
        if (late(s->name)) continue;
        make_batch(&b, s->L, s->D, s->B);
        make_ours(&o, s, &b, copies_for(weights_of(s) * 2), HASTE_CUDA_AUTO);
        path_of(&o, path);
        t[0] = measure(our_step, &o);
        us[0] = host_us(our_step, &o);
        numbers = device(16, 0);
        CUDA(cudaMemset(numbers, 0, 16));   // steps made, 0; a learning rate of 0 takes as long as any
        o.work.live.step = (int64_t *)numbers;
        o.work.live.lr = (const float *)numbers + 2;
        CUDA(cudaStreamCreateWithFlags(&o.stream, cudaStreamNonBlocking));
        for (k = 0; k < o.copies; k++) {
            cudaGraph_t graph;
            CUDA(cudaStreamBeginCapture(o.stream, cudaStreamCaptureModeThreadLocal));
            our_step(&o, k);
            CUDA(cudaStreamEndCapture(o.stream, &graph));
            CUDA(cudaGraphInstantiate(&o.graph[k], graph, 0));
            CUDA(cudaGraphDestroy(graph));
        }
        t[1] = measure(our_replay, &o);
        us[1] = host_us(our_replay, &o);
        for (k = 0; k < 2; k++)
            record("graph", s->name, "haste", k ? "graph" : "call", s->L, s->D, weights_of(s) / (double)s->L, s->S, s->B,
                   t[k], 0, path);
        printf("%-40s %9.4f %9.4f %12.1f %12.1f  %s\n", s->name, t[0].ms, t[1].ms, us[0], us[1], path);
        fflush(stdout);
        for (k = 0; k < o.copies; k++) CUDA(cudaGraphExecDestroy(o.graph[k]));
        CUDA(cudaStreamDestroy(o.stream));
        free_ours(&o);
        cudaFree(numbers);
        free_batch(&b);
    }
}

// Shapes that fill no whole tiles: steps and logits, and the time of an operation, padding counted, beside the first's.
static void odd_shapes(const shape *list, int n)
{
    double first[2] = { 0, 0 };
    int i, k;
    printf("%-28s %9s %9s %10s %9s %10s  %s\n", "", "padding", "step ms", "x padded", "fwd ms", "x padded", "path");
    for (i = 0; i < n; i++) {
        const shape *s = &list[i];
        const double padded = (double)((s->L + s->S - 1) / s->S * rounded16(s->S)) * (double)rounded16(s->F) *
                              (double)rounded16(s->B);
        timing t[2];
        char path[64];
        batch b;
        ours o;
        if (late(s->name)) continue;
        check_ours(s, HASTE_CUDA_AUTO);
        make_batch(&b, s->L, s->D, s->B);
        make_ours(&o, s, &b, copies_for(weights_of(s) * 2), HASTE_CUDA_AUTO);
        o.logits = device((size_t)(o.layer[0].slots * s->B) * 2, 0);
        t[0] = measure(our_step, &o);
        t[1] = measure(our_forward, &o);
        path_of(&o, path);
        free_ours(&o);
        free_batch(&b);
        for (k = 0; k < 2; k++) if (first[k] == 0) first[k] = t[k].ms / padded;
        printf("%-28s %9.2f %9.4f %10.2f %9.4f %10.2f  %s\n", s->name, padded / (weights_of(s) * s->B), t[0].ms,
               t[0].ms / padded / first[0], t[1].ms, t[1].ms / padded / first[1], path);
        fflush(stdout);
        for (k = 0; k < 2; k++)
            record("odd", s->name, "haste", k ? "forward" : "step", s->L, s->D, s->F, s->S, s->B, t[k], 0, path);
    }
}

// Top-k of one sample from each stored order of weights.
// Has this build, on this device, the path for such a layer?
static int has_path(const shape *s, haste_cuda_path path)
{
    const shape few = few_labels(s);
    haste_layer_options options = layer_options(&few);
    haste_cuda_options choose;
    haste_cuda_layer layer;
    memset(&choose, 0, sizeof choose);
    choose.batch = s->B;
    choose.path[0] = path;
    if (haste_cuda_layer_create(&layer, &options, &choose, NULL, &failure) != HASTE_OK) return 0;
    haste_cuda_layer_free(&layer);
    return 1;
}

static void best_of_orders(int64_t L)
{
    static const struct { const char *name; haste_cuda_path path; shape s; } order[] = {
        { "narrow, S 16, D 384", HASTE_CUDA_NARROW, { "", 0, 0, 16, 64, 384, 1, 0 } },
        { "wide, S 32, D 768", HASTE_CUDA_WIDE, { "", 0, 0, 32, 64, 768, 1, 0 } },
        { "general, S 32, D 768", HASTE_CUDA_GENERAL, { "", 0, 0, 32, 64, 768, 1, 0 } },
        { "general, S 32, D 768, float32", HASTE_CUDA_GENERAL, { "", 0, 0, 32, 64, 768, 1, FLOAT32 } },
    };
    int i;
    printf("%-40s %9s %8s %7s %14s\n", "", "haste ms", "floor", "x floor", "weights, copy");
    for (i = 0; i < (int)(sizeof order / sizeof order[0]); i++) {
        shape s = order[i].s;
        double bytes, floor, share;
        timing t;
        batch b;
        ours o;
        if (late(order[i].name)) continue;
        s.L = L;
        if (!has_path(&s, order[i].path)) { printf("%-40s not in this build\n", order[i].name); continue; }
        bytes = weights_of(&s) * (s.kind & FLOAT32 ? 4 : 2);
        check_ours(&s, order[i].path);
        make_batch(&b, s.L, s.D, s.B);
        make_ours(&o, &s, &b, copies_for(bytes), order[i].path);
        t = measure(our_best, &o);
        free_ours(&o);
        free_batch(&b);
        floor = floor_ms(bytes + index_bytes(&s), 2 * weights_of(&s));
        share = 100 * bytes / (t.ms * 1e-3) / G.copy;
        printf("%-40s %9.4f %8.4f %7.2f %13.0f%%\n", order[i].name, t.ms, floor, t.ms / floor, share);
        fflush(stdout);
        record("order", order[i].name, "haste", "top-5", s.L, s.D, s.F, s.S, s.B, t, floor,
               haste_cuda_path_text(order[i].path));
        answer("order", order[i].name, "", share);
    }
}

// ---- >>ceilings --------------------------------------------------------------------------------------------------------

typedef struct two_buffers { char *from, *to; size_t bytes; } two_buffers;
static void copy_call(void *context, int turn)
{
    two_buffers *c = (two_buffers *)context;
    (void)turn;
    CUDA(cudaMemcpyAsync(c->to, c->from, c->bytes, cudaMemcpyDeviceToDevice));
}
#ifdef BENCH_CUBLAS
static void square_call(void *context, int turn)
{
    dense *d = (dense *)context;
    (void)turn;
    product(d, 0, 0, 8192, 8192, 8192, 1, d->weight[0], 8192, d->weight[1], 8192, 0, d->z, 0, 8192);
}
#endif

static void ceilings(void)
{
    two_buffers c;
    c.bytes = (size_t)1 << (G.quick ? 28 : 31);
    c.from = (char *)device(c.bytes, 0);
    c.to = (char *)device(c.bytes, 0);
    fill((bf16 *)c.from, (int64_t)(c.bytes / 2), 1, 1);
    G.copy = 2 * (double)c.bytes / (measure(copy_call, &c).ms * 1e-3);
    cudaFree(c.from);
    cudaFree(c.to);
#ifdef BENCH_CUBLAS
    {
        const int64_t n = 8192ll * 8192;
        dense d;
        int i;
        timing t;
        memset(&d, 0, sizeof d);
        for (i = 0; i < 2; i++) {
            d.weight[i] = (bf16 *)device((size_t)n * 2, 0);
            fill(d.weight[i], n, 1, (uint64_t)(2 + i));
        }
        d.z = (bf16 *)device((size_t)n * 2, 0);
        measure(square_call, &d);   // once more than needed: the rate falls when the device is warm
        t = measure(square_call, &d);
        G.products = d.failed ? 0 : 2.0 * 8192 * 8192 * 8192 / (t.ms * 1e-3);
        for (i = 0; i < 2; i++) cudaFree(d.weight[i]);
        cudaFree(d.z);
    }
#endif
}

static void print_machine(FILE *out, const char *before)
{
    char date[64], line[256] = "";
    struct cudaDeviceProp about;
    time_t at = time(NULL);
    int number = 0, driver = 0, runtime = 0;
    FILE *smi;
    CUDA(cudaGetDevice(&number));
    CUDA(cudaGetDeviceProperties(&about, number));
    CUDA(cudaDriverGetVersion(&driver));
    CUDA(cudaRuntimeGetVersion(&runtime));
    smi = popen("nvidia-smi --query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit --format=csv,noheader "
                "2>/dev/null", "r");
    if (smi) {
        if (!fgets(line, sizeof line, smi)) line[0] = 0;
        pclose(smi);
    }
    line[strcspn(line, "\n")] = 0;
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&at));
    fprintf(out, "%shaste %d.%d.%d, %s\n", before, HASTE_VERSION_MAJOR, HASTE_VERSION_MINOR, HASTE_VERSION_PATCH, date);
    fprintf(out, "%sdevice    %s, %d processors, %.0f GB, compute capability %d.%d\n", before, about.name,
            about.multiProcessorCount, (double)about.totalGlobalMem / 1e9, about.major, about.minor);
    if (!line[0]) snprintf(line, sizeof line, "nvidia-smi says nothing");
    fprintf(out, "%sdriver    %s (driver, SM clock as found, its maximum, memory clock, power limit)\n", before, line);
    fprintf(out, "%sCUDA      driver %d.%d, runtime %d.%d\n", before, driver / 1000, driver % 1000 / 10, runtime / 1000,
            runtime % 1000 / 10);
    fprintf(out, "%scompiler  nvcc %d.%d, %s\n", before, __CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__, BENCH_FLAGS);
#ifdef BENCH_CUBLAS
    {
        int version = 0;
        cublasGetVersion(G.blas, &version);
        fprintf(out, "%scuBLAS    %d.%d.%d\n", before, version / 10000, version % 10000 / 100, version % 100);
    }
#else
    fprintf(out, "%scuBLAS    not found when this was built: nothing dense is compared\n", before);
#endif
#ifdef BENCH_CUSPARSE
    {
        int version = 0;
        cusparseGetVersion(G.sparse, &version);
        fprintf(out, "%scuSPARSE  %d.%d.%d\n", before, version / 1000, version % 1000 / 100, version % 100);
    }
#else
    fprintf(out, "%scuSPARSE  not found when this was built: no sparse matrices are compared\n", before);
#endif
    fprintf(out, "%sdata      x uniform in +-1, %d labels a sample, seed %d; binary cross-entropy, SGD, bfloat16 weights\n",
            before, (int)POSITIVES,
            (int)SEED);
}

static void print_notes(void)
{
    printf("\n"
           "step        x [B, D] float32 and lists of labels on the device go in; loss and float32 gradient of x come out,\n"
           "            weights and biases are updated; transposing, converting and everything else is inside the time\n"
           "floor       the larger of two times: weights and biases read and written and indices read, at the copy's rate;\n"
           "            2 flops (step: 6) a weight and sample at the product's rate. Kernels alone: weights, indices,\n"
           "            logits or their gradients once\n"
           "general     ours in a layer made with the general path: prediction and the kernels alone read that order of\n"
           "            weights faster than a training path's; floors and ratios are of the better of both\n"
           "(n x)       how many times ours it takes: above 1 it is haste that is faster\n"
           "dense       a layer of cuBLAS products on all D inputs\n"
           "bottleneck  x projected to as many inputs as a label of ours has on average, and a dense layer on those\n"
           "            Both update inside the product, rounded to nearest. Kernels alone: x is bfloat16 before, no\n"
           "            projection; their weight gradient is bfloat16, ours float32\n"
           "per-label   as many inputs a label, without groups: a kernel of this benchmark; logits stay label-major\n"
           "cuSPARSE    our layer as a CSR matrix: forward x W^T, grad W a sampled product (SDDMM), grad x with the\n"
           "            transpose; f32: float32 numbers, where it takes no bfloat16. Below a million labels, and a second\n"
           "blocks      as many weights in blocks of %d labels x %d inputs (cuSPARSE's blocked-ELL, which it does not\n"
           "            transpose or sample): equal flops, another structure\n"
           "memory      counted at cudaMalloc and cudaMallocHost; the device hands out pages of 2 MB, so that nvidia-smi\n"
           "            shows up to 2 MB more for each allocation\n"
           "padding     of odd shapes: S, F and B in whole sixteens; x padded: time per operation, padding counted,\n"
           "            relative to the first row: above 1 is lost beside padding\n"
           "momentum    velocities in bfloat16; x its bytes: the extra time over that of reading and writing them at the\n"
           "            copy's rate\n"
           "top-k       k = %d; dense: x W^T, then a pass over the logits. weights, copy: the weights' bytes over time,\n"
           "            as a share of the copy's rate\n",
           (int)SPARSE_BLOCK, (int)SPARSE_BLOCK, (int)BEST);
}

static const shape step_cases[] = {
    { "A670K L 670,091 head S16 F64 B64", 670091, 67024, 16, 64, 768, 64, HALVES },
    { "A670K L 670,091 head S16 F64 B128", 670091, 67024, 16, 64, 768, 128, HALVES },
    { "L 670,208 S32 F64 D768 B128", 670208, 0, 32, 64, 768, 128, 0 },
    { "A3M L 2,812,281 head S64 F128 B128", 2812281, 56256, 64, 128, 768, 128, 0 },
    { "L 8,192,000 S32 F64 D384 B128", 8192000, 0, 32, 64, 384, 128, 0 },
    { "L 100,000,000 S32 F32 D384 B64", 100000000, 0, 32, 32, 384, 64, 0 },
};
static const shape kernel_cases[] = {
    { "L 670,208 S16 F64 D768 B128", 670208, 0, 16, 64, 768, 128, 0 },
    { "L 670,208 S32 F64 D768 B128", 670208, 0, 32, 64, 768, 128, 0 },
};
static const shape paper_cases[] = {
    { "L 65,536 F32 (96% sparse)", 65536, 0, 32, 32, 768, 64, 0 },
    { "L 131,072 F32", 131072, 0, 32, 32, 768, 64, 0 },
    { "L 670,208 F32", 670208, 0, 32, 32, 768, 64, 0 },
    { "L 2,812,288 F32", 2812288, 0, 32, 32, 768, 64, 0 },
    { "L 9,200,000 F32", 9200000, 0, 32, 32, 768, 64, 0 },
    { "L 670,208 F64 (92% sparse)", 670208, 0, 32, 64, 768, 64, 0 },
    { "L 670,208 F128 (83% sparse)", 670208, 0, 32, 128, 768, 64, 0 },
    { "L 670,208 F123 (84% sparse)", 670208, 0, 32, 123, 768, 64, 0 },   // as in the paper, but no multiple of 16
};
static const shape odd_cases[] = {   // the first is what the others are compared with
    { "S32 F64 L 670,208 D768 B128", 670208, 0, 32, 64, 768, 128, 0 },
    { "S 8", 670208, 0, 8, 64, 768, 128, 0 },
    { "S 24", 670208, 0, 24, 64, 768, 128, 0 },
    { "S 40", 670208, 0, 40, 64, 768, 128, 0 },
    { "F 61", 670208, 0, 32, 61, 768, 128, 0 },
    { "L 670,091", 670091, 0, 32, 64, 768, 128, 0 },
    { "D 100", 670208, 0, 32, 64, 100, 128, 0 },
    { "D 767", 670208, 0, 32, 64, 767, 128, 0 },
    { "B 101", 670208, 0, 32, 64, 768, 101, 0 },
};
static const shape scale_cases[] = {
    { "L 131,072", 131072, 0, 32, 64, 768, 128, 0 },     { "L 262,144", 262144, 0, 32, 64, 768, 128, 0 },
    { "L 524,288", 524288, 0, 32, 64, 768, 128, 0 },     { "L 1,048,576", 1048576, 0, 32, 64, 768, 128, 0 },
    { "L 2,097,152", 2097152, 0, 32, 64, 768, 128, 0 },  { "L 4,194,304", 4194304, 0, 32, 64, 768, 128, 0 },
    { "L 8,388,608", 8388608, 0, 32, 64, 768, 128, 0 },
};
static const shape batch_cases[] = {
    { "A670K head 67,024 S16 F64", 670091, 67024, 16, 64, 768, 0, HALVES },
    { "L 670,208 S16 F64 D384", 670208, 0, 16, 64, 384, 0, 0 },
    { "L 670,208 S16 F64 D768", 670208, 0, 16, 64, 768, 0, 0 },
    { "L 670,208 S16 F128 D384", 670208, 0, 16, 128, 384, 0, 0 },
    { "L 670,208 S32 F64 D384", 670208, 0, 32, 64, 384, 0, 0 },
    { "L 670,208 S32 F64 D768", 670208, 0, 32, 64, 768, 0, 0 },
    { "L 670,208 S64 F128 D768", 670208, 0, 64, 128, 768, 0, 0 },
    { "dense 67,024 x 384", 67024, 67024, 0, 0, 384, 0, 0 },
};
static const shape quick_cases[] = {
    { "L 20,011 head S16 F64 B64", 20011, 2000, 16, 64, 768, 64, HALVES },
    { "L 16,384 S32 F64 D768 B128", 16384, 0, 32, 64, 768, 128, 0 },
};
static const shape quick_kernels[] = { { "L 16,384 S32 F32 D768 B64", 16384, 0, 32, 32, 768, 64, 0 } };
#define COUNT(array) (int)(sizeof(array) / sizeof(array)[0])

// What whole steps have gathered.
static void memory_and_rewiring(void)
{
    int i;
    if (memory_count) {
        title("Memory, MB: what the planner says, and what the calls took (dense: weights, logits, biases by count)");
        printf("%-40s %21s %21s %21s %21s %21s\n%-40s", "", "layer", "workspace", "pinned (host)", "while rewiring",
               "gradient, if separate", "");
        for (i = 0; i < 5; i++) printf(" %10s %10s", "plan", "taken");
        printf(" %10s\n", "dense");
        for (i = 0; i < memory_count && i < 16; i++) puts(memory_rows[i]);
    }
    if (rewire_count) {
        title("Rewiring a tenth of all places (the call waits; wall clock)");
        printf("%-40s %10s %8s %12s %8s\n", "", "random ms", "in steps", "gradient ms", "in steps");
        for (i = 0; i < rewire_count && i < 16; i++) puts(rewire_rows[i]);
    }
}

int main(int argc, char **argv)
{
    static const int64_t many[] = { 670208, 3000000, 8600000 }, few[] = { 16384 };
    const char *csv = NULL;
    int i, number = 0;
    G.seconds = 120;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) G.quick = 1;
        else if (strcmp(argv[i], "--csv") == 0 && i + 1 < argc) csv = argv[++i];
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) G.only = argv[++i];
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc && atof(argv[i + 1]) > 0) G.seconds = atof(argv[++i]);
        else {
            fprintf(stderr, "usage: haste-bench-cuda [--quick] [--only TABLE,...] [--seconds N] [--csv FILE]\n"
                            "       tables: step (with memory and rewire), batch, momentum, kernels, topk (with order),\n"
                            "       odd, paper, scale\n"
                            "       --seconds: no row is begun after that many (default %.0f)\n", G.seconds);
            return strcmp(argv[i], "--help") == 0 ? 0 : 2;
        }
    }
    if (haste_cuda_supported(&failure) != HASTE_OK) {
        fprintf(stderr, "haste-bench-cuda: %s\n", failure.text);
        return 1;
    }
    if (csv && !(G.csv = fopen(csv, "w"))) {
        fprintf(stderr, "haste-bench-cuda: %s: cannot write\n", csv);
        return 1;
    }
    begun = now();
    CUDA(cudaGetDevice(&number));
    CUDA(cudaDeviceGetAttribute(&G.processors, cudaDevAttrMultiProcessorCount, number));
    CUDA(cudaDeviceGetAttribute(&i, cudaDevAttrMaxSharedMemoryPerBlockOptin, number));
    G.shared = (size_t)i;
#ifdef BENCH_CUBLAS
    if (cublasCreate(&G.blas) != CUBLAS_STATUS_SUCCESS) {
        fprintf(stderr, "haste-bench-cuda: cuBLAS does not start\n");
        return 1;
    }
#endif
#ifdef BENCH_CUSPARSE
    if (cusparseCreate(&G.sparse) != CUSPARSE_STATUS_SUCCESS) {
        fprintf(stderr, "haste-bench-cuda: cuSPARSE does not start\n");
        return 1;
    }
#endif
    print_machine(stdout, "");
    if (G.csv) print_machine(G.csv, "# ");
    ceilings();
    printf("ceilings  copy %.0f GB/s (read and written); bfloat16 product %.0f TFLOP/s (8192^3, cuBLAS)\n", G.copy * 1e-9,
           G.products * 1e-12);
    if (G.csv) {
        fprintf(G.csv, "# ceilings  copy %.1f GB/s, product %.1f TFLOP/s\n", G.copy * 1e-9, G.products * 1e-12);
        fprintf(G.csv,
                "table,row,contestant,operation,labels,inputs,fan_in,group,batch,median_ms,min_ms,max_ms,runs,floor_ms,"
                       "ratio_to_floor,path\n");
    }
    fflush(stdout);
    check_dense(768, 768, 128);
    check_dense(768, 64, 64);
    if (768 * 128 + STAGES * STAGE_BYTES <= G.shared) for (i = 32; i <= 128; i *= 2) check_per_label(768, i);
    for (i = 32; i <= 128; i *= 2) check_sparse(768, i);

    if (wanted("step")) {
        title("Whole steps");
        if (G.quick) whole_steps(quick_cases, COUNT(quick_cases), "step", 1);
        else whole_steps(step_cases, COUNT(step_cases), "step", 1);
        memory_and_rewiring();
    }
    if (wanted("batch") && !G.quick) {
        title("Whole steps against the batch: ms (microseconds a sample) and paths: w wide, n narrow, g general");
        batch_sizes(batch_cases, COUNT(batch_cases));
    }
    if (wanted("optimizers")) {
        title("Optimizers, states in bfloat16 but for f32; in brackets: more than SGD, in times that moving the states takes");
        if (G.quick) optimizer_steps(quick_cases, COUNT(quick_cases));
        else optimizer_steps(step_cases + 1, 3);
    }
    if (wanted("skew") && !G.quick) {
        static const shape skew_cases[] = {
            { "A670K head 67,024 S16 F64", 670091, 67024, 16, 64, 768, 0, HALVES },
            { "L 670,208 S16 F64 D384", 670208, 0, 16, 64, 384, 0, 0 },
            { "L 670,208 S32 F64 D768", 670208, 0, 32, 64, 768, 0, 0 },
            { "L 670,208 S24 F64 D768, general", 670208, 0, 24, 64, 768, 0, 0 } };
        title("Skewed positives: 19 of each sample's 32 among 400 labels");
        skewed_steps(skew_cases, COUNT(skew_cases));
    }
    if (wanted("graph")) {
        title("A step in a CUDA graph");
        graph_steps(G.quick ? quick_cases : step_cases, G.quick ? 1 : 3);
    }
    if (wanted("kernels")) {
        title("Kernels alone");
        if (G.quick) kernels_alone(quick_kernels, 1, "kernels", 1, 1);
        else kernels_alone(kernel_cases, COUNT(kernel_cases), "kernels", 0, 0);
    }
    if (wanted("topk")) {
        title("Top-k, S 32, F 64, D 768");
        if (G.quick) best_labels(few, 1);
        else best_labels(many, COUNT(many));
        title("Top-k of one sample, from each order that a layer can be stored in: F 64, L as in the first row");
        best_of_orders(G.quick ? few[0] : many[0]);
    }
    if (wanted("odd") && !G.quick) {
        title("Odd shapes, each different from the first in what its name says");
        odd_shapes(odd_cases, COUNT(odd_cases));
    }
    if (wanted("paper") && !G.quick) {
        title("Kernels of the paper's benchmark: B 64, D 768, S 32");
        kernels_alone(paper_cases, COUNT(paper_cases), "paper", 1, 1);
    }
    if (wanted("scale") && !G.quick) {
        title("Whole steps against the number of labels: S 32, F 64, D 768, B 128");
        whole_steps(scale_cases, COUNT(scale_cases), "scale", 0);
    }
    title("Asked, and got in this run");
    print_asks();
    print_notes();
    printf("took %.0f s\n", now() - begun);
    if (G.csv && fclose(G.csv) != 0) G.wrong++;
    if (G.wrong) fprintf(stderr, "haste-bench-cuda: %d checks failed: the numbers above are not to be used\n", G.wrong);
    return G.wrong != 0;
}
