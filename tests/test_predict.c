/* Prediction: top-k, all labels above a threshold, scores of given labels. */
#include <pthread.h>
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

/* Unsorted lists of ids that must not come back: none in sample 0, all labels in sample 1, up to 20 in others, some twice. */
typedef struct { int64_t *offset; int32_t *id; haste_lists lists; } exclusions;

static exclusions make_exclusions(const haste_layer *layer, int32_t B)
{
    exclusions e;
    int32_t b, i;
    e.offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
    e.id = (int32_t *)test_alloc(((size_t)layer->labels + (size_t)B * 20 + 5) * sizeof(int32_t));
    e.offset[0] = 5;
    for (b = 0; b < B; b++) {
        int32_t n = b == 0 ? 0 : b == 1 ? layer->labels : (int32_t)(check_random() % 20u);
        for (i = 0; i < n; i++) {
            e.id[e.offset[b] + i] = b == 1 ? (i * 7 + 3) % layer->labels : (int32_t)(check_random() % (uint32_t)layer->labels);
            if (b == 1 && layer->labels % 7 == 0) e.id[e.offset[b] + i] = layer->labels - 1 - i;
            if (b > 1 && i > 0 && i % 3 == 0) e.id[e.offset[b] + i] = e.id[e.offset[b] + i - 1];
        }
        e.offset[b + 1] = e.offset[b] + n;
    }
    e.lists.offset = e.offset;
    e.lists.id = e.id;
    return e;
}

static void free_exclusions(exclusions *e) { free(e->offset); free(e->id); }

static int is_excluded(const haste_lists *excluded, int32_t b, int32_t id)
{
    int64_t j;
    if (!excluded) return 0;
    for (j = excluded->offset[b]; j < excluded->offset[b + 1]; j++) if (excluded->id[j] == id) return 1;
    return 0;
}

/* Is a list of k right? It must be as long as there are labels, in order by (score, id), each score near its exact logit,
   without repetition or exclusion, and no label left out may be better than the last by more than rounding. */
static void judge_list(const haste_layer *layer, const double *logits, const haste_lists *excluded, int32_t b, int32_t k, const int32_t *id,
                       const float *score, int32_t *seen, int32_t mark, const char *what)
{
    const double near = 3e-6;
    int64_t slot, left = 0;
    int32_t i, bad = 0, found = 0;
    for (slot = 0; slot < layer->slots; slot++) left += layer->label_of[slot] >= 0 && !is_excluded(excluded, b, layer->label_of[slot]);
    for (i = 0; i < k; i++) {
        if (i >= left) { if (id[i] != -1 || !(score[i] == -HUGE_VALF)) bad |= 1; continue; }
        if (id[i] < 0 || id[i] >= layer->labels) { bad |= 2; break; }
        if (seen[id[i]] == mark || is_excluded(excluded, b, id[i])) bad |= 4;
        seen[id[i]] = mark;
        if (!(fabs((double)score[i] - logits[layer->slot_of[id[i]]]) <= near)) bad |= 8;
        if (i > 0 && !(score[i - 1] > score[i] || (score[i - 1] == score[i] && id[i - 1] < id[i]))) bad |= 16;
        found++;
    }
    for (slot = 0; slot < layer->slots && found == k; slot++) {
        int32_t label = layer->label_of[slot];
        if (label >= 0 && seen[label] != mark && logits[slot] > (double)score[k - 1] + near && !is_excluded(excluded, b, label)) bad |= 32;
    }
    if (!CHECK(bad == 0)) printf("    sample %d, k %d: faults %d: %s\n", (int)b, (int)k, (int)bad, what);
}

static void top_k(void)
{
    static const int32_t ks[] = { 1, 5, 17, 64 };
    int i, path, n, type;
    for (i = 0; i < TEST_SHAPES; i++) for (type = 0; type < 2; type++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        int32_t B = test_shapes[i].inputs > 10000 ? 7 : 20 + 13 * (i % 4), *seen, mark = 0, b, k;
        test_batch batch;
        exclusions excluded;
        double *logits;
        haste_workspace work;
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        excluded = make_exclusions(&layer, B);
        logits = test_doubles((size_t)B * (size_t)layer.slots);
        seen = (int32_t *)test_zeros((size_t)layer.labels * 4);
        haste_forward_ref(&layer, batch.x, B, logits);
        work = test_workspace(&layer, B + i % 3, 2, test_paths[path]);
        memset(work.memory, 0xff, work.bytes);
        for (n = 0; n < 8; n++) {
            const haste_lists *lists = n % 2 ? &excluded.lists : NULL;
            const haste_search_options search = { lists, NULL };
            int32_t *id, *id_alone;
            float *score;
            char what[100];
            k = ks[n / 2];
            id = (int32_t *)(void *)check_floats((size_t)(B * k));
            id_alone = (int32_t *)(void *)check_floats((size_t)(B * k));
            score = check_floats((size_t)(B * k));
            snprintf(what, sizeof what, "%s, %s, %s", test_shapes[i].name, haste_path_text(work.path), n % 2 ? "exclusions" : "all");
            CHECK_STATUS(haste_top_k(&layer, &work, batch.x, B, k, &search, id, score, &test_error), HASTE_OK, test_error);
            CHECK(check_guard(score, (size_t)(B * k)) && check_guard((float *)(void *)id, (size_t)(B * k)));
            for (b = 0; b < B; b++) judge_list(&layer, logits + b * layer.slots, lists, b, k, id + b * k, score + b * k, seen, ++mark, what);
            CHECK_STATUS(haste_top_k(&layer, &work, batch.x, B, k, &search, id_alone, NULL, &test_error), HASTE_OK, test_error);
            CHECK(memcmp(id, id_alone, (size_t)(B * k) * 4) == 0);
            free(id);
            free(id_alone);
            free(score);
        }
        free(logits);
        free(seen);
        free_exclusions(&excluded);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* The public reference says the same where logits are far apart: biases 0, 1, 2 ... in random order, small weights. */
static void reference(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options);
    test_batch batch = test_make_batch(&layer, 33);
    exclusions excluded = make_exclusions(&layer, 33);
    haste_workspace work = test_workspace(&layer, 33, 2, HASTE_PATH_AUTO);
    double *logits = test_doubles((size_t)33 * (size_t)layer.slots), want_score[64];
    const haste_search_options search = { &excluded.lists, NULL };
    int32_t id[33 * 64], want[64], l, b, i, k;
    float score[33 * 64];
    for (l = 0; l < layer.labels; l++) {
        int64_t slot = layer.slot_of[l];
        for (i = 0; slot >= layer.block[i].first_slot + test_places(&layer.block[i]); i++) { }
        layer.block[i].bias[slot - layer.block[i].first_slot] = (float)(l * 77 % layer.labels);
    }
    for (i = 0; i < layer.block_count; i++)
        for (l = 0; l < test_weights(&layer.block[i]); l++) ((float *)layer.block[i].weight)[l] *= .001f;
    haste_forward_ref(&layer, batch.x, 33, logits);
    for (k = 1; k <= 64; k += 21) {
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 33, k, &search, id, score, &test_error), HASTE_OK, test_error);
        for (b = 0; b < 33; b++) {
            haste_top_k_ref(&layer, logits + b * layer.slots, k, excluded.id + excluded.offset[b], excluded.offset[b + 1] - excluded.offset[b], want,
                            want_score);
            CHECK(memcmp(id + b * k, want, (size_t)k * 4) == 0);
            for (i = 0; i < k; i++) {
                if (want[i] < 0) CHECK(score[b * k + i] == -HUGE_VALF && want_score[i] == -HUGE_VAL);
                else CHECK_NEAR((double)score[b * k + i], want_score[i], 1e-4);
            }
        }
    }
    free(logits);
    free_exclusions(&excluded);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

