// haste_cuda.cuh on a device: the training step, and gradients that are accumulated and applied.
#include "cuda.h"

/* What a fast path made of weights, biases and states, against the rule on the exact gradient; the naive version takes its
   own gradient and rounds stochastically as well: to nearest, a slow moment would not move at all,
   which looks better than
   it is. */
static void judge_update(const haste_layer *layer, const haste_block *old, const haste_block *now,
                         const haste_step_options *o, const double *want, const double *want_bias, const float *naive,
                         const float *naive_bias, const char *what)
{
    const size_t weights = (size_t)test_weights(old), places = (size_t)test_places(old);
    const haste_dtype state = layer->state_dtype;
    test_errors got_errors[3] = {}, naive_errors[3] = {}, got_b = {}, naive_b = {};
    size_t i;
    int k, states = layer->optimizer == HASTE_ADAMW ? 2 : layer->optimizer == HASTE_MOMENTUM ? 1 : 0;
    for (i = 0; i < weights; i++) {
        double s[2] = { 0, 0 }, n[2], w = (double)test_get(layer->dtype, old->weight, i), new_w, naive_w;
        for (k = 0; k < states; k++) s[k] = (double)test_get(state, old->weight_state[k], i);
        n[0] = s[0];
        n[1] = s[1];
        new_w = haste_update_ref(layer->optimizer, o, 1, 1, w, want[i], &s[0], &s[1]);
        naive_w = haste_update_ref(layer->optimizer, o, 1, 1, w, (double)naive[i], &n[0], &n[1]);
        test_add_error(&got_errors[0], (double)test_get(layer->dtype, now->weight, i), new_w);
        test_add_error(&naive_errors[0], (double)round_stochastic((float)naive_w), new_w);
        for (k = 0; k < states; k++) {
            test_add_error(&got_errors[1 + k], (double)test_get(state, now->weight_state[k], i), s[k]);
            test_add_error(&naive_errors[1 + k], state == HASTE_BF16 ? (double)round_stochastic((float)n[k]) : n[k],
                           s[k]);
        }
    }
    for (i = 0; i < places; i++) {
        double s[2] = { 0, 0 }, n[2], new_b, naive_new;
        for (k = 0; k < states; k++) s[k] = (double)old->bias_state[k][i];
        n[0] = s[0];
        n[1] = s[1];
        new_b = haste_update_ref(layer->optimizer, o, 1, 0, (double)old->bias[i], want_bias[i], &s[0], &s[1]);
        naive_new = haste_update_ref(layer->optimizer, o, 1, 0, (double)old->bias[i], (double)naive_bias[i], &n[0],
                                     &n[1]);
        test_add_error(&got_b, (double)now->bias[i], new_b);
        test_add_error(&naive_b, naive_new, new_b);
    }
    for (k = 0; k <= states; k++)
        if (!judge(HASTE_BF16, &got_errors[k], &naive_errors[k], what, __LINE__)) printf("    array %d\n", k);
    judge(HASTE_BF16, &got_b, &naive_b, what, __LINE__);
}

static int compare_sizes(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// A size that no slope is near, in double or in naive arithmetic: the middle of the widest gap with a tenth of them below
// and some above. 0: no gap is as wide as a tenth.
static double widest_gap(const double *slope, const float *naive, size_t n)
{
    double *size = test_doubles(2 * n), ratio = 1.1, best = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        size[2 * i] = fabs(slope[i]);
        size[2 * i + 1] = fabs((double)naive[i]);
    }
    qsort(size, 2 * n, sizeof *size, compare_sizes);
    for (i = n / 5; i + 4 < 2 * n; i++)
        if (size[i] > 0 && size[i + 1] / size[i] > ratio) {
            ratio = size[i + 1] / size[i];
            best = sqrt(size[i] * size[i + 1]);
        }
    free(size);
    return best;
}

// A third of its labels with large biases, the others with small ones, so that there is a gap.
static haste_layer spread_layer(const haste_layer_options *options)
{
    haste_layer layer = test_layer(options);
    int k, i;
    for (k = 0; k < layer.block_count; k++)
        for (i = 0; i < layer.block[k].labels; i++) layer.block[k].bias[i] += i % 3 ? -5 : 5;
    return layer;
}

static int small_dropped;   // cases that did leave out small slopes
static size_t most_sums;    // of the workspace, at most; 0: as it is made. So few groups go at a time in large batches
static int32_t room = 3;    // by how many samples the workspace is larger than the batch
static int32_t hot;         // > 0: all positives are of so many labels

static void cut_sums(haste_cuda_workspace *work)
{
    if (most_sums == 0 || work->sums_bytes <= most_sums) return;
    work->bytes -= (work->sums_bytes + 255) / 256 * 256 - (most_sums + 255) / 256 * 256;
    work->sums_bytes = most_sums;
    // flags, its last array
    MUST(cudaMemset((char *)work->memory + (work->bytes - 1) / 256 * 256, 0, (work->bytes - 1) % 256 + 1));
}

