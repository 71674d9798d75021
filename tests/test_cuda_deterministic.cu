// haste_cuda.cuh on a device: the same bits again, grad_x too, where that is asked for.
#include "cuda.h"

// The deterministic mode: the same bits of weights, states, loss and grad_x in 100 runs, each from the same layer and from a
// workspace that holds other rubbish. Would catch atomics on the way to grad_x (in the fast mode most runs differ), sums
// whose order hangs on which thread block comes first, and what a call takes over from the one before.
static int same_runs = 100;   // HASTE_TEST_RUNS=3: fewer, for compute-sanitizer

static void scramble(haste_cuda_workspace *work, int run)
{
    MUST(cudaMemset(work->memory, run * 85 & 0xff, work->bytes));
    haste_cuda_check(work, NULL, NULL);   // clears the flags, which the library expects to keep
}

/* As upload_for, into memory of our own that has been cleared: it is copied whole, what lies between arrays too. */
static haste_cuda_layer upload_cleared(const haste_layer *layer, haste_cuda_path path, int32_t B, char **memory)
{
    haste_cuda_layer dev = upload_for(layer, path, B);
    haste_cuda_options options;
    memset(&options, 0, sizeof options);
    memcpy(options.path, dev.path, sizeof options.path);
    options.batch = B;
    options.bytes = dev.bytes;
    haste_cuda_layer_free(&dev);
    MUST(cudaMalloc(&options.memory, options.bytes));
    MUST(cudaMemset(options.memory, 0, options.bytes));
    CHECK_STATUS(haste_cuda_upload(&dev, layer, &options, NULL, &test_error), HASTE_OK, test_error);
    *memory = (char *)options.memory;
    return dev;
}

