// haste_cuda.cuh on a device: parts of a layer: shards, and ranges of one.
#include "cuda.h"

static void shards()
{
    int dtype, own, turn;
    for (turn = 0; turn < SHARD_SHAPES; turn++) for (dtype = turn > 0; dtype < 2; dtype++) for (own = 0; own < 2; own++) {
        haste_layer_options options = test_options(&shard_shapes[turn], HASTE_BCE, (haste_optimizer)((turn + 1) % 3),
                                                   (haste_dtype)dtype, HASTE_BF16);
        haste_layer layer = test_layer(&options), a = test_copy(&layer), b = test_copy(&layer);
        haste_cuda_layer whole = upload_for(&layer, shard_path(turn), 50), base = upload_for(&layer, shard_path(turn),
                                                                                             50),
            part;
        haste_cuda_workspace work = workspace(&whole, 50, 0);
        test_batch batch = test_make_batch(&layer, 50);
        size_t d = 50 * (size_t)layer.inputs, i;
        void *x = device_copy(batch.x, d * 4), *loss = device_bytes(24), *gx = device_bytes(d * 4),
            *gx2 = device_bytes(d * 4);
        float *one, *two;
        double l[3];
        int64_t middle = middle_of(&layer);
        haste_step_options o;
        int p, bad = 0;
        memset(&o, 0, sizeof o);
        o.lr = .1f;
        MUST(cudaMemset(gx, 0, d * 4));
        MUST(cudaMemset(gx2, 0, d * 4));
        CHECK_STATUS(haste_cuda_train_step(&whole, &work, x, HASTE_CUDA_F32, 50, lists_of(host_lists(&batch)), &o,
                                           (double *)loss, gx,
                                           HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        haste_cuda_download(&whole, &a, NULL, NULL);
        for (p = 0; p < 2; p++) {
            haste_cuda_options range;
            memset(&range, 0, sizeof range);
            range.first_slot = p ? middle : 0;
            range.end_slot = p ? layer.slots : middle;
            memcpy(range.path, whole.path, sizeof range.path);
            if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
            else CHECK_STATUS(haste_cuda_layer_range(&part, &base, range.first_slot, range.end_slot, &test_error),
                              HASTE_OK,
                              test_error);
            CHECK_STATUS(haste_cuda_train_step(&part, &work, x, HASTE_CUDA_F32, 50, lists_of(host_lists(&batch)), &o,
                                               (double *)loss + 1 + p, gx2, HASTE_CUDA_F32, NULL,
                                               &test_error), HASTE_OK, test_error);
            CHECK_STATUS(haste_cuda_download(&part, &b, NULL, &test_error), HASTE_OK, test_error);
            haste_cuda_layer_free(&part);
        }
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        CHECK(test_difference(&a, &b) == NULL);
        MUST(cudaMemcpy(l, loss, 24, cudaMemcpyDeviceToHost));
        CHECK_NEAR(l[1] + l[2], l[0], (turn ? 2e-5 : 1e-6) * l[0]);
        one = take_numbers(gx, d, HASTE_CUDA_F32);
        two = take_numbers(gx2, d, HASTE_CUDA_F32);
        for (i = 0; i < d; i++) bad += !(fabs((double)one[i] - (double)two[i]) <= 1e-5);
        CHECK(bad == 0);
        if (bad || test_difference(&a, &b)) printf("    %s, dtype %d, own %d\n", shard_shapes[turn].name, dtype, own);
        CHECK_STATUS(haste_cuda_layer_range(&part, &base, 1, layer.slots, &test_error), HASTE_ERR_ARG, test_error);
        free(one); free(two);
        cudaFree(x);
        cudaFree(loss);
        test_free_batch(&batch);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&whole);
        haste_cuda_layer_free(&base);
        haste_layer_free(&layer);
        haste_layer_free(&a);
        haste_layer_free(&b);
    }
}

// A part's share of what the whole layer computes: logits, the best, those above, scores, gradients. Whole numbers, so that
// all of it is exact. Would catch slots, groups or labels that are counted from the wrong place.
static void part_case(const test_shape *shape, haste_dtype dtype, haste_cuda_path path, int own, int32_t B)
{
    enum { K = 5 };
    haste_layer_options options = test_options(shape, HASTE_BCE, HASTE_MOMENTUM, dtype, HASTE_F32);
    haste_layer layer = whole_layer(&options);
    haste_cuda_layer base = upload_for(&layer, path, 64), part;
    haste_cuda_workspace work = workspace(&base, B, 0);
    test_batch batch = test_make_batch(&layer, B);
    const size_t n = (size_t)B * (size_t)layer.slots, d = (size_t)B * (size_t)layer.inputs;
    const size_t pairs = (size_t)(batch.offset[B] - batch.offset[0]), most = (size_t)B * (size_t)layer.labels;
    double *want = test_doubles(n), *masked = test_doubles((size_t)layer.slots), *slopes = test_doubles(n),
        *want_gx = test_doubles(d), best_score[K];
    test_gradients grads = test_make_gradients(&layer);
    haste_cuda_lists excluded = host_lists(&batch);
    void *x, *gx = device_bytes(d * 4);
    float *got_gx;
    int64_t first, end, slot, bad = 0, scored = 0;
    int32_t b, k, best_id[K];
    int p;
    size_t i;
    whole_x(&batch, &layer);
    for (i = 0; i < n; i++)
        slopes[i] = layer.label_of[i % (size_t)layer.slots] < 0 ? 0 : (double)((int)(check_random() % 3) - 1);
    x = device_copy(batch.x, d * 4);
    MUST(cudaMemset(gx, 0, d * 4));
    haste_forward_ref(&layer, batch.x, B, want);
    haste_backward_ref(&layer, batch.x, B, slopes, grads.weight, grads.bias, want_gx);
    for (p = 0; p < 2; p++) {
        haste_cuda_options range;
        haste_cuda_gradient gradient;
        size_t own_slots;
        void *out, *id = device_bytes(most * 4), *score = device_bytes(most * 4),
            *offset = device_bytes(((size_t)B + 1) * 8);
        float *z, *own_slopes, *got_score;
        int32_t *got_id;
        int64_t *got_offset, needed = -1, total = 0;
        memset(&range, 0, sizeof range);
        memcpy(range.path, base.path, sizeof range.path);
        range.first_slot = first = p ? middle_of(&layer) : 0;
        range.end_slot = end = p ? layer.slots : middle_of(&layer);
        if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
        else CHECK_STATUS(haste_cuda_layer_range(&part, &base, first, end, &test_error), HASTE_OK, test_error);
        own_slots = (size_t)(end - first);
        CHECK(part.slots == end - first && part.first_slot == first);
        // forward
        out = device_bytes((size_t)B * own_slots * 4);
        CHECK_STATUS(haste_cuda_forward(&part, &work, x, HASTE_CUDA_F32, B, out, HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        z = (float *)host_take(out, (size_t)B * own_slots * 4);
        for (b = 0; b < B; b++) for (slot = first; slot < end; slot++)
            bad += (double)z[(size_t)b * own_slots + (size_t)(slot - first)] !=
                   (layer.label_of[slot] < 0 ? 0 : want[b * layer.slots + slot]);
        free(z);
        CHECK(bad == 0);
        // top-k
        CHECK_STATUS(haste_cuda_top_k(&part, &work, x, HASTE_CUDA_F32, B, K, without(&excluded), (int32_t *)id, (float *)score,
                                      NULL,
                                      &test_error), HASTE_OK, test_error);
        got_id = (int32_t *)host_copy(id, most * 4);
        got_score = (float *)host_copy(score, most * 4);
        for (b = 0; b < B; b++) {
            for (slot = 0; slot < layer.slots; slot++)
                masked[slot] = slot < first || slot >= end ? -1e30 : want[b * layer.slots + slot];
            haste_top_k_ref(&layer, masked, K, batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b],
                            best_id,
                            best_score);
            for (k = 0; k < K; k++) bad += got_id[b * K + k] != best_id[k] || (double)got_score[b * K + k] != best_score[k];
        }
        CHECK(bad == 0);
        free(got_id); free(got_score);
        // above
        CHECK_STATUS(haste_cuda_above(&part, &work, x, HASTE_CUDA_F32, B, 2, without(&excluded), (int64_t *)offset,
                                      (int32_t *)id,
                                      (float *)score, (int64_t)most, &needed, NULL, &test_error), HASTE_OK, test_error);
        got_offset = (int64_t *)host_take(offset, ((size_t)B + 1) * 8);
        got_id = (int32_t *)host_take(id, most * 4);
        got_score = (float *)host_copy(score, most * 4);
        for (b = 0; b < B; b++) {
            bad += got_offset[b] != total;
            for (slot = first; slot < end; slot++)
                total += layer.label_of[slot] >= 0 && want[b * layer.slots + slot] > 2 &&
                         !find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b],
                                  layer.label_of[slot]);
            for (slot = got_offset[b]; slot < got_offset[b + 1] && bad == 0; slot++) {
                const int64_t at = layer.slot_of[got_id[slot]];
                bad += at < first || at >= end || (double)got_score[slot] != want[b * layer.slots + at] ||
                       find_id(batch.id + batch.offset[b], batch.offset[b + 1] - batch.offset[b], got_id[slot]);
                if (slot > got_offset[b])
                    bad += !(got_score[slot - 1] > got_score[slot] ||
                             (got_score[slot - 1] == got_score[slot] && got_id[slot - 1] < got_id[slot]));
            }
        }
        CHECK(bad == 0 && total == needed && got_offset[B] == total);
        free(got_offset); free(got_id); free(got_score);
        // score: other parts' places are left alone
        MUST(cudaMemset(score, 0xff, most * 4));
        CHECK_STATUS(haste_cuda_score(&part, &work, x, HASTE_CUDA_F32, B, &excluded, (float *)score, NULL, &test_error),
                     HASTE_OK, test_error);
        got_score = (float *)host_take(score, most * 4);
        for (b = 0; b < B; b++) for (i = (size_t)batch.offset[b]; i < (size_t)batch.offset[b + 1]; i++) {
            const float v = got_score[i - (size_t)batch.offset[0]];
            slot = layer.slot_of[batch.id[i]];
            if (slot < first || slot >= end) bad += !isnan(v);
            else { bad += (double)v != want[b * layer.slots + slot]; scored++; }
        }
        CHECK(bad == 0);
        free(got_score);
        // backward
        own_slopes = (float *)test_alloc((size_t)B * own_slots * 4);
        for (b = 0; b < B; b++) for (slot = first; slot < end; slot++)
            own_slopes[(size_t)b * own_slots + (size_t)(slot - first)] = (float)slopes[b * layer.slots + slot];
        out = device_numbers(own_slopes, (size_t)B * own_slots, own ? HASTE_CUDA_BF16 : HASTE_CUDA_F32);
        CHECK_STATUS(haste_cuda_gradient_create(&gradient, &part, &test_error), HASTE_OK, test_error);
        MUST(cudaMemset(gradient.memory, 0xff, gradient.bytes));
        CHECK_STATUS(haste_cuda_backward(&part, &work, x, HASTE_CUDA_F32, B, out,
                                         own ? HASTE_CUDA_BF16 : HASTE_CUDA_F32,
                                         &gradient, gx, HASTE_CUDA_F32, NULL, &test_error), HASTE_OK, test_error);
        for (k = 0; k < part.block_count; k++) {
            const haste_block *block = &part.block[k];
            const int64_t S = block->group_size, F = block->fan_in, at = first + block->first_slot;   // of the whole
            float *w = (float *)test_alloc((size_t)test_weights(block) * 4), *bias = (float *)test_alloc(
                (size_t)test_places(block) * 4);
            int32_t whole_k = 0;
            int64_t base_group;
            while (whole_k + 1 < layer.block_count && at >= layer.block[whole_k + 1].first_slot) whole_k++;
            base_group = (at - layer.block[whole_k].first_slot) / S;
            MUST(cudaMemcpy(w, gradient.weight[k], (size_t)test_weights(block) * 4, cudaMemcpyDeviceToHost));
            MUST(cudaMemcpy(bias, gradient.bias[k], (size_t)test_places(block) * 4, cudaMemcpyDeviceToHost));
            for (i = 0; i < (size_t)test_weights(block); i++)
                bad += (double)w[i] != grads.weight[whole_k][(size_t)(base_group * F * S) + i];
            for (i = 0; i < (size_t)test_places(block); i++)
                bad += (double)bias[i] != grads.bias[whole_k][(size_t)(base_group * S) + i];
            free(w); free(bias);
        }
        CHECK(bad == 0);
        CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
        free(own_slopes);
        cudaFree(out);
        haste_cuda_gradient_free(&gradient);
        haste_cuda_layer_free(&part);
    }
    got_gx = (float *)host_take(gx, d * 4);
    for (i = 0; i < d; i++) bad += (double)got_gx[i] != want_gx[i];
    CHECK(bad == 0 && scored == (int64_t)pairs);
    if (bad) printf("    %s, dtype %d, path %d, own %d, B %d\n", shape->name, (int)dtype, (int)path, own, (int)B);
    free(got_gx); free(want); free(masked); free(slopes); free(want_gx);
    cudaFree(x);
    test_free_gradients(&grads, &layer);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&base);
    haste_layer_free(&layer);
}

