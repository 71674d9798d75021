/* bench_cpu: the layer on this machine's CPU, beside what one would use instead. Every contestant is checked against double
   precision before anything is timed; all of them take turns within a repetition, and what is shown are medians.

       make bench                                            all parts, about 14 minutes on two cores
       make bench ARGS=--full                                what that leaves out (and names at its end) too, an hour or so
       make bench ARGS="--csv bench/results/x.csv"           and kept; bench/plot_cpu.sh draws its table "scale"
       make bench ARGS="--part topk"                         one part: train, dense, topk, scale, odd, rewire
       make bench ARGS="--part train --shape 131072,64,128,2"   one shape of a part: L, F, B, threads
       make bench ARGS=--quick                               small ones, seconds; the numbers mean little

   haste is compiled as its users compile it (make's CFLAGS, no -march); baseline.c gets -march=native -ffast-math. */
#define _GNU_SOURCE   /* madvise, mallopt */
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "baseline.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
    #include <malloc.h>
#endif

#ifndef BENCH_FLAGS
    #define BENCH_FLAGS "unknown"
#endif
#ifndef BENCH_BASELINE
    #define BENCH_BASELINE "unknown"
#endif

enum { D = 768, POSITIVES = 4, SEED = 1, TOP = 5, MOST = 24, LEAST_RUNS = 3, MOST_RUNS = 15, SAMPLED = 64 };
static const float LR = .01f;

typedef enum operation { FORWARD, GRAD_WEIGHT, GRAD_X, STEP, UNFUSED, TOP_K, OPERATIONS } operation;
static const char *const operation_name[OPERATIONS] = { "forward", "weight gradient", "input gradient",
                                                        "step",    "unfused step",    "top-5" };
static const double operation_passes[OPERATIONS] = { 1, 1, 1, 3, 3, 1 };   /* of 2*B*L*F flops */

typedef enum part { TRAIN = 1, DENSE = 2, TOPK = 4, SCALE = 8, ODD = 16, REWIRE = 32 } part;
static const char *part_name(part p)
{
    return p == TRAIN ? "train" : p == DENSE ? "dense" : p == TOPK ? "topk" : p == SCALE ? "scale" : p == ODD ? "odd"
                                                                                                     : "rewire";
}

/* One table of runs: what takes part follows from the part. seconds: of repetitions, after the first LEAST_RUNS. */
typedef struct shape {
    part    part;
    int64_t L;
    int32_t F, B;
    int     threads;
    double  seconds;
} shape;

typedef enum kind { HASTE, PER_LABEL, LIBRARY, READ } kind;

/* Who takes part, and where. fan 0: the F of the shape; inputs F or D of a library's dense layer. */
typedef struct entry {
    kind        kind;
    haste_dtype dtype;
    int32_t     S, fan;
    library     library;
    layout      layout;
    int         variant; /* 1: of a library, the layer of all D inputs; of haste, logits by bf16_dot */
    int         parts;
} entry;

static const entry entries[] = {   /* the first of a part is what the others are compared with */
    { HASTE,     HASTE_F32,  32,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK | SCALE },
    { HASTE,     HASTE_F32,  16,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_F32,  64,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_F32,  128,  0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 32,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 16,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 64,   0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 128,  0, OPENBLAS, LAYOUT_FL,     0, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 32,   0, OPENBLAS, LAYOUT_FL,     1, TRAIN | TOPK },
    { HASTE,     HASTE_BF16, 64,   0, OPENBLAS, LAYOUT_FL,     1, TRAIN | TOPK },
    { HASTE,     HASTE_F32,  32,  64, OPENBLAS, LAYOUT_FL,     0, DENSE },
    { HASTE,     HASTE_F32,  32, 128, OPENBLAS, LAYOUT_FL,     0, DENSE },
    { PER_LABEL, HASTE_F32,  0,    0, OPENBLAS, LAYOUT_FL,     0, TRAIN | SCALE },
    { LIBRARY,   HASTE_F32,  0,    0, OPENBLAS, LAYOUT_FL,     0, TRAIN },
    { LIBRARY,   HASTE_F32,  0,    0, ONEDNN,   LAYOUT_LF,     0, TRAIN | SCALE },
    { LIBRARY,   HASTE_F32,  0,    0, ONEDNN,   LAYOUT_PACKED, 0, TRAIN },
    { LIBRARY,   HASTE_BF16, 0,    0, ONEDNN,   LAYOUT_LF,     0, TRAIN },
    { LIBRARY,   HASTE_F32,  0,    0, OPENBLAS, LAYOUT_LF,     1, DENSE },
    { LIBRARY,   HASTE_F32,  0,    0, ONEDNN,   LAYOUT_FL,     1, DENSE },
    { LIBRARY,   HASTE_F32,  0,    0, ONEDNN,   LAYOUT_LF,     1, DENSE | SCALE },
    { READ,      HASTE_F32,  0,    0, OPENBLAS, LAYOUT_FL,     0, TOPK },
    { READ,      HASTE_BF16, 0,    0, OPENBLAS, LAYOUT_FL,     0, TOPK },
};
enum { ENTRIES = sizeof entries / sizeof entries[0] };

static int everything;   /* --full: nothing is left out for time's sake */

static int bf16_dot(const entry *e) { return e->kind == HASTE && e->variant; }

/* What is timed. Large shapes leave out what the others show: one S and one type stand for all, the fused step for both. */
static int wanted(const entry *e, operation o, const shape *s)
{
    const int large = s->L > 131072 || s->B > 128, thorough = !large && s->B == 128;
    if (s->part == TOPK) return o == TOP_K;
    if (bf16_dot(e)) return o == FORWARD || o == TOP_K;
    if (s->part == SCALE) return o == STEP;
    if (s->part == DENSE) return o == STEP || ((everything || s->L <= 131072) && o < STEP);
    if (e->kind == PER_LABEL) return o != TOP_K && (everything || !large || o == FORWARD || o == STEP);
    if (e->kind == LIBRARY) return o <= STEP && (everything || !large || e->layout != LAYOUT_PACKED);
    if (o == UNFUSED) return e->dtype == HASTE_F32 && e->S == 32 && (everything || !large);
    if (everything || thorough) return 1;
    if (e->S == 32) return e->dtype == HASTE_F32 || !large || (o != GRAD_WEIGHT && o != GRAD_X);
    return (o == FORWARD || o == STEP) && (!large || e->dtype == HASTE_F32);
}

static int takes_part(const entry *e, const shape *s)
{
    int o;
    if (!(e->parts & (int)s->part)) return 0;
    if (bf16_dot(e) && (!haste_has_bf16_dot() || haste_path_best() != HASTE_PATH_AVX512)) return 0;
    /* layers of gigabytes: one is enough */
    if (s->part == DENSE && e->variant && s->L > 131072 && !(e->parts & SCALE) && !everything) return 0;
    for (o = 0; o < OPERATIONS; o++) if (wanted(e, (operation)o, s)) return 1;
    return 0;
}

static void *need(size_t count, size_t width)
{
    void *memory = haste__allocate(count * width);
    if (!memory) {
        fprintf(stderr, "bench_cpu: out of memory (%.0f MiB)\n", (double)count * (double)width / 1048576);
        exit(1);
    }
    return memory;
}

static void must(haste_status status, const haste_error *error)
{
    if (status == HASTE_OK) return;
    fprintf(stderr, "bench_cpu: %s\n", error->text);
    exit(1);
}

static float number(uint64_t stream, int64_t i)
{
    return 2 * haste__uniform(haste__random(SEED, 1000 + stream, (uint64_t)i)) - 1;
}

/* Weights of those whose memory is not haste's: the first million made, the others like them, for the sake of time. */
static void fill(float *weight, int64_t n)
{
    const int64_t some = n < 1 << 20 ? n : 1 << 20;
    int64_t i;
    for (i = 0; i < some; i++) weight[i] = number(4, i) / 8;   /* 1 / sqrt(64) */
    #pragma omp parallel for
    for (i = some; i < n; i += some) memcpy(weight + i, weight, (size_t)(n - i < some ? n - i : some) * sizeof(float));
}

/* ---- >>problem ------------------------------------------------------------------------------------------------- */

/* One shape: a batch, its labels, and gradients for the backward passes, in all layouts that contestants like. */
static struct problem {
    shape     shape;
    int64_t   L;
    int32_t   B, F, padded;
    int       threads;
    float    *x, *narrow;           /* [B, D], and its first F columns for the bottleneck */
    float    *grad, *grad_t;        /* [B, L] and [L][padded] */
    uint16_t *grad_half;            /* [B, L] bfloat16 */
    float    *out;                  /* [B, L] or [L][padded]: logits */
    float    *plain;                /* [L, K]: a dense layer's weights or gradients, while it is made or checked */
    haste_gradient gradient;        /* of whichever contestant is at work: all have L*F weights */
    int64_t  *offset, *by_label;    /* [B+1] labels of samples; [L+1] samples of labels */
    int32_t  *id, *sample, *best;
    size_t    out_bytes;
} P;

