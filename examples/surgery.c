/* surgery.c: layers taken apart and put together. A trained dense matrix becomes a sparse layer, labels come and go,
   two slices are searched as two machines would, and a small copy is made to predict with.

   mkdir -p build && cc -std=c99 -O3 -fopenmp -I. examples/surgery.c -o build/haste-surgery -lm

   Prints what each operation kept, and at the end `right: 64 of 64 64 64 64` or nearly so. */
#define HASTE_IMPLEMENTATION
#include "haste.h"

enum { L = 2000, D = 128, NEW = 8, B = 64 };

static haste_error error;
static void check(haste_status status)
{
    if (status == HASTE_OK) return;
    fprintf(stderr, "surgery: %s: %s\n", haste_status_text(status), error.text);
    exit(1);
}

static unsigned long long state = 1;
static float uniform(void)   /* in [-1, 1) */
{
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (float)(state >> 40) / 8388608.0f - 1;
}

/* How many of the samples, made to look like labels `want`, have them as their best label? */
static int right(const haste_layer *layer, const float *x, const int32_t *want)
{
    haste_workspace work;
    int32_t best[B], b;
    int n = 0;
    check(haste_workspace_create(&work, layer, NULL, &error));
    check(haste_top_k(layer, &work, x, B, 1, NULL, best, NULL, &error));
    for (b = 0; b < B; b++) n += best[b] == want[b];
    haste_workspace_free(&work);
    return n;
}

int main(void)
{
    static float trained[(L + NEW) * D], x[B * D], best_score[2][B], merged_score[B];
    static haste_found found[2];
    static int32_t label[B], best[2][B], merged[B], id[2][L + NEW + 64], gone[L], map[L + NEW];
    static haste_layer_options options;
    static haste_rows rows;
    haste_layer layer, more, fewer, half[2], joined, small;
    const haste_layer *halves[2];
    const int32_t *ids[2];
    haste_workspace work;
    int64_t middle;
    double kept;
    int i, j, d, n[4] = { 0, 0, 0, 0 };

    /* "Trained": labels that are neighbours have the same few large weights. Samples look like one label each, in one
       of eight cases a new one. */
    for (i = 0; i < L + NEW; i++)
        for (d = 0; d < D; d++) trained[i * D + d] = (d + i / 32 * 7) % 3 ? .05f * uniform() : uniform();
    for (i = 0; i < B; i++) {
        label[i] = i % 8 ? i * 31 : L + i / 8;
        for (d = 0; d < D; d++) x[i * D + d] = trained[label[i] * D + d] + .1f * uniform();
    }

    /* From a dense matrix: each group takes the inputs that hold the most energy. */
    options.labels = L;
    options.inputs = D;
    rows.dense = trained;
    check(haste_layer_from_rows(&layer, &options, &rows, &kept, &error));
    printf("from dense rows: half of the inputs keep %.1f%% of the energy\n", 100 * kept);

    /* New labels: their vectors, here what a training run or the mean of their examples gave. */
    rows.dense = trained + L * D;
    check(haste_labels_add(&more, &layer, 0, NEW, &rows, 1, &kept, &error));
    printf("new labels: %.1f%% kept\n", 100 * kept);
    n[0] = right(&more, x, label);

    /* Labels that nobody needs any more: a group of neighbours, and some of other groups, which leave gaps there. */
    for (i = j = 0; i < L; i++) if (i / 32 == 54 || (i % 40 == 0 && i % 31 != 0)) gone[j++] = i;
    check(haste_labels_remove(&fewer, &more, gone, j, map, &error));
    for (i = 0; i < B; i++) label[i] = map[label[i]];
    printf("%d labels removed: %d ids, the last %d of them retired\n", j, (int)fewer.labels,
           (int)fewer.labels - (L + NEW - j));
    n[1] = right(&fewer, x, label);

    /* Two slices share the layer's memory. Each finds its best; merged, these are what the whole finds. */
    middle = fewer.slots / 2 / 32 * 32;
    check(haste_layer_slice(&half[0], &fewer, 0, middle, id[0], &error));
    check(haste_layer_slice(&half[1], &fewer, middle, fewer.slots, id[1], &error));
    for (i = 0; i < 2; i++) {
        check(haste_workspace_create(&work, &half[i], NULL, &error));
        check(haste_top_k(&half[i], &work, x, B, 1, NULL, best[i], best_score[i], &error));
        haste_workspace_free(&work);
        found[i].id = best[i];
        found[i].score = best_score[i];
        found[i].labels = half[i].labels;
        found[i].map = id[i];
        halves[i] = &half[i];
        ids[i] = id[i];
    }
    check(haste_top_k_merge(found, 2, B, 1, merged, merged_score, &error));
    for (i = 0; i < B; i++) n[2] += merged[i] == label[i];

    /* Joined they are one layer again; a copy in bfloat16, without optimizer state, is there to predict. */
    check(haste_layer_join(&joined, halves, 2, ids, &error));
    check(haste_layer_copy(&small, &joined, HASTE_BF16, HASTE_F32, HASTE_SGD, &error));
    printf("%.1f KiB, and %.1f KiB as bfloat16\n", (double)joined.bytes / 1024, (double)small.bytes / 1024);
    n[3] = right(&small, x, label);

    printf("right: %d of %d %d %d %d\n", B, n[0], n[1], n[2], n[3]);
    haste_layer_free(&half[0]);
    haste_layer_free(&half[1]);
    haste_layer_free(&layer);
    haste_layer_free(&more);
    haste_layer_free(&fewer);
    haste_layer_free(&joined);
    haste_layer_free(&small);
    for (i = 0; i < 4; i++) if (n[i] < B * 9 / 10) return 1;
    return 0;
}
