/* own_loss.c: a loss of one's own inside haste_train_step, here focal loss, in the few lines of focal_tile. Never a [B, L] array: the
   library shows the loss one tile of logits after the other.

       cc -O2 -I. examples/own_loss.c -o own_loss -lm && ./own_loss          (from the repository's folder)

   Prints a falling loss, and how often the best label is right. */
#define HASTE_IMPLEMENTATION
#include "haste.h"

enum { L = 500, D = 64, B = 64, STEPS = 300 };

/* -(1 - p)^gamma log p, with p the probability of what is true: labels that are told apart already count little. */
static void focal_tile(void *context, const haste_loss_tile *tile)
{
    const float gamma = *(const float *)context;
    int s, b;
    for (s = 0; s < tile->labels; s++)
        for (b = 0; b < tile->samples; b++) {
            float *z = &tile->logit[s * 32 + b];
            const float sign = tile->target[s * 32 + b] > 0 ? 1.f : -1.f, v = sign * *z;
            const float log_p = -(v < 0 ? log1pf(expf(v)) - v : log1pf(expf(-v))), p = expf(log_p), q = 1 - p;
            tile->loss[b] -= powf(q, gamma) * log_p;
            *z = sign * powf(q, gamma) * (gamma * p * log_p - q);   /* d loss / d logit takes the logit's place */
        }
}

/* Vectors near the direction of their label: each label is a pattern of signs. */
static uint32_t random_state = 1;
static float uniform(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (float)(random_state >> 8) / 8388608.0f - 1;
}

static void sample(float *x, int32_t *label)
{
    int d;
    uint32_t bits;
    *label = (int32_t)((uniform() + 1) * .5f * (L - 1));
    bits = ((uint32_t)*label + 1) * 2654435761u;
    for (d = 0; d < D; d++) {
        bits = bits * 1664525u + 1013904223u;
        x[d] = (bits >> 31 ? 1.f : -1.f) + .5f * uniform();
    }
}

int main(void)
{
    haste_layer_options options;
    haste_step_options step;
    haste_lists positives = { NULL, NULL };   /* no offsets: one id a sample */
    haste_layer layer;
    haste_workspace work;
    haste_error error;
    static float x[B * D];
    int32_t label[B], best[B], i, b, right = 0;
    float gamma = 2;
    double loss;
    memset(&options, 0, sizeof options);
    memset(&step, 0, sizeof step);
    options.labels = L;
    options.inputs = D;
    options.optimizer = HASTE_ADAMW;
    step.loss.function = focal_tile;
    step.loss.context = &gamma;
    positives.id = label;
    if (haste_layer_create(&layer, &options, &error) || haste_workspace_create(&work, &layer, NULL, &error)) {
        puts(error.text);
        return 1;
    }
    for (i = 0; i < STEPS; i++) {
        for (b = 0; b < B; b++) sample(x + b * D, &label[b]);
        step.lr = .02f * (float)haste_schedule(i + 1, 20, STEPS + 1, 0);
        if (haste_train_step(&layer, &work, x, B, &positives, &step, &loss, NULL, &error)) { puts(error.text); return 1; }
        if (i % 100 == 0 || i == STEPS - 1) printf("step %3d  loss %.4f\n", i, loss);
    }
    for (b = 0; b < B; b++) sample(x + b * D, &label[b]);
    if (haste_top_k(&layer, &work, x, B, 1, NULL, best, NULL, &error)) { puts(error.text); return 1; }
    for (b = 0; b < B; b++) right += best[b] == label[b];
    printf("right: %d of %d\n", (int)right, B);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
    return right > B / 2 ? 0 : 1;
}
