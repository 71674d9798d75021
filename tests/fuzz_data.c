/* fuzz_data.c: the readers of examples/formats.h on any bytes at all. What is read must obey the rules of data_set,
   survive being written and read again, and what is refused must say why and leave nothing behind. What a vocabulary
   keeps must give it back.

       clang -O1 -g -fsanitize=fuzzer,address,undefined -I. -Iexamples tests/fuzz_data.c -o build/fuzz_data -lm
       build/fuzz_data -max_total_time=60 build/corpus

   Byte 0 of the input: bits 0 and 1 the limit of documents, bit 2 tf-idf, bit 3 unit length, bits 4 and 5 the longest run of
       words, bit 6 hashing, bit 7 a .npy file. Byte 1: bits 0 .. 2 the format of TRAIN, 3 .. 5 that of TEST, bit 6 queries.
       Byte 2: the separator of labels. Then TRAIN and, behind a byte 1, TEST. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#include "formats.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static char path[64];
static int descriptor = -1;

static void put(const void *bytes, size_t size)
{
    if (descriptor < 0) {
        descriptor = memfd_create("fuzz", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    }
    MUST(descriptor >= 0 && ftruncate(descriptor, 0) == 0 && pwrite(descriptor, bytes, size, 0) == (ssize_t)size);
}

/* Offsets that ascend; ids in range, ascending, each once; values finite and not 0. */
static void obeys(const data_set *data)
{
    int64_t i, j;
    for (i = 0; i < data->documents; i++) {
        MUST(data->label_offset[i] <= data->label_offset[i + 1] &&
             data->feature_offset[i] <= data->feature_offset[i + 1]);
        for (j = data->label_offset[i]; j < data->label_offset[i + 1]; j++)
            MUST(data->label[j] >= 0 && data->label[j] < data->labels &&
                 (j == data->label_offset[i] || data->label[j] > data->label[j - 1]));
        for (j = data->feature_offset[i]; j < data->feature_offset[i + 1]; j++)
            MUST(data->feature[j] >= 0 && data->feature[j] < data->features && isfinite(data->value[j]) &&
                 data->value[j] != 0 &&
                 (j == data->feature_offset[i] || data->feature[j] > data->feature[j - 1]));
    }
}

/* As text, and read again: the same numbers. */
static void comes_back(const data_set *data)
{
    data_set again;
    vocabulary words;
    data_reading how;
    data_documents about;
    char error[DATA_ERROR], *text = NULL;
    size_t bytes = 0;
    int64_t i, j;
    FILE *out = open_memstream(&text, &bytes);
    MUST(out);
    fprintf(out, "%lld %ld %ld\n", (long long)data->documents, (long)data->features, (long)data->labels);
    for (i = 0; i < data->documents; i++) {
        for (j = data->label_offset[i]; j < data->label_offset[i + 1]; j++)
            fprintf(out, "%s%ld", j > data->label_offset[i] ? "," : "", (long)data->label[j]);
        for (j = data->feature_offset[i]; j < data->feature_offset[i + 1]; j++)
            fprintf(out, " %ld:%.9g", (long)data->feature[j], (double)data->value[j]);
        fputc('\n', out);
    }
    fclose(out);
    put(text, bytes);
    free(text);
    memset(&words, 0, sizeof words);
    memset(&how, 0, sizeof how);
    if (!data_read(&again, &words, path, &how, &about, error)) { fprintf(stderr, "%s\n", error); abort(); }
    MUST(again.documents == data->documents && again.features == data->features && again.labels == data->labels);
    for (i = 0; i <= data->documents; i++)
        MUST(again.label_offset[i] == data->label_offset[i] && again.feature_offset[i] == data->feature_offset[i]);
    for (j = 0; j < data->label_offset[data->documents]; j++) MUST(again.label[j] == data->label[j]);
    for (j = 0; j < data->feature_offset[data->documents]; j++)
        MUST(again.feature[j] == data->feature[j] && again.value[j] == data->value[j]);
    data_free(&again);
    vocabulary_free(&words);
}

