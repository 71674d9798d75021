/* bench_cpu: one table of the layer on this machine's CPU, beside what one would use instead. Every contestant is checked
   against double precision before anything is timed; all of them take turns, and what is shown are medians.

       make bench                                  the whole table, about three minutes
       make bench ARGS="--csv bench/results/x.csv"
       make bench ARGS="--shape 131072,128,2"      one shape: L, B, threads
       make bench ARGS=--quick                     a small one, seconds; its numbers mean little

   haste is compiled as its users compile it (make's CFLAGS, no -march); baseline.c gets -march=native -ffast-math. */
#define _POSIX_C_SOURCE 200809L
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "baseline.h"

#include <time.h>
#include <unistd.h>

#ifndef BENCH_FLAGS
    #define BENCH_FLAGS "unknown"
#endif
#ifndef BENCH_BASELINE
    #define BENCH_BASELINE "unknown"
#endif

enum { D = 768, F = 64, POSITIVES = 4, SEED = 1, MOST = 16, MOST_RUNS = 31, SAMPLED = 64 };
enum { FORWARD, BACKWARD, STEP, OPERATIONS };
static const char *const operation_name[OPERATIONS] = { "forward", "backward", "step" };

static void *need(size_t count, size_t width)
{
    void *memory = haste__allocate(count * width);
    if (!memory) { fprintf(stderr, "bench_cpu: out of memory (%.0f MiB)\n", (double)count * (double)width / 1048576); exit(1); }
    return memory;
}

static void must(haste_status status, const haste_error *error)
{
    if (status == HASTE_OK) return;
    fprintf(stderr, "bench_cpu: %s\n", error->text);
    exit(1);
}

static float number(uint64_t stream, int64_t i) { return 2 * haste__uniform(haste__random(SEED, 1000 + stream, (uint64_t)i)) - 1; }

/* ---- >>problem ------------------------------------------------------------------------------------------------- */

/* One shape: a batch, its labels, and gradients for the backward pass, in both layouts that contestants like. */
static struct problem {
    int64_t  L;
    int32_t  B, padded;
    int      threads;
    float   *x, *narrow;           /* [B, D], and its first F columns for the bottleneck */
    float   *grad, *grad_t;        /* [B, L] and [L][padded] */
    float   *out;                  /* [B, L] or [L][padded]: logits */
    int64_t *offset, *by_label;    /* [B+1] labels of samples; [L+1] samples of labels */
    int32_t *id, *sample;
} P;

static void make_problem(int64_t L, int32_t B, int threads)
{
    int64_t i, l, n = (int64_t)B * POSITIVES, *fill;
    int32_t b, d;
    P.L = L;
    P.B = B;
    P.padded = (B + 31) / 32 * 32;
    P.threads = threads;
    P.x = (float *)need((size_t)B * D, sizeof(float));
    P.narrow = (float *)need((size_t)B * F, sizeof(float));
    P.grad = (float *)need((size_t)(B * L), sizeof(float));
    P.grad_t = (float *)need((size_t)(P.padded * L), sizeof(float));
    P.out = (float *)need((size_t)(P.padded * L), sizeof(float));
    P.offset = (int64_t *)need((size_t)B + 1, sizeof(int64_t));
    P.by_label = (int64_t *)need((size_t)L + 1, sizeof(int64_t));
    P.id = (int32_t *)need((size_t)n, sizeof(int32_t));
    P.sample = (int32_t *)need((size_t)n, sizeof(int32_t));
    for (i = 0; i < (int64_t)B * D; i++) P.x[i] = number(1, i);
    for (b = 0; b < B; b++) for (d = 0; d < F; d++) P.narrow[b * F + d] = P.x[b * D + d];
    memset(P.grad_t, 0, (size_t)(P.padded * L) * sizeof(float));
    for (b = 0; b < B; b++) for (l = 0; l < L; l++) P.grad[b * L + l] = P.grad_t[l * P.padded + b] = number(2, b * L + l);
    /* Labels of a sample lie in different quarters, so none comes twice. */
    for (b = 0; b <= B; b++) P.offset[b] = (int64_t)b * POSITIVES;
    for (i = 0; i < n; i++)
        P.id[i] = (int32_t)(i % POSITIVES * (L / POSITIVES) + haste__below(haste__random(SEED, 3, (uint64_t)i), (uint32_t)(L / POSITIVES)));
    memset(P.by_label, 0, ((size_t)L + 1) * sizeof(int64_t));
    for (i = 0; i < n; i++) P.by_label[P.id[i] + 1]++;
    for (l = 0; l < L; l++) P.by_label[l + 1] += P.by_label[l];
    fill = (int64_t *)need((size_t)L, sizeof(int64_t));
    memcpy(fill, P.by_label, (size_t)L * sizeof(int64_t));
    for (b = 0; b < B; b++) for (i = P.offset[b]; i < P.offset[b + 1]; i++) P.sample[fill[P.id[i]]++] = b;
    haste__release(fill);
}

