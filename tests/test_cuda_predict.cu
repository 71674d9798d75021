// haste_cuda.cuh on a device: the best labels, those above a threshold, and scores of given ones.
#include "cuda.h"

// n varies what else there is to vary: types, where lists lie, whether scores are wanted.
static void top_k_case(const test_shape *shape, haste_dtype dtype, int path, int32_t B, int32_t k, int with, int n)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    test_batch batch;
    haste_cuda_lists excluded;
    double *logits, want_score[64];
    int32_t want_id[64], *id, b, r;
    float *score;
    void *x, *dev_id, *dev_score;
    int bad = 0;
    if (!upload_on(&dev, &layer, path, B < 128 ? B : 128)) { haste_layer_free(&layer); return; }
    work = workspace(&dev, B > 100 ? B : 100, 0);
    batch = test_make_batch(&layer, B);
    excluded = n % 3 ? device_lists(&batch) : host_lists(&batch);
    logits = test_doubles((size_t)B * (size_t)layer.slots);
    dev_id = device_bytes((size_t)B * (size_t)k * 4);
    dev_score = device_bytes((size_t)B * (size_t)k * 4);
    whole_x(&batch, &layer);
    x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, (haste_cuda_type)(n % 3));
    haste_forward_ref(&layer, batch.x, B, logits);
    CHECK_STATUS(haste_cuda_top_k(&dev, &work, x, (haste_cuda_type)(n % 3), B, k, without(with ? &excluded : NULL),
                                  (int32_t *)dev_id,
                                  n % 5 ? (float *)dev_score : NULL, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    id = (int32_t *)host_take(dev_id, (size_t)B * (size_t)k * 4);
    score = (float *)host_take(dev_score, (size_t)B * (size_t)k * 4);
    for (b = 0; b < B; b++) {
        haste_top_k_ref(&layer, logits + (size_t)b * (size_t)layer.slots, k, batch.id + batch.offset[b],
                        with ? batch.offset[b + 1] - batch.offset[b] : 0, want_id, want_score);
        for (r = 0; r < k; r++) {
            bad += id[b * k + r] != want_id[r];
            if (n % 5) bad += (double)score[b * k + r] != want_score[r];
        }
    }
    CHECK(bad == 0);
    if (bad) printf("    %s, dtype %d, path %d, B %d, k %d, excluded %d: %d differ\n", shape->name, (int)dtype, path,
                    (int)B,
                    (int)k, with, bad);
    free(id); free(score); free(logits);
    cudaFree(x);
    if (!excluded.on_host) free_lists(excluded);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void top_k_general()
{
    static const int32_t batches[] = { 1, 3, 4, 37, 100 }, depths[] = { 1, 5, 33, 64 };
    int i, dtype, j, n = 0, with;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 5; j++)
        for (with = 0; with < 2; with++, n++)
            top_k_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_AUTO,
                       test_shapes[i].inputs > 10000 && j > 2 ? 9 : batches[j], depths[n % 4], with, n);
}

// The shapes of the fast kernels, on each path.
static void top_k_shapes(const int32_t *batches, int count)
{
    static const int32_t depths[] = { 1, 5, 33, 64 };
    int i, j, n = 0, with, path;
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (j = 0; j < count; j++) for (with = 0; with < 2; with++, n++)
            top_k_case(&panel_shapes[i], HASTE_BF16, path, batches[j], depths[n / 2 % 4], with, n);
}

// Few samples: the streaming kernels.
static void top_k_few()
{
    static const int32_t batches[] = { 1, 2, 4, 5, 8 };
    static const test_shape many_inputs = { "12,000 inputs", 300, 12000, 1, { { 0, 32, 64, 0, 0 } }, 1 };
    int j, path;
    top_k_shapes(batches, 5);
    for (j = 0; j < 5; j++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_WIDE; path++)   // x beyond shared memory
        top_k_case(&many_inputs, HASTE_BF16, path, batches[j], 5, path % 2, j);
}

// More of them: the panel kernels.
static void top_k_panel()
{
    static const int32_t batches[] = { 9, 70, 130 };
    top_k_shapes(batches, 3);
    top_k_case(&panel_shapes[3], HASTE_BF16, HASTE_CUDA_GENERAL, 2100, 5, 0, 0);   // more tiles than there are parts
}

