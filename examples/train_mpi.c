/* haste-train-mpi: haste-train in several processes, on one machine or on many, for layers that one cannot hold or would take
   too long with. The same program (train.c, which this file includes) with another engine.

       mpirun -n 4 build/haste-train-mpi TRAIN TEST --save model.haste        then haste-predict model.haste TEST, say

   LABELS    are cut into ranges of whole groups, one range a process, of equal numbers of weights that a step reads (shards.h).
             A process holds its range's weights and optimizer state, and the order of all labels: 16 bytes a label.
   ENCODER   Each process owns about D / P of the columns of the embeddings, and makes these columns of x for the whole batch;
             so no embedding is anywhere twice, and no sparse gradient travels. Second moments, one number a row, are
             everywhere, and the same. Dense features (--features) need no encoder and are read by all.
   DOCUMENTS All processes read all documents, from files that all can open.

   WHAT TRAVELS in a step of B documents, to and from each of P processes, in bytes:
       x                all-gathered       4 * B * D * (P - 1) / P
       grad_x           reduce-scattered   4 * B * D * (P - 1) / P
       sums of squares  summed up          8 for each feature of the batch: of the rows' gradients, for their second moments
       softmax          all-gathered       40 * B * (P - 1): haste_softmax_merge
       loss, signals    summed up          12; and 8 from the first: is it time to look, or to save?
   in scoring x, and 8 * B * k of the best labels of each range, all-gathered: haste_top_k_merge.

   WHAT IS EXACT  One process gives what haste-train gives, bit for bit. P of them begin with the same groups, inputs and
             weights, and take the same random decisions, with the same drop-out; sums of grad_x, of squares and of the loss go
             in another order, so that numbers drift apart by rounding. Rewiring ranks the places of all ranges together.
   SAVING    Each process writes its range into PATH.tmp-ranges; the first one then writes the model from there, as
             haste-train does. So PATH lies where all can write, with room for the model twice. (Who is killed meanwhile leaves
             that file; the next save takes it.) Any number of processes goes on from a model. New labels for it (--resume on
             other documents) are added by each process to all of the layer.

   STOPPING  A signal to any process (SIGTERM, SIGINT, ...) makes all save and end; so does SIGUSR1 to mpirun, which hands it on.
             But mpirun kills its processes when it is itself interrupted: what was kept last is then there.

   mkdir -p build && mpicc -std=c99 -O3 -fopenmp -I. examples/train_mpi.c -o build/haste-train-mpi -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define TRAIN_NAME  "haste-train-mpi"
#define TRAIN_PATHS "auto|portable|avx2|avx512|neon"
#define TRAIN_DTYPE HASTE_F32
#define TRAIN_SAME  ", in as many processes bit for bit"
#define TRAIN_ROOM  256
#define TRAIN_MAP   1   /* each takes its range out */
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "processes_mpi.h"
#include "train.c"
#include "train_parts.h"

struct engine {
    parts           own;            /* what this process has */
    haste_workspace work;
    int32_t        *id, *local;     /* [L] labels of the ranges, one after the other; the id of each label in its range */
    int64_t        *first;          /* [P + 1] where those of a range begin in id */
    float          *grad_x;         /* [room, D]; own.x likewise */
    float          *slice, *grad;   /* [room, columns] of this process; of one process x and grad_x */
    float          *gradient;       /* [rows, columns] of a batch's embeddings */
    double         *squares;        /* [rows] */
    int64_t         gradient_room, square_room;
    int64_t        *offset;         /* [room + 1] labels of a batch that lie in this range */
    int32_t        *label;
    int64_t         label_room;
    double         *sums;           /* [P + 1][room, HASTE_SOFTMAX_SUMS]: merged; of each */
    double         *own_sums;       /* [room, HASTE_SOFTMAX_SUMS] */
    int32_t        *top;            /* [2][room, TOP] */
    int32_t        *own_top;        /* [2][room, TOP] ids, then scores; */
    int32_t        *all_top;        /* of each process likewise */
    haste_found    *found;          /* [P] */
    double          seconds;        /* of training that the layer took */
};

static void engine_check(const trainer *t) { parts_check(t); }

/* ---- >>making ------------------------------------------------------------------------------------------------ */

/* The ids of the labels of the ranges that the outline t->layer was cut into. */
static void name_labels(trainer *t, struct engine *e)
{
    const size_t L = (size_t)t->layer.labels;
    e->first = (int64_t *)need((size_t)processes.count + 1, sizeof(int64_t));
    e->id = (int32_t *)need(L, sizeof(int32_t));
    e->local = (int32_t *)need(L, sizeof(int32_t));
    shards_ids(&t->layer, e->own.at, processes.count, e->id, e->local, e->first);
}

