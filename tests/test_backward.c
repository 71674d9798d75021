/* Gradients from logit gradients: against double, against finite differences, and what is (=) and what is (+=). */
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static const int32_t batches[] = { 1, 7, 32, 33, 97 };
enum { BATCHES = sizeof batches / sizeof batches[0] };

/* Buffers as haste_gradient_create makes them, but full of NaN: the result is (=). */
static void poison(haste_gradient *gradient) { memset(gradient->memory, 0xff, gradient->bytes); }

/* The layer of test_forward's case, F = 2 of D = 3 inputs, index 0 and 2, weight 1 .5 -2 / 3 -1 0, with

       x = 1   2  -1      grad_logits = 1  0  2
           0  -3   4                    0  1 -1

   grad_weight  input 0:  1*1 + 0*0 = 1      0*1 + 1*0 = 0     2*1 - 1*0 = 2       grad_bias = 1  1  1
                input 2:  1*-1 + 0*4 = -1    0*-1 + 1*4 = 4    2*-1 - 1*4 = -6
   grad_x  sample 0:  1*1 + 0*.5 + 2*-2 = -3,  0,  1*3 + 0*-1 + 2*0 = 3     sample 1:  .5 + 2 = 2.5,  0,  -1 - 0 = -1 */
static void by_hand(void)
{
    static const float x[6] = { 1, 2, -1, 0, -3, 4 }, weight[6] = { 1, .5f, -2, 3, -1, 0 };
    static const float grad_weight[6] = { 1, 0, 2, -1, 4, -6 }, grad_x_wanted[6] = { -3, 0, 3, 2.5f, 0, -1 };
    int path, type, i;
    for (path = 0; path < TEST_PATHS; path++) for (type = 0; type < 2; type++) {
        haste_layer_options options;
        haste_layer layer;
        haste_workspace work;
        haste_gradient gradient;
        float grad[16], grad_x[6];
        if (test_path_missing(test_paths[path])) continue;
        memset(&options, 0, sizeof options);
        options.labels = 3;
        options.inputs = 3;
        options.block_count = 1;
        options.block[0].group_size = 8;
        options.block[0].fan_in = 2;
        options.dtype = type ? HASTE_BF16 : HASTE_F32;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        layer.block[0].index[0] = 0;
        layer.block[0].index[1] = 2;
        for (i = 0; i < 6; i++) test_put(layer.dtype, layer.block[0].weight, (size_t)(i / 3 * 8 + i % 3), weight[i]);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        poison(&gradient);
        for (i = 0; i < 16; i++) grad[i] = HUGE_VALF - HUGE_VALF;   /* what padding holds does not matter */
        grad[0] = 1; grad[1] = 0; grad[2] = 2; grad[8] = 0; grad[9] = 1; grad[10] = -1;
        for (i = 0; i < 6; i++) grad_x[i] = 100;
        work = test_workspace(&layer, 2, 1, test_paths[path]);
        CHECK_STATUS(haste_backward(&layer, &work, x, 2, grad, &gradient, grad_x, &test_error), HASTE_OK, test_error);
        for (i = 0; i < 16; i++) CHECK(gradient.weight[0][i] == (i % 8 < 3 ? grad_weight[i / 8 * 3 + i % 8] : 0));
        for (i = 0; i < 8; i++) CHECK(gradient.bias[0][i] == (i < 3 ? 1 : 0));
        for (i = 0; i < 6; i++) CHECK(grad_x[i] == 100 + grad_x_wanted[i]);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

static void against_double(void)
{
    int i, path, type, n;
    for (i = 0; i < TEST_SHAPES; i++) for (type = 0; type < 2; type++) {
        const test_shape *shape = &test_shapes[i];
        haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_gradients want = test_make_gradients(&layer);
        haste_gradient gradient;
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        for (n = 0; n < BATCHES; n++) {
            int32_t B = batches[n], k;
            size_t count = (size_t)B * (size_t)layer.slots, inputs = (size_t)B * (size_t)layer.inputs, j;
            test_batch batch;
            float *grad, *naive_x;
            double *grad_double, *exact_x;
            if ((shape->inputs > 10000 || (i + n) % 2) && B != 7 && B != 33) continue;   /* time */
            batch = test_make_batch(&layer, B);
            grad = (float *)test_alloc(count * 4);
            naive_x = (float *)test_alloc(inputs * 4);
            grad_double = test_doubles(count);
            exact_x = test_doubles(inputs);
            for (j = 0; j < count; j++) {
                grad[j] = layer.label_of[j % (size_t)layer.slots] < 0 ? HUGE_VALF - HUGE_VALF : check_normal();
                grad_double[j] = (double)grad[j];
            }
            haste_backward_ref(&layer, batch.x, B, grad_double, want.weight, want.bias, exact_x);
            naive_backward(&layer, batch.x, B, grad, want.naive_weight, want.naive_bias, naive_x);
            for (path = 0; path < TEST_PATHS; path++) {
                haste_workspace work;
                float *grad_x;
                test_errors weight, naive_weight, bias, naive_bias, xs, naive_xs;
                char what[200];
                int bad = 0;
                if (test_path_missing(test_paths[path])) continue;
                work = test_workspace(&layer, B, 2, test_paths[path]);
                memset(work.memory, 0xff, work.bytes);
                poison(&gradient);
                grad_x = check_floats(inputs + 1) + 1;
                for (j = 0; j < inputs; j++) grad_x[j] = 0;
                CHECK_STATUS(haste_backward(&layer, &work, batch.x, B, grad, &gradient, grad_x, &test_error), HASTE_OK, test_error);
                CHECK(check_guard(grad_x, inputs));
                memset(&weight, 0, sizeof weight);
                naive_weight = bias = naive_bias = xs = naive_xs = weight;
                for (k = 0; k < layer.block_count; k++) {
                    const haste_block *block = &layer.block[k];
                    size_t S = (size_t)block->group_size, F = (size_t)block->fan_in;
                    for (j = 0; j < (size_t)test_weights(block); j++) {
                        if ((int64_t)(j / (F * S) * S + j % S) >= block->labels) { if (gradient.weight[k][j] != 0) bad++; continue; }
                        test_add_error(&weight, (double)gradient.weight[k][j], want.weight[k][j]);
                        test_add_error(&naive_weight, (double)want.naive_weight[k][j], want.weight[k][j]);
                    }
                    for (j = 0; j < (size_t)test_places(block); j++) {
                        if ((int64_t)j >= block->labels) { if (gradient.bias[k][j] != 0) bad++; continue; }
                        test_add_error(&bias, (double)gradient.bias[k][j], want.bias[k][j]);
                        test_add_error(&naive_bias, (double)want.naive_bias[k][j], want.bias[k][j]);
                    }
                }
                for (j = 0; j < inputs; j++) {
                    test_add_error(&xs, (double)grad_x[j], exact_x[j]);
                    test_add_error(&naive_xs, (double)naive_x[j], exact_x[j]);
                }
                CHECK(bad == 0);
                snprintf(what, sizeof what, "gradient, %s, %s, B %d, %s", shape->name, type ? "bf16" : "f32", (int)B,
                         haste_path_text(work.path));
                test_judge(&weight, &naive_weight, what, __LINE__);
                test_judge(&bias, &naive_bias, what, __LINE__);
                test_judge(&xs, &naive_xs, what, __LINE__);
                haste_workspace_free(&work);
                free(grad_x - 1);
            }
            free(grad);
            free(naive_x);
            free(grad_double);
            free(exact_x);
            test_free_batch(&batch);
        }
        haste_gradient_free(&gradient);
        test_free_gradients(&want, &layer);
        haste_layer_free(&layer);
    }
}

/* What is not wanted is not written, and does not change the rest. Threads change no bit. */
static void parts_and_threads(void)
{
    static const int32_t threads[] = { 1, 2, 3, 5 };
    int path, t, i;
    for (i = 5; i < 13; i += 2) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options), before;
        test_batch batch = test_make_batch(&layer, 41);
        size_t count = 41 * (size_t)layer.slots, inputs = 41 * (size_t)layer.inputs, j;
        float *grad = (float *)test_alloc(count * 4), *first_x = check_floats(inputs), *grad_x = check_floats(inputs);
        haste_gradient first, gradient, part;
        if (test_path_missing(test_paths[path])) {
            free(grad); free(first_x); free(grad_x);
            test_free_batch(&batch);
            haste_layer_free(&layer);
            continue;
        }
        before = test_copy(&layer);
        for (j = 0; j < count; j++) grad[j] = check_normal();
        CHECK_STATUS(haste_gradient_create(&first, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        for (t = 0; t < 4; t++) {
            haste_workspace work = test_workspace(&layer, 41, threads[t], test_paths[path]);
            for (j = 0; j < inputs; j++) (t ? grad_x : first_x)[j] = (float)j * .25f;
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, t ? &gradient : &first, t ? grad_x : first_x, &test_error), HASTE_OK,
                         test_error);
            if (t) {
                for (j = 0; (int32_t)j < layer.block_count; j++) {
                    CHECK(memcmp(first.weight[j], gradient.weight[j], (size_t)test_weights(&layer.block[j]) * 4) == 0);
                    CHECK(memcmp(first.bias[j], gradient.bias[j], (size_t)test_places(&layer.block[j]) * 4) == 0);
                }
                CHECK(memcmp(first_x, grad_x, inputs * 4) == 0);
            }
            /* only x */
            for (j = 0; j < inputs; j++) grad_x[j] = (float)j * .25f;
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, NULL, grad_x, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(first_x, grad_x, inputs * 4) == 0);
            /* only the parameters */
            poison(&gradient);
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, &gradient, NULL, &test_error), HASTE_OK, test_error);
            for (j = 0; (int32_t)j < layer.block_count; j++) {
                CHECK(memcmp(first.weight[j], gradient.weight[j], (size_t)test_weights(&layer.block[j]) * 4) == 0);
                CHECK(memcmp(first.bias[j], gradient.bias[j], (size_t)test_places(&layer.block[j]) * 4) == 0);
            }
            /* only the weights, then only the biases */
            poison(&gradient);
            part = gradient;
            for (j = 0; j < HASTE_MAX_BLOCKS; j++) part.bias[j] = NULL;
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, &part, NULL, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(first.weight[0], gradient.weight[0], (size_t)test_weights(&layer.block[0]) * 4) == 0);
            CHECK(gradient.bias[0][0] != gradient.bias[0][0]);
            poison(&gradient);
            part = gradient;
            for (j = 0; j < HASTE_MAX_BLOCKS; j++) part.weight[j] = NULL;
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, &part, NULL, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(first.bias[0], gradient.bias[0], (size_t)test_places(&layer.block[0]) * 4) == 0);
            CHECK(gradient.weight[0][0] != gradient.weight[0][0]);
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, NULL, NULL, &test_error), HASTE_OK, test_error);
            /* both again in the same buffers: the weights are (=), x is (+=) */
            poison(&gradient);
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, 41, grad, &gradient, grad_x, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(first.weight[0], gradient.weight[0], (size_t)test_weights(&layer.block[0]) * 4) == 0);
            for (j = 0; j < inputs; j += 37)
                CHECK_NEAR((double)(grad_x[j] - first_x[j]), (double)(first_x[j] - (float)j * .25f), 1e-3 + 1e-6 * (double)j);
            haste_workspace_free(&work);
        }
        CHECK(test_difference(&layer, &before) == NULL);
        haste_gradient_free(&first);
        haste_gradient_free(&gradient);
        haste_layer_free(&before);
        free(grad);
        free(first_x);
        free(grad_x);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* Gradients that pass the caches by, from 16 MiB on, have the same bits as those that do not: rows off the cache lines never do. */
