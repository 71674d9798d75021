/* data.h: reads data sets for the example programs. Text in the format of the Extreme Classification Repository, plain or
   (with zlib, HASTE_ZLIB) gzip-compressed:

       N V L                          documents, features, labels
       label,label,... feature:value feature:value ...

   Ids count from 0. Labels may be missing: the line then begins with a space or with its first feature. An empty line is a
   document with neither. Features may come in any order; a feature that comes twice is summed, a label that comes twice
   counts once, a value of 0 is left out, a carriage return at the end is ignored. And .npy files (version 1 or 2;
   little-endian float16, float32 or float64; C order) of shape [N, D].

   Files are read in chunks, never whole. Every function that can fail returns 0 and says why in error[DATA_ERROR], with file
   and line: `train.txt:17: label 70000 is not below L = 3993`. */
#ifndef DATA_H
#define DATA_H

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HASTE_ZLIB
    #include <zlib.h>
#endif

#define DATA_ERROR 400
#define DATA_CHUNK ((size_t)1 << 20)

/* Documents as CSR: document i has label[label_offset[i]] .. label[label_offset[i+1] - 1], ascending, and likewise
   features with their values. Or dense: row i of `dense`. */
typedef struct data_set {
    int64_t  documents;                 /* N */
    int32_t  features, labels;          /* V, L */
    int64_t *label_offset;              /* [N+1] */
    int32_t *label;
    int64_t *feature_offset;            /* [N+1] */
    int32_t *feature;
    float   *value;
    float   *dense;                     /* [N, width] or NULL */
    int32_t  width;
} data_set;

static inline void data_free(data_set *data)
{
    free(data->label_offset);
    free(data->label);
    free(data->feature_offset);
    free(data->feature);
    free(data->value);
    free(data->dense);
    memset(data, 0, sizeof *data);
}

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline int data_fail(char *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, DATA_ERROR, format, arguments);
    va_end(arguments);
    return 0;
}

/* Makes room for `need` elements; memory grows by half, so that a file of unknown size is read in linear time. */
static inline int data_reserve(void **array, int64_t *capacity, int64_t need, size_t width)
{
    int64_t wanted = *capacity + *capacity / 2 + 1024;
    void *grown;
    if (need <= *capacity) return 1;
    if (wanted < need) wanted = need;
    if ((uint64_t)wanted > SIZE_MAX / width) return 0;
    grown = realloc(*array, (size_t)wanted * width);
    if (!grown) return 0;
    *array = grown;
    *capacity = wanted;
    return 1;
}

/* ---- >>streams ----------------------------------------------------------------------------------------------- */

typedef struct data_stream {
    const char *path;
    FILE       *file;
#ifdef HASTE_ZLIB
    gzFile      gz;
#endif
    char       *buffer;                 /* [capacity + 1]: room for the newline that a last line may lack */
    size_t      capacity, begin, end;   /* not yet used: buffer[begin] .. buffer[end - 1] */
    int         finished;
    int64_t     line;                   /* number of the last line given out */
} data_stream;

static inline int data_ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return n >= m && memcmp(text + n - m, ending, m) == 0;
}

static inline void data_close(data_stream *stream)
{
    if (stream->file) fclose(stream->file);
#ifdef HASTE_ZLIB
    if (stream->gz) gzclose(stream->gz);
#endif
    free(stream->buffer);
    memset(stream, 0, sizeof *stream);
}

static inline int data_open(data_stream *stream, const char *path, char *error)
{
    memset(stream, 0, sizeof *stream);
    stream->path = path;
    if (data_ends_with(path, ".gz")) {
#ifdef HASTE_ZLIB
        stream->gz = gzopen(path, "rb");
        if (!stream->gz) return data_fail(error, "%s: cannot open: %s", path, strerror(errno));
        gzbuffer(stream->gz, 1 << 17);
#else
        return data_fail(error, "%s: this program was built without zlib: decompress the file first", path);
#endif
    } else {
        stream->file = fopen(path, "rb");
        if (!stream->file) return data_fail(error, "%s: cannot open: %s", path, strerror(errno));
        setvbuf(stream->file, NULL, _IONBF, 0);
    }
    stream->capacity = DATA_CHUNK;
    stream->buffer = (char *)malloc(stream->capacity + 1);
    if (!stream->buffer) {
        data_close(stream);
        return data_fail(error, "%s: out of memory", path);
    }
    return 1;
}

