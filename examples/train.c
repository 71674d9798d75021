/* haste-train: trains an extreme classifier on documents and says how good it is.

       haste-train                                      a made-up data set, half a minute
       haste-train TRAIN TEST --save model.haste        text, or numbers of features: formats.h lists what it reads
       haste-train --help

   Sparse documents go through an embedding bag (encoder.h) into the layer (haste.h); dense .npy features go straight into the
   layer. What is learnt from data (feature weights, frequencies, groups) is learnt from the training split only, and TEST is
   scored but decides nothing. How long to train is seen from a part of TRAIN (schedule.h); settings.h has the defaults.

   cc -std=c99 -O3 -fopenmp -I. examples/train.c -o build/haste-train -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "formats.h"
#include "encoder.h"
#include "export.h"
#include "model.h"
#include "options.h"
#include "report.h"
#include "schedule.h"
#include "split.h"
#include "synthetic.h"
#include "system.h"

#include <sys/stat.h>
#include <unistd.h>

#define TOP       5
#define EMBEDDING 256   /* dimensions of label embeddings for grouping */
#define HELD_OUT  5000     /* documents held out at most where --valid is left to us */
#define FEW       3000     /* documents, below which none are */
#define LOOK      150000   /* documents between two looks at them, at most */

/* haste-train-cuda is this program with another engine: train_cuda.cu says otherwise, then includes this file. */
#ifndef TRAIN_CUDA
    #define TRAIN_NAME  "haste-train"
    #define TRAIN_PATHS "auto|portable|avx2|avx512|neon"
    #define TRAIN_DTYPE HASTE_F32   /* what --dtype chosen means */
    #define TRAIN_SAME  ", bit for bit"
    #define TRAIN_ROOM  256         /* documents scored at a time; more where --batch says so */
#endif

#include "settings.h"

/* ---- >>small things ------------------------------------------------------------------------------------------ */

static volatile sig_atomic_t stop_signal;
static int progress_shown;

static void on_signal(int number) { stop_signal = number; }

static double mib(size_t bytes) { return (double)bytes / 1048576; }

/* The size of a file as it lies there, compressed or not; 0 if there is none, or it is a pipe. */
static double file_bytes(const char *path)
{
    struct stat s;
    return path && stat(path, &s) == 0 && S_ISREG(s.st_mode) ? (double)s.st_size : 0;
}

static void clear_progress(void)
{
    if (progress_shown) fprintf(stderr, "\r%78s\r", "");
    progress_shown = 0;
}

/* Ends the program: 2 for a mistake on the command line, 1 for anything else. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3), noreturn))
#endif
static void die(int code, const char *format, ...)
{
    va_list arguments;
    clear_progress();
    fflush(stdout);
    fprintf(stderr, TRAIN_NAME ": ");
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(code);
}

static void *need(size_t count, size_t width)
{
    void *memory = count <= SIZE_MAX / width ? malloc(count * width + 1) : NULL;
    if (!memory) die(1, "out of memory (%.0f MiB)", (double)count * (double)width / 1048576);
    return memory;
}

/* ---- >>the run ----------------------------------------------------------------------------------------------- */

typedef struct trainer {
    settings        s;
    option          table[OPTION_ROOM];
    int             options, epochs_given;
    const char     *train_path, *test_path;

    vocabulary      words;                  /* what TRAIN taught: words, and names of labels */
    data_set        train, test;            /* test.documents = 0: none */
    int64_t        *document, *test_document; /* the training split, then the held-out documents; all of TEST */
    int64_t         count, held_out;        /* of these two kinds now */
    int64_t         learn;                  /* documents that weights of features and frequencies come from */
    double          score[SCHEDULE_PARTS];  /* of the last evaluation */
    double          best;                   /* P@1 that is possible on made-up data; 0: not known */
    float          *weight, *mean;          /* [V] of features */
    int64_t        *frequency;              /* [L] */
    double         *inverse_propensity;     /* [L] */

    model_shape     shape;
    model_progress  progress;
    encoder         bag;                    /* with dense inputs only its dropout is used */
    haste_layer     layer;
    haste_file      file;                   /* the model that training is resumed from: owns layer and bag then */
    struct engine  *engine;
    int32_t         room;                   /* documents scored at a time, at least --batch */

    int64_t        *label_offset;           /* [room + 1] the labels of the documents of a batch */
    int32_t        *label;
    int64_t         label_room;
} trainer;

/* The labels of B documents, one list after the other. */
static haste_lists gather_labels(trainer *t, const data_set *data, const int64_t *document, int32_t B)
{
    haste_lists lists;
    int64_t total = 0;
    int32_t b;
    t->label_offset[0] = 0;
    for (b = 0; b < B; b++) {
        int64_t begin = data->label_offset[document[b]], n = data->label_offset[document[b] + 1] - begin;
        if (!data_reserve((void **)&t->label, &t->label_room, total + n, sizeof(int32_t))) die(1, "out of memory");
        if (n > 0) memcpy(t->label + total, data->label + begin, (size_t)n * sizeof(int32_t));
        total += n;
        t->label_offset[b + 1] = total;
    }
    lists.offset = t->label_offset;
    lists.id = t->label;
    return lists;
}

/* The dense features of B documents, one row after the other. */
static void gather_rows(const data_set *data, const int64_t *document, int32_t B, float *x)
{
    int32_t b;
    for (b = 0; b < B; b++)
        memcpy(x + (int64_t)b * data->width, data->dense + document[b] * data->width, (size_t)data->width * sizeof(float));
}

/* ---- >>engine ------------------------------------------------------------------------------------------------ */

/* The engine trains and asks the layer and the encoder: the CPU's follows, the GPU's is in train_cuda.cu. t->layer and t->bag
   are the model as it is made, saved and resumed; a GPU has its own copies. */
