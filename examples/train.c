/* haste-train: trains an extreme classifier on documents and says how good it is.

       haste-train                                      a made-up data set, under a minute
       haste-train TRAIN TEST --save model.haste        text, or numbers of features: formats.h lists what it reads
       haste-train --help

   Sparse documents go through an embedding bag (encoder.h) into the layer (haste.h); dense .npy features go straight into the
   layer. What is learnt from data (feature weights, frequencies, groups) is learnt from the training split only, and TEST is
   scored but decides nothing. How long to train is seen from a part of TRAIN (schedule.h); settings.h has the defaults.

   mkdir -p build && cc -std=c99 -O3 -fopenmp -I. examples/train.c -o build/haste-train -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "formats.h"
#include "encoder.h"
#include "export.h"
#include "grow.h"
#include "order.h"
#include "keep.h"
#include "model.h"
#include "options.h"
#include "page.h"
#include "plan.h"
#include "report.h"
#include "schedule.h"
#include "split.h"
#include "synthetic.h"
#include "system.h"

#define TOP       5
#define HELD_OUT  5000     /* documents held out at most where --valid is left to us */
#define LOOK      150000   /* documents between two looks at them, at most */

/* haste-train-cuda, -mpi and -nccl are this program with other engines: train_cuda.cu, train_mpi.c and train_nccl.cu say otherwise,
   then include this file. */
#ifndef TRAIN_NAME
    #define TRAIN_NAME  "haste-train"
    #define TRAIN_PATHS "auto|portable|avx2|avx512|neon"
    #define TRAIN_DTYPE HASTE_F32   /* what --dtype chosen means */
    #define TRAIN_SAME  ", bit for bit"
    #define TRAIN_ROOM  256         /* documents scored at a time; more where --batch says so */
    #define TRAIN_PLAN              /* it has --plan */
#endif
#ifndef TRAIN_MAP
    #define TRAIN_MAP   0           /* of haste_load, for a model that training goes on from */
#endif

#define PROGRAM_NAME TRAIN_NAME
#include "program.h"
#include "processes.h"
#include "settings.h"

/* ---- >>the run ----------------------------------------------------------------------------------------------- */

typedef struct trainer {
    settings        s;
    option          table[OPTION_ROOM];
    int             options, epochs_given, warmup_given, rates_given;
    int             argc;
    char          **argv;
    const char     *name, *train_path, *test_path;   /* name: of the program, as it was called */
    int             anew;                   /* a model that is resumed on other documents than before */
    int64_t         known;                  /* features that it has */
    char            said[8192];             /* what was printed about the run, for the report */

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
    char            run[REPORT_RUN];
    report_point   *point;                  /* [points] */
    int64_t         points, point_room;
    double          tried_at;               /* when it was last tried to keep the model */
    int             unkept;                 /* the last time failed */
    double          glanced_at, glance_seconds, glance;   /* at held-out documents within an epoch; P@1 */
    encoder         bag;                    /* with dense inputs only its dropout is used */
    haste_layer     layer;
    haste_file      file;                   /* the model that training is resumed from: owns layer and bag then */
    struct engine  *engine;
    int32_t         room;                   /* documents scored at a time, at least --batch */

    int64_t        *label_offset;           /* [room + 1] the labels of the documents of a batch */
    int32_t        *label;
    int64_t         label_room;
} trainer;

/* Prints what the report says, too. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void say(trainer *t, const char *format, ...)
{
    const size_t used = strlen(t->said);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(t->said + used, sizeof t->said - used, format, arguments);
    va_end(arguments);
    fputs(t->said + used, stdout);
}

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

/* ---- >>engine ------------------------------------------------------------------------------------------------ */

/* The engine trains and asks the layer and the encoder: the CPU's is train_cpu.h, the GPU's in train_cuda.cu, those of several
   processes in train_mpi.c and train_nccl.cu. t->layer and t->bag are the model as it is made, saved and resumed; a GPU has its own copies, and of
   several processes each has a part. */
static void engine_check(const trainer *t);   /* can this machine do it? */
static void engine_begin(trainer *t, const haste_layer_options *options);  /* makes t->layer and t->bag of a new model */
static void engine_make(trainer *t, const haste_layer_options *options);   /* and says what it takes */
/* One step, whose loss is added to t->progress (by a GPU later, but before engine_wait returns), and moved inputs where rewire
   is not NULL. */
static void engine_train(trainer *t, const int64_t *document, int32_t B, const haste_step_options *step, float encoder_lr,
                         const haste_rewire_options *rewire);
static void engine_wait(trainer *t);          /* until all steps are done */
/* Likewise, and t->layer and t->bag are up to date, for a model that is to be written to path, until engine_fetched, which hands
   on what came of it. 0 with why. Of several processes the first one has them, and writes. */
static int engine_fetch(trainer *t, const char *path, char *why);
static int engine_fetched(trainer *t, int ok, char *why);
/* The TOP best labels of each document, to be had from engine_best_done. Two batches in turn may be under way: turn is 0 or 1. */
static void engine_best(trainer *t, const data_set *data, const int64_t *document, int32_t B, int turn);
static const int32_t *engine_best_done(trainer *t, int turn);
static void engine_result(const trainer *t);  /* what it adds to the line for scripts */
static void engine_free(trainer *t);

static double  data_bytes(const trainer *t);

/* A new model in one piece. */
static inline void make_whole(trainer *t, const haste_layer_options *options)
{
    haste_error error;
    if (!t->shape.dense && !encoder_create(&t->bag, t->s.encoder_init))
        die(1, "out of memory for the encoder (%.0f MiB)", mib(encoder_bytes(t->bag.features, t->bag.width)));
    if (haste_layer_create(&t->layer, options, &error) != HASTE_OK) die(1, "%s", error.text);
}

#ifdef TRAIN_PLAN
    #include "train_cpu.h"
#endif

