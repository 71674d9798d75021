/* haste-train-nccl: haste-train-cuda on several NVIDIA GPUs, of one machine or of many, for layers that one cannot hold or would
   take too long with. The same program (train.c, which this file includes) with an engine that is haste-train-cuda's on each
   GPU (train_device.cuh), cut and put together as haste-train-mpi's (train_parts.h). One process a GPU:

       haste-train-nccl TRAIN TEST --gpus 4 --save model.haste     makes its processes itself, on one machine
       mpirun -n 16 build/haste-train-nccl TRAIN TEST ...          where it was built with MPI; on many machines, too

   LABELS    are cut into ranges of whole groups of equal numbers of weights, one a GPU, which makes its range itself: no host
             holds weights but to save them. All have the order of all labels, on the host and on the GPU.
   ENCODER   Each GPU owns about D / P of the columns of the embeddings, and makes these columns of x for the whole batch.
   WHAT TRAVELS between the GPUs in a step of B documents is what train_mpi.c lists, without the softmax: x gathered, grad_x
             summed up and scattered, both in columns of equal width; 8 bytes for each feature of the batch; the loss. In
             scoring x, and 8 * B * k of the best labels, which the hosts merge. Hosts say a few words to each other in each
             step, which waits for no GPU.

   WHAT IS EXACT  One process gives what haste-train-cuda gives. P of them begin with the same groups, inputs and weights, and
             take the same random decisions; sums go in another order. A model goes on with any P, or in the other programs.
   NOT YET   With more than one GPU: softmax, whose sums go over all labels; and rewiring that ranks the places of all groups
             together (--scope group is the same for any P). haste-train-mpi has both.

   mkdir -p build && nvcc -std=c++17 -O3 -arch=sm_90a -Xcompiler -fopenmp -I. examples/train_nccl.cu -o build/haste-train-nccl -lnccl
       [-ccbin mpicxx -DPROCESSES_MPI] [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define TRAIN_CUDA
#define TRAIN_NCCL
#define TRAIN_NAME  "haste-train-nccl"
#define TRAIN_PATHS "auto|general|wide|narrow"
#define TRAIN_DTYPE HASTE_BF16
#define TRAIN_SAME  ", on as many GPUs (bit for bit with --deterministic)"
#define TRAIN_ROOM  1024
#define TRAIN_MAP   1   /* each takes its range out */
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "processes_nccl.cuh"
#include "train.c"
#include "train_parts.h"

#ifndef HASTE_CUDA_LINKED   /* the Makefile links build/haste_cuda.o, which takes a while to compile */
    #define HASTE_CUDA_IMPLEMENTATION
#endif
#include "haste_cuda.cuh"
#include "encoder_cuda.cuh"
#include "train_device.cuh"

struct engine {
    device             gpu;
    parts              own;         /* its part has numbers only while a model is saved */
    haste_cuda_options cuda;        /* of the range */
    int                before;      /* blocks of the whole layer before the range's first */
    int32_t            most;        /* columns of the widest slice */
    float             *slice;       /* [room, columns of this process]: its columns of x, */
    float             *grad;        /* and of grad_x */
    float             *packed;      /* [P][room, most] */
    double            *squares;     /* [square_room] */
    int64_t            square_room;
    int32_t           *top;         /* [P + 1] of [2][room, TOP]: ids and scores of all; of this one */
    int32_t           *host_top;    /* [2][P][2][room, TOP] pinned */
    int32_t            scored[2];   /* documents of a batch that is scored */
    int32_t           *best;        /* [2][room, TOP] merged */
    float             *score;       /* [room, TOP] */
    haste_found       *found;       /* [P] */
    char              *host;        /* the layer's arrays, of which this range is filled in to save them */
    size_t             host_bytes;
};

static void nccl_ok(ncclResult_t result, const char *what)
{
    if (result != ncclSuccess) die(1, "%s: NCCL: %s", what, ncclGetErrorString(result));
}

static void engine_check(const trainer *t)
{
    haste_error error;
    char text[200];
    const char *why;
    parts_check(t);
    if (processes.count > 1 && t->s.loss == HASTE_SOFTMAX)
        die(2, "--loss softmax: not on several GPUs yet, for its sums go over all labels: take one GPU, or haste-train-mpi");
    if (processes.count > 1 && t->s.rewire_share > 0 && t->s.scope == HASTE_SCOPE_BLOCK)
        die(2, "--rewire-share %g: on several GPUs the places of all groups cannot be ranked together yet: take --scope group, "
            "one GPU, or haste-train-mpi", t->s.rewire_share);
    why = processes_meet_gpus(text);
    if (why) die(1, "%s", why);
    if (haste_cuda_supported(&error) != HASTE_OK) die(1, "no GPU that can be used: %s", error.text);
}

