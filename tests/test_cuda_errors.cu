// haste_cuda.cuh on a device: what is refused, and that nothing has changed then.
#include "cuda.h"

static void errors()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), other;
    haste_cuda_layer dev = upload(&layer), failed, view;
    haste_cuda_workspace work = workspace(&dev, 8, 0), none;
    haste_cuda_options forced;
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, 8);
    haste_cuda_lists lists = host_lists(&batch), wrong = lists;
    haste_step_options o;
    void *x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4);
    const char *why = NULL;
    int32_t id[16], k;
    memset(&o, 0, sizeof o);
    memset(&failed, 0x5a, sizeof failed);
    memset(&none, 0, sizeof none);
    #define STEP(layer, work, x, B, lists, options) \
        haste_cuda_train_step(layer, work, x, HASTE_CUDA_F32, B, &(lists), options, NULL, NULL, HASTE_CUDA_F32, NULL, \
                              &test_error)
    CHECK_STATUS(STEP(NULL, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, NULL, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &none, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, NULL, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, -1, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, 9, lists, &o), HASTE_ERR_SIZE, test_error);
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, NULL), HASTE_ERR_ARG, test_error);
    o.lr = -1;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    o.lr = .1f;
    wrong.offset = NULL;
    CHECK_STATUS(STEP(&dev, &work, x, 8, wrong, &o), HASTE_ERR_ARG, test_error);
    k = batch.id[batch.offset[0]];
    for (wrong = lists; batch.offset[8] == batch.offset[0]; ) break;
    batch.id[batch.offset[8] - 1] = layer.labels;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_DATA, test_error);
    batch.id[batch.offset[8] - 1] = k >= 0 ? k : 0;
    CHECK(dev.step == 0);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 65, NULL, id, NULL, NULL, &test_error),
                 HASTE_ERR_SIZE,
                 test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 0, NULL, id, NULL, NULL, &test_error),
                 HASTE_ERR_ARG,
                 test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, (haste_cuda_type)3, 8, 1, NULL, id, NULL, NULL, &test_error),
                 HASTE_ERR_ARG, test_error);
    // another device
    dev.device = work.device = 1;
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &layer, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_workspace_create(&none, &dev, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_ERR_ARG, test_error);
    dev.device = work.device = 0;
    {
        haste_layer back = test_copy(&layer);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);   // nothing above has changed a weight
        haste_layer_free(&back);
    }
    CHECK_STATUS(STEP(&dev, &work, x, 8, lists, &o), HASTE_OK, test_error);   // and all goes on
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    // paths
    memset(&forced, 0, sizeof forced);
    forced.path[0] = HASTE_CUDA_GENERAL;
    CHECK_STATUS(haste_cuda_upload(&failed, &layer, &forced, NULL, &test_error), HASTE_OK, test_error);
    CHECK(haste_cuda_path_of(&failed, NULL, 0, 8, &why) == HASTE_CUDA_GENERAL && why && why[0]);
    haste_cuda_layer_free(&failed);
    CHECK(strcmp(haste_cuda_path_text(HASTE_CUDA_WIDE), "wide") == 0 && haste_status_text(HASTE_ERR_DEVICE)[0]);
    // a view on memory of one's own
    {
        haste_layer arrays = layer;
        haste_block *b = &arrays.block[0];
        b->index = dev.block[0].index;
        b->weight = dev.block[0].weight;
        b->bias = dev.block[0].bias;
        arrays.label_of = dev.label_of;
        arrays.slot_of = dev.slot_of;
        CHECK_STATUS(haste_cuda_layer_view(&view, &arrays, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(STEP(&view, &work, x, 8, lists, &o), HASTE_OK, test_error);
        haste_cuda_layer_free(&view);
        b->weight = NULL;
        CHECK_STATUS(haste_cuda_layer_view(&view, &arrays, &test_error), HASTE_ERR_STATE, test_error);
    }
    options = test_options(&test_shapes[4], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    other = test_layer(&options);
    CHECK_STATUS(haste_cuda_download(&dev, &other, NULL, &test_error), HASTE_ERR_ARG, test_error);
    haste_layer_free(&other);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

// Nothing is done for no samples, and nothing is wrong with that.
static void no_samples()
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    haste_cuda_gradient gradient;
    haste_step_options o;
    haste_rewire_options r;
    double *loss = (double *)device_bytes(2 * 8), *got;
    int64_t *offset = (int64_t *)device_bytes(8), needed = -1, moved = -1, *first;
    size_t bytes;
    char *used;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = 1;
    o.weight_decay = .1f;
    r.share = .5f;
    r.growth = HASTE_GROW_GRADIENT;
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    bytes = gradient.bytes;
    MUST(cudaMemset(gradient.memory, 0x7f, bytes));
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, &o, loss, NULL, HASTE_CUDA_F32, NULL,
                                       &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, &o, &gradient, loss + 1, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, &o, NULL, loss + 1, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK(strstr(test_error.text, "gradient is NULL") != NULL);
    CHECK_STATUS(haste_cuda_evaluate(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, NULL, loss + 1, NULL, HASTE_CUDA_F32, NULL,
                                     &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_ERR_STATE, test_error);
    CHECK(strstr(test_error.text, "nothing is pending") != NULL);
    CHECK_STATUS(haste_cuda_forward(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, HASTE_CUDA_F32, NULL, &test_error),
                 HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_backward(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, HASTE_CUDA_F32, &gradient, NULL,
                                     HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_score(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, NULL, HASTE_CUDA_F32, 0, 3, NULL, NULL, NULL, NULL, &test_error),
                 HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_above(&dev, &work, NULL, HASTE_CUDA_F32, 0, 0, NULL, offset, NULL, NULL, 0, &needed, NULL,
                                  &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, &moved, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    CHECK(needed == 0 && moved == 0 && gradient.pending == 0 && dev.step == 0 && dev.rewires == 0);
    got = (double *)host_take(loss, 2 * 8);
    first = (int64_t *)host_take(offset, 8);
    used = (char *)test_alloc(bytes);
    MUST(cudaMemcpy(used, gradient.memory, bytes, cudaMemcpyDeviceToHost));
    CHECK(got[0] == 0 && got[1] == 0 && first[0] == 0);
    CHECK(used[0] == 0x7f && used[bytes - 1] == 0x7f && memcmp(used, used + 1, bytes - 1) == 0);
    CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &back) == NULL);
    // but what is wrong without samples too is said
    o.lr = -1;
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, NULL, HASTE_CUDA_F32, 0, NULL, &o, NULL, NULL, HASTE_CUDA_F32, NULL,
                                       &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_cuda_forward(&dev, &work, NULL, HASTE_CUDA_F32, -1, NULL, HASTE_CUDA_F32, NULL, &test_error),
                 HASTE_ERR_ARG, test_error);
    free(got); free(first); free(used);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

// A workspace for training alone, or prediction alone: smaller, as good for that, and for nothing else.
/* What ranges on CPUs are told is no matter for a GPU, where haste_cuda_options cut; it is refused, not passed over. */
static void add_nothing(void *context, int64_t *number, int32_t n) { (void)context; (void)number; (void)n; }
static void ranges_of_the_cpu()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_cuda_layer dev, kept;
    haste_cuda_workspace work;
    haste_rewire_options r;
    double sums[HASTE_SOFTMAX_SUMS] = { 0 };
    memset(&dev, 0x55, sizeof dev);
    kept = dev;
    options.first_slot = 32;
    CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK(strstr(test_error.text, "first_slot = 32") != NULL && memcmp(&dev, &kept, sizeof dev) == 0);
    options.first_slot = 0;
    CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
    work = workspace(&dev, 8, 0);
    memset(&r, 0, sizeof r);
    r.share = .1f;
    r.sum = add_nothing;
    CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error), HASTE_ERR_ARG,
                 test_error);
    CHECK(strstr(test_error.text, "sum or softmax") != NULL);
    r.sum = NULL;
    r.softmax = sums;
    CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error), HASTE_ERR_ARG,
                 test_error);
    CHECK(dev.rewires == 0);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
}

