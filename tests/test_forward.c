/* Logits: a case worked by hand, then odd shapes against double, judged by the error of a naive float32 loop. */
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static const int32_t batches[] = { 1, 7, 31, 32, 33, 64, 97 };
enum { BATCHES = sizeof batches / sizeof batches[0] };

/* Two samples, three labels, F = 2 of D = 3 inputs:

       x = 1   2  -1     index = 0, 2      weight = 1  0.5  -2   (input 0)    bias = 0.25  -1  3
           0  -3   4                                3  -1    0   (input 2)

   sample 0:  1*1 + 3*-1 + .25 = -1.75     .5*1 + -1*-1 - 1 = .5     -2*1 + 0*-1 + 3 = 1
   sample 1:  1*0 + 3*4  + .25 = 12.25     .5*0 + -1*4 - 1  = -5     -2*0 + 0*4 + 3  = 3       (all exact) */
static void by_hand(void)
{
    static const float x[6] = { 1, 2, -1, 0, -3, 4 }, weight[6] = { 1, .5f, -2, 3, -1, 0 }, bias[3] = { .25f, -1, 3 };
    static const float expected[6] = { -1.75f, .5f, 1, 12.25f, -5, 3 };
    static const int32_t order[3] = { 2, 0, 1 };   /* changes who owns a slot, not the logits by slot */
    int path, type, i;
    for (path = 0; path < TEST_PATHS; path++) for (type = 0; type < 2; type++) {
        haste_layer_options options;
        haste_layer layer;
        haste_workspace work;
        haste_block *block;
        float logits[16];
        double logits_ref[16];
        if (test_path_missing(test_paths[path])) continue;
        memset(&options, 0, sizeof options);
        options.labels = 3;
        options.inputs = 3;
        options.block_count = 1;
        options.block[0].group_size = 8;
        options.block[0].fan_in = 2;
        options.order = order;
        options.dtype = type ? HASTE_BF16 : HASTE_F32;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        block = &layer.block[0];
        block->index[0] = 0;
        block->index[1] = 2;
        for (i = 0; i < 6; i++) test_put(layer.dtype, block->weight, (size_t)(i / 3 * 8 + i % 3), weight[i]);
        for (i = 0; i < 3; i++) block->bias[i] = bias[i];
        CHECK(layer.label_of[0] == 2 && layer.slot_of[2] == 0 && layer.slot_of[1] == 2);
        work = test_workspace(&layer, 2, 1, test_paths[path]);
        CHECK_STATUS(haste_forward(&layer, &work, x, 2, logits, &test_error), HASTE_OK, test_error);
        haste_forward_ref(&layer, x, 2, logits_ref);
        for (i = 0; i < 16; i++) {
            float want = i % 8 < 3 ? expected[i / 8 * 3 + i % 8] : 0;
            CHECK(logits[i] == want);
            CHECK(logits_ref[i] == (double)want);
        }
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
        for (n = 0; n < BATCHES; n++) {
            int32_t B = batches[n];
            test_batch batch;
            size_t count = (size_t)B * (size_t)layer.slots, j;
            float *naive, *x_before;
            double *exact;
            test_errors naive_errors;
            if (shape->inputs > 10000 && B != (type ? 33 : 7)) continue;   /* time */
            if (B > 33 && (i + type + n) % 3 != 0) continue;
            batch = test_make_batch(&layer, B);
            naive = (float *)test_alloc(count * 4);
            exact = test_doubles(count);
            x_before = (float *)test_alloc((size_t)B * (size_t)layer.inputs * 4);
            memcpy(x_before, batch.x, (size_t)B * (size_t)layer.inputs * 4);
            memset(&naive_errors, 0, sizeof naive_errors);
            haste_forward_ref(&layer, batch.x, B, exact);
            naive_forward(&layer, batch.x, B, naive);
            for (j = 0; j < count; j++) test_add_error(&naive_errors, (double)naive[j], exact[j]);
            for (path = 0; path < TEST_PATHS; path++) {
                haste_workspace work;
                float *logits = check_floats(count + 1) + 1;   /* aligned to a float only */
                test_errors errors;
                char what[200];
                int bad = 0;
                if (test_path_missing(test_paths[path])) { free(logits - 1); continue; }
                work = test_workspace(&layer, B, 2, test_paths[path]);
                memset(work.memory, 0xff, work.bytes);   /* scratch: nothing in it may matter */
                CHECK_STATUS(haste_forward(&layer, &work, batch.x, B, logits, &test_error), HASTE_OK, test_error);
                CHECK(check_guard(logits, count));
                memset(&errors, 0, sizeof errors);
                for (j = 0; j < count; j++) {
                    test_add_error(&errors, (double)logits[j], exact[j]);
                    if (layer.label_of[j % (size_t)layer.slots] < 0 && logits[j] != 0) bad++;
                }
                CHECK(bad == 0);
                CHECK(memcmp(x_before, batch.x, (size_t)B * (size_t)layer.inputs * 4) == 0);
                snprintf(what, sizeof what, "logits, %s, %s, B %d, %s", shape->name, type ? "bf16" : "f32", (int)B,
                         haste_path_text(work.path));
                test_judge(&errors, &naive_errors, what, __LINE__);
                haste_workspace_free(&work);
                free(logits - 1);
            }
            free(naive);
            free(exact);
            free(x_before);
            test_free_batch(&batch);
        }
        haste_layer_free(&layer);
    }
}

