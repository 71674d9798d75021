/* Bugs that were found by reading, one subject each, so that they stay away. */
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "check.h"

static haste_error error;

/* A layer of one sparse block without weights, its workspace, and B samples of ones with one positive each: label b. */
enum { L = 24, D = 8, B = 3 };
static haste_layer layer;
static haste_workspace work;
static haste_step_options step;
static float x[B * D];
static int64_t offset[B + 1];
static int32_t id[B];
static haste_lists positives;

static void make(haste_loss loss, haste_optimizer optimizer, int threads)
{
    haste_layer_options options;
    haste_workspace_options o;
    int i;
    memset(&options, 0, sizeof options);
    memset(&o, 0, sizeof o);
    memset(&step, 0, sizeof step);
    options.labels = L;
    options.inputs = D;
    options.block_count = 1;
    options.block[0].group_size = 8;
    options.block[0].fan_in = 4;
    options.zero_weights = 1;
    options.loss = loss;
    options.optimizer = optimizer;
    o.threads = threads;
    CHECK_STATUS(haste_layer_create(&layer, &options, &error), HASTE_OK, error);
    CHECK_STATUS(haste_workspace_create(&work, &layer, &o, &error), HASTE_OK, error);
    for (i = 0; i < B * D; i++) x[i] = 1;
    for (i = 0; i <= B; i++) offset[i] = i;
    for (i = 0; i < B; i++) id[i] = i;
    positives.offset = offset;
    positives.id = id;
}

static void forget(void)
{
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

/* Logits of -0 and +0 tie, so the smaller id wins for any number of threads. */
static void signed_zeros_tie(void)
{
    int threads;
    for (threads = 1; threads <= 3; threads++) {
        int32_t best[B];
        int i;
        make(HASTE_BCE, HASTE_SGD, threads);
        for (i = 0; i < L; i++) layer.block[0].bias[i] = i == 0 || i == 8 || i == 16 ? 0.0f : -1.0f;
        layer.block[0].bias[0] = -0.0f;
        memset(x, 0, sizeof x);
        for (i = 0; i < 4 * L; i++) ((float *)layer.block[0].weight)[i] = -0.0f;
        CHECK_STATUS(haste_top_k(&layer, &work, x, B, 1, NULL, best, NULL, &error), HASTE_OK, error);
        for (i = 0; i < B; i++) CHECK(best[i] == 0);
        forget();
    }
}

/* A fitted positive beside negatives that cost next to nothing: the small terms must not drown. */
static void loss_of_fitted_positives(void)
{
    double loss, want = 0;
    int i;
    make(HASTE_BCE, HASTE_SGD, 1);
    for (i = 0; i < L; i++) layer.block[0].bias[i] = i < B ? 30.0f : -16.0f;
    for (i = 0; i < B; i++) want += log1p(exp(-30.0)) + 2 * (30 + log1p(exp(-30.0))) + (L - B) * log1p(exp(-16.0));
    CHECK_STATUS(haste_train_step(&layer, &work, x, B, &positives, &step, &loss, NULL, &error), HASTE_OK, error);
    CHECK_NEAR(loss, want / B, 1e-6 * want / B);
    for (i = 0; i < L; i++) layer.block[0].bias[i] = -16.0f;
    layer.block[0].bias[0] = 30.0f;
    for (i = 0; i < B; i++) id[i] = 0;   /* every sample has label 0 alone */
    want = log1p(exp(-30.0)) + (L - 1) * log1p(exp(-16.0));
    CHECK_STATUS(haste_train_step(&layer, &work, x, B, &positives, &step, &loss, NULL, &error), HASTE_OK, error);
    CHECK_NEAR(loss, want, 1e-5 * want);
    forget();

    make(HASTE_SQUARED_HINGE, HASTE_SGD, 1);
    for (i = 0; i < L; i++) layer.block[0].bias[i] = -1.5f;
    layer.block[0].bias[0] = 123.456f;
    for (i = 0; i < B; i++) id[i] = 0;
    CHECK_STATUS(haste_train_step(&layer, &work, x, B, &positives, &step, &loss, NULL, &error), HASTE_OK, error);
    CHECK(loss == 0);
    forget();
}

/* haste_apply leaves a group alone whose gradients are NaN, or too large to be squared, and says so. */
static void apply_refuses_bad_gradients(void)
{
    haste_gradient gradient;
    int round;
    for (round = 0; round < 2; round++) {
        int i;
        make(HASTE_BCE, HASTE_ADAMW, 1);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer, &error), HASTE_OK, error);
        for (i = 0; i < L; i++) gradient.bias[0][i] = 1;
        if (round == 0) gradient.bias[0][9] = (float)NAN;
        else gradient.weight[0][40] = 3e19f;   /* group 1: its weights are 32 .. 63 */
        step.lr = .5f;
        gradient.pending = 1;   /* filled by hand */
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &step, &error), HASTE_ERR_NONFINITE, error);
        CHECK_STATUS(haste_layer_check(&layer, &error), HASTE_OK, error);
        for (i = 0; i < L; i++) {
            if (i / 8 == 1) CHECK(layer.block[0].bias[i] == 0);
            else CHECK_NEAR(layer.block[0].bias[i], -.5, 1e-6);
            CHECK(gradient.bias[0][i] == 0);
        }
        haste_gradient_free(&gradient);
        forget();
    }
}

/* haste_score takes a workspace made for a smaller layer, and more samples than that was made for. */
static void score_needs_no_workspace_of_its_size(void)
{
    haste_layer_options options;
    haste_workspace_options o;
    haste_workspace small;
    haste_layer tiny;
    float score[B];
    memset(&options, 0, sizeof options);
    memset(&o, 0, sizeof o);
    options.labels = options.inputs = 1;
    options.block_count = 1;
    options.block[0].group_size = 8;
    o.batch = 1;
    make(HASTE_BCE, HASTE_SGD, 1);
    CHECK_STATUS(haste_layer_create(&tiny, &options, &error), HASTE_OK, error);
    CHECK_STATUS(haste_workspace_create(&small, &tiny, &o, &error), HASTE_OK, error);
    layer.block[0].bias[2] = 7;
    CHECK_STATUS(haste_score(&layer, &small, x, B, &positives, score, &error), HASTE_OK, error);
    CHECK(score[0] == 0 && score[1] == 0 && score[2] == 7);
    haste_workspace_free(&small);
    haste_layer_free(&tiny);
    forget();
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(signed_zeros_tie);
    RUN(loss_of_fitted_positives);
    RUN(apply_refuses_bad_gradients);
    RUN(score_needs_no_workspace_of_its_size);
    return check_end();
}