/* Weights 0 and two values of bias: ties everywhere, also across groups, chunks and threads; ids ascend within a tie. */
static void ties(void)
{
    static const int32_t threads[] = { 1, 2, 3, 5 };
    int i, path, t;
    for (i = 3; i < 13; i++) for (path = 0; path < TEST_PATHS; path++) for (t = 0; t < 4; t++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer;
        test_batch batch;
        haste_workspace work;
        int32_t id[34 * 64], l, b, k = 64, bad = 0, block, want;
        float score[34 * 64];
        if (test_path_missing(test_paths[path])) continue;
        options.zero_weights = 1;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        for (l = 0; l < layer.labels; l++) {   /* -0 ties with 0 */
            int64_t slot = layer.slot_of[l];
            for (block = 0; slot >= layer.block[block].first_slot + test_places(&layer.block[block]); block++) { }
            layer.block[block].bias[slot - layer.block[block].first_slot] = l % 3 == 1 ? 2.f : l % 3 == 0 ? 0.f : -0.f;
        }
        batch = test_make_batch(&layer, 34);
        work = test_workspace(&layer, 34, threads[t], test_paths[path]);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 34, k, NULL, id, score, &test_error), HASTE_OK, test_error);
        for (b = 0; b < 34; b++) {
            int32_t rank = 0;
            for (want = 1; want < layer.labels && rank < k; want += 3, rank++) if (id[b * k + rank] != want || score[b * k + rank] != 2) bad++;
            for (want = 0; want < layer.labels && rank < k; want++) if (want % 3 != 1) {
                if (id[b * k + rank] != want || score[b * k + rank] != 0) bad++;
                rank++;
            }
            for (; rank < k; rank++) if (id[b * k + rank] != -1) bad++;
        }
        CHECK(bad == 0);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

static int compare(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }

static void above(void)
{
    int i, path, n;
    for (i = 0; i < TEST_SHAPES; i++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, i % 2 ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        int32_t B = test_shapes[i].inputs > 10000 ? 7 : 35, b;
        test_batch batch;
        exclusions excluded;
        double *logits, *sorted, thresholds[5];
        size_t count = 0, j, capacity;
        haste_workspace work;
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        excluded = make_exclusions(&layer, B);
        logits = test_doubles((size_t)B * (size_t)layer.slots);
        sorted = test_doubles((size_t)B * (size_t)layer.slots);
        haste_forward_ref(&layer, batch.x, B, logits);
        for (j = 0; j < (size_t)B * (size_t)layer.slots; j++) if (layer.label_of[j % (size_t)layer.slots] >= 0) sorted[count++] = logits[j];
        qsort(sorted, count, sizeof *sorted, compare);
        thresholds[0] = -HUGE_VAL;
        thresholds[1] = HUGE_VAL;
        for (n = 2; n < 5; n++) {   /* in the widest of ten gaps near a quantile: rounding does not decide */
            size_t at = count * (size_t)(n == 2 ? 50 : n == 3 ? 90 : 20) / 100, k;
            double widest = -1;
            thresholds[n] = 0;
            for (k = at > 5 ? at - 5 : 0; k + 1 < count && k < at + 5; k++)
                if (sorted[k + 1] - sorted[k] > widest) { widest = sorted[k + 1] - sorted[k]; thresholds[n] = (sorted[k + 1] + sorted[k]) / 2; }
        }
        work = test_workspace(&layer, B, 3, test_paths[path]);
        memset(work.memory, 0xff, work.bytes);
        capacity = count + 7;
        for (n = 0; n < 10; n++) {
            const haste_lists *lists = n % 2 ? &excluded.lists : NULL;
            const haste_search_options search = { lists, NULL };
            float threshold = (float)thresholds[n / 2];
            int64_t *offset = (int64_t *)test_alloc(((size_t)B + 2) * sizeof(int64_t)), needed = -5, want = 0;
            int32_t *id = (int32_t *)(void *)check_floats(capacity), bad = 0;
            float *score = check_floats(capacity);
            offset[B + 1] = -99;
            for (b = 0; b < B; b++) for (j = 0; j < (size_t)layer.slots; j++)
                want += layer.label_of[j] >= 0 && logits[(size_t)b * (size_t)layer.slots + j] > (double)threshold
                        && !is_excluded(lists, b, layer.label_of[j]);
            CHECK_STATUS(haste_above(&layer, &work, batch.x, B, threshold, &search, offset, id, score, (int64_t)capacity, &needed, &test_error), HASTE_OK,
                         test_error);
            CHECK(needed == want);
            CHECK(offset[0] == 0 && offset[B] == needed && offset[B + 1] == -99);
            CHECK(check_guard(score + (needed > 0 && needed < (int64_t)capacity ? needed : 0), 0));
            if (needed == want) for (b = 0; b < B; b++) {
                int64_t at, own = 0;
                for (j = 0; j < (size_t)layer.slots; j++)
                    own += layer.label_of[j] >= 0 && logits[(size_t)b * (size_t)layer.slots + j] > (double)threshold
                           && !is_excluded(lists, b, layer.label_of[j]);
                if (offset[b + 1] - offset[b] != own) bad |= 1;
                for (at = offset[b]; at < offset[b + 1]; at++) {
                    if (id[at] < 0 || id[at] >= layer.labels || is_excluded(lists, b, id[at])) { bad |= 2; continue; }
                    if (!(score[at] > threshold) || !(fabs((double)score[at] - logits[b * layer.slots + layer.slot_of[id[at]]]) < 3e-6)) bad |= 4;
                    if (at > offset[b] && !(score[at - 1] > score[at] || (score[at - 1] == score[at] && id[at - 1] < id[at]))) bad |= 8;
                }
            }
            if (!CHECK(bad == 0)) printf("    faults %d: %s, threshold %g\n", (int)bad, test_shapes[i].name, (double)threshold);
            for (j = (size_t)(needed > 0 ? needed : 0); j < capacity + CHECK_GUARD; j++) if (id[j] != -1 || score[j] == score[j]) bad = 100;
            CHECK(bad < 100);   /* nothing is written past what was needed */

            if (want > 0) {   /* one too few: told how many, and nothing is touched; then exactly enough */
                int32_t *short_id = (int32_t *)(void *)check_floats(capacity);
                float *short_score = check_floats(capacity);
                int64_t *short_offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
                needed = -5;
                CHECK_STATUS(haste_above(&layer, &work, batch.x, B, threshold, &search, short_offset, short_id, short_score, want - 1, &needed, &test_error),
                             HASTE_ERR_SIZE, test_error);
                CHECK(needed == want && memcmp(offset, short_offset, ((size_t)B + 1) * sizeof(int64_t)) == 0);
                for (j = 0; j < capacity; j++) if (short_id[j] != -1 || short_score[j] == short_score[j]) break;
                CHECK(j == capacity);
                needed = -5;
                CHECK_STATUS(haste_above(&layer, &work, batch.x, B, threshold, &search, short_offset, short_id, short_score, 0, &needed, &test_error),
                             HASTE_ERR_SIZE, test_error);
                CHECK(needed == want);
                CHECK_STATUS(haste_above(&layer, &work, batch.x, B, threshold, &search, short_offset, short_id, short_score, want, &needed, &test_error),
                             HASTE_OK, test_error);
                CHECK(memcmp(id, short_id, capacity * 4) == 0 && memcmp(score, short_score, capacity * 4) == 0);
                free(short_id);
                free(short_score);
                free(short_offset);
            }
            free(offset);
            free(id);
            free(score);
        }
        free(logits);
        free(sorted);
        free_exclusions(&excluded);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Strictly above: a logit equal to the threshold stays out. Ties come by id. */
static void above_is_strict(void)
{
    haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer;
    haste_workspace work;
    test_batch batch;
    int64_t offset[4], needed;
    int32_t id[3000], l, i;
    float score[3000];
    options.zero_weights = 1;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    for (l = 0; l < layer.labels; l++) layer.block[0].bias[layer.slot_of[l]] = (float)(l % 4);
    work = test_workspace(&layer, 3, 2, HASTE_PATH_AUTO);
    batch = test_make_batch(&layer, 3);
    CHECK_STATUS(haste_above(&layer, &work, batch.x, 3, 1, NULL, offset, id, score, 3000, &needed, &test_error), HASTE_OK, test_error);
    CHECK(needed == 3 * 166 && offset[1] == 166);   /* of 333 labels, 83 have 2 and 83 have 3 */
    for (i = 0; i < 83; i++) CHECK(id[166 + i] == 4 * i + 3 && score[i] == 3 && id[166 + 83 + i] == 4 * i + 2 && score[83 + i] == 2);
    CHECK_STATUS(haste_above(&layer, &work, batch.x, 3, 3, NULL, offset, id, score, 0, &needed, &test_error), HASTE_OK, test_error);
    CHECK(needed == 0 && offset[3] == 0);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

static void score(void)
{
    int i, path, n;
    for (i = 0; i < TEST_SHAPES; i++) for (path = 0; path < TEST_PATHS; path++) for (n = 0; n < 2; n++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, n ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        int32_t B = test_shapes[i].inputs > 10000 ? 3 : 33, b;
        test_batch batch;
        haste_workspace work;
        haste_workspace_options work_options;
        int64_t *offset, at;
        int32_t *id;
        float *scores, *logits, *naive;
        double *exact;
        test_errors got, naive_errors;
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        /* Every sample's candidates are all labels, backwards, the first one twice; sample 2 has none. The workspace is
           made for one sample and one id: neither B nor the number of candidates is limited by it. */
        offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
        id = (int32_t *)test_alloc(((size_t)B * ((size_t)layer.labels + 1) + 4) * sizeof(int32_t));
        offset[0] = 4;
        for (b = 0; b < B; b++) {
            at = offset[b];
            if (b != 2) {
                int32_t l;
                for (l = layer.labels - 1; l >= 0; l--) id[at++] = l;
                id[at++] = layer.labels - 1;
            }
            offset[b + 1] = at;
        }
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = 1;
        work_options.ids = 1;
        work_options.chunks = 1;
        work_options.threads = 2;
        work_options.path = test_paths[path];
        CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        {
            haste_lists candidates;
            size_t count = (size_t)(offset[B] - offset[0]), j = 0;
            candidates.offset = offset;
            candidates.id = id;
            scores = check_floats(count);
            exact = test_doubles((size_t)B * (size_t)layer.slots);
            naive = (float *)test_alloc((size_t)B * (size_t)layer.slots * 4);
            logits = (float *)test_alloc((size_t)B * (size_t)layer.slots * 4);
            haste_forward_ref(&layer, batch.x, B, exact);
            naive_forward(&layer, batch.x, B, naive);
            CHECK_STATUS(haste_score(&layer, &work, batch.x, B, &candidates, scores, &test_error), HASTE_OK, test_error);
            CHECK(check_guard(scores, count));
            memset(&got, 0, sizeof got);
            naive_errors = got;
            for (b = 0; b < B; b++) for (at = offset[b]; at < offset[b + 1]; at++, j++) {
                size_t place = (size_t)(b * layer.slots + layer.slot_of[id[at]]);
                test_add_error(&got, (double)scores[j], exact[place]);
                test_add_error(&naive_errors, (double)naive[place], exact[place]);
            }
            test_judge(&got, &naive_errors, test_shapes[i].name, __LINE__);
        }
        free(offset);
        free(id);
        free(scores);
        free(exact);
        free(naive);
        free(logits);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Where registers are wider than floats, sums of other shapes may be rounded differently. */
#define SAME_BITS (FLT_EVAL_METHOD == 0)

/* Lists of what may come back: none in sample 0, all labels twice in sample 1, one label often in sample 2; in others so
   many in a hundred, some of them twice, all unsorted. */
static exclusions make_only(const haste_layer *layer, int32_t B, uint32_t percent)
{
    exclusions e;
    int32_t b, l, L = layer->labels;
    e.offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
    e.id = (int32_t *)test_alloc(((size_t)L * (size_t)B * 2 + 10) * sizeof(int32_t));
    e.offset[0] = 3;
    for (b = 0; b < B; b++) {
        int64_t n = e.offset[b];
        for (l = L - 1; l >= 0 && b > 0; l--) {
            if (b == 1 || b == 2 || check_random() % 100 < percent) e.id[n++] = b == 2 ? L / 2 : l;
            if (b == 1 || (b > 2 && l % 7 == 3 && n > e.offset[b])) { e.id[n] = e.id[n - 1]; n++; }
        }
        e.offset[b + 1] = n;
    }
    e.lists.offset = e.offset;
    e.lists.id = e.id;
    return e;
}

/* All that a search with both lists must not find. */
static exclusions complement(const haste_layer *layer, int32_t B, const haste_lists *only, const haste_lists *excluded)
{
    exclusions e;
    int32_t b, l;
    e.offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
    e.id = (int32_t *)test_alloc(((size_t)layer->labels * (size_t)B + 1) * sizeof(int32_t));
    e.offset[0] = 0;
    for (b = 0; b < B; b++) {
        e.offset[b + 1] = e.offset[b];
        for (l = 0; l < layer->labels; l++)
            if (!is_excluded(only, b, l) || is_excluded(excluded, b, l)) e.id[e.offset[b + 1]++] = l;
    }
    e.lists.offset = e.offset;
    e.lists.id = e.id;
    return e;
}

/* Only listed labels: right against the exact logits, and the same bits as excluding all others, and as haste_score, for
   any number of threads; from a few labels in all to half of them, where whole groups are computed. */
static void only(void)
{
    static const uint32_t percents[] = { 1, 6, 50 };
    int i, path, n, type, found = 0;
    for (i = 0; i < TEST_SHAPES; i++) for (type = 0; type < 2; type++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        const int32_t B = test_shapes[i].inputs > 10000 ? 5 : i % 2 ? 7 : 37, k = 17;
        int32_t *seen, mark = 0, b;
        test_batch batch;
        double *logits;
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, B);
        logits = test_doubles((size_t)B * (size_t)layer.slots);
        seen = (int32_t *)test_zeros((size_t)layer.labels * 4);
        haste_forward_ref(&layer, batch.x, B, logits);
        for (n = 0; n < 6; n++) {
            exclusions listed = make_only(&layer, B, percents[n / 2]), excluded = make_exclusions(&layer, B);
            exclusions others = complement(&layer, B, &listed.lists, n % 2 ? &excluded.lists : NULL);
            const haste_search_options search = { n % 2 ? &excluded.lists : NULL, &listed.lists }, without = { &others.lists, NULL };
            const size_t room = (size_t)(B * k), all = (size_t)B * (size_t)layer.labels;
            int32_t *id = (int32_t *)(void *)check_floats(room), *want_id = (int32_t *)(void *)check_floats(room);
            int32_t *above_id[2];
            float *score = check_floats(room), *want_score = check_floats(room), *above_score[2], scored = 0;
            int64_t *offset[2], needed[2] = { -1, -1 };
            int t, bad = 0;
            haste_workspace work = test_workspace(&layer, B, 2, test_paths[path]);
            CHECK_STATUS(haste_top_k(&layer, &work, batch.x, B, k, &without, want_id, want_score, &test_error), HASTE_OK, test_error);
            for (t = 0; t < 2; t++) {
                offset[t] = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
                above_id[t] = (int32_t *)(void *)check_floats(all);
                above_score[t] = check_floats(all);
            }
            CHECK_STATUS(haste_above(&layer, &work, batch.x, B, -.3f, &without, offset[1], above_id[1], above_score[1], (int64_t)all, &needed[1],
                                     &test_error), HASTE_OK, test_error);
            haste_workspace_free(&work);
            for (t = 1; t < 4; t++) {
                work = test_workspace(&layer, t == 2 ? 99 : B, t, test_paths[path]);
                memset(work.memory, 0xff, work.bytes);
                memset(id, 0xff, room * 4);
                memset(score, 0xff, room * 4);
                CHECK_STATUS(haste_top_k(&layer, &work, batch.x, B, k, &search, id, score, &test_error), HASTE_OK, test_error);
                CHECK(check_guard(score, room) && check_guard((float *)(void *)id, room));
                CHECK(!SAME_BITS || (memcmp(id, want_id, room * 4) == 0 && memcmp(score, want_score, room * 4) == 0));
                CHECK_STATUS(haste_above(&layer, &work, batch.x, B, -.3f, &search, offset[0], above_id[0], above_score[0], (int64_t)all, &needed[0],
                                         &test_error), HASTE_OK, test_error);
                if (SAME_BITS) {
                    CHECK(needed[0] == needed[1] && memcmp(offset[0], offset[1], ((size_t)B + 1) * sizeof(int64_t)) == 0);
                    CHECK(memcmp(above_id[0], above_id[1], all * 4) == 0 && memcmp(above_score[0], above_score[1], all * 4) == 0);
                }
                haste_workspace_free(&work);
            }
            found += (int)needed[0];
            work = test_workspace(&layer, 1, 1, test_paths[path]);
            for (b = 0; b < B; b++) {
                if (b < 4 || b == B - 1)
                    judge_list(&layer, logits + b * layer.slots, &others.lists, b, k, id + b * k, score + b * k, seen, ++mark, test_shapes[i].name);
                if (id[b * k] >= 0) {
                    const int64_t ends[2] = { 0, 1 };
                    const haste_lists best = { ends, id + b * k };
                    CHECK_STATUS(haste_score(&layer, &work, batch.x + (size_t)b * (size_t)layer.inputs, 1, &best, &scored, &test_error), HASTE_OK,
                                 test_error);
                    bad += SAME_BITS && memcmp(&scored, &score[b * k], 4) != 0;
                }
            }
            CHECK(bad == 0);
            haste_workspace_free(&work);
            for (t = 0; t < 2; t++) { free(offset[t]); free(above_id[t]); free(above_score[t]); }
            free(id); free(want_id); free(score); free(want_score);
            free_exclusions(&listed); free_exclusions(&excluded); free_exclusions(&others);
        }
        free(logits);
        free(seen);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
    CHECK(found > 1000);
}

/* One id a sample, or none; a logit that is not finite matters where it is listed, and not excluded; rounding x
   (bf16_dot) does not. */
static void only_some(void)
{
    int path, many;
    for (path = 0; path < TEST_PATHS; path++) for (many = 0; many < 2; many++) {
        haste_layer_options options = test_options(&test_shapes[5], HASTE_BCE, HASTE_SGD, many ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        haste_workspace work;
        haste_workspace_options work_options;
        test_batch batch;
        int32_t one[40], id[40 * 2], b, *listed;
        float score[40 * 2], *scores;
        int64_t offset[41], at, needed, above_offset[41];
        haste_lists lists = { NULL, one }, candidates = { offset, NULL };
        haste_search_options search = { NULL, &lists };
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, 40);
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = 40;
        work_options.ids = 40 * 40;
        work_options.threads = 2;
        work_options.path = test_paths[path];
        work_options.bf16_dot = test_paths[path] == HASTE_PATH_AVX512 && haste_has_bf16_dot();
        CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        for (b = 0; b < 40; b++) one[b] = b % 3 == 1 ? -1 : b * 8;
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 2, &search, id, score, &test_error), HASTE_OK, test_error);
        for (b = 0; b < 40; b++) CHECK(id[2 * b] == one[b] && id[2 * b + 1] == -1 && (score[2 * b] == -HUGE_VALF) == (one[b] < 0));
        CHECK_STATUS(haste_above(&layer, &work, batch.x, 40, -FLT_MAX, &search, above_offset, id, score, 80, &needed, &test_error), HASTE_OK, test_error);
        CHECK(needed == 27 && above_offset[1] == 1 && above_offset[2] == 1 && id[1] == 16);

        /* every sample lists one label of a group, or a whole one: the logits are those of haste_score */
        listed = (int32_t *)test_alloc(40 * 40 * sizeof *listed);
        scores = (float *)test_alloc(40 * 40 * sizeof *scores);
        for (b = 0, at = 0; b < 40; b++) {
            int32_t s;
            offset[b] = at;
            for (s = 0; s < (many ? 32 : 1); s++) listed[at++] = layer.label_of[(many ? 64 : b * 4) + s];
        }
        offset[40] = at;
        candidates.id = listed;
        search.only = &candidates;
        CHECK_STATUS(haste_score(&layer, &work, batch.x, 40, &candidates, scores, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 1, &search, id, score, &test_error), HASTE_OK, test_error);
        for (b = 0; b < 40; b++) {
            float best = -HUGE_VALF;
            for (at = offset[b]; at < offset[b + 1]; at++) if (scores[at] > best) best = scores[at];
            CHECK_NEAR((double)score[b], (double)best, SAME_BITS ? 0 : 1e-4);
        }
        /* infinity at a label that is not listed; at one that is; at one that is excluded too */
        layer.block[0].bias[layer.slot_of[layer.label_of[300]]] = HUGE_VALF;
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 1, &search, id, score, &test_error), HASTE_OK, test_error);
        listed[offset[7]] = layer.label_of[300];
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 1, &search, id, score, &test_error), HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_above(&layer, &work, batch.x, 40, 0, &search, above_offset, listed, scores, 0, &needed, &test_error), HASTE_ERR_NONFINITE,
                     test_error);
        for (b = 0; b < 40; b++) one[b] = b == 7 ? layer.label_of[300] : -1;
        search.excluded = &lists;
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 1, &search, id, score, &test_error), HASTE_OK, test_error);
        free(listed);
        free(scores);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Slices of a layer searched one by one, and their lists merged: what the whole gives, bit for bit, ties included. */