static void parts()
{
    static const int32_t batches[] = { 3, 40, 130 };
    int i, own, j;
    for (i = 0; i < SHARD_SHAPES; i++) for (own = 0; own < 2; own++) for (j = 0; j < 3; j++)
        part_case(&shard_shapes[i], i || j % 2 ? HASTE_BF16 : HASTE_F32, shard_path(i), own, batches[j]);
}

/* Rewiring on every path, of the whole layer or of its two parts, decides as the CPU does for the whole (parts: in the scope
   of a group, where a part's ranking is the whole's). Would catch weights that are read in another path's order, random
   numbers that count a part's own groups, and rows of parts that land elsewhere. */
static void rewire_parts(const test_shape *shape, haste_cuda_path path, int count, int own, haste_scope scope,
                         haste_growth growth, haste_prune prune)
{
    enum { B = 32 };
    haste_layer_options options = test_options(shape, HASTE_SQUARED_HINGE, HASTE_ADAMW, HASTE_BF16, HASTE_F32);
    haste_layer layer = whole_layer(&options), back = test_copy(&layer);
    haste_workspace host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
    test_batch batch = test_make_batch(&layer, B);
    haste_cuda_layer base = upload_for(&layer, path, B), part;
    haste_cuda_workspace work = workspace(&base, B, 0);
    haste_rewire_options o;
    int64_t moved, all_moved = 0, host_moved = -1;
    const char *difference;
    size_t k;
    void *x;
    int p;
    memset(&o, 0, sizeof o);
    o.share = .35f;
    o.scope = scope;
    o.growth = growth;
    o.prune = prune;
    for (k = 0; k < B * (size_t)layer.inputs; k++) batch.x[k] = (float)(check_random() % 2);   // slopes are exact
    x = device_copy(batch.x, B * (size_t)layer.inputs * 4);
    for (p = 0; p < count; p++) {
        haste_cuda_options range;
        memset(&range, 0, sizeof range);
        memcpy(range.path, base.path, sizeof range.path);
        range.first_slot = p ? middle_of(&layer) : 0;
        range.end_slot = p || count == 1 ? layer.slots : middle_of(&layer);
        if (own) CHECK_STATUS(haste_cuda_upload(&part, &layer, &range, NULL, &test_error), HASTE_OK, test_error);
        else CHECK_STATUS(haste_cuda_layer_range(&part, &base, range.first_slot, range.end_slot, &test_error), HASTE_OK,
                          test_error);
        CHECK_STATUS(haste_cuda_rewire(&part, &work, &o, x, HASTE_CUDA_F32, B, lists_of(host_lists(&batch)), &moved,
                                       NULL,
                                       &test_error),
                     HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&part, &back, NULL, &test_error), HASTE_OK, test_error);
        all_moved += moved;
        haste_cuda_layer_free(&part);
    }
    CHECK_STATUS(haste_rewire(&layer, &host_work, &o, batch.x, B, &batch.positives, &host_moved, &test_error), HASTE_OK,
                 test_error);
    CHECK(all_moved == host_moved && host_moved > 0);
    CHECK_STATUS(haste_layer_check(&back, &test_error), HASTE_OK, test_error);
    difference = test_difference(&layer, &back);
    if (!CHECK(difference == NULL))
        printf("    %s, path %d, %d parts, own %d, scope %d, growth %d, prune %d: %s differs\n", shape->name, (int)path,
               count, own, (int)scope, (int)growth, (int)prune, difference);
    cudaFree(x);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&base);
    haste_workspace_free(&host_work);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

