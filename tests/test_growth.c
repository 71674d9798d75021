/* Inputs chosen from rows of the labels, against energies in double that know nothing of the library's own way; and x that is
   mostly 0. */
#include <stddef.h>

static void *counting_malloc(size_t bytes);
static void  counting_free(void *memory);
#define HASTE_MALLOC(bytes) counting_malloc(bytes)
#define HASTE_FREE(memory)  counting_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static int held, calls, fail_at = -1;
static void *counting_malloc(size_t bytes)
{
    void *p = calls++ == fail_at ? NULL : malloc(bytes);
    if (p) { held++; memset(p, 0xa5, bytes); }
    return p;
}
static void counting_free(void *memory) { if (memory) held--; free(memory); }

#define OK(call) CHECK_STATUS(call, HASTE_OK, test_error)

/* n rows over D columns, dense and sparse alike; a row has about `each` columns, some rows have none. */
typedef struct { float *dense; int64_t *offset; int32_t *feature; float *value; haste_sparse sparse; } test_rows;

static test_rows make_rows(int64_t n, int32_t D, int32_t each)
{
    test_rows r;
    int64_t i, count = 0;
    int32_t d;
    r.dense = (float *)test_zeros((size_t)n * (size_t)D * sizeof(float));
    r.offset = (int64_t *)test_alloc((size_t)(n + 1) * sizeof(int64_t));
    r.feature = (int32_t *)test_alloc((size_t)n * (size_t)D * sizeof(int32_t));
    r.value = (float *)test_alloc((size_t)n * (size_t)D * sizeof(float));
    for (i = 0; i < n; i++) {
        r.offset[i] = count;
        for (d = 0; d < D && i % 7 != 3; d++) {
            if ((int32_t)(check_random() % (uint32_t)D) >= each) continue;
            r.dense[i * D + d] = check_normal() * (d % 5 == 0 ? 4.0f : 1.0f);
            r.feature[count] = d;
            r.value[count++] = r.dense[i * D + d];
        }
    }
    r.offset[n] = count;
    r.sparse.offset = r.offset;
    r.sparse.feature = r.feature;
    r.sparse.value = r.value;
    return r;
}

static void free_rows(test_rows *r)
{
    free(r->dense);
    free(r->offset);
    free(r->feature);
    free(r->value);
}

static int same_indices(const haste_layer *a, const haste_layer *b)
{
    int32_t k;
    for (k = 0; k < a->block_count; k++) {
        const haste_block *x = &a->block[k], *y = &b->block[k];
        if (x->index && memcmp(x->index, y->index, (size_t)(x->groups * x->fan_in) * 2) != 0) return 0;
    }
    return 1;
}

/* What must hold: groups with a row have the F inputs of most energy, and others only where too few have any; groups without keep
   theirs; nothing but indices differs. row_of [L]: each label's row, or -1; frequency [rows] or NULL: what each counts. Returns the
   share of the energy that is held. */
