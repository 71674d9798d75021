/* Label embeddings, label orders and clustering. */
#include <stdlib.h>

static long allocate_calls, allocate_fail, allocate_live;   /* allocate_fail: which call fails; 0: none */
static void *failing_malloc(size_t bytes)
{
    void *p;
    if (++allocate_calls == allocate_fail) return NULL;
    p = malloc(bytes);
    if (p) allocate_live++;
    return p;
}
static void failing_free(void *p)
{
    if (p) allocate_live--;
    free(p);
}
#define HASTE_MALLOC(bytes) failing_malloc(bytes)
#define HASTE_FREE(memory)  failing_free(memory)
#define HASTE_IMPLEMENTATION
#include "haste.h"
#include "check.h"

static haste_error error;

static void *take(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) { printf("out of memory\n"); exit(1); }
    return p;
}

static int32_t *counted(int64_t n)
{
    int32_t *order = (int32_t *)take((size_t)n * sizeof(int32_t));
    int64_t i;
    for (i = 0; i < n; i++) order[i] = (int32_t)i;
    return order;
}

/* Are order[0..n) the numbers first .. first + n - 1? */
static int is_permutation(const int32_t *order, int64_t n, int32_t first)
{
    char *seen = (char *)take((size_t)n);
    int64_t i;
    int ok = 1;
    memset(seen, 0, (size_t)n);
    for (i = 0; i < n && ok; i++) {
        int64_t place = (int64_t)order[i] - first;
        ok = place >= 0 && place < n && !seen[place];
        if (ok) seen[place] = 1;
    }
    free(seen);
    return ok;
}

/* L unit rows around clusters' unit centres: label l belongs to cluster l % clusters; clusters = 0: no structure.
   Every `hole`-th label (hole > 0) has no embedding. */
static float *planted(int32_t L, int32_t E, int32_t clusters, float noise, int32_t hole)
{
    float *e = (float *)take((size_t)L * (size_t)E * sizeof(float));
    float *centre = (float *)take((size_t)(clusters + 1) * (size_t)E * sizeof(float));
    int64_t i;
    int32_t l, d;
    for (i = 0; i < (int64_t)clusters * E; i++) centre[i] = check_normal();
    for (l = 0; l < L; l++)
        for (d = 0; d < E; d++)
            e[(int64_t)l * E + d] = hole > 0 && l % hole == 0 ? 0
                                  : (clusters ? centre[(int64_t)(l % clusters) * E + d] : 0) + noise * check_normal();
    CHECK_STATUS(haste_embed_finish(e, L, E, &error), HASTE_OK, error);
    free(centre);
    return e;
}

/* Mean cosine to the group's centroid, in double, from its definition. */
static double cohesion_slow(const float *e, int32_t E, const int32_t *order, int64_t n, int32_t S)
{
    double sum = 0, *centre = (double *)take((size_t)E * sizeof(double));
    int64_t b, i, count = 0;
    int32_t d;
    for (b = 0; b < n; b += S) {
        double length = 0;
        for (d = 0; d < E; d++) centre[d] = 0;
        for (i = b; i < b + S && i < n; i++)
            for (d = 0; d < E; d++) centre[d] += (double)e[(int64_t)order[i] * E + d];
        for (d = 0; d < E; d++) length += centre[d] * centre[d];
        for (i = b; i < b + S && i < n; i++) {
            double dot = 0, square = 0;
            for (d = 0; d < E; d++) {
                double v = (double)e[(int64_t)order[i] * E + d];
                dot += v * centre[d];
                square += v * v;
            }
            if (square > 0) count++;
            if (square > 0 && length > 0) sum += dot / sqrt(square * length);
        }
    }
    free(centre);
    return count ? sum / (double)count : 0;
}

static double cohesion_of(const float *e, int32_t L, int32_t E, const int32_t *order, int64_t n, int32_t S)
{
    double cohesion = -1;
    CHECK_STATUS(haste_cohesion(e, L, E, order, n, S, 1, &cohesion, NULL, &error), HASTE_OK, error);
    return cohesion;
}

/* Of random orders of the same labels, on average. */
static double random_cohesion(const float *e, int32_t L, int32_t E, const int32_t *order, int64_t n, int32_t S)
{
    int32_t *copy = (int32_t *)take((size_t)n * sizeof *copy);
    double sum = 0;
    uint64_t seed;
    memcpy(copy, order, (size_t)n * sizeof *copy);
    for (seed = 0; seed < 8; seed++) {
        CHECK_STATUS(haste_order_random(copy, n, seed, &error), HASTE_OK, error);
        sum += cohesion_of(e, L, E, copy, n, S);
    }
    free(copy);
    return sum / 8;
}

/* ---- orders -------------------------------------------------------------------------------------------------- */

static void frequency_order(void)
{
    static const int64_t small[8] = {3, 0, 7, 3, 7, 1, 0, 3};
    static const int32_t want[8] = {2, 4, 0, 3, 7, 5, 1, 6};
    int32_t L = 5000, i, *order = (int32_t *)take(5000 * sizeof(int32_t));
    int64_t *frequency = (int64_t *)take(5000 * sizeof(int64_t));
    int ok = 1, kind;
    CHECK_STATUS(haste_order_by_frequency(small, 8, order, &error), HASTE_OK, error);
    for (i = 0; i < 8; i++) CHECK(order[i] == want[i]);
    for (kind = 0; kind < 4; kind++) {   /* all equal; one digit; two; numbers past 2^32 */
        for (i = 0; i < L; i++)
            frequency[i] = kind == 0 ? 4 : kind == 1 ? check_random() % 200 : kind == 2 ? check_random() % 3000
                         : (int64_t)check_random() * (check_random() % 5000);
        CHECK_STATUS(haste_order_by_frequency(frequency, L, order, &error), HASTE_OK, error);
        CHECK(is_permutation(order, L, 0));
        for (i = 1; i < L; i++) {
            int64_t a = frequency[order[i - 1]], b = frequency[order[i]];
            ok &= a > b || (a == b && order[i - 1] < order[i]);
        }
    }
    CHECK(ok);
    CHECK_STATUS(haste_order_by_frequency(frequency, 1, order, &error), HASTE_OK, error);
    CHECK(order[0] == 0);
    free(order);
    free(frequency);
}

