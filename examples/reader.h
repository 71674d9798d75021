/* reader.h: lines and numbers out of files, for the example programs. Needs the C library and the system's open, read,
   close (and zlib, with HASTE_ZLIB).

       data_stream in;
       char *begin, *end, error[DATA_ERROR];
       if (!data_open(&in, "train.txt", error)) ...                   "-" is standard input; pipes are files like others
       while ((got = data_line(&in, &begin, &end, error)) == 1) ...   *end is '\n'; the line may be overwritten
       data_close(&in);

   Files are read in chunks, never whole, and a line is given out as soon as it is there: nobody waits for the next one.
   What is gzip-compressed is seen by its first bytes, whatever its name. A byte order mark of UTF-8 before the first
   line is skipped. A line may have up to DATA_LINE bytes. Every function that can fail returns 0 (data_line: -1) and
   says why in error[DATA_ERROR], with file and line: `train.txt:17: label 70000 is not below L = 3993`. */
#ifndef READER_H
#define READER_H

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
    #include <io.h>
#else
    #include <unistd.h>
#endif
#ifdef HASTE_ZLIB
    #include <zlib.h>
#endif

#define DATA_ERROR 400
#define DATA_CHUNK ((size_t)1 << 20)
#define DATA_LINE  ((size_t)1 << 28)   /* 256 MiB */

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

static inline int data_ends_with(const char *text, const char *ending)
{
    size_t n = strlen(text), m = strlen(ending);
    return n >= m && memcmp(text + n - m, ending, m) == 0;
}

/* ---- >>streams ----------------------------------------------------------------------------------------------- */

typedef struct data_stream {
    const char    *path;
    int            file, opened;
    char          *buffer;                  /* [capacity + 1]: room for the newline that a last line may lack */
    size_t         capacity, begin, end;    /* not yet used: buffer[begin] .. buffer[end - 1] */
    int            started, finished;       /* something was read; all was read */
    const volatile sig_atomic_t *stop;      /* not 0 there: a signal ends what is read. Or NULL */
    int64_t        line;                    /* number of the last line given out */
#ifdef HASTE_ZLIB
    int            compressed, complete;    /* complete: at the end of a compressed part; another may follow */
    unsigned char *packed;                  /* [DATA_CHUNK] */
    z_stream       gz;
#endif
} data_stream;

static inline void data_close(data_stream *stream)
{
    if (stream->opened && stream->file != 0) close(stream->file);
#ifdef HASTE_ZLIB
    if (stream->compressed) inflateEnd(&stream->gz);
    free(stream->packed);
#endif
    free(stream->buffer);
    memset(stream, 0, sizeof *stream);
}

static inline int data_open(data_stream *stream, const char *path, char *error)
{
    memset(stream, 0, sizeof *stream);
    stream->path = path;
#ifdef _WIN32
    stream->file = strcmp(path, "-") == 0 ? 0 : open(path, O_RDONLY | O_BINARY);
    if (stream->file == 0) _setmode(0, O_BINARY);
#else
    stream->file = strcmp(path, "-") == 0 ? 0 : open(path, O_RDONLY);
#endif
    if (stream->file < 0) return data_fail(error, "%s: cannot open: %s", path, strerror(errno));
    stream->opened = 1;
    stream->capacity = DATA_CHUNK;
    stream->buffer = (char *)malloc(stream->capacity + 1);
    if (!stream->buffer) {
        data_close(stream);
        return data_fail(error, "%s: out of memory", path);
    }
    return 1;
}

/* What there is, at most `room` bytes; 0 at the end, -1 with a message. A pipe gives what it has. */
static inline int64_t data_raw(data_stream *stream, void *to, size_t room, char *error)
{
    int64_t got;
    do {
        if (stream->stop && *stream->stop) return 0;
        got = (int64_t)read(stream->file, to, (unsigned)room);
    } while (got < 0 && errno == EINTR);
    if (got < 0) data_fail(error, "%s: cannot read: %s", stream->path, strerror(errno));
    return got;
}

#ifdef HASTE_ZLIB
static inline int data_damaged(const data_stream *stream, const char *why, char *error)
{
    return data_fail(error, "%s: after line %lld: damaged or incomplete: %s", stream->path, (long long)stream->line,
                     why);
}

/* The same for what is compressed. */
static inline int64_t data_unpack(data_stream *stream, char *to, size_t room, char *error)
{
    z_stream *gz = &stream->gz;
    gz->next_out = (unsigned char *)to;
    gz->avail_out = (unsigned)room;
    while (gz->avail_out == room) {
        int code;
        if (gz->avail_in == 0) {
            int64_t got = data_raw(stream, stream->packed, DATA_CHUNK, error);
            if (got < 0) return -1;
            if (got == 0) return stream->complete ? 0 : data_damaged(stream, "unexpected end of file", error) - 1;
            gz->next_in = stream->packed;
            gz->avail_in = (unsigned)got;
        }
        if (stream->complete) {   /* another part, or padding that nobody reads */
            if (gz->next_in[0] != 0x1f) return 0;
            inflateReset(gz);
            stream->complete = 0;
        }
        code = inflate(gz, Z_NO_FLUSH);
        if (code == Z_STREAM_END) stream->complete = 1;
        else if (code != Z_OK && code != Z_BUF_ERROR)
            return data_damaged(stream, gz->msg ? gz->msg : "not a gzip file", error) - 1;
    }
    return (int64_t)(room - gz->avail_out);
}
#endif

