/* Model files that lie: mutations of good ones are loaded, and what loads is used. Nothing may crash, read or write out
   of bounds, or break a promise of haste.h.

       cc -std=c99 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -I. tests/fuzz_file.c -o fuzz_file -lm
       ./fuzz_file [RUNS [SEED]]           6000 runs from seed 1 where not said otherwise

       mkdir corpus; ./fuzz_file 500 1 corpus       writes the inputs of 500 runs there, to begin with
       clang -O1 -g -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER -I. tests/fuzz_file.c -o fuzz_file -lm
       ./fuzz_file corpus

   An input is a byte of mode, a byte of choices, and data:
       mode & 3 = 0   data is the file
                  1   the same with all checksums made right
                  2, 3   data is haste.layer, then numbers for the arrays: header and table are made for them
       mode & 4   the file is mapped                                 */
#define HASTE_IMPLEMENTATION
#include "haste.h"

#include <time.h>

#define ROOM (1 << 20)   /* the largest file */

static unsigned char *file_bytes;   /* [ROOM] */
static char path[100], path_again[120];
static long loaded;

static void broken(const char *what, const haste_error *error)
{
    printf("fuzz_file: %s: %s\n", what, error ? error->text : "");
    fflush(stdout);
    abort();
}

static void remove_files(void) { remove(path); remove(path_again); }

/* A place for files, in memory where that is possible. */
static void begin(void)
{
    static const char *const folders[3] = { "/dev/shm/", "/tmp/", "" };
    FILE *out = NULL;
    int i;
    file_bytes = (unsigned char *)malloc(ROOM);
    for (i = 0; i < 3 && !out; i++) {
        sprintf(path, "%shaste-fuzz-%lx-%lx", folders[i], (unsigned long)time(NULL),
                (unsigned long)(uintptr_t)file_bytes >> 4 & 0xffffff);
        out = fopen(path, "wb");
    }
    if (!file_bytes || !out) broken("no room for files", NULL);
    fclose(out);
    snprintf(path_again, sizeof path_again, "%s-again", path);
    atexit(remove_files);
}

static void write_file(const char *name, size_t bytes)
{
    FILE *out = fopen(name, "wb");
    if (!out || fwrite(file_bytes, 1, bytes, out) != bytes || fclose(out) != 0) broken("cannot write", NULL);
}

/* ---- making a file of an input -------------------------------------------------------------------------------- */

static void reseal(size_t bytes)
{
    const unsigned char *at = file_bytes + 24;
    unsigned char *out;
    uint64_t header, i, count;
    if (bytes < HASTE__FILE_PREFIX) return;
    header = haste__get64(&at);
    count = haste__get(&at, 4);
    if (header < HASTE__FILE_PREFIX || header > bytes) return;
    for (i = 0; i < count && HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * (i + 1) <= header; i++) {
        haste__entry entry;
        memset(&entry, 0, sizeof entry);
        at = file_bytes + HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * i + sizeof entry.name;
        entry.offset = haste__get64(&at);
        entry.bytes = haste__get64(&at);
        if (entry.offset > bytes || entry.bytes > bytes - entry.offset) continue;
        entry.data = file_bytes + entry.offset;
        entry.width = 1;
        out = file_bytes + HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * i + 40;
        haste__put64(&out, haste__checksum_section(&entry));
    }
    out = file_bytes + HASTE__FILE_PREFIX - 8;
    haste__put64(&out, haste__checksum_header(file_bytes, (size_t)header));
}

/* Makes what hides behind the first errors reachable: valid ids, valid indices, numbers that are finite and 0 in the
   padding. */
