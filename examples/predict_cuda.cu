/* haste-predict-cuda: haste-predict on an NVIDIA GPU, for models of haste-train and haste-train-cuda alike. The same program
   (predict.c, which this file includes) with another engine: the layer and the encoder live on the device.

       haste-predict-cuda model.haste test.txt > predictions.txt
       haste-predict-cuda model.haste test.txt --batch 1           latency of single queries

   mkdir -p build && nvcc -std=c++17 -O3 -arch=sm_90a -Xcompiler -fopenmp -I. examples/predict_cuda.cu -o build/haste-predict-cuda
       [-DHASTE_ZLIB -lz] */
#define PREDICT_CUDA
#define PREDICT_NAME  "haste-predict-cuda"
#define PREDICT_PATHS "auto|general|wide|narrow"
#define PREDICT_HELP  "order of the weights of labels in groups"
#define PREDICT_TOP_K 64
#include "predict.c"

#ifndef HASTE_CUDA_LINKED   /* the Makefile links build/haste_cuda.o, which takes a while to compile */
    #define HASTE_CUDA_IMPLEMENTATION
#endif
#include "haste_cuda.cuh"
#include "encoder_cuda.cuh"

struct engine {
    haste_cuda_layer     layer;
    haste_cuda_workspace work;
    encoder_cuda         bag;
    batch_cuda           batch;
    cudaStream_t         stream, copies;
    float               *x;           /* [batch, D] */
    int64_t             *offset;      /* [batch + 1] */
    int32_t             *id;          /* [room] */
    float               *score;       /* [room] */
    int64_t              room;
    char                 name[100];
};

static void engine_check(void)
{
    haste_error error;
    if (haste_cuda_supported(&error) != HASTE_OK) die(1, "no GPU that can be used: %s", error.text);
}

/* Room for `count` labels on the device and on the host. */
static void found_room(predictor *p, int64_t count)
{
    struct engine *e = p->engine;
    id_room(p, count);
    if (count <= e->room) return;
    cudaFree(e->id);
    cudaFree(e->score);
    e->id = (int32_t *)cuda_need((size_t)count * sizeof(int32_t), "what is found");
    e->score = (float *)cuda_need((size_t)count * sizeof(float), "what is found");
    e->room = count;
}

static void engine_make(predictor *p, int64_t ids)
{
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_cuda_workspace_options options;
    haste_cuda_options cuda;
    haste_error error;
    struct cudaDeviceProp device;
    int i;
    memset(e, 0, sizeof *e);
    p->engine = e;
    memset(&options, 0, sizeof options);
    options.batch = (int32_t)p->batch;
    options.top_k = (int32_t)p->top_k;
    options.ids = ids;
    options.purpose = HASTE_PREDICTION;
    memset(&cuda, 0, sizeof cuda);
    cuda.batch = (int32_t)p->batch;
    for (i = 0; i < p->file.layer.block_count; i++)   /* no order is faster to search than the general one */
        cuda.path[i] = p->path == HASTE_CUDA_AUTO || !p->file.layer.block[i].index ? HASTE_CUDA_GENERAL
                                                                                  : (haste_cuda_path)p->path;
    cuda_ok(cudaStreamCreateWithFlags(&e->stream, cudaStreamNonBlocking), "making a stream");
    cuda_ok(cudaStreamCreateWithFlags(&e->copies, cudaStreamNonBlocking), "making a stream");
    if (haste_cuda_upload(&e->layer, &p->file.layer, &cuda, e->stream, &error) != HASTE_OK ||
        haste_cuda_workspace_create(&e->work, &e->layer, &options, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!p->shape.dense) encoder_upload(&e->bag, &p->bag, 0);
    batch_create(&e->batch);
    e->x = (float *)cuda_need((size_t)p->batch * (size_t)p->shape.width * sizeof(float), "a batch's inputs");
    e->offset = (int64_t *)cuda_need(((size_t)p->batch + 1) * sizeof(int64_t), "a batch's offsets");
    found_room(p, p->batch * p->top_k);
    cuda_ok(cudaGetDeviceProperties(&device, e->layer.device), "cudaGetDeviceProperties");
    snprintf(e->name, sizeof e->name, "%.80s, %s", device.name, p->file.layer.dtype == HASTE_BF16 ? "bfloat16" : "float32");
}

static void bring(predictor *p, void *to, const void *from, size_t bytes)
{
    cuda_ok(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, p->engine->stream), "reading what was found");
}

static void engine_search(predictor *p, int64_t first, int32_t B, const haste_lists *excluded)
{
    struct engine *e = p->engine;
    const haste_cuda_stream stream = e->stream;
    const int32_t k = (int32_t)p->top_k;
    const float threshold = (float)p->threshold;
    haste_cuda_lists without;
    haste_cuda_search_options options;
    haste_status status;
    haste_error error;
    int64_t found = (int64_t)B * k;
    int32_t b;
    (void)first;
    memset(&options, 0, sizeof options);
    if (excluded) {
        without.offset = excluded->offset;
        without.id = excluded->id;
        without.on_host = 1;
        options.excluded = &without;
    }
    batch_pack(&e->batch, p->shape.dense ? NULL : &p->bag, &p->data, p->document, B, NULL, 0);
    batch_send(&e->batch, e->copies, e->stream);
    encoder_cuda_forward(&e->bag, &p->bag, &e->batch, 0, e->x, e->stream);
    if (p->by_threshold) {
        status = haste_cuda_above(&e->layer, &e->work, e->x, HASTE_CUDA_F32, B, threshold, &options, e->offset, e->id,
                                  e->score, e->room, &found, stream, &error);
        if (status == HASTE_ERR_SIZE && found > e->room) {   /* now it is known how many there are */
            found_room(p, found);
            status = haste_cuda_above(&e->layer, &e->work, e->x, HASTE_CUDA_F32, B, threshold, &options, e->offset, e->id,
                                      e->score, e->room, &found, stream, &error);
        }
        if (status == HASTE_OK) bring(p, p->offset, e->offset, ((size_t)B + 1) * sizeof(int64_t));
    } else {
        status = haste_cuda_top_k(&e->layer, &e->work, e->x, HASTE_CUDA_F32, B, k, &options, e->id, e->score, stream, &error);
        for (b = 0; b <= B; b++) p->offset[b] = (int64_t)b * k;
    }
    if (status == HASTE_OK && found > 0) {
        bring(p, p->id, e->id, (size_t)found * sizeof(int32_t));
        bring(p, p->score, e->score, (size_t)found * sizeof(float));
    }
    if (status == HASTE_OK) status = haste_cuda_check(&e->work, stream, &error);   /* waits */
    if (status != HASTE_OK) die(1, "%s: %s: %s", p->data_path, p->where, error.text);
}

static const char *engine_text(const predictor *p, char text[128])
{
    snprintf(text, 128, "%s", p->engine->name);
    return text;
}

static void engine_free(predictor *p)
{
    struct engine *e = p->engine;
    batch_free(&e->batch);
    cudaFree(e->x);
    cudaFree(e->offset);
    cudaFree(e->id);
    cudaFree(e->score);
    encoder_cuda_free(&e->bag);
    haste_cuda_workspace_free(&e->work);
    haste_cuda_layer_free(&e->layer);
    cudaStreamDestroy(e->copies);
    cudaStreamDestroy(e->stream);
    free(e);
}
