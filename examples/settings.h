/* settings.h: what haste-train can be told, and what it chooses where it is told nothing. TRAIN_PATHS, TRAIN_DTYPE and TRAIN_SAME are
   the program's. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "formats.h"
#include "options.h"
#include "order.h"
#include "schedule.h"

#define MANY      100000   /* labels, above which other settings are chosen: see choose_settings */

typedef struct settings {
    double      valid, head, head_decay, dropout, lr, encoder_lr, encoder_init, momentum, weight_decay, negligible, warmup, floor;
    double      rewire_share, rewire_end;
    int64_t     hidden, fan_in, group_size, epochs, batch, rewire_every, seed, limit_train, threads, chunks, stop_after, gpus;
    int64_t     ngrams, hash_bits, min_count;
    double      save_every, save_wait, rates;
    int         format, separator, grouping, growth, prune, scope, optimizer, loss, dtype, activation, values, path;
    int         dense, uniform, eval_test, export_bf16, deterministic, help, help_all, version;
    const char *label_names, *features, *test_features, *save, *resume, *export_path, *log, *report, *plan;
} settings;

enum { VALUES_CHOSEN, VALUES_TFIDF, VALUES_UNIT, VALUES_RAW, VALUES_STANDARD };
enum { CHOSEN, ACTIVATION_RELU = 1, ACTIVATION_NONE };   /* --optimizer, --dtype: CHOSEN, or their number in haste.h + 1 */

/* Every default stands here. What is "chosen" (0, or -1 where 0 means something) is worked out from the training split's size in
   choose_settings. */
static settings settings_default(void)
{
    settings s;
    memset(&s, 0, sizeof s);
    /* data */
    s.valid        = -1;
    s.format       = FORMAT_AUTO;
    s.separator    = SEPARATOR_AUTO;
    s.ngrams       = 1;
    s.hash_bits    = 0;
    s.min_count    = 0;
    /* model */
    s.hidden       = 512;
    s.activation   = CHOSEN;
    s.values       = VALUES_CHOSEN;
    s.head         = -1;
    s.head_decay   = -1;
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
    s.rewire_share = 0;
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

#define OPTION_ROOM 80
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
        { OPTION_CHOICE, "values", "chosen|tfidf|unit|raw|standard", &s->values, 0, 0, 1,
          "features: tf-idf of unit length, unit length, as they are, or of mean 0 and one variance; chosen: standard where most documents have most, else tfidf with a tail of rare labels, else unit", 0 },
        { OPTION_REAL, "valid", "SHARE", &s->valid, -1, .9, 1,
          "share of TRAIN held out, copies together, and scored; -1: a twentieth, 400 to 5,000 documents, that say how long to train and are then trained on too, where --epochs is left to us, comes to more than four, and there are 3,000 documents, without a tail of rare labels 20,000", 0 },
        { OPTION_COUNT, "limit-train", "N", &s->limit_train, 0, 1e15, 2, "only the first N documents of TRAIN; 0: all", 0 },
        { OPTION_FLAG, "eval-test", NULL, &s->eval_test, 0, 1, 0, "score TEST after each epoch too (it decides nothing)", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Model:", 0 },
        { OPTION_COUNT, "hidden", "D", &s->hidden, 1, 65536, 1, "width of the encoder: inputs of the layer", 0 },
        { OPTION_CHOICE, "activation", "chosen|relu|none", &s->activation, 0, 0, 1, "of the encoder; chosen: none with a tail of rare labels, else relu", 0 },
        { OPTION_FLAG, "dense", NULL, &s->dense, 0, 1, 1, "the dense layer of the same model, to see what sparsity costs", 0 },
        { OPTION_REAL, "head", "H", &s->head, -1, 2147483647, 1, "most frequent labels with dense weights; below 1: a share; -1: 4096 where there are twice as many, else 1024; 20% above 100,000", 0 },
        { OPTION_COUNT, "fan-in", "F", &s->fan_in, 0, 65536, 1, "inputs of each group of labels; 0: 128, or 16 above 100,000 labels", 0 },
        { OPTION_COUNT, "group-size", "S", &s->group_size, 8, 256, 1, "labels in a group: a multiple of 8", 0 },
        { OPTION_CHOICE, "grouping", "random|frequency|semantic", &s->grouping, 0, 0, 1, "which labels share a group", 0 },
        { OPTION_CHOICE, "dtype", "chosen|f32|bf16", &s->dtype, 0, 0, 1,
          TRAIN_DTYPE == HASTE_F32 ? "weights and optimizer state of the layer; chosen: f32" :
                                     "weights and optimizer state of the layer; chosen: bf16", 0 },
        { OPTION_HEADING, "", NULL, NULL, 0, 0, 0, "Training:", 0 },
        { OPTION_COUNT, "epochs", "N", &s->epochs, 0, 1e6, 2, "passes over TRAIN; 0: 60 for little data to 3 for much, and documents held out may end it sooner; with --resume on other documents a third of that", 0 },
        { OPTION_COUNT, "batch", "B", &s->batch, 0, 65536, 1, "documents in a step; 0: 32 to 512, more for more documents", 0 },
        { OPTION_CHOICE, "loss", "bce|hinge|softmax", &s->loss, 0, 0, 1, "binary cross-entropy, squared hinge, or softmax", 0 },
        { OPTION_CHOICE, "optimizer", "chosen|sgd|momentum|adamw", &s->optimizer, 0, 0, 1, "of the layer; chosen: adamw", 0 },
        { OPTION_REAL, "lr", "RATE", &s->lr, 0, 1e6, 2, "learning rate of the layer; 0: adamw .007 with a tail, .01 with many labels, else .002; others 5", 0 },
        { OPTION_REAL, "encoder-lr", "RATE", &s->encoder_lr, 0, 1e6, 2, "learning rate of the encoder; 0: .003 with a tail, .0012 with many labels, else .005", 0 },
        { OPTION_REAL, "encoder-init", "SCALE", &s->encoder_init, 0, 1e6, 1, "embeddings begin uniform in +-SCALE", 0 },
        { OPTION_REAL, "momentum", "MU", &s->momentum, 0, .99999, 1, "for --optimizer momentum; 0: 0.9", 0 },
        { OPTION_REAL, "weight-decay", "WD", &s->weight_decay, 0, 1e6, 2, "of the layer", 0 },
        { OPTION_REAL, "head-decay", "WD", &s->head_decay, -1, 1e6, 2, "of the head, on top; -1: .1 with a tail, else (and above 100,000 labels) 0", 0 },
        { OPTION_REAL, "negligible", "G", &s->negligible, -1, 1, 1,
          "smaller d loss / d logit count as 0, which saves time; -1: .003 with bce and a tail, else 0", 0 },
        { OPTION_REAL, "dropout", "SHARE", &s->dropout, -1, .99, 2, "of the layer's inputs; -1: .3 with a tail, .15 with many labels, else .7 to .1, less for more documents", 0 },
        { OPTION_REAL, "warmup", "STEPS", &s->warmup, 0, 1e15, 2, "steps of rising learning rate; below 1: share of training", 0 },
        { OPTION_REAL, "floor", "SHARE", &s->floor, 0, 1, 2, "of the learning rate that is left at the end", 0 },
        { OPTION_REAL, "rates", "SHARE", &s->rates, 0, 1000, 2, "what both learning rates are multiplied by; with --resume on other documents 1/3 unless it is given", 0 },
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
#ifdef TRAIN_NCCL
        { OPTION_COUNT, "gpus", "N", &s->gpus, 0, PROCESSES_MOST, 0, "of this machine, a process each; 0: one, or where mpirun has started several processes each takes one", 0 },
#endif
#ifdef TRAIN_PLAN
        { OPTION_TEXT, "plan", "L[,N[,V]]", &s->plan, 0, 0, 0, "reads nothing: memory and time of a step for L labels, N documents, V features, and the options above", 0 },
#endif
        { OPTION_FLAG, "version", NULL, &s->version, 0, 1, 0, "of program and library", 0 },
        { OPTION_FLAG, "help", NULL, &s->help, 0, 1, 0, "what is most needed", 0 },
        { OPTION_FLAG, "help-all", NULL, &s->help_all, 0, 1, 0, "this text", 0 }
    };
    memcpy(table, all, sizeof all);
    return (int)(sizeof all / sizeof all[0]);
}

