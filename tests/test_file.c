/* The model file: every array comes back, damage is noticed and never crashes, a failed save leaves the old file, and
   what stood at its path, and beside it, is as it should be. */
#define _DEFAULT_SOURCE   /* mkdtemp, setrlimit */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int allocations, held, fail_at = -1;   /* fail_at: the allocation that fails, -1: none */
static void *count_malloc(size_t bytes)
{
    void *memory = allocations++ == fail_at ? NULL : malloc(bytes);
    if (memory) held++;
    return memory;
}
static void count_free(void *memory) { if (memory) held--; free(memory); }

/* System calls of haste_save that fail on demand, with an errno (or with none), or in the midst of which something
   happens. */
static int  fsyncs, fsync_errno, fsync_fails_at = -1, fclose_errno = -1, flock_errno, fwrites, fwrite_fails_at = -1;
static void (*during_fsync)(void);

static int test_fsync(int descriptor)
{
    void (*happens)(void) = during_fsync;
    during_fsync = NULL;
    if (happens) happens();
    if (fsyncs++ == fsync_fails_at) { errno = fsync_errno; return -1; }
    return fsync(descriptor);
}

static int test_fclose(FILE *file)
{
    const int before = errno, result = fclose(file);
    if (fclose_errno < 0) return result;
    errno = fclose_errno > 0 ? fclose_errno : before;
    return EOF;
}

static unsigned first_mode;   /* of a temporary just made, as soon as others can see it */
static int test_flock(int descriptor, int operation)
{
    struct stat s;
    if (fstat(descriptor, &s) == 0 && s.st_size == 0) first_mode = (unsigned)s.st_mode & 0777u;
    if (flock_errno) { errno = flock_errno; return -1; }
    return flock(descriptor, operation);
}

/* Descriptors of this process that a program which it starts would get too. */
static int count_inherited(void)
{
    const int before = errno;
    int i, n = 0;
    for (i = 0; i < 64; i++) {
        int flags = fcntl(i, F_GETFD);
        n += flags >= 0 && !(flags & FD_CLOEXEC);
    }
    errno = before;
    return n;
}

static int most_inherited;
static size_t test_fwrite(const void *data, size_t width, size_t count, FILE *file)
{
    int inherited = count_inherited();
    size_t written;
    if (inherited > most_inherited) most_inherited = inherited;
    if (count > 0 && fwrites++ == fwrite_fails_at) return 0;   /* errno stays as it was */
    written = fwrite(data, width, count, file);
    if (fwrite_fails_at >= 0 || fclose_errno >= 0) errno = ENOTTY;   /* as stdio may, though nothing failed */
    return written;
}

#define HASTE_MALLOC(bytes) count_malloc(bytes)
#define HASTE_FREE(memory)  count_free(memory)
#define HASTE_IMPLEMENTATION
#define fsync  test_fsync
#define fclose test_fclose
#define flock  test_flock
#define fwrite test_fwrite
#include "../haste.h"
#undef fsync
#undef fclose
#undef flock
#undef fwrite
#include "check.h"

static haste_error error;
static char folder[64], path[128], other[128];

static haste_lists lists(const int64_t *offset, const int32_t *id)
{
    haste_lists l;
    l.offset = offset;
    l.id = id;
    return l;
}

static int exists(const char *name) { struct stat s; return stat(name, &s) == 0; }

static int files_in_folder(void)
{
    DIR *d = opendir(folder);
    int n = 0;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n - 2;
}

static unsigned char *read_all(const char *name, size_t *bytes)
{
    FILE *in = fopen(name, "rb");
    unsigned char *data;
    long size;
    if (!in) { printf("cannot open %s\n", name); exit(1); }
    fseek(in, 0, SEEK_END);
    size = ftell(in);
    fseek(in, 0, SEEK_SET);
    data = (unsigned char *)malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, in) != (size_t)size) { printf("cannot read %s\n", name); exit(1); }
    fclose(in);
    *bytes = (size_t)size;
    return data;
}

static void write_all(const char *name, const unsigned char *data, size_t bytes)
{
    FILE *out = fopen(name, "wb");
    if (out && fwrite(data, 1, bytes, out) == bytes && fclose(out) == 0) return;
    printf("cannot write %s\n", name);
    exit(1);
}

/* Three blocks of odd sizes in a shuffled order: a dense head, and two with different S, F and slices. */
static void make_layer(haste_layer *layer, haste_dtype dtype, haste_dtype state_dtype, haste_optimizer optimizer,
                       int small)
{
    haste_layer_options o;
    int32_t order[157];
    int b, s;
    int64_t i, n;
    memset(&o, 0, sizeof o);
    o.labels = small ? 21 : 157;
    o.inputs = small ? 7 : 70;
    o.block_count = small ? 2 : 3;
    o.block[0].labels = small ? 5 : 13;
    o.block[0].group_size = 8;
    o.block[0].fan_in = HASTE_DENSE;
    if (small) o.block[0].end = 3;
    o.block[1].labels = small ? 0 : 101;
    o.block[1].group_size = small ? 8 : 24;
    o.block[1].fan_in = small ? 3 : 17;
    o.block[1].begin = 1;
    o.block[1].end = small ? 7 : 60;
    o.block[2].fan_in = 5;   /* S: the default, 32 */
    o.dtype = dtype;
    o.state_dtype = state_dtype;
    o.optimizer = optimizer;
    o.loss = HASTE_SQUARED_HINGE;
    o.seed = UINT64_C(0xfedcba9876543210);
    for (i = 0; i < o.labels; i++) order[i] = (int32_t)((i * 50 + 3) % o.labels);   /* 50: prime to 21 and to 157 */
    o.order = order;
    if (haste_layer_create(layer, &o, &error)) { printf("%s\n", error.text); exit(1); }
    layer->step = INT64_C(12345678901);
    layer->rewires = 42;
    for (b = 0; b < layer->block_count; b++) {   /* numbers in every array, padding at 0 */
        haste_block *block = &layer->block[b];
        for (s = -1; s < (int)optimizer; s++) {
            void *weight = s < 0 ? block->weight : block->weight_state[s];
            float *bias = s < 0 ? block->bias : block->bias_state[s];
            n = block->groups * block->fan_in * block->group_size;
            for (i = 0; i < n; i++) {
                int64_t slot = i / (block->fan_in * block->group_size) * block->group_size + i % block->group_size;
                float value = slot < block->labels ? check_normal() : 0;
                if (s == 1) value = fabsf(value);   /* Adam's mean of squares */
                if ((s < 0 ? dtype : state_dtype) == HASTE_BF16) ((uint16_t *)weight)[i] = haste__to_bf16(value);
                else ((float *)weight)[i] = value;
            }
            for (i = 0; i < block->labels; i++) bias[i] = s == 1 ? fabsf(check_normal()) : check_normal();
        }
    }
    CHECK_STATUS(haste_layer_check(layer, &error), HASTE_OK, error);
}

static int same_bytes(const void *a, const void *b, int64_t count, size_t width)
{
    if (!a || !b) return a == b;
    return memcmp(a, b, (size_t)count * width) == 0;
}

/* All of a layer but its pointers; weights and state only where `weights` is set. */
static int same_layer(const haste_layer *a, const haste_layer *b, int weights)
{
    int i, s, same = a->labels == b->labels && a->inputs == b->inputs && a->slots == b->slots && a->loss == b->loss && a->block_count == b->block_count
        && a->seed == b->seed && a->step == b->step && a->rewires == b->rewires
        && same_bytes(a->label_of, b->label_of, a->slots, 4) && same_bytes(a->slot_of, b->slot_of, a->labels, 4);
    if (weights)
        same = same && a->dtype == b->dtype && a->state_dtype == b->state_dtype && a->optimizer == b->optimizer;
    for (i = 0; same && i < a->block_count; i++) {
        const haste_block *p = &a->block[i], *q = &b->block[i];
        int64_t slots = p->groups * p->group_size;
        same = p->groups == q->groups && p->labels == q->labels && p->first_slot == q->first_slot
            && p->group_size == q->group_size && p->fan_in == q->fan_in && p->begin == q->begin && p->end == q->end
            && same_bytes(p->index, q->index, p->groups * p->fan_in, 2) && same_bytes(p->bias, q->bias, slots, 4);
        if (!weights) continue;
        same = same && same_bytes(p->weight, q->weight, slots * p->fan_in, a->dtype == HASTE_BF16 ? 2 : 4);
        for (s = 0; s < 2; s++)
            same = same && same_bytes(p->weight_state[s], q->weight_state[s], slots * p->fan_in,
                                      a->state_dtype == HASTE_BF16 ? 2 : 4)
                && same_bytes(p->bias_state[s], q->bias_state[s], slots, 4);
    }
    return same;
}

static int aligned(const haste_layer *layer)
{
    int i, s, ok = (uintptr_t)layer->label_of % 64 == 0 && (uintptr_t)layer->slot_of % 64 == 0;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        ok = ok && (uintptr_t)b->index % 64 == 0 && (uintptr_t)b->weight % 64 == 0 && (uintptr_t)b->bias % 64 == 0;
        for (s = 0; s < 2; s++)
            ok = ok && (uintptr_t)b->weight_state[s] % 64 == 0 && (uintptr_t)b->bias_state[s] % 64 == 0;
    }
    return ok;
}

