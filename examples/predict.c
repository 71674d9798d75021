/* haste-predict: the best labels of documents, from a model of haste-train.

       haste-predict model.haste test.txt > predictions.txt
       haste-predict model.haste test.txt --batch 1           latency of single queries
       something | haste-predict model.haste -                answers each line as it comes; one that is wrong, by an
                                                              empty line, a message, and exit status 1 in the end
       haste-predict --help

   One line per document, `label:score label:score ...`, best first. A label is its name where the model knows names,
   with quotation marks around it (and doubled within it) where it contains white space or one of them; else its number.
   The score is a probability where the model was trained with binary cross-entropy, otherwise the logit. Where the
   documents have labels, how good the predictions were stands on standard error, and so does the time per query, and
   what the model does not know.

   mkdir -p build && cc -std=c99 -O3 -fopenmp -I. examples/predict.c -o build/haste-predict -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "formats.h"
#include "encoder.h"
#include "model.h"
#include "options.h"
#include "system.h"

/* haste-predict-cuda is this program with another engine: predict_cuda.cu says otherwise, then includes this file. */
#ifndef PREDICT_CUDA
    #define PREDICT_NAME  "haste-predict"
    #define PREDICT_PATHS "auto|portable|avx2|avx512|neon"
    #define PREDICT_HELP  "instructions to use"
    #define PREDICT_TOP_K 1000   /* the most that --top-k takes */
#endif

#define PROGRAM_NAME PREDICT_NAME
#include "program.h"

enum { NAMES_CHOSEN, NAMES_IDS, NAMES_NAMES };

typedef struct predictor {
    /* options */
    int64_t         top_k, batch, threads;
    double          threshold;
    int             by_threshold, cut, logits, path, format, names, verify;   /* cut: --threshold and --top-k */
    const char     *features, *exclude, *model_path, *data_path;

    haste_file      file;
    struct engine  *engine;
    model_shape     shape;
    encoder         bag;
    float          *rows;                   /* of the encoder, where the model keeps them in bfloat16 */
    const float    *weight, *mean;          /* [V] of features */
    double         *inverse_propensity;     /* [L] */
    vocabulary      words;
    data_documents  documents;              /* what is read */
    data_set        data, excluded;         /* a batch of it; of dense features, all there is */
    int             streams;                /* batches come one by one */
    int64_t         spoilt;                 /* lines of standard input that could not be read */
    char           *unanswered;             /* [batch] 1: such a line, whose answer is empty */
    double          load_seconds;
    char            where[64];              /* in what is read, for messages */

    int64_t        *document, *offset;      /* [batch], [batch + 1] */
    int32_t        *id;                     /* what was found, grown as needed */
    float          *score;
    int64_t         id_room, score_room;
} predictor;

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void read_options(predictor *p, int argc, char **argv)
{
    char text[DATA_ERROR];
    const char *name[2] = { NULL, NULL };
    int names, help = 0, version = 0;
    option table[] = {
        { OPTION_REAL, "threshold", "P", &p->threshold, -1e9, 1e9, 0, "only labels above this probability (a logit unless the model was trained with bce), all of them unless --top-k; without it the best K", 0 },
        { OPTION_COUNT, "top-k", "K", &p->top_k, 1, PREDICT_TOP_K, 0, "labels of each document", 0 },
        { OPTION_CHOICE, "names", "chosen|ids|names", &p->names, 0, 0, 0, "print labels as numbers or names; chosen: names, if the model has them", 0 },
        { OPTION_CHOICE, "format", FORMAT_WORDS, &p->format, 0, 0, 0, "of DOCUMENTS; auto: seen from the first line", 0 },
        { OPTION_FLAG, "logits", NULL, &p->logits, 0, 1, 0, "logits, not probabilities (also for --threshold)", 0 },
        { OPTION_TEXT, "features", "FILE", &p->features, 0, 0, 0, "dense features (.npy); DOCUMENTS then gives the labels", 0 },
        { OPTION_TEXT, "exclude", "FILE", &p->exclude, 0, 0, 0, "as many documents, whose labels must not come back", 0 },
        { OPTION_COUNT, "batch", "B", &p->batch, 1, 65536, 0, "documents at a time", 0 },
        { OPTION_COUNT, "threads", "N", &p->threads, 0, 1024, 0, "0: all", 0 },
        { OPTION_FLAG, "verify", NULL, &p->verify, 0, 1, 0, "first compare MODEL, weights too, with its checksums", 0 },
        { OPTION_CHOICE, "path", PREDICT_PATHS, &p->path, 0, 0, 0, PREDICT_HELP, 0 },
        { OPTION_FLAG, "version", NULL, &version, 0, 1, 0, "of program and library", 0 },
        { OPTION_FLAG, "help", NULL, &help, 0, 1, 0, "this text", 0 }
    };
    const int count = (int)(sizeof table / sizeof table[0]);
    p->top_k = 5;
    p->batch = 32;
    p->threshold = NAN;
    if (!options_parse(table, count, argc, argv, name, &names, 2, text)) die(2, "%s", text);
    if (version) printf(PREDICT_NAME " %s\n", version_text(text));
    if (help) {
        const int columns = terminal_columns(1);
        printf("usage: " PREDICT_NAME " MODEL DOCUMENTS [options]\n\n"
               "Writes the best labels of each document, best first, as label:score. DOCUMENTS\n"
               "is a file as for haste-train, with or without labels, or a .npy file where the\n"
               "model was trained on one. - is standard input: each line is answered as it\n"
               "comes. Defaults stand in brackets.\n\n");
        options_help(table, count, columns >= 60 && columns < 120 ? columns : columns ? 120 : 80, stdout);
        printf("\nEnds with 0, 1 (something went wrong, or a line of standard input was), 2 (a\n"
               "mistake on the command line), or 128 + the signal that stopped it.\n");
    }
    if (help || version) {
        if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));
        exit(0);
    }
    if (p->threads == 0) p->threads = useful_threads();
    if (names < 2) die(2, "expected a model and a file of documents; see --help");
    p->cut = table[0].given && table[1].given;
    p->by_threshold = table[0].given && !p->cut;
    p->model_path = name[0];
    p->data_path = name[1];
}

