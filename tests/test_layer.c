/* Layers: what is planned is what is allocated, what a new layer holds, and what haste_layer_check finds.
   Every expectation is worked out here, not read back from the library. */
#include <stddef.h>

static void *counting_malloc(size_t bytes);
static void  counting_free(void *memory);
#define HASTE_MALLOC(bytes) counting_malloc(bytes)
#define HASTE_FREE(memory)  counting_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static int    held, calls;
static size_t last_bytes;
static void *counting_malloc(size_t bytes) { void *p = malloc(bytes); if (p) held++; calls++; last_bytes = bytes; return p; }
static void  counting_free(void *memory)   { if (memory) held--; free(memory); }

static const haste_loss      losses[]     = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
static const haste_optimizer optimizers[] = { HASTE_SGD, HASTE_MOMENTUM, HASTE_ADAMW };

/* One allocation, of the planned bytes and the slack that alignment takes. */
static int allocated(size_t planned) { return calls == 1 && last_bytes >= planned && last_bytes <= planned + 64 + sizeof(void *); }

static void plan_is_what_is_allocated(void)
{
    int i, j, type;
    for (i = 0; i < TEST_SHAPES; i++) for (j = 0; j < 3; j++) for (type = 0; type < 4; type++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, optimizers[j], type & 1 ? HASTE_BF16 : HASTE_F32,
                                                   type & 2 ? HASTE_BF16 : HASTE_F32);
        haste_workspace_options work_options;
        haste_layer layer;
        haste_workspace work;
        haste_gradient gradient;
        haste_plan plan, again;
        size_t weight = 0, index = 0, bias = 0, state = 0, slack;
        int64_t parameters = 0;
        int32_t k;
        memset(&plan, 0, sizeof plan);
        memset(&again, 0, sizeof again);
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = 9 + i;
        work_options.chunks = 3;
        work_options.threads = 2;
        CHECK_STATUS(haste_plan_bytes(&options, &work_options, &plan, &test_error), HASTE_OK, test_error);

        calls = 0;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK(allocated(plan.layer));
        CHECK(layer.bytes == plan.layer);
        CHECK((uintptr_t)layer.block[0].weight % 64 == 0);
        calls = 0;
        CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(allocated(plan.workspace));
        CHECK(work.bytes == plan.workspace);
        CHECK(work.batch == 9 + i && work.chunks == 3 && work.threads == 2 && work.top_k == 16 && work.ids == 64 * work.batch);
        calls = 0;
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        CHECK(allocated(plan.gradient));
        CHECK(gradient.bytes == plan.gradient);

        /* The parts add up, and each holds its arrays and no more than the padding between them. */
        for (k = 0; k < layer.block_count; k++) {
            const haste_block *block = &layer.block[k];
            size_t weights = (size_t)test_weights(block), places = (size_t)test_places(block);
            weight += weights * test_width(layer.dtype);
            bias += places * 4;
            state += (size_t)j * (weights * test_width(layer.state_dtype) + places * 4);
            if (block->index) index += (size_t)(block->groups * block->fan_in) * 2;
            parameters += block->labels * (block->fan_in + 1);
            for (weights = 0; weights < (size_t)test_weights(block); weights++) if (gradient.weight[k][weights] != 0) break;
            CHECK(weights == (size_t)test_weights(block));
            for (places = 0; places < (size_t)test_places(block); places++) if (gradient.bias[k][places] != 0) break;
            CHECK(places == (size_t)test_places(block));
        }
        slack = 64 * (size_t)layer.block_count;
        CHECK(plan.weight >= weight && plan.weight < weight + slack);
        CHECK(plan.index >= index && plan.index <= index + slack);
        CHECK(plan.bias >= bias && plan.bias < bias + slack);
        CHECK(plan.state >= state && plan.state <= state + 4 * slack);
        CHECK(plan.order >= (size_t)(layer.slots + layer.labels) * 4 && plan.order < (size_t)(layer.slots + layer.labels) * 4 + 128);
        CHECK(plan.weight + plan.index + plan.bias + plan.state + plan.order == plan.layer);
        CHECK(plan.parameters == parameters);
        CHECK(parameters <= (int64_t)layer.labels * (layer.inputs + 1));

        /* Without options the workspace takes the defaults. */
        haste_workspace_free(&work);
        CHECK(work.memory == NULL && work.bytes == 0 && work.batch == 0);
        if (layer.inputs < 1000) {
            CHECK_STATUS(haste_plan_bytes(&options, NULL, &again, &test_error), HASTE_OK, test_error);
            CHECK(again.layer == plan.layer && again.gradient == plan.gradient);
            CHECK_STATUS(haste_workspace_create(&work, &layer, NULL, &test_error), HASTE_OK, test_error);
            CHECK(work.bytes == again.workspace);
            CHECK(work.batch == 128 && work.ids == 8192 && work.top_k == 16 && work.chunks == 16 && work.threads >= 1);
            CHECK(work.path == haste_path_best() && work.path != HASTE_PATH_AUTO);
            haste_workspace_free(&work);
        }
        haste_gradient_free(&gradient);
        CHECK(gradient.memory == NULL && gradient.weight[0] == NULL);
        haste_layer_free(&layer);
        CHECK(layer.memory == NULL && layer.block[0].weight == NULL && layer.labels == 0);
        CHECK(held == 0);
    }
    haste_layer_free(NULL);
    haste_workspace_free(NULL);
    haste_gradient_free(NULL);
}

