/* fixed: what chosen inputs, grouping and rewiring are worth where x is fixed: unit vectors of tf-idf go straight into a layer
   without a head. TRAIN alone is read; a tenth of it, copies together, is held out and scored. A line of a Markdown table a setting.

       make fixed && build/haste-fixed TRAIN [--epochs 8] [--fan-in 128] [--group-size 32] [--seed 1] [--threads 1]

   AdamW .03 with half a cosine, batches of 128, weights 0 at first. Chosen inputs: haste_choose_inputs, from the sum of each label's
   documents scaled to length 1. Rewiring: every 150 steps of the first three quarters, at first a share of .3 of drawn inputs or .03
   of chosen ones, falling like a cosine, by gradient, of one batch or of the ten before. */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "examples/formats.h"
#include "examples/options.h"
#include "examples/order.h"
#include "examples/split.h"
#include "examples/system.h"

enum { BATCH = 128, TOP = 5, EVERY = 150, BATCHES = 10 };
enum { DRAWN, CHOSEN_INPUTS };
enum { NEVER, ONE_BATCH, TEN_BATCHES };

typedef struct bench {
    data_set train;
    int64_t *document, held_out, count, *frequency;   /* document: count to train on, then those held out */
    double  *inverse_propensity;
    haste_rows rows;                                  /* what inputs are chosen from */
    int64_t epochs, fan_in, group_size, seed, threads;
} bench;

static void stop(const char *why)
{
    fprintf(stderr, "haste-fixed: %s\n", why);
    exit(1);
}

static haste_error error;
static void must(haste_status status) { if (status != HASTE_OK) stop(error.text); }

static void *need(int64_t count, size_t width)
{
    void *memory = calloc((size_t)count + 1, width);
    if (!memory) stop("out of memory");
    return memory;
}

/* The sum of each label's documents, as sparse rows. */
static void sum_documents(bench *t)
{
    const data_set *data = &t->train;
    const int32_t L = data->labels, V = data->features;
    int64_t *first = (int64_t *)need(L + 1, sizeof *first), *at = (int64_t *)need(L, sizeof *at), *offset, i, j, n = 0, feature_room = 0,
            value_room = 0;
    int64_t *of;
    double *sum = (double *)need(V, sizeof *sum), square;
    static haste_sparse sparse;
    int32_t *feature = NULL, l, d;
    float *value = NULL;
    offset = (int64_t *)need(L + 1, sizeof *offset);
    for (i = 0; i < t->count; i++)
        for (j = data->label_offset[t->document[i]]; j < data->label_offset[t->document[i] + 1]; j++) first[data->label[j] + 1]++;
    for (l = 0; l < L; l++) first[l + 1] += first[l];
    for (l = 0; l < L; l++) at[l] = first[l];
    of = (int64_t *)need(first[L], sizeof *of);
    for (i = 0; i < t->count; i++)
        for (j = data->label_offset[t->document[i]]; j < data->label_offset[t->document[i] + 1]; j++)
            of[at[data->label[j]]++] = t->document[i];
    for (l = 0; l < L; l++) {
        for (i = first[l]; i < first[l + 1]; i++)
            for (j = data->feature_offset[of[i]]; j < data->feature_offset[of[i] + 1]; j++) sum[data->feature[j]] += data->value[j];
        for (d = 0, square = 0; d < V; d++) square += sum[d] * sum[d];
        for (d = 0; d < V; d++) {
            if (sum[d] == 0) continue;
            if (!data_reserve((void **)&feature, &feature_room, n + 1, sizeof *feature) ||
                !data_reserve((void **)&value, &value_room, n + 1, sizeof *value)) stop("out of memory");
            feature[n] = d;
            value[n++] = (float)(sum[d] / sqrt(square));
            sum[d] = 0;
        }
        offset[l + 1] = n;
    }
    sparse.offset = offset;
    sparse.feature = feature;
    sparse.value = value;
    t->rows.sparse = &sparse;
    t->rows.frequency = t->frequency;
    free(first);
    free(at);
    free(of);
    free(sum);
}

/* n documents as rows of x [n, V], or (clear) 0 again, and their labels. */
static haste_lists fill(const data_set *data, const int64_t *document, int32_t n, float *x, int clear)
{
    static int64_t offset[BATCH + 1], room;
    static int32_t *label;
    haste_lists lists;
    int64_t i, j, count;
    for (i = 0; i < n; i++) {
        const int64_t d = document[i];
        for (j = data->feature_offset[d]; j < data->feature_offset[d + 1]; j++)
            x[i * data->features + data->feature[j]] = clear ? 0 : data->value[j];
        count = data->label_offset[d + 1] - data->label_offset[d];
        if (!data_reserve((void **)&label, &room, offset[i] + count + 1, sizeof *label)) stop("out of memory");
        memcpy(label + offset[i], data->label + data->label_offset[d], (size_t)count * sizeof *label);
        offset[i + 1] = offset[i] + count;
    }
    lists.offset = offset;
    lists.id = label;
    return lists;
}