static void open_model(predictor *p)
{
    const double begin = now();
    const void *frequency;
    char text[DATA_ERROR];
    haste_error error;
    if (haste_load(p->model_path, 1, &p->file, &error) != HASTE_OK) die(1, "%s", error.text);
    if (p->verify && haste_file_check(&p->file, &error) != HASTE_OK) die(1, "%s: %s", p->model_path, error.text);
    if (!model_read_shape(&p->file, p->model_path, &p->shape, text)) die(1, "%s", text);
    if (!model_read_encoder(&p->file, p->model_path, &p->shape, &p->bag, &p->rows, text)) die(1, "%s", text);
    if (!p->shape.dense) {
        p->weight = (const float *)model_section(&p->file, "idf", (uint64_t)p->shape.features * sizeof(float),
                                                 p->model_path, text);
        if (p->weight && p->shape.tfidf == MODEL_STANDARD)
            p->mean = (const float *)model_section(&p->file, "mean", (uint64_t)p->shape.features * sizeof(float),
                                                   p->model_path, text);
        if (!p->weight || (p->shape.tfidf == MODEL_STANDARD && !p->mean)) die(1, "%s", text);
    }
    frequency = model_section(&p->file, "frequency", (uint64_t)p->file.layer.labels * sizeof(int64_t), p->model_path, text);
    if (!frequency) die(1, "%s", text);
    p->inverse_propensity = (double *)need((size_t)p->file.layer.labels, sizeof(double));
    if (haste_inverse_propensity((const int64_t *)frequency, p->file.layer.labels, p->shape.documents, 0, 0,
                                 p->inverse_propensity, &error) != HASTE_OK)
        die(1, "%s: %s", p->model_path, error.text);
    if (!model_read_vocabulary(&p->file, p->model_path, &p->shape, &p->words, text)) die(1, "%s", text);
    if (p->names == NAMES_NAMES && p->words.labels.count == 0)
        die(2, "--names names: %s knows no names of labels", p->model_path);
    if (p->names == NAMES_CHOSEN) p->names = p->words.labels.count > 0 ? NAMES_NAMES : NAMES_IDS;
    p->load_seconds = now() - begin;

    if ((p->by_threshold || p->cut) && p->file.layer.loss == HASTE_BCE && !p->logits) {
        if (!(p->threshold >= 0 && p->threshold <= 1))
            die(2, "--threshold %g: expected a probability between 0 and 1", p->threshold);
        p->threshold = p->threshold == 0 ? -1e30 : p->threshold == 1 ? 1e30 : log(p->threshold / (1 - p->threshold));
    }
}