static void make_valid(const haste_layer *layer, const haste__entry *table, int own, unsigned choices)
{
    unsigned char *label_of = file_bytes + table[1].offset, *slot_of = file_bytes + table[2].offset, *out;
    int32_t id = 0;
    int i, k;
    int64_t j, n, f, s;
    for (i = 0; i < layer->block_count && (choices & 1); i++)
        for (j = 0; j < layer->block[i].groups * layer->block[i].group_size; j++) {
            const int64_t slot = layer->block[i].first_slot + j;
            out = label_of + 4 * slot;
            haste__put32(&out, j < layer->block[i].labels ? id : -1);
            if (j >= layer->block[i].labels) continue;
            out = slot_of + 4 * id++;
            haste__put32(&out, slot);
        }
    for (k = 3; k < own; k++) {
        const haste_block *block = &layer->block[table[k].name[6] - '0'];   /* haste.0.weight */
        const int width = table[k].width, S = block->group_size;
        unsigned char *data = file_bytes + table[k].offset;
        if (strstr(table[k].name, ".index")) {
            for (n = 0; n < block->groups && (choices & 2); n++)
                for (f = 0, out = data + 2 * n * block->fan_in; f < block->fan_in; f++)
                    haste__put(&out, (uint64_t)f, 2);
            continue;
        }
        n = block->groups * (strstr(table[k].name, ".bias") ? 1 : block->fan_in);
        for (j = 0; j < n && (choices & 4); j++)
            for (s = 0; s < S; s++) {
                unsigned char *value = data + (j * S + s) * width;
                if (j / (n / block->groups) * S + s >= block->labels) memset(value, 0, (size_t)width);
                value[width - 1] &= strstr(table[k].name, "state1") ? 0x3f : 0xbf;   /* below 2; second moments from 0 */
            }
    }
}

/* Returns the file's size, 0 where haste.layer is refused. */
static size_t rebuild(const unsigned char *data, size_t bytes, unsigned choices)
{
    unsigned char scalars[HASTE__FILE_LAYER] = { 0 }, *out;
    const unsigned char *at = scalars + 56;
    haste__entry table[HASTE__FILE_TABLE];
    int dense[HASTE_MAX_BLOCKS], blocks, own, count, i;
    haste_layer layer;
    size_t end, n = 0, j;
    memcpy(scalars, data, bytes < sizeof scalars ? bytes : sizeof scalars);
    blocks = 1 + (int)(haste__get(&at, 4) - 1) % HASTE_MAX_BLOCKS;
    if (blocks < 1) blocks = 1;
    out = scalars + 56;
    haste__put32(&out, blocks);
    end = 64 + 48 * (size_t)blocks;
    if (bytes <= end || haste__file_get_layer(scalars, end, "x", &layer, dense, NULL)) return 0;
    data += end;
    bytes -= end;
    if (!haste__file_table(&layer, layer.dtype, layer.optimizer, dense, table, &own)) return 0;
    count = own;
    if (choices & 8) {   /* a section of the caller's */
        memset(&table[count], 0, sizeof table[count]);
        strcpy(table[count].name, "user");
        table[count].bytes = choices;
        table[count++].width = 1;
    }
    end = (size_t)(HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * count + 63) / 64 * 64;
    for (i = 0; i < count; i++) {
        table[i].offset = end;
        if (table[i].bytes > ROOM || end + table[i].bytes + 64 > ROOM) return 0;
        end += (size_t)(table[i].bytes + 63) / 64 * 64;
    }
    memset(file_bytes, 0, end);
    memcpy(file_bytes + table[0].offset, scalars, (size_t)table[0].bytes);
    for (i = 1; i < count; i++)
        for (j = 0; j < table[i].bytes; j++) file_bytes[table[i].offset + j] = data[n++ % bytes];
    make_valid(&layer, table, own, choices);
    for (i = 0; i < count; i++) {
        const int width = table[i].width;
        table[i].data = file_bytes + table[i].offset;
        table[i].width = 1;   /* the bytes of the file, on any machine */
        table[i].checksum = haste__checksum_section(&table[i]);
        table[i].width = width;
    }
    {
        unsigned char header[HASTE__FILE_HEADER];
        haste__file_put_header(table, count, end, header);
        memcpy(file_bytes, header, (size_t)table[0].offset);
    }
    return end;
}

/* ---- using what was loaded ------------------------------------------------------------------------------------ */