/* Appends to the buffer whatever comes; sets finished at the end of the file. */
static inline int data_fill(data_stream *stream, char *error)
{
    size_t room, got;
    if (stream->begin > 0) {
        memmove(stream->buffer, stream->buffer + stream->begin, stream->end - stream->begin);
        stream->end -= stream->begin;
        stream->begin = 0;
    }
    if (stream->end == stream->capacity) {
        char *grown = stream->capacity < SIZE_MAX / 4 ? (char *)realloc(stream->buffer, 2 * stream->capacity + 1) : NULL;
        if (!grown) return data_fail(error, "%s:%lld: out of memory", stream->path, (long long)stream->line + 1);
        stream->buffer = grown;
        stream->capacity *= 2;
    }
    room = stream->capacity - stream->end;
    if (room > DATA_CHUNK) room = DATA_CHUNK;
#ifdef HASTE_ZLIB
    if (stream->gz) {
        int count = gzread(stream->gz, stream->buffer + stream->end, (unsigned)room), code = Z_OK;
        const char *text = count <= 0 ? gzerror(stream->gz, &code) : "";
        if (count < 0 || (code != Z_OK && code != Z_STREAM_END))
            return data_fail(error, "%s: after line %lld: damaged or incomplete: %s", stream->path, (long long)stream->line, text);
        got = (size_t)count;
    } else
#endif
    {
        got = fread(stream->buffer + stream->end, 1, room, stream->file);
        if (got == 0 && ferror(stream->file))
            return data_fail(error, "%s: cannot read: %s", stream->path, strerror(errno));
    }
    if (got == 0) stream->finished = 1;
    stream->end += got;
    return 1;
}

/* The next line: 1, with *end on its newline (in the buffer, free to be overwritten); 0 at the end of the file; -1 error. */
static inline int data_line(data_stream *stream, char **begin, char **end, char *error)
{
    size_t seen = 0;
    for (;;) {
        size_t left = stream->end - stream->begin;
        char *newline = (char *)memchr(stream->buffer + stream->begin + seen, '\n', left - seen);
        if (!newline && stream->finished && left > 0) {
            newline = stream->buffer + stream->end++;
            *newline = '\n';
        }
        if (newline) {
            *begin = stream->buffer + stream->begin;
            *end = newline;
            stream->begin = (size_t)(newline - stream->buffer) + 1;
            stream->line++;
            return 1;
        }
        if (stream->finished) return 0;
        seen = left;
        if (!data_fill(stream, error)) return -1;
    }
}

/* ---- >>numbers ----------------------------------------------------------------------------------------------- */

/* Digits at *at as a number; -1 where there is none. Saturates, so that 20 digits are merely too large. */
static inline int64_t data_id(const char **at)
{
    const char *p = *at;
    int64_t id = 0;
    unsigned digit = (unsigned)(*p - '0');
    if (digit > 9) return -1;
    do {
        if (id < INT64_C(100000000000000)) id = id * 10 + (int64_t)digit;
        digit = (unsigned)(*++p - '0');
    } while (digit <= 9);
    *at = p;
    return id;
}

/* A decimal number at *at. Plain decimals of up to 18 digits are exact enough in 64 bits and one division; the rest is strtod's. */
static inline int data_number(const char **at, float *value)
{
    static const double power[] = { 1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
                                    1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18 };
    const char *p = *at, *start = p;
    int negative = *p == '-', digits = 0, fraction = 0;
    uint64_t mantissa = 0;
    double number;
    unsigned digit;
    if (*p == '-' || *p == '+') p++;
    while ((digit = (unsigned)(*p - '0')) <= 9) { mantissa = mantissa * 10 + digit; digits++; p++; }
    if (*p == '.') {
        p++;
        while ((digit = (unsigned)(*p - '0')) <= 9) { mantissa = mantissa * 10 + digit; digits++; fraction++; p++; }
    }
    if (digits == 0) return 0;
    if (digits <= 18 && *p != 'e' && *p != 'E') {
        number = (double)mantissa / power[fraction];
        if (negative) number = -number;
    } else {
        char text[128], *stop;
        size_t n = 0;
        while (n < sizeof text - 1 && start[n] != ' ' && start[n] != '\t' && start[n] != '\n') { text[n] = start[n]; n++; }
        text[n] = 0;
        number = strtod(text, &stop);
        p = start + (stop - text);
    }
    *at = p;
    *value = (float)number;
    return fabsf(*value) <= FLT_MAX;
}