static void step_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                      haste_dtype state, int32_t B, int device, haste_cuda_path path, float lr)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, state);
    haste_layer layer = spread_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload_for(&layer, path, B);
    haste_cuda_workspace work = workspace(&dev, B + room, 0);
    test_batch batch = test_make_batch(&layer, B);
    for (int64_t j = batch.offset[0]; j < batch.offset[B] && hot > 0; j++) batch.id[j] %= hot;
    haste_cuda_lists lists = device ? device_lists(&batch) : host_lists(&batch);
    size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs, i;
    static int turn;   // x and its gradients in each of their types
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3), gx_type = (haste_cuda_type)(turn / 2 % 2),
        gx2_type = (haste_cuda_type)(turn / 5 % 2);
    void *x = device_numbers(batch.x, d, x_type);
    double *logits = test_doubles(n), *slopes = test_doubles(n), *want_x = test_doubles(d), want_loss, got_loss[2];
    float *naive_logits = (float *)test_alloc(n * 4), *naive_slopes = (float *)test_alloc(n * 4),
        *naive_gx = (float *)test_zeros(d * 4), *naive_gx2 = (float *)test_alloc(d * 4), unused;
    double naive_loss_value;
    float *rounded = naive_x(&layer, &batch), *gx, *gx2;
    test_gradients want = test_make_gradients(&layer);
    haste_cuda_gradient gradient;
    haste_step_options o;
    void *dev_gx = device_bytes(d * (gx_type ? 2 : 4)), *dev_loss = device_bytes(16),
        *dev_gx2 = device_bytes(d * (gx2_type ? 2 : 4));
    int32_t k;
    int bad = 0, fast = 0;
    turn++;
    cut_sums(&work);
    for (k = 0; k < layer.block_count; k++)   // no batch is left to the general kernels
        CHECK(haste_cuda_path_of(&dev, &work, k, B, NULL) == dev.path[k]);
    memset(&o, 0, sizeof o);
    o.lr = lr;
    o.weight_decay = lr > 4 ? .5f / lr : .125f;   // with lr * weight_decay above 1 the general kernels would do it
    MUST(cudaMemset(dev_gx, 0, d * (gx_type ? 2 : 4)));
    MUST(cudaMemset(dev_gx2, 0, d * (gx2_type ? 2 : 4)));
    haste_forward_ref(&layer, batch.x, B, logits);
    haste_loss_ref(&layer, logits, B, &batch.positives, NULL, &want_loss, slopes);
    naive_forward(&layer, rounded, B, naive_logits);
    naive_loss(&layer, naive_logits, B, batch.positives, 0, &unused, naive_slopes);
    if (turn % 2) {   // every other case leaves out small slopes
        o.loss.negligible = (float)(widest_gap(slopes, naive_slopes, n) * B);
        small_dropped += o.loss.negligible > 0;
        for (i = 0; i < n; i++) if (fabs(slopes[i]) * B < (double)o.loss.negligible) slopes[i] = naive_slopes[i] = 0;
    }
    haste_backward_ref(&layer, batch.x, B, slopes, want.weight, want.bias, want_x);
    for (i = 0; i < n; i++) logits[i] = (double)naive_logits[i];
    haste_loss_ref(&layer, logits, B, &batch.positives, NULL, &naive_loss_value, slopes);
    naive_round(&layer, naive_slopes, n);
    naive_backward(&layer, rounded, B, naive_slopes, want.naive_weight, want.naive_bias, naive_gx);
    for (i = 0; i < d; i++) naive_gx2[i] = rounded_to(gx2_type, naive_gx[i]);
    for (i = 0; i < d; i++) naive_gx[i] = rounded_to(gx_type, naive_gx[i]);

    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, x_type, B, &lists, &o, &gradient, (double *)dev_loss, dev_gx,
                                       gx_type,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    CHECK(gradient.pending == 1 && gradient.rewires == dev.rewires && dev.step == 0);
    gx = take_numbers(dev_gx, d, gx_type);
    {   // the same loss and gradient without an update
        void *dev_same = device_bytes(d * (gx_type ? 2 : 4)), *same_loss = device_bytes(8);
        const double slack = (gx_type ? 1. / 128 : 0) + 1e-3;
        double evaluated, accumulated;
        float *same;
        MUST(cudaMemset(dev_same, 0, d * (gx_type ? 2 : 4)));
        CHECK_STATUS(haste_cuda_evaluate(&dev, &work, x, x_type, B, &lists, &o.loss, (double *)same_loss, dev_same, gx_type,
                                         NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(&evaluated, same_loss, 8, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(&accumulated, dev_loss, 8, cudaMemcpyDeviceToHost));
        CHECK_NEAR(evaluated, accumulated, 1e-6 * fabs(accumulated));
        same = take_numbers(dev_same, d, gx_type);
        for (i = 0; i < d; i++) bad += !(fabs((double)same[i] - (double)gx[i]) <= slack * fabs((double)gx[i]) + 1e-5);
        CHECK(bad == 0 && dev.step == 0 && gradient.pending == 1);
        bad = 0;
        free(same);
        MUST(cudaFree(same_loss));
    }
    judge_gradients(&layer, &gradient, &want, gx, want_x, naive_gx, B, test_loss_name(loss));
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, x_type, B, &lists, &o, (double *)dev_loss + 1, dev_gx2,
                                       gx2_type, NULL,
                                       &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    gx2 = take_numbers(dev_gx2, d, gx2_type);
    for (k = 0; k < layer.block_count; k++) fast += haste_cuda_path_of(&dev, &work, k, B, NULL) != HASTE_CUDA_GENERAL;
    if (fast) {   // other sums, other roundings of dz: judged like the first
        test_errors got_errors = {}, naive_errors = {};
        for (i = 0; i < d; i++) {
            test_add_error(&got_errors, (double)gx2[i], want_x[i]);
            test_add_error(&naive_errors, (double)naive_gx2[i], want_x[i]);
        }
        if (!judge(dtype, &got_errors, &naive_errors, "grad_x of a fast path", __LINE__))
            printf("    %s, B %d\n", shape->name, (int)B);
    } else {   // bfloat16: the last bit
        const double slack = (gx_type || gx2_type ? 1. / 128 : 0) + 1e-3;
        for (i = 0; i < d; i++) bad += !(fabs((double)gx2[i] - (double)gx[i]) <= slack * fabs((double)gx[i]) + 1e-5);
    }
    CHECK(bad == 0);
    MUST(cudaMemcpy(got_loss, dev_loss, 16, cudaMemcpyDeviceToHost));
    // of the same rounded x
    if (dtype == HASTE_BF16) CHECK_NEAR(got_loss[0], naive_loss_value, 1e-5 * fabs(want_loss) + 1e-6);
    else CHECK_NEAR(got_loss[0], want_loss, 2e-6 * fabs(want_loss) + 1e-6);
    CHECK_NEAR(got_loss[1], got_loss[0],
               (fast ? 2e-5 : 1e-6) * fabs(want_loss));   // fast paths have shorter logarithms
    CHECK(dev.step == 1);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_layer_check(&after, &test_error), HASTE_OK, test_error);
    for (k = 0, bad = 0; k < layer.block_count; k++) {
        const haste_block *old = &layer.block[k], *now = &after.block[k];
        size_t weights = (size_t)test_weights(old), places = (size_t)test_places(old);
        float *g = (float *)test_alloc(weights * 4), *gb = (float *)test_alloc(places * 4);
        MUST(cudaMemcpy(g, gradient.weight[k], weights * 4, cudaMemcpyDeviceToHost));
        MUST(cudaMemcpy(gb, gradient.bias[k], places * 4, cudaMemcpyDeviceToHost));
        if (haste_cuda_path_of(&dev, &work, k, B, NULL) != HASTE_CUDA_GENERAL) {
            judge_update(&layer, old, now, &o, want.weight[k], want.bias[k], want.naive_weight[k], want.naive_bias[k],
                         shape->name);
            free(g);
            free(gb);
            continue;
        }
        for (i = 0; i < weights; i++) {
            double m = old->weight_state[0] ? (double)test_get(state, old->weight_state[0], i) : 0;
            double v = old->weight_state[1] ? (double)test_get(state, old->weight_state[1], i) : 0;
            double w = (double)test_get(dtype, old->weight, i), parts = fabs(m) + fabs((double)g[i]) + fabs(w);
            double new_w = haste_update_ref(optimizer, &o, 1, 1, w, (double)g[i], &m, &v);
            /* as if nothing cancelled; t = 1 */
            double change = optimizer == HASTE_ADAMW ? 10 * parts / (sqrt(1000 * v) + 1e-8) : parts;
            double slack = 4e-6 * (fabs(w) + (double)o.lr * change) + 1e-12;
            bad += !close_to(dtype, test_get(dtype, now->weight, i), new_w, slack);
            if (old->weight_state[0])
                bad += !close_to(state, test_get(state, now->weight_state[0], i), m,
                                 4e-6 * (fabs(m) + fabs((double)g[i]) + fabs(w)));
            if (old->weight_state[1])
                bad += !close_to(state, test_get(state, now->weight_state[1], i), v,
                                 4e-6 * (fabs(v) + (double)g[i] * (double)g[i]));
        }
        for (i = 0; i < places; i++) {
            double m = old->bias_state[0] ? (double)old->bias_state[0][i] : 0,
                v = old->bias_state[1] ? (double)old->bias_state[1][i] : 0;
            double new_b = haste_update_ref(optimizer, &o, 1, 0, (double)old->bias[i], (double)gb[i], &m, &v);
            bad += !(fabs((double)now->bias[i] - new_b) <= 4e-6 * (fabs(new_b) + fabs((double)old->bias[i]) + 1e-3));
        }
        free(g);
        free(gb);
    }
    CHECK(bad == 0);
    if (bad) printf("    %s, loss %d, optimizer %d, dtype %d, state %d, B %d: %d numbers\n", shape->name, loss,
                    optimizer,
                    dtype, state, (int)B, bad);
    haste_cuda_gradient_free(&gradient);
    test_free_gradients(&want, &layer);
    free(logits); free(slopes); free(want_x); free(naive_logits); free(naive_slopes); free(naive_gx); free(naive_gx2);
    free(rounded); free(gx); free(gx2);
    cudaFree(x);
    cudaFree(dev_loss);
    if (device) free_lists(lists);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Something small of everything, for compute-sanitizer.
static void small()
{
    static const test_shape shapes[] = {
        { "S 16",  70,  64, 1, { { 0, 16, 16, 0, 0 } }, 1 },
        { "S 32",  77, 100, 1, { { 0, 32, 32, 0, 0 } }, 1 },
        { "S 64", 130, 100, 1, { { 0, 64, 16, 0, 0 } }, 1 },
        { "dense", 70,  48, 2, { { 40, 64, HASTE_DENSE, 0, 0 }, { 0, 24, 9, 3, 40 } }, 1 } };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW };
    int i, j, n = 0;
    for (i = 0; i < 4; i++) for (j = 0; j < 3; j++, n++) {
        backward_case(&shapes[i], HASTE_BF16, paths[j], n % 2, j ? 70 : 33, n % 3);
        step_case(&shapes[i], (haste_loss)(n % 3), (haste_optimizer)((n + j) % 3), HASTE_BF16, (haste_dtype)(n / 2 % 2),
                  j ? 70 : 33, n % 2, paths[j], 20.f);
    }
}