static void deterministic_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                               haste_cuda_path path, int32_t B, int32_t chunks)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, HASTE_BF16);
    haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer);
    char *memory;
    haste_cuda_layer dev = upload_cleared(&layer, path, B < 128 ? B : 128, &memory),
        general = upload_for(&layer, HASTE_CUDA_GENERAL, B);
    haste_cuda_workspace work = chunked(&dev, B, 1, chunks), fast = chunked(&dev, B, 0, 0);
    test_batch batch = test_make_batch(&layer, B);
    size_t d = (size_t)B * (size_t)layer.inputs, all = dev.bytes + d * 4 + 8;
    void *x = device_copy(batch.x, d * 4), *dev_gx = device_bytes(d * 4), *dev_loss = device_bytes(8), *start;
    char *first = (char *)test_alloc(all), *now = (char *)test_alloc(all);
    haste_step_options o;
    int run, differ = 0, same_path = 1, falls_back = 1;
    int32_t k;
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    MUST(cudaMalloc(&start, dev.bytes));
    MUST(cudaMemcpy(start, memory, dev.bytes, cudaMemcpyDeviceToDevice));
    for (run = 0; run <= same_runs; run++) {   // the last one: fast mode
        haste_cuda_workspace *w = run < same_runs ? &work : &fast;
        char *to = run ? now : first;
        scramble(w, run);
        MUST(cudaMemcpy(memory, start, dev.bytes, cudaMemcpyDeviceToDevice));
        MUST(cudaMemset(dev_gx, 0, d * 4));
        dev.step = 0;
        CHECK_STATUS(haste_cuda_train_step(&dev, w, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                           (double *)dev_loss, dev_gx,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(w, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(to, memory, dev.bytes, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + dev.bytes, dev_gx, d * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + dev.bytes + d * 4, dev_loss, 8, cudaMemcpyDeviceToHost));
        if (run && run < same_runs) differ += memcmp(first, now, all) != 0;
    }
    CHECK(differ == 0);
    for (k = 0; k < layer.block_count; k++) {
        same_path &= haste_cuda_path_of(&dev, &work, k, B, NULL) == haste_cuda_path_of(&dev, &fast, k, B, NULL);
        falls_back &= haste_cuda_path_of(&dev, &work, k, B, NULL) == HASTE_CUDA_GENERAL;
    }
    if (same_path) CHECK(memcmp(first, now, dev.bytes) == 0);   // weights do not depend on the mode
    if (falls_back) {   // the general kernels make the same of every order of weights
        float *gx;
        MUST(cudaMemset(dev_gx, 0, d * 4));
        CHECK_STATUS(haste_cuda_train_step(&general, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                           NULL, dev_gx,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&general, &one, NULL, &test_error), HASTE_OK, test_error);
        gx = (float *)host_copy(dev_gx, d * 4);
        CHECK(memcmp(gx, first + dev.bytes, d * 4) == 0);
        free(gx);
        MUST(cudaMemcpy(memory, first, dev.bytes, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_download(&dev, &two, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&one, &two) == NULL);
        CHECK(test_difference(&layer, &one) != NULL);
    }
    if (differ) printf("    %s, path %d, B %d, optimizer %d: %d of %d runs differ\n", shape->name, (int)path, (int)B,
                       (int)optimizer, differ, same_runs);
    free(first); free(now);
    free(host_take(dev_gx, d * 4));
    cudaFree(x); cudaFree(dev_loss); cudaFree(start); cudaFree(memory);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_workspace_free(&fast);
    haste_cuda_layer_free(&dev);
    haste_cuda_layer_free(&general);
    haste_layer_free(&layer);
    haste_layer_free(&one);
    haste_layer_free(&two);
}

// Likewise gradients from given logit gradients.
static void deterministic_given(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload_for(&layer, path, B < 128 ? B : 128);
    haste_cuda_workspace work = chunked(&dev, B, 1, 5);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, B);
    size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs, i, all;
    float *slopes = (float *)test_alloc(n * 4);
    void *x = device_copy(batch.x, d * 4), *dev_gx = device_bytes(d * 4), *dev_slopes;
    char *first, *now;
    int run, differ = 0;
    for (i = 0; i < n; i++) slopes[i] = check_normal() * .01f;
    dev_slopes = device_numbers(slopes, n, HASTE_CUDA_BF16);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    all = gradient.bytes + d * 4;
    first = (char *)test_alloc(all);
    now = (char *)test_alloc(all);
    for (run = 0; run < same_runs; run++) {
        char *to = run ? now : first;
        scramble(&work, run);
        MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
        MUST(cudaMemset(dev_gx, 0, d * 4));
        CHECK_STATUS(haste_cuda_backward(&dev, &work, x, HASTE_CUDA_F32, B, dev_slopes, HASTE_CUDA_BF16, &gradient,
                                         dev_gx,
                                         HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(to, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(to + gradient.bytes, dev_gx, d * 4, cudaMemcpyDeviceToHost));
        if (run) differ += memcmp(first, now, all) != 0;
    }
    CHECK(differ == 0);
    if (differ) printf("    %s, path %d, B %d: %d runs differ\n", shape->name, (int)path, (int)B, differ);
    free(first); free(now); free(slopes);
    cudaFree(x); cudaFree(dev_gx); cudaFree(dev_slopes);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void deterministic()
{
    static const test_shape shapes[] = {
        { "narrow S 16",     12011, 128, 1, { { 0, 16,  64, 0, 0 } }, 0 },
        { "narrow S 32",      4003, 256, 1, { { 0, 32,  48, 0, 0 } }, 1 },
        { "dense, narrow",    2500, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 16, 32, 144, 288 } }, 1 },
        { "wide S 64",        2000, 160, 1, { { 0, 64, 128, 0, 0 } }, 1 },
        { "dense, wide",      2000, 208, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 32, 80, 16, 208 } }, 1 } };
    int i;
    for (i = 0; i < 2; i++)
        deterministic_case(&test_shapes[11], HASTE_SOFTMAX, HASTE_ADAMW, (haste_dtype)i, HASTE_CUDA_GENERAL, 70, 5);
    deterministic_case(&shapes[3], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_GENERAL, 130, 64);
    deterministic_case(&shapes[0], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_NARROW, 64, 5);
    deterministic_case(&shapes[0], HASTE_SOFTMAX, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_NARROW, 128, 64);
    deterministic_case(&shapes[1], HASTE_SQUARED_HINGE, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_NARROW, 128, 5);
    deterministic_case(&shapes[1], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_NARROW, 33, 64);
    deterministic_case(&shapes[2], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_NARROW, 100, 5);
    deterministic_case(&shapes[1], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_CUDA_NARROW, 200, 5);
    deterministic_case(&shapes[0], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_NARROW, 300, 64);   // by chunks
    deterministic_case(&shapes[3], HASTE_SOFTMAX, HASTE_ADAMW, HASTE_BF16, HASTE_CUDA_WIDE, 128, 5);
    deterministic_case(&shapes[4], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_CUDA_WIDE, 64, 64);
    for (i = 0; i < 2; i++) deterministic_given(&test_shapes[11], (haste_dtype)i, HASTE_CUDA_GENERAL, 70);
    deterministic_given(&shapes[1], HASTE_BF16, HASTE_CUDA_NARROW, 128);
    deterministic_given(&shapes[3], HASTE_BF16, HASTE_CUDA_WIDE, 130);
    deterministic_given(&shapes[4], HASTE_BF16, HASTE_CUDA_GENERAL, 64);
}

// More chunks than the fast mode has thread blocks for so large a batch: each has its logit gradients to itself.
static void many_chunks()
{
    static const test_shape shape = { "F above 64", 8192, 80, 1, { { 0, 8, 72, 0, 0 } }, 0 };
    enum { B = 640 };
    haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer);
    test_batch batch = test_make_batch(&layer, B);
    void *x = device_copy(batch.x, B * 80 * 4);
    haste_step_options o;
    int many;
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    for (many = 0; many < 2; many++) {
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work;
        haste_cuda_workspace_options work_options;
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = B;
        work_options.deterministic = many;
        work_options.chunks = 1024;
        CHECK_STATUS(haste_cuda_workspace_create(&work, &dev, &work_options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, many ? &two : &one, NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
    }
    CHECK(test_difference(&one, &two) == NULL);
    CHECK(test_difference(&layer, &one) != NULL);
    cudaFree(x);
    test_free_batch(&batch);
    haste_layer_free(&layer);
    haste_layer_free(&one);
    haste_layer_free(&two);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    if (getenv("HASTE_TEST_RUNS")) same_runs = atoi(getenv("HASTE_TEST_RUNS")) > 2 ? atoi(getenv("HASTE_TEST_RUNS")) : 2;
    RUN(deterministic);
    RUN(many_chunks);
    return check_end();
}
