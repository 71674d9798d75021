/* report.h: how good a model is and how it became so, for haste-train: a line for people, lines of CSV, and page.h's
   curves and bars. A run has a name, which a resumed one keeps. */
#ifndef REPORT_H
#define REPORT_H

#include "haste.h"
#include "reader.h"

#include <time.h>

#define REPORT_RUN 24   /* bytes of a run's name */

static inline void report_scores(const char *name, const haste_metrics *metrics)
{
    const haste_metrics_values one = haste_metrics_get(metrics, 1), three = haste_metrics_get(metrics, 3);
    const haste_metrics_values five = haste_metrics_get(metrics, 5);
    printf("  %s P@1 %.2f P@3 %.2f P@5 %.2f nDCG@5 %.2f PSP@1 %.2f @3 %.2f @5 %.2f", name, one.precision,
           three.precision, five.precision, five.ndcg, one.psp, three.psp, five.psp);
}

/* The same for scripts. */
static inline void report_result(const haste_metrics *metrics)
{
    const haste_metrics_values one = haste_metrics_get(metrics, 1), three = haste_metrics_get(metrics, 3);
    const haste_metrics_values five = haste_metrics_get(metrics, 5);
    printf(" P@1=%.2f P@3=%.2f P@5=%.2f nDCG@5=%.2f PSP@1=%.2f PSP@3=%.2f PSP@5=%.2f", one.precision, three.precision,
           five.precision, five.ndcg, one.psp, three.psp, five.psp);
}

/* A name for a run: when it began (UTC), and a number that another one begun in the same second will not have. */
static inline void report_run(char run[REPORT_RUN], uint64_t number)
{
    const time_t seconds = time(NULL);
    const struct tm *t = gmtime(&seconds);
    char when[16] = "00000000-000000";
    if (t) strftime(when, sizeof when, "%Y%m%d-%H%M%S", t);
    snprintf(run, REPORT_RUN, "%s-%04x", when, (unsigned)((number ^ number >> 16 ^ number >> 32) & 0xffff));
}

/* ---- >>log --------------------------------------------------------------------------------------------------- */

#define REPORT_LOG "run,epoch,step,"   /* what a log begins with */

/* Where training stands. valid, test: P@1, 3, 5, nDCG@5, PSP@1, 3, 5 in percent, of documents held out and of TEST;
   below 0: not asked. epoch counts the parts of an epoch, too. */
typedef struct report_point {
    double epoch, step, seconds, loss, lr, moved, valid[7], test[7];
} report_point;

static inline void report_values(const haste_metrics *metrics, double value[7])
{
    static const int32_t at[] = { 1, 3, 5 };
    int i;
    for (i = 0; i < 3 && metrics; i++) {
        const haste_metrics_values m = haste_metrics_get(metrics, at[i]);
        value[i] = m.precision;
        value[4 + i] = m.psp;
        value[3] = m.ndcg;
    }
    for (i = 0; i < 7 && !metrics; i++) value[i] = -1;
}

/* Opens the log to append to it; a new one gets its heading. NULL with error. */
static inline FILE *report_open_log(const char *path, char *error)
{
    static const char *const name[] = { "P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@3", "PSP@5" };
    FILE *log = fopen(path, "a");
    int i;
    if (!log) {
        data_fail(error, "%s: cannot write: %s", path, strerror(errno));
        return NULL;
    }
    fseek(log, 0, SEEK_END);
    if (ftell(log) == 0) {
        fprintf(log, REPORT_LOG "seconds,loss,lr,moved");
        for (i = 0; i < 14; i++) fprintf(log, ",%s_%s", i < 7 ? "valid" : "test", name[i % 7]);
        fprintf(log, ",train,settings\n");
    }
    return log;
}

/* A field of CSV in quotation marks; line breaks become spaces. */
static inline void report_field(FILE *log, const char *text)
{
    fputs(",\"", log);
    for (; *text; text++) {
        if (*text == '"') fputc('"', log);
        fputc(*text == '\n' ? ' ' : *text, log);
    }
    fputc('"', log);
}

/* One line. train: the file; settings: those that are kept. 0 with error. */
static inline int report_log(const char *path, const char *run, const report_point *point, const char *train,
                             const char *settings, char *error)
{
    FILE *log = report_open_log(path, error);
    int i, ok;
    if (!log) return 0;
    fprintf(log, "%s,%.0f,%.0f,%.3f,%.6g,%.6g,%.0f", run, point->epoch, point->step, point->seconds, point->loss,
            point->lr, point->moved);
    for (i = 0; i < 14; i++) {
        const double value = i < 7 ? point->valid[i] : point->test[i - 7];
        if (value >= 0) fprintf(log, ",%.4f", value);
        else fputc(',', log);
    }
    report_field(log, train);
    report_field(log, settings);
    fputc('\n', log);
    ok = !ferror(log);
    ok = fclose(log) == 0 && ok;
    return ok || data_fail(error, "%s: cannot write: %s", path, strerror(errno));
}

/* ---- >>labels by frequency ----------------------------------------------------------------------------------- */

#define REPORT_BINS 33

/* Of labels that n training documents have, with n = 0, 1, 2 .. 3, 4 .. 7, ...: bin 0, 1, 2, 3, ... */
typedef struct report_bins {
    int64_t labels[REPORT_BINS], wanted[REPORT_BINS];   /* how many there are; how often documents have them */
    int64_t given[REPORT_BINS], right[REPORT_BINS];     /* among the answers: how often, and rightly */
    int64_t documents;
} report_bins;

static inline int report_bin(int64_t n)
{
    int bin = 0;
    for (; n > 0 && bin < REPORT_BINS - 1; n >>= 1) bin++;
    return bin;
}

/* Adds B documents with k answers each; lists: their labels, ascending. */
static inline void report_bins_add(report_bins *bins, const int64_t *frequency, const int32_t *top, int32_t B, int k,
                                   const haste_lists *truth)
{
    int32_t b;
    int64_t j;
    int i;
    bins->documents += B;
    for (b = 0; b < B; b++) {
        for (j = truth->offset[b]; j < truth->offset[b + 1]; j++) bins->wanted[report_bin(frequency[truth->id[j]])]++;
        for (i = 0; i < k; i++) {
            const int32_t id = top[(int64_t)b * k + i];
            if (id < 0) break;
            bins->given[report_bin(frequency[id])]++;
            for (j = truth->offset[b]; j < truth->offset[b + 1]; j++)
                if (truth->id[j] == id) bins->right[report_bin(frequency[id])]++;
        }
    }
}

#endif /* REPORT_H */
