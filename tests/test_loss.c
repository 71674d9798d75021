/* What a loss can be asked for: weights, offsets, margins, smoothing, ignored labels, a loss of one's own, part of the groups,
   rates of blocks, clipping, softmax over shards; against double. */
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static const haste_loss  losses[] = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
static const int         shapes[] = { 0, 1, 4, 5, 11, 12 };
enum { SHAPES = 6 };

/* ---- random wishes ---- */

enum { SAMPLE_WEIGHT = 1, LABEL_WEIGHT = 2, LABEL_SCALE = 4, LABEL_OFFSET = 8, IGNORED = 16, LOGIT_SCALE = 32, MARGIN = 64, POSITIVE_WEIGHT = 128,
       SMOOTHING = 256, VALUE = 512, SCALE = 1024, ONE_ID = 2048, NEGLIGIBLE = 4096, WISHES = 13 };

typedef struct {
    haste_loss_options o;
    haste_lists positives, ignored;
    float   *sample_weight, *label_weight, *label_scale, *label_offset, *value;
    int64_t *ignored_offset;
    int32_t *ignored_id, *one;
} wish;

static float between(float least, float most) { return least + (most - least) * (float)(check_random() % 10001u) / 10000; }

static float *floats_between(size_t n, float least, float most)
{
    float *a = (float *)test_alloc((n + 1) * sizeof *a);
    size_t i;
    for (i = 0; i < n; i++) a[i] = between(least, most);
    return a;
}

static wish make_wish(int what, const haste_layer *layer, const test_batch *batch)
{
    wish w;
    const int32_t B = batch->B, L = layer->labels;
    int32_t b;
    int64_t n = 0;
    memset(&w, 0, sizeof w);
    w.positives = batch->positives;
    if (what & ONE_ID) {
        w.one = (int32_t *)test_alloc((size_t)B * sizeof *w.one);
        for (b = 0; b < B; b++) w.one[b] = b % 4 == 3 ? -1 : (int32_t)(check_random() % (uint32_t)L);
        w.positives.offset = NULL;
        w.positives.id = w.one;
    }
    if (what & SAMPLE_WEIGHT) {
        w.o.sample_weight = w.sample_weight = floats_between((size_t)B, 0, 3);
        if (B > 2) w.sample_weight[1] = 0;
    }
    if (what & LABEL_WEIGHT) w.o.label_weight = w.label_weight = floats_between((size_t)L, .1f, 4);
    if (what & LABEL_SCALE) w.o.label_scale = w.label_scale = floats_between((size_t)L, -1, 2);
    if (what & LABEL_OFFSET) w.o.label_offset = w.label_offset = floats_between((size_t)L, -2, 2);
    if (what & VALUE) w.o.positive_value = w.value = floats_between((size_t)batch->offset[B] + (size_t)B, 0, 1.5f);
    if (what & IGNORED) {   /* duplicates, and some of the positives */
        w.ignored_offset = (int64_t *)test_alloc(((size_t)B + 1) * sizeof *w.ignored_offset);
        w.ignored_id = (int32_t *)test_alloc((size_t)B * 5 * sizeof *w.ignored_id);
        for (b = 0; b < B; b++) {
            int i, count = b % 3 == 1 ? 0 : (int)(check_random() % 5u);
            w.ignored_offset[b] = n;
            for (i = 0; i < count; i++, n++)
                w.ignored_id[n] = i == 0 && w.positives.offset && batch->offset[b] < batch->offset[b + 1] ? batch->id[batch->offset[b]]
                                : i == 3 ? w.ignored_id[n - 1] : (int32_t)(check_random() % (uint32_t)L);
        }
        w.ignored_offset[B] = n;
        w.ignored.offset = w.ignored_offset;
        w.ignored.id = w.ignored_id;
    }
    if (what & LOGIT_SCALE) w.o.logit_scale = 1.7f;
    if (what & MARGIN) w.o.margin = .4f;
    if (what & POSITIVE_WEIGHT && layer->loss != HASTE_SOFTMAX) w.o.positive_weight = 2.5f;
    if (what & SMOOTHING && layer->loss != HASTE_SQUARED_HINGE && !(layer->loss == HASTE_SOFTMAX && what & LABEL_WEIGHT)) w.o.smoothing = .2f;
    if (what & SCALE) w.o.scale = -.37;
    if (what & NEGLIGIBLE) w.o.negligible = .05f;
    return w;
}

/* Its lists, which must lie where the struct now does. */
static const haste_loss_options *wanted(wish *w)
{
    w->o.ignored = w->ignored_offset ? &w->ignored : NULL;
    return &w->o;
}

static void free_wish(wish *w)
{
    free(w->sample_weight); free(w->label_weight); free(w->label_scale); free(w->label_offset); free(w->value);
    free(w->ignored_offset); free(w->ignored_id); free(w->one);
}

/* ---- judging ---- */

/* Reference of a batch; beside each gradient the sum of its terms' sizes, of which the error must be a small part. */
typedef struct { test_gradients gradient, size; double *logits, *slopes, *sizes, *grad_x, *size_x, loss; } reference;

