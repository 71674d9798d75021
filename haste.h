/* haste.h - version 0.2.0 - MIT licence at the end of the file

   An output layer for hundreds of thousands of labels and more: group-shared fixed fan-in sparsity, after "HASTE:
   Hardware-Aware Dynamic Sparse Training for Large Output Spaces" (arXiv:2606.01117), in C99 that is also C++. Only
   libc and libm.

   Do this:
       #define HASTE_IMPLEMENTATION
       #include "haste.h"
   in ONE .c or .cpp file, and include it plainly everywhere else. Compile with -O2 or -O3; -fopenmp for threads.

       haste_layer_options options = {0};                  // zero means default
       options.labels = 670091;                            // L
       options.inputs = 768;                               // D
       haste_layer_create(&layer, &options, &error);       // statuses are left out here; check them
       haste_workspace_create(&work, &layer, NULL, &error);
       for each batch:
           haste_train_step(&layer, &work, x, B, &positives, &step, &loss, grad_x, &error);
       haste_top_k(&layer, &work, x, B, 5, NULL, id, score, &error);
       haste_save("model.haste", &layer, layer.dtype, NULL, 0, &error);

   examples/minimal.c is this in full, compiled and run by the tests.

   WHAT IT IS   Labels are cut into groups of S. The labels of a group read the same F of the D inputs and keep weights
                of their own, so a layer has L*F weights, not L*D, and a group is a small dense product. The most
                frequent labels may have a dense block of their own. While training, inputs that matter little to a
                group are pruned and others grown. One call does logits, loss, gradients and update group by group:
                there is never a [B, L] array.
   WHAT IT IS NOT   An encoder, an autograd, a retrieval index: top-k reads every weight. For a GPU see haste_cuda.cuh.

   CONTENTS (search for the marks)
       >>types  >>api status and planning  >>api layer  >>api training  >>api prediction  >>api grouping  >>api rewiring
       >>api metrics  >>api files  >>api surgery  >>api reference
       >>status  >>sizes  >>random  >>bfloat16  >>threads  >>kernels  >>layout  >>layer  >>keys  >>batch  >>groups
       >>train  >>forward and backward  >>predict
       >>group  >>label orders  >>label embeddings  >>balanced bisection  >>exchanges  >>cohesion and grouping
       >>rewire  >>metrics  >>file  >>save  >>load  >>surgery  >>reference  >>letters  >>kernel text  >>history

   TERMS   the same letters everywhere
       B  samples in a batch          L  labels               S  labels in a group (group size)
       D  inputs (features) of x      F  inputs of a group    G  groups = ceil(labels of a block / S)
       block: groups with one S, one F and one slice of x      slot: a position in the layer's own label order
       logit: of a label, before any sigmoid or softmax; in the results of a search it is called its score
       weight: a number that is learnt; what a loss counts more or less is sample_weight, label_weight, positive_weight
       path: HASTE_PATH_*, which instructions the kernels use; of the functions in >>api files, where a file is
       [B, D] is row-major. (=) means overwritten, (+=) added to.

   MEMORY   haste_plan_bytes says beforehand what will be allocated, byte for byte (HASTE_MALLOC is asked for 72 more,
       to align). Nothing is allocated in the per-batch calls; haste_rewire, haste_order_by_frequency,
       haste_embed_sparse and _dense, haste_group, haste_cohesion, haste_metrics_add (for long lists) and some of
       >>api surgery take scratch while they run. HASTE_MALLOC and HASTE_FREE replace malloc and free. haste_layer_init
       and haste_workspace_init work in the caller's memory.
   ERRORS   Every function that can fail returns a haste_status, and writes a sentence to its last argument, a
       haste_error, unless that is NULL. Arguments, sizes, lists and x are checked before anything is written. Nothing
       exits, prints or asserts. B = 0 is no error: there is nothing to do.
   THREADS   Any number of threads may read one layer, each with its own workspace; a layer has one writer. Inside a
       call, OpenMP where the compiler has it (-fopenmp), or the caller's HASTE_PARALLEL_FOR. There are no globals.
       After fork(), GCC's OpenMP hangs in a child of a process that has used more than one thread: fork before the
       first call, start another program in the child, or let the child's workspaces have threads = 1.
   DETERMINISM   Work is cut into work.chunks runs of groups, whatever the number of threads (more threads than chunks
       have nothing to do): the same seed, chunks and path give the same bits. Other paths, compilers or flags may
       differ in the last ones; label embeddings and groups are made on the best path. Random numbers come from a
       counter of (seed, step, position).
   NUMERICS   float32 arithmetic; weights and optimizer state float32 or bfloat16 (stochastic rounding when trained).
       Sums over f run in order, fused where the path has the instruction. Training and search report a logit that is
       not finite, and training leaves its group as it was; haste_forward and haste_score return it as it is.
       Where registers are wider than float (x87: 32-bit x86 without -mfpmath=sse), logits of haste_score and
       haste_forward, of a batch and of a sample alone, may differ in the last bits, and equal bits of repeated calls
       are promised only if the compiler rounds at every assignment: gcc -std=c99 does, -std=gnu99 and clang do not.

   OPTIONS   where the implementation is compiled, unless said otherwise
       HASTE_STATIC         (where both halves are in one file) all functions static
       HASTE_DLL            (everywhere) a shared library's functions: exported where the implementation is (define
                            HASTE_IMPLEMENTATION there before haste.h is first included), imported elsewhere
       HASTE_API            (everywhere) what stands before each declaration, instead of these two
       HASTE_MALLOC, _FREE  both or neither
       HASTE_PARALLEL_FOR(n, threads, task, context)   the caller's threads: runs task(context, i, thread), of type
                            void (void *, int64_t, int), once for each i in 0 .. n - 1, and returns when all are done;
                            thread is in 0 .. threads - 1, and no two tasks that run at once share one. OpenMP is then
                            not used, an option threads = 0 means 1, and calls without that option use one thread. Work
                            for one thread does not pass through it
       HASTE_FILE           this file's name, where it was renamed: it includes itself. Default "haste.h"
       HASTE_NO_SIMD        the portable kernels alone; else, by GCC and Clang, AVX-512 or AVX2 (at run time) or NEON.
                            Other compilers, and nvcc, build the portable ones: have the implementation in a C file

   LIMITS   slots (L rounded up to groups) < 2^31, 1 <= D <= 65,536, 8 <= S <= 256 in steps of 8, 1 <= F <= the slice's
       width. Sizes and products are 64-bit and checked. -ffast-math is refused: it would drop the checks for NaN.

   FROM THE PAPER TO THE FUNCTIONS
       3.1 layer, group-shared support     haste_block, haste_forward
       3.2 the three kernels               haste_train_step (one pass)
       3.3 dense head, projections         blocks with HASTE_DENSE and slices
       eq. 1-2, Algorithm 2: grouping      haste_embed_*, haste_group
       eq. 3: loss                         HASTE_BCE
       Algorithm 3: prune and regrow       haste_rewire

   WHERE WE DIFFER, AND WHY
       Inputs of a group are distinct (drawn with replacement, 4 to 15% of the weights are wasted), and may be chosen
       from data. State of moved places is reset. Just-pruned inputs do not return at once; growth may follow the
       gradient, of one batch or of many. Groups come from balanced bisection and exchanges, so that none in the middle
       is short. The step is one pass; logits and weight gradients are never stored.
*/
#ifndef HASTE_H
#define HASTE_H

#include <stddef.h>
#include <stdint.h>

#define HASTE_VERSION_MAJOR 0
#define HASTE_VERSION_MINOR 2
#define HASTE_VERSION_PATCH 0
#define HASTE_VERSION       (HASTE_VERSION_MAJOR * 10000 + HASTE_VERSION_MINOR * 100 + HASTE_VERSION_PATCH)

#ifndef HASTE_API
    #if defined(HASTE_STATIC) && (defined(__GNUC__) || defined(__clang__))
        #define HASTE_API static __attribute__((unused))
    #elif defined(HASTE_STATIC)
        #define HASTE_API static
    #elif defined(HASTE_DLL) && defined(_WIN32) && (defined(HASTE_IMPLEMENTATION) || defined(HASTE_CUDA_IMPLEMENTATION))
        #define HASTE_API __declspec(dllexport)
    #elif defined(HASTE_DLL) && defined(_WIN32)
        #define HASTE_API __declspec(dllimport)
    #elif defined(HASTE_DLL) && defined(__GNUC__)
        #define HASTE_API __attribute__((visibility("default")))
    #else
        #define HASTE_API extern
    #endif
#endif

#ifndef HASTE_FILE
    #define HASTE_FILE "haste.h"   /* by which this file includes parts of itself */
#endif

#define HASTE__LETTERS 1   /* puts the user's macros of one letter aside: see >>letters */
#include HASTE_FILE

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>types ------------------------------------------------------------------------------------------------- */

#define HASTE_MAX_BLOCKS   8
#define HASTE_MAX_SECTIONS 32
#define HASTE_DENSE        (-1)   /* fan_in of a dense block: every input of its slice */
#define HASTE_NONE         (-1)   /* the value 0 in an option whose 0 means a default that is not 0 */

typedef enum haste_status {
    HASTE_OK = 0,
    HASTE_ERR_ARG,        /* a null pointer, a size or option outside its range, objects that do not go together */
    HASTE_ERR_SIZE,       /* a product of sizes overflows, or a buffer or workspace is too small */
    HASTE_ERR_MEMORY,     /* an allocation failed */
    HASTE_ERR_DATA,       /* what an array holds: offsets that descend, an id out of range or twice in an order, a
                             frequency above the samples, a value that is not finite */
    HASTE_ERR_NONFINITE,  /* a logit, gradient or updated weight became infinite or NaN during the pass */
    HASTE_ERR_STATE,      /* a layer breaks an invariant, or a gradient does not belong to it */
    HASTE_ERR_FILE,       /* a file could not be opened, read, written or renamed */
    HASTE_ERR_FORMAT,     /* not a model file, a damaged one, or one of another version */
    HASTE_ERR_DEVICE      /* haste_cuda.cuh: a CUDA call failed, or the device cannot do what is asked */
} haste_status;

/* What went wrong, in words: which argument, its value, what was expected. The last argument of every function
   that can fail; NULL when the status alone will do. Written only on failure. */
typedef struct haste_error {
    haste_status status;
    char         text[240];
} haste_error;

typedef enum haste_dtype { HASTE_F32 = 0, HASTE_BF16 = 1 } haste_dtype;

typedef enum haste_loss {
    HASTE_BCE           = 0,  /* sigmoid binary cross-entropy, summed over labels, mean over samples (paper, eq. 3) */
    HASTE_SQUARED_HINGE = 1,  /* max(0, 1 - y*z)^2 with y = +-1, summed and averaged likewise */
    HASTE_SOFTMAX       = 2   /* cross-entropy with target 1/n on each of the n positives; 0 for an empty row */
} haste_loss;

/* The optimizer decides which state arrays a layer has. PyTorch's meaning, see haste_train_step. */
typedef enum haste_optimizer { HASTE_SGD = 0, HASTE_MOMENTUM = 1, HASTE_ADAMW = 2 } haste_optimizer;

/* Which instructions the kernels use. The same path gives the same bits for any number of threads. */
typedef enum haste_path {
    HASTE_PATH_AUTO = 0,   /* the best that this processor has */
    HASTE_PATH_PORTABLE,   /* plain C */
    HASTE_PATH_AVX2,       /* AVX2 and FMA */
    HASTE_PATH_AVX512,     /* AVX-512 F */
    HASTE_PATH_NEON        /* 64-bit Arm */
} haste_path;

/* Lists of label ids, one list per sample (CSR): sample b has id[offset[b]] .. id[offset[b+1] - 1].
   offset [B+1] ascends and may start above 0, so that a slice of a larger set needs no copy. A list may be empty,
   unordered, and may name a label twice (it counts once: the first time).
   In training and search offset may be NULL: sample b then has id[b] alone, or with id -1 none; a sample without a
   positive (in any shard, where loss.softmax is given) is then left out of the loss. */
typedef struct haste_lists {
    const int64_t *offset;
    const int32_t *id;
} haste_lists;

/* Sparse feature vectors, one per sample (CSR): as haste_lists, with a value beside each feature. */
typedef struct haste_sparse {
    const int64_t *offset;
    const int32_t *feature;
    const float   *value;
} haste_sparse;

/* A block: G groups of S labels, all with fan-in F and the same slice of x.

       group g:   index [F]     weight [F, S]                    bias [S]
                      3           .12  -.02   .31 ...              -7.1  -6.8  -7.3 ...
                     17          -.40   .25   .08 ...
                     40           .07  -.11   .19 ...
                                  one column per label: slots first_slot + g*S, first_slot + g*S + 1, ...

   A row of the weight belongs to one input, so pruning and regrowing an input touches one row. index counts from
   column `begin` of x and ascends strictly within a group. A dense block reads its whole slice: F = end - begin, and
   index may be NULL.
   Slots past the last label hold weight 0 and bias 0, and take part in nothing. */
typedef struct haste_block {
    int64_t   groups;           /* G = ceil(labels / S) */
    int64_t   labels;           /* slots with a label; the remaining G*S - labels are padding */
    int64_t   first_slot;       /* slot of the block's first label */
    int32_t   group_size;       /* S: a multiple of 8 from 8 to 256 */
    int32_t   fan_in;           /* F: 1 .. end - begin */
    int32_t   begin, end;       /* the slice of x it reads: columns begin .. end - 1 */
    uint16_t *index;            /* [G, F]    or NULL: dense */
    void     *weight;           /* [G, F, S] of the layer's dtype */
    float    *bias;             /* [G, S] */
    void     *weight_state[2];  /* [G, F, S] of the layer's state_dtype: velocity, or Adam's two moments; or NULL */
    float    *bias_state[2];    /* [G, S]    or NULL */
} haste_block;

/* A layer: plain pointers and sizes, nothing hidden. It owns its arrays only where haste_layer_create made it; the
   caller may as well fill in his own (then haste_layer_check says whether they make sense).
   A slot is a position in the layer's own label order; users speak label ids, and slots show only in raw logits.
   Any number of threads may read one layer; a layer has one writer. */
typedef struct haste_layer {
    int32_t         labels, inputs;           /* L, D */
    int64_t         slots;                    /* all blocks' G*S together; below 2^31 */
    haste_dtype     dtype, state_dtype;
    haste_loss      loss;
    haste_optimizer optimizer;
    int32_t         block_count;
    haste_block     block[HASTE_MAX_BLOCKS];
    int32_t        *label_of;                 /* [slots] label id, or -1: padding */
    int32_t        *slot_of;                  /* [L]     its inverse */
    uint64_t        seed;                     /* of every random decision of this layer */
    int64_t         step;                     /* updates done so far; Adam's t, and the counter of random decisions */
    int64_t         rewires;                  /* calls of haste_rewire and haste_choose_inputs so far */
    int64_t         first_slot, first_group;  /* of a range: where it begins in the whole and what random */
    int32_t         first_block;              /* decisions count from; else 0. Not kept in files */
    uint64_t        order_id;                 /* a number by which gradients know the order of labels; 0 in a struct
                                                 that the caller has filled in */
    void           *memory;                   /* what haste_layer_free gives back, or NULL */
    size_t          bytes;                    /* its size */
} haste_layer;

/* In all options 0 means the default, and HASTE_NONE the value 0 where the default is another and 0 makes sense. */
typedef struct haste_block_options {
    int64_t labels;        /* how many labels it takes, in the order given; 0 in the last block: all that are left */
    int32_t group_size;    /* S; 0: 32 */
    int32_t fan_in;        /* F; 0: 64, or the slice's width where that is smaller; HASTE_DENSE, or the slice's width:
                              a dense block, without an index */
    int32_t begin, end;    /* slice of x; both 0: all of it */
} haste_block_options;

typedef struct haste_layer_options {
    int32_t             labels;             /* L: 1 .. 2^31 - 1, and slots (L rounded up to groups) below 2^31 */
    int32_t             inputs;             /* D: 1 .. 65,536 */
    int32_t             block_count;        /* 0: one sparse block with the defaults above */
    haste_block_options block[HASTE_MAX_BLOCKS];
    const int32_t      *order;              /* [L] a permutation of the ids: which label sits where; NULL: 0, 1, ... */
    const int64_t      *frequency;          /* [L] training positives of each label id: the bias starts at the prior.
                                               NULL: bias 0 */
    int64_t             samples;            /* N: training samples behind frequency */
    haste_loss          loss;
    haste_optimizer     optimizer;
    haste_dtype         dtype, state_dtype; /* bfloat16 is rounded stochastically */
    int32_t             zero_weights;       /* 1: start at 0; 0: uniform in +-1/sqrt(F) */
    int32_t             threads;            /* that fill it; 0: as many as OpenMP would use (1 without OpenMP) */
    uint64_t            seed;
    int64_t             first_slot, first_group;   /* the layer is a range of whole groups of a larger one, which is */
    int32_t             first_block;               /* never made: slots, groups and blocks before it; see
                                                      haste_layer_slice. All 0: a layer of its own */
} haste_layer_options;

/* Scratch memory of the calls, allocated once. One workspace serves one call at a time; threads that read the same
   layer bring one workspace each. */
typedef enum haste_purpose {
    HASTE_ANY_PURPOSE = 0,
    HASTE_TRAINING,           /* haste_train_step, _accumulate, _apply, _evaluate, _softmax_begin, _forward, _backward,
                                 _score, _score_inputs, _rewire */
    HASTE_PREDICTION          /* haste_forward, _score, _top_k, _above: without the memory that input gradients take */
} haste_purpose;

typedef struct haste_workspace_options {
    int32_t       batch;      /* the largest B; 0: 128 */
    int64_t       ids;        /* the most ids of a batch's positives, ignored, excluded, only, each; 0: 64 * batch */
    int32_t       top_k;      /* the largest k of haste_top_k; 0: 16 */
    int32_t       chunks;     /* into how many runs of groups the work is cut: part of the result's last bits, while the
                                 number of threads is not. Chunks beyond the number of threads even out the work, and
                                 each takes [B, D] floats to train; 0: one for every 8,192 slots, at least 16, at most
                                 64 */
    int32_t       threads;    /* 0: as many as OpenMP would use (1 without OpenMP) */
    haste_purpose purpose;    /* what it is for; other calls are refused */
    haste_path    path;
    int32_t       bf16_dot;   /* 1: haste_forward, haste_top_k and haste_above on layers of bfloat16 weights round x to
                                 bfloat16 too and take sums of two products at a time (AVX512-BF16, which flushes
                                 subnormal numbers to 0): with batches of 32 and more 1.3 to 1.8 times as fast as
                                 float32 weights; for one sample alone up to three times as slow as without. Logits
                                 change by about 2^-9 of the size of their terms. Training and layers of float32 do not
                                 look at it. Only on HASTE_PATH_AVX512 and where haste_has_bf16_dot() is 1 */
} haste_workspace_options;

typedef struct haste_workspace {
    int32_t       batch, top_k, chunks, threads;   /* as above, never 0 */
    int64_t       ids;
    haste_purpose purpose;
    haste_path    path;                            /* the one in use, never AUTO */
    int32_t       bf16_dot;
    int32_t       inputs, max_group, max_fan_in;   /* of the layer it was sized for: D, and the largest S and F */
    int32_t       owned;                           /* 1: haste_workspace_free gives memory back */
    void         *memory;                          /* its contents are the library's affair */
    size_t        bytes;
} haste_workspace;

/* Bytes that a layer and its companions take. Equal to what is then allocated (HASTE_MALLOC is asked for up to 72 bytes
   more each time, to align). */
typedef struct haste_plan {
    size_t weight, index, bias, state, order;   /* the parts of a layer, padding between arrays counted with the part
                                                   before */
    size_t layer;                               /* their sum: what haste_layer_create allocates */
    size_t workspace;                           /* what haste_workspace_create allocates */
    size_t gradient;                            /* what haste_gradient_create allocates */
    size_t rewire;                              /* what haste_rewire allocates while it runs */
    size_t scores;                              /* what haste_input_scores_create allocates for all groups */
    int64_t parameters;                         /* weights and biases of labels, padding not counted */
} haste_plan;

/* Gradients as large as the weights: for accumulation over micro-batches and for those who bring their own optimizer.
   Training with haste_train_step alone never needs one. A gradient belongs to layers of one seed, one arrangement of
   blocks and one order of labels; calls with another layer refuse it. */
typedef struct haste_gradient {
    float   *weight[HASTE_MAX_BLOCKS];   /* [G, F, S] of each block; NULL: not wanted (haste_backward only) */
    float   *bias[HASTE_MAX_BLOCKS];     /* [G, S]; the same */
    int32_t  pending;                    /* micro-batches in it that are not yet applied; who fills the arrays himself
                                            says 1, and the layer's rewires */
    int64_t  rewires;                    /* the layer's when the first of them was added: rows belong to inputs */
    uint64_t layer;                      /* which layers it belongs to */
    void    *memory;                     /* what haste_gradient_free gives back, or NULL */
    size_t   bytes;                      /* its size */
} haste_gradient;

/* The labels of one group by at most 32 samples, on their way through a loss of the caller's own. */
typedef struct haste_loss_tile {
    int32_t        samples, labels;   /* how many of the 32 numbers of a row count, and the rows */
    int32_t        first_sample;      /* b of the first sample */
    const int32_t *label;             /* [labels] ids */
    const float   *target;            /* [labels, 32] y of positives; others 0 */
    float         *logit;             /* [labels, 32] in: u (see haste_loss_options); out (=): d loss / du */
    float         *loss;              /* [32] (+=): each sample's loss */
} haste_loss_tile;

/* Called for one tile after the other, from several threads at once. */
typedef void haste_loss_function(void *context, const haste_loss_tile *tile);

/* Numbers that haste_softmax_begin gives for each sample: the largest u, the sum of e^(u - largest), the sum of the
   positives' y, that of y * label_weight, and how many labels are not ignored. */
#define HASTE_SOFTMAX_SUMS 5

/* What loss is asked for. With u = logit_scale * label_scale[l] * (z - margin * [l is a positive of b]) +
   label_offset[l] and y = 0, or of positives 1 or their positive_value, then smoothed: y * (1 - smoothing) + smoothing
   / 2,

     loss = scale * sum over b of sample_weight[b] * sum over l of label_weight[l] * loss(u, y)
     BCE            positive_weight * y * log(1 + e^-u) + (1 - y) * log(1 + e^u)
     squared hinge  positive_weight * y * max(0, 1 - u)^2 + (1 - y) * max(0, 1 + u)^2
     softmax        -t * log of the softmax of u, where t = y / (sum of y over the row), smoothed to t * (1 - smoothing)
                    + smoothing / (labels that are not ignored); 0 for a row without positives

   Recipes: logit adjustment, logQ: label_offset = log of the prior, -log q. Temperature T: logit_scale = 1 / T. Cosine
   logits (x normalised by the caller): label_scale = s / |w_l|; additive margins: margin. Propensities: positive_value
   = 1 / p_l. */
typedef struct haste_loss_options {
    double               scale;             /* of loss and all gradients; 0: 1 / B, rows left out counted */
    const float         *sample_weight;     /* [B], or NULL: 1 */
    const float         *positive_value;    /* beside each id of the positives: y, from 0; or NULL: 1 */
    const float         *label_weight;      /* [L], or NULL: 1 */
    const float         *label_scale;       /* [L], or NULL: 1 */
    const float         *label_offset;      /* [L], or NULL: 0 */
    const haste_lists   *ignored;           /* B lists of labels that take no part in their sample's loss; or NULL */
    float                logit_scale;       /* 0: 1 */
    float                margin;
    float                positive_weight;   /* BCE and hinge; 0: 1 */
    float                smoothing;         /* BCE, and softmax without label_weight; from 0 to below 1 */
    float                negligible;        /* slopes d loss / dz, before scale, that count as 0 where smaller */
    float                share;             /* of the groups without a positive in the batch that are visited, at random
                                               from (seed, step), with 1 / share times their weight; 0: 1, all */
    haste_loss_function *function;          /* a loss of one's own; with sample_weight, u and share */
    void                *context;           /* its first argument */
    const double        *softmax;           /* [B, HASTE_SOFTMAX_SUMS] of all shards together, from haste_softmax_begin
                                               and _merge; positives are this shard's. NULL: one layer */
} haste_loss_options;

/* Rates of one block that differ from those of the step. */
typedef struct haste_block_rates {
    float   lr, weight_decay;          /* 0: the step's; HASTE_NONE: 0 */
    float   momentum, beta1, beta2;    /* 0: the step's; HASTE_NONE: 0 */
    int32_t frozen;                    /* 1: nothing in this block changes, not by decay or momentum either */
} haste_block_rates;

typedef struct haste_step_options {
    haste_loss_options loss;
    float   lr;             /* learning rate; with 0 no weight changes, but the optimizer's state and layer->step do */
    float   momentum;       /* HASTE_MOMENTUM; 0: .9; HASTE_NONE: 0 */
    float   beta1, beta2;   /* HASTE_ADAMW; 0: .9 and .999; HASTE_NONE: 0 */
    float   eps;            /* HASTE_ADAMW; 0: 1e-8 */
    float   weight_decay;   /* wd; the bias is not decayed */
    float   clip;           /* largest norm of a gradient, which is scaled down to it: haste_apply of all weights and
                               biases together, haste_train_step of each group; 0: any */
    const haste_block_rates *block;   /* [block_count], or NULL */
    double *grad_norm;      /* out (=): the norm of all gradients of weights and biases, before clipping; or NULL */
} haste_step_options;

/* ---- >>api status and planning ------------------------------------------------------------------------------- */

/* haste_version: HASTE_VERSION of the implementation that was linked. */
HASTE_API int haste_version(void);

/* HASTE_CHECK_VERSION(error): does the implementation that was linked go with the header that the caller was compiled
   with? Returns HASTE_ERR_ARG where they differ in more than the patch number, or where a struct has another size
   (another header, packing or size of enumerations); the sentence says which. For programs that link a library, once at
   their start. */
#define HASTE_CHECK_VERSION(error) \
    haste_check_version((error), HASTE_VERSION, HASTE__STRUCTS(HASTE__NAME_AND_SIZE) (const char *)0)
HASTE_API haste_status haste_check_version(haste_error *error, int version, ...);

/* haste_error comes first: it is written to only if its own size is right. */
#define HASTE__STRUCTS(of)                                                                                             \
    of(haste_error) of(haste_lists) of(haste_sparse) of(haste_block) of(haste_layer) of(haste_block_options)           \
    of(haste_layer_options) of(haste_workspace_options) of(haste_workspace) of(haste_plan) of(haste_gradient)          \
    of(haste_loss_tile) of(haste_loss_options) of(haste_block_rates) of(haste_step_options) of(haste_group_options)    \
    of(haste_input_scores) of(haste_rewire_options) of(haste_metrics) of(haste_metrics_values) of(haste_section)       \
    of(haste_file) of(haste_rows) of(haste_search_options) of(haste_found)
#define HASTE__NAME_AND_SIZE(type) #type, sizeof(type),

/* haste_status_text: a short sentence for a status; never NULL. */
HASTE_API const char *haste_status_text(haste_status status);

/* haste_path_text: "portable", "avx2", ...; haste_path_best: what HASTE_PATH_AUTO becomes on this processor. */
HASTE_API const char *haste_path_text(haste_path path);
HASTE_API haste_path  haste_path_best(void);

/* haste_has_bf16_dot: 1 where haste_workspace_options.bf16_dot can be had (AVX512-BF16, a compiler that knows it). */
HASTE_API int haste_has_bf16_dot(void);

/* haste_plan_bytes: the memory that a layer and its companions will take, before anything is allocated.

     options   the layer's
     work      the workspace's, or NULL: the defaults
     plan      out (=)

   Returns HASTE_ERR_ARG or HASTE_ERR_SIZE for sizes and options that the functions which allocate would refuse; order
   and frequency are not read. O(1). Thread-safe. */
HASTE_API haste_status haste_plan_bytes(const haste_layer_options *options, const haste_workspace_options *work,
                                        haste_plan *plan, haste_error *error);

/* ---- >>api layer --------------------------------------------------------------------------------------------- */

/* haste_layer_create: a layer with its own memory; haste_layer_free gives it back (and zeroes the struct).
   haste_layer_init: the same in the caller's memory: plan.layer bytes, 64-byte aligned, which must outlive the layer.

   Indices: F distinct inputs a group, uniform, from (seed, group), ascending. Weights: uniform in +-1/sqrt(F) from
   (seed, slot, input's place), or 0; padding 0. Bias: with p = (n + .5) / (N + 1) from frequency n,
   log(p / (1 - p)) for BCE, 2p - 1 for the squared hinge, log p for softmax: with a million labels this is what makes
   the first steps sane. State: 0.

   Returns HASTE_ERR_ARG: sizes, F above the slice's width, S not a multiple of 8 in 8..256, blocks whose labels do
   not sum to L; HASTE_ERR_DATA: an order that is no permutation, a frequency outside 0..samples; HASTE_ERR_SIZE;
   HASTE_ERR_MEMORY.
   On failure nothing is allocated and *layer is unchanged (memory given to haste_layer_init may have been written).
   O(L*F). Paper: sections 3.1 and 3.3. */
HASTE_API haste_status haste_layer_create(haste_layer *layer, const haste_layer_options *options, haste_error *error);
HASTE_API haste_status haste_layer_init(haste_layer *layer, const haste_layer_options *options, void *memory,
                                        size_t bytes, haste_error *error);
HASTE_API void         haste_layer_free(haste_layer *layer);

/* haste_layer_check: every invariant of a layer: sizes, slices, strictly ascending indices, padding at 0, label_of and
   slot_of inverse to each other, finite weights, biases and state (Adam's first moment at most 1e18). Returns
   HASTE_ERR_STATE and names the first violation. O(L*F). Reads only. */
HASTE_API haste_status haste_layer_check(const haste_layer *layer, haste_error *error);

/* haste_workspace_create, _init, _free: as for the layer. A workspace serves every layer whose D, S and F are not
   larger than those it was made for; but its default chunks come from the layer that it was made with. */
HASTE_API haste_status haste_workspace_create(haste_workspace *work, const haste_layer *layer,
                                              const haste_workspace_options *options, haste_error *error);
HASTE_API haste_status haste_workspace_init(haste_workspace *work, const haste_layer *layer,
                                            const haste_workspace_options *options, void *memory, size_t bytes,
                                            haste_error *error);
HASTE_API void         haste_workspace_free(haste_workspace *work);

/* haste_gradient_create: zeroed buffers for all blocks of `layer`, plan.gradient bytes; haste_gradient_free gives them
   back.
   haste_gradient_init: over the caller's arrays, as they are: weight [block_count] and bias [block_count], of each
   block as in haste_gradient; either, and any array in them, may be NULL (only haste_backward takes such a gradient).
   haste_gradient_zero: zeroes the arrays and forgets what is pending. */
HASTE_API haste_status haste_gradient_create(haste_gradient *gradient, const haste_layer *layer, haste_error *error);
HASTE_API haste_status haste_gradient_init(haste_gradient *gradient, const haste_layer *layer, float *const *weight,
                                           float *const *bias, haste_error *error);
HASTE_API haste_status haste_gradient_zero(haste_gradient *gradient, const haste_layer *layer, haste_error *error);
HASTE_API void         haste_gradient_free(haste_gradient *gradient);

/* ---- >>api training ------------------------------------------------------------------------------------------ */

/* haste_train_step: the whole layer in ONE pass over the weights: logits, loss, its gradient, the update of weights and
   biases, and the gradient for x. Never a [B, L] array, never a gradient as large as the weights.

     layer      updated; layer->step += 1
     work       scratch
     x          [B, D] row-major
     B          samples, 0 .. work->batch. 0: nothing is done, but loss = 0
     positives  B lists of label ids
     options    learning rate etc.; NULL is an error
     loss       out (=): the loss before the update (see haste_loss_options); NULL: not wanted (saves its logarithms)
     grad_x     [B, D] (+=): d loss / d x, from the weights before the update; NULL: not wanted

   options->loss.negligible > 0: slopes (sigmoid(z) - y under BCE) that are smaller in magnitude count as 0 in all
   gradients; the loss counts everything. With many labels nearly all slopes are small, and 32 samples of a group that
   have no other cost their logits alone, a third of the step. (So do those whose hinge losses are all 0, whatever
   `negligible`.) Likewise where x is mostly 0, such as tf-idf columns: once a fourth of all inputs are 0 in 32 samples
   in a row, a group of which more than a fourth are leaves those out, of logits, and of weight gradients where they are
   0 in the whole batch; with the same bits. options->loss.share < 1: the cost is that of the groups that are visited;
   others stay as they are. The expectation of loss and gradients is that of all groups (of softmax: the sums of
   exponentials are, not their logarithms).

   SGD: g += wd*w; w -= lr*g. Momentum: g += wd*w; v = mu*v + g; w -= lr*v. AdamW: w -= lr*wd*w, then Adam with bias
   correction. bfloat16 weights and state are rounded stochastically, from (seed, step, slot, place).

   Returns HASTE_ERR_ARG, HASTE_ERR_SIZE (B or the lists exceed the workspace), HASTE_ERR_DATA (x not finite, bad
   lists): nothing is changed. HASTE_ERR_NONFINITE: groups with a logit, a gradient or an updated weight that is not
   finite were left as they were, with their state and biases, the others updated; grad_x and loss are unspecified. A
   group whose weight gradient reaches 1e18 counts as not finite.
   6*B*L*F flops (softmax 8), and the weights are read and written once. One thread at a time per layer and workspace;
   it uses work->threads threads. The same bits for any number of them. Paper: section 3.2 (three kernels, fused). */
HASTE_API haste_status haste_train_step(haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                        const haste_lists *positives, const haste_step_options *options, double *loss,
                                        float *grad_x, haste_error *error);

/* haste_accumulate: as haste_train_step, but adds (+=) the gradients of weights and biases to `gradient` and updates
   nothing; gradient->pending += 1. options->loss.scale: 1 / the number of samples of all micro-batches together (with 0
   each call takes 1 / its own B, and the sum of k calls is k times too large).
   haste_apply: one update from the accumulated gradients, or from those of haste_backward, which are then zeroed;
   layer->step += 1, gradient->pending = 0; it does not look at options->loss. A group with a logit or gradient that
   is not usable adds nothing in that call (HASTE_ERR_NONFINITE); decay, momentum and what other calls added still move
   it. haste_apply itself leaves alone groups whose gradient is not finite, or reaches 1e18, or would make a weight
   infinite. Errors as of haste_train_step; and HASTE_ERR_STATE, nothing being changed, for a gradient that belongs to
   another layer, for pending gradients from before a haste_rewire, and where haste_apply finds nothing pending. */
HASTE_API haste_status haste_accumulate(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                        const haste_lists *positives, const haste_step_options *options,
                                        haste_gradient *gradient, double *loss, float *grad_x, haste_error *error);
HASTE_API haste_status haste_apply(haste_layer *layer, haste_workspace *work, haste_gradient *gradient,
                                   const haste_step_options *options, haste_error *error);

/* haste_evaluate: the loss of haste_train_step, and its gradient for x, without an update: nothing in the layer
   changes. options: NULL: the defaults. 2*B*L*F flops, with grad_x 4 (softmax 4 and 6). Errors as of haste_train_step.
   Thread-safe with one workspace each. */
HASTE_API haste_status haste_evaluate(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                      const haste_lists *positives, const haste_loss_options *options, double *loss,
                                      float *grad_x, haste_error *error);

/* Softmax over labels that lie in several layers, or machines (shards), each with its own positives:
     haste_softmax_begin    sums [B, HASTE_SOFTMAX_SUMS] (=): what this layer's labels contribute; 2*B*L*F flops
     haste_softmax_merge    sums (in, out) takes those of another shard
   then haste_train_step, _accumulate or _evaluate of each with loss.softmax = the merged sums: their losses, and their
   grad_x, add up to those of one layer with all labels. `options` are the loss's of the step, the same on all shards;
   NULL: the defaults. Errors as of haste_train_step (HASTE_ERR_NONFINITE: sums lack what is not finite); HASTE_ERR_ARG
   for another loss. Thread-safe with one workspace each. */
HASTE_API haste_status haste_softmax_begin(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                           const haste_lists *positives, const haste_loss_options *options,
                                           double *sums, haste_error *error);
HASTE_API haste_status haste_softmax_merge(double *sums, const double *other, int32_t B, haste_error *error);

/* haste_forward: logits of a batch, in slot order (layer->label_of names the label of a slot).

     logits[b, first_slot + g*S + s] = bias[g,s] + sum over f < F of weight[g,f,s] * x[b, begin + index[g,f]]

     logits   [B, slots] row-major (=); padding slots become 0. From 16 MiB on fastest where rows begin at cache lines:
              logits aligned to 64 bytes, and slots and S multiples of 16.

   For users with a loss of their own; haste_train_step needs no such array. 2*B*L*F flops. Thread-safe with one
   workspace each. HASTE_ERR_ARG, HASTE_ERR_SIZE, HASTE_ERR_DATA; a logit that is not finite is returned as it is.
   Paper: section 3.1. */
HASTE_API haste_status haste_forward(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                     float *logits, haste_error *error);

/* haste_backward: gradients from logit gradients.

     grad_weight[g,f,s] = sum over b of grad_logits[b, slot] * x[b, begin + index[g,f]]
     grad_x[b,d]       += sum over the groups that read d, and their labels, of grad_logits[b, slot] * weight[g,f,s]
     grad_bias[g,s]     = sum over b of grad_logits[b, slot]

     grad_logits  [B, slots] row-major; what padding slots hold does not matter
     gradient     (=) its arrays, padding 0; pending = 1; NULL: not wanted. B = 0 leaves it as it is
     grad_x       [B, D] (+=); NULL: not wanted

   4*B*L*F flops. HASTE_ERR_ARG, HASTE_ERR_SIZE, HASTE_ERR_DATA; HASTE_ERR_STATE for a gradient of another layer;
   grad_logits is not checked. Paper: section 3.2. */
HASTE_API haste_status haste_backward(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                      const float *grad_logits, haste_gradient *gradient, float *grad_x,
                                      haste_error *error);

/* ---- >>api prediction ---------------------------------------------------------------------------------------- */

/* haste_score: logits of given labels: score[j - offset[0]] belongs to candidates.id[j] of its sample.

     score   [offset[B] - offset[0]] (=)

   2*F flops a candidate. Any B, any number of candidates, any workspace: of it, path, threads and scratch are used.
   Candidates of one group are computed together, so that many in one call cost less each. HASTE_ERR_ARG,
   HASTE_ERR_DATA. */
HASTE_API haste_status haste_score(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                   const haste_lists *candidates, float *score, haste_error *error);

/* Which labels a search may find: those listed in `only` and not in `excluded`. */
typedef struct haste_search_options {
    const haste_lists *excluded;   /* B lists of labels; or NULL: none */
    const haste_lists *only;       /* B lists of labels, one that is listed twice counts once; or NULL: all labels */
} haste_search_options;

/* haste_top_k: the k labels with the largest logits of each sample, best first; ties go to the smaller id. Streams over
   the weights: never a [B, L] array.

     options   or NULL: all labels
     id        [B, k] (=): label ids; -1 where fewer than k labels are left
     score     [B, k] (=): their logits; -inf beside id -1. NULL: not wanted

   1 <= k <= work->top_k. 2*B*L*F flops; reads the weights once. With options->only it is 2*F flops for each label
   listed, as in haste_score, whose logits these are (they do not look at bf16_dot), or 2*B*S*F for a group, where that
   is less; and groups of which nothing is listed are not read. A logit that is not finite, of those computed, is an
   error (HASTE_ERR_NONFINITE; id and score are then unspecified). Thread-safe with one workspace each. */
HASTE_API haste_status haste_top_k(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                   int32_t k, const haste_search_options *options, int32_t *id, float *score,
                                   haste_error *error);

/* haste_above: all labels with a logit above a threshold, each sample's best first, ties by id.

     offset     [B+1] (=): where each sample's labels begin, from 0
     id, score  [capacity] (=)
     needed     (=): how many there are in all

   Where needed > capacity: HASTE_ERR_SIZE, with offset and needed set and id and score untouched. Two passes over
   the weights. For a probability p under BCE the threshold is log(p / (1 - p)). */
HASTE_API haste_status haste_above(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                   float threshold, const haste_search_options *options, int64_t *offset, int32_t *id,
                                   float *score, int64_t capacity, int64_t *needed, haste_error *error);

/* What a search found in a shard: a layer of its own, whose labels have ids of their own. */
typedef struct haste_found {
    const int64_t *offset;   /* [B+1], of haste_above */
    const int32_t *id;       /* of haste_top_k [B, k]; of haste_above as in haste_lists */
    const float   *score;    /* beside each id */
    int32_t        labels;   /* of the shard: its ids are below it */
    const int32_t *map;      /* [labels] their ids in the whole, ascending, as of haste_layer_slice; or NULL: */
    int32_t        first;    /* these are id + first */
} haste_found;

/* haste_top_k_merge: from each sample's k best labels in every shard the k best of all, as haste_top_k gives them.
   Where shards have no label in common, and together all, it is what haste_top_k finds in the whole, bit for bit.

     shards     [count]; each list also in the whole's ids best first, ties by id
     id, score  [B, k] (=), not those of a shard; -1 and -inf where fewer than k labels are left

   HASTE_ERR_DATA: lists in another order, ids out of range, a score that is not finite. At most O(count * B * k^2).
   Thread-safe.

   haste_above_merge: the same for haste_above; offset (not that of a shard either), capacity and needed as there.
   O(n log n). */
HASTE_API haste_status haste_top_k_merge(const haste_found *shards, int32_t count, int32_t B, int32_t k, int32_t *id,
                                         float *score, haste_error *error);
HASTE_API haste_status haste_above_merge(const haste_found *shards, int32_t count, int32_t B, int64_t *offset,
                                         int32_t *id, float *score, int64_t capacity, int64_t *needed,
                                         haste_error *error);

/* ---- >>api grouping ------------------------------------------------------------------------------------------ */

/* haste_order_by_frequency: label ids, most frequent first, ties by id: order [L] (=). The paper's head comes first. */
HASTE_API haste_status haste_order_by_frequency(const int64_t *frequency, int32_t L, int32_t *order,
                                                haste_error *error);

/* haste_order_random: shuffles order[0..n) from seed. */
HASTE_API haste_status haste_order_random(int32_t *order, int64_t n, uint64_t seed, haste_error *error);

/* haste_embed_sparse, haste_embed_dense: add (+=) the unit-length feature vector of each sample to the row of each of
   its labels. Call once per batch of training data; zero `embedding` before the first and call haste_embed_finish after
   the last.

     embedding  [L, E] row-major (+=)
     x          sparse: [B] bags over any number of features, each reduced to E dimensions by a random projection with
                entries +-1/sqrt(E) made from (seed, feature, dimension), never stored
                dense: [B, E] row-major
     positives  B lists of label ids
     threads    0: as many as OpenMP would use; the result is the same for any number

   haste_embed_finish scales every row to length 1; rows of labels without positives stay 0. It runs in one thread.
   Paper: eq. 1. */
HASTE_API haste_status haste_embed_sparse(float *embedding, int32_t L, int32_t E, uint64_t seed, const haste_sparse *x,
                                          int32_t B, const haste_lists *positives, int32_t threads, haste_error *error);
HASTE_API haste_status haste_embed_dense(float *embedding, int32_t L, int32_t E, const float *x, int32_t B,
                                         const haste_lists *positives, int32_t threads, haste_error *error);
HASTE_API haste_status haste_embed_finish(float *embedding, int32_t L, int32_t E, haste_error *error);

typedef struct haste_group_options {
    int32_t  group_size;   /* S; 0: 32 */
    int32_t  iterations;   /* rounds of exchanges between groups that are alike, after the bisection; 0: 16;
                              HASTE_NONE: 0 */
    int32_t  threads;      /* 0: as many as OpenMP would use; the result is the same for any number */
    uint64_t seed;
} haste_group_options;

/* haste_group: reorders order[0..n) so that each run of S labels looks alike: maximises the summed cosine of labels to
   the centroid of their group (paper, eq. 2) with exactly S labels a group, only the last one short.

     embedding  [L, E] rows of length 1 or 0, from haste_embed_finish
     order      [n] label ids (in, out); pass order + H and L - H to keep a head of H labels where it is
     options    or NULL: the defaults

   Recursive balanced bisection, then rounds of exchanges between groups that are alike. Labels whose row is 0 fill up
   last. Extra memory: about 9 bytes a label, one row of E for each group, and 16 * S KiB and 400 * E bytes a thread.
   Deterministic in the seed, and the same for any number of threads. HASTE_ERR_DATA: an id out of range or twice in the
   order, a row whose length is neither 1 nor 0. */
HASTE_API haste_status haste_group(const float *embedding, int32_t L, int32_t E, int32_t *order, int64_t n,
                                   const haste_group_options *options, haste_error *error);

/* haste_cohesion: how alike the labels of a group are in any order, and what haste_group maximises: the mean, over the
   labels that have an embedding, of the cosine to the centroid of their group.

     order     [n] label ids; each run of S is a group
     threads   0: as many as OpenMP would use; the result is the same for any number
     cohesion  out (=): 0 without such labels
     empty     out (=): how many of the n labels have no embedding; NULL: not wanted */
HASTE_API haste_status haste_cohesion(const float *embedding, int32_t L, int32_t E, const int32_t *order, int64_t n,
                                      int32_t S, int32_t threads, double *cohesion, int64_t *empty, haste_error *error);

/* ---- >>api rewiring ------------------------------------------------------------------------------------------ */

typedef enum haste_prune  { HASTE_PRUNE_MAGNITUDE = 0, HASTE_PRUNE_SALIENCY = 1 } haste_prune;
typedef enum haste_scope  { HASTE_SCOPE_BLOCK = 0, HASTE_SCOPE_GROUP = 1 } haste_scope;
typedef enum haste_growth { HASTE_GROW_RANDOM = 0, HASTE_GROW_GRADIENT = 1 } haste_growth;

/* What each input of x is worth to each group of a range, summed over batches: to a group that has it, the mean over
   its labels of |w * gradient|, to others that of |gradient|. As large as a dense layer divided by S; large layers go
   by ranges of groups. Sums of several machines may be added up in place. */
typedef struct haste_input_scores {
    int64_t  first_slot, end_slot;      /* the range: whole groups */
    float   *score[HASTE_MAX_BLOCKS];   /* [groups of the range, end - begin] of each block that can change; or NULL */
    int64_t  batches;                   /* that were added and not used */
    int64_t  rewires;                   /* the layer's when the first of them was added */
    uint64_t layer;                     /* which layers they belong to */
    void    *memory;                    /* what haste_input_scores_free gives back */
    size_t   bytes;                     /* its size: 4 * (end - begin) a group, each block rounded up to 64 */
} haste_input_scores;

/* Adds up what the shards of a layer have counted: number [n] (in, out). */
typedef void haste_sum_function(void *context, int64_t *number, int32_t n);

typedef struct haste_rewire_options {
    float        share;        /* rho: the share of all (group, input) places to move; 0 .. 1 */
    float        group_share;  /* at most this share of one group's places; 0: .5; HASTE_NONE: 0 */
    haste_prune  prune;        /* score of a place: mean |w| over the group's labels, or mean |w * gradient| */
    haste_scope  scope;        /* the lowest scores of the whole block, or of each group */
    haste_growth growth;       /* new inputs: uniform at random, or of the largest mean |gradient| (RigL's rule) */
    int32_t      uniform;      /* 1: new weights uniform in +-1/sqrt(F); 0: new weights 0 */
    haste_input_scores *scores;             /* gradients from these in place of a batch; only their groups move. Then
                                               they are zeroed. NULL: from the call's batch, all groups */
    int32_t     *origin[HASTE_MAX_BLOCKS];  /* [G, F] of each block, out (=): where row f of its group stood before; -1:
                                               it is new. NULL: not wanted */
    haste_sum_function *sum;                /* of shards: block scope ranks the places of all; NULL: one layer */
    void        *context;                   /* its first argument */
    const double *softmax;                  /* of shards, for the batch: as in haste_loss_options */
} haste_rewire_options;

/* haste_input_scores_create: zeroed scores for the groups from slot first_slot to end_slot (both 0: all groups, with
   plan.scores bytes); haste_input_scores_zero zeroes them again, for the layer as it is now; haste_input_scores_free
   gives them back. HASTE_ERR_ARG for a range that cuts a group.

   haste_score_inputs: adds what a batch says (+=), and changes nothing else; scores->batches += 1 (B = 0: nothing).

     options   the loss's; NULL: the defaults. Each batch counts with its scale; share must be 0 or 1, since all groups
               are to be seen

   2*B*S*D flops for each group of the range: all of them together cost as much as a dense layer's weight gradient, but
   that columns of x which are 0 in the whole batch may be left out (see haste_train_step). Softmax adds the logits of
   all groups, 2*B*L*F, whatever the range. Errors as of haste_train_step (HASTE_ERR_NONFINITE: groups with a logit or
   score that is not finite got nothing from this batch); HASTE_ERR_STATE for scores of another layer, or with batches
   from before a haste_rewire. The same bits for any number of threads. */
HASTE_API haste_status haste_input_scores_create(haste_input_scores *scores, const haste_layer *layer,
                                                 int64_t first_slot, int64_t end_slot, haste_error *error);
HASTE_API haste_status haste_input_scores_zero(haste_input_scores *scores, const haste_layer *layer,
                                               haste_error *error);
HASTE_API void         haste_input_scores_free(haste_input_scores *scores);
HASTE_API haste_status haste_score_inputs(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                          const haste_lists *positives, const haste_loss_options *options,
                                          haste_input_scores *scores, haste_error *error);

/* haste_rewire: prune the inputs that matter least to their group, and grow others in their place.

     layer      index, weight and weight_state of the moved places change, and rows are put in order;
                layer->rewires += 1
     work       scratch; its threads do the work
     x, B, positives   a batch, where saliency or gradient growth needs one (B = 0: nothing is done, and the call does
                not count); else, and with options->scores, not read: NULL, 0, NULL
     moved      out (=): how many places moved; or NULL

   Block scope moves the lowest floor(share*G*F) places of each block: of one group at most floor(group_share*F) and
   width - F, and where a group has reached that, the next lowest elsewhere take their turn. Group scope moves the
   lowest floor(share*F) of each group, with the same limit. So dense blocks never change. Ties go to the smaller
   position. floor forgives the rounding of a float: what is less than 2^-23 of itself below a whole number counts as
   that number, so that .7f of 10 is 7. Regrown inputs were not in the group and were not just pruned from it; their
   weights are new and their optimizer state is 0; indices stay distinct and ascending. Random growth repeats from
   (seed, rewires); so does what gradient growth draws where too few scores are above 0. Gradient growth works group by
   group from the batch, for groups that move something: 2*B*S*D flops each, never an [L, D] array. One batch says
   little of groups without a positive in it; options->scores are sums over as many as one likes. Large layers go range
   by range, each scored and rewired before the next is scored; block scope then moves a share of the range's places.

   Shards, ranges of one layer that together are all of it (haste_layer_slice), rewire as that layer does where each
   calls with `sum`: it is called by the caller's thread, equally often in all of them, with up to 2,048 numbers; moved
   is then of all. Where the call fails in one shard, the others wait in `sum` for it: the caller ends them.

   State that is 0: under AdamW the first updates of new rows reach sqrt(10) * lr, as beta1 forgets the past sooner than
   beta2 does. An optimizer of one's own follows by origin: m[g, f] = origin < 0 ? 0 : old m[g, origin].

   Gradients that are pending, and scores, are not used any more (see haste_accumulate): apply them first.

   Returns HASTE_ERR_ARG, HASTE_ERR_SIZE, HASTE_ERR_DATA as haste_train_step; HASTE_ERR_MEMORY: it allocates plan.rewire
   bytes, 4 a place and a little for each thread; HASTE_ERR_NONFINITE where a group whose gradient was needed has a
   logit that is not finite, or a score is not; HASTE_ERR_STATE for scores of another layer, from before a haste_rewire,
   or without a batch. On any error nothing is changed, bit for bit. The same bits for any number of threads. Paper:
   Algorithm 3; it draws with replacement, prunes globally and grows at random. */
HASTE_API haste_status haste_rewire(haste_layer *layer, haste_workspace *work, const haste_rewire_options *options,
                                    const float *x, int32_t B, const haste_lists *positives, int64_t *moved,
                                    haste_error *error);

/* haste_schedule: learning-rate factor of a step: linear warm-up over `warmup` steps, 0 at step 0 and 1 at step
   `warmup`, then half a cosine to `floor` at step `total` and after. Where no step is to have the factor 0:
   haste_schedule(layer->step + 1, warmup, total + 1, floor).
   haste_rewire_share: share * half a cosine from 1 at step 0 to 0 at `end` and after. Pure. */
HASTE_API double haste_schedule(int64_t step, int64_t warmup, int64_t total, double floor);
HASTE_API double haste_rewire_share(int64_t step, int64_t end, double share);

/* ---- >>api metrics ------------------------------------------------------------------------------------------- */

#define HASTE_MAX_K 64

/* Sums over samples; read them with haste_metrics_get. */
typedef struct haste_metrics {
    int32_t k;                                    /* depth: 1 .. HASTE_MAX_K */
    int64_t samples;                              /* all samples, those without a positive included */
    double  hits[HASTE_MAX_K];                    /* [i]: samples whose prediction at rank i is right */
    double  ndcg[HASTE_MAX_K], recall[HASTE_MAX_K];
    double  psp[HASTE_MAX_K], psp_best[HASTE_MAX_K];
    double  psndcg[HASTE_MAX_K], psndcg_best[HASTE_MAX_K];
} haste_metrics;

/* The five measures at one k, in percent. */
typedef struct haste_metrics_values { double precision, ndcg, recall, psp, psndcg; } haste_metrics_values;

/* haste_inverse_propensity: of each label, 1/p: out[l] = 1 + c * (n_l + b)^(-a), c = (log N - 1) * (b + 1)^a, from
   TRAINING frequencies n and the number N of training samples (Jain et al. 2016). a = b = 0: the defaults .55 and 1.5;
   else a 0 .. 100, b above 0 and at most 1e9. Natural logarithm. For N below 3, where c would be negative, it is 0:
   every label counts 1. */
HASTE_API haste_status haste_inverse_propensity(const int64_t *frequency, int32_t L, int64_t N, double a, double b,
                                                double *out, haste_error *error);

/* haste_metrics_init: zero sums for depth k. haste_metrics_add: adds B samples.

     id       [B, k] predictions, best first, of which the first metrics->k of each sample are read; -1: none. A
              repeated id counts once; both keep their rank
     k        at least metrics->k
     truth    B lists of positives (a label twice counts once)
     inverse_propensity  [L] 1/p, from haste_inverse_propensity; or NULL: then psp and psndcg count every label 1
     filter   B lists: these ids are neither right nor wrong: they are removed from predictions and truth; or NULL. Ask
              haste_top_k to exclude them: else what follows moves up a rank, and the list is short at its end

   Everything is checked before the first sum changes. O(ids * log(longest list)); allocates for lists above 256 ids
   only.

   haste_metrics_get: at k; NaN for a k outside 1 .. metrics->k, 0 without samples. Conventions, with y the truth,
   r_1 .. r_k the predictions, N the samples:
     precision  1/N sum over samples of |{r_1..r_k} in y| / k; a sample without positives counts 0
     ndcg       1/N sum of DCG@k / ideal DCG@min(k, |y|), gain 1 / log2(rank + 1)
     recall     1/N sum of |{r_1..r_k} in y| / |y|; 0 where y is empty
     psp        sum of 1/(p k) over hits, divided by the same sum for the best possible predictions, over all samples
     psndcg     likewise with each sample's gain 1/p / log2(rank + 1) divided by the sum of 1/log2(i + 1),
                i <= min(k, |y|)
   Paper: section 4; Jain et al. 2016. */
HASTE_API haste_status haste_metrics_init(haste_metrics *metrics, int32_t k, haste_error *error);
HASTE_API haste_status haste_metrics_add(haste_metrics *metrics, const int32_t *id, int32_t B, int32_t k, int32_t L,
                                         const haste_lists *truth, const double *inverse_propensity,
                                         const haste_lists *filter, haste_error *error);
HASTE_API haste_metrics_values haste_metrics_get(const haste_metrics *metrics, int32_t k);

/* ---- >>api files --------------------------------------------------------------------------------------------- */

/* A named run of the caller's own bytes, kept in the model file beside the layer. */
typedef struct haste_section {
    char        name[24];   /* ends with 0; names beginning with "haste." are the library's */
    const void *data;
    uint64_t    bytes;
} haste_section;

/* A loaded file. The layer's arrays and the sections lie in its memory. */
typedef struct haste_file {
    haste_layer   layer;
    int32_t       section_count;                  /* the caller's sections only */
    haste_section section[HASTE_MAX_SECTIONS];
    void         *memory;                         /* the whole file */
    size_t        bytes;
    int32_t       mapped;                         /* 1: memory is a private mapping of the file; 2: the caller's */
} haste_file;

/* haste_save: layer, optimizer state, step, seed and the caller's sections, in one file. Written under a temporary
   name beside it (PATH.tmp-haste00), flushed to the disk (on POSIX systems), then renamed: a crash leaves the old
   file or the new one, and takes the room of both for a while.

     dtype   HASTE_BF16 stores float32 weights rounded to nearest, without optimizer state (it loads as a layer of
             HASTE_SGD); otherwise pass layer->dtype

   What stands at the path, on POSIX systems: a file is replaced, and its mode kept, its owner too where the process may
   give files away (not its ACLs; other hard links to it keep the old file). Of a symbolic link, what it leads to is
   replaced, or made where there is nothing yet. A device, FIFO, socket or directory is refused before anything is
   written. Threads and processes may save to one path at once: the last one's file stays. A process that is killed
   leaves its temporary; the next save to that path removes it, and leaves alone those that others still write. (A file
   system without locks, flock, cannot tell: there they stay.) On Windows a link is itself replaced, and the new file
   has the folder's rights; elsewhere nothing of this is known.

   A layer that could not be loaded again is not written: HASTE_ERR_STATE for what haste_layer_check finds, and for a
   weight too large for bfloat16. HASTE_ERR_ARG: names that are empty, repeated or the library's. HASTE_ERR_FILE: path
   and reason. Allocates nothing itself, and needs about 64 KiB of stack.

   haste_load: checks everything before it is used; a damaged file gives HASTE_ERR_FORMAT with a reason, and so does
   one that only a newer haste can read. map = 0: read it into memory, to train on; training goes on bit for bit. 1:
   map the file where the system can (elsewhere, and on big-endian machines, as 0), to predict: all is checked but
   weights and their state, which are not even read; haste_file_check does it. Training changes private copies of the
   pages that it writes, never the file; where the system does not grant so much memory the pages are read-only, and
   writing to them ends the program. Who shortens or overwrites a mapped file in place ends the program or changes its
   numbers; haste_save does neither, it replaces. On failure *file is unchanged. Files go from any machine to any other;
   the caller's sections are bytes, and stay as they are.

   haste_save_memory, haste_load_memory: the same with the caller's memory in place of a file: to send a model, to keep
   it inside another file, or to read one from a mapping of the caller's own. The bytes are those of the file, and so
   are the checks.

     memory    saving: [capacity] bytes (=), anywhere, none of them the layer's or a section's; NULL where capacity is 0
     needed    (=): the bytes of the file. Where needed > capacity: HASTE_ERR_SIZE, with needed set and memory untouched
     borrow    0: what is loaded lies in a copy; memory may lie anywhere. 1 (on big-endian machines as 0): it lies where
               it is, without a copy, as of a file that is mapped; memory is 64-byte aligned, must outlive *file, and is
               written to only by who trains the layer. haste_file_free leaves it alone

   haste_file_check: the rest for a mapped file, and the same again for one that was read: every checksum, then what
   haste_layer_check looks at. HASTE_ERR_FORMAT names the damaged section. It reads all of the file, once. A layer
   that was trained since it was loaded is no longer what the checksums say.

   haste_file_free gives all back. haste_file_find: a section by name, or NULL. */
HASTE_API haste_status haste_save(const char *path, const haste_layer *layer, haste_dtype dtype,
                                  const haste_section *sections, int32_t section_count, haste_error *error);
HASTE_API haste_status haste_load(const char *path, int32_t map, haste_file *file, haste_error *error);
HASTE_API haste_status haste_save_memory(void *memory, size_t capacity, const haste_layer *layer, haste_dtype dtype,
                                         const haste_section *sections, int32_t section_count, size_t *needed,
                                         haste_error *error);
HASTE_API haste_status haste_load_memory(const void *memory, size_t bytes, int32_t borrow, haste_file *file,
                                         haste_error *error);
HASTE_API haste_status haste_file_check(const haste_file *file, haste_error *error);
HASTE_API void         haste_file_free(haste_file *file);
HASTE_API const haste_section *haste_file_find(const haste_file *file, const char *name);

/* ---- >>api surgery ------------------------------------------------------------------------------------------- */

/* Layers taken apart and put together: labels read, written, added and removed; layers copied, converted, sliced,
   joined, and made from trained rows. Functions with `to` make a new layer (=) of others, which stay as they are; `to`
   must not be one of them, and haste_layer_free gives its memory back. Scratch while they run: haste_labels_add and
   haste_layer_from_rows 16 * D bytes, haste_labels_remove 4 * L. On failure nothing is changed and nothing stays
   allocated. All but haste_choose_inputs run in one thread. examples/surgery.c shows them. */

/* What labels are to hold, one row each: weights for all D columns, of which a label takes those its group reads. */
typedef struct haste_rows {
    const float        *dense;       /* [n, D] row-major; or NULL */
    const haste_sparse *sparse;      /* n rows, columns ascending and below D; or NULL. Both NULL: weights 0 */
    float               scale;       /* what all weights are multiplied by; 0: 1. (The mean vector of a label's examples
                                        is a start, times what makes its logits sensible.) */
    const float        *bias;        /* [n]; or NULL: the prior, as in haste_layer_create, from */
    const int64_t      *frequency;   /* [n] training positives, of */
    int64_t             samples;     /* so many samples; frequency NULL: bias 0 */
} haste_rows;

/* haste_labels_get: weights and biases of given labels, as dense rows.

     id       [n] label ids, in any order, also repeated; NULL: 0 .. n - 1
     weight   [n, D] row-major (=): 0 in columns that the label's group does not read; NULL: not wanted
     bias     [n] (=); NULL: not wanted

   haste_labels_get_sparse: the same weights as CSR rows: of each label the F that it has, columns ascending. Where all
   blocks have one F, column and value are [n, F]. With id NULL and n = L it is the whole layer.

     offset         [n+1] (=): where each row begins, from 0
     column, value  [capacity] (=); NULL where capacity is 0
     needed         (=): how many there are in all

   Where needed > capacity: HASTE_ERR_SIZE, with offset and needed set and column and value untouched. HASTE_ERR_DATA
   for ids out of range. O(n * D), O(n * F). */
HASTE_API haste_status haste_labels_get(const haste_layer *layer, const int32_t *id, int64_t n, float *weight,
                                        float *bias, haste_error *error);
HASTE_API haste_status haste_labels_get_sparse(const haste_layer *layer, const int32_t *id, int64_t n, int64_t *offset,
                                               int32_t *column, float *value, int64_t capacity, int64_t *needed,
                                               haste_error *error);

/* haste_labels_set: writes weights and biases of given labels, in place, and sets their optimizer state to 0. bfloat16
   is rounded to nearest.

     id     [n] label ids; of one that is repeated the last row counts; NULL: 0 .. n - 1
     rows   n of them; NULL: weights and biases 0
     kept   out (=): the share of the rows' energy (sum of squared weights) in columns that the labels' groups read; 1
            where there is none. NULL: not wanted

   A label with weights 0 and bias HASTE_RETIRED is retired: a search finds it after all others, training moves none of
   its weights beyond 1e-30 (with loss.negligible none at all), and written again it is back. So labels that come and go
   need no new layer. Smoothing would pull it up: under BCE give it label_weight 0, under softmax let it be ignored.

   HASTE_ERR_DATA: ids out of range; rows with columns that do not ascend, a value that is not finite or too large for
   the layer's dtype, a frequency outside 0 .. samples. */
#define HASTE_RETIRED (-1e9f)
HASTE_API haste_status haste_labels_set(haste_layer *layer, const int32_t *id, int64_t n, const haste_rows *rows,
                                        double *kept, haste_error *error);

/* haste_labels_add: a layer with n more labels, ids L .. L + n - 1. The others keep ids, weights and state, bit for
   bit.

     block       which block takes them: first the padding of its last group, then new groups behind it
     rows, kept  as above. State is 0: under AdamW the first updates of new labels reach sqrt(10) * lr
     strongest   0: the inputs of new groups are drawn from the seed, as for a layer created with so many labels.
                 1: those in which the rows of a group hold the most energy; where too few hold any, the rest is drawn

   haste_labels_remove: a layer without given labels (one that is repeated counts once). The others keep weights and
   state, bit for bit, and so their logits; their ids close ranks in the old order.

     new_id   [L] (=): of each label; -1: removed

   A group keeps its inputs and what is left of its labels; in dense blocks, where all groups read the same, labels move
   up. Groups and blocks without labels vanish, and S of a sparse block that lost some is halved while it is a multiple
   of 32 and no group has more labels left. Only the last group of a block may be short: the shortest becomes the last,
   and gaps in others are filled with retired labels, whose ids come after those of all others: to->labels minus the
   labels that are left. HASTE_ERR_ARG where no label is left.
   Groups are not put together, since each reads inputs of its own: a layer with S 32 that loses labels at random keeps
   its memory until about a fifth of them is left, and from then on half of it. Smaller, but not exact (see kept) and
   without state, is a new layer of the rows that are left: haste_labels_get_sparse, then haste_layer_from_rows. */
HASTE_API haste_status haste_labels_add(haste_layer *to, const haste_layer *from, int32_t block, int32_t n,
                                        const haste_rows *rows, int32_t strongest, double *kept, haste_error *error);
HASTE_API haste_status haste_labels_remove(haste_layer *to, const haste_layer *from, const int32_t *id, int64_t n,
                                           int32_t *new_id, haste_error *error);

/* haste_layer_copy: a copy in memory of its own, laid out as that of a new layer, wherever `from` lies (a file, a
   slice). With from->dtype, state_dtype and optimizer it has the same bits. Else numbers are rounded to nearest
   (HASTE_ERR_STATE for one that bfloat16 cannot hold), and state is kept where the optimizer stays, else 0; step,
   Adam's t, becomes 0 where the optimizer becomes HASTE_ADAMW.

   haste_layer_attach: a layer over memory that holds one already, such as shared memory, or a tensor that was moved.
   What a layer's memory contains (layer.memory, layer.bytes) is the same wherever it lies.

     layer     (=)
     options   those that it was made with; order and frequency are not read. step and rewires become 0: set them to go
               on training. NULL: *layer, a copy of its struct, says sizes, seed, step and rewires; its pointers are not
               followed
     memory    plan.layer bytes, 64-byte aligned, only read here; must outlive the layer, whose haste_layer_free leaves
               it alone

   HASTE_ERR_STATE for what haste_layer_check finds there. */
HASTE_API haste_status haste_layer_copy(haste_layer *to, const haste_layer *from, haste_dtype dtype,
                                        haste_dtype state_dtype, haste_optimizer optimizer, haste_error *error);
HASTE_API haste_status haste_layer_attach(haste_layer *layer, const haste_layer_options *options, void *memory,
                                          size_t bytes, haste_error *error);

/* haste_layer_slice: a range of whole groups as a layer of its own, in O(L) and without copying: indices, weights,
   biases and state are those of `from`, which must outlive it; who trains one trains the other, but for step and
   rewires. haste_layer_copy cuts it loose. Its labels have local ids, in the order of their ids in `from`: ties fall
   alike. Its first_slot, first_group and first_block say where it begins, so that it draws, rounds and rewires as those
   groups do in `from`; a layer that is created with them is such a range of a whole that is never made.

     first_slot, end_slot   where the range begins and ends: between groups
     id                     [end_slot - first_slot] (=): of each local id the one in `from`, ascending; the rest -1.
                            NULL: not wanted

   haste_layer_join: one layer of several, their blocks one after another, copied. Where a block has the S, F and slice
   of the one before, and that ends with a full group, they become one. So slices in a row join to what they were cut
   from, bit for bit, and a layer of new labels joins as blocks of its own.

     from   [count] layers of equal inputs, loss, optimizer and dtypes; seed, step and rewires are those of the first
     id     [count]: for each layer [its labels], their ids in `to`, together a permutation; NULL: the first's stay, the
            others follow

   HASTE_ERR_ARG: a range that cuts a group; layers that differ, more than HASTE_MAX_BLOCKS blocks. HASTE_ERR_DATA: ids
   that are no permutation. */
HASTE_API haste_status haste_layer_slice(haste_layer *to, const haste_layer *from, int64_t first_slot, int64_t end_slot,
                                         int32_t *id, haste_error *error);
HASTE_API haste_status haste_layer_join(haste_layer *to, const haste_layer *const *from, int32_t count,
                                        const int32_t *const *id, haste_error *error);

/* haste_layer_from_rows: a sparse layer from a trained dense one. A group takes the F inputs of its slice in which the
   rows of its labels hold the most energy, ties by column; where too few hold any, the rest is drawn. Dense blocks over
   all columns are exact. State 0.

     options   the layer's, but for zero_weights. order says which labels share a group: haste_order_by_frequency,
               haste_group
     rows      L of them, in the order of the ids; without bias and frequency those of options count
     kept      out (=): the share of the energy that the layer has; NULL: not wanted */
HASTE_API haste_status haste_layer_from_rows(haste_layer *to, const haste_layer_options *options,
                                             const haste_rows *rows, double *kept, haste_error *error);

/* haste_choose_inputs: such a choice for a layer that is yet to be trained: groups get the F inputs in which rows of
   their labels hold the most energy, in place of drawn ones. Where x is fixed (tf-idf columns, a frozen encoder) it is
   worth many times what drawn inputs are, most where haste_group has put labels together that are alike.

     layer     index changes; weights stay as they are (place f was drawn for whatever input stands there)
     id        [n] the label of each row, in any order; of one that is repeated all rows count; NULL: 0 .. n - 1
     rows      n of them: such as the mean of a label's examples, scaled to length 1 (haste_embed_dense with E = D, or
               sparse). The energy of each counts frequency times; frequency NULL: once, which is worse where some
               labels of a group are much more frequent than others; 0: not at all. bias and samples are not read
     threads   0: as many as OpenMP would use; the result is the same for any number
     kept      out (=): the share of the rows' energy, each counted once, that the groups' inputs hold; NULL: not wanted

   Groups that hold none of the labels keep their inputs, so large layers may go by ranges of groups: labels
   layer->label_of[first_slot ..] at a time. Labels that are not named count as 0. Where too few inputs hold any energy,
   the rest is drawn, from (seed, group). layer->rewires += 1. Scratch: 16 * D bytes a thread, 8 a row. HASTE_ERR_STATE
   where layer->step is not 0. Weights that were set and not trained (haste_labels_set, haste_layer_from_rows, an
   attached layer) mean other inputs afterwards: choose first. Other errors as of haste_labels_set. */
HASTE_API haste_status haste_choose_inputs(haste_layer *layer, const int32_t *id, int64_t n, const haste_rows *rows,
                                           int32_t threads, double *kept, haste_error *error);

/* ---- >>api reference ----------------------------------------------------------------------------------------- */

/* The same operations, slow and obvious, in double precision: what the tests compare with, and what to read first.
   Arrays are in the layouts above. They check nothing and allocate nothing. haste_loss_ref and haste_top_k_ref begin
   with the logits of haste_forward_ref.

   haste_forward_ref    logits [B, slots] (=)
   haste_loss_ref       from logits: loss (=), grad_logits [B, slots] (=; padding 0); options NULL: the defaults; it
                        does not look at function, share and softmax. Last, what is below negligible * scale is zeroed
   haste_backward_ref   grad_weight, grad_bias: one array per block as in haste_gradient (=); grad_x [B, D] (=). Each
                        may be NULL
   haste_update_ref     one parameter w with gradient g and state m, v (in, out), for update number t = 1, 2, ...
   haste_top_k_ref      of one sample's logits [slots]: id [k], score [k] (=) */
HASTE_API void   haste_forward_ref(const haste_layer *layer, const float *x, int32_t B, double *logits);
HASTE_API void   haste_loss_ref(const haste_layer *layer, const double *logits, int32_t B, const haste_lists *positives,
                                const haste_loss_options *options, double *loss, double *grad_logits);
HASTE_API void   haste_backward_ref(const haste_layer *layer, const float *x, int32_t B, const double *grad_logits,
                                    double *const *grad_weight, double *const *grad_bias, double *grad_x);
HASTE_API double haste_update_ref(haste_optimizer optimizer, const haste_step_options *options, int64_t t, int decay,
                                  double w, double g, double *m, double *v);
HASTE_API void   haste_top_k_ref(const haste_layer *layer, const double *logits, int32_t k, const int32_t *excluded,
                                 int64_t excluded_count, int32_t *id, double *score);

#ifdef __cplusplus
}
#endif

#define HASTE__LETTERS 0   /* brings them back */
#include HASTE_FILE

#endif /* HASTE_H */

/* ================================================================================================================
   End of the API. What follows is the implementation, compiled where HASTE_IMPLEMENTATION is defined.
   ================================================================================================================ */

#if defined(HASTE_IMPLEMENTATION) && !defined(HASTE_IMPLEMENTATION_DONE) && !defined(HASTE__LETTERS)
#define HASTE_IMPLEMENTATION_DONE

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
    #error "haste.h looks for NaN and infinities: compile its implementation without -ffast-math and -ffinite-math-only"
#endif

#if defined(HASTE_MALLOC) && defined(HASTE_FREE)
    /* the caller's */
#elif !defined(HASTE_MALLOC) && !defined(HASTE_FREE)
    #define HASTE_MALLOC(bytes) malloc(bytes)
    #define HASTE_FREE(memory)  free(memory)
#else
    #error "define both of HASTE_MALLOC and HASTE_FREE, or neither"
#endif

#if defined(_OPENMP) && !defined(HASTE_PARALLEL_FOR)
    #include <omp.h>
#endif

#define HASTE__LETTERS 1
#include HASTE_FILE

#if defined(__GNUC__)
    #define HASTE__INLINE   static inline __attribute__((always_inline))
    #define HASTE__PRINTF(text, first) __attribute__((format(printf, text, first)))
#elif defined(_MSC_VER)
    #define HASTE__INLINE   static __forceinline
    #define HASTE__PRINTF(text, first)
#else
    #define HASTE__INLINE   static inline
    #define HASTE__PRINTF(text, first)
#endif

/* Samples in a block of the feature-major batch: an input of a block is one row of 32 floats, two cache lines. */
#define HASTE__SAMPLES 32
#define HASTE__ALIGN   64

/* ---- >>status ------------------------------------------------------------------------------------------------ */

int haste_version(void) { return HASTE_VERSION; }

const char *haste_status_text(haste_status status)
{
    switch (status) {
    case HASTE_OK:            return "no error";
    case HASTE_ERR_ARG:       return "an argument is missing or outside its range";
    case HASTE_ERR_SIZE:      return "a size overflows, or a buffer is too small";
    case HASTE_ERR_MEMORY:    return "out of memory";
    case HASTE_ERR_DATA:      return "the data are malformed or not finite";
    case HASTE_ERR_NONFINITE: return "a logit, gradient or updated weight became infinite or NaN";
    case HASTE_ERR_STATE:     return "the layer is not in a state that allows this";
    case HASTE_ERR_FILE:      return "a file could not be read or written";
    case HASTE_ERR_FORMAT:    return "the file is not a usable model file";
    case HASTE_ERR_DEVICE:    return "a CUDA call failed, or the device cannot do this";
    }
    return "unknown status";
}

/* Records what went wrong and returns the status, so that a check is one line: return haste__fail(error, ...). */
static haste_status haste__fail(haste_error *error, haste_status status, const char *format, ...) HASTE__PRINTF(3, 4);
static haste_status haste__fail(haste_error *error, haste_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        error->status = status;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof error->text, format, arguments);
        va_end(arguments);
    }
    return status;
}

haste_status haste_check_version(haste_error *error, int version, ...)
{
    #define HASTE__ROW(type) { #type, sizeof(type) },
    static const struct { const char *name; size_t bytes; } own[] = { HASTE__STRUCTS(HASTE__ROW) };
    const char *name;
    haste_status status = HASTE_OK;
    va_list theirs;
    va_start(theirs, version);
    while (status == HASTE_OK && (name = va_arg(theirs, const char *)) != NULL) {
        size_t bytes = va_arg(theirs, size_t), i = 0;
        while (i < sizeof own / sizeof own[0] && strcmp(own[i].name, name) != 0) i++;
        if (i == 0 && bytes != own[0].bytes) error = NULL;
        if (version / 100 != HASTE_VERSION / 100)
            status = haste__fail(error, HASTE_ERR_ARG, "the header is version %d.%d.%d of haste, the implementation "
                                 "%d.%d.%d", version / 10000, version / 100 % 100, version % 100,
                                 HASTE_VERSION_MAJOR, HASTE_VERSION_MINOR, HASTE_VERSION_PATCH);
        else if (i == sizeof own / sizeof own[0])
            status = haste__fail(error, HASTE_ERR_ARG, "%.60s is in the header, but not in the implementation", name);
        else if (bytes != own[i].bytes)
            status = haste__fail(error, HASTE_ERR_ARG, "%.60s has %lu bytes in the header, %lu in the implementation",
                                 name, (unsigned long)bytes, (unsigned long)own[i].bytes);
    }
    va_end(theirs);
    return status;
}

/* ---- >>sizes ------------------------------------------------------------------------------------------------- */

/* *size *= factor; 0 on overflow. */
static int haste__multiply(size_t *size, uint64_t factor)
{
    if (factor != 0 && *size > SIZE_MAX / factor) return 0;
    *size *= (size_t)factor;
    return 1;
}

/* Arrays that lie one after another in one piece of memory. The function that lays them out runs twice: with memory
   NULL it finds the size (end), with memory it hands out pointers; so what is allocated is what is used. */
typedef struct haste__arena {
    char  *memory;      /* 64-byte aligned, or NULL: only count */
    size_t end;         /* bytes so far, a multiple of 64 */
    int    overflow;    /* 1: their number is beyond size_t */
} haste__arena;

/* The next array, 64-byte aligned; NULL while memory is NULL or after an overflow. */
static void *haste__take(haste__arena *arena, uint64_t count, size_t width)
{
    const size_t begin = arena->end;
    size_t bytes = width;
    if (arena->overflow || !haste__multiply(&bytes, count) || bytes > SIZE_MAX - (HASTE__ALIGN - 1) - begin) {
        arena->overflow = 1;
        return NULL;
    }
    arena->end = begin + (bytes + HASTE__ALIGN - 1) / HASTE__ALIGN * HASTE__ALIGN;
    return arena->memory ? arena->memory + begin : NULL;
}

/* Memory aligned to 64 bytes from an allocator that promises less: the pointer to give back is kept just below. */
static void *haste__allocate(size_t bytes)
{
    char *base, *aligned;
    if (bytes > SIZE_MAX - HASTE__ALIGN - sizeof(void *)) return NULL;
    base = (char *)HASTE_MALLOC(bytes + HASTE__ALIGN + sizeof(void *));
    if (!base) return NULL;
    aligned = base + sizeof(void *);
    aligned += (HASTE__ALIGN - (uintptr_t)aligned % HASTE__ALIGN) % HASTE__ALIGN;
    memcpy(aligned - sizeof(void *), &base, sizeof base);
    return aligned;
}

static void haste__release(void *memory)
{
    char *base;
    if (!memory) return;
    memcpy(&base, (char *)memory - sizeof(void *), sizeof base);
    HASTE_FREE(base);
}

/* Memory for what an arena has counted, `what` it will hold; its second walk begins. */
static haste_status haste__reserve(haste__arena *arena, const char *what, haste_error *error)
{
    if (arena->overflow) return haste__fail(error, HASTE_ERR_SIZE, "the size of %s overflows size_t", what);
    arena->memory = (char *)haste__allocate(arena->end);
    if (!arena->memory)
        return haste__fail(error, HASTE_ERR_MEMORY, "no memory for %s: %llu bytes", what,
                           (unsigned long long)arena->end);
    arena->end = 0;
    return HASTE_OK;
}

/* ---- >>random ------------------------------------------------------------------------------------------------ */

/* Random decisions come from a counter, not from a state: the same (seed, stream, position) gives the same number on
   any thread and on any device. `stream` separates uses that share positions; the step counter goes into its upper
   bits. */
enum {
    HASTE__STREAM_INDEX = 1, HASTE__STREAM_WEIGHT, HASTE__STREAM_ROUND_WEIGHT, HASTE__STREAM_ROUND_STATE0,
    HASTE__STREAM_ROUND_STATE1, HASTE__STREAM_GROW, HASTE__STREAM_GROW_WEIGHT, HASTE__STREAM_SHUFFLE,
    HASTE__STREAM_PROJECT, HASTE__STREAM_GROUP, HASTE__STREAM_VISIT
};

HASTE__INLINE uint64_t haste__mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

HASTE__INLINE uint64_t haste__random(uint64_t seed, uint64_t stream, uint64_t position)
{
    return haste__mix(haste__mix(seed ^ (stream * UINT64_C(0x9e3779b97f4a7c15))) +
                      (position + 1) * UINT64_C(0x9e3779b97f4a7c15));
}

/* Uniform in [0, 1), a multiple of 2^-24. */
HASTE__INLINE float haste__uniform(uint64_t random) { return (float)(random >> 40) * (1.0f / 16777216.0f); }

/* Uniform in 0 .. n - 1 (n < 2^32), with a bias below n / 2^32. */
HASTE__INLINE uint32_t haste__below(uint64_t random, uint32_t n) { return (uint32_t)(((random >> 32) * n) >> 32); }

/* ---- >>bfloat16 ---------------------------------------------------------------------------------------------- */

HASTE__INLINE float haste__from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds up with the probability that makes the expectation exact: `noise` is uniform in 0 .. 65,535. Nearest-even
   rounding is noise = 0x7fff plus the lowest bit kept. Infinities and NaN stay what they are. */
HASTE__INLINE uint16_t haste__to_bf16_noise(float value, uint32_t noise)
{
    uint32_t bits, size;
    memcpy(&bits, &value, sizeof bits);
    size = bits & 0x7fffffffu;
    bits += noise & (0u - (uint32_t)(size < 0x7f800000u));
    bits |= 0x00400000u & (0u - (uint32_t)(size > 0x7f800000u));
    return (uint16_t)(bits >> 16);
}

HASTE__INLINE uint16_t haste__to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return haste__to_bf16_noise(value, 0x7fffu + ((bits >> 16) & 1u));
}

/* ---- >>threads ----------------------------------------------------------------------------------------------- */

/* Calls task(context, i, thread) once for each i in 0 .. n - 1, thread in 0 .. threads - 1, from at most `threads`
   threads at once. Nothing that a task computes may depend on `thread`: it only chooses scratch memory. */
typedef void haste__task(void *context, int64_t i, int thread);

static void haste__parallel(int64_t n, int threads, haste__task *task, void *context)
{
    int64_t i;
    if (threads <= 1 || n <= 1) {   /* so a task may call this with one thread */
        for (i = 0; i < n; i++) task(context, i, 0);
        return;
    }
#if defined(HASTE_PARALLEL_FOR)
    HASTE_PARALLEL_FOR(n, threads, task, context);
#elif defined(_OPENMP)
    #pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (i = 0; i < n; i++) task(context, i, omp_get_thread_num());
#else
    for (i = 0; i < n; i++) task(context, i, 0);
#endif
}

/* The number of threads an option of 0 stands for. */
static int haste__threads(int32_t wanted)
{
    if (wanted > 0) return wanted;
#if defined(_OPENMP) && !defined(HASTE_PARALLEL_FOR)
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static haste_status haste__threads_check(int32_t threads, haste_error *error)
{
    if (threads >= 0 && threads <= 4096) return HASTE_OK;
    return haste__fail(error, HASTE_ERR_ARG, "threads = %d, expected 0 (default) to 4096", (int)threads);
}

/* ---- >>kernels ----------------------------------------------------------------------------------------------- */

/* All arithmetic on a group is done by a handful of kernels, compiled once for each path:

     forward      z[s][b]         = sum over f of w[f][s] * x[index f][b] + bias[s]     32 samples b at a time
     predict      z[b][s]         = the same, as rows of labels                         up to 32 samples
     grad_input   dx[index f][b] += sum over s of w[f][s] * dz[s][b]                    32 samples at a time
     grad_weight  dw[f][s]        = sum over b of x[index f][b] * dzt[b][s]             any number of tiles; or +=

   x and dx are tiles [width][32] of the feature-major batch, so an input is one contiguous row found through the
   index: nothing is gathered or copied. All are the same small matrix product: a few rows of the result stay in
   registers while k runs, one row of the second matrix is loaded per k, and each row of the result adds its own
   scalar times that row.

   The kernels are ordinary text, in >>kernel text at the end of this file, written in operations on vectors that
   begin with hv_. For each path these are defined here, and then the file includes itself for the text:
   HASTE__KERNEL(forward) is haste__portable_forward, haste__avx2_forward, haste__avx512_forward or
   haste__neon_forward. No compiler has to unroll or vectorize anything. */

#if !defined(HASTE_NO_SIMD) && !defined(__CUDACC__)   /* nvcc's front end does not take target attributes */
    #if defined(__GNUC__) && defined(__x86_64__)
        #define HASTE__X86 1
        #include <immintrin.h>
    #elif defined(__aarch64__) && defined(__ARM_NEON)
        #define HASTE__NEON 1
        #include <arm_neon.h>
    #endif
#endif
#if !defined(HASTE__X86)
    #define HASTE__X86 0
#endif
#if !defined(HASTE__NEON)
    #define HASTE__NEON 0
#endif

/* Prefetches the cache line of p[ahead] into the second-level cache. */
#if defined(__GNUC__)
    #define HASTE__PREFETCH(p, ahead) __builtin_prefetch((p) + (ahead), 0, 2)
#else
    #define HASTE__PREFETCH(p, ahead) ((void)(p), (void)(ahead))
#endif

/* Non-temporal stores are not ordered with the stores after them: a thread fences before it says that it is done. */
#if HASTE__X86
    #define HASTE__FENCE() _mm_sfence()
#else
    #define HASTE__FENCE() ((void)0)
#endif

HASTE__INLINE uint32_t haste__bits(float value) { uint32_t bits; memcpy(&bits, &value, sizeof bits); return bits; }
HASTE__INLINE float haste__float(uint32_t bits) { float value; memcpy(&value, &bits, sizeof value); return value; }

/* The hyper-parameters of one update, with Adam's bias corrections worked out. */
typedef struct haste__rule { float lr, momentum, beta1, beta2, eps, decay, correct1, correct2; } haste__rule;

/* What predict computes of a group: logits z[b*stride + s] of `samples` samples. */
typedef struct haste__product {
    int             S, F, samples, bf16;   /* bf16: so are the weights */
    const uint16_t *index;                 /* [F], or NULL */
    const void     *w;                     /* [F, S] */
    const float    *bias;                  /* [S] */
    const void     *x;                     /* an input every `pitch` numbers: float; of haste__dot bfloat16 */
    float          *z;
    uint32_t       *pair;                  /* haste__dot: scratch, [ceil(F/2)][S + 32] */
    ptrdiff_t       pitch, stride, ahead;  /* ahead: the next group's weights lie so many numbers behind */
} haste__product;

/* A candidate of haste_score: label s of a group, for a sample's x (of the group's slice). */
typedef struct haste__candidate { const float *x; float *score; int s; } haste__candidate;

/* How grad_weight stores: =, += or = by non-temporal stores, which leave the caches alone. */
typedef enum haste__store_mode { HASTE__SET, HASTE__ADD, HASTE__NONTEMPORAL } haste__store_mode;

/* What each kernel does stands before it in >>kernel text. */
typedef struct haste__kernels {
    void (*forward)(int S, int F, const uint16_t *index, const float *w, const float *bias, const float *x, float *z,
                    ptrdiff_t ahead);
    void (*predict)(const haste__product *rows);
    void (*grad_input)(int S, int F, const uint16_t *index, const float *w, const float *dz, float *dx);
    void (*grad_weight)(int S, int F, const uint16_t *index, const float *x, ptrdiff_t tile_size, int tiles,
                        const float *dzt, float *dw, haste__store_mode store);
    void (*score)(const haste__product *rows, const haste__candidate *candidate, int n);
    void (*transpose)(int rows, int columns, const float *from, ptrdiff_t pitch, float *to, ptrdiff_t stride,
                      float *sum);
    void (*split_rows)(const float *from, ptrdiff_t pitch, int B, int S, int groups, float *to, ptrdiff_t stride,
                       float *sum);
    void (*stream)(const float *from, float *to, int n);
    int  (*bce)(float *z, int rows, float scale, float *loss);
    int  (*hinge)(float *z, int rows, float scale, float *loss);
    int  (*softmax)(float *z, int rows, const float *shift, const float *factor);
    int  (*sumexp)(const float *z, int rows, float *best, float *sum);
    void (*scan)(const float *z, int samples, int S, const float *floor, unsigned char *hit);
    int  (*drop_small)(float *z, int n, float least);
    int  (*all_below)(const float *a, int64_t n, float limit);
    void (*widen)(const uint16_t *in, float *out, int n);
    void (*narrow)(const float *in, uint16_t *out, int n, uint64_t random);
    void (*sgd)(float *w, const float *g, int n, const haste__rule *rule);
    void (*momentum)(float *w, const float *g, float *v, int n, const haste__rule *rule);
    void (*adamw)(float *w, const float *g, float *m, float *v, int n, const haste__rule *rule);
    void (*axpy)(float *y, float a, const float *x, int64_t n);
    float (*dot)(const float *a, const float *b, int64_t n);
    void (*dot4)(const float *a, const float *b, int64_t n, float *out);
    float (*sum_abs)(const float *a, const float *b, int n);
    void (*project)(float *row, int64_t words, uint64_t seed, const int32_t *feature, const float *value, int64_t n,
                    double scale, float (*sign)[8]);
} haste__kernels;

/* The rows of a matrix product's tile one after the other, as text: `rows` (1, 2, 4 or 8) and `vectors` (1, 2 or 4)
   are constants where these are used, so that a compiler sees only constant places of sum[8][4] and keeps them in
   registers, whatever it thinks of unrolling. Each adds `scalar` times the vectors b[]. */
#define HASTE__EACH_ROW(DO) \
    DO(0) if (rows > 1) { DO(1) } if (rows > 2) { DO(2) DO(3) } if (rows > 4) { DO(4) DO(5) DO(6) DO(7) }
#define HASTE__ZERO_ROW(i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = hv_set(0);
#define HASTE__ADD_TO_ROW(i, scalar) {                                                                                 \
        const hv_float a = hv_set(scalar);                                                                             \
        sum[i][0] = hv_fma(a, b[0], sum[i][0]);                                                                        \
        if (vectors > 1) sum[i][1] = hv_fma(a, b[1], sum[i][1]);                                                       \
        if (vectors > 2) { sum[i][2] = hv_fma(a, b[2], sum[i][2]); sum[i][3] = hv_fma(a, b[3], sum[i][3]); }           \
    }

/* ---- the portable path: four floats as the compiler's own vector type, where the processor is known to have such
   registers (x86-64 always has), else one float. */
#if defined(__GNUC__) && !defined(__CUDACC__) && \
    (defined(__SSE2__) || defined(__ARM_NEON) || defined(__ALTIVEC__) || defined(__wasm_simd128__))
    #define HASTE__VECTORS 1
#else
    #define HASTE__VECTORS 0
#endif

#if HASTE__VECTORS
    #define HV_LANES 4
    typedef float    haste__f32x4 __attribute__((vector_size(16)));
    typedef uint32_t haste__u32x4 __attribute__((vector_size(16)));
    typedef haste__f32x4 haste__lanes;
    typedef haste__u32x4 haste__lanes_bits;
    HASTE__INLINE haste__lanes haste__lanes_set(float a) { const haste__lanes v = { a, a, a, a }; return v; }
    HASTE__INLINE haste__lanes_bits haste__lanes_set_bits(uint32_t a)
    {
        const haste__lanes_bits v = { a, a, a, a };
        return v;
    }
    HASTE__INLINE haste__lanes_bits haste__lanes_less(haste__lanes a, haste__lanes b)
    {
        return (haste__lanes_bits)(a < b);
    }
    #if defined(__clang__) || __GNUC__ >= 12
        #define HASTE__SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector((a), (b), i, j, k, l)
    #else
        typedef int32_t haste__i32x4 __attribute__((vector_size(16)));
        HASTE__INLINE haste__lanes haste__lanes_shuffle(haste__lanes a, haste__lanes b, int i, int j, int k, int l)
        {
            const haste__i32x4 order = { i, j, k, l };
            return __builtin_shuffle(a, b, order);
        }
        #define HASTE__SHUFFLE(a, b, i, j, k, l) haste__lanes_shuffle((a), (b), i, j, k, l)
    #endif
#else
    #define HV_LANES 1
    typedef float    haste__lanes;
    typedef uint32_t haste__lanes_bits;
    HASTE__INLINE haste__lanes haste__lanes_set(float a) { return a; }
    HASTE__INLINE haste__lanes_bits haste__lanes_set_bits(uint32_t a) { return a; }
    HASTE__INLINE haste__lanes_bits haste__lanes_less(haste__lanes a, haste__lanes b) { return 0u - (uint32_t)(a < b); }
#endif

HASTE__INLINE haste__lanes haste__lanes_load(const float *p) { haste__lanes v; memcpy(&v, p, sizeof v); return v; }
HASTE__INLINE void haste__lanes_store(float *p, haste__lanes v) { memcpy(p, &v, sizeof v); }
HASTE__INLINE haste__lanes_bits haste__lanes_load_bits(const uint32_t *p)
{
    haste__lanes_bits v;
    memcpy(&v, p, sizeof v);
    return v;
}

HASTE__INLINE haste__lanes_bits haste__lanes_as_bits(haste__lanes v)
{
    haste__lanes_bits bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

HASTE__INLINE haste__lanes haste__lanes_as_float(haste__lanes_bits bits)
{
    haste__lanes v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

HASTE__INLINE haste__lanes haste__lanes_select(haste__lanes_bits mask, haste__lanes a, haste__lanes b)
{
    return haste__lanes_as_float((haste__lanes_as_bits(a) & mask) | (haste__lanes_as_bits(b) & ~mask));
}

HASTE__INLINE float haste__lanes_sum(haste__lanes v)
{
    float each[HV_LANES];
    memcpy(each, &v, sizeof each);
    return HV_LANES == 4 ? (each[0] + each[1 % HV_LANES]) + (each[2 % HV_LANES] + each[3 % HV_LANES]) : each[0];
}

/* Takes precision beyond float away, which x87's registers have and `haste__exp` must not see. */
HASTE__INLINE haste__lanes haste__lanes_rounded(haste__lanes v)
{
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
    volatile haste__lanes rounded = v;
    return rounded;
#else
    return v;
#endif
}

#if HASTE__VECTORS && defined(__SSE2__)
    #include <emmintrin.h>
    #define hv_max(a, b)     ((haste__lanes)_mm_max_ps((__m128)(a), (__m128)(b)))   /* b where a is NaN */
    #define hv_min(a, b)     ((haste__lanes)_mm_min_ps((__m128)(a), (__m128)(b)))
    #define hv_sqrt(a)       ((haste__lanes)_mm_sqrt_ps((__m128)(a)))
    #define hv_all(mask)     (_mm_movemask_ps((__m128)(mask)) == 15)
    #define hv_widen(p) \
        ((haste__lanes)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_loadl_epi64((const __m128i *)(const void *)(p))))
    #define hv_store_upper(p, bits) \
        _mm_storel_epi64((__m128i *)(void *)(p), \
                         _mm_packs_epi32(_mm_srai_epi32((__m128i)(bits), 16), _mm_setzero_si128()))
#else
    #define hv_max(a, b)     haste__lanes_select(haste__lanes_less((b), (a)), (a), (b))
    #define hv_min(a, b)     haste__lanes_select(haste__lanes_less((a), (b)), (a), (b))
    #define hv_sqrt(a)       haste__lanes_sqrt(a)
    #define hv_all(mask)     haste__lanes_all(mask)
    #define hv_widen(p)      haste__lanes_widen(p)
    #define hv_store_upper(p, bits) haste__lanes_store_upper((p), (bits))

HASTE__INLINE int haste__lanes_all(haste__lanes_bits mask)
{
    uint32_t each[HV_LANES], all = ~0u;
    int i;
    memcpy(each, &mask, sizeof each);
    for (i = 0; i < HV_LANES; i++) all &= each[i];
    return all != 0;
}

HASTE__INLINE haste__lanes haste__lanes_sqrt(haste__lanes v)
{
    float each[HV_LANES];
    int i;
    memcpy(each, &v, sizeof each);
    for (i = 0; i < HV_LANES; i++) each[i] = sqrtf(each[i]);
    memcpy(&v, each, sizeof v);
    return v;
}

HASTE__INLINE haste__lanes haste__lanes_widen(const uint16_t *p)
{
    uint32_t each[HV_LANES];
    int i;
    for (i = 0; i < HV_LANES; i++) each[i] = (uint32_t)p[i] << 16;
    return haste__lanes_as_float(haste__lanes_load_bits(each));
}

HASTE__INLINE void haste__lanes_store_upper(uint16_t *p, haste__lanes_bits bits)
{
    uint32_t each[HV_LANES];
    int i;
    memcpy(each, &bits, sizeof each);
    for (i = 0; i < HV_LANES; i++) p[i] = (uint16_t)(each[i] >> 16);
}
#endif

#define HASTE__KERNEL(name)  haste__portable_##name
/* rows of a tile of two vectors: as many as the registers hold, which hides the latency of the multiply-add */
#define HV_ROWS              4
#define hv_target
#define hv_float             haste__lanes
#define hv_bits              haste__lanes_bits
#define hv_mask              haste__lanes_bits
#define hv_load(p)           haste__lanes_load(p)
#define hv_load_bits(p)      haste__lanes_load_bits(p)
#define hv_store(p, v)       haste__lanes_store((p), (v))
#define hv_stream(p, v)      haste__lanes_store((p), (v))
#define hv_set(a)            haste__lanes_set(a)
#define hv_set_bits(a)       haste__lanes_set_bits(a)
#define hv_as_bits(v)        haste__lanes_as_bits(v)
#define hv_as_float(bits)    haste__lanes_as_float(bits)
#define hv_fma(a, b, c)      ((a) * (b) + (c))
#define hv_fma1(a, b, c)     ((a) * (b) + (c))
#define hv_reciprocal(v)     (hv_set(1) / (v))
#define hv_rounded(v)        haste__lanes_rounded(v)
#define hv_less(a, b)        haste__lanes_less((a), (b))
#define hv_select(m, a, b)   haste__lanes_select((m), (a), (b))
#define hv_sum(v)            haste__lanes_sum(v)
#if HASTE__VECTORS
    #define hv_load_quads(p, pitch) hv_load(p)
    #define hv_zip_low(a, b)   HASTE__SHUFFLE(a, b, 0, 4, 1, 5)
    #define hv_zip_high(a, b)  HASTE__SHUFFLE(a, b, 2, 6, 3, 7)
    #define hv_pair_low(a, b)  HASTE__SHUFFLE(a, b, 0, 1, 4, 5)
    #define hv_pair_high(a, b) HASTE__SHUFFLE(a, b, 2, 3, 6, 7)
#endif
#define HASTE__KERNEL_TEXT
#include HASTE_FILE

#if HASTE__X86
/* ---- AVX2 */
typedef uint32_t haste__u32x8 __attribute__((vector_size(32)));

#define HASTE__KERNEL(name)  haste__avx2_##name
#define HV_LANES             8
#define HV_ROWS              4
#define hv_target            __attribute__((target("avx2,fma")))
#define hv_float             __m256
#define hv_bits              haste__u32x8
#define hv_mask              haste__u32x8
#define hv_load(p)           _mm256_loadu_ps(p)
#define hv_load_bits(p)      ((hv_bits)_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define hv_store(p, v)       _mm256_storeu_ps((p), (v))
#define hv_stream(p, v)      _mm256_stream_ps((p), (v))
#define hv_set(a)            _mm256_set1_ps(a)
#define hv_set_bits(a)       ((hv_bits)_mm256_set1_epi32((int)(a)))
#define hv_as_bits(v)        ((hv_bits)(v))
#define hv_as_float(bits)    ((__m256)(bits))
#define hv_fma(a, b, c)      _mm256_fmadd_ps((a), (b), (c))
#define hv_fma1(a, b, c)     fmaf((a), (b), (c))
#define hv_max(a, b)         _mm256_max_ps((a), (b))
#define hv_min(a, b)         _mm256_min_ps((a), (b))
#define hv_sqrt(a)           _mm256_sqrt_ps(a)
#define hv_reciprocal(v)     (hv_set(1) / (v))
#define hv_rounded(v)        (v)
#define hv_less(a, b)        ((hv_mask)_mm256_cmp_ps((a), (b), _CMP_LT_OQ))
#define hv_select(m, a, b)   _mm256_blendv_ps((b), (a), (__m256)(m))
#define hv_all(mask)         (_mm256_movemask_ps((__m256)(mask)) == 0xff)
#define hv_sum(v)            haste__avx2_sum_lanes(v)
#define hv_widen(p) \
    ((__m256)((hv_bits)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))) << 16))
#define hv_store_upper(p, bits) haste__avx2_store_upper((p), (bits))
/* of a transposition: rows p and p + 4 rows share a register, whose halves then go the same way */
#define hv_load_quads(p, pitch) \
    _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps((p) + 4 * (pitch)), 1)
#define hv_zip_low(a, b)     _mm256_unpacklo_ps((a), (b))
#define hv_zip_high(a, b)    _mm256_unpackhi_ps((a), (b))
#define hv_pair_low(a, b)    _mm256_shuffle_ps((a), (b), 0x44)
#define hv_pair_high(a, b)   _mm256_shuffle_ps((a), (b), 0xee)

hv_target HASTE__INLINE float haste__avx2_sum_lanes(__m256 v)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

hv_target HASTE__INLINE void haste__avx2_store_upper(uint16_t *p, haste__u32x8 bits)
{
    const __m256i upper = (__m256i)(bits >> 16), packed = _mm256_packus_epi32(upper, upper);   /* in each half */
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 8)));
}

#define HASTE__KERNEL_TEXT
#include HASTE_FILE

/* ---- AVX-512. Some of its intrinsics are here in the form with a mask, all ones: of the plain forms g++ 12 warns. */
typedef uint32_t haste__u32x16 __attribute__((vector_size(64)));

#define HASTE__KERNEL(name)  haste__avx512_##name
#define HV_LANES             16
#define HV_ROWS              8
#define hv_target            __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define hv_float             __m512
#define hv_bits              haste__u32x16
#define hv_mask              unsigned   /* __mmask16 would be widened by & */
#define hv_load(p)           _mm512_loadu_ps(p)
#define hv_load_bits(p)      ((hv_bits)_mm512_loadu_si512(p))
#define hv_store(p, v)       _mm512_storeu_ps((p), (v))
#define hv_stream(p, v)      _mm512_stream_ps((p), (v))
#define hv_set(a)            _mm512_set1_ps(a)
#define hv_set_bits(a)       ((hv_bits)_mm512_set1_epi32((int)(a)))
#define hv_as_bits(v)        ((hv_bits)(v))
#define hv_as_float(bits)    ((__m512)(bits))
#define hv_fma(a, b, c)      _mm512_fmadd_ps((a), (b), (c))
#define hv_fma1(a, b, c)     fmaf((a), (b), (c))
#define hv_max(a, b)         _mm512_maskz_max_ps(0xffff, (a), (b))
#define hv_min(a, b)         _mm512_maskz_min_ps(0xffff, (a), (b))
#define hv_sqrt(a)           _mm512_maskz_sqrt_ps(0xffff, (a))
#define hv_reciprocal(v)     haste__avx512_reciprocal(v)
#define hv_rounded(v)        (v)
#define hv_less(a, b)        _mm512_cmp_ps_mask((a), (b), _CMP_LT_OQ)
#define hv_select(m, a, b)   _mm512_mask_blend_ps((__mmask16)(m), (b), (a))
#define hv_all(mask)         ((mask) == 0xffff)
#define hv_sum(v)            haste__avx512_sum_lanes(v)
#define hv_widen(p) \
    ((__m512)((hv_bits)_mm512_maskz_cvtepu16_epi32( \
        0xffff, _mm256_loadu_si256((const __m256i *)(const void *)(p))) << 16))
#define hv_store_upper(p, bits) \
    _mm256_storeu_si256((__m256i *)(void *)(p), _mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)((bits) >> 16)))

/* From 14 bits by one step of Newton's: off by 2e-7 at most, and faster than a division. */
hv_target HASTE__INLINE __m512 haste__avx512_reciprocal(__m512 v)
{
    const __m512 q = _mm512_maskz_rcp14_ps(0xffff, v);
    return _mm512_mul_ps(q, _mm512_fnmadd_ps(v, q, _mm512_set1_ps(2)));
}

hv_target HASTE__INLINE float haste__avx512_sum_lanes(__m512 v)
{
    return haste__avx2_sum_lanes(_mm256_add_ps((__m256)_mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 0),
                                               (__m256)_mm512_maskz_extractf64x4_pd(0xff, (__m512d)v, 1)));
}

#define HASTE__KERNEL_TEXT
#include HASTE_FILE
#endif

#if HASTE__NEON
/* ---- NEON */
#define HASTE__KERNEL(name)  haste__neon_##name
#define HV_LANES             4
#define HV_ROWS              8
#define hv_target
#define hv_float             float32x4_t
#define hv_bits              uint32x4_t
#define hv_mask              uint32x4_t
#define hv_load(p)           vld1q_f32(p)
#define hv_load_bits(p)      vld1q_u32(p)
#define hv_store(p, v)       vst1q_f32((p), (v))
#define hv_stream(p, v)      vst1q_f32((p), (v))
#define hv_set(a)            vdupq_n_f32(a)
#define hv_set_bits(a)       vdupq_n_u32(a)
#define hv_as_bits(v)        vreinterpretq_u32_f32(v)
#define hv_as_float(bits)    vreinterpretq_f32_u32(bits)
#define hv_fma(a, b, c)      vfmaq_f32((c), (a), (b))
#define hv_fma1(a, b, c)     fmaf((a), (b), (c))
#define hv_max(a, b)         vmaxq_f32((a), (b))
#define hv_min(a, b)         vminq_f32((a), (b))
#define hv_sqrt(a)           vsqrtq_f32(a)
#define hv_reciprocal(v)     (hv_set(1) / (v))
#define hv_rounded(v)        (v)
#define hv_less(a, b)        vcltq_f32((a), (b))
#define hv_select(m, a, b)   vbslq_f32((m), (a), (b))
#define hv_all(mask)         (vminvq_u32(mask) != 0)
#define hv_sum(v)            vaddvq_f32(v)
#define hv_widen(p)          vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#define hv_store_upper(p, bits) vst1_u16((p), vshrn_n_u32((bits), 16))
#define hv_load_quads(p, pitch) hv_load(p)
#define hv_zip_low(a, b)     vzip1q_f32((a), (b))
#define hv_zip_high(a, b)    vzip2q_f32((a), (b))
#define hv_pair_low(a, b)    vcombine_f32(vget_low_f32(a), vget_low_f32(b))
#define hv_pair_high(a, b)   vcombine_f32(vget_high_f32(a), vget_high_f32(b))
#define HASTE__KERNEL_TEXT
#include HASTE_FILE
#endif

/* AVX512-BF16, by option: every sum takes two products at a time, from pairs of inputs. */
#if HASTE__X86 && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define HASTE__TARGET_DOT __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma")))

int haste_has_bf16_dot(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512bf16");
}

/* pair [n] = even [n] in the lower halves, odd [n] in the upper ones, n a multiple of 8. */
HASTE__TARGET_DOT HASTE__INLINE void haste__dot_pair(const uint16_t *even, const uint16_t *odd, int n, uint32_t *pair)
{
    const __m512i low = _mm512_setr_epi32(
        0x200000, 0x210001, 0x220002, 0x230003, 0x240004, 0x250005, 0x260006, 0x270007,
        0x280008, 0x290009, 0x2a000a, 0x2b000b, 0x2c000c, 0x2d000d, 0x2e000e, 0x2f000f);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(0x100010));
    int i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512i a = _mm512_loadu_si512(even + i), b = _mm512_loadu_si512(odd + i);
        _mm512_storeu_si512(pair + i, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(pair + i + 16, _mm512_permutex2var_epi16(a, high, b));
    }
    for (; i < n; i += 8) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(even + i)),
                    b = _mm_loadu_si128((const __m128i *)(const void *)(odd + i));
        _mm_storeu_si128((__m128i *)(void *)(pair + i), _mm_unpacklo_epi16(a, b));
        _mm_storeu_si128((__m128i *)(void *)(pair + i + 4), _mm_unpackhi_epi16(a, b));
    }
}

/* A pair in all lanes. Clang 16 crashes where it makes an operand of this for the product: the empty asm forbids. */
HASTE__TARGET_DOT HASTE__INLINE __m512i haste__dot_spread(uint32_t pair)
{
    __m512i pairs = _mm512_set1_epi32((int)pair);
#if defined(__clang__) && __clang_major__ == 16
    __asm__("" : "+v"(pairs));
#endif
    return pairs;
}

/* Logits of `rows` samples from x on and `vectors` * 16 labels from w on, of the last 16 only those in `mask`. */
#define HASTE__DOT_ZERO(i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
#define HASTE__DOT_ADD(i) {                                                                                            \
        const __m512bh a = (__m512bh)haste__dot_spread(x[i]);                                                          \
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], a, (__m512bh)b[0]);                                                    \
        if (vectors > 1) sum[i][1] = _mm512_dpbf16_ps(sum[i][1], a, (__m512bh)b[1]);                                   \
    }
#define HASTE__DOT_STORE(i)                                                                                            \
    if (vectors > 1) _mm512_storeu_ps(z + i * r->stride, _mm512_add_ps(sum[i][0], _mm512_loadu_ps(bias)));             \
    _mm512_mask_storeu_ps(z + i * r->stride + (vectors - 1) * 16, mask,                                                \
                          _mm512_add_ps(sum[i][vectors - 1], _mm512_maskz_loadu_ps(mask, bias + (vectors - 1) * 16)));

HASTE__TARGET_DOT HASTE__INLINE void haste__dot_tile(int rows, int vectors, const haste__product *r, const uint32_t *w,
                                                     const uint32_t *x, const float *bias, float *z, __mmask16 mask)
{
    __m512 sum[8][2];
    __m512i b[2];
    int k;
    HASTE__EACH_ROW(HASTE__DOT_ZERO)
    for (k = 0; k < (r->F + 1) / 2; k++, w += r->S, x += HASTE__SAMPLES) {
        if (vectors > 1) b[0] = _mm512_loadu_si512(w);
        b[vectors - 1] = _mm512_maskz_loadu_epi32(mask, w + (vectors - 1) * 16);
        HASTE__EACH_ROW(HASTE__DOT_ADD)
    }
    HASTE__EACH_ROW(HASTE__DOT_STORE)
}

/* As predict, from x in bfloat16. */
HASTE__TARGET_DOT static void haste__dot(const haste__product *r)
{
    const uint16_t *w = (const uint16_t *)r->w, *x = (const uint16_t *)r->x;
    /* what is read behind the last one is not used */
    const int S = r->S, F = r->F, samples = r->samples > 8 ? HASTE__SAMPLES : 8;
    static const uint16_t zeros[256] = { 0 };
    uint32_t *pair_w = r->pair, *pair_x = r->pair + (F + 1) / 2 * S;
    int f, s, b;
    for (f = 0; f < F; f += 2) {
        const ptrdiff_t even = r->index ? r->index[f] : f, odd = f + 1 == F ? even : r->index ? r->index[f + 1] : f + 1;
        const uint16_t *row = w + (ptrdiff_t)f * S;
        for (s = 0; s < 2 * S; s += 32) HASTE__PREFETCH(row + s, r->ahead);
        /* x is finite, so a weight of 0 is enough */
        haste__dot_pair(row, f + 1 < F ? row + S : zeros, S, pair_w + f / 2 * S);
        haste__dot_pair(x + even * r->pitch, x + odd * r->pitch, samples, pair_x + f / 2 * HASTE__SAMPLES);
    }
    for (s = 0; s + 32 <= S; s += 32) {
        for (b = 0; b + 8 <= r->samples; b += 8)
            haste__dot_tile(8, 2, r, pair_w + s, pair_x + b, r->bias + s, r->z + b * r->stride + s, 0xffff);
        for (; b + 4 <= r->samples; b += 4)
            haste__dot_tile(4, 2, r, pair_w + s, pair_x + b, r->bias + s, r->z + b * r->stride + s, 0xffff);
        for (; b < r->samples; b++)
            haste__dot_tile(1, 2, r, pair_w + s, pair_x + b, r->bias + s, r->z + b * r->stride + s, 0xffff);
    }
    for (; s < S; s += 16) {
        const __mmask16 mask = (__mmask16)(S - s < 16 ? 0xff : 0xffff);
        for (b = 0; b + 8 <= r->samples; b += 8)
            haste__dot_tile(8, 1, r, pair_w + s, pair_x + b, r->bias + s, r->z + b * r->stride + s, mask);
        for (; b < r->samples; b++)
            haste__dot_tile(1, 1, r, pair_w + s, pair_x + b, r->bias + s, r->z + b * r->stride + s, mask);
    }
}
#else
int haste_has_bf16_dot(void) { return 0; }
static void haste__dot(const haste__product *r) { (void)r; }
#endif

/* The kernels of a path, or NULL where this processor (or this build) does not have it. */
static const haste__kernels *haste__path_kernels(haste_path path)
{
#if HASTE__X86
    if (path == HASTE_PATH_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &haste__avx2_kernels;
    if (path == HASTE_PATH_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) return &haste__avx512_kernels;
#endif
#if HASTE__NEON
    if (path == HASTE_PATH_NEON) return &haste__neon_kernels;
#endif
    return path == HASTE_PATH_PORTABLE ? &haste__portable_kernels : NULL;
}

haste_path haste_path_best(void)
{
    if (haste__path_kernels(HASTE_PATH_AVX512)) return HASTE_PATH_AVX512;
    if (haste__path_kernels(HASTE_PATH_AVX2)) return HASTE_PATH_AVX2;
    if (haste__path_kernels(HASTE_PATH_NEON)) return HASTE_PATH_NEON;
    return HASTE_PATH_PORTABLE;
}

static const haste__kernels *haste__best_kernels(void) { return haste__path_kernels(haste_path_best()); }

const char *haste_path_text(haste_path path)
{
    switch (path) {
    case HASTE_PATH_AUTO:     return "auto";
    case HASTE_PATH_PORTABLE: return "portable";
    case HASTE_PATH_AVX2:     return "avx2";
    case HASTE_PATH_AVX512:   return "avx512";
    case HASTE_PATH_NEON:     return "neon";
    }
    return "unknown";
}

/* ---- >>layout ------------------------------------------------------------------------------------------------ */

static size_t haste__sizeof(haste_dtype dtype) { return dtype == HASTE_BF16 ? 2 : 4; }
static int    haste__states(haste_optimizer optimizer) { return (int)optimizer; }   /* SGD 0, momentum 1, AdamW 2 */

static int64_t haste__block_slots(const haste_block *block) { return block->groups * block->group_size; }
static int32_t haste__block_width(const haste_block *block) { return block->end - block->begin; }

/* Do the sizes of a layer make sense? All that can be said without its arrays, whether they come from options, a
   caller's struct or a file. `where` begins the message, `status` is what a failure returns. */
static haste_status haste__layer_sizes_check(const haste_layer *layer, const char *where, haste_status status,
                                             haste_error *error)
{
    int64_t labels = 0, slots = 0;
    int i;
    if (layer->labels < 1)
        return haste__fail(error, status, "%slabels = %d, expected at least 1", where, (int)layer->labels);
    if (layer->inputs < 1 || layer->inputs > 65536)
        return haste__fail(error, status, "%sinputs = %d, expected 1 to 65536", where, (int)layer->inputs);
    if (layer->block_count < 1 || layer->block_count > HASTE_MAX_BLOCKS)
        return haste__fail(error, status, "%sblock_count = %d, expected 1 to %d", where, (int)layer->block_count,
                           HASTE_MAX_BLOCKS);
    if ((unsigned)layer->loss > HASTE_SOFTMAX)
        return haste__fail(error, status, "%sloss = %d is unknown", where, (int)layer->loss);
    if ((unsigned)layer->optimizer > HASTE_ADAMW)
        return haste__fail(error, status, "%soptimizer = %d is unknown", where, (int)layer->optimizer);
    if ((unsigned)layer->dtype > HASTE_BF16 || (unsigned)layer->state_dtype > HASTE_BF16)
        return haste__fail(error, status, "%sdtype = %d, state_dtype = %d: one is unknown", where, (int)layer->dtype,
                           (int)layer->state_dtype);
    if (layer->step < 0 || layer->step > INT64_MAX / 2 || layer->rewires < 0 || layer->rewires > INT64_MAX / 2)
        return haste__fail(error, status, "%sstep = %lld, rewires = %lld, expected 0 to 2^62", where,
                           (long long)layer->step, (long long)layer->rewires);
    if (layer->first_slot < 0 || layer->first_slot > INT32_MAX || layer->first_group < 0 ||
        layer->first_group > layer->first_slot / 8 || layer->first_block < 0 ||
        layer->first_block > HASTE_MAX_BLOCKS - layer->block_count)
        return haste__fail(error, status, "%sfirst_slot = %lld, first_group = %lld, first_block = %d: no range begins "
                           "there", where, (long long)layer->first_slot, (long long)layer->first_group,
                           (int)layer->first_block);
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        if (b->begin < 0 || b->end <= b->begin || b->end > layer->inputs)
            return haste__fail(error, status,
                               "%sblock[%d]: begin = %d, end = %d, expected 0 <= begin < end <= inputs = %d", where, i,
                               (int)b->begin, (int)b->end, (int)layer->inputs);
        if (b->fan_in < 1 || b->fan_in > haste__block_width(b))
            return haste__fail(error, status, "%sblock[%d].fan_in = %d, expected 1 to the %d inputs of its slice",
                               where, i, (int)b->fan_in, (int)haste__block_width(b));
        if (b->group_size < 8 || b->group_size > 256 || b->group_size % 8 != 0)
            return haste__fail(error, status, "%sblock[%d].group_size = %d, expected a multiple of 8 from 8 to 256",
                               where, i, (int)b->group_size);
        if (b->labels < 1 || b->labels > layer->labels - labels)
            return haste__fail(error, status, "%sblock[%d].labels = %lld, expected 1 to the %lld labels that are left",
                               where, i, (long long)b->labels, (long long)(layer->labels - labels));
        if (b->groups != (b->labels + b->group_size - 1) / b->group_size || b->first_slot != slots)
            return haste__fail(error, status,
                               "%sblock[%d]: groups = %lld, first_slot = %lld disagree with labels = %lld "
                               "and group_size = %d",
                               where, i, (long long)b->groups, (long long)b->first_slot, (long long)b->labels,
                               (int)b->group_size);
        labels += b->labels;
        slots += haste__block_slots(b);
    }
    if (labels != layer->labels)
        return haste__fail(error, status, "%sthe blocks take %lld labels, expected all %d", where, (long long)labels,
                           (int)layer->labels);
    if (slots > INT32_MAX - layer->first_slot)
        return haste__fail(error, status == HASTE_ERR_ARG ? HASTE_ERR_SIZE : status,
                           "%s%lld slots, expected below 2^31: use fewer labels or smaller groups", where,
                           (long long)(layer->first_slot + slots));
    if (slots != layer->slots)
        return haste__fail(error, status, "%sslots = %lld, expected the %lld of the blocks", where,
                           (long long)layer->slots, (long long)slots);
    return HASTE_OK;
}

/* Sizes of a layer from its options, without memory. */
static haste_status haste__layer_shape(haste_layer *layer, const haste_layer_options *o, haste_error *error)
{
    int64_t placed = 0;
    int i;
    if (!o) return haste__fail(error, HASTE_ERR_ARG, "options is NULL");
    if (o->block_count < 0 || o->block_count > HASTE_MAX_BLOCKS)
        return haste__fail(error, HASTE_ERR_ARG, "block_count = %d, expected 0 to %d", (int)o->block_count,
                           HASTE_MAX_BLOCKS);
    if (o->samples < 0) return haste__fail(error, HASTE_ERR_ARG, "samples = %lld is negative", (long long)o->samples);
    if (haste__threads_check(o->threads, error) != HASTE_OK) return HASTE_ERR_ARG;
    memset(layer, 0, sizeof *layer);
    layer->labels = o->labels;
    layer->inputs = o->inputs;
    layer->dtype = o->dtype;
    layer->state_dtype = o->state_dtype;
    layer->loss = o->loss;
    layer->optimizer = o->optimizer;
    layer->seed = o->seed;
    layer->first_slot = o->first_slot;
    layer->first_group = o->first_group;
    layer->first_block = o->first_block;
    layer->block_count = o->block_count ? o->block_count : 1;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block_options *from = &o->block[i];
        haste_block *block = &layer->block[i];
        haste_block_options zero;
        int64_t width;
        memset(&zero, 0, sizeof zero);
        if (!o->block_count) from = &zero;   /* what stands in o->block does not count */
        block->begin = from->begin;
        block->end = from->begin == 0 && from->end == 0 ? o->inputs : from->end;
        width = (int64_t)block->end - block->begin;
        block->group_size = from->group_size ? from->group_size : 32;
        if (from->fan_in == HASTE_DENSE) block->fan_in = (int32_t)width;
        else if (from->fan_in == 0) block->fan_in = width < 64 ? (int32_t)width : 64;
        else block->fan_in = from->fan_in;
        block->labels = from->labels == 0 && i == layer->block_count - 1 ? o->labels - placed : from->labels;
        block->first_slot = layer->slots;
        if (block->labels < 1 || block->labels > o->labels || block->group_size < 8) break;   /* refused below */
        block->groups = (block->labels + block->group_size - 1) / block->group_size;
        layer->slots += haste__block_slots(block);
        placed += block->labels;
    }
    return haste__layer_sizes_check(layer, "", HASTE_ERR_ARG, error);
}

/* What has been taken of an arena since the last call. */
static size_t haste__taken(const haste__arena *arena, size_t *mark)
{
    const size_t bytes = arena->end - *mark;
    *mark = arena->end;
    return bytes;
}

/* Lays out a layer's arrays. */
static haste_status haste__layer_arrange(haste_layer *layer, haste__arena *arena, haste_plan *plan, haste_error *error)
{
    size_t mark = arena->end;
    int i, k;
    memset(plan, 0, sizeof *plan);
    for (i = 0; i < layer->block_count; i++) {
        haste_block *block = &layer->block[i];
        const uint64_t slots = (uint64_t)haste__block_slots(block);   /* < 2^31 */
        const uint64_t fan_in = (uint64_t)block->fan_in;              /* <= 2^16 */
        const uint64_t places = block->fan_in == haste__block_width(block) ? 0 : (uint64_t)block->groups * fan_in;
        plan->parameters += block->labels * ((int64_t)block->fan_in + 1);
        block->index = places ? (uint16_t *)haste__take(arena, places, sizeof *block->index) : NULL;
        plan->index += haste__taken(arena, &mark);
        block->weight = haste__take(arena, slots * fan_in, haste__sizeof(layer->dtype));
        plan->weight += haste__taken(arena, &mark);
        block->bias = (float *)haste__take(arena, slots, sizeof *block->bias);
        plan->bias += haste__taken(arena, &mark);
        for (k = 0; k < haste__states(layer->optimizer); k++) {
            block->weight_state[k] = haste__take(arena, slots * fan_in, haste__sizeof(layer->state_dtype));
            block->bias_state[k] = (float *)haste__take(arena, slots, sizeof *block->bias);
        }
        plan->state += haste__taken(arena, &mark);
    }
    layer->label_of = (int32_t *)haste__take(arena, (uint64_t)layer->slots, sizeof *layer->label_of);
    layer->slot_of = (int32_t *)haste__take(arena, (uint64_t)layer->labels, sizeof *layer->slot_of);
    plan->order = haste__taken(arena, &mark);
    plan->layer = arena->end;
    if (arena->overflow) return haste__fail(error, HASTE_ERR_SIZE, "the layer's size overflows size_t");
    return HASTE_OK;
}

/* What haste_rewire will allocate; see there. */
static haste_status haste__rewire_bytes(const haste_layer *layer, const haste_workspace *work, size_t *bytes,
                                        haste_error *error);

/* Labels of the groups that are read or written side by side where [B, slots] arrays are (a panel): shorter runs of
   such a row, each in a page of its own, cost a TLB miss each. */
enum { HASTE__PANEL = 128 };

static int haste__panel(int S) { return S > HASTE__PANEL ? S : HASTE__PANEL / S * S; }

/* The arrays of a workspace. Those that only training needs come with HASTE_TRAINING or HASTE_ANY_PURPOSE, likewise
   those of prediction; the others are NULL. */
typedef struct haste__scratch {
    float    *x;             /* [ceil(batch/32)][D][32]          the batch, feature-major */
    uint16_t *x_bf16;        /* the same                         for bf16_dot */
    char     *live;          /* [ceil(batch/32)][D]              training: is an input of a block not always 0? */
    float    *grad_x;        /* [chunks][ceil(batch/32)][D][32]  training: input gradients, one per chunk */
    float    *tile;          /* [threads][tile_count]            a panel's logits, a group's weights; training: their
                                                                 gradients */
    size_t    tile_count;
    uint64_t *pair;          /* [2][ids]                         (slot, sample), sorted: of positives, ...; ignored */
    float    *value;         /* [ids]                            training: what each positive counts */
    float    *sample;        /* [batch + 32]                     training: weights of samples */
    double   *mass;          /* [2][batch]                       training: of positives: values; values times weights */
    double   *smooth;        /* [batch]                          training: smoothing, for each label of a softmax */
    double   *sum;           /* [chunks][2 * batch + 2]          training: loss, squares, softmax's maxima and sums */
    float    *shift;         /* [2][batch + 32]                  training: softmax's largest logit, the factor of its
                                                                 gradient */
    float    *best_score;    /* [threads][batch][top_k]          prediction */
    int32_t  *best_id;       /* [threads][batch][top_k]          prediction */
    float    *best_floor;    /* [threads][batch]                 prediction: what a logit must reach to be kept */
    int32_t  *best_count;    /* [threads][batch]                 prediction */
    int32_t  *count;         /* [chunks][batch]                  prediction: hits of haste_above */
    int32_t  *flag;          /* [chunks]                         groups with a logit that is not finite */
} haste__scratch;

static void haste__scratch_arrange(haste__scratch *s, const haste_workspace *work, haste__arena *arena)
{
    const int train = work->purpose != HASTE_PREDICTION, predict = work->purpose != HASTE_TRAINING;
    const uint64_t threads = (uint64_t)work->threads, chunks = (uint64_t)work->chunks, batch = (uint64_t)work->batch;
    const uint64_t samples = (batch + HASTE__SAMPLES - 1) / HASTE__SAMPLES * HASTE__SAMPLES,
                   S = (uint64_t)work->max_group;
    const uint64_t panel = S > HASTE__PANEL ? S : (uint64_t)HASTE__PANEL;
    const uint64_t weights = S * (uint64_t)work->max_fan_in;   /* <= 2^24 */
    const uint64_t packed = train || batch >= HASTE__SAMPLES ? samples : batch;   /* see haste__pass_load_rows */
    const uint64_t pairs = (uint64_t)(work->max_fan_in + 1) * (HASTE__SAMPLES / 2);
    /* haste__forward_panels fills one tile while it writes out another */
    const uint64_t twice = samples > 2 * HASTE__SAMPLES ? samples : 2 * HASTE__SAMPLES;
    uint64_t tile = panel * twice + (train || work->bf16_dot ? weights + pairs : 0);
    if (train) tile += panel * samples + weights + panel;
    memset(s, 0, sizeof *s);
    s->tile_count = (size_t)((tile + 15) / 16 * 16);
    s->x = (float *)haste__take(arena, packed * (uint64_t)work->inputs, sizeof *s->x);
    if (work->bf16_dot) s->x_bf16 = (uint16_t *)haste__take(arena, packed * (uint64_t)work->inputs, sizeof *s->x_bf16);
    if (train) s->live = (char *)haste__take(arena, samples / HASTE__SAMPLES * (uint64_t)work->inputs, 1);
    if (train) s->grad_x = (float *)haste__take(arena, samples * (uint64_t)work->inputs * chunks, sizeof *s->grad_x);
    s->tile = (float *)haste__take(arena, (tile + 15) / 16 * 16 * threads, sizeof *s->tile);
    s->pair = (uint64_t *)haste__take(arena, 2 * (uint64_t)work->ids, sizeof *s->pair);
    s->flag = (int32_t *)haste__take(arena, chunks, sizeof *s->flag);
    if (train) {
        s->value = (float *)haste__take(arena, (uint64_t)work->ids, sizeof *s->value);
        s->sample = (float *)haste__take(arena, batch + HASTE__SAMPLES, sizeof *s->sample);
        s->mass = (double *)haste__take(arena, 2 * batch, sizeof *s->mass);
        s->smooth = (double *)haste__take(arena, batch, sizeof *s->smooth);
        s->sum = (double *)haste__take(arena, (2 * batch + 2) * chunks, sizeof *s->sum);
        s->shift = (float *)haste__take(arena, 2 * (batch + HASTE__SAMPLES), sizeof *s->shift);
    }
    if (predict) {
        s->best_score = (float *)haste__take(arena, threads * batch * (uint64_t)work->top_k, sizeof *s->best_score);
        s->best_id = (int32_t *)haste__take(arena, threads * batch * (uint64_t)work->top_k, sizeof *s->best_id);
        s->best_floor = (float *)haste__take(arena, threads * batch, sizeof *s->best_floor);
        s->best_count = (int32_t *)haste__take(arena, threads * batch, sizeof *s->best_count);
        s->count = (int32_t *)haste__take(arena, batch * chunks, sizeof *s->count);
    }
}

/* Sizes of a workspace but `bytes`, without memory. */
static haste_status haste__workspace_shape(haste_workspace *work, const haste_layer *layer,
                                           const haste_workspace_options *options, haste_error *error)
{
    const int64_t most_chunks = layer->slots / 8192 < 64 ? layer->slots / 8192 : 64;
    haste_workspace_options o;
    int i;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    memset(work, 0, sizeof *work);
    work->batch = o.batch ? o.batch : 128;
    work->ids = o.ids ? o.ids : 64 * (int64_t)work->batch;
    work->top_k = o.top_k ? o.top_k : 16;
    work->chunks = o.chunks ? o.chunks : most_chunks > 16 ? (int32_t)most_chunks : 16;
    work->threads = haste__threads(o.threads);
    work->purpose = o.purpose;
    work->path = o.path == HASTE_PATH_AUTO ? haste_path_best() : o.path;
    if (work->batch < 1 || work->batch > 1 << 30)
        return haste__fail(error, work->batch < 1 ? HASTE_ERR_ARG : HASTE_ERR_SIZE, "batch = %d, expected 1 to 2^30",
                           (int)o.batch);
    if (work->ids < 1 || work->ids > INT64_MAX / 64)
        return haste__fail(error, HASTE_ERR_ARG, "ids = %lld, expected 1 to 2^57", (long long)o.ids);
    if (work->top_k < 1 || work->top_k > 1 << 20)
        return haste__fail(error, work->top_k < 1 ? HASTE_ERR_ARG : HASTE_ERR_SIZE, "top_k = %d, expected 1 to 2^20",
                           (int)o.top_k);
    if (work->chunks < 1 || work->chunks > 1024)
        return haste__fail(error, HASTE_ERR_ARG, "chunks = %d, expected 1 to 1024", (int)o.chunks);
    if (haste__threads_check(o.threads, error) != HASTE_OK) return HASTE_ERR_ARG;
    if ((unsigned)o.purpose > HASTE_PREDICTION)
        return haste__fail(error, HASTE_ERR_ARG, "purpose = %d is unknown", (int)o.purpose);
    if (!haste__path_kernels(work->path))
        return haste__fail(error, HASTE_ERR_ARG, "path = %d (%s) is not available on this processor", (int)o.path,
                           haste_path_text(o.path));
    work->bf16_dot = o.bf16_dot;
    if (o.bf16_dot != 0 && (o.bf16_dot != 1 || work->path != HASTE_PATH_AVX512 || !haste_has_bf16_dot()))
        return haste__fail(error, HASTE_ERR_ARG,
                           "bf16_dot = %d, expected 0, or 1 on path avx512 (this is %s) of a processor with "
                           "AVX512-BF16",
                           (int)o.bf16_dot, haste_path_text(work->path));
    work->inputs = layer->inputs;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        if (block->group_size > work->max_group) work->max_group = block->group_size;
        if (block->fan_in > work->max_fan_in) work->max_fan_in = block->fan_in;
    }
    return HASTE_OK;
}

static haste_status haste__workspace_bytes(const haste_workspace *work, size_t *bytes, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste__scratch scratch;
    haste__scratch_arrange(&scratch, work, &arena);
    *bytes = arena.end;
    if (arena.overflow) return haste__fail(error, HASTE_ERR_SIZE, "the workspace's size overflows size_t");
    return HASTE_OK;
}

/* The groups of each block, range[k][0] .. range[k][1] - 1, that a range of slots holds. */
static haste_status haste__slot_range(const haste_layer *layer, int64_t first_slot, int64_t end_slot,
                                      int64_t range[HASTE_MAX_BLOCKS][2], haste_error *error)
{
    int k;
    if (first_slot < 0 || end_slot <= first_slot || end_slot > layer->slots)
        return haste__fail(error, HASTE_ERR_ARG, "first_slot = %lld, end_slot = %lld, expected a range of %lld slots",
                           (long long)first_slot, (long long)end_slot, (long long)layer->slots);
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *b = &layer->block[k];
        const int64_t S = b->group_size, end = b->first_slot + haste__block_slots(b);
        const int64_t first = first_slot > b->first_slot ? first_slot - b->first_slot : 0;
        const int64_t last = end_slot < end ? end_slot - b->first_slot : haste__block_slots(b);
        range[k][0] = range[k][1] = 0;
        if (first >= last) continue;
        if (first % S != 0 || last % S != 0)
            return haste__fail(error, HASTE_ERR_ARG, "first_slot = %lld, end_slot = %lld: a group of block[%d] is cut; "
                               "from slot %lld on each has %d slots", (long long)first_slot, (long long)end_slot, k,
                               (long long)b->first_slot, (int)S);
        range[k][0] = first / S;
        range[k][1] = last / S;
    }
    return HASTE_OK;
}

/* Lays out the scores of a range. A group that reads its whole slice has nothing to move to. */
static haste_status haste__scores_arrange(haste_input_scores *scores, const haste_layer *layer, haste__arena *arena,
                                          haste_error *error)
{
    int64_t range[HASTE_MAX_BLOCKS][2];
    const haste_status status = haste__slot_range(layer, scores->first_slot, scores->end_slot, range, error);
    int k;
    if (status != HASTE_OK) return status;
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *b = &layer->block[k];
        const uint64_t groups = (uint64_t)(range[k][1] - range[k][0]), width = (uint64_t)haste__block_width(b);
        scores->score[k] = NULL;
        if ((uint64_t)b->fan_in < width && groups > 0)
            scores->score[k] = (float *)haste__take(arena, groups * width, sizeof(float));
    }
    if (arena->overflow) return haste__fail(error, HASTE_ERR_SIZE, "the size of the inputs' scores overflows size_t");
    return HASTE_OK;
}

static haste_status haste__gradient_arrange(haste_gradient *gradient, const haste_layer *layer, haste__arena *arena,
                                            haste_error *error)
{
    int i;
    for (i = 0; i < layer->block_count; i++) {
        const uint64_t slots = (uint64_t)haste__block_slots(&layer->block[i]);
        gradient->weight[i] = (float *)haste__take(arena, slots * (uint64_t)layer->block[i].fan_in, sizeof(float));
        gradient->bias[i] = (float *)haste__take(arena, slots, sizeof(float));
    }
    if (arena->overflow) return haste__fail(error, HASTE_ERR_SIZE, "the gradient's size overflows size_t");
    return HASTE_OK;
}

haste_status haste_plan_bytes(const haste_layer_options *options, const haste_workspace_options *work, haste_plan *plan,
                              haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 }, gradients = { NULL, 0, 0 }, inputs = { NULL, 0, 0 };
    haste_layer layer;
    haste_workspace workspace;
    haste_gradient gradient;
    haste_input_scores scores;
    haste_plan p;
    haste_status status;
    if (!plan) return haste__fail(error, HASTE_ERR_ARG, "plan is NULL");
    status = haste__layer_shape(&layer, options, error);
    if (status == HASTE_OK) status = haste__layer_arrange(&layer, &arena, &p, error);
    if (status == HASTE_OK) status = haste__workspace_shape(&workspace, &layer, work, error);
    if (status == HASTE_OK) status = haste__workspace_bytes(&workspace, &p.workspace, error);
    if (status == HASTE_OK) status = haste__gradient_arrange(&gradient, &layer, &gradients, error);
    if (status == HASTE_OK) status = haste__rewire_bytes(&layer, &workspace, &p.rewire, error);
    if (status != HASTE_OK) return status;
    scores.first_slot = 0;
    scores.end_slot = layer.slots;
    status = haste__scores_arrange(&scores, &layer, &inputs, error);
    if (status != HASTE_OK) return status;
    p.gradient = gradients.end;
    p.scores = inputs.end;
    *plan = p;
    return HASTE_OK;
}

/* ---- >>layer ------------------------------------------------------------------------------------------------- */

/* F distinct numbers below `width`, ascending: Floyd's sampling marks them in a bitmap, which is then read in order. */
static void haste__draw_index(uint16_t *index, int32_t F, int32_t width, uint64_t seed, uint64_t group)
{
    uint64_t bitmap[65536 / 64];
    int32_t j, word, n = 0;
    memset(bitmap, 0, (size_t)(width + 63) / 64 * sizeof *bitmap);
    for (j = width - F; j < width; j++) {
        uint32_t t = haste__below(haste__random(seed, HASTE__STREAM_INDEX, group << 16 | (uint64_t)(j - (width - F))),
                                  (uint32_t)j + 1);
        if (bitmap[t / 64] >> (t % 64) & 1) t = (uint32_t)j;
        bitmap[t / 64] |= UINT64_C(1) << (t % 64);
    }
    for (word = 0; word < (width + 63) / 64; word++)
        for (j = 0; j < 64; j++)
            if (bitmap[word] >> j & 1) index[n++] = (uint16_t)(word * 64 + j);
}

/* The weight that a place starts with, also after regrowing (`stream` then differs from call to call). */
static float haste__draw_weight(uint64_t seed, uint64_t stream, int64_t slot, int32_t f, int32_t F)
{
    float u = haste__uniform(haste__random(seed, stream, (uint64_t)slot << 16 | (uint64_t)f));
    return (2 * u - 1) / (float)sqrt((double)F);
}

static void haste__set_number(void *array, haste_dtype dtype, size_t i, float value)
{
    if (dtype == HASTE_BF16) ((uint16_t *)array)[i] = haste__to_bf16(value);
    else ((float *)array)[i] = value;
}

static float haste__number(const void *array, haste_dtype dtype, size_t i)
{
    return dtype == HASTE_BF16 ? haste__from_bf16(((const uint16_t *)array)[i]) : ((const float *)array)[i];
}

static float haste__prior(haste_loss loss, int64_t n, int64_t N)
{
    double p = ((double)n + .5) / ((double)N + 1);
    return (float)(loss == HASTE_BCE ? log(p / (1 - p)) : loss == HASTE_SQUARED_HINGE ? 2 * p - 1 : log(p));
}

/* Where in a block's weights the one of label j for input f of its group lies; the column of x that it belongs to. */
HASTE__INLINE size_t haste__place(const haste_block *block, int64_t j, int64_t f)
{
    const int64_t S = block->group_size;
    return (size_t)((j / S * block->fan_in + f) * S + j % S);
}
HASTE__INLINE int32_t haste__column(const haste_block *block, int64_t j, int64_t f)
{
    return block->begin + (block->index ? block->index[j / block->group_size * block->fan_in + f] : (int32_t)f);
}

/* Labels of a group: S, or fewer in the last group of a block. */
HASTE__INLINE int haste__group_labels(const haste_block *block, int64_t g)
{
    int64_t left = block->labels - g * block->group_size;
    return left < block->group_size ? (int)left : block->group_size;
}

/* What a layer begins with: indices, weights and biases of one of HASTE__RUNS runs of each block's groups. */
enum { HASTE__RUNS = 256 };

typedef struct haste__beginning {
    const haste_layer         *layer;
    const haste_layer_options *options;
} haste__beginning;

static void haste__begin_groups(void *context, int64_t run, int thread)
{
    const haste_layer *layer = ((const haste__beginning *)context)->layer;
    const haste_layer_options *options = ((const haste__beginning *)context)->options;
    int64_t group = layer->first_group, g;
    int i, f, s;
    (void)thread;
    for (i = 0; i < layer->block_count; group += layer->block[i++].groups) {
        const haste_block *block = &layer->block[i];
        int32_t S = block->group_size, F = block->fan_in;
        for (g = block->groups * run / HASTE__RUNS; g < block->groups * (run + 1) / HASTE__RUNS; g++) {
            int labels = haste__group_labels(block, g);
            int64_t first = block->first_slot + g * S;
            if (block->index)
                haste__draw_index(block->index + g * F, F, block->end - block->begin, layer->seed,
                                  (uint64_t)(group + g));
            for (f = 0; f < F && !options->zero_weights; f++)
                for (s = 0; s < labels; s++)
                    haste__set_number(block->weight, layer->dtype, (size_t)((g * F + f) * S + s),
                                      haste__draw_weight(layer->seed, HASTE__STREAM_WEIGHT,
                                                         layer->first_slot + first + s, f, F));
            for (s = 0; s < labels && options->frequency; s++)
                block->bias[g * S + s] = haste__prior(layer->loss, options->frequency[layer->label_of[first + s]],
                                                      options->samples);
        }
    }
}

/* Will the caller's memory do? */
static haste_status haste__memory_check(const void *memory, size_t bytes, size_t needed, haste_error *error)
{
    if (!memory || (uintptr_t)memory % HASTE__ALIGN != 0)
        return haste__fail(error, HASTE_ERR_ARG, "memory = %p, expected a pointer aligned to %d bytes", memory,
                           HASTE__ALIGN);
    if (bytes < needed)
        return haste__fail(error, HASTE_ERR_SIZE, "bytes = %llu, expected at least %llu", (unsigned long long)bytes,
                           (unsigned long long)needed);
    return HASTE_OK;
}

/* From label_of: layer->order_id, which is not kept in files. */
static void haste__layer_know_order(haste_layer *layer)
{
    int64_t slot;
    layer->order_id = 0;
    for (slot = 0; slot < layer->slots; slot++)
        layer->order_id =
            haste__mix(layer->order_id * UINT64_C(0x9e3779b97f4a7c15) + (uint32_t)layer->label_of[slot]);
}

/* Which label sits where: order [L], or NULL: 0, 1, ... */
static haste_status haste__layer_place_labels(haste_layer *layer, const int32_t *order, haste_error *error)
{
    int64_t slot, placed = 0, j;
    int i;
    for (i = 0; i < layer->labels; i++) layer->slot_of[i] = -1;
    for (slot = 0; slot < layer->slots; slot++) layer->label_of[slot] = -1;
    for (i = 0; i < layer->block_count; i++)
        for (j = 0; j < layer->block[i].labels; j++, placed++) {
            const int32_t id = order ? order[placed] : (int32_t)placed;
            if (id < 0 || id >= layer->labels || layer->slot_of[id] >= 0)
                return haste__fail(error, HASTE_ERR_DATA, "order[%lld] = %d: %s", (long long)placed, (int)id,
                                   id < 0 || id >= layer->labels ? "expected an id below labels" :
                                   "this id stood before, expected a permutation");
            slot = layer->block[i].first_slot + j;
            layer->slot_of[id] = (int32_t)slot;
            layer->label_of[slot] = id;
        }
    haste__layer_know_order(layer);
    return HASTE_OK;
}

haste_status haste_layer_init(haste_layer *layer, const haste_layer_options *options, void *memory, size_t bytes,
                              haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste__beginning beginning;
    haste_layer l;
    haste_plan plan;
    haste_status status;
    int i;
    if (!layer) return haste__fail(error, HASTE_ERR_ARG, "layer is NULL");
    status = haste__layer_shape(&l, options, error);
    if (status == HASTE_OK) status = haste__layer_arrange(&l, &arena, &plan, error);
    if (status == HASTE_OK) status = haste__memory_check(memory, bytes, plan.layer, error);
    if (status != HASTE_OK) return status;
    if (options->frequency)
        for (i = 0; i < l.labels; i++)
            if (options->frequency[i] < 0 || options->frequency[i] > options->samples)
                return haste__fail(error, HASTE_ERR_DATA, "frequency[%d] = %lld, expected 0 to samples = %lld", i,
                                   (long long)options->frequency[i], (long long)options->samples);

    arena.memory = (char *)memory;
    arena.end = 0;
    haste__layer_arrange(&l, &arena, &plan, error);
    status = haste__layer_place_labels(&l, options->order, error);
    if (status != HASTE_OK) return status;
    memset(memory, 0, plan.layer - plan.order);   /* the label order lies last */
    beginning.layer = &l;
    beginning.options = options;
    haste__parallel(HASTE__RUNS, plan.parameters < 1 << 20 ? 1 : haste__threads(options->threads), haste__begin_groups,
                    &beginning);
    *layer = l;
    return HASTE_OK;
}

haste_status haste_layer_create(haste_layer *layer, const haste_layer_options *options, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_plan plan;
    haste_layer l;
    haste_status status;
    if (!layer) return haste__fail(error, HASTE_ERR_ARG, "layer is NULL");
    status = haste__layer_shape(&l, options, error);
    if (status == HASTE_OK) status = haste__layer_arrange(&l, &arena, &plan, error);
    if (status == HASTE_OK) status = haste__reserve(&arena, "a layer", error);
    if (status != HASTE_OK) return status;
    status = haste_layer_init(&l, options, arena.memory, plan.layer, error);
    if (status != HASTE_OK) { haste__release(arena.memory); return status; }
    l.memory = arena.memory;
    l.bytes = plan.layer;
    *layer = l;
    return HASTE_OK;
}

void haste_layer_free(haste_layer *layer)
{
    if (!layer) return;
    haste__release(layer->memory);
    memset(layer, 0, sizeof *layer);
}

/* Sizes and pointers only: what every call checks before it trusts a layer. O(blocks). */
static haste_status haste__layer_quick_check(const haste_layer *layer, haste_error *error)
{
    haste_status status;
    int i, k;
    if (!layer) return haste__fail(error, HASTE_ERR_ARG, "layer is NULL");
    status = haste__layer_sizes_check(layer, "layer: ", HASTE_ERR_STATE, error);
    if (status != HASTE_OK) return status;
    if (!layer->label_of || !layer->slot_of)
        return haste__fail(error, HASTE_ERR_STATE, "layer: label_of or slot_of is NULL");
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        if (!b->weight || !b->bias || (!b->index && b->fan_in != haste__block_width(b)))
            return haste__fail(error, HASTE_ERR_STATE, "layer: block[%d]: weight, bias or index is NULL", i);
        for (k = 0; k < haste__states(layer->optimizer); k++)
            if (!b->weight_state[k] || !b->bias_state[k])
                return haste__fail(error, HASTE_ERR_STATE,
                                   "layer: block[%d]: weight_state[%d] or bias_state[%d] is NULL", i, k, k);
    }
    return HASTE_OK;
}

/* What a layer needs in order not to be read out of bounds: indices and the label order. */
static haste_status haste__layer_check_ids(const haste_layer *layer, haste_error *error)
{
    int i;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        const int32_t F = b->fan_in, width = b->end - b->begin;
        int64_t g, j;
        for (g = 0; b->index && g < b->groups; g++) {
            const uint16_t *index = b->index + g * F;
            int f;
            for (f = 0; f < F; f++)
                if (index[f] >= width || (f > 0 && index[f] <= index[f - 1]))
                    return haste__fail(error, HASTE_ERR_STATE,
                                       "layer: block[%d], group %lld: index[%d] = %d, expected ascending below %d", i,
                                       (long long)g, f, index[f], (int)width);
        }
        for (j = 0; j < b->groups * b->group_size; j++) {
            int64_t slot = b->first_slot + j;
            int32_t id = layer->label_of[slot];
            if (j >= b->labels ? id != -1 : id < 0 || id >= layer->labels || layer->slot_of[id] != slot)
                return haste__fail(error, HASTE_ERR_STATE,
                                   "layer: label_of[%lld] = %d disagrees with slot_of, or with the padding",
                                   (long long)slot, (int)id);
        }
    }
    return HASTE_OK;   /* L labels in label_of, each its slot's inverse: slot_of is then a bijection too */
}

haste_status haste_layer_check(const haste_layer *layer, haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    int i, k;
    if (status == HASTE_OK) status = haste__layer_check_ids(layer, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        int32_t S = b->group_size, F = b->fan_in;
        int64_t g;
        for (g = 0; g < b->groups; g++) {
            int f, s, labels = haste__group_labels(b, g);
            for (k = -1; k < haste__states(layer->optimizer); k++) {
                const void *array = k < 0 ? b->weight : b->weight_state[k];
                const float *bias = k < 0 ? b->bias : b->bias_state[k];
                haste_dtype dtype = k < 0 ? layer->dtype : layer->state_dtype;
                const char *name = k < 0 ? "weight or bias" : "state";
                for (f = -1; f < F; f++)
                    for (s = 0; s < S; s++) {
                        float value =
                            f < 0 ? bias[g * S + s] : haste__number(array, dtype, (size_t)((g * F + f) * S + s));
                        if (!(fabsf(value) <= FLT_MAX) || (s >= labels && value != 0) ||
                            (k == 1 && value < 0) ||   /* Adam's second moment */
                            (k == 0 && layer->optimizer == HASTE_ADAMW && fabsf(value) > 1e18f))
                            return haste__fail(error, HASTE_ERR_STATE,
                                               "layer: block[%d], group %lld, label %d, input %d: %s = %g, expected %s",
                                               i, (long long)g, s, f, name, (double)value,
                                               s >= labels                                 ? "0 in padding"
                                               : k == 1                                    ? "a finite number from 0"
                                               : k == 0 && layer->optimizer == HASTE_ADAMW ? "at most 1e18 in size"
                                                                                           : "a finite number");
                    }
            }
        }
    }
    return HASTE_OK;
}

/* A workspace but for its memory. */
static haste_status haste__workspace_make(haste_workspace *work, const haste_layer *layer,
                                          const haste_workspace_options *options, haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    if (status == HASTE_OK) status = haste__workspace_shape(work, layer, options, error);
    return status == HASTE_OK ? haste__workspace_bytes(work, &work->bytes, error) : status;
}

haste_status haste_workspace_init(haste_workspace *work, const haste_layer *layer,
                                  const haste_workspace_options *options, void *memory, size_t bytes,
                                  haste_error *error)
{
    haste_workspace w;
    haste_status status;
    if (!work) return haste__fail(error, HASTE_ERR_ARG, "work is NULL");
    status = haste__workspace_make(&w, layer, options, error);
    if (status == HASTE_OK) status = haste__memory_check(memory, bytes, w.bytes, error);
    if (status != HASTE_OK) return status;
    w.memory = memory;
    *work = w;
    return HASTE_OK;
}

haste_status haste_workspace_create(haste_workspace *work, const haste_layer *layer,
                                    const haste_workspace_options *options, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_workspace w;
    haste_status status;
    if (!work) return haste__fail(error, HASTE_ERR_ARG, "work is NULL");
    status = haste__workspace_make(&w, layer, options, error);
    if (status != HASTE_OK) return status;
    arena.end = w.bytes;
    if ((status = haste__reserve(&arena, "a workspace", error)) != HASTE_OK) return status;
    w.memory = arena.memory;
    w.owned = 1;
    *work = w;
    return HASTE_OK;
}

void haste_workspace_free(haste_workspace *work)
{
    if (!work) return;
    if (work->owned) haste__release(work->memory);
    memset(work, 0, sizeof *work);
}

/* Which layers a gradient belongs to: those of one seed, whose indices were drawn alike, one order of labels and one
   arrangement of blocks. */
static uint64_t haste__layer_identity(const haste_layer *layer)
{
    uint64_t identity = haste__mix(layer->seed + haste__mix(layer->order_id) + (uint64_t)layer->block_count);
    int i, k;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        uint64_t word[3];
        word[0] = (uint64_t)b->labels;
        word[1] = (uint64_t)b->group_size << 32 | (uint64_t)b->fan_in;
        word[2] = (uint64_t)b->begin << 32 | (uint64_t)b->end;
        for (k = 0; k < 3; k++) identity = haste__mix(identity * UINT64_C(0x9e3779b97f4a7c15) + word[k]);
    }
    return identity;
}

haste_status haste_gradient_create(haste_gradient *gradient, const haste_layer *layer, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_gradient result;
    haste_status status;
    if (!gradient) return haste__fail(error, HASTE_ERR_ARG, "gradient is NULL");
    memset(&result, 0, sizeof result);
    status = haste__layer_quick_check(layer, error);
    if (status == HASTE_OK) status = haste__gradient_arrange(&result, layer, &arena, error);
    result.bytes = arena.end;
    if (status == HASTE_OK) status = haste__reserve(&arena, "gradients", error);
    if (status != HASTE_OK) return status;
    result.layer = haste__layer_identity(layer);
    result.memory = arena.memory;
    memset(result.memory, 0, result.bytes);
    haste__gradient_arrange(&result, layer, &arena, error);
    *gradient = result;
    return HASTE_OK;
}

haste_status haste_gradient_init(haste_gradient *gradient, const haste_layer *layer, float *const *weight,
                                 float *const *bias, haste_error *error)
{
    haste_status status;
    int i;
    if (!gradient) return haste__fail(error, HASTE_ERR_ARG, "gradient is NULL");
    status = haste__layer_quick_check(layer, error);
    if (status != HASTE_OK) return status;
    memset(gradient, 0, sizeof *gradient);
    gradient->layer = haste__layer_identity(layer);
    for (i = 0; i < layer->block_count; i++) {
        gradient->weight[i] = weight ? weight[i] : NULL;
        gradient->bias[i] = bias ? bias[i] : NULL;
    }
    return HASTE_OK;
}

/* Does the gradient belong to the layer? With `all`, are its arrays all there? */
static haste_status haste__gradient_check(const haste_layer *layer, const haste_gradient *gradient, int all,
                                          haste_error *error)
{
    int i;
    if (!gradient) return haste__fail(error, HASTE_ERR_ARG, "gradient is NULL");
    if (gradient->layer != haste__layer_identity(layer))
        return haste__fail(error, HASTE_ERR_STATE,
                           "the gradient was made for a layer of other blocks, another seed or order of labels");
    for (i = 0; i < layer->block_count && all; i++)
        if (!gradient->weight[i] || !gradient->bias[i])
            return haste__fail(error, HASTE_ERR_ARG, "gradient->weight[%d] or bias[%d] is NULL", i, i);
    if (gradient->pending < 0)
        return haste__fail(error, HASTE_ERR_STATE, "gradient->pending = %d is negative", (int)gradient->pending);
    return HASTE_OK;
}

haste_status haste_gradient_zero(haste_gradient *gradient, const haste_layer *layer, haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    int i;
    if (status == HASTE_OK) status = haste__gradient_check(layer, gradient, 0, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++) {
        const size_t slots = (size_t)haste__block_slots(&layer->block[i]);
        if (gradient->weight[i])
            memset(gradient->weight[i], 0, slots * (size_t)layer->block[i].fan_in * sizeof(float));
        if (gradient->bias[i]) memset(gradient->bias[i], 0, slots * sizeof(float));
    }
    gradient->pending = 0;
    return HASTE_OK;
}

void haste_gradient_free(haste_gradient *gradient)
{
    if (!gradient) return;
    haste__release(gradient->memory);
    memset(gradient, 0, sizeof *gradient);
}

/* ---- >>keys -------------------------------------------------------------------------------------------------- */

/* What is sorted, selected and searched are 64-bit keys: in the upper half what is compared first, a slot or a score;
   in the lower one whose it is, a sample, a label or a place. */

/* Floats as integers of the same order, -0 as 0. Not for NaN. */
HASTE__INLINE uint32_t haste__rank(float value)
{
    const uint32_t bits = haste__bits(value + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* In ascending order of the keys the highest score comes first, of equal ones the smaller id. */
HASTE__INLINE uint64_t haste__key(float score, int32_t id)
{
    return (uint64_t)~haste__rank(score) << 32 | (uint32_t)id;
}
HASTE__INLINE int32_t haste__key_id(uint64_t key) { return (int32_t)(key & 0x7fffffffu); }
HASTE__INLINE float haste__key_score(uint64_t key)
{
    const uint32_t rank = ~(uint32_t)(key >> 32);
    return haste__float(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

HASTE__INLINE void haste__key_swap(uint64_t *key, int64_t i, int64_t j)
{
    const uint64_t k = key[i];
    key[i] = key[j];
    key[j] = k;
}

HASTE__INLINE void haste__label_swap(float *score, int32_t *id, int64_t i, int64_t j)
{
    const float s = score[i];
    const int32_t l = id[i];
    score[i] = score[j]; score[j] = s;
    id[i] = id[j]; id[j] = l;
}

/* Sorts n keys, ascending, in place: radix exchange. The highest bit in which they differ splits them in two, and each
   part is sorted likewise: never more than 64 passes, whatever the keys, and one over keys that ascend already. With
   key NULL they are those of score [n] and id [n], which change places together. */
static void haste__sort_any(uint64_t *key, float *score, int32_t *id, int64_t n)
{
    #define HASTE__KEY_AT(i) (key ? key[i] : haste__key(score[i], id[i]))
    while (n > 1) {
        uint64_t bit = 0, first = HASTE__KEY_AT(0), before = first;
        int64_t i, low = 0;
        int sorted = 1;
        for (i = 1; i < n; i++) {
            const uint64_t now = HASTE__KEY_AT(i);
            bit |= now ^ first;
            sorted &= before <= now;
            before = now;
        }
        if (sorted) return;
        while (bit & (bit - 1)) bit &= bit - 1;   /* the highest alone */
        for (i = 0; i < n; i++) {   /* keys without it move to the front; no branch that could be mispredicted */
            if (key) haste__key_swap(key, i, low);
            else haste__label_swap(score, id, i, low);
            low += (HASTE__KEY_AT(low) & bit) == 0;
        }
        haste__sort_any(key, score, id, low);
        if (key) key += low;
        else { score += low; id += low; }
        n -= low;
    }
}

static void haste__sort(uint64_t *key, int64_t n) { haste__sort_any(key, NULL, NULL, n); }
static void haste__sort_labels(float *score, int32_t *id, int64_t n) { haste__sort_any(NULL, score, id, n); }

/* Sorts keys by slot >> low alone, from the lowest digit up: those of equal slots stay in the order that they have.
   haste__sort takes 37 ns a key where this takes 3.
   Returns the array that holds the result, a or b. */
static uint64_t *haste__sort_slots(uint64_t *a, uint64_t *b, int64_t n, int64_t slots, int low)
{
    int64_t count[4096], sum, here, j;
    int bits = 0, digit, shift, i;
    while ((slots - 1) >> low >> bits != 0) bits++;
    digit = bits <= 12 ? bits : bits <= 24 ? (bits + 1) / 2 : (bits + 2) / 3;
    for (shift = 0; shift < bits; shift += digit) {
        const uint64_t mask = ((uint64_t)1 << digit) - 1;
        uint64_t *t;
        memset(count, 0, ((size_t)mask + 1) * sizeof *count);
        for (j = 0; j < n; j++) count[a[j] >> (32 + low + shift) & mask]++;
        for (i = 0, sum = 0; i <= (int)mask; i++) { here = count[i]; count[i] = sum; sum += here; }
        for (j = 0; j < n; j++) b[count[a[j] >> (32 + low + shift) & mask]++] = a[j];
        t = a; a = b; b = t;
    }
    return a;
}

/* Moves the k smallest of n distinct keys to the front, in no order of their own: quickselect, median of three. */
static void haste__select(uint64_t *key, int64_t n, int64_t k)
{
    int64_t first = 0, last = n - 1;
    while (first < last && k < n) {
        int64_t i = first, j = last, middle = first + (last - first) / 2;
        uint64_t pivot;
        if (key[middle] < key[first]) haste__key_swap(key, middle, first);
        if (key[last] < key[first]) haste__key_swap(key, last, first);
        if (key[last] < key[middle]) haste__key_swap(key, last, middle);
        pivot = key[middle];
        while (i <= j) {
            while (key[i] < pivot) i++;
            while (key[j] > pivot) j--;
            if (i <= j) haste__key_swap(key, i++, j--);
        }
        if (k <= j) last = j;   /* key[first .. j] < key[i .. last], and between them stands at most the pivot */
        else if (k >= i) first = i;
        else return;
    }
}

/* The first of the ascending keys that is not below `key`. */
static const uint64_t *haste__lower_bound(const uint64_t *first, const uint64_t *end, uint64_t key)
{
    while (first < end) {
        const uint64_t *middle = first + (end - first) / 2;
        if (*middle < key) first = middle + 1;
        else end = middle;
    }
    return first;
}

/* Is the key one of them? */
HASTE__INLINE int haste__among(const uint64_t *first, const uint64_t *end, uint64_t key)
{
    const uint64_t *at = haste__lower_bound(first, end, key);
    return at < end && *at == key;
}

/* ---- >>batch ------------------------------------------------------------------------------------------------- */

/* What the groups of one call share. A call is a pass over all groups, cut into chunks; a chunk is done by one thread
   from its first group to its last, so results depend on the chunks and never on the threads. */
typedef struct haste__pass {
    const haste_layer     *layer;
    haste_layer           *trained;         /* the same layer where the pass updates it, else NULL */
    const haste_workspace *work;
    haste__scratch         scratch;         /* the workspace's arrays */
    const haste__kernels  *kernel;
    const float           *x;               /* [B, D], the caller's */
    float                 *grad_x;          /* [B, D] (+=), the caller's, or NULL */
    int                    B;
    int                    tiles;           /* ceil(B / 32) blocks of samples */
    int                    rows;            /* only logits are wanted, as rows of labels */
    int                    dot;             /* these by haste__dot, from scratch.x_bf16 */
    int                    sparse;          /* many inputs are 0 in whole blocks of samples: see scratch.live */
    int                    pitch;           /* floats of an input in a block: 32, or B where only logits are wanted
                                               and B < 32 */
    const uint64_t        *pair, *pair_end; /* (slot << 32 | sample), ascending and distinct */
    float                  scale;           /* of loss and gradients */
    float                  negligible;      /* logit gradients below it, scale included, count as 0 */
    const haste_loss_options *loss;         /* where it asks for more than the plain loss, else NULL */
    const float           *sample;          /* [tiles*32] weights of samples, or NULL: 1 */
    const float           *value;           /* of each pair, or NULL: 1 */
    const uint64_t        *ignored, *ignored_end;   /* pairs, as those of positives */
    const float           *shift, *factor;  /* softmax: [tiles*32] each */
    int                    want_loss;
    haste_gradient        *gradient;        /* where weight gradients go instead of an update */
    const float           *grad_logits;     /* [B, slots]: given rather than computed */
    float                 *logits;          /* [B, slots]: wanted */
    haste__rule            rule[HASTE_MAX_BLOCKS];
    int                    frozen[HASTE_MAX_BLOCKS];
    float                  clip;            /* largest norm of a group's gradient; 0: any */
    int                    want_norm;
    int                    k;               /* top-k */
    float                  threshold;       /* haste_above */
    int                    only;            /* the pairs are all that a search looks at */
    void (*hit)(const struct haste__pass *pass, int64_t chunk, int thread, int b, int32_t id, float score);
    /* what a search does with a label's logit */
    const int64_t         *offset;
    int32_t               *id;
    float                 *score;
} haste__pass;

/* One group on its way through a thread. */
typedef struct haste__group {
    const haste_block *block;
    int                number;              /* of the block */
    int64_t            g;
    int                S, F, labels;        /* labels < S only in the last group of a block */
    int64_t            slot;                /* of its first label */
    const uint16_t    *index;
    const void        *stored;              /* [F, S] its weights */
    const float       *w;                   /* the same as float32: the weights themselves, or a widened copy; not where
                                               only logits are wanted */
    ptrdiff_t          ahead;               /* prefetch distance, to the next group's weights; 0: none */
    float             *z, *zt;              /* [tiles][S][32] logits, then their gradients; [tiles][32][S] the same
                                               transposed; each with room for a panel */
    float             *copy, *dw, *db;      /* [F, S], [F, S], a panel of biases */
    uint16_t          *place, *column;      /* [F] each: what haste__group_live finds */
    const uint64_t    *pair, *pair_end;     /* its pairs */
    const uint64_t    *ignored, *ignored_end;
    float              importance;          /* of its loss: above 1 where it stands for groups that are not visited */
} haste__group;

/* Samples of a block: 32 but in the last. */
static int haste__tile_samples(const haste__pass *pass, int tile)
{
    int n = pass->B - tile * HASTE__SAMPLES;
    return n < HASTE__SAMPLES ? n : HASTE__SAMPLES;
}

/* Every feature of 32 samples in one row: x [B, D] to work->x [tiles][D][pitch], zeros past B. Not in parallel: it is
   little beside a pass over the weights, and threads that wait for each other cost more where the machine has other
   work. */
static void haste__pass_load(const haste__pass *pass)
{
    int D = pass->layer->inputs, tile, b, d;
    for (tile = 0; tile < pass->tiles; tile++) {
        const float *x = pass->x + (size_t)tile * HASTE__SAMPLES * (size_t)D;
        float *out = pass->scratch.x + (size_t)tile * (size_t)D * HASTE__SAMPLES;
        int n = haste__tile_samples(pass, tile), whole = n == HASTE__SAMPLES ? D / 8 * 8 : 0;
        if (whole) pass->kernel->transpose(HASTE__SAMPLES, whole, x, D, out, HASTE__SAMPLES, NULL);
        for (d = whole, out += whole * pass->pitch; d < D; d++, out += pass->pitch) {
            for (b = 0; b < n; b++) out[b] = x[(size_t)b * (size_t)D + (size_t)d];
            for (; b < pass->pitch; b++) out[b] = 0;
        }
    }
}

/* For training. Says besides which inputs are 0 in whole blocks of samples, and whether a fourth of all are. */
static void haste__pass_load_live(haste__pass *pass)
{
    const size_t n = (size_t)pass->tiles * (size_t)pass->layer->inputs;
    const float *x = pass->scratch.x;
    size_t i, dead = 0;
    int b;
    haste__pass_load(pass);
    for (i = 0; i < n; i++, x += HASTE__SAMPLES) {
        for (b = 0; b < HASTE__SAMPLES && x[b] == 0; b++) { }
        pass->scratch.live[i] = b < HASTE__SAMPLES;
        dead += b == HASTE__SAMPLES;
    }
    pass->sparse = dead >= (n + 3) / 4;
}

/* Where only logits are wanted, a small batch is packed: an input then takes fewer cache lines. */
static void haste__pass_load_rows(haste__pass *pass)
{
    pass->rows = 1;
    if (pass->B < HASTE__SAMPLES) pass->pitch = pass->B;
    haste__pass_load(pass);
    pass->dot = pass->work->bf16_dot && pass->layer->dtype == HASTE_BF16;
    if (pass->dot) {
        const size_t n = (size_t)pass->tiles * (size_t)pass->layer->inputs * (size_t)pass->pitch;
        size_t i;
        for (i = 0; i < n; i++) {   /* the largest bfloat16 rather than infinity */
            const uint16_t half = haste__to_bf16(pass->scratch.x[i]);
            pass->scratch.x_bf16[i] = (uint16_t)(half - ((half & 0x7fff) == 0x7f80));
        }
    }
}

/* Sums the chunks' input gradients in their order and adds them to the caller's [B, D]. */
static void haste__transpose_out(void *context, int64_t tile, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    float *grad_x = pass->grad_x + (size_t)tile * HASTE__SAMPLES * (size_t)pass->layer->inputs;
    int D = pass->layer->inputs, chunks = pass->work->chunks, b, d, c, n = haste__tile_samples(pass, (int)tile);
    size_t row = (size_t)D * HASTE__SAMPLES, chunk = (size_t)pass->tiles * row;
    float *first = pass->scratch.grad_x + (size_t)tile * row, rows[HASTE__SAMPLES][HASTE__SAMPLES];
    (void)thread;
    for (c = 1; c < chunks; c++) pass->kernel->axpy(first, 1, first + (size_t)c * chunk, (int64_t)row);
    for (d = 0; d + HASTE__SAMPLES <= D; d += HASTE__SAMPLES) {   /* 32 inputs at once */
        float *to = grad_x + d;
        pass->kernel->transpose(HASTE__SAMPLES, HASTE__SAMPLES, first + (size_t)d * HASTE__SAMPLES, HASTE__SAMPLES,
                                rows[0], HASTE__SAMPLES, NULL);
        for (b = 0; b < n; b++, to += D) pass->kernel->axpy(to, 1, rows[b], HASTE__SAMPLES);
    }
    for (; d < D; d++)
        for (b = 0; b < n; b++)
            grad_x[(size_t)b * (size_t)D + (size_t)d] += first[(size_t)d * HASTE__SAMPLES + (size_t)b];
}

/* Where B lists begin and end. */
static haste_status haste__offsets_check(const int64_t *offset, int32_t B, const char *name, haste_error *error)
{
    int64_t b;
    if (!offset) return haste__fail(error, HASTE_ERR_ARG, "%s.offset is NULL", name);
    if (offset[0] < 0)
        return haste__fail(error, HASTE_ERR_DATA, "%s.offset[0] = %lld is negative", name, (long long)offset[0]);
    for (b = 0; b < B; b++)
        if (offset[b + 1] < offset[b])
            return haste__fail(error, HASTE_ERR_DATA, "%s.offset[%lld] = %lld is below its predecessor, %lld", name,
                               (long long)(b + 1), (long long)offset[b + 1], (long long)offset[b]);
    return HASTE_OK;
}

/* Checks B lists of label ids below L. `most` ids are allowed. With `plain` there may be no offsets, see haste_lists.
   Without samples there is nothing to look at. */
static haste_status haste__lists_check(int32_t L, int32_t B, const haste_lists *lists, int plain, int64_t most,
                                       const char *name, haste_error *error)
{
    int64_t first = 0, last = B, i;
    if (B == 0) return HASTE_OK;
    if (!lists) return haste__fail(error, HASTE_ERR_ARG, "%s is NULL", name);
    plain = plain && !lists->offset;
    if (!plain) {
        const haste_status status = haste__offsets_check(lists->offset, B, name, error);
        if (status != HASTE_OK) return status;
        first = lists->offset[0];
        last = lists->offset[B];
    }
    if (!lists->id && last > first)
        return haste__fail(error, HASTE_ERR_ARG, "%s.%sid is NULL", name, plain ? "offset is NULL, and " : "");
    if (last - first > most)
        return haste__fail(error, HASTE_ERR_SIZE, "%s holds %lld ids, expected at most the workspace's %lld", name,
                           (long long)(last - first), (long long)most);
    for (i = first; i < last; i++)
        if (lists->id[i] < -plain || lists->id[i] >= L)
            return haste__fail(error, HASTE_ERR_DATA, "%s.id[%lld] = %d, expected %d to %d", name, (long long)i,
                               (int)lists->id[i], -plain, (int)L - 1);
    return HASTE_OK;
}

/* The ids of sample b: from id[first] to id[last - 1]. Without offsets it is id[b], or none. */
HASTE__INLINE int64_t haste__list_first(const haste_lists *lists, int64_t b)
{
    return lists->offset ? lists->offset[b] : b;
}
HASTE__INLINE int64_t haste__list_last(const haste_lists *lists, int64_t b)
{
    return lists->offset ? lists->offset[b + 1] : b + (lists->id[b] >= 0);
}

/* Sorted pairs (slot << 32 | sample) of checked lists, each once; returns where they end. buffer: as large as pair; or
   NULL. */
static uint64_t *haste__pairs(const haste_layer *layer, const haste_lists *lists, int32_t B, uint64_t *pair,
                              uint64_t *buffer)
{
    const uint64_t *sorted = pair;
    int64_t b, i, n = 0, kept = 0;
    for (b = 0; b < B; b++)
        for (i = haste__list_first(lists, b); i < haste__list_last(lists, b); i++)
            pair[n++] = (uint64_t)(uint32_t)layer->slot_of[lists->id[i]] << 32 | (uint64_t)b;
    if (buffer && n > 1024) sorted = haste__sort_slots(pair, buffer, n, layer->slots, 0);   /* samples ascend by now */
    else haste__sort(pair, n);
    for (i = 0; i < n; i++)
        if (i == 0 || sorted[i] != pair[kept - 1]) pair[kept++] = sorted[i];
    return pair + kept;
}

/* The second half of the pairs' memory holds nothing yet. */
static void haste__lists_sort(haste__pass *pass, const haste_lists *lists)
{
    pass->pair = pass->scratch.pair;
    pass->pair_end = haste__pairs(pass->layer, lists, pass->B, pass->scratch.pair,
                                  pass->scratch.pair + pass->work->ids);
}

/* The first pair from (slot, sample) on. */
static const uint64_t *haste__pair_find(const uint64_t *first, const uint64_t *end, int64_t slot, int64_t sample)
{
    return haste__lower_bound(first, end, (uint64_t)slot << 32 | (uint64_t)sample);
}

/* What is ignored is none of the pass's pairs. */
static void haste__lists_drop(haste__pass *pass, const haste_lists *ignored)
{
    uint64_t *kept = pass->scratch.pair, *second = kept + pass->work->ids;
    const uint64_t *p;
    pass->ignored = second;
    pass->ignored_end = haste__pairs(pass->layer, ignored, pass->B, second, NULL);
    for (p = pass->pair; p < pass->pair_end; p++)
        if (!haste__among(pass->ignored, pass->ignored_end, *p)) *kept++ = *p;
    pass->pair_end = kept;
}

/* What the first naming of a label in sample b's list counts. */
static float haste__list_value(const haste_lists *lists, const float *value, int64_t b, int32_t id)
{
    int64_t i = haste__list_first(lists, b);
    while (lists->id[i] != id) i++;
    return value[i];
}

/* The pass's positives, what each counts, and whatever else the loss is asked for, from checked lists and options. */
static void haste__targets(haste__pass *pass, const haste_lists *positives, const haste_loss_options *o)
{
    haste__scratch *s = &pass->scratch;
    const uint64_t *p, *ignored;
    int32_t b, absent = 0;
    haste__lists_sort(pass, positives);
    if (o->ignored) haste__lists_drop(pass, o->ignored);
    for (b = 0; b < pass->B; b++) {
        s->mass[b] = s->mass[pass->work->batch + b] = 0;
        s->smooth[b] = (double)pass->layer->labels;   /* that are not ignored; haste__softmax_sums replaces it */
    }
    for (ignored = pass->ignored; ignored < pass->ignored_end; ignored++) s->smooth[*ignored & 0xffffffffu]--;
    for (p = pass->pair; p < pass->pair_end; p++) {
        const int32_t sample = (int32_t)(*p & 0xffffffffu), id = pass->layer->label_of[*p >> 32];
        const float y = o->positive_value ? haste__list_value(positives, o->positive_value, sample, id) : 1;
        s->value[p - s->pair] = y;
        s->mass[sample] += (double)y;
        s->mass[pass->work->batch + sample] += (double)y * (o->label_weight ? (double)o->label_weight[id] : 1);
    }
    if (o->positive_value) pass->value = s->value;
    /* A row without a positive is left out; a shard cannot tell, but the softmax's sums do. */
    for (b = 0; b < pass->B && !positives->offset && !o->softmax; b++) absent += positives->id[b] < 0;
    if (o->sample_weight || absent) {
        for (b = 0; b < pass->tiles * HASTE__SAMPLES; b++) {
            s->sample[b] = b < pass->B && o->sample_weight ? o->sample_weight[b] : 1;
            if (b >= pass->B || (absent && positives->id[b] < 0)) s->sample[b] = 0;
        }
        pass->sample = s->sample;
    }
    if (pass->value || pass->sample || pass->ignored || o->label_weight || o->label_scale || o->label_offset ||
        (o->logit_scale != 0 && o->logit_scale != 1) || o->margin != 0 ||
        (o->positive_weight != 0 && o->positive_weight != 1) || o->smoothing != 0 || (o->share != 0 && o->share != 1) ||
        o->function || o->softmax)
        pass->loss = o;
    pass->scale = (float)(o->scale != 0 ? o->scale : 1.0 / pass->B);
    pass->negligible = o->negligible * fabsf(pass->scale);
}

/* A finite number in least .. most? */
static int haste__in(double value, double least, double most) { return value >= least && value <= most; }

/* An array of the loss's options, or NULL. */
static haste_status haste__option_check(const float *array, int64_t n, double least, const char *name,
                                        haste_error *error)
{
    int64_t i;
    for (i = 0; array && i < n; i++)
        if (!haste__in((double)array[i], least, FLT_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "%s[%lld] = %g, expected a finite number%s", name, (long long)i,
                               (double)array[i], least < 0 ? "" : " from 0");
    return HASTE_OK;
}

static haste_status haste__loss_check(const haste_layer *layer, const haste_workspace *work, int32_t B,
                                      const haste_lists *positives, const haste_loss_options *o, haste_error *error)
{
    const haste_loss kind = layer->loss;
    haste_status status;
    int64_t i;
    int32_t b;
    if (o->scale != 0 && !haste__in(fabs(o->scale), FLT_MIN, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "scale = %g, expected 0, or a number of the size of floats", o->scale);
    if (!haste__in((double)o->negligible, 0, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "negligible = %g, expected a finite number from 0",
                           (double)o->negligible);
    if (!haste__in((double)o->logit_scale, -FLT_MAX, FLT_MAX) || !haste__in((double)o->margin, -FLT_MAX, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "logit_scale = %g, margin = %g, expected finite numbers",
                           (double)o->logit_scale, (double)o->margin);
    if (!haste__in((double)o->positive_weight, 0, FLT_MAX) || (o->positive_weight != 0 && kind == HASTE_SOFTMAX))
        return haste__fail(error, HASTE_ERR_ARG,
                           "positive_weight = %g, expected a finite number from 0, and 0 with softmax",
                           (double)o->positive_weight);
    if (!(o->smoothing >= 0 && o->smoothing < 1) || (o->smoothing != 0 && kind == HASTE_SQUARED_HINGE))
        return haste__fail(error, HASTE_ERR_ARG, "smoothing = %g, expected 0 to below 1, and 0 with the squared hinge",
                           (double)o->smoothing);
    if (!(o->share >= 0 && o->share <= 1))
        return haste__fail(error, HASTE_ERR_ARG, "share = %g, expected 0 to 1", (double)o->share);
    if (o->function && (o->label_weight || o->positive_weight != 0 || o->smoothing != 0 || o->ignored || o->softmax))
        return haste__fail(error, HASTE_ERR_ARG,
                           "function: label_weight, positive_weight, smoothing, ignored and softmax are its own "
                           "affair");
    if (kind == HASTE_SOFTMAX && !o->function && o->smoothing != 0 && o->label_weight)
        return haste__fail(error, HASTE_ERR_ARG, "smoothing = %g with label_weight is not defined for softmax",
                           (double)o->smoothing);
    if (o->softmax && kind != HASTE_SOFTMAX)
        return haste__fail(error, HASTE_ERR_ARG, "softmax: sums are given, and the layer's loss is another");
    for (b = 0; o->positive_value && b < B; b++)
        for (i = haste__list_first(positives, b); i < haste__list_last(positives, b); i++)
            if (!haste__in((double)o->positive_value[i], 0, FLT_MAX))
                return haste__fail(error, HASTE_ERR_DATA, "positive_value[%lld] = %g, expected a finite number from 0",
                                   (long long)i, (double)o->positive_value[i]);
    status = haste__option_check(o->sample_weight, B, 0, "sample_weight", error);
    if (status == HASTE_OK) status = haste__option_check(o->label_weight, layer->labels, 0, "label_weight", error);
    if (status == HASTE_OK)
        status = haste__option_check(o->label_scale, layer->labels, -FLT_MAX, "label_scale", error);
    if (status == HASTE_OK)
        status = haste__option_check(o->label_offset, layer->labels, -FLT_MAX, "label_offset", error);
    if (status == HASTE_OK && o->ignored)
        status = haste__lists_check(layer->labels, B, o->ignored, 1, work->ids, "ignored", error);
    for (i = 0; status == HASTE_OK && o->softmax && i < (int64_t)B * HASTE_SOFTMAX_SUMS; i++) {
        const int k = (int)(i % HASTE_SOFTMAX_SUMS);   /* the largest logit may be negative; labels are counted */
        const double least = k == 0 ? -FLT_MAX : k == 4 && o->smoothing != 0 ? 1 : 0;
        if (!haste__in(o->softmax[i], least, k == 0 ? FLT_MAX : DBL_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "softmax[%lld, %d] = %g, expected a finite number from %g",
                               (long long)(i / HASTE_SOFTMAX_SUMS), k, o->softmax[i], least);
    }
    return status;
}

/* Is a workspace as it was made? */
static haste_status haste__workspace_check(const haste_workspace *work, haste_error *error)
{
    haste_status status;
    size_t bytes;
    if (!work || !work->memory) return haste__fail(error, HASTE_ERR_ARG, "work is NULL or was never made");
    if (!haste__path_kernels(work->path))
        return haste__fail(error, HASTE_ERR_ARG, "work: path = %d is not available", (int)work->path);
    status = haste__workspace_bytes(work, &bytes, error);
    if (status == HASTE_OK && bytes != work->bytes)
        return haste__fail(error, HASTE_ERR_ARG, "work: its sizes ask for %llu bytes, it has %llu: not as it was made",
                           (unsigned long long)bytes, (unsigned long long)work->bytes);
    return status;
}

/* May this layer use this workspace, for this? haste_score takes any. */
static haste_status haste__work_check(const haste_layer *layer, const haste_workspace *work, haste_purpose purpose,
                                      haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    int i;
    if (status == HASTE_OK) status = haste__workspace_check(work, error);
    if (status != HASTE_OK) return status;
    if (purpose != HASTE_ANY_PURPOSE && work->purpose != HASTE_ANY_PURPOSE && work->purpose != purpose)
        return haste__fail(error, HASTE_ERR_ARG, "the workspace was made for %s alone",
                           work->purpose == HASTE_TRAINING ? "training" : "prediction");
    if (layer->inputs > work->inputs)
        return haste__fail(error, HASTE_ERR_SIZE, "the workspace was made for %d inputs, this layer has %d",
                           (int)work->inputs, (int)layer->inputs);
    for (i = 0; i < layer->block_count; i++)
        if (layer->block[i].group_size > work->max_group || layer->block[i].fan_in > work->max_fan_in)
            return haste__fail(error, HASTE_ERR_SIZE,
                               "the workspace was made for S <= %d and F <= %d, block[%d] has %d and "
                               "%d",
                               (int)work->max_group, (int)work->max_fan_in, i, (int)layer->block[i].group_size,
                               (int)layer->block[i].fan_in);
    return HASTE_OK;
}

static void haste__pass_make(haste__pass *pass, const haste_layer *layer, const haste_workspace *work)
{
    haste__arena arena = { NULL, 0, 0 };
    memset(pass, 0, sizeof *pass);
    pass->layer = layer;
    pass->work = work;
    pass->kernel = haste__path_kernels(work->path);
    pass->scale = 1;
    arena.memory = (char *)work->memory;
    haste__scratch_arrange(&pass->scratch, work, &arena);
}

/* Is a batch of B samples there, and finite? */
static haste_status haste__x_check(const haste_layer *layer, const haste_workspace *work, const float *x, int32_t B,
                                   haste_error *error)
{
    const size_t n = (size_t)(B > 0 ? B : 0) * (size_t)layer->inputs;
    size_t i;
    if (B < 0) return haste__fail(error, HASTE_ERR_ARG, "B = %d is negative", (int)B);
    if (!x && B > 0) return haste__fail(error, HASTE_ERR_ARG, "x is NULL");
    for (i = haste__path_kernels(work->path)->all_below(x, (int64_t)n, HUGE_VALF) ? n : 0; i < n; i++)
        if (!(fabsf(x[i]) <= FLT_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "x[%lld, %lld] = %g is not finite",
                               (long long)(i / (size_t)layer->inputs), (long long)(i % (size_t)layer->inputs),
                               (double)x[i]);
    return HASTE_OK;
}

/* Checks what all calls with a batch share, and makes the pass. Writes nothing else. */
static haste_status haste__pass_begin(haste__pass *pass, const haste_layer *layer, const haste_workspace *work,
                                      haste_purpose purpose, const float *x, int32_t B, haste_error *error)
{
    haste_status status = haste__work_check(layer, work, purpose, error);
    if (status == HASTE_OK && B > work->batch)
        return haste__fail(error, HASTE_ERR_SIZE, "B = %d, expected at most the workspace's batch = %d", (int)B,
                           (int)work->batch);
    if (status == HASTE_OK) status = haste__x_check(layer, work, x, B, error);
    if (status != HASTE_OK) return status;
    haste__pass_make(pass, layer, work);
    pass->x = x;
    pass->B = B;
    pass->tiles = (B + HASTE__SAMPLES - 1) / HASTE__SAMPLES;
    pass->pitch = HASTE__SAMPLES;
    return HASTE_OK;
}

/* ---- >>groups ------------------------------------------------------------------------------------------------ */

/* Groups of a block that belong to a chunk: chunks are equal shares of the layer's weights. */
static void haste__chunk_groups(const haste__pass *pass, int number, int64_t chunk, int64_t *first, int64_t *last)
{
    const haste_layer *layer = pass->layer;
    const int chunks = pass->work->chunks;
    int64_t before = 0, total = 0, unit = 0, bound[2], side;   /* below 2^47 weights, at most 2^10 chunks */
    int i;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        int64_t cost = block->group_size * (int64_t)block->fan_in;
        if (i < number) before += block->groups * cost;
        if (i == number) unit = cost;
        total += block->groups * cost;
    }
    for (side = 0; side < 2; side++) {
        /* the first group with (before + g * unit) * chunks >= chunk * total */
        int64_t wanted = (chunk + side) * total - before * chunks;
        int64_t g = wanted <= 0 ? 0 : (wanted + unit * chunks - 1) / (unit * chunks);
        bound[side] = g < layer->block[number].groups ? g : layer->block[number].groups;
    }
    *first = bound[0];
    *last = bound[1];
}

/* n numbers of an array as float32: where they are, or, of bfloat16, in `out`. */
static float *haste__widen(const haste__kernels *kernel, float *out, void *array, haste_dtype dtype, size_t first,
                           int n)
{
    if (dtype == HASTE_F32) return (float *)array + first;
    kernel->widen((const uint16_t *)array + first, out, n);
    return out;
}

/* Puts back what haste__widen gave; bfloat16 is rounded stochastically. `position` counts places over the whole layer,
   so that no two blocks round alike. */
static void haste__narrow(const haste__kernels *kernel, void *array, haste_dtype dtype, size_t first, const float *in,
                          int n, uint64_t seed, uint64_t stream, uint64_t position)
{
    if (dtype == HASTE_BF16) kernel->narrow(in, (uint16_t *)array + first, n, haste__random(seed, stream, position));
}

/* Everything about group g of a block that a pass needs, in this thread's scratch. */
static void haste__group_open(haste__group *group, const haste__pass *pass, int number, int64_t g, int thread)
{
    const haste_block *block = &pass->layer->block[number];
    size_t panel, weights;
    group->block = block;
    group->number = number;
    group->g = g;
    group->S = block->group_size;
    group->F = block->fan_in;
    group->labels = haste__group_labels(block, g);
    group->slot = block->first_slot + g * block->group_size;
    group->index = block->index ? block->index + g * block->fan_in : NULL;
    panel = (size_t)(pass->rows && pass->tiles < 2 ? 2 : pass->tiles) * HASTE__SAMPLES * (size_t)haste__panel(group->S);
    weights = (size_t)group->F * (size_t)group->S;
    group->z = pass->scratch.tile + pass->scratch.tile_count * (size_t)thread;
    group->copy = group->zt = group->dw = group->db = NULL;
    if (!pass->rows || pass->dot) group->copy = group->z + panel;
    if (!pass->rows) {
        group->place = (uint16_t *)(group->copy + weights);
        group->column = group->place + group->F;
        group->zt = group->copy + weights + ((size_t)group->F + 1) * (HASTE__SAMPLES / 2);
        group->dw = group->zt + panel;
        group->db = group->dw + weights;
    }
    group->ahead = g + 1 < block->groups ? (ptrdiff_t)weights : 0;
    group->stored = (const char *)block->weight + (size_t)g * weights * haste__sizeof(pass->layer->dtype);
    group->w = NULL;
    if (!pass->rows)
        group->w = haste__widen(pass->kernel, group->copy, block->weight, pass->layer->dtype, (size_t)g * weights,
                                (int)weights);
    group->pair = haste__pair_find(pass->pair, pass->pair_end, group->slot, 0);
    group->pair_end = haste__pair_find(group->pair, pass->pair_end, group->slot + group->S, 0);
    group->ignored = haste__pair_find(pass->ignored, pass->ignored_end, group->slot, 0);
    group->ignored_end = haste__pair_find(group->ignored, pass->ignored_end, group->slot + group->S, 0);
    group->importance = 1;
}

/* Asks for share `part` of `parts` of what the next group has in an array of [groups][F, S]. Such functions must be
   inlined: gcc drops calls to one that does nothing but ask. */
HASTE__INLINE void haste__next_fetch(const haste__group *group, const void *array, haste_dtype dtype, int64_t part,
                                     int64_t parts)
{
    const int64_t bytes = (int64_t)group->ahead * (int64_t)haste__sizeof(dtype), lines = (bytes + 63) / 64;
    const char *next = (const char *)array + (group->g + 1) * bytes;
    int64_t line = lines * part / parts, end = lines * (part + 1) / parts;
    for (; line < end; line++) HASTE__PREFETCH(next, line * 64);
}

/* The same for all that a step reads of the next group, but for weights of float32: the forward kernel asks for them. A
   small batch leaves no time for more than weights: asking for states as well made its step slower. */
HASTE__INLINE void haste__group_fetch(const haste__pass *pass, const haste__group *group, int part, int parts)
{
    const haste_layer *layer = pass->layer;
    const int states = pass->trained && pass->tiles > 2 ? haste__states(layer->optimizer) : 0;
    int i;
    if (layer->dtype == HASTE_BF16) haste__next_fetch(group, group->block->weight, HASTE_BF16, part, parts);
    for (i = 0; i < states; i++)
        haste__next_fetch(group, group->block->weight_state[i], layer->state_dtype, part, parts);
}

/* Block of samples `tile` of the group's slice: rows of 32. */
static const float *haste__group_x(const haste__pass *pass, const haste__group *group, int tile)
{
    return pass->scratch.x +
           ((size_t)tile * (size_t)pass->layer->inputs + (size_t)group->block->begin) * HASTE__SAMPLES;
}

/* Is a column of x, where many are 0, not 0 in all samples of tiles `tile` .. end - 1? */
HASTE__INLINE int haste__column_live(const haste__pass *pass, int column, int tile, int end)
{
    const char *live = pass->scratch.live + column;
    int any = !pass->sparse;
    for (; tile < end && !any; tile++) any = live[(size_t)tile * (size_t)pass->layer->inputs];
    return any;
}

/* Where x is mostly 0: which of the group's inputs are not 0 in all samples of tiles `tile` .. end - 1, as places and
   as columns of the slice. Returns how many; F where leaving out the others does not pay. Sums without their terms,
   which are 0, have the same bits. */
static int haste__group_live(const haste__pass *pass, const haste__group *group, int tile, int end)
{
    int f, n = 0;
    if (!pass->sparse) return group->F;
    for (f = 0; f < group->F; f++) {
        const int column = group->index ? group->index[f] : f;
        group->place[n] = (uint16_t)f;
        group->column[n] = (uint16_t)column;
        n += haste__column_live(pass, group->block->begin + column, tile, end);
    }
    return n <= group->F / 4 * 3 ? n : group->F;
}

/* Logits of a tile to group->z [S][32], as training wants them. */
static void haste__group_logits(const haste__pass *pass, haste__group *group, int tile)
{
    const size_t S = (size_t)group->S;
    const int n = haste__group_live(pass, group, tile, tile + 1);
    int i;
    if (n < group->F) {   /* their weights side by side; dw is free until the gradients */
        for (i = 0; i < n; i++) memcpy(group->dw + (size_t)i * S, group->w + group->place[i] * S, S * sizeof(float));
        if (tile == 0 && pass->layer->dtype == HASTE_F32)
            haste__next_fetch(group, group->block->weight, HASTE_F32, 0, 1);
        pass->kernel->forward(group->S, n, group->column, group->dw, group->block->bias + group->g * group->S,
                              haste__group_x(pass, group, tile), group->z + (size_t)tile * S * HASTE__SAMPLES, 0);
        return;
    }
    /* The kernel adds the bias last: a prior near -14 would cost the sum its last bits. */
    pass->kernel->forward(group->S, group->F, group->index, group->w, group->block->bias + group->g * group->S,
                          haste__group_x(pass, group, tile),
                          group->z + (size_t)tile * (size_t)group->S * HASTE__SAMPLES,
                          tile == 0 && pass->layer->dtype == HASTE_F32 ? group->ahead : 0);
}

/* Where only logits are wanted: those of a tile as rows of labels, `stride` apart. The pass was loaded by
   haste__pass_load_rows. Each logit is the same sum in the same order as above. */
static void haste__group_rows(const haste__pass *pass, const haste__group *group, int tile, float *z, size_t stride)
{
    const size_t first = (size_t)tile * (size_t)pass->layer->inputs * HASTE__SAMPLES +
                         (size_t)(group->block->begin * pass->pitch);
    haste__product rows;
    rows.S = group->S;
    rows.F = group->F;
    rows.samples = haste__tile_samples(pass, tile);
    rows.bf16 = pass->layer->dtype == HASTE_BF16;
    rows.index = group->index;
    rows.w = group->stored;
    rows.bias = group->block->bias + group->g * group->S;
    rows.x = pass->dot ? (const void *)(pass->scratch.x_bf16 + first) : (const void *)(pass->scratch.x + first);
    rows.z = z;
    rows.pair = (uint32_t *)(void *)group->copy;
    rows.pitch = pass->pitch;
    rows.stride = (ptrdiff_t)stride;
    /* one sample alone reads memory in order, which needs no help */
    rows.ahead = tile == 0 && rows.samples > 1 ? group->ahead : 0;
    if (pass->dot) haste__dot(&rows);
    else pass->kernel->predict(&rows);
}

/* The place of a pair's logit in group->z. */
HASTE__INLINE float *haste__pair_z(const haste__group *group, uint64_t pair)
{
    size_t s = (size_t)((int64_t)(pair >> 32) - group->slot), b = (size_t)(pair & 0xffffffffu);
    return group->z + (b / HASTE__SAMPLES * (size_t)group->S + s) * HASTE__SAMPLES + b % HASTE__SAMPLES;
}

/* log(1 + e^z) */
static double haste__softplus(double z) { return (z > 0 ? z : 0) + log1p(exp(-fabs(z))); }

/* d u / d z of a label. */
static float haste__label_factor(const haste_loss_options *o, int32_t id)
{
    return (o->logit_scale != 0 ? o->logit_scale : 1) * (o->label_scale ? o->label_scale[id] : 1);
}

static int32_t haste__group_label(const haste__pass *pass, const haste__group *group, int s)
{
    return pass->layer->label_of[group->slot + s];
}

/* Logits z of a tile to u = factor * (z - margin of positives) + offset. Under softmax what is ignored gets the lowest
   u. */
static void haste__group_adjust(const haste__pass *pass, haste__group *group, int tile)
{
    const haste_loss_options *o = pass->loss;
    const uint64_t *p;
    int s, b;
    for (p = group->pair; p < group->pair_end && o->margin != 0; p++)
        if ((int)(*p & 0xffffffffu) / HASTE__SAMPLES == tile) *haste__pair_z(group, *p) -= o->margin;
    if (o->label_offset || o->label_scale || (o->logit_scale != 0 && o->logit_scale != 1))
        for (s = 0; s < group->labels; s++) {
            const int32_t id = haste__group_label(pass, group, s);
            const float factor = haste__label_factor(o, id), offset = o->label_offset ? o->label_offset[id] : 0;
            float *z = group->z + ((size_t)tile * (size_t)group->S + (size_t)s) * HASTE__SAMPLES;
            for (b = 0; b < HASTE__SAMPLES; b++) z[b] = factor * z[b] + offset;
        }
    for (p = group->ignored; p < group->ignored_end && pass->layer->loss == HASTE_SOFTMAX; p++)
        if ((int)(*p & 0xffffffffu) / HASTE__SAMPLES == tile &&
            fabsf(*haste__pair_z(group, *p)) <= FLT_MAX)   /* what is not finite is reported */
            *haste__pair_z(group, *p) = -FLT_MAX;
}

/* Where a tile's slopes d loss / du are in z: times d u / d z. */
static void haste__group_chain(const haste__pass *pass, haste__group *group, int tile)
{
    const haste_loss_options *o = pass->loss;
    int s, b;
    if (!o->label_scale && (o->logit_scale == 0 || o->logit_scale == 1)) return;
    for (s = 0; s < group->labels; s++) {
        const float factor = haste__label_factor(o, haste__group_label(pass, group, s));
        float *z = group->z + ((size_t)tile * (size_t)group->S + (size_t)s) * HASTE__SAMPLES;
        for (b = 0; b < HASTE__SAMPLES; b++) z[b] *= factor;
    }
}

/* A tile by a loss of the caller's own, which finds targets in zt. */
static int haste__group_own_loss(const haste__pass *pass, haste__group *group, int tile, double *loss)
{
    const size_t first = (size_t)tile * (size_t)group->S * HASTE__SAMPLES;
    const int n = group->labels * HASTE__SAMPLES, samples = haste__tile_samples(pass, tile);
    float column[HASTE__SAMPLES] = { 0 }, *z = group->z + first, *target = group->zt + first;
    haste_loss_tile t;
    const uint64_t *p;
    int i;
    if (!pass->kernel->all_below(z, n, HUGE_VALF)) return 0;
    memset(target, 0, (size_t)n * sizeof *target);
    for (p = group->pair; p < group->pair_end; p++)
        if ((int)(*p & 0xffffffffu) / HASTE__SAMPLES == tile)
            target[haste__pair_z(group, *p) - z] = pass->value ? pass->value[p - pass->pair] : 1;
    t.samples = samples;
    t.labels = group->labels;
    t.first_sample = tile * HASTE__SAMPLES;
    t.label = pass->layer->label_of + group->slot;
    t.target = target;
    t.logit = z;
    t.loss = column;
    pass->loss->function(pass->loss->context, &t);
    for (i = 0; i < n; i++) {   /* what stands in columns that do not count does not matter */
        const int b = i % HASTE__SAMPLES;
        const float sample = pass->sample && b < samples ? pass->sample[t.first_sample + b] : 1;
        z[i] = b < samples ? z[i] * (pass->scale * group->importance * sample) : 0;
    }
    for (i = 0; i < samples; i++)
        *loss += (double)column[i] * (double)group->importance *
                 (pass->sample ? (double)pass->sample[t.first_sample + i] : 1);
    haste__group_chain(pass, group, tile);
    return pass->kernel->all_below(z, n, HUGE_VALF);
}

/* The weight that the loss gives to a pair of label and sample. */
static double haste__pair_loss_weight(const haste__pass *pass, const haste__group *group, uint64_t pair)
{
    const float *label_weight = pass->loss ? pass->loss->label_weight : NULL;
    return (label_weight ? (double)label_weight[pass->layer->label_of[pair >> 32]] : 1) * (double)group->importance *
           (pass->sample ? (double)pass->sample[pair & 0xffffffffu] : 1);
}

/* What a logit must be for a negative to cost nothing: where positives and what is ignored wait. */
static const float haste__free_logit[2] = { -87, -1 };   /* of BCE and hinge */

/* BCE and hinge of a tile in which every label counts as a negative, row by row, since labels have weights of their
   own. */
static int haste__group_weighted(const haste__pass *pass, haste__group *group, int tile, double *loss)
{
    const haste_loss_options *o = pass->loss;
    const float positive = o->positive_weight != 0 ? o->positive_weight : 1;
    /* smoothed, a negative costs less * log(1 + e^u) - more * u */
    const float more = positive * o->smoothing / 2, less = 1 - o->smoothing / 2 + more;
    const int samples = haste__tile_samples(pass, tile);
    const float *sample = pass->sample ? pass->sample + tile * HASTE__SAMPLES : NULL;
    int s, b, finite = 1;
    for (s = 0; s < group->labels; s++) {
        float *z = group->z + ((size_t)tile * (size_t)group->S + (size_t)s) * HASTE__SAMPLES;
        float u[HASTE__SAMPLES], column[HASTE__SAMPLES] = { 0 };
        const float loss_weight =
            group->importance * (o->label_weight ? o->label_weight[haste__group_label(pass, group, s)] : 1);
        memcpy(u, z, sizeof u);
        finite &= pass->layer->loss == HASTE_BCE ? pass->kernel->bce(z, 1, pass->scale * loss_weight, column)
                                                 : pass->kernel->hinge(z, 1, pass->scale * loss_weight, column);
        if (o->smoothing != 0)
            for (b = 0; b < HASTE__SAMPLES; b++) z[b] = less * z[b] - more * pass->scale * loss_weight;
        if (sample) for (b = 0; b < HASTE__SAMPLES; b++) z[b] *= sample[b];
        for (b = 0; b < samples; b++)
            *loss += (double)loss_weight * (sample ? (double)sample[b] : 1) *
                     ((double)less * (double)column[b] - (double)more * (double)u[b]);
    }
    return finite;
}

/* What a label at its free logit has cost all the same: smoothing makes a target of every label. */
static double haste__free_cost(const haste__pass *pass, const haste__group *group, uint64_t pair)
{
    const haste_loss_options *o = pass->loss;
    if (!o || o->smoothing == 0) return 0;
    return haste__pair_loss_weight(pass, group, pair) * 87 *
           (double)((o->positive_weight != 0 ? o->positive_weight : 1) * o->smoothing / 2);
}

/* One positive of BCE or the hinge with logit u: its loss; *slope (=) d loss / du. */
static double haste__positive_loss(haste_loss kind, const haste_loss_options *o, double y, double u, double *slope)
{
    const double positive = o && o->positive_weight != 0 ? (double)o->positive_weight : 1;
    if (o) y = y * (1 - (double)o->smoothing) + (double)o->smoothing / 2;
    if (kind == HASTE_BCE) {
        *slope = -positive * y / (1 + exp(u)) + (1 - y) / (1 + exp(-u));
        return positive * y * haste__softplus(-u) + (1 - y) * haste__softplus(u);
    } else {
        const double below = u < 1 ? 1 - u : 0, above = u > -1 ? 1 + u : 0;
        *slope = -2 * positive * y * below + 2 * (1 - y) * above;
        return positive * y * below * below + (1 - y) * above * above;
    }
}

/* Under softmax, the weight of a positive's -u in the loss. */
static double haste__softmax_target(const haste__pass *pass, const haste__group *group, const uint64_t *p)
{
    const haste_loss_options *o = pass->loss;
    const size_t b = (size_t)(*p & 0xffffffffu);
    const double mass = o && o->softmax ? o->softmax[HASTE_SOFTMAX_SUMS * b + 2] : pass->scratch.mass[b];
    const double y = pass->value ? (double)pass->value[p - pass->pair] : 1;
    return mass > 0 ? y / mass * (o ? 1 - (double)o->smoothing : 1) * haste__pair_loss_weight(pass, group, *p) : 0;
}

/* Fills group->z with logits and turns them into their gradients; *loss += the group's loss, not scaled. 0: a logit was
   not finite, and the group must be left alone. */
static int haste__group_loss(const haste__pass *pass, haste__group *group, double *loss)
{
    const haste_loss kind = pass->layer->loss;
    const haste_loss_options *o = pass->loss;
    const uint64_t *p;
    float column[HASTE__SAMPLES];
    double sum = 0, slope;
    int tile, b, s, finite = 1;
    for (tile = 0; tile < pass->tiles; tile++) {
        haste__group_fetch(pass, group, 2 * tile, 2 * pass->tiles);
        haste__group_logits(pass, group, tile);
        if (o) haste__group_adjust(pass, group, tile);
    }
    if (o && o->function) {
        for (tile = 0; tile < pass->tiles && finite; tile++) finite = haste__group_own_loss(pass, group, tile, &sum);
        *loss += sum;
        return finite;
    }
    /* Positives first. Under BCE and the hinge their logits wait in zt, which is free until the transposition, while
       the kernel sees one that costs a negative nothing: adding the loss of a negative and taking it away again would
       lose all small terms. */
    for (p = group->pair; p < group->pair_end; p++) {
        float *z = haste__pair_z(group, *p);
        const double u = (double)*z, y = pass->value ? (double)pass->value[p - pass->pair] : 1;
        finite &= (haste__bits(*z) & 0x7fffffffu) < 0x7f800000u;
        if (kind == HASTE_SOFTMAX) { sum -= u * haste__softmax_target(pass, group, p); continue; }
        group->zt[p - group->pair] = *z;
        *z = haste__free_logit[kind];
        sum += haste__pair_loss_weight(pass, group, *p) * haste__positive_loss(kind, o, y, u, &slope);
    }
    for (p = group->ignored; p < group->ignored_end && kind != HASTE_SOFTMAX; p++) {
        float *z = haste__pair_z(group, *p);
        finite &= (haste__bits(*z) & 0x7fffffffu) < 0x7f800000u;
        *z = haste__free_logit[kind];
    }
    for (tile = 0; tile < pass->tiles; tile++) {
        float *z = group->z + (size_t)tile * (size_t)group->S * HASTE__SAMPLES;
        float *column_or_null = pass->want_loss ? column : NULL;
        const int n = haste__tile_samples(pass, tile);
        haste__group_fetch(pass, group, 2 * tile + 1, 2 * pass->tiles);
        memset(column, 0, sizeof column);
        if (kind == HASTE_SOFTMAX) {
            const double *smooth = o && o->smoothing != 0 ? pass->scratch.smooth + tile * HASTE__SAMPLES : NULL;
            for (s = 0; s < group->labels && smooth; s++)
                for (b = 0; b < n; b++)
                    if (z[s * HASTE__SAMPLES + b] > -FLT_MAX)   /* not ignored */
                        sum -= (double)z[s * HASTE__SAMPLES + b] * smooth[b] * (double)group->importance;
            finite &= pass->kernel->softmax(z, group->labels, pass->shift + tile * HASTE__SAMPLES,
                                            pass->factor + tile * HASTE__SAMPLES);
            for (s = 0; s < group->labels && smooth; s++)
                for (b = 0; b < n; b++) z[s * HASTE__SAMPLES + b] -= (float)(smooth[b] * (double)pass->scale);
            if (group->importance != 1) for (s = 0; s < group->labels * HASTE__SAMPLES; s++) z[s] *= group->importance;
        } else if (o) finite &= haste__group_weighted(pass, group, tile, &sum);
        else if (kind == HASTE_BCE) finite &= pass->kernel->bce(z, group->labels, pass->scale, column_or_null);
        else finite &= pass->kernel->hinge(z, group->labels, pass->scale, column_or_null);
        for (b = 0; b < n; b++) sum += column[b];
    }
    for (p = group->pair; p < group->pair_end; p++) {
        float *z = haste__pair_z(group, *p);
        if (kind == HASTE_SOFTMAX) {
            *z -= (float)((double)pass->scale * haste__softmax_target(pass, group, p));
            continue;
        }
        haste__positive_loss(kind, o, pass->value ? (double)pass->value[p - pass->pair] : 1,
                             (double)group->zt[p - group->pair], &slope);
        *z = (float)((double)pass->scale * haste__pair_loss_weight(pass, group, *p) * slope);
        sum -= haste__free_cost(pass, group, *p);
    }
    for (p = group->ignored; p < group->ignored_end; p++) {
        *haste__pair_z(group, *p) = 0;
        if (kind != HASTE_SOFTMAX) sum -= haste__free_cost(pass, group, *p);
    }
    for (tile = 0; tile < pass->tiles && o; tile++) haste__group_chain(pass, group, tile);
    *loss += sum;
    return finite;
}

/* Zeroes what is no logit in a tile of z. */
static void haste__group_clear(const haste__pass *pass, const haste__group *group, int tile)
{
    float *z = group->z + (size_t)tile * (size_t)group->S * HASTE__SAMPLES;
    int s, b;
    for (s = group->labels; s < group->S; s++)
        for (b = 0; b < HASTE__SAMPLES; b++) z[s * HASTE__SAMPLES + b] = 0;
    for (b = haste__tile_samples(pass, tile); b < HASTE__SAMPLES; b++)
        for (s = 0; s < group->S; s++) z[s * HASTE__SAMPLES + b] = 0;
}

/* Fills zt and adds to db from a tile of z. */
static void haste__group_transpose(const haste__pass *pass, haste__group *group, int tile)
{
    const int S = group->S;
    const float *z = group->z + (size_t)tile * (size_t)S * HASTE__SAMPLES;
    pass->kernel->transpose(S, HASTE__SAMPLES, z, HASTE__SAMPLES, group->zt + (size_t)tile * (size_t)S * HASTE__SAMPLES,
                            S, group->db);
}

/* dw = (HASTE__SET), or += (HASTE__ADD), the gradient of the group's weights from tiles `tile` .. end - 1 of zt. */
static void haste__group_grad_weight(const haste__pass *pass, haste__group *group, int tile, int end,
                                     haste__store_mode store)
{
    const size_t row = (size_t)group->S * sizeof(float);
    const int F = group->F, n = store == HASTE__SET ? haste__group_live(pass, group, tile, end) : F;
    int f, i = n;
    pass->kernel->grad_weight(group->S, n, n < F ? group->column : group->index, haste__group_x(pass, group, tile),
                              (ptrdiff_t)pass->layer->inputs * HASTE__SAMPLES, end - tile,
                              group->zt + (size_t)tile * HASTE__SAMPLES * (size_t)group->S, group->dw, store);
    for (f = F - 1; f >= i; f--) {   /* rows go to their places, from the last on */
        float *to = group->dw + (size_t)f * (size_t)group->S;
        if (i > 0 && group->place[i - 1] == f) memcpy(to, group->dw + (size_t)--i * (size_t)group->S, row);
        else memset(to, 0, row);
    }
}

/* From logit gradients z [S][32] of a tile: the chunk's input gradients (+=) of the group's inputs f .. end - 1. */
static void haste__group_grad_x(const haste__pass *pass, const haste__group *group, int f, int end, const float *z,
                                int64_t chunk, int tile)
{
    const size_t D = (size_t)pass->layer->inputs, begin = (size_t)group->block->begin + (size_t)(group->index ? 0 : f);
    float *dx = pass->scratch.grad_x + (size_t)chunk * (size_t)pass->tiles * D * HASTE__SAMPLES;
    pass->kernel->grad_input(group->S, end - f, group->index ? group->index + f : NULL,
                             group->w + (size_t)f * (size_t)group->S, z,
                             dx + ((size_t)tile * D + begin) * HASTE__SAMPLES);
}

/* The optimizer on n numbers beginning at `first` of an array and its states: float32 in place, bfloat16 a stack buffer
   at a time. With `dry` nothing is stored; returns 0 where a number that is to be stored would not be finite. */
static int haste__update(const haste__pass *pass, void *array, haste_dtype dtype, void *const *state,
                         haste_dtype state_dtype, size_t first, const float *g, int n, uint64_t position,
                         const haste__rule *rule, int dry)
{
    float buffer[3][256], *at[3] = { NULL, NULL, NULL };               /* numbers, and their states */
    const haste_layer *layer = pass->layer;
    const int states = haste__states(layer->optimizer);
    const int inplace = !dry && dtype == HASTE_F32 && (states == 0 || state_dtype == HASTE_F32);
    const uint64_t step = (uint64_t)layer->step << 8;
    static const uint64_t stream[3] = {HASTE__STREAM_ROUND_WEIGHT, HASTE__STREAM_ROUND_STATE0,
                                       HASTE__STREAM_ROUND_STATE1};
    int i, k, count;
    for (i = 0; i < n; i += count, first += (size_t)count, position += (uint64_t)count) {
        count = inplace || n - i < 256 ? n - i : 256;
        for (k = 0; k <= states; k++) {
            const haste_dtype type = k == 0 ? dtype : state_dtype;
            at[k] = haste__widen(pass->kernel, buffer[k], k == 0 ? array : state[k - 1], type, first, count);
            if (dry && type == HASTE_F32) at[k] = (float *)memcpy(buffer[k], at[k], (size_t)count * sizeof(float));
        }
        if (layer->optimizer == HASTE_SGD) pass->kernel->sgd(at[0], g + i, count, rule);
        else if (layer->optimizer == HASTE_MOMENTUM) pass->kernel->momentum(at[0], g + i, at[1], count, rule);
        else pass->kernel->adamw(at[0], g + i, at[1], at[2], count, rule);
        for (k = 0; k <= states; k++) {
            const haste_dtype type = k == 0 ? dtype : state_dtype;
            if (!dry)
                haste__narrow(pass->kernel, k == 0 ? array : state[k - 1], type, first, at[k], count, layer->seed,
                              step | stream[k], position);
            else if (!pass->kernel->all_below(at[k], count, type == HASTE_BF16 ? 3.3895316e38f : HUGE_VALF)) return 0;
        }
    }
    return 1;
}

/* Are n numbers beginning at `first` all smaller than `limit` in magnitude? */
static int haste__all_below(const haste__pass *pass, const void *array, haste_dtype dtype, size_t first, int n,
                            float limit)
{
    float buffer[256];
    int i, count;
    if (dtype == HASTE_F32) return pass->kernel->all_below((const float *)array + first, n, limit);
    for (i = 0; i < n; i += count) {
        count = n - i < 256 ? n - i : 256;
        pass->kernel->widen((const uint16_t *)array + first + i, buffer, count);
        if (!pass->kernel->all_below(buffer, count, limit)) return 0;
    }
    return 1;
}

/* The optimizer on a group's weights and biases, or (`dry`) only the question whether all would stay finite. */
static int haste__group_update_with(const haste__pass *pass, int number, int64_t g, const float *dw, const float *db,
                                    int dry)
{
    const haste_layer *layer = pass->layer;
    haste_block *block = &pass->trained->block[number];
    const int S = block->group_size, n = S * block->fan_in;
    /* a slot has at most 2^16 weights */
    const uint64_t position = (uint64_t)(layer->first_slot + block->first_slot + g * S) << 16;
    haste__rule no_decay = pass->rule[number];
    void *bias_state[2];
    no_decay.decay = 0;
    bias_state[0] = block->bias_state[0];
    bias_state[1] = block->bias_state[1];
    return haste__update(pass, block->weight, layer->dtype, block->weight_state, layer->state_dtype,
                         (size_t)g * (size_t)n, dw, n, position, &pass->rule[number], dry) &&
           haste__update(pass, block->bias, HASTE_F32, bias_state, HASTE_F32, (size_t)(g * S), db, S, position,
                         &no_decay, dry);
}

/* Can no update of a group's finite numbers become infinite, whatever its weights are? Gradients are below 1e18. What
   is added to a weight must then be less than half a unit in the last place of the largest float (1e31), and decay only
   shrink. */
static int haste__update_is_tame(const haste__pass *pass, const haste_block *block, int64_t g)
{
    const haste_layer *layer = pass->layer;
    const haste__rule *r = &pass->rule[block - layer->block];
    const double lr = (double)r->lr, decay = (double)r->decay;
    const int S = block->group_size, n = S * block->fan_in;
    /* Adam's first moment is a mean of gradients, none of them above 1e18; the second may be 0. */
    if (layer->optimizer == HASTE_ADAMW)
        return lr * decay <= 1 && lr * 1e18 * (double)r->correct1 / (double)r->eps < 1e30;
    if (!(decay <= .5 && lr * decay <= 1 && lr < 1e9)) return 0;
    return layer->optimizer == HASTE_SGD ||
           (haste__all_below(pass, block->weight_state[0], layer->state_dtype, (size_t)g * (size_t)n, n, 1e20f) &&
            haste__all_below(pass, block->bias_state[0], HASTE_F32, (size_t)(g * S), S, 1e20f));
}

/* One optimizer step of a group from gradients dw [F, S] and db [S]. 0: a number would become infinite, and the group
   was left alone. */
static int haste__group_update(const haste__pass *pass, int number, int64_t g, const float *dw, const float *db)
{
    if (!haste__update_is_tame(pass, &pass->layer->block[number], g) &&
        !haste__group_update_with(pass, number, g, dw, db, 1)) return 0;
    haste__group_update_with(pass, number, g, dw, db, 0);
    return 1;
}

/* Are the gradients small enough to be squared, as Adam does? Finite logits do not promise that: x may be 1e22. */
static int haste__group_sane(const haste__pass *pass, const float *dw, int n, const float *db, int S)
{
    return pass->kernel->all_below(dw, n, 1e18f) && pass->kernel->all_below(db, S, 1e18f);
}

/* From the logit gradients in z: where wanted dw, db, and the chunk's input gradients (+=). Tiles where all are 0 are
   passed over. */
static void haste__group_gradients(const haste__pass *pass, haste__group *group, int64_t chunk, int want_weight)
{
    const int sparse = pass->negligible > 0 || pass->layer->loss == HASTE_SQUARED_HINGE;   /* slopes are 0 at times */
    const int n = group->S * HASTE__SAMPLES;
    haste__store_mode store = HASTE__SET;
    int tile, run = 0;   /* run: the first of the tiles that dw is to be had from */
    memset(group->db, 0, (size_t)group->S * sizeof *group->db);
    for (tile = 0; tile < pass->tiles; tile++) haste__group_clear(pass, group, tile);
    for (tile = 0; tile <= pass->tiles; tile++) {
        float *z = group->z + (size_t)tile * (size_t)n;
        if (tile < pass->tiles && (!sparse || pass->kernel->drop_small(z, n, pass->negligible))) {
            if (want_weight) haste__group_transpose(pass, group, tile);
            if (pass->grad_x) haste__group_grad_x(pass, group, 0, group->F, z, chunk, tile);
            continue;
        }
        if (run < tile && want_weight) {
            haste__group_grad_weight(pass, group, run, tile, store);
            store = HASTE__ADD;
        }
        run = tile + 1;
    }
    if (store == HASTE__SET && want_weight)
        memset(group->dw, 0, (size_t)group->S * (size_t)group->F * sizeof *group->dw);
}

static double *haste__chunk_sum(const haste__pass *pass, int64_t chunk)
{
    return pass->scratch.sum + (size_t)chunk * (2 * (size_t)pass->work->batch + 2);
}

static double haste__sum_squares(const float *a, int64_t n)
{
    double sum[8] = { 0, 0, 0, 0, 0, 0, 0, 0 };
    int64_t i;
    int j;
    for (i = 0; i < n; i += 8)   /* n is a multiple of 8 */
        for (j = 0; j < 8; j++) sum[j] += (double)a[i + j] * (double)a[i + j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

static void haste__scale(float *a, int64_t n, float factor)
{
    int64_t i;
    for (i = 0; i < n; i++) a[i] *= factor;
}

/* The gradients, and what is to become of them. 0: they are not usable and the group was left alone. */
static int haste__group_backward(const haste__pass *pass, haste__group *group, int64_t chunk)
{
    const int S = group->S, n = S * group->F;
    const int want_weight = (pass->trained || pass->gradient) && !pass->frozen[group->number];
    float *weight, *bias;
    if (!want_weight && !pass->grad_x) return 1;
    haste__group_gradients(pass, group, chunk, want_weight);
    if (!want_weight)   /* the slopes still stand in z */
        return pass->kernel->all_below(group->z, (int64_t)pass->tiles * HASTE__SAMPLES * S, HUGE_VALF);
    if (!haste__group_sane(pass, group->dw, n, group->db, S)) return 0;
    if (pass->want_norm || pass->clip > 0) {
        const double squares = haste__sum_squares(group->dw, n) + haste__sum_squares(group->db, S),
                     norm = sqrt(squares);
        haste__chunk_sum(pass, chunk)[1] += squares;
        if (pass->clip > 0 && norm > (double)pass->clip) {
            haste__scale(group->dw, n, (float)((double)pass->clip / norm));
            haste__scale(group->db, S, (float)((double)pass->clip / norm));
        }
    }
    if (pass->trained) return haste__group_update(pass, group->number, group->g, group->dw, group->db);
    weight = pass->gradient->weight[group->number] + (size_t)group->g * (size_t)n;
    bias = pass->gradient->bias[group->number] + group->g * S;
    pass->kernel->axpy(weight, 1, group->dw, n);
    pass->kernel->axpy(bias, 1, group->db, S);
    return 1;
}

/* ---- >>train ------------------------------------------------------------------------------------------------- */

/* Is group g of a block visited? Always, but where only a share of those without a positive is; *importance (=) of its
   loss. */
static int haste__visited(const haste__pass *pass, int number, int64_t g, float *importance)
{
    const haste_layer *layer = pass->layer;
    const int64_t slot = layer->block[number].first_slot + g * layer->block[number].group_size;
    const uint64_t *p;
    *importance = 1;
    if (!pass->loss || pass->loss->share == 0 || pass->loss->share == 1) return 1;
    p = haste__pair_find(pass->pair, pass->pair_end, slot, 0);
    if (p < pass->pair_end && (int64_t)(*p >> 32) < slot + layer->block[number].group_size) return 1;
    *importance = 1 / pass->loss->share;
    return haste__uniform(haste__random(layer->seed, HASTE__STREAM_VISIT | (uint64_t)layer->step << 8,
                                        (uint64_t)(layer->first_slot + slot))) < pass->loss->share;
}

/* The groups of a chunk, one after the other. */
typedef struct haste__walk {
    const haste__pass *pass;
    int64_t            chunk;
    int                number;     /* of the block */
    int64_t            g, last;    /* of its groups: the next one, and where the chunk's share of the block ends */
} haste__walk;

static haste__walk haste__walk_chunk(const haste__pass *pass, int64_t chunk)
{
    haste__walk walk;
    walk.pass = pass;
    walk.chunk = chunk;
    walk.number = -1;
    walk.g = walk.last = 0;
    return walk;
}

/* Goes to the chunk's share of the next block, [g, last), which may be empty. 0: that was the last block. */
static int haste__walk_block(haste__walk *walk)
{
    if (++walk->number >= walk->pass->layer->block_count) return 0;
    haste__chunk_groups(walk->pass, walk->number, walk->chunk, &walk->g, &walk->last);
    return 1;
}

/* Goes to the next group: *g of block walk->number. 0: there is none. */
static int haste__walk_group(haste__walk *walk, int64_t *g)
{
    while (walk->g >= walk->last) if (!haste__walk_block(walk)) return 0;
    *g = walk->g++;
    return 1;
}

/* The chunk's input gradients begin at 0. */
static void haste__chunk_clear(const haste__pass *pass, int64_t chunk)
{
    size_t n = (size_t)pass->tiles * (size_t)pass->layer->inputs * HASTE__SAMPLES;
    if (pass->grad_x) memset(pass->scratch.grad_x + (size_t)chunk * n, 0, n * sizeof(float));
}

static void haste__train_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    double loss = 0;
    int bad = 0;
    int64_t g;
    haste__chunk_clear(pass, chunk);
    haste__chunk_sum(pass, chunk)[1] = 0;
    while (haste__walk_group(&walk, &g)) {
        haste__group group;
        float importance;
        if (!haste__visited(pass, walk.number, g, &importance)) continue;
        haste__group_open(&group, pass, walk.number, g, thread);
        group.importance = importance;
        if (!haste__group_loss(pass, &group, &loss)) { bad++; continue; }
        if (!haste__group_backward(pass, &group, chunk)) bad++;
    }
    haste__chunk_sum(pass, chunk)[0] = loss;
    pass->scratch.flag[chunk] = bad;
}

/* Softmax, first pass: each sample's running maximum and sum of exponentials over the chunk's groups. */
static void haste__softmax_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    double *largest = haste__chunk_sum(pass, chunk) + 2, *sum = largest + pass->work->batch;
    float tile_largest[HASTE__SAMPLES], tile_sum[HASTE__SAMPLES];
    haste__walk walk = haste__walk_chunk(pass, chunk);
    int tile, b, bad = 0;
    int64_t g;
    for (b = 0; b < pass->B; b++) { largest[b] = -FLT_MAX; sum[b] = 0; }
    while (haste__walk_group(&walk, &g)) {
        haste__group group;
        float importance;
        if (!haste__visited(pass, walk.number, g, &importance)) continue;
        haste__group_open(&group, pass, walk.number, g, thread);
        for (tile = 0; tile < pass->tiles; tile++) {
            const int n = haste__tile_samples(pass, tile), first = tile * HASTE__SAMPLES;
            for (b = 0; b < HASTE__SAMPLES; b++) tile_largest[b] = b < n ? (float)largest[first + b] : 0;
            haste__group_logits(pass, &group, tile);
            if (pass->loss) haste__group_adjust(pass, &group, tile);
            if (!pass->kernel->sumexp(group.z + (size_t)tile * (size_t)group.S * HASTE__SAMPLES, group.labels,
                                      tile_largest, tile_sum)) {
                bad++;   /* a step's second pass reports it */
                continue;
            }
            for (b = 0; b < n; b++) {
                double before = largest[first + b], now = (double)tile_largest[b];
                if (now > before) sum[first + b] *= exp(before - now);
                largest[first + b] = now;
                sum[first + b] += (double)tile_sum[b] * (double)importance;
            }
        }
    }
    pass->scratch.flag[chunk] = bad;
}

/* What does not depend on logits of sample b's sums [HASTE_SOFTMAX_SUMS]. */
static void haste__softmax_counts(const haste__pass *pass, int b, double *sums)
{
    sums[2] = pass->scratch.mass[b];
    sums[3] = pass->scratch.mass[pass->work->batch + b];
    sums[4] = pass->scratch.smooth[b];
}

/* What the first pass gives, sums [HASTE_SOFTMAX_SUMS] (=), of sample b. */
static void haste__softmax_row(const haste__pass *pass, int b, double *sums)
{
    const haste_workspace *work = pass->work;
    int c;
    sums[0] = -FLT_MAX;
    sums[1] = 0;
    for (c = 0; c < work->chunks; c++) {
        const double l = haste__chunk_sum(pass, c)[2 + b];
        if (l > sums[0]) sums[0] = l;
    }
    for (c = 0; c < work->chunks; c++) {
        const double *l = haste__chunk_sum(pass, c) + 2 + b;
        sums[1] += l[work->batch] * exp(l[0] - sums[0]);
    }
    haste__softmax_counts(pass, b, sums);
}

/* Softmax's first pass and what the second needs of it: each sample's largest logit, and the factor that makes
   e^(u - largest) its gradient, 0 for a row without positives. Returns the log-sum-exps of the rows that count, with
   the weights that they have in the loss. */
static double haste__softmax_sums(haste__pass *pass)
{
    const haste_workspace *work = pass->work;
    const haste_loss_options *o = pass->loss;
    const double smoothing = o ? (double)o->smoothing : 0;
    float *shift = pass->scratch.shift, *factor = shift + work->batch + HASTE__SAMPLES;
    double total = 0;
    int b;
    if (!o || !o->softmax) haste__parallel(work->chunks, work->threads, haste__softmax_chunk, pass);
    for (b = 0; b < pass->tiles * HASTE__SAMPLES; b++) {
        double own[HASTE_SOFTMAX_SUMS];
        const double *all = own, sample = pass->sample ? (double)pass->sample[b] : 1;
        shift[b] = factor[b] = 0;
        if (b >= pass->B) continue;
        if (o && o->softmax) {
            all = o->softmax + HASTE_SOFTMAX_SUMS * (size_t)b;
            haste__softmax_counts(pass, b, own);
        } else haste__softmax_row(pass, b, own);
        pass->scratch.smooth[b] = 0;
        if (!(all[2] > 0) || !(all[1] > 0)) continue;   /* sum 0: no group has finite logits */
        shift[b] = (float)all[0];   /* exact: it is one of the logits */
        factor[b] = (float)((double)pass->scale * sample * ((1 - smoothing) * all[3] / all[2] + smoothing) / all[1]);
        pass->scratch.smooth[b] = sample * smoothing / all[4];
        total += sample * ((1 - smoothing) * own[3] / all[2] + smoothing * own[4] / all[4]) * (all[0] + log(all[1]));
    }
    pass->shift = shift;
    pass->factor = factor;
    return total;
}

/* What the chunks have counted. */
static int haste__flags(const haste__pass *pass)
{
    int chunk, sum = 0;
    for (chunk = 0; chunk < pass->work->chunks; chunk++) sum += pass->scratch.flag[chunk];
    return sum;
}

/* How many groups were left alone? */
static haste_status haste__bad_groups(const haste__pass *pass, haste_error *error)
{
    const int bad = haste__flags(pass);
    if (bad)
        return haste__fail(error, HASTE_ERR_NONFINITE,
                           "%d groups had a logit, gradient or new weight that is not finite and were left unchanged",
                           bad);
    return HASTE_OK;
}

/* Momentum and betas: 0 .. 1, where 0 means a default, or HASTE_NONE. */
static int   haste__is_rate(float rate) { return (rate >= 0 && rate < 1) || rate == HASTE_NONE; }
static float haste__rate(float rate, float otherwise) { return rate == 0 ? otherwise : rate > 0 ? rate : 0; }

/* The rules of all blocks. `name` [.] begins what is said of a block's rates. */
static haste_status haste__rules_make(haste__pass *pass, const haste_layer *layer, const haste_step_options *o,
                                      haste_error *error)
{
    const double t = (double)layer->step + 1;
    int i;
    if (!o) return haste__fail(error, HASTE_ERR_ARG, "options is NULL");
    if (!haste__in((double)o->lr, 0, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "lr = %g, expected a finite number from 0", (double)o->lr);
    if (!haste__is_rate(o->momentum) || !haste__is_rate(o->beta1) || !haste__is_rate(o->beta2))
        return haste__fail(error, HASTE_ERR_ARG,
                           "momentum = %g, beta1 = %g, beta2 = %g, expected 0 <= each < 1, or HASTE_NONE",
                           (double)o->momentum, (double)o->beta1, (double)o->beta2);
    if (!haste__in((double)o->eps, 0, FLT_MAX) || !haste__in((double)o->weight_decay, 0, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "eps = %g, weight_decay = %g, expected finite numbers from 0",
                           (double)o->eps, (double)o->weight_decay);
    if (!haste__in((double)o->clip, 0, FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "clip = %g, expected a finite number from 0", (double)o->clip);
    for (i = 0; i < layer->block_count; i++) {
        haste__rule *rule = &pass->rule[i];
        haste_block_rates r;
        memset(&r, 0, sizeof r);
        if (o->block) r = o->block[i];
        if (!(haste__in((double)r.lr, 0, FLT_MAX) || r.lr == HASTE_NONE) ||
            !(haste__in((double)r.weight_decay, 0, FLT_MAX) || r.weight_decay == HASTE_NONE) ||
            !haste__is_rate(r.momentum) || !haste__is_rate(r.beta1) || !haste__is_rate(r.beta2) ||
            (r.frozen != 0 && r.frozen != 1))
            return haste__fail(error, HASTE_ERR_ARG,
                               "block[%d]: lr = %g, weight_decay = %g, momentum = %g, beta1 = %g, "
                               "beta2 = %g, frozen = %d: one is out of range",
                               i, (double)r.lr, (double)r.weight_decay, (double)r.momentum, (double)r.beta1,
                               (double)r.beta2, (int)r.frozen);
        rule->lr = haste__rate(r.lr, o->lr);
        rule->decay = haste__rate(r.weight_decay, o->weight_decay);
        rule->momentum = haste__rate(r.momentum, haste__rate(o->momentum, .9f));
        rule->beta1 = haste__rate(r.beta1, haste__rate(o->beta1, .9f));
        rule->beta2 = haste__rate(r.beta2, haste__rate(o->beta2, .999f));
        rule->eps = o->eps > 0 ? o->eps : 1e-8f;
        rule->correct1 = (float)(1 / (1 - pow((double)rule->beta1, t)));
        rule->correct2 = (float)(1 / (1 - pow((double)rule->beta2, t)));
        pass->frozen[i] = (int)r.frozen;
    }
    pass->clip = o->clip;
    pass->want_norm = o->grad_norm != NULL;
    return HASTE_OK;
}

/* Rows of a pending gradient belong to the inputs that the groups had then. */
static haste_status haste__pending_check(const haste_layer *layer, const haste_gradient *gradient, haste_error *error)
{
    if (gradient->pending == 0 || gradient->rewires == layer->rewires) return HASTE_OK;
    return haste__fail(error, HASTE_ERR_STATE,
                       "the gradient holds %d micro-batches from before a haste_rewire or haste_choose_inputs: apply "
                       "or zero it first",
                       (int)gradient->pending);
}

/* What training and evaluation share: sets what the loss needs in the pass, runs it, and adds up. */
static haste_status haste__train(haste__pass *pass, const haste_lists *positives, const haste_loss_options *o,
                                 double *loss, double *grad_norm, float *grad_x, haste_error *error)
{
    const haste_workspace *work = pass->work;
    double total = 0, squares = 0;
    int chunk;
    if (loss) *loss = 0;
    if (grad_norm) *grad_norm = 0;
    if (pass->B == 0) return HASTE_OK;
    haste__targets(pass, positives, o);
    pass->want_loss = loss != NULL;
    pass->grad_x = grad_x;
    haste__pass_load_live(pass);
    if (pass->layer->loss == HASTE_SOFTMAX && !o->function) total = haste__softmax_sums(pass);
    haste__parallel(work->chunks, work->threads, haste__train_chunk, pass);
    for (chunk = 0; chunk < work->chunks; chunk++) {
        total += haste__chunk_sum(pass, chunk)[0];
        squares += haste__chunk_sum(pass, chunk)[1];
    }
    if (loss) *loss = total * (o->scale != 0 ? o->scale : 1.0 / pass->B);
    if (grad_norm) *grad_norm = sqrt(squares);
    if (grad_x) haste__parallel(pass->tiles, work->threads, haste__transpose_out, pass);
    if (loss && haste__flags(pass) == 0 && !haste__in(*loss, -DBL_MAX, DBL_MAX))
        return haste__fail(error, HASTE_ERR_NONFINITE, "the loss is not finite");
    return haste__bad_groups(pass, error);
}

/* Checks what the calls with a loss share, and makes the pass. */
static haste_status haste__train_begin(haste__pass *pass, const haste_layer *layer, const haste_workspace *work,
                                       const float *x, int32_t B, const haste_lists *positives,
                                       const haste_loss_options *o, haste_error *error)
{
    haste_status status = haste__pass_begin(pass, layer, work, HASTE_TRAINING, x, B, error);
    if (status == HASTE_OK) status = haste__lists_check(layer->labels, B, positives, 1, work->ids, "positives", error);
    if (status == HASTE_OK) status = haste__loss_check(layer, work, B, positives, o, error);
    return status;
}

haste_status haste_train_step(haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                              const haste_lists *positives, const haste_step_options *options, double *loss,
                              float *grad_x, haste_error *error)
{
    haste__pass pass;
    haste_status status;
    if (!options) return haste__fail(error, HASTE_ERR_ARG, "options is NULL");
    status = haste__train_begin(&pass, layer, work, x, B, positives, &options->loss, error);
    if (status == HASTE_OK) status = haste__rules_make(&pass, layer, options, error);
    if (status != HASTE_OK) return status;
    pass.trained = layer;
    status = haste__train(&pass, positives, &options->loss, loss, options->grad_norm, grad_x, error);
    if (B > 0) layer->step++;
    return status;
}

haste_status haste_accumulate(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                              const haste_lists *positives, const haste_step_options *options, haste_gradient *gradient,
                              double *loss, float *grad_x, haste_error *error)
{
    haste__pass pass;
    haste_status status;
    if (!options) return haste__fail(error, HASTE_ERR_ARG, "options is NULL");
    status = haste__train_begin(&pass, layer, work, x, B, positives, &options->loss, error);
    if (status == HASTE_OK) status = haste__rules_make(&pass, layer, options, error);
    if (status == HASTE_OK) status = haste__gradient_check(layer, gradient, 1, error);
    if (status == HASTE_OK) status = haste__pending_check(layer, gradient, error);
    if (status != HASTE_OK) return status;
    pass.gradient = gradient;
    pass.clip = 0;   /* haste_apply clips */
    status = haste__train(&pass, positives, &options->loss, loss, options->grad_norm, grad_x, error);
    if (B > 0) {
        gradient->rewires = layer->rewires;
        if (gradient->pending < INT32_MAX) gradient->pending++;
    }
    return status;
}

haste_status haste_evaluate(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                            const haste_lists *positives, const haste_loss_options *options, double *loss,
                            float *grad_x, haste_error *error)
{
    haste_loss_options plain;
    haste__pass pass;
    haste_status status;
    memset(&plain, 0, sizeof plain);
    if (!options) options = &plain;
    status = haste__train_begin(&pass, layer, work, x, B, positives, options, error);
    return status == HASTE_OK ? haste__train(&pass, positives, options, loss, NULL, grad_x, error) : status;
}

haste_status haste_softmax_begin(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                 const haste_lists *positives, const haste_loss_options *options, double *sums,
                                 haste_error *error)
{
    haste_loss_options plain;
    haste__pass pass;
    haste_status status;
    int32_t b;
    memset(&plain, 0, sizeof plain);
    if (options) plain = *options;
    plain.softmax = NULL;
    status = haste__train_begin(&pass, layer, work, x, B, positives, &plain, error);
    if (status != HASTE_OK) return status;
    if (layer->loss != HASTE_SOFTMAX || plain.function)
        return haste__fail(error, HASTE_ERR_ARG, "the loss is not softmax");
    if (B == 0) return HASTE_OK;
    if (!sums) return haste__fail(error, HASTE_ERR_ARG, "sums is NULL");
    haste__targets(&pass, positives, &plain);
    haste__pass_load_live(&pass);
    haste__parallel(work->chunks, work->threads, haste__softmax_chunk, &pass);
    for (b = 0; b < B; b++) haste__softmax_row(&pass, b, sums + HASTE_SOFTMAX_SUMS * (size_t)b);
    return haste__flags(&pass) ? haste__fail(error, HASTE_ERR_NONFINITE, "a logit is not finite") : HASTE_OK;
}

haste_status haste_softmax_merge(double *sums, const double *other, int32_t B, haste_error *error)
{
    int32_t b;
    int i;
    if (B < 0) return haste__fail(error, HASTE_ERR_ARG, "B = %d is negative", (int)B);
    if (B > 0 && (!sums || !other)) return haste__fail(error, HASTE_ERR_ARG, "%s is NULL", sums ? "other" : "sums");
    for (b = 0; b < B; b++, sums += HASTE_SOFTMAX_SUMS, other += HASTE_SOFTMAX_SUMS) {
        const double largest = sums[0] > other[0] ? sums[0] : other[0];
        sums[1] = sums[1] * exp(sums[0] - largest) + other[1] * exp(other[0] - largest);
        sums[0] = largest;
        for (i = 2; i < HASTE_SOFTMAX_SUMS; i++) sums[i] += other[i];
    }
    return HASTE_OK;
}

/* First pass, where the norm is asked for (pass->trained is NULL): a chunk's squared gradients. Second: its update. */
static void haste__apply_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    double squares = 0;
    int bad = 0;
    int64_t g;
    (void)thread;
    while (haste__walk_group(&walk, &g)) {
        const int S = pass->layer->block[walk.number].group_size, n = S * pass->layer->block[walk.number].fan_in;
        float *dw = pass->gradient->weight[walk.number] + (size_t)g * (size_t)n;
        float *db = pass->gradient->bias[walk.number] + g * S;
        const int frozen = pass->frozen[walk.number], sane = !frozen && haste__group_sane(pass, dw, n, db, S);
        if (!pass->trained) {
            if (sane) squares += haste__sum_squares(dw, n) + haste__sum_squares(db, S);
            continue;
        }
        if (sane && pass->scale != 1) {   /* the norm is clipped */
            haste__scale(dw, n, pass->scale);
            haste__scale(db, S, pass->scale);
        }
        bad += !frozen && !(sane && haste__group_update(pass, walk.number, g, dw, db));
        memset(dw, 0, (size_t)n * sizeof *dw);
        memset(db, 0, (size_t)S * sizeof *db);
    }
    haste__chunk_sum(pass, chunk)[1] = squares;
    pass->scratch.flag[chunk] = bad;
}

haste_status haste_apply(haste_layer *layer, haste_workspace *work, haste_gradient *gradient,
                         const haste_step_options *options, haste_error *error)
{
    haste__pass pass;
    int chunk;
    haste_status status = haste__work_check(layer, work, HASTE_TRAINING, error);
    if (status != HASTE_OK) return status;
    haste__pass_make(&pass, layer, work);
    status = haste__rules_make(&pass, layer, options, error);
    if (status == HASTE_OK) status = haste__gradient_check(layer, gradient, 1, error);
    if (status == HASTE_OK) status = haste__pending_check(layer, gradient, error);
    if (status != HASTE_OK) return status;
    if (gradient->pending == 0)
        return haste__fail(error, HASTE_ERR_STATE, "nothing is pending in this gradient (gradient->pending = 0)");
    pass.gradient = gradient;
    if (pass.want_norm || pass.clip > 0) {
        double squares = 0;
        haste__parallel(work->chunks, work->threads, haste__apply_chunk, &pass);
        for (chunk = 0; chunk < work->chunks; chunk++) squares += haste__chunk_sum(&pass, chunk)[1];
        if (options->grad_norm) *options->grad_norm = sqrt(squares);
        if (pass.clip > 0 && sqrt(squares) > (double)pass.clip) pass.scale = (float)((double)pass.clip / sqrt(squares));
    }
    pass.trained = layer;
    haste__parallel(work->chunks, work->threads, haste__apply_chunk, &pass);
    layer->step++;
    gradient->pending = 0;
    return haste__bad_groups(&pass, error);
}

/* ---- >>forward and backward ---------------------------------------------------------------------------------- */

/* Rows of logits on their way from scratch to the caller's array. */
typedef struct haste__outgoing {
    const float *from;        /* [rows][width] */
    float       *to;          /* rows `stride` apart */
    int          rows, width;
    size_t       stride;
} haste__outgoing;

/* Writes share `part` of `parts`, past the caches. */
static void haste__stream_rows(const haste__pass *pass, const haste__outgoing *out, int part, int parts)
{
    int b = out->rows * part / parts, end = out->rows * (part + 1) / parts;
    for (; b < end; b++)
        pass->kernel->stream(out->from + b * out->width, out->to + (size_t)b * out->stride, out->width);
}

/* Logits for groups g .. last - 1 of a block where they do not stay in a cache, so that they need not go through one:
   32 samples of a panel at a time, which are written out while the next are computed. In pieces, since the processor
   keeps few writes waiting. */
static void haste__forward_panels(const haste__pass *pass, int number, int64_t g, int64_t last, int thread)
{
    const size_t slots = (size_t)pass->layer->slots;
    const int S = pass->layer->block[number].group_size, most = haste__panel(S) / S;
    haste__outgoing out;
    int turn = 0, count, tile, i;
    memset(&out, 0, sizeof out);
    for (; g < last; g += count) {
        count = last - g < most ? (int)(last - g) : most;
        for (tile = 0; tile < pass->tiles; tile++) {
            haste__group group;
            float *z = NULL;
            for (i = 0; i < count; i++) {
                haste__group_open(&group, pass, number, g + i, thread);
                z = group.z + turn * HASTE__SAMPLES * haste__panel(S);
                haste__group_rows(pass, &group, tile, z + i * S, (size_t)(count * S));
                haste__stream_rows(pass, &out, i, count);
            }
            out.from = z;
            out.to = pass->logits + (size_t)tile * HASTE__SAMPLES * slots + (size_t)(group.slot - (count - 1) * S);
            out.rows = haste__tile_samples(pass, tile);
            out.width = count * S;
            out.stride = slots;
            turn = !turn;
        }
    }
    haste__stream_rows(pass, &out, 0, 1);
    HASTE__FENCE();
}

static void haste__forward_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    size_t slots = (size_t)pass->layer->slots;
    int tile;
    while (haste__walk_block(&walk)) {
        const haste_block *block = &pass->layer->block[walk.number];
        /* Beyond 16 MiB logits leave the caches anyway; non-temporal stores write whole cache lines. */
        const int stream = (size_t)pass->B * slots >= (size_t)1 << 22 && block->group_size % 16 == 0 &&
                           ((uintptr_t)(pass->logits + block->first_slot) | slots * sizeof(float)) % 64 == 0;
        if (stream) { haste__forward_panels(pass, walk.number, walk.g, walk.last, thread); continue; }
        for (; walk.g < walk.last; walk.g++) {
            haste__group group;
            haste__group_open(&group, pass, walk.number, walk.g, thread);
            for (tile = 0; tile < pass->tiles; tile++)
                haste__group_rows(pass, &group, tile, pass->logits + group.slot + (size_t)tile * HASTE__SAMPLES * slots,
                                  slots);
        }
    }
}

haste_status haste_forward(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B, float *logits,
                           haste_error *error)
{
    haste__pass pass;
    haste_status status = haste__pass_begin(&pass, layer, work, HASTE_ANY_PURPOSE, x, B, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!logits) return haste__fail(error, HASTE_ERR_ARG, "logits is NULL");
    haste__pass_load_rows(&pass);
    pass.logits = logits;
    haste__parallel(work->chunks, work->threads, haste__forward_chunk, &pass);
    return HASTE_OK;
}

/* Logit gradients of n groups from g on, 0 where there is no logit: zt [n][tiles*32][S] (=) and their sums db [n*S]
   (=), unless zt is NULL; z [tiles][n*S][32] (=), unless z is NULL. `rest` is scratch, [32][n*S]. */
static void haste__panel_load(const haste__pass *pass, const haste_block *block, int64_t g, int n, float *zt, float *db,
                              float *z, float *rest)
{
    const int S = block->group_size, labels = haste__group_labels(block, g + n - 1);
    const ptrdiff_t slots = (ptrdiff_t)pass->layer->slots, jump = (ptrdiff_t)pass->tiles * HASTE__SAMPLES * S;
    const float *from = pass->grad_logits + block->first_slot + g * S;
    ptrdiff_t b;   /* B*S may pass 2^31 */
    int i, s, tile;
    if (zt) {
        memset(db, 0, (size_t)(n * S) * sizeof *db);
        pass->kernel->split_rows(from, slots, pass->B, S, n, zt, jump, db);
        b = (ptrdiff_t)pass->B * S;
        for (i = 0; i < n; i++) memset(zt + i * jump + b, 0, (size_t)(jump - b) * sizeof *zt);
        for (s = labels; s < S; s++) {   /* the block's last group may be short */
            for (b = 0; b < pass->B; b++) zt[(n - 1) * jump + b * S + s] = 0;
            db[(n - 1) * S + s] = 0;
        }
    }
    if (!z) return;
    for (tile = 0; tile < pass->tiles; tile++, from += HASTE__SAMPLES * slots, z += n * S * HASTE__SAMPLES) {
        const int samples = haste__tile_samples(pass, tile);
        if (zt)
            for (i = 0; i < n; i++)
                pass->kernel->transpose(HASTE__SAMPLES, S, zt + i * jump + (ptrdiff_t)tile * HASTE__SAMPLES * S, S,
                                        z + i * S * HASTE__SAMPLES, HASTE__SAMPLES, NULL);
        else if (samples == HASTE__SAMPLES)
            pass->kernel->transpose(HASTE__SAMPLES, n * S, from, slots, z, HASTE__SAMPLES, NULL);
        else {
            memset(rest, 0, (size_t)(HASTE__SAMPLES * n * S) * sizeof *rest);
            for (b = 0; b < samples; b++) memcpy(rest + b * n * S, from + b * slots, (size_t)(n * S) * sizeof *rest);
            pass->kernel->transpose(HASTE__SAMPLES, n * S, rest, n * S, z, HASTE__SAMPLES, NULL);
        }
        for (s = (n - 1) * S + labels; s < n * S; s++) memset(z + s * HASTE__SAMPLES, 0, HASTE__SAMPLES * sizeof *z);
    }
}

/* Asks for share `part` of `parts` of the n floats that every row of grad_logits has from `from` on. */
HASTE__INLINE void haste__panel_fetch(const haste__pass *pass, const float *from, int n, int64_t part, int64_t parts)
{
    const size_t slots = (size_t)pass->layer->slots;
    int64_t b = pass->B * part / parts, end = pass->B * (part + 1) / parts;
    int s;
    for (; b < end; b++)
        for (s = 0; s < n; s += 16) HASTE__PREFETCH(from + (size_t)b * slots, s);
}

enum { HASTE__PIECE = 16 };   /* inputs at a time of a single tile; of more tiles as many times more */

/* Is a block's weight gradient written past the caches? As in haste__forward_chunk. */
static int haste__stream_gradient(const haste_block *block, const float *weight)
{
    return (size_t)haste__block_slots(block) * (size_t)block->fan_in >= (size_t)1 << 22 &&
           ((uintptr_t)weight | (size_t)block->group_size * sizeof *weight) % 64 == 0;
}

/* Groups g .. g + count - 1 of a block, whose logit gradients lie side by side; `next`: those of the panel after it, of
   `ahead` groups. In turns: a few inputs of a tile of the input gradient each, and shares of the weight gradient, so
   that what comes next can be prefetched a little at a time: the processor stalls where some 20 cache lines are
   outstanding. */
static void haste__backward_panel(const haste__pass *pass, int number, int64_t g, int count, int ahead, int64_t chunk,
                                  int thread)
{
    const haste_block *block = &pass->layer->block[number];
    const int S = block->group_size, F = block->fan_in, tiles = pass->tiles;
    const size_t n = (size_t)S * (size_t)F;
    const int64_t piece = (int64_t)HASTE__PIECE * tiles, pieces = (F - 1) / piece + 1, turns = tiles * pieces;
    const float *next = pass->grad_logits + block->first_slot + (g + count) * S;
    float *weight = pass->gradient ? pass->gradient->weight[number] : NULL;
    float *bias = pass->gradient ? pass->gradient->bias[number] : NULL;
    const haste__store_mode store = haste__stream_gradient(block, weight) ? HASTE__NONTEMPORAL : HASTE__SET;
    int64_t turn;
    int i;
    for (i = 0; i < count; i++) {
        haste__group group;
        const float *zt, *x;
        haste__group_open(&group, pass, number, g + i, thread);
        if (i == 0)
            haste__panel_load(pass, block, g, count, weight || bias ? group.zt : NULL, group.db,
                              pass->grad_x ? group.z : NULL, group.zt);
        zt = group.zt + (size_t)i * (size_t)tiles * HASTE__SAMPLES * (size_t)S;
        x = haste__group_x(pass, &group, 0);
        if (bias) memcpy(bias + (g + i) * S, group.db + i * S, (size_t)S * sizeof *bias);
        for (turn = 0; turn < turns; turn++) {
            const int tile = (int)(turn / pieces), f = (int)(turn % pieces * piece);
            const int first = (int)(F / 8 * turn / turns) * 8,
                      end = turn + 1 < turns ? (int)(F / 8 * (turn + 1) / turns) * 8 : F;
            haste__panel_fetch(pass, next, ahead * S, i * turns + turn, count * turns);
            if (weight && first < end)
                pass->kernel->grad_weight(S, end - first, group.index ? group.index + first : NULL,
                                          group.index ? x : x + first * HASTE__SAMPLES,
                                          (ptrdiff_t)pass->layer->inputs * HASTE__SAMPLES, tiles, zt,
                                          weight + (size_t)(g + i) * n + (size_t)first * (size_t)S, store);
            if (!pass->grad_x) continue;
            haste__next_fetch(&group, block->weight, pass->layer->dtype, turn, turns);
            haste__group_grad_x(pass, &group, f, f + piece < F ? f + (int)piece : F,
                                group.z + ((size_t)tile * (size_t)count + (size_t)i) * (size_t)S * HASTE__SAMPLES,
                                chunk, tile);
        }
    }
}

static void haste__backward_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    haste__chunk_clear(pass, chunk);
    while (haste__walk_block(&walk)) {
        const int most = haste__panel(pass->layer->block[walk.number].group_size) /
                         pass->layer->block[walk.number].group_size;
        while (walk.g < walk.last) {
            const int64_t left = walk.last - walk.g;
            const int count = left < most ? (int)left : most, ahead = left - count < most ? (int)(left - count) : most;
            haste__backward_panel(pass, walk.number, walk.g, count, ahead, chunk, thread);
            walk.g += count;
        }
    }
    HASTE__FENCE();
}

haste_status haste_backward(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                            const float *grad_logits, haste_gradient *gradient, float *grad_x, haste_error *error)
{
    haste__pass pass;
    haste_status status = haste__pass_begin(&pass, layer, work, HASTE_TRAINING, x, B, error);
    if (status == HASTE_OK && gradient) status = haste__gradient_check(layer, gradient, 0, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!grad_logits) return haste__fail(error, HASTE_ERR_ARG, "grad_logits is NULL");
    if (gradient) {
        haste__pass_load(&pass);   /* the input gradient does not ask for x */
        gradient->pending = 1;
        gradient->rewires = layer->rewires;
    }
    pass.grad_logits = grad_logits;
    pass.gradient = gradient;
    pass.grad_x = grad_x;
    haste__parallel(work->chunks, work->threads, haste__backward_chunk, &pass);
    if (grad_x) haste__parallel(pass.tiles, work->threads, haste__transpose_out, &pass);
    return HASTE_OK;
}

/* ---- >>predict ----------------------------------------------------------------------------------------------- */

/* Candidates of many samples in the order of their slots, so that the weights of a group are read once for all who
   ask for it. Each task sorts a share of them, in pieces that fit its thread's scratch. */
typedef struct haste__scoring {
    haste__pass pass;
    int64_t     count, tasks;
} haste__scoring;

enum { HASTE__SCORE_PIECE = 65536, HASTE__SCORE_RUN = 64, HASTE__SCORE_TASK = 512 };   /* candidates */

/* From key [n] on, the candidates of 32 labels of one group (at most HASTE__SCORE_RUN): fills r and c, returns how
   many. A key is slot << 32 | (sample - b) << 16 | (candidate - first). */
static int haste__score_run(const haste__pass *pass, const uint64_t *key, int64_t n, int64_t b, int64_t first,
                            haste__product *r, haste__candidate *c)
{
    const haste_layer *layer = pass->layer;
    const haste_block *block = layer->block;
    const int64_t slot = (int64_t)(key[0] >> 32);
    int64_t g, begin, end, s;
    int i;
    while (slot >= block->first_slot + block->groups * block->group_size) block++;
    g = (slot - block->first_slot) / block->group_size;
    begin = slot - (slot - block->first_slot) % block->group_size % 32;   /* of up to 32 labels */
    end = block->first_slot + (g + 1) * block->group_size;
    r->S = block->group_size;
    r->F = block->fan_in;
    r->bf16 = layer->dtype == HASTE_BF16;
    r->index = block->index ? block->index + g * r->F : NULL;
    s = begin - block->first_slot - g * r->S;
    r->w = (const char *)block->weight + (size_t)(g * r->F * r->S + s) * haste__sizeof(layer->dtype);
    r->bias = block->bias + g * r->S + s;
    for (i = 0; i < n && i < HASTE__SCORE_RUN; i++) {
        s = (int64_t)(key[i] >> 32) - begin;
        if (s < 0 || s >= 32 || s >= end - begin) break;
        c[i].x = pass->x + (size_t)(b + (int64_t)(key[i] >> 16 & 0xffff)) * (size_t)layer->inputs + block->begin;
        c[i].score = pass->score + first + (int64_t)(key[i] & 0xffff);
        c[i].s = (int)s;
    }
    for (n = i; n % 4 != 0; n++) c[n] = c[0];   /* the kernel takes four at once */
    return i;
}

static void haste__score_task(void *context, int64_t task, int thread)
{
    const haste__scoring *scoring = (const haste__scoring *)context;
    const haste__pass *pass = &scoring->pass;
    const int64_t *offset = pass->offset, end = scoring->count * (task + 1) / scoring->tasks;
    int64_t j = scoring->count * task / scoring->tasks, most, b = 0, high = pass->B;
    uint64_t *buffer = (uint64_t *)(void *)(pass->scratch.tile + pass->scratch.tile_count * (size_t)thread);
    most = (int64_t)(pass->scratch.tile_count / 4);   /* in two buffers */
    if (most > HASTE__SCORE_PIECE) most = HASTE__SCORE_PIECE;
    while (b + 1 < high) {   /* the sample of candidate j */
        const int64_t middle = b + (high - b) / 2;
        if (offset[middle] - offset[0] <= j) b = middle;
        else high = middle;
    }
    while (j < end) {
        const int64_t first = j, first_sample = b;
        uint64_t *key = buffer;
        haste__product rows[2];
        haste__candidate run[2][HASTE__SCORE_RUN];
        int64_t n = 0, i;
        int turn = 0, count, next;
        memset(rows, 0, sizeof rows);
        for (; j < end && n < most; j++) {
            while (offset[b + 1] - offset[0] <= j) b++;
            if (b - first_sample > 0xffff) break;
            key[n] = (uint64_t)(uint32_t)pass->layer->slot_of[pass->id[offset[0] + j]] << 32 |
                     (uint64_t)(b - first_sample) << 16 | (uint64_t)n;
            n++;
        }
        if (n == 0) continue;   /* 65,536 samples without candidates */
        if (n > 64) key = haste__sort_slots(key, buffer + most, n, pass->layer->slots, 3);   /* fewer share no group */
        count = haste__score_run(pass, key, n, first_sample, first, &rows[0], run[0]);
        for (i = 0; i < n; i += count, count = next, turn = !turn) {
            next = 0;
            rows[turn].ahead = 0;
            if (i + count < n) {
                next = haste__score_run(pass, key + i + count, n - i - count, first_sample, first, &rows[!turn],
                                        run[!turn]);
                rows[turn].ahead = ((const char *)rows[!turn].w - (const char *)rows[turn].w) /
                                   (ptrdiff_t)haste__sizeof(pass->layer->dtype);
            }
            pass->kernel->score(&rows[turn], run[turn], count);
        }
    }
}

haste_status haste_score(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                         const haste_lists *candidates, float *score, haste_error *error)
{
    haste__scoring scoring;
    haste_status status = haste__layer_quick_check(layer, error);
    if (status == HASTE_OK) status = haste__workspace_check(work, error);
    if (status == HASTE_OK) status = haste__x_check(layer, work, x, B, error);
    if (status == HASTE_OK)
        status = haste__lists_check(layer->labels, B, candidates, 0, INT64_MAX, "candidates", error);
    if (status != HASTE_OK || B == 0) return status;
    if (!score) return haste__fail(error, HASTE_ERR_ARG, "score is NULL");
    haste__pass_make(&scoring.pass, layer, work);
    scoring.pass.x = x;
    scoring.pass.B = B;
    scoring.pass.offset = candidates->offset;
    scoring.pass.id = (int32_t *)(uintptr_t)candidates->id;   /* read only */
    scoring.pass.score = score;
    scoring.count = candidates->offset[B] - candidates->offset[0];
    /* as few as there are threads: the more candidates a task has, the more of them share a group */
    scoring.tasks = (scoring.count + HASTE__SCORE_TASK - 1) / HASTE__SCORE_TASK;
    if (scoring.tasks > work->threads) scoring.tasks = work->threads;
    haste__parallel(scoring.tasks, work->threads, haste__score_task, &scoring);
    return HASTE_OK;
}

/* Does (score, id) stand before (other, other_id)? */
HASTE__INLINE int haste__before(float score, int32_t id, float other, int32_t other_id)
{
    return score > other || (score == other && id < other_id);
}

/* Inserts a candidate into a sample's list of at most k, which stays sorted. */
static void haste__best_insert(float *score, int32_t *id, int32_t *count, int k, float new_score, int32_t new_id)
{
    int i = *count;
    if (i == k) {
        if (!haste__before(new_score, new_id, score[k - 1], id[k - 1])) return;
        i--;
    } else (*count)++;
    for (; i > 0 && haste__before(new_score, new_id, score[i - 1], id[i - 1]); i--) {
        score[i] = score[i - 1];
        id[i] = id[i - 1];
    }
    score[i] = new_score;
    id[i] = new_id;
}

/* Logits of all samples, group->z [B][S]. */
static void haste__group_scores(const haste__pass *pass, haste__group *group)
{
    const size_t S = (size_t)group->S;
    int tile;
    for (tile = 0; tile < pass->tiles; tile++)
        haste__group_rows(pass, group, tile, group->z + (size_t)tile * HASTE__SAMPLES * S, S);
}

/* The place of a pair's logit there. */
HASTE__INLINE float *haste__pair_score(const haste__group *group, uint64_t pair)
{
    return group->z + (size_t)(pair & 0xffffffffu) * (size_t)group->S + (size_t)((int64_t)(pair >> 32) - group->slot);
}

/* One label of sample b that top-k, or a search above a threshold, is to see. */
static void haste__hit_top_k(const haste__pass *pass, int64_t chunk, int thread, int b, int32_t id, float score)
{
    const size_t sample = (size_t)thread * (size_t)pass->work->batch + (size_t)b;
    float *best = pass->scratch.best_score + sample * (size_t)pass->work->top_k;
    int32_t *best_id = pass->scratch.best_id + sample * (size_t)pass->work->top_k,
            *count = pass->scratch.best_count + sample;
    (void)chunk;
    haste__best_insert(best, best_id, count, pass->k, score, id);
    if (*count == pass->k) pass->scratch.best_floor[sample] = best[pass->k - 1];
}

/* First pass (pass->id NULL): counts the chunk's hits of each sample. Second pass: writes them, from the sample's
   offset plus the hits of earlier chunks, which scratch.count then holds. */
static void haste__hit_above(const haste__pass *pass, int64_t chunk, int thread, int b, int32_t id, float score)
{
    int32_t *count = pass->scratch.count + (size_t)chunk * (size_t)pass->work->batch + b;
    (void)thread;
    if (!(score > pass->threshold)) return;
    if (pass->id) {
        pass->id[pass->offset[b] + *count] = id;
        pass->score[pass->offset[b] + *count] = score;
    }
    ++*count;
}

/* Shows all logits of a chunk that are not below each sample's floor to what the search does with them. */
static void haste__search_chunk(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    const float *floor = pass->scratch.best_floor + (size_t)thread * (size_t)pass->work->batch;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    unsigned char hit[HASTE__SAMPLES];
    const uint64_t *p;
    int tile, s, b, bad = 0;
    int64_t g;
    while (haste__walk_group(&walk, &g)) {
        haste__group group;
        haste__group_open(&group, pass, walk.number, g, thread);
        haste__group_scores(pass, &group);
        for (p = group.pair; p < group.pair_end; p++) *haste__pair_score(&group, *p) = -HUGE_VALF;   /* excluded */
        for (tile = 0; tile < pass->tiles; tile++) {
            const int begin = tile * HASTE__SAMPLES, n = haste__tile_samples(pass, tile);
            pass->kernel->scan(group.z + (size_t)begin * (size_t)group.S, n, group.S, floor + begin, hit);
            for (b = begin; b < begin + n; b++) {
                const float *z = group.z + (size_t)b * (size_t)group.S;
                for (s = 0; s < group.labels && hit[b - begin]; s++) {
                    if (z[s] < floor[b] && z[s] >= -FLT_MAX) continue;
                    if (fabsf(z[s]) <= FLT_MAX)
                        pass->hit(pass, chunk, thread, b, pass->layer->label_of[group.slot + s], z[s]);
                    else if (!(z[s] < 0) ||   /* -inf of an excluded label is none of the layer's */
                             !haste__among(group.pair, group.pair_end, (uint64_t)(group.slot + s) << 32 | (uint64_t)b))
                        bad = 1;
                }
            }
        }
    }
    pass->scratch.flag[chunk] = bad;
}

/* Logits of pairs from p on, of 32 labels of one group, at most HASTE__SCORE_RUN: z (=). Returns how many. */
static int haste__score_pairs(const haste__pass *pass, const haste__group *group, const uint64_t *p, float *z)
{
    const int64_t begin = ((int64_t)(*p >> 32) - group->slot) / 32 * 32;
    haste__candidate run[HASTE__SCORE_RUN];
    haste__product r;
    int n, i;
    memset(&r, 0, sizeof r);
    r.S = group->S;
    r.F = group->F;
    r.bf16 = pass->layer->dtype == HASTE_BF16;
    r.index = group->index;
    r.w = (const char *)group->stored + (size_t)begin * haste__sizeof(pass->layer->dtype);
    r.bias = group->block->bias + group->g * group->S + begin;
    r.ahead = group->ahead;
    for (n = 0; n < HASTE__SCORE_RUN && p + n < group->pair_end; n++) {
        const int64_t s = (int64_t)(p[n] >> 32) - group->slot - begin;
        if (s >= 32) break;
        run[n].x = pass->x + (size_t)(p[n] & 0xffffffffu) * (size_t)pass->layer->inputs + group->block->begin;
        run[n].score = z + n;
        run[n].s = (int)s;
    }
    for (i = n; i % 4 != 0; i++) run[i] = run[0];   /* the kernel takes four at once */
    pass->kernel->score(&r, run, n);
    return n;
}

/* A logit alone takes as long as so many of a whole group's. */
enum { HASTE__LISTED = 16 };

/* The same where only listed labels count: groups without one are passed over. */
static void haste__search_listed(void *context, int64_t chunk, int thread)
{
    const haste__pass *pass = (const haste__pass *)context;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    float run[HASTE__SCORE_RUN], *z;
    int many, n, i, bad = 0;
    while (haste__walk_block(&walk)) {
        const haste_block *block = &pass->layer->block[walk.number];
        const int64_t S = block->group_size, first = block->first_slot;
        const uint64_t *p = haste__pair_find(pass->pair, pass->pair_end, first + walk.g * S, 0);
        const uint64_t *end = haste__pair_find(p, pass->pair_end, first + walk.last * S, 0);
        while (p < end) {
            haste__group group;
            haste__group_open(&group, pass, walk.number, ((int64_t)(*p >> 32) - first) / S, thread);
            group.ahead = 0;
            if (group.pair_end < end)
                group.ahead = (ptrdiff_t)((((int64_t)(*group.pair_end >> 32) - first) / S - group.g) * S * group.F);
            many = (group.pair_end - p) * HASTE__LISTED >= S * pass->tiles * pass->pitch;
            if (many) haste__group_scores(pass, &group);
            for (; p < group.pair_end; p += n, group.ahead = 0) {
                z = many ? haste__pair_score(&group, *p) : run;
                n = many ? 1 : haste__score_pairs(pass, &group, p, run);
                for (i = 0; i < n; i++)
                    if (fabsf(z[i]) <= FLT_MAX)
                        pass->hit(pass, chunk, thread, (int)(p[i] & 0xffffffffu), pass->layer->label_of[p[i] >> 32],
                                  z[i]);
                    else bad = 1;
            }
        }
    }
    pass->scratch.flag[chunk] = bad;
}

/* Everything that searches check and prepare. Each thread's floor of each sample is `floor`. */
static haste_status haste__search_begin(haste__pass *pass, const haste_layer *layer, const haste_workspace *work,
                                        const float *x, int32_t B, const haste_search_options *options, float floor,
                                        haste_error *error)
{
    const haste_lists *only = options ? options->only : NULL, *excluded = options ? options->excluded : NULL;
    size_t i;
    haste_status status = haste__pass_begin(pass, layer, work, HASTE_PREDICTION, x, B, error);
    if (status == HASTE_OK && only) status = haste__lists_check(layer->labels, B, only, 1, work->ids, "only", error);
    if (status == HASTE_OK && excluded)
        status = haste__lists_check(layer->labels, B, excluded, 1, work->ids, "excluded", error);
    if (status != HASTE_OK || B == 0) return status;
    haste__pass_load_rows(pass);
    if (only) {
        pass->only = 1;
        pass->dot = 0;
        haste__lists_sort(pass, only);
        if (excluded) haste__lists_drop(pass, excluded);
    } else if (excluded) haste__lists_sort(pass, excluded);
    for (i = 0; i < (size_t)work->threads * (size_t)work->batch; i++) {
        pass->scratch.best_floor[i] = floor;
        pass->scratch.best_count[i] = 0;
    }
    return HASTE_OK;
}

static haste_status haste__search(haste__pass *pass, haste_error *error)
{
    haste__parallel(pass->work->chunks, pass->work->threads,
                    pass->only ? haste__search_listed : haste__search_chunk, pass);
    return haste__flags(pass) ? haste__fail(error, HASTE_ERR_NONFINITE, "a logit is not finite") : HASTE_OK;
}

haste_status haste_top_k(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B, int32_t k,
                         const haste_search_options *options, int32_t *id, float *score, haste_error *error)
{
    haste__pass pass;
    int b, i, thread;
    haste_status status;
    if (k < 1) return haste__fail(error, HASTE_ERR_ARG, "k = %d, expected at least 1", (int)k);
    if (B > 0 && !id) return haste__fail(error, HASTE_ERR_ARG, "id is NULL");
    if (work && k > work->top_k)
        return haste__fail(error, HASTE_ERR_SIZE, "k = %d, expected at most the workspace's top_k = %d", (int)k,
                           (int)work->top_k);
    status = haste__search_begin(&pass, layer, work, x, B, options, -FLT_MAX, error);
    if (status != HASTE_OK || B == 0) return status;
    pass.k = k;
    pass.hit = haste__hit_top_k;
    status = haste__search(&pass, error);
    if (status != HASTE_OK) return status;
    for (b = 0; b < B; b++) {   /* the first thread's list takes those of the others */
        const size_t top_k = (size_t)work->top_k;
        float *best = pass.scratch.best_score + (size_t)b * top_k;
        int32_t *best_id = pass.scratch.best_id + (size_t)b * top_k, *count = pass.scratch.best_count + b;
        for (thread = 1; thread < work->threads; thread++) {
            const size_t sample = (size_t)thread * (size_t)work->batch + (size_t)b;
            for (i = 0; i < pass.scratch.best_count[sample]; i++)
                haste__best_insert(best, best_id, count, k, pass.scratch.best_score[sample * top_k + (size_t)i],
                                   pass.scratch.best_id[sample * top_k + (size_t)i]);
        }
        for (i = 0; i < k; i++) {
            const int found = i < *count;
            id[(size_t)b * (size_t)k + (size_t)i] = found ? best_id[i] : -1;
            if (score) score[(size_t)b * (size_t)k + (size_t)i] = found ? best[i] : -HUGE_VALF;
        }
    }
    return HASTE_OK;
}

/* Where haste_above's results go. */
static haste_status haste__above_check(const int64_t *offset, const int32_t *id, const float *score, int64_t capacity,
                                       const int64_t *needed, haste_error *error)
{
    if (!offset || !needed) return haste__fail(error, HASTE_ERR_ARG, "offset or needed is NULL");
    if (capacity < 0 || (capacity > 0 && (!id || !score)))
        return haste__fail(error, HASTE_ERR_ARG, "capacity = %lld with id = %p, score = %p", (long long)capacity,
                           (const void *)id, (const void *)score);
    return HASTE_OK;
}

haste_status haste_above(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B, float threshold,
                         const haste_search_options *options, int64_t *offset, int32_t *id, float *score,
                         int64_t capacity, int64_t *needed, haste_error *error)
{
    haste__pass pass;
    int b, chunk;
    int64_t total = 0;
    haste_status status;
    status = haste__above_check(offset, id, score, capacity, needed, error);
    if (status != HASTE_OK) return status;
    if (threshold != threshold) return haste__fail(error, HASTE_ERR_ARG, "threshold is NaN");
    status = haste__search_begin(&pass, layer, work, x, B, options, threshold, error);
    if (status != HASTE_OK) return status;
    if (B == 0) { offset[0] = *needed = 0; return HASTE_OK; }
    pass.threshold = threshold;
    pass.hit = haste__hit_above;
    memset(pass.scratch.count, 0, (size_t)work->chunks * (size_t)work->batch * sizeof *pass.scratch.count);
    status = haste__search(&pass, error);
    if (status != HASTE_OK) return status;
    for (b = 0; b < B; b++) {
        int64_t own = 0;
        for (chunk = 0; chunk < work->chunks; chunk++) {
            int32_t *count = &pass.scratch.count[(size_t)chunk * (size_t)work->batch + (size_t)b], n = *count;
            *count = (int32_t)own;   /* at most L < 2^31 */
            own += n;
        }
        offset[b] = total;
        total += own;
    }
    offset[B] = *needed = total;
    if (total > capacity)
        return haste__fail(error, HASTE_ERR_SIZE, "capacity = %lld, expected at least %lld", (long long)capacity,
                           (long long)total);
    if (total == 0) return HASTE_OK;
    pass.offset = offset;
    pass.id = id;
    pass.score = score;
    haste__search(&pass, NULL);   /* as before */
    for (b = 0; b < B; b++) haste__sort_labels(score + offset[b], id + offset[b], offset[b + 1] - offset[b]);
    return HASTE_OK;
}

/* The whole's id of one that a shard found. */
static int32_t haste__found_id(const haste_found *found, int64_t i)
{
    return found->map ? found->map[found->id[i]] : found->first + found->id[i];
}

/* Checks shards' lists: of k places each, the last of which may be -1, or, with k = 0, as their offsets say. */
static haste_status haste__found_check(const haste_found *shards, int32_t count, int32_t B, int32_t k,
                                       haste_error *error)
{
    char name[32];
    haste_status status = HASTE_OK;
    int32_t n;
    int64_t b, i;
    if (count < 1 || B < 0)
        return haste__fail(error, HASTE_ERR_ARG, "count = %d, B = %d, expected at least 1 and 0", (int)count, (int)B);
    if (!shards) return haste__fail(error, HASTE_ERR_ARG, "shards is NULL");
    for (n = 0; n < count && B > 0; n++) {
        const haste_found *s = &shards[n];
        snprintf(name, sizeof name, "shards[%d]", (int)n);
        if (s->labels < 1 || s->first < 0 || s->first > INT32_MAX - s->labels)
            return haste__fail(error, HASTE_ERR_ARG, "%s: labels = %d, first = %d, expected numbers from 1 and 0 of "
                               "which the sum is below 2^31", name, (int)s->labels, (int)s->first);
        if (k == 0) status = haste__offsets_check(s->offset, B, name, error);
        if (status != HASTE_OK) return status;
        if ((k > 0 || s->offset[B] > s->offset[0]) && (!s->id || !s->score))
            return haste__fail(error, HASTE_ERR_ARG, "%s: id or score is NULL", name);
        for (b = 0; b < B; b++) {
            const int64_t first = k > 0 ? b * k : s->offset[b], end = k > 0 ? first + k : s->offset[b + 1];
            for (i = first; i < end; i++) {
                if (k > 0 && s->id[i] == -1 && (i + 1 == end || s->id[i + 1] == -1)) continue;
                if (s->id[i] < 0 || s->id[i] >= s->labels)
                    return haste__fail(error, HASTE_ERR_DATA, "%s.id[%lld] = %d, expected 0 to %d, or -1 at the end",
                                       name, (long long)i, (int)s->id[i], (int)s->labels - 1);
                if (!(fabsf(s->score[i]) <= FLT_MAX))
                    return haste__fail(error, HASTE_ERR_DATA, "%s.score[%lld] = %g is not finite", name, (long long)i,
                                       (double)s->score[i]);
                if (haste__found_id(s, i) < 0 ||
                    (i > first && !haste__before(s->score[i - 1], haste__found_id(s, i - 1), s->score[i],
                                                 haste__found_id(s, i))))
                    return haste__fail(error, HASTE_ERR_DATA, "%s.id[%lld] = %d is %d in the whole, not behind its "
                                       "predecessor", name, (long long)i, (int)s->id[i], (int)haste__found_id(s, i));
            }
        }
    }
    return HASTE_OK;
}

haste_status haste_top_k_merge(const haste_found *shards, int32_t count, int32_t B, int32_t k, int32_t *id,
                               float *score, haste_error *error)
{
    haste_status status;
    int32_t n;
    int64_t b, i;
    if (k < 1) return haste__fail(error, HASTE_ERR_ARG, "k = %d, expected at least 1", (int)k);
    status = haste__found_check(shards, count, B, k, error);
    if (status != HASTE_OK) return status;
    if (B > 0 && (!id || !score)) return haste__fail(error, HASTE_ERR_ARG, "id or score is NULL");
    for (b = 0; b < B; b++) {
        int32_t *best_id = id + b * k, found = 0;
        float *best = score + b * k;
        for (n = 0; n < count; n++)
            for (i = b * k; i < (b + 1) * k && shards[n].id[i] >= 0; i++)
                haste__best_insert(best, best_id, &found, k, shards[n].score[i], haste__found_id(&shards[n], i));
        for (; found < k; found++) {
            best_id[found] = -1;
            best[found] = -HUGE_VALF;
        }
    }
    return HASTE_OK;
}

haste_status haste_above_merge(const haste_found *shards, int32_t count, int32_t B, int64_t *offset, int32_t *id,
                               float *score, int64_t capacity, int64_t *needed, haste_error *error)
{
    haste_status status = haste__above_check(offset, id, score, capacity, needed, error);
    int32_t n;
    int64_t b, i, total = 0;
    if (status == HASTE_OK) status = haste__found_check(shards, count, B, 0, error);
    if (status != HASTE_OK) return status;
    offset[0] = 0;
    for (b = 0; b < B; b++) {
        for (n = 0; n < count; n++) total += shards[n].offset[b + 1] - shards[n].offset[b];
        offset[b + 1] = total;
    }
    *needed = total;
    if (total > capacity)
        return haste__fail(error, HASTE_ERR_SIZE, "capacity = %lld, expected at least %lld", (long long)capacity,
                           (long long)total);
    for (b = 0, total = 0; b < B; b++) {
        for (n = 0; n < count; n++)
            for (i = shards[n].offset[b]; i < shards[n].offset[b + 1]; i++, total++) {
                id[total] = haste__found_id(&shards[n], i);
                score[total] = shards[n].score[i];
            }
        haste__sort_labels(score + offset[b], id + offset[b], offset[b + 1] - offset[b]);
    }
    return HASTE_OK;
}

/* ---- >>group ------------------------------------------------------------------------------------------------- */

/* Fixed sizes, so that how work is cut never depends on the number of threads. */
enum {
    HASTE__CLUSTER_PIECE   = 1024,    /* labels in one piece of a sum */
    HASTE__CLUSTER_PIECES  = 32,      /* pieces of the largest sum; larger parts are judged by a sample */
    HASTE__CLUSTER_SAMPLE  = 16384,   /* labels of that sample; below PIECE * PIECES */
    HASTE__CLUSTER_SUBTREE = 8192,    /* a part of at most so many labels is one thread's work from there on down */
    HASTE__CLUSTER_POWER   = 3,       /* steps towards the direction in which a part is longest */
    HASTE__CLUSTER_ROUNDS  = 3,       /* at most so many rounds of balanced 2-means after them */
    HASTE__CLUSTER_WINDOW  = 64,      /* groups among which labels are exchanged; a multiple of 4 */
    HASTE__CLUSTER_ITERATIONS = 16    /* rounds of exchanges */
};

/* ---- >>label orders ------------------------------------------------------------------------------------------ */

haste_status haste_order_by_frequency(const int64_t *frequency, int32_t L, int32_t *order, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_status status;
    int64_t most = 0;
    uint64_t *key;
    int32_t i;
    int shift;
    if (!frequency) return haste__fail(error, HASTE_ERR_ARG, "frequency is NULL");
    if (!order) return haste__fail(error, HASTE_ERR_ARG, "order is NULL");
    if (L < 1) return haste__fail(error, HASTE_ERR_ARG, "L = %ld, expected at least 1 label", (long)L);
    for (i = 0; i < L; i++) {
        if (frequency[i] < 0)
            return haste__fail(error, HASTE_ERR_DATA, "frequency[%ld] = %lld, expected 0 or more", (long)i,
                               (long long)frequency[i]);
        if (frequency[i] > most) most = frequency[i];
    }
    haste__take(&arena, (uint64_t)L, sizeof *key);
    if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
    key = (uint64_t *)haste__take(&arena, (uint64_t)L, sizeof *key);

    /* By how much is missing to the most frequent, 32 bits at a time from the lower ones on. Of equal ones the earlier
       stays first: the smaller id. */
    for (i = 0; i < L; i++) order[i] = i;
    for (shift = 0; shift < 64 && (shift == 0 || most >> shift != 0); shift += 32) {
        for (i = 0; i < L; i++) key[i] = (uint64_t)(most - frequency[order[i]]) >> shift << 32 | (uint64_t)i;
        haste__sort(key, L);
        for (i = 0; i < L; i++) key[i] = (uint64_t)order[haste__key_id(key[i])];
        for (i = 0; i < L; i++) order[i] = (int32_t)key[i];
    }
    haste__release(arena.memory);
    return HASTE_OK;
}

haste_status haste_order_random(int32_t *order, int64_t n, uint64_t seed, haste_error *error)
{
    int64_t i;
    if (n < 0 || n > INT32_MAX)
        return haste__fail(error, HASTE_ERR_ARG, "n = %lld, expected 0 .. 2^31 - 1", (long long)n);
    if (!order && n > 0) return haste__fail(error, HASTE_ERR_ARG, "order is NULL");
    for (i = n - 1; i > 0; i--) {
        const int64_t j = haste__below(haste__random(seed, HASTE__STREAM_SHUFFLE, (uint64_t)i), (uint32_t)(i + 1));
        const int32_t id = order[i];
        order[i] = order[j];
        order[j] = id;
    }
    return HASTE_OK;
}

/* ---- >>label embeddings -------------------------------------------------------------------------------------- */

static haste_status haste__embed_sizes(const float *embedding, int32_t L, int32_t E, haste_error *error)
{
    size_t bytes = sizeof(float);
    if (!embedding) return haste__fail(error, HASTE_ERR_ARG, "embedding is NULL");
    if (L < 1) return haste__fail(error, HASTE_ERR_ARG, "L = %ld, expected at least 1 label", (long)L);
    if (E < 1) return haste__fail(error, HASTE_ERR_ARG, "E = %ld, expected at least 1 dimension", (long)E);
    if (!haste__multiply(&bytes, (uint64_t)L) || !haste__multiply(&bytes, (uint64_t)E))
        return haste__fail(error, HASTE_ERR_SIZE, "an embedding of L = %ld times E = %ld floats does not fit in memory",
                           (long)L, (long)E);
    return HASTE_OK;
}

static int64_t haste__longest(const haste_lists *lists, int32_t B)
{
    int64_t longest = 0, n;
    int32_t b;
    for (b = 0; b < B; b++)
        if ((n = lists->offset[b + 1] - lists->offset[b]) > longest) longest = n;
    return longest;
}

/* key (=): the distinct ids of sample b, ascending. Returns their number. */
static int64_t haste__distinct(const haste_lists *lists, int64_t b, uint64_t *key)
{
    const int64_t first = lists->offset[b], n = lists->offset[b + 1] - first;
    int64_t i, count = 0;
    for (i = 0; i < n; i++) key[i] = (uint64_t)lists->id[first + i];
    haste__sort(key, n);
    for (i = 0; i < n; i++) if (i == 0 || key[i] != key[count - 1]) key[count++] = key[i];
    return count;
}

enum {
    HASTE__EMBED_ROWS = 256,    /* samples whose rows are held at once */
    HASTE__EMBED_SHARE = 16     /* samples of a task that makes rows */
};

/* What the threads of an embedding share. For HASTE__EMBED_ROWS samples at a time their rows are made, then added to
   their labels. A label belongs to one task, so its sum has the order of the samples, whatever the threads. */
typedef struct haste__embedding {
    const haste__kernels *kernel;   /* the best: there is no workspace to name others */
    float              *embedding;
    int32_t             E, B;
    uint64_t            seed;
    const haste_sparse *x;          /* sparse samples, or NULL: */
    const float        *dense;      /* [B, E] */
    const haste_lists  *positives;
    float             (*sign)[8];   /* [256] a random byte as eight signs */
    int64_t             first;      /* row holds samples first .. first + HASTE__EMBED_ROWS - 1 */
    float              *row;        /* [HASTE__EMBED_ROWS][width] */
    int                 nonzero[HASTE__EMBED_ROWS];   /* whether the sample has a row */
    int64_t             width;      /* E rounded up to 64 */
    int                 owners;     /* tasks that add: labels l with l % owners == i belong to task i */
    uint64_t           *key;        /* [owners][longest] */
    int64_t             longest;    /* list of labels */
} haste__embedding;

/* Adds the rows to the owner's labels. */
static void haste__embed_add(void *context, int64_t owner, int thread)
{
    const haste__embedding *e = (const haste__embedding *)context;
    uint64_t *key = e->key + owner * e->longest;
    int64_t b, i, n;
    (void)thread;
    for (b = 0; b < HASTE__EMBED_ROWS && e->first + b < e->B; b++) {
        if (!e->nonzero[b]) continue;
        n = haste__distinct(e->positives, e->first + b, key);
        for (i = 0; i < n; i++)
            if ((int64_t)key[i] % e->owners == owner)
                e->kernel->axpy(e->embedding + (int64_t)key[i] * e->E, 1, e->row + b * e->width, e->E);
    }
}

/* row [width] (=): the unit-length sample, projected. Returns 0 for a sample that is 0 or has no features. */
static int haste__embed_project(const haste__embedding *e, float *row, int64_t sample)
{
    const int64_t first = e->x->offset[sample], n = e->x->offset[sample + 1] - first;
    const float *value = n > 0 ? e->x->value + first : NULL;
    int64_t i;
    double norm = 0;
    for (i = 0; i < n; i++) norm += (double)value[i] * (double)value[i];
    if (norm <= 0) return 0;
    norm = 1 / sqrt(norm * (double)e->E);
    memset(row, 0, (size_t)e->width * sizeof *row);
    e->kernel->project(row, e->width / 64, e->seed, e->x->feature + first, value, n, norm, e->sign);
    return 1;
}

/* row (=): the unit-length dense sample. Returns 0 for a sample that is 0. */
static int haste__embed_scale(float *row, int32_t E, const float *sample)
{
    double norm = 0, norm1 = 0, norm2 = 0, norm3 = 0;   /* side by side: one sum waits for each addition */
    int32_t i = 0;
    for (; i + 4 <= E; i += 4) {
        norm += (double)sample[i] * (double)sample[i];
        norm1 += (double)sample[i + 1] * (double)sample[i + 1];
        norm2 += (double)sample[i + 2] * (double)sample[i + 2];
        norm3 += (double)sample[i + 3] * (double)sample[i + 3];
    }
    for (; i < E; i++) norm += (double)sample[i] * (double)sample[i];
    norm = (norm + norm1) + (norm2 + norm3);
    if (norm <= 0) return 0;
    norm = 1 / sqrt(norm);
    for (i = 0; i < E; i++) row[i] = (float)((double)sample[i] * norm);
    return 1;
}

/* Makes the rows of HASTE__EMBED_SHARE samples. */
static void haste__embed_rows(void *context, int64_t share, int thread)
{
    haste__embedding *e = (haste__embedding *)context;
    int64_t b = share * HASTE__EMBED_SHARE;
    const int64_t last = b + HASTE__EMBED_SHARE;
    (void)thread;
    for (; b < last && e->first + b < e->B; b++) {
        const int64_t sample = e->first + b;
        float *row = e->row + b * e->width;
        e->nonzero[b] = 0;
        if (e->positives->offset[sample + 1] == e->positives->offset[sample]) continue;
        e->nonzero[b] = e->dense ? haste__embed_scale(row, e->E, e->dense + sample * e->E)
                                 : haste__embed_project(e, row, sample);
    }
}

static void haste__embed_arrange(haste__embedding *e, haste__arena *arena)
{
    e->row = (float *)haste__take(arena, (uint64_t)e->width * HASTE__EMBED_ROWS, sizeof *e->row);
    e->key = (uint64_t *)haste__take(arena, (uint64_t)e->longest, (size_t)e->owners * sizeof *e->key);
}

/* All samples, whose arguments have been checked. */
static haste_status haste__embed_run(haste__embedding *e, int32_t threads, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_status status;
    e->kernel = haste__best_kernels();
    e->owners = e->B < HASTE__EMBED_ROWS ? 1 : haste__threads(threads);
    e->width = ((int64_t)e->E + 63) / 64 * 64;
    e->longest = haste__longest(e->positives, e->B);
    haste__embed_arrange(e, &arena);
    if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
    haste__embed_arrange(e, &arena);
    for (e->first = 0; e->first < e->B; e->first += HASTE__EMBED_ROWS) {
        const int64_t left = e->B - e->first, count = left < HASTE__EMBED_ROWS ? left : (int64_t)HASTE__EMBED_ROWS;
        haste__parallel((count + HASTE__EMBED_SHARE - 1) / HASTE__EMBED_SHARE, e->owners, haste__embed_rows, e);
        haste__parallel(e->owners, e->owners, haste__embed_add, e);
    }
    haste__release(arena.memory);
    return HASTE_OK;
}

/* What both kinds of samples share. */
static haste_status haste__embed_begin(haste__embedding *e, float *embedding, int32_t L, int32_t E, const void *x,
                                       int32_t B, const haste_lists *positives, int32_t threads, haste_error *error)
{
    haste_status status = haste__embed_sizes(embedding, L, E, error);
    if (status == HASTE_OK) status = haste__threads_check(threads, error);
    if (status != HASTE_OK) return status;
    if (B < 0) return haste__fail(error, HASTE_ERR_ARG, "B = %ld, expected 0 or more samples", (long)B);
    if (!x && B > 0) return haste__fail(error, HASTE_ERR_ARG, "x is NULL");
    memset(e, 0, sizeof *e);
    e->embedding = embedding;
    e->E = E;
    e->B = B;
    e->positives = positives;
    return haste__lists_check(L, B, positives, 0, INT64_MAX, "positives", error);
}

haste_status haste_embed_sparse(float *embedding, int32_t L, int32_t E, uint64_t seed, const haste_sparse *x, int32_t B,
                                const haste_lists *positives, int32_t threads, haste_error *error)
{
    haste__embedding e;
    float sign[256][8];
    int64_t i;
    haste_status status = haste__embed_begin(&e, embedding, L, E, x, B, positives, threads, error);
    if (status != HASTE_OK || B == 0) return status;
    if ((status = haste__offsets_check(x->offset, B, "x", error)) != HASTE_OK) return status;
    if (x->offset[B] > x->offset[0] && (!x->feature || !x->value))
        return haste__fail(error, HASTE_ERR_ARG, "x.%s is NULL", x->feature ? "value" : "feature");
    for (i = x->offset[0]; i < x->offset[B]; i++) {
        if (x->feature[i] < 0)
            return haste__fail(error, HASTE_ERR_DATA, "x.feature[%lld] = %ld, expected 0 or more", (long long)i,
                               (long)x->feature[i]);
        if (!(fabsf(x->value[i]) <= FLT_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "x.value[%lld] is not finite", (long long)i);
    }
    for (i = 0; i < 256 * 8; i++) sign[i / 8][i % 8] = (i / 8) >> (i % 8) & 1 ? 1.0f : -1.0f;
    e.seed = seed;
    e.x = x;
    e.sign = sign;
    return haste__embed_run(&e, threads, error);
}

haste_status haste_embed_dense(float *embedding, int32_t L, int32_t E, const float *x, int32_t B,
                               const haste_lists *positives, int32_t threads, haste_error *error)
{
    haste__embedding e;
    size_t bytes = sizeof(float);
    int64_t i;
    haste_status status = haste__embed_begin(&e, embedding, L, E, x, B, positives, threads, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!haste__multiply(&bytes, (uint64_t)B) || !haste__multiply(&bytes, (uint64_t)E))
        return haste__fail(error, HASTE_ERR_SIZE, "x of B = %ld times E = %ld floats does not fit in memory", (long)B,
                           (long)E);
    for (i = 0; i < (int64_t)B * E; i++)
        if (!(fabsf(x[i]) <= FLT_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "x[%ld][%ld] is not finite", (long)(i / E), (long)(i % E));
    e.dense = x;
    return haste__embed_run(&e, threads, error);
}

haste_status haste_embed_finish(float *embedding, int32_t L, int32_t E, haste_error *error)
{
    int32_t l, e;
    haste_status status = haste__embed_sizes(embedding, L, E, error);
    if (status) return status;
    for (l = 0; l < L; l++)
        for (e = 0; e < E; e++)
            if (!(fabsf(embedding[(int64_t)l * E + e]) <= FLT_MAX))
                return haste__fail(error, HASTE_ERR_DATA, "embedding[%ld][%ld] is not finite", (long)l, (long)e);
    for (l = 0; l < L; l++) {
        float *row = embedding + (int64_t)l * E;
        double norm = 0;
        for (e = 0; e < E; e++) norm += (double)row[e] * (double)row[e];
        if (norm <= 0) continue;
        norm = 1 / sqrt(norm);
        for (e = 0; e < E; e++) row[e] = (float)((double)row[e] * norm);
    }
    return HASTE_OK;
}

/* ---- >>balanced bisection ------------------------------------------------------------------------------------ */

/* Rows of an embedding that are being arranged, labels or (in the search for groups that are alike) groups, and the
   scratch memory for it. */
typedef struct haste__clustering {
    const haste__kernels *kernel;   /* the best */
    const float *embedding;   /* [.., E] */
    int32_t      E, S;
    int          threads;
    uint64_t     seed;
    uint64_t    *key;         /* [n] what is arranged: a score and a row of the embedding */
    int64_t      n;
    int64_t     *part;        /* [groups][2] begin and end of the parts that are one thread's work */
    int64_t      parts;
    float       *sums;        /* [threads][1 + PIECES][E] */
    double      *total;       /* [threads][2][E] */
    float       *group;       /* [groups] haste_cohesion: summed cosine of a group's labels to its centroid */
    float       *centroid;    /* [n / S][E] haste_group: of length 1, what the search for alike groups bisects */
} haste__clustering;

/* One part that is being split. */
typedef struct haste__split {
    const haste__clustering *clustering;
    int64_t begin, end;       /* where scores are wanted */
    int64_t sum_end;          /* sums run over begin .. sum_end - 1 */
    int     scored;           /* 1: each row times its score minus `center` */
    float   center;
    float  *direction;        /* [E] */
    float  *sums;             /* [PIECES][E] */
} haste__split;

static const float *haste__embedding_row(const haste__clustering *clustering, int64_t i)
{
    return clustering->embedding + (int64_t)haste__key_id(clustering->key[i]) * clustering->E;
}

static void haste__split_score_piece(void *context, int64_t piece, int thread)
{
    const haste__split *split = (const haste__split *)context;
    const haste__clustering *clustering = split->clustering;
    int64_t i = split->begin + piece * HASTE__CLUSTER_PIECE, last = i + HASTE__CLUSTER_PIECE;
    (void)thread;
    if (last > split->end) last = split->end;
    for (; i < last; i++) {
        const float *row = haste__embedding_row(clustering, i);
        const float score = clustering->kernel->dot(row, split->direction, clustering->E);
        clustering->key[i] = haste__key(score, haste__key_id(clustering->key[i]));
    }
}

static void haste__split_sum_piece(void *context, int64_t piece, int thread)
{
    const haste__split *split = (const haste__split *)context;
    const haste__clustering *clustering = split->clustering;
    int64_t i = split->begin + piece * HASTE__CLUSTER_PIECE, last = i + HASTE__CLUSTER_PIECE;
    int32_t E = clustering->E;
    float *sum = split->sums + piece * E;
    (void)thread;
    if (last > split->sum_end) last = split->sum_end;
    memset(sum, 0, (size_t)E * sizeof *sum);
    for (; i < last; i++)
        clustering->kernel->axpy(sum, split->scored ? haste__key_score(clustering->key[i]) - split->center : 1,
                                 haste__embedding_row(clustering, i), E);
}

static int64_t haste__pieces(int64_t n) { return (n + HASTE__CLUSTER_PIECE - 1) / HASTE__CLUSTER_PIECE; }

static void haste__split_score(haste__split *split, int64_t end, int threads)
{
    split->end = end;
    haste__parallel(haste__pieces(end - split->begin), threads, haste__split_score_piece, split);
}

/* sum [E] (=): of the rows from begin to end - 1, or (`scored`) of multiples of them. Returns its length. */
static double haste__split_sum(haste__split *split, int64_t end, int scored, int threads, double *sum)
{
    int64_t pieces = haste__pieces(end - split->begin), p;
    int32_t E = split->clustering->E, e;
    double square = 0;
    split->sum_end = end;
    split->scored = scored;
    haste__parallel(pieces, threads, haste__split_sum_piece, split);
    for (e = 0; e < E; e++) sum[e] = 0;
    for (p = 0; p < pieces; p++)
        for (e = 0; e < E; e++) sum[e] += (double)split->sums[p * E + e];
    for (e = 0; e < E; e++) square += sum[e] * sum[e];
    return sqrt(square);
}

/* Splits begin .. end - 1 at `middle` so that both halves are as coherent as a few rounds make them: first towards the
   direction in which the part is longest (power iteration from two random labels), then balanced 2-means with cosines:
   the labels that are nearer to the one centroid than to the other go to its half. A large part is judged by a sample
   of it. */
static void haste__bisect(const haste__clustering *clustering, int64_t begin, int64_t middle, int64_t end, int threads,
                          int thread)
{
    int64_t n = end - begin, known = n, known_middle = middle, i;
    int32_t E = clustering->E, e;
    uint64_t *key = clustering->key + begin, random;
    double *total = clustering->total + (int64_t)thread * 2 * E, *half = total + E, best = 0;
    const float *a, *b;
    haste__split split;
    int round;
    memset(&split, 0, sizeof split);
    split.clustering = clustering;
    split.begin = begin;
    split.direction = clustering->sums + (int64_t)thread * (1 + HASTE__CLUSTER_PIECES) * E;
    split.sums = split.direction + E;
    if (n > (int64_t)HASTE__CLUSTER_PIECE * HASTE__CLUSTER_PIECES) {
        known = HASTE__CLUSTER_SAMPLE;
        known_middle = begin + known * (middle - begin) / n;
        for (i = 0; i < known; i++) haste__key_swap(key, i, i * (n / known));
    }

    random = haste__random(clustering->seed, HASTE__STREAM_GROUP, (uint64_t)begin + (uint64_t)end);
    a = haste__embedding_row(clustering, begin + haste__below(random, (uint32_t)known));
    b = haste__embedding_row(clustering, begin + haste__below(haste__mix(random), (uint32_t)known));
    for (e = 0; e < E; e++) split.direction[e] = a[e] - b[e];
    haste__split_sum(&split, begin + known, 0, threads, total);
    for (round = 0; round < HASTE__CLUSTER_POWER; round++) {
        double center = 0, length;
        for (e = 0; e < E; e++) center += total[e] * (double)split.direction[e];
        split.center = (float)(center / (double)known);
        haste__split_score(&split, begin + known, threads);
        length = haste__split_sum(&split, begin + known, 1, threads, half);
        if (length <= 0) break;
        for (e = 0; e < E; e++) split.direction[e] = (float)(half[e] / length);
    }
    for (round = 0; round < HASTE__CLUSTER_ROUNDS; round++) {
        double length, other = 0;
        haste__split_score(&split, begin + known, threads);
        haste__select(key, known, known_middle - begin);
        length = haste__split_sum(&split, known_middle, 0, threads, half);
        for (e = 0; e < E; e++) other += (total[e] - half[e]) * (total[e] - half[e]);
        other = sqrt(other);
        if (length <= 0 || other <= 0 || length + other <= best * (1 + 1e-6)) break;
        best = length + other;   /* the summed cosine of all to their centroid */
        for (e = 0; e < E; e++) split.direction[e] = (float)(half[e] / length - (total[e] - half[e]) / other);
    }
    haste__split_score(&split, end, threads);
    haste__select(key, n, middle - begin);
}

/* Bisects down to single groups, always between groups, so that only the last one can be short. With `collect`, parts
   small enough for one thread are put down in clustering->part instead. */
static void haste__bisect_all(haste__clustering *clustering, int64_t begin, int64_t end, int collect, int thread)
{
    int64_t groups = (end - begin + clustering->S - 1) / clustering->S, middle = begin + groups / 2 * clustering->S;
    if (groups < 2) return;
    if (collect && end - begin <= HASTE__CLUSTER_SUBTREE) {
        clustering->part[2 * clustering->parts] = begin;
        clustering->part[2 * clustering->parts++ + 1] = end;
        return;
    }
    haste__bisect(clustering, begin, middle, end, collect ? clustering->threads : 1, thread);
    haste__bisect_all(clustering, begin, middle, collect, thread);
    haste__bisect_all(clustering, middle, end, collect, thread);
}

static void haste__bisect_part(void *context, int64_t i, int thread)
{
    haste__clustering *clustering = (haste__clustering *)context;
    haste__bisect_all(clustering, clustering->part[2 * i], clustering->part[2 * i + 1], 0, thread);
}

static void haste__bisect_run(haste__clustering *clustering)
{
    clustering->parts = 0;
    haste__bisect_all(clustering, 0, clustering->n, 1, 0);
    haste__parallel(clustering->parts, clustering->threads, haste__bisect_part, clustering);
}

/* ---- >>exchanges --------------------------------------------------------------------------------------------- */

/* sum [E] (=): of a group's rows. Returns the square of its length. */
static float haste__group_sum(const haste__clustering *clustering, int64_t group, float *sum)
{
    int64_t i = group * clustering->S, last = i + clustering->S;
    if (last > clustering->n) last = clustering->n;
    memset(sum, 0, (size_t)clustering->E * sizeof *sum);
    for (; i < last; i++) clustering->kernel->axpy(sum, 1, haste__embedding_row(clustering, i), clustering->E);
    return clustering->kernel->dot(sum, sum, clustering->E);
}

/* After the bisection, labels of groups that are alike are exchanged where that raises the summed cosine. The sum of
   the cosines of a group's labels to their centroid is the length of the sum of their rows, so the effect of an
   exchange is exact and cheap to tell. A window is a set of groups that is one thread's work; each round cuts the
   groups into other windows. */
typedef struct haste__exchange {
    const haste__clustering *clustering;
    uint64_t *list;           /* [groups] group numbers: a window is a run of them */
    int64_t   groups;
    float    *sum;            /* [threads][WINDOW][E] sum of each group's rows */
    float    *gain;           /* [threads][WINDOW][S][WINDOW] what moving a label to another group would earn, to first
                                 order */
    uint8_t  *moved;          /* [threads][WINDOW][S] */
    int64_t  *count;          /* [windows] exchanges made */
} haste__exchange;

/* One window. */
typedef struct haste__window {
    const haste__clustering *clustering;
    int      groups;                            /* at most WINDOW */
    int64_t  begin[HASTE__CLUSTER_WINDOW];      /* of each: where its labels begin, */
    int32_t  size[HASTE__CLUSTER_WINDOW];       /* how many there are, */
    double   square[HASTE__CLUSTER_WINDOW];     /* |sum|^2 */
    float   *sum, *gain;                        /* as above, this thread's */
    uint8_t *moved;
} haste__window;

/* |sum + x| is about |sum| + (x . sum + 1/2) / |sum|, and |sum - x| about |sum| - (x . sum - 1/2) / |sum|. */
static void haste__window_gains(const haste__window *window)
{
    const haste__clustering *clustering = window->clustering;
    const int32_t E = clustering->E, S = clustering->S;
    float inverse[HASTE__CLUSTER_WINDOW];   /* 1 / |sum| */
    int32_t g, h, i;
    for (g = 0; g < window->groups; g++)
        inverse[g] = window->square[g] > 0 ? (float)(1 / sqrt(window->square[g])) : 0;
    for (g = 0; g < window->groups; g++)
        for (i = 0; i < window->size[g]; i++) {
            const float *x = haste__embedding_row(clustering, window->begin[g] + i);
            float *p = window->gain + ((int64_t)g * S + i) * HASTE__CLUSTER_WINDOW, own;
            for (h = 0; h < window->groups; h += 4) clustering->kernel->dot4(x, window->sum + (int64_t)h * E, E, p + h);
            own = (p[g] - 0.5f) * inverse[g];
            for (h = 0; h < window->groups; h++) p[h] = (p[h] + 0.5f) * inverse[h] - own;
        }
}

/* The label of group `from` that is the best to move to group `to`, and what that earns; -1: all have been moved. */
static int32_t haste__window_best(const haste__window *window, int32_t from, int32_t to, double *earned)
{
    const int64_t first = (int64_t)from * window->clustering->S;
    const float *gain = window->gain + first * HASTE__CLUSTER_WINDOW + to;
    int32_t i, best = -1;
    for (i = 0; i < window->size[from]; i++)
        if (!window->moved[first + i] &&
            (best < 0 || gain[(int64_t)i * HASTE__CLUSTER_WINDOW] > gain[(int64_t)best * HASTE__CLUSTER_WINDOW]))
            best = i;
    if (best >= 0) *earned = (double)gain[(int64_t)best * HASTE__CLUSTER_WINDOW];
    return best;
}

/* Exchanges labels of groups g and h while that is worth it. Returns how many times it did. */
static int64_t haste__window_exchange(haste__window *window, int32_t g, int32_t h)
{
    const double least = 1e-4;   /* a smaller gain is not worth an exchange */
    const haste__clustering *clustering = window->clustering;
    const haste__kernels *kernel = clustering->kernel;
    const int32_t E = clustering->E, S = clustering->S;
    float *sum_g = window->sum + (int64_t)g * E, *sum_h = window->sum + (int64_t)h * E;
    int64_t count = 0;
    for (;; count++) {
        double earned_g = 0, earned_h = 0, xy, new_g, new_h;
        const int32_t i = haste__window_best(window, g, h, &earned_g), j = haste__window_best(window, h, g, &earned_h);
        const float *x, *y;
        if (i < 0 || j < 0 || earned_g + earned_h <= least) return count;
        x = haste__embedding_row(clustering, window->begin[g] + i);
        y = haste__embedding_row(clustering, window->begin[h] + j);
        xy = (double)kernel->dot(x, y, E);
        new_g = window->square[g] + 2 * (1 - xy + (double)kernel->dot(sum_g, y, E) - (double)kernel->dot(sum_g, x, E));
        new_h = window->square[h] + 2 * (1 - xy + (double)kernel->dot(sum_h, x, E) - (double)kernel->dot(sum_h, y, E));
        if (new_g < 0) new_g = 0;
        if (new_h < 0) new_h = 0;
        if (sqrt(new_g) + sqrt(new_h) <= sqrt(window->square[g]) + sqrt(window->square[h]) + least) return count;
        kernel->axpy(sum_g, 1, y, E);
        kernel->axpy(sum_g, -1, x, E);
        kernel->axpy(sum_h, 1, x, E);
        kernel->axpy(sum_h, -1, y, E);
        window->square[g] = new_g;
        window->square[h] = new_h;
        haste__key_swap(clustering->key, window->begin[g] + i, window->begin[h] + j);
        window->moved[(int64_t)g * S + i] = window->moved[(int64_t)h * S + j] = 1;   /* their gains are unknown now */
    }
}

static void haste__window_open(haste__window *window, const haste__exchange *exchange, int64_t number, int thread)
{
    const haste__clustering *clustering = exchange->clustering;
    const int64_t first = number * HASTE__CLUSTER_WINDOW, left = exchange->groups - first;
    const int64_t E = clustering->E, S = clustering->S;
    int32_t g;
    window->clustering = clustering;
    window->groups = left < HASTE__CLUSTER_WINDOW ? (int)left : HASTE__CLUSTER_WINDOW;
    window->sum = exchange->sum + thread * HASTE__CLUSTER_WINDOW * E;
    window->gain = exchange->gain + thread * HASTE__CLUSTER_WINDOW * S * HASTE__CLUSTER_WINDOW;
    window->moved = exchange->moved + thread * HASTE__CLUSTER_WINDOW * S;
    memset(window->sum, 0, (size_t)(HASTE__CLUSTER_WINDOW * E) * sizeof *window->sum);   /* four are read at a time */
    memset(window->moved, 0, (size_t)(window->groups * S));
    for (g = 0; g < window->groups; g++) {
        const int64_t group = haste__key_id(exchange->list[first + g]), begin = group * S;
        window->begin[g] = begin;
        window->size[g] = (int32_t)(clustering->n - begin < S ? clustering->n - begin : S);
        window->square[g] = (double)haste__group_sum(clustering, group, window->sum + g * E);
    }
    haste__window_gains(window);
}

static void haste__exchange_window(void *context, int64_t number, int thread)
{
    const haste__exchange *exchange = (const haste__exchange *)context;
    haste__window window;
    int32_t g, h;
    haste__window_open(&window, exchange, number, thread);
    exchange->count[number] = 0;
    for (g = 0; g < window.groups; g++)
        for (h = g + 1; h < window.groups; h++) exchange->count[number] += haste__window_exchange(&window, g, h);
}

static void haste__group_centroid(void *context, int64_t group, int thread)
{
    const haste__clustering *clustering = (const haste__clustering *)context;
    float *row = clustering->centroid + group * clustering->E;
    const float square = haste__group_sum(clustering, group, row);
    int32_t e;
    (void)thread;
    if (square > 0) for (e = 0; e < clustering->E; e++) row[e] /= sqrtf(square);
}

static void haste__exchange_run(const haste__clustering *clustering, haste__exchange *exchange, int32_t rounds)
{
    haste__clustering among = *clustering;   /* the groups, by their centroids */
    int64_t full = clustering->n / clustering->S, i, windows, count;
    int32_t round;
    among.embedding = clustering->centroid;
    among.S = HASTE__CLUSTER_WINDOW;
    among.key = exchange->list;
    among.n = full;
    exchange->clustering = clustering;
    for (round = 0; round < rounds; round++) {
        /* a short group has one chance */
        exchange->groups = round == 0 ? (clustering->n + clustering->S - 1) / clustering->S : full;
        for (i = 0; i < exchange->groups; i++) exchange->list[i] = (uint64_t)i;
        if (round > 0) {
            haste__parallel(full, clustering->threads, haste__group_centroid, (void *)(uintptr_t)clustering);
            among.seed = clustering->seed + (uint64_t)round;
            haste__bisect_run(&among);
        }
        windows = (exchange->groups + HASTE__CLUSTER_WINDOW - 1) / HASTE__CLUSTER_WINDOW;
        haste__parallel(windows, clustering->threads, haste__exchange_window, exchange);
        for (count = 0, i = 0; i < windows; i++) count += exchange->count[i];
        if (count == 0) break;
    }
}

/* ---- >>cohesion and grouping --------------------------------------------------------------------------------- */

static haste_status haste__clustering_make(haste__clustering *clustering, const float *embedding, int32_t L, int32_t E,
                                           const int32_t *order, int64_t n, int32_t S, int32_t threads,
                                           haste_error *error)
{
    haste_status status = haste__embed_sizes(embedding, L, E, error);
    if (status == HASTE_OK) status = haste__threads_check(threads, error);
    if (status != HASTE_OK) return status;
    if (n < 0 || n > L)
        return haste__fail(error, HASTE_ERR_ARG, "n = %lld, expected 0 .. L = %ld", (long long)n, (long)L);
    if (!order && n > 0) return haste__fail(error, HASTE_ERR_ARG, "order is NULL");
    if (S < 8 || S > 256 || S % 8 != 0)
        return haste__fail(error, HASTE_ERR_ARG, "group size S = %ld, expected a multiple of 8 from 8 to 256", (long)S);
    memset(clustering, 0, sizeof *clustering);
    clustering->kernel = haste__best_kernels();
    clustering->embedding = embedding;
    clustering->E = E;
    clustering->S = S;
    clustering->threads = haste__threads(threads);
    clustering->n = n;
    return HASTE_OK;
}

/* Scores of rows: their squared lengths. */
static void haste__square_piece(void *context, int64_t piece, int thread)
{
    const haste__clustering *clustering = (const haste__clustering *)context;
    int64_t i = piece * HASTE__CLUSTER_PIECE, last = i + HASTE__CLUSTER_PIECE;
    (void)thread;
    for (; i < last && i < clustering->n; i++) {
        const float *row = haste__embedding_row(clustering, i);
        clustering->key[i] = haste__key(clustering->kernel->dot(row, row, clustering->E),
                                        haste__key_id(clustering->key[i]));
    }
}

/* Fills the keys from `order`, with the squared lengths of the rows as scores, and checks both. *empty (=): how many
   labels have no embedding. seen: a bit per label. */
static haste_status haste__clustering_load(haste__clustering *clustering, int32_t L, const int32_t *order,
                                           uint64_t *seen, int64_t *empty, haste_error *error)
{
    int64_t i;
    memset(seen, 0, ((size_t)L + 63) / 64 * sizeof *seen);
    for (i = 0; i < clustering->n; i++) {
        int32_t id = order[i];
        if (id < 0 || id >= L)
            return haste__fail(error, HASTE_ERR_DATA, "order[%lld] = %ld, expected 0 .. %ld", (long long)i, (long)id,
                               (long)L - 1);
        if (seen[id / 64] >> (id % 64) & 1)
            return haste__fail(error, HASTE_ERR_DATA, "order[%lld] = %ld: this label has occurred before", (long long)i,
                               (long)id);
        seen[id / 64] |= UINT64_C(1) << (id % 64);
        clustering->key[i] = (uint64_t)id;
    }
    haste__parallel(haste__pieces(clustering->n), clustering->threads, haste__square_piece, clustering);
    *empty = 0;
    for (i = 0; i < clustering->n; i++) {
        const float square = haste__key_score(clustering->key[i]);
        if (square == 0) ++*empty;
        else if (!(fabsf(square - 1) <= 0.02f))
            return haste__fail(error, HASTE_ERR_DATA,
                               "embedding row %ld has squared length %g, expected 1 or 0: call haste_embed_finish",
                               (long)order[i], (double)square);
    }
    return HASTE_OK;
}

static void haste__cohesion_group(void *context, int64_t group, int thread)
{
    const haste__clustering *clustering = (const haste__clustering *)context;
    float *sum = clustering->sums + (int64_t)thread * clustering->E;
    clustering->group[group] = sqrtf(haste__group_sum(clustering, group, sum));
}

static uint64_t *haste__cohesion_arrange(haste__clustering *c, int32_t L, haste__arena *arena)
{
    c->key = (uint64_t *)haste__take(arena, (uint64_t)c->n, sizeof *c->key);
    c->group = (float *)haste__take(arena, (uint64_t)c->n / (uint64_t)c->S + 1, sizeof *c->group);
    c->sums = (float *)haste__take(arena, (uint64_t)c->threads * (uint64_t)c->E, sizeof *c->sums);
    return (uint64_t *)haste__take(arena, ((uint64_t)L + 63) / 64, sizeof(uint64_t));
}

haste_status haste_cohesion(const float *embedding, int32_t L, int32_t E, const int32_t *order, int64_t n, int32_t S,
                            int32_t threads, double *cohesion, int64_t *empty, haste_error *error)
{
    haste__clustering clustering;
    haste__arena arena = { NULL, 0, 0 };
    uint64_t *seen;
    int64_t groups, none, g;
    double sum = 0;
    haste_status status = haste__clustering_make(&clustering, embedding, L, E, order, n, S, threads, error);
    if (status != HASTE_OK) return status;
    if (!cohesion) return haste__fail(error, HASTE_ERR_ARG, "cohesion is NULL");
    haste__cohesion_arrange(&clustering, L, &arena);
    if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
    seen = haste__cohesion_arrange(&clustering, L, &arena);
    status = haste__clustering_load(&clustering, L, order, seen, &none, error);
    if (status == HASTE_OK) {
        groups = (n + S - 1) / S;
        haste__parallel(groups, clustering.threads, haste__cohesion_group, &clustering);
        for (g = 0; g < groups; g++) sum += (double)clustering.group[g];
        *cohesion = none < n ? sum / (double)(n - none) : 0;
        if (empty) *empty = none;
    }
    haste__release(arena.memory);
    return status;
}

static uint64_t *haste__group_arrange(haste__clustering *c, haste__exchange *x, int32_t L, haste__arena *arena)
{
    const uint64_t n = (uint64_t)c->n, S = (uint64_t)c->S, E = (uint64_t)c->E, groups = (n + S - 1) / S;
    const uint64_t threads = (uint64_t)c->threads, W = HASTE__CLUSTER_WINDOW;
    c->key = (uint64_t *)haste__take(arena, n, sizeof *c->key);
    c->part = (int64_t *)haste__take(arena, groups * 2, sizeof *c->part);
    c->sums = (float *)haste__take(arena, threads * (1 + HASTE__CLUSTER_PIECES) * E, sizeof *c->sums);
    c->total = (double *)haste__take(arena, threads * 2 * E, sizeof *c->total);
    c->centroid = (float *)haste__take(arena, n / S * E, sizeof *c->centroid);
    x->list = (uint64_t *)haste__take(arena, groups, sizeof *x->list);
    x->sum = (float *)haste__take(arena, threads * W * E, sizeof *x->sum);
    x->gain = (float *)haste__take(arena, threads * W * S * W, sizeof *x->gain);
    x->moved = (uint8_t *)haste__take(arena, threads * W * S, sizeof *x->moved);
    x->count = (int64_t *)haste__take(arena, groups / W + 1, sizeof *x->count);
    return (uint64_t *)haste__take(arena, ((uint64_t)L + 63) / 64, sizeof(uint64_t));
}

haste_status haste_group(const float *embedding, int32_t L, int32_t E, int32_t *order, int64_t n,
                         const haste_group_options *options, haste_error *error)
{
    haste__clustering clustering;
    haste__exchange exchange;
    haste__arena arena = { NULL, 0, 0 };
    haste_group_options o;
    uint64_t *seen;
    int64_t empty, i, front, back;
    haste_status status;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    if (o.group_size == 0) o.group_size = 32;
    if (o.iterations < HASTE_NONE)
        return haste__fail(error, HASTE_ERR_ARG, "options.iterations = %ld, expected 0 (default), HASTE_NONE or more",
                           (long)o.iterations);
    if (o.iterations == 0) o.iterations = HASTE__CLUSTER_ITERATIONS;   /* with HASTE_NONE, -1, no round begins */
    status = haste__clustering_make(&clustering, embedding, L, E, order, n, o.group_size, o.threads, error);
    if (status != HASTE_OK) return status;
    clustering.seed = o.seed;
    haste__group_arrange(&clustering, &exchange, L, &arena);
    if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
    seen = haste__group_arrange(&clustering, &exchange, L, &arena);
    status = haste__clustering_load(&clustering, L, order, seen, &empty, error);
    if (status == HASTE_OK) {
        for (i = front = 0, back = n - empty; i < n; i++) {   /* the empty ones last, each kind in its order */
            if (haste__key_score(clustering.key[i]) != 0) clustering.key[front++] = clustering.key[i];
            else order[back++] = haste__key_id(clustering.key[i]);
        }
        clustering.n = front;
        haste__bisect_run(&clustering);
        haste__exchange_run(&clustering, &exchange, o.iterations);
        for (i = 0; i < front; i++) order[i] = haste__key_id(clustering.key[i]);
    }
    haste__release(arena.memory);
    return status;
}

/* ---- >>rewire ------------------------------------------------------------------------------------------------ */

/* A place is one input of one group: p = g*F + f in its block. One 32-bit number a place carries all decisions: first
   the bits of its score (floats from 0 on sort like their bits), then, where the place moves, its new input. */
#define HASTE__KEEP 0xffffffffu   /* neither the bits of a score nor an input */

typedef struct haste__rewire {
    haste__pass                 pass;
    haste_layer                *layer;                     /* that is rewired */
    const haste_rewire_options *options;
    haste_input_scores         *scores;                    /* of the groups in question; NULL: all, from a batch */
    int64_t                     range[HASTE_MAX_BLOCKS][2];   /* these groups of each block */
    uint32_t                   *place[HASTE_MAX_BLOCKS];   /* [G, F] of the blocks that can change, else NULL */
    uint64_t                   *key;                       /* [threads][width]: what is selected from and sorted */
    uint16_t                   *input;                     /* [threads][width]: inputs that are not in the group */
    size_t                      width;                     /* of the widest slice of a block that can change */
    int64_t                     limit[HASTE_MAX_BLOCKS];   /* the most places that one group moves */
    int64_t                     moves[HASTE_MAX_BLOCKS];   /* how many places the block moves, in all shards */
    int64_t                     whole[HASTE_MAX_BLOCKS];   /* the same of each block of the whole layer */
    uint32_t                    bound[HASTE_MAX_BLOCKS];   /* those with (score, p) up to (bound, last) */
    int64_t                     last[HASTE_MAX_BLOCKS];
} haste__rewire;

/* Lays out the arrays. A group that reads its whole slice has nothing to move to. */
static haste_status haste__rewire_arrange(haste__rewire *r, const haste_layer *layer, const haste_workspace *work,
                                          haste__arena *arena, haste_error *error)
{
    uint64_t threads = (uint64_t)work->threads, places;
    int i;
    r->width = 0;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        size_t width = (size_t)(block->end - block->begin);
        r->place[i] = NULL;
        if ((size_t)block->fan_in == width) continue;
        if (width > r->width) r->width = width;
        places = (uint64_t)block->groups * (uint64_t)block->fan_in;
        r->place[i] = (uint32_t *)haste__take(arena, places, sizeof(uint32_t));
    }
    r->key = (uint64_t *)haste__take(arena, threads * r->width, sizeof(uint64_t));   /* threads: at most 4,096 */
    r->input = (uint16_t *)haste__take(arena, threads * r->width, sizeof(uint16_t));
    if (arena->overflow) return haste__fail(error, HASTE_ERR_SIZE, "the size of what rewiring needs overflows size_t");
    return HASTE_OK;
}

static haste_status haste__rewire_bytes(const haste_layer *layer, const haste_workspace *work, size_t *bytes,
                                        haste_error *error)
{
    haste__rewire r;
    haste__arena arena = { NULL, 0, 0 };
    const haste_status status = haste__rewire_arrange(&r, layer, work, &arena, error);
    *bytes = arena.end;
    return status;
}

/* Mean |a|, or |a*b|, over the labels of a row; padding is 0. */
static float haste__row_mean(const haste__pass *pass, const float *a, const float *b, int S, int labels)
{
    return pass->kernel->sum_abs(a, b, S) / (float)labels;
}

/* The next group of the range. 0: there is none. */
static int haste__rewire_walk(const haste__rewire *r, haste__walk *walk, int64_t *g)
{
    while (haste__walk_group(walk, g))
        if (*g >= r->range[walk->number][0] && *g < r->range[walk->number][1]) return 1;
    return 0;
}

/* What scores are made of: the means of an input that the group has are |w * gradient|, of others |gradient|. */
enum { HASTE__OWN = 1, HASTE__OTHERS = 2 };

/* The group's logit gradients, transposed, from the batch. 0: a logit is not finite. */
static int haste__group_slopes(const haste__pass *pass, haste__group *group)
{
    double loss = 0;
    int tile;
    if (!haste__group_loss(pass, group, &loss)) return 0;
    memset(group->db, 0, (size_t)group->S * sizeof *group->db);
    for (tile = 0; tile < pass->tiles; tile++) {
        haste__group_clear(pass, group, tile);
        if (pass->negligible > 0)
            pass->kernel->drop_small(group->z + (size_t)tile * (size_t)group->S * HASTE__SAMPLES,
                                     group->S * HASTE__SAMPLES, pass->negligible);
        haste__group_transpose(pass, group, tile);
    }
    return 1;
}

/* Scores [width] of the inputs of an opened group from the batch, in the chunk's scratch; `what`: of which. NULL: a
   logit or a score is not finite. */
static const float *haste__batch_scores(const haste__pass *pass, haste__group *group, int64_t chunk, int what)
{
    const haste_block *block = group->block;
    const int F = block->fan_in, width = block->end - block->begin;
    const uint16_t *own = group->index;
    float *score = pass->scratch.grad_x + (size_t)chunk * (size_t)pass->tiles * (size_t)pass->layer->inputs *
                   HASTE__SAMPLES;
    uint16_t *input = (uint16_t *)(score + width);
    int part, n, f, c, i, count;
    if (!haste__group_slopes(pass, group)) return NULL;
    memset(score, 0, (size_t)width * sizeof *score);
    for (part = HASTE__OWN; part <= HASTE__OTHERS; part++) {
        if (!(what & part)) continue;
        for (c = f = n = 0; c < width && part == HASTE__OTHERS; c++)
            if (f < F && own[f] == c) f++;
            else if (haste__column_live(pass, block->begin + c, 0, pass->tiles)) input[n++] = (uint16_t)c;
        if (part == HASTE__OWN) n = F;
        for (c = 0; c < n; c += count) {   /* as many at once as the scratch for the group's own gradient holds */
            group->F = count = n - c < F ? n - c : F;
            group->index = part == HASTE__OWN ? own : input + c;
            haste__group_grad_weight(pass, group, 0, pass->tiles, HASTE__SET);
            for (i = 0; i < count; i++) {
                const size_t row = (size_t)i * (size_t)group->S;
                const float mean = haste__row_mean(pass, group->dw + row, part == HASTE__OWN ? group->w + row : NULL,
                                                   group->S, group->labels);
                if (!(mean <= FLT_MAX)) return NULL;
                score[group->index[i]] = mean;
            }
        }
    }
    return score;
}

/* What accumulated scores say of a group, or NULL: there are none. */
static float *haste__scores_of(const haste__rewire *r, int number, int64_t g)
{
    const haste_block *block = &r->pass.layer->block[number];
    return r->scores ? r->scores->score[number] + (g - r->range[number][0]) * (block->end - block->begin) : NULL;
}

/* Adds a batch's scores of the range, of which the chunks are shares. */
static void haste__input_scores_chunk(void *context, int64_t chunk, int thread)
{
    const haste__rewire *r = (const haste__rewire *)context;
    const haste__pass *pass = &r->pass;
    const int64_t chunks = pass->work->chunks;
    int64_t all = 0, before = 0, n;
    int i, bad = 0;
    for (i = 0; i < pass->layer->block_count; i++) all += r->range[i][1] - r->range[i][0];
    for (i = 0; i < pass->layer->block_count; before += r->range[i][1] - r->range[i][0], i++) {
        if (!r->scores->score[i]) continue;
        for (n = r->range[i][0]; n < r->range[i][1]; n++) {
            const int64_t at = before + n - r->range[i][0];
            haste__group group;
            const float *score;
            if (at < all * chunk / chunks || at >= all * (chunk + 1) / chunks) continue;
            haste__group_open(&group, pass, i, n, thread);
            score = haste__batch_scores(pass, &group, chunk, HASTE__OWN | HASTE__OTHERS);
            if (!score) { bad++; continue; }
            pass->kernel->axpy(haste__scores_of(r, i, n), 1, score, haste__block_width(group.block));
        }
    }
    pass->scratch.flag[chunk] = bad;
}

/* First: scores of the `limit` lowest places of each group. Its others stay, whatever happens elsewhere. */
static void haste__rewire_score_chunk(void *context, int64_t chunk, int thread)
{
    const haste__rewire *r = (const haste__rewire *)context;
    const haste__pass *pass = &r->pass;
    uint64_t *key = r->key + (size_t)thread * r->width;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    int saliency = r->options->prune == HASTE_PRUNE_SALIENCY, F, f, bad = 0;
    int64_t g, i;
    while (haste__rewire_walk(r, &walk, &g)) {
        const int number = walk.number;
        haste__group group;
        const float *score = NULL;
        const uint16_t *index;
        uint32_t *place;
        if (r->moves[number] == 0) continue;
        haste__group_open(&group, pass, number, g, thread);
        index = group.index;
        F = group.F;
        if (saliency) {
            score = haste__scores_of(r, number, g);
            if (!score) score = haste__batch_scores(pass, &group, chunk, HASTE__OWN);
            if (!score) { bad = 1; continue; }
        }
        place = r->place[number] + g * F;
        for (f = 0; f < F; f++) {
            uint32_t bits = haste__bits(saliency ? score[index[f]] :
                                        haste__row_mean(pass, group.w + (size_t)f * (size_t)group.S, NULL, group.S,
                                                        group.labels));
            if (bits >= 0x7f800000u) bad = 1;
            key[f] = (uint64_t)bits << 32 | (uint64_t)f;
            place[f] = HASTE__KEEP;
        }
        haste__select(key, F, r->limit[number]);
        for (i = 0; i < r->limit[number]; i++) place[key[i] & 0xffffffffu] = (uint32_t)(key[i] >> 32);
    }
    pass->scratch.flag[chunk] = bad;
}

/* The *left-th lowest key (in) of a block's places, in all shards: histograms, each over the bits after those already
   found. Keys are scores; or, of the places with score *score, where that is not NULL, positions in the whole. *left
   (out): how many of the keys that are equal to it come up to it, of *equal. `number` may be a block of other shards
   alone. */
static uint64_t haste__rewire_rank(const haste__rewire *r, int number, const uint32_t *score, int64_t *left,
                                   int64_t *equal)
{
    const haste_layer *layer = r->layer;
    const haste_block *block = number >= 0 && number < layer->block_count ? &layer->block[number] : NULL;
    const int64_t F = block ? block->fan_in : 0, first = block ? r->range[number][0] * F : 0,
                  last = block ? r->range[number][1] * F : 0;
    const uint32_t *place = block ? r->place[number] : NULL;
    int64_t count[2048], p;
    uint64_t found = 0, bin;
    int high, low;
    for (high = score ? 48 : 32; high > 0; high = low) {
        low = high > 11 ? high - 11 : 0;
        memset(count, 0, sizeof count);
        for (p = first; p < last; p++) {
            uint64_t key = place[p];
            if (score && place[p] != *score) continue;
            if (score)
                key = (uint64_t)(layer->first_slot + block->first_slot + p / F * block->group_size) << 16 |
                      (uint64_t)(p % F);
            if (key >> high == found >> high) count[key >> low & ((1u << (high - low)) - 1)]++;
        }
        if (r->options->sum) r->options->sum(r->options->context, count, 2048);
        for (bin = 0; *left > count[bin] && bin < 2047; bin++) *left -= count[bin];
        found |= bin << low;
        *equal = count[bin];
    }
    return found;
}

/* Second: the score of the last place that moves; of those with that score the first ones move. */
static void haste__rewire_bound(haste__rewire *r, int number, int64_t moves)
{
    const haste_layer *layer = r->layer;
    int64_t left = moves, equal, slot, last = INT64_MAX;
    const uint32_t bound = (uint32_t)haste__rewire_rank(r, number, NULL, &left, &equal);
    const int some = left < equal;
    const uint64_t key = some ? haste__rewire_rank(r, number, &bound, &left, &equal) : 0;
    if (number < 0 || number >= layer->block_count) return;
    if (some) {
        slot = (int64_t)(key >> 16) - layer->first_slot - layer->block[number].first_slot;
        last = slot / layer->block[number].group_size * layer->block[number].fan_in + (int64_t)(key & 65535);
        if (slot < 0) last = -1;
    }
    r->bound[number] = bound;
    r->last[number] = last;
}

/* input [n] (in, out): those drawn come first, the beginning of a shuffle. */
static void haste__grow_random(const haste__rewire *r, int number, int64_t g, uint16_t *input, int n, int wanted)
{
    const haste_layer *layer = r->layer;
    const uint64_t stream = HASTE__STREAM_GROW | (uint64_t)layer->rewires << 8;
    uint64_t group = (uint64_t)(layer->first_group + g);   /* counted through all blocks */
    int i;
    for (i = 0; i < number; i++) group += (uint64_t)layer->block[i].groups;
    for (i = 0; i < wanted; i++) {
        const uint64_t random = haste__random(layer->seed, stream, group << 16 | (uint64_t)i);
        const int other = i + (int)haste__below(random, (uint32_t)(n - i));
        const uint16_t t = input[i];
        input[i] = input[other];
        input[other] = t;
    }
}

/* input [n] (in, out): those with the highest scores come first; where too few are above 0, others that are drawn
   follow. 0: a logit or a score is not finite. */
static int haste__grow_gradient(const haste__rewire *r, int number, int64_t g, uint16_t *input, int n, int wanted,
                                int64_t chunk, int thread)
{
    uint64_t *key = r->key + (size_t)thread * r->width;
    const float *score = haste__scores_of(r, number, g);
    int i, found = 0, zeros = 0;
    if (!score) {
        haste__group group;
        haste__group_open(&group, &r->pass, number, g, thread);
        score = haste__batch_scores(&r->pass, &group, chunk, HASTE__OTHERS);
    }
    if (!score) return 0;
    for (i = 0; i < n; i++) {
        const float value = score[input[i]];
        if (!(value >= 0 && value <= FLT_MAX)) return 0;
        if (value > 0) key[found++] = haste__key(value, input[i]);   /* ties to the smaller input */
        else input[zeros++] = input[i];
    }
    if (found < wanted) {
        haste__grow_random(r, number, g, input, zeros, wanted - found);
        memmove(input + found, input, (size_t)(wanted - found) * sizeof *input);
    } else {
        haste__select(key, found, wanted);
        found = wanted;
    }
    for (i = 0; i < found; i++) input[i] = (uint16_t)haste__key_id(key[i]);
    return 1;
}

/* Third: the new inputs of the places that move. Nothing is written to the layer yet: a later group may still fail. */
static void haste__rewire_grow_chunk(void *context, int64_t chunk, int thread)
{
    const haste__rewire *r = (const haste__rewire *)context;
    const haste__pass *pass = &r->pass;
    uint16_t *input = r->input + (size_t)thread * r->width;
    haste__walk walk = haste__walk_chunk(pass, chunk);
    int i, f, bad = 0;
    int64_t g;
    while (haste__rewire_walk(r, &walk, &g)) {
        const int number = walk.number;
        const haste_block *block = &r->layer->block[number];
        int F = block->fan_in, width = block->end - block->begin, wanted = 0, n = 0, c;
        const uint16_t *index;
        uint32_t *place;
        if (r->moves[number] == 0) continue;
        index = block->index + g * F;
        place = r->place[number] + g * F;
        for (f = 0; f < F; f++) {
            int moves = place[f] < r->bound[number] || (place[f] == r->bound[number] && g * F + f <= r->last[number]);
            place[f] = moves ? 0 : HASTE__KEEP;
            wanted += moves;
        }
        if (wanted == 0) continue;
        for (c = f = 0; c < width; c++)   /* the group as it was: what is pruned now cannot come back at once */
            if (f < F && index[f] == c) f++;
            else input[n++] = (uint16_t)c;
        if (r->options->growth == HASTE_GROW_RANDOM) haste__grow_random(r, number, g, input, n, wanted);
        else if (!haste__grow_gradient(r, number, g, input, n, wanted, chunk, thread)) { bad = 1; continue; }
        for (f = i = 0; f < F; f++)
            if (place[f] != HASTE__KEEP) place[f] = input[i++];
    }
    pass->scratch.flag[chunk] = bad;
}

/* Puts the rows of one group's array into their new order; rows that moved become 0: all bits 0, in both types. */
static void haste__rewire_rows(void *array, size_t first, size_t row, int F, const uint64_t *key, const uint32_t *place,
                               void *scratch)
{
    char *to = (char *)array + first * row;
    int f;
    memcpy(scratch, to, (size_t)F * row);
    for (f = 0; f < F; f++, to += row) {
        size_t from = (size_t)(key[f] & 0xffffffffu);
        if (place[from] == HASTE__KEEP) memcpy(to, (char *)scratch + from * row, row);
        else memset(to, 0, row);
    }
}

/* Last: the layer changes. */
static void haste__rewire_apply_chunk(void *context, int64_t chunk, int thread)
{
    const haste__rewire *r = (const haste__rewire *)context;
    const haste__pass *pass = &r->pass;
    haste_layer *layer = r->layer;
    uint64_t *key = r->key + (size_t)thread * r->width;
    uint64_t stream = HASTE__STREAM_GROW_WEIGHT | (uint64_t)layer->rewires << 8;
    float *scratch = pass->scratch.tile + pass->scratch.tile_count * (size_t)thread;   /* a group's weights fit */
    haste__walk walk = haste__walk_chunk(pass, chunk);
    int f, s, k;
    int64_t g;
    while (haste__rewire_walk(r, &walk, &g)) {
        const int number = walk.number;
        haste_block *block = &layer->block[number];
        int F = block->fan_in, S = block->group_size, labels = haste__group_labels(block, g), moves = 0;
        size_t first = (size_t)g * (size_t)F, row;
        const uint32_t *place;
        uint16_t *index;
        if (r->moves[number] == 0) continue;
        index = block->index + first;
        place = r->place[number] + first;
        for (f = 0; f < F; f++) {
            moves += place[f] != HASTE__KEEP;
            key[f] = (uint64_t)(place[f] == HASTE__KEEP ? index[f] : place[f]) << 32 | (uint64_t)f;
        }
        if (moves == 0) continue;
        haste__sort(key, F);
        row = (size_t)S * haste__sizeof(layer->dtype);
        haste__rewire_rows(block->weight, first, row, F, key, place, scratch);
        row = (size_t)S * haste__sizeof(layer->state_dtype);
        for (k = 0; k < haste__states(layer->optimizer); k++)
            haste__rewire_rows(block->weight_state[k], first, row, F, key, place, scratch);
        for (f = 0; f < F; f++) {
            const uint32_t from = (uint32_t)key[f];
            index[f] = (uint16_t)(key[f] >> 32);
            if (r->options->origin[number])
                r->options->origin[number][first + (size_t)f] = place[from] == HASTE__KEEP ? (int32_t)from : -1;
            if (!r->options->uniform || place[from] == HASTE__KEEP) continue;
            for (s = 0; s < labels; s++)
                haste__set_number(block->weight, layer->dtype, (first + (size_t)f) * (size_t)S + (size_t)s,
                                  haste__draw_weight(layer->seed, stream,
                                                     layer->first_slot + block->first_slot + g * S + s, f, F));
        }
    }
}

/* share * n rounded down, or up where the next whole number is as near as the rounding of a float (2^-23 of it): .7f
   lies below .7, and yet .7 of 10 is 7. */
static int64_t haste__share_of(float share, int64_t n)
{
    const double exact = (double)share * (double)n, nearest = floor(exact + 0.5);
    return (int64_t)(nearest - exact <= exact / 8388608 ? nearest : floor(exact));
}

static haste_status haste__rewire_options_check(const haste_rewire_options *o, haste_error *error)
{
    if (!o) return haste__fail(error, HASTE_ERR_ARG, "options is NULL");
    if (!(o->share >= 0 && o->share <= 1))
        return haste__fail(error, HASTE_ERR_ARG, "share = %g, expected 0 to 1", (double)o->share);
    if (!((o->group_share >= 0 && o->group_share <= 1) || o->group_share == HASTE_NONE))
        return haste__fail(error, HASTE_ERR_ARG, "group_share = %g, expected 0 to 1 or HASTE_NONE",
                           (double)o->group_share);
    if ((unsigned)o->prune > HASTE_PRUNE_SALIENCY || (unsigned)o->scope > HASTE_SCOPE_GROUP ||
        (unsigned)o->growth > HASTE_GROW_GRADIENT)
        return haste__fail(error, HASTE_ERR_ARG, "prune = %d, scope = %d, growth = %d: one is unknown", (int)o->prune,
                           (int)o->scope, (int)o->growth);
    return HASTE_OK;
}

/* Did a chunk meet something that is not finite? */
static haste_status haste__rewire_flags(const haste__pass *pass, haste_error *error)
{
    if (!haste__flags(pass)) return HASTE_OK;
    return haste__fail(error, HASTE_ERR_NONFINITE,
                       "a logit or the score of an input is not finite: nothing was changed");
}

/* How many places each group may move, and each block will. Returns the sum over the blocks. */
static int64_t haste__rewire_limits(haste__rewire *r)
{
    const haste_rewire_options *o = r->options;
    const float group_share = o->group_share == 0 ? .5f : o->group_share < 0 ? 0 : o->group_share;   /* -1: none */
    int64_t total = 0, places[2 * HASTE_MAX_BLOCKS];   /* of the whole's blocks: all, and the most that may move */
    const int first = (int)r->layer->first_block;
    int i;
    memset(places, 0, sizeof places);
    for (i = 0; i < r->layer->block_count; i++) {
        const haste_block *block = &r->layer->block[i];
        const int64_t groups = r->range[i][1] - r->range[i][0];
        int64_t F = block->fan_in, spare = block->end - block->begin - F;
        int64_t limit = haste__share_of(group_share, F);
        if (limit > spare) limit = spare;
        if (o->scope == HASTE_SCOPE_GROUP && limit > haste__share_of(o->share, F)) limit = haste__share_of(o->share, F);
        r->limit[i] = limit;
        places[2 * (first + i)] = groups * F;
        places[2 * (first + i) + 1] = groups * limit;
    }
    if (o->sum) o->sum(o->context, places, 2 * HASTE_MAX_BLOCKS);
    for (i = 0; i < HASTE_MAX_BLOCKS; i++) {
        const int64_t all = places[2 * i], most = places[2 * i + 1];
        const int64_t wanted = o->scope == HASTE_SCOPE_BLOCK ? haste__share_of(o->share, all) : all;
        r->whole[i] = wanted < most ? wanted : most;
        if (i >= first && i - first < r->layer->block_count) r->moves[i - first] = r->whole[i];
        total += r->whole[i];
    }
    return total;
}

/* Makes ready for scores of a batch. */
static void haste__rewire_load(haste__rewire *r, const haste_lists *positives, const haste_loss_options *o)
{
    haste__pass_load_live(&r->pass);
    haste__targets(&r->pass, positives, o);
    if (r->pass.layer->loss == HASTE_SOFTMAX && !o->function) haste__softmax_sums(&r->pass);
}

/* Where rows were, while none has moved. */
static void haste__rewire_stays(const haste__rewire *r)
{
    int64_t p;
    int i;
    for (i = 0; i < r->layer->block_count; i++) {
        const haste_block *block = &r->layer->block[i];
        int32_t *origin = r->options->origin[i];
        for (p = 0; origin && p < block->groups * block->fan_in; p++) origin[p] = (int32_t)(p % block->fan_in);
    }
}

/* The three passes. The layer changes in the last one, which cannot fail. */
static haste_status haste__rewire_run(haste__rewire *r, haste_error *error)
{
    const haste_workspace *work = r->pass.work;
    haste_status status;
    int i;
    haste__parallel(work->chunks, work->threads, haste__rewire_score_chunk, r);
    if ((status = haste__rewire_flags(&r->pass, error)) != HASTE_OK) return status;
    for (i = 0; i < HASTE_MAX_BLOCKS; i++)
        if (r->whole[i] > 0) haste__rewire_bound(r, i - (int)r->layer->first_block, r->whole[i]);
    haste__parallel(work->chunks, work->threads, haste__rewire_grow_chunk, r);
    if ((status = haste__rewire_flags(&r->pass, error)) != HASTE_OK) return status;
    haste__rewire_stays(r);
    haste__parallel(work->chunks, work->threads, haste__rewire_apply_chunk, r);
    return HASTE_OK;
}

haste_status haste_input_scores_create(haste_input_scores *scores, const haste_layer *layer, int64_t first_slot,
                                       int64_t end_slot, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_input_scores result;
    haste_status status;
    if (!scores) return haste__fail(error, HASTE_ERR_ARG, "scores is NULL");
    status = haste__layer_quick_check(layer, error);
    if (status != HASTE_OK) return status;
    memset(&result, 0, sizeof result);
    result.first_slot = first_slot;
    result.end_slot = first_slot == 0 && end_slot == 0 ? layer->slots : end_slot;
    result.layer = haste__layer_identity(layer);
    status = haste__scores_arrange(&result, layer, &arena, error);
    if (status != HASTE_OK) return status;
    result.bytes = arena.end;
    if ((status = haste__reserve(&arena, "scores", error)) != HASTE_OK) return status;
    result.memory = arena.memory;
    memset(result.memory, 0, result.bytes);
    haste__scores_arrange(&result, layer, &arena, NULL);
    *scores = result;
    return HASTE_OK;
}

void haste_input_scores_free(haste_input_scores *scores)
{
    if (!scores) return;
    haste__release(scores->memory);
    memset(scores, 0, sizeof *scores);
}

/* Makes the scores, if any, those that the rewiring is about. `used`: they must hold a batch. */
static haste_status haste__scores_begin(haste__rewire *r, const haste_layer *layer, haste_input_scores *scores,
                                        int used, haste_error *error)
{
    haste_status status;
    int i;
    r->scores = scores;
    for (i = 0; i < layer->block_count; i++) {
        r->range[i][0] = 0;
        r->range[i][1] = layer->block[i].groups;
    }
    if (!scores) return HASTE_OK;
    if (scores->layer != haste__layer_identity(layer))
        return haste__fail(error, HASTE_ERR_STATE,
                           "the scores were made for a layer of other blocks, another seed or order of labels");
    status = haste__slot_range(layer, scores->first_slot, scores->end_slot, r->range, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++)
        if (!scores->score[i] && r->range[i][0] < r->range[i][1] &&
            layer->block[i].fan_in < haste__block_width(&layer->block[i]))
            return haste__fail(error, HASTE_ERR_ARG, "scores->score[%d] is NULL", i);
    if (used && scores->batches < 1)
        return haste__fail(error, HASTE_ERR_STATE, "scores->batches = %lld, expected at least 1: haste_score_inputs "
                           "adds one", (long long)scores->batches);
    if (scores->batches != 0 && scores->rewires != layer->rewires)
        return haste__fail(error, HASTE_ERR_STATE, "the scores hold %lld batches from before a haste_rewire or "
                           "haste_choose_inputs: haste_input_scores_zero begins anew", (long long)scores->batches);
    return HASTE_OK;
}

/* The scores' arrays, and that no batch is in them. */
static void haste__scores_clear(haste_input_scores *scores, const haste_layer *layer, int64_t range[][2])
{
    int i;
    for (i = 0; i < layer->block_count; i++)
        if (scores->score[i])
            memset(scores->score[i], 0, (size_t)(range[i][1] - range[i][0]) *
                   (size_t)haste__block_width(&layer->block[i]) * sizeof(float));
    scores->batches = 0;
}

haste_status haste_input_scores_zero(haste_input_scores *scores, const haste_layer *layer, haste_error *error)
{
    haste__rewire r;
    haste_status status = haste__layer_quick_check(layer, error);
    if (status == HASTE_OK && !scores) status = haste__fail(error, HASTE_ERR_ARG, "scores is NULL");
    if (status != HASTE_OK) return status;
    scores->batches = 0;
    status = haste__scores_begin(&r, layer, scores, 0, error);
    if (status == HASTE_OK) haste__scores_clear(scores, layer, r.range);
    return status;
}

haste_status haste_score_inputs(const haste_layer *layer, haste_workspace *work, const float *x, int32_t B,
                                const haste_lists *positives, const haste_loss_options *options,
                                haste_input_scores *scores, haste_error *error)
{
    haste__rewire r;
    haste_loss_options plain;
    haste_status status;
    memset(&plain, 0, sizeof plain);
    memset(&r, 0, sizeof r);
    if (!options) options = &plain;
    status = haste__train_begin(&r.pass, layer, work, x, B, positives, options, error);
    if (status == HASTE_OK && !scores) status = haste__fail(error, HASTE_ERR_ARG, "scores is NULL");
    if (status == HASTE_OK && options->share != 0 && options->share != 1)
        status = haste__fail(error, HASTE_ERR_ARG, "options->share = %g, expected 0 or 1: all groups are scored",
                             (double)options->share);
    if (status == HASTE_OK) status = haste__scores_begin(&r, layer, scores, 0, error);
    if (status != HASTE_OK || B == 0) return status;
    haste__rewire_load(&r, positives, options);
    haste__parallel(work->chunks, work->threads, haste__input_scores_chunk, &r);
    scores->rewires = layer->rewires;
    scores->batches++;
    return haste__bad_groups(&r.pass, error);
}

haste_status haste_rewire(haste_layer *layer, haste_workspace *work, const haste_rewire_options *options,
                          const float *x, int32_t B, const haste_lists *positives, int64_t *moved, haste_error *error)
{
    haste__rewire r;
    haste__arena arena = { NULL, 0, 0 };
    haste_loss_options plain;
    int64_t total;
    int batch;
    haste_status status = haste__work_check(layer, work, HASTE_TRAINING, error);
    if (status == HASTE_OK) status = haste__rewire_options_check(options, error);
    if (status != HASTE_OK) return status;
    memset(&r, 0, sizeof r);
    memset(&plain, 0, sizeof plain);
    r.layer = layer;
    r.options = options;
    plain.softmax = options->softmax;
    status = haste__scores_begin(&r, layer, options->scores, 1, error);
    if (status != HASTE_OK) return status;
    batch = !options->scores && (options->prune == HASTE_PRUNE_SALIENCY || options->growth == HASTE_GROW_GRADIENT);
    if (batch && B == 0) {   /* nothing to judge by: nothing is done */
        haste__rewire_stays(&r);
        if (moved) *moved = 0;
        return HASTE_OK;
    }
    if (!batch) haste__pass_make(&r.pass, layer, work);
    else {
        status = haste__pass_begin(&r.pass, layer, work, HASTE_TRAINING, x, B, error);
        if (status == HASTE_OK)
            status = haste__lists_check(layer->labels, B, positives, 1, work->ids, "positives", error);
        if (status == HASTE_OK) status = haste__loss_check(layer, work, B, positives, &plain, error);
        if (status != HASTE_OK) return status;
    }
    status = haste__rewire_arrange(&r, layer, work, &arena, error);
    if (status != HASTE_OK) return status;
    total = haste__rewire_limits(&r);
    if (total == 0) haste__rewire_stays(&r);
    else {
        if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
        haste__rewire_arrange(&r, layer, work, &arena, error);
        if (batch) haste__rewire_load(&r, positives, &plain);
        status = haste__rewire_run(&r, error);
        haste__release(arena.memory);
        if (status != HASTE_OK) return status;
    }
    if (r.scores) haste__scores_clear(r.scores, layer, r.range);
    layer->rewires++;
    if (moved) *moved = total;
    return HASTE_OK;
}

/* 1 at part 0, 0 at part 1. */
static double haste__half_cosine(double part) { return 0.5 + 0.5 * cos(3.14159265358979323846 * part); }

double haste_schedule(int64_t step, int64_t warmup, int64_t total, double floor)
{
    if (step < 0) step = 0;
    if (step >= total) return floor;
    if (step < warmup) return (double)step / (double)warmup;
    return floor + (1 - floor) * haste__half_cosine((double)(step - warmup) / (double)(total - warmup));
}

double haste_rewire_share(int64_t step, int64_t end, double share)
{
    if (step < 0) step = 0;
    return step >= end ? 0 : share * haste__half_cosine((double)step / (double)end);
}

/* ---- >>metrics ----------------------------------------------------------------------------------------------- */

haste_status haste_inverse_propensity(const int64_t *frequency, int32_t L, int64_t N, double a, double b, double *out,
                                      haste_error *error)
{
    double c;
    int32_t l;
    if (!frequency || !out) return haste__fail(error, HASTE_ERR_ARG, "%s is NULL", frequency ? "out" : "frequency");
    if (L < 1) return haste__fail(error, HASTE_ERR_ARG, "L = %ld, expected at least 1", (long)L);
    if (N < 1) return haste__fail(error, HASTE_ERR_ARG, "N = %lld, expected at least one sample", (long long)N);
    if (a == 0 && b == 0) { a = 0.55; b = 1.5; }
    if (!(a >= 0 && a <= 100)) return haste__fail(error, HASTE_ERR_ARG, "a = %g, expected 0 .. 100", a);
    if (!(b > 0 && b <= 1e9))   /* at b = 0 a label without positives would divide by 0 */
        return haste__fail(error, HASTE_ERR_ARG, "b = %g, expected above 0 and at most 1e9", b);
    for (l = 0; l < L; l++)
        if (frequency[l] < 0 || frequency[l] > N)
            return haste__fail(error, HASTE_ERR_DATA, "frequency[%ld] = %lld, expected 0 .. N = %lld", (long)l,
                               (long long)frequency[l], (long long)N);
    c = log((double)N) - 1;
    if (c < 0) c = 0;   /* N = 1 or 2: a "probability" above 1; then every label counts 1 */
    /* (b+1)^a (n+b)^-a as one power: neither factor can overflow by itself. */
    for (l = 0; l < L; l++) out[l] = 1 + c * pow((b + 1) / ((double)frequency[l] + b), a);
    return HASTE_OK;
}

haste_status haste_metrics_init(haste_metrics *metrics, int32_t k, haste_error *error)
{
    if (!metrics) return haste__fail(error, HASTE_ERR_ARG, "metrics is NULL");
    if (k < 1 || k > HASTE_MAX_K)
        return haste__fail(error, HASTE_ERR_ARG, "k = %ld, expected 1 .. %d", (long)k, HASTE_MAX_K);
    memset(metrics, 0, sizeof *metrics);
    metrics->k = k;
    return HASTE_OK;
}

/* One sample: id [metrics->k] are its predictions, y [y_count] and removed [removed_count] its truth and filter,
   ascending and distinct. y is changed. */
static void haste__metrics_sample(haste_metrics *metrics, const int32_t *id, uint64_t *y, int64_t y_count,
                                  const uint64_t *removed, int64_t removed_count, const double *inverse_propensity,
                                  const double *gain)
{
    double best[HASTE_MAX_K];   /* the largest inverse propensities of y, descending */
    double dcg = 0, dcg_norm = 0, ps = 0, ps_best = 0, ps_dcg = 0, ps_dcg_best = 0;
    int32_t ranked[HASTE_MAX_K];
    int32_t k = metrics->k, ranks = 0, best_count = 0, hits = 0, i, j;
    int64_t count = 0, n;

    metrics->samples++;
    for (n = 0; n < y_count; n++)
        if (!haste__among(removed, removed + removed_count, y[n])) y[count++] = y[n];
    if (count == 0) return;   /* every measure is 0 then, the best attainable too */

    for (n = 0; n < count; n++) {   /* insertion into at most k places: linear in the length of the list */
        double value = inverse_propensity ? inverse_propensity[y[n]] : 1;
        if (best_count == k && value <= best[k - 1]) continue;
        for (j = best_count < k ? best_count++ : k - 1; j > 0 && best[j - 1] < value; j--) best[j] = best[j - 1];
        best[j] = value;
    }

    /* What the filter removes gives its rank to the next; no prediction (-1) and a repeated one keep theirs and are
       wrong. */
    for (i = 0; i < k; i++) {
        if (id[i] >= 0 && haste__among(removed, removed + removed_count, (uint64_t)id[i])) continue;
        ranked[ranks] = id[i];
        for (j = 0; j < ranks; j++) if (ranked[j] == id[i]) { ranked[ranks] = -1; break; }
        ranks++;
    }

    for (i = 0; i < k; i++) {
        if (i < ranks && ranked[i] >= 0 && haste__among(y, y + count, (uint64_t)ranked[i])) {
            double value = inverse_propensity ? inverse_propensity[ranked[i]] : 1;
            hits++;
            metrics->hits[i] += 1;
            dcg += gain[i];
            ps += value;
            ps_dcg += value * gain[i];
        }
        if (i < best_count) {
            dcg_norm += gain[i];
            ps_best += best[i];
            ps_dcg_best += best[i] * gain[i];
        }
        metrics->ndcg[i] += dcg / dcg_norm;
        metrics->recall[i] += (double)hits / (double)count;
        metrics->psp[i] += ps;             /* without 1/k, which both sums share */
        metrics->psp_best[i] += ps_best;
        metrics->psndcg[i] += ps_dcg / dcg_norm;
        metrics->psndcg_best[i] += ps_dcg_best / dcg_norm;
    }
}

/* Two lists of ids. */
static void haste__metrics_arrange(uint64_t **y, uint64_t **removed, int64_t longest, haste__arena *arena)
{
    *y = (uint64_t *)haste__take(arena, (uint64_t)longest, sizeof **y);
    *removed = (uint64_t *)haste__take(arena, (uint64_t)longest, sizeof **removed);
}

static haste_status haste__metrics_check(const haste_metrics *metrics, const int32_t *id, int32_t B, int32_t k,
                                         int32_t L, const haste_lists *truth, const double *inverse_propensity,
                                         const haste_lists *filter, haste_error *error)
{
    int64_t b, j;
    int32_t i;
    haste_status status;
    if (!metrics) return haste__fail(error, HASTE_ERR_ARG, "metrics is NULL");
    if (metrics->k < 1 || metrics->k > HASTE_MAX_K)
        return haste__fail(error, HASTE_ERR_ARG, "metrics->k = %ld, expected 1 .. %d: call haste_metrics_init first",
                           (long)metrics->k, HASTE_MAX_K);
    if (B < 0) return haste__fail(error, HASTE_ERR_ARG, "B = %ld, expected 0 or more", (long)B);
    if (k < metrics->k)
        return haste__fail(error, HASTE_ERR_ARG, "k = %ld predictions a sample, expected at least metrics->k = %ld",
                           (long)k, (long)metrics->k);
    if (L < 1) return haste__fail(error, HASTE_ERR_ARG, "L = %ld, expected at least 1", (long)L);
    if (B == 0) return HASTE_OK;
    if (!id) return haste__fail(error, HASTE_ERR_ARG, "id is NULL");
    for (b = 0; b < B; b++)
        for (i = 0; i < metrics->k; i++)
            if (id[b * k + i] < -1 || id[b * k + i] >= L)
                return haste__fail(error, HASTE_ERR_DATA, "id[%lld, %ld] = %ld, expected -1 .. L - 1 = %ld",
                                   (long long)b, (long)i, (long)id[b * k + i], (long)L - 1);
    status = haste__lists_check(L, B, truth, 0, INT64_MAX, "truth", error);
    if (status == HASTE_OK && filter) status = haste__lists_check(L, B, filter, 0, INT64_MAX, "filter", error);
    if (status != HASTE_OK) return status;
    for (j = truth->offset[0]; inverse_propensity && j < truth->offset[B]; j++) {
        const double value = inverse_propensity[truth->id[j]];
        if (!(value > 0 && value <= DBL_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "inverse_propensity[%ld] = %g, expected above 0 and finite",
                               (long)truth->id[j], value);
    }
    return HASTE_OK;
}

haste_status haste_metrics_add(haste_metrics *metrics, const int32_t *id, int32_t B, int32_t k, int32_t L,
                               const haste_lists *truth, const double *inverse_propensity, const haste_lists *filter,
                               haste_error *error)
{
    enum { HASTE__METRICS_STACK = 256 };
    uint64_t stack[2][HASTE__METRICS_STACK], *y = stack[0], *removed = stack[1];
    double gain[HASTE_MAX_K];
    haste__arena arena = { NULL, 0, 0 };
    int64_t longest, b;
    int32_t i;
    haste_status status = haste__metrics_check(metrics, id, B, k, L, truth, inverse_propensity, filter, error);
    if (status != HASTE_OK || B == 0) return status;
    longest = haste__longest(truth, B);
    if (filter && haste__longest(filter, B) > longest) longest = haste__longest(filter, B);
    if (longest > HASTE__METRICS_STACK) {
        haste__metrics_arrange(&y, &removed, longest, &arena);
        if ((status = haste__reserve(&arena, "scratch", error)) != HASTE_OK) return status;
        haste__metrics_arrange(&y, &removed, longest, &arena);
    }
    for (i = 0; i < metrics->k; i++) gain[i] = log(2.0) / log(i + 2.0);   /* 1 / log2(rank + 1), rank = i + 1 */
    for (b = 0; b < B; b++) {
        const int64_t y_count = haste__distinct(truth, b, y);
        const int64_t removed_count = filter ? haste__distinct(filter, b, removed) : 0;
        haste__metrics_sample(metrics, id + b * k, y, y_count, removed, removed_count, inverse_propensity, gain);
    }
    haste__release(arena.memory);
    return HASTE_OK;
}

haste_metrics_values haste_metrics_get(const haste_metrics *metrics, int32_t k)
{
    haste_metrics_values values;
    memset(&values, 0, sizeof values);
    if (!metrics || k < 1 || k > metrics->k || k > HASTE_MAX_K) {
        values.precision = values.ndcg = values.recall = values.psp = values.psndcg = NAN;
    } else if (metrics->samples > 0) {
        double N = (double)metrics->samples, hits = 0;
        int32_t i;
        for (i = 0; i < k; i++) hits += metrics->hits[i];
        values.precision = 100 * hits / (N * k);
        values.ndcg = 100 * metrics->ndcg[k - 1] / N;
        values.recall = 100 * metrics->recall[k - 1] / N;
        if (metrics->psp_best[k - 1] > 0) values.psp = 100 * metrics->psp[k - 1] / metrics->psp_best[k - 1];
        if (metrics->psndcg_best[k - 1] > 0) values.psndcg = 100 * metrics->psndcg[k - 1] / metrics->psndcg_best[k - 1];
    }
    return values;
}

/* ---- >>file --------------------------------------------------------------------------------------------------

   The model file: a header, then the sections one after the other, each at a multiple of 64 bytes, zeros between.

       0   8    "HASTE", CR LF, ^Z: spoilt by whatever takes the file for text
       8   4    0x01020304                      12  4  version of the format: 2
      16   8    bytes of the file               24  8  bytes of the header: 64 + 48 * sections, rounded up to 64
      32   4    sections                        36  4  the lowest version whose readers may read it
      40   8    features that a reader must know, one bit each: none so far
      48   8    0
      56   8    checksum of the rest of the header
      64  48    of each section: name [24], offset, bytes, checksum

   Sections in this order: haste.layer (64 bytes of scalars, then 48 for each block), haste.label_of, haste.slot_of,
   of each block its arrays as they lie in memory, the caller's. The sections of a layer follow from haste.layer, so a
   reader compares the table with the one it expects; nothing in the file is a pointer, an offset that needs trust, or
   a size that it could not have computed. Reserved bytes are 0, or the file is refused.

   BYTE ORDER   Every number of the library is little-endian. Big-endian machines swap while they write and read (and
   read where others map). The caller's sections are bytes, the same everywhere: what stands in them, and in which
   byte order, is the caller's affair.

   LATER VERSIONS   A reader of version R refuses a file whose lowest version is above R, or which has a feature that
   it does not know. In a file whose own version is above R it passes over unknown sections "haste.*" that stand after
   those of the layer; in others they are an error. So a later version that only adds sections keeps the lowest
   version as it is, and one whose files would be misread raises it or sets a bit.

   VERSION 1 (haste 0.1) had 0 in bytes 36 to 55 and the byte order of its writer. It is read too, but for what
   big-endian machines wrote. */

#if defined(__unix__) || defined(__unix) || defined(__APPLE__)
    #define HASTE__POSIX
    #include <fcntl.h>
    #include <sys/file.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #include <unistd.h>
    #if defined(__STRICT_ANSI__) && !defined(__cplusplus) && !defined(__APPLE__) && _POSIX_C_SOURCE + 0 < 200809L
        /* What -std=c99 hides in the system's headers (not in those of macOS). */
        extern FILE *fdopen(int descriptor, const char *mode);
        extern ssize_t readlink(const char *path, char *text, size_t bytes);
        extern int fchmod(int descriptor, mode_t mode);
        extern int fchown(int descriptor, uid_t user, gid_t group);
    #endif
#elif defined(_WIN32)
    #include <sys/stat.h>
    #if !defined(_WINDOWS_)   /* <windows.h>, which declares these so */
        #if defined(__cplusplus)
        extern "C" {
        #endif
        struct _SECURITY_ATTRIBUTES;
        __declspec(dllimport) void *__stdcall CreateFileA(const char *path, unsigned long access, unsigned long share,
                                                          struct _SECURITY_ATTRIBUTES *security, unsigned long how,
                                                          unsigned long flags, void *like);
        __declspec(dllimport) int __stdcall CloseHandle(void *handle);
        __declspec(dllimport) unsigned long __stdcall GetLastError(void);
        __declspec(dllimport) int __stdcall MoveFileExA(const char *from, const char *to, unsigned long flags);
        #if defined(__cplusplus)
        }
        #endif
    #endif
#endif

#define HASTE__FILE_MAGIC   "HASTE\r\n\x1a"
#define HASTE__FILE_ORDER   UINT32_C(0x01020304)
#define HASTE__FILE_VERSION UINT32_C(2)
#define HASTE__FILE_LOWEST  UINT32_C(2)     /* what is written into a file as its lowest version */
#define HASTE__FILE_PREFIX  64
#define HASTE__FILE_ENTRY   48
#define HASTE__FILE_PIECE   16384   /* bytes that are read or written, and checked, at a time */
#define HASTE__FILE_TABLE   (3 + 7 * HASTE_MAX_BLOCKS + HASTE_MAX_SECTIONS)
#define HASTE__FILE_HEADER  ((HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * HASTE__FILE_TABLE + 63) / 64 * 64)
#define HASTE__FILE_LAYER   (64 + 48 * HASTE_MAX_BLOCKS)

/* A section: what the table says of it, and where its bytes are. */
typedef struct haste__entry {
    char        name[24];
    uint64_t    offset, bytes, checksum;
    const void *data;
    int         width;   /* bytes of a number; in memory they have the machine's byte order. 1: bytes as they are */
    int         round;   /* when saving: data is float32 and is stored as bfloat16 */
} haste__entry;

/* The end of a long path: its beginning matters less than the reason, which must fit into the message too. */
static const char *haste__path_tail(const char *path)
{
    size_t length = strlen(path);
    return length > 120 ? path + length - 120 : path;
}

/* What stands at a path where it is no file, in words; NULL: a file, or nothing that can be seen. */
static const char *haste__file_kind(const char *path)
{
#if defined(HASTE__POSIX)
    struct stat found;
    if (stat(path, &found) != 0 || S_ISREG(found.st_mode)) return NULL;
    return S_ISDIR(found.st_mode) ? "a directory" : S_ISFIFO(found.st_mode) ? "a FIFO" :
           S_ISCHR(found.st_mode) || S_ISBLK(found.st_mode) ? "a device" : "a socket";
#elif defined(_WIN32)
    struct _stat64 found;
    if (_stat64(path, &found) != 0 || (found.st_mode & _S_IFMT) == _S_IFREG) return NULL;
    return (found.st_mode & _S_IFMT) == _S_IFDIR ? "a directory" : "a device";
#else
    (void)path;
    return NULL;
#endif
}

/* 1 where the first byte of a number in memory is its highest. */
static int haste__big_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return first == 0;
}

/* Reverses the bytes of each number. */
static void haste__swap(void *data, size_t bytes, int width)
{
    unsigned char *at = (unsigned char *)data, *end = at + bytes, byte;
    int i;
    for (; at < end; at += width)
        for (i = 0; i < width / 2; i++) {
            byte = at[i];
            at[i] = at[width - 1 - i];
            at[width - 1 - i] = byte;
        }
}

#define HASTE__CHECKSUM_FACTOR UINT64_C(0xd6e8feb86659fd93)

HASTE__INLINE uint64_t haste__checksum_word(uint64_t lane, uint64_t word)
{
    lane ^= word;
    /* rotated: else the upper bits would only reach each other */
    return (lane << 29 | lane >> 35) * HASTE__CHECKSUM_FACTOR;
}

/* A 64-bit checksum against damage, not against forgery: four lanes take a word of eight bytes each in turn, so that
   it runs as fast as memory is read. Each step is one to one in the word and in the lane: no change within one word
   goes unseen. Bytes that are missing in the last 32 count as 0; the length is mixed in. Words are little-endian. */
static uint64_t haste__checksum(const void *data, size_t bytes, uint64_t seed)
{
    const uint64_t step = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t a = seed + step, b = seed + 2 * step, c = seed + 3 * step, d = seed + 4 * step, word[4], sum;
    const unsigned char *at = (const unsigned char *)data;
    unsigned char tail[sizeof word];
    size_t left = bytes;
    while (left > 0) {
        if (left < sizeof word) {
            memset(tail, 0, sizeof tail);
            memcpy(tail, at, left);
            at = tail;
            left = sizeof tail;
        }
        memcpy(word, at, sizeof word);
        if (haste__big_endian()) haste__swap(word, sizeof word, 8);
        a = haste__checksum_word(a, word[0]);
        b = haste__checksum_word(b, word[1]);
        c = haste__checksum_word(c, word[2]);
        d = haste__checksum_word(d, word[3]);
        at += sizeof word;
        left -= sizeof word;
    }
    sum = haste__mix((uint64_t)bytes * HASTE__CHECKSUM_FACTOR + a);
    sum = haste__mix(sum * HASTE__CHECKSUM_FACTOR + b);
    sum = haste__mix(sum * HASTE__CHECKSUM_FACTOR + c);
    return haste__mix(sum * HASTE__CHECKSUM_FACTOR + d);
}

/* Bytes first .. first + bytes - 1 of a section as they stand in the file: where they lie, or in buffer
   [HASTE__FILE_PIECE] where memory holds them otherwise. */
static const void *haste__file_piece(const haste__entry *entry, uint64_t first, size_t bytes, unsigned char *buffer)
{
    const unsigned char *from = (const unsigned char *)entry->data + (size_t)first * (entry->round ? 2 : 1);
    size_t i;
    if (entry->round)   /* a float is two bfloat16 */
        for (i = 0; i < bytes; i += 2) {
            float value;
            uint16_t rounded;
            memcpy(&value, from + 2 * i, 4);
            rounded = haste__to_bf16(value);
            memcpy(buffer + i, &rounded, 2);
        }
    else if (haste__big_endian() && entry->width > 1) memcpy(buffer, from, bytes);
    else return from;
    if (haste__big_endian()) haste__swap(buffer, bytes, entry->width);
    return buffer;
}

/* The checksum of a section that is not rounded: chained over its pieces, so that it can be made while writing. */
static uint64_t haste__checksum_section(const haste__entry *entry)
{
    unsigned char buffer[HASTE__FILE_PIECE];
    uint64_t first, sum = 0;
    for (first = 0; first < entry->bytes; first += HASTE__FILE_PIECE) {
        size_t piece = entry->bytes - first < HASTE__FILE_PIECE ? (size_t)(entry->bytes - first) : HASTE__FILE_PIECE;
        sum = haste__checksum(haste__file_piece(entry, first, piece, buffer), piece, sum);
    }
    return sum;
}

/* The checksum of a header: all but the eight bytes where it is kept. */
static uint64_t haste__checksum_header(const unsigned char *header, size_t bytes)
{
    uint64_t sum = haste__checksum(header, HASTE__FILE_PREFIX - 8, 0);
    return haste__checksum(header + HASTE__FILE_PREFIX, bytes - HASTE__FILE_PREFIX, sum);
}

/* Little-endian numbers to and from a byte position. */
static void haste__put(unsigned char **at, uint64_t value, int bytes)
{
    for (; bytes > 0; bytes--, value >>= 8) *(*at)++ = (unsigned char)(value & 255);
}

static uint64_t haste__get(const unsigned char **at, int bytes)
{
    uint64_t value = 0;
    int i;
    for (i = bytes - 1; i >= 0; i--) value = value << 8 | (*at)[i];
    *at += bytes;
    return value;
}

static void haste__put32(unsigned char **at, int64_t value) { haste__put(at, (uint64_t)value, 4); }
static void haste__put64(unsigned char **at, uint64_t value) { haste__put(at, value, 8); }
static int32_t haste__get32(const unsigned char **at) { return (int32_t)(uint32_t)haste__get(at, 4); }
static uint64_t haste__get64(const unsigned char **at) { return haste__get(at, 8); }

/* The layer's scalars: 64 bytes, and 48 of each block. */
static void haste__file_put_layer(const haste_layer *layer, haste_dtype dtype, unsigned char *at)
{
    int same = dtype == layer->dtype, i;
    haste__put32(&at, layer->labels);
    haste__put32(&at, layer->inputs);
    haste__put64(&at, (uint64_t)layer->slots);
    haste__put32(&at, dtype);
    haste__put32(&at, same ? layer->state_dtype : HASTE_F32);
    haste__put32(&at, layer->loss);
    haste__put32(&at, same ? layer->optimizer : HASTE_SGD);
    haste__put64(&at, layer->seed);
    haste__put64(&at, (uint64_t)layer->step);
    haste__put64(&at, (uint64_t)layer->rewires);
    haste__put32(&at, layer->block_count);
    haste__put32(&at, 0);
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        haste__put64(&at, (uint64_t)block->groups);
        haste__put64(&at, (uint64_t)block->labels);
        haste__put64(&at, (uint64_t)block->first_slot);
        haste__put32(&at, block->group_size);
        haste__put32(&at, block->fan_in);
        haste__put32(&at, block->begin);
        haste__put32(&at, block->end);
        haste__put32(&at, block->index == NULL);
        haste__put32(&at, 0);
    }
}

/* The other way, with every number checked; dense [block_count] says which blocks have no index. The layer gets no
   pointers. */
static haste_status haste__file_get_layer(const unsigned char *at, uint64_t bytes, const char *path, haste_layer *layer,
                                          int *dense, haste_error *error)
{
    static const int32_t most[4] = { HASTE_BF16, HASTE_BF16, HASTE_SOFTMAX, HASTE_ADAMW };
    int32_t number[4];   /* enumerations, once they are known to be in range */
    haste_error detail;
    int i, ok;
    memset(layer, 0, sizeof *layer);
    if (bytes < 64)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: haste.layer has %llu bytes, expected at least 64", path,
                           (unsigned long long)bytes);
    layer->labels = haste__get32(&at);
    layer->inputs = haste__get32(&at);
    layer->slots = (int64_t)haste__get64(&at);
    for (i = 0; i < 4; i++) number[i] = haste__get32(&at);
    layer->seed = haste__get64(&at);
    layer->step = (int64_t)haste__get64(&at);
    layer->rewires = (int64_t)haste__get64(&at);
    layer->block_count = haste__get32(&at);
    ok = haste__get32(&at) == 0 && layer->block_count >= 1 && layer->block_count <= HASTE_MAX_BLOCKS &&
         bytes == 64 + 48 * (uint64_t)layer->block_count;
    for (i = 0; i < 4; i++) ok = ok && number[i] >= 0 && number[i] <= most[i];
    if (!ok)
        return haste__fail(error, HASTE_ERR_FORMAT,
                           "%s: the length, an enumeration or the reserved word of haste.layer is out of range", path);
    layer->dtype = (haste_dtype)number[0];
    layer->state_dtype = (haste_dtype)number[1];
    layer->loss = (haste_loss)number[2];
    layer->optimizer = (haste_optimizer)number[3];
    for (i = 0; i < layer->block_count; i++) {
        haste_block *block = &layer->block[i];
        block->groups = (int64_t)haste__get64(&at);
        block->labels = (int64_t)haste__get64(&at);
        block->first_slot = (int64_t)haste__get64(&at);
        block->group_size = haste__get32(&at);
        block->fan_in = haste__get32(&at);
        block->begin = haste__get32(&at);
        block->end = haste__get32(&at);
        dense[i] = haste__get32(&at);
        if (haste__get32(&at) != 0 || (dense[i] != 0 && dense[i] != 1))
            return haste__fail(error, HASTE_ERR_FORMAT,
                               "%s: the dense mark or the reserved word of block %d in haste.layer is out of range",
                               path, i);
    }
    if (haste__layer_sizes_check(layer, "layer: ", HASTE_ERR_FORMAT, &detail))
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: %s", path, detail.text);
    for (i = 0; i < layer->block_count; i++)
        if (dense[i] && layer->block[i].fan_in != layer->block[i].end - layer->block[i].begin)
            return haste__fail(error, HASTE_ERR_FORMAT, "%s: block %d is dense and does not read all of its slice",
                               path, i);
    return HASTE_OK;
}

/* One more section of the library's own; 0 when its size overflows. */
static int haste__file_entry(haste__entry *table, int *count, int block, const char *part, uint64_t elements,
                             size_t width, const void *data)
{
    haste__entry *entry = &table[*count];
    size_t bytes = width;
    if (!haste__multiply(&bytes, elements)) return 0;
    memset(entry, 0, sizeof *entry);
    if (block < 0) snprintf(entry->name, sizeof entry->name, "haste.%s", part);
    else snprintf(entry->name, sizeof entry->name, "haste.%d.%s", block, part);
    entry->bytes = bytes;
    entry->width = (int)width;
    entry->data = data;
    (*count)++;
    return 1;
}

/* The sections that follow from a layer's scalars, without offsets. 0 when a size overflows. haste__file_attach walks
   them in the same order. */
static int haste__file_table(const haste_layer *layer, haste_dtype dtype, haste_optimizer optimizer, const int *dense,
                             haste__entry *table, int *count)
{
    static const char *const names[2][2] = { { "weight_state0", "bias_state0" }, { "weight_state1", "bias_state1" } };
    int i, j, ok;
    *count = 0;
    ok = haste__file_entry(table, count, -1, "layer", 64 + 48 * (uint64_t)layer->block_count, 1, NULL)
      && haste__file_entry(table, count, -1, "label_of", (uint64_t)layer->slots, 4, layer->label_of)
      && haste__file_entry(table, count, -1, "slot_of", (uint64_t)layer->labels, 4, layer->slot_of);
    for (i = 0; ok && i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        uint64_t slots = (uint64_t)block->groups * (uint64_t)block->group_size;   /* below 2^32 */
        uint64_t fan_in = (uint64_t)block->fan_in;
        if (!dense[i])
            ok = haste__file_entry(table, count, i, "index", (uint64_t)block->groups * fan_in, 2, block->index);
        ok = ok && haste__file_entry(table, count, i, "weight", slots * fan_in, haste__sizeof(dtype), block->weight)
                && haste__file_entry(table, count, i, "bias", slots, 4, block->bias);
        if (ok && dtype != layer->dtype) table[*count - 2].round = 1;
        for (j = 0; ok && j < haste__states(optimizer); j++)
            ok = haste__file_entry(table, count, i, names[j][0], slots * fan_in, haste__sizeof(layer->state_dtype),
                                   block->weight_state[j])
              && haste__file_entry(table, count, i, names[j][1], slots, 4, block->bias_state[j]);
    }
    return ok;
}

/* Points the layer's arrays into the file's memory. */
static void haste__file_attach(haste_layer *layer, const int *dense, const haste__entry *table, char *memory)
{
    const haste__entry *entry = table + 1;   /* after haste.layer */
    int i, j;
    layer->label_of = (int32_t *)(void *)(memory + entry++->offset);
    layer->slot_of = (int32_t *)(void *)(memory + entry++->offset);
    for (i = 0; i < layer->block_count; i++) {
        haste_block *block = &layer->block[i];
        if (!dense[i]) block->index = (uint16_t *)(void *)(memory + entry++->offset);
        block->weight = memory + entry++->offset;
        block->bias = (float *)(void *)(memory + entry++->offset);
        for (j = 0; j < haste__states(layer->optimizer); j++) {
            block->weight_state[j] = memory + entry++->offset;
            block->bias_state[j] = (float *)(void *)(memory + entry++->offset);
        }
    }
}

/* Why a name cannot be a caller's section, or NULL where it can. */
static const char *haste__file_bad_name(const char *name, const haste__entry *earlier, int count)
{
    int i;
    if (!memchr(name, 0, sizeof earlier->name)) return "does not end within 24 bytes";
    if (!name[0]) return "is empty";
    if (strncmp(name, "haste.", 6) == 0) return "begins with \"haste.\", which is the library's";
    for (i = 0; i < count; i++) if (strcmp(name, earlier[i].name) == 0) return "comes twice";
    return NULL;
}

/* ---- >>save --------------------------------------------------------------------------------------------------

   A file is written beside its place under the name of a temporary, PATH.tmp-haste00, and renamed when it is whole.

   Its writer holds a lock on it (flock; on Windows an open handle), which the system drops when a process ends,
   however it ends: a temporary whose lock can be had is an orphan. Each save first looks at all the names that a
   temporary can have, removes the orphans, and takes the first name that is free. Two savers hold two names, be they
   threads or processes. A name is bound to another file only by who has the lock of the one that it names. Where a
   file system knows no locks, nobody can tell: nothing is removed there, and the names are used up one after the
   other. Where its locks do not reach other machines, one of these may take a temporary for an orphan; its writer
   looks for that before it renames, which leaves a moment. */

#define HASTE__FILE_WRITERS 32     /* names that a temporary can have: who save to one path at once */
#define HASTE__FILE_PATH    4096

/* Why a file was not written: 0 it was, above 0 an errno, or one of these. */
enum {
    HASTE__NO_REASON  = -1,   /* the system gave none */
    HASTE__ALL_TAKEN  = -2,
    HASTE__LINK_BLIND = -3,
    HASTE__TAKEN_AWAY = -4
};

static int haste__reason(void) { return errno > 0 ? errno : HASTE__NO_REASON; }

/* In words of our own: strerror may share a buffer between threads, and strerror_r is another function on each system.
   NULL: there are none for this errno. */
static const char *haste__reason_text(int reason)
{
    switch (reason) {
    case HASTE__NO_REASON:  return "the system gives no reason";
    case HASTE__ALL_TAKEN:  return "all names for a temporary file are taken (.tmp-haste00 and so on, beside it)";
    case HASTE__LINK_BLIND: return "what its symbolic link leads to has no name that could be replaced";
    case HASTE__TAKEN_AWAY: return "its temporary file was taken away";
#if defined(HASTE__POSIX) || defined(_WIN32)
    case ENOENT:            return "no such file or directory";
    case EACCES:            return "permission denied";
    case EISDIR:            return "it is a directory";
    case ENOTDIR:           return "a part of its path is no directory";
    case ENAMETOOLONG:      return "the path is too long";
    case ELOOP:             return "too many symbolic links";
    case ENOSPC:            return "no space left on the device";
    case EFBIG:             return "the file would be too large";
    case EROFS:             return "the file system is read-only";
    case EIO:               return "an input or output error";
    case ENOMEM:            return "out of memory";
    case EMFILE:            return "too many open files";
#endif
#if defined(EDQUOT)
    case EDQUOT:            return "the disk quota is used up";
#endif
    default:                return NULL;
    }
}

/* HASTE_ERR_FILE: the file could not be read, mapped, ... */
static haste_status haste__file_fail(haste_error *error, const char *verb, const char *path, int reason)
{
    const char *text = haste__reason_text(reason);
    char number[32];
    snprintf(number, sizeof number, "errno %d", reason);
    return haste__fail(error, HASTE_ERR_FILE, "cannot %s %s: %s", verb, haste__path_tail(path),
                       text ? text : number);
}

/* A file being written. */
typedef struct haste__writer {
    char  target[HASTE__FILE_PATH];      /* what will be replaced: the path, or where its links lead */
    char  name[HASTE__FILE_PATH + 32];   /* of the temporary */
    FILE *out;
#if defined(_WIN32)
    void *lock;                          /* a handle */
#else
    int   lock;                          /* a descriptor */
#endif
#if defined(HASTE__POSIX)
    struct stat old;                     /* what will be replaced, if there is something */
    int   exists;
#endif
} haste__writer;

#if defined(HASTE__POSIX)

#if defined(O_CLOEXEC)   /* -std=c99 hides it */
    #define HASTE__CLOEXEC O_CLOEXEC
#else
    #define HASTE__CLOEXEC 0
#endif

/* Length of the folder's part of a path, slash included; 0: it has none. */
static size_t haste__folder(const char *path)
{
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] != '/') length--;
    return length;
}

/* Where a path leads that is a symbolic link, or one to a link, ...: the last may lead to nothing. 0, or a reason. */
static int haste__follow(const char *path, char *target)
{
    char text[HASTE__FILE_PATH];
    size_t folder = 0, length = strlen(path);
    int links;
    if (length >= HASTE__FILE_PATH) return ENAMETOOLONG;
    memcpy(target, path, length + 1);
    for (links = 0; links < 40; links++) {
        ssize_t bytes = readlink(target, text, sizeof text);
        if (bytes <= 0) return 0;
        folder = text[0] == '/' ? 0 : haste__folder(target);
        if (folder + (size_t)bytes >= HASTE__FILE_PATH) return ENAMETOOLONG;
        memcpy(target + folder, text, (size_t)bytes);
        target[folder + (size_t)bytes] = 0;
    }
    return ELOOP;
}

/* Whether a name is that of an open file, and not of another one that has been put there. */
static int haste__names(const char *name, int descriptor)
{
    struct stat a, b;
    return stat(name, &a) == 0 && fstat(descriptor, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Removes a temporary that nobody holds. */
static void haste__remove_orphan(const char *name)
{
    int descriptor;
    if (haste__file_kind(name) != NULL) return;
    descriptor = open(name, O_RDWR | HASTE__CLOEXEC);
    if (descriptor < 0) descriptor = open(name, O_RDONLY | HASTE__CLOEXEC);   /* its mode may forbid writing */
    if (descriptor < 0) return;
    if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 && haste__names(name, descriptor)) unlink(name);
    close(descriptor);
}

/* A new file under that name, locked; -1 where there is one, or where another saver was faster than the lock and took
   it for an orphan (errno is then EEXIST). */
static int haste__create_locked(const char *name, unsigned mode)
{
    int descriptor = open(name, O_RDWR | O_CREAT | O_EXCL | HASTE__CLOEXEC, mode), locked;
    if (descriptor < 0) return -1;
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);   /* a program that is started meanwhile must not keep the lock */
    locked = flock(descriptor, LOCK_EX | LOCK_NB) == 0;
    if ((locked || errno == EWOULDBLOCK) && !(locked && haste__names(name, descriptor))) {
        close(descriptor);
        errno = EEXIST;
        return -1;
    }
    return descriptor;
}

/* Gives a new file the owner and the mode of the old one. Who may not give it the group leaves the group no more
   rights than all others have; where nothing of this can be set, the file stays private. */
static void haste__keep_mode(int descriptor, const struct stat *old)
{
    unsigned mode = (unsigned)old->st_mode & 0777u;
    if (fchown(descriptor, old->st_uid, old->st_gid) != 0 && fchown(descriptor, (unsigned)-1, old->st_gid) != 0)
        mode = (mode & 0707u) | (mode & 07u) << 3;
    fchmod(descriptor, (mode_t)mode);
}

static int haste__writer_open(haste__writer *w, const char *path)
{
    struct stat found;
    int reason, copy, i;
    w->exists = stat(path, &w->old) == 0;
    if (!w->exists && errno != ENOENT) return haste__reason();
    reason = haste__follow(path, w->target);
    if (reason) return reason;
    /* /proc/self/fd/3, say, opens what its text does not name. */
    if (w->exists && strcmp(path, w->target) != 0 &&
        (stat(w->target, &found) != 0 || found.st_ino != w->old.st_ino || found.st_dev != w->old.st_dev))
        return HASTE__LINK_BLIND;
    w->lock = -1;
    for (i = 0; i < HASTE__FILE_WRITERS; i++) {
        char name[sizeof w->name];
        snprintf(name, sizeof name, "%s.tmp-haste%02d", w->target, i);
        haste__remove_orphan(name);
        if (w->lock >= 0) continue;
        w->lock = haste__create_locked(name, w->exists ? 0600 : 0666);
        if (w->lock >= 0) strcpy(w->name, name);
        else if (errno != EEXIST) return haste__reason();
    }
    if (w->lock < 0) return HASTE__ALL_TAKEN;
    copy = dup(w->lock);   /* stdio closes its own; the lock stays until the file has its name */
    if (copy >= 0) fcntl(copy, F_SETFD, FD_CLOEXEC);
    w->out = copy >= 0 ? fdopen(copy, "wb") : NULL;
    if (w->out) return 0;
    reason = haste__reason();
    if (copy >= 0) close(copy);
    unlink(w->name);
    close(w->lock);
    return reason;
}

/* Makes what was written reach the disk. A file system that does not know how is no error. */
static int haste__file_sync(int descriptor)
{
    int done;
    do done = fsync(descriptor); while (done != 0 && errno == EINTR);
    return done == 0 || errno == EINVAL || errno == ENOSYS || errno == ENOTSUP || errno == EOPNOTSUPP || errno == EROFS;
}

static int haste__writer_close(haste__writer *w, int reason)
{
    int folder;
    errno = 0;
    if (fclose(w->out) != 0 && !reason) reason = haste__reason();
    if (!reason && !haste__file_sync(w->lock)) reason = haste__reason();
    if (!reason && !haste__names(w->name, w->lock)) reason = HASTE__TAKEN_AWAY;
    if (!reason && w->exists) haste__keep_mode(w->lock, &w->old);   /* until here it was nobody else's */
    if (!reason && rename(w->name, w->target) != 0) reason = haste__reason();
    if (reason && haste__names(w->name, w->lock)) unlink(w->name);
    close(w->lock);
    if (reason) return reason;
    /* The folder too: else a crash may still bring back the old file, whole. The new one stands there by now, so that a
       failure of this is none of saving. */
    w->target[haste__folder(w->target)] = 0;
    folder = open(w->target[0] ? w->target : ".", O_RDONLY);
    if (folder >= 0) {
        haste__file_sync(folder);
        close(folder);
    }
    return 0;
}

#elif defined(_WIN32)

/* The lock is a handle beside which stdio may write; while it is open nobody can open the file unshared. */
static int haste__writer_open(haste__writer *w, const char *path)
{
    void *const none = (void *)(intptr_t)-1;
    int i;
    if (strlen(path) >= HASTE__FILE_PATH) return ENAMETOOLONG;
    strcpy(w->target, path);
    w->lock = none;
    for (i = 0; i < HASTE__FILE_WRITERS; i++) {
        char name[sizeof w->name];
        void *orphan;
        snprintf(name, sizeof name, "%s.tmp-haste%02d", w->target, i);
        /* for deletion, shared with none, existing, deleted when closed: fails where a saver has it open */
        orphan = CreateFileA(name, 0x10000, 0, NULL, 3, 0x04000000, NULL);
        if (orphan != none) CloseHandle(orphan);
        if (w->lock != none) continue;
        /* for reading and writing, shared with all, new */
        w->lock = CreateFileA(name, 0xc0000000u, 1 | 2 | 4, NULL, 1, 0x80, NULL);
        if (w->lock != none) strcpy(w->name, name);
        else if (GetLastError() == 2 || GetLastError() == 3) return ENOENT;
        else if (GetLastError() != 80 && GetLastError() != 32) return EACCES;   /* not: exists, or is open */
    }
    if (w->lock == none) return HASTE__ALL_TAKEN;
    w->out = fopen(w->name, "r+b");
    if (w->out) return 0;
    i = haste__reason();
    CloseHandle(w->lock);
    remove(w->name);
    return i;
}

static int haste__writer_close(haste__writer *w, int reason)
{
    errno = 0;
    if (fclose(w->out) != 0 && !reason) reason = haste__reason();
    if (!reason && !MoveFileExA(w->name, w->target, 1 | 8)) reason = EACCES;   /* replaces, and waits for the disk */
    CloseHandle(w->lock);
    if (reason) remove(w->name);
    return reason;
}

#else

/* Plain C: nothing is known of links, locks or disks. */
static int haste__writer_open(haste__writer *w, const char *path)
{
    if (strlen(path) >= HASTE__FILE_PATH) return HASTE__NO_REASON;
    strcpy(w->target, path);
    snprintf(w->name, sizeof w->name, "%s.tmp-haste00", path);
    w->lock = 0;
    w->out = fopen(w->name, "wb");
    return w->out ? 0 : haste__reason();
}

static int haste__writer_close(haste__writer *w, int reason)
{
    errno = 0;
    if (fclose(w->out) != 0 && !reason) reason = haste__reason();
    if (!reason && rename(w->name, w->target) != 0) reason = haste__reason();
    if (reason) remove(w->name);
    return reason;
}

#endif

/* Where the bytes of a file go: to a stream; or, where that is NULL, to memory, from `at` on, which cannot fail. */
typedef struct haste__sink { FILE *out; unsigned char *at; } haste__sink;

/* 0, or a reason. errno is cleared, as stdio may fail without one. */
static int haste__write(haste__sink *sink, const void *data, size_t bytes)
{
    if (sink->out) {
        errno = 0;
        return fwrite(data, 1, bytes, sink->out) == bytes ? 0 : haste__reason();
    }
    memcpy(sink->at, data, bytes);
    sink->at += bytes;
    return 0;
}

/* Writes a section and the zeros after it; its checksum is made on the way. Returns 0, or a reason. */
static int haste__file_write(haste__sink *sink, haste__entry *entry)
{
    static const char zeros[HASTE__ALIGN] = { 0 };
    unsigned char buffer[HASTE__FILE_PIECE];
    size_t padding = (size_t)((HASTE__ALIGN - entry->bytes % HASTE__ALIGN) % HASTE__ALIGN);
    uint64_t first;
    entry->checksum = 0;
    for (first = 0; first < entry->bytes; first += HASTE__FILE_PIECE) {
        size_t piece = entry->bytes - first < HASTE__FILE_PIECE ? (size_t)(entry->bytes - first) : HASTE__FILE_PIECE;
        const void *from = haste__file_piece(entry, first, piece, buffer);
        int reason;
        entry->checksum = haste__checksum(from, piece, entry->checksum);
        reason = haste__write(sink, from, piece);
        if (reason) return reason;
    }
    return haste__write(sink, zeros, padding);
}

/* The header, once the table is complete; out [HASTE__FILE_HEADER] */
static void haste__file_put_header(const haste__entry *table, int count, uint64_t file_bytes, unsigned char *out)
{
    unsigned char *at = out + 8;
    int i;
    memset(out, 0, HASTE__FILE_HEADER);
    memcpy(out, HASTE__FILE_MAGIC, 8);
    haste__put32(&at, HASTE__FILE_ORDER);
    haste__put32(&at, HASTE__FILE_VERSION);
    haste__put64(&at, file_bytes);
    haste__put64(&at, table[0].offset);
    haste__put32(&at, count);
    haste__put32(&at, HASTE__FILE_LOWEST);
    at = out + HASTE__FILE_PREFIX;
    for (i = 0; i < count; i++) {
        memcpy(at, table[i].name, sizeof table[i].name);
        at += sizeof table[i].name;
        haste__put64(&at, table[i].offset);
        haste__put64(&at, table[i].bytes);
        haste__put64(&at, table[i].checksum);
    }
    at = out + HASTE__FILE_PREFIX - 8;
    haste__put64(&at, haste__checksum_header(out, (size_t)table[0].offset));
}

/* The whole file; what stdio still holds goes out with fclose. Returns 0, or a reason. */
static int haste__file_write_all(haste__sink sink, haste__entry *table, int count, uint64_t file_bytes)
{
    unsigned char header[HASTE__FILE_HEADER] = { 0 };
    const size_t header_bytes = (size_t)table[0].offset;
    haste__sink begin = sink;
    int i, reason;
    /* Zeros first, the header when the checksums are known: until then it is no model file. */
    reason = haste__write(&sink, header, header_bytes);
    for (i = 0; i < count && !reason; i++) reason = haste__file_write(&sink, &table[i]);
    if (reason) return reason;
    haste__file_put_header(table, count, file_bytes, header);
    errno = 0;
    if (begin.out && fseek(begin.out, 0, SEEK_SET) != 0) return haste__reason();
    return haste__write(&begin, header, header_bytes);
}

/* May this be saved? What is refused when loading must not replace a good file. */
static haste_status haste__save_check(const haste_layer *layer, haste_dtype dtype, const haste_section *sections,
                                      int32_t section_count, haste_error *error)
{
    haste_status status;
    int64_t i, n;
    int k;
    if (!layer) return haste__fail(error, HASTE_ERR_ARG, "layer is NULL");
    if (section_count < 0 || section_count > HASTE_MAX_SECTIONS)
        return haste__fail(error, HASTE_ERR_ARG, "section_count = %ld, expected 0 .. %d", (long)section_count,
                           HASTE_MAX_SECTIONS);
    if (section_count > 0 && !sections)
        return haste__fail(error, HASTE_ERR_ARG, "sections is NULL, section_count %ld", (long)section_count);
    if (dtype != layer->dtype && !(dtype == HASTE_BF16 && layer->dtype == HASTE_F32))
        return haste__fail(error, HASTE_ERR_ARG,
                           "dtype is %d and the layer's is %d: expected the same, or bfloat16 for float32", (int)dtype,
                           (int)layer->dtype);
    status = haste_layer_check(layer, error);
    if (status || dtype == layer->dtype) return status;
    for (k = 0; k < layer->block_count; k++) {   /* the last 0.2% of float32's range would become infinite */
        const float *weight = (const float *)layer->block[k].weight;
        n = haste__block_slots(&layer->block[k]) * layer->block[k].fan_in;
        for (i = 0; i < n; i++)
            if ((haste__to_bf16(weight[i]) & 0x7f80u) == 0x7f80u)
                return haste__fail(error, HASTE_ERR_STATE,
                                   "block[%d].weight[%lld] = %g is beyond the range of bfloat16", k, (long long)i,
                                   (double)weight[i]);
    }
    return HASTE_OK;
}

/* The layer's sections and the caller's, with their places. scalars [HASTE__FILE_LAYER] becomes haste.layer. */
static haste_status haste__save_table(const haste_layer *layer, haste_dtype dtype, const haste_section *sections,
                                      int32_t section_count, unsigned char *scalars, haste__entry *table, int *count,
                                      uint64_t *file_bytes, haste_error *error)
{
    int dense[HASTE_MAX_BLOCKS], own, i;
    for (i = 0; i < layer->block_count; i++) dense[i] = layer->block[i].index == NULL;
    if (!haste__file_table(layer, dtype, dtype == layer->dtype ? layer->optimizer : HASTE_SGD, dense, table, &own))
        return haste__fail(error, HASTE_ERR_SIZE, "the layer's arrays overflow size_t");
    haste__file_put_layer(layer, dtype, scalars);
    table[0].data = scalars;
    *count = own + section_count;
    for (i = own; i < *count; i++) {
        const haste_section *section = &sections[i - own];
        const char *bad = haste__file_bad_name(section->name, table + own, i - own);
        if (bad)
            return haste__fail(error, HASTE_ERR_ARG, "the name of sections[%d], \"%.23s\", %s", i - own, section->name,
                               bad);
        if (!section->data && section->bytes > 0)
            return haste__fail(error, HASTE_ERR_ARG, "the data of section \"%s\" is NULL, its bytes %llu",
                               section->name, (unsigned long long)section->bytes);
        memset(&table[i], 0, sizeof table[i]);
        memcpy(table[i].name, section->name, strlen(section->name));
        table[i].bytes = section->bytes;
        table[i].width = 1;
        table[i].data = section->data;
    }
    *file_bytes = (uint64_t)(HASTE__FILE_PREFIX + HASTE__FILE_ENTRY * *count + 63) / 64 * 64;
    for (i = 0; i < *count; i++) {
        const uint64_t room = SIZE_MAX / 2 - *file_bytes;   /* so that every offset fits into a long or int64_t too */
        table[i].offset = *file_bytes;
        if (table[i].bytes > room || room - table[i].bytes < 64)
            return haste__fail(error, HASTE_ERR_SIZE, "section \"%s\" has %llu bytes: too many", table[i].name,
                               (unsigned long long)table[i].bytes);
        *file_bytes += (table[i].bytes + 63) / 64 * 64;
    }
    return HASTE_OK;
}

haste_status haste_save(const char *path, const haste_layer *layer, haste_dtype dtype, const haste_section *sections,
                        int32_t section_count, haste_error *error)
{
    haste__entry table[HASTE__FILE_TABLE];
    unsigned char scalars[HASTE__FILE_LAYER];
    haste__writer writer;
    haste__sink sink = { NULL, NULL };
    uint64_t file_bytes = 0;
    const char *kind;
    int count = 0, reason;
    haste_status status;

    if (!path || !path[0]) return haste__fail(error, HASTE_ERR_ARG, "path is %s", path ? "empty" : "NULL");
    status = haste__save_check(layer, dtype, sections, section_count, error);
    if (!status)
        status = haste__save_table(layer, dtype, sections, section_count, scalars, table, &count, &file_bytes, error);
    if (status) return status;

    kind = haste__file_kind(path);
    if (kind) return haste__fail(error, HASTE_ERR_FILE, "cannot write %s: it is %s", haste__path_tail(path), kind);
    reason = haste__writer_open(&writer, path);
    if (!reason) {
        sink.out = writer.out;
        reason = haste__writer_close(&writer, haste__file_write_all(sink, table, count, file_bytes));
    }
    return reason ? haste__file_fail(error, "write", path, reason) : HASTE_OK;
}

haste_status haste_save_memory(void *memory, size_t capacity, const haste_layer *layer, haste_dtype dtype,
                               const haste_section *sections, int32_t section_count, size_t *needed,
                               haste_error *error)
{
    haste__entry table[HASTE__FILE_TABLE];
    unsigned char scalars[HASTE__FILE_LAYER];
    haste__sink sink = { NULL, NULL };
    uint64_t file_bytes = 0;
    int count = 0;
    haste_status status;
    if (!needed) return haste__fail(error, HASTE_ERR_ARG, "needed is NULL");
    if (!memory && capacity > 0)
        return haste__fail(error, HASTE_ERR_ARG, "memory is NULL, capacity %llu", (unsigned long long)capacity);
    status = haste__save_check(layer, dtype, sections, section_count, error);
    if (!status)
        status = haste__save_table(layer, dtype, sections, section_count, scalars, table, &count, &file_bytes, error);
    if (status) return status;
    *needed = (size_t)file_bytes;
    if (capacity < *needed)
        return haste__fail(error, HASTE_ERR_SIZE, "capacity = %llu, expected at least %llu",
                           (unsigned long long)capacity, (unsigned long long)file_bytes);
    sink.at = (unsigned char *)memory;
    haste__file_write_all(sink, table, count, file_bytes);
    return HASTE_OK;
}

/* ---- >>load -------------------------------------------------------------------------------------------------- */

/* The first 64 bytes, for a file of `bytes` bytes. */
static haste_status haste__file_check_prefix(const unsigned char *prefix, uint64_t bytes, const char *path,
                                             haste_error *error)
{
    const unsigned char *at = prefix + 8;
    uint32_t order = (uint32_t)haste__get32(&at), version = (uint32_t)haste__get32(&at), lowest;
    uint64_t file_bytes = haste__get64(&at), header_bytes = haste__get64(&at), features, zero;
    int32_t count = haste__get32(&at);
    lowest = (uint32_t)haste__get32(&at);
    features = haste__get64(&at);
    zero = haste__get64(&at);
    if (memcmp(prefix, HASTE__FILE_MAGIC, 8) != 0)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s is not a haste model file", path);
    if (order == UINT32_C(0x04030201))
        return haste__fail(error, HASTE_ERR_FORMAT,
                           "%s was written by haste 0.1 on a big-endian machine: only haste 0.1 reads it, there", path);
    if (order != HASTE__FILE_ORDER || version < 1)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: byte-order mark %08lx, format version %lu: not a model file",
                           path, (unsigned long)order, (unsigned long)version);
    if (lowest > HASTE__FILE_VERSION)
        return haste__fail(error, HASTE_ERR_FORMAT,
                           "%s needs a newer haste, which reads format version %lu: this one reads up to %lu", path,
                           (unsigned long)lowest, (unsigned long)HASTE__FILE_VERSION);
    if (features != 0)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s needs a newer haste: features %llx are unknown to this one",
                           path, (unsigned long long)features);
    if (zero != 0) return haste__fail(error, HASTE_ERR_FORMAT, "%s: reserved bytes of the header are not 0", path);
    if (file_bytes != bytes)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s has %llu bytes, its header says %llu", path,
                           (unsigned long long)bytes, (unsigned long long)file_bytes);
    if (count < 1 || count > HASTE__FILE_TABLE || header_bytes > bytes
        || header_bytes != ((uint64_t)count * HASTE__FILE_ENTRY + HASTE__FILE_PREFIX + 63) / 64 * 64)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: a header of %llu bytes with %ld sections is out of range",
                           path, (unsigned long long)header_bytes, (long)count);
    return HASTE_OK;
}

/* The header of a whole file in memory: table [HASTE__FILE_TABLE], each section where it lies and inside the file. */
static haste_status haste__file_read_table(const unsigned char *memory, uint64_t bytes, const char *path,
                                           haste__entry *table, int *count, haste_error *error)
{
    const unsigned char *at = memory + 24;
    uint64_t end, sum;
    size_t n;
    int i;
    haste_status status = haste__file_check_prefix(memory, bytes, path, error);
    if (status) return status;
    end = haste__get64(&at);
    *count = haste__get32(&at);
    at = memory + HASTE__FILE_PREFIX - 8;
    sum = haste__get64(&at);
    if (sum != haste__checksum_header(memory, (size_t)end))
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: the checksum of the header is wrong", path);

    /* Every section begins where the one before ended: none can overlap another or leave the file. */
    for (i = 0; i < *count; i++) {
        haste__entry *entry = &table[i];
        memset(entry, 0, sizeof *entry);
        memcpy(entry->name, at, sizeof entry->name);
        at += sizeof entry->name;
        entry->offset = haste__get64(&at);
        entry->bytes = haste__get64(&at);
        entry->checksum = haste__get64(&at);
        for (n = sizeof entry->name; n > 0 && entry->name[n - 1] == 0; n--) { }
        if (n == sizeof entry->name || memchr(entry->name, 0, n))
            return haste__fail(error, HASTE_ERR_FORMAT, "%s: the name of section %d does not end, or not with zeros",
                               path, i);
        if (entry->offset != end || entry->bytes > bytes - end || bytes - end < (entry->bytes + 63) / 64 * 64)
            return haste__fail(error, HASTE_ERR_FORMAT,
                               "%s: section %d, %llu bytes at %llu, does not fit into the file", path, i,
                               (unsigned long long)entry->bytes, (unsigned long long)entry->offset);
        entry->data = memory + entry->offset;
        entry->width = 1;
        end += (entry->bytes + 63) / 64 * 64;
    }
    for (; at < memory + table[0].offset; at++)
        if (*at) return haste__fail(error, HASTE_ERR_FORMAT, "%s: the bytes after the table are not 0", path);
    if (end != bytes)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: the sections end at %llu, the file at %llu", path,
                           (unsigned long long)end, (unsigned long long)bytes);
    return HASTE_OK;
}

/* The layer's scalars, and that the table has the sections that follow from them, which get their width; *own of
   them. */
static haste_status haste__file_read_layer(haste__entry *table, int count, const char *path, haste_layer *layer,
                                           int *dense, int *own, haste_error *error)
{
    haste__entry wanted[HASTE__FILE_TABLE];
    haste_status status;
    int i;
    if (strcmp(table[0].name, "haste.layer") != 0)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: the first section is not haste.layer", path);
    status = haste__file_get_layer((const unsigned char *)table[0].data, table[0].bytes, path, layer, dense, error);
    if (status) return status;
    if (!haste__file_table(layer, layer->dtype, layer->optimizer, dense, wanted, own))
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: the layer's arrays overflow size_t", path);
    for (i = 0; i < *own; i++) {
        if (i >= count || strcmp(table[i].name, wanted[i].name) != 0 || table[i].bytes != wanted[i].bytes)
            return haste__fail(error, HASTE_ERR_FORMAT, "%s: section %d should be %s with %llu bytes", path, i,
                               wanted[i].name, (unsigned long long)wanted[i].bytes);
        table[i].width = wanted[i].width;
    }
    return HASTE_OK;
}

/* The sections after the layer's own: the caller's, and in a file of a later version some that are passed over. */
static haste_status haste__file_read_sections(const haste__entry *table, int own, int count, int later,
                                              const char *path, haste_file *file, haste_error *error)
{
    int i;
    for (i = own; i < count; i++) {
        const char *bad;
        haste_section *section = &file->section[file->section_count];
        if (later && strncmp(table[i].name, "haste.", 6) == 0) continue;
        bad = haste__file_bad_name(table[i].name, table + own, i - own);
        if (bad) return haste__fail(error, HASTE_ERR_FORMAT, "%s: the name of section %d %s", path, i, bad);
        if (file->section_count == HASTE_MAX_SECTIONS)
            return haste__fail(error, HASTE_ERR_FORMAT, "%s: more than %d sections of the caller", path,
                               HASTE_MAX_SECTIONS);
        memcpy(section->name, table[i].name, sizeof section->name);
        section->data = table[i].data;
        section->bytes = table[i].bytes;
        file->section_count++;
    }
    return HASTE_OK;
}

static haste_status haste__file_check_section(const haste__entry *entry, const char *path, haste_error *error)
{
    const char *data = (const char *)entry->data;
    size_t n;
    if (haste__checksum_section(entry) != entry->checksum)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s: the checksum of section %s is wrong", path, entry->name);
    for (n = (size_t)entry->bytes; n % 64; n++)
        if (data[n])
            return haste__fail(error, HASTE_ERR_FORMAT, "%s: the bytes after section %s are not 0", path, entry->name);
    return HASTE_OK;
}

/* Makes sense of a whole file in memory, 64-byte aligned. */
static haste_status haste__file_parse(char *memory, uint64_t bytes, int mapped, const char *path, haste_file *file,
                                      haste_error *error)
{
    haste__entry table[HASTE__FILE_TABLE];
    const unsigned char *at = (const unsigned char *)memory + 12;
    const int later = (uint32_t)haste__get32(&at) > HASTE__FILE_VERSION;
    int dense[HASTE_MAX_BLOCKS], count, own, i;
    haste_error detail;
    haste_status status = haste__file_read_table((const unsigned char *)memory, bytes, path, table, &count, error);
    if (!status) status = haste__file_read_layer(table, count, path, &file->layer, dense, &own, error);
    if (!status) status = haste__file_read_sections(table, own, count, later, path, file, error);
    for (i = 0; i < count && !status; i++) {
        int width = table[i].width;
        /* A mapped file's large arrays are left on the disk until they are used. */
        if (mapped && i < own && strstr(table[i].name, ".weight")) continue;
        table[i].width = 1;   /* as the bytes stand in the file, so far */
        status = haste__file_check_section(&table[i], path, error);
        if (haste__big_endian() && width > 1) haste__swap(memory + table[i].offset, (size_t)table[i].bytes, width);
    }
    if (status) return status;
    haste__file_attach(&file->layer, dense, table, memory);
    status = mapped ? haste__layer_check_ids(&file->layer, &detail) : haste_layer_check(&file->layer, &detail);
    if (status) return haste__fail(error, HASTE_ERR_FORMAT, "%s: %s", path, detail.text);
    haste__layer_know_order(&file->layer);
    return HASTE_OK;
}

/* The size of an open file, which is then at its beginning; -1 where there is none. */
static int64_t haste__file_size(FILE *in)
{
#if defined(_WIN32)
    int64_t bytes = _fseeki64(in, 0, SEEK_END) == 0 ? _ftelli64(in) : -1;   /* long has 32 bits there */
#else
    int64_t bytes = fseek(in, 0, SEEK_END) == 0 ? (int64_t)ftell(in) : -1;
#endif
    return bytes >= 0 && fseek(in, 0, SEEK_SET) == 0 ? bytes : -1;
}

/* The whole file in memory of our own; nothing is allocated before the prefix agrees with the file's size. */
static haste_status haste__file_read(const char *path, const char *tail, haste_file *file, haste_error *error)
{
    unsigned char prefix[HASTE__FILE_PREFIX];
    FILE *in = fopen(path, "rb");
    haste_status status = HASTE_OK;
    char *memory = NULL;
    int64_t bytes;
    if (!in) return haste__file_fail(error, "open", path, haste__reason());
    errno = 0;
    if (fread(prefix, 1, sizeof prefix, in) != sizeof prefix) {
        if (ferror(in)) status = haste__file_fail(error, "read", path, haste__reason());
        else status = haste__fail(error, HASTE_ERR_FORMAT, "%s is shorter than the header of a model file", tail);
        fclose(in);
        return status;
    }
    bytes = haste__file_size(in);
    if (bytes < 0 || (uint64_t)bytes > SIZE_MAX)
        status = haste__fail(error, HASTE_ERR_FILE, "cannot learn the size of %s, or it is too large", tail);
    if (!status) status = haste__file_check_prefix(prefix, (uint64_t)bytes, tail, error);
    if (!status) {
        memory = (char *)haste__allocate((size_t)bytes);
        if (!memory)
            status = haste__fail(error, HASTE_ERR_MEMORY, "no memory for the %lld bytes of %s", (long long)bytes, tail);
    }
    errno = 0;
    if (!status && fread(memory, 1, (size_t)bytes, in) != (size_t)bytes)
        status = ferror(in) ? haste__file_fail(error, "read", path, haste__reason())
                            : haste__fail(error, HASTE_ERR_FILE, "cannot read %s: it became shorter", tail);
    fclose(in);
    if (!status) status = haste__file_parse(memory, (uint64_t)bytes, 0, tail, file, error);
    if (status) { haste__release(memory); return status; }
    file->memory = memory;
    file->bytes = (size_t)bytes;
    return HASTE_OK;
}

#if defined(HASTE__POSIX)
/* The same without a copy. Whoever shortens a mapped file in place takes the memory away; haste_save replaces it, and
   the mapping keeps the old one. */
static haste_status haste__file_map(const char *path, const char *tail, haste_file *file, haste_error *error)
{
    int descriptor = open(path, O_RDONLY), reason;
    haste_status status;
    void *memory;
    int64_t bytes;
    if (descriptor < 0) return haste__file_fail(error, "open", path, haste__reason());
    bytes = (int64_t)lseek(descriptor, 0, SEEK_END);
    if (bytes >= 0 && bytes < HASTE__FILE_PREFIX) {
        close(descriptor);
        return haste__fail(error, HASTE_ERR_FORMAT, "%s is shorter than the header of a model file", tail);
    }
    memory = MAP_FAILED;
    errno = EFBIG;
    if (bytes > 0 && (uint64_t)bytes <= SIZE_MAX) {
        memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor, 0);
        if (memory == MAP_FAILED) memory = mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    }
    reason = errno;
    close(descriptor);
    if (memory == MAP_FAILED) return haste__file_fail(error, "map", path, reason);
    status = haste__file_parse((char *)memory, (uint64_t)bytes, 1, tail, file, error);
    if (status) { munmap(memory, (size_t)bytes); return status; }
    file->memory = memory;
    file->bytes = (size_t)bytes;
    file->mapped = 1;
    return HASTE_OK;
}
#endif

haste_status haste_load(const char *path, int32_t map, haste_file *file, haste_error *error)
{
    haste_file loaded;
    const char *kind;
    haste_status status;
    if (!path || !path[0]) return haste__fail(error, HASTE_ERR_ARG, "path is %s", path ? "empty" : "NULL");
    if (!file) return haste__fail(error, HASTE_ERR_ARG, "file is NULL");
    if (map != 0 && map != 1) return haste__fail(error, HASTE_ERR_ARG, "map = %ld, expected 0 or 1", (long)map);
    kind = haste__file_kind(path);
    if (kind) return haste__fail(error, HASTE_ERR_FILE, "cannot read %s: it is %s", haste__path_tail(path), kind);
    memset(&loaded, 0, sizeof loaded);
#if defined(HASTE__POSIX)
    if (map && !haste__big_endian()) status = haste__file_map(path, haste__path_tail(path), &loaded, error);
    else
#endif
    status = haste__file_read(path, haste__path_tail(path), &loaded, error);
    if (!status) *file = loaded;
    return status;
}

haste_status haste_load_memory(const void *memory, size_t bytes, int32_t borrow, haste_file *file,
                               haste_error *error)
{
    const char *const name = "the memory";
    haste_file loaded;
    haste_status status;
    char *at = (char *)(uintptr_t)memory;   /* in place, parsing only reads */
    if (!memory) return haste__fail(error, HASTE_ERR_ARG, "memory is NULL");
    if (!file) return haste__fail(error, HASTE_ERR_ARG, "file is NULL");
    if (borrow != 0 && borrow != 1)
        return haste__fail(error, HASTE_ERR_ARG, "borrow = %ld, expected 0 or 1", (long)borrow);
    if (borrow && (uintptr_t)memory % HASTE__ALIGN != 0)
        return haste__fail(error, HASTE_ERR_ARG, "memory is %d bytes behind a multiple of 64, expected 0 in place",
                           (int)((uintptr_t)memory % HASTE__ALIGN));
    if (bytes < HASTE__FILE_PREFIX)
        return haste__fail(error, HASTE_ERR_FORMAT, "%s is shorter than the header of a model file", name);
    memset(&loaded, 0, sizeof loaded);
    loaded.bytes = bytes;
    loaded.mapped = borrow && !haste__big_endian() ? 2 : 0;
    status = haste__file_check_prefix((const unsigned char *)memory, bytes, name, error);
    if (!status && !loaded.mapped) {
        at = (char *)haste__allocate(bytes);
        if (at) memcpy(at, memory, bytes);
        else
            status = haste__fail(error, HASTE_ERR_MEMORY, "no memory for a copy of %llu bytes",
                                 (unsigned long long)bytes);
    }
    loaded.memory = at;
    if (!status) status = haste__file_parse(at, bytes, loaded.mapped, name, &loaded, error);
    if (!status) *file = loaded;
    else if (at != memory) haste__release(at);
    return status;
}

haste_status haste_file_check(const haste_file *file, haste_error *error)
{
    const char *const name = "the model file";
    haste__entry table[HASTE__FILE_TABLE];
    int dense[HASTE_MAX_BLOCKS], count, own, i;
    haste_layer layer;
    haste_error detail;
    haste_status status;
    if (!file || !file->memory) return haste__fail(error, HASTE_ERR_ARG, "file is %s", file ? "empty" : "NULL");
    status = haste__file_read_table((const unsigned char *)file->memory, file->bytes, name, table, &count, error);
    if (!status) status = haste__file_read_layer(table, count, name, &layer, dense, &own, error);
    for (i = 0; i < count && !status; i++) status = haste__file_check_section(&table[i], name, error);
    if (status) return status;
    status = haste_layer_check(&file->layer, &detail);
    return status ? haste__fail(error, HASTE_ERR_FORMAT, "%s: %s", name, detail.text) : HASTE_OK;
}

void haste_file_free(haste_file *file)
{
    if (!file) return;
#if defined(HASTE__POSIX)
    if (file->mapped == 1 && file->memory) munmap(file->memory, file->bytes);
#endif
    if (!file->mapped) haste__release(file->memory);
    memset(file, 0, sizeof *file);
}

const haste_section *haste_file_find(const haste_file *file, const char *name)
{
    int32_t i;
    if (!file || !name) return NULL;
    for (i = 0; i < file->section_count; i++) if (strcmp(file->section[i].name, name) == 0) return &file->section[i];
    return NULL;
}

/* ---- >>surgery ----------------------------------------------------------------------------------------------- */

/* A struct that began as another layer's: without what this one has no use for. */
static void haste__layer_forget(haste_layer *layer)
{
    int i;
    for (i = 0; i < HASTE_MAX_BLOCKS; i++) {
        memset(layer->block[i].weight_state, 0, sizeof layer->block[i].weight_state);
        memset(layer->block[i].bias_state, 0, sizeof layer->block[i].bias_state);
        if (i >= layer->block_count) memset(&layer->block[i], 0, sizeof layer->block[i]);
    }
}

/* Memory, 0 but for label_of, which is -1, for a layer whose sizes are set but for groups, first_slot, slots and
   labels: they follow from the labels of its blocks. Sizes are checked as those of any layer. */
static haste_status haste__layer_reserve(haste_layer *layer, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_plan plan;
    haste_status status;
    int64_t labels = 0;
    int i;
    layer->slots = 0;
    for (i = 0; i < layer->block_count; i++) {
        haste_block *block = &layer->block[i];
        block->groups = (block->labels + block->group_size - 1) / block->group_size;
        block->first_slot = layer->slots;
        layer->slots += haste__block_slots(block);
        labels += block->labels;
    }
    if (labels > INT32_MAX || layer->slots > INT32_MAX)
        return haste__fail(error, HASTE_ERR_SIZE, "%lld labels in %lld slots, expected below 2^31", (long long)labels,
                           (long long)layer->slots);
    layer->labels = (int32_t)labels;
    haste__layer_forget(layer);
    status = haste__layer_sizes_check(layer, "", HASTE_ERR_ARG, error);
    if (status == HASTE_OK) status = haste__layer_arrange(layer, &arena, &plan, error);
    if (status == HASTE_OK) status = haste__reserve(&arena, "a layer", error);
    if (status != HASTE_OK) return status;
    memset(arena.memory, 0, plan.layer);
    layer->memory = arena.memory;
    layer->bytes = plan.layer;
    haste__layer_arrange(layer, &arena, &plan, error);
    memset(layer->label_of, 0xff, (size_t)layer->slots * sizeof *layer->label_of);   /* -1 */
    return HASTE_OK;
}

/* What follows from label_of. */
static void haste__layer_finish(haste_layer *layer)
{
    int64_t slot;
    for (slot = 0; slot < layer->slots; slot++)
        if (layer->label_of[slot] >= 0) layer->slot_of[layer->label_of[slot]] = (int32_t)slot;
    haste__layer_know_order(layer);
}

/* What the functions that make a layer of another check first. */
static haste_status haste__surgery_check(const haste_layer *to, const haste_layer *from, haste_error *error)
{
    haste_status status;
    if (!to) return haste__fail(error, HASTE_ERR_ARG, "to is NULL");
    if (to == from) return haste__fail(error, HASTE_ERR_ARG, "to is from, expected another struct: from stays");
    status = haste__layer_quick_check(from, error);
    return status == HASTE_OK ? haste__layer_check_ids(from, error) : status;
}

/* Copies numbers into an array of another type; 0 where one of them is not finite there. (1e18, the most that Adam's
   first moment may be, is not rounded up in bfloat16: a copy passes haste_layer_check.) */
static int haste__convert(void *to, haste_dtype to_dtype, const void *from, haste_dtype from_dtype, size_t n)
{
    size_t i;
    if (to_dtype == from_dtype) {
        memcpy(to, from, n * haste__sizeof(to_dtype));
        return 1;
    }
    for (i = 0; i < n; i++) {
        haste__set_number(to, to_dtype, i, haste__number(from, from_dtype, i));
        if (!(fabsf(haste__number(to, to_dtype, i)) <= FLT_MAX)) return 0;
    }
    return 1;
}

/* Copies all groups of block `from_block` to group g and those behind it of block `to_block`, which has the same S and
   F. State goes along where both layers have one optimizer. */
static haste_status haste__copy_groups(const haste_layer *to, int to_block, int64_t g, const haste_layer *from,
                                       int from_block, haste_error *error)
{
    const haste_block *a = &to->block[to_block], *b = &from->block[from_block];
    const size_t S = (size_t)a->group_size, F = (size_t)a->fan_in, groups = (size_t)b->groups, at = (size_t)g;
    const size_t first = at * F * S, n = groups * F * S;
    int k, fits;
    if (a->index) memcpy(a->index + at * F, b->index, groups * F * sizeof *a->index);
    memcpy(a->bias + at * S, b->bias, groups * S * sizeof *a->bias);
    fits = haste__convert((char *)a->weight + first * haste__sizeof(to->dtype), to->dtype, b->weight, from->dtype, n);
    for (k = 0; k < haste__states(to->optimizer) && to->optimizer == from->optimizer; k++) {
        memcpy(a->bias_state[k] + at * S, b->bias_state[k], groups * S * sizeof *a->bias);
        fits &= haste__convert((char *)a->weight_state[k] + first * haste__sizeof(to->state_dtype), to->state_dtype,
                               b->weight_state[k], from->state_dtype, n);
    }
    if (fits) return HASTE_OK;
    return haste__fail(error, HASTE_ERR_STATE, "layer: block[%d] holds a weight or state that is not finite, or too "
                       "large for bfloat16", from_block);
}

/* Copies the label at place j of a block, with its state, to place i of one with the same inputs and types. */
static void haste__copy_label(const haste_layer *to, const haste_block *a, int64_t i, const haste_layer *from,
                              const haste_block *b, int64_t j)
{
    int64_t f;
    int k;
    a->bias[i] = b->bias[j];
    for (k = 0; k < haste__states(to->optimizer); k++) a->bias_state[k][i] = b->bias_state[k][j];
    for (f = 0; f < a->fan_in; f++) {
        const size_t place = haste__place(a, i, f), from_place = haste__place(b, j, f);
        haste__set_number(a->weight, to->dtype, place, haste__number(b->weight, from->dtype, from_place));
        for (k = 0; k < haste__states(to->optimizer); k++)
            haste__set_number(a->weight_state[k], to->state_dtype, place,
                              haste__number(b->weight_state[k], from->state_dtype, from_place));
    }
}

/* The block that a slot lies in. */
static int haste__block_of(const haste_layer *layer, int64_t slot)
{
    int k = 0;
    while (k + 1 < layer->block_count && slot >= layer->block[k + 1].first_slot) k++;
    return k;
}

/* n ids of labels, or NULL: 0 .. n - 1 */
static haste_status haste__ids_check(const haste_layer *layer, const int32_t *id, int64_t n, haste_error *error)
{
    int64_t i;
    if (n < 0 || (!id && n > layer->labels))
        return haste__fail(error, HASTE_ERR_ARG, "n = %lld, expected at least 0%s", (long long)n,
                           n < 0 ? "" : ", and at most L where id is NULL");
    for (i = 0; i < n && id; i++)
        if (id[i] < 0 || id[i] >= layer->labels)
            return haste__fail(error, HASTE_ERR_DATA, "id[%lld] = %d, expected 0 to %d", (long long)i, (int)id[i],
                               (int)layer->labels - 1);
    return HASTE_OK;
}

/* ---- rows ---- */

static float haste__rows_scale(const haste_rows *rows) { return rows->scale != 0 ? rows->scale : 1.0f; }

/* Can a layer of this type hold the weight? */
static int haste__fits(float value, haste_dtype dtype)
{
    return fabsf(dtype == HASTE_BF16 ? haste__from_bf16(haste__to_bf16(value)) : value) <= FLT_MAX;
}

/* Everything that writing n rows could stumble over. */
static haste_status haste__rows_check(const haste_rows *rows, int64_t n, int32_t D, haste_dtype dtype,
                                      haste_error *error)
{
    const char *number = dtype == HASTE_BF16 ? "bfloat16" : "number";
    const float scale = haste__rows_scale(rows);
    const haste_sparse *sparse = rows->sparse;
    int64_t i, j;
    if (rows->dense && sparse)
        return haste__fail(error, HASTE_ERR_ARG, "rows->dense and rows->sparse are both given, expected one");
    if (!(fabsf(scale) <= FLT_MAX))
        return haste__fail(error, HASTE_ERR_ARG, "rows->scale = %g is not finite", (double)scale);
    if (rows->samples < 0)
        return haste__fail(error, HASTE_ERR_ARG, "rows->samples = %lld is negative", (long long)rows->samples);
    for (i = 0; i < n; i++) {
        if (rows->bias && !(fabsf(rows->bias[i]) <= FLT_MAX))
            return haste__fail(error, HASTE_ERR_DATA, "rows->bias[%lld] = %g is not finite", (long long)i,
                               (double)rows->bias[i]);
        if (rows->frequency && (rows->frequency[i] < 0 || rows->frequency[i] > rows->samples))
            return haste__fail(error, HASTE_ERR_DATA, "rows->frequency[%lld] = %lld, expected 0 to samples = %lld",
                               (long long)i, (long long)rows->frequency[i], (long long)rows->samples);
        for (j = 0; j < D && rows->dense; j++)
            if (!haste__fits(rows->dense[i * D + j] * scale, dtype))
                return haste__fail(error, HASTE_ERR_DATA, "rows->dense[%lld, %lld] * scale = %g, expected a finite %s",
                                   (long long)i, (long long)j, (double)(rows->dense[i * D + j] * scale), number);
    }
    if (!sparse || n == 0) return HASTE_OK;
    if (!sparse->offset) return haste__fail(error, HASTE_ERR_ARG, "rows->sparse->offset is NULL");
    for (i = 0; i < n; i++) {
        const int64_t begin = sparse->offset[i], end = sparse->offset[i + 1];
        if (begin < 0 || end < begin)
            return haste__fail(error, HASTE_ERR_DATA, "rows->sparse->offset[%lld] = %lld after %lld, expected "
                               "ascending from 0", (long long)i + 1, (long long)end, (long long)begin);
        if (end > begin && (!sparse->feature || !sparse->value))
            return haste__fail(error, HASTE_ERR_ARG, "rows->sparse->feature or value is NULL");
        for (j = begin; j < end; j++) {
            const int32_t column = sparse->feature[j];
            if (column < 0 || column >= D || (j > begin && column <= sparse->feature[j - 1]))
                return haste__fail(error, HASTE_ERR_DATA, "rows->sparse->feature[%lld] = %d, expected ascending below "
                                   "%d", (long long)j, (int)column, (int)D);
            if (!haste__fits(sparse->value[j] * scale, dtype))
                return haste__fail(error, HASTE_ERR_DATA, "rows->sparse->value[%lld] * scale = %g, expected a finite "
                                   "%s", (long long)j, (double)(sparse->value[j] * scale), number);
        }
    }
    return HASTE_OK;
}

typedef struct haste__energy { double kept, all; } haste__energy;   /* sums of squares */

static double haste__kept(const haste__energy *energy) { return energy->all > 0 ? energy->kept / energy->all : 1; }

/* Row i becomes the label at place j of a block, with state 0, unless `write` is 0; its energy is added. */
static void haste__write_label(const haste_layer *layer, const haste_block *block, int64_t j, const haste_rows *rows,
                               int64_t i, int write, haste__energy *energy)
{
    const int64_t D = layer->inputs;
    const haste_sparse *sparse = rows->sparse;
    const float *dense = rows->dense ? rows->dense + i * D : NULL, scale = haste__rows_scale(rows);
    int64_t f, d, n = sparse ? sparse->offset[i] : 0;
    const int64_t end = sparse ? sparse->offset[i + 1] : 0;
    int k;
    for (d = 0; d < D && dense; d++) energy->all += (double)dense[d] * (double)dense[d];
    for (d = n; d < end; d++) energy->all += (double)sparse->value[d] * (double)sparse->value[d];
    for (f = 0; f < block->fan_in; f++) {
        const size_t place = haste__place(block, j, f);
        const int32_t column = haste__column(block, j, f);
        float value = 0;
        while (n < end && sparse->feature[n] < column) n++;   /* both ascend */
        if (dense) value = dense[column];
        else if (n < end && sparse->feature[n] == column) value = sparse->value[n];
        energy->kept += (double)value * (double)value;
        if (!write) continue;
        haste__set_number(block->weight, layer->dtype, place, value * scale);
        for (k = 0; k < haste__states(layer->optimizer); k++)
            haste__set_number(block->weight_state[k], layer->state_dtype, place, 0);
    }
    if (!write) return;
    block->bias[j] = rows->bias ? rows->bias[i] : 0;
    if (!rows->bias && rows->frequency) block->bias[j] = haste__prior(layer->loss, rows->frequency[i], rows->samples);
    for (k = 0; k < haste__states(layer->optimizer); k++) block->bias_state[k][j] = 0;
}

/* Scratch of haste__choose_inputs, the first two of each thread. */
typedef struct haste__choice {
    double   *energy;   /* [D] */
    uint64_t *key;      /* [D] */
    uint64_t *row;      /* slot << 32 | row of each label, ascending, or of one group's the rows alone */
    int       weigh;    /* 1: rows count by their label's frequency */
} haste__choice;

static haste_status haste__choice_reserve(haste__choice *choice, int32_t D, int threads, int64_t rows,
                                          haste__arena *arena, haste_error *error)
{
    const uint64_t n = (uint64_t)D * (uint64_t)threads;
    haste_status status = HASTE_OK;
    int walk;
    memset(arena, 0, sizeof *arena);
    choice->weigh = 0;
    for (walk = 0; walk < 2 && status == HASTE_OK; walk++) {
        choice->energy = (double *)haste__take(arena, n, sizeof *choice->energy);
        choice->key = (uint64_t *)haste__take(arena, n, sizeof *choice->key);
        choice->row = (uint64_t *)haste__take(arena, (uint64_t)rows, sizeof *choice->row);
        if (walk == 0) status = haste__reserve(arena, "scratch", error);
    }
    return status;
}

/* The F inputs of group g in which rows of its labels hold the most energy; the lower halves of key [key_count] are the
   rows, and `group` is g's number in the layer. */
static void haste__group_choose(const haste_layer *layer, const haste_block *block, int64_t g, int64_t group,
                                 const haste_rows *rows, const uint64_t *key, int64_t key_count,
                                 const haste__choice *choice)
{
    const int32_t F = block->fan_in, width = haste__block_width(block);
    const haste_sparse *sparse = rows->sparse;
    uint16_t *index = block->index + g * F;
    double weights = 0;
    int32_t n = 0, f, d, left;
    int64_t i, j;
    memset(choice->energy, 0, (size_t)width * sizeof *choice->energy);
    for (i = 0; i < key_count; i++) {
        const int64_t row = (int64_t)(key[i] & 0xffffffffu);
        const double weight = choice->weigh && rows->frequency ? (double)rows->frequency[row] : 1;
        const float *dense = rows->dense ? rows->dense + row * layer->inputs + block->begin : NULL;
        weights += weight;
        for (d = 0; d < width && dense; d++) choice->energy[d] += weight * ((double)dense[d] * (double)dense[d]);
        for (j = sparse ? sparse->offset[row] : 0; sparse && j < sparse->offset[row + 1]; j++) {
            d = sparse->feature[j] - block->begin;
            if (d >= 0 && d < width)
                choice->energy[d] += weight * ((double)sparse->value[j] * (double)sparse->value[j]);
        }
    }
    /* The root of its weighted mean over the rows: never too large for a float. */
    for (d = 0; d < width; d++)
        if (choice->energy[d] > 0) choice->key[n++] = haste__key((float)sqrt(choice->energy[d] / weights), d);
    if (n > F) { haste__select(choice->key, n, F); n = F; }

    /* Those chosen are marked by -1. Where they are too few, places among the columns that are left are drawn. */
    for (f = 0; f < n; f++) choice->energy[haste__key_id(choice->key[f])] = -1;
    if (n < F) haste__draw_index(index, F - n, width - n, layer->seed, (uint64_t)(layer->first_group + group));
    for (f = d = left = 0; f < F - n; d++) {
        if (choice->energy[d] < 0) continue;
        if (index[f] != left++) continue;
        choice->energy[d] = -1;
        f++;
    }
    for (f = d = 0; d < width; d++) if (choice->energy[d] < 0) index[f++] = (uint16_t)d;
}

/* key [labels of g] (=): the rows of all its labels, where a label's is its id - first_row. Returns how many. */
static int haste__choice_rows(const haste_layer *layer, const haste_block *block, int64_t g, int32_t first_row,
                                uint64_t *key)
{
    const int labels = haste__group_labels(block, g);
    int s;
    for (s = 0; s < labels; s++)
        key[s] = (uint64_t)(layer->label_of[block->first_slot + g * block->group_size + s] - first_row);
    return labels;
}

/* ---- labels ---- */

haste_status haste_labels_get(const haste_layer *layer, const int32_t *id, int64_t n, float *weight, float *bias,
                              haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    int64_t i, f;
    if (status == HASTE_OK) status = haste__ids_check(layer, id, n, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < n; i++) {
        const int64_t slot = layer->slot_of[id ? id[i] : i];
        const haste_block *block = &layer->block[haste__block_of(layer, slot)];
        const int64_t j = slot - block->first_slot;
        float *row = weight ? weight + i * layer->inputs : NULL;
        if (bias) bias[i] = block->bias[j];
        if (!row) continue;
        memset(row, 0, (size_t)layer->inputs * sizeof *row);
        for (f = 0; f < block->fan_in; f++)
            row[haste__column(block, j, f)] = haste__number(block->weight, layer->dtype, haste__place(block, j, f));
    }
    return HASTE_OK;
}

haste_status haste_labels_get_sparse(const haste_layer *layer, const int32_t *id, int64_t n, int64_t *offset,
                                     int32_t *column, float *value, int64_t capacity, int64_t *needed,
                                     haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    int64_t i, f;
    if (status == HASTE_OK) status = haste__ids_check(layer, id, n, error);
    if (status != HASTE_OK) return status;
    if (!offset || !needed) return haste__fail(error, HASTE_ERR_ARG, "%s is NULL", offset ? "needed" : "offset");
    if (capacity < 0 || (capacity > 0 && (!column || !value)))
        return haste__fail(error, HASTE_ERR_ARG, "capacity = %lld, expected at least 0, and column and value where it "
                           "is more", (long long)capacity);
    offset[0] = 0;
    for (i = 0; i < n; i++)
        offset[i + 1] = offset[i] + layer->block[haste__block_of(layer, layer->slot_of[id ? id[i] : i])].fan_in;
    *needed = offset[n];
    if (*needed > capacity)
        return haste__fail(error, HASTE_ERR_SIZE, "capacity = %lld, needed are %lld", (long long)capacity,
                           (long long)*needed);
    for (i = 0; i < n; i++) {
        const int64_t slot = layer->slot_of[id ? id[i] : i];
        const haste_block *block = &layer->block[haste__block_of(layer, slot)];
        const int64_t j = slot - block->first_slot;
        for (f = 0; f < block->fan_in; f++) {
            column[offset[i] + f] = haste__column(block, j, f);
            value[offset[i] + f] = haste__number(block->weight, layer->dtype, haste__place(block, j, f));
        }
    }
    return HASTE_OK;
}

haste_status haste_labels_set(haste_layer *layer, const int32_t *id, int64_t n, const haste_rows *rows, double *kept,
                              haste_error *error)
{
    haste_status status = haste__layer_quick_check(layer, error);
    haste__energy energy = { 0, 0 };
    haste_rows zero;
    int64_t i;
    memset(&zero, 0, sizeof zero);
    if (!rows) rows = &zero;
    if (status == HASTE_OK) status = haste__ids_check(layer, id, n, error);
    if (status == HASTE_OK) status = haste__rows_check(rows, n, layer->inputs, layer->dtype, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < n; i++) {
        const int64_t slot = layer->slot_of[id ? id[i] : i];
        const haste_block *block = &layer->block[haste__block_of(layer, slot)];
        haste__write_label(layer, block, slot - block->first_slot, rows, i, 1, &energy);
    }
    if (kept) *kept = haste__kept(&energy);
    return HASTE_OK;
}

haste_status haste_labels_add(haste_layer *to, const haste_layer *from, int32_t block, int32_t n,
                              const haste_rows *rows, int32_t strongest, double *kept, haste_error *error)
{
    haste__arena arena;
    haste__choice choice;
    haste__energy energy = { 0, 0 };
    haste_layer l;
    haste_rows zero;
    haste_status status = haste__surgery_check(to, from, error);
    haste_block *b;
    int64_t first, group = 0, g, j;
    int k;
    memset(&zero, 0, sizeof zero);
    if (!rows) rows = &zero;
    if (status != HASTE_OK) return status;
    if (block < 0 || block >= from->block_count)
        return haste__fail(error, HASTE_ERR_ARG, "block = %d, expected 0 to %d", (int)block,
                           (int)from->block_count - 1);
    if (n < 0) return haste__fail(error, HASTE_ERR_ARG, "n = %d, expected at least 0", (int)n);
    if (strongest != 0 && strongest != 1)
        return haste__fail(error, HASTE_ERR_ARG, "strongest = %d, expected 0 or 1", (int)strongest);
    status = haste__rows_check(rows, n, from->inputs, from->dtype, error);
    if (status != HASTE_OK) return status;
    l = *from;
    b = &l.block[block];
    first = b->labels;
    b->labels += n;
    status = haste__layer_reserve(&l, error);
    if (status != HASTE_OK) return status;
    status = haste__choice_reserve(&choice, l.inputs, 1, 256, &arena, error);
    if (status != HASTE_OK) { haste__release(l.memory); return status; }

    for (k = 0; k < l.block_count; k++) {
        const haste_block *old = &from->block[k];
        haste__copy_groups(&l, k, 0, from, k, NULL);   /* of the same types: it cannot fail */
        for (j = 0; j < old->labels; j++) l.label_of[l.block[k].first_slot + j] = from->label_of[old->first_slot + j];
        if (k < block) group += old->groups;
    }
    for (j = first; j < b->labels; j++) l.label_of[b->first_slot + j] = from->labels + (int32_t)(j - first);
    haste__layer_finish(&l);
    for (g = from->block[block].groups; g < b->groups && b->index; g++) {
        if (strongest)
            haste__group_choose(&l, b, g, group + g, rows, choice.row,
                                 haste__choice_rows(&l, b, g, from->labels, choice.row), &choice);
        else haste__draw_index(b->index + g * b->fan_in, b->fan_in, haste__block_width(b), l.seed,
                               (uint64_t)(l.first_group + group + g));
    }
    for (j = first; j < b->labels; j++) haste__write_label(&l, b, j, rows, j - first, 1, &energy);
    haste__release(arena.memory);
    *to = l;
    if (kept) *kept = haste__kept(&energy);
    return HASTE_OK;
}

/* Labels of group g that stay: those whose new id is not -1. */
static int haste__remaining(const haste_layer *layer, const haste_block *block, int64_t g, const int32_t *new_id)
{
    const int labels = haste__group_labels(block, g);
    int s, n = 0;
    for (s = 0; s < labels; s++) n += new_id[layer->label_of[block->first_slot + g * block->group_size + s]] >= 0;
    return n;
}

/* What stays of groups first .. end - 1 of block `from_block` goes to block `to_block`, from place j on. Returns the
   place behind. */
static int64_t haste__move_labels(const haste_layer *to, int to_block, int64_t j, const haste_layer *from,
                                  int from_block, int64_t first, int64_t end, const int32_t *new_id)
{
    const haste_block *a = &to->block[to_block], *b = &from->block[from_block];
    int64_t i;
    for (i = first * b->group_size; i < end * b->group_size && i < b->labels; i++) {
        const int32_t id = new_id[from->label_of[b->first_slot + i]];
        if (id < 0) continue;
        haste__copy_label(to, a, j, from, b, i);
        to->label_of[a->first_slot + j] = id;
        j++;
    }
    return j;
}

haste_status haste_labels_remove(haste_layer *to, const haste_layer *from, const int32_t *id, int64_t n,
                                 int32_t *new_id, haste_error *error)
{
    int64_t shortest[HASTE_MAX_BLOCKS];   /* which group of each block becomes its last; -1: the block vanishes */
    haste__arena arena = { NULL, 0, 0 };
    haste_layer l;
    haste_status status = haste__surgery_check(to, from, error);
    int32_t *renamed, retired, labels = 0;
    int64_t i, g;
    int k, a = 0;
    if (status == HASTE_OK) status = haste__ids_check(from, id, n, error);
    if (status != HASTE_OK) return status;
    if (!new_id) return haste__fail(error, HASTE_ERR_ARG, "new_id is NULL");
    haste__take(&arena, (uint64_t)from->labels, sizeof *renamed);
    status = haste__reserve(&arena, "scratch", error);
    if (status != HASTE_OK) return status;
    renamed = (int32_t *)haste__take(&arena, (uint64_t)from->labels, sizeof *renamed);

    memset(renamed, 0, (size_t)from->labels * sizeof *renamed);
    for (i = 0; i < n; i++) renamed[id ? id[i] : i] = -1;
    for (i = 0; i < from->labels; i++) if (renamed[i] == 0) renamed[i] = labels++;

    l = *from;
    l.block_count = 0;
    for (k = 0; k < from->block_count; k++) {
        const haste_block *b = &from->block[k];
        int64_t groups = 0, all = 0;
        int least = 0, most = 0;
        haste_block *block = &l.block[l.block_count];
        shortest[k] = -1;
        for (g = 0; g < b->groups; g++) {
            const int remaining = haste__remaining(from, b, g, renamed);
            groups += remaining > 0;
            all += remaining;
            if (remaining > most) most = remaining;
            if (remaining == 0 || (shortest[k] >= 0 && remaining > least)) continue;
            shortest[k] = g;
            least = remaining;
        }
        if (shortest[k] < 0) continue;
        *block = *b;
        block->labels = all;
        if (b->fan_in != haste__block_width(b)) {
            while (all < b->labels && block->group_size % 32 == 0 && most <= block->group_size / 2)
                block->group_size /= 2;
            block->labels = (groups - 1) * block->group_size + least;
        }
        l.block_count++;
    }
    if (labels == 0)
        status = haste__fail(error, HASTE_ERR_ARG, "all %d labels are removed, expected one left", (int)from->labels);
    if (status == HASTE_OK) status = haste__layer_reserve(&l, error);
    if (status != HASTE_OK) { haste__release(arena.memory); return status; }

    retired = labels;
    for (k = 0; k < from->block_count; k++) {
        const haste_block *b = &from->block[k], *block = &l.block[a];
        const int64_t S = block->group_size, F = b->fan_in;
        int64_t j = 0, next = 0;   /* the next place, the next group */
        if (shortest[k] < 0) continue;
        if (!block->index) haste__move_labels(&l, a, 0, from, k, 0, b->groups, renamed);
        for (i = 0; i <= b->groups && block->index; i++) {
            g = i < b->groups ? i : shortest[k];   /* that one comes last */
            if ((i < b->groups && i == shortest[k]) || haste__remaining(from, b, g, renamed) == 0) continue;
            memcpy(block->index + next * F, b->index + g * F, (size_t)F * sizeof *block->index);
            next++;
            for (j = haste__move_labels(&l, a, j, from, k, g, g + 1, renamed); j < next * S && i < b->groups; j++) {
                block->bias[j] = HASTE_RETIRED;
                l.label_of[block->first_slot + j] = retired++;
            }
        }
        a++;
    }
    haste__layer_finish(&l);
    memcpy(new_id, renamed, (size_t)from->labels * sizeof *new_id);
    haste__release(arena.memory);
    *to = l;
    return HASTE_OK;
}

/* ---- whole layers ---- */

haste_status haste_layer_copy(haste_layer *to, const haste_layer *from, haste_dtype dtype, haste_dtype state_dtype,
                              haste_optimizer optimizer, haste_error *error)
{
    haste_layer l;
    haste_status status = haste__surgery_check(to, from, error);
    int k;
    if (status != HASTE_OK) return status;
    l = *from;
    l.dtype = dtype;
    l.state_dtype = state_dtype;
    l.optimizer = optimizer;
    if (optimizer == HASTE_ADAMW && from->optimizer != HASTE_ADAMW) l.step = 0;
    status = haste__layer_reserve(&l, error);
    if (status != HASTE_OK) return status;
    for (k = 0; k < l.block_count && status == HASTE_OK; k++)
        status = haste__copy_groups(&l, k, 0, from, k, error);
    if (status != HASTE_OK) { haste__release(l.memory); return status; }
    memcpy(l.label_of, from->label_of, (size_t)l.slots * sizeof *l.label_of);
    memcpy(l.slot_of, from->slot_of, (size_t)l.labels * sizeof *l.slot_of);
    *to = l;
    return HASTE_OK;
}

haste_status haste_layer_attach(haste_layer *layer, const haste_layer_options *options, void *memory, size_t bytes,
                                haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_layer l;
    haste_plan plan;
    haste_status status;
    if (!layer) return haste__fail(error, HASTE_ERR_ARG, "layer is NULL");
    if (options) status = haste__layer_shape(&l, options, error);
    else {
        l = *layer;
        status = haste__layer_sizes_check(&l, "layer: ", HASTE_ERR_ARG, error);
    }
    if (status == HASTE_OK) haste__layer_forget(&l);
    if (status == HASTE_OK) status = haste__layer_arrange(&l, &arena, &plan, error);
    if (status == HASTE_OK) status = haste__memory_check(memory, bytes, plan.layer, error);
    if (status != HASTE_OK) return status;
    arena.memory = (char *)memory;
    arena.end = 0;
    haste__layer_arrange(&l, &arena, &plan, error);
    l.memory = NULL;
    l.bytes = 0;
    status = haste_layer_check(&l, error);
    if (status != HASTE_OK) return status;
    haste__layer_know_order(&l);
    *layer = l;
    return HASTE_OK;
}

haste_status haste_layer_slice(haste_layer *to, const haste_layer *from, int64_t first_slot, int64_t end_slot,
                               int32_t *id, haste_error *error)
{
    haste__arena arena = { NULL, 0, 0 };
    haste_layer l;
    haste_status status = haste__surgery_check(to, from, error);
    int32_t labels = 0, local = 0, i;
    int64_t range[HASTE_MAX_BLOCKS][2], slot;
    int k, n, walk;
    if (status != HASTE_OK) return status;
    status = haste__slot_range(from, first_slot, end_slot, range, error);
    if (status != HASTE_OK) return status;
    l = *from;
    memset(l.block, 0, sizeof l.block);
    l.block_count = 0;
    l.first_slot += first_slot;
    for (k = 0; k < from->block_count; k++) {
        const haste_block *b = &from->block[k];
        const int64_t S = b->group_size, F = b->fan_in, first = range[k][0] * S, last = range[k][1] * S;
        haste_block *block = &l.block[l.block_count];
        if (l.block_count == 0) l.first_group += first < last ? range[k][0] : b->groups;
        if (l.block_count == 0 && first >= last) l.first_block++;
        if (first >= last) continue;
        *block = *b;
        block->groups = (last - first) / S;
        block->labels = (last < b->labels ? last : b->labels) - first;
        block->first_slot = b->first_slot + first - first_slot;
        if (b->index) block->index += first / S * F;
        block->weight = (char *)b->weight + (size_t)(first * F) * haste__sizeof(from->dtype);
        block->bias += first;
        for (n = 0; n < haste__states(from->optimizer); n++) {
            block->weight_state[n] =
                (char *)b->weight_state[n] + (size_t)(first * F) * haste__sizeof(from->state_dtype);
            block->bias_state[n] += first;
        }
        labels += (int32_t)block->labels;
        l.block_count++;
    }
    l.labels = labels;
    l.slots = end_slot - first_slot;
    for (walk = 0; walk < 2; walk++) {
        l.label_of = (int32_t *)haste__take(&arena, (uint64_t)l.slots, sizeof *l.label_of);
        l.slot_of = (int32_t *)haste__take(&arena, (uint64_t)l.labels, sizeof *l.slot_of);
        if (walk == 0) status = haste__reserve(&arena, "scratch", error);
        if (status != HASTE_OK) return status;
    }
    l.memory = arena.memory;
    l.bytes = arena.end;
    for (slot = 0; slot < l.slots; slot++) l.label_of[slot] = -1;
    for (i = 0; i < from->labels; i++) {   /* ids ascend, so local ones do */
        slot = from->slot_of[i] - first_slot;
        if (slot < 0 || slot >= l.slots) continue;
        l.label_of[slot] = local;
        l.slot_of[local] = (int32_t)slot;
        if (id) id[local] = i;
        local++;
    }
    for (slot = local; slot < l.slots && id; slot++) id[slot] = -1;
    haste__layer_know_order(&l);
    *to = l;
    return HASTE_OK;
}

/* Does block b continue block a, so that both can be one? */
static int haste__continues(const haste_block *a, const haste_block *b)
{
    return a->group_size == b->group_size && a->fan_in == b->fan_in && a->begin == b->begin && a->end == b->end &&
           a->labels % a->group_size == 0;
}

haste_status haste_layer_join(haste_layer *to, const haste_layer *const *from, int32_t count, const int32_t *const *id,
                              haste_error *error)
{
    haste_layer l;
    haste_status status = HASTE_OK;
    int64_t j, group = 0, placed = 0;
    int i, k, at = 0;
    if (!from || count < 1)
        return haste__fail(error, HASTE_ERR_ARG, "%s", from ? "count is below 1, expected a layer" : "from is NULL");
    for (i = 0; i < count; i++) {
        status = haste__surgery_check(to, from[i], error);
        if (status != HASTE_OK) return status;
        if (i == 0) l = *from[0];
        if (from[i]->inputs != l.inputs || from[i]->loss != l.loss || from[i]->optimizer != l.optimizer ||
            from[i]->dtype != l.dtype || from[i]->state_dtype != l.state_dtype)
            return haste__fail(error, HASTE_ERR_ARG, "from[%d] differs from from[0] in inputs, loss, optimizer, dtype "
                               "or state_dtype", i);
        if (id && !id[i]) return haste__fail(error, HASTE_ERR_ARG, "id[%d] is NULL", i);
    }
    l.block_count = 0;
    for (i = 0; i < count; i++) for (k = 0; k < from[i]->block_count; k++) {
        const haste_block *b = &from[i]->block[k];
        if (l.block_count > 0 && haste__continues(&l.block[l.block_count - 1], b)) {
            l.block[l.block_count - 1].labels += b->labels;
            continue;
        }
        if (l.block_count == HASTE_MAX_BLOCKS)
            return haste__fail(error, HASTE_ERR_ARG, "from[%d]->block[%d] would be block %d, expected at most %d", i, k,
                               HASTE_MAX_BLOCKS, HASTE_MAX_BLOCKS);
        l.block[l.block_count++] = *b;
    }
    if (l.first_block > HASTE_MAX_BLOCKS - l.block_count) l.first_block = 0;
    status = haste__layer_reserve(&l, error);
    if (status != HASTE_OK) return status;

    for (j = 0; j < l.labels; j++) l.slot_of[j] = -1;
    for (i = 0; i < count && status == HASTE_OK; placed += from[i++]->labels)
        for (k = 0; k < from[i]->block_count && status == HASTE_OK; k++) {
            const haste_block *b = &from[i]->block[k];
            if (group == l.block[at].groups) { at++; group = 0; }
            haste__copy_groups(&l, at, group, from[i], k, NULL);   /* of the same types: it cannot fail */
            for (j = 0; j < b->labels; j++) {
                const int32_t local = from[i]->label_of[b->first_slot + j];
                const int32_t label = id ? id[i][local] : local + (int32_t)placed;
                const int64_t slot = l.block[at].first_slot + group * b->group_size + j;
                if (label < 0 || label >= l.labels || l.slot_of[label] >= 0) {
                    status = haste__fail(error, HASTE_ERR_DATA, "id[%d][%d] = %d: %s", i, (int)local, (int)label,
                                         label < 0 || label >= l.labels ? "expected an id below the sum of labels" :
                                         "this id stood before, expected a permutation");
                    break;
                }
                l.slot_of[label] = (int32_t)slot;
                l.label_of[slot] = label;
            }
            group += b->groups;
        }
    if (status != HASTE_OK) { haste__release(l.memory); return status; }
    haste__layer_know_order(&l);
    *to = l;
    return HASTE_OK;
}

haste_status haste_layer_from_rows(haste_layer *to, const haste_layer_options *options, const haste_rows *rows,
                                   double *kept, haste_error *error)
{
    haste__arena arena;
    haste__choice choice;
    haste__energy energy = { 0, 0 };
    haste_layer_options o;
    haste_layer l;
    haste_rows r;
    haste_status status;
    int64_t group = 0, g, j;
    int k;
    if (!to) return haste__fail(error, HASTE_ERR_ARG, "to is NULL");
    if (!options || !rows) return haste__fail(error, HASTE_ERR_ARG, "%s is NULL", options ? "rows" : "options");
    o = *options;
    o.zero_weights = 1;
    r = *rows;
    if (!r.bias && !r.frequency) {
        r.frequency = o.frequency;
        r.samples = o.samples;
    }
    status = haste_layer_create(&l, &o, error);
    if (status != HASTE_OK) return status;
    status = haste__rows_check(&r, l.labels, l.inputs, l.dtype, error);
    if (status == HASTE_OK) status = haste__choice_reserve(&choice, l.inputs, 1, 256, &arena, error);
    if (status != HASTE_OK) { haste__release(l.memory); return status; }
    for (k = 0; k < l.block_count; group += l.block[k++].groups) {
        const haste_block *block = &l.block[k];
        for (g = 0; g < block->groups && block->index; g++)
            haste__group_choose(&l, block, g, group + g, &r, choice.row,
                                 haste__choice_rows(&l, block, g, 0, choice.row), &choice);
        for (j = 0; j < block->labels; j++)
            haste__write_label(&l, block, j, &r, l.label_of[block->first_slot + j], 1, &energy);
    }
    haste__release(arena.memory);
    *to = l;
    if (kept) *kept = haste__kept(&energy);
    return HASTE_OK;
}

/* What the tasks of haste_choose_inputs share; each does a run of every block's groups. */
typedef struct haste__choosing {
    const haste_layer *layer;
    const haste_rows  *rows;
    int64_t            n;
    haste__choice      choice;
    haste__energy      energy[HASTE__RUNS];
} haste__choosing;

static void haste__choose_run(void *context, int64_t run, int thread)
{
    haste__choosing *c = (haste__choosing *)context;
    const haste_layer *layer = c->layer;
    const uint64_t *key, *end;
    haste__choice choice = c->choice;
    int64_t group = 0, g;
    int k;
    choice.energy += (size_t)thread * (size_t)layer->inputs;
    choice.key += (size_t)thread * (size_t)layer->inputs;
    for (k = 0; k < layer->block_count; group += layer->block[k++].groups) {
        const haste_block *block = &layer->block[k];
        for (g = block->groups * run / HASTE__RUNS; g < block->groups * (run + 1) / HASTE__RUNS; g++) {
            const int64_t slot = block->first_slot + g * block->group_size;
            key = haste__pair_find(choice.row, choice.row + c->n, slot, 0);
            end = haste__pair_find(key, choice.row + c->n, slot + block->group_size, 0);
            if (key < end && block->index)
                haste__group_choose(layer, block, g, group + g, c->rows, key, end - key, &choice);
            for (; key < end; key++)
                haste__write_label(layer, block, (int64_t)(*key >> 32) - block->first_slot, c->rows,
                                   (int64_t)(*key & 0xffffffffu), 0, &c->energy[run]);
        }
    }
}

haste_status haste_choose_inputs(haste_layer *layer, const int32_t *id, int64_t n, const haste_rows *rows,
                                 int32_t threads, double *kept, haste_error *error)
{
    haste__choosing c;
    haste__arena arena;
    haste__energy energy = { 0, 0 };
    haste_rows r;
    haste_status status = haste__layer_quick_check(layer, error);
    int64_t i;
    if (status == HASTE_OK) status = haste__layer_check_ids(layer, error);
    if (status == HASTE_OK) status = haste__ids_check(layer, id, n, error);
    if (status == HASTE_OK) status = haste__threads_check(threads, error);
    if (status == HASTE_OK && !rows) status = haste__fail(error, HASTE_ERR_ARG, "rows is NULL");
    if (status != HASTE_OK) return status;
    if (n > UINT32_MAX)
        return haste__fail(error, HASTE_ERR_SIZE, "n = %lld, expected below 2^32 rows", (long long)n);
    if (layer->step != 0)
        return haste__fail(error, HASTE_ERR_STATE, "layer->step = %lld, expected 0: its weights were trained for the "
                           "inputs that it has", (long long)layer->step);
    r = *rows;
    r.bias = NULL;
    r.samples = INT64_MAX;
    status = haste__rows_check(&r, n, layer->inputs, HASTE_F32, error);
    threads = haste__threads(threads);
    if (status == HASTE_OK) status = haste__choice_reserve(&c.choice, layer->inputs, threads, n, &arena, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < n; i++)
        c.choice.row[i] = (uint64_t)(uint32_t)layer->slot_of[id ? id[i] : i] << 32 | (uint64_t)i;
    haste__sort(c.choice.row, n);
    c.choice.weigh = 1;
    c.layer = layer;
    c.rows = &r;
    c.n = n;
    memset(c.energy, 0, sizeof c.energy);
    haste__parallel(HASTE__RUNS, threads, haste__choose_run, &c);
    for (i = 0; i < HASTE__RUNS; i++) {
        energy.kept += c.energy[i].kept;
        energy.all += c.energy[i].all;
    }
    layer->rewires++;   /* gradients and scores of the inputs before do not belong to these */
    if (kept) *kept = haste__kept(&energy);
    haste__release(arena.memory);
    return HASTE_OK;
}

/* ---- >>reference --------------------------------------------------------------------------------------------- */

/* Plain loops in double over the layouts of haste_block: no blocking, no sharing of work, one formula a function. */

static double haste__weight_ref(const haste_layer *layer, const haste_block *block, int64_t j, int64_t f)
{
    return (double)haste__number(block->weight, layer->dtype, haste__place(block, j, f));
}

void haste_forward_ref(const haste_layer *layer, const float *x, int32_t B, double *logits)
{
    int64_t b, f, j;
    int32_t k;
    for (b = 0; b < B; b++) {
        for (k = 0; k < layer->block_count; k++) {
            const haste_block *block = &layer->block[k];
            for (j = 0; j < haste__block_slots(block); j++) {
                double z = j < block->labels ? (double)block->bias[j] : 0;   /* the rest is padding */
                for (f = 0; f < block->fan_in && j < block->labels; f++)
                    z += haste__weight_ref(layer, block, j, f) *
                         (double)x[b * layer->inputs + haste__column(block, j, f)];
                logits[b * layer->slots + block->first_slot + j] = z;
            }
        }
    }
}

/* u of a logit, see haste_loss_options. */
static double haste__adjusted_ref(const haste_loss_options *o, int32_t id, double z, int positive)
{
    return (o->logit_scale != 0 ? (double)o->logit_scale : 1) * (o->label_scale ? (double)o->label_scale[id] : 1) *
           (z - (positive ? (double)o->margin : 0)) + (o->label_offset ? (double)o->label_offset[id] : 0);
}

void haste_loss_ref(const haste_layer *layer, const double *logits, int32_t B, const haste_lists *positives,
                    const haste_loss_options *options, double *loss, double *grad_logits)
{
    haste_loss_options o;
    double total = 0, scale, positive, smoothing;
    int64_t b, j, slot;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    scale = o.scale != 0 ? o.scale : B > 0 ? 1.0 / (double)B : 1;
    positive = o.positive_weight != 0 ? (double)o.positive_weight : 1;
    smoothing = (double)o.smoothing;
    for (b = 0; b < B; b++) {
        const double *z = logits + b * layer->slots;
        double *grad = grad_logits + b * layer->slots;
        double sample = o.sample_weight ? (double)o.sample_weight[b] : 1, mass = 0, labels = 0, largest = -HUGE_VAL,
               sum = 0;
        double weights = 0;   /* softmax: of the targets */

        /* grad first holds what the lists say: 0 nothing, 1 + y for positives (the first naming counts), -1 ignored. */
        for (slot = 0; slot < layer->slots; slot++) grad[slot] = 0;
        if (!positives->offset && positives->id[b] < 0) sample = 0;
        for (j = haste__list_first(positives, b); j < haste__list_last(positives, b); j++) {
            slot = layer->slot_of[positives->id[j]];
            if (grad[slot] == 0) grad[slot] = 1 + (o.positive_value ? (double)o.positive_value[j] : 1);
        }
        for (j = o.ignored ? haste__list_first(o.ignored, b) : 0; o.ignored && j < haste__list_last(o.ignored, b); j++)
            grad[layer->slot_of[o.ignored->id[j]]] = -1;

        for (slot = 0; slot < layer->slots; slot++) {   /* what a softmax needs of the whole row */
            const int32_t id = layer->label_of[slot];
            double u;
            if (id < 0 || grad[slot] < 0) continue;
            u = haste__adjusted_ref(&o, id, z[slot], grad[slot] > 0);
            if (u > largest) largest = u;
            labels++;
            if (grad[slot] > 0) mass += grad[slot] - 1;
            if (grad[slot] > 0) weights += (grad[slot] - 1) * (o.label_weight ? (double)o.label_weight[id] : 1);
        }
        for (slot = 0; slot < layer->slots; slot++)
            if (layer->label_of[slot] >= 0 && grad[slot] >= 0)
                sum += exp(haste__adjusted_ref(&o, layer->label_of[slot], z[slot], grad[slot] > 0) - largest);

        for (slot = 0; slot < layer->slots; slot++) {
            const int32_t id = layer->label_of[slot];
            const int listed = grad[slot] > 0;
            double y = listed ? grad[slot] - 1 : 0, value = 0, slope = 0, weight, u;
            if (id < 0) continue;
            if (grad[slot] < 0) { grad[slot] = 0; continue; }
            u = haste__adjusted_ref(&o, id, z[slot], listed);
            weight = sample * (o.label_weight ? (double)o.label_weight[id] : 1);
            if (layer->loss == HASTE_SOFTMAX) {
                if (mass > 0) {
                    const double target = (1 - smoothing) * y / mass + smoothing / labels;
                    value = target * (largest + log(sum) - u);
                    slope = ((1 - smoothing) * weights / mass + smoothing) * exp(u - largest) / sum * sample -
                            target * weight;
                    value *= weight;
                }
            } else {
                y = y * (1 - smoothing) + smoothing / 2;
                if (layer->loss == HASTE_BCE) {   /* exponentials that cannot overflow */
                    const double e = exp(-fabs(u)), p = (u > 0 ? 1 : e) / (1 + e);
                    value = positive * y * ((u < 0 ? -u : 0) + log1p(e)) + (1 - y) * ((u > 0 ? u : 0) + log1p(e));
                    slope = -positive * y * (u > 0 ? e / (1 + e) : 1 / (1 + e)) + (1 - y) * p;
                } else {
                    const double below = u < 1 ? 1 - u : 0, above = u > -1 ? 1 + u : 0;
                    value = positive * y * below * below + (1 - y) * above * above;
                    slope = -2 * positive * y * below + 2 * (1 - y) * above;
                }
                value *= weight;
                slope *= weight;
            }
            total += value;
            grad[slot] = slope * scale * (o.logit_scale != 0 ? (double)o.logit_scale : 1) *
                         (o.label_scale ? (double)o.label_scale[id] : 1);
            if (fabs(grad[slot]) < (double)o.negligible * fabs(scale)) grad[slot] = 0;
        }
    }
    *loss = total * scale;
}

void haste_backward_ref(const haste_layer *layer, const float *x, int32_t B, const double *grad_logits,
                        double *const *grad_weight, double *const *grad_bias, double *grad_x)
{
    int64_t b, f, i, j;
    int32_t k;
    if (grad_x) for (i = 0; i < (int64_t)B * layer->inputs; i++) grad_x[i] = 0;
    for (k = 0; k < layer->block_count; k++) {
        const haste_block *block = &layer->block[k];
        double *grad_w = grad_weight ? grad_weight[k] : NULL, *grad_b = grad_bias ? grad_bias[k] : NULL;
        const int64_t slots = haste__block_slots(block), F = block->fan_in;
        if (grad_w) for (i = 0; i < slots * F; i++) grad_w[i] = 0;
        if (grad_b) for (i = 0; i < slots; i++) grad_b[i] = 0;
        for (j = 0; j < block->labels; j++) {
            for (b = 0; b < B; b++) {
                const double slope = grad_logits[b * layer->slots + block->first_slot + j];
                if (grad_b) grad_b[j] += slope;
                for (f = 0; f < F; f++) {
                    const int64_t at = b * layer->inputs + haste__column(block, j, f);
                    if (grad_w) grad_w[haste__place(block, j, f)] += slope * (double)x[at];
                    if (grad_x) grad_x[at] += slope * haste__weight_ref(layer, block, j, f);
                }
            }
        }
    }
}

/* The defaults are the float nearest to .9 and so on, because that is what an option set to .9f holds. */
double haste_update_ref(haste_optimizer optimizer, const haste_step_options *options, int64_t t, int decay,
                        double w, double g, double *m, double *v)
{
    double lr = (double)options->lr, wd = decay ? (double)options->weight_decay : 0;
    double mu    = (double)(options->momentum == 0 ? .9f : options->momentum < 0 ? 0 : options->momentum);
    double beta1 = (double)(options->beta1 == 0 ? .9f : options->beta1 < 0 ? 0 : options->beta1);
    double beta2 = (double)(options->beta2 == 0 ? .999f : options->beta2 < 0 ? 0 : options->beta2);
    double eps   = (double)(options->eps != 0 ? options->eps : 1e-8f);
    switch (optimizer) {
    case HASTE_SGD:
        return w - lr * (g + wd * w);
    case HASTE_MOMENTUM:
        *m = mu * *m + g + wd * w;
        return w - lr * *m;
    case HASTE_ADAMW:
        *m = beta1 * *m + (1 - beta1) * g;
        *v = beta2 * *v + (1 - beta2) * g * g;
        return w - lr * wd * w -
               lr * (*m / (1 - pow(beta1, (double)t))) / (sqrt(*v / (1 - pow(beta2, (double)t))) + eps);
    }
    return w;
}

/* Rank after rank, the best label that comes after the one just found. */
void haste_top_k_ref(const haste_layer *layer, const double *logits, int32_t k, const int32_t *excluded,
                     int64_t excluded_count, int32_t *id, double *score)
{
    int64_t slot, j;
    int32_t rank;
    for (rank = 0; rank < k; rank++) {
        int32_t best = -1;
        double best_score = -HUGE_VAL;
        for (slot = 0; slot < layer->slots; slot++) {
            int32_t label = layer->label_of[slot];
            double z = logits[slot];
            if (label < 0) continue;
            if (rank > 0 &&
                (id[rank - 1] < 0 || z > score[rank - 1] || (z == score[rank - 1] && label <= id[rank - 1])))
                continue;
            if (best >= 0 && (z < best_score || (z == best_score && label > best))) continue;
            for (j = 0; j < excluded_count && excluded[j] != label; j++) { }
            if (j < excluded_count) continue;
            best = label;
            best_score = z;
        }
        id[rank] = best;
        score[rank] = best_score;
    }
}

#define HASTE__LETTERS 0
#include HASTE_FILE

#endif /* HASTE_IMPLEMENTATION */

/* ---- >>letters ----------------------------------------------------------------------------------------------- */

/* Parameters and variables have the letters of the paper: F, S, L, D, b, g, ... Where a project has macros of one
   letter (Arduino's F, complex.h's I), GCC, Clang and MSVC put them aside while this file is read, and bring them
   back. */
#if defined(HASTE__LETTERS) && (defined(__GNUC__) || defined(_MSC_VER))
    #if defined(_MSC_VER)
        #define HASTE__PRAGMA(text) __pragma(text)
    #else
        #define HASTE__PRAGMA(text) _Pragma(#text)
    #endif
    #define HASTE__PUSH(letter) HASTE__PRAGMA(push_macro(#letter))
    #define HASTE__POP(letter)  HASTE__PRAGMA(pop_macro(#letter))
    #define HASTE__EACH_LETTER(of) \
        of(A) of(B) of(C) of(D) of(E) of(F) of(G) of(H) of(I) of(J) of(K) of(L) of(M) \
        of(N) of(O) of(P) of(Q) of(R) of(S) of(T) of(U) of(V) of(W) of(X) of(Y) of(Z) \
        of(a) of(b) of(c) of(d) of(e) of(f) of(g) of(h) of(i) of(j) of(k) of(l) of(m) \
        of(n) of(o) of(p) of(q) of(r) of(s) of(t) of(u) of(v) of(w) of(x) of(y) of(z)
    #if HASTE__LETTERS == 0
        HASTE__EACH_LETTER(HASTE__POP)
    #else
        HASTE__EACH_LETTER(HASTE__PUSH)
        #undef A
        #undef B
        #undef C
        #undef D
        #undef E
        #undef F
        #undef G
        #undef H
        #undef I
        #undef J
        #undef K
        #undef L
        #undef M
        #undef N
        #undef O
        #undef P
        #undef Q
        #undef R
        #undef S
        #undef T
        #undef U
        #undef V
        #undef W
        #undef X
        #undef Y
        #undef Z
        #undef a
        #undef b
        #undef c
        #undef d
        #undef e
        #undef f
        #undef g
        #undef h
        #undef i
        #undef j
        #undef k
        #undef l
        #undef m
        #undef n
        #undef o
        #undef p
        #undef q
        #undef r
        #undef s
        #undef t
        #undef u
        #undef v
        #undef w
        #undef x
        #undef y
        #undef z
    #endif
#endif
#undef HASTE__LETTERS

/* ================================================================================================================
   The kernels, once for each path: see >>kernels, which defines what begins with hv_ and includes this file for what
   follows alone.
   ================================================================================================================ */

#if defined(HASTE__KERNEL_TEXT)
#undef HASTE__KERNEL_TEXT

/* ---- >>kernel text ------------------------------------------------------------------------------------------- */

/* z [S][32] (=): logits of 32 samples. The bias is added last: a prior near -14 would cost the sum its last bits.
   Weights of the next group, `ahead` numbers behind these, are fetched on the way. */
#define HASTE__FORWARD_ADD(i)   HASTE__ADD_TO_ROW(i, w[i])
#define HASTE__FORWARD_STORE(i)                                                                                        \
    hv_store(z + i * HASTE__SAMPLES, sum[i][0] + hv_set(bias[i]));                                                     \
    hv_store(z + i * HASTE__SAMPLES + HV_LANES, sum[i][1] + hv_set(bias[i]));

hv_target HASTE__INLINE void HASTE__KERNEL(forward_tile)(int S, int F, const uint16_t *index, const float *w,
                                                         const float *bias, const float *x, float *z, ptrdiff_t ahead)
{
    const int rows = HV_ROWS, vectors = 2;
    hv_float sum[8][4], b[4];
    int f;
    b[0] = b[1] = b[2] = b[3] = hv_set(0);
    HASTE__EACH_ROW(HASTE__ZERO_ROW)
    for (f = 0; f < F; f++, w += S) {
        const float *in = x + (ptrdiff_t)(index ? index[f] : f) * HASTE__SAMPLES;
        HASTE__PREFETCH(w, ahead);
        b[0] = hv_load(in);
        b[1] = hv_load(in + HV_LANES);
        HASTE__EACH_ROW(HASTE__FORWARD_ADD)
    }
    HASTE__EACH_ROW(HASTE__FORWARD_STORE)
}

hv_target static void HASTE__KERNEL(forward)(int S, int F, const uint16_t *index, const float *w, const float *bias,
                                             const float *x, float *z, ptrdiff_t ahead)
{
    int s, b;
    for (s = 0; s < S; s += HV_ROWS)
        for (b = 0; b < HASTE__SAMPLES; b += 2 * HV_LANES)
            HASTE__KERNEL(forward_tile)(S, F, index, w + s, bias + s, x + b, z + s * HASTE__SAMPLES + b, ahead);
}

/* Logits of `rows` samples from b on and `vectors` of labels from s on, as rows of labels: inputs first .. end - 1,
   which go on from the sums in z where first > 0; the bias after the last. */
#define HASTE__PREDICT_RESUME(i)                                                                                       \
    sum[i][0] = hv_load(z + i * r->stride);                                                                            \
    if (vectors > 1) sum[i][1] = hv_load(z + i * r->stride + HV_LANES);                                                \
    if (vectors > 2) {                                                                                                 \
        sum[i][2] = hv_load(z + i * r->stride + 2 * HV_LANES);                                                         \
        sum[i][3] = hv_load(z + i * r->stride + 3 * HV_LANES);                                                         \
    }
#define HASTE__PREDICT_ADD(i)   HASTE__ADD_TO_ROW(i, in[i])
#define HASTE__PREDICT_STORE(i)                                                                                        \
    hv_store(z + i * r->stride, sum[i][0] + b[0]);                                                                     \
    if (vectors > 1) hv_store(z + i * r->stride + HV_LANES, sum[i][1] + b[1]);                                         \
    if (vectors > 2) {                                                                                                 \
        hv_store(z + i * r->stride + 2 * HV_LANES, sum[i][2] + b[2]);                                                  \
        hv_store(z + i * r->stride + 3 * HV_LANES, sum[i][3] + b[3]);                                                  \
    }

hv_target HASTE__INLINE void HASTE__KERNEL(predict_tile)(const haste__product *r, int rows, int vectors, int bf16,
                                                         int b0, int s, int first, int end)
{
    const ptrdiff_t S = r->S, pitch = r->pitch, ahead = r->ahead;
    const uint16_t *index = r->index;
    const uint16_t *w16 = (const uint16_t *)r->w + first * S + s;
    const float *w32 = (const float *)r->w + first * S + s, *x = (const float *)r->x + b0;
    float *z = r->z + b0 * r->stride + s;
    hv_float sum[8][4], b[4];
    int f;
    b[0] = b[1] = b[2] = b[3] = hv_set(0);
    HASTE__EACH_ROW(HASTE__ZERO_ROW)
    if (first > 0) { HASTE__EACH_ROW(HASTE__PREDICT_RESUME) }
    for (f = first; f < end; f++, w32 += S, w16 += S) {
        const float *in = x + (index ? index[f] : f) * pitch;
        if (bf16) HASTE__PREFETCH(w16, ahead);
        else HASTE__PREFETCH(w32, ahead);
        if (!bf16 && vectors * HV_LANES > 16) HASTE__PREFETCH(w32 + 16, ahead);
        if (vectors * HV_LANES > 32) {
            if (bf16) HASTE__PREFETCH(w16 + 32, ahead);
            else { HASTE__PREFETCH(w32 + 32, ahead); HASTE__PREFETCH(w32 + 48, ahead); }
        }
        b[0] = bf16 ? hv_widen(w16) : hv_load(w32);
        if (vectors > 1) b[1] = bf16 ? hv_widen(w16 + HV_LANES) : hv_load(w32 + HV_LANES);
        if (vectors > 2) {
            b[2] = bf16 ? hv_widen(w16 + 2 * HV_LANES) : hv_load(w32 + 2 * HV_LANES);
            b[3] = bf16 ? hv_widen(w16 + 3 * HV_LANES) : hv_load(w32 + 3 * HV_LANES);
        }
        HASTE__EACH_ROW(HASTE__PREDICT_ADD)
    }
    b[0] = b[1] = b[2] = b[3] = hv_set(0);
    if (end == r->F) {
        b[0] = hv_load(r->bias + s);
        if (vectors > 1) b[1] = hv_load(r->bias + s + HV_LANES);
        if (vectors > 2) {
            b[2] = hv_load(r->bias + s + 2 * HV_LANES);
            b[3] = hv_load(r->bias + s + 3 * HV_LANES);
        }
    }
    HASTE__EACH_ROW(HASTE__PREDICT_STORE)
}

/* The same for all samples and the labels from s on. */
hv_target HASTE__INLINE void HASTE__KERNEL(predict_from)(int s, const haste__product *r, int bf16)
{
    const int start = s, F = r->F, S = r->S, samples = r->samples, turn = s + 8 * HV_LANES <= S ? 8 : F;
    int b, first, end;
    if (samples < 4)   /* few samples wait for memory, fastest in order: a few whole rows of weights at a time */
        for (first = 0; first < F; first = end) {
            end = F - first < turn ? F : first + turn;
            for (s = start; s + 4 * HV_LANES <= S; s += 4 * HV_LANES) {
                for (b = 0; b + 2 <= samples; b += 2) HASTE__KERNEL(predict_tile)(r, 2, 4, bf16, b, s, first, end);
                for (; b < samples; b++) HASTE__KERNEL(predict_tile)(r, 1, 4, bf16, b, s, first, end);
            }
        }
    for (; s + 2 * HV_LANES <= S; s += 2 * HV_LANES) {
        for (b = 0; b + HV_ROWS <= samples; b += HV_ROWS)
            HASTE__KERNEL(predict_tile)(r, HV_ROWS, 2, bf16, b, s, 0, F);
#if HV_ROWS > 4
        for (; b + 4 <= samples; b += 4) HASTE__KERNEL(predict_tile)(r, 4, 2, bf16, b, s, 0, F);
#endif
        for (; b + 2 <= samples; b += 2) HASTE__KERNEL(predict_tile)(r, 2, 2, bf16, b, s, 0, F);
        for (; b < samples; b++) HASTE__KERNEL(predict_tile)(r, 1, 2, bf16, b, s, 0, F);
    }
    for (; s + HV_LANES <= S; s += HV_LANES) {
        for (b = 0; b + 8 <= samples; b += 8) HASTE__KERNEL(predict_tile)(r, 8, 1, bf16, b, s, 0, F);
        for (; b < samples; b++) HASTE__KERNEL(predict_tile)(r, 1, 1, bf16, b, s, 0, F);
    }
#if HV_LANES > 8   /* S is a multiple of 8 */
    if (s < S) haste__avx2_predict_from(s, r, bf16);
#endif
}

hv_target static void HASTE__KERNEL(predict)(const haste__product *r)
{
    if (r->bf16) HASTE__KERNEL(predict_from)(0, r, 1);
    else HASTE__KERNEL(predict_from)(0, r, 0);
}

/* dx (+=): input gradients of 32 samples, from logit gradients dz [S][32]. `rows` inputs f, f + 1, ... at once. */
#define HASTE__GRAD_INPUT_FROM(i)                                                                                      \
    in[i] = w + (ptrdiff_t)(f + i) * S;                                                                                \
    out[i] = dx + (ptrdiff_t)(index ? index[f + i] : f + i) * HASTE__SAMPLES;                                          \
    HASTE__PREFETCH(out[i], 0);                                                                                        \
    HASTE__PREFETCH(out[i], 2 * HV_LANES - 1);
#define HASTE__GRAD_INPUT_ADD(i)   HASTE__ADD_TO_ROW(i, in[i][s])
#define HASTE__GRAD_INPUT_STORE(i)                                                                                     \
    hv_store(out[i], hv_load(out[i]) + sum[i][0]);                                                                     \
    hv_store(out[i] + HV_LANES, hv_load(out[i] + HV_LANES) + sum[i][1]);

hv_target HASTE__INLINE void HASTE__KERNEL(grad_input_tile)(int rows, int f, int S, const uint16_t *index,
                                                            const float *w, const float *dz, float *dx)
{
    const int vectors = 2;
    const float *in[8];
    float *out[8];
    hv_float sum[8][4], b[4];
    int s;
    b[0] = b[1] = b[2] = b[3] = hv_set(0);
    HASTE__EACH_ROW(HASTE__ZERO_ROW)
    HASTE__EACH_ROW(HASTE__GRAD_INPUT_FROM)
    for (s = 0; s < S; s++, dz += HASTE__SAMPLES) {
        b[0] = hv_load(dz);
        b[1] = hv_load(dz + HV_LANES);
        HASTE__EACH_ROW(HASTE__GRAD_INPUT_ADD)
    }
    HASTE__EACH_ROW(HASTE__GRAD_INPUT_STORE)
}

hv_target static void HASTE__KERNEL(grad_input)(int S, int F, const uint16_t *index, const float *w, const float *dz,
                                                float *dx)
{
    int f = 0, b;
    for (; f + HV_ROWS <= F; f += HV_ROWS)
        for (b = 0; b < HASTE__SAMPLES; b += 2 * HV_LANES)
            HASTE__KERNEL(grad_input_tile)(HV_ROWS, f, S, index, w, dz + b, dx + b);
    for (; f < F; f++)
        for (b = 0; b < HASTE__SAMPLES; b += 2 * HV_LANES)
            HASTE__KERNEL(grad_input_tile)(1, f, S, index, w, dz + b, dx + b);
}

/* dw [F, S], stored as `store` says: weight gradients from `tiles` tiles of x, `tile_size` floats apart, and of dzt
   [32][S], one behind the other. `rows` inputs from f on and `vectors` of labels from s on. */
#define HASTE__GRAD_WEIGHT_FROM(i) in[i] = x + (ptrdiff_t)(index ? index[f + i] : f + i) * HASTE__SAMPLES;
#define HASTE__GRAD_WEIGHT_ADD(i)  HASTE__ADD_TO_ROW(i, in[i][b0])
#define HASTE__GRAD_WEIGHT_NEXT(i) in[i] += tile_size;
#define HASTE__GRAD_WEIGHT_STORE(i)                                                                                    \
    HASTE__KERNEL(put)(dw + (ptrdiff_t)(f + i) * S + s, sum[i][0], store);                                             \
    if (vectors > 1) HASTE__KERNEL(put)(dw + (ptrdiff_t)(f + i) * S + s + HV_LANES, sum[i][1], store);

hv_target HASTE__INLINE void HASTE__KERNEL(put)(float *to, hv_float v, haste__store_mode store)
{
    if (store == HASTE__ADD) v = hv_load(to) + v;
    if (store == HASTE__NONTEMPORAL) hv_stream(to, v);
    else hv_store(to, v);
}

hv_target HASTE__INLINE void HASTE__KERNEL(grad_weight_tile)(int rows, int vectors, int f, int s, int S,
                                                             const uint16_t *index, const float *x,
                                                             ptrdiff_t tile_size, int tiles, const float *dzt,
                                                             float *dw, haste__store_mode store)
{
    const float *in[8];   /* no larger than it must be: gcc would keep the pointers in memory */
    hv_float sum[8][4], b[4];
    int b0;
    dzt += s;
    b[0] = b[1] = b[2] = b[3] = hv_set(0);
    HASTE__EACH_ROW(HASTE__ZERO_ROW)
    HASTE__EACH_ROW(HASTE__GRAD_WEIGHT_FROM)
    for (; tiles > 0; tiles--) {
        for (b0 = 0; b0 < HASTE__SAMPLES; b0++, dzt += S) {
            b[0] = hv_load(dzt);
            if (vectors > 1) b[1] = hv_load(dzt + HV_LANES);
            HASTE__EACH_ROW(HASTE__GRAD_WEIGHT_ADD)
        }
        HASTE__EACH_ROW(HASTE__GRAD_WEIGHT_NEXT)
    }
    HASTE__EACH_ROW(HASTE__GRAD_WEIGHT_STORE)
}

/* The same for all inputs and the labels from s on. */
hv_target HASTE__INLINE void HASTE__KERNEL(grad_weight_from)(int s, int S, int F, const uint16_t *index,
                                                             const float *x, ptrdiff_t tile_size, int tiles,
                                                             const float *dzt, float *dw, haste__store_mode store)
{
    int f;
    for (; s + 2 * HV_LANES <= S; s += 2 * HV_LANES) {
        for (f = 0; f + HV_ROWS <= F; f += HV_ROWS)
            HASTE__KERNEL(grad_weight_tile)(HV_ROWS, 2, f, s, S, index, x, tile_size, tiles, dzt, dw, store);
        for (; f < F; f++) HASTE__KERNEL(grad_weight_tile)(1, 2, f, s, S, index, x, tile_size, tiles, dzt, dw, store);
    }
    for (; s + HV_LANES <= S; s += HV_LANES) {
        for (f = 0; f + 8 <= F; f += 8)
            HASTE__KERNEL(grad_weight_tile)(8, 1, f, s, S, index, x, tile_size, tiles, dzt, dw, store);
        for (; f < F; f++) HASTE__KERNEL(grad_weight_tile)(1, 1, f, s, S, index, x, tile_size, tiles, dzt, dw, store);
    }
#if HV_LANES > 8
    if (s < S) haste__avx2_grad_weight_from(s, S, F, index, x, tile_size, tiles, dzt, dw, store);
#endif
}

hv_target static void HASTE__KERNEL(grad_weight)(int S, int F, const uint16_t *index, const float *x,
                                                 ptrdiff_t tile_size, int tiles, const float *dzt, float *dw,
                                                 haste__store_mode store)
{
    if (store == HASTE__SET)
        HASTE__KERNEL(grad_weight_from)(0, S, F, index, x, tile_size, tiles, dzt, dw, HASTE__SET);
    else if (store == HASTE__ADD)
        HASTE__KERNEL(grad_weight_from)(0, S, F, index, x, tile_size, tiles, dzt, dw, HASTE__ADD);
    else HASTE__KERNEL(grad_weight_from)(0, S, F, index, x, tile_size, tiles, dzt, dw, HASTE__NONTEMPORAL);
}

/* Scores of n candidates of one group, whose labels lie within 32 of each other: each sum runs in order of f, with
   the bias last, as all logits do; four at once, since one waits for each addition. Of r: F, S (the distance of
   rows), bf16, index, w and bias from the first of those labels on, and ahead. The array of candidates has room to
   its next multiple of 4, for any of them. */
#define HASTE__SCORE_ADD(i) \
    sum##i = hv_fma1(bf16 ? haste__from_bf16(w16[s##i]) : w32[s##i], x##i[in], sum##i);

hv_target HASTE__INLINE void HASTE__KERNEL(score_four)(const haste__product *r, const haste__candidate *c, int n,
                                                       int bf16, ptrdiff_t ahead)
{
    const ptrdiff_t S = r->S, s0 = c[0].s, s1 = c[1].s, s2 = c[2].s, s3 = c[3].s;
    const float *x0 = c[0].x, *x1 = c[1].x, *x2 = c[2].x, *x3 = c[3].x, *w32 = (const float *)r->w;
    const uint16_t *w16 = (const uint16_t *)r->w, *index = r->index;
    float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    int f;
    for (f = 0; f < r->F; f++, w32 += S, w16 += S) {
        const ptrdiff_t in = index ? index[f] : f;
        if (bf16) HASTE__PREFETCH(w16, ahead);
        else { HASTE__PREFETCH(w32, ahead); HASTE__PREFETCH(w32 + 16, ahead); }
        HASTE__SCORE_ADD(0) HASTE__SCORE_ADD(1) HASTE__SCORE_ADD(2) HASTE__SCORE_ADD(3)
    }
    *c[0].score = sum0 + r->bias[s0];
    if (n > 1) *c[1].score = sum1 + r->bias[s1];
    if (n > 2) *c[2].score = sum2 + r->bias[s2];
    if (n > 3) *c[3].score = sum3 + r->bias[s3];
}

hv_target static void HASTE__KERNEL(score)(const haste__product *r, const haste__candidate *c, int n)
{
    ptrdiff_t ahead = r->ahead;
    for (; n > 0; n -= 4, c += 4, ahead = 0) {
        if (r->bf16) HASTE__KERNEL(score_four)(r, c, n, 1, ahead);
        else HASTE__KERNEL(score_four)(r, c, n, 0, ahead);
    }
}

/* to [columns][rows] (=): from [rows][columns] transposed; and sum [rows] (+=): the sums of from's rows, unless it is
   NULL. Rows of `from` are `pitch` floats apart, those of `to` `stride`; rows and columns are multiples of 8. In
   blocks of 4 by 4, on AVX2 two at once: element by element, this takes as long as half a matrix product. Wider
   registers would need more shuffles, not fewer. */
hv_target static void HASTE__KERNEL(transpose)(int rows, int columns, const float *from, ptrdiff_t pitch, float *to,
                                               ptrdiff_t stride, float *sum)
{
#if HV_LANES == 4 || HV_LANES == 8
    int r, c;
    for (r = 0; r < rows; r += HV_LANES) {
        hv_float total = hv_set(0);
        for (c = 0; c < columns; c += 4) {
            const float *in = from + r * pitch + c;
            float *out = to + c * stride + r;
            hv_float r0 = hv_load_quads(in, pitch), r1 = hv_load_quads(in + pitch, pitch);
            hv_float r2 = hv_load_quads(in + 2 * pitch, pitch), r3 = hv_load_quads(in + 3 * pitch, pitch);
            const hv_float t0 = hv_zip_low(r0, r1), t1 = hv_zip_low(r2, r3);
            const hv_float t2 = hv_zip_high(r0, r1), t3 = hv_zip_high(r2, r3);
            r0 = hv_pair_low(t0, t1); r1 = hv_pair_high(t0, t1);
            r2 = hv_pair_low(t2, t3); r3 = hv_pair_high(t2, t3);
            hv_store(out, r0); hv_store(out + stride, r1);
            hv_store(out + 2 * stride, r2); hv_store(out + 3 * stride, r3);
            total = total + ((r0 + r1) + (r2 + r3));   /* not one after the other: that waits for each addition */
        }
        if (sum) hv_store(sum + r, hv_load(sum + r) + total);
    }
#elif HV_LANES == 16
    haste__avx2_transpose(rows, columns, from, pitch, to, stride, sum);
#else
    int r, c;
    for (c = 0; c < columns; c++)
        for (r = 0; r < rows; r++) {
            to[c * stride + r] = from[r * pitch + c];
            if (sum) sum[r] += from[r * pitch + c];
        }
#endif
}

/* Rows of labels to groups: to[g*stride + b*S + s] = from[b*pitch + g*S + s] for B samples, and sum [groups*S] (+=)
   the sums over b. One row after the other, since each may lie in a page of its own; four at a time. */
hv_target static void HASTE__KERNEL(split_rows)(const float *from, ptrdiff_t pitch, int B, int S, int groups, float *to,
                                                ptrdiff_t stride, float *sum)
{
    ptrdiff_t b = 0;   /* B*S may pass 2^31 */
    int g, s;
#if HV_LANES > 8
    if (S % HV_LANES != 0) { haste__avx2_split_rows(from, pitch, B, S, groups, to, stride, sum); return; }
#endif
    for (; b + 4 <= B; b += 4)
        for (g = 0; g < groups; g++)
            for (s = 0; s < S; s += HV_LANES) {
                const float *in = from + b * pitch + g * S + s;
                float *out = to + g * stride + b * S + s, *total = sum + g * S + s;
                const hv_float r0 = hv_load(in), r1 = hv_load(in + pitch), r2 = hv_load(in + 2 * pitch),
                               r3 = hv_load(in + 3 * pitch);
                hv_store(out, r0);
                hv_store(out + S, r1);
                hv_store(out + 2 * S, r2);
                hv_store(out + 3 * S, r3);
                hv_store(total, hv_load(total) + r0 + r1 + r2 + r3);
            }
    for (; b < B; b++)
        for (g = 0; g < groups; g++)
            for (s = 0; s < S; s += HV_LANES) {
                const hv_float row = hv_load(from + b * pitch + g * S + s);
                hv_store(to + g * stride + b * S + s, row);
                hv_store(sum + g * S + s, hv_load(sum + g * S + s) + row);
            }
}

/* n floats, a multiple of 16, to whole cache lines, by non-temporal stores. */
hv_target static void HASTE__KERNEL(stream)(const float *from, float *to, int n)
{
    int i;
    for (i = 0; i < n; i += HV_LANES) hv_stream(to + i, hv_load(from + i));
}

/* e^x for x <= 0, relative error below 2e-7; from -87 down (and for NaN) it stays at e^-87. */
hv_target HASTE__INLINE hv_float HASTE__KERNEL(exp)(hv_float x)
{
    const hv_float round = hv_set(12582912);   /* 1.5 * 2^23: adding it rounds to whole numbers, the last bits */
    hv_float n, r, p;
    hv_bits power;
    x = hv_max(x, hv_set(-87));
    n = hv_rounded(hv_fma(x, hv_set(1.44269504f), round));
    power = hv_as_bits(n) << 23;
    n = n - round;
    r = hv_fma(n, hv_set(-0.693359375f), x);   /* ln 2 in two parts; n * the first is exact */
    r = hv_fma(n, hv_set(2.12194440e-4f), r);
    p = hv_fma(hv_set(0.00829030588f), r, hv_set(0.0418979755f));
    p = hv_fma(p, r, hv_set(0.166676366f));
    p = hv_fma(p, r, hv_set(0.499991492f));
    p = hv_fma(p, r, hv_set(0.999999707f));
    p = hv_fma(p, r, hv_set(1));
    return hv_as_float(hv_as_bits(p) + power);
}

/* log(1 + e) / e for 0 <= e <= 1, relative error below 3e-7: a million labels with logits near -14 each add 1e-6 to
   the loss, so the error must be relative. */
hv_target HASTE__INLINE hv_float HASTE__KERNEL(log1p_ratio)(hv_float e)
{
    hv_float p = hv_fma(hv_set(0.00523269267f), e, hv_set(-0.0295052324f));
    p = hv_fma(p, e, hv_set(0.0782259415f));
    p = hv_fma(p, e, hv_set(-0.136632449f));
    p = hv_fma(p, e, hv_set(0.191060063f));
    p = hv_fma(p, e, hv_set(-0.248429821f));
    p = hv_fma(p, e, hv_set(0.333190968f));
    p = hv_fma(p, e, hv_set(-0.499994931f));
    return hv_fma(p, e, hv_set(0.99999997f));
}

hv_target HASTE__INLINE hv_float HASTE__KERNEL(abs)(hv_float v)
{
    return hv_as_float(hv_as_bits(v) & hv_set_bits(0x7fffffffu));
}

/* The loss kernels take one tile of logits z [rows][32], treat every label as negative, and replace z by d loss / d z
   * scale; positives are corrected by the caller, who knows which they are. loss [32] (+=, per sample) may be NULL.
   They return 0 where a logit was not finite: v - v is then NaN, and so is `check`, the sum of all. */
hv_target HASTE__INLINE int HASTE__KERNEL(finite)(hv_float check) { return hv_all(hv_less(check, hv_set(1))); }

hv_target HASTE__INLINE int HASTE__KERNEL(bce_rows)(float *z, int rows, float scale, float *loss)
{
    const hv_float zero = hv_set(0), one = hv_set(1), scales = hv_set(scale);
    const hv_bits sign = hv_set_bits(0x80000000u);
    hv_float check = zero;
    int b, s;
    for (b = 0; b < HASTE__SAMPLES; b += HV_LANES) {
        hv_float sum = zero;
        for (s = 0; s < rows; s++) {
            float *at = z + s * HASTE__SAMPLES + b;
            const hv_float v = hv_load(at), e = HASTE__KERNEL(exp)(hv_as_float(hv_as_bits(v) | sign));   /* e^-|v| */
            const hv_float slope = scales * hv_reciprocal(one + e);
            check = check + (v - v);
            hv_store(at, hv_select(hv_less(v, zero), e * slope, slope));
            if (loss) sum = sum + hv_fma(HASTE__KERNEL(log1p_ratio)(e), e, hv_max(v, zero));
        }
        if (loss) hv_store(loss + b, hv_load(loss + b) + sum);
    }
    return HASTE__KERNEL(finite)(check);
}

hv_target static int HASTE__KERNEL(bce)(float *z, int rows, float scale, float *loss)
{
    return loss ? HASTE__KERNEL(bce_rows)(z, rows, scale, loss) : HASTE__KERNEL(bce_rows)(z, rows, scale, NULL);
}

hv_target static int HASTE__KERNEL(hinge)(float *z, int rows, float scale, float *loss)
{
    const hv_float zero = hv_set(0), one = hv_set(1), twice = hv_set(2 * scale);
    hv_float check = zero;
    int b, s;
    for (b = 0; b < HASTE__SAMPLES; b += HV_LANES) {
        hv_float sum = zero;
        for (s = 0; s < rows; s++) {
            float *at = z + s * HASTE__SAMPLES + b;
            const hv_float v = hv_load(at), margin = hv_max(v + one, zero);
            check = check + (v - v);
            sum = hv_fma(margin, margin, sum);
            hv_store(at, twice * margin);
        }
        if (loss) hv_store(loss + b, hv_load(loss + b) + sum);
    }
    return HASTE__KERNEL(finite)(check);
}

/* Softmax, second pass: shift [32] is a sample's largest logit, factor [32] scale over its sum of e^(z - largest). */
hv_target static int HASTE__KERNEL(softmax)(float *z, int rows, const float *shift, const float *factor)
{
    const hv_float zero = hv_set(0);
    hv_float check = zero;
    int b, s;
    for (b = 0; b < HASTE__SAMPLES; b += HV_LANES) {
        const hv_float largest = hv_load(shift + b), factors = hv_load(factor + b);
        for (s = 0; s < rows; s++) {
            float *at = z + s * HASTE__SAMPLES + b;
            const hv_float v = hv_load(at);
            check = check + (v - v);
            hv_store(at, HASTE__KERNEL(exp)(hv_min(v - largest, zero)) * factors);
        }
    }
    return HASTE__KERNEL(finite)(check);
}

/* Softmax, first pass: raises each sample's largest logit so far, best [32], to the tile's; sum [32] (=) of e^(z -
   best). */
hv_target static int HASTE__KERNEL(sumexp)(const float *z, int rows, float *best, float *sum)
{
    hv_float check = hv_set(0);
    int b, s;
    for (b = 0; b < HASTE__SAMPLES; b += HV_LANES) {
        hv_float largest = hv_load(best + b), total = hv_set(0);
        for (s = 0; s < rows; s++) {
            const hv_float v = hv_load(z + s * HASTE__SAMPLES + b);
            check = check + (v - v);
            largest = hv_max(v, largest);
        }
        for (s = 0; s < rows; s++) total = total + HASTE__KERNEL(exp)(hv_load(z + s * HASTE__SAMPLES + b) - largest);
        hv_store(best + b, largest);
        hv_store(sum + b, total);
    }
    return HASTE__KERNEL(finite)(check);
}

/* Which samples' logits z [samples][S] hold one that is not below the sample's floor, or is NaN or -inf (or
   -FLT_MAX): hit [samples] (=). */
hv_target static void HASTE__KERNEL(scan)(const float *z, int samples, int S, const float *floor, unsigned char *hit)
{
    const hv_float lowest = hv_set(-FLT_MAX);
    int b, s;
#if HV_LANES > 8
    if (S % HV_LANES != 0) { haste__avx2_scan(z, samples, S, floor, hit); return; }
#endif
    for (b = 0; b < samples; b++, z += S) {
        const hv_float limit = hv_set(floor[b]);
        hv_mask below = hv_less(hv_set(0), hv_set(1));
        for (s = 0; s < S; s += HV_LANES) {
            const hv_float v = hv_load(z + s);
            below &= hv_less(v, limit) & hv_less(lowest, v);
        }
        hit[b] = (unsigned char)!hv_all(below);
    }
}

/* Zeroes those of the n numbers of z, n a multiple of 16, that are smaller than `least` in magnitude. Is any other
   left? */
hv_target static int HASTE__KERNEL(drop_small)(float *z, int n, float least)
{
    const hv_float zero = hv_set(0), limit = hv_set(least > 1e-45f ? least : 1e-45f);   /* 0 is never left */
    hv_mask small_all = hv_less(zero, hv_set(1));
    int i;
    for (i = 0; i < n; i += HV_LANES) {
        const hv_float v = hv_load(z + i);
        const hv_mask dropped = hv_less(HASTE__KERNEL(abs)(v), limit);
        hv_store(z + i, hv_select(dropped, zero, v));
        small_all &= dropped;
    }
    return !hv_all(small_all);
}

/* Are n numbers below `limit` in magnitude? Infinities and NaN are not. */
hv_target static int HASTE__KERNEL(all_below)(const float *a, int64_t n, float limit)
{
    const hv_float limits = hv_set(limit);
    hv_mask below = hv_less(hv_set(0), hv_set(1));
    int64_t i = 0;
    int tail = 1;
    for (; i + HV_LANES <= n; i += HV_LANES) below &= hv_less(HASTE__KERNEL(abs)(hv_load(a + i)), limits);
    for (; i < n; i++) tail &= fabsf(a[i]) < limit;
    return tail && hv_all(below);
}

/* bfloat16 to float32. n is a multiple of 8, as in all of the following. */
hv_target static void HASTE__KERNEL(widen)(const uint16_t *in, float *out, int n)
{
    int i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) hv_store(out + i, hv_widen(in + i));
#if HV_LANES > 8
    if (i < n) haste__avx2_widen(in + i, out + i, n - i);
#endif
}

/* float32 to bfloat16, as haste__to_bf16_noise, with noise that a mix of `random` and the position gives. */
hv_target static void HASTE__KERNEL(narrow)(const float *in, uint16_t *out, int n, uint64_t random)
{
    static const uint32_t lane[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const uint32_t step = 0x9e3779b9u, low = (uint32_t)random, high = (uint32_t)(random >> 32);
    const hv_bits infinite = hv_set_bits(0x7f800000u);
    hv_bits position = hv_load_bits(lane) * hv_set_bits(step) + hv_set_bits(low);
    int i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) {
        hv_bits bits = hv_as_bits(hv_load(in + i)), magnitude = bits & hv_set_bits(0x7fffffffu), noise = position;
        noise = (noise ^ (noise >> 16)) * hv_set_bits(0x85ebca6bu) + hv_set_bits(high);
        noise = (noise ^ (noise >> 13)) * hv_set_bits(0xc2b2ae35u);
        /* the upper bits of these differences are the signs: finite, NaN */
        bits = bits + ((noise >> 16) & (hv_set_bits(0) - ((magnitude - infinite) >> 31)));
        bits = bits | (((infinite - magnitude) >> 31) << 22);
        hv_store_upper(out + i, bits);
        position = position + hv_set_bits((uint32_t)HV_LANES * step);
    }
#if HV_LANES > 8
    if (i < n) haste__avx2_narrow(in + i, out + i, n - i, (uint64_t)high << 32 | (uint32_t)(low + (uint32_t)i * step));
#endif
}

/* The optimizers, on n weights w with gradients g and states. */
hv_target static void HASTE__KERNEL(sgd)(float *w, const float *g, int n, const haste__rule *rule)
{
    const hv_float lr = hv_set(-rule->lr), decay = hv_set(rule->decay);
    int i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) {
        const hv_float wi = hv_load(w + i);
        hv_store(w + i, hv_fma(lr, hv_fma(decay, wi, hv_load(g + i)), wi));
    }
#if HV_LANES > 8
    if (i < n) haste__avx2_sgd(w + i, g + i, n - i, rule);
#endif
}

hv_target static void HASTE__KERNEL(momentum)(float *w, const float *g, float *v, int n, const haste__rule *rule)
{
    const hv_float lr = hv_set(-rule->lr), decay = hv_set(rule->decay), momentum = hv_set(rule->momentum);
    int i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) {
        const hv_float wi = hv_load(w + i);
        const hv_float vi = hv_fma(momentum, hv_load(v + i), hv_fma(decay, wi, hv_load(g + i)));
        hv_store(v + i, vi);
        hv_store(w + i, hv_fma(lr, vi, wi));
    }
#if HV_LANES > 8
    if (i < n) haste__avx2_momentum(w + i, g + i, v + i, n - i, rule);
#endif
}

hv_target static void HASTE__KERNEL(adamw)(float *w, const float *g, float *m, float *v, int n, const haste__rule *rule)
{
    const hv_float lr = hv_set(rule->lr), decay = hv_set(-(rule->lr * rule->decay)), eps = hv_set(rule->eps);
    const hv_float beta1 = hv_set(rule->beta1), beta2 = hv_set(rule->beta2);
    const hv_float one_beta1 = hv_set(1 - rule->beta1), one_beta2 = hv_set(1 - rule->beta2);
    const hv_float correct1 = hv_set(rule->correct1), correct2 = hv_set(rule->correct2);
    int i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) {
        const hv_float wi = hv_load(w + i), gi = hv_load(g + i);
        const hv_float mi = hv_fma(beta1, hv_load(m + i), one_beta1 * gi);
        const hv_float vi = hv_fma(beta2, hv_load(v + i), one_beta2 * (gi * gi));
        hv_store(m + i, mi);
        hv_store(v + i, vi);
        hv_store(w + i, hv_fma(decay, wi, wi) - lr * (mi * correct1) / (hv_sqrt(vi * correct2) + eps));
    }
#if HV_LANES > 8
    if (i < n) haste__avx2_adamw(w + i, g + i, m + i, v + i, n - i, rule);
#endif
}

/* y += a * x, of any n; for a = 1 an addition. */
hv_target static void HASTE__KERNEL(axpy)(float *y, float a, const float *x, int64_t n)
{
    const hv_float factor = hv_set(a);
    int64_t i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) hv_store(y + i, hv_fma(factor, hv_load(x + i), hv_load(y + i)));
    for (; i < n; i++) y[i] = hv_fma1(a, x[i], y[i]);
}

/* a . b, of any n: four vectors of sums side by side, which hides the addition's latency. */
hv_target static float HASTE__KERNEL(dot)(const float *a, const float *b, int64_t n)
{
    hv_float sum0 = hv_set(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    float tail = 0;
    int64_t i = 0;
    for (; i + 4 * HV_LANES <= n; i += 4 * HV_LANES) {
        sum0 = hv_fma(hv_load(a + i), hv_load(b + i), sum0);
        sum1 = hv_fma(hv_load(a + i + HV_LANES), hv_load(b + i + HV_LANES), sum1);
        sum2 = hv_fma(hv_load(a + i + 2 * HV_LANES), hv_load(b + i + 2 * HV_LANES), sum2);
        sum3 = hv_fma(hv_load(a + i + 3 * HV_LANES), hv_load(b + i + 3 * HV_LANES), sum3);
    }
    for (; i + HV_LANES <= n; i += HV_LANES) sum0 = hv_fma(hv_load(a + i), hv_load(b + i), sum0);
    for (; i < n; i++) tail = hv_fma1(a[i], b[i], tail);
    return hv_sum((sum0 + sum1) + (sum2 + sum3)) + tail;
}

/* out[k] (=) a . b[k] for 4 rows b [4][n], which share what is loaded of a. */
hv_target static void HASTE__KERNEL(dot4)(const float *a, const float *b, int64_t n, float *out)
{
    const float *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
    hv_float sum0 = hv_set(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
    int64_t i = 0;
    for (; i + HV_LANES <= n; i += HV_LANES) {
        const hv_float ai = hv_load(a + i);
        sum0 = hv_fma(ai, hv_load(b + i), sum0);
        sum1 = hv_fma(ai, hv_load(b1 + i), sum1);
        sum2 = hv_fma(ai, hv_load(b2 + i), sum2);
        sum3 = hv_fma(ai, hv_load(b3 + i), sum3);
    }
    out[0] = hv_sum(sum0);
    out[1] = hv_sum(sum1);
    out[2] = hv_sum(sum2);
    out[3] = hv_sum(sum3);
    for (; i < n; i++) {
        out[0] = hv_fma1(a[i], b[i], out[0]);
        out[1] = hv_fma1(a[i], b1[i], out[1]);
        out[2] = hv_fma1(a[i], b2[i], out[2]);
        out[3] = hv_fma1(a[i], b3[i], out[3]);
    }
}

/* The sum of n |a|, or |a*b| unless b is NULL; n a multiple of 8. */
hv_target static float HASTE__KERNEL(sum_abs)(const float *a, const float *b, int n)
{
#if HV_LANES > 8
    return haste__avx2_sum_abs(a, b, n);
#else
    hv_float sum = hv_set(0);
    int i;
    if (b) for (i = 0; i < n; i += HV_LANES) sum = sum + HASTE__KERNEL(abs)(hv_load(a + i) * hv_load(b + i));
    else   for (i = 0; i < n; i += HV_LANES) sum = sum + HASTE__KERNEL(abs)(hv_load(a + i));
    return hv_sum(sum);
#endif
}

/* row [64*words] (+=): a random projection of n features, scaled: every feature has a row of random signs, here eight
   at a time from the table `sign` [256][8] of what a byte stands for. */
hv_target static void HASTE__KERNEL(project)(float *row, int64_t words, uint64_t seed, const int32_t *feature,
                                             const float *value, int64_t n, double scale, float (*sign)[8])
{
#if HV_LANES > 8
    haste__avx2_project(row, words, seed, feature, value, n, scale, sign);
#else
    int64_t i, w;
    int byte, j;
    for (i = 0; i < n; i++) {
        const hv_float scaled = hv_set((float)((double)value[i] * scale));
        for (w = 0; w < words; w++) {
            const uint64_t place = (uint64_t)feature[i] * (uint64_t)words + (uint64_t)w;
            uint64_t random = haste__random(seed, HASTE__STREAM_PROJECT, place);
            float *out = row + w * 64;
            for (byte = 0; byte < 8; byte++, random >>= 8, out += 8)
                for (j = 0; j < 8; j += HV_LANES)
                    hv_store(out + j, hv_fma(scaled, hv_load(sign[random & 255] + j), hv_load(out + j)));
        }
    }
#endif
}

static const haste__kernels HASTE__KERNEL(kernels) =
    {HASTE__KERNEL(forward), HASTE__KERNEL(predict),    HASTE__KERNEL(grad_input), HASTE__KERNEL(grad_weight),
     HASTE__KERNEL(score),   HASTE__KERNEL(transpose),  HASTE__KERNEL(split_rows), HASTE__KERNEL(stream),
     HASTE__KERNEL(bce),     HASTE__KERNEL(hinge),      HASTE__KERNEL(softmax),    HASTE__KERNEL(sumexp),
     HASTE__KERNEL(scan),    HASTE__KERNEL(drop_small), HASTE__KERNEL(all_below),  HASTE__KERNEL(widen),
     HASTE__KERNEL(narrow),  HASTE__KERNEL(sgd),        HASTE__KERNEL(momentum),   HASTE__KERNEL(adamw),
     HASTE__KERNEL(axpy),    HASTE__KERNEL(dot),        HASTE__KERNEL(dot4),       HASTE__KERNEL(sum_abs),
     HASTE__KERNEL(project)};

    #undef HASTE__KERNEL
    #undef HV_LANES
    #undef HV_ROWS
    #undef hv_target
    #undef hv_float
    #undef hv_bits
    #undef hv_mask
    #undef hv_load
    #undef hv_load_bits
    #undef hv_store
    #undef hv_stream
    #undef hv_set
    #undef hv_set_bits
    #undef hv_as_bits
    #undef hv_as_float
    #undef hv_fma
    #undef hv_fma1
    #undef hv_max
    #undef hv_min
    #undef hv_sqrt
    #undef hv_reciprocal
    #undef hv_rounded
    #undef hv_less
    #undef hv_select
    #undef hv_all
    #undef hv_sum
    #undef hv_widen
    #undef hv_store_upper
    #undef hv_load_quads
    #undef hv_zip_low
    #undef hv_zip_high
    #undef hv_pair_low
    #undef hv_pair_high
#endif /* HASTE__KERNEL_TEXT */

/* ---- >>history -------------------------------------------------------------------------------------------------

   0.2.0   One interface to stay; nothing of 0.1 that is named here remains as it was.
           Objects know what they were made for: gradients their layer, its labels' order, their pending micro-batches
           and its rewires; metrics are told k. Workspaces are opaque, and for training, prediction or both. Lists go by
           pointer, B = 0 is no error, HASTE_NONE says 0 where 0 means a default, haste_loss_options.scale replaces
           divisor.
           haste_inverse_propensity (haste_propensity), haste_metrics_values (haste_scores), haste_cohesion without
           haste_group's report; functions without a workspace take `threads`.
           New: haste_evaluate, weights, offsets, margins, smoothing, ignored labels, losses of one's own, part of the
           groups, rates of blocks, clipping, softmax and rewiring over shards, which can be made alone
           (haste_layer_options.first_slot); labels and layers taken apart and put together;
           searches take options: without some labels, or among listed ones only; lists of shards are merged; models in
           memory; inputs chosen from data (haste_choose_inputs), growth by scores of many batches (haste_score_inputs;
           inputs of score 0 are drawn, not taken in order), where rows came from (haste_rewire_options.origin); where x
           is mostly 0, steps leave out inputs that are 0 in whole blocks of samples;
           haste_file_check; HASTE_CHECK_VERSION, HASTE_DLL, HASTE_API.
           On a GPU: fast steps of sparse blocks with S 16 or 32 on every device from 8.0 on and for every batch size,
           frequent labels as fast as others, training in CUDA graphs (haste_cuda_live), haste_cuda_evaluate, options of
           the loss, searches with options.
           An update that would write infinite weights is refused. Saving keeps modes and links, refuses devices, and
           clears what killed programs left. Model files have version 2 and one byte order; those of 0.1 are read.
           Kernels as ordinary text, equally fast under gcc and clang; 32-bit x86 with x87, s390x and others compile and
           pass the tests; all names of one letter and of windows.h may be macros.
   0.1.0   the layer in C: blocks, training, prediction, grouping, rewiring, metrics, model files, references; kernels
           for AVX-512, AVX2 and NEON. haste_cuda.cuh: the same on a GPU

   ----------------------------------------------------------------------------------------------------------------
MIT License

Copyright (c) 2026 the haste authors

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
   ---------------------------------------------------------------------------------------------------------------- */