static double check_chosen(const haste_layer *before, const haste_layer *after, const float *dense, const int64_t *row_of,
                           const int64_t *frequency)
{
    const int32_t D = before->inputs;
    double kept = 0, all = 0, *energy = test_doubles((size_t)D), *plain = test_doubles((size_t)D);
    char *in = (char *)test_alloc((size_t)D);
    haste_layer other = *after;
    int32_t k, d;
    int64_t g, s;
    OK(haste_layer_check(after, &test_error));
    for (k = 0; k < before->block_count; k++) other.block[k].index = before->block[k].index;
    CHECK(after->rewires > before->rewires);
    other.rewires = before->rewires;
    CHECK(test_difference(before, &other) == NULL);
    for (k = 0; k < before->block_count; k++) for (g = 0; g < before->block[k].groups; g++) {
        const haste_block *b = &before->block[k];
        const int64_t S = b->group_size, F = b->fan_in, labels = b->labels - g * S < S ? b->labels - g * S : S;
        const uint16_t *index = after->block[k].index;
        double least = HUGE_VAL, most = 0;
        int rows = 0;
        memset(energy, 0, (size_t)D * sizeof *energy);
        memset(plain, 0, (size_t)D * sizeof *plain);
        memset(in, index ? 0 : 1, (size_t)D);
        for (s = 0; s < labels; s++) {
            const int64_t row = row_of[before->label_of[b->first_slot + g * S + s]];
            if (row < 0) continue;
            rows++;
            for (d = 0; d < D; d++) {
                const double square = (double)dense[row * D + d] * (double)dense[row * D + d];
                plain[d] += square;
                energy[d] += square * (frequency ? (double)frequency[row] : 1);
            }
        }
        if (rows == 0) {
            if (index) CHECK(memcmp(index + g * F, b->index + g * F, (size_t)F * 2) == 0);
            continue;
        }
        for (s = 0; s < F && index; s++) in[b->begin + index[g * F + s]] = 1;
        for (d = 0; d < D; d++) {
            all += plain[d];
            if (d < b->begin || d >= b->end) continue;
            if (in[d]) { kept += plain[d]; if (energy[d] < least) least = energy[d]; }
            else if (energy[d] > most) most = energy[d];
        }
        CHECK(least >= most * (1 - 1e-6));
    }
    free(energy);
    free(plain);
    free(in);
    return all > 0 ? kept / all : 1;
}

static void most_energy(void)
{
    int i, kind;
    for (i = 0; i < TEST_SHAPES; i++) for (kind = 0; kind < 3; kind++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, (haste_optimizer)kind, kind ? HASTE_BF16 : HASTE_F32,
                                                   HASTE_F32);
        haste_layer before = test_layer(&options), layer = test_copy(&before), other = test_copy(&before);
        const int32_t L = layer.labels, D = layer.inputs;
        test_rows r = make_rows(L, D, kind == 0 ? D : kind == 1 ? D / 8 + 1 : 2);
        haste_rows rows;
        int64_t *row_of = (int64_t *)test_alloc((size_t)L * sizeof *row_of), slot, first, j;
        int64_t *frequency = (int64_t *)test_alloc((size_t)L * sizeof *frequency);
        int32_t *id = (int32_t *)test_alloc(((size_t)L + 1) * sizeof *id), l;   /* L may be 1; two are named below */
        double kept = -7, share;
        int threads;
        memset(&rows, 0, sizeof rows);
        rows.scale = kind == 2 ? .125f : 0;
        rows.dense = r.dense;
        for (l = 0; l < L; l++) {
            row_of[l] = l;
            frequency[l] = check_random() % 3 ? (int64_t)(check_random() % 9u) : 1000000;
        }
        rows.frequency = kind == 0 ? NULL : frequency;
        rows.samples = kind == 0 ? 0 : 1000000;
        OK(haste_choose_inputs(&layer, NULL, L, &rows, 1, &kept, &test_error));
        share = check_chosen(&before, &layer, r.dense, row_of, rows.frequency);
        CHECK_NEAR(kept, share, 1e-12);

        /* The same from sparse rows, by other threads, in another order of the labels, and by ranges of groups. */
        rows.dense = NULL;
        rows.sparse = &r.sparse;
        for (threads = 0; threads <= 3; threads++) {
            double again = -7;
            OK(haste_choose_inputs(&other, NULL, L, &rows, threads, &again, &test_error));
            CHECK(same_indices(&layer, &other) && again == kept);
        }
        haste_layer_free(&other);
        other = test_copy(&before);
        for (first = slot = 0, j = 0; slot < layer.slots; slot++) {
            int32_t k = 0, d;
            while (slot >= layer.block[k].first_slot + test_places(&layer.block[k])) k++;
            if (layer.label_of[slot] >= 0) id[j++] = layer.label_of[slot];
            if ((slot + 1 - layer.block[k].first_slot) % layer.block[k].group_size != 0 || (check_random() % 3 && slot + 1 < layer.slots))
                continue;
            {   /* the rows of the labels in slots first .. slot alone */
                float *part = (float *)test_alloc((size_t)(j + 1) * (size_t)D * sizeof(float));
                int64_t *times = (int64_t *)test_alloc((size_t)(j + 1) * sizeof *times);
                int64_t n;
                haste_rows some;
                memset(&some, 0, sizeof some);
                some.dense = part;
                some.frequency = kind == 0 ? NULL : times;
                some.samples = rows.samples;
                for (n = 0; n < j; n++) times[n] = frequency[id[n]];
                for (n = 0; n < j; n++) for (d = 0; d < D; d++) part[n * D + d] = r.dense[(int64_t)id[n] * D + d];
                OK(haste_choose_inputs(&other, id, j, &some, 2, NULL, &test_error));
                free(part);
                free(times);
            }
            first = slot + 1;
            j = 0;
        }
        CHECK(first == layer.slots && same_indices(&layer, &other));

        /* Some labels: groups without keep their inputs. */
        haste_layer_free(&other);
        other = test_copy(&before);
        for (l = 0; l < L; l++) row_of[l] = -1;
        id[0] = L - 1;
        id[1] = L / 3;
        row_of[L - 1] = 0;
        row_of[L / 3] = L > 3 ? 1 : 0;
        OK(haste_choose_inputs(&other, id, L > 3 ? 2 : 1, &rows, 2, &kept, &test_error));
        share = check_chosen(&before, &other, r.dense, row_of, rows.frequency);
        CHECK_NEAR(kept, share, 1e-12);
        haste_layer_free(&other);
        other = test_copy(&before);
        OK(haste_choose_inputs(&other, NULL, 0, &rows, 1, &kept, &test_error));
        CHECK(kept == 1 && other.rewires == 1);
        other.rewires = 0;
        CHECK(test_difference(&other, &before) == NULL);

        free_rows(&r);
        free(row_of);
        free(frequency);
        free(id);
        haste_layer_free(&layer);
        haste_layer_free(&other);
        haste_layer_free(&before);
    }
}

