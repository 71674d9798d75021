/* Documents out of files (examples/formats.h): every format, what is accepted, what is said about what is not.

   cc -std=c99 -O2 -I. -Iexamples tests/test_formats.c -o build/tests/test_formats -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include "temporary.h"
#include "../examples/formats.h"

static char           message[DATA_ERROR];
static vocabulary     words;     /* what `learn` learnt last */
static data_documents about;
static data_reading   how;

/* Reads text as TRAIN, with the options in how and ngrams etc. in words.shape; or as TEST after it. */
static int read_bytes(data_set *data, const char *text, size_t n, int learn)
{
    int ok;
    message[0] = 0;
    if (learn) {
        const vocabulary_shape shape = words.shape;
        vocabulary_free(&words);
        words.shape.ngrams = shape.ngrams;
        words.shape.hash_bits = shape.hash_bits;
        words.shape.separator = shape.separator;
    }
    ok = data_read(data, &words, write_file(".txt", text, n), &how, &about, message);
    remove(written);
    return ok;
}

static int learn(data_set *data, const char *text)
{
    words.shape.separator = SEPARATOR_AUTO;
    return read_bytes(data, text, strlen(text), 1);
}
static int test(data_set *data, const char *text) { return read_bytes(data, text, strlen(text), 0); }

static int read_text(data_set *data, const char *text, int64_t limit)
{
    int ok;
    how.limit = limit;
    ok = learn(data, text);
    how.limit = 0;
    return ok;
}

/* The message must be `path:LINE: WORDS`. */
static void refuses(const char *text, int line, const char *why)
{
    data_set data;
    char begin[240];
    int ok;
    CHECK(!read_text(&data, text, 0));
    CHECK(data.label_offset == NULL && data.feature == NULL);
    snprintf(begin, sizeof begin, "%s:%d: ", written, line);
    ok = CHECK(strncmp(message, begin, strlen(begin)) == 0) && CHECK(strstr(message, why) != NULL);
    if (!ok) printf("    wanted line %d: %s\n    got %s\n", line, why, message);
}

/* The labels and features of document i as text: "name,name word=2,word=1", or numbers where there are no names. */
static const char *shown(const data_set *data, int64_t i)
{
    static char out[500];
    int64_t j, n;
    int k = 0;
    const char *name;
    for (j = data->label_offset[i]; j < data->label_offset[i + 1]; j++) {
        if (j > data->label_offset[i]) out[k++] = ',';
        if (words.labels.count == 0) k += snprintf(out + k, 20, "%ld", (long)data->label[j]);
        else {
            name = data_name(&words.labels, data->label[j], &n);
            k += snprintf(out + k, 100, "%.*s", (int)n, name);
        }
    }
    out[k++] = ' ';
    for (j = data->feature_offset[i]; j < data->feature_offset[i + 1]; j++) {
        if (j > data->feature_offset[i]) out[k++] = ',';
        if (words.words.count == 0)
            k += snprintf(out + k, 40, "%ld=%g", (long)data->feature[j], (double)data->value[j]);
        else {
            name = data_name(&words.words, data->feature[j], &n);
            k += snprintf(out + k, 100, "%.*s=%g", (int)n, name, (double)data->value[j]);
        }
    }
    out[k] = 0;
    return out;
}

static void is(const data_set *data, int64_t i, const char *want)
{
    if (!CHECK(data->documents > i) || !CHECK(strcmp(shown(data, i), want) == 0))
        printf("    document %ld is '%s', not '%s'; %s\n", (long)i, data->documents > i ? shown(data, i) : "", want,
               message);
}

/* ---- numbers ------------------------------------------------------------------------------------------------- */

