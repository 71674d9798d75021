// haste_cuda.cuh on a device: what is not finite spares what it should.
#include "cuda.h"

static void not_finite()
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer);
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    test_batch batch = test_make_batch(&layer, 8);
    haste_step_options o;
    size_t group = (size_t)(layer.block[0].fan_in * layer.block[0].group_size);
    int64_t g, f;
    int kept = 0, changed = 0;
    void *x, *id = device_bytes(8 * 5 * 4), *score = device_bytes(8 * 5 * 4);
    memset(&o, 0, sizeof o);
    o.lr = .1f;
    batch.x[3 * layer.inputs + 10] = INFINITY;   // one input of one sample
    x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    haste_cuda_download(&dev, &after, NULL, NULL);
    for (g = 0; g < layer.block[0].groups; g++) {
        int reads = 0, same = memcmp((float *)layer.block[0].weight + (size_t)g * group,
                                     (float *)after.block[0].weight + (size_t)g * group, group * 4) == 0;
        for (f = 0; f < layer.block[0].fan_in; f++) reads |= layer.block[0].index[g * layer.block[0].fan_in + f] == 10;
        CHECK(same == reads);
        kept += same;
        changed += !same;
    }
    CHECK(kept > 0 && changed > 0);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, 8, 5, NULL, (int32_t *)id, (float *)score, NULL,
                                  &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, (float *)x + 3 * layer.inputs, HASTE_CUDA_F32, 1, 5, NULL, (int32_t *)id,
                                  (float *)score, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    {   // rewiring changes nothing
        haste_rewire_options r;
        memset(&r, 0, sizeof r);
        r.share = .2f;
        r.growth = HASTE_GROW_GRADIENT;
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), NULL, NULL,
                                       &test_error),
                     HASTE_ERR_NONFINITE, test_error);
        haste_cuda_download(&dev, &after, NULL, NULL);
        CHECK(test_difference(&layer, &after) == NULL);
    }
    {   // ids on the device that are out of range, and offsets that descend: passed over, and reported
        int64_t offset[9] = { 0, 1, 1, 1, 1, 1, 1, 1, 1 }, descending[9] = { 0, 3, 1, 1, 1, 1, 1, 1, 1 };
        int32_t bad_id[3] = { 333, 0, 0 };
        haste_cuda_lists lists;
        lists.offset = (const int64_t *)device_copy(offset, sizeof offset);
        lists.id = (const int32_t *)device_copy(bad_id, sizeof bad_id);
        lists.on_host = 0;
        batch.x[3 * layer.inputs + 10] = 0;
        MUST(cudaMemcpy(x, batch.x, 8 * (size_t)layer.inputs * 4, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 0 ") && !strstr(test_error.text, "finite"));
        bad_id[0] = 0;
        MUST(cudaMemcpy((void *)lists.id, bad_id, sizeof bad_id, cudaMemcpyHostToDevice));
        MUST(cudaMemcpy((void *)lists.offset, descending, sizeof descending, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") != NULL);
        CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, (float *)score, NULL, &test_error),
                     HASTE_OK,
                     test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") != NULL);
        {   // rows that overlap, since one between them descends: nothing hangs, all but that one is passed over or counts
            int64_t overlapping[9] = { 0, 3, 1, 3, 0, 3, 3, 2, 3 };
            MUST(cudaMemcpy((void *)lists.offset, overlapping, sizeof overlapping, cudaMemcpyHostToDevice));
            for (int again = 0; again < 3; again++) {
                CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                                   NULL, &test_error), HASTE_OK, test_error);
                CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
                CHECK(strstr(test_error.text, "sample 1 ") != NULL);
            }
            MUST(cudaMemcpy((void *)lists.offset, descending, sizeof descending, cudaMemcpyHostToDevice));
        }
        {   // the same over what another layer's lists, of larger groups, have left in the workspace's memory
            const test_shape wide_shape = { "wide", 300, 64, 1, { { 0, 32, 32, 0, 0 } }, 1 };
            haste_layer_options wide_options = test_options(&wide_shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
            haste_layer small = test_layer(&wide_options);
            haste_cuda_layer on = upload_for(&small, HASTE_CUDA_WIDE, 8);
            haste_cuda_workspace own = workspace(&on, 8, 0);
            int64_t overlapping[9] = { 0, 3, 1, 3, 0, 3, 3, 2, 3 };
            void *there = device_bytes(8 * 64 * 4);
            MUST(cudaMemset(there, 0, 8 * 64 * 4));
            MUST(cudaMemcpy((void *)lists.offset, overlapping, sizeof overlapping, cudaMemcpyHostToDevice));
            for (int again = 0; again < 2; again++) {
                MUST(cudaMemset(own.memory, again ? 0xff : 0x7f, own.bytes));   // huge numbers everywhere, also as (sample, label)
                haste_cuda_check(&own, NULL, NULL);
                CHECK_STATUS(haste_cuda_train_step(&on, &own, there, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                                   NULL, &test_error), HASTE_OK, test_error);
                CHECK_STATUS(haste_cuda_check(&own, NULL, &test_error), HASTE_ERR_DATA, test_error);
            }
            MUST(cudaMemcpy((void *)lists.offset, descending, sizeof descending, cudaMemcpyHostToDevice));
            cudaFree(there);
            haste_cuda_workspace_free(&own);
            haste_cuda_layer_free(&on);
            haste_layer_free(&small);
        }
        batch.x[0] = NAN;   // both at once: neither is forgotten
        for (f = 0; f < layer.inputs; f++) MUST(cudaMemcpy((float *)x + f, batch.x, 4, cudaMemcpyHostToDevice));
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, 8, &lists, &o, NULL, NULL, HASTE_CUDA_F32,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        CHECK(strstr(test_error.text, "sample 1 ") && strstr(test_error.text, "finite"));
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free_lists(lists);
    }
    cudaFree(x); cudaFree(id); cudaFree(score);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// What is wrong with a batch of spared_case.
typedef enum trouble {
    BAD_INPUT,        // an input of one sample is infinite: groups that have it are spared
    BAD_BIAS,         // a logit is not finite for all samples
    LARGE_LOGIT,      // 3e37, of 8 samples: only the wide path spares its group
    LARGER_LOGIT,     // 6e37, of 64 samples and more: narrow too
    LARGE_WEIGHTS,    // gradients of 2e19 of one input's weights, while that of the bias is 2e15
    LARGE_BIAS,       // a gradient of 2e20 of a bias, none of weights
    OVERFLOWING_BIAS  // one of 2e30, and a rate of 1e11, for SGD
} trouble;

static const char *const trouble_name[] = { "input", "bias", "large logit", "larger logit", "large gradient of weights",
                                            "large gradient of a bias", "bias that overflows" };

// Whether the numbers of place (f, i) of a block are what they were: the weight and its states; f = F: the bias and its.
static int unchanged(const haste_layer *layer, const haste_block *a, const haste_block *b, int64_t i, int64_t f)
{
    const int64_t S = a->group_size, F = a->fan_in;
    const size_t at = (size_t)(f < F ? (i / S * F + f) * S + i % S : i);
    const size_t w = test_width(layer->dtype), v = test_width(layer->state_dtype);
    int k, same;
    if (f == F) {
        same = memcmp(a->bias + at, b->bias + at, 4) == 0;
        for (k = 0; k < 2; k++) if (a->bias_state[k]) same &= memcmp(a->bias_state[k] + at, b->bias_state[k] + at,
                                                                     4) == 0;
        return same;
    }
    same = memcmp((char *)a->weight + at * w, (char *)b->weight + at * w, w) == 0;
    for (k = 0; k < 2; k++)
        if (a->weight_state[k])
            same &= memcmp((char *)a->weight_state[k] + at * v, (char *)b->weight_state[k] + at * v, v) == 0;
    return same;
}

/* What NOT FINITE in haste_cuda.cuh promises: exactly what it names is left as it was, bit for bit, all else moves (states
   are float32, so that they do), and haste_cuda_check says so,
   once. One block; with the squared hinge and no positives a
   logit's gradient is 2 * (1 + z) / B. Would catch a check that is missing, or one that spares more than is said. */
static void spared_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B,
                        haste_optimizer optimizer, haste_loss loss, trouble what)
{
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_block *block = &layer.block[0];
    const int64_t S = block->group_size, F = block->fan_in, g0 = block->groups / 2,
    i0 = g0 * S + S - 3;   /* the label */
    const int dense = block->index == NULL;
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch = test_make_batch(&layer, B);
    haste_step_options o;
    void *x;
    int64_t i, f, d, unit = S, loud = F * 3 / 4, wrong = INT64_MAX, spared = 0, moved = 0;
    int sgd = optimizer == HASTE_SGD, found = 0, turn_of[16] = { 0 }, shares;
    memset(&o, 0, sizeof o);
    o.lr = .25f;
    d = dense ? loud : block->index[g0 * F + loud];
    /* without states a small gradient is lost beside a bias of 1, as where softmax's share and a positive's cancel */
    for (i = 0; i < block->labels && sgd; i++) block->bias[i] = 0;
    if (what == BAD_INPUT) batch.x[(B / 2) * layer.inputs + d] = path == HASTE_CUDA_NARROW ? -INFINITY : INFINITY;
    else {
        if (what == BAD_BIAS) block->bias[i0] = loss == HASTE_SOFTMAX ? NAN : INFINITY;
        if (what == LARGE_LOGIT) block->bias[i0] = 3e37f;
        if (what == LARGER_LOGIT) block->bias[i0] = 6e37f;
        if (what == LARGE_WEIGHTS) {
            block->bias[i0] = 1e15f;
            for (i = 0; i < B; i++) batch.x[i * layer.inputs + d] = 1e4f;
        }
        if (what == LARGE_BIAS || what == OVERFLOWING_BIAS) {
            if (what == OVERFLOWING_BIAS) o.lr = 1e11f;   // from 1e12 on the general kernels would do it
            block->bias[i0] = what == OVERFLOWING_BIAS ? 1e30f : 1e20f;
            memset(batch.x, 0, (size_t)B * (size_t)layer.inputs * 4);
        }
        if (loss == HASTE_SQUARED_HINGE) for (i = 0; i <= B; i++) batch.offset[i] = 3;
    }
    dev = upload_for(&layer, path, B);
    work = workspace(&dev, B, 0);
    if (dev.path[0] != path) { printf("    %s: not on this device\n", shape->name); goto end; }
    x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    {
        const haste_status status = haste_cuda_check(&work, NULL, &test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
        found = status == HASTE_ERR_NONFINITE;
        CHECK(found || status == HASTE_OK);
    }
    if (path == HASTE_CUDA_GENERAL && S > 64) unit = 64;
    if (path == HASTE_CUDA_NARROW) unit = S == 32 && F <= 64 ? 32 : 16;
    if (path == HASTE_CUDA_WIDE && what == LARGE_WEIGHTS && (dense || F > 128 || (F > 64 && S > 64)))
        for (f = 0; f < F; f += 64) turn_of[f / 64] = unchanged(&layer, block, &after.block[0], i0, f) ? 1 : -1;
    /* narrow: a unit's inputs are updated in one share, in two or in four, as many as blocks hold the batch */
    for (shares = 1; shares <= (path == HASTE_CUDA_NARROW && B > 32 ? 4 : 1) && wrong > 0; shares *= 2) {
        int64_t now_wrong = 0, stayed = 0;
        spared = moved = 0;
        for (i = 0; i < block->labels; i++) {
            int reads = dense;
            const int near_it = i / unit == i0 / unit && i / S == g0;
            for (f = 0; f < F && !reads; f++) reads |= block->index[i / S * F + f] == d;
            for (f = 0; f <= F; f++) {   /* f = F: the bias */
                int want = 0, same = unchanged(&layer, block, &after.block[0], i, f);
                switch (what) {
                case BAD_INPUT:    want = reads; break;
                case BAD_BIAS:     want = near_it; break;
                case LARGE_LOGIT:  want = near_it && path == HASTE_CUDA_WIDE; break;
                case LARGER_LOGIT: want = near_it && path != HASTE_CUDA_GENERAL; break;
                case LARGE_WEIGHTS:
                    if (path == HASTE_CUDA_GENERAL) want = near_it && f < F && f / 64 == loud / 64;
                    else if (path == HASTE_CUDA_WIDE) want = near_it && (!turn_of[0] || f == F || turn_of[f / 64] > 0);
                    else if (!sgd)
                        want = near_it && (f < F ? f % (F / 8) * 8 * shares / F : 0) == loud % (F / 8) * 8 * shares / F;
                    break;
                case LARGE_BIAS:
                    if (path == HASTE_CUDA_GENERAL) want = near_it && f == F && i == i0;
                    else if (path == HASTE_CUDA_WIDE) want = near_it;
                    else if (!sgd) want = near_it && (f == F || f % (F / 8) * 8 * shares < F);
                    break;
                case OVERFLOWING_BIAS: want = near_it && f == F; break;
                }
                spared += want;
                moved += !want && !same;
                /* without states a weight may well stay: its gradient is 0, or rounded off */
                now_wrong += want && !same;
                stayed += !want && same && (!sgd || (f == F && i != i0 && loss != HASTE_SQUARED_HINGE));
            }
        }
        /* a weight and its velocity may both happen to become what they were: one of 100,000 */
        wrong = now_wrong + (stayed > (sgd ? 0 : 1 + moved / 100000) ? stayed : 0);
    }
    if (turn_of[0]) {   /* pieces of 64 inputs come in turn, from any one on: the spared ones end where the turn does */
        const int pieces = (int)((F + 63) / 64), at = (int)(loud / 64);
        int n = 0, k, run = 0;
        for (k = 0; k < pieces; k++) n += turn_of[k] > 0;
        while (run < pieces && turn_of[(at + run) % pieces] > 0) run++;
        CHECK(n > 0 && run == n);
    }
    if (!(CHECK(wrong == 0) & CHECK(found == (spared > 0)) & CHECK(moved > 0)))
        printf("    %s, dtype %d, path %d, B %d, optimizer %d, loss %d, %s: %lld wrong, %lld were to be spared, found %d\n",
               shape->name, (int)dtype, (int)path, (int)B, (int)optimizer, (int)loss, trouble_name[what],
               (long long)wrong,
               (long long)spared, found);
    cudaFree(x);
end:
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Logits that are not finite take no part in softmax's sums: the biases of all other labels move by the gradient of that
// softmax, on each path.
static void spared_softmax(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int32_t B)
{
    haste_layer_options options = test_options(shape, HASTE_SOFTMAX, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_cuda_layer dev = upload_for(&layer, path, B);
    haste_cuda_workspace work = workspace(&dev, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    const haste_block *block = &layer.block[0];
    const int64_t slots = layer.slots;
    double *z = test_doubles((size_t)(B * slots)), *grad = test_doubles((size_t)slots), worst = 0, largest = 0;
    float *rounded;
    haste_step_options o;
    void *x;
    const int64_t d = block->index[block->fan_in / 2];
    int64_t i, j;
    int32_t b, kept = 0;
    memset(&o, 0, sizeof o);
    o.lr = 16;
    batch.x[11 * layer.inputs + d] = INFINITY;   // neither of these has an empty list
    batch.x[(B - 2) * layer.inputs + d] = NAN;
    x = device_copy(batch.x, (size_t)B * (size_t)layer.inputs * 4);
    rounded = naive_x(&layer, &batch);
    haste_forward_ref(&layer, rounded, B, z);
    for (b = 0; b < B; b++) {
        const double *row = z + b * slots;
        const int32_t *ids = batch.id + batch.offset[b];
        const int64_t count = batch.offset[b + 1] - batch.offset[b];
        double peak = -INFINITY, sum = 0, n = 0;
        for (i = 0; i < slots; i++) if (layer.label_of[i] >= 0 && isfinite(row[i]) && row[i] > peak) peak = row[i];
        for (i = 0; i < slots; i++) if (layer.label_of[i] >= 0 && isfinite(row[i])) sum += exp(row[i] - peak);
        for (j = 0; j < count; j++) n += !find_id(ids, j, ids[j]);   // distinct ones
        for (i = 0; i < slots && n > 0; i++) if (layer.label_of[i] >= 0)
            grad[i] += (exp(row[i] - peak) / sum - (find_id(ids, count, layer.label_of[i]) ? 1 / n : 0)) / B;
    }
    CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    for (i = 0; i < block->labels; i++) {
        int reads = 0;
        for (j = 0; j < block->fan_in && !reads; j++)
            reads |= block->index[i / block->group_size * block->fan_in + j] == d;
        if (reads) { kept += CHECK(after.block[0].bias[i] == block->bias[i]); continue; }
        worst = fmax(worst, fabs((double)after.block[0].bias[i] - ((double)block->bias[i] - (double)o.lr * grad[i])));
        if (!(fabs((double)after.block[0].bias[i]) < 1e6)) worst = INFINITY;
        largest = fmax(largest, (double)o.lr * fabs(grad[i]));
    }
    // dz is rounded to bfloat16 for the weights only
    CHECK(kept > 0 && largest > 1e-3);
    CHECK_NEAR(worst, 0, 1e-4 * largest);
    cudaFree(x);
    free(z); free(grad); free(rounded);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Accumulating spares what a step of the general kernels does, applying a run of 64 labels as a whole; prediction: forward
// and score say nothing, top-k and above do; rewiring changes nothing.
static void spared_elsewhere(const test_shape *shape, haste_dtype dtype, haste_cuda_path path)
{
    enum { B = 40 };
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, HASTE_ADAMW, dtype, HASTE_F32);
    haste_layer layer = test_layer(&options), after = test_copy(&layer);
    haste_block *block = &layer.block[0];
    const int64_t S = block->group_size, F = block->fan_in, d = block->index[F / 2];
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, B);
    const size_t n = (size_t)B * (size_t)layer.slots, inputs = (size_t)B * (size_t)layer.inputs;
    double *want = test_doubles(n);
    float *got, *rounded, one = NAN;
    haste_step_options o;
    haste_rewire_options r;
    void *x, *out = device_bytes(n * 4), *id = device_bytes((size_t)B * 5 * 4), *offset = device_bytes((B + 1) * 8);
    int64_t i, f, needed, wrong = 0, spared = 0;
    size_t k;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .25f;
    batch.x[3 * layer.inputs + d] = NAN;
    x = device_copy(batch.x, inputs * 4);
    dev = upload_for(&layer, path, B);
    work = workspace(&dev, B, 0);
    rounded = naive_x(&layer, &batch);
    haste_forward_ref(&layer, rounded, B, want);
    // forward and score: such logits as they are
    CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error),
                 HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_copy(out, n * 4);
    for (k = 0; k < n; k++) {
        if (layer.label_of[k % (size_t)layer.slots] < 0) continue;
        wrong += isfinite(want[k]) ? !(fabs((double)got[k] - want[k]) <= 1e-4 * (fabs(want[k]) + 1)) : isfinite(got[k]);
        spared += !isfinite(want[k]);
    }
    CHECK(wrong == 0 && spared > 0);
    free(got);
    batch.offset[0] = 0;
    for (i = 0; i < B; i++) { batch.id[i] = layer.label_of[i % S]; batch.offset[i + 1] = i + 1; }   // the first group has d
    CHECK_STATUS(haste_cuda_score(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), (float *)out, NULL,
                                  &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_copy(out, n * 4);
    for (i = 0; i < B; i++) CHECK(isfinite(got[i]) == (i != 3));
    free(got);
    // top-k by panels and by streaming, and above: reported
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, HASTE_CUDA_F32, i ? 4 : B, 5, NULL, (int32_t *)id, NULL, NULL,
                                      &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    }
    haste_cuda_above(&dev, &work, x, HASTE_CUDA_F32, B, 1e30f, NULL, (int64_t *)offset, (int32_t *)out, (float *)out, 0,
                     &needed, NULL, &test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    // rewiring: a bad batch, a bad weight
    r.share = .2f;
    for (i = 0; i < 2; i++) {
        r.growth = i ? HASTE_GROW_RANDOM : HASTE_GROW_GRADIENT;
        r.prune = i ? HASTE_PRUNE_SALIENCY : HASTE_PRUNE_MAGNITUDE;
        CHECK_STATUS(haste_cuda_rewire(&dev, &work, &r, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), NULL, NULL,
                                       &test_error),
                     HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &after) == NULL);
    }
    haste_cuda_check(&work, NULL, NULL);
    // accumulate: runs whose logits are not finite get nothing, all others do
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o, &gradient,
                                       NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    got = (float *)test_alloc((size_t)test_weights(block) * 4);
    MUST(cudaMemcpy(got, gradient.weight[0], (size_t)test_weights(block) * 4, cudaMemcpyDeviceToHost));
    for (i = 0, wrong = 0; i < block->groups; i++) {
        int reads = 0, used = 0, finite = 1;
        for (f = 0; f < F; f++) reads |= block->index[i * F + f] == d;
        for (f = 0; f < F * S; f++) { used |= got[i * F * S + f] != 0; finite &= isfinite(got[i * F * S + f]) != 0; }
        wrong += used == reads || !finite;
    }
    CHECK(wrong == 0);
    free(got);
    // apply: one gradient of the last group that is not finite spares 64 labels, weights and biases, and becomes 0 too
    MUST(cudaMemcpy(gradient.weight[0] + test_weights(block) - S / 2, &one, 4, cudaMemcpyHostToDevice));
    CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &after, NULL, &test_error), HASTE_OK, test_error);
    for (i = 0, wrong = 0; i < block->labels; i++) for (f = 0; f <= F; f++)
        wrong += unchanged(&layer, block, &after.block[0], i, f)
              != (i / S == block->groups - 1 && (S <= 64 || i % S / 64 == S / 2 / 64));
    CHECK(wrong == 0);
    got = (float *)test_alloc(gradient.bytes);
    MUST(cudaMemcpy(got, gradient.memory, gradient.bytes, cudaMemcpyDeviceToHost));
    for (k = 0, wrong = 0; k < (size_t)test_weights(block); k++) wrong += got[k] != 0;
    CHECK(wrong == 0);
    free(got); free(want); free(rounded);
    cudaFree(x); cudaFree(out); cudaFree(id); cudaFree(offset);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&after);
}

