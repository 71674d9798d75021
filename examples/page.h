/* page.h: a page about a training run that needs nothing but a browser, for haste-train --report: curves and bars drawn
   as SVG, tables, settings. FOLDER/report.html is the page, FOLDER/curves.csv and FOLDER/frequency.csv what it draws,
   and where there is gnuplot, FOLDER/curves.svg and FOLDER/frequency.svg, made by FOLDER/report.gp, are the same for a
   paper. */
#ifndef PAGE_H
#define PAGE_H

#include "options.h"
#include "report.h"

#include <sys/stat.h>
#ifdef _WIN32
    #include <direct.h>
#endif

#define PAGE_WIDTH  640
#define PAGE_HEIGHT 260
#define PAGE_LEFT   56
#define PAGE_BOTTOM 36

/* Text between tags. */
static inline void page_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<') fputs("&lt;", out);
        else if (*text == '>') fputs("&gt;", out);
        else if (*text == '&') fputs("&amp;", out);
        else fputc(*text, out);
    }
}

/* 1, 2 or 5 times a power of ten, so that about `ticks` of them make up the range. */
static inline double page_step(double range, int ticks)
{
    const double power = pow(10, floor(log10(range / ticks))), times = range / ticks / power;
    return (times > 5 ? 10 : times > 2 ? 5 : times > 1 ? 2 : 1) * power;
}

/* Lines through n points each: y[series * n + i] at x[i]; a value below 0 is none. */
static inline void page_chart(FILE *out, const char *title, const char *across, int n, const double *x, int series,
                              const char *const *name, const double *y)
{
    static const char *const colour[] = { "#1f6fb4", "#d9722b", "#3a923a", "#8860b0", "#b5495b", "#6b6b6b" };
    const double width = PAGE_WIDTH - PAGE_LEFT - 12, height = PAGE_HEIGHT - PAGE_BOTTOM - 30;
    double most_x = 0, least = 0, most = 0, step, v;
    int i, s, any = 0, shown = 0;
    for (i = 0; i < n; i++) if (x[i] > most_x) most_x = x[i];
    for (i = 0; i < series * n; i++) {
        if (!(y[i] >= 0 && y[i] < 1e300)) continue;
        if (!any || y[i] < least) least = y[i];
        if (!any || y[i] > most) most = y[i];
        any = 1;
    }
    if (!any) return;
    if (!(most_x > 0)) most_x = 1;
    if (!(most - least > 1e-9 * most)) { least *= .9; most = most * 1.1 + 1e-9; }
    step = page_step(most - least, 5);
    least = floor(least / step) * step;
    most = ceil(most / step) * step;
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", PAGE_WIDTH, PAGE_HEIGHT);
    page_text(out, title);
    fprintf(out, "</title><text x=\"%d\" y=\"14\" class=\"t\">", PAGE_LEFT);
    page_text(out, title);
    fputs("</text>\n", out);
    for (i = 0; i < 20 && (v = least + i * step) <= most + step / 2; i++) {
        const double at = 30 + height * (1 - (v - least) / (most - least));
        fprintf(out, "<path d=\"M%d %.1fh%.0f\" class=\"g\"/><text x=\"%d\" y=\"%.1f\" class=\"r\">%g</text>\n", PAGE_LEFT,
                at, width, PAGE_LEFT - 6, at + 4, fabs(v) < step / 2 ? 0 : v);
    }
    step = page_step(most_x, 8);
    for (i = 0; i < 20 && (v = i * step) <= most_x + step / 100; i++)
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"m\">%g</text>\n", PAGE_LEFT + width * v / most_x,
                PAGE_HEIGHT - PAGE_BOTTOM + 16, v);
    fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"m\">", PAGE_LEFT + width / 2, PAGE_HEIGHT - 4);
    page_text(out, across);
    fputs("</text>\n", out);
    for (s = 0; s < series; s++) {
        const char *c = colour[s % 6];
        int points = 0;
        for (i = 0; i < n; i++) points += y[s * n + i] >= 0;
        if (points == 0) continue;
        fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", c);
        for (i = 0; i < n; i++)
            if (y[s * n + i] >= 0)
                fprintf(out, "%.1f,%.1f ", PAGE_LEFT + width * x[i] / most_x,
                        30 + height * (1 - (y[s * n + i] - least) / (most - least)));
        fputs("\"/>\n", out);
        for (i = 0; i < n && points <= 60; i++)
            if (y[s * n + i] >= 0)
                fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"><title>%g</title></circle>\n",
                        PAGE_LEFT + width * x[i] / most_x,
                        30 + height * (1 - (y[s * n + i] - least) / (most - least)), c, y[s * n + i]);
        fprintf(out, "<text x=\"%d\" y=\"14\" fill=\"%s\" class=\"r\">", PAGE_WIDTH - 8 - 76 * shown++, c);
        page_text(out, name[s]);
        fputs("</text>\n", out);
    }
    fputs("</svg>\n", out);
}