/* The same bits for any number of threads, any size of workspace, and a workspace used before. */
static void same_bits(void)
{
    static const int32_t threads[] = { 1, 2, 3, 5 };
    static const test_shape long_rows[] = {   /* read a few at a time, where there are few samples */
        { "dense S 128", 150, 37, 1, { { 0, 128, HASTE_DENSE, 0, 0 } }, 1 },
        { "S 136, F 21", 300, 70, 1, { { 0, 136, 21, 0, 0 } }, 1 } };
    int i, path, t, b;
    for (i = 0; i < 14; i++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(i < 2 ? &long_rows[i] : &test_shapes[i - 2], HASTE_BCE, HASTE_SGD,
                                                   i % 2 ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_batch batch = test_make_batch(&layer, 45);
        size_t count = 45 * (size_t)layer.slots;
        float *first = check_floats(count), *logits = check_floats(count);
        if (!test_path_missing(test_paths[path])) {
            for (t = 0; t < 4; t++) {
                haste_workspace work = test_workspace(&layer, t == 3 ? 200 : 45, threads[t], test_paths[path]);
                CHECK_STATUS(haste_forward(&layer, &work, batch.x + 5 * layer.inputs, 40, logits, &test_error), HASTE_OK, test_error);
                CHECK_STATUS(haste_forward(&layer, &work, batch.x, 45, t ? logits : first, &test_error), HASTE_OK, test_error);
                if (t) CHECK(memcmp(first, logits, count * 4) == 0);
                /* one sample alone, and a few: each logit is the same sum, whatever the batch */
                for (b = 1; b < 6; b++) {
                    CHECK_STATUS(haste_forward(&layer, &work, batch.x + (45 - b) * layer.inputs, b, logits, &test_error), HASTE_OK, test_error);
                    CHECK(memcmp(logits, first + (45 - b) * layer.slots, (size_t)b * (size_t)layer.slots * 4) == 0);
                }
                CHECK(check_guard(logits, count) && check_guard(first, count));
                haste_workspace_free(&work);
            }
        }
        free(first);
        free(logits);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* bf16_dot: against double, from x rounded to bfloat16. Each of F products and sums may be off by half a unit of float32;
   a subnormal number counts as 0. The same bits for any number of threads, in top-k and above a threshold. */
static void dot(void)
{
    int i, n, t;
    if (!haste_has_bf16_dot() || test_path_missing(HASTE_PATH_AVX512)) { printf("  skipped: bf16_dot: not available on this processor\n"); return; }
    for (i = 0; i < TEST_SHAPES; i++) for (n = 0; n < BATCHES; n++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        haste_layer layer;
        test_batch batch;
        float *logits, *first, *rounded, *scores, score = 0;
        int32_t *ids;
        int64_t offset[2], needed = 0;
        double *exact;
        size_t count, inputs, j;
        int32_t B = batches[n], b, id = -1;
        if (test_shapes[i].inputs > 10000 && B != 33) continue;   /* time */
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        inputs = (size_t)B * (size_t)layer.inputs;
        count = (size_t)B * (size_t)layer.slots;
        rounded = check_floats(inputs);
        for (j = 0; j < inputs; j++) rounded[j] = haste__from_bf16(haste__to_bf16(batch.x[j]));
        exact = test_doubles(count);
        haste_forward_ref(&layer, rounded, B, exact);
        logits = check_floats(count);
        first = check_floats(count);
        scores = check_floats((size_t)layer.labels);
        ids = (int32_t *)test_alloc((size_t)layer.labels * 4);
        for (t = 0; t < 2; t++) {
            haste_workspace_options o;
            haste_workspace work;
            double worst = 0;
            memset(&o, 0, sizeof o);
            o.batch = B;
            o.threads = 1 + t;
            o.path = HASTE_PATH_AVX512;
            o.bf16_dot = 1;
            CHECK_STATUS(haste_workspace_create(&work, &layer, &o, &test_error), HASTE_OK, test_error);
            memset(work.memory, 0xff, work.bytes);
            memset(logits, 0xff, count * 4);
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, B, logits, &test_error), HASTE_OK, test_error);
            CHECK(check_guard(logits, count));
            if (t == 0) memcpy(first, logits, count * 4);
            CHECK(memcmp(first, logits, count * 4) == 0);
            for (b = 0; b < B; b++) {
                int32_t k, best = -1;
                for (k = 0; k < layer.block_count; k++) {
                    const haste_block *block = &layer.block[k];
                    int64_t s;
                    for (s = 0; s < block->groups * block->group_size; s++) {
                        const int64_t slot = block->first_slot + s, g = s / block->group_size;
                        const size_t at = (size_t)b * (size_t)layer.slots + (size_t)slot;
                        double sum = fabs((double)block->bias[s]), error;
                        int32_t f;
                        if (s >= block->labels) { CHECK(logits[at] == 0); continue; }
                        for (f = 0; f < block->fan_in; f++) {
                            const int64_t place = g * block->fan_in + f;
                            const float w = haste__number(block->weight, HASTE_BF16, (size_t)(place * block->group_size + s % block->group_size));
                            sum += fabs((double)w * (double)rounded[b * layer.inputs + block->begin + (block->index ? block->index[place] : f)]);
                        }
                        error = fabs((double)logits[at] - exact[at]) / ((block->fan_in + 2) * 0x1p-24 * sum + 1e-36);
                        if (!(error <= worst)) worst = error;
                        if (best < 0 || logits[at] > logits[(size_t)b * (size_t)layer.slots + (size_t)best]) best = (int32_t)slot;
                    }
                }
                if (b == B - 1) {
                    CHECK_STATUS(haste_top_k(&layer, &work, batch.x + (size_t)b * (size_t)layer.inputs, 1, 1, NULL, &id, &score, &test_error),
                                 HASTE_OK, test_error);
                    CHECK(score == logits[(size_t)b * (size_t)layer.slots + (size_t)best]);
                    CHECK_STATUS(haste_above(&layer, &work, batch.x + (size_t)b * (size_t)layer.inputs, 1, -FLT_MAX, NULL,
                                             offset, ids, scores, layer.labels, &needed, &test_error), HASTE_OK, test_error);
                    CHECK(needed == layer.labels);
                    for (k = 0; k < layer.labels; k++)
                        CHECK(scores[k] == logits[(size_t)b * (size_t)layer.slots + (size_t)layer.slot_of[ids[k]]]);
                }
            }
            CHECK(worst <= 1);
            haste_workspace_free(&work);
        }
        free(logits);
        free(first);
        free(scores);
        free(ids);
        free(rounded);
        free(exact);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* bf16_dot: finite inputs stay finite when they are rounded, so that padding is 0 and a weight of 0 hides them as
   elsewhere. */
static void dot_largest(void)
{
    haste_layer_options options;
    haste_workspace_options o;
    haste_layer layer;
    haste_workspace work;
    float *x, *logits;
    int32_t b, s, i;
    if (!haste_has_bf16_dot() || test_path_missing(HASTE_PATH_AVX512)) return;
    memset(&options, 0, sizeof options);
    options.labels = 19;
    options.inputs = 5;
    options.block_count = 1;
    options.block[0].group_size = 16;
    options.block[0].fan_in = HASTE_DENSE;
    options.dtype = HASTE_BF16;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    memset(layer.block[0].weight, 0, (size_t)test_weights(&layer.block[0]) * 2);
    memset(&o, 0, sizeof o);
    o.batch = 9;
    o.path = HASTE_PATH_AVX512;
    o.bf16_dot = 1;
    CHECK_STATUS(haste_workspace_create(&work, &layer, &o, &test_error), HASTE_OK, test_error);
    x = check_floats(9 * 5);
    logits = check_floats(9 * 32);
    for (i = 0; i < 9 * 5; i++) x[i] = i % 2 ? FLT_MAX : -FLT_MAX;   /* would be rounded to infinity */
    CHECK_STATUS(haste_forward(&layer, &work, x, 9, logits, &test_error), HASTE_OK, test_error);
    for (b = 0; b < 9; b++) for (s = 0; s < 32; s++) CHECK(logits[b * 32 + s] == (s < 19 ? layer.block[0].bias[s] : 0));
    free(x);
    free(logits);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

/* Logits that pass the caches by, from 16 MiB on, have the same bits as those that do not: rows off the cache lines never do. Blocks of
   several sizes, groups that fill no panel, batches that fill no tile; one block whose groups are no whole cache lines. */
static void large(void)
{
    static const test_shape shape = { "large", 44000, 40, 4,
                                      { { 9000, 16, 5, 0, 0 }, { 10, 48, 3, 0, 0 }, { 4020, 24, 4, 0, 0 }, { 0, 32, 7, 3, 39 } }, 0 };
    static const int32_t sizes[] = { 96, 101 };
    haste_layer_options options;
    haste_layer layer;
    test_batch batch;
    float *out, *logits, *beside;
    size_t count;
    int path, type, n;
    for (type = 0; type < 2; type++) {
        options = test_options(&shape, HASTE_BCE, HASTE_SGD, type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        batch = test_make_batch(&layer, 101);
        out = check_floats(2 * 101 * (size_t)layer.slots + 64);
        logits = out + (64 - (uintptr_t)out % 64) % 64 / 4;
        beside = logits + (101 * (size_t)layer.slots + 15) / 16 * 16 + 4;
        for (path = 0; path < TEST_PATHS; path++) for (n = 0; n < 2; n++) {
            haste_workspace work;
            if (test_path_missing(test_paths[path])) continue;
            work = test_workspace(&layer, 101, 2, test_paths[path]);
            memset(work.memory, 0xff, work.bytes);
            count = (size_t)sizes[n] * (size_t)layer.slots;
            CHECK(count >= (size_t)1 << 22 && layer.slots % 16 == 0 && (uintptr_t)logits % 64 == 0 && (uintptr_t)beside % 64 != 0);
            memset(logits, 0xff, count * 4);
            memset(beside, 0xff, count * 4);
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, sizes[n], logits, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, sizes[n], beside, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(logits, beside, count * 4) == 0);
            CHECK(logits[0] == logits[0] && logits[count - 1] == logits[count - 1]);
            haste_workspace_free(&work);
        }
        free(out);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* The same for so few samples that a workspace has one tile of them; in memory whose end is watched. */
static void streamed_from_few(void)
{
    enum { B = 32, GUARD = 1 << 16 };
    static const int32_t sizes[] = { 16, 48, 128, 256 };
    int i, path, dot, purpose;
    for (i = 0; i < 4; i++) for (path = 0; path < TEST_PATHS; path++) for (dot = 0; dot < 2; dot++) for (purpose = 0; purpose < 3; purpose++) {
        haste_layer_options options;
        haste_workspace_options work_options;
        haste_workspace work;
        haste_layer layer;
        haste_plan plan;
        test_batch batch;
        float *out, *logits, *beside;
        char *base, *memory;
        size_t count, j;
        int64_t bad = 0;
        if (test_path_missing(test_paths[path]) || (dot && (test_paths[path] != HASTE_PATH_AVX512 || !haste_has_bf16_dot()))) continue;
        memset(&options, 0, sizeof options);
        memset(&work_options, 0, sizeof work_options);
        options.labels = 132096;   /* a multiple of all sizes; B * slots is above 2^22 */
        options.inputs = 20;
        options.block_count = 1;
        options.block[0].group_size = sizes[i];
        options.block[0].fan_in = 3;
        options.dtype = dot ? HASTE_BF16 : HASTE_F32;
        work_options.batch = B;
        work_options.ids = work_options.top_k = 1;
        work_options.threads = 2;
        work_options.chunks = 4;
        work_options.path = test_paths[path];
        work_options.bf16_dot = dot;
        work_options.purpose = (haste_purpose)purpose;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_plan_bytes(&options, &work_options, &plan, &test_error), HASTE_OK, test_error);
        base = (char *)test_alloc(plan.workspace + GUARD + 64);
        memory = base + (64 - (uintptr_t)base % 64) % 64;
        memset(memory, 0xa5, plan.workspace + GUARD);
        CHECK_STATUS(haste_workspace_init(&work, &layer, &work_options, memory, plan.workspace, &test_error), HASTE_OK, test_error);
        batch = test_make_batch(&layer, B);
        out = check_floats(2 * B * (size_t)layer.slots + 64);
        logits = out + (64 - (uintptr_t)out % 64) % 64 / 4;
        beside = logits + B * (size_t)layer.slots + 4;
        count = B * (size_t)layer.slots;
        CHECK(count >= (size_t)1 << 22 && layer.slots % 16 == 0);
        CHECK_STATUS(haste_forward(&layer, &work, batch.x, B, logits, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_forward(&layer, &work, batch.x, B, beside, &test_error), HASTE_OK, test_error);
        CHECK(memcmp(logits, beside, count * 4) == 0);
        for (j = 0; j < GUARD; j++) bad += (unsigned char)memory[plan.workspace + j] != 0xa5;
        CHECK(bad == 0);
        free(out);
        free(base);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* What a block's slice leaves out does not matter, however large. */
static void slices(void)
{
    int path;
    for (path = 0; path < TEST_PATHS; path++) {
        static const test_shape shape = { "slice", 70, 90, 2, { { 30, 16, 9, 20, 50 }, { 0, 8, HASTE_DENSE, 31, 60 } }, 0 };
        haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_batch batch = test_make_batch(&layer, 35);
        size_t count = 35 * (size_t)layer.slots;
        float *first = check_floats(count), *logits = check_floats(count);
        haste_workspace work;
        int32_t b, d;
        if (!test_path_missing(test_paths[path])) {
            work = test_workspace(&layer, 35, 1, test_paths[path]);
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, 35, first, &test_error), HASTE_OK, test_error);
            for (b = 0; b < 35; b++) for (d = 0; d < 90; d++) if (d < 20 || d >= 60) batch.x[b * 90 + d] = 3e38f;
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, 35, logits, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(first, logits, count * 4) == 0);
            haste_workspace_free(&work);
        }
        free(first);
        free(logits);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* x that is not finite is refused wherever it stands, read or not, and the output is untouched. */
static void not_finite(void)
{
    static const float bad[] = { HUGE_VALF, -HUGE_VALF, 0 };
    int path, i, at;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[4], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_batch batch = test_make_batch(&layer, 34);
        size_t count = 34 * (size_t)layer.slots, n = 34 * (size_t)layer.inputs;
        float *logits = check_floats(count);
        if (!test_path_missing(test_paths[path])) {
            haste_workspace work = test_workspace(&layer, 34, 1, test_paths[path]);
            for (i = 0; i < 3; i++) for (at = 0; at < 3; at++) {
                size_t place = at == 0 ? 0 : at == 1 ? n - 1 : n / 2 + 1;
                float keep = batch.x[place];
                batch.x[place] = i < 2 ? bad[i] : bad[0] - bad[0];
                CHECK_STATUS(haste_forward(&layer, &work, batch.x, 34, logits, &test_error), HASTE_ERR_DATA, test_error);
                CHECK(strchr(test_error.text, 'x') != NULL);
                CHECK(check_guard(logits, 0) && check_guard(logits + count - CHECK_GUARD, CHECK_GUARD));
                batch.x[place] = keep;
            }
            CHECK_STATUS(haste_forward(&layer, &work, batch.x, 34, logits, &test_error), HASTE_OK, test_error);
            haste_workspace_free(&work);
        }
        free(logits);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* The largest batch that fits is not special: B = batch, and B far below it, in one workspace made for a larger layer. */
static void other_workspaces(void)
{
    haste_layer_options options = test_options(&test_shapes[12], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32), small_options;
    haste_layer large = test_layer(&options), small;
    haste_workspace work = test_workspace(&large, 70, 2, HASTE_PATH_AUTO), own;
    test_batch batch;
    float *a, *b;
    small_options = test_options(&test_shapes[1], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    small = test_layer(&small_options);
    own = test_workspace(&small, 70, 2, HASTE_PATH_AUTO);
    batch = test_make_batch(&small, 70);
    a = check_floats(70 * 8);
    b = check_floats(70 * 8);
    CHECK_STATUS(haste_forward(&small, &own, batch.x, 70, a, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_forward(&small, &work, batch.x, 70, b, &test_error), HASTE_OK, test_error);
    CHECK(memcmp(a, b, 70 * 8 * 4) == 0);
    free(a);
    free(b);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_workspace_free(&own);
    haste_layer_free(&large);
    haste_layer_free(&small);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(by_hand);
    RUN(against_double);
    RUN(same_bits);
    RUN(dot);
    RUN(dot_largest);
    RUN(large);
    RUN(streamed_from_few);
    RUN(slices);
    RUN(not_finite);
    RUN(other_workspaces);
    return check_end();
}
