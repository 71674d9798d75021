/* The reader of the example programs (examples/data.h): what it accepts, what it says about what it does not.
   The encoder (examples/encoder.h): its gradient step against a plain one, and the same bits for any number of threads.

   cc -std=c99 -O2 -fopenmp -I. -Iexamples tests/test_data.c -o build/tests/test_data -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#include "haste.h"
#include "check.h"
#include "../examples/data.h"
#include "../examples/encoder.h"
#include "../examples/options.h"
#include "../examples/synthetic.h"

#include <unistd.h>

static char path[200], message[DATA_ERROR];

static const char *temporary(const char *ending)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/haste_test_data_%ld%s", folder ? folder : "/tmp", (long)getpid(), ending);
    return path;
}

static const char *write_file(const char *ending, const void *bytes, size_t n)
{
    FILE *file = fopen(temporary(ending), "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) { printf("cannot write %s\n", path); exit(1); }
    return path;
}

static int read_text(data_set *data, const char *text, int64_t limit)
{
    int ok;
    message[0] = 0;
    ok = data_read(data, write_file(".txt", text, strlen(text)), limit, message);
    remove(path);
    return ok;
}

/* The message must be `path:LINE: WORDS`. */
static void refuses(const char *text, int line, const char *words)
{
    data_set data;
    char begin[240];
    int ok;
    CHECK(!read_text(&data, text, 0));
    CHECK(data.label_offset == NULL && data.feature == NULL);
    snprintf(begin, sizeof begin, "%s:%d: ", path, line);
    ok = CHECK(strncmp(message, begin, strlen(begin)) == 0) && CHECK(strstr(message, words) != NULL);
    if (!ok) printf("    wanted line %d: %s\n    got %s\n", line, words, message);
}

static void plain_documents(void)
{
    data_set data;
    CHECK(read_text(&data, "3 10 5\n0,4 1:2 3:.5 9:-1.25e1\n2 0:1\n1,2,3 5:0.125 6:7\n", 0));
    CHECK(data.documents == 3 && data.features == 10 && data.labels == 5);
    CHECK(data.label_offset[1] == 2 && data.label_offset[2] == 3 && data.label_offset[3] == 6);
    CHECK(data.label[0] == 0 && data.label[1] == 4 && data.label[2] == 2 && data.label[5] == 3);
    CHECK(data.feature_offset[3] == 6 && data.feature[2] == 9 && data.feature[5] == 6);
    CHECK(data.value[0] == 2 && data.value[1] == .5f && data.value[2] == -12.5f && data.value[4] == .125f && data.value[5] == 7);
    data_free(&data);
    CHECK(read_text(&data, "3 10 5\n0,4 1:2 3:.5 9:1\n2 0:1\nnonsense", 2));   /* a limit ends the reading */
    CHECK(data.documents == 2 && data.feature_offset[2] == 4);
    data_free(&data);
}

static void tolerated_documents(void)
{
    data_set data;
    /* no labels: a space, or features at once; an empty line; labels only; carriage returns; spaces; no newline at the end */
    CHECK(read_text(&data, " 6\t10 5 \r\n 1:2\r\n3:4 5:6\r\n\r\n4\r\n 2:1  4:1 \r\n1 7:1", 0));
    if (!CHECK(data.documents == 6)) { printf("    %s\n", message); return; }
    CHECK(data.label_offset[3] == 0 && data.label_offset[4] == 1 && data.label[0] == 4 && data.label_offset[6] == 2);
    CHECK(data.feature_offset[1] == 1 && data.feature_offset[2] == 3 && data.feature_offset[4] == 3 && data.feature_offset[5] == 5);
    data_free(&data);
    /* out of order; twice; zero; values that cancel; empty lines at the end */
    CHECK(read_text(&data, "1 10 5\n3,1,3,0 7:1 2:2 7:3 4:0 5:1 5:-1 0:9\n\n \n", 0));
    CHECK(data.label_offset[1] == 3 && data.label[0] == 0 && data.label[1] == 1 && data.label[2] == 3);
    CHECK(data.feature_offset[1] == 3 && data.feature[0] == 0 && data.feature[1] == 2 && data.feature[2] == 7);
    CHECK(data.value[0] == 9 && data.value[1] == 2 && data.value[2] == 4);
    data_free(&data);
}

