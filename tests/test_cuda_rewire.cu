// haste_cuda.cuh on a device: rewiring against that of the CPU.
#include "cuda.h"

// The CPU and the device move the same places. Whole numbers and the hinge make gradients exact, so that growth agrees too.
static void rewire()
{
    static const test_shape shapes[] = {
        { "S 16", 260, 64, 1, { { 0, 16, 16, 0, 0 } }, 1 }, { "S 24", 77, 33, 1, { { 0, 24, 17, 0, 0 } }, 1 },
        { "S 128", 300, 170, 1, { { 0, 128, 70, 0, 0 } }, 0 }, { "F near D", 90, 20, 1, { { 0, 40, 19, 0, 0 } }, 0 },
        { "head and tail", 200, 64, 3, { { 20, 8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } },
         1 } };
    int i, dtype, scope, growth, prune, uniform;
    for (i = 0; i < 5; i++) for (dtype = 0; dtype < 2; dtype++) for (scope = 0; scope < 2; scope++)
        for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++) {
        haste_layer_options options = test_options(&shapes[i], HASTE_SQUARED_HINGE, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer = whole_layer(&options), back;
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        haste_workspace host_work = test_workspace(&layer, 32, 1, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 32);
        haste_rewire_options o;
        int64_t moved = -1, host_moved = -2;
        void *x;
        const char *difference;
        size_t k;
        whole_x(&batch, &layer);
        // slopes below 256: exact in bfloat16
        for (k = 0; k < 32 * (size_t)layer.inputs; k++) batch.x[k] = batch.x[k] > 0 ? 1.0f : 0.0f;
        dev = upload(&layer);
        work = workspace(&dev, 32, 0);
        x = device_numbers(batch.x, 32 * (size_t)layer.inputs, (haste_cuda_type)((i + scope + prune) % 3));
        back = test_copy(&layer);
        memset(&o, 0, sizeof o);
        o.share = .35f;
        o.scope = (haste_scope)scope;
        o.growth = (haste_growth)growth;
        o.prune = (haste_prune)prune;
        uniform = (i + growth) % 2;
        o.uniform = uniform;
        CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, 32, &batch.positives, &host_moved, &test_error),
                     HASTE_OK,
                     test_error);
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &o, x, (haste_cuda_type)((i + scope + prune) % 3), 32,
                                       lists_of(host_lists(&batch)), &moved, NULL, &test_error), HASTE_OK, test_error);
        CHECK(moved == host_moved && dev.rewires == 1);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        difference = test_difference(&layer, &back);
        CHECK(difference == NULL);
        if (difference) printf("    %s, dtype %d, scope %d, growth %d, prune %d: %s differs\n", shapes[i].name, dtype,
                               scope, growth, prune, difference);
        cudaFree(x);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// Gradient growth on the fast paths' shapes. The hinge with whole numbers (exact, so B is a power of 2) moves the CPU's