static void free_problem(void)
{
    haste__release(P.x); haste__release(P.narrow); haste__release(P.grad); haste__release(P.grad_t); haste__release(P.out);
    haste__release(P.offset); haste__release(P.by_label); haste__release(P.id); haste__release(P.sample);
}

/* ---- >>contestants --------------------------------------------------------------------------------------------- */

typedef enum kind { HASTE, PER_LABEL, BLAS } kind;

typedef struct contestant {
    kind            kind;
    char            name[48];
    int32_t         width, fan_in;      /* inputs of the layer; inputs of one label */
    haste_layer     layer;
    haste_workspace work;
    haste_gradient  gradient;
    fan_in          per_label;
    blas_layer      blas;
    float          *grad_x;             /* [B, width] */
    double          extra;              /* bytes that a training step holds beside weights, biases and indices */
    double          error[OPERATIONS];  /* largest, against double, relative to the largest value */
    double          seconds[OPERATIONS][MOST_RUNS];
} contestant;

static const float *input(const contestant *c) { return c->width == D ? P.x : P.narrow; }

static void make_haste(contestant *c, const char *name, int32_t S, int32_t width, int32_t fan, haste_dtype dtype)
{
    haste_layer_options options;
    haste_workspace_options scratch;
    haste_error error;
    memset(c, 0, sizeof *c);
    memset(&options, 0, sizeof options);
    memset(&scratch, 0, sizeof scratch);
    c->kind = HASTE;
    snprintf(c->name, sizeof c->name, "%s", name);
    c->width = width;
    c->fan_in = fan == HASTE_DENSE ? width : fan;
    options.labels = (int32_t)P.L;
    options.inputs = width;
    options.block_count = 1;
    options.block[0].group_size = S;
    options.block[0].fan_in = fan;
    options.dtype = dtype;
    options.seed = SEED;
    scratch.batch = P.B;
    scratch.threads = P.threads;
    must(haste_layer_create(&c->layer, &options, &error), &error);
    must(haste_workspace_create(&c->work, &c->layer, &scratch, &error), &error);
    must(haste_gradient_create(&c->gradient, &c->layer, &error), &error);
    c->grad_x = (float *)need((size_t)P.B * (size_t)width, sizeof(float));
    c->extra = (double)c->work.bytes;
}

