/* layers.h: what the tests of the layer share: layers of odd shapes, batches, snapshots, and a naive float32 version
   whose error is the measure for the library's. Include after haste.h with its implementation, and after check.h. */
#ifndef LAYERS_H
#define LAYERS_H

static haste_error test_error;

/* ---- memory ---- */

static void *test_alloc(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) { printf("out of memory\n"); exit(1); }
    return memory;
}

static void *test_zeros(size_t bytes) { void *memory = test_alloc(bytes); memset(memory, 0, bytes); return memory; }
static double *test_doubles(size_t n) { return (double *)test_zeros(n * sizeof(double)); }

/* ---- stored numbers, read and written without the library's help ---- */

static float test_from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static size_t test_width(haste_dtype dtype) { return dtype == HASTE_BF16 ? 2 : 4; }

static float test_get(haste_dtype dtype, const void *array, size_t i)
{
    return dtype == HASTE_BF16 ? test_from_bf16(((const uint16_t *)array)[i]) : ((const float *)array)[i];
}

/* bfloat16: cut off, so that what is stored is exact where value has few bits. */
static void test_put(haste_dtype dtype, void *array, size_t i, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (dtype == HASTE_BF16) ((uint16_t *)array)[i] = (uint16_t)(bits >> 16);
    else ((float *)array)[i] = value;
}

/* The bfloat16 numbers around an exact value: *low <= value <= *high, equal where value is one. */
static void test_bf16_neighbours(double value, double *low, double *high)
{
    float f = (float)value;
    uint32_t bits;
    float toward_zero, away;
    memcpy(&bits, &f, 4);
    if (fabs((double)f) > fabs(value)) bits--;                 /* the float toward zero; f is not 0 here */
    bits &= 0xffff0000u;
    memcpy(&toward_zero, &bits, 4);
    *low = *high = (double)toward_zero;
    if (fabs((double)toward_zero) == fabs(value)) return;
    bits += 0x10000u;
    memcpy(&away, &bits, 4);
    if (value > 0) *high = (double)away; else *low = (double)away;
}

/* ---- shapes ---- */

typedef struct {
    const char          *name;
    int32_t              labels, inputs, blocks;
    haste_block_options  block[4];
    int                  permuted;
} test_shape;

/* labels, group_size, fan_in, begin, end of each block */
static const test_shape test_shapes[] = {
    { "one label",        1,     1, 1, { { 0,   8,  1,  0,  0 } }, 0 },
    { "L below S",        5,     7, 1, { { 0,   8,  3,  0,  0 } }, 1 },
    { "defaults",       100,    48, 0, { { 0,   0,  0,  0,  0 } }, 0 },
    { "S 16",           260,    64, 1, { { 0,  16, 16,  0,  0 } }, 1 },
    { "S 24",            77,    33, 1, { { 0,  24, 17,  0,  0 } }, 1 },
    { "S 32",           333,   100, 1, { { 0,  32, 48,  0,  0 } }, 1 },
    { "S 40, F = D",     90,    20, 1, { { 0,  40, 20,  0,  0 } }, 0 },
    { "S 64",           300,   100, 1, { { 0,  64, 31,  0,  0 } }, 1 },
    { "S 128",          300,    70, 1, { { 0, 128, 64,  0,  0 } }, 0 },
    { "S 256",          600,   300, 1, { { 0, 256,  5,  0,  0 } }, 1 },
    { "dense",           61,    37, 1, { { 0,   8, HASTE_DENSE, 0, 0 } }, 1 },
    { "head and tail",  200,    64, 3, { { 20,  8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } }, 1 },
    { "tail first",     150,    50, 4, { { 33, 24, 1, 0, 1 }, { 1, 64, HASTE_DENSE, 49, 50 }, { 100, 8, 9, 3, 50 },
                                         { 16, 16, HASTE_DENSE, 1, 49 } }, 1 },
    { "D 65536",         40, 65536, 1, { { 0,   8, 30,  0,  0 } }, 1 },
    { "high slice",      24, 65536, 2, { { 12,  8, 4, 65530, 65536 }, { 12, 8, HASTE_DENSE, 65500, 65536 } }, 0 }
};
#define TEST_SHAPES ((int)(sizeof test_shapes / sizeof test_shapes[0]))