/* Slots of the head; all where there is only one part. */
static int64_t head_slots(const trainer *t)
{
    return t->layer.block_count > 1 ? t->layer.block[1].first_slot : t->layer.slots;
}

/* ---- >>scores ------------------------------------------------------------------------------------------------ */

/* Scores n documents; bins: counts labels by frequency, too, or NULL. 0: a signal came first, which waits where it depends on the
   scores how training goes on. All processes get the same. An engine may still work on one batch while the one before is judged. */
static int evaluate(trainer *t, const data_set *data, const int64_t *document, int64_t n, haste_metrics *metrics,
                    report_bins *bins)
{
    haste_error error;
    haste_lists truth;
    const int32_t *top;
    int64_t i;
    int32_t B = 0, before;
    const int needed = data == &t->train && t->progress.watch && !t->progress.joined;
    int turn = 0, stopped = 0;
    if (haste_metrics_init(metrics, TOP, &error) != HASTE_OK) die(1, "%s", error.text);
    memset(t->score, 0, sizeof t->score);
    for (i = 0; i == 0 || B > 0; i += t->room, turn = 1 - turn) {
        stopped |= i < n && processes_signal() != 0 && !needed;
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
        if (bins) report_bins_add(bins, t->frequency, top, before, TOP, &truth);
    }
    return !stopped;
}

/* ---- >>saving and resuming ----------------------------------------------------------------------------------- */

/* To path, with all that training needs, or (exported) without. 0 with why. */
static int save_to(trainer *t, const char *path, int exported, char *why)
{
    haste_section section[15];
    haste_error error;
    int32_t count = 0;
    size_t bytes = encoder_bytes(t->bag.features, t->bag.width);
    char *text = options_write(t->table, t->options);
    int ok = 1;
    if (!text) die(1, "out of memory");
    if (!engine_fetch(t, path, why)) {
        free(text);
        return 0;
    }
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
    model_add(section, &count, "run", t->run, strlen(t->run));
    if (t->points > 0) model_add(section, &count, "history", t->point, (size_t)t->points * sizeof t->point[0]);
    if (exported && processes_first()) ok = export_model(path, &t->layer, section, count, t->s.export_bf16, why);
    else if (processes_first())
        ok = haste_save(path, &t->layer, t->layer.dtype, section, count, &error) == HASTE_OK || data_fail(why, "%s", error.text);
    free(text);
    return engine_fetched(t, ok, why);
}

/* Keeps the model. 0: it cannot be written, which is said (once, until it can), and is no reason to stop. */
static int save(trainer *t)
{
    char why[DATA_ERROR];
    const int before = t->unkept;
    t->unkept = !save_to(t, t->s.save, 0, why);
    t->tried_at = now();
    terminal_clear(&progress_shown);
    if (t->unkept && !before && processes_first()) fprintf(stderr, TRAIN_NAME ": %s; training goes on, and this is tried again\n", why);
    if (before && !t->unkept && processes_first()) fprintf(stderr, TRAIN_NAME ": %s is kept again\n", t->s.save);
    return !t->unkept;
}

/* The last chance: waits for room, until a signal comes. */
static int save_at_last(trainer *t)
{
    char why[DATA_ERROR];
    const double end = now() + 60 * t->s.save_wait;
    while ((t->unkept = !save_to(t, t->s.save, 0, why)) != 0) {
        const double left = end - now();
        if (processes_agree(left <= 0 || stop_signal)) break;
        if (processes_first())
            fprintf(stderr, TRAIN_NAME ": %s; waiting for room, %.1f minutes more (--save-wait)\n", why, left / 60);
        wait_seconds(left < 10 ? left : 10);
    }
    if (t->unkept && processes_first()) fprintf(stderr, TRAIN_NAME ": %s; what came after it was last kept is lost\n", why);
    return !t->unkept;
}

/* The command that goes on, as a shell takes it. */
static void print_command(const trainer *t, FILE *out)
{
    const char *const file[] = { t->name, t->train_path, t->test_path };
    int i;
    for (i = 0; i < 3 && file[i]; i++) {
        if (i > 0) fputc(' ', out);
        option_quote(file[i], out);
    }
    options_command(t->table, t->options, "save resume ", out);
    fprintf(out, " --resume ");
    option_quote(t->s.save, out);
    fputc('\n', out);
}

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
    int64_t i;
    if (haste_load(t->s.resume, TRAIN_MAP, &t->file, &error) != HASTE_OK) die(1, "%s", error.text);
    if (TRAIN_MAP && processes_first() && haste_file_check(&t->file, &error) != HASTE_OK) die(1, "%s: %s", t->s.resume, error.text);
    if (haste_file_find(&t->file, "encoder.shape") && !haste_file_find(&t->file, "progress"))
        die(1, "%s: was exported to predict, without what training needs", t->s.resume);
    if (!model_read_shape(&t->file, t->s.resume, &t->shape, text) ||
        !model_read_progress(&t->file, t->s.resume, &t->progress, text) ||
        !model_section(&t->file, "settings", 0, t->s.resume, text))
        die(1, "%s", text);
    section = haste_file_find(&t->file, "settings");
    if (!options_read(t->table, t->options, (const char *)section->data, (size_t)section->bytes, t->s.resume, text))
        die(2, "%s", text);
    t->layer = t->file.layer;
    if (!model_read_vocabulary(&t->file, t->s.resume, &t->shape, &t->words, text)) die(1, "%s", text);
    if (t->words.shape.text && (t->words.shape.ngrams != t->s.ngrams || t->words.shape.hash_bits != t->s.hash_bits))
        die(1, "%s: its vocabulary is not what the settings beside it say", t->s.resume);
    t->words.grows = 1;   /* while TRAIN is read */
    section = haste_file_find(&t->file, "run");
    if (section && section->bytes < sizeof t->run) memcpy(t->run, section->data, (size_t)section->bytes);
    t->run[strspn(t->run, "0123456789abcdef-")] = 0;
    section = haste_file_find(&t->file, "history");
    if (!section || section->bytes % sizeof t->point[0] != 0) return;
    t->points = (int64_t)(section->bytes / sizeof t->point[0]);
    if (!data_reserve((void **)&t->point, &t->point_room, t->points, sizeof t->point[0])) die(1, "out of memory");
    memcpy(t->point, section->data, (size_t)section->bytes);
    for (i = 0; i < t->points * (int64_t)(sizeof t->point[0] / sizeof(double)); i++)   /* a forged one is left out */
        if (!(fabs(((const double *)t->point)[i]) <= 1e15)) t->points = 0;
}