static void a_new_layer(void)
{
    int i, j, type, loss;
    for (i = 0; i < TEST_SHAPES; i++) for (j = 0; j < 3; j++) for (type = 0; type < 2; type++) for (loss = 0; loss < 3; loss++) {
        const test_shape *shape = &test_shapes[i];
        haste_layer_options options = test_options(shape, losses[loss], optimizers[j], type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer;
        int64_t frequency[4096], slots = 0, placed = 0, g, f, s;
        int32_t k, label, bad = 0;
        for (label = 0; label < shape->labels; label++) frequency[label] = label * 7 % 1000;
        frequency[0] = 1000;   /* N itself */
        options.frequency = frequency;
        options.samples = 1000;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        CHECK(layer.labels == shape->labels && layer.inputs == shape->inputs);
        CHECK(layer.loss == losses[loss] && layer.optimizer == optimizers[j] && layer.seed == 7);
        CHECK(layer.step == 0 && layer.rewires == 0);
        CHECK(layer.block_count == (shape->blocks ? shape->blocks : 1));
        for (k = 0; k < layer.block_count; k++) {
            const haste_block *block = &layer.block[k];
            const haste_block_options *wanted = &shape->block[k];
            int64_t S = block->group_size, F = block->fan_in, width = block->end - block->begin;
            double bound = 1 / sqrt((double)F);
            int64_t left = shape->labels - placed;
            CHECK(S == (wanted->group_size ? wanted->group_size : 32));
            CHECK(block->begin == wanted->begin && block->end == (wanted->end ? wanted->end : shape->inputs));
            CHECK(F == (wanted->fan_in == HASTE_DENSE ? width : wanted->fan_in ? wanted->fan_in : width < 64 ? width : 64));
            CHECK(block->labels == (k == layer.block_count - 1 ? left : wanted->labels));
            CHECK(block->groups == (block->labels + S - 1) / S);
            CHECK(block->first_slot == slots);
            CHECK((block->index == NULL) == (block->fan_in == block->end - block->begin));
            for (g = 0; g < block->groups; g++) {
                for (f = 0; f < F; f++) {
                    if (block->index && block->index[g * F + f] >= width) bad++;
                    if (block->index && f > 0 && block->index[g * F + f] <= block->index[g * F + f - 1]) bad++;
                    for (s = 0; s < S; s++) {
                        double w = (double)test_get(layer.dtype, block->weight, (size_t)((g * F + f) * S + s));
                        if (g * S + s >= block->labels ? w != 0 : !(fabs(w) <= bound * (type ? 1.004 : 1.0000002))) bad++;
                        if (block->weight_state[0] && test_get(HASTE_F32, block->weight_state[0], (size_t)((g * F + f) * S + s)) != 0) bad++;
                        if (block->weight_state[1] && test_get(HASTE_F32, block->weight_state[1], (size_t)((g * F + f) * S + s)) != 0) bad++;
                    }
                }
                for (s = 0; s < S; s++) {
                    int64_t place = g * S + s;
                    label = layer.label_of[slots + place];
                    if (place >= block->labels) {
                        if (label != -1 || block->bias[place] != 0) bad++;
                    } else {
                        int32_t expected = shape->permuted ? test_order[placed + place] : (int32_t)(placed + place);
                        double p = ((double)frequency[expected] + .5) / 1001, prior;
                        prior = loss == 0 ? log(p / (1 - p)) : loss == 1 ? 2 * p - 1 : log(p);
                        if (label != expected || layer.slot_of[expected] != slots + place) bad++;
                        if (!(fabs((double)block->bias[place] - prior) <= 1e-6 * (1 + fabs(prior)))) bad++;
                    }
                    if (block->bias_state[0] && block->bias_state[0][place] != 0) bad++;
                    if (block->bias_state[1] && block->bias_state[1][place] != 0) bad++;
                }
            }
            CHECK((block->weight_state[0] != NULL) == (j >= 1) && (block->bias_state[0] != NULL) == (j >= 1));
            CHECK((block->weight_state[1] != NULL) == (j >= 2) && (block->bias_state[1] != NULL) == (j >= 2));
            placed += block->labels;
            slots += block->groups * S;
        }
        CHECK(bad == 0);
        CHECK(layer.slots == slots);
        haste_layer_free(&layer);
    }
}

/* The three priors of n = 3 positives among N = 99 samples, p = 3.5 / 100, by hand. No frequencies: 0. */
static void bias_by_hand(void)
{
    static const double prior[] = { -3.316780060, -0.93, -3.352407217 };   /* log(.035/.965), 2*.035 - 1, log .035 */
    int64_t frequency[] = { 3, 3 };
    int loss;
    for (loss = 0; loss < 3; loss++) {
        haste_layer_options options = test_options(&test_shapes[0], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer;
        options.labels = 2;
        options.frequency = frequency;
        options.samples = 99;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK_NEAR((double)layer.block[0].bias[1], prior[loss], 3e-7);
        haste_layer_free(&layer);
        options.frequency = NULL;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK(layer.block[0].bias[0] == 0 && layer.block[0].bias[1] == 0);
        haste_layer_free(&layer);
    }
}

/* block_count 0 means one block of defaults, whatever stands in block[]. */
static void defaults(void)
{
    haste_layer_options options;
    haste_layer layer;
    memset(&options, 0, sizeof options);
    options.labels = 100;
    options.inputs = 200;
    options.block[0].fan_in = 5;
    options.block[0].group_size = 8;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    CHECK(layer.block_count == 1 && layer.block[0].fan_in == 64 && layer.block[0].group_size == 32 && layer.block[0].end == 200);
    CHECK(layer.block[0].labels == 100 && layer.slots == 128 && layer.optimizer == HASTE_SGD && layer.dtype == HASTE_F32);
    haste_layer_free(&layer);
    options.block_count = 1;
    options.block[0].fan_in = 0;
    options.block[0].begin = 3;
    options.block[0].end = 13;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    CHECK(layer.block[0].fan_in == 10 && layer.block[0].index == NULL && layer.block[0].group_size == 8);
    haste_layer_free(&layer);
}

/* At least 64 tasks for 670,000 labels, so that 64 threads have work; 16 for few. */
static void default_chunks(void)
{
    static const struct { int32_t labels, chunks; } cases[] = { { 1, 16 }, { 131072, 16 }, { 300000, 36 }, { 670091, 64 }, { 5000000, 64 } };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        haste_layer_options options;
        haste_workspace_options work_options;
        haste_workspace work;
        haste_layer layer;
        memset(&options, 0, sizeof options);
        memset(&work_options, 0, sizeof work_options);
        options.labels = cases[i].labels;
        options.inputs = 8;
        options.zero_weights = 1;
        work_options.batch = 1;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        CHECK(work.chunks == cases[i].chunks);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* A negative second moment of Adam would give the root of a negative number. */
static void second_moments(void)
{
    int bf16;
    for (bf16 = 0; bf16 < 2; bf16++) {
        haste_layer_options options = test_options(&test_shapes[3], HASTE_BCE, HASTE_ADAMW, HASTE_F32, bf16 ? HASTE_BF16 : HASTE_F32);
        haste_layer layer = test_layer(&options);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        if (bf16) ((uint16_t *)layer.block[0].weight_state[1])[0] = 0xb000;   /* -4.7e-10 */
        else ((float *)layer.block[0].weight_state[1])[0] = -1e-9f;
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_ERR_STATE, test_error);
        CHECK(strstr(test_error.text, "state") != NULL);
        if (bf16) ((uint16_t *)layer.block[0].weight_state[1])[0] = 0;
        else ((float *)layer.block[0].weight_state[1])[0] = 0;
        layer.block[0].bias_state[1][0] = -1;
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_ERR_STATE, test_error);
        layer.block[0].bias_state[1][0] = 0;
        layer.block[0].bias_state[0][0] = -1;   /* the first moment has both signs, and is at most 1e18 */
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        layer.block[0].bias_state[0][0] = -2e18f;
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_ERR_STATE, test_error);
        haste_layer_free(&layer);
    }
}