static reference make_reference(const haste_layer *layer, const test_batch *batch, const haste_lists *positives, const haste_loss_options *o)
{
    reference r;
    const size_t n = (size_t)batch->B * (size_t)layer->slots, inputs = (size_t)batch->B * (size_t)layer->inputs;
    haste_layer absolute = test_copy(layer);
    float *x = (float *)test_alloc(inputs * sizeof *x);
    double largest = 0;
    size_t i;
    int32_t k;
    r.gradient = test_make_gradients(layer);
    r.size = test_make_gradients(layer);
    r.logits = test_doubles(n);
    r.slopes = test_doubles(n);
    r.sizes = test_doubles(n);
    r.grad_x = test_doubles(inputs);
    r.size_x = test_doubles(inputs);
    haste_forward_ref(layer, batch->x, batch->B, r.logits);
    haste_loss_ref(layer, r.logits, batch->B, positives, o, &r.loss, r.slopes);
    haste_backward_ref(layer, batch->x, batch->B, r.slopes, r.gradient.weight, r.gradient.bias, r.grad_x);
    for (i = 0; i < n; i++) if (fabs(r.slopes[i]) > largest) largest = fabs(r.slopes[i]);
    for (i = 0; i < n; i++) r.sizes[i] = fabs(r.slopes[i]) + (layer->label_of[i % (size_t)layer->slots] >= 0 ? largest : 0);
    for (i = 0; i < inputs; i++) x[i] = fabsf(batch->x[i]);
    for (k = 0; k < layer->block_count; k++)
        for (i = 0; i < (size_t)test_weights(&layer->block[k]); i++)
            test_put(layer->dtype, absolute.block[k].weight, i, fabsf(test_get(layer->dtype, layer->block[k].weight, i)));
    haste_backward_ref(&absolute, x, batch->B, r.sizes, r.size.weight, r.size.bias, r.size_x);
    free(x);
    haste_layer_free(&absolute);
    return r;
}

static void free_reference(reference *r, const haste_layer *layer)
{
    test_free_gradients(&r->gradient, layer);
    test_free_gradients(&r->size, layer);
    free(r->logits); free(r->slopes); free(r->sizes); free(r->grad_x); free(r->size_x);
}

static int bad_count;

/* got must lie within 4e-6 of the sum of sizes: some 60 roundings. bf16: the layer's weights are exact, x is not rounded. */
static void near_sizes(double got, double want, double size, const char *what, const char *name)
{
    const int within = fabs(got - want) <= 4e-6 * size + 1e-30;
    if (!CHECK(within) && bad_count++ < 10) printf("    %s, %s: got %.9g, want %.9g, sizes %.3g\n", what, name, got, want, size);
}

/* ---- the reference itself ---- */