/* No number so large that an update could overflow. */
static int tame(const haste_layer *layer)
{
    int i, k;
    for (i = 0; i < layer->block_count; i++)
        for (k = -1; k < haste__states(layer->optimizer); k++) {
            const haste_block *b = &layer->block[i];
            const void *weight = k < 0 ? b->weight : b->weight_state[k];
            const float *bias = k < 0 ? b->bias : b->bias_state[k];
            const haste_dtype dtype = k < 0 ? layer->dtype : layer->state_dtype;
            const int64_t slots = b->groups * b->group_size;
            int64_t j;
            for (j = 0; j < slots * b->fan_in; j++)
                if (!(fabsf(haste__number(weight, dtype, (size_t)j)) < 1e6f)) return 0;
            for (j = 0; j < slots; j++)
                if (!(fabsf(bias[j]) < 1e6f)) return 0;
        }
    return 1;
}

/* Asks the layer, and trains it where it is sound. */
static void use(haste_layer *layer, int sound, unsigned choices)
{
    enum { B = 3, K = 4 };
    static const int64_t offset[B + 1] = { 0, 1, 3, 4 };
    const int will_hold = sound && tame(layer);
    const size_t D = (size_t)layer->inputs;
    haste_workspace_options options;
    haste_step_options step;
    haste_rewire_options rewire;
    haste_search_options search;
    haste_workspace work;
    haste_lists positives;
    haste_status status;
    haste_error error;
    int32_t id[4], best[B * K];
    float score[B * K], *x, *logits;
    size_t i;
    memset(&options, 0, sizeof options);
    memset(&step, 0, sizeof step);
    memset(&rewire, 0, sizeof rewire);
    memset(&search, 0, sizeof search);
    options.batch = B;
    options.top_k = K;
    options.threads = 1;
    options.chunks = 1 + (int32_t)(choices & 7);
    options.path = choices & 8 ? HASTE_PATH_PORTABLE : HASTE_PATH_AUTO;
    step.lr = .01f;
    step.weight_decay = .01f;
    rewire.share = .3f;
    rewire.prune = choices & 16 ? HASTE_PRUNE_SALIENCY : HASTE_PRUNE_MAGNITUDE;
    rewire.growth = choices & 32 ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM;
    rewire.scope = choices & 64 ? HASTE_SCOPE_GROUP : HASTE_SCOPE_BLOCK;
    if (haste_workspace_create(&work, layer, &options, &error)) broken("no workspace", &error);
    x = (float *)malloc(B * D * sizeof *x);
    logits = (float *)malloc(B * (size_t)layer->slots * sizeof *logits);
    if (!x || !logits) broken("no memory", NULL);
    for (i = 0; i < B * D; i++) x[i] = (float)((i * 2654435761u >> 20) & 255) / 128 - 1;
    for (i = 0; i < 4; i++) id[i] = (int32_t)((choices * 7 + i * 5) % (unsigned)layer->labels);
    positives.offset = offset;
    positives.id = id;
    haste_forward(layer, &work, x, B, logits, &error);
    search.excluded = &positives;
    haste_top_k(layer, &work, x, B, K, &search, best, score, &error);
    search.only = search.excluded;
    search.excluded = NULL;
    haste_top_k(layer, &work, x, B, K, &search, best, score, &error);
    haste_score(layer, &work, x, B, &positives, score, &error);
    if (sound) {
        status = haste_train_step(layer, &work, x, B, &positives, &step, NULL, NULL, &error);
        if (status && will_hold) broken("a step fails", &error);
        status = haste_rewire(layer, &work, &rewire, x, B, &positives, NULL, &error);
        if (status && will_hold) broken("rewiring fails", &error);
        haste_train_step(layer, &work, x, B, &positives, &step, NULL, NULL, &error);
        if (will_hold && haste_layer_check(layer, &error)) broken("after training", &error);
    }
    haste_workspace_free(&work);
    free(x);
    free(logits);
}

/* Memory is refused where a file is, and loading leaves it as it is. */
static void from_memory(size_t bytes, int in_place, haste_status of_file)
{
    unsigned char *memory = (unsigned char *)malloc(bytes + 64), *at = memory + (64 - (uintptr_t)memory % 64);
    haste_file file;
    haste_error error;
    haste_status status;
    if (!memory) broken("no memory", NULL);
    memcpy(at, file_bytes, bytes);
    status = haste_load_memory(at, bytes, in_place, &file, &error);
    if (status != of_file) broken("memory and file differ", status ? &error : NULL);
    if (status == HASTE_OK) haste_file_free(&file);
    if (memcmp(at, file_bytes, bytes) != 0) broken("loading wrote to the memory", NULL);
    free(memory);
}

