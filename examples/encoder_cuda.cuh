/* encoder_cuda.cuh: the encoder of encoder.h on a GPU, and batches of documents on their way there; for haste-train-cuda and
   haste-predict-cuda, which bring die().

   The formulas and the random numbers are those of encoder.h, and so is the order of every sum: a thread adds up the
   features of its document, or the documents of its feature, one after the other. Only multiplications and additions are
   fused here, so that results differ from the CPU's in their last bits, and are the same each time. */
#ifndef ENCODER_CUDA_CUH
#define ENCODER_CUDA_CUH

#include "encoder.h"
#include <cuda_runtime.h>

static inline void cuda_ok(cudaError_t result, const char *what)
{
    if (result == cudaSuccess) return;
    if (result == cudaErrorMemoryAllocation) die(1, "%s: the device, or pinned memory, has no room left", what);
    die(1, "%s: %s", what, cudaGetErrorString(result));
}

static inline void *cuda_need(size_t bytes, const char *what)
{
    void *memory = NULL;
    if (cudaMalloc(&memory, bytes ? bytes : 1) != cudaSuccess)
        die(1, "out of memory on the device: %s (%.0f MiB)", what, (double)bytes / 1048576);
    return memory;
}

/* ---- >>batches ----------------------------------------------------------------------------------------------- */

/* A batch: packed on the host into pinned memory, copied in one piece. The pointers are the device's. */
typedef struct batch_cuda {
    char          *host, *device;   /* [room] bytes each */
    size_t         room, bytes;
    cudaEvent_t    copied;
    int32_t        B, rows;
    const int64_t *label_offset;    /* [B + 1] */
    const int32_t *label;
    /* sparse documents, one after the other */
    const int32_t *offset;          /* [B + 1] */
    const int32_t *feature;         /* [pairs] */
    const float   *value;
    /* the same pairs, feature by feature: to train on */
    const int32_t *touched;         /* [rows] features */
    const int32_t *start;           /* [rows + 1] */
    const int32_t *sample;          /* [pairs] */
    const float   *weight;          /* [pairs] their values */
    /* dense documents */
    const float   *dense;           /* [B, D] */
} batch_cuda;

static inline void batch_create(batch_cuda *batch)
{
    memset(batch, 0, sizeof *batch);
    cuda_ok(cudaEventCreateWithFlags(&batch->copied, cudaEventDisableTiming), "making an event");
}

static inline void batch_release(batch_cuda *batch)
{
    if (batch->host) cudaFreeHost(batch->host);
    if (batch->device) cudaFree(batch->device);
    batch->host = batch->device = NULL;
}

static inline void batch_free(batch_cuda *batch)
{
    batch_release(batch);
    cudaEventDestroy(batch->copied);
}

/* The next `count` elements of the batch: where they go on the host; device: the address of
   a pointer (=) to where they will lie. */
static inline void *batch_part(batch_cuda *batch, void *device, int64_t count, size_t width)
{
    const size_t at = batch->bytes;
    const char *there = batch->device + at;
    memcpy(device, &there, sizeof there);
    batch->bytes += ((size_t)count * width + 15) / 16 * 16;
    return batch->host + at;
}

/* Packs B documents and, where they are given, their labels. Nobody may be using the batch any more. e: NULL for dense
   documents. */
