/* Documents in memory (examples/data.h): the weighting of features. What is held out of them (examples/split.h).
   Schedules (examples/schedule.h). The encoder (examples/encoder.h): its gradient step against a plain one, and the same bits for any number of threads. The options.

   cc -std=c99 -O2 -fopenmp -I. -Iexamples tests/test_data.c -o build/tests/test_data -lm [-DHASTE_ZLIB -lz] */
#define _POSIX_C_SOURCE 200809L
#include "haste.h"
#include "check.h"
#include "../examples/data.h"
#include "../examples/encoder.h"
#include "../examples/options.h"
#include "../examples/schedule.h"
#include "../examples/split.h"
#include "../examples/synthetic.h"

static char message[DATA_ERROR];

/* One document more: features f, f + 1, ... with n values; label f where it is not negative. */
static void add_document(data_set *data, int32_t f, int32_t label, int n, const float *value)
{
    int i;
    if (!data_room(data, 1, n)) { printf("out of memory\n"); exit(1); }
    for (i = 0; i < n; i++) {
        data->feature[data->feature_offset[data->documents] + i] = f + i;
        data->value[data->feature_offset[data->documents] + i] = value[i];
    }
    if (label >= 0) data->label[data->label_offset[data->documents]] = label;
    data->label_offset[data->documents + 1] = data->label_offset[data->documents] + (label >= 0);
    data->feature_offset[data->documents + 1] = data->feature_offset[data->documents] + n;
    data->documents++;
}

