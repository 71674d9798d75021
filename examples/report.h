/* report.h: how good a model is, in a line for people and in lines of CSV, for haste-train. */
#ifndef REPORT_H
#define REPORT_H

#include "haste.h"
#include "reader.h"

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

static inline void report_log_scores(FILE *log, const haste_metrics *metrics)
{
    static const int at[] = { 1, 3, 5 };
    int i;
    for (i = 0; i < 3; i++)
        fprintf(log, metrics ? ",%.4f" : ",", metrics ? haste_metrics_get(metrics, at[i]).precision : 0);
    fprintf(log, metrics ? ",%.4f" : ",", metrics ? haste_metrics_get(metrics, 5).ndcg : 0);
    for (i = 0; i < 3; i++) fprintf(log, metrics ? ",%.4f" : ",", metrics ? haste_metrics_get(metrics, at[i]).psp : 0);
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
        fprintf(log, "epoch,step,seconds,loss,lr,moved");
        for (i = 0; i < 14; i++) fprintf(log, ",%s_%s", i < 7 ? "valid" : "test", name[i % 7]);
        fputc('\n', log);
    }
    return log;
}

/* One line; valid, test: NULL where there is none. 0 with error. */
static inline int report_log(const char *path, int64_t epoch, int64_t step, double seconds, double loss, double lr,
                             int64_t moved, const haste_metrics *valid, const haste_metrics *test, char *error)
{
    FILE *log = report_open_log(path, error);
    if (!log) return 0;
    fprintf(log, "%lld,%lld,%.3f,%.6g,%.6g,%lld", (long long)epoch, (long long)step, seconds, loss, lr,
            (long long)moved);
    report_log_scores(log, valid);
    report_log_scores(log, test);
    fputc('\n', log);
    return fclose(log) == 0 || data_fail(error, "%s: cannot write: %s", path, strerror(errno));
}

#endif /* REPORT_H */