/* One step, of a sample with the label 0. */
static int trains(haste_layer *layer)
{
    static const int64_t offset[] = { 0, 1 };
    static const int32_t id[] = { 0 };
    const haste_lists positives = { offset, id };
    haste_workspace work;
    haste_step_options options;
    haste_status status;
    float *x = (float *)calloc((size_t)layer->inputs, sizeof *x);
    memset(&options, 0, sizeof options);
    options.lr = .5f;
    x[0] = 1;
    status = haste_workspace_create(&work, layer, NULL, &error);
    if (status == HASTE_OK) {
        status = haste_train_step(layer, &work, x, 1, &positives, &options, NULL, NULL, &error);
        haste_workspace_free(&work);
    }
    free(x);
    return status == HASTE_OK;
}

static void round_trip(void)
{
    int kind, optimizer, map;
    for (kind = 0; kind < 4; kind++) for (optimizer = 0; optimizer < 3; optimizer++) {
        haste_layer layer;
        make_layer(&layer, (haste_dtype)(kind & 1), (haste_dtype)(kind >> 1), (haste_optimizer)optimizer, 0);
        /* from the second on over a file */
        CHECK_STATUS(haste_save(path, &layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);
        CHECK(files_in_folder() == 1);
        for (map = 0; map < 2; map++) {
            haste_file file;
            int before = held;
            memset(&file, 0xee, sizeof file);
            CHECK_STATUS(haste_load(path, map, &file, &error), HASTE_OK, error);
            CHECK(same_layer(&layer, &file.layer, 1));
            CHECK(aligned(&file.layer));
            CHECK(file.layer.memory == NULL && file.mapped == (map && !haste__big_endian()) && file.section_count == 0);
            CHECK_STATUS(haste_layer_check(&file.layer, &error), HASTE_OK, error);
            if (!map) {   /* it may be trained: its memory is ours, and can be saved again */
                haste_file again;
                file.layer.block[0].bias[0] += 1;
                CHECK_STATUS(haste_save(path, &file.layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);
                file.layer.block[0].bias[0] -= 1;
                CHECK_STATUS(haste_load(path, 0, &again, &error), HASTE_OK, error);
                CHECK(!same_layer(&file.layer, &again.layer, 1));
                haste_file_free(&again);
                CHECK_STATUS(haste_save(path, &layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);
            } else {   /* training changes the copy in memory alone; a mapped file may be replaced while it is used */
                haste_file again;
                CHECK(trains(&file.layer));
                CHECK(memcmp(file.layer.block[0].bias, layer.block[0].bias, 16 * sizeof(float)) != 0);
                CHECK_STATUS(haste_load(path, 1, &again, &error), HASTE_OK, error);
                CHECK(same_layer(&layer, &again.layer, 1));
                CHECK_STATUS(haste_save(path, &again.layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);
                CHECK(same_layer(&layer, &again.layer, 1));
                haste_file_free(&again);
            }
            haste_file_free(&file);
            CHECK(file.memory == NULL && held == before);
            haste_file_free(&file);   /* twice does no harm */
        }
        haste_layer_free(&layer);
    }
    haste_file_free(NULL);
}

static void sections(void)
{
    haste_layer layer;
    haste_section section[HASTE_MAX_SECTIONS], many[HASTE_MAX_SECTIONS + 1];
    static unsigned char bytes[100000];
    haste_file file;
    int i, map;
    make_layer(&layer, HASTE_F32, HASTE_BF16, HASTE_ADAMW, 0);
    for (i = 0; i < (int)sizeof bytes; i++) bytes[i] = (unsigned char)check_random();
    memset(section, 'x', sizeof section);   /* what stands after the end of a name must not matter */
    for (i = 0; i < HASTE_MAX_SECTIONS; i++) {
        sprintf(section[i].name, "encoder.%d", i);
        section[i].data = bytes + i;
        section[i].bytes = (uint64_t)(i * i);
    }
    strcpy(section[1].name, "a name of 23 characters");
    section[0].data = NULL;                                     /* no bytes need no pointer */
    section[30].bytes = 16384 * 2;                              /* whole pieces; 31: one byte more, and odd */
    section[31].bytes = 16384 * 2 + 1;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, section, HASTE_MAX_SECTIONS, &error), HASTE_OK, error);
    for (map = 0; map < 2; map++) {
        CHECK_STATUS(haste_load(path, map, &file, &error), HASTE_OK, error);
        CHECK(same_layer(&layer, &file.layer, 1));
        CHECK(file.section_count == HASTE_MAX_SECTIONS);
        for (i = 0; i < HASTE_MAX_SECTIONS; i++) {
            const haste_section *s = haste_file_find(&file, section[i].name);
            CHECK(s && s == &file.section[i] && s->bytes == section[i].bytes && (uintptr_t)s->data % 64 == 0);
            if (s && s->bytes) CHECK(memcmp(s->data, section[i].data, (size_t)s->bytes) == 0);
        }
        CHECK(haste_file_find(&file, "encoder") == NULL && haste_file_find(&file, "") == NULL);
        CHECK(haste_file_find(&file, "haste.layer") == NULL && haste_file_find(&file, NULL) == NULL);
        CHECK(haste_file_find(NULL, "encoder.2") == NULL);
        haste_file_free(&file);
    }
    /* A section may come from a loaded file, and one whose bytes lie anywhere in memory. */
    CHECK_STATUS(haste_load(path, 1, &file, &error), HASTE_OK, error);
    CHECK_STATUS(haste_save(other, &file.layer, HASTE_F32, file.section, file.section_count, &error), HASTE_OK, error);
    {
        size_t a, b;
        unsigned char *one = read_all(path, &a), *two = read_all(other, &b);
        CHECK(a == b && memcmp(one, two, a) == 0);   /* the same layer gives the same bytes */
        free(one);
        free(two);
        remove(other);
    }
    haste_file_free(&file);

    memset(many, 0, sizeof many);
    for (i = 0; i <= HASTE_MAX_SECTIONS; i++) sprintf(many[i].name, "s%d", i);
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, HASTE_MAX_SECTIONS + 1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, -1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 1, &error), HASTE_ERR_ARG, error);
    strcpy(many[1].name, "s0");
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_ARG, error);
    CHECK(strstr(error.text, "comes twice") != NULL);
    strcpy(many[1].name, "haste.x");
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_ARG, error);
    strcpy(many[1].name, "");
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_ARG, error);
    memset(many[1].name, 'n', sizeof many[1].name);
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_ARG, error);
    strcpy(many[1].name, "s1");
    many[1].bytes = 1;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_ARG, error);
    many[1].data = bytes;
    many[1].bytes = UINT64_MAX - 10;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_SIZE, error);
    many[0].data = bytes;   /* too many together */
    for (i = 1; i <= 128; i++) {
        many[0].bytes = SIZE_MAX / 4;
        many[1].bytes = SIZE_MAX / 2 - SIZE_MAX / 4 - (uint64_t)i * 64;
        if (many[1].bytes + many[0].bytes < SIZE_MAX / 2 - 4096) break;
        CHECK_STATUS(haste_save(other, &layer, HASTE_F32, many, 2, &error), HASTE_ERR_SIZE, error);
    }
    CHECK(!exists(other));
    haste_layer_free(&layer);
}

static void export_bf16(void)
{
    haste_layer layer;
    haste_file file;
    haste_dtype unknown;
    int map, b, seven = 7;
    int64_t i, wrong = 0;
    make_layer(&layer, HASTE_F32, HASTE_BF16, HASTE_ADAMW, 0);
    /* 1 + 2^-8 lies half way between two: to the even one, 1; 1 + 3 * 2^-8 to 1 + 2^-6. */
    ((float *)layer.block[0].weight)[0] = 1.00390625f;
    ((float *)layer.block[0].weight)[1] = 1.01171875f;
    CHECK_STATUS(haste_save(path, &layer, HASTE_BF16, NULL, 0, &error), HASTE_OK, error);
    for (map = 0; map < 2; map++) {
        CHECK_STATUS(haste_load(path, map, &file, &error), HASTE_OK, error);
        CHECK(file.layer.dtype == HASTE_BF16 && file.layer.optimizer == HASTE_SGD);
        CHECK(file.layer.block[0].weight_state[0] == NULL);
        CHECK(same_layer(&layer, &file.layer, 0));
        CHECK(((uint16_t *)file.layer.block[0].weight)[0] == 0x3f80);
        CHECK(((uint16_t *)file.layer.block[0].weight)[1] == 0x3f82);
        for (b = 0; b < layer.block_count; b++) {
            const haste_block *block = &layer.block[b];
            const uint16_t *rounded = (const uint16_t *)file.layer.block[b].weight;
            for (i = 0; i < block->groups * block->fan_in * block->group_size; i++) {   /* at most half a step of 8 bits */
                double want = (double)((float *)block->weight)[i], got = (double)haste__from_bf16(rounded[i]);
                if (!(fabs(got - want) <= fabs(want) / 256)) wrong++;
            }
        }
        CHECK(wrong == 0);
        haste_file_free(&file);
    }
    /* A weight that bfloat16 would turn into infinity is refused, and the old file stays. */
    ((float *)layer.block[1].weight)[0] = FLT_MAX;
    CHECK_STATUS(haste_save(path, &layer, HASTE_BF16, NULL, 0, &error), HASTE_ERR_STATE, error);
    CHECK(files_in_folder() == 1);
    CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_OK, error);
    /* bfloat16 to float32 is no export. */
    CHECK_STATUS(haste_save(other, &file.layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_ARG, error);
    memcpy(&unknown, &seven, sizeof unknown);
    CHECK_STATUS(haste_save(other, &layer, unknown, NULL, 0, &error), HASTE_ERR_ARG, error);
    haste_file_free(&file);
    haste_layer_free(&layer);
}

