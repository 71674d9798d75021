/* haste-predict: the best labels of documents, from a model of haste-train.

       haste-predict model.haste test.txt > predictions.txt
       haste-predict model.haste test.txt --batch 1           latency of single queries
       haste-predict --help

   One line per document, `label:score label:score ...`, best first. The score is a probability where the model was
   trained with binary cross-entropy, otherwise the logit. Where the documents have labels, how good the predictions were stands on
   standard error, and so does the time per query.

   cc -std=c99 -O3 -fopenmp -I. examples/predict.c -o build/haste-predict -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "data.h"
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

typedef struct predictor {
    /* options */
    int64_t         top_k, batch, threads;
    double          threshold;
    int             by_threshold, logits, verify, path;
    const char     *features, *exclude, *model_path, *data_path;

    haste_file      file;
    struct engine  *engine;
    model_shape     shape;
    encoder         bag;
    const float    *weight;                 /* [V] of features */
    double         *inverse_propensity;     /* [L] */
    data_set        data, excluded;
    double          load_seconds;

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

/* Ends the program: 2 for a mistake on the command line, 1 for anything else. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3), noreturn))
#endif
static void die(int code, const char *format, ...)
{
    va_list arguments;
    fflush(stdout);
    fprintf(stderr, PREDICT_NAME ": ");
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

static void read_options(predictor *p, int argc, char **argv)
{
    char text[DATA_ERROR];
    const char *name[2] = { NULL, NULL };
    int names, help = 0;
    option table[] = {
        { OPTION_REAL, "threshold", "P", &p->threshold, -1e9, 1e9, 0, "instead of K labels all whose score is above P", 0 },
        { OPTION_COUNT, "top-k", "K", &p->top_k, 1, PREDICT_TOP_K, 0, "labels of each document", 0 },
        { OPTION_FLAG, "logits", NULL, &p->logits, 0, 1, 0, "logits, not probabilities (also for --threshold)", 0 },
        { OPTION_TEXT, "features", "FILE", &p->features, 0, 0, 0, "dense features (.npy); DOCUMENTS then gives the labels", 0 },
        { OPTION_TEXT, "exclude", "FILE", &p->exclude, 0, 0, 0, "as many documents, whose labels must not come back", 0 },
        { OPTION_COUNT, "batch", "B", &p->batch, 1, 65536, 0, "documents at a time", 0 },
        { OPTION_COUNT, "threads", "N", &p->threads, 0, 1024, 0, "0: all", 0 },
        { OPTION_FLAG, "verify", NULL, &p->verify, 0, 1, 0, "first compare MODEL, weights too, with its checksums", 0 },
        { OPTION_CHOICE, "path", PREDICT_PATHS, &p->path, 0, 0, 0, PREDICT_HELP, 0 },
        { OPTION_FLAG, "help", NULL, &help, 0, 1, 0, "this text", 0 }
    };
    const int count = (int)(sizeof table / sizeof table[0]);
    p->top_k = 5;
    p->batch = 32;
    p->threshold = .5;   /* only shown as an example: it counts where it is given */
    if (!options_parse(table, count, argc, argv, name, &names, 2, text)) die(2, "%s", text);
    if (help) {
        printf("usage: " PREDICT_NAME " MODEL DOCUMENTS [options]\n\n"
               "Writes the best labels of each document, best first, as label:score. DOCUMENTS is a text file as for\n"
               "haste-train, or a .npy file where the model was trained on one. Defaults stand in brackets.\n\n");
        options_help(table, count, stdout);
        exit(0);
    }
    if (names < 2) die(2, "expected a model and a file of documents; see --help");
    p->by_threshold = table[0].given;
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
    p->bag.features = (int32_t)p->shape.features;
    p->bag.width = (int32_t)p->shape.width;
    p->bag.relu = p->shape.relu != 0;
    if (!p->shape.dense) {
        const size_t bytes = encoder_bytes(p->bag.features, p->bag.width);
        p->bag.row = (float *)(uintptr_t)model_section(&p->file, "encoder", bytes, p->model_path, text);
        if (p->bag.row)
            p->weight = (const float *)model_section(&p->file, "idf", (uint64_t)p->shape.features * sizeof(float), p->model_path, text);
        if (!p->weight) die(1, "%s", text);
    }
    frequency = model_section(&p->file, "frequency", (uint64_t)p->file.layer.labels * sizeof(int64_t), p->model_path, text);
    if (!frequency) die(1, "%s", text);
    p->inverse_propensity = (double *)need((size_t)p->file.layer.labels, sizeof(double));
    if (haste_inverse_propensity((const int64_t *)frequency, p->file.layer.labels, p->shape.documents, 0, 0,
                                 p->inverse_propensity, &error) != HASTE_OK)
        die(1, "%s: %s", p->model_path, error.text);
    p->load_seconds = now() - begin;

    if (p->by_threshold && p->file.layer.loss == HASTE_BCE && !p->logits) {
        if (!(p->threshold > 0 && p->threshold < 1)) die(2, "--threshold %g: expected a probability between 0 and 1", p->threshold);
        p->threshold = log(p->threshold / (1 - p->threshold));
    }
}