static int32_t test_order[4096];   /* options point here until the layer is made */

static haste_layer_options test_options(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                                        haste_dtype state_dtype)
{
    haste_layer_options options;
    int32_t i;
    memset(&options, 0, sizeof options);
    options.labels = shape->labels;
    options.inputs = shape->inputs;
    options.block_count = shape->blocks;
    for (i = 0; i < shape->blocks; i++) options.block[i] = shape->block[i];
    options.loss = loss;
    options.optimizer = optimizer;
    options.dtype = dtype;
    options.state_dtype = state_dtype;
    options.seed = 7;
    if (shape->permuted) {   /* Fisher-Yates */
        for (i = 0; i < shape->labels; i++) test_order[i] = i;
        for (i = shape->labels - 1; i > 0; i--) {
            int32_t j = (int32_t)(check_random() % (uint32_t)(i + 1)), keep = test_order[i];
            test_order[i] = test_order[j];
            test_order[j] = keep;
        }
        options.order = test_order;
    }
    return options;
}

/* A layer whose weights, biases and states are all different from 0 (padding excepted), as after some training. */
static haste_layer test_layer(const haste_layer_options *options)
{
    haste_layer layer;
    int32_t k;
    memset(&layer, 0, sizeof layer);
    if (haste_layer_create(&layer, options, &test_error) != HASTE_OK) {
        printf("no layer: %s\n", test_error.text);
        exit(1);
    }
    for (k = 0; k < layer.block_count; k++) {
        haste_block *block = &layer.block[k];
        int64_t S = block->group_size, F = block->fan_in, i;
        for (i = 0; i < block->groups * F * S; i++) {
            int64_t slot = i / (F * S) * S + i % S;
            if (slot >= block->labels) continue;
            test_put(layer.dtype, block->weight, (size_t)i, check_normal() * (float)(1 / sqrt((double)F)));
            if (block->weight_state[0]) test_put(layer.state_dtype, block->weight_state[0], (size_t)i, check_normal() * .01f);
            if (block->weight_state[1]) test_put(layer.state_dtype, block->weight_state[1], (size_t)i, (1.1f + check_normal() * .1f) * .001f);
        }
        for (i = 0; i < block->labels; i++) {
            block->bias[i] = check_normal();
            if (block->bias_state[0]) block->bias_state[0][i] = check_normal() * .01f;
            if (block->bias_state[1]) block->bias_state[1][i] = (1.1f + check_normal() * .1f) * .001f;
        }
    }
    return layer;
}

static int64_t test_weights(const haste_block *block) { return block->groups * block->fan_in * block->group_size; }
static int64_t test_places(const haste_block *block)  { return block->groups * block->group_size; }

/* ---- every array of a layer, for copies and comparisons ---- */

typedef struct { void *data; size_t bytes; const char *name; } test_span;
enum { TEST_SPANS = HASTE_MAX_BLOCKS * 7 + 2 };

static int test_spans(const haste_layer *layer, test_span *span)
{
    int n = 0;
    int32_t k, i;
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *block = &layer->block[k];
        size_t weights = (size_t)test_weights(block), places = (size_t)test_places(block);
        #define SPAN(array, size, words) do { if (array) { span[n].data = (array); span[n].bytes = (size); span[n].name = words; n++; } } while (0)
        SPAN(block->index, (size_t)(block->groups * block->fan_in) * 2, "index");
        SPAN(block->weight, weights * test_width(layer->dtype), "weight");
        SPAN(block->bias, places * 4, "bias");
        for (i = 0; i < 2; i++) SPAN(block->weight_state[i], weights * test_width(layer->state_dtype), "weight_state");
        for (i = 0; i < 2; i++) SPAN(block->bias_state[i], places * 4, "bias_state");
    }
    SPAN(layer->label_of, (size_t)layer->slots * 4, "label_of");
    SPAN(layer->slot_of, (size_t)layer->labels * 4, "slot_of");
    #undef SPAN
    return n;
}