static void purposes()
{
    enum { B = 40 };
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), after[2] = { test_copy(&layer), test_copy(&layer) };
    test_batch batch = test_make_batch(&layer, B);
    const size_t n = B * (size_t)layer.slots * 4;
    void *x = device_copy(batch.x, B * (size_t)layer.inputs * 4), *out = device_bytes(n), *id = device_bytes(B * 5 * 4);
    char *logits[3], *best[2];
    size_t bytes[3];
    int purpose, k;
    for (purpose = HASTE_ANY_PURPOSE; purpose <= HASTE_PREDICTION; purpose++) {
        const int train = purpose != HASTE_PREDICTION, predict = purpose != HASTE_TRAINING;
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work;
        haste_cuda_workspace_options work_options;
        haste_cuda_plan plan;
        haste_cuda_gradient gradient;
        haste_step_options o;
        haste_rewire_options r;
        int64_t offset = 0, needed;
        memset(&o, 0, sizeof o);
        memset(&r, 0, sizeof r);
        memset(&work_options, 0, sizeof work_options);
        o.lr = .5f;
        work_options.batch = B;
        work_options.purpose = (haste_purpose)purpose;
        CHECK_STATUS(haste_cuda_plan_bytes(&options, &work_options, NULL, &plan, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
        CHECK(work.bytes == plan.workspace);
        bytes[purpose] = work.bytes;
        CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK,
                     test_error);
        logits[purpose] = (char *)host_copy(out, n);
        CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), (float *)out,
                                      NULL,
                                      &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, 5, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error),
                     predict ? HASTE_OK : HASTE_ERR_ARG, test_error);
        if (predict) best[purpose ? 1 : 0] = (char *)host_copy(id, B * 5 * 4);
        else CHECK(strstr(test_error.text, "for training alone") != NULL);
        CHECK_STATUS(haste_cuda_above(&dev, &work, x, HASTE_CUDA_F32, B, 1e30f, NULL, (int64_t *)out, NULL, NULL,
                                      offset,
                                      &needed, NULL, &test_error), predict ? HASTE_OK : HASTE_ERR_ARG, test_error);
        CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                           &gradient,
                                           NULL, NULL, HASTE_CUDA_F32, NULL, &test_error),
                                           train ? HASTE_OK : HASTE_ERR_ARG,
                     test_error);
        gradient.pending = 1;
        CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), train ? HASTE_OK : HASTE_ERR_ARG,
                     test_error);
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
                     train ? HASTE_OK : HASTE_ERR_ARG, test_error);
        CHECK_STATUS(haste_cuda_backward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, x,
                                         HASTE_CUDA_F32,
                                         NULL, &test_error), train ? HASTE_OK : HASTE_ERR_ARG, test_error);
        cudaFree(x);
        x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), train ? HASTE_OK : HASTE_ERR_ARG,
                                           test_error);
        CHECK_STATUS(haste_cuda_evaluate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), NULL, NULL, NULL,
                                         HASTE_CUDA_F32, NULL, &test_error), train ? HASTE_OK : HASTE_ERR_ARG, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK(dev.step == (train ? 2 : 0));
        if (train) CHECK_STATUS(haste_cuda_download(&dev, &after[purpose], NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
    }
    CHECK(bytes[HASTE_TRAINING] < bytes[HASTE_ANY_PURPOSE] && bytes[HASTE_PREDICTION] < bytes[HASTE_ANY_PURPOSE]);
    CHECK(test_difference(&after[0], &after[1]) == NULL && test_difference(&after[0], &layer) != NULL);
    CHECK(memcmp(logits[0], logits[1], n) == 0 && memcmp(logits[0], logits[2], n) == 0);
    CHECK(memcmp(best[0], best[1], B * 5 * 4) == 0);
    for (k = 0; k < 3; k++) free(logits[k]);
    for (k = 0; k < 2; k++) { free(best[k]); haste_layer_free(&after[k]); }
    free(host_take(out, n));
    cudaFree(x);
    cudaFree(id);
    test_free_batch(&batch);
    haste_layer_free(&layer);
}

