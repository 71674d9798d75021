/* baseline.h: what haste is measured against, and what the machine can do. baseline.c is compiled for this very machine, with
   -march=native -ffast-math, so that nobody can say the others were held back. */
#ifndef BASELINE_H
#define BASELINE_H

#include <stdint.h>

/* Standard fixed fan-in: each label has F inputs of its own (paper, section 2). As fast as an ordinary layout allows:

     index [L, F]  weight [L, F]        of one label contiguous
     xt    [D][padded]                  the batch, feature-major: an input of all samples is one contiguous row, nothing is gathered
     z     [L][padded]                  logits, or their gradients, label-major: no transposition

   forward, backward (both gradients in one pass), and the whole step fused label by label: logits, gradient of the binary
   cross-entropy, both gradients, SGD update; never an [L, B] array. Threads share the labels; each has its own input gradient. */
typedef struct fan_in {
    int64_t   L;
    int32_t   D, F, B, padded;          /* padded: B up to a multiple of 32 */
    int       threads;
    uint16_t *index;                    /* [L, F] */
    float    *weight, *grad_weight;     /* [L, F] */
    float    *bias;                     /* [L] */
    float    *xt;                       /* [D][padded] */
    float    *grad_xt;                  /* [threads][D][padded] */
    const int64_t *offset;              /* [L+1] and the samples that have label l: sorted by label beforehand, free of charge */
    const int32_t *sample;
} fan_in;

enum { FAN_IN_MOST = 128 };             /* samples in a batch */

void fan_in_forward(fan_in *layer, const float *x, float *z);
void fan_in_backward(fan_in *layer, const float *x, const float *z, float *grad_x);
void fan_in_step(fan_in *layer, const float *x, float lr, float *grad_x);

/* The bottleneck of equal work as users write it with a BLAS: a dense layer from F inputs, weight [F, L], in five passes. */
typedef struct blas_layer {
    int64_t L;
    int32_t F, B;
    int     threads;
    float  *weight, *grad_weight;       /* [F, L] */
    float  *bias;                       /* [L] */
    const int64_t *offset;              /* [L+1], as above */
    const int32_t *sample;
} blas_layer;

int  blas_found(void);                  /* 0: the functions below do nothing */
void blas_forward(blas_layer *layer, const float *x, float *logits);
void blas_backward(blas_layer *layer, const float *x, const float *grad_logits, float *grad_x);
void blas_step(blas_layer *layer, const float *x, float lr, float *logits, float *grad_x);

/* GFLOP/s of multiply-adds that touch no memory; GB/s, read and written, of copying `bytes`. Each about 50 ms. */
double ceiling_fma(int threads);
double ceiling_copy(int threads, char *to, const char *from, int64_t bytes);

double bench_seconds(void);

#endif /* BASELINE_H */