static void step()
{
    static const int32_t batches[] = { 1, 33, 64, 130 };
    int i, loss, optimizer, dtype, n = 0;
    for (i = 0; i < TEST_SHAPES; i++) for (loss = 0; loss < 3; loss++) for (dtype = 0; dtype < 2; dtype++)
        for (optimizer = 0; optimizer < 3; optimizer++, n++) {
        int32_t B = batches[(n + n / 4) % 4];
        if (test_shapes[i].inputs > 10000 && (B > 64 || optimizer == 1)) continue;
        step_case(&test_shapes[i], (haste_loss)loss, (haste_optimizer)optimizer, (haste_dtype)dtype,
                  (haste_dtype)((n / 2) % 2), B, n % 2, HASTE_CUDA_GENERAL, .25f);
    }
    CHECK(small_dropped >= 10);
}

// Larger ones, where weights, inputs and labels come in several runs and a group has many positives.
static void step_large()
{
    static const test_shape shapes[] = {
        { "F 200, S 256", 700, 400, 1, { { 0, 256, 200, 0, 0 } }, 1 },
        { "dense 300",    500, 300, 2, { { 100, 64, HASTE_DENSE, 0, 300 }, { 0, 32, 64, 0, 0 } }, 1 },
        { "S 72",         500, 128, 1, { { 0,  72,  65, 0, 0 } }, 0 },
        { "few groups",    17,  64, 1, { { 0,  16,  64, 0, 0 } }, 0 } };
    int i, loss, dtype;
    for (i = 0; i < 4; i++) for (loss = 0; loss < 3; loss++) for (dtype = 0; dtype < 2; dtype++)
        step_case(&shapes[i], (haste_loss)loss, HASTE_MOMENTUM, (haste_dtype)dtype, (haste_dtype)dtype, 200, loss % 2,
                  HASTE_CUDA_GENERAL, .25f);
}

