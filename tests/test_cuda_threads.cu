// haste_cuda.cuh on a device: streams and host threads beside each other.
#include <thread>

#include "cuda.h"

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
        haste_cuda_train_step(&alone, &work[0], x, HASTE_CUDA_F32, 64, lists_of(host_lists(&batch)), &o, NULL, NULL,
                              HASTE_CUDA_F32,
                              NULL, NULL);
    haste_cuda_download(&alone, &a, NULL, NULL);
    for (i = 0; i < STEPS; i++) {
        CHECK_STATUS(haste_cuda_train_step(&one, &work[1], x, HASTE_CUDA_F32, 64, lists_of(host_lists(&batch)), &o,
                                           NULL, NULL,
                                           HASTE_CUDA_F32, stream[0], &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&two, &work[2], x, HASTE_CUDA_F32, 64, lists_of(host_lists(&batch)), &o,
                                           NULL, NULL,
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
                w->status = haste_cuda_train_step(&w->dev, &w->work, x, HASTE_CUDA_F32, BUSY_B, &lists, &o, NULL, NULL,
                                                  HASTE_CUDA_F32, w->stream, &w->error);
            else if (turn == 1)
                w->status = haste_cuda_top_k(&w->dev, &w->work, x, HASTE_CUDA_F32, step % 2 ? 1 : BUSY_B, BUSY_K,
                                             without(&lists),
                                             w->best + (size_t)step * BUSY_B * BUSY_K, NULL, w->stream, &w->error);
            else if (step % 4 == 3)
                w->status = haste_cuda_rewire(&w->dev, &w->work, &r, x, HASTE_CUDA_F32, BUSY_B, &lists, NULL, w->stream,
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
            w->status = haste_cuda_forward(layer, &w->work, x, HASTE_CUDA_F32, BUSY_B, logits, HASTE_CUDA_F32,
                                           w->stream,
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
   with alone. Would catch memory, events or limits of kernels that calls share, work on the default stream,
   and lists that
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
                CHECK_STATUS(haste_cuda_download(&one[i].dev, &together, one[i].stream, &test_error), HASTE_OK,
                             test_error);
                got = (int32_t *)host_copy(one[i].best, best);
                if (!(CHECK(test_difference(&alone[i], &together) == NULL) & CHECK(memcmp(got, alone_best[i],
                                                                                          best) == 0)))
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

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(two_streams);
    RUN(two_threads);
    RUN(two_readers);
    return check_end();
}