/* ---- >>making ------------------------------------------------------------------------------------------------ */

/* The range, for the device. */
static void describe_range(trainer *t, struct engine *e, const haste_layer_options *options)
{
    int i;
    device_begin(t, &e->gpu, options, &e->cuda);
    e->cuda.first_slot = e->own.at[processes.rank];
    e->cuda.end_slot = e->own.at[processes.rank + 1];
    for (i = 1; i < t->layer.block_count && t->layer.block[i].first_slot <= e->cuda.first_slot; i++) e->before = i;
}

static struct engine *new_engine(trainer *t)
{
    t->engine = (struct engine *)need(1, sizeof *t->engine);
    memset(t->engine, 0, sizeof *t->engine);
    return t->engine;
}

static void engine_begin(trainer *t, const haste_layer_options *options)
{
    struct engine *e = new_engine(t);
    haste_error error;
    parts_begin(t, &e->own, options);
    describe_range(t, e, options);
    if (haste_cuda_layer_create(&e->gpu.layer, options, &e->cuda, e->gpu.stream, &error) != HASTE_OK) die(1, "%s", error.text);
}

/* From the model that training goes on from. */
static void take_parts(trainer *t, const haste_layer_options *options)
{
    struct engine *e = new_engine(t);
    haste_layer slice;
    haste_error error;
    parts_resume(t, &e->own, &slice);
    describe_range(t, e, options);
    if (haste_layer_check(&slice, &error) != HASTE_OK) die(1, "%s: %s", t->s.resume, error.text);
    if (haste_cuda_upload(&e->gpu.layer, &e->own.whole, &e->cuda, e->gpu.stream, &error) != HASTE_OK) die(1, "%s", error.text);
    haste_layer_free(&slice);
    parts_resumed(t, &e->own);
}

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t D = (size_t)t->layer.inputs, room = (size_t)t->room, P = (size_t)processes.count;
    const size_t n = 2 * room * TOP;
    struct engine *e;
    int i;
    if (t->s.resume) take_parts(t, options);
    e = t->engine;
    if ((double)t->room * (double)D > INT32_MAX) die(2, "--batch %lld: too many for %ld inputs", (long long)t->s.batch, (long)D);
    if (!t->shape.dense && !encoder_scratch(&e->own.bag)) die(1, "out of memory");
    device_make(t, &e->gpu, options, &e->cuda, &e->own.bag);
    for (i = 0; i < processes.count; i++) {
        const int32_t width = shards_column((int32_t)D, (int)P, i + 1) - shards_column((int32_t)D, (int)P, i);
        if (width > e->most) e->most = width;
    }
    if (!t->shape.dense) {
        const size_t bytes = room * (size_t)e->most * sizeof(float);
        e->slice = (float *)cuda_need(bytes, "columns of a batch's inputs");
        e->grad = (float *)cuda_need(bytes, "columns of a batch's gradient");
        e->packed = (float *)cuda_need(P * bytes, "columns of a batch's inputs");
        cuda_ok(cudaMemset(e->slice, 0, bytes), "cudaMemset");   /* what lies behind narrower slices travels, too */
        cuda_ok(cudaMemset(e->packed, 0, P * bytes), "cudaMemset");
        e->gpu.bytes += (P + 2) * bytes;
    }
    e->top = (int32_t *)cuda_need((P + 1) * n * sizeof(int32_t), "a batch's labels");
    cuda_ok(cudaMallocHost((void **)&e->host_top, 2 * P * n * sizeof(int32_t)), "pinned memory");
    e->best = (int32_t *)need(n, sizeof(int32_t));
    e->score = (float *)need(n / 2, sizeof(float));
    e->found = (haste_found *)need(P, sizeof *e->found);
    e->own.x = (float *)need(room * D, sizeof(float));
    e->own.packed = (float *)need(room * D, sizeof(float));
    parts_hide_rows(t, &e->own);
    signal(SIGUSR1, on_signal);   /* mpirun hands it on */
    parts_say(t, &e->own);
}

/* ---- >>a step ------------------------------------------------------------------------------------------------ */