// A graph would repeat the step number and random numbers of its capture for ever where they do not lie on the device: such
// training is refused, as is what waits and lists on the host. What is let through gives in each replay what it gives alone.
static void captured()
{
    enum { B = 40, K = 5 };
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, B, 0);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, B);
    const haste_cuda_lists here = host_lists(&batch), there = device_lists(&batch);
    const size_t n = B * (size_t)layer.slots * 4, inputs = B * (size_t)layer.inputs * 4;
    void *x = device_copy(batch.x, inputs), *out = device_bytes(n), *id = device_bytes(B * K * 4),
        *score = device_bytes(B * 6 * 4);
    haste_step_options o;
    haste_rewire_options r;
    cudaStream_t stream;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready;
    char *want[4], *got;
    int64_t needed;
    int i;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .01f;
    r.share = .1f;
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    #define PREDICT()                                                                                                  \
        CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, stream, &test_error),  \
                     HASTE_OK, test_error);                                                                            \
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, K, without(&there), (int32_t *)id, NULL, stream,       \
                                      &test_error), HASTE_OK, test_error);                                             \
        CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, B, &there, (float *)score, stream, &test_error), \
                     HASTE_OK, test_error);                                                                            \
        CHECK_STATUS(haste_cuda_backward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, &gradient, NULL,      \
                                         HASTE_CUDA_F32, stream, &test_error), HASTE_OK, test_error)
    PREDICT();
    MUST(cudaStreamSynchronize(stream));
    want[0] = (char *)host_copy(out, n);
    want[1] = (char *)host_copy(id, B * K * 4);
    want[2] = (char *)host_copy(score, B * 6 * 4);
    want[3] = (char *)test_alloc(gradient.bytes);
    MUST(cudaMemcpy(want[3], gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
    MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    #define REFUSED(call)                                                                                              \
        CHECK_STATUS(call, HASTE_ERR_STATE, test_error);                                                               \
        CHECK(strstr(test_error.text, "captured") != NULL)
    REFUSED(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, &there, &o, NULL, NULL, HASTE_CUDA_F32, stream,
                                  &test_error));
    REFUSED(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, &here, &o, NULL, NULL, HASTE_CUDA_F32, stream,
                                  &test_error));
    o.loss.share = .5f;
    REFUSED(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, &there, &o, &gradient, NULL, NULL, HASTE_CUDA_F32,
                                  stream, &test_error));
    REFUSED(haste_cuda_evaluate(&dev, &work, x, HASTE_CUDA_F32, B, &there, &o.loss, NULL, NULL, HASTE_CUDA_F32, stream,
                                &test_error));
    REFUSED(haste_cuda_apply(&dev, &work, &gradient, &o, stream, &test_error));
    REFUSED(haste_cuda_gradient_zero(&gradient, &dev, stream, &test_error));
    REFUSED(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, stream, &test_error));
    REFUSED(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, K, without(&here), (int32_t *)id, NULL, stream, &test_error));
    REFUSED(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, B, &here, (float *)score, stream, &test_error));
    REFUSED(haste_cuda_above(&dev, &work, x, HASTE_CUDA_F32, B, 0, NULL, (int64_t *)out, NULL, NULL, 0, &needed, stream,
                             &test_error));
    REFUSED(haste_cuda_check(&work, stream, &test_error));
    REFUSED(haste_cuda_download(&dev, &back, stream, &test_error));
    PREDICT();
    MUST(cudaStreamEndCapture(stream, &graph));
    CHECK(dev.step == 0 && dev.rewires == 0 && gradient.pending == 1);
    MUST(cudaGraphInstantiate(&ready, graph, 0));
    for (i = 0; i < 3; i++) {
        MUST(cudaMemset(out, 0xff, n));
        MUST(cudaMemset(id, 0xff, B * K * 4));
        MUST(cudaMemset(score, 0xff, B * 6 * 4));
        MUST(cudaMemset(gradient.memory, 0, gradient.bytes));
        MUST(cudaGraphLaunch(ready, stream));
        MUST(cudaStreamSynchronize(stream));
        got = (char *)host_copy(out, n);
        CHECK(memcmp(got, want[0], n) == 0);
        free(got);
        got = (char *)host_copy(id, B * K * 4);
        CHECK(memcmp(got, want[1], B * K * 4) == 0);
        free(got);
        got = (char *)host_copy(score, B * 6 * 4);
        CHECK(memcmp(got, want[2], B * 6 * 4) == 0);
        free(got);
        got = (char *)test_alloc(gradient.bytes);
        MUST(cudaMemcpy(got, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
        CHECK(memcmp(got, want[3], gradient.bytes) == 0);
        free(got);
    }
    // and outside all goes on: earlier lists on the host have left nothing behind
    for (i = 0; i < 3; i++)
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, &here, &o, NULL, NULL, HASTE_CUDA_F32,
                                           stream,
                                           &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, stream, &test_error), HASTE_OK, test_error);
    CHECK(dev.step == 3);
    MUST(cudaGraphExecDestroy(ready));
    MUST(cudaGraphDestroy(graph));
    MUST(cudaStreamDestroy(stream));
    for (i = 0; i < 4; i++) free(want[i]);
    cudaFree(x); cudaFree(out); cudaFree(id); cudaFree(score);
    free_lists(there);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    test_free_batch(&batch);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

