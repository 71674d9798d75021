/* options.h: command-line options from one table: parsing, --help with the defaults, keeping them in a model file, and a
   command line that can be pasted into a shell. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "data.h"

typedef enum option_kind {
    OPTION_HEADING,   /* only a line of --help */
    OPTION_FLAG,      /* int: 1 where given */
    OPTION_COUNT,     /* int64_t */
    OPTION_REAL,      /* double */
    OPTION_TEXT,      /* const char * */
    OPTION_CHOICE     /* int: the place of the word in `word`, counted from 0 */
} option_kind;

typedef struct option {
    option_kind kind;
    const char *name;         /* without the dashes */
    const char *word;         /* what --help shows for the value; for a choice: all words, separated by | */
    void       *target;       /* where it goes; what is there before parsing is the default */
    double      least, most;  /* the range of a count or real */
    int         kept;         /* 1: part of the model: kept in its file, and fixed when training is resumed; 2: kept,
                                 and what the command line says counts */
    const char *help;
    int         given;        /* (out) named on the command line */
} option;

/* The word of a choice. */
static inline const char *option_word(const option *o, int choice, char word[32])
{
    const char *p = o->word;
    int n = 0;
    while (choice > 0 && *p) if (*p++ == '|') choice--;
    while (*p && *p != '|' && n < 31) word[n++] = *p++;
    word[n] = 0;
    return word;
}

static inline int option_set(option *o, const char *text, char *error)
{
    char *stop, word[32];
    double number;
    int i;
    if (o->kind == OPTION_TEXT) {
        if (*text == 0) return data_fail(error, "--%s needs a value: %s", o->name, o->word);
        *(const char **)o->target = text;
        return 1;
    }
    if (o->kind == OPTION_CHOICE) {
        for (i = 0; option_word(o, i, word)[0]; i++)
            if (strcmp(word, text) == 0) { *(int *)o->target = i; return 1; }
        return data_fail(error, "--%s %s: expected %s", o->name, text, o->word);
    }
    number = strtod(text, &stop);
    if (*text == 0 || *stop != 0 || !(number >= o->least && number <= o->most) ||
        (o->kind != OPTION_REAL && number != floor(number)))
        return data_fail(error, "--%s %s: expected a%s number from %.10g to %.10g", o->name, text,
                         o->kind == OPTION_REAL ? "" : " whole", o->least, o->most);
    if (o->kind == OPTION_REAL) *(double *)o->target = number;
    else if (o->kind == OPTION_COUNT) *(int64_t *)o->target = (int64_t)number;
    else *(int *)o->target = (int)number;
    return 1;
}

/* Reads argv. Words that are no options become file[0 .. *files), at most `most`. 0 with error: a mistake of the user. --help is
   for the caller: an ordinary flag. */
static inline int options_parse(option *table, int count, int argc, char **argv, const char **file, int *files, int most, char *error)
{
    int i, k;
    *files = 0;
    for (i = 1; i < argc; i++) {
        const char *name = argv[i], *value = strchr(argv[i], '=');
        size_t length;
        if (name[0] != '-' || name[1] == 0) {
            if (*files == most) return data_fail(error, "'%s': one file name too many", name);
            file[(*files)++] = name;
            continue;
        }
        if (strcmp(name, "-h") == 0) name = "--help";
        length = value ? (size_t)(value - name) : strlen(name);
        for (k = 0; k < count; k++)
            if (table[k].kind != OPTION_HEADING && length > 2 && name[1] == '-' && strlen(table[k].name) == length - 2 &&
                memcmp(table[k].name, name + 2, length - 2) == 0) break;
        if (k == count) {
            for (k = 0; k < count && strcmp(table[k].name, "help-all") != 0; k++) { }
            return data_fail(error, "unknown option %.*s; --help%s lists them all", (int)length, name, k < count ? "-all" : "");
        }
        if (table[k].kind == OPTION_FLAG) {
            if (value) return data_fail(error, "--%s takes no value", table[k].name);
            *(int *)table[k].target = 1;
        } else {
            if (value) value++;
            else if (i + 1 < argc) value = argv[++i];
            else return data_fail(error, "--%s needs a value: %s", table[k].name, table[k].word);
            if (!option_set(&table[k], value, error)) return 0;
        }
        table[k].given = 1;
    }
    return 1;
}

