/* Layers taken apart and put together: labels read, written, added and removed; layers copied, converted, attached,
   sliced, joined, and made from dense rows. What a label holds is found here without the library's help, in double;
   logits before and after are compared bit for bit. */
#define _DEFAULT_SOURCE   /* mkdtemp */
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static void *failing_malloc(size_t bytes);
static void  counting_free(void *memory);
#define HASTE_MALLOC(bytes) failing_malloc(bytes)
#define HASTE_FREE(memory)  counting_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static int held, calls, fail_at;   /* the fail_at'th call from now on fails; 0: none */
static void *failing_malloc(size_t bytes)
{
    void *p;
    calls++;
    if (calls == fail_at) return NULL;
    p = malloc(bytes);
    if (p) { memset(p, 0xa5, bytes); held++; }
    return p;
}
static void counting_free(void *memory) { if (memory) held--; free(memory); }

#define OK(call)            CHECK_STATUS(call, HASTE_OK, test_error)
#define FAILS(call, status) CHECK_STATUS(call, status, test_error)

static const haste_optimizer optimizers[] = { HASTE_SGD, HASTE_MOMENTUM, HASTE_ADAMW };

/* ---- what a label holds, found by looking at every slot ---- */

typedef struct { int32_t block; int64_t j, g, s; } label_place;

static label_place find_label(const haste_layer *layer, int32_t id)
{
    label_place p;
    for (p.block = 0; p.block < layer->block_count; p.block++) {
        const haste_block *b = &layer->block[p.block];
        for (p.j = 0; p.j < b->labels; p.j++) {
            if (layer->label_of[b->first_slot + p.j] != id) continue;
            p.g = p.j / b->group_size;
            p.s = p.j % b->group_size;
            return p;
        }
    }
    printf("label %d is nowhere\n", (int)id);
    exit(1);
}

static int32_t input_of(const haste_block *b, int64_t g, int64_t f)
{
    return b->begin + (b->index ? (int32_t)b->index[g * b->fan_in + f] : (int32_t)f);
}

static size_t weight_place(const haste_block *b, int64_t g, int64_t f, int64_t s)
{
    return (size_t)((g * b->fan_in + f) * b->group_size + s);
}

/* row [D]; the bias is returned. state -1: the weights, else weight_state[state]. */
static double label_row(const haste_layer *layer, int32_t id, int state, double *row)
{
    const label_place p = find_label(layer, id);
    const haste_block *b = &layer->block[p.block];
    const void *array = state < 0 ? b->weight : b->weight_state[state];
    int64_t f;
    for (f = 0; f < layer->inputs; f++) row[f] = 0;
    for (f = 0; f < b->fan_in; f++)
        row[input_of(b, p.g, f)] = (double)test_get(state < 0 ? layer->dtype : layer->state_dtype, array,
                                                    weight_place(b, p.g, f, p.s));
    return (double)(state < 0 ? b->bias : b->bias_state[state])[p.j];
}

/* Do label a of layer x and label b of layer y hold the same numbers, state included? */
static int same_label(const haste_layer *x, int32_t a, const haste_layer *y, int32_t b)
{
    double *row = test_doubles((size_t)x->inputs), *other = test_doubles((size_t)x->inputs);
    int state, same = 1;
    for (state = -1; state < (int)x->optimizer; state++) {
        same &= label_row(x, a, state, row) == label_row(y, b, state, other);
        same &= memcmp(row, other, (size_t)x->inputs * sizeof(double)) == 0;
    }
    free(row);
    free(other);
    return same;
}

/* To nearest, of two as near the even one. */
static double nearest(haste_dtype dtype, double value)
{
    double low, high;
    float f;
    uint32_t bits;
    if (dtype == HASTE_F32) return (double)(float)value;
    test_bf16_neighbours(value, &low, &high);
    if (value - low != high - value) return value - low < high - value ? low : high;
    f = (float)low;
    memcpy(&bits, &f, 4);
    return bits >> 16 & 1 ? high : low;
}

static float prior(haste_loss loss, int64_t n, int64_t N)
{
    double p = ((double)n + .5) / ((double)N + 1);
    return (float)(loss == HASTE_BCE ? log(p / (1 - p)) : loss == HASTE_SQUARED_HINGE ? 2 * p - 1 : log(p));
}

/* ---- logits by label ---- */

enum { BATCH = 3 };

/* [B, labels]: the library's, of label ids. */
static float *logits_of(const haste_layer *layer, const float *x)
{
    haste_workspace work = test_workspace(layer, BATCH, 1, HASTE_PATH_AUTO);
    float *logits = check_floats((size_t)(BATCH * layer->slots));
    float *by_id = check_floats((size_t)BATCH * (size_t)layer->labels);
    int64_t b, slot;
    OK(haste_forward(layer, &work, x, BATCH, logits, &test_error));
    for (b = 0; b < BATCH; b++) for (slot = 0; slot < layer->slots; slot++) {
        const int32_t id = layer->label_of[slot];
        if (id >= 0) by_id[b * layer->labels + id] = logits[b * layer->slots + slot];
    }
    free(logits);
    haste_workspace_free(&work);
    return by_id;
}

/* Does label a of the first [B, L] have the logits of label b of the other? */
static int same_logits(const float *first, int32_t L, int32_t a, const float *other, int32_t other_L, int32_t b)
{
    int64_t i;
    for (i = 0; i < BATCH; i++)
        if (memcmp(first + i * L + a, other + i * other_L + b, sizeof(float)) != 0) return 0;
    return 1;
}

static float *random_rows(int64_t n, int32_t D)
{
    float *rows = (float *)test_alloc((size_t)(n * D) * sizeof(float));
    int64_t i;
    for (i = 0; i < n * D; i++)
        rows[i] = check_random() % 3 == 0 ? 0 : (float)((int32_t)check_random() - 0x40000000) * 0x1p-30f;
    return rows;
}

/* The numbers of dense rows that are not 0. offset begins at 2. */
static haste_sparse sparse_rows(const float *dense, int64_t n, int32_t D)
{
    int64_t *offset = (int64_t *)test_alloc((size_t)(n + 1) * sizeof(int64_t)), i, d, at = 2;
    int32_t *feature = (int32_t *)test_alloc((size_t)(n * D + 2) * sizeof(int32_t));
    float *value = (float *)test_alloc((size_t)(n * D + 2) * sizeof(float));
    haste_sparse sparse;
    feature[0] = feature[1] = -9;
    value[0] = value[1] = NAN;
    offset[0] = 2;
    for (i = 0; i < n; i++) {
        for (d = 0; d < D; d++) if (dense[i * D + d] != 0) { feature[at] = (int32_t)d; value[at++] = dense[i * D + d]; }
        offset[i + 1] = at;
    }
    sparse.offset = offset;
    sparse.feature = feature;
    sparse.value = value;
    return sparse;
}

static void free_sparse(haste_sparse *sparse)
{
    free((void *)(uintptr_t)sparse->offset);
    free((void *)(uintptr_t)sparse->feature);
    free((void *)(uintptr_t)sparse->value);
}

/* Every shape, optimizer and type in turn, with weights and state that are not 0. */
typedef struct { int shape; haste_layer layer; haste_layer_options options; } world;
enum { WORLDS = TEST_SHAPES * 6 };
/* Of the shapes with 65,536 inputs only two, plain and bfloat16: the others take long and show nothing new. */
static int next_world(int number)
{
    number++;
    while (number < WORLDS && test_shapes[number / 6].inputs > 10000 && number % 6 % 5 != 0) number++;
    return number;
}

static world make_world(int number)
{
    static const haste_loss losses[] = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
    world w;
    memset(&w, 0, sizeof w);
    w.shape = number / 6;
    w.options = test_options(&test_shapes[w.shape], losses[(w.shape + number) % 3], optimizers[number % 3],
                             number % 6 < 3 ? HASTE_F32 : HASTE_BF16, number % 2 ? HASTE_BF16 : HASTE_F32);
    w.layer = test_layer(&w.options);
    w.layer.step = 1000;
    w.layer.rewires = 3;
    return w;
}

/* ---- labels read and written ---- */

