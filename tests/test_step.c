/* The fused training step: every optimizer, loss and type against the reference in double, stochastic rounding, determinism,
   accumulation, and what happens at the edges. */
#include <stdint.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

/* Tasks in an order and on threads of our choosing: what no result may depend on. */
static void schedule(int64_t n, int threads, void (*task)(void *context, int64_t i, int thread), void *context);
#define HASTE_PARALLEL_FOR(n, threads, task, context) schedule((n), (threads), (task), (context))
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

enum { ASCENDING, DESCENDING, SHUFFLED, PARALLEL };
static int schedule_kind = ASCENDING;

static void schedule(int64_t n, int threads, void (*task)(void *context, int64_t i, int thread), void *context)
{
    int64_t i;
    if (schedule_kind == ASCENDING) for (i = 0; i < n; i++) task(context, i, 0);
    else if (schedule_kind == DESCENDING) for (i = n; i-- > 0;) task(context, i, (int)(i % threads));
    else if (schedule_kind == SHUFFLED) {
        int64_t stride = n % 7 ? 7 : n % 5 ? 5 : 1;   /* visits all */
        for (i = 0; i < n; i++) task(context, i * stride % n, (int)(i * 3 % threads));
    } else {
#if defined(_OPENMP)
        #pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (i = 0; i < n; i++) task(context, i, omp_get_thread_num());
#else
        for (i = 0; i < n; i++) task(context, i, (int)(i % threads));
#endif
    }
}

static const haste_loss      losses[]     = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };
static const haste_optimizer optimizers[] = { HASTE_SGD, HASTE_MOMENTUM, HASTE_ADAMW };
static const char *const     optimizer_name[] = { "sgd", "momentum", "adamw" };

/* Kind 0: everything given. 1: everything left at its default. */
static haste_step_options step_options(int kind)
{
    haste_step_options options;
    memset(&options, 0, sizeof options);
    options.lr = .3f;
    if (kind == 0) {
        options.momentum = .8f;
        options.beta1 = .7f;
        options.beta2 = .95f;
        options.eps = 1e-3f;
        options.weight_decay = .05f;
    }
    return options;
}

/* ---- against double ---- */

typedef struct {
    test_gradients gradient;
    double *logits, *grad_logits, *grad_x, loss;
    double  least;      /* slopes below it count as 0, the naive version's by the exact one's size */
    float  *naive_logits, *naive_grad_logits, *naive_grad_x, naive_loss;
    double  worst[4];   /* as naive[4] of judge_update: the largest error of the naive version with other orders of its sums */
} reference;

static reference make_reference(const haste_layer *layer, int32_t B)
{
    reference r;
    size_t count = (size_t)B * (size_t)layer->slots, inputs = (size_t)B * (size_t)layer->inputs;
    r.gradient = test_make_gradients(layer);
    r.logits = test_doubles(count);
    r.grad_logits = test_doubles(count);
    r.grad_x = test_doubles(inputs);
    r.naive_logits = (float *)test_zeros(count * 4);
    r.naive_grad_logits = (float *)test_zeros(count * 4);
    r.naive_grad_x = (float *)test_zeros(inputs * 4);
    r.loss = r.least = r.naive_loss = 0;
    memset(r.worst, 0, sizeof r.worst);
    return r;
}

static void free_reference(reference *r, const haste_layer *layer)
{
    test_free_gradients(&r->gradient, layer);
    free(r->logits);
    free(r->grad_logits);
    free(r->grad_x);
    free(r->naive_logits);
    free(r->naive_grad_logits);
    free(r->naive_grad_x);
}

static void compute_naive(reference *r, const haste_layer *layer, const test_batch *batch, int64_t divisor)
{
    size_t i;
    naive_forward(layer, batch->x, batch->B, r->naive_logits);
    naive_loss(layer, r->naive_logits, batch->B, batch->positives, divisor, &r->naive_loss, r->naive_grad_logits);
    for (i = 0; i < (size_t)batch->B * (size_t)layer->slots; i++)
        if (r->least > 0 && fabs(r->grad_logits[i]) < r->least) r->naive_grad_logits[i] = 0;
    naive_backward(layer, batch->x, batch->B, r->naive_grad_logits, r->gradient.naive_weight, r->gradient.naive_bias, r->naive_grad_x);
}

static void compute(reference *r, const haste_layer *layer, const test_batch *batch, int64_t divisor)
{
    haste_loss_options plain;
    size_t i;
    haste_forward_ref(layer, batch->x, batch->B, r->logits);
    memset(&plain, 0, sizeof plain);
    plain.scale = divisor ? 1.0 / (double)divisor : 0;
    haste_loss_ref(layer, r->logits, batch->B, &batch->positives, &plain, &r->loss, r->grad_logits);
    for (i = 0; i < (size_t)batch->B * (size_t)layer->slots; i++)
        if (fabs(r->grad_logits[i]) < r->least) r->grad_logits[i] = 0;
    haste_backward_ref(layer, batch->x, batch->B, r->grad_logits, r->gradient.weight, r->gradient.bias, r->grad_x);
    compute_naive(r, layer, batch, divisor);
}

/* Errors of the naive update, after the naive gradient: weight, state 0, state 1, bias with its states. */
static void naive_errors(const haste_layer *before, const reference *r, const haste_step_options *options, test_errors *naive)
{
    int64_t t = before->step + 1, i;
    int32_t k;
    int kind;
    memset(naive, 0, 4 * sizeof *naive);
    for (k = 0; k < before->block_count; k++) {
        const haste_block *b = &before->block[k];
        int64_t S = b->group_size, F = b->fan_in;
        for (i = 0; i < test_weights(b) + b->labels; i++) {   /* the biases last */
            int bias = i >= test_weights(b);
            int64_t j = bias ? i - test_weights(b) : i;
            float w = bias ? b->bias[j] : test_get(before->dtype, b->weight, (size_t)j), state[2] = { 0, 0 };
            float g = bias ? r->gradient.naive_bias[k][j] : r->gradient.naive_weight[k][j];
            double exact_g = bias ? r->gradient.bias[k][j] : r->gradient.weight[k][j], exact_state[2], exact;
            if (!bias && j / (F * S) * S + j % S >= b->labels) continue;   /* padding */
            for (kind = 0; kind < 2; kind++) {
                if (b->weight_state[kind]) state[kind] = bias ? b->bias_state[kind][j] : test_get(before->state_dtype, b->weight_state[kind], (size_t)j);
                exact_state[kind] = (double)state[kind];
            }
            exact = haste_update_ref(before->optimizer, options, t, !bias, (double)w, exact_g, &exact_state[0], &exact_state[1]);
            w = naive_update(before->optimizer, options, t, !bias, w, g, &state[0], &state[1]);
            test_add_error(&naive[bias ? 3 : 0], (double)w, exact);
            for (kind = 0; kind < 2; kind++)
                if (b->weight_state[kind]) test_add_error(&naive[bias ? 3 : 1 + kind], (double)state[kind], exact_state[kind]);
        }
    }
}

/* Is `after` what one update makes of `before`? float32: by the errors of the naive version. bfloat16: one of the two
   neighbours of the exact value, which itself is known only to within those errors. */
static void judge_update(const haste_layer *before, const haste_layer *after, const reference *r, const haste_step_options *options,
                         const char *what)
{
    test_errors got[4], naive[4];   /* weight, state 0, state 1, bias with its states */
    int64_t t = before->step + 1, i;
    int32_t k, bad = 0, pass;
    int kind;
    memset(got, 0, sizeof got);
    naive_errors(before, r, options, naive);
    for (kind = 0; kind < 4; kind++) if (r->worst[kind] > naive[kind].largest) naive[kind].largest = r->worst[kind];
    for (pass = 0; pass < 2; pass++) for (k = 0; k < before->block_count; k++) {   /* errors first, then bfloat16 neighbours */
        const haste_block *b = &before->block[k], *a = &after->block[k];
        int64_t S = b->group_size, F = b->fan_in;
        for (i = 0; i < test_weights(b); i++) {
            double w = (double)test_get(before->dtype, b->weight, (size_t)i), state[2] = { 0, 0 }, exact;
            float after_w = test_get(after->dtype, a->weight, (size_t)i), after_state[2] = { 0, 0 };
            for (kind = 0; kind < 2; kind++) if (b->weight_state[kind]) {
                state[kind] = (double)test_get(before->state_dtype, b->weight_state[kind], (size_t)i);
                after_state[kind] = test_get(after->state_dtype, a->weight_state[kind], (size_t)i);
            }
            if (i / (F * S) * S + i % S >= b->labels) {   /* padding */
                if (after_w != 0 || after_state[0] != 0 || after_state[1] != 0) bad++;
                continue;
            }
            exact = haste_update_ref(before->optimizer, options, t, 1, w, r->gradient.weight[k][i], &state[0], &state[1]);
            if (pass == 0) {
                if (before->dtype == HASTE_F32) test_add_error(&got[0], (double)after_w, exact);
                for (kind = 0; kind < 2; kind++)
                    if (b->weight_state[kind] && before->state_dtype == HASTE_F32) test_add_error(&got[1 + kind], (double)after_state[kind], state[kind]);
                continue;
            }
            for (kind = -1; kind < 2; kind++) {
                double value = kind < 0 ? exact : state[kind], stored = (double)(kind < 0 ? after_w : after_state[kind]);
                double slack = test_allowed(&naive[kind + 1]), low, high, none;
                if ((kind < 0 ? before->dtype : before->state_dtype) == HASTE_F32 || (kind >= 0 && !b->weight_state[kind])) continue;
                test_bf16_neighbours(value - slack, &low, &none);
                test_bf16_neighbours(value + slack, &none, &high);
                if (!(stored >= low && stored <= high)) bad++;
            }
        }
        for (i = 0; i < test_places(b) && pass == 0; i++) {
            double state[2] = { 0, 0 }, exact;
            for (kind = 0; kind < 2; kind++) if (b->bias_state[kind]) state[kind] = (double)b->bias_state[kind][i];
            if (i >= b->labels) {
                if (a->bias[i] != 0 || (a->bias_state[0] && a->bias_state[0][i] != 0) || (a->bias_state[1] && a->bias_state[1][i] != 0)) bad++;
                continue;
            }
            exact = haste_update_ref(before->optimizer, options, t, 0, (double)b->bias[i], r->gradient.bias[k][i], &state[0], &state[1]);
            test_add_error(&got[3], (double)a->bias[i], exact);
            for (kind = 0; kind < 2; kind++) if (b->bias_state[kind]) test_add_error(&got[3], (double)a->bias_state[kind][i], state[kind]);
        }
    }
    CHECK(bad == 0);
    if (bad) printf("    %d wrong in padding or bfloat16: %s\n", (int)bad, what);
    test_judge(&got[0], &naive[0], what, __LINE__);
    test_judge(&got[1], &naive[1], what, __LINE__);
    test_judge(&got[2], &naive[2], what, __LINE__);
    test_judge(&got[3], &naive[3], what, __LINE__);
}