static void plain_documents(void)
{
    data_set data;
    CHECK(read_text(&data, "3 10 5\n0,4 1:2 3:.5 9:-1.25e1\n2 0:1\n1,2,3 5:0.125 6:7\n", 0));
    CHECK(data.documents == 3 && data.features == 10 && data.labels == 5);
    CHECK(data.label_offset[1] == 2 && data.label_offset[2] == 3 && data.label_offset[3] == 6);
    CHECK(data.label[0] == 0 && data.label[1] == 4 && data.label[2] == 2 && data.label[5] == 3);
    CHECK(data.feature_offset[3] == 6 && data.feature[2] == 9 && data.feature[5] == 6);
    CHECK(data.value[0] == 2 && data.value[1] == .5f && data.value[2] == -12.5f && data.value[4] == .125f &&
          data.value[5] == 7);
    data_free(&data);
    CHECK(read_text(&data, "3 10 5\n0,4 1:2 3:.5 9:1\n2 0:1\nnonsense", 2));   /* a limit ends the reading */
    CHECK(data.documents == 2 && data.feature_offset[2] == 4);
    data_free(&data);
}

static void tolerated_documents(void)
{
    data_set data;
    /* no labels: a space, or features at once; an empty line; labels only; carriage returns; spaces; no newline at the
       end */
    CHECK(read_text(&data, " 6\t10 5 \r\n 1:2\r\n3:4 5:6\r\n\r\n4\r\n 2:1  4:1 \r\n1 7:1", 0));
    if (!CHECK(data.documents == 6)) { printf("    %s\n", message); return; }
    CHECK(data.label_offset[3] == 0 && data.label_offset[4] == 1 && data.label[0] == 4 && data.label_offset[6] == 2);
    CHECK(data.feature_offset[1] == 1 && data.feature_offset[2] == 3 && data.feature_offset[4] == 3 &&
          data.feature_offset[5] == 5);
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
    refuses("nothing known\n", 1, "cannot tell what this is");
    refuses("3 10\n", 1, "a first line of 2 numbers; expected three: documents, features and labels");
    refuses("3 10 5 7\n", 1, "a first line of 4 numbers");
    refuses("0 10 5\n", 1, "0 documents");
    refuses("1 10 3000000000\n0 1:1\n", 1, "3000000000 labels");
    refuses("2 10 5\n0 1:1\n5 1:1\n", 3, "label 5 is not below L = 5 (ids count from 0)");
    refuses("2 10 5\n0 1:1\n70000 1:1\n", 3, "label 70000 is not below L = 5");
    refuses("2 10 5\n0 10:1\n", 2, "feature 10 is not below V = 10 (ids count from 0)");
    refuses("2 10 5\n0 99999999999999999999999:1\n", 2, "is not below V = 10");
    refuses("2 10 5\n-1 1:1\n", 2, "expected a label id, found '-1'");
    refuses("2 10 5\n1,,2 1:1\n", 2, "expected a label id");
    refuses("2 10 5\n1, 1:1\n", 2, "expected a label id, found white space");
    refuses("2 10 5\n1,\n", 2, "expected a label id, found the end of the line");
    refuses("2 10 5\n12345678901234567890 1:1\n", 2, "label 12345678901234567890 is not below");
    refuses("2 10 5\n1;2 1:1\n", 2, "expected a label id");
    refuses("2 10 5\n1 2\n", 2, "expected feature:value, found '2'");
    refuses("2 10 5\n1 x:1\n", 2, "expected feature:value, found 'x:1'");
    refuses("2 10 5\n1 2:\n", 2, "finite number, found the end of the line");
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
        CHECK(!data_read(&data, &words, "/nonexistent/train.txt", &how, &about, message));
        CHECK(strstr(message, "/nonexistent/train.txt: cannot open") != NULL);
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
            for (i = k; i < features; i += 1 + k % 2 * 1000, j++)
                wrong += data.feature[j] != i || data.value[j] != (float)(i % 1000 + 1);
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
        for (k = 0; k < 1 + i % 4; k++)
            text[7 + check_random() % (n - 7)] = letters[check_random() % (sizeof letters - 1)];
        if (i % 5 == 0) n = check_random() % n;
        if (read_bytes(&data, text, n, 1)) {
            int64_t j;
            read++;
            for (j = 0; j < data.feature_offset[data.documents]; j++)
                if (data.feature[j] < 0 || data.feature[j] >= data.features || !isfinite(data.value[j])) wrong++;
            for (j = 0; j < data.label_offset[data.documents]; j++)
                if (data.label[j] < 0 || data.label[j] >= data.labels) wrong++;
            data_free(&data);
        } else if (!strstr(message, written)) wrong++;
    }
    CHECK(read > 0 && read < 2000);
    CHECK(wrong == 0);
}