/* ---- >>preparation ------------------------------------------------------------------------------------------- */

static void check_settings(const trainer *t)
{
    const settings *s = &t->s;
    char error[DATA_ERROR];
    if (s->group_size % 8 != 0) die(2, "--group-size %lld: expected a multiple of 8", (long long)s->group_size);
    if (!s->dense && !s->features && s->fan_in > s->hidden)
        die(2, "--fan-in %lld: more than the %lld inputs of --hidden", (long long)s->fan_in, (long long)s->hidden);
    if (s->features && !t->train_path) die(2, "--features needs TRAIN, which gives the labels");
    if ((s->test_features != NULL) != (s->features && t->test_path))
        die(2, s->test_features ? "--test-features needs --features and TEST" : "TEST needs --test-features where TRAIN has --features");
    if ((s->save && !keep_may_write("save", s->save, KEEP_MODEL, "model", error)) ||
        (s->export_path && !keep_may_write("export", s->export_path, KEEP_MODEL, "model", error)) ||
        (s->log && !keep_may_write("log", s->log, REPORT_LOG, "log of this version", error)) ||
        !keep_differ("export", s->export_path, "save", s->save, error) ||
        !keep_differ("export", s->export_path, "resume", s->resume, error) ||
        !keep_differ("log", s->log, "save", s->save ? s->save : s->resume, error) ||
        !keep_differ("log", s->log, "export", s->export_path, error) ||
        (s->report && !s->plan && !page_folder(s->report, error)))
        die(2, "%s", error);
    if (s->export_bf16 && !s->export_path) die(2, "--export-bf16 needs --export FILE");
    if (s->plan && t->train_path) die(2, "--plan reads no file, and not %s", t->train_path);
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
    if (data == &t->train) say(t, "format     %s\n", data_format_text(&about, text));
    if (data_skipped_text(&about.skipped, (int)t->words.shape.text, text)[0]) say(t, "skipped    %s: %s\n", path, text);
    if (data == &t->train && !data->dense && data->feature_offset[data->documents] == 0)
        die(1, "%s: no document has a feature", path);
}

/* Which documents of TRAIN are held out. */
static void split_documents(trainer *t)
{
    int64_t held = (int64_t)((t->s.valid < 0 ? .05 : t->s.valid) * (double)t->train.documents);
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
}

static void read_data(trainer *t)
{
    char error[DATA_ERROR];
    double begin = now(), bytes = 0, seconds, ignored;
    int64_t i;
    bytes += file_bytes(t->train_path) + file_bytes(t->s.features);
    bytes += file_bytes(t->test_path) + file_bytes(t->s.test_features);
    if (!t->train_path) {
        int64_t n = t->s.limit_train > 0 ? t->s.limit_train : 30000;
        printf("data       made up (give TRAIN and TEST to learn from files)\n");
        if (!synthetic_make(&t->train, (uint64_t)t->s.seed, 0, n, &ignored) ||
            !synthetic_make(&t->test, (uint64_t)t->s.seed, n, 5000, &t->best)) die(1, "out of memory");
        vocabulary_ids(&t->words, t->train.features, t->train.labels);
    } else {
        if (!t->s.resume) {
            t->words.shape.ngrams = t->s.ngrams;
            t->words.shape.hash_bits = t->s.hash_bits;
            t->words.shape.separator = t->s.separator;
        }
        read_documents(t, &t->train, t->train_path, t->s.features, t->s.limit_train);
        if (t->s.label_names && !data_read_names(&t->words, t->s.label_names, error)) die(1, "%s", error);
    }
    if (t->test_path) {
        read_documents(t, &t->test, t->test_path, t->s.test_features, 0);
        if (t->test.width != t->train.width)
            die(1, "%s: %ld inputs; %s has %ld", t->s.test_features, (long)t->test.width, t->s.features, (long)t->train.width);
    }
    say(t, "train      %lld documents, %ld features, %ld labels; %.1f features and %.1f labels each\n", (long long)t->train.documents,
           (long)t->train.features, (long)t->train.labels,
           (double)t->train.feature_offset[t->train.documents] / (double)t->train.documents,
           (double)t->train.label_offset[t->train.documents] / (double)t->train.documents);
    if (t->test.documents > 0) say(t, "test       %lld documents\n", (long long)t->test.documents);
    seconds = now() - begin;
    if (bytes > 0) say(t, "read in    %.1f s, %.0f MB/s\n", seconds, bytes * 1e-6 / seconds);
    else say(t, "read in    %.1f s\n", seconds);

    t->document = (int64_t *)need((size_t)t->train.documents, sizeof(int64_t));
    /* Held out for a while only (valid stays -1) where there is something to choose from it, or a resumed run has. */
    if (t->s.valid < 0 && (t->s.resume ? t->train.documents < schedule_fewest(1)
                                       : t->s.epochs > 0 || !schedule_chooses(t->train.documents, has_tail(t->train.labels))))
        t->s.valid = 0;
    if (!t->s.resume)
        t->progress.watch = t->s.valid != 0 && t->s.epochs == 0 && schedule_chooses(t->train.documents, has_tail(t->train.labels));
    split_documents(t);
    t->test_document = (int64_t *)need((size_t)t->test.documents, sizeof(int64_t));
    for (i = 0; i < t->test.documents; i++) t->test_document[i] = i;
}

