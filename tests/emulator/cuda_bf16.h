// cuda_bf16.h: what haste_cuda.cuh needs of it: see cuda_runtime.h.
#ifndef EMULATOR_CUDA_BF16_H
#define EMULATOR_CUDA_BF16_H
#include <stdint.h>
struct __nv_bfloat16 { uint16_t bits; };
#endif