static void make_per_label(contestant *c)
{
    fan_in *p = &c->per_label;
    const int64_t n = P.L * F, batch = (int64_t)D * P.padded;
    int64_t l, i;
    memset(c, 0, sizeof *c);
    c->kind = PER_LABEL;
    snprintf(c->name, sizeof c->name, "per-label fixed fan-in");
    c->width = D;
    c->fan_in = F;
    p->L = P.L;
    p->D = D;
    p->F = F;
    p->B = P.B;
    p->padded = P.padded;
    p->threads = P.threads;
    p->index = (uint16_t *)need((size_t)n, sizeof(uint16_t));
    p->weight = (float *)need((size_t)n, sizeof(float));
    p->grad_weight = (float *)need((size_t)n, sizeof(float));
    p->bias = (float *)need((size_t)P.L, sizeof(float));
    p->xt = (float *)need((size_t)batch, sizeof(float));
    p->grad_xt = (float *)need((size_t)(batch * P.threads), sizeof(float));
    p->offset = P.by_label;
    p->sample = P.sample;
    memset(p->bias, 0, (size_t)P.L * sizeof(float));
    memset(p->grad_weight, 0, (size_t)n * sizeof(float));
    for (i = 0; i < n; i++) p->weight[i] = number(4, i) / 8;   /* 1 / sqrt(F) */
    for (l = 0; l < P.L; l++) {   /* distinct and ascending: D cut into F parts, one input from each */
        for (i = 0; i < F; i++)
            p->index[l * F + i] = (uint16_t)(i * (D / F) + (int64_t)haste__below(haste__random(SEED, 5, (uint64_t)(l * F + i)), D / F));
    }
    c->grad_x = (float *)need((size_t)P.B * D, sizeof(float));
    c->extra = (double)batch * 4 * (1 + P.threads);
}

static void make_blas(contestant *c)
{
    blas_layer *p = &c->blas;
    const int64_t n = P.L * F;
    int64_t i;
    memset(c, 0, sizeof *c);
    c->kind = BLAS;
    snprintf(c->name, sizeof c->name, "OpenBLAS bottleneck, %d inputs", (int)F);
    c->width = c->fan_in = F;
    p->L = P.L;
    p->F = F;
    p->B = P.B;
    p->threads = P.threads;
    p->weight = (float *)need((size_t)n, sizeof(float));
    p->grad_weight = (float *)need((size_t)n, sizeof(float));
    p->bias = (float *)need((size_t)P.L, sizeof(float));
    p->offset = P.by_label;
    p->sample = P.sample;
    memset(p->bias, 0, (size_t)P.L * sizeof(float));
    memset(p->grad_weight, 0, (size_t)n * sizeof(float));
    for (i = 0; i < n; i++) p->weight[i] = number(4, i) / 8;
    c->grad_x = (float *)need((size_t)P.B * F, sizeof(float));
    c->extra = 4.0 * ((double)P.B * (double)P.L + (double)n);   /* logits, and the weight gradient */
}

static void free_contestant(contestant *c)
{
    haste_layer_free(&c->layer);
    haste_workspace_free(&c->work);
    haste_gradient_free(&c->gradient);
    haste__release(c->per_label.index); haste__release(c->per_label.weight); haste__release(c->per_label.grad_weight);
    haste__release(c->per_label.bias); haste__release(c->per_label.xt); haste__release(c->per_label.grad_xt);
    haste__release(c->blas.weight); haste__release(c->blas.grad_weight); haste__release(c->blas.bias);
    haste__release(c->grad_x);
}

static void perform(contestant *c, int operation)
{
    const float lr = .01f;
    haste_error error;
    if (c->kind == HASTE) {
        haste_step_options step;
        haste_lists positives;
        memset(&step, 0, sizeof step);
        step.lr = lr;
        positives.offset = P.offset;
        positives.id = P.id;
        if (operation == FORWARD) must(haste_forward(&c->layer, &c->work, input(c), P.B, P.out, &error), &error);
        else if (operation == BACKWARD)
            must(haste_backward(&c->layer, &c->work, input(c), P.B, P.grad, &c->gradient, c->grad_x, &error), &error);
        else must(haste_train_step(&c->layer, &c->work, input(c), P.B, positives, &step, NULL, c->grad_x, &error), &error);
    } else if (c->kind == PER_LABEL) {
        if (operation == FORWARD) fan_in_forward(&c->per_label, input(c), P.out);
        else if (operation == BACKWARD) fan_in_backward(&c->per_label, input(c), P.grad_t, c->grad_x);
        else fan_in_step(&c->per_label, input(c), lr, c->grad_x);
    } else {
        if (operation == FORWARD) blas_forward(&c->blas, input(c), P.out);
        else if (operation == BACKWARD) blas_backward(&c->blas, input(c), P.grad, c->grad_x);
        else blas_step(&c->blas, input(c), lr, P.out, c->grad_x);
    }
}