static void random_order(void)
{
    int32_t n = 4000, i, *a = counted(n), *b = counted(n), fixed = 0, near_home = 0;
    CHECK_STATUS(haste_order_random(a, n, 3, &error), HASTE_OK, error);
    CHECK_STATUS(haste_order_random(b, n, 3, &error), HASTE_OK, error);
    CHECK(memcmp(a, b, (size_t)n * sizeof *a) == 0);
    CHECK(is_permutation(a, n, 0));
    for (i = 0; i < n; i++) { fixed += a[i] == i; near_home += a[i] / 1000 == i / 1000; }
    CHECK(fixed < 10);
    CHECK_NEAR(near_home / (double)n, .25, .04);
    for (i = 0; i < n; i++) b[i] = i;
    CHECK_STATUS(haste_order_random(b, n, 4, &error), HASTE_OK, error);
    CHECK(memcmp(a, b, (size_t)n * sizeof *a) != 0);
    CHECK_STATUS(haste_order_random(b, 0, 4, &error), HASTE_OK, error);
    CHECK_STATUS(haste_order_random(NULL, 0, 4, &error), HASTE_OK, error);
    free(a);
    free(b);
}

/* ---- embeddings ---------------------------------------------------------------------------------------------- */

/* Dense, against sums in double; offsets that start above 0, empty rows, zero samples, ids twice. */
static void embed_dense(void)
{
    enum { L = 7, E = 37, B = 5 };
    static const int64_t offset[B + 1] = {2, 5, 5, 10, 11, 12};
    static const int32_t id[12] = {99, 99, 0, 3, 6, 6, 3, 6, 1, 3, 2, 5};   /* sample 2 names 6 and 3 twice; sample 3 is zero */
    static const int counts[L][B] = {{1, 0, 0, 0, 0}, {0, 0, 1, 0, 0}, {0, 0, 0, 1, 0}, {1, 0, 1, 0, 0}, {0}, {0, 0, 0, 0, 1}, {1, 0, 1, 0, 0}};
    float x[B * E], *e = check_floats(L * E);
    double want[L * E], length;
    haste_lists positives;
    int b, l, d;
    positives.offset = offset;
    positives.id = id;
    for (b = 0; b < B; b++) for (d = 0; d < E; d++) x[b * E + d] = b == 3 ? 0 : 5 * check_normal();
    for (l = 0; l < L * E; l++) { e[l] = .25f; want[l] = .25; }
    for (b = 0; b < B; b++) {
        for (length = 0, d = 0; d < E; d++) length += (double)x[b * E + d] * (double)x[b * E + d];
        for (l = 0; l < L; l++) for (d = 0; d < E; d++)
            if (counts[l][b] && length > 0) want[l * E + d] += (double)x[b * E + d] / sqrt(length);
    }
    CHECK_STATUS(haste_embed_dense(e, L, E, x, B, &positives, 0, &error), HASTE_OK, error);
    for (l = 0; l < L * E; l++) CHECK_NEAR(e[l], want[l], 1e-6);
    CHECK_STATUS(haste_embed_finish(e, L, E, &error), HASTE_OK, error);
    for (l = 0; l < L; l++) {
        for (length = 0, d = 0; d < E; d++) length += want[l * E + d] * want[l * E + d];
        for (d = 0; d < E; d++) CHECK_NEAR(e[l * E + d], want[l * E + d] / sqrt(length), 1e-6);
    }
    CHECK(check_guard(e, L * E));
    free(e);
}

static void finish(void)
{
    enum { L = 6, E = 5 };
    float *e = check_floats(L * E);
    int l, d;
    for (l = 0; l < L; l++)
        for (d = 0; d < E; d++)
            e[l * E + d] = l == 2 ? 0 : l == 3 ? 1e30f * (float)(d - 1) : l == 4 ? 1e-30f * (float)(d + 1) : check_normal();
    CHECK_STATUS(haste_embed_finish(e, L, E, &error), HASTE_OK, error);
    for (l = 0; l < L; l++) {
        double length = 0;
        for (d = 0; d < E; d++) length += (double)e[l * E + d] * (double)e[l * E + d];
        CHECK_NEAR(length, l == 2 ? 0 : 1, 1e-6);
    }
    CHECK(check_guard(e, L * E));
    free(e);
}

/* The projection keeps inner products: with E dimensions the error of a cosine has standard deviation 1/sqrt(E). */
static void embed_sparse(void)
{
    enum { L = 40, E = 1024, V = 5000, N = 30 };   /* features a sample */
    int64_t offset[L + 1], label_offset[L + 1];
    int32_t feature[L * N], id[L], a, b;
    float value[L * N], *e = (float *)take(L * E * sizeof(float)), *again = (float *)take(L * E * sizeof(float));
    double worst = 0, square = 0;
    haste_sparse x;
    haste_lists positives;
    int64_t i, j;
    for (a = 0; a <= L; a++) { offset[a] = a * N; label_offset[a] = a; }
    for (a = 0; a < L; a++) id[a] = a;
    for (a = 0; a < L; a++)
        for (i = 0; i < N; i++) {   /* samples of one tenth share features; all distinct within a sample */
            feature[a * N + i] = (int32_t)(i * (V / N)) + (check_random() % 2 ? a % 10 : (int32_t)(check_random() % 100) + 20);
            value[a * N + i] = .5f + fabsf(check_normal());
        }
    x.offset = offset;
    x.feature = feature;
    x.value = value;
    positives.offset = label_offset;
    positives.id = id;
    memset(e, 0, L * E * sizeof(float));
    CHECK_STATUS(haste_embed_sparse(e, L, E, 11, &x, L, &positives, 0, &error), HASTE_OK, error);
    memcpy(again, e, L * E * sizeof(float));
    CHECK_STATUS(haste_embed_finish(e, L, E, &error), HASTE_OK, error);
    for (a = 0; a < L; a++)
        for (b = 0; b < a; b++) {
            double dot = 0, na = 0, nb = 0, got = 0, off;
            for (i = 0; i < N; i++) { na += pow((double)value[a * N + i], 2); nb += pow((double)value[b * N + i], 2); }
            for (i = 0; i < N; i++) for (j = 0; j < N; j++)
                if (feature[a * N + i] == feature[b * N + j]) dot += (double)value[a * N + i] * (double)value[b * N + j];
            for (i = 0; i < E; i++) got += (double)e[a * E + i] * (double)e[b * E + i];
            off = got - dot / sqrt(na * nb);
            square += off * off;
            if (fabs(off) > worst) worst = fabs(off);
        }
    CHECK(worst < 5 / sqrt((double)E));
    CHECK(sqrt(square / (L * (L - 1) / 2)) < 1.2 / sqrt((double)E));

    /* In batches, the same bits; another seed, another projection. */
    memset(e, 0, L * E * sizeof(float));
    for (a = 0; a < L; a += 7) {
        x.offset = offset + a;
        positives.offset = label_offset + a;
        CHECK_STATUS(haste_embed_sparse(e, L, E, 11, &x, L - a < 7 ? L - a : 7, &positives, 0, &error), HASTE_OK, error);
    }
    CHECK(memcmp(e, again, L * E * sizeof(float)) == 0);
    x.offset = offset;
    positives.offset = label_offset;
    memset(e, 0, L * E * sizeof(float));
    CHECK_STATUS(haste_embed_sparse(e, L, E, 12, &x, L, &positives, 0, &error), HASTE_OK, error);
    CHECK(memcmp(e, again, L * E * sizeof(float)) != 0);
    free(e);
    free(again);
}

