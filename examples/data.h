/* data.h: documents in memory, for the example programs: lists of labels, and lists of features with values or dense
   rows; and the weighting of features. formats.h reads them from files. */
#ifndef DATA_H
#define DATA_H

#include "reader.h"

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
    int64_t  document_room, label_room, feature_room, value_room;   /* of data_room */
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

/* Room for one more document with so many labels and features at most, and never none. 0: out of memory. */
static inline int data_room(data_set *data, int64_t labels, int64_t features)
{
    const int64_t n = data->documents;
    if (n + 2 > data->document_room) {
        int64_t room = data->document_room;
        if (!data_reserve((void **)&data->label_offset, &room, n + 2, sizeof(int64_t))) return 0;
        room = data->document_room;
        if (!data_reserve((void **)&data->feature_offset, &room, n + 2, sizeof(int64_t))) return 0;
        data->document_room = room;
    }
    if (n == 0) data->label_offset[0] = data->feature_offset[0] = 0;
    labels += data->label_offset[n] + 1;
    features += data->feature_offset[n] + 1;
    return data_reserve((void **)&data->label, &data->label_room, labels, sizeof(int32_t)) &&
           data_reserve((void **)&data->feature, &data->feature_room, features, sizeof(int32_t)) &&
           data_reserve((void **)&data->value, &data->value_room, features, sizeof(float));
}

/* One document more, with nothing in it. 0: out of memory. */
static inline int data_empty(data_set *data)
{
    const int64_t n = data->documents;
    if (!data_room(data, 0, 0)) return 0;
    data->label_offset[n + 1] = data->label_offset[n];
    data->feature_offset[n + 1] = data->feature_offset[n];
    data->documents++;
    return 1;
}

/* Gives back what growing reserved too much. A failure to shrink is none. */
static inline void data_trim(data_set *data)
{
    const int64_t labels = data->label_offset[data->documents] + 1,
        features = data->feature_offset[data->documents] + 1;
    void *less = realloc(data->label, (size_t)labels * sizeof(int32_t));
    if (less) { data->label = (int32_t *)less; data->label_room = labels; }
    less = realloc(data->feature, (size_t)features * sizeof(int32_t));
    if (less) { data->feature = (int32_t *)less; data->feature_room = features; }
    less = realloc(data->value, (size_t)features * sizeof(float));
    if (less) { data->value = (float *)less; data->value_room = features; }
}

/* Sorts ids (with values, where not NULL) and joins equal ones, adding their values. Values of 0 are left out. Returns
   the new number. Almost always everything is in order already. */
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

/* ---- >>weights of features ----------------------------------------------------------------------------------- */

/* The weight of each feature, from the n documents named (the training split): weight [V] (=).
   idf = log(1 + n / documents with the feature), or 1 where tfidf is 0. It is never 0 for a feature that occurs: where
   every document has every feature, with different values, nothing may be lost. A feature that none of these documents
   has gets 0 in any case: its embedding is never trained, so it could only add noise to a prediction. */
static inline int data_feature_weights(const data_set *data, const int64_t *document, int64_t n, int tfidf,
                                       float *weight, char *error)
{
    int64_t *count = (int64_t *)calloc((size_t)data->features + 1, sizeof(int64_t)), i, j;
    if (!count) return data_fail(error, "out of memory");
    for (i = 0; i < n; i++)
        for (j = data->feature_offset[document[i]]; j < data->feature_offset[document[i] + 1]; j++)
            count[data->feature[j]]++;
    for (i = 0; i < data->features; i++)
        weight[i] = count[i] == 0 ? 0 : tfidf ? (float)log(1 + (double)n / (double)count[i]) : 1;
    free(count);
    return 1;
}

/* Applies them: value = tf * weight, with tf = 1 + log(value) above 1 and the value itself below (values that
   are weighted already stay as they are), then unit length per document. tfidf = 0: tf is the value; unit = 0: no
   scaling. In double, where neither the smallest nor the largest floats lose their squares. */
static inline void data_weigh(data_set *data, const float *weight, int tfidf, int unit)
{
    int64_t i, j;
    for (i = 0; i < data->documents; i++) {
        int64_t begin = data->feature_offset[i], end = data->feature_offset[i + 1];
        double sum = 0, scale = 1;
        for (j = begin; j < end; j++) {
            float tf = data->value[j];
            double value;
            if (tfidf && tf > 1) tf = 1 + logf(tf);
            data->value[j] = tf;
            value = (double)tf * weight[data->feature[j]];
            sum += value * value;
        }
        if (unit && sum > 0) scale = 1 / sqrt(sum);
        for (j = begin; j < end; j++)
            data->value[j] = (float)((double)data->value[j] * weight[data->feature[j]] * scale);
    }
}