/* Do two layers of one shape hold the same bits? Names the first array that differs. */
static const char *test_difference(const haste_layer *a, const haste_layer *b)
{
    test_span span_a[TEST_SPANS], span_b[TEST_SPANS];
    int n = test_spans(a, span_a), i;
    if (n != test_spans(b, span_b)) return "the arrays";
    for (i = 0; i < n; i++) {
        if (span_a[i].bytes != span_b[i].bytes) return span_a[i].name;
        if (memcmp(span_a[i].data, span_b[i].data, span_a[i].bytes) != 0) return span_a[i].name;
    }
    if (a->step != b->step) return "step";
    if (a->rewires != b->rewires) return "rewires";
    return NULL;
}

/* A copy with arrays of its own, given back by haste_layer_free. */
static haste_layer test_copy(const haste_layer *layer)
{
    haste_layer copy = *layer;
    ptrdiff_t shift;
    int32_t k, i;
    copy.memory = haste__allocate(layer->bytes);
    if (!copy.memory) { printf("out of memory\n"); exit(1); }
    memcpy(copy.memory, layer->memory, layer->bytes);
    shift = (char *)copy.memory - (char *)layer->memory;
    #define MOVE(type, p) do { if (p) p = (type *)(void *)((char *)(p) + shift); } while (0)
    for (k = 0; k < layer->block_count; k++) {
        haste_block *block = &copy.block[k];
        MOVE(uint16_t, block->index);
        MOVE(void, block->weight);
        MOVE(float, block->bias);
        for (i = 0; i < 2; i++) { MOVE(void, block->weight_state[i]); MOVE(float, block->bias_state[i]); }
    }
    MOVE(int32_t, copy.label_of);
    MOVE(int32_t, copy.slot_of);
    #undef MOVE
    return copy;
}

/* ---- workspaces and paths ---- */

static const haste_path test_paths[] = { HASTE_PATH_PORTABLE, HASTE_PATH_AVX2, HASTE_PATH_AVX512, HASTE_PATH_NEON };
#define TEST_PATHS ((int)(sizeof test_paths / sizeof test_paths[0]))

/* chunks is small, so that the largest shapes need little memory, yet several groups share one chunk. */
static haste_workspace test_workspace(const haste_layer *layer, int32_t batch, int32_t threads, haste_path path)
{
    haste_workspace work;
    haste_workspace_options options;
    memset(&options, 0, sizeof options);
    memset(&work, 0, sizeof work);
    options.batch = batch;
    options.ids = 100000;
    options.top_k = 64;
    options.chunks = layer->inputs > 10000 ? 2 : 5;
    options.threads = threads;
    options.path = path;
    if (haste_workspace_create(&work, layer, &options, &test_error) != HASTE_OK) {
        printf("no workspace: %s\n", test_error.text);
        exit(1);
    }
    return work;
}

