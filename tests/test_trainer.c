/* The trainer's parts that can be tried without it: what is kept in a model file and may be forged (examples/model.h),
   what may be written over (keep.h), models that grow (grow.h and vocabularies), order of labels (order.h), logs and
   pages (report.h, page.h), command lines for a shell (options.h), processors and the terminal (system.h).

   cc -std=c99 -O2 -fopenmp -I. -Iexamples tests/test_trainer.c -o build/tests/test_trainer -lm */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "check.h"
#include "temporary.h"
#include "../examples/formats.h"
#include "../examples/grow.h"
#include "../examples/keep.h"
#include "../examples/model.h"
#include "../examples/options.h"
#include "../examples/order.h"
#include "../examples/page.h"
#include "../examples/plan.h"
#include "../examples/report.h"
#include "../examples/system.h"

static char message[DATA_ERROR];

/* Everything that a stream got, as text. */
static const char *text_of(FILE *file)
{
    static char text[100000];
    size_t n;
    rewind(file);
    n = fread(text, 1, sizeof text - 1, file);
    text[n] = 0;
    return text;
}

/* ---- model files that lie ------------------------------------------------------------------------------------- */

static struct {
    model_shape    shape;
    model_progress progress;
    float          row[6 * 4], moment[6 * 4];   /* moments of version 0.1: one for each number, and now the first six */
    int64_t        seen[6];
} kept;

static void honest(haste_file *file, int is_old)
{
    int i;
    memset(file, 0, sizeof *file);
    memset(&kept, 0, sizeof kept);
    file->layer.inputs = 4;
    file->layer.labels = 3;
    kept.shape.version = MODEL_VERSION;
    kept.shape.features = 5;
    kept.shape.width = 4;
    kept.shape.tfidf = kept.shape.unit = 1;
    kept.shape.documents = 10;
    kept.progress.step = 7;
    kept.progress.encoder_step = 7;
    kept.progress.seconds = 1;
    kept.progress.epoch = 2;
    kept.progress.seen = 3;
    kept.progress.watch = 1;
    kept.progress.joined = 5;
    schedule_begin(&kept.progress.plan, 9, 1, 1);
    for (i = 0; i < 24; i++) { kept.row[i] = (float)i - 12; kept.moment[i] = (float)i; }
    for (i = 0; i < 6; i++) kept.seen[i] = i + 2;
    model_add(file->section, &file->section_count, "encoder.shape", &kept.shape, sizeof kept.shape);
    model_add(file->section, &file->section_count, "progress", &kept.progress,
              is_old ? MODEL_PROGRESS_OLD : sizeof kept.progress);
    model_add(file->section, &file->section_count, "encoder", kept.row, sizeof kept.row);
    model_add(file->section, &file->section_count, "encoder.moment", kept.moment, (is_old ? 24 : 6) * sizeof(float));
    model_add(file->section, &file->section_count, "encoder.seen", kept.seen, sizeof kept.seen);
}

static int reads(const haste_file *file)
{
    model_shape shape;
    model_progress progress;
    encoder bag;
    memset(&bag, 0, sizeof bag);
    message[0] = 0;
    return model_read_shape(file, "m", &shape, message) && model_read_progress(file, "m", &progress, message) &&
           model_read_training(file, "m", &shape, progress.encoder_step, &bag, message);
}

/* A model of version 0.1 had no plans, and a moment for each number: a row gets their mean. */
static void older(void)
{
    model_shape shape;
    model_progress progress;
    encoder bag;
    haste_file file;
    int i;
    memset(&bag, 0, sizeof bag);
    memset(&progress, 1, sizeof progress);
    honest(&file, 1);
    kept.shape.version = 1;
    CHECK(model_read_shape(&file, "m", &shape, message) && model_read_progress(&file, "m", &progress, message));
    CHECK(model_read_training(&file, "m", &shape, 7, &bag, message));
    CHECK(progress.step == 7 && progress.seconds == 1 && progress.epoch == 0 && progress.watch == 0 && progress.plan.total == 0);
    for (i = 0; i < 6; i++) CHECK(bag.moment[i] == (float)(4 * i) + 1.5f);
    honest(&file, 0);
    CHECK(model_read_progress(&file, "m", &progress, message) && model_read_training(&file, "m", &shape, 7, &bag, message));
    CHECK(progress.epoch == 2 && progress.joined == 5 && progress.plan.total == 9 && bag.moment[5] == 5);
}