static void merged(void)
{
    enum { SHARDS = 4, K = 9 };
    int i, path, type, tied, several = 0;
    for (i = 0; i < TEST_SHAPES; i++) for (type = 0; type < 2; type++) for (path = 0; path < TEST_PATHS; path++) for (tied = 0; tied < 2; tied++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        const int32_t B = 6, k = i % 2 ? K : 3;
        const size_t room = (size_t)(B * k);
        haste_layer layer, part[SHARDS];
        test_batch batch;
        haste_workspace work;
        haste_found found[SHARDS], above[SHARDS];
        int64_t ends[600], groups = 0, g, offset[2][8], needed[2] = { -1, -1 };
        size_t all;
        int32_t *id[2], *above_id[2], b, l, n, shards;
        float *score[2], *above_score[2];
        if (test_path_missing(test_paths[path])) continue;
        options.zero_weights = tied;
        if (tied) CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        else layer = test_layer(&options);
        for (n = 0; n < layer.block_count; n++)
            for (l = 0; l < layer.block[n].labels && tied; l++) layer.block[n].bias[l] = (float)(layer.label_of[layer.block[n].first_slot + l] % 3);
        batch = test_make_batch(&layer, B);
        work = test_workspace(&layer, B, 2, test_paths[path]);
        all = (size_t)B * (size_t)layer.labels;
        for (n = 0; n < 2; n++) {
            id[n] = (int32_t *)(void *)check_floats(room);
            score[n] = check_floats(room);
            above_id[n] = (int32_t *)(void *)check_floats(all);
            above_score[n] = check_floats(all);
        }
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, B, k, NULL, id[0], score[0], &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_above(&layer, &work, batch.x, B, .1f, NULL, offset[0], above_id[0], above_score[0], (int64_t)all, &needed[0], &test_error),
                     HASTE_OK, test_error);

        ends[0] = 0;   /* where groups end */
        for (n = 0; n < layer.block_count; n++)
            for (g = 0; g < layer.block[n].groups; g++, groups++) ends[groups + 1] = layer.block[n].first_slot + (g + 1) * layer.block[n].group_size;
        shards = groups < SHARDS ? (int32_t)groups : SHARDS;
        several += shards > 1;
        memset(found, 0, sizeof found);
        memset(above, 0, sizeof above);
        for (n = 0; n < shards; n++) {
            const int64_t first = ends[groups * n / shards], end = ends[groups * (n + 1) / shards];
            int32_t *map = (int32_t *)test_alloc((size_t)(end - first) * 4), *own = (int32_t *)test_alloc(room * 4), *own_above = (int32_t *)test_alloc(all * 4);
            float *own_score = (float *)test_alloc(room * 4), *own_above_score = (float *)test_alloc(all * 4);
            int64_t *own_offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t)), own_needed;
            CHECK_STATUS(haste_layer_slice(&part[n], &layer, first, end, map, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_top_k(&part[n], &work, batch.x, B, k, NULL, own, own_score, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_above(&part[n], &work, batch.x, B, .1f, NULL, own_offset, own_above, own_above_score, (int64_t)all, &own_needed, &test_error),
                         HASTE_OK, test_error);
            found[n].labels = part[n].labels;
            found[n].id = own;
            found[n].score = own_score;
            if (n == 1) {   /* one shard's ids are made those of the whole beforehand */
                for (b = 0; b < B * k; b++) if (own[b] >= 0) own[b] = map[own[b]];
                found[n].labels = layer.labels;
            } else found[n].map = map;
            above[n] = found[n];
            above[n].map = map;
            above[n].labels = part[n].labels;
            above[n].id = own_above;
            above[n].score = own_above_score;
            above[n].offset = own_offset;
        }
        CHECK_STATUS(haste_top_k_merge(found, shards, B, k, id[1], score[1], &test_error), HASTE_OK, test_error);
        CHECK(memcmp(id[0], id[1], room * 4) == 0 && memcmp(score[0], score[1], room * 4) == 0);
        CHECK(check_guard(score[1], room) && check_guard((float *)(void *)id[1], room));
        if (needed[0] > 0) {
            CHECK_STATUS(haste_above_merge(above, shards, B, offset[1], above_id[1], above_score[1], needed[0] - 1, &needed[1], &test_error),
                         HASTE_ERR_SIZE, test_error);
            CHECK(needed[1] == needed[0] && memcmp(offset[0], offset[1], ((size_t)B + 1) * sizeof(int64_t)) == 0 && above_id[1][0] == -1);
        }
        CHECK_STATUS(haste_above_merge(above, shards, B, offset[1], above_id[1], above_score[1], needed[0], &needed[1], &test_error), HASTE_OK, test_error);
        CHECK(needed[1] == needed[0] && memcmp(offset[0], offset[1], ((size_t)B + 1) * sizeof(int64_t)) == 0);
        CHECK(memcmp(above_id[0], above_id[1], all * 4) == 0 && memcmp(above_score[0], above_score[1], all * 4) == 0);
        for (n = 0; n < shards; n++) {
            haste_layer_free(&part[n]);
            free((void *)(uintptr_t)above[n].map); free((void *)(uintptr_t)found[n].id); free((void *)(uintptr_t)found[n].score);
            free((void *)(uintptr_t)above[n].id); free((void *)(uintptr_t)above[n].score); free((void *)(uintptr_t)above[n].offset);
        }
        for (n = 0; n < 2; n++) { free(id[n]); free(score[n]); free(above_id[n]); free(above_score[n]); }
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
    CHECK(several > 20);
}