/* Whether this build or processor lacks a path; says so once. */
static int test_path_missing(haste_path path)
{
    static int said[8];
    haste_layer_options options = test_options(&test_shapes[0], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_workspace_options work_options;
    haste_layer layer;
    haste_workspace work;
    haste_status status;
    memset(&work_options, 0, sizeof work_options);
    work_options.path = path;
    if (haste_layer_create(&layer, &options, &test_error) != HASTE_OK) { printf("no layer: %s\n", test_error.text); exit(1); }
    status = haste_workspace_create(&work, &layer, &work_options, &test_error);
    if (status == HASTE_OK) {
        CHECK(work.path == path);
        haste_workspace_free(&work);
    } else {
        CHECK(status == HASTE_ERR_ARG);
        CHECK(path != HASTE_PATH_PORTABLE);
        if (!said[path]) printf("  skipped: path %s: %s\n", haste_path_text(path), test_error.text);
        said[path] = 1;
    }
    haste_layer_free(&layer);
    return status != HASTE_OK;
}

/* ---- batches ---- */

typedef struct {
    int32_t      B;
    float       *base, *x;   /* x is base + 1: callers' arrays are aligned to a float and no more */
    int64_t     *offset;     /* the first is 3 */
    int32_t     *id;
    haste_lists  positives;
} test_batch;

/* Lists of up to 6 ids, unordered, some twice; every fifth list is empty. */
static test_batch test_make_batch(const haste_layer *layer, int32_t B)
{
    test_batch batch;
    int32_t b, i;
    size_t n = (size_t)B * (size_t)layer->inputs, j;
    batch.B = B;
    batch.base = (float *)test_alloc((n + 1) * sizeof(float));
    batch.x = batch.base + 1;
    for (j = 0; j < n; j++) batch.x[j] = n < 1000000 ? check_normal() : (float)((int32_t)check_random() - 0x40000000) * 0x1p-30f;
    batch.offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof(int64_t));
    batch.id = (int32_t *)test_alloc(((size_t)B * 6 + 3) * sizeof(int32_t));
    for (i = 0; i < 3; i++) batch.id[i] = -77;   /* before offset[0]: must not be read */
    batch.offset[0] = 3;
    for (b = 0; b < B; b++) {
        int32_t count = b % 5 == 0 && B > 1 ? 0 : (int32_t)(check_random() % 6u) + 1;
        int64_t at = batch.offset[b];
        for (i = 0; i < count; i++) {
            batch.id[at + i] = i > 0 && check_random() % 4u == 0 ? batch.id[at + i - 1]
                                                                 : (int32_t)(check_random() % (uint32_t)layer->labels);
        }
        batch.offset[b + 1] = at + count;
    }
    batch.positives.offset = batch.offset;
    batch.positives.id = batch.id;
    return batch;
}

static void test_free_batch(test_batch *batch) { free(batch->base); free(batch->offset); free(batch->id); }

/* ---- naive float32 ---- */

/* The naive version's error is one draw, and a lucky one now and then: where a single logit decides a softmax, one rounding makes up for
   another. So sums may be taken in several orders, and the worst of them counts: forwards, backwards, from both ends in turn. */
enum { TEST_ORDERS = 3 };
static int naive_order;
static int64_t naive_turn(int64_t i, int64_t n)
{
    if (naive_order == 0) return i;
    return naive_order == 1 || i % 2 ? n - 1 - (naive_order == 1 ? i : i / 2) : i / 2;
}

static void naive_forward(const haste_layer *layer, const float *x, int32_t B, float *logits)
{
    int64_t b, i, f;
    int32_t k;
    for (b = 0; b < B; b++) for (k = 0; k < layer->block_count; k++) {
        const haste_block *block = &layer->block[k];
        int64_t S = block->group_size, F = block->fan_in;
        for (i = 0; i < block->groups * S; i++) {
            float z = 0;
            if (i < block->labels) {
                z = block->bias[i];
                for (f = 0; f < F; f++) {
                    int64_t turn = naive_turn(f, F);
                    float w = test_get(layer->dtype, block->weight, (size_t)((i / S * F + turn) * S + i % S));
                    z += w * x[b * layer->inputs + block->begin + (block->index ? block->index[i / S * F + turn] : turn)];
                }
            }
            logits[b * layer->slots + block->first_slot + i] = z;
        }
    }
}