/* One feature's projection is +-1/sqrt(E); a label twice counts once; a sample without features or labels adds nothing. */
static void embed_sparse_small(void)
{
    enum { L = 4, E = 100, B = 4 };
    static const int64_t offset[B + 1] = {1, 2, 4, 4, 5}, label_offset[B + 1] = {0, 5, 6, 7, 7};
    static const int32_t feature[5] = {-9, 1000000000, 3, 4, 5}, id[7] = {3, 1, 3, 1, 3, 0, 2};
    static const float value[5] = {0, 2.5f, 3, 4, 1};
    float *e = check_floats(L * E), three, four;
    double sum = 0;
    haste_sparse x;
    haste_lists positives;
    int i, ok = 1;
    x.offset = offset;
    x.feature = feature;
    x.value = value;
    positives.offset = label_offset;
    positives.id = id;
    memset(e, 0, L * E * sizeof(float));
    CHECK_STATUS(haste_embed_sparse(e, L, E, 5, &x, B, &positives, 0, &error), HASTE_OK, error);
    for (i = 0; i < E; i++) {
        CHECK_NEAR(fabs((double)e[3 * E + i]), .1, 1e-7);
        sum += (double)e[3 * E + i];
        ok &= e[E + i] == e[3 * E + i] && e[2 * E + i] == 0;
        three = fabsf(fabsf(e[i]) - .14f);   /* (+-3 +-4)/5/10 */
        four = fabsf(fabsf(e[i]) - .02f);
        ok &= three < 1e-7f || four < 1e-7f;
    }
    CHECK(fabs(sum) < 4);
    {   /* features whose values are 0: no direction, so nothing is added, though the sample before had a row */
        static const int64_t two[3] = {0, 1, 3}, label[3] = {0, 1, 2};
        static const int32_t f[3] = {7, 8, 9}, l[2] = {0, 1};
        static const float v[3] = {2, 0, 0};
        float out[2 * E];
        x.offset = two;
        x.feature = f;
        x.value = v;
        positives.offset = label;
        positives.id = l;
        memset(out, 0, sizeof out);
        CHECK_STATUS(haste_embed_sparse(out, 2, E, 5, &x, 2, &positives, 0, &error), HASTE_OK, error);
        for (i = 0; i < E; i++) ok &= out[i] != 0 && out[E + i] == 0;
    }
    CHECK(ok);
    CHECK(check_guard(e, L * E));
    free(e);
}

/* Long unordered lists, most ids several times. */
static void long_lists(void)
{
    enum { L = 300, n = 2000 };
    int64_t offset[2] = {0, n};
    static int32_t id[n], count[L];
    int32_t i;
    float e[L * 2], x[2] = {3, 4};
    haste_lists positives;
    memset(e, 0, sizeof e);
    for (i = 0; i < n; i++) { id[i] = (int32_t)(check_random() % L); count[id[i]] = 1; }
    positives.offset = offset;
    positives.id = id;
    CHECK_STATUS(haste_embed_dense(e, L, 2, x, 1, &positives, 0, &error), HASTE_OK, error);
    for (i = 0; i < L; i++) { CHECK_NEAR(e[2 * i], .6 * count[i], 1e-7); CHECK_NEAR(e[2 * i + 1], .8 * count[i], 1e-7); }
}

/* ---- grouping ------------------------------------------------------------------------------------------------ */

/* The three steps by themselves, since each repairs much of what another one does wrong. */

/* Keys of scores and ids: higher scores first, then smaller ids; -0 is 0; the score and the id come back. */
static void keys(void)
{
    static const float score[] = { (float)INFINITY, 3e38f, 2, 1.5f, 1, 1e-40f, 0, -1e-45f, -1, -1.5f, -3e38f, (float)-INFINITY };
    const int n = (int)(sizeof score / sizeof *score);
    int i;
    for (i = 0; i < n; i++) {
        CHECK(haste__key(score[i], 7) < haste__key(score[i], 8));
        CHECK(haste__key_score(haste__key(score[i], INT32_MAX)) == score[i] && haste__key_id(haste__key(score[i], INT32_MAX)) == INT32_MAX);
        if (i > 0) CHECK(haste__key(score[i - 1], INT32_MAX) < haste__key(score[i], 0));
    }
    CHECK(haste__key(-0.0f, 5) == haste__key(0, 5));
}