static void make_problem(const shape *s)
{
    const int64_t L = s->L, n = (int64_t)s->B * POSITIVES;
    const int32_t B = s->B;
    const int64_t most_inputs = s->part == TRAIN ? s->F : s->part == TOPK ? 0 : D;
    fan_in sizes;
    int64_t i, l, *next;
    int32_t b;
    memset(&P, 0, sizeof P);
    memset(&sizes, 0, sizeof sizes);
    sizes.B = B;
    fan_in_sizes(&sizes);
    P.shape = *s;
    P.L = L;
    P.B = B;
    P.F = s->F;
    P.padded = sizes.padded;
    P.threads = s->threads;
    P.x = (float *)need((size_t)B * D, sizeof(float));
    P.narrow = (float *)need((size_t)B * (size_t)P.F, sizeof(float));
    P.out_bytes = (size_t)(P.padded * L) * sizeof(float);
    P.out = (float *)need(P.out_bytes, 1);
    P.offset = (int64_t *)need((size_t)B + 1, sizeof(int64_t));
    P.by_label = (int64_t *)need((size_t)L + 1, sizeof(int64_t));
    P.id = (int32_t *)need((size_t)n, sizeof(int32_t));
    P.sample = (int32_t *)need((size_t)n, sizeof(int32_t));
    P.best = (int32_t *)need((size_t)B * TOP, sizeof(int32_t));
    P.plain = (float *)need((size_t)(L * most_inputs + 1), sizeof(float));
    for (i = 0; i < (int64_t)B * D; i++) P.x[i] = number(1, i);
    for (b = 0; b < B; b++) memcpy(P.narrow + b * P.F, P.x + b * D, (size_t)P.F * sizeof(float));
    if (s->part == TRAIN || s->part == DENSE) {
        P.grad = (float *)need((size_t)(B * L), sizeof(float));
        P.grad_half = (uint16_t *)need((size_t)(B * L), sizeof(uint16_t));
        P.grad_t = (float *)need((size_t)(P.padded * L), sizeof(float));
        P.gradient.weight[0] = (float *)need((size_t)L * 128, sizeof(float));
        P.gradient.bias[0] = (float *)need((size_t)L, sizeof(float));
        #pragma omp parallel for private(b)
        for (l = 0; l < L; l++)
            for (b = 0; b < P.padded; b++) P.grad_t[l * P.padded + b] = b < B ? number(2, b * L + l) : 0;
        #pragma omp parallel for private(l)
        for (b = 0; b < B; b++) for (l = 0; l < L; l++) P.grad[b * L + l] = P.grad_t[l * P.padded + b];
        to_half(P.grad_half, P.grad, B * L, P.threads);
    }
    /* Labels of a sample lie in different quarters, so none comes twice. */
    for (b = 0; b <= B; b++) P.offset[b] = (int64_t)b * POSITIVES;
    for (i = 0; i < n; i++)
        P.id[i] = (int32_t)(i % POSITIVES * (L / POSITIVES) +
                            haste__below(haste__random(SEED, 3, (uint64_t)i), (uint32_t)(L / POSITIVES)));
    memset(P.by_label, 0, ((size_t)L + 1) * sizeof(int64_t));
    for (i = 0; i < n; i++) P.by_label[P.id[i] + 1]++;
    for (l = 0; l < L; l++) P.by_label[l + 1] += P.by_label[l];
    next = (int64_t *)need((size_t)L, sizeof(int64_t));
    memcpy(next, P.by_label, (size_t)L * sizeof(int64_t));
    for (b = 0; b < B; b++) for (i = P.offset[b]; i < P.offset[b + 1]; i++) P.sample[next[P.id[i]]++] = b;
    haste__release(next);
}

static void free_problem(void)
{
    haste__release(P.x);
    haste__release(P.narrow);
    haste__release(P.grad);
    haste__release(P.grad_t);
    haste__release(P.grad_half);
    haste__release(P.out);
    haste__release(P.offset);
    haste__release(P.by_label);
    haste__release(P.id);
    haste__release(P.sample);
    haste__release(P.best);
    haste__release(P.plain);
    haste__release(P.gradient.weight[0]);
    haste__release(P.gradient.bias[0]);
}

/* ---- >>contestants --------------------------------------------------------------------------------------------- */

typedef struct contestant {
    const entry    *entry;
    char            name[48];
    int32_t         width, fan_in;      /* inputs of the layer; inputs of one label */
    haste_layer     layer;
    haste_workspace work;
    fan_in          per_label;
    dense           dense;
    char           *bytes;              /* READ */
    float          *grad_x;             /* [B, width] */
    double          added, growth;      /* bytes a step needs beside weights and indices: by account; of peak memory */
    double          error[OPERATIONS];  /* largest, against double, relative to the largest value */
    double          seconds[OPERATIONS][MOST_RUNS];
} contestant;

static int haste_bf16(const contestant *c) { return c->entry->dtype == HASTE_BF16; }
static const float *input(const contestant *c) { return c->width == D ? P.x : P.narrow; }

static void make_haste(contestant *c)
{
    haste_layer_options options;
    haste_error error;
    memset(&options, 0, sizeof options);
    c->width = D;
    c->fan_in = c->entry->fan ? c->entry->fan : P.F;
    snprintf(c->name, sizeof c->name, c->entry->fan ? "haste S=%d %s, F=%d" : "haste S=%d %s", (int)c->entry->S,
             bf16_dot(c->entry) ? "bf16, bf16_dot" : haste_bf16(c) ? "bf16" : "f32", (int)c->entry->fan);
    options.labels = (int32_t)P.L;
    options.inputs = D;
    options.block_count = 1;
    options.block[0].group_size = c->entry->S;
    options.block[0].fan_in = c->fan_in;
    options.dtype = c->entry->dtype;
    options.seed = SEED;
    must(haste_layer_create(&c->layer, &options, &error), &error);
}

/* Distinct inputs of a label, ascending: a set is drawn by running through all D (Knuth's algorithm S). */
static void draw_inputs(uint16_t *index, int64_t l, int32_t F)
{
    int32_t d, left = F;
    for (d = 0; left > 0; d++)
        if ((int32_t)haste__below(haste__random(SEED, 5, (uint64_t)l * D + (uint64_t)d), (uint32_t)(D - d)) < left) {
            *index++ = (uint16_t)d;
            left--;
        }
}

static void make_per_label(contestant *c)
{
    fan_in *p = &c->per_label;
    const int32_t F = P.F;
    const int64_t n = P.L * F;
    int64_t l;
    snprintf(c->name, sizeof c->name, "per-label fixed fan-in");
    c->width = D;
    c->fan_in = F;
    p->L = P.L;
    p->D = D;
    p->F = F;
    p->B = P.B;
    p->threads = P.threads;
    fan_in_sizes(p);
    p->index = (uint16_t *)need((size_t)n, sizeof(uint16_t));
    p->weight = (float *)need((size_t)n, sizeof(float));
    p->grad_weight = P.gradient.weight[0];
    p->bias = (float *)need((size_t)P.L, sizeof(float));
    p->offset = P.by_label;
    p->sample = P.sample;
    memset(p->bias, 0, (size_t)P.L * sizeof(float));
    fill(p->weight, n);
    #pragma omp parallel for
    for (l = 0; l < P.L; l++) draw_inputs(p->index + l * F, l, F);
}

static int make_library(contestant *c)
{
    static const char *const names[] = { "[F, L]", "[L, F]", "packed" };
    dense *p = &c->dense;
    c->width = c->fan_in = c->entry->variant ? D : P.F;
    snprintf(c->name, sizeof c->name, "%s %s, %s%s", c->entry->library == OPENBLAS ? "OpenBLAS" : "oneDNN",
             c->entry->variant ? "full layer" : "bottleneck", names[c->entry->layout], haste_bf16(c) ? " bf16" : "");
    p->library = c->entry->library;
    p->layout = c->entry->layout;
    p->bf16 = haste_bf16(c);
    p->L = P.L;
    p->K = c->width;
    p->B = P.B;
    p->threads = P.threads;
    p->lr = LR;
    p->offset = P.by_label;
    p->sample = P.sample;
    if (!dense_make(p)) return 0;
    p->bias = (float *)need((size_t)P.L, sizeof(float));
    memset(p->bias, 0, (size_t)P.L * sizeof(float));
    fill(P.plain, P.L * c->width);
    dense_set(p, P.plain);
    c->added = dense_added(p);
    return 1;
}

/* 0: this machine or build does not have it */
static int make_contestant(contestant *c)
{
    const entry *e = c->entry;
    if (e->kind == LIBRARY && !make_library(c)) return 0;
    if (e->kind == HASTE && !c->layer.memory) make_haste(c);
    if (e->kind == PER_LABEL) make_per_label(c);
    if (e->kind == READ) {
        const size_t bytes = (size_t)(P.L * P.F) * (haste_bf16(c) ? 2 : 4);
        c->fan_in = P.F;
        snprintf(c->name, sizeof c->name, "plain read of %s weights", haste_bf16(c) ? "bf16" : "f32");
        c->bytes = (char *)need(bytes, 1);
        memset(c->bytes, 0, bytes);
    } else {
        c->grad_x = (float *)need((size_t)P.B * (size_t)c->width, sizeof(float));
        memset(c->grad_x, 0, (size_t)P.B * (size_t)c->width * sizeof(float));
    }
    return 1;
}

static void free_contestant(contestant *c)
{
    haste_layer_free(&c->layer);
    haste_workspace_free(&c->work);
    haste__release(c->per_label.index); haste__release(c->per_label.weight); haste__release(c->per_label.bias);
    haste__release(c->per_label.xt); haste__release(c->per_label.grad_xt); haste__release(c->per_label.tile);
    haste__release(c->dense.bias);
    dense_free(&c->dense);
    haste__release(c->grad_x);
    haste__release(c->bytes);
}

static void perform_haste(contestant *c, operation o)
{
    haste_block *block = &c->layer.block[0];
    haste_gradient gradient;
    haste_step_options step;
    haste_lists positives;
    haste_error error;
    must(haste_gradient_init(&gradient, &c->layer, P.gradient.weight, P.gradient.bias, &error), &error);
    memset(&step, 0, sizeof step);
    step.lr = LR;
    positives.offset = P.offset;
    positives.id = P.id;
    if (o == FORWARD) must(haste_forward(&c->layer, &c->work, P.x, P.B, P.out, &error), &error);
    if (o == GRAD_WEIGHT) must(haste_backward(&c->layer, &c->work, P.x, P.B, P.grad, &gradient, NULL, &error), &error);
    if (o == GRAD_X) must(haste_backward(&c->layer, &c->work, P.x, P.B, P.grad, NULL, c->grad_x, &error), &error);
    if (o == STEP) must(haste_train_step(&c->layer, &c->work, P.x, P.B, &positives, &step, NULL, c->grad_x, &error), &error);
    if (o == TOP_K) must(haste_top_k(&c->layer, &c->work, P.x, P.B, TOP, NULL, P.best, NULL, &error), &error);
    if (o == UNFUSED) {
        must(haste_forward(&c->layer, &c->work, P.x, P.B, P.out, &error), &error);
        loss_gradient(P.out, 0, NULL, P.L, P.B, P.threads, P.by_label, P.sample, LR);
        must(haste_backward(&c->layer, &c->work, P.x, P.B, P.out, &gradient, c->grad_x, &error), &error);
        plain_update((float *)block->weight, gradient.weight[0], P.L * c->fan_in, LR, P.threads);
        plain_update(block->bias, gradient.bias[0], P.L, LR, P.threads);
    }
}