static struct engine *new_engine(trainer *t)
{
    t->engine = (struct engine *)need(1, sizeof *t->engine);
    memset(t->engine, 0, sizeof *t->engine);
    return t->engine;
}

static void engine_begin(trainer *t, const haste_layer_options *options)
{
    struct engine *e = new_engine(t);
    haste_layer_options part;
    haste_error error;
    int32_t *order;
    int64_t *frequency, slots;
    parts_begin(t, &e->own, options);
    name_labels(t, e);
    slots = e->own.at[processes.rank + 1] - e->own.at[processes.rank];
    order = (int32_t *)need((size_t)slots, sizeof(int32_t));
    frequency = (int64_t *)need((size_t)slots, sizeof(int64_t));
    shards_options(&t->layer, options, e->own.at[processes.rank], e->own.at[processes.rank + 1], e->local, order, frequency, &part);
    if (haste_layer_create(&e->own.part, &part, &error) != HASTE_OK) die(1, "%s", error.text);
    free(order);
    free(frequency);
}

/* From the model that training goes on from. */
static void take_parts(trainer *t)
{
    struct engine *e = new_engine(t);
    haste_layer slice;
    haste_error error;
    parts_resume(t, &e->own, &slice);
    name_labels(t, e);
    if (haste_layer_copy(&e->own.part, &slice, slice.dtype, slice.state_dtype, slice.optimizer, &error) != HASTE_OK ||
        haste_layer_check(&e->own.part, &error) != HASTE_OK) die(1, "%s: %s", t->s.resume, error.text);
    haste_layer_free(&slice);
    parts_resumed(t, &e->own);
}

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t D = (size_t)t->layer.inputs, room = (size_t)t->room, P = (size_t)processes.count;
    struct engine *e;
    haste_workspace_options work;
    haste_layer_options part;
    haste_plan plan;
    haste_error error;
    int i;
    if (t->s.resume) take_parts(t);
    e = t->engine;
    if ((double)t->room * (double)D > INT32_MAX) die(2, "--batch %lld: too many for %ld inputs", (long long)t->s.batch, (long)D);
    memset(&work, 0, sizeof work);
    work.batch = t->room;
    work.ids = data_most_labels(&t->train, t->s.batch);
    work.top_k = TOP;
    work.chunks = (int32_t)t->s.chunks;
    work.threads = (int32_t)t->s.threads;
    work.path = (haste_path)t->s.path;
    part = *options;
    part.labels = e->own.part.labels;
    part.block_count = e->own.part.block_count;
    for (i = 0; i < part.block_count; i++) {
        part.block[i].labels = e->own.part.block[i].labels;
        part.block[i].group_size = e->own.part.block[i].group_size;
        part.block[i].fan_in = e->own.part.block[i].fan_in;
    }
    memset(&plan, 0, sizeof plan);
    if (haste_plan_bytes(&part, &work, &plan, &error) != HASTE_OK ||
        haste_workspace_create(&e->work, &e->own.part, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    e->own.x = (float *)need(room * D, sizeof(float));
    e->grad_x = (float *)need(room * D, sizeof(float));
    e->slice = P > 1 ? (float *)need(room * (size_t)e->own.bag.width, sizeof(float)) : e->own.x;
    e->grad = P > 1 ? (float *)need(room * (size_t)e->own.bag.width, sizeof(float)) : e->grad_x;
    e->own.packed = P > 1 ? (float *)need(room * D, sizeof(float)) : NULL;
    e->own.n = (int *)need(P, sizeof(int));
    e->offset = (int64_t *)need(room + 1, sizeof(int64_t));
    e->sums = (double *)need((P + 1) * room * HASTE_SOFTMAX_SUMS, sizeof(double));
    e->own_sums = (double *)need(room * HASTE_SOFTMAX_SUMS, sizeof(double));
    e->top = (int32_t *)need(2 * room * TOP, sizeof(int32_t));
    e->own_top = (int32_t *)need(2 * room * TOP, sizeof(int32_t));
    e->all_top = (int32_t *)need(2 * P * room * TOP, sizeof(int32_t));
    e->found = (haste_found *)need(P, sizeof *e->found);
    if (!t->shape.dense && !encoder_scratch(&e->own.bag)) die(1, "out of memory");
    parts_hide_rows(t, &e->own);
    signal(SIGUSR1, on_signal);   /* mpirun hands it on */
    parts_say(t, &e->own);
    say(t, "memory     of the first: layer %.1f MiB (weights %.1f), workspace %.1f, encoder %.1f, data %.1f\n", mib(plan.layer),
        mib(plan.weight), mib(plan.workspace),
        t->shape.dense ? 0 : mib(encoder_bytes(e->own.bag.features, e->own.bag.width) + encoder_moment_bytes(e->own.bag.features)),
        data_bytes(t) / 1048576);
    say(t, "runs on    %s, %ld thread%s each\n", haste_path_text(e->work.path), (long)e->work.threads,
        e->work.threads == 1 ? "" : "s");
}

/* ---- >>a step ------------------------------------------------------------------------------------------------ */

static const int *equal_counts(const trainer *t, int64_t n)
{
    int i;
    for (i = 0; i < processes.count; i++) t->engine->own.n[i] = (int)n;
    return t->engine->own.n;
}

/* x of the documents. */
static void encode(trainer *t, const data_set *data, const int64_t *document, int32_t B, int training)
{
    struct engine *e = t->engine;
    const size_t D = (size_t)t->layer.inputs;
    int32_t b;
    if (t->shape.dense) {
        for (b = 0; b < B; b++) {
            memcpy(e->own.x + (size_t)b * D, data->dense + (size_t)document[b] * D, D * sizeof(float));
            if (training && t->bag.dropout > 0) encoder_drop(&t->bag, b, e->own.x + (size_t)b * D);
        }
        return;
    }
    encoder_forward(&e->own.bag, data, document, B, training, e->slice);
    if (processes.count == 1) return;
    processes_gather(e->slice, parts_columns(t, &e->own, B), e->own.packed);
    shards_unpack(e->own.packed, B, (int32_t)D, processes.count, e->own.x);
}

/* The update of this process's columns, from grad_x of all ranges: as encoder_backward. */
static void train_encoder(trainer *t, const int64_t *document, int32_t B, float lr)
{
    struct engine *e = t->engine;
    const int64_t rows = encoder_order(&e->own.bag, &t->train, document, B), D = e->own.bag.width;
    float correct;
    int64_t i;
    if (rows < 0 || !data_reserve((void **)&e->gradient, &e->gradient_room, (rows + 1) * D, sizeof(float)) ||
        !data_reserve((void **)&e->squares, &e->square_room, rows + 1, sizeof(double))) die(1, "out of memory");
    if (processes.count > 1) {
        shards_pack(e->grad_x, B, t->layer.inputs, processes.count, e->own.packed);
        processes_scatter(e->own.packed, parts_columns(t, &e->own, B), e->grad);
    }
    encoder_mask(&e->own.bag, B, e->slice, e->grad);
    t->bag.step = ++e->own.bag.step;
    correct = encoder_correction(e->own.bag.step);
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->own.bag.threads) schedule(dynamic, 32)
#endif
    for (i = 0; i <= rows; i++) {
        encoder_row_gradient(&e->own.bag, i, rows, B, e->grad, e->gradient + i * D);
        e->squares[i] = encoder_squares(&e->own.bag, e->gradient + i * D);
    }
    processes_sum(e->squares, (int)rows + 1);
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->own.bag.threads) schedule(static)
#endif
    for (i = 0; i <= rows; i++)
        encoder_adam(&e->own.bag, i == rows ? e->own.bag.features : e->own.bag.touched[i], e->gradient + i * D, e->squares[i], lr, correct);
}