// The best of B samples and their scores, from x (float32) on the host; free both.
static void best_of(const haste_cuda_layer *dev, haste_cuda_workspace *work, const float *x, int32_t B, int32_t k,
                    const haste_cuda_lists *excluded, int32_t **id, float **score)
{
    const size_t n = (size_t)B * (size_t)k;
    void *dev_x = device_copy(x, (size_t)B * (size_t)dev->inputs * 4), *dev_id = device_bytes(n * 4),
        *dev_score = device_bytes(n * 4);
    CHECK_STATUS(haste_cuda_top_k(dev, work, dev_x, HASTE_CUDA_F32, B, k, without(excluded), (int32_t *)dev_id,
                                  (float *)dev_score,
                                  NULL, &test_error), HASTE_OK, test_error);
    *id = (int32_t *)host_take(dev_id, n * 4);
    *score = (float *)host_take(dev_score, n * 4);
    cudaFree(dev_x);
}

// Of few samples, x counts to 16 bits: the scores' errors are far below what rounding x to bfloat16 costs.
static void top_k_precise()
{
    int path;
    int32_t B, b, r;
    for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++) for (B = 1; B <= 4; B++) {
        haste_layer_options options = test_options(&panel_shapes[3], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev = upload_for(&layer, (haste_cuda_path)path, B);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        test_batch batch = test_make_batch(&layer, B);
        const size_t n = (size_t)B * (size_t)layer.slots;
        double *want = test_doubles(n), *coarse = test_doubles(n), error = 0, rounding = 0;
        float *rounded = naive_x(&layer, &batch), *score;
        int32_t *id;
        haste_forward_ref(&layer, batch.x, B, want);
        haste_forward_ref(&layer, rounded, B, coarse);
        best_of(&dev, &work, batch.x, B, 33, NULL, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        for (b = 0; b < B; b++) for (r = 0; r < 33; r++) {
            const size_t at = (size_t)b * (size_t)layer.slots + (size_t)layer.slot_of[id[b * 33 + r]];
            error = fmax(error, fabs((double)score[b * 33 + r] - want[at]));
            rounding = fmax(rounding, fabs(coarse[at] - want[at]));
            if (r) CHECK(score[b * 33 + r - 1] >= score[b * 33 + r]);
        }
        CHECK(rounding > 0 && error < rounding / 16);
        if (!(error < rounding / 16))
            printf("    path %d, B %d: error %g, of rounding x %g\n", path, (int)B, error, rounding);
        free(id); free(score); free(want); free(coarse); free(rounded);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

// Nothing but ties, of more labels than a merge looks at together: the smallest ids, but for those excluded.
static void top_k_ties()
{
    static const int32_t batches[] = { 1, 4, 7, 20 };
    static const test_shape shape = { "ties", 20000, 64, 1, { { 0, 32, 16, 0, 0 } }, 0 };
    int dtype, j, with;
    for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 4; j++) for (with = 0; with < 2; with++) {
        const int32_t B = batches[j], k = 64;
        haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer dev;
        haste_cuda_workspace work;
        test_batch batch = test_make_batch(&layer, B);
        haste_cuda_lists excluded;
        int64_t offset[21];
        int32_t *id, *banned = (int32_t *)test_alloc(100 * (size_t)B * 4), b, r, bad = 0;
        float *score;
        memset(layer.block[0].weight, 0, (size_t)test_weights(&layer.block[0]) * (dtype == HASTE_BF16 ? 2 : 4));
        for (r = 0; r < layer.block[0].labels; r++) layer.block[0].bias[r] = 1.5f;
        for (b = 0; b < B; b++) for (r = 0; r < 100; r++) banned[b * 100 + r] = b + 2 * (99 - r);
        for (b = 0; b <= B; b++) offset[b] = 100 * b;
        excluded.offset = offset;
        excluded.id = banned;
        excluded.on_host = 1;
        dev = upload(&layer);
        work = workspace(&dev, B, 0);
        best_of(&dev, &work, batch.x, B, k, with ? &excluded : NULL, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        for (b = 0; b < B; b++) {
            int32_t next = 0;
            for (r = 0; r < k; r++, next++) {
                while (with && next >= b && next <= b + 198 && (next - b) % 2 == 0) next++;
                bad += id[b * k + r] != next || score[b * k + r] != 1.5f;
            }
        }
        CHECK(bad == 0);
        if (bad) printf("    dtype %d, B %d, excluded %d: %d differ\n", dtype, (int)B, with, (int)bad);
        free(id); free(score); free(banned);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

// Excluded ids that are none, on the device: flagged whatever the batch, and passed over.
static void top_k_bad_ids()
{
    static const int32_t batches[] = { 1, 3, 4, 8, 40 };
    int dtype, j, kind;
    for (dtype = 0; dtype < 2; dtype++) for (j = 0; j < 5; j++) for (kind = 0; kind < 4; kind++) {
        const int32_t B = batches[j], k = 5, b = B - 1;
        haste_layer_options options = test_options(&panel_shapes[3], HASTE_BCE, HASTE_SGD, (haste_dtype)dtype,
                                                   HASTE_F32);
        haste_layer layer = whole_layer(&options);
        haste_cuda_layer dev = upload(&layer);
        haste_cuda_workspace work = workspace(&dev, B, 0);
        test_batch batch = test_make_batch(&layer, B);
        haste_cuda_lists lists;
        int64_t offset[41];
        int32_t banned[120], *id, *want, i;
        float *score, *want_score;
        char sample[40];
        whole_x(&batch, &layer);
        for (i = 0; i < 3 * B; i++) banned[i] = i * 5 % layer.labels;
        for (i = 0; i <= B; i++) offset[i] = 3 * i;
        lists.on_host = 1;
        lists.offset = offset;
        lists.id = banned;
        banned[3 * b + 1] = banned[3 * b + 2];   // this one will be none
        best_of(&dev, &work, batch.x, B, k, &lists, &want, &want_score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        banned[3 * b + 1] = kind == 0 ? -1 : kind == 1 ? layer.labels : kind == 2 ? INT32_MIN : INT32_MAX;
        lists.on_host = 0;
        lists.offset = (const int64_t *)device_copy(offset, ((size_t)B + 1) * 8);
        lists.id = (const int32_t *)device_copy(banned, (size_t)B * 12);
        best_of(&dev, &work, batch.x, B, k, &lists, &id, &score);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_ERR_DATA, test_error);
        snprintf(sample, sizeof sample, "sample %d ", (int)b);
        CHECK(strstr(test_error.text, sample) != NULL);
        CHECK(memcmp(id, want, (size_t)B * (size_t)k * 4) == 0 && memcmp(score, want_score,
                                                                         (size_t)B * (size_t)k * 4) == 0);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free(id); free(want); free(score); free(want_score);
        free_lists(lists);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_layer_free(&layer);
    }
}

static void above_case(const test_shape *shape, haste_dtype dtype, int path, int with)
{
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer dev = upload_for(&layer, (haste_cuda_path)path, 70);
    int32_t B = layer.inputs > 10000 ? 3 : 70, b;
    haste_cuda_workspace work = workspace(&dev, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    haste_cuda_lists excluded = host_lists(&batch);
    static int turn;
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3);
    double *logits = test_doubles((size_t)B * (size_t)layer.slots);
    size_t capacity = (size_t)B * (size_t)layer.labels;
    void *x, *dev_offset = device_bytes(((size_t)B + 1) * 8), *dev_id = device_bytes(capacity * 4),
        *dev_score = device_bytes(capacity * 4);
    int64_t needed = -1, *offset, slot, at, total = 0, first_needed;
    int32_t *id;
    float *score, threshold = 2;
    int bad = 0;
    turn++;
    whole_x(&batch, &layer);
    x = device_numbers(batch.x, (size_t)B * (size_t)layer.inputs, x_type);
    haste_forward_ref(&layer, batch.x, B, logits);
    haste_cuda_above(&dev, &work, x, x_type, B, threshold, without(with ? &excluded : NULL), (int64_t *)dev_offset, NULL,
                     NULL, 0, &first_needed, NULL, &test_error);
    CHECK_STATUS(haste_cuda_above(&dev, &work, x, x_type, B, threshold, without(with ? &excluded : NULL),
                                  (int64_t *)dev_offset, (int32_t *)dev_id,
                                  (float *)dev_score, (int64_t)capacity, &needed, NULL, &test_error), HASTE_OK,
                                      test_error);
    CHECK(needed == first_needed);
    offset = (int64_t *)host_take(dev_offset, ((size_t)B + 1) * 8);
    id = (int32_t *)host_take(dev_id, capacity * 4);
    score = (float *)host_take(dev_score, capacity * 4);
    for (b = 0; b < B; b++) {
        int64_t own = 0;
        bad += offset[b] != total;
        for (slot = 0; slot < layer.slots; slot++) {
            int32_t label = layer.label_of[slot];
            if (label < 0 || !(logits[b * layer.slots + slot] > (double)threshold)) continue;
            if (with && find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], label)) continue;
            own++;
            bad += !find_id(id + offset[b], offset[b + 1] - offset[b], label);
        }
        for (at = offset[b]; at < offset[b + 1]; at++) {
            bad += (double)score[at] != logits[b * layer.slots + layer.slot_of[id[at]]];
            if (at > offset[b]) bad += !(score[at - 1] > score[at] ||
                                         (score[at - 1] == score[at] && id[at - 1] < id[at]));
        }
        total += own;
    }
    CHECK(bad == 0 && total == needed && offset[B] == total);
    if (total > 0) {
        int64_t *few_offset = (int64_t *)device_bytes(((size_t)B + 1) * 8);
        CHECK_STATUS(haste_cuda_above(&dev, &work, x, x_type, B, threshold, without(with ? &excluded : NULL), few_offset,
                                      (int32_t *)x, (float *)x, total - 1,
                                      &needed, NULL, &test_error), HASTE_ERR_SIZE, test_error);
        free(host_take(few_offset, ((size_t)B + 1) * 8));
    }
    free(offset); free(id); free(score); free(logits);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void above()
{
    int i, dtype, with, path;
    for (with = 0; with < 2; with++) {
        for (i = 0; i < TEST_SHAPES; i++)
            for (dtype = 0; dtype < 2; dtype++) above_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_GENERAL,
                                                           with);
        for (i = 0; i < PANEL_SHAPES; i++)
            for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
                above_case(&panel_shapes[i], HASTE_BF16, path, with);
    }
}

static void score_case(const test_shape *shape, int dtype, int path)
{
    static int turn;
    const haste_cuda_type x_type = (haste_cuda_type)((turn + turn / 3) % 3);
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, (haste_dtype)dtype, HASTE_F32);
    haste_layer layer = test_layer(&options);
    haste_cuda_layer dev = path == HASTE_CUDA_AUTO ? upload(&layer) : upload_for(&layer, (haste_cuda_path)path, 40);
    haste_cuda_workspace work = workspace(&dev, 40, 0);
    test_batch batch = test_make_batch(&layer, 40);
    haste_cuda_lists lists = dtype ? device_lists(&batch) : host_lists(&batch);
    size_t n = (size_t)(batch.offset[40] - batch.offset[0]);
    void *x = device_numbers(batch.x, 40 * (size_t)layer.inputs, x_type), *dev_score = device_bytes(n * 4);
    double *logits = test_doubles(40 * (size_t)layer.slots);
    float *got, *naive = (float *)test_alloc(40 * (size_t)layer.slots * 4);
    test_errors got_errors = {}, naive_errors = {};
    int32_t b;
    int64_t j;
    turn++;
    haste_forward_ref(&layer, batch.x, 40, logits);
    naive_forward(&layer, batch.x, 40, naive);
    CHECK_STATUS(haste_cuda_score(&dev, &work, x, x_type, 40, &lists, (float *)dev_score, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    got = (float *)host_take(dev_score, n * 4);
    for (b = 0; b < 40; b++) for (j = batch.offset[b]; j < batch.offset[b + 1]; j++) {
        size_t at = (size_t)b * (size_t)layer.slots + (size_t)layer.slot_of[batch.id[j]];
        test_add_error(&got_errors, (double)got[j - batch.offset[0]], logits[at]);
        test_add_error(&naive_errors, (double)naive[at], logits[at]);
    }
    test_judge(&got_errors, &naive_errors, "score", __LINE__);
    free(got); free(logits); free(naive);
    cudaFree(x);
    if (dtype) free_lists(lists);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
}

static void score()
{
    int i, dtype, path;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++)
        score_case(&test_shapes[i], dtype, HASTE_CUDA_AUTO);
    for (i = 0; i < PANEL_SHAPES; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        score_case(&panel_shapes[i], 1, path);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(top_k_general);
    RUN(top_k_few);
    RUN(top_k_panel);
    RUN(top_k_precise);
    RUN(top_k_ties);
    RUN(top_k_bad_ids);
    RUN(above);
    RUN(score);
    return check_end();
}