/* A file of this version follows from its contents: what was loaded and is saved has the same bytes. */
static void save_again(const haste_file *file, size_t bytes)
{
    const unsigned char *at = file_bytes + 12;
    haste_error error;
    unsigned char *memory;
    FILE *in;
    size_t i, needed = 0;
    int c;
    if (haste__get(&at, 4) != HASTE__FILE_VERSION) return;
    at = file_bytes + 36;
    if (haste__get(&at, 4) != HASTE__FILE_LOWEST) return;
    if (haste_save(path_again, &file->layer, file->layer.dtype, file->section, file->section_count, &error))
        broken("saving again", &error);
    in = fopen(path_again, "rb");
    if (!in) broken("what was saved is not there", NULL);
    for (i = 0; (c = getc(in)) != EOF; i++)
        if (i >= bytes || c != file_bytes[i]) broken("saved again, the file differs", NULL);
    if (i != bytes) broken("saved again, the file is shorter", NULL);
    fclose(in);
    memory = (unsigned char *)malloc(bytes);
    if (!memory) broken("no memory", NULL);
    if (haste_save_memory(memory, bytes, &file->layer, file->layer.dtype, file->section, file->section_count, &needed,
                          &error))
        broken("saving to memory", &error);
    if (needed != bytes || memcmp(memory, file_bytes, bytes) != 0) broken("saved to memory, the file differs", NULL);
    free(memory);
}

/* ---- one input ------------------------------------------------------------------------------------------------ */

#if defined(__cplusplus)
extern "C"
#endif
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    haste_file file, untouched;
    haste_error error;
    haste_status status;
    unsigned mode, choices;
    int map, sound;
    if (bytes < 2) return 0;
    if (!file_bytes) begin();
    mode = data[0];
    choices = data[1];
    data += 2;
    bytes -= 2;
    map = (mode & 4) != 0;
    if (mode & 2) bytes = rebuild(data, bytes, choices);
    else if (bytes > ROOM) return 0;
    else memcpy(file_bytes, data, bytes);
    if ((mode & 3) == 1) reseal(bytes);
    if (mode & 2 && bytes == 0) return 0;

    write_file(path, bytes);
    memset(&untouched, 0x5a, sizeof untouched);
    memcpy(&file, &untouched, sizeof file);
    memset(&error, 0, sizeof error);
    status = haste_load(path, map, &file, &error);
    from_memory(bytes, map, status);
    if (status) {
        if (memcmp(&file, &untouched, sizeof file) != 0) broken("a failed load wrote to *file", &error);
        if (!error.text[0] || !error.status) broken("a failed load does not say why", &error);
        return 0;
    }
    loaded++;
    sound = haste_file_check(&file, &error) == HASTE_OK;
    if (!map && !sound) broken("a file that was read does not pass haste_file_check", &error);
    if (sound && haste_layer_check(&file.layer, &error)) broken("haste_file_check passed", &error);
    if (sound && (choices & 7) == 3) save_again(&file, bytes);
    use(&file.layer, sound, choices);
    haste_file_free(&file);
    return 0;
}

/* ---- without libFuzzer ---------------------------------------------------------------------------------------- */

#if !defined(FUZZ_LIBFUZZER)

static uint64_t random_state = 1;
static uint32_t below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % n);
}

/* A good file in input [ROOM]; returns its bytes. */
static size_t good_file(unsigned char *input)
{
    haste_layer_options o;
    haste_section section;
    haste_layer layer;
    haste_error error;
    FILE *in;
    size_t bytes;
    memset(&o, 0, sizeof o);
    memset(&section, 0, sizeof section);
    o.labels = 5 + (int32_t)below(60);
    o.inputs = 3 + (int32_t)below(20);
    o.block_count = 1 + (int32_t)below(2);
    o.block[0].group_size = 8 + 8 * (int32_t)below(3);
    o.block[o.block_count - 1].fan_in = 1 + (int32_t)below(3);
    if (o.block_count == 2) {
        o.block[0].labels = 1 + (int32_t)below(4);
        o.block[0].fan_in = HASTE_DENSE;
        o.block[1].group_size = 8;
    }
    o.dtype = (haste_dtype)below(2);
    o.state_dtype = (haste_dtype)below(2);
    o.optimizer = (haste_optimizer)below(3);
    o.loss = (haste_loss)below(3);
    o.seed = below(1000);
    strcpy(section.name, "words");
    section.data = "one two three";
    section.bytes = 13;
    if (haste_layer_create(&layer, &o, &error) ||
        haste_save(path, &layer, layer.dtype, &section, (int32_t)below(2), &error))
        broken("a good file", &error);
    haste_layer_free(&layer);
    in = fopen(path, "rb");
    bytes = in ? fread(input, 1, ROOM, in) : 0;
    if (!in || fclose(in) != 0 || bytes == 0 || bytes == ROOM) broken("a good file cannot be read", NULL);
    return bytes;
}

