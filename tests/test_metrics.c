/* Metrics: cases worked by hand, a brute-force double check on random data, and errors that change nothing. */
#include <stdlib.h>

static int allocations, fail_at = -1;   /* fail_at: the allocation that fails, -1: none */
static void *count_malloc(size_t bytes) { return allocations++ == fail_at ? NULL : malloc(bytes); }

#define HASTE_MALLOC(bytes) count_malloc(bytes)
#define HASTE_FREE(memory)  free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"

static haste_error error;

static haste_lists lists(const int64_t *offset, const int32_t *id)
{
    haste_lists l;
    l.offset = offset;
    l.id = id;
    return l;
}

static void inverse_propensity(void)
{
    int64_t n[4] = { 0, 1, 10, 1000 };
    double out[4], c;
    int i;
    /* N = 1000, a = .55, b = 1.5: c = (6.907755 - 1) * 2.5^.55 = 5.907755 * 1.655263 = 9.778889.
       n = 0:    1.5^-.55    = .800110, 1 + c * .800110 = 8.824187
       n = 10:   11.5^-.55   = .260985, 1 + c * .260985 = 3.552144 */
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 0, 0, out, &error), HASTE_OK, error);
    CHECK_NEAR(out[0], 8.824187, 1e-5);
    CHECK_NEAR(out[2], 3.552144, 1e-5);
    c = (log(1000.0) - 1) * pow(2.5, .55);
    for (i = 0; i < 4; i++) CHECK_NEAR(out[i], 1 + c * pow((double)n[i] + 1.5, -.55), 1e-12);
    /* a = 1, b = 1, n = 1: c * 1/2 with c = 2 (log N - 1): exactly log N. n = 0 gives 1 + 2 (log N - 1). */
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 1, 1, out, &error), HASTE_OK, error);
    CHECK_NEAR(out[1], log(1000.0), 1e-12);
    CHECK_NEAR(out[0], 2 * log(1000.0) - 1, 1e-12);
    /* a = 0: every label has the same. */
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 0, 3, out, &error), HASTE_OK, error);
    for (i = 0; i < 4; i++) CHECK_NEAR(out[i], log(1000.0), 1e-12);
    /* Two samples or one: log N < 1, c is held at 0. */
    CHECK_STATUS(haste_inverse_propensity(n, 2, 2, 0, 0, out, &error), HASTE_OK, error);
    CHECK(out[0] == 1 && out[1] == 1);
    CHECK_STATUS(haste_inverse_propensity(n, 2, 1, 0, 0, out, &error), HASTE_OK, error);
    CHECK(out[0] == 1 && out[1] == 1);

    for (i = 0; i < 4; i++) out[i] = -7;
    CHECK_STATUS(haste_inverse_propensity(NULL, 4, 1000, 0, 0, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 0, 0, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 0, 1000, 0, 0, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 0, 0, 0, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, .5, 0, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, -.5, 1, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, NAN, 1, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 100.5, 1, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, .5, 2e9, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, .5, NAN, out, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_inverse_propensity(n, 4, 999, 0, 0, out, &error), HASTE_ERR_DATA, error);
    CHECK(strstr(error.text, "frequency[3] = 1000") != NULL);
    n[1] = -1;
    CHECK_STATUS(haste_inverse_propensity(n, 4, 1000, 0, 0, out, &error), HASTE_ERR_DATA, error);
    for (i = 0; i < 4; i++) CHECK(out[i] == -7);
}

/* Three samples, L = 10, k = 3; 1/log2(2) = 1, 1/log2(3) = .6309298, 1/log2(4) = .5.

     y           predictions   right at   1/p of y
     {7, 1, 4}   4  2  1       1 and 3    5, 2, 3
     {5}         0  5  -       2          4
     {}          1  2  3       -          */
