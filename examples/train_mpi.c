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
#include "shards.h"

#include <fcntl.h>
#include <sys/mman.h>

struct engine {
    haste_layer     part;           /* this process's range; t->layer is the outline of all */
    haste_workspace work;
    encoder         bag;            /* these columns; t->bag has no rows, and the same moments */
    int64_t        *at;             /* [P + 1] slots: where the ranges begin */
    int32_t        *id, *local;     /* [L] labels of the ranges, one after the other; the id of each label in its range */
    int64_t        *first;          /* [P + 1] where those of a range begin in id */
    float          *x, *grad_x;     /* [room, D] */
    float          *slice, *grad;   /* [room, columns] of this process; of one process x and grad_x */
    float          *packed;         /* [room, D] the slices of all */
    int            *n;              /* [P] what each brings to a collective */
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
    void           *map;            /* PATH.tmp-ranges while the first one writes the model */
    size_t          map_bytes;
    char            ranges[4200];   /* its name */
};

static void engine_check(const trainer *t)
{
    const char *const file[] = { t->train_path, t->test_path, t->s.features, t->s.test_features, t->s.label_names };
    struct stat about;
    int i;
    for (i = 0; i < 5 && processes.count > 1; i++)
        if (file[i] && (strcmp(file[i], "-") == 0 || (stat(file[i], &about) == 0 && !S_ISREG(about.st_mode))))
            die(2, "%s: is no file, and %d processes read it", file[i], processes.count);
}

/* ---- >>making ------------------------------------------------------------------------------------------------ */

/* Cuts the outline t->layer. */
static void cut_layer(trainer *t, struct engine *e)
{
    const int P = processes.count;
    const size_t L = (size_t)t->layer.labels;
    e->at = (int64_t *)need((size_t)P + 1, sizeof(int64_t));
    e->first = (int64_t *)need((size_t)P + 1, sizeof(int64_t));
    e->id = (int32_t *)need(L, sizeof(int32_t));
    e->local = (int32_t *)need(L, sizeof(int32_t));
    if (!shards_cut(&t->layer, P, e->at)) die(1, "fewer groups of labels than the %d processes", P);
    shards_ids(&t->layer, e->at, P, e->id, e->local, e->first);
}

/* This process's columns of the encoder that t->bag describes: without rows. */
static void cut_encoder(trainer *t, struct engine *e)
{
    const int32_t D = t->bag.width;
    int i;
    for (i = 0; i < processes.count && !t->shape.dense; i++)
        if (shards_column(D, processes.count, i) == shards_column(D, processes.count, i + 1))
            die(2, "--hidden %ld: too few columns for %d processes, which take four or more each", (long)D, processes.count);
    e->bag = t->bag;
    e->bag.first = shards_column(D, processes.count, processes.rank);
    e->bag.width = shards_column(D, processes.count, processes.rank + 1) - e->bag.first;
    e->bag.columns = D;
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
    if (!shards_outline(&t->layer, options)) die(1, "out of memory for the order of labels");
    cut_layer(t, e);
    slots = e->at[processes.rank + 1] - e->at[processes.rank];
    order = (int32_t *)need((size_t)slots, sizeof(int32_t));
    frequency = (int64_t *)need((size_t)slots, sizeof(int64_t));
    shards_options(&t->layer, options, e->at[processes.rank], e->at[processes.rank + 1], e->local, order, frequency, &part);
    if (haste_layer_create(&e->part, &part, &error) != HASTE_OK) die(1, "%s", error.text);
    free(order);
    free(frequency);
    cut_encoder(t, e);
    if (!t->shape.dense && !encoder_create(&e->bag, t->s.encoder_init))
        die(1, "out of memory for the encoder (%.0f MiB)", mib(encoder_bytes(e->bag.features, e->bag.width)));
}

