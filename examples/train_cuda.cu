/* haste-train-cuda: haste-train on an NVIDIA GPU. The same program (train.c, which this file includes) with another engine:
   the layer (haste_cuda.cuh) and the encoder (encoder_cuda.cuh) live on the device. Model files go both ways.

       haste-train-cuda                                      a made-up data set
       haste-train-cuda TRAIN TEST --save model.haste        then haste-predict model.haste TEST, say

   While the device works on one batch the host packs the next and sends it, in training and in scoring; losses are read when
   their buffers are wanted again, two steps later. Weights are bfloat16 unless --dtype f32.

   mkdir -p build && nvcc -std=c++17 -O3 -arch=sm_90a -Xcompiler -fopenmp -I. examples/train_cuda.cu -o build/haste-train-cuda
       [-DHASTE_ZLIB -lz] */
#define TRAIN_CUDA
#define TRAIN_NAME  "haste-train-cuda"
#define TRAIN_PATHS "auto|general|wide|narrow"
#define TRAIN_DTYPE HASTE_BF16
#define TRAIN_SAME  " (bit for bit with --deterministic)"
#define TRAIN_ROOM  1024
#include "train.c"

#ifndef HASTE_CUDA_LINKED   /* the Makefile links build/haste_cuda.o, which takes a while to compile */
    #define HASTE_CUDA_IMPLEMENTATION
#endif
#include "haste_cuda.cuh"
#include "encoder_cuda.cuh"

#define CHECK_STEPS 256   /* so often the device is asked whether all numbers are finite: that waits for it */

struct engine {
    haste_cuda_layer     layer;
    haste_cuda_workspace work;
    encoder_cuda         bag;
    cudaStream_t         stream, copies;
    float               *x, *grad_x;       /* [room, D] */
    int32_t             *top, *host_top;   /* [room, TOP]; [2][room, TOP] pinned */
    size_t               rewire_bytes, bytes;
    /* two batches in turn, to train on or to score */
    int                  turn;
    batch_cuda           batch[2];
    cudaEvent_t          done[2];          /* the step, or the search, that used the batch */
    int32_t              pending[2];       /* its documents, until its loss is read; else 0 */
    double              *loss, *host_loss; /* [2] */
};

static void engine_check(const trainer *t)
{
    haste_error error;
    (void)t;
    if (haste_cuda_supported(&error) != HASTE_OK) die(1, "no GPU that can be used: %s", error.text);
}

