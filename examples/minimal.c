/* minimal.c: the library in one page. Vectors with planted labels are learnt, kept in a file, read back and searched.

   mkdir -p build && cc -std=c99 -O3 -fopenmp -I. examples/minimal.c -o build/haste-minimal -lm

   Prints the loss going down, and at the end `right: 64 of 64` or nearly so. */
#define HASTE_IMPLEMENTATION
#include "haste.h"

enum { L = 10000, D = 128, B = 64, STEPS = 600 };

static unsigned long long state = 1;
static float uniform(void)   /* in [-1, 1) */
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (float)(state >> 40) / 8388608.0f - 1;
}

/* Each label owns a direction; a sample is its label's direction plus noise. Few labels are frequent. */
static void sample(const float *direction, float *x, int32_t *label)
{
    float u = .5f * (uniform() + 1);
    int d;
    *label = (int32_t)(u * u * u * 200) * (L / 200);
    for (d = 0; d < D; d++) x[d] = direction[*label * D + d] + .3f * uniform();
}

static int check(haste_status status, const haste_error *error)
{
    if (status != HASTE_OK) fprintf(stderr, "minimal: %s: %s\n", haste_status_text(status), error->text);
    return status == HASTE_OK;
}

int main(void)
{
    static float direction[L * D], x[B * D];
    static int32_t label[B], best[B * 5];
    static int64_t offset[B + 1];
    static haste_layer_options options;   /* static: all zero, which means the defaults */
    static haste_step_options step;
    haste_lists positives;
    haste_layer layer;
    haste_workspace work;
    haste_file file;
    haste_error error;
    double loss;
    int i, b, right = 0;

    for (i = 0; i < L * D; i++) direction[i] = uniform();
    for (b = 0; b <= B; b++) offset[b] = b;   /* one label for each sample */
    positives.offset = offset;
    positives.id = label;

    /* A layer of 10,000 labels that reads vectors of 128 numbers, and the scratch memory of its calls. */
    options.labels = L;
    options.inputs = D;
    options.loss = HASTE_SOFTMAX;
    options.optimizer = HASTE_ADAMW;
    if (!check(haste_layer_create(&layer, &options, &error), &error)) return 1;
    if (!check(haste_workspace_create(&work, &layer, NULL, &error), &error)) return 1;

    /* Train: one call a batch. The last argument but one would take the gradient for x, for an encoder. */
    for (i = 0; i < STEPS; i++) {
        for (b = 0; b < B; b++) sample(direction, x + b * D, &label[b]);
        step.lr = .01f * (float)haste_schedule(i, 0, STEPS, 0);
        if (!check(haste_train_step(&layer, &work, x, B, &positives, &step, &loss, NULL, &error), &error)) return 1;
        if (i % 100 == 0 || i == STEPS - 1) printf("step %3d  loss %.3f\n", i, loss);
    }

    /* Keep the layer and read it back, mapped. */
    if (!check(haste_save("minimal.haste", &layer, layer.dtype, NULL, 0, &error), &error)) return 1;
    if (!check(haste_load("minimal.haste", 1, &file, &error), &error)) return 1;

    /* The five best labels of new vectors. */
    for (b = 0; b < B; b++) sample(direction, x + b * D, &label[b]);
    if (!check(haste_top_k(&file.layer, &work, x, B, 5, NULL, best, NULL, &error), &error)) return 1;
    for (b = 0; b < B; b++) right += best[b * 5] == label[b];
    printf("right: %d of %d\n", right, (int)B);

    haste_file_free(&file);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
    remove("minimal.haste");
    return right < B * 9 / 10;
}