/* ---- >>checks -------------------------------------------------------------------------------------------------- */

/* The same questions to every contestant: where the f-th weight of label l is, which input it reads. */
static int64_t place(const contestant *c, int64_t l, int32_t f)
{
    const int64_t S = c->layer.block[0].group_size;
    if (c->kind == HASTE) return (l / S * c->fan_in + f) * S + l % S;
    return c->kind == PER_LABEL ? l * c->fan_in + f : f * P.L + l;
}

static double weight_of(const contestant *c, int64_t l, int32_t f)
{
    const int64_t i = place(c, l, f);
    if (c->kind == PER_LABEL) return (double)c->per_label.weight[i];
    if (c->kind == BLAS) return (double)c->blas.weight[i];
    if (c->layer.dtype == HASTE_BF16) return (double)haste__from_bf16(((const uint16_t *)c->layer.block[0].weight)[i]);
    return (double)((const float *)c->layer.block[0].weight)[i];
}

static double gradient_of(const contestant *c, int64_t l, int32_t f)
{
    const int64_t i = place(c, l, f);
    return (double)(c->kind == HASTE ? c->gradient.weight[0][i] : c->kind == PER_LABEL ? c->per_label.grad_weight[i] : c->blas.grad_weight[i]);
}

static int32_t input_of(const contestant *c, int64_t l, int32_t f)
{
    if (c->kind == HASTE && c->layer.block[0].index) return c->layer.block[0].index[l / c->layer.block[0].group_size * c->fan_in + f];
    return c->kind == PER_LABEL ? c->per_label.index[l * F + f] : f;
}