static void judge_rest(const reference *r, const float *grad_x, const float *filled, size_t inputs, double loss, int32_t B, const char *what)
{
    test_errors got, naive;
    size_t j;
    memset(&got, 0, sizeof got);
    naive = got;
    for (j = 0; j < inputs; j++) {
        test_add_error(&got, (double)grad_x[j] - (double)filled[j], r->grad_x[j]);
        test_add_error(&naive, (double)(float)(filled[j] + r->naive_grad_x[j]) - (double)filled[j], r->grad_x[j]);
    }
    test_judge(&got, &naive, what, __LINE__);
    check_near(loss, r->loss, 2 * fabs((double)r->naive_loss - r->loss) + 3e-7 * r->loss * (B < 10 ? 3 : 1), __FILE__, __LINE__, what);
}

static void against_double(void)
{
    static const int shapes[] = { 1, 3, 4, 7, 10, 11, 12 };
    static const int32_t batches[] = { 33, 7, 64, 1, 20, 45, 32 };
    int i, path, loss, optimizer, type, step;
    for (i = 0; i < 7; i++) for (loss = 0; loss < 3; loss++) for (optimizer = 0; optimizer < 3; optimizer++) for (type = 0; type < 4; type++) {
        const test_shape *shape = &test_shapes[shapes[i]];
        haste_layer_options layer_options = test_options(shape, losses[loss], optimizers[optimizer], type & 1 ? HASTE_BF16 : HASTE_F32,
                                                         type & 2 ? HASTE_BF16 : HASTE_F32);
        haste_layer first;
        int32_t B = batches[i];
        if (optimizer == 0 && type >= 2) continue;           /* no state */
        if (type && (i + loss + optimizer + type) % 3) continue;   /* time */
        first = test_layer(&layer_options);
        for (path = 0; path < TEST_PATHS; path++) {
            haste_layer layer;
            haste_workspace work;
            haste_step_options options = step_options((i + optimizer) % 2);
            reference r;
            if (test_path_missing(test_paths[path])) continue;
            layer = test_copy(&first);
            work = test_workspace(&layer, B, 3, test_paths[path]);
            memset(work.memory, 0xff, work.bytes);
            r = make_reference(&layer, B);
            const int64_t divisor = i % 2 ? 0 : B + 3;
            options.loss.scale = divisor ? 1.0 / (double)divisor : 0;
            for (step = 0; step < (i < 4 ? 5 : 1); step++) {
                test_batch batch = test_make_batch(&layer, B);
                haste_layer before = test_copy(&layer);
                size_t inputs = (size_t)B * (size_t)layer.inputs, j;
                float *grad_x = check_floats(inputs + 1) + 1, *filled = (float *)test_alloc(inputs * 4);
                double got_loss = -1;
                char what[200];
                for (j = 0; j < inputs; j++) grad_x[j] = filled[j] = step % 2 ? check_normal() * .01f : 0;
                compute(&r, &before, &batch, divisor);
                memset(r.worst, 0, sizeof r.worst);
                for (naive_order = TEST_ORDERS - 1; naive_order >= 0; naive_order--) {   /* the usual order last: it stays in r */
                    test_errors errors[4];
                    int kind;
                    compute_naive(&r, &before, &batch, divisor);
                    naive_errors(&before, &r, &options, errors);
                    for (kind = 0; kind < 4; kind++) if (errors[kind].largest > r.worst[kind]) r.worst[kind] = errors[kind].largest;
                }
                naive_order = 0;
                CHECK_STATUS(haste_train_step(&layer, &work, batch.x, B, &batch.positives, &options, &got_loss, grad_x, &test_error), HASTE_OK,
                             test_error);
                snprintf(what, sizeof what, "step %d, %s, %s, %s, %s weights, %s state, %s", step + 1, shape->name,
                         test_loss_name(losses[loss]), optimizer_name[optimizer], type & 1 ? "bf16" : "f32", type & 2 ? "bf16" : "f32",
                         haste_path_text(work.path));
                CHECK(check_guard(grad_x, inputs));
                CHECK(layer.step == before.step + 1 && layer.rewires == 0);
                CHECK(memcmp(layer.label_of, before.label_of, (size_t)layer.slots * 4) == 0);
                judge_rest(&r, grad_x, filled, inputs, got_loss, B, what);
                judge_update(&before, &layer, &r, &options, what);
                free(grad_x - 1);
                free(filled);
                haste_layer_free(&before);
                test_free_batch(&batch);
            }
            CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
            free_reference(&r, &layer);
            haste_workspace_free(&work);
            haste_layer_free(&layer);
        }
        haste_layer_free(&first);
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A size that about `share` of the slopes are below, in the middle of the widest gap nearby, so that no rounding decides on
   which side of it a slope lies. Not divided. */
static double between_slopes(const double *slope, size_t n, double share, double divisor)
{
    double *size = test_doubles(n), best = 0, ratio = 1;
    size_t i, begin = (size_t)(share * (double)n), end = begin + n / 20 + 2 < n - 1 ? begin + n / 20 + 2 : n - 1;
    for (i = 0; i < n; i++) size[i] = fabs(slope[i]);
    qsort(size, n, sizeof *size, ascending);
    for (i = begin; i < end; i++)
        if (size[i] > 0 && size[i + 1] / size[i] > ratio) {
            ratio = size[i + 1] / size[i];
            best = sqrt(size[i] * size[i + 1]);
        }
    free(size);
    CHECK(ratio > 1.0002);
    return best * divisor;
}

/* options.loss.negligible: nothing to do with the loss, and gradients as if small slopes were 0, whether or not whole blocks of 32
   samples of a group are passed over, and wherever these lie. Accumulating does as the step. */
static void negligible(void)
{
    static const int shapes[] = { 4, 7, 10, 11 };
    static const double shares[] = { .5, .97, 1 };
    int i, path, loss, kind, optimizer, dead = 0, between = 0;
    for (i = 0; i < 4; i++) for (loss = 0; loss < 3; loss++) for (kind = 0; kind < 3; kind++)
    for (optimizer = 0; optimizer < 3; optimizer++) for (path = 0; path < TEST_PATHS; path++) {
        const int32_t B = 100, divisor = i % 2 ? 0 : B + 3;
        haste_layer_options layer_options = test_options(&test_shapes[shapes[i]], losses[loss], optimizers[optimizer], HASTE_F32, HASTE_F32);
        haste_layer layer, before;
        haste_workspace work;
        haste_step_options options = step_options(0);
        haste_gradient gradient;
        test_batch batch;
        reference r;
        float *grad_x, *filled;
        double got_loss = -1;
        size_t inputs, j;
        int64_t g, s;
        int32_t k, b;
        char what[200];
        if (test_path_missing(test_paths[path]) || (optimizer > 0 && (i + loss + kind) % 3 != 0)) continue;
        layer = test_layer(&layer_options);
        work = test_workspace(&layer, B, 3, test_paths[path]);
        memset(work.memory, 0xff, work.bytes);
        batch = test_make_batch(&layer, B);
        inputs = (size_t)B * (size_t)layer.inputs;
        grad_x = check_floats(inputs + 1) + 1;
        filled = (float *)test_zeros(inputs * 4);
        for (j = 0; j < inputs; j++) grad_x[j] = 0;
        r = make_reference(&layer, B);
        options.loss.scale = divisor ? 1.0 / divisor : 0;
        compute(&r, &layer, &batch, divisor);
        options.loss.negligible = 1e6f;
        if (shares[kind] < 1)
            options.loss.negligible = (float)between_slopes(r.grad_logits, (size_t)B * (size_t)layer.slots, shares[kind], divisor ? divisor : B);
        r.least = (double)options.loss.negligible / (divisor ? divisor : B);
        before = test_copy(&layer);
        compute(&r, &before, &batch, divisor);
        for (k = 0; k < layer.block_count; k++) for (g = 0; g < layer.block[k].groups; g++) {   /* what is to be met at all */
            int64_t first = layer.block[k].first_slot + g * layer.block[k].group_size;
            int live[4] = { 0, 0, 0, 0 };
            for (b = 0; b < B; b++)
                for (s = first; s < first + layer.block[k].group_size; s++) live[b / 32] |= r.grad_logits[b * layer.slots + s] != 0;
            for (b = 0; b < 4; b++) dead += !live[b];
            between += (live[0] && !live[1] && (live[2] || live[3])) || (live[1] && !live[2] && live[3]);
        }
        snprintf(what, sizeof what, "negligible %g, %s, %s, %s, %s", (double)options.loss.negligible, test_shapes[shapes[i]].name,
                 test_loss_name(losses[loss]), optimizer_name[optimizer], haste_path_text(work.path));
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, B, &batch.positives, &options, &gradient, &got_loss, grad_x, &test_error),
                     HASTE_OK, test_error);
        judge_rest(&r, grad_x, filled, inputs, got_loss, B, what);
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_OK, test_error);
        judge_update(&before, &layer, &r, &options, what);
        haste_layer_free(&layer);
        layer = test_copy(&before);
        for (j = 0; j < inputs; j++) grad_x[j] = 0;
        CHECK_STATUS(haste_train_step(&layer, &work, batch.x, B, &batch.positives, &options, &got_loss, grad_x, &test_error), HASTE_OK,
                     test_error);
        CHECK(check_guard(grad_x, inputs));
        judge_rest(&r, grad_x, filled, inputs, got_loss, B, what);
        judge_update(&before, &layer, &r, &options, what);
        free(grad_x - 1);
        free(filled);
        free_reference(&r, &layer);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&before);
        haste_layer_free(&layer);
    }
    CHECK(dead > 100 && between > 10);
}