static void engine_check(void);               /* can this machine do it? */
static void engine_make(trainer *t, const haste_layer_options *options);   /* and says what it takes */
/* One step, whose loss is added to t->progress (by a GPU later, but before engine_wait returns), and moved inputs where rewire
   is not NULL. */
static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire);
static void engine_wait(trainer *t);          /* until all steps are done */
static void engine_fetch(trainer *t);         /* likewise, and t->layer and t->bag are up to date */
/* The TOP best labels of each document, to be had from engine_best_done. Two batches in turn may be under way: turn is 0 or 1. */
static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn);
static const int32_t *engine_best_done(trainer *t, int turn);
static void engine_result(const trainer *t);  /* what it adds to the line for scripts */
static void engine_free(trainer *t);

static double  data_bytes(const trainer *t);

#ifndef TRAIN_CUDA

struct engine {
    haste_workspace work;
    float          *x, *grad_x;   /* [room, D] */
    int32_t        *top;          /* [2][room, TOP] */
    double          seconds;      /* of training that the layer took; the rest: encoder, lists of labels */
};

static void engine_check(void) { }

static void engine_make(trainer *t, const haste_layer_options *options)
{
    const size_t inputs = (size_t)t->room * (size_t)t->layer.inputs;
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_workspace_options work;
    haste_plan plan;
    haste_error error;
    memset(&work, 0, sizeof work);
    work.batch = t->room;
    work.ids = data_most_labels(&t->train, t->s.batch);
    work.top_k = TOP;
    work.chunks = (int32_t)t->s.chunks;
    work.threads = (int32_t)t->s.threads;
    work.path = (haste_path)t->s.path;
    memset(&plan, 0, sizeof plan);
    if (haste_plan_bytes(options, &work, &plan, &error) != HASTE_OK ||
        haste_workspace_create(&e->work, &t->layer, &work, &error) != HASTE_OK) die(1, "%s", error.text);
    e->x = (float *)need(inputs, sizeof(float));
    e->grad_x = (float *)need(inputs, sizeof(float));
    e->top = (int32_t *)need(2 * (size_t)t->room * TOP, sizeof(int32_t));
    e->seconds = 0;
    t->engine = e;
    printf("memory     layer %.1f MiB (weights %.1f), workspace %.1f, encoder %.1f, data %.1f\n", mib(plan.layer),
           mib(plan.weight), mib(plan.workspace), t->shape.dense ? 0 : mib(encoder_bytes(t->bag.features, t->bag.width) + encoder_moment_bytes(t->bag.features)),
           data_bytes(t) / 1048576);
    printf("runs on    %s, %ld thread%s\n", haste_path_text(e->work.path), (long)e->work.threads,
           e->work.threads == 1 ? "" : "s");
}

static void encode(trainer *t, const data_set *data, const int64_t *document, int32_t B, int training)
{
    float *x = t->engine->x;
    int32_t b;
    if (!t->shape.dense) {
        encoder_forward(&t->bag, data, document, B, training, x);
        return;
    }
    gather_rows(data, document, B, x);
    for (b = 0; b < B && training && t->bag.dropout > 0; b++) encoder_drop(&t->bag, b, x + (int64_t)b * data->width);
}

static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire)
{
    struct engine *e = t->engine;
    float *grad_x = t->shape.dense ? NULL : e->grad_x;
    const haste_lists positives = gather_labels(t, &t->train, document, B);
    haste_error error;
    haste_status status;
    double loss = 0, begin;
    int64_t moved = 0;

    encode(t, &t->train, document, B, 1);
    begin = now();
    if (grad_x) memset(grad_x, 0, (size_t)B * (size_t)t->layer.inputs * sizeof(float));
    status = haste_train_step(&t->layer, &e->work, e->x, B, &positives, step, &loss, grad_x, &error);
    if (status == HASTE_ERR_NONFINITE)
        die(1, "training diverged in step %lld: %s; a smaller --lr or --encoder-lr may help", (long long)t->progress.step + 1,
            error.text);
    if (status != HASTE_OK) die(1, "step %lld: %s", (long long)t->progress.step + 1, error.text);
    t->progress.loss += loss * B;

    if (rewire) {
        if (haste_rewire(&t->layer, &e->work, rewire, e->x, B, &positives, &moved, &error) != HASTE_OK)
            die(1, "rewiring: %s", error.text);
        t->progress.moved += moved;
    }
    e->seconds += now() - begin;
    if (t->shape.dense) t->bag.step++;
    else if (!encoder_backward(&t->bag, &t->train, document, B, e->x, grad_x, encoder_lr)) die(1, "out of memory");
}

static void engine_wait(trainer *t) { (void)t; }
static void engine_fetch(trainer *t) { (void)t; }

static const int32_t *engine_best_done(trainer *t, int turn)
{
    return t->engine->top + (size_t)turn * (size_t)t->room * TOP;
}

static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn)
{
    int32_t *top = t->engine->top + (size_t)turn * (size_t)t->room * TOP;
    haste_error error;
    encode(t, data, document, B, 0);
    if (haste_top_k(&t->layer, &t->engine->work, t->engine->x, B, TOP, NULL, top, NULL, &error) != HASTE_OK)
        die(1, "scoring documents: %s", error.text);
}

static void engine_result(const trainer *t) { printf(" layer_seconds=%.1f", t->engine->seconds); }

static void engine_free(trainer *t)
{
    haste_workspace_free(&t->engine->work);
    free(t->engine->x);
    free(t->engine->grad_x);
    free(t->engine->top);
    free(t->engine);
}

#endif /* TRAIN_CUDA */

/* Slots of the head; all where there is only one part. */
static int64_t head_slots(const trainer *t)
{
    return t->layer.block_count > 1 ? t->layer.block[1].first_slot : t->layer.slots;
}

/* ---- >>scores ------------------------------------------------------------------------------------------------ */

