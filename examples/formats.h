/* formats.h: documents out of files, for the example programs. Which format a file has is seen from its first line that
   is neither empty nor a comment, unless the caller says it:

       xmc        N V L                                  a header: documents, features, labels; then
                  label,label,... feature:value ...      ids count from 0; an empty line is a document, too
       libsvm     label,label,... feature:value ...      no header; labels are names, mostly numbers, also in brackets
       fasttext   __label__A __label__B words ...        labels may stand anywhere in the line
       tsv        labels<tab>words ...                   labels in the first column; the others are text
       csv        labels,"words, ..."                    likewise by RFC 4180: quoted fields, with line breaks too
       lines      words ...                              no labels: for documents to predict; never for training

   (TRAIN is the first file that a vocabulary sees, and teaches it words and names; TEST is any other.)

   In all: gzip, pipes, a byte order mark, carriage returns before newlines. In xmc and libsvm: a line may begin with
   white space or with its first feature, which means no labels; features in any order, one that comes twice is summed,
   a value of 0 left out; `#` begins a comment, in the whole line or behind the features. In text: comments only above
   the first document; a label that comes twice counts once. Empty lines are skipped where they are no documents; with
   `query` every line is one, for every line wants an answer, and a line without labels may lack the column.

   In tsv and csv a first line whose first column is called label, labels, tag, tags, category, categories, class or
   target is a header. Labels in the column are separated by the first of ; | , that occurs in that column within the
   first 64 KiB of TRAIN, else they are not separated: the caller may say another one, or space. White space around a
   name is no part of it. In tsv a quotation mark means itself, unless it encloses the whole column.

   Numbers: an id below 2^31 - 1, a value that a float can hold. Where TRAIN has no header, V is the largest feature +
   1. Memory goes by what a file holds, never by what its header promises: where ids go far beyond the number of pairs
   (16 times, and 65,536 more), only those that occur are numbered, and looked up as words are. TEST may have features
   and labels that TRAIN lacks: they are skipped and counted.

   .npy files (version 1 to 3; little-endian float16, float32 or float64; C order) of shape [N, D] are dense
   features. */
#ifndef FORMATS_H
#define FORMATS_H

#include "data.h"
#include "vocabulary.h"

enum { FORMAT_AUTO, FORMAT_XMC, FORMAT_LIBSVM, FORMAT_FASTTEXT, FORMAT_TSV, FORMAT_CSV, FORMAT_LINES };
enum { SEPARATOR_AUTO, SEPARATOR_SEMICOLON, SEPARATOR_BAR, SEPARATOR_COMMA, SEPARATOR_SPACE, SEPARATOR_NONE };
#define FORMAT_WORDS    "auto|xmc|libsvm|fasttext|tsv|csv|lines"
#define SEPARATOR_WORDS "auto|semicolon|bar|comma|space|none"
#define FORMAT_SAMPLE   ((size_t)1 << 16)
#define FORMAT_MAX_ID   (INT32_MAX - 1)

/* What was left out of a file, and why. */
typedef struct data_skipped {
    int64_t features, labels;   /* occurrences that the vocabulary does not know */
    int64_t bytes;              /* that are no UTF-8 */
} data_skipped;

/* A file of documents. */
typedef struct data_documents {
    data_stream  stream;
    vocabulary  *words;
    int          format, query, promises;   /* promises: there is a header */
    int          spoilt;                    /* after an error: only the last record is wrong, the next one can be read */
    int64_t      header[3];                 /* N, V, L */
    int64_t      header_line;
    int64_t      count, record;             /* documents so far; the line that the last one began in */
    int64_t      largest, zeros;            /* feature; documents that have feature 0 */
    data_skipped skipped;
} data_documents;

/* ---- >>recognition ------------------------------------------------------------------------------------------- */

static inline const char *data_blank(const char *p, const char *end)   /* past white space */
{
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    return p;
}

static inline int data_among(char c, const char *set) { return c != 0 && strchr(set, c) != NULL; }

static inline const char *data_dark(const char *p, const char *end)    /* up to white space */
{
    while (p < end && *p != ' ' && *p != '\t') p++;
    return p;
}

/* Whether a line is labels that are numbers, and feature:value pairs. *numbers (=): how many plain whole numbers the
   line is, 0 if there is anything else. */
static inline int data_is_libsvm(const char *p, const char *end, int *numbers)
{
    const char *at = p, *stop;
    int first = 1;
    *numbers = 0;
    for (at = data_blank(p, end); at < end; at = data_blank(stop, end)) {
        const char *q = at;
        stop = data_dark(at, end);
        if (data_id(&q) < 0 || q != stop) { *numbers = 0; break; }
        ++*numbers;
    }
    at = data_blank(p, end);
    if (at < end && *at == '[') {
        for (at++; at < end && *at != ']'; at++) if (!data_among(*at, "0123456789+-., \t")) return 0;
        if (at++ == end) return 0;
        first = 0;
    } else if (at > p) first = 0;
    for (at = data_blank(at, end); at < end && *at != '#'; at = data_blank(stop, end), first = 0) {
        const char *q = at;
        float value;
        stop = data_dark(at, end);
        if (data_id(&q) >= 0 && *q == ':' && (q++, data_number(&q, &value)) && q == stop) continue;
        for (q = at; first && q < stop; q++) if (!data_among(*q, "0123456789+-.,")) return 0;
        if (!first) return 0;
    }
    return 1;
}

/* Past the end of a record of CSV that goes on at p; NULL where it does not end before `stop`. *state: 0 at the
   beginning of a field, 1 in one, 2 in a quoted one, 3 behind a closing quotation mark (or between two that stand for
   one). */