static void run(bench *t, int grouping, int inputs, int rewiring)
{
    static const char *const group_name[] = { "random", "frequency", "semantic" }, *const input_name[] = { "drawn", "chosen" },
                      *const rewiring_name[] = { "never", "by one batch", "by ten batches" };
    const data_set *data = &t->train;
    const int32_t L = data->labels, V = data->features;
    const int64_t batches = (t->count + BATCH - 1) / BATCH, total = batches * t->epochs, end = total / 4 * 3;
    int64_t *order_of = (int64_t *)need(t->count, sizeof *order_of), epoch, i, step = 0;
    int32_t *order = (int32_t *)need(L, sizeof *order), *best = (int32_t *)need(BATCH * TOP, sizeof *best), n;
    float *x = (float *)need((int64_t)BATCH * V, sizeof *x);
    double before, after, seconds = now();
    char why[DATA_ERROR];
    haste_layer layer;
    haste_layer_options options;
    haste_workspace work;
    haste_workspace_options work_options;
    haste_step_options train;
    haste_rewire_options rewire;
    haste_input_scores scores;
    haste_metrics metrics;
    haste_metrics_values at[3];

    if (!order_labels(data, t->document, t->count, t->frequency, 0, (int32_t)t->group_size, grouping, (uint64_t)t->seed, (int)t->threads,
                      order, &before, &after, why)) stop(why);
    memset(&options, 0, sizeof options);
    options.labels = L;
    options.inputs = V;
    options.block_count = 1;
    options.block[0].group_size = (int32_t)t->group_size;
    options.block[0].fan_in = (int32_t)t->fan_in;
    options.order = order;
    options.frequency = t->frequency;
    options.samples = t->count;
    options.optimizer = HASTE_ADAMW;
    options.zero_weights = 1;
    options.seed = (uint64_t)t->seed;
    must(haste_layer_create(&layer, &options, &error));
    if (inputs == CHOSEN_INPUTS) must(haste_choose_inputs(&layer, NULL, L, &t->rows, (int32_t)t->threads, NULL, &error));
    memset(&work_options, 0, sizeof work_options);
    work_options.batch = BATCH;
    work_options.top_k = TOP;
    work_options.ids = data_most_labels(data, BATCH);
    work_options.threads = (int32_t)t->threads;
    must(haste_workspace_create(&work, &layer, &work_options, &error));
    memset(&scores, 0, sizeof scores);
    if (rewiring == TEN_BATCHES) must(haste_input_scores_create(&scores, &layer, 0, 0, &error));

    memset(&train, 0, sizeof train);
    memset(&rewire, 0, sizeof rewire);
    rewire.growth = HASTE_GROW_GRADIENT;
    rewire.scores = rewiring == TEN_BATCHES ? &scores : NULL;
    for (epoch = 0; epoch < t->epochs; epoch++) {
        split_shuffle(t->document, t->count, (uint64_t)t->seed, epoch, order_of);
        for (i = 0; i < t->count; i += BATCH, step++) {
            const int32_t B = (int32_t)(t->count - i < BATCH ? t->count - i : BATCH);
            const haste_lists positives = fill(data, order_of + i, B, x, 0);
            const int due = rewiring != NEVER && step > 0 && step % EVERY == 0 && step < end;
            if (rewiring == TEN_BATCHES && step < end && EVERY - step % EVERY <= BATCHES)
                must(haste_score_inputs(&layer, &work, x, B, &positives, NULL, &scores, &error));
            if (due) {
                rewire.share = (float)haste_rewire_share(step, end, inputs == CHOSEN_INPUTS ? .03 : .3);
                if (rewire.scores) must(haste_rewire(&layer, &work, &rewire, NULL, 0, NULL, NULL, &error));
                else must(haste_rewire(&layer, &work, &rewire, x, B, &positives, NULL, &error));
            }
            train.lr = (float)(.03 * haste_schedule(step + 1, total / 20, total + 1, 0));
            must(haste_train_step(&layer, &work, x, B, &positives, &train, NULL, NULL, &error));
            fill(data, order_of + i, B, x, 1);
        }
    }
    seconds = now() - seconds;

    must(haste_metrics_init(&metrics, TOP, &error));
    for (i = t->count; i < data->documents; i += BATCH) {
        const int32_t B = (int32_t)(data->documents - i < BATCH ? data->documents - i : BATCH);
        const haste_lists truth = fill(data, t->document + i, B, x, 0);
        must(haste_top_k(&layer, &work, x, B, TOP, NULL, best, NULL, &error));
        must(haste_metrics_add(&metrics, best, B, TOP, L, &truth, t->inverse_propensity, NULL, &error));
        fill(data, t->document + i, B, x, 1);
    }
    for (n = 0; n < 3; n++) at[n] = haste_metrics_get(&metrics, 2 * n + 1);
    printf("| %s | %s | %s | %.1f / %.1f / %.1f | %.1f / %.1f / %.1f | %.0f |\n", input_name[inputs], group_name[grouping],
           rewiring_name[rewiring], at[0].precision, at[1].precision, at[2].precision, at[0].psp, at[1].psp, at[2].psp, seconds);
    fflush(stdout);
    haste_input_scores_free(&scores);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
    free(order_of);
    free(order);
    free(best);
    free(x);
}