// An error that another library has left for cudaGetLastError is not taken for ours, and is still there afterwards: from the
// second round on, for the first use of a kernel calls cudaFuncSetAttribute, and that clears it when it succeeds.
static void errors_of_others()
{
    enum { B = 8 };
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload(&layer), other;
    haste_cuda_workspace work = workspace(&dev, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    void *x = device_copy(batch.x, B * (size_t)layer.inputs * 4), *out = device_bytes(B * (size_t)layer.slots * 4),
        *id = device_bytes(B * 5 * 4), *never = NULL;
    cudaError_t left;
    int round;
    haste_step_options o;
    haste_rewire_options r;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .01f;
    r.share = .1f;
    #define STILL()                                                                                       \
        do {                                                                                              \
            const cudaError_t now = cudaPeekAtLastError();                                                \
            if (round == 0) CHECK(now == left || now == cudaSuccess);                                     \
            else if (!CHECK(now == left)) printf("    left: %d, now: %d\n", (int)left, (int)now);         \
        } while (0)
    for (round = 0; round < 2; round++) {
        left = cudaMalloc(&never, (size_t)1 << 50);
        CHECK(left != cudaSuccess && cudaPeekAtLastError() == left);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        STILL();
        CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        STILL();
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, B, 5, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error), HASTE_OK, test_error);
        STILL();
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
                     HASTE_OK, test_error);
        STILL();
        CHECK_STATUS(haste_cuda_upload(&other, &layer, NULL, NULL, &test_error), HASTE_OK, test_error);
        STILL();
        haste_cuda_layer_free(&other);
        STILL();
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        STILL();
        CHECK(dev.step == round + 1);
        cudaGetLastError();
    }
    #undef STILL
    cudaFree(x); cudaFree(out); cudaFree(id);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    test_free_batch(&batch);
    haste_layer_free(&layer);
}