static void labels_are_read(void)
{
    int number;
    for (number = 0; number < WORLDS; number = next_world(number)) {
        world w = make_world(number);
        const haste_layer *layer = &w.layer;
        const int32_t L = layer->labels, D = layer->inputs, n = L < 20 ? 2 * L : L / 2;
        double *row = test_doubles((size_t)D);
        int32_t *id = (int32_t *)test_alloc((size_t)n * 4), i, d, all;
        for (i = 0; i < n; i++) id[i] = (int32_t)(check_random() % (uint32_t)L);   /* some of them twice */
        for (all = 0; all < 2; all++) {
            const int32_t m = all ? L : n;
            float *weight = check_floats((size_t)m * (size_t)D), *bias = check_floats((size_t)m), *value;
            int64_t *offset = (int64_t *)test_alloc((size_t)(m + 1) * 8), needed = -7, j;
            int32_t *column;
            int right = 1, sparse = 1;
            OK(haste_labels_get(layer, all ? NULL : id, m, weight, bias, &test_error));
            CHECK(check_guard(weight, (size_t)m * (size_t)D) && check_guard(bias, (size_t)m));
            for (i = 0; i < m; i++) {
                right &= label_row(layer, all ? i : id[i], -1, row) == (double)bias[i];
                for (d = 0; d < D; d++) right &= row[d] == (double)weight[(int64_t)i * D + d];
            }
            CHECK(right);

            memset(offset, 0xff, (size_t)(m + 1) * 8);
            FAILS(haste_labels_get_sparse(layer, all ? NULL : id, m, offset, NULL, NULL, 0, &needed, &test_error),
                  HASTE_ERR_SIZE);
            CHECK(needed == offset[m] && needed > 0);
            column = (int32_t *)check_floats((size_t)needed);
            value = check_floats((size_t)needed);
            FAILS(haste_labels_get_sparse(layer, all ? NULL : id, m, offset, column, value, needed - 1, &needed,
                                          &test_error), HASTE_ERR_SIZE);
            CHECK(column[0] == -1 && column[needed - 1] == -1 && check_guard(value, 0));
            OK(haste_labels_get_sparse(layer, all ? NULL : id, m, offset, column, value, needed, &needed,
                                       &test_error));
            CHECK(check_guard(value, (size_t)needed) && check_guard((float *)column, (size_t)needed));
            CHECK(offset[0] == 0);
            for (i = 0; i < m; i++) {
                const haste_block *b = &layer->block[find_label(layer, all ? i : id[i]).block];
                label_row(layer, all ? i : id[i], -1, row);
                sparse &= offset[i + 1] - offset[i] == b->fan_in;
                for (j = offset[i]; j < offset[i + 1]; j++) {
                    sparse &= column[j] >= b->begin && column[j] < b->end;
                    sparse &= j == offset[i] || column[j] > column[j - 1];
                    sparse &= row[column[j]] == (double)value[j];
                    row[column[j]] = 0;
                }
                for (d = 0; d < D; d++) sparse &= row[d] == 0;   /* nothing is missing */
            }
            CHECK(sparse);
            free(weight); free(bias); free(value); free(offset); free(column);
        }
        OK(haste_labels_get(layer, id, n, NULL, NULL, &test_error));
        OK(haste_labels_get(layer, NULL, 0, NULL, NULL, &test_error));
        {
            int64_t offset[1] = { -7 }, needed = -7;
            OK(haste_labels_get_sparse(layer, NULL, 0, offset, NULL, NULL, 0, &needed, &test_error));
            CHECK(offset[0] == 0 && needed == 0);
        }
        free(row);
        free(id);
        haste_layer_free(&w.layer);
    }
}

static void labels_are_written(void)
{
    int number;
    for (number = 0; number < WORLDS; number = next_world(number)) {
        world w = make_world(number);
        haste_layer *layer = &w.layer, before = test_copy(&w.layer), sparse_layer = test_copy(&w.layer);
        const int32_t L = layer->labels, D = layer->inputs, n = L < 20 ? 2 * L : L / 2;
        double *row = test_doubles((size_t)D), taken = 0, all = 0, kept = -7, kept_sparse = -7;
        int32_t *id = (int32_t *)test_alloc((size_t)n * 4), *last = (int32_t *)test_alloc((size_t)L * 4), i, d;
        int64_t *frequency = (int64_t *)test_alloc((size_t)n * 8);
        float *dense = random_rows(n, D), *bias = (float *)test_alloc((size_t)n * 4);
        const float scale = number % 4 == 0 ? -.75f : 1;
        haste_sparse sparse = sparse_rows(dense, n, D);
        haste_rows rows;
        int weights = 1, states = 1, others = 1;
        memset(&rows, 0, sizeof rows);
        for (i = 0; i < L; i++) last[i] = -1;
        for (i = 0; i < n; i++) {
            id[i] = (int32_t)(check_random() % (uint32_t)L);
            last[id[i]] = i;
            bias[i] = check_normal();
            frequency[i] = check_random() % 50;
        }
        rows.dense = dense;
        if (number % 3) rows.bias = bias;
        else { rows.frequency = frequency; rows.samples = 49; }
        if (scale != 1) rows.scale = scale;
        OK(haste_labels_set(layer, id, n, &rows, &kept, &test_error));
        for (i = 0; i < n; i++) {   /* the shares count each row, also of one that another overwrites */
            const label_place p = find_label(layer, id[i]);
            const haste_block *b = &layer->block[p.block];
            for (d = 0; d < D; d++) all += (double)dense[(int64_t)i * D + d] * (double)dense[(int64_t)i * D + d];
            for (d = 0; d < b->fan_in; d++) taken += pow((double)dense[(int64_t)i * D + input_of(b, p.g, d)], 2);
        }
        CHECK_NEAR(kept, all > 0 ? taken / all : 1, 1e-12);
        for (i = 0; i < L; i++) {
            const label_place p = find_label(layer, i);
            const haste_block *b = &layer->block[p.block];
            int state;
            double value;
            if (last[i] < 0) { others &= same_label(layer, i, &before, i); continue; }
            value = label_row(layer, i, -1, row);
            weights &= value == (double)(rows.bias ? bias[last[i]] : prior(layer->loss, frequency[last[i]], 49));
            for (d = 0; d < b->fan_in; d++) {
                const int32_t column = input_of(b, p.g, d);
                weights &= row[column] == nearest(layer->dtype,
                                                  (double)(dense[(int64_t)last[i] * D + column] * scale));
            }
            for (state = 0; state < (int)layer->optimizer; state++) {
                states &= label_row(layer, i, state, row) == 0;
                for (d = 0; d < D; d++) states &= row[d] == 0;
            }
        }
        CHECK(weights);
        CHECK(states);
        CHECK(others);
        OK(haste_layer_check(layer, &test_error));

        /* The same rows without their zeros give the same bits. */
        rows.dense = NULL;
        rows.sparse = &sparse;
        OK(haste_labels_set(&sparse_layer, id, n, &rows, &kept_sparse, &test_error));
        CHECK(test_difference(layer, &sparse_layer) == NULL);
        CHECK_NEAR(kept_sparse, kept, 1e-12);

        /* What was read is written back as it was; nothing where nothing is named. */
        {
            float *weight = check_floats((size_t)L * (size_t)D), *biases = check_floats((size_t)L);
            int k, same = 1;
            memset(&rows, 0, sizeof rows);
            rows.dense = weight;
            rows.bias = biases;
            OK(haste_labels_get(&before, NULL, L, weight, biases, &test_error));
            OK(haste_labels_set(layer, NULL, L, &rows, &kept, &test_error));
            CHECK(kept == 1);
            for (k = 0; k < layer->block_count; k++) {
                const haste_block *a = &layer->block[k], *b = &before.block[k];
                same &= memcmp(a->weight, b->weight, (size_t)test_weights(a) * test_width(layer->dtype)) == 0;
                same &= memcmp(a->bias, b->bias, (size_t)test_places(a) * 4) == 0;
            }
            CHECK(same);
            OK(haste_labels_set(&sparse_layer, id, 0, &rows, &kept, &test_error));
            CHECK(kept == 1);
            OK(haste_labels_set(&sparse_layer, NULL, L, NULL, NULL, &test_error));
            OK(haste_labels_get(&sparse_layer, NULL, L, weight, biases, &test_error));
            for (same = 1, i = 0; i < L; i++) same &= weight[(int64_t)i * D + D - 1] == 0 && biases[i] == 0;
            CHECK(same);
            free(weight); free(biases);
        }
        free(row); free(id); free(last); free(frequency); free(dense); free(bias);
        free_sparse(&sparse);
        haste_layer_free(&before);
        haste_layer_free(&sparse_layer);
        haste_layer_free(layer);
    }
}

/* ---- copies ---- */

