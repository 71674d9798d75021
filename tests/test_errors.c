/* Misuse: every refused call leaves the layer, the workspace's struct and all outputs as they were, and says which argument
   was wrong. Failing allocations: every allocation fails once, nothing leaks. */
#include <stddef.h>
#include <stdint.h>

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
    void *memory;
    calls++;
    if (calls == fail_at || bytes >> 16 > (size_t)1 << 17) return NULL;   /* sizes that no test machine should try to have */
    memory = malloc(bytes);
    if (memory) { memset(memory, 0xff, bytes); held++; }
    return memory;
}
static void counting_free(void *memory) { if (memory) held--; free(memory); }

/* ---- a world whose every byte is watched ---- */

enum { B = 5, L = 70, D = 30, K = 4, SLOTS = 80, CAPACITY = 400 };

typedef struct {
    float    x[B * D], logits[B * SLOTS], grad_logits[B * SLOTS], grad_x[B * D], score[CAPACITY];
    int64_t  offset[B + 1], above_offset[B + 1], needed;
    int32_t  id[64], top_id[B * K], above_id[CAPACITY];
    double   loss;
    haste_layer    layer;
    haste_workspace work;
    haste_gradient gradient;
    haste_plan     plan;
    haste_step_options step;
    haste_lists    lists;
} world;

static world now, then;
static haste_layer layer_then;
static unsigned char *gradient_then;

static void remember(void)
{
    memcpy(&then, &now, sizeof now);   /* padding too */
    haste_layer_free(&layer_then);
    layer_then = test_copy(&now.layer);
    memcpy(gradient_then, now.gradient.memory, now.gradient.bytes);
}

/* Compares everything but what copying has moved. */
static int unchanged(void)
{
    return memcmp(&now, &then, sizeof now) == 0 && test_difference(&now.layer, &layer_then) == NULL &&
           memcmp(gradient_then, now.gradient.memory, now.gradient.bytes) == 0;
}