// Padding slots have the logit 0, also of a sample whose inputs are not finite.
static void padding_is_zero()
{
    enum { B = 37 };
    int i, path, type;
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (type = HASTE_CUDA_F32; type <= HASTE_CUDA_BF16; type++) {
            haste_layer_options options = test_options(&panel_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
            haste_layer layer = test_layer(&options);
            haste_cuda_layer dev;
            haste_cuda_workspace work;
            test_batch batch;
            size_t n = B * (size_t)layer.slots, k, other = 0, padding = 0;
            float *got;
            void *x, *out;
            if (!upload_on(&dev, &layer, path, B)) { haste_layer_free(&layer); continue; }
            work = workspace(&dev, B, 0);
            batch = test_make_batch(&layer, B);
            for (k = 0; k < (size_t)layer.inputs; k++) batch.x[5 * (size_t)layer.inputs + k] = INFINITY;
            x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
            out = device_bytes(n * 4);
            CHECK_STATUS(haste_cuda_forward(&dev, &work, x, HASTE_CUDA_F32, B, out, (haste_cuda_type)type, NULL,
                                            &test_error),
                         HASTE_OK, test_error);
            got = take_numbers(out, n, (haste_cuda_type)type);
            for (k = 0; k < n; k++) if (layer.label_of[k % (size_t)layer.slots] < 0) { padding++; other += got[k] != 0; }
            CHECK(other == 0 && (padding > 0 || layer.slots == layer.labels));
            CHECK(!isfinite(got[5 * layer.slots]));
            free(got);
            cudaFree(x);
            test_free_batch(&batch);
            haste_cuda_workspace_free(&work);
            haste_cuda_layer_free(&dev);
            haste_layer_free(&layer);
        }
}

static void spared()
{
    static const test_shape shapes[] = {
        { "S 32, F 64",   700, 300, 1, { { 0,  32,  64, 0, 0 } }, 1 },
        { "S 64, F 128",  640, 400, 1, { { 0,  64, 128, 0, 0 } }, 1 },
        { "S 128, F 208", 640, 900, 1, { { 0, 128, 208, 0, 0 } }, 1 },
        { "dense, S 32",  100, 208, 1, { { 0,  32, HASTE_DENSE, 0, 0 } }, 1 },
        { "S 16, F 64",   500, 300, 1, { { 0,  16,  64, 0, 0 } }, 1 },
        { "S 32, F 128",  500, 300, 1, { { 0,  32, 128, 0, 0 } }, 1 },
        { "S 256, F 100", 900, 400, 1, { { 0, 256, 100, 0, 0 } }, 1 } };
    static const struct { int shape; haste_dtype dtype; haste_cuda_path path; } cases[] = {
        { 6, HASTE_F32,  HASTE_CUDA_GENERAL }, { 6, HASTE_BF16, HASTE_CUDA_GENERAL }, { 0, HASTE_BF16,
                                                                                       HASTE_CUDA_WIDE },
        { 1, HASTE_BF16, HASTE_CUDA_WIDE },    { 2, HASTE_BF16, HASTE_CUDA_WIDE },    { 3, HASTE_BF16,
                                                                                       HASTE_CUDA_WIDE },
        { 4, HASTE_BF16, HASTE_CUDA_NARROW },  { 0, HASTE_BF16, HASTE_CUDA_NARROW },  { 5, HASTE_BF16,
                                                                                       HASTE_CUDA_NARROW } };
    int n, optimizer, k;
    for (n = 0; n < (int)(sizeof cases / sizeof cases[0]); n++) {
        const test_shape *shape = &shapes[cases[n].shape];
        const haste_dtype dtype = cases[n].dtype;
        const haste_cuda_path path = cases[n].path;
        for (k = 0; k < (path == HASTE_CUDA_NARROW ? 3 : 2); k++) for (optimizer = 0; optimizer < 3; optimizer++) {
            const int32_t B = k == 2 ? 300 : k ? 100 : 64;   // 300: narrow goes by chunks
            if (cases[n].shape != 3) {   // a dense block is in every way one group, all of it is spared
                spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_BCE, BAD_INPUT);
                spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SOFTMAX, BAD_INPUT);
            }
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_BCE, BAD_BIAS);
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SOFTMAX, BAD_BIAS);
            spared_case(shape, dtype, path, k ? B : 8, (haste_optimizer)optimizer, HASTE_BCE,
                        k ? LARGER_LOGIT : LARGE_LOGIT);
            if (optimizer == HASTE_SGD && path != HASTE_CUDA_NARROW) continue;   // some weights may well stay
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SQUARED_HINGE, LARGE_WEIGHTS);
            spared_case(shape, dtype, path, B, (haste_optimizer)optimizer, HASTE_SQUARED_HINGE, LARGE_BIAS);
            if (optimizer == HASTE_SGD) spared_case(shape, dtype, path, B, HASTE_SGD, HASTE_SQUARED_HINGE,
                                                    OVERFLOWING_BIAS);
        }
        if (cases[n].shape == 3) continue;
        spared_softmax(shape, dtype, path, 70);
        spared_elsewhere(shape, dtype, path);
    }
}