/* Slopes of haste_loss_ref are the derivatives of its loss. */
static void finite_differences(void)
{
    int loss, turn;
    for (loss = 0; loss < 3; loss++) for (turn = 0; turn < 30; turn++) {
        static const test_shape shape = { "small", 19, 6, 2, { { 7, 8, 3, 0, 0 }, { 0, 8, 4, 0, 0 } }, 1 };
        haste_layer_options layer_options = test_options(&shape, losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&layer_options);
        test_batch batch = test_make_batch(&layer, 6);
        wish w = make_wish(turn == 0 ? 0 : (int)(check_random() & ((1 << WISHES) - 1)) & ~NEGLIGIBLE, &layer, &batch);
        const haste_loss_options *o = wanted(&w);
        const size_t n = 6 * (size_t)layer.slots;
        double *z = test_doubles(n), *slope = test_doubles(n), *other = test_doubles(n), value, up, down;
        size_t i;
        haste_forward_ref(&layer, batch.x, 6, z);
        haste_loss_ref(&layer, z, 6, &w.positives, o, &value, slope);
        for (i = 0; i < n; i++) {
            const double h = 1e-5, keep = z[i];
            z[i] = keep + h;
            haste_loss_ref(&layer, z, 6, &w.positives, o, &up, other);
            z[i] = keep - h;
            haste_loss_ref(&layer, z, 6, &w.positives, o, &down, other);
            z[i] = keep;
            CHECK_NEAR((up - down) / (2 * h), slope[i], 2e-6 * (1 + fabs(slope[i])));
        }
        free(z); free(slope); free(other);
        free_wish(&w);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* ---- all wishes ---- */

static const int together[] = { SMOOTHING | IGNORED, SMOOTHING | VALUE, SMOOTHING | LABEL_WEIGHT | POSITIVE_WEIGHT | IGNORED, ONE_ID | VALUE | SMOOTHING,
                                LABEL_SCALE | LOGIT_SCALE | MARGIN | LABEL_OFFSET, SAMPLE_WEIGHT | LABEL_WEIGHT | VALUE };
enum { TOGETHER = sizeof together / sizeof together[0] };

/* haste_evaluate, haste_accumulate and haste_train_step give the reference's loss and gradients; scratch is poisoned. */
static void against_double(void)
{
    int path, loss, i, turn;
    for (path = 0; path < TEST_PATHS; path++) for (loss = 0; loss < 3; loss++) for (i = 0; i < SHAPES; i++) for (turn = 0; turn < WISHES + TOGETHER + 2; turn++) {
        haste_layer_options layer_options = test_options(&test_shapes[shapes[i]], losses[loss], HASTE_SGD, turn % 3 == 2 ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        const int32_t B = turn % 2 ? 37 : 3;
        const int what = turn < WISHES ? 1 << turn : turn < WISHES + TOGETHER ? together[turn - WISHES] : (int)(check_random() & ((1 << WISHES) - 1));
        haste_layer start, layer;
        haste_step_options options;
        haste_gradient gradient;
        haste_workspace work;
        test_batch batch;
        reference r;
        wish w;
        double value = -1;
        float *grad_x;
        char name[120];
        size_t inputs, j;
        int32_t k;
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        layer = test_copy(&start);
        batch = test_make_batch(&layer, B);
        w = make_wish(what, &layer, &batch);
        inputs = (size_t)B * (size_t)layer.inputs;
        grad_x = (float *)test_zeros(inputs * sizeof *grad_x);
        r = make_reference(&layer, &batch, &w.positives, wanted(&w));
        work = test_workspace(&layer, B, 2, test_paths[path]);
        memset(work.memory, 0xff, work.bytes);
        snprintf(name, sizeof name, "%s, %s, %s, wish %x, B %d", haste_path_text(work.path), test_loss_name(losses[loss]), test_shapes[shapes[i]].name,
                 what, (int)B);
        CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, B, &w.positives, wanted(&w), &value, grad_x, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&layer, &start) == NULL);
        CHECK_NEAR(value, r.loss, 3e-6 * (fabs(r.loss) + fabs(w.o.scale != 0 ? w.o.scale : 1)));
        for (j = 0; j < inputs; j++) near_sizes((double)grad_x[j], r.grad_x[j], r.size_x[j], name, "grad_x");

        memset(&options, 0, sizeof options);
        options.loss = *wanted(&w);
        options.lr = 1;
        memset(work.memory, 0xff, work.bytes);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        value = -1;
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, B, &w.positives, &options, &gradient, &value, NULL, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(value, r.loss, 3e-6 * (fabs(r.loss) + fabs(w.o.scale != 0 ? w.o.scale : 1)));
        for (k = 0; k < layer.block_count; k++) {
            for (j = 0; j < (size_t)test_weights(&layer.block[k]); j++)
                near_sizes((double)gradient.weight[k][j], r.gradient.weight[k][j], r.size.weight[k][j], name, "weight");
            for (j = 0; j < (size_t)test_places(&layer.block[k]); j++)
                near_sizes((double)gradient.bias[k][j], r.gradient.bias[k][j], r.size.bias[k][j], name, "bias");
        }
        /* a step moves float32 weights by just that, without the loss being asked for */
        if (layer.dtype == HASTE_F32) {
            memset(work.memory, 0xff, work.bytes);
            CHECK_STATUS(haste_train_step(&layer, &work, batch.x, B, &w.positives, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
            for (k = 0; k < layer.block_count; k++)
                for (j = 0; j < (size_t)test_weights(&layer.block[k]); j++) {
                    const double was = (double)((float *)start.block[k].weight)[j];
                    near_sizes((double)((float *)layer.block[k].weight)[j], was - r.gradient.weight[k][j], r.size.weight[k][j] + fabs(was), name, "step");
                }
        }
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        free(grad_x);
        free_reference(&r, &layer);
        free_wish(&w);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&start);
    }
}

/* ---- a loss of one's own ---- */

typedef struct { double gamma; int32_t B, labels_seen; } focal_context;

/* Focal loss: -(1 - p)^gamma log p with p the probability of what is true; gamma 0 is BCE. */
static double focal(double u, double y, double gamma, double *slope)
{
    const double sign = y > 0 ? 1 : -1, v = sign * u, p = 1 / (1 + exp(-v)), q = 1 / (1 + exp(v)), log_p = -haste__softplus(-v);
    *slope = sign * (pow(q, gamma) * (gamma * p * log_p - q));
    return -pow(q, gamma) * log_p;
}

static void focal_tile(void *context, const haste_loss_tile *t)
{
    const focal_context *c = (const focal_context *)context;
    int s, b;
    for (s = 0; s < t->labels; s++) for (b = 0; b < t->samples; b++) {
        double slope;
        t->loss[b] += (float)focal((double)t->logit[s * 32 + b], (double)t->target[s * 32 + b], c->gamma, &slope);
        t->logit[s * 32 + b] = (float)slope;
    }
    for (s = 0; s < t->labels; s++)   /* columns that do not count may hold anything, as vector code leaves it */
        for (b = t->samples; b < 32; b++) t->logit[s * 32 + b] = HUGE_VALF - HUGE_VALF;
}

static void own_loss(void)
{
    int path, i, kind;
    for (path = 0; path < TEST_PATHS; path++) for (i = 0; i < SHAPES; i++) for (kind = 0; kind < 3; kind++) {
        haste_layer_options layer_options = test_options(&test_shapes[shapes[i]], kind == 2 ? HASTE_SOFTMAX : HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        haste_gradient gradient;
        test_batch batch;
        focal_context context;
        wish w;
        double *z, *slope, value, want = 0, *want_x;
        float *grad_x;
        test_gradients reference_gradient;
        int32_t B = 37, b;
        int64_t slot;
        size_t j, inputs;
        if (test_path_missing(test_paths[path])) continue;
        context.gamma = kind == 0 ? 0 : 2;
        layer = test_layer(&layer_options);
        batch = test_make_batch(&layer, B);
        w = make_wish(kind == 1 ? SAMPLE_WEIGHT | LABEL_SCALE | LABEL_OFFSET | MARGIN | LOGIT_SCALE | SCALE : 0, &layer, &batch);
        w.o.function = focal_tile;
        w.o.context = &context;
        inputs = (size_t)B * (size_t)layer.inputs;
        grad_x = (float *)test_zeros(inputs * sizeof *grad_x);
        z = test_doubles((size_t)B * (size_t)layer.slots);
        slope = test_doubles((size_t)B * (size_t)layer.slots);
        want_x = test_doubles(inputs);
        reference_gradient = test_make_gradients(&layer);
        haste_forward_ref(&layer, batch.x, B, z);
        for (b = 0; b < B; b++) for (slot = 0; slot < layer.slots; slot++) {
            const int32_t id = layer.label_of[slot];
            const size_t at = (size_t)b * (size_t)layer.slots + (size_t)slot;
            const double scale = (w.o.scale != 0 ? w.o.scale : 1.0 / B) * (w.sample_weight ? (double)w.sample_weight[b] : 1);
            int64_t n;
            double y = 0, factor;
            slope[at] = 0;
            if (id < 0) continue;
            for (n = batch.offset[b]; n < batch.offset[b + 1]; n++) if (batch.id[n] == id) y = 1;
            factor = (w.o.logit_scale != 0 ? (double)w.o.logit_scale : 1) * (w.label_scale ? (double)w.label_scale[id] : 1);
            want += scale * focal(factor * (z[at] - y * (double)w.o.margin) + (w.label_offset ? (double)w.label_offset[id] : 0), y, context.gamma, &slope[at]);
            slope[at] *= scale * factor;
        }
        haste_backward_ref(&layer, batch.x, B, slope, reference_gradient.weight, reference_gradient.bias, want_x);
        work = test_workspace(&layer, B, 2, test_paths[path]);
        memset(work.memory, 0xff, work.bytes);
        memset(&options, 0, sizeof options);
        options.loss = *wanted(&w);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, B, &batch.positives, &options, &gradient, &value, grad_x, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(value, want, 3e-6 * (fabs(want) + 1));
        for (j = 0; j < inputs; j++) CHECK_NEAR((double)grad_x[j], want_x[j], 2e-5 * (1 + fabs(want_x[j])));
        for (b = 0; b < layer.block_count; b++)
            for (j = 0; j < (size_t)test_weights(&layer.block[b]); j++)
                CHECK_NEAR((double)gradient.weight[b][j], reference_gradient.weight[b][j], 2e-5 * (1 + fabs(reference_gradient.weight[b][j])));
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_gradients(&reference_gradient, &layer);
        free(z); free(slope); free(want_x); free(grad_x);
        free_wish(&w);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* ---- part of the groups ---- */

/* Groups with a positive are always visited, the others by chance; what is not visited stays; the mean over many steps is the
   full loss and gradient; the same step gives the same bits for any number of threads. */
static void share_of_groups(void)
{
    enum { STEPS = 400, B = 5 };
    static const test_shape shape = { "many groups", 1600, 40, 2, { { 320, 8, 12, 0, 0 }, { 0, 16, 10, 0, 0 } }, 1 };
    int loss;
    for (loss = 0; loss < 3; loss++) {
        haste_layer_options layer_options = test_options(&shape, losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&layer_options), first, second;
        test_batch batch = test_make_batch(&layer, B);
        haste_workspace work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO), more = test_workspace(&layer, B, 3, HASTE_PATH_AUTO);
        haste_loss_options o;
        haste_step_options options;
        double full, value, sum = 0, squares = 0, *sum_x = test_doubles(B * 40), *squares_x = test_doubles(B * 40), mean, deviation;
        float *full_x = (float *)test_zeros(B * 40 * sizeof(float)), *grad_x = (float *)test_zeros(B * 40 * sizeof(float));
        int64_t step, g, kept = 0, groups = 0;
        int32_t k, i;
        memset(&o, 0, sizeof o);
        CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, B, &batch.positives, &o, &full, full_x, &test_error), HASTE_OK, test_error);
        o.share = .25f;
        for (i = 0; i < B * 40; i++) sum_x[i] = squares_x[i] = 0;
        for (step = 0; step < STEPS; step++) {
            layer.step = step;
            memset(grad_x, 0, B * 40 * sizeof(float));
            CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, B, &batch.positives, &o, &value, grad_x, &test_error), HASTE_OK, test_error);
            sum += value;
            squares += value * value;
            for (i = 0; i < B * 40; i++) { sum_x[i] += (double)grad_x[i]; squares_x[i] += (double)grad_x[i] * (double)grad_x[i]; }
        }
        mean = sum / STEPS;
        deviation = sqrt((squares / STEPS - mean * mean) / STEPS);
        /* a softmax's logarithm is not linear: its mean is a little below */
        CHECK(fabs(mean - full) < 5 * deviation + (losses[loss] == HASTE_SOFTMAX ? .02 * fabs(full) : 1e-6 * fabs(full)));
        for (i = 0; i < B * 40 && losses[loss] != HASTE_SOFTMAX; i++) {
            mean = sum_x[i] / STEPS;
            deviation = sqrt((squares_x[i] / STEPS - mean * mean) / STEPS);
            CHECK(fabs(mean - (double)full_x[i]) < 5.5 * deviation + 1e-6);
        }
        layer.step = 3;
        first = test_copy(&layer);
        second = test_copy(&layer);
        memset(&options, 0, sizeof options);
        options.loss = o;
        options.lr = .1f;
        options.weight_decay = .1f;
        CHECK_STATUS(haste_train_step(&first, &work, batch.x, B, &batch.positives, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_train_step(&second, &more, batch.x, B, &batch.positives, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&first, &second) == NULL);
        for (k = 0; k < 2; k++) {
            const haste_block *block = &layer.block[k];
            const size_t n = (size_t)(block->group_size * block->fan_in);
            for (g = 0; g < block->groups; g++, groups++) {
                const int same = memcmp((float *)first.block[k].weight + (size_t)g * n, (float *)block->weight + (size_t)g * n, n * 4) == 0;
                int positive = 0, j;
                for (i = 0; i < block->group_size; i++)
                    for (j = (int)batch.offset[0]; j < batch.offset[B]; j++)
                        positive |= layer.label_of[block->first_slot + g * block->group_size + i] == batch.id[j];
                kept += same;
                if (positive) CHECK(!same);
                else CHECK(same == (memcmp(first.block[k].bias + g * block->group_size, block->bias + g * block->group_size, (size_t)block->group_size * 4) == 0));
            }
        }
        CHECK(kept > groups / 2 && kept < groups * 9 / 10);
        free(sum_x); free(squares_x); free(full_x); free(grad_x);
        haste_workspace_free(&work);
        haste_workspace_free(&more);
        test_free_batch(&batch);
        haste_layer_free(&first);
        haste_layer_free(&second);
        haste_layer_free(&layer);
    }
}

/* ---- blocks, norms, clipping ---- */

static int same_block(const haste_layer *a, const haste_layer *b, int32_t k)
{
    const haste_block *p = &a->block[k], *q = &b->block[k];
    int i, same = memcmp(p->weight, q->weight, (size_t)test_weights(p) * 4) == 0 && memcmp(p->bias, q->bias, (size_t)test_places(p) * 4) == 0;
    for (i = 0; i < (int)a->optimizer; i++)
        same &= memcmp(p->weight_state[i], q->weight_state[i], (size_t)test_weights(p) * 4) == 0 &&
                memcmp(p->bias_state[i], q->bias_state[i], (size_t)test_places(p) * 4) == 0;
    return same;
}

/* A frozen block stays bit for bit, and the others and grad_x are as without; a block's rates act as if they were the step's. */
static void rates_of_blocks(void)
{
    int optimizer, apply;
    for (optimizer = 0; optimizer < 3; optimizer++) for (apply = 0; apply < 2; apply++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_BCE, (haste_optimizer)optimizer, HASTE_F32, HASTE_F32);
        haste_layer start = test_layer(&layer_options), layer[4];
        test_batch batch = test_make_batch(&start, 20);
        haste_workspace work = test_workspace(&start, 20, 2, HASTE_PATH_AUTO);
        haste_gradient gradient;
        haste_block_rates rates[3];
        float *grad_x[4];
        const size_t bytes = 20 * 64 * sizeof(float);
        int i;
        CHECK_STATUS(haste_gradient_create(&gradient, &start, &test_error), HASTE_OK, test_error);
        for (i = 0; i < 4; i++) {   /* plain; block 1 frozen; block 2 with rates of its own; these for all */
            haste_step_options options;
            memset(&options, 0, sizeof options);
            memset(rates, 0, sizeof rates);
            options.lr = i == 3 ? .05f : .1f;
            options.weight_decay = i == 3 ? 0 : .2f;
            options.momentum = i == 3 ? .5f : 0;
            options.beta1 = i == 3 ? HASTE_NONE : 0;
            options.beta2 = i == 3 ? .95f : 0;
            if (i == 1) rates[1].frozen = 1;
            if (i == 2) {
                rates[2].lr = .05f;
                rates[2].weight_decay = HASTE_NONE;
                rates[2].momentum = .5f;
                rates[2].beta1 = HASTE_NONE;
                rates[2].beta2 = .95f;
            }
            options.block = i == 1 || i == 2 ? rates : NULL;
            layer[i] = test_copy(&start);
            grad_x[i] = (float *)test_zeros(bytes);
            if (apply) {
                CHECK_STATUS(haste_accumulate(&layer[i], &work, batch.x, 20, &batch.positives, &options, &gradient, NULL, grad_x[i], &test_error), HASTE_OK,
                             test_error);
                CHECK_STATUS(haste_apply(&layer[i], &work, &gradient, &options, &test_error), HASTE_OK, test_error);
            } else
                CHECK_STATUS(haste_train_step(&layer[i], &work, batch.x, 20, &batch.positives, &options, NULL, grad_x[i], &test_error), HASTE_OK, test_error);
        }
        CHECK(!same_block(&layer[0], &start, 0) && !same_block(&layer[0], &start, 1) && !same_block(&layer[0], &start, 2));
        CHECK(same_block(&layer[1], &layer[0], 0) && same_block(&layer[1], &start, 1) && same_block(&layer[1], &layer[0], 2));
        CHECK(same_block(&layer[2], &layer[0], 0) && same_block(&layer[2], &layer[0], 1) && same_block(&layer[2], &layer[3], 2));
        for (i = 1; i < 4; i++) CHECK(memcmp(grad_x[i], grad_x[0], bytes) == 0);
        for (i = 0; i < 4; i++) { free(grad_x[i]); haste_layer_free(&layer[i]); }
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* The norm is that of the reference; haste_apply scales all gradients down to the bound, haste_train_step each group's. */
static void norms(void)
{
    int path;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer start, layer;
        haste_workspace work;
        haste_gradient gradient;
        haste_step_options options;
        haste_loss_options plain;
        test_batch batch;
        reference r;
        double squares = 0, norm = -1;
        int64_t g, j, clipped = 0, whole = 0;
        int32_t k;
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        batch = test_make_batch(&start, 33);
        work = test_workspace(&start, 33, 2, test_paths[path]);
        memset(&plain, 0, sizeof plain);
        memset(&options, 0, sizeof options);
        r = make_reference(&start, &batch, &batch.positives, &plain);
        for (k = 0; k < start.block_count; k++) {
            for (j = 0; j < test_weights(&start.block[k]); j++) squares += r.gradient.weight[k][j] * r.gradient.weight[k][j];
            for (j = 0; j < test_places(&start.block[k]); j++) squares += r.gradient.bias[k][j] * r.gradient.bias[k][j];
        }
        options.lr = 1;
        options.grad_norm = &norm;
        layer = test_copy(&start);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, 33, &batch.positives, &options, &gradient, NULL, NULL, &test_error), HASTE_OK, test_error);
        options.clip = (float)(sqrt(squares) / 3);
        norm = -1;
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(norm, sqrt(squares), 1e-5 * norm);
        for (k = 0; k < start.block_count; k++)
            for (j = 0; j < test_weights(&start.block[k]); j++) {
                const double was = (double)((float *)start.block[k].weight)[j];
                near_sizes((double)((float *)layer.block[k].weight)[j], was - r.gradient.weight[k][j] / 3, r.size.weight[k][j] + fabs(was), "clip", "apply");
            }
        haste_layer_free(&layer);
        layer = test_copy(&start);
        options.clip = (float)(sqrt(squares / 12));   /* of 12 groups some are above the mean */
        norm = -1;
        CHECK_STATUS(haste_train_step(&layer, &work, batch.x, 33, &batch.positives, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(norm, sqrt(squares), 1e-5 * norm);
        for (k = 0; k < start.block_count; k++) {
            const haste_block *block = &start.block[k];
            const int64_t S = block->group_size, n = S * block->fan_in;
            for (g = 0; g < block->groups; g++) {
                double own = 0, factor;
                for (j = 0; j < n; j++) own += r.gradient.weight[k][g * n + j] * r.gradient.weight[k][g * n + j];
                for (j = 0; j < S; j++) own += r.gradient.bias[k][g * S + j] * r.gradient.bias[k][g * S + j];
                factor = sqrt(own) > (double)options.clip ? (double)options.clip / sqrt(own) : 1;
                if (factor < 1) clipped++;
                else whole++;
                for (j = 0; j < n; j++) {
                    const double was = (double)((float *)block->weight)[g * n + j];
                    near_sizes((double)((float *)layer.block[k].weight)[g * n + j], was - factor * r.gradient.weight[k][g * n + j],
                               r.size.weight[k][g * n + j] + fabs(was), "clip", "step");
                }
            }
        }
        CHECK(clipped > 0 && whole > 0);
        haste_gradient_free(&gradient);
        free_reference(&r, &start);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&start);
    }
}