static void zero_weights(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    haste_layer layer;
    int32_t k;
    int64_t i, other = 0;
    options.zero_weights = 1;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    for (k = 0; k < layer.block_count; k++)
        for (i = 0; i < test_weights(&layer.block[k]); i++) other += ((const float *)layer.block[k].weight)[i] != 0;
    CHECK(other == 0);
    CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
    haste_layer_free(&layer);
}

static void seeds(void)
{
    int i;
    for (i = 0; i < TEST_SHAPES; i++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_BF16);
        haste_layer a, b, c;
        haste_plan plan;
        char *memory, *aligned;
        CHECK_STATUS(haste_layer_create(&a, &options, &test_error), HASTE_OK, test_error);
        /* The same in the caller's memory, full of rubbish before. */
        CHECK_STATUS(haste_plan_bytes(&options, NULL, &plan, &test_error), HASTE_OK, test_error);
        memory = (char *)test_alloc(plan.layer + 128);
        memset(memory, 0xff, plan.layer + 128);
        aligned = memory + (64 - (uintptr_t)memory % 64) % 64;
        CHECK_STATUS(haste_layer_init(&b, &options, aligned, plan.layer, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&a, &b) == NULL);
        CHECK(b.memory == NULL);
        CHECK((unsigned char)aligned[plan.layer] == 0xff && (unsigned char)aligned[plan.layer + 63 - (size_t)(aligned - memory) % 64] == 0xff);
        options.seed = 8;
        CHECK_STATUS(haste_layer_create(&c, &options, &test_error), HASTE_OK, test_error);
        CHECK(memcmp(a.block[0].weight, c.block[0].weight, (size_t)test_weights(&a.block[0]) * 4) != 0);
        if (a.block[0].index && a.block[0].fan_in < a.block[0].end - a.block[0].begin)
            CHECK(memcmp(a.block[0].index, c.block[0].index, (size_t)(a.block[0].groups * a.block[0].fan_in) * 2) != 0);
        haste_layer_free(&b);
        free(memory);
        haste_layer_free(&a);
        haste_layer_free(&c);
    }
}