static int64_t head_labels(double head, int64_t L)
{
    if (head < 0) head = L > MANY ? .2 : L > 2 * 4096 ? 4096 : 1024;
    if (head < 1) head *= (double)L;
    return head < (double)L ? (int64_t)head : L;
}

/* More labels than the head has by default: the others are rare. */
static int has_tail(int64_t labels) { return head_labels(-1, labels) < labels; }

/* Fills in what the user left to us, from the size of the training split. The rules were found on parts held out from the training
   files of five data sets of 5,000 to 915,000 documents: small ones overfit, large ones take too long for many epochs. With many labels, weights
   do more good in the dense head than in the tail, and small slopes cost more time than they are worth. */
static void choose_settings(settings *s, int64_t documents, int64_t labels, int64_t inputs)
{
    const double n = (double)(documents > 0 ? documents : 1);
    const int tail = has_tail(labels), many = labels > MANY, most = many ? 512 : 256;
    if (s->batch == 0) for (s->batch = 32; s->batch < most && 300 * s->batch <= documents; ) s->batch *= 2;
    if (s->epochs == 0) s->epochs = (int64_t)ceil(schedule_passes(n, tail));
    if (s->optimizer == CHOSEN) s->optimizer = 1 + HASTE_ADAMW;
    if (s->dtype == CHOSEN) s->dtype = 1 + TRAIN_DTYPE;
    /* Where there is a long tail, a linear encoder is better by 2 to 4 points: a rare label sees a few inputs in a few documents, and
       relu would hide half of them. Where all labels are frequent, relu is better by 1 point, with much dropout in small data. */
    if (s->activation == CHOSEN) s->activation = tail ? ACTIVATION_NONE : ACTIVATION_RELU;
    if (!(s->lr > 0)) s->lr = s->optimizer != 1 + HASTE_ADAMW ? 5 : many ? .01 : tail ? .007 : .002;
    if (!(s->encoder_lr > 0)) s->encoder_lr = many ? .0012 : tail ? .003 : .005;
    /* Found with BCE; under softmax all slopes of negatives are small. A model kept before there was such an option had none. */
    if (s->negligible < 0) s->negligible = tail && s->loss == HASTE_BCE && !s->resume ? .003 : 0;
    /* Keeps frequent labels from being learnt by heart while rare ones have their passes. A fifth of very many are no frequent ones. */
    if (s->head_decay < 0) s->head_decay = tail && !many && !s->resume ? .1 : 0;
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

#endif /* SETTINGS_H */
