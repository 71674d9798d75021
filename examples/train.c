/* haste-train: trains an extreme classifier on documents and says how good it is.

       haste-train                                      a made-up data set, half a minute
       haste-train TRAIN TEST --save model.haste        text, or numbers of features: formats.h lists what it reads
       haste-train --help

   Sparse documents go through an embedding bag (encoder.h) into the layer (haste.h); dense .npy features go straight into the
   layer. What is learnt from data (feature weights, frequencies, groups) is learnt from the training split only, and TEST is
   scored but decides nothing.

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
#include "split.h"
#include "synthetic.h"
#include "system.h"

#define TOP       5
#define MANY      100000   /* labels, above which other settings are chosen: see choose_settings */

/* haste-train-cuda is this program with another engine: train_cuda.cu says otherwise, then includes this file. */
#ifndef TRAIN_CUDA
    #define TRAIN_NAME  "haste-train"
    #define TRAIN_PATHS "auto|portable|avx2|avx512|neon"
    #define TRAIN_DTYPE HASTE_F32   /* what --dtype chosen means */
    #define TRAIN_SAME  ", bit for bit"
    #define TRAIN_ROOM  256         /* documents scored at a time; more where --batch says so */
#endif

#define PROGRAM_NAME TRAIN_NAME
#include "program.h"

/* ---- >>settings ---------------------------------------------------------------------------------------------- */

typedef struct settings {
    double      valid, head, dropout, lr, encoder_lr, encoder_init, momentum, weight_decay, negligible, warmup, floor;
    double      rewire_share, rewire_end;
    int64_t     hidden, fan_in, group_size, epochs, batch, rewire_every, seed, limit_train, threads, chunks, stop_after;
    int64_t     ngrams, hash_bits, min_count;
    double      save_every, save_wait, rates;
    int         format, separator, grouping, growth, prune, scope, optimizer, loss, dtype, activation, values, path;
    int         dense, uniform, eval_test, export_bf16, deterministic, help, help_all, version;
    const char *label_names, *features, *test_features, *save, *resume, *export_path, *log, *report, *plan;
} settings;

enum { VALUES_TFIDF, VALUES_UNIT, VALUES_RAW };
enum { CHOSEN, ACTIVATION_RELU = 1, ACTIVATION_NONE };   /* --optimizer, --dtype: CHOSEN, or their number in haste.h + 1 */

/* Every default stands here. What is "chosen" (0, or -1 where 0 means something) is worked out from the training split's size in
   choose_settings. */
static settings settings_default(void)
{
    settings s;
    memset(&s, 0, sizeof s);
    /* data */
    s.format       = FORMAT_AUTO;
    s.separator    = SEPARATOR_AUTO;
    s.ngrams       = 1;
    s.hash_bits    = 0;
    s.min_count    = 0;
    /* model */
    s.hidden       = 512;
    s.activation   = CHOSEN;
    s.values       = VALUES_TFIDF;
    s.head         = -1;
    s.fan_in       = 0;
    s.group_size   = 32;
    s.grouping     = GROUPING_FREQUENCY;
    s.dtype        = CHOSEN;
    /* training */
    s.epochs       = 0;
    s.batch        = 0;
    s.loss         = HASTE_BCE;
    s.optimizer    = CHOSEN;
    s.lr           = 0;
    s.encoder_lr   = 0;
    s.encoder_init = 0.1;
    s.momentum     = 0.9;
    s.weight_decay = 0;
    s.negligible   = -1;
    s.dropout      = -1;
    s.warmup       = 0.05;
    s.floor        = 0;
    s.rates        = 1;
    s.seed         = 1;
    /* rewiring */
    s.rewire_share = 0.1;
    s.rewire_every = 300;
    s.rewire_end   = 0.7;
    s.growth       = HASTE_GROW_GRADIENT;
    s.prune        = HASTE_PRUNE_MAGNITUDE;
    s.scope        = HASTE_SCOPE_BLOCK;
    /* the run */
    s.chunks       = 16;
    s.path         = HASTE_PATH_AUTO;
    s.save_every   = 30;
    s.save_wait    = 10;
    return s;
}

