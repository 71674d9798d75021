/* train_cpu.h: the engine of haste-train on a CPU, a part of train.c: one step of encoder and layer, and the best labels
   of documents. */
#ifndef TRAIN_CPU_H
#define TRAIN_CPU_H

struct engine {
    haste_workspace work;
    float          *x, *grad_x;   /* [room, D] */
    int32_t        *top;          /* [2][room, TOP] */
    double          seconds;      /* of training that the layer took; the rest: encoder, lists of labels */
};

static void engine_check(const trainer *t) { (void)t; }
static void engine_begin(trainer *t, const haste_layer_options *options) { make_whole(t, options); }

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t inputs = (size_t)t->room * (size_t)t->layer.inputs;
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_workspace_options work;
    haste_plan plan;
    haste_error error;
    if (!t->shape.dense && !encoder_scratch(&t->bag)) die(1, "out of memory");
    memset(&work, 0, sizeof work);
    work.batch = t->room;
    work.ids = data_most_labels(&t->train, t->s.batch);
    work.top_k = TOP;
    work.chunks = (int32_t)t->s.chunks;
    work.threads = (int32_t)t->s.threads;
    work.path = (haste_path)t->s.path;
    memset(&plan, 0, sizeof plan);
    if (haste_plan_bytes(options, &work, &plan, &error) != HASTE_OK ||
        haste_workspace_create(&e->work, &t->layer, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    e->x = (float *)need(inputs, sizeof(float));
    e->grad_x = (float *)need(inputs, sizeof(float));
    e->top = (int32_t *)need(2 * (size_t)t->room * TOP, sizeof(int32_t));
    e->seconds = 0;
    t->engine = e;
    say(t, "memory     layer %.1f MiB (weights %.1f), workspace %.1f, encoder %.1f, data %.1f\n", mib(plan.layer),
           mib(plan.weight), mib(plan.workspace),
           t->shape.dense ? 0 : mib(encoder_bytes(t->bag.features, t->bag.width) + encoder_moment_bytes(t->bag.features)),
           data_bytes(t) / 1048576);
    say(t, "runs on    %s, %ld thread%s\n", haste_path_text(e->work.path), (long)e->work.threads,
           e->work.threads == 1 ? "" : "s");
}

/* The dense features of B documents, one row after the other. */
static void gather_rows(const data_set *data, const int64_t *document, int32_t B, float *x)
{
    int32_t b;
    for (b = 0; b < B; b++)
        memcpy(x + (int64_t)b * data->width, data->dense + document[b] * data->width, (size_t)data->width * sizeof(float));
}

static void encode(trainer *t, const data_set *data, const int64_t *document, int32_t B, int training)
{
    float *x = t->engine->x;
    int32_t b;
    if (!t->shape.dense) {
        encoder_forward(&t->bag, data, document, B, training, x);
        return;
    }
    gather_rows(data, document, B, x);
    for (b = 0; b < B && training && t->bag.dropout > 0; b++) encoder_drop(&t->bag, b, x + (int64_t)b * data->width);
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    struct engine *e = t->engine;
    float *grad_x = t->shape.dense ? NULL : e->grad_x;
    const haste_lists positives = gather_labels(t, &t->train, document, B);
    haste_error error;
    haste_status status;
    double loss = 0, begin;
    int64_t moved = 0;

    encode(t, &t->train, document, B, 1);
    begin = now();
    if (grad_x) memset(grad_x, 0, (size_t)B * (size_t)t->layer.inputs * sizeof(float));
    status = haste_train_step(&t->layer, &e->work, e->x, B, &positives, step, &loss, grad_x, &error);
    if (status == HASTE_ERR_NONFINITE)
        die(1, "training diverged in step %lld: %s; a smaller --lr or --encoder-lr may help", (long long)t->progress.step + 1,
            error.text);
    if (status != HASTE_OK) die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
    t->progress.loss += loss * B;

    if (rewire) {
        if (haste_rewire(&t->layer, &e->work, rewire, e->x, B, &positives, &moved, &error) != HASTE_OK)
            die(1, "rewiring: %s", error.text);
        t->progress.moved += moved;
    }
    e->seconds += now() - begin;
    if (t->shape.dense) t->bag.step++;
    else if (!encoder_backward(&t->bag, &t->train, document, B, e->x, grad_x, encoder_lr)) die(1, "out of memory");
}

static void engine_wait(trainer *t) { (void)t; }

static int engine_fetch(trainer *t, const char *path, char *why)
{
    (void)t; (void)path; (void)why;   /* the model is trained where it lies */
    return 1;
}

static int engine_fetched(trainer *t, int ok, char *why)
{
    (void)t; (void)why;
    return ok;
}

static const int32_t *engine_best_done(trainer *t, int turn)
{
    return t->engine->top + (size_t)turn * (size_t)t->room * TOP;
}

static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn)
{
    int32_t *top = t->engine->top + (size_t)turn * (size_t)t->room * TOP;
    haste_error error;
    encode(t, data, document, B, 0);
    if (haste_top_k(&t->layer, &t->engine->work, t->engine->x, B, TOP, NULL, top, NULL, &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
}

static void engine_result(const trainer *t) { printf(" layer_seconds=%.1f", t->engine->seconds); }

static void engine_free(trainer *t)
{
    haste_workspace_free(&t->engine->work);
    free(t->engine->x);
    free(t->engine->grad_x);
    free(t->engine->top);
    free(t->engine);
}

#endif /* TRAIN_CPU_H */
