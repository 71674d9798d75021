/* train_parts.h: what several processes that train one model do alike, each with a range of the layer and some columns of the
   encoder: cutting them out, saying what the cuts are worth, and putting them together into a file. For train_mpi.c and
   train_nccl.cu, which include it behind train.c; how they talk is the affair of processes_mpi.h and processes_nccl.cuh. */
#ifndef TRAIN_PARTS_H
#define TRAIN_PARTS_H

#include "shards.h"

#include <fcntl.h>
#include <sys/mman.h>

/* What a process has of the model. */
typedef struct parts {
    haste_layer part;           /* its range, or a layer as large as all with nothing else filled in; t->layer is the outline */
    encoder     bag;            /* its columns; t->bag has no rows, and the same moments */
    int64_t    *at;             /* [P + 1] slots: where the ranges begin */
    int        *n;              /* [P] what each brings to a collective */
    float      *x, *packed;     /* [room, D] rows; the columns of each process, one process after the other */
    haste_layer whole;          /* the model that training goes on from, while it is cut */
    void       *map;            /* PATH.tmp-ranges while the first one writes the model */
    size_t      map_bytes;
    char        ranges[4200];   /* its name */
} parts;

static void parts_check(const trainer *t)
{
    const char *const file[] = { t->train_path, t->test_path, t->s.features, t->s.test_features, t->s.label_names };
    struct stat about;
    int i;
    for (i = 0; i < 5 && processes.count > 1; i++)
        if (file[i] && (strcmp(file[i], "-") == 0 || (stat(file[i], &about) == 0 && !S_ISREG(about.st_mode))))
            die(2, "%s: is no file, and %d processes read it", file[i], processes.count);
}

/* ---- >>making ------------------------------------------------------------------------------------------------ */

/* Cuts the outline t->layer, and the columns of the encoder that t->bag describes: without rows. */
static void parts_cut(trainer *t, parts *own)
{
    const int32_t D = t->bag.width;
    int i;
    own->at = (int64_t *)need((size_t)processes.count + 1, sizeof(int64_t));
    own->n = (int *)need((size_t)processes.count, sizeof(int));
    if (!shards_cut(&t->layer, processes.count, own->at)) die(1, "fewer groups of labels than the %d processes", processes.count);
    for (i = 0; i < processes.count && !t->shape.dense; i++)
        if (shards_column(D, processes.count, i) == shards_column(D, processes.count, i + 1))
            die(2, "--hidden %ld: too few columns for %d processes, which take four or more each", (long)D, processes.count);
    own->bag = t->bag;
    own->bag.first = shards_column(D, processes.count, processes.rank);
    own->bag.width = shards_column(D, processes.count, processes.rank + 1) - own->bag.first;
    own->bag.columns = D;
}

/* Of a new model: t->layer becomes the outline; the encoder is made here, the range by the engine. */
static void parts_begin(trainer *t, parts *own, const haste_layer_options *options)
{
    if (!shards_outline(&t->layer, options)) die(1, "out of memory for the order of labels");
    parts_cut(t, own);
    if (!t->shape.dense && !encoder_create(&own->bag, t->s.encoder_init))
        die(1, "out of memory for the encoder (%.0f MiB)", mib(encoder_bytes(own->bag.features, own->bag.width)));
}

/* Of the model that training goes on from: slice (=) is the range where it lies, until parts_resumed. */
static void parts_resume(trainer *t, parts *own, haste_layer *slice)
{
    haste_error error;
    own->whole = t->layer;
    if (!shards_outline_of(&t->layer, &own->whole)) die(1, "out of memory for the order of labels");
    parts_cut(t, own);
    if (haste_layer_slice(slice, &own->whole, own->at[processes.rank], own->at[processes.rank + 1], NULL, &error) != HASTE_OK)
        die(1, "%s: %s", t->s.resume, error.text);
}

/* Takes the columns of the encoder, and gives back the model: it lay in t->file, or, where it grew, in memory. */
static void parts_resumed(trainer *t, parts *own)
{
    if (!t->shape.dense) {
        const encoder from = t->bag;
        const size_t rows = (size_t)from.features + 1, D = (size_t)from.width, columns = (size_t)own->bag.width;
        size_t r;
        own->bag.row = (float *)need(rows * columns, sizeof(float));
        own->bag.moment = (float *)need(rows, sizeof(float));
        own->bag.seen = (int64_t *)need(rows, sizeof(int64_t));
        for (r = 0; r < rows; r++) memcpy(own->bag.row + r * columns, from.row + r * D + own->bag.first, columns * sizeof(float));
        memcpy(own->bag.moment, from.moment, rows * sizeof(float));
        memcpy(own->bag.seen, from.seen, rows * sizeof(int64_t));
        if (!haste_file_find(&t->file, "encoder") || from.row != haste_file_find(&t->file, "encoder")->data) {
            free(t->bag.row);   /* it grew */
            free(t->bag.moment);
            free(t->bag.seen);
        }
    }
    haste_layer_free(&own->whole);
    haste_file_free(&t->file);
}

/* From here on t->bag stands for all columns, and has what each process knows of them: of the rows there is a part. */
static void parts_hide_rows(trainer *t, const parts *own)
{
    t->bag = own->bag;
    t->bag.width = t->layer.inputs;
    t->bag.first = t->bag.columns = 0;
    t->bag.row = NULL;
}