#define OPTION_ROOM 64
static int settings_options(settings *s, option *table)
{
    const option all[] = {
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Data:", 0 },
        { OPTION_CHOICE, "format", FORMAT_WORDS, &s->format, 0, 0, 0, "of TRAIN and TEST; auto: seen from their first lines", 0 },
        { OPTION_CHOICE, "label-separator", SEPARATOR_WORDS, &s->separator, 0, 0, 0, "in a column of labels; auto: the first of ; | , in use", 0 },
        { OPTION_TEXT, "label-names", "FILE", &s->label_names, 0, 0, 0, "names of labels that are ids: line i for label i", 0 },
        { OPTION_COUNT, "ngrams", "N", &s->ngrams, 1, VOCABULARY_NGRAMS, 1, "of text: runs of up to N words are features, too", 0 },
        { OPTION_COUNT, "min-count", "N", &s->min_count, 0, 1e9, 1, "of text: words of fewer documents are left out; 0: 2 from 10,000 documents on", 0 },
        { OPTION_COUNT, "hash-bits", "BITS", &s->hash_bits, 0, VOCABULARY_BITS, 1, "of text: hash words into 2^BITS features; 0: keep a vocabulary", 0 },
        { OPTION_TEXT, "features", "FILE", &s->features, 0, 0, 0, "dense features of TRAIN (.npy); TRAIN then gives the labels", 0 },
        { OPTION_TEXT, "test-features", "FILE", &s->test_features, 0, 0, 0, "dense features of TEST (.npy)", 0 },
        { OPTION_CHOICE, "values", "tfidf|unit|raw", &s->values, 0, 0, 1, "features: tf-idf of unit length, unit length, or as they are", 0 },
        { OPTION_REAL, "valid", "SHARE", &s->valid, 0, .9, 1, "share of TRAIN held out, copies together, and scored after each epoch", 0 },
        { OPTION_COUNT, "limit-train", "N", &s->limit_train, 0, 1e15, 2, "only the first N documents of TRAIN; 0: all", 0 },
        { OPTION_FLAG, "eval-test", NULL, &s->eval_test, 0, 1, 0, "score TEST after each epoch too (it decides nothing)", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Model:", 0 },
        { OPTION_COUNT, "hidden", "D", &s->hidden, 1, 65536, 1, "width of the encoder: inputs of the layer", 0 },
        { OPTION_CHOICE, "activation", "chosen|relu|none", &s->activation, 0, 0, 1, "of the encoder; chosen: none with a tail of rare labels, else relu", 0 },
        { OPTION_FLAG, "dense", NULL, &s->dense, 0, 1, 1, "the dense layer of the same model, to see what sparsity costs", 0 },
        { OPTION_REAL, "head", "H", &s->head, -1, 2147483647, 1, "most frequent labels with dense weights; below 1: a share; -1: 2%, at least 1024; 20% above 100,000", 0 },
        { OPTION_COUNT, "fan-in", "F", &s->fan_in, 0, 65536, 1, "inputs of each group of labels; 0: 128, or 16 above 100,000 labels", 0 },
        { OPTION_COUNT, "group-size", "S", &s->group_size, 8, 256, 1, "labels in a group: a multiple of 8", 0 },
        { OPTION_CHOICE, "grouping", "random|frequency|semantic", &s->grouping, 0, 0, 1, "which labels share a group", 0 },
        { OPTION_CHOICE, "dtype", "chosen|f32|bf16", &s->dtype, 0, 0, 1,
          TRAIN_DTYPE == HASTE_F32 ? "weights and optimizer state of the layer; chosen: f32" :
                                     "weights and optimizer state of the layer; chosen: bf16", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Training:", 0 },
        { OPTION_COUNT, "epochs", "N", &s->epochs, 0, 1e6, 2, "passes over TRAIN; 0: 3 to 15, fewer for more documents, and with --resume on other documents a third of that", 0 },
        { OPTION_COUNT, "batch", "B", &s->batch, 0, 65536, 1, "documents in a step; 0: 32 to 512, more for more documents", 0 },
        { OPTION_CHOICE, "loss", "bce|hinge|softmax", &s->loss, 0, 0, 1, "binary cross-entropy, squared hinge, or softmax", 0 },
        { OPTION_CHOICE, "optimizer", "chosen|sgd|momentum|adamw", &s->optimizer, 0, 0, 1, "of the layer; chosen: adamw", 0 },
        { OPTION_REAL, "lr", "RATE", &s->lr, 0, 1e6, 2, "learning rate of the layer; 0: adamw .007 with a tail, .01 with many labels, else .002; others 5", 0 },
        { OPTION_REAL, "encoder-lr", "RATE", &s->encoder_lr, 0, 1e6, 2, "learning rate of the encoder; 0: .003 with a tail, .0012 with many labels, else .005", 0 },
        { OPTION_REAL, "encoder-init", "SCALE", &s->encoder_init, 0, 1e6, 1, "embeddings begin uniform in +-SCALE", 0 },
        { OPTION_REAL, "momentum", "MU", &s->momentum, 0, .99999, 1, "for --optimizer momentum; 0: 0.9", 0 },
        { OPTION_REAL, "weight-decay", "WD", &s->weight_decay, 0, 1e6, 2, "of the layer", 0 },
        { OPTION_REAL, "negligible", "G", &s->negligible, -1, 1, 1,
          "smaller d loss / d logit count as 0, which saves time; -1: .003 with bce above 100,000 labels, else 0", 0 },
        { OPTION_REAL, "dropout", "SHARE", &s->dropout, -1, .99, 2, "of the layer's inputs; -1: .3 with a tail, .15 with many labels, else .7 to .1, less for more documents", 0 },
        { OPTION_REAL, "warmup", "STEPS", &s->warmup, 0, 1e15, 2, "steps of rising learning rate; below 1: share of training", 0 },
        { OPTION_REAL, "floor", "SHARE", &s->floor, 0, 1, 2, "of the learning rate that is left at the end", 0 },
        { OPTION_REAL, "rates", "SHARE", &s->rates, 0, 1000, 2, "of both rates that is in use; with --resume on other documents 1/3 unless it is given", 0 },
        { OPTION_COUNT, "seed", "N", &s->seed, 0, 9e15, 1, "of all random decisions", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Rewiring:", 0 },
        { OPTION_REAL, "rewire-share", "RHO", &s->rewire_share, 0, 1, 2, "of inputs moved at first, falling to 0; 0: never", 0 },
        { OPTION_COUNT, "rewire-every", "STEPS", &s->rewire_every, 1, 1e15, 1, "steps between two moves", 0 },
        { OPTION_REAL, "rewire-end", "SHARE", &s->rewire_end, 0, 1, 1, "share of training after which nothing moves", 0 },
        { OPTION_CHOICE, "growth", "random|gradient", &s->growth, 0, 0, 1, "new inputs", 0 },
        { OPTION_CHOICE, "prune", "magnitude|saliency", &s->prune, 0, 0, 1, "what is given up", 0 },
        { OPTION_CHOICE, "scope", "block|group", &s->scope, 0, 0, 1, "the lowest scores of all groups together, or of each", 0 },
        { OPTION_FLAG, "uniform", NULL, &s->uniform, 0, 1, 1, "new inputs begin with small random weights instead of 0", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "The run:", 0 },
        { OPTION_TEXT, "save", "FILE", &s->save, 0, 0, 0, "keep the model here: at once (a model that is there is replaced), after each epoch, and when stopped by a signal", 0 },
        { OPTION_REAL, "save-every", "MINUTES", &s->save_every, 0, 1e6, 0, "and so often within an epoch; 0: not", 0 },
        { OPTION_REAL, "save-wait", "MINUTES", &s->save_wait, 0, 1e6, 0, "where it cannot be written, training goes on and it is tried again, at the end for so long", 0 },
        { OPTION_TEXT, "resume", "FILE", &s->resume, 0, 0, 0, "go on from a kept model" TRAIN_SAME "; keeps it there unless --save; a higher --epochs makes it learn more; with --save it takes other documents, and new labels", 0 },
        { OPTION_TEXT, "export", "FILE", &s->export_path, 0, 0, 0, "write the model here at the end, only to predict; with --resume and no TRAIN: at once", 0 },
        { OPTION_FLAG, "export-bf16", NULL, &s->export_bf16, 0, 1, 0, "with weights rounded to bfloat16: half the size", 0 },
        { OPTION_COUNT, "stop-after", "EPOCHS", &s->stop_after, 0, 1e6, 0, "stop after so many epochs of --epochs; 0: no", 0 },
        { OPTION_TEXT, "log", "FILE", &s->log, 0, 0, 0, "append a line of CSV per epoch", 0 },
        { OPTION_TEXT, "report", "FOLDER", &s->report, 0, 0, 0, "write a page (report.html): curves, labels by frequency, memory, time, settings", 0 },
        { OPTION_COUNT, "threads", "N", &s->threads, 0, 1024, 0, "changes no result; 0: all", 0 },
        { OPTION_COUNT, "chunks", "N", &s->chunks, 1, 1024, 1, "parts that the layer's work is cut into", 0 },
#ifdef TRAIN_CUDA
        { OPTION_FLAG, "deterministic", NULL, &s->deterministic, 0, 1, 0, "the same bits each time, slower", 0 },
        { OPTION_CHOICE, "path", TRAIN_PATHS, &s->path, 0, 0, 0, "kernels for the labels in groups", 0 },
#else
        { OPTION_CHOICE, "path", TRAIN_PATHS, &s->path, 0, 0, 0, "instructions to use", 0 },
#endif
#ifndef TRAIN_CUDA
        { OPTION_TEXT, "plan", "L[,N[,V]]", &s->plan, 0, 0, 0, "reads nothing: memory and time of a step for L labels, N documents, V features, and the options above", 0 },
#endif
        { OPTION_FLAG, "version", NULL, &s->version, 0, 1, 0, "of program and library", 0 },
        { OPTION_FLAG, "help", NULL, &s->help, 0, 1, 0, "what is most needed", 0 },
        { OPTION_FLAG, "help-all", NULL, &s->help_all, 0, 1, 0, "this text", 0 }
    };
    memcpy(table, all, sizeof all);
    return (int)(sizeof all / sizeof all[0]);
}

/* ---- >>the run ----------------------------------------------------------------------------------------------- */

typedef struct trainer {
    settings        s;
    option          table[OPTION_ROOM];
    int             options, epochs_given, rates_given;
    int             argc;
    char          **argv;
    const char     *name, *train_path, *test_path;   /* name: of the program, as it was called */
    int             anew;                   /* a model that is resumed on other documents than before */
    int64_t         known;                  /* features that it has */
    char            said[8192];             /* what was printed about the run, for the report */

    vocabulary      words;                  /* what TRAIN taught: words, and names of labels */
    data_set        train, test;            /* test.documents = 0: none */
    int64_t        *document, *test_document; /* the training split, then the held-out documents; all of TEST */
    int64_t         count, held_out;
    double          best;                   /* P@1 that is possible on made-up data; 0: not known */
    float          *weight;                 /* [V] of features */
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

/* The engine trains and asks the layer and the encoder: the CPU's is train_cpu.h, the GPU's in train_cuda.cu. t->layer and t->bag
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
    #include "train_cpu.h"
#endif

/* ---- >>scores ------------------------------------------------------------------------------------------------ */

/* Scores n documents; bins: counts labels by frequency, too, or NULL. 0: a signal came first. An engine may still work on one batch while the one before is judged. */
static int evaluate(trainer *t, const data_set *data, const int64_t *document, int64_t n, haste_metrics *metrics,
                    report_bins *bins)
{
    haste_error error;
    haste_lists truth;
    const int32_t *top;
    int64_t i;
    int32_t B = 0, before;
    int turn = 0, stopped = 0;
    if (haste_metrics_init(metrics, TOP, &error) != HASTE_OK) die(1, "%s", error.text);
    for (i = 0; i == 0 || B > 0; i += t->room, turn = 1 - turn) {
        stopped |= i < n && stop_signal != 0;
        before = B;
        B = stopped || i >= n ? 0 : (int32_t)(n - i < t->room ? n - i : t->room);
        if (B > 0) engine_best(t, data, document + i, B, turn);
        if (before == 0) continue;
        top = engine_best_done(t, 1 - turn);
        truth = gather_labels(t, data, document + i - t->room, before);
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
    haste_section section[14];
    haste_error error;
    int32_t count = 0;
    size_t bytes = encoder_bytes(t->bag.features, t->bag.width);
    char *text = options_write(t->table, t->options);
    int ok;
    if (!text) die(1, "out of memory");
    engine_fetch(t);
    t->progress.encoder_step = t->bag.step;
    model_add(section, &count, "encoder.shape", &t->shape, sizeof t->shape);
    if (!t->shape.dense) {
        model_add(section, &count, "encoder", t->bag.row, bytes);
        model_add(section, &count, "encoder.moment", t->bag.moment, bytes);
        model_add(section, &count, "encoder.seen", t->bag.seen, ((size_t)t->bag.features + 1) * sizeof(int64_t));
        model_add(section, &count, "idf", t->weight, (size_t)t->shape.features * sizeof(float));
    }
    model_add_vocabulary(section, &count, &t->words);
    model_add(section, &count, "frequency", t->frequency, (size_t)t->layer.labels * sizeof(int64_t));
    model_add(section, &count, "settings", text, strlen(text));
    model_add(section, &count, "progress", &t->progress, sizeof t->progress);
    model_add(section, &count, "run", t->run, strlen(t->run));
    if (t->points > 0) model_add(section, &count, "history", t->point, (size_t)t->points * sizeof t->point[0]);
    if (exported) ok = export_model(path, &t->layer, section, count, t->s.export_bf16, why);
    else ok = haste_save(path, &t->layer, t->layer.dtype, section, count, &error) == HASTE_OK || data_fail(why, "%s", error.text);
    free(text);
    return ok;
}

/* Keeps the model. 0: it cannot be written, which is said (once, until it can), and is no reason to stop. */
static int save(trainer *t)
{
    char why[DATA_ERROR];
    const int before = t->unkept;
    t->unkept = !save_to(t, t->s.save, 0, why);
    t->tried_at = now();
    terminal_clear(&progress_shown);
    if (t->unkept && !before) fprintf(stderr, TRAIN_NAME ": %s; training goes on, and this is tried again\n", why);
    if (before && !t->unkept) fprintf(stderr, TRAIN_NAME ": %s is kept again\n", t->s.save);
    return !t->unkept;
}

/* The last chance: waits for room, until a signal comes. */
static int save_at_last(trainer *t)
{
    char why[DATA_ERROR];
    const double end = now() + 60 * t->s.save_wait;
    while (t->unkept && !save_to(t, t->s.save, 0, why)) {
        const double left = end - now();
        if (left <= 0 || stop_signal) break;
        fprintf(stderr, TRAIN_NAME ": %s; waiting for room, %.1f minutes more (--save-wait)\n", why, left / 60);
        wait_seconds(left < 10 ? left : 10);
    }
    t->unkept = t->unkept && !save_to(t, t->s.save, 0, why);
    if (t->unkept) fprintf(stderr, TRAIN_NAME ": %s; what came after it was last kept is lost\n", why);
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
    if (haste_load(t->s.resume, 0, &t->file, &error) != HASTE_OK) die(1, "%s", error.text);
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
    t->words.grows = 1;   /* while TRAIN is read */
    section = haste_file_find(&t->file, "run");
    if (section && section->bytes < sizeof t->run) memcpy(t->run, section->data, (size_t)section->bytes);
    t->run[strspn(t->run, "0123456789abcdef-")] = 0;
    section = haste_file_find(&t->file, "history");
    if (!section || section->bytes % sizeof t->point[0] != 0) return;
    t->points = (int64_t)(section->bytes / sizeof t->point[0]);
    if (!data_reserve((void **)&t->point, &t->point_room, t->points, sizeof t->point[0])) die(1, "out of memory");
    memcpy(t->point, section->data, (size_t)section->bytes);
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
        !keep_differ("log", s->log, "save", s->save ? s->save : s->resume, error) ||
        !keep_differ("log", s->log, "export", s->export_path, error) ||
        (s->report && !page_folder(s->report, error)))
        die(2, "%s", error);
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
    say(t, "train      %lld documents, %ld features, %ld labels; %.1f features and %.1f labels each\n", (long long)t->train.documents,
           (long)t->train.features, (long)t->train.labels,
           (double)t->train.feature_offset[t->train.documents] / (double)t->train.documents,
           (double)t->train.label_offset[t->train.documents] / (double)t->train.documents);
    if (t->test.documents > 0) say(t, "test       %lld documents\n", (long long)t->test.documents);
    seconds = now() - begin;
    if (bytes > 0) say(t, "read in    %.1f s, %.0f MB/s\n", seconds, bytes * 1e-6 / seconds);
    else say(t, "read in    %.1f s\n", seconds);

    t->document = (int64_t *)need((size_t)t->train.documents, sizeof(int64_t));
    t->held_out = split_hold_out(&t->train, (int64_t)(t->s.valid * (double)t->train.documents), (uint64_t)t->s.seed,
                                 t->document);
    if (t->held_out == -1)
        die(1, "--valid %g: no document is left to train on: too many have the same features", t->s.valid);
    if (t->held_out == -2) die(1, "out of memory");
    t->count = t->train.documents - t->held_out;
    t->test_document = (int64_t *)need((size_t)t->test.documents, sizeof(int64_t));
    for (i = 0; i < t->test.documents; i++) t->test_document[i] = i;
}

/* Which documents these are. A model goes on with those that it knows, or, where --save says that this is meant, anew with
   others: words and their weights stay as they are, labels are found by name. */
static void recognise_documents(trainer *t)
{
    const char *these = t->train_path ? t->train_path : "these";
    uint64_t hash = split_fingerprint(&t->train);
    int64_t i;
    for (i = t->count; i < t->train.documents; i++) hash = split_hash(hash, (uint64_t)t->document[i]);   /* the split */
    t->anew = t->s.resume && (hash != t->progress.fingerprint || t->layer.labels != t->train.labels || t->shape.documents != t->count);
    t->progress.fingerprint = hash;
    if (t->anew && !t->train_path)
        die(2, "%s was trained on documents: name them, too: " TRAIN_NAME " TRAIN [TEST] --resume ...", t->s.resume);
    if (t->anew && (t->shape.dense != 0) != (t->train.dense != NULL))
        die(1, "%s was trained on other documents than %s: %s", t->s.resume, these,
            t->shape.dense ? "on dense features (--features)" : "on sparse features");
    if (t->anew && !t->s.save)
        die(1, "%s was trained on other documents than %s; to train it on these, too, give --save", t->s.resume, these);
    if (!t->s.resume || t->anew || !t->run[0]) report_run(t->run, hash ^ (uint64_t)(now() * 1e6));
    if (!t->anew) return;
    if (!t->rates_given) t->s.rates = 1. / 3;
    t->progress.step = t->progress.moved = t->points = 0;
    t->progress.loss = t->progress.seconds = 0;
}

/* Feature weights, label frequencies and propensities, all from the training split. */
static void learn_statistics(trainer *t)
{
    char error[DATA_ERROR];
    haste_error why;
    model_shape shape;
    const float *kept;
    int64_t i;
    memset(&shape, 0, sizeof shape);
    shape.version = MODEL_VERSION;
    shape.dense = t->train.dense != NULL;
    shape.features = t->train.features;
    shape.width = shape.dense ? t->train.width : t->s.hidden;
    shape.relu = t->s.activation == ACTIVATION_RELU;
    shape.tfidf = t->s.values == VALUES_TFIDF;
    shape.unit = t->s.values != VALUES_RAW;
    shape.documents = t->count;
    t->known = t->shape.features;
    if (t->anew) t->shape.documents = shape.documents;
    if (t->anew) t->shape.features = shape.features;
    if (t->s.resume && memcmp(&shape, &t->shape, sizeof shape) != 0)
        die(1, "%s: its encoder is not what these documents and its settings want", t->s.resume);
    t->shape = shape;

    t->weight = (float *)need((size_t)shape.features, sizeof(float));
    t->frequency = (int64_t *)need((size_t)t->train.labels, sizeof(int64_t));
    t->inverse_propensity = (double *)need((size_t)t->train.labels, sizeof(double));
    if (!data_feature_weights(&t->train, t->document, t->count, (int)shape.tfidf, t->weight, error)) die(1, "%s", error);
    if (t->anew && !shape.dense) {   /* the encoder knows words by these weights */
        kept = (const float *)model_section(&t->file, "idf", (uint64_t)t->known * sizeof(float), t->s.resume, error);
        if (!kept) die(1, "%s", error);
        for (i = 0; i < t->known; i++)   /* 0: a feature that no document had */
            if (kept[i] > 0 && kept[i] <= 1e30f) t->weight[i] = kept[i];
    }
    model_weigh(&t->train, &shape, t->weight);
    model_weigh(&t->test, &shape, t->weight);
    data_label_frequency(&t->train, t->document, t->count, t->frequency);
    if (haste_inverse_propensity(t->frequency, t->train.labels, t->count, 0, 0, t->inverse_propensity, &why) != HASTE_OK)
        die(1, "%s", why.text);
}

/* What the documents take in memory, about. */
static double data_bytes(const trainer *t)
{
    const data_set *data = &t->train;
    return 16.0 * (double)(data->documents + t->test.documents) + 4.0 * (double)data->label_offset[data->documents] +
           8.0 * (double)data->feature_offset[data->documents] + 4.0 * (double)data->width * (double)data->documents;
}

static int64_t head_labels(double head, int64_t L)
{
    if (head < 0) head = L > MANY ? .2 : .02 * (double)L > 1024 ? .02 : 1024;
    if (head < 1) head *= (double)L;
    return head < (double)L ? (int64_t)head : L;
}

/* Fills in what the user left to us, from the size of the training split. The rules were found on parts held out from the training
   files of five data sets of 5,000 to 915,000 documents: small ones overfit, large ones want few epochs. With many labels, weights
   do more good in the dense head than in the tail, and small slopes cost more time than they are worth. */
static void choose_settings(settings *s, int64_t documents, int64_t labels, int64_t inputs)
{
    const double n = (double)(documents > 0 ? documents : 1);
    const int tail = head_labels(-1, labels) < labels, many = labels > MANY, most = many ? 512 : 256;
    if (s->batch == 0) for (s->batch = 32; s->batch < most && 300 * s->batch <= documents; ) s->batch *= 2;
    if (s->epochs == 0) s->epochs = n * 4 > 2.4e6 ? (many ? 3 : 4) : n * 15 < 2.4e6 ? 15 : (int64_t)(2.4e6 / n + .5);
    if (s->optimizer == CHOSEN) s->optimizer = 1 + HASTE_ADAMW;
    if (s->dtype == CHOSEN) s->dtype = 1 + TRAIN_DTYPE;
    /* Where there is a long tail, a linear encoder is better by 2 to 4 points: a rare label sees a few inputs in a few documents, and
       relu would hide half of them. Where all labels are frequent, relu is better by 1 point, with much dropout in small data. */
    if (s->activation == CHOSEN) s->activation = tail ? ACTIVATION_NONE : ACTIVATION_RELU;
    if (!(s->lr > 0)) s->lr = s->optimizer != 1 + HASTE_ADAMW ? 5 : many ? .01 : tail ? .007 : .002;
    if (!(s->encoder_lr > 0)) s->encoder_lr = many ? .0012 : tail ? .003 : .005;
    /* Found with BCE; under softmax all slopes of negatives are small. A model kept before there was such an option had none. */
    if (s->negligible < 0) s->negligible = many && s->loss == HASTE_BCE && !s->resume ? .003 : 0;
    if (s->dropout < 0) {
        s->dropout = many ? .15 : tail ? .3 : .7 - .45 * log10(n / 5000);
        s->dropout = s->dropout > .7 ? .7 : s->dropout < .1 ? .1 : s->dropout;
    }
    if (s->fan_in == 0) {
        s->fan_in = many ? 16 : 128;
        if (s->fan_in > inputs) s->fan_in = inputs;
    }
}

/* The layer that settings ask for: returns the labels of its head. */
static int64_t describe_layer(const settings *s, int32_t L, int32_t D, haste_layer_options *layer)
{
    const int64_t head = s->dense ? L : head_labels(s->head, L);
    memset(layer, 0, sizeof *layer);
    layer->labels = L;
    layer->inputs = D;
    if (head > 0) {
        layer->block[layer->block_count].labels = head;
        layer->block[layer->block_count].fan_in = HASTE_DENSE;
        layer->block[layer->block_count++].group_size = (int32_t)s->group_size;
    }
    if (head < L) {
        layer->block[layer->block_count].labels = L - head;
        layer->block[layer->block_count].fan_in = (int32_t)s->fan_in;
        layer->block[layer->block_count++].group_size = (int32_t)s->group_size;
    }
    layer->loss = (haste_loss)s->loss;
    layer->optimizer = (haste_optimizer)(s->optimizer - 1);
    layer->dtype = layer->state_dtype = (haste_dtype)(s->dtype - 1);
    layer->seed = (uint64_t)s->seed;
    return head;
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
        if (!grow_layer(&t->layer, L - t->layer.labels, t->frequency + t->layer.labels, t->count, text)) die(1, "%s", text);
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
    layer.samples = t->count;
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
            if (!encoder_scratch(&t->bag)) die(1, "out of memory");
        }
        t->bag.step = t->progress.encoder_step;
    } else {
        double before = -1, after = -1, begin = now();
        int32_t *order = (int32_t *)need((size_t)L, sizeof(int32_t));
        if (!order_labels(&t->train, t->document, t->count, t->frequency, head, (int32_t)s->group_size, s->grouping, (uint64_t)s->seed,
                          t->bag.threads, order, &before, &after, text)) die(1, "%s", text);
        if (after >= 0) say(t, "grouping   semantic: cohesion %.3f (by frequency %.3f), %.1f s\n", after, before, now() - begin);
        layer.order = order;
        if (!t->shape.dense && !encoder_create(&t->bag, s->encoder_init))
            die(1, "out of memory for the encoder (%.0f MiB)", mib(2 * encoder_bytes(t->train.features, D)));
        if (haste_layer_create(&t->layer, &layer, &error) != HASTE_OK) die(1, "%s", error.text);
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
    say(t, "training   %lld epochs of %lld steps of %lld documents, %s, %s %g, encoder %g\n", (long long)s->epochs,
           (long long)((t->count + s->batch - 1) / s->batch), (long long)s->batch, loss_name[s->loss], optimizer_name[s->optimizer - 1],
           s->lr, s->encoder_lr);
    engine_make(t, &layer);
}

/* ---- >>training ---------------------------------------------------------------------------------------------- */

/* One step on B documents, of `total` steps in all. */
static void train_batch(trainer *t, const int64_t *document, int32_t B, double factor, int64_t total)
{
    const settings *s = &t->s;
    const int64_t number = t->progress.step + 1;
    const double share = haste_rewire_share(number, (int64_t)(s->rewire_end * (double)total), s->rewire_share);
    haste_step_options step;
    haste_rewire_options rewire;

    memset(&step, 0, sizeof step);
    step.lr = (float)(s->lr * factor);
    step.momentum = (float)s->momentum;
    step.weight_decay = (float)s->weight_decay;
    step.loss.negligible = (float)s->negligible;
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

static void end_epoch(trainer *t, int64_t epoch, double lr, double seconds)
{
    haste_metrics valid, test;
    double loss = t->progress.loss / (double)t->count;
    int has_valid, has_test;
    char error[DATA_ERROR], *text;
    const report_point *point;
    terminal_clear(&progress_shown);
    printf("epoch %lld/%lld  loss %.4f", (long long)epoch, (long long)t->s.epochs, loss);
    has_valid = t->held_out > 0 && evaluate(t, &t->train, t->document + t->count, t->held_out, &valid, NULL);
    if (has_valid) report_scores("valid", &valid);
    has_test = t->s.eval_test && t->test.documents > 0 && evaluate(t, &t->test, t->test_document, t->test.documents, &test, NULL);
    if (has_test) report_scores("test", &test);
    if (t->progress.moved > 0) printf("  moved %lld", (long long)t->progress.moved);
    printf("  %.1f s\n", seconds);
    fflush(stdout);
    point = add_point(t, (double)epoch, loss, lr, has_valid ? &valid : NULL, has_test ? &test : NULL);
    if (t->s.log) {
        text = options_write(t->table, t->options);
        if (!text) die(1, "out of memory");
        if (!report_log(t->s.log, t->run, point, t->train_path ? t->train_path : "", text, error))
            fprintf(stderr, TRAIN_NAME ": %s; training goes on\n", error);
        free(text);
    }
    t->progress.loss = 0;
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
    if (n > 0 && begin - t->glanced_at > (t->glance_seconds > .1 ? 50 * t->glance_seconds : 5)) {
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
    if (t->s.save && ((t->s.save_every > 0 && unkept > 60 * t->s.save_every) || (t->unkept && unkept > 60))) save(t);
}

static void show_progress(trainer *t, int64_t batch, int64_t batches, double loss, double rate, int64_t left)
{
    char text[6][48];
    const char *const part[] = { text[0], text[1], text[2], text[3], text[4], text[5] };
    static const int last[] = { 0, 5, 1, 4, 3, 2 };
    snprintf(text[0], 48, "epoch %lld/%lld", (long long)(t->progress.step / batches) + (t->progress.step % batches != 0), (long long)t->s.epochs);
    snprintf(text[1], 48, "batch %lld/%lld", (long long)batch, (long long)batches);
    snprintf(text[2], 48, "loss %.4f", loss);
    text[3][0] = 0;
    if (t->glance > 0) snprintf(text[3], 48, "P@1 %.1f", t->glance);
    snprintf(text[4], 48, "%.0f documents/s", rate);
    snprintf(text[5], 48, left < 3600 ? "%lld:%02lld left" : "%lld h %02lld left", (long long)(left < 3600 ? left / 60 : left / 3600),
             (long long)(left < 3600 ? left % 60 : left % 3600 / 60));
    terminal_show(part, last, 6, &progress_shown);
}

static void train(trainer *t)
{
    settings *s = &t->s;
    const int64_t batches = (t->count + s->batch - 1) / s->batch, total = batches * s->epochs;
    const int64_t last = s->stop_after > 0 && s->stop_after < s->epochs ? batches * s->stop_after : total;
    const int64_t warmup = (int64_t)(s->warmup < 1 ? s->warmup * (double)total : s->warmup), first_step = t->progress.step;
    const int terminal = isatty(2);
    char error[DATA_ERROR] = "";
    int64_t *order = (int64_t *)need((size_t)t->count, sizeof(int64_t)), shuffled = -1;
    double shown = now(), epoch_begin = t->progress.seconds, run_begin = t->progress.seconds;

    if (t->progress.step > total)
        die(1, "%s: %lld steps are done, and %lld epochs have %lld", s->resume, (long long)t->progress.step, (long long)s->epochs,
            (long long)total);
    if (s->log) {
        FILE *log = report_open_log(s->log, error);
        if (!log || fclose(log) != 0) die(1, "%s", error);
    }
    catch_signals(on_signal);
    t->tried_at = t->glanced_at = now();
    if (s->save && !s->resume && !save_to(t, s->save, 0, error)) die(1, "%s", error);   /* shows now, not after the first epoch */
    if (!s->save && !s->export_path) printf("kept       nowhere: the model is lost at the end without --save or --export\n");
    if (t->progress.step > 0) printf("resumed    after %lld of %lld steps\n", (long long)t->progress.step, (long long)total);
    fflush(stdout);
    while (t->progress.step < last && !stop_signal) {
        const int64_t epoch = t->progress.step / batches, batch = t->progress.step % batches;
        const int32_t B = (int32_t)(t->count - batch * s->batch < s->batch ? t->count - batch * s->batch : s->batch);
        const double factor = s->rates * haste_schedule(t->progress.step, warmup, total, s->floor), begin = now();
        double end, loss;
        if (shuffled != epoch) {
            split_shuffle(t->document, t->count, (uint64_t)s->seed, epoch, order);
            shuffled = epoch;
        }
        train_batch(t, order + batch * s->batch, B, factor, total);
        if (t->progress.step % batches == 0) engine_wait(t);
        end = now();
        t->progress.seconds += end - begin;
        loss = t->progress.loss / (double)(batch * s->batch + B);
        if (terminal && end - shown > .2) {
            const double rate = (double)(t->progress.step - first_step) / (t->progress.seconds - run_begin);
            show_progress(t, batch + 1, batches, loss, rate * (double)s->batch, (int64_t)((double)(last - t->progress.step) / rate));
            shown = end;
        }
        if (t->progress.step % batches == 0) {
            end_epoch(t, epoch + 1, s->lr * factor, t->progress.seconds - epoch_begin);
            epoch_begin = t->progress.seconds;
        } else look_after(t, (double)t->progress.step / (double)batches, loss, s->lr * factor, terminal);
    }
    free(order);
    terminal_clear(&progress_shown);
    if (stop_signal && t->progress.step < last) {
        const int kept = s->save && save(t);
        printf("stopped    after %lld of %lld steps; ", (long long)t->progress.step, (long long)total);
        printf(kept ? "go on with\n" : s->save ? "what came after it was last kept is lost\n" : "nothing is kept without --save\n");
        if (kept) print_command(t, stdout);
        fflush(stdout);
        exit(128 + stop_signal);
    }
    if (t->unkept) save_at_last(t);
    stop_signal = 0;
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
    const int64_t batches = (t->count + t->s.batch - 1) / t->s.batch;
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
        if (n > 0 && !export_precision(t->s.export_path, tested ? &t->test : &t->train,
                                       tested ? t->test_document : t->document + t->count, n, t->bag.threads, &after, why))
            die(1, "%s", why);
        if (n > 0) printf("; P@1 %.2f, before %.2f", after, haste_metrics_get(&metrics, 1).precision);
        putchar('\n');
    }
    if (t->s.report) write_report(t, n > 0 ? &metrics : NULL, &bins, tested, now() - begin);
    printf("result");
    if (n > 0) report_result(&metrics);
    printf(" epochs=%lld seconds=%.1f peak_mib=%.0f", (long long)(t->progress.step / batches), t->progress.seconds,
           peak_mib());
    engine_result(t);
    putchar('\n');
}

#ifndef TRAIN_CUDA
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
           "Repository), also as .gz%s or from a pipe; - is standard input.\n"
           "Without files it learns a made-up data set. Everything has a default.\n\n"
           "  --save FILE        keep the model, also when stopped by a signal\n"
           "  --resume FILE      go on with a kept model: stopped, for more --epochs, or\n"
           "                     (with --save) on other documents, with new labels\n"
           "  --export FILE      write the model at the end, only to predict: half the size\n"
           "  --valid SHARE      hold out a part of TRAIN and score it while training\n"
           "  --epochs N         passes over TRAIN\n"
           "  --ngrams N         of text: runs of up to N words are features, too\n"
           "  --log FILE         a line of CSV per epoch\n"
           "  --report FOLDER    a page with curves, scores by label frequency, settings\n"
           "  --threads N        changes no result\n"
           "  --help-all         all options, in groups, with their defaults\n\n"
           "Scores are in percent: P@k (precision of the k best labels), nDCG@k, and PSP@k,\n"
           "in which rare labels count more. " TRAIN_NAME " ends with 0, 1 (something went\n"
           "wrong), 2 (a mistake on the command line), or 128 + the signal that stopped it.\n",
#ifdef HASTE_ZLIB
           ""
#else
           " (not in this build: no zlib)"
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
        if (strcmp(t.table[i].name, "rates") == 0) t.rates_given = t.table[i].given;
    }
    if (!t.train_path && !t.epochs_given && !t.s.plan) t.s.epochs = 8;   /* enough for made-up data */
    if (t.s.threads == 0) t.s.threads = useful_threads();
    check_settings(&t);
#ifndef TRAIN_CUDA
    if (t.s.plan) {
        print_plan(&t.s);
        return 0;
    }
#endif
    if (t.s.resume && t.s.export_path && !t.train_path) {
        export_only(&t.s);
        return 0;
    }
    if (t.s.resume) open_resumed(&t);
    engine_check();
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