/* rows: numbers of `width` bytes each, as this machine has them; a file has them little-endian. */
static size_t npy_bytes(unsigned char *out, int version, const char *dictionary, const void *rows, size_t bytes,
                        size_t width)
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
    CHECK(data_read_npy(&data, written, 0, message) && data.width == 3);
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
    CHECK(!data_read_npy(&data, write_file(".npy", "3 10 5\n0 1:1\n", 13), 0, message) &&
          strstr(message, "not a .npy"));
    remove(written);
}


static void byte_order_marks(void)
{
    data_set data;
    CHECK(learn(&data, "\xef\xbb\xbf" "1 10 5\n0 1:1\n") && data.features == 10);
    is(&data, 0, "0 1=1");
    data_free(&data);
    CHECK(learn(&data, "\xef\xbb\xbf" "# first\n\n# second\n2 10 5\n# third\n0 1:1 # why\n\n") && data.documents == 2);
    is(&data, 0, "0 1=1");
    is(&data, 1, " ");
    data_free(&data);
    refuses("# a comment\n2 10 5\n0 1:1\n", 4, "the file ends after 1 documents; line 2 promises 2");
    refuses("# a comment\n2 4000000000 5\n", 2, "4000000000 features");
    refuses("# nothing else\n\n", 3, "the file is empty");
    refuses("@relation 'x: -C 3'\n", 1, "looks like ARFF");
}

/* LIBSVM multi-label: no header, labels are names. */
static void libsvm(void)
{
    data_set data;
    char text[100];
    CHECK(learn(&data, "0,2 1:0.5 3:1\n1 2:1\n 0:1\n0 4:1\n"));
    CHECK(data.documents == 4 && data.features == 5 && data.labels == 3);
    is(&data, 0, "0,2 1=0.5,3=1");
    is(&data, 2, " 0=1");
    CHECK(strcmp(data_format_text(&about, text), "LIBSVM, no header, features from 0 to 4") == 0);
    data_free(&data);
    CHECK(learn(&data, "# Generated by a program\n# of somebody\n\n"
                       "+1 1:2.5\t3:1 # a comment\r\n-1 2:1\r\n\n1.0,-1 1:1") && data.documents == 3);
    CHECK(data.labels == 3 && data.features == 4);
    is(&data, 0, "+1 1=2.5,3=1");
    is(&data, 2, "-1,1.0 1=1");
    CHECK(strcmp(data_format_text(&about, text), "LIBSVM, no header, features from 1 to 3") == 0);
    data_free(&data);
    CHECK(learn(&data, "[3, 7] 1:1\n[] 2:1\n[7,3 9]\n[3]\t5:1\n4:1\n") && data.documents == 5);
    is(&data, 0, "3,7 1=1");
    is(&data, 1, " 2=1");
    is(&data, 2, "3,7,9 ");
    is(&data, 3, "3 5=1");
    is(&data, 4, " 4=1");
    data_free(&data);
    /* labels of dense features, say */
    CHECK(learn(&data, "3\n4,3\n") && data.documents == 2 && data.features == 1 && data.labels == 2);
    data_free(&data);
    refuses("1 1:1\n1,,2 1:1\n", 2, "expected a label, found ',2'");
    refuses("1 1:1\n1, 1:1\n", 2, "expected a label, found white space");
    refuses("1 1:1\n1 x:1\n", 2, "expected feature:value, found 'x:1'");
    refuses("1 1:1\nx:1 2:1\n", 2, "expected a label, found 'x:1'");
    refuses("1 1:1\n[1 2:1\n", 2, "expected a label, found '2:1'");
    refuses("1 1:1\n[1\n", 2, "expected a ] behind the labels");
    refuses("1 1:1\n1 2147483647:1\n", 2, "feature 2147483647 is not below V = 2147483646");
    CHECK(!learn(&data, " 1:1\n 2:1\n") && strstr(message, ".txt: no document has a label"));
    CHECK(!learn(&data, "1 10 5\n 1:1\n") && strstr(message, ".txt: no document has a label"));
}

