/* Rewiring: what goes, what comes, what stays; against slow versions in double that know nothing of the library's own way. */
#include <stddef.h>

static void *counting_malloc(size_t bytes);
static void  counting_free(void *memory);
#define HASTE_MALLOC(bytes) counting_malloc(bytes)
#define HASTE_FREE(memory)  counting_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"
#include "layers.h"

static int    held, calls, fail_at = -1;
static size_t last_bytes;
static void *counting_malloc(size_t bytes)
{
    void *p = calls == fail_at ? NULL : malloc(bytes);
    if (p) held++;
    calls++;
    last_bytes = bytes;
    return p;
}
static void counting_free(void *memory) { if (memory) held--; free(memory); }

static const haste_loss  losses[] = { HASTE_BCE, HASTE_SQUARED_HINGE, HASTE_SOFTMAX };

static haste_rewire_options rewire_options(float share, haste_prune prune, haste_scope scope, haste_growth growth)
{
    haste_rewire_options options;
    memset(&options, 0, sizeof options);
    options.share = share;
    options.prune = prune;
    options.scope = scope;
    options.growth = growth;
    return options;
}

/* One block of `groups` full groups. */
static haste_layer_options one_block(int64_t groups, int32_t S, int32_t F, int32_t D)
{
    haste_layer_options options;
    memset(&options, 0, sizeof options);
    options.labels = (int32_t)groups * S;
    options.inputs = D;
    options.block_count = 1;
    options.block[0].group_size = S;
    options.block[0].fan_in = F;
    options.seed = 11;
    return options;
}

/* Weights with few bits: sums over labels are then exact in any order and any precision, and ties are common. */
static void coarse_weights(haste_layer *layer, int levels)
{
    int32_t k;
    for (k = 0; k < layer->block_count; k++) {
        haste_block *block = &layer->block[k];
        int64_t S = block->group_size, F = block->fan_in, i;
        for (i = 0; i < block->groups * F * S; i++) {
            int64_t slot = i / (F * S) * S + i % S;
            float value = (float)((int32_t)(check_random() % (uint32_t)(2 * levels + 1)) - levels) / 64;
            test_put(layer->dtype, block->weight, (size_t)i, slot < block->labels ? value : 0);
        }
    }
}

static int place_of(const haste_block *block, int64_t g, int input)   /* of an input in a group, or -1 */
{
    int32_t f;
    for (f = 0; f < block->fan_in; f++) if (block->index[g * block->fan_in + f] == input) return (int)f;
    return -1;
}

static int64_t lower(double share, int64_t n)   /* floor, for shares with one or two decimals */
{
    return (int64_t)floor(share * (double)n + 1e-4);
}

static int64_t limit_of(const haste_block *block, const haste_rewire_options *o)
{
    int64_t limit = lower(o->group_share > 0 ? (double)o->group_share : .5, block->fan_in);
    if (limit > block->end - block->begin - block->fan_in) limit = block->end - block->begin - block->fan_in;
    if (o->scope == HASTE_SCOPE_BLOCK || limit <= lower((double)o->share, block->fan_in)) return limit;
    return lower((double)o->share, block->fan_in);
}

/* Adds mean |w|, or mean |w * gradient|, of every place of a block. gradient: of haste_backward_ref, or NULL. */
static void place_scores(const haste_layer *layer, int32_t k, const double *gradient, double *score)
{
    const haste_block *block = &layer->block[k];
    int64_t S = block->group_size, p, s;
    for (p = 0; p < block->groups * block->fan_in; p++) {
        int64_t g = p / block->fan_in, labels = block->labels - g * S < S ? block->labels - g * S : S;
        double sum = 0;
        for (s = 0; s < labels; s++)
            sum += fabs((double)test_get(layer->dtype, block->weight, (size_t)(p * S + s)) * (gradient ? gradient[p * S + s] : 1));
        score[p] += sum / (double)labels;
    }
}

typedef struct { double score; int64_t place; } scored;
static int scored_order(const void *a, const void *b)
{
    const scored *x = (const scored *)a, *y = (const scored *)b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->place < y->place ? -1 : 1;
}

/* Which places must go: all places of the block from the lowest score on, until there are enough; full groups are passed over. */
static int64_t expected_moves(const haste_block *block, const haste_rewire_options *o, const double *score, char *moves)
{
    int64_t F = block->fan_in, places = block->groups * F, p, n = 0, limit = limit_of(block, o);
    int64_t most = o->scope == HASTE_SCOPE_BLOCK ? lower((double)o->share, places) : places;
    scored *list = (scored *)test_alloc((size_t)places * sizeof *list);
    int64_t *group = (int64_t *)test_zeros((size_t)block->groups * sizeof *group);
    for (p = 0; p < places; p++) { list[p].score = score[p]; list[p].place = p; moves[p] = 0; }
    qsort(list, (size_t)places, sizeof *list, scored_order);
    for (p = 0; p < places && n < most; p++) {
        int64_t at = list[p].place;
        if (group[at / F] >= limit) continue;
        group[at / F]++;
        moves[at] = 1;
        n++;
    }
    free(list);
    free(group);
    return n;
}

/* For scores that the library rounds otherwise than we do: no place that went scores clearly above one that stayed and could have
   gone instead. */
static void check_lowest(const haste_block *block, const haste_rewire_options *o, const double *score, const char *moves)
{
    int64_t F = block->fan_in, g, f, limit = limit_of(block, o);
    double largest_moved = -1, smallest_free = HUGE_VAL;
    for (g = 0; g < block->groups; g++) {
        double moved = -1, kept = HUGE_VAL;
        int64_t n = 0;
        for (f = 0; f < F; f++) {
            double v = score[g * F + f];
            if (moves[g * F + f]) { n++; if (v > moved) moved = v; }
            else if (v < kept) kept = v;
        }
        CHECK(n <= limit);
        CHECK(moved <= kept * (1 + 1e-4) + 1e-9);
        if (moved > largest_moved) largest_moved = moved;
        if (n < limit && kept < smallest_free) smallest_free = kept;
    }
    CHECK(largest_moved <= smallest_free * (1 + 1e-4) + 1e-9);
}

/* Adds mean |gradient| of every input of the slice for one group. */
static void input_scores(const haste_layer *layer, const haste_block *block, int64_t g, const float *x, int32_t B,
                         const double *slope, double *score)
{
    int64_t S = block->group_size, labels = block->labels - g * S < S ? block->labels - g * S : S, s, b;
    int32_t c;
    for (c = 0; c < block->end - block->begin; c++) {
        for (s = 0; s < labels; s++) {
            double sum = 0;
            for (b = 0; b < B; b++)
                sum += slope[b * layer->slots + block->first_slot + g * S + s] * (double)x[b * layer->inputs + block->begin + c];
            score[c] += fabs(sum) / (double)labels;
        }
    }
}

/* Adds a batch's scores: saliency[k] [G, F] of places, growth[k] [G, width] of all inputs. */
static void reference_scores(const haste_layer *layer, const test_batch *batch, const haste_loss_options *options, double **saliency,
                             double **growth)
{
    double *logits = test_doubles((size_t)batch->B * (size_t)layer->slots), *slope = test_doubles((size_t)batch->B * (size_t)layer->slots);
    double *gradient[HASTE_MAX_BLOCKS], loss;
    int32_t k;
    int64_t g;
    memset(gradient, 0, sizeof gradient);
    for (k = 0; k < layer->block_count; k++) gradient[k] = test_doubles((size_t)test_weights(&layer->block[k]));
    haste_forward_ref(layer, batch->x, batch->B, logits);
    haste_loss_ref(layer, logits, batch->B, &batch->positives, options, &loss, slope);
    haste_backward_ref(layer, batch->x, batch->B, slope, gradient, NULL, NULL);
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *b = &layer->block[k];
        place_scores(layer, k, gradient[k], saliency[k]);
        for (g = 0; g < b->groups; g++) input_scores(layer, b, g, batch->x, batch->B, slope, growth[k] + g * (b->end - b->begin));
        free(gradient[k]);
    }
    free(logits);
    free(slope);
}

static void new_scores(const haste_layer *layer, double **saliency, double **growth)
{
    int32_t k;
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *b = &layer->block[k];
        saliency[k] = test_doubles((size_t)(b->groups * b->fan_in));
        growth[k] = test_doubles((size_t)(b->groups * (b->end - b->begin)));
    }
}