static void perform(contestant *c, operation o)
{
    fan_in *p = &c->per_label;
    dense *d = &c->dense;
    const void *grad = haste_bf16(c) ? (const void *)P.grad_half : (const void *)P.grad;
    switch (c->entry->kind) {
    case HASTE: perform_haste(c, o); break;
    case PER_LABEL:
        if (o == FORWARD) fan_in_forward(p, P.x, P.out);
        if (o == GRAD_WEIGHT) fan_in_grad_weight(p, P.x, P.grad_t);
        if (o == GRAD_X) fan_in_grad_x(p, P.grad_t, c->grad_x);
        if (o == STEP) fan_in_step(p, P.x, LR, c->grad_x);
        if (o == UNFUSED) fan_in_unfused(p, P.x, LR, P.out, c->grad_x);
        break;
    case LIBRARY:
        if (o == FORWARD) dense_forward(d, input(c), P.out);
        if (o == GRAD_WEIGHT) dense_grad_weight(d, input(c), grad);
        if (o == GRAD_X) dense_grad_x(d, grad, c->grad_x);
        if (o == STEP) dense_step(d, input(c), P.out, c->grad_x);
        break;
    case READ: run_read(c->bytes, P.L * P.F * (haste_bf16(c) ? 2 : 4), P.threads); break;
    }
}

/* ---- >>memory -------------------------------------------------------------------------------------------------- */

static double status_kib(const char *key)   /* a line of /proc/self/status; 0 where there is none */
{
    char line[256];
    double value = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0) value = atof(line + strlen(key) + 1);
    if (file) fclose(file);
    return value;
}

static void forget_peak(void)   /* the kernel's record of this process's largest memory begins anew */
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file) return;
    fputs("5\n", file);
    fclose(file);
}

/* What a step needs beside the layer is made here, and the growth of peak memory measured over that and the first step.
   The pages of P.out, where some of them put their logits, are given back before, so that they count where they are used. */
static void make_scratch(contestant *c)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)P.out + page - 1) / page * page;
    haste_workspace_options options;
    haste_error error;
    fan_in *p = &c->per_label;
    double before;
    if (P.out_bytes > 2 * page) madvise((void *)first, (P.out_bytes - page) / page * page, MADV_DONTNEED);
    forget_peak();
    before = status_kib("VmRSS");
    if (c->entry->kind == HASTE) {
        memset(&options, 0, sizeof options);
        options.batch = P.B;
        options.threads = P.threads;
        options.bf16_dot = bf16_dot(c->entry);
        must(haste_workspace_create(&c->work, &c->layer, &options, &error), &error);
        c->added = (double)c->work.bytes;
    }
    if (c->entry->kind == PER_LABEL) {
        const int64_t batch = (int64_t)D * p->padded, tiles = P.threads * fan_in_scratch(p);
        p->xt = (float *)need((size_t)batch, sizeof(float));
        p->grad_xt = (float *)need((size_t)(batch * P.threads), sizeof(float));
        p->tile = (float *)need((size_t)tiles, sizeof(float));
        c->added = (double)(batch * (1 + P.threads) + tiles) * 4;
    }
    if (c->entry->kind == READ || P.shape.part == TOPK) return;
    perform(c, STEP);
    c->growth = (status_kib("VmHWM") - before) * 1024;
}

/* ---- >>checks -------------------------------------------------------------------------------------------------- */

/* The same questions to every contestant: where the f-th weight of label l is, which input it reads. Of a dense layer
   P.plain holds the weights or the gradients, whichever dense_get got last. */
static int64_t place(const contestant *c, int64_t l, int32_t f)
{
    const int64_t S = c->entry->S;
    return c->entry->kind == HASTE ? (l / S * c->fan_in + f) * S + l % S : l * c->fan_in + f;
}

static double weight_of(const contestant *c, int64_t l, int32_t f)
{
    const int64_t i = place(c, l, f);
    if (c->entry->kind == PER_LABEL) return (double)c->per_label.weight[i];
    if (c->entry->kind == LIBRARY) return (double)P.plain[i];
    if (haste_bf16(c)) return (double)haste__from_bf16(((const uint16_t *)c->layer.block[0].weight)[i]);
    return (double)((const float *)c->layer.block[0].weight)[i];
}

static double gradient_of(const contestant *c, int64_t l, int32_t f)
{
    return (double)(c->entry->kind == LIBRARY ? P.plain : P.gradient.weight[0])[place(c, l, f)];
}

static double bias_of(const contestant *c, int64_t l)
{
    if (c->entry->kind == HASTE) return (double)c->layer.block[0].bias[l];
    return (double)(c->entry->kind == LIBRARY ? c->dense.bias : c->per_label.bias)[l];
}

static int32_t input_of(const contestant *c, int64_t l, int32_t f)
{
    if (c->entry->kind == HASTE) return c->layer.block[0].index[l / c->entry->S * c->fan_in + f];
    return c->entry->kind == PER_LABEL ? c->per_label.index[l * c->fan_in + f] : f;
}

static double logit_of(const contestant *c, int32_t b, int64_t l)   /* as FORWARD left it */
{
    if (c->entry->kind == PER_LABEL) return (double)P.out[l * P.padded + b];
    if (c->entry->kind == LIBRARY && haste_bf16(c)) return (double)haste__from_bf16(((const uint16_t *)P.out)[b * P.L + l]);
    return (double)P.out[b * P.L + l];
}

static double logit_in_double(const contestant *c, int32_t b, int64_t l, int with_bias)
{
    double z = with_bias ? bias_of(c, l) : 0;
    int32_t f;
    for (f = 0; f < c->fan_in; f++) {
        float x = input(c)[b * c->width + input_of(c, l, f)];
        if (bf16_dot(c->entry)) x = haste__from_bf16(haste__to_bf16(x));
        z += weight_of(c, l, f) * (double)x;
    }
    return z;
}

static double slope_in_double(double z, int32_t b, int64_t l)   /* d loss / d logit */
{
    int64_t i;
    double y = 0;
    for (i = P.offset[b]; i < P.offset[b + 1]; i++) if (P.id[i] == l) y = 1;
    return (1 / (1 + exp(-z)) - y) / P.B;
}

static double worst_error(const double *got, const double *want, int64_t n)
{
    double worst = 0, scale = 1e-30;
    int64_t i;
    for (i = 0; i < n; i++) {
        if (fabs(want[i]) > scale) scale = fabs(want[i]);
        if (!(fabs(got[i] - want[i]) <= worst)) worst = fabs(got[i] - want[i]);
    }
    return worst / scale;
}

/* The gradient for one sample's input, from given slopes of its logits: by runs of labels, each with sums of its own. */
static void grad_x_in_double(const contestant *c, const double *slope, double *want)
{
    enum { RUNS = 16 };
    double *partial = (double *)need((size_t)RUNS * D, sizeof(double));
    int run, d;
    #pragma omp parallel for
    for (run = 0; run < RUNS; run++) {
        double *sum = partial + run * D;
        int64_t l;
        int32_t f;
        memset(sum, 0, D * sizeof(double));
        for (l = P.L * run / RUNS; l < P.L * (run + 1) / RUNS; l++)
            for (f = 0; f < c->fan_in; f++) sum[input_of(c, l, f)] += slope[l] * weight_of(c, l, f);
    }
    memset(want, 0, D * sizeof(double));
    for (run = 0; run < RUNS; run++) for (d = 0; d < c->width; d++) want[d] += partial[run * D + d];
    haste__release(partial);
}

static void compare_grad_x(contestant *c, operation o, const double *slope, double *got, double *want)
{
    const int32_t one = P.B - 1;
    int32_t d;
    double error;
    for (d = 0; d < c->width; d++) got[d] = (double)c->grad_x[one * c->width + d];
    grad_x_in_double(c, slope, want);
    error = worst_error(got, want, c->width);
    if (!(error <= c->error[o])) c->error[o] = error;
}

/* Whether sums over all labels are checked too, or only labels one by one: beyond that it would take longer than the
   measurement. */
static int checked_whole(const contestant *c) { return P.L * c->fan_in <= 1 << 24; }

/* A step (fused or not): how far the weights of the sampled labels moved, and the input gradient. A bfloat16 weight moves by
   whole units, so each has to be within a unit of its place. */
static int check_step(contestant *c, operation o, const int64_t *label, double *want, double *slope, double *x_got,
                      double *x_want)
{
    const int32_t one = P.B - 1;
    const int whole = checked_whole(c), rounds = haste_bf16(c);
    double *moves = (double *)need((size_t)P.B, sizeof(double)), steepest = 0;
    int64_t l, n;
    int32_t b, f, s;
    int ok = 1;
    if (c->entry->kind == LIBRARY) dense_get(&c->dense, 0, P.plain);
    #pragma omp parallel for
    for (l = 0; l < P.L; l++) slope[l] = whole ? slope_in_double(logit_in_double(c, one, l, 1), one, l) : 0;
    if (whole) grad_x_in_double(c, slope, x_want);   /* from the weights before */
    for (s = 0, n = 0; s < SAMPLED; s++) {
        for (b = 0; b < P.B; b++) moves[b] = slope_in_double(logit_in_double(c, b, label[s], 1), b, label[s]);
        for (f = 0; f < c->fan_in; f++, n++) {
            double g = 0;
            for (b = 0; b < P.B; b++) g += moves[b] * (double)input(c)[b * c->width + input_of(c, label[s], f)];
            want[n] = weight_of(c, label[s], f) - (double)LR * g;
            if (fabs(g) > steepest) steepest = fabs(g);
        }
    }
    memset(c->grad_x, 0, (size_t)P.B * (size_t)c->width * sizeof(float));
    perform(c, o);
    if (c->entry->kind == LIBRARY) dense_get(&c->dense, 0, P.plain);
    for (s = 0, n = 0; s < SAMPLED; s++) for (f = 0; f < c->fan_in; f++, n++) {
        double unit = rounds ? fabs(want[n]) / 128 : fabs(want[n]) * 1e-6;
        if (c->entry->kind == LIBRARY && rounds) unit += (double)LR * steepest * 2e-2;   /* its gradients are rounded too */
        if (!(fabs(weight_of(c, label[s], f) - want[n]) <= unit + 1e-7)) ok = 0;
    }
    for (f = 0; f < c->width; f++) x_got[f] = (double)c->grad_x[one * c->width + f];
    if (whole) c->error[o] = worst_error(x_got, x_want, c->width);
    haste__release(moves);
    return ok;
}