static double logit_in_double(const contestant *c, int32_t b, int64_t l)   /* all biases are 0 when this is asked */
{
    double z = 0;
    int32_t f;
    for (f = 0; f < c->fan_in; f++) z += weight_of(c, l, f) * (double)input(c)[b * c->width + input_of(c, l, f)];
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

/* The gradient for one sample's input, from given slopes of its logits. */
static void grad_x_in_double(const contestant *c, const double *slope, double *want)
{
    int64_t l;
    int32_t f;
    memset(want, 0, (size_t)c->width * sizeof(double));
    for (l = 0; l < P.L; l++) for (f = 0; f < c->fan_in; f++) want[input_of(c, l, f)] += slope[l] * weight_of(c, l, f);
}

/* Some labels (the last one too) and one sample in full. */
static int check(contestant *c)
{
    const int32_t one = P.B - 1;
    double *got = (double *)need((size_t)SAMPLED * (size_t)(c->fan_in + P.B), sizeof(double));
    double *want = (double *)need((size_t)SAMPLED * (size_t)(c->fan_in + P.B), sizeof(double));
    double *slope = (double *)need((size_t)P.L, sizeof(double)), *x_got = (double *)need(D, sizeof(double)), *x_want = (double *)need(D, sizeof(double));
    double limit = 1e-4, bound;
    int64_t label[SAMPLED], l, n;
    int32_t b, f, s;
    int ok;

    for (s = 0; s < SAMPLED; s++) label[s] = s == 0 ? P.L - 1 : s <= POSITIVES ? P.id[s] : (P.L * s / SAMPLED + s * 7) % P.L;

    for (l = 0; l < P.L * P.padded; l++) P.out[l] = 1e9f;
    perform(c, FORWARD);
    for (s = 0, n = 0; s < SAMPLED; s++) for (b = 0; b < P.B; b++, n++) {
        got[n] = (double)(c->kind == PER_LABEL ? P.out[label[s] * P.padded + b] : P.out[b * P.L + label[s]]);
        want[n] = logit_in_double(c, b, label[s]);
    }
    c->error[FORWARD] = worst_error(got, want, n);

    memset(c->grad_x, 0, (size_t)P.B * (size_t)c->width * sizeof(float));
    perform(c, BACKWARD);
    for (s = 0, n = 0; s < SAMPLED; s++) for (f = 0; f < c->fan_in; f++, n++) {
        got[n] = gradient_of(c, label[s], f);
        for (b = 0, want[n] = 0; b < P.B; b++)
            want[n] += (double)P.grad[b * P.L + label[s]] * (double)input(c)[b * c->width + input_of(c, label[s], f)];
    }
    c->error[BACKWARD] = worst_error(got, want, n);
    for (l = 0; l < P.L; l++) slope[l] = (double)P.grad[one * P.L + l];
    grad_x_in_double(c, slope, x_want);
    for (f = 0; f < c->width; f++) x_got[f] = (double)c->grad_x[one * c->width + f];
    bound = worst_error(x_got, x_want, c->width);
    if (!(bound <= c->error[BACKWARD])) c->error[BACKWARD] = bound;

    /* The step: its input gradient, and how far the weights of the sampled labels moved. bfloat16 moves by whole units, so there
       only the gradient is judged, and each weight has to be within a unit of its place. */
    for (l = 0; l < P.L; l++) slope[l] = slope_in_double(logit_in_double(c, one, l), one, l);
    grad_x_in_double(c, slope, x_want);
    for (s = 0, n = 0; s < SAMPLED; s++) {
        double *moves = x_got;   /* [B] slopes, for a moment */
        for (b = 0; b < P.B; b++) moves[b] = slope_in_double(logit_in_double(c, b, label[s]), b, label[s]);
        for (f = 0; f < c->fan_in; f++, n++) {
            double g = 0;
            for (b = 0; b < P.B; b++) g += moves[b] * (double)input(c)[b * c->width + input_of(c, label[s], f)];
            want[n] = weight_of(c, label[s], f) - .01 * g;
        }
    }
    memset(c->grad_x, 0, (size_t)P.B * (size_t)c->width * sizeof(float));
    perform(c, STEP);
    for (s = 0, n = 0, ok = 1; s < SAMPLED; s++) for (f = 0; f < c->fan_in; f++, n++) {
        double unit = c->kind == HASTE && c->layer.dtype == HASTE_BF16 ? fabs(want[n]) / 128 : fabs(want[n]) * 1e-6;
        if (!(fabs(weight_of(c, label[s], f) - want[n]) <= unit + 1e-7)) ok = 0;
    }
    for (f = 0; f < c->width; f++) x_got[f] = (double)c->grad_x[one * c->width + f];
    c->error[STEP] = worst_error(x_got, x_want, c->width);

    if (!ok) fprintf(stderr, "bench_cpu: %s: a weight is not where a step should have put it\n", c->name);
    for (s = 0; s < OPERATIONS; s++)
        if (!(c->error[s] <= limit)) {
            fprintf(stderr, "bench_cpu: %s: %s: relative error %.3g, allowed %.3g\n", c->name, operation_name[s], c->error[s], limit);
            ok = 0;
        }
    haste__release(got); haste__release(want); haste__release(slope); haste__release(x_got); haste__release(x_want);
    return ok;
}

/* ---- >>table --------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void pause_briefly(void)   /* waiting threads of the last contestant go to sleep */
{
    struct timespec t = { 0, 2000000 };
    nanosleep(&t, NULL);
}

static int compare(int64_t L, int32_t B, int threads, int runs, int dense, FILE *csv)
{
    static contestant c[MOST];
    static const int32_t sizes[] = { 16, 32, 64 };
    int n = 0, i, r, operation, reference = 1, ok = 1, type;
    char name[48];

    make_problem(L, B, threads);
    for (type = 0; type < 2; type++) for (i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "haste S=%d %s", (int)sizes[i], type ? "bf16" : "f32");
        make_haste(&c[n++], name, sizes[i], D, F, type ? HASTE_BF16 : HASTE_F32);
    }
    make_per_label(&c[n++]);
    snprintf(name, sizeof name, "haste bottleneck, %d inputs", (int)F);
    make_haste(&c[n++], name, 32, F, HASTE_DENSE, HASTE_F32);
    if (blas_found()) make_blas(&c[n++]);
    if (dense) {
        snprintf(name, sizeof name, "haste dense layer, %d inputs", (int)D);
        make_haste(&c[n++], name, 32, D, HASTE_DENSE, HASTE_F32);
    }
    for (i = 0; i < n; i++) ok &= check(&c[i]);
    for (r = 0; r < runs; r++) for (i = 0; i < n; i++) for (operation = 0; operation < OPERATIONS; operation++) {
        double begin;
        pause_briefly();
        begin = bench_seconds();
        perform(&c[i], operation);
        c[i].seconds[operation][r] = bench_seconds() - begin;
    }
    for (i = 0; i < n; i++) for (operation = 0; operation < OPERATIONS; operation++)
        qsort(c[i].seconds[operation], (size_t)runs, sizeof(double), ascending);

    printf("\nL = %ld, D = %d, F = %d, B = %d, %d thread%s, median of %d\n", (long)L, (int)D, (int)F, (int)B, threads, threads == 1 ? "" : "s", runs);
    printf("%-30s |      forward ms  GF/s     x |     backward ms  GF/s     x |   train step ms  GF/s     x | extra MiB |   error\n", "");
    for (i = 0; i < n; i++) {
        double worst = 0;
        printf("%-30s |", c[i].name);
        for (operation = 0; operation < OPERATIONS; operation++) {
            const double *s = c[i].seconds[operation], median = s[runs / 2];
            const double flops = (operation == STEP ? 6.0 : operation == BACKWARD ? 4.0 : 2.0) * B * (double)L * c[i].fan_in;
            const double ratio = median / c[reference].seconds[operation][runs / 2];
            if (c[i].error[operation] > worst) worst = c[i].error[operation];
            printf(" %15.2f %5.0f %5.2f |", median * 1e3, flops / median * 1e-9, ratio);
            if (csv) fprintf(csv, "%ld,%d,%d,%d,%d,%s,%s,%.4f,%.4f,%.4f,%.2f,%.3f,%.2f,%.2e\n", (long)L, (int)D, (int)c[i].fan_in, (int)B, threads, c[i].name,
                             operation_name[operation], median * 1e3, s[0] * 1e3, s[runs - 1] * 1e3, flops / median * 1e-9, ratio,
                             c[i].extra / 1048576, c[i].error[operation]);
        }
        printf(" %9.1f | %.1e\n", c[i].extra / 1048576, worst);
    }
    if (!blas_found()) printf("%-30s | not found when this was built\n", "OpenBLAS bottleneck");
    fflush(stdout);
    for (i = 0; i < n; i++) free_contestant(&c[i]);
    free_problem();
    return ok;
}

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
    fprintf(out, "%smachine   %s, %ld processors, haste runs on %s\n", before, model, sysconf(_SC_NPROCESSORS_ONLN), haste_path_text(haste_path_best()));