static void copies(void)
{
    int number, type, o;
    for (number = 0; number < WORLDS; number = next_world(number)) {
        world w = make_world(number);
        const haste_layer *layer = &w.layer;
        haste_layer copy;
        test_batch batch = test_make_batch(layer, BATCH);
        float *before = logits_of(layer, batch.x), *after;
        memset(&copy, 0xff, sizeof copy);
        OK(haste_layer_copy(&copy, layer, layer->dtype, layer->state_dtype, layer->optimizer, &test_error));
        CHECK(test_difference(layer, &copy) == NULL);
        CHECK(copy.bytes == layer->bytes && copy.memory && copy.memory != layer->memory);
        CHECK(copy.seed == layer->seed && copy.loss == layer->loss);
        after = logits_of(&copy, batch.x);
        CHECK(memcmp(before, after, (size_t)BATCH * (size_t)layer->labels * 4) == 0);
        free(after);
        haste_layer_free(&copy);
        for (o = 0; o < 3; o++) for (type = 0; type < 4; type++) {
            const haste_dtype dtype = type & 1 ? HASTE_BF16 : HASTE_F32;
            const haste_dtype state_dtype = type & 2 ? HASTE_BF16 : HASTE_F32;
            haste_layer_options options = w.options;
            haste_plan plan;
            int state, right = 1, kept = optimizers[o] == layer->optimizer;
            int32_t k;
            if ((number + o + type) % 3 != 0 && layer->inputs > 100) continue;
            memset(&plan, 0, sizeof plan);
            memset(&copy, 0xff, sizeof copy);
            OK(haste_layer_copy(&copy, layer, dtype, state_dtype, optimizers[o], &test_error));
            CHECK(copy.dtype == dtype && copy.state_dtype == state_dtype && copy.optimizer == optimizers[o]);
            CHECK(copy.rewires == 3 && copy.step == (optimizers[o] == HASTE_ADAMW && !kept ? 0 : 1000));
            OK(haste_layer_check(&copy, &test_error));
            options.dtype = dtype;
            options.state_dtype = state_dtype;
            options.optimizer = optimizers[o];
            OK(haste_plan_bytes(&options, NULL, &plan, &test_error));
            CHECK(copy.bytes == plan.layer);
            for (k = 0; k < layer->block_count; k++) {
                const haste_block *a = &copy.block[k], *b = &layer->block[k];
                int64_t i;
                CHECK((a->weight_state[0] != NULL) == (o > 0) && (a->weight_state[1] != NULL) == (o > 1));
                CHECK(!a->index || memcmp(a->index, b->index, (size_t)(b->groups * b->fan_in) * 2) == 0);
                CHECK(memcmp(a->bias, b->bias, (size_t)test_places(b) * 4) == 0);
                for (i = 0; i < test_weights(b); i++)
                    right &= (double)test_get(dtype, a->weight, (size_t)i) ==
                             nearest(dtype, (double)test_get(layer->dtype, b->weight, (size_t)i));
                for (state = 0; state < o; state++) {
                    for (i = 0; i < test_weights(b) && !kept; i++)
                        right &= test_get(state_dtype, a->weight_state[state], (size_t)i) == 0;
                    for (i = 0; i < test_weights(b) && kept; i++)
                        right &= (double)test_get(state_dtype, a->weight_state[state], (size_t)i) == nearest(
                            state_dtype, (double)test_get(layer->state_dtype, b->weight_state[state], (size_t)i));
                    for (i = 0; i < test_places(b); i++)
                        right &= a->bias_state[state][i] == (kept ? b->bias_state[state][i] : 0);
                }
            }
            CHECK(right);
            CHECK(memcmp(copy.label_of, layer->label_of, (size_t)layer->slots * 4) == 0);
            CHECK(memcmp(copy.slot_of, layer->slot_of, (size_t)layer->labels * 4) == 0);
            haste_layer_free(&copy);
        }
        free(before);
        test_free_batch(&batch);
        haste_layer_free(&w.layer);
    }
    CHECK(held == 0);
}

/* What bfloat16 cannot hold is an error, and leaves nothing behind. */
static void copies_that_do_not_fit(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), copy;
    float *weight = (float *)layer.block[2].weight, *first = (float *)layer.block[2].weight_state[0];
    float *second = (float *)layer.block[2].weight_state[1], keep = weight[0];
    const int before = held;
    memset(&copy, 0x77, sizeof copy);
    weight[0] = 3.4e38f;   /* rounds to infinity */
    FAILS(haste_layer_copy(&copy, &layer, HASTE_BF16, HASTE_F32, HASTE_ADAMW, &test_error), HASTE_ERR_STATE);
    CHECK(held == before && ((unsigned char *)&copy)[0] == 0x77);
    weight[0] = keep;
    weight[1] = NAN;
    FAILS(haste_layer_copy(&copy, &layer, HASTE_BF16, HASTE_F32, HASTE_ADAMW, &test_error), HASTE_ERR_STATE);
    weight[1] = 1;
    first[0] = 1e18f;      /* the most that haste_layer_check lets pass, also when it is rounded */
    OK(haste_layer_copy(&copy, &layer, HASTE_F32, HASTE_BF16, HASTE_ADAMW, &test_error));
    OK(haste_layer_check(&copy, &test_error));
    haste_layer_free(&copy);
    second[0] = 3.4e38f;
    memset(&copy, 0x77, sizeof copy);
    FAILS(haste_layer_copy(&copy, &layer, HASTE_F32, HASTE_BF16, HASTE_ADAMW, &test_error), HASTE_ERR_STATE);
    CHECK(held == before && ((unsigned char *)&copy)[0] == 0x77);
    OK(haste_layer_copy(&copy, &layer, HASTE_F32, HASTE_BF16, HASTE_SGD, &test_error));
    haste_layer_free(&copy);
    CHECK(held == before);
    haste_layer_free(&layer);
}

/* ---- memory that holds a layer ---- */

static void attached(void)
{
    int number;
    for (number = 0; number < WORLDS; number = next_world(number)) {
        world w = make_world(number);
        const haste_layer *layer = &w.layer;
        char *room = (char *)test_alloc(layer->bytes + 128), *memory = room + (64 - (uintptr_t)room % 64) % 64;
        haste_layer_options options = w.options;
        haste_layer again, like = *layer;
        int before = calls, k;
        memcpy(memory, layer->memory, layer->bytes);
        options.order = NULL;   /* not read: another one than the layer's */
        memset(&again, 0xff, sizeof again);
        OK(haste_layer_attach(&again, &options, memory, layer->bytes, &test_error));
        CHECK(again.step == 0 && again.rewires == 0 && again.memory == NULL);
        again.step = 1000;
        again.rewires = 3;
        CHECK(again.seed == layer->seed && test_difference(layer, &again) == NULL);

        for (k = 0; k < like.block_count; k++) {   /* pointers of another process */
            like.block[k].weight = like.block[k].weight_state[0] = (void *)(uintptr_t)64;
            like.block[k].index = NULL;
        }
        like.memory = (void *)(uintptr_t)64;
        OK(haste_layer_attach(&like, NULL, memory, layer->bytes, &test_error));
        CHECK(test_difference(layer, &like) == NULL && like.memory == NULL);
        CHECK(memcmp(memory, layer->memory, layer->bytes) == 0 && calls == before);
        haste_layer_free(&like);
        CHECK(memcmp(memory, layer->memory, layer->bytes) == 0);

        /* What lies there is no such layer. */
        like = *layer;
        ((int32_t *)(void *)again.label_of)[0] = layer->labels;
        FAILS(haste_layer_attach(&like, &options, memory, layer->bytes, &test_error), HASTE_ERR_STATE);
        CHECK(memcmp(&like, layer, sizeof like) == 0);
        FAILS(haste_layer_attach(&like, &options, memory, layer->bytes - 1, &test_error), HASTE_ERR_SIZE);
        FAILS(haste_layer_attach(&like, &options, memory + 4, layer->bytes, &test_error), HASTE_ERR_ARG);
        FAILS(haste_layer_attach(&like, &options, NULL, layer->bytes, &test_error), HASTE_ERR_ARG);
        FAILS(haste_layer_attach(NULL, &options, memory, layer->bytes, &test_error), HASTE_ERR_ARG);
        options.inputs = 0;
        FAILS(haste_layer_attach(&like, &options, memory, layer->bytes, &test_error), HASTE_ERR_ARG);
        CHECK(memcmp(&like, layer, sizeof like) == 0);
        like.slots++;
        FAILS(haste_layer_attach(&like, NULL, memory, layer->bytes, &test_error), HASTE_ERR_ARG);
        free(room);
        haste_layer_free(&w.layer);
    }
    CHECK(held == 0);
}

/* ---- labels added ---- */