/* Some labels (the last one too), and up to 2^24 weights one sample's input gradient in full. */
static int check(contestant *c)
{
    const shape *s = &P.shape;
    const int whole = checked_whole(c);
    double *got = (double *)need((size_t)SAMPLED * (size_t)(c->fan_in + P.B), sizeof(double));
    double *want = (double *)need((size_t)SAMPLED * (size_t)(c->fan_in + P.B), sizeof(double));
    double *slope = (double *)need((size_t)P.L, sizeof(double)), *x_got = (double *)need(D, sizeof(double)),
           *x_want = (double *)need(D, sizeof(double));
    const double limit = c->entry->kind == LIBRARY && haste_bf16(c) ? 2e-2 : 1e-4;
    int64_t label[SAMPLED], l, n;
    int32_t b, f, i;
    int ok = 1, o;

    for (i = 0; i < SAMPLED; i++)
        label[i] = i == 0 ? P.L - 1 : i <= POSITIVES ? P.id[i % (P.B * POSITIVES)] : (P.L * i / SAMPLED + i * 7) % P.L;

    if (wanted(c->entry, FORWARD, s)) {
        const float poison = 1e9f;
        for (l = 0; l < P.L * P.padded; l++) P.out[l] = poison;
        perform(c, FORWARD);
        if (c->entry->kind == LIBRARY) dense_get(&c->dense, 0, P.plain);
        for (i = 0, n = 0; i < SAMPLED; i++) for (b = 0; b < P.B; b++, n++) {
            got[n] = logit_of(c, b, label[i]);
            want[n] = logit_in_double(c, b, label[i], c->entry->kind != LIBRARY);
        }
        c->error[FORWARD] = worst_error(got, want, n);
    }
    if (wanted(c->entry, GRAD_WEIGHT, s)) {
        perform(c, GRAD_WEIGHT);
        if (c->entry->kind == LIBRARY) dense_get(&c->dense, 1, P.plain);
        for (i = 0, n = 0; i < SAMPLED; i++) for (f = 0; f < c->fan_in; f++, n++) {
            got[n] = gradient_of(c, label[i], f);
            for (b = 0, want[n] = 0; b < P.B; b++)
                want[n] += (double)P.grad[b * P.L + label[i]] * (double)input(c)[b * c->width + input_of(c, label[i], f)];
        }
        c->error[GRAD_WEIGHT] = worst_error(got, want, n);
    }
    if (wanted(c->entry, GRAD_X, s)) {
        memset(c->grad_x, 0, (size_t)P.B * (size_t)c->width * sizeof(float));
        perform(c, GRAD_X);
        if (c->entry->kind == LIBRARY) dense_get(&c->dense, 0, P.plain);
        for (l = 0; l < P.L; l++) slope[l] = (double)P.grad[(P.B - 1) * P.L + l];
        if (whole) compare_grad_x(c, GRAD_X, slope, x_got, x_want);
    }
    for (o = STEP; o <= UNFUSED; o++)
        if (wanted(c->entry, (operation)o, s) && !check_step(c, (operation)o, label, want, slope, x_got, x_want)) {
            fprintf(stderr, "bench_cpu: %s: a weight is not where the %s should have put it\n", c->name, operation_name[o]);
            ok = 0;
        }
    if (wanted(c->entry, TOP_K, s) && c->entry->kind == HASTE && whole) {
        /* the best of one sample, against all its logits in double */
        const int32_t one = P.B - 1;
        double best = -HUGE_VAL, found;
        perform(c, TOP_K);
        #pragma omp parallel for
        for (l = 0; l < P.L; l++) slope[l] = logit_in_double(c, one, l, 1);
        for (l = 0; l < P.L; l++) if (slope[l] > best) best = slope[l];
        found = slope[P.best[one * TOP]];
        c->error[TOP_K] = fabs(best - found) / fabs(best);
    }
    for (o = 0; o < OPERATIONS; o++)
        if (!(c->error[o] <= limit)) {
            fprintf(stderr, "bench_cpu: %s: %s: relative error %.3g, allowed %.3g\n", c->name, operation_name[o],
                    c->error[o], limit);
            ok = 0;
        }
    haste__release(got); haste__release(want); haste__release(slope); haste__release(x_got); haste__release(x_want);
    return ok;
}

/* ---- >>rows ---------------------------------------------------------------------------------------------------- */

/* Every median of this run, for the table at the end. */
typedef struct row {
    shape        shape;
    const entry *entry;
    operation    operation;
    int32_t      fan_in;
    double       seconds, share, added, growth;
} row;

enum { MOST_ROWS = 4096 };
static row rows[MOST_ROWS];
static int row_count;

static FILE *csv;

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof(double), ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Until no thread of this process runs any more: waiting threads of OpenMP and OpenBLAS spin before they sleep. */
static void wait_for_quiet(void)
{
    struct timespec t = { 0, 1000000 }, used;
    double before = -1, now;
    int i;
    for (i = 0; i < 200; i++, before = now) {
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        now = (double)used.tv_sec + (double)used.tv_nsec * 1e-9;
        if (before >= 0 && now - before < 2e-4) return;
        nanosleep(&t, NULL);
    }
}

/* One repetition of one contestant: all its operations back to back, as in training. Threads that have slept may share a
   core for some milliseconds, and a core that has slept is slow at first: where that would show, an operation goes before,
   untimed. */
static void take_turn(contestant *c, int r)
{
    int o, first = 1;
    double begin;
    wait_for_quiet();
    for (o = 0; o < OPERATIONS; o++) {
        if (!wanted(c->entry, (operation)o, &P.shape)) continue;
        if (first && (r == 0 || c->seconds[o][r - 1] < .1)) perform(c, (operation)o);
        first = 0;
        begin = bench_seconds();
        perform(c, (operation)o);
        c->seconds[o][r] = bench_seconds() - begin;
    }
}

/* ---- >>table --------------------------------------------------------------------------------------------------- */

static void print_contestant(contestant *c, int runs, double peak, const contestant *reference, const int *shown)
{
    const double mib = 1 / 1048576.;
    double worst = 0;
    int o;
    printf("%-34s", c->name);
    for (o = 0; o < OPERATIONS; o++) {
        const int against = o == UNFUSED ? STEP : o;
        const double seconds = median(c->seconds[o], runs), least = c->seconds[o][0], most = c->seconds[o][runs - 1];
        const double flops = c->entry->kind == READ ? 0 : operation_passes[o] * 2 * P.B * (double)P.L * c->fan_in;
        const double share = flops / seconds / peak;
        double ratio;
        if (!shown[o]) continue;
        if (!wanted(c->entry, (operation)o, &P.shape)) { printf(" |%21s", ""); continue; }
        ratio = wanted(reference->entry, (operation)against, &P.shape)
                    ? seconds / median((double *)(uintptr_t)reference->seconds[against], runs)
                    : 0;
        if (c->error[o] > worst) worst = c->error[o];
        printf(" |%9.2f %3.0f%% %6.2f", seconds * 1e3, share * 100, ratio);
        if (row_count < MOST_ROWS) {
            row *r = &rows[row_count++];
            r->shape = P.shape;
            r->entry = c->entry;
            r->operation = (operation)o;
            r->fan_in = c->fan_in;
            r->seconds = seconds;
            r->share = share;
            r->added = c->added;
            r->growth = c->growth;
        }
        if (csv)
            fprintf(csv, "%s,%ld,%d,%d,%d,%d,\"%s\",%s,%.4f,%.4f,%.4f,%d,%.2f,%.3f,%.3f,%.2f,%.2f,%.2e\n",
                    part_name(P.shape.part), (long)P.L, (int)D, (int)c->fan_in, (int)P.B, P.threads, c->name,
                    operation_name[o], seconds * 1e3, least * 1e3, most * 1e3, runs, flops / seconds * 1e-9, share, ratio,
                    c->added * mib, c->growth * mib, c->error[o]);
    }
    if (P.shape.part == TOPK) printf("\n");
    else {
        printf(" |%8.1f %7.1f | ", c->added * mib, c->growth * mib);
        if (worst > 0) printf("%.0e\n", worst);
        else printf("-\n");   /* of weights alone, which are right or wrong */
    }
}

static int most_threads = 1;     /* of the tables that are run unasked */
static double one_thread_peak;   /* flop/s, measured at the start */

/* All repetitions of one table, and the multiply-add peak during them (=). How many there were. */
static int take_turns(contestant *c, int n, const shape *s, double *peak)
{
    const int64_t fma_rounds = 4000000;
    const double begin = bench_seconds();
    double rate[MOST_RUNS];
    int r, i;
    for (r = 0; r < MOST_RUNS && (r < LEAST_RUNS || bench_seconds() - begin < s->seconds); r++) {
        double start;
        wait_for_quiet();
        run_fma(fma_rounds, P.threads);
        start = bench_seconds();
        run_fma(fma_rounds, P.threads);
        rate[r] = fma_flops(fma_rounds, P.threads) / (bench_seconds() - start);
        for (i = 0; i < n; i++) take_turn(&c[i], r);
    }
    *peak = median(rate, r);
    return r;
}

static int not_alone(double peak)
{
    return P.threads <= most_threads && peak < .75 * P.threads * one_thread_peak;
}