/* Scores n documents. 0: a signal came first. An engine may still work on one batch while the one before is judged. */
static int evaluate(trainer *t, const data_set *data, const int64_t *document, int64_t n, haste_metrics *metrics)
{
    haste_error error;
    haste_lists truth;
    const int32_t *top;
    int64_t i;
    int32_t B = 0, before;
    int turn = 0, stopped = 0;
    if (haste_metrics_init(metrics, TOP, &error) != HASTE_OK) die(1, "%s", error.text);
    memset(t->score, 0, sizeof t->score);
    for (i = 0; i == 0 || B > 0; i += t->room, turn = 1 - turn) {
        stopped |= i < n && stop_signal != 0;
        before = B;
        B = stopped || i >= n ? 0 : (int32_t)(n - i < t->room ? n - i : t->room);
        if (B > 0) engine_best(t, data, document + i, B, turn);
        if (before == 0) continue;
        top = engine_best_done(t, 1 - turn);
        truth = gather_labels(t, data, document + i - t->room, before);
        schedule_score(t->score, top, before, TOP, &truth, t->layer.slot_of, head_slots(t));
        if (haste_metrics_add(metrics, top, before, TOP, t->layer.labels, &truth, t->inverse_propensity, NULL,
                              &error) != HASTE_OK)
            die(1, "scoring documents: %s", error.text);
    }
    return !stopped;
}

/* ---- >>saving and resuming ----------------------------------------------------------------------------------- */

/* To path, with all that training needs, or (exported) without. */
static void save_to(trainer *t, const char *path, int exported)
{
    haste_section section[13];
    haste_error error;
    int32_t count = 0;
    size_t bytes = encoder_bytes(t->bag.features, t->bag.width);
    char *text = options_write(t->table, t->options), why[DATA_ERROR];
    if (!text) die(1, "out of memory");
    engine_fetch(t);
    t->progress.encoder_step = t->bag.step;
    model_add(section, &count, "encoder.shape", &t->shape, sizeof t->shape);
    if (!t->shape.dense) {
        model_add(section, &count, "encoder", t->bag.row, bytes);
        model_add(section, &count, "encoder.moment", t->bag.moment, encoder_moment_bytes(t->bag.features));
        model_add(section, &count, "encoder.seen", t->bag.seen, ((size_t)t->bag.features + 1) * sizeof(int64_t));
        model_add(section, &count, "idf", t->weight, (size_t)t->shape.features * sizeof(float));
        if (t->mean) model_add(section, &count, "mean", t->mean, (size_t)t->shape.features * sizeof(float));
    }
    model_add_vocabulary(section, &count, &t->words);
    model_add(section, &count, "frequency", t->frequency, (size_t)t->layer.labels * sizeof(int64_t));
    model_add(section, &count, "settings", text, strlen(text));
    model_add(section, &count, "progress", &t->progress, sizeof t->progress);
    if (exported) {
        if (!export_model(path, &t->layer, section, count, t->s.export_bf16, why)) die(1, "%s", why);
    } else if (haste_save(path, &t->layer, t->layer.dtype, section, count, &error) != HASTE_OK)
        die(1, "%s", error.text);
    free(text);
}

static void save(trainer *t) { save_to(t, t->s.save, 0); }

/* --resume and --export without TRAIN: nothing is trained. */
static void export_only(const settings *s)
{
    haste_file file;
    haste_error error;
    char why[DATA_ERROR];
    if (haste_load(s->resume, 0, &file, &error) != HASTE_OK) die(1, "%s", error.text);
    if (!export_model(s->export_path, &file.layer, file.section, file.section_count, s->export_bf16, why))
        die(1, "%s", why);
    printf("exported   %s, %.1f MiB (%s: %.1f)\n", s->export_path, file_bytes(s->export_path) / 1048576, s->resume,
           file_bytes(s->resume) / 1048576);
    haste_file_free(&file);
}

/* Reads the model and, before the data are read, the options that made it. */
static void open_resumed(trainer *t)
{
    char text[DATA_ERROR];
    haste_error error;
    const haste_section *section;
    const void *progress;
    if (haste_load(t->s.resume, 0, &t->file, &error) != HASTE_OK) die(1, "%s", error.text);
    if (haste_file_find(&t->file, "encoder.shape") && !haste_file_find(&t->file, "progress"))
        die(1, "%s: was exported to predict, without what training needs", t->s.resume);
    progress = model_section(&t->file, "progress", 0, t->s.resume, text);
    section = haste_file_find(&t->file, "progress");
    if (progress && section->bytes != sizeof t->progress && section->bytes != MODEL_PROGRESS_OLD)
        die(1, "%s: section 'progress' has %llu bytes; expected %llu", t->s.resume, (unsigned long long)section->bytes,
            (unsigned long long)sizeof t->progress);
    if (!progress || !model_read_shape(&t->file, t->s.resume, &t->shape, text) ||
        !model_section(&t->file, "settings", 0, t->s.resume, text))
        die(1, "%s", text);
    memcpy(&t->progress, progress, (size_t)section->bytes);
    if (t->progress.step < 0 || t->progress.joined < 0 || t->progress.joined > t->progress.step || t->progress.epoch < 0 ||
        t->progress.seen < 0 || !schedule_good(&t->progress.plan))
        die(1, "%s: section 'progress' holds numbers that are out of range", t->s.resume);
    section = haste_file_find(&t->file, "settings");
    if (!options_read(t->table, t->options, (const char *)section->data, (size_t)section->bytes, t->s.resume, text))
        die(2, "%s", text);
    if (!t->s.save) t->s.save = t->s.resume;
    t->layer = t->file.layer;
    if (!model_read_vocabulary(&t->file, t->s.resume, &t->shape, &t->words, text)) die(1, "%s", text);
}

/* ---- >>preparation ------------------------------------------------------------------------------------------- */