static void labels_are_added(void)
{
    static const int32_t counts[] = { 0, 1, 7, 70 };
    int number, c;
    for (number = 0; number < WORLDS; number = next_world(number)) for (c = 0; c < 4; c++) {
        world w = make_world(number);
        const haste_layer *layer = &w.layer;
        const int32_t L = layer->labels, D = layer->inputs, n = counts[c], block = (number + c) % layer->block_count;
        const int strongest = (number / 2 + c) % 2;
        double *row = test_doubles((size_t)D), kept = -7, taken = 0, all = 0;
        float *dense = random_rows(n + 1, D), *bias = (float *)test_alloc((size_t)(n + 1) * 4), *before, *after;
        haste_sparse sparse = sparse_rows(dense, n, D);
        test_batch batch = test_make_batch(layer, BATCH);
        haste_layer more, created, copy = test_copy(layer);
        haste_layer_options options = w.options;
        haste_rows rows;
        const haste_block *old, *b;
        int32_t i, d;
        int64_t g;
        int right = 1, zero = 1, same = 1;
        memset(&rows, 0, sizeof rows);
        for (i = 0; i < n; i++) bias[i] = check_normal();
        rows.bias = bias;
        if (c % 2) rows.dense = dense; else rows.sparse = &sparse;
        memset(&more, 0xff, sizeof more);
        OK(haste_labels_add(&more, layer, block, n, &rows, strongest, &kept, &test_error));
        OK(haste_layer_check(&more, &test_error));
        CHECK(test_difference(layer, &copy) == NULL);
        CHECK(more.labels == L + n && more.step == 1000 && more.rewires == 3 && more.seed == layer->seed);
        old = &layer->block[block];
        b = &more.block[block];
        CHECK(b->labels == old->labels + n && b->groups == (old->labels + n + old->group_size - 1) / old->group_size);
        before = logits_of(layer, batch.x);
        after = logits_of(&more, batch.x);
        for (i = 0; i < L; i++) same &= same_logits(before, L, i, after, L + n, i);
        for (i = 0; i < L; i += 1 + L / 20) same &= same_label(layer, i, &more, i);
        CHECK(same);
        for (i = 0; i < n; i++) {
            const label_place p = find_label(&more, L + i);
            int state;
            CHECK(p.block == block && p.j == old->labels + i);
            right &= label_row(&more, L + i, -1, row) == (double)bias[i];
            for (d = 0; d < D; d++) all += (double)dense[(int64_t)i * D + d] * (double)dense[(int64_t)i * D + d];
            for (d = 0; d < b->fan_in; d++) {
                const int32_t column = input_of(b, p.g, d);
                const double value = (double)dense[(int64_t)i * D + column];
                right &= row[column] == nearest(more.dtype, value);
                taken += value * value;
            }
            for (state = 0; state < (int)more.optimizer; state++) {
                zero &= label_row(&more, L + i, state, row) == 0;
                for (d = 0; d < D; d++) zero &= row[d] == 0;
            }
        }
        CHECK(right);
        CHECK(zero);
        CHECK_NEAR(kept, all > 0 ? taken / all : 1, 1e-12);

        /* Inputs of new groups: as created so large, or those with the most energy. */
        options.labels = L + n;
        options.order = NULL;
        for (i = 0; i < options.block_count; i++) options.block[i].labels = more.block[i].labels;
        OK(haste_layer_create(&created, &options, &test_error));
        for (g = old->groups; g < b->groups && b->index; g++) {
            double *energy = test_doubles((size_t)D), least = HUGE_VAL;
            const uint16_t *index = b->index + g * b->fan_in;
            if (!strongest) {
                CHECK(memcmp(index, created.block[block].index + g * b->fan_in, (size_t)b->fan_in * 2) == 0);
                free(energy);
                continue;
            }
            for (i = 0; i < n; i++) if ((old->labels + i) / b->group_size == g)
                for (d = 0; d < D; d++) energy[d] += pow((double)dense[(int64_t)i * D + d], 2);
            for (d = 0; d < b->fan_in; d++)
                if (energy[b->begin + index[d]] < least) least = energy[b->begin + index[d]];
            for (d = 0; d < b->fan_in; d++) energy[b->begin + index[d]] = 0;
            for (d = b->begin; d < b->end; d++) CHECK(energy[d] <= least * (1 + 1e-6));   /* none left out has more */
            free(energy);
        }
        haste_layer_free(&created);
        free(before); free(after); free(row); free(dense); free(bias);
        free_sparse(&sparse);
        test_free_batch(&batch);
        haste_layer_free(&more);
        haste_layer_free(&copy);
        haste_layer_free(&w.layer);
    }
    CHECK(held == 0);
}

/* Without rows: weights 0, and the prior's bias where frequencies are given. And a layer that grew trains. */
static void added_labels_begin(void)
{
    static const haste_loss losses[] = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
    static const int64_t frequency[5] = { 0, 3, 1, 100, 50 };
    int i, l;
    for (l = 0; l < 3; l++) {
        haste_layer_options options = test_options(&test_shapes[11], losses[l], HASTE_ADAMW, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options), more;
        haste_step_options step;
        haste_rows rows;
        haste_workspace work;
        test_batch batch;
        double loss, kept = -7, *row = test_doubles((size_t)layer.inputs);
        float best[64];
        int32_t found[64], d;
        memset(&rows, 0, sizeof rows);
        memset(&step, 0, sizeof step);
        rows.frequency = frequency;
        rows.samples = 100;
        OK(haste_labels_add(&more, &layer, 1, 5, &rows, 1, &kept, &test_error));
        CHECK(kept == 1);
        for (i = 0; i < 5; i++) {
            CHECK_NEAR(label_row(&more, 200 + i, -1, row), (double)prior(losses[l], frequency[i], 100), 0);
            for (d = 0; d < layer.inputs; d++) CHECK(row[d] == 0);
        }
        haste_layer_free(&more);
        OK(haste_labels_add(&more, &layer, 2, 5, NULL, 1, NULL, &test_error));
        for (i = 0; i < 5; i++) CHECK(label_row(&more, 200 + i, -1, row) == 0);
        work = test_workspace(&more, BATCH, 1, HASTE_PATH_AUTO);
        batch = test_make_batch(&more, BATCH);
        step.lr = .01f;
        for (i = 0; i < 6; i++) batch.id[batch.offset[BATCH - 1] - (i == 0)] = 204;
        OK(haste_train_step(&more, &work, batch.x, BATCH, &batch.positives, &step, &loss, NULL, &test_error));
        CHECK(label_row(&more, 204, -1, row) != 0);
        OK(haste_top_k(&more, &work, batch.x, 1, 64, NULL, found, best, &test_error));
        haste_workspace_free(&work);
        test_free_batch(&batch);
        free(row);
        haste_layer_free(&more);
        haste_layer_free(&layer);
    }
    CHECK(held == 0);
}

/* ---- labels removed ---- */

static void labels_are_removed(void)
{
    int number, way, halved = 0;
    for (number = 0; number < WORLDS; number = next_world(number)) for (way = 0; way < 6; way++) {
        world w = make_world(number);
        const haste_layer *layer = &w.layer;
        const int32_t L = layer->labels;
        int32_t *id = (int32_t *)test_alloc((size_t)(2 * L + 2) * 4), *map = (int32_t *)test_alloc((size_t)L * 4);
        int32_t n = 0, i, k, left = 0, retired = 0;
        float *before, *after;
        test_batch batch = test_make_batch(layer, BATCH);
        haste_layer fewer, copy = test_copy(layer);
        int64_t g, gaps = 0, most_gaps, slot;
        int same = 1, order = 1, padded = 1, blocks = 0;
        int32_t group_size[HASTE_MAX_BLOCKS];
        for (i = 0; i < L; i++) {
            const uint32_t random = check_random();
            const label_place p = find_label(layer, i);
            const int gone = way == 0 ? 0 : way == 1 ? random % 2 == 0 : way == 2 ? random % 20 == 0
                           : way == 3 ? p.block == 0 && layer->block_count > 1
                           : way == 4 ? L - 1 - i != L / 2 : random % 8 != 0;   /* one stays; one of eight */
            map[i] = gone;
            if (gone) id[n++] = i;
            if (gone && random % 3 == 0) id[n++] = i;   /* twice */
        }
        for (i = 0; i < L && n == 0 && way > 0; i++) if (L > 1 && i == L / 3) { id[n++] = i; map[i] = 1; }
        for (i = 0; i < L; i++) left += !map[i];
        if (left == 0) { left = 1; n = 0; }
        for (i = n - 1; i > 0; i--) {   /* in any order */
            const int32_t j = (int32_t)(check_random() % (uint32_t)(i + 1)), keep = id[i];
            id[i] = id[j];
            id[j] = keep;
        }
        if (n == 0) left = L;

        /* How many gaps must be filled, in groups that may be halved. */
        for (k = 0; k < layer->block_count; k++) {
            const haste_block *b = &layer->block[k];
            int64_t S = b->group_size, most = 0, all = 0;
            int pass;
            for (most_gaps = 0, pass = 0; pass < 2; pass++) {
                for (g = 0; g < b->groups; g++) {
                    int64_t here = 0;
                    for (slot = b->first_slot + g * b->group_size; slot < b->first_slot + (g + 1) * b->group_size; slot++)
                        here += layer->label_of[slot] >= 0 && (n == 0 || !map[layer->label_of[slot]]);
                    if (here > most) most = here;
                    if (pass == 0) all += here;
                    if (pass == 0 || here == 0 || b->fan_in == b->end - b->begin) continue;
                    gaps += S - here;
                    if (S - here > most_gaps) most_gaps = S - here;
                }
                while (all < b->labels && S / 2 % 16 == 0 && most <= S / 2) S /= 2;
            }
            gaps -= most_gaps;
            if (all > 0 && b->fan_in < b->end - b->begin) halved += S < b->group_size;
            if (all > 0) group_size[blocks++] = b->fan_in < b->end - b->begin ? (int32_t)S : b->group_size;
        }

        memset(map, 0x77, (size_t)L * 4);
        memset(&fewer, 0xff, sizeof fewer);
        OK(haste_labels_remove(&fewer, layer, id, n, map, &test_error));
        OK(haste_layer_check(&fewer, &test_error));
        CHECK(test_difference(layer, &copy) == NULL);
        CHECK(fewer.step == 1000 && fewer.rewires == 3 && fewer.seed == layer->seed);
        CHECK(fewer.labels == left + gaps && fewer.block_count == blocks);
        for (k = 0; k < blocks; k++) CHECK(fewer.block[k].group_size == group_size[k]);
        for (i = 0; i < n; i++) CHECK(map[id[i]] == -1);
        before = logits_of(layer, batch.x);
        after = logits_of(&fewer, batch.x);
        for (i = 0, k = 0; i < L; i++) {
            if (map[i] < 0) continue;
            order &= map[i] == k++;
            same &= same_logits(before, L, i, after, fewer.labels, map[i]);
            if (i % (1 + L / 20) == 0) same &= same_label(layer, i, &fewer, map[i]);
        }
        CHECK(k == left);
        CHECK(order);
        CHECK(same);
        for (i = left; i < fewer.labels; i++, retired++)
            for (k = 0; k < BATCH; k++) padded &= after[(int64_t)k * fewer.labels + i] == HASTE_RETIRED;
        CHECK(padded);
        if (n == 0 && layer->labels % layer->block[0].group_size == 0 && layer->block_count == 1)
            CHECK(test_difference(layer, &fewer) == NULL);

        /* Retired labels do not show, and no loss moves them. */
        if (retired > 0) {
            haste_workspace work = test_workspace(&fewer, BATCH, 1, HASTE_PATH_AUTO);
            haste_step_options step;
            int32_t found[64];
            float *mass = (float *)test_alloc((size_t)fewer.labels * 4);
            int32_t *ids = (int32_t *)test_alloc((size_t)fewer.labels * 4);
            int64_t ends[2] = { 0, 0 };
            haste_lists ignored;
            float score[64];
            const int32_t top = left < 64 ? left : 64;
            int64_t offset[2] = { 0, 1 };
            int32_t positive = 0;
            haste_lists positives;
            double loss, *row = test_doubles((size_t)fewer.inputs);
            int32_t d;
            int still = 1;
            OK(haste_top_k(&fewer, &work, batch.x, 1, top, NULL, found, score, &test_error));
            for (i = 0; i < top; i++) CHECK(found[i] < left);
            memset(&step, 0, sizeof step);
            step.lr = .1f;
            step.loss.negligible = number % 2 ? 1e-9f : 0;
            if (number % 4 > 1 && fewer.loss != HASTE_SQUARED_HINGE) {   /* smoothed, they would be a bit positive */
                step.loss.smoothing = .1f;
                if (fewer.loss == HASTE_BCE) step.loss.label_weight = mass;
                else step.loss.ignored = &ignored;
            }
            for (i = 0; i < fewer.labels; i++) {
                mass[i] = i < left;
                ids[i] = left + i;
            }
            ends[1] = retired;
            ignored.offset = ends;
            ignored.id = ids;
            positives.offset = offset;
            positives.id = &positive;
            for (i = 0; i < 3; i++)
                OK(haste_train_step(&fewer, &work, batch.x, 1, &positives, &step, &loss, NULL, &test_error));
            for (i = left; i < fewer.labels; i++) {
                still &= label_row(&fewer, i, -1, row) == (double)HASTE_RETIRED;
                for (d = 0; d < fewer.inputs; d++) still &= fabs(row[d]) <= (step.loss.negligible > 0 ? 0 : 1e-30);
            }
            CHECK(still);
            CHECK(loss < 1e6);
            free(mass);
            free(ids);
            free(row);
            haste_workspace_free(&work);
        }
        free(before); free(after); free(id); free(map);
        test_free_batch(&batch);
        haste_layer_free(&fewer);
        haste_layer_free(&copy);
        haste_layer_free(&w.layer);
    }
    CHECK(halved > 20);
    CHECK(held == 0);
}