/* Nothing is allocated on the word of a header or of one large id. */
static void far_ids(void)
{
    data_set data;
    CHECK(learn(&data, "999999999999 2147483647 2147483647\n") == 0 &&
          strstr(message, ":2: the file ends after 0 documents"));
    CHECK(learn(&data, "3 2147483647 2147483647\n0 1:1 2147483646:2\n2147483646,7 5:1\n7,0 1:3\n"));
    CHECK(data.features == 3 && data.labels == 3);
    is(&data, 0, "0 1=1,2147483646=2");
    is(&data, 1, "7,2147483646 5=1");
    data_free(&data);
    CHECK(test(&data, "2 2147483647 2147483647\n0,3 5:1 2147483646:2 3:1\n2147483646 1:1\n") &&
          about.skipped.features == 1 && about.skipped.labels == 1);
    is(&data, 0, "0 2147483646=2,5=1");
    is(&data, 1, "2147483646 1=1");
    data_free(&data);
    CHECK(learn(&data, "1 1:1\n2 2147483645:1\n") && data.features == 2);
    is(&data, 1, "2 2147483645=1");
    data_free(&data);
    /* this is no lie to speak of */
    CHECK(learn(&data, "1 65536 65536\n0 1:1\n") && data.features == 65536 && data.labels == 65536);
    data_free(&data);
}

/* Other files after TRAIN: with fewer, more and unknown features and labels. */
static void other_numbers(void)
{
    data_set data;
    char text[200];
    CHECK(learn(&data, "2 10 5\n0 1:1\n4 9:1\n"));
    data_free(&data);
    CHECK(test(&data, "2 6 3\n0 1:1\n2 5:1\n") && data.features == 10 && data.labels == 5 &&
          about.skipped.features == 0);
    CHECK(data_skipped_text(&about.skipped, 0, text)[0] == 0);
    data_free(&data);
    CHECK(test(&data, "2 600 300\n0,299 1:1 500:2 10:1\n5 5:1\n"));
    CHECK(about.skipped.features == 2 && about.skipped.labels == 2);
    CHECK(strcmp(data_skipped_text(&about.skipped, 0, text), "2 unknown features, 2 unknown labels") == 0);
    is(&data, 0, "0 1=1");
    is(&data, 1, " 5=1");
    data_free(&data);
    CHECK(test(&data, "3,77 1:1 4000:1\n9:1\n") && data.documents == 2 && about.skipped.features == 1 &&
          about.skipped.labels == 1);   /* no header */
    is(&data, 0, "3 1=1");
    data_free(&data);
    /* its own header holds */
    CHECK(!test(&data, "2 6 3\n0 6:1\n") && strstr(message, ":2: feature 6 is not below V = 6"));
    CHECK(!test(&data, "a line of text\n") && strstr(message, ":1: expected a label id, found 'a'"));
    CHECK(learn(&data, "1 1:1\n5 2:1\n"));
    data_free(&data);
    CHECK(test(&data, "2 3 9\n5,8 1:1\n1 2:1\n") && about.skipped.labels == 1);   /* names are names, header or not */
    is(&data, 0, "5 1=1");
    data_free(&data);
    how.format = FORMAT_XMC;
    CHECK(!learn(&data, "1 1:1\n") && strstr(message, ":1: expected a first line with three numbers"));
    how.format = FORMAT_CSV;
    CHECK(learn(&data, "1 2 3,4\n") && data.labels == 1);
    is(&data, 0, "1 2 3 4=1");
    data_free(&data);
    how.format = FORMAT_XMC;
    CHECK(!test(&data, "1 1 1\n0 0:1\n") && strstr(message, ": expected text: that is what was learnt from"));
    how.format = FORMAT_AUTO;
}

/* ---- text ---------------------------------------------------------------------------------------------------- */

