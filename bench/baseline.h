/* baseline.h: what haste is measured against, and what the machine can do. baseline.c is compiled for this very machine,
   with -march=native -ffast-math, so that nobody can say the others were held back. */
#ifndef BASELINE_H
#define BASELINE_H

#include <stdint.h>

/* Standard fixed fan-in: each label has F inputs of its own (paper, section 2). As fast as an ordinary layout allows:

     index [L, F]  weight [L, F]     of one label contiguous, inputs ascending
     xt    [padded / run][D][run]    the batch, feature-major, in blocks as haste has them: an input is one row
     z     [L][padded]               logits, or their gradients, label-major: no transposition

   A tile of labels meets one block of samples after the other: a block's rows stay in the second-level cache, a tile's
   weights and gradients too. Of every label some inputs are done, then the next ones: inputs ascend, so at any time the tile
   reads a part of the rows, and finds more of them in the first-level cache. Registers hold a label's logits, or the sums of
   several weights' gradients. The fused step does all that tile by tile.
   What binds: every multiply-add loads its own row of x (no other label shares it), and in the input gradient stores it too:
   one 512-bit load a cycle and half a store. haste loads and stores a row once for the S labels of a group. */
typedef struct fan_in {
    int64_t   L;
    int32_t   D, F, B;
    int       threads;
    int32_t   run, padded;          /* samples in a block; B up to a multiple of it */
    uint16_t *index;                /* [L, F] */
    float    *weight, *grad_weight; /* [L, F]; the gradient is only for fan_in_grad_weight */
    float    *bias;                 /* [L] */
    float    *xt;                   /* [padded][D], as above */
    float    *grad_xt;              /* [threads][padded][D], the same order */
    float    *tile;                 /* [threads][fan_in_scratch]: a tile's weight gradients, and logits of one block */
    const int64_t *offset;          /* [L+1] and the samples that have label l: sorted by label beforehand, free of charge */
    const int32_t *sample;
} fan_in;

enum { FAN_IN_TILE = 128 };         /* labels in a tile */

void fan_in_sizes(fan_in *layer);   /* run and padded, from B */
int64_t fan_in_scratch(const fan_in *layer);
void fan_in_forward(fan_in *layer, const float *x, float *z);
void fan_in_grad_weight(fan_in *layer, const float *x, const float *z);
void fan_in_grad_x(fan_in *layer, const float *z, float *grad_x);                          /* += */
void fan_in_step(fan_in *layer, const float *x, float lr, float *grad_x);                  /* never an [L, B] array */
void fan_in_unfused(fan_in *layer, const float *x, float lr, float *z, float *grad_x);     /* pass after pass, z in memory */

/* A dense layer of K inputs through a library: the bottleneck of equal work (K = F), or the full layer (K = D).
   Logits are [B, L].

     step     forward, gradient of the binary cross-entropy (one parallel, vectorised pass, the bias inside), input gradient,
              weight gradient. The update is part of the last product, W = W - lr * dW, wherever the library can do that:
              then no weight-sized gradient is stored; else it is a pass of its own.
     forward  the product alone
     layouts  FL: weights [K, L]; LF: [L, K]; PACKED: what oneDNN's inner product asks for, the same for all its passes */
typedef enum library { OPENBLAS, ONEDNN } library;
typedef enum layout { LAYOUT_FL, LAYOUT_LF, LAYOUT_PACKED } layout;

typedef struct dense {
    library  library;
    layout   layout;
    int      bf16;                  /* oneDNN only: all bfloat16 but sums and x's gradient, which are float32 */
    int64_t  L;
    int32_t  K, B;
    int      threads;
    float    lr;
    float   *bias;                  /* [L] */
    const int64_t *offset;          /* [L+1], as above */
    const int32_t *sample;
    void    *weight, *grad_weight;  /* in the layout; the gradient only where something asks for it */
    uint16_t *half;                 /* [B, K] x as bfloat16 */
    int64_t  weight_bytes;
    int      fused;                 /* the update is part of the product */
    struct dense_plan *plan;
} dense;

const char *library_version(library which);   /* NULL: not found when this was built */
int  dense_make(dense *layer);                /* from the fields down to sample; 0: not to be had */
void dense_free(dense *layer);
void dense_set(dense *layer, const float *plain);               /* weights from [L, K] */
void dense_get(dense *layer, int gradient, float *plain);       /* weights or their gradients to [L, K] */
void dense_forward(dense *layer, const float *x, void *logits); /* float or bfloat16 logits, as the layer */
void dense_grad_weight(dense *layer, const float *x, const void *grad_logits);
void dense_grad_x(dense *layer, const void *grad_logits, float *grad_x);   /* = */
void dense_step(dense *layer, const float *x, void *logits, float *grad_x);
double dense_added(const dense *layer);       /* bytes of arrays that a step needs beside weights and biases */

/* From logits [B, L] to their gradients, in place: (sigmoid(z + bias) - target) / B; bias -= lr * its gradient, or NULL. */
void loss_gradient(void *logits, int bf16, float *bias, int64_t L, int32_t B, int threads, const int64_t *offset,
                   const int32_t *sample, float lr);
void plain_update(float *weight, const float *gradient, int64_t n, float lr, int threads);
void to_half(uint16_t *to, const float *from, int64_t n, int threads);   /* bfloat16, rounded to nearest */

/* The machine: seconds for `rounds` of 20 * lanes multiply-adds that touch no memory; for reading; for copying. */
double fma_flops(int64_t rounds, int threads);       /* flops in that many rounds */
void   run_fma(int64_t rounds, int threads);
void   run_read(const char *from, int64_t bytes, int threads);
void   run_copy(char *to, const char *from, int64_t bytes, int threads);

double bench_seconds(void);

#endif /* BASELINE_H */