static int key_order(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorting and searching against qsort and a scan: all kinds of bits, equal keys, any n; and large ones whose order is bad for
   quicksort. Selecting: which keys come first is unique. */
static void sorting(void)
{
    enum { MOST = 300, LARGE = 1 << 17 };
    static uint64_t key[LARGE], want[LARGE];
    int n, kind, i;
    for (kind = 0; kind < 6; kind++)
        for (n = 0; n <= MOST; n += n < 20 ? 1 : 31) {
            int ok = 1;
            for (i = 0; i < n; i++) {
                const uint64_t random = (uint64_t)check_random() << 33 ^ (uint64_t)check_random() << 11 ^ check_random();
                key[i] = kind == 0 ? random : kind == 1 ? random % 7 : kind == 2 ? (uint64_t)i : kind == 3 ? (uint64_t)(n - i)
                       : kind == 4 ? UINT64_C(1) << random % 64 : random | UINT64_C(0xffffffff00000000);
            }
            memcpy(want, key, sizeof key[0] * (size_t)n);
            qsort(want, (size_t)n, sizeof want[0], key_order);
            key[n] = 42;
            haste__sort(key, n);
            CHECK(memcmp(key, want, sizeof key[0] * (size_t)n) == 0 && key[n] == 42);
            for (i = 0; i < 20; i++) {
                const uint64_t wanted = i < 2 || n == 0 ? (i ? UINT64_MAX : 0) : key[check_random() % (uint32_t)n] + (uint64_t)(i % 3) - 1;
                int first = 0;
                while (first < n && key[first] < wanted) first++;
                ok &= haste__lower_bound(key, key + n, wanted) == key + first;
            }
            CHECK(ok);
        }
    for (kind = 0; kind < 3; kind++) {
        for (i = 0; i < LARGE; i++)   /* an organ pipe; interleaved; few that differ */
            want[i] = key[i] = (uint64_t)(kind == 0 ? (i < LARGE / 2 ? i : LARGE - i) : kind == 1 ? (i % 2 ? i : LARGE - i) : i % 3);
        qsort(want, LARGE, sizeof want[0], key_order);
        haste__sort(key, LARGE);
        CHECK(memcmp(key, want, sizeof key) == 0);
    }
    for (n = 0; n <= 900; n += n < 20 ? 1 : 97)   /* as score and id: the best first, -0 as 0, ties by id */
        for (kind = 0; kind < 3; kind++) {
            float score[901];
            int32_t id[901];
            for (i = 0; i < n; i++) {
                score[i] = kind ? (float)(i * 7 % 23 - 11) : (float)check_random();
                if (kind == 2 && score[i] == 0 && i % 2) score[i] = -score[i];
                id[i] = (int32_t)(n - i) * 3;
                want[i] = haste__key(score[i], id[i]);
            }
            score[n] = 42;
            id[n] = 43;
            qsort(want, (size_t)n, sizeof want[0], key_order);
            haste__sort_labels(score, id, n);
            for (i = 0; i < n; i++) key[i] = haste__key(score[i], id[i]);
            CHECK(memcmp(key, want, sizeof key[0] * (size_t)n) == 0 && score[n] == 42 && id[n] == 43);
        }
    for (n = 1; n <= 60; n++)
        for (kind = 0; kind <= n; kind += 1 + n / 7) {   /* the first `kind` */
            uint64_t sum = 0;
            int ok = 1, j;
            for (i = 0; i < n; i++) sum += key[i] = haste__key((float)(i * 5 % (n % 3 ? 4 : 50)), (i * 7 + 3) % 61);
            haste__select(key, n, kind);
            for (i = 0; i < kind; i++) for (j = kind; j < n; j++) ok &= key[i] < key[j];
            for (i = 0; i < n; i++) sum -= key[i];
            CHECK(ok && sum == 0);
        }
}

/* An arena counts what it then hands out: aligned, one after the other; and it notices sizes that overflow. */
static void arenas(void)
{
    static const size_t width[] = { 1, 8, 4, 2, 64 };
    haste__arena arena = { NULL, 0, 0 };
    size_t bytes = 0;
    int walk, i;
    CHECK(haste__allocate(SIZE_MAX - 63) == NULL);   /* 72 bytes more must not overflow */
    for (walk = 0; walk < 2; walk++) {
        char *previous = NULL;
        for (i = 0; i < 5; i++) {
            char *p = (char *)haste__take(&arena, (uint64_t)i * 13, width[i]);
            CHECK(walk ? p != NULL && (uintptr_t)p % 64 == 0 && p >= previous : p == NULL);
            if (walk) { memset(p, 1, (size_t)i * 13 * width[i]); previous = p + (size_t)i * 13 * width[i]; }
        }
        CHECK(arena.end % 64 == 0 && !arena.overflow);
        if (walk) CHECK(previous <= arena.memory + arena.end && arena.end == bytes);
        bytes = arena.end;
        if (walk == 0) CHECK_STATUS(haste__reserve(&arena, "scratch", &error), HASTE_OK, error);
    }
    haste__release(arena.memory);
    for (i = 0; i < 3; i++) {   /* a product; an array that ends just past size_t; one whose rounding does */
        memset(&arena, 0, sizeof arena);
        CHECK(haste__take(&arena, 64, 1) == NULL && !arena.overflow);
        CHECK(haste__take(&arena, i == 0 ? (uint64_t)SIZE_MAX / 8 + 1 : (uint64_t)SIZE_MAX - (i == 1 ? 0 : 100), i == 0 ? 8 : 1) == NULL);
        CHECK(arena.overflow);
        CHECK(haste__take(&arena, 1, 1) == NULL && arena.overflow);
        CHECK_STATUS(haste__reserve(&arena, "scratch", &error), HASTE_ERR_SIZE, error);
        CHECK(arena.memory == NULL);
        arena.memory = (char *)take(64);   /* nor does it hand out more */
        CHECK(haste__take(&arena, 1, 1) == NULL);
        free(arena.memory);
    }
}

static int32_t purity(const int32_t *order, int32_t groups, int32_t S, int32_t clusters)
{
    int32_t count[64], g, i, most, sum = 0;
    for (g = 0; g < groups; g++) {
        memset(count, 0, sizeof count);
        for (i = 0; i < S; i++) count[order[g * S + i] % clusters]++;
        for (most = 0, i = 0; i < clusters; i++) if (count[i] > most) most = count[i];
        sum += most;
    }
    return sum;
}

static void bisection_alone(void)
{
    enum { clusters = 64, S = 32, L = clusters * S, E = 64 };
    float *e = planted(L, E, clusters, .2f, 0);
    int32_t *order = counted(L), i;
    haste__clustering clustering;
    memset(&clustering, 0, sizeof clustering);
    clustering.kernel = haste__best_kernels();
    clustering.embedding = e;
    clustering.E = E;
    clustering.S = S;
    clustering.threads = 1;
    clustering.key = (uint64_t *)take(L * sizeof(uint64_t));
    clustering.n = L;
    for (i = 0; i < L; i++) clustering.key[i] = (uint64_t)i;
    clustering.part = (int64_t *)take(2 * clusters * sizeof(int64_t));
    clustering.sums = (float *)take((1 + HASTE__CLUSTER_PIECES) * E * sizeof(float));
    clustering.total = (double *)take(2 * E * sizeof(double));
    haste__bisect_run(&clustering);
    for (i = 0; i < L; i++) order[i] = haste__key_id(clustering.key[i]);
    CHECK(is_permutation(order, L, 0));
    CHECK(purity(order, clusters, S, clusters) > .9 * L);
    free(order);
    free(clustering.key);
    free(clustering.part);
    free(clustering.sums);
    free(clustering.total);
    free(e);
}

/* One window: many exchanges, a higher cohesion, and the sums kept up to date are the sums of the groups. */
static void exchanges_alone(void)
{
    enum { groups = 23, S = 16, L = groups * S - 3, E = 24 };
    float *e = planted(L, E, 5, .4f, 0);
    int32_t *order = counted(L), g, i, d;
    uint64_t list[groups], key[L];
    int64_t count = 0;
    double before = cohesion_slow(e, E, order, L, S), worst = 0;
    haste__clustering clustering;
    haste__exchange exchange;
    haste__window window;
    memset(&clustering, 0, sizeof clustering);
    clustering.kernel = haste__best_kernels();
    memset(&exchange, 0, sizeof exchange);
    clustering.embedding = e;
    clustering.E = E;
    clustering.S = S;
    clustering.key = key;
    clustering.n = L;
    for (i = 0; i < L; i++) key[i] = (uint64_t)i;
    for (g = 0; g < groups; g++) list[g] = (uint64_t)g;
    exchange.clustering = &clustering;
    exchange.list = list;
    exchange.groups = groups;
    exchange.sum = (float *)take(HASTE__CLUSTER_WINDOW * E * sizeof(float));
    exchange.gain = (float *)take(HASTE__CLUSTER_WINDOW * S * HASTE__CLUSTER_WINDOW * sizeof(float));
    exchange.moved = (uint8_t *)take(HASTE__CLUSTER_WINDOW * S);
    exchange.count = &count;
    haste__window_open(&window, &exchange, 0, 0);
    for (g = 0; g < groups; g++)
        for (i = g + 1; i < groups; i++) count += haste__window_exchange(&window, g, i);
    for (i = 0; i < L; i++) order[i] = haste__key_id(key[i]);
    CHECK(count > L / 10);
    CHECK(is_permutation(order, L, 0));
    CHECK(cohesion_slow(e, E, order, L, S) > before + .1);
    for (g = 0; g < groups; g++)
        for (d = 0; d < E; d++) {
            double sum = 0;
            for (i = g * S; i < (g + 1) * S && i < L; i++) sum += (double)e[order[i] * E + d];
            worst = fmax(worst, fabs(sum - (double)exchange.sum[g * E + d]));
        }
    for (g = 0; g < groups; g++) {
        double square = 0;
        for (d = 0; d < E; d++) square += (double)exchange.sum[g * E + d] * (double)exchange.sum[g * E + d];
        CHECK_NEAR(window.square[g], square, 1e-4 * (1 + square));
    }
    CHECK_NEAR(worst, 0, 1e-5);
    free(order);
    free(exchange.sum);
    free(exchange.gain);
    free(exchange.moved);
    free(e);
}

/* 64 clusters of 32 labels with noise longer than the centre itself come back as 64 pure groups. */
static void planted_clusters(void)
{
    const int32_t clusters = 64, S = 32, L = 64 * 32, E = 128;
    float *e = planted(L, E, clusters, 1, 0);
    int32_t *order = counted(L);
    double found, given;
    given = cohesion_of(e, L, E, order, L, S);
    CHECK_NEAR(given, cohesion_slow(e, E, order, L, S), 1e-5);
    CHECK_STATUS(haste_group(e, L, E, order, L, NULL, &error), HASTE_OK, error);
    CHECK(is_permutation(order, L, 0));
    CHECK(purity(order, clusters, S, clusters) > .98 * L);
    found = cohesion_of(e, L, E, order, L, S);
    CHECK_NEAR(found, cohesion_slow(e, E, order, L, S), 1e-5);
    CHECK(found > given + .3 && found > random_cohesion(e, L, E, order, L, S) + .3);
    free(order);
    free(e);
}

/* More exchanges never make it worse, and they do make it better where nothing is clear-cut. */
static void exchanges(void)
{
    const int32_t L = 3000, E = 48, rounds[5] = {HASTE_NONE, 1, 4, 0, 40};   /* 0: 16 */
    float *e = planted(L, E, 40, 1.5f, 0);
    double before = 0, found;
    int i;
    for (i = 0; i < 5; i++) {
        int32_t *order = counted(L);
        haste_group_options options = {16, 0, 0, 1};
        options.iterations = rounds[i];
        CHECK_STATUS(haste_group(e, L, E, order, L, &options, &error), HASTE_OK, error);
        found = cohesion_of(e, L, E, order, L, 16);
        CHECK(i < 4 ? found > before : found >= before);
        before = found;
        CHECK(found > random_cohesion(e, L, E, order, L, 16));
        free(order);
    }
    free(e);
}

/* Any n; labels without an embedding come last and in their old order; a head before `order` stays; ids outside stay away. */
static void odd_sizes(void)
{
    static const int32_t sizes[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 65, 100, 257, 1000};
    static const int32_t dims[] = {1, 2, 3, 5, 31, 33, 70};
    size_t s, d;
    for (s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (d = 0; d < sizeof dims / sizeof *dims; d++) {
            const int32_t n = sizes[s], head = 5, L = n + head, E = dims[d], S = s % 3 == 0 ? 8 : s % 3 == 1 ? 16 : 256;
            const int hole = d % 2 ? 3 : 0;
            float *e = planted(L, E, 4, .5f, hole);
            int32_t *order = counted(L + 1), i, empty = 0, last = -1;
            haste_group_options options = {0, 0, 2, 9};
            int64_t none = -1;
            double found = -1;
            int ok = 1;
            options.group_size = S;
            order[L] = -77;
            CHECK_STATUS(haste_group(e, L, E, order + head, n, &options, &error), HASTE_OK, error);
            for (i = 0; i < head; i++) ok &= order[i] == i;
            CHECK(ok && order[L] == -77);
            CHECK(is_permutation(order + head, n, head));
            for (i = head; i < L; i++) empty += hole && i % hole == 0;
            CHECK_STATUS(haste_cohesion(e, L, E, order + head, n, S, 2, &found, &none, &error), HASTE_OK, error);
            CHECK(none == empty);
            for (i = L - empty; i < L; i++) { ok &= order[i] % hole == 0 && order[i] > last; last = order[i]; }
            CHECK(ok);
            CHECK_NEAR(found, cohesion_slow(e, E, order + head, n, S), 1e-5);
            /* in one dimension an exchange may earn nothing until others have been made */
            if (E > 1) CHECK(found >= random_cohesion(e, L, E, order + head, n - empty, S) - 1e-6);
            free(order);
            free(e);
        }
}

/* n just past a multiple of S: the short group is the last, and no group in the middle gets a stranger. */
static void only_last_short(void)
{
    const int32_t clusters = 20, S = 16, L = 20 * 16 + 5, E = 64;
    float *e = planted(L, E, clusters, .3f, 0);
    int32_t *order = counted(L), g, i, mixed = 0;
    haste_group_options options = {16, 0, 0, 2};
    CHECK_STATUS(haste_group(e, L, E, order, L, &options, &error), HASTE_OK, error);
    CHECK(is_permutation(order, L, 0));
    for (g = 0; g < clusters; g++)
        for (i = 1; i < S; i++) mixed += order[g * S + i] % clusters != order[g * S] % clusters;
    CHECK(mixed <= 5 * S);   /* 5 labels too many in 5 clusters: they and what they push out */
    free(order);
    free(e);
}

/* The same bits for 1, 2, 3 and 7 threads, sizes above and below what is judged by a sample; other seeds, other bits. */
static void determinism(void)
{
    static const int32_t sizes[2] = {3001, 40011};
    static const int32_t dims[2] = {40, 16};
    int k, t;
    for (k = 0; k < 2; k++) {
        const int32_t L = sizes[k], E = dims[k];
        float *e = planted(L, E, 50, 1, 17);
        int32_t *first = counted(L), *order;
        haste_group_options options = {16, 4, 1, 3};
        double found, again = -1;
        CHECK_STATUS(haste_group(e, L, E, first, L, &options, &error), HASTE_OK, error);
        CHECK(is_permutation(first, L, 0));
        found = cohesion_of(e, L, E, first, L, 16);
        CHECK_NEAR(found, cohesion_slow(e, E, first, L, 16), 1e-5);
        for (t = 2; t < 8; t += t == 3 ? 4 : 1) {
            order = counted(L);
            options.threads = t;
            CHECK_STATUS(haste_group(e, L, E, order, L, &options, &error), HASTE_OK, error);
            CHECK(memcmp(order, first, (size_t)L * sizeof *order) == 0);
            CHECK_STATUS(haste_cohesion(e, L, E, order, L, 16, t, &again, NULL, &error), HASTE_OK, error);
            CHECK(again == found);
            free(order);
        }
        order = counted(L);
        options.seed = 4;
        CHECK_STATUS(haste_group(e, L, E, order, L, &options, &error), HASTE_OK, error);
        CHECK(memcmp(order, first, (size_t)L * sizeof *order) != 0);
        CHECK_NEAR(cohesion_of(e, L, E, order, L, 16), found, .02);
        CHECK(found > random_cohesion(e, L, E, order, L, 16));
        free(order);
        free(first);
        free(e);
    }
}

/* Rows that are all alike, in pairs opposite, or all empty: nothing to find, nothing breaks. */
static void degenerate(void)
{
    const int32_t L = 200, E = 20;
    int kind;
    for (kind = 0; kind < 3; kind++) {
        float *e = (float *)take((size_t)L * (size_t)E * sizeof(float));
        int32_t *order = counted(L), i;
        haste_group_options options = {8, 0, 2, 3};
        int64_t none = -1;
        double found = -1;
        memset(e, 0, (size_t)L * (size_t)E * sizeof(float));
        for (i = 0; i < L; i++) if (kind < 2) e[i * E + 7] = kind == 1 && i % 2 ? -1 : 1;
        CHECK_STATUS(haste_group(e, L, E, order, L, &options, &error), HASTE_OK, error);
        CHECK(is_permutation(order, L, 0));
        CHECK_STATUS(haste_cohesion(e, L, E, order, L, 8, 0, &found, &none, &error), HASTE_OK, error);
        CHECK(none == (kind == 2 ? L : 0));
        CHECK_NEAR(found, kind == 0 ? 1 : kind == 1 ? .96 : 0, 1e-6);   /* 100 = 12 * 8 + 4 of each: one mixed group */
        free(e);
        free(order);
    }
}

/* ---- errors -------------------------------------------------------------------------------------------------- */

static void embed_errors(void)
{
    enum { L = 3, E = 4, B = 2 };
    float e[L * E], before[L * E], x[B * E];
    int64_t offset[B + 1] = {0, 2, 3}, label_offset[B + 1] = {0, 1, 3};
    int32_t feature[3] = {5, 6, 7}, id[3] = {0, 2, 1};
    float value[3] = {1, 2, 3};
    haste_sparse s;
    haste_lists p, broken;
    int i;
    s.offset = offset;
    s.feature = feature;
    s.value = value;
    p.offset = label_offset;
    p.id = id;
    for (i = 0; i < L * E; i++) before[i] = e[i] = (float)i;
    for (i = 0; i < B * E; i++) x[i] = 1;

    CHECK_STATUS(haste_embed_sparse(NULL, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_sparse(e, 0, E, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_sparse(e, L, 0, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, -1, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK(error.status == HASTE_ERR_ARG && strstr(error.text, "B = -1"));
    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, NULL), HASTE_OK, error);   /* and once right, to compare with */
    memcpy(e, before, sizeof e);
    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, 0, &p, 0, &error), HASTE_OK, error);

    s.offset = NULL;  CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);  s.offset = offset;
    s.feature = NULL; CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);  s.feature = feature;
    s.value = NULL;   CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_ARG, error);  s.value = value;
    offset[1] = 4;    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_DATA, error); offset[1] = 2;
    offset[0] = -1;   CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_DATA, error); offset[0] = 0;
    feature[2] = -1;  CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_DATA, error); feature[2] = 7;
    value[2] = (float)NAN;      CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_DATA, error);
    value[2] = (float)INFINITY; CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, 0, &error), HASTE_ERR_DATA, error);
    value[2] = 3;

    CHECK_STATUS(haste_embed_dense(NULL, L, E, x, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, -1, E, x, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, 0, x, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, E, NULL, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, E, x, -5, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, E, NULL, 0, &p, 0, &error), HASTE_OK, error);
    x[B * E - 1] = (float)NAN; CHECK_STATUS(haste_embed_dense(e, L, E, x, B, &p, 0, &error), HASTE_ERR_DATA, error); x[B * E - 1] = 1;

    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, NULL, B, &p, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, NULL, 0, &error), HASTE_ERR_ARG, error);
    CHECK(strstr(error.text, "positives is NULL") != NULL);
    CHECK_STATUS(haste_embed_dense(e, L, E, x, B, NULL, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &p, -1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, E, x, B, &p, 4097, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_dense(e, L, E, x, 0, NULL, -1, &error), HASTE_ERR_ARG, error);
    for (i = 0; i < 6; i++) {   /* the lists, in both functions */
        haste_status want = i < 2 ? HASTE_ERR_ARG : HASTE_ERR_DATA;
        broken = p;
        if (i == 0) broken.offset = NULL;
        if (i == 1) broken.id = NULL;
        if (i == 2) id[2] = L;
        if (i == 3) id[2] = -1;
        if (i == 4) label_offset[1] = 4;
        if (i == 5) label_offset[0] = -1;
        CHECK_STATUS(haste_embed_sparse(e, L, E, 1, &s, B, &broken, 0, &error), want, error);
        CHECK_STATUS(haste_embed_dense(e, L, E, x, B, &broken, 0, &error), want, error);
        CHECK(error.text[0] != 0 && error.status == want);
        id[2] = 1;
        label_offset[1] = 1;
        label_offset[0] = 0;
    }
    CHECK(memcmp(e, before, sizeof e) == 0);

    CHECK_STATUS(haste_embed_finish(NULL, L, E, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_finish(e, 0, E, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_embed_finish(e, L, -4, &error), HASTE_ERR_ARG, error);
    e[L * E - 1] = before[L * E - 1] = (float)INFINITY;
    CHECK_STATUS(haste_embed_finish(e, L, E, &error), HASTE_ERR_DATA, error);
    CHECK(memcmp(e, before, sizeof e) == 0);
}

static void order_errors(void)
{
    int64_t frequency[3] = {1, -2, 3};
    int32_t order[3] = {7, 8, 9};
    CHECK_STATUS(haste_order_by_frequency(NULL, 3, order, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_order_by_frequency(frequency, 3, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_order_by_frequency(frequency, 0, order, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_order_by_frequency(frequency, 3, order, &error), HASTE_ERR_DATA, error);
    CHECK(strstr(error.text, "frequency[1] = -2") != NULL);
    CHECK_STATUS(haste_order_random(NULL, 3, 1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_order_random(order, -1, 1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_order_random(order, INT64_C(1) << 31, 1, &error), HASTE_ERR_ARG, error);
    CHECK(order[0] == 7 && order[1] == 8 && order[2] == 9);
}

static void group_errors(void)
{
    static const int32_t bad_sizes[] = {-8, 4, 12, 33, 264, 1 << 20};
    const int32_t L = 100, E = 16;
    float *e = planted(L, E, 4, .5f, 0), saved;
    int32_t *order = counted(L), *before = counted(L);
    haste_group_options options = {16, 0, 0, 0}, bad = options;
    double cohesion = -3;
    int64_t none = -3;
    size_t i;
#define BOTH(e, L, E, order, n, S, want)                                                                               \
    do {                                                                                                               \
        bad = options;                                                                                                 \
        bad.group_size = (S);                                                                                          \
        CHECK_STATUS(haste_group(e, L, E, order, n, &bad, &error), want, error);                                       \
        CHECK(error.text[0] != 0 && error.status == want);                                                             \
        CHECK_STATUS(haste_cohesion(e, L, E, order, n, S, 2, &cohesion, &none, &error), want, error);                  \
    } while (0)
    BOTH(NULL, L, E, order, L, 16, HASTE_ERR_ARG);
    BOTH(e, 0, E, order, 0, 16, HASTE_ERR_ARG);
    BOTH(e, -1, E, order, 0, 16, HASTE_ERR_ARG);
    BOTH(e, L, 0, order, L, 16, HASTE_ERR_ARG);
    BOTH(e, L, E, NULL, L, 16, HASTE_ERR_ARG);
    BOTH(e, L, E, order, -1, 16, HASTE_ERR_ARG);
    BOTH(e, L, E, order, L + 1, 16, HASTE_ERR_ARG);
    for (i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) BOTH(e, L, E, order, L, bad_sizes[i], HASTE_ERR_ARG);
    order[50] = L;  BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);
    order[50] = -1; BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);
    order[50] = 49; BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);   /* twice */
    CHECK(strstr(error.text, "order[50] = 49") != NULL);
    order[50] = 50;
    saved = e[50 * E + 3];
    e[50 * E + 3] = (float)NAN;      BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);
    e[50 * E + 3] = (float)INFINITY; BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);
    e[50 * E + 3] = saved;
    for (i = 0; i < (size_t)E; i++) e[50 * E + (int)i] *= 1.2f;
    BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);   /* a length of 1.2 */
    for (i = 0; i < (size_t)E; i++) e[50 * E + (int)i] /= 1.2f;
    e[50 * E + 3] = 30;              BOTH(e, L, E, order, L, 16, HASTE_ERR_DATA);   /* not a unit row */
    e[50 * E + 3] = saved;
    bad = options; bad.iterations = -2;
    CHECK_STATUS(haste_group(e, L, E, order, L, &bad, &error), HASTE_ERR_ARG, error);
    for (i = 0; i < 2; i++) {
        bad = options; bad.threads = i ? -1 : 4097;
        CHECK_STATUS(haste_group(e, L, E, order, L, &bad, &error), HASTE_ERR_ARG, error);
        CHECK_STATUS(haste_cohesion(e, L, E, order, L, 16, bad.threads, &cohesion, &none, &error), HASTE_ERR_ARG, error);
    }
    CHECK_STATUS(haste_cohesion(e, L, E, order, L, 16, 0, NULL, &none, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_cohesion(e, L, E, order, L, 0, 0, &cohesion, &none, &error), HASTE_ERR_ARG, error);
    CHECK(memcmp(order, before, (size_t)L * sizeof *order) == 0);
    CHECK(cohesion == -3 && none == -3);
    CHECK_STATUS(haste_group(e, L, E, order, L, &options, NULL), HASTE_OK, error);
    CHECK_STATUS(haste_group(e, L, E, NULL, 0, &options, &error), HASTE_OK, error);
    CHECK_STATUS(haste_cohesion(e, L, E, NULL, 0, 16, 0, &cohesion, &none, &error), HASTE_OK, error);
    CHECK(cohesion == 0 && none == 0);
    free(e);
    free(order);
    free(before);
}

/* Each allocation fails in turn: HASTE_ERR_MEMORY, outputs as they were, nothing left behind. */
static void failing_memory(void)
{
    enum { L = 90, E = 12 };
    static const int64_t offset[2] = {0, 3};
    static const int32_t id[3] = {4, 2, 4}, feature[3] = {1, 2, 3};
    static const float value[3] = {1, 2, 3};
    float *e = planted(L, E, 4, .5f, 0), before[L * E], sample[E];
    int32_t *order = counted(L), *old = counted(L);
    int64_t frequency[L] = {0};
    haste_sparse x;
    haste_lists p;
    double cohesion;
    int call;
    x.offset = offset;
    x.feature = feature;
    x.value = value;
    p.offset = offset;
    p.id = id;
    for (call = 0; call < E; call++) sample[call] = 1;
    memcpy(before, e, sizeof before);
    CHECK(allocate_live == 0);
    for (call = 0; call < 5; call++) {
        long n;
        for (n = 1; n < 20; n++) {
            haste_status status;
            cohesion = -3;
            allocate_calls = 0;
            allocate_fail = n;
            status = call == 0 ? haste_order_by_frequency(frequency, L, order, &error)
                   : call == 1 ? haste_embed_sparse(e, L, E, 1, &x, 1, &p, 1, &error)
                   : call == 2 ? haste_embed_dense(e, L, E, sample, 1, &p, 1, &error)
                   : call == 3 ? haste_cohesion(e, L, E, order, L, 16, 1, &cohesion, NULL, &error)
                               : haste_group(e, L, E, order, L, NULL, &error);
            allocate_fail = 0;
            CHECK(allocate_live == 0);
            if (status == HASTE_OK) break;
            CHECK_STATUS(status, HASTE_ERR_MEMORY, error);
            CHECK(memcmp(order, old, sizeof *order * L) == 0);
            CHECK(memcmp(e, before, sizeof before) == 0);
            CHECK_NEAR(cohesion, -3, 0);
        }
        CHECK(n > 1 && n < 20);
        memcpy(e, before, sizeof before);
        memcpy(order, old, sizeof *order * L);
    }
    free(e);
    free(order);
    free(old);
}

/* More samples than one thread takes: the same bits for any number of threads, and for samples given one by one. */
static void embed_threads(void)
{
    enum { LABELS = 50, DIMENSIONS = 72, SAMPLES = 600, FEATURES = 5, POSITIVES = 4 };
    static int64_t offset[SAMPLES + 1], positive[SAMPLES + 1];
    static int32_t feature[SAMPLES * FEATURES], id[SAMPLES * POSITIVES];
    static float value[SAMPLES * FEATURES], dense[SAMPLES * DIMENSIONS], one[LABELS * DIMENSIONS], all[LABELS * DIMENSIONS];
    haste_sparse x = { offset, feature, value };
    haste_lists lists = { positive, id };
    int i, threads, kind;
    for (i = 0; i <= SAMPLES; i++) { offset[i] = (int64_t)i * FEATURES; positive[i] = (int64_t)i * POSITIVES; }
    for (i = 0; i < SAMPLES * FEATURES; i++) { feature[i] = (int32_t)(check_random() % 3000); value[i] = check_normal(); }
    for (i = 0; i < SAMPLES * POSITIVES; i++) id[i] = (int32_t)(check_random() % LABELS);
    for (i = 0; i < SAMPLES * DIMENSIONS; i++) dense[i] = check_normal();
    for (kind = 0; kind < 2; kind++) {
        memset(one, 0, sizeof one);
        for (i = 0; i < SAMPLES; i++) {
            haste_sparse xi = { offset + i, feature, value };
            haste_lists li = { positive + i, id };
            if (kind) haste_embed_dense(one, LABELS, DIMENSIONS, dense + i * DIMENSIONS, 1, &li, 1, NULL);
            else haste_embed_sparse(one, LABELS, DIMENSIONS, 3, &xi, 1, &li, 1, NULL);
        }
        for (threads = 0; threads < 6; threads++) {
            memset(all, 0, sizeof all);
            CHECK((kind ? haste_embed_dense(all, LABELS, DIMENSIONS, dense, SAMPLES, &lists, threads, NULL)
                        : haste_embed_sparse(all, LABELS, DIMENSIONS, 3, &x, SAMPLES, &lists, threads, NULL)) == HASTE_OK);
            CHECK(memcmp(one, all, sizeof all) == 0);
        }
        CHECK(one[0] != 0);
    }
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(embed_threads);
    RUN(frequency_order);
    RUN(random_order);
    RUN(embed_dense);
    RUN(finish);
    RUN(embed_sparse);
    RUN(embed_sparse_small);
    RUN(long_lists);
    RUN(keys);
    RUN(sorting);
    RUN(arenas);
    RUN(bisection_alone);
    RUN(exchanges_alone);
    RUN(planted_clusters);
    RUN(exchanges);
    RUN(odd_sizes);
    RUN(only_last_short);
    RUN(determinism);
    RUN(degenerate);
    RUN(embed_errors);
    RUN(order_errors);
    RUN(group_errors);
    RUN(failing_memory);
    return check_end();
}
