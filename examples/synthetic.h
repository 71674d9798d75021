/* synthetic.h: a made-up data set with a long tail, whose best possible P@1 is known: what `make train` learns.

   A document is about one to three topics, drawn from a Zipf law; each topic has 6 words of its own (drawn from all words, so topics
   share them) and a document shows 4 of them, among 8 words of noise. Its labels are its topics - except that with
   probability NOISE they were replaced by as many topics drawn anew, which nothing in the document can tell. So the best answer is
   the document's most frequent topic t, and it is right with probability
       (1 - NOISE) + NOISE * (1 - (1 - p(t))^n)        n topics, p the Zipf law */
#ifndef SYNTHETIC_H
#define SYNTHETIC_H

#include "encoder.h"

#define SYNTHETIC_LABELS 2000
#define SYNTHETIC_WORDS  8000
#define SYNTHETIC_NOISE  0.2

/* Uniform in [0, 1): number `which` of document `document`. */
static inline double synthetic_uniform(uint64_t seed, int64_t document, int which)
{
    return (double)(encoder_random(seed, (uint64_t)which + 1000, (uint64_t)document) >> 11) / 9007199254740992.0;
}

static inline int32_t synthetic_topic(const double *cumulative, double u)
{
    int32_t low = 0, high = SYNTHETIC_LABELS - 1;
    while (low < high) {
        int32_t middle = (low + high) / 2;
        if (cumulative[middle] > u) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* Documents first .. first + n - 1 of the endless set that `seed` names. best (=): the P@1 that nobody can beat on them, in percent,
   but by luck. 0: out of memory. */
static inline int synthetic_make(data_set *data, uint64_t seed, int64_t first, int64_t n, double *best)
{
    double *cumulative = (double *)malloc(SYNTHETIC_LABELS * sizeof(double)), sum = 0, total = 0;
    int64_t i;
    int k;
    memset(data, 0, sizeof *data);
    data->features = SYNTHETIC_WORDS;
    data->labels = SYNTHETIC_LABELS;
    data->label_offset = (int64_t *)malloc((size_t)(n + 1) * sizeof(int64_t));
    data->feature_offset = (int64_t *)malloc((size_t)(n + 1) * sizeof(int64_t));
    data->label = (int32_t *)malloc((size_t)n * 3 * sizeof(int32_t));
    data->feature = (int32_t *)malloc((size_t)n * 20 * sizeof(int32_t));
    data->value = (float *)malloc((size_t)n * 20 * sizeof(float));
    if (!cumulative || !data->label_offset || !data->feature_offset || !data->label || !data->feature || !data->value) {
        free(cumulative);
        data_free(data);
        return 0;
    }
    for (i = 0; i < SYNTHETIC_LABELS; i++) cumulative[i] = sum += 1 / (double)(i + 10);
    for (i = 0; i < SYNTHETIC_LABELS; i++) cumulative[i] /= sum;

    data->label_offset[0] = data->feature_offset[0] = 0;
    for (i = 0; i < n; i++) {
        int64_t document = first + i;
        int32_t *label = data->label + data->label_offset[i], *feature = data->feature + data->feature_offset[i];
        float *value = data->value + data->feature_offset[i];
        int topics = 1 + (int)(synthetic_uniform(seed, document, 0) * 3), labels = 0, features = 0;
        int replaced = synthetic_uniform(seed, document, 1) < SYNTHETIC_NOISE;
        int32_t most_frequent = SYNTHETIC_LABELS;
        double p;
        for (k = 0; k < topics; k++) {
            int32_t topic = synthetic_topic(cumulative, synthetic_uniform(seed, document, 10 + k));
            int hidden = (int)(synthetic_uniform(seed, document, 20 + k) * 6), word;
            for (word = 0; word < 6; word++)
                if (word != hidden && word != (hidden + 3) % 6)
                    feature[features++] = (int32_t)(synthetic_uniform(seed, -1 - topic, word) * SYNTHETIC_WORDS);
            label[labels++] = replaced ? synthetic_topic(cumulative, synthetic_uniform(seed, document, 30 + k)) : topic;
            if (topic < most_frequent) most_frequent = topic;
        }
        for (k = 0; k < 8; k++) {
            double u = synthetic_uniform(seed, document, 40 + k);
            feature[features++] = (int32_t)(u * u * u * SYNTHETIC_WORDS);
        }
        for (k = 0; k < features; k++) value[k] = 1;
        data->label_offset[i + 1] = data->label_offset[i] + data_tidy(label, NULL, labels);
        data->feature_offset[i + 1] = data->feature_offset[i] + data_tidy(feature, value, features);
        p = cumulative[most_frequent] - (most_frequent > 0 ? cumulative[most_frequent - 1] : 0);
        total += 1 - SYNTHETIC_NOISE + SYNTHETIC_NOISE * (1 - pow(1 - p, topics));
    }
    data->documents = n;
    free(cumulative);
    *best = 100 * total / (double)n;
    return 1;
}

#endif /* SYNTHETIC_H */