/* Of the labels of B documents those in this range, with its ids. */
static haste_lists own_labels(trainer *t, const haste_lists *lists, int32_t B)
{
    struct engine *e = t->engine;
    const int64_t begin = e->own.at[processes.rank], end = e->own.at[processes.rank + 1];
    haste_lists own;
    int64_t n = 0, j;
    int32_t b;
    if (!data_reserve((void **)&e->label, &e->label_room, lists->offset[B] + 1, sizeof(int32_t))) die(1, "out of memory");
    e->offset[0] = 0;
    for (b = 0; b < B; b++) {
        for (j = lists->offset[b]; j < lists->offset[b + 1]; j++) {
            const int32_t label = lists->id[j], slot = t->layer.slot_of[label];
            if (slot >= begin && slot < end) e->label[n++] = e->local[label];
        }
        e->offset[b + 1] = n;
    }
    own.offset = e->offset;
    own.id = e->label;
    return own;
}

/* What the softmax needs to know of all ranges, for the weights as they are; NULL: nothing. */
static const double *softmax_sums(trainer *t, int32_t B, const haste_lists *positives, const haste_loss_options *loss)
{
    struct engine *e = t->engine;
    const size_t n = (size_t)B * HASTE_SOFTMAX_SUMS;
    haste_error error;
    int i;
    if (e->own.part.loss != HASTE_SOFTMAX || processes.count == 1) return NULL;
    if (haste_softmax_begin(&e->own.part, &e->work, e->own.x, B, positives, loss, e->own_sums, &error) != HASTE_OK)
        die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
    processes_gather(e->own_sums, equal_counts(t, 2 * (int64_t)n), e->sums + n);
    memcpy(e->sums, e->sums + n, n * sizeof(double));
    for (i = 1; i < processes.count; i++) haste_softmax_merge(e->sums, e->sums + ((size_t)i + 1) * n, B, NULL);
    return e->sums;
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    struct engine *e = t->engine;
    float *grad_x = t->shape.dense ? NULL : e->grad_x;
    const haste_lists lists = gather_labels(t, &t->train, document, B), positives = own_labels(t, &lists, B);
    haste_step_options own = *step;
    haste_error error;
    haste_status status;
    double loss = 0, begin;

    encode(t, &t->train, document, B, 1);
    begin = now();
    if (own.block) own.block += e->own.part.first_block;
    if (grad_x) memset(grad_x, 0, (size_t)B * (size_t)t->layer.inputs * sizeof(float));
    own.loss.softmax = softmax_sums(t, B, &positives, &own.loss);
    status = haste_train_step(&e->own.part, &e->work, e->own.x, B, &positives, &own, &loss, grad_x, &error);
    if (status == HASTE_ERR_NONFINITE)
        die(1, "training diverged in step %lld: %s; a smaller --lr or --encoder-lr may help", (long long)t->progress.step + 1,
            error.text);
    if (status != HASTE_OK) die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
    processes_sum(&loss, 1);
    t->progress.loss += loss * B;

    if (rewire) {
        haste_rewire_options how = *rewire;
        int64_t moved = 0;
        if (processes.count > 1) {
            how.sum = processes_count_up;
            how.softmax = softmax_sums(t, B, &positives, NULL);
        }
        if (haste_rewire(&e->own.part, &e->work, &how, e->own.x, B, &positives, &moved, &error) != HASTE_OK)
            die(1, "rewiring: %s", error.text);
        t->progress.moved += moved;
    }
    e->seconds += now() - begin;
    if (t->shape.dense) t->bag.step++;
    else train_encoder(t, document, B, encoder_lr);
    processes_meet((int)stop_signal);
}

