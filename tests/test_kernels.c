/* Each kernel of each path alone against double: odd shapes, poisoned outputs with guards, infinities and NaN. */
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"

static const haste_path paths[] = { HASTE_PATH_PORTABLE, HASTE_PATH_AVX2, HASTE_PATH_AVX512, HASTE_PATH_NEON };
static const haste__kernels *kernel;   /* of the path that is tested */
static haste_path path;

static const int sizes[] = { 8, 16, 24, 32, 40, 56, 72, 128, 136, 256 }, inputs[] = { 1, 2, 7, 8, 9, 16, 31, 64, 65 };
enum { SIZES = sizeof sizes / sizeof sizes[0], INPUTS = sizeof inputs / sizeof inputs[0], WIDTH = 90 };

static float *normals(size_t n)
{
    float *p = check_floats(n);
    size_t i;
    for (i = 0; i < n; i++) p[i] = check_normal();
    return p;
}

/* F distinct inputs below WIDTH in ascending order, or NULL for a dense block. */
static const uint16_t *make_index(uint16_t *index, int F, int dense)
{
    int f, at = 0;
    for (f = 0; f < F; f++) {
        at += F > 32 ? 0 : (int)(check_random() % (uint32_t)((WIDTH - at - (F - f)) / (F - f) + 1));
        index[f] = (uint16_t)at++;
    }
    return dense ? NULL : index;
}
static int input(const uint16_t *index, int f) { return index ? index[f] : f; }

/* A sum of n products of magnitude `size` together, each rounded at most once more than it need be. */
static double allowed(int n, double size) { return (n + 3) * size * 6e-8 + 1e-30; }

static void forward(void)
{
    int i, j, dense;
    for (i = 0; i < SIZES; i++) for (j = 0; j < INPUTS; j++) for (dense = 0; dense < 2; dense++) {
        const int S = sizes[i], F = inputs[j];
        uint16_t space[WIDTH];
        const uint16_t *index = make_index(space, F, dense);
        float *w = normals((size_t)(S * F)), *bias = normals((size_t)S), *x = normals(WIDTH * 32);
        float *z = check_floats((size_t)(S * 32));
        int s, b, f;
        kernel->forward(S, F, index, w, bias, x, z, 0);
        for (s = 0; s < S; s++) for (b = 0; b < 32; b++) {
            double want = (double)bias[s], size = fabs(want);
            for (f = 0; f < F; f++) {
                const double term = (double)w[f * S + s] * (double)x[input(index, f) * 32 + b];
                want += term;
                size += fabs(term);
            }
            CHECK_NEAR((double)z[s * 32 + b], want, allowed(F, size));
        }
        CHECK(check_guard(z, (size_t)(S * 32)));
        free(w); free(bias); free(x); free(z);
    }
}

