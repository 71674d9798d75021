/* Ranges of a layer that do what the whole does: made alone, trained, rewired together (haste_layer_options.first_slot,
   haste_rewire_options.sum), and how examples/shards.h cuts layers, and lays them out in a file, for haste-train-mpi. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>

#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"
#include "../examples/shards.h"

enum { PARTS = 3, B = 37, MOST = 400, D_MOST = 100 };

/* Cuts fall into all blocks, and between them. */
static const test_shape shapes[] = {
    { "one block",     333, 100, 1, { { 0,   32, 48,  0,  0 } }, 1 },
    { "head and tail", 200,  64, 3, { { 20,   8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } }, 1 },
    { "tail first",    150,  50, 4, { { 33,  24,  1, 0, 1 }, { 1, 64, HASTE_DENSE, 49, 50 }, { 100, 8, 9, 3, 50 },
                                      { 16, 16, HASTE_DENSE, 1, 49 } }, 1 }
};
enum { SHAPES = (int)(sizeof shapes / sizeof shapes[0]) };

static int64_t frequency[MOST];

/* ---- processes, as threads ---- */

static pthread_barrier_t gate;
static pthread_mutex_t   lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t           total[2048];

static void add_up(void *context, int64_t *number, int32_t n)
{
    int32_t i;
    (void)context;
    if (pthread_barrier_wait(&gate) == PTHREAD_BARRIER_SERIAL_THREAD) memset(total, 0, sizeof total);
    pthread_barrier_wait(&gate);
    pthread_mutex_lock(&lock);
    for (i = 0; i < n; i++) total[i] += number[i];
    pthread_mutex_unlock(&lock);
    pthread_barrier_wait(&gate);
    memcpy(number, total, (size_t)n * sizeof *number);
}

typedef struct {
    haste_layer          layer;
    haste_workspace      work;
    haste_rewire_options how;
    const float         *x;
    int64_t              offset[B + 1], moved;
    int32_t              id[6 * B];
    haste_lists          positives;
    double               sums[B * HASTE_SOFTMAX_SUMS];
} part;

static void *rewire_part(void *argument)
{
    part *p = (part *)argument;
    haste_error error;
    if (haste_rewire(&p->layer, &p->work, &p->how, p->x, B, &p->positives, &p->moved, &error) != HASTE_OK) {
        printf("rewiring a part: %s\n", error.text);   /* the others would wait for it */
        exit(1);
    }
    return NULL;
}

/* ---- a layer and its ranges ---- */

typedef struct {
    haste_layer_options options;      /* with all sizes */
    int32_t             order[MOST];
    haste_layer         outline;
    int64_t             at[PARTS + 1], first[PARTS + 1];
    int32_t             id[MOST], local[MOST];
} world;

/* turn 0: as shards_cut cuts; else anywhere. */
static void make_world(world *w, const test_shape *shape, haste_loss loss, haste_dtype dtype, int turn)
{
    haste_layer whole;
    int64_t cut[MOST];
    int32_t i, k, cuts = 0;
    w->options = test_options(shape, loss, HASTE_ADAMW, dtype, dtype);
    for (i = 0; i < shape->labels; i++) {
        w->order[i] = w->options.order ? w->options.order[i] : i;
        frequency[i] = check_random() % 900;
    }
    w->options.order = w->order;
    w->options.frequency = frequency;
    w->options.samples = 1000;
    CHECK_STATUS(haste_layer_create(&whole, &w->options, &test_error), HASTE_OK, test_error);
    for (k = 0; k < whole.block_count; k++) {
        const haste_block *block = &whole.block[k];
        w->options.block[k].labels = block->labels;
        w->options.block[k].begin = block->begin;
        w->options.block[k].end = block->end;
        for (i = 0; i < block->groups; i++) cut[cuts++] = block->first_slot + i * block->group_size;
    }
    CHECK(shards_outline(&w->outline, &w->options));
    CHECK(w->outline.slots == whole.slots && w->outline.block_count == whole.block_count);
    CHECK(memcmp(w->outline.label_of, whole.label_of, (size_t)whole.slots * 4) == 0);
    CHECK(memcmp(w->outline.slot_of, whole.slot_of, (size_t)whole.labels * 4) == 0);
    CHECK(shards_cut(&w->outline, PARTS, w->at));
    CHECK(w->at[0] == 0 && w->at[PARTS] == whole.slots);
    if (turn > 0) {
        const int32_t one = 1 + (int32_t)(check_random() % (uint32_t)(cuts - 2));
        w->at[1] = cut[one];
        w->at[2] = cut[one + 1 + (int32_t)(check_random() % (uint32_t)(cuts - one - 1))];
    }
    shards_ids(&w->outline, w->at, PARTS, w->id, w->local, w->first);
    CHECK(w->first[0] == 0 && w->first[PARTS] == whole.labels);
    haste_layer_free(&whole);
}