/* A number for TRAIN and its split. */
static uint64_t fingerprint(const trainer *t)
{
    uint64_t hash = split_fingerprint(&t->train);
    int64_t i;
    for (i = t->count; i < t->train.documents; i++) hash = split_hash(hash, (uint64_t)t->document[i]);
    return hash;
}

/* Which documents these are. A model goes on with those that it knows, or, where --save says that this is meant, anew with
   others: words and their weights stay as they are, labels are found by name. */
static void recognise_documents(trainer *t)
{
    const char *these = t->train_path ? t->train_path : "these";
    uint64_t hash = fingerprint(t);
    t->anew = t->s.resume && (hash != t->progress.fingerprint || t->layer.labels != t->train.labels || t->shape.documents != t->learn);
    if (t->anew && !t->train_path)
        die(2, "%s was trained on documents: name them, too: " TRAIN_NAME " TRAIN [TEST] --resume ...", t->s.resume);
    if (t->anew && (t->shape.dense != 0) != (t->train.dense != NULL))
        die(1, "%s was trained on other documents than %s: %s", t->s.resume, these,
            t->shape.dense ? "on dense features (--features)" : "on sparse features");
    if (t->anew && !t->s.save)
        die(1, "%s was trained on other documents than %s; to train it on these, too, give --save", t->s.resume, these);
    if (t->anew && t->s.valid < 0) {   /* few epochs: nothing is chosen */
        t->s.valid = 0;
        split_documents(t);
        hash = fingerprint(t);
    }
    if (t->anew) {
        const int64_t encoder_step = t->progress.encoder_step;
        memset(&t->progress, 0, sizeof t->progress);
        t->progress.encoder_step = encoder_step;
        t->points = 0;
        if (!t->rates_given) t->s.rates = 1. / 3;
    }
    t->progress.fingerprint = hash;
    if (!t->s.resume || t->anew || !t->run[0]) report_run(t->run, hash ^ (uint64_t)(now() * 1e6));
    if (t->s.resume && t->epochs_given) t->progress.watch = 0;
    if (t->held_out > 0 && !t->progress.joined)
        say(t, "held out   %lld documents%s%s\n", (long long)t->held_out, t->progress.watch ? ", which say how long to train" : "",
            t->s.valid < 0 ? ", and are trained on at the end (--valid 0: none)" : "");
}

/* Do documents have most features, as where these are measurements? */
static int has_measurements(const data_set *data)
{
    return !data->dense && (double)data->feature_offset[data->documents] >= .5 * (double)data->documents * data->features;
}