static void check_settings(const trainer *t)
{
    const settings *s = &t->s;
    if (s->group_size % 8 != 0) die(2, "--group-size %lld: expected a multiple of 8", (long long)s->group_size);
    if (!s->dense && !s->features && s->fan_in > s->hidden)
        die(2, "--fan-in %lld: more than the %lld inputs of --hidden", (long long)s->fan_in, (long long)s->hidden);
    if (s->features && !t->train_path) die(2, "--features needs TRAIN, which gives the labels");
    if ((s->test_features != NULL) != (s->features && t->test_path))
        die(2, s->test_features ? "--test-features needs --features and TEST" : "TEST needs --test-features where TRAIN has --features");
}

/* TRAIN or TEST; features: its dense ones, or NULL. */
static void read_documents(trainer *t, data_set *data, const char *path, const char *features, int64_t limit)
{
    data_reading how;
    data_documents about;
    char error[DATA_ERROR], text[200];
    memset(&how, 0, sizeof how);
    how.format = t->s.format;
    how.limit = limit;
    how.min_count = t->s.min_count;
    if (!data_read(data, &t->words, path, &how, &about, error) ||
        (features && !data_read_npy(data, features, limit, error))) die(1, "%s", error);
    if (data == &t->train) printf("format     %s\n", data_format_text(&about, text));
    if (data_skipped_text(&about.skipped, (int)t->words.shape.text, text)[0]) printf("skipped    %s: %s\n", path, text);
    if (data == &t->train && !data->dense && data->feature_offset[data->documents] == 0)
        die(1, "%s: no document has a feature", path);
}

static void read_data(trainer *t)
{
    char error[DATA_ERROR];
    double begin = now(), bytes = 0, seconds, ignored;
    int64_t i, held;
    bytes += file_bytes(t->train_path) + file_bytes(t->s.features);
    bytes += file_bytes(t->test_path) + file_bytes(t->s.test_features);
    if (!t->train_path) {
        int64_t n = t->s.limit_train > 0 ? t->s.limit_train : 30000;
        printf("data       made up (give TRAIN and TEST to learn from files)\n");
        if (!synthetic_make(&t->train, (uint64_t)t->s.seed, 0, n, &ignored) ||
            !synthetic_make(&t->test, (uint64_t)t->s.seed, n, 5000, &t->best)) die(1, "out of memory");
        vocabulary_ids(&t->words, t->train.features, t->train.labels);
    } else {
        t->words.shape.ngrams = t->s.ngrams;
        t->words.shape.hash_bits = t->s.hash_bits;
        if (!t->s.resume) t->words.shape.separator = t->s.separator;
        read_documents(t, &t->train, t->train_path, t->s.features, t->s.limit_train);
        if (t->s.label_names && !data_read_names(&t->words, t->s.label_names, error)) die(1, "%s", error);
    }
    if (t->test_path) {
        read_documents(t, &t->test, t->test_path, t->s.test_features, 0);
        if (t->test.width != t->train.width)
            die(1, "%s: %ld inputs; %s has %ld", t->s.test_features, (long)t->test.width, t->s.features, (long)t->train.width);
    }
    printf("train      %lld documents, %ld features, %ld labels; %.1f features and %.1f labels each\n", (long long)t->train.documents,
           (long)t->train.features, (long)t->train.labels,
           (double)t->train.feature_offset[t->train.documents] / (double)t->train.documents,
           (double)t->train.label_offset[t->train.documents] / (double)t->train.documents);
    if (t->test.documents > 0) printf("test       %lld documents\n", (long long)t->test.documents);
    seconds = now() - begin;
    printf("read in    %.1f s", seconds);
    if (bytes > 0) printf(", %.0f MB/s", bytes * 1e-6 / seconds);
    putchar('\n');

    t->document = (int64_t *)need((size_t)t->train.documents, sizeof(int64_t));
    /* Held out for a while only (valid stays -1) where there is something to choose from it, or a resumed run has. */
    if (t->s.valid < 0 && !t->s.resume && (t->s.epochs > 0 || t->train.documents < FEW)) t->s.valid = 0;
    if (!t->s.resume) t->progress.watch = t->s.valid != 0 && t->s.epochs == 0;
    held = (int64_t)((t->s.valid < 0 ? .05 : t->s.valid) * (double)t->train.documents);
    if (t->s.valid < 0) held = held > HELD_OUT ? HELD_OUT : held < 400 ? 400 : held;
    t->held_out = split_hold_out(&t->train, held, (uint64_t)t->s.seed, t->document);
    if (t->held_out == -1 && t->s.valid < 0) {   /* copies of one document */
        t->s.valid = 0;
        t->progress.watch = 0;
        t->held_out = 0;
    }
    if (t->held_out == -1)
        die(1, "--valid %g: no document is left to train on: too many have the same features", t->s.valid);
    if (t->held_out == -2) die(1, "out of memory");
    t->count = t->train.documents - t->held_out;
    t->learn = t->s.valid < 0 ? t->train.documents : t->count;
    if (t->held_out > 0 && !t->progress.joined)
        printf("held out   %lld documents%s%s\n", (long long)t->held_out, t->progress.watch ? ", which say how long to train" : "",
               t->s.valid < 0 ? ", and are trained on at the end (--valid 0: none)" : "");
    t->test_document = (int64_t *)need((size_t)t->test.documents, sizeof(int64_t));
    for (i = 0; i < t->test.documents; i++) t->test_document[i] = i;
}

/* Do documents have most features, as where these are measurements? */
static int shape_standard(const data_set *data)
{
    return !data->dense && (double)data->feature_offset[data->documents] >= .5 * (double)data->documents * data->features;
}