/* Each number of a model's own sections, with values that training would trip over. */
static void forged(void)
{
    static const int64_t wild[] = { -1, -1000, INT64_MIN, INT64_MAX, INT64_C(9000000000000000000) };
    haste_file file;
    size_t i, k;
    honest(&file, 0);
    CHECK(reads(&file));
    for (i = 0; i < sizeof wild / sizeof wild[0]; i++) {
        int64_t *const number[] = { &kept.shape.version, &kept.shape.features, &kept.shape.width, &kept.shape.dense, &kept.shape.relu,
                                    &kept.shape.tfidf, &kept.shape.unit, &kept.shape.documents, &kept.progress.step,
                                    &kept.progress.encoder_step, &kept.progress.moved, &kept.seen[0], &kept.seen[5],
                                    &kept.progress.epoch, &kept.progress.seen, &kept.progress.watch, &kept.progress.joined,
                                    &kept.progress.plan.warmup, &kept.progress.plan.stay, &kept.progress.plan.total,
                                    &kept.progress.plan.fall[0], &kept.progress.plan.fall[1], &kept.progress.plan.worse[0],
                                    &kept.progress.plan.worse[1] };
        for (k = 0; k < sizeof number / sizeof number[0]; k++) {
            honest(&file, 0);
            *number[k] = wild[i];
            if (!CHECK(!reads(&file))) printf("    number %d is %lld\n", (int)k, (long long)wild[i]);
            CHECK(strncmp(message, "m: ", 3) == 0);
        }
    }
    for (i = 0; i < 4; i++) {
        static const float odd[] = { NAN, INFINITY, -INFINITY, -1 };
        honest(&file, 0);
        kept.moment[3] = odd[i];
        CHECK(!reads(&file) && strstr(message, "moment 3 of the encoder"));
        honest(&file, 1);
        kept.moment[23] = odd[i];
        CHECK(!reads(&file) && strstr(message, "moment 23 of the encoder"));
        honest(&file, 0);
        kept.row[23] = odd[i];
        CHECK(reads(&file) == (i == 3));
        honest(&file, 0);
        kept.progress.loss = odd[i];
        CHECK(!reads(&file) && strstr(message, "progress that makes no sense"));
        honest(&file, 0);
        kept.progress.seconds = odd[i];
        CHECK(!reads(&file));
        honest(&file, 0);
        kept.progress.plan.best[i % 2] = odd[i];
        CHECK(!reads(&file) && strstr(message, "a plan of training that makes no sense"));
    }
    honest(&file, 0);
    kept.progress.joined = 8;   /* behind the last step */
    CHECK(!reads(&file));
    for (i = 0; i < 6; i++) {   /* standardised values have a version of their own, no unit length, and no dense inputs */
        honest(&file, 0);
        kept.shape.tfidf = i == 5 ? 3 : MODEL_STANDARD;
        kept.shape.version = i == 1 ? 1 : 2;
        kept.shape.unit = i == 2;
        kept.shape.dense = i == 3;
        CHECK(reads(&file) == (i == 0 || i == 4));
    }
    honest(&file, 0);
    kept.seen[2] = 8;
    CHECK(!reads(&file) && strcmp(message, "m: row 2 of the encoder changed in step 8 of 7") == 0);
    for (i = 0; i < 5; i++) {   /* and sections that are too short */
        honest(&file, 0);
        file.section[i].bytes--;
        CHECK(!reads(&file));
        honest(&file, 0);
        file.section[i].name[0] = 'x';
        CHECK(!reads(&file) && strstr(message, "no section"));
    }
}

/* ---- files that are left alone --------------------------------------------------------------------------------- */

