// haste_cuda.cuh on a device: logits, of every kernel that makes them.
#include "cuda.h"

static void forward_case(const test_shape *shape, haste_dtype dtype, int path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch;
    double *want;
    float *naive;
    size_t n, k;
    int type;
    if (!upload_on(&dev, &layer, path, B < 128 ? B : 128)) { haste_layer_free(&layer); return; }
    work = workspace(&dev, B, 0);
    batch = test_make_batch(&layer, B);
    n = (size_t)B * (size_t)layer.slots;
    want = test_doubles(n);
    naive = (float *)test_alloc(n * 4);
    for (type = 0; type < 3; type++) {
        void *x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, (haste_cuda_type)type);
        haste_cuda_type out_type = type == 1 ? HASTE_CUDA_BF16 : HASTE_CUDA_F32;
        void *logits = device_bytes(n * (out_type == HASTE_CUDA_F32 ? 4 : 2));
        test_errors got_errors = {}, naive_errors = {};
        float *got, *rounded = naive_x(&layer, &batch);
        haste_forward_ref(&layer, batch.x, B, want);
        naive_forward(&layer, rounded, B, naive);
        CHECK_STATUS(haste_cuda_forward(&dev, &work, x, (haste_cuda_type)type, B, logits, out_type, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        got = take_numbers(logits, n, out_type);
        for (k = 0; k < n; k++) {
            if (layer.label_of[k % (size_t)layer.slots] < 0) { if (got[k] != 0) CHECK(got[k] == 0); continue; }
            test_add_error(&got_errors, (double)got[k], want[k]);
            test_add_error(&naive_errors, (double)(out_type == HASTE_CUDA_BF16 ? round_bf16(naive[k]) : naive[k]),
                           want[k]);
        }
        if (!judge(layer.dtype, &got_errors, &naive_errors, "forward", __LINE__))
            printf("    %s, dtype %d, path %d, B %d, x type %d\n", shape->name, (int)dtype, path, (int)B, type);
        free(got);
        free(rounded);
        cudaFree(x);
    }
    free(want);
    free(naive);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void forward()
{
    static const int32_t batches[] = { 1, 33, 64, 130 };
    int i, dtype, j, path;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 4; j++)
        forward_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_AUTO,
                     test_shapes[i].inputs > 10000 && batches[j] > 33 ? 65 : batches[j]);
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (j = 0; j < 4; j++) forward_case(&panel_shapes[i], HASTE_BF16, path, batches[j]);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(forward);
    return check_end();
}