/* A whole file at once: labels beside dense features, or to exclude. */
static void read_labels(predictor *p, data_set *data, const char *path)
{
    data_reading how;
    data_documents about;
    char error[DATA_ERROR];
    memset(&how, 0, sizeof how);
    how.format = p->format;
    how.query = 1;
    if (!data_read(data, &p->words, path, &how, &about, error)) die(1, "%s", error);
}

static void open_documents(predictor *p)
{
    const char *path = p->data_path, *dense = p->features ? p->features : path;
    char error[DATA_ERROR];
    if (p->shape.dense) {
        if (p->features) read_labels(p, &p->data, path);
        if (!data_read_npy(&p->data, dense, 0, error)) die(1, "%s", error);
        if (p->data.width != p->shape.width)
            die(1, "%s: %s wants dense features (.npy) of %lld inputs", dense, p->model_path,
                (long long)p->shape.width);
        if (!model_weigh(&p->data, &p->shape, NULL, NULL)) die(1, "out of memory");
    } else {
        if (p->features || data_ends_with(path, ".npy")) die(1, "%s: %s wants sparse documents", dense, p->model_path);
        if (!data_documents_open(&p->documents, &p->words, path, p->format, 1, error)) die(1, "%s", error);
        p->streams = 1;
        p->documents.stream.stop = &stop_signal;
    }
    if (p->exclude) read_labels(p, &p->excluded, p->exclude);
}

/* The next documents, up to a batch of them; of what comes through a pipe only those that are there, but at least one.
   Returns their number, 0 at the end; *first (=) is the place of the first in p->data. */
static int32_t next_batch(predictor *p, int64_t done, int64_t *first)
{
    char error[DATA_ERROR];
    int got = !stop_signal;
    *first = p->streams ? 0 : done;
    if (!got) return 0;
    if (!p->streams) return (int32_t)(p->data.documents - done < p->batch ? p->data.documents - done : p->batch);
    p->data.documents = 0;
    while (got > 0 && p->data.documents < p->batch && (p->data.documents == 0 || data_ready(&p->documents.stream))) {
        p->unanswered[p->data.documents] = 0;
        got = data_documents_next(&p->documents, &p->data, error);
        if (got >= 0 || !p->documents.spoilt || strcmp(p->data_path, "-") != 0) continue;
        /* Who asks line by line goes on with the next one; a wrong file is a wrong file. */
        fprintf(stderr, PREDICT_NAME ": %s\n", error);
        p->unanswered[p->data.documents] = 1;
        p->spoilt++;
        got = data_empty(&p->data);
        if (!got) die(1, "out of memory");
    }
    if (got < 0) {
        fflush(stdout);
        die(1, "%s", error);
    }
    if (!model_weigh(&p->data, &p->shape, p->weight, p->mean)) die(1, "out of memory");
    return (int32_t)p->data.documents;
}

/* ---- >>engine ------------------------------------------------------------------------------------------------ */

/* The engine encodes documents and asks the layer: the CPU's follows, the GPU's is in predict_cuda.cu. */
static void engine_check(void);                         /* can this machine do it? */
static void engine_make(predictor *p, int64_t ids);     /* ids: the most exclusions of a batch */
/* The labels of the B documents of p->data from `first` on, which are p->document: those of document b are
   id[offset[b]] .. id[offset[b + 1] - 1]. */
static void engine_search(predictor *p, int64_t first, int32_t B, const haste_lists *excluded);
static const char *engine_text(const predictor *p, char text[128]);   /* what it runs on */
static void engine_free(predictor *p);

static void id_room(predictor *p, int64_t count)
{
    if (!data_reserve((void **)&p->id, &p->id_room, count, sizeof(int32_t)) ||
        !data_reserve((void **)&p->score, &p->score_room, count, sizeof(float))) die(1, "out of memory");
}

#ifndef PREDICT_CUDA

struct engine {
    haste_workspace work;
    float          *x;   /* [batch, D] */
};

static void engine_check(void) { }

static void engine_make(predictor *p, int64_t ids)
{
    struct engine *e = (struct engine *)need(1, sizeof *e);
    haste_workspace_options options;
    haste_error error;
    memset(&options, 0, sizeof options);
    options.batch = (int32_t)p->batch;
    options.top_k = (int32_t)p->top_k;
    options.threads = (int32_t)p->threads;
    options.path = (haste_path)p->path;
    options.ids = ids;
    if (haste_workspace_create(&e->work, &p->file.layer, &options, &error) != HASTE_OK) die(1, "%s", error.text);
    e->x = (float *)need((size_t)p->batch, (size_t)p->shape.width * sizeof(float));
    p->bag.threads = e->work.threads;
    p->engine = e;
}