/* Feature weights, label frequencies and propensities, all from the training split. */
static void learn_statistics(trainer *t)
{
    char error[DATA_ERROR];
    haste_error why;
    model_shape shape;
    uint64_t hash = split_fingerprint(&t->train);
    int64_t i;
    for (i = t->count; i < t->train.documents; i++) hash = split_hash(hash, (uint64_t)t->document[i]);   /* the split */
    memset(&shape, 0, sizeof shape);
    if (t->s.values == VALUES_CHOSEN)
        t->s.values = shape_standard(&t->train) ? VALUES_STANDARD : has_tail(t->train.labels) || t->train.dense ? VALUES_TFIDF : VALUES_UNIT;
    shape.version = t->s.values == VALUES_STANDARD ? MODEL_VERSION : 1;
    shape.dense = t->train.dense != NULL;
    shape.features = t->train.features;
    shape.width = shape.dense ? t->train.width : t->s.hidden;
    shape.relu = t->s.activation == ACTIVATION_RELU;
    shape.tfidf = t->s.values == VALUES_TFIDF ? 1 : t->s.values == VALUES_STANDARD ? MODEL_STANDARD : 0;
    shape.unit = t->s.values != VALUES_RAW && t->s.values != VALUES_STANDARD;
    shape.documents = t->learn;
    if (t->s.resume && (hash != t->progress.fingerprint || memcmp(&shape, &t->shape, sizeof shape) != 0 ||
                        t->layer.labels != t->train.labels))
        die(1, "%s was trained on other documents than %s", t->s.resume, t->train_path ? t->train_path : "these");
    t->shape = shape;
    t->progress.fingerprint = hash;

    t->weight = (float *)need((size_t)shape.features, sizeof(float));
    t->frequency = (int64_t *)need((size_t)t->train.labels, sizeof(int64_t));
    t->inverse_propensity = (double *)need((size_t)t->train.labels, sizeof(double));
    t->mean = shape.tfidf == MODEL_STANDARD ? (float *)need((size_t)shape.features, sizeof(float)) : NULL;
    if (!(t->mean ? data_standard(&t->train, t->document, t->learn, t->weight, t->mean, error)
                  : data_feature_weights(&t->train, t->document, t->learn, (int)shape.tfidf, t->weight, error))) die(1, "%s", error);
    if (!model_weigh(&t->train, &shape, t->weight, t->mean) || !model_weigh(&t->test, &shape, t->weight, t->mean)) die(1, "out of memory");
    data_label_frequency(&t->train, t->document, t->learn, t->frequency);
    if (haste_inverse_propensity(t->frequency, t->train.labels, t->learn, 0, 0, t->inverse_propensity, &why) != HASTE_OK)
        die(1, "%s", why.text);
}

/* Labels embedded as the mean of their documents. */
static float *embed_labels(trainer *t, int32_t *width)
{
    int32_t L = t->train.labels, E = t->shape.dense ? (int32_t)t->shape.width : EMBEDDING;
    float *embedding = (float *)need((size_t)L, (size_t)E * sizeof(float)), *value = NULL;
    int64_t *offset = (int64_t *)need((size_t)t->room + 1, sizeof(int64_t)), i, j;
    int64_t feature_room = 0, value_room = 0;
    int32_t *feature = NULL, b;
    haste_error error;
    memset(embedding, 0, (size_t)L * (size_t)E * sizeof(float));
    for (i = 0; i < t->count; i += t->room) {
        int32_t B = (int32_t)(t->count - i < t->room ? t->count - i : t->room);
        haste_lists positives = gather_labels(t, &t->train, t->document + i, B);
        haste_status status;
        if (t->shape.dense) {
            if (!data_reserve((void **)&value, &value_room, (int64_t)B * E, sizeof(float))) die(1, "out of memory");
            gather_rows(&t->train, t->document + i, B, value);
            status = haste_embed_dense(embedding, L, E, value, B, &positives, t->bag.threads, &error);
        } else {
            haste_sparse x;
            offset[0] = 0;
            for (b = 0; b < B; b++) {
                int64_t begin = t->train.feature_offset[t->document[i + b]];
                int64_t n = t->train.feature_offset[t->document[i + b] + 1] - begin;
                if (!data_reserve((void **)&feature, &feature_room, offset[b] + n, sizeof(int32_t)) ||
                    !data_reserve((void **)&value, &value_room, offset[b] + n, sizeof(float))) die(1, "out of memory");
                for (j = 0; j < n; j++) {
                    feature[offset[b] + j] = t->train.feature[begin + j];
                    value[offset[b] + j] = t->train.value[begin + j];
                }
                offset[b + 1] = offset[b] + n;
            }
            x.offset = offset;
            x.feature = feature;
            x.value = value;
            status = haste_embed_sparse(embedding, L, E, (uint64_t)t->s.seed, &x, B, &positives, t->bag.threads, &error);
        }
        if (status != HASTE_OK) die(1, "embedding labels: %s", error.text);
    }
    if (haste_embed_finish(embedding, L, E, &error) != HASTE_OK) die(1, "embedding labels: %s", error.text);
    free(offset);
    free(feature);
    free(value);
    *width = E;
    return embedding;
}

/* The order of labels: the head by frequency, the rest as --grouping says. */
static int32_t *order_labels(trainer *t, int64_t head)
{
    int32_t L = t->train.labels, *order = (int32_t *)need((size_t)L, sizeof(int32_t));
    haste_error error;
    if (haste_order_by_frequency(t->frequency, L, order, &error) != HASTE_OK) die(1, "%s", error.text);
    if (head == L) return order;
    if (t->s.grouping == GROUPING_RANDOM && haste_order_random(order + head, L - head, (uint64_t)t->s.seed, &error) != HASTE_OK)
        die(1, "%s", error.text);
    if (t->s.grouping == GROUPING_SEMANTIC) {
        double begin = now();
        haste_group_options options;
        double before = 0, after = 0;
        int32_t E, n = (int32_t)(L - head), S = (int32_t)t->s.group_size, threads = t->bag.threads;
        float *embedding = embed_labels(t, &E);
        memset(&options, 0, sizeof options);
        options.group_size = S;
        options.threads = threads;
        options.seed = (uint64_t)t->s.seed;
        if (haste_cohesion(embedding, L, E, order + head, n, S, threads, &before, NULL, &error) != HASTE_OK ||
            haste_group(embedding, L, E, order + head, n, &options, &error) != HASTE_OK ||
            haste_cohesion(embedding, L, E, order + head, n, S, threads, &after, NULL, &error) != HASTE_OK)
            die(1, "grouping: %s", error.text);
        free(embedding);
        printf("grouping   semantic: cohesion %.3f (by frequency %.3f), %.1f s\n", after, before, now() - begin);
    }
    return order;
}