/* 4,096 groups draw 8 of 64 inputs: each input, and each pair of inputs, as often as chance has it. */
static void indices_are_uniform(void)
{
    enum { G = 4096, D = 64, F = 8 };
    static int64_t one[D], two[D][D];
    haste_layer_options options;
    haste_layer layer;
    int64_t g, i, j, same = 0;
    double p1 = (double)F / D, p2 = (double)F * (F - 1) / (D * (D - 1)), chi = 0;
    memset(&options, 0, sizeof options);
    options.labels = G * 8;
    options.inputs = D;
    options.block_count = 1;
    options.block[0].group_size = 8;
    options.block[0].fan_in = F;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    for (g = 0; g < G; g++) {
        const uint16_t *index = layer.block[0].index + g * F;
        for (i = 0; i < F; i++) for (one[index[i]]++, j = 0; j < i; j++) two[index[j]][index[i]]++;
        if (g > 0) same += memcmp(index, index - F, F * 2) == 0;
    }
    for (i = 0; i < D; i++) {
        CHECK_NEAR((double)one[i], G * p1, 5 * sqrt(G * p1 * (1 - p1)));
        for (j = i + 1; j < D; j++) {
            CHECK_NEAR((double)two[i][j], G * p2, 6 * sqrt(G * p2 * (1 - p2)));
            chi += ((double)two[i][j] - G * p2) * ((double)two[i][j] - G * p2) / (G * p2 * (1 - p2));
        }
    }
    CHECK_NEAR(chi / (D * (D - 1) / 2), 1, .2);   /* 2,016 pairs: deviation .03 */
    CHECK(same == 0);
    haste_layer_free(&layer);
}