/* predict, and score, which must give the same bits. */
static void predict(void)
{
    static const int batches[] = { 1, 2, 3, 4, 5, 7, 8, 13, 31, 32 };
    int i, j, n, bf16;
    for (i = 0; i < SIZES; i++) for (j = 0; j < INPUTS; j++) for (n = 0; n < 10; n++) for (bf16 = 0; bf16 < 2; bf16++)
    if (sizes[i] <= 64 || (i + j + n) % 2 == 0) {   /* time */
        const int S = sizes[i], F = inputs[j], B = batches[n], pitch = (n + j) % 2 ? 32 : B, stride = S + 8 * (j % 3);
        uint16_t space[WIDTH], *half = (uint16_t *)malloc((size_t)(S * F) * sizeof *half);
        const uint16_t *index = make_index(space, F, (i + j + n) % 3 == 0);
        float *w = normals((size_t)(S * F)), *bias = normals((size_t)S), *x = normals(WIDTH * 32);
        float *z = check_floats((size_t)(B * stride)), *row = check_floats(WIDTH * 32), score[64];
        haste__candidate candidate[64];
        haste__product r;
        int s, b, f, touched = 0, same = 1, count;
        if (!half) { printf("out of memory\n"); exit(1); }
        for (s = 0; s < S * F; s++) {
            half[s] = haste__to_bf16(w[s]);
            if (bf16) w[s] = haste__from_bf16(half[s]);
        }
        memset(&r, 0, sizeof r);
        r.S = S; r.F = F; r.samples = B; r.bf16 = bf16; r.index = index;
        r.w = bf16 ? (const void *)half : (const void *)w;
        r.bias = bias; r.x = x; r.z = z; r.pitch = pitch; r.stride = stride;
        kernel->predict(&r);
        for (b = 0; b < B; b++) {
            for (s = 0; s < S; s++) {
                double want = (double)bias[s], size = fabs(want);
                for (f = 0; f < F; f++) {
                    const double term = (double)w[f * S + s] * (double)x[input(index, f) * pitch + b];
                    want += term;
                    size += fabs(term);
                }
                CHECK_NEAR((double)z[b * stride + s], want, allowed(F, size));
            }
            for (; s < stride; s++) touched |= z[b * stride + s] == z[b * stride + s];   /* the poison is a NaN */
        }
        CHECK(!touched && check_guard(z, (size_t)(B * stride)));

        /* row-major x, as haste_score has it; candidates with labels within 32, from label `first` on */
        for (b = 0; b < B; b++) for (f = 0; f < WIDTH; f++) row[b * WIDTH + f] = x[f * pitch + b];
        for (count = 1; count <= 11; count += 1 + (n + j) % 3) {
            const int first = (int)(check_random() % (uint32_t)((S + 31) / 32)) * 32;
            const int labels = S - first < 32 ? S - first : 32;
            int c;
            for (c = 0; c < (count + 3) / 4 * 4; c++) {
                candidate[c].s = (int)(check_random() % (uint32_t)labels);
                candidate[c].x = row + (c + count) % B * WIDTH;
                candidate[c].score = score + c;
                score[c] = 12345;
            }
            r.w = bf16 ? (const void *)(half + first) : (const void *)(w + first);
            r.bias = bias + first;
            kernel->score(&r, candidate, count);
            for (c = 0; c < count; c++)
                same &= memcmp(&score[c], &z[(c + count) % B * stride + first + candidate[c].s], sizeof *score) == 0;
            for (; c < (count + 3) / 4 * 4; c++) same &= score[c] == 12345;
        }
#if FLT_EVAL_METHOD == 0   /* where registers are wider than floats, sums may be rounded differently */
        CHECK(same);
#endif
        (void)same;
        free(half); free(w); free(bias); free(x); free(z); free(row);
    }
}

static void gradients(void)
{
    int i, j, tiles, store;
    for (i = 0; i < SIZES; i++) for (j = 0; j < INPUTS; j++) for (tiles = 1; tiles < 4; tiles++) {
        const int S = sizes[i], F = inputs[j], tile_size = (WIDTH + 3) * 32;
        uint16_t space[WIDTH];
        const uint16_t *index = make_index(space, F, (i + j) % 3 == 0);
        float *w = normals((size_t)(S * F)), *x = normals((size_t)(tiles * tile_size)), *dz = normals((size_t)(S * 32));
        float *dzt = normals((size_t)(tiles * 32 * S)), *dx = normals(WIDTH * 32), *before = check_floats(WIDTH * 32);
        int s, b, f;
        memcpy(before, dx, WIDTH * 32 * sizeof *dx);
        kernel->grad_input(S, F, index, w, dz, dx);
        for (f = 0; f < F; f++) for (b = 0; b < 32; b++) {
            float *place = &before[input(index, f) * 32 + b];
            double want = (double)*place, size = fabs(want);
            for (s = 0; s < S; s++) {
                const double term = (double)w[f * S + s] * (double)dz[s * 32 + b];
                want += term;
                size += fabs(term);
            }
            CHECK_NEAR((double)dx[input(index, f) * 32 + b], want, allowed(S, size));
            *place = dx[input(index, f) * 32 + b];
        }
        CHECK(memcmp(before, dx, WIDTH * 32 * sizeof *dx) == 0 && check_guard(dx, WIDTH * 32));   /* the other inputs */

        for (store = 0; store < 3; store++) {
            float *space_dw = check_floats((size_t)(S * F) + 16), *dw = space_dw;
            const float start = store == HASTE__ADD ? .5f : 0;
            while ((uintptr_t)dw % 64 != 0) dw++;   /* non-temporal stores want whole cache lines */
            if (store == HASTE__NONTEMPORAL && S % 16 != 0) { free(space_dw); continue; }
            if (store == HASTE__ADD) for (s = 0; s < S * F; s++) dw[s] = .5f;
            kernel->grad_weight(S, F, index, x, tile_size, tiles, dzt, dw, (haste__store_mode)store);
            HASTE__FENCE();
            for (f = 0; f < F; f++) for (s = 0; s < S; s++) {
                double want = (double)start, size = fabs(want);
                for (b = 0; b < tiles * 32; b++) {
                    const double xb = (double)x[b / 32 * tile_size + input(index, f) * 32 + b % 32];
                    const double term = xb * (double)dzt[b * S + s];
                    want += term;
                    size += fabs(term);
                }
                CHECK_NEAR((double)dw[f * S + s], want, allowed(tiles * 32, size));
            }
            CHECK(check_guard(space_dw, (size_t)(S * F) + 16));
            free(space_dw);
        }
        free(w); free(x); free(dz); free(dzt); free(dx); free(before);
    }
}