// places to its inputs. The other losses' gradients differ in bfloat16's last bits: nearly all inputs must be the CPU's.
// Biases are low there, so that positives decide.
static void rewire_paths()
{
    static const test_shape wide_slice = { "S 64, F 128, D 768", 200, 768, 1, { { 0, 64, 128, 0, 0 } }, 1 };
    static const int32_t batches[] = { 32, 64, 128 };
    int i, path, n, loss;
    int64_t others = 0, everything = 0;   // moved to other inputs than the CPU's; all moved
    for (i = 0; i <= PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (n = 0; n < 3; n++) for (loss = 0; loss < 3; loss++) {
        const test_shape *shape = i < PANEL_SHAPES ? &panel_shapes[i] : &wide_slice;
        const int32_t B = loss == HASTE_SQUARED_HINGE ? batches[n] : batches[n] - 7;
        haste_layer_options options = test_options(shape, (haste_loss)loss, n == 1 ? HASTE_ADAMW : HASTE_SGD,
                                                   HASTE_BF16,
                                                   n == 1 ? HASTE_BF16 : HASTE_F32);
        haste_layer layer = whole_layer(&options), back;
        haste_cuda_layer dev;
        haste_rewire_options o;
        int64_t moved = -1, host_moved = -2, other = 0, all = 0, slot, g;
        size_t k;
        int32_t b;
        if (!upload_on(&dev, &layer, path, B)) { haste_layer_free(&layer); continue; }
        haste_cuda_layer_free(&dev);
        if (loss != HASTE_SQUARED_HINGE)
            for (b = 0; b < layer.block_count; b++) {
                haste_block *block = &layer.block[b];
                for (slot = 0; slot < block->labels; slot++) block->bias[slot] = -4;
                for (slot = 0; slot < test_weights(block); slot++)
                    test_put(layer.dtype, block->weight, (size_t)slot,
                             test_get(layer.dtype, block->weight, (size_t)slot) * .0625f);
            }
        {
            haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
            haste_cuda_workspace work;
            test_batch batch = test_make_batch(&layer, B);
            void *x;
            for (k = 0; k < (size_t)B * (size_t)layer.inputs; k++)
                batch.x[k] = loss == HASTE_SQUARED_HINGE ? (float)(batch.x[k] > 0) : (float)(int)(batch.x[k] * 8) / 8;
            CHECK(upload_on(&dev, &layer, path, B));
            work = workspace(&dev, B, 0);
            x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
            back = test_copy(&layer);
            memset(&o, 0, sizeof o);
            o.share = n == 2 ? .03f : .2f;
            o.growth = HASTE_GROW_GRADIENT;
            o.uniform = n == 1;
            CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, B, &batch.positives, &host_moved, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_rewire(&dev, &work, &o, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &moved,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
            cudaFree(x);
            test_free_batch(&batch);
            haste_cuda_workspace_free(&work);
            haste_workspace_free(&host_work);
        }
        CHECK(moved == host_moved);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
        for (b = 0; b < layer.block_count; b++) if (layer.block[b].index)
            for (g = 0; g < layer.block[b].groups; g++) {
                const int32_t F = layer.block[b].fan_in;
                const uint16_t *mine = layer.block[b].index + g * F, *theirs = back.block[b].index + g * F;
                int32_t at = 0, f;
                for (f = 0; f < F; f++) {
                    while (at < F && mine[at] < theirs[f]) at++;
                    other += at == F || mine[at] != theirs[f];
                }
            }
        all = moved > 0 ? moved : 1;
        if (loss == HASTE_SQUARED_HINGE) CHECK(test_difference(&layer, &back) == NULL);
        else CHECK(other * 20 <= all || other == 1);   // one of a few
        others += loss == HASTE_SQUARED_HINGE ? 0 : other;
        everything += loss == HASTE_SQUARED_HINGE ? 0 : all;
        if (other && (loss == HASTE_SQUARED_HINGE || other * 20 > all))
            printf("    %s, path %d, B %d, loss %d: %lld of %lld inputs differ\n", shape->name, path, (int)B, loss,
                   (long long)other, (long long)moved);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
    CHECK(others * 20 <= everything);
}

// A logit that is not finite stops a rewiring only where its group moves something, on the CPU and on the device.
static void rewire_not_finite()
{
    static const test_shape shape = { "three groups", 96, 100, 1, { { 0, 32, 16, 0, 0 } }, 0 };
    int dtype, path, where;
    for (dtype = 0; dtype < 2; dtype++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (where = 0; where < 3 && (dtype == HASTE_BF16 || path == HASTE_CUDA_GENERAL); where++) {
        haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = test_layer(&options), before, back;
        haste_workspace host_work = test_workspace(&layer, 32, 1, HASTE_PATH_AUTO);
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        test_batch batch = test_make_batch(&layer, 32);
        const haste_status expected = where == 1 ? HASTE_ERR_NONFINITE : HASTE_OK;
        haste_rewire_options o;
        int64_t i, moved = -1;
        void *x;
        for (i = 0; i < test_weights(&layer.block[0]); i++)   /* only the second group moves something */
            test_put(layer.dtype, layer.block[0].weight, (size_t)i,
                     test_get(layer.dtype, layer.block[0].weight, (size_t)i) * (i / (16 * 32) == 1 ? .001f : 1));
        layer.block[0].bias[where * 32 + 5] = where == 2 ? NAN : INFINITY;
        if (!upload_on(&dev, &layer, path, 32)) {   // not in this build
            haste_workspace_free(&host_work);
            test_free_batch(&batch);
            haste_layer_free(&layer);
            continue;
        }
        before = test_copy(&layer);
        back = test_copy(&layer);
        work = workspace(&dev, 32, 0);
        x = device_copy(batch.x, 32 * (size_t)layer.inputs * 4);
        memset(&o, 0, sizeof o);
        o.share = .1f;
        o.growth = HASTE_GROW_GRADIENT;
        CHECK(haste_rewire(&layer, &host_work, &o, batch.x, 32, &batch.positives, NULL, &test_error) == expected);
        CHECK(haste_cuda_rewire(&dev, &work, &o, x, HASTE_CUDA_F32, 32, lists_of(host_lists(&batch)), &moved, NULL,
                                &test_error) ==
              expected);
        CHECK(moved == (where == 1 ? -1 : 4));
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        for (i = 0; i < 3; i++)
            CHECK((memcmp(before.block[0].index + i * 16, back.block[0].index + i * 16,
                          32) == 0) == (i != 1 || where == 1));
        if (where == 1) CHECK(test_difference(&before, &back) == NULL);
        cudaFree(x);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
        haste_layer_free(&before);
        haste_layer_free(&back);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(rewire);
    RUN(rewire_paths);
    RUN(rewire_not_finite);
    return check_end();
}
