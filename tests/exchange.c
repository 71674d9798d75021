/* Model files are the same on every machine: one program, run on two of them, says so.

       exchange save FOLDER       makes layers of both types of weights and writes them
       exchange load FOLDER       makes the same layers, and compares them with the files, read and mapped, bit for bit

   CI runs it on this machine and, emulated, on one of the other byte order. */
#define HASTE_IMPLEMENTATION
#include "haste.h"

#include <stdio.h>
#include <string.h>

enum { KINDS = 4 };

static int fail(const char *what, const haste_error *error)
{
    printf("exchange: %s: %s\n", what, error->text);
    return 1;
}

static int same(const void *a, const void *b, int64_t count, int width)
{
    return a && b ? memcmp(a, b, (size_t)count * (size_t)width) == 0 : !a && !b;
}

int main(int argc, char **argv)
{
    int kind, map, i, j;
    if (argc != 3 || (strcmp(argv[1], "save") != 0 && strcmp(argv[1], "load") != 0)) return 2;
    for (kind = 0; kind < KINDS; kind++) {
        const int weight = kind & 1 ? 2 : 4, state = kind & 2 ? 2 : 4;
        static const unsigned char bytes[] = "bytes of the caller's own";
        haste_error error;
        haste_layer_options options;
        haste_section section;
        haste_layer layer;
        char path[500];
        memset(&options, 0, sizeof options);
        memset(&section, 0, sizeof section);
        options.labels = 300;
        options.inputs = 40;
        options.block_count = 2;
        options.block[0].labels = 30;
        options.block[0].fan_in = HASTE_DENSE;
        options.block[1].fan_in = 12;
        options.block[1].group_size = 16;
        options.optimizer = HASTE_ADAMW;
        options.dtype = kind & 1 ? HASTE_BF16 : HASTE_F32;
        options.state_dtype = kind & 2 ? HASTE_BF16 : HASTE_F32;
        options.seed = 7;
        snprintf(path, sizeof path, "%.400s/exchange%d.haste", argv[2], kind);
        strcpy(section.name, "user");
        section.data = bytes;
        section.bytes = sizeof bytes;
        if (haste_layer_create(&layer, &options, &error) != HASTE_OK) return fail("layer", &error);
        layer.step = 1234567890123;
        for (i = 0; i < 2; i++)   /* some state */
            for (j = 0; j < layer.block[i].labels; j++)
                layer.block[i].bias[j] = layer.block[i].bias_state[1][j] = (float)j / 7;
        if (strcmp(argv[1], "save") == 0) {
            if (haste_save(path, &layer, layer.dtype, &section, 1, &error) != HASTE_OK) return fail(path, &error);
        } else
            for (map = 0; map < 2; map++) {
                haste_file file;
                int ok;
                if (haste_load(path, map, &file, &error) != HASTE_OK) return fail(path, &error);
                ok = haste_layer_check(&file.layer, NULL) == HASTE_OK && file.layer.step == layer.step &&
                    file.layer.seed == layer.seed &&
                     file.section_count == 1 && file.section[0].bytes == sizeof bytes &&
                         memcmp(file.section[0].data, bytes, sizeof bytes) == 0 &&
                     same(file.layer.label_of, layer.label_of, layer.slots, 4) &&
                         same(file.layer.slot_of, layer.slot_of, layer.labels, 4);
                for (i = 0; i < 2; i++) {
                    const haste_block *a = &file.layer.block[i], *b = &layer.block[i];
                    const int64_t slots = b->groups * b->group_size, n = slots * b->fan_in;
                    ok = ok && same(a->weight, b->weight, n, weight) && same(a->bias, b->bias, slots, 4) &&
                         same(a->index, b->index, b->groups * b->fan_in, 2);
                    for (j = 0; j < 2; j++)
                        ok = ok && same(a->weight_state[j], b->weight_state[j], n, state) &&
                            same(a->bias_state[j], b->bias_state[j], slots, 4);
                }
                haste_file_free(&file);
                if (!ok) { printf("exchange: %s, map %d: not the layer that was written\n", path, map); return 1; }
            }
        haste_layer_free(&layer);
    }
    printf("exchange %s: %d files\n", argv[1], KINDS);
    return 0;
}