/* ---- softmax over shards ---- */

/* Each block of a layer as a layer of its own: losses and gradients for x add up to those of the whole. */
static void shards(void)
{
    enum { B = 37 };
    int turn;
    for (turn = 0; turn < 8; turn++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer whole = test_layer(&layer_options), shard[3];
        test_batch batch = test_make_batch(&whole, B);
        const int what = turn == 0 ? 0 : (int)(check_random() & ((1 << WISHES) - 1)) & ~(ONE_ID | VALUE | IGNORED | NEGLIGIBLE);
        wish w = make_wish(what, &whole, &batch);
        haste_workspace work = test_workspace(&whole, B, 2, HASTE_PATH_AUTO);
        double sums[B * HASTE_SOFTMAX_SUMS], part[B * HASTE_SOFTMAX_SUMS], loss, value, total = 0;
        float *whole_x = (float *)test_zeros(B * 64 * sizeof(float)), *grad_x = (float *)test_zeros(B * 64 * sizeof(float));
        int64_t offset[3][B + 1];
        int32_t *id[3], k, b;
        haste_lists lists[3];
        float *label_weight[3], *label_scale[3], *label_offset[3];
        haste_loss_options o[3];
        int64_t j;
        CHECK_STATUS(haste_evaluate(&whole, &work, batch.x, B, &w.positives, wanted(&w), &loss, whole_x, &test_error), HASTE_OK, test_error);
        for (k = 0; k < 3; k++) {   /* labels of a shard are numbered in the order of its slots */
            const haste_block *block = &whole.block[k];
            haste_layer_options own = layer_options;
            own.labels = (int32_t)block->labels;
            own.block_count = 1;
            own.block[0] = layer_options.block[k];
            own.block[0].labels = 0;
            own.order = NULL;
            CHECK_STATUS(haste_layer_create(&shard[k], &own, &test_error), HASTE_OK, test_error);
            memcpy(shard[k].block[0].weight, block->weight, (size_t)test_weights(block) * 4);
            memcpy(shard[k].block[0].bias, block->bias, (size_t)test_places(block) * 4);
            if (block->index) memcpy(shard[k].block[0].index, block->index, (size_t)(block->groups * block->fan_in) * 2);
            id[k] = (int32_t *)test_alloc((size_t)batch.offset[B] * sizeof(int32_t));
            label_weight[k] = (float *)test_zeros((size_t)block->labels * 4);
            label_scale[k] = (float *)test_zeros((size_t)block->labels * 4);
            label_offset[k] = (float *)test_zeros((size_t)block->labels * 4);
            for (j = 0; j < block->labels; j++) {
                const int32_t label = whole.label_of[block->first_slot + j];
                if (w.label_weight) label_weight[k][j] = w.label_weight[label];
                if (w.label_scale) label_scale[k][j] = w.label_scale[label];
                if (w.label_offset) label_offset[k][j] = w.label_offset[label];
            }
            offset[k][0] = 0;
            for (b = 0; b < B; b++) {
                offset[k][b + 1] = offset[k][b];
                for (j = batch.offset[b]; j < batch.offset[b + 1]; j++) {
                    const int64_t slot = whole.slot_of[batch.id[j]] - block->first_slot;
                    if (slot >= 0 && slot < block->labels) id[k][offset[k][b + 1]++] = (int32_t)slot;
                }
            }
            lists[k].offset = offset[k];
            lists[k].id = id[k];
            o[k] = *wanted(&w);
            if (w.label_weight) o[k].label_weight = label_weight[k];
            if (w.label_scale) o[k].label_scale = label_scale[k];
            if (w.label_offset) o[k].label_offset = label_offset[k];
            CHECK_STATUS(haste_softmax_begin(&shard[k], &work, batch.x, B, &lists[k], &o[k], k ? part : sums, &test_error), HASTE_OK, test_error);
            if (k) CHECK_STATUS(haste_softmax_merge(sums, part, B, &test_error), HASTE_OK, test_error);
        }
        for (k = 0; k < 3; k++) {
            o[k].softmax = sums;
            if (o[k].scale == 0) o[k].scale = 1.0 / B;
            CHECK_STATUS(haste_evaluate(&shard[k], &work, batch.x, B, &lists[k], &o[k], &value, grad_x, &test_error), HASTE_OK, test_error);
            total += value;
        }
        CHECK_NEAR(total, loss, 2e-6 * (fabs(loss) + 1));
        for (j = 0; j < B * 64; j++) CHECK_NEAR((double)grad_x[j], (double)whole_x[j], 1e-5 * (fabs((double)whole_x[j]) + .1));
        for (k = 0; k < 3; k++) { free(id[k]); free(label_weight[k]); free(label_scale[k]); free(label_offset[k]); haste_layer_free(&shard[k]); }
        free(whole_x); free(grad_x);
        free_wish(&w);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&whole);
    }
}