/* The part's own labels of a batch. */
static void own_positives(const world *w, const test_batch *batch, int number, part *p)
{
    int64_t j, n = 0;
    int32_t b;
    p->offset[0] = 0;
    for (b = 0; b < B; b++) {
        for (j = batch->offset[b]; j < batch->offset[b + 1]; j++)
            if (shards_owner(w->at, PARTS, w->outline.slot_of[batch->id[j]]) == number) p->id[n++] = w->local[batch->id[j]];
        p->offset[b + 1] = n;
    }
    p->positives.offset = p->offset;
    p->positives.id = p->id;
    p->x = batch->x;
}

/* Is the part what its groups are in the whole? */
static void same_as_slice(const world *w, const haste_layer *whole, int number, const haste_layer *layer)
{
    haste_layer slice;
    int32_t id[MOST];
    const char *other;
    CHECK_STATUS(haste_layer_slice(&slice, whole, w->at[number], w->at[number + 1], id, &test_error), HASTE_OK, test_error);
    CHECK(memcmp(id, w->id + w->first[number], (size_t)slice.labels * 4) == 0);
    CHECK(slice.first_slot == w->at[number] && slice.first_slot == layer->first_slot);
    CHECK(slice.first_group == layer->first_group && slice.first_block == layer->first_block);
    CHECK(slice.labels == layer->labels && slice.block_count == layer->block_count);
    other = test_difference(&slice, layer);
    if (!CHECK(other == NULL)) printf("    part %d: %s\n", number, other);
    haste_layer_free(&slice);
}