/* ---- slices, and what they join to ---- */

/* Where a cut may lie: the `number`th group of all. */
static int64_t cut(const haste_layer *layer, int64_t number)
{
    int32_t k;
    for (k = 0; k < layer->block_count; number -= layer->block[k++].groups)
        if (number < layer->block[k].groups) return layer->block[k].first_slot + number * layer->block[k].group_size;
    return layer->slots;
}

static void slices_join(void)
{
    int number, turn;
    for (number = 0; number < WORLDS; number = next_world(number)) for (turn = 0; turn < 3; turn++) {
        world w = make_world(number);
        haste_layer *layer = &w.layer, part[3], joined, own;
        const haste_layer *parts[3];
        const int32_t *ids[3];
        int32_t *id[3], i, k, count = 0;
        int64_t groups = 0, at[4], slot;
        test_batch batch = test_make_batch(layer, BATCH);
        float *whole = logits_of(layer, batch.x), *logits;
        int same = 1, ascending = 1;
        for (k = 0; k < layer->block_count; k++) groups += layer->block[k].groups;
        at[0] = 0;
        at[1] = cut(layer, (int64_t)(check_random() % (uint64_t)(groups + 1)));
        at[2] = cut(layer, (int64_t)(check_random() % (uint64_t)(groups + 1)));
        at[3] = layer->slots;
        if (at[2] < at[1]) { slot = at[1]; at[1] = at[2]; at[2] = slot; }
        for (i = 0; i < 3; i++) {
            const int64_t slots = at[i + 1] - at[i];
            int32_t n;
            if (slots == 0) continue;
            id[count] = (int32_t *)test_alloc((size_t)slots * 4);
            memset(id[count], 0x77, (size_t)slots * 4);
            memset(&part[count], 0xff, sizeof part[count]);
            OK(haste_layer_slice(&part[count], layer, at[i], at[i + 1], id[count], &test_error));
            OK(haste_layer_check(&part[count], &test_error));
            n = part[count].labels;
            CHECK(part[count].slots == slots && part[count].step == 1000);
            CHECK(part[count].bytes <= 8 * (size_t)slots + 2 * 64);   /* two orders, and nothing else */
            logits = logits_of(&part[count], batch.x);
            for (k = 0; k < n; k++) {
                ascending &= k == 0 || id[count][k] > id[count][k - 1];
                same &= same_logits(whole, layer->labels, id[count][k], logits, n, k);
                if (k % (1 + n / 10) == 0) same &= same_label(layer, id[count][k], &part[count], k);
            }
            for (k = n; k < slots; k++) ascending &= id[count][k] == -1;
            free(logits);
            parts[count] = &part[count];
            ids[count] = id[count];
            count++;
        }
        CHECK(same);
        CHECK(ascending);

        /* Joined again they are the whole, bit for bit. */
        memset(&joined, 0xff, sizeof joined);
        OK(haste_layer_join(&joined, parts, count, ids, &test_error));
        CHECK(test_difference(layer, &joined) == NULL);
        CHECK(joined.block_count == layer->block_count && joined.bytes == layer->bytes && joined.seed == layer->seed);
        haste_layer_free(&joined);

        /* With ids of their own: those of the first part, then the second's. */
        OK(haste_layer_join(&joined, parts, count, NULL, &test_error));
        OK(haste_layer_check(&joined, &test_error));
        logits = logits_of(&joined, batch.x);
        for (i = 0, slot = 0; i < count; slot += part[i++].labels)
            for (k = 0; k < part[i].labels; k++)
                same &= same_logits(whole, layer->labels, id[i][k], logits, joined.labels, (int32_t)slot + k);
        CHECK(same);
        free(logits);
        haste_layer_free(&joined);

        /* A slice shares its numbers with the layer, its copy does not. */
        OK(haste_layer_copy(&own, &part[0], layer->dtype, layer->state_dtype, layer->optimizer, &test_error));
        CHECK(test_difference(&own, &part[0]) == NULL);
        part[0].block[0].bias[0] = 99;
        CHECK(layer->block[0].bias[at[0]] == 99 && own.block[0].bias[0] != 99);
        haste_layer_free(&own);
        for (i = 0; i < count; i++) { haste_layer_free(&part[i]); free(id[i]); }
        OK(haste_layer_check(layer, &test_error));
        free(whole);
        test_free_batch(&batch);
        haste_layer_free(layer);
    }
    CHECK(held == 0);
}

/* Layers of other shapes join as blocks of their own, and train. */
static void other_layers_join(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), fresh, joined, copy;
    const haste_layer *both[8];
    float *before, *after;
    test_batch batch = test_make_batch(&layer, BATCH);
    int32_t i, same = 1;
    options.labels = 30;
    options.order = NULL;
    options.block_count = 2;
    options.block[0].labels = 9;
    options.block[1].labels = 0;
    fresh = test_layer(&options);
    layer.step = 5;
    fresh.step = 7;
    both[0] = &layer;
    both[1] = &fresh;
    OK(haste_layer_join(&joined, both, 2, NULL, &test_error));
    OK(haste_layer_check(&joined, &test_error));
    CHECK(joined.block_count == 5 && joined.labels == 230 && joined.step == 5);
    before = logits_of(&layer, batch.x);
    after = logits_of(&joined, batch.x);
    for (i = 0; i < 200; i++) same &= same_logits(before, 200, i, after, 230, i);
    free(before);
    before = logits_of(&fresh, batch.x);
    for (i = 0; i < 30; i++) same &= same_logits(before, 30, i, after, 230, 200 + i);
    CHECK(same);
    free(before);
    free(after);
    haste_layer_free(&joined);

    for (i = 0; i < 8; i++) both[i] = &layer;   /* 24 blocks */
    memset(&joined, 0x77, sizeof joined);
    FAILS(haste_layer_join(&joined, both, 8, NULL, &test_error), HASTE_ERR_ARG);
    OK(haste_layer_copy(&copy, &fresh, HASTE_F32, HASTE_F32, HASTE_ADAMW, &test_error));
    both[1] = &copy;
    FAILS(haste_layer_join(&joined, both, 2, NULL, &test_error), HASTE_ERR_ARG);
    CHECK(((unsigned char *)&joined)[0] == 0x77);
    haste_layer_free(&copy);
    haste_layer_free(&fresh);
    haste_layer_free(&layer);
    test_free_batch(&batch);
    CHECK(held == 0);
}