static void naive_loss(const haste_layer *layer, const float *logits, int32_t B, haste_lists positives, int64_t divisor,
                       float *loss, float *grad)
{
    int64_t b, j, i;
    float total = 0;
    for (b = 0; b < B; b++) {
        const float *z = logits + b * layer->slots;
        float *g = grad + b * layer->slots, n = 0, largest = -HUGE_VALF, sum = 0;
        for (i = 0; i < layer->slots; i++) g[i] = 0;
        for (j = positives.offset[b]; j < positives.offset[b + 1]; j++) g[layer->slot_of[positives.id[j]]] = 1;
        for (i = 0; i < layer->slots; i++) n += g[i];
        for (i = 0; i < layer->slots; i++) if (layer->label_of[i] >= 0 && z[i] > largest) largest = z[i];
        for (j = 0; j < layer->slots; j++) if (layer->label_of[i = naive_turn(j, layer->slots)] >= 0) sum += expf(z[i] - largest);
        for (i = 0; i < layer->slots; i++) {
            float y = g[i], value = 0, slope = 0;
            if (layer->label_of[i] < 0) continue;
            if (layer->loss == HASTE_BCE) {
                value = (z[i] > 0 ? z[i] : 0) - y * z[i] + log1pf(expf(-fabsf(z[i])));
                slope = 1 / (1 + expf(-z[i])) - y;
            } else if (layer->loss == HASTE_SQUARED_HINGE) {
                float sign = 2 * y - 1, margin = 1 - sign * z[i];
                if (margin > 0) { value = margin * margin; slope = -2 * sign * margin; }
            } else if (n > 0) {
                if (y > 0) value = (largest + logf(sum) - z[i]) / n;
                slope = expf(z[i] - largest) / sum - y / n;
            }
            total += value;
            g[i] = slope / (float)(divisor ? divisor : B);
        }
    }
    *loss = total / (float)(divisor ? divisor : B);
}

/* grad_weight and grad_bias: one array per block, grad_x [B, D]; all (=). */
static void naive_backward(const haste_layer *layer, const float *x, int32_t B, const float *grad, float **grad_weight,
                           float **grad_bias, float *grad_x)
{
    int64_t b, i, f, turn_i, turn_b;
    int32_t k;
    memset(grad_x, 0, (size_t)B * (size_t)layer->inputs * sizeof(float));
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *block = &layer->block[k];
        int64_t S = block->group_size, F = block->fan_in;
        memset(grad_weight[k], 0, (size_t)test_weights(block) * sizeof(float));
        memset(grad_bias[k], 0, (size_t)test_places(block) * sizeof(float));
        for (turn_i = 0; turn_i < block->labels; turn_i++) for (turn_b = 0; turn_b < B; turn_b++) {
            float g;
            i = naive_turn(turn_i, block->labels);
            b = naive_turn(turn_b, B);
            g = grad[b * layer->slots + block->first_slot + i];
            grad_bias[k][i] += g;
            for (f = 0; f < F; f++) {
                int64_t place = (i / S * F + f) * S + i % S;
                int64_t column = b * layer->inputs + block->begin + (block->index ? block->index[i / S * F + f] : f);
                grad_weight[k][place] += g * x[column];
                grad_x[column] += g * test_get(layer->dtype, block->weight, (size_t)place);
            }
        }
    }
}

static float naive_update(haste_optimizer optimizer, const haste_step_options *o, int64_t t, int decay, float w, float g, float *m,
                          float *v)
{
    float wd = decay ? o->weight_decay : 0, mu = o->momentum != 0 ? o->momentum : .9f;
    float beta1 = o->beta1 != 0 ? o->beta1 : .9f, beta2 = o->beta2 != 0 ? o->beta2 : .999f, eps = o->eps != 0 ? o->eps : 1e-8f;
    if (optimizer == HASTE_SGD) return w - o->lr * (g + wd * w);
    if (optimizer == HASTE_MOMENTUM) {
        *m = mu * *m + (g + wd * w);
        return w - o->lr * *m;
    }
    w -= o->lr * wd * w;
    *m = beta1 * *m + (1 - beta1) * g;
    *v = beta2 * *v + (1 - beta2) * g * g;
    /* The corrections in double, as PyTorch has them. */
    return w - o->lr * (*m / (float)(1 - pow((double)beta1, (double)t)))
             / (sqrtf(*v / (float)(1 - pow((double)beta2, (double)t))) + eps);
}