static void free_scores(const haste_layer *layer, double **saliency, double **growth)
{
    int32_t k;
    for (k = 0; k < layer->block_count; k++) { free(saliency[k]); free(growth[k]); }
}

/* Everything that must hold between a layer and what one call made of it, from the scores of `batches` batches. With options->scores
   only groups of its range may have changed. */
static void check_rewired(const haste_layer *before, const haste_layer *after, const haste_rewire_options *o, const test_batch *batch,
                          int batches, int64_t moved)
{
    double *saliency[HASTE_MAX_BLOCKS], *growth[HASTE_MAX_BLOCKS];
    int64_t total = 0;
    int32_t k;
    int state, i;
    CHECK_STATUS(haste_layer_check(after, &test_error), HASTE_OK, test_error);
    CHECK(after->rewires == before->rewires + 1 && after->step == before->step);
    CHECK(memcmp(before->label_of, after->label_of, (size_t)before->slots * 4) == 0);
    CHECK(memcmp(before->slot_of, after->slot_of, (size_t)before->labels * 4) == 0);
    new_scores(before, saliency, growth);
    for (i = 0; i < batches; i++) reference_scores(before, batch + i, NULL, saliency, growth);
    for (k = 0; k < before->block_count; k++) {
        const haste_block *b = &before->block[k], *a = &after->block[k];
        int64_t S = b->group_size, F = b->fan_in, places = b->groups * F, g, f, p, wanted, n = 0;
        int32_t width = b->end - b->begin, c;
        int64_t first = 0, last = b->groups;
        haste_block part = *b;
        double *score = o->prune == HASTE_PRUNE_SALIENCY ? saliency[k] : test_doubles((size_t)places);
        char *moves = (char *)test_zeros((size_t)places), *expected = (char *)test_zeros((size_t)places);
        CHECK(a->fan_in == b->fan_in && a->groups == b->groups);
        CHECK(memcmp(a->bias, b->bias, (size_t)test_places(b) * 4) == 0);
        for (state = 0; state < 2; state++)
            if (b->bias_state[state]) CHECK(memcmp(a->bias_state[state], b->bias_state[state], (size_t)test_places(b) * 4) == 0);
        for (p = 0; p < places && F < width; p++) {
            moves[p] = place_of(a, p / F, b->index[p]) < 0;   /* a pruned input may not have come back, so this finds them all */
            n += moves[p];
        }
        total += n;
        if (o->prune == HASTE_PRUNE_MAGNITUDE) place_scores(before, k, NULL, score);
        if (o->scores) {
            int64_t from = o->scores->first_slot - b->first_slot, to = o->scores->end_slot - b->first_slot;
            first = from <= 0 ? 0 : from / S < b->groups ? from / S : b->groups;
            last = to <= 0 ? 0 : to / S < b->groups ? to / S : b->groups;
            if (last < first) last = first;
        }
        part.groups = last - first;
        wanted = part.groups > 0 ? expected_moves(&part, o, score + first * F, expected + first * F) : 0;
        CHECK(n == wanted);
        if (o->prune == HASTE_PRUNE_MAGNITUDE) CHECK(memcmp(moves, expected, (size_t)places) == 0);
        else check_lowest(&part, o, score + first * F, moves + first * F);
        for (p = 0; p < places; p++) if (moves[p]) CHECK(p / F >= first && p / F < last);

        for (g = 0; g < b->groups; g++) {
            int64_t labels = b->labels - g * S < S ? b->labels - g * S : S, s, grown = 0, went = 0;
            double smallest_grown = HUGE_VAL, largest_left = 0, largest = 0;
            const double *input_score = growth[k] + g * width;
            for (f = 0; f < F; f++) {
                int from = b->index ? place_of(b, g, a->index[g * F + f]) : (int)f;
                if (o->origin[k]) CHECK(o->origin[k][g * F + f] == from);
                went += moves[g * F + f];
                for (state = -1; state < 2; state++) {
                    const char *to = (const char *)(state < 0 ? a->weight : a->weight_state[state]);
                    const char *origin = (const char *)(state < 0 ? b->weight : b->weight_state[state]);
                    haste_dtype dtype = state < 0 ? before->dtype : before->state_dtype;
                    size_t row = (size_t)S * test_width(dtype), at = (size_t)(g * F + f);
                    int others = 0;
                    if (!to) continue;
                    if (from >= 0) { CHECK(memcmp(to + at * row, origin + (size_t)(g * F + from) * row, row) == 0); continue; }
                    for (s = 0; s < S; s++) {
                        float value = test_get(dtype, to, at * (size_t)S + (size_t)s);
                        if (state < 0 && o->uniform && s < labels) {
                            others += value != 0;
                            CHECK(fabs((double)value) <= (1 + 0x1p-8) / sqrt((double)F));
                        } else CHECK(value == 0);
                    }
                    if (state < 0 && o->uniform) CHECK(others > 0);
                }
                grown += from < 0;
            }
            CHECK(grown == went);
            if (o->growth == HASTE_GROW_RANDOM || grown == 0) continue;
            for (c = 0; c < width; c++) {
                if (input_score[c] > largest) largest = input_score[c];
                if (place_of(b, g, c) >= 0) continue;
                if (place_of(a, g, c) >= 0) { if (input_score[c] < smallest_grown) smallest_grown = input_score[c]; }
                else if (input_score[c] > largest_left) largest_left = input_score[c];
            }
            CHECK(smallest_grown >= largest_left - 1e-5 * largest);
        }
        if (score != saliency[k]) free(score);
        free(moves);
        free(expected);
    }
    CHECK(moved == total);
    free_scores(before, saliency, growth);
}

/* Room for origins, poisoned. */
static void new_origin(const haste_layer *layer, haste_rewire_options *o)
{
    int32_t k;
    int64_t p;
    for (k = 0; k < layer->block_count; k++) {
        const int64_t places = layer->block[k].groups * layer->block[k].fan_in;
        o->origin[k] = (int32_t *)test_alloc((size_t)places * sizeof(int32_t));
        for (p = 0; p < places; p++) o->origin[k][p] = -77;
    }
}

static void free_origin(haste_rewire_options *o)
{
    int k;
    for (k = 0; k < HASTE_MAX_BLOCKS; k++) { free(o->origin[k]); o->origin[k] = NULL; }
}

/* One call on a copy, checked. The copy takes the layer's place. */
static int64_t rewire_checked(haste_layer *layer, haste_workspace *work, const haste_rewire_options *options, const test_batch *batch)
{
    haste_layer before = test_copy(layer);
    haste_rewire_options o = *options;
    int64_t moved = -1;
    int needed = o.prune == HASTE_PRUNE_SALIENCY || o.growth == HASTE_GROW_GRADIENT;
    new_origin(layer, &o);
    CHECK_STATUS(haste_rewire(layer, work, &o, needed ? batch->x : NULL, needed ? batch->B : 0, needed ? &batch->positives : NULL,
                              &moved, &test_error), HASTE_OK, test_error);
    check_rewired(&before, layer, &o, batch, needed, moved);
    free_origin(&o);
    haste_layer_free(&before);
    return moved;
}

/* ---- subjects ---- */