/* What the cuts are worth. */
static void parts_say(trainer *t, const parts *own)
{
    double most = 0, all = 0;
    int i, k;
    for (i = 0; i < processes.count; i++) {
        double weights = 0;
        for (k = 0; k < t->layer.block_count; k++) {
            const haste_block *block = &t->layer.block[k];
            const int64_t end = block->first_slot + block->groups * block->group_size;
            const int64_t from = own->at[i] > block->first_slot ? own->at[i] : block->first_slot,
                          to = own->at[i + 1] < end ? own->at[i + 1] : end;
            if (from < to) weights += (double)(to - from) * block->fan_in;
        }
        all += weights;
        if (weights > most) most = weights;
    }
    say(t, "processes  %d; the largest range has %.2f of the mean's weights\n", processes.count, most * processes.count / all);
}

static void parts_free(trainer *t, parts *own)
{
    haste_layer_free(&own->part);
    shards_free(&t->layer);
    encoder_free(&own->bag);
    free(own->at);
    free(own->n);
    free(own->x);
    free(own->packed);
}

/* How many numbers each process brings: `rows` rows of its columns. */
static const int *parts_columns(const trainer *t, const parts *own, int64_t rows)
{
    int i;
    for (i = 0; i < processes.count; i++)
        own->n[i] = (int)(rows * (shards_column(t->layer.inputs, processes.count, i + 1) -
                                  shards_column(t->layer.inputs, processes.count, i)));
    return own->n;
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
static int write_range(trainer *t, const parts *own, int file, char *why)
{
    const int whole = own->part.slots == t->layer.slots;
    int i, k, ok = 1;
    for (i = 0; i < own->part.block_count; i++) {
        const int number = i + (int)own->part.first_block;
        const haste_block *block = &t->layer.block[number];
        const int64_t begin = own->at[processes.rank] - block->first_slot, end = own->at[processes.rank + 1] - block->first_slot;
        const int64_t group = begin > 0 ? begin / block->group_size : 0;
        const int64_t groups = (end < block->groups * block->group_size ? end / block->group_size : block->groups) - group;
        for (k = 0; k < SHARDS_ARRAYS && ok && groups > 0; k++) {
            const size_t bytes = shards_group_bytes(&t->layer, block, k), skip = (size_t)group * bytes;
            if (bytes > 0)
                ok = write_at(file, (const char *)shards_array(&own->part.block[i], k) + (whole ? skip : 0), (size_t)groups * bytes,
                              shards_offset(&t->layer, number, k) + skip, own->ranges, why);
        }
    }
    return ok;
}

/* The embeddings, behind the layer: the first one puts rows together. */
static int write_rows(trainer *t, const parts *own, int file, char *why)
{
    const int64_t rows = t->shape.dense ? 0 : (int64_t)own->bag.features + 1, D = t->layer.inputs, columns = own->bag.width;
    const uint64_t begin = shards_offset(&t->layer, t->layer.block_count, 0);
    int64_t r, n;
    int ok = 1;
    for (r = 0; r < rows; r += n) {
        n = rows - r < t->room ? rows - r : t->room;
        processes_gather(own->bag.row + r * columns, parts_columns(t, own, n), own->packed);
        if (!processes_first() || !ok) continue;
        shards_unpack(own->packed, (int32_t)n, (int32_t)D, processes.count, own->x);
        ok = write_at(file, own->x, (size_t)(n * D) * sizeof(float), begin + (uint64_t)(r * D) * sizeof(float), own->ranges, why);
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

/* For a model that is to be written to path: t->layer and t->bag become, in the first process, what own->part and own->bag are in
   all, until parts_fetched, which hands on what came of it. 0 with why. */
static int parts_fetch(trainer *t, parts *own, const char *path, char *why)
{
    const uint64_t bytes = shards_offset(&t->layer, t->layer.block_count, 0) +
                           (t->shape.dense ? 0 : encoder_bytes(own->bag.features, t->layer.inputs));
    int file = -1, ok = 1, i;
    snprintf(own->ranges, sizeof own->ranges, "%.4000s.tmp-ranges", path);
    for (i = 0; i < 2 && ok; i++) {   /* the first one makes it, then the others open it */
        if ((i == 0) == processes_first()) {
            file = open(own->ranges, i == 0 ? O_RDWR | O_CREAT | O_TRUNC : O_WRONLY, 0600);
            if (file < 0) ok = data_fail(why, "cannot write %s: %s", own->ranges, strerror(errno));
        }
        ok = processes_all(ok, why, DATA_ERROR);
    }
    if (ok) ok = processes_all(write_range(t, own, file, why) && (!processes_first() || ftruncate(file, (off_t)bytes) == 0 ||
                               data_fail(why, "cannot write %s: %s", own->ranges, strerror(errno))), why, DATA_ERROR);
    if (ok) ok = processes_all(write_rows(t, own, file, why), why, DATA_ERROR);
    if (file >= 0 && !processes_first() && close(file) != 0 && ok)
        ok = data_fail(why, "cannot write %s: %s", own->ranges, strerror(errno));
    ok = processes_all(ok, why, DATA_ERROR);
    if (ok && processes_first()) {
        own->map_bytes = (size_t)bytes;
        own->map = mmap(NULL, own->map_bytes, PROT_READ, MAP_SHARED, file, 0);
        if (own->map == MAP_FAILED) ok = data_fail(why, "cannot map %s: %s", own->ranges, strerror(errno));
        else point_into(t, (char *)own->map);
    }
    if (file >= 0 && processes_first()) close(file);
    ok = processes_all(ok, why, DATA_ERROR);
    if (!ok && file >= 0 && processes_first()) unlink(own->ranges);
    return ok;
}

static int parts_fetched(trainer *t, const parts *own, int ok, char *why)
{
    if (processes_first()) {
        munmap(own->map, own->map_bytes);
        unlink(own->ranges);
        point_into(t, NULL);
    }
    return processes_all(ok, why, DATA_ERROR);
}

#endif /* TRAIN_PARTS_H */