static void left_alone(void)
{
    const char *path = write_file(".txt", "2 3 4\n", 6);
    char old[300];
    CHECK(!keep_may_write("save", path, KEEP_MODEL, "model", message));
    snprintf(old, sizeof old, "--save %s: is there, and is no model: it is left alone; name another file, or remove it", path);
    CHECK(strcmp(message, old) == 0);
    CHECK(!keep_may_write("log", path, REPORT_LOG, "log", message));
    remove(path);
    CHECK(keep_may_write("save", path, KEEP_MODEL, "model", message));              /* nothing there */
    path = write_file(".haste", "", 0);
    CHECK(keep_may_write("save", path, KEEP_MODEL, "model", message));
    remove(path);
    path = write_file(".haste", "HASTE\r\n\x1a" "1234", 12);
    CHECK(keep_may_write("save", path, KEEP_MODEL, "model", message));
    CHECK(!keep_may_write("log", path, REPORT_LOG, "log", message));
    remove(path);
    path = write_file(".csv", "run,epoch,step,seconds\n", 23);
    CHECK(keep_may_write("log", path, REPORT_LOG, "log", message));
    remove(path);
    path = write_file(".haste", "HASTE\r", 6);                                       /* cut off */
    CHECK(!keep_may_write("save", path, KEEP_MODEL, "model", message));
    remove(path);
    CHECK(keep_may_write("save", ".", KEEP_MODEL, "model", message));                /* the system refuses this one */
    CHECK(keep_differ("log", "a", "save", "b", message) && keep_differ("log", NULL, "save", "b", message));
    CHECK(keep_differ("log", "a", "save", NULL, message));
    CHECK(!keep_differ("log", "a", "save", "a", message) && strcmp(message, "--log a: that is the file of --save") == 0);
#ifndef _WIN32   /* where folders have numbers: one file under two names, there or not */
    CHECK(keep_same("./none.haste", "none.haste") && !keep_same("./none.haste", "nine.haste"));
    CHECK(!keep_same("no/such/folder/a", "no/such/folder/../folder/a"));
    path = write_file(".haste", "HASTE", 5);
    {
        char other[4096];
        snprintf(other, sizeof other, "/.%s", path);
        if (path[0] == '/') CHECK(keep_same(path, other));
        CHECK(!keep_same(path, "none.haste"));
    }
    remove(path);
#endif
}

/* ---- growing --------------------------------------------------------------------------------------------------- */

static data_reading   how;
static data_documents about;

static int read_text(data_set *data, vocabulary *words, const char *text)
{
    const int ok = data_read(data, words, write_file(".txt", text, strlen(text)), &how, &about, message);
    remove(written);
    if (!ok) printf("    %s\n", message);
    return ok;
}