/* For features that most documents have, as measurements are: weight [V] and mean [V] (=) such that (value - mean) * weight has mean 0
   and variance 1 / V over the n documents named; a feature that is always the same gets weight 0. 0 with error. */
static inline int data_standard(const data_set *data, const int64_t *document, int64_t n, float *weight, float *mean, char *error)
{
    double *sum = (double *)calloc(2 * (size_t)data->features + 1, sizeof(double)), *square = sum ? sum + data->features : NULL;
    int64_t i, j;
    if (!sum) return data_fail(error, "out of memory");
    for (i = 0; i < n; i++)
        for (j = data->feature_offset[document[i]]; j < data->feature_offset[document[i] + 1]; j++) sum[data->feature[j]] += data->value[j];
    for (i = 0; i < data->features; i++) {
        mean[i] = (float)(sum[i] / (double)n);
        square[i] = (double)n * mean[i] * mean[i];   /* as if all values were 0; corrected for those that are not */
    }
    for (i = 0; i < n; i++)
        for (j = data->feature_offset[document[i]]; j < data->feature_offset[document[i] + 1]; j++) {
            const double m = mean[data->feature[j]], off = data->value[j] - m;
            square[data->feature[j]] += off * off - m * m;
        }
    for (i = 0; i < data->features; i++) {
        const double deviation = sqrt((square[i] > 0 ? square[i] : 0) / (double)n);
        weight[i] = deviation > 1e-6 * fabs(mean[i]) ? (float)(1 / (deviation * sqrt((double)data->features))) : 0;
    }
    free(sum);
    return 1;
}

/* Applies them. Features that a document does not name have the value 0, which is one like others: every document has all features
   then. 0: out of memory, nothing changed. */
static inline int data_standardise(data_set *data, const float *weight, const float *mean)
{
    const uint64_t V = (uint64_t)data->features, count = (uint64_t)data->documents * V;
    int32_t *feature = count < SIZE_MAX / 8 ? (int32_t *)malloc((size_t)count * sizeof(int32_t) + 1) : NULL;
    float *value = feature ? (float *)malloc((size_t)count * sizeof(float) + 1) : NULL;
    int64_t i, j, at = 0;
    int32_t f;
    if (!value) {
        free(feature);
        return 0;
    }
    for (i = 0; i < data->documents; i++) {
        const int64_t begin = at;
        for (f = 0; f < data->features; f++, at++) {
            feature[at] = f;
            value[at] = -mean[f] * weight[f];
        }
        for (j = data->feature_offset[i]; j < data->feature_offset[i + 1]; j++) {
            f = data->feature[j];
            value[begin + f] = (data->value[j] - mean[f]) * weight[f];
        }
        data->feature_offset[i] = begin;
    }
    if (data->documents > 0) data->feature_offset[data->documents] = at;
    free(data->feature);
    free(data->value);
    data->feature = feature;
    data->value = value;
    data->feature_room = data->value_room = at;
    return 1;
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
        for (j = 0; j < data->width && sum > 0; j++) row[j] = (float)(row[j] * (1 / sqrt(sum)));
    }
}

/* How many of the n documents have each label: frequency [L] (=). */
static inline void data_label_frequency(const data_set *data, const int64_t *document, int64_t n, int64_t *frequency)
{
    int64_t i, j;
    memset(frequency, 0, (size_t)data->labels * sizeof *frequency);
    for (i = 0; i < n; i++)
        for (j = data->label_offset[document[i]]; j < data->label_offset[document[i] + 1]; j++)
            frequency[data->label[j]]++;
}

/* The most labels that `batch` documents can have together, at least 1. 0: out of memory. */
static inline int64_t data_most_labels(const data_set *data, int64_t batch)
{
    int64_t most = 0, i, n, total = 0, *with;   /* documents by their number of labels */
    for (i = 0; i < data->documents; i++) {
        n = data->label_offset[i + 1] - data->label_offset[i];
        if (n > most) most = n;
    }
    with = (int64_t *)calloc((size_t)most + 1, sizeof(int64_t));
    if (!with) return 0;
    for (i = 0; i < data->documents; i++) with[data->label_offset[i + 1] - data->label_offset[i]]++;
    for (n = most; n > 0 && batch > 0; n--) {
        int64_t taken = with[n] < batch ? with[n] : batch;
        total += taken * n;
        batch -= taken;
    }
    free(with);
    return total > 0 ? total : 1;
}

#endif /* DATA_H */