static void copy_of_slice(const world *w, const haste_layer *whole, int number, haste_layer *to)
{
    haste_layer slice;
    CHECK_STATUS(haste_layer_slice(&slice, whole, w->at[number], w->at[number + 1], NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_layer_copy(to, &slice, slice.dtype, slice.state_dtype, slice.optimizer, &test_error), HASTE_OK, test_error);
    haste_layer_free(&slice);
}

/* ---- what ranges draw ---- */

static void made_alone(void)
{
    int shape, turn, k, dtype;
    for (shape = 0; shape < SHAPES; shape++) for (turn = 0; turn < 4; turn++) for (dtype = 0; dtype < 2; dtype++) {
        static world w;
        static float row[MOST * D_MOST], own[MOST * D_MOST];
        haste_layer whole, chosen;
        haste_rows rows;
        int32_t i, j;
        make_world(&w, &shapes[shape], HASTE_BCE, (haste_dtype)dtype, turn);
        CHECK_STATUS(haste_layer_create(&whole, &w.options, &test_error), HASTE_OK, test_error);
        for (i = 0; i < whole.labels * whole.inputs; i++) row[i] = i % 7 == 0 ? check_normal() : 0;   /* too few: the rest is drawn */
        memset(&rows, 0, sizeof rows);
        rows.dense = row;
        CHECK_STATUS(haste_layer_create(&chosen, &w.options, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_choose_inputs(&chosen, NULL, chosen.labels, &rows, 1, NULL, &test_error), HASTE_OK, test_error);
        for (k = 0; k < PARTS; k++) {
            haste_layer_options options;
            haste_layer layer;
            int32_t order[MOST];
            int64_t count[MOST];
            shards_options(&w.outline, &w.options, w.at[k], w.at[k + 1], w.local, order, count, &options);
            CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
            same_as_slice(&w, &whole, k, &layer);
            for (i = 0; i < layer.labels; i++)
                for (j = 0; j < layer.inputs; j++) own[i * layer.inputs + j] = row[w.id[w.first[k] + i] * layer.inputs + j];
            rows.dense = own;
            CHECK_STATUS(haste_choose_inputs(&layer, NULL, layer.labels, &rows, 1, NULL, &test_error), HASTE_OK, test_error);
            same_as_slice(&w, &chosen, k, &layer);
            haste_layer_free(&layer);
        }
        haste_layer_free(&chosen);
        haste_layer_free(&whole);
        shards_free(&w.outline);
    }
}

/* A step visits a share of the groups, and rounds bfloat16, by slots of the whole. */
static void trained_alone(void)
{
    int shape, turn, k, dtype;
    for (shape = 0; shape < SHAPES; shape++) for (turn = 0; turn < 4; turn++) for (dtype = 0; dtype < 2; dtype++) {
        static world w;
        static part p;
        haste_layer whole, before;
        haste_workspace work;
        test_batch batch;
        haste_step_options step;
        make_world(&w, &shapes[shape], turn & 1 ? HASTE_SQUARED_HINGE : HASTE_BCE, (haste_dtype)dtype, turn);
        whole = test_layer(&w.options);
        before = test_copy(&whole);
        batch = test_make_batch(&whole, B);
        work = test_workspace(&whole, B, 2, HASTE_PATH_AUTO);
        memset(&step, 0, sizeof step);
        step.lr = .01f;
        step.loss.share = turn & 2 ? .5f : 0;
        CHECK_STATUS(haste_train_step(&whole, &work, batch.x, B, &batch.positives, &step, NULL, NULL, &test_error), HASTE_OK, test_error);
        for (k = 0; k < PARTS; k++) {
            copy_of_slice(&w, &before, k, &p.layer);
            own_positives(&w, &batch, k, &p);
            CHECK_STATUS(haste_train_step(&p.layer, &work, batch.x, B, &p.positives, &step, NULL, NULL, &test_error), HASTE_OK, test_error);
            same_as_slice(&w, &whole, k, &p.layer);
            haste_layer_free(&p.layer);
        }
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&before);
        haste_layer_free(&whole);
        shards_free(&w.outline);
    }
}

/* ---- rewiring ---- */

/* Weights of few values: many places have the same score, and the last of them that move lie in any part. */
static void coarse(haste_layer *layer, int levels)
{
    int32_t k;
    for (k = 0; k < layer->block_count; k++) {
        haste_block *block = &layer->block[k];
        const int64_t S = block->group_size, F = block->fan_in;
        int64_t i;
        for (i = 0; i < block->groups * F * S; i++)
            if (i / (F * S) * S + i % S < block->labels)
                test_put(layer->dtype, block->weight, (size_t)i, (float)(i / S % levels + 1) / 64);
    }
}

static void rewired_together(void)
{
    int shape, turn, k;
    CHECK(pthread_barrier_init(&gate, NULL, PARTS) == 0);
    for (shape = 0; shape < SHAPES; shape++) for (turn = 0; turn < 48; turn++) {
        static world w;
        static part p[PARTS];
        const haste_loss loss = turn % 3 == 0 ? HASTE_SOFTMAX : turn % 3 == 1 ? HASTE_BCE : HASTE_SQUARED_HINGE;
        haste_layer whole;
        haste_workspace work;
        test_batch batch;
        haste_rewire_options how;
        pthread_t thread[PARTS];
        int64_t moved, places = 0, other = 0, i;
        static int64_t ever;
        double all[B * HASTE_SOFTMAX_SUMS];
        make_world(&w, &shapes[shape], loss, turn & 1 ? HASTE_BF16 : HASTE_F32, turn / 16);
        whole = test_layer(&w.options);
        whole.rewires = 5;
        if (turn & 2) coarse(&whole, 1 + turn % 5);
        batch = test_make_batch(&whole, B);
        work = test_workspace(&whole, B, 2, HASTE_PATH_AUTO);
        memset(&how, 0, sizeof how);
        how.share = turn % 7 == 0 ? .5f : .1f;
        how.group_share = turn % 5 == 0 ? .25f : 0;
        how.prune = turn & 4 ? HASTE_PRUNE_SALIENCY : HASTE_PRUNE_MAGNITUDE;
        how.growth = turn & 8 ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM;
        how.scope = turn % 8 == 5 ? HASTE_SCOPE_GROUP : HASTE_SCOPE_BLOCK;
        how.uniform = turn % 3 == 2;
        for (k = 0; k < PARTS; k++) {
            copy_of_slice(&w, &whole, k, &p[k].layer);
            own_positives(&w, &batch, k, &p[k]);
            p[k].work = test_workspace(&p[k].layer, B, 1, HASTE_PATH_AUTO);
            p[k].how = how;
            p[k].how.sum = add_up;
            if (loss != HASTE_SOFTMAX) continue;
            CHECK_STATUS(haste_softmax_begin(&p[k].layer, &p[k].work, batch.x, B, &p[k].positives, NULL, p[k].sums, &test_error), HASTE_OK,
                         test_error);
            if (k == 0) memcpy(all, p[0].sums, sizeof all);
            else CHECK_STATUS(haste_softmax_merge(all, p[k].sums, B, &test_error), HASTE_OK, test_error);
        }
        CHECK_STATUS(haste_rewire(&whole, &work, &how, batch.x, B, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
        ever += moved;
        CHECK(how.scope == HASTE_SCOPE_GROUP || moved > 0);   /* a tenth of few inputs is none */
        for (k = 0; k < PARTS; k++) {
            if (loss == HASTE_SOFTMAX) p[k].how.softmax = all;
            if (pthread_create(&thread[k], NULL, rewire_part, &p[k]) != 0) { printf("no thread\n"); exit(1); }
        }
        for (k = 0; k < PARTS; k++) pthread_join(thread[k], NULL);
        for (k = 0; k < PARTS; k++) {
            CHECK(p[k].moved == moved && p[k].layer.rewires == 6);
            CHECK_STATUS(haste_layer_check(&p[k].layer, &test_error), HASTE_OK, test_error);
            if (loss != HASTE_SOFTMAX || !(turn & 12)) same_as_slice(&w, &whole, k, &p[k].layer);   /* no sums over labels in it */
            else {
                int32_t n;
                haste_layer slice;
                CHECK_STATUS(haste_layer_slice(&slice, &whole, w.at[k], w.at[k + 1], NULL, &test_error), HASTE_OK, test_error);
                for (n = 0; n < slice.block_count; n++)
                    for (i = 0; slice.block[n].index && i < slice.block[n].groups * slice.block[n].fan_in; i++, places++)
                        other += slice.block[n].index[i] != p[k].layer.block[n].index[i];
                haste_layer_free(&slice);
            }
            haste_layer_free(&p[k].layer);
            haste_workspace_free(&p[k].work);
        }
        CHECK(other <= places / 100);   /* near-ties */
        haste_workspace_free(&work);
        test_free_batch(&batch);
        haste_layer_free(&whole);
        shards_free(&w.outline);
        if (turn == 47) CHECK(ever > 1000 * (shape + 1));
    }
    pthread_barrier_destroy(&gate);
}

/* ---- what is refused ---- */

static void refused(void)
{
    haste_layer_options options = test_options(&shapes[0], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer, kept;
    haste_workspace work;
    haste_rewire_options how;
    test_batch batch;
    double sums[B * HASTE_SOFTMAX_SUMS];
    int i;
    static const struct { int64_t slot, group; int32_t block; } bad[] =
        { { -8, 0, 0 }, { INT64_C(1) << 31, 0, 0 }, { 80, -1, 0 }, { 80, 11, 0 }, { 80, 1, -1 }, { 80, 1, 8 }, { 0, 0, 8 } };
    memset(&layer, 0x55, sizeof layer);
    kept = layer;
    for (i = 0; i < (int)(sizeof bad / sizeof bad[0]); i++) {
        options.first_slot = bad[i].slot;
        options.first_group = bad[i].group;
        options.first_block = bad[i].block;
        CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_ERR_ARG, test_error);
        CHECK(strstr(test_error.text, "first_slot = ") && memcmp(&layer, &kept, sizeof layer) == 0);
    }
    options.first_slot = INT32_MAX - 100;   /* 352 slots more */
    options.first_group = options.first_block = 0;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_ERR_SIZE, test_error);
    options.first_slot = 64;
    options.first_group = 2;
    options.first_block = 7;
    CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
    CHECK(layer.first_slot == 64 && layer.first_group == 2 && layer.first_block == 7);

    /* sums that cannot be, and a loss that has none */
    batch = test_make_batch(&layer, B);
    work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
    memset(&how, 0, sizeof how);
    how.share = .1f;
    how.growth = HASTE_GROW_GRADIENT;
    how.softmax = sums;
    CHECK_STATUS(haste_softmax_begin(&layer, &work, batch.x, B, &batch.positives, NULL, sums, &test_error), HASTE_OK, test_error);
    sums[2 * HASTE_SOFTMAX_SUMS + 1] = -1;
    CHECK_STATUS(haste_rewire(&layer, &work, &how, batch.x, B, &batch.positives, NULL, &test_error), HASTE_ERR_DATA, test_error);
    CHECK(strstr(test_error.text, "softmax[2, 1]") && layer.rewires == 0);
    layer.loss = HASTE_BCE;
    CHECK_STATUS(haste_rewire(&layer, &work, &how, batch.x, B, &batch.positives, NULL, &test_error), HASTE_ERR_ARG, test_error);
    haste_workspace_free(&work);
    test_free_batch(&batch);
    haste_layer_free(&layer);
}

/* ---- shards.h ---- */

static void cuts(void)
{
    int shape, parts, k;
    for (shape = 0; shape < SHAPES; shape++) {
        static world w;
        int64_t at[MOST + 1], groups = 0, g;
        double all = 0, largest = 0;
        make_world(&w, &shapes[shape], HASTE_BCE, HASTE_F32, 0);
        for (k = 0; k < w.outline.block_count; k++) {
            const double cost = shards_cost(&w.outline.block[k]);
            groups += w.outline.block[k].groups;
            all += (double)w.outline.block[k].groups * cost;
            if (cost > largest) largest = cost;
        }
        for (parts = 1; parts <= groups; parts++) {
            CHECK(shards_cut(&w.outline, parts, at));
            CHECK(at[0] == 0 && at[parts] == w.outline.slots);
            for (k = 0; k < parts; k++) {
                double before = 0;
                int i, edge = 0;
                CHECK(at[k] < at[k + 1]);
                CHECK(shards_owner(at, parts, at[k]) == k && shards_owner(at, parts, at[k + 1] - 1) == k);
                for (i = 0; i < w.outline.block_count; i++)
                    for (g = 0; g < w.outline.block[i].groups; g++) {
                        const int64_t slot = w.outline.block[i].first_slot + g * w.outline.block[i].group_size;
                        edge |= slot == at[k];
                        if (slot < at[k]) before += shards_cost(&w.outline.block[i]);
                    }
                CHECK(edge);
                if (all / parts > largest) CHECK(fabs(before - all * k / parts) <= largest / 2 + 1e-9 * all);
            }
        }
        CHECK(!shards_cut(&w.outline, (int)groups + 1, at));
        shards_free(&w.outline);
    }
}

static void columns(void)
{
    static const int32_t sizes[] = { 4, 7, 16, 30, 33, 96, 100, 512, 513 };
    int i, parts, k;
    for (i = 0; i < (int)(sizeof sizes / sizeof sizes[0]); i++) for (parts = 1; parts <= 5; parts++) {
        enum { ROWS = 3 };
        const int32_t D = sizes[i];
        float *rows = check_floats(ROWS * (size_t)D), *packed = check_floats(ROWS * (size_t)D), *back = check_floats(ROWS * (size_t)D);
        int32_t j, first = shards_column(D, parts, parts > 1);
        CHECK(shards_column(D, parts, 0) == 0 && shards_column(D, parts, parts) == D);
        for (k = 0; k < parts; k++) {
            CHECK(shards_column(D, parts, k) % 4 == 0 || shards_column(D, parts, k) == D);
            CHECK(shards_column(D, parts, k + 1) >= shards_column(D, parts, k));
            if (D >= 4 * parts) CHECK(shards_column(D, parts, k + 1) > shards_column(D, parts, k));
        }
        for (j = 0; j < ROWS * D; j++) rows[j] = (float)j;
        shards_pack(rows, ROWS, D, parts, packed);
        CHECK(packed[0] == 0 && (parts == 1 || first == 0 || packed[first] == (float)D));   /* its second row */
        shards_unpack(packed, ROWS, D, parts, back);
        CHECK(memcmp(rows, back, ROWS * (size_t)D * sizeof(float)) == 0);
        CHECK(check_guard(packed, ROWS * (size_t)D) && check_guard(back, ROWS * (size_t)D));
        free(rows);
        free(packed);
        free(back);
    }
}

/* Ranges that are written at their places are the whole. */
static void file_of_ranges(void)
{
    int shape, turn, k, i, which;
    for (shape = 0; shape < SHAPES; shape++) for (turn = 0; turn < 6; turn++) {
        static world w;
        haste_layer whole, layer;
        char *memory;
        uint64_t bytes;
        const char *other;
        make_world(&w, &shapes[shape], HASTE_BCE, turn & 1 ? HASTE_BF16 : HASTE_F32, turn);
        w.options.optimizer = (haste_optimizer)(turn / 2);
        shards_free(&w.outline);
        CHECK(shards_outline(&w.outline, &w.options));
        whole = test_layer(&w.options);
        bytes = shards_offset(&w.outline, w.outline.block_count, 0);
        memory = (char *)test_alloc((size_t)bytes);
        memset(memory, 0x55, (size_t)bytes);
        for (k = 0; k < PARTS; k++) {
            haste_layer p;
            CHECK_STATUS(haste_layer_slice(&p, &whole, w.at[k], w.at[k + 1], NULL, &test_error), HASTE_OK, test_error);
            for (i = 0; i < p.block_count; i++)
                for (which = 0; which < SHARDS_ARRAYS; which++) {
                    const haste_block *block = &w.outline.block[i + p.first_block];
                    const size_t group = shards_group_bytes(&w.outline, block, which);
                    const size_t first = (size_t)((p.first_slot + p.block[i].first_slot - block->first_slot) / block->group_size);
                    if (group > 0)
                        memcpy(memory + shards_offset(&w.outline, i + (int)p.first_block, which) + first * group,
                               shards_array(&p.block[i], which), (size_t)p.block[i].groups * group);
                }
            haste_layer_free(&p);
        }
        CHECK(shards_outline_of(&layer, &whole));
        for (i = 0; i < layer.block_count; i++)
            for (which = 0; which < SHARDS_ARRAYS; which++)
                if (shards_group_bytes(&layer, &layer.block[i], which) > 0)
                    shards_set_array(&layer.block[i], which, memory + shards_offset(&layer, i, which));
        other = test_difference(&whole, &layer);
        if (!CHECK(other == NULL)) printf("    %s: %s\n", shapes[shape].name, other);
        CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
        shards_free(&layer);
        free(memory);
        haste_layer_free(&whole);
        shards_free(&w.outline);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(made_alone);
    RUN(trained_alone);
    RUN(rewired_together);
    RUN(refused);
    RUN(cuts);
    RUN(columns);
    RUN(file_of_ranges);
    return check_end();
}
