/* The model file: every array comes back, damage is noticed and never crashes, a failed save leaves the old file. */
#define _DEFAULT_SOURCE   /* mkdtemp, setrlimit */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int allocations, held, fail_at = -1;   /* fail_at: the allocation that fails, -1: none */
static void *count_malloc(size_t bytes)
{
    void *memory = allocations++ == fail_at ? NULL : malloc(bytes);
    if (memory) held++;
    return memory;
}
static void count_free(void *memory) { if (memory) held--; free(memory); }

#define HASTE_MALLOC(bytes) count_malloc(bytes)
#define HASTE_FREE(memory)  count_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
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
    if (!out || fwrite(data, 1, bytes, out) != bytes || fclose(out) != 0) { printf("cannot write %s\n", name); exit(1); }
}

/* Three blocks of odd sizes in a shuffled order: a dense head, and two with different S, F and slices. */
static void make_layer(haste_layer *layer, haste_dtype dtype, haste_dtype state_dtype, haste_optimizer optimizer, int small)
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
    if (weights) same = same && a->dtype == b->dtype && a->state_dtype == b->state_dtype && a->optimizer == b->optimizer;
    for (i = 0; same && i < a->block_count; i++) {
        const haste_block *p = &a->block[i], *q = &b->block[i];
        int64_t slots = p->groups * p->group_size;
        same = p->groups == q->groups && p->labels == q->labels && p->first_slot == q->first_slot && p->group_size == q->group_size
            && p->fan_in == q->fan_in && p->begin == q->begin && p->end == q->end
            && same_bytes(p->index, q->index, p->groups * p->fan_in, 2) && same_bytes(p->bias, q->bias, slots, 4);
        if (!weights) continue;
        same = same && same_bytes(p->weight, q->weight, slots * p->fan_in, a->dtype == HASTE_BF16 ? 2 : 4);
        for (s = 0; s < 2; s++)
            same = same && same_bytes(p->weight_state[s], q->weight_state[s], slots * p->fan_in, a->state_dtype == HASTE_BF16 ? 2 : 4)
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
        for (s = 0; s < 2; s++) ok = ok && (uintptr_t)b->weight_state[s] % 64 == 0 && (uintptr_t)b->bias_state[s] % 64 == 0;
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
        CHECK_STATUS(haste_save(path, &layer, layer.dtype, NULL, 0, &error), HASTE_OK, error);   /* from the second on over a file */
        CHECK(files_in_folder() == 1);
        for (map = 0; map < 2; map++) {
            haste_file file;
            int before = held;
            memset(&file, 0xee, sizeof file);
            CHECK_STATUS(haste_load(path, map, &file, &error), HASTE_OK, error);
            CHECK(same_layer(&layer, &file.layer, 1));
            CHECK(aligned(&file.layer));
            CHECK(file.layer.memory == NULL && file.mapped == map && file.section_count == 0);
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
            } else {      /* training changes the copy in memory alone; a mapped file may be replaced while it is in use */
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
        CHECK(file.layer.dtype == HASTE_BF16 && file.layer.optimizer == HASTE_SGD && file.layer.block[0].weight_state[0] == NULL);
        CHECK(same_layer(&layer, &file.layer, 0));
        CHECK(((uint16_t *)file.layer.block[0].weight)[0] == 0x3f80 && ((uint16_t *)file.layer.block[0].weight)[1] == 0x3f82);
        for (b = 0; b < layer.block_count; b++) {
            const haste_block *block = &layer.block[b];
            for (i = 0; i < block->groups * block->fan_in * block->group_size; i++) {   /* off by at most half a step of 8 bits */
                double want = (double)((float *)block->weight)[i], got = (double)haste__from_bf16(((uint16_t *)file.layer.block[b].weight)[i]);
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

/* Loads `data`; HASTE_ERR_FORMAT, or the same layer as `want` if that is given, and nothing stays allocated. */
static int refused(const unsigned char *data, size_t bytes, int map, const haste_layer *want)
{
    haste_file file;
    haste_status status;
    int before = held, ok;
    write_all(other, data, bytes);
    status = haste_load(other, map, &file, &error);
    if (status == HASTE_OK) {
        ok = want && same_layer(&file.layer, want, !map);
        haste_file_free(&file);
    } else ok = status == HASTE_ERR_FORMAT && error.text[0];
    if (!ok) printf("    status %d: %s\n", (int)status, error.text);
    return ok && held == before;
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

    /* Each byte changed: read mode sees every one. A mapped file may not notice what happens to weights, and only there. */
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

/* Every checksum made right again: what is left to stop a hostile file are the checks of the contents. */
static void reseal(unsigned char *data, size_t bytes)
{
    uint64_t header, offset, length, sum;
    uint32_t count, i;
    memcpy(&header, data + 24, 8);
    memcpy(&count, data + 32, 4);
    if (header < 64 || header > bytes) return;
    for (i = 0; i < count && 64 + 48 * ((uint64_t)i + 1) <= header; i++) {
        unsigned char *entry = data + 64 + 48 * i;
        memcpy(&offset, entry + 24, 8);
        memcpy(&length, entry + 32, 8);
        if (offset > bytes || length > bytes - offset) continue;
        sum = haste__checksum_section(data + offset, length);
        memcpy(entry + 40, &sum, 8);
    }
    sum = haste__checksum_header(data, (size_t)header);
    memcpy(data + 56, &sum, 8);
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
                last = haste__load(b->weight, layer->dtype, (size_t)((g * b->fan_in + f) * b->group_size + s)) + b->bias[g * b->group_size + s];
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
    memcpy(&offset, good + 64 + 24, 8);   /* of haste.layer */
    for (round = 0; round < 12000; round++) {
        static const uint64_t nasty[] = { 0, 1, 7, 0x7fffffff, 0x80000000u, 0xffffffffu, UINT64_C(0x100000000), UINT64_C(0x4000000000000000),
                                          UINT64_C(0x7fffffffffffffff), UINT64_C(0x8000000000000000), UINT64_MAX, UINT64_MAX - 63 };
        int changes = 1 + (int)(check_random() % 3), map = round & 1;
        haste_file file;
        haste_status status;
        memcpy(data, good, bytes);
        while (changes-- > 0) {
            size_t at, span = round % 3 == 0 ? bytes : round % 3 == 1 ? (size_t)offset : 64 + 96;
            uint64_t value = nasty[check_random() % 12];
            at = (round % 3 == 2 ? (size_t)offset : 0) + check_random() % (span - 8);
            if (check_random() % 2) at = at / 4 * 4;
            if (check_random() % 4 == 0) { memcpy(&value, data + at, 8); value += (uint64_t)check_random() % 9 - 4; }
            memcpy(data + at, &value, check_random() % 2 ? 8 : 4);
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
        uint64_t at[8], k;
        int32_t minus = -1, label;
        uint16_t half;
        memcpy(data, good, bytes);
        for (k = 0; k < 8; k++) memcpy(&at[k], good + 64 + 48 * k + 24, 8);
        /* 0 layer, 1 label_of, 2 slot_of, 3 block 0's weight, 4 bias, 5, 6 state 0 */
        if (i == 0) memcpy(data + at[1], &minus, 4);                                    /* a slot without its label */
        if (i == 1) { memcpy(&label, data + at[1], 4); memcpy(data + at[1] + 4, &label, 4); }   /* a label twice */
        if (i == 2) memcpy(data + at[2], &minus, 4);
        if (i == 3) { label = 21; memcpy(data + at[1], &label, 4); }                     /* a label that there is not */
        if (i == 4) { half = 0x7fc0; memcpy(data + at[3], &half, 2); }                    /* NaN as a weight */
        if (i == 5) { half = 0x3f80; memcpy(data + at[3] + 14, &half, 2); }               /* a weight in the padding */
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL));
        CHECK(error.text[0] && (i >= 4 || refused(data, bytes, 1, NULL)));
    }
    /* Each section one byte shorter than the layer needs, where that shifts nothing. */
    for (i = 0; i < 11; i++) {
        uint64_t length;
        memcpy(data, good, bytes);
        memcpy(&length, data + 64 + 48 * i + 32, 8);
        length--;
        memcpy(data + 64 + 48 * i + 32, &length, 8);
        reseal(data, bytes);
        CHECK(refused(data, bytes, 0, NULL) && refused(data, bytes, 1, NULL));
    }
    {   /* 64 more zeros that the header knows of and no section has */
        uint64_t longer = bytes + 64;
        unsigned char *grown = (unsigned char *)calloc(1, (size_t)longer);
        if (!grown) exit(1);
        memcpy(grown, good, bytes);
        memcpy(grown + 16, &longer, 8);
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
    static const char *const texts[4] = { "not a haste model file", "byte order", "version", "bytes" };
    static const size_t places[4] = { 0, 8, 12, 16 };
    haste_layer layer;
    unsigned char *data;
    size_t bytes;
    int i;
    make_layer(&layer, HASTE_F32, HASTE_F32, HASTE_SGD, 1);
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, &error), HASTE_OK, error);
    data = read_all(path, &bytes);
    CHECK(memcmp(data, "HASTE\r\n\x1a\x04\x03\x02\x01\x01\0\0", 16) == 0 || memcmp(data, "HASTE\r\n\x1a\x01\x02\x03\x04\0\0\0", 15) == 0);
    for (i = 0; i < 4; i++) {
        unsigned char old[4];
        memcpy(old, data + places[i], 4);
        if (i == 1) { data[8] = old[3]; data[9] = old[2]; data[10] = old[1]; data[11] = old[0]; }   /* the other byte order */
        else data[places[i]] = (unsigned char)(data[places[i]] + 1);
        CHECK(refused(data, bytes, i & 1, NULL));
        CHECK(strstr(error.text, texts[i]) != NULL);
        memcpy(data + places[i], old, 4);
    }
    write_all(other, (const unsigned char *)"", 0);
    for (i = 0; i < 2; i++) CHECK(refused((const unsigned char *)"", 0, i, NULL));
    remove(other);
    free(data);
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
    CHECK(strstr(error.text, name) && strstr(error.text, strerror(ENOENT)));
    CHECK_STATUS(haste_load(name, 0, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, name) && strstr(error.text, strerror(ENOENT)));
    CHECK_STATUS(haste_load(name, 1, &file, &error), HASTE_ERR_FILE, error);
    sprintf(name, "%s/folder", folder);
    CHECK(mkdir(name, 0700) == 0);
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK_STATUS(haste_load(name, 0, &file, &error), HASTE_ERR_FILE, error);
    CHECK_STATUS(haste_load(name, 1, &file, &error), HASTE_ERR_FILE, error);
    CHECK(rmdir(name) == 0);
    CHECK(files_in_folder() == 1);
    sprintf(name, "%s/model/below", folder);   /* a file where a folder is expected */
    CHECK_STATUS(haste_save(name, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);

    /* Long paths: the reason still fits into the message. */
    memset(long_path, 'a', sizeof long_path);
    long_path[sizeof long_path - 1] = 0;
    CHECK_STATUS(haste_save(long_path, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, strerror(ENAMETOOLONG)) != NULL);
    CHECK_STATUS(haste_load(long_path, 1, &file, &error), HASTE_ERR_FILE, error);
    CHECK(strstr(error.text, strerror(ENAMETOOLONG)) != NULL);
    haste_layer_free(&layer);
    haste_layer_free(&changed);
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
    layer.step = 0;
    CHECK(!exists(other));
    CHECK_STATUS(haste_save(path, &layer, HASTE_F32, NULL, 0, NULL), HASTE_OK, error);

    memset(&untouched, 0x5a, sizeof untouched);
    memcpy(&file, &untouched, sizeof file);
    CHECK_STATUS(haste_load(NULL, 0, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load("", 0, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(path, 0, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(path, 2, &file, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_load(other, 0, &file, NULL), HASTE_ERR_FILE, error);

    before = held;   /* the one allocation of each fails */
    allocations = 0;
    fail_at = 0;
    CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_ERR_MEMORY, error);
    CHECK(memcmp(&file, &untouched, sizeof file) == 0);
    allocations = 0;
    CHECK_STATUS(haste_save(other, &layer, HASTE_F32, NULL, 0, &error), HASTE_ERR_MEMORY, error);
    CHECK(!exists(other) && files_in_folder() == 1);
    fail_at = -1;
    allocations = 0;
    CHECK_STATUS(haste_load(path, 0, &file, &error), HASTE_OK, error);
    CHECK(allocations == 1 && held == before + 1);
    haste_file_free(&file);
    allocations = 0;
    CHECK_STATUS(haste_save(path, &layer, HASTE_BF16, NULL, 0, &error), HASTE_OK, error);
    CHECK(allocations == 1 && held == before);
    haste_layer_free(&layer);
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
    RUN(damaged);
    RUN(hostile);
    RUN(header_errors);
    RUN(failing_writes);
    RUN(relative_path);
    RUN(errors);
    remove(path);
    remove(other);
    if (!check_filter) CHECK(rmdir(folder) == 0); else rmdir(folder);
    CHECK(held == 0);
    return check_end();
}