static void by_hand(void)
{
    static const int64_t offset[4] = { 2, 5, 6, 6 };   /* a slice of a larger set: two ids lie before it */
    static const int32_t id[6] = { -99, 99, 7, 1, 4, 5 };
    static const int32_t predicted[9] = { 4, 2, 1, 0, 5, -1, 1, 2, 3 };
    static const double p[10] = { 1, 2, 1, 1, 3, 4, 1, 5, 1, 1 };
    const double d = .63092975357145743, norm = 1.5 + .63092975357145743;
    const haste_lists truth = lists(offset, id);
    haste_metrics m;
    haste_metrics_values s;
    CHECK_STATUS(haste_metrics_init(&m, 3, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 3);   /* no samples yet */
    CHECK(s.precision == 0 && s.ndcg == 0 && s.recall == 0 && s.psp == 0 && s.psndcg == 0);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 3, 3, 10, &truth, p, NULL, &error), HASTE_OK, error);
    CHECK(m.samples == 3);
    CHECK(m.hits[0] == 1 && m.hits[1] == 1 && m.hits[2] == 1);
    s = haste_metrics_get(&m, 1);
    CHECK_NEAR(s.precision, 100. / 3, 1e-10);                         /* 4 of sample 0 */
    CHECK_NEAR(s.ndcg, 100. / 3, 1e-10);
    CHECK_NEAR(s.recall, 100. * (1. / 3) / 3, 1e-10);
    CHECK_NEAR(s.psp, 100. * 3 / (5 + 4), 1e-10);
    CHECK_NEAR(s.psndcg, 100. * 3 / (5 + 4), 1e-10);
    s = haste_metrics_get(&m, 3);
    CHECK_NEAR(s.precision, 100. * (2. / 3 + 1. / 3) / 3, 1e-10);
    CHECK_NEAR(s.ndcg, 100. * ((1 + .5) / norm + d) / 3, 1e-10);      /* sample 1 has one positive: its ideal is 1 */
    CHECK_NEAR(s.recall, 100. * (2. / 3 + 1) / 3, 1e-10);
    CHECK_NEAR(s.psp, 100. * (3 + 2 + 4) / (5 + 3 + 2 + 4), 1e-10);
    CHECK_NEAR(s.psndcg, 100. * ((3 + 2 * .5) / norm + 4 * d) / ((5 + 3 * d + 2 * .5) / norm + 4), 1e-10);

    /* Without propensities each label counts 1: psp@3 is hits over the most hits that there could be. */
    CHECK_STATUS(haste_metrics_init(&m, 3, &error), HASTE_OK, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 3, 3, 10, &truth, NULL, NULL, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 3);
    CHECK_NEAR(s.psp, 100. * 3 / 4, 1e-10);
    s = haste_metrics_get(&m, 2);
    CHECK_NEAR(s.psp, 100. * 2 / 3, 1e-10);   /* min(2, 3) + min(2, 1) */

    /* Best possible predictions give 100 everywhere but precision, which the short sample holds down: (1 + 1/3 + 0) / 3. */
    {
        static const int32_t best[9] = { 7, 4, 1, 5, -1, -1, -1, -1, -1 };
        static const int64_t two[3] = { 2, 5, 6 };
        const haste_lists shorter = lists(two, id);
        CHECK_STATUS(haste_metrics_init(&m, 3, &error), HASTE_OK, error);
        CHECK_STATUS(haste_metrics_add(&m, best, 2, 3, 10, &shorter, p, NULL, &error), HASTE_OK, error);
        s = haste_metrics_get(&m, 3);
        CHECK_NEAR(s.precision, 100. * (1 + 1. / 3) / 2, 1e-10);
        CHECK_NEAR(s.ndcg, 100, 1e-10);
        CHECK_NEAR(s.recall, 100, 1e-10);
        CHECK_NEAR(s.psp, 100, 1e-10);
        CHECK_NEAR(s.psndcg, 100, 1e-10);
    }
    s = haste_metrics_get(&m, 4);
    CHECK(isnan(s.precision) && isnan(s.psndcg));
    s = haste_metrics_get(&m, 0);
    CHECK(isnan(s.psp));
    CHECK(isnan(haste_metrics_get(NULL, 1).ndcg));
}