/* Some steps of training and a rewire, on data that depend on `from` only. */
static void train(haste_layer *layer, int from, int steps)
{
    enum { B = 5, D = 70 };
    haste_workspace_options work_options;
    haste_workspace work;
    haste_step_options step;
    haste_rewire_options rewire;
    haste_lists positives;
    float x[B * D];
    int32_t id[2 * B];
    int64_t offset[B + 1];
    int i, t;
    memset(&work_options, 0, sizeof work_options);
    memset(&step, 0, sizeof step);
    memset(&rewire, 0, sizeof rewire);
    work_options.threads = 1;
    step.lr = .01f;
    step.weight_decay = .1f;
    rewire.share = .2f;
    if (haste_workspace_create(&work, layer, &work_options, &error)) { printf("%s\n", error.text); exit(1); }
    for (t = from; t < from + steps; t++) {
        check_seed = (uint64_t)t + 99;
        for (i = 0; i < B * D; i++) x[i] = check_normal();
        for (i = 0; i < 2 * B; i++) id[i] = (int32_t)(check_random() % (uint32_t)layer->labels);
        for (i = 0; i <= B; i++) offset[i] = 2 * i;
        positives = lists(offset, id);
        CHECK_STATUS(haste_train_step(layer, &work, x, B, &positives, &step, NULL, NULL, &error), HASTE_OK, error);
        if (t % 3 == 2) CHECK_STATUS(haste_rewire(layer, &work, &rewire, NULL, 0, NULL, NULL, &error), HASTE_OK, error);
    }
    haste_workspace_free(&work);
}

/* Training that was saved and loaded half way gives the bits of training that was not. */
static void resume(void)
{
    int kind, optimizer;
    for (kind = 0; kind < 4; kind++) for (optimizer = 0; optimizer < 3; optimizer++) {
        haste_layer layer;
        haste_file file;
        make_layer(&layer, (haste_dtype)(kind & 1), (haste_dtype)(kind >> 1), (haste_optimizer)optimizer, 0);
        layer.step = 0;
        train(&layer, 0, 4);
        CHECK_STATUS(haste_save(path, &layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);
        train(&layer, 4, 4);
        CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_OK, error);
        CHECK(!same_layer(&layer, &file.layer, 1));
        train(&file.layer, 4, 4);
        CHECK(file.layer.step == 8 && same_layer(&layer, &file.layer, 1));
        haste_file_free(&file);
        haste_layer_free(&layer);
    }
}

/* Loads `data`; HASTE_ERR_FORMAT, or the same layer as `want` if that is given, and nothing stays allocated. From memory,
   in place or not, it is the same, with the same reason. */
static int refused(const unsigned char *data, size_t bytes, int map, const haste_layer *want)
{
    haste_file file;
    haste_status status, again;
    haste_error why;
    unsigned char *memory = (unsigned char *)malloc(bytes + 64), *at = memory + (64 - (uintptr_t)memory % 64);
    int before = held, ok;
    if (!memory) exit(1);
    memcpy(at, data, bytes);
    again = haste_load_memory(at, bytes, map, &file, &why);
    if (again == HASTE_OK) {
        ok = want && same_layer(&file.layer, want, !map);
        haste_file_free(&file);
    } else ok = again == HASTE_ERR_FORMAT && strncmp(why.text, "the memory", 10) == 0;
    ok = ok && memcmp(at, data, bytes) == 0;
    free(memory);
    write_all(other, data, bytes);
    status = haste_load(other, map, &file, &error);
    if (status == HASTE_OK) {
        ok = ok && want && same_layer(&file.layer, want, !map);
        haste_file_free(&file);
    } else ok = ok && status == HASTE_ERR_FORMAT && strcmp(error.text + strlen(other), why.text + 10) == 0;
    if (!ok || again != status)
        printf("    status %d: %s; of memory %d: %s\n", (int)status, error.text, (int)again, why.text);
    return ok && again == status && held == before;
}