/* Single labels (offset NULL) over two shards: each says its own id, or -1; the sums know whose samples have one at all. */
static void shards_of_single_labels(void)
{
    enum { B = 9 };
    static const test_shape shape = { "whole", 48, 20, 2, { { 24, 8, 6, 0, 0 }, { 0, 8, 7, 0, 0 } }, 0 };
    haste_layer_options options = test_options(&shape, HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer whole = test_layer(&options), shard[2];
    test_batch batch = test_make_batch(&whole, B);
    haste_workspace work = test_workspace(&whole, B, 1, HASTE_PATH_AUTO);
    int32_t id[B], own[2][B], b, k;
    float *whole_x = (float *)test_zeros(B * 20 * 4), *grad_x = (float *)test_zeros(B * 20 * 4);
    double sums[B * HASTE_SOFTMAX_SUMS], part[B * HASTE_SOFTMAX_SUMS], loss, value, total = 0;
    haste_lists list = { NULL, NULL };
    haste_loss_options o;
    memset(&o, 0, sizeof o);
    o.smoothing = .1f;
    for (b = 0; b < B; b++) id[b] = b == 4 ? -1 : (int32_t)(check_random() % 48u);
    list.id = id;
    CHECK_STATUS(haste_evaluate(&whole, &work, batch.x, B, &list, &o, &loss, whole_x, &test_error), HASTE_OK, test_error);
    for (k = 0; k < 2; k++) {
        haste_layer_options half = options;
        half.labels = 24;
        half.block_count = 1;
        half.block[0] = options.block[k];
        half.block[0].labels = 24;
        CHECK_STATUS(haste_layer_create(&shard[k], &half, &test_error), HASTE_OK, test_error);
        memcpy(shard[k].block[0].weight, whole.block[k].weight, (size_t)test_weights(&whole.block[k]) * 4);
        memcpy(shard[k].block[0].bias, whole.block[k].bias, (size_t)test_places(&whole.block[k]) * 4);
        memcpy(shard[k].block[0].index, whole.block[k].index, (size_t)(whole.block[k].groups * whole.block[k].fan_in) * 2);
        for (b = 0; b < B; b++) own[k][b] = id[b] / 24 == k && id[b] >= 0 ? id[b] % 24 : -1;
        list.id = own[k];
        CHECK_STATUS(haste_softmax_begin(&shard[k], &work, batch.x, B, &list, &o, k ? part : sums, &test_error), HASTE_OK, test_error);
    }
    CHECK_STATUS(haste_softmax_merge(sums, part, B, &test_error), HASTE_OK, test_error);
    o.softmax = sums;
    for (k = 0; k < 2; k++) {
        list.id = own[k];
        CHECK_STATUS(haste_evaluate(&shard[k], &work, batch.x, B, &list, &o, &value, grad_x, &test_error), HASTE_OK, test_error);
        total += value;
    }
    CHECK_NEAR(total, loss, 2e-6 * (fabs(loss) + 1));
    for (b = 0; b < B * 20; b++) CHECK_NEAR((double)grad_x[b], (double)whole_x[b], 1e-5 * (fabs((double)whole_x[b]) + .1));
    /* sums that cannot be are refused */
    sums[3 * HASTE_SOFTMAX_SUMS] = (double)(HUGE_VALF - HUGE_VALF);
    CHECK_STATUS(haste_evaluate(&shard[0], &work, batch.x, B, &list, &o, &value, NULL, &test_error), HASTE_ERR_DATA, test_error);
    CHECK(strstr(test_error.text, "softmax[3, 0]") != NULL);
    for (k = 0; k < 2; k++) haste_layer_free(&shard[k]);
    free(whole_x);
    free(grad_x);
    haste_workspace_free(&work);
    test_free_batch(&batch);
    haste_layer_free(&whole);
}

/* A weight, or a logit, that is not finite is reported by the calls without an update too. */
static void not_finite(void)
{
    int loss, where;
    for (loss = 0; loss < 3; loss++) for (where = 0; where < 2; where++) {   /* where: an ignored label */
        static const test_shape shape = { "small", 40, 12, 1, { { 0, 8, 5, 0, 0 } }, 0 };
        haste_layer_options options = test_options(&shape, losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        test_batch batch = test_make_batch(&layer, 33);
        haste_workspace work = test_workspace(&layer, 33, 1, HASTE_PATH_AUTO);
        haste_loss_options o;
        haste_lists ignored = { NULL, NULL };
        int32_t id[33], b;
        double value, sums[33 * HASTE_SOFTMAX_SUMS];
        float *grad_x = (float *)test_zeros(33 * 12 * 4);
        memset(&o, 0, sizeof o);
        for (b = 0; b < 33; b++) id[b] = 11;
        ignored.id = id;
        layer.block[0].bias[11] = HUGE_VALF;   /* label 11 */
        if (where) o.ignored = &ignored;
        CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, 33, &batch.positives, &o, &value, grad_x, &test_error), HASTE_ERR_NONFINITE, test_error);
        if (losses[loss] == HASTE_SOFTMAX)
            CHECK_STATUS(haste_softmax_begin(&layer, &work, batch.x, 33, &batch.positives, &o, sums, &test_error), HASTE_ERR_NONFINITE, test_error);
        if (losses[loss] == HASTE_SOFTMAX) {   /* sums without any logit: their rows are left out */
            layer.block[0].bias[11] = 0;
            for (b = 0; b < 33 * HASTE_SOFTMAX_SUMS; b++) sums[b] = b % HASTE_SOFTMAX_SUMS < 2 ? 0 : 1;
            o.softmax = sums;
            CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, 33, &batch.positives, &o, &value, NULL, &test_error), HASTE_OK, test_error);
            CHECK(value == value && fabs(value) < 1e3);
        }
        o.scale = 1e-60;
        CHECK_STATUS(haste_evaluate(&layer, &work, batch.x, 33, &batch.positives, &o, &value, grad_x, &test_error), HASTE_ERR_ARG, test_error);
        free(grad_x);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* ---- bits, errors ---- */

