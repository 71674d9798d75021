// haste_cuda.cuh on a device: gradients from given logit gradients.
#include "cuda.h"

static void backward()
{
    int i, dtype, type;
    for (i = 0; i < TEST_SHAPES; i++) for (dtype = 0; dtype < 2; dtype++) for (type = 0; type < 2; type++)
        backward_case(&test_shapes[i], (haste_dtype)dtype, HASTE_CUDA_GENERAL, type, type ? 65 : 31, type);
}

// Shapes that the kernels of >>backward take, in the order of each path; and with blocks beside that they don't.
static void backward_fast()
{
    static const test_shape shapes[] = {
        { "S 16 F 64",       333,  768, 1, { { 0, 16, 64, 0, 0 } }, 1 },
        { "S 32 F 64",      1001,  768, 1, { { 0, 32, 64, 0, 0 } }, 1 },
        { "S 64 F 128",      643,  301, 1, { { 0, 64, 128, 0, 0 } }, 0 },
        { "S 32 F 128",      100, 3000, 1, { { 0, 32, 128, 0, 0 } }, 1 },
        { "S 48 F 80",       301,  200, 1, { { 0, 48, 80, 0, 0 } }, 1 },
        { "S 128 F 96",      500,  300, 1, { { 0, 128, 96, 7, 300 } }, 1 },
        { "S 16 F 192",      111,  400, 1, { { 0, 16, 192, 0, 0 } }, 1 },
        { "three slices",    333,  300, 3, { { 70, 32, 16, 8, 101 }, { 100, 16, 48, 3, 300 }, { 0, 64, 64, 100,
                                                                                               300 } }, 1 },
        { "others too",      300,  200, 3, { { 20, 8, HASTE_DENSE, 0, 40 }, { 99, 16, 32, 8, 99 }, { 0, 24, 7, 0,
                                                                                                    9 } }, 1 }
    };
    static const int32_t batches[] = { 1, 31, 65, 128, 200 };
    static const haste_cuda_path paths[] = { HASTE_CUDA_GENERAL, HASTE_CUDA_WIDE, HASTE_CUDA_NARROW };
    int i, j, k = 0, n;
    for (i = 0; i < (int)(sizeof shapes / sizeof shapes[0]); i++) for (j = 0; j < 5; j++) for (n = 0; n < 3; n++, k++) {
        if (shapes[i].inputs > 1000 && batches[j] > 65) continue;
        backward_case(&shapes[i], HASTE_BF16, paths[n], k % 2, batches[j], k % 3);
    }
}

int main(int argc, char **argv)
{
    if (!cuda_begin(argc, argv)) return check_end();
    RUN(backward);
    RUN(backward_fast);
    return check_end();
}