/* Feature weights, label frequencies and propensities, all from the training split. */
static void learn_statistics(trainer *t)
{
    char error[DATA_ERROR];
    haste_error why;
    model_shape shape;
    const float *kept, *mean = NULL;
    int64_t i;
    memset(&shape, 0, sizeof shape);
    if (t->s.values == VALUES_CHOSEN)
        t->s.values = has_measurements(&t->train) ? VALUES_STANDARD :
                      has_tail(t->train.labels) || t->train.dense ? VALUES_TFIDF : VALUES_UNIT;
    shape.version = t->s.values == VALUES_STANDARD ? MODEL_VERSION : 1;
    shape.dense = t->train.dense != NULL;
    shape.features = t->train.features;
    shape.width = shape.dense ? t->train.width : t->s.hidden;
    shape.relu = t->s.activation == ACTIVATION_RELU;
    shape.tfidf = t->s.values == VALUES_TFIDF ? 1 : t->s.values == VALUES_STANDARD ? MODEL_STANDARD : 0;
    shape.unit = t->s.values != VALUES_RAW && t->s.values != VALUES_STANDARD;
    shape.documents = t->learn;
    t->known = t->shape.features;
    if (t->anew) t->shape.documents = shape.documents;
    if (t->anew) t->shape.features = shape.features;
    if (t->s.resume && memcmp(&shape, &t->shape, sizeof shape) != 0)
        die(1, "%s: its encoder is not what these documents and its settings want", t->s.resume);
    t->shape = shape;

    t->weight = (float *)need((size_t)shape.features, sizeof(float));
    t->frequency = (int64_t *)need((size_t)t->train.labels, sizeof(int64_t));
    t->inverse_propensity = (double *)need((size_t)t->train.labels, sizeof(double));
    t->mean = shape.tfidf == MODEL_STANDARD ? (float *)need((size_t)shape.features, sizeof(float)) : NULL;
    if (!(t->mean ? data_standard(&t->train, t->document, t->learn, t->weight, t->mean, error)
                  : data_feature_weights(&t->train, t->document, t->learn, (int)shape.tfidf, t->weight, error))) die(1, "%s", error);
    if (t->anew && !shape.dense) {   /* the encoder knows words by these weights */
        kept = (const float *)model_section(&t->file, "idf", (uint64_t)t->known * sizeof(float), t->s.resume, error);
        if (kept && t->mean) mean = (const float *)model_section(&t->file, "mean", (uint64_t)t->known * sizeof(float), t->s.resume, error);
        if (!kept || (t->mean && !mean)) die(1, "%s", error);
        for (i = 0; i < t->known; i++) {   /* 0: a feature that no document had, or all the same */
            if (!(kept[i] > 0 && kept[i] <= 1e30f && (!mean || fabsf(mean[i]) <= 1e30f))) continue;
            t->weight[i] = kept[i];
            if (mean) t->mean[i] = mean[i];
        }
    }
    if (!model_weigh(&t->train, &shape, t->weight, t->mean) || !model_weigh(&t->test, &shape, t->weight, t->mean))
        die(1, "out of memory");
    data_label_frequency(&t->train, t->document, t->learn, t->frequency);
    if (haste_inverse_propensity(t->frequency, t->train.labels, t->learn, 0, 0, t->inverse_propensity, &why) != HASTE_OK)
        die(1, "%s", why.text);
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
    int64_t head;
    int i;
    char text[DATA_ERROR];

    if (s->fan_in > D && !s->dense) die(2, "--fan-in %lld: more than the %ld inputs", (long long)s->fan_in, (long)D);
    t->room = s->batch > TRAIN_ROOM ? (int32_t)s->batch : TRAIN_ROOM;
    memset(&plan, 0, sizeof plan);
    head = describe_layer(s, L, D, &layer);
    if (t->anew) {
        say(t, "anew       %s on other documents: its %ld labels%s and %ld new ones, its %lld features and %lld new ones; rates x %.3g\n",
            s->resume, (long)t->layer.labels, t->words.shape.named ? " by name" : "", (long)(L - t->layer.labels), (long long)t->known,
            (long long)(t->shape.features - t->known), s->rates);
        if (!grow_layer(&t->layer, L - t->layer.labels, t->frequency + t->layer.labels, t->learn, text)) die(1, "%s", text);
    }
    if (s->resume)   /* as it was made, whatever the rules are now */
        for (i = 0, head = 0, layer.block_count = t->layer.block_count; i < t->layer.block_count; i++) {
            const haste_block *block = &t->layer.block[i];
            layer.block[i].labels = block->labels;
            layer.block[i].fan_in = block->index ? block->fan_in : HASTE_DENSE;
            layer.block[i].group_size = block->group_size;
            if (!block->index) head = block->labels;
        }
    layer.frequency = t->frequency;
    layer.samples = t->learn;
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
        if (t->layer.optimizer != layer.optimizer || t->layer.dtype != layer.dtype || t->layer.loss != layer.loss)
            die(1, "%s: the layer is not what the settings beside it say", s->resume);
        if (!t->shape.dense) {
            model_shape kept = t->shape;
            kept.features = t->known;
            t->bag.step = t->progress.encoder_step;
            t->bag.features = (int32_t)t->known;
            if (!model_read_training(&t->file, s->resume, &kept, t->bag.step, &t->bag, text)) die(1, "%s", text);
            if (!grow_encoder(&t->bag, t->train.features, s->encoder_init)) die(1, "out of memory for the encoder");
        }
        t->bag.step = t->progress.encoder_step;
    } else {
        double before = -1, after = -1, begin = now();
        int32_t *order = (int32_t *)need((size_t)L, sizeof(int32_t));
        if (!order_labels(&t->train, t->document, t->count, t->frequency, head, (int32_t)s->group_size, s->grouping, (uint64_t)s->seed,
                          t->bag.threads, order, &before, &after, text)) die(1, "%s", text);
        if (after >= 0) say(t, "grouping   semantic: cohesion %.3f (by frequency %.3f), %.1f s\n", after, before, now() - begin);
        layer.order = order;
        engine_begin(t, &layer);
        free(order);
    }
    if (t->shape.dense) say(t, "inputs     %ld dense\n", (long)D);
    else say(t, "encoder    %ld features x %ld, %s, dropout %g\n", (long)t->train.features, (long)D,
                t->shape.relu ? "relu" : "linear", s->dropout);
    say(t, "layer      %ld labels", (long)L);
    if (head > 0) say(t, "; %lld dense", (long long)head);
    if (head < L) say(t, "; %lld in groups of %lld with %lld of %ld inputs", (long long)(L - head), (long long)s->group_size,
                         (long long)s->fan_in, (long)D);
    say(t, "; %.2f million parameters\n", (double)plan.parameters / 1e6);
    say(t, "training   %s%lld epochs of %lld steps of %lld documents, %s, %s %g, encoder %g\n", t->progress.watch ? "up to " : "", (long long)s->epochs,
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
    const double factor = s->rates * schedule_largest(plan, t->progress.step, s->floor);
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
        const float lr = (float)(s->lr * s->rates * schedule_factor(plan, i > 0, t->progress.step, s->floor));
        rates[i].lr = lr > 0 ? lr : (float)HASTE_NONE;
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

/* Where training stands, for log and report; epoch counts the share of one, too. */
static report_point *add_point(trainer *t, double epoch, double loss, double lr, const haste_metrics *valid, const haste_metrics *test)
{
    report_point *point;
    if (!data_reserve((void **)&t->point, &t->point_room, t->points + 1, sizeof t->point[0])) die(1, "out of memory");
    point = &t->point[t->points++];
    point->epoch = epoch;
    point->step = (double)t->progress.step;
    point->seconds = t->progress.seconds;
    point->loss = loss;
    point->lr = lr;
    point->moved = (double)t->progress.moved;
    report_values(valid, point->valid);
    report_values(test, point->test);
    return point;
}

/* Looks at the documents held out, where there are some. 0: there are none, or a signal came first. */
static int look(trainer *t, haste_metrics *metrics)
{
    if (t->held_out == 0 || !evaluate(t, &t->train, t->document + t->count, t->held_out, metrics, NULL)) return 0;
    if (t->progress.watch && !t->progress.joined)
        schedule_look(&t->progress.plan, t->progress.step, t->layer.block_count > 1 ? SCHEDULE_PARTS : 1, t->score);
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
    char error[DATA_ERROR], *text;
    const report_point *point;
    terminal_clear(&progress_shown);
    has_valid = look(t, &valid);
    printf("epoch %lld/%lld  loss %.4f", (long long)++t->progress.epoch, (long long)t->s.epochs, loss);
    if (has_valid) report_scores("valid", &valid);
    has_test = t->s.eval_test && t->test.documents > 0 && evaluate(t, &t->test, t->test_document, t->test.documents, &test, NULL);
    if (has_test) report_scores("test", &test);
    if (t->progress.moved > 0) printf("  moved %lld", (long long)t->progress.moved);
    printf("  %.1f s\n", seconds);
    fflush(stdout);
    point = add_point(t, (double)t->progress.epoch, loss, lr, has_valid ? &valid : NULL, has_test ? &test : NULL);
    if (t->s.log) {
        text = options_write(t->table, t->options);
        if (!text) die(1, "out of memory");
        if (!report_log(t->s.log, t->run, point, t->train_path ? t->train_path : "", text, error))
            fprintf(stderr, TRAIN_NAME ": %s; training goes on\n", error);
        free(text);
    }
    t->progress.loss = 0;
    t->progress.seen = 0;
    t->progress.moved = 0;
    if (t->s.save) save(t);
}

/* Within an epoch, whose loss and rate these are: looks at some of the held-out documents, for at most a fiftieth of the time, and
   keeps the model where it is due. A long epoch shows on paper, too. */
static void look_after(trainer *t, double epoch, double loss, double lr, int terminal)
{
    const double begin = now(), unkept = begin - t->tried_at;
    const int64_t n = t->held_out < 2048 ? t->held_out : 2048;
    haste_metrics valid;
    const int due = n > 0 && begin - t->glanced_at > (t->glance_seconds > .1 ? 50 * t->glance_seconds : 5);
    const int late = t->s.save && ((t->s.save_every > 0 && unkept > 60 * t->s.save_every) || (t->unkept && unkept > 60));
    const int64_t wanted = processes_agree(due | late << 1);
    if (wanted & 1) {
        engine_wait(t);
        if (evaluate(t, &t->train, t->document + t->count, n, &valid, NULL)) {
            t->glance = add_point(t, epoch, loss, lr, &valid, NULL)->valid[0];
            if (!terminal && begin - t->glanced_at > 250)
                printf("  at %.3f epochs  loss %.4f  P@1 of %lld held-out documents %.2f\n", epoch, loss, (long long)n, t->glance);
            fflush(stdout);
        }
        t->glanced_at = now();
        t->glance_seconds = t->glanced_at - begin;
    }
    if (wanted & 2) save(t);
}

static void show_progress(trainer *t, int64_t batch, int64_t batches, double loss, double rate, int64_t left)
{
    char text[6][48];
    const char *const part[] = { text[0], text[1], text[2], text[3], text[4], text[5] };
    static const int last[] = { 0, 5, 1, 4, 3, 2 };
    snprintf(text[0], 48, "epoch %lld/%lld", (long long)t->progress.epoch + 1, (long long)t->s.epochs);
    snprintf(text[1], 48, "batch %lld/%lld", (long long)batch, (long long)batches);
    snprintf(text[2], 48, "loss %.4f", loss);
    text[3][0] = 0;
    if (t->glance > 0) snprintf(text[3], 48, "P@1 %.1f", t->glance);
    snprintf(text[4], 48, "%.0f documents/s", rate);
    snprintf(text[5], 48, left < 3600 ? "%lld:%02lld left" : "%lld h %02lld left", (long long)(left < 3600 ? left / 60 : left / 3600),
             (long long)(left < 3600 ? left % 60 : left % 3600 / 60));
    terminal_show(part, last, 6, &progress_shown);
}

/* The plan of a new run; of one that goes on to a number of epochs that is given now; of one that began before there were plans. */
static void begin_plan(trainer *t)
{
    const settings *s = &t->s;
    model_progress *p = &t->progress;
    const int64_t batches = (t->count + s->batch - 1) / s->batch;
    const double most = schedule_passes((double)t->learn, has_tail(t->train.labels));
    int64_t total;
    if (p->plan.total == 0) {
        p->epoch = p->step / batches;
        p->seen = p->step % batches * s->batch;
    }
    total = p->step - (p->step - p->joined) % batches + (s->epochs - p->epoch) * batches;
    if (p->watch && most < (double)s->epochs) total = (int64_t)((double)batches * most);
    if (s->epochs == p->epoch && total < p->step) total = p->step;   /* the last epoch was a part of one */
    if (p->step > total)
        die(1, "%s: %lld steps are done, and %lld epochs have %lld", s->resume, (long long)p->step, (long long)s->epochs, (long long)total);
    schedule_begin(&p->plan, total, (int64_t)(s->warmup < 1 ? s->warmup * (double)total : s->warmup), p->watch || (s->valid < 0 && !p->joined));
}

static void train(trainer *t)
{
    settings *s = &t->s;
    model_progress *p = &t->progress;
    schedule *plan = &p->plan;
    const int64_t first_step = p->step, looks = (LOOK + s->batch - 1) / s->batch;
    const int terminal = isatty(2) && processes_first();
    char error[DATA_ERROR] = "";
    int64_t *order = (int64_t *)need((size_t)t->train.documents, sizeof(int64_t)), shuffled = -1;
    double shown = now(), epoch_begin = p->seconds, run_begin = p->seconds;

    if (p->joined) join(t);
    if (s->resume && t->warmup_given && !t->epochs_given && plan->total > 0 && (p->watch || p->joined))
        die(2, "--warmup %g: %s is trained as documents held out say, by a plan that began before; --epochs begins one anew", s->warmup,
            s->resume);
    if (plan->total == 0 || t->epochs_given || t->warmup_given) begin_plan(t);
    if (s->log) {
        FILE *log = report_open_log(s->log, error);
        if (!log || fclose(log) != 0) die(1, "%s", error);
    }
    catch_signals(on_signal);
    t->tried_at = t->glanced_at = now();
    if (s->save && (!s->resume || !keep_same(s->save, s->resume)) && !save_to(t, s->save, 0, error))
        die(1, "%s", error);   /* shows now, not after the first epoch */
    if (!s->save && !s->export_path) printf("kept       nowhere: the model is lost at the end without --save or --export\n");
    if (p->step > 0) printf("resumed    after %lld of %lld steps\n", (long long)p->step, (long long)schedule_end(plan));
    fflush(stdout);
    while (p->step < schedule_end(plan) && !(s->stop_after > 0 && p->epoch >= s->stop_after) && !processes_signal()) {
        const double begin = now();
        int64_t batches, epoch, batch;
        int32_t B;
        double end, loss, lr;
        if (s->valid < 0 && !p->joined && schedule_chosen(plan, p->step)) {
            p->joined = p->step;
            join(t);
        }
        batches = (t->count + s->batch - 1) / s->batch;
        epoch = (p->step - p->joined) / batches + (p->joined ? INT64_C(1) << 31 : 0);   /* of other documents: in another order */
        batch = (p->step - p->joined) % batches;
        B = (int32_t)(t->count - batch * s->batch < s->batch ? t->count - batch * s->batch : s->batch);
        if (shuffled != epoch) {
            split_shuffle(t->document, t->count, (uint64_t)s->seed, epoch, order);
            shuffled = epoch;
        }
        lr = s->lr * s->rates * schedule_largest(plan, p->step, s->floor);
        train_batch(t, order + batch * s->batch, B);
        p->seen += B;
        if (batch + 1 == batches || p->step == schedule_end(plan)) engine_wait(t);
        end = now();
        p->seconds += end - begin;
        loss = p->loss / (double)p->seen;
        if (terminal && end - shown > .2) {
            const double rate = (double)(p->step - first_step) / (p->seconds - run_begin);
            int64_t left = schedule_end(plan) - p->step;
            if (s->stop_after > 0 && left > (s->stop_after - p->epoch) * batches - batch - 1) left = (s->stop_after - p->epoch) * batches - batch - 1;
            show_progress(t, batch + 1, batches, loss, rate * (double)s->batch, (int64_t)((double)left / rate));
            shown = end;
        }
        if (batch + 1 == batches || p->step == schedule_end(plan)) {
            end_epoch(t, lr, p->seconds - epoch_begin);
            epoch_begin = p->seconds;
        } else {
            const double at = (double)p->epoch + (double)(batch + 1) / (double)batches;
            haste_metrics valid;
            if (p->watch && !p->joined && (batch + 1) % looks == 0) {
                engine_wait(t);
                if (look(t, &valid)) t->glance = add_point(t, at, loss, lr, &valid, NULL)->valid[0];
            }
            look_after(t, at, loss, lr, terminal);
        }
    }
    free(order);
    terminal_clear(&progress_shown);
    if (processes_signal() && p->step < schedule_end(plan) && !(s->stop_after > 0 && p->epoch >= s->stop_after)) {
        const int kept = s->save && save(t);
        printf("stopped    after %lld of %lld steps; ", (long long)p->step, (long long)schedule_end(plan));
        printf(kept ? "go on with\n" : s->save ? "what came after it was last kept is lost\n" : "nothing is kept without --save\n");
        if (kept) print_command(t, stdout);
        fflush(stdout);
        exit(128 + processes_signal());
    }
    if (t->unkept) save_at_last(t);
    stop_signal = 0;
    processes_meet(0);
    catch_signals(SIG_DFL);
}

static void write_report(trainer *t, const haste_metrics *metrics, report_bins *bins, int tested, double scoring)
{
    char error[DATA_ERROR], *text = options_write(t->table, t->options);
    page about;
    int32_t i;
    memset(&about, 0, sizeof about);
    if (!text) die(1, "out of memory");
    say(t, "time       training %.1f s, scoring %.1f s; at most %.0f MiB of memory\n", t->progress.seconds, scoring, peak_mib());
    for (i = 0; i < t->train.labels; i++) bins->labels[report_bin(t->frequency[i])]++;
    about.folder = t->s.report;
    about.program = TRAIN_NAME;
    about.run = t->run;
    about.argc = t->argc;
    about.argv = t->argv;
    about.settings = text;
    about.lines = t->said;
    about.point = t->point;
    about.points = (int)t->points;
    about.scored = metrics ? tested ? "test" : "held-out documents" : NULL;
    about.bins = bins;
    about.k = TOP;
    report_values(metrics, about.final);
    if (!page_write(&about, error)) fprintf(stderr, TRAIN_NAME ": %s\n", error);
    else printf("report     %s/report.html\n", t->s.report);
    free(text);
}

/* Scores TEST (without it: what --valid held out) and prints the line for scripts. */
static void finish(trainer *t)
{
    haste_metrics metrics;
    const int tested = t->test.documents > 0;
    const char *name = tested ? "test" : "valid";
    const double begin = now();
    int64_t n = tested ? t->test.documents : t->held_out;
    static report_bins bins;
    if (tested) evaluate(t, &t->test, t->test_document, n, &metrics, &bins);
    else if (n > 0) evaluate(t, &t->train, t->document + t->count, n, &metrics, &bins);
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
        if (!save_to(t, t->s.export_path, 1, why)) die(1, "%s", why);
        printf("exported   %s, %.1f MiB", t->s.export_path, file_bytes(t->s.export_path) / 1048576);
        if (n > 0 && processes_first() && !export_precision(t->s.export_path, tested ? &t->test : &t->train,
                                       tested ? t->test_document : t->document + t->count, n, t->bag.threads, &after, why))
            die(1, "%s", why);
        if (n > 0) printf("; P@1 %.2f, before %.2f", after, haste_metrics_get(&metrics, 1).precision);
        putchar('\n');
    }
    if (t->s.report) write_report(t, n > 0 ? &metrics : NULL, &bins, tested, now() - begin);
    printf("result");
    if (n > 0) report_result(&metrics);
    printf(" epochs=%lld seconds=%.1f peak_mib=%.0f", (long long)t->progress.epoch, t->progress.seconds,
           peak_mib());
    engine_result(t);
    putchar('\n');
}