// Rates with which new weights would be infinite, on every path: those weights and their states stay as they were, bit for
// bit, no weight becomes infinite, and haste_cuda_check says so. Weights are 0 and inputs 1e12, so that each weight has a
// gradient of 5e11 (AdamW: its first moment is 1e17 and its second 0); or weights are huge, and decay alone is too much.
static void infinite_updates()
{
    static const test_shape shapes[] = {
        { "general",     333, 100, 1, { { 0,  24, 48, 0, 0 } }, 1 },
        { "large group", 300, 200, 1, { { 0, 128, 80, 0, 0 } }, 1 },
        { "narrow",      333, 100, 1, { { 0,  16, 64, 0, 0 } }, 1 },
        { "wide",        333, 200, 1, { { 0,  64, 64, 0, 0 } }, 1 },
        { "dense",       200,  96, 1, { { 0,  32, HASTE_DENSE, 0, 0 } }, 1 } };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_GENERAL, HASTE_CUDA_NARROW, HASTE_CUDA_WIDE,
                                             HASTE_CUDA_WIDE };
    enum { B = 8 };
    int n, optimizer, type, decayed, apart;
    for (n = 0; n < 5; n++) for (optimizer = 0; optimizer < 3; optimizer++) for (type = 0; type < 2; type++)
    for (decayed = 0; decayed < 2; decayed++) for (apart = 0; apart < 2; apart++) {
        const haste_dtype dtype = type ? HASTE_BF16 : HASTE_F32;
        haste_layer_options options = test_options(&shapes[n], HASTE_BCE, (haste_optimizer)optimizer, dtype,
                                                   HASTE_BF16);
        haste_layer layer, back;
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        haste_cuda_gradient gradient;
        test_batch batch;
        haste_step_options o;
        test_span span[TEST_SPANS], got[TEST_SPANS];
        void *x;
        int64_t i;
        int k, spans;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        for (i = 0; i < test_weights(&layer.block[0]); i++) {
            if (test_get(dtype, layer.block[0].weight, (size_t)i) == 0) continue;   // padding
            test_put(dtype, layer.block[0].weight, (size_t)i, !decayed ? 0 : i % 2 ? 3e38f : -3e38f);
            if (optimizer != HASTE_ADAMW) continue;
            test_put(HASTE_BF16, layer.block[0].weight_state[0], (size_t)i, 1e17f);
            test_put(HASTE_BF16, layer.block[0].weight_state[1], (size_t)i, 0);
        }
        for (i = 0; i < test_places(&layer.block[0]); i++) layer.block[0].bias[i] = 0;
        for (i = 0; i < B * layer.inputs; i++) batch.x[i] = decayed || optimizer == HASTE_ADAMW ? 0 : 1e12f;
        back = test_copy(&layer);
        memset(back.block[0].weight, 0x3f, (size_t)test_weights(&layer.block[0]) * (type ? 2 : 4));
        dev = upload_for(&layer, type ? paths[n] : HASTE_CUDA_GENERAL, B);
        work = workspace(&dev, B, 0);
        x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
        memset(&o, 0, sizeof o);
        o.lr = decayed ? 1 : 3e38f;
        if (decayed) o.weight_decay = 10;
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &dev, &test_error), HASTE_OK, test_error);
        if (apart) {
            CHECK_STATUS(haste_cuda_accumulate(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                               &gradient, NULL, NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK,
                         test_error);
            CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_apply(&dev, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
        } else
            CHECK_STATUS(haste_cuda_train_step(&dev, &work, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &o,
                                               NULL,
                                               NULL, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);   // all finite
        spans = test_spans(&layer, span);
        CHECK(test_spans(&back, got) == spans);
        for (k = 0; k < spans; k++)   // biases count by themselves
            if (!strstr(span[k].name, "bias") && !CHECK(memcmp(span[k].data, got[k].data, span[k].bytes) == 0))
                printf("    %s, optimizer %d, dtype %d, decayed %d, apart %d: %s\n", shapes[n].name, optimizer, type,
                       decayed, apart, span[k].name);
        cudaFree(x);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&back);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(not_finite);
    RUN(spared);
    RUN(padding_is_zero);
    RUN(infinite_updates);
    return check_end();
}