static inline void batch_pack(batch_cuda *batch, encoder *e, const data_set *data, const int64_t *document, int32_t B,
                              const haste_lists *labels, int training)
{
    const int64_t ids = labels ? labels->offset[B] : 0;
    int64_t pairs = 0, rows = 0, *offset_to, i;
    int32_t *to, *feature, b;
    float *value;
    size_t most;

    for (b = 0; b < B && e; b++) pairs += data->feature_offset[document[b] + 1] - data->feature_offset[document[b]];
    if (pairs > INT32_MAX) die(1, "%lld features in one batch: a smaller --batch is needed", (long long)pairs);
    if (e && training) {
        rows = encoder_order(e, data, document, B);
        if (rows < 0) die(1, "out of memory");
    }
    most = 12 * ((size_t)B + 1) + 4 * (size_t)ids + 24 * (size_t)pairs + 9 * 16;   /* parts are rounded up to 16 bytes */
    if (!e) most += (size_t)B * (size_t)data->width * sizeof(float);
    if (most > batch->room) {
        batch->room = most + most / 2;
        batch_release(batch);
        cuda_ok(cudaMallocHost((void **)&batch->host, batch->room), "pinned memory for a batch");
        batch->device = (char *)cuda_need(batch->room, "a batch");
    }
    batch->B = B;
    batch->rows = (int32_t)rows;
    batch->bytes = 0;

    if (labels) {
        offset_to = (int64_t *)batch_part(batch, &batch->label_offset, B + 1, sizeof(int64_t));
        memcpy(offset_to, labels->offset, ((size_t)B + 1) * sizeof(int64_t));
        to = (int32_t *)batch_part(batch, &batch->label, ids, sizeof(int32_t));
        if (ids > 0) memcpy(to, labels->id, (size_t)ids * sizeof(int32_t));
    }
    if (!e) {
        value = (float *)batch_part(batch, &batch->dense, (int64_t)B * data->width, sizeof(float));
        for (b = 0; b < B; b++, value += data->width)
            memcpy(value, data->dense + document[b] * data->width, (size_t)data->width * sizeof(float));
        return;
    }
    to = (int32_t *)batch_part(batch, &batch->offset, B + 1, sizeof(int32_t));
    feature = (int32_t *)batch_part(batch, &batch->feature, pairs, sizeof(int32_t));
    value = (float *)batch_part(batch, &batch->value, pairs, sizeof(float));
    to[0] = 0;
    for (b = 0; b < B; b++) {
        const int64_t begin = data->feature_offset[document[b]], n = data->feature_offset[document[b] + 1] - begin;
        if (n > 0) memcpy(feature + to[b], data->feature + begin, (size_t)n * sizeof(int32_t));
        if (n > 0) memcpy(value + to[b], data->value + begin, (size_t)n * sizeof(float));
        to[b + 1] = to[b] + (int32_t)n;
    }
    if (!training) return;
    to = (int32_t *)batch_part(batch, &batch->touched, rows, sizeof(int32_t));
    if (rows > 0) memcpy(to, e->touched, (size_t)rows * sizeof(int32_t));
    to = (int32_t *)batch_part(batch, &batch->start, rows + 1, sizeof(int32_t));
    for (i = 0; i <= rows; i++) to[i] = (int32_t)e->start[i];
    to = (int32_t *)batch_part(batch, &batch->sample, pairs, sizeof(int32_t));
    if (pairs > 0) memcpy(to, e->sample, (size_t)pairs * sizeof(int32_t));
    value = (float *)batch_part(batch, &batch->weight, pairs, sizeof(float));
    if (pairs > 0) memcpy(value, e->value, (size_t)pairs * sizeof(float));
}

/* Copies it on a stream of its own, beside what `stream` is still working on; what comes next on `stream` sees it. */
static inline void batch_send(batch_cuda *batch, cudaStream_t copies, cudaStream_t stream)
{
    cuda_ok(cudaMemcpyAsync(batch->device, batch->host, batch->bytes, cudaMemcpyHostToDevice, copies), "copying a batch");
    cuda_ok(cudaEventRecord(batch->copied, copies), "copying a batch");
    cuda_ok(cudaStreamWaitEvent(stream, batch->copied, 0), "copying a batch");
}

/* ---- >>dropout ----------------------------------------------------------------------------------------------- */

/* encoder_drop, of one element. limit 0: none. */
typedef struct drop_cuda {
    uint64_t seed, limit;
    int32_t  first;     /* of a slice: its first column */
    float    scale;
} drop_cuda;

static inline drop_cuda drop_of(const encoder *e, int training)
{
    drop_cuda drop;
    drop.seed = e->seed + 2 + (uint64_t)e->step;
    drop.first = e->first;
    drop.limit = training ? (uint64_t)(e->dropout * 65536) : 0;
    drop.scale = (float)(65536.0 / (double)(65536 - drop.limit));
    return drop;
}

static __device__ float dropped(drop_cuda drop, int32_t sample, int32_t d, float h)
{
    uint64_t bits;
    if (drop.limit == 0) return h;
    bits = encoder_random(drop.seed, (uint64_t)sample, (uint64_t)(drop.first + (d & ~3))) >> 16 * (d & 3);
    return h * ((bits & 65535) < drop.limit ? 0.0f : drop.scale);
}

/* ---- >>kernels ----------------------------------------------------------------------------------------------- */

/* Threads of a block that works on one row of D. */
#define ROW_THREADS 512
static inline unsigned row_threads(int32_t D) { return D > ROW_THREADS ? ROW_THREADS : (unsigned)(D + 31) / 32 * 32; }