/* From the model that training goes on from: t->layer and t->bag lie in t->file, or, where they grew, in memory. */
static void take_parts(trainer *t)
{
    struct engine *e = new_engine(t);
    haste_layer whole = t->layer, slice;
    haste_error error;
    if (!shards_outline_of(&t->layer, &whole)) die(1, "out of memory for the order of labels");
    cut_layer(t, e);
    if (haste_layer_slice(&slice, &whole, e->at[processes.rank], e->at[processes.rank + 1], NULL, &error) != HASTE_OK ||
        haste_layer_copy(&e->part, &slice, whole.dtype, whole.state_dtype, whole.optimizer, &error) != HASTE_OK ||
        haste_layer_check(&e->part, &error) != HASTE_OK) die(1, "%s: %s", t->s.resume, error.text);
    haste_layer_free(&slice);
    cut_encoder(t, e);
    if (!t->shape.dense) {
        const encoder from = t->bag;
        const size_t rows = (size_t)from.features + 1, D = (size_t)from.width, own = (size_t)e->bag.width;
        size_t r;
        e->bag.row = (float *)need(rows * own, sizeof(float));
        e->bag.moment = (float *)need(rows, sizeof(float));
        e->bag.seen = (int64_t *)need(rows, sizeof(int64_t));
        for (r = 0; r < rows; r++) memcpy(e->bag.row + r * own, from.row + r * D + e->bag.first, own * sizeof(float));
        memcpy(e->bag.moment, from.moment, rows * sizeof(float));
        memcpy(e->bag.seen, from.seen, rows * sizeof(int64_t));
        if (!haste_file_find(&t->file, "encoder") || from.row != haste_file_find(&t->file, "encoder")->data) {
            free(t->bag.row);   /* it grew */
            free(t->bag.moment);
            free(t->bag.seen);
        }
    }
    haste_layer_free(&whole);
    haste_file_free(&t->file);
}

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t D = (size_t)t->layer.inputs, room = (size_t)t->room, P = (size_t)processes.count;
    struct engine *e;
    haste_workspace_options work;
    haste_layer_options part;
    haste_plan plan;
    haste_error error;
    double most = 0, all = 0;
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
    part.labels = e->part.labels;
    part.block_count = e->part.block_count;
    for (i = 0; i < part.block_count; i++) {
        part.block[i].labels = e->part.block[i].labels;
        part.block[i].group_size = e->part.block[i].group_size;
        part.block[i].fan_in = e->part.block[i].fan_in;
    }
    memset(&plan, 0, sizeof plan);
    if (haste_plan_bytes(&part, &work, &plan, &error) != HASTE_OK ||
        haste_workspace_create(&e->work, &e->part, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    e->x = (float *)need(room * D, sizeof(float));
    e->grad_x = (float *)need(room * D, sizeof(float));
    e->slice = P > 1 ? (float *)need(room * (size_t)e->bag.width, sizeof(float)) : e->x;
    e->grad = P > 1 ? (float *)need(room * (size_t)e->bag.width, sizeof(float)) : e->grad_x;
    e->packed = P > 1 ? (float *)need(room * D, sizeof(float)) : NULL;
    e->n = (int *)need(P, sizeof(int));
    e->offset = (int64_t *)need(room + 1, sizeof(int64_t));
    e->sums = (double *)need((P + 1) * room * HASTE_SOFTMAX_SUMS, sizeof(double));
    e->own_sums = (double *)need(room * HASTE_SOFTMAX_SUMS, sizeof(double));
    e->top = (int32_t *)need(2 * room * TOP, sizeof(int32_t));
    e->own_top = (int32_t *)need(2 * room * TOP, sizeof(int32_t));
    e->all_top = (int32_t *)need(2 * P * room * TOP, sizeof(int32_t));
    e->found = (haste_found *)need(P, sizeof *e->found);
    if (!t->shape.dense && !encoder_scratch(&e->bag)) die(1, "out of memory");
    t->bag = e->bag;   /* of the rows this process has a part */
    t->bag.width = (int32_t)D;
    t->bag.first = t->bag.columns = 0;
    t->bag.row = NULL;

    for (i = 0; i < processes.count; i++) {   /* what the cuts are worth */
        double weights = 0;
        int k;
        for (k = 0; k < t->layer.block_count; k++) {
            const haste_block *block = &t->layer.block[k];
            const int64_t end = block->first_slot + block->groups * block->group_size;
            const int64_t from = e->at[i] > block->first_slot ? e->at[i] : block->first_slot,
                          to = e->at[i + 1] < end ? e->at[i + 1] : end;
            if (from < to) weights += (double)(to - from) * block->fan_in;
        }
        all += weights;
        if (weights > most) most = weights;
    }
    signal(SIGUSR1, on_signal);
    say(t, "processes  %d; the largest range has %.2f of the mean's weights\n", processes.count, most * (double)P / all);
    say(t, "memory     of the first: layer %.1f MiB (weights %.1f), workspace %.1f, encoder %.1f, data %.1f\n", mib(plan.layer),
        mib(plan.weight), mib(plan.workspace),
        t->shape.dense ? 0 : mib(encoder_bytes(e->bag.features, e->bag.width) + encoder_moment_bytes(e->bag.features)),
        data_bytes(t) / 1048576);
    say(t, "runs on    %s, %ld thread%s each\n", haste_path_text(e->work.path), (long)e->work.threads,
        e->work.threads == 1 ? "" : "s");
}

/* ---- >>a step ------------------------------------------------------------------------------------------------ */

/* How many numbers each process brings: `rows` rows of its columns. */
static const int *column_counts(const trainer *t, int64_t rows)
{
    int i;
    for (i = 0; i < processes.count; i++)
        t->engine->n[i] = (int)(rows * (shards_column(t->layer.inputs, processes.count, i + 1) -
                                        shards_column(t->layer.inputs, processes.count, i)));
    return t->engine->n;
}

static const int *equal_counts(const trainer *t, int64_t n)
{
    int i;
    for (i = 0; i < processes.count; i++) t->engine->n[i] = (int)n;
    return t->engine->n;
}

/* x of the documents. */
static void encode(trainer *t, const data_set *data, const int64_t *document, int32_t B, int training)
{
    struct engine *e = t->engine;
    const size_t D = (size_t)t->layer.inputs;
    int32_t b;
    if (t->shape.dense) {
        for (b = 0; b < B; b++) {
            memcpy(e->x + (size_t)b * D, data->dense + (size_t)document[b] * D, D * sizeof(float));
            if (training && t->bag.dropout > 0) encoder_drop(&t->bag, b, e->x + (size_t)b * D);
        }
        return;
    }
    encoder_forward(&e->bag, data, document, B, training, e->slice);
    if (processes.count == 1) return;
    processes_gather(e->slice, column_counts(t, B), e->packed);
    shards_unpack(e->packed, B, (int32_t)D, processes.count, e->x);
}

/* The update of this process's columns, from grad_x of all ranges: as encoder_backward. */
static void train_encoder(trainer *t, const int64_t *document, int32_t B, float lr)
{
    struct engine *e = t->engine;
    const int64_t rows = encoder_order(&e->bag, &t->train, document, B), D = e->bag.width;
    float correct;
    int64_t i;
    if (rows < 0 || !data_reserve((void **)&e->gradient, &e->gradient_room, (rows + 1) * D, sizeof(float)) ||
        !data_reserve((void **)&e->squares, &e->square_room, rows + 1, sizeof(double))) die(1, "out of memory");
    if (processes.count > 1) {
        shards_pack(e->grad_x, B, t->layer.inputs, processes.count, e->packed);
        processes_scatter(e->packed, column_counts(t, B), e->grad);
    }
    encoder_mask(&e->bag, B, e->slice, e->grad);
    t->bag.step = ++e->bag.step;
    correct = encoder_correction(e->bag.step);
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->bag.threads) schedule(dynamic, 32)
#endif
    for (i = 0; i <= rows; i++) {
        encoder_row_gradient(&e->bag, i, rows, B, e->grad, e->gradient + i * D);
        e->squares[i] = encoder_squares(&e->bag, e->gradient + i * D);
    }
    processes_sum(e->squares, (int)rows + 1);
#ifdef _OPENMP
    #pragma omp parallel for num_threads(e->bag.threads) schedule(static)
#endif
    for (i = 0; i <= rows; i++)
        encoder_adam(&e->bag, i == rows ? e->bag.features : e->bag.touched[i], e->gradient + i * D, e->squares[i], lr, correct);
}

