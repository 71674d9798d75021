/* The streams and numbers of the example programs (examples/reader.h): files, pipes, gzip, lines of all lengths.

   cc -std=c99 -O2 -I. -Iexamples tests/test_reader.c -o build/tests/test_reader -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "temporary.h"
#include "../examples/reader.h"

static char message[DATA_ERROR];

/* Every way to write a number, against strtod. */
static void numbers(void)
{
    static const char *const text[] = { "0", "1", "-1", "+2", "3.", ".25", "-.5", "0.1", "123456789", "1e3", "1.5E-3",
                                        "0.000001", "3.14159265358979323846",
        "123456789012345678901234567890", "0.30000001192092896", "-7.5e+2", "00012", "1e-50", "3.4028234e38",
            "999999999999999999", "0.999999999999999999" };
    size_t i;
    int k;
    for (i = 0; i < sizeof text / sizeof text[0]; i++) {
        char line[64];
        const char *p = line;
        float value = 0;
        snprintf(line, sizeof line, "%s\n", text[i]);
        CHECK(data_number(&p, &value) && *p == '\n');
        CHECK_NEAR(value, (float)strtod(text[i], NULL), 0);
    }
    for (k = 0; k < 20000; k++) {   /* correct to the last bit of a float for what programs usually print */
        char line[64];
        const char *p = line;
        float value = 0, want = ldexpf(check_normal(), (int)(check_random() % 20) - 10);
        snprintf(line, sizeof line, k % 2 ? "%.9g\n" : "%.6f\n", (double)want);
        if (!data_number(&p, &value) || value != strtof(line, NULL)) CHECK_NEAR(value, strtof(line, NULL), 0);
    }
    {
        const char *p = "12x", *q = "x", *r = "99999999999999999999999";
        CHECK(data_id(&p) == 12 && *p == 'x' && data_id(&q) == -1 && *q == 'x' && data_id(&r) > INT32_MAX && *r == 0);
    }
}