/* The value of an option in words: exact, so that it can be read back, with as few digits as that takes. */
static inline const char *option_value(const option *o, int exact, char text[64])
{
    text[0] = 0;
    if (o->kind == OPTION_FLAG) snprintf(text, 64, "%d", *(const int *)o->target);
    if (o->kind == OPTION_COUNT) snprintf(text, 64, "%lld", (long long)*(const int64_t *)o->target);
    if (o->kind == OPTION_REAL && !isnan(*(const double *)o->target)) {   /* NaN: there is no default */
        int digits = exact ? 1 : 6;
        do snprintf(text, 64, "%.*g", digits, *(const double *)o->target);
        while (exact && digits++ < 17 && strtod(text, NULL) != *(const double *)o->target);
    }
    if (o->kind == OPTION_CHOICE) {
        char word[32];
        snprintf(text, 64, "%s", option_word(o, *(const int *)o->target, word));
    }
    return text;
}

/* --help: all of them in their groups, in so many columns. */
static inline void options_help(const option *table, int count, int columns, FILE *out)
{
    const int indent = 34;
    int i;
    for (i = 0; i < count; i++) {
        const option *o = &table[i];
        char left[96], value[64], text[400], *p = text;
        int at;
        if (o->kind == OPTION_HEADING) { fprintf(out, "\n%s\n", o->help); continue; }
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->word ? " " : "", o->word ? o->word : "");
        option_value(o, 0, value);
        if (o->kind == OPTION_TEXT || o->kind == OPTION_FLAG) value[0] = 0;
        snprintf(text, sizeof text, "%s%s%s%s", o->help, value[0] ? " [" : "", value, value[0] ? "]" : "");
        fprintf(out, "  %-31s", left);
        at = strlen(left) > 31 ? columns : indent - 1;
        while (*p) {   /* word by word */
            const int n = (int)strcspn(p, " ");
            if (at + 1 + n > columns && at > indent) { fprintf(out, "\n%*s", indent - 1, ""); at = indent - 1; }
            fprintf(out, " %.*s", n, p);
            at += 1 + n;
            p += n + (p[n] == ' ');
        }
        fputc('\n', out);
    }
}

/* A word as a POSIX shell takes it back. */
static inline void option_quote(const char *word, FILE *out)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    if (*word && strspn(word, plain) == strlen(word)) { fputs(word, out); return; }
    fputc('\'', out);
    for (; *word; word++) {
        if (*word == '\'') fputs("'\\''", out);
        else fputc(*word, out);
    }
    fputc('\'', out);
}

/* The options of this run that no model keeps, as a shell takes them back, but for those named in `without` (words, each
   with a space behind it). */
static inline void options_command(const option *table, int count, const char *without, FILE *out)
{
    char value[64], name[64];
    int i;
    for (i = 0; i < count; i++) {
        const option *o = &table[i];
        snprintf(name, sizeof name, "%s ", o->name);
        if (o->kind == OPTION_HEADING || !o->given || o->kept || strstr(without, name)) continue;
        fprintf(out, " --%s", o->name);
        if (o->kind == OPTION_FLAG) continue;
        fputc(' ', out);
        option_quote(o->kind == OPTION_TEXT ? *(const char *const *)o->target : option_value(o, 0, value), out);
    }
}

/* The kept options as lines `name=value`, for the model file. The caller frees it; NULL: out of memory. */
static inline char *options_write(const option *table, int count)
{
    char *text = (char *)malloc((size_t)count * 128 + 1), *p = text, value[64];
    int i;
    if (!text) return NULL;
    *p = 0;
    for (i = 0; i < count; i++)
        if (table[i].kept) p += snprintf(p, 128, "%s=%s\n", table[i].name, option_value(&table[i], 1, value));
    return text;
}

/* Takes kept options back from such lines. One that was also given on the command line, with another value, is a
   mistake, unless it may change: then the command line counts. */
static inline int options_read(option *table, int count, const char *text, size_t bytes, const char *path, char *error)
{
    const char *end = text + bytes;
    while (text < end) {
        char line[128], before[64], after[64], why[DATA_ERROR];
        size_t n = 0;
        char *value;
        int k;
        while (text < end && *text != '\n' && n < sizeof line - 1) line[n++] = *text++;
        while (text < end && *text != '\n') text++;
        text++;
        line[n] = 0;
        value = strchr(line, '=');
        if (!value) return data_fail(error, "%s: settings that cannot be understood: '%s'", path, line);
        *value++ = 0;
        for (k = 0; k < count; k++) if (table[k].kept && strcmp(table[k].name, line) == 0) break;
        if (k == count) return data_fail(error, "%s: has an option --%s that this program does not know", path, line);
        option_value(&table[k], 1, before);
        if (!option_set(&table[k], value, why)) return data_fail(error, "%s: settings: %s", path, why);
        option_value(&table[k], 1, after);
        if (table[k].given && table[k].kept == 2) option_set(&table[k], before, error);
        else if (table[k].given && strcmp(before, after) != 0)
            return data_fail(error, "--%s %s: %s was trained with %s, which cannot change on the way", table[k].name, before, path, after);
    }
    return 1;
}

#endif /* OPTIONS_H */
