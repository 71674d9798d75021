// haste_cuda.cuh on a device: stochastic rounding of weights and states.
#include "cuda.h"

// Stochastic rounding: right in the mean, the same for the same seed and step, another for another step.
static void rounding()
{
    haste_layer_options options;
    haste_layer layer, a, b;
    haste_cuda_layer dev;
    haste_cuda_workspace work;
    haste_step_options o;
    float x[1] = { 1 };
    int64_t offset[2] = { 0, 0 };
    int32_t id[1] = { 0 };
    haste_cuda_lists lists = { offset, id, 1 };
    void *dev_x;
    int64_t i, n, up = 0;
    int draw, draws = 4;
    double p = .3, sigma;
    memset(&options, 0, sizeof options);
    options.labels = 32768;
    options.inputs = 1;
    options.loss = HASTE_SQUARED_HINGE;
    options.dtype = HASTE_BF16;
    options.zero_weights = 1;
    options.seed = 11;
    CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
    n = layer.block[0].groups * 32;
    for (i = 0; i < n; i++) ((uint16_t *)layer.block[0].weight)[i] = 0x3f80;   // 1, so that z = 1 and the gradient 4
    a = test_copy(&layer);
    b = test_copy(&layer);
    dev_x = device_copy(x, 4);
    memset(&o, 0, sizeof o);
    o.lr = (float)(p * 0x1p-8 / 4);   // downwards from 1 a step of bfloat16 is 2^-8
    for (draw = 0; draw < draws; draw++) {
        int64_t moved = 0;
        layer.step = draw;
        dev = upload(&layer);
        work = workspace(&dev, 1, 0);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, &lists, &o, NULL, NULL,
                                           HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &a, NULL, NULL);
        for (i = 0; i < n; i++) {
            uint16_t w = ((uint16_t *)a.block[0].weight)[i];
            moved += w == 0x3f7f;
            if (w != 0x3f7f && w != 0x3f80) CHECK(w == 0x3f80);
        }
        up += moved;
        haste_cuda_layer_free(&dev);
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, &lists, &o, NULL, NULL,
                                           HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &b, NULL, NULL);
        CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) == 0);
        haste_cuda_layer_free(&dev);
        layer.step = draw + 100;
        dev = upload(&layer);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, 1, &lists, &o, NULL, NULL,
                                           HASTE_CUDA_F32,
                                           NULL, &test_error), HASTE_OK, test_error);
        haste_cuda_download(&dev, &b, NULL, NULL);
        CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) != 0);
        haste_cuda_layer_free(&dev);
        haste_cuda_workspace_free(&work);
    }
    sigma = sqrt(p * (1 - p) / (double)(n * draws));
    CHECK_NEAR((double)up / (double)(n * draws), p, 5 * sigma);
    cudaFree(dev_x);
    haste_layer_free(&layer);
    haste_layer_free(&a);
    haste_layer_free(&b);
}

// What rounding makes of n numbers that all lie a share p of the way from `low` to the next bfloat16, `high` (bit patterns):
// either one or the other; the latter as often as p says, over all, over each place of a group (a noise that is the same in
// each group, or leans to one side there, shows), and over each group (one that is the same within a group).
static void judge_rounding(const uint16_t *array, int64_t groups, int64_t each, uint16_t low, uint16_t high, double p,
                           const char *what)
{
    int64_t *of_place = (int64_t *)test_zeros((size_t)each * 8), up = 0, other = 0, g, i;
    const double n = (double)groups * (double)each;
    double places = 0, all_groups = 0;
    for (g = 0; g < groups; g++) {
        int64_t count = 0;
        for (i = 0; i < each; i++) {
            const uint16_t v = array[g * each + i];
            count += v == high;
            of_place[i] += v == high;
            other += v != high && v != low;
        }
        up += count;
        all_groups += ((double)count - p * (double)each) * ((double)count - p * (double)each) / (p * (1 - p) * (double)each);
    }
    for (i = 0; i < each; i++)
        places += ((double)of_place[i] - p * (double)groups) * ((double)of_place[i] - p * (double)groups)
                / (p * (1 - p) * (double)groups);
    CHECK(other == 0);
    // 2^-16: noise has 16 bits; the rest are sums of squares of normal numbers, near enough
    if (!(CHECK_NEAR((double)up / n, p, 5.5 * sqrt(p * (1 - p) / n) + 0x1p-15) &
          CHECK_NEAR(places, (double)each, 8 * sqrt(2 * (double)each)) &
          CHECK_NEAR(all_groups, (double)groups, 8 * sqrt(2 * (double)groups)) & (other == 0)))
        printf("    %s, p %g, %lld numbers, %lld of them neither\n", what, p, (long long)n, (long long)other);
    free(of_place);
}