static void make_world(void)
{
    static const test_shape shape = { "world", L, D, 2, { { 20, 8, HASTE_DENSE, 0, 12 }, { 0, 8, 7, 4, 30 } }, 1 };
    haste_layer_options options = test_options(&shape, HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    haste_workspace_options work_options;
    int i;
    memset(&now, 0, sizeof now);
    now.layer = test_layer(&options);
    memset(&work_options, 0, sizeof work_options);
    work_options.batch = B;
    work_options.ids = 20;
    work_options.top_k = K;
    work_options.chunks = 3;
    work_options.threads = 2;
    CHECK(now.layer.slots == SLOTS);
    CHECK_STATUS(haste_workspace_create(&now.work, &now.layer, &work_options, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_gradient_create(&now.gradient, &now.layer, &test_error), HASTE_OK, test_error);
    gradient_then = (unsigned char *)test_alloc(now.gradient.bytes);
    for (i = 0; i < B * D; i++) now.x[i] = check_normal();
    for (i = 0; i < B * SLOTS; i++) now.grad_logits[i] = check_normal();
    memset(now.logits, 0xff, sizeof now.logits);
    memset(now.score, 0xff, sizeof now.score);
    memset(now.top_id, 0xff, sizeof now.top_id);
    memset(now.above_id, 0xff, sizeof now.above_id);
    memset(now.above_offset, 0xff, sizeof now.above_offset);
    for (i = 0; i < B * D; i++) now.grad_x[i] = (float)i;
    now.needed = -5;
    now.loss = -7;
    for (i = 0; i <= B; i++) now.offset[i] = 2 + 3 * i;
    for (i = 0; i < 64; i++) now.id[i] = i;
    now.lists.offset = now.offset;
    now.lists.id = now.id;
    now.step.lr = .1f;
    memset(&layer_then, 0, sizeof layer_then);
    remember();
}

static void free_world(void)
{
    haste_workspace_free(&now.work);
    haste_gradient_free(&now.gradient);
    haste_layer_free(&now.layer);
    haste_layer_free(&layer_then);
    free(gradient_then);
}

/* Is `word` in the text, on its own? */
static int names(const char *text, const char *word)
{
    const char *p = text;
    size_t n = strlen(word);
    while ((p = strstr(p, word)) != NULL) {
        int before = p > text && ((p[-1] >= 'a' && p[-1] <= 'z') || p[-1] == '_');
        int after = (p[n] >= 'a' && p[n] <= 'z') || p[n] == '_';
        if (!before && !after) return 1;
        p++;
    }
    return 0;
}

static haste_error error_memory, *error;

/* The call (which passes `error`) must give the status, with a text that names the word, and change nothing; and the same
   without an error to write to. */
#define REFUSED_EITHER(call, wanted, or_wanted, word)                                                                  \
    do {                                                                                                               \
        haste_status first_status, second_status;                                                                      \
        error = prepare();                                                                                             \
        first_status = (call);                                                                                         \
        error = NULL;                                                                                                  \
        second_status = (call);                                                                                        \
        refused(first_status, second_status, wanted, or_wanted, word, #call, __LINE__);                                \
    } while (0)
#define REFUSED(call, wanted, word) REFUSED_EITHER(call, wanted, wanted, word)

static haste_error *prepare(void)
{
    memset(&error_memory, 0, sizeof error_memory);
    return &error_memory;
}

static void refused(haste_status first, haste_status again, haste_status wanted, haste_status or_wanted, const char *word, const char *call,
                    int line)
{
    if (!CHECK(first == wanted || first == or_wanted)) printf("    line %d: gave %d: %s\n    %s\n", line, (int)first, error_memory.text, call);
    if (!CHECK(again == first)) printf("    line %d: without an error it gave %d\n", line, (int)again);
    if (first == HASTE_OK) return;
    if (!CHECK(error_memory.status == first && strlen(error_memory.text) > 5)) printf("    line %d: status %d, text \"%s\"\n", line,
                                                                                     (int)error_memory.status, error_memory.text);
    if (!CHECK(names(error_memory.text, word))) printf("    line %d: \"%s\" does not name %s\n", line, error_memory.text, word);
    if (!CHECK(unchanged())) printf("    line %d: something changed: %s\n", line, call);
}

/* Sets a field for the time of some statements. */
#define WITH(type, field, value, ...) do { type keep_field = (field); (field) = (value); remember(); __VA_ARGS__; (field) = keep_field; remember(); } while (0)

/* ---- options of layers and workspaces ---- */

static void layer_options(void)
{
    haste_layer_options good, o;
    haste_workspace_options none;
    int64_t frequency[10] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    int32_t order[10] = { 9, 8, 7, 6, 5, 4, 3, 2, 1, 0 }, i;
    char *memory = (char *)test_alloc(100000), *aligned = memory + (64 - (uintptr_t)memory % 64) % 64;
    haste_plan plan;
    make_world();
    memset(&none, 0, sizeof none);
    memset(&good, 0, sizeof good);
    good.labels = 10;
    good.inputs = 20;
    good.block_count = 2;
    good.block[0].labels = 4;
    good.block[0].group_size = good.block[1].group_size = 8;
    good.block[0].fan_in = 5;
    good.block[1].fan_in = HASTE_DENSE;
    good.block[1].begin = 3;
    good.block[1].end = 20;
    good.frequency = frequency;
    good.order = order;
    good.samples = 9;
    good.optimizer = HASTE_MOMENTUM;
    CHECK_STATUS(haste_plan_bytes(&good, &none, &plan, &test_error), HASTE_OK, test_error);

    /* Each function refuses the same options. now.layer stays what it is. */
    #define BAD(field, value, wanted, word)                                                                            \
        do {                                                                                                           \
            o = good; o.field = (value);                                                                               \
            REFUSED(haste_layer_create(&now.layer, &o, error), wanted, word);                                          \
            REFUSED(haste_layer_init(&now.layer, &o, aligned, 90000, error), wanted, word);                            \
            REFUSED(haste_plan_bytes(&o, NULL, &now.plan, error), wanted, word);                                       \
        } while (0)
    BAD(labels, 0, HASTE_ERR_ARG, "labels");
    BAD(labels, -3, HASTE_ERR_ARG, "labels");
    BAD(labels, INT32_MIN, HASTE_ERR_ARG, "labels");
    BAD(labels, 4, HASTE_ERR_ARG, "labels");       /* the first block takes them all */
    BAD(inputs, 0, HASTE_ERR_ARG, "inputs");
    BAD(inputs, -1, HASTE_ERR_ARG, "inputs");
    BAD(inputs, 65537, HASTE_ERR_ARG, "inputs");
    BAD(inputs, 19, HASTE_ERR_ARG, "inputs");      /* block 1 ends at 20 */
    BAD(block_count, -1, HASTE_ERR_ARG, "block_count");
    BAD(block_count, 9, HASTE_ERR_ARG, "block_count");
    BAD(block_count, INT32_MAX, HASTE_ERR_ARG, "block_count");
    BAD(block_count, 1, HASTE_ERR_ARG, "labels");  /* 4 of 10 */
    BAD(block[0].labels, 0, HASTE_ERR_ARG, "labels");
    BAD(block[0].labels, -4, HASTE_ERR_ARG, "labels");
    BAD(block[0].labels, 10, HASTE_ERR_ARG, "labels");
    BAD(block[0].labels, 11, HASTE_ERR_ARG, "labels");
    BAD(block[0].labels, INT64_MAX, HASTE_ERR_ARG, "labels");
    BAD(block[1].labels, 5, HASTE_ERR_ARG, "labels");
    BAD(block[1].labels, 7, HASTE_ERR_ARG, "labels");
    BAD(block[1].labels, INT64_MIN, HASTE_ERR_ARG, "labels");
    for (i = -8; i < 300; i++) if (i != 0 && (i < 8 || i % 8 != 0 || i > 256)) BAD(block[0].group_size, i, HASTE_ERR_ARG, "group_size");
    BAD(block[0].group_size, INT32_MAX - 7, HASTE_ERR_ARG, "group_size");
    BAD(block[0].fan_in, 21, HASTE_ERR_ARG, "fan_in");
    BAD(block[0].fan_in, -2, HASTE_ERR_ARG, "fan_in");
    BAD(block[0].fan_in, INT32_MAX, HASTE_ERR_ARG, "fan_in");
    BAD(block[1].fan_in, 18, HASTE_ERR_ARG, "fan_in");
    BAD(block[1].begin, -1, HASTE_ERR_ARG, "begin");
    BAD(block[1].begin, 20, HASTE_ERR_ARG, "begin");
    BAD(block[1].begin, 25, HASTE_ERR_ARG, "begin");
    BAD(block[1].begin, INT32_MIN, HASTE_ERR_ARG, "begin");
    BAD(block[1].end, 21, HASTE_ERR_ARG, "end");
    BAD(block[1].end, 3, HASTE_ERR_ARG, "end");
    BAD(block[1].end, 0, HASTE_ERR_ARG, "end");
    BAD(block[1].end, -5, HASTE_ERR_ARG, "end");
    BAD(loss, (haste_loss)3, HASTE_ERR_ARG, "loss");
    BAD(optimizer, (haste_optimizer)3, HASTE_ERR_ARG, "optimizer");
    BAD(dtype, (haste_dtype)2, HASTE_ERR_ARG, "dtype");
    BAD(state_dtype, (haste_dtype)2, HASTE_ERR_ARG, "state_dtype");
    BAD(samples, -1, HASTE_ERR_ARG, "samples");
    #undef BAD

    /* What planning does not look at. */
    #define BAD(array, at, value, word)                                                                                \
        do {                                                                                                           \
            array[at] = (value);                                                                                       \
            REFUSED(haste_layer_create(&now.layer, &good, error), HASTE_ERR_DATA, word);                               \
            memset(aligned, 0x55, 90000);                                                                              \
            REFUSED(haste_layer_init(&now.layer, &good, aligned, 90000, error), HASTE_ERR_DATA, word);                 \
            for (i = 0; i < 90000 && aligned[i] == 0x55; i++) { }                                                      \
            CHECK(i == 90000 || array == (void *)order);   /* a permutation is checked by laying it out */             \
            CHECK_STATUS(haste_plan_bytes(&good, NULL, &plan, &test_error), HASTE_OK, test_error);                     \
        } while (0)
    BAD(frequency, 3, -1, "frequency");
    BAD(frequency, 3, 10, "frequency");     /* above samples */
    frequency[3] = 3;
    BAD(frequency, 9, INT64_MAX, "frequency");
    frequency[9] = 9;
    BAD(order, 0, 10, "order");
    BAD(order, 0, -1, "order");
    BAD(order, 0, 5, "order");              /* twice */
    BAD(order, 0, INT32_MIN, "order");
    order[0] = 9;
    BAD(order, 9, 1, "order");
    order[9] = 0;
    #undef BAD

    REFUSED(haste_layer_create(NULL, &good, error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_layer_create(&now.layer, NULL, error), HASTE_ERR_ARG, "options");
    REFUSED(haste_layer_init(NULL, &good, aligned, 90000, error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_layer_init(&now.layer, NULL, aligned, 90000, error), HASTE_ERR_ARG, "options");
    REFUSED(haste_layer_init(&now.layer, &good, NULL, 90000, error), HASTE_ERR_ARG, "memory");
    REFUSED(haste_layer_init(&now.layer, &good, aligned + 4, 90000, error), HASTE_ERR_ARG, "memory");
    REFUSED(haste_layer_init(&now.layer, &good, aligned, plan.layer - 1, error), HASTE_ERR_SIZE, "bytes");
    REFUSED(haste_layer_init(&now.layer, &good, aligned, 0, error), HASTE_ERR_SIZE, "bytes");
    REFUSED(haste_plan_bytes(NULL, NULL, &now.plan, error), HASTE_ERR_ARG, "options");
    REFUSED(haste_plan_bytes(&good, NULL, NULL, error), HASTE_ERR_ARG, "plan");
    CHECK(haste_layer_create(&now.layer, NULL, NULL) == HASTE_ERR_ARG);
    free(memory);
    free_world();
    CHECK(held == 0);
}

static void workspace_options(void)
{
    haste_workspace_options good, o;
    haste_layer_options layer_options = test_options(&test_shapes[0], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    char *memory = (char *)test_alloc(3000000), *aligned = memory + (64 - (uintptr_t)memory % 64) % 64;
    haste_plan plan;
    haste_workspace work;
    make_world();
    memset(&good, 0, sizeof good);
    good.threads = 1;
    #define BAD(field, value, wanted, or_wanted, word)                                                                 \
        do {                                                                                                           \
            o = good; o.field = (value);                                                                               \
            REFUSED_EITHER(haste_workspace_create(&now.work, &now.layer, &o, error), wanted, or_wanted, word);         \
            REFUSED_EITHER(haste_workspace_init(&now.work, &now.layer, &o, aligned, 2900000, error), wanted, HASTE_ERR_SIZE, word);  \
            REFUSED_EITHER(haste_plan_bytes(&layer_options, &o, &now.plan, error), wanted, or_wanted, word);           \
        } while (0)
    BAD(batch, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "batch");
    BAD(batch, INT32_MIN, HASTE_ERR_ARG, HASTE_ERR_ARG, "batch");
    BAD(ids, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "ids");
    BAD(ids, INT64_MIN, HASTE_ERR_ARG, HASTE_ERR_ARG, "ids");
    BAD(ids, INT64_MAX, HASTE_ERR_ARG, HASTE_ERR_SIZE, "ids");
    BAD(top_k, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "top_k");
    BAD(chunks, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "chunks");
    BAD(threads, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "threads");
    BAD(bf16_dot, 2, HASTE_ERR_ARG, HASTE_ERR_ARG, "bf16_dot");
    BAD(bf16_dot, -1, HASTE_ERR_ARG, HASTE_ERR_ARG, "bf16_dot");
    good.path = HASTE_PATH_PORTABLE;
    BAD(bf16_dot, 1, HASTE_ERR_ARG, HASTE_ERR_ARG, "bf16_dot");
    good.path = HASTE_PATH_AUTO;
    if (!haste_has_bf16_dot()) BAD(bf16_dot, 1, HASTE_ERR_ARG, HASTE_ERR_ARG, "bf16_dot");
    BAD(path, (haste_path)5, HASTE_ERR_ARG, HASTE_ERR_ARG, "path");
    BAD(path, (haste_path)-1, HASTE_ERR_ARG, HASTE_ERR_ARG, "path");
    #undef BAD
    REFUSED(haste_workspace_create(NULL, &now.layer, &good, error), HASTE_ERR_ARG, "work");
    REFUSED(haste_workspace_create(&now.work, NULL, &good, error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_workspace_init(NULL, &now.layer, &good, aligned, 2900000, error), HASTE_ERR_ARG, "work");
    REFUSED(haste_workspace_init(&now.work, NULL, &good, aligned, 2900000, error), HASTE_ERR_ARG, "layer");
    REFUSED(haste_workspace_init(&now.work, &now.layer, &good, NULL, 2900000, error), HASTE_ERR_ARG, "memory");
    REFUSED(haste_workspace_init(&now.work, &now.layer, &good, aligned + 8, 2900000, error), HASTE_ERR_ARG, "memory");
    REFUSED(haste_gradient_create(NULL, &now.layer, error), HASTE_ERR_ARG, "gradient");
    REFUSED(haste_gradient_create(&now.gradient, NULL, error), HASTE_ERR_ARG, "layer");
    /* exactly enough memory, and one byte less */
    CHECK_STATUS(haste_plan_bytes(&layer_options, &good, &plan, &test_error), HASTE_OK, test_error);
    {
        haste_layer small;
        CHECK_STATUS(haste_layer_create(&small, &layer_options, &test_error), HASTE_OK, test_error);
        CHECK(plan.workspace < 2900000);
        REFUSED(haste_workspace_init(&now.work, &small, &good, aligned, plan.workspace - 1, error), HASTE_ERR_SIZE, "bytes");
        CHECK_STATUS(haste_workspace_init(&work, &small, &good, aligned, plan.workspace, &test_error), HASTE_OK, test_error);
        haste_workspace_free(&work);
        haste_layer_free(&small);
    }
    free(memory);
    free_world();
    CHECK(held == 0);
}

/* Sizes near the ends of their types: the right number, or a refusal; never a small wrong number. */
static void huge_sizes(void)
{
    haste_layer_options o;
    haste_workspace_options w;
    haste_plan plan;
    haste_layer layer;
    haste_workspace work;
    haste_status status;
    double weights;
    memset(&o, 0, sizeof o);
    memset(&w, 0, sizeof w);
    make_world();
    w.batch = 1;
    w.ids = 1;
    w.chunks = 1;
    w.threads = 1;
    w.top_k = 1;
    /* 2^31 - 8 labels of 65,536 inputs each, in one dense block: the largest layer there is */
    o.labels = INT32_MAX - 7;
    o.inputs = 65536;
    o.block_count = 1;
    o.block[0].group_size = 8;
    o.block[0].fan_in = HASTE_DENSE;
    o.optimizer = HASTE_ADAMW;
    weights = 2147483640. * 65536;
    if (sizeof(size_t) >= 8) {
        CHECK_STATUS(haste_plan_bytes(&o, &w, &plan, &test_error), HASTE_OK, test_error);
        CHECK_NEAR((double)plan.weight, weights * 4, 64);
        CHECK_NEAR((double)plan.state, weights * 8 + 2147483640. * 8, 512);
        CHECK_NEAR((double)plan.gradient, weights * 4 + 2147483640. * 4, 512);
        CHECK(plan.parameters == (int64_t)2147483640 * 65537);
        CHECK(plan.layer == plan.weight + plan.index + plan.bias + plan.state + plan.order);
        REFUSED(haste_layer_create(&now.layer, &o, error), HASTE_ERR_MEMORY, "memory");
    } else REFUSED(haste_plan_bytes(&o, &w, &now.plan, error), HASTE_ERR_SIZE, "size");
    /* one label more rounds up to 2^31 slots */
    o.labels = INT32_MAX;
    REFUSED(haste_plan_bytes(&o, &w, &now.plan, error), HASTE_ERR_SIZE, "slots");
    REFUSED(haste_layer_create(&now.layer, &o, error), HASTE_ERR_SIZE, "slots");
    o.block[0].group_size = 256;
    REFUSED(haste_plan_bytes(&o, &w, &now.plan, error), HASTE_ERR_SIZE, "slots");
    o.labels = INT32_MAX - 7;   /* 2^31 - 8 labels in groups of 256: again 2^31 slots */
    REFUSED(haste_plan_bytes(&o, &w, &now.plan, error), HASTE_ERR_SIZE, "slots");

    /* a workspace for 2^31 - 1 samples */
    o.labels = 100;
    o.block[0].group_size = 8;
    w.batch = INT32_MAX;
    status = haste_plan_bytes(&o, &w, &plan, &test_error);
    CHECK(status == HASTE_OK || status == HASTE_ERR_SIZE);
    if (status == HASTE_OK) CHECK((double)plan.workspace > 2147483647. * 65536 * 4 * 2);
    CHECK_STATUS(haste_layer_create(&layer, &o, &test_error), HASTE_OK, test_error);
    status = haste_workspace_create(&work, &layer, &w, &test_error);
    CHECK(status == HASTE_ERR_MEMORY || status == HASTE_ERR_SIZE);
    w.chunks = 1000;
    w.threads = 4000;
    w.top_k = INT32_MAX;
    w.ids = INT64_MAX / 64;
    status = haste_plan_bytes(&o, &w, &plan, &test_error);   /* 4000 * 2^31 * 2^31 * 4 */
    CHECK_STATUS(status, HASTE_ERR_SIZE, test_error);
    CHECK_STATUS(haste_workspace_create(&work, &layer, &w, &test_error), HASTE_ERR_SIZE, test_error);
    /* Exactly 2^64 bytes of best lists, which would look like none: 2^12 threads, 2^30 samples, 2^20 places, 4 bytes. */
    memset(&w, 0, sizeof w);
    w.batch = 1 << 30;
    w.threads = 4096;
    w.top_k = 1 << 20;
    w.ids = 1;
    w.chunks = 1;
    CHECK_STATUS(haste_plan_bytes(&o, &w, &plan, &test_error), HASTE_ERR_SIZE, test_error);
    CHECK_STATUS(haste_workspace_create(&work, &layer, &w, &test_error), HASTE_ERR_SIZE, test_error);
    haste_layer_free(&layer);
    free_world();
    CHECK(held == 0);
}

/* ---- per-batch calls ---- */

static haste_search_options search;

#define FORWARD()    haste_forward(&now.layer, &now.work, now.x, B, now.logits, error)
#define BACKWARD()   haste_backward(&now.layer, &now.work, now.x, B, now.grad_logits, &now.gradient, now.grad_x, error)
#define STEP()       haste_train_step(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.loss, now.grad_x, error)
#define ACCUMULATE() haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.gradient, &now.loss, now.grad_x, error)
#define APPLY()      haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error)
#define SCORE()      haste_score(&now.layer, &now.work, now.x, B, &now.lists, now.score, error)
#define TOP_K()      haste_top_k(&now.layer, &now.work, now.x, B, K, &search, now.top_id, now.score, error)
#define ABOVE()      haste_above(&now.layer, &now.work, now.x, B, 0, &search, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error)
#define EACH_BATCH(wanted, word)                                                                                       \
    do {                                                                                                               \
        REFUSED(FORWARD(), wanted, word); REFUSED(BACKWARD(), wanted, word); REFUSED(STEP(), wanted, word);            \
        REFUSED(ACCUMULATE(), wanted, word); REFUSED(SCORE(), wanted, word); REFUSED(TOP_K(), wanted, word);           \
        REFUSED(ABOVE(), wanted, word);                                                                                \
    } while (0)

static void null_pointers(void)
{
    haste_lists lists;
    make_world();
    lists = now.lists;
    error = &error_memory;
    #define N(call, word) REFUSED(call, HASTE_ERR_ARG, word)
    N(haste_forward(NULL, &now.work, now.x, B, now.logits, error), "layer");
    N(haste_forward(&now.layer, NULL, now.x, B, now.logits, error), "work");
    N(haste_forward(&now.layer, &now.work, NULL, B, now.logits, error), "x");
    N(haste_forward(&now.layer, &now.work, now.x, B, NULL, error), "logits");
    N(haste_backward(NULL, &now.work, now.x, B, now.grad_logits, &now.gradient, now.grad_x, error), "layer");
    N(haste_backward(&now.layer, NULL, now.x, B, now.grad_logits, &now.gradient, now.grad_x, error), "work");
    N(haste_backward(&now.layer, &now.work, NULL, B, now.grad_logits, &now.gradient, now.grad_x, error), "x");
    N(haste_backward(&now.layer, &now.work, now.x, B, NULL, &now.gradient, now.grad_x, error), "grad_logits");
    N(haste_train_step(NULL, &now.work, now.x, B, &lists, &now.step, &now.loss, now.grad_x, error), "layer");
    N(haste_train_step(&now.layer, NULL, now.x, B, &lists, &now.step, &now.loss, now.grad_x, error), "work");
    N(haste_train_step(&now.layer, &now.work, NULL, B, &lists, &now.step, &now.loss, now.grad_x, error), "x");
    N(haste_train_step(&now.layer, &now.work, now.x, B, &lists, NULL, &now.loss, now.grad_x, error), "options");
    N(haste_accumulate(NULL, &now.work, now.x, B, &lists, &now.step, &now.gradient, &now.loss, now.grad_x, error), "layer");
    N(haste_accumulate(&now.layer, NULL, now.x, B, &lists, &now.step, &now.gradient, &now.loss, now.grad_x, error), "work");
    N(haste_accumulate(&now.layer, &now.work, NULL, B, &lists, &now.step, &now.gradient, &now.loss, now.grad_x, error), "x");
    N(haste_accumulate(&now.layer, &now.work, now.x, B, &lists, NULL, &now.gradient, &now.loss, now.grad_x, error), "options");
    N(haste_accumulate(&now.layer, &now.work, now.x, B, &lists, &now.step, NULL, &now.loss, now.grad_x, error), "gradient");
    N(haste_apply(NULL, &now.work, &now.gradient, &now.step, error), "layer");
    N(haste_apply(&now.layer, NULL, &now.gradient, &now.step, error), "work");
    N(haste_apply(&now.layer, &now.work, NULL, &now.step, error), "gradient");
    N(haste_apply(&now.layer, &now.work, &now.gradient, NULL, error), "options");
    N(haste_score(NULL, &now.work, now.x, B, &lists, now.score, error), "layer");
    N(haste_score(&now.layer, NULL, now.x, B, &lists, now.score, error), "work");
    N(haste_score(&now.layer, &now.work, NULL, B, &lists, now.score, error), "x");
    N(haste_score(&now.layer, &now.work, now.x, B, &lists, NULL, error), "score");
    N(haste_top_k(NULL, &now.work, now.x, B, K, NULL, now.top_id, now.score, error), "layer");
    N(haste_top_k(&now.layer, NULL, now.x, B, K, NULL, now.top_id, now.score, error), "work");
    N(haste_top_k(&now.layer, &now.work, NULL, B, K, NULL, now.top_id, now.score, error), "x");
    N(haste_top_k(&now.layer, &now.work, now.x, B, K, NULL, NULL, now.score, error), "id");
    N(haste_above(NULL, &now.work, now.x, B, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error), "layer");
    N(haste_above(&now.layer, NULL, now.x, B, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error), "work");
    N(haste_above(&now.layer, &now.work, NULL, B, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error), "x");
    N(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, NULL, now.above_id, now.score, CAPACITY, &now.needed, error), "offset");
    N(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, now.above_offset, NULL, now.score, CAPACITY, &now.needed, error), "id");
    N(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, now.above_offset, now.above_id, NULL, CAPACITY, &now.needed, error), "score");
    N(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, NULL, error), "needed");
    N(haste_layer_check(NULL, error), "layer");
    /* the insides of structs */
    WITH(const int64_t *, now.lists.offset, NULL, N(SCORE(), "offset"));   /* elsewhere it means one id a sample */
    WITH(const int32_t *, now.lists.id, NULL, N(STEP(), "id"); N(ACCUMULATE(), "id"); N(SCORE(), "id");
         search.excluded = &now.lists; N(TOP_K(), "id"); N(ABOVE(), "id"); search.excluded = NULL;
         search.only = &now.lists; N(TOP_K(), "id"); N(ABOVE(), "id"); search.only = NULL);
    WITH(float *, now.gradient.weight[1], NULL, N(ACCUMULATE(), "weight"); N(APPLY(), "weight"));
    WITH(float *, now.gradient.bias[0], NULL, N(ACCUMULATE(), "bias"); N(APPLY(), "bias"));
    #undef N
    free_world();
    CHECK(held == 0);
}

static void sizes(void)
{
    make_world();
    #define S(call, word) REFUSED(call, HASTE_ERR_SIZE, word)
    #define A(call, word) REFUSED(call, HASTE_ERR_ARG, word)
    #define ALL_B(b, R, with_score)                                                                                    \
        do {                                                                                                           \
            R(haste_forward(&now.layer, &now.work, now.x, b, now.logits, error), "B");                                 \
            R(haste_backward(&now.layer, &now.work, now.x, b, now.grad_logits, &now.gradient, now.grad_x, error), "B");\
            R(haste_train_step(&now.layer, &now.work, now.x, b, &now.lists, &now.step, &now.loss, now.grad_x, error), "B");   \
            R(haste_accumulate(&now.layer, &now.work, now.x, b, &now.lists, &now.step, &now.gradient, &now.loss, now.grad_x, error), "B"); \
            if (with_score) R(haste_score(&now.layer, &now.work, now.x, b, &now.lists, now.score, error), "B");         \
            R(haste_top_k(&now.layer, &now.work, now.x, b, K, NULL, now.top_id, now.score, error), "B");               \
            R(haste_above(&now.layer, &now.work, now.x, b, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error), "B"); \
        } while (0)
    ALL_B(-1, A, 1);
    ALL_B(INT32_MIN, A, 1);
    ALL_B(B + 1, S, 0);
    ALL_B(INT32_MAX, S, 0);
    A(haste_top_k(&now.layer, &now.work, now.x, B, 0, NULL, now.top_id, now.score, error), "k");
    A(haste_top_k(&now.layer, &now.work, now.x, B, -4, NULL, now.top_id, now.score, error), "k");
    REFUSED_EITHER(haste_top_k(&now.layer, &now.work, now.x, B, K + 1, NULL, now.top_id, now.score, error), HASTE_ERR_SIZE, HASTE_ERR_ARG, "k");
    REFUSED_EITHER(haste_top_k(&now.layer, &now.work, now.x, B, INT32_MAX, NULL, now.top_id, now.score, error), HASTE_ERR_SIZE, HASTE_ERR_ARG, "k");
    A(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, now.above_offset, now.above_id, now.score, -1, &now.needed, error), "capacity");
    A(haste_above(&now.layer, &now.work, now.x, B, HUGE_VALF - HUGE_VALF, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error),
      "threshold");
    /* 21 ids where the workspace has room for 20 */
    WITH(int64_t, now.offset[B], 2 + 21, S(STEP(), "positives"); S(ACCUMULATE(), "positives"); search.excluded = &now.lists; S(TOP_K(), "excluded");
         S(ABOVE(), "excluded"); search.excluded = NULL; search.only = &now.lists; S(TOP_K(), "only"); S(ABOVE(), "only"); search.only = NULL);
    #undef S
    #undef A
    free_world();
    CHECK(held == 0);
}

static void data(void)
{
    static const int at[] = { 0, D - 1, D, B * D - 1, 2 * D + 17 };
    int i, kind;
    make_world();
    for (i = 0; i < 5; i++) for (kind = 0; kind < 3; kind++) {
        float bad = kind == 0 ? HUGE_VALF : kind == 1 ? -HUGE_VALF : HUGE_VALF - HUGE_VALF;
        WITH(float, now.x[at[i]], bad, EACH_BATCH(HASTE_ERR_DATA, "x"));
    }
    #define LISTS(wanted, word)                                                                                        \
        do {                                                                                                           \
            REFUSED(STEP(), wanted, word); REFUSED(ACCUMULATE(), wanted, word); REFUSED(SCORE(), wanted, word);        \
            search.excluded = &now.lists; REFUSED(TOP_K(), wanted, word); REFUSED(ABOVE(), wanted, word); search.excluded = NULL; \
            search.only = &now.lists; REFUSED(TOP_K(), wanted, word); REFUSED(ABOVE(), wanted, word); search.only = NULL; \
        } while (0)
    WITH(int64_t, now.offset[2], 3, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int64_t, now.offset[0], -1, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int64_t, now.offset[0], INT64_MIN, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int64_t, now.offset[B], -5, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int64_t, now.offset[B], 0, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int64_t, now.offset[3], INT64_MAX, LISTS(HASTE_ERR_DATA, "offset"));
    WITH(int32_t, now.id[2], L, LISTS(HASTE_ERR_DATA, "id"));
    WITH(int32_t, now.id[16], L + 1, LISTS(HASTE_ERR_DATA, "id"));
    WITH(int32_t, now.id[9], -1, LISTS(HASTE_ERR_DATA, "id"));
    WITH(int32_t, now.id[9], INT32_MIN, LISTS(HASTE_ERR_DATA, "id"));
    WITH(int32_t, now.id[9], INT32_MAX, LISTS(HASTE_ERR_DATA, "id"));
    /* ids before the first offset and after the last belong to nobody */
    WITH(int32_t, now.id[1], -1, error = prepare(); CHECK_STATUS(SCORE(), HASTE_OK, error_memory));
    WITH(int32_t, now.id[17], -1, error = prepare(); CHECK_STATUS(SCORE(), HASTE_OK, error_memory));
    #undef LISTS
    free_world();
    CHECK(held == 0);
}

static void step_options(void)
{
    const float nan = HUGE_VALF - HUGE_VALF;
    make_world();
    #define BAD(field, value, word)                                                                                    \
        WITH(float, now.step.field, value, REFUSED(STEP(), HASTE_ERR_ARG, word); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, word); \
             REFUSED(APPLY(), HASTE_ERR_ARG, word))
    BAD(lr, nan, "lr");
    BAD(lr, HUGE_VALF, "lr");
    BAD(lr, -.1f, "lr");
    BAD(momentum, nan, "momentum");
    BAD(momentum, -.5f, "momentum");
    BAD(momentum, -2, "momentum");
    BAD(momentum, HUGE_VALF, "momentum");
    BAD(beta1, nan, "beta1");
    BAD(beta1, 1, "beta1");
    BAD(beta1, -.5f, "beta1");
    BAD(beta2, nan, "beta2");
    BAD(beta2, 1, "beta2");
    BAD(beta2, 1.5f, "beta2");
    BAD(eps, nan, "eps");
    BAD(eps, -1e-8f, "eps");
    BAD(eps, HASTE_NONE, "eps");
    BAD(weight_decay, nan, "weight_decay");
    BAD(weight_decay, HUGE_VALF, "weight_decay");
    BAD(clip, -1, "clip");
    BAD(clip, nan, "clip");
    WITH(float, now.step.loss.negligible, -.5f, REFUSED(STEP(), HASTE_ERR_ARG, "negligible"); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, "negligible"));
    WITH(float, now.step.loss.negligible, nan, REFUSED(STEP(), HASTE_ERR_ARG, "negligible"); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, "negligible"));
    WITH(float, now.step.loss.negligible, HUGE_VALF, REFUSED(STEP(), HASTE_ERR_ARG, "negligible"); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, "negligible"));
    #undef BAD
    WITH(double, now.step.loss.scale, (double)nan, REFUSED(STEP(), HASTE_ERR_ARG, "scale"); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, "scale"));
    WITH(double, now.step.loss.scale, HUGE_VAL, REFUSED(STEP(), HASTE_ERR_ARG, "scale"); REFUSED(ACCUMULATE(), HASTE_ERR_ARG, "scale"));
    free_world();
    CHECK(held == 0);
}

