// haste_cuda.cuh on a device: a whole training run beside that of the CPU.
#include "cuda.h"

// A small problem that can be solved: CPU and device train on it from one seed, and predict equally well.
static void trains_as_cpu()
{
    enum { L = 300, D = 64, B = 64, N = 1024, BEST = 5 };
    static float data[2 * N * D], centre[L * D];   // N to learn, N to judge
    static int64_t offset[2 * N + 1];
    static int32_t id[2 * N];
    int dtype, i, d, k, step;
    check_seed = 1;   // the same documents, whatever ran before
    for (i = 0; i < L * D; i++) centre[i] = check_normal();
    for (i = 0; i < 2 * N; i++) {
        id[i] = (int32_t)(check_random() % L);
        offset[i] = i;
        for (d = 0; d < D; d++) data[i * D + d] = (centre[id[i] * D + d] + .5f * check_normal()) / 8;
    }
    offset[2 * N] = 2 * N;
    for (dtype = 0; dtype < 2; dtype++) {
        const int apart = dtype ? N / 50 : N / 100;   // bfloat16: rounding is drawn
        haste_layer_options options;
        haste_layer layer;
        haste_cuda_layer dev;
        haste_workspace host_work;
        haste_cuda_workspace work;
        haste_step_options o;
        void *x = device_copy(data, sizeof data), *dev_id = device_bytes(B * BEST * 4);
        int32_t found[B * BEST], best[B * BEST];
        int cpu[2] = { 0, 0 }, device[2] = { 0, 0 };   // right at the first place; among all BEST
        memset(&options, 0, sizeof options);
        memset(&o, 0, sizeof o);
        options.labels = L;
        options.inputs = D;
        options.optimizer = HASTE_ADAMW;
        options.dtype = (haste_dtype)dtype;
        options.seed = 5;
        options.block_count = 1;
        options.block[0].fan_in = 32;
        options.block[0].group_size = 16;
        o.lr = .06f;
        CHECK(haste_layer_create(&layer, &options, NULL) == HASTE_OK);
        dev = upload(&layer);
        host_work = test_workspace(&layer, B, 1, HASTE_PATH_AUTO);
        work = workspace(&dev, B, 0);
        for (step = 0; step < 128; step++) {
            int first = step * B % N;
            haste_lists lists = { offset + first, id };
            haste_cuda_lists dev_lists = { offset + first, id, 1 };
            CHECK(haste_train_step(&layer, &host_work, data + (size_t)first * D, B, &lists, &o, NULL, NULL,
                                   NULL) == HASTE_OK);
            CHECK(haste_cuda_train_step(&dev, &work, (float *)x + (size_t)first * D, HASTE_CUDA_F32, B, &dev_lists, &o,
                                        NULL,
                                        NULL, HASTE_CUDA_F32, NULL, NULL) == HASTE_OK);
        }
        for (step = N / B; step < 2 * N / B; step++) {
            CHECK(haste_top_k(&layer, &host_work, data + (size_t)step * B * D, B, BEST, NULL, best, NULL,
                              NULL) == HASTE_OK);
            CHECK(haste_cuda_top_k(&dev, &work, (float *)x + (size_t)step * B * D, HASTE_CUDA_F32, B, BEST, NULL,
                                   (int32_t *)dev_id, NULL, NULL, NULL) == HASTE_OK);
            MUST(cudaMemcpy(found, dev_id, sizeof found, cudaMemcpyDeviceToHost));
            for (i = 0; i < B; i++) for (k = 0; k < BEST; k++) {
                const int32_t right = id[step * B + i];
                if (best[i * BEST + k] == right) { cpu[0] += k == 0; cpu[1]++; }
                if (found[i * BEST + k] == right) { device[0] += k == 0; device[1]++; }
            }
        }
        CHECK(cpu[0] > N * 55 / 100 && abs(cpu[0] - device[0]) <= apart);
        CHECK(cpu[1] > N * 70 / 100 && abs(cpu[1] - device[1]) <= apart);
        printf("    trains_as_cpu, dtype %d: %.1f%% and %.1f%% right at once, %.1f%% and %.1f%% among %d\n", dtype,
               100.0 * cpu[0] / N, 100.0 * device[0] / N, 100.0 * cpu[1] / N, 100.0 * device[1] / N, (int)BEST);
        cudaFree(x);
        cudaFree(dev_id);
        haste_cuda_workspace_free(&work);
        haste_cuda_layer_free(&dev);
        haste_workspace_free(&host_work);
        haste_layer_free(&layer);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(trains_as_cpu);
    return check_end();
}