/* New names and words get the next numbers; what was there keeps its own, and what is read after that grows nothing. */
static void vocabularies_grow(void)
{
    static const struct { const char *before, *after, *query; int64_t features, labels, then_features, then_labels; } test[] = {
        { "__label__a one two\n__label__b two\n", "__label__c three\n__label__a two four\n", "__label__d five one\n", 2, 2, 4, 3 },
        { "a\tone two\nb\ttwo\n", "c;a\tone one five\n", "b\tone six\n", 2, 2, 3, 3 },     /* not separated in TRAIN: one name */
        { "1,7 1:1 3:2\n3 2:1\n", "7,9 5:1\n", "3 1:1 9:2\n", 4, 3, 6, 4 },
        { "2 4 3\n0 0:1\n2 3:1\n", "2 6 5\n4 5:1\n1 0:1\n", "1 9 9\n8 8:1\n", 4, 3, 6, 5 },
        { "1 900000000 3\n0 7:1 800000000:1\n", "1 900000000 3\n1 7:1 800000001:1\n", "1 900000000 3\n1 9:1\n", 2, 3, 3, 3 }
    };
    size_t i;
    for (i = 0; i < sizeof test / sizeof test[0]; i++) {
        data_set data, again;
        vocabulary words;
        memset(&words, 0, sizeof words);
        how.min_count = 1;
        CHECK(read_text(&data, &words, test[i].before));
        CHECK(words.shape.features == test[i].features && words.shape.labels == test[i].labels);
        words.grows = 1;
        CHECK(read_text(&again, &words, test[i].before));                               /* the same: nothing new */
        CHECK(again.features == data.features && again.labels == data.labels && words.grows == 0);
        CHECK(memcmp(again.feature, data.feature, (size_t)data.feature_offset[data.documents] * sizeof(int32_t)) == 0);
        CHECK(memcmp(again.label, data.label, (size_t)data.label_offset[data.documents] * sizeof(int32_t)) == 0);
        data_free(&again);
        words.grows = 1;
        CHECK(read_text(&again, &words, test[i].after));
        if (!CHECK(again.features == test[i].then_features && again.labels == test[i].then_labels))
            printf("    case %d: %d features, %d labels\n", (int)i, (int)again.features, (int)again.labels);
        CHECK(words.words.count == 0 || words.words.count == again.features);
        CHECK(words.labels.count == 0 || words.labels.count == again.labels);
        CHECK(about.skipped.features == 0 && about.skipped.labels == 0);
        CHECK(again.feature_offset[again.documents] > 0 && again.label_offset[again.documents] > 0);
        data_free(&again);
        CHECK(read_text(&again, &words, test[i].query));
        CHECK(words.shape.features == test[i].then_features && words.shape.labels == test[i].then_labels);
        CHECK(about.skipped.features > 0);
        data_free(&again);
        data_free(&data);
        vocabulary_free(&words);
    }
    {   /* new words of one document are left out, where all are; old ones stay, however rare they have become */
        data_set data;
        vocabulary words;
        memset(&words, 0, sizeof words);
        how.min_count = 2;
        CHECK(read_text(&data, &words, "__label__a one two\n__label__a one two three\n"));
        CHECK(words.shape.features == 2);
        data_free(&data);
        words.grows = 1;
        CHECK(read_text(&data, &words, "__label__a four five\n__label__a one five six\n"));
        CHECK(words.shape.features == 3 && data_find(&words.words, "five", 4) == 2 && data_find(&words.words, "two", 3) == 1);
        CHECK(data.feature_offset[1] == 1 && data.feature_offset[2] == 3);
        data_free(&data);
        words.grows = 1;
        CHECK(!data_read(&data, &words, "no such file", &how, &about, message));
        vocabulary_free(&words);
        how.min_count = 1;
    }
    {   /* names that labels got by --label-names: new labels have their number */
        data_set data;
        vocabulary words;
        int64_t n;
        memset(&words, 0, sizeof words);
        CHECK(read_text(&data, &words, "2 2 2\n0 0:1\n1 1:1\n"));
        data_free(&data);
        CHECK(data_read_names(&words, write_file(".txt", "cat\ndog\n", 8), message));
        remove(written);
        words.grows = 1;
        CHECK(read_text(&data, &words, "1 2 4\n3 1:1\n"));
        CHECK(data.labels == 4 && words.labels.count == 4);
        CHECK(strncmp(data_name(&words.labels, 3, &n), "3\n", 2) == 0 && n == 1);
        data_free(&data);
        words.grows = 1;
        CHECK(!data_read(&data, &words, write_file(".txt", "1 9 2000000000\n1999999999 1:1\n", 29), &how, &about, message));
        CHECK(strstr(message, "too far apart") != NULL);
        remove(written);
        vocabulary_free(&words);
    }
}