static void moved(void)   /* transpose, split_rows, stream, widen, narrow */
{
    int rows, columns, i, j, k;
    for (rows = 8; rows <= 72; rows += 8) for (columns = 8; columns <= 40; columns += 8) {
        const int pitch = columns + 3, stride = rows + 5;
        float *from = normals((size_t)(rows * pitch)), *to = check_floats((size_t)(columns * stride));
        float *sum = normals((size_t)rows);
        double *want = (double *)malloc((size_t)rows * sizeof *want);
        int bad = 0;
        if (!want) { printf("out of memory\n"); exit(1); }
        for (i = 0; i < rows; i++)
            for (want[i] = (double)sum[i], j = 0; j < columns; j++) want[i] += (double)from[i * pitch + j];
        kernel->transpose(rows, columns, from, pitch, to, stride, sum);
        for (j = 0; j < columns; j++) {
            for (i = 0; i < rows; i++) bad += to[j * stride + i] != from[i * pitch + j];
            for (; i < stride; i++) bad += to[j * stride + i] == to[j * stride + i];
        }
        for (i = 0; i < rows; i++) CHECK_NEAR((double)sum[i], want[i], 1e-5);
        memset(to, 0, (size_t)(columns * stride) * sizeof *to);
        kernel->transpose(rows, columns, from, pitch, to, stride, NULL);
        for (j = 0; j < columns; j++) for (i = 0; i < rows; i++) bad += to[j * stride + i] != from[i * pitch + j];
        CHECK(bad == 0 && check_guard(to, (size_t)(columns * stride)) && check_guard(sum, (size_t)rows));
        free(from); free(to); free(sum); free(want);
    }
    for (i = 0; i < SIZES; i++) for (j = 1; j < 10; j++) {
        const int S = sizes[i], B = j, groups = j % 3 + 1, pitch = groups * S + 8, stride = (B + 2) * S;
        float *from = normals((size_t)(B * pitch)), *to = check_floats((size_t)(groups * stride));
        float *sum = normals((size_t)(groups * S));
        double want[256 * 3];
        int b, s, bad = 0;
        for (k = 0; k < groups * S; k++)
            for (want[k] = (double)sum[k], b = 0; b < B; b++) want[k] += (double)from[b * pitch + k];
        kernel->split_rows(from, pitch, B, S, groups, to, stride, sum);
        for (k = 0; k < groups; k++) {
            for (b = 0; b < B; b++)
                for (s = 0; s < S; s++) bad += to[k * stride + b * S + s] != from[b * pitch + k * S + s];
            for (s = B * S; s < stride; s++) bad += to[k * stride + s] == to[k * stride + s];
        }
        for (k = 0; k < groups * S; k++) CHECK_NEAR((double)sum[k], want[k], 1e-5);
        CHECK(bad == 0 && check_guard(to, (size_t)(groups * stride)) && check_guard(sum, (size_t)(groups * S)));
        free(from); free(to); free(sum);
    }
    for (i = 16; i <= 128; i += 16) {
        float *from = normals((size_t)i), *space = check_floats((size_t)i + 16), *to = space;
        while ((uintptr_t)to % 64 != 0) to++;
        kernel->stream(from, to, i);
        HASTE__FENCE();
        CHECK(memcmp(from, to, (size_t)i * sizeof *to) == 0 && check_guard(space, (size_t)i + 16));
        free(from); free(space);
    }
    for (i = 8; i <= 264; i += 8) {
        static const uint32_t special[] = { 0x7f800000u, 0xff800000u, 0x7f800001u, 0xffffffffu, 0, 0x80000000u, 1,
                                            0x7f7fffffu };
        float *in = normals((size_t)i), *out = check_floats((size_t)i);
        uint16_t half[264 + 8];
        const uint64_t random = (uint64_t)check_random() << 33 ^ (uint64_t)check_random() << 7 ^ (uint64_t)i;
        int bad = 0;
        for (j = 0; j < 8; j++) memcpy(&in[(j * 5 + i / 8) % i], &special[j], 4);
        memset(half, 0xab, sizeof half);
        kernel->narrow(in, half, i, random);
        for (j = 0; j < i; j++) {   /* the rule in words: two rounds of a multiplicative hash of the position */
            uint32_t noise = (uint32_t)random + (uint32_t)j * 0x9e3779b9u;
            noise = (noise ^ (noise >> 16)) * 0x85ebca6bu + (uint32_t)(random >> 32);
            noise = (noise ^ (noise >> 13)) * 0xc2b2ae35u;
            bad += half[j] != haste__to_bf16_noise(in[j], noise >> 16);
        }
        for (; j < i + 8; j++) bad += half[j] != 0xabab;
        kernel->widen(half, out, i);
        for (j = 0; j < i; j++) {
            const float value = haste__from_bf16(half[j]);
            bad += memcmp(&value, &out[j], sizeof value) != 0;
        }
        CHECK(bad == 0 && check_guard(out, (size_t)i));
        free(in); free(out);
    }
}

