/* Are two models of haste-train the same? For tests/mpi.sh and tests/nccl.sh.

       models same A B                layer, encoder, frequencies and plan, bit for bit
       models near A B SHARE PLACES   to rounding: of each array (weights, biases, embeddings) the root of the mean square difference
                                      is at most SHARE of that of the numbers; at most PLACES of the inputs differ, in whose groups
                                      nothing else is compared. State of optimizers is compared by `same` alone

   cc -std=c99 -O2 -I. tests/models.c -o build/tests/models -lm */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "../examples/model.h"

static int failed;

static void differ(const char *what, double got, double allowed)
{
    if (got <= allowed) return;
    printf("models: %s: %g, allowed %g\n", what, got, allowed);
    failed = 1;
}

typedef struct { double difference, size; } sums;

static void add(sums *s, double a, double b)
{
    s->difference += (a - b) * (a - b);
    s->size += (a * a + b * b) / 2;
}

/* 0 where both are. */
static double share_of(const sums *s) { return s->difference == 0 ? 0 : sqrt(s->difference / s->size); }

static float number(haste_dtype dtype, const void *array, int64_t i)
{
    uint32_t bits;
    float value;
    if (dtype == HASTE_F32) return ((const float *)array)[i];
    bits = (uint32_t)((const uint16_t *)array)[i] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void compare_bits(const void *a, const void *b, size_t bytes, const char *what)
{
    differ(what, !a != !b || (a && memcmp(a, b, bytes) != 0), 0);
}

int main(int argc, char **argv)
{
    static const char *const kept[] = { "encoder", "encoder.moment", "encoder.seen", "idf", "frequency", "words", "labels" };
    haste_file file[2];
    haste_layer *a = &file[0].layer, *b = &file[1].layer;
    const int same = argc == 4 && strcmp(argv[1], "same") == 0;
    haste_error error;
    model_progress progress[2];
    double places = 0, other = 0;
    int i, k;
    if (!same && (argc != 6 || strcmp(argv[1], "near") != 0)) return 2;
    for (i = 0; i < 2; i++) {
        char why[DATA_ERROR];
        if (haste_load(argv[2 + i], 0, &file[i], &error) != HASTE_OK) { printf("models: %s\n", error.text); return 1; }
        if (!model_read_progress(&file[i], argv[2 + i], &progress[i], why)) { printf("models: %s\n", why); return 1; }
    }
    if (a->labels != b->labels || a->slots != b->slots || a->inputs != b->inputs || a->block_count != b->block_count ||
        a->dtype != b->dtype || a->optimizer != b->optimizer || a->step != b->step || a->rewires != b->rewires ||
        progress[0].step != progress[1].step || progress[0].epoch != progress[1].epoch) {
        printf("models: another shape, or other steps: %ld labels, step %lld, rewires %lld; %ld, %lld, %lld\n", (long)a->labels,
               (long long)a->step, (long long)a->rewires, (long)b->labels, (long long)b->step, (long long)b->rewires);
        return 1;
    }
    compare_bits(a->label_of, b->label_of, (size_t)a->slots * 4, "order of labels");
    for (i = 0; i < a->block_count; i++) {
        const haste_block *x = &a->block[i], *y = &b->block[i];
        const int64_t S = x->group_size, F = x->fan_in;
        sums weight = { 0, 0 }, bias = { 0, 0 };
        int64_t g, j;
        for (g = 0; g < x->groups; g++) {
            double wrong = 0;
            for (j = 0; x->index && j < F; j++) wrong += x->index[g * F + j] != y->index[g * F + j];
            places += x->index ? (double)F : 0;
            other += wrong;
            for (j = 0; j < F * S && wrong == 0; j++)
                add(&weight, (double)number(a->dtype, x->weight, g * F * S + j), (double)number(b->dtype, y->weight, g * F * S + j));
            for (j = 0; j < S && wrong == 0; j++) add(&bias, (double)x->bias[g * S + j], (double)y->bias[g * S + j]);
        }
        if (same) {
            const size_t n = (size_t)(x->groups * S * F), width = a->dtype == HASTE_F32 ? 4 : 2, state = a->state_dtype == HASTE_F32 ? 4 : 2;
            compare_bits(x->weight, y->weight, n * width, "weights");
            compare_bits(x->bias, y->bias, (size_t)(x->groups * S) * 4, "biases");
            for (k = 0; k < 2; k++) {
                compare_bits(x->weight_state[k], y->weight_state[k], n * state, "state of weights");
                compare_bits(x->bias_state[k], y->bias_state[k], (size_t)(x->groups * S) * 4, "state of biases");
            }
            continue;
        }
        printf("block %d: weights %.2g, biases %.2g\n", i, share_of(&weight), share_of(&bias));
        differ("weights", share_of(&weight), atof(argv[4]));
        differ("biases", share_of(&bias), atof(argv[4]));
    }
    if (!same) printf("inputs: %g of %g differ\n", other, places);
    differ("inputs that differ", places > 0 ? other / places : 0, same ? 0 : atof(argv[5]));
    for (k = 0; k < (int)(sizeof kept / sizeof kept[0]); k++) {
        const haste_section *x = haste_file_find(&file[0], kept[k]), *y = haste_file_find(&file[1], kept[k]);
        if (!x != !y || (x && x->bytes != y->bytes)) differ(kept[k], 1, 0);
        else if (x && (same || k > 1)) compare_bits(x->data, y->data, (size_t)x->bytes, kept[k]);
        else if (x) {
            sums all = { 0, 0 };
            int64_t j;
            for (j = 0; j < (int64_t)(x->bytes / 4); j++) add(&all, (double)((const float *)x->data)[j], (double)((const float *)y->data)[j]);
            printf("%s: %.2g\n", kept[k], share_of(&all));
            differ(kept[k], share_of(&all), atof(argv[4]));
        }
    }
    if (same) compare_bits(&progress[0].plan, &progress[1].plan, sizeof progress[0].plan, "plan");
    for (i = 0; i < 2; i++) haste_file_free(&file[i]);
    return failed;
}