/* A layer that is not one, and a workspace made for a smaller layer. */
static void wrong_layers(void)
{
    int i;
    make_world();
    WITH(int32_t, now.layer.block_count, 0, EACH_BATCH(HASTE_ERR_STATE, "layer"); REFUSED(APPLY(), HASTE_ERR_STATE, "layer"));
    WITH(int32_t, now.layer.labels, L + 1, EACH_BATCH(HASTE_ERR_STATE, "layer"); REFUSED(APPLY(), HASTE_ERR_STATE, "layer"));
    {   /* zeroed structs, as before creation or after haste_layer_free */
        haste_layer zero_layer;
        haste_workspace zero_work;
        memset(&zero_layer, 0, sizeof zero_layer);
        memset(&zero_work, 0, sizeof zero_work);
        REFUSED_EITHER(haste_forward(&zero_layer, &now.work, now.x, B, now.logits, error), HASTE_ERR_STATE, HASTE_ERR_ARG, "layer");
        REFUSED_EITHER(haste_forward(&now.layer, &zero_work, now.x, B, now.logits, error), HASTE_ERR_ARG, HASTE_ERR_SIZE, "work");
        REFUSED_EITHER(haste_train_step(&now.layer, &zero_work, now.x, B, &now.lists, &now.step, NULL, NULL, error), HASTE_ERR_ARG, HASTE_ERR_SIZE, "work");
        REFUSED_EITHER(haste_apply(&now.layer, &zero_work, &now.gradient, &now.step, error), HASTE_ERR_ARG, HASTE_ERR_SIZE, "work");
        REFUSED_EITHER(haste_workspace_create(&now.work, &zero_layer, NULL, error), HASTE_ERR_STATE, HASTE_ERR_ARG, "layer");
        REFUSED_EITHER(haste_gradient_create(&now.gradient, &zero_layer, error), HASTE_ERR_STATE, HASTE_ERR_ARG, "layer");
    }
    for (i = 0; i < 3; i++) {   /* smaller in D, in S, in F */
        static const test_shape smaller[3] = { { "D", L, 29, 1, { { 0, 8, 12, 0, 0 } }, 0 }, { "S", L, 200, 1, { { 0, 8, 90, 0, 0 } }, 0 },
                                               { "F", L, 30, 1, { { 0, 16, 11, 0, 0 } }, 0 } };
        haste_layer_options options = test_options(&smaller[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer small = test_layer(&options);
        haste_workspace keep = now.work;
        now.work = test_workspace(&small, B, 1, HASTE_PATH_AUTO);
        if (i == 1) {   /* the world's groups are as small as they get: ask with a layer of larger ones instead */
            static const test_shape larger = { "S 16", L, 30, 1, { { 0, 16, 10, 0, 0 } }, 0 };
            haste_layer_options larger_options = test_options(&larger, HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
            haste_layer layer = test_layer(&larger_options);
            remember();
            REFUSED(haste_forward(&layer, &now.work, now.x, B, now.logits, error), HASTE_ERR_SIZE, "workspace");
            REFUSED(haste_top_k(&layer, &now.work, now.x, B, K, NULL, now.top_id, now.score, error), HASTE_ERR_SIZE, "workspace");
            haste_layer_free(&layer);
        } else {
            remember();
            REFUSED(FORWARD(), HASTE_ERR_SIZE, "workspace");
            REFUSED(BACKWARD(), HASTE_ERR_SIZE, "workspace");
            REFUSED(STEP(), HASTE_ERR_SIZE, "workspace");
            REFUSED(ACCUMULATE(), HASTE_ERR_SIZE, "workspace");
            REFUSED(TOP_K(), HASTE_ERR_SIZE, "workspace");
            REFUSED(ABOVE(), HASTE_ERR_SIZE, "workspace");
        }
        haste_workspace_free(&now.work);
        now.work = keep;
        remember();
        haste_layer_free(&small);
    }
    free_world();
    CHECK(held == 0);
}

/* B = 0, and nothing to read: every call does nothing, and says that all is well. */
static void nothing_to_do(void)
{
    make_world();
    error = prepare();
    #define NOTHING(call) do { CHECK_STATUS(call, HASTE_OK, error_memory); CHECK(unchanged()); } while (0)
    NOTHING(haste_forward(&now.layer, &now.work, NULL, 0, NULL, error));
    NOTHING(haste_backward(&now.layer, &now.work, NULL, 0, NULL, &now.gradient, NULL, error));
    NOTHING(haste_score(&now.layer, &now.work, NULL, 0, NULL, NULL, error));
    NOTHING(haste_top_k(&now.layer, &now.work, NULL, 0, K, NULL, NULL, NULL, error));
    NOTHING(haste_train_step(&now.layer, &now.work, NULL, 0, NULL, &now.step, NULL, NULL, error));
    NOTHING(haste_accumulate(&now.layer, &now.work, NULL, 0, NULL, &now.step, &now.gradient, NULL, NULL, error));
    then.loss = 0;
    NOTHING(haste_train_step(&now.layer, &now.work, now.x, 0, &now.lists, &now.step, &now.loss, now.grad_x, error));
    NOTHING(haste_accumulate(&now.layer, &now.work, now.x, 0, &now.lists, &now.step, &now.gradient, &now.loss, now.grad_x, error));
    then.needed = then.above_offset[0] = 0;
    NOTHING(haste_above(&now.layer, &now.work, NULL, 0, 0, NULL, now.above_offset, NULL, NULL, 0, &now.needed, error));
    #undef NOTHING
    /* what is wrong besides is still said */
    REFUSED(haste_train_step(&now.layer, &now.work, now.x, 0, &now.lists, NULL, NULL, NULL, error), HASTE_ERR_ARG, "options");
    REFUSED(haste_top_k(&now.layer, &now.work, now.x, 0, K + 1, NULL, now.top_id, NULL, error), HASTE_ERR_SIZE, "k");
    free_world();
    CHECK(held == 0);
}

/* A copy of a layer with the same blocks and seed, in which two labels of one group have changed places. */
static haste_layer exchanged(const haste_layer *layer)
{
    haste_layer copy = test_copy(layer), result;
    const haste_layer *part = &copy;
    int32_t *id = (int32_t *)test_alloc((size_t)layer->labels * sizeof *id), i;
    const int32_t *const ids = id;
    for (i = 0; i < layer->labels; i++) id[i] = i;
    id[layer->label_of[0]] = layer->label_of[1];
    id[layer->label_of[1]] = layer->label_of[0];
    CHECK_STATUS(haste_layer_join(&result, &part, 1, &ids, &test_error), HASTE_OK, test_error);
    CHECK(result.seed == layer->seed && result.block_count == layer->block_count);
    haste_layer_free(&copy);
    free(id);
    return result;
}

/* A gradient serves the layers that it was made for, and only until their inputs move. */
static void gradients_of_others(void)
{
    static const test_shape shapes[3] = {
        { "smaller", L - 8, D, 2, { { 20, 8, HASTE_DENSE, 0, 12 }, { 0, 8, 7, 4, 30 } }, 1 },
        { "other fan-in", L, D, 2, { { 20, 8, HASTE_DENSE, 0, 12 }, { 0, 8, 6, 4, 30 } }, 1 },
        { "other slice", L, D, 2, { { 20, 8, HASTE_DENSE, 0, 12 }, { 0, 8, 7, 3, 29 } }, 1 } };
    haste_rewire_options rewire;
    haste_gradient other;
    int i;
    make_world();
    for (i = 0; i < 5; i++) {   /* the last: the same shape, with another seed, or two labels exchanged */
        haste_layer_options options = test_options(&shapes[i < 3 ? i : 0], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
        haste_layer layer;
        if (i == 3) {
            layer = test_copy(&now.layer);
            layer.seed++;
        } else if (i == 4) layer = exchanged(&now.layer);
        else layer = test_layer(&options);
        error = prepare();
        CHECK_STATUS(haste_gradient_create(&other, &layer, error), HASTE_OK, error_memory);
        other.pending = 1;
        REFUSED(haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &other, &now.loss, now.grad_x, error), HASTE_ERR_STATE,
                "gradient");
        REFUSED(haste_apply(&now.layer, &now.work, &other, &now.step, error), HASTE_ERR_STATE, "gradient");
        REFUSED(haste_backward(&now.layer, &now.work, now.x, B, now.grad_logits, &other, now.grad_x, error), HASTE_ERR_STATE, "gradient");
        REFUSED(haste_gradient_zero(&other, &now.layer, error), HASTE_ERR_STATE, "gradient");
        CHECK(other.pending == 1);
        haste_gradient_free(&other);
        haste_layer_free(&layer);
    }
    /* accumulated into one, applied from another */
    error = prepare();
    CHECK_STATUS(haste_gradient_create(&other, &now.layer, error), HASTE_OK, error_memory);
    CHECK_STATUS(haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.gradient, NULL, NULL, error), HASTE_OK, error_memory);
    remember();
    REFUSED(haste_apply(&now.layer, &now.work, &other, &now.step, error), HASTE_ERR_STATE, "pending");
    CHECK(now.gradient.pending == 1 && other.pending == 0);
    /* rewired in between */
    memset(&rewire, 0, sizeof rewire);
    rewire.share = .2f;
    error = prepare();
    CHECK_STATUS(haste_rewire(&now.layer, &now.work, &rewire, NULL, 0, NULL, NULL, error), HASTE_OK, error_memory);
    remember();
    REFUSED(haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error), HASTE_ERR_STATE, "haste_rewire");
    REFUSED(haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.gradient, &now.loss, now.grad_x, error), HASTE_ERR_STATE,
            "haste_rewire");
    error = prepare();
    CHECK_STATUS(haste_gradient_zero(&now.gradient, &now.layer, error), HASTE_OK, error_memory);
    for (i = 0; i < (int)(now.gradient.bytes / sizeof(float)); i++) CHECK(((float *)now.gradient.memory)[i] == 0);
    CHECK_STATUS(haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.gradient, NULL, NULL, error), HASTE_OK, error_memory);
    CHECK_STATUS(haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error), HASTE_OK, error_memory);
    remember();
    REFUSED(haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error), HASTE_ERR_STATE, "pending");
    WITH(int32_t, now.gradient.pending, -1, REFUSED(haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error), HASTE_ERR_STATE, "pending"));
    haste_gradient_free(&other);
    free_world();
    CHECK(held == 0);
}