/* Slopes and losses of logits from -90 to 90, one after the other, and what is not finite. */
static void losses(void)
{
    enum { ROWS = 200 };
    static const float special[] = { HUGE_VALF, -HUGE_VALF, 0 };
    float *z = check_floats(ROWS * 32), *start = check_floats(ROWS * 32), *none = check_floats(ROWS * 32);
    float *loss = check_floats(32), *best = check_floats(32), *sum = check_floats(32), *weight = normals(32);
    const float scale = .0078125f;
    int i, b, s, kind;
    double worst_slope = 0, worst_loss = 0;
    for (i = 0; i < ROWS * 32; i++) start[i] = (float)(i * 131 % (ROWS * 32) - ROWS * 16) * (86.9f / (ROWS * 16));
    for (s = 0; s < ROWS; s++) {   /* a row at a time, so that each loss is seen */
        memcpy(z, start + s * 32, 32 * sizeof *z);
        for (b = 0; b < 32; b++) loss[b] = 0;
        CHECK(kernel->bce(z, 1, scale, loss) == 1);
        for (b = 0; b < 32; b++) {
            const double v = (double)start[s * 32 + b], e = exp(-fabs(v));
            const double slope = (double)scale * (v < 0 ? e : 1) / (1 + e);
            const double value = (v > 0 ? v : 0) + log1p(e);
            const double off = fabs((double)z[b] - slope) / slope, off_loss = fabs((double)loss[b] - value) / value;
            if (fabs(v) < 82 && !(off <= worst_slope)) worst_slope = off;   /* beyond, `scale` makes them subnormal */
            if (!(off_loss <= worst_loss)) worst_loss = off_loss;
        }
        CHECK(check_guard(loss, 32));
    }
    CHECK_NEAR(worst_slope, 0, 6e-7);
    CHECK_NEAR(worst_loss, 0, 8e-7);

    for (kind = 0; kind < 2; kind++) {   /* the loss changes no slope */
        int (*run)(float *, int, float, float *) = kind ? kernel->hinge : kernel->bce;
        memcpy(z, start, ROWS * 32 * sizeof *z);
        memcpy(none, start, ROWS * 32 * sizeof *z);
        for (b = 0; b < 32; b++) loss[b] = 1;
        CHECK(run(z, ROWS - 1, scale, loss) == 1 && run(none, ROWS - 1, scale, NULL) == 1);
        CHECK(memcmp(z, none, ROWS * 32 * sizeof *z) == 0);
        CHECK(memcmp(z + (ROWS - 1) * 32, start + (ROWS - 1) * 32, 32 * sizeof *z) == 0);   /* beyond the rows */
        for (b = 0; b < 32; b++) {
            double want = 1;
            for (s = 0; s < ROWS - 1; s++) {
                const double v = (double)start[s * 32 + b], m = v > -1 ? 1 + v : 0;
                want += kind ? m * m : (v > 0 ? v : 0) + log1p(exp(-fabs(v)));
                if (kind) CHECK_NEAR((double)z[s * 32 + b], 2 * (double)scale * m, 2e-7 * m * (double)scale + 1e-9);
            }
            CHECK_NEAR((double)loss[b], want, want * 5e-6);
        }
    }

    for (b = 0; b < 32; b++) best[b] = start[b] + (b % 2 ? 200 : -1);   /* some are not raised */
    CHECK(kernel->sumexp(start, ROWS, best, sum) == 1);
    memcpy(z, start, ROWS * 32 * sizeof *z);
    CHECK(kernel->softmax(z, ROWS, best, weight) == 1);
    for (b = 0; b < 32; b++) {
        double most = (double)start[b] + (b % 2 ? 200 : -1), want = 0;
        for (s = 0; s < ROWS; s++) if ((double)start[s * 32 + b] > most) most = (double)start[s * 32 + b];
        CHECK_NEAR((double)best[b], most, 1e-5);
        for (s = 0; s < ROWS; s++) {
            const double d = (double)start[s * 32 + b] - (double)best[b], e = exp(d < -87 ? -87 : d);
            want += e;
            /* the difference is rounded before its power is taken */
            CHECK_NEAR((double)z[s * 32 + b], e * (double)weight[b],
                       (4e-7 - 7e-8 * d) * e * fabs((double)weight[b]) + 1e-44);
        }
        CHECK_NEAR((double)sum[b], want, 1e-5 * want);
    }
    CHECK(check_guard(z, ROWS * 32) && check_guard(best, 32) && check_guard(sum, 32));

    for (i = 0; i < 3 * 32 * 3; i++) {   /* infinities and NaN, at every place of 3 rows */
        const float value = i % 3 == 2 ? special[0] - special[0] : special[i % 3];
        const int at = i / 3;
        memcpy(z, start, 96 * sizeof *z);
        z[at] = value;
        CHECK(kernel->bce(z, 3, scale, NULL) == 0);
        memcpy(z, start, 96 * sizeof *z);
        z[at] = value;
        CHECK(kernel->hinge(z, 3, scale, loss) == 0);
        memcpy(z, start, 96 * sizeof *z);
        z[at] = value;
        CHECK(kernel->softmax(z, 3, best, weight) == 0);
        memcpy(z, start, 96 * sizeof *z);
        z[at] = value;
        for (b = 0; b < 32; b++) sum[b] = -HUGE_VALF;
        CHECK(kernel->sumexp(z, 3, sum, loss) == 0);
    }
    free(z); free(start); free(loss); free(none); free(best); free(sum); free(weight);
}