// What haste.h can be asked for and the device cannot is refused, not passed over.
static void not_on_the_device()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, 8);
    const haste_cuda_lists lists = host_lists(&batch);
    void *x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4);
    static const float ones[512] = {};
    static const double sums[8 * HASTE_SOFTMAX_SUMS] = {};
    static const char *const name[] = { "function", "positive_value", "label_weight", "label_scale", "label_offset",
                                        "ignored", "logit_scale", "margin", "positive_weight", "smoothing", "share",
                                        "softmax", "clip", "grad_norm", "scale", "frozen" };
    double norm;
    int i;
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    gradient.pending = 1;
    for (i = 0; i < (int)(sizeof name / sizeof name[0]); i++) {
        haste_block_rates rates;
        haste_step_options o;
        memset(&o, 0, sizeof o);
        memset(&rates, 0, sizeof rates);
        o.lr = .1f;
        if (i == 0) o.loss.function = [](void *, const haste_loss_tile *) {};
        else if (i < 5) (i == 1 ? o.loss.positive_value : i == 2 ? o.loss.label_weight :
                         i == 3 ? o.loss.label_scale : o.loss.label_offset) = ones;
        else if (i == 5) o.loss.ignored = &batch.positives;
        else if (i == 6) o.loss.logit_scale = 2;
        else if (i == 7) o.loss.margin = .1f;
        else if (i == 8) o.loss.positive_weight = 2;
        else if (i == 9) o.loss.smoothing = .1f;
        else if (i == 10) o.loss.share = .5f;
        else if (i == 11) o.loss.softmax = sums;
        else if (i == 12) o.clip = 1;
        else if (i == 13) o.grad_norm = &norm;
        else if (i == 14) o.loss.scale = 1e-60;
        else { rates.frozen = 2; o.block = &rates; }
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_ERR_ARG, test_error);
        CHECK(strstr(test_error.text, name[i]) != NULL);
        CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, &gradient, NULL, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
        CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_ERR_ARG, test_error);
    }
    {
        haste_cuda_search_options search = {};
        int64_t needed = -1;
        search.only = &lists;
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 1, &search, (int32_t *)x, NULL, NULL, &test_error),
                     HASTE_ERR_ARG, test_error);
        CHECK(strstr(test_error.text, "options.only") != NULL);
        CHECK_STATUS(haste_cuda_above(&dev, &work, x, HASTE_CUDA_F32, 8, 0, &search, (int64_t *)x, NULL, NULL, 0, &needed,
                                      NULL, &test_error), HASTE_ERR_ARG, test_error);
        CHECK(strstr(test_error.text, "options.only") != NULL && needed == -1);
    }
    CHECK(dev.step == 0 && gradient.pending == 1);
    CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &back) == NULL);
    cudaFree(x);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    test_free_batch(&batch);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(errors);
    RUN(no_samples);
    RUN(purposes);
    RUN(ranges_of_the_cpu);
    RUN(captured);
    RUN(errors_of_others);
    RUN(not_on_the_device);
    return check_end();
}