/* The word at p, for a message. */
static inline const char *data_word(const char *p, const char *end, char word[32])
{
    int n = 0;
    while (p < end && *p != ' ' && *p != '\t' && n < 24) { word[n] = (char)(*p >= 32 && *p < 127 ? *p : '?'); n++; p++; }
    word[n] = 0;
    return n ? word : "the end of the line";
}

/* ---- >>text -------------------------------------------------------------------------------------------------- */

/* Sorts ids (with values, where not NULL) and joins equal ones, adding their values. Values of 0 are left out. Returns the new
   number. Almost always everything is in order already. */
static inline int64_t data_tidy(int32_t *id, float *value, int64_t n)
{
    int64_t i, kept = 0, gap;
    int ordered = 1;
    for (i = 1; i < n; i++) ordered &= id[i - 1] < id[i];
    if (value) for (i = 0; i < n; i++) ordered &= value[i] != 0;
    if (ordered) return n;
    for (gap = 1; gap < n / 3; gap = 3 * gap + 1) { }
    for (; gap > 0; gap /= 3)
        for (i = gap; i < n; i++) {
            int32_t moved = id[i];
            float with = value ? value[i] : 0;
            int64_t j = i;
            for (; j >= gap && id[j - gap] > moved; j -= gap) {
                id[j] = id[j - gap];
                if (value) value[j] = value[j - gap];
            }
            id[j] = moved;
            if (value) value[j] = with;
        }
    for (i = 0; i < n; ) {
        int32_t same = id[i];
        float sum = 0;
        for (; i < n && id[i] == same; i++) if (value) sum += value[i];
        if (value && sum == 0) continue;
        id[kept] = same;
        if (value) value[kept] = sum;
        kept++;
    }
    return kept;
}

/* One document from the line [p, end), *end == '\n', into arrays that have room for it. */
static inline int data_document(data_set *data, const data_stream *stream, const char *p, const char *end, char *error)
{
    int32_t *label = data->label + data->label_offset[data->documents];
    int32_t *feature = data->feature + data->feature_offset[data->documents];
    float *value = data->value + data->feature_offset[data->documents];
    int64_t labels = 0, features = 0, id, line = stream->line, i;
    const char *path = stream->path, *q = p;
    char word[32];

    while (*q >= '0' && *q <= '9') q++;
    if (*q != ':' && p < end && *p != ' ' && *p != '\t') {
        for (;; p++) {
            const char *start = p;
            id = data_id(&p);
            if (id < 0 || (*p != ',' && *p != ' ' && *p != '\t' && p != end))
                return data_fail(error, "%s:%lld: expected a label id, found '%s'", path, (long long)line, data_word(start, end, word));
            if (id >= data->labels)
                return data_fail(error, "%s:%lld: label %lld is not below L = %ld%s", path, (long long)line, (long long)id,
                                 (long)data->labels, id == data->labels ? " (ids count from 0)" : "");
            label[labels++] = (int32_t)id;
            if (*p != ',') break;
        }
    }
    for (;;) {
        const char *start;
        while (*p == ' ' || *p == '\t') p++;
        if (p == end) break;
        start = p;
        id = data_id(&p);
        if (id < 0 || *p != ':')
            return data_fail(error, "%s:%lld: expected feature:value, found '%s'", path, (long long)line, data_word(start, end, word));
        if (id >= data->features)
            return data_fail(error, "%s:%lld: feature %lld is not below V = %ld%s", path, (long long)line, (long long)id,
                             (long)data->features, id == data->features ? " (ids count from 0)" : "");
        start = ++p;
        if (!data_number(&p, &value[features]) || (p != end && *p != ' ' && *p != '\t'))
            return data_fail(error, "%s:%lld: the value of feature %lld should be a finite number, found '%s'", path, (long long)line,
                             (long long)id, data_word(start, end, word));
        feature[features++] = (int32_t)id;
    }
    labels = data_tidy(label, NULL, labels);
    features = data_tidy(feature, value, features);
    for (i = 0; i < features; i++)
        if (!(fabsf(value[i]) <= FLT_MAX))
            return data_fail(error, "%s:%lld: the values of feature %ld add up to more than a float holds", path, (long long)line,
                             (long)feature[i]);
    data->documents++;
    data->label_offset[data->documents] = data->label_offset[data->documents - 1] + labels;
    data->feature_offset[data->documents] = data->feature_offset[data->documents - 1] + features;
    return 1;
}