/* A model in memory has the bytes of the file, wherever it is written, and loads wherever it lies. */
static void in_memory(void)
{
    static const char words[] = "one two three";
    haste_layer layer;
    haste_section section[2];
    int kind, optimizer, i;
    memset(section, 0, sizeof section);
    strcpy(section[0].name, "words");
    section[0].data = words;
    section[0].bytes = 13;
    strcpy(section[1].name, "empty");
    for (kind = 0; kind < 5; kind++) for (optimizer = 0; optimizer < 3; optimizer++) {
        const haste_dtype dtype = kind == 4 ? HASTE_BF16 : (haste_dtype)(kind & 1);   /* 4: float32 as bfloat16 */
        const int count = (kind + optimizer) % 3;
        unsigned char *data, *memory, *at;
        size_t bytes, needed = 7, j;
        haste_file file, untouched;
        make_layer(&layer, kind == 4 ? HASTE_F32 : dtype, (haste_dtype)(kind >> 1 & 1), (haste_optimizer)optimizer, kind % 2);
        CHECK_STATUS(haste_save(path, &layer, dtype, section, count, &error), HASTE_OK, error);
        data = read_all(path, &bytes);
        memory = (unsigned char *)malloc(bytes + 256);
        if (!memory) exit(1);
        at = memory + 64 + (64 - (uintptr_t)memory % 64);
        allocations = 0;

        /* The size first; one byte too few writes nothing. */
        memset(memory, 0x5a, bytes + 256);
        CHECK_STATUS(haste_save_memory(NULL, 0, &layer, dtype, section, count, &needed, &error), HASTE_ERR_SIZE, error);
        CHECK(needed == bytes && strstr(error.text, "capacity") != NULL);
        needed = 7;
        CHECK_STATUS(haste_save_memory(at, bytes - 1, &layer, dtype, section, count, &needed, &error), HASTE_ERR_SIZE,
                     error);
        CHECK(needed == bytes && at[0] == 0x5a && at[bytes - 2] == 0x5a);
        for (i = 0; i < 3; i++) {   /* anywhere in memory, and nothing around it */
            static const size_t shift[3] = { 0, 1, 60 };
            memset(memory, 0x5a, bytes + 256);
            CHECK_STATUS(haste_save_memory(at + shift[i], bytes + (size_t)i, &layer, dtype, section, count, &needed, &error),
                         HASTE_OK, error);
            CHECK(needed == bytes && memcmp(at + shift[i], data, bytes) == 0);
            CHECK(at[shift[i] - 1] == 0x5a && at[shift[i] + bytes] == 0x5a);
        }
        CHECK(allocations == 0);

        /* As a file, by its mapping; as memory, from a file. */
        write_all(other, at + 60, bytes);
        CHECK_STATUS(haste_load(other, kind & 1, &file, &error), HASTE_OK, error);
        CHECK(same_layer(&layer, &file.layer, kind < 4) && file.section_count == count);
        haste_file_free(&file);
        memset(&untouched, 0x5a, sizeof untouched);
        for (i = 0; i < 4; i++) {   /* 0, 1: copied, from two places; 2: in place; 3: in place, where it cannot be */
            const int in_place = i > 1, before = held;
            unsigned char *from = at + (i == 1 ? 3 : i == 3 ? 32 : 0);
            memcpy(from, data, bytes);
            memcpy(&file, &untouched, sizeof file);
            if (i == 3) {
                CHECK_STATUS(haste_load_memory(from, bytes, 1, &file, &error), HASTE_ERR_ARG, error);
                CHECK(strstr(error.text, "32 bytes behind") != NULL && memcmp(&file, &untouched, sizeof file) == 0);
                continue;
            }
            CHECK_STATUS(haste_load_memory(from, bytes, in_place, &file, &error), HASTE_OK, error);
            CHECK(same_layer(&layer, &file.layer, kind < 4) && aligned(&file.layer));
            CHECK(file.section_count == count && file.bytes == bytes);
            if (count) CHECK(memcmp(haste_file_find(&file, "words")->data, words, 13) == 0);
            CHECK_STATUS(haste_file_check(&file, &error), HASTE_OK, error);
            CHECK(haste__big_endian() || (file.memory == (void *)from) == in_place);
            CHECK(haste__big_endian() || held == before + !in_place);
            CHECK(trains(&file.layer));
            CHECK(haste__big_endian() || (memcmp(from, data, bytes) != 0) == in_place);
            haste_file_free(&file);
            CHECK(held == before && file.memory == NULL);
            haste_file_free(&file);
        }
        /* What lies in place is saved again, and what is cut or changed refused. */
        memcpy(at, data, bytes);
        CHECK_STATUS(haste_load_memory(at, bytes, 1, &file, &error), HASTE_OK, error);
        CHECK_STATUS(haste_save(other, &file.layer, dtype, file.section, file.section_count, &error), HASTE_OK, error);
        haste_file_free(&file);
        free(data);
        data = read_all(other, &j);
        CHECK(j == bytes && memcmp(at, data, bytes) == 0);
        for (j = 0; j < bytes; j += 1 + bytes / 50) CHECK(refused(data, j, (int)(j & 1), NULL));
        remove(other);

        memcpy(&file, &untouched, sizeof file);
        fail_at = 0;
        allocations = 0;
        CHECK_STATUS(haste_load_memory(at, bytes, 0, &file, &error), HASTE_ERR_MEMORY, error);
        fail_at = -1;
        CHECK_STATUS(haste_load_memory(NULL, bytes, 0, &file, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_load_memory(at, bytes, 2, &file, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_load_memory(at, bytes, 0, NULL, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_load_memory(at, bytes, -1, &file, NULL), HASTE_ERR_ARG, error);
        CHECK(memcmp(&file, &untouched, sizeof file) == 0);
        memset(memory, 0x5a, bytes + 256);
        needed = 7;
        CHECK_STATUS(haste_save_memory(at, bytes, &layer, dtype, section, count, NULL, &error), HASTE_ERR_ARG, error);
        CHECK(strstr(error.text, "needed") != NULL);
        CHECK_STATUS(haste_save_memory(NULL, bytes, &layer, dtype, section, count, &needed, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_save_memory(at, bytes, NULL, dtype, section, count, &needed, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_save_memory(at, bytes, &layer, dtype, section, -1, &needed, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_save_memory(at, bytes, &layer, dtype, NULL, 1, &needed, &error), HASTE_ERR_ARG, error);
        if (kind == 4) {   /* the last weight of all, seen before the first byte is written */
            const haste_block *b = &layer.block[2];
            ((float *)b->weight)[(b->groups - 1) * b->fan_in * b->group_size] = FLT_MAX;
            CHECK_STATUS(haste_save_memory(at, bytes, &layer, dtype, section, count, &needed, &error), HASTE_ERR_STATE, error);
            CHECK(strstr(error.text, "block[2].weight") != NULL);
        }
        layer.block[0].bias[0] = INFINITY;
        CHECK_STATUS(haste_save_memory(at, bytes, &layer, dtype, section, count, &needed, &error), HASTE_ERR_STATE, error);
        for (j = 0; j < bytes + 256; j++) if (memory[j] != 0x5a) break;
        CHECK(needed == 7 && j == bytes + 256);
        free(data);
        free(memory);
        haste_layer_free(&layer);
    }
}

static void damaged(void)
{
    haste_layer layer;
    haste_section section[2];
    haste_file file;
    unsigned char *data, *grown;
    size_t bytes, i;
    int map, bad[2] = { 0, 0 };
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_MOMENTUM, 1);
    memset(section, 0, sizeof section);
    strcpy(section[0].name, "words");
    section[0].data = "one two three";
    section[0].bytes = 13;
    strcpy(section[1].name, "empty");
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, section, 2, &error), HASTE_OK, error);
    data = read_all(path, &bytes);
    CHECK(bytes % 64 == 0 && bytes < 12000);
    grown = (unsigned char *)calloc(1, bytes + 200);
    if (!grown) exit(1);
    memcpy(grown, data, bytes);

    /* Each byte changed: read mode sees every one. A mapped file may not notice what happens to weights, but nothing
       else. */
    for (i = 0; i < bytes; i++) {
        int flip;
        for (flip = 1; flip < 256; flip *= 255) {
            data[i] = (unsigned char)(data[i] ^ flip);
            bad[0] += !refused(data, bytes, 0, NULL);
            bad[1] += !refused(data, bytes, 1, &layer);
            data[i] = (unsigned char)(data[i] ^ flip);
        }
    }
    CHECK(bad[0] == 0 && bad[1] == 0);
    for (map = 0; map < 2; map++) {
        for (i = 0; i < bytes; i++) bad[map] += !refused(data, i, map, NULL);
        for (i = 1; i <= 200; i++) bad[map] += !refused(grown, bytes + i, map, NULL);
        CHECK(bad[map] == 0);
        write_all(other, data, bytes);   /* the undamaged file is not refused */
        CHECK_STATUS(haste_load(other, map, &file, &error), HASTE_OK, error);
        haste_file_free(&file);
    }
    remove(other);
    free(data);
    free(grown);
    haste_layer_free(&layer);
}

/* A number of the file: little-endian everywhere. */
static uint64_t number(const unsigned char *data, size_t at, int bytes)
{
    uint64_t value = 0;
    while (bytes-- > 0) value = value << 8 | data[at + (size_t)bytes];
    return value;
}

static void set_number(unsigned char *data, size_t at, int bytes, uint64_t value)
{
    for (; bytes-- > 0; value >>= 8) data[at++] = (unsigned char)(value & 255);
}

/* Every checksum made right again: what is left to stop a hostile file are the checks of the contents. */
static void reseal(unsigned char *data, size_t bytes)
{
    uint64_t header = number(data, 24, 8), i;
    uint64_t count = number(data, 32, 4);
    if (header < 64 || header > bytes) return;
    for (i = 0; i < count && 64 + 48 * (i + 1) <= header; i++) {
        size_t at = (size_t)(64 + 48 * i);
        haste__entry entry;
        memset(&entry, 0, sizeof entry);
        entry.offset = number(data, at + 24, 8);
        entry.bytes = number(data, at + 32, 8);
        if (entry.offset > bytes || entry.bytes > bytes - entry.offset) continue;
        entry.data = data + entry.offset;
        entry.width = 1;
        set_number(data, at + 40, 8, haste__checksum_section(&entry));
    }
    set_number(data, 56, 8, haste__checksum_header(data, (size_t)header));
}

/* Reads all that a prediction would read; 0 where an id or an input is out of range. */
static int usable(const haste_layer *layer)
{
    volatile float last = 0;
    int i;
    int64_t g, f, s;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        for (g = 0; g < b->groups; g++) for (f = 0; f < b->fan_in; f++) {
            int input = b->begin + (b->index ? b->index[g * b->fan_in + f] : (int)f);
            if (input >= b->end || b->end > layer->inputs) return 0;
            for (s = 0; s < b->group_size; s++) {
                int32_t id = layer->label_of[b->first_slot + g * b->group_size + s];
                if (id < -1 || id >= layer->labels) return 0;
                last = haste__number(b->weight, layer->dtype, (size_t)((g * b->fan_in + f) * b->group_size + s));
                last += b->bias[g * b->group_size + s];
            }
        }
    }
    (void)last;
    return 1;
}

static void hostile(void)
{
    haste_layer layer;
    haste_section section;
    unsigned char *good, *data;
    size_t bytes, i;
    int round, loaded = 0, wrong = 0;
    uint64_t offset;
    make_layer(&layer, HASTE_BF16, HASTE_F32, HASTE_ADAMW, 1);
    memset(&section, 0, sizeof section);
    strcpy(section.name, "words");
    section.data = "one two three";
    section.bytes = 13;
    CHECK_STATUS(haste_save(path, &layer, HASTE_BF16, &section, 1, &error), HASTE_OK, error);
    good = read_all(path, &bytes);
    data = (unsigned char *)malloc(bytes);
    if (!data) exit(1);
    memcpy(data, good, bytes);
    reseal(data, bytes);
    CHECK(memcmp(data, good, bytes) == 0);
    offset = number(good, 64 + 24, 8);   /* of haste.layer */
    for (round = 0; round < 12000; round++) {
        static const uint64_t nasty[] = { 0, 1, 7, 0x7fffffff, 0x80000000u, 0xffffffffu, UINT64_C(0x100000000),
                                          UINT64_C(0x4000000000000000), UINT64_C(0x7fffffffffffffff),
                                          UINT64_C(0x8000000000000000), UINT64_MAX, UINT64_MAX - 63 };
        int changes = 1 + (int)(check_random() % 3), map = round & 1;
        haste_file file;
        haste_status status;
        memcpy(data, good, bytes);
        while (changes-- > 0) {
            size_t at, span = round % 3 == 0 ? bytes : round % 3 == 1 ? (size_t)offset : 64 + 96;
            uint64_t value = nasty[check_random() % 12];
            at = (round % 3 == 2 ? (size_t)offset : 0) + check_random() % (span - 8);
            if (check_random() % 2) at = at / 4 * 4;
            if (check_random() % 4 == 0) value = number(data, at, 8) + (uint64_t)check_random() % 9 - 4;
            set_number(data, at, check_random() % 2 ? 8 : 4, value);
        }
        reseal(data, bytes);
        write_all(other, data, bytes);
        status = haste_load(other, map, &file, &error);
        if (status == HASTE_OK) {
            loaded++;
            if (!usable(&file.layer)) wrong++;
            if (!map && haste_layer_check(&file.layer, &error)) wrong++;
            haste_file_free(&file);
        } else if (status != HASTE_ERR_FORMAT) { wrong++; printf("    status %d: %s\n", (int)status, error.text); }
    }
    CHECK(wrong == 0 && loaded > 0);   /* a changed seed or weight is a good file */

    /* One defect each, the rest right. */
    for (i = 0; i < 6; i++) {
        size_t at[8], k;
        memcpy(data, good, bytes);
        for (k = 0; k < 8; k++) at[k] = (size_t)number(good, 64 + 48 * k + 24, 8);
        /* 0 layer, 1 label_of, 2 slot_of, 3 block 0's weight, 4 bias, 5, 6 state 0 */
        if (i == 0) set_number(data, at[1], 4, UINT32_MAX);                            /* a slot without its label */
        if (i == 1) set_number(data, at[1] + 4, 4, number(data, at[1], 4));             /* a label twice */
        if (i == 2) set_number(data, at[2], 4, UINT32_MAX);
        if (i == 3) set_number(data, at[1], 4, 21);                                    /* a label that there is not */
        if (i == 4) set_number(data, at[3], 2, 0x7fc0);                                /* NaN as a weight */
        if (i == 5) set_number(data, at[3] + 14, 2, 0x3f80);                           /* a weight in the padding */
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL));
        CHECK(error.text[0] && (i >= 4 || refused(data, bytes, 1, NULL)));
    }
    /* The reserved words of haste.layer: of the whole, and of each of the two blocks; step and rewires past 2^62. */
    for (i = 0; i < 5; i++) {
        static const size_t at[5] = { 60, 64 + 44, 64 + 48 + 44, 40, 48 };
        memcpy(data, good, bytes);
        CHECK(number(data, (size_t)offset + at[i], 4) == (i < 3 ? 0u : number(good, (size_t)offset + at[i], 4)));
        if (i < 3) set_number(data, (size_t)offset + at[i], 4, 1);
        else set_number(data, (size_t)offset + at[i], 8, (UINT64_C(1) << 62) + 1);
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL) && refused(data, bytes, 1, NULL));
    }
    for (i = 0; i < 2; i++) {   /* the mark of a dense block: neither 0 nor 1 */
        memcpy(data, good, bytes);
        CHECK(number(data, (size_t)offset + 64 + 40, 4) == 1);
        set_number(data, (size_t)offset + 64 + 40, 4, i ? UINT32_MAX : 2);
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL) && refused(data, bytes, 1, NULL));
    }
    /* Each section one byte shorter than the layer needs, where that shifts nothing. */
    for (i = 0; i < 11; i++) {
        memcpy(data, good, bytes);
        set_number(data, 64 + 48 * i + 32, 8, number(data, 64 + 48 * i + 32, 8) - 1);
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL) && refused(data, bytes, 1, NULL));
    }
    {   /* 64 more zeros that the header knows of and no section has */
        uint64_t longer = bytes + 64;
        unsigned char *grown = (unsigned char *)calloc(1, (size_t)longer);
        if (!grown) exit(1);
        memcpy(grown, good, bytes);
        set_number(grown, 16, 8, longer);
        reseal(grown, (size_t)longer);
        CHECK(refused(grown, (size_t)longer, 0, NULL) && refused(grown, (size_t)longer, 1, NULL));
        free(grown);
    }
    remove(other);
    free(good);
    free(data);
    haste_layer_free(&layer);
}