static void engine_begin(trainer *t, const haste_layer_options *options) { make_whole(t, options); }

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t inputs = (size_t)t->room * (size_t)t->layer.inputs;
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_cuda_workspace_options work;
    haste_cuda_options cuda;
    haste_cuda_plan plan;
    haste_error error;
    struct cudaDeviceProp device;
    int i;
    memset(e, 0, sizeof *e);
    if (!t->shape.dense && !encoder_scratch(&t->bag)) die(1, "out of memory");
    memset(&cuda, 0, sizeof cuda);
    cuda.batch = (int32_t)t->s.batch;
    for (i = 0; i < t->layer.block_count; i++)   /* dense labels take what they get */
        if (t->layer.block[i].index) cuda.path[i] = (haste_cuda_path)t->s.path;
    memset(&work, 0, sizeof work);
    work.batch = t->room;
    work.ids = data_most_labels(&t->train, t->s.batch);
    work.top_k = TOP;
    work.deterministic = t->s.deterministic;

    cuda_ok(cudaStreamCreateWithFlags(&e->stream, cudaStreamNonBlocking), "making a stream");
    cuda_ok(cudaStreamCreateWithFlags(&e->copies, cudaStreamNonBlocking), "making a stream");
    if (haste_cuda_plan_bytes(options, &work, &cuda, &plan, &error) != HASTE_OK ||
        haste_cuda_upload(&e->layer, &t->layer, &cuda, e->stream, &error) != HASTE_OK ||
        haste_cuda_workspace_create(&e->work, &e->layer, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!t->shape.dense) encoder_upload(&e->bag, &t->bag, 1);
    e->x = (float *)cuda_need(inputs * sizeof(float), "a batch's inputs");
    e->grad_x = (float *)cuda_need(inputs * sizeof(float), "a batch's gradient");
    e->top = (int32_t *)cuda_need((size_t)t->room * TOP * sizeof(int32_t), "a batch's labels");
    e->loss = (double *)cuda_need(2 * sizeof(double), "losses");
    cuda_ok(cudaMallocHost((void **)&e->host_loss, 2 * sizeof(double)), "pinned memory");
    cuda_ok(cudaMallocHost((void **)&e->host_top, 2 * (size_t)t->room * TOP * sizeof(int32_t)), "pinned memory");
    for (i = 0; i < 2; i++) {
        batch_create(&e->batch[i]);
        cuda_ok(cudaEventCreateWithFlags(&e->done[i], cudaEventDisableTiming), "making an event");
    }
    e->rewire_bytes = plan.rewire;
    e->bytes = plan.layer + plan.workspace + 2 * inputs * sizeof(float);
    if (!t->shape.dense) e->bytes += encoder_bytes(t->bag.features, t->bag.width) + encoder_moment_bytes(t->bag.features);
    t->engine = e;

    say(t, "memory     on the GPU: layer %.1f MiB, workspace %.1f, rewiring %.1f, encoder %.1f; here: data %.1f\n",
           mib(plan.layer), mib(plan.workspace), mib(plan.rewire),
           t->shape.dense ? 0 : mib(encoder_bytes(t->bag.features, t->bag.width) + encoder_moment_bytes(t->bag.features)), data_bytes(t) / 1048576);
    cuda_ok(cudaGetDeviceProperties(&device, e->layer.device), "cudaGetDeviceProperties");
    say(t, "runs on    %s, compute capability %d.%d; %s", device.name, device.major, device.minor,
           t->layer.dtype == HASTE_BF16 ? "bfloat16" : "float32");
    for (i = 0; i < e->layer.block_count; i++) {
        const char *why;   /* not a faster path */
        const haste_cuda_path path = haste_cuda_path_of(&e->layer, &e->work, i, (int32_t)t->s.batch, &why);
        say(t, "; %s %s%s%s%s", options->block[i].fan_in == HASTE_DENSE ? "head" : "groups", haste_cuda_path_text(path),
               why[0] ? " (" : "", why, why[0] ? ")" : "");
    }
    say(t, "\n");
}

/* What only the device could see so far. Waits. */
static void check_device(trainer *t)
{
    haste_error error;
    haste_status status = haste_cuda_check(&t->engine->work, t->engine->stream, &error);
    if (status == HASTE_ERR_NONFINITE)
        die(1, "training diverged by step %lld: %s; a smaller --lr or --encoder-lr may help", (long long)t->progress.step,
            error.text);
    if (status != HASTE_OK) die(1, "by step %lld: %s", (long long)t->progress.step, error.text);
}

/* Waits for the step that uses a batch, and takes its loss; the batch is free then. */
static void finish_step(trainer *t, int turn)
{
    struct engine *e = t->engine;
    if (e->pending[turn] == 0) return;
    cuda_ok(cudaEventSynchronize(e->done[turn]), "training");
    t->progress.loss += e->host_loss[turn] * e->pending[turn];
    e->pending[turn] = 0;
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    struct engine *e = t->engine;
    const size_t inputs = (size_t)B * (size_t)t->layer.inputs;
    const int turn = e->turn;
    batch_cuda *batch = &e->batch[turn];
    float *grad_x = t->shape.dense ? NULL : e->grad_x;
    haste_lists labels;
    haste_cuda_lists positives;
    haste_error error;
    int64_t moved = 0;

    finish_step(t, turn);
    labels = gather_labels(t, &t->train, document, B);
    batch_pack(batch, t->shape.dense ? NULL : &t->bag, &t->train, document, B, &labels, 1);
    batch_send(batch, e->copies, e->stream);
    positives.offset = batch->label_offset;
    positives.id = batch->label;
    positives.on_host = 0;

    encoder_cuda_forward(&e->bag, &t->bag, batch, 1, e->x, e->stream);
    if (grad_x) cuda_ok(cudaMemsetAsync(grad_x, 0, inputs * sizeof(float), e->stream), "cudaMemsetAsync");
    if (haste_cuda_train_step(&e->layer, &e->work, e->x, HASTE_CUDA_F32, B, &positives, step, e->loss + turn, grad_x,
                              HASTE_CUDA_F32, e->stream, &error) != HASTE_OK)
        die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
    cuda_ok(cudaMemcpyAsync(e->host_loss + turn, e->loss + turn, sizeof(double), cudaMemcpyDeviceToHost, e->stream),
            "reading the loss");
    if (rewire) {
        check_device(t);
        if (haste_cuda_rewire(&e->layer, &e->work, rewire, e->x, HASTE_CUDA_F32, B, &positives, &moved, e->stream,
                              &error) != HASTE_OK)
            die(1, "rewiring: %s", error.text);
        t->progress.moved += moved;
    }
    encoder_cuda_backward(&e->bag, &t->bag, batch, e->x, grad_x, encoder_lr, e->stream);
    cuda_ok(cudaEventRecord(e->done[turn], e->stream), "training");
    e->pending[turn] = B;
    e->turn = 1 - turn;
    if (t->progress.step % CHECK_STEPS == CHECK_STEPS - 1) check_device(t);
}