/* idf worked by hand, from the named documents only; a feature that they lack gets 0, one that they all have does not. */
static void feature_weights(void)
{
    static const float values[] = { 1, 4, 2, 1, 1, 1, .5f };
    data_set data;
    int64_t train[3] = { 0, 1, 3 }, frequency[3];
    float weight[5];
    memset(&data, 0, sizeof data);
    data.features = 5;
    data.labels = 3;
    add_document(&data, 0, 0, 2, values);         /* 0:1 1:4 */
    add_document(&data, 0, 0, 1, values + 2);     /* 0:2 */
    add_document(&data, 2, 1, 2, values + 3);     /* 2:1 3:1 */
    add_document(&data, 0, 2, 2, values + 5);     /* 0:1 1:.5 */
    CHECK(data_feature_weights(&data, train, 3, 1, weight, message));
    CHECK_NEAR(weight[0], log(1 + 3. / 3), 1e-7);
    CHECK_NEAR(weight[1], log(1 + 3. / 2), 1e-7);
    CHECK_NEAR(weight[2], 0, 0);
    CHECK_NEAR(weight[4], 0, 0);
    data_label_frequency(&data, train, 3, frequency);
    CHECK(frequency[0] == 2 && frequency[1] == 0 && frequency[2] == 1);
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

/* Values of mean 0 and variance 1 / V over the named documents; what a document does not name is 0 before, and others get all. */
static void standard_values(void)
{
    static const float values[] = { 1, 5, 3, 5, 7, 5, 100 };
    data_set data;
    int64_t train[3] = { 0, 1, 2 };
    float weight[3], mean[3];
    double first = sqrt(8. / 3) * sqrt(3.), second = 5 * sqrt(2.) / 3 * sqrt(3.);   /* deviations of 1 3 5 and 5 5 0, times root V */
    memset(&data, 0, sizeof data);
    data.features = 3;
    add_document(&data, 0, 0, 2, values);         /* 0:1 1:5 */
    add_document(&data, 0, 0, 2, values + 2);     /* 0:3 1:5 */
    add_document(&data, 0, 0, 1, values + 3);     /* 0:5 */
    add_document(&data, 1, 0, 2, values + 5);     /* 1:5 2:100 */
    CHECK(data_standard(&data, train, 3, weight, mean, message));
    CHECK_NEAR(mean[0], 3, 1e-6);
    CHECK_NEAR(mean[1], 10. / 3, 1e-6);
    CHECK_NEAR(weight[0], 1 / first, 1e-6);
    CHECK_NEAR(weight[1], 1 / second, 1e-6);
    CHECK(mean[2] == 0 && weight[2] == 0);        /* always the same */
    CHECK(data_standardise(&data, weight, mean));
    CHECK(data.feature_offset[1] == 3 && data.feature_offset[4] == 12);
    CHECK_NEAR(data.value[0], -2 / first, 1e-6);
    CHECK_NEAR(data.value[7], -10. / 3 / second, 1e-6);
    CHECK_NEAR(data.value[9], -3 / first, 1e-6);
    CHECK(data.value[11] == 0 && data.feature[11] == 2);
    data_free(&data);
}

/* Rates rise, stay and fall to 0 at the end; a part that no longer gets better falls earlier, and the end comes with the later one. */
static void schedules(void)
{
    schedule s;
    double score[2] = { 1, 1 };
    const int32_t top[] = { 4, 7, 9, 1, 2, 3 }, slot_of[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 };
    const int64_t offset[] = { 0, 2, 3 };
    const int32_t id[] = { 9, 4, 5 };
    haste_lists truth;
    schedule_begin(&s, 90, 10, 1);
    CHECK(schedule_end(&s) == 90 && s.stay == 60);
    CHECK_NEAR(schedule_factor(&s, 0, 0, 0), 1. / 11, 1e-12);
    CHECK(schedule_factor(&s, 1, 10, 0) == 1 && schedule_factor(&s, 1, 59, 0) == 1 && schedule_factor(&s, 1, 90, 0) == 0);
    CHECK_NEAR(schedule_factor(&s, 1, 75, 0), .5, 1e-12);
    CHECK_NEAR(schedule_factor(&s, 1, 89, .2), .2, 1e-12);
    schedule_look(&s, 20, 2, score);
    score[1] = 2;
    schedule_look(&s, 30, 2, score);
    CHECK(!schedule_chosen(&s, 30) && s.fall[0] == 60);
    score[1] = 3;
    schedule_look(&s, 40, 2, score);                 /* the head has not been better twice */
    CHECK(s.fall[0] == 40 && s.fall[1] == 60 && schedule_end(&s) == 90 && !schedule_chosen(&s, 40));
    CHECK_NEAR(schedule_factor(&s, 0, 50, 0), .5, 1e-12);
    CHECK(schedule_factor(&s, 0, 60, 0) == 0 && schedule_factor(&s, 1, 50, 0) == 1 && schedule_largest(&s, 50, 0) == 1);
    schedule_look(&s, 44, 2, score);
    schedule_look(&s, 50, 2, score);
    CHECK(s.fall[0] == 40 && s.fall[1] == 50 && schedule_end(&s) == 75 && schedule_chosen(&s, 50));
    schedule_begin(&s, 90, 10, 1);                   /* one part */
    for (score[0] = 2; score[0] > -1; score[0]--) schedule_look(&s, 20 + 10 * (int64_t)(2 - score[0]), 1, score);
    CHECK(s.fall[0] == 40 && s.fall[1] == 40 && schedule_end(&s) == 60);
    schedule_begin(&s, 90, 10, 0);                   /* nothing to choose */
    CHECK(schedule_good(&s) && schedule_end(&s) == 90 && schedule_factor(&s, 0, 90, 0) == 0);
    CHECK_NEAR(schedule_factor(&s, 0, 0, 0), 1. / 11, 1e-12);
    CHECK_NEAR(schedule_factor(&s, 1, 30, 0), .75, 1e-12);
    CHECK_NEAR(schedule_factor(&s, 0, 60, 0), .25, 1e-12);
    CHECK_NEAR(schedule_factor(&s, 0, 80, .2), .2, 1e-12);
    CHECK(schedule_fewest(1) < schedule_fewest(0));
    score[0] = score[1] = 0;
    truth.offset = offset;
    truth.id = id;
    schedule_score(score, top, 2, 3, &truth, slot_of, 5);
    CHECK_NEAR(score[0], 1, 1e-12);                  /* 4, at rank 1 */
    CHECK_NEAR(score[1], .5, 1e-12);                 /* 9, at rank 3; 5 was not named */
    CHECK(schedule_passes(5e3, 0) <= 60 && schedule_passes(5e3, 0) >= 12 && schedule_passes(1e6, 1) == 3);
    CHECK(schedule_chooses(3000, 1) && !schedule_chooses(2999, 1) && !schedule_chooses(3000, 0) && schedule_chooses(20000, 0));
    CHECK(schedule_chooses(100000, 1) && !schedule_chooses(110000, 1));   /* at most four passes: all are wanted */
}

/* The smallest and the largest floats come to unit length, too. */
static void extreme_values(void)
{
    static const float values[] = { 1e-42f, 1e-42f, 3e38f, -3e38f };
    const float weight[2] = { 10, 10 };
    data_set data;
    int i;
    memset(&data, 0, sizeof data);
    for (i = 0; i < 4; i += 2) add_document(&data, 0, 0, 2, values + i);
    data_weigh(&data, weight, 0, 1);
    for (i = 0; i < 4; i++) CHECK_NEAR(fabs((double)data.value[i]), sqrt(.5), 1e-6);
    data_free(&data);
    data.documents = 2;
    data.width = 2;
    data.dense = (float *)malloc(sizeof values);
    memcpy(data.dense, values, sizeof values);
    data_unit_rows(&data);
    for (i = 0; i < 4; i++) CHECK_NEAR(fabs((double)data.dense[i]), sqrt(.5), 1e-6);
    data_free(&data);
}

/* The most labels of a batch, by hand; room for documents with nothing in them. */
static void most_labels(void)
{
    static const float one = 1;
    data_set data;
    int i;
    memset(&data, 0, sizeof data);
    CHECK(data_empty(&data) && data_most_labels(&data, 5) == 1);   /* at least 1 */
    for (i = 0; i < 3; i++) add_document(&data, i, i, 1, &one);
    CHECK(data_empty(&data) && data.documents == 5 && data.label_offset[5] == 3 && data.feature_offset[5] == 3);
    CHECK(data_most_labels(&data, 1) == 1 && data_most_labels(&data, 2) == 2 && data_most_labels(&data, 9) == 3);
    data_trim(&data);
    CHECK(data.label_offset[1] == 0 && data.label[2] == 2 && data.feature[1] == 1);
    data_free(&data);
}

/* Copies are held out together; all documents are there once; other documents make another number. */
static void held_out(void)
{
    data_set data;
    int64_t document[40], n, i, seen[40];
    int split = 0, different = 0;
    uint64_t before;
    memset(&data, 0, sizeof data);
    for (i = 0; i < 40; i++) { const float value = (float)(1 + i % 20); add_document(&data, 0, 0, 1, &value); }
    before = split_fingerprint(&data);
    for (i = 0; i < 40; i++) seen[i] = 0;
    n = split_hold_out(&data, 10, 1, document);
    CHECK(n >= 10 && n <= 12 && n % 2 == 0);
    for (i = 0; i < 40; i++) seen[document[i]] = i < 40 - n ? 1 : 2;
    for (i = 0; i < 20; i++) split += seen[i] == 0 || seen[i] != seen[i + 20];
    CHECK(split == 0);
    CHECK(split_hold_out(&data, 0, 1, document) == 0 && document[7] == 7);
    for (i = 0; i < 40; i++) data.value[i] = 1;
    CHECK(split_hold_out(&data, 10, 1, document) == -1);
    CHECK(split_fingerprint(&data) != before);
    split_shuffle(document, 40, 1, 0, seen);
    for (i = 0; i < 40; i++) different += seen[i] != document[i];
    CHECK(different > 20);
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
    if (!encoder_create(e, .5) || !encoder_scratch(e)) { printf("out of memory\n"); exit(1); }
}

/* The gradient of sum(h * c) by differences: Adam's first step moves a row by lr times its gradient, divided by the root of the
   gradient's mean square. */
static void encoder_gradient(void)
{
    enum { B = 7, D = 21 };
    encoder e, before;
    data_set data;
    double best;
    float h[B * D], grad[B * D], c[B * D];
    int64_t document[B], r;
    double slope[D], square;
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
    for (r = 0; r <= 50; r++) {
        for (d = 0, square = 0; d < D; d++) {
            float *w = before.row + r * D + d, old = *w, up[B * D], down[B * D];
            slope[d] = 0;
            *w = old + .0005f;
            encoder_forward(&before, &data, document, B, 1, up);
            *w = old - .0005f;
            encoder_forward(&before, &data, document, B, 1, down);
            *w = old;
            for (i = 0; i < B * D; i++) slope[d] += (double)c[i] * ((double)up[i] - down[i]) / .001;
            square += slope[d] * slope[d] / (double)D;
        }
        for (d = 0; d < D; d++) {
            const double change = (double)e.row[r * D + d] - before.row[r * D + d];
            if (square < 1e-4) {
                CHECK(change == 0);   /* untouched */
                continue;
            }
            moved++;
            if (fabs(change + .001 * slope[d] / sqrt(square)) > 3e-5) wrong++;
        }
    }
    CHECK(moved > 300);
    CHECK(wrong <= moved / 20);   /* a relu that switches within the difference */
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

/* Slices of columns have the numbers of the whole; with the squares of all they are trained as it is. */
static void encoder_slices(void)
{
    enum { B = 24, D = 21, PARTS = 2 };
    static const int32_t first[PARTS + 1] = { 0, 12, D };
    encoder whole, part[PARTS];
    data_set data;
    double best, *squares[PARTS];
    float h[B * D], grad[B * D], own[PARTS][B * D], own_grad[PARTS][B * D], *gradient[PARTS];
    int64_t document[B], rows = 0, i;
    int step, k, b, d;
    CHECK(synthetic_make(&data, 2, 0, 200, &best));
    for (i = 0; i < data.feature_offset[200]; i++) data.feature[i] %= 50;
    seed_encoder(&whole, 1, .3);
    for (k = 0; k < PARTS; k++) {
        part[k] = whole;
        part[k].row = part[k].moment = part[k].gradient = NULL;
        part[k].seen = NULL;
        part[k].count = NULL;
        part[k].threads = 2;
        part[k].first = first[k];
        part[k].width = first[k + 1] - first[k];
        part[k].columns = D;
        if (!encoder_create(&part[k], .5) || !encoder_scratch(&part[k])) { printf("out of memory\n"); exit(1); }
        squares[k] = (double *)malloc(51 * sizeof(double));
        gradient[k] = (float *)malloc(51 * D * sizeof(float));
        for (i = 0; i <= 50; i++) CHECK(memcmp(part[k].row + i * part[k].width, whole.row + i * D + first[k], (size_t)part[k].width * sizeof(float)) == 0);
    }
    for (step = 0; step < 5; step++) {
        for (b = 0; b < B; b++) document[b] = (b * 7 + step) % 200;
        for (i = 0; i < B * D; i++) grad[i] = check_normal();
        encoder_forward(&whole, &data, document, B, 1, h);
        for (k = 0; k < PARTS; k++) {
            const int32_t n = part[k].width;
            encoder_forward(&part[k], &data, document, B, 1, own[k]);
            for (b = 0; b < B; b++) {
                if (step == 0) CHECK(memcmp(own[k] + b * n, h + b * D + first[k], (size_t)n * sizeof(float)) == 0);
                for (d = 0; d < n; d++) {
                    CHECK_NEAR(own[k][b * n + d], h[b * D + first[k] + d], 1e-5);
                    own_grad[k][b * n + d] = grad[b * D + first[k] + d];
                }
            }
            rows = encoder_order(&part[k], &data, document, B);
            encoder_mask(&part[k], B, own[k], own_grad[k]);
            part[k].step++;
            for (i = 0; i <= rows; i++) {
                encoder_row_gradient(&part[k], i, rows, B, own_grad[k], gradient[k] + i * n);
                squares[k][i] = encoder_squares(&part[k], gradient[k] + i * n);
            }
        }
        for (k = 0; k < PARTS; k++)
            for (i = 0; i <= rows; i++)
                encoder_adam(&part[k], i == rows ? 50 : part[k].touched[i], gradient[k] + i * part[k].width, squares[0][i] + squares[1][i], .01f,
                             encoder_correction(part[k].step));
        CHECK(encoder_backward(&whole, &data, document, B, h, grad, .01f));
    }
    for (k = 0; k < PARTS; k++) {
        for (i = 0; i <= 50; i++) {
            CHECK(part[k].seen[i] == whole.seen[i]);
            CHECK_NEAR(part[k].moment[i], whole.moment[i], 1e-5 * whole.moment[i]);
            for (d = 0; d < part[k].width; d++) CHECK_NEAR(part[k].row[i * part[k].width + d], whole.row[i * D + first[k] + d], 1e-5);
        }
        CHECK(memcmp(part[k].moment, part[0].moment, 51 * sizeof(float)) == 0);
    }
    for (k = 0; k < PARTS; k++) {
        free(squares[k]);
        free(gradient[k]);
        encoder_free(&part[k]);
    }
    encoder_free(&whole);
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
    RUN(feature_weights);
    RUN(standard_values);
    RUN(schedules);
    RUN(extreme_values);
    RUN(most_labels);
    RUN(held_out);
    RUN(encoder_gradient);
    RUN(encoder_threads);
    RUN(encoder_slices);
    RUN(command_line);
    return check_end();
}
