// haste_cuda.cuh on a device: numbers of a step that lie there (haste_cuda_live), and training inside of CUDA graphs.
#include "cuda.h"

// HASTE_TEST_RUNS=3: fewer replays, for compute-sanitizer and the emulator
static int replays = 200;

static const test_shape graph_shapes[] = {
    { "head and tail",   200,  64, 3, { { 20,  8, HASTE_DENSE, 0, 40 }, { 50, 16, 8, 8, 30 }, { 0, 32, 12, 30, 64 } },
     1 },
    { "wide",            700, 304, 2, { { 96, 32, HASTE_DENSE, 0, 0 }, { 0, 32,  64, 0, 0 } }, 1 },
    { "narrow",         1003, 128, 1, { { 0,  16,  64, 0, 0 } }, 1 },
    { "softmax",         333, 112, 2, { { 64, 32, HASTE_DENSE, 0, 0 }, { 0, 32, 48, 0, 0 } }, 1 } };
enum { GRAPH_SHAPES = sizeof graph_shapes / sizeof graph_shapes[0], BATCHES = 4 };

static float rate_of(int step) { return .05f / (float)(1 + step % 7); }
static float scale_of(int step) { return step % 5 ? 1.0f / 32 : 1.0f / 48; }

/* Numbers on the device that a step looks at. */
typedef struct numbers { float lr, scale, skip, unused; int64_t step; } numbers;
static haste_cuda_live live_of(void *there)
{
    haste_cuda_live live;
    live.lr = (const float *)there;
    live.scale = live.lr + 1;
    live.skip = live.lr + 2;
    live.step = (int64_t *)there + 2;
    return live;
}
static void set_numbers(void *there, float lr, float scale, float skip)   // leaves the step
{
    const float three[3] = { lr, scale, skip };
    MUST(cudaMemcpy(there, three, sizeof three, cudaMemcpyHostToDevice));
}
static int64_t step_of(const void *there)
{
    numbers n;
    MUST(cudaMemcpy(&n, there, sizeof n, cudaMemcpyDeviceToHost));
    return n.step;
}

/* One case: the layer that the host tells what to do, and the one whose graph finds it on the device. */
typedef struct graph_case {
    haste_layer layer, told, found;
    haste_cuda_layer host, device;
    haste_cuda_workspace host_work, device_work;
    test_batch batch[BATCHES];
    haste_cuda_lists lists[BATCHES], now;   // now: what the graph reads
    void *x[BATCHES], *x_now, *gx[2], *loss[2], *numbers;
    size_t x_bytes, offset_bytes, id_bytes;
    haste_step_options o;
    cudaStream_t stream;
} graph_case;

static graph_case make_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                            haste_dtype state, haste_cuda_path path, int32_t B)
{
    graph_case c;
    haste_layer_options options = test_options(shape, loss, optimizer, dtype, state);
    size_t most = 0;
    int i;
    memset(&c, 0, sizeof c);
    c.layer = test_layer(&options);
    c.told = test_copy(&c.layer);
    c.found = test_copy(&c.layer);
    c.host = upload_for(&c.layer, path, B);
    c.device = upload_for(&c.layer, path, B);
    c.host_work = chunked(&c.host, B, 1, 3);
    c.device_work = chunked(&c.device, B, 1, 3);
    c.x_bytes = (size_t)B * (size_t)c.layer.inputs * 4;
    c.offset_bytes = ((size_t)B + 1) * 8;
    for (i = 0; i < BATCHES; i++) {
        c.batch[i] = test_make_batch(&c.layer, B);
        c.lists[i] = device_lists(&c.batch[i]);
        c.x[i] = device_copy(c.batch[i].x, c.x_bytes);
        if ((size_t)c.batch[i].offset[B] > most) most = (size_t)c.batch[i].offset[B];
    }
    c.now.offset = (const int64_t *)device_bytes(c.offset_bytes);
    c.now.id = (const int32_t *)device_bytes(most * 4);
    c.now.on_host = 0;
    c.x_now = device_bytes(c.x_bytes);
    for (i = 0; i < 2; i++) {
        c.gx[i] = device_bytes(c.x_bytes);
        c.loss[i] = device_bytes(8);
    }
    c.numbers = device_bytes(sizeof(numbers));
    MUST(cudaMemset(c.numbers, 0, sizeof(numbers)));
    MUST(cudaStreamCreateWithFlags(&c.stream, cudaStreamNonBlocking));
    c.device_work.live = live_of(c.numbers);
    return c;
}