/* All shapes, types and ways of choosing; magnitudes are coarse, so that ties decide much. */
static void magnitude_exactly(void)
{
    static const float shares[] = { 0, .02f, .3f, .7f, 1 }, caps[] = { 0, .2f, 1 };
    int i, type, share, cap;
    for (i = 0; i < TEST_SHAPES; i++) for (type = 0; type < 3; type++) {
        static const haste_optimizer optimizers[] = { HASTE_SGD, HASTE_MOMENTUM, HASTE_ADAMW };
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, optimizers[(i + type) % 3],
                                                   type ? HASTE_BF16 : HASTE_F32, type == 2 ? HASTE_BF16 : HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 1, 1 + type, HASTE_PATH_AUTO);
        for (share = 0; share < 5; share++) for (cap = 0; cap < 3; cap++) {
            haste_rewire_options o = rewire_options(shares[share], HASTE_PRUNE_MAGNITUDE, (haste_scope)((share + cap + type) % 2),
                                                    HASTE_GROW_RANDOM);
            o.group_share = caps[cap];
            o.uniform = (share + type) % 2;
            coarse_weights(&layer, 1 + share);
            rewire_checked(&layer, &work, &o, NULL);
        }
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* F = 4 of D = 8, S = 8 with one label each that counts; scores in 64ths:

       group 0:  1 1 9 1     group 1:  2 1 7 7     group 2:  5 5 5 5     share .5: six places

   At most half a group: group 0 gives places 0 and 1 (its third 1 must stay), group 1 gives 1 and 0, then group 2 its first two. */
static void by_hand(void)
{
    static const float score[12] = { 1, 1, 9, 1, 2, 1, 7, 7, 5, 5, 5, 5 };
    static const int goes[12] = { 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0 };
    haste_layer_options options = one_block(3, 8, 4, 8);
    haste_layer layer, before;
    haste_workspace work;
    haste_rewire_options o = rewire_options(.5f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_BLOCK, HASTE_GROW_RANDOM);
    int64_t moved = 0;
    int p, s;
    options.zero_weights = 1;
    layer = test_layer(&options);
    for (p = 0; p < 12; p++) for (s = 0; s < 8; s++) ((float *)layer.block[0].weight)[p * 8 + s] = s == p % 8 ? score[p] / 8 : 0;
    before = test_copy(&layer);
    work = test_workspace(&layer, 1, 1, HASTE_PATH_AUTO);
    CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_OK, test_error);
    CHECK(moved == 6);
    for (p = 0; p < 12; p++) CHECK((place_of(&layer.block[0], p / 4, before.block[0].index[p]) < 0) == goes[p]);
    haste_layer_free(&before);
    haste_layer_free(&layer);

    /* Without the cap group 0's third 1 goes too, and group 2 gives one less. */
    layer = test_layer(&options);
    for (p = 0; p < 12; p++) for (s = 0; s < 8; s++) ((float *)layer.block[0].weight)[p * 8 + s] = s == p % 8 ? score[p] / 8 : 0;
    before = test_copy(&layer);
    o.group_share = 1;
    CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_OK, test_error);
    CHECK(moved == 6);
    for (p = 0; p < 12; p++)
        CHECK((place_of(&layer.block[0], p / 4, before.block[0].index[p]) < 0) == (p == 3 ? 1 : p == 9 ? 0 : goes[p]));
    haste_workspace_free(&work);
    haste_layer_free(&before);
    haste_layer_free(&layer);
}