/* Stochastic rounding of weights and states on a path: the mean is right, the same seed and step round the same, others
   otherwise. All weights are 1 or -1 and all have the gradient 1/16 or -1/16,
   exactly; rates and decays are such that what
   is to be rounded lies a share p of the way between two numbers. turn: which signs. */
static void rounding_on(const test_shape *shape, haste_cuda_path path, int32_t B, haste_optimizer optimizer, double p,
                        int turn)
{
    const int minus = turn & 1, up = turn >> 1 & 1,
        grows = minus != up;   /* weights below 0; gradients below 0; |w| grows */
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, optimizer, HASTE_BF16, HASTE_BF16);
    haste_layer layer, a, b;
    haste_cuda_workspace work;
    haste_step_options o;
    const double slope = up ? -1. / 16 : 1. / 16, ulp = grows ? 0x1p-7 : 0x1p-8;
    double m = 0, v = 0, change;
    int64_t *offset, i, n;
    int32_t *id;
    float *x;
    void *dev_x;
    uint16_t *w;
    int run;
    options.zero_weights = 1;
    options.seed = 11 + (uint64_t)turn;
    CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
    layer.step = 5 + turn;
    n = test_weights(&layer.block[0]);
    w = (uint16_t *)layer.block[0].weight;
    for (i = 0; i < n; i++) {
        w[i] = minus ? 0xbf80 : 0x3f80;
        if (layer.block[0].weight_state[0]) ((uint16_t *)layer.block[0].weight_state[0])[i] = up ? 0xbf80 : 0x3f80;
        if (layer.block[0].weight_state[1]) ((uint16_t *)layer.block[0].weight_state[1])[i] = 0x3f80;
    }
    // x is 1/64 in sample 0, else 0; biases turn its logits to 1 (no positives), or to -1 (all are): dz = 4 or -4
    for (i = 0; i < test_places(&layer.block[0]); i++)
        layer.block[0].bias[i] = (up ? -1.f : 1.f) - (minus ? -1.f : 1.f) * (float)layer.block[0].fan_in / 64;
    x = (float *)test_zeros((size_t)B * (size_t)layer.inputs * 4);
    for (i = 0; i < layer.inputs; i++) x[i] = 1.f / 64;
    id = (int32_t *)test_alloc((size_t)layer.labels * 4);
    for (i = 0; i < layer.labels; i++) id[i] = (int32_t)i;
    offset = (int64_t *)test_zeros(((size_t)B + 1) * 8);
    for (i = 1; i <= B; i++) offset[i] = up ? layer.labels : 0;
    memset(&o, 0, sizeof o);
    o.loss.scale = 1;
    change = fabs(slope);
    if (optimizer == HASTE_MOMENTUM) {   // 246/256 is a bfloat16 number, 247/256 the next
        o.momentum = (float)((246 + p) / 256 - 1. / 16);
        m = change = (double)o.momentum + 1. / 16;
    } else if (optimizer == HASTE_ADAMW) {
        const double t = (double)layer.step + 1;
        o.beta1 = (float)(((246 + p) / 256 - 1. / 16) * 16 / 15);
        o.beta2 = (float)(((246 + p) / 256 - 1. / 256) * 256 / 255);
        m = (double)o.beta1 + (1 - (double)o.beta1) / 16;
        v = (double)o.beta2 + (1 - (double)o.beta2) / 256;
        change = m / (1 - pow((double)o.beta1, t)) / (sqrt(v / (1 - pow((double)o.beta2, t))) + 1e-8);
    }
    o.lr = (float)(p * ulp / change);
    a = test_copy(&layer);
    b = test_copy(&layer);
    dev_x = device_copy(x, (size_t)B * (size_t)layer.inputs * 4);
    for (run = 0; run < (turn ? 1 : 4); run++) {   // again; another step; another seed
        haste_cuda_lists lists = { offset, id, 1 };
        haste_cuda_layer dev;
        layer.step = 5 + turn + (run == 2);
        layer.seed += run == 3;
        dev = upload_for(&layer, path, B);
        work = workspace(&dev, B, 0);
        CHECK(haste_cuda_path_of(&dev, &work, 0, B, NULL) == path);
        CHECK_STATUS(haste_cuda_train_step(&dev, &work, dev_x, HASTE_CUDA_F32, B, &lists, &o, NULL, NULL,
                                           HASTE_CUDA_F32,
                                           NULL,
                                           &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&dev, run ? &b : &a, NULL, &test_error), HASTE_OK, test_error);
        if (run == 1) CHECK(test_difference(&a, &b) == NULL);
        if (run >= 2) CHECK(memcmp(a.block[0].weight, b.block[0].weight, (size_t)n * 2) != 0);
        if (run >= 2 && m > 0) CHECK(memcmp(a.block[0].weight_state[0], b.block[0].weight_state[0],
                                            (size_t)n * 2) != 0);
        if (run >= 2 && v > 0) CHECK(memcmp(a.block[0].weight_state[1], b.block[0].weight_state[1],
                                            (size_t)n * 2) != 0);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
    }
    {
        const int64_t groups = layer.block[0].groups, each = n / groups;
        const uint16_t one = minus ? 0xbf80 : 0x3f80, sign = up ? 0x8000 : 0;
        judge_rounding((const uint16_t *)a.block[0].weight, groups, each, one, (uint16_t)(grows ? one + 1 : one - 1), p,
                       shape->name);
        if (m > 0) judge_rounding((const uint16_t *)a.block[0].weight_state[0], groups, each, (uint16_t)(0x3f76 | sign),
                                  (uint16_t)(0x3f77 | sign), m * 256 - 246, "momentum, or the first moment");
        if (v > 0) judge_rounding((const uint16_t *)a.block[0].weight_state[1], groups, each, 0x3f76, 0x3f77,
                                  v * 256 - 246,
                                  "the second moment");
    }
    free(x); free(id); free(offset);
    cudaFree(dev_x);
    haste_layer_free(&layer);
    haste_layer_free(&a);
    haste_layer_free(&b);
}