static void refused_documents(void)
{
    refuses("", 1, "empty");
    refuses("0,1 2:3\n", 1, "three numbers");
    refuses("3 10\n", 1, "three numbers");
    refuses("3 10 5 7\n", 1, "three numbers");
    refuses("0 10 5\n", 1, "0 documents");
    refuses("1 10 3000000000\n0 1:1\n", 1, "3000000000 labels");
    refuses("2 10 5\n0 1:1\n5 1:1\n", 3, "label 5 is not below L = 5 (ids count from 0)");
    refuses("2 10 5\n0 1:1\n70000 1:1\n", 3, "label 70000 is not below L = 5");
    refuses("2 10 5\n0 10:1\n", 2, "feature 10 is not below V = 10 (ids count from 0)");
    refuses("2 10 5\n0 99999999999999999999999:1\n", 2, "is not below V = 10");
    refuses("2 10 5\n-1 1:1\n", 2, "expected a label id, found '-1'");
    refuses("2 10 5\n1,,2 1:1\n", 2, "expected a label id");
    refuses("2 10 5\n1, 1:1\n", 2, "expected a label id");
    refuses("2 10 5\n1;2 1:1\n", 2, "expected a label id");
    refuses("2 10 5\n1 2\n", 2, "expected feature:value, found '2'");
    refuses("2 10 5\n1 x:1\n", 2, "expected feature:value, found 'x:1'");
    refuses("2 10 5\n1 2:\n", 2, "finite number");
    refuses("2 10 5\n1 2:abc\n", 2, "finite number, found 'abc'");
    refuses("2 10 5\n1 2:nan\n", 2, "finite number");
    refuses("2 10 5\n1 2:inf\n", 2, "finite number");
    refuses("2 10 5\n1 2:1e99\n", 2, "finite number");
    refuses("2 10 5\n1 2:0x10\n", 2, "finite number");
    refuses("2 10 5\n1 2:1:3\n", 2, "finite number");
    refuses("2 10 5\n1 2:3e38 2:3e38\n", 2, "add up");
    refuses("3 10 5\n1 2:1\n2 2:1\n", 4, "ends after 2 documents; line 1 promises 3");
    refuses("1 10 5\n1 2:1\n2 2:1\n", 3, "one document more");
    {
        data_set data;
        CHECK(!data_read(&data, "/nonexistent/train.txt", 0, message));
        CHECK(strstr(message, "/nonexistent/train.txt: cannot open") != NULL);
    }
}

/* Every way to write a number, against strtod. */
static void numbers(void)
{
    static const char *const text[] = { "0", "1", "-1", "+2", "3.", ".25", "-.5", "0.1", "123456789", "1e3", "1.5E-3", "0.000001", "3.14159265358979323846",
        "123456789012345678901234567890", "0.30000001192092896", "-7.5e+2", "00012", "1e-50", "3.4028234e38", "999999999999999999", "0.999999999999999999" };
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
}

/* Lines longer than the buffer, and lines across its border, give what short ones give. */
static void long_lines(void)
{
    const int features = 400000, documents = 4;
    char *text = (char *)malloc((size_t)documents * (size_t)features * 12 + 100), *p = text;
    data_set data;
    int i, k, wrong = 0;
    p += sprintf(p, "%d %d 3\n", documents, features);
    for (k = 0; k < documents; k++) {
        p += sprintf(p, "%d", k % 3);
        for (i = k; i < features; i += 1 + k % 2 * 1000) p += sprintf(p, " %d:%d", i, i % 1000 + 1);
        p += sprintf(p, "\n");
    }
    if (CHECK(read_text(&data, text, 0))) {
        for (k = 0; k < documents; k++) {
            int64_t j = data.feature_offset[k];
            for (i = k; i < features; i += 1 + k % 2 * 1000, j++) wrong += data.feature[j] != i || data.value[j] != (float)(i % 1000 + 1);
            wrong += j != data.feature_offset[k + 1];
        }
        CHECK(wrong == 0);
    } else printf("    %s\n", message);
    data_free(&data);
    free(text);
}