/* A bar for each of n values in percent; below 0: none. */
static inline void page_bars(FILE *out, const char *title, int n, char (*name)[32], const double *value)
{
    const double width = PAGE_WIDTH - PAGE_LEFT - 12, height = PAGE_HEIGHT - PAGE_BOTTOM - 30;
    int i;
    if (n == 0) return;
    fprintf(out, "<svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", PAGE_WIDTH, PAGE_HEIGHT);
    page_text(out, title);
    fprintf(out, "</title><text x=\"%d\" y=\"14\" class=\"t\">", PAGE_LEFT);
    page_text(out, title);
    fputs("</text>\n", out);
    for (i = 0; i <= 100; i += 25)
        fprintf(out, "<path d=\"M%d %.1fh%.0f\" class=\"g\"/><text x=\"%d\" y=\"%.1f\" class=\"r\">%d</text>\n", PAGE_LEFT,
                30 + height * (1 - i / 100.), width, PAGE_LEFT - 6, 34 + height * (1 - i / 100.), i);
    for (i = 0; i < n; i++) {
        const double left = PAGE_LEFT + width * (i + .15) / n, high = value[i] > 0 ? height * value[i] / 100 : 0;
        if (value[i] >= 0)
            fprintf(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#1f6fb4\"><title>%.1f</title>"
                    "</rect>\n", left, 30 + height - high, width * .7 / n, high, value[i]);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"m\">", PAGE_LEFT + width * (i + .5) / n,
                PAGE_HEIGHT - PAGE_BOTTOM + 16);
        page_text(out, name[i]);
        fputs("</text>\n", out);
    }
    fprintf(out, "<text x=\"%.1f\" y=\"%d\" class=\"m\">training documents of a label</text></svg>\n",
            PAGE_LEFT + width / 2, PAGE_HEIGHT - 4);
}

/* What a page tells. Lines of text have a name of ten columns first, as the program printed them. */
typedef struct page {
    int                 argc;
    char              **argv;
    const char         *folder, *program, *run, *settings, *lines;
    const report_point *point;         /* [points] */
    int                 points;
    const char         *scored;        /* what bins and the last scores are of: "test", "held-out documents", or NULL */
    const report_bins  *bins;
    int                 k;
    double              final[7];      /* as in report_point */
} page;

static inline FILE *page_file(const page *p, const char *name, char path[4096], char *error)
{
    FILE *file = NULL;
    if (snprintf(path, 4096, "%s/%s", p->folder, name) >= 4096) data_fail(error, "%s: is too long", p->folder);
    else if (!(file = fopen(path, "wb"))) data_fail(error, "%s: cannot write: %s", path, strerror(errno));
    return file;
}

static inline int page_close(FILE *file, const char *path, char *error)
{
    const int ok = !ferror(file);
    return (fclose(file) == 0 && ok) || data_fail(error, "%s: cannot write: %s", path, strerror(errno));
}

/* Makes the folder; one that is there may hold an older report. 0 with error. */
static inline int page_folder(const char *folder, char *error)
{
#ifdef _WIN32
    const int made = _mkdir(folder) == 0;
#else
    const int made = mkdir(folder, 0777) == 0;
#endif
    struct stat about;
    if (made || (errno == EEXIST && stat(folder, &about) == 0 && S_ISDIR(about.st_mode))) return 1;
    return data_fail(error, "--report %s: cannot make this folder: %s", folder, strerror(errno));
}

/* What the labels of a bin have in documents. */
static inline void page_bin_name(int bin, char name[32])
{
    if (bin < 2) snprintf(name, 32, "%d", bin);
    else snprintf(name, 32, "%lld-%lld", 1LL << (bin - 1), (1LL << bin) - 1);
}

static inline int page_csv(const page *p, char *error)
{
    static const char *const name[] = { "P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@3", "PSP@5" };
    char path[4096], bin[32];
    FILE *out = page_file(p, "curves.csv", path, error);
    int i, j;
    if (!out) return 0;
    fprintf(out, "epoch,seconds,loss,lr");
    for (i = 0; i < 14; i++) fprintf(out, ",%s_%s", i < 7 ? "valid" : "test", name[i % 7]);
    for (i = 0; i < p->points; i++) {
        const report_point *q = &p->point[i];
        fprintf(out, "\n%.4f,%.3f,%.6g,%.6g", q->epoch, q->seconds, q->loss, q->lr);
        for (j = 0; j < 14; j++) {
            const double value = j < 7 ? q->valid[j] : q->test[j - 7];
            if (value >= 0) fprintf(out, ",%.4f", value);
            else fputc(',', out);
        }
    }
    fputc('\n', out);
    if (!page_close(out, path, error)) return 0;
    if (!p->scored) return 1;
    out = page_file(p, "frequency.csv", path, error);
    if (!out) return 0;
    fprintf(out, "training_documents,labels,occurrences,answers,right\n");
    for (i = 0; i < REPORT_BINS; i++) {
        if (p->bins->labels[i] == 0) continue;
        page_bin_name(i, bin);
        fprintf(out, "%s,%lld,%lld,%lld,%lld\n", bin, (long long)p->bins->labels[i], (long long)p->bins->wanted[i],
                (long long)p->bins->given[i], (long long)p->bins->right[i]);
    }
    return page_close(out, path, error);
}

