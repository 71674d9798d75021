/* haste_cuda.cuh in a plain C file: only its declarations, no CUDA header. The program links against one object that nvcc
   made of haste_cuda.cuh and one that the C compiler made of haste.h; where there is a device, a layer goes there, trains,
   and comes back. */
#include "../haste_cuda.cuh"
#include <stdio.h>
#include <string.h>

int main(void)
{
    enum { B = 8, LABELS = 1000, INPUTS = 64 };
    static const int32_t expected_k = 3, id[B] = { 0, 1, 999, 3, 4, 5, 6, 7 };
    static const int64_t offset[B + 1] = { 0, 1, 2, 3, 4, 5, 6, 7, 8 };
    static const float zeros[B * INPUTS];
    const haste_lists lists = { offset, id };
    const haste_cuda_lists positives = { offset, id, 1 };
    haste_step_options step;
    haste_cuda_gradient gradient;
    haste_workspace host_work;
    haste_layer trained;
    int i, other = 0;
    haste_error error;
    haste_layer_options options;
    haste_cuda_plan plan;
    haste_layer host;
    haste_cuda_layer layer;
    haste_cuda_workspace work;
    memset(&options, 0, sizeof options);
    memset(&host, 0, sizeof host);
    memset(&step, 0, sizeof step);
    step.lr = 1;
    options.labels = LABELS;
    options.inputs = INPUTS;
    if (haste_cuda_plan_bytes(&options, NULL, NULL, &plan, &error) != HASTE_OK) { printf("%s\n", error.text); return 1; }
    if (haste_layer_create(&host, &options, &error) != HASTE_OK) { printf("%s\n", error.text); return 1; }
    if (haste_cuda_supported(&error) != HASTE_OK) {
        printf("no device: skipped (%s)\n", error.text);
        haste_layer_free(&host);
        return 0;
    }
    if (haste_cuda_upload(&layer, &host, NULL, NULL, &error) != HASTE_OK || layer.bytes != plan.layer ||
        haste_cuda_workspace_create(&work, &layer, NULL, &error) != HASTE_OK || work.bytes != plan.workspace ||
        work.top_k < expected_k ||
        haste_cuda_check(&work, NULL, &error) != HASTE_OK || haste_cuda_download(&layer, &host, NULL, &error) != HASTE_OK ||
        haste_layer_check(&host, &error) != HASTE_OK) { printf("failed: %s\n", error.text); return 1; }
    /* A step with inputs of 0, for which new gradients serve: the biases become those of the CPU. */
    if (haste_layer_create(&trained, &options, &error) != HASTE_OK ||
        haste_workspace_create(&host_work, &trained, NULL, &error) != HASTE_OK ||
        haste_train_step(&trained, &host_work, zeros, B, &lists, &step, NULL, NULL, &error) != HASTE_OK ||
        haste_cuda_gradient_create(&gradient, &layer, &error) != HASTE_OK ||
        haste_cuda_train_step(&layer, &work, gradient.memory, HASTE_CUDA_F32, B, &positives, &step, NULL, NULL,
                              HASTE_CUDA_F32, NULL, &error) != HASTE_OK ||
        haste_cuda_check(&work, NULL, &error) != HASTE_OK || haste_cuda_download(&layer, &host, NULL, &error) != HASTE_OK)
        { printf("failed: %s\n", error.text); return 1; }
    for (i = 0; i < LABELS; i++) {
        const float off = host.block[0].bias[i] - trained.block[0].bias[i];
        other += !(off < 1e-6f && off > -1e-6f);
    }
    if (other || host.step != 1 || !(host.block[0].bias[0] > host.block[0].bias[8]))
        { printf("failed: %d biases are not those of the CPU\n", other); return 1; }
    haste_cuda_gradient_free(&gradient);
    haste_workspace_free(&host_work);
    haste_layer_free(&trained);
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&layer);
    haste_layer_free(&host);
    printf("a C program on the device: ok\n");
    return 0;
}