/* Saliency and gradient growth with all losses, against dense gradients in double. */
static void from_a_batch(void)
{
    static const int shapes[] = { 1, 3, 4, 6, 7, 9, 10, 11, 12 };
    static const int32_t batches[] = { 5, 33, 70 };
    int i, loss, n, path;
    for (path = 0; path < 2; path++) for (i = 0; i < 9; i++) for (loss = 0; loss < 3; loss++) for (n = 0; n < 3; n++) {
        int mode = (i + loss + n) % 3;   /* which of the two needs the batch, or both */
        haste_layer_options options = test_options(&test_shapes[shapes[i]], losses[loss], (haste_optimizer)((i + n) % 3),
                                                   n == 1 ? HASTE_BF16 : HASTE_F32, loss == 1 ? HASTE_BF16 : HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 70, 1 + n, path ? HASTE_PATH_PORTABLE : HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, batches[n]);
        haste_rewire_options o = rewire_options(n == 2 ? .9f : .15f, mode == 0 ? HASTE_PRUNE_MAGNITUDE : HASTE_PRUNE_SALIENCY,
                                                (haste_scope)(i % 2), mode == 1 ? HASTE_GROW_RANDOM : HASTE_GROW_GRADIENT);
        if (n == 0) o.group_share = 1;
        o.uniform = loss == 2;
        if (mode == 0) coarse_weights(&layer, 20);
        rewire_checked(&layer, &work, &o, &batch);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Hundreds of calls with training between: the layer stays a layer. */
static void many_times(void)
{
    int type, i;
    for (type = 0; type < 2; type++) {
        haste_layer_options options = test_options(&test_shapes[11], losses[type], type ? HASTE_ADAMW : HASTE_MOMENTUM,
                                                   type ? HASTE_BF16 : HASTE_F32, HASTE_F32);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 33, 2, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 33);
        haste_step_options step;
        memset(&step, 0, sizeof step);
        step.lr = .01f;
        for (i = 0; i < 200; i++) {
            haste_rewire_options o = rewire_options((float)(i % 7) / 7, (haste_prune)(i % 2), (haste_scope)(i / 2 % 2),
                                                    (haste_growth)(i / 4 % 2));
            o.group_share = (float)(i % 5) / 4;
            o.uniform = i / 8 % 2;
            CHECK_STATUS(haste_rewire(&layer, &work, &o, batch.x, batch.B, &batch.positives, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_layer_check(&layer, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_train_step(&layer, &work, batch.x, batch.B, &batch.positives, &step, NULL, NULL, &test_error), HASTE_OK,
                         test_error);
        }
        CHECK(layer.rewires == 200);
        CHECK(layer.block[1].fan_in == 8 && layer.block[2].fan_in == 12);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* Every input that is not in a group is as likely as the others. Drawing without replacement spreads even more evenly than the
   chi-square distribution says. */
static void random_growth_is_uniform(void)
{
    int kind;
    for (kind = 0; kind < 2; kind++) {   /* many groups once, and few groups often */
        haste_layer_options options = one_block(kind ? 3 : 1000, 8, 8, 40);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 1, 1, HASTE_PATH_AUTO);
        haste_rewire_options o = rewire_options(.5f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_GROUP, HASTE_GROW_RANDOM);
        static double count[3][32], pairs[32];   /* by place among the 32 that are not in the group; kind 1: of each group alone */
        int repeat, repeats = kind ? 1000 : 3, g, groups = kind ? 3 : 1000, rows = kind ? 3 : 1, row, c, i;
        memset(count, 0, sizeof count);
        memset(pairs, 0, sizeof pairs);
        for (repeat = 0; repeat < repeats; repeat++) {
            haste_layer before = test_copy(&layer);
            int64_t moved = 0;
            CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_OK, test_error);
            CHECK(moved == groups * 4);
            for (g = 0; g < groups; g++) {
                int n = 0, previous = -1;
                for (c = 0; c < 40; c++) {
                    if (place_of(&before.block[0], g, c) >= 0) continue;
                    if (place_of(&layer.block[0], g, c) >= 0) {
                        count[kind ? g : 0][n]++;
                        if (previous >= 0) pairs[n - previous]++;
                        previous = n;
                    }
                    n++;
                }
            }
            haste_layer_free(&before);
        }
        for (row = 0; row < rows; row++) {
            double expected = repeats * groups * 4 / (32.0 * rows), chi = 0;
            for (i = 0; i < 32; i++) chi += (count[row][i] - expected) * (count[row][i] - expected) / expected;
            CHECK(chi < 31 + 5 * sqrt(62.0));
        }
        {   /* distances of neighbours: d with probability C(32 - d, 3) / C(32, 4), as four drawn without preference have */
            double n = repeats * groups * 3, chi = 0;
            int bins = 0;
            for (i = 1; i <= 20; i++) {
                double expected = n * (32 - i) * (31 - i) * (30 - i) / 6 / 35960;
                chi += (pairs[i] - expected) * (pairs[i] - expected) / expected;
                bins++;
            }
            CHECK(chi < bins + 6 * sqrt(2.0 * bins));
        }
        haste_workspace_free(&work);
        haste_layer_free(&layer);
    }
}

/* The same bits from the same state on any number of threads, other ones from the next call or another seed. */
static void repeatable(void)
{
    int mode, threads, chunks;
    for (mode = 0; mode < 8; mode++) {
        haste_layer_options options = test_options(&test_shapes[11], losses[mode % 3], HASTE_ADAMW,
                                                   mode % 2 ? HASTE_BF16 : HASTE_F32, HASTE_BF16);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 40, 1, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 40);
        haste_rewire_options o = rewire_options(.3f, (haste_prune)(mode % 2), (haste_scope)(mode / 2 % 2), (haste_growth)(mode / 4));
        haste_layer first = test_copy(&layer);
        int64_t moved = 0, again = -1;
        o.uniform = 1;
        CHECK_STATUS(haste_rewire(&first, &work, &o, batch.x, 40, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
        CHECK(moved > 0);
        haste_workspace_free(&work);
        for (threads = 1; threads <= 3; threads++) for (chunks = 1; chunks < 40; chunks += 12) {
            haste_layer other = test_copy(&layer);
            haste_workspace_options work_options;
            memset(&work_options, 0, sizeof work_options);
            work_options.threads = threads;
            work_options.chunks = layer.loss == HASTE_SOFTMAX ? 5 : chunks;   /* the log-sum-exp depends on the chunks */
            CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_rewire(&other, &work, &o, batch.x, 40, &batch.positives, &again, &test_error), HASTE_OK, test_error);
            CHECK(again == moved);
            CHECK(test_difference(&first, &other) == NULL);
            haste_workspace_free(&work);
            haste_layer_free(&other);
        }
        work = test_workspace(&layer, 40, 1, HASTE_PATH_AUTO);
        {
            haste_layer next = test_copy(&layer), seed = test_copy(&layer);
            next.rewires++;
            seed.seed++;
            CHECK_STATUS(haste_rewire(&next, &work, &o, batch.x, 40, &batch.positives, NULL, &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_rewire(&seed, &work, &o, batch.x, 40, &batch.positives, NULL, &test_error), HASTE_OK, test_error);
            next.rewires = seed.rewires = first.rewires;
            CHECK(test_difference(&first, &next) != NULL);   /* by the weights, where growth follows the gradient */
            CHECK(test_difference(&first, &seed) != NULL);
            if (o.growth == HASTE_GROW_RANDOM) {
                const haste_block *block = &first.block[2];
                size_t bytes = (size_t)(block->groups * block->fan_in) * 2;
                CHECK(memcmp(block->index, next.block[2].index, bytes) != 0);
                CHECK(memcmp(block->index, seed.block[2].index, bytes) != 0);
            }
            haste_layer_free(&next);
            haste_layer_free(&seed);
        }
        haste_workspace_free(&work);
        haste_layer_free(&first);
        haste_layer_free(&layer);
        test_free_batch(&batch);
    }
}

/* Scores summed over batches, against sums in double, for all groups or a range; the layer stays as it is. Then they move what sums
   in double would move. Some columns of x are 0 throughout. */
static void scores_of_batches(void)
{
    static const int shapes[] = { 0, 1, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14 };
    static const int32_t batches[3] = { 5, 33, 70 };
    static const haste_path paths[] = { HASTE_PATH_AUTO, HASTE_PATH_PORTABLE, HASTE_PATH_AVX2 };
    int i, loss, path;
    for (path = 0; path < 3; path++) for (i = 0; i < 12; i++) for (loss = 0; loss < 3; loss++) {
        const int mode = (i + loss + path) % 6, type = (i + loss) % 2;
        haste_layer_options options = test_options(&test_shapes[shapes[i]], losses[loss], (haste_optimizer)((i + path) % 3),
                                                   type ? HASTE_BF16 : HASTE_F32, path ? HASTE_BF16 : HASTE_F32);
        haste_layer layer, before;
        haste_workspace work;
        haste_input_scores scores;
        haste_rewire_options o = rewire_options(.3f, (haste_prune)(mode % 2), (haste_scope)(mode / 2 % 2),
                                                mode < 3 ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM);
        haste_loss_options extra;
        float weight[70];
        test_batch batch[3];
        double *saliency[HASTE_MAX_BLOCKS], *growth[HASTE_MAX_BLOCKS];
        int64_t first = 0, end = 0, moved = -1, g, n;
        int32_t k, c, b;
        int with, changing = 0;
        if (!haste__path_kernels(paths[path] == HASTE_PATH_AUTO ? haste_path_best() : paths[path])) continue;
        layer = test_layer(&options);
        work = test_workspace(&layer, 70, 1 + loss, paths[path]);
        if (loss == 1 && layer.block[0].groups > 1) {   /* a range: from the second group into the last block */
            const haste_block *last = &layer.block[layer.block_count - 1];
            first = layer.block[0].group_size;
            end = last->first_slot + (last->groups + 1) / 2 * last->group_size;
            if (end <= first) end = layer.slots;
        }
        for (k = 0; k < layer.block_count; k++)
            changing |= layer.block[k].index && layer.block[k].fan_in < layer.block[k].end - layer.block[k].begin;
        new_scores(&layer, saliency, growth);
        CHECK_STATUS(haste_input_scores_create(&scores, &layer, first, end, &test_error), HASTE_OK, test_error);
        CHECK(scores.first_slot == first && scores.end_slot == (end ? end : layer.slots) && scores.batches == 0);
        before = test_copy(&layer);
        memset(&extra, 0, sizeof extra);
        for (b = 0; b < 70; b++) weight[b] = (float)(b % 4) / 2;
        extra.sample_weight = weight;
        extra.scale = .05;
        if (loss == 2) extra.smoothing = .1f;
        else extra.negligible = .01f;
        with = i % 2;   /* options in the second batch */
        for (n = 0; n < 3; n++) {
            batch[n] = test_make_batch(&layer, batches[n]);
            for (b = 0; b < batches[n]; b++)
                for (c = (int32_t)(n == 1); c < layer.inputs; c += 3) batch[n].x[b * layer.inputs + c] = 0;
            memset(work.memory, 0xff, work.bytes);
            CHECK_STATUS(haste_score_inputs(&layer, &work, batch[n].x, batch[n].B, &batch[n].positives, n == 1 && with ? &extra : NULL,
                                            &scores, &test_error), HASTE_OK, test_error);
            reference_scores(&layer, &batch[n], n == 1 && with ? &extra : NULL, saliency, growth);
        }
        CHECK_STATUS(haste_score_inputs(&layer, &work, NULL, 0, NULL, NULL, &scores, &test_error), HASTE_OK, test_error);
        CHECK(scores.batches == 3 && test_difference(&layer, &before) == NULL);
        for (k = 0; k < layer.block_count; k++) {
            const haste_block *block = &layer.block[k];
            const int32_t width = block->end - block->begin;
            const float *row = scores.score[k];
            if (block->fan_in == width) { CHECK(row == NULL); continue; }
            for (g = 0; g < block->groups; g++) {
                const int64_t slot = block->first_slot + g * block->group_size;
                double largest = 0;
                if (slot < scores.first_slot || slot >= scores.end_slot) continue;
                for (c = 0; c < width; c++) if (growth[k][g * width + c] > largest) largest = growth[k][g * width + c];
                for (c = 0; c < width; c++) {
                    const int place = place_of(block, g, c);
                    const double wanted = place < 0 ? growth[k][g * width + c] : saliency[k][g * block->fan_in + place];
                    if (wanted == 0) CHECK(row[c] == 0);
                    else CHECK_NEAR(row[c], wanted, 2e-5 * (largest + wanted) + 1e-12);
                }
                row += width;
            }
        }

        /* The same bits for other threads; a range has those of the whole; garbage in the workspace is nobody's business. */
        {
            haste_input_scores again;
            haste_workspace other = test_workspace(&layer, 70, 3, paths[path]);
            CHECK_STATUS(haste_input_scores_create(&again, &layer, 0, layer.slots, &test_error), HASTE_OK, test_error);
            for (n = 0; n < 3; n++) {
                CHECK_STATUS(haste_score_inputs(&layer, &other, batch[n].x, batch[n].B, &batch[n].positives,
                                                n == 1 && with ? &extra : NULL, &again, &test_error), HASTE_OK, test_error);
            }
            for (k = 0; k < layer.block_count; k++) {
                const haste_block *block = &layer.block[k];
                const int64_t width = block->end - block->begin;
                int64_t skip = (scores.first_slot - block->first_slot) / block->group_size, last;
                if (!scores.score[k]) continue;
                if (skip < 0 || scores.first_slot < block->first_slot) skip = 0;
                last = (scores.end_slot - block->first_slot) / block->group_size;
                if (last > block->groups) last = block->groups;
                CHECK(memcmp(scores.score[k], again.score[k] + skip * width, (size_t)((last - skip) * width) * sizeof(float)) == 0);
            }
            haste_input_scores_free(&again);
            haste_workspace_free(&other);
        }
        if (!with) {
            o.scores = &scores;
            new_origin(&layer, &o);
            CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, -5, NULL, &moved, &test_error), HASTE_OK, test_error);
            check_rewired(&before, &layer, &o, batch, 3, moved);
            CHECK(scores.batches == 0 && (moved > 0 || !changing || options.labels < 10 || i > 9));
            for (k = 0; k < layer.block_count; k++)
                for (n = 0; scores.score[k] && n < layer.block[k].end - layer.block[k].begin; n++) CHECK(scores.score[k][n] == 0);
            free_origin(&o);
        }
        for (n = 0; n < 3; n++) test_free_batch(&batch[n]);
        free_scores(&layer, saliency, growth);
        haste_input_scores_free(&scores);
        CHECK(scores.memory == NULL);
        haste_workspace_free(&work);
        haste_layer_free(&before);
        haste_layer_free(&layer);
    }
}

/* The scores of one batch move what that batch moves by itself: bit for bit. */
static void scores_of_one_batch(void)
{
    int mode, loss;
    for (loss = 0; loss < 3; loss++) for (mode = 1; mode < 8; mode++) {
        haste_layer_options options = test_options(&test_shapes[11], losses[loss], HASTE_ADAMW, mode % 2 ? HASTE_BF16 : HASTE_F32,
                                                   HASTE_F32);
        haste_layer layer = test_layer(&options), other = test_copy(&layer);
        haste_workspace work = test_workspace(&layer, 40, 2, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 40);
        haste_rewire_options o = rewire_options(.3f, (haste_prune)(mode % 2), (haste_scope)(mode / 2 % 2), (haste_growth)(mode / 4));
        haste_input_scores scores;
        int64_t moved = 0, again = -1;
        o.uniform = mode % 2;
        CHECK_STATUS(haste_rewire(&layer, &work, &o, batch.x, 40, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_input_scores_create(&scores, &other, 0, 0, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_score_inputs(&other, &work, batch.x, 40, &batch.positives, NULL, &scores, &test_error), HASTE_OK, test_error);
        o.scores = &scores;
        CHECK_STATUS(haste_rewire(&other, &work, &o, NULL, 0, NULL, &again, &test_error), HASTE_OK, test_error);
        CHECK(moved > 0 && again == moved && test_difference(&layer, &other) == NULL);
        haste_input_scores_free(&scores);
        test_free_batch(&batch);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&other);
    }
}

/* Scores of another range, and gradients, are not used once a range was rewired or inputs were chosen; zeroed, scores count anew. */
static void stale_scores(void)
{
    haste_layer_options options = one_block(200, 8, 6, 30);
    haste_layer layer = test_layer(&options);
    haste_workspace work = test_workspace(&layer, 5, 2, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, 5);
    haste_input_scores scores[2], fresh;
    haste_gradient gradient;
    haste_rewire_options o = rewire_options(.3f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_BLOCK, HASTE_GROW_GRADIENT);
    haste_step_options step;
    haste_rows rows;
    static float row[30] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 };
    int64_t moved;
    int i;
    memset(&step, 0, sizeof step);
    memset(&rows, 0, sizeof rows);
    step.lr = .1f;
    rows.dense = row;
    CHECK_STATUS(haste_gradient_create(&gradient, &layer, &test_error), HASTE_OK, test_error);
    for (i = 0; i < 2; i++) {
        CHECK_STATUS(haste_input_scores_create(&scores[i], &layer, i * 800, 800 + i * 800, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_score_inputs(&layer, &work, batch.x, 5, &batch.positives, NULL, &scores[i], &test_error), HASTE_OK, test_error);
    }
    o.scores = &scores[0];
    CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_OK, test_error);
    o.scores = &scores[1];
    CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_score_inputs(&layer, &work, batch.x, 5, &batch.positives, NULL, &scores[1], &test_error), HASTE_ERR_STATE,
                 test_error);
    CHECK_STATUS(haste_input_scores_zero(&scores[1], &layer, &test_error), HASTE_OK, test_error);
    CHECK(scores[1].batches == 0);
    CHECK_STATUS(haste_score_inputs(&layer, &work, batch.x, 5, &batch.positives, NULL, &scores[1], &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_input_scores_create(&fresh, &layer, 800, 1600, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_score_inputs(&layer, &work, batch.x, 5, &batch.positives, NULL, &fresh, &test_error), HASTE_OK, test_error);
    CHECK(memcmp(fresh.score[0], scores[1].score[0], 100 * 30 * sizeof(float)) == 0);

    CHECK_STATUS(haste_accumulate(&layer, &work, batch.x, 5, &batch.positives, &step, &gradient, NULL, NULL, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_choose_inputs(&layer, NULL, 1, &rows, 1, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_apply(&layer, &work, &gradient, &step, &test_error), HASTE_ERR_STATE, test_error);
    CHECK_STATUS(haste_input_scores_zero(NULL, &layer, &test_error), HASTE_ERR_ARG, test_error);
    CHECK_STATUS(haste_input_scores_zero(&fresh, NULL, &test_error), HASTE_ERR_ARG, test_error);
    for (i = 0; i < 2; i++) haste_input_scores_free(&scores[i]);
    haste_input_scores_free(&fresh);
    haste_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
}

/* Of x only columns 5 and 20 are not 0: gradient growth takes both, and the rest at random: each of the others as often. */
static void zero_scores_are_drawn(void)
{
    haste_layer_options options = one_block(1000, 8, 8, 40);
    haste_layer layer = test_layer(&options), before = test_copy(&layer), other = test_copy(&layer);
    haste_workspace work = test_workspace(&layer, 3, 1, HASTE_PATH_AUTO), threads = test_workspace(&layer, 3, 3, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, 3);
    haste_rewire_options o = rewire_options(.5f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_GROUP, HASTE_GROW_GRADIENT);
    double count[40], free_places[40], chi = 0;
    int64_t moved = 0;
    int g, c, b;
    memset(count, 0, sizeof count);
    memset(free_places, 0, sizeof free_places);
    for (b = 0; b < 3; b++) for (c = 0; c < 40; c++) if (c != 5 && c != 20) batch.x[b * 40 + c] = 0;
    CHECK_STATUS(haste_rewire(&layer, &work, &o, batch.x, 3, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
    CHECK(moved == 4000);
    check_rewired(&before, &layer, &o, &batch, 1, moved);
    CHECK_STATUS(haste_rewire(&other, &threads, &o, batch.x, 3, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &other) == NULL);
    for (g = 0; g < 1000; g++) {
        int live = 0, n = 0;
        for (c = 5; c <= 20; c += 15) {
            if (place_of(&before.block[0], g, c) >= 0) continue;
            CHECK(place_of(&layer.block[0], g, c) >= 0);
            live++;
        }
        for (c = 0; c < 40; c++) n += place_of(&before.block[0], g, c) < 0;
        for (c = 0; c < 40; c++) {
            if (c == 5 || c == 20 || place_of(&before.block[0], g, c) >= 0) continue;
            free_places[c] += (4 - live) / (double)(n - live);
            count[c] += place_of(&layer.block[0], g, c) >= 0;
        }
    }
    for (c = 0; c < 40; c++)
        if (c != 5 && c != 20) chi += (count[c] - free_places[c]) * (count[c] - free_places[c]) / free_places[c];
    CHECK(chi < 37 + 5 * sqrt(74.0));
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_workspace_free(&threads);
    haste_layer_free(&layer);
    haste_layer_free(&before);
    haste_layer_free(&other);
}

/* A call that must fail and leave everything as it was. */
#define REFUSED(call, status_wanted)                                                                                   \
    do {                                                                                                               \
        moved = -5;                                                                                                    \
        test_error.text[0] = 0;                                                                                        \
        CHECK_STATUS(call, status_wanted, test_error);                                                                 \
        CHECK(test_error.text[0] != 0 && test_error.status == (status_wanted));                                        \
        CHECK(moved == -5);                                                                                            \
        CHECK(test_difference(&layer, &before) == NULL);                                                               \
        CHECK(held == held_before);                                                                                    \
    } while (0)

static void errors(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_BCE, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
    haste_layer_options small_options = one_block(3, 8, 4, 8);
    haste_layer layer = test_layer(&options), before = test_copy(&layer), small = test_layer(&small_options);
    haste_workspace work = test_workspace(&layer, 10, 1, HASTE_PATH_AUTO), none, tiny = test_workspace(&small, 10, 1, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, 10), large = test_make_batch(&layer, 11);
    const haste_rewire_options plain = rewire_options(.3f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_BLOCK, HASTE_GROW_RANDOM);
    const haste_rewire_options salient = rewire_options(.3f, HASTE_PRUNE_SALIENCY, HASTE_SCOPE_BLOCK, HASTE_GROW_RANDOM);
    const haste_rewire_options grow = rewire_options(.3f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_GROUP, HASTE_GROW_GRADIENT);
    haste_rewire_options o;
    haste_lists bad, none_lists;
    int32_t bad_id[1] = { 200 };
    int64_t bad_offset[11], moved, i;
    int held_before = held;
    float keep;
    memset(&none, 0, sizeof none);
    memset(&none_lists, 0, sizeof none_lists);
    REFUSED(haste_rewire(NULL, &work, &plain, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_rewire(&layer, NULL, &plain, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_rewire(&layer, &none, &plain, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_rewire(&layer, &work, NULL, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_rewire(&layer, &tiny, &plain, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_SIZE);
    REFUSED(haste_rewire(&layer, &tiny, &grow, batch.x, 10, &batch.positives, &moved, &test_error), HASTE_ERR_SIZE);
    for (i = 0; i < 6; i++) {
        float wrong = i % 3 == 0 ? -.01f : i % 3 == 1 ? 1.01f : HUGE_VALF - HUGE_VALF;   /* HASTE_NONE is -1 */
        o = plain;
        if (i < 3) o.share = wrong; else o.group_share = wrong;
        REFUSED(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    }
    for (i = 0; i < 3; i++) {   /* bytes, since C++ has no enum with a value of none */
        int unknown = 2;
        o = plain;
        memcpy(i == 0 ? (void *)&o.prune : i == 1 ? (void *)&o.scope : (void *)&o.growth, &unknown, sizeof unknown);
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, &batch.positives, &moved, &test_error), HASTE_ERR_ARG);
    }
    for (i = 0; i < 2; i++) {
        o = i ? salient : grow;
        REFUSED(haste_rewire(&layer, &work, &o, NULL, 10, &batch.positives, &moved, &test_error), HASTE_ERR_ARG);
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, -1, &batch.positives, &moved, &test_error), HASTE_ERR_ARG);
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, NULL, &moved, &test_error), HASTE_ERR_ARG);
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, &none_lists, &moved, &test_error), HASTE_ERR_ARG);
        REFUSED(haste_rewire(&layer, &work, &o, large.x, 11, &large.positives, &moved, &test_error), HASTE_ERR_SIZE);
        keep = batch.x[77];
        batch.x[77] = HUGE_VALF;
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, &batch.positives, &moved, &test_error), HASTE_ERR_DATA);
        batch.x[77] = keep;
    }
    memset(bad_offset, 0, sizeof bad_offset);
    bad.offset = bad_offset;
    bad.id = bad_id;
    bad_offset[10] = 1;
    REFUSED(haste_rewire(&layer, &work, &grow, batch.x, 10, &bad, &moved, &test_error), HASTE_ERR_DATA);
    bad_id[0] = 0;
    bad_offset[3] = 5;
    REFUSED(haste_rewire(&layer, &work, &grow, batch.x, 10, &bad, &moved, &test_error), HASTE_ERR_DATA);
    bad_offset[3] = 0;

    for (i = 0; i < 2; i++) {   /* the one allocation fails */
        calls = 0;
        fail_at = 0;
        o = i ? grow : plain;
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, &batch.positives, &moved, &test_error), HASTE_ERR_MEMORY);
        fail_at = -1;
        CHECK(calls == 1);
    }

    /* No samples: nothing to judge by, nothing happens; the layer and the rest are checked all the same. */
    for (i = 0; i < 2; i++) {
        o = i ? salient : grow;
        moved = -5;
        CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_OK, test_error);
        CHECK(moved == 0 && test_difference(&layer, &before) == NULL);
        CHECK_STATUS(haste_rewire(&layer, &work, &o, NULL, 0, NULL, NULL, NULL), HASTE_OK, test_error);
        REFUSED(haste_rewire(NULL, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
        REFUSED(haste_rewire(&layer, NULL, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_ARG);
    }

    /* The batch is not read where nothing needs it. */
    moved = 0;
    CHECK_STATUS(haste_rewire(&layer, &work, &plain, NULL, -3, &bad, &moved, &test_error), HASTE_OK, test_error);
    CHECK(moved > 0);
    CHECK_STATUS(haste_rewire(&layer, &work, &plain, NULL, 0, NULL, NULL, NULL), HASTE_OK, test_error);
    CHECK(haste_rewire(&layer, &work, NULL, NULL, 0, NULL, NULL, NULL) == HASTE_ERR_ARG);
    CHECK(held == held_before);
    test_free_batch(&batch);
    test_free_batch(&large);
    haste_workspace_free(&work);
    haste_workspace_free(&tiny);
    haste_layer_free(&layer);
    haste_layer_free(&before);
    haste_layer_free(&small);
}

/* Scores that do not fit, or that nothing was added to. */
static void score_errors(void)
{
    haste_layer_options options = test_options(&test_shapes[11], HASTE_SOFTMAX, HASTE_MOMENTUM, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), before = test_copy(&layer), other;
    haste_workspace work = test_workspace(&layer, 10, 1, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, 10);
    haste_rewire_options o = rewire_options(.3f, HASTE_PRUNE_SALIENCY, HASTE_SCOPE_BLOCK, HASTE_GROW_GRADIENT);
    haste_input_scores scores, made, keep;
    haste_loss_options bad;
    static int32_t origin[4096];
    float *weight;
    int64_t moved, n;
    int held_before = held, i;
    memset(&made, 0x5a, sizeof made);
    keep = made;
    REFUSED(haste_input_scores_create(NULL, &layer, 0, 0, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_input_scores_create(&made, NULL, 0, 0, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_input_scores_create(&made, &layer, -8, 8, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_input_scores_create(&made, &layer, 8, 8, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_input_scores_create(&made, &layer, 8, layer.slots + 8, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_input_scores_create(&made, &layer, 4, layer.slots, &test_error), HASTE_ERR_ARG);
    CHECK(strstr(test_error.text, "first_slot = 4") && strstr(test_error.text, "cut"));
    calls = fail_at = 0;
    REFUSED(haste_input_scores_create(&made, &layer, 0, 0, &test_error), HASTE_ERR_MEMORY);
    fail_at = -1;
    CHECK(memcmp(&made, &keep, sizeof keep) == 0);

    CHECK_STATUS(haste_input_scores_create(&scores, &layer, 0, 0, &test_error), HASTE_OK, test_error);
    held_before = held;
    o.scores = &scores;
    for (i = 0; i < layer.block_count; i++) o.origin[i] = origin;
    for (i = 0; i < 4096; i++) origin[i] = -77;
    REFUSED(haste_rewire(&layer, &work, &o, batch.x, 10, &batch.positives, &moved, &test_error), HASTE_ERR_STATE);
    CHECK(strstr(test_error.text, "batches = 0"));
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, NULL, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_score_inputs(&layer, &work, NULL, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 11, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_SIZE);
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, NULL, NULL, &scores, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_score_inputs(NULL, &work, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_ARG);
    REFUSED(haste_score_inputs(&layer, NULL, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_ARG);
    memset(&bad, 0, sizeof bad);
    bad.smoothing = 2;
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, &bad, &scores, &test_error), HASTE_ERR_ARG);
    bad.smoothing = 0;
    bad.share = .5f;
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, &bad, &scores, &test_error), HASTE_ERR_ARG);
    CHECK(strstr(test_error.text, "share = 0.5"));
    scores.layer++;
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_STATE);
    scores.layer--;
    keep = scores;
    scores.score[1] = NULL;
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_ARG);
    CHECK(strstr(test_error.text, "score[1]"));
    scores = keep;
    for (i = 1; i < 3; i++)
        for (n = 0; n < layer.block[i].groups * (layer.block[i].end - layer.block[i].begin); n++) CHECK(scores.score[i][n] == 0);

    /* One that is not finite, or below 0, moves nothing; neither do those from before a rewiring. */
    CHECK_STATUS(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_OK, test_error);
    for (i = 0; i < 4; i++) {
        const haste_block *block = &layer.block[2];
        const int input = i < 2 ? block->index[3] : block->index[0] + 1 < block->index[1] ? block->index[0] + 1 : block->index[1] + 1;
        float *score = &scores.score[2][input], was = *score;
        *score = i % 2 ? -1 : HUGE_VALF;
        o.group_share = 1;
        o.scope = HASTE_SCOPE_GROUP;
        REFUSED(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_NONFINITE);
        CHECK(scores.batches == 1 && (*score == HUGE_VALF || *score == -1));
        *score = was;
    }
    layer.rewires++;
    before.rewires++;
    REFUSED(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_STATE);
    CHECK(strstr(test_error.text, "1 batches from before"));
    REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, &scores, &test_error), HASTE_ERR_STATE);
    layer.rewires--;
    before.rewires--;
    calls = fail_at = 0;
    REFUSED(haste_rewire(&layer, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_MEMORY);
    fail_at = -1;
    for (i = 0; i < 4096; i++) CHECK(origin[i] == -77);

    /* A group that is not finite adds nothing, the others do; then the layer of another seed. */
    {
        haste_input_scores sum;
        const haste_block *block = &layer.block[2];
        const int64_t width = block->end - block->begin;
        layer.loss = before.loss = HASTE_BCE;
        CHECK_STATUS(haste_input_scores_create(&sum, &layer, 0, 0, &test_error), HASTE_OK, test_error);
        held_before = held;
        weight = (float *)block->weight + (int64_t)block->fan_in * block->group_size;   /* group 1 */
        weight[0] = ((float *)before.block[2].weight)[block->fan_in * block->group_size] = HUGE_VALF;
        REFUSED(haste_score_inputs(&layer, &work, batch.x, 10, &batch.positives, NULL, &sum, &test_error), HASTE_ERR_NONFINITE);
        CHECK(sum.batches == 1);
        for (n = 0; n < width; n++) CHECK(sum.score[2][width + n] == 0);
        for (i = 0, n = 0; n < width; n++) i += sum.score[2][n] > 0;
        CHECK(i == width);
        haste_input_scores_free(&sum);
    }
    options.seed = 12345;
    other = test_layer(&options);
    CHECK_STATUS(haste_rewire(&other, &work, &o, NULL, 0, NULL, &moved, &test_error), HASTE_ERR_STATE, test_error);
    CHECK(other.rewires == 0);
    haste_input_scores_free(NULL);
    haste_input_scores_free(&scores);
    test_free_batch(&batch);
    haste_workspace_free(&work);
    haste_layer_free(&layer);
    haste_layer_free(&before);
    haste_layer_free(&other);
}

/* One group overflows: nothing changes anywhere, whichever part meets it. */
static void overflow_changes_nothing(void)
{
    int loss, mode;
    for (loss = 0; loss < 3; loss++) for (mode = 0; mode < 4; mode++) {
        haste_layer_options options = one_block(40, 8, 6, 30);
        haste_layer layer, before;
        haste_workspace work;
        test_batch batch;
        haste_rewire_options o = rewire_options(.4f, (haste_prune)(mode % 2), HASTE_SCOPE_GROUP, (haste_growth)(mode / 2));
        int64_t moved;
        int held_before, f;
        options.loss = losses[loss];
        options.labels -= 3;
        layer = test_layer(&options);
        batch = test_make_batch(&layer, 35);
        work = test_workspace(&layer, 35, 2, HASTE_PATH_AUTO);
        for (f = 0; f < 6; f++)   /* the last group, which is short: label 2 */
            ((float *)layer.block[0].weight)[(39 * 6 + f) * 8 + 2] = mode == 0 ? HUGE_VALF - HUGE_VALF : 3e38f;
        before = test_copy(&layer);
        held_before = held;
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 35, &batch.positives, &moved, &test_error), HASTE_ERR_NONFINITE);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&before);
        test_free_batch(&batch);
    }
}