#if defined(__clang__)
    fprintf(out, "%scompiler  %s\n", before, __VERSION__);
#elif defined(__GNUC__)
    fprintf(out, "%scompiler  gcc %s\n", before, __VERSION__);
#endif
    fprintf(out, "%sflags     haste: %s; per-label fixed fan-in: %s\n", before, BENCH_FLAGS, BENCH_BASELINE);
    fprintf(out, "%sdata      x uniform in +-1, %d labels a sample, seed %d; SGD, binary cross-entropy\n", before, (int)POSITIVES, (int)SEED);
}

static void print_notes(void)
{
    printf("\n"
           "x          time relative to haste S=32 f32 of the same table: above 1 it is haste that is faster\n"
           "GF/s       2*B*L*F a pass, 4 for both gradients, 6 a step; transposing, sigmoid and update take time but count nothing\n"
           "backward   weight and input gradients from given logit gradients; step: forward, loss gradient, backward, update\n"
           "extra      what a training step holds beside weights, biases and indices\n"
           "error      the largest of the three operations against double precision, relative to the largest value\n"
           "per-label  each label has its own inputs; logits stay label-major, which spares it a transposition that haste does\n"
           "bottleneck a dense layer of equal work: it reads only F inputs; the dense layer reads all D and does D/F times the work\n");
}