/* Of the labels of B documents those in this range, with its ids. */
static haste_lists own_labels(trainer *t, const haste_lists *lists, int32_t B)
{
    struct engine *e = t->engine;
    const int64_t begin = e->at[processes.rank], end = e->at[processes.rank + 1];
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
    if (e->part.loss != HASTE_SOFTMAX || processes.count == 1) return NULL;
    if (haste_softmax_begin(&e->part, &e->work, e->x, B, positives, loss, e->own_sums, &error) != HASTE_OK)
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
    if (own.block) own.block += e->part.first_block;
    if (grad_x) memset(grad_x, 0, (size_t)B * (size_t)t->layer.inputs * sizeof(float));
    own.loss.softmax = softmax_sums(t, B, &positives, &own.loss);
    status = haste_train_step(&e->part, &e->work, e->x, B, &positives, &own, &loss, grad_x, &error);
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
        if (haste_rewire(&e->part, &e->work, &how, e->x, B, &positives, &moved, &error) != HASTE_OK)
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
    if (haste_top_k(&e->part, &e->work, e->x, B, TOP, NULL, P > 1 ? e->own_top : top, P > 1 ? (float *)(e->own_top + n) : NULL,
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

/* Writes all of it at a place. 0 with why. */
static int write_at(int file, const void *data, size_t bytes, uint64_t at, const char *path, char *why)
{
    while (bytes > 0) {
        const ssize_t n = pwrite(file, data, bytes < 1 << 30 ? bytes : 1 << 30, (off_t)at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return data_fail(why, "cannot write %s: %s", path, n < 0 ? strerror(errno) : "nothing is taken");
        data = (const char *)data + n;
        bytes -= (size_t)n;
        at += (uint64_t)n;
    }
    return 1;
}

/* This process's groups, each array at its place. */
static int write_range(trainer *t, int file, char *why)
{
    const struct engine *e = t->engine;
    int i, k, ok = 1;
    for (i = 0; i < e->part.block_count; i++) {
        const haste_block *part = &e->part.block[i];
        const int number = i + (int)e->part.first_block;
        const haste_block *block = &t->layer.block[number];
        const uint64_t group = (uint64_t)(e->part.first_slot + part->first_slot - block->first_slot) / (uint64_t)block->group_size;
        for (k = 0; k < SHARDS_ARRAYS && ok; k++) {
            const size_t bytes = shards_group_bytes(&t->layer, block, k);
            ok = write_at(file, shards_array(part, k), (size_t)part->groups * bytes,
                          shards_offset(&t->layer, number, k) + group * bytes, e->ranges, why);
        }
    }
    return ok;
}

/* The embeddings, behind the layer: the first one puts rows together. */
static int write_rows(trainer *t, int file, char *why)
{
    struct engine *e = t->engine;
    const int64_t rows = t->shape.dense ? 0 : (int64_t)e->bag.features + 1, D = t->layer.inputs, own = e->bag.width;
    const uint64_t begin = shards_offset(&t->layer, t->layer.block_count, 0);
    int64_t r, n;
    int ok = 1;
    for (r = 0; r < rows; r += n) {
        n = rows - r < t->room ? rows - r : t->room;
        processes_gather(e->bag.row + r * own, column_counts(t, n), e->packed);
        if (!processes_first() || !ok) continue;
        shards_unpack(e->packed, (int32_t)n, (int32_t)D, processes.count, e->x);
        ok = write_at(file, e->x, (size_t)(n * D) * sizeof(float), begin + (uint64_t)(r * D) * sizeof(float), e->ranges, why);
    }
    return ok;
}

/* t->layer's arrays and t->bag's rows in the file; memory NULL: none. */
static void point_into(trainer *t, char *memory)
{
    int i, k;
    for (i = 0; i < t->layer.block_count; i++)
        for (k = 0; k < SHARDS_ARRAYS; k++)
            shards_set_array(&t->layer.block[i], k, memory && shards_group_bytes(&t->layer, &t->layer.block[i], k) > 0 ?
                             memory + shards_offset(&t->layer, i, k) : NULL);
    t->bag.row = memory && !t->shape.dense ? (float *)(void *)(memory + shards_offset(&t->layer, t->layer.block_count, 0)) : NULL;
}

static int engine_fetch(trainer *t, const char *path, char *why)
{
    struct engine *e = t->engine;
    const uint64_t bytes = shards_offset(&t->layer, t->layer.block_count, 0) +
                           (t->shape.dense ? 0 : encoder_bytes(e->bag.features, t->layer.inputs));
    int file = -1, ok = 1, i;
    t->layer.step = e->part.step;
    t->layer.rewires = e->part.rewires;
    if (processes.count == 1) {
        for (i = 0; i < t->layer.block_count; i++) t->layer.block[i] = e->part.block[i];
        t->bag.row = e->bag.row;
        return 1;
    }
    snprintf(e->ranges, sizeof e->ranges, "%.4000s.tmp-ranges", path);
    for (i = 0; i < 2 && ok; i++) {   /* the first one makes it, then the others open it */
        if ((i == 0) == processes_first()) {
            file = open(e->ranges, i == 0 ? O_RDWR | O_CREAT | O_TRUNC : O_WRONLY, 0600);
            if (file < 0) ok = data_fail(why, "cannot write %s: %s", e->ranges, strerror(errno));
        }
        ok = processes_all(ok, why, DATA_ERROR);
    }
    if (ok) ok = processes_all(write_range(t, file, why) && (!processes_first() || ftruncate(file, (off_t)bytes) == 0 ||
                               data_fail(why, "cannot write %s: %s", e->ranges, strerror(errno))), why, DATA_ERROR);
    if (ok) ok = processes_all(write_rows(t, file, why), why, DATA_ERROR);
    if (file >= 0 && !processes_first() && close(file) != 0 && ok)
        ok = data_fail(why, "cannot write %s: %s", e->ranges, strerror(errno));
    ok = processes_all(ok, why, DATA_ERROR);
    if (ok && processes_first()) {
        e->map_bytes = (size_t)bytes;
        e->map = mmap(NULL, e->map_bytes, PROT_READ, MAP_SHARED, file, 0);
        if (e->map == MAP_FAILED) ok = data_fail(why, "cannot map %s: %s", e->ranges, strerror(errno));
        else point_into(t, (char *)e->map);
    }
    if (file >= 0 && processes_first()) close(file);
    ok = processes_all(ok, why, DATA_ERROR);
    if (!ok && file >= 0 && processes_first()) unlink(e->ranges);
    return ok;
}

static int engine_fetched(trainer *t, int ok, char *why)
{
    struct engine *e = t->engine;
    if (processes.count == 1) return ok;
    if (processes_first()) {
        munmap(e->map, e->map_bytes);
        unlink(e->ranges);
        point_into(t, NULL);
    }
    return processes_all(ok, why, DATA_ERROR);
}

static void engine_result(const trainer *t)
{
    printf(" layer_seconds=%.1f processes=%d talk_seconds=%.1f", t->engine->seconds, processes.count, processes.seconds);
}

static void engine_free(trainer *t)
{
    struct engine *e = t->engine;
    haste_workspace_free(&e->work);
    haste_layer_free(&e->part);
    shards_free(&t->layer);
    encoder_free(&e->bag);
    free(e->at);
    free(e->first);
    free(e->id);
    free(e->local);
    if (e->slice != e->x) free(e->slice);
    if (e->grad != e->grad_x) free(e->grad);
    free(e->x);
    free(e->grad_x);
    free(e->packed);
    free(e->n);
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