/* Truth {3, 3, 8}: two positives. Predictions 3 3 8: the second 3 is a wasted rank, not a second hit. */
static void duplicates(void)
{
    static const int64_t offset[2] = { 0, 3 };
    static const int32_t id[3] = { 3, 3, 8 }, predicted[3] = { 3, 3, 8 };
    const haste_lists truth = lists(offset, id);
    haste_metrics m;
    haste_metrics_values s;
    haste_metrics_init(&m, 3, NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 1, 3, 10, &truth, NULL, NULL, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 3);
    CHECK(m.hits[0] == 1 && m.hits[1] == 0 && m.hits[2] == 1);
    CHECK_NEAR(s.recall, 100, 1e-10);
    CHECK_NEAR(s.ndcg, 100 * (1 + .5) / (1 + log(2.) / log(3.)), 1e-10);
    s = haste_metrics_get(&m, 2);
    CHECK_NEAR(s.precision, 50, 1e-10);
    CHECK_NEAR(s.recall, 50, 1e-10);
}

/* y = {1, 2, 6}, filter {2, 9, 2}: truth becomes {1, 6}, predictions 9 1 2 6 become 1 6. */
static void filters(void)
{
    static const int64_t offset[3] = { 0, 3, 4 }, filter_offset[3] = { 1, 4, 5 };
    static const int32_t id[4] = { 1, 2, 6, 5 }, filter_id[5] = { 77, 2, 9, 2, 5 };
    static const int32_t predicted[8] = { 9, 1, 2, 6, 5, 4, 3, 2 };
    const haste_lists truth = lists(offset, id), filter = lists(filter_offset, filter_id);
    haste_metrics m;
    haste_metrics_values s;
    haste_metrics_init(&m, 4, NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 1, 4, 10, &truth, NULL, &filter, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 2);
    CHECK_NEAR(s.precision, 100, 1e-10);
    CHECK_NEAR(s.ndcg, 100, 1e-10);
    CHECK_NEAR(s.recall, 100, 1e-10);
    s = haste_metrics_get(&m, 4);
    CHECK_NEAR(s.precision, 50, 1e-10);
    CHECK_NEAR(s.psp, 100, 1e-10);
    /* The second sample's only positive is filtered away: it counts as a sample without positives. */
    haste_metrics_init(&m, 4, NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 4, 10, &truth, NULL, &filter, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 2);
    CHECK(m.samples == 2);
    CHECK_NEAR(s.precision, 50, 1e-10);
    CHECK_NEAR(s.psp, 100, 1e-10);
    /* A filter that is longer than the truth, and than what lies on the stack: 6 goes, 1 and 2 stay. */
    {
        static int32_t many[700];
        const int64_t many_offset[2] = { 0, 700 };
        const haste_lists long_filter = lists(many_offset, many);
        int i;
        for (i = 0; i < 700; i++) many[i] = 3 + i % 7;
        haste_metrics_init(&m, 4, NULL);
        CHECK_STATUS(haste_metrics_add(&m, predicted, 1, 4, 10, &truth, NULL, &long_filter, &error), HASTE_OK, error);
        CHECK(m.hits[0] == 1 && m.hits[1] == 1 && m.hits[2] == 0);
        CHECK_NEAR(haste_metrics_get(&m, 2).recall, 100, 1e-10);
        CHECK(allocations > 0);
    }
    /* Nothing is left to be found: all measures are 0. */
    {
        static const int64_t none[3] = { 4, 4, 4 };
        const haste_lists empty = lists(none, NULL);
        haste_metrics_init(&m, 4, NULL);
        CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 4, 10, &empty, NULL, NULL, &error), HASTE_OK, error);
        s = haste_metrics_get(&m, 4);
        CHECK(m.samples == 2 && s.precision == 0 && s.ndcg == 0 && s.recall == 0 && s.psp == 0 && s.psndcg == 0);
    }
}

