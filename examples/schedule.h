/* schedule.h: how long, and how strongly, the parts of a layer train, for haste-train: frequent labels want fewer passes than rare ones.

   Where nothing is to be chosen, learning rates rise over the warm-up and follow half a cosine to 0. Else
   a layer has two parts: the dense head, and the labels in groups. A part's learning rate rises over the warm-up, stays, and then falls
   to 0 in a straight line, in half as many steps as it stayed. It falls from when the part's score on documents held out
   has not been better in SCHEDULE_PATIENCE looks in a row, and at the latest after `stay` steps. Once both fall there is nothing left
   to choose, so that the documents held out can be trained on as well. */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include "haste.h"

#include <math.h>

#define SCHEDULE_PATIENCE 2
#define SCHEDULE_PARTS    2   /* the head, the groups */

/* Kept in a model's progress: 64-bit numbers only. */
typedef struct schedule {
    int64_t warmup, stay;             /* steps; stay 0: half a cosine */
    int64_t total;                    /* steps at most */
    int64_t fall[SCHEDULE_PARTS];     /* the step from which the part's rate falls; `stay` as long as nothing else is known */
    int64_t worse[SCHEDULE_PARTS];    /* looks since the best */
    double  best[SCHEDULE_PARTS];     /* the best score so far */
} schedule;

static inline void schedule_begin(schedule *s, int64_t total, int64_t warmup, int choose)
{
    int part;
    memset(s, 0, sizeof *s);
    s->total = total > 0 ? total : 1;
    s->warmup = warmup;
    s->stay = choose ? s->total - s->total / 3 : 0;
    for (part = 0; part < SCHEDULE_PARTS; part++) s->fall[part] = s->stay;
}

#define SCHEDULE_MOST (INT64_C(1) << 53)

/* Can these numbers, read from a file, be a plan, or all 0: none yet? */
static inline int schedule_good(const schedule *s)
{
    int part, good = s->total >= 0 && s->total <= SCHEDULE_MOST && s->warmup >= 0 && s->warmup <= SCHEDULE_MOST &&
                     s->stay >= 0 && s->stay <= s->total;
    for (part = 0; part < SCHEDULE_PARTS; part++)
        good = good && s->fall[part] >= 0 && s->fall[part] <= s->stay && s->worse[part] >= 0 &&
               s->worse[part] <= SCHEDULE_MOST && s->best[part] >= 0 && s->best[part] <= 1e300;
    return good;
}

/* The step behind the last one. */
static inline int64_t schedule_end(const schedule *s)
{
    const int64_t fall = s->fall[0] > s->fall[1] ? s->fall[0] : s->fall[1];
    return fall >= s->stay ? s->total : fall + (fall + 1) / 2;
}

/* What a part's learning rate is multiplied by in a step: 0 .. 1, and at least `floor` after the warm-up. */
static inline double schedule_factor(const schedule *s, int part, int64_t step, double floor)
{
    const int64_t fall = s->fall[part], end = fall >= s->stay ? s->total : fall + (fall + 1) / 2;
    const double left = step < fall ? 1 : step >= end ? 0 :
                        s->stay == 0 ? .5 + .5 * cos(3.14159265358979323846 * (double)step / (double)end) :
                        (double)(end - step) / (double)(end - fall);
    const double up = step < s->warmup ? (double)(step + 1) / (double)(s->warmup + 1) : 1;
    return up * (left > floor ? left : floor);
}

static inline double schedule_largest(const schedule *s, int64_t step, double floor)
{
    const double head = schedule_factor(s, 0, step, floor), groups = schedule_factor(s, 1, step, floor);
    return head > groups ? head : groups;
}

/* Do both parts' rates fall? */
static inline int schedule_chosen(const schedule *s, int64_t step) { return step >= s->fall[0] && step >= s->fall[1]; }

/* After `step` steps, with the parts' scores on the documents held out. A layer of one part has one score. */
static inline void schedule_look(schedule *s, int64_t step, int parts, const double *score)
{
    int part;
    for (part = 0; part < parts; part++) {
        if (score[part] > s->best[part]) {
            s->best[part] = score[part];
            s->worse[part] = 0;
        } else s->worse[part]++;
        if (s->worse[part] >= SCHEDULE_PATIENCE && step < s->fall[part] && step > s->warmup) s->fall[part] = step;
    }
    if (parts == 1) s->fall[1] = s->fall[0];
}

/* Adds to score [SCHEDULE_PARTS] what B documents' best labels are worth: 1 / log2(rank + 1) for each that is right. Slots below
   `head` are the head's. */
static inline void schedule_score(double *score, const int32_t *top, int32_t B, int32_t k, const haste_lists *truth,
                                  const int32_t *slot_of, int64_t head)
{
    int32_t b, i;
    int64_t j;
    for (b = 0; b < B; b++)
        for (i = 0; i < k; i++)
            for (j = truth->offset[b]; j < truth->offset[b + 1]; j++)
                if (truth->id[j] == top[(int64_t)b * k + i]) {
                    score[slot_of[truth->id[j]] >= head] += 1 / log2(i + 2.0);
                    break;
                }
}

/* Passes over n documents at most, where the user leaves it to us: what small data can use before they are learnt by heart, and large
   ones before they take too long. */
static inline double schedule_passes(double n, int tail)
{
    const double passes = 2 * pow(6e5 / n, .4), more = tail ? 3 : 2.4e6 / n < 15 ? 2.4e6 / n : 15, least = more > 3 ? more : 3;
    return passes < least ? least : passes > 60 ? 60 : passes;
}

/* Is something chosen from documents held out? Of few a twentieth says little, and without a tail a few passes too many cost less than
   too few. Of many, four passes or fewer are all wanted: half a cosine over three was better by a point (finna-yso-en, arxiv-authors). */
static inline int64_t schedule_fewest(int tail) { return tail ? 3000 : 20000; }
static inline int schedule_chooses(int64_t n, int tail) { return n >= schedule_fewest(tail) && schedule_passes((double)n, tail) > 4; }

#endif /* SCHEDULE_H */
