/* Threads of the caller's own: HASTE_PARALLEL_FOR by pthreads, several readers of one layer at a time, each with a
   workspace of its own. What all calls compute must not depend on that. CI runs it under ThreadSanitizer too, which
   follows pthreads, not OpenMP's. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdint.h>

typedef struct { int64_t n, next; pthread_mutex_t lock; void (*task)(void *, int64_t, int); void *context; } loop;
typedef struct { loop *all; int thread; } loop_part;

static void *loop_thread(void *argument)
{
    loop_part *mine = (loop_part *)argument;
    for (;;) {
        int64_t i;
        pthread_mutex_lock(&mine->all->lock);
        i = mine->all->next++;
        pthread_mutex_unlock(&mine->all->lock);
        if (i >= mine->all->n) return NULL;
        mine->all->task(mine->all->context, i, mine->thread);
    }
}

enum { MOST_THREADS = 8 };
static void loop_run(int64_t n, int threads, void (*task)(void *, int64_t, int), void *context)
{
    loop all;
    loop_part parts[MOST_THREADS];
    pthread_t id[MOST_THREADS];
    int i, started = 0;
    all.n = n;
    all.next = 0;
    all.task = task;
    all.context = context;
    pthread_mutex_init(&all.lock, NULL);
    for (i = 0; i < threads && i < MOST_THREADS; i++) { parts[i].all = &all; parts[i].thread = i; }
    for (i = 1; i < threads && i < MOST_THREADS; i++)
        if (pthread_create(&id[started], NULL, loop_thread, &parts[i]) == 0) started++;
    loop_thread(&parts[0]);
    for (i = 0; i < started; i++) pthread_join(id[i], NULL);
    pthread_mutex_destroy(&all.lock);
}

#define HASTE_PARALLEL_FOR(n, threads, task, context) loop_run(n, threads, task, context)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"

#include <unistd.h>

enum { L = 500, D = 48, B = 70, K = 5, READERS = 4 };

static float   x[B * D];
static int64_t offset[B + 1];
static int32_t id[3 * B];
static haste_lists lists = { offset, id };

static void make_data(void)
{
    int i;
    for (i = 0; i < B * D; i++) x[i] = (float)(i * 37 % 17 - 8) / 8;
    for (i = 0; i <= B; i++) offset[i] = 3 * i;
    for (i = 0; i < 3 * B; i++) id[i] = i * 31 % L;
}

static haste_layer make_layer(int kind, int threads)
{
    haste_layer_options options;
    haste_error error;
    haste_layer layer;
    memset(&options, 0, sizeof options);
    memset(&layer, 0, sizeof layer);
    options.labels = L;
    options.inputs = D;
    options.block_count = 2;
    options.block[0].labels = 40;
    options.block[0].group_size = 8;
    options.block[0].fan_in = HASTE_DENSE;
    options.block[1].group_size = 16;
    options.block[1].fan_in = 12;
    options.loss = (haste_loss)(kind % 3);
    options.optimizer = (haste_optimizer)(kind / 3 % 3);
    options.dtype = (haste_dtype)(kind & 1);
    options.state_dtype = (haste_dtype)(kind >> 1 & 1);
    options.threads = threads;
    options.seed = (uint64_t)kind;
    CHECK_STATUS(haste_layer_create(&layer, &options, &error), HASTE_OK, error);
    return layer;
}

static haste_workspace make_work(const haste_layer *layer, int threads)
{
    haste_workspace_options options;
    haste_error error;
    haste_workspace work;
    memset(&options, 0, sizeof options);
    memset(&work, 0, sizeof work);
    options.batch = B;
    options.threads = threads;
    options.chunks = 7;
    CHECK_STATUS(haste_workspace_create(&work, layer, &options, &error), HASTE_OK, error);
    return work;
}

/* ---- readers ---- */

typedef struct {
    const haste_layer *layer;
    int     number, ok;
    int32_t best[B * K], *above;
    int64_t begin[B + 1], needed;
    float   score[3 * B], *logits, *above_score;
} reader;

