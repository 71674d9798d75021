/* train_device.cuh: what an engine has on its GPU, and how steps and batches take turns there. For train_cuda.cu and train_nccl.cu,
   which include it behind train.c, haste_cuda.cuh and encoder_cuda.cuh.

   While the device works on one batch the host packs the next and sends it, in training and in scoring; losses are read when
   their buffers are wanted again, two steps later. */
#ifndef TRAIN_DEVICE_CUH
#define TRAIN_DEVICE_CUH

#define CHECK_STEPS 256   /* so often the device is asked whether all numbers are finite: that waits for it */

typedef struct device {
    haste_cuda_layer     layer;
    haste_cuda_workspace work;
    encoder_cuda         bag;
    cudaStream_t         stream, copies;
    float               *x, *grad_x;       /* [room, D] */
    size_t               rewire_bytes, bytes;
    /* two batches in turn, to train on or to score */
    int                  turn;
    batch_cuda           batch[2];
    cudaEvent_t          done[2];          /* the step, or the search, that used the batch */
    int32_t              pending[2];       /* its documents, until its loss is read; else 0 */
    double              *loss, *host_loss; /* [2] */
} device;

/* Streams, and the options (=) of the layer that comes to the device. */
static void device_begin(const trainer *t, device *d, const haste_layer_options *options, haste_cuda_options *cuda)
{
    int i;
    cuda_ok(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), "making a stream");
    cuda_ok(cudaStreamCreateWithFlags(&d->copies, cudaStreamNonBlocking), "making a stream");
    memset(cuda, 0, sizeof *cuda);
    cuda->batch = (int32_t)t->s.batch;
    for (i = 0; i < options->block_count; i++)   /* dense labels take what they get */
        if (options->block[i].fan_in != HASTE_DENSE && options->block[i].fan_in < options->inputs)
            cuda->path[i] = (haste_cuda_path)t->s.path;
}