/* Damaged text never does worse than an error: random bytes changed, cut and repeated. */
static void damaged_text(void)
{
    static const char good[] = "4 30 9\n0,4 1:2 3:.5 9:-1.25e1\n2 0:1\n\n1,2,3 5:0.125 6:7 29:3\n";
    static const char letters[] = "0123456789:, .\n\r\te-+xN\0\377";
    int i, read = 0, wrong = 0;
    for (i = 0; i < 2000; i++) {
        char text[sizeof good];
        data_set data;
        int k;
        size_t n = sizeof good - 1;
        memcpy(text, good, sizeof good);
        for (k = 0; k < 1 + i % 4; k++) text[7 + check_random() % (n - 7)] = letters[check_random() % (sizeof letters - 1)];
        if (i % 5 == 0) n = check_random() % n;
        if (data_read(&data, write_file(".txt", text, n), 0, message)) {
            int64_t j;
            read++;
            for (j = 0; j < data.feature_offset[data.documents]; j++)
                if (data.feature[j] < 0 || data.feature[j] >= data.features || !isfinite(data.value[j])) wrong++;
            for (j = 0; j < data.label_offset[data.documents]; j++)
                if (data.label[j] < 0 || data.label[j] >= data.labels) wrong++;
            data_free(&data);
        } else if (!strstr(message, path)) wrong++;
        remove(path);
    }
    CHECK(read > 0 && read < 2000);
    CHECK(wrong == 0);
}

static void compressed(void)
{
#ifdef HASTE_ZLIB
    static const char text[] = "2 10 5\n0,4 1:2 3:.5\n2 0:1\n";
    unsigned char bytes[400];
    data_set data;
    gzFile gz = gzopen(temporary(".gz"), "wb");
    size_t n;
    FILE *file;
    CHECK(gz && gzwrite(gz, text, sizeof text - 1) == (int)sizeof text - 1 && gzclose(gz) == Z_OK);
    CHECK(data_read(&data, path, 0, message));
    CHECK(data.documents == 2 && data.feature_offset[2] == 3 && data.value[1] == .5f);
    data_free(&data);
    file = fopen(path, "rb");
    n = file ? fread(bytes, 1, sizeof bytes, file) : 0;
    if (file) fclose(file);
    CHECK(!data_read(&data, write_file(".gz", bytes, n - 9), 0, message));   /* cut short */
    CHECK(strstr(message, "damaged or incomplete") != NULL || strstr(message, "ends after") != NULL);
    bytes[n / 2] ^= 0x55;
    CHECK(!data_read(&data, write_file(".gz", bytes, n), 0, message));
    remove(path);
#else
    data_set data;
    CHECK(!data_read(&data, "train.txt.gz", 0, message) && strstr(message, "zlib") != NULL);
    printf("(built without zlib: .gz files not tested)\n");
#endif
}

/* rows: numbers of `width` bytes each, as this machine has them; a file has them little-endian. */
static size_t npy_bytes(unsigned char *out, int version, const char *dictionary, const void *rows, size_t bytes, size_t width)
{
    const uint16_t one = 1;
    const int little = *(const unsigned char *)&one == 1;
    size_t header = strlen(dictionary), prefix = version == 1 ? 10 : 12, i;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version;
    out[7] = 0;
    out[8] = (unsigned char)header;
    out[9] = (unsigned char)(header >> 8);
    if (version > 1) out[10] = out[11] = 0;
    memcpy(out + prefix, dictionary, header);
    for (i = 0; i < bytes; i++)
        out[prefix + header + i] = ((const unsigned char *)rows)[little ? i : i / width * width + width - 1 - i % width];
    return prefix + header + bytes;
}