static void weights_are_uniform(void)
{
    enum { L = 2048, F = 16 };
    haste_layer_options options;
    haste_layer layer;
    double sum = 0, square = 0, neighbour = 0, row = 0, smallest = 1, largest = -1;
    int64_t n = (int64_t)L * F, i;
    const float *w;
    memset(&options, 0, sizeof options);
    options.labels = L;
    options.inputs = 100;
    options.block_count = 1;
    options.block[0].fan_in = F;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    w = (const float *)layer.block[0].weight;
    for (i = 0; i < n; i++) {
        double u = (double)w[i] * 4;   /* uniform in +-1 */
        sum += u;
        square += u * u;
        if (i + 1 < n) neighbour += u * (double)w[i + 1] * 4;
        if (i + 32 < n) row += u * (double)w[i + 32] * 4;
        if (u < smallest) smallest = u;
        if (u > largest) largest = u;
    }
    CHECK_NEAR(sum / (double)n, 0, 5 * sqrt(1. / 3 / (double)n));
    CHECK_NEAR(square / (double)n, 1. / 3, 5 * sqrt(4. / 45 / (double)n));
    CHECK_NEAR(neighbour / (double)n, 0, 5 / 3. / sqrt((double)n));
    CHECK_NEAR(row / (double)n, 0, 5 / 3. / sqrt((double)n));
    CHECK(smallest >= -1 && smallest < -.999 && largest <= 1 && largest > .999);
    haste_layer_free(&layer);
}

/* ---- haste_layer_check ---- */

