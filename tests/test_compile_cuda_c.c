/* haste_cuda.cuh in a plain C file: only its declarations, no CUDA header. The program links against one object that nvcc
   made of haste_cuda.cuh and one that the C compiler made of haste.h; where there is a device, a layer goes there and back. */
#include "../haste_cuda.cuh"
#include <stdio.h>
#include <string.h>

int main(void)
{
    static const int32_t expected_k = 3;
    haste_error error;
    haste_layer_options options;
    haste_cuda_plan plan;
    haste_layer host;
    haste_cuda_layer layer;
    haste_cuda_workspace work;
    memset(&options, 0, sizeof options);
    memset(&host, 0, sizeof host);
    options.labels = 1000;
    options.inputs = 64;
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
    haste_cuda_workspace_free(&work);
    haste_cuda_layer_free(&layer);
    haste_layer_free(&host);
    printf("a C program on the device: ok\n");
    return 0;
}