/* Block: one document. Thread: every blockDim-th element of its h (=). */
static __global__ void encoder_forward_kernel(const float *__restrict__ row, int32_t features, int32_t D,
                                              const int32_t *__restrict__ offset, const int32_t *__restrict__ feature,
                                              const float *__restrict__ value, int relu, drop_cuda drop,
                                              float *__restrict__ h)
{
    const int32_t b = (int32_t)blockIdx.x, begin = offset[b], end = offset[b + 1];
    for (int32_t d = (int32_t)threadIdx.x; d < D; d += (int32_t)blockDim.x) {
        float sum = row[(int64_t)features * D + d];
        #pragma unroll 8
        for (int32_t j = begin; j < end; j++) sum += value[j] * row[(int64_t)feature[j] * D + d];
        if (relu && !(sum > 0)) sum = 0;
        h[(int64_t)b * D + d] = dropped(drop, b, d, sum);
    }
}

/* Block: one document. Dense inputs are only dropped from. */
static __global__ void encoder_drop_kernel(const float *__restrict__ x, int32_t D, drop_cuda drop, float *__restrict__ h)
{
    const int64_t base = (int64_t)blockIdx.x * D;
    for (int32_t d = (int32_t)threadIdx.x; d < D; d += (int32_t)blockDim.x)
        h[base + d] = dropped(drop, (int32_t)blockIdx.x, d, x[base + d]);
}

/* Block: one document. From d loss / d h to the gradient before dropout and activation. */
static __global__ void encoder_activation_kernel(const float *__restrict__ h, int32_t D, int relu, drop_cuda drop,
                                                 float *grad_h)
{
    const int64_t base = (int64_t)blockIdx.x * D;
    for (int32_t d = (int32_t)threadIdx.x; d < D; d += (int32_t)blockDim.x) {
        const float g = dropped(drop, (int32_t)blockIdx.x, d, grad_h[base + d]);
        grad_h[base + d] = relu && !(h[base + d] > 0) ? 0 : g;
    }
}

/* What a batch brings for one row: the sum over the documents of its feature, or over all, with value 1, of the bias. */
static __device__ float row_gradient(int32_t D, int32_t d, int32_t B, int bias, int32_t begin, int32_t end,
                                     const int32_t *__restrict__ sample, const float *__restrict__ weight,
                                     const float *__restrict__ grad_h)
{
    float g = 0;
    if (bias) {
        #pragma unroll 8
        for (int32_t b = 0; b < B; b++) g += grad_h[(int64_t)b * D + d];
    } else {
        #pragma unroll 8
        for (int32_t j = begin; j < end; j++) g += weight[j] * grad_h[(int64_t)sample[j] * D + d];
    }
    return g;
}

/* Of several processes each has some columns of a row: they sum up their squares before any takes its step. */
enum { UPDATE_WHOLE, UPDATE_SQUARES, UPDATE_STEP };

/* Block: one feature of the batch, the last one the bias: its gradient, and Adam's step. No two blocks have the same row.
   columns: of a whole row; squares [rows + 1]: NULL, or (=) of UPDATE_SQUARES, or of all columns. */
static __global__ void encoder_update_kernel(float *row, float *moment, int64_t *seen, int32_t features, int32_t D,
                                             int32_t columns, int32_t rows, int32_t B, const int32_t *__restrict__ touched,
                                             const int32_t *__restrict__ start, const int32_t *__restrict__ sample,
                                             const float *__restrict__ weight, const float *__restrict__ grad_h,
                                             int64_t step, float lr, float correct, int what, double *squares)
{
    __shared__ float part[ROW_THREADS], rate;
    const int32_t i = (int32_t)blockIdx.x, me = (int32_t)threadIdx.x;
    const int32_t begin = i == rows ? 0 : start[i], end = i == rows ? 0 : start[i + 1];
    const int64_t r = i == rows ? features : touched[i];
    double total = 0;
    if (what != UPDATE_STEP) {   /* the gradient is summed twice: for its length, then for the step */
        float square = 0;
        for (int32_t d = me; d < D; d += (int32_t)blockDim.x) {
            const float g = row_gradient(D, d, B, i == rows, begin, end, sample, weight, grad_h);
            square += g * g;
        }
        part[me] = square;
        __syncthreads();
        for (int32_t k = 0; k < (int32_t)blockDim.x && me == 0; k++) total += part[k];
        if (me == 0 && what == UPDATE_SQUARES) squares[i] = total;
        if (what == UPDATE_SQUARES) return;
    }
    if (me == 0) {
        if (what == UPDATE_STEP) total = squares[i];
        moment[r] = (float)(pow(.999, (double)(step - seen[r])) * moment[r] + .001 * total / columns);
        seen[r] = step;
        rate = lr / (sqrtf(moment[r] * correct) + 1e-8f);
    }
    __syncthreads();
    for (int32_t d = me; d < D; d += (int32_t)blockDim.x)
        row[r * D + d] -= rate * row_gradient(D, d, B, i == rows, begin, end, sample, weight, grad_h);
}

/* ---- >>encoder ----------------------------------------------------------------------------------------------- */

