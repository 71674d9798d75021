/* haste-train-cuda: haste-train on an NVIDIA GPU. The same program (train.c, which this file includes) with another engine:
   the layer (haste_cuda.cuh) and the encoder (encoder_cuda.cuh) live on the device. Model files go both ways.

       haste-train-cuda                                      a made-up data set
       haste-train-cuda TRAIN TEST --save model.haste        then haste-predict model.haste TEST, say

   train_device.cuh says how batches take turns. Weights are bfloat16 unless --dtype f32.

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

#include "train_device.cuh"

struct engine {
    device   gpu;
    int32_t *top, *host_top;   /* [room, TOP]; [2][room, TOP] pinned */
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
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_cuda_options cuda;
    haste_error error;
    memset(e, 0, sizeof *e);
    t->engine = e;
    if (!t->shape.dense && !encoder_scratch(&t->bag)) die(1, "out of memory");
    device_begin(t, &e->gpu, options, &cuda);
    if (haste_cuda_upload(&e->gpu.layer, &t->layer, &cuda, e->gpu.stream, &error) != HASTE_OK) die(1, "%s", error.text);
    device_make(t, &e->gpu, options, &cuda, &t->bag);
    e->top = (int32_t *)cuda_need((size_t)t->room * TOP * sizeof(int32_t), "a batch's labels");
    cuda_ok(cudaMallocHost((void **)&e->host_top, 2 * (size_t)t->room * TOP * sizeof(int32_t)), "pinned memory");
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    device *d = &t->engine->gpu;
    float *grad_x = t->shape.dense ? NULL : d->grad_x;
    haste_cuda_lists positives;
    const batch_cuda *batch = device_batch(t, d, t->shape.dense ? NULL : &t->bag, document, B, &positives);
    encoder_cuda_forward(&d->bag, &t->bag, batch, 1, d->x, d->stream);
    device_step(t, d, B, &positives, step, grad_x);
    device_read_loss(d);
    if (rewire) t->progress.moved += device_rewire(t, d, B, &positives, rewire);
    encoder_cuda_backward(&d->bag, &t->bag, batch, d->x, grad_x, encoder_lr, d->stream);
    device_stepped(t, d, B);
}

static void engine_wait(trainer *t) { device_wait(t, &t->engine->gpu); }

static int engine_fetch(trainer *t, const char *path, char *why)
{
    haste_error error;
    (void)path; (void)why;
    engine_wait(t);
    if (haste_cuda_download(&t->engine->gpu.layer, &t->layer, t->engine->gpu.stream, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!t->shape.dense) encoder_download(&t->engine->gpu.bag, &t->bag);
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
    device *d = &e->gpu;
    batch_cuda *batch = &d->batch[turn];
    haste_error error;
    device_finish(t, d, turn);
    batch_pack(batch, t->shape.dense ? NULL : &t->bag, data, document, B, NULL, 0);
    batch_send(batch, d->copies, d->stream);
    encoder_cuda_forward(&d->bag, &t->bag, batch, 0, d->x, d->stream);
    if (haste_cuda_top_k(&d->layer, &d->work, d->x, HASTE_CUDA_F32, B, TOP, NULL, e->top, NULL, d->stream, &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    cuda_ok(cudaMemcpyAsync(e->host_top + (size_t)turn * (size_t)t->room * TOP, e->top, (size_t)B * TOP * sizeof(int32_t),
                            cudaMemcpyDeviceToHost, d->stream),
            "scoring documents");
    cuda_ok(cudaEventRecord(d->done[turn], d->stream), "scoring documents");
}

static const int32_t *engine_best_done(trainer *t, int turn)
{
    cuda_ok(cudaEventSynchronize(t->engine->gpu.done[turn]), "scoring documents");
    return t->engine->host_top + (size_t)turn * (size_t)t->room * TOP;
}

static void engine_result(const trainer *t) { device_result(&t->engine->gpu); }

static void engine_free(trainer *t)
{
    cudaFreeHost(t->engine->host_top);
    cudaFree(t->engine->top);
    device_free(&t->engine->gpu);
    free(t->engine);
}