static void rounding_paths()
{
    static const test_shape shapes[] = {   // no padding
        { "S 32, F 64",    8192, 128, 1, { { 0,  32,  64, 0, 0 } }, 0 },
        { "S 64, F 128",   8192, 256, 1, { { 0,  64, 128, 0, 0 } }, 0 },
        { "S 128, F 208",  8192, 416, 1, { { 0, 128, 208, 0, 0 } }, 0 },
        { "S 16, F 64",    4096, 128, 1, { { 0,  16,  64, 0, 0 } }, 0 },
        { "S 32, F 48",    8192,  96, 1, { { 0,  32,  48, 0, 0 } }, 0 },
        { "S 16, F 128",   4096, 256, 1, { { 0,  16, 128, 0, 0 } }, 0 } };
    static const struct { int shape; haste_cuda_path path; int32_t B; } cases[] = {
        { 0, HASTE_CUDA_GENERAL, 1 }, { 0, HASTE_CUDA_WIDE, 1 }, { 1, HASTE_CUDA_WIDE, 64 }, { 2, HASTE_CUDA_WIDE, 1 },
        { 3, HASTE_CUDA_NARROW, 1 }, { 4, HASTE_CUDA_NARROW, 128 }, { 5, HASTE_CUDA_NARROW, 64 } };
    static const double shares[] = { .1, .5, .9 };
    int i, optimizer, turn;
    for (i = 0; i < (int)(sizeof cases / sizeof cases[0]); i++) {
        const test_shape *shape = &shapes[cases[i].shape];
        haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16);
        haste_layer layer = test_layer(&options);
        haste_cuda_layer probe = upload_for(&layer, cases[i].path, cases[i].B);
        if (probe.path[0] != cases[i].path) printf("    %s: not on this device\n", shape->name);
        else for (optimizer = 0; optimizer < 3; optimizer++) for (turn = 0; turn < 4; turn++)
            rounding_on(shape, cases[i].path, cases[i].B, (haste_optimizer)optimizer,
                        shares[(turn + optimizer + i) % 3],
                        turn);
        haste_cuda_layer_free(&probe);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(rounding);
    RUN(rounding_paths);
    return check_end();
}