static void free_case(graph_case *c)
{
    int i;
    for (i = 0; i < BATCHES; i++) {
        free_lists(c->lists[i]);
        cudaFree(c->x[i]);
        test_free_batch(&c->batch[i]);
    }
    free_lists(c->now);
    for (i = 0; i < 2; i++) { cudaFree(c->gx[i]); cudaFree(c->loss[i]); }
    cudaFree(c->x_now);
    cudaFree(c->numbers);
    cudaStreamDestroy(c->stream);
    haste_cuda_workspace_free(&c->host_work);
    haste_cuda_workspace_free(&c->device_work);
    haste_cuda_layer_free(&c->host);
    haste_cuda_layer_free(&c->device);
    haste_layer_free(&c->layer);
    haste_layer_free(&c->told);
    haste_layer_free(&c->found);
}

// What the graph reads becomes batch i.
static void bring(graph_case *c, int i)
{
    const test_batch *b = &c->batch[i];
    MUST(cudaMemcpy((void *)c->now.offset, c->lists[i].offset, c->offset_bytes, cudaMemcpyDeviceToDevice));
    MUST(cudaMemcpy((void *)c->now.id, c->lists[i].id, (size_t)b->offset[b->B] * 4, cudaMemcpyDeviceToDevice));
    MUST(cudaMemcpy(c->x_now, c->x[i], c->x_bytes, cudaMemcpyDeviceToDevice));
    MUST(cudaMemset(c->gx[0], 0, c->x_bytes));
    MUST(cudaMemset(c->gx[1], 0, c->x_bytes));
    MUST(cudaMemset(c->loss[0], 0xff, 8));
    MUST(cudaMemset(c->loss[1], 0xff, 8));
}

static int same_on_device(const void *a, const void *b, size_t bytes)
{
    void *one = host_copy(a, bytes), *two = host_copy(b, bytes);
    const int same = memcmp(one, two, bytes) == 0;
    free(one);
    free(two);
    return same;
}