/* The arrays of an encoder on the device; shape, dropout and step stay those of the encoder on the host. */
typedef struct encoder_cuda {
    float   *row;       /* [V + 1, D] */
    float   *moment;    /* [V + 1] */
    int64_t *seen;      /* [V + 1] */
} encoder_cuda;

static inline void encoder_upload(encoder_cuda *cuda, const encoder *e, int training)
{
    const size_t bytes = encoder_bytes(e->features, e->width), steps = ((size_t)e->features + 1) * sizeof(int64_t);
    const size_t moments = encoder_moment_bytes(e->features);
    cuda->row = (float *)cuda_need(bytes, "the encoder");
    cuda_ok(cudaMemcpy(cuda->row, e->row, bytes, cudaMemcpyHostToDevice), "copying the encoder");
    if (!training) return;
    cuda->moment = (float *)cuda_need(moments, "the encoder's moments");
    cuda->seen = (int64_t *)cuda_need(steps, "the encoder's steps");
    cuda_ok(cudaMemcpy(cuda->moment, e->moment, moments, cudaMemcpyHostToDevice), "copying the encoder");
    cuda_ok(cudaMemcpy(cuda->seen, e->seen, steps, cudaMemcpyHostToDevice), "copying the encoder");
}

static inline void encoder_download(const encoder_cuda *cuda, encoder *e)
{
    const size_t bytes = encoder_bytes(e->features, e->width), steps = ((size_t)e->features + 1) * sizeof(int64_t);
    const size_t moments = encoder_moment_bytes(e->features);
    cuda_ok(cudaMemcpy(e->row, cuda->row, bytes, cudaMemcpyDeviceToHost), "copying the encoder");
    cuda_ok(cudaMemcpy(e->moment, cuda->moment, moments, cudaMemcpyDeviceToHost), "copying the encoder");
    cuda_ok(cudaMemcpy(e->seen, cuda->seen, steps, cudaMemcpyDeviceToHost), "copying the encoder");
}

static inline void encoder_cuda_free(encoder_cuda *cuda)
{
    cudaFree(cuda->row);
    cudaFree(cuda->moment);
    cudaFree(cuda->seen);
}

/* h [B, D] (=) of a batch, sparse or dense; training: with dropout. */
static inline void encoder_cuda_forward(const encoder_cuda *cuda, const encoder *e, const batch_cuda *batch, int training,
                                        float *h, cudaStream_t stream)
{
    const unsigned blocks = (unsigned)batch->B, threads = row_threads(e->width);
    const drop_cuda drop = drop_of(e, training);
    if (!cuda->row)
        encoder_drop_kernel<<<blocks, threads, 0, stream>>>(batch->dense, e->width, drop, h);
    else
        encoder_forward_kernel<<<blocks, threads, 0, stream>>>(cuda->row, e->features, e->width, batch->offset,
                                                               batch->feature, batch->value, e->relu, drop, h);
    cuda_ok(cudaGetLastError(), "encoding documents");
}

static inline void encoder_cuda_update(const encoder_cuda *cuda, const encoder *e, const batch_cuda *batch,
                                       const float *grad_h, float lr, int what, double *squares, cudaStream_t stream)
{
    encoder_update_kernel<<<(unsigned)batch->rows + 1, row_threads(e->width), 0, stream>>>(
        cuda->row, cuda->moment, cuda->seen, e->features, e->width, encoder_columns(e), batch->rows, batch->B, batch->touched,
        batch->start, batch->sample, batch->weight, grad_h, e->step, lr, encoder_correction(e->step), what, squares);
    cuda_ok(cudaGetLastError(), "updating the encoder");
}

/* grad_h (in, out): as encoder_mask, for the step that e->step counts so far. */
static inline void encoder_cuda_mask(const encoder *e, const batch_cuda *batch, const float *h, float *grad_h,
                                     cudaStream_t stream)
{
    const drop_cuda drop = drop_of(e, 1);
    if (e->relu || drop.limit > 0)
        encoder_activation_kernel<<<(unsigned)batch->B, row_threads(e->width), 0, stream>>>(h, e->width, e->relu, drop,
                                                                                            grad_h);
}

/* As encoder_backward. e->step += 1. */
static inline void encoder_cuda_backward(const encoder_cuda *cuda, encoder *e, const batch_cuda *batch, const float *h,
                                         float *grad_h, float lr, cudaStream_t stream)
{
    if (cuda->row) encoder_cuda_mask(e, batch, h, grad_h, stream);
    e->step++;
    if (cuda->row) encoder_cuda_update(cuda, e, batch, grad_h, lr, UPDATE_WHOLE, NULL, stream);
}

#endif /* ENCODER_CUDA_CUH */