/* What the documents take in memory, about. */
static double data_bytes(const trainer *t)
{
    const data_set *data = &t->train;
    return 16.0 * (double)(data->documents + t->test.documents) + 4.0 * (double)data->label_offset[data->documents] +
           8.0 * (double)data->feature_offset[data->documents] + 4.0 * (double)data->width * (double)data->documents;
}

static void make_model(trainer *t)
{
    settings *s = &t->s;
    const int32_t L = t->train.labels, D = (int32_t)t->shape.width;
    haste_layer_options layer;
    haste_plan plan;
    haste_error error;
    static const char *const loss_name[] = { "bce", "hinge", "softmax" }, *const optimizer_name[] = { "sgd", "momentum", "adamw" };
    int64_t head = s->dense ? L : head_labels(s->head, L);
    int i;
    char text[DATA_ERROR];

    if (s->fan_in > D && !s->dense) die(2, "--fan-in %lld: more than the %ld inputs", (long long)s->fan_in, (long)D);
    t->room = s->batch > TRAIN_ROOM ? (int32_t)s->batch : TRAIN_ROOM;
    memset(&plan, 0, sizeof plan);
    memset(&layer, 0, sizeof layer);
    layer.labels = L;
    layer.inputs = D;
    if (s->resume)   /* as it was made, whatever the rules are now */
        for (i = 0, head = 0; i < t->layer.block_count; i++) {
            const haste_block *block = &t->layer.block[i];
            layer.block[i].labels = block->labels;
            layer.block[i].fan_in = block->index ? block->fan_in : HASTE_DENSE;
            layer.block[i].group_size = block->group_size;
            if (!block->index) head = block->labels;
            layer.block_count++;
        }
    else if (head > 0) {
        layer.block[layer.block_count].labels = head;
        layer.block[layer.block_count].fan_in = HASTE_DENSE;
        layer.block[layer.block_count++].group_size = (int32_t)s->group_size;
    }
    if (!s->resume && head < L) {
        layer.block[layer.block_count].labels = L - head;
        layer.block[layer.block_count].fan_in = (int32_t)s->fan_in;
        layer.block[layer.block_count++].group_size = (int32_t)s->group_size;
    }
    layer.frequency = t->frequency;
    layer.samples = t->learn;
    layer.loss = (haste_loss)s->loss;
    layer.optimizer = (haste_optimizer)(s->optimizer - 1);
    layer.dtype = layer.state_dtype = (haste_dtype)(s->dtype - 1);
    layer.seed = (uint64_t)s->seed;
    if (haste_plan_bytes(&layer, NULL, &plan, &error) != HASTE_OK) die(1, "%s", error.text);

    t->bag.features = t->train.features;
    t->bag.width = D;
    t->bag.relu = (int)t->shape.relu;
    t->bag.dropout = s->dropout;
    t->bag.seed = (uint64_t)s->seed;
#ifdef _OPENMP
    t->bag.threads = s->threads > 0 ? (int)s->threads : omp_get_max_threads();
#else
    t->bag.threads = 1;
#endif
    t->label_offset = (int64_t *)need((size_t)t->room + 1, sizeof(int64_t));

    if (s->resume) {
        const size_t bytes = encoder_bytes(t->bag.features, D);
        if (t->layer.optimizer != layer.optimizer || t->layer.dtype != layer.dtype || t->layer.loss != layer.loss)
            die(1, "%s: the layer is not what the settings beside it say", s->resume);
        if (!t->shape.dense) {
            t->bag.row = (float *)(uintptr_t)model_section(&t->file, "encoder", bytes, s->resume, text);
            if (t->bag.row) t->bag.moment = model_read_moment(&t->file, s->resume, &t->shape, text);
            if (t->bag.moment) t->bag.seen = (int64_t *)(uintptr_t)model_section(&t->file, "encoder.seen", ((size_t)t->bag.features + 1) * sizeof(int64_t), s->resume, text);
            if (!t->bag.seen) die(1, "%s", text);
            if (!encoder_scratch(&t->bag)) die(1, "out of memory");
        }
        t->bag.step = t->progress.encoder_step;
    } else {
        int32_t *order = order_labels(t, head);
        layer.order = order;
        if (!t->shape.dense && !encoder_create(&t->bag, s->encoder_init))
            die(1, "out of memory for the encoder (%.0f MiB)", mib(encoder_bytes(t->train.features, D)));
        if (haste_layer_create(&t->layer, &layer, &error) != HASTE_OK) die(1, "%s", error.text);
        free(order);
    }
    if (t->shape.dense) printf("inputs     %ld dense\n", (long)D);
    else printf("encoder    %ld features x %ld, %s, dropout %g\n", (long)t->train.features, (long)D,
                t->shape.relu ? "relu" : "linear", s->dropout);
    printf("layer      %ld labels", (long)L);
    if (head > 0) printf("; %lld dense", (long long)head);
    if (head < L) printf("; %lld in groups of %lld with %lld of %ld inputs", (long long)(L - head), (long long)s->group_size,
                         (long long)s->fan_in, (long)D);
    printf("; %.2f million parameters\n", (double)plan.parameters / 1e6);
    printf("training   %s%lld epochs of %lld steps of %lld documents, %s, %s %g, encoder %g\n", t->progress.watch ? "up to " : "", (long long)s->epochs,
           (long long)((t->count + s->batch - 1) / s->batch), (long long)s->batch, loss_name[s->loss], optimizer_name[s->optimizer - 1],
           s->lr, s->encoder_lr);
    engine_make(t, &layer);
}