static inline int data_read_lines(data_set *data, data_stream *stream, int64_t limit, char *error)
{
    int64_t header[3] = { 0, 0, 0 }, promised, capacity = 0, offset_capacity = 0;
    int64_t label_capacity = 0, feature_capacity = 0, value_capacity = 0;
    char *begin, *end;
    const char *path = stream->path, *p;
    int got = data_line(stream, &begin, &end, error), i;

    if (got < 0) return 0;
    if (!got) return data_fail(error, "%s:1: the file is empty; expected a first line with documents, features and labels", path);
    for (p = begin, i = 0; i < 3; i++) {
        while (*p == ' ' || *p == '\t') p++;
        header[i] = data_id(&p);
        if (header[i] < 0 || (*p != ' ' && *p != '\t' && *p != '\r' && *p != '\n')) break;
    }
    while (*p == ' ' || *p == '\t' || *p == '\r') p++;
    if (i < 3 || p != end)
        return data_fail(error, "%s:1: expected a first line with three numbers: documents, features and labels", path);
    for (i = 0; i < 3; i++)
        if (header[i] < 1 || (i > 0 && header[i] > INT32_MAX))
            return data_fail(error, "%s:1: %lld %s; expected 1 .. 2147483647", path, (long long)header[i],
                             i == 0 ? "documents" : i == 1 ? "features" : "labels");
    promised = header[0];
    data->features = (int32_t)header[1];
    data->labels = (int32_t)header[2];

    for (;;) {
        int64_t most, labels = data->documents ? data->label_offset[data->documents] : 0;
        int64_t features = data->documents ? data->feature_offset[data->documents] : 0;
        if (!data_reserve((void **)&data->label_offset, &capacity, data->documents + 2, sizeof(int64_t)) ||
            !data_reserve((void **)&data->feature_offset, &offset_capacity, data->documents + 2, sizeof(int64_t)))
            return data_fail(error, "%s:%lld: out of memory", path, (long long)stream->line);
        if (data->documents == 0) data->label_offset[0] = data->feature_offset[0] = 0;
        if (limit > 0 && data->documents == limit) return 1;
        got = data_line(stream, &begin, &end, error);
        if (got < 0) return 0;
        if (!got) break;
        while (end > begin && (end[-1] == '\r' || end[-1] == ' ' || end[-1] == '\t')) end--;
        *end = '\n';
        if (data->documents == promised) {
            if (begin == end) continue;   /* empty lines after the last document */
            return data_fail(error, "%s:%lld: one document more than the %lld that line 1 promises", path, (long long)stream->line,
                             (long long)promised);
        }
        /* A label takes two characters, a feature four: room for the whole line, so that the parser needs no checks. */
        most = (end - begin) / 2 + 1;
        if (!data_reserve((void **)&data->label, &label_capacity, labels + most, sizeof(int32_t)) ||
            !data_reserve((void **)&data->feature, &feature_capacity, features + most, sizeof(int32_t)) ||
            !data_reserve((void **)&data->value, &value_capacity, features + most, sizeof(float)))
            return data_fail(error, "%s:%lld: out of memory", path, (long long)stream->line);
        if (!data_document(data, stream, begin, end, error)) return 0;
    }
    if (data->documents < promised)
        return data_fail(error, "%s:%lld: the file ends after %lld documents; line 1 promises %lld", path, (long long)stream->line + 1,
                         (long long)data->documents, (long long)promised);
    return 1;
}

/* Reads a text file; limit > 0: only its first documents. data (=) is empty after a failure. */
static inline int data_read(data_set *data, const char *path, int64_t limit, char *error)
{
    data_stream stream;
    int ok;
    memset(data, 0, sizeof *data);
    if (!data_open(&stream, path, error)) return 0;
    ok = data_read_lines(data, &stream, limit, error);
    data_close(&stream);
    if (ok) {   /* give back what growing reserved too much; a failure to shrink is none */
        void *less = realloc(data->label, (size_t)(data->label_offset[data->documents] + 1) * sizeof(int32_t));
        if (less) data->label = (int32_t *)less;
        less = realloc(data->feature, (size_t)(data->feature_offset[data->documents] + 1) * sizeof(int32_t));
        if (less) data->feature = (int32_t *)less;
        less = realloc(data->value, (size_t)(data->feature_offset[data->documents] + 1) * sizeof(float));
        if (less) data->value = (float *)less;
    } else data_free(data);
    return ok;
}

/* ---- >>npy --------------------------------------------------------------------------------------------------- */