static void fasttext(void)
{
    data_set data;
    char text[100];
    CHECK(learn(&data, "__label__cat __label__dog Two Animals, two\r\n"
                "__label__dog\ta dog __label__late one\n\nno label _ __labe\n"));
    CHECK(data.documents == 3 && data.labels == 3 && strcmp(data_format_text(&about, text), "fastText") == 0);
    is(&data, 0, "cat,dog two=2,animals=1");
    is(&data, 1, "dog,late a=1,dog=1,one=1");
    is(&data, 2, " no=1,label=1,_=1,__labe=1");
    data_free(&data);
    CHECK(test(&data, "a cat is an animal\n__label__cat __label__cow __label__cat two, Two!\n") && data.documents == 2);
    is(&data, 0, " a=1");
    is(&data, 1, "cat two=2");
    CHECK(about.skipped.features == 4 && about.skipped.labels == 1);
    data_free(&data);
    CHECK(test(&data, "one\ttwo, 3\n"));   /* tabs and commas mean nothing here */
    is(&data, 0, " two=1,one=1");
    data_free(&data);
    CHECK(test(&data, "1 2 3\n0 1:1\n") && data.documents == 2);   /* nor does what looks like numbers */
    data_free(&data);
    CHECK(learn(&data, "# no label\n__label__a x\n# y\n") && data.documents == 2);   /* a comment only above */
    is(&data, 1, " y=1");
    data_free(&data);
    refuses("__label__a x\nb __label__ c\n", 2, "a label without a name");
    refuses("x y\n", 1, "cannot tell what this is");
}

static void columns(void)
{
    data_set data;
    char text[100];
    CHECK(learn(&data, "labels\ttext\nclimate change;soil\tIt \"rains\", often\n"
                "soil; forest ;\tTrees\tand \"more\n\tnothing\n\"a;b\"\tx\n"));
    CHECK(data.documents == 4 && data.labels == 5 &&
          strcmp(data_format_text(&about, text), "TSV, labels separated by ;") == 0);
    is(&data, 0, "climate change,soil it=1,rains=1,often=1");
    is(&data, 1, "soil,forest trees=1,and=1,more=1");
    is(&data, 2, " nothing=1");
    is(&data, 3, "a,b x=1");
    data_free(&data);
    CHECK(test(&data, "soil\tit\n\"odd\" name\ttrees\n") && about.skipped.labels == 1);
    is(&data, 1, " trees=1");
    data_free(&data);
    CHECK(!test(&data, "soil\tit\ntrees\n") && strstr(message,
                                                      ":2: expected labels, a tab, and text; found one column"));
    CHECK(learn(&data, "a b\tx\na,b\ty\n") && data.labels == 3);   /* , is in use */
    data_free(&data);
    CHECK(learn(&data, "a b\tx\nc\ty\n") && data.labels == 2 &&
          strcmp(data_format_text(&about, text), "TSV, one label each") == 0);
    data_free(&data);
    words.shape.separator = SEPARATOR_SPACE;
    CHECK(read_bytes(&data, "a b\tx\nc,d\ty\n", 12, 1) && data.labels == 3);
    is(&data, 0, "a,b x=1");
    data_free(&data);
    words.shape.separator = SEPARATOR_NONE;
    CHECK(read_bytes(&data, "a;b\tx\nc\ty\n", 10, 1) && data.labels == 2);
    is(&data, 0, "a;b x=1");
    data_free(&data);
}

/* RFC 4180. */
static void csv(void)
{
    data_set data;
    CHECK(learn(&data, "Tags,title,abstract\r\n\"a,b\",\"One, two\",\"said \"\"three\"\"\r\n"
                "four\"\r\nb,five\r\n\"c \"\"d\"\"\",six\n,seven\n\"\",eight"));
    CHECK(data.documents == 5 && data.labels == 3);
    is(&data, 0, "a,b one=1,two=1,said=1,three=1,four=1");
    is(&data, 1, "b five=1");
    is(&data, 2, "c \"d\" six=1");
    is(&data, 3, " seven=1");
    is(&data, 4, " eight=1");
    data_free(&data);
    /* a mark in an unquoted field is one */
    CHECK(learn(&data, "a|b,\"x\ny,z\n\"\na,5\" disk\nb,\"next\"\n") && data.documents == 3);
    is(&data, 0, "a,b x=1,y=1,z=1");
    is(&data, 1, "a 5=1,disk=1");
    data_free(&data);
    refuses("a,x\n\"b\"c,y\n", 2, "expected a comma behind the quoted first column");
    refuses("a,x\nb\n", 2, "expected labels, a comma, and text; found one column");
    refuses("a,x\nb,y\nc,\"never\nends\n", 3, "a quotation mark is opened and never closed");
    refuses("label,text\n", 2, "the file ends before its first document");
    refuses("a,x\n\"b\n", 2, "a quotation mark is opened");
}