static void searched(void)   /* scan, drop_small, all_below */
{
    int i, j, k;
    for (i = 0; i < SIZES; i++) for (k = 0; k < 200; k++) {
        const int S = sizes[i], samples = k % 9 + 1;
        float *z = check_floats((size_t)(samples * S)), floor[16];
        unsigned char hit[16];
        const int at = (int)(check_random() % (uint32_t)(samples * S));
        for (j = 0; j < samples * S; j++) z[j] = -1 - fabsf(check_normal());
        for (j = 0; j < samples; j++) floor[j] = -1 + (float)(j % 2);
        memset(hit, 77, sizeof hit);
        if (k % 5 == 0) z[at] = floor[at / S];                     /* not below */
        if (k % 5 == 1) z[at] = HUGE_VALF - HUGE_VALF;
        if (k % 5 == 2) z[at] = -HUGE_VALF;
        if (k % 5 == 3) z[at] = HUGE_VALF;
        kernel->scan(z, samples, S, floor, hit);
        for (j = 0; j < samples; j++) CHECK(hit[j] == (j == at / S && k % 5 != 4));
        CHECK(hit[samples] == 77);
        free(z);
    }
    for (k = 0; k < 300; k++) {
        const int n = 256 * (k % 3 + 1);
        float *z = normals((size_t)n), *want = check_floats((size_t)n);
        const float least = k % 4 == 0 ? 0 : k % 4 == 1 ? 100.0f : fabsf(check_normal());
        int left = 0;
        for (j = 0; j < n; j++) {
            if (k % 8 >= 4) z[j] = 0;
            if (k % 8 >= 4 && j == k) z[j] = -least;
            want[j] = fabsf(z[j]) >= least && z[j] < 0 ? z[j] : fabsf(z[j]) >= least && z[j] > 0 ? z[j] : 0;
            left |= want[j] < 0 || want[j] > 0;
        }
        CHECK(kernel->drop_small(z, n, least) == left);
        CHECK(memcmp(z, want, (size_t)n * sizeof *z) == 0 && check_guard(z, (size_t)n));
        free(z); free(want);
    }
    for (i = 0; i < 70; i++) {
        float *a = normals((size_t)i);
        float largest = 0;
        for (j = 0; j < i; j++) if (fabsf(a[j]) > largest) largest = fabsf(a[j]);
        CHECK(kernel->all_below(a, i, largest * 1.01f + 1));
        for (j = 0; j < i; j++) {
            const float keep = a[j];
            a[j] = j % 2 ? 50.0f : -50.0f;
            CHECK(!kernel->all_below(a, i, 50) && kernel->all_below(a, i, 50.5f));
            a[j] = HUGE_VALF - HUGE_VALF;
            CHECK(!kernel->all_below(a, i, HUGE_VALF));
            a[j] = -HUGE_VALF;
            CHECK(!kernel->all_below(a, i, HUGE_VALF));
            a[j] = keep;
        }
        free(a);
    }
}

