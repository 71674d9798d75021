/* plan.h: what training takes on this machine in memory and time, before there are data or a layer, for haste-train
   --plan. */
#ifndef PLAN_H
#define PLAN_H

#include "haste.h"
#include "encoder.h"
#include "system.h"

#define PLAN_MOST   4000000   /* parameters of what is timed: it needs about 50 MB and a second */
#define PLAN_LABELS 4         /* of a document */

/* Seconds of a step with B documents (=), by a layer in small: all blocks with the same share of labels, at most
   PLAN_MOST parameters; a step's time grows with them. The median of several steps. 0 with error. */
static inline int plan_seconds(const haste_layer_options *options, const haste_workspace_options *work,
                               const haste_step_options *step, int32_t B, double *seconds, char *error)
{
    haste_layer_options small = *options;
    haste_layer layer;
    haste_workspace scratch;
    haste_plan plan;
    haste_error why;
    haste_lists positives;
    const int32_t D = options->inputs;
    int64_t *frequency = NULL;
    int64_t *offset = (int64_t *)malloc(((size_t)B + 1) * sizeof(int64_t));
    int32_t *label = (int32_t *)malloc((size_t)B * PLAN_LABELS * sizeof(int32_t));
    float *x = (float *)malloc((size_t)B * (size_t)D * 2 * sizeof(float));
    double share, took[15], begin = now(), loss;
    uint64_t random = 1;
    int steps, i, j, ok = 0;
    memset(&plan, 0, sizeof plan);
    memset(&layer, 0, sizeof layer);
    memset(&scratch, 0, sizeof scratch);
    if (haste_plan_bytes(options, NULL, &plan, &why) != HASTE_OK) data_fail(error, "%s", why.text);
    else if (!offset || !label || !x) data_fail(error, "out of memory");
    else ok = 1;
    share = ok && plan.parameters > PLAN_MOST ? (double)PLAN_MOST / (double)plan.parameters : 1;
    for (i = 0, small.labels = 0; i < small.block_count; i++) {
        small.block[i].labels = (int64_t)ceil(share * (double)options->block[i].labels);
        small.labels += (int32_t)small.block[i].labels;
    }
    small.order = NULL;
    /* Biases that start at the prior, for what is negligible then costs less. */
    if (ok) frequency = (int64_t *)malloc((size_t)small.labels * sizeof(int64_t));
    if (ok && !frequency) ok = data_fail(error, "out of memory");
    for (i = 0; i < small.labels && ok; i++) frequency[i] = PLAN_LABELS;
    small.frequency = frequency;
    small.samples = (int64_t)options->labels + PLAN_LABELS;
    if (ok && (haste_plan_bytes(&small, NULL, &plan, &why) != HASTE_OK ||
               haste_layer_create(&layer, &small, &why) != HASTE_OK ||
               haste_workspace_create(&scratch, &layer, work, &why) != HASTE_OK)) ok = data_fail(error, "%s", why.text);
    if (ok) {
        haste_plan whole;
        memset(&whole, 0, sizeof whole);
        if (haste_plan_bytes(options, NULL, &whole, &why) == HASTE_OK)
            share = (double)plan.parameters / (double)whole.parameters;
    }
    for (i = 0; i < (int64_t)B * D && ok; i++) {
        random = random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        x[i] = (float)(random >> 40) / 8388608.0f - 1;
    }
    for (i = 0; i <= B && ok; i++) {
        offset[i] = (int64_t)i * PLAN_LABELS;
        for (j = 0; j < PLAN_LABELS && i < B; j++)
            label[i * PLAN_LABELS + j] = (int32_t)(((uint64_t)(i * PLAN_LABELS + j) * 7919) % (uint64_t)small.labels);
    }
    positives.offset = offset;
    positives.id = label;
    for (steps = 0; steps < 15 && ok && (steps < 4 || now() - begin < 2); steps++) {
        const double start = now();
        memset(x + (size_t)B * (size_t)D, 0, (size_t)B * (size_t)D * sizeof(float));
        if (haste_train_step(&layer, &scratch, x, B, &positives, step, &loss, x + (size_t)B * (size_t)D, &why) != HASTE_OK)
            ok = data_fail(error, "%s", why.text);
        took[steps] = now() - start;
        for (i = steps; i > 0 && took[i - 1] > took[i]; i--) { const double swap = took[i]; took[i] = took[i - 1]; took[i - 1] = swap; }
    }
    if (ok) *seconds = took[steps / 2] / share;
    haste_workspace_free(&scratch);
    haste_layer_free(&layer);
    free(frequency);
    free(offset);
    free(label);
    free(x);
    return ok;
}

/* Prints what a layer takes with steps of B documents, of N, and V features (0: not known) before it. 0 with error. */
static inline int plan_print(const haste_layer_options *layer, const haste_workspace_options *work,
                             const haste_step_options *step, int32_t B, int64_t N, int32_t V, int64_t epochs, char *error)
{
    const int64_t steps = (N + B - 1) / B;
    const double bag = V > 0 ? (double)encoder_bytes(V, layer->inputs) + (double)encoder_moment_bytes(V) : 0;
    haste_workspace_options most = *work;
    haste_plan plan;
    haste_error why;
    double seconds;
    most.ids = 16 * (int64_t)B;
    memset(&plan, 0, sizeof plan);
    if (haste_plan_bytes(layer, &most, &plan, &why) != HASTE_OK) return data_fail(error, "%s", why.text);
    printf("layer      %.2f million parameters, %ld inputs\n", (double)plan.parameters / 1e6, (long)layer->inputs);
    printf("memory     layer %.1f MiB (weights %.1f), workspace %.1f", (double)plan.layer / 1048576,
           (double)plan.weight / 1048576, (double)plan.workspace / 1048576);
    if (V > 0) printf(", encoder %.1f: %.1f in all, and the data\n", bag / 1048576,
                      ((double)plan.layer + (double)plan.workspace + bag) / 1048576);
    else printf("; the encoder %.4f MiB a feature, and the data\n", ((double)layer->inputs + 1) * sizeof(float) / 1048576);
    fflush(stdout);
    if (!plan_seconds(layer, &most, step, B, &seconds, error)) return 0;
    printf("step       %.2f ms for %ld documents, measured, without the encoder\n", seconds * 1e3, (long)B);
    printf("training   at most %lld epochs of %lld steps: %.1f minutes\n", (long long)epochs, (long long)steps,
           seconds * (double)epochs * (double)steps / 60);
    return 1;
}

#endif /* PLAN_H */