/* Of one shape: one block where the first layer ends with a full group, else two. */
static void alike_layers_join(void)
{
    int full;
    for (full = 0; full < 2; full++) {
        haste_layer_options options = test_options(&test_shapes[4], HASTE_BCE, HASTE_MOMENTUM, HASTE_BF16,
                                                   HASTE_BF16);
        haste_layer first, second, joined;
        const haste_layer *both[2];
        float *logits, *part;
        test_batch batch;
        int32_t i, n, same = 1;
        options.order = NULL;
        second = test_layer(&options);
        if (full) options.labels = 72;
        first = test_layer(&options);
        n = first.labels;
        both[0] = &first;
        both[1] = &second;
        OK(haste_layer_join(&joined, both, 2, NULL, &test_error));
        OK(haste_layer_check(&joined, &test_error));
        CHECK(joined.block_count == (full ? 1 : 2) && joined.labels == n + 77);
        batch = test_make_batch(&joined, BATCH);
        logits = logits_of(&joined, batch.x);
        part = logits_of(&first, batch.x);
        for (i = 0; i < n; i++) same &= same_logits(part, n, i, logits, n + 77, i) && same_label(&first, i, &joined,
                                                                                                 i);
        free(part);
        part = logits_of(&second, batch.x);
        for (i = 0; i < 77; i++)
            same &= same_logits(part, 77, i, logits, n + 77, n + i) && same_label(&second, i, &joined, n + i);
        CHECK(same);
        free(part);
        free(logits);
        test_free_batch(&batch);
        haste_layer_free(&joined);
        haste_layer_free(&first);
        haste_layer_free(&second);
    }
    CHECK(held == 0);
}

/* A range of a mapped file is a layer; its copy outlives the file. */
static void slice_of_a_file(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_BF16);
    haste_layer layer = test_layer(&options), part, own, whole;
    const char *base = getenv("TMPDIR");
    char folder[200], path[232];
    const haste_layer *one[1];
    const int32_t *ids[1];
    int32_t id[400];
    haste_file file;
    snprintf(folder, sizeof folder, "%s/haste_life_XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(folder)) { printf("cannot make %s\n", folder); exit(1); }
    snprintf(path, sizeof path, "%s/model", folder);
    OK(haste_save(path, &layer, layer.dtype, NULL, 0, &test_error));
    OK(haste_load(path, 1, &file, &test_error));
    OK(haste_layer_copy(&whole, &file.layer, HASTE_BF16, HASTE_BF16, HASTE_ADAMW, &test_error));
    CHECK(test_difference(&layer, &whole) == NULL && whole.bytes == layer.bytes);
    OK(haste_layer_slice(&part, &file.layer, 16, 16 + 8 + 32, id, &test_error));
    CHECK(part.block_count == 2 && part.slots == 40 && part.labels == 4 + 32);
    OK(haste_layer_copy(&own, &part, HASTE_BF16, HASTE_BF16, HASTE_ADAMW, &test_error));
    haste_layer_free(&part);
    haste_file_free(&file);
    OK(haste_layer_check(&own, &test_error));
    CHECK(same_label(&own, 0, &layer, id[0]) && same_label(&own, 35, &layer, id[35]) && id[36] == -1);
    one[0] = &own;
    ids[0] = id;
    FAILS(haste_layer_join(&part, one, 1, ids, &test_error), HASTE_ERR_DATA);   /* ids of the whole */
    haste_layer_free(&own);
    haste_layer_free(&whole);
    haste_layer_free(&layer);
    unlink(path);
    rmdir(folder);
    CHECK(held == 0);
}

/* ---- from dense rows ---- */

static void from_rows(void)
{
    int number;
    for (number = 0; number < WORLDS; number = next_world(number)) {
        world w = make_world(number);
        haste_layer_options options = w.options;
        const int32_t L = options.labels, D = options.inputs;
        float *dense = random_rows(L, D), *bias = (float *)test_alloc((size_t)L * 4);
        haste_sparse sparse = sparse_rows(dense, L, D);
        haste_layer layer, other;
        haste_rows rows;
        double kept = -7, kept_sparse = -7, taken = 0, all = 0;
        double *row = test_doubles((size_t)D), *energy = test_doubles((size_t)D);
        int32_t i, d, k;
        int64_t g;
        int right = 1, best = 1, state;
        const float scale = number % 5 == 0 ? 2.5f : 1;
        memset(&rows, 0, sizeof rows);
        for (i = 0; i < L; i++) bias[i] = check_normal();
        rows.dense = dense;
        rows.bias = bias;
        rows.scale = scale == 1 ? 0 : scale;
        memset(&layer, 0xff, sizeof layer);
        OK(haste_layer_from_rows(&layer, &options, &rows, &kept, &test_error));
        OK(haste_layer_check(&layer, &test_error));
        CHECK(memcmp(layer.label_of, w.layer.label_of, (size_t)layer.slots * 4) == 0);   /* in the order given */
        CHECK(layer.bytes == w.layer.bytes && layer.seed == options.seed && layer.step == 0);
        for (i = 0; i < L; i++) {
            const label_place p = find_label(&layer, i);
            const haste_block *b = &layer.block[p.block];
            right &= label_row(&layer, i, -1, row) == (double)bias[i];
            for (d = 0; d < D; d++) all += (double)dense[(int64_t)i * D + d] * (double)dense[(int64_t)i * D + d];
            for (d = 0; d < b->fan_in; d++) {
                const float value = dense[(int64_t)i * D + input_of(b, p.g, d)];
                right &= row[input_of(b, p.g, d)] == nearest(layer.dtype, (double)(value * scale));
                taken += (double)value * (double)value;
            }
            for (state = 0; state < (int)layer.optimizer; state++) right &= label_row(&layer, i, state, row) == 0;
        }
        CHECK(right);
        CHECK_NEAR(kept, all > 0 ? taken / all : 1, 1e-12);
        for (k = 0; k < layer.block_count; k++) for (g = 0; g < layer.block[k].groups && layer.block[k].index; g++) {
            const haste_block *b = &layer.block[k];
            double least = HUGE_VAL;
            int64_t slot;
            for (d = 0; d < D; d++) energy[d] = 0;
            for (slot = b->first_slot + g * b->group_size; slot < b->first_slot + (g + 1) * b->group_size; slot++)
                for (d = 0; d < D && layer.label_of[slot] >= 0; d++)
                    energy[d] += pow((double)dense[(int64_t)layer.label_of[slot] * D + d], 2);
            for (d = 0; d < b->fan_in; d++) if (energy[input_of(b, g, d)] < least) least = energy[input_of(b, g, d)];
            for (d = 0; d < b->fan_in; d++) energy[input_of(b, g, d)] = 0;
            for (d = b->begin; d < b->end; d++) best &= energy[d] <= least * (1 + 1e-6);
        }
        CHECK(best);
        rows.dense = NULL;
        rows.sparse = &sparse;
        OK(haste_layer_from_rows(&other, &options, &rows, &kept_sparse, &test_error));
        CHECK(test_difference(&layer, &other) == NULL);
        CHECK_NEAR(kept_sparse, kept, 1e-12);
        haste_layer_free(&other);

        /* What a sparse layer exports is kept whole by a layer that may choose the same inputs. */
        {
            float *weight = check_floats((size_t)L * (size_t)D);
            memset(&rows, 0, sizeof rows);
            rows.dense = weight;
            rows.bias = bias;
            OK(haste_labels_get(&layer, NULL, L, weight, NULL, &test_error));
            OK(haste_layer_from_rows(&other, &options, &rows, &kept, &test_error));
            CHECK(kept == 1);
            for (right = 1, i = 0; i < L; i += 1 + L / 30) {
                label_row(&other, i, -1, row);
                for (d = 0; d < D; d++) right &= row[d] == (double)weight[(int64_t)i * D + d];
            }
            CHECK(right);
            haste_layer_free(&other);
            free(weight);
        }
        free(dense); free(bias); free(row); free(energy);
        free_sparse(&sparse);
        haste_layer_free(&layer);
        haste_layer_free(&w.layer);
    }
    CHECK(held == 0);
}