static void optimizers(void)
{
    haste__rule rule;
    int n, i;
    memset(&rule, 0, sizeof rule);
    rule.lr = .03f; rule.momentum = .9f; rule.beta1 = .85f; rule.beta2 = .99f; rule.eps = 1e-6f; rule.decay = .1f;
    rule.correct1 = 1.7f; rule.correct2 = 20;
    for (n = 8; n <= 80; n += 8) {
        const size_t count = (size_t)n;
        float *w = normals(count), *g = normals(count), *m = normals(count), *v = normals(count);
        float *w0 = check_floats(count), *m0 = check_floats(count), *v0 = check_floats(count);
        for (i = 0; i < n; i++) v[i] = fabsf(v[i]) + .01f;
        memcpy(w0, w, count * 4); memcpy(m0, m, count * 4); memcpy(v0, v, count * 4);
        kernel->sgd(w, g, n, &rule);
        for (i = 0; i < n; i++)
            CHECK_NEAR((double)w[i],
                       (double)w0[i] - (double)rule.lr * ((double)g[i] + (double)rule.decay * (double)w0[i]), 2e-6);
        memcpy(w, w0, count * 4);
        kernel->momentum(w, g, m, n, &rule);
        for (i = 0; i < n; i++) {
            const double want =
                (double)rule.momentum * (double)m0[i] + (double)g[i] + (double)rule.decay * (double)w0[i];
            CHECK_NEAR((double)m[i], want, 2e-6);
            CHECK_NEAR((double)w[i], (double)w0[i] - (double)rule.lr * want, 2e-6);
        }
        memcpy(w, w0, count * 4);
        memcpy(m, m0, count * 4);
        kernel->adamw(w, g, m, v, n, &rule);
        for (i = 0; i < n; i++) {
            const double gi = (double)g[i];
            const double mi = (double)rule.beta1 * (double)m0[i] + (1 - (double)rule.beta1) * gi;
            const double vi = (double)rule.beta2 * (double)v0[i] + (1 - (double)rule.beta2) * gi * gi;
            CHECK_NEAR((double)m[i], mi, 2e-6);
            CHECK_NEAR((double)v[i], vi, 2e-6 * (1 + vi));
            CHECK_NEAR((double)w[i], (double)w0[i] * (1 - (double)rule.lr * (double)rule.decay) - (double)rule.lr * mi *
                       (double)rule.correct1 / (sqrt(vi * (double)rule.correct2) + (double)rule.eps), 2e-6);
        }
        CHECK(check_guard(w, count) && check_guard(m, count) && check_guard(v, count));
        free(w); free(g); free(m); free(v); free(w0); free(m0); free(v0);
    }
}