static void header_errors(void)
{
    static const char *const texts[4] = { "not a haste model file", "haste 0.1", "version 0", "bytes" };
    static const size_t places[4] = { 0, 8, 12, 16 };
    haste_layer layer;
    unsigned char *data;
    size_t bytes;
    int i;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_SGD, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    data = read_all(path, &bytes);
    CHECK(memcmp(data, "HASTE\r\n\x1a\x04\x03\x02\x01\x02\0\0", 16) == 0);
    for (i = 0; i < 4; i++) {
        const uint32_t old = (uint32_t)number(data, places[i], 4);
        /* the other byte order; no version 0 */
        set_number(data, places[i], 4, i == 1 ? 0x04030201 : i == 2 ? 0 : old + 1);
        CHECK(refused(data, bytes, i & 1, NULL));
        CHECK(strstr(error.text, texts[i]) != NULL);
        set_number(data, places[i], 4, old);
    }
    write_all(other, (const unsigned char *)"", 0);
    for (i = 0; i < 2; i++) CHECK(refused((const unsigned char *)"", 0, i, NULL));
    remove(other);
    free(data);
    haste_layer_free(&layer);
}

/* The bytes of a file are the same on every machine. */
static void same_everywhere(void)
{
    haste_layer layer;
    haste_section section;
    unsigned char *data;
    size_t bytes, i;
    uint64_t hash[2];
    int kind;
    memset(&section, 0, sizeof section);
    strcpy(section.name, "words");
    section.data = "one two three";
    section.bytes = 13;
    for (kind = 0; kind < 2; kind++) {
        check_seed = 7;
        make_layer(&layer, kind ? HASTE_BF16 : HASTE_F32, kind ? HASTE_F32 : HASTE_BF16, HASTE_ADAMW, 1);
        CHECK_STATUS(haste_save(path, &layer, layer.dtype, &section, 1, &error), HASTE_OK, error);
        data = read_all(path, &bytes);
        hash[kind] = UINT64_C(14695981039346656037);
        for (i = 0; i < bytes; i++) hash[kind] = (hash[kind] ^ data[i]) * UINT64_C(1099511628211);
        free(data);
        haste_layer_free(&layer);
    }
    if (!CHECK(hash[0] == UINT64_C(0x3d12a3bec13683c9) && hash[1] == UINT64_C(0x689afc0873df863e)))
        printf("    %016llx %016llx\n", (unsigned long long)hash[0], (unsigned long long)hash[1]);
}

/* What later versions may write, and what they may not: a reader that does not know it refuses it. */
static void versions(void)
{
    haste_layer layer;
    haste_section section[HASTE_MAX_SECTIONS + 1];
    haste_file file;
    haste__entry table[HASTE__FILE_TABLE];
    unsigned char *good, *data, scalars[HASTE__FILE_LAYER];
    size_t bytes, i;
    uint64_t file_bytes;
    int map, count;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_SGD, 1);
    memset(section, 0, sizeof section);
    strcpy(section[0].name, "newer.note");   /* becomes haste.note */
    section[0].data = "of a later version";
    section[0].bytes = 18;
    strcpy(section[1].name, "words");
    section[1].data = "one two three";
    section[1].bytes = 13;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, section, 2, &error), HASTE_OK, error);
    good = read_all(path, &bytes);
    data = (unsigned char *)malloc(bytes);
    if (!data) exit(1);
    CHECK(number(good, 12, 4) == 2 && number(good, 36, 4) == 2 && number(good, 40, 8) == 0 && number(good, 48, 8) == 0);

    for (map = 0; map < 2; map++) {
        /* A feature, any of 64, and a lowest version above this one. */
        for (i = 0; i < 65; i++) {
            memcpy(data, good, bytes);
            if (i < 64) set_number(data, 40, 8, UINT64_C(1) << i); else set_number(data, 36, 4, 3);
            reseal(data, bytes);
            CHECK(refused(data, bytes, map, NULL) && strstr(error.text, "newer haste") != NULL);
        }
        for (i = 48; i < 56; i++) {   /* reserved */
            memcpy(data, good, bytes);
            data[i] = 7;
            reseal(data, bytes);
            CHECK(refused(data, bytes, map, NULL) && strstr(error.text, "reserved") != NULL);
        }
        /* What follows the end of a name, and the table. */
        for (i = 0; i < 3; i++) {
            memcpy(data, good, bytes);
            data[i == 0 ? 64 + 12 : i == 1 ? 64 + 23 : (size_t)number(good, 24, 8) - 1] = 1;
            reseal(data, bytes);
            CHECK((i < 2 || (64 + 48 * number(good, 32, 4)) % 64 != 0) && refused(data, bytes, map, NULL));
        }
        /* A later version that this one may read, with a section of its own: passed over there, refused in version 2. */
        for (i = 1; i < 5; i++) {
            memcpy(data, good, bytes);
            set_number(data, 12, 4, i);
            if (i == 1) set_number(data, 36, 4, 0);
            for (count = 0; (uint64_t)count < number(data, 32, 4); count++)
                if (i != 1 && strcmp((char *)data + 64 + 48 * count, "newer.note") == 0)
                    memcpy(data + 64 + 48 * count, "haste.note", 10);
            reseal(data, bytes);
            if (i == 2) { CHECK(refused(data, bytes, map, NULL) && strstr(error.text, "haste.") != NULL); continue; }
            write_all(other, data, bytes);
            CHECK_STATUS(haste_load(other, map, &file, &error), HASTE_OK, error);
            CHECK(file.section_count == (i == 1 ? 2 : 1) && haste_file_find(&file, "words") != NULL);
            CHECK(haste_file_find(&file, "haste.note") == NULL && same_layer(&layer, &file.layer, 1));
            CHECK_STATUS(haste_file_check(&file, &error), HASTE_OK, error);
            haste_file_free(&file);
        }
    }
    free(good);
    free(data);

    /* One section more than a reader has room for. */
    for (i = 0; i <= HASTE_MAX_SECTIONS; i++) {
        sprintf(section[i].name, "s%d", (int)i);
        section[i].bytes = 0;
    }
    for (i = HASTE_MAX_SECTIONS; i <= HASTE_MAX_SECTIONS + 1; i++) {
        haste__sink sink = { fopen(other, "wb"), NULL };
        CHECK(haste__save_table(&layer, HASTE_F32, section, (int32_t)i, scalars, table, &count, &file_bytes, &error) == 0);
        CHECK(sink.out && haste__file_write_all(sink, table, count, file_bytes) == 0 && fclose(sink.out) == 0);
        for (map = 0; map < 2; map++) {
            const int fits = i == HASTE_MAX_SECTIONS;
            CHECK_STATUS(haste_load(other, map, &file, &error), fits ? HASTE_OK : HASTE_ERR_FORMAT, error);
            if (fits) haste_file_free(&file);
            else CHECK(strstr(error.text, "more than 32 sections") != NULL);
        }
    }
    /* A block that says it is dense, without an index, and reads only some inputs of its slice. */
    layer.block[1].index = NULL;
    for (map = 0; map < 2; map++) {
        haste__sink sink = { fopen(other, "wb"), NULL };
        CHECK(haste__save_table(&layer, HASTE_F32, NULL, 0, scalars, table, &count, &file_bytes, &error) == 0);
        CHECK(sink.out && haste__file_write_all(sink, table, count, file_bytes) == 0 && fclose(sink.out) == 0);
        CHECK_STATUS(haste_load(other, map, &file, &error), HASTE_ERR_FORMAT, error);
        CHECK(strstr(error.text, "dense") != NULL);
    }
    remove(other);
    haste_layer_free(&layer);
}