static inline void page_curves(const page *p, FILE *out)
{
    static const char *const name[] = { "P@5", "P@3", "P@1" }, *const loss[] = { "loss" }, *const rate[] = { "rate" };
    const int n = p->points;
    double *x = n > 0 ? (double *)calloc((size_t)n * 5, sizeof(double)) : NULL, *y, *one;
    int i, j;
    if (!x) return;
    y = x + n;
    one = y + 3 * n;
    for (i = 0; i < n; i++) { x[i] = p->point[i].epoch; one[i] = p->point[i].loss; }
    page_chart(out, "Loss of training", "epochs", n, x, 1, loss, one);
    for (i = 0; i < n; i++) for (j = 0; j < 3; j++) y[j * n + i] = p->point[i].valid[2 - j];
    page_chart(out, "Held-out documents, percent", "epochs", n, x, 3, name, y);
    for (i = 0; i < n; i++) for (j = 0; j < 3; j++) y[j * n + i] = p->point[i].test[2 - j];
    page_chart(out, "Test documents, percent", "epochs", n, x, 3, name, y);
    for (i = 0; i < n; i++) one[i] = p->point[i].lr;
    page_chart(out, "Learning rate of the layer", "epochs", n, x, 1, rate, one);
    free(x);
}

static inline void page_frequency(const page *p, FILE *out)
{
    char name[REPORT_BINS][32], title[100];
    double found[REPORT_BINS], right[REPORT_BINS], part[REPORT_BINS];
    int i, n = 0;
    fprintf(out, "<h2>Labels by frequency: the first %d answers for ", p->k);
    page_text(out, p->scored);
    fprintf(out, "</h2>\n<table><tr><th>training documents<th>labels<th>occurrences<th>answers<th>right<th>adds to P@%d"
            "<th>right of the answers<th>found of the occurrences</tr>\n", p->k);
    for (i = 0; i < REPORT_BINS; i++) {
        const report_bins *b = p->bins;
        if (b->labels[i] == 0) continue;
        page_bin_name(i, name[n]);
        found[n] = b->wanted[i] ? 100 * (double)b->right[i] / (double)b->wanted[i] : -1;
        right[n] = b->given[i] ? 100 * (double)b->right[i] / (double)b->given[i] : -1;
        part[n] = b->documents ? 100 * (double)b->right[i] / (double)b->documents / p->k : 0;
        fprintf(out, "<tr><td>%s<td>%lld<td>%lld<td>%lld<td>%lld<td>%.2f<td>", name[n], (long long)b->labels[i],
                (long long)b->wanted[i], (long long)b->given[i], (long long)b->right[i], part[n]);
        if (right[n] >= 0) fprintf(out, "%.1f%%", right[n]);
        fprintf(out, "<td>");
        if (found[n] >= 0) fprintf(out, "%.1f%%", found[n]);
        fprintf(out, "</tr>\n");
        n++;
    }
    fprintf(out, "</table>\n");
    snprintf(title, sizeof title, "Right of the answers (P@%d among these labels), percent", p->k);
    page_bars(out, title, n, name, right);
    snprintf(title, sizeof title, "Found of the occurrences (recall@%d), percent", p->k);
    page_bars(out, title, n, name, found);
}

/* Lines of name and rest as a table: the rest begins behind the first `separator`, or (0) in column 11. */
static inline void page_table(FILE *out, const char *lines, char separator)
{
    fprintf(out, "<table class=\"l\">\n");
    while (*lines) {
        char line[1024];
        size_t n = strcspn(lines, "\n"), name;
        snprintf(line, sizeof line, "%.*s", n < 1000 ? (int)n : 1000, lines);
        for (name = 0; line[name] && (separator ? line[name] != separator : name < 10); name++) { }
        n = line[name] != 0;
        line[name] = 0;
        fprintf(out, "<tr><td>");
        page_text(out, line);
        fprintf(out, "<td>");
        if (n) page_text(out, line + name + 1);
        fprintf(out, "</tr>\n");
        lines += strcspn(lines, "\n");
        lines += *lines == '\n';
    }
    fprintf(out, "</table>\n");
}