static void engine_wait(trainer *t)
{
    finish_step(t, t->engine->turn);   /* the older one first: sums in the order of the steps */
    finish_step(t, 1 - t->engine->turn);
    check_device(t);
}

static int engine_fetch(trainer *t, const char *path, char *why)
{
    haste_error error;
    (void)path; (void)why;
    engine_wait(t);
    if (haste_cuda_download(&t->engine->layer, &t->layer, t->engine->stream, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!t->shape.dense) encoder_download(&t->engine->bag, &t->bag);
    return 1;
}

static int engine_fetched(trainer *t, int ok, char *why)
{
    (void)t; (void)why;
    return ok;
}

static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn)
{
    struct engine *e = t->engine;
    batch_cuda *batch = &e->batch[turn];
    haste_error error;
    finish_step(t, turn);
    batch_pack(batch, t->shape.dense ? NULL : &t->bag, data, document, B, NULL, 0);
    batch_send(batch, e->copies, e->stream);
    encoder_cuda_forward(&e->bag, &t->bag, batch, 0, e->x, e->stream);
    if (haste_cuda_top_k(&e->layer, &e->work, e->x, HASTE_CUDA_F32, B, TOP, NULL, e->top, NULL, e->stream,
                         &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    cuda_ok(cudaMemcpyAsync(e->host_top + (size_t)turn * (size_t)t->room * TOP, e->top, (size_t)B * TOP * sizeof(int32_t),
                            cudaMemcpyDeviceToHost, e->stream),
            "scoring documents");
    cuda_ok(cudaEventRecord(e->done[turn], e->stream), "scoring documents");
}

static const int32_t *engine_best_done(trainer *t, int turn)
{
    struct engine *e = t->engine;
    cuda_ok(cudaEventSynchronize(e->done[turn]), "scoring documents");
    return e->host_top + (size_t)turn * (size_t)t->room * TOP;
}

static void engine_result(const trainer *t)
{
    const struct engine *e = t->engine;
    const size_t rewiring = e->layer.rewires > 0 ? e->rewire_bytes : 0;
    printf(" gpu_mib=%.0f", mib(e->bytes + e->batch[0].room + e->batch[1].room + rewiring));
}

static void engine_free(trainer *t)
{
    struct engine *e = t->engine;
    int i;
    for (i = 0; i < 2; i++) {
        batch_free(&e->batch[i]);
        cudaEventDestroy(e->done[i]);
    }
    cudaFreeHost(e->host_loss);
    cudaFreeHost(e->host_top);
    cudaFree(e->loss);
    cudaFree(e->top);
    cudaFree(e->grad_x);
    cudaFree(e->x);
    encoder_cuda_free(&e->bag);
    haste_cuda_workspace_free(&e->work);
    haste_cuda_layer_free(&e->layer);
    cudaStreamDestroy(e->copies);
    cudaStreamDestroy(e->stream);
    free(e);
}
