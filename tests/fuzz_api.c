/* fuzz_api.c: the functions of haste.h called in any order with any options. The input's bytes decide shapes, options,
   data, now and then an argument that is not allowed, and which call is next. What must hold, whatever they are:

       a call that fails says why, and leaves the layer as it was, bit for bit (HASTE_ERR_NONFINITE allows more);
       what haste_plan_bytes plans is what is allocated, and what it refuses is refused;
       logits, losses, gradients for x, scores and searches are those of the _ref functions;
       every layer obeys haste_layer_check, and one that was saved and loaded goes on with the same bits, on any number
       of threads;
       a gradient of another layer is refused.

       clang -O1 -g -fsanitize=fuzzer,address,undefined -I. tests/fuzz_api.c -o build/fuzz_api -lm
       build/fuzz_api -max_total_time=60 build/corpus */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Threads in turn: tasks use the scratch memory of different ones. */
#define HASTE_PARALLEL_FOR(n, threads, task, context)                                                                  \
    do {                                                                                                               \
        int64_t fuzz_i;                                                                                                \
        for (fuzz_i = (n) - 1; fuzz_i >= 0; fuzz_i--) (task)((context), fuzz_i, (int)(fuzz_i % (threads)));            \
    } while (0)
#define HASTE_IMPLEMENTATION
#include "haste.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define FAIL(...)                                                                                                      \
    do {                                                                                                               \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                                                \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        fputc('\n', stderr);                                                                                           \
        abort();                                                                                                       \
    } while (0)
#define MUST(condition) do { if (!(condition)) FAIL("%s", #condition); } while (0)

enum { MOST_B = 40, MOST_K = 8, MOST_LABELS = 120, MOST_INPUTS = 70, CALLS = 24, IDS = 4096 };
#define MOST_BYTES ((size_t)16 << 20)   /* larger layers and workspaces are planned, but not made */

/* ---- the input --------------------------------------------------------------------------------------------------- */

static const uint8_t *input;
static size_t input_left;

static int take(void)
{
    if (input_left == 0) return 0;
    input_left--;
    return *input++;
}
static int take_two(void) { const int low = take(); return low | take() << 8; }
static int below(int n) { return take() % n; }

/* Mostly `usual`, now and then a number at some edge. */
static int32_t odd(int32_t usual)
{
    static const int32_t edge[] = { 0, -1, -2, 1, 7, 8, 9, 255, 256, 257, 65535, 65536, 65537, INT32_MAX,
                                    INT32_MIN, INT32_MAX - 7 };
    const int which = take();
    return which < 240 ? usual : edge[which - 240];
}

static float number(void)
{
    static const float edge[] = { 0, -0.0f, 1, -1, .5f, 1e-30f, 1e30f, -1e30f, 3.4e38f, 1e-45f, 1e18f, 1e10f };
    const int which = take();
    if (which < 200) return (float)(which - 100) / 50;
    if (which < 248) return edge[which % 12];
    return which < 252 ? -1 : which == 252 ? NAN : which == 253 ? INFINITY : -INFINITY;
}

/* ---- what is there ----------------------------------------------------------------------------------------------- */

static haste_error error;
static haste_layer layer, stranger;           /* and one with another arrangement */
static haste_file  file;                      /* where the layer came from, if it was loaded */
static haste_workspace work;
static haste_workspace_options work_options;
static haste_gradient gradient, strange_gradient;
static int have_gradient, have_strange, from_file, poked;

static float   x[MOST_B * MOST_INPUTS], grad_x[MOST_B * MOST_INPUTS], score[IDS];
static int64_t offset[MOST_B + 2];
static int32_t id[IDS], best[MOST_B * MOST_K];
static haste_lists lists;
static int32_t B, B_passed;                   /* samples there are, and what the call is told */
static int data_are_good;                     /* x finite, lists in order, ids in range */
static float  *logits;                        /* [MOST_B, slots] */
static double *ref, *scale, *grad_ref;        /* the same: logits, what their terms add up to in size, gradients */

/* A status goes with its sentence; success says nothing. */
static haste_status said(haste_status status)
{
    if (status == HASTE_OK) MUST(error.text[0] == 0);
    else MUST(error.status == status && error.text[0] && memchr(error.text, 0, sizeof error.text));
    memset(&error, 0, sizeof error);
    return status;
}