static void words_for_messages(void)
{
    static const char text[] = "abc\001d,\303\251 x", many[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char word[32];
    CHECK(strcmp(data_word(text, text + strlen(text), word), "'abc?d,?" "?'") == 0);
    CHECK(strcmp(data_word(text, text, word), "the end of the line") == 0);
    CHECK(strcmp(data_word(text + 8, text + strlen(text), word), "white space") == 0);
    CHECK(strlen(data_word(many, many + strlen(many), word)) == 26);
}

/* The lines of a file, joined by |; "error" where there is one. */
static const char *lines(const char *from, char *out, size_t room)
{
    data_stream stream;
    char *begin, *end;
    size_t n = 0;
    int got = -1;
    *out = 0;
    message[0] = 0;
    if (!data_open(&stream, from, message)) return "error";
    while ((got = data_line(&stream, &begin, &end, message)) > 0 && n + (size_t)(end - begin) + 2 < room) {
        CHECK(*end == '\n');
        memcpy(out + n, begin, (size_t)(end - begin));
        n += (size_t)(end - begin);
        out[n++] = '|';
        out[n] = 0;
    }
    data_close(&stream);
    return got < 0 ? "error" : out;
}

#define LINES(text) lines(write_file(".txt", text, sizeof text - 1), out, sizeof out)

static void plain_lines(void)
{
    char out[100];
    CHECK(strcmp(LINES("a\nbc\n\nd"), "a|bc||d|") == 0);
    CHECK(strcmp(LINES("a\r\nb\n"), "a\r|b|") == 0);          /* carriage returns are the caller's */
    CHECK(strcmp(LINES(""), "") == 0);
    CHECK(strcmp(LINES("\n"), "|") == 0);
    /* a byte order mark only at the beginning */
    CHECK(strcmp(LINES("\xef\xbb\xbf" "a\n\xef\xbb\xbf" "b"), "a|\xef\xbb\xbf" "b|") == 0);
    CHECK(strcmp(LINES("\xef\xbb\xbf"), "|") == 0);
    CHECK(strcmp(LINES("\x1f"), "\x1f|") == 0);               /* half of what gzip begins with */
    CHECK(strcmp(LINES("\xff\xfe" "a\0"), "error") == 0 && strstr(message, ":1: is UTF-16"));
    CHECK(strcmp(LINES("\xfe\xff\0a"), "error") == 0 && strstr(message, ":1: is UTF-16"));
    remove(written);
    CHECK(strcmp(lines("/nonexistent/x", out, sizeof out), "error") == 0 &&
          strstr(message, "/nonexistent/x: cannot open"));
    CHECK(strcmp(lines(".", out, sizeof out), "error") == 0 && strstr(message, ".: cannot read: "));
}

/* A line that is given back comes again; the first one without its byte order mark, which is gone. */
static void lines_again(void)
{
    data_stream stream;
    char *begin, *end;
    int i;
    CHECK(data_open(&stream, write_file(".txt", "\xef\xbb\xbf" "ab\ncd", 8), message));
    for (i = 0; i < 3; i++) {
        CHECK(data_line(&stream, &begin, &end, message) == 1 && stream.line == 1 && end - begin == 2 &&
              memcmp(begin, "ab", 2) == 0);
        if (i < 2) data_again(&stream, begin);
    }
    for (i = 0; i < 2; i++) {
        CHECK(data_line(&stream, &begin, &end, message) == 1 && stream.line == 2 && memcmp(begin, "cd\n", 3) == 0);
        if (i < 1) data_again(&stream, begin);
    }
    CHECK(data_line(&stream, &begin, &end, message) == 0);
    data_close(&stream);
    remove(written);
}

/* Lines across the buffer's border and longer than it; one longer than any may be. */
static void long_lines(void)
{
    const size_t n = 5 * DATA_CHUNK + 7, big = DATA_LINE + DATA_CHUNK;
    char *text = (char *)malloc(n), *begin, *end;
    data_stream stream;
    size_t i, length = 0, wrong = 0;
    int64_t count = 0;
    FILE *file;
    for (i = 0; i < n; i++) text[i] = (char)('a' + i % 23);
    for (i = 0; i < 2 * DATA_CHUNK; i += 1 + i % 70) text[i] = '\n';
    write_file(".txt", text, n);
    CHECK(data_open(&stream, written, message));
    for (i = 0; data_line(&stream, &begin, &end, message) == 1; i += length + 1) {
        length = (size_t)(end - begin);
        wrong += i + length > n || memcmp(begin, text + i, length) != 0 || (i + length < n && text[i + length] != '\n');
        count++;
    }
    CHECK(wrong == 0 && i == n + 1 && count == stream.line && length >= 3 * DATA_CHUNK);
    data_close(&stream);
    free(text);
    file = fopen(written, "wb");   /* holes take no room */
    CHECK(file && fputs("a\n", file) >= 0 && fseek(file, (long)big, SEEK_SET) == 0 && fputc('\n', file) == '\n' &&
          fclose(file) == 0);
    CHECK(data_open(&stream, written, message));
    CHECK(data_line(&stream, &begin, &end, message) == 1 && data_line(&stream, &begin, &end, message) == -1);
    CHECK(strstr(message, ":2: a line of more than 256 MiB") != NULL);
    data_close(&stream);
    remove(written);
}

/* What comes through a pipe is there at once: nobody waits for more than a line. */
static void pipes(void)
{
    data_stream stream;
    char *begin, *end;
    int ends[2], standard = dup(0);
    CHECK(pipe(ends) == 0 && dup2(ends[0], 0) == 0);
    CHECK(data_open(&stream, "-", message));
    CHECK(!data_ready(&stream));
    CHECK(write(ends[1], "one\ntwo\nthr", 11) == 11);
    /* else this blocks for ever */
    CHECK(data_line(&stream, &begin, &end, message) == 1 && memcmp(begin, "one\n", 4) == 0);
    CHECK(data_ready(&stream));
    CHECK(data_line(&stream, &begin, &end, message) == 1 && memcmp(begin, "two\n", 4) == 0);
    CHECK(!data_ready(&stream));
    CHECK(write(ends[1], "ee", 2) == 2 && close(ends[1]) == 0);
    CHECK(data_line(&stream, &begin, &end, message) == 1 && memcmp(begin, "three\n", 6) == 0);
    CHECK(data_ready(&stream) && data_line(&stream, &begin, &end, message) == 0);
    data_close(&stream);
    CHECK(write_file(".txt", "", 0) && dup2(standard, 0) == 0);   /* standard input is still open */
    close(standard);
    close(ends[0]);
    remove(written);
}

static void compressed(void)
{
#ifdef HASTE_ZLIB
    static const char text[] = "first\nsecond\n";
    unsigned char bytes[400];
    char out[100];
    size_t n, k;
    int whole = 0;
    FILE *file;
    gzFile gz = gzopen(temporary(".txt"), "wb");   /* the name says nothing */
    CHECK(gz && gzwrite(gz, text, sizeof text - 1) == (int)sizeof text - 1 && gzclose(gz) == Z_OK);
    file = fopen(written, "rb");
    n = file ? fread(bytes, 1, 150, file) : 0;
    if (file) fclose(file);
    CHECK(n > 20 && strcmp(lines(written, out, sizeof out), "first|second|") == 0);
    memcpy(bytes + n, bytes, n);                   /* two parts, one after the other */
    CHECK(strcmp(lines(write_file(".gz", bytes, 2 * n), out, sizeof out), "first|second|first|second|") == 0);
    memset(bytes + n, 0, n);                       /* padding */
    CHECK(strcmp(lines(write_file(".gz", bytes, 2 * n), out, sizeof out), "first|second|") == 0);
    for (k = 2; k < n; k++) {                      /* cut short anywhere */
        whole += strcmp(lines(write_file(".gz", bytes, k), out, sizeof out), "error") != 0;
        whole += strstr(message, "damaged or incomplete") == NULL;
    }
    CHECK(whole == 0);
    bytes[n - 6] ^= 1;                             /* its checksum */
    CHECK(strcmp(lines(write_file(".gz", bytes, n), out, sizeof out), "error") == 0 &&
          strstr(message, "damaged or incomplete"));
    remove(written);
#else
    char out[100];
    CHECK(strcmp(lines(write_file(".gz", "\x1f\x8b\b", 3), out, sizeof out), "error") == 0 &&
          strstr(message, "built without zlib"));
    remove(written);
#endif
}

static void bytes_taken(void)
{
    data_stream stream;
    const unsigned char *p;
    CHECK(data_open(&stream, write_file(".bin", "abcdef", 6), message));
    CHECK((p = data_take(&stream, 4, message)) != NULL && memcmp(p, "abcd", 4) == 0);
    CHECK(data_take(&stream, 3, message) == NULL && strstr(message, "ends too early"));
    data_close(&stream);
    remove(written);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(numbers);
    RUN(words_for_messages);
    RUN(plain_lines);
    RUN(lines_again);
    RUN(long_lines);
    RUN(pipes);
    RUN(compressed);
    RUN(bytes_taken);
    return check_end();
}