/* The definitions again, with marks per label instead of sorted lists. */
static void slow(int k_all, const int32_t *id, int B, int L, haste_lists truth, const double *p, const haste_lists *filter,
                 haste_metrics_values *out)
{
    char *y = (char *)malloc((size_t)L), *off = (char *)malloc((size_t)L), *used = (char *)malloc((size_t)L);
    double *gains = (double *)malloc((size_t)L * sizeof *gains);
    int k, b, i, j;
    for (k = 1; k <= k_all; k++) {
        double prec = 0, ndcg = 0, recall = 0, psp = 0, psp_best = 0, psn = 0, psn_best = 0;
        for (b = 0; b < B; b++) {
            int rank = 0, n = 0, hits = 0;
            double dcg = 0, ideal = 0, norm = 0, top = 0, bestsum = 0, ps = 0, psdcg = 0;
            int64_t at;
            memset(y, 0, (size_t)L); memset(off, 0, (size_t)L); memset(used, 0, (size_t)L);
            for (at = truth.offset[b]; at < truth.offset[b + 1]; at++) y[truth.id[at]] = 1;
            for (at = filter ? filter->offset[b] : 0; filter && at < filter->offset[b + 1]; at++) { off[filter->id[at]] = 1; y[filter->id[at]] = 0; }
            for (i = 0; i < L; i++) if (y[i]) gains[n++] = p ? p[i] : 1;
            for (i = 0; i < k_all && rank < k; i++) {
                int32_t l = id[b * k_all + i];
                if (l >= 0 && off[l]) continue;
                rank++;
                if (l < 0 || used[l]) continue;
                used[l] = 1;
                if (!y[l]) continue;
                hits++;
                dcg += 1 / log2(rank + 1.);
                ps += (p ? p[l] : 1) / k;
                psdcg += (p ? p[l] : 1) / log2(rank + 1.);
            }
            for (i = 0; i < n && i < k; i++) {   /* selection of the largest left */
                int largest = i;
                double t;
                for (j = i + 1; j < n; j++) if (gains[j] > gains[largest]) largest = j;
                t = gains[i]; gains[i] = gains[largest]; gains[largest] = t;
                ideal += 1 / log2(i + 2.);
                norm = ideal;
                top += gains[i] / k;
                bestsum += gains[i] / log2(i + 2.);
            }
            prec += (double)hits / k;
            if (n > 0) {
                ndcg += dcg / ideal;
                recall += (double)hits / n;
                psp += ps;
                psp_best += top;
                psn += psdcg / norm;
                psn_best += bestsum / norm;
            }
        }
        out[k].precision = 100 * prec / B;
        out[k].ndcg = 100 * ndcg / B;
        out[k].recall = 100 * recall / B;
        out[k].psp = psp_best > 0 ? 100 * psp / psp_best : 0;
        out[k].psndcg = psn_best > 0 ? 100 * psn / psn_best : 0;
    }
    free(y); free(off); free(used); free(gains);
}