static void vectors(void)   /* axpy, dot, dot4, sum_abs, project */
{
    static float sign[256][8];
    int n, i, k;
    for (n = 0; n < 150; n++) {
        const size_t count = (size_t)n;
        float *a = normals(count), *b = normals(4 * count), *y = normals(count), *before = check_floats(count), out[5];
        double want[4] = { 0, 0, 0, 0 }, size[4] = { 0, 0, 0, 0 };
        memcpy(before, y, count * 4);
        kernel->axpy(y, -.75f, a, n);
        for (i = 0; i < n; i++) CHECK_NEAR((double)y[i], (double)before[i] - .75 * (double)a[i], 1e-6);
        CHECK(check_guard(y, count));
        for (k = 0; k < 4; k++) for (i = 0; i < n; i++) {
            want[k] += (double)a[i] * (double)b[k * n + i];
            size[k] += fabs((double)a[i] * (double)b[k * n + i]);
        }
        out[4] = 99;
        kernel->dot4(a, b, n, out);
        for (k = 0; k < 4; k++) {
            CHECK_NEAR((double)out[k], want[k], allowed(n, size[k]));
            CHECK_NEAR((double)kernel->dot(a, b + k * n, n), want[k], allowed(n, size[k]));
        }
        CHECK(out[4] == 99);
        if (n % 8 == 0) {
            double sum = 0;
            for (i = 0; i < n; i++) sum += fabs((double)a[i]);
            CHECK_NEAR((double)kernel->sum_abs(a, NULL, n), sum, allowed(n, sum));
            CHECK_NEAR((double)kernel->sum_abs(a, b, n), size[0], allowed(n, size[0]));
        }
        free(a); free(b); free(y); free(before);
    }
    for (i = 0; i < 256; i++) for (k = 0; k < 8; k++) sign[i][k] = i >> k & 1 ? 1.0f : -1.0f;
    for (n = 1; n < 6; n++) {
        const int32_t feature[5] = { 3, 0, 17, 70000, 2000000000 };
        const float value[5] = { 1, -2, .5f, 4, .25f };
        float *row = check_floats(64 * 3);
        double want[64 * 3];
        for (i = 0; i < 64 * 3; i++) want[i] = (double)(row[i] = (float)i);
        kernel->project(row, 3, 12345, feature, value, n, .125, sign);
        for (k = 0; k < n; k++) for (i = 0; i < 64 * 3; i++) {
            const uint64_t place = (uint64_t)feature[k] * 3 + (uint64_t)(i / 64);
            const uint64_t random = haste__random(12345, HASTE__STREAM_PROJECT, place);
            want[i] += (random >> i % 64 & 1 ? 1 : -1) * (double)value[k] * .125;
        }
        for (i = 0; i < 64 * 3; i++) CHECK_NEAR((double)row[i], want[i], 1e-4);
        CHECK(check_guard(row, 64 * 3));
        free(row);
    }
}

int main(int argc, char **argv)
{
    haste_path best = HASTE_PATH_PORTABLE;
    int i;
    check_begin(argc, argv);
    for (i = 0; i < 4; i++) {
        path = paths[i];
        kernel = haste__path_kernels(path);
        if (!kernel) continue;
        printf("  path %s\n", haste_path_text(path));
        RUN(forward);
        RUN(predict);
        RUN(gradients);
        RUN(moved);
        RUN(losses);
        RUN(searched);
        RUN(optimizers);
        RUN(vectors);
        best = path;
    }
    CHECK(haste_path_best() == best);   /* the last of those that there are */
    return check_end();
}
