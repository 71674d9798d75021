/* job.h: a small piece of work for the compile tests: trains a layer, asks it, and says whether that went well. */
#ifndef JOB_H
#define JOB_H

#include <string.h>

enum { JOB_LABELS = 100, JOB_INPUTS = 24, JOB_BATCH = 40, JOB_STEPS = 60 };

/* 1: every call succeeded, the loss fell, and most samples get their label back. hash: of all weights and biases at the end. */
static int job(int32_t threads, uint64_t *hash)
{
    float x[JOB_BATCH * JOB_INPUTS];
    int32_t label[JOB_BATCH], best[JOB_BATCH], b, d;
    int64_t offset[JOB_BATCH + 1], i;
    haste_layer_options options;
    haste_workspace_options scratch;
    haste_step_options step;
    haste_lists positives;
    haste_layer layer;
    haste_workspace work;
    double first = 0, last = 0;
    uint32_t state = 1;
    int ok, right = 0;

    for (b = 0; b < JOB_BATCH; b++) {
        for (d = 0; d < JOB_INPUTS; d++) {
            state = state * 1664525u + 1013904223u;
            x[b * JOB_INPUTS + d] = (float)(state >> 8) / 8388608.0f - 1;
        }
        label[b] = (b * 37) % JOB_LABELS;
        offset[b] = b;
    }
    offset[JOB_BATCH] = JOB_BATCH;
    positives.offset = offset;
    positives.id = label;

    memset(&options, 0, sizeof options);
    options.labels = JOB_LABELS;
    options.inputs = JOB_INPUTS;
    options.block_count = 2;
    options.block[0].labels = 20;
    options.block[0].fan_in = HASTE_DENSE;
    options.block[1].fan_in = 16;
    options.block[1].group_size = 8;
    options.optimizer = HASTE_ADAMW;
    memset(&scratch, 0, sizeof scratch);
    scratch.threads = threads;
    memset(&step, 0, sizeof step);
    step.lr = .05f;

    ok = haste_layer_create(&layer, &options, NULL) == HASTE_OK;
    if (!ok) return 0;
    ok = haste_workspace_create(&work, &layer, &scratch, NULL) == HASTE_OK;
    for (i = 0; ok && i < JOB_STEPS; i++) {
        ok = haste_train_step(&layer, &work, x, JOB_BATCH, &positives, &step, &last, NULL, NULL) == HASTE_OK;
        if (i == 0) first = last;
    }
    ok = ok && last < first && haste_layer_check(&layer, NULL) == HASTE_OK;
    ok = ok && haste_top_k(&layer, &work, x, JOB_BATCH, 1, NULL, best, NULL, NULL) == HASTE_OK;
    if (ok) for (b = 0; b < JOB_BATCH; b++) right += best[b] == label[b];

    *hash = UINT64_C(14695981039346656037);
    for (d = 0; d < layer.block_count; d++) {
        const haste_block *block = &layer.block[d];
        const unsigned char *weight = (const unsigned char *)block->weight, *bias = (const unsigned char *)block->bias;
        const int64_t n = block->groups * block->group_size;
        for (i = 0; i < n * block->fan_in * 4; i++) *hash = (*hash ^ weight[i]) * UINT64_C(1099511628211);
        for (i = 0; i < n * 4; i++) *hash = (*hash ^ bias[i]) * UINT64_C(1099511628211);
    }
    if (ok) haste_workspace_free(&work);
    haste_layer_free(&layer);
    return ok && right > JOB_BATCH * 3 / 4;
}

#endif /* JOB_H */