int main(int argc, char **argv)
{
    static bench t;
    vocabulary words;
    data_documents about;
    data_reading how;
    const char *file[1] = { NULL };
    char why[DATA_ERROR];
    float *weight;
    int files = 0, grouping, inputs;
    option table[] = {
        { OPTION_COUNT, "epochs", "N", &t.epochs, 1, 1e6, 0, "passes over TRAIN", 0 },
        { OPTION_COUNT, "fan-in", "F", &t.fan_in, 1, 65535, 0, "inputs of a group", 0 },
        { OPTION_COUNT, "group-size", "S", &t.group_size, 8, 256, 0, "labels of a group", 0 },
        { OPTION_COUNT, "seed", "N", &t.seed, 0, 9e15, 0, "of all random decisions", 0 },
        { OPTION_COUNT, "threads", "N", &t.threads, 1, 1024, 0, "changes no result", 0 }
    };
    t.epochs = 8;
    t.fan_in = 128;
    t.group_size = 32;
    t.seed = t.threads = 1;
    if (!options_parse(table, 5, argc, argv, file, &files, 1, why)) stop(why);
    if (files != 1) stop("expected TRAIN and options: see the first lines of bench/fixed.c");
    memset(&words, 0, sizeof words);
    memset(&how, 0, sizeof how);
    if (!data_read(&t.train, &words, file[0], &how, &about, why)) stop(why);
    if (t.train.features > 65536) stop("TRAIN has more than 65,536 features");
    t.document = (int64_t *)need(t.train.documents, sizeof(int64_t));
    t.held_out = split_hold_out(&t.train, t.train.documents / 10, (uint64_t)t.seed, t.document);
    if (t.held_out < 1) stop("nothing can be held out");
    t.count = t.train.documents - t.held_out;
    weight = (float *)need(t.train.features, sizeof(float));
    t.frequency = (int64_t *)need(t.train.labels, sizeof(int64_t));
    t.inverse_propensity = (double *)need(t.train.labels, sizeof(double));
    if (!data_feature_weights(&t.train, t.document, t.count, 1, weight, why)) stop(why);
    data_weigh(&t.train, weight, 1, 1);
    data_label_frequency(&t.train, t.document, t.count, t.frequency);
    must(haste_inverse_propensity(t.frequency, t.train.labels, t.count, 0, 0, t.inverse_propensity, &error));
    sum_documents(&t);

    printf("%lld documents to learn, %lld held out, %ld features, %ld labels; S %lld, F %lld, %lld epochs, seed %lld\n\n",
           (long long)t.count, (long long)t.held_out, (long)t.train.features, (long)t.train.labels, (long long)t.group_size,
           (long long)t.fan_in, (long long)t.epochs, (long long)t.seed);
    printf("| inputs | groups | rewired | P@1 / P@3 / P@5 | PSP@1 / PSP@3 / PSP@5 | seconds |\n|---|---|---|---|---|---|\n");
    for (inputs = DRAWN; inputs <= CHOSEN_INPUTS; inputs++)
        for (grouping = GROUPING_RANDOM; grouping <= GROUPING_SEMANTIC; grouping++) run(&t, grouping, inputs, NEVER);
    for (inputs = DRAWN; inputs <= CHOSEN_INPUTS; inputs++) {
        run(&t, GROUPING_SEMANTIC, inputs, ONE_BATCH);
        run(&t, GROUPING_SEMANTIC, inputs, TEN_BATCHES);
    }
    return 0;
}