static size_t mutate(unsigned char *input, size_t bytes, size_t span)
{
    static const uint64_t nasty[] = { 0, 1, 2, 7, 8, 64, 255, 256, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff,
                                      0x80000000u, 0xffffffffu, UINT64_C(0x100000000), UINT64_C(0x4000000000000000),
                                      UINT64_C(0x7fffffffffffffff), UINT64_C(0x8000000000000000), UINT64_MAX - 63,
                                      UINT64_MAX };
    const int width = below(2) ? 8 : 4;
    size_t at = below((uint32_t)span), from = below((uint32_t)bytes);
    unsigned char *out;
    const unsigned char *in;
    switch (below(7)) {
    case 0: input[at] ^= (unsigned char)(1u << below(8)); break;
    case 1: input[at] = (unsigned char)below(256); break;
    case 2: case 3:   /* a number in its place */
        at = at / 4 * 4;
        if (at + 8 > bytes) break;
        out = input + at;
        haste__put(&out, nasty[below((uint32_t)(sizeof nasty / sizeof nasty[0]))], width);
        break;
    case 4:           /* a little more or less */
        at = at / 4 * 4;
        if (at + 8 > bytes) break;
        in = out = input + at;
        haste__put(&out, haste__get(&in, width) + below(17) - 8, width);
        break;
    case 5: if (at + 48 <= bytes && from + 48 <= bytes) memmove(input + at, input + from, 48); break;
    default:
        if (below(4) == 0) return 1 + at;
        if (below(4) == 0 && bytes + 64 < ROOM) { memset(input + bytes, 0, 64); return bytes + 64; }
    }
    return bytes;
}

int main(int argc, char **argv)
{
    const long runs = argc > 1 ? strtol(argv[1], NULL, 10) : 6000;
    unsigned char *input = (unsigned char *)malloc(ROOM + 2);
    long i;
    if (argc > 2) random_state = (uint64_t)strtoull(argv[2], NULL, 10);
    if (!input || runs < 1) return 2;
    begin();
    for (i = 0; i < runs; i++) {
        const unsigned mode = below(8);
        const unsigned char *at = input + 2 + 24;
        size_t bytes = good_file(input + 2), header = (size_t)haste__get64(&at), span = bytes;
        int changes = (int)below(5);
        if (mode & 2) {   /* begins with haste.layer */
            memmove(input + 2, input + 2 + header, bytes - header);
            bytes -= header;
            span = below(2) ? bytes : 64 + 48;
        } else if (below(2)) span = header + 64 + 48;
        for (; changes > 0; changes--) bytes = mutate(input + 2, bytes, span < bytes ? span : bytes);
        input[0] = (unsigned char)mode;
        input[1] = (unsigned char)below(256);
        LLVMFuzzerTestOneInput(input, bytes + 2);
        if (argc > 3) {
            char name[400];
            FILE *out;
            snprintf(name, sizeof name, "%.300s/%ld", argv[3], i);
            out = fopen(name, "wb");
            if (!out || fwrite(input, 1, bytes + 2, out) != bytes + 2 || fclose(out) != 0)
                broken("cannot write to the folder", NULL);
        }
    }
    free(input);
    free(file_bytes);
    printf("%-22s %9ld runs, %ld loaded, 0 failed\n", "fuzz_file", runs, loaded);
    return loaded > 0 ? 0 : 1;   /* all refused: then nothing was tried */
}

#endif