/* ---- errors against double ---- */

typedef struct { double largest, square, scale; int64_t n, worst; } test_errors;   /* scale: the largest exact value */

static void test_add_error(test_errors *errors, double got, double want)
{
    double error = fabs(got - want);
    if (!(error <= errors->largest)) { errors->largest = error; errors->worst = errors->n; }   /* NaN is kept */
    errors->square += error * error;
    if (fabs(want) > errors->scale) errors->scale = fabs(want);
    errors->n++;
}

/* At most twice the error of the naive version, in the mean over an array; a single number may be four times as far off as the
   naive version's worst, since which of thousands is unlucky is chance. Both have half the last bit of the largest value as
   their floor; two bits where there are so few values that the naive version may have been lucky with all of them. */
static double test_floor(const test_errors *naive) { return naive->scale * (naive->n < 200 ? 0x1p-22 : 0x1p-24) + 1e-44; }
static double test_allowed(const test_errors *naive) { return 4 * naive->largest + test_floor(naive); }

static int test_judge(const test_errors *got, const test_errors *naive, const char *what, int line)
{
    double rms = got->n ? sqrt(got->square / (double)got->n) : 0, naive_rms = naive->n ? sqrt(naive->square / (double)naive->n) : 0;
    int ok = got->largest <= test_allowed(naive) && rms <= 2 * naive_rms + test_floor(naive) / 2;
    if (!check_that(ok, __FILE__, line, what) && check_failures < 20) {
        printf("    line %d: largest error %.3g at %lld (naive %.3g), rms %.3g (naive %.3g), largest value %.3g, of %lld\n", line,
               got->largest, (long long)got->worst, naive->largest, rms, naive_rms, naive->scale, (long long)got->n);
    }
    return ok;
}

/* ---- gradients of all blocks, in double and in float ---- */

typedef struct {
    double *weight[HASTE_MAX_BLOCKS], *bias[HASTE_MAX_BLOCKS];
    float  *naive_weight[HASTE_MAX_BLOCKS], *naive_bias[HASTE_MAX_BLOCKS];
} test_gradients;

static test_gradients test_make_gradients(const haste_layer *layer)
{
    test_gradients gradients;
    int32_t k;
    for (k = 0; k < layer->block_count; k++) {
        size_t weights = (size_t)test_weights(&layer->block[k]), places = (size_t)test_places(&layer->block[k]);
        gradients.weight[k] = test_doubles(weights);
        gradients.bias[k] = test_doubles(places);
        gradients.naive_weight[k] = (float *)test_zeros(weights * 4);
        gradients.naive_bias[k] = (float *)test_zeros(places * 4);
    }
    return gradients;
}

static void test_free_gradients(test_gradients *gradients, const haste_layer *layer)
{
    int32_t k;
    for (k = 0; k < layer->block_count; k++) {
        free(gradients->weight[k]);
        free(gradients->bias[k]);
        free(gradients->naive_weight[k]);
        free(gradients->naive_bias[k]);
    }
}

static const char *test_loss_name(haste_loss loss) { return loss == HASTE_BCE ? "bce" : loss == HASTE_SOFTMAX ? "softmax" : "hinge"; }

/* Unused in some programs. */
static void layers_unused(void) __attribute__((unused));
static void layers_unused(void)
{
    (void)test_bf16_neighbours; (void)test_layer; (void)test_difference; (void)test_copy; (void)test_workspace;
    (void)test_path_missing; (void)test_make_batch; (void)test_free_batch; (void)naive_forward; (void)naive_loss;
    (void)naive_backward; (void)naive_update; (void)test_add_error; (void)test_judge; (void)test_make_gradients;
    (void)test_free_gradients; (void)test_loss_name; (void)test_paths; (void)test_get; (void)test_put; (void)test_zeros;
}

#endif /* LAYERS_H */
