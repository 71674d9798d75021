// cuda_fp16.h: what haste_cuda.cuh needs of it: see cuda_runtime.h.
#ifndef EMULATOR_CUDA_FP16_H
#define EMULATOR_CUDA_FP16_H
#include <math.h>
#include <stdint.h>
struct __half { uint16_t bits; };
static inline float __half2float(__half h)
{
    const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
    const float v = exponent == 31 ? (fraction ? NAN : INFINITY) : exponent ? ldexpf((float)(1024 + fraction), exponent - 25) : ldexpf((float)fraction, -24);
    return h.bits >> 15 ? -v : v;
}
#endif
