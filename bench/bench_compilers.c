/* What bench/compilers.sh links with the implementation of each compiler: milliseconds of CPU time, one thread, the best
   of a few calls, one line a row.

       bench_compilers PATH [WORD]      PATH: avx512, avx2 or portable; WORD: only rows whose name contains it

   Compiled against the header of the implementation, which may be that of an older version. */
#define _POSIX_C_SOURCE 199309L
#include "haste.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { L = 8192, D = 768, B = 128, POSITIVES = 3, CANDIDATES = 64, GROUPED = 4000, E = 256, TURNS = 4 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static uint32_t number(void)   /* the same on every machine */
{
    static uint64_t seed = 1;
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(seed >> 33);
}

static float uniform(void) { return (float)number() / 2147483648.0f - .5f; }

static void *memory(size_t bytes)
{
    void *p = malloc(bytes);
    if (!p) { fprintf(stderr, "out of memory\n"); exit(1); }
    memset(p, 0, bytes);
    return p;
}

static haste_error error;
static void check(haste_status status)
{
    if (status != HASTE_OK) { fprintf(stderr, "%s\n", error.text); exit(1); }
}

static const char *wanted = "";
static int skipped(const char *name) { return strstr(name, wanted) == NULL; }

/* Runs a statement TURNS times and prints the best time. */
#define MEASURE(name, statement)                                                                                       \
    do {                                                                                                               \
        double least = 1e30;                                                                                           \
        int turn;                                                                                                      \
        for (turn = 0; turn < TURNS; turn++) {                                                                         \
            const double started = now();                                                                                \
            double took;                                                                                               \
            statement;                                                                                                 \
            took = now() - started;                                                                                      \
            if (took < least) least = took;                                                                            \
        }                                                                                                              \
        printf("%-20s %10.4f\n", name, least);                                                                         \
        fflush(stdout);                                                                                                \
    } while (0)

#if HASTE_VERSION_MAJOR == 0 && HASTE_VERSION_MINOR < 2
    #define LISTS(lists) (lists)
static haste_group_report report;
    #define GROUP(options, error) haste_group(embedding, GROUPED, E, order, GROUPED, options, &report, error)
#else
    #define LISTS(lists) (&(lists))
    #define GROUP(options, error) haste_group(embedding, GROUPED, E, order, GROUPED, options, error)
#endif

