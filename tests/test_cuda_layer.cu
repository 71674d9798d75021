// haste_cuda.cuh on a device: layers on the device: there and back, made there, whatever their size.
#include "cuda.h"

static void round_trip()
{
    int i, dtype;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, dtype ? HASTE_ADAMW : HASTE_MOMENTUM,
                                                   (haste_dtype)dtype, HASTE_BF16);
        haste_layer layer = test_layer(&options), back;
        haste_cuda_layer dev = upload(&layer);
        CHECK(haste_layer_create(&back, &options, NULL) == HASTE_OK);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// A layer made on the device equals one made on the host.
static void create_equals_host()
{
    int i, dtype, loss;
    static int64_t frequency[4096];
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (loss = 0; loss < 3; loss++) {
        haste_layer_options options = test_options(&test_shapes[i], (haste_loss)loss, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer, back;
        haste_cuda_layer dev;
        int32_t l;
        const char *difference;
        for (l = 0; l < options.labels; l++) frequency[l] = l % 7;
        options.frequency = frequency;
        options.samples = 1000;
        CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK &&
              haste_layer_create(&back, &options, NULL) == HASTE_OK);
        memset(back.memory, 0x3f, (size_t)((char *)back.label_of - (char *)back.memory));
        CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        difference = test_difference(&layer, &back);
        if (difference) printf("    %s: %s differs\n", test_shapes[i].name, difference);
        CHECK(difference == NULL);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// Blocks whose groups are larger than shared memory: their weights are brought into a path's order piece by piece.
static void large_groups()
{
    static const test_shape shapes[2] = {
        { "dense, S 64, D 2048",  130, 2048, 1, { { 0,  64, HASTE_DENSE, 0, 0 } }, 1 },
        { "S 128, F 1008",        200, 1200, 1, { { 0, 128, 1008,        0, 0 } }, 1 }
    };
    int i, dtype;
    for (i = 0; i < 2; i++) for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16,
                                                   (haste_dtype)dtype);
        haste_layer layer = test_layer(&options), back = test_copy(&layer);
        haste_cuda_layer dev = upload(&layer);
        size_t k, weights = (size_t)test_weights(&layer.block[0]);
        for (k = 0; k < weights; k++) test_put(options.state_dtype, layer.block[0].weight_state[0], k,
                                               (float)(k % 251));
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        memset(back.block[0].weight, 0xff, weights * 2);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// What is made zeroed is zero for every stream, also for those that do not wait for the default one.
static void ready_at_once()
{
    haste_layer_options options = test_options(&test_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_cuda_layer dev;
    haste_cuda_gradient gradient;
    options.labels = 1000000;   // 256 MB of gradients
    options.inputs = 64;
    options.order = NULL;
    CHECK_STATUS(haste_cuda_layer_create(&dev, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK(cudaStreamQuery(NULL) == cudaSuccess);
    haste_cuda_gradient_free(&gradient);
    haste_cuda_layer_free(&dev);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(round_trip);
    RUN(create_equals_host);
    RUN(large_groups);
    RUN(ready_at_once);
    return check_end();
}
