/* knn: how far the nearest training documents get, as a measure for data sets (the column 20-NN of README.md). Documents are
   unit vectors of tf-idf, as haste-train sees them; the 20 training documents with the largest products vote for their
   labels, each with its product. P@1, P@3 and P@5 over 2,000 documents of TEST that lie evenly in it, or over all if there
   are fewer.

       make knn && build/haste-knn TRAIN TEST */
#include "examples/formats.h"

enum { NEIGHBOURS = 20, SAMPLED = 2000, BEST = 5 };

static void *need(int64_t count, size_t width)
{
    void *memory = calloc((size_t)count + 1, width);
    if (!memory) { fprintf(stderr, "haste-knn: out of memory\n"); exit(1); }
    return memory;
}

/* The documents of each feature, with the features' values there. */
typedef struct inverted { int64_t *offset; int32_t *document; float *value; } inverted;

static void invert(inverted *v, const data_set *data)
{
    const int64_t n = data->feature_offset[data->documents];
    int64_t i, k, *next;
    v->offset = (int64_t *)need(data->features + 1, sizeof(int64_t));
    v->document = (int32_t *)need(n, sizeof(int32_t));
    v->value = (float *)need(n, sizeof(float));
    for (k = 0; k < n; k++) v->offset[data->feature[k] + 1]++;
    for (i = 0; i < data->features; i++) v->offset[i + 1] += v->offset[i];
    next = (int64_t *)need(data->features, sizeof(int64_t));
    memcpy(next, v->offset, (size_t)data->features * sizeof(int64_t));
    for (i = 0; i < data->documents; i++) for (k = data->feature_offset[i]; k < data->feature_offset[i + 1]; k++) {
        const int64_t at = next[data->feature[k]]++;
        v->document[at] = (int32_t)i;
        v->value[at] = data->value[k];
    }
    free(next);
}

/* Puts id into a list of the `room` best, best first. */
static int insert(int32_t *id, double *score, int n, int room, int32_t new_id, double new_score)
{
    int i = n < room ? n : room - 1;
    if (n == room && !(new_score > score[i])) return n;
    for (; i > 0 && new_score > score[i - 1]; i--) { id[i] = id[i - 1]; score[i] = score[i - 1]; }
    id[i] = new_id;
    score[i] = new_score;
    return n < room ? n + 1 : n;
}

int main(int argc, char **argv)
{
    data_set train, test;
    vocabulary words;
    data_documents about;
    data_reading how;
    inverted in;
    char error[DATA_ERROR];
    int64_t i, j, k, s, count, right[BEST] = { 0 };
    int64_t *all;
    float *weight;
    double *product, *vote;
    if (argc != 3) { fprintf(stderr, "usage: haste-knn TRAIN TEST\n"); return 2; }
    memset(&train, 0, sizeof train);
    memset(&test, 0, sizeof test);
    memset(&words, 0, sizeof words);
    memset(&how, 0, sizeof how);
    if (!data_read(&train, &words, argv[1], &how, &about, error) || !data_read(&test, &words, argv[2], &how, &about, error)) {
        fprintf(stderr, "haste-knn: %s\n", error);
        return 1;
    }
    weight = (float *)need(train.features, sizeof(float));
    all = (int64_t *)need(train.documents, sizeof(int64_t));
    for (i = 0; i < train.documents; i++) all[i] = i;
    if (!data_feature_weights(&train, all, train.documents, 1, weight, error)) {
        fprintf(stderr, "haste-knn: %s\n", error);
        return 1;
    }
    data_weigh(&train, weight, 1, 1);
    data_weigh(&test, weight, 1, 1);
    invert(&in, &train);
    product = (double *)need(train.documents, sizeof(double));
    vote = (double *)need(train.labels, sizeof(double));

    count = test.documents < SAMPLED ? test.documents : SAMPLED;
    for (s = 0; s < count; s++) {
        const int64_t document = s * test.documents / count;
        int32_t near[NEIGHBOURS], best[BEST];
        double closeness[NEIGHBOURS], votes[BEST];
        int nears = 0, bests = 0;
        for (k = test.feature_offset[document]; k < test.feature_offset[document + 1]; k++)
            for (j = in.offset[test.feature[k]]; j < in.offset[test.feature[k] + 1]; j++)
                product[in.document[j]] += (double)test.value[k] * (double)in.value[j];
        for (i = 0; i < train.documents; i++) {
            if (product[i] > 0) nears = insert(near, closeness, nears, NEIGHBOURS, (int32_t)i, product[i]);
            product[i] = 0;
        }
        for (i = 0; i < nears; i++) for (k = train.label_offset[near[i]]; k < train.label_offset[near[i] + 1]; k++)
            vote[train.label[k]] += closeness[i];
        for (i = 0; i < nears; i++) for (k = train.label_offset[near[i]]; k < train.label_offset[near[i] + 1]; k++)
            if (vote[train.label[k]] > 0) {   /* once each */
                bests = insert(best, votes, bests, BEST, train.label[k], vote[train.label[k]]);
                vote[train.label[k]] = 0;
            }
        for (i = 0; i < bests; i++) for (k = test.label_offset[document]; k < test.label_offset[document + 1]; k++)
            if (test.label[k] == best[i]) right[i]++;
    }
    for (i = 1; i < BEST; i++) right[i] += right[i - 1];
    printf("%ld documents: P@1 %.1f P@3 %.1f P@5 %.1f\n", (long)count, 100. * (double)right[0] / (double)count,
           100. * (double)right[2] / (3. * (double)count), 100. * (double)right[4] / (5. * (double)count));
    return 0;
}