static void random_lists(void)
{
    enum { B = 40, L = 900, K = 64 };
    static int32_t id[B * K], truth_id[B * 3000], filter_id[B * 400];
    int64_t truth_offset[B + 1], filter_offset[B + 1], n[L];
    double p[L];
    haste_metrics_values want[K + 1];
    int round, b, i, k;
    for (round = 0; round < 12; round++) {
        int depth = round == 0 ? 1 : round == 1 ? 64 : 1 + (int)(check_random() % K), with_filter = round % 3 != 0, with_p = round % 4 != 1;
        int range = round % 2 ? L : 40;   /* the small range makes many hits and repeats */
        int64_t at = round * 3, first = at;
        haste_lists truth = lists(truth_offset, truth_id), filter = lists(filter_offset, filter_id);
        haste_metrics m;
        for (i = 0; i < L; i++) n[i] = check_random() % 500;
        CHECK_STATUS(haste_inverse_propensity(n, L, 1000, 0, 0, p, &error), HASTE_OK, error);
        truth_offset[0] = at;
        for (b = 0; b < B; b++) {
            int count = b % 7 == 0 ? 0 : b % 11 == 0 ? 2000 : (int)(check_random() % 40);   /* 2,000: not on the stack */
            while (count-- > 0) truth_id[at++] = (int32_t)(check_random() % (uint32_t)range);
            truth_offset[b + 1] = at;
        }
        filter_offset[0] = at = first;
        for (b = 0; b < B; b++) {
            int count = b % 3 == 0 ? 0 : b == 5 ? 300 : (int)(check_random() % 6);
            while (count-- > 0) filter_id[at++] = (int32_t)(check_random() % (uint32_t)range);
            filter_offset[b + 1] = at;
        }
        for (i = 0; i < B * depth; i++) id[i] = (int32_t)(check_random() % (uint32_t)range) - (check_random() % 20 == 0 ? range : 0);
        for (i = 0; i < B * depth; i++) if (id[i] < 0) id[i] = -1;
        slow(depth, id, B, L, truth, with_p ? p : NULL, with_filter ? &filter : NULL, want);
        CHECK_STATUS(haste_metrics_init(&m, depth, &error), HASTE_OK, error);
        /* in two portions: sums add up */
        CHECK_STATUS(haste_metrics_add(&m, id, 13, depth, L, &truth, with_p ? p : NULL, with_filter ? &filter : NULL, &error), HASTE_OK, error);
        truth.offset += 13;
        filter.offset += 13;
        CHECK_STATUS(haste_metrics_add(&m, id + 13 * depth, B - 13, depth, L, &truth, with_p ? p : NULL, with_filter ? &filter : NULL, &error),
                     HASTE_OK, error);
        for (k = 1; k <= depth; k++) {
            haste_metrics_values got = haste_metrics_get(&m, k);
            CHECK_NEAR(got.precision, want[k].precision, 1e-9);
            CHECK_NEAR(got.ndcg, want[k].ndcg, 1e-9);
            CHECK_NEAR(got.recall, want[k].recall, 1e-9);
            CHECK_NEAR(got.psp, want[k].psp, 1e-9);
            CHECK_NEAR(got.psndcg, want[k].psndcg, 1e-9);
        }
    }
}

/* Half a million positives in one list, in the worst order: seconds if anything were quadratic. */
static void long_list(void)
{
    enum { N = 500000 };
    int32_t *id = (int32_t *)malloc(N * sizeof *id), predicted[2] = { 0, N - 1 };
    int64_t offset[2] = { 0, N };
    const haste_lists truth = lists(offset, id);
    haste_metrics m;
    haste_metrics_values s;
    int i;
    if (!id) return;
    for (i = 0; i < N; i++) id[i] = N - 1 - i;
    haste_metrics_init(&m, 2, NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 1, 2, N, &truth, NULL, NULL, &error), HASTE_OK, error);
    s = haste_metrics_get(&m, 2);
    CHECK_NEAR(s.precision, 100, 1e-10);
    CHECK_NEAR(s.recall, 200. / (double)(int)N, 1e-10);
    free(id);
}

/* More predictions a sample than metrics->k: those of the first ranks count, the others are not read. */
static void wider_rows(void)
{
    enum { B = 20, K = 10, L = 30 };
    int32_t id[B * K], narrow[B * 5], truth_id[B];
    int64_t offset[B + 1];
    const haste_lists truth = lists(offset, truth_id);
    haste_metrics wide, same;
    int b, i;
    for (b = 0; b <= B; b++) offset[b] = b;
    for (b = 0; b < B; b++) {
        truth_id[b] = (int32_t)(check_random() % L);
        for (i = 0; i < K; i++) id[b * K + i] = i < 5 ? (truth_id[b] + i) % L : 1 << 30;   /* the best one is right */
        memcpy(narrow + b * 5, id + b * K, sizeof(int32_t) * 5);
    }
    haste_metrics_init(&wide, 5, NULL);
    haste_metrics_init(&same, 5, NULL);
    CHECK_STATUS(haste_metrics_add(&wide, id, B, K, L, &truth, NULL, NULL, &error), HASTE_OK, error);
    CHECK_STATUS(haste_metrics_add(&same, narrow, B, 5, L, &truth, NULL, NULL, &error), HASTE_OK, error);
    CHECK_NEAR(haste_metrics_get(&wide, 1).precision, 100, 1e-12);
    CHECK_NEAR(haste_metrics_get(&wide, 5).recall, 100, 1e-12);
    CHECK_NEAR(haste_metrics_get(&wide, 5).precision, 20, 1e-12);
    CHECK(memcmp(&wide, &same, sizeof wide) == 0);
}