/* Lines to predict: each wants an answer. */
static void queries(void)
{
    data_set data;
    how.query = 0;
    CHECK(learn(&data, "a;b,x y\nc,\"z\"\n"));
    data_free(&data);
    how.query = 1;
    /* no label is called x */
    CHECK(test(&data, "x, z\n\n#y\n") && about.format == FORMAT_LINES && data.documents == 3);
    is(&data, 0, " x=1,z=1");
    is(&data, 2, " y=1");
    data_free(&data);
    CHECK(test(&data, "c;a,x\nx z\n") && about.format == FORMAT_CSV && data.documents == 2);
    is(&data, 0, "a,c x=1");
    is(&data, 1, " x=1,z=1");
    data_free(&data);
    CHECK(test(&data, "q\tx\nz\n") && about.format == FORMAT_TSV && about.skipped.labels == 1);
    data_free(&data);
    CHECK(learn(&data, "\"a \"\"1\"\"|b\",x\nc,y\n"));
    data_free(&data);
    how.query = 1;
    CHECK(test(&data, "\"q|a \"\"1\"\"\",x\n") && about.format == FORMAT_CSV && about.skipped.labels == 1);
    is(&data, 0, "a \"1\" x=1");
    data_free(&data);
    CHECK(test(&data, "\"x\", y\n") && about.format == FORMAT_LINES);
    is(&data, 0, " x=1,y=1");
    data_free(&data);
    how.format = FORMAT_LINES;
    CHECK(test(&data, "c,x\n"));
    is(&data, 0, " x=1");
    data_free(&data);
    how.format = FORMAT_AUTO;
    how.query = 0;
    CHECK(learn(&data, "1 1:1\n"));
    data_free(&data);
    how.query = 1;
    CHECK(test(&data, "1:2\n\n1:3\n") && data.documents == 3);
    data_free(&data);
    how.query = 0;
    how.format = FORMAT_LINES;
    CHECK(!learn(&data, "x\n") && strstr(message, "nothing to learn"));
    how.format = FORMAT_AUTO;
}

static void vocabularies(void)
{
    data_set data;
    int64_t i, wrong = 0;
    static const char text[] = "__label__a one two one\n__label__b two three\n__label__a two\n";
    how.min_count = 2;
    /* one is twice in one document, no more */
    CHECK(learn(&data, text) && data.features == 1 && data.documents == 3);
    is(&data, 0, "a two=1");
    is(&data, 2, "a two=1");
    data_free(&data);
    how.min_count = 1;
    words.shape.ngrams = 2;
    CHECK(learn(&data, text) && data.features == 6);
    is(&data, 0, "a one=2,one two=1,two=1,two one=1");
    data_free(&data);
    /* the run of both is new, but its words are known */
    CHECK(test(&data, "three two\n") && about.skipped.features == 0);
    data_free(&data);
    words.shape.hash_bits = 10;
    CHECK(learn(&data, text) && data.features == 1024 && words.words.count == 0 && data.feature_offset[3] >= 7);
    for (i = 0; i < data.feature_offset[3]; i++) wrong += data.feature[i] < 0 || data.feature[i] > 1023;
    CHECK(wrong == 0);
    data_free(&data);
    CHECK(test(&data, "unheard of\n") && data.feature_offset[1] == 3 && about.skipped.features == 0);
    data_free(&data);
    words.shape.ngrams = words.shape.hash_bits = 0;
    how.min_count = 0;
}