/* Breaks one thing, expects to be told, and mends it. */
#define BREAK(field, wrong)                                                                                            \
    do {                                                                                                               \
        char keep[sizeof(field)];                                                                                      \
        memcpy(keep, &(field), sizeof(field));                                                                         \
        (field) = (wrong);                                                                                             \
        test_error.text[0] = 0;                                                                                        \
        if (!CHECK(haste_layer_check(&layer, &test_error) == HASTE_ERR_STATE)) printf("    not found: %s = %s\n", #field, #wrong); \
        CHECK(test_error.status == HASTE_ERR_STATE && strlen(test_error.text) > 10);                                   \
        CHECK(haste_layer_check(&layer, NULL) == HASTE_ERR_STATE);                                                     \
        memcpy(&(field), keep, sizeof(field));                                                                         \
    } while (0)
#define BREAK_AT(dtype, array, i, wrong)                                                                               \
    do {                                                                                                               \
        if ((dtype) == HASTE_F32) BREAK(((float *)(array))[i], wrong);                                                 \
        else BREAK(((uint16_t *)(array))[i], (uint16_t)((wrong) != (wrong) ? 0x7fc1 : (wrong) > 1e38f ? 0x7f80 : 0x3f80)); \
    } while (0)

static void check_finds(void)
{
    int type;
    for (type = 0; type < 2; type++) {
        haste_dtype dtype = type ? HASTE_BF16 : HASTE_F32;
        haste_layer_options options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_ADAMW, dtype, dtype);
        haste_layer layer = test_layer(&options);
        float infinite = HUGE_VALF, nan = HUGE_VALF - HUGE_VALF;
        int32_t k, i;
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        CHECK(haste_layer_check(NULL, &test_error) == HASTE_ERR_ARG);

        BREAK(layer.labels, 0);
        BREAK(layer.labels, -5);
        BREAK(layer.labels, layer.labels + 1);
        BREAK(layer.labels, layer.labels - 1);
        BREAK(layer.inputs, 0);
        BREAK(layer.inputs, 65537);
        BREAK(layer.inputs, layer.inputs - 1);
        BREAK(layer.slots, layer.slots + 8);
        BREAK(layer.slots, -1);
        BREAK(layer.slots, 0);
        BREAK(layer.dtype, (haste_dtype)2);
        BREAK(layer.state_dtype, (haste_dtype)2);
        BREAK(layer.loss, (haste_loss)3);
        BREAK(layer.optimizer, (haste_optimizer)3);
        BREAK(layer.block_count, 0);
        BREAK(layer.block_count, -1);
        BREAK(layer.block_count, 9);
        BREAK(layer.block_count, layer.block_count - 1);
        BREAK(layer.block_count, layer.block_count + 1);
        BREAK(layer.step, -1);
        BREAK(layer.rewires, -1);
        BREAK(layer.label_of, NULL);
        BREAK(layer.slot_of, NULL);
        for (k = 0; k < layer.block_count; k++) {
            haste_block *block = &layer.block[k];
            int64_t S = block->group_size, F = block->fan_in, padding = test_weights(block) - 1;
            BREAK(block->groups, 0);
            BREAK(block->groups, block->groups + 1);
            BREAK(block->groups, block->groups - 1);
            BREAK(block->labels, 0);
            BREAK(block->labels, -1);
            BREAK(block->labels, block->labels + 1);
            BREAK(block->labels, block->labels - 1);
            BREAK(block->labels, INT64_MAX);
            BREAK(block->first_slot, block->first_slot + 1);
            BREAK(block->first_slot, -8);
            BREAK(block->group_size, 0);
            BREAK(block->group_size, -8);
            BREAK(block->group_size, 12);
            BREAK(block->group_size, 264);
            BREAK(block->fan_in, 0);
            BREAK(block->fan_in, HASTE_DENSE);
            BREAK(block->fan_in, block->end - block->begin + 1);
            BREAK(block->begin, -1);
            BREAK(block->begin, block->end);
            BREAK(block->end, layer.inputs + 1);
            BREAK(block->end, block->begin);
            BREAK(block->weight, NULL);
            BREAK(block->bias, NULL);
            for (i = 0; i < 2; i++) {
                BREAK(block->weight_state[i], NULL);
                BREAK(block->bias_state[i], NULL);
                BREAK_AT(dtype, block->weight_state[i], 0, nan);
                BREAK_AT(dtype, block->weight_state[i], 1, infinite);
                BREAK(block->bias_state[i][0], nan);
                BREAK(block->bias_state[i][block->labels - 1], infinite);
            }
            if (block->index) {
                int64_t last = block->groups * F - 1;
                BREAK(block->index, NULL);
                BREAK(block->index[last], (uint16_t)(block->end - block->begin));
                BREAK(block->index[last], 65535);
                BREAK(block->index[1], block->index[0]);                       /* twice */
                BREAK(block->index[0], (uint16_t)(block->index[1] + 1));       /* out of order */
            }
            BREAK_AT(dtype, block->weight, 0, nan);
            BREAK_AT(dtype, block->weight, (block->groups - 1) * F * S, infinite);
            BREAK(block->bias[0], nan);
            BREAK(block->bias[block->labels - 1], -infinite);
            if (block->labels < block->groups * S) {
                BREAK_AT(dtype, block->weight, padding, 1.0f);
                BREAK(block->bias[block->groups * S - 1], 1.0f);
                BREAK(block->bias[block->groups * S - 1], nan);
                BREAK(layer.label_of[block->first_slot + block->groups * S - 1], 0);
                BREAK(layer.label_of[block->first_slot + block->groups * S - 1], -2);
            }
            BREAK(layer.label_of[block->first_slot], -1);
            BREAK(layer.label_of[block->first_slot], layer.labels);
            BREAK(layer.label_of[block->first_slot], INT32_MIN);
            BREAK(layer.label_of[block->first_slot], INT32_MAX);
            if (block->labels > 1) BREAK(layer.label_of[block->first_slot], layer.label_of[block->first_slot + 1]);
        }
        BREAK(layer.slot_of[0], layer.slot_of[1]);
        BREAK(layer.slot_of[0], -1);
        BREAK(layer.slot_of[layer.labels - 1], INT32_MAX);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        haste_layer_free(&layer);
    }
}