static size_t layer_bytes(void) { return layer.memory ? layer.bytes : from_file ? file.bytes : 0; }
static const void *layer_memory(void) { return layer.memory ? layer.memory : file.memory; }

static void *keep(void)
{
    char *kept = (char *)malloc(sizeof layer + layer_bytes());
    MUST(kept);
    memcpy(kept, &layer, sizeof layer);
    if (layer_bytes()) memcpy(kept + sizeof layer, layer_memory(), layer_bytes());
    return kept;
}
/* After a call that failed: all as it was? Frees what was kept. */
static void unchanged(void *kept, haste_status status, const char *call)
{
    if (status != HASTE_OK && status != HASTE_ERR_NONFINITE &&
        (memcmp(kept, &layer, sizeof layer) != 0 ||
         memcmp((char *)kept + sizeof layer, layer_memory(), layer_bytes()) != 0))
        FAIL("%s failed with %d, but changed the layer", call, (int)status);
    free(kept);
}

/* References, where numbers are not so large that float32 could not follow. */
static int references(void)
{
    int64_t b, g, slot;
    int i, f, s;
    if (!data_are_good) return 0;
    for (i = 0; i < B * layer.inputs; i++) if (fabsf(x[i]) > 1e6f) return 0;
    haste_forward_ref(&layer, x, B, ref);
    for (b = 0; b < B; b++)
        for (i = 0; i < layer.block_count; i++) {
            const haste_block *block = &layer.block[i];
            for (g = 0; g < block->groups; g++)
                for (s = 0; s < block->group_size; s++) {
                    double sum = fabs((double)block->bias[g * block->group_size + s]);
                    for (f = 0; f < block->fan_in; f++) {
                        const int64_t at = (g * block->fan_in + f) * block->group_size + s;
                        const int column = block->begin + (block->index ? block->index[g * block->fan_in + f] : f);
                        const float w = layer.dtype == HASTE_BF16
                                      ? haste__from_bf16(((const uint16_t *)block->weight)[at])
                                      : ((const float *)block->weight)[at];
                        sum += fabs((double)w * (double)x[b * layer.inputs + column]);
                    }
                    slot = block->first_slot + g * block->group_size + s;
                    if (!(sum < 1e6)) return 0;   /* not a number too */
                    scale[b * layer.slots + slot] = sum;
                }
        }
    return 1;
}