static void rewire_orders()
{
    static const test_shape shapes[] = {
        { "S 32, F 32",  333, 100, 1, { { 0, 32, 32, 0, 0 } }, 1 },
        { "S 64, F 64",  300, 170, 1, { { 0, 64, 64, 0, 0 } }, 1 },
        { "S 32, D 768", 200, 768, 1, { { 0, 32, 64, 0, 0 } }, 1 } };
    int i, growth, prune, scope, path;
    for (i = 0; i < 3; i++) for (path = HASTE_CUDA_GENERAL; path <= HASTE_CUDA_NARROW; path++)
        for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++) for (scope = 0; scope < 2; scope++)
            rewire_parts(&shapes[i], (haste_cuda_path)path, 1, 1, (haste_scope)scope, (haste_growth)growth,
                         (haste_prune)prune);
    for (i = 0; i < SHARD_SHAPES; i++) for (growth = 0; growth < 2; growth++) for (prune = 0; prune < 2; prune++)
        rewire_parts(&shard_shapes[i], shard_path(i), 2, prune ^ growth, HASTE_SCOPE_GROUP, (haste_growth)growth,
                     (haste_prune)prune);
}

// Softmax over a part of the labels is refused, with nothing changed; what can be done with a part still is.
static void part_softmax()
{
    haste_layer_options options = test_options(&shard_shapes[0], HASTE_SOFTMAX, HASTE_SGD, HASTE_F32, HASTE_F32);
    haste_layer layer = test_layer(&options), back = test_copy(&layer);
    haste_cuda_layer dev = upload(&layer), part, all;
    haste_cuda_workspace work = workspace(&dev, 8, 0);
    haste_cuda_gradient gradient;
    test_batch batch = test_make_batch(&layer, 8);
    void *x = device_copy(batch.x, 8 * (size_t)layer.inputs * 4), *out = device_bytes(8 * (size_t)layer.slots * 4);
    haste_step_options o;
    haste_rewire_options r;
    memset(&o, 0, sizeof o);
    memset(&r, 0, sizeof r);
    o.lr = .1f;
    r.share = .2f;
    CHECK_STATUS(haste_cuda_layer_range(&part, &dev, middle_of(&layer), layer.slots, &test_error), HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_layer_range(&all, &dev, 0, layer.slots, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient, &part, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&part, &work, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_ERR_ARG, test_error);
    CHECK(strstr(test_error.text, "softmax") != NULL);
    CHECK_STATUS(haste_cuda_accumulate(&part, &work, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), &o, &gradient,
                                       NULL, NULL,
                                       HASTE_CUDA_F32, NULL, &test_error), HASTE_ERR_ARG, test_error);
    r.growth = HASTE_GROW_GRADIENT;
    CHECK_STATUS(haste_cuda_rewire(&part, &work, &r, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), NULL, NULL,
                                   &test_error),
                 HASTE_ERR_ARG, test_error);
    CHECK(part.step == 0 && gradient.pending == 0 && part.rewires == 0);
    CHECK_STATUS(haste_cuda_forward(&part, &work, x, HASTE_CUDA_F32, 8, out, HASTE_CUDA_F32, NULL, &test_error),
                 HASTE_OK,
                 test_error);
    CHECK_STATUS(haste_cuda_backward(&part, &work, x, HASTE_CUDA_F32, 8, out, HASTE_CUDA_F32, &gradient, NULL,
                                     HASTE_CUDA_F32,
                                     NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_download(&dev, &back, NULL, &test_error), HASTE_OK, test_error);
    CHECK(test_difference(&layer, &back) == NULL);
    CHECK_STATUS(haste_cuda_apply(&part, &work, &gradient, &o, NULL, &test_error), HASTE_OK, test_error);
    r.growth = HASTE_GROW_RANDOM;
    CHECK_STATUS(haste_cuda_rewire(&part, &work, &r, NULL, HASTE_CUDA_F32, 0, NULL, NULL, NULL, &test_error),
                 HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_train_step(&all, &work, x, HASTE_CUDA_F32, 8, lists_of(host_lists(&batch)), &o, NULL, NULL,
                                       HASTE_CUDA_F32,
                                       NULL, &test_error), HASTE_OK, test_error);   // a range of all slots is no part
    CHECK_STATUS(haste_cuda_check(&work, NULL, &test_error), HASTE_OK, test_error);
    free(host_take(out, 8 * (size_t)layer.slots * 4));
    cudaFree(x);
    haste_cuda_gradient_free(&gradient);
    test_free_batch(&batch);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&dev);
    haste_layer_free(&layer);
    haste_layer_free(&back);
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(shards);
    RUN(parts);
    RUN(part_softmax);
    RUN(rewire_orders);
    return check_end();
}