static inline const char *data_record_end(const char *p, const char *stop, int *state)
{
    int s = *state;
    for (; p < stop; p++) {
        if (s == 2) { if (*p == '"') s = 3; }
        else if (*p == '\n') { *state = 0; return p + 1; }
        else if (*p == '"' && s != 1) s = 2;
        else s = *p == ',' ? 0 : 1;
    }
    *state = s;
    return NULL;
}

/* The end of the first column. *begin and the returned end leave quotation marks out where they enclose it; *next (=):
   what follows, the delimiter or the end of the line. NULL: a quotation mark in the middle. */
static inline char *data_column(char **begin, char *end, char delimiter, char **next)
{
    char *p = *begin, *close;
    if (p < end && *p == '"') {
        for (close = p + 1; close < end; close++) {
            if (*close != '"') continue;
            if (close + 1 == end || close[1] != '"') break;
            close++;   /* two stand for one */
        }
        if (close < end && (close + 1 == end || close[1] == delimiter)) {
            *begin = p + 1;
            *next = close + 1;
            return close;
        }
        if (delimiter == ',') return NULL;
    }
    while (p < end && *p != delimiter) p++;
    *next = p;
    return p;
}

/* Makes one quotation mark of two in what was quoted; returns the new end. */
static inline char *data_unquote(char *p, char *end)
{
    char *out = p;
    while (p < end) {
        *out = *p++;
        if (*out++ == '"') p++;
    }
    return out;
}

/* How labels are separated, from the lines at hand. */
static inline int data_look_for_separator(const data_stream *stream, char delimiter)
{
    char *p = stream->buffer + stream->begin, *stop = stream->buffer + stream->end, *next;
    int seen[3] = { 0, 0, 0 }, i;
    if (stream->end - stream->begin > FORMAT_SAMPLE) stop = p + FORMAT_SAMPLE;
    while (p < stop) {
        int state = 0;
        const char *newline = delimiter == ',' ? data_record_end(p, stop, &state)
                                               : (const char *)memchr(p, '\n', (size_t)(stop - p));
        char *end = newline ? p + (newline - p) - (delimiter == ',') : stop, *column = p, *close;
        close = data_column(&column, end, delimiter, &next);
        for (; close && column < close; column++) for (i = 0; i < 3; i++) seen[i] |= *column == ";|,"[i];
        p = end + 1;
    }
    return seen[0] ? SEPARATOR_SEMICOLON : seen[1] ? SEPARATOR_BAR : seen[2] ? SEPARATOR_COMMA : SEPARATOR_NONE;
}

static inline char data_separator(const vocabulary *v)
{
    static const char separator[] = { 0, ';', '|', ',', ' ', 0 };
    return separator[v->shape.separator];
}

static inline int data_is_heading(const char *column, const char *end)
{
    static const char *const word[] = { "label", "labels", "tag", "tags", "category", "categories", "class", "target" };
    size_t i, k;
    for (i = 0; i < sizeof word / sizeof word[0]; i++) {
        for (k = 0; column + k < end && word[i][k] && (column[k] | 32) == word[i][k]; k++) { }
        if (column + k == end && !word[i][k]) return 1;
    }
    return 0;
}

/* How many of the labels in a column the vocabulary knows. A column that is quoted and very long is none of labels. */
static inline int data_known_labels(const vocabulary *v, const char *p, const char *end, int quoted)
{
    const char separator = data_separator(v);
    char column[1024];
    int known = 0;
    if (quoted && end - p > (int64_t)sizeof column) return 0;
    if (quoted) {
        memcpy(column, p, (size_t)(end - p));
        end = data_unquote(column, column + (end - p));
        p = column;
    }
    while (p < end) {
        const char *q = p, *stop;
        while (q < end && *q != separator) q++;
        for (stop = q; p < stop && *p == ' '; ) p++;
        while (p < stop && stop[-1] == ' ') stop--;
        known += data_find(&v->labels, p, stop - p) >= 0;
        p = q + 1;
    }
    return known;
}

/* The format of the line at p; FORMAT_AUTO with a message where it has none. After TRAIN, text is text and numbers are
   numbers. */
static inline int data_recognise(const data_documents *d, char *p, char *end, char *error)
{
    const char *path = d->stream.path;
    const vocabulary *v = d->words;
    const int text = v->learnt && v->shape.text, numeric = v->learnt && !v->shape.text;
    const long long line = (long long)d->stream.line;
    char *column = p, *next, *close;
    int numbers = 0, libsvm;

    if (end - p >= 5 && (memcmp(p, "\x93NUMP", 5) == 0 || memcmp(p, "HASTE", 5) == 0)) {
        data_fail(error, "%s: is a %s file; expected text", path, *p == 'H' ? "model" : ".npy");
        return FORMAT_AUTO;
    }
    libsvm = !text && data_is_libsvm(p, end, &numbers);
    if (numbers == 3) return FORMAT_XMC;
    if (!text && numbers > 1) {
        data_fail(error, "%s:%lld: a first line of %d numbers; expected three: documents, features and labels", path,
                  line, numbers);
        return FORMAT_AUTO;
    }
    if (libsvm || numeric) return FORMAT_LIBSVM;   /* the parser says what is wrong with it */
    if (!text && end - p > 9 && (memcmp(p, "@relation", 9) == 0 || memcmp(p, "@RELATION", 9) == 0)) {
        data_fail(error, "%s:%lld: looks like ARFF, which is not read; LIBSVM is", path, line);
        return FORMAT_AUTO;
    }
    for (next = p; end - next >= 9; next++)
        if (*next == '_' && memcmp(next, "__label__", 9) == 0 && (next == p || next[-1] == ' ' || next[-1] == '\t'))
            return FORMAT_FASTTEXT;
    if (text && v->shape.format == FORMAT_FASTTEXT) return FORMAT_FASTTEXT;
    if (memchr(p, '\t', (size_t)(end - p))) return FORMAT_TSV;
    if (text && !d->query) return memchr(p, ',', (size_t)(end - p)) ? FORMAT_CSV : (int)v->shape.format;
    close = data_column(&column, end, ',', &next);
    if (text && close && next < end &&
        (column == close || data_is_heading(column, close) || data_known_labels(v, column, close, column > p) > 0))
        return FORMAT_CSV;
    if (text) return FORMAT_LINES;
    if (memchr(p, ',', (size_t)(end - p))) return FORMAT_CSV;
    data_fail(error, "%s:%lld: cannot tell what this is: expected numbers of documents, features and labels (XMC), "
              "label,label feature:value ... (LIBSVM), __label__NAME words (fastText), or labels, a tab or comma, "
              "and text", path, line);
    return FORMAT_AUTO;
}