#ifdef TRAIN_PLAN
/* --plan: what training would take, before anything is there. */
static void print_plan(settings *s)
{
    haste_layer_options layer;
    haste_workspace_options work;
    haste_step_options step;
    int64_t number[3] = { 0, 0, 0 }, L, N;
    const char *at = s->plan;
    char error[DATA_ERROR];
    int n = 0, ok;
    do ok = (number[n] = data_id(&at)) > 0;
    while (ok && ++n < 3 && *at++ == ',');
    L = number[0];
    N = n > 1 ? number[1] : L;
    if (!ok || at[n < 3 ? -1 : 0] || L > INT32_MAX - 1 || N > MODEL_MOST || number[2] > INT32_MAX - 1)
        die(2, "--plan %s: expected labels, or labels,documents, or labels,documents,features", s->plan);
    choose_settings(s, N, L, s->hidden);
    memset(&work, 0, sizeof work);
    memset(&step, 0, sizeof step);
    work.batch = (int32_t)(s->batch > TRAIN_ROOM ? s->batch : TRAIN_ROOM);
    work.top_k = TOP;
    work.chunks = (int32_t)s->chunks;
    work.threads = (int32_t)s->threads;
    work.path = (haste_path)s->path;
    step.lr = (float)s->lr;
    step.loss.negligible = (float)s->negligible;
    printf("dense      %lld of %lld labels\n", (long long)describe_layer(s, (int32_t)L, (int32_t)s->hidden, &layer), (long long)L);
    if (!plan_print(&layer, &work, &step, (int32_t)s->batch, N, (int32_t)number[2], s->epochs, error)) die(2, "%s", error);
}
#endif