static void same_bits(void)
{
    int loss, threads;
    for (loss = 0; loss < 3; loss++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], losses[loss], HASTE_ADAMW, HASTE_BF16, HASTE_F32);
        haste_layer start = test_layer(&layer_options), first, layer;
        test_batch batch = test_make_batch(&start, 37);
        wish w = make_wish((1 << WISHES) - 1 - ONE_ID - (losses[loss] == HASTE_SOFTMAX ? SMOOTHING : 0), &start, &batch);
        haste_step_options options;
        double value, first_value = 0, norm, first_norm = 0;
        memset(&options, 0, sizeof options);
        options.loss = *wanted(&w);
        options.loss.share = .5f;
        options.lr = .01f;
        options.clip = .01f;
        options.grad_norm = &norm;
        first = test_copy(&start);
        for (threads = 1; threads <= 5; threads += 2) {
            haste_workspace work = test_workspace(&start, 37, threads, HASTE_PATH_AUTO);
            layer = test_copy(&start);
            CHECK_STATUS(haste_train_step(&layer, &work, batch.x, 37, &w.positives, &options, &value, NULL, &test_error), HASTE_OK, test_error);
            if (threads == 1) { haste_layer_free(&first); first = test_copy(&layer); first_value = value; first_norm = norm; }
            CHECK(test_difference(&layer, &first) == NULL && memcmp(&value, &first_value, sizeof value) == 0 && memcmp(&norm, &first_norm, sizeof norm) == 0);
            haste_layer_free(&layer);
            haste_workspace_free(&work);
        }
        free_wish(&w);
        test_free_batch(&batch);
        haste_layer_free(&first);
        haste_layer_free(&start);
    }
}