/* Thread block: a document, and the columns of one process, which lie [B, most] apart in `packed`. */
static __global__ void pack_kernel(const float *__restrict__ rows, int32_t D, int P, int32_t most, float *__restrict__ packed)
{
    const int part = (int)blockIdx.y;
    const int32_t first = shards_column(D, P, part), n = shards_column(D, P, part + 1) - first;
    const float *from = rows + (int64_t)blockIdx.x * D + first;
    float *to = packed + (int64_t)part * gridDim.x * most + (int64_t)blockIdx.x * n;
    for (int32_t d = (int32_t)threadIdx.x; d < n; d += (int32_t)blockDim.x) to[d] = from[d];
}

static __global__ void unpack_kernel(const float *__restrict__ packed, int32_t D, int P, int32_t most, float *__restrict__ rows)
{
    const int part = (int)blockIdx.y;
    const int32_t first = shards_column(D, P, part), n = shards_column(D, P, part + 1) - first;
    const float *from = packed + (int64_t)part * gridDim.x * most + (int64_t)blockIdx.x * n;
    float *to = rows + (int64_t)blockIdx.x * D + first;
    for (int32_t d = (int32_t)threadIdx.x; d < n; d += (int32_t)blockDim.x) to[d] = from[d];
}

/* The encoder that batches are packed for; NULL: documents are dense. */
static encoder *own_bag(trainer *t) { return t->shape.dense ? NULL : &t->engine->own.bag; }

/* x of the documents of a batch, from the columns of all. */
static void encode(trainer *t, const batch_cuda *batch, int training)
{
    struct engine *e = t->engine;
    const dim3 blocks((unsigned)batch->B, (unsigned)processes.count);
    device *d = &e->gpu;
    if (t->shape.dense) {
        encoder_cuda_forward(&d->bag, &t->bag, batch, training, d->x, d->stream);
        return;
    }
    encoder_cuda_forward(&d->bag, &e->own.bag, batch, training, e->slice, d->stream);
    nccl_ok(processes_gather_cuda(e->slice, (size_t)batch->B * (size_t)e->most, e->packed, d->stream), "gathering inputs");
    unpack_kernel<<<blocks, row_threads(e->most), 0, d->stream>>>(e->packed, t->layer.inputs, processes.count, e->most, d->x);
    cuda_ok(cudaGetLastError(), "gathering inputs");
}

/* The update of this process's columns, from grad_x of all ranges. */
static void train_encoder(trainer *t, const batch_cuda *batch, float lr)
{
    struct engine *e = t->engine;
    const dim3 blocks((unsigned)batch->B, (unsigned)processes.count);
    device *d = &e->gpu;
    if (batch->rows >= e->square_room) {
        cudaFree(e->squares);
        e->square_room = batch->rows + batch->rows / 2 + 1;
        e->squares = (double *)cuda_need((size_t)e->square_room * sizeof(double), "sums of squares");
    }
    pack_kernel<<<blocks, row_threads(e->most), 0, d->stream>>>(d->grad_x, t->layer.inputs, processes.count, e->most, e->packed);
    cuda_ok(cudaGetLastError(), "scattering gradients");
    nccl_ok(processes_scatter_cuda(e->packed, (size_t)batch->B * (size_t)e->most, e->grad, d->stream), "scattering gradients");
    encoder_cuda_mask(&e->own.bag, batch, e->slice, e->grad, d->stream);
    t->bag.step = ++e->own.bag.step;
    encoder_cuda_update(&d->bag, &e->own.bag, batch, e->grad, lr, UPDATE_SQUARES, e->squares, d->stream);
    nccl_ok(processes_sum_cuda(e->squares, (size_t)batch->rows + 1, d->stream), "adding up squares");
    encoder_cuda_update(&d->bag, &e->own.bag, batch, e->grad, lr, UPDATE_STEP, e->squares, d->stream);
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    device *d = &t->engine->gpu;
    haste_step_options own = *step;
    haste_cuda_lists positives;   /* of all labels: those of other ranges are passed over */
    const batch_cuda *batch = device_batch(t, d, own_bag(t), document, B, &positives);
    if (own.block) own.block += t->engine->before;
    encode(t, batch, 1);
    device_step(t, d, B, &positives, &own, t->shape.dense ? NULL : d->grad_x);
    nccl_ok(processes_sum_cuda(d->loss + d->turn, 1, d->stream), "adding up losses");
    device_read_loss(d);
    if (rewire) {
        const int64_t *moved = processes_numbers(device_rewire(t, d, B, &positives, rewire));
        int i;
        for (i = 0; i < processes.count; i++) t->progress.moved += moved[i];
    }
    if (t->shape.dense) t->bag.step++;
    else train_encoder(t, batch, encoder_lr);
    device_stepped(t, d, B);
    processes_meet((int)stop_signal);
}