/* haste_file_check sees what a mapped file's loading does not. */
static void file_check(void)
{
    haste_layer layer;
    haste_file file, empty;
    unsigned char *data;
    size_t bytes, i, unseen = 0, late = 0;
    int map;
    make_layer(&layer, HASTE_F32, HASTE_BF16, HASTE_ADAMW, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    for (map = 0; map < 2; map++) {
        CHECK_STATUS(haste_load(path, map, &file, &error), HASTE_OK, error);
        CHECK_STATUS(haste_file_check(&file, &error), HASTE_OK, error);
        CHECK_STATUS(haste_file_check(&file, NULL), HASTE_OK, error);
        ((float *)file.layer.block[1].weight)[0] *= -1;   /* no longer what the checksums say */
        CHECK_STATUS(haste_file_check(&file, &error), HASTE_ERR_FORMAT, error);
        CHECK(strstr(error.text, "haste.1.weight ") != NULL);
        CHECK_STATUS(haste_file_check(&file, NULL), HASTE_ERR_FORMAT, error);
        haste_file_free(&file);
    }
    data = read_all(path, &bytes);
    for (i = 0; i < bytes; i++) {   /* no damage is left that neither call sees; the check is needed for all weights */
        data[i] ^= 1;
        write_all(other, data, bytes);
        data[i] ^= 1;
        if (haste_load(other, 1, &file, &error) == HASTE_OK) {
            late++;
            if (haste_file_check(&file, &error) != HASTE_ERR_FORMAT || !strstr(error.text, ".weight")) unseen++;
            haste_file_free(&file);
        }
    }
    CHECK(unseen == 0);
    /* 96 + 192 bytes of weights, 48 + 96 of each state, and what fills up to 64 */
    CHECK(haste__big_endian() ? late == 0 : late == 704);
    /* Right checksums do not help what haste_layer_check refuses. */
    for (i = 0; strcmp((char *)data + 64 + 48 * i, "haste.1.weight") != 0; i++) { }
    set_number(data, (size_t)number(data, 64 + 48 * i + 24, 8), 4, 0x7fc00000);
    reseal(data, bytes);
    write_all(other, data, bytes);
    CHECK_STATUS(haste_load(other, 0, &file, &error), HASTE_ERR_FORMAT, error);
    if (!haste__big_endian()) {
        CHECK_STATUS(haste_load(other, 1, &file, &error), HASTE_OK, error);
        CHECK_STATUS(haste_file_check(&file, &error), HASTE_ERR_FORMAT, error);
        CHECK(strstr(error.text, "block[1]") != NULL);
        haste_file_free(&file);
    }
    remove(other);
    free(data);
    memset(&empty, 0, sizeof empty);
    CHECK_STATUS(haste_file_check(NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_file_check(&empty, &error), HASTE_ERR_ARG, error);
    haste_layer_free(&layer);
}

/* Saves that fail part of the way: the old file is whole, no temporary file stays. */
static void failing_writes(void)
{
    haste_layer layer, changed;
    haste_file file;
    struct rlimit old, limit;
    char name[200], long_path[400];
    size_t bytes, k;
    unsigned char *before = NULL, *after;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_ADAMW, 0);
    make_layer(&changed, HASTE_F32, HASTE_F32, HASTE_ADAMW, 0);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    before = read_all(path, &bytes);
    CHECK(files_in_folder() == 1);

    signal(SIGXFSZ, SIG_IGN);   /* a full disk, as good as: writes past the limit fail */
    getrlimit(RLIMIT_FSIZE, &old);
    for (k = 0; k < 12; k++) {
        size_t length;
        limit = old;
        limit.rlim_cur = (rlim_t)(k < 11 ? bytes * k / 11 : bytes - 1);
        setrlimit(RLIMIT_FSIZE, &limit);
        CHECK_STATUS(haste_save(path, &changed, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK(strstr(error.text, path) != NULL);
        CHECK(files_in_folder() == 1);
        after = read_all(path, &length);
        CHECK(length == bytes && memcmp(before, after, bytes) == 0);
        free(after);
    }
    signal(SIGXFSZ, SIG_DFL);
    free(before);

    sprintf(name, "%s/missing/model", folder);
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, name) && strstr(error.text, "no such file"));
    CHECK_STATUS(haste_load(name, 0, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, name) && strstr(error.text, "no such file"));
    CHECK_STATUS(haste_load(name, 1, &file, &error), HASTE_ERR_FILE, error);
    sprintf(name, "%s/folder", folder);
    CHECK(mkdir(name, 0700) == 0);
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK_STATUS(haste_load(name, 0, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "it is a directory") != NULL);
    CHECK_STATUS(haste_load(name, 1, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "it is a directory") != NULL);
    CHECK(rmdir(name) == 0);
    CHECK(files_in_folder() == 1);
    sprintf(name, "%s/model/below", folder);   /* a file where a folder is expected */
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);

    /* Long paths: the reason still fits into the message. */
    memset(long_path, 'a', sizeof long_path);
    long_path[sizeof long_path - 1] = 0;
    CHECK_STATUS(haste_save(long_path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "too long") != NULL);
    CHECK_STATUS(haste_load(long_path, 1, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "too long") != NULL);
    haste_layer_free(&layer);
    haste_layer_free(&changed);
}

/* ---- what stands at the path, and beside it ------------------------------------------------------------------- */

/* A layer whose file can be told from others: by its step. */
static void make_numbered(haste_layer *layer, int64_t step)
{
    make_layer(layer, HASTE_F32, HASTE_F32, HASTE_SGD, 1);
    layer->step = step;
}

/* The step of the model at a path; -1 where none can be loaded. */
static int64_t step_at(const char *name)
{
    haste_file file;
    int64_t step;
    if (haste_load(name, 0, &file, &error)) return -1;
    step = file.layer.step;
    haste_file_free(&file);
    return step;
}

static unsigned mode_of(const char *name)
{
    struct stat s;
    return stat(name, &s) == 0 ? (unsigned)s.st_mode & 07777u : 0;
}

static const char *temporary(const char *of, int number_of_it)
{
    static char name[300];
    sprintf(name, "%s.tmp-haste%02d", of, number_of_it);
    return name;
}

/* Nodes are made in a folder of our own: no test may write to a device of the machine. */
static void special_files(void)
{
    static const char *const words[5] = { "a directory", "a FIFO", "a socket", "a device", "a device" };
    haste_layer layer;
    haste_file file;
    char node[200], link_to_it[200];
    int i, map, links, made;
    make_numbered(&layer, 1);
    sprintf(node, "%s/node", folder);
    sprintf(link_to_it, "%s/link", folder);
    remove(path);
    alarm(60);   /* opening a FIFO would wait for ever */
    for (i = 0; i < 5; i++) {
        struct stat before, after;
        if (i == 0) made = mkdir(node, 0755) == 0;
        else if (i == 1) made = mkfifo(node, 0644) == 0;
        else if (i == 2) {
            struct sockaddr_un address;
            int s = socket(AF_UNIX, SOCK_STREAM, 0);
            memset(&address, 0, sizeof address);
            address.sun_family = AF_UNIX;
            strcpy(address.sun_path, node);
            made = s >= 0 && bind(s, (struct sockaddr *)&address, sizeof address) == 0;
            if (s >= 0) close(s);
        } else {   /* for root: like /dev/null, and one that no driver has */
            mode_t kind = i == 3 ? S_IFCHR : S_IFBLK;
            made = mknod(node, kind | 0600, (dev_t)(i == 3 ? 0x103 : 0xf000)) == 0;
        }
        if (!made) { CHECK(i >= 3); continue; }
        CHECK(lstat(node, &before) == 0 && symlink("node", link_to_it) == 0);
        for (links = 0; links < 2; links++) {
            const char *name = links ? link_to_it : node;
            CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
            CHECK(strstr(error.text, words[i]) && strstr(error.text, name));
            for (map = 0; map < 2; map++) {
                CHECK_STATUS(haste_load(name, map, &file, &error), HASTE_ERR_FILE, error);
                CHECK(strstr(error.text, words[i]) && strstr(error.text, name));
            }
        }
        CHECK(lstat(node, &after) == 0 && before.st_ino == after.st_ino && before.st_mode == after.st_mode);
        CHECK(files_in_folder() == 2);
        CHECK(remove(link_to_it) == 0 && remove(node) == 0);
    }
    alarm(0);
    haste_layer_free(&layer);
}

static unsigned seen_mode;
static void look_at_mode(void) { seen_mode = mode_of(temporary(path, 0)); }

static void modes(void)
{
    static const unsigned kept[6] = { 0600, 0640, 0444, 0604, 0755, 0666 };
    const mode_t old_mask = umask(022);
    haste_layer layer;
    struct stat s;
    int i;
    make_numbered(&layer, 1);
    for (i = 0; i < 2; i++) {   /* a new file has what the umask leaves */
        umask(i ? 077 : 022);
        remove(path);
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(mode_of(path) == (i ? 0600u : 0644u));
    }
    umask(022);
    for (i = 0; i < 6; i++) {
        CHECK(chmod(path, (mode_t)kept[i]) == 0);
        layer.step = i;
        during_fsync = look_at_mode;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(mode_of(path) == kept[i] && seen_mode == 0600 && step_at(path) == i);
        CHECK((first_mode & 077) == 0);   /* while it is written it is the saver's alone, so that he can remove an orphan */
    }
    if (geteuid() == 0) {
        /* Who may give files away keeps the owner; who may not leaves a group no more rights than all have. */
        int status = 0;
        pid_t child;
        CHECK(chown(path, 1234, 4321) == 0 && chmod(path, 0664) == 0 && chmod(folder, 0777) == 0);
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(stat(path, &s) == 0 && s.st_uid == 1234 && s.st_gid == 4321 && (s.st_mode & 0777) == 0664);
        child = fork();
        if (child == 0) _exit(setgid(65534) || setuid(65534) || haste_save(path, &layer, HASTE_F32, NULL, 0, &error));
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(stat(path, &s) == 0 && s.st_uid == 65534 && s.st_gid == 65534 && (s.st_mode & 0777) == 0644);
        CHECK(chmod(folder, 0700) == 0 && remove(path) == 0);
    }
    umask(old_mask);
    haste_layer_free(&layer);
}