static void large(void)
{
    haste_layer_options options;
    haste_layer layer;
    haste_gradient gradient, beside;
    float *grad, *other;
    size_t j, count;
    test_batch batch;
    int path;
    memset(&options, 0, sizeof options);
    options.labels = 33001;
    options.inputs = 160;
    options.block_count = 1;
    options.block[0].group_size = 16;
    options.block[0].fan_in = 128;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
    count = (size_t)test_weights(&layer.block[0]);
    CHECK(count >= (size_t)1 << 22);
    other = check_floats(count + 8);
    batch = test_make_batch(&layer, 5);
    grad = (float *)test_alloc(5 * (size_t)layer.slots * 4);
    for (j = 0; j < 5 * (size_t)layer.slots; j++) grad[j] = (float)(check_random() % 1000) * .01f - 5;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_workspace work;
        if (test_path_missing(test_paths[path])) continue;
        work = test_workspace(&layer, 5, 2, test_paths[path]);
        poison(&gradient);
        beside = gradient;
        memset(other, 0xff, count * 4);
        beside.weight[0] = (uintptr_t)other % 64 == 0 ? other + 8 : other;
        CHECK((uintptr_t)gradient.weight[0] % 64 == 0 && (uintptr_t)beside.weight[0] % 64 != 0);
        CHECK_STATUS(haste_backward(&layer, &work, batch.x, 5, grad, &gradient, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_backward(&layer, &work, batch.x, 5, grad, &beside, NULL, &test_error), HASTE_OK, test_error);
        CHECK(memcmp(gradient.weight[0], beside.weight[0], count * 4) == 0);
        CHECK(gradient.weight[0][0] == gradient.weight[0][0] && gradient.weight[0][count - 16] == gradient.weight[0][count - 16]);
        haste_workspace_free(&work);
    }
    haste_gradient_free(&gradient);
    haste_layer_free(&layer);
    test_free_batch(&batch);
    free(grad);
    free(other);
}