/* One screen. */
static void print_help(void)
{
    printf("usage: " TRAIN_NAME " [TRAIN [TEST]] [options]\n\n"
           "Trains an extreme classifier on TRAIN and scores it on TEST. They are text with\n"
           "labels (fastText's lines, TSV or CSV with labels in the first column) or\n"
           "numbered features (LIBSVM, or with the header of the Extreme Classification\n"
           "Repository), also as .gz or from a pipe; - is standard input.\n"
           "Without files it learns a made-up data set. Everything has a default.\n%s\n"
           "  --save FILE        keep the model, also when stopped by a signal\n"
           "  --resume FILE      go on with a kept model: stopped, for more --epochs, or\n"
           "                     (with --save) on other documents, with new labels\n"
           "  --export FILE      write the model at the end, only to predict: smaller\n"
           "  --valid SHARE      hold out a part of TRAIN and score it while training\n"
           "  --epochs N         passes over TRAIN\n"
           "  --ngrams N         of text: runs of up to N words are features, too\n"
           "  --log FILE         a line of CSV per epoch\n"
           "  --report FOLDER    a page with curves, scores by label frequency, settings\n"
#ifdef TRAIN_NCCL
           "  --gpus N           of this machine, a process each\n"
#endif
           "  --threads N        changes no result\n"
           "  --help-all         all options, in groups, with their defaults\n\n"
           "Scores are in percent: P@k (precision of the k best labels), nDCG@k, and PSP@k,\n"
           "in which rare labels count more. " TRAIN_NAME " ends with 0, 1 (something went\n"
           "wrong), 2 (a mistake on the command line), or 128 + the signal that stopped it.\n",
#ifdef HASTE_ZLIB
           ""
#else
           "This build reads no .gz: it was made without zlib.\n"
#endif
           );
}