/* ---- >>training ---------------------------------------------------------------------------------------------- */

/* One step on B documents. */
static void train_batch(trainer *t, const int64_t *document, int32_t B)
{
    const settings *s = &t->s;
    const schedule *plan = &t->progress.plan;
    const int64_t number = t->progress.step + 1;
    const double share = haste_rewire_share(number, (int64_t)(s->rewire_end * (double)plan->total), s->rewire_share);
    const double factor = schedule_largest(plan, t->progress.step, s->floor);
    haste_block_rates rates[HASTE_MAX_BLOCKS];
    haste_step_options step;
    haste_rewire_options rewire;
    int i;

    memset(&step, 0, sizeof step);
    memset(rates, 0, sizeof rates);
    step.lr = (float)(s->lr * factor);
    step.momentum = (float)s->momentum;
    step.weight_decay = (float)s->weight_decay;
    step.loss.negligible = (float)s->negligible;
    for (i = 0; i < t->layer.block_count && t->layer.block_count > 1; i++) {
        const double lr = s->lr * schedule_factor(plan, i > 0, t->progress.step, s->floor);
        rates[i].lr = lr > 0 ? (float)lr : (float)HASTE_NONE;
        if (i == 0) rates[i].weight_decay = (float)(s->weight_decay + s->head_decay);
        step.block = rates;
    }
    memset(&rewire, 0, sizeof rewire);
    rewire.share = (float)share;
    rewire.prune = (haste_prune)s->prune;
    rewire.scope = (haste_scope)s->scope;
    rewire.growth = (haste_growth)s->growth;
    rewire.uniform = s->uniform;
    engine_train(t, document, B, &step, (float)(s->encoder_lr * factor),
                 number % s->rewire_every == 0 && share > 0 ? &rewire : NULL);
    t->progress.step = number;
}

/* Looks at the documents held out, where there are some. 0: there are none, or a signal came first. */
static int look(trainer *t, haste_metrics *metrics)
{
    if (t->held_out == 0 || !evaluate(t, &t->train, t->document + t->count, t->held_out, metrics)) return 0;
    if (t->progress.watch && !t->progress.joined) schedule_look(&t->progress.plan, t->progress.step, t->layer.block_count > 1 ? SCHEDULE_PARTS : 1, t->score);
    return 1;
}

/* From here on the documents held out are trained on. */
static void join(trainer *t)
{
    t->count = t->train.documents;
    t->held_out = 0;
}

static void end_epoch(trainer *t, double lr, double seconds)
{
    haste_metrics valid, test;
    double loss = t->progress.loss / (double)(t->progress.seen > 0 ? t->progress.seen : 1);
    int has_valid, has_test;
    char error[DATA_ERROR];
    clear_progress();
    has_valid = look(t, &valid);
    printf("epoch %lld/%lld  loss %.4f", (long long)++t->progress.epoch, (long long)t->s.epochs, loss);
    if (has_valid) report_scores("valid", &valid);
    has_test = t->s.eval_test && t->test.documents > 0 && evaluate(t, &t->test, t->test_document, t->test.documents, &test);
    if (has_test) report_scores("test", &test);
    if (t->progress.moved > 0) printf("  moved %lld", (long long)t->progress.moved);
    printf("  %.1f s\n", seconds);
    fflush(stdout);
    if (t->s.log && !report_log(t->s.log, t->progress.epoch, t->progress.step, t->progress.seconds, loss, lr, t->progress.moved,
                                has_valid ? &valid : NULL, has_test ? &test : NULL, error)) die(1, "%s", error);
    t->progress.loss = 0;
    t->progress.seen = 0;
    t->progress.moved = 0;
    if (t->s.save) save(t);
}