int main(int argc, char **argv)
{
    static const int64_t all_labels[] = { 131072, 16384 };
    static const int32_t all_batches[] = { 128, 32 };
    const int64_t copy_bytes = (int64_t)1 << 27;
    const char *csv_path = NULL;
    FILE *csv = NULL;
    int quick = 0, ok = 1, most_threads = 1, i, b, t;
    long shape[3] = { 0, 0, 0 };
    char *from, *to;

    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) quick = 1;
        else if (strcmp(argv[i], "--csv") == 0 && i + 1 < argc) csv_path = argv[++i];
        else if (strcmp(argv[i], "--shape") == 0 && i + 1 < argc && sscanf(argv[i + 1], "%ld,%ld,%ld", &shape[0], &shape[1], &shape[2]) == 3 &&
                 shape[0] >= 1024 && shape[0] % 64 == 0 && shape[0] < 1 << 30 && shape[1] >= 1 && shape[1] <= FAN_IN_MOST && shape[2] >= 1 &&
                 shape[2] <= 64) i++;
        else {
            fprintf(stderr, "usage: haste-bench [--quick] [--shape L,B,THREADS] [--csv FILE]\n"
                            "       L a multiple of 64 from 1024, B at most %d\n", (int)FAN_IN_MOST);
            return strcmp(argv[i], "--help") == 0 ? 0 : 2;
        }
    }
    if (csv_path && !(csv = fopen(csv_path, "w"))) {
        fprintf(stderr, "haste-bench: %s: cannot write\n", csv_path);
        return 1;
    }
#ifdef _OPENMP
    if (omp_get_num_procs() > 1) most_threads = 2;
#endif
    print_machine(stdout, "");
    if (csv) {
        print_machine(csv, "# ");
        fprintf(csv, "labels,inputs,fan_in,batch,threads,name,operation,median_ms,min_ms,max_ms,gflops,ratio,extra_mib,error\n");
    }
    from = (char *)need((size_t)copy_bytes, 1);
    to = (char *)need((size_t)copy_bytes, 1);
    memset(from, 1, (size_t)copy_bytes);
    memset(to, 1, (size_t)copy_bytes);
    for (t = 1; t <= most_threads; t++) {
        const double fma_rate = ceiling_fma(t), copy_rate = ceiling_copy(t, to, from, copy_bytes);
        printf("ceiling   %d thread%s  %.0f GFLOP/s multiply-add in registers, %.1f GB/s copy of 128 MiB (read and written)\n", t, t == 1 ? ": " : "s:",
               fma_rate, copy_rate);
        if (csv) fprintf(csv, "# ceiling %d threads: %.1f GFLOP/s, %.2f GB/s\n", t, fma_rate, copy_rate);
    }
    haste__release(from);
    haste__release(to);

    if (shape[0]) ok = compare(shape[0], (int32_t)shape[1], (int)shape[2], 7, shape[0] <= 16384, csv);
    else if (quick) ok = compare(2048, 32, most_threads, 3, 1, csv) && compare(2048, 40, 1, 3, 0, csv);
    else
        for (i = 0; i < 2; i++) for (b = 0; b < 2; b++) for (t = 1; t <= most_threads; t++)
            ok &= compare(all_labels[i], all_batches[b], t, i ? 15 : 7, i == 1, csv);
    print_notes();
    if (csv && fclose(csv) != 0) ok = 0;
    if (!ok) fprintf(stderr, "haste-bench: a check failed: the numbers above are not to be used\n");
    return !ok;
}