// The fast paths, each forced where it takes a block; a large rate shows the gradient through the rounding of the weights.
static void step_fast()
{
    static const test_shape shapes[] = {
        { "wide S 32",        700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
        { "wide S 64",       1000, 160, 1, { { 0,  64, 128, 0, 0 } }, 1 },
        { "wide S 128",       300, 200, 1, { { 0, 128,  48, 8, 200 } }, 1 },
        { "wide, chunks",     500, 400, 1, { { 0,  64, 208, 0, 0 } }, 1 },
        { "dense and wide",   900, 208, 2, { { 130, 64, HASTE_DENSE, 0, 0 }, { 0, 32, 80, 16, 208 } }, 1 },
        { "narrow S 16",     1003, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "narrow S 32",      333, 256, 1, { { 0,  32,  48, 0, 0 } }, 1 },
        { "narrow F 128",     600, 384, 1, { { 0,  16, 128, 0, 0 } }, 0 },
        { "dense and narrow", 800, 288, 2, { { 100, 32, HASTE_DENSE, 0, 144 }, { 0, 16, 32, 144, 288 } }, 1 } };
    static const int32_t batches[] = { 1, 37, 64, 100, 128, 200 };
    int i, loss, optimizer, n = 0;
    haste_cuda_layer probe;
    small_dropped = 0;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) {
        const haste_cuda_path path = strstr(shapes[i].name, "narrow") ? HASTE_CUDA_NARROW : HASTE_CUDA_WIDE;
        haste_layer_options options = test_options(&shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
        haste_layer layer = test_layer(&options);
        const char *why = "";
        probe = upload_for(&layer, path, 64);
        if (probe.path[probe.block_count - 1] != path) {   // says so rather than pass unseen
            haste_cuda_path_of(&probe, NULL, probe.block_count - 1, 64, &why);
            printf("    %s: not on this device: %s\n", shapes[i].name, why);
        } else for (loss = 0; loss < 3; loss++) for (optimizer = 0; optimizer < 3; optimizer++, n++) {
            int32_t B = batches[n % (path == HASTE_CUDA_NARROW ? 5 : 6)];
            step_case(&shapes[i], (haste_loss)loss, (haste_optimizer)optimizer, HASTE_BF16, (haste_dtype)(n / 2 % 2), B,
                      n % 2, path, optimizer == HASTE_ADAMW ? .25f : 32.0f);
        }
        haste_cuda_layer_free(&probe);
        haste_layer_free(&layer);
    }
    CHECK(small_dropped >= 10);
    // Momentum in bfloat16 where velocities have no room of their own on chip; one shape has several groups for each worker.
    {
        static const test_shape many = { "dense, many groups", 36000, 96, 1, { { 0, 64, HASTE_DENSE, 0, 0 } }, 0 };
        step_case(&many, HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_BF16, 100, 0, HASTE_CUDA_WIDE, 32.0f);
        for (i = 3; i < 5; i++) for (n = 2; n < 6; n++)
            step_case(&shapes[i], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16, HASTE_BF16, batches[n], n % 2, HASTE_CUDA_WIDE,
                      32.0f);
    }
}

// The narrow path with more samples than a block, a cluster, and all of them hold; in the last cases for a few groups at a
// time. And each batch up to 300 on a small layer.
static void batches()
{
    static const test_shape shapes[] = {
        { "S 16, F 64",       403,  96, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "S 32, F 64",       333, 128, 1, { { 0,  32,  64, 0, 0 } }, 1 },
        { "S 32, F 128",      200, 200, 1, { { 0,  32, 128, 0, 0 } }, 0 },
        { "S 16, F 16",       130,  33, 1, { { 0,  16,  16, 0, 0 } }, 1 },
        { "S 32, F 32",       130, 131, 1, { { 0,  32,  32, 0, 0 } }, 1 },
        { "S 16, F 48",       190,  99, 1, { { 0,  16,  48, 0, 0 } }, 1 },
        { "S 16, F 96",       190, 300, 1, { { 0,  16,  96, 0, 0 } }, 1 },
        { "D 631: 32 samples", 90, 631, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "dense, S 32",      300, 160, 2, { { 70, 64, HASTE_DENSE, 0, 80 }, { 0, 32, 48, 80, 160 } }, 1 },
        { "wide, dense, S 64", 150, 112, 1, { { 0,  64, HASTE_DENSE, 0, 0 } }, 1 },
        { "wide, dense, S 32", 100, 128, 1, { { 0,  32, HASTE_DENSE, 0, 0 } }, 1 },
        { "wide, S 128, F 80", 300, 150, 1, { { 0, 128,  80, 0, 0 } }, 1 },
        { "wide, S 32, F 192", 130, 256, 1, { { 0,  32, 192, 0, 0 } }, 0 } };
    static const int32_t sizes[] = { 31, 65, 80, 129, 150, 200, 257, 300, 513, 700, 1100 };
    static const test_shape small_shape = { "each B", 37, 40, 1, { { 0, 16, 16, 0, 0 } }, 0 };
    const int every = getenv("HASTE_TEST_RUNS") ? 7 : 1;   // compute-sanitizer and the emulator take fewer
    int i, k, n = 0;
    small_dropped = 0;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++)
        for (k = 0; k < (int)(sizeof sizes / sizeof sizes[0]); k++, n++) {
            const haste_optimizer optimizer = (haste_optimizer)((n + n / 11) % 3);
            if (n % every) continue;
            most_sums = n % 3 ? 0 : 40000;
            room = n % 2 ? 3 : 120;
            step_case(&shapes[i], (haste_loss)(n / 2 % 3), optimizer, HASTE_BF16, (haste_dtype)(n / 2 % 2), sizes[k], n % 2,
                      shapes[i].name[0] == 'w' ? HASTE_CUDA_WIDE : HASTE_CUDA_NARROW,
                      optimizer == HASTE_ADAMW ? .25f : 32.0f);
        }
    most_sums = 0;
    room = 3;
    CHECK(small_dropped >= 10 / every);
    for (i = 1; i <= 300; i += every * every)
        step_case(&small_shape, (haste_loss)(i % 3), HASTE_SGD, HASTE_BF16, HASTE_BF16, i, i % 2, HASTE_CUDA_NARROW, 32.0f);
}