/* ---- a layer filled in by hand, arrays aligned to their elements and no more ---- */

static void by_hand(void)
{
    enum { S = 8, F = 2, D = 3, L = 10, G = 2, B = 5 };
    static uint16_t index_memory[G * F + 1];
    static float weight_memory[G * F * S + 1], bias_memory[G * S + 1], state_memory[G * F * S + 1], bias_state_memory[G * S + 1];
    static int32_t label_of[G * S], slot_of[L];
    float x_memory[B * D + 1], grad_memory[B * D + 1], *x = x_memory + 1, *grad_x = grad_memory + 1;
    int64_t offset[B + 1] = { 0, 1, 1, 3, 4, 4 };
    int32_t id[4] = { 9, 0, 3, 5 };
    haste_lists positives;
    haste_step_options options;
    int i, path;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_layer layer;
        haste_block *block = &layer.block[0];
        haste_workspace work;
        double loss = -1, first;
        if (test_path_missing(test_paths[path])) continue;
        memset(&layer, 0, sizeof layer);
        layer.labels = L;
        layer.inputs = D;
        layer.slots = G * S;
        layer.block_count = 1;
        layer.optimizer = HASTE_MOMENTUM;
        layer.label_of = label_of;
        layer.slot_of = slot_of;
        block->groups = G;
        block->labels = L;
        block->group_size = S;
        block->fan_in = F;
        block->end = D;
        block->index = index_memory + 1;
        block->weight = weight_memory + 1;
        block->bias = bias_memory + 1;
        block->weight_state[0] = state_memory + 1;
        block->bias_state[0] = bias_state_memory + 1;
        memset(weight_memory, 0, sizeof weight_memory);
        memset(bias_memory, 0, sizeof bias_memory);
        memset(state_memory, 0, sizeof state_memory);
        memset(bias_state_memory, 0, sizeof bias_state_memory);
        block->index[0] = 0; block->index[1] = 2; block->index[2] = 1; block->index[3] = 2;
        for (i = 0; i < G * S; i++) label_of[i] = i < L ? L - 1 - i : -1;
        for (i = 0; i < L; i++) slot_of[i] = L - 1 - i;
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        memset(&options, 0, sizeof options);
        options.lr = .5f;
        positives.offset = offset;
        positives.id = id;
        for (i = 0; i < B * D; i++) { x[i] = check_normal(); grad_x[i] = 0; }
        work = test_workspace(&layer, B, 2, test_paths[path]);
        CHECK_STATUS(haste_train_step(&layer, &work, x, B, &positives, &options, &first, grad_x, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(first, L * log(2.), 1e-5);   /* all logits are 0 */
        for (i = 0; i < 20; i++)
            CHECK_STATUS(haste_train_step(&layer, &work, x, B, &positives, &options, &loss, grad_x, &test_error), HASTE_OK, test_error);
        CHECK(loss < first);
        CHECK(layer.step == 21);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        haste_layer_free(&layer);   /* owns nothing: frees nothing */
        haste_workspace_free(&work);
    }
    CHECK(held == 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(plan_is_what_is_allocated);
    RUN(a_new_layer);
    RUN(bias_by_hand);
    RUN(defaults);
    RUN(default_chunks);
    RUN(second_moments);
    RUN(zero_weights);
    RUN(seeds);
    RUN(indices_are_uniform);
    RUN(weights_are_uniform);
    RUN(check_finds);
    RUN(by_hand);
    return check_end();
}