static void npy_files(void)
{
    static const float rows[6] = { 1, -2, .5f, 3, 0, 1e-3f };
    static const double wide[6] = { 1, -2, .5, 3, 0, 1e-3 };
    static const uint16_t half[6] = { 0x3c00, 0xc000, 0x3800, 0x4200, 0x0000, 0x0001 };
    unsigned char bytes[400];
    data_set data;
    size_t n;
    int i;
    memset(&data, 0, sizeof data);
    n = npy_bytes(bytes, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n", rows, sizeof rows, 4);
    CHECK(data_read_npy(&data, write_file(".npy", bytes, n), 0, message));
    CHECK(data.documents == 3 && data.width == 2 && data.label_offset[3] == 0);
    for (i = 0; i < 6; i++) CHECK_NEAR(data.dense[i], rows[i], 0);
    CHECK(!data_read_npy(&data, write_file(".npy", bytes, n - 1), 0, message) && strstr(message, "too early"));
    n = npy_bytes(bytes, 2, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }\n", wide, sizeof wide, 8);
    CHECK(!data_read_npy(&data, write_file(".npy", bytes, n), 0, message) && strstr(message, "2 rows for 3 documents"));
    data_free(&data);
    CHECK(data_read_npy(&data, path, 0, message) && data.width == 3);
    for (i = 0; i < 6; i++) CHECK_NEAR(data.dense[i], rows[i], 0);
    data_free(&data);
    n = npy_bytes(bytes, 1, "{'descr': '<f2', 'fortran_order': False, 'shape': (3, 2), }\n", half, sizeof half, 2);
    CHECK(data_read_npy(&data, write_file(".npy", bytes, n), 2, message) && data.documents == 2);
    for (i = 0; i < 4; i++) CHECK_NEAR(data.dense[i], rows[i], 0);
    CHECK_NEAR(data_from_half(1), ldexp(1, -24), 0);
    CHECK(isinf(data_from_half(0x7c00)) && isnan(data_from_half(0x7e00)));
    data_free(&data);
    n = npy_bytes(bytes, 1, "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n", rows, sizeof rows, 4);
    CHECK(!data_read_npy(&data, write_file(".npy", bytes, n), 0, message) && strstr(message, "C order"));
    n = npy_bytes(bytes, 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }\n", rows, sizeof rows, 4);
    CHECK(!data_read_npy(&data, write_file(".npy", bytes, n), 0, message) && strstr(message, "float32"));
    n = npy_bytes(bytes, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }\n", rows, sizeof rows, 4);
    CHECK(!data_read_npy(&data, write_file(".npy", bytes, n), 0, message) && strstr(message, "shape"));
    {
        float bad[6] = { 0, 0, 0, 0, 0, 0 };
        bad[3] = (float)NAN;
        n = npy_bytes(bytes, 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n", bad, sizeof bad, 4);
        CHECK(!data_read_npy(&data, write_file(".npy", bytes, n), 0, message) && strstr(message, "row 1, column 1"));
    }
    CHECK(!data_read_npy(&data, write_file(".npy", "3 10 5\n0 1:1\n", 13), 0, message) && strstr(message, "not a .npy"));
    remove(path);
}

/* idf worked by hand, from the named documents only; a feature that they lack gets 0. */
static void feature_weights(void)
{
    data_set data;
    int64_t train[3] = { 0, 1, 3 }, frequency[3];
    float weight[5];
    CHECK(read_text(&data, "4 5 3\n0 0:1 1:4\n0 0:2\n1 2:1 3:1\n2,0 0:1 1:.5\n", 0));
    CHECK(data_feature_weights(&data, train, 3, 1, weight, message));
    CHECK_NEAR(weight[0], log(4. / 4), 1e-7);
    CHECK_NEAR(weight[1], log(4. / 3), 1e-7);
    CHECK_NEAR(weight[2], 0, 0);
    CHECK_NEAR(weight[4], 0, 0);
    data_label_frequency(&data, train, 3, frequency);
    CHECK(frequency[0] == 3 && frequency[1] == 0 && frequency[2] == 1);
    weight[0] = 2;
    data_weigh(&data, weight, 1, 1);   /* document 0: tf 1 and 1 + log 4 */
    {
        double a = 2, b = (1 + log(4.)) * weight[1], length = sqrt(a * a + b * b);
        CHECK_NEAR(data.value[0], a / length, 1e-6);
        CHECK_NEAR(data.value[1], b / length, 1e-6);
        CHECK_NEAR(data.value[3], 0, 0);   /* nothing known in document 2 */
    }
    CHECK(data_feature_weights(&data, train, 3, 0, weight, message) && weight[1] == 1 && weight[2] == 0);
    data_free(&data);
}

static void seed_encoder(encoder *e, int threads, double dropout)
{
    memset(e, 0, sizeof *e);
    e->features = 50;
    e->width = 21;
    e->relu = 1;
    e->dropout = dropout;
    e->seed = 3;
    e->threads = threads;
    if (!encoder_create(e, .5)) { printf("out of memory\n"); exit(1); }
}

/* The gradient of sum(h * c) by differences: Adam's first step moves each parameter by lr against its sign. */
static void encoder_gradient(void)
{
    enum { B = 7, D = 21 };
    encoder e, before;
    data_set data;
    double best;
    float h[B * D], grad[B * D], c[B * D];
    int64_t document[B], r;
    int i, d, wrong = 0, moved = 0;
    CHECK(synthetic_make(&data, 1, 0, 20, &best));
    for (i = 0; i < (int)data.feature_offset[20]; i++) data.feature[i] %= 50;   /* features may then come twice: no matter */
    for (i = 0; i < B; i++) document[i] = (i * 5) % 20;
    for (i = 0; i < B * D; i++) c[i] = check_normal();
    seed_encoder(&e, 2, .25);
    seed_encoder(&before, 1, .25);
    encoder_forward(&e, &data, document, B, 1, h);
    memcpy(grad, c, sizeof c);
    CHECK(encoder_backward(&e, &data, document, B, h, grad, .001f));
    for (r = 0; r <= 50; r++)
        for (d = 0; d < D; d++) {
            float *w = before.row + r * D + d, old = *w, up[B * D], down[B * D];
            double slope = 0, change = (double)e.row[r * D + d] - old;
            *w = old + .0005f;
            encoder_forward(&before, &data, document, B, 1, up);
            *w = old - .0005f;
            encoder_forward(&before, &data, document, B, 1, down);
            *w = old;
            for (i = 0; i < B * D; i++) slope += (double)c[i] * ((double)up[i] - down[i]);
            slope /= .001;
            if (fabs(slope) < 2e-2) continue;   /* untouched, or too small to know its sign */
            moved++;
            if (fabs(change + (slope > 0 ? .001 : -.001)) > 1e-5) wrong++;
        }
    CHECK(moved > 300);
    CHECK(wrong <= moved / 100);   /* a relu that switches within the difference */
    encoder_free(&e);
    encoder_free(&before);
    data_free(&data);
}

static void encoder_threads(void)
{
    enum { B = 64, D = 21 };
    encoder e[3];
    data_set data;
    double best;
    float *h = check_floats(B * D), *grad = check_floats(B * D);
    int64_t document[B];
    int i, k, step, zero = 0;
    CHECK(synthetic_make(&data, 2, 0, 200, &best));
    CHECK(best > 80 && best < 90);
    for (i = 0; i < (int)data.feature_offset[200]; i++) data.feature[i] %= 50;
    for (k = 0; k < 3; k++) {
        seed_encoder(&e[k], k + 1, .3);
        check_seed = 9;
        for (step = 0; step < 5; step++) {
            for (i = 0; i < B; i++) document[i] = (i * 7 + step) % 200;
            encoder_forward(&e[k], &data, document, B, 1, h);
            for (i = 0; i < B * D; i++) grad[i] = check_normal();
            CHECK(encoder_backward(&e[k], &data, document, B, h, grad, .01f));
        }
    }
    CHECK(check_guard(h, B * D) && check_guard(grad, B * D));
    CHECK(memcmp(e[0].row, e[1].row, encoder_bytes(50, D)) == 0);
    CHECK(memcmp(e[0].row, e[2].row, encoder_bytes(50, D)) == 0);
    for (i = 0; i < B * D; i++) h[i] = 1;
    for (i = 0; i < B; i++) encoder_drop(&e[0], i, h + i * D);
    for (i = 0; i < B * D; i++) zero += h[i] == 0;
    CHECK_NEAR(zero / (double)(B * D), .3, .05);   /* 1,344 coins: four standard deviations */
    for (k = 0; k < 3; k++) encoder_free(&e[k]);
    free(h);
    free(grad);
    data_free(&data);
}

static void command_line(void)
{
    int64_t count = 5, other = 7;
    double real = .5;
    int choice = 0, flag = 0, files;
    const char *text = NULL, *file[2];
    option table[] = {
        { OPTION_COUNT, "count", "N", &count, 1, 10, 1, "", 0 }, { OPTION_REAL, "real", "X", &real, 0, 1, 1, "", 0 },
        { OPTION_CHOICE, "choice", "red|green|blue", &choice, 0, 0, 1, "", 0 }, { OPTION_FLAG, "flag", NULL, &flag, 0, 1, 1, "", 0 },
        { OPTION_TEXT, "text", "FILE", &text, 0, 0, 0, "", 0 }, { OPTION_COUNT, "other", "N", &other, 0, 10, 0, "", 0 }
    };
    const char *const good[] = { "x", "a", "--count", "3", "--real=.25", "b", "--choice", "blue", "--flag", "--text", "t" };
    const char *const bad[][3] = {
        { "x", "--count", "11" }, { "x", "--count", "1.5" }, { "x", "--count", "" }, { "x", "--real", "nan" }, { "x", "--choice", "gree" },
        { "x", "--what", "1" }, { "x", "y", "--count" }, { "x", "--coun", "1" }, { "x", "--real", "1x" }, { "x", "--flag=1", "y" }, { "x", "-c", "1" }
    };
    char *kept;
    size_t i;
    CHECK(options_parse(table, 6, 11, (char **)(uintptr_t)good, file, &files, 2, message));
    CHECK(count == 3 && real == .25 && choice == 2 && flag == 1 && files == 2 && strcmp(file[1], "b") == 0 && strcmp(text, "t") == 0);
    kept = options_write(table, 6);
    CHECK(kept && strcmp(kept, "count=3\nreal=0.25\nchoice=blue\nflag=1\n") == 0);
    CHECK(options_read(table, 6, kept, strlen(kept), "m", message));
    table[0].given = 0;
    count = 9;
    CHECK(options_read(table, 6, kept, strlen(kept), "m", message) && count == 3);   /* not given: taken from the file */
    table[0].given = 1;
    count = 9;
    CHECK(!options_read(table, 6, kept, strlen(kept), "m", message) && strstr(message, "--count 9: m was trained with 3"));
    CHECK(!options_read(table, 6, "who=1\n", 6, "m", message));
    CHECK(!options_read(table, 6, "count\n", 6, "m", message));
    free(kept);
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(!options_parse(table, 6, 3, (char **)(uintptr_t)bad[i], file, &files, 2, message));
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(plain_documents);
    RUN(tolerated_documents);
    RUN(refused_documents);
    RUN(numbers);
    RUN(long_lines);
    RUN(damaged_text);
    RUN(compressed);
    RUN(npy_files);
    RUN(feature_weights);
    RUN(encoder_gradient);
    RUN(encoder_threads);
    RUN(command_line);
    return check_end();
}