static void models_grow(void)
{
    encoder bag;
    float row[6 * 4], moment[6];
    int64_t seen[6], frequency[40];
    haste_layer_options options;
    haste_layer layer, before;
    haste_error error;
    float weight[40 * 8], was[40 * 8], bias[40], bias_was[40];
    int i;
    memset(&bag, 0, sizeof bag);
    bag.features = 5;
    bag.width = 4;
    bag.row = row;
    bag.moment = moment;
    bag.seen = seen;
    for (i = 0; i < 24; i++) row[i] = (float)i;
    for (i = 0; i < 6; i++) { seen[i] = 10 + i; moment[i] = (float)(100 + i); }
    CHECK(grow_encoder(&bag, 5, .1) && bag.row == row);
    CHECK(grow_encoder(&bag, 8, .1) && bag.row != row && bag.features == 8);
    CHECK(memcmp(bag.row, row, 20 * sizeof(float)) == 0 && memcmp(bag.moment, moment, 5 * sizeof(float)) == 0);
    CHECK(memcmp(bag.row + 32, row + 20, 4 * sizeof(float)) == 0 && bag.moment[8] == 105);
    CHECK(memcmp(bag.seen, seen, 5 * sizeof(int64_t)) == 0 && bag.seen[8] == 15);
    for (i = 20; i < 32; i++) CHECK(bag.row[i] != 0 && fabsf(bag.row[i]) <= .1f);
    for (i = 5; i < 8; i++) CHECK(bag.seen[i] == 0 && bag.moment[i] == 0);
    encoder_free(&bag);

    memset(&options, 0, sizeof options);
    options.labels = 20;
    options.inputs = 8;
    options.block[0].labels = 4;
    options.block[0].fan_in = HASTE_DENSE;
    options.block[0].group_size = 8;
    options.block[1].labels = 16;
    options.block[1].fan_in = 4;
    options.block[1].group_size = 8;
    options.block_count = 2;
    options.optimizer = HASTE_ADAMW;
    CHECK_STATUS(haste_layer_create(&layer, &options, &error), HASTE_OK, error);
    before = layer;
    CHECK(grow_layer(&layer, 0, NULL, 10, message) && memcmp(&layer, &before, sizeof layer) == 0);
    CHECK_STATUS(haste_labels_get(&layer, NULL, 20, was, bias_was, &error), HASTE_OK, error);
    for (i = 0; i < 40; i++) frequency[i] = i % 3;
    CHECK(grow_layer(&layer, 20, frequency, 100, message) && layer.labels == 40 && layer.block[0].labels == 4);
    CHECK_STATUS(haste_layer_check(&layer, &error), HASTE_OK, error);
    CHECK_STATUS(haste_labels_get(&layer, NULL, 40, weight, bias, &error), HASTE_OK, error);
    CHECK(memcmp(weight, was, sizeof was / 2) == 0 && memcmp(bias, bias_was, 20 * sizeof(float)) == 0);
    for (i = 20 * 8; i < 40 * 8; i++) CHECK(weight[i] == 0);
    for (i = 20; i < 40; i++) {
        const double p = ((double)((i - 20) % 3) + .5) / 101;
        CHECK_NEAR(bias[i], log(p / (1 - p)), 1e-5);
    }
    haste_layer_free(&layer);
}

/* ---- order ----------------------------------------------------------------------------------------------------- */

static void orders(void)
{
    enum { L = 64, N = 640 };
    data_set data;
    int64_t document[N], frequency[L];
    int32_t order[L], seen[L], i, k;
    double before = -1, after = -1;
    vocabulary words;
    char *text = (char *)malloc(N * 40), *p = text;
    memset(&words, 0, sizeof words);
    if (!text) exit(1);
    p += sprintf(p, "%d 8 %d\n", N, L);
    for (i = 0; i < N; i++) { document[i] = i; p += sprintf(p, "%d %d:1\n", i % L, i % L % 8); }   /* label l looks like l % 8 */
    how.min_count = 1;
    CHECK(read_text(&data, &words, text));
    data_label_frequency(&data, document, N, frequency);
    for (k = GROUPING_RANDOM; k <= GROUPING_SEMANTIC; k++) {
        memset(seen, 0, sizeof seen);
        CHECK(order_labels(&data, document, N, frequency, 0, 8, k, 1, 2, order, &before, &after, message));
        for (i = 0; i < L; i++) seen[order[i]]++;
        for (i = 0; i < L; i++) CHECK(seen[i] == 1);
        CHECK((after >= 0) == (k == GROUPING_SEMANTIC));
    }
    CHECK(after > .85 && before < .5);
    CHECK(order_labels(&data, document, N, frequency, L, 8, GROUPING_SEMANTIC, 1, 2, order, &before, &after, message));
    for (i = 0; i < L; i++) CHECK(order[i] == i);                                                  /* all are the head */
    data_free(&data);
    vocabulary_free(&words);
    free(text);
}

/* ---- reports --------------------------------------------------------------------------------------------------- */

