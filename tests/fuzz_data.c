/* fuzz_data.c: the readers of examples/data.h on any bytes at all. What is read must obey the rules of data_set,
   survive being written and read again, and what is refused must say why and leave nothing behind.

       clang -O1 -g -fsanitize=fuzzer,address,undefined -I. -Iexamples tests/fuzz_data.c -o build/fuzz_data -lm
       build/fuzz_data -max_total_time=60 build/corpus

   Byte 0 of the input: bits 0 and 1 the limit of documents, bit 2 tf-idf, bit 3 unit length,
       bit 7 a .npy file. The rest: the file. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#include "data.h"

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
    if (!data_read(&again, path, 0, error)) { fprintf(stderr, "%s\n", error); abort(); }
    MUST(again.documents == data->documents && again.features == data->features && again.labels == data->labels);
    for (i = 0; i <= data->documents; i++)
        MUST(again.label_offset[i] == data->label_offset[i] && again.feature_offset[i] == data->feature_offset[i]);
    for (j = 0; j < data->label_offset[data->documents]; j++) MUST(again.label[j] == data->label[j]);
    for (j = 0; j < data->feature_offset[data->documents]; j++)
        MUST(again.feature[j] == data->feature[j] && again.value[j] == data->value[j]);
    data_free(&again);
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
        if (data_feature_weights(data, all, data->documents, tfidf, weight, error)) data_weigh(data, weight, tfidf,
                                                                                               unit);
        free(weight);
    }
    free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    data_set data;
    char error[DATA_ERROR] = "nothing said";
    const int mode = size ? bytes[0] : 0;
    const int64_t limit = mode & 3;
    int64_t i;
    int ok;
    if (size == 0) return 0;
    put(bytes + 1, size - 1);
    memset(&data, 0, sizeof data);
    ok = mode & 128 ? data_read_npy(&data, path, limit, error) : data_read(&data, path, limit, error);
    if (!ok) {
        MUST(strcmp(error, "nothing said") != 0 && strlen(error) > 0 && memchr(error, 0, sizeof error));
        data_free(&data);   /* finds nothing, or what may be freed */
        return 0;
    }
    MUST(limit == 0 || data.documents <= limit);
    if (mode & 128) {
        for (i = 0; i < data.documents * data.width; i++) MUST(isfinite(data.dense[i]));
        data_unit_rows(&data);
    } else {
        obeys(&data);
        comes_back(&data);
        is_used(&data, mode >> 2 & 1, mode >> 3 & 1);
    }
    data_free(&data);
    return 0;
}