static char far_folder[100];
static int  seen_beside;
static void look_beside(void)
{
    char name[200];
    sprintf(name, "%s/real", far_folder);
    seen_beside = exists(temporary(name, 0));
}

static char *link_text(const char *name)
{
    static char text[200];
    ssize_t n = readlink(name, text, sizeof text - 1);
    text[n < 0 ? 0 : n] = 0;
    return text;
}

static void links(void)
{
    haste_layer layer;
    char real[200], name[200], absolute[200], hard[200];
    struct stat s;
    int i, descriptor;
    make_numbered(&layer, 1);
    sprintf(far_folder, "%s/far", folder);
    sprintf(real, "%s/real", far_folder);
    sprintf(name, "%s/link", folder);
    sprintf(absolute, "%s/absolute", far_folder);
    sprintf(hard, "%s/hard", folder);
    remove(path);
    CHECK(mkdir(far_folder, 0755) == 0 && symlink("far/absolute", name) == 0 && symlink(real, absolute) == 0);
    for (i = 0; i < 3; i++) {   /* a link to a link, by its text and by its path, to nothing yet; then to a file */
        layer.step = i;
        if (i == 1) CHECK(chmod(real, 0600) == 0);
        during_fsync = look_beside;
        CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(strcmp(link_text(name), "far/absolute") == 0 && strcmp(link_text(absolute), real) == 0 && seen_beside);
        CHECK(lstat(real, &s) == 0 && S_ISREG(s.st_mode) && step_at(real) == i && files_in_folder() == 2);
    }
    CHECK(mode_of(real) == 0600);

    /* Another hard link to the file keeps what it had. */
    CHECK(link(real, hard) == 0);
    layer.step = 9;
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(step_at(name) == 9 && step_at(hard) == 2);
    remove(hard);

    /* What cannot be followed: a circle, a missing folder, a descriptor whose file has lost its name. */
    CHECK(remove(name) == 0 && symlink("other", name) == 0 && symlink("link", other) == 0);
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "links") && strcmp(link_text(name), "other") == 0 && remove(other) == 0);
    CHECK(remove(name) == 0 && symlink("missing/model", name) == 0);
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "no such file") && strcmp(link_text(name), "missing/model") == 0);
    descriptor = open(real, O_RDWR);
    sprintf(absolute, "/proc/self/fd/%d", descriptor);
    if (descriptor >= 0 && exists(absolute)) {
        layer.step = 10;
        CHECK_STATUS(haste_save(absolute, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(step_at(real) == 10);
        close(descriptor);
        descriptor = open(real, O_RDWR);
        sprintf(absolute, "/proc/self/fd/%d", descriptor);
        CHECK(remove(real) == 0);
        CHECK_STATUS(haste_save(absolute, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
        CHECK(strstr(error.text, "symbolic link") != NULL);
    }
    close(descriptor);
    CHECK(remove(name) == 0);
    sprintf(absolute, "%s/absolute", far_folder);
    remove(absolute);
    remove(real);
    CHECK(rmdir(far_folder) == 0 && files_in_folder() == 0);
    haste_layer_free(&layer);
}

static int64_t seen_step;
static void look_at_step(void) { seen_step = step_at(path); }

/* fsync: of the whole file before it takes the old one's place, and of the folder; what a file system does not know is
   no error, what it could not do is one. */
static void syncs(void)
{
    static const int unknown[5] = { EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP, EROFS };
    static const int real[4] = { EIO, ENOSPC, EDQUOT, EBADF };
    static const char *const said[3] = { "input or output", "no space", "quota" };
    char number[24];   /* of an errno without words */
    haste_layer layer;
    int i;
    make_numbered(&layer, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    layer.step = 2;
    fsyncs = 0;
    during_fsync = look_at_step;
    snprintf(number, sizeof number, ": errno %d", EBADF);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(fsyncs == 2 && seen_step == 1 && step_at(path) == 2);
    for (i = 0; i < 11; i++) {
        const int real_one = i >= 5 && i < 9;
        fsyncs = 0;
        fsync_errno = i < 5 ? unknown[i] : i < 9 ? real[i - 5] : i == 9 ? EINTR : EIO;
        fsync_fails_at = i == 10;   /* the last one: of the folder, when the new file stands there */
        layer.step = 10 + i;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), real_one ? HASTE_ERR_FILE : HASTE_OK, error);
        if (real_one) CHECK(strstr(error.text, i < 8 ? said[i - 5] : number) != NULL);
        CHECK(fsyncs == (real_one ? 1 : i == 9 ? 3 : 2) && step_at(path) == (real_one ? 14 : 10 + i));
        CHECK(files_in_folder() == 1);
    }
    fsync_fails_at = -1;
    haste_layer_free(&layer);
}

/* What stdio could not write or close, with and without an errno. */
static void stdio_failures(void)
{
    haste_layer layer;
    int i, calls;
    make_numbered(&layer, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    layer.step = 2;
    for (i = 0; i < 2; i++) {
        fclose_errno = i ? EIO : 0;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
        CHECK(strstr(error.text, i ? "input or output" : "no reason") && step_at(path) == 1 && files_in_folder() == 1);
    }
    fclose_errno = -1;
    fwrites = 0;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    calls = fwrites;
    CHECK(calls > 10 && remove(other) == 0);
    for (i = 0; i < calls; i++) {
        fwrites = 0;
        fwrite_fails_at = i;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
        CHECK(strstr(error.text, "no reason") && !strstr(error.text, "bfloat16"));
        CHECK(step_at(path) == 1 && files_in_folder() == 1);
    }
    fwrite_fails_at = -1;
    haste_layer_free(&layer);
}

static haste_layer second;   /* saved in the midst of saving another */
static int second_fails;
static void die_here(void) { kill(getpid(), SIGKILL); }
static void save_second(void) { second_fails = haste_save(path, &second, HASTE_F32, NULL, 0, &error) != HASTE_OK; }

static int at_fsync[2], go_on[2];   /* pipes: a child says that it is there, and waits */
static void wait_here(void)
{
    char c = 'x';
    if (write(at_fsync[1], &c, 1) != 1 || read(go_on[0], &c, 1) != 1) _exit(2);
}

/* A child that saves and comes as far as the hook. */
static pid_t saver(const haste_layer *layer, void (*hook)(void))
{
    pid_t child = fork();
    if (child != 0) return child;
    during_fsync = hook;
    _exit(haste_save(path, layer, HASTE_F32, NULL, 0, NULL) != HASTE_OK);
}

static void temporaries(void)
{
    haste_layer layer;
    pid_t child[2];
    char c = 'x';
    int i, status;
    make_numbered(&layer, 1);
    make_numbered(&second, 2);
    remove(path);
    alarm(120);   /* a child that never comes to its hook would be waited for */

    /* Killed, again and again: never more than one is left, and none by who lives. */
    for (i = 0; i < 3; i++) {
        child[0] = saver(&layer, die_here);
        CHECK(waitpid(child[0], &status, 0) == child[0] && WIFSIGNALED(status));
        CHECK(files_in_folder() == 1 && exists(temporary(path, 0)));
    }
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 1 && step_at(path) == 1);

    /* A program that another thread starts meanwhile does not get the lock, and keep it. */
    most_inherited = 0;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(most_inherited == count_inherited());

    /* Two that live, one of which is killed; the other's stays, and the last one to end has its file there. */
    CHECK(pipe(at_fsync) == 0 && pipe(go_on) == 0);
    for (i = 0; i < 2; i++) {
        child[i] = saver(&second, wait_here);
        CHECK(read(at_fsync[0], &c, 1) == 1 && exists(temporary(path, i)));
    }
    layer.step = 3;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 3 && step_at(path) == 3);
    CHECK(kill(child[1], SIGKILL) == 0 && waitpid(child[1], &status, 0) == child[1]);
    layer.step = 4;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 2 && exists(temporary(path, 0)) && step_at(path) == 4);
    CHECK(write(go_on[1], &c, 1) == 1 && waitpid(child[0], &status, 0) == child[0] && status == 0);
    CHECK(files_in_folder() == 1 && step_at(path) == 2);

    /* Two of one process: a save in the midst of another. */
    layer.step = 5;
    during_fsync = save_second;
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(!second_fails && files_in_folder() == 1 && step_at(path) == 5);

    /* Both of two killed: the next save removes both, though it needs one name. */
    for (i = 0; i < 2; i++) { child[i] = saver(&second, wait_here); CHECK(read(at_fsync[0], &c, 1) == 1); }
    for (i = 0; i < 2; i++) { kill(child[i], SIGKILL); waitpid(child[i], &status, 0); }
    CHECK(files_in_folder() == 3);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 1);

    /* What is no file of ours: a folder, and a link, whose target must stay as it is. */
    write_all(other, (const unsigned char *)"precious", 8);
    CHECK(symlink("other", temporary(path, 0)) == 0 && mkdir(temporary(path, 1), 0700) == 0);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    {
        size_t bytes;
        unsigned char *data = read_all(other, &bytes);
        struct stat s;
        CHECK(bytes == 8 && memcmp(data, "precious", 8) == 0);
        CHECK(stat(temporary(path, 1), &s) == 0 && S_ISDIR(s.st_mode));
        CHECK(lstat(path, &s) == 0 && S_ISREG(s.st_mode));
        free(data);
    }
    CHECK(rmdir(temporary(path, 1)) == 0);
    remove(temporary(path, 0));
    remove(other);

    /* Without locks nobody can tell: what is there stays, until no name is left. */
    for (i = 0; i < 3; i++) {
        static const int errnos[3] = { ENOLCK, ENOSYS, EOPNOTSUPP };
        flock_errno = errnos[i];
        write_all(temporary(path, i), (const unsigned char *)"old", 3);
        layer.step = 20 + i;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
        CHECK(files_in_folder() == 2 + i && step_at(path) == 20 + i);
    }
    for (i = 3; i < HASTE__FILE_WRITERS; i++) write_all(temporary(path, i), (const unsigned char *)"old", 3);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, "names") && files_in_folder() == 1 + HASTE__FILE_WRITERS);
    flock_errno = 0;   /* with locks all are orphans */
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 1);
    for (i = 0; i < 2; i++) { close(at_fsync[i]); close(go_on[i]); }
    alarm(0);
    haste_layer_free(&layer);
    haste_layer_free(&second);
}