static void engine_search(predictor *p, int64_t first, int32_t B, const haste_lists *excluded)
{
    struct engine *e = p->engine;
    haste_search_options options;
    const int32_t k = (int32_t)p->top_k;
    const int64_t D = p->shape.width;
    const float threshold = (float)p->threshold;
    haste_status status;
    haste_error error;
    int32_t b;
    memset(&options, 0, sizeof options);
    options.excluded = excluded;
    if (p->shape.dense) memcpy(e->x, p->data.dense + first * D, (size_t)(B * D) * sizeof(float));
    else encoder_forward(&p->bag, &p->data, p->document, B, 0, e->x);
    if (p->by_threshold) {
        int64_t found = 0;
        status = haste_above(&p->file.layer, &e->work, e->x, B, threshold, &options, p->offset, p->id, p->score, p->id_room,
                             &found, &error);
        if (status == HASTE_ERR_SIZE && found > p->id_room) {   /* now it is known how many there are */
            id_room(p, found);
            status = haste_above(&p->file.layer, &e->work, e->x, B, threshold, &options, p->offset, p->id, p->score,
                                 p->id_room, &found, &error);
        }
    } else {
        status = haste_top_k(&p->file.layer, &e->work, e->x, B, k, &options, p->id, p->score, &error);
        for (b = 0; b <= B; b++) p->offset[b] = (int64_t)b * k;
    }
    if (status != HASTE_OK) die(1, "%s: %s: %s", p->data_path, p->where, error.text);
}

static const char *engine_text(const predictor *p, char text[128])
{
    const haste_workspace *work = &p->engine->work;
    snprintf(text, 128, "%s, %ld thread%s", haste_path_text(work->path), (long)work->threads, work->threads == 1 ? "" : "s");
    return text;
}

static void engine_free(predictor *p)
{
    haste_workspace_free(&p->engine->work);
    free(p->engine->x);
    free(p->engine);
}

#endif /* PREDICT_CUDA */

/* ---- >>the run ----------------------------------------------------------------------------------------------- */

static void make_engine(predictor *p)
{
    const size_t batch = (size_t)p->batch;
    int64_t most = 0, i;
    for (i = 0; p->exclude && i < p->excluded.documents; i++) {
        const int64_t n = p->excluded.label_offset[i + 1] - p->excluded.label_offset[i];
        if (n > most) most = n;
    }
    engine_make(p, most > 0 ? most * p->batch : 1);
    p->document = (int64_t *)need(batch, sizeof(int64_t));
    p->unanswered = (char *)need(batch, 1);
    memset(p->unanswered, 0, batch);
    p->offset = (int64_t *)need(batch + 1, sizeof(int64_t));
    id_room(p, p->batch * p->top_k);
}

static void print_label(const predictor *p, int32_t id)
{
    int64_t n, i;
    const char *name;
    int quote = 0;
    if (p->names == NAMES_IDS) { printf("%ld", (long)id); return; }
    name = data_name(&p->words.labels, id, &n);
    for (i = 0; i < n; i++) quote |= name[i] == ' ' || name[i] == '\t' || name[i] == '"';
    if (!quote) { fwrite(name, 1, (size_t)n, stdout); return; }
    putchar('"');
    for (i = 0; i < n; i++) {
        if (name[i] == '"') putchar('"');
        putchar(name[i]);
    }
    putchar('"');
}

static void print_lists(const predictor *p, int32_t B)
{
    const int probability = p->file.layer.loss == HASTE_BCE && !p->logits;
    int32_t b;
    int64_t j;
    for (b = 0; b < B; b++) {
        for (j = p->offset[b]; j < p->offset[b + 1] && p->id[j] >= 0 && !p->unanswered[b]; j++) {
            const double score = (double)p->score[j];
            if (p->cut && !(score > p->threshold)) break;
            if (j > p->offset[b]) putchar(' ');
            print_label(p, p->id[j]);
            printf(":%.6g", probability ? 1 / (1 + exp(-score)) : score);
        }
        putchar('\n');
    }
}