/* All else, beside the layer, and says what it takes. e: what is here of the encoder. */
static void device_make(trainer *t, device *d, const haste_layer_options *options, const haste_cuda_options *cuda,
                        const encoder *e)
{
    const size_t inputs = (size_t)t->room * (size_t)t->layer.inputs;
    const size_t rows = t->shape.dense ? 0 : encoder_bytes(e->features, e->width) + encoder_moment_bytes(e->features);
    haste_cuda_workspace_options work;
    haste_cuda_plan plan;
    haste_error error;
    struct cudaDeviceProp about;
    int i;
    memset(&work, 0, sizeof work);
    work.batch = t->room;
    work.ids = data_most_labels(&t->train, t->s.batch);
    work.top_k = TOP;
    work.deterministic = t->s.deterministic;
    if (haste_cuda_plan_bytes(options, &work, cuda, &plan, &error) != HASTE_OK ||
        haste_cuda_workspace_create(&d->work, &d->layer, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!t->shape.dense) encoder_upload(&d->bag, e, 1);
    d->x = (float *)cuda_need(inputs * sizeof(float), "a batch's inputs");
    d->grad_x = (float *)cuda_need(inputs * sizeof(float), "a batch's gradient");
    d->loss = (double *)cuda_need(2 * sizeof(double), "losses");
    cuda_ok(cudaMallocHost((void **)&d->host_loss, 2 * sizeof(double)), "pinned memory");
    for (i = 0; i < 2; i++) {
        batch_create(&d->batch[i]);
        cuda_ok(cudaEventCreateWithFlags(&d->done[i], cudaEventDisableTiming), "making an event");
    }
    d->rewire_bytes = plan.rewire;
    d->bytes = plan.layer + plan.workspace + 2 * inputs * sizeof(float) + rows;

    say(t, "memory     on the GPU: layer %.1f MiB, workspace %.1f, rewiring %.1f, encoder %.1f; here: data %.1f\n",
        mib(plan.layer), mib(plan.workspace), mib(plan.rewire), mib(rows), data_bytes(t) / 1048576);
    cuda_ok(cudaGetDeviceProperties(&about, d->layer.device), "cudaGetDeviceProperties");
    say(t, "runs on    %s, compute capability %d.%d; %s", about.name, about.major, about.minor,
        d->layer.dtype == HASTE_BF16 ? "bfloat16" : "float32");
    for (i = 0; i < d->layer.block_count; i++) {
        const char *why;   /* not a faster path */
        const haste_cuda_path path = haste_cuda_path_of(&d->layer, &d->work, i, (int32_t)t->s.batch, &why);
        say(t, "; %s %s%s%s%s", d->layer.block[i].index ? "groups" : "head", haste_cuda_path_text(path),
            why[0] ? " (" : "", why, why[0] ? ")" : "");
    }
    say(t, "\n");
}

/* What only the device could see so far. Waits. */
static void device_check(trainer *t, device *d)
{
    haste_error error;
    haste_status status = haste_cuda_check(&d->work, d->stream, &error);
    if (status == HASTE_ERR_NONFINITE)
        die(1, "training diverged by step %lld: %s; a smaller --lr or --encoder-lr may help", (long long)t->progress.step,
            error.text);
    if (status != HASTE_OK) die(1, "by step %lld: %s", (long long)t->progress.step, error.text);
}

/* Waits for the step that uses a batch, and takes its loss; the batch is free then. */
static void device_finish(trainer *t, device *d, int turn)
{
    if (d->pending[turn] == 0) return;
    cuda_ok(cudaEventSynchronize(d->done[turn]), "training");
    t->progress.loss += d->host_loss[turn] * d->pending[turn];
    d->pending[turn] = 0;
}

static void device_wait(trainer *t, device *d)
{
    device_finish(t, d, d->turn);   /* the older one first: sums in the order of the steps */
    device_finish(t, d, 1 - d->turn);
    device_check(t, d);
}

/* The next batch, on its way. e: as of batch_pack. */
static batch_cuda *device_batch(trainer *t, device *d, encoder *e, const int64_t *document, int32_t B,
                                haste_cuda_lists *positives)
{
    batch_cuda *batch = &d->batch[d->turn];
    haste_lists labels;
    device_finish(t, d, d->turn);
    labels = gather_labels(t, &t->train, document, B);
    batch_pack(batch, e, &t->train, document, B, &labels, 1);
    batch_send(batch, d->copies, d->stream);
    positives->offset = batch->label_offset;
    positives->id = batch->label;
    positives->on_host = 0;
    return batch;
}

/* The layer's step from d->x. grad_x: NULL where nobody wants it. */
static void device_step(trainer *t, device *d, int32_t B, const haste_cuda_lists *positives, const haste_step_options *step,
                        float *grad_x)
{
    haste_error error;
    if (grad_x)
        cuda_ok(cudaMemsetAsync(grad_x, 0, (size_t)B * (size_t)t->layer.inputs * sizeof(float), d->stream), "cudaMemsetAsync");
    if (haste_cuda_train_step(&d->layer, &d->work, d->x, HASTE_CUDA_F32, B, positives, step, d->loss + d->turn, grad_x,
                              HASTE_CUDA_F32, d->stream, &error) != HASTE_OK)
        die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
}

/* The loss, when the step is done. */
static void device_read_loss(device *d)
{
    cuda_ok(cudaMemcpyAsync(d->host_loss + d->turn, d->loss + d->turn, sizeof(double), cudaMemcpyDeviceToHost, d->stream),
            "reading the loss");
}

/* How many inputs moved. Waits. */
static int64_t device_rewire(trainer *t, device *d, int32_t B, const haste_cuda_lists *positives,
                             const haste_rewire_options *rewire)
{
    haste_error error;
    int64_t moved = 0;
    device_check(t, d);
    if (haste_cuda_rewire(&d->layer, &d->work, rewire, d->x, HASTE_CUDA_F32, B, positives, &moved, d->stream,
                          &error) != HASTE_OK)
        die(1, "rewiring: %s", error.text);
    return moved;
}

/* All that a step does is queued. */
static void device_stepped(trainer *t, device *d, int32_t B)
{
    cuda_ok(cudaEventRecord(d->done[d->turn], d->stream), "training");
    d->pending[d->turn] = B;
    d->turn = 1 - d->turn;
    if (t->progress.step % CHECK_STEPS == CHECK_STEPS - 1) device_check(t, d);
}

static void device_free(device *d)
{
    int i;
    for (i = 0; i < 2; i++) {
        batch_free(&d->batch[i]);
        cudaEventDestroy(d->done[i]);
    }
    cudaFreeHost(d->host_loss);
    cudaFree(d->loss);
    cudaFree(d->grad_x);
    cudaFree(d->x);
    encoder_cuda_free(&d->bag);
    haste_cuda_workspace_free(&d->work);
    haste_cuda_layer_free(&d->layer);
    cudaStreamDestroy(d->copies);
    cudaStreamDestroy(d->stream);
}

/* For scripts. */
static void device_result(const device *d)
{
    const size_t rewiring = d->layer.rewires > 0 ? d->rewire_bytes : 0;
    printf(" gpu_mib=%.0f", mib(d->bytes + d->batch[0].room + d->batch[1].room + rewiring));
}

#endif /* TRAIN_DEVICE_CUH */