static int compare(const shape *s)
{
    static contestant c[MOST];
    double peak;
    int n = 0, i, r, o, again, ok = 1, shown[OPERATIONS] = { 0 };

    make_problem(s);
    memset(c, 0, sizeof c);
    for (i = 0; i < (int)ENTRIES; i++) if (takes_part(&entries[i], s)) c[n++].entry = &entries[i];
    #pragma omp parallel for schedule(dynamic)
    for (i = 0; i < n; i++) if (c[i].entry->kind == HASTE) make_haste(&c[i]);
    for (i = 0, o = 0; i < n; i++) if (make_contestant(&c[i])) c[o++] = c[i];   /* what is not to be had is left out */
    n = o;
    for (i = 0; i < n; i++) {
        make_scratch(&c[i]);
        ok &= c[i].entry->kind == READ || check(&c[i]);
    }
    /* Threads sometimes share a core for seconds, with each other or with other work: such a table says nothing. */
    r = take_turns(c, n, s, &peak);
    for (again = 0; again < 3 && not_alone(peak); again++) {
        printf("\n%s: L = %ld, %d thread%s: peak only %.1f times that of one at the start: once more\n", part_name(s->part),
               (long)P.L, P.threads, P.threads == 1 ? "" : "s", peak / one_thread_peak);
        sleep(1);
        r = take_turns(c, n, s, &peak);
    }

    printf("\n%s: L = %ld, D = %d, F = %d, B = %d, %d thread%s; medians of %d; multiply-add peak %.0f GFLOP/s%s\n",
           part_name(s->part), (long)P.L, (int)D, (int)P.F, (int)P.B, P.threads, P.threads == 1 ? "" : "s", r, peak * 1e-9,
           not_alone(peak) ? "; NOT ALONE ON ITS CORES, not to be used" : "");
    printf("%-34s", "");
    for (o = 0; o < OPERATIONS; o++) {
        for (i = 0; i < n; i++) if (wanted(c[i].entry, (operation)o, s)) shown[o] = 1;
        if (shown[o]) printf(" | %-20s", operation_name[o]);
    }
    printf("\n%-34s", "");
    for (o = 0; o < OPERATIONS; o++) if (shown[o]) printf(" |       ms    %%      x");
    printf(s->part == TOPK ? "\n" : " |   added growth MiB | error\n");
    for (i = 0; i < n; i++) print_contestant(&c[i], r, peak, &c[0], shown);
    fflush(stdout);
    if (csv) fflush(csv);
    for (i = 0; i < n; i++) free_contestant(&c[i]);
    free_problem();
    return ok;
}

/* ---- >>odd shapes ---------------------------------------------------------------------------------------------- */

/* One shape of the table of odd shapes: float32, SGD. */
typedef struct odd_shape { const char *name; int64_t L; int32_t S, F, D, B; } odd_shape;

static const odd_shape odd_shapes[] = {   /* the first is what the others are compared with: no padding, whole vectors */
    { "S 32, F 64, L 131,072, D 768, B 128", 131072, 32, 64, 768, 128 },
    { "S 8", 131072, 8, 64, 768, 128 },
    { "S 24", 131072, 24, 64, 768, 128 },
    { "S 40", 131072, 40, 64, 768, 128 },
    { "F 61", 131072, 32, 61, 768, 128 },
    { "L 131,059", 131059, 32, 64, 768, 128 },
    { "D 100", 131072, 32, 64, 100, 128 },
    { "D 767", 131072, 32, 64, 767, 128 },
    { "B 101", 131072, 32, 64, 768, 101 },
};
enum { ODD_SHAPES = sizeof odd_shapes / sizeof odd_shapes[0], ODD_RUNS = 7 };

/* What is computed where labels come in whole vectors of 16 and samples in whole blocks of 32. */
static double padded_labels(const odd_shape *s) { return (double)((s->L + s->S - 1) / s->S * ((s->S + 15) / 16 * 16)); }
static double padded_samples(const odd_shape *s) { return (double)((s->B + 31) / 32 * 32); }

/* The largest error of sampled logits, relative to the largest of them. */
static double odd_error(const haste_layer *layer, const odd_shape *s, const float *x, const float *logits)
{
    const haste_block *block = &layer->block[0];
    double got[SAMPLED], want[SAMPLED];
    int i;
    for (i = 0; i < SAMPLED; i++) {
        const int64_t l = i == 0 ? s->L - 1 : (s->L * i / SAMPLED + i * 7) % s->L, g = l / s->S;
        const int32_t b = (int32_t)(i % s->B);
        int32_t f;
        got[i] = (double)logits[b * layer->slots + l];
        want[i] = (double)block->bias[l];
        for (f = 0; f < s->F; f++)
            want[i] += (double)((const float *)block->weight)[(g * s->F + f) * s->S + l % s->S] *
                       (double)x[b * s->D + block->index[g * s->F + f]];
    }
    return worst_error(got, want, SAMPLED);
}

/* Shapes that fill no whole vectors or blocks: what they lose beyond that. One thread; all take turns. */
static int compare_odd(int64_t most_labels)
{
    static haste_layer layer[ODD_SHAPES];
    static haste_workspace work[ODD_SHAPES];
    static double seconds[2][ODD_SHAPES][ODD_RUNS];
    float *x = (float *)need((size_t)128 * 768, sizeof(float)), *grad_x = (float *)need((size_t)128 * 768, sizeof(float));
    float *logits = (float *)need((size_t)128 * (131072 + 256), sizeof(float));   /* slots */
    double rate[ODD_RUNS], peak, first[2] = { 0, 0 }, error;
    int64_t offset[129];
    int32_t id[128 * POSITIVES];
    haste_lists positives;
    haste_step_options step;
    haste_error why;
    int i, r, o, ok = 1;
    memset(&step, 0, sizeof step);
    memset(grad_x, 0, (size_t)128 * 768 * sizeof(float));
    step.lr = LR;
    positives.offset = offset;
    positives.id = id;
    for (i = 0; i < 128 * 768; i++) x[i] = number(1, i);
    for (i = 0; i <= 128; i++) offset[i] = (int64_t)i * POSITIVES;
    for (i = 0; i < ODD_SHAPES; i++) {
        haste_layer_options options;
        haste_workspace_options scratch;
        memset(&options, 0, sizeof options);
        memset(&scratch, 0, sizeof scratch);
        options.labels = (int32_t)(odd_shapes[i].L < most_labels ? odd_shapes[i].L : most_labels);
        options.inputs = odd_shapes[i].D;
        options.block_count = 1;
        options.block[0].group_size = odd_shapes[i].S;
        options.block[0].fan_in = odd_shapes[i].F;
        options.seed = SEED;
        scratch.batch = odd_shapes[i].B;
        scratch.threads = 1;
        must(haste_layer_create(&layer[i], &options, &why), &why);
        must(haste_workspace_create(&work[i], &layer[i], &scratch, &why), &why);
    }
    for (r = -1; r < ODD_RUNS; r++) for (i = 0; i < ODD_SHAPES; i++) {   /* r = -1: checks, and warms up */
        odd_shape s = odd_shapes[i];
        int k;
        double begin = bench_seconds(), middle, end;
        s.L = layer[i].labels;
        for (k = 0; k < s.B * POSITIVES; k++)
            id[k] = (int32_t)(k % POSITIVES * (s.L / POSITIVES) +
                              haste__below(haste__random(SEED, 3, (uint64_t)k), (uint32_t)(s.L / POSITIVES)));
        if (r >= 0 && i == 0) {
            begin = bench_seconds();
            run_fma(4000000, 1);
            rate[r] = fma_flops(4000000, 1) / (bench_seconds() - begin);
        }
        begin = bench_seconds();
        must(haste_forward(&layer[i], &work[i], x, s.B, logits, &why), &why);
        middle = bench_seconds();
        if (r < 0) {
            error = odd_error(&layer[i], &s, x, logits);
            if (!(error <= 1e-4)) {
                fprintf(stderr, "bench_cpu: odd shapes: %s: relative error %.3g\n", s.name, error);
                ok = 0;
            }
            middle = bench_seconds();
        }
        must(haste_train_step(&layer[i], &work[i], x, s.B, &positives, &step, NULL, grad_x, &why), &why);
        end = bench_seconds();
        if (r >= 0) { seconds[0][i][r] = middle - begin; seconds[1][i][r] = end - middle; }
    }
    peak = median(rate, ODD_RUNS);
    printf("\nodd shapes: one thread, float32; medians of %d; multiply-add peak %.0f GFLOP/s; each differs from the first "
           "in what its name says\n%-38s | forward                  | step                     |\n%-38s |%s |%s | padding\n",
           (int)ODD_RUNS, peak * 1e-9, "", "", "       ms    %  x padded  ", "       ms    %  x padded  ");
    for (i = 0; i < ODD_SHAPES; i++) {
        odd_shape s = odd_shapes[i];
        double padding;
        s.L = layer[i].labels;
        padding = padded_labels(&s) * padded_samples(&s) / ((double)s.L * s.B);
        printf("%-38s", s.name);
        for (o = 0; o < 2; o++) {
            const double flops = operation_passes[o == 0 ? FORWARD : STEP] * 2 * (double)s.L * s.B * s.F;
            const double t = median(seconds[o][i], ODD_RUNS), each = t / (flops * padding);
            if (i == 0) first[o] = each;
            printf(" |%9.2f %3.0f%% %9.2f  ", t * 1e3, flops / t / peak * 100, each / first[o]);
            if (csv)
                fprintf(csv, "odd,%ld,%d,%d,%d,1,\"haste S=%d f32\",%s,%.4f,%.4f,%.4f,%d,%.2f,%.3f,%.3f,0,0,0\n",
                        (long)s.L, (int)s.D, (int)s.F, (int)s.B, (int)s.S, o == 0 ? "forward" : "step", t * 1e3,
                        seconds[o][i][0] * 1e3, seconds[o][i][ODD_RUNS - 1] * 1e3, (int)ODD_RUNS, flops / t * 1e-9,
                        flops / t / peak, each / first[o]);
        }
        printf(" |%8.2f\n", padding);
        haste_layer_free(&layer[i]);
        haste_workspace_free(&work[i]);
    }
    fflush(stdout);
    haste__release(x);
    haste__release(grad_x);
    haste__release(logits);
    return ok;
}

/* ---- >>rewiring, grouping, projection -------------------------------------------------------------------------- */

typedef struct rewiring { int32_t F; int threads; double random, gradient; } rewiring;   /* in steps */
static rewiring rewirings[8];
static int rewiring_count;