int main(int argc, char **argv)
{
    static trainer t;   /* zeroed, and too large to be comfortable on a stack */
    const char *file[2] = { NULL, NULL };
    char error[DATA_ERROR];
    int files = 0, i;

    wait_without_spinning(argv);
    processes_begin(&argc, &argv);
    t.s = settings_default();
    t.options = settings_options(&t.s, t.table);
    if (!options_parse(t.table, t.options, argc, argv, file, &files, 2, error)) die(2, "%s", error);
    if (t.s.help || t.s.help_all || t.s.version) {
        const int columns = terminal_columns(1);
        if (t.s.version) printf(TRAIN_NAME " %s\n", version_text(error));
        else if (t.s.help) print_help();
        else {
            printf("usage: " TRAIN_NAME " [TRAIN [TEST]] [options]        defaults stand in brackets\n");
            options_help(t.table, t.options, columns >= 60 && columns < 120 ? columns : columns ? 120 : 80, stdout);
        }
        if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));
        return 0;
    }
    t.argc = argc;
    t.argv = argv;
    t.name = argv[0];
    t.train_path = file[0];
    t.test_path = file[1];
    for (i = 0; i < t.options; i++) {
        if (strcmp(t.table[i].name, "epochs") == 0) t.epochs_given = t.table[i].given;
        if (strcmp(t.table[i].name, "warmup") == 0) t.warmup_given = t.table[i].given;
        if (strcmp(t.table[i].name, "rates") == 0) t.rates_given = t.table[i].given;
    }
    if (!t.train_path && !t.epochs_given && !t.s.plan) t.s.epochs = 8;   /* enough for made-up data */
    if (t.s.threads == 0) t.s.threads = processes_threads(useful_threads());
    if (!processes_first()) t.s.log = t.s.report = NULL;   /* that is the first one's affair */
    check_settings(&t);
#ifdef TRAIN_PLAN
    if (t.s.plan) {
        print_plan(&t.s);
        return 0;
    }
#endif
    if (t.s.resume && t.s.export_path && !t.train_path) {
        if (processes_first()) export_only(&t.s);
        return 0;
    }
    if (t.s.resume) open_resumed(&t);
    engine_check(&t);
    read_data(&t);
    recognise_documents(&t);
    if (!t.s.save) t.s.save = t.s.resume;
    if (t.anew && !t.epochs_given) t.s.epochs = 0;
    choose_settings(&t.s, t.count, t.train.labels, t.train.dense ? t.train.width : t.s.hidden);   /* a resumed run has its choices already */
    if (t.anew && !t.epochs_given) t.s.epochs = (t.s.epochs + 2) / 3;   /* on win32-seealso as good as all of them */
    learn_statistics(&t);
    make_model(&t);
    train(&t);
    finish(&t);
    engine_free(&t);
    if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));
    return t.unkept;
}