// Weights, states and biases of the two, which training must have changed.
static void same_layers(graph_case *c)
{
    CHECK_STATUS(haste_cuda_download(&c->host, &c->told, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_download(&c->device, &c->found, NULL, &test_error), HASTE_OK, test_error);
    CHECK(c->device.step == 0 && step_of(c->numbers) == c->host.step);
    c->found.step = c->told.step;
    CHECK(test_difference(&c->told, &c->found) == NULL);
    CHECK(test_difference(&c->layer, &c->found) != NULL);
}

enum { STEP, MICRO };   // a step; two micro-batches and an update

static void train_told(graph_case *c, int what, haste_cuda_gradient *gradient, int32_t B, int step)
{
    haste_step_options o = c->o;
    o.lr = rate_of(step);
    o.loss.scale = (double)scale_of(step);
    if (what == STEP) {
        CHECK_STATUS(haste_cuda_train_step(&c->host, &c->host_work, c->x_now, HASTE_CUDA_F32, B, &c->now, &o,
                                           (double *)c->loss[0], c->gx[0], HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
        return;
    }
    for (int i = 0; i < 2; i++)
        CHECK_STATUS(haste_cuda_accumulate(&c->host, &c->host_work, c->x_now, HASTE_CUDA_F32, B, &c->now, &o, gradient,
                                           (double *)c->loss[0], c->gx[0], HASTE_CUDA_F32, NULL, &test_error),
                     HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_apply(&c->host, &c->host_work, gradient, &o, NULL, &test_error), HASTE_OK, test_error);
}

static void train_found(graph_case *c, int what, haste_cuda_gradient *gradient, int32_t B)
{
    haste_step_options o = c->o;
    o.lr = 1;
    o.loss.scale = 1;
    if (what == STEP) {
        CHECK_STATUS(haste_cuda_train_step(&c->device, &c->device_work, c->x_now, HASTE_CUDA_F32, B, &c->now, &o,
                                           (double *)c->loss[1], c->gx[1], HASTE_CUDA_F32, c->stream, &test_error),
                     HASTE_OK, test_error);
        return;
    }
    for (int i = 0; i < 2; i++)
        CHECK_STATUS(haste_cuda_accumulate(&c->device, &c->device_work, c->x_now, HASTE_CUDA_F32, B, &c->now, &o, gradient,
                                           (double *)c->loss[1], c->gx[1], HASTE_CUDA_F32, c->stream, &test_error),
                     HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_apply(&c->device, &c->device_work, gradient, &o, c->stream, &test_error), HASTE_OK, test_error);
}

// A graph, replayed with other batches, learning rates and scales, does what as many calls do, to the bit.
static void replay_case(const test_shape *shape, haste_loss loss, haste_optimizer optimizer, haste_dtype dtype,
                        haste_dtype state, haste_cuda_path path, int32_t B, int what, float share)
{
    graph_case c = make_case(shape, loss, optimizer, dtype, state, path, B);
    haste_cuda_gradient gradient[2];
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready;
    int step, gx = 0, losses = 0;
    c.o.weight_decay = .01f;
    c.o.loss.share = share;
    CHECK_STATUS(haste_cuda_gradient_create(&gradient[0], &c.host, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_gradient_create(&gradient[1], &c.device, &test_error), HASTE_OK, test_error);
    MUST(cudaDeviceSynchronize());
    MUST(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal));
    train_found(&c, what, &gradient[1], B);
    MUST(cudaStreamEndCapture(c.stream, &graph));
    CHECK(step_of(c.numbers) == 0);
    MUST(cudaGraphInstantiate(&ready, graph, 0));
    for (step = 0; step < replays; step++) {
        bring(&c, step % BATCHES);
        set_numbers(c.numbers, rate_of(step), scale_of(step), 0);
        train_told(&c, what, &gradient[0], B, step);
        MUST(cudaDeviceSynchronize());
        MUST(cudaGraphLaunch(ready, c.stream));
        MUST(cudaStreamSynchronize(c.stream));
        gx += !same_on_device(c.gx[0], c.gx[1], c.x_bytes);
        losses += !same_on_device(c.loss[0], c.loss[1], 8);
    }
    CHECK(gx == 0 && losses == 0);
    CHECK(c.host.step == replays);
    CHECK_STATUS(haste_cuda_check(&c.host_work, NULL, &test_error), HASTE_OK, test_error);
    CHECK_STATUS(haste_cuda_check(&c.device_work, c.stream, &test_error), HASTE_OK, test_error);
    same_layers(&c);
    MUST(cudaGraphExecDestroy(ready));
    MUST(cudaGraphDestroy(graph));
    haste_cuda_gradient_free(&gradient[0]);
    haste_cuda_gradient_free(&gradient[1]);
    free_case(&c);
}

static const haste_cuda_path graph_path[GRAPH_SHAPES] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW,
                                                          HASTE_CUDA_NARROW };

static void replay()
{
    for (int s = 0; s < GRAPH_SHAPES; s++)
        for (int optimizer = 0; optimizer < 3; optimizer++) {
            const test_shape *shape = &graph_shapes[s];
            const haste_loss loss = s == 3 ? HASTE_SOFTMAX : s == 0 ? HASTE_SQUARED_HINGE : HASTE_BCE;
            const haste_dtype state = optimizer == 1 ? HASTE_F32 : HASTE_BF16;
            replay_case(shape, loss, (haste_optimizer)optimizer, HASTE_BF16, state, graph_path[s], 40, STEP, 0);
            if (optimizer == 2) replay_case(shape, loss, HASTE_ADAMW, HASTE_F32, HASTE_F32, HASTE_CUDA_GENERAL, 33, STEP, 0);
        }
    replay_case(&graph_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32, HASTE_CUDA_NARROW, 150, STEP, 0);   // a cluster
}

static void replay_accumulated()
{
    replay_case(&graph_shapes[0], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_BF16, HASTE_CUDA_GENERAL, 40, MICRO, 0);
    replay_case(&graph_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32, HASTE_CUDA_GENERAL, 40, MICRO, 0);
}

// Each replay visits other groups.
static void replay_share()
{
    replay_case(&graph_shapes[2], HASTE_BCE, HASTE_SGD, HASTE_F32, HASTE_F32, HASTE_CUDA_GENERAL, 5, STEP, .3f);
}

// Fast kernels in their usual mode, which adds to grad_x in no fixed order: weights do not hang on it.
static void replay_fast()
{
    for (int s = 1; s < 3; s++) {
        enum { B = 100 };
        graph_case c = make_case(&graph_shapes[s], HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_F32, graph_path[s], B);
        haste_cuda_workspace *work[2] = { &c.host_work, &c.device_work };
        cudaGraph_t graph = NULL;
        cudaGraphExec_t ready;
        int step;
        for (int i = 0; i < 2; i++) {
            const haste_cuda_live live = work[i]->live;
            haste_cuda_workspace_free(work[i]);
            *work[i] = workspace(i ? &c.device : &c.host, B, 0);
            work[i]->live = live;
        }
        if (haste_cuda_path_of(&c.device, &c.device_work, c.layer.block_count - 1, B, NULL) != graph_path[s])
            CHECK(!has_path(graph_path[s]));
        MUST(cudaDeviceSynchronize());
        MUST(cudaStreamBeginCapture(c.stream, cudaStreamCaptureModeThreadLocal));
        train_found(&c, STEP, NULL, B);
        MUST(cudaStreamEndCapture(c.stream, &graph));
        MUST(cudaGraphInstantiate(&ready, graph, 0));
        for (step = 0; step < replays; step++) {
            bring(&c, step % BATCHES);
            set_numbers(c.numbers, rate_of(step), scale_of(step), 0);
            train_told(&c, STEP, NULL, B, step);
            MUST(cudaDeviceSynchronize());
            MUST(cudaGraphLaunch(ready, c.stream));
            MUST(cudaStreamSynchronize(c.stream));
        }
        same_layers(&c);
        MUST(cudaGraphExecDestroy(ready));
        MUST(cudaGraphDestroy(graph));
        free_case(&c);
    }
}

static int all_zeros(const void *device, size_t bytes)
{
    char *here = (char *)test_alloc(bytes);
    size_t i;
    int zeros = 1;
    MUST(cudaMemcpy(here, device, bytes, cudaMemcpyDeviceToHost));
    for (i = 0; i < bytes; i++) zeros &= here[i] == 0;
    free(here);
    return zeros;
}

// A step that is to be skipped, or whose numbers on the device cannot be used, changes nothing; the next one trains.
static void left_out()
{
    static const struct { const char *what; float lr, scale, skip; int64_t step; haste_status check; } bad[] = {
        { "skip", .1f, 1, 1, 3, HASTE_OK }, { "skip, whatever the rest", NAN, -1, 1, 3, HASTE_OK },
        { "skip is not a number", .1f, 1, NAN, 3, HASTE_OK },
        { "lr is not a number", NAN, 1, 0, 3, HASTE_ERR_NONFINITE }, { "lr < 0", -.1f, 1, 0, 3, HASTE_ERR_NONFINITE },
        { "lr too large", 1e20f, 1, 0, 3, HASTE_ERR_NONFINITE }, { "lr infinite", INFINITY, 1, 0, 3, HASTE_ERR_NONFINITE },
        { "scale is not a number", .1f, NAN, 0, 3, HASTE_ERR_NONFINITE },
        { "scale infinite", .1f, INFINITY, 0, 3, HASTE_ERR_NONFINITE },
        { "step < 0", .1f, 1, 0, -2, HASTE_ERR_NONFINITE } };
    for (int s = 0; s < GRAPH_SHAPES; s++)
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            enum { B = 40 };
            const int before = check_failures;
            graph_case c = make_case(&graph_shapes[s], s == 3 ? HASTE_SOFTMAX : HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_BF16,
                                     graph_path[s], B);
            haste_cuda_gradient gradient;
            double loss;
            CHECK_STATUS(haste_cuda_gradient_create(&gradient, &c.device, &test_error), HASTE_OK, test_error);
            bring(&c, 0);
            set_numbers(c.numbers, bad[i].lr, bad[i].scale, bad[i].skip);
            MUST(cudaMemcpy((int64_t *)c.numbers + 2, &bad[i].step, 8, cudaMemcpyHostToDevice));
            MUST(cudaDeviceSynchronize());
            train_found(&c, STEP, NULL, B);
            CHECK_STATUS(haste_cuda_check(&c.device_work, c.stream, &test_error), bad[i].check, test_error);
            MUST(cudaMemcpy(&loss, c.loss[1], 8, cudaMemcpyDeviceToHost));
            CHECK(loss == 0 && all_zeros(c.gx[1], c.x_bytes) && step_of(c.numbers) == bad[i].step);
            CHECK_STATUS(haste_cuda_download(&c.device, &c.found, NULL, &test_error), HASTE_OK, test_error);
            c.found.step = c.layer.step;
            CHECK(test_difference(&c.layer, &c.found) == NULL);
            // an update from a gradient: that becomes 0
            MUST(cudaMemset(gradient.memory, 0x3c, gradient.bytes));
            gradient.pending = 1;
            c.o.lr = 1;
            MUST(cudaDeviceSynchronize());
            CHECK_STATUS(haste_cuda_apply(&c.device, &c.device_work, &gradient, &c.o, c.stream, &test_error), HASTE_OK,
                         test_error);
            CHECK_STATUS(haste_cuda_check(&c.device_work, c.stream, &test_error), bad[i].check, test_error);
            CHECK(step_of(c.numbers) == bad[i].step);
            CHECK_STATUS(haste_cuda_download(&c.device, &c.found, NULL, &test_error), HASTE_OK, test_error);
            c.found.step = c.layer.step;
            CHECK(test_difference(&c.layer, &c.found) == NULL);
            for (int k = 0; k < c.layer.block_count; k++) {
                const haste_block *b = &c.layer.block[k];
                const size_t slots = (size_t)b->groups * (size_t)b->group_size;
                CHECK(all_zeros(gradient.bias[k], slots * 4) && all_zeros(gradient.weight[k], slots * (size_t)b->fan_in * 4));
            }
            // and on
            haste_cuda_check(&c.device_work, c.stream, NULL);
            set_numbers(c.numbers, .1f, 1, 0);
            MUST(cudaMemset((int64_t *)c.numbers + 2, 0, 8));
            MUST(cudaDeviceSynchronize());
            train_found(&c, STEP, NULL, B);
            CHECK_STATUS(haste_cuda_check(&c.device_work, c.stream, &test_error), HASTE_OK, test_error);
            CHECK(step_of(c.numbers) == 1);
            CHECK_STATUS(haste_cuda_download(&c.device, &c.found, NULL, &test_error), HASTE_OK, test_error);
            CHECK(test_difference(&c.layer, &c.found) != NULL);
            if (check_failures > before) printf("    %s: %s\n", graph_shapes[s].name, bad[i].what);
            haste_cuda_gradient_free(&gradient);
            free_case(&c);
        }
}

// A loss that counts nothing, or next to nothing: steps are made, weights and grad_x stay, however large logits are.
static void scale_of_nothing()
{
    static const float scale[] = { 0, 1e-39f, -1e-39f };
    for (int i = 0; i < 3 * GRAPH_SHAPES; i++) {
        enum { B = 40 };
        graph_case c = make_case(&graph_shapes[i / 3], i / 3 == 3 ? HASTE_SOFTMAX : HASTE_BCE, HASTE_SGD, HASTE_BF16, HASTE_BF16,
                                 graph_path[i / 3], B);
        haste_step_options o = c.o;
        for (int k = 0; k < c.layer.block_count; k++)
            for (int64_t j = 0; j < c.layer.block[k].labels; j++) c.layer.block[k].bias[j] += j % 3 ? 200 : -200;
        haste_cuda_layer_free(&c.device);
        c.device = upload_for(&c.layer, graph_path[i / 3], B);
        bring(&c, 0);
        set_numbers(c.numbers, .5f, scale[i % 3], 0);
        o.lr = 1;
        o.loss.scale = 1;
        MUST(cudaDeviceSynchronize());
        CHECK_STATUS(haste_cuda_train_step(&c.device, &c.device_work, c.x_now, HASTE_CUDA_F32, B, &c.now, &o, NULL, c.gx[1],
                                           HASTE_CUDA_F32, c.stream, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_check(&c.device_work, c.stream, &test_error), HASTE_OK, test_error);
        CHECK(step_of(c.numbers) == 1);
        CHECK_STATUS(haste_cuda_download(&c.device, &c.found, NULL, &test_error), HASTE_OK, test_error);
        c.found.step = c.layer.step;
        CHECK(test_difference(&c.layer, &c.found) == NULL);
        float *gx = (float *)host_copy(c.gx[1], c.x_bytes), largest = 0;
        for (size_t j = 0; j < c.x_bytes / 4; j++) largest = fmaxf(largest, fabsf(gx[j]));
        CHECK(largest == 0);
        free(gx);
        free_case(&c);
    }
}

// Only some of the numbers on the device: the others are the host's.
static void some_of_them()
{
    for (int mask = 0; mask < 16; mask++) {
        enum { B = 40, STEPS = 3 };
        graph_case c = make_case(&graph_shapes[1], HASTE_BCE, HASTE_ADAMW, HASTE_BF16, HASTE_F32, HASTE_CUDA_WIDE, B);
        haste_cuda_live *live = &c.device_work.live;
        haste_step_options o = c.o;
        if (!(mask & 1)) live->lr = NULL;
        if (!(mask & 2)) live->scale = NULL;
        if (!(mask & 4)) live->skip = NULL;
        if (!(mask & 8)) live->step = NULL;
        for (int step = 0; step < STEPS; step++) {
            bring(&c, step);
            set_numbers(c.numbers, rate_of(step), scale_of(step), 0);
            MUST(cudaDeviceSynchronize());
            train_told(&c, STEP, NULL, B, step);
            o.lr = mask & 1 ? 1 : rate_of(step);
            o.loss.scale = mask & 2 ? 1 : (double)scale_of(step);
            MUST(cudaDeviceSynchronize());
            CHECK_STATUS(haste_cuda_train_step(&c.device, &c.device_work, c.x_now, HASTE_CUDA_F32, B, &c.now, &o,
                                               (double *)c.loss[1], c.gx[1], HASTE_CUDA_F32, c.stream, &test_error),
                         HASTE_OK, test_error);
            MUST(cudaStreamSynchronize(c.stream));
            CHECK(same_on_device(c.loss[0], c.loss[1], 8));
        }
        CHECK(mask & 8 ? c.device.step == 0 && step_of(c.numbers) == STEPS : c.device.step == STEPS && step_of(c.numbers) == 0);
        CHECK_STATUS(haste_cuda_download(&c.host, &c.told, NULL, &test_error), HASTE_OK, test_error);
        CHECK_STATUS(haste_cuda_download(&c.device, &c.found, NULL, &test_error), HASTE_OK, test_error);
        c.found.step = c.told.step;
        CHECK(test_difference(&c.told, &c.found) == NULL);
        free_case(&c);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    if (getenv("HASTE_TEST_RUNS")) replays = atoi(getenv("HASTE_TEST_RUNS")) > 3 ? atoi(getenv("HASTE_TEST_RUNS")) : 3;
    RUN(replay);
    RUN(replay_accumulated);
    RUN(replay_share);
    RUN(replay_fast);
    RUN(left_out);
    RUN(scale_of_nothing);
    RUN(some_of_them);
    return check_end();
}