static void read_documents(predictor *p)
{
    const int32_t L = p->file.layer.labels;
    const char *path = p->data_path;
    char error[DATA_ERROR];
    if (data_ends_with(path, ".npy")) {
        if (!data_read_npy(&p->data, path, 0, error)) die(1, "%s", error);
    } else {
        if (!data_read(&p->data, path, 0, error)) die(1, "%s", error);
        if (p->data.labels > L || (!p->shape.dense && p->data.features != p->shape.features))
            die(1, "%s:1: %ld features and %ld labels; %s has %lld and %ld", path, (long)p->data.features, (long)p->data.labels,
                p->model_path, (long long)p->shape.features, (long)L);
        if (p->features && !data_read_npy(&p->data, p->features, 0, error)) die(1, "%s", error);
    }
    if (p->shape.dense && p->data.width != p->shape.width)
        die(1, "%s: %s wants dense features (.npy) of %lld inputs", path, p->model_path, (long long)p->shape.width);
    if (!p->shape.dense && p->data.dense) die(1, "%s: %s wants sparse documents", path, p->model_path);
    if (p->exclude) {
        if (!data_read(&p->excluded, p->exclude, 0, error)) die(1, "%s", error);
        if (p->excluded.documents != p->data.documents || p->excluded.labels > L)
            die(1, "%s:1: %lld documents and %ld labels; expected %lld and %ld", p->exclude, (long long)p->excluded.documents,
                (long)p->excluded.labels, (long long)p->data.documents, (long)L);
    }
    model_weigh(&p->data, &p->shape, p->weight);
}

/* ---- >>engine ------------------------------------------------------------------------------------------------ */

/* The engine encodes documents and asks the layer: the CPU's follows, the GPU's is in predict_cuda.cu. */
static void engine_check(void);                         /* can this machine do it? */
static void engine_make(predictor *p, int64_t ids);     /* ids: the most exclusions of a batch */
/* The labels of the B documents from `first` on, which are p->document: those of document b are id[offset[b]] ..
   id[offset[b + 1] - 1]. */
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
    const int32_t k = (int32_t)p->top_k;
    const int64_t D = p->shape.width;
    const float threshold = (float)p->threshold;
    haste_status status;
    haste_error error;
    int32_t b;
    if (p->shape.dense) memcpy(e->x, p->data.dense + first * D, (size_t)(B * D) * sizeof(float));
    else encoder_forward(&p->bag, &p->data, p->document, B, 0, e->x);
    if (p->by_threshold) {
        int64_t found = 0;
        status = haste_above(&p->file.layer, &e->work, e->x, B, threshold, excluded, p->offset, p->id, p->score, p->id_room,
                             &found, &error);
        if (status == HASTE_ERR_SIZE && found > p->id_room) {   /* now it is known how many there are */
            id_room(p, found);
            status = haste_above(&p->file.layer, &e->work, e->x, B, threshold, excluded, p->offset, p->id, p->score,
                                 p->id_room, &found, &error);
        }
    } else {
        status = haste_top_k(&p->file.layer, &e->work, e->x, B, k, excluded, p->id, p->score, &error);
        for (b = 0; b <= B; b++) p->offset[b] = (int64_t)b * k;
    }
    if (status != HASTE_OK) die(1, "%s: from document %lld on: %s", p->data_path, (long long)first + 1, error.text);
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
    int64_t ids = 1, i;
    for (i = 0; p->exclude && i < p->data.documents; i += p->batch) {   /* the most exclusions of a batch */
        const int64_t end = i + p->batch < p->data.documents ? i + p->batch : p->data.documents;
        const int64_t n = p->excluded.label_offset[end] - p->excluded.label_offset[i];
        if (n > ids) ids = n;
    }
    engine_make(p, ids);
    p->document = (int64_t *)need(batch, sizeof(int64_t));
    p->offset = (int64_t *)need(batch + 1, sizeof(int64_t));
    id_room(p, p->batch * p->top_k);
}