static double allowed(int64_t at, int half)
{
    return (half && work.bf16_dot && layer.dtype == HASTE_BF16 ? .02 : 1e-5) * scale[at] + 1e-30;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static haste_loss_options loss_options(void)
{
    haste_loss_options loss;
    memset(&loss, 0, sizeof loss);
    if (take() < 60) loss.scale = below(8) ? 1.0 / (1 + take()) : (double)number();
    if (take() < 60) loss.negligible = number();
    if (take() < 40) loss.margin = number();
    if (take() < 40) loss.positive_weight = number();
    if (take() < 40) loss.smoothing = below(2) ? (float)below(11) / 10 : number();
    if (take() < 40) loss.logit_scale = number();
    if (take() < 30) loss.share = number();
    if (take() < 40) loss.ignored = &lists;
    return loss;
}

/* What the reference follows: it has no share, and numbers at the edge of float32 are not compared. */
static int followed(const haste_loss_options *loss)
{
    return loss->share == 0 && loss->scale >= 0 && loss->scale < 1e3 && fabsf(loss->margin) < 1e3f &&
           fabsf(loss->positive_weight) < 1e3f && fabsf(loss->logit_scale) < 1e3f;
}

static haste_step_options step_options(void)
{
    haste_step_options step;
    memset(&step, 0, sizeof step);
    step.lr = take() < 250 ? .02f * (float)below(5) : number();
    if (take() < 40) step.weight_decay = number();
    if (take() < 40) step.momentum = number();
    if (take() < 20) step.beta1 = number();
    if (take() < 20) step.beta2 = number();
    if (take() < 20) step.eps = number();
    step.loss = loss_options();
    if (take() < 20) step.clip = number();
    return step;
}

static void make_gradient(void)
{
    if (have_gradient) return;
    MUST(said(haste_gradient_create(&gradient, &layer, &error)) == HASTE_OK);
    have_gradient = 1;
}

static void compare_loss(double loss, double loss_ref)
{
    if (fabs(loss - loss_ref) > 1e-5 * (1 + fabs(loss_ref)) * layer.labels) FAIL("loss %.9g, not %.9g", loss, loss_ref);
}

/* The loss of a pass, and its gradient for x, against the references made before it. */
static void compare_pass(const haste_loss_options *options, double loss, double loss_ref, const float *got)
{
    double *grad, most = 0;
    int i;
    compare_loss(loss, loss_ref);
    if (!got || options->negligible != 0) return;   /* slopes near the limit may fall on either side */
    grad = (double *)calloc((size_t)B * (size_t)layer.inputs, sizeof *grad);
    MUST(grad);
    haste_backward_ref(&layer, x, B, grad_ref, NULL, NULL, grad);   /* the layer is still that from before */
    for (i = 0; i < B * layer.inputs; i++) most = fmax(most, fabs(grad[i]));
    for (i = 0; i < B * layer.inputs; i++)
        if (fabs(grad[i] - (double)got[i]) > 1e-4 * (most + 1e-3)) 
            FAIL("grad_x[%d] %.9g, not %.9g", i, (double)got[i], grad[i]);
    free(grad);
}

static void call_accumulate(void)
{
    haste_step_options step = step_options();
    const int wrong = take() < 20 && have_strange, with_x = below(2);
    double loss = 0, loss_ref = 0;
    haste_status status;
    void *kept = keep();
    int comparable;
    make_gradient();
    comparable = !wrong && B_passed == B && B > 0 && followed(&step.loss) && references();
    if (comparable) haste_loss_ref(&layer, ref, B, &lists, &step.loss, &loss_ref, grad_ref);
    memset(grad_x, 0, sizeof grad_x);
    status = said(haste_accumulate(&layer, &work, x, B_passed, &lists, &step, wrong ? &strange_gradient : &gradient,
                                   &loss, with_x ? grad_x : NULL, &error));
    if (wrong && B_passed == B && B > 0) MUST(status != HASTE_OK);
    if (status == HASTE_OK && comparable && with_x) compare_pass(&step.loss, loss, loss_ref, grad_x);
    MUST(memcmp(kept, &layer, sizeof layer) == 0);
    unchanged(kept, status, "haste_accumulate");
}

static void call_step(void)
{
    haste_step_options step = step_options();
    const int with_loss = below(2), with_x = below(2);
    const int comparable = B_passed == B && B > 0 && followed(&step.loss) && references();
    double loss = 0, loss_ref = 0;
    int64_t before = layer.step;
    haste_status status;
    void *kept = keep();
    if (comparable) haste_loss_ref(&layer, ref, B, &lists, &step.loss, &loss_ref, grad_ref);
    memset(grad_x, 0, sizeof grad_x);
    status = said(haste_train_step(&layer, &work, x, B_passed, &lists, &step, with_loss ? &loss : NULL,
                                   with_x ? grad_x : NULL, &error));
    if (status == HASTE_OK) MUST(layer.step == before + (B_passed > 0));
    if (status == HASTE_OK && comparable && with_loss) compare_loss(loss, loss_ref);
    unchanged(kept, status, "haste_train_step");
}

static void call_evaluate(void)
{
    haste_loss_options options = loss_options();
    const int with_x = below(2);
    double loss = 0, loss_ref = 0;
    haste_status status;
    void *kept = keep();
    const int comparable = B_passed == B && B > 0 && followed(&options) && references();
    if (comparable) haste_loss_ref(&layer, ref, B, &lists, &options, &loss_ref, grad_ref);
    memset(grad_x, 0, sizeof grad_x);
    status = said(haste_evaluate(&layer, &work, x, B_passed, &lists, &options, &loss, with_x ? grad_x : NULL, &error));
    if (status == HASTE_OK && comparable) compare_pass(&options, loss, loss_ref, with_x ? grad_x : NULL);
    unchanged(kept, HASTE_ERR_ARG, "haste_evaluate");   /* whatever it returned */
}

static void call_apply(void)
{
    haste_step_options step = step_options();
    const int wrong = take() < 40 && have_strange;
    haste_status status;
    void *kept;
    if (!have_gradient) return;
    kept = keep();
    status = said(haste_apply(&layer, &work, wrong ? &strange_gradient : &gradient, &step, &error));
    if (wrong) MUST(status != HASTE_OK);
    if (status == HASTE_OK) MUST(gradient.pending == 0);
    unchanged(kept, status, "haste_apply");
}

static void call_rewire(void)
{
    haste_rewire_options options;
    int64_t moved = -1, rewires = layer.rewires;
    haste_status status;
    void *kept = keep();
    memset(&options, 0, sizeof options);
    options.share = take() < 240 ? (float)below(11) / 10 : number();
    options.group_share = take() < 200 ? (float)below(11) / 10 : number();
    options.prune = (haste_prune)below(2);
    options.scope = (haste_scope)below(2);
    options.growth = (haste_growth)below(2);
    options.uniform = take() < 250 ? below(2) : odd(1);
    status = said(haste_rewire(&layer, &work, &options, x, B_passed, &lists, &moved, &error));
    if (status == HASTE_OK) MUST(moved >= 0 && layer.rewires <= rewires + 1);
    if (status == HASTE_ERR_NONFINITE) MUST(memcmp((char *)kept + sizeof layer, layer_memory(), layer_bytes()) == 0);
    unchanged(kept, status, "haste_rewire");
}

/* Scores of some groups from one batch or none, and what they move. */
static void call_scores(void)
{
    static int32_t origin[1 << 16];
    const haste_block *last = &layer.block[layer.block_count - 1];
    haste_rewire_options options;
    haste_input_scores scores;
    int64_t moved = -1, p, F = last->fan_in;
    haste_status status;
    void *kept = keep();
    const int64_t first = below(3) ? 0 : odd(8 * below(8)), end = below(3) ? 0 : odd(8 * below(16));
    status = said(haste_input_scores_create(&scores, &layer, first, end, &error));
    if (status == HASTE_OK) {
        memset(&options, 0, sizeof options);
        options.share = (float)below(11) / 10;
        options.prune = (haste_prune)below(2);
        options.scope = (haste_scope)below(2);
        options.growth = (haste_growth)below(2);
        options.scores = &scores;
        if (last->groups * F <= 1 << 16) options.origin[layer.block_count - 1] = origin;
        status = said(haste_score_inputs(&layer, &work, x, B_passed, &lists, NULL, &scores, &error));
        MUST(memcmp((char *)kept + sizeof layer, layer_memory(), layer_bytes()) == 0);
        status = said(haste_rewire(&layer, &work, &options, NULL, 0, NULL, &moved, &error));
        if (status == HASTE_OK) MUST(moved >= 0 && scores.batches == 0);
        for (p = 0; status == HASTE_OK && options.origin[layer.block_count - 1] && p < last->groups * F; p++)
            MUST(origin[p] >= -1 && origin[p] < F);
        haste_input_scores_free(&scores);
    }
    unchanged(kept, status, "haste_rewire with scores");
}

/* What a search may find: everything (0), all but what is listed (1), what is listed and no more (2). */
static haste_search_options search;
static int choose_search(void)
{
    const int which = below(3);
    search.excluded = which == 1 ? &lists : NULL;
    search.only = which == 2 ? &lists : NULL;
    return which;
}

static int may_find(int which, int32_t b, int32_t label)
{
    int64_t l = offset[b];
    if (which == 0) return 1;
    while (l < offset[b + 1] && id[l] != label) l++;
    return (l < offset[b + 1]) == (which == 2);
}

static void call_top_k(void)
{
    const int32_t any = odd(1 + below(MOST_K));
    const int32_t k = any > MOST_K && any <= work.top_k ? MOST_K : any;   /* best has room for MOST_K */
    const int which = choose_search();
    int32_t b, j, l, id_ref[MOST_K], *out;
    double score_ref[MOST_K];
    haste_status status = said(haste_top_k(&layer, &work, x, B_passed, k, &search, best, score, &error));
    if (status != HASTE_OK || B_passed != B) return;
    MUST(k >= 1 && k <= MOST_K);
    if (!references()) return;
    out = (int32_t *)malloc((size_t)layer.labels * sizeof *out);
    MUST(out);
    for (b = 0; b < B; b++) {
        const double *z = ref + b * layer.slots;
        int64_t outs = 0;
        for (l = 0; l < layer.labels; l++) if (!may_find(which, b, l)) out[outs++] = l;
        haste_top_k_ref(&layer, z, k, out, outs, id_ref, score_ref);
        for (j = 0; j < k; j++) {
            const int32_t found = best[b * k + j];
            const float z_found = score[b * k + j];
            MUST((found < 0) == (id_ref[j] < 0) && found < layer.labels);
            if (found < 0) { MUST(z_found == -INFINITY); continue; }
            for (l = 0; l < j; l++) MUST(best[b * k + l] != found);
            MUST(may_find(which, b, found));
            if (j > 0)
                MUST(z_found < score[b * k + j - 1] ||
                     (z_found == score[b * k + j - 1] && found > best[b * k + j - 1]));
            if (fabs((double)z_found - z[layer.slot_of[found]]) > allowed(b * layer.slots + layer.slot_of[found], 1))
                FAIL("score %.9g of label %ld, not %.9g", (double)z_found, (long)found, z[layer.slot_of[found]]);
            if ((double)z_found < score_ref[j] - 2 * allowed(b * layer.slots + layer.slot_of[id_ref[j]], 1))
                FAIL("rank %ld has %.9g, but label %ld has %.9g", (long)j, (double)z_found, (long)id_ref[j],
                     score_ref[j]);
        }
    }
    free(out);
}

static void call_above(void)
{
    int64_t begin[MOST_B + 1], needed = -1, j;
    const int64_t capacity = below(2) ? IDS : take();
    const float threshold = number();
    const int which = choose_search();
    int32_t found[IDS], b;
    haste_status status = said(haste_above(&layer, &work, x, B_passed, threshold, &search, begin, found, score, capacity,
                                           &needed, &error));
    if (status != HASTE_OK || B_passed != B) return;
    MUST(begin[0] == 0 && begin[B] == needed && needed <= capacity);
    for (b = 0; b < B; b++)
        for (j = begin[b]; j < begin[b + 1]; j++) {
            MUST(found[j] >= 0 && found[j] < layer.labels && score[j] > threshold && may_find(which, b, found[j]));
            if (j > begin[b]) MUST(score[j] < score[j - 1] || (score[j] == score[j - 1] && found[j] > found[j - 1]));
        }
    if (!references()) return;
    for (b = 0; b < B; b++)   /* none that is surely above is missing */
        for (j = 0; j < layer.labels; j++) {
            const int64_t at = b * layer.slots + layer.slot_of[j];
            int64_t l;
            int there = !(ref[at] > (double)threshold + allowed(at, 1)) || !may_find(which, b, (int32_t)j);
            for (l = begin[b]; l < begin[b + 1] && !there; l++) there = found[l] == j;
            if (!there) FAIL("label %ld with %.9g is not among those above %.9g", (long)j, ref[at], (double)threshold);
        }
}

/* The same list as that of two shards: each score comes twice. */
static void call_merge(void)
{
    static int32_t both[MOST_B * MOST_K];
    static float both_score[MOST_B * MOST_K];
    const int32_t k = 1 + below(MOST_K);
    haste_found shards[2];
    haste_status status;
    int32_t b, j;
    if (said(haste_top_k(&layer, &work, x, B_passed, k, NULL, best, score, &error)) != HASTE_OK || B_passed != B) return;
    memset(shards, 0, sizeof shards);
    shards[0].id = best;
    shards[0].score = score;
    shards[0].labels = layer.labels;
    shards[1] = shards[0];
    shards[1].first = odd(layer.labels);
    status = said(haste_top_k_merge(shards, 2, B, k, both, both_score, &error));
    MUST((status == HASTE_OK) == (B == 0 || (shards[1].first >= 0 && shards[1].first <= INT32_MAX - layer.labels)));
    for (b = 0; b < B && status == HASTE_OK; b++)
        for (j = 0; j < k; j++) {
            MUST(both_score[b * k + j] == score[b * k + j / 2]);
            MUST((both[b * k + j] < 0) == (best[b * k + j / 2] < 0));
        }
}

static void call_forward(void)
{
    haste_status status = said(haste_forward(&layer, &work, x, B_passed, logits, &error));
    int64_t i;
    if (status != HASTE_OK || B_passed != B) return;
    if (references())
        for (i = 0; i < B * layer.slots; i++)
            if (fabs((double)logits[i] - ref[i]) > allowed(i, 1))
                FAIL("logit %.9g, not %.9g", (double)logits[i], ref[i]);
    if (below(2)) {
        make_gradient();
        if (below(2)) said(haste_gradient_zero(&gradient, &layer, &error));
        said(haste_backward(&layer, &work, x, B, logits, take() < 20 && have_strange ? &strange_gradient : &gradient,
                            grad_x, &error));
    }
}

static void call_score(void)
{
    haste_status status = said(haste_score(&layer, &work, x, B_passed, &lists, score, &error));
    int64_t j;
    int32_t b;
    if (status != HASTE_OK || B_passed != B || !references()) return;
    for (b = 0; b < B; b++)
        for (j = offset[b]; j < offset[b + 1]; j++) {
            const int64_t at = b * layer.slots + layer.slot_of[id[j]];
            if (fabs((double)score[j - offset[0]] - ref[at]) > allowed(at, 0))
                FAIL("score %.9g, not %.9g", (double)score[j - offset[0]], ref[at]);
        }
}

static int is_percent(double value) { return value >= 0 && value <= 100 + 1e-9; }

static void call_metrics(void)
{
    haste_metrics metrics;
    haste_metrics_values values;
    const int32_t k = odd(1 + below(MOST_K)), depth = odd(k);
    int i;
    if (said(haste_metrics_init(&metrics, depth, &error)) != HASTE_OK || k > MOST_K) return;
    for (i = 0; i < MOST_B * MOST_K; i++) best[i] = i * 7 % (layer.labels + 1) - 1;
    if (take() == 3) best[0] = odd(0);
    if (said(haste_metrics_add(&metrics, best, B_passed, k, layer.labels, &lists, NULL, below(2) ? &lists : NULL,
                               &error)) != HASTE_OK) return;
    values = haste_metrics_get(&metrics, depth);
    MUST(is_percent(values.precision) && is_percent(values.ndcg) && is_percent(values.recall));
    MUST(is_percent(values.psp) && is_percent(values.psndcg));
}

/* Saves and loads; both go one step on, on different numbers of threads. */
static void call_file(void)
{
    char path[64];
    haste_section section;
    haste_file loaded;
    haste_workspace_options other = work_options;
    haste_workspace other_work;
    haste_step_options step;
    haste_status one, two;
    double loss[2] = { 0, 0 };
    const int dtype = below(8) == 0 ? !layer.dtype : (int)layer.dtype;
    int i;
    snprintf(path, sizeof path, "/dev/shm/fuzz_api_%ld.haste", (long)getpid());
    memset(&section, 0, sizeof section);
    snprintf(section.name, sizeof section.name, "%s", take() == 5 ? "haste.x" : "user");
    section.data = x;
    section.bytes = (uint64_t)take();
    one = said(haste_save(path, &layer, (haste_dtype)dtype, &section, below(2), &error));
    if (one != HASTE_OK) return;
    if (said(haste_load(path, below(2), &loaded, &error)) != HASTE_OK) FAIL("what was saved does not load");
    if (said(haste_layer_check(&loaded.layer, &error)) != HASTE_OK) FAIL("what was saved is not a layer");
    if (dtype == (int)layer.dtype && work.ids >= B && B > 0) {
        for (i = 0; i < B * layer.inputs; i++) x[i] = (float)(i * 13 % 17 - 8) / 8;
        for (i = 0; i <= B; i++) offset[i] = i;
        for (i = 0; i < B; i++) id[i] = i % layer.labels;
        other.threads = 4 - work.threads;
        other.chunks = work.chunks;
        MUST(said(haste_workspace_create(&other_work, &loaded.layer, &other, &error)) == HASTE_OK);
        memset(&step, 0, sizeof step);
        step.lr = .01f;
        one = said(haste_train_step(&layer, &work, x, B, &lists, &step, &loss[0], NULL, &error));
        two = said(haste_train_step(&loaded.layer, &other_work, x, B, &lists, &step, &loss[1], NULL, &error));
        MUST(one == two && (one != HASTE_OK || memcmp(&loss[0], &loss[1], sizeof loss[0]) == 0));
        for (i = 0; i < layer.block_count; i++) {
            const haste_block *a = &layer.block[i], *b = &loaded.layer.block[i];
            const size_t n = (size_t)a->groups * (size_t)a->fan_in * (size_t)a->group_size;
            MUST(memcmp(a->weight, b->weight, n * (layer.dtype == HASTE_BF16 ? 2 : 4)) == 0);
        }
        haste_workspace_free(&other_work);
    }
    unlink(path);
    if (below(2)) {   /* and go on with the loaded one */
        haste_workspace_free(&work);
        if (have_gradient) haste_gradient_free(&gradient);
        have_gradient = 0;
        if (from_file) haste_file_free(&file); else haste_layer_free(&layer);
        file = loaded;
        layer = loaded.layer;
        from_file = 1;
        MUST(said(haste_workspace_create(&work, &layer, &work_options, &error)) == HASTE_OK);
    } else haste_file_free(&loaded);
}

/* Any number in a weight, as a damaged file or a user might leave it. */
static void poke(void)
{
    const haste_block *block = &layer.block[below(layer.block_count)];
    const int64_t n = block->groups * block->fan_in * block->group_size, at = take_two() % n;
    const int64_t slot = at / block->group_size / block->fan_in * block->group_size + at % block->group_size;
    const float value = number();
    if (slot >= block->labels) return;   /* padding */
    if (layer.dtype == HASTE_BF16) ((uint16_t *)block->weight)[at] = haste__to_bf16(value);
    else ((float *)block->weight)[at] = value;
    poked = 1;
}

/* ---- data and options -------------------------------------------------------------------------------------------- */

static void make_batch(int turn)
{
    int64_t end;
    int i, spikes = below(4);
    const int most = work.batch < MOST_B ? work.batch : MOST_B;
    B = below(most + 1);
    B_passed = take() == 77 ? odd(B) : B;
    for (i = 0; i < MOST_B * MOST_INPUTS; i++)
        x[i] = (float)((int)(((unsigned)i * 2654435761u + (unsigned)turn * 40503u) >> 26) - 32) / 32;
    while (spikes-- > 0) x[take_two() % (MOST_B * layer.inputs)] = number();
    offset[0] = end = below(5);
    for (i = 0; i < MOST_B; i++) {
        end += below(4);
        if (take() == 200) end += 40;
        offset[i + 1] = end;
    }
    for (i = 0; i < end; i++) id[i] = (i * 7 + take()) % layer.labels;
    if (take() == 13) id[offset[0]] = odd(-1);
    if (take() == 14) offset[1] = offset[0] - 1;
    lists.offset = offset;
    lists.id = id;
    data_are_good = 1;
    for (i = 0; i < B * layer.inputs; i++) data_are_good &= isfinite(x[i]) != 0;
    for (i = 0; i < B; i++) data_are_good &= offset[i] <= offset[i + 1];
    for (i = (int)offset[0]; i < end; i++) data_are_good &= id[i] >= 0 && id[i] < layer.labels;
    if (B_passed != B && (B_passed > MOST_B || B_passed > work.batch)) data_are_good = 0;
}

static haste_layer_options layer_options(int32_t **order, int64_t **frequency)
{
    haste_layer_options options;
    int i;
    memset(&options, 0, sizeof options);
    *order = NULL;
    *frequency = NULL;
    options.labels = odd(1 + below(MOST_LABELS));
    options.inputs = odd(1 + below(MOST_INPUTS));
    options.block_count = take() == 255 ? odd(9) : below(4);
    for (i = 0; i < options.block_count && i < HASTE_MAX_BLOCKS; i++) {
        haste_block_options *block = &options.block[i];
        block->labels = i == options.block_count - 1 && below(2) ? 0 : odd(1 + below(50));
        block->group_size = odd(8 * (1 + below(6)));
        block->fan_in = below(4) == 0 ? HASTE_DENSE : odd(below(20));
        if (below(3) == 0) {
            block->begin = odd(below(40));
            block->end = odd((int32_t)((uint32_t)block->begin + (uint32_t)below(40)));
        }
    }
    options.loss = (haste_loss)odd(below(3));
    options.optimizer = (haste_optimizer)odd(below(3));
    options.dtype = (haste_dtype)odd(below(2));
    options.state_dtype = (haste_dtype)odd(below(2));
    options.zero_weights = odd(below(2));
    options.threads = 1 + below(3);
    options.seed = (uint64_t)take_two();
    if (options.labels < 1 || options.labels > MOST_LABELS) return options;
    if (below(3) == 0) {
        *order = (int32_t *)malloc((size_t)options.labels * sizeof **order);
        for (i = 0; i < options.labels; i++) (*order)[i] = i;
        MUST(haste_order_random(*order, options.labels, (uint64_t)take(), NULL) == HASTE_OK);
        if (take() == 7) (*order)[below(options.labels)] = odd(0);
        options.order = *order;
    }
    if (below(3) == 0) {
        *frequency = (int64_t *)malloc((size_t)options.labels * sizeof **frequency);
        options.samples = 1 + take_two();
        for (i = 0; i < options.labels; i++) (*frequency)[i] = take() % (options.samples + 1);
        if (take() == 9) (*frequency)[0] = odd(-1);
        options.frequency = *frequency;
    }
    return options;
}

/* The layer, its workspace, and a stranger's gradient; 0 where these options make none. */
static int begin(void)
{
    int32_t *order;
    int64_t *frequency;
    haste_layer_options options = layer_options(&order, &frequency), other;
    haste_plan plan, of_layer;
    haste_status planned, made;
    memset(&work_options, 0, sizeof work_options);
    work_options.batch = odd(1 + below(MOST_B));
    work_options.ids = odd(take());
    work_options.top_k = odd(below(MOST_K + 1));
    work_options.chunks = odd(below(9));
    work_options.threads = 1 + below(3);
    work_options.purpose = (haste_purpose)(take() < 200 ? 0 : odd(below(3)));
    work_options.path = (haste_path)odd(below(4));
    work_options.bf16_dot = take() < 30;
    planned = said(haste_plan_bytes(&options, &work_options, &plan, &error));
    made = said(haste_plan_bytes(&options, NULL, &of_layer, &error));
    if (planned == HASTE_OK) MUST(made == HASTE_OK && plan.layer == of_layer.layer);
    if (made == HASTE_OK && of_layer.layer > MOST_BYTES) made = HASTE_ERR_SIZE;
    else {
        const haste_status twice = made;
        made = said(haste_layer_create(&layer, &options, &error));
        if (twice != HASTE_OK) MUST(made != HASTE_OK);
        else if (made != HASTE_OK) MUST(order || frequency);   /* which the plan does not read */
    }
    free(order);
    free(frequency);
    if (made != HASTE_OK) return 0;
    MUST(layer.bytes == of_layer.layer);
    if (layer.inputs > MOST_INPUTS) { haste_layer_free(&layer); return 0; }   /* x has no room for them */
    if (planned != HASTE_OK || plan.workspace <= MOST_BYTES) {
        made = said(haste_workspace_create(&work, &layer, &work_options, &error));
        MUST((made == HASTE_OK) == (planned == HASTE_OK));
    } else made = HASTE_ERR_SIZE;
    if (made != HASTE_OK) { haste_layer_free(&layer); return 0; }
    MUST(work.bytes == plan.workspace);

    memset(&other, 0, sizeof other);   /* a few labels more or less than the layer */
    other.labels = 1 + below(MOST_LABELS);
    other.inputs = layer.inputs;
    other.seed = layer.seed + 1;
    MUST(said(haste_layer_create(&stranger, &other, &error)) == HASTE_OK);
    MUST(said(haste_gradient_create(&strange_gradient, &stranger, &error)) == HASTE_OK);
    have_strange = 1;
    logits = (float *)malloc((size_t)layer.slots * MOST_B * sizeof *logits);
    ref = (double *)malloc((size_t)layer.slots * MOST_B * sizeof *ref);
    scale = (double *)calloc((size_t)layer.slots * MOST_B, sizeof *scale);
    grad_ref = (double *)malloc((size_t)layer.slots * MOST_B * sizeof *grad_ref);
    MUST(logits && ref && scale && grad_ref);
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static void (*const calls[])(void) = {
        call_step, call_step, call_accumulate, call_apply, call_evaluate, call_rewire, call_scores, call_top_k, call_above,
        call_merge, call_forward, call_score, call_metrics, call_file, poke
    };
    int turn;
    if (size < 16) return 0;
    input = bytes;
    input_left = size;
    memset(&error, 0, sizeof error);
    have_gradient = have_strange = from_file = poked = 0;
    if (!begin()) return 0;
    for (turn = 0; turn < CALLS && input_left > 2; turn++) {
        const int which = below((int)(sizeof calls / sizeof calls[0]));
        make_batch(turn);
        /* outputs and lists have room for MOST_B samples */
        if (B_passed > MOST_B && which != 0 && which != 2) B_passed = B;
        calls[which]();
        if (!poked && haste_layer_check(&layer, &error) != HASTE_OK) FAIL("after call %d: %s", which, error.text);
    }
    if (have_gradient) haste_gradient_free(&gradient);
    haste_gradient_free(&strange_gradient);
    haste_layer_free(&stranger);
    haste_workspace_free(&work);
    if (from_file) haste_file_free(&file); else haste_layer_free(&layer);
    free(logits);
    free(ref);
    free(scale);
    free(grad_ref);
    return 0;
}