static void bins(void)
{
    static const int64_t frequency[] = { 0, 1, 2, 3, 4, 1000 }, offset[] = { 0, 2, 2, 4 };
    static const int32_t wanted[] = { 1, 5, 2, 4 }, top[] = { 5, 0, 1, 5, 4, -1 };
    haste_lists truth;
    report_bins b;
    memset(&b, 0, sizeof b);
    CHECK(report_bin(0) == 0 && report_bin(1) == 1 && report_bin(2) == 2 && report_bin(3) == 2 && report_bin(4) == 3 &&
          report_bin(7) == 3 && report_bin(8) == 4 && report_bin(1000) == 10 && report_bin(INT64_MAX) == REPORT_BINS - 1);
    truth.offset = offset;
    truth.id = wanted;
    report_bins_add(&b, frequency, top, 3, 2, &truth);
    CHECK(b.documents == 3 && b.wanted[1] == 1 && b.wanted[10] == 1 && b.wanted[2] == 1 && b.wanted[3] == 1);
    CHECK(b.given[10] == 2 && b.right[10] == 1);   /* label 5: of the first document, not of the second */
    CHECK(b.given[0] == 1 && b.right[0] == 0 && b.given[1] == 1 && b.right[1] == 0);
    CHECK(b.given[3] == 1 && b.right[3] == 1);
}

static void logs(void)
{
    report_point point;
    haste_metrics metrics;
    haste_error error;
    char run[REPORT_RUN], path[300], line[1000];
    FILE *file;
    int i, commas;
    report_run(run, UINT64_C(0x123456789));
    CHECK(strlen(run) == 20 && run[8] == '-' && run[15] == '-' && strspn(run, "0123456789abcdef-") == 20);
    CHECK_STATUS(haste_metrics_init(&metrics, 5, &error), HASTE_OK, error);
    memset(&point, 0, sizeof point);
    point.epoch = 2;
    point.loss = .5;
    report_values(NULL, point.test);
    report_values(&metrics, point.valid);
    for (i = 0; i < 7; i++) CHECK(point.test[i] == -1 && point.valid[i] >= 0);
    snprintf(path, sizeof path, "%s", write_file(".csv", "", 0));
    CHECK(report_log(path, run, &point, "a \"b\", c.txt", "lr=1\nseed=2\n", message));
    CHECK(report_log(path, run, &point, "x", "y", message));
    file = fopen(path, "r");
    CHECK(file && fgets(line, sizeof line, file) && strncmp(line, REPORT_LOG, strlen(REPORT_LOG)) == 0);
    for (i = commas = 0; line[i]; i++) commas += line[i] == ',';
    CHECK(commas == 22);
    CHECK(file && fgets(line, sizeof line, file) && strstr(line, ",,,,,,,,\"a \"\"b\"\", c.txt\",\"lr=1 seed=2 \"\n"));
    CHECK(file && strncmp(line, run, 20) == 0 && strncmp(line + 20, ",2,0,", 5) == 0);
    CHECK(file && fgets(line, sizeof line, file) && !fgets(line, sizeof line, file));   /* one heading only */
    if (file) fclose(file);
    remove(path);
    CHECK(!report_log("no/such/folder/log", run, &point, "x", "y", message));
}