// Two micro-batches and an update give what one batch gives.
static void accumulate()
{
    int dtype;
    for (dtype = 0; dtype < 2; dtype++) {
        haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer = test_layer(&options), a = test_copy(&layer), b = test_copy(&layer);
        haste_cuda_layer one = upload(&layer), two = upload(&layer);
        haste_cuda_workspace work = workspace(&one, 64, 0);
        test_batch batch = test_make_batch(&layer, 64), rest = batch;
        haste_cuda_gradient gradient;
        haste_step_options o;
        size_t half = 32 * (size_t)layer.inputs, i;
        float *x = (float *)device_copy(batch.x, 2 * half * 4);
        int32_t k;
        int bad = 0;
        memset(&o, 0, sizeof o);
        o.lr = .01f;
        o.loss.scale = 1 / 64.;
        rest.offset += 32;
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &two, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_train_step(&one, &work, x, HASTE_CUDA_F32, 64, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL,
                                           HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_accumulate(&two, &work, x, HASTE_CUDA_F32, 32, lists_of(host_lists(&batch)), &o,
                                           &gradient, NULL,
                                           NULL, HASTE_CUDA_F32, NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_accumulate(&two, &work, x + half, HASTE_CUDA_F32, 32, lists_of(host_lists(&rest)), &o,
                                           &gradient,
                                           NULL, NULL, HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        CHECK(gradient.pending == 2 && two.step == 0);
        CHECK_STATUS(haste_cuda_apply(&two, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK(two.step == 1 && gradient.pending == 0);
        haste_cuda_download(&one, &a, NULL, NULL);
        haste_cuda_download(&two, &b, NULL, NULL);
        for (k = 0; k < layer.block_count; k++)
            for (i = 0; i < (size_t)test_weights(&layer.block[k]); i++) {
                double v = (double)test_get(layer.dtype, a.block[k].weight, i),
                    w = (double)test_get(layer.dtype, b.block[k].weight, i);
                bad += !(fabs(v - w) <= (dtype ? .02 : 1e-5) * (fabs(v) + .05));
            }
        CHECK(bad == 0);
        {   // the buffers are 0 again
            float *g = (float *)test_alloc(gradient.bytes);
            size_t used = 0;
            MUST(cudaMemcpy(g, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
            for (i = 0; i < gradient.bytes / 4; i++) used += g[i] != 0;
            CHECK(used == 0);
            free(g);
        }
        cudaFree(x);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&one);
        haste_cuda_layer_free(&two);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&a);
        haste_layer_free(&b);
    }
}

// grad_x in bfloat16: added to what is there.
static void grad_x_bf16()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 64, 0);
    test_batch batch = test_make_batch(&layer, 50);
    size_t d = 50 * (size_t)layer.inputs, i;
    void *x = device_copy(batch.x, d * 4), *a = device_bytes(d * 4), *b = device_bytes(d * 2);
    float *wide, *narrow;
    haste_step_options o;
    int bad = 0;
    memset(&o, 0, sizeof o);
    MUST(cudaMemset(a, 0, d * 4));
    MUST(cudaMemset(b, 0, d * 2));
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 50, lists_of(host_lists(&batch)), &o, NULL, a,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 50, lists_of(host_lists(&batch)), &o, NULL, b,
                                       HASTE_CUDA_BF16,
                                       NULL, &test_error), HASTE_OK, test_error);
    wide = take_numbers(a, d, HASTE_CUDA_F32);
    narrow = take_numbers(b, d, HASTE_CUDA_BF16);
    for (i = 0; i < d; i++) bad += !(fabs((double)wide[i] - (double)narrow[i]) <= fabs((double)wide[i]) / 250 + 1e-7);
    CHECK(bad == 0);
    free(wide); free(narrow);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

// A gradient knows its layer and what is pending in it.
static void gradients()
{
    enum { B = 24 };
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer), want = test_copy(&layer), twin, stranger,
    seeded;
    haste_cuda_layer dev = upload(&layer), dev_twin, dev_stranger, dev_seeded, half;
    haste_cuda_workspace work = workspace(&dev, B, 0), work_stranger;
    haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
    haste_gradient host;
    haste_cuda_gradient gradient, own, other;
    test_batch batch = test_make_batch(&layer, B);
    const haste_cuda_lists lists = host_lists(&batch);
    void *x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
    float *weight[HASTE_MAX_BLOCKS] = {}, *bias[HASTE_MAX_BLOCKS] = {};
    haste_step_options o;
    haste_rewire_options r;
    double worst = 0;
    int64_t i;
    int32_t k;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .1f;
    r.share = .3f;
    twin = test_copy(&layer);
    options.seed++;
    seeded = test_layer(&options);
    options = test_options(&test_shapes[12], HASTE_BCE, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
    stranger = test_layer(&options);
    dev_twin = upload(&twin);
    dev_stranger = upload(&stranger);
    work_stranger = workspace(&dev_stranger, B, 0);   // has more groups
    dev_seeded = upload(&seeded);
    #define ACCUMULATE(layer, gradient) \
        haste_cuda_accumulate(layer, &work, x, HASTE_CUDA_F32, B, &lists, &o, gradient, NULL, NULL, HASTE_CUDA_F32, NULL, \
                              &test_error)
    #define APPLY(layer, gradient) haste_cuda_apply(layer, &work, gradient, &o, NULL, &test_error)
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_gradient_create(&host, &layer, &test_error), HASTE_OK, test_error);
    CHECK(gradient.layer == host.layer && gradient.pending == 0);   // one meaning on both sides
    CHECK_STATUS(APPLY(&dev, &gradient), HASTE_ERR_STATE, test_error);
    CHECK(strstr(test_error.text, "nothing is pending") != NULL && dev.step == 0);
    // two micro-batches, applied; the layer's own step comes from there alone
    o.loss.scale = .5 / B;
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(ACCUMULATE(&dev, &gradient), HASTE_OK, test_error);
        CHECK_STATUS(haste_accumulate(&want, &host_work, batch.x, B, &batch.positives, &o, &host, NULL, NULL,
                                      &test_error),
                     HASTE_OK, test_error);
    }
    CHECK(gradient.pending == 2 && dev.step == 0 && host.pending == 2);
    // gradients of other layers: another seed or other blocks; a layer made alike may have it
    CHECK_STATUS(haste_cuda_apply(&dev_stranger, &work_stranger, &gradient, &o, NULL, &test_error), HASTE_ERR_STATE,
                 test_error);
    CHECK(strstr(test_error.text, "another seed") != NULL);
    CHECK_STATUS(APPLY(&dev_seeded, &gradient), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(ACCUMULATE(&dev_seeded, &gradient), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_cuda_gradient_zero(&gradient, &dev_stranger, NULL, &test_error), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_cuda_backward(&dev_seeded, &work, x, HASTE_CUDA_F32, 1, x, HASTE_CUDA_F32, &gradient, NULL,
                                     HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_STATE, test_error);
    CHECK(gradient.pending == 2 && dev_stranger.step == 0 && dev_seeded.step == 0);
    CHECK_STATUS(haste_cuda_layer_range(&half, &dev, 0, dev.block[1].first_slot, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(APPLY(&half, &gradient), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(APPLY(&dev_twin, &gradient), HASTE_OK, test_error);
    CHECK(gradient.pending == 0 && dev_twin.step == 1 && dev.step == 0);
    CHECK_STATUS(haste_apply(&want, &host_work, &host, &o, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_download(&dev_twin, &after, NULL, &test_error), HASTE_OK, test_error);
    for (k = 0; k < layer.block_count; k++) for (i = 0; i < test_weights(&layer.block[k]); i++)
        worst = fmax(worst,
                     fabs((double)((float *)after.block[k].weight)[i] - (double)((float *)want.block[k].weight)[i]));
    CHECK(worst < 1e-5 && test_difference(&after, &layer) != NULL);
    // a rewire in between: rows belong to other inputs now
    CHECK_STATUS(ACCUMULATE(&dev, &gradient), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(APPLY(&dev, &gradient), HASTE_ERR_STATE, test_error);
    CHECK(strstr(test_error.text, "rewire") != NULL);
    CHECK_STATUS(ACCUMULATE(&dev, &gradient), HASTE_ERR_STATE, test_error);
    CHECK(gradient.pending == 1 && dev.step == 0);
    CHECK_STATUS(haste_cuda_gradient_zero(&gradient, &dev, NULL, &test_error), HASTE_OK, test_error);
    CHECK(gradient.pending == 0);
    {
        char *all = (char *)test_alloc(gradient.bytes);
        int64_t used = 0;
        MUST(cudaMemcpy(all, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
        for (i = 0; i < (int64_t)gradient.bytes; i++) used += all[i] != 0;
        CHECK(used == 0);
        free(all);
    }
    CHECK_STATUS(ACCUMULATE(&dev, &gradient), HASTE_OK, test_error);
    CHECK_STATUS(APPLY(&dev, &gradient), HASTE_OK, test_error);
    // arrays of one's own; filled by hand, or by haste_cuda_backward
    for (k = 0; k < dev.block_count; k++) { weight[k] = gradient.weight[k]; bias[k] = gradient.bias[k]; }
    memset(&own, 0x5a, sizeof own);
    CHECK_STATUS(haste_cuda_gradient_init(&own, &dev, weight, bias, &test_error), HASTE_OK, test_error);
    CHECK(own.layer == gradient.layer && own.pending == 0 && own.memory == NULL && own.weight[0] == gradient.weight[0]);
    CHECK_STATUS(APPLY(&dev, &own), HASTE_ERR_STATE, test_error);
    own.pending = 1;
    own.rewires = dev.rewires;
    CHECK_STATUS(APPLY(&dev, &own), HASTE_OK, test_error);
    CHECK(own.pending == 0);
    CHECK_STATUS(haste_cuda_backward(&dev, &work, x, HASTE_CUDA_F32, 1, x, HASTE_CUDA_F32, &own, NULL, HASTE_CUDA_F32,
                                     NULL,
                                     &test_error), HASTE_OK, test_error);
    CHECK(own.pending == 1 && own.rewires == dev.rewires);
    CHECK_STATUS(APPLY(&dev, &own), HASTE_OK, test_error);
    own.pending = -1;
    CHECK_STATUS(APPLY(&dev, &own), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_cuda_gradient_init(&own, &dev, NULL, bias, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(ACCUMULATE(&dev, &own), HASTE_ERR_ARG, test_error);
    weight[0]++;
    CHECK_STATUS(haste_cuda_gradient_init(&own, &dev, weight, bias, &test_error), HASTE_ERR_ARG, test_error);
    // of a part: that of another part is refused
    CHECK_STATUS(haste_cuda_gradient_create(&other, &half, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(ACCUMULATE(&half, &other), HASTE_OK, test_error);
    CHECK_STATUS(APPLY(&dev, &other), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(APPLY(&half, &other), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_gradient_free(&own);
    haste_cuda_gradient_free(&other);
    haste_cuda_gradient_free(&gradient);
    haste_gradient_free(&host);
    haste_workspace_free(&host_work);
    haste_cuda_workspace_free(&work);
    haste_cuda_workspace_free(&work_stranger);
    haste_cuda_layer_free(&dev);
    haste_cuda_layer_free(&dev_twin);
    haste_cuda_layer_free(&dev_stranger);
    haste_cuda_layer_free(&dev_seeded);
    haste_layer_free(&layer);
    haste_layer_free(&after);
    haste_layer_free(&want);
    haste_layer_free(&twin);
    haste_layer_free(&stranger);
    haste_layer_free(&seeded);
}

// HASTE_NONE is the value 0 of momentum and betas, on every path: three steps as on the CPU.
static void rates_of_none()
{
    static const test_shape shapes[] = {
        { "general", 333, 100, 1, { { 0, 24, 48, 0, 0 } }, 1 },
        { "narrow",  333, 100, 1, { { 0, 16, 64, 0, 0 } }, 1 },
        { "wide",    333, 200, 1, { { 0, 64, 64, 0, 0 } }, 1 } };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_NARROW, HASTE_CUDA_WIDE };
    enum { B = 64, STEPS = 3 };
    int n, adam, i;
    for (n = 0; n < 4; n++) for (adam = 0; adam < 2; adam++) {
        const haste_dtype dtype = n == 3 ? HASTE_F32 : HASTE_BF16;
        haste_layer_options options = test_options(&shapes[n % 3], HASTE_BCE, adam ? HASTE_ADAMW : HASTE_MOMENTUM,
                                                   dtype,
                                                   HASTE_F32);
        haste_layer layer = test_layer(&options), want = test_copy(&layer), back = test_copy(&layer);
        haste_cuda_layer dev = upload_for(&layer, n == 3 ? HASTE_CUDA_GENERAL : paths[n], B);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, B);
        void *x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
        haste_step_options o;
        int64_t j, off = 0, count = test_places(&layer.block[0]);
        memset(&o, 0, sizeof o);
        o.lr = adam ? .01f : 1;
        o.momentum = o.beta1 = o.beta2 = HASTE_NONE;
        for (i = 0; i < STEPS; i++) {
            CHECK_STATUS(haste_train_step(&want, &host_work, batch.x, B, &batch.positives, &o, NULL, NULL, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                               NULL,
                                               NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        }
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        // biases, which are float32 everywhere: with the defaults instead they would be off by a third and more
        for (j = 0; j < count; j++) {
            const double was = (double)layer.block[0].bias[j], moved = (double)want.block[0].bias[j] - was,
                got = (double)back.block[0].bias[j] - was;
            off += !(fabs(got - moved) <= (dtype == HASTE_F32 ? 1e-3 : .05) * fabs(moved) + 1e-5);
        }
        if (!CHECK(off * 20 <= count))   // a bias whose gradient is all but 0 may go the other way with AdamW
            printf("    %s, optimizer %d: %d of %d biases are off\n", shapes[n % 3].name, adam, (int)off, (int)count);
        o.beta1 = -.5f;
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
        o.beta1 = 0;
        o.eps = HASTE_NONE;
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                           NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
        CHECK(dev.step == STEPS);
        cudaFree(x);
        test_free_batch(&batch);
        haste_workspace_free(&host_work);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&want);
        haste_layer_free(&back);
    }
}

// Rates of a block instead of the step's, and blocks that are frozen: as on the CPU, in a step and by way of a gradient.
static void rates_of_blocks()
{
    static const test_shape shape = { "frozen, general, narrow, wide", 700, 128, 4,
                                      { { 100, 64, HASTE_DENSE, 0, 64 }, { 150, 24, 40, 0, 128 }, { 150, 16, 64, 0, 128 },
                                        { 0, 64, 64, 0, 128 } }, 1 };
    enum { B = 64 };
    int n, apart, frozen;
    for (n = 0; n < 4; n++) for (apart = 0; apart < 2; apart++) for (frozen = 0; frozen < 2; frozen++) {
        const haste_dtype dtype = n % 2 ? HASTE_BF16 : HASTE_F32;
        haste_layer_options options = test_options(&shape, HASTE_BCE, n / 2 ? HASTE_MOMENTUM : HASTE_SGD, dtype, HASTE_F32);
        haste_layer layer = test_layer(&options), want = test_copy(&layer), back = test_copy(&layer);
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
        haste_gradient host;
        haste_cuda_gradient gradient;
        test_batch batch = test_make_batch(&layer, B);
        void *x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
        haste_block_rates rates[4];
        haste_step_options o;
        int32_t k;
        memset(&o, 0, sizeof o);
        memset(rates, 0, sizeof rates);
        o.lr = .5f;
        o.weight_decay = .01f;
        o.block = rates;
        rates[0].frozen = rates[2].frozen = frozen;
        rates[1].lr = 2;
        rates[2].weight_decay = HASTE_NONE;
        rates[3].lr = HASTE_NONE;
        rates[3].momentum = .5f;
        CHECK_STATUS(haste_gradient_create(&host, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
        if (apart) {
            CHECK_STATUS(haste_accumulate(&want, &host_work, batch.x, B, &batch.positives, &o, &host, NULL, NULL,
                                          &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_apply(&want, &host_work, &host, &o, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                               &gradient, NULL, NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK,
                         test_error);
            CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
        } else {
            CHECK_STATUS(haste_train_step(&want, &host_work, batch.x, B, &batch.positives, &o, NULL, NULL, &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL,
                                               NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        }
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(back.step == 1 && want.step == 1);
        for (k = 0; k < 4; k++) {
            const haste_block *was = &layer.block[k], *right = &want.block[k], *got = &back.block[k];
            const size_t weights = (size_t)test_weights(was), places = (size_t)test_places(was);
            double off = 0, moved = 0;
            size_t i;
            if (rates[k].frozen) {   // bit for bit
                CHECK(memcmp(was->weight, got->weight, weights * (dtype ? 2 : 4)) == 0);
                CHECK(memcmp(was->bias, got->bias, places * 4) == 0);
                if (n / 2) CHECK(memcmp(was->weight_state[0], got->weight_state[0], weights * 4) == 0);
                continue;
            }
            for (i = 0; i < places; i++) {   // float32 everywhere
                off = fmax(off, fabs((double)got->bias[i] - (double)right->bias[i]));
                moved = fmax(moved, fabs((double)right->bias[i] - (double)was->bias[i]));
                if (n / 2)
                    off = fmax(off, fabs((double)got->bias_state[0][i] - (double)right->bias_state[0][i]));
            }
            if (!CHECK(off <= (dtype ? 2e-2 : 1e-4) * (moved > .1 ? moved : .1)))
                printf("    case %d, apart %d, block %d: off by %g, moved by %g\n", n, apart, (int)k, off, moved);
            CHECK(k == 3 ? moved == 0 : moved > 0);
            if (k == 3) CHECK(memcmp(was->weight, got->weight, weights * (dtype ? 2 : 4)) == 0);
            if (dtype == HASTE_F32)
                for (off = 0, i = 0; i < weights; i++)
                    off = fmax(off, fabs((double)((float *)got->weight)[i] - (double)((float *)right->weight)[i]));
            CHECK(dtype || off < 1e-4);
        }
        cudaFree(x);
        test_free_batch(&batch);
        haste_gradient_free(&host);
        haste_cuda_gradient_free(&gradient);
        haste_workspace_free(&host_work);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&want);
        haste_layer_free(&back);
    }
}

static double largest_difference(const float *a, const float *b, size_t n, double *largest)
{
    double most = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        *largest = fmax(*largest, fabs((double)b[i]));
    }
    return most;
}

// What the loss is asked for, one thing after the other and then all together: as the CPU has it, which is tested against
// double precision; and the same step from every path.
static void loss_options()
{
    static const test_shape shape = { "dense, S 16, S 24, S 128", 700, 128, 4,
                                      { { 70, 64, HASTE_DENSE, 0, 64 }, { 250, 16, 64, 0, 128 }, { 150, 24, 40, 20, 128 },
                                        { 0, 128, 100, 0, 128 } }, 1 };
    enum { B = 70, CASES = 10 };
    int n, which, k, asked;
    for (n = 0; n < 6; n++) for (which = 0; which < CASES; which++) {
        const haste_dtype dtype = n % 2 ? HASTE_BF16 : HASTE_F32;
        const haste_loss loss = (haste_loss)(n / 2);
        const int all = which == CASES - 1, softmax = loss == HASTE_SOFTMAX;
        const double slack = dtype ? 2e-2 : 2e-5;
        haste_layer_options options = test_options(&shape, loss, HASTE_SGD, dtype, HASTE_F32);
        haste_layer layer = test_layer(&options), one = test_copy(&layer), two = test_copy(&layer);
        haste_cuda_layer dev = upload_for(&layer, HASTE_CUDA_GENERAL, B), fast = upload(&layer);
        haste_cuda_workspace work = workspace(&dev, B, 0), fast_work = workspace(&fast, B, 0);
        haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
        haste_gradient host;
        haste_cuda_gradient gradient;
        test_batch batch = test_make_batch(&layer, B);
        const size_t d = B * (size_t)layer.inputs, L = (size_t)layer.labels;
        void *x = device_copy(batch.x, d * 4), *dev_gx = device_bytes(d * 4), *dev_loss = device_bytes(8);
        float *sample = (float *)test_alloc(B * 4), *weight = (float *)test_alloc(L * 4), *scale = (float *)test_alloc(L * 4),
              *offset = (float *)test_alloc(L * 4), *gx = (float *)test_zeros(d * 4), *got_gx;
        haste_step_options o, on_device;
        double want_loss, got_loss, largest = 0, off;
        size_t i;
        for (i = 0; i < B; i++) sample[i] = (float)(i % 5) / 2;
        for (i = 0; i < L; i++) {
            weight[i] = (float)(i % 7) / 3;
            scale[i] = .5f + (float)(i % 11) / 10;
            offset[i] = (float)(i % 13) / 6 - 1;
        }
        memset(&o, 0, sizeof o);
        o.lr = 8;
        o.loss.scale = .5;
        if (all) o.loss.negligible = .01f;
        if (all || which == 0) o.loss.sample_weight = sample;
        if (!softmax) {
            if (all || which == 1) o.loss.label_weight = weight;
            if (all || which == 2) o.loss.label_scale = scale;
            if (all || which == 3) o.loss.label_offset = offset;
            if (all || which == 4) o.loss.logit_scale = 1.25f;
            if (all || which == 5) o.loss.margin = .75f;
            if (all || which == 6) o.loss.positive_weight = 3;
            if ((all || which == 7) && loss == HASTE_BCE) o.loss.smoothing = .1f;
            if (all || which == 8) o.loss.share = .4f;
        }
        on_device = o;
        asked = which != 7 || loss == HASTE_BCE;   // else the plain loss, by fast paths where they are
        if (o.loss.sample_weight) on_device.loss.sample_weight = (float *)device_copy(sample, B * 4);
        if (o.loss.label_weight) on_device.loss.label_weight = (float *)device_copy(weight, L * 4);
        if (o.loss.label_scale) on_device.loss.label_scale = (float *)device_copy(scale, L * 4);
        if (o.loss.label_offset) on_device.loss.label_offset = (float *)device_copy(offset, L * 4);
        CHECK_STATUS(haste_gradient_create(&host, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_accumulate(&layer, &host_work, batch.x, B, &batch.positives, &o, &host, &want_loss, gx, &test_error),
                     HASTE_OK, test_error);
        MUST(cudaMemset(dev_gx, 0, d * 4));
        CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &on_device,
                                           &gradient, (double *)dev_loss, dev_gx, HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        MUST(cudaMemcpy(&got_loss, dev_loss, 8, cudaMemcpyDeviceToHost));
        CHECK_NEAR(got_loss, want_loss, (dtype ? 5e-3 : 1e-5) * fabs(want_loss));
        got_gx = (float *)host_copy(dev_gx, d * 4);
        off = largest_difference(got_gx, gx, d, &largest);
        if (!CHECK(largest > 0 && off <= slack * largest))
            printf("    loss %d, dtype %d, option %d: grad_x off by %g of %g\n", (int)loss, (int)dtype, which, off, largest);
        for (k = 0; k < layer.block_count; k++) {
            const size_t weights = (size_t)test_weights(&layer.block[k]), places = (size_t)test_places(&layer.block[k]);
            float *g = (float *)test_alloc(weights * 4), *b = (float *)test_alloc(places * 4);
            MUST(cudaMemcpy(g, gradient.weight[k], weights * 4, cudaMemcpyDeviceToHost));
            MUST(cudaMemcpy(b, gradient.bias[k], places * 4, cudaMemcpyDeviceToHost));
            largest = 0;
            off = largest_difference(g, host.weight[k], weights, &largest);
            if (!CHECK(largest > 0 && off <= slack * largest))
                printf("    loss %d, dtype %d, option %d, block %d: off by %g of %g\n", (int)loss, (int)dtype, which, k, off,
                       largest);
            largest = 0;
            off = largest_difference(b, host.bias[k], places, &largest);
            CHECK(largest > 0 && off <= slack * largest);
            free(g); free(b);
        }
        for (k = 0; k < 2; k++)
            CHECK_STATUS(haste_cuda_train_step(k ? &fast : &dev, k ? &fast_work : &work, x, HASTE_CUDA_F32, B,
                                               lists_of(host_lists(&batch)), &on_device, NULL, NULL, HASTE_CUDA_F32, NULL,
                                               &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &one, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&fast, &two, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &one) != NULL);
        // the general kernels, from each order of weights; but softmax's sums are another kernel's
        if (asked && !softmax) CHECK(test_difference(&one, &two) == NULL);
        cudaFree((void *)on_device.loss.sample_weight); cudaFree((void *)on_device.loss.label_weight);
        cudaFree((void *)on_device.loss.label_scale); cudaFree((void *)on_device.loss.label_offset);
        cudaFree(x); cudaFree(dev_gx); cudaFree(dev_loss);
        free(sample); free(weight); free(scale); free(offset); free(gx); free(got_gx);
        test_free_batch(&batch);
        haste_gradient_free(&host);
        haste_cuda_gradient_free(&gradient);
        haste_workspace_free(&host_work);
        haste_cuda_workspace_free(&work);
        haste_cuda_workspace_free(&fast_work);
        haste_cuda_layer_free(&dev);
        haste_cuda_layer_free(&fast);
        haste_layer_free(&layer);
        haste_layer_free(&one);
        haste_layer_free(&two);
    }
}

// Each value of an option that no loss has is refused by name, and nothing is changed.
static void loss_options_refused()
{
    static const struct { haste_loss loss; const char *says; void (*set)(haste_loss_options *o); } cases[] = {
        { HASTE_BCE, "positive_value", [](haste_loss_options *o) { static const float v[1] = { 1 }; o->positive_value = v; } },
        { HASTE_BCE, "smoothing = 1", [](haste_loss_options *o) { o->smoothing = 1; } },
        { HASTE_SQUARED_HINGE, "smoothing", [](haste_loss_options *o) { o->smoothing = .5f; } },
        { HASTE_BCE, "positive_weight", [](haste_loss_options *o) { o->positive_weight = -1; } },
        { HASTE_SOFTMAX, "positive_weight", [](haste_loss_options *o) { o->positive_weight = 2; } },
        { HASTE_SOFTMAX, "margin: not on the device with softmax", [](haste_loss_options *o) { o->margin = 2; } },
        { HASTE_BCE, "margin", [](haste_loss_options *o) { o->margin = INFINITY; } },
        { HASTE_BCE, "logit_scale", [](haste_loss_options *o) { o->logit_scale = NAN; } },
        { HASTE_BCE, "share = 1.5", [](haste_loss_options *o) { o->share = 1.5f; } } };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        haste_layer_options options = test_options(&test_shapes[2], cases[i].loss, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options), back = test_copy(&layer);
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work = workspace(&dev, 4, 0);
        test_batch batch = test_make_batch(&layer, 4);
        void *x = device_copy(batch.x, 4 * (size_t)layer.inputs * 4);
        haste_step_options o;
        memset(&o, 0, sizeof o);
        o.lr = 1;
        cases[i].set(&o.loss);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 4, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                           HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
        if (!CHECK(strstr(test_error.text, cases[i].says) != NULL)) printf("    %s\n", test_error.text);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &back) == NULL);
        cudaFree(x);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

// Frequent labels: groups with hundreds of positives, more than a warp or a worker takes at once, and many without.
static void hot_labels()
{
    static const test_shape shapes[] = {
        { "S 24",          260,  64, 1, { { 0,  24,  16, 0, 0 } }, 1 },
        { "wide, S 32",    300, 112, 2, { { 64, 32, HASTE_DENSE, 0, 0 }, { 0, 32, 64, 0, 0 } }, 1 },
        { "wide, S 128",   600, 128, 1, { { 0, 128,  64, 0, 0 } }, 1 },
        { "narrow, S 16",  200, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "narrow, S 32",  200, 128, 1, { { 0,  32,  32, 0, 0 } }, 1 } };
    static const int32_t sizes[] = { 33, 64, 150, 400 };
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 4; k++) {
            hot = k % 2 ? 3 : 40;
            step_case(&shapes[i], (haste_loss)((i + k) % 3), HASTE_SGD, HASTE_BF16, HASTE_F32, sizes[k], k % 2,
                      shapes[i].name[0] == 'w' ? HASTE_CUDA_WIDE : shapes[i].name[0] == 'n' ? HASTE_CUDA_NARROW
                                                                                             : HASTE_CUDA_GENERAL, 32.0f);
        }
    hot = 0;
}

// A loss that is to grow: changes of biases and grad_x are those of its opposite, with the sign turned.
static void negative_scale()
{
    static const test_shape shapes[] = {
        { "general",         90,  64, 1, { { 0, 24,  12, 0, 0 } }, 1 },
        { "wide",           300, 112, 2, { { 64, 32, HASTE_DENSE, 0, 0 }, { 0, 32, 64, 0, 0 } }, 1 },
        { "narrow",         200, 128, 1, { { 0, 16,  64, 0, 0 } }, 1 } };
    static const haste_cuda_path path[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW };
    for (int i = 0; i < 18; i++) {
        enum { B = 40 };
        const test_shape *shape = &shapes[i % 3];
        haste_layer_options options = test_options(shape, (haste_loss)(i / 3 % 3), HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer = spread_layer(&options), after[2];
        test_batch batch = test_make_batch(&layer, B);
        const haste_cuda_lists lists = host_lists(&batch);
        const size_t d = (size_t)B * (size_t)layer.inputs;
        void *x = device_copy(batch.x, d * 4), *loss = device_bytes(8);
        float *gx[2], largest = 0, apart = 0;
        double got[2];
        int k;
        for (k = 0; k < 2; k++) {
            haste_cuda_layer dev = upload_for(&layer, path[i % 3], B);
            haste_cuda_workspace work = workspace(&dev, B, 0);
            void *dev_gx = device_bytes(d * 4);
            haste_step_options o;
            memset(&o, 0, sizeof o);
            o.lr = .5f;
            o.loss.scale = k ? -1. / 16 : 1. / 16;
            o.loss.negligible = 1e-3f;
            after[k] = test_copy(&layer);
            MUST(cudaMemset(dev_gx, 0, d * 4));
            CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, &lists, &o, i >= 9 ? (double *)loss : NULL,
                                               dev_gx, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&dev, &after[k], NULL, &test_error), HASTE_OK, test_error);
            gx[k] = (float *)host_take(dev_gx, d * 4);
            MUST(cudaMemcpy(&got[k], loss, 8, cudaMemcpyDeviceToHost));
            haste_cuda_workspace_free(&work);
            haste_cuda_layer_free(&dev);
        }
        for (size_t j = 0; j < d; j++) {
            largest = fmaxf(largest, fabsf(gx[0][j]));
            apart = fmaxf(apart, fabsf(gx[0][j] + gx[1][j]));
        }
        CHECK(largest > 0 && apart <= 1e-5f * largest);
        if (i >= 9) CHECK(got[0] > 0 && fabs(got[0] + got[1]) <= 1e-12 * got[0]);
        for (int b = 0; b < layer.block_count; b++)
            for (int64_t j = 0; j < test_places(&layer.block[b]); j++) {
                const float old = layer.block[b].bias[j];
                const float up = after[0].block[b].bias[j] - old, down = after[1].block[b].bias[j] - old;
                CHECK(fabsf(up + down) <= 1e-5f * fabsf(up) + 4e-6f * fabsf(old));
            }
        for (k = 0; k < 2; k++) { free(gx[k]); haste_layer_free(&after[k]); }
        cudaFree(x); cudaFree(loss);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(step);
    RUN(step_large);
    RUN(step_fast);
    RUN(small);
    RUN(batches);
    RUN(accumulate);
    RUN(grad_x_bf16);
    RUN(gradients);
    RUN(rates_of_none);
    RUN(rates_of_blocks);
    RUN(loss_options);
    RUN(loss_options_refused);
    RUN(negative_scale);
    RUN(hot_labels);
    return check_end();
}