static int compare_rewiring(const shape *s)
{
    static contestant c;
    double seconds[3][MOST_RUNS], t[3], begin;
    haste_rewire_options options;
    haste_lists positives;
    haste_error error;
    rewiring *result = &rewirings[rewiring_count < 8 ? rewiring_count++ : 7];
    int64_t moved = 0, all;
    int r, ok;
    make_problem(s);
    memset(&c, 0, sizeof c);
    c.entry = &entries[0];
    make_contestant(&c);
    make_scratch(&c);
    positives.offset = P.offset;
    positives.id = P.id;
    memset(&options, 0, sizeof options);
    options.share = .1f;
    all = P.L / c.entry->S * c.fan_in;
    for (r = 0; r < 5; r++) {
        perform(&c, FORWARD);
        begin = bench_seconds();
        perform(&c, STEP);
        seconds[0][r] = bench_seconds() - begin;
        for (options.growth = HASTE_GROW_RANDOM; ; options.growth = HASTE_GROW_GRADIENT) {
            begin = bench_seconds();
            must(haste_rewire(&c.layer, &c.work, &options, P.x, P.B, &positives, &moved, &error), &error);
            seconds[1 + (int)options.growth][r] = bench_seconds() - begin;
            if (options.growth == HASTE_GROW_GRADIENT) break;
        }
    }
    for (r = 0; r < 3; r++) t[r] = median(seconds[r], 5);
    result->F = s->F;
    result->threads = s->threads;
    result->random = t[1] / t[0];
    result->gradient = t[2] / t[0];
    ok = haste_layer_check(&c.layer, &error) == HASTE_OK && moved == (int64_t)(.1f * (double)all);
    if (!ok) fprintf(stderr, "bench_cpu: rewiring moved %ld of %ld places, or broke the layer\n", (long)moved, (long)all);
    printf("rewire: L = %ld, F = %d, B = %d, %d thread%s: step %.2f ms; 10%% of the places, random growth %.2f ms "
           "(%.2f steps), gradient growth %.2f ms (%.2f steps)\n",
           (long)P.L, (int)P.F, (int)P.B, P.threads, P.threads == 1 ? "" : "s", t[0] * 1e3, t[1] * 1e3, result->random,
           t[2] * 1e3, result->gradient);
    if (csv)
        for (r = 0; r < 3; r++)
            fprintf(csv, "rewire,%ld,%d,%d,%d,%d,\"haste S=32 f32\",%s,%.4f,%.4f,%.4f,5,0,0,%.3f,0,0,0\n", (long)P.L, (int)D,
                    (int)P.F, (int)P.B, P.threads, r == 0 ? "step" : r == 1 ? "rewire random" : "rewire gradient",
                    t[r] * 1e3, seconds[r][0] * 1e3, seconds[r][4] * 1e3, t[r] / t[0]);
    free_contestant(&c);
    free_problem();
    return ok;
}

/* Documents with features of their label's own and some noise; then labels by likeness. Once each, as in training. */
static void compare_grouping(int32_t L, int threads)
{
    enum { E = 128, FEATURES = 64, OWN = 32 };
    const int32_t B = L;
    const int64_t n = (int64_t)B * FEATURES;
    float *embedding = (float *)need((size_t)L * E, sizeof(float)), *value = (float *)need((size_t)n, sizeof(float));
    int64_t *offset = (int64_t *)need((size_t)B + 1, sizeof(int64_t)),
            *first = (int64_t *)need((size_t)B + 1, sizeof(int64_t)), i;
    int32_t *feature = (int32_t *)need((size_t)n, sizeof(int32_t)), *order = (int32_t *)need((size_t)L, sizeof(int32_t)), l;
    haste_group_options options;
    haste_sparse x;
    haste_lists positives;
    haste_error error;
    double begin, project, group, cohesion = 0, shuffled = 0;
    memset(&options, 0, sizeof options);
    options.threads = threads;
    options.seed = SEED;
    for (l = 0; l <= L; l++) { offset[l] = (int64_t)l * FEATURES; first[l] = l; }
    for (l = 0; l < L; l++) order[l] = l;
    for (i = 0; i < n; i++) {
        const int32_t topic = order[i / FEATURES] % (L / 64);   /* 64 labels share most of their features */
        feature[i] = i % FEATURES < OWN ? topic * OWN + (int32_t)(i % OWN)
                                        : (int32_t)haste__below(haste__random(SEED, 9, (uint64_t)i), 100000);
        value[i] = 1;
    }
    memset(embedding, 0, (size_t)L * E * sizeof(float));
    x.offset = offset;
    x.feature = feature;
    x.value = value;
    positives.offset = first;
    positives.id = order;
    begin = bench_seconds();
    must(haste_embed_sparse(embedding, L, E, SEED, &x, B, &positives, threads, &error), &error);
    must(haste_embed_finish(embedding, L, E, &error), &error);
    project = bench_seconds() - begin;
    begin = bench_seconds();
    must(haste_group(embedding, L, E, order, L, &options, &error), &error);
    group = bench_seconds() - begin;
    must(haste_cohesion(embedding, L, E, order, L, 32, threads, &cohesion, NULL, &error), &error);
    must(haste_order_random(order, L, SEED, &error), &error);
    must(haste_cohesion(embedding, L, E, order, L, 32, threads, &shuffled, NULL, &error), &error);
    printf("grouping: %d labels, %d dimensions, %d thread%s: projection of %d documents of %d features %.2f s; "
           "haste_group %.2f s, cohesion %.2f (random %.2f)\n",
           (int)L, (int)E, threads, threads == 1 ? "" : "s", (int)B, (int)FEATURES, project, group, cohesion,
           shuffled);
    if (csv)
        fprintf(csv, "rewire,%d,%d,0,0,%d,haste_embed_sparse,projection,%.1f,,,1,,,,,,\n"
                "rewire,%d,%d,0,0,%d,haste_group,grouping,%.1f,,,1,,,,,,\n",
                (int)L, (int)E, threads, project * 1e3, (int)L, (int)E, threads, group * 1e3);
    haste__release(embedding);
    haste__release(value);
    haste__release(offset);
    haste__release(first);
    haste__release(feature);
    haste__release(order);
}

/* ---- >>asked and got ------------------------------------------------------------------------------------------- */

/* Beside row r: the fastest of that kind (of a library's layouts) at the same L, B and threads; 0: not measured. */
static double beside(const row *r, kind k, haste_dtype dtype, int32_t S, library which, int variant, operation o,
                     int threads)
{
    double best = 0;
    int i;
    for (i = 0; i < row_count; i++) {
        const row *q = &rows[i];
        if (q->shape.part != r->shape.part || q->shape.L != r->shape.L || q->shape.B != r->shape.B ||
            q->shape.threads != threads)
            continue;
        if (q->operation != o || q->entry->kind != k || q->entry->dtype != dtype || q->entry->S != S ||
            q->entry->variant != variant)
            continue;
        if (k == LIBRARY && q->entry->library != which) continue;
        if (k != READ && !(k == LIBRARY && variant) && q->fan_in != r->fan_in) continue;
        if (k == READ && q->shape.F != r->shape.F) continue;
        if (best == 0 || q->seconds < best) best = q->seconds;
    }
    return best;
}

typedef enum measure {
    SHARE, PER_LABEL_UNFUSED, PER_LABEL_FUSED, BOTTLENECK_BLAS, BOTTLENECK_DNNL, FULL_DNNL, FULL_BLAS,
    NARROW, HALF, HALF_DOT, SECOND_CORE, READING, SEARCH, MEMORY
} measure;

/* The figure for one row of haste's; 0: there is none. Times of others over ours, so that more is better, except
   where a cost is asked for. */
static double figure(measure what, const row *r)
{
    const int32_t S = r->entry->S;
    const int threads = r->shape.threads;
    const operation o = r->operation;
    double other = 0, cost = 0;
    switch (what) {
    case SHARE: return r->share;
    case MEMORY: return (r->added > r->growth ? r->added : r->growth) * 1e-6;
    case PER_LABEL_UNFUSED: other = beside(r, PER_LABEL, HASTE_F32, 0, OPENBLAS, 0, UNFUSED, threads); break;
    case PER_LABEL_FUSED: other = beside(r, PER_LABEL, HASTE_F32, 0, OPENBLAS, 0, STEP, threads); break;
    case BOTTLENECK_BLAS: other = beside(r, LIBRARY, HASTE_F32, 0, OPENBLAS, 0, o, threads); break;
    case BOTTLENECK_DNNL: other = beside(r, LIBRARY, HASTE_F32, 0, ONEDNN, 0, o, threads); break;
    case FULL_BLAS: other = beside(r, LIBRARY, HASTE_F32, 0, OPENBLAS, 1, o, threads); break;
    case FULL_DNNL: other = beside(r, LIBRARY, HASTE_F32, 0, ONEDNN, 1, o, threads); break;
    case READING: other = beside(r, READ, r->entry->dtype, 0, OPENBLAS, 0, TOP_K, threads); break;
    case SECOND_CORE: other = threads == 2 ? beside(r, HASTE, r->entry->dtype, S, OPENBLAS, 0, o, 1) : 0; break;
    case HALF: cost = beside(r, HASTE, HASTE_BF16, S, OPENBLAS, 0, o, threads); return cost > 0 ? r->seconds / cost : 0;
    case HALF_DOT: cost = beside(r, HASTE, HASTE_BF16, S, OPENBLAS, 1, o, threads); return cost > 0 ? r->seconds / cost : 0;
    case NARROW: cost = S == 32 ? beside(r, HASTE, HASTE_F32, 16, OPENBLAS, 0, o, threads) : 0; return cost / r->seconds;
    case SEARCH:
        cost = beside(r, HASTE, HASTE_F32, S, OPENBLAS, 0, FORWARD, threads);
        return cost > 0 ? r->seconds / cost : 0;
    }
    return other / r->seconds;
}

typedef struct request {
    const char *text;
    measure     what;
    operation   operation;
    part        part;
    int32_t     fan_in;             /* 0: any */
    int32_t     batch, most_batch;  /* from .. to; 0: no end */
    int64_t     labels;             /* exactly; 0: any */
    double      least, stretch;
    const char *unit;
    int         cost;               /* 1: not more than that */
    int         rows;               /* which: WIDE of float32, or ... */
} request;

enum { WIDE, ALL_F32, ALL_BF16, EVERY };   /* S >= 32; any S; any S, weights of bfloat16 (no bf16_dot); both types */

static int judged(const request *q, const entry *e)
{
    if (e->kind != HASTE || bf16_dot(e)) return 0;
    if (q->rows == WIDE) return e->dtype == HASTE_F32 && e->S >= 32;
    return q->rows == EVERY || (e->dtype == HASTE_BF16) == (q->rows == ALL_BF16);
}