/* The same pictures by gnuplot, where it is. What it is given has fixed names only: it is run inside the folder. */
static inline void page_gnuplot(const page *p)
{
#if !defined(_WIN32)
    static const char curves[] =
        "set datafile separator ','; set terminal svg size 720,320 noenhanced; set key outside; set grid\n"
        "set output 'curves.svg'; set xlabel 'epochs'; set ylabel 'percent'; set y2label 'loss'; set y2tics; set ytics nomirror\n"
        "set datafile missing ''\n"
        "plot 'curves.csv' using 1:3 skip 1 axes x1y2 with lines dashtype 2 title 'loss'";
    static const char frequency[] =
        "set datafile separator ','; set terminal svg size 720,320 noenhanced; set grid; set style fill solid .6\n"
        "set output 'frequency.svg'; set xlabel 'training documents of a label'; set ylabel 'percent right of the answers'\n"
        "set yrange [0:100]; set boxwidth .7; set xtics rotate by -40; unset key\n"
        "plot 'frequency.csv' using 0:($4 > 0 ? 100 * $5 / $4 : 0):xtic(1) skip 1 with boxes\n";
    char path[4096], command[8400], error[DATA_ERROR];
    const report_point *last = p->points > 0 ? &p->point[p->points - 1] : NULL;
    FILE *out;
    const char *q;
    char *to;
    int i;
    if (!last || system("command -v gnuplot >/dev/null 2>&1") != 0 || !(out = page_file(p, "report.gp", path, error))) return;
    fputs(curves, out);
    for (i = 0; i < 6; i++)
        if ((i < 3 ? last->valid[i] : last->test[i - 3]) >= 0)
            fprintf(out, ", '' using 1:%d skip 1 with linespoints pointsize .4 title '%s P@%d'", i < 3 ? 5 + i : 9 + i,
                    i < 3 ? "valid" : "test", 1 + 2 * (i % 3));
    fprintf(out, "\n%s%s", p->scored ? "reset\n" : "", p->scored ? frequency : "");
    if (!page_close(out, path, error)) return;
    to = command + sprintf(command, "cd -- '");
    for (q = p->folder; *q && to < command + 8000; q++) to += sprintf(to, *q == '\'' ? "'\\''" : "%c", *q);
    sprintf(to, "' && gnuplot report.gp >/dev/null 2>&1");
    if (*q || system(command) != 0) return;
#else
    (void)p;
#endif
}

/* Writes it all, in place of what is there. 0 with error. */
static inline int page_write(const page *p, char *error)
{
    static const char *const name[] = { "P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@3", "PSP@5" };
    char path[4096];
    FILE *out;
    int i;
    if (!page_csv(p, error) || !(out = page_file(p, "report.html", path, error))) return 0;
    fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n"
            "<title>%s, run %s</title>\n<style>body{font:15px/1.45 sans-serif;max-width:54em;margin:2em auto;padding:0 1em}"
            "table{border-collapse:collapse;margin:.6em 0}td,th{padding:.1em .7em;text-align:right;border-bottom:1px solid #8883}"
            ".l td{text-align:left;vertical-align:top}svg{width:100%%;max-width:%dpx;display:block;margin:1em 0}"
            "text{font-size:11px;fill:currentColor}.t{font-weight:bold}.r{text-anchor:end}.m{text-anchor:middle}"
            ".g{stroke:#8884;fill:none}code{overflow-wrap:anywhere}</style>\n<h1>%s, run %s</h1>\n<p><code>",
            p->program, p->run, PAGE_WIDTH, p->program, p->run);
    for (i = 0; i < p->argc; i++) {
        fputc(' ', out);
        page_text(out, p->argv[i]);
    }
    fprintf(out, "</code>\n");
    if (p->scored) {
        fprintf(out, "<table><tr><th>");
        for (i = 0; i < 7; i++) fprintf(out, "<th>%s", name[i]);
        fprintf(out, "</tr>\n<tr><td>");
        page_text(out, p->scored);
        for (i = 0; i < 7; i++) fprintf(out, "<td>%.2f", p->final[i]);
        fprintf(out, "</tr></table>\n");
    }
    fprintf(out, "<h2>The run</h2>\n");
    page_table(out, p->lines, 0);
    fprintf(out, "<h2>Learning</h2>\n");
    page_curves(p, out);
    if (p->scored) page_frequency(p, out);
    fprintf(out, "<h2>Settings</h2>\n");
    page_table(out, p->settings, '=');
    fprintf(out, "</html>\n");
    if (!page_close(out, path, error)) return 0;
    page_gnuplot(p);
    return 1;
}

#endif /* PAGE_H */