/* Logits are finite, but a gradient that is asked for is not: of an input that the group has at weight 0, or does not have. */
static void gradient_overflow(void)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        haste_layer_options options = one_block(4, 8, 4, 9);
        haste_layer layer, before;
        haste_workspace work;
        test_batch batch;
        haste_rewire_options o = rewire_options(.5f, mode ? HASTE_PRUNE_MAGNITUDE : HASTE_PRUNE_SALIENCY, HASTE_SCOPE_GROUP,
                                                mode ? HASTE_GROW_GRADIENT : HASTE_GROW_RANDOM);
        int64_t moved;
        int held_before, b, input;
        options.loss = HASTE_SQUARED_HINGE;
        options.zero_weights = 1;
        layer = test_layer(&options);
        for (b = 0; b < 32; b++) layer.block[0].bias[b] = 1000;   /* slopes of 2,002 where the label is not a positive */
        batch = test_make_batch(&layer, 3);
        work = test_workspace(&layer, 3, 1, HASTE_PATH_AUTO);
        for (input = 0; (place_of(&layer.block[0], 2, input) >= 0) == mode; input++) { }
        for (b = 0; b < 3; b++) batch.x[b * 9 + input] = 3e38f;
        before = test_copy(&layer);
        held_before = held;
        REFUSED(haste_rewire(&layer, &work, &o, batch.x, 3, &batch.positives, &moved, &test_error), HASTE_ERR_NONFINITE);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&before);
        test_free_batch(&batch);
    }
}