/* By hand: ids offset, a tie between shards, a shard with nothing; and what is refused, with nothing changed. */
static void merged_by_hand(void)
{
    int32_t a_id[6] = { 2, 0, -1, 1, -1, -1 }, b_id[6] = { 0, 1, 2, -1, -1, -1 }, id[6], want[6] = { 2, 10, 11, 1, -1, -1 };
    float a_score[6] = { 5, 1, 0, -1, 0, 0 }, b_score[6] = { 5, 4, 3, 7, 7, 7 }, score[6], want_score[6] = { 5, 5, 4, -1, 0, 0 };
    const int64_t a_offset[3] = { 0, 2, 2 }, b_offset[3] = { 1, 1, 3 };
    const int32_t map[3] = { 1, 3, 2 }, negative[3] = { -5, 1, 2 };
    int64_t offset[3], needed;
    haste_found s[2];
    int i;
    memset(s, 0, sizeof s);
    s[0].id = a_id; s[0].score = a_score; s[0].labels = 3; s[0].offset = a_offset;
    s[1].id = b_id; s[1].score = b_score; s[1].labels = 3; s[1].offset = b_offset; s[1].first = 10;
    CHECK_STATUS(haste_top_k_merge(s, 2, 2, 3, id, score, &test_error), HASTE_OK, test_error);
    CHECK(memcmp(id, want, sizeof id) == 0 && memcmp(score, want_score, 4 * sizeof *score) == 0);
    CHECK(score[4] == -HUGE_VALF && score[5] == -HUGE_VALF);
    CHECK_STATUS(haste_above_merge(s, 2, 2, offset, id, score, 6, &needed, &test_error), HASTE_OK, test_error);
    CHECK(needed == 4 && offset[0] == 0 && offset[1] == 2 && offset[2] == 4);
    CHECK(id[0] == 2 && id[1] == 0 && id[2] == 11 && id[3] == 12 && score[0] == 5 && score[1] == 1 && score[2] == 4 && score[3] == 3);
    CHECK_STATUS(haste_top_k_merge(NULL, 1, 0, 3, NULL, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_top_k_merge(s, 2, 0, 3, NULL, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_above_merge(s, 2, 0, offset, NULL, NULL, 0, &needed, &test_error), HASTE_OK, test_error);
    CHECK(needed == 0 && offset[0] == 0);

    memset(id, 0x5a, sizeof id);
    memset(score, 0x5a, sizeof score);
    memset(offset, 0x5a, sizeof offset);
    needed = 77;
    #define REFUSED(wanted, word)                                                                                      \
        do {                                                                                                           \
            CHECK_STATUS(haste_top_k_merge(s, 2, 2, 3, id, score, &test_error), wanted, test_error);                   \
            CHECK(strstr(test_error.text, word) != NULL);                                                              \
            CHECK_STATUS(haste_above_merge(s, 2, 2, offset, id, score, 6, &needed, &test_error), wanted, test_error);  \
            CHECK(strstr(test_error.text, word) != NULL);                                                              \
        } while (0)
    a_id[1] = 3; REFUSED(HASTE_ERR_DATA, "shards[0].id[1] = 3"); a_id[1] = 0;
    a_id[0] = -1; REFUSED(HASTE_ERR_DATA, "shards[0].id[0] = -1"); a_id[0] = 2;
    a_score[1] = 6; REFUSED(HASTE_ERR_DATA, "shards[0].id[1] = 0"); a_score[1] = 1;
    a_score[1] = 5; REFUSED(HASTE_ERR_DATA, "shards[0].id[1] = 0"); a_score[1] = 1;
    a_score[0] = HUGE_VALF; REFUSED(HASTE_ERR_DATA, "shards[0].score[0]"); a_score[0] = HUGE_VALF - HUGE_VALF;
    REFUSED(HASTE_ERR_DATA, "shards[0].score[0]"); a_score[0] = 5;
    b_score[2] = 4; s[1].map = map; REFUSED(HASTE_ERR_DATA, "shards[1].id[2] = 2 is 2"); s[1].map = NULL; b_score[2] = 3;
    s[0].map = negative; REFUSED(HASTE_ERR_DATA, "is -5"); s[0].map = NULL;
    s[1].first = INT32_MAX; REFUSED(HASTE_ERR_ARG, "first"); s[1].first = -1; REFUSED(HASTE_ERR_ARG, "first"); s[1].first = 10;
    s[0].labels = 0; REFUSED(HASTE_ERR_ARG, "labels"); s[0].labels = 3;
    s[1].id = NULL; REFUSED(HASTE_ERR_ARG, "shards[1]"); s[1].id = b_id;
    s[1].score = NULL; REFUSED(HASTE_ERR_ARG, "shards[1]"); s[1].score = b_score;
    #undef REFUSED
    CHECK_STATUS(haste_top_k_merge(s, 0, 2, 3, id, score, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_top_k_merge(s, 2, -1, 3, id, score, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_top_k_merge(s, 2, 2, 0, id, score, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_top_k_merge(s, 2, 2, 3, NULL, score, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_top_k_merge(s, 2, 2, 3, id, NULL, NULL), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_above_merge(s, 2, 2, NULL, id, score, 6, &needed, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_above_merge(s, 2, 2, offset, id, score, 6, NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_above_merge(s, 2, 2, offset, id, score, -1, &needed, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_above_merge(s, 2, 2, offset, NULL, score, 6, &needed, &test_error), HASTE_ERR_ARG, test_error);
    s[1].offset = NULL;
    CHECK_STATUS(haste_above_merge(s, 2, 2, offset, id, score, 6, &needed, &test_error), HASTE_ERR_ARG, test_error);
    for (i = 0; i < 6; i++) CHECK(id[i] == 0x5a5a5a5a && memcmp(&score[i], &id[i], 4) == 0);
    CHECK(needed == 77 && memcmp(offset, id, 3 * sizeof *offset) == 0);
}

/* More candidates than are sorted at once, labels that many samples ask for, and more than 65,536 samples with none in
   between: the same bits as haste_forward gives. */
static void score_many(void)
{
    enum { B = 70000, FEW = 24, EACH = 9000 };
    int path, type, round;
    for (path = 0; path < TEST_PATHS; path++) for (type = 0; type < 2; type++) for (round = 0; round < 2; round++) {
        haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_SGD,
                                                   type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        const int32_t samples = round ? B : FEW;
        const size_t D = (size_t)layer.inputs, n = round ? 40 : (size_t)FEW * EACH;
        float *x = (float *)test_alloc((size_t)samples * D * 4), *row = (float *)test_alloc(FEW * D * 4);
        float *logits = (float *)test_alloc(FEW * (size_t)layer.slots * 4), *scores = check_floats(n);
        int64_t *offset = (int64_t *)test_alloc(((size_t)samples + 1) * sizeof *offset);
        int32_t *id = (int32_t *)test_alloc(n * sizeof *id), b;
        haste_workspace work, large;
        haste_lists candidates;
        size_t j, bad = 0;
        if (!test_path_missing(test_paths[path])) {
            work = test_workspace(&layer, round ? 1 : 3, 3, test_paths[path]);
            large = test_workspace(&layer, FEW, 1, test_paths[path]);
            for (j = 0; j < (size_t)samples * D; j++) x[j] = check_normal();
            /* second round: samples 0 to 3 and the last four have 5 each */
            for (b = 0; b <= samples; b++)
                offset[b] = round ? 5 * (int64_t)(b < 4 ? b : b < B - 4 ? 4 : b - (B - 4) + 4) : (int64_t)b * EACH;
            for (j = 0; j < n; j++) id[j] = (int32_t)(check_random() % (uint32_t)layer.labels);
            candidates.offset = offset;
            candidates.id = id;
            CHECK_STATUS(haste_score(&layer, &work, x, samples, &candidates, scores, &test_error), HASTE_OK, test_error);
            for (b = 0; b < (round ? 8 : FEW); b++)
                memcpy(row + (size_t)b * D, x + (size_t)(round && b >= 4 ? B - 8 + b : b) * D, D * 4);
            CHECK_STATUS(haste_forward(&layer, &large, row, round ? 8 : FEW, logits, &test_error), HASTE_OK, test_error);
            for (j = 0; j < n; j++) {
                const float want = logits[j / (round ? 5 : EACH) * (size_t)layer.slots + (size_t)layer.slot_of[id[j]]];
#if FLT_EVAL_METHOD == 0   /* where registers are wider than floats, sums may be rounded differently */
                bad += memcmp(&want, &scores[j], sizeof want) != 0;
#else
                bad += !(fabsf(want - scores[j]) <= 1e-4f * (1 + fabsf(want)));
#endif
            }
            CHECK(bad == 0 && check_guard(scores, n));
            haste_workspace_free(&work);
            haste_workspace_free(&large);
        }
        free(x); free(logits); free(row); free(scores); free(offset); free(id);
        haste_layer_free(&layer);
    }
}

/* Threads, a used workspace and a larger one change nothing. */
static void same_bits(void)
{
    static const int32_t threads[] = { 1, 2, 3, 5 };
    int i, path, t;
    for (i = 5; i < 13; i++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options), before = test_copy(&layer);
        test_batch batch = test_make_batch(&layer, 40);
        exclusions excluded = make_exclusions(&layer, 40);
        const haste_search_options search = { &excluded.lists, NULL };
        static int32_t id[2][40 * 20], all[2][40 * 700];
        static float score[2][40 * 20], all_score[2][40 * 700], scores[2][300];
        static int64_t offset[2][41];
        int64_t needed[2] = { 0, 0 };
        if (!test_path_missing(test_paths[path])) for (t = 0; t < 4; t++) {
            haste_workspace work = test_workspace(&layer, t == 2 ? 99 : 40, threads[t], test_paths[path]);
            int w = t > 0;
            if (t > 1) CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 17, 3, NULL, id[1], score[1], &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 40, 20, &search, id[w], score[w], &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_above(&layer, &work, batch.x, 40, .5f, &search, offset[w], all[w], all_score[w], 40 * 700, &needed[w], &test_error),
                         HASTE_OK, test_error);
            CHECK_STATUS(haste_score(&layer, &work, batch.x, 40, &batch.positives, scores[w], &test_error), HASTE_OK, test_error);
            if (w) {
                CHECK(memcmp(id[0], id[1], sizeof id[0]) == 0 && memcmp(score[0], score[1], sizeof score[0]) == 0);
                CHECK(needed[0] == needed[1] && memcmp(offset[0], offset[1], sizeof offset[0]) == 0);
                CHECK(memcmp(all[0], all[1], (size_t)needed[0] * 4) == 0 && memcmp(all_score[0], all_score[1], (size_t)needed[0] * 4) == 0);
                CHECK(memcmp(scores[0], scores[1], (size_t)(batch.offset[40] - batch.offset[0]) * 4) == 0);
            }
            haste_workspace_free(&work);
        }
        CHECK(test_difference(&layer, &before) == NULL);
        free_exclusions(&excluded);
        test_free_batch(&batch);
        haste_layer_free(&before);
        haste_layer_free(&layer);
    }
}

/* A logit that is not finite anywhere is an error, even if it would not make the list; -inf of an excluded label is none. */
static void not_finite(void)
{
    static const float huge[] = { 3e38f, -3e38f };
    int path, kind, excluded_too;
    for (path = 0; path < TEST_PATHS; path++) for (kind = 0; kind < 3; kind++) for (excluded_too = 0; excluded_too < 2; excluded_too++) {
        haste_layer_options options = test_options(&test_shapes[10], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer;
        test_batch batch;
        haste_workspace work;
        int64_t offset[36] = { 0 }, above_offset[36], needed;
        int32_t bad_label, id[35 * 64], *all, b;
        float score[35 * 64], *all_score;
        haste_lists lists;
        haste_search_options search = { NULL, NULL };
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, 35);
        bad_label = layer.label_of[13];
        for (b = 0; b < 35; b++) batch.x[b * 37] = batch.x[b * 37 + 1] = b == 33 ? 4.f : 0.f;   /* sample 33 only */
        ((float *)layer.block[0].weight)[1 * 37 * 8 + 5] = huge[kind % 2];     /* group 1, input 0, label 5: slot 13 */
        if (kind == 2) ((float *)layer.block[0].weight)[(1 * 37 + 1) * 8 + 5] = -3e38f;
        for (b = 33; b < 35; b++) offset[b + 1] = 1;
        lists.offset = offset;
        lists.id = &bad_label;
        if (excluded_too) search.excluded = &lists;
        work = test_workspace(&layer, 35, 1, test_paths[path]);
        all = (int32_t *)test_alloc(35 * 61 * 4);
        all_score = (float *)test_alloc(35 * 61 * 4);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 35, 2, &search, id, score, &test_error),
                     excluded_too ? HASTE_OK : HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 35, 64, &search, id, score, &test_error),
                     excluded_too ? HASTE_OK : HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_above(&layer, &work, batch.x, 35, 3, &search, above_offset, all, all_score, 35 * 61, &needed, &test_error),
                     excluded_too ? HASTE_OK : HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 33, 64, NULL, id, score, &test_error), HASTE_OK, test_error);
        free(all);
        free(all_score);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Two threads read one layer, each with its own workspace. */
typedef struct { const haste_layer *layer; const float *x; int32_t id[30 * 10]; float logits[30 * 256]; int failed; } reader;

static void *read_layer(void *argument)
{
    reader *r = (reader *)argument;
    haste_workspace work;
    haste_workspace_options options;
    int i;
    memset(&options, 0, sizeof options);
    options.batch = 30;
    options.threads = 2;
    r->failed = haste_workspace_create(&work, r->layer, &options, NULL) != HASTE_OK;
    for (i = 0; i < 50 && !r->failed; i++) {
        r->failed |= haste_top_k(r->layer, &work, r->x, 30, 10, NULL, r->id, NULL, NULL) != HASTE_OK;
        r->failed |= haste_forward(r->layer, &work, r->x, 30, r->logits, NULL) != HASTE_OK;
    }
    haste_workspace_free(&work);
    return NULL;
}

static void many_readers(void)
{
    static reader readers[3];
    pthread_t threads[3];
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options);
    test_batch batch = test_make_batch(&layer, 30);
    int i;
    CHECK(layer.slots <= 256);
    for (i = 0; i < 3; i++) {
        readers[i].layer = &layer;
        readers[i].x = batch.x;
        CHECK(pthread_create(&threads[i], NULL, read_layer, &readers[i]) == 0);
    }
    for (i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (i = 0; i < 3; i++) {
        CHECK(!readers[i].failed);
        CHECK(memcmp(readers[0].id, readers[i].id, sizeof readers[0].id) == 0);
        CHECK(memcmp(readers[0].logits, readers[i].logits, sizeof readers[0].logits) == 0);
    }
    test_free_batch(&batch);
    haste_layer_free(&layer);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(top_k);
    RUN(reference);
    RUN(ties);
    RUN(above);
    RUN(above_is_strict);
    RUN(score);
    RUN(score_many);
    RUN(only);
    RUN(only_some);
    RUN(merged);
    RUN(merged_by_hand);
    RUN(same_bits);
    RUN(not_finite);
    RUN(many_readers);
    return check_end();
}