/* Exactly `bytes` more bytes in the buffer, at the returned place; NULL with a message otherwise. */
static inline unsigned char *data_take(data_stream *stream, size_t bytes, char *error)
{
    unsigned char *at;
    while (stream->end - stream->begin < bytes) {
        if (stream->finished) {
            data_fail(error, "%s: ends too early: the header promises more", stream->path);
            return NULL;
        }
        if (!data_fill(stream, error)) return NULL;
    }
    at = (unsigned char *)stream->buffer + stream->begin;
    stream->begin += bytes;
    return at;
}

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
        return data_fail(error, "%s: not a .npy file of version 1 or 2", path);
    prefix = bytes[6] == 1 ? 2 : 4;
    bytes = data_take(stream, prefix, error);
    if (!bytes) return 0;
    header = bytes[0] | (size_t)bytes[1] << 8;
    if (prefix == 4) header |= (size_t)bytes[2] << 16 | (size_t)bytes[3] << 24;
    if (header > 65536) return data_fail(error, "%s: a header of %lu bytes; expected a plain array", path, (unsigned long)header);
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
                return data_fail(error, "%s: row %lld, column %lld: expected a finite number", path, (long long)i, (long long)j);
        }
    }
    data->documents = rows;
    data->width = (int32_t)columns;
    return 1;
}

/* Reads dense features. With documents already in data (their labels, from a text file), the numbers of rows must agree;
   otherwise the documents have no labels. */
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
        ok = data_fail(error, "%s: %lld rows for %lld documents", path, (long long)rows.documents, (long long)data->documents);
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

/* ---- >>weights of features ----------------------------------------------------------------------------------- */

/* The weight of each feature, from the n documents named (the training split): weight [V] (=).
   idf = log((1 + n) / (1 + documents with the feature)), or 1 where tfidf is 0. A feature that none of these documents has gets 0
   in any case: its embedding is never trained, so it could only add noise to a prediction. */
static inline int data_feature_weights(const data_set *data, const int64_t *document, int64_t n, int tfidf, float *weight,
                                       char *error)
{
    int64_t *count = (int64_t *)calloc((size_t)data->features, sizeof(int64_t)), i, j;
    if (!count) return data_fail(error, "out of memory");
    for (i = 0; i < n; i++)
        for (j = data->feature_offset[document[i]]; j < data->feature_offset[document[i] + 1]; j++) count[data->feature[j]]++;
    for (i = 0; i < data->features; i++)
        weight[i] = count[i] == 0 ? 0 : tfidf ? (float)log((1.0 + (double)n) / (1.0 + (double)count[i])) : 1;
    free(count);
    return 1;
}

/* Applies them: value = tf * weight, with tf = 1 + log(value) above 1 and the value itself below (values that
   are weighted already stay as they are), then unit length per document. tfidf = 0: tf is the value; unit = 0: no scaling. */
static inline void data_weigh(data_set *data, const float *weight, int tfidf, int unit)
{
    int64_t i, j;
    for (i = 0; i < data->documents; i++) {
        int64_t begin = data->feature_offset[i], end = data->feature_offset[i + 1];
        double sum = 0;
        float scale;
        for (j = begin; j < end; j++) {
            float tf = data->value[j];
            if (tfidf && tf > 1) tf = 1 + logf(tf);
            data->value[j] = tf * weight[data->feature[j]];
            sum += (double)data->value[j] * data->value[j];
        }
        scale = unit && sum > 0 ? (float)(1 / sqrt(sum)) : 1;
        for (j = begin; j < end; j++) data->value[j] *= scale;
    }
}

/* Scales the rows of dense features to length 1. */
static inline void data_unit_rows(data_set *data)
{
    int64_t i;
    int32_t j;
    for (i = 0; i < data->documents; i++) {
        float *row = data->dense + i * data->width;
        double sum = 0;
        for (j = 0; j < data->width; j++) sum += (double)row[j] * row[j];
        for (j = 0; j < data->width && sum > 0; j++) row[j] *= (float)(1 / sqrt(sum));
    }
}

/* How many of the n documents have each label: frequency [L] (=). */
static inline void data_label_frequency(const data_set *data, const int64_t *document, int64_t n, int64_t *frequency)
{
    int64_t i, j;
    memset(frequency, 0, (size_t)data->labels * sizeof *frequency);
    for (i = 0; i < n; i++)
        for (j = data->label_offset[document[i]]; j < data->label_offset[document[i] + 1]; j++) frequency[data->label[j]]++;
}

#endif /* DATA_H */