static void refused(const haste_layer *layer, haste_workspace *work, const test_batch *batch, const haste_lists *positives, haste_loss_options o,
                    haste_status status, const char *word)
{
    haste_layer copy = test_copy(layer);
    haste_step_options options;
    double value = -7;
    memset(&options, 0, sizeof options);
    options.loss = o;
    CHECK_STATUS(haste_evaluate(layer, work, batch->x, batch->B, positives, &o, &value, NULL, &test_error), status, test_error);
    if (!CHECK(strstr(test_error.text, word) != NULL)) printf("    \"%s\" does not name %s\n", test_error.text, word);
    CHECK_STATUS(haste_train_step(&copy, work, batch->x, batch->B, positives, &options, &value, NULL, &test_error), status, test_error);
    CHECK(value == -7 && test_difference(&copy, layer) == NULL);
    haste_layer_free(&copy);
}

static void errors(void)
{
    const float nan = HUGE_VALF - HUGE_VALF;
    int loss;
    for (loss = 0; loss < 3; loss++) {
        haste_layer_options layer_options = test_options(&test_shapes[4], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&layer_options);
        test_batch batch = test_make_batch(&layer, 9);
        haste_workspace work = test_workspace(&layer, 9, 1, HASTE_PATH_AUTO);
        haste_loss_options zero, o;
        haste_lists one = { NULL, NULL };
        int32_t ids[9] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
        float weights[100];
        double sums[9 * HASTE_SOFTMAX_SUMS] = { 0 };
        int i;
        focal_context context;
        context.gamma = 1;
        memset(&zero, 0, sizeof zero);
        #define BAD(field, value, word) do { o = zero; o.field = value; refused(&layer, &work, &batch, &batch.positives, o, HASTE_ERR_ARG, word); } while (0)
        BAD(scale, (double)nan, "scale");
        BAD(negligible, -1, "negligible");
        BAD(logit_scale, HUGE_VALF, "logit_scale");
        BAD(margin, nan, "margin");
        BAD(positive_weight, -1, "positive_weight");
        BAD(smoothing, 1, "smoothing");
        BAD(smoothing, -.1f, "smoothing");
        BAD(share, 1.5f, "share");
        BAD(share, nan, "share");
        if (losses[loss] == HASTE_SOFTMAX) BAD(positive_weight, 2, "positive_weight");
        if (losses[loss] == HASTE_SQUARED_HINGE) BAD(smoothing, .1f, "smoothing");
        if (losses[loss] != HASTE_SOFTMAX) BAD(softmax, sums, "softmax");
        #undef BAD
        for (i = 0; i < 100; i++) weights[i] = 1;
        #define DATA(field, at, value, word) do { o = zero; o.field = weights; weights[at] = value; \
            refused(&layer, &work, &batch, &batch.positives, o, HASTE_ERR_DATA, word); weights[at] = 1; } while (0)
        DATA(sample_weight, 8, -1, "sample_weight[8]");
        DATA(sample_weight, 0, nan, "sample_weight[0]");
        DATA(label_weight, 76, -1, "label_weight[76]");
        DATA(label_scale, 3, nan, "label_scale[3]");
        DATA(label_offset, 4, HUGE_VALF, "label_offset[4]");
        DATA(positive_value, batch.offset[9] - 1, -1, "positive_value");
        #undef DATA
        o = zero;
        o.function = focal_tile;
        o.context = &context;
        o.smoothing = losses[loss] == HASTE_SQUARED_HINGE ? 0 : .1f;
        o.label_weight = weights;
        refused(&layer, &work, &batch, &batch.positives, o, HASTE_ERR_ARG, "function");
        one.id = ids;
        ids[8] = 77;
        refused(&layer, &work, &batch, &one, zero, HASTE_ERR_DATA, "positives.id[8]");
        ids[8] = -2;
        refused(&layer, &work, &batch, &one, zero, HASTE_ERR_DATA, "positives.id[8]");
        ids[8] = 8;
        o = zero;
        ids[3] = 100;
        o.ignored = &one;
        refused(&layer, &work, &batch, &batch.positives, o, HASTE_ERR_DATA, "ignored.id[3]");
        one.id = NULL;
        refused(&layer, &work, &batch, &one, zero, HASTE_ERR_ARG, "positives");
        CHECK_STATUS(haste_softmax_merge(NULL, sums, 9, &test_error), HASTE_ERR_ARG, test_error);
        CHECK_STATUS(haste_softmax_merge(NULL, NULL, 0, &test_error), HASTE_OK, test_error);
        if (losses[loss] != HASTE_SOFTMAX)
            CHECK_STATUS(haste_softmax_begin(&layer, &work, batch.x, 9, &batch.positives, NULL, sums, &test_error), HASTE_ERR_ARG, test_error);
        else CHECK_STATUS(haste_softmax_begin(&layer, &work, batch.x, 9, &batch.positives, NULL, NULL, &test_error), HASTE_ERR_ARG, test_error);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(finite_differences);
    RUN(against_double);
    RUN(own_loss);
    RUN(share_of_groups);
    RUN(rates_of_blocks);
    RUN(norms);
    RUN(shards);
    RUN(shards_of_single_labels);
    RUN(not_finite);
    RUN(same_bits);
    RUN(errors);
    return check_end();
}