static const request requests[] = {
    { "forward, F = 128: share of peak",             SHARE, FORWARD, TRAIN, 128, 128, 0, 0, .80, .88, "", 0, WIDE },
    { "forward, F = 64: share of peak",              SHARE, FORWARD, TRAIN, 64, 128, 0, 0, .75, .88, "", 0, WIDE },
    { "step, F = 128: share of peak",                SHARE, STEP, TRAIN, 128, 128, 0, 0, .80, .88, "", 0, WIDE },
    { "step, F = 64: share of peak",                 SHARE, STEP, TRAIN, 64, 128, 0, 0, .80, .88, "", 0, WIDE },
    { "step against per-label, unfused",             PER_LABEL_UNFUSED, STEP, TRAIN, 0, 128, 0, 0, 2.5, 3.2, "x", 0, WIDE },
    { "step against per-label, fused",               PER_LABEL_FUSED, STEP, TRAIN, 0, 128, 0, 0, 2.0, 2.4, "x", 0, WIDE },
    { "step against OpenBLAS bottleneck",            BOTTLENECK_BLAS, STEP, TRAIN, 0, 128, 0, 0, 1.4, 1.8, "x", 0, WIDE },
    { "step against oneDNN bottleneck",              BOTTLENECK_DNNL, STEP, TRAIN, 0, 128, 0, 0, 1.05, 1.2, "x", 0, WIDE },
    { "step, F = 64, against oneDNN full layer",     FULL_DNNL, STEP, DENSE, 64, 128, 0, 0, 10, 12, "x", 0, WIDE },
    { "step, F = 128, against oneDNN full layer",    FULL_DNNL, STEP, DENSE, 128, 128, 0, 0, 5, 6, "x", 0, WIDE },
    { "step, F = 64, against OpenBLAS full layer",   FULL_BLAS, STEP, DENSE, 64, 128, 0, 0, 0, 0, "x", 0, WIDE },
    { "weight gradient against oneDNN bottleneck", BOTTLENECK_DNNL, GRAD_WEIGHT, TRAIN, 0, 128, 0, 0, .95, 1, "x", 0, WIDE },
    { "input gradient against oneDNN bottleneck",    BOTTLENECK_DNNL, GRAD_X, TRAIN, 0, 128, 0, 0, .8, 1, "x", 0, WIDE },
    { "step, S = 16: time over S = 32",              NARROW, STEP, TRAIN, 0, 128, 0, 0, 1.15, 1.08, "x", 1, WIDE },
    { "bfloat16 forward against float32",            HALF, FORWARD, TRAIN, 0, 128, 0, 0, 1.3, 1.9, "x", 0, WIDE },
    { "bfloat16 forward, bf16_dot, against float32", HALF_DOT, FORWARD, TRAIN, 0, 128, 0, 0, 1.6, 1.9, "x", 0, WIDE },
    { "bfloat16 top-k, B = 1, against float32",      HALF, TOP_K, TOPK, 0, 1, 1, 0, 1.3, 1.9, "x", 0, WIDE },
    { "step, two threads against one",               SECOND_CORE, STEP, TRAIN, 0, 128, 0, 0, 1.85, 0, "x", 0, WIDE },
    { "  the same, every B, S and type",             SECOND_CORE, STEP, TRAIN, 0, 0, 0, 0, 1.85, 0, "x", 0, EVERY },
    { "forward, two threads against one",            SECOND_CORE, FORWARD, TRAIN, 0, 128, 0, 0, 1.85, 0, "x", 0, WIDE },
    { "  the same, every B, S and type",             SECOND_CORE, FORWARD, TRAIN, 0, 0, 0, 0, 1.85, 0, "x", 0, EVERY },
    { "top-k, B = 1: share of a plain read",         READING, TOP_K, TOPK, 64, 1, 1, 670080, .75, 0, "", 0, WIDE },
    { "  the same, every S and F",                   READING, TOP_K, TOPK, 0, 1, 1, 670080, .75, 0, "", 0, ALL_F32 },
    { "  the same, bfloat16, every S and F",         READING, TOP_K, TOPK, 0, 1, 1, 670080, .75, 0, "", 0, ALL_BF16 },
    { "top-k, B >= 32: time over the forward",       SEARCH, TOP_K, TRAIN, 0, 32, 0, 0, 1.15, 0, "x", 1, WIDE },
    { "memory added by a step, B = 128, MB",         MEMORY, STEP, TRAIN, 0, 128, 128, 0, 10, 5, "MB", 1, WIDE },
};

static void print_request(const char *text, double *values, int n, double least, double stretch, const char *unit, int cost)
{
    const double factor = unit[0] ? 1 : 100;
    const char *verdict = "missed";
    double worst, best, middle = median(values, n);
    char asked[64];
    if (!unit[0]) unit = "%";
    worst = values[cost ? n - 1 : 0];
    best = values[cost ? 0 : n - 1];
    if (least == 0) verdict = "";
    else if (cost ? worst <= least : worst >= least) verdict = "reached";
    else if (cost ? middle <= least : middle >= least) verdict = "missed by the worst, reached by the median";
    if (stretch > 0)
        snprintf(asked, sizeof asked, "%s %.4g%s (%.4g%s)", cost ? "<=" : ">=", least * factor, unit, stretch * factor,
                 unit);
    else if (least > 0) snprintf(asked, sizeof asked, "%s %.4g%s", cost ? "<=" : ">=", least * factor, unit);
    else snprintf(asked, sizeof asked, "-");
    printf("%-48s %-18s %8.2f %8.2f %8.2f %-3s %3d  %s\n", text, asked, worst * factor, middle * factor, best * factor, unit,
           n, verdict);
    if (csv)
        fprintf(csv, "# asked,\"%s\",%s,%.3f,%.3f,%.3f,%d\n", text, asked, worst * factor, middle * factor, best * factor,
                n);
}

static void print_requests(void)
{
    static double values[MOST_ROWS];
    int i, j, n;
    printf("\nasked and got, float32, S >= 32 but where it says otherwise (in brackets: better still; worst, median and "
           "best of the tables above)\n"
           "%-48s %-18s %8s %8s %8s %7s\n",
           "", "asked", "worst", "median", "best", "of");
    for (i = 0; i < (int)(sizeof requests / sizeof requests[0]); i++) {
        const request *q = &requests[i];
        for (j = 0, n = 0; j < row_count; j++) {
            const row *r = &rows[j];
            if (!judged(q, r->entry) || r->operation != q->operation) continue;
            if (r->shape.part != q->part || r->shape.B < q->batch || (q->most_batch && r->shape.B > q->most_batch)) continue;
            if ((q->fan_in && r->fan_in != q->fan_in) || (q->labels && r->shape.L != q->labels)) continue;
            values[n] = figure(q->what, r);
            if (values[n] > 0) n++;
        }
        if (n > 0) print_request(q->text, values, n, q->least, q->stretch, q->unit, q->cost);
    }
    for (i = 0; i < rewiring_count; i++) {
        const rewiring *r = &rewirings[i];
        char text[64];
        values[0] = r->random;
        snprintf(text, sizeof text, "rewire, random growth, F = %d, %d thread%s", (int)r->F, r->threads,
                 r->threads == 1 ? "" : "s");
        print_request(text, values, 1, 2, 0, " steps", 1);
        values[0] = r->gradient;
        snprintf(text, sizeof text, "rewire, gradient growth, F = %d, %d thread%s", (int)r->F, r->threads,
                 r->threads == 1 ? "" : "s");
        print_request(text, values, 1, D / (3. * r->F) + 2, 0, " steps", 1);
    }
}

/* ---- >>main ---------------------------------------------------------------------------------------------------- */

static void print_machine(FILE *out, const char *before)
{
    char line[256], model[256] = "unknown", date[64];
    time_t now = time(NULL);
    FILE *info = fopen("/proc/cpuinfo", "r");
    while (info && fgets(line, sizeof line, info))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            snprintf(model, sizeof model, "%s", strchr(line, ':') + 2);
            model[strcspn(model, "\n")] = 0;
            break;
        }
    if (info) fclose(info);
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime(&now));
    fprintf(out, "%shaste %d.%d.%d, %s\n", before, HASTE_VERSION_MAJOR, HASTE_VERSION_MINOR, HASTE_VERSION_PATCH, date);
    fprintf(out, "%smachine   %s, %ld processors, haste runs on %s\n", before, model, sysconf(_SC_NPROCESSORS_ONLN),
            haste_path_text(haste_path_best()));
#if defined(__clang__)
    fprintf(out, "%scompiler  %s\n", before, __VERSION__);
#elif defined(__GNUC__)
    fprintf(out, "%scompiler  gcc %s\n", before, __VERSION__);
#endif
    fprintf(out, "%sflags     haste: %s; per-label fixed fan-in, and around the libraries: %s\n", before, BENCH_FLAGS,
            BENCH_BASELINE);
    fprintf(out, "%sOpenBLAS  %s\n", before,
            library_version(OPENBLAS) ? library_version(OPENBLAS) : "not found when this was built");
    fprintf(out, "%soneDNN    %s\n", before,
            library_version(ONEDNN) ? library_version(ONEDNN) : "not found when this was built");
    fprintf(out, "%sdata      x uniform in +-1, %d labels a sample, seed %d; SGD, binary cross-entropy\n", before,
            (int)POSITIVES, (int)SEED);
}

static void print_ceilings(void)
{
    const int64_t bytes = (int64_t)1 << 27, rounds = 4000000;
    char *from = (char *)need((size_t)bytes, 1), *to = (char *)need((size_t)bytes, 1);
    int t, r, i;
    memset(from, 0, (size_t)bytes);
    memset(to, 0, (size_t)bytes);
    for (t = 1; t <= most_threads; t++) {
        double seconds[3][9];
        for (r = 0; r < 9; r++) for (i = 0; i < 3; i++) {
            double begin = bench_seconds();
            if (i == 0) run_fma(rounds, t);
            else if (i == 1) run_read(from, bytes, t);
            else run_copy(to, from, bytes, t);
            seconds[i][r] = bench_seconds() - begin;
        }
        {
            const double fma_rate = fma_flops(rounds, t) / median(seconds[0], 9) * 1e-9,
                         reads = (double)bytes / median(seconds[1], 9) * 1e-9;
            const double copies = 2 * (double)bytes / median(seconds[2], 9) * 1e-9;
            if (t == 1) one_thread_peak = fma_rate * 1e9;
            printf("ceiling   %d thread%s %.0f GFLOP/s multiply-add in registers, %.1f GB/s read of 128 MiB, %.1f GB/s copy "
                   "(read and written)\n",
                   t, t == 1 ? ": " : "s:", fma_rate, reads, copies);
            if (csv)
                fprintf(csv, "# ceiling %d threads: %.1f GFLOP/s, %.2f GB/s read, %.2f GB/s copy\n", t, fma_rate, reads,
                        copies);
        }
    }
    haste__release(from);
    haste__release(to);
}