/* Numbers, names and markup of a page; what is written there is not taken as markup. */
static void pages(void)
{
    static char program[] = "<b>&", *argv[] = { program };
    report_point point[3];
    report_bins b;
    page about_run;
    char folder[300], path[400];
    const char *text, *p;
    int i, j, tags = 0;
    FILE *file;
    memset(&b, 0, sizeof b);
    memset(point, 0, sizeof point);
    memset(&about_run, 0, sizeof about_run);
    for (i = 0; i < 3; i++) {
        point[i].epoch = i + 1;
        point[i].loss = i == 1 ? (double)NAN : 3. - i;
        for (j = 0; j < 7; j++) { point[i].valid[j] = 10 * i + j; point[i].test[j] = -1; }
    }
    b.labels[1] = 3;
    b.wanted[1] = 8;
    b.given[1] = 4;
    b.right[1] = 2;
    b.documents = 10;
    snprintf(folder, sizeof folder, "%s", write_file(".page", "", 0));
    remove(folder);
    CHECK(page_folder(folder, message) && page_folder(folder, message));
    about_run.folder = folder;
    about_run.program = "haste";
    about_run.run = "r";
    about_run.argc = 1;
    about_run.argv = argv;
    about_run.settings = "lr=.5\nseed=1\n";
    about_run.lines = "memory     3 MiB\nruns on    avx2\n";
    about_run.point = point;
    about_run.points = 3;
    about_run.scored = "test";
    about_run.bins = &b;
    about_run.k = 5;
    CHECK(page_write(&about_run, message));
    snprintf(path, sizeof path, "%s/report.html", folder);
    file = fopen(path, "r");
    text = file ? text_of(file) : "";
    if (file) fclose(file);
    remove(path);
    CHECK(strstr(text, "&lt;b&gt;&amp;</code>") && strstr(text, "<td>lr<td>.5</tr>") && strstr(text, "<td>runs on   <td>avx2</tr>"));
    CHECK(strstr(text, "<tr><td>1<td>3<td>8<td>4<td>2<td>4.00<td>50.0%<td>25.0%</tr>"));
    CHECK(strstr(text, "nan") == NULL && strstr(text, "inf") == NULL && strstr(text, "http") == NULL);
    for (p = text; (p = strstr(p, "<svg")) != NULL; p++) tags++;
    for (p = text; (p = strstr(p, "</svg>")) != NULL; p++) tags -= 100;
    CHECK(tags == 5 - 500);   /* loss, held-out, rate; bars twice; no curve of TEST */
    snprintf(path, sizeof path, "%s/curves.csv", folder);
    file = fopen(path, "r");
    CHECK(file && strstr(text_of(file), "\n3.0000,0.000,1,0,20.0000,21.0000,22.0000,23.0000,24.0000,25.0000,26.0000,,,,,,,\n"));
    if (file) fclose(file);
    remove(path);
    snprintf(path, sizeof path, "%s/frequency.csv", folder);
    file = fopen(path, "r");
    CHECK(file && strstr(text_of(file), "\n1,3,8,4,2\n"));
    if (file) fclose(file);
    remove(path);
    for (i = 0; i < 3; i++) {
        static const char *const other[] = { "report.gp", "curves.svg", "frequency.svg" };
        snprintf(path, sizeof path, "%s/%s", folder, other[i]);
        remove(path);
    }
    CHECK(rmdir(folder) == 0);   /* nothing else was written */
    CHECK(!page_write(&about_run, message));
}

/* ---- the shell ------------------------------------------------------------------------------------------------- */

/* Charts of numbers that hardly differ, or are huge, have an end, too. */
static void charts_end(void)
{
    static const double y[][2] = { { 1, 1.0000000000000002 }, { 1e15, 1e15 }, { 0, 0 }, { 0, 1e299 }, { 3, 4 } };
    static const double x[][2] = { { 1, 2 }, { 1, 1.0000000000000002 }, { 0, 0 }, { 1, 1e15 }, { 1e-300, 2e-300 } };
    const char *const name[] = { "loss" };
    int i;
    for (i = 0; i < 5; i++) {
        FILE *out = tmpfile();
        CHECK(out != NULL);
        if (!out) continue;
        page_chart(out, "loss", "epochs", 2, x[i], 1, name, y[i]);
        CHECK(ftell(out) > 100 && ftell(out) < 20000);
        fclose(out);
    }
}


static void quoting(void)
{
    static const char *const word[] = { "plain-1.txt", "a b", "", "it's", "$HOME `x` \"y\" \\", "new\nline", "*?~#", "--x=1" };
    const char *name = "it's", *other = "no";
    int64_t count = 3;
    double real = .1, rest = 2;
    int flag = 1;
    option table[] = {
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "H:", 0 },
        { OPTION_TEXT, "log", "FILE", &name, 0, 0, 0, "log", 1 },
        { OPTION_TEXT, "save", "FILE", &other, 0, 0, 0, "save", 1 },
        { OPTION_COUNT, "threads", "N", &count, 0, 9, 0, "threads", 1 },
        { OPTION_REAL, "every", "N", &real, 0, 9, 0, "every", 1 },
        { OPTION_REAL, "kept", "N", &rest, 0, 9, 1, "kept", 1 },
        { OPTION_REAL, "not", "N", &rest, 0, 9, 0, "not given", 0 },
        { OPTION_FLAG, "flag", NULL, &flag, 0, 1, 0, "flag", 1 } };
    FILE *file = tmpfile();
    char command[1000] = "printf '%s|'";
    size_t i;
    const char *text;
    if (!CHECK(file != NULL)) return;
    options_command(table, 8, "save ", file);
    CHECK(strcmp(text_of(file), " --log 'it'\\''s' --threads 3 --every 0.1 --flag") == 0);
    fclose(file);
    file = tmpfile();
    for (i = 0; i < sizeof word / sizeof word[0] && file; i++) { fputc(' ', file); option_quote(word[i], file); }
    CHECK(strncmp(text_of(file), " plain-1.txt 'a b' '' ", 22) == 0);
    snprintf(command + strlen(command), sizeof command - strlen(command), "%s", text_of(file));
    fclose(file);
    file = popen(command, "r");
    if (!CHECK(file != NULL)) return;
    {   /* and a shell takes them back */
        static char got[1000];
        char want[1000] = "";
        size_t n = fread(got, 1, sizeof got - 1, file);
        got[n] = 0;
        pclose(file);
        for (i = 0; i < sizeof word / sizeof word[0]; i++) { strcat(want, word[i]); strcat(want, "|"); }
        CHECK(strcmp(got, want) == 0);
    }
    file = tmpfile();
    if (!CHECK(file != NULL)) return;
    options_help(table, 8, 50, file);
    text = text_of(file);
    for (i = 0; *text; text++) { i = *text == '\n' ? 0 : i + 1; CHECK(i <= 50); }
    fclose(file);
}