static void take_away(void) { remove(temporary(path, 0)); }
static void take_over(void)
{
    take_away();
    write_all(temporary(path, 0), (const unsigned char *)"mine", 4);
}

/* Another machine, whose locks are not seen here, took the temporary for an orphan, and maybe its name. */
static void taken_away(void)
{
    haste_layer layer;
    int i;
    make_numbered(&layer, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    layer.step = 2;
    for (i = 0; i < 2; i++) {
        during_fsync = i ? take_over : take_away;
        CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
        CHECK(strstr(error.text, "taken away") && step_at(path) == 1 && files_in_folder() == 1 + i);
    }
    CHECK(remove(temporary(path, 0)) == 0);
    haste_layer_free(&layer);
}

/* Many processes at one path, one of them killed at any moment: whoever reads sees a whole file, and none too many is
   left. */
static void racing(void)
{
    enum { SAVERS = 4, ROUNDS = 30 };
    haste_layer layer;
    pid_t child[SAVERS];
    int i, round, status, failed = 0, bad = 0;
    make_numbered(&layer, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    for (round = 0; round < ROUNDS; round++) {
        for (i = 0; i < SAVERS; i++) {
            child[i] = fork();
            if (child[i] == 0) {
                int n, wrong = 0;
                layer.step = 100 * round + i;
                for (n = 0; i == 0 || n < 20; n++)
                    wrong |= haste_save(path, &layer, HASTE_F32, NULL, 0, NULL) != HASTE_OK;
                _exit(wrong);
            }
        }
        bad += step_at(path) < 0;
        usleep(check_random() % 2000);
        kill(child[0], SIGKILL);
        for (i = 0; i < SAVERS; i++) {
            waitpid(child[i], &status, 0);
            failed += i > 0 && status != 0;
        }
        bad += step_at(path) < 0;
        CHECK(files_in_folder() <= 2);
    }
    CHECK(failed == 0 && bad == 0);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK(files_in_folder() == 1);
    haste_layer_free(&layer);
}

static void relative_path(void)   /* a name without a folder */
{
    haste_layer layer;
    haste_file file;
    char back[1024];
    if (!getcwd(back, sizeof back) || chdir(folder) != 0) return;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_SGD, 1);
    CHECK_STATUS(haste_save("model", &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    CHECK_STATUS(haste_load("model", 1, &file, &error), HASTE_OK, error);
    haste_file_free(&file);
    haste_layer_free(&layer);
    CHECK(chdir(back) == 0);
}

static void errors(void)
{
    haste_layer layer;
    haste_file file, untouched;
    int before;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_MOMENTUM, 1);
    CHECK_STATUS(haste_save(NULL, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_save("", &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_save(path, NULL, HASTE_F32, NULL, 0, &error), HASTE_ERR_ARG, error);
    layer.block[0].bias[0] = INFINITY;   /* what could not be loaded is not written */
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_STATE, error);
    layer.block[0].bias[0] = 0;
    layer.step = -1;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_STATE, error);
    layer.step = (INT64_C(1) << 62) + 1;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_STATE, error);
    layer.step = 0;
    layer.rewires = -1;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_STATE, error);
    layer.rewires = (INT64_C(1) << 62) + 1;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_STATE, error);
    layer.rewires = 0;
    CHECK(!exists(other));
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, NULL), HASTE_OK, error);

    memset(&untouched, 0x5a, sizeof untouched);
    memcpy(&file, &untouched, sizeof file);
    CHECK_STATUS(haste_load(NULL, 0, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load("", 0, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(path, 0, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(path, 2, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(other, 0, &file, NULL), HASTE_ERR_FILE, error);

    before = held;   /* the one allocation of loading fails; saving does without */
    allocations = 0;
    fail_at = 0;
    CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_ERR_MEMORY, error);
    CHECK(memcmp(&file, &untouched, sizeof file) == 0);
    fail_at = -1;
    allocations = 0;
    CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_OK, error);
    CHECK(allocations == 1 && held == before + 1);
    haste_file_free(&file);
    allocations = 0;
    CHECK_STATUS(haste_save(path, &layer, HASTE_BF16, NULL, 0, &error), HASTE_OK, error);
    CHECK(allocations == 0 && held == before);
    haste_layer_free(&layer);
}

/* A gradient knows the order of the labels, however a layer came by it. */
static void gradients_of_orders(void)
{
    enum { L = 70, D = 30 };
    haste_layer layer[2], same_order[5], slice[2];
    haste_file file;
    haste_plan plan;
    int32_t order[L], i, k;
    for (k = 0; k < 2; k++) {
        haste_layer_options options;
        memset(&options, 0, sizeof options);
        options.labels = L;
        options.inputs = D;
        options.order = order;
        for (i = 0; i < L; i++) order[i] = i;
        if (k) { order[L - 1] = L - 2; order[L - 2] = L - 1; }
        CHECK_STATUS(haste_layer_create(&layer[k], &options, &error), HASTE_OK, error);
        CHECK_STATUS(haste_plan_bytes(&options, NULL, &plan, &error), HASTE_OK, error);
    }
    CHECK_STATUS(haste_save(path, &layer[1], HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    for (k = 0; k < 2; k++) {   /* all of them have the order of layer[1] */
        haste_layer_options options;
        haste_gradient gradient;
        CHECK_STATUS(haste_load(path, k, &file, &error), HASTE_OK, error);
        same_order[0] = layer[1];
        same_order[1] = file.layer;
        CHECK_STATUS(haste_layer_copy(&same_order[2], &layer[1], HASTE_F32, HASTE_F32, HASTE_SGD, &error), HASTE_OK, error);
        memset(&options, 0, sizeof options);
        options.labels = L;
        options.inputs = D;
        CHECK_STATUS(haste_layer_attach(&same_order[3], &options, layer[1].memory, plan.layer, &error), HASTE_OK, error);
        CHECK_STATUS(haste_layer_slice(&same_order[4], &layer[1], 0, layer[1].slots, NULL, &error), HASTE_OK, error);
        CHECK_STATUS(haste_gradient_create(&gradient, &layer[k], &error), HASTE_OK, error);
        for (i = 0; i < 5; i++) {
            haste_error found = { HASTE_OK, "" };
            CHECK(haste_gradient_zero(&gradient, &same_order[i], &found) == (k ? HASTE_OK : HASTE_ERR_STATE));
            CHECK(k || strstr(found.text, "order") != NULL);
        }
        haste_gradient_free(&gradient);
        /* of two groups only the one differs in which they have changed places */
        CHECK_STATUS(haste_layer_slice(&slice[0], &layer[0], 64 * k, 64 * k + 32, NULL, &error), HASTE_OK, error);
        CHECK_STATUS(haste_layer_slice(&slice[1], &layer[1], 64 * k, 64 * k + 32, NULL, &error), HASTE_OK, error);
        CHECK_STATUS(haste_gradient_create(&gradient, &slice[0], &error), HASTE_OK, error);
        CHECK(haste_gradient_zero(&gradient, &slice[1], NULL) == (k ? HASTE_ERR_STATE : HASTE_OK));
        haste_gradient_free(&gradient);
        for (i = 0; i < 2; i++) haste_layer_free(&slice[i]);
        haste_layer_free(&same_order[2]);
        haste_layer_free(&same_order[4]);
        haste_file_free(&file);
    }
    CHECK(remove(path) == 0);
    for (k = 0; k < 2; k++) haste_layer_free(&layer[k]);
}

int main(int argc, char **argv)
{
    const char *base = getenv("TMPDIR");
    check_begin(argc, argv);
    if (!base) base = exists("/dev/shm") ? "/dev/shm" : "/tmp";   /* thousands of files: better not on a disk */
    sprintf(folder, "%.40s/haste-XXXXXX", base);
    if (!mkdtemp(folder)) { printf("cannot make %s\n", folder); return 1; }
    sprintf(path, "%s/model", folder);
    sprintf(other, "%s/other", folder);
    RUN(round_trip);
    RUN(sections);
    RUN(export_bf16);
    RUN(resume);
    RUN(gradients_of_orders);
    RUN(in_memory);
    RUN(damaged);
    RUN(hostile);
    RUN(header_errors);
    RUN(same_everywhere);
    RUN(versions);
    RUN(file_check);
    RUN(failing_writes);
    RUN(special_files);
    RUN(modes);
    RUN(links);
    RUN(syncs);
    RUN(stdio_failures);
    RUN(temporaries);
    RUN(taken_away);
    RUN(racing);
    RUN(relative_path);
    RUN(errors);
    remove(path);
    remove(other);
    if (!check_filter) CHECK(rmdir(folder) == 0); else rmdir(folder);
    CHECK(held == 0);
    return check_end();
}