int main(int argc, char **argv)
{
    static const struct {
        const char     *name;
        haste_loss      loss;
        haste_optimizer optimizer;
        haste_dtype     dtype;
        float           negligible;
    } rows[] = {
        { "step bce sgd",     HASTE_BCE,           HASTE_SGD,      HASTE_F32,  0 },
        { "step bce momentum", HASTE_BCE,          HASTE_MOMENTUM, HASTE_F32,  0 },
        { "step bce adamw",   HASTE_BCE,           HASTE_ADAMW,    HASTE_F32,  0 },
        { "step softmax",     HASTE_SOFTMAX,       HASTE_SGD,      HASTE_F32,  0 },
        { "step hinge",       HASTE_SQUARED_HINGE, HASTE_SGD,      HASTE_F32,  0 },
        { "step negligible",  HASTE_BCE,           HASTE_SGD,      HASTE_F32,  .003f },
        { "step sgd bf16",    HASTE_BCE,           HASTE_SGD,      HASTE_BF16, 0 },
        { "step adamw bf16",  HASTE_BCE,           HASTE_ADAMW,    HASTE_BF16, 0 }
    };
    const haste_path path = argc < 2 ? HASTE_PATH_AUTO : !strcmp(argv[1], "avx512") ? HASTE_PATH_AVX512
                          : !strcmp(argv[1], "avx2") ? HASTE_PATH_AVX2 : HASTE_PATH_PORTABLE;
    float *x = (float *)memory(sizeof(float) * B * D), *grad_x = (float *)memory(sizeof(float) * B * D);
    int64_t *offset = (int64_t *)memory(sizeof(int64_t) * (B + 1)), *frequency = (int64_t *)memory(sizeof(int64_t) * L);
    int32_t *id = (int32_t *)memory(sizeof(int32_t) * B * POSITIVES);
    haste_lists positives;
    int i, row;
    if (argc > 2) wanted = argv[2];
    for (i = 0; i < B * D; i++) x[i] = uniform();
    for (i = 0; i <= B; i++) offset[i] = POSITIVES * (int64_t)i;
    for (i = 0; i < B * POSITIVES; i++) id[i] = (int32_t)(number() % L);
    positives.offset = offset;
    positives.id = id;

    for (row = 0; row < (int)(sizeof rows / sizeof rows[0]) + 2; row++) {
        const int steps = row < (int)(sizeof rows / sizeof rows[0]);
        const int bf16 = steps ? rows[row].dtype == HASTE_BF16 : row % 2;
        haste_layer_options options;
        haste_workspace_options work_options;
        haste_step_options step;
        haste_layer layer;
        haste_workspace work;
        double loss;
        if (steps && skipped(rows[row].name)) continue;
        memset(&options, 0, sizeof options);
        memset(&work_options, 0, sizeof work_options);
        memset(&step, 0, sizeof step);
        options.labels = L;
        options.inputs = D;
        options.dtype = bf16 ? HASTE_BF16 : HASTE_F32;
        options.state_dtype = options.dtype;
        options.frequency = frequency;
        options.samples = 1000000;
        work_options.threads = 1;
        work_options.path = path;
        step.lr = .01f;
        if (steps) {
            options.loss = rows[row].loss;
            options.optimizer = rows[row].optimizer;
#if HASTE_VERSION_MINOR < 2
            step.negligible = rows[row].negligible;
#else
            step.loss.negligible = rows[row].negligible;
#endif
        }
        check(haste_layer_create(&layer, &options, &error));
        check(haste_workspace_create(&work, &layer, &work_options, &error));
        if (steps)
            MEASURE(rows[row].name,
                    check(haste_train_step(&layer, &work, x, B, LISTS(positives), &step, &loss, grad_x, &error)));
        else {
            const char *forward = bf16 ? "forward bf16" : "forward", *top_k = bf16 ? "top-5 bf16" : "top-5";
            const char *single = bf16 ? "top-5 of 1 bf16" : "top-5 of 1", *backward = "backward", *score = "score";
            if (!skipped(forward) || (!skipped(backward) && !bf16)) {
                float *logits = (float *)memory(sizeof(float) * B * L);
                MEASURE(forward, check(haste_forward(&layer, &work, x, B, logits, &error)));
                if (!bf16) {
                    haste_gradient gradient;
                    check(haste_gradient_create(&gradient, &layer, &error));
                    MEASURE(backward, check(haste_backward(&layer, &work, x, B, logits, &gradient, grad_x, &error)));
                    haste_gradient_free(&gradient);
                }
                free(logits);
            }
            if (!skipped(top_k)) {
                int32_t *best = (int32_t *)memory(sizeof(int32_t) * B * 5);
                MEASURE(top_k, check(haste_top_k(&layer, &work, x, B, 5, NULL, best, NULL, &error)));
                MEASURE(single, check(haste_top_k(&layer, &work, x, 1, 5, NULL, best, NULL, &error)));
                free(best);
            }
            if (!skipped(score) && !bf16) {
                int64_t *begin = (int64_t *)memory(sizeof(int64_t) * (B + 1));
                int32_t *candidate = (int32_t *)memory(sizeof(int32_t) * B * CANDIDATES);
                float *scores = (float *)memory(sizeof(float) * B * CANDIDATES);
                haste_lists candidates;
                for (i = 0; i <= B; i++) begin[i] = CANDIDATES * (int64_t)i;
                for (i = 0; i < B * CANDIDATES; i++) candidate[i] = (int32_t)(number() % L);
                candidates.offset = begin;
                candidates.id = candidate;
                MEASURE(score, check(haste_score(&layer, &work, x, B, LISTS(candidates), scores, &error)));
                free(begin);
                free(candidate);
                free(scores);
            }
        }
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }

    if (!skipped("grouping")) {   /* on the best path, whatever PATH */
        float *embedding = (float *)memory(sizeof(float) * GROUPED * E);
        int32_t *order = (int32_t *)memory(sizeof(int32_t) * GROUPED);
        haste_group_options options;
        memset(&options, 0, sizeof options);
        options.threads = 1;
        for (i = 0; i < GROUPED * E; i++) embedding[i] = uniform();
        check(haste_embed_finish(embedding, GROUPED, E, &error));
        MEASURE("grouping", {
            for (i = 0; i < GROUPED; i++) order[i] = i;
            check(GROUP(&options, &error));
        });
        free(embedding);
        free(order);
    }
    free(x);
    free(grad_x);
    free(offset);
    free(frequency);
    free(id);
    return 0;
}