/* By hand: L 3, S 8, D 4, F 2. Column energies 1 + 0 + 4, 0, 9 + 16 + 0, .25: columns 0 and 2 hold 30 of 30.25. */
static void from_rows_by_hand(void)
{
    static const float dense[12] = { 1, 0, 3, .5f,   0, 0, 4, 0,   -2, 0, 0, 0 };
    static const float few[12] = { 0, 1, 0, 0,   0, 0, 0, 0,   0, -2, 0, 0 };
    static const int64_t frequency[3] = { 9, 0, 4 };
    int other = 0;
    haste_layer_options options;
    haste_layer layer;
    haste_rows rows;
    double kept = -7;
    const float *weight;
    memset(&options, 0, sizeof options);
    memset(&rows, 0, sizeof rows);
    options.labels = 3;
    options.inputs = 4;
    options.block_count = 1;
    options.block[0].group_size = 8;
    options.block[0].fan_in = 2;
    options.frequency = frequency;
    options.samples = 9;
    rows.dense = dense;
    OK(haste_layer_from_rows(&layer, &options, &rows, &kept, &test_error));
    CHECK(layer.block[0].index[0] == 0 && layer.block[0].index[1] == 2);
    weight = (const float *)layer.block[0].weight;
    CHECK(weight[0] == 1 && weight[1] == 0 && weight[2] == -2 && weight[3] == 0);
    CHECK(weight[8] == 3 && weight[9] == 4 && weight[10] == 0 && weight[11] == 0);
    CHECK(layer.block[0].bias[0] == prior(HASTE_BCE, 9, 9) && layer.block[0].bias[2] == prior(HASTE_BCE, 4, 9));
    CHECK_NEAR(kept, 30 / 30.25, 1e-15);
    haste_layer_free(&layer);

    options.block[0].fan_in = 3;
    OK(haste_layer_from_rows(&layer, &options, &rows, &kept, &test_error));
    CHECK(kept == 1);
    haste_layer_free(&layer);

    /* Too few columns with energy: the rest is drawn, and distinct. */
    rows.dense = few;
    for (options.seed = 0; options.seed < 20; options.seed++) {
        const uint16_t *index;
        OK(haste_layer_from_rows(&layer, &options, &rows, &kept, &test_error));
        OK(haste_layer_check(&layer, &test_error));
        index = layer.block[0].index;
        CHECK(kept == 1 && (index[0] == 1 || index[1] == 1));
        CHECK(index[0] < index[1] && index[1] < index[2] && index[2] < 4);
        other |= 1 << index[2] | 1 << index[0];   /* which others: not always the same */
        haste_layer_free(&layer);
    }
    CHECK(other == 15);
    rows.dense = NULL;
    OK(haste_layer_from_rows(&layer, &options, &rows, &kept, &test_error));
    CHECK(kept == 1 && ((const float *)layer.block[0].weight)[0] == 0);
    OK(haste_layer_check(&layer, &test_error));
    haste_layer_free(&layer);
    CHECK(held == 0);
}

/* ---- errors ---- */

/* Each is refused, names what was wrong, and changes nothing. */
#define REFUSED(call, status, word)                                                                                    \
    do {                                                                                                               \
        memset(&test_error, 0, sizeof test_error);                                                                     \
        CHECK_STATUS(call, status, test_error);                                                                        \
        CHECK(strstr(test_error.text, word) != NULL);                                                                  \
        CHECK(test_difference(&layer, &copy) == NULL && held == before && kept == -7 && needed == -7);                 \
        CHECK(((unsigned char *)&to)[0] == 0x77 && ((unsigned char *)&to)[sizeof to - 1] == 0x77);                     \
        CHECK(map[0] == 77 && map[199] == 77 && check_guard(weight, 0));                                               \
    } while (0)