/* Where there is nowhere to go, or nothing is asked for, nothing moves, but the call counts. */
static void nothing_to_move(void)
{
    int i, mode;
    for (i = 0; i < 5; i++) for (mode = 0; mode < 8; mode++) {
        haste_layer_options options = one_block(5, 16, 7, 9);
        haste_layer layer, before;
        haste_workspace work;
        test_batch batch;
        haste_rewire_options o = rewire_options(1, (haste_prune)(mode % 2), (haste_scope)(mode / 2 % 2), (haste_growth)(mode / 4));
        int64_t moved = -1;
        o.group_share = 1;
        if (i == 0) options.block[0].fan_in = 9;              /* with an index */
        if (i == 1) options.block[0].fan_in = HASTE_DENSE;    /* without */
        if (i == 2) o.share = 0;
        if (i == 3) o.group_share = .14f;                     /* of 7: not even one */
        if (i == 4) o.group_share = HASTE_NONE;
        layer = test_layer(&options);
        before = test_copy(&layer);
        batch = test_make_batch(&layer, 5);
        work = test_workspace(&layer, 5, 1, HASTE_PATH_AUTO);
        calls = 0;
        CHECK_STATUS(haste_rewire(&layer, &work, &o, batch.x, 5, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
        CHECK(moved == 0 && calls == 0);
        CHECK(layer.rewires == 1);
        before.rewires = 1;
        CHECK(test_difference(&layer, &before) == NULL);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        haste_layer_free(&before);
        test_free_batch(&batch);
    }
}

/* One place a group, one spare input, the widest slice. */
static void corners(void)
{
    /* F, D, and how many places of a group move */
    static const int32_t shape[4][3] = { { 1, 2, 1 }, { 1, 50, 1 }, { 63, 64, 1 }, { 600, 65536, 90 } };
    int i, mode;
    for (i = 0; i < 4; i++) for (mode = 0; mode < 4; mode++) {
        haste_layer_options options = one_block(3, 8, shape[i][0], shape[i][1]);
        haste_layer layer = test_layer(&options);
        haste_workspace work = test_workspace(&layer, 3, 1, HASTE_PATH_AUTO);
        test_batch batch = test_make_batch(&layer, 3);
        haste_rewire_options o = rewire_options(i == 3 ? .15f : 1, HASTE_PRUNE_MAGNITUDE, (haste_scope)(mode % 2),
                                                (haste_growth)(mode / 2));
        o.group_share = 1;
        coarse_weights(&layer, 3);
        CHECK(rewire_checked(&layer, &work, &o, &batch) == 3 * shape[i][2]);
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        test_free_batch(&batch);
    }
}

/* What is planned is what one call allocates, whatever its options. */
static void plan_is_what_is_allocated(void)
{
    int i, mode;
    for (i = 0; i < TEST_SHAPES; i++) for (mode = 0; mode < 4; mode++) {
        haste_layer_options options = test_options(&test_shapes[i], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32);
        haste_workspace_options work_options;
        haste_layer layer = test_layer(&options);
        haste_workspace work;
        haste_plan plan;
        test_batch batch = test_make_batch(&layer, 2);
        haste_rewire_options o = rewire_options(1, (haste_prune)(mode % 2), HASTE_SCOPE_BLOCK, (haste_growth)(mode / 2));
        int64_t moved = -1;
        memset(&plan, 0, sizeof plan);
        memset(&work_options, 0, sizeof work_options);
        work_options.batch = 2;
        work_options.chunks = 2;
        work_options.threads = 1 + mode;
        o.group_share = 1;
        CHECK_STATUS(haste_plan_bytes(&options, &work_options, &plan, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_workspace_create(&work, &layer, &work_options, &test_error), HASTE_OK, test_error);
        calls = 0;
        last_bytes = 0;
        CHECK_STATUS(haste_rewire(&layer, &work, &o, batch.x, 2, &batch.positives, &moved, &test_error), HASTE_OK, test_error);
        {
            haste_input_scores scores;
            int allocated = calls;
            size_t bytes = last_bytes;
            CHECK_STATUS(haste_input_scores_create(&scores, &layer, 0, 0, &test_error), HASTE_OK, test_error);
            CHECK(calls == allocated + 1 && scores.bytes == plan.scores && last_bytes == plan.scores + 64 + sizeof(void *));
            haste_input_scores_free(&scores);
            calls = allocated;
            last_bytes = bytes;
        }
        if (moved == 0) CHECK(calls == 0 && plan.rewire == 0);
        else CHECK(calls == 1 && last_bytes == plan.rewire + 64 + sizeof(void *));   /* what alignment takes */
        haste_workspace_free(&work);
        haste_layer_free(&layer);
        test_free_batch(&batch);
    }
}

/* Each group's labels are told apart by three inputs that only this group has; the rest of x is noise. Growth along the gradient
   finds them all; drawing at random hardly does so in as many calls. */
static void planted_inputs_are_found(void)
{
    int growth, loss, found[2];
    for (loss = 0; loss < 3; loss++) {
        for (growth = 0; growth < 2; growth++) {
            haste_layer_options options = one_block(6, 8, 8, 192);
            haste_layer layer;
            haste_workspace work;
            haste_step_options step;
            haste_rewire_options o = rewire_options(.4f, HASTE_PRUNE_MAGNITUDE, HASTE_SCOPE_BLOCK, (haste_growth)growth);
            static float x[96 * 192];
            int32_t id[96];
            int64_t offset[97], frequency[48];
            haste_lists positives;
            int i, b, d, g;
            options.loss = losses[loss];
            options.optimizer = HASTE_ADAMW;
            for (i = 0; i < 48; i++) frequency[i] = 1;
            options.frequency = frequency;
            options.samples = 48;
            CHECK_STATUS(haste_layer_create(&layer, &options, &test_error), HASTE_OK, test_error);
            work = test_workspace(&layer, 96, 1, HASTE_PATH_AUTO);
            memset(&step, 0, sizeof step);
            step.lr = .02f;
            positives.offset = offset;
            positives.id = id;
            check_seed = 5;
            for (i = 0; i <= 96; i++) offset[i] = i;
            for (i = 0; i < 200; i++) {
                for (b = 0; b < 96; b++) {
                    id[b] = (int32_t)(check_random() % 48u);
                    for (d = 0; d < 192; d++) x[b * 192 + d] = .3f * check_normal();
                    for (d = 0; d < 3; d++)   /* group g owns inputs 5 + 31*g + 3*d */
                        x[b * 192 + 5 + 31 * (id[b] / 8) + 3 * d] += id[b] >> d & 1 ? 1.5f : -1.5f;
                }
                if (i % 20 == 19) {
                    o.share = (float)haste_rewire_share(i, 200, .4);
                    CHECK_STATUS(haste_rewire(&layer, &work, &o, x, 96, &positives, NULL, &test_error), HASTE_OK, test_error);
                }
                CHECK_STATUS(haste_train_step(&layer, &work, x, 96, &positives, &step, NULL, NULL, &test_error), HASTE_OK, test_error);
            }
            found[growth] = 0;
            for (g = 0; g < 6; g++) for (d = 0; d < 3; d++) found[growth] += place_of(&layer.block[0], g, 5 + 31 * g + 3 * d) >= 0;
            haste_workspace_free(&work);
            haste_layer_free(&layer);
        }
        CHECK(found[HASTE_GROW_GRADIENT] == 18);
        CHECK(found[HASTE_GROW_RANDOM] < 18);
        if (check_filter)
            printf("  %s: gradient growth found %d of 18, random growth %d\n", test_loss_name(losses[loss]), found[1], found[0]);
    }
}

/* share * n is rounded down, and a whole number that a float's rounding hides is found. */
static void shares(void)
{
    static const int64_t n[] = { 1, 3, 7, 10, 64, 100, 1000, 12345, 1 << 20, 1 << 24, 100000000, 1000000000, INT64_C(1) << 40 };
    static const float power[] = { 1, .5f, .25f, .125f, 0 };
    int i, percent, p;
    CHECK(haste__share_of(.5f, 1 << 24) == 1 << 23);
    CHECK(haste__share_of(.1f, 1000000000) == 100000001);   /* .1f is .100000001490116 */
    CHECK(haste__share_of(.7f, 10) == 7 && haste__share_of(.7f, 9) == 6 && haste__share_of(.29f, 100) == 29);
    CHECK(haste__share_of(1, INT64_C(1) << 46) == INT64_C(1) << 46);
    for (i = 0; i < (int)(sizeof n / sizeof *n); i++) {
        for (p = 0; p < 5; p++)   /* nothing is rounded: exactly the floor */
            CHECK(haste__share_of(power[p], n[i]) == (int64_t)floor((double)power[p] * (double)n[i]));
        for (percent = 1; percent < 100; percent++) {
            const float share = (float)percent / 100;
            const double exact = (double)share * (double)n[i];
            const int64_t got = haste__share_of(share, n[i]);
            if (n[i] <= 12345) CHECK(got == n[i] * percent / 100);   /* what was meant */
            CHECK(got >= (int64_t)floor(exact) && (double)got <= exact * (1 + 1.0 / 8388608) && (double)got < exact + 1);
        }
    }
}

static void schedules(void)
{
    const double pi = 3.14159265358979323846;
    int64_t i;
    CHECK(haste_schedule(0, 10, 110, .1) == 0);
    CHECK_NEAR(haste_schedule(3, 10, 110, .1), .3, 1e-15);
    CHECK(haste_schedule(10, 10, 110, .1) == 1);
    CHECK_NEAR(haste_schedule(60, 10, 110, .1), .55, 1e-15);
    CHECK_NEAR(haste_schedule(35, 10, 110, .1), .1 + .9 * .5 * (1 + sqrt(.5)), 1e-15);
    CHECK_NEAR(haste_schedule(110, 10, 110, .1), .1, 0);   /* as an argument .1 is a double everywhere */
    CHECK_NEAR(haste_schedule(INT64_MAX, 10, 110, .1), .1, 0);
    CHECK(haste_schedule(0, 0, 100, 0) == 1);
    CHECK(haste_schedule(-5, 0, 100, 0) == 1 && haste_schedule(-5, 10, 100, 0) == 0);
    CHECK(haste_schedule(0, 0, 0, .25) == .25);
    CHECK(haste_schedule(5, 10, 5, .25) == .25);
    CHECK_NEAR(haste_schedule(4, 10, 5, .25), .4, 0);
    for (i = 10; i < 110; i++) CHECK(haste_schedule(i + 1, 10, 110, .1) < haste_schedule(i, 10, 110, .1));
    CHECK_NEAR(haste_rewire_share(0, 100, .3), .3, 0);
    CHECK_NEAR(haste_rewire_share(-1, 100, .3), .3, 0);
    CHECK(haste_rewire_share(100, 100, .3) == 0 && haste_rewire_share(INT64_MAX, 100, .3) == 0);
    CHECK(haste_rewire_share(0, 0, .3) == 0);
    for (i = 0; i < 100; i++) CHECK_NEAR(haste_rewire_share(i, 100, .3), .15 * (1 + cos(pi * (double)i / 100)), 1e-15);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(magnitude_exactly);
    RUN(by_hand);
    RUN(from_a_batch);
    RUN(scores_of_batches);
    RUN(scores_of_one_batch);
    RUN(stale_scores);
    RUN(zero_scores_are_drawn);
    RUN(many_times);
    RUN(random_growth_is_uniform);
    RUN(repeatable);
    RUN(errors);
    RUN(score_errors);
    RUN(overflow_changes_nothing);
    RUN(gradient_overflow);
    RUN(nothing_to_move);
    RUN(corners);
    RUN(plan_is_what_is_allocated);
    RUN(planted_inputs_are_found);
    RUN(shares);
    RUN(schedules);
    CHECK(held == 0);
    return check_end();
}