/* The labels of documents first .. first + B - 1. */
static void search(predictor *p, int64_t first, int32_t B, const haste_lists *excluded)
{
    int32_t b;
    for (b = 0; b < B; b++) p->document[b] = first + b;
    engine_search(p, first, B, excluded);
}

static void print_lists(const predictor *p, int32_t B)
{
    const int probability = p->file.layer.loss == HASTE_BCE && !p->logits;
    int32_t b;
    int64_t j;
    for (b = 0; b < B; b++) {
        for (j = p->offset[b]; j < p->offset[b + 1] && p->id[j] >= 0; j++) {
            double score = probability ? 1 / (1 + exp(-(double)p->score[j])) : (double)p->score[j];
            printf(j > p->offset[b] ? " %ld:%.6g" : "%ld:%.6g", (long)p->id[j], score);
        }
        putchar('\n');
    }
}

static void predict(predictor *p)
{
    const int has_labels = p->data.label_offset[p->data.documents] > 0 && !p->by_threshold;
    const int32_t k = (int32_t)p->top_k;
    double *times = (double *)need((size_t)(p->data.documents / p->batch) + 1, sizeof(double)), seconds = 0;
    int64_t batches = 0, i;
    haste_metrics metrics;
    haste_error error;
    char text[128];

    if (has_labels && k <= HASTE_MAX_K && haste_metrics_init(&metrics, k, &error) != HASTE_OK) die(1, "%s", error.text);
    for (i = 0; i < p->data.documents; i += p->batch) {
        const int32_t B = (int32_t)(p->data.documents - i < p->batch ? p->data.documents - i : p->batch);
        const double begin = now();
        haste_lists truth, excluded;   /* slices of the whole: an offset need not begin at 0 */
        truth.offset = p->data.label_offset + i;
        truth.id = p->data.label;
        excluded.offset = p->exclude ? p->excluded.label_offset + i : NULL;
        excluded.id = p->excluded.label;
        search(p, i, B, p->exclude ? &excluded : NULL);
        times[batches] = now() - begin;
        seconds += times[batches++];
        print_lists(p, B);
        if (has_labels && k <= HASTE_MAX_K &&
            haste_metrics_add(&metrics, p->id, B, k, p->file.layer.labels, &truth, p->inverse_propensity,
                              p->exclude ? &excluded : NULL, &error) != HASTE_OK)
            die(1, "%s: %s", p->data_path, error.text);
    }
    if (fflush(stdout) != 0) die(1, "cannot write: %s", strerror(errno));

    for (i = 1; i <= 5 && has_labels && k <= HASTE_MAX_K; i += 2)
        if (i <= k) {
            const haste_metrics_values m = haste_metrics_get(&metrics, (int32_t)i);
            fprintf(stderr, "at %lld       P %.2f  nDCG %.2f  recall %.2f  PSP %.2f  PSnDCG %.2f\n", (long long)i, m.precision,
                    m.ndcg, m.recall, m.psp, m.psndcg);
        }
    qsort(times, (size_t)batches, sizeof times[0], by_value);
    fprintf(stderr, "model      %s in %.1f ms\n", p->file.mapped ? "mapped" : "read", p->load_seconds * 1e3);
    if (batches > 0)
        fprintf(stderr, "latency    median %.3f ms, p99 %.3f ms a batch of %lld; %.0f documents/s; %s\n",
                times[batches / 2] * 1e3, times[(batches - 1) * 99 / 100] * 1e3, (long long)p->batch,
                (double)p->data.documents / seconds, engine_text(p, text));
    free(times);
}

int main(int argc, char **argv)
{
    static predictor p;   /* zeroed */
    read_options(&p, argc, argv);
    open_model(&p);
    engine_check();
    read_documents(&p);
    make_engine(&p);
    predict(&p);
    free(p.document);
    free(p.offset);
    free(p.id);
    free(p.score);
    free(p.inverse_propensity);
    data_free(&p.data);
    data_free(&p.excluded);
    engine_free(&p);
    haste_file_free(&p.file);
    return 0;
}