static void errors(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = test_layer(&options), copy = test_copy(&layer), to, odd;
    int32_t id[4] = { 3, 0, 199, 3 }, bad[2] = { 3, 200 }, negative[1] = { -1 }, feature[3] = { 5, 5, 9 };
    int32_t map[200], column[8];
    int64_t offset[5], needed = -7, ascending[3] = { 0, 2, 3 }, descending[3] = { 0, 3, 2 }, frequency[2] = { 1, 11 };
    float *weight = check_floats(64), row[128], bias[2] = { 0, 0 }, value[3] = { 1, 1, 1 };
    double kept = -7;
    haste_rows rows, none;
    haste_sparse sparse;
    const haste_layer *parts[2];
    const int32_t *ids[2];
    int32_t all[200], i;
    int before;
    for (i = 0; i < 200; i++) { map[i] = 77; all[i] = i; }
    for (i = 0; i < 128; i++) row[i] = 1;
    memset(&to, 0x77, sizeof to);
    memset(&rows, 0, sizeof rows);
    memset(&none, 0, sizeof none);
    before = held;

    REFUSED(haste_labels_get(NULL, id, 4, weight, NULL, &test_error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_labels_get(&layer, bad, 2, weight, NULL, &test_error), HASTE_ERR_DATA, "id[1] = 200");
    REFUSED(haste_labels_get(&layer, negative, 1, weight, NULL, &test_error), HASTE_ERR_DATA, "id[0] = -1");
    REFUSED(haste_labels_get(&layer, NULL, 201, weight, NULL, &test_error), HASTE_ERR_ARG, "n = 201");
    REFUSED(haste_labels_get(&layer, id, -1, weight, NULL, &test_error), HASTE_ERR_ARG, "n = -1");
    REFUSED(haste_labels_get_sparse(&layer, bad, 2, offset, column, weight, 64, &needed, &test_error),
            HASTE_ERR_DATA, "id[1]");
    REFUSED(haste_labels_get_sparse(&layer, id, 2, NULL, column, weight, 64, &needed, &test_error), HASTE_ERR_ARG,
            "offset");
    REFUSED(haste_labels_get_sparse(&layer, id, 2, offset, column, weight, 64, NULL, &test_error), HASTE_ERR_ARG,
            "needed");
    REFUSED(haste_labels_get_sparse(&layer, id, 2, offset, NULL, weight, 64, &needed, &test_error), HASTE_ERR_ARG,
            "column");
    REFUSED(haste_labels_get_sparse(&layer, id, 2, offset, column, weight, -1, &needed, &test_error), HASTE_ERR_ARG,
            "capacity");

    REFUSED(haste_labels_set(NULL, id, 4, &none, &kept, &test_error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_labels_set(&layer, bad, 2, &none, &kept, &test_error), HASTE_ERR_DATA, "id[1] = 200");
    rows = none;
    rows.dense = row;
    row[127] = NAN;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "dense[1, 63]");
    REFUSED(haste_labels_add(&to, &layer, 0, 2, &rows, 0, &kept, &test_error), HASTE_ERR_DATA, "dense[1, 63]");
    row[127] = 3.4e38f;   /* a float, but no bfloat16 */
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "bfloat16");
    row[127] = 1e30f;
    rows.scale = 1e30f;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "scale");
    rows.scale = INFINITY;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_ARG, "scale");
    rows.scale = 0;
    rows.bias = bias;
    bias[1] = -INFINITY;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "bias[1]");
    rows.bias = NULL;
    rows.frequency = frequency;
    rows.samples = 10;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "frequency[1] = 11");
    rows.samples = -1;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_ARG, "samples");
    sparse.offset = descending;
    sparse.feature = feature;
    sparse.value = value;
    rows = none;
    rows.dense = row;
    rows.sparse = &sparse;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_ARG, "both");
    rows.dense = NULL;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "feature[1] = 5");
    feature[1] = 6;
    feature[2] = 7;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "offset[2] = 2");
    sparse.offset = ascending;
    feature[2] = 64;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "feature[2] = 64");
    feature[2] = 7;
    value[2] = INFINITY;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_DATA, "value[2]");
    value[2] = 1;
    sparse.value = NULL;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_ARG, "value");
    sparse.offset = NULL;
    REFUSED(haste_labels_set(&layer, id, 2, &rows, &kept, &test_error), HASTE_ERR_ARG, "offset");

    REFUSED(haste_labels_add(NULL, &layer, 0, 2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "to is NULL");
    REFUSED(haste_labels_add(&layer, &layer, 0, 2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "to is from");
    REFUSED(haste_labels_add(&to, NULL, 0, 2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_labels_add(&to, &layer, 3, 2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "block = 3");
    REFUSED(haste_labels_add(&to, &layer, -1, 2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "block = -1");
    REFUSED(haste_labels_add(&to, &layer, 0, -2, NULL, 0, &kept, &test_error), HASTE_ERR_ARG, "n = -2");
    REFUSED(haste_labels_add(&to, &layer, 0, 2, NULL, 2, &kept, &test_error), HASTE_ERR_ARG, "strongest = 2");
    REFUSED(haste_labels_add(&to, &layer, 0, INT32_MAX, NULL, 0, &kept, &test_error), HASTE_ERR_SIZE, "2^31");

    REFUSED(haste_labels_remove(NULL, &layer, id, 4, map, &test_error), HASTE_ERR_ARG, "to is NULL");
    REFUSED(haste_labels_remove(&to, &layer, id, 4, NULL, &test_error), HASTE_ERR_ARG, "new_id");
    REFUSED(haste_labels_remove(&to, &layer, bad, 2, map, &test_error), HASTE_ERR_DATA, "id[1] = 200");
    REFUSED(haste_labels_remove(&to, &layer, NULL, 200, map, &test_error), HASTE_ERR_ARG, "all 200");

    REFUSED(haste_layer_copy(NULL, &layer, HASTE_F32, HASTE_F32, HASTE_SGD, &test_error), HASTE_ERR_ARG,
            "to is NULL");
    REFUSED(haste_layer_copy(&to, &layer, (haste_dtype)2, HASTE_F32, HASTE_SGD, &test_error), HASTE_ERR_ARG, "dtype");
    REFUSED(haste_layer_copy(&to, &layer, HASTE_F32, HASTE_F32, (haste_optimizer)3, &test_error), HASTE_ERR_ARG,
            "optimizer");

    REFUSED(haste_layer_slice(NULL, &layer, 0, 8, map, &test_error), HASTE_ERR_ARG, "to is NULL");
    REFUSED(haste_layer_slice(&to, &layer, 0, 0, map, &test_error), HASTE_ERR_ARG, "end_slot = 0");
    REFUSED(haste_layer_slice(&to, &layer, -8, 8, map, &test_error), HASTE_ERR_ARG, "first_slot = -8");
    REFUSED(haste_layer_slice(&to, &layer, 0, layer.slots + 1, map, &test_error), HASTE_ERR_ARG, "end_slot");
    REFUSED(haste_layer_slice(&to, &layer, 4, 8, map, &test_error), HASTE_ERR_ARG, "cut");
    REFUSED(haste_layer_slice(&to, &layer, 0, 25, map, &test_error), HASTE_ERR_ARG, "block[1]");

    parts[0] = &layer;
    parts[1] = &copy;
    ids[0] = ids[1] = all;
    REFUSED(haste_layer_join(&to, NULL, 1, NULL, &test_error), HASTE_ERR_ARG, "from");
    REFUSED(haste_layer_join(&to, parts, 0, NULL, &test_error), HASTE_ERR_ARG, "count");
    REFUSED(haste_layer_join(NULL, parts, 1, NULL, &test_error), HASTE_ERR_ARG, "to");
    REFUSED(haste_layer_join(&to, parts, 2, ids, &test_error), HASTE_ERR_DATA, "id[1]");
    ids[1] = NULL;
    REFUSED(haste_layer_join(&to, parts, 2, ids, &test_error), HASTE_ERR_ARG, "id[1] is NULL");
    all[7] = 200;
    REFUSED(haste_layer_join(&to, parts, 1, ids, &test_error), HASTE_ERR_DATA, "= 200");
    all[7] = 8;
    REFUSED(haste_layer_join(&to, parts, 1, ids, &test_error), HASTE_ERR_DATA, "stood before");
    parts[1] = NULL;
    REFUSED(haste_layer_join(&to, parts, 2, NULL, &test_error), HASTE_ERR_ARG, "layer");

    rows = none;
    REFUSED(haste_layer_from_rows(NULL, &options, &rows, &kept, &test_error), HASTE_ERR_ARG, "to");
    REFUSED(haste_layer_from_rows(&to, NULL, &rows, &kept, &test_error), HASTE_ERR_ARG, "options");
    REFUSED(haste_layer_from_rows(&to, &options, NULL, &kept, &test_error), HASTE_ERR_ARG, "rows");
    rows.scale = NAN;
    REFUSED(haste_layer_from_rows(&to, &options, &rows, &kept, &test_error), HASTE_ERR_ARG, "scale");
    rows.scale = 0;
    options.inputs = -1;
    REFUSED(haste_layer_from_rows(&to, &options, &rows, &kept, &test_error), HASTE_ERR_ARG, "inputs");

    /* A layer that breaks an invariant is not taken apart. */
    odd = layer;
    i = layer.label_of[0];
    layer.label_of[0] = copy.label_of[0] = layer.label_of[1];
    REFUSED(haste_layer_copy(&to, &odd, HASTE_F32, HASTE_F32, HASTE_SGD, &test_error), HASTE_ERR_STATE, "label_of");
    REFUSED(haste_layer_slice(&to, &odd, 0, 8, map, &test_error), HASTE_ERR_STATE, "label_of");
    REFUSED(haste_labels_remove(&to, &odd, id, 4, map, &test_error), HASTE_ERR_STATE, "label_of");
    layer.label_of[0] = copy.label_of[0] = i;
    odd.slots++;
    REFUSED(haste_labels_get(&odd, id, 4, weight, NULL, &test_error), HASTE_ERR_STATE, "slots");
    /* Without a place for the sentence. */
    CHECK(haste_labels_remove(&to, &layer, NULL, 200, map, NULL) == HASTE_ERR_ARG);
    free(weight);
    haste_layer_free(&copy);
    haste_layer_free(&layer);
    CHECK(held == 0);
}

/* ---- memory ---- */

static haste_layer        now;
static haste_layer_options now_options;
static const haste_layer *now_parts[2];
static const float       *now_row;
static int32_t            now_map[200];

static haste_status run_call(int call, haste_layer *to)
{
    const int32_t id[2] = { 5, 9 };
    haste_rows rows;
    memset(&rows, 0, sizeof rows);
    rows.dense = now_row;
    switch (call) {
    case 0:  return haste_layer_copy(to, &now, HASTE_F32, HASTE_F32, HASTE_MOMENTUM, &test_error);
    case 1:  return haste_labels_add(to, &now, 2, 40, &rows, 1, NULL, &test_error);
    case 2:  return haste_labels_remove(to, &now, id, 2, now_map, &test_error);
    case 3:  return haste_layer_slice(to, &now, 0, 8, NULL, &test_error);
    case 4:  return haste_layer_join(to, now_parts, 2, NULL, &test_error);
    default: return haste_layer_from_rows(to, &now_options, &rows, NULL, &test_error);
    }
}

/* Every allocation fails once; nothing leaks or changes. */
static void failing_allocations(void)
{
    int call, n, done;
    now_options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    now = test_layer(&now_options);
    now_parts[0] = now_parts[1] = &now;
    now_row = random_rows(200, now.inputs);
    for (call = 0; call < 6; call++) {
        for (done = 0, n = 1; !done && n < 20; n++) {
            const int before = held;
            haste_layer to;
            haste_status status;
            memset(&to, 0x77, sizeof to);
            memset(now_map, 0x77, sizeof now_map);
            calls = 0;
            fail_at = n;
            status = run_call(call, &to);
            fail_at = 0;
            if (status == HASTE_OK) {
                done = 1;
                CHECK(n > 1 && held == before + 1);   /* scratch is given back */
                haste_layer_free(&to);
            } else {
                CHECK(status == HASTE_ERR_MEMORY && test_error.status == HASTE_ERR_MEMORY);
                CHECK(strlen(test_error.text) > 5);
                CHECK(((unsigned char *)&to)[0] == 0x77 && ((unsigned char *)&to)[sizeof to - 1] == 0x77);
                CHECK(now_map[0] == 0x77777777 && now_map[199] == 0x77777777);
            }
            CHECK(held == before);
        }
        CHECK(done);
    }
    /* What works in place allocates nothing. */
    {
        const int32_t id[2] = { 5, 9 };
        float *weight = check_floats(2 * 64), bias[2];
        haste_rows rows;
        calls = 0;
        memset(&rows, 0, sizeof rows);
        rows.dense = weight;
        rows.bias = bias;
        OK(haste_labels_get(&now, id, 2, weight, bias, &test_error));
        OK(haste_labels_set(&now, id, 2, &rows, NULL, &test_error));
        CHECK(calls == 0 && check_guard(weight, 2 * 64));
        free(weight);
    }
    free((void *)(uintptr_t)now_row);
    haste_layer_free(&now);
    CHECK(held == 0);
}

/* A retired label is as good as gone, and comes back when it is written. */
static void labels_retire(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), copy = test_copy(&layer);
    haste_workspace work = test_workspace(&layer, BATCH, 1, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, BATCH);
    int32_t found[4], again[4];
    float *weight = check_floats(2 * 64), bias[2], gone[2] = { HASTE_RETIRED, HASTE_RETIRED };
    haste_rows rows;
    memset(&rows, 0, sizeof rows);
    OK(haste_top_k(&layer, &work, batch.x, 1, 4, NULL, found, NULL, &test_error));
    OK(haste_labels_get(&layer, found, 2, weight, bias, &test_error));
    rows.bias = gone;
    OK(haste_labels_set(&layer, found, 2, &rows, NULL, &test_error));
    OK(haste_top_k(&layer, &work, batch.x, 1, 4, NULL, again, NULL, &test_error));
    CHECK(again[0] == found[2] && again[1] == found[3]);
    rows.dense = weight;
    rows.bias = bias;
    OK(haste_labels_set(&layer, found, 2, &rows, NULL, &test_error));
    OK(haste_top_k(&layer, &work, batch.x, 1, 4, NULL, again, NULL, &test_error));
    CHECK(memcmp(found, again, sizeof found) == 0);
    CHECK(memcmp(layer.block[1].weight, copy.block[1].weight, (size_t)test_weights(&copy.block[1]) * 4) == 0);
    free(weight);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_layer_free(&copy);
    haste_layer_free(&layer);
    CHECK(held == 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(labels_are_read);
    RUN(labels_are_written);
    RUN(labels_retire);
    RUN(copies);
    RUN(copies_that_do_not_fit);
    RUN(attached);
    RUN(labels_are_added);
    RUN(added_labels_begin);
    RUN(labels_are_removed);
    RUN(slices_join);
    RUN(other_layers_join);
    RUN(alike_layers_join);
    RUN(slice_of_a_file);
    RUN(from_rows);
    RUN(from_rows_by_hand);
    RUN(errors);
    RUN(failing_allocations);
    return check_end();
}