/* What a model keeps gives back what was learnt. */
static void kept(void)
{
    data_set data;
    vocabulary again;
    CHECK(learn(&data, "a b;c\tx \xc3\x84\nc\ty\n"));
    data_free(&data);
    CHECK(vocabulary_read(&again, &words.shape, words.words.text, (uint64_t)words.words.offset[words.words.count],
                          words.labels.text, (uint64_t)words.labels.offset[words.labels.count], "m", message));
    vocabulary_free(&words);
    words = again;
    CHECK(test(&data, "c;a b\t\xc3\xa4 y z\n") && about.skipped.features == 1);
    is(&data, 0, "a b,c \xc3\xa4=1,y=1");
    data_free(&data);
}

static void label_names(void)
{
    data_set data;
    CHECK(learn(&data, "1 10 2\n1 1:1\n"));
    CHECK(!data_read_names(&words, write_file(".names", "one\n", 4), message) &&
          strstr(message, ":1: 1 names for 2 labels"));
    CHECK(data_read_names(&words, write_file(".names", "same\r\nsame\r\n", 12), message) && words.labels.count == 2);
    is(&data, 0, "same 1=1");
    data_free(&data);
    /* in files, labels are ids as before */
    CHECK(test(&data, "2 3 9\n1,0 1:1\n8 1:1\n") && about.skipped.labels == 1);
    is(&data, 0, "same,same 1=1");
    data_free(&data);
    CHECK(learn(&data, "1 1:1\n") && !data_read_names(&words, written, message) && strstr(message, "names already"));
    data_free(&data);
    remove(written);
}

static void odd_bytes(void)
{
    static const char text[] = "__label__a\0b x\0y \xff z\n";
    data_set data;
    CHECK(read_bytes(&data, text, sizeof text - 1, 1) && about.skipped.bytes == 1);
    is(&data, 0, "a b x=1,y=1,z=1");
    data_free(&data);
    CHECK(!read_bytes(&data, "1 1:1\n1 \0" "1:1\n", 13, 1) &&
          strstr(message, ":2: expected feature:value, found '?1:1'"));
    CHECK(!read_bytes(&data, "\x93NUMPY\1\0v\0", 10, 1) && strstr(message, "is a .npy file; expected text"));
    CHECK(!read_bytes(&data, "HASTE\r\n\x1a" "a", 9, 1) && strstr(message, "is a model file; expected text"));
}

/* Text of random bytes is read, or refused with its file and line; never anything worse. */
static void damaged_columns(void)
{
    static const char *const good[] = { "labels,text\na;b,\"x, \"\"y\"\"\nz\"\nb,c d\n\"a\",e\n",
                                        "a;b\tx y\n\"b\"\tc\td\n", "__label__a x\n__label__b __label__a y z\n" };
    static const char letters[] = ",;|\t\"\"\"\n\r #_ax[]\0\377\303";
    int i, read = 0, wrong = 0;
    for (i = 0; i < 3000; i++) {
        char text[100];
        data_set data;
        int k;
        size_t n = strlen(good[i % 3]);
        memcpy(text, good[i % 3], n);
        for (k = 0; k < 1 + i % 5; k++) text[check_random() % n] = letters[check_random() % (sizeof letters - 1)];
        if (i % 7 == 0) n = check_random() % n;
        words.shape.separator = SEPARATOR_AUTO;
        if (read_bytes(&data, text, n, 1)) {
            int64_t j;
            read++;
            for (j = 0; j < data.feature_offset[data.documents]; j++)
                wrong += data.feature[j] < 0 || data.feature[j] >= data.features;
            for (j = 0; j < data.label_offset[data.documents]; j++)
                wrong += data.label[j] < 0 || data.label[j] >= data.labels;
            data_free(&data);
        } else if (!strstr(message, written)) wrong++;
    }
    CHECK(read > 100 && read < 3000);
    CHECK(wrong == 0);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(plain_documents);
    RUN(tolerated_documents);
    RUN(refused_documents);
    RUN(long_lines);
    RUN(damaged_text);
    RUN(npy_files);
    RUN(byte_order_marks);
    RUN(libsvm);
    RUN(far_ids);
    RUN(other_numbers);
    RUN(fasttext);
    RUN(columns);
    RUN(csv);
    RUN(queries);
    RUN(vocabularies);
    RUN(kept);
    RUN(label_names);
    RUN(odd_bytes);
    RUN(damaged_columns);
    vocabulary_free(&words);
    return check_end();
}