/* One label, one input, two steps of each optimizer by hand. x = 2, weight .5, bias 0: z = 1; the label is negative and the
   loss squared hinge, so loss = (1 + 1)^2 = 4, d/dz = 2 * 2 = 4, d/dw = 8, d/db = 4. lr = 1/16, wd = 1/2. */
static void by_hand(void)
{
    static const float x[1] = { 2 };
    static const int64_t offset[2] = { 0, 0 };
    haste_lists none = { offset, NULL };
    int path, optimizer;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 0; optimizer < 3; optimizer++) {
        haste_layer_options layer_options = test_options(&test_shapes[0], HASTE_SQUARED_HINGE, optimizers[optimizer], HASTE_F32, HASTE_F32);
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        double loss;
        float grad_x[1] = { 1 }, *w, *bias;
        if (test_path_missing(test_paths[path])) continue;
        CHECK_STATUS(haste_layer_create(&layer, &layer_options, &test_error), HASTE_OK, test_error);
        work = test_workspace(&layer, 1, 1, test_paths[path]);
        w = (float *)layer.block[0].weight;
        bias = layer.block[0].bias;
        w[0] = .5f;
        memset(&options, 0, sizeof options);
        options.lr = 1 / 16.f;
        options.weight_decay = .5f;
        options.momentum = .5f;
        options.beta1 = .5f;
        options.beta2 = .75f;
        options.eps = 1;
        CHECK_STATUS(haste_train_step(&layer, &work, x, 1, &none, &options, &loss, grad_x, &test_error), HASTE_OK, test_error);
        CHECK(loss == 4);
        CHECK(grad_x[0] == 1 + 4 * .5f);   /* with the weight before the step */
        if (optimizer < 2) {   /* g = 8 + .25: w = .5 - 8.25/16; b = -4/16 */
            CHECK(w[0] == .5f - 8.25f / 16);
            CHECK(bias[0] == -.25f);
            if (optimizer == 1) CHECK(((float *)layer.block[0].weight_state[0])[0] == 8.25f && layer.block[0].bias_state[0][0] == 4);
        } else {   /* w - w/32, then m = 4, v = 16, both corrected 8 and 64: 8 / (8 + 1) */
            CHECK_NEAR((double)w[0], .5 - .5 / 32 - 8. / 9 / 16, 1e-7);
            CHECK_NEAR((double)bias[0], -4. / 5 / 16, 1e-8);
            CHECK(((float *)layer.block[0].weight_state[0])[0] == 4 && ((float *)layer.block[0].weight_state[1])[0] == 16);
        }
        if (optimizer == 1) {   /* second step from w = .5: the velocity carries over: v = .5 * 8.25 + 8.25 = 12.375; b: .5*4 + 4 = 6 */
            w[0] = .5f;
            bias[0] = 0;
            CHECK_STATUS(haste_train_step(&layer, &work, x, 1, &none, &options, &loss, NULL, &test_error), HASTE_OK, test_error);
            CHECK(w[0] == .5f - 12.375f / 16);
            CHECK(bias[0] == -6.f / 16);
        }
        if (optimizer == 2) {   /* m = 6, v = 28; corrections 1 - 1/4, 1 - 9/16: mhat = 8, vhat = 64 again */
            w[0] = .5f;
            bias[0] = 0;
            CHECK_STATUS(haste_train_step(&layer, &work, x, 1, &none, &options, &loss, NULL, &test_error), HASTE_OK, test_error);
            CHECK_NEAR((double)w[0], .5 - .5 / 32 - 8. / 9 / 16, 1e-7);
            CHECK(((float *)layer.block[0].weight_state[0])[0] == 6 && ((float *)layer.block[0].weight_state[1])[0] == 28);
        }
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* ---- one run, many variations that must not change a bit ---- */

typedef struct { haste_layer layer; float *grad_x; double loss; size_t inputs; } outcome;

static outcome run_step(const haste_layer *start, const test_batch *batch, haste_lists positives, const haste_step_options *options, int steps,
                        int32_t work_batch, int32_t threads, haste_path path, int want_loss, int want_grad_x)
{
    outcome o;
    haste_workspace work = test_workspace(start, work_batch, threads, path);
    int i;
    o.layer = test_copy(start);
    o.inputs = (size_t)batch->B * (size_t)start->inputs;
    o.grad_x = (float *)test_zeros(o.inputs * 4);
    o.loss = 0;
    for (i = 0; i < steps; i++)
        CHECK_STATUS(haste_train_step(&o.layer, &work, batch->x, batch->B, &positives, options, want_loss ? &o.loss : NULL,
                                      want_grad_x ? o.grad_x : NULL, &test_error), HASTE_OK, test_error);
    haste_workspace_free(&work);
    return o;
}

static void free_outcome(outcome *o) { haste_layer_free(&o->layer); free(o->grad_x); }

static int same_outcome(const outcome *a, const outcome *b)
{
    const char *difference = test_difference(&a->layer, &b->layer);
    if (difference) printf("    differs: %s\n", difference);
    return !difference && memcmp(a->grad_x, b->grad_x, a->inputs * 4) == 0 && memcmp(&a->loss, &b->loss, sizeof a->loss) == 0;
}

static void same_bits(void)
{
    static const int32_t threads[] = { 1, 2, 3, 5 };
    int i, path, loss, t, kind;
    for (i = 3; i < 13; i += 4) for (loss = 0; loss < 3; loss++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options layer_options = test_options(&test_shapes[i], losses[loss], HASTE_ADAMW, loss == 1 ? HASTE_F32 : HASTE_BF16, HASTE_BF16);
        haste_layer start = test_layer(&layer_options);
        test_batch batch = test_make_batch(&start, 43);
        haste_step_options options = step_options(0);
        if (!test_path_missing(test_paths[path])) {
            outcome first = run_step(&start, &batch, batch.positives, &options, 3, 43, 1, test_paths[path], 1, 1), other;
            for (t = 0; t < 4; t++) for (kind = DESCENDING; kind <= PARALLEL; kind++) {
                schedule_kind = kind;
                other = run_step(&start, &batch, batch.positives, &options, 3, 43, threads[t], test_paths[path], 1, 1);
                CHECK(same_outcome(&first, &other));
                free_outcome(&other);
            }
            schedule_kind = ASCENDING;
            /* a larger workspace */
            other = run_step(&start, &batch, batch.positives, &options, 3, 130, 2, test_paths[path], 1, 1);
            CHECK(same_outcome(&first, &other));
            free_outcome(&other);
            /* without loss, without grad_x: the same weights */
            other = run_step(&start, &batch, batch.positives, &options, 3, 43, 2, test_paths[path], 0, 1);
            CHECK(test_difference(&first.layer, &other.layer) == NULL);
            CHECK(memcmp(first.grad_x, other.grad_x, first.inputs * 4) == 0);
            free_outcome(&other);
            other = run_step(&start, &batch, batch.positives, &options, 3, 43, 2, test_paths[path], 1, 0);
            CHECK(test_difference(&first.layer, &other.layer) == NULL);
            CHECK(first.loss == other.loss);
            free_outcome(&other);
            other = run_step(&start, &batch, batch.positives, &options, 3, 43, 2, test_paths[path], 0, 0);
            CHECK(test_difference(&first.layer, &other.layer) == NULL);
            free_outcome(&other);
            free_outcome(&first);
            /* with blocks of samples that are passed over */
            options.loss.negligible = .6f;
            first = run_step(&start, &batch, batch.positives, &options, 3, 43, 1, test_paths[path], 1, 1);
            for (t = 1; t < 4; t++) {
                schedule_kind = SHUFFLED;
                other = run_step(&start, &batch, batch.positives, &options, 3, 43, threads[t], test_paths[path], 1, 1);
                CHECK(same_outcome(&first, &other));
                free_outcome(&other);
            }
            schedule_kind = ASCENDING;
            free_outcome(&first);
        }
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* A workspace that has served other batches, other calls and another layer. */
static void used_workspace(void)
{
    int path;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
        haste_layer start = test_layer(&layer_options), layer, other;
        test_batch large = test_make_batch(&start, 97), small = test_make_batch(&start, 6), foreign;
        haste_step_options options = step_options(1);
        outcome fresh;
        haste_workspace work;
        float *logits = check_floats(97 * (size_t)start.slots);
        double loss;
        layer_options = test_options(&test_shapes[4], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32);
        layer_options.block[0].fan_in = 12;   /* not larger than the workspace's layer */
        other = test_layer(&layer_options);
        foreign = test_make_batch(&other, 50);
        if (!test_path_missing(test_paths[path])) {
            fresh = run_step(&start, &small, small.positives, &options, 1, 97, 2, test_paths[path], 1, 1);
            work = test_workspace(&start, 97, 2, test_paths[path]);
            layer = test_copy(&start);
            CHECK_STATUS(haste_train_step(&layer, &work, large.x, 97, &large.positives, &options, &loss, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_forward(&layer, &work, large.x, 97, logits, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_train_step(&other, &work, foreign.x, 50, &foreign.positives, &options, &loss, NULL, &test_error), HASTE_OK, test_error);
            haste_layer_free(&layer);
            layer = test_copy(&start);
            memset(fresh.grad_x, 0, fresh.inputs * 4);
            {
                outcome again;
                again.layer = layer;
                again.inputs = fresh.inputs;
                again.grad_x = (float *)test_zeros(again.inputs * 4);
                free_outcome(&fresh);
                fresh = run_step(&start, &small, small.positives, &options, 1, 97, 2, test_paths[path], 1, 1);
                CHECK_STATUS(haste_train_step(&again.layer, &work, small.x, 6, &small.positives, &options, &again.loss, again.grad_x, &test_error),
                             HASTE_OK, test_error);
                CHECK(same_outcome(&fresh, &again));
                free_outcome(&again);
            }
            free_outcome(&fresh);
            haste_workspace_free(&work);
        }
        free(logits);
        test_free_batch(&large);
        test_free_batch(&small);
        test_free_batch(&foreign);
        haste_layer_free(&start);
        haste_layer_free(&other);
    }
}

/* ---- lists ---- */

/* Order, duplicates and where the offsets begin make no difference; positives do. */
static void lists(void)
{
    /*                  sample 0    1 (empty)  2         3              4                 */
    static const int64_t messy_offset[] = { 2, 7, 7, 9, 15, 16 }, tidy_offset[] = { 0, 3, 3, 4, 7, 8 };
    static const int32_t messy[] = { -1, 99999, 50, 3, 50, 7, 3,   12, 12,   60, 0, 33, 0, 60, 60,   5 };
    static const int32_t tidy[] = { 3, 7, 50,   12,   0, 33, 60,   5 };
    haste_lists messy_lists = { messy_offset, messy }, tidy_lists = { tidy_offset, tidy };
    int loss, path;
    for (loss = 0; loss < 3; loss++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options layer_options = test_options(&test_shapes[10], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer start = test_layer(&layer_options);
        test_batch batch = test_make_batch(&start, 5);
        haste_step_options options = step_options(0);
        if (!test_path_missing(test_paths[path])) {
            static const int64_t no_offset[] = { 9, 9, 9, 9, 9, 9 };
            haste_lists empty = { no_offset, NULL };
            outcome a = run_step(&start, &batch, tidy_lists, &options, 1, 5, 1, test_paths[path], 1, 1);
            outcome b = run_step(&start, &batch, messy_lists, &options, 1, 5, 1, test_paths[path], 1, 1), c;
            reference r = make_reference(&start, 5);
            CHECK(same_outcome(&a, &b));
            /* no positive at all */
            c = run_step(&start, &batch, empty, &options, 1, 5, 1, test_paths[path], 1, 1);
            test_free_batch(&batch);
            batch = test_make_batch(&start, 5);
            memset(batch.offset, 0, 6 * sizeof *batch.offset);
            compute(&r, &start, &batch, 0);
            if (losses[loss] == HASTE_SOFTMAX) {
                size_t j;
                int other = 0;
                CHECK(c.loss == 0);
                for (j = 0; j < c.inputs; j++) other += c.grad_x[j] != 0;
                CHECK(other == 0);
                options.weight_decay = 0;
                free_outcome(&c);
                c = run_step(&start, &batch, empty, &options, 1, 5, 1, test_paths[path], 1, 1);
                c.layer.step = start.step;
                CHECK(test_difference(&c.layer, &start) == NULL);
            } else CHECK(c.loss > 0 && c.loss != a.loss);
            free_reference(&r, &start);
            free_outcome(&a);
            free_outcome(&b);
            free_outcome(&c);
        }
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* Every label positive in every sample, and thousands of ids. */
static void all_positive(void)
{
    int loss, path;
    for (loss = 0; loss < 3; loss++) for (path = 0; path < TEST_PATHS; path++) {
        haste_layer_options layer_options = test_options(&test_shapes[4], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer start = test_layer(&layer_options);
        test_batch batch = test_make_batch(&start, 40);
        haste_step_options options = step_options(0);
        int32_t b, l;
        if (!test_path_missing(test_paths[path])) {
            reference r = make_reference(&start, 40);
            outcome o;
            float *zeros = (float *)test_zeros((size_t)40 * 33 * 4);
            free(batch.id);
            batch.id = (int32_t *)test_alloc((size_t)(40 * start.labels) * sizeof(int32_t));
            batch.positives.id = batch.id;
            batch.offset[0] = 0;
            for (b = 0; b < 40; b++) {
                for (l = 0; l < start.labels; l++) batch.id[b * start.labels + l] = (l * 5 + b) % start.labels;
                batch.offset[b + 1] = (int64_t)(b + 1) * start.labels;
            }
            compute(&r, &start, &batch, 0);
            o = run_step(&start, &batch, batch.positives, &options, 1, 40, 2, test_paths[path], 1, 1);
            judge_rest(&r, o.grad_x, zeros, o.inputs, o.loss, 40, "all positive");
            judge_update(&start, &o.layer, &r, &options, "all positive");
            free(zeros);
            free_outcome(&o);
            free_reference(&r, &start);
        }
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* ---- stochastic rounding ---- */

/* One block, or two, of weights 1; x = 0, so the gradient of the weights is their decay alone. With lr * wd = .3 / 256
   the exact result lies .3 of the way from 1 to its neighbour 1 - 1/256: three in ten must go there. */
static haste_layer ones(int32_t blocks, int32_t labels, uint64_t seed)
{
    haste_layer_options options;
    haste_layer layer;
    int32_t k;
    int64_t i;
    memset(&options, 0, sizeof options);
    options.labels = labels * blocks;
    options.inputs = 16;
    options.block_count = blocks;
    for (k = 0; k < blocks; k++) {
        options.block[k].labels = labels;
        options.block[k].group_size = 16;
        options.block[k].fan_in = 16;
    }
    options.optimizer = HASTE_SGD;
    options.dtype = HASTE_BF16;
    options.seed = seed;
    if (haste_layer_create(&layer, &options, &test_error) != HASTE_OK) { printf("no layer: %s\n", test_error.text); exit(1); }
    for (k = 0; k < blocks; k++) for (i = 0; i < test_weights(&layer.block[k]); i++) test_put(HASTE_BF16, layer.block[k].weight, (size_t)i, 1);
    return layer;
}

static const float    zeros_16[16] = { 0 };
static const int64_t  no_positive[2] = { 0, 0 };

/* down[i]: 1 where weight i of a block went to 1 - 1/256, 0 where it stayed; anything else fails. */
static void decay(haste_layer *layer, haste_path path, float share, unsigned char *down)
{
    haste_workspace work = test_workspace(layer, 1, 1, path);
    haste_step_options options;
    haste_lists none = { no_positive, NULL };
    int64_t i, n = 0, other = 0;
    int32_t k;
    memset(&options, 0, sizeof options);
    options.lr = 1;
    options.weight_decay = share / 256;
    CHECK_STATUS(haste_train_step(layer, &work, zeros_16, 1, &none, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
    for (k = 0; k < layer->block_count; k++) for (i = 0; i < test_weights(&layer->block[k]); i++) {
        float w = test_get(HASTE_BF16, layer->block[k].weight, (size_t)i);
        if (w != 1 && w != 1 - 1 / 256.f) other++;
        down[n++] = w != 1;
    }
    CHECK(other == 0);
    haste_workspace_free(&work);
}

static void check_share(int64_t hits, int64_t n, double p, int line)
{
    double deviation = sqrt(p * (1 - p) / (double)n);
    check_near((double)hits / (double)n, p, 5 * deviation, __FILE__, line, "share of weights rounded down");
}

static void rounding_is_unbiased(void)
{
    static const float shares[] = { .3f, .5f, 1 / 64.f, .99f };
    enum { L = 512, N = L * 16, SEEDS = 400, SMALL = 16 * 16 };
    static unsigned char down[N], before[N], block_down[2 * N];
    static int64_t place[SMALL], place_step[SMALL];
    int path, i, j;
    for (path = 0; path < TEST_PATHS; path++) {
        haste_layer layer;
        int64_t hits, pairs[4] = { 0, 0, 0, 0 };
        if (test_path_missing(test_paths[path])) continue;
        /* over weights */
        for (i = 0; i < 4; i++) {
            layer = ones(1, L, 11);
            decay(&layer, test_paths[path], shares[i], down);
            for (hits = 0, j = 0; j < N; j++) hits += down[j];
            check_share(hits, N, (double)shares[i], __LINE__);
            if (i == 1) {   /* half go down: neighbours in a row, in a column and in a group must not agree by design */
                static const int apart[4] = { 1, 16, 4, 256 };
                int a;
                for (a = 0; a < 4; a++) {
                    for (j = 0; j + apart[a] < N; j++) pairs[a] += down[j] == down[j + apart[a]];
                    check_share(pairs[a], N - apart[a], .5, __LINE__);
                }
                memcpy(before, down, N);
            }
            haste_layer_free(&layer);
        }
        /* the same seed and step repeat; another seed, or another step, does not */
        layer = ones(1, L, 11);
        decay(&layer, test_paths[path], .5f, down);
        CHECK(memcmp(before, down, N) == 0);
        haste_layer_free(&layer);
        layer = ones(1, L, 12);
        decay(&layer, test_paths[path], .5f, down);
        for (hits = 0, j = 0; j < N; j++) hits += down[j] == before[j];
        check_share(hits, N, .5, __LINE__);
        haste_layer_free(&layer);
        layer = ones(1, L, 11);
        layer.step = 1;
        decay(&layer, test_paths[path], .5f, down);
        for (hits = 0, j = 0; j < N; j++) hits += down[j] == before[j];
        check_share(hits, N, .5, __LINE__);
        haste_layer_free(&layer);
        /* two blocks do not round alike */
        layer = ones(2, L, 11);
        decay(&layer, test_paths[path], .5f, block_down);
        for (hits = 0, j = 0; j < N; j++) hits += block_down[j] == block_down[N + j];
        check_share(hits, N, .5, __LINE__);
        haste_layer_free(&layer);
    }
    /* each place over many seeds and over many steps: no place leans to one side */
    memset(place, 0, sizeof place);
    memset(place_step, 0, sizeof place_step);
    for (i = 0; i < SEEDS; i++) {
        haste_layer layer = ones(1, 16, (uint64_t)i + 1000);
        decay(&layer, HASTE_PATH_AUTO, .3f, down);
        for (j = 0; j < SMALL; j++) place[j] += down[j];
        haste_layer_free(&layer);
        layer = ones(1, 16, 5);
        layer.step = i;
        decay(&layer, HASTE_PATH_AUTO, .3f, down);
        for (j = 0; j < SMALL; j++) place_step[j] += down[j];
        haste_layer_free(&layer);
    }
    for (j = 0; j < SMALL; j++) {
        check_share(place[j], SEEDS, .3, __LINE__);
        check_share(place_step[j], SEEDS, .3, __LINE__);
    }
}

/* What is exact in bfloat16 stays; tiny updates are not lost on average (nearest rounding would lose them all). */
static void rounding_keeps(void)
{
    int path, i, j;
    for (path = 0; path < TEST_PATHS; path++) {
        static unsigned char down[256 * 16];
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        haste_lists none = { no_positive, NULL };
        double mean = 0;
        if (test_path_missing(test_paths[path])) continue;
        layer = ones(1, 256, 3);
        decay(&layer, test_paths[path], 0, down);
        for (j = 0, i = 0; i < 256 * 16; i++) j += down[i];
        CHECK(j == 0);
        work = test_workspace(&layer, 1, 1, test_paths[path]);
        memset(&options, 0, sizeof options);
        options.lr = 1;
        options.weight_decay = 1e-4f;   /* far below half a step of bfloat16 */
        for (i = 0; i < 100; i++)
            CHECK_STATUS(haste_train_step(&layer, &work, zeros_16, 1, &none, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        for (i = 0; i < 256 * 16; i++) mean += (double)test_get(HASTE_BF16, layer.block[0].weight, (size_t)i) / (256 * 16);
        CHECK_NEAR(mean, pow(1 - 1e-4, 100), 5e-4);   /* .99005; one weight's deviation .0063 */
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Both states of Adam in bfloat16, unbiased too, and rounded independently of each other and of the weight. */
static void rounding_of_states(void)
{
    int path, optimizer, i;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 1; optimizer < 3; optimizer++) {
        enum { L = 512, N = L * 16 };
        haste_layer_options layer_options;
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        haste_lists none = { no_positive, NULL };
        int64_t down[2] = { 0, 0 }, agree = 0, other = 0;
        if (test_path_missing(test_paths[path])) continue;
        memset(&layer_options, 0, sizeof layer_options);
        layer_options.labels = L;
        layer_options.inputs = 16;
        layer_options.block_count = 1;
        layer_options.block[0].group_size = 16;
        layer_options.block[0].fan_in = 16;
        layer_options.optimizer = optimizers[optimizer];
        layer_options.state_dtype = HASTE_BF16;
        CHECK_STATUS(haste_layer_create(&layer, &layer_options, &test_error), HASTE_OK, test_error);
        for (i = 0; i < N; i++) {
            test_put(HASTE_BF16, layer.block[0].weight_state[0], (size_t)i, 1);
            if (optimizer == 2) test_put(HASTE_BF16, layer.block[0].weight_state[1], (size_t)i, 1);
        }
        work = test_workspace(&layer, 1, 1, test_paths[path]);
        memset(&options, 0, sizeof options);
        options.momentum = options.beta1 = options.beta2 = 1 - .5f / 256;   /* the state goes half way from 1 to 1 - 1/256 */
        CHECK_STATUS(haste_train_step(&layer, &work, zeros_16, 1, &none, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        for (i = 0; i < N; i++) {
            float m = test_get(HASTE_BF16, layer.block[0].weight_state[0], (size_t)i), v = 1;
            if (optimizer == 2) v = test_get(HASTE_BF16, layer.block[0].weight_state[1], (size_t)i);
            if ((m != 1 && m != 1 - 1 / 256.f) || (v != 1 && v != 1 - 1 / 256.f)) other++;
            down[0] += m != 1;
            down[1] += v != 1;
            agree += m == v;
        }
        CHECK(other == 0);
        check_share(down[0], N, .5, __LINE__);
        if (optimizer == 2) {
            check_share(down[1], N, .5, __LINE__);
            check_share(agree, N, .5, __LINE__);
        }
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* ---- learning rate 0, defaults ---- */

static void rate_zero_and_defaults(void)
{
    int optimizer;
    for (optimizer = 0; optimizer < 3; optimizer++) {
        haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_BCE, optimizers[optimizer], HASTE_BF16, HASTE_F32);
        haste_layer start = test_layer(&layer_options);
        test_batch batch = test_make_batch(&start, 9);
        haste_step_options options, given;
        outcome a, b;
        int32_t k;
        memset(&options, 0, sizeof options);
        options.weight_decay = .1f;
        a = run_step(&start, &batch, batch.positives, &options, 1, 9, 1, HASTE_PATH_AUTO, 1, 1);
        for (k = 0; k < start.block_count; k++) {
            CHECK(memcmp(a.layer.block[k].weight, start.block[k].weight, (size_t)test_weights(&start.block[k]) * 2) == 0);
            CHECK(memcmp(a.layer.block[k].bias, start.block[k].bias, (size_t)test_places(&start.block[k]) * 4) == 0);
            if (optimizer) CHECK(memcmp(a.layer.block[k].bias_state[0], start.block[k].bias_state[0], (size_t)test_places(&start.block[k]) * 4) != 0);
        }
        CHECK(a.layer.step == 1);
        free_outcome(&a);
        options.lr = .1f;
        given = options;
        given.momentum = .9f;
        given.beta1 = .9f;
        given.beta2 = .999f;
        given.eps = 1e-8f;
        given.loss.scale = 1.0 / 9;
        a = run_step(&start, &batch, batch.positives, &options, 2, 9, 1, HASTE_PATH_AUTO, 1, 1);
        b = run_step(&start, &batch, batch.positives, &given, 2, 9, 1, HASTE_PATH_AUTO, 1, 1);
        CHECK(same_outcome(&a, &b));
        free_outcome(&a);
        free_outcome(&b);
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* ---- accumulation ---- */

static void accumulation(void)
{
    int path, optimizer, loss, type, i;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 0; optimizer < 3; optimizer++) for (loss = 0; loss < 3; loss++)
    for (type = 0; type < 2; type++) {
        static const int shapes[] = { 4, 11, 12 };
        const test_shape *shape = &test_shapes[shapes[(optimizer + loss) % 3]];
        haste_layer_options layer_options = test_options(shape, losses[loss], optimizers[optimizer], type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer start, layer;
        test_batch batch;
        haste_workspace work;
        haste_gradient gradient;
        haste_step_options options = step_options(0);
        reference r;
        double loss_part[2] = { -1, -1 };
        float *grad_x, *zeros;
        size_t inputs;
        int64_t other = 0, j;
        int32_t k;
        char what[100];
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        layer = test_copy(&start);
        batch = test_make_batch(&layer, 40);
        inputs = (size_t)40 * (size_t)layer.inputs;
        grad_x = (float *)test_zeros(inputs * 4);
        zeros = (float *)test_zeros(inputs * 4);
        work = test_workspace(&layer, 30, 2, test_paths[path]);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        options.loss.scale = 1.0 / 40;
        r = make_reference(&layer, 40);
        compute(&r, &layer, &batch, 40);
        for (i = 0; i < 2; i++) {   /* 23 samples, then 17; the second half's lists begin far above 0 */
            int32_t first = i ? 23 : 0, n = i ? 17 : 23;
            haste_lists part;
            part.offset = batch.offset + first;
            part.id = batch.id;
            CHECK_STATUS(haste_accumulate(&layer, &work, batch.x + (size_t)first * (size_t)layer.inputs, n, &part, &options, &gradient, &loss_part[i],
                                          grad_x + (size_t)first * (size_t)layer.inputs, &test_error), HASTE_OK, test_error);
            CHECK(gradient.pending == i + 1 && layer.step == 0);
            CHECK(test_difference(&layer, &start) == NULL);
        }
        snprintf(what, sizeof what, "accumulated, %s, %s, %s, %s", shape->name, test_loss_name(losses[loss]), optimizer_name[optimizer],
                 haste_path_text(work.path));
        judge_rest(&r, grad_x, zeros, inputs, loss_part[0] + loss_part[1], 40, what);

        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_OK, test_error);
        CHECK(gradient.pending == 0 && layer.step == 1);
        judge_update(&start, &layer, &r, &options, what);
        for (k = 0; k < layer.block_count; k++) {
            for (j = 0; j < test_weights(&layer.block[k]); j++) other += gradient.weight[k][j] != 0;
            for (j = 0; j < test_places(&layer.block[k]); j++) other += gradient.bias[k][j] != 0;
        }
        CHECK(other == 0);
        /* and a step is possible again */
        CHECK_STATUS(haste_train_step(&layer, &work, batch.x, 9, &batch.positives, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
        free_reference(&r, &layer);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        free(grad_x);
        free(zeros);
        haste_layer_free(&layer);
        haste_layer_free(&start);
    }
}

/* What is accumulated is the gradient, judged as such; a second call adds the same once more. */
static void accumulated_gradient(void)
{
    int path, loss, i;
    for (path = 0; path < TEST_PATHS; path++) for (loss = 0; loss < 3; loss++) for (i = 3; i < 13; i += 3) {
        haste_layer_options layer_options = test_options(&test_shapes[i], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer layer;
        test_batch batch;
        haste_workspace work;
        haste_gradient gradient;
        haste_step_options options = step_options(0);
        reference r;
        test_errors got, naive;
        int32_t k;
        int64_t j;
        double loss_value;
        if (test_path_missing(test_paths[path])) continue;
        layer = test_layer(&layer_options);
        batch = test_make_batch(&layer, 37);
        work = test_workspace(&layer, 37, 2, test_paths[path]);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        r = make_reference(&layer, 37);
        compute(&r, &layer, &batch, 0);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, 37, &batch.positives, &options, &gradient, NULL, NULL, &test_error), HASTE_OK, test_error);
        memset(&got, 0, sizeof got);
        naive = got;
        for (k = 0; k < layer.block_count; k++) {
            for (j = 0; j < test_weights(&layer.block[k]); j++) {
                test_add_error(&got, (double)gradient.weight[k][j], r.gradient.weight[k][j]);
                test_add_error(&naive, (double)r.gradient.naive_weight[k][j], r.gradient.weight[k][j]);
            }
            for (j = 0; j < test_places(&layer.block[k]); j++) {
                test_add_error(&got, (double)gradient.bias[k][j], r.gradient.bias[k][j]);
                test_add_error(&naive, (double)r.gradient.naive_bias[k][j], r.gradient.bias[k][j]);
            }
        }
        test_judge(&got, &naive, test_shapes[i].name, __LINE__);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, 37, &batch.positives, &options, &gradient, &loss_value, NULL, &test_error), HASTE_OK,
                     test_error);
        CHECK_NEAR(loss_value, r.loss, 1e-6 * r.loss);
        CHECK(gradient.pending == 2);
        for (j = 0; j < test_weights(&layer.block[0]); j += 7)
            CHECK_NEAR((double)gradient.weight[0][j], 2 * r.gradient.weight[0][j], 1e-5 * naive.scale);
        free_reference(&r, &layer);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&layer);
    }
}

/* A loss of one's own: forward, logit gradients, backward, apply, without haste_accumulate. */
static void own_loss(void)
{
    haste_layer_options layer_options = test_options(&test_shapes[11], HASTE_BCE, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
    haste_layer start = test_layer(&layer_options), layer = test_copy(&start);
    test_batch batch = test_make_batch(&layer, 37);
    haste_workspace work = test_workspace(&layer, 37, 2, HASTE_PATH_AUTO);
    haste_gradient gradient;
    haste_step_options options = step_options(0);
    size_t count = (size_t)37 * (size_t)layer.slots, j;
    float *logits = check_floats(count), *grad = check_floats(count);
    reference r = make_reference(&layer, 37);
    compute(&r, &layer, &batch, 0);
    CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_forward(&layer, &work, batch.x, 37, logits, &test_error), HASTE_OK, test_error);
    for (j = 0; j < count; j++) grad[j] = (float)r.grad_logits[j];
    CHECK_STATUS(haste_backward(&layer, &work, batch.x, 37, grad, &gradient, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_OK, test_error);
    judge_update(&start, &layer, &r, &options, "own loss");
    free_reference(&r, &layer);
    haste_gradient_free(&gradient);
    haste_workspace_free(&work);
    test_free_batch(&batch);
    free(logits);
    free(grad);
    haste_layer_free(&layer);
    haste_layer_free(&start);
}

/* ---- the edges of float32 ---- */

/* Logits around +-size: the loss is finite and right, and so are the gradients. */
static void large_logits(void)
{
    static const float sizes[] = { 30, 100, 1000, 1e5f };
    int path, loss, i;
    for (path = 0; path < TEST_PATHS; path++) for (loss = 0; loss < 3; loss++) for (i = 0; i < 4; i++) {
        haste_layer_options layer_options = test_options(&test_shapes[10], losses[loss], HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_layer start;
        test_batch batch;
        haste_step_options options = step_options(0);
        reference r;
        outcome o;
        int32_t s;
        size_t j;
        double allowed;
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        batch = test_make_batch(&start, 35);
        for (s = 0; s < start.labels; s++) start.block[0].bias[s] = (check_random() & 1 ? sizes[i] : -sizes[i]) * (1 + .001f * (float)(s % 5));
        r = make_reference(&start, 35);
        compute(&r, &start, &batch, 0);
        o = run_step(&start, &batch, batch.positives, &options, 1, 35, 2, test_paths[path], 1, 1);
        CHECK(o.loss > 0 && o.loss < 1e30);
        /* Rounding a logit of this size moves the loss and, relatively, a gradient by its last bit. */
        allowed = (double)sizes[i] * 0x1p-22;
        CHECK_NEAR(o.loss, r.loss, 3e-7 * r.loss + allowed);
        for (j = 0; j < o.inputs; j++) CHECK_NEAR((double)o.grad_x[j], r.grad_x[j], (allowed + 1e-6) * (losses[loss] == HASTE_SQUARED_HINGE ? 50 : 5));
        CHECK_STATUS(haste_layer_check(&o.layer, &test_error), HASTE_OK, test_error);
        free_outcome(&o);
        free_reference(&r, &start);
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* A loss of labels far below 0, as with a million labels at their prior: each adds e^-14, and none may be lost. */
static void small_losses(void)
{
    static const float biases[] = { -8, -14, -40 };
    int path, i;
    for (path = 0; path < TEST_PATHS; path++) for (i = 0; i < 3; i++) {
        haste_layer_options layer_options;
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        static const int64_t offset[3] = { 0, 0, 0 };
        haste_lists none = { offset, NULL };
        float x[16] = { 0 };
        double loss, want = 3000 * log1p(exp((double)biases[i]));
        int32_t s;
        if (test_path_missing(test_paths[path])) continue;
        memset(&layer_options, 0, sizeof layer_options);
        layer_options.labels = 3000;
        layer_options.inputs = 8;
        CHECK_STATUS(haste_layer_create(&layer, &layer_options, &test_error), HASTE_OK, test_error);
        for (s = 0; s < 3000; s++) layer.block[0].bias[s] = biases[i];
        work = test_workspace(&layer, 2, 1, test_paths[path]);
        memset(&options, 0, sizeof options);
        options.lr = 1;
        CHECK_STATUS(haste_train_step(&layer, &work, x, 2, &none, &options, &loss, NULL, &test_error), HASTE_OK, test_error);
        CHECK_NEAR(loss / want, 1, 1e-6);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* One group's logits overflow: it stays as it was, the others learn what they would have learnt, and the status says so. */
static void not_finite(void)
{
    int path, loss, optimizer, kind;
    for (path = 0; path < TEST_PATHS; path++) for (loss = 0; loss < 3; loss++) for (optimizer = 0; optimizer < 3; optimizer++) for (kind = 0; kind < 3; kind++) {
        haste_layer_options layer_options = test_options(&test_shapes[3], losses[loss], optimizers[optimizer], HASTE_F32, HASTE_F32);
        haste_layer start, broken, layer;
        test_batch batch;
        haste_workspace work;
        haste_step_options options = step_options(0);
        outcome sound;
        double value = 0;
        int64_t S = 16, F = 16, g, bad = 4;
        float *grad_x, *w;
        haste_gradient gradient;
        haste_status status;
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        batch = test_make_batch(&start, 35);
        sound = run_step(&start, &batch, batch.positives, &options, 1, 35, 2, test_paths[path], 1, 1);
        broken = test_copy(&start);
        w = (float *)broken.block[0].weight + bad * F * S;
        w[3] = kind == 1 ? -3e38f : 3e38f;       /* slot 3 of the group, its first input: +inf, -inf */
        if (kind == 2) { w[3] = 3e38f; w[S + 3] = -3e38f; }   /* or NaN, where the inputs' signs agree */
        {
            const uint16_t *index = broken.block[0].index + bad * F;
            batch.x[34 * 64 + index[0]] = 4;    /* the last sample only */
            batch.x[34 * 64 + index[1]] = 4;
        }
        free_outcome(&sound);
        sound = run_step(&start, &batch, batch.positives, &options, 1, 35, 2, test_paths[path], 1, 1);
        layer = test_copy(&broken);
        work = test_workspace(&layer, 35, 2, test_paths[path]);
        grad_x = (float *)test_zeros((size_t)35 * 64 * 4);
        status = haste_train_step(&layer, &work, batch.x, 35, &batch.positives, &options, &value, grad_x, &test_error);
        CHECK(status == HASTE_ERR_NONFINITE);
        CHECK(test_error.status == HASTE_ERR_NONFINITE && strlen(test_error.text) > 10);
        CHECK(layer.step == 1);
        for (g = 0; g < layer.block[0].groups; g++) {
            const haste_layer *same = g == bad ? &broken : &sound.layer;
            int i;
            if (g != bad && losses[loss] == HASTE_SOFTMAX) {   /* its sum lacks the group: changed, and finite */
                CHECK(memcmp((float *)layer.block[0].weight + g * F * S, (float *)broken.block[0].weight + g * F * S, (size_t)(F * S) * 4) != 0);
                continue;
            }
            CHECK(memcmp((float *)layer.block[0].weight + g * F * S, (float *)same->block[0].weight + g * F * S, (size_t)(F * S) * 4) == 0);
            CHECK(memcmp(layer.block[0].bias + g * S, same->block[0].bias + g * S, (size_t)S * 4) == 0);
            for (i = 0; i < optimizer; i++) {
                CHECK(memcmp((float *)layer.block[0].weight_state[i] + g * F * S, (float *)same->block[0].weight_state[i] + g * F * S,
                             (size_t)(F * S) * 4) == 0);
                CHECK(memcmp(layer.block[0].bias_state[i] + g * S, same->block[0].bias_state[i] + g * S, (size_t)S * 4) == 0);
            }
        }
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        /* accumulated: the group adds nothing */
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        haste_layer_free(&layer);
        layer = test_copy(&broken);
        CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, 35, &batch.positives, &options, &gradient, NULL, NULL, &test_error), HASTE_ERR_NONFINITE,
                     test_error);
        {
            int64_t j, other = 0, finite = 0;
            for (j = 0; j < F * S; j++) other += gradient.weight[0][bad * F * S + j] != 0;
            for (j = 0; j < S; j++) other += gradient.bias[0][bad * S + j] != 0;
            for (j = 0; j < test_weights(&layer.block[0]); j++) finite += fabsf(gradient.weight[0][j]) < 1e30f;
            CHECK(other == 0);
            CHECK(finite == test_weights(&layer.block[0]));
            CHECK(gradient.weight[0][0] != 0);
        }
        /* and an update finds it with a gradient of 0: weights stay, but for decay and momentum */
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_OK, test_error);
        if (optimizers[optimizer] == HASTE_SGD && options.weight_decay <= 0)
            CHECK(memcmp((float *)layer.block[0].weight + bad * F * S, (float *)broken.block[0].weight + bad * F * S, (size_t)(F * S) * 4) == 0);
        CHECK(memcmp(layer.block[0].weight, broken.block[0].weight, (size_t)(F * S) * 4) != 0);
        haste_gradient_free(&gradient);
        free(grad_x);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&broken);
        free_outcome(&sound);
        test_free_batch(&batch);
        haste_layer_free(&start);
    }
}

/* Group g of a block must be as it was before, all other groups as in another layer. */
static void one_group_kept(const haste_layer *before, const haste_layer *after, const haste_layer *other, int32_t number, int64_t g,
                           const char *what)
{
    int32_t k;
    int64_t i;
    int a, kept = 1, same = 1;
    for (k = 0; k < after->block_count; k++) for (a = -1; a < (int)after->optimizer; a++) {
        const haste_block *now = &after->block[k], *was = &before->block[k], *wanted = &other->block[k];
        const size_t S = (size_t)now->group_size, width = (a < 0 ? after->dtype : after->state_dtype) == HASTE_BF16 ? 2 : 4;
        const size_t bytes = S * (size_t)now->fan_in * width;
        for (i = 0; i < now->groups; i++) {
            const int own = k == number && i == g;
            const haste_block *block = own ? was : wanted;
            const char *expected = (const char *)(a < 0 ? block->weight : block->weight_state[a]) + (size_t)i * bytes;
            const float *bias = (a < 0 ? block->bias : block->bias_state[a]) + (size_t)i * S;
            const int equal = memcmp((const char *)(a < 0 ? now->weight : now->weight_state[a]) + (size_t)i * bytes, expected, bytes) == 0 &&
                              memcmp((a < 0 ? now->bias : now->bias_state[a]) + (size_t)i * S, bias, S * sizeof(float)) == 0;
            if (own) kept &= equal;
            else same &= equal;
        }
    }
    if (!CHECK(kept)) printf("    %s: the group has changed\n", what);
    if (!CHECK(same)) printf("    %s: other groups are not as without it\n", what);
}

/* An update that would make a number infinite leaves the group alone, and says so; by haste_apply too. */
static void infinite_updates(void)
{
    enum { WEIGHT, STATE, BIAS_STATE, PLACES };   /* where the number stands that is too large; the latter two for momentum */
    int path, optimizer, bf16, place, apply;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 0; optimizer < 3; optimizer++)
    for (bf16 = 0; bf16 < 4; bf16++) for (place = 0; place < PLACES; place++) for (apply = 0; apply < 2; apply++) {
        static const test_shape shape = { "infinite", 150, 40, 2, { { 40, 16, HASTE_DENSE, 0, 20 }, { 0, 24, 9, 5, 40 } }, 1 };
        haste_layer_options layer_options = test_options(&shape, HASTE_BCE, optimizers[optimizer], bf16 & 1 ? HASTE_BF16 : HASTE_F32,
                                                         bf16 & 2 ? HASTE_BF16 : HASTE_F32);
        haste_layer start, before, layer, other;
        haste_step_options options = step_options(0);
        haste_gradient gradient;
        haste_workspace work;
        test_batch batch;
        haste_block *block;
        const int32_t number = apply;   /* of the block: dense, and sparse */
        const int64_t g = 1;
        size_t at;
        char what[200];
        int turn, b;
        if (test_path_missing(test_paths[path]) || (place != WEIGHT && optimizer != 1)) continue;
        start = test_layer(&layer_options);
        batch = test_make_batch(&start, 37);
        start.block[1].index[g * 9] = 0;   /* column 5: ascending whatever it was. It is 0, so large weights leave logits alone. */
        for (b = 0; b < 37; b++) batch.x[b * 40 + 5] = 0;
        before = test_copy(&start);
        block = &before.block[number];
        at = (size_t)((g * block->fan_in + (number == 0 ? 5 : 0)) * block->group_size + 3);
        if (place == WEIGHT) test_put(before.dtype, block->weight, at, 3e38f);
        if (place == STATE) test_put(before.state_dtype, block->weight_state[0], at, 3e38f);
        if (place == BIAS_STATE) block->bias_state[0][g * block->group_size + 3] = 3e38f;
        options.lr = 2;
        options.weight_decay = 3;
        work = test_workspace(&start, 37, 2, test_paths[path]);
        CHECK_STATUS(haste_gradient_create(&gradient, &start, &test_error), HASTE_OK, test_error);
        layer = test_copy(&before);
        other = test_copy(&start);
        for (turn = 0; turn < 2; turn++) {
            haste_layer *l = turn ? &layer : &other;
            haste_status status;
            if (apply) {
                CHECK_STATUS(haste_accumulate(l, &work, batch.x, 37, &batch.positives, &options, &gradient, NULL, NULL, &test_error), HASTE_OK,
                             test_error);
                status = haste_apply(l, &work, &gradient, &options, &test_error);
            } else status = haste_train_step(l, &work, batch.x, 37, &batch.positives, &options, NULL, NULL, &test_error);
            CHECK_STATUS(status, turn ? HASTE_ERR_NONFINITE : HASTE_OK, test_error);
            CHECK(l->step == 1);
            CHECK_STATUS(haste_layer_check(l, &test_error), HASTE_OK, test_error);
        }
        snprintf(what, sizeof what, "%s, %s, types %d, place %d, %s", haste_path_text(work.path), optimizer_name[optimizer], bf16, place,
                 apply ? "apply" : "step");
        one_group_kept(&before, &layer, &other, number, g, what);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&start);
        haste_layer_free(&before);
        haste_layer_free(&layer);
        haste_layer_free(&other);
    }
}

/* A gradient of 1e18 and more is not usable, though every logit is finite: Adam squares it. */
static void huge_gradients(void)
{
    int path, optimizer;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 0; optimizer < 3; optimizer++) {
        haste_layer_options layer_options = test_options(&test_shapes[3], HASTE_BCE, optimizers[optimizer], HASTE_F32, HASTE_F32);
        haste_layer start, layer;
        haste_workspace work;
        haste_step_options options = step_options(0);
        test_batch batch;
        int64_t i;
        if (test_path_missing(test_paths[path])) continue;
        layer_options.zero_weights = 1;   /* so logits are the biases, whatever x */
        start = test_layer(&layer_options);
        memset(start.block[0].weight, 0, (size_t)test_weights(&start.block[0]) * 4);
        layer = test_copy(&start);
        batch = test_make_batch(&layer, 5);
        for (i = 0; i < 5 * layer.inputs; i++) batch.x[i] *= 1e22f;
        work = test_workspace(&layer, 5, 1, test_paths[path]);
        CHECK_STATUS(haste_train_step(&layer, &work, batch.x, 5, &batch.positives, &options, NULL, NULL, &test_error), HASTE_ERR_NONFINITE, test_error);
        CHECK(memcmp(layer.block[0].weight, start.block[0].weight, (size_t)test_weights(&start.block[0]) * 4) == 0);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&layer);
        haste_layer_free(&start);
    }
}

/* haste_apply leaves a group alone whose gradient is not finite, or 1e18 and more; others move. */
static void unusable_gradients(void)
{
    static const float bad[4] = { NAN, -HUGE_VALF, 1e18f, 3e38f };
    int path, optimizer, i, in_bias;
    for (path = 0; path < TEST_PATHS; path++) for (optimizer = 0; optimizer < 3; optimizer++)
    for (i = 0; i < 4; i++) for (in_bias = 0; in_bias < 2; in_bias++) {
        static const test_shape shape = { "unusable", 150, 40, 1, { { 0, 24, 9, 5, 40 } }, 1 };
        haste_layer_options layer_options = test_options(&shape, HASTE_BCE, optimizers[optimizer], HASTE_F32, HASTE_F32);
        haste_layer start, layer;
        haste_workspace work;
        haste_step_options options = step_options(0);
        haste_gradient gradient;
        int64_t j, group = 24 * 9, n;
        int kept = 1, moved = 1, zero = 1;
        if (test_path_missing(test_paths[path])) continue;
        start = test_layer(&layer_options);
        layer = test_copy(&start);
        n = test_weights(&start.block[0]);
        options.lr = 1e-3f;
        work = test_workspace(&layer, 5, 1, test_paths[path]);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
        for (j = 0; j < n; j++) if (j / group * 24 + j % 24 < 150) gradient.weight[0][j] = .5f;
        if (in_bias) gradient.bias[0][24 + 7] = bad[i];
        else gradient.weight[0][group + 31] = bad[i];
        gradient.pending = 1;
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &options, &test_error), HASTE_ERR_NONFINITE, test_error);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        for (j = 0; j < n; j++) {
            const int same = ((float *)layer.block[0].weight)[j] == ((float *)start.block[0].weight)[j];
            if (j / group == 1) kept &= same;
            else if (j / group * 24 + j % 24 < 150) moved &= !same;
            zero &= gradient.weight[0][j] == 0;
        }
        CHECK(kept && moved && zero && layer.step == 1 && gradient.pending == 0);
        haste_gradient_free(&gradient);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&start);
    }
}

/* No two runs of 256 numbers of a layer round alike: positions of random numbers must not overlap, not even where a group has
   more than 4,096 weights. */
static void rounding_is_independent(void)
{
    enum { RUN_OF = 256 };
    static const test_shape shape = { "large groups", 600, 600, 2, { { 300, 16, 512, 0, 0 }, { 0, 16, 600, 0, 0 } }, 0 };
    haste_layer_options layer_options = test_options(&shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
    haste_layer layer = test_layer(&layer_options);
    haste_workspace work = test_workspace(&layer, 1, 1, HASTE_PATH_AUTO);
    haste_step_options options = step_options(0);
    haste_lists none = { no_positive, NULL };
    float *x = (float *)test_zeros(600 * sizeof(float));
    int64_t all = 0, n = 0, i, j, alike = 0;
    unsigned char *down;
    int32_t k;
    for (k = 0; k < 2; k++) all += test_weights(&layer.block[k]);
    down = (unsigned char *)test_zeros((size_t)all);
    for (k = 0; k < 2; k++) for (i = 0; i < test_weights(&layer.block[k]); i++) test_put(HASTE_BF16, layer.block[k].weight, (size_t)i, 1);
    options.lr = 1;
    options.weight_decay = .5f / 256;   /* half of them go down to 1 - 1/256 */
    CHECK_STATUS(haste_train_step(&layer, &work, x, 1, &none, &options, NULL, NULL, &test_error), HASTE_OK, test_error);
    for (k = 0; k < 2; k++) for (i = 0; i < test_weights(&layer.block[k]); i++) down[n++] = test_get(HASTE_BF16, layer.block[k].weight, (size_t)i) < 1;
    for (i = 0; i + RUN_OF <= n; i += RUN_OF)
        for (j = 0; j < i; j += RUN_OF) alike += memcmp(down + i, down + j, RUN_OF) == 0;
    CHECK(alike == 0);
    free(down);
    free(x);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

/* It learns: three samples, each with a label of its own. */
static void it_learns(void)
{
    int loss, optimizer, type, i;
    for (loss = 0; loss < 3; loss++) for (optimizer = 0; optimizer < 3; optimizer++) for (type = 0; type < 2; type++) {
        static const int64_t offset[] = { 0, 1, 2, 3 };
        static const int32_t id[] = { 17, 44, 60 };
        haste_lists positives = { offset, id };
        haste_layer_options layer_options = test_options(&test_shapes[10], losses[loss], optimizers[optimizer], type ? HASTE_BF16 : HASTE_F32,
                                                         type ? HASTE_BF16 : HASTE_F32);
        haste_layer layer;
        haste_workspace work;
        haste_step_options options;
        test_batch batch;
        double first = 0, last = 0;
        int32_t best[3];
        CHECK_STATUS(haste_layer_create(&layer, &layer_options, &test_error), HASTE_OK, test_error);
        work = test_workspace(&layer, 3, 2, HASTE_PATH_AUTO);
        batch = test_make_batch(&layer, 3);
        memset(&options, 0, sizeof options);
        options.lr = optimizer == 2 ? .01f : .02f;
        for (i = 0; i < 300; i++)
            CHECK_STATUS(haste_train_step(&layer, &work, batch.x, 3, &positives, &options, i ? &last : &first, NULL, &test_error), HASTE_OK, test_error);
        CHECK(last < first / 4);
        CHECK_STATUS(haste_top_k(&layer, &work, batch.x, 3, 1, NULL, best, NULL, &test_error), HASTE_OK, test_error);
        CHECK(best[0] == 17 && best[1] == 44 && best[2] == 60);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(by_hand);
    RUN(against_double);
    RUN(negligible);
    RUN(same_bits);
    RUN(used_workspace);
    RUN(lists);
    RUN(all_positive);
    RUN(rounding_is_unbiased);
    RUN(rounding_keeps);
    RUN(rounding_of_states);
    RUN(rate_zero_and_defaults);
    RUN(accumulation);
    RUN(accumulated_gradient);
    RUN(own_loss);
    RUN(large_logits);
    RUN(small_losses);
    RUN(not_finite);
    RUN(infinite_updates);
    RUN(huge_gradients);
    RUN(unusable_gradients);
    RUN(rounding_is_independent);
    RUN(it_learns);
    return check_end();
}