/* All that a reader may do. CHECK is the main thread's: here only `ok` is set. */
static void *read_all(void *argument)
{
    reader *mine = (reader *)argument;
    const haste_search_options search = { &lists, NULL };
    haste_workspace_options options;
    haste_workspace work;
    haste_file file;
    const char *folder = getenv("TMPDIR");
    char path[200];
    int i;
    memset(&options, 0, sizeof options);
    options.batch = B;
    options.threads = 1 + mine->number % 3;
    options.chunks = 7;
    mine->ok = haste_workspace_create(&work, mine->layer, &options, NULL) == HASTE_OK;
    if (!mine->ok) return NULL;
    snprintf(path, sizeof path, "%s/haste_test_threads_%ld_%d", folder ? folder : "/tmp", (long)getpid(), mine->number);
    for (i = 0; i < 2; i++) {
        haste_error error = { HASTE_OK, "" };   /* what the system says of a file, in each thread's own words */
        mine->ok &= haste_load("/dev/null/model", i, &file, &error) == HASTE_ERR_FILE && strstr(error.text, "directory");
        mine->ok &= haste_top_k(mine->layer, &work, x, B, K, &search, mine->best, NULL, NULL) == HASTE_OK;
        mine->ok &= haste_forward(mine->layer, &work, x, B, mine->logits, NULL) == HASTE_OK;
        mine->ok &= haste_above(mine->layer, &work, x, B, 0, NULL, mine->begin, mine->above, mine->above_score, B * L,
                                &mine->needed, NULL) == HASTE_OK;
        mine->ok &= haste_score(mine->layer, &work, x, B, &lists, mine->score, NULL) == HASTE_OK;
        mine->ok &= haste_layer_check(mine->layer, NULL) == HASTE_OK;
        mine->ok &= haste_save(path, mine->layer, mine->layer->dtype, NULL, 0, NULL) == HASTE_OK;
        mine->ok &= haste_load(path, i, &file, NULL) == HASTE_OK;
        if (mine->ok) haste_file_free(&file);
    }
    remove(path);
    haste_workspace_free(&work);
    return NULL;
}

static void many_readers(void)
{
    static reader readers[READERS];
    haste_layer layer = make_layer(0, 1);
    pthread_t thread[READERS];
    int i;
    for (i = 0; i < READERS; i++) {
        readers[i].layer = &layer;
        readers[i].number = i;
        readers[i].logits = check_floats((size_t)(B * layer.slots));
        readers[i].above_score = check_floats(B * L);
        readers[i].above = (int32_t *)malloc(sizeof(int32_t) * B * L);
        CHECK(readers[i].above != NULL);
        CHECK(pthread_create(&thread[i], NULL, read_all, &readers[i]) == 0);
    }
    for (i = 0; i < READERS; i++) CHECK(pthread_join(thread[i], NULL) == 0);
    for (i = 0; i < READERS; i++) {
        const reader *one = &readers[0], *other = &readers[i];
        const size_t found = (size_t)one->needed;
        CHECK(other->ok);
        CHECK(memcmp(one->best, other->best, sizeof one->best) == 0 && memcmp(one->score, other->score,
                                                                              sizeof one->score) == 0);
        CHECK(memcmp(one->logits, other->logits, (size_t)(B * layer.slots) * sizeof(float)) == 0);
        CHECK(one->needed > 0 && one->needed == other->needed && memcmp(one->begin, other->begin,
                                                                        sizeof one->begin) == 0);
        CHECK(memcmp(one->above, other->above, found * sizeof *one->above) == 0 &&
              memcmp(one->above_score, other->above_score, found * sizeof *one->above_score) == 0);
    }
    for (i = 0; i < READERS; i++) { free(readers[i].logits); free(readers[i].above_score); free(readers[i].above); }
    haste_layer_free(&layer);
}

/* ---- one writer, whose calls use several threads ---- */

static uint64_t hash_of(const void *bytes, size_t n, uint64_t hash)
{
    const unsigned char *at = (const unsigned char *)bytes;
    while (n-- > 0) hash = (hash ^ *at++) * UINT64_C(1099511628211);
    return hash;
}