/* ---- >>labels ------------------------------------------------------------------------------------------------ */

/* One label by its name: its number is appended, if it is known. */
static inline int data_label_name(data_documents *d, int32_t *label, int64_t *labels, char *p, char *end, char *error)
{
    vocabulary *v = d->words;
    int32_t id;
    char *q;
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\r' || *p == '\n')) p++;
    while (p < end && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r' || end[-1] == '\n')) end--;
    if (p == end) return 1;
    for (q = p; q < end; q++) if (*q == '\n' || *q == '\r' || *q == 0) *q = ' ';
    id = v->learnt && !v->grows ? data_find(&v->labels, p, end - p) : data_add(&v->labels, p, end - p);
    if (id >= 0) label[(*labels)++] = id;
    else if (v->learnt && !v->grows) d->skipped.labels++;
    else return data_fail(error, "%s:%lld: out of memory for the names of labels", d->stream.path,
                          (long long)d->record);
    return 1;
}

/* ---- >>numbers ----------------------------------------------------------------------------------------------- */

/* The labels at *at, by name: up to white space, separated by commas; or in brackets, separated by commas or white
   space. */
static inline int data_named_labels(data_documents *d, int32_t *label, int64_t *labels, char **at, char *end,
                                    char *error)
{
    const int bracket = **at == '[';
    char *p = *at + bracket, word[32];
    for (;;) {
        char *start = p, *q;
        while (p < end && *p != ',' && *p != ' ' && *p != '\t' && !(bracket && *p == ']')) p++;
        for (q = start; q < p && *q != ':'; q++) { }
        if (q < p || (p == start && !bracket))
            return data_fail(error, "%s:%lld: expected a label, found %s", d->stream.path, (long long)d->record,
                             data_word(start, end, word));
        if (!data_label_name(d, label, labels, start, p, error)) return 0;
        if (p == end || (!bracket && *p != ',') || (bracket && *p == ']')) break;
        p++;
    }
    if (bracket && (p == end || *p != ']'))
        return data_fail(error, "%s:%lld: expected a ] behind the labels", d->stream.path, (long long)d->record);
    *at = p + bracket;
    return 1;
}

/* The id that a feature has where only the ids that occur are numbered, and are names; -1: none. */
static inline int32_t data_feature_id(vocabulary *v, int64_t id)
{
    char text[24];
    const int n = snprintf(text, sizeof text, "%lld", (long long)id);
    return v->grows ? data_add(&v->words, text, n) : data_find(&v->words, text, n);
}

/* One document from the line [p, end), *end == '\n', into arrays that have room for it. */
static inline int data_numbers(data_documents *d, data_set *data, char *p, char *end, char *error)
{
    int32_t *label = data->label + data->label_offset[data->documents];
    int32_t *feature = data->feature + data->feature_offset[data->documents];
    float *value = data->value + data->feature_offset[data->documents];
    vocabulary *v = d->words;
    const int64_t V = d->promises ? d->header[1] : FORMAT_MAX_ID, L = d->promises ? d->header[2] : FORMAT_MAX_ID;
    const int named = v->learnt ? v->shape.named != 0 : !d->promises;
    int64_t labels = 0, features = 0, id, line = d->record, i;
    const char *path = d->stream.path, *at = p, *q = p;
    char word[32];

    while (*q >= '0' && *q <= '9') q++;
    if (*q != ':' && p < end && *p != ' ' && *p != '\t' && *p != '#') {
        if (named) {
            if (!data_named_labels(d, label, &labels, &p, end, error)) return 0;
            at = p;
        } else for (;; at++) {
            const char *start = at;
            id = data_id(&at);
            if (id < 0 || (*at != ',' && *at != ' ' && *at != '\t' && at != end))
                return data_fail(error, "%s:%lld: expected a label id, found %s", path, (long long)line,
                                 data_word(start, end, word));
            if (id >= L)
                return data_fail(error, "%s:%lld: label %.*s is not below L = %lld%s", path, (long long)line,
                                 (int)(at - start < 20 ? at - start : 20),
                                 start, (long long)L, id == L ? " (ids count from 0)" : "");
            label[labels++] = (int32_t)id;
            if (*at != ',') break;
        }
    }
    for (;;) {
        const char *start;
        while (*at == ' ' || *at == '\t') at++;
        if (at == end || *at == '#') break;
        start = at;
        id = data_id(&at);
        if (id < 0 || *at != ':')
            return data_fail(error, "%s:%lld: expected feature:value, found %s", path, (long long)line,
                             data_word(start, end, word));
        if (id >= V)
            return data_fail(error, "%s:%lld: feature %.*s is not below V = %lld%s", path, (long long)line,
                             (int)(at - start < 20 ? at - start : 20),
                             start, (long long)V, id == V ? " (ids count from 0)" : "");
        start = ++at;
        if (!data_number(&at, &value[features]) || (at != end && *at != ' ' && *at != '\t'))
            return data_fail(error, "%s:%lld: the value of feature %lld should be a finite number, found %s", path,
                             (long long)line, (long long)id, data_word(start, end, word));
        feature[features++] = (int32_t)id;
    }
    if (v->learnt && v->words.count > 0)
        for (i = 0, id = features, features = 0; i < id; i++) {
            const int32_t known = data_feature_id(v, feature[i]);
            if (known < 0) { d->skipped.features++; continue; }
            feature[features] = known;
            value[features++] = value[i];
        }
    labels = data_tidy(label, NULL, labels);
    features = data_tidy(feature, value, features);
    for (i = 0; i < features; i++)
        if (!(fabsf(value[i]) <= FLT_MAX))
            return data_fail(error, "%s:%lld: the values of feature %ld add up to more than a float holds", path,
                             (long long)line, (long)feature[i]);
    if (v->grows) {
        if (labels > 0 && label[labels - 1] >= v->shape.labels) v->shape.labels = label[labels - 1] + 1;
        if (features > 0 && feature[features - 1] >= v->shape.features) v->shape.features = feature[features - 1] + 1;
    } else if (v->learnt) {   /* what the vocabulary does not know is at the end now */
        for (; features > 0 && feature[features - 1] >= v->shape.features; features--) d->skipped.features++;
        for (; labels > 0 && label[labels - 1] >= v->shape.labels; labels--) d->skipped.labels++;
    } else if (features > 0) {
        if (feature[features - 1] > d->largest) d->largest = feature[features - 1];
        if (feature[0] == 0) d->zeros++;
    }
    data->documents++;
    data->label_offset[data->documents] = data->label_offset[data->documents - 1] + labels;
    data->feature_offset[data->documents] = data->feature_offset[data->documents - 1] + features;
    return 1;
}

/* ---- >>text -------------------------------------------------------------------------------------------------- */

/* One document: its labels are appended to label, which has room for them; [*p, end) is its text then. */
static inline int data_text_labels(data_documents *d, int32_t *label, int64_t *labels, char **at, char *end,
                                   char *error)
{
    const char separator = data_separator(d->words), delimiter = d->format == FORMAT_CSV ? ',' : '\t';
    char *p = *at, *column = p, *close, *next, *q;
    if (d->format == FORMAT_FASTTEXT) {   /* what was a label becomes white space */
        for (q = p; (q = (char *)memchr(q, '_', (size_t)(end - q))) != NULL; q++) {
            if (end - q < 9 || memcmp(q, "__label__", 9) != 0 || (q > p && q[-1] != ' ' && q[-1] != '\t')) continue;
            for (next = q + 9; next < end && *next != ' ' && *next != '\t'; next++) { }
            if (next == q + 9)
                return data_fail(error, "%s:%lld: a label without a name", d->stream.path, (long long)d->record);
            if (!data_label_name(d, label, labels, q + 9, next, error)) return 0;
            memset(q, ' ', (size_t)(next - q));
            q = next - 1;
        }
        return 1;
    }
    if (d->format == FORMAT_LINES) return 1;
    close = data_column(&column, end, delimiter, &next);
    if (!close)
        return data_fail(error, "%s:%lld: expected a comma behind the quoted first column", d->stream.path,
                         (long long)d->record);
    if (next == end && d->query) return 1;   /* only text */
    if (next == end)
        return data_fail(error, "%s:%lld: expected labels, a %s, and text; found one column", d->stream.path,
                         (long long)d->record, delimiter == ',' ? "comma" : "tab");
    *at = next + 1;
    if (column > p) close = data_unquote(column, close);
    for (p = column; p <= close; p = q + 1) {
        for (q = p; q < close && *q != separator; q++) { }
        if (!data_label_name(d, label, labels, p, q, error)) return 0;
    }
    return 1;
}

static inline int data_text(data_documents *d, data_set *data, char *p, char *end, char *error)
{
    vocabulary *v = d->words;
    const int ngrams = v->shape.ngrams > 1 ? (int)v->shape.ngrams : 1;
    int64_t labels = 0, features = 0, words, i;
    int32_t *label = data->label + data->label_offset[data->documents], *feature;
    float *value;
    int n;
    if (!data_text_labels(d, label, &labels, &p, end, error)) return 0;
    labels = data_tidy(label, NULL, labels);
    words = vocabulary_split(v, p, end, &d->skipped.bytes);
    if (words < 0 || !data_room(data, labels, words * ngrams))
        return data_fail(error, "%s:%lld: out of memory", d->stream.path, (long long)d->record);
    feature = data->feature + data->feature_offset[data->documents];
    value = data->value + data->feature_offset[data->documents];
    for (i = 0; i < words; i++)
        for (n = 1; n <= ngrams && i + n <= words; n++) {
            const int32_t id = vocabulary_feature(v, i, n);
            if (id == -2)
                return data_fail(error, "%s:%lld: out of memory for the words", d->stream.path, (long long)d->record);
            if (id < 0) { d->skipped.features += n == 1; continue; }
            feature[features] = id;
            value[features++] = 1;
        }
    features = data_tidy(feature, value, features);
    data->documents++;
    data->label_offset[data->documents] = data->label_offset[data->documents - 1] + labels;
    data->feature_offset[data->documents] = data->feature_offset[data->documents - 1] + features;
    return 1;
}

/* The next record of CSV: like data_line, but line breaks within quotation marks are part of it. */
static inline int data_record(data_stream *stream, char **begin, char **end, char *error)
{
    size_t seen = 0;
    int state = 0;
    for (;;) {
        char *from = stream->buffer + stream->begin, *p;
        const char *stop = data_record_end(from + seen, stream->buffer + stream->end, &state);
        if (!stop && stream->finished) {
            if (stream->begin == stream->end) return 0;
            if (state == 2)
                return data_fail(error, "%s:%lld: a quotation mark is opened and never closed", stream->path,
                                 (long long)stream->line + 1) - 1;
            stream->buffer[stream->end++] = '\n';
            stop = stream->buffer + stream->end;
        }
        if (stop) {
            *begin = from;
            *end = from + (stop - from) - 1;
            stream->begin += (size_t)(stop - from);
            for (p = from; (p = (char *)memchr(p, '\n', (size_t)(stop - p))) != NULL; p++) stream->line++;
            return 1;
        }
        seen = stream->end - stream->begin;
        if (!data_fill(stream, error)) return -1;
    }
}

/* ---- >>files ------------------------------------------------------------------------------------------------- */

static inline void data_documents_close(data_documents *d) { data_close(&d->stream); }

static inline int data_header(data_documents *d, const char *p, const char *end, char *error)
{
    static const char *const name[] = { "documents", "features", "labels" };
    const char *path = d->stream.path, *from[3] = { NULL, NULL, NULL };
    int i;
    for (i = 0; i < 3; i++) {
        from[i] = p = data_blank(p, end);
        d->header[i] = data_id(&p);
        if (d->header[i] < 0 || (p < end && *p != ' ' && *p != '\t')) break;
    }
    if (i < 3 || data_blank(p, end) != end)
        return data_fail(error, "%s:%lld: expected a first line with three numbers: documents, features and labels",
                         path, (long long)d->stream.line);
    for (i = 0; i < 3; i++)
        if (d->header[i] < 1 || (i > 0 && d->header[i] > INT32_MAX))
            return data_fail(error, "%s:%lld: %.*s %s; expected 1 .. 2147483647", path, (long long)d->stream.line,
                             (int)(data_dark(from[i], end) - from[i]), from[i], name[i]);
    d->promises = 1;
    d->header_line = d->stream.line;
    return 1;
}

/* Opens a file and looks what it is, up to its first document. format: FORMAT_AUTO, or what it has to be. */
static inline int data_documents_open(data_documents *d, vocabulary *v, const char *path, int format, int query,
                                      char *error)
{
    char *begin = NULL, *end = NULL, *column, *close, *next;
    int got, ok = 1;
    memset(d, 0, sizeof *d);
    d->words = v;
    d->query = query;
    d->largest = -1;
    if (!data_open(&d->stream, path, error)) return 0;
    do {   /* comments */
        got = data_line(&d->stream, &begin, &end, error);
        while (got > 0 && end > begin && (end[-1] == '\r' || end[-1] == ' ')) end--;
    } while (got > 0 && ((*begin == '#' && !(query && v->shape.text)) || (begin == end && !query)));
    if (got < 0) ok = 0;
    else if (got == 0 && query) { d->format = v->shape.text ? FORMAT_LINES : FORMAT_LIBSVM; return 1; }
    else if (got == 0)
        ok = data_fail(error, "%s:%lld: the file is empty; expected documents", path, (long long)d->stream.line + 1);
    else ok = (d->format = format ? format : data_recognise(d, begin, end, error)) != FORMAT_AUTO;
    if (ok && v->learnt && (v->shape.text != 0) != (d->format >= FORMAT_FASTTEXT))
        ok = data_fail(error, "%s: expected %s: that is what was learnt from", path,
                       v->shape.text ? "text" : "feature:value pairs");
    if (ok && !v->learnt && d->format == FORMAT_LINES)
        ok = data_fail(error, "%s: lines without labels: nothing to learn", path);
    if (ok && d->format == FORMAT_XMC) ok = data_header(d, begin, end, error);
    else if (ok) data_again(&d->stream, begin);
    if (ok && (d->format == FORMAT_TSV || d->format == FORMAT_CSV)) {
        const char delimiter = d->format == FORMAT_CSV ? ',' : '\t';
        while (ok && !query && !d->stream.finished && d->stream.end - d->stream.begin < FORMAT_SAMPLE)
            ok = data_fill(&d->stream, error);
        if (ok && v->shape.separator == SEPARATOR_AUTO)
            v->shape.separator = data_look_for_separator(&d->stream, delimiter);
        ok = ok && data_line(&d->stream, &begin, &end, error) > 0;
        column = begin;
        close = ok ? data_column(&column, end, delimiter, &next) : NULL;
        if (ok && !(close && next < end && data_is_heading(column, close))) data_again(&d->stream, begin);
    }
    if (ok && !v->learnt) {
        v->shape.version = VOCABULARY_VERSION;
        v->shape.format = d->format;
        v->shape.text = d->format >= FORMAT_FASTTEXT;
        v->shape.named = d->format != FORMAT_XMC;
    }
    if (!ok) data_documents_close(d);
    return ok;
}

/* Appends the next document to data: 1; 0 at the end, -1 error. */
static inline int data_documents_next(data_documents *d, data_set *data, char *error)
{
    const int text = d->format >= FORMAT_FASTTEXT;
    for (;;) {
        char *begin = NULL, *end = NULL;
        const int64_t line = d->stream.line + 1;
        const int got = d->format == FORMAT_CSV ? data_record(&d->stream, &begin, &end, error)
                                                : data_line(&d->stream, &begin, &end, error);
        if (got < 0) return -1;
        if (!got) {
            if (d->promises && d->count < d->header[0])
                return data_fail(error, "%s:%lld: the file ends after %lld documents; line %lld promises %lld",
                                 d->stream.path, (long long)line, (long long)d->count, (long long)d->header_line,
                                 (long long)d->header[0]) - 1;
            return 0;
        }
        d->record = line;
        d->spoilt = 0;
        while (end > begin && (end[-1] == '\r' || (!text && (end[-1] == ' ' || end[-1] == '\t')))) end--;
        *end = '\n';
        if (!text && *begin == '#') continue;
        if (begin == end && (d->promises ? d->count == d->header[0] : !d->query)) continue;
        if (d->promises && d->count == d->header[0])
            return data_fail(error, "%s:%lld: one document more than the %lld that line %lld promises", d->stream.path,
                             (long long)line, (long long)d->header[0], (long long)d->header_line) - 1;
        /* A label takes two characters, a feature four: room for the whole line, so that the parsers need no checks. */
        if (!data_room(data, (end - begin) / 2 + 1, text ? 0 : (end - begin) / 4 + 1))
            return data_fail(error, "%s:%lld: out of memory", d->stream.path, (long long)line) - 1;
        d->count++;
        d->spoilt = !(text ? data_text(d, data, begin, end, error) : data_numbers(d, data, begin, end, error));
        if (d->spoilt) return -1;
        return 1;
    }
}

/* ---- >>learning a vocabulary --------------------------------------------------------------------------------- */

/* Where ids go far beyond what occurs: gives those that do numbers of their own, and names that are the old ones. */
static inline int data_renumber(data_names *names, const int64_t *offset, int64_t documents, int32_t *id, float *value)
{
    int64_t i, j;
    char text[24];
    for (i = 0; i < documents; i++) {
        for (j = offset[i]; j < offset[i + 1]; j++) {
            id[j] = data_add(names, text, snprintf(text, sizeof text, "%ld", (long)id[j]));
            if (id[j] < 0) return 0;
        }
        data_tidy(id + offset[i], value ? value + offset[i] : NULL, offset[i + 1] - offset[i]);
    }
    return 1;
}

/* Takes the words out, from word `first` on, that fewer than `least` documents have. */
static inline int data_prune(vocabulary *v, data_set *data, int64_t first, int64_t least, char *error)
{
    const int64_t pairs = data->feature_offset[data->documents];
    int32_t *number = (int32_t *)calloc((size_t)v->words.count + 1, sizeof(int32_t)), k;
    data_names kept;
    int64_t i, j, from, left = 0;
    int ok = number != NULL;
    memset(&kept, 0, sizeof kept);
    for (j = 0; j < pairs && ok; j++) number[data->feature[j]]++;
    for (k = 0; k < v->words.count && ok; k++) {
        int64_t length;
        const char *word = data_name(&v->words, k, &length);
        if (k >= first && number[k] < least) { number[k] = -1; continue; }
        number[k] = data_add(&kept, word, length);
        ok = number[k] >= 0;
    }
    if (!ok) {
        free(number);
        data_names_free(&kept);
        return data_fail(error, "out of memory for the words");
    }
    for (i = 0, from = 0; i < data->documents; i++) {   /* numbers keep their order */
        for (j = from; j < data->feature_offset[i + 1]; j++)
            if (number[data->feature[j]] >= 0) {
                data->feature[left] = number[data->feature[j]];
                data->value[left++] = data->value[j];
            }
        from = data->feature_offset[i + 1];
        data->feature_offset[i + 1] = left;
    }
    free(number);
    data_names_free(&v->words);
    v->words = kept;
    return 1;
}

/* After the last document of TRAIN: the vocabulary is fixed. */
static inline int data_learn(vocabulary *v, data_set *data, const data_documents *d, int64_t least, char *error)
{
    const int64_t labels = data->label_offset[data->documents], pairs = data->feature_offset[data->documents];
    const char *path = d->stream.path;
    int ok = 1;
    if (v->shape.text) {
        if (!v->shape.hash_bits && least > 1 && !data_prune(v, data, 0, least, error)) return 0;
        v->shape.features = v->shape.hash_bits ? INT64_C(1) << v->shape.hash_bits : v->words.count;
    } else {
        v->shape.features = d->promises ? d->header[1] : d->largest >= 0 ? d->largest + 1 : 1;
        if (v->shape.features > 16 * pairs + 65536) {
            ok = data_renumber(&v->words, data->feature_offset, data->documents, data->feature, data->value);
            v->shape.features = v->words.count;
        }
    }
    v->shape.labels = v->shape.named ? v->labels.count : d->header[2];
    if (ok && v->shape.labels > 16 * labels + 65536) {
        ok = data_renumber(&v->labels, data->label_offset, data->documents, data->label, NULL);
        v->shape.named = 1;
        v->shape.labels = v->labels.count;
    }
    if (!ok) return data_fail(error, "%s: out of memory", path);
    if (labels == 0) return data_fail(error, "%s: no document has a label", path);
    v->learnt = 1;
    return 1;
}

/* After the last document of a file in which features and labels could be new, which `before` tells. Labels have names
   where all have. */
static inline int data_grown(vocabulary *v, data_set *data, const vocabulary_shape *before, int64_t least, const char *path,
                             char *error)
{
    const int64_t labels = data->label_offset[data->documents], pairs = data->feature_offset[data->documents];
    char text[24];
    v->grows = 0;
    if (labels == 0) return data_fail(error, "%s: no document has a label", path);
    if (v->shape.text && !v->shape.hash_bits && least > 1 && !data_prune(v, data, before->features, least, error)) return 0;
    if (v->words.count > 0) v->shape.features = v->words.count;
    if (v->shape.named) v->shape.labels = v->labels.count;
    if ((v->shape.labels > before->labels + 16 * labels + 65536 && !v->shape.named) ||
        (v->shape.features > before->features + 16 * pairs + 65536 && v->words.count == 0))
        return data_fail(error, "%s: ids up to %lld and %lld in lists of %lld labels and %lld features: too far apart",
                         path, (long long)v->shape.labels - 1, (long long)v->shape.features - 1, (long long)labels,
                         (long long)pairs);
    while (v->labels.count > 0 && v->labels.count < v->shape.labels)
        if (!data_append(&v->labels, text, snprintf(text, sizeof text, "%ld", (long)v->labels.count)))
            return data_fail(error, "%s: out of memory for the names of labels", path);
    return 1;
}

/* How to read a file. */
typedef struct data_reading {
    int     format;        /* FORMAT_AUTO, or what it has to be */
    int     query;         /* empty lines are documents, text needs no labels */
    int64_t limit;         /* > 0: only so many documents */
    /* words of fewer documents are left out of a vocabulary; 0: below 2 where TRAIN has 10,000 documents */
    int64_t min_count;
} data_reading;

/* Reads a whole file. A vocabulary that is not fixed yet is learnt from it; one that grows (and then does no more) gets
   its new features and labels. data (=) is empty after a failure. about
   (=): what the file is, and what was skipped. */
static inline int data_read(data_set *data, vocabulary *v, const char *path, const data_reading *how,
                            data_documents *about, char *error)
{
    const vocabulary_shape before = v->shape;
    int64_t least = how->min_count;
    int got = 1;
    memset(data, 0, sizeof *data);
    if (!data_documents_open(about, v, path, how->format, how->query, error)) return 0;
    while (got > 0 && (how->limit <= 0 || data->documents < how->limit)) got = data_documents_next(about, data, error);
    if (got >= 0 && data->documents == 0)   /* a header or a heading, and nothing else */
        got = data_fail(error, "%s:%lld: the file ends before its first document", path,
                        (long long)about->stream.line + 1) - 1;
    if (least == 0) least = data->documents < 10000 ? 1 : 2;
    if (got >= 0 && !v->learnt && !data_learn(v, data, about, least, error)) got = -1;
    if (got >= 0 && v->grows && !data_grown(v, data, &before, least, path, error)) got = -1;
    data_documents_close(about);
    if (got < 0) {
        data_free(data);
        return 0;
    }
    data->features = (int32_t)v->shape.features;
    data->labels = (int32_t)v->shape.labels;
    data_trim(data);
    return 1;
}

/* What a file was, in a few words: "LIBSVM, features count from 1". */
static inline const char *data_format_text(const data_documents *d, char text[100])
{
    static const char *const name[] = { "", "XMC", "LIBSVM, no header", "fastText", "TSV", "CSV", "lines of text" };
    static const char *const separated[] = { "", ";", "|", ",", "spaces", "" };
    const vocabulary *v = d->words;
    const char *separator = separated[v->shape.separator];
    snprintf(text, 100, "%s", name[d->format]);
    if (d->format == FORMAT_LIBSVM && d->largest >= 0 && v->words.count == 0)
        snprintf(text, 100, "%s, features from %d to %lld", name[d->format], d->zeros == 0, (long long)d->largest);
    if (d->format == FORMAT_TSV || d->format == FORMAT_CSV)
        snprintf(text, 100, "%s, %s%s", name[d->format], *separator ? "labels separated by " : "one label each",
                 separator);
    return text;
}

/* What was left out, in a few words; "" for nothing. */
static inline const char *data_skipped_text(const data_skipped *skipped, int words, char text[200])
{
    int n = 0;
    text[0] = 0;
    if (skipped->features)
        n += snprintf(text + n, 200 - (size_t)n, "%lld unknown %s", (long long)skipped->features,
                      words ? "words" : "features");
    if (skipped->labels)
        n += snprintf(text + n, 200 - (size_t)n, "%s%lld unknown labels", n ? ", " : "", (long long)skipped->labels);
    if (skipped->bytes)
        snprintf(text + n, 200 - (size_t)n, "%s%lld byte%s that are no UTF-8", n ? ", " : "", (long long)skipped->bytes, skipped->bytes == 1 ? "" : "s");
    return text;
}

/* Names for labels that are ids: line i of a file is the name of label i. */
static inline int data_read_names(vocabulary *v, const char *path, char *error)
{
    data_stream stream;
    data_names names;
    char *begin, *end;
    int got, ok = 1;
    if (v->shape.named) return data_fail(error, "%s: the labels have names already", path);
    memset(&names, 0, sizeof names);
    if (!data_open(&stream, path, error)) return 0;
    while (ok && (got = data_line(&stream, &begin, &end, error)) != 0) {
        if (got < 0) { ok = 0; break; }
        if (end > begin && end[-1] == '\r') end--;
        if (!data_append(&names, begin, end - begin)) ok = data_fail(error, "%s: out of memory", path);
    }
    data_close(&stream);
    if (ok && names.count != v->shape.labels)
        ok = data_fail(error, "%s:%ld: %ld names for %lld labels", path, (long)names.count, (long)names.count,
                       (long long)v->shape.labels);
    if (!ok) { data_names_free(&names); return 0; }
    data_names_free(&v->labels);
    v->labels = names;
    return 1;
}

/* ---- >>npy --------------------------------------------------------------------------------------------------- */

static inline float data_from_half(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double value = exponent == 31 ? (mantissa ? NAN : INFINITY) :
                   exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
    return (float)(half & 0x8000 ? -value : value);
}

/* Little-endian numbers of .npy, on any machine. */
static inline double data_from_bytes(const unsigned char *bytes, size_t size)
{
    uint64_t bits = 0;
    size_t i;
    for (i = 0; i < size; i++) bits |= (uint64_t)bytes[i] << (8 * i);
    if (size == 8) {
        double wide;
        memcpy(&wide, &bits, sizeof wide);
        return wide;
    }
    if (size == 4) {
        const uint32_t low = (uint32_t)bits;
        float value;
        memcpy(&value, &low, sizeof value);
        return (double)value;
    }
    return (double)data_from_half((uint16_t)bits);
}

static inline int data_npy_rows(data_set *data, data_stream *stream, int64_t limit, char *error)
{
    const char *path = stream->path, *p;
    unsigned char *bytes = data_take(stream, 8, error);
    char *text;
    size_t header, prefix, size;
    int64_t rows, columns, i, capacity = 0;
    int is_half, is_double;

    if (!bytes) return 0;
    if (memcmp(bytes, "\x93NUMPY", 6) != 0 || bytes[6] < 1 || bytes[6] > 3)
        return data_fail(error, "%s: not a .npy file of dense features (version 1 to 3)", path);
    prefix = bytes[6] == 1 ? 2 : 4;
    bytes = data_take(stream, prefix, error);
    if (!bytes) return 0;
    header = bytes[0] | (size_t)bytes[1] << 8;
    if (prefix == 4) header |= (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    if (header > 65536)
        return data_fail(error, "%s: a header of %lu bytes; expected a plain array", path, (unsigned long)header);
    bytes = data_take(stream, header, error);
    if (!bytes) return 0;
    text = (char *)malloc(header + 1);
    if (!text) return data_fail(error, "%s: out of memory", path);
    memcpy(text, bytes, header);
    text[header] = 0;
    is_half = strstr(text, "'<f2'") != NULL;
    is_double = strstr(text, "'<f8'") != NULL;
    size = is_half ? 2 : is_double ? 8 : 4;
    i = (is_half || is_double || strstr(text, "'<f4'")) && strstr(text, "'fortran_order': False");
    rows = columns = -1;
    if ((p = strstr(text, "'shape': (")) != NULL) {
        p += strlen("'shape': (");
        rows = data_id(&p);
        while (*p == ',' || *p == ' ') p++;
        columns = data_id(&p);
        if (*p != ')' && strncmp(p, ",)", 2) != 0) columns = -1;
    }
    free(text);
    if (!i) return data_fail(error, "%s: expected little-endian float16, float32 or float64 in C order", path);
    if (rows < 1 || columns < 1 || columns > 65536)
        return data_fail(error, "%s: expected a shape of (documents, inputs) with at most 65536 inputs", path);
    if (limit > 0 && rows > limit) rows = limit;
    for (i = 0; i < rows; i++) {
        int64_t j;
        float *row;
        if (!data_reserve((void **)&data->dense, &capacity, (i + 1) * columns, sizeof(float)))
            return data_fail(error, "%s: out of memory at row %lld of %lld", path, (long long)i, (long long)rows);
        bytes = data_take(stream, (size_t)columns * size, error);
        if (!bytes) return 0;
        row = data->dense + i * columns;
        for (j = 0; j < columns; j++, bytes += size) {
            row[j] = (float)data_from_bytes(bytes, size);
            if (!(fabsf(row[j]) <= FLT_MAX))
                return data_fail(error, "%s: row %lld, column %lld: expected a finite number", path, (long long)i,
                                 (long long)j);
        }
    }
    data->documents = rows;
    data->width = (int32_t)columns;
    return 1;
}

/* Reads dense features. With documents already in data (their labels, from a text file), the numbers of rows must
   agree; otherwise the documents have no labels. */
static inline int data_read_npy(data_set *data, const char *path, int64_t limit, char *error)
{
    data_stream stream;
    data_set rows;
    int ok;
    memset(&rows, 0, sizeof rows);
    if (!data_open(&stream, path, error)) return 0;
    ok = data_npy_rows(&rows, &stream, limit, error);
    data_close(&stream);
    if (ok && data->documents > 0 && data->documents != rows.documents)
        ok = data_fail(error, "%s: %lld rows for %lld documents", path, (long long)rows.documents,
                       (long long)data->documents);
    if (ok && data->documents == 0) {
        data->label_offset = (int64_t *)calloc((size_t)rows.documents + 1, sizeof(int64_t));
        data->feature_offset = (int64_t *)calloc((size_t)rows.documents + 1, sizeof(int64_t));
        if (!data->label_offset || !data->feature_offset) ok = data_fail(error, "%s: out of memory", path);
    }
    if (!ok) { data_free(&rows); return 0; }
    free(data->dense);
    data->dense = rows.dense;
    data->documents = rows.documents;
    data->width = rows.width;
    return 1;
}

#endif /* FORMATS_H */