/* As a model keeps it: the same words and names. */
static void is_kept(vocabulary *words)
{
    vocabulary again;
    char error[DATA_ERROR];
    const data_names *w = &words->words, *l = &words->labels;
    if (!vocabulary_read(&again, &words->shape, w->count ? w->text : NULL, w->count ? (uint64_t)w->offset[w->count] : 0,
                         l->count ? l->text : NULL, l->count ? (uint64_t)l->offset[l->count] : 0, "kept", error)) {
        fprintf(stderr, "%s\n", error);
        abort();
    }
    MUST(again.words.count == w->count && again.labels.count == l->count);
    vocabulary_free(words);
    *words = again;
}

/* What training does with the documents next. */
static void is_used(data_set *data, int tfidf, int unit)
{
    char error[DATA_ERROR];
    int64_t i, *all = (int64_t *)malloc(((size_t)data->documents + 1) * sizeof *all);
    MUST(all);
    for (i = 0; i < data->documents; i++) all[i] = i;
    if (data->labels < 100000) {
        int64_t *frequency = (int64_t *)malloc((size_t)data->labels * sizeof *frequency);
        MUST(frequency);
        data_label_frequency(data, all, data->documents, frequency);
        for (i = 0; i < data->labels; i++) MUST(frequency[i] >= 0 && frequency[i] <= data->documents);
        free(frequency);
    }
    if (data->features < 100000) {
        float *weight = (float *)malloc((size_t)data->features * sizeof *weight);
        MUST(weight);
        if (data_feature_weights(data, all, data->documents, tfidf, weight, error))
            data_weigh(data, weight, tfidf, unit);
        free(weight);
    }
    free(all);
}

static int npy(int64_t limit)
{
    data_set data;
    char error[DATA_ERROR] = "nothing said";
    int64_t i;
    memset(&data, 0, sizeof data);
    if (data_read_npy(&data, path, limit, error)) {
        MUST(limit == 0 || data.documents <= limit);
        for (i = 0; i < data.documents * data.width; i++) MUST(isfinite(data.dense[i]));
        data_unit_rows(&data);
    } else MUST(strcmp(error, "nothing said") != 0);
    data_free(&data);   /* finds nothing, or what may be freed */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const int mode = size > 3 ? bytes[0] : 0;
    const uint8_t *train = bytes + 3, *test;
    size_t length = size - 3;
    data_set data;
    vocabulary words;
    data_reading how;
    data_documents about;
    char error[DATA_ERROR] = "nothing said", text[200];
    if (size < 4) return 0;
    test = (const uint8_t *)memchr(train, 1, length);
    put(train, test ? (size_t)(test - train) : length);
    if (mode & 128) return npy(mode & 3);
    memset(&words, 0, sizeof words);
    memset(&how, 0, sizeof how);
    how.limit = mode & 3;
    how.format = bytes[1] % 8 % 7;
    words.shape.ngrams = mode >> 4 & 3;
    words.shape.hash_bits = mode >> 6 & 1 ? 7 : 0;
    words.shape.separator = bytes[2] % 6;
    if (data_read(&data, &words, path, &how, &about, error)) {
        MUST(how.limit == 0 || data.documents <= how.limit);
        MUST(about.skipped.features == 0 && about.skipped.labels == 0);
        obeys(&data);
        MUST(data.labels > 0 && strlen(data_format_text(&about, text)) < 100);
        if (data.features > 0 && data.features <= 65536 && data.labels <= 65536) comes_back(&data);
        is_used(&data, mode >> 2 & 1, mode >> 3 & 1);
        data_free(&data);
        is_kept(&words);
        if (test) {
            put(test + 1, length - (size_t)(test + 1 - train));
            how.format = bytes[1] / 8 % 8 % 7;
            how.query = bytes[1] >> 6 & 1;
            if (data_read(&data, &words, path, &how, &about, error)) {
                obeys(&data);
                MUST(strlen(data_skipped_text(&about.skipped, 1, text)) < 200);
                data_free(&data);
            }
        }
    }
    if (error[0] != 'n' || strcmp(error, "nothing said") != 0) MUST(strstr(error, path) || strstr(error, "out of memory"));
    vocabulary_free(&words);
    return 0;
}