/* Options that may change on the way: what the command line says counts, exactly, and else what was kept. */
static void options_change(void)
{
    static const char kept_text[] = "lr=0.1\nepochs=4\nseed=1\n";
    double lr = .7;
    int64_t epochs = 9, seed = 5;
    option table[] = { { OPTION_REAL, "lr", "X", &lr, 0, 9, 2, "", 1 }, { OPTION_COUNT, "epochs", "N", &epochs, 0, 99, 2, "", 0 },
                       { OPTION_COUNT, "seed", "N", &seed, 0, 99, 1, "", 0 } };
    char *text;
    CHECK(options_read(table, 3, kept_text, strlen(kept_text), "m", message));
    CHECK(lr == .7 && epochs == 4 && seed == 1);
    lr = 1.0 / 3;
    text = options_write(table, 3);
    CHECK(text && strcmp(text, "lr=0.3333333333333333\nepochs=4\nseed=1\n") == 0 && strtod(text + 3, NULL) == 1.0 / 3);
    free(text);
    table[2].given = 1;
    seed = 2;
    CHECK(!options_read(table, 3, kept_text, strlen(kept_text), "m", message));
    CHECK(strstr(message, "--seed 2: m was trained with 1") != NULL);
}

/* ---- the system ------------------------------------------------------------------------------------------------ */

static void processors(void)
{
    static const struct { const char *text; double want; } test[] = {
        { "max 100000\n", 0 }, { "150000 100000\n", 1.5 }, { "50000 100000\n", .5 }, { "-1 100000\n", 0 }, { "1 0\n", 0 }, { "", 0 } };
    size_t i;
    for (i = 0; i < sizeof test / sizeof test[0]; i++) {
        CHECK(processors_of(write_file(".max", test[i].text, strlen(test[i].text))) == test[i].want);
        remove(written);
    }
    CHECK(processors_of("no such file") == 0);
    CHECK(useful_threads() >= 1);
}

static void plans(void)
{
    haste_layer_options layer;
    haste_workspace_options work;
    haste_step_options step;
    double seconds = -1;
    memset(&layer, 0, sizeof layer);
    memset(&work, 0, sizeof work);
    memset(&step, 0, sizeof step);
    layer.labels = 3000;
    layer.inputs = 32;
    layer.block[0].labels = 3000;
    layer.block[0].fan_in = 16;
    layer.block[0].group_size = 8;
    layer.block_count = 1;
    work.batch = 8;
    work.ids = 64;
    step.lr = .01f;
    CHECK(plan_seconds(&layer, &work, &step, 8, &seconds, message) && seconds > 0 && seconds < 10);
    layer.block[0].fan_in = 33;
    CHECK(!plan_seconds(&layer, &work, &step, 8, &seconds, message) && strstr(message, "33"));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(forged);
    RUN(older);
    RUN(left_alone);
    RUN(vocabularies_grow);
    RUN(models_grow);
    RUN(orders);
    RUN(bins);
    RUN(logs);
    RUN(pages);
    RUN(charts_end);
    RUN(quoting);
    RUN(options_change);
    RUN(processors);
    RUN(plans);
    return check_end();
}