static void engine_wait(trainer *t) { device_wait(t, &t->engine->gpu); }

/* ---- >>scoring ----------------------------------------------------------------------------------------------- */

static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn)
{
    struct engine *e = t->engine;
    device *d = &e->gpu;
    const size_t n = 2 * (size_t)B * TOP, all = (size_t)processes.count * n;
    batch_cuda *batch = &d->batch[turn];
    int32_t *own = e->top + all;
    haste_error error;
    device_finish(t, d, turn);
    batch_pack(batch, own_bag(t), data, document, B, NULL, 0);
    batch_send(batch, d->copies, d->stream);
    encode(t, batch, 0);
    if (haste_cuda_top_k(&d->layer, &d->work, d->x, HASTE_CUDA_F32, B, TOP, NULL, own, (float *)(own + n / 2), d->stream,
                         &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    nccl_ok(processes_gather_cuda(own, n, e->top, d->stream), "gathering the best labels");
    cuda_ok(cudaMemcpyAsync(e->host_top + (size_t)turn * (size_t)processes.count * 2 * (size_t)t->room * TOP, e->top,
                            all * sizeof(int32_t), cudaMemcpyDeviceToHost, d->stream),
            "scoring documents");
    cuda_ok(cudaEventRecord(d->done[turn], d->stream), "scoring documents");
    e->scored[turn] = B;
    processes_meet((int)stop_signal);
}

static const int32_t *engine_best_done(trainer *t, int turn)
{
    struct engine *e = t->engine;
    const size_t n = (size_t)e->scored[turn] * TOP;
    const int32_t *top = e->host_top + (size_t)turn * (size_t)processes.count * 2 * (size_t)t->room * TOP;
    int32_t *best = e->best + (size_t)turn * (size_t)t->room * TOP;
    haste_error error;
    int i;
    cuda_ok(cudaEventSynchronize(e->gpu.done[turn]), "scoring documents");
    for (i = 0; i < processes.count; i++, top += 2 * n) {
        haste_found *found = &e->found[i];
        memset(found, 0, sizeof *found);
        found->id = top;   /* ids of the whole */
        found->score = (const float *)(top + n);
        found->labels = t->layer.labels;
    }
    if (haste_top_k_merge(e->found, processes.count, e->scored[turn], TOP, best, e->score, &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    return best;
}

/* ---- >>saving ------------------------------------------------------------------------------------------------ */

/* Gives the host's arrays back. */
static void forget(trainer *t)
{
    memset(&t->engine->own.part, 0, sizeof t->engine->own.part);
    munmap(t->engine->host, t->engine->host_bytes);
    point_into(t, NULL);
}

/* Room for all of the layer is asked for, and only this range's pages of it are used. */
static int engine_fetch(trainer *t, const char *path, char *why)
{
    struct engine *e = t->engine;
    haste_error error;
    engine_wait(t);
    e->host_bytes = (size_t)shards_offset(&t->layer, t->layer.block_count, 0);
    e->host = (char *)mmap(NULL, e->host_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (e->host == (char *)MAP_FAILED) die(1, "out of memory (%.0f MiB) to save the layer", mib(e->host_bytes));
    point_into(t, e->host);
    if (haste_cuda_download(&e->gpu.layer, &t->layer, e->gpu.stream, &error) != HASTE_OK) die(1, "%s", error.text);
    e->own.part = t->layer;
    if (!t->shape.dense) encoder_download(&e->gpu.bag, &e->own.bag);
    t->bag.row = e->own.bag.row;
    if (processes.count == 1 || parts_fetch(t, &e->own, path, why)) return 1;
    forget(t);
    return 0;
}

static int engine_fetched(trainer *t, int ok, char *why)
{
    if (processes.count > 1) ok = parts_fetched(t, &t->engine->own, ok, why);
    forget(t);
    return ok;
}

static void engine_result(const trainer *t)
{
    device_result(&t->engine->gpu);
    printf(" processes=%d", processes.count);
}

static void engine_free(trainer *t)
{
    struct engine *e = t->engine;
    device_free(&e->gpu);
    parts_free(t, &e->own);
    cudaFree(e->slice);
    cudaFree(e->grad);
    cudaFree(e->packed);
    cudaFree(e->squares);
    cudaFree(e->top);
    cudaFreeHost(e->host_top);
    free(e->best);
    free(e->score);
    free(e->found);
    free(e);
}