static void train(trainer *t)
{
    settings *s = &t->s;
    model_progress *p = &t->progress;
    schedule *plan = &p->plan;
    const int64_t first_step = p->step, looks = (LOOK + s->batch - 1) / s->batch;
    int64_t batches = (t->count + s->batch - 1) / s->batch;
    const int terminal = isatty(2);
    char error[DATA_ERROR] = "";
    int64_t *order = (int64_t *)need((size_t)t->train.documents, sizeof(int64_t)), shuffled = -1;
    double shown = now(), epoch_begin = p->seconds, run_begin = p->seconds;

    if (plan->total == 0) {   /* a new run, or one that began before there were plans */
        const double most = schedule_passes((double)t->learn, has_tail(t->train.labels)), given = (double)s->epochs;
        const double passes = p->watch && most < given ? most : given;
        const int64_t total = (int64_t)((double)batches * passes);
        schedule_begin(plan, total, (int64_t)(s->warmup < 1 ? s->warmup * (double)total : s->warmup));
        p->epoch = p->step / batches;
        p->seen = p->step % batches * s->batch;
    }
    if (p->joined) join(t);
    if (s->log) {
        FILE *log = report_open_log(s->log, error);
        if (!log || fclose(log) != 0) die(1, "%s", error);
    }
    if (s->save && !s->resume) save(t);   /* a path that cannot be written shows now, not after the first epoch */
    if (p->step > 0) printf("resumed    after %lld of %lld steps\n", (long long)p->step, (long long)schedule_end(plan));
    fflush(stdout);
    catch_signals(on_signal);
    while (p->step < schedule_end(plan) && !(s->stop_after > 0 && p->epoch >= s->stop_after) && !stop_signal) {
        int64_t epoch, batch;
        int32_t B;
        const double begin = now();
        double end;
        batches = (t->count + s->batch - 1) / s->batch;
        epoch = (p->step - p->joined) / batches + (p->joined ? INT64_C(1) << 31 : 0);   /* of other documents: in another order */
        batch = (p->step - p->joined) % batches;
        B = (int32_t)(t->count - batch * s->batch < s->batch ? t->count - batch * s->batch : s->batch);
        if (shuffled != epoch) {
            split_shuffle(t->document, t->count, (uint64_t)s->seed, epoch, order);
            shuffled = epoch;
        }
        train_batch(t, order + batch * s->batch, B);
        p->seen += B;
        if (batch + 1 == batches || p->step == schedule_end(plan)) engine_wait(t);
        end = now();
        p->seconds += end - begin;
        if (terminal && end - shown > .2) {
            double run = p->seconds - run_begin, rate = (double)(p->step - first_step) / run;
            int64_t left = (int64_t)((double)(schedule_end(plan) - p->step) / rate);
            fprintf(stderr, "\repoch %lld/%lld  batch %lld/%lld  loss %.4f  %.0f samples/s  %lld:%02lld left   ", (long long)p->epoch + 1,
                    (long long)s->epochs, (long long)batch + 1, (long long)batches, p->loss / (double)p->seen,
                    rate * (double)s->batch, (long long)(left / 60), (long long)(left % 60));
            progress_shown = 1;
            shown = end;
        }
        if (batch + 1 == batches || p->step == schedule_end(plan)) {
            end_epoch(t, s->lr * schedule_largest(plan, p->step - 1, s->floor), p->seconds - epoch_begin);
            epoch_begin = p->seconds;
        } else if (p->watch && !p->joined && (batch + 1) % looks == 0) {
            haste_metrics ignored;
            engine_wait(t);
            look(t, &ignored);
        }
        if (s->valid < 0 && !p->joined && schedule_chosen(plan, p->step)) {
            p->joined = p->step;
            join(t);
        }
    }
    free(order);
    clear_progress();
    if (stop_signal && p->step < schedule_end(plan)) {
        if (s->save) save(t);
        printf("stopped    after %lld of %lld steps; ", (long long)p->step, (long long)schedule_end(plan));
        if (s->save) printf("go on with --resume %s\n", s->save);
        else printf("nothing is kept without --save\n");
        fflush(stdout);
        exit(128 + stop_signal);
    }
    stop_signal = 0;
    catch_signals(SIG_DFL);
}

/* Scores TEST (without it: what --valid held out) and prints the line for scripts. */
static void finish(trainer *t)
{
    haste_metrics metrics;
    const int tested = t->test.documents > 0;
    const char *name = tested ? "test" : "valid";
    const double begin = now();
    int64_t n = tested ? t->test.documents : t->held_out;
    if (tested) evaluate(t, &t->test, t->test_document, n, &metrics);
    else if (n > 0) evaluate(t, &t->train, t->document + t->count, n, &metrics);
    if (n > 0) {
        double seconds = now() - begin;
        printf("%-9s", name);
        report_scores("", &metrics);
        printf("  %.1f s, %.0f documents/s\n", seconds, (double)n / seconds);
        if (t->best > 0) {
            double got = haste_metrics_get(&metrics, 1).precision;
            printf("best       P@1 %.2f is the best possible; reached %.1f%% of it\n", t->best, 100 * got / t->best);
        }
    }
    if (t->s.export_path) {
        double after = 0;
        char why[DATA_ERROR];
        save_to(t, t->s.export_path, 1);
        printf("exported   %s, %.1f MiB", t->s.export_path, file_bytes(t->s.export_path) / 1048576);
        if (n > 0 && !export_precision(t->s.export_path, tested ? &t->test : &t->train,
                                       tested ? t->test_document : t->document + t->count, n, t->bag.threads, &after, why))
            die(1, "%s", why);
        if (n > 0) printf("; P@1 %.2f, before %.2f", after, haste_metrics_get(&metrics, 1).precision);
        putchar('\n');
    }
    printf("result");
    if (n > 0) report_result(&metrics);
    printf(" epochs=%lld seconds=%.1f peak_mib=%.0f", (long long)t->progress.epoch, t->progress.seconds,
           peak_mib());
    engine_result(t);
    putchar('\n');
}

int main(int argc, char **argv)
{
    static trainer t;   /* zeroed, and too large to be comfortable on a stack */
    const char *file[2] = { NULL, NULL };
    char error[DATA_ERROR];
    int files = 0, i;

    t.s = settings_default();
    t.options = settings_options(&t.s, t.table);
    if (!options_parse(t.table, t.options, argc, argv, file, &files, 2, error)) die(2, "%s", error);
    if (t.s.help) {
        printf("usage: " TRAIN_NAME " [TRAIN [TEST]] [options]\n\n"
               "Trains an extreme classifier on TRAIN and scores it on TEST. They are text with labels (fastText's lines,\n"
               "TSV or CSV with labels in the first column) or numbered features (LIBSVM, or with the header of the\n"
               "Extreme Classification Repository), also as .gz%s or from a pipe; - is standard input.\n"
               "Without files it learns a made-up data set. Defaults stand in brackets.\n",
#ifdef HASTE_ZLIB
               ""
#else
               " (not in this build: no zlib)"
#endif
               );
        options_help(t.table, t.options, stdout);
        if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));
        return 0;
    }
    t.train_path = file[0];
    t.test_path = file[1];
    for (i = 0; i < t.options; i++)
        if (strcmp(t.table[i].name, "epochs") == 0) t.epochs_given = t.table[i].given;
    if (!t.train_path && !t.epochs_given) t.s.epochs = 8;   /* enough for made-up data */
    check_settings(&t);
    if (t.s.resume && t.s.export_path && !t.train_path) {
        export_only(&t.s);
        return 0;
    }
    if (t.s.resume) open_resumed(&t);
    engine_check();
    read_data(&t);
    choose_settings(&t.s, t.count, t.train.labels, t.train.dense ? t.train.width : t.s.hidden);   /* a resumed run has its choices already */
    learn_statistics(&t);
    make_model(&t);
    train(&t);
    finish(&t);
    engine_free(&t);
    if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));
    return 0;
}