/* D = 6, slice 1 .. 5, F = 2, two groups. Rows of group 0: (9 0 2 0 1 9), (9 0 2 0 2 9): columns 2 (8) and 4 (5); of group 1: (0 0 0 1
   0 9): column 3, and one that is drawn. */
static void by_hand(void)
{
    static const float dense[16 * 6] = { 9, 0, 2, 0, 1, 9, 9, 0, 2, 0, 2, 9,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 1, 0, 9 };
    const int32_t twice[2] = { 8, 8 };
    haste_layer_options options;
    haste_rows rows;
    double kept = 0;
    int seed, seen[6] = { 0, 0, 0, 0, 0, 0 }, d;
    memset(&options, 0, sizeof options);
    memset(&rows, 0, sizeof rows);
    options.labels = 16;
    options.inputs = 6;
    options.block_count = 1;
    options.block[0].group_size = 8;
    options.block[0].fan_in = 2;
    options.block[0].begin = 1;
    options.block[0].end = 5;
    rows.dense = dense;
    for (seed = 0; seed < 60; seed++) {
        haste_layer layer, drawn;
        const uint16_t *index;
        options.seed = (uint64_t)seed;
        OK(haste_layer_create(&layer, &options, &test_error));
        drawn = test_copy(&layer);
        OK(haste_choose_inputs(&layer, NULL, 16, &rows, 1, &kept, &test_error));
        index = layer.block[0].index;   /* counted from column 1 */
        CHECK(index[0] == 1 && index[1] == 3);
        CHECK(index[2] == 2 || index[3] == 2);
        CHECK_NEAR(kept, (8 + 5 + 1) / (8 + 5 + 1 + 5 * 81.0), 1e-15);
        seen[index[2] == 2 ? index[3] : index[2]]++;
        OK(haste_choose_inputs(&drawn, NULL, 16, &rows, 3, NULL, &test_error));
        CHECK(test_difference(&drawn, &layer) == NULL);   /* the seed alone decides */
        OK(haste_choose_inputs(&layer, twice, 2, &rows, 1, &kept, &test_error));   /* both rows count */
        CHECK(index[0] == 1 && index[1] == 3 && index[2] == 1 && index[3] == 3);
        CHECK_NEAR(kept, 13 / (13 + 4 * 81.0), 1e-15);
        haste_layer_free(&layer);
        haste_layer_free(&drawn);
    }
    for (d = 0; d < 4; d++) CHECK(d == 2 ? seen[d] == 0 : seen[d] > 5);
}