/* d loss / d parameter by central differences of the double reference. The step h and the parameters are multiples of
   2^-12, so that parameter +- h is exact in float32. */
static void finite_differences(void)
{
    static const test_shape shape = { "small", 11, 6, 2, { { 4, 8, HASTE_DENSE, 0, 4 }, { 0, 8, 3, 1, 6 } }, 1 };
    static const haste_loss losses[] = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
    const float h = 0x1p-10f;
    enum { B = 5 };
    int i, path;
    for (i = 0; i < 3; i++) {
        haste_layer_options options = test_options(&shape, losses[i], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_batch batch = test_make_batch(&layer, B);
        size_t count = B * (size_t)layer.slots, j;
        double *logits = test_doubles(count), *grad = test_doubles(count), *scratch = test_doubles(count), loss, up, down;
        float *grad_float = (float *)test_alloc(count * 4);
        int32_t k, part;
        for (k = 0; k < layer.block_count; k++) {
            float *w = (float *)layer.block[k].weight;
            for (j = 0; j < (size_t)test_weights(&layer.block[k]); j++) w[j] = floorf(w[j] * 4096) / 4096;
            for (j = 0; j < (size_t)layer.block[k].labels; j++) layer.block[k].bias[j] = floorf(layer.block[k].bias[j] * 4096) / 4096;
        }
        for (j = 0; j < (size_t)B * 6; j++) batch.x[j] = floorf(batch.x[j] * 4096) / 4096;
        haste_forward_ref(&layer, batch.x, B, logits);
        haste_loss_ref(&layer, logits, B, &batch.positives, 0, &loss, grad);
        for (j = 0; j < count; j++) grad_float[j] = (float)grad[j];
        for (path = 0; path < TEST_PATHS; path++) {
            haste_workspace work;
            haste_gradient gradient;
            float grad_x[B * 6], step_x[B * 6];
            haste_step_options step;
            haste_layer copy;
            if (test_path_missing(test_paths[path])) continue;
            work = test_workspace(&layer, B, 1, test_paths[path]);
            CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
            memset(grad_x, 0, sizeof grad_x);
            memset(step_x, 0, sizeof step_x);
            CHECK_STATUS(haste_backward(&layer, &work, batch.x, B, grad_float, &gradient, grad_x, &test_error), HASTE_OK, test_error);
            for (k = 0; k < layer.block_count; k++) for (part = 0; part < 2; part++) {
                float *parameter = part ? layer.block[k].bias : (float *)layer.block[k].weight;
                const float *got = part ? gradient.bias[k] : gradient.weight[k];
                size_t n = (size_t)(part ? layer.block[k].labels : test_weights(&layer.block[k]));
                for (j = 0; j < n; j++) {
                    float keep = parameter[j];
                    parameter[j] = keep + h;
                    haste_forward_ref(&layer, batch.x, B, logits);
                    haste_loss_ref(&layer, logits, B, &batch.positives, 0, &up, scratch);
                    parameter[j] = keep - h;
                    haste_forward_ref(&layer, batch.x, B, logits);
                    haste_loss_ref(&layer, logits, B, &batch.positives, 0, &down, scratch);
                    parameter[j] = keep;
                    CHECK_NEAR((double)got[j], (up - down) / (2 * (double)h), losses[i] == HASTE_SQUARED_HINGE ? 1e-3 : 1e-5);
                }
            }
            /* x, from haste_backward and from the fused step */
            copy = test_copy(&layer);
            memset(&step, 0, sizeof step);
            step.lr = .1f;
            CHECK_STATUS(haste_train_step(&copy, &work, batch.x, B, &batch.positives, &step, &up, step_x, &test_error), HASTE_OK, test_error);
            CHECK_NEAR(up, loss, 1e-5 * loss);
            for (j = 0; j < B * 6; j++) {
                float keep = batch.x[j];
                double difference;
                batch.x[j] = keep + h;
                haste_forward_ref(&layer, batch.x, B, logits);
                haste_loss_ref(&layer, logits, B, &batch.positives, 0, &up, scratch);
                batch.x[j] = keep - h;
                haste_forward_ref(&layer, batch.x, B, logits);
                haste_loss_ref(&layer, logits, B, &batch.positives, 0, &down, scratch);
                batch.x[j] = keep;
                difference = (up - down) / (2 * (double)h);
                CHECK_NEAR((double)grad_x[j], difference, losses[i] == HASTE_SQUARED_HINGE ? 1e-3 : 1e-5);
                CHECK_NEAR((double)step_x[j], difference, losses[i] == HASTE_SQUARED_HINGE ? 1e-3 : 1e-5);
            }
            haste_layer_free(&copy);
            haste_gradient_free(&gradient);
            haste_workspace_free(&work);
        }
        free(logits);
        free(grad);
        free(scratch);
        free(grad_float);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* The losses by hand, one label at a time: logit, value and slope, for a positive and a negative. */
static void losses_by_hand(void)
{
    haste_loss_options quarter;
    /* BCE at 0: log 2, -+1/2. Hinge at .5: positive (1 - .5)^2 = .25, slope -1; negative (1 + .5)^2 = 2.25, slope 3; at 2:
       positive 0; negative 9, slope 6. Softmax over two labels at 0, one positive: log 2, slopes -1/2 and 1/2. */
    haste_layer_options options = test_options(&test_shapes[0], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer;
    int64_t offset[] = { 0, 3 }, none[] = { 0, 0 };
    int32_t id[] = { 0, 0, 0 };
    haste_lists positives = { offset, id }, empty = { none, id };
    double logits[8] = { 0, 0, 9, 9, 9, 9, 9, 9 }, grad[8], loss;
    options.labels = 2;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK_NEAR(loss, 2 * log(2.), 1e-15);
    CHECK(grad[0] == -.5 && grad[1] == .5 && grad[2] == 0 && grad[7] == 0);
    memset(&quarter, 0, sizeof quarter);
    quarter.scale = .25;
    haste_loss_ref(&layer, logits, 1, &empty, &quarter, &loss, grad);
    CHECK_NEAR(loss, 2 * log(2.) / 4, 1e-15);
    CHECK(grad[0] == .125 && grad[1] == .125);
    logits[0] = 800; logits[1] = -800;
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK(loss == 0 && grad[0] == 0 && grad[1] == 0);
    logits[0] = -800; logits[1] = 800;
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK(loss == 1600 && grad[0] == -1 && grad[1] == 1);
    layer.loss = HASTE_SQUARED_HINGE;
    logits[0] = .5; logits[1] = .5;
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK(loss == 2.5 && grad[0] == -1 && grad[1] == 3);
    logits[0] = 2; logits[1] = 2;
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK(loss == 9 && grad[0] == 0 && grad[1] == 6);
    layer.loss = HASTE_SOFTMAX;
    haste_loss_ref(&layer, logits, 1, &positives, 0, &loss, grad);
    CHECK_NEAR(loss, log(2.), 1e-15);
    CHECK_NEAR(grad[0], -.5, 1e-15);
    CHECK_NEAR(grad[1], .5, 1e-15);
    haste_loss_ref(&layer, logits, 1, &empty, 0, &loss, grad);
    CHECK(loss == 0 && grad[0] == 0 && grad[1] == 0);
    haste_layer_free(&layer);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(by_hand);
    RUN(losses_by_hand);
    RUN(against_double);
    RUN(parts_and_threads);
    RUN(large);
    RUN(finite_differences);
    return check_end();
}