/* At the first bytes of a file (two of them, unless one tells): is it compressed? Then they go through zlib. */
static inline int data_begin(data_stream *stream, char *error)
{
    while (stream->end == 0 || (stream->end == 1 && stream->buffer[0] == 0x1f)) {
        int64_t got = data_raw(stream, stream->buffer + stream->end, DATA_CHUNK - stream->end, error);
        if (got < 0) return 0;
        if (got == 0) { stream->finished = 1; break; }
        stream->end += (size_t)got;
    }
    stream->started = 1;
    if (stream->end < 2 || memcmp(stream->buffer, "\x1f\x8b", 2) != 0) return 1;
#ifdef HASTE_ZLIB
    stream->packed = (unsigned char *)malloc(DATA_CHUNK);
    if (!stream->packed || inflateInit2(&stream->gz, 15 + 16) != Z_OK)
        return data_fail(error, "%s: out of memory", stream->path);
    stream->compressed = 1;
    memcpy(stream->packed, stream->buffer, stream->end);
    stream->gz.next_in = stream->packed;
    stream->gz.avail_in = (unsigned)stream->end;
    stream->end = 0;
    return 1;
#else
    return data_fail(error, "%s: this program was built without zlib: decompress the file first", stream->path);
#endif
}

/* Appends to the buffer whatever comes; sets finished at the end of the file. */
static inline int data_fill(data_stream *stream, char *error)
{
    size_t room;
    int64_t got;
    if (!stream->started) {
        if (!data_begin(stream, error)) return 0;
        if (stream->end > 0 || stream->finished) return 1;
    }
    if (stream->begin > 0) {
        memmove(stream->buffer, stream->buffer + stream->begin, stream->end - stream->begin);
        stream->end -= stream->begin;
        stream->begin = 0;
    }
    if (stream->end == stream->capacity) {
        char *grown;
        if (stream->capacity >= DATA_LINE)
            return data_fail(error, "%s:%lld: a line of more than %lu MiB", stream->path, (long long)stream->line + 1,
                             (unsigned long)(DATA_LINE >> 20));
        grown = (char *)realloc(stream->buffer, 2 * stream->capacity + 1);
        if (!grown) return data_fail(error, "%s:%lld: out of memory", stream->path, (long long)stream->line + 1);
        stream->buffer = grown;
        stream->capacity *= 2;
    }
    room = stream->capacity - stream->end;
    if (room > DATA_CHUNK) room = DATA_CHUNK;
#ifdef HASTE_ZLIB
    if (stream->compressed) got = data_unpack(stream, stream->buffer + stream->end, room, error);
    else
#endif
    got = data_raw(stream, stream->buffer + stream->end, room, error);
    if (got < 0) return 0;
    if (got == 0) stream->finished = 1;
    stream->end += (size_t)got;
    return 1;
}

/* The next line: 1, with *end on its newline (in the buffer, free to be overwritten); 0 at the end of the file; -1
   error. */
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
            if (stream->line > 1) return 1;
            if (*end - *begin >= 3 && memcmp(*begin, "\xef\xbb\xbf", 3) == 0) *begin += 3;
            if (*end - *begin >= 2 && (memcmp(*begin, "\xff\xfe", 2) == 0 || memcmp(*begin, "\xfe\xff", 2) == 0))
                return data_fail(error, "%s:1: is UTF-16: convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)",
                                 stream->path) - 1;
            return 1;
        }
        if (stream->finished) return 0;
        seen = left;
        if (!data_fill(stream, error)) return -1;
    }
}

/* Gives the last line back: the next call of data_line returns it again. It must not have been overwritten. */
static inline void data_again(data_stream *stream, const char *begin)
{
    stream->begin = (size_t)(begin - stream->buffer);
    stream->line--;
}

/* Whether a whole line is there already, so that nobody has to be waited for. */
static inline int data_ready(const data_stream *stream)
{
    return stream->finished || memchr(stream->buffer + stream->begin, '\n', stream->end - stream->begin) != NULL;
}

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

/* A decimal number at *at. Plain decimals of up to 18 digits are exact enough in 64 bits and one division; the rest is
   strtod's. */
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
        for (; n < sizeof text - 1 && start[n] != ' ' && start[n] != '\t' && start[n] != '\n'; n++) text[n] = start[n];
        text[n] = 0;
        number = strtod(text, &stop);
        p = start + (stop - text);
    }
    *at = p;
    *value = (float)number;
    return fabsf(*value) <= FLT_MAX;
}

/* What stands at p, for a message: 'word', or words that say what is there instead. */
static inline const char *data_word(const char *p, const char *end, char word[32])
{
    int n = 0;
    if (p >= end) return "the end of the line";
    if (*p == ' ' || *p == '\t') return "white space";
    word[n++] = '\'';
    while (p < end && *p != ' ' && *p != '\t' && n < 25) { word[n++] = (char)(*p >= 32 && *p < 127 ? *p : '?'); p++; }
    word[n++] = '\'';
    word[n] = 0;
    return word;
}

#endif /* READER_H */