static void engine_wait(trainer *t) { (void)t; }

/* ---- >>scoring ----------------------------------------------------------------------------------------------- */

static const int32_t *engine_best_done(trainer *t, int turn)
{
    return t->engine->top + (size_t)turn * (size_t)t->room * TOP;
}

static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn)
{
    struct engine *e = t->engine;
    const size_t n = (size_t)B * TOP;
    int32_t *top = e->top + (size_t)turn * (size_t)t->room * TOP;
    const int P = processes.count;
    haste_error error;
    int i;
    encode(t, data, document, B, 0);
    if (haste_top_k(&e->own.part, &e->work, e->own.x, B, TOP, NULL, P > 1 ? e->own_top : top, P > 1 ? (float *)(e->own_top + n) : NULL,
                    &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    for (i = 0; i < P && P > 1; i++) {
        haste_found *found = &e->found[i];
        if (i == 0) processes_gather(e->own_top, equal_counts(t, 2 * (int64_t)n), e->all_top);
        memset(found, 0, sizeof *found);
        found->id = e->all_top + 2 * (size_t)i * n;
        found->score = (const float *)(found->id + n);
        found->labels = (int32_t)(e->first[i + 1] - e->first[i]);
        found->map = e->id + e->first[i];
    }
    if (P > 1 && haste_top_k_merge(e->found, P, B, TOP, top, (float *)e->own_top, &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
    processes_meet((int)stop_signal);
}

/* ---- >>saving ------------------------------------------------------------------------------------------------ */

static int engine_fetch(trainer *t, const char *path, char *why)
{
    parts *own = &t->engine->own;
    int i;
    t->layer.step = own->part.step;
    t->layer.rewires = own->part.rewires;
    if (processes.count > 1) return parts_fetch(t, own, path, why);
    for (i = 0; i < t->layer.block_count; i++) t->layer.block[i] = own->part.block[i];
    t->bag.row = own->bag.row;
    return 1;
}

static int engine_fetched(trainer *t, int ok, char *why)
{
    return processes.count > 1 ? parts_fetched(t, &t->engine->own, ok, why) : ok;
}

static void engine_result(const trainer *t)
{
    printf(" layer_seconds=%.1f processes=%d talk_seconds=%.1f", t->engine->seconds, processes.count, processes.seconds);
}

static void engine_free(trainer *t)
{
    struct engine *e = t->engine;
    haste_workspace_free(&e->work);
    if (e->slice != e->own.x) free(e->slice);
    if (e->grad != e->grad_x) free(e->grad);
    parts_free(t, &e->own);
    free(e->first);
    free(e->id);
    free(e->local);
    free(e->grad_x);
    free(e->gradient);
    free(e->squares);
    free(e->offset);
    free(e->label);
    free(e->sums);
    free(e->own_sums);
    free(e->top);
    free(e->own_top);
    free(e->all_top);
    free(e->found);
    free(e);
}