static void predict(predictor *p)
{
    const int32_t k = (int32_t)p->top_k;
    const int scored = !p->by_threshold && !p->cut && k <= HASTE_MAX_K;
    double *times = NULL, seconds = 0;
    int64_t batches = 0, times_room = 0, done = 0, first, labels = 0, i;
    int32_t B, b;
    haste_metrics metrics;
    haste_error error;
    char text[200];

    if (scored && haste_metrics_init(&metrics, k, &error) != HASTE_OK) die(1, "%s", error.text);
    while ((B = next_batch(p, done, &first)) > 0) {
        const double begin = now();
        haste_lists truth, excluded;   /* slices of the whole: an offset need not begin at 0 */
        if (p->exclude && done + B > p->excluded.documents)
            die(1, "%s: %lld documents; %s has more", p->exclude, (long long)p->excluded.documents, p->data_path);
        truth.offset = p->data.label_offset + first;
        truth.id = p->data.label;
        excluded.offset = p->exclude ? p->excluded.label_offset + done : NULL;
        excluded.id = p->excluded.label;
        for (b = 0; b < B; b++) p->document[b] = first + b;
        snprintf(p->where, sizeof p->where, "from document %lld on", (long long)done + 1);
        engine_search(p, first, B, p->exclude ? &excluded : NULL);
        print_lists(p, B);
        /* Nobody waits for an answer that is there: whoever asks line by line gets each at once. */
        if (p->streams && !data_ready(&p->documents.stream) && fflush(stdout) != 0) break;
        if (!data_reserve((void **)&times, &times_room, batches + 1, sizeof(double))) die(1, "out of memory");
        times[batches] = now() - begin;
        seconds += times[batches++];
        labels += truth.offset[B] - truth.offset[0];
        if (scored && haste_metrics_add(&metrics, p->id, B, k, p->file.layer.labels, &truth, p->inverse_propensity,
                                        p->exclude ? &excluded : NULL, &error) != HASTE_OK)
            die(1, "%s: %s", p->data_path, error.text);
        done += B;
    }
    if (fflush(stdout) != 0 || ferror(stdout)) die(1, "cannot write: %s", strerror(errno));
    if (p->exclude && done < p->excluded.documents && !stop_signal)
        die(1, "%s: %lld documents; %s has %lld", p->exclude, (long long)p->excluded.documents, p->data_path,
            (long long)done);

    for (i = 1; i <= 5 && scored && labels > 0; i += 2)
        if (i <= k) {
            const haste_metrics_values m = haste_metrics_get(&metrics, (int32_t)i);
            fprintf(stderr, "at %lld       P %.2f  nDCG %.2f  recall %.2f  PSP %.2f  PSnDCG %.2f\n", (long long)i, m.precision,
                    m.ndcg, m.recall, m.psp, m.psndcg);
        }
    if (data_skipped_text(&p->documents.skipped, (int)p->words.shape.text, text)[0])
        fprintf(stderr, "skipped    %s\n", text);
    fprintf(stderr, "model      %s in %.1f ms\n", p->file.mapped ? "mapped" : "read", p->load_seconds * 1e3);
    if (batches > 0) {
        qsort(times, (size_t)batches, sizeof times[0], by_value);
        fprintf(stderr, "latency    median %.3f ms, p99 %.3f ms a batch of %s%lld; %.0f documents/s; %s\n",
                times[batches / 2] * 1e3, times[(batches * 99 + 99) / 100 - 1] * 1e3,
                batches * p->batch > done + (batches > 1 ? p->batch : 0) ? "up to " : "", (long long)p->batch,
                (double)done / seconds, engine_text(p, text));
    }
    free(times);
}

int main(int argc, char **argv)
{
    static predictor p;   /* zeroed */
    wait_without_spinning(argv);
    read_options(&p, argc, argv);
    open_model(&p);
    engine_check();
    open_documents(&p);
    make_engine(&p);
    catch_signals(on_signal);   /* what is known by then is said at the end */
#ifdef SIGPIPE
    signal(SIGPIPE, SIG_DFL);   /* nobody reads on: as other filters do */
#endif
    predict(&p);
    free(p.document);
    free(p.unanswered);
    free(p.offset);
    free(p.id);
    free(p.score);
    free(p.inverse_propensity);
    free(p.rows);
    data_documents_close(&p.documents);
    data_free(&p.data);
    data_free(&p.excluded);
    vocabulary_free(&p.words);
    engine_free(&p);
    haste_file_free(&p.file);
    return stop_signal ? 128 + stop_signal : p.spoilt > 0;
}