static void errors(void)
{
    int64_t offset[3] = { 0, 2, 400 };
    static int32_t id[400], predicted[2 * HASTE_MAX_K + 2];   /* as long as the calls say, refused or not */
    double p[50];
    haste_lists truth = lists(offset, id), bad = truth;
    haste_metrics m, before;
    int i;
    for (i = 0; i < 50; i++) p[i] = 1;
    CHECK_STATUS(haste_metrics_init(NULL, 3, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_init(&m, 0, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_init(&m, HASTE_MAX_K + 1, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_init(&m, 3, &error), HASTE_OK, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_OK, error);
    CHECK_STATUS(haste_metrics_add(&m, NULL, 0, 3, 50, &truth, p, NULL, &error), HASTE_OK, error);   /* no samples: nothing is read */
    before = m;

    CHECK_STATUS(haste_metrics_add(NULL, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, NULL, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, -1, 3, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 0, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 2, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);   /* k below metrics->k */
    CHECK(strstr(error.text, "k = 2") != NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 0, -3, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, NULL, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK(strstr(error.text, "truth is NULL") != NULL);
    bad.offset = NULL;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &bad, p, NULL, &error), HASTE_ERR_ARG, error);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, &bad, &error), HASTE_ERR_ARG, error);
    bad = lists(offset, NULL);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &bad, p, NULL, &error), HASTE_ERR_ARG, error);
    predicted[5] = 50;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    CHECK(strstr(error.text, "id[1, 2] = 50") != NULL);
    predicted[5] = -2;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    predicted[5] = 0;
    id[399] = 50;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    CHECK(strstr(error.text, "truth.id[399] = 50") != NULL);
    id[399] = -1;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, &truth, &error), HASTE_ERR_DATA, error);
    id[399] = 0;
    offset[1] = 401;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    offset[1] = 2;
    offset[0] = -1;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    offset[0] = 0;
    p[0] = NAN;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    p[0] = 0;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    p[0] = HUGE_VAL;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_DATA, error);
    CHECK(strstr(error.text, "inverse_propensity[0]") != NULL);
    p[0] = 1;
    for (i = 0; i < 3; i++) {   /* never initialised */
        haste_metrics other = m;
        other.k = i == 0 ? 0 : i == 1 ? -1 : HASTE_MAX_K + 1;
        CHECK_STATUS(haste_metrics_add(&other, predicted, 2, 65, 50, &truth, p, NULL, &error), HASTE_ERR_ARG, error);
        CHECK(strstr(error.text, "haste_metrics_init") != NULL);
        if (i == 2) CHECK(isnan(haste_metrics_get(&other, HASTE_MAX_K + 1).recall));
    }
    fail_at = allocations;
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, &error), HASTE_ERR_MEMORY, error);
    fail_at = -1;
    CHECK(memcmp(&m, &before, sizeof m) == 0);
    CHECK_STATUS(haste_metrics_add(&m, predicted, 2, 3, 50, &truth, p, NULL, NULL), HASTE_OK, error);
    CHECK(m.samples == before.samples + 2);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(inverse_propensity);
    RUN(by_hand);
    RUN(duplicates);
    RUN(filters);
    RUN(wider_rows);
    RUN(random_lists);
    RUN(long_list);
    RUN(errors);
    return check_end();
}