static void print_notes(void)
{
    printf("\n"
           "%%          share of the multiply-add peak measured in the same repetitions; 2*B*L*F flops a pass, 6 a step:\n"
           "           transposing, sigmoid and update take time but count nothing\n"
           "x          time relative to the first row of the same table: above 1 haste is faster; unfused steps: to its\n"
           "           fused step\n"
           "step       forward, loss gradient, weight and input gradient, update; unfused: through a [B, L] array\n"
           "added      MiB that a step needs beside weights, biases and indices, by account; growth: of the process's peak\n"
           "           memory over the making of scratch and the first step, measured (what a library holds for itself is\n"
           "           counted where it first makes it)\n"
           "error      the largest of all operations against double precision, relative to the largest value; above 2^24\n"
           "           weights for 64 labels\n"
           "per-label  each label has its own inputs; logits stay label-major, which spares it a transposition\n"
           "bottleneck a dense layer of equal work: it reads only F inputs; the full layer reads all %d and does\n"
           "           %d/F times the work. Forward is the product alone; in the step the bias is in the loss, the\n"
           "           update in the product that makes the weight gradient (packed: after it). bfloat16: its weights\n"
           "           are rounded to nearest, which loses small updates; haste rounds stochastically\n"
           "bf16_dot   with that option of the workspace: x rounded to bfloat16 too, AVX512-BF16\n"
           "plain read of as many bytes as there are weights, allocated like them\n"
           "padding    of odd shapes: labels in whole vectors of 16 within their groups, samples in whole blocks of 32;\n"
           "           x padded: time per operation, padding counted, relative to the first row: above 1 is lost beside\n"
           "           padding\n"
           "threads    OpenMP's defaults; OPENBLAS_THREAD_TIMEOUT=8, so that OpenBLAS's idle threads sleep\n",
           (int)D, (int)D);
}

static int run(const shape *s)
{
    if (s->part == REWIRE) return compare_rewiring(s);
    return compare(s);
}

/* The slowest tables are shown well enough by the others: one thread with the most work, and most of B = 512. */
static int too_slow(const shape *s)
{
    const int large = s->L > 131072, most = s->threads == most_threads;
    if (everything) return 0;
    if (s->part == DENSE) return (large && (s->B != 128 || !most)) || (s->B == 512 && !most);
    return s->part == TRAIN && ((s->F == 128 && !most && (s->B == 512 || (large && s->B == 128))) ||
                                (large && s->B == 512 && (s->F == 128 || !most)));
}

/* A table, or, where it is left out, one name more in the list of those. */
static char   left_out[2048];
static size_t left_out_length;

static int run_or_name(const shape *s, int parts)
{
    int n;
    if (!(parts & (int)s->part)) return 1;
    if (!too_slow(s)) return run(s);
    n = snprintf(left_out + left_out_length, sizeof left_out - left_out_length,
                 "           %-5s L = %ld, F = %d, B = %d, %d thread%s\n", part_name(s->part), (long)s->L, (int)s->F,
                 (int)s->B, s->threads, s->threads == 1 ? "" : "s");
    if (n > 0 && left_out_length + (size_t)n < sizeof left_out) left_out_length += (size_t)n;
    return 1;
}

static void print_left_out(int parts)
{
    if (everything || !(parts & (TRAIN | DENSE))) return;
    printf("\nleft out   to keep this under 15 minutes; make bench ARGS=--full runs it all\n%s", left_out);
    if (parts & TRAIN)
        printf("           in tables of more than 131072 labels, or of B = 512: gradients alone but of S = 32 in float32;\n"
               "           bfloat16 but of S = 32; unfused steps; gradients and unfused steps per label; packed weights\n"
               "           in tables of 131072 labels and B = 32: gradients alone but of S = 32\n");
    if (parts & DENSE)
        printf("           dense, more than 131072 labels: all but the step; OpenBLAS, and oneDNN's [F, L]\n");
}

/* All shapes of the full run, in parts; those that take longest with the fewest repetitions. */
static int run_parts(int parts, const shape *only)
{
    static const int64_t sizes[] = { 131072, 670080 };
    static const int32_t fans[] = { 64, 128 }, batches[] = { 128, 32, 512 };
    int i, f, b, t, ok = 1;
    int64_t L;
    if (only) return run(only);
    for (i = 0; i < 2; i++) for (f = 0; f < 2; f++) for (b = 0; b < 3; b++) for (t = 1; t <= most_threads; t++) {
        const shape s = { TRAIN, sizes[i], fans[f], batches[b], t, batches[b] == 32 ? 3 : 8 };
        ok &= run_or_name(&s, parts);
    }
    for (i = 0; i < 2; i++) for (b = 0; b < 3; b++) for (t = 1; t <= most_threads; t++) {
        const shape s = { DENSE, sizes[i], 64, batches[b], t, 3 };
        ok &= run_or_name(&s, parts);
    }
    for (i = 0; i < 2; i++) for (f = 0; f < 2; f++) for (t = 1; t <= most_threads; t++) {
        const shape s = { TOPK, sizes[i], fans[f], 1, t, 3 };
        ok &= run_or_name(&s, parts);
    }
    for (L = 16384; L <= 1048576; L *= 2) {
        const shape s = { SCALE, L, 64, 128, most_threads, 1 };
        ok &= run_or_name(&s, parts);
    }
    if (parts & ODD) ok &= compare_odd(131072);
    if (parts & REWIRE) printf("\n");
    for (f = 0; f < 2; f++) for (t = 1; t <= most_threads; t++) {
        const shape s = { REWIRE, 131072, fans[f], 128, t, 0 };
        ok &= run_or_name(&s, parts);
    }
    for (t = 1; t <= most_threads; t++) if (parts & REWIRE) compare_grouping(65536, t);
    return ok;
}

static int run_quick(void)
{
    static const shape shapes[] = {
        { TRAIN, 4096, 64, 40, 1, 0 }, { TRAIN, 2048, 24, 33, 2, 0 },  { DENSE, 2048, 64, 40, 2, 0 },
        { TOPK, 4096, 64, 1, 1, 0 },   { SCALE, 2048, 64, 128, 2, 0 }, { REWIRE, 4096, 64, 128, 2, 0 },
    };
    int i, ok = 1;
    everything = 1;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) {
        shape s = shapes[i];
        if (s.threads > most_threads) s.threads = most_threads;
        ok &= run(&s);
    }
    ok &= compare_odd(4096);
    compare_grouping(2048, most_threads);
    return ok;
}

int main(int argc, char **argv)
{
    const char *csv_path = NULL;
    int quick = 0, ok, i, p, parts = 0, bad = 0;
    long given[4] = { 0, 0, 0, 0 };
    shape only;

    for (i = 1; i < argc && !bad; i++) {
        if (strcmp(argv[i], "--quick") == 0) quick = 1;
        else if (strcmp(argv[i], "--full") == 0) everything = 1;
        else if (strcmp(argv[i], "--csv") == 0 && i + 1 < argc) csv_path = argv[++i];
        else if (strcmp(argv[i], "--part") == 0 && i + 1 < argc) {
            for (i++, p = TRAIN, bad = 1; p <= REWIRE; p *= 2)
                if (strcmp(argv[i], part_name((part)p)) == 0) {
                    parts |= p;
                    bad = 0;
                }
        } else if (strcmp(argv[i], "--shape") == 0 && i + 1 < argc &&
                   sscanf(argv[++i], "%ld,%ld,%ld,%ld", given, given + 1, given + 2, given + 3) == 4)
            bad = given[0] < 1024 || given[0] % 128 != 0 || given[0] > 1 << 30 || given[1] < 1 || given[1] > 128 ||
                  given[2] < 1 || given[2] > 4096 || given[3] < 1 || given[3] > 64;
        else bad = 1;
    }
    if (given[0] && (parts & (parts - 1) || !parts || parts == ODD)) bad = 1;
    if (bad) {
        const int help = strcmp(argv[argc - 1], "--help") == 0;
        fprintf(help ? stdout : stderr, "usage: haste-bench [--quick] [--full] [--part train|dense|topk|scale|odd|rewire]..."
                                        " [--shape L,F,B,THREADS] [--csv FILE]\n"
                                        "       --full: nothing is left out to save time; --shape: one shape of one part "
                                        "(not of odd), L a multiple of 128 from 1024, F at most 128\n");
        return help ? 0 : 2;
    }
    /* OpenBLAS reads this before main: how long its idle threads spin, 2^8 cycles instead of 2^26. Otherwise they take the
       cores from the loss gradient between two of its products, and from the next contestant. */
    if (library_version(OPENBLAS) && !getenv("OPENBLAS_THREAD_TIMEOUT")) {
        setenv("OPENBLAS_THREAD_TIMEOUT", "8", 1);
        execv("/proc/self/exe", argv);
    }
    if (csv_path && !(csv = fopen(csv_path, "w"))) {
        fprintf(stderr, "haste-bench: %s: cannot write\n", csv_path);
        return 1;
    }
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 18);   /* what is freed is given back, so that growth of memory can be measured */
#endif
#ifdef _OPENMP
    if (omp_get_num_procs() > 1) most_threads = 2;
#endif
    print_machine(stdout, "");
    if (csv) {
        print_machine(csv, "# ");
        fprintf(csv, "part,labels,inputs,fan_in,batch,threads,name,operation,median_ms,min_ms,max_ms,runs,gflops,peak_share,"
                     "ratio,added_mib,growth_mib,error\n");
    }
    print_ceilings();
    fflush(stdout);
    only.part = (part)parts;
    only.L = given[0];
    only.F = (int32_t)given[1];
    only.B = (int32_t)given[2];
    only.threads = (int)given[3];
    only.seconds = 5;
    if (!parts) parts = TRAIN | DENSE | TOPK | SCALE | ODD | REWIRE;
    ok = quick ? run_quick() : run_parts(parts, given[0] ? &only : NULL);
    if (!quick) print_requests();
    if (!quick && !given[0]) print_left_out(parts);
    print_notes();
    if (csv && fclose(csv) != 0) ok = 0;
    if (!ok) fprintf(stderr, "haste-bench: a check failed: the numbers above are not to be used\n");
    return !ok;
}