/* Made from the same rows, a layer has the same inputs. */
static void as_from_rows(void)
{
    int i;
    for (i = 0; i < TEST_SHAPES; i++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer made, chosen;
        test_rows r = make_rows(options.labels, options.inputs, 5);
        haste_rows rows;
        double kept = -1, again = -2;
        memset(&rows, 0, sizeof rows);
        rows.sparse = &r.sparse;
        OK(haste_layer_from_rows(&made, &options, &rows, &kept, &test_error));
        OK(haste_layer_create(&chosen, &options, &test_error));
        OK(haste_choose_inputs(&chosen, NULL, options.labels, &rows, 2, &again, &test_error));
        CHECK(same_indices(&made, &chosen));
        CHECK_NEAR(kept, again, 1e-12);
        free_rows(&r);
        haste_layer_free(&made);
        haste_layer_free(&chosen);
    }
}

/* Labels of a group share three columns that only they have; the rest is noise. Chosen inputs tell groups apart from the first steps
   on, drawn ones do not. */
static void chosen_inputs_learn(void)
{
    int chosen;
    double loss[2];
    for (chosen = 0; chosen < 2; chosen++) {
        haste_layer_options options;
        haste_layer layer;
        haste_workspace work;
        haste_step_options step;
        haste_lists positives;
        haste_rows rows;
        static float x[96 * 192], mean[48 * 192];
        int32_t id[96];
        int64_t offset[97], frequency[48];
        int i, b, d;
        memset(&options, 0, sizeof options);
        memset(&step, 0, sizeof step);
        memset(&rows, 0, sizeof rows);
        memset(mean, 0, sizeof mean);
        for (i = 0; i < 48; i++) frequency[i] = 1;
        options.labels = 48;
        options.samples = 48;
        options.inputs = 192;
        options.block_count = 1;
        options.block[0].group_size = 8;
        options.block[0].fan_in = 8;
        options.optimizer = HASTE_ADAMW;
        options.frequency = frequency;
        options.zero_weights = 1;
        step.lr = .02f;
        positives.offset = offset;
        positives.id = id;
        OK(haste_layer_create(&layer, &options, &test_error));
        work = test_workspace(&layer, 96, 1, HASTE_PATH_AUTO);
        check_seed = 5;
        for (i = 0; i <= 96; i++) offset[i] = i;
        for (i = 0; i < 60; i++) {
            for (b = 0; b < 96; b++) {
                id[b] = (int32_t)(check_random() % 48u);
                for (d = 0; d < 192; d++) x[b * 192 + d] = .3f * check_normal();
                for (d = 0; d < 3; d++) x[b * 192 + 5 + 31 * (id[b] / 8) + 3 * d] += id[b] >> d & 1 ? 1.5f : -1.5f;
            }
            if (i < 20) {
                OK(haste_embed_dense(mean, 48, 192, x, 96, &positives, 1, &test_error));
                if (i < 19) continue;
                OK(haste_embed_finish(mean, 48, 192, &test_error));
                rows.dense = mean;
                if (chosen) OK(haste_choose_inputs(&layer, NULL, 48, &rows, 1, NULL, &test_error));
            }
            OK(haste_train_step(&layer, &work, x, 96, &positives, &step, &loss[chosen], NULL, &test_error));
        }
        CHECK_STATUS(haste_choose_inputs(&layer, NULL, 48, &rows, 1, NULL, &test_error), HASTE_ERR_STATE, test_error);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
    if (check_filter) printf("  loss %.3f with drawn inputs, %.3f with chosen ones\n", loss[0], loss[1]);
    CHECK(loss[1] < loss[0] / 2);
}

static int is_sparse(const haste_layer *layer, haste_workspace *work, const test_batch *batch)
{
    haste__pass pass;
    OK(haste__pass_begin(&pass, layer, work, HASTE_TRAINING, batch->x, batch->B, &test_error));
    haste__pass_load_live(&pass);
    return pass.sparse;
}

/* Inputs that are 0 in whole blocks of samples are left out where x is mostly 0. Columns that no block reads decide here whether it
   is: the bits must be the same. */
static void zeros_change_no_bits(void)
{
    static const haste_path paths[] = { HASTE_PATH_AUTO, HASTE_PATH_PORTABLE, HASTE_PATH_AVX2 };
    static const int32_t batches[] = { 1, 32, 33, 100 };
    int path, loss, n, kind;
    for (path = 0; path < 3; path++) for (loss = 0; loss < 3; loss++) for (n = 0; n < 4; n++) for (kind = 0; kind < 4; kind++) {
        static const test_shape shape = { "zeros", 150, 100, 3, { { 30, 8, HASTE_DENSE, 0, 40 }, { 60, 16, 24, 0, 40 },
                                                                  { 0, 40, 9, 4, 35 } }, 1 };
        haste_layer_options options = test_options(&shape, (haste_loss)loss, (haste_optimizer)((n + kind) % 3),
                                                   kind % 2 ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer, other;
        haste_workspace work;
        test_batch batch;
        haste_step_options step;
        haste_input_scores scores[2];
        float *grad_x[2];
        double sum[2] = { -1, -2 }, first[2] = { -1, -2 };
        int32_t b, c, k;
        int which;
        if (!haste__path_kernels(paths[path] == HASTE_PATH_AUTO ? haste_path_best() : paths[path])) continue;
        layer = test_layer(&options);
        other = test_copy(&layer);
        work = test_workspace(&layer, 100, 2, paths[path]);
        batch = test_make_batch(&layer, batches[n]);
        memset(&step, 0, sizeof step);
        step.lr = .01f;
        step.loss.negligible = kind > 1 ? .2f : 0;
        for (c = 0; c < 40; c++) for (b = 0; b < batch.B; b++)
            if ((b / 32 * 7 + c * 3) % 5 < 2 || b % 3 == 1) batch.x[b * 100 + c] = c % 4 ? 0.0f : -0.0f;
        for (which = 0; which < 2; which++) {
            haste_layer *l = which ? &other : &layer;
            grad_x[which] = (float *)test_zeros((size_t)batch.B * 100 * sizeof(float));
            OK(haste_input_scores_create(&scores[which], l, 0, 0, &test_error));
            for (b = 0; b < batch.B; b++) for (c = 40; c < 100; c++) batch.x[b * 100 + c] = (float)!which;
            CHECK(is_sparse(l, &work, &batch) == which);
            memset(work.memory, 0xff, work.bytes);
            OK(haste_evaluate(l, &work, batch.x, batch.B, &batch.positives, &step.loss, &first[which], grad_x[which], &test_error));
            OK(haste_score_inputs(l, &work, batch.x, batch.B, &batch.positives, &step.loss, &scores[which], &test_error));
            OK(haste_train_step(l, &work, batch.x, batch.B, &batch.positives, &step, &sum[which], NULL, &test_error));
        }
        CHECK(sum[0] == sum[1] && first[0] == first[1] && test_difference(&layer, &other) == NULL);
        CHECK(memcmp(grad_x[0], grad_x[1], (size_t)batch.B * 100 * sizeof(float)) == 0);
        for (k = 1; k < 3; k++)
            CHECK(memcmp(scores[0].score[k], scores[1].score[k], (size_t)(layer.block[k].groups * (layer.block[k].end -
                         layer.block[k].begin)) * sizeof(float)) == 0);
        for (which = 0; which < 2; which++) {
            free(grad_x[which]);
            haste_input_scores_free(&scores[which]);
        }
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&other);
    }
}

#define REFUSED(call, wanted, words)                                                                                   \
    do {                                                                                                               \
        int before_call = held;                                                                                        \
        kept = -7;                                                                                                     \
        test_error.text[0] = 0;                                                                                        \
        CHECK_STATUS(call, wanted, test_error);                                                                        \
        CHECK(strstr(test_error.text, words) != NULL);                                                                 \
        CHECK(kept == -7 && held == before_call && test_difference(&layer, &before) == NULL);                          \
    } while (0)

static void errors(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), before = test_copy(&layer);
    test_rows r = make_rows(layer.labels, layer.inputs, 9);
    haste_rows rows, both;
    static int32_t id[3] = { 5, 7, 200 };
    const float bad_bias[3] = { HUGE_VALF, 0, 0 };
    const int64_t negative[2] = { 0, -1 };
    int32_t keep;
    float value;
    double kept;
    memset(&rows, 0, sizeof rows);
    rows.sparse = &r.sparse;
    both = rows;
    both.dense = r.dense;
    REFUSED(haste_choose_inputs(NULL, NULL, 3, &rows, 1, &kept, &test_error), HASTE_ERR_ARG, "layer is NULL");
    REFUSED(haste_choose_inputs(&layer, NULL, 3, NULL, 1, &kept, &test_error), HASTE_ERR_ARG, "rows is NULL");
    REFUSED(haste_choose_inputs(&layer, NULL, -1, &rows, 1, &kept, &test_error), HASTE_ERR_ARG, "n = -1");
    REFUSED(haste_choose_inputs(&layer, NULL, 201, &rows, 1, &kept, &test_error), HASTE_ERR_ARG, "n = 201");
    REFUSED(haste_choose_inputs(&layer, id, 3, &rows, 1, &kept, &test_error), HASTE_ERR_DATA, "id[2] = 200");
    REFUSED(haste_choose_inputs(&layer, id, 2, &rows, -1, &kept, &test_error), HASTE_ERR_ARG, "threads = -1");
    REFUSED(haste_choose_inputs(&layer, id, 2, &both, 1, &kept, &test_error), HASTE_ERR_ARG, "both");
    both.sparse = NULL;
    value = r.dense[layer.inputs + 1];
    r.dense[layer.inputs + 1] = HUGE_VALF;
    REFUSED(haste_choose_inputs(&layer, id, 2, &both, 1, &kept, &test_error), HASTE_ERR_DATA, "dense[1, 1]");
    r.dense[layer.inputs + 1] = value;
    keep = r.feature[1];
    r.feature[1] = r.feature[0];
    REFUSED(haste_choose_inputs(&layer, id, 2, &rows, 1, &kept, &test_error), HASTE_ERR_DATA, "feature[1]");
    r.feature[1] = keep;
    layer.step = before.step = 3;
    REFUSED(haste_choose_inputs(&layer, id, 2, &rows, 1, &kept, &test_error), HASTE_ERR_STATE, "layer->step = 3");
    layer.step = before.step = 0;
    calls = fail_at = 0;
    REFUSED(haste_choose_inputs(&layer, id, 2, &rows, 1, &kept, &test_error), HASTE_ERR_MEMORY, "memory");
    fail_at = -1;
    both.frequency = negative;
    REFUSED(haste_choose_inputs(&layer, id, 2, &both, 1, &kept, &test_error), HASTE_ERR_DATA, "frequency[1] = -1");
    both.frequency = NULL;
    both.bias = bad_bias;   /* not read */
    OK(haste_choose_inputs(&layer, id, 2, &both, 1, NULL, NULL));
    free_rows(&r);
    haste_layer_free(&layer);
    haste_layer_free(&before);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(most_energy);
    RUN(by_hand);
    RUN(as_from_rows);
    RUN(chosen_inputs_learn);
    RUN(zeros_change_no_bits);
    RUN(errors);
    CHECK(held == 0);
    return check_end();
}