static uint64_t write_all(int kind, int threads)
{
    haste_error error;
    haste_layer layer = make_layer(kind, threads);
    haste_workspace work = make_work(&layer, threads);
    haste_gradient gradient;
    haste_step_options step;
    haste_rewire_options rewire;
    float *logits = check_floats((size_t)(B * layer.slots)), grad_x[B * D];
    double loss;
    int64_t moved;
    uint64_t hash = 0;
    int i;
    memset(&step, 0, sizeof step);
    memset(&rewire, 0, sizeof rewire);
    memset(grad_x, 0, sizeof grad_x);
    step.lr = .01f;
    step.loss.negligible = kind & 1 ? .01f : 0;
    rewire.share = .2f;
    CHECK_STATUS(haste_gradient_create(&gradient, &layer, &error), HASTE_OK, error);
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(haste_train_step(&layer, &work, x, B, &lists, &step, &loss, grad_x, &error), HASTE_OK, error);
        hash = hash_of(&loss, sizeof loss, hash);
        CHECK_STATUS(haste_accumulate(&layer, &work, x, B, &lists, &step, &gradient, &loss, grad_x, &error), HASTE_OK,
                     error);
        CHECK_STATUS(haste_apply(&layer, &work, &gradient, &step, &error), HASTE_OK, error);
        rewire.growth = i ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM;
        rewire.prune = kind & 1 ? HASTE_PRUNE_SALIENCY : HASTE_PRUNE_MAGNITUDE;
        CHECK_STATUS(haste_rewire(&layer, &work, &rewire, x, B, &lists, &moved, &error), HASTE_OK, error);
        hash = hash_of(&moved, sizeof moved, hash);
    }
    CHECK_STATUS(haste_forward(&layer, &work, x, B, logits, &error), HASTE_OK, error);
    CHECK_STATUS(haste_backward(&layer, &work, x, B, logits, &gradient, grad_x, &error), HASTE_OK, error);
    hash = hash_of(logits, (size_t)(B * layer.slots) * sizeof(float), hash);
    hash = hash_of(grad_x, sizeof grad_x, hash);
    for (i = 0; i < layer.block_count; i++) {
        const size_t n = (size_t)(layer.block[i].groups * layer.block[i].fan_in * layer.block[i].group_size);
        hash = hash_of(gradient.weight[i], n * sizeof(float), hash);
        hash = hash_of(layer.block[i].weight, n * (layer.dtype == HASTE_BF16 ? 2 : 4), hash);
    }
    haste_gradient_free(&gradient);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
    free(logits);
    return hash;
}

static void one_writer(void)
{
    int kind;
    for (kind = 0; kind < 12; kind++) {
        const uint64_t one = write_all(kind, 1);
        CHECK(write_all(kind, 4) == one);
    }
}

static uint64_t group_all(int threads)
{
    static float embedding[L * D];
    haste_error error;
    haste_group_options options;
    int32_t order[L];
    double cohesion = 0;
    int i;
    memset(embedding, 0, sizeof embedding);
    memset(&options, 0, sizeof options);
    options.group_size = 16;
    options.threads = threads;
    for (i = 0; i < L; i++) order[i] = i;
    CHECK_STATUS(haste_embed_dense(embedding, L, D, x, B, &lists, threads, &error), HASTE_OK, error);
    CHECK_STATUS(haste_embed_finish(embedding, L, D, &error), HASTE_OK, error);
    CHECK_STATUS(haste_group(embedding, L, D, order, L, &options, &error), HASTE_OK, error);
    CHECK_STATUS(haste_cohesion(embedding, L, D, order, L, 16, threads, &cohesion, NULL, &error), HASTE_OK, error);
    return hash_of(&cohesion, sizeof cohesion, hash_of(order, sizeof order, 0));
}

static void grouping(void) { CHECK(group_all(1) == group_all(4)); }

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    make_data();
    RUN(many_readers);
    RUN(one_writer);
    RUN(grouping);
    return check_end();
}