/* A workspace for one purpose refuses the calls of the other, and takes less memory. */
static void purposes(void)
{
    static const test_shape wide = { "wide", 1000, 65536, 1, { { 0, 32, 64, 0, 0 } }, 0 };
    haste_layer_options options = test_options(&wide, HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_workspace_options o;
    haste_workspace both, one;
    haste_layer layer;
    make_world();
    both = now.work;
    memset(&o, 0, sizeof o);
    o.batch = B;
    o.ids = 20;
    o.top_k = K;
    o.chunks = 3;
    o.threads = 2;
    o.purpose = HASTE_TRAINING;
    error = prepare();
    CHECK_STATUS(haste_workspace_create(&one, &now.layer, &o, error), HASTE_OK, error_memory);
    CHECK(one.bytes < both.bytes && one.purpose == HASTE_TRAINING);
    now.work = one;
    remember();
    REFUSED(haste_top_k(&now.layer, &now.work, now.x, B, K, NULL, now.top_id, now.score, error), HASTE_ERR_ARG, "workspace");
    REFUSED(haste_above(&now.layer, &now.work, now.x, B, 0, NULL, now.above_offset, now.above_id, now.score, CAPACITY, &now.needed, error), HASTE_ERR_ARG,
            "workspace");
    error = prepare();
    CHECK_STATUS(haste_forward(&now.layer, &now.work, now.x, B, now.logits, error), HASTE_OK, error_memory);
    CHECK_STATUS(haste_train_step(&now.layer, &now.work, now.x, B, &now.lists, &now.step, NULL, now.grad_x, error), HASTE_OK, error_memory);
    haste_workspace_free(&one);
    o.purpose = HASTE_PREDICTION;
    CHECK_STATUS(haste_workspace_create(&one, &now.layer, &o, error), HASTE_OK, error_memory);
    CHECK(one.bytes < both.bytes && one.purpose == HASTE_PREDICTION);
    memset(one.memory, 0xff, one.bytes);
    now.work = one;
    remember();
    REFUSED(haste_train_step(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.loss, now.grad_x, error), HASTE_ERR_ARG, "workspace");
    REFUSED(haste_accumulate(&now.layer, &now.work, now.x, B, &now.lists, &now.step, &now.gradient, NULL, NULL, error), HASTE_ERR_ARG, "workspace");
    REFUSED(haste_apply(&now.layer, &now.work, &now.gradient, &now.step, error), HASTE_ERR_ARG, "workspace");
    REFUSED(haste_backward(&now.layer, &now.work, now.x, B, now.grad_logits, &now.gradient, now.grad_x, error), HASTE_ERR_ARG, "workspace");
    error = prepare();
    CHECK_STATUS(haste_forward(&now.layer, &now.work, now.x, B, now.logits, error), HASTE_OK, error_memory);
    CHECK_STATUS(haste_top_k(&now.layer, &now.work, now.x, B, K, NULL, now.top_id, now.score, error), HASTE_OK, error_memory);
    haste_workspace_free(&one);
    /* one vector among 65,536 inputs: its x and little more */
    layer = test_layer(&options);
    memset(&o, 0, sizeof o);
    o.batch = 1;
    o.threads = 1;
    o.purpose = HASTE_PREDICTION;
    CHECK_STATUS(haste_workspace_create(&one, &layer, &o, error), HASTE_OK, error_memory);
    CHECK(one.bytes < (size_t)1 << 20);
    haste_workspace_free(&one);
    haste_layer_free(&layer);
    /* a workspace whose sizes were changed by hand */
    now.work = both;
    remember();
    WITH(int32_t, now.work.batch, B + 1, REFUSED(haste_forward(&now.layer, &now.work, now.x, B, now.logits, error), HASTE_ERR_ARG, "work"));
    free_world();
    CHECK(held == 0);
}

/* ---- allocations ---- */

static void failing_allocations(void)
{
    haste_layer_options options;
    int n, done;
    make_world();
    options = test_options(&test_shapes[11], HASTE_BCE, HASTE_ADAMW, HASTE_F32, HASTE_F32);
    for (done = 0, n = 1; !done && n < 100; n++) {
        haste_layer layer;
        haste_status status;
        int before = held;
        memset(&layer, 0x77, sizeof layer);
        calls = 0;
        fail_at = n;
        status = haste_layer_create(&layer, &options, &test_error);
        fail_at = 0;
        if (status == HASTE_OK) { done = 1; haste_layer_free(&layer); CHECK(n > 1); }
        else {
            CHECK(status == HASTE_ERR_MEMORY && test_error.status == HASTE_ERR_MEMORY && strlen(test_error.text) > 5);
            CHECK(((unsigned char *)&layer)[0] == 0x77 && ((unsigned char *)&layer)[sizeof layer - 1] == 0x77);
        }
        CHECK(held == before);
    }
    CHECK(done);
    for (done = 0, n = 1; !done && n < 100; n++) {
        haste_workspace work;
        haste_status status;
        int before = held;
        memset(&work, 0x77, sizeof work);
        calls = 0;
        fail_at = n;
        status = haste_workspace_create(&work, &now.layer, NULL, &test_error);
        fail_at = 0;
        if (status == HASTE_OK) { done = 1; haste_workspace_free(&work); CHECK(n > 1); }
        else CHECK(status == HASTE_ERR_MEMORY && ((unsigned char *)&work)[0] == 0x77 && strlen(test_error.text) > 5);
        CHECK(held == before);
    }
    CHECK(done);
    for (done = 0, n = 1; !done && n < 100; n++) {
        haste_gradient gradient;
        haste_status status;
        int before = held;
        memset(&gradient, 0x77, sizeof gradient);
        calls = 0;
        fail_at = n;
        status = haste_gradient_create(&gradient, &now.layer, &test_error);
        fail_at = 0;
        if (status == HASTE_OK) { done = 1; haste_gradient_free(&gradient); CHECK(n > 1); }
        else CHECK(status == HASTE_ERR_MEMORY && ((unsigned char *)&gradient)[0] == 0x77 && strlen(test_error.text) > 5);
        CHECK(held == before);
    }
    CHECK(done);
    /* Per-batch calls allocate nothing. */
    calls = 0;
    error = &error_memory;
    CHECK_STATUS(FORWARD(), HASTE_OK, error_memory);
    CHECK_STATUS(BACKWARD(), HASTE_OK, error_memory);
    CHECK_STATUS(STEP(), HASTE_OK, error_memory);
    CHECK_STATUS(ACCUMULATE(), HASTE_OK, error_memory);
    CHECK_STATUS(APPLY(), HASTE_OK, error_memory);
    CHECK_STATUS(SCORE(), HASTE_OK, error_memory);
    CHECK_STATUS(TOP_K(), HASTE_OK, error_memory);
    CHECK_STATUS(ABOVE(), HASTE_OK, error_memory);
    CHECK(calls == 0);
    free_world();
    CHECK(held == 0);
}

/* An error is written on failure only. */
static void texts(void)
{
    int i;
    make_world();
    memset(&error_memory, 0x55, sizeof error_memory);
    error = &error_memory;
    CHECK(FORWARD() == HASTE_OK);
    CHECK(error_memory.text[0] == 0x55);
    for (i = -2; i < 12; i++) CHECK(haste_status_text((haste_status)i) != NULL && strlen(haste_status_text((haste_status)i)) > 5);
    CHECK(strcmp(haste_status_text(HASTE_OK), haste_status_text(HASTE_ERR_ARG)) != 0);
    for (i = 0; i < 7; i++) CHECK(haste_path_text((haste_path)i) != NULL);
    CHECK(strcmp(haste_path_text(HASTE_PATH_PORTABLE), "portable") == 0 && strcmp(haste_path_text(HASTE_PATH_AVX2), "avx2") == 0);
    CHECK(haste_version() == HASTE_VERSION_MAJOR * 10000 + HASTE_VERSION_MINOR * 100 + HASTE_VERSION_PATCH);
    free_world();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(layer_options);
    RUN(workspace_options);
    RUN(huge_sizes);
    RUN(null_pointers);
    RUN(sizes);
    RUN(data);
    RUN(step_options);
    RUN(wrong_layers);
    RUN(nothing_to_do);
    RUN(gradients_of_others);
    RUN(purposes);
    RUN(failing_allocations);
    RUN(texts);
    return check_end();
}
