/* haste_cuda.cuh - version 0.2.0 - MIT licence at the end of haste.h

   The output layer of haste.h on an NVIDIA GPU: the same words with haste_cuda_ before them, device pointers, the caller's
   stream. Nothing but the CUDA runtime.

   Do this:
       #define HASTE_CUDA_IMPLEMENTATION
       #include "haste_cuda.cuh"
   in ONE .cu file, and include it plainly everywhere else: in C, C++ or CUDA files; this half needs no CUDA header. The
   functions of haste.h must be linked too: define HASTE_IMPLEMENTATION in the same file, or in a .c file (where the CPU gets
   its vector kernels).

       haste_layer_create(&host, &options, &error);                              // or haste_load; statuses are left out here
       haste_cuda_upload(&layer, &host, NULL, stream, &error);
       haste_cuda_workspace_create(&work, &layer, NULL, &error);
       for each batch:
           haste_cuda_train_step(&layer, &work, dev_x, HASTE_CUDA_F32, B, &positives, &step, dev_loss,
                                 dev_grad_x, HASTE_CUDA_F32, stream, &error);
       haste_cuda_top_k(&layer, &work, dev_x, HASTE_CUDA_F32, B, 5, NULL, dev_id, dev_score, stream, &error);
       haste_cuda_check(&work, stream, &error);   // waits; says what only the device could see
       haste_cuda_download(&layer, &host, stream, &error);

   DEVICES   compute capability 8.0 and up, the wide and given kernels 9.0 alone (sm_90a). All tests were run on 9.0 (H200,
       CUDA 13.0), compiled for it and for 8.0; what is compiled for 8.6 to 12.0 was not run there. CUDA 12 or newer. Objects
       live on the device that was current when they were made, and must be used with it current.
   STREAMS   Every call puts its work on `stream` (a cudaStream_t; NULL: the default stream) and returns. Only functions that
       say so wait for the device. One workspace serves one stream at a time; two layers, or two workspaces, are independent.
       Freeing waits for the device; but before memory of the caller's is used again, the caller waits for the stream.
   GRAPHS   A stream that is being captured takes all that computes, with lists on the device. For training, work.live.step
       must say where the number of steps is kept on the device, since rounding and Adam need it, and the loss's `share`;
       learning rate and scale may lie there too (see haste_cuda_live), else a graph keeps those of the capture. What a replay
       would do wrong is refused: rewiring, lists on the host, and all that waits. gradient.pending counts what was captured,
       not replays: capture haste_cuda_accumulate and _apply together, or say yourself what is pending.
   ERRORS   As in haste.h: a status, and a sentence in haste_error. Arguments, sizes and lists on the host are checked before
       anything is done. B = 0 is no error: there is nothing to do. HASTE_ERR_DEVICE: the device cannot do it, or a CUDA
       call failed: that of a step, after which weights may have been updated in part. An error that the program's earlier
       CUDA calls have left for cudaGetLastError is not taken for one of ours; it stays unless a call here fails too, or uses
       a kernel for the first time (cudaFuncSetAttribute clears it). What only the device can see (a bad id or list there, a
       value that is not finite) sets a flag that haste_cuda_check reads. A pair with a bad id is passed over; a sample whose
       offsets descend, or reach beyond the workspace's ids, counts as one without labels, and where others then overlap it is
       unspecified which labels of these count.
   NOT FINITE   x, weights and given gradients are not looked at. Training looks at logits (with options of the loss at u), at
       gradients, of which 1e18 and more counts as not finite (Adam squares them), and at updated weights and biases. What has
       one is left as it was, with its state and biases, all else is updated; grad_x and loss of the call are unspecified:
       general    logits: a run of at most 64 labels of a group. Gradients: 64 inputs of that run, and each bias by itself.
                  New weights: 8 labels of an input, and each bias. haste_cuda_accumulate likewise adds nothing there;
                  haste_cuda_apply judges a run as a whole
       wide       the group, also where 16 to 64 of its logits add up to 1e37, or one of its bias gradients to 1e17 over a
                  quarter of the batch (or of the part of it that is worked on at once). Gradients: the group where its F inputs are worked on at once (F <= 64, or F <= 128
                  and S <= 64; not dense), else 64 inputs, those whose turn comes after them, and the biases
       narrow     16 labels of the group, or all 32 where F <= 64, also where logits add up to 3e38. Gradients: the same
                  labels; where two or four thread blocks hold the batch each half or quarter of the inputs by itself, biases
                  with the first. SGD looks at new weights and biases instead of gradients
       wide and narrow do not look at new weights otherwise: a step whose rates alone would let one become infinite (lr of 1e12
                  and more, with momentum 100; or lr * weight_decay above 1) is left to general, or left out where its rate
                  lies on the device. They do not expect states
                  that no training leaves: velocities above 1e28, huge first moments beside a second one of 0
       softmax    logits that are not finite take no part in the sample's sum
       Prediction: haste_cuda_forward and haste_cuda_score return such logits as they are, and say nothing; haste_cuda_top_k
       and haste_cuda_above report them, and the sample's result is unspecified. Rewiring: see there.
   ARITHMETIC   what is multiplied, and where sums are kept
       weights    operation                       operands                             sums
       float32    all                             float32                              float32
       bfloat16   step, forward, backward,        bfloat16: x and logit gradients are  float32
                  top-k, above, rewire            rounded to nearest
       bfloat16   score                           bfloat16 weights, x as it is given   float32
       bfloat16   top-k with B <= 4               bfloat16 weights, x as the sum of    float32
                                                  two bfloat16 (16 bits), or as given;
                                                  above some 10,000 inputs rounded
       Updates are made in float32 and rounded stochastically to bfloat16, from (seed, step, slot, place). Losses are added
       up in float64.
   DETERMINISM   The same bits each time, in workspaces of the same options and layer (which decide how a large batch is cut
       into parts), except grad_x: groups add to it in the order in which they happen to run. With
       options.deterministic a fixed number of chunks is summed in a fixed order, slower. Weights do not depend on grad_x.
       On the wide path, with BCE, whether a loss is asked for changes logit gradients in their last bit, and so the rest.
   LAYOUT   The order of weights inside a group is private, and differs from path to path; upload and download convert.
       Indices, biases and gradient buffers are as in haste.h.
   OPTIONS   where the implementation is compiled; each pair both or neither
       HASTE_CUDA_MALLOC(pointer, bytes), HASTE_CUDA_FREE(pointer)   instead of cudaMalloc and cudaFree; the first returns a
                                      cudaError_t, the second waits until the device no longer uses the memory
       HASTE_MALLOC, HASTE_FREE       as in haste.h: scratch on the host for create and download

   KERNELS   A block is a CUDA thread block here; of 128 threads in the general kernels.
       prepare x        a block turns 32 samples x 32 inputs of [B, D] into parts of rows of 64 samples, one row an input
       lists            a warp takes the ids of one sample; in three passes the pairs (label, sample) of each group come to
                        lie one after another, so that frequent labels take no longer than others
       moments          a warp of prepare x says what step this is: rates, scale, random numbers
       group            a block takes one group, or 64 labels of it, after the other: logits, loss, gradients, update
       forward          likewise: logits, and what is wanted of them: stored, softmax's sums, the k best, those above
       panel            the same, faster, for bfloat16 blocks of any path: see >>panel
       few              a warp takes 32 labels after the other for at most 8 samples, bfloat16: the k best
       stream           likewise a group after the other for at most 4 samples: float32, and what the former does not take
       probe            a group after the other: scores of inputs, and gradients in all inputs, for rewiring
       wide             compute capability 9.0, built for sm_90a: the train step of bfloat16 blocks, faster: >>wide
       narrow           the train step of small groups, and logits: >>narrow. Both use the device's short exponentials and
                        logarithms: a loss is right to 2e-5 of itself
       given            9.0, built for sm_90a: gradients from given logit gradients, x or its gradient on chip: >>backward
       candidates       gradient growth with x on chip: >>candidates
*/
#ifndef HASTE_CUDA_CUH
#define HASTE_CUDA_CUH

#include "haste.h"

#define HASTE__LETTERS 1   /* as in haste.h: macros of one letter are put aside */
#include HASTE_FILE

#ifdef __cplusplus
extern "C" {
#endif

/* A cudaStream_t, without CUDA's headers. */
typedef struct CUstream_st *haste_cuda_stream;

/* What the caller's arrays on the device hold. */
typedef enum haste_cuda_type { HASTE_CUDA_F32 = 0, HASTE_CUDA_BF16 = 1, HASTE_CUDA_F16 = 2 } haste_cuda_type;

/* Which kernels train a block. A path fixes the order of its weights on the device, so it is chosen when the layer is made.
   Whatever a path does not take the general kernels do. A batch that does not fit on the chip goes by parts, with up to 256 MiB
   of the workspace for gradients that wait for the rest. */
typedef enum haste_cuda_path {
    HASTE_CUDA_AUTO = 0,      /* the fastest that takes the block */
    HASTE_CUDA_GENERAL,       /* any shape */
    HASTE_CUDA_WIDE,          /* bfloat16; S 32, 64, 128; F a multiple of 16; dense blocks too: gathered inputs, wgmma */
    HASTE_CUDA_NARROW         /* bfloat16; S 16, 32; F 16, 32, 48, 64, 96, 128; slices to 700 to 1,100 inputs, by F and
                                 optimizer (99 KiB of shared memory: to 450, AdamW less): the batch stays on chip, 64 samples
                                 a thread block, or 32 where the slice is wide, of up to four (before 9.0: of one) */
} haste_cuda_path;

/* Lists of label ids, as haste_lists: on the device, or on the host. Host lists are checked, and copied before the call
   returns. offset is not NULL, and on the device id neither, even if all lists are empty. They are passed by pointer: NULL
   where they are optional, or where B = 0. */
typedef struct haste_cuda_lists {
    const int64_t *offset;    /* [B+1] */
    const int32_t *id;
    int32_t        on_host;
} haste_cuda_lists;

/* Options: all zero means the default. */
typedef struct haste_cuda_options {
    haste_cuda_path path[HASTE_MAX_BLOCKS];   /* of each block; a path that does not take the block is an error */
    int32_t         batch;                    /* the B that paths are chosen for; 0: 128 */
    int64_t         first_slot, end_slot;     /* only these slots, for a shard: whole groups; both 0: all */
    void           *memory;                   /* the caller's device memory, plan.layer bytes, 256-byte aligned, which must
                                                 outlive the layer; NULL: allocated */
    size_t          bytes;                    /* of `memory` */
} haste_cuda_options;

/* A layer on the device: a haste_layer whose arrays are device pointers. It holds slots first_slot .. first_slot + slots - 1
   of the whole layer: all of them, or those of a shard; ids are always those of the whole layer, slots count from the
   layer's own first. */
typedef struct haste_cuda_layer {
    int32_t         labels, inputs;           /* L of the whole layer, D */
    int64_t         slots;                    /* of this layer */
    int64_t         first_slot;               /* of the whole layer: where this one begins; else 0 */
    haste_dtype     dtype, state_dtype;
    haste_loss      loss;
    haste_optimizer optimizer;
    int32_t         block_count;
    haste_block     block[HASTE_MAX_BLOCKS];  /* device pointers; first_slot counts from this layer's first slot */
    haste_cuda_path path[HASTE_MAX_BLOCKS];   /* never AUTO */
    int64_t         group_base[HASTE_MAX_BLOCKS];   /* groups of the whole layer before the block's first: random numbers
                                                       count them */
    int32_t        *label_of;                 /* [slots], device */
    int32_t        *slot_of;                  /* [L], device: slots of the whole layer */
    uint64_t        seed, order_id;           /* as in haste_layer, of the whole layer */
    int64_t         step, rewires;
    int32_t         device;
    void           *memory;                   /* device memory that haste_cuda_layer_free gives back; NULL: a view, or in
                                                 the caller's memory */
    size_t          bytes;
} haste_cuda_layer;

/* As in haste.h: 0 means the default, HASTE_NONE the value 0 where the default is another and 0 makes sense. */
typedef struct haste_cuda_workspace_options {
    int32_t       batch;      /* the largest B, at most 2^24; 0: 128 */
    int64_t       ids;        /* the most ids of one batch's lists; 0: 64 * batch */
    int32_t       top_k;      /* the largest k, at most 64; 0: 16 */
    int32_t       deterministic;   /* 1: grad_x in a fixed order */
    int32_t       chunks;     /* deterministic: how many runs of groups are worked on side by side, each with a grad_x of
                                 its own, at most 1024; 0: 64 */
    haste_purpose purpose;    /* what it is for; other calls are refused. HASTE_TRAINING: haste_cuda_train_step, _evaluate,
                                 _accumulate, _apply, _forward, _backward, _score, _rewire. HASTE_PREDICTION:
                                 haste_cuda_forward, _score, _top_k, _above */
    void         *memory;     /* the caller's device memory, plan.workspace bytes, 256-byte aligned, which must outlive the
                                 workspace; NULL: allocated. Pinned memory, and two events, are taken either way */
    size_t        bytes;      /* of `memory` */
} haste_cuda_workspace_options;

/* What training reads on the device when it runs, not on the host when it is called: so replays of a graph see what lies there
   then. Each is one number, or NULL. It can be set and changed at any time in workspace.live, for the calls that follow.
   Where lr or scale is not finite, lr or step below 0, or lr too large (1e12; with momentum 100; or lr * weight_decay above 1:
   the kernels of any path then might write infinite weights), nothing is done, and haste_cuda_check says
   HASTE_ERR_NONFINITE. */
typedef struct haste_cuda_live {
    const float *lr;      /* a factor on all learning rates: with options.lr = 1 it is the learning rate */
    const float *scale;   /* a factor on options.loss.scale: a gradient of the loss, a loss scale */
    const float *skip;    /* not 0 (found_inf of mixed precision): haste_cuda_train_step does nothing, its loss becomes 0;
                             haste_cuda_apply only zeroes the gradient */
    int64_t     *step;    /* steps made: takes the place of layer->step, which stays as it is; += 1. The same in all workspaces
                             that train the layer. Who downloads or saves it, or goes on without, copies it to layer->step
                             before */
} haste_cuda_live;

/* What a batch needs besides the layer. */
typedef struct haste_cuda_workspace {
    int32_t       batch, top_k, deterministic, chunks;   /* as above, never 0 (but deterministic) */
    int64_t       ids;
    haste_purpose purpose;
    haste_dtype   dtype;                /* of the layer it was made for: the type of its weights, */
    int32_t       inputs, max_fan_in;   /* D and the largest F, */
    int64_t       groups;               /* and the groups of its blocks together */
    int32_t       device;
    int32_t       owned;                /* 1: haste_cuda_workspace_free gives `memory` back */
    size_t        sums_bytes;           /* for gradients that wait for the rest of a large batch */
    void         *memory;               /* on the device; its contents are the library's affair */
    size_t        bytes;
    void         *pinned;               /* on the host, pinned: two buffers for host lists */
    size_t        pinned_bytes;
    void         *event[2];             /* when they may be filled again, */
    int32_t       turn;                 /* and which one is next */
    haste_cuda_live live;               /* the caller's: NULLs at first */
} haste_cuda_workspace;

/* Gradients as large as the weights, on the device, in the order of haste_gradient; its members have the same meaning. One
   of a shard or a range belongs to those slots alone. */
typedef struct haste_cuda_gradient {
    float   *weight[HASTE_MAX_BLOCKS];   /* [G, F, S], 16-byte aligned; NULL: not wanted (haste_cuda_backward only) */
    float   *bias[HASTE_MAX_BLOCKS];     /* [G, S]; the same */
    int32_t  pending;                    /* micro-batches in it that are not yet applied; who fills the arrays himself
                                            says 1 */
    int64_t  rewires;                    /* the layer's when the first of them was added: rows belong to inputs */
    uint64_t layer;                      /* which layers it belongs to */
    void    *memory;                     /* what haste_cuda_gradient_free gives back, or NULL */
    size_t   bytes;                      /* its size */
} haste_cuda_gradient;

/* Bytes of device memory (pinned: of host memory) that will be allocated, or that the caller gives, each in one piece.
   rewire: while haste_cuda_rewire runs, and only if there are places that can move. */
typedef struct haste_cuda_plan {
    size_t layer, workspace, pinned, gradient, rewire;
} haste_cuda_plan;

/* Names of kernels, for each operation on a block: "general" (group, forward or, to rewire, probe), "wide", "narrow",
   "panel", "given", "few", "stream", "candidates". Constants. */
typedef struct haste_cuda_kernels {
    const char *step;                  /* of haste_cuda_train_step; haste_cuda_accumulate has the general ones */
    const char *forward;
    const char *softmax;               /* the first pass of a step with softmax: the sums over labels */
    const char *grad_weight, *grad_x;  /* of haste_cuda_backward */
    const char *top_k;                 /* of the workspace's top_k, nothing excluded; few and stream: all blocks, or none */
    const char *above;
    const char *rewire;                /* growth by gradient; "" where nothing can move */
} haste_cuda_kernels;

/* ---- >>api status, planning, paths --------------------------------------------------------------------------- */

/* haste_cuda_path_text: "general", "wide", "narrow", "auto". */
HASTE_API const char *haste_cuda_path_text(haste_cuda_path path);

/* haste_cuda_supported: HASTE_OK where the current device can run this, as it was compiled; else HASTE_ERR_DEVICE and why
   not. */
HASTE_API haste_status haste_cuda_supported(haste_error *error);

/* haste_cuda_plan_bytes: what the functions below will allocate, byte for byte. options, work and cuda as they will be
   passed there (work and cuda may be NULL). For the current device; without one it lacks what large batches need on the narrow
   path. HASTE_ERR_ARG, HASTE_ERR_SIZE. */
HASTE_API haste_status haste_cuda_plan_bytes(const haste_layer_options *options, const haste_cuda_workspace_options *work,
                                             const haste_cuda_options *cuda, haste_cuda_plan *plan, haste_error *error);

/* haste_cuda_path_of: which path trains block `number` of a layer with a batch of B, and a sentence that says why not a
   faster one (*why, out (=), or NULL; a constant, empty on a fast path). The layer's path decides; where it does not take B,
   or the path is wide and `work` deterministic (NULL: it is not), it is the general one, as it is for rates that NOT FINITE
   names and for a loss with options. Where the layer was made with that one, the sentence speaks of the path that is nearest
   to the block: narrow for S 16, else wide.
   haste_cuda_kernels_of: the same for every operation: the kernels that serve it, by their names above (KERNELS), for a B
   that the workspace takes and arrays of the caller's that are 16-byte aligned (else the general ones serve). The panel
   kernels do not depend on the path: they take bfloat16 blocks with S and F multiples of 16 and slices to about 1,500 inputs,
   1,270 for top-k with k = 64 (where a thread block may have 227 KiB of shared memory). work NULL: as one made without
   options. No such block, or no device: all "". */
HASTE_API haste_cuda_path haste_cuda_path_of(const haste_cuda_layer *layer, const haste_cuda_workspace *work, int32_t number,
                                             int32_t B, const char **why);
HASTE_API haste_cuda_kernels haste_cuda_kernels_of(const haste_cuda_layer *layer, const haste_cuda_workspace *work,
                                                   int32_t number, int32_t B);

/* ---- >>api layer --------------------------------------------------------------------------------------------- */

/* haste_cuda_upload: a layer on the device from one on the host: one allocation, weights converted to the path's order.
   haste_cuda_download: back into a host layer of the same shape, which the caller has made: weights, indices, biases, state,
     label order, step, rewires and seed. A shard writes its own slots only.
   haste_cuda_layer_create: as haste_layer_create, made on the device: the same bits as haste_layer_create followed by an
     upload.
   haste_cuda_layer_view: a layer whose arrays the caller has made. `arrays` is a haste_layer with device pointers in the
     order of haste.h, 16-byte aligned; all its paths are general. Owns nothing. (For every path in memory of one's own:
     upload and create with options.memory.)
   haste_cuda_layer_range: slots first_slot .. end_slot - 1 of a layer, as a layer that shares its memory: for shards on one
     device. Both ends on whole groups. Its losses and input gradients are its own labels' share; positives of other labels
     are passed over. Its step and rewires count on their own. On the same paths weights become, bit for bit, what the
     whole layer's would, but for wide blocks of more than 128 inputs a group (64 for S 128): their sums begin elsewhere, and
     the last bits may differ. Softmax, whose sums go over all labels, is HASTE_ERR_ARG where a range or a shard trains, or
     is rewired from gradients: there haste_cuda_forward and haste_cuda_backward serve, with sums over all shards in between.
   haste_cuda_layer_free: gives back what the layer owns, and zeroes the struct.

   Upload, download and create wait for the stream. HASTE_ERR_ARG, HASTE_ERR_STATE, HASTE_ERR_SIZE, HASTE_ERR_MEMORY,
   HASTE_ERR_DEVICE: nothing stays allocated and *layer is unchanged (but host, where a download breaks off, may have been
   written in part). */
HASTE_API haste_status haste_cuda_upload(haste_cuda_layer *layer, const haste_layer *host, const haste_cuda_options *options,
                                         haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_download(const haste_cuda_layer *layer, haste_layer *host, haste_cuda_stream stream,
                                           haste_error *error);
HASTE_API haste_status haste_cuda_layer_create(haste_cuda_layer *layer, const haste_layer_options *options,
                                               const haste_cuda_options *cuda, haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_layer_view(haste_cuda_layer *layer, const haste_layer *arrays, haste_error *error);
HASTE_API haste_status haste_cuda_layer_range(haste_cuda_layer *view, const haste_cuda_layer *layer, int64_t first_slot,
                                              int64_t end_slot, haste_error *error);
HASTE_API void         haste_cuda_layer_free(haste_cuda_layer *layer);

/* haste_cuda_workspace_create, _free; haste_cuda_gradient_create (zeroed), _free: plan.workspace + plan.pinned, and
   plan.gradient bytes. A workspace serves every layer whose dtype is the same and whose D, F and groups are not larger than
   those it was made for. Both wait for the default stream, and are then ready for any. HASTE_ERR_ARG, HASTE_ERR_STATE,
   HASTE_ERR_SIZE, HASTE_ERR_MEMORY (host memory too), HASTE_ERR_DEVICE: nothing stays allocated, *work or *gradient is
   unchanged (memory of the caller's, here and above, may have been written).
   haste_cuda_gradient_init: over the caller's arrays on the device, as they are; haste_cuda_gradient_zero: zeroes the arrays
   and forgets what is pending. As haste_gradient_init and _zero. */
HASTE_API haste_status haste_cuda_workspace_create(haste_cuda_workspace *work, const haste_cuda_layer *layer,
                                                   const haste_cuda_workspace_options *options, haste_error *error);
HASTE_API void         haste_cuda_workspace_free(haste_cuda_workspace *work);
HASTE_API haste_status haste_cuda_gradient_create(haste_cuda_gradient *gradient, const haste_cuda_layer *layer,
                                                  haste_error *error);
HASTE_API haste_status haste_cuda_gradient_init(haste_cuda_gradient *gradient, const haste_cuda_layer *layer,
                                                float *const *weight, float *const *bias, haste_error *error);
HASTE_API haste_status haste_cuda_gradient_zero(haste_cuda_gradient *gradient, const haste_cuda_layer *layer,
                                                haste_cuda_stream stream, haste_error *error);
HASTE_API void         haste_cuda_gradient_free(haste_cuda_gradient *gradient);

/* haste_cuda_check: waits for the stream and reads, then clears, what the device has noticed since the last check:
   HASTE_ERR_DATA: an id out of range, or lists that are malformed or too long; it names the first such sample;
   HASTE_ERR_NONFINITE: see NOT FINITE above (where both are true, DATA's sentence says so).
   HASTE_ERR_DEVICE: a kernel failed. */
HASTE_API haste_status haste_cuda_check(haste_cuda_workspace *work, haste_cuda_stream stream, haste_error *error);

/* ---- >>api training ------------------------------------------------------------------------------------------ */

/* haste_cuda_train_step: haste_train_step. One pass over the weights of all blocks.

     x          [B, D] row-major, device, of x_type
     positives  B lists, on device or host. Host lists are copied to pinned memory first; the call waits only where the step
                before the last has not yet consumed its own
     loss       device pointer (or mapped host pointer) to one double (=), or NULL
     grad_x     [B, D] device, of grad_x_type (float32 or bfloat16), (+=), or NULL
     options    as in haste.h, with the loss's arrays on the device, where what they hold is trusted: sample_weight; without
                softmax label_weight, label_scale, label_offset, logit_scale, margin, positive_weight, smoothing and share.
                The general kernels do these, on any path. negligible saves no time. What else is asked
                for, clip and grad_norm are HASTE_ERR_ARG, with a sentence
     The rest as in haste.h. layer->step += 1 when the work is queued, but with work->live.step: then that, on the device.

   Adam's eps, decays and corrections as on the CPU. HASTE_ERR_ARG, HASTE_ERR_SIZE, HASTE_ERR_DATA (host lists),
   HASTE_ERR_STATE (a stream that is being captured, without work->live.step): nothing is changed. */
HASTE_API haste_status haste_cuda_train_step(haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                             haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                             const haste_step_options *options, double *loss, void *grad_x,
                                             haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error);

/* haste_cuda_accumulate, haste_cuda_apply: as haste_accumulate and haste_apply, HASTE_ERR_STATE included.
   haste_cuda_evaluate: as haste_evaluate: loss and grad_x of haste_cuda_train_step, without an update. options NULL: the
     defaults. By the general kernels, on any path. */
HASTE_API haste_status haste_cuda_accumulate(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                             haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                             const haste_step_options *options, haste_cuda_gradient *gradient, double *loss,
                                             void *grad_x, haste_cuda_type grad_x_type, haste_cuda_stream stream,
                                             haste_error *error);
HASTE_API haste_status haste_cuda_evaluate(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                           haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                           const haste_loss_options *options, double *loss, void *grad_x,
                                           haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_apply(haste_cuda_layer *layer, haste_cuda_workspace *work, haste_cuda_gradient *gradient,
                                        const haste_step_options *options, haste_cuda_stream stream, haste_error *error);

/* haste_cuda_forward: logits [B, slots] (=), float32 or bfloat16, in slot order; padding slots become 0.
   haste_cuda_backward: gradients from logit gradients [B, slots], float32 or bfloat16: gradient (=, pending = 1), grad_x
     (+=); either may be NULL, and so may arrays of `gradient`. B = 0 leaves both as they are. With bfloat16 weights logit
     gradients are rounded to bfloat16. */
HASTE_API haste_status haste_cuda_forward(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                          haste_cuda_type x_type, int32_t B, void *logits, haste_cuda_type logits_type,
                                          haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_backward(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                           haste_cuda_type x_type, int32_t B, const void *grad_logits,
                                           haste_cuda_type grad_logits_type, haste_cuda_gradient *gradient, void *grad_x,
                                           haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error);

/* ---- >>api prediction ---------------------------------------------------------------------------------------- */

/* As haste_search_options. */
typedef struct haste_cuda_search_options {
    const haste_cuda_lists *excluded;   /* B lists of labels; or NULL: none */
    const haste_cuda_lists *only;       /* not on the device yet: NULL, else HASTE_ERR_ARG; haste_cuda_score scores listed
                                           labels */
} haste_cuda_search_options;

/* haste_cuda_score: score[j - offset[0]] (=), device. Any B and any number of candidates where they lie on the device. A
     shard leaves the places of other shards' labels as they are.
   haste_cuda_top_k: id [B, k] (=), score [B, k] (=) or NULL, device; 1 <= k <= work->top_k. options NULL: all labels.
   haste_cuda_above: offset [B+1], id and score [capacity], all on the device; *needed on the host. Waits for the stream.
     Where *needed > capacity: HASTE_ERR_SIZE, offset set, id and score untouched. With B = 0 offset[0] = 0 too. */
HASTE_API haste_status haste_cuda_score(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                        haste_cuda_type x_type, int32_t B, const haste_cuda_lists *candidates, float *score,
                                        haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_top_k(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                        haste_cuda_type x_type, int32_t B, int32_t k,
                                        const haste_cuda_search_options *options, int32_t *id, float *score,
                                        haste_cuda_stream stream, haste_error *error);
HASTE_API haste_status haste_cuda_above(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                        haste_cuda_type x_type, int32_t B, float threshold,
                                        const haste_cuda_search_options *options, int64_t *offset, int32_t *id,
                                        float *score, int64_t capacity, int64_t *needed, haste_cuda_stream stream,
                                        haste_error *error);

/* ---- >>api rewiring ------------------------------------------------------------------------------------------ */

/* haste_cuda_rewire: haste_rewire, its options (scores, origin, sum and softmax NULL) and its B = 0. From equal weights and
   gradients it decides as the CPU does, but that inputs of score 0 are taken in order; gradients differ in their last bits,
   so that those near a tie may fall otherwise. Allocates plan.rewire bytes, for the batch of `work`, and waits for the
   stream. HASTE_ERR_NONFINITE as there: where the score of a place, or of an input that could
   take one, is not finite, or a logit in a group whose gradients were needed, which with saliency all are, for growth those
   that move something. Then nothing is changed. A shard (or range) ranks its own places only. */
HASTE_API haste_status haste_cuda_rewire(haste_cuda_layer *layer, haste_cuda_workspace *work,
                                         const haste_rewire_options *options, const void *x, haste_cuda_type x_type,
                                         int32_t B, const haste_cuda_lists *positives, int64_t *moved,
                                         haste_cuda_stream stream, haste_error *error);

#ifdef __cplusplus
}
#endif

#define HASTE__LETTERS 0
#include HASTE_FILE

#endif /* HASTE_CUDA_CUH */

/* ================================================================================================================
   End of the API. What follows is the implementation, compiled where HASTE_CUDA_IMPLEMENTATION is defined.
   ================================================================================================================ */

#if defined(HASTE_CUDA_IMPLEMENTATION) && !defined(HASTE_CUDA_IMPLEMENTATION_DONE)
#define HASTE_CUDA_IMPLEMENTATION_DONE

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(__CUDACC__)
    #error "the implementation of haste_cuda.cuh is CUDA: define HASTE_CUDA_IMPLEMENTATION in a .cu file, compiled by nvcc"
#endif
#include <cuda_runtime.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define HASTE__LETTERS 1
#include HASTE_FILE

#if !defined(HASTE_MALLOC) && !defined(HASTE_FREE)   /* as in haste.h, whose implementation may be in another file */
    #define HASTE_MALLOC(bytes) malloc(bytes)
    #define HASTE_FREE(memory)  free(memory)
#elif !defined(HASTE_MALLOC) || !defined(HASTE_FREE)
    #error "define both of HASTE_MALLOC and HASTE_FREE, or neither"
#endif
#if !defined(HASTE_CUDA_MALLOC) && !defined(HASTE_CUDA_FREE)
    #define HASTE_CUDA_MALLOC(pointer, bytes) cudaMalloc((pointer), (bytes))
    #define HASTE_CUDA_FREE(pointer)          cudaFree(pointer)
#elif !defined(HASTE_CUDA_MALLOC) || !defined(HASTE_CUDA_FREE)
    #error "define both of HASTE_CUDA_MALLOC and HASTE_CUDA_FREE, or neither"
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900 && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
    #warning "haste_cuda.cuh: sm_90 lacks the instructions of the wide and given kernels; compile for sm_90a"
#endif

/* Are there clusters of thread blocks on the device that is compiled for? */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    #define HASTE__CU_CLUSTERS 0
#else
    #define HASTE__CU_CLUSTERS 1
#endif

/* What a kernel is for the runtime; its dynamic shared memory. tests/emulator has others. */
#ifndef HASTE__CU_KERNEL
    #define HASTE__CU_KERNEL(...) ((const void *)(__VA_ARGS__))
    #define HASTE__CU_SHARED(name, alignment) extern __shared__ __align__(alignment) unsigned char name[]
#endif

/* Launches a kernel. The launch's own error is returned: the one that cudaGetLastError gives may be another library's. */
template <typename T> struct haste__cu_same { typedef T type; };   /* arguments are converted to the kernel's types */
template <typename... P>
static cudaError_t haste__cu_launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared, cudaStream_t stream,
                                    typename haste__cu_same<P>::type... values)
{
    void *arguments[] = { (void *)&values... };
    return cudaLaunchKernel(HASTE__CU_KERNEL(kernel), grid, threads, arguments, shared, stream);
}

/* The same in a function that has a `launched`; HASTE__CU_LAUNCHED says what failed. */
#define HASTE__CU_LAUNCH(kernel, grid, threads, shared, stream, ...) \
    launched = haste__cu_launch(kernel, dim3((unsigned)(grid)), dim3((unsigned)(threads)), (shared), (stream), __VA_ARGS__)

/* ---- >>instructions ------------------------------------------------------------------------------------------

   A line of PTX or two each. Addresses of shared memory are 32-bit numbers. volatile keeps instructions in the order in
   which they are written, which is the order that was measured; those without it the compiler may move. */

#ifdef HASTE__CU_INSTRUCTIONS   /* the same functions, for something else than a GPU */
    #include HASTE__CU_INSTRUCTIONS
#else
static __device__ __forceinline__ uint32_t haste__cu_address(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* 16 bytes from global to shared memory, zeros where they are not wanted; and without that question. Copies up to a
   copy_batch are one batch; copy_wait_but<N> waits until all batches but the last N have arrived, copy_wait for all copies.
   After either a thread sees what its own copies brought; others need a barrier. */
static __device__ __forceinline__ void haste__cu_copy16(uint32_t to, const void *from, bool wanted)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
static __device__ __forceinline__ void haste__cu_copy16(void *to, const void *from, bool wanted)
{
    haste__cu_copy16(haste__cu_address(to), from, wanted);
}
static __device__ __forceinline__ void haste__cu_copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(to), "l"(from) : "memory");
}
static __device__ __forceinline__ void haste__cu_copy16(void *to, const void *from)
{
    haste__cu_copy16(haste__cu_address(to), from);
}
static __device__ __forceinline__ void haste__cu_copy_batch() { asm volatile("cp.async.commit_group;" ::: "memory"); }
static __device__ __forceinline__ void haste__cu_copy_wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }
template <int N> static __device__ __forceinline__ void haste__cu_copy_wait_but()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

/* Four 8x8 matrices of bfloat16; lane 8j + r gives the address of row r of matrix j. */
static __device__ __forceinline__ void haste__cu_ldmatrix(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]),
                 "=r"(r[2]), "=r"(r[3]) : "r"(haste__cu_address(row)) : "memory");
}
static __device__ __forceinline__ void haste__cu_ldmatrix_trans(uint32_t *r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]),
                 "=r"(r[2]), "=r"(r[3]) : "r"(haste__cu_address(row)) : "memory");
}

/* c [16][8] += a [16][16] b [16][8], bfloat16 with float32 sums. */
static __device__ __forceinline__ void haste__cu_mma(float *c, const uint32_t *a, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* p[0..3] += v, somewhere in global memory; p 16-byte aligned. */
static __device__ __forceinline__ void haste__cu_add4(float *p, float a, float b, float c, float d)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("red.global.v4.f32.add [%0], {%1,%2,%3,%4};" :: "l"(p), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
    atomicAdd(p, a); atomicAdd(p + 1, b); atomicAdd(p + 2, c); atomicAdd(p + 3, d);
#endif
}

/* A kernel launched early (haste__cu_early) may begin before the one in front of it has ended, where that one allows it.
   Until it has waited it may use its own shared memory, and read what was complete before that one began: >>backward reads
   given gradients, indices and weights, since prepare x, in front of it, is launched plainly. From compute capability 9.0
   on. */
static __device__ __forceinline__ void haste__cu_allow_next()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void haste__cu_wait_before()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The line of p will be wanted soon. */
static __device__ __forceinline__ void haste__cu_prefetch(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" :: "l"(p));
}

/* 16 bytes that others may be writing: not from the first cache. */
static __device__ __forceinline__ uint4 haste__cu_load_fresh(const void *p)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p) : "memory");
    return v;
}

/* 8 and 16 bytes at once; left to itself the compiler may take such a store apart. */
static __device__ __forceinline__ void haste__cu_write8(void *p, uint32_t a, uint32_t b)
{
    asm volatile("st.global.v2.u32 [%0], {%1,%2};" :: "l"(p), "r"(a), "r"(b) : "memory");
}
static __device__ __forceinline__ void haste__cu_write16(void *p, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" :: "l"(p), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/* An 8x8 matrix of bfloat16, two of a row in a lane, to its transpose. */
static __device__ __forceinline__ uint32_t haste__cu_transpose8(uint32_t two)
{
    uint32_t out;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(two));
    return out;
}

/* Two numbers to bfloat16, to nearest, the first in the low half. */
static __device__ __forceinline__ uint32_t haste__cu_pack_fast(float low, float high)
{
    uint32_t two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}

/* 2 to the x, and 1 / x: the device's short forms, as are the root and the logarithm below. */
static __device__ __forceinline__ float haste__cu_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
static __device__ __forceinline__ float haste__cu_inverse(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float haste__cu_root(float x)
{
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ void haste__cu_copy4(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(from) : "memory");
}

/* Shared memory. */
static __device__ __forceinline__ uint32_t haste__cu_lds16(uint32_t at)
{
    uint16_t v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}
static __device__ __forceinline__ uint32_t haste__cu_lds32(uint32_t at)
{
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
static __device__ __forceinline__ float haste__cu_lds32f(uint32_t at)
{
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}
static __device__ __forceinline__ void haste__cu_lds64(uint32_t *v, uint32_t at)
{
    asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "r"(at) : "memory");
}
static __device__ __forceinline__ void haste__cu_lds128(uint32_t *v, uint32_t at)
{
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(at) : "memory");
}
static __device__ __forceinline__ void haste__cu_lds128(float *v, uint32_t at)
{
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(at) : "memory");
}
static __device__ __forceinline__ void haste__cu_sts128(uint32_t at, float a, float b, float c, float d)
{
    asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(at), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}

/* The binary logarithm. */
static __device__ __forceinline__ float haste__cu_log2(float x)
{
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two finite numbers, each rounded away from 0 with the probability that makes the mean exact. */
static __device__ __forceinline__ uint32_t haste__cu_round2(float low, float high, uint32_t noise)
{
    return __byte_perm(__float_as_uint(low) + (noise & 0xffffu), __float_as_uint(high) + (noise >> 16), 0x7632);
}

/* mbarriers in shared memory, of `count` arrivals. After init_fence copies and other blocks of the cluster may use them, the
   block's own threads after a barrier. wait: until the phase of that parity has ended. */
static __device__ __forceinline__ void haste__cu_barrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(barrier), "r"(count) : "memory");
}
static __device__ __forceinline__ void haste__cu_barrier_init_fence()
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
static __device__ __forceinline__ void haste__cu_barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(barrier) : "memory");
}
/* Arrives, and bytes that copies will bring are expected. */
[[maybe_unused]] static __device__ __forceinline__ void haste__cu_barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void haste__cu_barrier_wait(uint32_t barrier, uint32_t parity)
{
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    asm volatile("{\n .reg .pred done;\n again_%=:\n mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 " @!done bra again_%=;\n}"
                 :: "r"(barrier), "r"(parity) : "memory");
#else
    asm volatile("{\n .reg .pred done;\n again_%=:\n mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
                 " @!done bra again_%=;\n}"
                 :: "r"(barrier), "r"(parity) : "memory");
#endif
}
/* d[16 x 8] = a[16 x 16] b[16 x 8] + c */
static __device__ __forceinline__ void haste__narrow_mma(float *d, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                                         uint32_t b0, uint32_t b1, float c0, float c1, float c2, float c3)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(c0), "f"(c1), "f"(c2), "f"(c3));
}

/* As haste__cu_transpose8, but kept in its place among the loads. */
static __device__ __forceinline__ uint32_t haste__narrow_transpose(uint32_t piece)
{
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(piece));
    return out;
}

/* In a cluster, of 9.0 and up: barriers and shared memory of its other blocks. */
static __device__ __forceinline__ void haste__narrow_wait_cluster(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n .reg .pred done;\n again_%=:\n"
                 " mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 " @!done bra again_%=;\n}" :: "r"(barrier), "r"(parity) : "memory");
}
static __device__ __forceinline__ uint32_t haste__narrow_of_rank(uint32_t address, uint32_t rank)   /* that block's */
{
    uint32_t out;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(address), "r"(rank));
    return out;
}
static __device__ __forceinline__ void haste__narrow_arrive_other(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" :: "r"(barrier) : "memory");
}
[[maybe_unused]] static __device__ __forceinline__ void haste__narrow_send4(uint32_t to, const float *v, uint32_t barrier)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];"
                 :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(barrier) : "memory");
}
[[maybe_unused]] static __device__ __forceinline__ void haste__narrow_send(uint32_t to, float v, uint32_t barrier)
{
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];"
                 :: "r"(to), "f"(v), "r"(barrier) : "memory");
}
static __device__ __forceinline__ void haste__cu_cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.aligned;\n barrier.cluster.wait.aligned;" ::: "memory");
}

/* Keeps v in a register: reading the lane's number again takes 50 cycles. */
static __device__ __forceinline__ void haste__narrow_keep(int &v) { asm volatile("" : "+r"(v)); }
/* An address that the compiler takes for another one, so that what lies there is loaded again, not kept in registers. */
template <typename T> static __device__ __forceinline__ const T *haste__cu_again(const T *p)
{
    asm volatile ("" : "+l"(p));
    return p;
}

/* Two bfloat16: check += 0 * w. It becomes NaN where one is not finite. */
static __device__ __forceinline__ void haste__narrow_collect(uint32_t &check, uint32_t w)
{
    asm volatile("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(check) : "r"(w), "r"(0));
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)   /* of the wide and given kernels */
/* What ordinary stores wrote to shared memory becomes visible to wgmma and bulk copies (then a barrier). */
static __device__ __forceinline__ void haste__wide_fence_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void haste__wide_sts32(uint32_t at, uint32_t v)
{
    asm volatile("st.shared.b32 [%0], %1;" :: "r"(at), "r"(v) : "memory");
}
static __device__ __forceinline__ void haste__wide_bar(int id)
{
    asm volatile("bar.sync %0, 128;" :: "r"(id) : "memory");
}

/* Bulk copies. in: to shared memory; `barrier` counts the bytes. out: from it, in batches that bulk_batch closes; bulk_read
   waits until all have been read (their memory may be overwritten), bulk_wait until all have been written. */
static __device__ __forceinline__ void haste__wide_bulk_in(uint32_t to, const void *from, uint32_t bytes, uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}
static __device__ __forceinline__ void haste__wide_bulk_out(void *to, uint32_t from, uint32_t bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" :: "l"(to), "r"(from), "r"(bytes) : "memory");
}
static __device__ __forceinline__ void haste__wide_bulk_batch()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
static __device__ __forceinline__ void haste__wide_bulk_read()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
static __device__ __forceinline__ void haste__wide_bulk_wait()
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

/* Four 8x8 matrices to shared memory; lane 8j + r gives the address of row r of matrix j. */
static __device__ __forceinline__ void haste__wide_stmatrix(uint32_t row, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :: "r"(row), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/* wgmma's view of a matrix in shared memory that begins at `at`. MODE 1, 2, 3: rows of 128, 64, 32 bytes, swizzled; EIGHT:
   bytes from one unit of 8 rows to the next; the next 64 columns (S = 128) lie 1024 bytes further. The low bits are the
   address in units of 16 bytes: steps are added to it. */
template <int EIGHT, int MODE> static __device__ __forceinline__ uint64_t haste__wide_matrix(uint32_t at)
{
    return (uint64_t)((at >> 4) + (64u << 16)) | (uint64_t)((uint32_t)EIGHT >> 4 | (uint32_t)MODE << 30) << 32;
}

static __device__ __forceinline__ void haste__wide_wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void haste__wide_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void haste__wide_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

#define HASTE__WIDE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define HASTE__WIDE_D16(i) HASTE__WIDE_D4(i), HASTE__WIDE_D4(i + 4), HASTE__WIDE_D4(i + 8), HASTE__WIDE_D4(i + 12)

/* d [64, N] (+)= A [64, 16] B [16, N]; TA, TB: that operand lies with its M or N side along the rows. add = 0: = */
template <int N, int TA, int TB>
static __device__ __forceinline__ void haste__wide_wgmma(float *d, uint64_t a, uint64_t b, int add)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (N == 32)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %18, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, %19, %20; }"
                     : HASTE__WIDE_D16(0) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
    else if constexpr (N == 64)
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %34, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                     "%32, %33, p, 1, 1, %35, %36; }"
                     : HASTE__WIDE_D16(0), HASTE__WIDE_D16(16) : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
    else
        asm volatile("{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                     "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                     "%64, %65, p, 1, 1, %67, %68; }"
                     : HASTE__WIDE_D16(0), HASTE__WIDE_D16(16), HASTE__WIDE_D16(32), HASTE__WIDE_D16(48)
                     : "l"(a), "l"(b), "r"(add), "n"(TA), "n"(TB));
#else
    (void)d; (void)a; (void)b; (void)add;
#endif
}

/* 4, 8, 16 bytes that nobody else reads, zeros where they are not wanted; the rest of the 128 bytes will be wanted soon. */
static __device__ __forceinline__ uint32_t haste__cu_given_load4(const void *p, bool wanted)
{
    uint32_t v;
    asm volatile("{ .reg .pred w; setp.ne.b32 w, %2, 0; mov.b32 %0, 0;"
                 " @w ld.global.nc.L1::no_allocate.L2::128B.b32 %0, [%1]; }"
                 : "=&r"(v) : "l"(p), "r"((int)wanted));
    return v;
}
static __device__ __forceinline__ uint2 haste__cu_given_load8(const void *p, bool wanted)
{
    uint2 v;
    asm volatile("{ .reg .pred w; setp.ne.b32 w, %3, 0; mov.b32 %0, 0; mov.b32 %1, 0;"
                 " @w ld.global.nc.L1::no_allocate.L2::128B.v2.b32 {%0,%1}, [%2]; }"
                 : "=&r"(v.x), "=&r"(v.y) : "l"(p), "r"((int)wanted));
    return v;
}
static __device__ __forceinline__ uint4 haste__cu_given_load16(const void *p, bool wanted)
{
    uint4 v;
    asm volatile("{ .reg .pred w; setp.ne.b32 w, %5, 0; mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;"
                 " @w ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%0,%1,%2,%3}, [%4]; }"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w) : "l"(p), "r"((int)wanted));
    return v;
}
#endif
#endif   /* HASTE__CU_INSTRUCTIONS */

enum {
    HASTE__CU_TILE    = 64,     /* samples in a tile: one row of x */
    HASTE__CU_RUN     = 64,     /* labels, or inputs, that a thread block works on at once */
    HASTE__CU_THREADS = 128,
    HASTE__CU_PARTS   = 1024,   /* the most thread blocks of a persistent kernel, per tile in the forward kernels */
    HASTE__CU_SUMS    = 2048,   /* loss sums of a block */
    HASTE__CU_FEW     = 8,      /* samples that the streaming kernels take: that with tensor cores, */
    HASTE__CU_FEWER   = 4,      /* and the other one */
    HASTE__CU_FEW_PARTS = 256,  /* the most thread blocks of each of them */
    HASTE__CU_MAX_K   = 64
};
enum {   /* words of haste__cu_work's flag */
    HASTE__CU_FLAG_DATA = 0, HASTE__CU_FLAG_NONFINITE, HASTE__CU_FLAG_DONE, HASTE__CU_FLAG_STOP,
    HASTE__CU_FLAG_SAMPLE,   /* ~b of the first sample whose list is malformed, or 0 */
    HASTE__CU_FLAGS = 8
};

/* One positive (or excluded) pair. Those of a group follow each other, from head[group] on (-1: there are none), in no order,
   and may name a pair twice. 16 bytes, read at once. */
typedef struct haste__cu_node {
    int32_t  b;
    uint16_t s, unused;
    int32_t  count, spare;   /* count: of the first of a group: how many there are */
} haste__cu_node;

/* The same while its place is not known yet. */
typedef struct haste__cu_pair { int32_t group, rank, b, s; } haste__cu_pair;   /* group -1: none; rank in the group */
enum { HASTE__CU_NODES_MORE = 128 };   /* nodes that may be read past the last */

/* What changes from step to step, or is known to the device alone, for one block. It lies on the device, where a kernel that
   comes before makes it: so a graph's kernels, whose arguments are fixed, find each replay's own. See >>moments. */
typedef struct haste__cu_moment {
    float    lr, scale;                  /* scale: of loss and gradients */
    float    correction1, correction2;   /* Adam's 1 / (1 - beta^t) */
    uint32_t key[2];                     /* random numbers: of wide and narrow, */
    uint64_t key_weight, key_state[2];   /* of the general kernels, */
    uint64_t key_visit;                  /* and which groups are in the share */
    int32_t  skip, unused;               /* 1: nothing is done */
} haste__cu_moment;

/* A block and a batch, as the kernels of a pass take them. */
typedef struct haste__cu_pass {
    /* the block */
    int64_t groups, first_slot;   /* G; slot of its first label in this layer */
    int64_t first_group;          /* its first group among all groups of this layer: head[first_group + g] */
    int64_t round_slot;           /* slot of its first label in the whole layer: random numbers count these */
    int64_t labels;               /* slots with a label */
    int64_t slots;                /* of this layer: the row length of logits */
    int32_t S, F, begin, width;
    int32_t path;                 /* haste_cuda_path: the order of weights inside a group */
    const uint16_t *index;        /* [G, F], NULL: dense */
    void   *weight;               /* [G][F*S] */
    void   *state[2];
    float  *bias, *bias_state[2]; /* [G, S] */
    const int32_t *label_of;      /* [slots] */
    /* the batch */
    int32_t B, D, tiles;
    const void *x;                /* [tiles][D][64] of the layer's dtype */
    float  *grad_x;               /* [replicas][tiles][D][64] (+=), or NULL */
    int32_t replicas, deterministic;
    const int32_t *head;
    const haste__cu_node *node;
    /* what to do */
    int32_t loss, optimizer, state_f32;
    float   negligible;           /* slopes below it, not yet scaled, count as 0 */
    float   momentum, beta1, beta2, eps, decay;
    const haste__cu_moment *now;  /* on the device: learning rate, scale and random numbers of this step */
    int32_t wild;                 /* can a new weight be infinite? 0: no; 1: only from odd states; 2: by these rates */
    const float *peak, *inverse, *shift, *factor;   /* softmax: largest logit, 1/sum, log-sum-exp, 1/n or 0 */
    double *loss_sum;             /* [gridDim.x] (=; narrow's later launches +=), or NULL */
    uint32_t *flag;
    /* the general kernels only */
    const void *given;            /* [B, slots] logit gradients, instead of a loss */
    int32_t given_bf16;
    int32_t update;               /* 1: update the weights; else gradients go to: */
    float  *grad_weight, *grad_bias;   /* [G, F, S], [G, S] or NULL */
    int32_t add;                  /* += there */
    int32_t adjusted;             /* has the loss one of these options? */
    const float *sample_weight, *label_weight, *label_scale, *label_offset;   /* [B]; [L] by ids; or NULL */
    float   logit_scale, margin, positive_weight, smoothing, share;           /* none of them a 0 that means another */
    void   *slopes;               /* scratch: [gridDim.x][tiles][64][64] */
    /* the forward kernels only */
    int32_t first, k, parts;      /* first: of the blocks, so nothing is continued */
    void   *logits;
    int32_t logits_bf16;
    float  *partial;              /* [parts][2][tiles*64] */
    uint64_t *best;               /* [parts][tiles*64][k] */
    uint32_t *floor;              /* [tiles*64] */
    float   threshold;
    int64_t *count;               /* [B] hits, or where the next one goes */
    int32_t *hit_id;              /* NULL: count only */
    float   *hit_score;
} haste__cu_pass;

/* ---- >>status ------------------------------------------------------------------------------------------------ */

#if defined(__GNUC__)
static haste_status haste__cu_fail(haste_error *error, haste_status status, const char *format,
                                   ...) __attribute__((format(printf, 3, 4)));
#endif
static haste_status haste__cu_fail(haste_error *error, haste_status status, const char *format, ...)
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

/* A CUDA result as a status. Reading the last error too keeps a failed call from being blamed on a later one. */
static haste_status haste__cu_result(cudaError_t result, const char *what, haste_error *error)
{
    if (result == cudaSuccess) return HASTE_OK;
    cudaGetLastError();
    return haste__cu_fail(error, result == cudaErrorMemoryAllocation ? HASTE_ERR_MEMORY : HASTE_ERR_DEVICE, "%s: %s", what,
                          cudaGetErrorString(result));
}

#define HASTE__CU_TRY(call, what)                                                       \
    do {                                                                                \
        haste_status haste__cu_status = haste__cu_result((call), (what), error);        \
        if (haste__cu_status != HASTE_OK) return haste__cu_status;                      \
    } while (0)
#define HASTE__CU_LAUNCHED(what) HASTE__CU_TRY(launched, (what))

static __global__ void haste__cu_draw_index_kernel(uint16_t *index, int64_t groups, int64_t group_base, int F, int width,
                                                   uint64_t key);

haste_status haste_cuda_supported(haste_error *error)
{
    struct cudaFuncAttributes about;
    cudaError_t result;
    int device = 0, major = 0, minor = 0;
    HASTE__CU_TRY(cudaGetDevice(&device), "cudaGetDevice");
    HASTE__CU_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    HASTE__CU_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    if (major < 8)
        return haste__cu_fail(error, HASTE_ERR_DEVICE, "device %d has compute capability %d.%d, expected at least 8.0",
                              device, major, minor);
    result = cudaFuncGetAttributes(&about, HASTE__CU_KERNEL(haste__cu_draw_index_kernel));   /* any kernel will do */
    if (result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction) {
        cudaGetLastError();
        return haste__cu_fail(error, HASTE_ERR_DEVICE, "haste_cuda.cuh was not compiled for device %d, of compute "
                              "capability %d.%d", device, major, minor);
    }
    return haste__cu_result(result, "cudaFuncGetAttributes", error);
}

/* What every call asks before it does anything: is this the device of the layer (or workspace)? */
static haste_status haste__cu_begin(int device, haste_error *error)
{
    int current = 0;
    HASTE__CU_TRY(cudaGetDevice(&current), "cudaGetDevice");
    if (current != device)
        return haste__cu_fail(error, HASTE_ERR_ARG, "device %d is current, the layer or workspace lies on device %d",
                              current, device);
    return HASTE_OK;
}

/* For calls that a graph would repeat wrongly: with the same step, learning rate and random numbers, from pinned lists that
   have changed, or without what they do on the host. */
static haste_status haste__cu_not_captured(cudaStream_t stream, const char *what, haste_error *error)
{
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    HASTE__CU_TRY(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing");
    if (capture == cudaStreamCaptureStatusNone) return HASTE_OK;
    return haste__cu_fail(error, HASTE_ERR_STATE, "the stream is being captured: %s cannot be part of a graph", what);
}

/* Device memory. On failure *memory is NULL. */
static haste_status haste__cu_take(void **memory, size_t bytes, const char *what, haste_error *error)
{
    cudaError_t result = HASTE_CUDA_MALLOC(memory, bytes);
    if (result == cudaSuccess) return HASTE_OK;
    *memory = NULL;
    if (result != cudaErrorMemoryAllocation) return haste__cu_result(result, what, error);
    cudaGetLastError();
    return haste__cu_fail(error, HASTE_ERR_MEMORY, "%s: no %llu bytes on the device", what, (unsigned long long)bytes);
}

static int haste__cu_device_value(enum cudaDeviceAttr which)
{
    int device = 0, value = 0;
    if (cudaGetDevice(&device) == cudaSuccess && cudaDeviceGetAttribute(&value, which, device) == cudaSuccess) return value;
    cudaGetLastError();
    return 1;
}

/* Lets a kernel have all the shared memory that the device gives a block: not what one call needs, for the limit is a
   property of the kernel, and another thread may be about to launch it with more. */
static cudaError_t haste__cu_allow_all(const void *kernel, int *most)
{
    struct cudaFuncAttributes about;
    const cudaError_t status = cudaFuncGetAttributes(&about, kernel);
    *most = 0;
    if (status != cudaSuccess) return status;
    *most = haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin) - (int)about.sharedSizeBytes;
    if (*most <= about.maxDynamicSharedSizeBytes) return cudaSuccess;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, *most);
}

/* Likewise; an error where `shared` is more than that. */
static haste_status haste__cu_allow(const void *kernel, size_t shared, haste_error *error)
{
    int most;
    HASTE__CU_TRY(haste__cu_allow_all(kernel, &most), "shared memory for a kernel");
    if (shared > (size_t)(most > 0 ? most : 0))
        return haste__cu_fail(error, HASTE_ERR_DEVICE, "a kernel needs %llu bytes of shared memory, the device has %d",
                              (unsigned long long)shared, most);
    return HASTE_OK;
}

/* Launches a kernel, in clusters of `cluster`. early: it waits by itself for the one in front of it (haste__cu_wait_before),
   and so may be made ready while that one runs. Not while a graph is made, which older versions of CUDA refuse. */
static cudaError_t haste__cu_early(const void *kernel, dim3 grid, int threads, int shared, int cluster, int early,
                                   void **arguments, cudaStream_t stream)
{
    cudaLaunchConfig_t config = cudaLaunchConfig_t();
    cudaLaunchAttribute attribute[2];
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaError_t asked = early ? cudaStreamIsCapturing(stream, &capture) : cudaSuccess;
    if (asked != cudaSuccess) return asked;
    if (capture != cudaStreamCaptureStatusNone) early = 0;
    memset(attribute, 0, sizeof attribute);
    config.gridDim = grid;
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = (size_t)shared;
    config.stream = stream;
    config.attrs = attribute;
    if (cluster > 1) {   /* older devices know neither */
        attribute[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attribute[config.numAttrs].val.clusterDim.x = (unsigned)cluster;
        attribute[config.numAttrs].val.clusterDim.y = attribute[config.numAttrs].val.clusterDim.z = 1;
        config.numAttrs++;
    }
    if (early) {
        attribute[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute[config.numAttrs].val.programmaticStreamSerializationAllowed = 1;
        config.numAttrs++;
    }
    return cudaLaunchKernelExC(&config, kernel, arguments);
}

/* ---- >>sizes ------------------------------------------------------------------------------------------------- */

/* The next offset of an array of count * width bytes at *end; arrays begin 256-byte aligned. 0 on overflow. */
static int haste__cu_array(size_t *end, uint64_t count, uint64_t width, size_t *offset)
{
    if (width != 0 && count > (SIZE_MAX / 4) / width) return 0;
    if (*end > SIZE_MAX / 4) return 0;
    *offset = *end;
    *end = (*end + (size_t)(count * width) + 255) / 256 * 256;
    return 1;
}

static size_t haste__cu_width(haste_dtype dtype) { return dtype == HASTE_BF16 ? 2 : 4; }
static int    haste__cu_states(haste_optimizer optimizer) { return (int)optimizer; }   /* SGD 0, momentum 1, AdamW 2 */

/* Thread blocks for a kernel that walks over its items in steps of the grid. */
static int haste__cu_grid(int64_t items) { return items < 1 ? 1 : items < 8192 ? (int)items : 8192; }

/* ---- >>random ------------------------------------------------------------------------------------------------ */

/* The generator of haste.h, and what it is used for. */
enum {
    HASTE__CU_RANDOM_INDEX = 1, HASTE__CU_RANDOM_WEIGHT, HASTE__CU_RANDOM_ROUND_WEIGHT, HASTE__CU_RANDOM_ROUND_STATE0,
    HASTE__CU_RANDOM_ROUND_STATE1, HASTE__CU_RANDOM_GROW, HASTE__CU_RANDOM_GROW_WEIGHT, HASTE__CU_RANDOM_VISIT = 11,
    HASTE__CU_RANDOM_ROUND_FAST
};
#define HASTE__CU_GOLDEN UINT64_C(0x9e3779b97f4a7c15)

static __host__ __device__ __forceinline__ uint64_t haste__cu_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* A stream's key is made once; then one mix a number. */
static __host__ __device__ __forceinline__ uint64_t haste__cu_key(uint64_t seed, uint64_t stream)
{
    return haste__cu_mix(seed ^ (stream * HASTE__CU_GOLDEN));
}
static __host__ __device__ __forceinline__ uint64_t haste__cu_random(uint64_t key, uint64_t position)
{
    return haste__cu_mix(key + (position + 1) * HASTE__CU_GOLDEN);
}
static __host__ __device__ __forceinline__ uint32_t haste__cu_below(uint64_t random, uint32_t n)
{
    return (uint32_t)(((random >> 32) * n) >> 32);
}

/* ---- >>stored numbers ---------------------------------------------------------------------------------------- */

/* The bfloat16 in the low half of a word, and that in the high half. */
static __device__ __forceinline__ float haste__cu_from_bf16(uint32_t word) { return __uint_as_float(word << 16); }
static __device__ __forceinline__ float haste__cu_high(uint32_t word) { return __uint_as_float(word & 0xffff0000u); }

/* As haste__to_bf16_noise: rounds up with the probability that makes the expectation exact. */
static __device__ __forceinline__ uint32_t haste__cu_to_bf16_noise(float value, uint32_t noise)
{
    uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits += noise;
    else if (bits & 0x007fffffu) bits |= 0x00400000u;
    return bits >> 16;
}
static __device__ __forceinline__ uint32_t haste__cu_to_bf16(float value)
{
    return haste__cu_to_bf16_noise(value, 0x7fffu + ((__float_as_uint(value) >> 16) & 1u));
}
static __device__ __forceinline__ uint32_t haste__cu_pack(float low, float high)   /* to nearest */
{
    return haste__cu_to_bf16(low) | haste__cu_to_bf16(high) << 16;
}

/* Element types of weights: uint16_t is bfloat16. */
static __device__ __forceinline__ float haste__cu_get(const float *p) { return *p; }
static __device__ __forceinline__ float haste__cu_get(const uint16_t *p) { return haste__cu_from_bf16(*p); }
static __device__ __forceinline__ void haste__cu_put(float *p, float value) { *p = value; }
static __device__ __forceinline__ void haste__cu_put(uint16_t *p, float value) { *p = (uint16_t)haste__cu_to_bf16(value); }

/* Eight consecutive ones, 16-byte aligned. */
static __device__ __forceinline__ void haste__cu_get8(float *out, const float *p)
{
    float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    out[0] = a.x; out[1] = a.y; out[2] = a.z; out[3] = a.w; out[4] = b.x; out[5] = b.y; out[6] = b.z; out[7] = b.w;
}
static __device__ __forceinline__ void haste__cu_unpack8(float *out, uint4 v)
{
    const uint32_t word[4] = { v.x, v.y, v.z, v.w };
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        out[2 * i] = haste__cu_from_bf16(word[i]);
        out[2 * i + 1] = haste__cu_high(word[i]);
    }
}
static __device__ __forceinline__ void haste__cu_get8(float *out, const uint16_t *p)
{
    haste__cu_unpack8(out, *(const uint4 *)p);
}

/* Rounds eight numbers stochastically, or stores them as they are. Position as on the CPU: a word of noise serves four. */
static __device__ __forceinline__ void haste__cu_put8(float *p, const float *v, uint64_t, uint64_t)
{
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
}
static __device__ __forceinline__ void haste__cu_put8(uint16_t *p, const float *v, uint64_t key, uint64_t position)
{
    uint32_t word[4];
    #pragma unroll
    for (int i = 0; i < 2; i++) {
        uint64_t noise = haste__cu_random(key, position + 4 * i);
        #pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t n = (uint32_t)(noise >> (32 * j));
            word[2 * i + j] = haste__cu_to_bf16_noise(v[4 * i + 2 * j], n & 0xffffu) |
                              haste__cu_to_bf16_noise(v[4 * i + 2 * j + 1], n >> 16) << 16;
        }
    }
    *(uint4 *)p = make_uint4(word[0], word[1], word[2], word[3]);
}

static __device__ __forceinline__ float haste__cu_read(const void *array, int type, size_t i)
{
    if (type == HASTE_CUDA_F32) return ((const float *)array)[i];
    if (type == HASTE_CUDA_BF16) return haste__cu_from_bf16(((const uint16_t *)array)[i]);
    return __half2float(((const __half *)array)[i]);
}

/* ---- >>layout ------------------------------------------------------------------------------------------------ */

/* The image of a matrix with rows of S bf16: 8 rows form a unit of 16*S bytes (S = 128: two units of 64 columns side by
   side), inside of which 16-byte pieces are exchanged by the row number. Bytes. */
template <int S> static __host__ __device__ __forceinline__ uint32_t haste__wide_offset(uint32_t r, uint32_t s)
{
    const uint32_t row = S < 64 ? S * 2 : 128, pieces = row / 16;
    const uint32_t swap = S == 16 ? (r >> 2) & 1 : S == 32 ? (r >> 1) & 3 : r & 7;
    return (r >> 3) * (16 * S) + (s >> 6) * 1024 + (r & 7) * row + ((((s >> 3) & (pieces - 1)) ^ swap) << 4) + (s & 7) * 2;
}

/* Place of weight (f, s) inside its group, in elements. */
static __host__ __device__ __forceinline__ int64_t haste__wide_place(int S, int f, int s)
{
    switch (S) {
    case 32: return haste__wide_offset<32>((uint32_t)f, (uint32_t)s) / 2;
    case 64: return haste__wide_offset<64>((uint32_t)f, (uint32_t)s) / 2;
    default: return haste__wide_offset<128>((uint32_t)f, (uint32_t)s) / 2;
    }
}

/* haste__narrow_place: where weight (f, s) of a group stands.

   A strip is 8 inputs x 16 labels, 256 bytes: 8 for each lane, in the order of the A operand of w. Strips of labels 0..15
   come first, then those of labels 16..31. Inputs (ascending) are dealt to strips and columns so that a lane finds those
   it needs, one of each strip, side by side in the index, and that inputs i and i + F/2 are neighbours. Labels are dealt
   to the 16 rows so that after transposing a lane has four successive ones: the forward kernel stores them at once. */
static __host__ __device__ __forceinline__ int64_t haste__narrow_place(int S, int F, int f, int s)
{
    int run = F / 8, e = f / (F / 2), quad = f % (F / 2) / run, strip = f % run;   /* column 2*quad + e of the strip */
    int row = (s >> 2 & 3) * 2 + (s & 1), lower = s >> 1 & 1;                      /* row + 8*lower */
    (void)S;
    return (int64_t)((s >> 4) * run + strip) * 128 + (row * 4 + quad) * 4 + lower * 2 + e;
}

/* Where weight (f, s) of a group lies in the order of a path. */
static __host__ __device__ __forceinline__ int64_t haste__cu_place(int path, int S, int F, int f, int s)
{
    return path == HASTE_CUDA_WIDE ? haste__wide_place(S, f, s) :
           path == HASTE_CUDA_NARROW ? haste__narrow_place(S, F, f, s) : (int64_t)f * S + s;
}
/* Are eight labels from a multiple of 8 on side by side? */
static __host__ __device__ __forceinline__ int haste__cu_eights(int path) { return path != HASTE_CUDA_NARROW; }
static __host__ __device__ __forceinline__ int haste__cu_natural(int path) { return path == HASTE_CUDA_GENERAL; }

static __device__ __forceinline__ float haste__cu_order_float(uint32_t key)   /* the inverse of the next */
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
/* A float as a number of the same order; -0 and +0 tie. */
static __device__ __forceinline__ uint32_t haste__cu_order_key(float value)
{
    uint32_t bits = __float_as_uint(value + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* A label and its logit as one number: the larger is the better, and of equal logits the smaller id. 0: none. */
static __device__ __forceinline__ uint64_t haste__cu_entry(float score, int32_t id)
{
    return (uint64_t)haste__cu_order_key(score) << 32 | (uint32_t)~id;
}
static __device__ __forceinline__ float   haste__cu_entry_score(uint64_t entry)
{
    return entry ? haste__cu_order_float((uint32_t)(entry >> 32)) : -INFINITY;
}
static __device__ __forceinline__ int32_t haste__cu_entry_id(uint64_t entry)
{
    return entry ? (int32_t)~(uint32_t)entry : -1;
}

static __device__ __forceinline__ bool haste__cu_finite(float v) { return fabsf(v) <= FLT_MAX; }
/* Small enough to be squared, as Adam does; see haste.h. */
static __device__ __forceinline__ bool haste__cu_sane(float v) { return fabsf(v) < 1e18f; }

/* Items of a block: runs of at most 64 labels, `subs` in a group, which is 1 but for S > 64: then no 64-bit division is
   made. */
static __device__ __forceinline__ int64_t haste__cu_item_group(int64_t item, int subs)
{
    return subs == 1 ? item : item / subs;
}
static __device__ __forceinline__ int haste__cu_item_label(int64_t item, int subs)
{
    return subs == 1 ? 0 : (int)(item % subs) * HASTE__CU_RUN;
}

static __device__ __forceinline__ int haste__cu_group_labels(const haste__cu_pass &p, int64_t g)
{
    int64_t left = p.labels - g * p.S;
    return left < p.S ? (int)left : p.S;
}

/* ---- >>moments ----------------------------------------------------------------------------------------------- */

/* The rates of one block, and what a step is to be made of: what the host knows, and where the rest lies. */
typedef struct haste__cu_rates { float lr, decay, momentum, beta1, beta2, eps; } haste__cu_rates;
typedef struct haste__cu_schedule {
    haste__cu_moment *moment;     /* [blocks] (=); NULL: none is wanted */
    int32_t  blocks, optimizer;
    int32_t  update;              /* 1: a step, which live.skip may leave out and live.step counts */
    float    scale;
    uint64_t seed;
    int64_t  step;
    haste_cuda_live live;
    uint32_t *flag;
    haste__cu_rates rates[HASTE_MAX_BLOCKS];
    int32_t  fan_in[HASTE_MAX_BLOCKS];
} haste__cu_schedule;

/* Can an update of finite numbers become infinite, gradients being below 1e18? What is added to a weight must stay below half
   a unit in the last place of the largest float (1e31), and decay only shrink. 0: no; 1: only from odd states; 2: by these
   rates. */
static __host__ __device__ inline int32_t haste__cu_wild(int32_t optimizer, const haste__cu_rates *r, float rate)
{
    const double lr = (double)rate, decay = (double)r->decay;
    if (optimizer == HASTE_ADAMW) {   /* its first moment is a mean of gradients; the second is 0 in states made by hand */
        if (!(lr * decay <= 1 && lr * 1e18 < 1e30)) return 2;
        return !(lr * 1e18 / (1 - (double)r->beta1) / (double)r->eps < 1e30);   /* as in the first step: the largest */
    }
    if (!(decay <= 1 && lr * decay <= 1 && lr * (optimizer == HASTE_MOMENTUM ? 1e28 : 1e18) < 1e30)) return 2;
    return optimizer == HASTE_MOMENTUM;
}

/* base^n for n >= 0, by squaring: the same on every device. */
static __device__ inline double haste__cu_power(double base, int64_t n)
{
    double power = 1;
    for (; n > 0; n >>= 1, base *= base) if (n & 1) power *= base;
    return power;
}

/* The moments of a pass, one a lane of a warp. What lies on the device was not checked by anybody: where it cannot be used
   nothing is done, and the flag is set. */
static __device__ inline void haste__cu_moments(const haste__cu_schedule &s, int lane)
{
    if (!s.moment) return;
    const float factor = s.live.lr ? *s.live.lr : 1, scale = s.scale * (s.live.scale ? *s.live.scale : 1);
    const int64_t step = s.live.step ? *s.live.step : s.step;
    const bool skip = s.update && s.live.skip && *s.live.skip != 0;
    bool wrong = !(fabsf(scale) <= FLT_MAX) || step < 0;
    haste__cu_moment now = {};
    if (lane < s.blocks) {
        const haste__cu_rates *r = &s.rates[lane];
        const uint64_t stream = (uint64_t)step << 8;
        const uint64_t fast = haste__cu_mix(haste__cu_key(s.seed, stream | HASTE__CU_RANDOM_ROUND_FAST)
                                            + (uint64_t)s.fan_in[lane] * HASTE__CU_GOLDEN);
        now.lr = s.live.lr ? r->lr * factor : r->lr;
        now.scale = fabsf(scale) < FLT_MIN ? 0 : scale;
        wrong |= !(now.lr >= 0) || (s.live.lr && haste__cu_wild(s.optimizer, r, now.lr) > 1);
        if (s.optimizer == HASTE_ADAMW) {
            now.correction1 = (float)(1 / (1 - haste__cu_power((double)r->beta1, step + 1)));
            now.correction2 = (float)(1 / (1 - haste__cu_power((double)r->beta2, step + 1)));
        }
        now.key[0] = (uint32_t)fast;
        now.key[1] = (uint32_t)(fast >> 32);
        now.key_weight = haste__cu_key(s.seed, stream | HASTE__CU_RANDOM_ROUND_WEIGHT);
        now.key_state[0] = haste__cu_key(s.seed, stream | HASTE__CU_RANDOM_ROUND_STATE0);
        now.key_state[1] = haste__cu_key(s.seed, stream | HASTE__CU_RANDOM_ROUND_STATE1);
        now.key_visit = haste__cu_key(s.seed, stream | HASTE__CU_RANDOM_VISIT);
    }
    wrong = __any_sync(0xffffffffu, wrong);   /* and all have read the step */
    now.skip = skip || wrong;
    if (lane < s.blocks) s.moment[lane] = now;
    if (lane > 0) return;
    if (wrong && !skip) s.flag[HASTE__CU_FLAG_NONFINITE] = 1;
    if (s.update && s.live.step && !now.skip) *s.live.step = step + 1;
}

/* For passes that prepare nothing else. */
static __global__ void haste__cu_moments_kernel(const haste__cu_schedule schedule)
{
    haste__cu_moments(schedule, (int)threadIdx.x);
}

/* A block's moment, as kernels read it that may be launched early: after their wait. */
static __device__ __forceinline__ haste__cu_moment haste__cu_moment_at(const haste__cu_moment *at) { return *at; }

/* The same for the general kernels' updates, which never are: by loads that the compiler may take out of loops. */
static __device__ __forceinline__ haste__cu_moment haste__cu_now(const haste__cu_pass &p)
{
    haste__cu_moment now = {};
    now.lr = __ldg(&p.now->lr);
    now.correction1 = __ldg(&p.now->correction1);
    now.correction2 = __ldg(&p.now->correction2);
    now.key_weight = __ldg(&p.now->key_weight);
    now.key_state[0] = __ldg(&p.now->key_state[0]);
    now.key_state[1] = __ldg(&p.now->key_state[1]);
    return now;
}


/* ---- >>batch ------------------------------------------------------------------------------------------------- */

/* What a batch finds cleared. */
typedef struct haste__cu_clear {
    float   *zeros;     /* [zero_count], a multiple of 4 */
    int64_t  zero_count;
    int32_t *ends;      /* [end_count]: -1 */
    int64_t  end_count;
    haste__cu_schedule schedule;
} haste__cu_clear;

/* x [B, D] to [tiles][D][64]; where `wide` is not NULL, there too, in the wide path's order: wgmma gives a thread columns
   2t, 2t + 1 of two neighbouring blocks of 8, which are to be four samples in a row, so that one red.v4 adds them. Of 16
   samples the pairs 0, 2, 4, 6 come first, then 1, 3, 5, 7. (grad_x is in the order of samples.)
   Block: 32 samples x 32 inputs; those from x_blocks on clear memory, and the first of them says what step this is. */
template <typename T>
static __global__ void __launch_bounds__(HASTE__CU_THREADS)
haste__cu_prepare_x_kernel(const void *x, int type, int B, int D, T *out, T *wide, int x_blocks, haste__cu_clear clear)
{
    __shared__ float part[32][33];
    const int columns = (D + 31) / 32, half = (int)blockIdx.x / columns, d0 = (int)blockIdx.x % columns * 32;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    haste__cu_allow_next();   /* kernels of >>backward may begin; they wait where they must */
    if ((int)blockIdx.x >= x_blocks) {
        const int64_t step = (int64_t)((int)gridDim.x - x_blocks) * HASTE__CU_THREADS;
        const int64_t first = (int64_t)((int)blockIdx.x - x_blocks) * HASTE__CU_THREADS + threadIdx.x;
        for (int64_t i = first; i < clear.zero_count / 4; i += step) ((float4 *)clear.zeros)[i] = make_float4(0, 0, 0, 0);
        for (int64_t i = first; i < clear.end_count; i += step) clear.ends[i] = -1;
        if (first < 32) haste__cu_moments(clear.schedule, (int)first);
        return;
    }
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        const int64_t sample = (int64_t)half * 32 + k * 4 + warp;
        part[k * 4 + warp][lane] = sample < B && d0 + lane < D
            ? haste__cu_read(x, type, (size_t)sample * (size_t)D + (size_t)(d0 + lane)) : 0.0f;
    }
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 8; k++) {
        const int d = k * 4 + warp, b = lane;
        const size_t row = ((size_t)(half / 2) * (size_t)D + (size_t)(d0 + d)) * HASTE__CU_TILE + (size_t)(half % 2 * 32);
        if (d0 + d >= D) break;
        haste__cu_put(out + row + b, part[b][d]);
        if (wide) haste__cu_put(wide + row + (b & 16) + (b & 2) * 4 + (b >> 2 & 3) * 2 + (b & 1), part[b][d]);
    }
}

typedef struct haste__cu_counts { int32_t n[HASTE_MAX_BLOCKS]; } haste__cu_counts;

/* The sum over the block's threads, in thread 0. `scratch` [4]. */
static __device__ __forceinline__ double haste__cu_block_sum(double v, double *scratch)
{
    #pragma unroll
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    return (scratch[0] + scratch[1]) + (scratch[2] + scratch[3]);
}

/* What a pass leaves in pieces: the replicas' sums, added to grad_x [B, D]; and the loss of all blocks, added up in a fixed
   order. Block: 32 samples x 16 inputs; that from x_blocks on: the loss. */
static __global__ void __launch_bounds__(HASTE__CU_THREADS)
haste__cu_finish_kernel(const float *sums, int replicas, int tiles, int B, int D, void *grad_x, int type, int x_blocks,
                        const double *losses, int blocks, haste__cu_counts counts, const haste__cu_moment *now, double *loss)
{
    __shared__ float part[16][36];
    __shared__ double scratch[4];
    const int columns = (D + 15) / 16, half = (int)blockIdx.x / columns, d0 = (int)blockIdx.x % columns * 16;
    if ((int)blockIdx.x >= x_blocks) {
        double sum = 0;
        if (now->skip) { if (threadIdx.x == 0) *loss = 0; return; }
        for (int k = 0; k < blocks; k++)
            for (int i = (int)threadIdx.x; i < counts.n[k]; i += HASTE__CU_THREADS)
                sum += losses[(size_t)k * HASTE__CU_SUMS + (size_t)i];
        sum = haste__cu_block_sum(sum, scratch);
        if (threadIdx.x == 0) *loss = sum * (double)now->scale;
        return;
    }
    if (now->skip) return;
    {
        const int d = (int)threadIdx.x / 8, b = (int)threadIdx.x % 8 * 4;
        const size_t one = (size_t)tiles * (size_t)D * HASTE__CU_TILE;
        const float *from = sums + ((size_t)(half / 2) * (size_t)D + (size_t)(d0 + d)) * HASTE__CU_TILE
            + (size_t)(half % 2 * 32 + b);
        float4 sum = make_float4(0, 0, 0, 0);
        if (d0 + d < D) {
            #pragma unroll 8
            for (int r = 0; r < replicas; r++) {
                const float4 v = *(const float4 *)(from + (size_t)r * one);
                sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
            }
        }
        *(float4 *)&part[d][b] = sum;
    }
    __syncthreads();
    #pragma unroll
    for (int k = 0; k < 4; k++) {
        const int d = (int)threadIdx.x % 16, b = (int)threadIdx.x / 16 + k * 8;
        const int64_t sample = (int64_t)half * 32 + b;
        const size_t at = (size_t)sample * (size_t)D + (size_t)(d0 + d);
        if (sample >= B || d0 + d >= D) continue;
        if (type == HASTE_CUDA_F32) ((float *)grad_x)[at] += part[d][b];
        else haste__cu_put((uint16_t *)grad_x + at, haste__cu_get((uint16_t *)grad_x + at) + part[d][b]);
    }
}

/* Where the labels of a layer are. */
typedef struct haste__cu_map {
    int64_t first_slot[HASTE_MAX_BLOCKS + 1], first_group[HASTE_MAX_BLOCKS];
    int64_t shard;                /* first slot of this layer in the whole layer */
    int32_t S[HASTE_MAX_BLOCKS];
    int32_t blocks, labels;
    const int32_t *slot_of;
} haste__cu_map;

static __device__ __forceinline__ void haste__cu_bad_list(uint32_t *flag, int64_t b)
{
    atomicMax(&flag[HASTE__CU_FLAG_SAMPLE], ~(uint32_t)b);
    atomicExch(&flag[HASTE__CU_FLAG_DATA], 1u);
}

/* Lists of labels, and what becomes of them. */
typedef struct haste__cu_pairs {
    haste__cu_map map;
    const int64_t *offset;
    const int32_t *id;
    int32_t B;
    int64_t most;                 /* ids of the workspace */
    int64_t groups;
    int32_t *head;                /* [groups] first nodes, [groups] counts - 1, number of nodes - 1: all -1 at first */
    haste__cu_pair *pair;         /* [most] */
    haste__cu_node *node;         /* [most + HASTE__CU_NODES_MORE] */
    int32_t *row;                 /* [B] distinct ids of a sample (=), or NULL */
    uint32_t *flag;
} haste__cu_pairs;

/* The ids first .. end - 1 of sample b; or nothing of this row can be trusted. */
static __device__ __forceinline__ bool haste__cu_row(const haste__cu_pairs &a, int64_t b, int64_t *start, int64_t *first,
                                                     int64_t *end)
{
    *start = a.offset[0];
    *first = a.offset[b];
    *end = a.offset[b + 1];
    return *start >= 0 && *first >= *start && *end >= *first && *end - *start <= a.most;
}

/* Lists become nodes in three passes, in each a warp for a sample b.
   COUNT: counts the pairs of each group, which gives each its rank there.
   FIRST: places the nodes of rank 0, which take room for their group; REST: the others. Where offsets descend rows may
   overlap: pairs are lost then, and counts are too large. So such a group may have no list, or places that nobody fills, in
   which an older node stands; readers look whether b and s are in their range. */
enum { HASTE__CU_COUNT, HASTE__CU_FIRST, HASTE__CU_REST };
static __device__ __forceinline__ void haste__cu_count_row(const haste__cu_pairs &a, int64_t b, int lane)
{
    int64_t start, first, end;
    int distinct = 0;
    if (!haste__cu_row(a, b, &start, &first, &end)) {
        if (lane == 0) {
            haste__cu_bad_list(a.flag, b);
            if (a.row) a.row[b] = 0;
        }
        return;
    }
    for (int64_t i = first + lane; i < end; i += 32) {
        const int32_t label = a.id[i];
        haste__cu_pair pair = { -1, 0, (int32_t)b, 0 };
        if (label < 0 || label >= a.map.labels) haste__cu_bad_list(a.flag, b);
        else {
            int64_t slot = a.map.slot_of[label] - a.map.shard;
            int k = 0;
            if (a.row) {
                int64_t j = first;
                while (j < i && a.id[j] != label) j++;
                distinct += j == i;
            }
            if (slot >= 0 && slot < a.map.first_slot[a.map.blocks]) {   /* else another shard's */
                while (slot >= a.map.first_slot[k + 1]) k++;
                slot -= a.map.first_slot[k];
                pair.group = (int32_t)(a.map.first_group[k] + slot / a.map.S[k]);
                pair.s = (int32_t)(slot % a.map.S[k]);
                pair.rank = atomicAdd(&a.head[a.groups + pair.group], 1) + 1;
            }
        }
        a.pair[i - start] = pair;
    }
    if (a.row) {
        for (int step = 16; step > 0; step /= 2) distinct += __shfl_xor_sync(0xffffffffu, distinct, step);
        if (lane == 0) a.row[b] = distinct;
    }
}

static __device__ __forceinline__ void haste__cu_place_row(const haste__cu_pairs &a, int64_t b, int lane, int pass)
{
    int64_t start, first, end;
    if (!haste__cu_row(a, b, &start, &first, &end)) return;
    for (; first < end; first += 32) {
        haste__cu_pair pair = { -1, 0, 0, 0 };
        haste__cu_node node = { 0, 0, 0, 0, 0 };
        int64_t at = -1;
        if (first + lane < end) pair = a.pair[first - start + lane];
        node.b = pair.b;
        node.s = (uint16_t)pair.s;
        if (pass == HASTE__CU_FIRST) {   /* the warp takes room at once: additions to one address wait for each other */
            const bool mine = pair.group >= 0 && pair.rank == 0;
            const int32_t count = mine ? a.head[a.groups + pair.group] + 1 : 0;
            int64_t up_to = count, all;
            int32_t taken = 0;
            for (int step = 1; step < 32; step *= 2) {
                const int64_t other = __shfl_up_sync(0xffffffffu, up_to, step);
                if (lane >= step) up_to += other;
            }
            all = __shfl_sync(0xffffffffu, up_to, 31);
            if (lane == 0 && all > 0 && all <= a.most) taken = atomicAdd(&a.head[2 * a.groups], (int32_t)all) + 1;
            taken = __shfl_sync(0xffffffffu, taken, 0);
            if (mine && count > 0 && taken >= 0 && taken + all <= a.most) at = taken + up_to - count;
            node.count = count;
            if (at >= 0) a.head[pair.group] = (int32_t)at;
        } else if (pair.group >= 0 && pair.rank > 0) {
            at = a.head[pair.group];
            if (at >= 0) at += pair.rank;
        }
        if (at >= 0 && at < a.most) a.node[at] = node;
    }
}

/* One of the passes. */
template <int PASS> static __global__ void haste__cu_lists_kernel(const __grid_constant__ haste__cu_pairs a)
{
    const int64_t b = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    haste__cu_allow_next();
    haste__cu_wait_before();
    if (b >= a.B) return;
    if (PASS == HASTE__CU_COUNT) haste__cu_count_row(a, b, (int)threadIdx.x % 32);
    else haste__cu_place_row(a, b, (int)threadIdx.x % 32, PASS);
}

/* All three, by one cluster: for a handful of samples some 3 us faster than three launches. */
enum { HASTE__CU_LISTS_CLUSTER = 8, HASTE__CU_LISTS_THREADS = 1024, HASTE__CU_LISTS_MOST = 512 };   /* samples */
static __global__ void __launch_bounds__(HASTE__CU_LISTS_THREADS)
haste__cu_few_lists_kernel(const __grid_constant__ haste__cu_pairs a)
{
#if HASTE__CU_CLUSTERS
    const int stride = (int)(gridDim.x * blockDim.x / 32), lane = (int)threadIdx.x % 32;
    const int first = (int)(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
    haste__cu_allow_next();
    haste__cu_wait_before();
    for (int b = first; b < a.B; b += stride) haste__cu_count_row(a, b, lane);
    haste__cu_cluster_sync();
    for (int b = first; b < a.B; b += stride) haste__cu_place_row(a, b, lane, HASTE__CU_FIRST);
    haste__cu_cluster_sync();
    for (int b = first; b < a.B; b += stride) haste__cu_place_row(a, b, lane, HASTE__CU_REST);
#endif
}

/* The first pair of group g, or -1. */
static __device__ __forceinline__ int32_t haste__cu_first(const haste__cu_pass &p, int64_t g)
{
    return p.head ? __ldg(p.head + p.first_group + g) : -1;
}

/* Sets the bits [label][64 samples] of a group's positives in one tile. All threads of the block; barriers before and after. */
static __device__ __forceinline__ void haste__cu_mark(const haste__cu_pass &p, int32_t first, int s0, int tile,
                                                      uint32_t *bits)
{
    const int32_t end = first + p.node[first].count;
    for (int32_t n = first + (int32_t)threadIdx.x; n < end; n += (int32_t)blockDim.x) {
        const int s = (int)p.node[n].s - s0, b = p.node[n].b - tile * HASTE__CU_TILE;
        if (s >= 0 && s < HASTE__CU_RUN && b >= 0 && b < HASTE__CU_TILE) atomicOr(&bits[2 * s + b / 32], 1u << (b % 32));
    }
}

/* Calls f(sample, label of the group) for each of a group's pairs, in all lanes of a warp. first: its first node, or -1. */
template <typename CALL>
static __device__ __forceinline__ void haste__cu_each(const haste__cu_pass &p, int32_t first, int lane, CALL f)
{
    int left = 0;
    if (first < 0) return;
    for (int32_t n = first; n == first || left > 0; n += 32, left -= 32) {
        const haste__cu_node node = p.node[n + lane];   /* perhaps past the last */
        if (n == first) left = __shfl_sync(~0u, node.count, 0);
        for (int i = 0; i < min(left, 32); i++) f(__shfl_sync(~0u, node.b, i), __shfl_sync(~0u, (int)node.s, i));
    }
}

/* ---- >>products ---------------------------------------------------------------------------------------------- */

/* The three small products that everything is made of, on tiles in shared memory:

     logits   acc[s][b] += sum over f of w[f][s] * x[f][b]
     inputs   c[f][b]    = sum over s of w[f][s] * z[s][b], added to the rows of grad_x
     weights  acc[f][s] += sum over b of x[f][b] * z[s][b]

   w [64][SP], x [64][64] and z [SP][64] have rows a few elements longer, so that neighbours lie in different banks. SP is
   16, 32 or 64: the labels of a run, rounded up. bfloat16 (T = uint16_t) takes the tensor cores, float32 plain
   multiply-adds. A thread holds SP/2 of the sums; haste__cu_where says which. */
template <typename T, int SP> struct haste__cu_tile {
    enum {
        PAD = 16 / sizeof(T), LW = SP + PAD, LX = HASTE__CU_TILE + PAD, LD = SP + 4,
        X = 64 * LW * (int)sizeof(T), Z = X + 64 * LX * (int)sizeof(T), Y = Z + SP * LX * (int)sizeof(T), DB = Y + 512,
        BYTES = DB + 4 * SP * 4 + 64
    };
};   /* gradients of weights, float [64][LD], take the place of x and z when those are used up */

template <int SP> static __device__ __forceinline__ void haste__cu_where(const uint16_t *, int i, int *s, int *b)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    *s = i / 8 * 16 + lane / 4 + (i & 2 ? 8 : 0);
    *b = warp * 16 + (i & 4 ? 8 : 0) + lane % 4 * 2 + (i & 1);
}
template <int SP> static __device__ __forceinline__ void haste__cu_where(const float *, int i, int *s, int *b)
{
    *s = (int)threadIdx.x / 16 * (SP / 8) + i / 4;
    *b = (int)threadIdx.x % 16 * 4 + i % 4;
}

template <int SP> static __device__ __forceinline__ void haste__cu_logits(float *acc, const uint16_t *w, const uint16_t *x,
                                                                          int rows)
{
    typedef haste__cu_tile<uint16_t, SP> tile;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    #pragma unroll
    for (int k = 0; k < 64; k += 16) {
        uint32_t b[4], a[4];
        if (k >= rows) break;
        haste__cu_ldmatrix_trans(b, x + (k + (lane & 15)) * tile::LX + warp * 16 + (lane >> 4) * 8);
        #pragma unroll
        for (int m = 0; m < SP / 16; m++) {
            haste__cu_ldmatrix_trans(a, w + (k + (lane & 7) + (lane >> 4) * 8) * tile::LW + m * 16 + ((lane >> 3) & 1) * 8);
            haste__cu_mma(acc + m * 8, a, b[0], b[1]);
            haste__cu_mma(acc + m * 8 + 4, a, b[2], b[3]);
        }
    }
}
template <int SP> static __device__ __forceinline__ void haste__cu_logits(float *acc, const float *w, const float *x,
                                                                          int rows)
{
    typedef haste__cu_tile<float, SP> tile;
    const float *from_w = w + (int)threadIdx.x / 16 * (SP / 8), *from_x = x + (int)threadIdx.x % 16 * 4;
    for (int k = 0; k < rows; k++) {
        float4 b = *(const float4 *)(from_x + k * tile::LX);
        float a[SP / 8];
        #pragma unroll
        for (int j = 0; j < SP / 8; j++) a[j] = from_w[k * tile::LW + j];
        #pragma unroll
        for (int j = 0; j < SP / 8; j++) {
            acc[4 * j] += a[j] * b.x; acc[4 * j + 1] += a[j] * b.y; acc[4 * j + 2] += a[j] * b.z;
            acc[4 * j + 3] += a[j] * b.w;
        }
    }
}

template <int SP> static __device__ __forceinline__ void haste__cu_weights(float *acc, const uint16_t *x, const uint16_t *z,
                                                                           int rows)
{
    typedef haste__cu_tile<uint16_t, SP> tile;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    if (warp * 16 >= rows) return;
    #pragma unroll
    for (int k = 0; k < 64; k += 16) {
        uint32_t a[4], b[4];
        haste__cu_ldmatrix(a, x + (warp * 16 + (lane & 15)) * tile::LX + k + (lane >> 4) * 8);
        #pragma unroll
        for (int n = 0; n < SP / 16; n++) {
            haste__cu_ldmatrix(b, z + (n * 16 + (lane & 7) + (lane >> 4) * 8) * tile::LX + k + ((lane >> 3) & 1) * 8);
            haste__cu_mma(acc + n * 8, a, b[0], b[1]);
            haste__cu_mma(acc + n * 8 + 4, a, b[2], b[3]);
        }
    }
}
template <int SP> static __device__ __forceinline__ void haste__cu_weights(float *acc, const float *x, const float *z, int)
{
    typedef haste__cu_tile<float, SP> tile;
    const float *from_x = x + (int)threadIdx.x % 16 * tile::LX, *from_z = z + (int)threadIdx.x / 16 * (SP / 8) * tile::LX;
    for (int k = 0; k < HASTE__CU_TILE; k += 4) {
        float4 a[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) a[i] = *(const float4 *)(from_x + i * 16 * tile::LX + k);
        #pragma unroll
        for (int j = 0; j < SP / 8; j++) {
            float4 b = *(const float4 *)(from_z + j * tile::LX + k);
            #pragma unroll
            for (int i = 0; i < 4; i++)
                acc[i * (SP / 8) + j] += (a[i].x * b.x + a[i].y * b.y) + (a[i].z * b.z + a[i].w * b.w);
        }
    }
}

/* The sums of haste__cu_weights, to out [64][LD]. */
template <int SP> static __device__ __forceinline__ void haste__cu_weights_store(const uint16_t *, const float *acc,
                                                                                 float *out)
{
    typedef haste__cu_tile<uint16_t, SP> tile;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    #pragma unroll
    for (int i = 0; i < SP / 2; i += 2)
        *(float2 *)(out + (warp * 16 + lane / 4 + (i & 2 ? 8 : 0)) * tile::LD + i / 4 * 8 + lane % 4 * 2) =
            make_float2(acc[i], acc[i + 1]);
}
template <int SP> static __device__ __forceinline__ void haste__cu_weights_store(const float *, const float *acc, float *out)
{
    typedef haste__cu_tile<float, SP> tile;
    #pragma unroll
    for (int i = 0; i < SP / 2; i++)
        out[((int)threadIdx.x % 16 + i / (SP / 8) * 16) * tile::LD + (int)threadIdx.x / 16 * (SP / 8) + i % (SP / 8)] =
            acc[i];
}

/* Column of x, counted in its slice, that input f of a group reads. */
static __device__ __forceinline__ int haste__cu_column(const haste__cu_pass &p, int64_t g, int f)
{
    return p.index ? (int)__ldg(p.index + g * p.F + f) : f;
}

/* grad_x points at the slice's first row of the tile. */
template <int SP> static __device__ __forceinline__ void haste__cu_inputs(const haste__cu_pass &p, int64_t g, int f0,
                                                                          int rows, const uint16_t *w, const uint16_t *z,
                                                                          float *grad_x)
{
    typedef haste__cu_tile<uint16_t, SP> tile;
    [[maybe_unused]] const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, odd = lane & 1;
    float c[8][4] = {};
    if (warp * 16 >= rows) return;
    #pragma unroll
    for (int k = 0; k < SP; k += 16) {
        uint32_t a[4], b[4];
        haste__cu_ldmatrix(a, w + (warp * 16 + (lane & 15)) * tile::LW + k + (lane >> 4) * 8);
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            haste__cu_ldmatrix_trans(b, z + (k + (lane & 15)) * tile::LX + j * 16 + (lane >> 4) * 8);
            haste__cu_mma(c[2 * j], a, b[0], b[1]);
            haste__cu_mma(c[2 * j + 1], a, b[2], b[3]);
        }
    }
    #pragma unroll
    for (int half = 0; half < 2; half++) {
        int f = warp * 16 + lane / 4 + half * 8;
        float *row = f < rows ? grad_x + (size_t)haste__cu_column(p, g, f0 + f) * HASTE__CU_TILE : NULL;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
        /* there is no red.v4: rows exchange, so that eight lanes add the eight samples of a row, all 32 bytes, at once */
        const int second = lane >> 2 & 1;
        float *other = (f ^ 1) < rows ? grad_x + (size_t)haste__cu_column(p, g, f0 + (f ^ 1)) * HASTE__CU_TILE : NULL;
        float *upper = second ? other : row, *lower = second ? row : other;
        #pragma unroll
        for (int j = 0; j < 8; j++) {
            const float own = c[j][2 * half + second];
            const float got = __shfl_xor_sync(0xffffffffu, c[j][2 * half + 1 - second], 4);
            const int at = j * 8 + lane % 4 * 2 + second;
            if (upper) atomicAdd(upper + at, second ? got : own);
            if (lower) atomicAdd(lower + at, second ? own : got);
        }
#else
        /* neighbours exchange pairs, so that each holds four samples in a row of one of two tiles */
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            float own0 = odd ? c[2 * j + 1][2 * half] : c[2 * j][2 * half],
                own1 = odd ? c[2 * j + 1][2 * half + 1] : c[2 * j][2 * half + 1];
            float give0 = odd ? c[2 * j][2 * half] : c[2 * j + 1][2 * half],
                give1 = odd ? c[2 * j][2 * half + 1] : c[2 * j + 1][2 * half + 1];
            float got0 = __shfl_xor_sync(0xffffffffu, give0, 1), got1 = __shfl_xor_sync(0xffffffffu, give1, 1);
            if (!row) continue;
            if (odd) haste__cu_add4(row + j * 16 + 8 + (lane % 4 - 1) * 2, got0, got1, own0, own1);
            else     haste__cu_add4(row + j * 16 + lane % 4 * 2, own0, own1, got0, got1);
        }
#endif
    }
}
template <int SP> static __device__ __forceinline__ void haste__cu_inputs(const haste__cu_pass &p, int64_t g, int f0,
                                                                          int rows,
                                                                          const float *w, const float *z, float *grad_x)
{
    typedef haste__cu_tile<float, SP> tile;
    int f1 = (int)threadIdx.x / 16 * 8, b = (int)threadIdx.x % 16 * 4;
    float c[8][4] = {};
    if (f1 >= rows) return;
    for (int k = 0; k < SP; k += 4) {
        float4 v[4];
        #pragma unroll
        for (int j = 0; j < 4; j++) v[j] = *(const float4 *)(z + (k + j) * tile::LX + b);
        #pragma unroll
        for (int i = 0; i < 8; i++) {
            float4 a = *(const float4 *)(w + (f1 + i) * tile::LW + k);
            c[i][0] += a.x * v[0].x + a.y * v[1].x + a.z * v[2].x + a.w * v[3].x;
            c[i][1] += a.x * v[0].y + a.y * v[1].y + a.z * v[2].y + a.w * v[3].y;
            c[i][2] += a.x * v[0].z + a.y * v[1].z + a.z * v[2].z + a.w * v[3].z;
            c[i][3] += a.x * v[0].w + a.y * v[1].w + a.z * v[2].w + a.w * v[3].w;
        }
    }
    #pragma unroll
    for (int i = 0; i < 8; i++)
        if (f1 + i < rows)
            haste__cu_add4(grad_x + (size_t)haste__cu_column(p, g, f0 + f1 + i) * HASTE__CU_TILE + b, c[i][0], c[i][1],
                           c[i][2], c[i][3]);
}

/* Weights of inputs f0 .. f0 + rows - 1 and labels s0 .. s0 + run - 1 of group g, zeros around them. */
template <typename T, int SP>
static __device__ __forceinline__ void haste__cu_fetch_weights(const haste__cu_pass &p, int64_t g, int f0, int rows, int s0,
                                                               int run, T *w)
{
    typedef haste__cu_tile<T, SP> tile;
    const T *from = (const T *)p.weight + (size_t)g * (size_t)p.F * (size_t)p.S;
    for (int i = (int)threadIdx.x; i < 64 * (SP / 8); i += HASTE__CU_THREADS) {
        int f = i / (SP / 8), c = i % (SP / 8) * 8;
        bool wanted = f < rows && c < run;
        T *to = w + f * tile::LW + c;
        if (haste__cu_eights(p.path)) {
            const T *row = from + (wanted ? haste__cu_place(p.path, p.S, p.F, f0 + f, s0 + c) : 0);
            haste__cu_copy16(to, row, wanted);
            if (sizeof(T) == 4) haste__cu_copy16(to + 4, row + 4, wanted);
        } else
            for (int j = 0; j < 8; j++) to[j] = wanted ? from[haste__cu_place(p.path, p.S, p.F, f0 + f, s0 + c + j)] : (T)0;
    }
}

/* The inputs of group g in a tile of samples. */
template <typename T, int SP>
static __device__ __forceinline__ void haste__cu_fetch_x(const haste__cu_pass &p, int64_t g, int f0, int rows,
                                                         int64_t tile_number, T *x)
{
    typedef haste__cu_tile<T, SP> tile;
    enum { N = HASTE__CU_TILE * sizeof(T) / 16 };
    const T *from = (const T *)p.x + ((size_t)tile_number * (size_t)p.D + (size_t)p.begin) * HASTE__CU_TILE;
    for (int i = (int)threadIdx.x; i < 64 * N; i += HASTE__CU_THREADS) {
        int f = i / N, c = i % N * (int)(16 / sizeof(T));
        bool wanted = f < rows;
        haste__cu_copy16(x + f * tile::LX + c, wanted ? from + (size_t)haste__cu_column(p, g, f0 + f) * HASTE__CU_TILE +
                         c : from, wanted);
    }
}

/* ---- >>loss -------------------------------------------------------------------------------------------------- */

/* log(1 + e) for 0 <= e <= 1 with a small relative error, as in haste.h: a million logits near -14 each add 1e-6. */
static __device__ __forceinline__ float haste__cu_log1p(float e)
{
    float p = 0.00523269267f;
    p = p * e - 0.0295052324f;
    p = p * e + 0.0782259415f;
    p = p * e - 0.136632449f;
    p = p * e + 0.191060063f;
    p = p * e - 0.248429821f;
    p = p * e + 0.333190968f;
    p = p * e - 0.499994931f;
    p = p * e + 0.99999997f;
    return p * e;
}

/* d loss / d z of one logit; *sum += its loss where it is wanted. EXACT: float32 weights; else the fast exponential, whose
   error is far below bfloat16's. */
template <bool EXACT, int LOSS>
static __device__ __forceinline__ float haste__cu_slope(const haste__cu_pass &p, float z, bool positive, int b, bool want,
                                                        float *sum)
{
    float v = positive ? -z : z, d;   /* a positive is a negative of the opposite logit */
    if (LOSS == HASTE_BCE) {
        float e = EXACT ? expf(-fabsf(z)) : __expf(-fabsf(z)), r = EXACT ? 1 / (1 + e) : __fdividef(1, 1 + e);
        if (want) *sum += fmaxf(v, 0) + haste__cu_log1p(e);
        d = v > 0 ? r : e * r;
    } else if (LOSS == HASTE_SQUARED_HINGE) {
        float m = fmaxf(1 + v, 0);
        if (want) *sum += m * m;
        d = 2 * m;
    } else {
        float n = p.factor[b], e = EXACT ? expf(z - p.peak[b]) : __expf(z - p.peak[b]);
        if (n == 0) return 0;
        if (positive && want) *sum += ((p.peak[b] - z) - logf(p.inverse[b])) * n;
        d = e * p.inverse[b] - (positive ? n : 0);
        positive = false;
    }
    return fabsf(d) < p.negligible ? 0 : (positive ? -d : d) * __ldg(&p.now->scale);
}

/* The same for a loss with options, see haste_loss_options. slot: of the label, in the layer. */
template <bool EXACT>
static __device__ __forceinline__ float haste__cu_adjusted_slope(const haste__cu_pass &p, float z, bool positive, int b,
                                                                 int64_t slot, float importance, bool want, float *sum,
                                                                 bool *bad)
{
    const int32_t id = p.label_of[slot];
    const float weight = importance * (p.sample_weight ? p.sample_weight[b] : 1) * (p.label_weight ? p.label_weight[id] : 1);
    const float scale = p.logit_scale * (p.label_scale ? p.label_scale[id] : 1);
    const float u = scale * (z - (positive ? p.margin : 0)) + (p.label_offset ? p.label_offset[id] : 0);
    const float y = positive ? 1 - p.smoothing / 2 : p.smoothing / 2, yes = p.positive_weight * y, no = 1 - y;
    float value, d;
    *bad |= !haste__cu_finite(u);
    if (p.loss == HASTE_BCE) {
        const float e = EXACT ? expf(-fabsf(u)) : __expf(-fabsf(u)), r = EXACT ? 1 / (1 + e) : __fdividef(1, 1 + e);
        const float rest = haste__cu_log1p(e);
        value = yes * (fmaxf(-u, 0) + rest) + no * (fmaxf(u, 0) + rest);
        d = no * (u > 0 ? r : e * r) - yes * (u > 0 ? e * r : r);
    } else if (p.loss == HASTE_SQUARED_HINGE) {
        const float below = fmaxf(1 - u, 0), above = fmaxf(1 + u, 0);
        value = yes * below * below + no * above * above;
        d = 2 * (no * above - yes * below);
    } else {   /* of the options only weights of samples */
        const float n = p.factor[b], e = EXACT ? expf(z - p.peak[b]) : __expf(z - p.peak[b]);
        if (n == 0) return 0;
        value = positive ? ((p.peak[b] - z) - logf(p.inverse[b])) * n : 0;
        d = e * p.inverse[b] - (positive ? n : 0);
    }
    d *= weight * scale;
    if (want) *sum += value * weight;
    return fabsf(d) < p.negligible ? 0 : d * __ldg(&p.now->scale);
}

/* Is a group visited? first: of its positives. *importance: what its loss counts. As haste.h decides it. */
static __device__ __forceinline__ bool haste__cu_visited(const haste__cu_pass &p, int64_t g, int32_t first, float *importance)
{
    *importance = 1;
    if (!p.adjusted || p.share == 1 || first >= 0) return true;
    *importance = 1 / p.share;
    const uint64_t random = haste__cu_random(__ldg(&p.now->key_visit), (uint64_t)(p.round_slot + g * p.S));
    return (float)(random >> 40) * (1.0f / 16777216) < p.share;
}

/* A warp's logits of 16 labels and a span of 32 samples: z[piece of 8 samples][label, sample]; mark has a bit for each of
   them that is of a positive. flip: those change their sign, for a positive is a negative of the opposite logit. */
static __device__ __forceinline__ void haste__cu_span_flip(float (&z)[4][4], uint32_t mark)
{
    #pragma unroll
    for (int i = 0; i < 16; i++) z[i >> 2][i & 3] = __uint_as_float(__float_as_uint(z[i >> 2][i & 3]) ^ (mark >> i << 31));
}

/* They become softmax's gradients, but for the factor that all have; returns their loss. first: the lane's first sample. */
template <int HALVES>
static __device__ __forceinline__ float haste__cu_span_softmax(const haste__cu_pass &p, float (&z)[HALVES][4][4],
                                                               const uint32_t (&mark)[HALVES], int first)
{
    float loss = 0;
    #pragma unroll
    for (int i = 0; i < 8; i++) {
        const int b = min(first + i, p.B - 1), j = i >> 1, e = i & 1;
        const float shift = p.shift[b], factor = p.factor[b];
        #pragma unroll
        for (int k = 0; k < HALVES * 2; k++) {
            float *v = &z[k >> 1][j][(k & 1) * 2 + e];
            float share = factor > 0 ? haste__cu_exp2(1.4426950408889634f * (*v - shift)) : 0;
            if (mark[k >> 1] >> (j * 4 + (k & 1) * 2 + e) & 1) {
                share -= factor;
                loss += factor * (shift - *v);
            }
            *v = share;
        }
    }
    return loss;
}

/* ---- >>update ------------------------------------------------------------------------------------------------ */

/* Eight labels s .. s + 7 of input f, of an array in the path's order. */
template <typename A> static __device__ __forceinline__ void haste__cu_load8(const haste__cu_pass &p, const A *array,
                                                                             int64_t g, int f, int s, float *out)
{
    array += (size_t)g * (size_t)p.F * (size_t)p.S;
    if (haste__cu_eights(p.path)) haste__cu_get8(out, array + haste__cu_place(p.path, p.S, p.F, f, s));
    else for (int j = 0; j < 8; j++) out[j] = haste__cu_get(array + haste__cu_place(p.path, p.S, p.F, f, s + j));
}
template <typename A> static __device__ __forceinline__ void haste__cu_store8(const haste__cu_pass &p, A *array, int64_t g,
                                                                              int f, int s, const float *v, uint64_t key)
{
    uint64_t position = ((uint64_t)(p.round_slot + g * p.S) << 16) + (uint64_t)f * (uint64_t)p.S + (uint64_t)s;
    array += (size_t)g * (size_t)p.F * (size_t)p.S;
    if (haste__cu_eights(p.path)) haste__cu_put8(array + haste__cu_place(p.path, p.S, p.F, f, s), v, key, position);
    else {
        __align__(16) A out[8];
        haste__cu_put8(out, v, key, position);
        for (int j = 0; j < 8; j++) array[haste__cu_place(p.path, p.S, p.F, f, s + j)] = out[j];
    }
}

static __device__ __forceinline__ void haste__cu_state_load8(const haste__cu_pass &p, int k, int64_t g, int f, int s,
                                                             float *out)
{
    if (p.state_f32) haste__cu_load8(p, (const float *)p.state[k], g, f, s, out);
    else haste__cu_load8(p, (const uint16_t *)p.state[k], g, f, s, out);
}
static __device__ __forceinline__ void haste__cu_state_store8(const haste__cu_pass &p, const haste__cu_moment &now, int k,
                                                              int64_t g, int f, int s, const float *v)
{
    if (p.state_f32) haste__cu_store8(p, (float *)p.state[k], g, f, s, v, now.key_state[k]);
    else haste__cu_store8(p, (uint16_t *)p.state[k], g, f, s, v, now.key_state[k]);
}

/* One parameter. m and v are its state before and after. */
static __device__ __forceinline__ float haste__cu_rule(const haste__cu_pass &p, const haste__cu_moment &now, float w, float g,
                                                       float decay, float *m, float *v)
{
    if (p.optimizer == HASTE_SGD) return w - now.lr * (g + decay * w);
    if (p.optimizer == HASTE_MOMENTUM) {
        *m = p.momentum * *m + (g + decay * w);
        return w - now.lr * *m;
    }
    *m = p.beta1 * *m + (1 - p.beta1) * g;
    *v = p.beta2 * *v + (1 - p.beta2) * (g * g);
    return w - now.lr * decay * w - now.lr * (*m * now.correction1) / (sqrtf(*v * now.correction2) + p.eps);
}

/* Would an updated weight stay finite, rounded to T too? */
template <typename T> static __device__ __forceinline__ bool haste__cu_storable(float w)
{
    return (__float_as_uint(w) & 0x7fffffffu) <= (sizeof(T) == 2 ? 0x7f7f0000u : 0x7f7fffffu);
}

/* The weights w of labels s .. s + 7 of input f, with their gradients. Returns whether the updated ones are all finite; else
   they and their states stay as they were, as they do where not `store`. */
template <typename T>
static __device__ __forceinline__ bool haste__cu_update8(const haste__cu_pass &p, int64_t g, int f, int s, float *w,
                                                         const float *gradient, bool store)
{
    const haste__cu_moment now = haste__cu_now(p);
    float m[8] = {}, v[8] = {};
    bool fine = true;
    if (p.optimizer != HASTE_SGD) haste__cu_state_load8(p, 0, g, f, s, m);
    if (p.optimizer == HASTE_ADAMW) haste__cu_state_load8(p, 1, g, f, s, v);
    #pragma unroll
    for (int j = 0; j < 8; j++) {
        w[j] = haste__cu_rule(p, now, w[j], gradient[j], p.decay, &m[j], &v[j]);
        fine &= haste__cu_storable<T>(w[j]);
    }
    if (!store || !fine) return fine;
    if (p.optimizer != HASTE_SGD) haste__cu_state_store8(p, now, 0, g, f, s, m);
    if (p.optimizer == HASTE_ADAMW) haste__cu_state_store8(p, now, 1, g, f, s, v);
    haste__cu_store8(p, (T *)p.weight, g, f, s, w, now.key_weight);
    return fine;
}

/* Likewise a bias; it stays as it was where it would not be finite. */
static __device__ __forceinline__ bool haste__cu_update_bias(const haste__cu_pass &p, int64_t at, float gradient, bool store)
{
    float m = p.bias_state[0] ? p.bias_state[0][at] : 0, v = p.bias_state[1] ? p.bias_state[1][at] : 0;
    const float bias = haste__cu_rule(p, haste__cu_now(p), p.bias[at], gradient, 0, &m, &v);
    if (!store || !haste__cu_finite(bias)) return haste__cu_finite(bias);
    p.bias[at] = bias;
    if (p.bias_state[0]) p.bias_state[0][at] = m;
    if (p.bias_state[1]) p.bias_state[1][at] = v;
    return true;
}

/* ---- >>groups ------------------------------------------------------------------------------------------------ */

/* Logits acc become logit gradients; what is no logit becomes 0. LOSS: HASTE__CU_ADJUSTED with options, of labels from
   first_slot on. Returns whether one was not finite. */
enum { HASTE__CU_ADJUSTED = 100 };   /* beside haste_loss */
template <typename T, int SP, int LOSS>
static __device__ __forceinline__ bool haste__cu_loss(const haste__cu_pass &p, const float *bias, int labels, int samples,
                                                      int first_sample, float *acc, const uint32_t *y, bool marked,
                                                      float *sum, int64_t first_slot = 0, float importance = 1)
{
    const bool want = p.loss_sum != NULL;
    bool bad = false;
    #pragma unroll
    for (int i = 0; i < SP / 2; i++) {
        int s, b;
        float logit;
        haste__cu_where<SP>((const T *)NULL, i, &s, &b);
        if (s >= labels || b >= samples) { acc[i] = 0; continue; }
        logit = acc[i] + __ldg(bias + s);
        bad |= !haste__cu_finite(logit);
        const bool positive = marked && (y[2 * s + b / 32] >> (b % 32) & 1);
        if constexpr (LOSS == HASTE__CU_ADJUSTED)
            acc[i] = haste__cu_adjusted_slope<sizeof(T) == 4>(p, logit, positive, first_sample + b, first_slot + s, importance,
                                                              want, sum, &bad);
        else acc[i] = haste__cu_slope<sizeof(T) == 4, LOSS>(p, logit, positive, first_sample + b, want, sum);
    }
    return bad;
}

/* Logit gradients from the sums acc, to z [SP][64], and their sums over samples to db [4][SP]. Returns whether a logit was
   not finite. */
template <typename T, int SP>
static __device__ __forceinline__ bool haste__cu_slopes(const haste__cu_pass &p, int64_t g, int s0, int run,
                                                        int tile_number, float *acc,
                                                        const uint32_t *y, bool marked, T *z, float *db,
                                                        float importance, double *loss)
{
    typedef haste__cu_tile<T, SP> tile;
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, first_sample = tile_number * HASTE__CU_TILE;
    const int samples = p.B - first_sample;
    const float *bias = p.bias + g * p.S + s0;
    int labels = haste__cu_group_labels(p, g) - s0;
    float sum = 0;
    bool bad = false;
    if (labels > run) labels = run;
    if (p.given) {
        #pragma unroll
        for (int i = 0; i < SP / 2; i++) {
            int s, b;
            haste__cu_where<SP>(z, i, &s, &b);
            acc[i] = s < labels && b < samples
                         ? haste__cu_read(p.given, p.given_bf16 ? HASTE_CUDA_BF16 : HASTE_CUDA_F32,
                                          (size_t)(first_sample + b) * (size_t)p.slots +
                                              (size_t)(p.first_slot + g * p.S + s0 + s))
                         : 0.0f;
        }
    } else if (p.adjusted)
        bad = haste__cu_loss<T, SP, HASTE__CU_ADJUSTED>(p, bias, labels, samples, first_sample, acc, y, marked, &sum,
                                                        p.first_slot + g * p.S + s0, importance);
    else if (p.loss == HASTE_BCE)
        bad = haste__cu_loss<T, SP, HASTE_BCE>(p, bias, labels, samples, first_sample, acc, y, marked, &sum);
    else if (p.loss == HASTE_SQUARED_HINGE)
        bad = haste__cu_loss<T, SP, HASTE_SQUARED_HINGE>(p, bias, labels, samples, first_sample, acc, y, marked, &sum);
    else bad = haste__cu_loss<T, SP, HASTE_SOFTMAX>(p, bias, labels, samples, first_sample, acc, y, marked, &sum);
    if (sizeof(T) == 2) {
        #pragma unroll
        for (int i = 0; i < SP / 2; i += 2) {
            int s, b;
            haste__cu_where<SP>(z, i, &s, &b);
            *(uint32_t *)(z + s * tile::LX + b) = haste__cu_pack(acc[i], acc[i + 1]);
        }
        #pragma unroll
        for (int i = 0; i < SP / 2; i += 8)
            #pragma unroll
            for (int half = 0; half < 2; half++) {
                float v = (acc[i + 2 * half] + acc[i + 2 * half + 1]) + (acc[i + 2 * half + 4] + acc[i + 2 * half + 5]);
                v += __shfl_xor_sync(0xffffffffu, v, 1);
                v += __shfl_xor_sync(0xffffffffu, v, 2);
                if (lane % 4 == 0) db[warp * SP + i / 8 * 16 + lane / 4 + half * 8] += v;
            }
    } else {
        #pragma unroll
        for (int i = 0; i < SP / 2; i += 4) {
            int s, b;
            float v = (acc[i] + acc[i + 1]) + (acc[i + 2] + acc[i + 3]);
            haste__cu_where<SP>(z, i, &s, &b);
            *(float4 *)(void *)(z + s * tile::LX + b) = make_float4(acc[i], acc[i + 1], acc[i + 2], acc[i + 3]);
            #pragma unroll
            for (int step = 1; step < 16; step *= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
            if (lane % 16 == 0) db[s] += v;
        }
    }
    *loss += (double)sum;
    return bad;
}

/* Logit gradients of one tile of samples, to z and db, with all of the group's inputs; whole: the weights are not there yet.
   Begins with a barrier, which ends the use of x and z by what came before; the caller's comes after. */
template <typename T, int SP>
static __device__ __forceinline__ bool haste__cu_tile_slopes(const haste__cu_pass &p, int64_t g, int s0, int run, int t,
                                                             bool whole, int32_t first, float importance,
                                                             unsigned char *memory, float *acc, double *loss)
{
    typedef haste__cu_tile<T, SP> tile;
    T *w = (T *)memory, *x = (T *)(memory + tile::X), *z = (T *)(memory + tile::Z);
    uint32_t *y = (uint32_t *)(memory + tile::Y);
    if (first >= 0) y[threadIdx.x] = 0;
    __syncthreads();
    #pragma unroll
    for (int i = 0; i < SP / 2; i++) acc[i] = 0;
    for (int f0 = 0; f0 < p.F && !(p.given && whole); f0 += HASTE__CU_RUN) {   /* given gradients need no logits */
        int rows = p.F - f0 < HASTE__CU_RUN ? p.F - f0 : HASTE__CU_RUN;
        if (f0 > 0) __syncthreads();
        if (whole) haste__cu_fetch_weights<T, SP>(p, g, f0, rows, s0, run, w);
        haste__cu_fetch_x<T, SP>(p, g, f0, rows, t, x);
        if (f0 == 0 && first >= 0) haste__cu_mark(p, first, s0, t, y);
        haste__cu_copy_wait();
        __syncthreads();
        if (!p.given) haste__cu_logits<SP>(acc, w, x, rows);
    }
    return haste__cu_slopes<T, SP>(p, g, s0, run, t, acc, y, first >= 0, z, (float *)(memory + tile::DB), importance,
                                    loss);
}

/* What becomes of the gradient in dw [64][LD] of inputs f0 .. f0 + rows - 1: an update, or a place in the caller's buffer. w
   holds the weights. Returns whether this thread's updated weights are finite. */
template <typename T, int SP>
static __device__ __forceinline__ bool haste__cu_finish(const haste__cu_pass &p, int64_t g, int f0, int rows, int s0,
                                                        int run, const T *w, const float *dw)
{
    typedef haste__cu_tile<T, SP> tile;
    bool fine = true;
    for (int i = (int)threadIdx.x; i < 64 * (SP / 8); i += HASTE__CU_THREADS) {
        int f = i / (SP / 8), c = i % (SP / 8) * 8;
        float gradient[8], old[8];
        if (f >= rows || c >= run) continue;
        haste__cu_get8(gradient, dw + f * tile::LD + c);
        if (p.update) {
            haste__cu_get8(old, w + f * tile::LW + c);
            fine = haste__cu_update8<T>(p, g, f0 + f, s0 + c, old, gradient, true) && fine;
        } else {
            float *to = p.grad_weight + ((size_t)g * (size_t)p.F + (size_t)(f0 + f)) * (size_t)p.S + (size_t)(s0 + c);
            if (p.add) {
                haste__cu_get8(old, to);
                #pragma unroll
                for (int j = 0; j < 8; j++) gradient[j] += old[j];
            }
            haste__cu_put8(to, gradient, 0, 0);
        }
    }
    return fine;
}

/* How many of the next kernel's blocks a multiprocessor should hold, which decides the registers of a thread: 128 and more
   make them wait less for memory. */
template <typename T, int SP> struct haste__cu_group_blocks {
    enum { N = sizeof(T) == 2 ? (SP == 64 ? 3 : SP == 32 ? 4 : 5) : (SP == 64 ? 2 : 4) };
};

/* Everything that trains. Block: one run of at most 64 labels of a group after the other. Where F <= 64, one pass over the
   tiles of samples does all; else a first pass leaves logit gradients in scratch memory, and a second one takes 64 inputs at
   a time. Adds to grad_x in no fixed order, except that each thread block of the deterministic mode has a replica of its
   own. */
template <typename T, int SP>
static __global__ void __launch_bounds__(HASTE__CU_THREADS,
                                         (haste__cu_group_blocks<T, SP>::N)) haste__cu_group_kernel(const haste__cu_pass p)
{
    typedef haste__cu_tile<T, SP> tile;
    HASTE__CU_SHARED(memory, 128);
    T *w = (T *)memory, *x = (T *)(memory + tile::X), *z = (T *)(memory + tile::Z);
    float *dw = (float *)(memory + tile::X), *db = (float *)(memory + tile::DB);
    const int subs = (p.S + HASTE__CU_RUN - 1) / HASTE__CU_RUN, chunks = (p.F + HASTE__CU_RUN - 1) / HASTE__CU_RUN;
    const bool want_weights = p.update || p.grad_weight;
    const size_t tile_rows = (size_t)p.D * HASTE__CU_TILE;
    const size_t replica = (size_t)(blockIdx.x % p.replicas) * (size_t)p.tiles * tile_rows;
    float *grad_x = p.grad_x ? p.grad_x + replica + (size_t)p.begin * HASTE__CU_TILE : NULL;
    T *slopes = (T *)p.slopes + (size_t)blockIdx.x * (size_t)p.tiles * HASTE__CU_RUN * HASTE__CU_TILE;
    double loss = 0;
    if (p.now->skip) return;

    for (int64_t item = blockIdx.x; item < p.groups * subs; item += gridDim.x) {
        const int64_t g = haste__cu_item_group(item, subs);
        const int s0 = haste__cu_item_label(item, subs), run = p.S - s0 < SP ? p.S - s0 : SP;
        float sums[SP / 2], acc[SP / 2];
        const int32_t first = haste__cu_first(p, g);
        const int64_t next = haste__cu_item_group(item + gridDim.x, subs);
        float importance;
        bool bad = false;
        if (!haste__cu_visited(p, g, first, &importance)) continue;
        __syncthreads();   /* the item before is done with shared memory */
        if (next < p.groups) {   /* what the next group will read is on its way to the second cache meanwhile */
            size_t group = (size_t)p.F * (size_t)p.S * sizeof(T), at = (size_t)threadIdx.x * 128;
            if (at < group) haste__cu_prefetch((const char *)p.weight + (size_t)next * group + at);
            if (p.index && at < (size_t)p.F * 2) haste__cu_prefetch((const char *)(p.index + next * p.F) + at);
        }
        for (int i = (int)threadIdx.x; i < 4 * SP; i += HASTE__CU_THREADS) db[i] = 0;
        #pragma unroll
        for (int i = 0; i < SP / 2; i++) sums[i] = 0;
        if (chunks == 1) haste__cu_fetch_weights<T, SP>(p, g, 0, p.F, s0, run, w);

        for (int t = 0; t < p.tiles; t++) {
            bad |= haste__cu_tile_slopes<T, SP>(p, g, s0, run, t, chunks > 1, first, importance, memory, acc, &loss);
            __syncthreads();
            if (chunks == 1) {
                if (grad_x) haste__cu_inputs<SP>(p, g, 0, p.F, w, z, grad_x + (size_t)t * tile_rows);
                if (want_weights) haste__cu_weights<SP>(sums, x, z, p.F);
            } else
                for (int i = (int)threadIdx.x; i < SP * HASTE__CU_TILE; i += HASTE__CU_THREADS)
                    slopes[(size_t)t * HASTE__CU_RUN * HASTE__CU_TILE + (size_t)i] = z[i / HASTE__CU_TILE * tile::LX +
                                                                                       i % HASTE__CU_TILE];
        }
        bad = __syncthreads_or(bad);
        if (bad && threadIdx.x == 0) atomicAdd(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);

        for (int chunk = 0; chunk < chunks && !bad; chunk++) {
            int f0 = chunk * HASTE__CU_RUN, rows = p.F - f0 < HASTE__CU_RUN ? p.F - f0 : HASTE__CU_RUN;
            bool insane = false;
            if (chunks > 1) {
                __syncthreads();
                haste__cu_fetch_weights<T, SP>(p, g, f0, rows, s0, run, w);
                #pragma unroll
                for (int i = 0; i < SP / 2; i++) sums[i] = 0;
                for (int t = 0; t < p.tiles; t++) {
                    const T *from = slopes + (size_t)t * HASTE__CU_RUN * HASTE__CU_TILE;
                    if (t > 0) __syncthreads();
                    haste__cu_fetch_x<T, SP>(p, g, f0, rows, t, x);
                    for (int i = (int)threadIdx.x; i < SP * HASTE__CU_TILE; i += HASTE__CU_THREADS)
                        z[i / HASTE__CU_TILE * tile::LX + i % HASTE__CU_TILE] = from[i];
                    haste__cu_copy_wait();
                    __syncthreads();
                    if (grad_x) haste__cu_inputs<SP>(p, g, f0, rows, w, z, grad_x + (size_t)t * tile_rows);
                    if (want_weights) haste__cu_weights<SP>(sums, x, z, rows);
                }
                __syncthreads();
            }
            if (!want_weights) continue;
            haste__cu_weights_store<SP>(w, sums, dw);
            if (!p.given) {
                #pragma unroll
                for (int i = 0; i < SP / 2; i++) insane |= !haste__cu_sane(sums[i]);
            }
            insane = __syncthreads_or(insane);
            if (!insane) insane = !haste__cu_finish<T, SP>(p, g, f0, rows, s0, run, w, dw);
            else insane = threadIdx.x == 0;
            if (insane) atomicAdd(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);
        }

        if ((int)threadIdx.x < run && !bad) {
            int s = (int)threadIdx.x;
            float d = (db[s] + db[SP + s]) + (db[2 * SP + s] + db[3 * SP + s]);
            int64_t at = g * p.S + s0 + s;
            if ((!p.given && !haste__cu_sane(d)) || (p.update && !haste__cu_update_bias(p, at, d, true)))
                atomicAdd(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);
            else if (!p.update && p.grad_bias) p.grad_bias[at] = p.add ? p.grad_bias[at] + d : d;
        }
    }
    if (p.loss_sum) {
        loss = haste__cu_block_sum(loss, (double *)memory);
        if (threadIdx.x == 0) p.loss_sum[blockIdx.x] = loss;
    }
}

/* haste_cuda_apply: an update from a gradient buffer, which becomes 0; skip: only that. Block: one run of labels of a group
   after the other; two passes, since a gradient that is not usable, or a new weight that is not finite, spares the run. */
template <typename T>
static __global__ void __launch_bounds__(HASTE__CU_THREADS) haste__cu_apply_kernel(const haste__cu_pass p)
{
    const int subs = (p.S + HASTE__CU_RUN - 1) / HASTE__CU_RUN, skip = p.now->skip;
    for (int64_t item = blockIdx.x; item < p.groups * subs; item += gridDim.x) {
        const int64_t g = item / subs;
        const int s0 = (int)(item % subs) * HASTE__CU_RUN, run = p.S - s0 < HASTE__CU_RUN ? p.S - s0 : HASTE__CU_RUN,
            eights = run / 8;
        float *from = p.grad_weight + (size_t)g * (size_t)p.F * (size_t)p.S + s0;
        float *bias = p.grad_bias + g * p.S + s0;
        int insane = 0;
        for (int64_t i = threadIdx.x; i < (int64_t)p.F * eights; i += HASTE__CU_THREADS) {
            float gradient[8];
            haste__cu_get8(gradient, from + i / eights * p.S + i % eights * 8);
            for (int j = 0; j < 8; j++) insane |= !haste__cu_sane(gradient[j]);
        }
        if ((int)threadIdx.x < run) insane |= !haste__cu_sane(bias[threadIdx.x]);
        insane = __syncthreads_or(insane) && !skip;
        #pragma unroll 1
        for (int store = p.wild ? 0 : 1; store < 2; store++) {   /* 0: only to see whether all new weights are finite */
            int fine = 1;
            for (int64_t i = threadIdx.x; i < (int64_t)p.F * eights && !insane && !skip; i += HASTE__CU_THREADS) {
                float gradient[8], w[8];
                const int f = (int)(i / eights), c = (int)(i % eights) * 8;
                haste__cu_get8(gradient, from + (int64_t)f * p.S + c);
                haste__cu_load8(p, (const T *)p.weight, g, f, s0 + c, w);
                fine &= haste__cu_update8<T>(p, g, f, s0 + c, w, gradient, store != 0);
            }
            if ((int)threadIdx.x < run && !insane && !skip)
                fine &= haste__cu_update_bias(p, g * p.S + s0 + (int)threadIdx.x, bias[threadIdx.x], store != 0);
            insane |= !__syncthreads_and(fine);
        }
        for (int64_t i = threadIdx.x; i < (int64_t)p.F * eights; i += HASTE__CU_THREADS) {
            const float none[8] = {};
            haste__cu_put8(from + i / eights * p.S + i % eights * 8, none, 0, 0);
        }
        if ((int)threadIdx.x < run) bias[threadIdx.x] = 0;
        if (insane && threadIdx.x == 0) atomicAdd(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);
    }
}

/* ---- >>forward ----------------------------------------------------------------------------------------------- */

enum { HASTE__CU_LOGITS = 0, HASTE__CU_SUMEXP = 1, HASTE__CU_TOP_K = 2, HASTE__CU_ABOVE = 3 };
/* floats in a row of logits in shared memory: odd, so that columns are read without conflicts */
enum { HASTE__CU_LZ = HASTE__CU_TILE + 1 };

/* bfloat16 has two stages, one being filled while the other is worked on; float32 has its hands full with arithmetic. After
   the logits: marks, then for top-k what a sample's labels must reach [64], the labels' ids [64] and the lists [64][k]. */
template <typename T, int SP> struct haste__cu_forward_tile {
    enum {
        STAGES = sizeof(T) == 2 ? 2 : 1, STAGE = haste__cu_tile<T, SP>::Z, Z = STAGES * STAGE,
            Y = (Z + SP * HASTE__CU_LZ * 4 + 15) / 16 * 16,
        LIMIT = Y + 512, LABEL = LIMIT + 256, LIST = LABEL + 256
    };
};

/* Enters a label into a sorted list of k. */
static __device__ __forceinline__ void haste__cu_insert(uint64_t *list, int k, uint64_t entry)
{
    int i = k - 1;
    if (list[i] >= entry) return;
    for (; i > 0 && list[i - 1] < entry; i--) list[i] = list[i - 1];
    list[i] = entry;
}

/* Logits of one tile of samples (blockIdx.x % tiles) and every parts-th run of labels, and what becomes of them:
     LOGITS   stored
     SUMEXP   the running maximum and sum of exponentials of each sample: two threads a sample, each with half of the labels
     TOP_K    the k best of each sample, in shared memory, then to `best`; `floor` tells the other thread blocks what is in
              vain, so that soon a look at the sums in registers is all that most runs of labels cost
     ABOVE    those above the threshold are counted, or written where count says
   Neighbouring blocks take the same labels for other samples, so that weights come from the cache. */
template <typename T, int SP, int MODE>
static __global__ void __launch_bounds__(HASTE__CU_THREADS) haste__cu_forward_kernel(const haste__cu_pass p)
{
    typedef haste__cu_tile<T, SP> tile;
    typedef haste__cu_forward_tile<T, SP> layout;
    HASTE__CU_SHARED(memory, 128);
    float *z = (float *)(memory + layout::Z), *limit = (float *)(memory + layout::LIMIT);
    uint32_t *y = (uint32_t *)(memory + layout::Y);
    int32_t *label = (int32_t *)(memory + layout::LABEL);
    uint64_t *lists = (uint64_t *)(memory + layout::LIST);
    const int tile_number = (int)(blockIdx.x % (unsigned)p.tiles), part = (int)(blockIdx.x / (unsigned)p.tiles);
    const int subs = (p.S + HASTE__CU_RUN - 1) / HASTE__CU_RUN, b = (int)threadIdx.x / 2, half = (int)threadIdx.x % 2;
    const int sample = tile_number * HASTE__CU_TILE + b;
    const size_t padded = (size_t)p.tiles * HASTE__CU_TILE;
    const int64_t items = p.groups * subs;
    const bool live = sample < p.B;
    uint64_t *best = p.best + ((size_t)part * padded + (size_t)sample) * (size_t)p.k;
    float largest = -FLT_MAX, sum = 0, acc[SP / 2];
    int64_t item = part;
    int f0 = 0, stage = 0;
    bool bad = false;

    if (MODE == HASTE__CU_SUMEXP && !p.first) {
        largest = p.partial[((size_t)part * 2 + 0) * padded * 2 + (size_t)sample * 2 + half];
        sum = p.partial[((size_t)part * 2 + 1) * padded * 2 + (size_t)sample * 2 + half];
    }
    if (MODE == HASTE__CU_TOP_K) {
        for (int i = half; i < p.k; i += 2) lists[b * p.k + i] = live && !p.first ? best[i] : 0;
        if (half == 0) limit[b] = live ? -FLT_MAX : INFINITY;
    }
    #pragma unroll
    for (int i = 0; i < SP / 2; i++) acc[i] = 0;

    for (int fetched = 0; item < items; ) {
        const int64_t g = haste__cu_item_group(item, subs);
        const int s0 = haste__cu_item_label(item, subs), run = p.S - s0 < SP ? p.S - s0 : SP,
            rows = p.F - f0 < 64 ? p.F - f0 : 64;
        const bool last = f0 + HASTE__CU_RUN >= p.F;
        const int64_t next = last ? item + p.parts : item;
        const int next_f0 = last ? 0 : f0 + HASTE__CU_RUN;
        int labels = haste__cu_group_labels(p, g) - s0;
        if (labels > run) labels = run;
        T *w = (T *)(memory + stage * layout::STAGE), *x = (T *)(memory + stage * layout::STAGE + tile::X);

        __syncthreads();   /* the step before is done with the other stage, and with z and y */
        if (!fetched) {
            haste__cu_fetch_weights<T, SP>(p, g, f0, rows, s0, run, w);
            haste__cu_fetch_x<T, SP>(p, g, f0, rows, tile_number, x);
            haste__cu_copy_batch();
        }
        if (layout::STAGES == 2) {
            stage = 1 - stage;
            fetched = 1;
            if (next < items) {
                const int64_t next_g = haste__cu_item_group(next, subs);
                const int next_s0 = haste__cu_item_label(next, subs), next_rows = p.F - next_f0 < 64 ? p.F - next_f0 : 64;
                T *next_w = (T *)(memory + stage * layout::STAGE), *next_x = (T *)(memory + stage * layout::STAGE + tile::X);
                haste__cu_fetch_weights<T, SP>(p, next_g, next_f0, next_rows, next_s0,
                                               p.S - next_s0 < SP ? p.S - next_s0 : SP, next_w);
                haste__cu_fetch_x<T, SP>(p, next_g, next_f0, next_rows, tile_number, next_x);
            }
            haste__cu_copy_batch();
            haste__cu_copy_wait_but<1>();
        } else haste__cu_copy_wait();
        if (MODE == HASTE__CU_TOP_K && f0 == 0 && half == 0 && live) {
            const uint32_t others = *(volatile uint32_t *)(p.floor + sample);
            if (others) limit[b] = fmaxf(limit[b], haste__cu_order_float(others));
        }
        __syncthreads();
        haste__cu_logits<SP>(acc, w, x, rows);
        item = next;
        f0 = next_f0;
        if (!last) continue;

        bool any = MODE != HASTE__CU_TOP_K;
        #pragma unroll
        for (int i = 0; i < SP / 2; i++) {
            int s, column;
            haste__cu_where<SP>(w, i, &s, &column);
            acc[i] += s < labels ? __ldg(p.bias + g * p.S + s0 + s) : 0.0f;
            if (MODE == HASTE__CU_TOP_K && s < labels && !(acc[i] < limit[column] && acc[i] >= -FLT_MAX)) any = true;
        }
        if (MODE != HASTE__CU_TOP_K || __syncthreads_or(any)) {
            const int32_t first = MODE == HASTE__CU_TOP_K || MODE == HASTE__CU_ABOVE ? haste__cu_first(p, g) : -1;
            const bool marked = first >= 0;
            #pragma unroll
            for (int i = 0; i < SP / 2; i++) {
                int s, column;
                haste__cu_where<SP>(w, i, &s, &column);
                z[s * HASTE__CU_LZ + column] = acc[i];
            }
            if (MODE == HASTE__CU_TOP_K && (int)threadIdx.x < labels)
                label[threadIdx.x] = p.label_of[p.first_slot + g * p.S + s0 + threadIdx.x];
            if (marked) {
                y[threadIdx.x] = 0;
                __syncthreads();
                haste__cu_mark(p, first, s0, tile_number, y);
            }
            __syncthreads();
            if (MODE == HASTE__CU_LOGITS) {   /* two labels a thread, samples one after the other */
                for (int i = (int)threadIdx.x; i < HASTE__CU_TILE * (SP / 2); i += HASTE__CU_THREADS) {
                    int row = i / (SP / 2), s = i % (SP / 2) * 2;
                    int64_t to = tile_number * (int64_t)HASTE__CU_TILE + row;
                    size_t at = (size_t)to * (size_t)p.slots + (size_t)(p.first_slot + g * p.S + s0 + s);
                    float v0 = s < labels ? z[s * HASTE__CU_LZ + row] : 0.0f,
                        v1 = s + 1 < labels ? z[(s + 1) * HASTE__CU_LZ + row] : 0.0f;
                    if (to >= p.B || s >= run) continue;
                    if (p.logits_bf16) {
                        uint16_t *out = (uint16_t *)p.logits + at;
                        if ((uintptr_t)out % 4 == 0) *(uint32_t *)(void *)out = haste__cu_pack(v0, v1);
                        else { haste__cu_put(out, v0); haste__cu_put(out + 1, v1); }
                    } else {
                        float *out = (float *)p.logits + at;
                        if ((uintptr_t)out % 8 == 0) *(float2 *)(void *)out = make_float2(v0, v1);
                        else { out[0] = v0; out[1] = v1; }
                    }
                }
            } else if (MODE == HASTE__CU_SUMEXP) {
                float most = largest;
                for (int s = half; s < labels; s += 2) {
                    float v = z[s * HASTE__CU_LZ + b];
                    if (haste__cu_finite(v) && v > most) most = v;   /* what is not finite is reported by the second pass */
                }
                sum *= expf(largest - most);
                largest = most;
                for (int s = half; s < labels; s += 2) {
                    float v = z[s * HASTE__CU_LZ + b];
                    if (haste__cu_finite(v)) sum += sizeof(T) == 4 ? expf(v - most) : __expf(v - most);
                }
            } else if (MODE == HASTE__CU_TOP_K) {
                uint64_t *list = lists + b * p.k;
                const float before = limit[b];
                float floor = before;
                for (int s2 = 0; s2 < labels; s2 += 2) {
                    int s = s2 + half;
                    float v = s < labels ? z[s * HASTE__CU_LZ + b] : -INFINITY;
                    bool wanted = live && s < labels && !(marked && (y[2 * s + b / 32] >> (b % 32) & 1));
                    if (wanted && !haste__cu_finite(v)) { bad = true; wanted = false; }
                    wanted = wanted && v >= floor;
                    if (__any_sync(0xffffffffu, wanted)) {   /* the two threads of a sample take turns */
                        for (int turn = 0; turn < 2; turn++) {
                            if (wanted && half == turn) haste__cu_insert(list, p.k, haste__cu_entry(v, label[s]));
                            __syncwarp();
                        }
                        if (list[p.k - 1]) floor = fmaxf(floor, haste__cu_entry_score(list[p.k - 1]));
                    }
                }
                __syncwarp();   /* both have read limit[b] */
                if (live && half == 0 && floor > before) {
                    limit[b] = floor;
                    atomicMax(p.floor + sample, haste__cu_order_key(floor));
                }
            } else {
                const int32_t *label_of = p.label_of + p.first_slot + g * p.S + s0;
                for (int s = half; live && s < labels; s += 2) {
                    float v = z[s * HASTE__CU_LZ + b];
                    if (marked && (y[2 * s + b / 32] >> (b % 32) & 1)) continue;
                    if (!haste__cu_finite(v)) bad = true;
                    else if (v > p.threshold) {
                        int64_t at = (int64_t)atomicAdd((unsigned long long *)p.count + sample, 1ull);
                        if (p.hit_id) {
                            p.hit_id[at] = label_of[s];
                            p.hit_score[at] = v;
                        }
                    }
                }
            }
        }
        #pragma unroll
        for (int i = 0; i < SP / 2; i++) acc[i] = 0;
    }
    haste__cu_copy_wait();

    if (MODE == HASTE__CU_SUMEXP) {
        p.partial[((size_t)part * 2 + 0) * padded * 2 + (size_t)sample * 2 + half] = largest;
        p.partial[((size_t)part * 2 + 1) * padded * 2 + (size_t)sample * 2 + half] = sum;
    }
    if (MODE == HASTE__CU_TOP_K) {
        __syncwarp();
        for (int i = half; live && i < p.k; i += 2) best[i] = lists[b * p.k + i];
    }
    if (bad) atomicExch(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);
}

/* Does (score, id) stand before (other, other_id)? */
static __device__ __forceinline__ bool haste__cu_before(float score, int32_t id, float other, int32_t other_id)
{
    return score > other || (score == other && id < other_id);
}

/* Softmax: from the parts' maxima and sums to what the second pass needs. norm [4][padded]: largest logit, 1/sum,
   log-sum-exp, 1/n. Warp: one sample. */
static __global__ void haste__cu_softmax_kernel(const float *partial, int parts, int B, int64_t padded, const int32_t *row,
                                                float *norm)
{
    int64_t b = (int64_t)blockIdx.x * (HASTE__CU_THREADS / 32) + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32;
    float largest = -FLT_MAX;
    double sum = 0;
    if (b >= padded) return;
    for (int i = lane; i < 2 * parts && b < B; i += 32)
        largest = fmaxf(largest, partial[(size_t)(i / 2) * 4 * (size_t)padded + (size_t)b * 2 + (size_t)(i % 2)]);
    for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
    for (int i = lane; i < 2 * parts && b < B; i += 32) {
        const float *from = partial + (size_t)(i / 2) * 4 * (size_t)padded + (size_t)b * 2 + (size_t)(i % 2);
        if (from[2 * padded] > 0) sum += (double)from[2 * padded] * exp((double)from[0] - (double)largest);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) {
        bool there = b < B && sum > 0 && row[b] > 0;
        norm[b] = there ? largest : 0.0f;
        norm[padded + b] = there ? (float)(1 / sum) : 0.0f;
        norm[2 * padded + b] = there ? (float)((double)largest + log(sum)) : 0.0f;
        norm[3 * padded + b] = there ? 1.0f / (float)row[b] : 0.0f;
    }
}

/* ---- >>top-k ------------------------------------------------------------------------------------------------- */

/* The larger of two entries, over a warp. */
static __device__ __forceinline__ uint64_t haste__cu_warp_best(uint64_t entry)
{
    #pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, entry, step);
        if (other > entry) entry = other;
    }
    return entry;
}

/* The largest number that k of the block's keys (KEYS a thread) reach: their k-th largest, but for the bits below the last
   one. Bit by bit. All threads, at most 512; counts [2][16] is shared. */
template <int KEYS>
static __device__ __forceinline__ uint32_t haste__cu_kth(const uint32_t *key, int k, int last, int (*counts)[16])
{
    const int warps = (int)blockDim.x / 32;
    uint32_t found = 0;
    for (int bit = 31; bit >= last; bit--) {
        int count = 0, *slot = counts[bit & 1];   /* two of them: one barrier a bit is enough */
        #pragma unroll
        for (int i = 0; i < KEYS; i++) count += key[i] >= (found | 1u << bit);
        count = __reduce_add_sync(0xffffffffu, count);
        if (threadIdx.x % 32 == 0) slot[threadIdx.x / 32] = count;
        __syncthreads();
        count = 0;
        for (int i = 0; i < warps; i++) count += slot[i];
        if (count >= k) found |= 1u << bit;
    }
    return found;
}

enum { HASTE__CU_MERGE = 1024, HASTE__CU_AHEAD = 4 };   /* entries that may come into question; of a list, read at once */
typedef struct haste__cu_merge_memory {
    uint64_t entry[HASTE__CU_MERGE], scratch[64];
    int32_t  counts[2][16], count;
    uint8_t  head[HASTE__CU_PARTS];
} haste__cu_merge_memory;

/* k <= 32 of the lists' firsts reach what this returns: the k-th largest of what 32 sets of lists have as their best. Each
   warp finds it by itself. */
static __device__ __forceinline__ uint32_t haste__cu_merge_least(const uint64_t *list, int lists, size_t stride, int k)
{
    const int lane = (int)threadIdx.x % 32;
    uint32_t own = 0;
    int before = 0;
    #pragma unroll 8
    for (int i = lane; i < lists; i += 32) own = max(own, (uint32_t)(__ldcg(list + (size_t)i * stride) >> 32));
    #pragma unroll
    for (int step = 1; step < 32; step++) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, own, step);
        before += other > own || (other == own && (lane ^ step) < lane);
    }
    return __reduce_or_sync(0xffffffffu, before == k - 1 ? own : 0u);
}

/* Takes an entry that comes into question; false where it does not, or there is no more room. */
static __device__ __forceinline__ bool haste__cu_merge_take(haste__cu_merge_memory *m, uint64_t entry, uint32_t least)
{
    if (!entry || (uint32_t)(entry >> 32) < least) return false;
    const int at = atomicAdd(&m->count, 1);
    if (at < HASTE__CU_MERGE) m->entry[at] = entry;
    return at < HASTE__CU_MERGE;
}

/* Merges `lists` sorted lists of k, each `stride` entries after the other, into one. All threads of the block, 128 to 512.
   What k of the lists' firsts reach tells which entries come into question, hardly more than k; each of them counts those
   before it. Where there are too many, since they tie, one after the other is found: a thread looks after the heads of its
   lists and only looks again after it has won. Others may have written the lists meanwhile: not from the first cache. */
static __device__ void haste__cu_merge(const uint64_t *list, int lists, size_t stride, int k, int32_t *id, float *score,
                                       haste__cu_merge_memory *m)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    const int tid = (int)threadIdx.x, threads = (int)blockDim.x;
    uint32_t least = 0;
    uint64_t own = 0, best, ahead[HASTE__CU_AHEAD];
    int from = -1;
    bool fresh = true;

    #pragma unroll
    for (int r = 0; r < HASTE__CU_AHEAD; r++)
        ahead[r] = tid < lists && r < k ? __ldcg(list + (size_t)tid * stride + (size_t)r) : 0;
    if (k <= 32) least = haste__cu_merge_least(list, lists, stride, k);
    else {
        uint32_t key[HASTE__CU_PARTS / 128];
        #pragma unroll
        for (int i = 0; i < HASTE__CU_PARTS / 128; i++)
            key[i] = tid + i * threads < lists ? (uint32_t)(__ldcg(list + (size_t)(tid + i * threads) * stride) >> 32) : 0;
        least = haste__cu_kth<HASTE__CU_PARTS / 128>(key, k, 0, m->counts);
    }
    if (tid == 0) m->count = 0;
    __syncthreads();
    for (int i = tid; i < lists; i += threads) {
        bool more = true;
        int r = 0;
        if (i == tid)
            #pragma unroll
            for (; r < HASTE__CU_AHEAD; r++) more = more && haste__cu_merge_take(m, ahead[r], least);
        for (; more && r < k; r++) more = haste__cu_merge_take(m, __ldcg(list + (size_t)i * stride + (size_t)r), least);
    }
    __syncthreads();
    if (m->count <= HASTE__CU_MERGE) {
        const int count = m->count;
        for (int i = tid; i < count; i += threads) {
            int before = 0;
            own = m->entry[i];
            for (int j = 0; j < count; j++) before += m->entry[j] > own;
            if (before >= k) continue;
            id[before] = haste__cu_entry_id(own);
            if (score) score[before] = haste__cu_entry_score(own);
        }
        for (int rank = count + tid; rank < k; rank += threads) {
            id[rank] = haste__cu_entry_id(0);
            if (score) score[rank] = haste__cu_entry_score(0);
        }
        return;
    }
    for (int i = tid; i < lists; i += threads) m->head[i] = 0;
    for (int rank = 0; rank < k; rank++) {
        uint64_t *slot = m->scratch + rank % 2 * 32;   /* two of them: one barrier a round is enough */
        if (fresh) {
            own = 0;
            for (int i = tid; i < lists; i += threads) {
                uint64_t entry = m->head[i] < k ? __ldcg(list + (size_t)i * stride + m->head[i]) : 0;
                if (entry > own) { own = entry; from = i; }
            }
            fresh = false;
        }
        best = haste__cu_warp_best(own);
        if (lane == 0) slot[warp] = best;
        __syncthreads();
        best = haste__cu_warp_best(lane < warps ? slot[lane] : 0);
        if (best && best == own) { m->head[from]++; fresh = true; }   /* labels are distinct: only one thread */
        if (tid == 0) {
            id[rank] = haste__cu_entry_id(best);
            if (score) score[rank] = haste__cu_entry_score(best);
        }
    }
}

/* The parts' lists to the caller's arrays. Block: one sample. */
static __global__ void haste__cu_merge_kernel(const uint64_t *best, int parts, int64_t padded, int k, int32_t *id,
                                              float *score)
{
    __shared__ haste__cu_merge_memory memory;
    size_t b = blockIdx.x;
    haste__cu_merge(best + b * (size_t)k, parts, (size_t)padded * (size_t)k, k, id + b * (size_t)k,
                    score ? score + b * (size_t)k : NULL, &memory);
}

/* What a streaming kernel needs of each block. A unit is what a warp takes at once: a group, some labels of one, or two
   groups of 16; a job is a unit and some of its inputs. */
typedef struct haste__cu_stream_block {
    int64_t labels, slots, first_slot;
    const uint16_t *index;
    const void *weight;
    const float *bias;
    int32_t S, F, begin, path;
    int32_t unit, per, units;         /* labels of a unit; units of a group, of the block */
    int32_t runs;                     /* haste__few_kernel: runs of 16 labels that a unit has; 0: one of 32 */
    int32_t rows, chunks;             /* inputs of a job, all of F in so many jobs */
    int32_t copied;                   /* their places come with the job */
} haste__cu_stream_block;
typedef struct haste__cu_stream_args {
    haste__cu_stream_block block[HASTE_MAX_BLOCKS];
    int32_t blocks, labels, B, D, k, x_type;
    int32_t warps, stages, stage;     /* of a thread block; jobs on their way to a warp, and bytes of one */
    int32_t room;                     /* labels of a sample that may come into question to begin with */
    const void *x;                    /* [B, D], the caller's */
    const int32_t *label_of;
    const int64_t *excluded_offset;   /* device, or NULL */
    const int32_t *excluded_id;
    int64_t excluded_most;
    uint64_t *best;                   /* [thread blocks][B][k] */
    int32_t *id;                      /* [B, k] (=), B = 1; NULL: nothing is merged */
    float   *score;
    uint32_t *flag;
} haste__cu_stream_args;

/* A warp's next job. Units are dealt one by one, those of all blocks in a row; block == a.blocks: there are no more. */
typedef struct haste__cu_job { int32_t block, unit, chunk; } haste__cu_job;

static __device__ __forceinline__ void haste__cu_job_settle(const haste__cu_stream_args &a, haste__cu_job *job)
{
    while (job->block < a.blocks && job->unit >= a.block[job->block].units) job->unit -= a.block[job->block++].units;
}
static __device__ __forceinline__ haste__cu_job haste__cu_job_first(const haste__cu_stream_args &a)
{
    haste__cu_job job;
    job.block = job.chunk = 0;
    job.unit = (int)(blockIdx.x + gridDim.x * (threadIdx.x / 32));
    haste__cu_job_settle(a, &job);
    return job;
}
static __device__ __forceinline__ void haste__cu_job_next(const haste__cu_stream_args &a, haste__cu_job *job)
{
    if (++job->chunk < a.block[job->block].chunks) return;
    job->chunk = 0;
    job->unit += (int)gridDim.x * a.warps;
    haste__cu_job_settle(a, job);
}

/* How many ids of sample b are excluded. A malformed list is flagged, and counts as empty. */
static __device__ __forceinline__ int64_t haste__cu_excluded_count(const haste__cu_stream_args &a, int b)
{
    if (!a.excluded_offset) return 0;
    int64_t start = a.excluded_offset[0], first = a.excluded_offset[b], end = a.excluded_offset[b + 1];
    if (start < 0 || first < start || end < first || end - start > a.excluded_most) {
        haste__cu_bad_list(a.flag, b);
        return 0;
    }
    return end - first;
}
/* Flags ids that are none; they exclude nothing. All threads; each block looks through some samples' lists. */
static __device__ __forceinline__ void haste__cu_excluded_check(const haste__cu_stream_args &a)
{
    for (int b = (int)blockIdx.x; a.excluded_offset && b < a.B; b += (int)gridDim.x) {
        const int64_t n = haste__cu_excluded_count(a, b);
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
            const int32_t id = a.excluded_id[a.excluded_offset[b] + i];
            if (id < 0 || id >= a.labels) haste__cu_bad_list(a.flag, b);
        }
    }
}

/* Was the lane's label (of those that ask) excluded for sample b? All lanes of a warp look through one list after the
   other. */
static __device__ __forceinline__ bool haste__cu_excluded(const haste__cu_stream_args &a, bool asks, int b, int32_t label)
{
    bool result = false;
    if (!a.excluded_offset) return false;
    for (uint32_t who = __ballot_sync(0xffffffffu, asks); who; who &= who - 1) {
        const int from = __ffs((int)who) - 1, sample = __shfl_sync(0xffffffffu, b, from);
        const int32_t wanted = __shfl_sync(0xffffffffu, label, from);
        const int64_t n = haste__cu_excluded_count(a, sample);
        bool found = false;
        for (int64_t i = threadIdx.x % 32; i < n; i += 32)
            found |= a.excluded_id[a.excluded_offset[sample] + i] == wanted;
        found = __any_sync(0xffffffffu, found);
        if ((int)threadIdx.x % 32 == from) result = found;
    }
    return result;
}

/* A label enters a sorted list of k that the warps of a thread block share, in shared memory; each lane enters its own. It
   takes the place of the first smaller one, which goes on to the next place: whatever the order in which lanes come by, each
   place is left with the largest that it has seen, and has passed on the others. `floor` rises to what a label must reach
   once the list is full. */
static __device__ __forceinline__ void haste__cu_list_insert(uint64_t *list, int k, uint32_t *floor, uint64_t entry)
{
    for (int i = 0; i < k && entry; i++) {
        const uint64_t there = atomicMax((unsigned long long *)(void *)&list[i], (unsigned long long)entry);
        if (i == k - 1) atomicMax(floor, (uint32_t)((there > entry ? there : entry) >> 32));
        if (there < entry) entry = there;
    }
}

/* What the warps of a thread block share in a streaming search, in shared memory. */
typedef struct haste__cu_search {
    uint64_t *lists;          /* [B][k], sorted */
    uint32_t *floor;          /* [HASTE__CU_FEW] what a label must reach */
    /* to begin with: */
    uint64_t *entry;          /* [B][room] labels that come into question */
    int      *count;          /* [HASTE__CU_FEW] so many */
    uint32_t *best_of_set;    /* [B][sets] the best of eight sets of a warp's first labels */
    int       sets;
} haste__cu_search;

static __device__ __forceinline__ haste__cu_search haste__cu_search_make(const haste__cu_stream_args &a, void *memory,
                                                                         uint32_t *floor, int *count)
{
    haste__cu_search s;
    s.floor = floor;
    s.count = count;
    s.sets = 8 * a.warps;
    s.best_of_set = (uint32_t *)memory;
    s.entry = (uint64_t *)(void *)(s.best_of_set + a.B * s.sets);
    s.lists = s.entry + a.B * a.room;
    for (int i = (int)threadIdx.x; i < a.B * a.k; i += (int)blockDim.x) s.lists[i] = 0;
    if (threadIdx.x < HASTE__CU_FEW) {   /* nothing reaches what samples that there are not must reach */
        floor[threadIdx.x] = haste__cu_order_key((int)threadIdx.x < a.B ? -FLT_MAX : INFINITY);
        count[threadIdx.x] = 0;
    }
    return s;
}

/* `floor` from the sets' best: the k-th largest of them (or a later one: so many of the best may be excluded). All
   threads. */
static __device__ __forceinline__ void haste__cu_search_floor(const haste__cu_stream_args &a, const haste__cu_search &s)
{
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.B * s.sets; i += (int)blockDim.x) {
        const int n = i / s.sets, self = i % s.sets;
        const uint4 *all = (const uint4 *)(const void *)(s.best_of_set + n * s.sets);
        const uint32_t own = s.best_of_set[i];
        int before = 0;
        #pragma unroll 4
        for (int j = 0; j < s.sets / 4; j++) {
            const uint4 other = all[j];
            before += other.x > own || (other.x == own && 4 * j < self);
            before += other.y > own || (other.y == own && 4 * j + 1 < self);
            before += other.z > own || (other.z == own && 4 * j + 2 < self);
            before += other.w > own || (other.w == own && 4 * j + 3 < self);
        }
        if (before + 1 == a.k + haste__cu_excluded_count(a, n) && own > s.floor[n]) s.floor[n] = own;
    }
    __syncthreads();
}

/* The lists from the labels that came into question, each of which counts those before it. Where they were too many for
   their room, the list is left empty. All threads. */
static __device__ __forceinline__ void haste__cu_search_lists(const haste__cu_stream_args &a, const haste__cu_search &s)
{
    __syncthreads();
    for (int n = 0; n < a.B; n++) {
        const uint64_t *all = s.entry + n * a.room;
        const int count = s.count[n];
        if (count > a.room) continue;
        for (int i = (int)threadIdx.x; i < count; i += (int)blockDim.x) {
            const uint64_t own = all[i];
            int before = 0;
            #pragma unroll 4
            for (int j = 0; j < count; j++) before += all[j] > own;
            if (before < a.k) s.lists[n * a.k + before] = own;
            if (before == a.k - 1) s.floor[n] = (uint32_t)(own >> 32);
        }
    }
    __syncthreads();
}

/* Which of a lane's labels reach `limit`: bit i * N + n. */
template <int LABELS, int N>
static __device__ __forceinline__ uint32_t haste__cu_search_wanted(const float (*v)[N], const float *limit)
{
    uint32_t wanted = 0;
    #pragma unroll
    for (int i = 0; i < LABELS; i++)
        #pragma unroll
        for (int n = 0; n < N; n++) if (v[i][n] >= limit[n] && v[i][n] <= FLT_MAX) wanted |= 1u << (i * N + n);
    return wanted;
}

/* A warp's unit is finished: those of its labels that are wanted enter the lists. v: logits, a lane's LABELS labels (their
   numbers in the unit, which has `left`) for N samples; whole: all of these are labels; QUADS: the four lanes of a quad have
   different samples, else all lanes have the same. limit: what a label must reach, as far as the warp knows. Returns false
   where a logit is not finite.
   first: all warps of the thread block come here together, and agree on `floor` before any label is entered. */
template <int LABELS, int N, bool QUADS>
static __device__ __forceinline__ bool haste__cu_search_unit(const haste__cu_stream_args &a, const haste__cu_search &s,
                                                             bool first, float (*v)[N], const int *number, int left,
                                                             bool whole, const int32_t *label_of, float *limit)
{
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, sample0 = QUADS ? lane % 4 * N : 0;
    int32_t id[LABELS];
    uint32_t wanted, key;
    float size = 0;
    bool fine = true, any = false;
    #pragma unroll
    for (int i = 0; i < LABELS; i++)
        #pragma unroll
        for (int n = 0; n < N; n++) size += fabsf(v[i][n]);
    if (!whole || !haste__cu_finite(size)) {   /* a closer look */
        #pragma unroll
        for (int i = 0; i < LABELS; i++)
            #pragma unroll
            for (int n = 0; n < N; n++)
                if (number[i] >= left) v[i][n] = -INFINITY;
                else fine &= haste__cu_finite(v[i][n]);
    }
    #pragma unroll
    for (int i = 0; i < LABELS; i++)
        #pragma unroll
        for (int n = 0; n < N; n++) any |= v[i][n] >= limit[n];
    if (first) {
        #pragma unroll
        for (int n = 0; n < N; n++) {
            key = 0;
            #pragma unroll
            for (int i = 0; i < LABELS; i++)
                if (haste__cu_finite(v[i][n])) key = max(key, haste__cu_order_key(v[i][n]));
            if (!QUADS)
                for (int step = 8; step < 32; step *= 2) {
                    const uint32_t other = __shfl_xor_sync(0xffffffffu, key, step);
                    key = max(key, other);
                }
            if (sample0 + n < a.B && (QUADS || lane < 8))
                s.best_of_set[(sample0 + n) * s.sets + warp * 8 + (QUADS ? lane / 4 : lane)] = key;
        }
        haste__cu_search_floor(a, s);
    } else if (!__any_sync(0xffffffffu, any)) return fine;

    key = lane < HASTE__CU_FEW ? atomicMax(&s.floor[lane], 0u) : 0u;   /* what all warps know by now */
    #pragma unroll
    for (int n = 0; n < N; n++) limit[n] = haste__cu_order_float(__shfl_sync(0xffffffffu, key, sample0 + n));
    wanted = haste__cu_search_wanted<LABELS, N>(v, limit);
    if (!first && !__any_sync(0xffffffffu, wanted)) return fine;

    #pragma unroll
    for (int i = 0; i < LABELS; i++) id[i] = wanted >> (i * N) & ((1u << N) - 1) ? label_of[number[i]] : 0;
    if (a.excluded_offset)
        for (int i = 0; i < LABELS * N; i++) {
            int32_t own = 0;
            #pragma unroll
            for (int j = 0; j < LABELS; j++) if (j == i / N) own = id[j];
            if (haste__cu_excluded(a, wanted >> i & 1, sample0 + i % N, own)) wanted &= ~(1u << i);
        }
    if (first) {
        #pragma unroll
        for (int i = 0; i < LABELS; i++)
            #pragma unroll
            for (int n = 0; n < N; n++)
                if (wanted >> (i * N + n) & 1) {
                    const int at = atomicAdd(&s.count[sample0 + n], 1);
                    if (at < a.room) s.entry[(sample0 + n) * a.room + at] = haste__cu_entry(v[i][n], id[i]);
                }
        haste__cu_search_lists(a, s);
    }
    for (; wanted; wanted &= wanted - 1) {
        const int bit = __ffs((int)wanted) - 1, sample = sample0 + bit % N;
        uint64_t own = 0;
        #pragma unroll
        for (int i = 0; i < LABELS; i++)
            #pragma unroll
            for (int n = 0; n < N; n++) if (bit == i * N + n) own = haste__cu_entry(v[i][n], id[i]);
        if (first && s.count[sample] <= a.room) continue;   /* it is there already */
        haste__cu_list_insert(s.lists + sample * a.k, a.k, &s.floor[sample], own);
    }
    __syncwarp();
    return fine;
}

/* The end of a streaming kernel: the lists to `best`; for one sample the thread block that finishes last merges those of
   all. All threads; the kernel's shared memory is free from here on. */
static __device__ __forceinline__ void haste__cu_search_finish(const haste__cu_stream_args &a, const haste__cu_search &s,
                                                               void *memory)
{
    __shared__ bool last;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.B * a.k; i += (int)blockDim.x)
        a.best[(size_t)blockIdx.x * (size_t)(a.B * a.k) + (size_t)i] = s.lists[i];
    if (!a.id) return;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();   /* what the block has written stands before it is counted */
        last = atomicAdd(&a.flag[HASTE__CU_FLAG_DONE], 1u) == gridDim.x - 1;
        if (last) a.flag[HASTE__CU_FLAG_DONE] = 0;   /* for the next call on this stream */
    }
    __syncthreads();
    if (last) __threadfence();   /* the other blocks' lists are read after their flag */
    if (last) haste__cu_merge(a.best, (int)gridDim.x, (size_t)a.k, a.k, a.id, a.score, (haste__cu_merge_memory *)memory);
}

/* ---- >>top-k for few samples, with tensor cores ----------------------------------------------------------------

   For at most 8 samples and bfloat16 blocks with S and F multiples of 16, in any order of weights. Bound by memory: every
   weight is read once, and costs little more than that. z [labels][8] = w x with mma.m16n8k16: the 8 columns are 8 samples
   (rounded to bfloat16, as elsewhere), or 4 samples, each as the sum of two bfloat16, which is x to 16 bits.

   x lies in shared memory, a row of 16 bytes an input: ldmatrix gathers rows by address, so that nothing else has to.
   Weights come by cp.async, some jobs ahead. A unit is 32 labels of a group, or two runs of 16: narrow ones, or groups of
   S = 16, each with inputs of its own (S = 48, 80, ...: a unit is one run); a job is a unit and 64 of its inputs. Of the
   fragments of mma, lane 4 * row + quad has labels `row` and row + 8 of columns 2 * quad and 2 * quad + 1. */

enum {
    HASTE__FEW_WARPS  = 16,     /* the most */
    HASTE__FEW_STAGES = 3,
    HASTE__FEW_ROWS   = 64,     /* the most inputs of a job */
    HASTE__FEW_BIAS   = 4096,   /* in a stage, after weights: 32 biases, then places of inputs. Bytes */
    HASTE__FEW_PLACES = HASTE__FEW_BIAS + 128
};

/* Places of inputs that come with a job, for each run: all of them in the narrow order, which deals them out. */
static __host__ __device__ __forceinline__ int haste__few_places(const haste__cu_stream_block &block)
{
    return block.path == HASTE_CUDA_NARROW ? block.F : HASTE__FEW_ROWS;
}

/* A job on its way to a stage: rows of 64 bytes, or two runs with rows of 32, whose pieces of 16 are exchanged for the sake
   of banks; in the narrow order strips as they lie there. */
static __device__ __forceinline__ void haste__few_fetch(const haste__cu_stream_block &block, int unit, int chunk,
                                                        unsigned char *stage)
{
    const int lane = (int)threadIdx.x % 32, S = block.S, F = block.F, f0 = chunk * HASTE__FEW_ROWS, runs = block.runs;
    const int rows = F - f0 < HASTE__FEW_ROWS ? F - f0 : HASTE__FEW_ROWS, narrow = block.path == HASTE_CUDA_NARROW;
    const int group = block.per == 1 ? unit : unit / block.per, part = unit - group * block.per;
    const int here = runs < 2 || ((int64_t)unit * 2 + 1) * 16 < block.slots ? 2 : 1;   /* runs may be odd in number */
    const char *from = (const char *)block.weight;
    unsigned char *to = stage + lane * 16;
    int step, jump;   /* bytes from a row of the lane's to its next, and from the first half of the job to the second */
    if (runs == 2) {
        from += (size_t)unit * (size_t)(F * 64) + (size_t)(f0 * 32 + lane * 16);
        if (!narrow) to += (lane / 8 % 2) * (lane % 2 ? -16 : 16);   /* row lane / 2: pieces exchanged by row / 4 % 2 */
        step = 512;
        jump = F * 32;
    } else {
        from += (size_t)group * (size_t)(F * S * 2) + (size_t)(f0 * S * 2);
        if (runs == 1) {
            from += lane / 2 * (S * 2) + part * 32 + lane % 2 * 16;
            to += (lane / 8 % 2) * (lane % 2 ? -16 : 16);
            step = 32 * S;
            jump = 0;
        } else {
            const int r = lane / 4, c = lane % 4;
            if (block.path != HASTE_CUDA_WIDE) from += r * (S * 2) + part * 64 + c * 16;
            else if (S == 32) from += lane * 16;   /* exchanged already */
            else from += (part >> 1) * 1024 + r * 128 + (((part & 1) * 4 + c) ^ r) * 16;
            if (block.path != HASTE_CUDA_WIDE || S != 32) to = stage + r * 64 + ((c ^ (r >> 1 & 3)) << 4);
            step = 16 * S;
            jump = 4 * step;
        }
    }
    if (rows == HASTE__FEW_ROWS && runs != 1 && here == 2) {
        #pragma unroll
        for (int j = 0; j < 4; j++) haste__cu_copy16(to + j * 512, from + j * step);
        from += jump;
        #pragma unroll
        for (int j = 0; j < 4; j++) haste__cu_copy16(to + 2048 + j * 512, from + j * step);
    } else {
        const int copies = rows / (runs ? 16 : 8);
        for (int j = 0; j < copies; j++) haste__cu_copy16(to + j * 512, from + j * step);
        for (int j = 0; j < copies && runs == 2 && here == 2; j++)
            haste__cu_copy16(to + 2048 + j * 512, from + jump + j * step);
    }
    if (block.index) {
        const int pieces = (narrow ? F : rows) / 8, second = lane >= pieces, piece = lane - second * pieces;
        /* a run that is not there: places of the other one, for they must be some */
        const int64_t list = runs == 2 && S == 16 ? (int64_t)unit * 2 + (second && here == 2) : group;
        if (lane < (runs == 2 ? 2 : 1) * pieces)
            haste__cu_copy16(stage + HASTE__FEW_PLACES + second * (haste__few_places(block) * 2) + piece * 16,
                             block.index + list * F + (narrow ? 0 : f0) + piece * 8);
    }
    if (chunk + 1 == block.chunks && lane < (runs == 1 ? 4 : here * 4)) {
        const int64_t label = runs == 2 ? (int64_t)unit * 32 : (int64_t)group * S + part * block.unit;
        haste__cu_copy16(stage + HASTE__FEW_BIAS + lane * 16, block.bias + label + lane * 4);
    }
}

/* z += w x for 16 inputs of a job, the k-th, whose rows of x are `in`: 32 labels in rows of 64 bytes. */
static __device__ __forceinline__ void haste__few_rows(float (*z)[4], const unsigned char *stage, int k, const uint32_t *in)
{
    const int lane = (int)threadIdx.x % 32, r = lane / 16 * 8 + lane % 8, c = lane / 8 % 2;
    const int at = r * 64 + ((c ^ (r >> 1 & 3)) << 4);
    #pragma unroll
    for (int m = 0; m < 2; m++) {   /* the other 16 labels lie 32 bytes on, or before */
        uint32_t w[4];
        haste__cu_ldmatrix_trans(w, stage + (at ^ m * 32) + k * 1024);
        haste__cu_mma(z[m], w, in[0], in[1]);
    }
}
/* The same for a run. */
template <bool NARROW>
static __device__ __forceinline__ void haste__few_run(float *z, const unsigned char *run, int k, const uint32_t *in)
{
    const int lane = (int)threadIdx.x % 32, r = lane / 16 * 8 + lane % 8, c = lane / 8 % 2;
    uint32_t w[4];
    if (NARROW) {
        const unsigned char *strip = run + k * 512 + lane * 8;
        const uint2 a = *(const uint2 *)(const void *)strip, b = *(const uint2 *)(const void *)(strip + 256);
        w[0] = a.x; w[1] = a.y; w[2] = b.x; w[3] = b.y;
    } else haste__cu_ldmatrix_trans(w, run + r * 32 + ((c ^ (r >> 2 & 1)) << 4) + k * 512);
    haste__cu_mma(z, w, in[0], in[1]);
}

/* z += w x for a job. f0, rows: its inputs. KIND 0: 32 labels; 1: runs; 2: narrow ones. */
template <int KIND>
static __device__ __forceinline__ void haste__few_product(const haste__cu_stream_block &block, float (*z)[4], int f0,
                                                          int rows, const unsigned char *stage, const unsigned char *x)
{
    const int lane = (int)threadIdx.x % 32, F = block.F;
    const uint16_t *places = (const uint16_t *)(const void *)(stage + HASTE__FEW_PLACES);
    x += block.begin * 16;
    #pragma unroll 2
    for (int i = 0; i < rows; i += 32) {   /* 32 inputs: a lane has the row of one */
        uint32_t in[4];
        int f = i + lane < rows ? i + lane : lane % 16;   /* beyond the last: of no use */
        if (KIND == 2) f = f % 2 * (F / 2) + f / 2 % 4 * (F / 8) + (f0 + f) / 8;   /* as haste__narrow_place deals them */
        #pragma unroll
        for (int run = 0; run < (KIND ? 2 : 1); run++) {
            if (run == 1 && block.runs < 2) break;
            haste__cu_ldmatrix_trans(in, x + (block.index ? places[run * haste__few_places(block) + f] : f0 + f) * 16);
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                if (i + 16 * h >= rows) break;
                if (KIND) haste__few_run<KIND == 2>(z[run], stage + run * 2048, i / 16 + h, in + 2 * h);
                else      haste__few_rows(z, stage, i / 16 + h, in + 2 * h);
            }
        }
    }
}

/* COLUMNS: 1, a sample has two of mma's (at most 4 samples); 2, it has one. Warp: every n-th unit, n the warps
   of the grid; after the first one no warp waits for another. */
template <int COLUMNS>
static __global__ void __launch_bounds__(32 * HASTE__FEW_WARPS, 1) haste__few_kernel(const haste__cu_stream_args a)
{
    HASTE__CU_SHARED(memory, 128);
    __shared__ uint32_t floor[HASTE__CU_FEW];
    __shared__ int counts[HASTE__CU_FEW];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = lane / 4, quad = lane % 4;
    unsigned char *ring = memory + warp * (HASTE__FEW_STAGES * a.stage);
    unsigned char *x = memory + a.warps * (HASTE__FEW_STAGES * a.stage);   /* [D][8] */
    haste__cu_job now = haste__cu_job_first(a), coming = now;
    haste__cu_search search;
    float limit[COLUMNS], z[2][4];
    bool fine = true;

    #pragma unroll 1
    for (int i = 0; i < HASTE__FEW_STAGES; i++) {
        if (coming.block < a.blocks) {
            haste__few_fetch(a.block[coming.block], coming.unit, coming.chunk, ring + i * a.stage);
            haste__cu_job_next(a, &coming);
        }
        haste__cu_copy_batch();
    }
    /* while the first jobs are on their way */
    #pragma unroll 2
    for (int d = (int)threadIdx.x; d < a.D; d += (int)blockDim.x) {
        uint32_t pair[4];
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = COLUMNS == 1 ? i : 2 * i;
            const float v = n < a.B ? haste__cu_read(a.x, a.x_type, (size_t)n * (size_t)a.D + (size_t)d) : 0.0f;
            if (COLUMNS == 1) {   /* and what rounding leaves over */
                const uint32_t high = haste__cu_to_bf16(v);
                pair[i] = high | haste__cu_to_bf16(v - haste__cu_from_bf16(high)) << 16;
            } else pair[i] = haste__cu_pack(v, n + 1 < a.B ? haste__cu_read(a.x, a.x_type, (size_t)(n + 1) * (size_t)a.D +
                                                                                              (size_t)d) : 0.0f);
        }
        *(uint4 *)(void *)(x + d * 16) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
    }
    search = haste__cu_search_make(a, x + a.D * 16, floor, counts);
    #pragma unroll
    for (int e = 0; e < COLUMNS; e++) limit[e] = quad * COLUMNS + e < a.B ? -FLT_MAX : INFINITY;
    #pragma unroll
    for (int i = 0; i < 8; i++) z[i / 4][i % 4] = 0;
    haste__cu_excluded_check(a);
    __syncthreads();

    int turn = 0;
    for (bool first = true; first || now.block < a.blocks; first = false) {   /* a unit; the first may be none */
        const int32_t *label_of = a.label_of;
        float v[4][COLUMNS];
        int number[4], left = 0;
        #pragma unroll
        for (int i = 0; i < 4; i++) {
            number[i] = 0;
            #pragma unroll
            for (int e = 0; e < COLUMNS; e++) v[i][e] = 0;
        }
        for (bool more = now.block < a.blocks; more; ) {                      /* its jobs */
            const haste__cu_stream_block &block = a.block[now.block];
            unsigned char *stage = ring + turn * a.stage;
            const int f0 = now.chunk * HASTE__FEW_ROWS;
            const int rows = block.F - f0 < HASTE__FEW_ROWS ? block.F - f0 : HASTE__FEW_ROWS;
            const bool narrow = block.path == HASTE_CUDA_NARROW;
            haste__cu_copy_wait_but<2>();
            __syncwarp();   /* the job is there */
            if (!block.runs) {
                if (rows == 64) haste__few_product<0>(block, z, f0, 64, stage, x);
                else            haste__few_product<0>(block, z, f0, rows, stage, x);
            } else if (narrow) {
                if (rows == 64) haste__few_product<2>(block, z, f0, 64, stage, x);
                else            haste__few_product<2>(block, z, f0, rows, stage, x);
            } else haste__few_product<1>(block, z, f0, rows, stage, x);
            more = now.chunk + 1 < block.chunks;
            if (!more) {
                const float *bias = (const float *)(const void *)(stage + HASTE__FEW_BIAS);
                const int group = block.per == 1 ? now.unit : now.unit / block.per;
                const int64_t begin = block.runs == 2 ? (int64_t)now.unit * 32 :
                    (int64_t)group * block.S + (now.unit - group * block.per) * block.unit;
                left = block.labels - begin < block.unit ? (int)(block.labels - begin) : block.unit;
                label_of = a.label_of + block.first_slot + begin;
                #pragma unroll
                for (int i = 0; i < 4; i++) {
                    number[i] = narrow ? i / 2 * 16 + row / 2 * 4 + i % 2 * 2 + row % 2 : i * 8 + row;
                    const float own = bias[number[i]], z0 = z[i / 2][i % 2 * 2], z1 = z[i / 2][i % 2 * 2 + 1];
                    v[i][0] = COLUMNS == 1 ? z0 + z1 + own : z0 + own;
                    if (COLUMNS == 2) v[i][COLUMNS - 1] = z1 + own;
                }
                #pragma unroll
                for (int i = 0; i < 8; i++) z[i / 4][i % 4] = 0;
            }
            __syncwarp();   /* nobody reads the stage any more */
            if (coming.block < a.blocks) {
                haste__few_fetch(a.block[coming.block], coming.unit, coming.chunk, stage);
                haste__cu_job_next(a, &coming);
            }
            haste__cu_copy_batch();
            haste__cu_job_next(a, &now);
            turn = (turn + 1) % HASTE__FEW_STAGES;
        }
        fine &= haste__cu_search_unit<4, COLUMNS, true>(a, search, first, v, number, left, left == 32, label_of, limit);
    }
    haste__cu_copy_wait();
    if (!fine) atomicExch(&a.flag[HASTE__CU_FLAG_NONFINITE], 1u);
    haste__cu_search_finish(a, search, memory);
}

/* ---- >>top-k for few samples, without tensor cores ------------------------------------------------------------- */

enum {
    HASTE__CU_STREAM_WARPS = 16, HASTE__CU_STREAM_THREADS = 32 * HASTE__CU_STREAM_WARPS,
    HASTE__CU_STREAM_BYTES = 4096,   /* the most weights of a job */
    HASTE__CU_STREAM_ROWS  = 128     /* the most inputs of a job */
};

/* A job on its way to a stage: weights as they lie in memory, then places for HASTE__CU_STREAM_ROWS inputs (uint16) and,
   with the last job of a group, biases. */
static __device__ __forceinline__ void haste__cu_stream_fetch(const haste__cu_stream_block &block, int width, int64_t g,
                                                              int chunk, unsigned char *stage)
{
    const int lane = (int)threadIdx.x % 32, f0 = chunk * block.rows, row = block.S * width;
    const int rows = block.F - f0 < block.rows ? block.F - f0 : block.rows, bytes = rows * row;
    const char *from = (const char *)block.weight + ((size_t)g * (size_t)block.F + (size_t)f0) * (size_t)row + lane * 16;
    stage += lane * 16;
    if (bytes == HASTE__CU_STREAM_BYTES) {
        #pragma unroll
        for (int j = 0; j < HASTE__CU_STREAM_BYTES; j += 512) haste__cu_copy16(stage + j, from + j);
    } else
        for (int j = 0; lane * 16 + j < bytes; j += 512) haste__cu_copy16(stage + j, from + j);
    if (block.copied && lane < rows / 8)
        haste__cu_copy16(stage + HASTE__CU_STREAM_BYTES, block.index + g * block.F + f0 + lane * 8);
    if (chunk + 1 == block.chunks)
        for (int i = lane; i < block.S / 4; i += 32)
            haste__cu_copy16(stage + HASTE__CU_STREAM_BYTES + HASTE__CU_STREAM_ROWS * 2 + (i - lane) * 16,
                             block.bias + g * block.S + i * 4);
}

/* Numbers that are read and written together. */
template <int N> struct alignas(N < 4 ? 4 * N : 16) haste__cu_numbers { float of[N]; };

/* The inputs of a job, gathered from x [D][N] to own [rows][N]. */
template <int N>
static __device__ __forceinline__ void haste__cu_stream_gather(const haste__cu_stream_block &block, int64_t g, int chunk,
                                                               const unsigned char *stage, const float *x, float *own)
{
    const int lane = (int)threadIdx.x % 32, f0 = chunk * block.rows;
    const int rows = block.F - f0 < block.rows ? block.F - f0 : block.rows;
    const uint16_t *places = (const uint16_t *)(const void *)(stage + HASTE__CU_STREAM_BYTES);
    const haste__cu_numbers<N> *from = (const haste__cu_numbers<N> *)(const void *)x + block.begin;
    haste__cu_numbers<N> *to = (haste__cu_numbers<N> *)(void *)own;
    for (int f = lane; f < rows; f += 32)
        to[f] = from[!block.index ? f0 + f : block.copied ? places[f] : (int)__ldg(block.index + g * block.F + f0 + f)];
    __syncwarp();
}

/* acc[0..7][n] += eight weights times the inputs v. */
template <typename T, int N>
static __device__ __forceinline__ void haste__cu_stream_eight(float (*acc)[N], const unsigned char *from,
                                                              haste__cu_numbers<N> v)
{
    float w[8];
    haste__cu_get8(w, (const T *)(const void *)from);
    #pragma unroll
    for (int n = 0; n < N; n++)
        #pragma unroll
        for (int j = 0; j < 8; j++) acc[j][n] += w[j] * v.of[n];
}

/* acc[0..7][n] += a job's weights times its inputs, for labels 8c .. 8c + 7 and every R-th input from r on. A full job whose
   lanes' pieces are 512 bytes apart (twice that in float32) is the case to be fast in. */
template <typename T, int N>
static __device__ __forceinline__ void haste__cu_stream_rows(const haste__cu_stream_block &block, int rows, int r, int c,
                                                             int R, const unsigned char *stage, const float *own,
                                                             float (*acc)[N])
{
    enum { STEP = 256 * sizeof(T) };
    const haste__cu_numbers<N> *v = (const haste__cu_numbers<N> *)(const void *)own + r;
    const int row = block.S * (int)sizeof(T);
    stage += r * row + c * 8 * (int)sizeof(T);
    if (rows * row == HASTE__CU_STREAM_BYTES && R * block.S == 256) {
        #pragma unroll (N == 1 ? 8 : 2)
        for (int i = 0; i < HASTE__CU_STREAM_BYTES / STEP; i++)
            haste__cu_stream_eight<T, N>(acc, stage + i * STEP, v[i * R]);
    } else
        #pragma unroll 1
        for (int f = r; f < rows; f += R) haste__cu_stream_eight<T, N>(acc, stage + (f - r) * row, v[f - r]);
}

/* Adds up what lanes first, 2 * first, ... apart hold of eight labels v[0], v[N], ... (first a power of two): halves them
   with each exchange, so that a lane is left with *m labels from the *own-th on; then plain sums. */
template <int N>
static __device__ __forceinline__ void haste__cu_scatter_sum(float *v, int first, int *own, int *m)
{
    const int lane = (int)threadIdx.x % 32;
    *own = 0;
    *m = 8;
    #pragma unroll
    for (int half = 4; half >= 1; half /= 2) {
        if (first >= 32) break;
        const bool upper = (lane & first) != 0;
        #pragma unroll
        for (int j = 0; j < half; j++) {
            const float other = __shfl_xor_sync(0xffffffffu, upper ? v[j * N] : v[(j + half) * N], first);
            v[j * N] = (upper ? v[(j + half) * N] : v[j * N]) + other;
        }
        if (upper) *own += half;
        *m = half;
        first *= 2;
    }
    for (; first < 32; first *= 2) v[0] += __shfl_xor_sync(0xffffffffu, v[0], first);
}

/* The k best for N samples (1, or up to 4), for float32 and for shapes that the kernel above does not take, in the general
   order. Likewise bound by memory. Warp: every n-th group; lanes share a job's weights (a part of a group's inputs), 8
   labels of a row each, then add up. */
template <typename T, int N>
static __global__ void __launch_bounds__(HASTE__CU_STREAM_THREADS, 1) haste__cu_stream_kernel(const haste__cu_stream_args a)
{
    HASTE__CU_SHARED(memory, 128);
    __shared__ uint32_t floor[HASTE__CU_FEW];
    __shared__ int counts[HASTE__CU_FEW];
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, stages = a.stages, size = a.stage;
    unsigned char *ring = memory + warp * (stages * size);
    float *own = (float *)(void *)(memory + HASTE__CU_STREAM_WARPS * stages * size) + warp * (HASTE__CU_STREAM_ROWS * N);
    float *x = (float *)(void *)(memory + HASTE__CU_STREAM_WARPS * (stages * size + HASTE__CU_STREAM_ROWS * N * 4));
    haste__cu_job now = haste__cu_job_first(a), coming = now;
    haste__cu_search search;
    float acc[8][N], limit[N];
    bool fine = true;

    #pragma unroll 1
    for (int i = 0; i < stages; i++) {
        if (coming.block < a.blocks) {
            haste__cu_stream_fetch(a.block[coming.block], (int)sizeof(T), coming.unit, coming.chunk, ring + i * size);
            haste__cu_job_next(a, &coming);
        }
        haste__cu_copy_batch();
    }
    /* while the first jobs are on their way */
    for (int i = (int)threadIdx.x; i < N * a.D; i += HASTE__CU_STREAM_THREADS)
        x[i % a.D * N + i / a.D] = i / a.D < a.B ? haste__cu_read(a.x, a.x_type, (size_t)i) : 0.0f;
    search = haste__cu_search_make(a, x + (a.D * N + 3) / 4 * 4, floor, counts);
    #pragma unroll
    for (int n = 0; n < N; n++) {
        limit[n] = n < a.B ? -FLT_MAX : INFINITY;
        #pragma unroll
        for (int j = 0; j < 8; j++) acc[j][n] = 0;
    }
    haste__cu_excluded_check(a);
    __syncthreads();

    int turn = 0;
    for (bool first = true; first || now.block < a.blocks; first = false) {   /* a group; the first may be none */
        const int32_t *label_of = a.label_of;
        int number[8], left = 0, m = 0;
        for (bool more = now.block < a.blocks; more; ) {                      /* its jobs */
            const haste__cu_stream_block &block = a.block[now.block];
            const int S = block.S, n8 = S / 8, R = 32 / n8, r = lane / n8, c = lane % n8, f0 = now.chunk * block.rows;
            const int rows = block.F - f0 < block.rows ? block.F - f0 : block.rows;
            const int64_t g = now.unit;
            unsigned char *stage = ring + turn * size;
            if (stages == 3) haste__cu_copy_wait_but<2>();
            else if (stages == 2) haste__cu_copy_wait_but<1>();
            else haste__cu_copy_wait();
            __syncwarp();
            haste__cu_stream_gather<N>(block, g, now.chunk, stage, x, own);
            if (r < R) haste__cu_stream_rows<T, N>(block, rows, r, c, R, stage, own, acc);
            more = now.chunk + 1 < block.chunks;
            if (!more) {   /* a lane's labels: m from `label` on, if it has any */
                const unsigned char *rest = stage + HASTE__CU_STREAM_BYTES + HASTE__CU_STREAM_ROWS * 2;
                const float *bias = (const float *)(const void *)rest;
                const int64_t beyond = block.labels - g * S;
                int label = c * 8, part = 0;
                bool valid = r == 0;
                left = beyond < S ? (int)beyond : S;
                label_of = a.label_of + block.first_slot + g * S;
                m = 8;
                if ((n8 & (n8 - 1)) == 0) {
                    #pragma unroll
                    for (int n = 0; n < N; n++) haste__cu_scatter_sum<N>(&acc[0][n], n8, &part, &m);
                    label += part;
                    valid = r < 8;
                } else        /* one after the other */
                    #pragma unroll
                    for (int n = 0; n < N; n++)
                        #pragma unroll 1
                        for (int j = 0; j < 8; j++) {   /* round and round: [0] is the j-th */
                            float sum = acc[0][n];
                            for (int other = 1; other < R; other++)
                                sum += __shfl_sync(0xffffffffu, acc[0][n], (lane + other * n8) % 32);
                            #pragma unroll
                            for (int i = 0; i < 7; i++) acc[i][n] = acc[i + 1][n];
                            acc[7][n] = sum;
                        }
                #pragma unroll
                for (int j = 0; j < 8; j++) {
                    number[j] = valid && j < m ? label + j : INT32_MAX;
                    if (number[j] >= left) continue;
                    #pragma unroll
                    for (int n = 0; n < N; n++) acc[j][n] += bias[number[j]];
                }
            }
            __syncwarp();   /* nobody reads the stage any more */
            if (coming.block < a.blocks) {
                haste__cu_stream_fetch(a.block[coming.block], (int)sizeof(T), coming.unit, coming.chunk, stage);
                haste__cu_job_next(a, &coming);
            }
            haste__cu_copy_batch();
            haste__cu_job_next(a, &now);
            turn = turn + 1 == stages ? 0 : turn + 1;
        }
        if (left == 0)   /* there was none */
            #pragma unroll
            for (int j = 0; j < 8; j++) number[j] = INT32_MAX;
        fine &= haste__cu_search_unit<8, N, false>(a, search, first, acc, number, left, false, label_of, limit);
        #pragma unroll
        for (int n = 0; n < N; n++)
            #pragma unroll
            for (int j = 0; j < 8; j++) acc[j][n] = 0;
    }
    haste__cu_copy_wait();
    if (!fine) atomicExch(&a.flag[HASTE__CU_FLAG_NONFINITE], 1u);
    haste__cu_search_finish(a, search, memory);
}

/* ---- >>panel -------------------------------------------------------------------------------------------------

   The forward pass of bfloat16 blocks with S a multiple of 16, F a multiple of 16 and a slice of at most about 1,600
   inputs, whatever the order of their weights: logits, softmax's sums, the k best, those above.

   A thread block keeps 64 samples of all inputs of the slice in shared memory, a row of 128 bytes an input, so that a
   group's inputs need not be gathered from memory. Its warps take units of 32 labels (16, where S is no multiple of 32,
   and in the narrow order) by themselves: z [64 samples][UNIT] = x' w, with mma.m16n8k16. There is no barrier in the loop.
   Weights come by cp.async, one job ahead; a job is a unit and a chunk of at most 64 of its inputs.

   In the fragments of mma, lane 4 * row + quad holds, of the operand x' [samples][inputs], pairs of inputs 2 * quad and
   2 * quad + 1 for sample `row`; of w, the same inputs for label `row`; of z, labels 2 * quad and 2 * quad + 1 for sample
   `row`. Which input, sample or label each of them stands for is free, and chosen so that nothing has to be transposed:

       samples   lane reads 16 bytes of an input's row, samples 8 * row .. + 7, and of a second input; two __byte_perm make
                 of each word of both a pair of inputs for two samples. So its z are those of samples 8 * row .. + 7
       labels    piece c of 8 columns: column n is label UNIT/4 * (n / 2) + 2 * c + n % 2. So a lane ends with UNIT/4 labels
                 in a row, for each of its 8 samples: one store of 16 bytes. For w that is again a word each of two inputs
                 and a __byte_perm; in the narrow order the fragments lie there as they are
       inputs    lanes of quad 0 read the first quarter of a chunk's inputs, those of quad 1 the second and so on. Indices
                 ascend, so that mostly they are from four quarters of the slice: whose rows are rotated by different 32
                 bytes, and lie in different banks

   A search takes a first look at some units: the k-th largest of their best logits is what a label must reach, and hardly
   any label does. Those go to lists that the thread block has in shared memory.

   Milliseconds on an H200, L 670,208, F 64, D 768, B 128, x given as float32, bfloat16 logits: S 32 .094, S 64 .099 (floor
   .062, of which .040 are the logits); S 16 .102. Bound by latency: registers allow 12 warps, 16 at S 16, and what spills
   costs 15%. */

enum {
    HASTE__PANEL_ROW   = 128,   /* bytes of an input's row */
    HASTE__PANEL_CHUNK = 64,    /* inputs of a job */
    HASTE__PANEL_SETS  = 4096,  /* the most sets of the search's first look */
    HASTE__PANEL_FLOOR = 512    /* threads that look through them */
};

/* How a pass over a block is cut; made by haste__panel_plan_make. */
typedef struct haste__panel_plan {
    int32_t  unit, narrow;   /* which kernel */
    int32_t  units, per;     /* units of the block; of a group */
    int32_t  chunks;         /* of F */
    uint32_t quarter;        /* input f of the slice is in "quarter" (f * quarter >> 16) % 4 */
    int32_t  warps, shared;  /* of a thread block; bytes of shared memory */
    int32_t  part;           /* the first thread block's number among all that leave lists or sums */
    int32_t  first;          /* nothing is continued */
    int32_t  sets;           /* only so many units are looked at, and only the best label of each is told: */
    int32_t  set0, all_sets;
    uint32_t *best_of_set;   /* [samples][all_sets]; NULL: this is no such pass */
} haste__panel_plan;

/* A stage: weights of a job, places of its inputs in shared memory, biases, labels (for a search). Bytes, and where the
   latter begin. */
#define HASTE__PANEL_PLACES(unit) ((unit) * HASTE__PANEL_CHUNK * 2)
#define HASTE__PANEL_BIAS(unit)   (HASTE__PANEL_PLACES(unit) + HASTE__PANEL_CHUNK * 4)
#define HASTE__PANEL_LABEL(unit)  (HASTE__PANEL_BIAS(unit) + (unit) * 4)
#define HASTE__PANEL_STAGE(unit)  (HASTE__PANEL_LABEL(unit) + (unit) * 4)

/* The most warps of a thread block: so that registers suffice, 168 of them or 128 (16 warps). What spills is slow, since
   little is left of the first cache. */
#define HASTE__PANEL_WARPS(unit, mode) ((unit) == 16 ? ((mode) == HASTE__CU_TOP_K ? 12 : 16) : 12)

/* An input's row in shared memory: where its first 16 bytes lie. Piece c lies where (place ^ c << 4) says. */
static __device__ __forceinline__ uint32_t haste__panel_place(const haste__panel_plan &plan, uint32_t f)
{
    return f * HASTE__PANEL_ROW + ((f * plan.quarter >> 16 & 3) << 5);
}

/* Quads take the inputs of their runs in different orders, for the sake of banks: the i-th step takes i ^ turn. */
static __device__ __forceinline__ int haste__panel_turn(int quad, int run) { return 2 * quad & ((run & -run) - 1); }

/* Where a lane's first 16 bytes of a unit's weights come from and go to, in bytes; the same for all units of S <= 32. */
typedef struct haste__panel_lane { uint32_t from, to; } haste__panel_lane;
template <int UNIT, bool NARROW>
static __device__ __forceinline__ haste__panel_lane haste__panel_lane_of(const haste__cu_pass &p)
{
    enum { PIECES = UNIT / 8 };   /* 16-byte pieces of a row */
    const int lane = (int)threadIdx.x % 32, r = lane / PIECES, c = lane % PIECES;
    haste__panel_lane own;
    own.from = own.to = (uint32_t)lane * 16;
    if (NARROW) return own;
    /* in the stage rows lie UNIT * 2 bytes apart, pieces exchanged as in haste__wide_offset */
    own.to = (uint32_t)(r * (UNIT * 2) + ((c ^ (UNIT == 32 ? r >> 1 & 3 : r >> 2 & 1)) << 4));
    if (p.path != HASTE_CUDA_WIDE) own.from = (uint32_t)(r * p.S + c * 8) * 2;
    else own.from = (uint32_t)(r * (p.S < 64 ? 64 : 128) + ((c ^ (p.S == 32 ? r >> 1 & 3 : r & 7)) << 4));
    return own;
}

/* The weights, with the first chunk biases, and with the last one labels (LABELS) of a job on their way to `stage`. Returns
   the lane's two inputs of it, whose places are to be put there later. */
template <int UNIT, bool NARROW, bool LABELS>
static __device__ __forceinline__ uint32_t haste__panel_fetch_job(const haste__cu_pass &p, const haste__panel_plan &plan,
                                                                  haste__panel_lane own, int unit, int chunk,
                                                                  unsigned char *stage)
{
    enum { ROWS = 256 / UNIT, COPIES = HASTE__PANEL_CHUNK / ROWS };   /* rows that a warp copies at once; so many times */
    const int lane = (int)threadIdx.x % 32, f0 = chunk * HASTE__PANEL_CHUNK, quad = lane / 2 % 4, half = lane % 2;
    const int rows = p.F - f0 < HASTE__PANEL_CHUNK ? p.F - f0 : HASTE__PANEL_CHUNK;
    const int64_t group = haste__cu_item_group(unit, plan.per);
    const int part = unit - (int)group * plan.per, step = NARROW ? 512 : ROWS * p.S * 2;
    const char *from = (const char *)p.weight + (size_t)group * (size_t)(p.F * p.S * 2);
    int first, second;
    if (NARROW) from += part * (p.F * 32) + f0 * 32 + own.from;
    else {
        from += f0 * (p.S * 2);
        if (part == 0) from += own.from;
        else if (p.path != HASTE_CUDA_WIDE) from += own.from + (uint32_t)part * (UNIT * 2);
        else from += (own.from ^ (uint32_t)(part & 1) << 6) + (uint32_t)(part >> 1) * 1024;
    }
    #pragma unroll
    for (int j = 0; j < COPIES; j++, from += step)
        if (rows == HASTE__PANEL_CHUNK || j * ROWS < rows) haste__cu_copy16(stage + own.to + j * 512, from);
    if (chunk == 0 && lane < UNIT / 4)
        haste__cu_copy16(stage + HASTE__PANEL_BIAS(UNIT) + lane * 16, p.bias + group * p.S + part * UNIT + lane * 4);
    if (LABELS && chunk + 1 == plan.chunks && lane < UNIT / 4)
        haste__cu_copy16(stage + HASTE__PANEL_LABEL(UNIT) + lane * 16,
                         p.label_of + p.first_slot + group * p.S + part * UNIT + lane * 4);
    haste__cu_copy_batch();
    if (lane >= rows / 2) return 0;
    if (NARROW) {   /* lane 8 * step + 2 * quad + half: the two inputs of a column of strip 2 * step + half */
        first = quad * (p.F / 8) + f0 / 8 + lane / 8 * 2 + half;
        second = first + p.F / 2;
    } else {        /* two neighbours of the quad's run */
        const int run = rows / 4;
        first = f0 + quad * run + ((lane / 8 * 4 + half * 2) ^ haste__panel_turn(quad, run));
        second = first + 1;
    }
    if (!p.index) return (uint32_t)first | (uint32_t)second << 16;
    const uint16_t *index = p.index + group * p.F;
    return NARROW ? (uint32_t)__ldg(index + first) | (uint32_t)__ldg(index + second) << 16 :
                    __ldg((const uint32_t *)(const void *)(index + first));
}

/* The biases: what z begins with. */
template <int UNIT>
static __device__ __forceinline__ void haste__panel_begin(float (*z)[UNIT / 8][4], const unsigned char *stage)
{
    const float4 *bias = (const float4 *)(const void *)(stage + HASTE__PANEL_BIAS(UNIT)) + threadIdx.x % 4 * (UNIT / 16);
    #pragma unroll
    for (int c = 0; c < UNIT / 8; c += 2) {
        const float4 four = bias[c / 2];
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            z[j][c][0] = z[j][c][2] = four.x; z[j][c][1] = z[j][c][3] = four.y;
            z[j][c + 1][0] = z[j][c + 1][2] = four.z; z[j][c + 1][1] = z[j][c + 1][3] = four.w;
        }
    }
}

/* z += x' w for the k-th 16 inputs of a job. run: a quad's inputs. WHOLE: there are 16 of those. */
template <int UNIT, bool NARROW, bool WHOLE>
static __device__ __forceinline__ void haste__panel_step(float (*z)[UNIT / 8][4], const unsigned char *x,
                                                         const unsigned char *stage, int run, int k)
{
    enum { PIECES = UNIT / 8 };
    const int lane = (int)threadIdx.x % 32, row = lane / 4, quad = lane % 4, turn = haste__panel_turn(quad, run);
    const int odd = UNIT == 32 ? 0 : (row >> 1 & 1) * 8;
    const int begin = (quad * 16 + turn) * (UNIT * 2) + odd +
        ((UNIT == 32 ? (row >> 1) ^ (turn >> 1 & 3) : (row >> 2) ^ (turn >> 2 & 1)) << 4);
    const uint32_t half = row & 1 ? 0x7632 : 0x5410;
    const uint4 place = *(const uint4 *)(const void *)(stage + HASTE__PANEL_PLACES(UNIT) + k * 64 + quad * 16);
    uint32_t b[2][PIECES];
    uint4 in[4];
    in[0] = *(const uint4 *)(const void *)(x + (place.x ^ (uint32_t)row << 4));
    in[1] = *(const uint4 *)(const void *)(x + (place.y ^ (uint32_t)row << 4));
    in[2] = *(const uint4 *)(const void *)(x + (place.z ^ (uint32_t)row << 4));
    in[3] = *(const uint4 *)(const void *)(x + (place.w ^ (uint32_t)row << 4));
    #pragma unroll
    for (int h = 0; h < 2; h++) {
        if constexpr (NARROW) {
            const uint2 w = *(const uint2 *)(const void *)(stage + (2 * k + h) * 256 + lane * 8);
            b[h][0] = w.x; b[h][1] = w.y;
        } else {
            const int r = quad * run + ((4 * k + 2 * h) ^ turn);   /* even: the next row has the same exchange */
            const int there = WHOLE ?   /* the same, but for what all steps share */
                begin ^ ((4 * k + 2 * h) * (UNIT * 2) + (UNIT == 32 ? (2 * k + h) & 3 : k & 1) * 16) :
                r * (UNIT * 2) + odd + ((UNIT == 32 ? (row >> 1) ^ (r >> 1 & 3) : (row >> 2) ^ (r >> 2 & 1)) << 4);
            const unsigned char *w = stage + there;
            if constexpr (UNIT == 32) {
                const uint4 w0 = *(const uint4 *)(const void *)w, w1 = *(const uint4 *)(const void *)(w + 64);
                b[h][0] = __byte_perm(w0.x, w1.x, half); b[h][1] = __byte_perm(w0.y, w1.y, half);
                b[h][2] = __byte_perm(w0.z, w1.z, half); b[h][3] = __byte_perm(w0.w, w1.w, half);
            } else {
                const uint2 w0 = *(const uint2 *)(const void *)w, w1 = *(const uint2 *)(const void *)(w + 32);
                b[h][0] = __byte_perm(w0.x, w1.x, half); b[h][1] = __byte_perm(w0.y, w1.y, half);
            }
        }
    }
    #pragma unroll
    for (int j = 0; j < 4; j++) {   /* samples 8 * row + 2 * j and + 1 */
        #define HASTE__PANEL_WORD(v) (j == 0 ? (v).x : j == 1 ? (v).y : j == 2 ? (v).z : (v).w)
        const uint32_t a[4] = {
            __byte_perm(HASTE__PANEL_WORD(in[0]), HASTE__PANEL_WORD(in[1]), 0x5410),
            __byte_perm(HASTE__PANEL_WORD(in[0]), HASTE__PANEL_WORD(in[1]), 0x7632),
            __byte_perm(HASTE__PANEL_WORD(in[2]), HASTE__PANEL_WORD(in[3]), 0x5410),
            __byte_perm(HASTE__PANEL_WORD(in[2]), HASTE__PANEL_WORD(in[3]), 0x7632) };
        #undef HASTE__PANEL_WORD
        #pragma unroll
        for (int c = 0; c < PIECES; c++) haste__cu_mma(z[j][c], a, b[0][c], b[1][c]);
    }
}

/* z += x' w for the inputs of a job. WHOLE: there are 64 of them; FIRST: z = bias + x' w. How far the loop is unrolled, and
   which of these have code of their own, is what the registers allow. */
template <int UNIT, bool NARROW, bool WHOLE, bool FIRST>
static __device__ __forceinline__ void haste__panel_product(float (*z)[UNIT / 8][4], const unsigned char *x,
                                                            const unsigned char *stage, int rows)
{
    const int run = WHOLE ? HASTE__PANEL_CHUNK / 4 : rows / 4;
    if (FIRST) haste__panel_begin<UNIT>(z, stage);
    if constexpr (UNIT == 16) {
        #pragma unroll
        for (int k = 0; k < HASTE__PANEL_CHUNK / 16; k++) {
            if (!WHOLE && k * 16 >= rows) break;
            haste__panel_step<UNIT, NARROW, WHOLE>(z, x, stage, run, k);
        }
    } else {
        #pragma unroll 2
        for (int k = 0; k < (WHOLE ? HASTE__PANEL_CHUNK / 16 : rows / 16); k++)
            haste__panel_step<UNIT, NARROW, WHOLE>(z, x, stage, run, k);
    }
}

/* z of label i (of the lane's UNIT / 4) and sample b (of its 8). */
#define HASTE__PANEL_Z(b, i) z[(b) / 2][(i) / 2][(b) % 2 * 2 + (i) % 2]

/* Logits to memory, UNIT / 4 labels of a sample at once. at: the lane's first label, of the first of its samples. */
template <int UNIT>
static __device__ __forceinline__ void haste__panel_store(const haste__cu_pass &p, const float (*z)[UNIT / 8][4], size_t at,
                                                          int samples)
{
    const int width = p.logits_bf16 ? 2 : 4;
    const size_t row = (size_t)p.slots * (size_t)width;
    char *to = (char *)p.logits + at * (size_t)width;
    #pragma unroll
    for (int b = 0; b < 8; b++, to += row) {
        if (b >= samples) continue;
        if (p.logits_bf16) {
            uint32_t word[UNIT / 8];
            #pragma unroll
            for (int c = 0; c < UNIT / 8; c++)
                word[c] = haste__cu_pack_fast(HASTE__PANEL_Z(b, 2 * c), HASTE__PANEL_Z(b, 2 * c + 1));
            if constexpr (UNIT == 32) haste__cu_write16(to, word[0], word[1], word[2], word[3]);
            else haste__cu_write8(to, word[0], word[1]);
        } else {
            #pragma unroll
            for (int i = 0; i < UNIT / 4; i += 4)
                haste__cu_write16(to + i * 4,
                                  __float_as_uint(HASTE__PANEL_Z(b, i)), __float_as_uint(HASTE__PANEL_Z(b, i + 1)),
                                  __float_as_uint(HASTE__PANEL_Z(b, i + 2)), __float_as_uint(HASTE__PANEL_Z(b, i + 3)));
        }
    }
}

/* A unit's share of each sample's running maximum and sum of exponentials. Labels that are none are -INFINITY. */
template <int UNIT>
static __device__ __forceinline__ void haste__panel_sums(const float (*z)[UNIT / 8][4], float *largest, float *sum)
{
    #pragma unroll
    for (int b = 0; b < 8; b++) {
        const float e = 1.4426950408889634f;
        float most = largest[b], part = 0;
        #pragma unroll
        for (int i = 0; i < UNIT / 4; i++) most = fmaxf(most, HASTE__PANEL_Z(b, i));
        #pragma unroll
        for (int i = 0; i < UNIT / 4; i++) part += haste__cu_exp2((HASTE__PANEL_Z(b, i) - most) * e);
        if (!(part <= FLT_MAX)) {   /* again, without what is not finite: the second pass reports it */
            most = largest[b];
            part = 0;
            #pragma unroll
            for (int i = 0; i < UNIT / 4; i++)
                if (haste__cu_finite(HASTE__PANEL_Z(b, i))) most = fmaxf(most, HASTE__PANEL_Z(b, i));
            #pragma unroll
            for (int i = 0; i < UNIT / 4; i++)
                if (haste__cu_finite(HASTE__PANEL_Z(b, i))) part += haste__cu_exp2((HASTE__PANEL_Z(b, i) - most) * e);
        }
        sum[b] = sum[b] * haste__cu_exp2((largest[b] - most) * e) + part;
        largest[b] = most;
    }
}

/* What z holds for the search: the labels that reach `limit` go to the lists, or are counted or written (p.count); or only
   the best of each sample is told (plan.best_of_set). A label that is excluded, or none, is passed over. Returns false where
   one was not finite. group, s0, label_of: the unit's; left: how many labels it has; samples: the lane's that there are. */
template <int UNIT>
static __device__ bool haste__panel_search(const haste__cu_pass &p, const haste__panel_plan &plan, float (*z)[UNIT / 8][4],
                                           int unit, int64_t group, int s0, int left, int samples, const float *limit,
                                           const int32_t *label_of, uint64_t *lists)
{
    enum { LABELS = UNIT / 4 };
    const int lane = (int)threadIdx.x % 32, row = lane / 4, quad = lane % 4;
    const int sample0 = (int)blockIdx.y * HASTE__CU_TILE + row * 8;
    uint64_t skip = 0;
    uint32_t wanted = 0;   /* samples of this lane, one bit each */
    float total = 0;
    bool fine = true;

    if (left < UNIT) {
        #pragma unroll
        for (int i = 0; i < LABELS; i++)
            if (quad * LABELS + i >= left) {
                skip |= UINT64_C(0x0101010101010101) << i;
                #pragma unroll
                for (int b = 0; b < 8; b++) HASTE__PANEL_Z(b, i) = -INFINITY;
            }
    }
    if (!plan.best_of_set) {
        #pragma unroll
        for (int b = 0; b < 8; b++) {
            float most = HASTE__PANEL_Z(b, 0);
            total += most;
            #pragma unroll
            for (int i = 1; i < LABELS; i++) { most = fmaxf(most, HASTE__PANEL_Z(b, i)); total += HASTE__PANEL_Z(b, i); }
            if (b < samples && (p.count ? most > limit[b] : most >= limit[b])) wanted |= 1u << b;
        }
        if (!haste__cu_finite(total)) wanted = 0xff;   /* or a label is none; either needs a closer look */
        wanted = __reduce_or_sync(0xffffffffu, wanted);
        if (!wanted) return true;
    }
    haste__cu_each(p, haste__cu_first(p, group), (int)threadIdx.x % 32, [&](int sample, int label) {   /* excluded ones */
        const int s = label - s0, b = sample - sample0;
        if (s >= 0 && s / LABELS == quad && s < UNIT && b >= 0 && b < 8) skip |= UINT64_C(1) << (b * 8 + s % LABELS);
    });
    if (plan.best_of_set) {
        #pragma unroll
        for (int b = 0; b < 8; b++) {
            uint32_t key = 0, other;
            #pragma unroll
            for (int i = 0; i < LABELS; i++) {
                const float v = HASTE__PANEL_Z(b, i);
                if (haste__cu_finite(v) && !(skip >> (b * 8 + i) & 1)) key = max(key, haste__cu_order_key(v));
            }
            other = __shfl_xor_sync(0xffffffffu, key, 1);
            key = max(key, other);
            other = __shfl_xor_sync(0xffffffffu, key, 2);
            key = max(key, other);
            if (quad == b / 2)
                plan.best_of_set[(size_t)(sample0 + b) * (size_t)plan.all_sets + (size_t)(plan.set0 + unit)] = key;
        }
        return true;
    }
    label_of += quad * LABELS;
    for (; wanted; wanted &= wanted - 1) {
        const int b = __ffs((int)wanted) - 1;
        float v[LABELS], least = 0;
        uint32_t hits = 0;
        #pragma unroll
        for (int c = 0; c < 8; c++)
            if (c == b) {
                least = limit[c];
                #pragma unroll
                for (int i = 0; i < LABELS; i++) v[i] = HASTE__PANEL_Z(c, i);
            }
        #pragma unroll
        for (int i = 0; i < LABELS; i++) {
            if (b >= samples || (skip >> (b * 8 + i) & 1)) continue;
            if (!haste__cu_finite(v[i])) fine = false;
            else if (p.count ? v[i] > least : v[i] >= least) hits |= 1u << i;
        }
        while (__any_sync(0xffffffffu, hits)) {
            const bool mine = hits != 0;
            const int at = mine ? __ffs((int)hits) - 1 : 0;
            const int32_t label = mine ? label_of[at] : -1;
            float own = 0;
            #pragma unroll
            for (int i = 0; i < LABELS; i++) if (i == at) own = v[i];
            hits &= hits - 1;
            if (p.count) {
                if (mine) {
                    const int64_t to = (int64_t)atomicAdd((unsigned long long *)p.count + sample0 + b, 1ull);
                    if (p.hit_id) { p.hit_id[to] = label; p.hit_score[to] = own; }
                }
                continue;
            }
            if (mine)
                haste__cu_list_insert(lists + (row * 8 + b) * p.k, p.k, p.floor + sample0 + b, haste__cu_entry(own, label));
        }
    }
    return fine;
}

template <int UNIT, bool NARROW, int MODE>
static __global__ void __launch_bounds__(32 * HASTE__PANEL_WARPS(UNIT, MODE), 1) haste__panel_kernel(
    const haste__cu_pass p, const haste__panel_plan plan)
{
    enum { STAGE = HASTE__PANEL_STAGE(UNIT), LABELS = UNIT / 4 };
    constexpr bool SEARCH = MODE == HASTE__CU_TOP_K;
    HASTE__CU_SHARED(memory, 128);
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, row = lane / 4, quad = lane % 4;
    const int tile = (int)blockIdx.y, part = plan.part + (int)blockIdx.x, sample0 = tile * HASTE__CU_TILE + row * 8;
    const int samples = p.B - sample0 < 0 ? 0 : p.B - sample0 < 8 ? p.B - sample0 : 8;
    const int stride = (int)gridDim.x * plan.warps, end = plan.best_of_set ? plan.sets : plan.units;
    const size_t padded = (size_t)p.tiles * HASTE__CU_TILE;
    unsigned char *stages = memory + p.width * HASTE__PANEL_ROW + warp * (2 * STAGE);
    uint64_t *lists = (uint64_t *)(void *)(memory + p.width * HASTE__PANEL_ROW + plan.warps * (2 * STAGE));
    float z[4][UNIT / 8][4], limit[8], largest[8], sum[8];
    int unit = (int)blockIdx.x + (int)gridDim.x * warp, chunk = 0, turn = 0;
    uint32_t pair = 0;
    const haste__panel_lane own = haste__panel_lane_of<UNIT, NARROW>(p);
    bool fine = true;

    if (unit < end) pair = haste__panel_fetch_job<UNIT, NARROW, SEARCH>(p, plan, own, unit, 0, stages);
    for (int i = (int)threadIdx.x; i < p.width * 8; i += (int)blockDim.x)
        haste__cu_copy16(memory + (haste__panel_place(plan, (uint32_t)(i / 8)) ^ (uint32_t)(i % 8) << 4),
                         (const uint16_t *)p.x + ((size_t)tile * (size_t)p.D + (size_t)(p.begin + i / 8)) * HASTE__CU_TILE +
                         i % 8 * 8);
    if (MODE == HASTE__CU_TOP_K && !plan.best_of_set && !p.count) {
        for (int i = (int)threadIdx.x; i < HASTE__CU_TILE * p.k; i += (int)blockDim.x) {
            const int sample = tile * HASTE__CU_TILE + i / p.k;
            lists[i] = plan.first || sample >= p.B ? 0 :
                p.best[((size_t)part * padded + (size_t)sample) * (size_t)p.k + (size_t)(i % p.k)];
        }
    }
    #pragma unroll
    for (int b = 0; b < 8; b++) { limit[b] = p.threshold; largest[b] = -FLT_MAX; sum[b] = 0; }
    haste__cu_copy_wait();
    __syncthreads();

    while (unit < end) {
        unsigned char *stage = stages + turn * STAGE;
        const int f0 = chunk * HASTE__PANEL_CHUNK, now = unit;
        const int rows = p.F - f0 < HASTE__PANEL_CHUNK ? p.F - f0 : HASTE__PANEL_CHUNK;
        const bool begins = chunk == 0, ends = chunk + 1 == plan.chunks;

        haste__cu_copy_wait();
        if (lane < rows / 2)
            *(uint2 *)(void *)(stage + HASTE__PANEL_PLACES(UNIT) + lane * 8) =
                make_uint2(haste__panel_place(plan, pair & 0xffff), haste__panel_place(plan, pair >> 16));
        __syncwarp();   /* the job is there, and nobody works on the one before any more */
        turn ^= 1;
        if (ends) { chunk = 0; unit += stride; } else chunk++;
        if (unit < end)
            pair = haste__panel_fetch_job<UNIT, NARROW, SEARCH>(p, plan, own, unit, chunk, stages + turn * STAGE);

        if (MODE == HASTE__CU_TOP_K && begins && !p.count && !plan.best_of_set) {   /* what others have found meanwhile */
            #pragma unroll
            for (int i = 0; i < 8; i += 4) {
                const uint4 floor = haste__cu_load_fresh(p.floor + sample0 + i);
                limit[i] = floor.x ? haste__cu_order_float(floor.x) : -FLT_MAX;
                limit[i + 1] = floor.y ? haste__cu_order_float(floor.y) : -FLT_MAX;
                limit[i + 2] = floor.z ? haste__cu_order_float(floor.z) : -FLT_MAX;
                limit[i + 3] = floor.w ? haste__cu_order_float(floor.w) : -FLT_MAX;
            }
        }
        const bool whole = rows == HASTE__PANEL_CHUNK;
        if constexpr (UNIT == 16) {
            if (whole && begins) haste__panel_product<UNIT, NARROW, true, true>(z, memory, stage, rows);
            else if (begins)     haste__panel_product<UNIT, NARROW, false, true>(z, memory, stage, rows);
            else if (whole)      haste__panel_product<UNIT, NARROW, true, false>(z, memory, stage, rows);
            else                 haste__panel_product<UNIT, NARROW, false, false>(z, memory, stage, rows);
        } else {
            if (begins) haste__panel_begin<UNIT>(z, stage);
            if (whole) haste__panel_product<UNIT, NARROW, true, false>(z, memory, stage, rows);
            else       haste__panel_product<UNIT, NARROW, false, false>(z, memory, stage, rows);
        }
        if (!ends) continue;

        const int64_t group = haste__cu_item_group(now, plan.per);
        const int s0 = (now - (int)group * plan.per) * UNIT;
        int left = haste__cu_group_labels(p, group) - s0;
        left = left < 0 ? 0 : left < UNIT ? left : UNIT;
        if (SEARCH) {
            const int32_t *label_of = (const int32_t *)(const void *)(stage + HASTE__PANEL_LABEL(UNIT));
            fine &= haste__panel_search<UNIT>(p, plan, z, now, group, s0, left, samples, limit, label_of, lists);
            continue;
        }
        if (left < UNIT) {   /* what is no label has logit 0, and no share of a sum */
            #pragma unroll
            for (int i = 0; i < LABELS; i++)
                #pragma unroll
                for (int b = 0; b < 8; b++)
                    if (quad * LABELS + i >= left) HASTE__PANEL_Z(b, i) = MODE == HASTE__CU_LOGITS ? 0.0f : -INFINITY;
        }
        if (MODE == HASTE__CU_LOGITS)
            haste__panel_store<UNIT>(p, z, (size_t)sample0 * (size_t)p.slots +
                                     (size_t)(p.first_slot + group * p.S + s0 + quad * LABELS), samples);
        else haste__panel_sums<UNIT>(z, largest, sum);
    }

    if (MODE == HASTE__CU_SUMEXP) {   /* lanes of a sample, then warps */
        float *out = p.partial + (size_t)part * 2 * padded * 2, *all = (float *)(void *)memory;   /* [warps][2][64] */
        __syncthreads();
        #pragma unroll
        for (int b = 0; b < 8; b++) {
            for (int step = 1; step <= 2; step *= 2) {
                const float most = fmaxf(largest[b], __shfl_xor_sync(0xffffffffu, largest[b], step));
                sum[b] *= expf(largest[b] - most);
                sum[b] += __shfl_xor_sync(0xffffffffu, sum[b], step);
                largest[b] = most;
            }
            if (quad == 0) {
                all[warp * 128 + row * 8 + b] = largest[b];
                all[warp * 128 + 64 + row * 8 + b] = sum[b];
            }
        }
        __syncthreads();
        if (threadIdx.x < HASTE__CU_TILE) {
            const size_t at = (size_t)(tile * HASTE__CU_TILE + (int)threadIdx.x) * 2;
            float most = plan.first ? -FLT_MAX : out[at], one = plan.first ? 0 : out[2 * padded + at];
            for (int w = 0; w < plan.warps; w++) {
                const float m = all[w * 128 + (int)threadIdx.x], next = fmaxf(m, most);
                one = one * expf(most - next) + all[w * 128 + 64 + (int)threadIdx.x] * expf(m - next);
                most = next;
            }
            out[at] = most; out[2 * padded + at] = one;
            out[at + 1] = -FLT_MAX; out[2 * padded + at + 1] = 0;   /* the general kernel has two threads a sample */
        }
    }
    if (MODE == HASTE__CU_TOP_K && !plan.best_of_set) {
        if (!fine) atomicExch(&p.flag[HASTE__CU_FLAG_NONFINITE], 1u);
        if (p.count) return;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < HASTE__CU_TILE * p.k; i += (int)blockDim.x) {
            const int sample = tile * HASTE__CU_TILE + i / p.k;
            if (sample < p.B) p.best[((size_t)part * padded + (size_t)sample) * (size_t)p.k + (size_t)(i % p.k)] = lists[i];
        }
    }
}

/* The search's first look: k sets of labels have their best at or above the k-th largest of all sets' best, so that at least
   k labels reach it. Block: one sample. */
static __global__ void __launch_bounds__(HASTE__PANEL_FLOOR) haste__panel_floor_kernel(const uint32_t *best_of_set, int sets,
                                                                                       int k, uint32_t *floor)
{
    enum { KEYS = HASTE__PANEL_SETS / HASTE__PANEL_FLOOR };
    __shared__ int counts[2][16];
    const uint32_t *own = best_of_set + (size_t)blockIdx.x * (size_t)sets;
    uint32_t key[KEYS], found;
    #pragma unroll
    for (int i = 0; i < KEYS; i++) {
        const int at = (int)threadIdx.x + i * HASTE__PANEL_FLOOR;
        key[i] = at < sets ? own[at] : 0;
    }
    found = haste__cu_kth<KEYS>(key, k, 12, counts);   /* a little too low does no harm */
    if (threadIdx.x == 0) floor[blockIdx.x] = found;
}

/* How a thread block's memory is cut for a pass in `mode`, or 0 where a block of labels is none for these kernels. */
static int haste__panel_plan_make(haste__panel_plan *plan, const haste__cu_pass *p, haste_dtype dtype, int mode,
                                  int shared_most)
{
    const int narrow = p->path == HASTE_CUDA_NARROW, unit = narrow || p->S % 32 ? 16 : 32;
    const int most = HASTE__PANEL_WARPS(unit, mode);
    const int stages = 2 * HASTE__PANEL_STAGE(unit);
    int left = shared_most;
    memset(plan, 0, sizeof *plan);
    if (dtype != HASTE_BF16 || p->S % 16 || p->F % 16 || p->width > 4096) return 0;
    if (p->groups * (p->S / unit) > INT32_MAX / 2 || p->tiles > 65535) return 0;
    if (((uintptr_t)p->weight | (uintptr_t)p->index | (uintptr_t)p->bias | (uintptr_t)p->x | (uintptr_t)p->logits |
         (uintptr_t)(p->label_of + p->first_slot)) % 16) return 0;
    left -= p->width * HASTE__PANEL_ROW;
    if (mode == HASTE__CU_TOP_K) left -= HASTE__CU_TILE * p->k * 8;
    plan->warps = left / stages < most ? left / stages : most;
    if (plan->warps < 4) return 0;
    plan->shared = shared_most - left + plan->warps * stages;
    plan->unit = unit;
    plan->narrow = narrow;
    plan->per = p->S / unit;
    plan->units = (int32_t)(p->groups * plan->per);
    plan->chunks = (p->F + HASTE__PANEL_CHUNK - 1) / HASTE__PANEL_CHUNK;
    /* a quad's run of inputs: 16 of a dense block; of the narrow order an eighth, else a quarter of a chunk's share */
    plan->quarter = !p->index ? 65536 / 16 : (uint32_t)(65536 * (narrow ? 8 : 4 * plan->chunks) / p->width);
    return 1;
}

template <int UNIT, bool NARROW, int MODE>
static cudaError_t haste__panel_launch(const haste__cu_pass *p, const haste__panel_plan *plan, unsigned parts,
                                       cudaStream_t stream)
{
    int most;
    const cudaError_t error = haste__cu_allow_all(HASTE__CU_KERNEL(haste__panel_kernel<UNIT, NARROW, MODE>), &most);
    if (error != cudaSuccess) return error;
    return haste__cu_launch(haste__panel_kernel<UNIT, NARROW, MODE>, dim3(parts, (unsigned)p->tiles),
                            32 * (unsigned)plan->warps, (size_t)plan->shared, stream, *p, *plan);
}
template <int UNIT, bool NARROW>
static cudaError_t haste__panel_mode(const haste__cu_pass *p, const haste__panel_plan *plan, int mode, unsigned parts,
                                     cudaStream_t stream)
{
    switch (mode) {
    case HASTE__CU_LOGITS: return haste__panel_launch<UNIT, NARROW, HASTE__CU_LOGITS>(p, plan, parts, stream);
    case HASTE__CU_SUMEXP: return haste__panel_launch<UNIT, NARROW, HASTE__CU_SUMEXP>(p, plan, parts, stream);
    default:               return haste__panel_launch<UNIT, NARROW, HASTE__CU_TOP_K>(p, plan, parts, stream);
    }
}
/* One block of labels. parts: thread blocks for each tile of samples. */
static cudaError_t haste__panel_pass(const haste__cu_pass *p, const haste__panel_plan *plan, int mode, int parts,
                                     cudaStream_t stream)
{
    return plan->unit == 32 ? haste__panel_mode<32, false>(p, plan, mode, (unsigned)parts, stream) :
           plan->narrow     ? haste__panel_mode<16, true>(p, plan, mode, (unsigned)parts, stream) :
                              haste__panel_mode<16, false>(p, plan, mode, (unsigned)parts, stream);
}

/* ---- >>above and score --------------------------------------------------------------------------------------- */

/* offset [B+1] from counts, which become offsets too: where each sample's next hit goes. One block; sums of 128 at a time. */
static __global__ void haste__cu_offset_kernel(int64_t *count, int B, int64_t *offset)
{
    __shared__ int64_t part[HASTE__CU_THREADS];
    int64_t each = ((int64_t)B + HASTE__CU_THREADS - 1) / HASTE__CU_THREADS, first = (int64_t)threadIdx.x * each,
        end = first + each, sum = 0;
    if (end > B) end = B;
    for (int64_t b = first; b < end; b++) sum += count[b];
    part[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (unsigned i = 0; i < threadIdx.x; i++) sum += part[i];
    for (int64_t b = first; b < end; b++) {
        int64_t n = count[b];
        offset[b] = count[b] = sum;
        sum += n;
    }
    if (threadIdx.x == HASTE__CU_THREADS - 1) offset[B] = sum;
}

/* Each sample's hits, best first: bitonic sorting, of which pairs beyond the end are left out (they would hold what comes
   last). Every comparison puts the better one first, so that this is sound. Block: one sample. */
static __global__ void haste__cu_sort_kernel(const int64_t *offset, int32_t *id, float *score)
{
    int64_t first = offset[blockIdx.x], n = offset[blockIdx.x + 1] - first;
    id += first;
    score += first;
    for (int64_t size = 2; size / 2 < n; size *= 2)
        for (int64_t step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int64_t i = threadIdx.x; i < n; i += HASTE__CU_THREADS) {
                /* first the mirrored halves, then plain ones */
                int64_t other = step == size / 2 ? (i ^ (size - 1)) : (i ^ step);
                if (other > i && other < n && haste__cu_before(score[other], id[other], score[i], id[i])) {
                    float s = score[i];
                    int32_t l = id[i];
                    score[i] = score[other]; score[other] = s;
                    id[i] = id[other]; id[other] = l;
                }
            }
        }
}

/* Logits of given labels. Warp: one candidate after the other of a sample; lanes share the inputs. */
template <typename T>
static __global__ void haste__cu_score_kernel(haste__cu_stream_args a, haste__cu_map map, const int64_t *offset,
                                              const int32_t *candidate, float *score)
{
    int lane = (int)threadIdx.x % 32;
    for (int b = (int)blockIdx.x; b < a.B; b += (int)gridDim.x) {
        int64_t start = offset[0], first = offset[b], end = offset[b + 1];
        if (start < 0 || first < start || end < first) { haste__cu_bad_list(a.flag, b); continue; }
        for (int64_t i = first + (int64_t)blockIdx.y * (HASTE__CU_THREADS / 32) + threadIdx.x / 32; i < end;
             i += (int64_t)gridDim.y * (HASTE__CU_THREADS / 32)) {
            int32_t label = candidate[i];
            int64_t slot;
            int k = 0;
            float sum = 0;
            if (label < 0 || label >= map.labels) { haste__cu_bad_list(a.flag, b); continue; }
            slot = map.slot_of[label] - map.shard;
            if (slot < 0 || slot >= map.first_slot[map.blocks]) continue;
            while (slot >= map.first_slot[k + 1]) k++;
            const haste__cu_stream_block &block = a.block[k];
            slot -= map.first_slot[k];
            int64_t g = slot / block.S;
            int s = (int)(slot % block.S);
            const T *w = (const T *)block.weight + (size_t)g * (size_t)block.F * (size_t)block.S;
            for (int f = lane; f < block.F; f += 32)
                sum += haste__cu_get(w + haste__cu_place(block.path, block.S, block.F, f, s)) *
                       haste__cu_read(a.x, a.x_type, (size_t)b * (size_t)a.D + (size_t)block.begin +
                                                     (size_t)(block.index ? block.index[g * block.F + f] : f));
            for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
            if (lane == 0) score[i - start] = sum + block.bias[slot];
        }
    }
}

/* ---- >>making a layer ---------------------------------------------------------------------------------------- */

/* haste__draw_index: Floyd's sampling into a bitmap, read in order. Block: one warp, one group after the other. */
static __global__ void haste__cu_draw_index_kernel(uint16_t *index, int64_t groups, int64_t group_base, int F, int width,
                                                   uint64_t key)
{
    HASTE__CU_SHARED(memory, 128);
    uint32_t *bitmap = (uint32_t *)memory;
    const int words = (width + 31) / 32, lane = (int)threadIdx.x;
    for (int64_t g = blockIdx.x; g < groups; g += gridDim.x) {
        int n = 0;
        __syncwarp();
        for (int i = lane; i < words; i += 32) bitmap[i] = 0;
        __syncwarp();
        if (lane == 0)
            for (int j = width - F; j < width; j++) {
                uint64_t position = (uint64_t)(group_base + g) << 16 | (uint64_t)(j - (width - F));
                uint32_t t = haste__cu_below(haste__cu_random(key, position), (uint32_t)j + 1);
                if (bitmap[t / 32] >> (t % 32) & 1) t = (uint32_t)j;
                bitmap[t / 32] |= 1u << (t % 32);
            }
        __syncwarp();
        for (int first = 0; first < words; first += 32) {
            uint32_t bits = first + lane < words ? bitmap[first + lane] : 0;
            int before = __popc(bits), own = before, total;
            for (int step = 1; step < 32; step *= 2) {
                int other = __shfl_up_sync(0xffffffffu, before, (unsigned)step);
                if (lane >= step) before += other;
            }
            total = __shfl_sync(0xffffffffu, before, 31);
            before += n - own;
            for (; bits; bits &= bits - 1) index[g * F + before++] = (uint16_t)((first + lane) * 32 + __ffs((int)bits) - 1);
            n += total;
        }
    }
}

/* haste__draw_weight, for one row f of a group. key: of the stream. */
static __device__ __forceinline__ float haste__cu_draw_weight(uint64_t key, int64_t slot, int f, float root)
{
    float u = (float)(haste__cu_random(key, (uint64_t)slot << 16 | (uint64_t)f) >> 40) * (1.0f / 16777216.0f);
    return __fdiv_rn(2 * u - 1, root);
}

template <typename T> static __global__ void haste__cu_draw_weight_kernel(const haste__cu_pass p, uint64_t key, float root)
{
    int64_t group = (int64_t)p.F * p.S, all = p.groups * group, step = (int64_t)gridDim.x * HASTE__CU_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * HASTE__CU_THREADS + threadIdx.x; i < all; i += step) {
        int64_t g = i / group;
        int f = (int)(i % group / p.S), s = (int)(i % p.S);
        float w = s < haste__cu_group_labels(p, g) ? haste__cu_draw_weight(key, p.round_slot + g * p.S + s, f, root) : 0.0f;
        haste__cu_put((T *)p.weight + g * group + haste__cu_place(p.path, p.S, p.F, f, s), w);
    }
}

/* How many inputs of a group can be reordered without the others. */
static int haste__cu_strip(int path, int F) { return path == HASTE_CUDA_WIDE && F > 64 ? 64 : F; }

/* From the order of haste.h to the path's, in place, through shared memory. Block: one strip of a group after the other. */
template <typename T> static __global__ void haste__cu_reorder_kernel(T *array, int64_t groups, int S, int F, int strip,
                                                                      int path)
{
    HASTE__CU_SHARED(memory, 128);
    T *copy = (T *)memory;
    const int strips = (F + strip - 1) / strip;
    for (int64_t item = blockIdx.x; item < groups * strips; item += gridDim.x) {
        const int f0 = (int)(item % strips) * strip, n = (F - f0 < strip ? F - f0 : strip) * S;
        T *to = array + (item / strips * F + f0) * S;
        for (int i = (int)threadIdx.x; i < n; i += HASTE__CU_THREADS) copy[i] = to[i];
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n; i += HASTE__CU_THREADS)
            to[haste__cu_place(path, S, F, f0 + i / S, i % S) - (int64_t)f0 * S] = copy[i];
        __syncthreads();
    }
}

/* ---- >>rewire ------------------------------------------------------------------------------------------------ */

/* As in haste.h: one 32-bit number a place p = g*F + f carries all decisions: the bits of its score, later its new input. */
#define HASTE__CU_KEEP 0xffffffffu

enum {
    HASTE__CU_FEW_PLACES  = 1024,        /* of a group, that are worked on in shared memory */
    HASTE__CU_REWIRE_MOST = 48 * 1024    /* shared memory of a block of the rewire kernel */
};

/* Which places of a block move: those with (score, p) up to (bound, last). Found 11 bits at a time. */
typedef struct haste__cu_bound {
    uint64_t score, place;       /* what is found of them, from the top */
    int64_t  left;
    int32_t  found_score, found_place;   /* how many bits are not found yet */
} haste__cu_bound;

typedef struct haste__cu_rewire {
    uint32_t *place;             /* [G, F] of the block */
    uint64_t *grow;              /* [warps][F] random growth: result, swap and value of each draw; F > 1024 only */
    haste__cu_bound *bound;
    uint32_t *count;             /* [2048] */
    float    *key;               /* [gridDim.x][width] */
    uint32_t *order;             /* [gridDim.x][2F] inputs, and where rows were; and: */
    void     *rows;              /* [gridDim.x][F*S] of 4 bytes; NULL: in shared memory, as most are */
    uint64_t  key_grow, key_weight;
    int64_t   group_base;
    int32_t   limit, uniform, place_bits;
    float     root;
} haste__cu_rewire;

/* A mean in the order of sums of haste__row_mean. */
typedef struct haste__cu_mean { float sum[8]; } haste__cu_mean;
static __device__ __forceinline__ float haste__cu_mean_get(const haste__cu_mean &m, int labels)
{
    return __fdiv_rn(((m.sum[0] + m.sum[4]) + (m.sum[2] + m.sum[6])) + ((m.sum[1] + m.sum[5]) + (m.sum[3] + m.sum[7])),
                     (float)labels);
}

/* Scores by magnitude. Thread: one place after the other. */
template <typename T> static __global__ void haste__cu_magnitude_kernel(const haste__cu_pass p, haste__cu_rewire r)
{
    int64_t all = p.groups * p.F, step = (int64_t)gridDim.x * HASTE__CU_THREADS;
    for (int64_t i = (int64_t)blockIdx.x * HASTE__CU_THREADS + threadIdx.x; i < all; i += step) {
        int64_t g = i / p.F;
        haste__cu_mean mean = {};
        for (int s = 0; s < p.S; s += 8) {
            float w[8];
            haste__cu_load8(p, (const T *)p.weight, g, (int)(i % p.F), s, w);
            #pragma unroll
            for (int j = 0; j < 8; j++) mean.sum[j] += fabsf(w[j]);
        }
        uint32_t bits = __float_as_uint(haste__cu_mean_get(mean, haste__cu_group_labels(p, g)));
        if (bits >= 0x7f800000u) atomicExch(&p.flag[HASTE__CU_FLAG_STOP], 1u);
        r.place[i] = bits;
    }
}

/* Does place p of the block move? */
static __device__ __forceinline__ bool haste__cu_moves(const haste__cu_bound &bound, uint32_t score, int64_t p)
{
    return score < (uint32_t)bound.score || (score == (uint32_t)bound.score && (uint64_t)p <= bound.place);
}

/* Gradients of a group's weights from the batch, group by group: of its own inputs (growth 0), where their mean |w *
   gradient| becomes the score; or of all inputs of the slice (growth 1), of which the `wanted` largest take the places that
   move. Block: one group after the other, 64 labels and 64 inputs at a time. */
template <typename T, int SP>
static __global__ void __launch_bounds__(HASTE__CU_THREADS) haste__cu_probe_kernel(const haste__cu_pass p,
                                                                                   const haste__cu_rewire r, int growth)
{
    typedef haste__cu_tile<T, SP> tile;
    HASTE__CU_SHARED(memory, 128);
    __shared__ int wanted;
    __shared__ float best_key[4];
    __shared__ int32_t best_at[4];
    T *w = (T *)memory, *x = (T *)(memory + tile::X), *z = (T *)(memory + tile::Z);
    float *dw = (float *)(memory + tile::X);
    T *slopes = (T *)p.slopes + (size_t)blockIdx.x * (size_t)p.tiles * HASTE__CU_RUN * HASTE__CU_TILE;
    haste__cu_pass q = p;   /* the inputs whose gradients are wanted */
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    double loss = 0;
    if (growth) { q.index = NULL; q.F = p.width; }
    float *key = r.key + (size_t)blockIdx.x * (size_t)p.width;   /* at least F */

    for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
        uint32_t *place = r.place + g * p.F;
        float sums[SP / 2], acc[SP / 2];
        bool bad = false;
        const int all_labels = haste__cu_group_labels(p, g);
        __syncthreads();
        if (growth) {
            if (threadIdx.x == 0) wanted = 0;
            __syncthreads();
            for (int f = (int)threadIdx.x; f < p.F; f += HASTE__CU_THREADS) {
                bool moves = haste__cu_moves(*r.bound, place[f], g * p.F + f);
                place[f] = moves ? 0 : HASTE__CU_KEEP;
                if (moves) atomicAdd(&wanted, 1);
            }
            __syncthreads();
            if (wanted == 0) continue;
        }
        for (int i = (int)threadIdx.x; i < q.F; i += HASTE__CU_THREADS) key[i] = 0;
        for (int s0 = 0; s0 < p.S; s0 += HASTE__CU_RUN) {
            int run = p.S - s0 < SP ? p.S - s0 : SP;
            for (int t = 0; t < p.tiles; t++) {
                bad |= haste__cu_tile_slopes<T, SP>(p, g, s0, run, t, true, haste__cu_first(p, g), 1, memory, acc, &loss);
                __syncthreads();
                for (int i = (int)threadIdx.x; i < SP * HASTE__CU_TILE; i += HASTE__CU_THREADS)
                    slopes[(size_t)t * HASTE__CU_RUN * HASTE__CU_TILE + (size_t)i] = z[i / HASTE__CU_TILE * tile::LX +
                                                                                       i % HASTE__CU_TILE];
            }
            for (int f0 = 0; f0 < q.F; f0 += HASTE__CU_RUN) {
                int rows = q.F - f0 < HASTE__CU_RUN ? q.F - f0 : HASTE__CU_RUN;
                #pragma unroll
                for (int i = 0; i < SP / 2; i++) sums[i] = 0;
                for (int t = 0; t < p.tiles; t++) {
                    __syncthreads();
                    if (t == 0 && !growth) haste__cu_fetch_weights<T, SP>(p, g, f0, rows, s0, run, w);
                    haste__cu_fetch_x<T, SP>(q, g, f0, rows, t, x);
                    for (int i = (int)threadIdx.x; i < SP * HASTE__CU_TILE; i += HASTE__CU_THREADS)
                        z[i / HASTE__CU_TILE * tile::LX + i % HASTE__CU_TILE] =
                            slopes[(size_t)t * HASTE__CU_RUN * HASTE__CU_TILE + (size_t)i];
                    haste__cu_copy_wait();
                    __syncthreads();
                    haste__cu_weights<SP>(sums, x, z, rows);
                }
                __syncthreads();
                haste__cu_weights_store<SP>(w, sums, dw);
                __syncthreads();
                if ((int)threadIdx.x < rows) {
                    haste__cu_mean mean = {};
                    for (int s = 0; s < run; s += 8)
                        #pragma unroll
                        for (int j = 0; j < 8; j++) {
                            float d = dw[(int)threadIdx.x * tile::LD + s + j];
                            if (!growth) d = __fmul_rn(haste__cu_get(w + (int)threadIdx.x * tile::LW + s + j), d);
                            mean.sum[j] = __fadd_rn(mean.sum[j], fabsf(d));
                        }
                    key[f0 + (int)threadIdx.x] += haste__cu_mean_get(mean, all_labels);
                }
            }
            __syncthreads();
        }
        if (growth) {
            for (int f = (int)threadIdx.x; f < p.F; f += HASTE__CU_THREADS) key[p.index[g * p.F + f]] = -1;   /* not again */
            __syncthreads();
        }
        for (int i = (int)threadIdx.x; i < q.F; i += HASTE__CU_THREADS) bad |= !haste__cu_finite(key[i]);
        if (bad) atomicExch(&p.flag[HASTE__CU_FLAG_STOP], 1u);
        if (!growth) {
            for (int f = (int)threadIdx.x; f < p.F; f += HASTE__CU_THREADS) place[f] = __float_as_uint(key[f]);
            continue;
        }
        for (int f = 0, left = wanted; left > 0; f++) {   /* the largest first, ties to the smaller input */
            float best = -1;
            int32_t at = -1;
            if (place[f] == HASTE__CU_KEEP) continue;
            for (int i = (int)threadIdx.x; i < q.F; i += HASTE__CU_THREADS)
                if (key[i] > best) { best = key[i]; at = i; }
            for (int turn = 0; turn < 2; turn++) {
                for (int step = 16; step > 0; step /= 2) {
                    float other = __shfl_xor_sync(0xffffffffu, best, step);
                    int32_t other_at = __shfl_xor_sync(0xffffffffu, at, step);
                    if (other_at >= 0 && (at < 0 || other > best || (other == best && other_at < at)))
                        { best = other; at = other_at; }
                }
                if (turn == 1) break;
                if (lane == 0) { best_key[warp] = best; best_at[warp] = at; }
                __syncthreads();
                best = lane < 4 ? best_key[lane] : -1.0f;
                at = lane < 4 ? best_at[lane] : -1;
            }
            __syncthreads();   /* everybody has read place[f] and the bests */
            if (threadIdx.x == 0 && at >= 0) { place[f] = (uint32_t)at; key[at] = -1; }
            __syncthreads();
            left--;
        }
    }
}

/* All but the `limit` lowest scores of each group stay, whatever happens elsewhere. Block: one group after the other, whose
   scores come to shared memory; of more than HASTE__CU_FEW_PLACES only a bit a place: does it stay? */
static __global__ void haste__cu_limit_kernel(haste__cu_rewire r, int64_t groups, int F)
{
    HASTE__CU_SHARED(memory, 128);
    const int threads = (int)blockDim.x, few = F <= HASTE__CU_FEW_PLACES;
    uint32_t *stays = (uint32_t *)memory;
    uint4 *score = (uint4 *)memory;   /* four at a time; the last ones may be no scores */
    for (int64_t g = blockIdx.x; g < groups; g += gridDim.x) {
        uint32_t *place = r.place + g * F;
        __syncthreads();
        if (few) for (int f = (int)threadIdx.x; f < (F + 3) / 4 * 4; f += threads)
            ((uint32_t *)score)[f] = f < F ? place[f] : HASTE__CU_KEEP;
        else for (int i = (int)threadIdx.x; i < (F + 31) / 32; i += threads) stays[i] = 0;
        __syncthreads();
        for (int f = (int)threadIdx.x; f < F; f += threads) {
            const uint32_t own = place[f];
            int before = 0;
            if (few) {
                #pragma unroll 4
                for (int i = 0; i < (F + 3) / 4; i++) {
                    const uint4 four = score[i];
                    const int left = f - 4 * i;   /* before the same score, those in front of f */
                    before += (four.x < own + (left > 0)) + (four.y < own + (left > 1)) + (four.z < own + (left > 2))
                            + (four.w < own + (left > 3));
                }
                if (before >= r.limit) place[f] = HASTE__CU_KEEP;
                continue;
            }
            for (int other = 0; other < F && before < r.limit; other++)
                before += place[other] < own || (place[other] == own && other < f);
            if (before >= r.limit) atomicOr(&stays[f / 32], 1u << (f % 32));
        }
        if (few) continue;
        __syncthreads();
        for (int f = (int)threadIdx.x; f < F; f += threads) if (stays[f / 32] >> (f % 32) & 1) place[f] = HASTE__CU_KEEP;
    }
}

/* The bits that this level looks at: of the score while any are open, then of the place. */
static __device__ __forceinline__ void haste__cu_level(const haste__cu_bound &b, bool *score, int *shift, int *bits)
{
    int open = b.found_score > 0 ? b.found_score : b.found_place;
    *score = b.found_score > 0;
    *bits = open < 11 ? open : 11;
    *shift = open - *bits;
}

static __global__ void haste__cu_histogram_kernel(haste__cu_rewire r, int64_t places)
{
    __shared__ uint32_t count[2048];
    const haste__cu_bound b = *r.bound;
    bool score;
    int shift, bits;
    haste__cu_level(b, &score, &shift, &bits);
    for (int i = (int)threadIdx.x; i < 2048; i += HASTE__CU_THREADS) count[i] = 0;
    __syncthreads();
    for (int64_t p = (int64_t)blockIdx.x * HASTE__CU_THREADS + threadIdx.x; p < places;
         p += (int64_t)gridDim.x * HASTE__CU_THREADS) {
        uint64_t own = r.place[p];
        if (score ? own >> (shift + bits) != b.score >> (shift + bits) : own != b.score) continue;
        if (!score) {
            own = (uint64_t)p;
            if (own >> (shift + bits) != b.place >> (shift + bits)) continue;
        }
        atomicAdd(&count[own >> shift & ((1u << bits) - 1)], 1u);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < 2048; i += HASTE__CU_THREADS) if (count[i]) atomicAdd(&r.count[i], count[i]);
}

/* The bin in which the left-th place lies; the counts become 0. Block: all. Thread: 16 bins. */
static __global__ void __launch_bounds__(HASTE__CU_THREADS) haste__cu_pick_kernel(haste__cu_rewire r)
{
    __shared__ int64_t warps[4];   /* sums of a warp's bins */
    const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    haste__cu_bound *b = r.bound;
    uint4 *count = (uint4 *)r.count + threadIdx.x * 4;
    uint32_t own[16];
    int64_t left = b->left, sum = 0, end;   /* end: places up to this thread's last bin */
    bool score;
    int shift, bits;
    haste__cu_level(*b, &score, &shift, &bits);
    #pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint4 four = count[i];
        own[4 * i] = four.x; own[4 * i + 1] = four.y; own[4 * i + 2] = four.z; own[4 * i + 3] = four.w;
        sum += (int64_t)four.x + four.y + ((int64_t)four.z + four.w);
        count[i] = make_uint4(0, 0, 0, 0);
    }
    end = sum;
    for (int step = 1; step < 32; step *= 2) {
        const int64_t other = __shfl_up_sync(0xffffffffu, end, (unsigned)step);
        if (lane >= step) end += other;
    }
    if (lane == 31) warps[warp] = end;
    __syncthreads();   /* everybody has read *b, too */
    for (int i = 0; i < warp; i++) end += warps[i];
    if (left > end - sum && left <= end) {   /* one thread: there are as many places as are sought, at least */
        uint64_t bin = threadIdx.x * 16;
        left -= end - sum;
        #pragma unroll
        for (int i = 0; i < 15; i++) {
            if (bin != threadIdx.x * 16 + (uint64_t)i || left <= (int64_t)own[i]) continue;
            left -= own[i];
            bin++;
        }
        b->left = left;
        if (score) { b->score |= bin << shift; b->found_score = shift; }
        else { b->place |= bin << shift; b->found_place = shift; }
    }
}

/* The k-th input that is not in the group: index ascends, and index[j] - j of the missing ones come before it. */
static __device__ __forceinline__ int haste__cu_missing(const uint16_t *index, int F, int k)
{
    int first = 0, end = F;
    while (first < end) {
        int middle = (first + end) / 2;
        if ((int)index[middle] - middle <= k) first = middle + 1;
        else end = middle;
    }
    return k + first;
}

/* Random growth: the beginning of haste.h's shuffle of the inputs that are not in the group. The shuffled array is never
   written: a position holds what the last swap put there. Warp: one group after the other. */
static __global__ void haste__cu_grow_kernel(haste__cu_rewire r, int64_t groups, int F, int width, const uint16_t *all_index)
{
    HASTE__CU_SHARED(memory, 128);
    const int lane = (int)threadIdx.x % 32, warps = (int)blockDim.x / 32, warp = (int)threadIdx.x / 32, n = width - F;
    uint64_t *grow = F <= HASTE__CU_FEW_PLACES ? (uint64_t *)memory + warp * F
                                               : r.grow + ((int64_t)blockIdx.x * warps + warp) * F;
    for (int64_t g = (int64_t)blockIdx.x * warps + warp; g < groups; g += (int64_t)gridDim.x * warps) {
        const uint16_t *index = all_index + g * F;
        uint32_t *place = r.place + g * F;
        int wanted = 0;
        for (int f0 = 0; f0 < F; f0 += 32) {
            int f = f0 + lane;
            bool moves = f < F && haste__cu_moves(*r.bound, place[f], g * F + f);
            uint32_t who = __ballot_sync(0xffffffffu, moves);
            if (f < F) place[f] = moves ? (uint32_t)(wanted + __popc(who & ((1u << lane) - 1))) : HASTE__CU_KEEP;
            wanted += __popc(who);
        }
        for (int i = 0; i < wanted; i++) {
            uint64_t random = haste__cu_random(r.key_grow, (uint64_t)(r.group_base + g) << 16 | (uint64_t)i);
            int other = i + (int)haste__cu_below(random, (uint32_t)(n - i)), last_other = -1, last_own = -1;
            for (int j = lane; j < i; j += 32) {
                int swapped = (int)(grow[j] >> 16 & 0xffffu);
                if (swapped == other) last_other = j;
                if (swapped == i) last_own = j;
            }
            for (int step = 16; step > 0; step /= 2) {
                int a = __shfl_xor_sync(0xffffffffu, last_other, step), b = __shfl_xor_sync(0xffffffffu, last_own, step);
                if (a > last_other) last_other = a;
                if (b > last_own) last_own = b;
            }
            if (lane == 0) {
                uint64_t found = last_other >= 0 ? grow[last_other] & 0xffffu : (uint64_t)haste__cu_missing(index, F, other);
                uint64_t own = last_own >= 0 ? grow[last_own] & 0xffffu : (uint64_t)haste__cu_missing(index, F, i);
                grow[i] = found << 32 | (uint64_t)other << 16 | own;
            }
            __syncwarp();
        }
        for (int f = lane; f < F; f += 32) if (place[f] != HASTE__CU_KEEP) place[f] = (uint32_t)(grow[place[f]] >> 32);
        __syncwarp();
    }
}

/* Several numbers, moved at once. */
template <typename A, int N> struct alignas(N * sizeof(A) < 16 ? N * sizeof(A) : 16) haste__cu_several { A v[N]; };

/* Puts the rows of one array of group g into their new order; rows that moved become 0. from [F]: of each row, where its
   numbers were (narrow: in the first strips, else its row), or -1. `copy` holds the group as it was. */
template <typename A>
static __device__ __forceinline__ void haste__cu_rewire_rows(const haste__cu_pass &p, A *group, const int32_t *from,
                                                             const A *copy)
{
    const int F = p.F, S = p.S, threads = (int)blockDim.x;
    if (p.path == HASTE_CUDA_NARROW) {   /* four numbers: labels 2 apart of inputs f and f + F/2 */
        const int strips = F / 8;
        for (int i = (int)threadIdx.x; i < F * S / 4; i += threads) {
            const int strip = i >> 5, row = i >> 2 & 7, run = strip >= strips, f = (i & 3) * strips + strip - run * strips;
            const int one = from[f], two = from[f + F / 2];
            const A *at = copy + run * strips * 128 + row * 16;
            haste__cu_several<A, 4> four;
            four.v[0] = one < 0 ? (A)0 : at[one];
            four.v[1] = two < 0 ? (A)0 : at[two];
            four.v[2] = one < 0 ? (A)0 : at[one + 2];
            four.v[3] = two < 0 ? (A)0 : at[two + 2];
            ((haste__cu_several<A, 4> *)group)[i] = four;
        }
    } else {
        for (int i = (int)threadIdx.x; i < F * S / 8; i += threads) {
            const int f = i / (S / 8), s = (i - f * (S / 8)) * 8, row = from[f];
            haste__cu_several<A, 8> eight = {};
            if (row >= 0) eight = *(const haste__cu_several<A, 8> *)(copy + haste__cu_place(p.path, S, F, row, s));
            *(haste__cu_several<A, 8> *)(group + haste__cu_place(p.path, S, F, f, s)) = eight;
        }
    }
}

/* A group's array, n numbers (a multiple of 8), to the copy: begun here, there after haste__cu_copy_wait and a barrier. */
template <typename A>
static __device__ __forceinline__ void haste__cu_rewire_copy(A *copy, const A *group, int n, int shared)
{
    const int each = 16 / (int)sizeof(A);
    for (int i = (int)threadIdx.x * each; i < n; i += (int)blockDim.x * each) {
        if (shared) haste__cu_copy16(copy + i, group + i);
        else *(uint4 *)(copy + i) = *(const uint4 *)(group + i);
    }
}

/* What a block of the rewire kernel keeps in shared memory: [F] inputs (to 4), [F] rows before, the copy. Too much: 0. */
static __host__ __device__ __forceinline__ int haste__cu_rewire_shared(int64_t F, int64_t S, int width)
{
    const int64_t bytes = (F + 3) / 4 * 32 + F * S * width;
    return bytes <= HASTE__CU_REWIRE_MOST ? (int)bytes : 0;
}

/* The layer changes. Block: one group after the other. */
template <typename T> static __global__ void haste__cu_rewire_kernel(const haste__cu_pass p, const haste__cu_rewire r,
                                                                     uint16_t *all_index)
{
    HASTE__CU_SHARED(memory, 128);
    const int F = p.F, S = p.S, threads = (int)blockDim.x, padded = (F + 3) / 4 * 4, shared = r.rows == NULL;
    uint32_t *input = shared ? (uint32_t *)memory : r.order + (size_t)blockIdx.x * 2 * (size_t)padded;
    int32_t *from = (int32_t *)input + padded;
    char *copy = shared ? (char *)(from + padded) : (char *)r.rows + (size_t)blockIdx.x * (size_t)F * (size_t)S * 4;
    if (p.flag[HASTE__CU_FLAG_STOP]) return;
    for (int64_t g = blockIdx.x; g < p.groups; g += gridDim.x) {
        const size_t first = (size_t)g * (size_t)F * (size_t)S;
        const uint32_t *place = r.place + g * F;
        uint16_t *index = all_index + g * F;
        int moves = 0;
        haste__cu_rewire_copy((T *)copy, (const T *)p.weight + first, F * S, shared);
        for (int f = (int)threadIdx.x; f < padded; f += threads) {
            const uint32_t to = f < F ? place[f] : HASTE__CU_KEEP;
            moves |= to != HASTE__CU_KEEP;
            input[f] = f >= F ? HASTE__CU_KEEP : to == HASTE__CU_KEEP ? index[f] : to;
        }
        moves = __syncthreads_or(moves);
        if (!moves) { haste__cu_copy_wait(); continue; }
        for (int f = (int)threadIdx.x; f < F; f += threads) {
            const uint32_t own = input[f];
            int rank = 0;
            #pragma unroll 4
            for (int i = 0; i < padded; i += 4) {
                const uint4 four = *(const uint4 *)(input + i);
                rank += (four.x < own) + (four.y < own) + (four.z < own) + (four.w < own);
            }
            index[rank] = (uint16_t)own;
            from[rank] = place[f] != HASTE__CU_KEEP ? -1
                       : p.path == HASTE_CUDA_NARROW ? (int32_t)haste__narrow_place(S, F, f, 0) : f;
        }
        haste__cu_copy_wait();
        __syncthreads();
        haste__cu_rewire_rows(p, (T *)p.weight + first, from, (const T *)copy);
        for (int k = 0; k < 2; k++) {
            if (!p.state[k]) continue;
            __syncthreads();   /* the copy may be written again */
            if (p.state_f32) haste__cu_rewire_copy((float *)copy, (const float *)p.state[k] + first, F * S, shared);
            else haste__cu_rewire_copy((uint16_t *)copy, (const uint16_t *)p.state[k] + first, F * S, shared);
            haste__cu_copy_wait();
            __syncthreads();
            if (p.state_f32) haste__cu_rewire_rows(p, (float *)p.state[k] + first, from, (const float *)copy);
            else haste__cu_rewire_rows(p, (uint16_t *)p.state[k] + first, from, (const uint16_t *)copy);
        }
        __syncthreads();   /* and so may the rest, where this loop goes on, and weights below */
        if (r.uniform) {
            const int labels = haste__cu_group_labels(p, g);
            for (int i = (int)threadIdx.x; i < F * S; i += threads) {
                const int f = i / S, s = i - f * S;
                if (from[f] >= 0 || s >= labels) continue;
                haste__cu_put((T *)p.weight + first + haste__cu_place(p.path, S, F, f, s),
                              haste__cu_draw_weight(r.key_weight, p.round_slot + g * S + s, f, r.root));
            }
            __syncthreads();
        }
    }
}

/* ---- >>wide -------------------------------------------------------------------------------------------------- */

/* The train step for bf16 weights, S = 32, 64, 128 and F a multiple of 16 (dense blocks too), on compute capability 9.0.

   A worker is a warpgroup (128 threads) that takes whole groups, one after the other. A CTA is 2 to 5 workers that share
   nothing but the resident part of the input gradient; there is one CTA on each multiprocessor. For a group and a tile of
   64 samples:

       z  [64, S]  = X^T W        X [F, 64] gathered rows of x, W [F, S]          wgmma, M = samples
       dz [64, S]  = loss'(z)     in registers; rounded to bf16, into shared memory
       dX [F, 64]  = W dz^T       added to grad_x                                 wgmma, M = inputs
       dW [F, S]  += X dz         in registers over all tiles; then W is updated  wgmma, M = inputs

   Samples are M of the first product, so that any S is only its N. All operands are read from shared memory as they lie
   there, plain or transposed by the descriptor; nothing is ever copied into another order. W and dz have rows of S
   numbers, X of 64, in the swizzle that wgmma wants for the length of the row; weights lie in global memory in exactly
   this image (haste__wide_place), so a group's W comes and goes by one bulk copy. The next tile of x and the indices
   after it are fetched by cp.async one job (two groups) ahead, the next W, and the optimizer's states, by a bulk copy half a
   group ahead.

   What binds it, on an H200: about half the instructions (sigmoid, update, addresses: 12 to 20 warps hide little, so a
   shorter path is a faster one), half the additions to grad_x, 4*F*B bytes a group, which the L2 takes at 3 TB/s at most,
   while it also serves the gathers. Hence:
   - Workers are many and independent; no barrier is wider than a warpgroup.
   - Additions are red.v4, of four samples that one thread has (see haste__cu_prepare_x_kernel), to one of several replicas
     of grad_x: additions to one address wait for each other.
   - Shared memory that the workers leave over holds the first rows of grad_x ("resident", as many as fit): their sums
     reach the L2 once, at the end. Indices ascend, so these are the first rows of a group. Two workers may want the same
     row: one lock for each tile of samples (dense blocks: and each chunk of inputs). Worth 15% at D 384, 3% at D 768.
   F above 128 (S = 128: 64), and dense blocks: F is cut into chunks of 64. All chunks once for z, with dz of all tiles
   kept in shared memory, then all chunks again for dX and dW; the second read of W hits the L2. Workers begin at different
   chunks, so that they do not add to the same rows at the same time. Where there is no room for velocities in bfloat16,
   they come into the buffer of the next W, and that after the update. A large batch goes by parts, so that dz takes the place
   of no worker: a part leaves its gradients of a range of groups in the workspace, the next adds its own, and the last
   updates.

   Milliseconds, with clearing and summing 8 replicas (in brackets without dX's additions): S 32, F 64, D 768, L 670,208,
   B 128: .283 (.179); S 64, F 128, D 768, L 2,756,025: 1.32 (.85); S 32, F 64, D 384, L 8,192,000: 2.77 (1.90); dense S 64,
   56,256 x 768: .255 (.180); dense 67,024 x 384: .157, B 64: .097.
   Tried, and not better: one W buffer, and so more resident rows (-2% to +4%); fewer workers and more resident rows; 16
   replicas; 6 workers of 80 registers (wgmma is serialised). Without the proxy fence after cp.async: 2% faster, not kept.

   Sums over groups are in no fixed order: the last bits of grad_x vary from run to run. W, bias and state do not. */

#define HASTE__WIDE_REPLICAS 8    /* of grad_x, recommended */
#define HASTE__WIDE_LOCKS    64   /* most tiles with resident rows: one lock each; 256 bytes, so that rows are aligned */
#if !defined(HASTE__WIDE_RESIDENT)
    #define HASTE__WIDE_RESIDENT 65536   /* most rows resident; 0 for racecheck, which takes what locks protect for a race */
#endif

/* How a pass is cut up; made by haste__wide_plan_make. */
typedef struct haste__wide_plan {
    int32_t  ok, workers, chunk, chunks;   /* workers of a CTA; rows of a chunk of F; how many chunks */
    int32_t  multi, ragged;                /* which kernel */
    int32_t  tiles, parts;                 /* of samples, in a launch; how many launches a batch takes (multi) */
    int32_t  kept;                         /* tiles of dz kept: 1, or all of a launch (multi) */
    int32_t  slab, resident;               /* bytes of shared memory of a worker; rows of grad_x resident, from `begin` on */
    int32_t  lock_chunks;                  /* dense: a lock for each chunk of each tile, and how many; 0: for each tile */
    int32_t  state_bytes;                  /* of a chunk of one state in shared memory; 0: states are read where they are */
    int32_t  borrow;                       /* 1: velocities take the place of the next W, which then comes later */
    int32_t  shared, grid;
    int32_t  at_a_time, begin, end;        /* groups of a range, at most; those of this launch */
    int32_t  first_tile;                   /* its first tile of samples */
    int32_t  take, leave, more;            /* gradients: adds those left in `sums`; leaves them there; loss_sum += */
    float   *sums;                         /* [at_a_time][haste__wide_group_floats] */
} haste__wide_plan;

/* Gradients of a group that a part of a batch leaves: of whole chunks of 64 inputs, and of the biases. */
static __host__ __device__ __forceinline__ int64_t haste__wide_group_floats(int32_t S, int32_t chunks)
{
    return (int64_t)(chunks * 64 + 1) * S;
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* A 32-bit mixer: each output bit depends on all input bits. */
static __host__ __device__ __forceinline__ uint32_t haste__wide_mix32(uint32_t x)
{
    x ^= x >> 16; x *= 0x7feb352du;
    x ^= x >> 15; x *= 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- pieces of the step ---- */

/* Scaled slopes that are negligible become 0. */
template <int N> static __device__ __forceinline__ void haste__wide_drop(const haste__cu_pass &p, float scale, float *z)
{
    const float least = p.negligible * fabsf(scale);
    if (least > 0) {
        #pragma unroll
        for (int i = 0; i < N; i++) if (fabsf(z[i]) < least) z[i] = 0;
    }
}

/* Logits of a thread (accumulators of wgmma: value i = 4j + 2h + e is column 16*warp + lane/4 + 8h of x, label
   8j + 2*(lane%4) + e) become scaled gradients. Bit i of `positive`: is a positive. Its logit gets its sign turned, which
   makes its loss that of a negative, and its gradient gets the sign back at the end; softmax has none of this. shift and
   factor: of the two samples. Returns the loss, not divided. */
template <int N>
static __device__ __forceinline__ float haste__wide_loss(const haste__cu_pass &p, float scale, float *z,
                                                         const uint32_t *positive, bool any, const float *shift,
                                                         const float *factor)
{
    float loss = 0;
    if (p.loss == HASTE_SOFTMAX) {
        #pragma unroll
        for (int i = 0; i < N; i++) {
            const int h = i >> 1 & 1;
            const float v = z[i];
            z[i] = (factor[h] > 0 ? haste__cu_exp2((v - shift[h]) * 1.4426950408889634f) : 0) * scale;
            if (any && (positive[i >> 5] >> (i & 31) & 1)) {
                loss += factor[h] * (shift[h] - v);
                z[i] -= factor[h] * scale;
            }
        }
        haste__wide_drop<N>(p, scale, z);
        return loss;
    }
    if (any) {
        #pragma unroll
        for (int i = 0; i < N; i++) if (positive[i >> 5] >> (i & 31) & 1) z[i] = -z[i];
    }
    if (p.loss == HASTE_BCE) {
        /* A loss is log(1 + exp(z)) = -log(1 - q), q = 1 / (1 + exp(-z)); one logarithm does for eight. d = 1 - product of
           (1 - q) is kept as such: with a million labels it is small, and then a series is faster and nearer. */
        #pragma unroll
        for (int i = 0; i < N; i += 8) {
            if (p.loss_sum) {
                float q[8], d = 0;
                #pragma unroll
                for (int k = 0; k < 8; k++) {
                    q[k] = haste__cu_inverse(1 + haste__cu_exp2(z[i + k] * -1.4426950408889634f));
                    d = k ? fmaf(-d, q[k], d + q[k]) : q[0];
                }
                if (d < .015625f) loss += d * fmaf(d, fmaf(d, .33333333f, .5f), 1);
                else if (d < .9999f) loss -= .6931471805599453f * haste__cu_log2(1 - d);
                else {   /* rare: one by one */
                    #pragma unroll
                    for (int k = 0; k < 8; k++)
                        loss += fmaxf(z[i + k], 0) + .6931471805599453f *
                                haste__cu_log2(1 + haste__cu_exp2(fabsf(z[i + k]) * -1.4426950408889634f));
                }
                #pragma unroll
                for (int k = 0; k < 8; k++) z[i + k] = q[k] * scale;
            } else {
                const float divisor = scale != 0 ? haste__cu_inverse(scale) : FLT_MAX;   /* 0: not infinity times 0 */
                #pragma unroll
                for (int k = 0; k < 8; k++)
                    z[i + k] = haste__cu_inverse(fmaf(haste__cu_exp2(z[i + k] * -1.4426950408889634f), divisor, divisor));
            }
        }
    } else {
        #pragma unroll
        for (int i = 0; i < N; i++) {
            const float m = fmaxf(1 + z[i], 0);
            loss += m * m;
            z[i] = 2 * m * scale;
        }
    }
    if (any) {
        #pragma unroll
        for (int i = 0; i < N; i++) if (positive[i >> 5] >> (i & 31) & 1) z[i] = -z[i];
    }
    haste__wide_drop<N>(p, scale, z);
    return loss;
}

/* Sums over the warp's 8 rows of lanes what a lane holds for its N labels. Halves it with each exchange instead of adding
   everything three times: a lane ends up with N/8 labels. Returns the number of the first of them. */
template <int N> static __device__ __forceinline__ int haste__wide_column_sums(float *v, int lane)
{
    int first = 0, n = N;
    #pragma unroll
    for (int step = 16; step >= 4; step >>= 1) {
        if (n > 1) {
            const bool upper = lane & step;
            n >>= 1;
            #pragma unroll
            for (int i = 0; i < N / 2; i++) if (i < n) {
                const float give = upper ? v[i] : v[i + n], keep = upper ? v[i + n] : v[i];
                v[i] = keep + __shfl_xor_sync(~0u, give, step);
            }
            first += upper ? n : 0;
        } else v[0] += __shfl_xor_sync(~0u, v[0], step);
    }
    return first;
}

template <int N> struct haste__wide_constant { enum { value = N }; };

/* One weight (or bias) by the rule of its optimizer, AdamW or SGD with momentum; m and v are its state. */
template <bool ADAM> static __device__ __forceinline__ float haste__wide_rule(const haste__cu_pass &p,
                                                                              const haste__cu_moment &moment, float w, float g,
                                                                              float decay, float *m, float *v)
{
    if (ADAM) {
        *m = p.beta1 * *m + (1 - p.beta1) * g;
        *v = p.beta2 * *v + (1 - p.beta2) * (g * g);
        return w - moment.lr * decay * w
               - moment.lr * (*m * moment.correction1) / (sqrtf(*v * moment.correction2) + p.eps);
    }
    *m = p.momentum * *m + (g + decay * w);
    return w - moment.lr * *m;
}

/* Two neighbours of a state, read and written. */
template <bool F32> static __device__ __forceinline__ void haste__wide_state_get(const char *at, float *v)
{
    if (F32) { const float2 two = *(const float2 *)(const void *)at; v[0] = two.x; v[1] = two.y; return; }
    const uint32_t two = *(const uint32_t *)(const void *)at;
    v[0] = __uint_as_float(two << 16);
    v[1] = __uint_as_float(two & 0xffff0000u);
}
template <bool F32> static __device__ __forceinline__ void haste__wide_state_put(char *at, const float *v, uint32_t noise)
{
    if (F32) *(float2 *)(void *)at = make_float2(v[0], v[1]);
    else *(uint32_t *)(void *)at = haste__cu_round2(v[0], v[1], noise);
}

/* ---- the kernel ---- */

/* What a worker does between two fetches: a tile of samples of a chunk of a group. */
typedef struct haste__wide_job { int32_t g, chunk, tile, phase, odd; } haste__wide_job;

/* One chunk: tile after tile. Several: phase 0 walks the chunks of each tile, phase 1 the tiles of each chunk. */
template <bool MULTI>
static __device__ __forceinline__ void haste__wide_next(haste__wide_job *j, int tiles, int chunks, int stride)
{
    if (!MULTI) {
        if (++j->tile == tiles) { j->tile = 0; j->g += stride; j->odd ^= 1; }
    } else if (!j->phase) {
        if (++j->chunk == chunks) {
            j->chunk = 0;
            if (++j->tile == tiles) { j->tile = 0; j->phase = 1; }
        }
    } else if (++j->tile == tiles) {
        j->tile = 0;
        if (++j->chunk == chunks) { j->chunk = 0; j->phase = 0; j->g += stride; j->odd ^= 1; }
    }
}
#endif

/* CTA: WORKERS workers at most. Worker: 4 warps, a group at a time. S labels a group, CHUNK inputs of it at a time. MULTI:
   several chunks, or no index; RAGGED: and the last of them is short. PLAIN: SGD, no state.
   grad_x: +=. loss_sum [gridDim.x]: =. Weights, bias and state are updated in place. A group with a logit that is not
   finite, or a gradient of 1e18 and more, is left alone and the flag set (MULTI: from the chunk on where that shows). */
template <int S, int CHUNK, bool MULTI, bool RAGGED, int WORKERS, bool PLAIN>
static __global__ void __launch_bounds__(128 * WORKERS, 1) haste__wide_kernel(const __grid_constant__ haste__cu_pass p,
                                                                              const __grid_constant__ haste__wide_plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int EIGHT = 16 * S, MODE = S == 32 ? 2 : 1, XB = CHUNK * 128, WB = CHUNK * S * 2, ZB = 128 * S;
    constexpr int N = S / 2, WORDS = (N + 31) / 32, HALVES = CHUNK / 64;   /* logits of a thread; blocks of 64 inputs */
    HASTE__CU_SHARED(haste__wide_shared, 1024);
    const int worker = __shfl_sync(~0u, (int)threadIdx.x >> 7, 0), tid = threadIdx.x & 127, lane = tid & 31;
    const int warp = __shfl_sync(~0u, tid >> 5, 0), row = lane >> 2, quad = lane & 3;
    /* in this order a last, short round is spread over all multiprocessors */
    const int mine = plan.begin + worker * gridDim.x + blockIdx.x;
    const int bar = 1 + worker;
    const int rotate = MULTI ? (blockIdx.x + worker * max(1, plan.chunks / (int)(blockDim.x >> 7))) % plan.chunks : 0;
    char *slab = (char *)haste__wide_shared + worker * plan.slab;
    const uint32_t xs = haste__cu_address(slab), ws = xs + 2 * XB, zs = ws + 2 * WB, states = zs + plan.kept * ZB;
    const int state_arrays = PLAIN || !plan.state_bytes ? 0 : p.state[1] ? 2 : 1;
    const uint32_t small = states + (MULTI && plan.borrow ? 0 : state_arrays * plan.state_bytes);
    char *small_at = slab + (small - xs);
    const uint32_t index = small, full = small + 6 * CHUNK;   /* 3 sets of indices; 3 barriers: W is there, states are */
    float *bias = (float *)(small_at + 6 * CHUNK + 32), *sums = bias + 2 * S;   /* 2 sets of bias; each warp's gradient */
    /* bad[0]: a logit of the group is not finite; bad[1]: a gradient. Two words, because one warp may set bad[1] while
       another still reads bad[0] to decide about grad_x. */
    volatile uint32_t *bad = (volatile uint32_t *)(sums + 4 * S);
    char *shared_at = (char *)haste__wide_shared + (blockDim.x >> 7) * plan.slab;   /* locks, resident part of grad_x */
    uint32_t *lock = (uint32_t *)shared_at;
    const uint32_t resident = haste__cu_address(shared_at) + 4 * HASTE__WIDE_LOCKS;
    const int G = plan.end, tiles = plan.tiles, F = p.F, stride = gridDim.x * (blockDim.x >> 7);
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)p.x + (int64_t)p.begin * 64;
    float *grad_x = p.grad_x ? p.grad_x + ((int64_t)(blockIdx.x % (uint32_t)p.replicas) * p.tiles * p.D + p.begin) * 64 : NULL;
    haste__wide_job now = { mine, 0, 0, 0, 0 };
    int32_t head = -1, head_next = -1;
    int loads = -1, slot = 0, buffer = 0;   /* number of the W in use; set of indices and tile of x in use */
    uint32_t state_parity = 0;
    const bool indexed = !MULTI || p.index;
    uint32_t xa = 0, wa = 0, za = 0;        /* x, W and dz of this job */
    double loss = 0;

    if (tid == 0) {
        for (int i = 0; i < 3; i++) haste__cu_barrier_init(full + 8 * i, 1);
        haste__cu_barrier_init_fence();
    }
    if (threadIdx.x < HASTE__WIDE_LOCKS) lock[threadIdx.x] = 0;
    for (int i = threadIdx.x; i < plan.resident * tiles * 64; i += blockDim.x) ((float *)(lock + HASTE__WIDE_LOCKS))[i] = 0;
    if (!MULTI) {   /* rows past F are zeros for ever, so that z can be summed over whole chunks */
        for (int i = tid; i < (2 * XB + 2 * WB) / 16; i += 128) haste__cu_sts128(xs + i * 16, 0, 0, 0, 0);
        haste__wide_fence_async();
    }
    haste__cu_allow_next();
    haste__cu_wait_before();   /* up to here only shared memory was touched */
    const haste__cu_moment moment = haste__cu_moment_at(p.now);
    if (moment.skip) return;
    __syncthreads();

    auto chunk_of = [&](const haste__wide_job &j) {
        if (!MULTI) return 0;
        const int c = j.chunk + rotate;
        return c < plan.chunks ? c : c - plan.chunks;
    };
    auto rows_of = [&](int c) { return MULTI ? min(CHUNK, F - c * CHUNK) : F; };
    auto first_byte = [&](int g, int c) { return ((int64_t)g * F + c * CHUNK) * S * 2; };
    auto fetch_index = [&](int g, int c, int to) {
        if (indexed && g < G && tid * 8 < rows_of(c))
            haste__cu_copy16(index + to * 2 * CHUNK + tid * 16, p.index + (int64_t)g * F + c * CHUNK + tid * 8);
    };
    auto fetch_x = [&](const haste__wide_job &j, int to, int from) {   /* 8 threads a row, ROWS rows a thread */
        constexpr int ROWS = CHUNK / 16;
        const int c = chunk_of(j), r0 = (tid >> 3) * ROWS, piece = tid & 7;
        if (r0 < rows_of(c)) {
            const char *tile = (const char *)(x + (int64_t)j.tile * p.D * 64) + piece * 16;
            const uint32_t at = xs + to * XB + r0 * 128 + ((piece ^ (r0 & 7)) << 4);
            uint32_t two[ROWS / 2];
            if (indexed) {
                #pragma unroll
                for (int i = 0; i < ROWS / 2; i += 2)
                    haste__cu_lds64(two + i, index + from * 2 * CHUNK + r0 * 2 + i * 4);
            } else {
                #pragma unroll
                for (int i = 0; i < ROWS / 2; i++) two[i] = (uint32_t)(c * CHUNK + r0 + 2 * i) * 0x10001u + 0x10000u;
            }
            #pragma unroll
            for (int i = 0; i < ROWS; i++)
                haste__cu_copy16((at ^ (i << 4)) + i * 128, tile + (i & 1 ? two[i / 2] >> 16 : two[i / 2] & 0xffff) * 128u);
        }
        if (j.tile == 0 && j.chunk == 0 && j.phase == 0 && tid < S / 4)
            haste__cu_copy16(haste__cu_address(bias) + j.odd * S * 4 + tid * 16, p.bias + (int64_t)j.g * S + tid * 4);
    };
    auto fetch_w = [&](int g, int c, int number) {   /* one thread; the copy back from this buffer has been issued by it */
        const uint32_t bytes = rows_of(c) * S * 2, b = full + (number & 1) * 8;
        const char *from = (const char *)p.weight + first_byte(g, c);
        haste__wide_bulk_read();
        haste__cu_barrier_expect(b, bytes);
        haste__wide_bulk_in(ws + (number & 1) * WB, from, bytes, b);
    };
    auto states_at = [&]() { return MULTI && plan.borrow ? ws + (~loads & 1) * WB : states; };
    auto fetch_states = [&](int g, int c) {   /* one thread; likewise */
        const uint32_t bytes = rows_of(c) * S * (p.state_f32 ? 4 : 2);
        if (!state_arrays || (MULTI && plan.leave)) return;
        haste__wide_bulk_read();
        haste__cu_barrier_expect(full + 16, bytes * state_arrays);
        for (int i = 0; i < state_arrays; i++)
            haste__wide_bulk_in(states_at() + i * plan.state_bytes,
                           (const char *)p.state[i] + first_byte(g, c) / 2 * (p.state_f32 ? 4 : 2), bytes, full + 16);
    };
    auto loads_w = [&](const haste__wide_job &j) { return MULTI && j.phase == 0 ? true : j.tile == 0; };
    auto third = [&](int i) { return i == 2 ? 0 : i + 1; };

    /* Waits until everything of this job has come and everybody is done with the last one; then fetches the next one's x.
       Indices come two groups ahead (MULTI: two jobs). */
    auto open_job = [&]() {
        haste__wide_job next = now;
        haste__wide_next<MULTI>(&next, tiles, plan.chunks, stride);
        haste__cu_copy_wait_but<0>();
        haste__wide_fence_async();
        if (loads_w(now)) {
            loads++;
            haste__cu_barrier_wait(full + (loads & 1) * 8, (loads >> 1) & 1);
        }
        haste__wide_bar(bar);
        if (next.g < G) fetch_x(next, buffer ^ 1, MULTI || next.tile == 0 ? third(slot) : slot);
        if (MULTI) {
            haste__wide_job after = next;
            haste__wide_next<MULTI>(&after, tiles, plan.chunks, stride);
            fetch_index(after.g, chunk_of(after), third(third(slot)));
        } else if (now.tile == 0) fetch_index(now.g + 2 * stride, 0, third(third(slot)));
        haste__cu_copy_batch();
        xa = xs + buffer * XB;
        wa = ws + (loads & 1) * WB;
        za = zs + (MULTI ? now.tile * ZB : 0);
    };
    auto close_job = [&]() {
        haste__wide_next<MULTI>(&now, tiles, plan.chunks, stride);
        if (MULTI || now.tile == 0) slot = third(slot);
        buffer ^= 1;
    };
    auto open_group = [&]() {
        head = head_next;
        if (now.g + stride < G) head_next = p.head[p.first_group + now.g + stride];
        if (tid == 0) bad[0] = bad[1] = 0;
    };
    /* Which of this thread's logits of a tile are positives. The first nodes are on their way while the job opens; then each
       thread passes its own on to the thread whose logit it is about, through the place of dz, which is free. */
    auto first_nodes = [&](haste__cu_node *own) {
        own->count = 0;
        if (head < 0) return 0;
        *own = p.node[head + tid];   /* perhaps past the last */
        return p.node[head].count;
    };
    auto find_positives = [&](haste__cu_node own, int count, uint32_t *positive) {
        uint32_t *words = (uint32_t *)(void *)(slab + (za - xs));
        const int tile = now.tile + (MULTI ? plan.first_tile : 0);
        #pragma unroll
        for (int i = 0; i < WORDS; i++) positive[i] = 0;
        if (head < 0) return;
        #pragma unroll
        for (int i = 0; i < WORDS; i++) words[i * 128 + tid] = 0;
        haste__wide_bar(bar);
        for (int n = tid; n < count; n += 128) {
            if (n > tid) own = p.node[head + n];
            const int b = own.b, s = own.s;
            if (b >> 6 != tile || s >= S) continue;   /* s: of a place that was left out, see haste__cu_place_row */
            const int i = (s >> 3) * 4 + (b & 2) + (s & 1);
            atomicOr(&words[(i >> 5) * 128 + (b >> 4 & 3) * 32 + ((b >> 1 & 6) | (b & 1)) * 4 + (s >> 1 & 3)], 1u << (i & 31));
        }
        haste__wide_bar(bar);
        #pragma unroll
        for (int i = 0; i < WORDS; i++) positive[i] = words[i * 128 + tid];
        haste__wide_bar(bar);   /* all have read them */
    };
    auto forward = [&](float *z, bool first) {   /* z (+)= X^T W of this job's chunk */
        const int steps = rows_of(chunk_of(now)) / 16;
        const uint64_t a = haste__wide_matrix<1024, 1>(xa), b = haste__wide_matrix<EIGHT, MODE>(wa);
        if (RAGGED) {
            #pragma unroll 1
            for (int k = 0; k < steps; k++) {
                haste__wide_wgmma_fence();
                haste__wide_wgmma<S, 1, 1>(z, a + k * 128, b + k * (EIGHT / 8), !first || k > 0);
            }
        } else {
            haste__wide_wgmma_fence();
            #pragma unroll
            for (int k = 0; k < CHUNK / 16; k++)
                haste__wide_wgmma<S, 1, 1>(z, a + k * 128, b + k * (EIGHT / 8), !first || k > 0);
        }
        haste__wide_wgmma_commit();
        haste__wide_wgmma_wait<0>();
    };
    /* From products to dz, in shared memory. column: this thread's part of the bias gradient, over all tiles so far
       (MULTI: of this one). */
    auto gradient = [&](float *z, const uint32_t *positive, float *column) {
        const int labels = min(S, (int)(p.labels - (int64_t)now.g * S));
        const int b0 = now.tile * 64 + warp * 16 + (row >> 1) * 4 + (row & 1);   /* this thread's samples: b0 and b0 + 2 */
        float shift[2] = { 0, 0 }, factor[2] = { 0, 0 }, all = 0;
        bool any = false;
        #pragma unroll
        for (int j = 0; j < S / 8; j++) {
            const float2 two = *(const float2 *)(bias + now.odd * S + 8 * j + 2 * quad);
            z[4 * j] += two.x;
            z[4 * j + 1] += two.y;
            z[4 * j + 2] += two.x;
            z[4 * j + 3] += two.y;
        }
        #pragma unroll
        for (int i = 0; i < N; i++) all += z[i];
        if (!(fabsf(all) < 1e37f)) bad[0] = 1;   /* infinity and NaN stay in a sum */
        if (labels < S || (now.tile + 1) * 64 > p.B) {   /* no logit: a value whose loss and gradient are 0 */
            #pragma unroll
            for (int i = 0; i < N; i++)
                if (b0 + (i & 2) >= p.B || (i >> 2) * 8 + 2 * quad + (i & 1) >= labels) z[i] = -1e30f;
        }
        #pragma unroll
        for (int i = 0; i < WORDS; i++) any |= positive[i] != 0;
        if (p.loss == HASTE_SOFTMAX) {
            #pragma unroll
            for (int h = 0; h < 2; h++)
                if (b0 + 2 * h < p.B) { shift[h] = p.shift[b0 + 2 * h]; factor[h] = p.factor[b0 + 2 * h]; }
        }
        const float part = haste__wide_loss<N>(p, moment.scale, z, positive, any, shift, factor);
        if (p.loss_sum) loss += part;
        #pragma unroll
        for (int j = 0; j < S / 8; j += 2) {
            const uint32_t at = za + haste__wide_offset<S>(warp * 16 + (lane & 15), 8 * j + 8 * (lane >> 4));
            const float *v = z + 4 * j;
            haste__wide_stmatrix(at, haste__cu_pack_fast(v[0], v[1]), haste__cu_pack_fast(v[2], v[3]),
                                 haste__cu_pack_fast(v[4], v[5]), haste__cu_pack_fast(v[6], v[7]));
        }
        #pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float two = z[(i >> 1) * 4 + (i & 1)] + z[(i >> 1) * 4 + 2 + (i & 1)];
            column[i] = !MULTI && now.tile ? column[i] + two : two;
        }
    };
    auto sum_columns = [&](float *column, bool first_tile) {
        const int first = haste__wide_column_sums<N / 2>(column, lane);
        #pragma unroll
        for (int i = 0; i < N / 16; i++) {
            float *to = sums + warp * S + ((first + i) >> 1) * 8 + 2 * quad + ((first + i) & 1);
            const float sum = first_tile ? column[i] : *to + column[i];
            if (!(fabsf(sum) < 1e17f)) bad[1] = 1;
            *to = sum;
        }
    };
    /* Adds 64 rows of dX. A thread has two rows, and of each four times four neighbours. */
    auto add_x = [&](const float *dx, int half, bool skip) {
        const int c = chunk_of(now), rows = rows_of(c), r0 = half * 64 + warp * 16 + row;
        int d[2];
        if (skip || half * 64 >= rows) return;
        #pragma unroll
        for (int h = 0; h < 2; h++)
            d[h] = half * 64 + warp * 16 >= rows ? -1
                   : indexed ? (int)haste__cu_lds16(index + slot * 2 * CHUNK + (r0 + 8 * h) * 2) : c * CHUNK + r0 + 8 * h;
        if (plan.resident) {
            const int lowest = indexed ? (int)haste__cu_lds16(index + slot * 2 * CHUNK + half * 128)
                                       : c * CHUNK + half * 64;
            if (lowest < plan.resident) {   /* the same for all threads of the worker */
                uint32_t *own_lock = lock + (plan.lock_chunks ? now.tile * plan.lock_chunks + c : now.tile);
                if (tid == 0) {
                    while (atomicCAS(own_lock, 0u, 1u)) { }
                    __threadfence_block();
                }
                haste__wide_bar(bar);
                #pragma unroll
                for (int h = 0; h < 2; h++) if ((uint32_t)d[h] < (uint32_t)plan.resident) {
                    const uint32_t at = resident + (now.tile * plan.resident + d[h]) * 256 + ((d[h] & 3) << 6) + quad * 16;
                    #pragma unroll
                    for (int i = 0; i < 4; i += 2) {   /* two at once: registers are short */
                        const uint32_t a0 = at ^ (i << 6), a1 = at ^ (i << 6) ^ 64;
                        const float *d0 = dx + 8 * i + 2 * h, *d1 = d0 + 8;
                        float v0[4], v1[4];
                        haste__cu_lds128(v0, a0);
                        haste__cu_lds128(v1, a1);
                        haste__cu_sts128(a0, v0[0] + d0[0], v0[1] + d0[1], v0[2] + d0[4], v0[3] + d0[5]);
                        haste__cu_sts128(a1, v1[0] + d1[0], v1[1] + d1[1], v1[2] + d1[4], v1[3] + d1[5]);
                    }
                    d[h] = -1;
                }
                haste__wide_bar(bar);
                if (tid == 0) {
                    __threadfence_block();
                    atomicExch(own_lock, 0u);
                }
            }
        }
        float *tile = grad_x + (int64_t)now.tile * p.D * 64 + quad * 4;
        #pragma unroll
        for (int h = 0; h < 2; h++) if (d[h] >= 0) {
            float *to = tile + (uint32_t)d[h] * 64u;
            #pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *four = dx + 8 * i + 2 * h;
                haste__cu_add4(to + 16 * i, four[0], four[1], four[4], four[5]);
            }
        }
    };
    auto backward = [&](float (*dw)[N], bool first) {   /* dX of this job's rows; dw (+)= X dz */
        const bool skip = bad[0] || !grad_x;
        const uint64_t w = haste__wide_matrix<EIGHT, MODE>(wa), dz = haste__wide_matrix<EIGHT, MODE>(za);
        const uint64_t xx = haste__wide_matrix<1024, 1>(xa);
        float dx[32];
        #pragma unroll
        for (int half = 0; half < HALVES; half++) {
            haste__wide_wgmma_fence();
            #pragma unroll
            for (int k = 0; k < S / 16; k++) {
                const int at = (k >> 2) * 64 + (k & 3) * 2;
                haste__wide_wgmma<64, 0, 0>(dx, w + half * (EIGHT / 2) + at, dz + at, k > 0);
            }
            haste__wide_wgmma_commit();
            if (half == 0) {
                #pragma unroll
                for (int i = 0; i < HALVES; i++) {
                    #pragma unroll
                    for (int k = 0; k < 4; k++)
                        haste__wide_wgmma<S, 0, 1>(dw[i], xx + i * 512 + k * 2, dz + k * (EIGHT / 8), !first || k > 0);
                }
                haste__wide_wgmma_commit();
                haste__wide_wgmma_wait<1>();
            } else haste__wide_wgmma_wait<0>();
            add_x(dx, half, skip);
        }
        haste__wide_wgmma_wait<0>();
    };
    /* Gradients that parts of a batch hand on: of the chunk c, each thread's as it holds them, then of the biases. */
    auto sums_of = [&](int c) {
        return plan.sums + (int64_t)(now.g - plan.begin) * haste__wide_group_floats(S, plan.chunks) + c * CHUNK * S;
    };
    auto update = [&](float (*dw)[N], bool with_bias) {   /* this job's chunk of W, in shared memory, and back */
        const haste__cu_moment rates = haste__cu_moment_at(PLAIN ? p.now : haste__cu_again(p.now));   /* registers are short */
        const int c = chunk_of(now), rows = rows_of(c);
        uint32_t random[HALVES][2];
        bool fine = true;
        if (MULTI && plan.take) {
            const float4 *from = (const float4 *)(const void *)sums_of(c) + tid;
            #pragma unroll
            for (int i = 0; i < HALVES * N / 4; i++) {
                const float4 v = from[i * 128];
                float *to = &dw[i * 4 / N][i * 4 % N];
                to[0] += v.x; to[1] += v.y; to[2] += v.z; to[3] += v.w;
            }
            if (with_bias && tid < S) {
                const float taken = sums_of(plan.chunks)[tid];
                if (!(fabsf(taken) < 1e17f)) bad[1] = 1;
                sums[tid] += taken;
            }
        }
        #pragma unroll
        for (int half = 0; half < HALVES; half++) {
            #pragma unroll
            for (int h = 0; h < 2; h++) {
                float size = 0;
                #pragma unroll
                for (int j = 0; j < S / 8; j++) size += fabsf(dw[half][4 * j + 2 * h]) + fabsf(dw[half][4 * j + 2 * h + 1]);
                fine = fine && (size < 1e18f || half * 64 + warp * 16 >= rows);   /* rows past F hold anything */
            }
        }
        if (!fine) bad[1] = 1;
        if (MULTI && plan.leave) {   /* NaN: not to be used */
            const float add = bad[0] || bad[1] ? NAN : 0;
            float4 *to = (float4 *)(void *)sums_of(c) + tid;
            #pragma unroll
            for (int i = 0; i < HALVES * N / 4; i++) {
                const float *from = &dw[i * 4 / N][i * 4 % N];
                to[i * 128] = make_float4(from[0] + add, from[1] + add, from[2] + add, from[3] + add);
            }
            if (with_bias && tid < S)
                sums_of(plan.chunks)[tid] = sums[tid] + sums[S + tid] + (sums[2 * S + tid] + sums[3 * S + tid]) + add;
            return;
        }
        {   /* a random word for each row that this thread has: of seed, step, group, row and place in the row */
            const uint64_t group = (uint64_t)(p.round_slot + (int64_t)now.g * S);
            const uint32_t of_group =
                haste__wide_mix32((uint32_t)group ^ rates.key[0]) + (uint32_t)(group >> 32) + rates.key[1];
            #pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) {
                const uint32_t r = c * CHUNK + (i >> 1) * 64 + (i & 1) * 8 + warp * 16 + row;
                random[i >> 1][i & 1] = haste__wide_mix32(of_group + (r * 4 + quad) * 0x9e3779b9u);
            }
        }
        haste__wide_bar(bar);   /* nobody reads the old W any more */
        if (state_arrays) {
            haste__cu_barrier_wait(full + 16, state_parity);
            state_parity ^= 1;
        }
        const bool change = !bad[0] && !bad[1];
        if (!change) { if (tid == 0) p.flag[HASTE__CU_FLAG_NONFINITE] = 1; }
        else {
            if (with_bias && tid < S) {
                const int64_t at = (int64_t)now.g * S + tid;
                const float g = sums[tid] + sums[S + tid] + (sums[2 * S + tid] + sums[3 * S + tid]);
                float m = 0, v = 0;
                if (!PLAIN && p.bias_state[0]) m = p.bias_state[0][at];
                if (!PLAIN && p.bias_state[1]) v = p.bias_state[1][at];
                if (PLAIN) p.bias[at] = bias[now.odd * S + tid] - rates.lr * g;
                else if (p.optimizer == HASTE_ADAMW)
                    p.bias[at] = haste__wide_rule<true>(p, rates, bias[now.odd * S + tid], g, 0, &m, &v);
                else p.bias[at] = haste__wide_rule<false>(p, rates, bias[now.odd * S + tid], g, 0, &m, &v);
                if (!PLAIN && p.bias_state[0]) p.bias_state[0][at] = m;
                if (!PLAIN && p.bias_state[1]) p.bias_state[1][at] = v;
            }
            const float decay = -rates.lr * p.decay;
            /* Momentum and AdamW: `arrays`: the states, in shared memory or where they are, in the order of W. */
            auto change_weights = [&](auto adam, auto f32) {
                constexpr bool ADAM = decltype(adam)::value, F32 = decltype(f32)::value;
                char *arrays[2] = { NULL, NULL };
                #pragma unroll
                for (int i = 0; i < (PLAIN ? 0 : ADAM ? 2 : 1); i++)
                    arrays[i] = state_arrays ? slab + (states_at() - xs) + i * plan.state_bytes
                                             : (char *)p.state[i] + first_byte(now.g, c) * (F32 ? 2 : 1);
                #pragma unroll
                for (int j = 0; j < S / 8; j++) {
                    const uint32_t place = haste__wide_offset<S>(warp * 16 + row, 8 * j + 2 * quad), at = wa + place;
                    #pragma unroll
                    for (int i = 0; i < 2 * HALVES; i++) {
                        const int half = i >> 1, h = i & 1, on = (half * 8 + h) * EIGHT;
                        if (half * 64 + warp * 16 >= rows) continue;
                        const uint32_t two = haste__cu_lds32(at + on);
                        const float g0 = dw[half][4 * j + 2 * h], g1 = dw[half][4 * j + 2 * h + 1];
                        float a = __uint_as_float(two << 16), b = __uint_as_float(two & 0xffff0000u);
                        uint32_t noise = random[half][h] + j * 0x85ebca6bu;   /* mixed: a round keeps columns apart */
                        noise ^= noise >> 15;
                        noise *= 0x2c1b3c6du;
                        if (PLAIN) {
                            a = fmaf(-rates.lr, g0, fmaf(decay, a, a));
                            b = fmaf(-rates.lr, g1, fmaf(decay, b, b));
                        } else {
                            const uint32_t where = (place + on) * (F32 ? 2 : 1);
                            float m[2], v[2] = { 0, 0 };
                            haste__wide_state_get<F32>(arrays[0] + where, m);
                            if (ADAM) haste__wide_state_get<F32>(arrays[1] + where, v);
                            a = haste__wide_rule<ADAM>(p, rates, a, g0, p.decay, &m[0], &v[0]);
                            b = haste__wide_rule<ADAM>(p, rates, b, g1, p.decay, &m[1], &v[1]);
                            haste__wide_state_put<F32>(arrays[0] + where, m, noise * 0x9e3779b1u ^ noise >> 16);
                            if (ADAM) haste__wide_state_put<F32>(arrays[1] + where, v, noise * 0xc2b2ae3du ^ noise >> 16);
                        }
                        haste__wide_sts32(at + on, haste__cu_round2(a, b, noise));
                    }
                }
            };
            if (PLAIN) change_weights(haste__wide_constant<0>(), haste__wide_constant<0>());
            else if (p.optimizer == HASTE_ADAMW) {
                if (p.state_f32) change_weights(haste__wide_constant<1>(), haste__wide_constant<1>());
                else change_weights(haste__wide_constant<1>(), haste__wide_constant<0>());
            } else if (p.state_f32) change_weights(haste__wide_constant<0>(), haste__wide_constant<1>());
            else change_weights(haste__wide_constant<0>(), haste__wide_constant<0>());
        }
        haste__wide_fence_async();
        haste__wide_bar(bar);
        if (tid == 0 && change) {
            char *to = (char *)p.weight + first_byte(now.g, c);
            haste__wide_bulk_out(to, wa, rows * S * 2);
            for (int i = 0; i < state_arrays; i++)
                haste__wide_bulk_out((char *)p.state[i] + first_byte(now.g, c) / 2 * (p.state_f32 ? 4 : 2),
                                states_at() + i * plan.state_bytes, rows * S * (p.state_f32 ? 4 : 2));
            haste__wide_bulk_batch();
        }
    };

    if (now.g < G) {   /* the first job's indices, then its x, as every job does for the next */
        haste__wide_job next = now;
        haste__wide_next<MULTI>(&next, tiles, plan.chunks, stride);
        if (tid == 0) fetch_w(now.g, chunk_of(now), 0);
        fetch_index(now.g, chunk_of(now), 0);
        if (MULTI) fetch_index(next.g, chunk_of(next), 1);
        else fetch_index(now.g + stride, 0, 1);
        haste__cu_copy_batch();
        haste__cu_copy_wait_but<0>();
        haste__wide_bar(bar);
        fetch_x(now, 0, 0);
        haste__cu_copy_batch();
        head_next = p.head[p.first_group + now.g];
    }
    while (!MULTI && now.g < G) {
        float dw[HALVES][N], column[N / 2];
        open_group();
        for (int tile = 0; tile < tiles; tile++) {
            uint32_t positive[WORDS];
            float z[N];
            haste__cu_node node;
            const int count = first_nodes(&node);
            open_job();
            find_positives(node, count, positive);
            forward(z, true);
            gradient(z, positive, column);
            if (tid == 0 && tile == 0) {   /* into the buffers that the last group has left */
                fetch_states(now.g, 0);
                if (now.g + stride < G) fetch_w(now.g + stride, 0, loads + 1);
            }
            haste__wide_fence_async();
            haste__wide_bar(bar);   /* dz is complete */
            backward(dw, tile == 0);
            if (tile == tiles - 1) {
                sum_columns(column, true);
                update(dw, true);
            }
            close_job();
        }
    }
    while (MULTI && now.g < G) {
        open_group();
        for (int tile = 0; tile < tiles; tile++) {
            uint32_t positive[WORDS];
            float z[N];
            haste__cu_node node;
            const int count = first_nodes(&node);
            for (int c = 0; c < plan.chunks; c++) {
                haste__wide_job next = now;
                haste__wide_next<MULTI>(&next, tiles, plan.chunks, stride);
                open_job();
                if (c == 0) find_positives(node, count, positive);
                if (tid == 0 && loads_w(next)) fetch_w(next.g, chunk_of(next), loads + 1);   /* next is of this group */
                forward(z, c == 0);
                if (c == plan.chunks - 1) {
                    float column[N / 2];
                    gradient(z, positive, column);
                    sum_columns(column, tile == 0);
                }
                close_job();
            }
        }
        for (int c = 0; c < plan.chunks; c++) {
            float dw[HALVES][N];
            for (int tile = 0; tile < tiles; tile++) {
                haste__wide_job next = now;
                haste__wide_next<MULTI>(&next, tiles, plan.chunks, stride);
                open_job();
                if (tid == 0 && tile == 0) fetch_states(now.g, chunk_of(now));
                backward(dw, tile == 0);
                const bool fetch = tid == 0 && next.g < G && loads_w(next), late = !PLAIN && plan.borrow;
                if (fetch && !late) fetch_w(next.g, chunk_of(next), loads + 1);
                if (tile == tiles - 1) update(dw, c == plan.chunks - 1);
                if (fetch && late) fetch_w(next.g, chunk_of(next), loads + 1);
                close_job();
            }
        }
    }
    haste__cu_copy_wait_but<0>();
    if (tid == 0) haste__wide_bulk_wait();   /* shared memory outlives copies from it */
    __syncthreads();
    if (p.loss_sum) {
        double *sum = (double *)haste__wide_shared;   /* of each warp; the slabs are free now */
        #pragma unroll
        for (int i = 16; i; i >>= 1) loss += __shfl_xor_sync(~0u, loss, i);
        if (lane == 0) sum[threadIdx.x >> 5] = loss;
        __syncthreads();
        if (threadIdx.x == 0) {
            loss = 0;
            for (int i = 0; i < (int)(blockDim.x >> 5); i++) loss += sum[i];
            p.loss_sum[blockIdx.x] = plan.more ? p.loss_sum[blockIdx.x] + loss : loss;
        }
    }
    if (plan.resident) {
        for (int i = threadIdx.x; i < plan.resident * tiles * 16; i += blockDim.x) {
            const int t = i / (plan.resident * 16), d = i / 16 % plan.resident, piece = i & 15;
            const uint32_t a = resident + (t * plan.resident + d) * 256 + (((piece >> 2) ^ (d & 3)) << 6) + (piece & 3) * 16;
            float v[4];
            haste__cu_lds128(v, a);
            haste__cu_add4(grad_x + ((int64_t)t * p.D + d) * 64 + piece * 4, v[0], v[1], v[2], v[3]);
        }
    }
#endif
}

/* ---- host ---- */

/* The kernels there are: a CTA's most workers are what registers allow. */
#define HASTE__WIDE_KERNELS(X) \
    X(32, 64, false, false, 5) X(32, 128, false, false, 4) X(64, 64, false, false, 4) X(64, 128, false, false, 3) \
    X(128, 64, false, false, 2) X(32, 64, true, false, 5) X(64, 64, true, false, 4) X(128, 64, true, false, 2) \
    X(32, 64, true, true, 5) X(64, 64, true, true, 4) X(128, 64, true, true, 2)

/* Cuts a pass up, `tiles` tiles of samples to a launch. ok = 0 where it does not fit. */
static haste__wide_plan haste__wide_cut(const haste__cu_pass *p, int64_t tiles, int processors, int shared_most)
{
    haste__wide_plan plan;
    const int64_t S = p->S;
    const bool single = p->index && (p->F <= 64 || (S <= 64 && p->F <= 128));
    int64_t most = 0, left, workers;
    memset(&plan, 0, sizeof plan);
    plan.chunk = single && p->F > 64 ? 128 : 64;
    plan.chunks = (p->F + plan.chunk - 1) / plan.chunk;
    plan.tiles = (int32_t)tiles;
    plan.kept = single ? 1 : plan.tiles;
    plan.multi = !single;
    plan.ragged = !single && p->F % plan.chunk;
    #define HASTE__WIDE_MOST(s, chunk_, multi_, ragged_, workers_) \
        if (S == s && plan.chunk == chunk_ && plan.multi == multi_ && plan.ragged == ragged_) most = workers_;
    HASTE__WIDE_KERNELS(HASTE__WIDE_MOST)
    #undef HASTE__WIDE_MOST
    if (!most || tiles < 1 || (int64_t)plan.kept * 128 * S > shared_most) return plan;
    plan.slab = 2 * plan.chunk * 128 + 2 * plan.chunk * p->S * 2 + plan.kept * 128 * p->S    /* x, W, dz */
                + 6 * plan.chunk + 24 * p->S + 48;                    /* indices, bias and its gradient, barriers, flags */
    left = shared_most - 4 * HASTE__WIDE_LOCKS;
    workers = left / ((plan.slab + 1023) / 1024 * 1024);
    if (workers > most) workers = most;
    if (p->optimizer != HASTE_SGD) {   /* states in shared memory too, where that costs no worker */
        const int32_t bytes = plan.chunk * p->S * (p->state_f32 ? 4 : 2);
        const int32_t slab = plan.slab + bytes * haste__cu_states((haste_optimizer)p->optimizer);
        if (workers > 0 && left / ((slab + 1023) / 1024 * 1024) >= workers) {
            plan.slab = slab;
            plan.state_bytes = bytes;
        } else if (plan.multi && p->optimizer == HASTE_MOMENTUM && !p->state_f32) {
            plan.state_bytes = bytes;
            plan.borrow = 1;
        }
    }
    plan.slab = (plan.slab + 1023) / 1024 * 1024;
    if (workers < 1) return plan;
    plan.workers = (int32_t)workers;
    left -= workers * plan.slab;
    if (p->grad_x && tiles <= HASTE__WIDE_LOCKS) {
        int64_t rows = left / (tiles * 256), end = p->D - p->begin;
        if (rows > end) rows = end;
        if (rows > HASTE__WIDE_RESIDENT) rows = HASTE__WIDE_RESIDENT;
        plan.resident = (int32_t)rows;
        if (!p->index && tiles * plan.chunks <= HASTE__WIDE_LOCKS) plan.lock_chunks = plan.chunks;
    }
    plan.shared = (int32_t)(workers * plan.slab + 4 * HASTE__WIDE_LOCKS + (int64_t)plan.resident * tiles * 256);
    plan.grid = p->groups < processors ? (int32_t)p->groups : processors;
    plan.at_a_time = (int32_t)p->groups;
    plan.ok = 1;
    return plan;
}

/* Cuts a pass up, and its batch into parts where that is faster: their gradients take `sums` bytes at most. */
static haste__wide_plan haste__wide_plan_make(const haste__cu_pass *p, int64_t sums, int processors, int shared_most)
{
    static const double speed[3] = { .55, .92, 1 };   /* of 1, 2, 3 workers and more; measured for dense blocks, S 64, F 384, on
                                                         an H200, as are the numbers below; taken for all others too */
    haste__wide_plan best = haste__wide_cut(p, p->tiles, processors, shared_most), one;
    const int64_t bytes = haste__wide_group_floats(p->S, best.chunks) * 4, fit = sums / bytes;
    double least = 0;
    int64_t tiles;
    best.parts = 1;
    if (!best.multi || fit < 1 || p->groups / fit > 4096) return best;
    if (best.ok) least = p->tiles / speed[best.workers < 3 ? best.workers - 1 : 2];
    for (tiles = 1; tiles < p->tiles; tiles++) {   /* a part of a tile: 1; to hand gradients on: .7 */
        const int64_t parts = (p->tiles - 1) / tiles + 1;
        double cost;
        one = haste__wide_cut(p, (p->tiles - 1) / parts + 1, processors, shared_most);
        if (!one.ok) break;
        cost = parts * (one.tiles / speed[one.workers < 3 ? one.workers - 1 : 2]) + .7 * (double)(parts - 1);
        if (best.ok && least <= cost) continue;
        least = cost;
        best = one;
        best.parts = (int32_t)parts;
        if (fit < p->groups)   /* in ranges of the same size */
            best.at_a_time = (int32_t)((p->groups - 1) / ((p->groups - 1) / fit + 1) + 1);
    }
    return best;
}

/* 1 where the kernels are in this build: compiled without sm_90a they are empty, and need next to no registers. */
static int haste__wide_compiled(void)
{
    cudaFuncAttributes kernel;
    if (cudaFuncGetAttributes(&kernel, HASTE__CU_KERNEL(haste__wide_kernel<32, 64, false, false, 5, true>)) == cudaSuccess)
        return kernel.numRegs > 64;
    cudaGetLastError();
    return 0;
}

/* Does the wide path take such a block? shared_most: cudaDevAttrMaxSharedMemoryPerBlockOptin. 0: *why says why not; else
   *bytes of `sums` are of use. */
static int haste__wide_takes(int32_t S, int32_t F, int64_t groups, int dense, int32_t B, int32_t D, haste_dtype dtype,
                             int deterministic, int64_t sums, int major, int minor, int shared_most, const char **why,
                             int64_t *bytes)
{
    haste__cu_pass p;
    haste__wide_plan plan;
    static const uint16_t any = 0;
    memset(&p, 0, sizeof p);
    p.index = dense ? NULL : &any;   /* not read */
    p.S = S; p.F = F; p.B = B; p.D = D; p.tiles = (B - 1) / 64 + 1; p.groups = groups;
    if (major != 9 || minor != 0) { *why = "wide: needs compute capability 9.0"; return 0; }
    if (dtype != HASTE_BF16) { *why = "wide: weights are float32"; return 0; }
    if (deterministic) { *why = "wide: adds to grad_x in no fixed order"; return 0; }
    if (S != 32 && S != 64 && S != 128) { *why = "wide: group size is not 32, 64 or 128"; return 0; }
    if (F % 16) { *why = "wide: fan-in is not a multiple of 16"; return 0; }
    plan = haste__wide_plan_make(&p, sums, 1, shared_most);
    if (!plan.ok) {
        *why = "wide: too large a batch for this fan-in and the workspace's memory for gradients that wait";
        return 0;
    }
    *bytes = plan.parts > 1 ? plan.at_a_time * haste__wide_group_floats(S, plan.chunks) * 4 : 0;
    if (!haste__wide_compiled()) { *why = "wide: compiled without sm_90a"; return 0; }
    return 1;
}

template <int S, int CHUNK, bool MULTI, bool RAGGED, int WORKERS, bool PLAIN>
static cudaError_t haste__wide_launch_one(const haste__cu_pass *p, const haste__wide_plan *plan, cudaStream_t stream)
{
    const auto kernel = haste__wide_kernel<S, CHUNK, MULTI, RAGGED, WORKERS, PLAIN>;
    haste__cu_pass pass = *p;
    haste__wide_plan own = *plan;
    void *arguments[2] = { &pass, &own };
    int most;
    const cudaError_t error = haste__cu_allow_all(HASTE__CU_KERNEL(kernel), &most);
    if (error != cudaSuccess) return error;
    return haste__cu_early(HASTE__CU_KERNEL(kernel), dim3((unsigned)plan->grid), 128 * plan->workers, plan->shared, 1, 1,
                           arguments, stream);
}

static cudaError_t haste__wide_launch(const haste__cu_pass *p, const haste__wide_plan *plan, cudaStream_t stream)
{
    const bool plain = p->optimizer == HASTE_SGD;
    #define HASTE__WIDE_CASE(s, chunk_, multi_, ragged_, workers_) \
        if (p->S == s && plan->chunk == chunk_ && plan->multi == multi_ && plan->ragged == ragged_) \
            return plain ? haste__wide_launch_one<s, chunk_, multi_, ragged_, workers_, true>(p, plan, stream) \
                         : haste__wide_launch_one<s, chunk_, multi_, ragged_, workers_, false>(p, plan, stream);
    HASTE__WIDE_KERNELS(HASTE__WIDE_CASE)
    #undef HASTE__WIDE_CASE
    return cudaErrorInvalidValue;
}

/* A train step of one block; x is in the wide order, arrays begin at multiples of 16 bytes. waiting: for gradients, `bytes`.
   *sums: how many entries of loss_sum are written. No synchronisation. */
static cudaError_t haste__wide_step(const haste__cu_pass *p, float *waiting, int64_t bytes, int processors, int shared_most,
                                    int32_t *sums, cudaStream_t stream)
{
    haste__wide_plan plan;
    int64_t begin;
    int part;
    if (((uintptr_t)p->weight | (uintptr_t)p->index | (uintptr_t)p->bias | (uintptr_t)p->x | (uintptr_t)p->grad_x) % 16)
        return cudaErrorMisalignedAddress;
    plan = haste__wide_plan_make(p, bytes, processors, shared_most);
    if (!plan.ok) return cudaErrorInvalidConfiguration;
    *sums = plan.grid;
    plan.sums = waiting;
    for (begin = 0; begin < p->groups; begin += plan.at_a_time) {
        plan.begin = (int32_t)begin;
        plan.end = (int32_t)(p->groups - begin < plan.at_a_time ? p->groups : begin + plan.at_a_time);
        for (part = 0; part < plan.parts; part++) {
            haste__cu_pass own = *p;
            haste__wide_plan one = plan;
            cudaError_t launched;
            one.first_tile = part * plan.tiles;
            if (one.tiles > p->tiles - one.first_tile) one.tiles = p->tiles - one.first_tile;
            one.take = part > 0;
            one.leave = part < plan.parts - 1;
            own.x = (const uint16_t *)p->x + (int64_t)one.first_tile * p->D * 64;
            if (p->grad_x) own.grad_x = p->grad_x + (int64_t)one.first_tile * p->D * 64;
            own.B = p->B - one.first_tile * 64;
            if (p->shift) own.shift = p->shift + one.first_tile * 64;
            if (p->factor) own.factor = p->factor + one.first_tile * 64;
            launched = haste__wide_launch(&own, &one, stream);
            if (launched != cudaSuccess) return launched;
            plan.more = 1;
        }
    }
    return cudaSuccess;
}

/* ---- >>narrow ------------------------------------------------------------------------------------------------

   The fused step for few labels in a group (S 16 or 32) and slices of up to 1,100 inputs or so: bfloat16 weights. There a
   group is so little work that moving the rows of its inputs would cost more than its products, so they stay where they
   are: each thread block keeps 64 or 32 samples of the batch, and their float32 gradient, in shared memory for the whole
   pass. A warp trains one group by itself, from fetching its weights to storing them, and meets no barrier of the block on
   the way.

   A larger batch goes to a cluster of 2 or 4 blocks (9.0 and up), which walk over the same groups, 64 or 32 samples each;
   each block updates its share of a group's strips, and gets the others' parts of their gradient. What even they do not
   hold goes by chunks: a chunk leaves its gradients of a range of groups in the workspace, the next adds its own, and the
   last updates.

   Shared memory of a block
       x            [width][128 bytes]      an input's row: 64 samples in bfloat16
       gradient     [2][width][128 bytes]   the same row in float32, in two planes of 32 samples
       of each warp: the next group's weights, inputs and bias; what the other blocks sent; optimizer states
       barriers (mbarrier)

   A row is two halves of 64 bytes, one for each span of 32 samples: of x all 32, of a plane 16 of them. In the lower half
   of the inputs span 0 comes first, in the upper half span 1. A 16-byte access of a warp is served 8 lanes, that is two
   inputs, at a time: inputs i and i + F/2 of the group, in ascending order. Mostly one is from the lower half of the
   inputs and one from the upper; then they lie in different banks. (Any order gives the same results. Groups that read
   inputs of one half only take a third longer.) With 32 samples a row is one half of 64 bytes, and the rows of input i of
   the lower half and input i of the upper one share 128 bytes.

   The products are mma.m16n8k16. In its fragments lane 4 * row + quad holds row `row` and columns 2 * quad and 2 * quad +
   1 of each 8x8 piece, two bfloat16 in a register. What the pieces are to us (s label, f input, b sample):

       x    [8 f][8 b]    a lane reads 16 bytes of a row: samples 8 * quad .. + 7 of the span. So register j holds samples
                          8 * quad + 2j and + 1: column 2 * quad + e of piece j is sample 8 * quad + 2j + e, in all products
       w    [8 s][8 f]    as stored in memory, see haste__narrow_place
       z    = w x         A = w, B = x transposed: logits, 4 pieces [16 s][8 b] a span
       dw   = dz x'       A = dz, B = x as it is: lands on the registers of w
       dx   = w' dz       A = w transposed, B = dz transposed: lands on 16 bytes of a gradient row
   Transposing a piece (movmatrix) costs as much as reading it from shared memory once more.

   Several warps add to the same gradient rows. Inputs of one group are distinct, so a warp needs no atomics, but it must
   be alone: the columns are cut into four slices of 16 samples, and each slice is passed from warp to warp, in a fixed
   order, by an mbarrier. So the sums of a block have a fixed order too.

   Tried: 16 warps of 128 registers (spills), two slices instead of four (16% slower), a cluster of four for what two hold
   (three times the exchange), of eight (no faster than two chunks of four), its size known at run time only (10% slower),
   both spans unrolled (10% slower, instruction cache), adding into global memory (three times slower; right for
   S >= 64). Bound by the data pipe of shared memory, 80% busy: at S 16, F 64, B 64 a group takes about 540 cycles of it. */

enum {
    HASTE__NARROW_SAMPLES = 64,    /* samples of a block, at most: a tile of the batch */
    HASTE__NARROW_ROW     = 128,   /* bytes */
    HASTE__NARROW_CLUSTER = 4      /* blocks, at most */
};

/* How a pass is cut; made by haste__narrow_plan_make on the host, passed by value. */
typedef struct haste__narrow_plan {
    int32_t  width;         /* inputs of the slice */
    int32_t  middle;        /* of the lower half: ceil(width / 2) */
    int32_t  samples;       /* of a block: 64, or 32 */
    int32_t  upper;         /* bytes by which rows of the upper half lie off their place, see haste__narrow_row */
    int32_t  tiles;         /* F / 16 */
    int32_t  halves;        /* 1 or 2: a warp takes 16 * halves labels at a time, a unit */
    int32_t  parts_shift;   /* a group is 1 << parts_shift units */
    int32_t  units;         /* groups << parts_shift */
    int32_t  cluster;       /* 1, 2 or 4 blocks */
    int32_t  chunks;        /* of cluster * samples, that the batch goes by */
    int32_t  spans;         /* of 32 samples in a block: 1 or 2 */
    int32_t  warps;         /* of a block */
    int32_t  warp_bytes;    /* shared memory of a warp */
    int32_t  bytes;         /* shared memory of a block */
    int32_t  blocks;
    int32_t  at_a_time;     /* units of a launch, at most */
    int32_t  early;         /* compiled for 9.0 and up: may be launched early */
    /* Of one launch: samples from `first` on, units begin .. end - 1. */
    int32_t  first, begin, end;
    int32_t  take, leave;   /* gradients are added to those in `sums`; they go there, and nothing is updated */
    int32_t  more;          /* not the first launch of the step: loss_sum += */
    float   *sums;          /* [units][halves][2 * tiles][128], then biases' [units][16 * halves] */
    uint32_t counter;       /* its first: 2 * F for each 8 slots of the whole layer, so that shards draw as the whole does */
} haste__narrow_plan;

/* Warps of a block: what the registers allow. 12 warps of 168 registers hide more than 8 of 255, where they suffice. */
#define HASTE__NARROW_WARPS(tiles, halves) ((tiles) * (halves) <= 4 ? 12 : 8)

/* Bytes of a warp's stage: weights, inputs, bias, head of the positives; and of what comes from each other block. */
#define HASTE__NARROW_INDEX(tiles, halves)    ((tiles) * (halves) * 512)
#define HASTE__NARROW_BIAS(tiles, halves)     (HASTE__NARROW_INDEX(tiles, halves) + (tiles) * 32)
#define HASTE__NARROW_HEAD(tiles, halves)     (HASTE__NARROW_BIAS(tiles, halves) + (halves) * 64)
#define HASTE__NARROW_STAGE(tiles, halves)    (HASTE__NARROW_HEAD(tiles, halves) + 16)
#define HASTE__NARROW_EXCHANGE(own, halves)   ((own) * (halves) * 512 + (halves) * 64)

/* -- pieces of the step -- */

/* A 32-bit number for each counter. */
static __device__ __forceinline__ uint32_t haste__narrow_noise(uint32_t counter, uint32_t key0, uint32_t key1)
{
    uint32_t x = counter ^ key0;
    x = (x ^ (x >> 16)) * 0x7feb352du + key1;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}
static __device__ __forceinline__ uint32_t haste__narrow_odd(int i)   /* four numbers from one: times an odd one each */
{
    return i == 0 ? 1u : i == 1 ? 0x9e3779b1u : i == 2 ? 0x85ebca77u : 0xc2b2ae3du;
}

/* The logits z of negatives become loss gradients; returns their loss. Positives come with their sign flipped, and so go.
   log(1 + e^z) = -log(1 - sigmoid), and one logarithm serves eight: d = 1 - product of (1 - sigmoid), kept as such
   because with a million labels it is small, and then a series will do. Large sigmoids are rare, and taken one by one. */
static __device__ __forceinline__ float haste__narrow_bce(float (&z)[4][4], int loss_wanted)
{
    const float log2e = 1.4426950408889634f, ln2 = .6931471805599453f;
    float p[16], loss = 0;
    #pragma unroll
    for (int i = 0; i < 16; i++) p[i] = haste__cu_inverse(1 + haste__cu_exp2(-log2e * z[i >> 2][i & 3]));
    if (loss_wanted) {
        float d[2];
        #pragma unroll
        for (int k = 0; k < 2; k++) {
            d[k] = p[k * 8];
            #pragma unroll
            for (int i = 1; i < 8; i++) d[k] = fmaf(-d[k], p[k * 8 + i], d[k] + p[k * 8 + i]);
            loss += d[k] < .015625f ? d[k] * fmaf(d[k], fmaf(d[k], .33333333f, .5f), 1)
                  : d[k] < .9999f ? -ln2 * haste__cu_log2(1 - d[k]) : 0;
        }
        if (!(fmaxf(d[0], d[1]) < .9999f)) {
            #pragma unroll
            for (int i = 0; i < 16; i++) {
                float v = z[i >> 2][i & 3];
                v = fmaxf(v, 0) + ln2 * haste__cu_log2(1 + haste__cu_exp2(-log2e * fabsf(v)));
                if (!(d[i >> 3] < .9999f)) loss += v;
            }
        }
    }
    #pragma unroll
    for (int i = 0; i < 16; i++) z[i >> 2][i & 3] = p[i];
    return loss;
}

static __device__ __forceinline__ float haste__narrow_hinge(float (&z)[4][4])
{
    float loss = 0;
    #pragma unroll
    for (int i = 0; i < 16; i++) {
        float margin = fmaxf(1 + z[i >> 2][i & 3], 0);
        loss = fmaf(margin, margin, loss);
        z[i >> 2][i & 3] = 2 * margin;
    }
    return loss;
}

/* AdamW or momentum on one number; correction1 and correction2 are 1 / (1 - beta^t). */
static __device__ __forceinline__ float haste__narrow_rule(const haste__cu_pass &pass, const haste__cu_moment &moment,
                                                           int adam, float decay, float w, float g, float *m, float *v)
{
    if (!adam) {
        *m = pass.momentum * *m + (g + decay * w);
        return w - moment.lr * *m;
    }
    *m = pass.beta1 * *m + (1 - pass.beta1) * g;
    *v = pass.beta2 * *v + (1 - pass.beta2) * g * g;
    return (1 - moment.lr * decay) * w - moment.lr * moment.correction1 * *m *
           haste__cu_inverse(haste__cu_root(*v * moment.correction2) + pass.eps);
}

/* The four numbers of a strip that a lane owns: out of the warp's copy of a state, float or bfloat16; and to global memory,
   where `place` counts numbers. */
static __device__ __forceinline__ void haste__narrow_state_load(float *v, uint32_t address, int f32)
{
    uint32_t raw[2];
    if (f32) { haste__cu_lds128(v, address); return; }
    haste__cu_lds64(raw, address);
    v[0] = haste__cu_from_bf16(raw[0]); v[1] = haste__cu_high(raw[0]);
    v[2] = haste__cu_from_bf16(raw[1]); v[3] = haste__cu_high(raw[1]);
}
static __device__ __forceinline__ void haste__narrow_state_store(void *state, int f32, int64_t place, const float *v,
                                                                 uint32_t noise)
{
    if (f32) *(float4 *)((float *)state + place) = make_float4(v[0], v[1], v[2], v[3]);
    else haste__cu_write8((uint16_t *)state + place, haste__cu_round2(v[0], v[1], noise),
                          haste__cu_round2(v[2], v[3], noise * haste__narrow_odd(1)));
}

/* Strip `strip` of a stage, and of the registers, in the order of memory. Each block of a cluster begins with those that it
   updates itself, so that all run one code: first is rank * OWN. */
static __device__ __forceinline__ int haste__narrow_strip(int strip, int first, int strips)
{
    return strip + first < strips ? strip + first : strip + first - strips;
}

/* Where the 64 bytes of input d's first span are, in x and in a plane of the gradient. */
static __device__ __forceinline__ uint32_t haste__narrow_row(const haste__narrow_plan &plan, int d)
{
    return (uint32_t)(d * HASTE__NARROW_ROW + (d >= plan.middle ? plan.upper : 0));
}

/* Starts the copy of a unit's weights, inputs, bias and head of positives to the warp's stage; `first` of its strips. */
template <int TILES, int HALVES>
static __device__ __forceinline__ void haste__narrow_fetch(const haste__cu_pass &pass, const haste__narrow_plan &plan,
                                                           int unit, int first, uint32_t stage, int lane)
{
    const int group = unit >> plan.parts_shift;
    const char *weight = (const char *)pass.weight + (int64_t)unit * (TILES * HALVES * 512) + lane % 16 * 16;
    #pragma unroll
    for (int h = 0; h < HALVES; h++) {
        #pragma unroll
        for (int i = 0; i < TILES; i++)   /* strips 2i and 2i + 1 of the stage, half of the lanes each */
            haste__cu_copy16(stage + (h * TILES + i) * 512 + lane * 16,
                             weight + h * TILES * 512 + haste__narrow_strip(2 * i + lane / 16, first, 2 * TILES) * 256);
    }
    if (lane < 2 * TILES)
        haste__cu_copy16(stage + HASTE__NARROW_INDEX(TILES, HALVES) + lane * 16,
                         (const char *)(pass.index + (int64_t)group * (TILES * 16)) + lane * 16);
    if (lane >= 16 && lane < 16 + 4 * HALVES)
        haste__cu_copy16(stage + HASTE__NARROW_BIAS(TILES, HALVES) - 256 + lane * 16,
                         (const char *)(pass.bias + (int64_t)unit * (16 * HALVES)) - 256 + lane * 16);
    if (lane == 31 && pass.head != NULL)
        haste__cu_copy4(stage + HASTE__NARROW_HEAD(TILES, HALVES), pass.head + pass.first_group + group);
    haste__cu_copy_batch();
}

/* Starts the copy of the states of the strips that this block updates, [state][HALVES][OWN][128] numbers, and of the
   biases', [state][16 * HALVES]: read where they are needed, each would be waited for. */
template <int TILES, int HALVES, int OWN>
static __device__ __forceinline__ void haste__narrow_fetch_state(const haste__cu_pass &pass, int unit, int rank, uint32_t to,
                                                                 int lane)
{
    const int size = pass.state_f32 ? 4 : 2, bytes = OWN * 128 * size;   /* of a half */
    for (int i = 0; i < (pass.optimizer == HASTE_ADAMW ? 2 : 1); i++) {
        for (int h = 0; h < HALVES; h++, to += bytes) {
            const char *from = (const char *)pass.state[i]
                             + (((int64_t)unit * HALVES + h) * (2 * TILES) + rank * OWN) * (128 * size);
            for (int k = lane * 16; k < bytes; k += 512) haste__cu_copy16(to + k, from + k);
        }
    }
    if (rank == 0) {
        for (int i = 0; i < (pass.optimizer == HASTE_ADAMW ? 2 : 1); i++, to += HALVES * 64)
            if (lane < 16 * HALVES)
                haste__cu_copy4(to + (uint32_t)lane * 4, pass.bias_state[i] + (int64_t)unit * (16 * HALVES) + lane);
    }
    haste__cu_copy_batch();
}

/* Starts the copy of the samples from `first` on to the rows at x_base: of a slice of `width` inputs. Those from tile `tiles`
   on are 0. */
static __device__ __forceinline__ void haste__narrow_fetch_x(const haste__cu_pass &pass, const haste__narrow_plan &plan,
                                                             int first, uint32_t x_base)
{
    const int per = plan.samples / 8, there = first < pass.tiles * HASTE__NARROW_SAMPLES;   /* pieces of a row */
    const int tile = there ? first / HASTE__NARROW_SAMPLES : 0;
    const __nv_bfloat16 *x = (const __nv_bfloat16 *)pass.x + ((int64_t)tile * pass.D + pass.begin) * HASTE__NARROW_SAMPLES
                           + first % HASTE__NARROW_SAMPLES;
    for (int i = threadIdx.x; i < plan.width * per; i += blockDim.x) {
        const int d = i / per, c = i % per;   /* in the upper half of the inputs span 1 comes first: ^ */
        haste__cu_copy16(x_base + (haste__narrow_row(plan, d) ^ (uint32_t)(c & 4) * 16) + (uint32_t)(c & 3) * 16,
                         x + d * HASTE__NARROW_SAMPLES + c * 8, there);
    }
    haste__cu_copy_batch();
}

/* What a lane needs of a unit, out of the stage: its part of the weights; the addresses of the rows of its inputs, one of
   each strip; the bias of its two labels. */
template <int TILES, int HALVES>
static __device__ __forceinline__ void haste__narrow_take(const haste__narrow_plan &plan,
                                                          uint32_t (&w)[HALVES][2 * TILES][2], uint32_t (&x_row)[2 * TILES],
                                                          float (&bias)[HALVES][2], uint32_t stage, uint32_t x_base,
                                                          int first, int lane)
{
    const int row = lane >> 2, label = (row >> 1) * 4 + (row & 1);
    const uint32_t run = stage + HASTE__NARROW_INDEX(TILES, HALVES) + (uint32_t)((row & 1) * 8 + (row >> 1) * 2) * TILES * 2;
    const uint32_t base = x_base + (uint32_t)(lane & 3) * 16;
    haste__cu_copy_wait_but<0>();
    __syncwarp();
    #pragma unroll
    for (int i = 0; i < HALVES * 2 * TILES; i++)
        haste__cu_lds64(w[i / (2 * TILES)][i % (2 * TILES)], stage + (uint32_t)(i * 256 + lane * 8));
    #pragma unroll
    for (int i = 0; i < HALVES * 2; i++)
        bias[i >> 1][i & 1] = haste__cu_lds32f(stage + HASTE__NARROW_BIAS(TILES, HALVES)
                                                  + (uint32_t)((i >> 1) * 16 + label + (i & 1) * 2) * 4);
    #pragma unroll
    for (int r = 0; r < 2 * TILES; r++) {
        const int d = (int)haste__cu_lds16(run + (uint32_t)haste__narrow_strip(r, first, 2 * TILES) * 2);
        x_row[r] = base + haste__narrow_row(plan, d);
    }
}

/* z = w x + bias for a span: x_row are the addresses of the inputs' rows. x is left with the last chunk of inputs. */
template <int TILES, int HALVES, int CHUNK>
static __device__ __forceinline__ void haste__narrow_logits(float (&z)[HALVES][4][4],
                                                            const uint32_t (&w)[HALVES][2 * TILES][2],
                                                            uint32_t (&x)[2 * CHUNK][4],
                                                            const uint32_t (&x_row)[2 * TILES],
                                                            const float (&bias)[HALVES][2])
{
    #pragma unroll
    for (int first = 0; first < TILES; first += CHUNK) {
        #pragma unroll
        for (int r = 0; r < 2 * CHUNK; r++)
            if (2 * first + r < 2 * TILES) haste__cu_lds128(x[r], x_row[2 * first + r]);
        #pragma unroll
        for (int k = 0; k < CHUNK && first + k < TILES; k++) {
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const uint32_t b0 = haste__narrow_transpose(x[2 * k][j]), b1 = haste__narrow_transpose(x[2 * k + 1][j]);
                #pragma unroll
                for (int h = 0; h < HALVES; h++) {
                    const uint32_t *a = w[h][2 * (first + k)], *next = w[h][2 * (first + k) + 1];
                    float *d = z[h][j];
                    if (first + k == 0) haste__narrow_mma(d, a[0], a[1], next[0], next[1], b0, b1,
                                                          bias[h][0], bias[h][0], bias[h][1], bias[h][1]);
                    else haste__narrow_mma(d, a[0], a[1], next[0], next[1], b0, b1, d[0], d[1], d[2], d[3]);
                }
            }
        }
    }
}

/* Tiles first .. of w transposed: the A operand of w' dz. */
template <int TILES, int HALVES, int CHUNK>
static __device__ __forceinline__ void haste__narrow_transpose_tiles(uint32_t (&out)[CHUNK][HALVES][4],
                                                                     const uint32_t (&w)[HALVES][2 * TILES][2], int first)
{
    #pragma unroll
    for (int k = 0; k < CHUNK && first + k < TILES; k++) {
        #pragma unroll
        for (int h = 0; h < HALVES; h++) {
            out[k][h][0] = haste__narrow_transpose(w[h][2 * (first + k)][0]);
            out[k][h][1] = haste__narrow_transpose(w[h][2 * (first + k) + 1][0]);
            out[k][h][2] = haste__narrow_transpose(w[h][2 * (first + k)][1]);
            out[k][h][3] = haste__narrow_transpose(w[h][2 * (first + k) + 1][1]);
        }
    }
}

/* A unit's update with momentum or AdamW; adam and f32 are constants where it is called. `place` of this lane's numbers
   in strip r of half h: place + (h * strips + r) * 128. */
template <int TILES, int HALVES, int OWN>
static __device__ __forceinline__ void haste__narrow_update(const haste__cu_pass &pass, const haste__cu_moment &moment,
                                                            int adam, int f32, const uint32_t (&w)[HALVES][2 * TILES][2],
                                                            const float (&dw)[HALVES][2 * TILES][4], uint32_t states,
                                                            int64_t place, uint32_t counter, int lane)
{
    constexpr int STRIPS = 2 * TILES;
    const int size = f32 ? 4 : 2;
    float held[2][2][4];   /* states of this strip and of the next: those come while this one is worked on */
    #pragma unroll
    for (int i = -1; i < OWN * HALVES; i++) {
        const int h = i / OWN, r = i % OWN;
        const int64_t at = place + (h * STRIPS + r) * 128;
        const uint32_t next = states + (uint32_t)(((i + 1) * 32 + lane) * 4 * size);
        float now[4], *m = held[i & 1][0], *v = held[i & 1][1];
        if (i + 1 < OWN * HALVES) {
            haste__narrow_state_load(held[i + 1 & 1][0], next, f32);
            if (adam) haste__narrow_state_load(held[i + 1 & 1][1], next + OWN * HALVES * 128 * size, f32);
        }
        if (i < 0) continue;
        const uint32_t noise = haste__narrow_noise(counter + (h * STRIPS + r) * 32, moment.key[0], moment.key[1]);
        #pragma unroll
        for (int k = 0; k < 4; k++) {
            now[k] = k & 1 ? haste__cu_high(w[h][r][k >> 1]) : haste__cu_from_bf16(w[h][r][k >> 1]);
            now[k] = haste__narrow_rule(pass, moment, adam, pass.decay, now[k], moment.scale * dw[h][r][k], &m[k], &v[k]);
        }
        haste__narrow_state_store(pass.weight, 0, at, now, noise);
        haste__narrow_state_store(pass.state[0], f32, at, m, noise * haste__narrow_odd(2));
        if (adam) haste__narrow_state_store(pass.state[1], f32, at, v, noise * haste__narrow_odd(3));
    }
}

/* The step. Block: plan.samples samples, with all units that its cluster walks over. Warp: one unit (16 * HALVES labels)
   after another. F = 16 * TILES. CLUSTER: 1, 2 or 4 blocks. STATE: 0 for SGD, 1 for momentum and AdamW.
   grad_x += (unless NULL; it is computed either way), loss_sum[blockIdx.x] = or +=, weight, bias and their states updated;
   flag: 1 where a unit was left as it was. */
template <int TILES, int HALVES, int CLUSTER, int STATE>
static __global__ void __launch_bounds__(HASTE__NARROW_WARPS(TILES, HALVES) * 32, 1)
haste__narrow_step_kernel(const __grid_constant__ haste__cu_pass pass, const __grid_constant__ haste__narrow_plan plan)
{
    constexpr bool MANY = CLUSTER > 1 && HASTE__CU_CLUSTERS;
    constexpr int STRIPS = 2 * TILES, OWN = STRIPS / CLUSTER;   /* OWN: strips that this block updates */
    constexpr int CHUNK = TILES <= 4 ? TILES : (TILES + 1) / 2, CHUNKS = TILES <= 4 ? 1 : 2;   /* tiles that x is held for */
    constexpr int HOIST = TILES * HALVES <= 4;   /* are there registers to keep w transposed? */
    constexpr int AHEAD = HALVES == 1 ? 2 : 2 * CHUNK;   /* rows of the gradient read before the first is written */
    HASTE__CU_SHARED(memory, 128);

    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0), warps = plan.warps;   /* shuffled: known to be uniform */
    const int rank = (int)blockIdx.x % CLUSTER, first_strip = rank * OWN;
    const int cluster = (int)blockIdx.x / CLUSTER, clusters = (int)gridDim.x / CLUSTER;
    const int first = plan.first + rank * plan.samples;   /* sample of this block */
    const int spans = max(0, min(plan.spans, (pass.B - first + 31) / 32));
    const uint32_t plane = (uint32_t)(plan.samples < HASTE__NARROW_SAMPLES ? plan.middle : plan.width) * HASTE__NARROW_ROW;
    const uint32_t x_base = haste__cu_address(memory);
    const uint32_t stage = x_base + 3 * plane + (uint32_t)(warp * plan.warp_bytes);
    const uint32_t inbox = stage + HASTE__NARROW_STAGE(TILES, HALVES);   /* [CLUSTER - 1][HALVES][OWN][512], then biases */
    const uint32_t states = inbox + (CLUSTER - 1) * HASTE__NARROW_EXCHANGE(OWN, HALVES);
    const uint32_t turns = x_base + 3 * plane + (uint32_t)(warps * plan.warp_bytes);   /* [4 slices][warps] */
    const uint32_t filled = turns + (uint32_t)(4 * warps + warp) * 8, emptied = filled + (uint32_t)warps * 8;
    int lane = threadIdx.x & 31, round = 0, unit = plan.begin + cluster + clusters * warp;
    float loss = 0;
    if (CLUSTER > 1 && !MANY) return;   /* compiled for less than 9.0 */
    haste__narrow_keep(lane);
    const int row = lane >> 2, quad = lane & 3, label = (row >> 1) * 4 + (row & 1);   /* its labels: label and label + 2 */

    /* The gradient to 0, then the batch and the first units in. */
    if (threadIdx.x == 0) {
        for (int i = 0; i < 6 * warps; i++)
            haste__cu_barrier_init(turns + 8 * i, i < 4 * warps ? 32 : i < 5 * warps || !MANY ? 1 : CLUSTER - 1);
        haste__cu_barrier_init_fence();
        for (int i = 0; i < 128; i++) haste__cu_barrier_arrive(turns + 8 * (i / 32 * warps));   /* warp 0 begins */
    }
    for (uint32_t i = threadIdx.x * 16; i < 2 * plane; i += blockDim.x * 16)
        haste__cu_sts128(x_base + plane + i, 0, 0, 0, 0);
    haste__cu_allow_next();
    haste__cu_wait_before();   /* up to here only shared memory was touched */
    const haste__cu_moment moment = haste__cu_moment_at(pass.now);
    if (moment.skip) return;
    const float scale = moment.scale, rate = moment.lr * scale, keep = 1 - moment.lr * pass.decay;   /* SGD's: the last two */
    haste__narrow_fetch_x(pass, plan, first, x_base);
    if (unit < plan.end) haste__narrow_fetch<TILES, HALVES>(pass, plan, unit, first_strip, stage, lane);
    haste__cu_copy_wait_but<0>();
    if constexpr (MANY) haste__cu_cluster_sync(); else __syncthreads();

    for (; unit < plan.end; unit += clusters * warps, round++) {
        /* The stage into registers; then the next unit may come. */
        uint32_t w[HALVES][STRIPS][2], x_row[STRIPS], mark[HALVES] = {0}, any = 0;
        float bias[HALVES][2];
        haste__narrow_take<TILES, HALVES>(plan, w, x_row, bias, stage, x_base, first_strip, lane);
        const int positive = (int)haste__cu_lds32(stage + HASTE__NARROW_HEAD(TILES, HALVES));
        __syncwarp();
        if (plan.take)   /* what will be added: lines of 32 floats */
            for (int i = lane; i < HALVES * OWN * 4; i += 32)
                haste__cu_prefetch(plan.sums + ((int64_t)(unit - plan.begin) * HALVES + i / (OWN * 4)) * (STRIPS * 128) +
                                   first_strip * 128 + i % (OWN * 4) * 32);
        if (STATE && !plan.leave) haste__narrow_fetch_state<TILES, HALVES, OWN>(pass, unit, rank, states, lane);
        if (unit + clusters * warps < plan.end)
            haste__narrow_fetch<TILES, HALVES>(pass, plan, unit + clusters * warps, first_strip, stage, lane);
        /* Positives: a bit for each of this lane's logits, [span][piece of 8 samples][label, sample]. */
        const int labels_left = (int)min((int64_t)(16 * HALVES), pass.labels - (int64_t)unit * (16 * HALVES));
        haste__cu_each(pass, positive, lane, [&](int sample, int place) {
            const int b = sample - first, s = place - (unit & ((1 << plan.parts_shift) - 1)) * 16 * HALVES;
            if (b < 0 || b >= plan.samples || s < 0 || s >= 16 * HALVES) return;
            any = 1;
            const uint32_t bit = 1u << ((b >> 5) * 16 + (b >> 1 & 3) * 4 + (s >> 1 & 1) * 2 + (b & 1));
            const int here = row == (s >> 2 & 3) * 2 + (s & 1) && quad == (b >> 3 & 3);
            #pragma unroll
            for (int h = 0; h < HALVES; h++)
                if (here && h == s >> 4) mark[h] |= bit;
        });

        uint32_t wt[CHUNK][HALVES][4];
        if (HOIST) haste__narrow_transpose_tiles<TILES, HALVES, CHUNK>(wt, w, 0);
        float dw[HALVES][STRIPS][4], db[HALVES][2], size = 0;   /* size: of the logits, finite when they are */
        #pragma unroll
        for (int h = 0; h < HALVES; h++) {
            db[h][0] = db[h][1] = 0;
            #pragma unroll
            for (int r = 0; r < STRIPS; r++) dw[h][r][0] = dw[h][r][1] = dw[h][r][2] = dw[h][r][3] = 0;
        }

        #pragma unroll 1   /* unrolled it is 10% slower: more code than the instruction cache takes */
        for (int span = 0; span < spans; span++) {
            uint32_t x[2 * CHUNK][4], dz[HALVES][4][2];
            float z[HALVES][4][4];   /* [piece of 8 samples][label, sample] */
            haste__narrow_logits<TILES, HALVES, CHUNK>(z, w, x, x_row, bias);

            /* Where a sample or a label is missing, a logit that has no loss and no gradient. */
            #pragma unroll
            for (int i = 0; i < HALVES * 4; i++) {
                const float *v = z[i >> 2][i & 3];
                size += (fabsf(v[0]) + fabsf(v[1])) + (fabsf(v[2]) + fabsf(v[3]));
            }
            const int from = first + span * 32 + quad * 8;   /* this lane's samples: from .. + 7 */
            if (from - quad * 8 + 32 > pass.B || labels_left < 16 * HALVES) {
                #pragma unroll
                for (int i = 0; i < HALVES * 16; i++)
                    if (from + (i >> 2 & 3) * 2 + (i & 1) >= pass.B || (i >> 4) * 16 + label + (i & 2) >= labels_left)
                        z[i >> 4][i >> 2 & 3][i & 3] = -1e30f;
            }

            /* z becomes the gradient of the loss. For a positive BCE and squared hinge are a negative's of -z. */
            uint32_t positive_of[HALVES];
            #pragma unroll
            for (int h = 0; h < HALVES; h++) positive_of[h] = mark[h] >> (span * 16);
            if (pass.loss == HASTE_SOFTMAX) loss += haste__cu_span_softmax<HALVES>(pass, z, positive_of, from);
            else {
                #pragma unroll
                for (int h = 0; h < HALVES; h++) {
                    if (any) haste__cu_span_flip(z[h], positive_of[h]);
                    if (pass.loss != HASTE_BCE) loss += haste__narrow_hinge(z[h]);
                    else loss += haste__narrow_bce(z[h], pass.loss_sum != NULL);
                    if (any) haste__cu_span_flip(z[h], positive_of[h]);
                }
            }
            if (pass.negligible > 0) {
                #pragma unroll
                for (int i = 0; i < HALVES * 16; i++) {
                    float *v = &z[i >> 4][i >> 2 & 3][i & 3];
                    if (fabsf(*v) < pass.negligible) *v = 0;
                }
            }
            #pragma unroll
            for (int i = 0; i < HALVES * 4; i++) {
                const float *v = z[i >> 2][i & 3];
                db[i >> 2][0] += v[0] + v[1];
                db[i >> 2][1] += v[2] + v[3];
                dz[i >> 2][i & 3][0] = haste__cu_pack_fast(v[0], v[1]);
                dz[i >> 2][i & 3][1] = haste__cu_pack_fast(v[2], v[3]);
            }

            /* dw += dz x' */
            #pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                #pragma unroll
                for (int r = 0; r < 2 * CHUNK && c * 2 * CHUNK + r < STRIPS; r++)
                    if (CHUNKS > 1) haste__cu_lds128(x[r], x_row[c * 2 * CHUNK + r]);
                #pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    #pragma unroll
                    for (int r = 0; r < 2 * CHUNK && c * 2 * CHUNK + r < STRIPS; r++) {
                        #pragma unroll
                        for (int h = 0; h < HALVES; h++) {
                            float *d = dw[h][c * 2 * CHUNK + r];
                            haste__narrow_mma(d, dz[h][j][0], dz[h][j][1], dz[h][j + 1][0], dz[h][j + 1][1],
                                              x[r][j], x[r][j + 1], d[0], d[1], d[2], d[3]);
                        }
                    }
                }
            }

            /* Gradient of x += w' dz, a slice of 16 samples at a time: pieces j = 2 * slice and 2 * slice + 1. */
            if (!HOIST && CHUNKS == 1) haste__narrow_transpose_tiles<TILES, HALVES, CHUNK>(wt, w, 0);
            #pragma unroll
            for (int slice = 0; slice < 2; slice++) {
                const uint32_t turn = turns + (uint32_t)((span * 2 + slice) * warps) * 8, offset = plane * (1 + slice);
                uint32_t b[2][HALVES][2];
                #pragma unroll
                for (int i = 0; i < 2 * HALVES; i++) {
                    b[i & 1][i >> 1][0] = haste__narrow_transpose(dz[i >> 1][slice * 2 + (i & 1)][0]);
                    b[i & 1][i >> 1][1] = haste__narrow_transpose(dz[i >> 1][slice * 2 + (i & 1)][1]);
                }
                #pragma unroll
                for (int c = 0; c < CHUNKS; c++) {
                    float q[CHUNK][2][4], sum[2 * CHUNK][4];
                    if (CHUNKS > 1) haste__narrow_transpose_tiles<TILES, HALVES, CHUNK>(wt, w, c * CHUNK);
                    #pragma unroll
                    for (int i = 0; i < 2 * CHUNK && c * 2 * CHUNK + i < STRIPS; i++) {
                        #pragma unroll
                        for (int h = 0; h < HALVES; h++) {
                            const uint32_t *a = wt[i >> 1][h], *v = b[i & 1][h];
                            float *d = q[i >> 1][i & 1];
                            if (h == 0) haste__narrow_mma(d, a[0], a[1], a[2], a[3], v[0], v[1], 0, 0, 0, 0);
                            else haste__narrow_mma(d, a[0], a[1], a[2], a[3], v[0], v[1], d[0], d[1], d[2], d[3]);
                        }
                    }
                    /* Products first, while the turn is still to come. The sums are not their accumulators: a lane's 16
                       bytes of a row are not the four numbers of one accumulator. */
                    if (c == 0) haste__cu_barrier_wait(turn + (uint32_t)warp * 8, round & 1);
                    #pragma unroll
                    for (int r = 0; r < AHEAD && c * 2 * CHUNK + r < STRIPS; r++)
                        haste__cu_lds128(sum[r], x_row[c * 2 * CHUNK + r] + offset);
                    #pragma unroll
                    for (int r = 0; r < 2 * CHUNK && c * 2 * CHUNK + r < STRIPS; r++) {
                        if (r + AHEAD < 2 * CHUNK && c * 2 * CHUNK + r + AHEAD < STRIPS)
                            haste__cu_lds128(sum[r + AHEAD], x_row[c * 2 * CHUNK + r + AHEAD] + offset);
                        const float *low = q[r >> 1][0] + (r & 1) * 2, *high = q[r >> 1][1] + (r & 1) * 2;
                        haste__cu_sts128(x_row[c * 2 * CHUNK + r] + offset, sum[r][0] + low[0], sum[r][1] + low[1],
                                         sum[r][2] + high[0], sum[r][3] + high[1]);
                    }
                }
                haste__cu_barrier_arrive(turn + (uint32_t)(warp + 1 == warps ? 0 : warp + 1) * 8);
            }
            #pragma unroll
            for (int r = 0; r < STRIPS; r++) x_row[r] ^= 64;   /* the other span's half of each row */
        }

        int bad = __any_sync(~0u, !(size < 3e38f));
        #pragma unroll
        for (int i = 0; i < 2 * HALVES; i++) {
            float *v = &db[i >> 1][i & 1];
            *v += __shfl_xor_sync(~0u, *v, 1);
            *v += __shfl_xor_sync(~0u, *v, 2);
        }

        /* Each block of a cluster sends the others what it has of their strips of dw, and gets the same. Block 0 does the
           bias. A bad unit sends NaN. The inbox is one deep: `emptied` says that the other blocks' are free again. */
        if (bad) {
            #pragma unroll
            for (int r = 0; r < STRIPS; r++) dw[0][r][0] = __uint_as_float(0x7fffffffu);
        }
        if constexpr (MANY) {
            constexpr int OTHERS = CLUSTER - 1, PARTS = OTHERS * HALVES * OWN * 512;
            if (lane == 0) haste__cu_barrier_expect(filled, PARTS + (rank == 0 ? OTHERS * HALVES * 64 : 0));
            if (round > 0) haste__narrow_wait_cluster(emptied, (round - 1) & 1);
            #pragma unroll
            for (int k = 1; k < CLUSTER; k++) {   /* the block that comes k after this one: strips k * OWN and on are its own */
                const uint32_t target = (uint32_t)(rank + k) % CLUSTER, signal = haste__narrow_of_rank(filled, target);
                const uint32_t to = haste__narrow_of_rank(inbox, target) + (uint32_t)((k - 1) * HALVES * OWN * 512 + lane * 16);
                #pragma unroll
                for (int i = 0; i < HALVES * OWN; i++)
                    haste__narrow_send4(to + (uint32_t)(i * 512), dw[i / OWN][k * OWN + i % OWN], signal);
            }
            if (rank > 0 && quad == 0) {
                const uint32_t to = haste__narrow_of_rank(inbox, 0) + PARTS + (uint32_t)(rank - 1) * HALVES * 64;
                #pragma unroll
                for (int i = 0; i < 2 * HALVES; i++)
                    haste__narrow_send(to + (uint32_t)(i * 8 + row) * 4, db[i >> 1][i & 1], haste__narrow_of_rank(filled, 0));
            }
            haste__narrow_wait_cluster(filled, round & 1);
            #pragma unroll
            for (int i = 0; i < OTHERS * HALVES * OWN; i++) {
                float v[4], *d = dw[i / OWN % HALVES][i % OWN];
                haste__cu_lds128(v, inbox + (uint32_t)(i * 512 + lane * 16));
                d[0] += v[0]; d[1] += v[1]; d[2] += v[2]; d[3] += v[3];
            }
            if (rank == 0) {
                #pragma unroll
                for (int i = 0; i < OTHERS * 2 * HALVES; i++)
                    db[i / 2 % HALVES][i & 1] += haste__cu_lds32f(inbox + PARTS + (uint32_t)((i * 8 + row) * 4));
            }
            __syncwarp();
            if (lane > 0 && lane < CLUSTER)
                haste__narrow_arrive_other(haste__narrow_of_rank(emptied, (uint32_t)(rank + lane) % CLUSTER));
        }

        /* Gradients of this chunk go to those of the chunks before, and wait for the next. */
        if (plan.take | plan.leave) {
            const int64_t number = unit - plan.begin, units = plan.end - plan.begin;
            float *sums = plan.sums + number * (HALVES * STRIPS * 128) + first_strip * 128 + lane * 4;
            float *biases = plan.sums + units * (HALVES * STRIPS * 128) + number * (16 * HALVES) + label;
            #pragma unroll
            for (int i = 0; i < OWN * HALVES; i++) {
                float4 *at = (float4 *)(sums + (i / OWN * STRIPS + i % OWN) * 128);
                float *d = dw[i / OWN][i % OWN];
                if (plan.take) { const float4 v = *at; d[0] += v.x; d[1] += v.y; d[2] += v.z; d[3] += v.w; }
                if (plan.leave) *at = make_float4(d[0], d[1], d[2], d[3]);
            }
            if (rank == 0 && quad == 0) {
                #pragma unroll
                for (int i = 0; i < 2 * HALVES; i++) {
                    float *at = biases + (i >> 1) * 16 + (i & 1) * 2;
                    if (plan.take) db[i >> 1][i & 1] += *at;
                    if (plan.leave) *at = db[i >> 1][i & 1];
                }
            }
            if (plan.leave) continue;
        }
        bad = __any_sync(~0u, bad || dw[0][0][0] != dw[0][0][0]);

        /* The update. `place` of this lane's numbers in strip r: place + (h * STRIPS + r) * 128, for its own ones. */
        const int64_t place = (int64_t)unit * (HALVES * STRIPS * 128) + first_strip * 128 + lane * 4;
        const uint32_t counter = plan.counter + (uint32_t)unit * (HALVES * STRIPS * 32)
                               + first_strip * 32 + lane;
        if (STATE == 0) {
            uint32_t check = 0;   /* NaN when a new weight is not finite, or 1 when a bias is not */
            #pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) {
                const float now = bias[i >> 1][i & 1] - rate * db[i >> 1][i & 1];
                if (rank == 0 && !haste__cu_finite(now)) check = 1;
            }
            #pragma unroll
            for (int i = 0; i < OWN * HALVES; i++) {
                const int h = i / OWN, r = i % OWN;
                const uint32_t noise = haste__narrow_noise(counter + (h * STRIPS + r / 2) * 32, moment.key[0], moment.key[1]);
                #pragma unroll
                for (int k = 0; k < 2; k++) {
                    w[h][r][k] = haste__cu_round2(fmaf(-rate, dw[h][r][2 * k], keep * haste__cu_from_bf16(w[h][r][k])),
                                                  fmaf(-rate, dw[h][r][2 * k + 1], keep * haste__cu_high(w[h][r][k])),
                                                  noise * haste__narrow_odd((r & 1) * 2 + k));
                    haste__narrow_collect(check, w[h][r][k]);
                }
            }
            bad |= __any_sync(~0u, (check & 0x7fff7fffu) != 0);
            if (!bad) {
                uint16_t *to = (uint16_t *)pass.weight + place;
                #pragma unroll
                for (int i = 0; i < OWN * HALVES; i++)
                    haste__cu_write8(to + (i / OWN * STRIPS + i % OWN) * 128, w[i / OWN][i % OWN][0],
                                     w[i / OWN][i % OWN][1]);
            }
        } else {
            /* As the CPU: a gradient that cannot be squared counts as not finite. */
            float largest = 0;
            #pragma unroll
            for (int i = 0; i < OWN * HALVES * 4; i++) largest += fabsf(dw[i / 4 / OWN][i / 4 % OWN][i & 3]);
            #pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) largest += rank == 0 ? fabsf(db[i >> 1][i & 1]) : 0;
            bad |= __any_sync(~0u, !(largest * fabsf(scale) < 1e18f));
            /* The states have come; the next unit's copy, begun after theirs, may still be under way. */
            if (unit + clusters * warps < plan.end) haste__cu_copy_wait_but<1>();
            else haste__cu_copy_wait_but<0>();
            __syncwarp();
            if (!bad) {
                const haste__cu_moment rates = haste__cu_moment_at(haste__cu_again(pass.now));
                #define HASTE__NARROW_UPDATE haste__narrow_update<TILES, HALVES, OWN>
                if (pass.optimizer == HASTE_ADAMW) {
                    if (pass.state_f32) HASTE__NARROW_UPDATE(pass, rates, 1, 1, w, dw, states, place, counter, lane);
                    else                HASTE__NARROW_UPDATE(pass, rates, 1, 0, w, dw, states, place, counter, lane);
                } else {
                    if (pass.state_f32) HASTE__NARROW_UPDATE(pass, rates, 0, 1, w, dw, states, place, counter, lane);
                    else                HASTE__NARROW_UPDATE(pass, rates, 0, 0, w, dw, states, place, counter, lane);
                }
                #undef HASTE__NARROW_UPDATE
            }
            __syncwarp();
        }
        if (bad) {
            if (lane == 0) pass.flag[HASTE__CU_FLAG_NONFINITE] = 1;
        } else if (rank == 0 && quad == 0) {
            #pragma unroll
            for (int i = 0; i < 2 * HALVES; i++) {
                const int64_t at = (int64_t)unit * (16 * HALVES) + (i >> 1) * 16 + label + (i & 1) * 2;
                float now = bias[i >> 1][i & 1];
                if (STATE == 0) now -= rate * db[i >> 1][i & 1];
                else {
                    const int adam = pass.optimizer == HASTE_ADAMW, here = (i >> 1) * 16 + label + (i & 1) * 2;
                    const uint32_t from = states + (uint32_t)(OWN * HALVES * 128 * (pass.state_f32 ? 4 : 2) * (adam ? 2 : 1)
                                                              + here * 4);
                    float m = haste__cu_lds32f(from), v = adam ? haste__cu_lds32f(from + HALVES * 64) : 0;
                    now = haste__narrow_rule(pass, haste__cu_moment_at(haste__cu_again(pass.now)), adam, 0, now,
                                             scale * db[i >> 1][i & 1], &m, &v);
                    pass.bias_state[0][at] = m;
                    if (adam) pass.bias_state[1][at] = v;
                }
                pass.bias[at] = now;
            }
        }
    }

    /* Out with the gradient and the loss. As many replicas as clusters: each adds to its own, in a fixed order. Else blocks
       share replicas, and begin at different rows so as not to meet. */
    __syncthreads();
    if (pass.grad_x != NULL && first < pass.tiles * HASTE__NARROW_SAMPLES) {
        const int alone = pass.replicas >= clusters, per = plan.samples / 4;   /* pieces of 4 samples in a row */
        const int pieces = plan.width * per, start = pieces / clusters * cluster;
        const int64_t tile = (int64_t)(cluster % pass.replicas) * pass.tiles + first / HASTE__NARROW_SAMPLES;
        float *out = pass.grad_x + (tile * pass.D + pass.begin) * HASTE__NARROW_SAMPLES + first % HASTE__NARROW_SAMPLES;
        const float last = __ldg(&pass.now->scale);   /* again: kept all along it is a register */
        #pragma unroll 4
        for (int k = threadIdx.x; k < pieces; k += blockDim.x) {
            const int i = k + start < pieces ? k + start : k + start - pieces, d = i / per, c = i % per;
            const int slice = c >> 2 & 1, span = c >> 3;
            float v[4], *to = out + d * HASTE__NARROW_SAMPLES + span * 32 + (c & 3) * 8 + slice * 4;
            haste__cu_lds128(v, x_base + plane * (1 + slice) + (haste__narrow_row(plan, d) ^ (uint32_t)(span * 64))
                                + (uint32_t)(c & 3) * 16);
            v[0] *= last; v[1] *= last; v[2] *= last; v[3] *= last;
            if (alone) {
                float4 old = *(float4 *)to;
                *(float4 *)to = make_float4(old.x + v[0], old.y + v[1], old.z + v[2], old.w + v[3]);
            } else {
                haste__cu_add4(to, v[0], v[1], v[2], v[3]);
            }
        }
    }
    if (pass.loss_sum != NULL) {
        double sum = loss;
        for (int i = 16; i; i >>= 1) sum += __shfl_xor_sync(~0u, sum, i);
        if (lane == 0) *(double *)(memory + warp * 8) = sum;   /* x is no longer needed */
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 1; i < warps; i++) sum += *(double *)(memory + i * 8);
            pass.loss_sum[blockIdx.x] = sum + (plan.more ? pass.loss_sum[blockIdx.x] : 0);
        }
    }
    if constexpr (MANY) haste__cu_cluster_sync();   /* none may leave while another still signals it */
}

/* The logits of all units, and nothing else: logits [B, slots] =, float or bfloat16. Block: 64 samples (a tile: blockIdx.y),
   every gridDim.x-th unit. Warp: a unit of 16 labels after another. */
template <int TILES>
static __global__ void __launch_bounds__(512, 1)
haste__narrow_forward_kernel(const __grid_constant__ haste__cu_pass pass, const __grid_constant__ haste__narrow_plan plan,
                             void *logits, int f32, int64_t slots)
{
    constexpr int STRIPS = 2 * TILES, CHUNK = TILES <= 4 ? TILES : (TILES + 1) / 2;
    HASTE__CU_SHARED(memory, 128);
    const int lane = threadIdx.x & 31, row = lane >> 2, quad = lane & 3, label = (row >> 1) * 4 + (row & 1);
    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0), warps = plan.warps, tile = (int)blockIdx.y;
    const uint32_t x_base = haste__cu_address(memory);
    const uint32_t stage = x_base + (uint32_t)plan.width * HASTE__NARROW_ROW + (uint32_t)(warp * plan.warp_bytes);
    int unit = (int)blockIdx.x + (int)gridDim.x * warp;

    haste__narrow_fetch_x(pass, plan, tile * HASTE__NARROW_SAMPLES, x_base);
    if (unit < plan.units) haste__narrow_fetch<TILES, 1>(pass, plan, unit, 0, stage, lane);
    haste__cu_copy_wait_but<0>();
    __syncthreads();

    for (; unit < plan.units; unit += (int)gridDim.x * warps) {
        uint32_t w[1][STRIPS][2], x_row[STRIPS];
        float bias[1][2];
        haste__narrow_take<TILES, 1>(plan, w, x_row, bias, stage, x_base, 0, lane);
        __syncwarp();
        if (unit + (int)gridDim.x * warps < plan.units)
            haste__narrow_fetch<TILES, 1>(pass, plan, unit + (int)gridDim.x * warps, 0, stage, lane);

        const int64_t slot = pass.first_slot + (int64_t)unit * 16;
        #pragma unroll
        for (int span = 0; span < 2; span++) {
            const int b0 = tile * HASTE__NARROW_SAMPLES + span * 32;
            uint32_t x[2 * CHUNK][4];
            float z[1][4][4];
            if (b0 >= pass.B) break;
            haste__narrow_logits<TILES, 1, CHUNK>(z, w, x, x_row, bias);
            if (pass.labels - (int64_t)unit * 16 < 16) {   /* what is no label has the logit 0, whatever x is */
                #pragma unroll
                for (int i = 0; i < 16; i++)
                    if ((int64_t)unit * 16 + label + (i & 2) >= pass.labels) z[0][i >> 2][i & 3] = 0;
            }
            if (f32) {
                #pragma unroll
                for (int i = 0; i < 16; i++) {
                    const int b = b0 + quad * 8 + (i >> 2) * 2 + (i & 1);
                    if (b < pass.B) ((float *)logits)[b * slots + slot + label + (i & 2)] = z[0][i >> 2][i & 3];
                }
            } else {
                #pragma unroll
                for (int j = 0; j < 4; j++) {   /* transposed: four labels of one sample in a lane */
                    const uint32_t low = haste__narrow_transpose(haste__cu_pack_fast(z[0][j][0], z[0][j][1]));
                    const uint32_t high = haste__narrow_transpose(haste__cu_pack_fast(z[0][j][2], z[0][j][3]));
                    const int b = b0 + (row >> 1) * 8 + j * 2 + (row & 1);
                    if (b < pass.B) haste__cu_write8((uint16_t *)logits + b * slots + slot + quad * 4, low, high);
                }
            }
            #pragma unroll
            for (int r = 0; r < STRIPS; r++) x_row[r] ^= 64;
        }
    }
}

/* -- host -- */

/* What a unit takes by `cluster` blocks of p->samples samples, in the time that a block takes for the products of 32 samples:
   1.4 for weights, inputs and update, 1 for each 32 samples (H200, F 64, D 384), 1 for gradients that a chunk hands on. 0: it
   cannot be done so. Fills in the rest of p. */
static double haste__narrow_cost(haste__narrow_plan *p, int B, int cluster, int forward, int weight_bytes, int shared)
{
    const int plane = (p->samples < HASTE__NARROW_SAMPLES ? p->middle : p->width) * HASTE__NARROW_ROW;
    const int free_bytes = shared - (forward ? 1 : 3) * plane, at_a_time = p->samples * cluster;
    const int most = forward ? 16 : HASTE__NARROW_WARPS(p->tiles, p->halves), own = 2 * p->tiles / cluster;
    if (2 * p->tiles % cluster) return 0;
    p->cluster = cluster;
    p->chunks = forward ? 1 : (B - 1) / at_a_time + 1;
    p->spans = p->samples == HASTE__NARROW_SAMPLES && B > 32 ? 2 : 1;
    p->warp_bytes = HASTE__NARROW_STAGE(p->tiles, p->halves) + (cluster - 1) * HASTE__NARROW_EXCHANGE(own, p->halves);
    if (weight_bytes) p->warp_bytes += 16 * p->halves * (8 * own * weight_bytes + 8);   /* 8: the biases' */
    p->warps = free_bytes / (p->warp_bytes + 48);   /* 6 barriers each */
    if (p->warps > most) p->warps = most;
    if (p->warps < 4) return 0;
    p->bytes = shared - free_bytes + p->warps * (p->warp_bytes + 48);
    return (p->chunks * cluster * (1.4 + p->spans) + p->chunks - 1) * (p->warps < 8 ? 8.0 / p->warps : 1.0);
}

/* Of the gradients of a unit's weights and biases, in `sums`. */
static int64_t haste__narrow_unit_bytes(const haste__narrow_plan *p) { return p->halves * (p->tiles * 256 + 16) * 4; }

/* haste__narrow_plan_make: how a step (forward 0) or forward pass (1) of a block is cut; or why this path does not take it.

     width, groups   of the block: inputs of its slice, G
     state_bytes     of one weight's optimizer state: 0, 2, 4 or 8
     clusters        of thread blocks: are there any?
     sums            bytes for gradients of chunks
     shared          what a thread block may ask for: cudaDevAttrMaxSharedMemoryPerBlockOptin
     processors      cudaDevAttrMultiProcessorCount

   Returns NULL and fills *plan, or a sentence. */
static const char *haste__narrow_plan_make(haste__narrow_plan *plan, int S, int F, int width, int64_t groups, int B,
                                           int forward, int state_bytes, int clusters, int64_t sums, int shared,
                                           int processors)
{
    haste__narrow_plan p, best;
    double least = 0;
    int samples, cluster;
    memset(&p, 0, sizeof p);
    memset(&best, 0, sizeof best);
    if (S != 16 && S != 32) return "the narrow path takes S = 16 and 32";
    if (F != 16 && F != 32 && F != 48 && F != 64 && F != 96 && F != 128)
        return "the narrow path takes F = 16, 32, 48, 64, 96 and 128";
    if (width < F || width > 4096) return "the slice is too wide for the narrow path";
    if (B < 1) return "the narrow path trains at least one sample";
    p.width = width;
    p.middle = (width + 1) / 2;
    p.tiles = F / 16;
    p.halves = S == 32 && p.tiles <= 4 && !forward ? 2 : 1;
    p.parts_shift = S / 16 / p.halves - 1;   /* 1, 2 to 0, 1 */
    if (groups > INT32_MAX >> p.parts_shift) return "too many groups for the narrow path";
    p.units = (int32_t)(groups << p.parts_shift);
    p.early = clusters;
    for (samples = HASTE__NARROW_SAMPLES; samples >= (forward ? HASTE__NARROW_SAMPLES : 32); samples /= 2)
        for (cluster = 1; cluster <= HASTE__NARROW_CLUSTER && cluster <= processors; cluster *= 2) {
            double cost;
            if (cluster > 1 && (!clusters || forward || samples * cluster / 2 >= B)) break;
            p.samples = samples;
            p.upper = 64 - (samples < HASTE__NARROW_SAMPLES ? p.middle * HASTE__NARROW_ROW : 0);
            cost = haste__narrow_cost(&p, B, cluster, forward, state_bytes, shared);
            if (cost == 0) continue;
            if (least == 0 || (p.chunks == 1) > (best.chunks == 1) || ((p.chunks == 1) == (best.chunks == 1) && cost < least)) {
                least = cost;
                best = p;
            }
        }
    if (least == 0) return "the slice is too wide: batch, gradient and four warps' weights do not fit into shared memory";
    best.at_a_time = best.units;
    if (best.chunks > 1) {   /* as many units at a time as there is memory for, in ranges of the same size */
        const int64_t fit = sums / haste__narrow_unit_bytes(&best);
        if (fit < 1 || best.units / fit > 4096)
            return "the workspace was not made for so large batches of this layer: it lacks memory for their gradients";
        if (fit < best.units) best.at_a_time = (int32_t)((best.units - 1) / ((best.units - 1) / fit + 1) + 1);
    }
    best.blocks = forward ? (processors + (B - 1) / HASTE__NARROW_SAMPLES) / ((B - 1) / HASTE__NARROW_SAMPLES + 1)
                          : processors / best.cluster * best.cluster;
    if (best.blocks / best.cluster > best.units) best.blocks = best.units * best.cluster;
    *plan = best;
    return NULL;
}

/* Sets the kernel's shared memory and launches it: clusters of plan->cluster, or gridDim.y = tiles. */
static cudaError_t haste__narrow_launch(const void *kernel, const haste__narrow_plan *plan, int tiles, int early,
                                        void **arguments, cudaStream_t stream)
{
    int most;
    cudaError_t status = haste__cu_allow_all(kernel, &most);
    if (status != cudaSuccess) return status;
    return haste__cu_early(kernel, dim3((unsigned)plan->blocks, (unsigned)tiles), plan->warps * 32, plan->bytes,
                           plan->cluster, early, arguments, stream);
}

template <int TILES, int HALVES, int CLUSTER>
static const void *haste__narrow_step_kernel_of(int state)
{
    if constexpr (2 * TILES % CLUSTER != 0) return NULL;
    else return state ? HASTE__CU_KERNEL(haste__narrow_step_kernel<TILES, HALVES, CLUSTER, 1>)
                      : HASTE__CU_KERNEL(haste__narrow_step_kernel<TILES, HALVES, CLUSTER, 0>);
}
static const void *haste__narrow_step_of(const haste__narrow_plan *plan, int state)
{
    #define HASTE__NARROW_STEP(T, H) \
        if (plan->tiles == T && plan->halves == H) \
            return plan->cluster == 1 ? haste__narrow_step_kernel_of<T, H, 1>(state) : \
                   plan->cluster == 2 ? haste__narrow_step_kernel_of<T, H, 2>(state) : \
                                        haste__narrow_step_kernel_of<T, H, 4>(state);
    HASTE__NARROW_STEP(1, 1) HASTE__NARROW_STEP(2, 1) HASTE__NARROW_STEP(3, 1) HASTE__NARROW_STEP(4, 1)
    HASTE__NARROW_STEP(6, 1) HASTE__NARROW_STEP(8, 1)
    HASTE__NARROW_STEP(1, 2) HASTE__NARROW_STEP(2, 2) HASTE__NARROW_STEP(3, 2) HASTE__NARROW_STEP(4, 2)
    #undef HASTE__NARROW_STEP
    return NULL;
}

/* 1 where the kernels for clusters are in this build: compiled for compute_80, which runs on a newer device too, they are
   empty. */
static int haste__cu_clusters(void)
{
    cudaFuncAttributes kernel;
    if (cudaFuncGetAttributes(&kernel, HASTE__CU_KERNEL(haste__cu_few_lists_kernel)) == cudaSuccess)
        return kernel.ptxVersion >= 90;
    cudaGetLastError();
    return 0;
}

/* No more blocks than are resident at once: a cluster lies in one part of the device, and those are not all alike. */
static cudaError_t haste__narrow_fit(haste__narrow_plan *plan, int state)
{
    const void *kernel = haste__narrow_step_of(plan, state);
    cudaLaunchConfig_t config = cudaLaunchConfig_t();
    cudaLaunchAttribute attribute;
    int most, clusters;
    cudaError_t status;
    if (plan->cluster <= 2) return cudaSuccess;
    status = haste__cu_allow_all(kernel, &most);
    if (status != cudaSuccess) return status;
    memset(&attribute, 0, sizeof attribute);
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)plan->cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)plan->blocks);
    config.blockDim = dim3((unsigned)(plan->warps * 32));
    config.dynamicSmemBytes = (size_t)plan->bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    status = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
    if (status == cudaSuccess && clusters > 0 && clusters * plan->cluster < plan->blocks)
        plan->blocks = clusters * plan->cluster;
    return status;
}

/* haste__narrow_step: the fused step of a block as planned. grad_x [replicas][tiles][D][64], unless NULL, has been zeroed, or
   has other blocks' sums in it; loss_sum [plan->blocks] (=); sums: as the plan was told. Deterministic with replicas >=
   plan->blocks / plan->cluster. */
static cudaError_t haste__narrow_step(const haste__cu_pass *pass, const haste__narrow_plan *planned, float *sums,
                                      cudaStream_t stream)
{
    haste__narrow_plan plan = *planned;
    haste__cu_pass copy = *pass;
    void *arguments[2] = {&copy, &plan};
    int chunk;
    plan.counter = (uint32_t)(pass->round_slot / 8) * (uint32_t)plan.tiles * 32;
    plan.sums = sums;
    for (; plan.begin < plan.units; plan.begin = plan.end) {
        plan.end = plan.units - plan.begin < plan.at_a_time ? plan.units : plan.begin + plan.at_a_time;
        for (chunk = 0; chunk < plan.chunks; chunk++) {
            cudaError_t launched;
            plan.first = chunk * plan.cluster * plan.samples;
            plan.take = chunk > 0;
            plan.leave = chunk < plan.chunks - 1;
            /* Early behind another block's kernel: 1 to 2% faster at A670K's size. Behind short ones, long steps got 1%
               slower. What others have left in `sums` is waited for either way. */
            launched = haste__narrow_launch(haste__narrow_step_of(&plan, pass->optimizer != HASTE_SGD), &plan, 1,
                                            plan.early && !plan.more && pass->first_slot > 0, arguments, stream);
            if (launched != cudaSuccess) return launched;
            plan.more = 1;
        }
    }
    return cudaSuccess;
}

/* haste__narrow_forward: logits [B, slots] (=), float or bfloat16. */
static cudaError_t haste__narrow_forward(const haste__cu_pass *pass, const haste__narrow_plan *planned, cudaStream_t stream)
{
    haste__narrow_plan plan = *planned;
    haste__cu_pass copy = *pass;
    int f32 = !pass->logits_bf16;
    const void *kernel = NULL;
    void *arguments[5] = {&copy, &plan, &copy.logits, &f32, &copy.slots};
    copy.head = NULL;   /* no positives */
    #define HASTE__NARROW_FORWARD(T) if (plan.tiles == T) kernel = HASTE__CU_KERNEL(haste__narrow_forward_kernel<T>);
    HASTE__NARROW_FORWARD(1) HASTE__NARROW_FORWARD(2) HASTE__NARROW_FORWARD(3) HASTE__NARROW_FORWARD(4)
    HASTE__NARROW_FORWARD(6) HASTE__NARROW_FORWARD(8)
    #undef HASTE__NARROW_FORWARD
    return haste__narrow_launch(kernel, &plan, pass->tiles, 0, arguments, stream);
}

/* ---- >>backward ---------------------------------------------------------------------------------------------- */

/* The gradients of bfloat16 blocks from given logit gradients, S and F multiples of 16 (not dense), on compute capability
   9.0: two kernels, each for one gradient, so that a caller pays for what it asks. (What they do not take, the general
   kernel does.) Both keep in shared memory, for the whole pass, what would else be gathered or scattered:

       weights   dW' [16, F] = dz' X'   X [width][samples] of the batch, bfloat16: 192 KiB at 768 inputs and 128 samples
       inputs    dX [F, 64] += W dz'    the sums [samples][width], float32: 192 KiB at 768 inputs and 64 samples. At the end
                                        they are added to grad_x

   All else goes from global memory to registers, and is an operand of mma.m16n8k16 nearly as it comes: there are no stages,
   no copies and no barriers of the block on the way. A warp takes 16 labels of a group (dX: 32, where S is a multiple of
   32), a unit; the units beside it, in the same 128 bytes of a row of logit gradients, are those of the next warps.

   In the fragments of mma lane 4 * row + quad holds row (or column) `row` and columns (rows) 2 * quad and + 1 of each 8x8
   piece, two numbers in a register. Which numbers these are is free, as long as both operands agree:

       dz, for dW   A lane reads 2 labels of samples 8 * quad .. + 7 of a span of 32 (or 4 labels of two units, and swaps
                    with another), and pairs samples: rows `row` and row + 8 of two pieces are one label each. In x a lane
                    reads the same 8 samples at once. Its sums are of 2 labels, and inputs of rows 2 * quad and + 1.
       dz, for dX   A lane reads labels 4 * quad .. + 3 (of 32: 8 * quad .. + 7) of one sample, and those of an input in W.
                    Column c of piece j is sample 4 * (c / 2) + 2 * j + c % 2 of 16: a lane's sums of two pieces are of
                    samples 4 * quad .. + 3, 16 bytes of a row.
       inputs       Row `row` of strip k: from the lower half of the group's inputs (row even) or the upper. A 16-byte
                    access of a warp to x or the sums is served for 8 lanes, two rows of 64 bytes, at a time. Of inputs from
                    the upper half of the slice the two halves of each 128 bytes are exchanged: mostly the two rows are in
                    different banks.

   Several warps add to the sums of dX. As in >>narrow a warp must be alone in a slice of 16 samples, and slices are passed
   from warp to warp, in a fixed order, by mbarriers.

   Milliseconds of the whole call, L 670,208, F 64, D 768, B 128: dX .174 (S 16) and .108 (S 32), dW .135 and .128. dX is bound
   by the data pipe of shared memory, 87% busy: at S 16 a unit takes 418 cycles of it, 256 for the sums, 110 for the loads
   from global memory, the rest for bank conflicts; waiting for turns costs 4%. dW is bound by the memory behind the L2,
   which the many rows don't suit: reading them in pieces of 64 bytes and writing as much, and nothing else, takes .104 (32
   bytes: .123; 128: .098; a copy: .082). Tried for dW: 128 bytes of each row at a time (.158), ordinary stores (6% slower),
   reading without asking the L2 for 128 bytes (8%). */

typedef struct haste__cu_given_plan {
    int32_t rows;       /* samples of a thread block: 32, 64 or (dW) 128 */
    int32_t tiles;      /* runs of so many samples: side by side (dX) or one launch after the other (dW) */
    int32_t first;      /* first sample of a launch (dW) */
    int32_t half;       /* half of the inputs of the slice, rounded up */
    int32_t warps, shared, grid, processors;
    int32_t add;        /* dW: += */
} haste__cu_given_plan;

/* dW: warps of a block; a warp fetches the logit gradients of so many units at once, 32 bytes of a row each; does it before
   it multiplies those that it has? What the registers allow. */
#define HASTE__CU_GIVEN_W_WARPS(spans)     ((spans) == 4 ? 8 : 16)
#define HASTE__CU_GIVEN_RUN(spans, bf16)   ((spans) == 4 && (bf16) ? 2 : 1)
#define HASTE__CU_GIVEN_EARLY(spans, bf16) ((spans) == 4 && (bf16))
/* dX: warps of a block. */
#define HASTE__CU_GIVEN_X_WARPS(k, tiles)  ((k) == 32 && (tiles) == 4 ? 12 : 16)

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Row `row` of strip k is this input of a group, in ascending order: row_input + k * strip_input. The narrow path has the
   inputs of a row side by side, the others those of a strip. */
static __device__ __forceinline__ int haste__cu_given_row_input(const haste__cu_pass &p, int row)
{
    return (row & 1) * (p.F / 2) + (row >> 1) * (p.path == HASTE_CUDA_NARROW ? p.F / 8 : 1);
}
static __device__ __forceinline__ int haste__cu_given_strip_input(const haste__cu_pass &p)
{
    return p.path == HASTE_CUDA_NARROW ? 1 : 4;
}

/* Logit gradients of 32 * SPANS samples and 16 * RUN labels for dW, as they come: of each sample 2 * RUN labels. */
template <int SPANS, int RUN, bool BF16> struct haste__cu_given_labels { uint32_t v[SPANS * 8][BF16 ? RUN : 2]; };

template <int SPANS, int RUN, bool BF16>
static __device__ __forceinline__ void haste__cu_given_fetch(haste__cu_given_labels<SPANS, RUN, BF16> &z, const char *from,
                                                             int64_t stride, int samples)
{
    #pragma unroll
    for (int i = 0; i < SPANS * 8; i++) {
        const bool wanted = i / 8 * 32 + i % 8 < samples;
        uint32_t *v = z.v[i];
        if (BF16 && RUN == 1) v[0] = haste__cu_given_load4(from, wanted);
        else {
            const uint2 two = haste__cu_given_load8(from, wanted);
            v[0] = two.x;
            v[RUN == 1 && BF16 ? 0 : 1] = two.y;
        }
        from += i % 8 == 7 ? 25 * stride : stride;
    }
}
/* To operands of 16 labels x 16 samples. */
template <int SPANS, int RUN, bool BF16>
static __device__ __forceinline__ void haste__cu_given_pair(uint32_t (&a)[RUN][SPANS * 2][4],
                                                            haste__cu_given_labels<SPANS, RUN, BF16> &z)
{
    const bool upper = (threadIdx.x & 16) != 0;
    #pragma unroll
    for (int i = 0; i < SPANS * 8 && RUN == 2; i++) {   /* lanes of rows 0 to 3 have labels of the first unit only */
        uint32_t *v = z.v[i];
        const uint32_t got = __shfl_xor_sync(~0u, upper ? v[0] : v[RUN - 1], 16);
        v[0] = upper ? got : v[0];
        v[RUN - 1] = upper ? v[RUN - 1] : got;
    }
    #pragma unroll
    for (int i = 0; i < SPANS * 4 * RUN; i++) {
        const int t = i % RUN, pair = i / RUN;
        const uint32_t *v = z.v[2 * pair], *next = z.v[2 * pair + 1];
        uint32_t *to = a[t][pair >> 1] + (pair & 1) * 2;   /* even label, odd label */
        if (BF16) {
            to[0] = __byte_perm(v[t], next[t], 0x5410);
            to[1] = __byte_perm(v[t], next[t], 0x7632);
        } else {
            to[0] = haste__cu_pack_fast(__uint_as_float(v[0]), __uint_as_float(next[0]));
            to[1] = haste__cu_pack_fast(__uint_as_float(v[BF16 ? 0 : 1]), __uint_as_float(next[BF16 ? 0 : 1]));
        }
    }
}
#endif

/* grad_weight, grad_bias = or +=. Block: 32 * SPANS samples. Warp: RUN units of 16 labels after others, F in runs of
   8 * STRIPS inputs. */
template <int SPANS, int STRIPS, bool BF16>
static __global__ void __launch_bounds__(32 * HASTE__CU_GIVEN_W_WARPS(SPANS), 1)
haste__cu_given_weights_kernel(const __grid_constant__ haste__cu_pass p, const __grid_constant__ haste__cu_given_plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int RUN = HASTE__CU_GIVEN_RUN(SPANS, BF16), EARLY = HASTE__CU_GIVEN_EARLY(SPANS, BF16);
    constexpr int ROW = SPANS * 64, SIZE = BF16 ? 2 : 4;   /* ROW: bytes of an input in x */
    HASTE__CU_SHARED(memory, 128);
    const int lane = (int)threadIdx.x & 31, row = lane >> 2, quad = lane & 3;
    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0), warps = plan.warps;
    const int F = p.F, S = p.S, of_group = S / 16, units = (int)p.groups * of_group;
    const int step = (int)gridDim.x * warps * RUN;
    const int row_input = haste__cu_given_row_input(p, row), strip_input = haste__cu_given_strip_input(p);
    const int lane_label = RUN == 1 ? row * 2 : (row & 3) * 4 + (row >> 2) * 2;   /* its first of a unit */
    const uint32_t x = haste__cu_address(memory) + (uint32_t)quad * 16;
    const int64_t stride = p.slots * SIZE, upper = (int64_t)(F / 2) * S;
    const char *given = (const char *)p.given + (plan.first + quad * 8) * stride + (p.first_slot + row * 2 * RUN) * SIZE;
    const int samples = p.B - plan.first - quad * 8;   /* those from quad * 8 on */
    haste__cu_given_labels<SPANS, RUN, BF16> z;
    uint32_t a[RUN][SPANS * 2][4], input[STRIPS];
    int first = ((int)blockIdx.x * warps + warp) * RUN;
    auto fetch = [&](int unit) {
        haste__cu_given_fetch<SPANS, RUN, BF16>(z, given + (int64_t)unit * (16 * SIZE), stride,
                                                unit * 8 + row * RUN < units * 8 ? samples : 0);
    };
    auto inputs = [&](int64_t g, int f0) {
        const uint16_t *index = p.index + g * F + row_input + f0 / 8 * strip_input;
        #pragma unroll
        for (int k = 0; k < STRIPS; k++) input[k] = __ldg(index + k * strip_input);
    };
    if (first < units) {
        fetch(first);
        inputs(first / of_group, 0);
    }

    haste__cu_wait_before();   /* for x, which the kernel before makes */
    for (int i = (int)threadIdx.x; i < SPANS * p.width * 4; i += warps * 32) {   /* x: pieces of 8 samples */
        const int d = i / (SPANS * 4), at = i % (SPANS * 4), b = plan.first + at * 8;
        const bool there = b / HASTE__CU_TILE < p.tiles;
        const uint16_t *from = (const uint16_t *)p.x
            + ((size_t)(there ? b / HASTE__CU_TILE : 0) * (size_t)p.D + (size_t)(p.begin + d)) * HASTE__CU_TILE;
        haste__cu_copy16(memory + d * ROW + (at * 16 ^ (SPANS > 1 && d >= plan.half ? 64 : 0)),
                         from + b % HASTE__CU_TILE, there);
    }
    haste__cu_copy_wait();
    __syncthreads();

    for (; first < units; first += step) {
        haste__cu_given_pair<SPANS, RUN, BF16>(a, z);
        if (EARLY && first + step < units) fetch(first + step);
        #pragma unroll 1
        for (int unit = first; unit < first + RUN && unit < units; unit++) {
            const int64_t g = unit / of_group;
            const int next = unit + 1 < first + RUN && unit + 1 < units ? unit + 1 : first + step;
            const int label = unit % of_group * 16 + lane_label;
            const int64_t labels = p.labels - (int64_t)unit * 16 - lane_label;
            if (labels < 2) {   /* padding slots may hold anything */
                #pragma unroll
                for (int i = 0; i < SPANS * 8; i++) if (labels <= (i & 1)) a[0][i >> 2][i & 3] = 0;
            }
            #pragma unroll 1
            for (int f0 = 0; f0 < F; f0 += 8 * STRIPS) {
                uint32_t from[STRIPS];
                float c[STRIPS][4];
                #pragma unroll
                for (int k = 0; k < STRIPS; k++)
                    from[k] = x + input[k] * ROW + (SPANS > 1 && input[k] >= (uint32_t)plan.half ? 64 : 0);
                if (f0 + 8 * STRIPS < F) inputs(g, f0 + 8 * STRIPS);
                else if (next < units) inputs(next / of_group, 0);
                #pragma unroll
                for (int span = 0; span < SPANS; span++) {   /* 0, 2, 1, 3: so an address is changed only once */
                    constexpr int PAIRS = SPANS > 1 ? SPANS / 2 : 1;
                    const int s = span % PAIRS * 2 + span / PAIRS;
                    const uint32_t *one = a[0][2 * s], *two = a[0][2 * s + 1];
                    #pragma unroll
                    for (int k = 0; k < STRIPS; k++) {
                        uint32_t b[4];
                        float *to = c[k];
                        haste__cu_lds128(b, (from[k] ^ (s & 1) * 64) + (s >> 1) * 128);
                        if (span == 0) haste__narrow_mma(to, one[0], one[1], one[2], one[3], b[0], b[1], 0, 0, 0, 0);
                        else haste__narrow_mma(to, one[0], one[1], one[2], one[3], b[0], b[1], to[0], to[1], to[2], to[3]);
                        haste__narrow_mma(to, two[0], two[1], two[2], two[3], b[2], b[3], to[0], to[1], to[2], to[3]);
                    }
                }
                if (p.grad_bias && f0 == 0) {   /* a product with ones: each column of it is the sums */
                    float *to = p.grad_bias + g * S + label, sum[4] = { 0, 0, 0, 0 };
                    const uint32_t one = 0x3f803f80;
                    #pragma unroll
                    for (int i = 0; i < SPANS * 2; i++)
                        haste__narrow_mma(sum, a[0][i][0], a[0][i][1], a[0][i][2], a[0][i][3], one, one,
                                          sum[0], sum[1], sum[2], sum[3]);
                    if (quad == 0) {
                        to[0] = plan.add ? to[0] + sum[0] : sum[0];
                        to[1] = plan.add ? to[1] + sum[2] : sum[2];
                    }
                }
                if (!EARLY && f0 + 8 * STRIPS == F && next == first + step && next < units) fetch(next);
                if (p.grad_weight) {   /* a lane's inputs are rows 2 * quad and 2 * quad + 1 of each strip */
                    float *to = p.grad_weight + label
                        + (g * F + haste__cu_given_row_input(p, 2 * quad) + f0 / 8 * strip_input) * S;
                    #pragma unroll
                    for (int k = 0; k < STRIPS; k++, to += strip_input * S) {
                        #pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float2 *at = (float2 *)(void *)(to + e * upper), v = make_float2(c[k][e], c[k][2 + e]);
                            if (plan.add) { v.x += at->x; v.y += at->y; }
                            __stcs(at, v);
                        }
                    }
                }
            }
            #pragma unroll
            for (int i = 0; i < (RUN - 1) * SPANS * 8; i++)   /* the next 16 labels' */
                a[i / (SPANS * 8)][i / 4 % (SPANS * 2)][i % 4] = a[(i / (SPANS * 8) + 1) % RUN][i / 4 % (SPANS * 2)][i % 4];
        }
    }
#endif
}

/* grad_x += . Block: plan.rows samples, and its part of the units. Warp: a unit of K labels after another, F in runs of
   16 * TILES inputs. */
template <int K, int TILES, bool BF16>
static __global__ void __launch_bounds__(32 * HASTE__CU_GIVEN_X_WARPS(K, TILES), 1)
haste__cu_given_inputs_kernel(const __grid_constant__ haste__cu_pass p, const __grid_constant__ haste__cu_given_plan plan)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    constexpr int STRIPS = 2 * TILES, WORDS = K / 8, SIZE = BF16 ? 2 : 4;   /* WORDS: of a lane's labels of a row */
    HASTE__CU_SHARED(memory, 128);
    const int lane = (int)threadIdx.x & 31, row = lane >> 2, quad = lane & 3, column = (row >> 1) * 4 + (row & 1);
    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0), warps = plan.warps, slices = plan.rows / 16;
    const int part = (int)(blockIdx.x / (unsigned)plan.tiles), parts = (int)(gridDim.x / (unsigned)plan.tiles);
    const int first = (int)(blockIdx.x % (unsigned)plan.tiles) * plan.rows;
    const int F = p.F, S = p.S, of_group = S / K, units = (int)p.groups * of_group;
    const int row_input = haste__cu_given_row_input(p, row), strip_input = haste__cu_given_strip_input(p);
    const uint32_t plane = (uint32_t)p.width * 128, sums = haste__cu_address(memory);
    const uint32_t turns = sums + (uint32_t)(slices / 2) * plane;   /* [slices][warps] */
    const int64_t stride = p.slots * SIZE;
    const char *given = (const char *)p.given + (first + column) * stride + (p.first_slot + quad * (K / 4)) * SIZE;
    const int samples = min(p.B - first, plan.rows) - column;       /* those from `column` on */
    int round = 0;

    if (threadIdx.x == 0) {
        for (int i = 0; i < slices * warps; i++) haste__cu_barrier_init(turns + 8 * i, 32);
        haste__cu_barrier_init_fence();
        for (int i = 0; i < slices * 32; i++) haste__cu_barrier_arrive(turns + 8 * (i / 32 * warps));   /* warp 0 begins */
    }
    for (uint32_t i = threadIdx.x * 16; i < (uint32_t)(slices / 2) * plane; i += warps * 512)
        haste__cu_sts128(sums + i, 0, 0, 0, 0);
    __syncthreads();

    for (int base = part * warps; base < units; base += parts * warps) {
        const bool live = base + warp < units;   /* others pass on the turns, for the live ones' later runs */
        const int unit = live ? base + warp : units - 1;
        const int64_t g = unit / of_group;
        const int piece = unit % of_group;       /* of K labels in the group */
        uint32_t b[4][2][WORDS];
        {
            const char *from = given + (int64_t)unit * (K * SIZE);
            const int64_t labels = p.labels - (int64_t)unit * K - quad * (K / 4);
            #pragma unroll
            for (int i = 0; i < 8; i++) {
                const bool wanted = live && i / 2 * 16 + i % 2 * 2 < samples;
                uint32_t *to = b[i >> 1][i & 1];
                if (BF16 && K == 16) {
                    const uint2 v = haste__cu_given_load8(from, wanted);
                    to[0] = v.x; to[1] = v.y;
                } else if (BF16) {
                    const uint4 v = haste__cu_given_load16(from, wanted);
                    to[0] = v.x; to[1] = v.y; to[WORDS - 2] = v.z; to[WORDS - 1] = v.w;
                } else {
                    #pragma unroll
                    for (int n = 0; n < WORDS; n += 2) {
                        const uint4 v = haste__cu_given_load16(from + n * 8, wanted);
                        to[n] = haste__cu_pack_fast(__uint_as_float(v.x), __uint_as_float(v.y));
                        to[n + 1] = haste__cu_pack_fast(__uint_as_float(v.z), __uint_as_float(v.w));
                    }
                }
                from += i & 1 ? 14 * stride : 2 * stride;
            }
            if (labels < K / 4) {   /* padding slots may hold anything */
                #pragma unroll
                for (int i = 0; i < 8 * WORDS; i++) {
                    const int left = (int)labels - i % WORDS * 2;
                    uint32_t *v = &b[i / WORDS >> 1][i / WORDS & 1][i % WORDS];
                    *v = left > 1 ? *v : left == 1 ? *v & 0xffffu : 0;
                }
            }
        }
        for (int f0 = 0; f0 < F; f0 += 16 * TILES, round++) {
            uint32_t w[STRIPS][WORDS], at[STRIPS];
            const uint16_t *index = p.index + g * F + row_input + f0 / 8 * strip_input;
            const char *weight = (const char *)p.weight + g * (F * S * 2);
            if (p.path == HASTE_CUDA_NARROW) {   /* see haste__narrow_place: labels s and s + 2, inputs f and f + F/2 */
                const uint32_t which = row & 1 ? 0x7632 : 0x5410;
                const char *from = weight + ((K == 16 ? piece : quad >> 1) * (F / 8) + f0 / 8) * 256
                    + (K == 16 ? quad * 64 : (quad & 1) * 128) + (row >> 1) * 8;
                #pragma unroll
                for (int i = 0; i < STRIPS * WORDS / 2; i++) {
                    const int k = i / (WORDS / 2), n = i % (WORDS / 2);
                    const uint2 even = haste__cu_given_load8(from + k * 256 + n * 64, true);
                    const uint2 odd = haste__cu_given_load8(from + k * 256 + n * 64 + 32, true);
                    w[k][2 * n] = __byte_perm(even.x, odd.x, which);
                    w[k][2 * n + 1] = __byte_perm(even.y, odd.y, which);
                }
            } else {   /* rows of S labels; in the wide path's the 16-byte pieces of 64 labels are exchanged */
                const bool wide = p.path == HASTE_CUDA_WIDE;
                const int bytes = piece * (K * 2) + quad * (K / 2), row_bytes = wide ? min(S * 2, 128) : S * 2;
                const int swap = !wide ? 0 : S == 32 ? row >> 2 : row >> 1, odd_swap = !wide ? 0 : S == 32 ? 2 : 4;
                const char *from = weight + (row & 1) * (F * S) + (row >> 1) * row_bytes + f0 * S;
                #pragma unroll
                for (int k = 0; k < STRIPS; k++) {
                    const int swapped = bytes ^ (swap ^ (k & 1 ? odd_swap : 0)) << 4;
                    const char *at_k = from + (k >> 1) * (16 * S) + (k & 1) * 4 * row_bytes
                        + (wide ? (swapped >> 7) * 1024 + (swapped & 127) : swapped);
                    if (K == 16) {
                        const uint2 v = haste__cu_given_load8(at_k, true);
                        w[k][0] = v.x; w[k][1] = v.y;
                    } else {
                        const uint4 v = haste__cu_given_load16(at_k, true);
                        w[k][0] = v.x; w[k][1] = v.y; w[k][WORDS - 2] = v.z; w[k][WORDS - 1] = v.w;
                    }
                }
            }
            #pragma unroll
            for (int k = 0; k < STRIPS; k++) {
                const uint32_t d = __ldg(index + k * strip_input);
                at[k] = sums + d * 128 + (d >= (uint32_t)plan.half ? 64 : 0) + (uint32_t)quad * 16;
            }
            #pragma unroll
            for (int slice = 0; slice < 4; slice++) if (slice < slices) {
                const uint32_t turn = turns + (uint32_t)(slice * warps) * 8;
                float q[TILES][2][4];
                #pragma unroll
                for (int i = 0; i < TILES * 2; i++) {
                    float *to = q[i >> 1][i & 1];
                    const uint32_t *low = w[i & ~1], *high = w[i | 1], *v = b[slice][i & 1];
                    haste__narrow_mma(to, low[0], high[0], low[1], high[1], v[0], v[1], 0, 0, 0, 0);
                    if (K == 32) haste__narrow_mma(to, low[WORDS - 2], high[WORDS - 2], low[WORDS - 1], high[WORDS - 1],
                                                   v[WORDS - 2], v[WORDS - 1], to[0], to[1], to[2], to[3]);
                }
                haste__cu_barrier_wait(turn + (uint32_t)warp * 8, round & 1);
                if (live) {
                    constexpr int AHEAD = STRIPS < 4 ? STRIPS : 4;   /* rows read before the first is written */
                    float sum[STRIPS][4];
                    #pragma unroll
                    for (int k = 0; k < AHEAD; k++)
                        haste__cu_lds128(sum[k], (at[k] ^ (slice & 1) * 64) + (slice >> 1) * plane);
                    #pragma unroll
                    for (int k = 0; k < STRIPS; k++) {
                        const float *low = q[k >> 1][0] + (k & 1) * 2, *high = q[k >> 1][1] + (k & 1) * 2;
                        if (k + AHEAD < STRIPS)
                            haste__cu_lds128(sum[k + AHEAD], (at[k + AHEAD] ^ (slice & 1) * 64) + (slice >> 1) * plane);
                        haste__cu_sts128((at[k] ^ (slice & 1) * 64) + (slice >> 1) * plane, sum[k][0] + low[0],
                                         sum[k][1] + low[1], sum[k][2] + high[0], sum[k][3] + high[1]);
                    }
                }
                haste__cu_barrier_arrive(turn + (uint32_t)(warp + 1 == warps ? 0 : warp + 1) * 8);
            }
        }
    }
    __syncthreads();

    haste__cu_wait_before();   /* for grad_x, which the kernel before clears */
    {   /* Out with the sums, each block from another row on. */
        const int across = plan.rows / 4, pieces = p.width * across, start = (int)((int64_t)p.width * part / parts) * across;
        float *out = p.grad_x + (((int64_t)(part % p.replicas) * p.tiles + first / HASTE__CU_TILE) * p.D + p.begin)
            * HASTE__CU_TILE + first % HASTE__CU_TILE;
        #pragma unroll 4
        for (int k = (int)threadIdx.x; k < pieces; k += warps * 32) {
            const int i = k + start < pieces ? k + start : k + start - pieces, d = i / across, at = i % across * 16;
            float v[4];
            haste__cu_lds128(v, sums + (uint32_t)(at >> 7) * plane + (uint32_t)d * 128
                                 + (uint32_t)((at & 127) ^ (d >= plan.half ? 64 : 0)));
            haste__cu_add4(out + (int64_t)d * HASTE__CU_TILE + at / 4, v[0], v[1], v[2], v[3]);
        }
    }
#endif
}

/* F is worked on in runs of 16 times as many inputs. */
static int haste__cu_given_tiles(int32_t F) { return F % 64 == 0 ? 4 : F % 32 == 0 ? 2 : 1; }

/* How the gradient of the weights (weights 1) or of the inputs (0) is made. Returns 0 where these kernels do not take it. */
static int haste__cu_given_plan_make(haste__cu_given_plan *plan, const haste__cu_pass *p, int weights, int major, int minor,
                                     int shared_most, int processors)
{
    haste__cu_given_plan q;
    memset(&q, 0, sizeof q);
    if (major != 9 || minor != 0 || !haste__wide_compiled()) return 0;
    if (!p->index || p->S % 16 || p->F % 16 || p->groups == 0) return 0;
    if (((uintptr_t)p->given | (uintptr_t)p->index | (uintptr_t)p->weight | (uintptr_t)p->grad_weight) % 16) return 0;
    if (p->slots % 8 || p->first_slot % 8) return 0;
    if (!weights && p->deterministic) return 0;   /* sums of blocks are added in no fixed order */
    q.half = (p->width + 1) / 2;
    q.warps = HASTE__CU_GIVEN_X_WARPS(p->S % 32 ? 16 : 32, haste__cu_given_tiles(p->F));
    for (q.rows = weights ? 128 : 64; q.rows > 32 && q.rows / 2 >= p->B; q.rows /= 2) { }
    for (; q.rows >= 32; q.rows /= 2) {
        q.shared = weights ? q.rows * p->width * 2 : q.rows * p->width * 4 + q.rows / 16 * q.warps * 8;
        if (q.shared <= shared_most) break;
    }
    if (q.rows < 32) return 0;
    q.tiles = (p->B + q.rows - 1) / q.rows;
    q.processors = processors;
    if (!weights) {
        const int64_t turns = (p->groups * (p->S / (p->S % 32 ? 16 : 32)) + q.warps - 1) / q.warps;
        int64_t parts = processors / q.tiles;
        if (parts < 1) parts = 1;
        q.grid = (int32_t)((turns < parts ? turns : parts) * q.tiles);
    }
    *plan = q;
    return 1;
}

static const void *haste__cu_given_kernel(const haste__cu_pass *p, int rows, int weights)
{
    const int tiles = haste__cu_given_tiles(p->F);
    #define HASTE__CU_GIVEN_WEIGHTS(spans, t) \
        if (weights && tiles == t && rows == 32 * spans) \
            return p->given_bf16 ? HASTE__CU_KERNEL(haste__cu_given_weights_kernel<spans, 2 * t, true>) \
                                 : HASTE__CU_KERNEL(haste__cu_given_weights_kernel<spans, 2 * t, false>);
    #define HASTE__CU_GIVEN_INPUTS(k, t) \
        if (!weights && tiles == t && (p->S % 32 == 0) == (k == 32)) \
            return p->given_bf16 ? HASTE__CU_KERNEL(haste__cu_given_inputs_kernel<k, t, true>) \
                                 : HASTE__CU_KERNEL(haste__cu_given_inputs_kernel<k, t, false>);
    HASTE__CU_GIVEN_WEIGHTS(1, 1) HASTE__CU_GIVEN_WEIGHTS(1, 2) HASTE__CU_GIVEN_WEIGHTS(1, 4)
    HASTE__CU_GIVEN_WEIGHTS(2, 1) HASTE__CU_GIVEN_WEIGHTS(2, 2) HASTE__CU_GIVEN_WEIGHTS(2, 4)
    HASTE__CU_GIVEN_WEIGHTS(4, 1) HASTE__CU_GIVEN_WEIGHTS(4, 2) HASTE__CU_GIVEN_WEIGHTS(4, 4)
    HASTE__CU_GIVEN_INPUTS(16, 1) HASTE__CU_GIVEN_INPUTS(16, 2) HASTE__CU_GIVEN_INPUTS(16, 4)
    HASTE__CU_GIVEN_INPUTS(32, 1) HASTE__CU_GIVEN_INPUTS(32, 2) HASTE__CU_GIVEN_INPUTS(32, 4)
    #undef HASTE__CU_GIVEN_WEIGHTS
    #undef HASTE__CU_GIVEN_INPUTS
    return NULL;
}

/* One gradient of a block as planned; that of the weights by a launch for each run of samples. */
static cudaError_t haste__cu_given_launch(const haste__cu_pass *p, const haste__cu_given_plan *planned, int weights,
                                          cudaStream_t stream)
{
    haste__cu_given_plan plan = *planned;
    cudaError_t error = cudaSuccess;
    int i;
    plan.add = p->add;
    for (i = 0; i < (weights ? plan.tiles : 1) && error == cudaSuccess; i++) {
        const void *kernel;
        void *arguments[2];
        int most;
        plan.first = i * planned->rows;
        if (i > 0) plan.add = 1;
        if (weights) {
            int64_t turns;
            while (plan.rows > 32 && p->B - plan.first <= plan.rows / 2) plan.rows /= 2;   /* the last may be small */
            plan.warps = HASTE__CU_GIVEN_W_WARPS(plan.rows / 32);
            turns = p->groups * (p->S / 16) / (plan.warps * HASTE__CU_GIVEN_RUN(plan.rows / 32, p->given_bf16)) + 1;
            plan.grid = (int32_t)(turns < plan.processors ? turns : plan.processors);
        }
        kernel = haste__cu_given_kernel(p, plan.rows, weights);
        error = haste__cu_allow_all(kernel, &most);
        if (error != cudaSuccess) break;
        arguments[0] = (void *)p;
        arguments[1] = &plan;
        error = haste__cu_early(kernel, dim3((unsigned)plan.grid), 32 * plan.warps, plan.shared, 1, 1, arguments, stream);
    }
    return error;
}

/* ---- >>candidates -------------------------------------------------------------------------------------------- */

/* Gradient growth of bfloat16 blocks, S a multiple of 16, F a multiple of 16 up to 128, B up to 128: what the probe kernel
   of >>rewire does in general, with the batch resident in shared memory. A group's gradient in ALL inputs of the slice is a
   product dW [width, labels] = X dz, of which only the sum of magnitudes of each row is kept.

   A warp does a group by itself, RUN of its labels at a time, from fetching weights to picking inputs, and meets no barrier
   of the block: groups of different warps are then in different stages, and hide each other's latency. Logits come as
   [labels, samples], so that as they lie in registers they are an operand of the second product; nothing is stored between.
   x lies as in >>backward: [span of 32 samples][half of the inputs][128 bytes], an input beside input half + d; a lane reads
   16 bytes of a row, and column 2 * quad + e of piece j of a span is sample 8 * quad + 2j + e, in both products.

   Milliseconds, and the products at the rate of large ones: S 16, F 64, D 384, B 64, L 603,067: .28 (.05); S 32, F 32,
   D 384, B 64, L 100,000,000: 25 (7.7), issue 52% busy; S 32, F 64, D 768, B 128, L 670,208: .87 (.21), where x leaves room
   for four warps, and issue is 32% busy. A group at a time by the whole block, between barriers, took 1.6 to 5 times as
   long. */

/* Warps of a block at most, without spills. */
#define HASTE__CU_CANDIDATE_WARPS(run, spans) ((run) == 32 && (spans) == 4 ? 8 : 12)

typedef struct haste__cu_candidates_plan {
    int32_t run, spans, half;                     /* RUN; spans of 32 samples: 1, 2, 4; half of the inputs, 8 n */
    int32_t warps, stage;                         /* of a block; bytes of shared memory of a warp, after x */
    int32_t w, index, place, bias, key, shared;   /* where in a stage; bytes of shared memory of a block */
    int32_t grid;
} haste__cu_candidates_plan;

/* Logits z [halves][piece of 8 samples][label, sample] of a span become the gradients of the loss, but for the factor that
   all have. mark: a bit for each that is of a positive. */
template <int HALVES>
static __device__ __forceinline__ void haste__cu_candidate_slopes(const haste__cu_pass &p, float (&z)[HALVES][4][4],
                                                                  uint32_t mark, bool any, int first)
{
    uint32_t positive_of[HALVES];
    #pragma unroll
    for (int h = 0; h < HALVES; h++) positive_of[h] = mark >> (h * 16);
    if (p.loss == HASTE_SOFTMAX) { haste__cu_span_softmax<HALVES>(p, z, positive_of, first); return; }
    #pragma unroll
    for (int h = 0; h < HALVES; h++) {
        if (any) haste__cu_span_flip(z[h], positive_of[h]);
        #pragma unroll
        for (int i = 0; i < 16; i++) {
            float *v = &z[h][i >> 2][i & 3];
            *v = p.loss == HASTE_BCE ? haste__cu_inverse(1 + haste__cu_exp2(-1.4426950408889634f * *v)) : fmaxf(1 + *v, 0);
        }
        if (any) haste__cu_span_flip(z[h], positive_of[h]);
    }
}

/* r.place: the inputs that the places which move get; HASTE__CU_KEEP: stays. Warp: every gridDim.x * warps-th group. */
template <int RUN, int SPANS>
static __global__ void __launch_bounds__(32 * HASTE__CU_CANDIDATE_WARPS(RUN, SPANS), 1)
haste__cu_candidates_kernel(const __grid_constant__ haste__cu_pass p, const __grid_constant__ haste__cu_rewire r,
                            const __grid_constant__ haste__cu_candidates_plan plan)
{
    constexpr int HALVES = RUN / 16, N = RUN / 8;
    HASTE__CU_SHARED(memory, 128);
    const int warp = __shfl_sync(~0u, (int)threadIdx.x / 32, 0), lane = (int)threadIdx.x % 32;
    const int row = lane >> 2, quad = lane & 3, F = p.F, S = p.S, strips = F / 8, half = plan.half;
    const bool narrow = p.path == HASTE_CUDA_NARROW, same_order = narrow || (p.path == HASTE_CUDA_WIDE && S == RUN);
    const uint32_t plane = (uint32_t)half * 128;
    unsigned char *stage = memory + SPANS * plane + warp * plan.stage, *w = stage + plan.w;
    const uint16_t *index = (const uint16_t *)(const void *)(stage + plan.index);
    const uint32_t *place = (const uint32_t *)(const void *)(stage + plan.place);
    const float *bias = (const float *)(const void *)(stage + plan.bias);
    float *key = (float *)(void *)(stage + plan.key);
    const int label = narrow ? (row >> 1) * 4 + (row & 1) : row, apart = narrow ? 2 : 8;   /* a lane's labels: it, + apart */
    const int64_t stride = (int64_t)gridDim.x * (int)(blockDim.x / 32);
    const haste__cu_bound bound = *r.bound;
    int64_t g = blockIdx.x + (int64_t)gridDim.x * warp;
    int32_t head = -1;                   /* the next group's list of positives */
    int s0 = 0;
    uint32_t score[4], input[4];         /* of the group's places, 32 apart */
    bool bad = false;

    auto fetch = [&](int64_t group, int first) {   /* weights, inputs, scores and biases of a run of labels */
        const uint16_t *from = (const uint16_t *)p.weight + (size_t)group * (size_t)F * (size_t)S;
        if (same_order)
            for (int i = lane; i < F * N; i += 32)
                haste__cu_copy16(w + i * 16, from + (size_t)first * (size_t)F + i * 8);
        else
            for (int i = lane; i < F * N; i += 32)
                haste__cu_copy16(w + haste__wide_offset<RUN>((uint32_t)(i / N), (uint32_t)(i % N * 8)),
                                 from + haste__cu_place(p.path, S, F, i / N, first + i % N * 8));
        if (lane < F / 8) haste__cu_copy16(stage + plan.index + lane * 16, p.index + group * F + lane * 8);
        if (lane < F / 4) haste__cu_copy16(stage + plan.place + lane * 16, r.place + group * F + lane * 4);
        if (lane < RUN / 4) haste__cu_copy16(stage + plan.bias + lane * 16, p.bias + group * S + first + lane * 4);
        head = haste__cu_first(p, group);
    };
    auto pick = [&]() {   /* the largest first, ties to the smaller input */
        uint32_t best = 0, at = 0;   /* of this lane's inputs: bits of the key + 1; 0: none */
        #pragma unroll
        for (int j = 0; j < 4; j++) if (lane + 32 * j < F) key[input[j]] = -1;   /* no candidates */
        __syncwarp();
        #pragma unroll 4
        for (int i = lane; i < p.width; i += 32) {
            const float v = key[i];
            const uint32_t bits = v < 0 ? 0 : __float_as_uint(v) + 1;
            if (bits > best) { best = bits; at = (uint32_t)i; }
        }
        bad |= best > 0x7f800000u;
        #pragma unroll
        for (int j = 0; j < 4; j++) {
            const int f = lane + 32 * j;
            uint32_t to = HASTE__CU_KEEP;
            uint32_t who = __ballot_sync(~0u, f < F && haste__cu_moves(bound, score[j], g * F + f));
            for (; who; who &= who - 1) {
                const uint32_t most = __reduce_max_sync(~0u, best);
                const uint32_t winner = __reduce_min_sync(~0u, best == most ? at : 0xffffffffu);
                uint32_t own = 0, own_at = 0xffffffffu;   /* all lanes look for the next best of the winner's lane */
                if (lane == __ffs((int)who) - 1) to = winner;
                __syncwarp();   /* all have looked */
                if (lane == 0) key[winner] = -1;
                __syncwarp();
                for (int i = (int)(winner & 31) + 32 * lane; i < p.width; i += 1024) {
                    const float v = key[i];
                    const uint32_t bits = v < 0 ? 0 : __float_as_uint(v) + 1;
                    if (bits > own) { own = bits; own_at = (uint32_t)i; }
                }
                const uint32_t next = __reduce_max_sync(~0u, own);
                const uint32_t next_at = __reduce_min_sync(~0u, own == next ? own_at : 0xffffffffu);
                if (lane == (int)(winner & 31)) { best = next; at = next_at; }
            }
            if (f < F) r.place[g * F + f] = to;
        }
        __syncwarp();   /* keys may be written again */
    };

    for (int i = (int)threadIdx.x; i < SPANS * 2 * half * 4; i += (int)blockDim.x) {   /* x: pieces of 8 samples */
        const int span = i / (2 * half * 4), d = i / 4 % (2 * half), b = span * 32 + i % 4 * 8;
        const bool there = d < p.width && b / HASTE__CU_TILE < p.tiles;
        const uint16_t *from = (const uint16_t *)p.x
            + (there ? ((size_t)(b / HASTE__CU_TILE) * (size_t)p.D + (size_t)(p.begin + d)) * HASTE__CU_TILE : 0);
        haste__cu_copy16(memory + (uint32_t)span * plane + (d < half ? d * 128 : (d - half) * 128 + 64) + i % 4 * 16,
                         from + b % HASTE__CU_TILE, there);
    }
    if (g < p.groups) fetch(g, 0);
    haste__cu_copy_wait();
    __syncthreads();

    while (g < p.groups) {
        const bool last = s0 + RUN >= S;
        const int64_t next = last ? g + stride : g;
        const int next_s0 = last ? 0 : s0 + RUN, labels = haste__cu_group_labels(p, g) - s0;
        int32_t positive = head;
        uint32_t dz[SPANS * 2][N][2], mark[SPANS];
        bool any = false;
        haste__cu_copy_wait();
        __syncwarp();
        if (s0 == 0) {   /* where nothing moves, nothing is looked at */
            bool moves = false;
            #pragma unroll
            for (int j = 0; j < 4; j++) {
                const int f = lane + 32 * j;
                score[j] = f < F ? place[f] : HASTE__CU_KEEP;
                input[j] = f < F ? index[f] : 0;
                moves |= f < F && haste__cu_moves(bound, score[j], g * F + f);
            }
            if (!__any_sync(~0u, moves)) {
                for (int f = lane; f < F; f += 32) r.place[g * F + f] = HASTE__CU_KEEP;
                g += stride;
                __syncwarp();   /* all have read the stage */
                if (g < p.groups) fetch(g, 0);
                continue;
            }
        }
        #pragma unroll
        for (int span = 0; span < SPANS; span++) mark[span] = 0;
        haste__cu_each(p, positive, lane, [&](int b, int place) {
            const int s = place - s0, t = s & 15;
            const bool here = quad == (b >> 3 & 3) && row == (narrow ? (t >> 2) * 2 + (t & 1) : t & 7);
            const int high = narrow ? t >> 1 & 1 : t >> 3;
            const int bit = (s >> 4) * 16 + (b >> 1 & 3) * 4 + high * 2 + (b & 1);
            if (s < 0 || s >= RUN) return;
            any = true;
            #pragma unroll
            for (int span = 0; span < SPANS; span++)
                if (here && span == b >> 5) mark[span] |= 1u << bit;
        });

        /* Logits, and their gradients: dz [16 samples][8 labels] for the second product. */
        #pragma unroll
        for (int span = 0; span < SPANS; span++) {
            const unsigned char *x = memory + (uint32_t)span * plane + quad * 16;
            const int first = span * 32 + quad * 8;   /* this lane's samples: first .. + 7 */
            float z[HALVES][4][4], check = 0;
            #pragma unroll
            for (int i = 0; i < HALVES * 4; i++) {
                float *v = z[i >> 2][i & 3];
                v[0] = v[1] = bias[(i >> 2) * 16 + label];
                v[2] = v[3] = bias[(i >> 2) * 16 + label + apart];
            }
            #pragma unroll 2
            for (int k = 0; k < F / 16; k++) {
                const int d = index[narrow ? (row & 1) * (F / 2) + (row >> 1) * strips + 2 * k : k * 16 + row];
                const int e = index[narrow ? (row & 1) * (F / 2) + (row >> 1) * strips + 2 * k + 1 : k * 16 + 8 + row];
                const uint4 low = *(const uint4 *)(const void *)(x + (d < half ? d * 128 : (d - half) * 128 + 64));
                const uint4 high = *(const uint4 *)(const void *)(x + (e < half ? e * 128 : (e - half) * 128 + 64));
                const uint32_t b[4][2] = { { haste__cu_transpose8(low.x), haste__cu_transpose8(high.x) },
                                           { haste__cu_transpose8(low.y), haste__cu_transpose8(high.y) },
                                           { haste__cu_transpose8(low.z), haste__cu_transpose8(high.z) },
                                           { haste__cu_transpose8(low.w), haste__cu_transpose8(high.w) } };
                #pragma unroll
                for (int h = 0; h < HALVES; h++) {
                    uint32_t a[4];
                    if (narrow) {
                        const uint2 one = *(const uint2 *)(const void *)(w + (h * strips + 2 * k) * 256 + lane * 8);
                        const uint2 two = *(const uint2 *)(const void *)(w + (h * strips + 2 * k + 1) * 256 + lane * 8);
                        a[0] = one.x; a[1] = one.y; a[2] = two.x; a[3] = two.y;
                    } else {
                        const int f = k * 16 + (lane >> 4) * 8 + (lane & 7);
                        haste__cu_ldmatrix_trans(a,
                                                 w + haste__wide_offset<RUN>((uint32_t)f, (uint32_t)(h * 16 + (lane & 8))));
                    }
                    #pragma unroll
                    for (int j = 0; j < 4; j++) haste__cu_mma(z[h][j], a, b[j][0], b[j][1]);
                }
            }
            #pragma unroll
            for (int i = 0; i < HALVES * 16; i++) check = fmaf(z[i >> 4][i >> 2 & 3][i & 3], 0, check);
            bad |= check != check;
            if (span * 32 + 32 > p.B || labels < RUN) {   /* no such sample or label: a logit without gradient */
                #pragma unroll
                for (int i = 0; i < HALVES * 16; i++)
                    if (first + (i >> 2 & 3) * 2 + (i & 1) >= p.B || (i >> 4) * 16 + label + (i >> 1 & 1) * apart >= labels)
                        z[i >> 4][i >> 2 & 3][i & 3] = -1e30f;
            }
            haste__cu_candidate_slopes<HALVES>(p, z, mark[span], any, first);
            #pragma unroll
            for (int i = 0; i < HALVES * 4; i++) {
                const float *v = z[i >> 2][i & 3];
                dz[span * 2 + (i >> 1 & 1)][(i >> 2) * 2][i & 1] = haste__cu_pack_fast(v[0], v[1]);
                dz[span * 2 + (i >> 1 & 1)][(i >> 2) * 2 + 1][i & 1] = haste__cu_pack_fast(v[2], v[3]);
            }
        }
        __syncwarp();   /* the stage is no longer needed */
        if (next < p.groups) fetch(next, next_s0);

        /* 32 inputs at a time: 16 of the lower half, and those beside them. Row r of a tile m: input m*8 + r/2 of the lower
           or, for an odd one, of the upper half; row r + 8: 4 further on. */
        for (int m = 0; m < half / 8; m += 2) {
            const int two = m + 1 < half / 8;   /* is there a second tile? else the first once more */
            const unsigned char *x = memory + (m * 8 + (row >> 1)) * 128 + (row & 1) * 64 + quad * 16;
            float c[2][N][4], sum[4] = { 0, 0, 0, 0 };   /* sum: [tile][row, row + 8] */
            #pragma unroll
            for (int i = 0; i < 8 * N; i++) c[i / 4 / N][i / 4 % N][i % 4] = 0;
            #pragma unroll
            for (int span = 0; span < SPANS; span++) {
                uint32_t a[2][2][4];   /* [tile][16 samples] */
                #pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint4 low = *(const uint4 *)(const void *)(x + (uint32_t)span * plane + (i & two) * 1024);
                    const uint4 high = *(const uint4 *)(const void *)(x + (uint32_t)span * plane + (i & two) * 1024 + 512);
                    a[i][0][0] = low.x; a[i][0][1] = high.x; a[i][0][2] = low.y; a[i][0][3] = high.y;
                    a[i][1][0] = low.z; a[i][1][1] = high.z; a[i][1][2] = low.w; a[i][1][3] = high.w;
                }
                #pragma unroll
                for (int i = 0; i < 4 * N; i++)
                    haste__cu_mma(c[i / N & 1][i % N], a[i / N & 1][i / (2 * N)], dz[span * 2 + i / (2 * N)][i % N][0],
                                  dz[span * 2 + i / (2 * N)][i % N][1]);
            }
            #pragma unroll
            for (int t = 0; t < N; t++) {
                #pragma unroll
                for (int i = 0; i < 4; i++)
                    sum[i] += fabsf(c[i >> 1][t][(i & 1) * 2]) + fabsf(c[i >> 1][t][(i & 1) * 2 + 1]);
            }
            /* Four lanes have parts of four sums: each ends up with one of them. */
            const int h = quad & 1, tile = quad >> 1;
            const float a = (h ? sum[1] : sum[0]) + __shfl_xor_sync(~0u, h ? sum[0] : sum[1], 1);
            const float b = (h ? sum[3] : sum[2]) + __shfl_xor_sync(~0u, h ? sum[2] : sum[3], 1);
            const float all = (tile ? b : a) + __shfl_xor_sync(~0u, tile ? a : b, 2);
            float *to = key + (row & 1) * half + (m + tile) * 8 + h * 4 + (row >> 1);
            if (tile <= two) *to = s0 ? *to + all : all;
        }
        __syncwarp();
        if (last) pick();
        g = next;
        s0 = next_s0;
    }
    if (bad) atomicExch(&p.flag[HASTE__CU_FLAG_STOP], 1u);
}

/* Returns 0 where the kernel does not take the block. */
static int haste__cu_candidates_plan_make(haste__cu_candidates_plan *plan, const haste__cu_pass *p, int shared_most,
                                          int processors)
{
    haste__cu_candidates_plan q;
    memset(&q, 0, sizeof q);
    if (!p->index || p->S % 16 || p->F % 16 || p->F > 128 || p->B > 128 || p->groups == 0) return 0;
    if (((uintptr_t)p->index | (uintptr_t)p->weight | (uintptr_t)p->bias) % 16) return 0;
    q.spans = p->B <= 32 ? 1 : p->B <= 64 ? 2 : 4;
    q.half = (p->width + 15) / 16 * 8;
    if ((int64_t)q.spans * q.half * 128 > shared_most) return 0;
    for (q.run = p->S % 32 ? 16 : 32; ; q.run = 16) {   /* fewer labels at a time, where else there are too few warps */
        q.index = q.w + p->F * q.run * 2;
        q.place = q.index + p->F * 2;
        q.bias = q.place + p->F * 4;
        q.key = q.bias + q.run * 4;
        q.stage = q.key + 2 * q.half * 4;
        q.warps = (shared_most - q.spans * q.half * 128) / q.stage;
        if (q.warps >= 4 || q.run == 16) break;
    }
    if (q.warps < 1) return 0;
    if (q.warps > HASTE__CU_CANDIDATE_WARPS(q.run, q.spans)) q.warps = HASTE__CU_CANDIDATE_WARPS(q.run, q.spans);
    q.shared = q.spans * q.half * 128 + q.warps * q.stage;
    q.grid = p->groups < processors ? (int32_t)p->groups : processors;
    *plan = q;
    return 1;
}

static cudaError_t haste__cu_candidates_launch(const haste__cu_pass *p, const haste__cu_rewire *r,
                                               const haste__cu_candidates_plan *plan, cudaStream_t stream)
{
    const auto kernel = plan->run == 16 ? plan->spans == 1 ? haste__cu_candidates_kernel<16, 1> :
                                          plan->spans == 2 ? haste__cu_candidates_kernel<16, 2>
                                                           : haste__cu_candidates_kernel<16, 4>
                                        : plan->spans == 1 ? haste__cu_candidates_kernel<32, 1> :
                                          plan->spans == 2 ? haste__cu_candidates_kernel<32, 2>
                                                           : haste__cu_candidates_kernel<32, 4>;
    int most;
    const cudaError_t error = haste__cu_allow_all(HASTE__CU_KERNEL(kernel), &most);
    if (error != cudaSuccess) return error;
    return haste__cu_launch(kernel, (unsigned)plan->grid, 32 * (unsigned)plan->warps, (size_t)plan->shared, stream, *p, *r,
                            *plan);
}

/* ---- >>paths ------------------------------------------------------------------------------------------------- */

/* What a fast path is asked: can it train this block? */
typedef struct haste__cu_question {
    int32_t S, F, dense, width, B, D;
    int64_t groups;
    haste_dtype dtype, state_dtype;
    haste_optimizer optimizer;
    int32_t major, minor, shared_bytes, processors;   /* of the device; shared memory that a thread block may have */
    int32_t deterministic;
    int64_t sums;               /* bytes of the workspace for gradients that wait for the rest of a batch */
} haste__cu_question;

/* How the narrow path would do a step (forward 0) or the logits (1) of a block; or why it does not. */
static const char *haste__cu_narrow_plan(const haste__cu_question *q, int forward, haste__narrow_plan *plan)
{
    int state_bytes = haste__cu_states(q->optimizer) * (q->state_dtype == HASTE_F32 ? 4 : 2);
    if (q->dtype != HASTE_BF16) return "narrow: weights are float32";
    if (q->dense) return "narrow: the block is dense";
    return haste__narrow_plan_make(plan, q->S, q->F, q->width, q->groups, q->B, forward, state_bytes,
                                   q->major >= 9 && haste__cu_clusters(), q->sums, q->shared_bytes, q->processors);
}

/* 1: it takes the block, and of q->sums *bytes are of use. 0: *why says what is in the way. */
static int haste__cu_takes_with(haste_cuda_path path, const haste__cu_question *q, const char **why, int64_t *bytes)
{
    haste__narrow_plan plan;
    const char *reason = NULL;
    *why = "";
    *bytes = 0;
    switch (path) {
    case HASTE_CUDA_GENERAL: return 1;
    case HASTE_CUDA_WIDE:
        return haste__wide_takes(q->S, q->F, q->groups, q->dense, q->B, q->D, q->dtype, q->deterministic, q->sums, q->major,
                                 q->minor, q->shared_bytes, why, bytes);
    case HASTE_CUDA_NARROW:
        reason = haste__cu_narrow_plan(q, 0, &plan);
        *why = reason ? reason : "";
        if (!reason && plan.chunks > 1) *bytes = plan.at_a_time * haste__narrow_unit_bytes(&plan);
        return !reason;
    default:
        *why = "no such path";
        return 0;
    }
}
static int haste__cu_takes(haste_cuda_path path, const haste__cu_question *q, const char **why)
{
    int64_t bytes;
    return haste__cu_takes_with(path, q, why, &bytes);
}

/* The fastest path that takes a block. Where wide takes it too, narrow is faster while a block of 32 samples, or one or two
   of 64, hold the batch. */
static haste_cuda_path haste__cu_fastest(const haste__cu_question *q)
{
    haste__narrow_plan plan;
    const char *why;
    const int narrow = !haste__cu_narrow_plan(q, 0, &plan), wide = haste__cu_takes(HASTE_CUDA_WIDE, q, &why);
    if (narrow && (!wide || plan.chunks * plan.cluster * HASTE__NARROW_SAMPLES <= 2 * plan.samples)) return HASTE_CUDA_NARROW;
    return wide ? HASTE_CUDA_WIDE : HASTE_CUDA_GENERAL;
}

const char *haste_cuda_path_text(haste_cuda_path path)
{
    switch (path) {
    case HASTE_CUDA_AUTO:    return "auto";
    case HASTE_CUDA_GENERAL: return "general";
    case HASTE_CUDA_WIDE:    return "wide";
    case HASTE_CUDA_NARROW:  return "narrow";
    }
    return "unknown";
}

static haste_status haste__cu_ask(haste__cu_question *q, const haste_cuda_layer *layer, int number, int32_t B,
                                  haste_error *error)
{
    const haste_block *block = &layer->block[number];
    int device = 0, value = 0;
    memset(q, 0, sizeof *q);
    q->S = block->group_size;
    q->F = block->fan_in;
    q->dense = block->index == NULL;
    q->width = block->end - block->begin;
    q->groups = block->groups;
    q->B = B;
    q->D = layer->inputs;
    q->dtype = layer->dtype;
    q->state_dtype = layer->state_dtype;
    q->optimizer = layer->optimizer;
    q->sums = INT64_MAX;
    HASTE__CU_TRY(cudaGetDevice(&device), "cudaGetDevice");
    HASTE__CU_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
    q->major = value;
    HASTE__CU_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
    q->minor = value;
    HASTE__CU_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "cudaDeviceGetAttribute");
    q->shared_bytes = value;
    HASTE__CU_TRY(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
    q->processors = value;
    return HASTE_OK;
}

/* Why no fast path takes a block. Of two reasons that of the path which is nearer: S 16 is narrow's alone, a dense block is
   wide's, and where S is 32 wide asks for less. */
static const char *haste__cu_why_general(const haste__cu_question *q)
{
    const char *narrow, *wide;
    if (haste__cu_takes(HASTE_CUDA_NARROW, q, &narrow) || haste__cu_takes(HASTE_CUDA_WIDE, q, &wide))
        return "the layer was made with the general path";
    if (q->dtype != HASTE_BF16) return "weights are float32";
    if (q->S == 16 && !q->dense) return narrow;
    if (q->S == 16 || q->S == 32 || q->S == 64 || q->S == 128) return wide;
    return "no fast path takes this group size: narrow 16 and 32, wide 32, 64 and 128";
}

haste_cuda_path haste_cuda_path_of(const haste_cuda_layer *layer, const haste_cuda_workspace *work, int32_t number,
                                   int32_t B, const char **why)
{
    haste__cu_question q;
    const char *reason = "";
    haste_cuda_path path = HASTE_CUDA_GENERAL;
    if (!layer || number < 0 || number >= layer->block_count) reason = "no such block";
    else if (haste__cu_ask(&q, layer, number, B, NULL) != HASTE_OK) reason = "no device";
    else {
        q.deterministic = work && work->deterministic;
        if (work) q.sums = (int64_t)work->sums_bytes;
        path = layer->path[number];
        if (path == HASTE_CUDA_GENERAL) reason = haste__cu_why_general(&q);
        else if (!haste__cu_takes(path, &q, &reason)) path = HASTE_CUDA_GENERAL;
    }
    if (why) *why = reason;
    return path;
}

/* Chooses each block's path, or checks the one that is asked for. */
static haste_status haste__cu_choose(haste_cuda_layer *layer, const int *dense, const haste_cuda_options *options,
                                     haste_error *error)
{
    int i;
    int32_t B = options && options->batch ? options->batch : 128;
    if (B < 1) return haste__cu_fail(error, HASTE_ERR_ARG, "options.batch = %d, expected at least 1", (int)B);
    for (i = 0; i < layer->block_count; i++) {
        haste_cuda_path wanted = options ? options->path[i] : HASTE_CUDA_AUTO;
        haste__cu_question q;
        const char *why = "";
        haste_status status = haste__cu_ask(&q, layer, i, B, error);
        if (status != HASTE_OK) return status;
        q.dense = dense[i];
        if (wanted == HASTE_CUDA_AUTO)
            layer->path[i] = haste__cu_fastest(&q);
        else if (haste__cu_takes(wanted, &q, &why)) layer->path[i] = wanted;
        else return haste__cu_fail(error, HASTE_ERR_ARG, "options.path[%d] = %s: %s", i, haste_cuda_path_text(wanted), why);
    }
    return HASTE_OK;
}

/* ---- >>layer ------------------------------------------------------------------------------------------------- */

/* Sizes of a whole layer from options that haste_plan_bytes has found right. */
static void haste__cu_shape(haste_cuda_layer *layer, const haste_layer_options *o, int *dense)
{
    haste_block_options one;
    int64_t placed = 0, groups = 0;
    int i;
    memset(&one, 0, sizeof one);
    memset(layer, 0, sizeof *layer);
    layer->labels = o->labels;
    layer->inputs = o->inputs;
    layer->dtype = o->dtype;
    layer->state_dtype = o->state_dtype;
    layer->loss = o->loss;
    layer->optimizer = o->optimizer;
    layer->seed = o->seed;
    layer->block_count = o->block_count ? o->block_count : 1;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block_options *bo = o->block_count ? &o->block[i] : &one;
        haste_block *block = &layer->block[i];
        int32_t width;
        block->begin = bo->begin;
        block->end = bo->begin == 0 && bo->end == 0 ? o->inputs : bo->end;
        width = block->end - block->begin;
        block->group_size = bo->group_size ? bo->group_size : 32;
        block->fan_in = bo->fan_in == HASTE_DENSE ? width : bo->fan_in ? bo->fan_in : width < 64 ? width : 64;
        block->labels = bo->labels ? bo->labels : o->labels - placed;
        block->groups = (block->labels + block->group_size - 1) / block->group_size;
        block->first_slot = layer->slots;
        layer->group_base[i] = groups;
        dense[i] = block->fan_in == width;
        placed += block->labels;
        groups += block->groups;
        layer->slots += block->groups * block->group_size;
    }
}

/* Sizes (and pointers) of a whole layer from a haste_layer. */
static void haste__cu_shape_of(haste_cuda_layer *layer, const haste_layer *from, int *dense)
{
    int64_t groups = 0;
    int i;
    memset(layer, 0, sizeof *layer);
    layer->labels = from->labels;
    layer->inputs = from->inputs;
    layer->slots = from->slots;
    layer->dtype = from->dtype;
    layer->state_dtype = from->state_dtype;
    layer->loss = from->loss;
    layer->optimizer = from->optimizer;
    layer->seed = from->seed;
    layer->order_id = from->order_id;
    layer->step = from->step;
    layer->rewires = from->rewires;
    layer->label_of = from->label_of;
    layer->slot_of = from->slot_of;
    layer->block_count = from->block_count;
    for (i = 0; i < from->block_count && i < HASTE_MAX_BLOCKS; i++) {
        layer->block[i] = from->block[i];
        layer->path[i] = HASTE_CUDA_GENERAL;
        layer->group_base[i] = groups;
        groups += from->block[i].groups;
        dense[i] = from->block[i].index == NULL;
    }
}

/* Sizes and pointers: what every call checks before it trusts a layer. */
static haste_status haste__cu_quick(const haste_cuda_layer *layer, haste_error *error)
{
    int64_t slots = 0, labels = 0;
    int i, k;
    if (!layer) return haste__cu_fail(error, HASTE_ERR_ARG, "layer is NULL");
    if (layer->labels < 1 || layer->inputs < 1 || layer->inputs > 65536 || layer->block_count < 1 ||
        layer->block_count > HASTE_MAX_BLOCKS)
        return haste__cu_fail(error, HASTE_ERR_STATE, "layer: labels = %d, inputs = %d, block_count = %d: not a layer",
                              (int)layer->labels, (int)layer->inputs, (int)layer->block_count);
    if ((unsigned)layer->dtype > HASTE_BF16 || (unsigned)layer->state_dtype > HASTE_BF16 ||
        (unsigned)layer->loss > HASTE_SOFTMAX ||
        (unsigned)layer->optimizer > HASTE_ADAMW || layer->step < 0 || layer->rewires < 0)
        return haste__cu_fail(error, HASTE_ERR_STATE, "layer: dtype, loss, optimizer, step or rewires is out of range");
    if (!layer->label_of || !layer->slot_of)
        return haste__cu_fail(error, HASTE_ERR_STATE, "layer: label_of or slot_of is NULL");
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        if (b->begin < 0 || b->end <= b->begin || b->end > layer->inputs || b->fan_in < 1 || b->fan_in > b->end - b->begin)
            return haste__cu_fail(error, HASTE_ERR_STATE, "layer: block[%d] has slice %d..%d and fan-in %d, of %d inputs", i,
                                  (int)b->begin, (int)b->end, (int)b->fan_in, (int)layer->inputs);
        if (b->group_size < 8 || b->group_size > 256 || b->group_size % 8 != 0 || b->labels < 1 ||
            b->labels > layer->labels ||
            b->groups != (b->labels + b->group_size - 1) / b->group_size || b->first_slot != slots)
            return haste__cu_fail(error, HASTE_ERR_STATE,
                                  "layer: block[%d]: labels = %lld, group_size = %d, groups = %lld disagree", i,
                                  (long long)b->labels, (int)b->group_size, (long long)b->groups);
        if (!b->weight || !b->bias || (!b->index && b->fan_in != b->end - b->begin))
            return haste__cu_fail(error, HASTE_ERR_STATE, "layer: block[%d]: weight, bias or index is NULL", i);
        if (((uintptr_t)b->weight | (uintptr_t)b->bias | (uintptr_t)b->weight_state[0] |
             (uintptr_t)b->weight_state[1]) % 16 != 0)
            return haste__cu_fail(error, HASTE_ERR_ARG, "layer: block[%d]: weight, state or bias is not 16-byte aligned", i);
        for (k = 0; k < haste__cu_states(layer->optimizer); k++)
            if (!b->weight_state[k] || !b->bias_state[k])
                return haste__cu_fail(error, HASTE_ERR_STATE,
                                      "layer: block[%d]: weight_state[%d] or bias_state[%d] is NULL", i, k, k);
        slots += b->groups * b->group_size;
        labels += b->labels;
    }
    if (slots != layer->slots || slots > INT32_MAX || labels > layer->labels)
        return haste__cu_fail(error, HASTE_ERR_STATE, "layer: blocks hold %lld slots and %lld labels, expected %lld and %d",
                              (long long)slots, (long long)labels, (long long)layer->slots, (int)layer->labels);
    return HASTE_OK;
}

/* Which groups of a whole layer a part of it holds. */
typedef struct haste__cu_cut {
    int     block[HASTE_MAX_BLOCKS];    /* of the whole layer */
    int64_t group[HASTE_MAX_BLOCKS];    /* its first there */
} haste__cu_cut;

static haste_status haste__cu_cut_layer(haste_cuda_layer *part, const haste_cuda_layer *whole, int64_t first, int64_t end,
                                        haste__cu_cut *cut, haste_error *error)
{
    int i, n = 0;
    *part = *whole;
    memset(cut, 0, sizeof *cut);
    if (first == 0 && end == 0) end = whole->slots;
    if (first < 0 || end <= first || end > whole->slots)
        return haste__cu_fail(error, HASTE_ERR_ARG,
                              "first_slot = %lld, end_slot = %lld, expected 0 <= first < end <= slots = %lld",
                              (long long)first, (long long)end, (long long)whole->slots);
    for (i = 0; i < whole->block_count; i++) {
        const haste_block *from = &whole->block[i];
        int64_t S = from->group_size, last = from->first_slot + from->groups * S;
        int64_t low = first > from->first_slot ? first : from->first_slot, high = end < last ? end : last;
        haste_block *to = &part->block[n];
        if (low >= high) continue;
        low -= from->first_slot;
        high -= from->first_slot;
        if (low % S != 0 || high % S != 0)
            return haste__cu_fail(error, HASTE_ERR_ARG,
                                  "first_slot = %lld, end_slot = %lld: block[%d] has groups of %d, expected whole ones",
                                  (long long)first, (long long)end, i, (int)S);
        *to = *from;
        to->groups = (high - low) / S;
        to->labels = (from->labels < high ? from->labels : high) - low;
        to->first_slot = from->first_slot + low - first;
        part->path[n] = whole->path[i];
        part->group_base[n] = whole->group_base[i] + low / S;
        cut->block[n] = i;
        cut->group[n] = low / S;
        n++;
    }
    part->block_count = n;
    part->slots = end - first;
    part->first_slot = whole->first_slot + first;
    return HASTE_OK;
}

/* Places the arrays; sets pointers only where there is memory. */
static haste_status haste__cu_arrange(haste_cuda_layer *layer, const int *dense, char *memory, size_t *bytes,
                                      haste_error *error)
{
    size_t end = 0, at = 0;
    int i, k, ok = 1;
    #define HASTE__CU_ARRAY(pointer, type, count, width)                                                             \
        do {                                                                                                         \
            ok = ok && haste__cu_array(&end, (uint64_t)(count), (uint64_t)(width), &at);                             \
            if (ok && memory) pointer = (type)(void *)(memory + at);                                                 \
        } while (0)
    for (i = 0; i < layer->block_count; i++) {
        haste_block *block = &layer->block[i];
        uint64_t slots = (uint64_t)block->groups * (uint64_t)block->group_size, weights = slots * (uint64_t)block->fan_in;
        block->index = NULL;
        if (!dense[i]) HASTE__CU_ARRAY(block->index, uint16_t *, (uint64_t)block->groups * (uint64_t)block->fan_in,
                                       sizeof(uint16_t));
        HASTE__CU_ARRAY(block->weight, void *, weights, haste__cu_width(layer->dtype));
        HASTE__CU_ARRAY(block->bias, float *, slots, sizeof(float));
        for (k = 0; k < 2; k++) {
            block->weight_state[k] = NULL;
            block->bias_state[k] = NULL;
            if (k >= haste__cu_states(layer->optimizer)) continue;
            HASTE__CU_ARRAY(block->weight_state[k], void *, weights, haste__cu_width(layer->state_dtype));
            HASTE__CU_ARRAY(block->bias_state[k], float *, slots, sizeof(float));
        }
    }
    HASTE__CU_ARRAY(layer->label_of, int32_t *, layer->slots, sizeof(int32_t));
    HASTE__CU_ARRAY(layer->slot_of, int32_t *, layer->labels, sizeof(int32_t));
    if (!ok) return haste__cu_fail(error, HASTE_ERR_SIZE, "the layer's size overflows size_t");
    *bytes = end;
    return HASTE_OK;
}

/* Is this the caller's memory that was promised? */
static haste_status haste__cu_own_memory(const void *memory, size_t bytes, size_t needed, haste_error *error)
{
    if ((uintptr_t)memory % 256)
        return haste__cu_fail(error, HASTE_ERR_ARG, "memory = %p, expected a pointer aligned to 256 bytes", memory);
    if (bytes < needed)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "bytes = %llu of memory, expected at least %llu",
                              (unsigned long long)bytes, (unsigned long long)needed);
    return HASTE_OK;
}

/* Memory for a layer whose sizes are known. *base: where it begins; layer->memory stays NULL where it is the caller's. */
static haste_status haste__cu_layer_alloc(haste_cuda_layer *layer, const int *dense, const haste_cuda_options *options,
                                          void **base, haste_error *error)
{
    haste_status status = haste__cu_arrange(layer, dense, NULL, &layer->bytes, error);
    int device = 0;
    *base = options ? options->memory : NULL;
    if (status == HASTE_OK && *base) status = haste__cu_own_memory(*base, options->bytes, layer->bytes, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_TRY(cudaGetDevice(&device), "cudaGetDevice");
    status = haste__cu_begin(device, error);
    if (status == HASTE_OK && !*base) {
        status = haste__cu_take(&layer->memory, layer->bytes, "memory for the layer", error);
        *base = layer->memory;
    }
    if (status != HASTE_OK) return status;
    layer->device = device;
    return haste__cu_arrange(layer, dense, (char *)*base, &layer->bytes, error);
}

void haste_cuda_layer_free(haste_cuda_layer *layer)
{
    if (!layer) return;
    if (layer->memory) HASTE_CUDA_FREE(layer->memory);
    memset(layer, 0, sizeof *layer);
}

static haste_status haste__cu_reorder(void *array, haste_dtype dtype, const haste_block *block, int path,
                                      cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    const int S = block->group_size, F = block->fan_in, strip = haste__cu_strip(path, F);
    const int grid = haste__cu_grid(block->groups * ((F + strip - 1) / strip));
    const size_t shared = (size_t)strip * (size_t)S * haste__cu_width(dtype);   /* at most 32 KiB: wide 64*128*4 */
    if (haste__cu_natural(path)) return HASTE_OK;
    if (dtype == HASTE_F32)
        HASTE__CU_LAUNCH(haste__cu_reorder_kernel<float>, grid, HASTE__CU_THREADS, shared, stream, (float *)array,
                         block->groups, S, F, strip, path);
    else
        HASTE__CU_LAUNCH(haste__cu_reorder_kernel<uint16_t>, grid, HASTE__CU_THREADS, shared, stream, (uint16_t *)array,
                         block->groups, S, F, strip, path);
    HASTE__CU_LAUNCHED("ordering weights");
    return HASTE_OK;
}

static haste_status haste__cu_send(void *to, const void *from, size_t bytes, cudaStream_t stream, haste_error *error)
{
    return haste__cu_result(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "copying to the device",
                            error);
}

static haste_status haste__cu_upload_block(const haste_cuda_layer *layer, int number, const haste_block *from, size_t group,
                                           cudaStream_t stream, haste_error *error)
{
    const haste_block *to = &layer->block[number];
    const size_t S = (size_t)to->group_size, F = (size_t)to->fan_in, n = (size_t)to->groups;
    const size_t w = haste__cu_width(layer->dtype), v = haste__cu_width(layer->state_dtype);
    haste_status status = HASTE_OK;
    int k;
    if (to->index) status = haste__cu_send(to->index, from->index + group * F, n * F * 2, stream, error);
    if (status == HASTE_OK)
        status = haste__cu_send(to->weight, (const char *)from->weight + group * F * S * w, n * F * S * w, stream, error);
    if (status == HASTE_OK)
        status = haste__cu_reorder(to->weight, layer->dtype, to, layer->path[number], stream, error);
    if (status == HASTE_OK) status = haste__cu_send(to->bias, from->bias + group * S, n * S * 4, stream, error);
    for (k = 0; k < haste__cu_states(layer->optimizer) && status == HASTE_OK; k++) {
        status = haste__cu_send(to->weight_state[k], (const char *)from->weight_state[k] + group * F * S * v, n * F * S * v,
                                stream, error);
        if (status == HASTE_OK)
            status = haste__cu_reorder(to->weight_state[k], layer->state_dtype, to, layer->path[number], stream, error);
        if (status == HASTE_OK)
            status = haste__cu_send(to->bias_state[k], from->bias_state[k] + group * S, n * S * 4, stream, error);
    }
    return status;
}

/* Waits for the stream, whatever has happened: on failure too nothing may be under way to or from memory that is given back.
   Returns the first thing that went wrong. */
static haste_status haste__cu_wait(haste_status status, const char *what, cudaStream_t stream, haste_error *error)
{
    const cudaError_t result = cudaStreamSynchronize(stream);
    return status != HASTE_OK ? status : haste__cu_result(result, what, error);
}

haste_status haste_cuda_upload(haste_cuda_layer *layer, const haste_layer *host, const haste_cuda_options *options,
                               haste_cuda_stream stream, haste_error *error)
{
    haste_cuda_layer whole, l;
    haste__cu_cut cut;
    int dense[HASTE_MAX_BLOCKS], part_dense[HASTE_MAX_BLOCKS], i;
    cudaStream_t s = (cudaStream_t)stream;
    void *base;
    haste_status status;
    if (!layer || !host) return haste__cu_fail(error, HASTE_ERR_ARG, "layer or host is NULL");
    status = haste_cuda_supported(error);
    if (status != HASTE_OK) return status;
    haste__cu_shape_of(&whole, host, dense);
    status = haste__cu_quick(&whole, error);
    if (status != HASTE_OK) return status;
    status = haste__cu_choose(&whole, dense, options, error);
    if (status == HASTE_OK)
        status = haste__cu_cut_layer(&l, &whole, options ? options->first_slot : 0, options ? options->end_slot : 0, &cut,
                                     error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "haste_cuda_upload", error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < l.block_count; i++) part_dense[i] = dense[cut.block[i]];
    status = haste__cu_layer_alloc(&l, part_dense, options, &base, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < l.block_count && status == HASTE_OK; i++)
        status = haste__cu_upload_block(&l, i, &host->block[cut.block[i]], (size_t)cut.group[i], s, error);
    if (status == HASTE_OK)
        status = haste__cu_send(l.label_of, host->label_of + l.first_slot, (size_t)l.slots * 4, s, error);
    if (status == HASTE_OK) status = haste__cu_send(l.slot_of, host->slot_of, (size_t)l.labels * 4, s, error);
    status = haste__cu_wait(status, "uploading the layer", s, error);
    if (status == HASTE_OK) *layer = l;
    else if (l.memory) HASTE_CUDA_FREE(l.memory);
    return status;
}

haste_status haste_cuda_layer_view(haste_cuda_layer *layer, const haste_layer *arrays, haste_error *error)
{
    haste_cuda_layer l;
    int dense[HASTE_MAX_BLOCKS], device = 0;
    haste_status status;
    if (!layer || !arrays) return haste__cu_fail(error, HASTE_ERR_ARG, "layer or arrays is NULL");
    status = haste_cuda_supported(error);
    if (status != HASTE_OK) return status;
    haste__cu_shape_of(&l, arrays, dense);
    status = haste__cu_quick(&l, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_TRY(cudaGetDevice(&device), "cudaGetDevice");
    l.device = device;
    *layer = l;
    return HASTE_OK;
}

haste_status haste_cuda_layer_range(haste_cuda_layer *view, const haste_cuda_layer *layer, int64_t first_slot,
                                    int64_t end_slot, haste_error *error)
{
    haste_cuda_layer v;
    haste__cu_cut cut;
    int i, k;
    haste_status status = haste__cu_quick(layer, error);
    if (status != HASTE_OK) return status;
    if (!view) return haste__cu_fail(error, HASTE_ERR_ARG, "view is NULL");
    status = haste__cu_cut_layer(&v, layer, first_slot, end_slot, &cut, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < v.block_count; i++) {
        haste_block *b = &v.block[i];
        size_t g = (size_t)cut.group[i], S = (size_t)b->group_size, F = (size_t)b->fan_in;
        if (b->index) b->index += g * F;
        b->weight = (char *)b->weight + g * F * S * haste__cu_width(v.dtype);
        b->bias += g * S;
        for (k = 0; k < haste__cu_states(v.optimizer); k++) {
            b->weight_state[k] = (char *)b->weight_state[k] + g * F * S * haste__cu_width(v.state_dtype);
            b->bias_state[k] += g * S;
        }
    }
    v.label_of += first_slot;
    v.memory = NULL;
    v.bytes = 0;
    *view = v;
    return HASTE_OK;
}

static haste_status haste__cu_receive(void *to, const void *from, size_t bytes, cudaStream_t stream, haste_error *error)
{
    return haste__cu_result(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "copying from the device",
                            error);
}

/* Weights or state of a block to the host, in the order of haste.h. */
static haste_status haste__cu_receive_ordered(void *to, const void *from, const haste_block *block, size_t width, int path,
                                              cudaStream_t stream, haste_error *error)
{
    const size_t S = (size_t)block->group_size, n = S * (size_t)block->fan_in;
    size_t *place, i;
    int64_t g;
    char *copy;
    haste_status status = haste__cu_receive(to, from, (size_t)block->groups * n * width, stream, error);
    if (status != HASTE_OK || haste__cu_natural(path)) return status;
    HASTE__CU_TRY(cudaStreamSynchronize(stream), "copying from the device");
    place = (size_t *)HASTE_MALLOC(n * (sizeof *place + width));
    if (!place) return haste__cu_fail(error, HASTE_ERR_MEMORY, "no memory to order one group's weights");
    copy = (char *)(place + n);
    for (i = 0; i < n; i++)
        place[i] = (size_t)haste__cu_place(path, block->group_size, block->fan_in, (int)(i / S), (int)(i % S));
    for (g = 0; g < block->groups; g++) {
        char *group = (char *)to + (size_t)g * n * width;
        memcpy(copy, group, n * width);
        if (width == 2) for (i = 0; i < n; i++) memcpy(group + 2 * i, copy + 2 * place[i], 2);
        else for (i = 0; i < n; i++) memcpy(group + 4 * i, copy + 4 * place[i], 4);
    }
    HASTE_FREE(place);
    return HASTE_OK;
}

static haste_status haste__cu_download_block(const haste_cuda_layer *layer, int number, haste_block *to, size_t group,
                                             cudaStream_t stream, haste_error *error)
{
    const haste_block *from = &layer->block[number];
    const size_t S = (size_t)from->group_size, F = (size_t)from->fan_in, n = (size_t)from->groups;
    const size_t w = haste__cu_width(layer->dtype), v = haste__cu_width(layer->state_dtype);
    haste_status status = HASTE_OK;
    int k;
    if (from->index) status = haste__cu_receive(to->index + group * F, from->index, n * F * 2, stream, error);
    if (status == HASTE_OK)
        status = haste__cu_receive_ordered((char *)to->weight + group * F * S * w, from->weight, from, w,
                                           layer->path[number], stream, error);
    if (status == HASTE_OK) status = haste__cu_receive(to->bias + group * S, from->bias, n * S * 4, stream, error);
    for (k = 0; k < haste__cu_states(layer->optimizer) && status == HASTE_OK; k++) {
        status = haste__cu_receive_ordered((char *)to->weight_state[k] + group * F * S * v, from->weight_state[k], from, v,
                                           layer->path[number], stream, error);
        if (status == HASTE_OK)
            status = haste__cu_receive(to->bias_state[k] + group * S, from->bias_state[k], n * S * 4, stream, error);
    }
    return status;
}

haste_status haste_cuda_download(const haste_cuda_layer *layer, haste_layer *host, haste_cuda_stream stream,
                                 haste_error *error)
{
    haste_cuda_layer whole, part;
    haste__cu_cut cut;
    int dense[HASTE_MAX_BLOCKS], i;
    cudaStream_t s = (cudaStream_t)stream;
    haste_status status = haste__cu_quick(layer, error);
    if (status != HASTE_OK) return status;
    if (!host) return haste__cu_fail(error, HASTE_ERR_ARG, "host is NULL");
    haste__cu_shape_of(&whole, host, dense);
    status = haste__cu_quick(&whole, error);
    if (status == HASTE_OK) status = haste__cu_begin(layer->device, error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "haste_cuda_download", error);
    if (status == HASTE_OK)
        status = haste__cu_cut_layer(&part, &whole, layer->first_slot, layer->first_slot + layer->slots, &cut, error);
    if (status != HASTE_OK) return status;
    if (part.labels != layer->labels || part.inputs != layer->inputs || part.dtype != layer->dtype ||
        part.optimizer != layer->optimizer || part.state_dtype != layer->state_dtype || part.loss != layer->loss ||
        part.block_count != layer->block_count)
        return haste__cu_fail(error, HASTE_ERR_ARG, "host is a layer of another shape, type, loss or optimizer");
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *a = &layer->block[i], *b = &part.block[i];
        if (a->groups != b->groups || a->labels != b->labels || a->group_size != b->group_size || a->fan_in != b->fan_in ||
            a->begin != b->begin || a->end != b->end || !a->index != !b->index)
            return haste__cu_fail(error, HASTE_ERR_ARG, "host is a layer of another shape: block[%d] differs", i);
    }
    for (i = 0; i < layer->block_count && status == HASTE_OK; i++)
        status = haste__cu_download_block(layer, i, &host->block[cut.block[i]], (size_t)cut.group[i], s, error);
    if (status == HASTE_OK)
        status = haste__cu_receive(host->label_of + layer->first_slot, layer->label_of, (size_t)layer->slots * 4, s, error);
    if (status == HASTE_OK) status = haste__cu_receive(host->slot_of, layer->slot_of, (size_t)layer->labels * 4, s, error);
    status = haste__cu_wait(status, "downloading the layer", s, error);
    if (status != HASTE_OK) return status;
    host->step = layer->step;
    host->rewires = layer->rewires;
    host->seed = layer->seed;
    host->order_id = layer->order_id;
    return HASTE_OK;
}

static void haste__cu_pass_block(haste__cu_pass *p, const haste_cuda_layer *layer, int number);

/* The prior of a block's labels, as haste_layer_init; padding 0. */
static void haste__cu_prior(float *bias, const int32_t *label_of, int64_t slots, const haste_layer_options *o)
{
    int64_t i;
    for (i = 0; i < slots; i++) {
        double q = label_of[i] < 0 ? 1 : ((double)o->frequency[label_of[i]] + .5) / ((double)o->samples + 1);
        bias[i] = label_of[i] < 0 ? 0 : (float)(o->loss == HASTE_BCE ? log(q / (1 - q)) :
                                                o->loss == HASTE_SQUARED_HINGE ? 2 * q - 1 : log(q));
    }
}

/* Fills one block on the device. label_of: of its slots; bias: room for as many numbers. */
static haste_status haste__cu_fill_block(const haste_cuda_layer *layer, int number, const haste_layer_options *o,
                                         const int32_t *label_of, float *bias, cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    const haste_block *block = &layer->block[number];
    const int64_t slots = block->groups * block->group_size;
    const int width = block->end - block->begin, grid = haste__cu_grid(slots * block->fan_in / HASTE__CU_THREADS + 1);
    const uint64_t key = haste__cu_key(layer->seed, HASTE__CU_RANDOM_WEIGHT);
    const float root = (float)sqrt((double)block->fan_in);
    haste__cu_pass p;
    memset(&p, 0, sizeof p);
    haste__cu_pass_block(&p, layer, number);
    if (block->index) {
        HASTE__CU_LAUNCH(haste__cu_draw_index_kernel, haste__cu_grid(block->groups), 32, (size_t)(width + 31) / 32 * 4,
                         stream, block->index, block->groups, layer->group_base[number], block->fan_in, width,
                         haste__cu_key(layer->seed, HASTE__CU_RANDOM_INDEX));
        HASTE__CU_LAUNCHED("drawing indices");
    }
    if (!o->zero_weights) {
        if (layer->dtype == HASTE_F32)
            HASTE__CU_LAUNCH(haste__cu_draw_weight_kernel<float>, grid, HASTE__CU_THREADS, 0, stream, p, key, root);
        else HASTE__CU_LAUNCH(haste__cu_draw_weight_kernel<uint16_t>, grid, HASTE__CU_THREADS, 0, stream, p, key, root);
        HASTE__CU_LAUNCHED("drawing weights");
    }
    if (!o->frequency) return HASTE_OK;
    haste__cu_prior(bias, label_of, slots, o);
    return haste__cu_send(block->bias, bias, (size_t)slots * 4, stream, error);
}

/* Fills a layer on the device, whose memory begins at `base`. label_of [slots of the whole layer], slot_of [L], bias
   [slots], all on the host, may be given back when it returns. */
static haste_status haste__cu_layer_fill(haste_cuda_layer *layer, void *base, const haste_layer_options *o,
                                         const int32_t *label_of, const int32_t *slot_of, float *bias, cudaStream_t stream,
                                         haste_error *error)
{
    haste_status status = haste__cu_result(cudaMemsetAsync(base, 0, layer->bytes, stream), "cudaMemsetAsync", error);
    int i;
    label_of += layer->first_slot;
    for (i = 0; i < layer->block_count && status == HASTE_OK; i++)
        status = haste__cu_fill_block(layer, i, o, label_of + layer->block[i].first_slot, bias + layer->block[i].first_slot,
                                      stream, error);
    if (status == HASTE_OK)
        status = haste__cu_send(layer->label_of, label_of, (size_t)layer->slots * 4, stream, error);
    if (status == HASTE_OK) status = haste__cu_send(layer->slot_of, slot_of, (size_t)layer->labels * 4, stream, error);
    return haste__cu_wait(status, "making the layer", stream, error);
}

/* Checks order and frequency, and turns the order into label_of and slot_of, and into order_id, as haste.h does. */
static haste_status haste__cu_order(const haste_cuda_layer *whole, const haste_layer_options *o, int32_t *label_of,
                                    int32_t *slot_of, uint64_t *order_id, haste_error *error)
{
    int64_t j, placed = 0;
    int i;
    for (j = 0; j < o->labels && o->frequency; j++)
        if (o->frequency[j] < 0 || o->frequency[j] > o->samples)
            return haste__cu_fail(error, HASTE_ERR_DATA, "frequency[%lld] = %lld, expected 0 to samples = %lld", (long long)j,
                                  (long long)o->frequency[j], (long long)o->samples);
    for (j = 0; j < o->labels; j++) slot_of[j] = -1;
    for (j = 0; j < whole->slots; j++) label_of[j] = -1;
    for (i = 0; i < whole->block_count; i++)
        for (j = 0; j < whole->block[i].labels; j++, placed++) {
            int32_t id = o->order ? o->order[placed] : (int32_t)placed;
            if (id < 0 || id >= o->labels || slot_of[id] >= 0)
                return haste__cu_fail(error, HASTE_ERR_DATA, "order[%lld] = %d: expected a permutation of the label ids",
                                      (long long)placed, (int)id);
            slot_of[id] = (int32_t)(whole->block[i].first_slot + j);
            label_of[whole->block[i].first_slot + j] = id;
        }
    *order_id = 0;
    for (j = 0; j < whole->slots; j++)
        *order_id = haste__cu_mix(*order_id * HASTE__CU_GOLDEN + (uint32_t)label_of[j]);
    return HASTE_OK;
}

haste_status haste_cuda_layer_create(haste_cuda_layer *layer, const haste_layer_options *options,
                                     const haste_cuda_options *cuda, haste_cuda_stream stream, haste_error *error)
{
    haste_cuda_layer whole, l;
    haste__cu_cut cut;
    haste_plan plan;
    int dense[HASTE_MAX_BLOCKS], part_dense[HASTE_MAX_BLOCKS], i;
    int32_t *order;
    float *bias;
    void *base;
    haste_status status;
    if (!layer) return haste__cu_fail(error, HASTE_ERR_ARG, "layer is NULL");
    status = haste_plan_bytes(options, NULL, &plan, error);   /* checks the options */
    if (status == HASTE_OK && options->first_slot != 0)
        status = haste__cu_fail(error, HASTE_ERR_ARG, "options->first_slot = %lld, expected 0: those of a range are "
                                "haste_cuda_options.first_slot and end_slot", (long long)options->first_slot);
    if (status == HASTE_OK) status = haste_cuda_supported(error);
    if (status != HASTE_OK) return status;
    haste__cu_shape(&whole, options, dense);
    status = haste__cu_choose(&whole, dense, cuda, error);
    if (status == HASTE_OK)
        status = haste__cu_cut_layer(&l, &whole, cuda ? cuda->first_slot : 0, cuda ? cuda->end_slot : 0, &cut, error);
    if (status == HASTE_OK) status = haste__cu_not_captured((cudaStream_t)stream, "haste_cuda_layer_create", error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < l.block_count; i++) part_dense[i] = dense[cut.block[i]];
    order = (int32_t *)HASTE_MALLOC(((size_t)whole.slots + (size_t)whole.labels) * sizeof *order);
    bias = (float *)HASTE_MALLOC((size_t)l.slots * sizeof *bias);
    if (!order || !bias) status = haste__cu_fail(error, HASTE_ERR_MEMORY, "no memory for the label order");
    if (status == HASTE_OK) status = haste__cu_order(&whole, options, order, order + whole.slots, &l.order_id, error);
    if (status == HASTE_OK) status = haste__cu_layer_alloc(&l, part_dense, cuda, &base, error);
    if (status == HASTE_OK) {
        status = haste__cu_layer_fill(&l, base, options, order, order + whole.slots, bias, (cudaStream_t)stream, error);
        if (status != HASTE_OK && l.memory) HASTE_CUDA_FREE(l.memory);
    }
    if (order) HASTE_FREE(order);
    if (bias) HASTE_FREE(bias);
    if (status == HASTE_OK) *layer = l;
    return status;
}

/* ---- >>workspace --------------------------------------------------------------------------------------------- */

/* A workspace as the calls use it: its sizes, and its arrays, found anew in its memory by each call. */
typedef struct haste__cu_work {
    haste_cuda_workspace *own;         /* where the turn of the pinned buffers is kept */
    int32_t   batch, top_k, deterministic, chunks;
    int64_t   ids, groups;
    haste_purpose purpose;
    haste_dtype dtype;
    int32_t   inputs, max_fan_in;
    int32_t   tiles;                   /* blocks of 64 samples */
    int32_t   replicas, parts;         /* copies of grad_x; the most thread blocks of a forward kernel, for each tile */
    void     *x;                       /* [tiles][D][64] float or bfloat16 */
    void     *x_wide;                  /* the same in the order of the wide path; bfloat16 only */
    float    *grad_x;                  /* [replicas][tiles][D][64] */
    void     *slopes;                  /* [thread blocks][tiles][64][64] logit gradients of groups with F > 64 */
    int32_t  *head;                    /* [2 * groups + 1], see haste__cu_pairs */
    haste__cu_pair *pair;              /* [ids] */
    haste__cu_node *node;              /* [ids + HASTE__CU_NODES_MORE] */
    int32_t  *row;                     /* [tiles*64] distinct ids of a sample */
    float    *norm;                    /* [4][tiles*64] softmax: largest logit, 1/sum, log-sum-exp, 1/n */
    float    *partial;                 /* [parts][2][tiles*64][2] softmax: maximum and sum of each half part; top-k: the
                                          best of each of some sets of labels */
    double   *loss;                    /* [blocks of the layer][2048] */
    float    *sums;                    /* gradients of chunks of the narrow path: */
    size_t    sums_bytes;
    uint32_t *floor;                   /* [tiles*64] top-k: what a label must reach */
    uint64_t *best;                    /* [lists][top_k] labels and logits as one number each */
    int64_t  *count;                   /* [batch+1] haste_cuda_above: hits of a sample */
    int64_t  *offset;                  /* [batch+1] device copies of host lists */
    int32_t  *id;                      /* [ids] */
    haste__cu_moment *moment;          /* [blocks of the layer] what step this is */
    uint32_t *flag;                    /* [8] */
} haste__cu_work;

/* Bytes for the gradients that parts of a batch hand on: those of all groups, but not more than 256 MiB. Dense blocks: as
   `dense` says, or (NULL) those without indices. 0 where none is needed, and without a device. */
static size_t haste__cu_sums_bytes(const haste_cuda_layer *layer, const int *dense, int32_t B)
{
    const int64_t most = INT64_C(256) << 20;
    int64_t bytes = 0;
    int i;
    for (i = 0; i < layer->block_count; i++) {
        haste__cu_question q;
        const char *why;
        int64_t own;
        if (layer->path[i] == HASTE_CUDA_GENERAL || haste__cu_ask(&q, layer, i, B, NULL) != HASTE_OK) continue;
        if (dense) q.dense = dense[i];
        q.sums = most;
        if (haste__cu_takes_with(layer->path[i], &q, &why, &own) && own > bytes) bytes = own;
    }
    return (size_t)bytes;
}

static haste_status haste__cu_workspace_shape(haste_cuda_workspace *work, const haste_cuda_layer *layer, const int *dense,
                                              const haste_cuda_workspace_options *options, haste_error *error)
{
    haste_cuda_workspace_options o;
    int i;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    memset(work, 0, sizeof *work);
    work->batch = o.batch ? o.batch : 128;
    work->ids = o.ids ? o.ids : 64 * (int64_t)work->batch;
    work->top_k = o.top_k ? o.top_k : 16;
    work->deterministic = o.deterministic != 0;
    work->chunks = o.chunks ? o.chunks : 64;
    work->purpose = o.purpose;
    if (work->batch < 1 || work->batch > 1 << 24)
        return haste__cu_fail(error, HASTE_ERR_ARG, "batch = %d, expected 1 to 2^24", (int)o.batch);
    if (work->ids < 1 || work->ids > INT32_MAX)
        return haste__cu_fail(error, HASTE_ERR_ARG, "ids = %lld, expected 1 to 2^31 - 1", (long long)o.ids);
    if (work->top_k < 1 || work->top_k > HASTE__CU_MAX_K)
        return haste__cu_fail(error, HASTE_ERR_ARG, "top_k = %d, expected 1 to %d", (int)o.top_k, (int)HASTE__CU_MAX_K);
    if (work->chunks < 1 || work->chunks > HASTE__CU_PARTS)
        return haste__cu_fail(error, HASTE_ERR_ARG, "chunks = %d, expected 1 to %d", (int)o.chunks, (int)HASTE__CU_PARTS);
    if ((unsigned)o.purpose > HASTE_PREDICTION)
        return haste__cu_fail(error, HASTE_ERR_ARG, "purpose = %d is unknown", (int)o.purpose);
    work->inputs = layer->inputs;
    work->dtype = layer->dtype;
    for (i = 0; i < layer->block_count; i++) {
        work->groups += layer->block[i].groups;
        if (layer->block[i].fan_in > work->max_fan_in) work->max_fan_in = layer->block[i].fan_in;
    }
    if (work->purpose != HASTE_PREDICTION) work->sums_bytes = haste__cu_sums_bytes(layer, dense, work->batch);
    return HASTE_OK;
}

/* The sizes of a workspace, and those that follow from them. */
static void haste__cu_work_make(haste__cu_work *work, const haste_cuda_workspace *own)
{
    size_t one;
    memset(work, 0, sizeof *work);
    work->batch = own->batch;
    work->sums_bytes = own->sums_bytes;
    work->top_k = own->top_k;
    work->deterministic = own->deterministic;
    work->chunks = own->chunks;
    work->ids = own->ids;
    work->groups = own->groups;
    work->purpose = own->purpose;
    work->dtype = own->dtype;
    work->inputs = own->inputs;
    work->max_fan_in = own->max_fan_in;
    work->tiles = (work->batch - 1) / HASTE__CU_TILE + 1;
    one = (size_t)work->tiles * (size_t)work->inputs * HASTE__CU_TILE * 4;
    work->replicas = work->deterministic ? work->chunks : one <= (4u << 20) ? 8 : one <= (16u << 20) ? 2 : 1;
    work->parts = HASTE__CU_PARTS / work->tiles;   /* of a forward kernel, for each tile */
    if (work->parts < 32) work->parts = 32;
}

/* The most thread blocks of the kernels that need scratch memory each, but for the deterministic mode. */
static int haste__cu_workers(int tiles)
{
    return tiles <= 8 ? HASTE__CU_PARTS : tiles < 64 ? 8 * HASTE__CU_PARTS / tiles : 128;
}

/* Places the arrays of a workspace that its purpose needs; sets pointers only where there is memory. */
static haste_status haste__cu_work_arrange(haste__cu_work *work, char *memory, size_t *bytes, haste_error *error)
{
    size_t end = 0, at = 0, padded = (size_t)work->tiles * HASTE__CU_TILE, x = padded * (size_t)work->inputs;
    size_t width = haste__cu_width(work->dtype), batch = (size_t)work->batch, lists = (size_t)work->parts * padded;
    uint64_t workers = (uint64_t)haste__cu_workers(work->tiles);
    const int train = work->purpose != HASTE_PREDICTION, predict = work->purpose != HASTE_TRAINING;
    int ok = 1;
    if (work->deterministic && workers < (uint64_t)work->chunks) workers = (uint64_t)work->chunks;   /* each one a block */
    if (lists < 2 * HASTE__CU_FEW * HASTE__CU_FEW_PARTS) lists = 2 * HASTE__CU_FEW * HASTE__CU_FEW_PARTS;
    HASTE__CU_ARRAY(work->x, void *, x, width);
    if (train && work->dtype == HASTE_BF16) HASTE__CU_ARRAY(work->x_wide, void *, x, width);
    if (train) HASTE__CU_ARRAY(work->grad_x, float *, x, 4 * (uint64_t)work->replicas);
    if (train && work->max_fan_in > HASTE__CU_RUN)
        HASTE__CU_ARRAY(work->slopes, void *, workers * padded, HASTE__CU_RUN * width);
    HASTE__CU_ARRAY(work->head, int32_t *, 2 * (uint64_t)work->groups + 1, 4);
    HASTE__CU_ARRAY(work->pair, haste__cu_pair *, work->ids, sizeof(haste__cu_pair));
    HASTE__CU_ARRAY(work->node, haste__cu_node *, (uint64_t)work->ids + HASTE__CU_NODES_MORE, sizeof(haste__cu_node));
    if (train) {
        HASTE__CU_ARRAY(work->row, int32_t *, padded, 4);
        HASTE__CU_ARRAY(work->norm, float *, padded, 16);
        HASTE__CU_ARRAY(work->loss, double *, HASTE_MAX_BLOCKS * HASTE__CU_SUMS, 8);
        HASTE__CU_ARRAY(work->moment, haste__cu_moment *, HASTE_MAX_BLOCKS, sizeof(haste__cu_moment));
        if (work->sums_bytes) HASTE__CU_ARRAY(work->sums, float *, work->sums_bytes, 1);
    }
    HASTE__CU_ARRAY(work->partial, float *, (uint64_t)work->parts * padded, 16);
    if (predict) {
        HASTE__CU_ARRAY(work->floor, uint32_t *, padded, 4);
        HASTE__CU_ARRAY(work->best, uint64_t *, lists, 8 * (uint64_t)work->top_k);
        HASTE__CU_ARRAY(work->count, int64_t *, batch + 1, 8);
    }
    HASTE__CU_ARRAY(work->offset, int64_t *, batch + 1, 8);
    HASTE__CU_ARRAY(work->id, int32_t *, work->ids, 4);
    HASTE__CU_ARRAY(work->flag, uint32_t *, HASTE__CU_FLAGS, 4);
    if (!ok) return haste__cu_fail(error, HASTE_ERR_SIZE, "the workspace's size overflows size_t");
    *bytes = end;
    return HASTE_OK;
}

/* The same for a workspace that is not made yet: its sizes become known. */
static haste_status haste__cu_workspace_bytes(haste_cuda_workspace *work, haste_error *error)
{
    haste__cu_work arrays;
    haste__cu_work_make(&arrays, work);
    work->pinned_bytes = 2 * ((((size_t)work->batch + 1) * 8 + (size_t)work->ids * 4 + 255) / 256 * 256);
    return haste__cu_work_arrange(&arrays, NULL, &work->bytes, error);
}

void haste_cuda_workspace_free(haste_cuda_workspace *work)
{
    int i;
    if (!work) return;
    for (i = 0; i < 2; i++)
        if (work->event[i]) {
            cudaEventSynchronize((cudaEvent_t)work->event[i]);   /* the pinned lists may still be read */
            cudaEventDestroy((cudaEvent_t)work->event[i]);
        }
    if (work->pinned) cudaFreeHost(work->pinned);
    if (work->owned) HASTE_CUDA_FREE(work->memory);
    memset(work, 0, sizeof *work);
}

/* Zeroes new memory on the default stream, and waits: another stream of the caller's would not. */
static haste_status haste__cu_zero(void *memory, size_t bytes, haste_error *error)
{
    haste_status status = haste__cu_result(cudaMemset(memory, 0, bytes), "cudaMemset", error);
    return haste__cu_wait(status, "zeroing new memory", NULL, error);
}

static haste_status haste__cu_workspace_make(haste_cuda_workspace *work, haste_error *error)
{
    haste__cu_work arrays;
    int i;
    haste_status status = HASTE_OK;
    if (!work->memory) {
        status = haste__cu_take(&work->memory, work->bytes, "memory for the workspace", error);
        work->owned = status == HASTE_OK;
    }
    haste__cu_work_make(&arrays, work);
    if (status == HASTE_OK) status = haste__cu_work_arrange(&arrays, (char *)work->memory, &work->bytes, error);
    if (status != HASTE_OK) return status;
    if (cudaMallocHost(&work->pinned, work->pinned_bytes) != cudaSuccess) {
        cudaGetLastError();
        work->pinned = NULL;
        return haste__cu_fail(error, HASTE_ERR_MEMORY, "memory for the workspace: no %llu pinned bytes on the host",
                              (unsigned long long)work->pinned_bytes);
    }
    for (i = 0; i < 2; i++) {
        cudaEvent_t event;
        HASTE__CU_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
        work->event[i] = event;
    }
    status = haste__cu_zero(arrays.node, ((size_t)work->ids + HASTE__CU_NODES_MORE) * sizeof(haste__cu_node), error);
    if (status == HASTE_OK) status = haste__cu_zero(arrays.flag, HASTE__CU_FLAGS * sizeof(uint32_t), error);
    return status;
}

haste_status haste_cuda_workspace_create(haste_cuda_workspace *work, const haste_cuda_layer *layer,
                                         const haste_cuda_workspace_options *options, haste_error *error)
{
    haste_cuda_workspace w;
    haste_status status = haste__cu_quick(layer, error);
    if (status != HASTE_OK) return status;
    if (!work) return haste__cu_fail(error, HASTE_ERR_ARG, "work is NULL");
    status = haste__cu_workspace_shape(&w, layer, NULL, options, error);
    if (status == HASTE_OK) status = haste__cu_workspace_bytes(&w, error);
    if (status == HASTE_OK && options && options->memory)
        status = haste__cu_own_memory(options->memory, options->bytes, w.bytes, error);
    if (status == HASTE_OK) status = haste__cu_begin(layer->device, error);
    if (status != HASTE_OK) return status;
    w.device = layer->device;
    if (options) w.memory = options->memory;
    status = haste__cu_workspace_make(&w, error);
    if (status == HASTE_OK) *work = w;
    else haste_cuda_workspace_free(&w);
    return status;
}

static haste_status haste__cu_gradient_arrange(haste_cuda_gradient *gradient, const haste_cuda_layer *layer, char *memory,
                                               size_t *bytes, haste_error *error)
{
    size_t end = 0, at = 0;
    int i, ok = 1;
    for (i = 0; i < layer->block_count; i++) {
        uint64_t slots = (uint64_t)layer->block[i].groups * (uint64_t)layer->block[i].group_size;
        HASTE__CU_ARRAY(gradient->weight[i], float *, slots * (uint64_t)layer->block[i].fan_in, 4);
        HASTE__CU_ARRAY(gradient->bias[i], float *, slots, 4);
    }
    if (!ok) return haste__cu_fail(error, HASTE_ERR_SIZE, "the gradient's size overflows size_t");
    *bytes = end;
    return HASTE_OK;
}

/* Which layers a gradient belongs to, as in haste.h: those of one seed, one order of labels and one arrangement of blocks; of
   a shard or a range, those that begin at the same slot. */
static uint64_t haste__cu_layer_identity(const haste_cuda_layer *layer)
{
    uint64_t identity = haste__cu_mix(layer->seed + haste__cu_mix(layer->order_id) + (uint64_t)layer->block_count);
    int i, k;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        uint64_t word[3];
        word[0] = (uint64_t)b->labels;
        word[1] = (uint64_t)b->group_size << 32 | (uint64_t)b->fan_in;
        word[2] = (uint64_t)b->begin << 32 | (uint64_t)b->end;
        for (k = 0; k < 3; k++) identity = haste__cu_mix(identity * HASTE__CU_GOLDEN + word[k]);
    }
    if (layer->first_slot) identity = haste__cu_mix(identity * HASTE__CU_GOLDEN + (uint64_t)layer->first_slot);
    return identity;
}

haste_status haste_cuda_gradient_create(haste_cuda_gradient *gradient, const haste_cuda_layer *layer, haste_error *error)
{
    haste_cuda_gradient made;
    haste_status status = haste__cu_quick(layer, error);
    if (status != HASTE_OK) return status;
    if (!gradient) return haste__cu_fail(error, HASTE_ERR_ARG, "gradient is NULL");
    memset(&made, 0, sizeof made);
    made.layer = haste__cu_layer_identity(layer);
    status = haste__cu_gradient_arrange(&made, layer, NULL, &made.bytes, error);
    if (status == HASTE_OK) status = haste__cu_begin(layer->device, error);
    if (status == HASTE_OK) status = haste__cu_take(&made.memory, made.bytes, "memory for gradients", error);
    if (status != HASTE_OK) return status;
    status = haste__cu_zero(made.memory, made.bytes, error);
    if (status == HASTE_OK) status = haste__cu_gradient_arrange(&made, layer, (char *)made.memory, &made.bytes, error);
    if (status == HASTE_OK) *gradient = made;
    else HASTE_CUDA_FREE(made.memory);
    return status;
}

haste_status haste_cuda_gradient_init(haste_cuda_gradient *gradient, const haste_cuda_layer *layer, float *const *weight,
                                      float *const *bias, haste_error *error)
{
    haste_status status = haste__cu_quick(layer, error);
    int i;
    if (status != HASTE_OK) return status;
    if (!gradient) return haste__cu_fail(error, HASTE_ERR_ARG, "gradient is NULL");
    for (i = 0; i < layer->block_count && weight; i++)
        if ((uintptr_t)weight[i] % 16)
            return haste__cu_fail(error, HASTE_ERR_ARG, "weight[%d] is not 16-byte aligned", i);
    memset(gradient, 0, sizeof *gradient);
    gradient->layer = haste__cu_layer_identity(layer);
    for (i = 0; i < layer->block_count; i++) {
        gradient->weight[i] = weight ? weight[i] : NULL;
        gradient->bias[i] = bias ? bias[i] : NULL;
    }
    return HASTE_OK;
}

/* Does the gradient belong to the layer? With `all`, are its arrays all there? */
static haste_status haste__cu_gradient_check(const haste_cuda_layer *layer, const haste_cuda_gradient *gradient, int all,
                                             haste_error *error)
{
    int i;
    if (!gradient) return haste__cu_fail(error, HASTE_ERR_ARG, "gradient is NULL");
    if (gradient->layer != haste__cu_layer_identity(layer))
        return haste__cu_fail(error, HASTE_ERR_STATE, "the gradient was made for a layer of other blocks, "
                              "another seed or another order of labels");
    for (i = 0; i < layer->block_count; i++) {
        if (all && (!gradient->weight[i] || !gradient->bias[i]))
            return haste__cu_fail(error, HASTE_ERR_ARG, "gradient->weight[%d] or bias[%d] is NULL", i, i);
        if ((uintptr_t)gradient->weight[i] % 16)
            return haste__cu_fail(error, HASTE_ERR_ARG, "gradient->weight[%d] is not 16-byte aligned", i);
    }
    if (gradient->pending < 0)
        return haste__cu_fail(error, HASTE_ERR_STATE, "gradient->pending = %d is negative", (int)gradient->pending);
    return HASTE_OK;
}

/* Rows of a pending gradient belong to the inputs that the groups had then. */
static haste_status haste__cu_pending_check(const haste_cuda_layer *layer, const haste_cuda_gradient *gradient,
                                            haste_error *error)
{
    if (gradient->pending == 0 || gradient->rewires == layer->rewires) return HASTE_OK;
    return haste__cu_fail(error, HASTE_ERR_STATE, "the gradient holds %d micro-batches from before a haste_cuda_rewire: "
                          "apply or zero it first", (int)gradient->pending);
}

haste_status haste_cuda_gradient_zero(haste_cuda_gradient *gradient, const haste_cuda_layer *layer,
                                      haste_cuda_stream stream, haste_error *error)
{
    cudaStream_t s = (cudaStream_t)stream;
    haste_status status = haste__cu_quick(layer, error);
    int i;
    if (status == HASTE_OK) status = haste__cu_gradient_check(layer, gradient, 0, error);
    if (status == HASTE_OK) status = haste__cu_begin(layer->device, error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "haste_cuda_gradient_zero", error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++) {
        const size_t slots = (size_t)layer->block[i].groups * (size_t)layer->block[i].group_size;
        if (gradient->weight[i])
            HASTE__CU_TRY(cudaMemsetAsync(gradient->weight[i], 0, slots * (size_t)layer->block[i].fan_in * sizeof(float), s),
                          "zeroing a gradient");
        if (gradient->bias[i])
            HASTE__CU_TRY(cudaMemsetAsync(gradient->bias[i], 0, slots * sizeof(float), s), "zeroing a gradient");
    }
    gradient->pending = 0;
    return HASTE_OK;
}

void haste_cuda_gradient_free(haste_cuda_gradient *gradient)
{
    if (!gradient) return;
    if (gradient->memory) HASTE_CUDA_FREE(gradient->memory);
    memset(gradient, 0, sizeof *gradient);
}

/* Memory that haste_cuda_rewire takes while it runs. */
typedef struct haste__cu_rewire_memory {
    uint32_t *place[HASTE_MAX_BLOCKS];   /* of the blocks that can change */
    uint64_t *grow;
    haste__cu_bound *bound;
    uint32_t *count;
    float    *key;
    uint32_t *order;
    void     *rows, *slopes;
    int       workers;
} haste__cu_rewire_memory;

static haste_status haste__cu_rewire_arrange(haste__cu_rewire_memory *m, const haste_cuda_layer *layer, const int *dense,
                                             int tiles, char *memory, size_t *bytes, haste_error *error)
{
    size_t end = 0, at = 0, group = 0, width = 1, F = 0, many = 0, each;
    size_t slopes = (size_t)tiles * HASTE__CU_TILE * HASTE__CU_RUN * haste__cu_width(layer->dtype);
    int i, ok = 1;
    memset(m, 0, sizeof *m);
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        size_t n = (size_t)b->groups * (size_t)b->fan_in, own = (size_t)b->fan_in * (size_t)b->group_size;
        if (dense[i] || b->fan_in == b->end - b->begin) continue;
        HASTE__CU_ARRAY(m->place[i], uint32_t *, n, 4);
        if ((size_t)(b->end - b->begin) > width) width = (size_t)(b->end - b->begin);
        if (b->fan_in > HASTE__CU_FEW_PLACES && (size_t)b->fan_in > many) many = (size_t)b->fan_in;
        if (haste__cu_rewire_shared(b->fan_in, b->group_size, 4)) continue;
        if (own > group) group = own;
        if ((size_t)b->fan_in > F) F = (size_t)b->fan_in;
    }
    F = (F + 3) / 4 * 4;
    each = group * 4 + width * 4 + F * 8 + many * 32 + slopes;   /* as many blocks as a quarter of a gigabyte allows */
    m->workers = each * HASTE__CU_PARTS <= (256u << 20) ? HASTE__CU_PARTS : (int)((256u << 20) / each);
    if (m->workers < 8) m->workers = 8;
    HASTE__CU_ARRAY(m->grow, uint64_t *, (uint64_t)m->workers * 4, many * 8);   /* four warps a block */
    HASTE__CU_ARRAY(m->bound, haste__cu_bound *, HASTE_MAX_BLOCKS, sizeof(haste__cu_bound));
    HASTE__CU_ARRAY(m->count, uint32_t *, 2048, 4);
    HASTE__CU_ARRAY(m->key, float *, (uint64_t)m->workers * width, 4);
    HASTE__CU_ARRAY(m->order, uint32_t *, (uint64_t)m->workers * F, 8);
    HASTE__CU_ARRAY(m->rows, void *, (uint64_t)m->workers * group, 4);
    HASTE__CU_ARRAY(m->slopes, void *, (uint64_t)m->workers, slopes);
    if (!ok) return haste__cu_fail(error, HASTE_ERR_SIZE, "the size of what rewiring needs overflows size_t");
    *bytes = end;
    return HASTE_OK;
}

haste_status haste_cuda_plan_bytes(const haste_layer_options *options, const haste_cuda_workspace_options *work,
                                   const haste_cuda_options *cuda, haste_cuda_plan *plan, haste_error *error)
{
    haste_cuda_layer whole, layer;
    haste_cuda_workspace w;
    haste_cuda_gradient gradient;
    haste__cu_rewire_memory rewire;
    haste__cu_cut cut;
    haste_cuda_plan p;
    haste_plan host;
    int dense[HASTE_MAX_BLOCKS], part_dense[HASTE_MAX_BLOCKS], i;
    haste_status status;
    if (!plan) return haste__cu_fail(error, HASTE_ERR_ARG, "plan is NULL");
    status = haste_plan_bytes(options, NULL, &host, error);
    if (status != HASTE_OK) return status;
    memset(&p, 0, sizeof p);
    memset(&gradient, 0, sizeof gradient);
    haste__cu_shape(&whole, options, dense);
    (void)haste__cu_choose(&whole, dense, cuda, NULL);   /* without a device there are no paths, and none needs memory */
    status = haste__cu_cut_layer(&layer, &whole, cuda ? cuda->first_slot : 0, cuda ? cuda->end_slot : 0, &cut, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer.block_count; i++) part_dense[i] = dense[cut.block[i]];
    status = haste__cu_arrange(&layer, part_dense, NULL, &p.layer, error);
    if (status == HASTE_OK) status = haste__cu_workspace_shape(&w, &layer, part_dense, work, error);
    if (status == HASTE_OK) status = haste__cu_workspace_bytes(&w, error);
    if (status == HASTE_OK) status = haste__cu_gradient_arrange(&gradient, &layer, NULL, &p.gradient, error);
    if (status == HASTE_OK)
        status = haste__cu_rewire_arrange(&rewire, &layer, part_dense, (w.batch - 1) / HASTE__CU_TILE + 1, NULL, &p.rewire,
                                          error);
    if (status != HASTE_OK) return status;
    p.workspace = w.bytes;
    p.pinned = w.pinned_bytes;
    *plan = p;
    return HASTE_OK;
}

/* ---- >>calls ------------------------------------------------------------------------------------------------- */

/* What every call with a workspace begins with: may this layer use it, for this purpose (HASTE_ANY_PURPOSE: any workspace will
   do)? Then its arrays. */
static haste_status haste__cu_work_check(haste__cu_work *work, const haste_cuda_layer *layer, haste_cuda_workspace *own,
                                         haste_purpose purpose, haste_error *error)
{
    int64_t groups = 0;
    size_t bytes = 0;
    int i;
    haste_status status = haste__cu_quick(layer, error);
    if (status != HASTE_OK) return status;
    if (!own || !own->memory) return haste__cu_fail(error, HASTE_ERR_ARG, "work is NULL or was never made");
    if (own->device != layer->device)
        return haste__cu_fail(error, HASTE_ERR_ARG, "the layer lies on device %d, the workspace on device %d",
                              (int)layer->device, (int)own->device);
    if (own->batch < 1 || own->ids < 1 || own->top_k < 1 || own->chunks < 1 || own->inputs < 1)
        return haste__cu_fail(error, HASTE_ERR_ARG, "work: not as it was made");
    haste__cu_work_make(work, own);
    work->own = own;
    status = haste__cu_work_arrange(work, (char *)own->memory, &bytes, error);
    if (status == HASTE_OK && bytes != own->bytes)
        return haste__cu_fail(error, HASTE_ERR_ARG, "work: its sizes ask for %llu bytes, it has %llu: not as it was made",
                              (unsigned long long)bytes, (unsigned long long)own->bytes);
    if (status == HASTE_OK) status = haste__cu_begin(layer->device, error);
    if (status != HASTE_OK) return status;
    if (purpose != HASTE_ANY_PURPOSE && work->purpose != HASTE_ANY_PURPOSE && work->purpose != purpose)
        return haste__cu_fail(error, HASTE_ERR_ARG, "the workspace was made for %s alone",
                              work->purpose == HASTE_TRAINING ? "training" : "prediction");
    if (layer->dtype != work->dtype) return haste__cu_fail(error, HASTE_ERR_ARG, "the workspace was made for another dtype");
    if (layer->inputs > work->inputs)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "the workspace was made for %d inputs, this layer has %d",
                              (int)work->inputs, (int)layer->inputs);
    for (i = 0; i < layer->block_count; i++) {
        groups += layer->block[i].groups;
        if (layer->block[i].fan_in > HASTE__CU_RUN && layer->block[i].fan_in > work->max_fan_in)
            return haste__cu_fail(error, HASTE_ERR_SIZE, "the workspace was made for F <= %d, block[%d] has %d",
                                  (int)work->max_fan_in, i, (int)layer->block[i].fan_in);
    }
    if (groups > work->groups)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "the workspace was made for %lld groups, this layer has %lld",
                              (long long)work->groups, (long long)groups);
    return HASTE_OK;
}

/* Likewise of every call with a batch. */
static haste_status haste__cu_batch_check(haste__cu_work *work, const haste_cuda_layer *layer, haste_cuda_workspace *own,
                                          haste_purpose purpose, const void *x, haste_cuda_type type, int32_t B,
                                          int must_fit, haste_error *error)
{
    haste_status status = haste__cu_work_check(work, layer, own, purpose, error);
    if (status != HASTE_OK) return status;
    if (B < 0) return haste__cu_fail(error, HASTE_ERR_ARG, "B = %d is negative", (int)B);
    if (!x && B > 0) return haste__cu_fail(error, HASTE_ERR_ARG, "x is NULL");
    if ((unsigned)type > HASTE_CUDA_F16) return haste__cu_fail(error, HASTE_ERR_ARG, "x_type = %d is unknown", (int)type);
    if (must_fit && B > work->batch)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "B = %d, expected at most the workspace's batch = %d", (int)B,
                              (int)work->batch);
    return HASTE_OK;
}

/* Lists: on the host all of it, on the device what can be seen from here. Without samples there is nothing to look at. */
static haste_status haste__cu_lists_check(const haste_cuda_layer *layer, const haste__cu_work *work, int32_t B,
                                          const haste_cuda_lists *lists, const char *name, cudaStream_t stream,
                                          haste_error *error)
{
    const int64_t *offset;
    int64_t i;
    if (B == 0) return HASTE_OK;
    if (!lists) return haste__cu_fail(error, HASTE_ERR_ARG, "%s is NULL", name);
    offset = lists->offset;
    if (!offset) return haste__cu_fail(error, HASTE_ERR_ARG, "%s.offset is NULL", name);
    if (!lists->on_host) return lists->id ? HASTE_OK : haste__cu_fail(error, HASTE_ERR_ARG, "%s.id is NULL", name);
    if (B > work->batch)
        return haste__cu_fail(error, HASTE_ERR_SIZE,
                              "B = %d, expected at most the workspace's batch = %d for lists on the host", (int)B,
                              (int)work->batch);
    if (offset[0] < 0)
        return haste__cu_fail(error, HASTE_ERR_DATA, "%s.offset[0] = %lld is negative", name, (long long)offset[0]);
    for (i = 0; i < B; i++)
        if (offset[i + 1] < offset[i])
            return haste__cu_fail(error, HASTE_ERR_DATA, "%s.offset[%lld] = %lld is below its predecessor, %lld", name,
                                  (long long)(i + 1), (long long)offset[i + 1], (long long)offset[i]);
    if (offset[B] > offset[0] && !lists->id) return haste__cu_fail(error, HASTE_ERR_ARG, "%s.id is NULL", name);
    if (offset[B] - offset[0] > work->ids)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "%s holds %lld ids, expected at most the workspace's %lld", name,
                              (long long)(offset[B] - offset[0]), (long long)work->ids);
    for (i = offset[0]; i < offset[B]; i++)
        if (lists->id[i] < 0 || lists->id[i] >= layer->labels)
            return haste__cu_fail(error, HASTE_ERR_DATA, "%s.id[%lld] = %d, expected 0 to %d", name, (long long)i,
                                  (int)lists->id[i], (int)layer->labels - 1);
    return haste__cu_not_captured(stream, "a call with lists on the host", error);
}

/* Host lists become device lists, *device: through one of two pinned buffers, so that only the call before the last has to be
   waited for. */
static haste_status haste__cu_lists_to_device(const haste__cu_work *work, int32_t B, const haste_cuda_lists *lists,
                                              haste_cuda_lists *device, cudaStream_t stream, haste_error *error)
{
    haste_cuda_workspace *own = work->own;
    char *buffer = (char *)own->pinned + (size_t)own->turn * (own->pinned_bytes / 2);
    int64_t *offset = (int64_t *)(void *)buffer, first, n;
    int32_t *id = (int32_t *)(void *)(buffer + ((size_t)work->batch + 1) * 8), b;
    cudaEvent_t event = (cudaEvent_t)own->event[own->turn];
    cudaError_t result;
    *device = *lists;
    if (!lists->on_host) return HASTE_OK;
    HASTE__CU_TRY(cudaEventSynchronize(event), "waiting for earlier lists");
    first = lists->offset[0];
    n = lists->offset[B] - first;
    for (b = 0; b <= B; b++) offset[b] = lists->offset[b] - first;
    if (n > 0) memcpy(id, lists->id + first, (size_t)n * sizeof *id);
    result = cudaMemcpyAsync(work->offset, offset, ((size_t)B + 1) * 8, cudaMemcpyHostToDevice, stream);
    if (result == cudaSuccess && n > 0)
        result = cudaMemcpyAsync(work->id, id, (size_t)n * 4, cudaMemcpyHostToDevice, stream);
    if (result == cudaSuccess) result = cudaEventRecord(event, stream);
    if (result != cudaSuccess) {   /* no event says when the buffer may be filled again: now */
        cudaStreamSynchronize(stream);
        return haste__cu_result(result, "copying lists", error);
    }
    own->turn = 1 - own->turn;
    device->offset = work->offset;
    device->id = work->id;
    device->on_host = 0;
    return HASTE_OK;
}

static void haste__cu_map_make(haste__cu_map *map, const haste_cuda_layer *layer)
{
    int64_t groups = 0;
    int i;
    memset(map, 0, sizeof *map);
    for (i = 0; i < layer->block_count; i++) {
        map->first_slot[i] = layer->block[i].first_slot;
        map->first_group[i] = groups;
        map->S[i] = layer->block[i].group_size;
        groups += layer->block[i].groups;
    }
    map->first_slot[i] = layer->slots;
    map->blocks = layer->block_count;
    map->labels = layer->labels;
    map->shard = layer->first_slot;
    map->slot_of = layer->slot_of;
}

/* What all blocks of a call share. */
static void haste__cu_pass_make(haste__cu_pass *p, const haste_cuda_layer *layer, const haste__cu_work *work,
                                int32_t B)
{
    memset(p, 0, sizeof *p);
    p->slots = layer->slots;
    p->label_of = layer->label_of;
    p->B = B;
    p->D = layer->inputs;
    p->tiles = B > 0 ? (B - 1) / HASTE__CU_TILE + 1 : 0;
    p->replicas = work->replicas;
    p->deterministic = work->deterministic;
    p->x = work->x;
    p->loss = layer->loss;
    p->optimizer = layer->optimizer;
    p->state_f32 = layer->state_dtype == HASTE_F32;
    p->flag = work->flag;
    p->slopes = work->slopes;
}

/* What one block adds to it. */
static void haste__cu_pass_block(haste__cu_pass *p, const haste_cuda_layer *layer, int number)
{
    const haste_block *block = &layer->block[number];
    int i;
    p->groups = block->groups;
    p->first_slot = block->first_slot;
    p->round_slot = layer->first_slot + block->first_slot;
    p->labels = block->labels;
    p->slots = layer->slots;
    p->label_of = layer->label_of;
    p->S = block->group_size;
    p->F = block->fan_in;
    p->begin = block->begin;
    p->width = block->end - block->begin;
    p->path = layer->path[number];
    p->index = block->index;
    p->weight = block->weight;
    p->bias = block->bias;
    p->first_group = 0;
    for (i = 0; i < number; i++) p->first_group += layer->block[i].groups;
    for (i = 0; i < 2; i++) {
        p->state[i] = i < haste__cu_states(layer->optimizer) ? block->weight_state[i] : NULL;
        p->bias_state[i] = i < haste__cu_states(layer->optimizer) ? block->bias_state[i] : NULL;
    }
}

/* x (NULL: none) to the order of the kernels, the wide path's too where `wide` is asked for; and what `clear` names. */
static haste_status haste__cu_prepare(const haste_cuda_layer *layer, const haste__cu_work *work, const void *x,
                                      haste_cuda_type type, int32_t B, int wide, haste__cu_clear clear, cudaStream_t stream,
                                      haste_error *error)
{
    cudaError_t launched;
    const int x_blocks = x ? (B + 63) / 64 * 2 * ((layer->inputs + 31) / 32) : 0;
    const int64_t clearing = (clear.zero_count / 4 + clear.end_count + 4 * HASTE__CU_THREADS - 1) / (4 * HASTE__CU_THREADS);
    const int more = clearing > 1024 ? 1024 : clearing > 0 ? (int)clearing : clear.schedule.moment != NULL;
    const int grid = x_blocks + more;
    if (grid == 0) return HASTE_OK;
    if (layer->dtype == HASTE_F32)
        HASTE__CU_LAUNCH(haste__cu_prepare_x_kernel<float>, (unsigned)grid, HASTE__CU_THREADS, 0, stream, x, (int)type, B,
                         layer->inputs, (float *)work->x, NULL, x_blocks, clear);
    else
        HASTE__CU_LAUNCH(haste__cu_prepare_x_kernel<uint16_t>, (unsigned)grid, HASTE__CU_THREADS, 0, stream, x, (int)type, B,
                         layer->inputs, (uint16_t *)work->x, (uint16_t *)(wide ? work->x_wide : NULL), x_blocks, clear);
    HASTE__CU_LAUNCHED("preparing x");
    return HASTE_OK;
}
static haste_status haste__cu_prepare_x(const haste_cuda_layer *layer, const haste__cu_work *work, const void *x,
                                        haste_cuda_type type, int32_t B, cudaStream_t stream, haste_error *error)
{
    haste__cu_clear nothing;
    memset(&nothing, 0, sizeof nothing);
    return haste__cu_prepare(layer, work, x, type, B, 0, nothing, stream, error);
}

/* Which memory a pass wants to be cleared: grad_x's replicas, and the lists of its groups. */
static haste__cu_clear haste__cu_clear_make(const haste_cuda_layer *layer, const haste__cu_work *work,
                                            const haste__cu_pass *p, int grad_x, int lists)
{
    haste__cu_clear clear;
    int i;
    memset(&clear, 0, sizeof clear);
    if (grad_x) {
        clear.zeros = work->grad_x;
        clear.zero_count = (int64_t)p->replicas * p->tiles * p->D * HASTE__CU_TILE;
    }
    if (lists) {
        clear.ends = work->head;
        for (i = 0; i < layer->block_count; i++) clear.end_count += 2 * layer->block[i].groups;
        clear.end_count++;
    }
    return clear;
}

/* Puts the lists' pairs where kernels look for them; work->head has been cleared. */
static haste_status haste__cu_place_lists(const haste_cuda_layer *layer, const haste__cu_work *work, int32_t B,
                                         const haste_cuda_lists *given, int count, haste__cu_pass *p, cudaStream_t stream,
                                         haste_error *error)
{
    haste_cuda_lists lists;
    haste__cu_pairs a;
    void *arguments[1] = { &a };
    int i;
    haste_status status = haste__cu_lists_to_device(work, B, given, &lists, stream, error);
    if (status != HASTE_OK) return status;
    memset(&a, 0, sizeof a);
    haste__cu_map_make(&a.map, layer);
    a.offset = lists.offset;
    a.id = lists.id;
    a.B = B;
    a.most = work->ids;
    for (i = 0; i < layer->block_count; i++) a.groups += layer->block[i].groups;
    a.head = work->head;
    a.pair = work->pair;
    a.node = work->node;
    a.row = count ? work->row : NULL;
    a.flag = work->flag;
    if (B <= HASTE__CU_LISTS_MOST && haste__cu_device_value(cudaDevAttrComputeCapabilityMajor) >= 9 && haste__cu_clusters())
        HASTE__CU_TRY(haste__cu_early(HASTE__CU_KERNEL(haste__cu_few_lists_kernel), dim3(HASTE__CU_LISTS_CLUSTER),
                                      HASTE__CU_LISTS_THREADS, 0, HASTE__CU_LISTS_CLUSTER, 1, arguments, stream), "lists");
    else {
        const void *kernel[3] = { HASTE__CU_KERNEL(haste__cu_lists_kernel<HASTE__CU_COUNT>),
                                  HASTE__CU_KERNEL(haste__cu_lists_kernel<HASTE__CU_FIRST>),
                                  HASTE__CU_KERNEL(haste__cu_lists_kernel<HASTE__CU_REST>) };
        for (i = 0; i < 3; i++)
            HASTE__CU_TRY(haste__cu_early(kernel[i], dim3((unsigned)((B + 3) / 4)), HASTE__CU_THREADS, 0, 1, 1, arguments,
                                          stream), "lists");
    }
    p->head = work->head;
    p->node = work->node;
    return HASTE_OK;
}
static haste_status haste__cu_prepare_lists(const haste_cuda_layer *layer, const haste__cu_work *work, int32_t B,
                                            const haste_cuda_lists *lists, int count, haste__cu_pass *p, cudaStream_t stream,
                                            haste_error *error)
{
    const haste__cu_clear clear = haste__cu_clear_make(layer, work, p, 0, 1);
    HASTE__CU_TRY(cudaMemsetAsync(work->head, 0xff, (size_t)clear.end_count * sizeof *work->head, stream),
                  "cudaMemsetAsync");
    return haste__cu_place_lists(layer, work, B, lists, count, p, stream, error);
}

/* How many thread blocks of a kernel the device holds at once; asks for the shared memory that it needs. */
static haste_status haste__cu_resident(const void *kernel, size_t shared, int *resident, haste_error *error)
{
    int each = 0;
    haste_status status = haste__cu_allow(kernel, shared, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, HASTE__CU_THREADS, shared),
                  "occupancy of a kernel");
    *resident = (each > 0 ? each : 1) * haste__cu_device_value(cudaDevAttrMultiProcessorCount);
    return HASTE_OK;
}

static int64_t haste__cu_items(const haste__cu_pass *p) { return p->groups * ((p->S + HASTE__CU_RUN - 1) / HASTE__CU_RUN); }

template <typename T, int SP>
static haste_status haste__cu_launch_group(const haste__cu_pass *p, int workers, int *sums, cudaStream_t stream,
                                           haste_error *error)
{
    cudaError_t launched;
    int grid = 1;
    haste_status status = haste__cu_resident(HASTE__CU_KERNEL(haste__cu_group_kernel<T, SP>), haste__cu_tile<T, SP>::BYTES,
                                             &grid, error);
    if (status != HASTE_OK) return status;
    if (grid > workers) grid = workers;
    if (p->deterministic) grid = p->replicas;
    if (haste__cu_items(p) < grid) grid = (int)haste__cu_items(p);
    HASTE__CU_LAUNCH((haste__cu_group_kernel<T, SP>), grid, HASTE__CU_THREADS, (haste__cu_tile<T, SP>::BYTES), stream, *p);
    HASTE__CU_LAUNCHED("training a block");
    *sums = grid;
    return HASTE_OK;
}

/* One block, on the general path. */
static haste_status haste__cu_general_step(const haste__cu_pass *p, haste_dtype dtype, int workers, int *sums,
                                           cudaStream_t stream, haste_error *error)
{
    if (dtype == HASTE_F32)
        return p->S <= 16 ? haste__cu_launch_group<float, 16>(p, workers, sums, stream, error) :
               p->S <= 32 ? haste__cu_launch_group<float, 32>(p, workers, sums, stream, error) :
                            haste__cu_launch_group<float, 64>(p, workers, sums, stream, error);
    return p->S <= 16 ? haste__cu_launch_group<uint16_t, 16>(p, workers, sums, stream, error) :
           p->S <= 32 ? haste__cu_launch_group<uint16_t, 32>(p, workers, sums, stream, error) :
                        haste__cu_launch_group<uint16_t, 64>(p, workers, sums, stream, error);
}

template <typename T, int SP, int MODE>
static haste_status haste__cu_launch_forward(const haste__cu_pass *p, int *resident, cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    size_t shared = haste__cu_forward_tile<T, SP>::LIST +
        (MODE == HASTE__CU_TOP_K ? (size_t)HASTE__CU_TILE * (size_t)p->k * 8 : 0);
    haste_status status = haste__cu_resident(HASTE__CU_KERNEL(haste__cu_forward_kernel<T, SP, MODE>), shared, resident, error);
    if (status != HASTE_OK || p->parts == 0) return status;   /* parts 0: only a question */
    HASTE__CU_LAUNCH((haste__cu_forward_kernel<T, SP, MODE>), (unsigned)p->parts * (unsigned)p->tiles, HASTE__CU_THREADS,
                     shared, stream, *p);
    HASTE__CU_LAUNCHED("forward of a block");
    return HASTE_OK;
}
template <typename T, int SP>
static haste_status haste__cu_forward_mode(const haste__cu_pass *p, int mode, int *resident, cudaStream_t stream,
                                           haste_error *error)
{
    switch (mode) {
    case HASTE__CU_LOGITS: return haste__cu_launch_forward<T, SP, HASTE__CU_LOGITS>(p, resident, stream, error);
    case HASTE__CU_SUMEXP: return haste__cu_launch_forward<T, SP, HASTE__CU_SUMEXP>(p, resident, stream, error);
    case HASTE__CU_TOP_K:  return haste__cu_launch_forward<T, SP, HASTE__CU_TOP_K>(p, resident, stream, error);
    default:               return haste__cu_launch_forward<T, SP, HASTE__CU_ABOVE>(p, resident, stream, error);
    }
}
static haste_status haste__cu_forward_block(const haste__cu_pass *p, haste_dtype dtype, int mode, int *resident,
                                            cudaStream_t stream, haste_error *error)
{
    if (dtype == HASTE_F32)
        return p->S <= 16 ? haste__cu_forward_mode<float, 16>(p, mode, resident, stream, error) :
               p->S <= 32 ? haste__cu_forward_mode<float, 32>(p, mode, resident, stream, error) :
                            haste__cu_forward_mode<float, 64>(p, mode, resident, stream, error);
    return p->S <= 16 ? haste__cu_forward_mode<uint16_t, 16>(p, mode, resident, stream, error) :
           p->S <= 32 ? haste__cu_forward_mode<uint16_t, 32>(p, mode, resident, stream, error) :
                        haste__cu_forward_mode<uint16_t, 64>(p, mode, resident, stream, error);
}

/* Do the narrow kernels make the logits of a block? A little faster than the others, where the path is theirs. */
static int haste__cu_narrow_logits(haste__narrow_plan *plan, const haste_cuda_layer *layer, const haste__cu_pass *p,
                                   int number)
{
    haste__cu_question q;
    return layer->path[number] == HASTE_CUDA_NARROW && p->tiles <= 65535 && (uintptr_t)p->logits % 8 == 0
        && haste__cu_ask(&q, layer, number, p->B, NULL) == HASTE_OK && !haste__cu_narrow_plan(&q, 1, plan);
}

/* All blocks, in one of the forward modes. Lists and sums: the general kernel's thread blocks leave theirs in parts
   0 .. general - 1, the panel kernel's after them; what a part found in one block is handed on to the next. */
static haste_status haste__cu_forward_all(const haste_cuda_layer *layer, const haste__cu_work *work, haste__cu_pass *p,
                                          int mode, cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    haste__panel_plan plan[HASTE_MAX_BLOCKS];
    haste__narrow_plan narrow;
    const int processors = haste__cu_device_value(cudaDevAttrMultiProcessorCount);
    const int shared_most = haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    const int panel_mode = mode == HASTE__CU_ABOVE ? HASTE__CU_TOP_K : mode;
    int i, panels = 0, generals = 0, general = work->parts, panel, resident = 1, sets = 0, first_panel = 1;
    haste_status status;
    p->parts = 0;
    for (i = 0; i < layer->block_count; i++) {
        haste__cu_pass_block(p, layer, i);
        if (haste__panel_plan_make(&plan[i], p, layer->dtype, panel_mode, shared_most)) { panels++; continue; }
        plan[i].warps = 0;
        generals++;
        status = haste__cu_forward_block(p, layer->dtype, mode, &resident, stream, error);
        if (status != HASTE_OK) return status;
        if ((resident + p->tiles - 1) / p->tiles < general) general = (resident + p->tiles - 1) / p->tiles;
    }
    panel = processors / p->tiles < 1 ? 1 : processors / p->tiles;
    if (panel > work->parts / 2) panel = work->parts / 2;
    if (panels == 0) panel = 0;
    if (generals == 0) general = 0;
    if (general > work->parts - panel) general = work->parts - panel;

    if (mode == HASTE__CU_TOP_K && panels) {   /* a first look, so that hardly any label has to be entered into a list */
        const int64_t room = 4 * (int64_t)work->parts * work->tiles / p->tiles;   /* of work->partial, for a sample */
        const int most = (room < HASTE__PANEL_SETS ? (int)room : HASTE__PANEL_SETS) / panels;
        for (i = 0; i < layer->block_count; i++) if (plan[i].warps) {   /* whole rounds of all warps */
            const int round = panel * plan[i].warps;
            plan[i].sets = plan[i].units / 16 < round ? round : plan[i].units / 16 / round * round;
            if (plan[i].sets > most) plan[i].sets = most < round ? most : most / round * round;
            if (plan[i].sets > plan[i].units) plan[i].sets = plan[i].units;
            plan[i].set0 = sets;
            sets += plan[i].sets;
        }
        for (i = 0; i < layer->block_count; i++) if (plan[i].warps) {
            haste__panel_plan look = plan[i];
            look.all_sets = sets;
            look.best_of_set = (uint32_t *)(void *)work->partial;
            haste__cu_pass_block(p, layer, i);
            HASTE__CU_TRY(haste__panel_pass(p, &look, panel_mode, panel, stream), "a first look at a block");
        }
        HASTE__CU_LAUNCH(haste__panel_floor_kernel, (unsigned)p->tiles * HASTE__CU_TILE, HASTE__PANEL_FLOOR, 0, stream,
                         (const uint32_t *)(const void *)work->partial, sets, p->k, p->floor);
        HASTE__CU_LAUNCHED("what the best must reach");
    }
    if (mode == HASTE__CU_TOP_K && !panels)   /* below every number */
        HASTE__CU_TRY(cudaMemsetAsync(p->floor, 0, (size_t)p->tiles * HASTE__CU_TILE * 4, stream), "cudaMemsetAsync");
    for (i = 0, p->first = 1; i < layer->block_count; i++) {
        haste__cu_pass_block(p, layer, i);
        if (mode == HASTE__CU_LOGITS && haste__cu_narrow_logits(&narrow, layer, p, i)) {
            HASTE__CU_TRY(haste__narrow_forward(p, &narrow, stream), "forward of a block (narrow)");
            continue;
        }
        if (plan[i].warps) {
            plan[i].part = general;
            plan[i].first = first_panel;
            first_panel = 0;
            HASTE__CU_TRY(haste__panel_pass(p, &plan[i], panel_mode, panel, stream), "forward of a block (panel)");
            continue;
        }
        p->parts = general;
        status = haste__cu_forward_block(p, layer->dtype, mode, &resident, stream, error);
        if (status != HASTE_OK) return status;
        p->first = 0;
    }
    p->parts = general + panel;
    return HASTE_OK;
}

/* Softmax's first pass. work->row holds the counts of positives. */
static haste_status haste__cu_softmax(const haste_cuda_layer *layer, const haste__cu_work *work, haste__cu_pass *p,
                                      cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    int64_t padded = (int64_t)p->tiles * HASTE__CU_TILE;
    haste__cu_pass q = *p;
    haste_status status;
    q.partial = work->partial;
    status = haste__cu_forward_all(layer, work, &q, HASTE__CU_SUMEXP, stream, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_LAUNCH(haste__cu_softmax_kernel, (unsigned)(padded / 4), HASTE__CU_THREADS, 0, stream, work->partial, q.parts,
                     p->B, padded, work->row, work->norm);
    HASTE__CU_LAUNCHED("softmax's sums");
    p->peak = work->norm;
    p->inverse = work->norm + padded;
    p->shift = work->norm + 2 * padded;
    p->factor = work->norm + 3 * padded;
    return HASTE_OK;
}

/* One block, on the wide path, from the copy of x in its own order. */
static haste_status haste__cu_wide_step(const haste__cu_pass *p, const haste__cu_work *work, const haste__cu_question *q,
                                        int *sums, cudaStream_t stream, haste_error *error)
{
    haste__cu_pass own = *p;
    own.x = work->x_wide;
    HASTE__CU_TRY(haste__wide_step(&own, work->sums, (int64_t)work->sums_bytes, q->processors, q->shared_bytes, sums, stream),
                  "training a block (wide)");
    return HASTE_OK;
}

/* One block, on the narrow path. In deterministic mode each cluster has a replica of grad_x to itself. */
static haste_status haste__cu_narrow_step(const haste__cu_pass *p, const haste__cu_work *work, const haste__cu_question *q,
                                          int *sums, cudaStream_t stream, haste_error *error)
{
    haste__narrow_plan plan;
    const char *reason = haste__cu_narrow_plan(q, 0, &plan);
    if (reason) return haste__cu_fail(error, HASTE_ERR_ARG, "%s", reason);
    HASTE__CU_TRY(haste__narrow_fit(&plan, p->optimizer != HASTE_SGD), "training a block (narrow)");
    if (p->deterministic && plan.blocks > p->replicas * plan.cluster) plan.blocks = p->replicas * plan.cluster;
    HASTE__CU_TRY(haste__narrow_step(p, &plan, work->sums, stream), "training a block (narrow)");
    *sums = plan.blocks;
    return HASTE_OK;
}

/* Can the kernels of >>backward make this gradient? Then *plan. */
static int haste__cu_given_takes(haste__cu_given_plan *plan, const haste__cu_pass *p, haste_dtype dtype, int weights)
{
    return dtype == HASTE_BF16
        && haste__cu_given_plan_make(plan, p, weights, haste__cu_device_value(cudaDevAttrComputeCapabilityMajor),
                                     haste__cu_device_value(cudaDevAttrComputeCapabilityMinor),
                                     haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                                     haste__cu_device_value(cudaDevAttrMultiProcessorCount));
}

/* Makes the gradients of a block that those kernels take, and takes them off the list: what is left is for the general
   kernel. */
static haste_status haste__cu_given_block(haste__cu_pass *p, haste_dtype dtype, cudaStream_t stream, haste_error *error)
{
    haste__cu_given_plan plan;
    if ((p->grad_weight || p->grad_bias) && haste__cu_given_takes(&plan, p, dtype, 1)) {
        HASTE__CU_TRY(haste__cu_given_launch(p, &plan, 1, stream), "the gradient of a block's weights");
        p->grad_weight = p->grad_bias = NULL;
    }
    if (p->grad_x && haste__cu_given_takes(&plan, p, dtype, 0)) {
        HASTE__CU_TRY(haste__cu_given_launch(p, &plan, 0, stream), "the gradient of a block's inputs");
        p->grad_x = NULL;
    }
    return HASTE_OK;
}

/* Does such a call read x? Not where only the gradient of x is wanted, and the kernel above makes all of it. */
static int haste__cu_given_needs_x(const haste_cuda_layer *layer, const haste__cu_pass *pass,
                                   const haste_cuda_gradient *gradient)
{
    haste__cu_pass p = *pass;
    haste__cu_given_plan plan;
    int i;
    for (i = 0; i < layer->block_count; i++) {
        haste__cu_pass_block(&p, layer, i);
        if (gradient && (gradient->weight[i] || gradient->bias[i])) return 1;
        if (!haste__cu_given_takes(&plan, &p, layer->dtype, 0)) return 1;
    }
    return 0;
}

/* Momentum and betas: 0 .. 1, where 0 means a default, or HASTE_NONE. */
static int   haste__cu_is_rate(float rate) { return (rate >= 0 && rate < 1) || rate == HASTE_NONE; }
static float haste__cu_rate(float rate, float otherwise) { return rate == 0 ? otherwise : rate > 0 ? rate : 0; }

/* Is there something in the options that the device cannot do? Then which. */
static const char *haste__cu_not_done(const haste_step_options *o, haste_loss loss)
{
    const haste_loss_options *l = &o->loss;
    if (l->positive_value) return "loss.positive_value: not on the device";
    if (l->ignored) return "loss.ignored: not on the device";
    if (l->function) return "loss.function: not on the device";
    if (l->softmax) return "loss.softmax: not on the device";
    if (o->clip != 0) return "clip: not on the device";
    if (o->grad_norm) return "grad_norm: not on the device";
    if (loss != HASTE_SOFTMAX) return NULL;
    if (l->label_weight) return "loss.label_weight: not on the device with softmax";
    if (l->label_scale) return "loss.label_scale: not on the device with softmax";
    if (l->label_offset) return "loss.label_offset: not on the device with softmax";
    if (l->logit_scale != 0 && l->logit_scale != 1) return "loss.logit_scale: not on the device with softmax";
    if (l->margin != 0) return "loss.margin: not on the device with softmax";
    if (l->smoothing != 0) return "loss.smoothing: not on the device with softmax";
    if (l->share != 0 && l->share != 1) return "loss.share: not on the device with softmax";
    return NULL;
}

/* Checks the loss's options, but for their arrays, which lie on the device, and brings them into the pass. */
static haste_status haste__cu_loss_options(haste__cu_pass *p, const haste_cuda_layer *layer, const haste_loss_options *o,
                                           haste_error *error)
{
    if (o->scale != 0 && !(fabs(o->scale) >= FLT_MIN && fabs(o->scale) <= FLT_MAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "scale = %g, expected 0, or a size of %g to %g", o->scale,
                              (double)FLT_MIN, (double)FLT_MAX);
    if (!(o->negligible >= 0 && o->negligible <= FLT_MAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "negligible = %g, expected a finite number from 0",
                              (double)o->negligible);
    if (!(fabs((double)o->logit_scale) <= FLT_MAX) || !(fabs((double)o->margin) <= FLT_MAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "logit_scale = %g, margin = %g, expected finite numbers",
                              (double)o->logit_scale, (double)o->margin);
    if (!(o->positive_weight >= 0 && o->positive_weight <= FLT_MAX) ||
        (o->positive_weight != 0 && layer->loss == HASTE_SOFTMAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "positive_weight = %g, expected a finite number from 0, and 0 with softmax",
                              (double)o->positive_weight);
    if (!(o->smoothing >= 0 && o->smoothing < 1) || (o->smoothing != 0 && layer->loss == HASTE_SQUARED_HINGE))
        return haste__cu_fail(error, HASTE_ERR_ARG, "smoothing = %g, expected 0 to below 1, and 0 with the squared hinge",
                              (double)o->smoothing);
    if (!(o->share >= 0 && o->share <= 1))
        return haste__cu_fail(error, HASTE_ERR_ARG, "share = %g, expected 0 to 1", (double)o->share);
    p->negligible = o->negligible;
    p->sample_weight = o->sample_weight;
    p->label_weight = o->label_weight;
    p->label_scale = o->label_scale;
    p->label_offset = o->label_offset;
    p->logit_scale = o->logit_scale != 0 ? o->logit_scale : 1;
    p->margin = o->margin;
    p->positive_weight = o->positive_weight != 0 ? o->positive_weight : 1;
    p->smoothing = o->smoothing;
    p->share = o->share != 0 ? o->share : 1;
    p->adjusted = p->sample_weight || p->label_weight || p->label_scale || p->label_offset || p->logit_scale != 1 ||
                  p->margin != 0 || p->positive_weight != 1 || p->smoothing != 0 || p->share != 1;
    return HASTE_OK;
}

/* Checks the options of a step, and brings the loss's into the pass. */
static haste_status haste__cu_rules_check(haste__cu_pass *p, const haste_cuda_layer *layer, const haste_step_options *o,
                                          haste_error *error)
{
    int i;
    if (!o) return haste__cu_fail(error, HASTE_ERR_ARG, "options is NULL");
    if (haste__cu_not_done(o, layer->loss))
        return haste__cu_fail(error, HASTE_ERR_ARG, "options.%s", haste__cu_not_done(o, layer->loss));
    if (!(o->lr >= 0 && o->lr <= FLT_MAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "lr = %g, expected a finite number from 0", (double)o->lr);
    if (!haste__cu_is_rate(o->momentum) || !haste__cu_is_rate(o->beta1) || !haste__cu_is_rate(o->beta2))
        return haste__cu_fail(error, HASTE_ERR_ARG,
                              "momentum = %g, beta1 = %g, beta2 = %g, expected 0 <= each < 1, or HASTE_NONE",
                              (double)o->momentum, (double)o->beta1, (double)o->beta2);
    if (!(o->eps >= 0 && o->eps <= FLT_MAX) || !(o->weight_decay >= 0 && o->weight_decay <= FLT_MAX))
        return haste__cu_fail(error, HASTE_ERR_ARG, "eps = %g, weight_decay = %g, expected finite numbers from 0",
                              (double)o->eps, (double)o->weight_decay);
    for (i = 0; i < layer->block_count && o->block; i++) {
        const haste_block_rates *r = &o->block[i];
        if (!((r->lr >= 0 && r->lr <= FLT_MAX) || r->lr == HASTE_NONE) ||
            !((r->weight_decay >= 0 && r->weight_decay <= FLT_MAX) || r->weight_decay == HASTE_NONE) ||
            !haste__cu_is_rate(r->momentum) || !haste__cu_is_rate(r->beta1) || !haste__cu_is_rate(r->beta2) ||
            (r->frozen != 0 && r->frozen != 1))
            return haste__cu_fail(error, HASTE_ERR_ARG, "block[%d]: lr = %g, weight_decay = %g, momentum = %g, beta1 = %g, "
                                  "beta2 = %g, frozen = %d: one is out of range", i, (double)r->lr,
                                  (double)r->weight_decay, (double)r->momentum, (double)r->beta1, (double)r->beta2,
                                  (int)r->frozen);
    }
    return haste__cu_loss_options(p, layer, &o->loss, error);
}

static int haste__cu_frozen(const haste_step_options *o, int number) { return o && o->block && o->block[number].frozen; }

/* The rates of one block. */
static haste__cu_rates haste__cu_rates_of(const haste_step_options *o, int number)
{
    haste__cu_rates rates;
    haste_block_rates r;
    memset(&r, 0, sizeof r);
    if (o->block) r = o->block[number];
    rates.lr = haste__cu_rate(r.lr, o->lr);
    rates.decay = haste__cu_rate(r.weight_decay, o->weight_decay);
    rates.momentum = haste__cu_rate(r.momentum, haste__cu_rate(o->momentum, .9f));
    rates.beta1 = haste__cu_rate(r.beta1, haste__cu_rate(o->beta1, .9f));
    rates.beta2 = haste__cu_rate(r.beta2, haste__cu_rate(o->beta2, .999f));
    rates.eps = o->eps > 0 ? o->eps : 1e-8f;
    return rates;
}

/* What the device needs in order to know what step this is. options NULL: gradients of scale 1. live: NULL for calls that
   look at nothing on the device. */
static haste__cu_schedule haste__cu_schedule_make(const haste_cuda_layer *layer, const haste__cu_work *work,
                                                  const haste_step_options *options, int32_t B, int update,
                                                  const haste_cuda_live *live)
{
    haste__cu_schedule schedule;
    int i;
    memset(&schedule, 0, sizeof schedule);
    schedule.moment = work->moment;
    schedule.blocks = layer->block_count;
    schedule.optimizer = (int32_t)layer->optimizer;
    schedule.update = update;
    schedule.scale = 1;
    if (options && B > 0) schedule.scale = (float)(options->loss.scale != 0 ? options->loss.scale : 1.0 / (double)B);
    schedule.seed = layer->seed;
    schedule.step = layer->step;
    if (live) schedule.live = *live;
    if (!update) schedule.live.lr = NULL;
    schedule.flag = work->flag;
    for (i = 0; i < layer->block_count && options; i++) {
        schedule.rates[i] = haste__cu_rates_of(options, i);
        schedule.fan_in[i] = layer->block[i].fan_in;
    }
    return schedule;
}

/* The same for a block's kernels. */
static void haste__cu_rule_make(haste__cu_pass *p, const haste_step_options *o, int number, const haste_cuda_live *live)
{
    const haste__cu_rates r = haste__cu_rates_of(o, number);
    p->decay = r.decay;
    p->momentum = r.momentum;
    p->beta1 = r.beta1;
    p->beta2 = r.beta2;
    p->eps = r.eps;
    p->wild = live->lr ? 1 : haste__cu_wild(p->optimizer, &r, r.lr);   /* the device looks at its own rates */
}

/* Trains every block: what step, accumulate and backward share. p says what is to be done; options: NULL for backward.
   grad_x's replicas have been cleared. */
static haste_status haste__cu_train(const haste_cuda_layer *layer, const haste__cu_work *work, haste__cu_pass *p,
                                    const haste_step_options *options, const haste_cuda_gradient *gradient, double *loss,
                                    void *grad_x, haste_cuda_type grad_x_type, cudaStream_t stream, haste_error *error)
{
    const int update = p->update;
    cudaError_t launched;
    haste__cu_counts counts;
    int i;
    haste_status status;
    memset(&counts, 0, sizeof counts);
    if (grad_x) p->grad_x = work->grad_x;
    for (i = 0; i < layer->block_count; i++) {
        haste_cuda_path path = layer->path[i];
        haste__cu_question q;
        const char *why = "";
        haste__cu_pass_block(p, layer, i);
        p->now = work->moment + i;
        if (options) haste__cu_rule_make(p, options, i, &work->own->live);
        p->update = update && !haste__cu_frozen(options, i);
        p->grad_weight = gradient && !haste__cu_frozen(options, i) ? gradient->weight[i] : NULL;
        p->grad_bias = gradient && !haste__cu_frozen(options, i) ? gradient->bias[i] : NULL;
        p->loss_sum = loss ? work->loss + (size_t)i * HASTE__CU_SUMS : NULL;
        if (p->given) {
            haste__cu_pass left = *p;
            status = haste__cu_given_block(&left, layer->dtype, stream, error);
            if (status == HASTE_OK && (left.grad_x || left.grad_weight || left.grad_bias))
                status = haste__cu_general_step(&left, layer->dtype, haste__cu_workers(work->tiles), &counts.n[i], stream,
                                                error);
            if (status != HASTE_OK) return status;
            continue;
        }
        if (path != HASTE_CUDA_GENERAL) {   /* fast paths only do steps, of batches that they take */
            status = haste__cu_ask(&q, layer, i, p->B, error);
            if (status != HASTE_OK) return status;
            q.deterministic = work->deterministic;
            q.sums = (int64_t)work->sums_bytes;
            if (!p->update || p->adjusted || p->wild > 1 || !haste__cu_takes(path, &q, &why)) path = HASTE_CUDA_GENERAL;
        }
        switch (path) {
        case HASTE_CUDA_WIDE:   status = haste__cu_wide_step(p, work, &q, &counts.n[i], stream, error); break;
        case HASTE_CUDA_NARROW: status = haste__cu_narrow_step(p, work, &q, &counts.n[i], stream, error); break;
        default:
            status = haste__cu_general_step(p, layer->dtype, haste__cu_workers(work->tiles), &counts.n[i], stream, error);
        }
        if (status != HASTE_OK) return status;
    }
    if (loss || grad_x) {
        const int x_blocks = grad_x ? p->tiles * 2 * ((p->D + 15) / 16) : 0;
        HASTE__CU_LAUNCH(haste__cu_finish_kernel, (unsigned)(x_blocks + (loss ? 1 : 0)), HASTE__CU_THREADS, 0, stream,
                         work->grad_x, (int)p->replicas, p->tiles, p->B, p->D, grad_x, (int)grad_x_type, x_blocks,
                         work->loss, layer->block_count, counts, work->moment, loss);
        HASTE__CU_LAUNCHED("loss and input gradient");
    }
    return HASTE_OK;
}

static haste_status haste__cu_grad_x_check(haste_cuda_type type, haste_error *error)
{
    if (type == HASTE_CUDA_F32 || type == HASTE_CUDA_BF16) return HASTE_OK;
    return haste__cu_fail(error, HASTE_ERR_ARG, "type of logits or gradients = %d, expected float32 or bfloat16", (int)type);
}

/* Softmax's sums go over all labels: of those of a shard they would be another loss. */
static haste_status haste__cu_loss_check(const haste_cuda_layer *layer, haste_error *error)
{
    int64_t labels = 0;
    int i;
    for (i = 0; i < layer->block_count; i++) labels += layer->block[i].labels;
    if (layer->loss != HASTE_SOFTMAX || labels == layer->labels) return HASTE_OK;
    return haste__cu_fail(error, HASTE_ERR_ARG, "softmax needs all labels, this shard has %lld of %d: train it by "
                          "haste_cuda_forward, sums over all shards, and haste_cuda_backward", (long long)labels,
                          (int)layer->labels);
}

/* train_step, accumulate and evaluate: `update`, or into `gradient`, or neither. */
static haste_status haste__cu_learn(const haste_cuda_layer *layer, haste_cuda_workspace *own, const void *x,
                                    haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                    const haste_step_options *options, haste_cuda_gradient *gradient, int update,
                                    double *loss, void *grad_x, haste_cuda_type grad_x_type, cudaStream_t stream,
                                    haste_error *error)
{
    haste__cu_work work;
    haste__cu_pass p;
    haste__cu_clear clear;
    int i, wide = 0;
    haste_status status = haste__cu_batch_check(&work, layer, own, HASTE_TRAINING, x, x_type, B, 1, error);
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++) wide |= update && layer->path[i] == HASTE_CUDA_WIDE;
    haste__cu_pass_make(&p, layer, &work, B);
    status = haste__cu_loss_check(layer, error);
    if (status == HASTE_OK) status = haste__cu_rules_check(&p, layer, options, error);
    if (status == HASTE_OK) status = haste__cu_lists_check(layer, &work, B, positives, "positives", stream, error);
    if (status == HASTE_OK) status = haste__cu_grad_x_check(grad_x_type, error);
    if (status == HASTE_OK && gradient) status = haste__cu_gradient_check(layer, gradient, 1, error);
    if (status == HASTE_OK && gradient) status = haste__cu_pending_check(layer, gradient, error);
    if (status == HASTE_OK && !own->live.step && (update || p.share != 1))
        status = haste__cu_not_captured(stream, update ? "training without work->live.step" :
                                        "loss.share without work->live.step", error);
    if (status != HASTE_OK) return status;
    if (B == 0) {
        if (loss) HASTE__CU_TRY(cudaMemsetAsync(loss, 0, sizeof *loss, stream), "a loss of 0");
        return HASTE_OK;
    }
    clear = haste__cu_clear_make(layer, &work, &p, grad_x != NULL, 1);
    clear.schedule = haste__cu_schedule_make(layer, &work, options, B, update, &own->live);
    status = haste__cu_prepare(layer, &work, x, x_type, B, wide, clear, stream, error);
    if (status == HASTE_OK)
        status = haste__cu_place_lists(layer, &work, B, positives, layer->loss == HASTE_SOFTMAX, &p, stream, error);
    if (status == HASTE_OK && layer->loss == HASTE_SOFTMAX) status = haste__cu_softmax(layer, &work, &p, stream, error);
    if (status != HASTE_OK) return status;
    p.update = update;
    p.add = 1;
    return haste__cu_train(layer, &work, &p, options, gradient, loss, grad_x, grad_x_type, stream, error);
}

haste_status haste_cuda_train_step(haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                   haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                   const haste_step_options *options, double *loss, void *grad_x,
                                   haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error)
{
    const haste_status status = haste__cu_learn(layer, work, x, x_type, B, positives, options, NULL, 1, loss, grad_x,
                                                grad_x_type, (cudaStream_t)stream, error);
    if (status == HASTE_OK && B > 0 && !work->live.step) layer->step++;
    return status;
}

haste_status haste_cuda_evaluate(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                 haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                 const haste_loss_options *options, double *loss, void *grad_x,
                                 haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error)
{
    haste_step_options o;
    memset(&o, 0, sizeof o);
    if (options) o.loss = *options;
    return haste__cu_learn(layer, work, x, x_type, B, positives, &o, NULL, 0, loss, grad_x, grad_x_type,
                           (cudaStream_t)stream, error);
}

haste_status haste_cuda_accumulate(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                   haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                                   const haste_step_options *options, haste_cuda_gradient *gradient, double *loss,
                                   void *grad_x, haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error)
{
    haste_status status;
    if (!gradient) return haste__cu_fail(error, HASTE_ERR_ARG, "gradient is NULL");
    status = haste__cu_learn(layer, work, x, x_type, B, positives, options, gradient, 0, loss, grad_x, grad_x_type,
                             (cudaStream_t)stream, error);
    if (status == HASTE_OK && B > 0) {
        gradient->rewires = layer->rewires;
        gradient->pending++;
    }
    return status;
}

haste_status haste_cuda_apply(haste_cuda_layer *layer, haste_cuda_workspace *work, haste_cuda_gradient *gradient,
                              const haste_step_options *options, haste_cuda_stream stream, haste_error *error)
{
    cudaStream_t s = (cudaStream_t)stream;
    cudaError_t launched;
    haste__cu_work w;
    haste__cu_pass p;
    haste__cu_schedule schedule;
    int i;
    haste_status status = haste__cu_work_check(&w, layer, work, HASTE_TRAINING, error);
    if (status != HASTE_OK) return status;
    haste__cu_pass_make(&p, layer, &w, 0);
    status = haste__cu_rules_check(&p, layer, options, error);
    if (status == HASTE_OK) status = haste__cu_gradient_check(layer, gradient, 1, error);
    if (status == HASTE_OK) status = haste__cu_pending_check(layer, gradient, error);
    if (status == HASTE_OK && !work->live.step)
        status = haste__cu_not_captured(s, "training without work->live.step", error);
    if (status != HASTE_OK) return status;
    if (gradient->pending == 0)
        return haste__cu_fail(error, HASTE_ERR_STATE, "nothing is pending in this gradient (gradient->pending = 0)");
    schedule = haste__cu_schedule_make(layer, &w, options, 0, 1, &work->live);
    HASTE__CU_LAUNCH(haste__cu_moments_kernel, 1, 32, 0, s, schedule);
    HASTE__CU_LAUNCHED("applying gradients");
    for (i = 0; i < layer->block_count; i++) {
        haste__cu_pass_block(&p, layer, i);
        p.now = w.moment + i;
        haste__cu_rule_make(&p, options, i, &work->live);
        p.grad_weight = gradient->weight[i];
        p.grad_bias = gradient->bias[i];
        if (haste__cu_frozen(options, i)) {
            const size_t slots = (size_t)p.groups * (size_t)p.S;
            HASTE__CU_TRY(cudaMemsetAsync(p.grad_weight, 0, slots * (size_t)p.F * sizeof(float), s), "zeroing a gradient");
            HASTE__CU_TRY(cudaMemsetAsync(p.grad_bias, 0, slots * sizeof(float), s), "zeroing a gradient");
            continue;
        }
        if (layer->dtype == HASTE_F32)
            HASTE__CU_LAUNCH(haste__cu_apply_kernel<float>, haste__cu_grid(haste__cu_items(&p)), HASTE__CU_THREADS, 0, s, p);
        else
            HASTE__CU_LAUNCH(haste__cu_apply_kernel<uint16_t>, haste__cu_grid(haste__cu_items(&p)), HASTE__CU_THREADS, 0, s,
                             p);
        HASTE__CU_LAUNCHED("applying gradients");
    }
    if (!work->live.step) layer->step++;
    gradient->pending = 0;
    return HASTE_OK;
}

haste_status haste_cuda_forward(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                haste_cuda_type x_type, int32_t B, void *logits, haste_cuda_type logits_type,
                                haste_cuda_stream stream, haste_error *error)
{
    haste__cu_work w;
    haste__cu_pass p;
    haste_status status = haste__cu_batch_check(&w, layer, work, HASTE_ANY_PURPOSE, x, x_type, B, 1, error);
    if (status == HASTE_OK) status = haste__cu_grad_x_check(logits_type, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!logits) return haste__cu_fail(error, HASTE_ERR_ARG, "logits is NULL");
    haste__cu_pass_make(&p, layer, &w, B);
    p.logits = logits;
    p.logits_bf16 = logits_type == HASTE_CUDA_BF16;
    status = haste__cu_prepare_x(layer, &w, x, x_type, B, (cudaStream_t)stream, error);
    if (status == HASTE_OK) status = haste__cu_forward_all(layer, &w, &p, HASTE__CU_LOGITS, (cudaStream_t)stream, error);
    return status;
}

haste_status haste_cuda_backward(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                                 haste_cuda_type x_type, int32_t B, const void *grad_logits,
                                 haste_cuda_type grad_logits_type, haste_cuda_gradient *gradient, void *grad_x,
                                 haste_cuda_type grad_x_type, haste_cuda_stream stream, haste_error *error)
{
    haste__cu_work w;
    haste__cu_pass p;
    haste__cu_clear clear;
    haste_status status = haste__cu_batch_check(&w, layer, work, HASTE_TRAINING, x, x_type, B, 1, error);
    if (status == HASTE_OK) status = haste__cu_grad_x_check(grad_logits_type, error);
    if (status == HASTE_OK) status = haste__cu_grad_x_check(grad_x_type, error);
    if (status == HASTE_OK && gradient) status = haste__cu_gradient_check(layer, gradient, 0, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!grad_logits) return haste__cu_fail(error, HASTE_ERR_ARG, "grad_logits is NULL");
    haste__cu_pass_make(&p, layer, &w, B);
    p.given = grad_logits;
    p.given_bf16 = grad_logits_type == HASTE_CUDA_BF16;
    if (!p.deterministic && p.replicas > 2) p.replicas = 2;   /* few blocks add, and seldom */
    clear = haste__cu_clear_make(layer, &w, &p, grad_x != NULL, 0);
    clear.schedule = haste__cu_schedule_make(layer, &w, NULL, B, 0, NULL);
    status = haste__cu_prepare(layer, &w, haste__cu_given_needs_x(layer, &p, gradient) ? x : NULL, x_type, B, 0, clear,
                               (cudaStream_t)stream, error);
    if (status == HASTE_OK)
        status = haste__cu_train(layer, &w, &p, NULL, gradient, NULL, grad_x, grad_x_type, (cudaStream_t)stream, error);
    if (status == HASTE_OK && gradient) {
        gradient->pending = 1;
        gradient->rewires = layer->rewires;
    }
    return status;
}

haste_status haste_cuda_check(haste_cuda_workspace *work, haste_cuda_stream stream, haste_error *error)
{
    uint32_t flag[HASTE__CU_FLAGS];
    cudaStream_t s = (cudaStream_t)stream;
    haste__cu_work w;
    size_t bytes;
    haste_status status;
    if (!work || !work->memory) return haste__cu_fail(error, HASTE_ERR_ARG, "work is NULL or was never made");
    status = haste__cu_begin(work->device, error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "haste_cuda_check", error);
    if (status != HASTE_OK) return status;
    haste__cu_work_make(&w, work);
    status = haste__cu_work_arrange(&w, (char *)work->memory, &bytes, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_TRY(cudaMemcpyAsync(flag, w.flag, sizeof flag, cudaMemcpyDeviceToHost, s), "reading the flags");
    HASTE__CU_TRY(cudaMemsetAsync(w.flag, 0, sizeof flag, s), "clearing the flags");
    HASTE__CU_TRY(cudaStreamSynchronize(s), "waiting for the device");
    if (flag[HASTE__CU_FLAG_DATA]) {
        char where[40] = "";
        if (flag[HASTE__CU_FLAG_SAMPLE])
            snprintf(where, sizeof where, " of sample %u", (unsigned)~flag[HASTE__CU_FLAG_SAMPLE]);
        return haste__cu_fail(error, HASTE_ERR_DATA, "a list%s on the device had an id outside 0 to L - 1, descending "
                              "offsets or too many ids, which were passed over%s", where,
                              flag[HASTE__CU_FLAG_NONFINITE] ? "; and a logit or gradient was not finite" : "");
    }
    if (flag[HASTE__CU_FLAG_NONFINITE])
        return haste__cu_fail(error, HASTE_ERR_NONFINITE,
                              "a logit, gradient or new weight was not finite; the labels concerned were left as they were");
    return HASTE_OK;
}

/* ---- >>prediction calls -------------------------------------------------------------------------------------- */

static void haste__cu_stream_make(haste__cu_stream_args *a, const haste_cuda_layer *layer, const haste__cu_work *work,
                                  const void *x, haste_cuda_type x_type, int32_t B)
{
    int i;
    memset(a, 0, sizeof *a);
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        a->block[i].units = (int32_t)block->groups;
        a->block[i].labels = block->labels;
        a->block[i].first_slot = block->first_slot;
        a->block[i].index = block->index;
        a->block[i].weight = block->weight;
        a->block[i].bias = block->bias;
        a->block[i].S = block->group_size;
        a->block[i].F = block->fan_in;
        a->block[i].begin = block->begin;
        a->block[i].path = layer->path[i];
    }
    a->blocks = layer->block_count;
    a->labels = layer->labels;
    a->B = B;
    a->D = layer->inputs;
    a->x = x;
    a->x_type = x_type;
    a->label_of = layer->label_of;
    a->flag = work->flag;
    a->best = work->best;
}

/* Which kernel streams a block of labels for B samples: that with tensor cores (2; if it is to be asked), the other (1), or
   none (0). */
static int haste__cu_stream_takes(const haste__cu_stream_block *block, haste_dtype dtype, int32_t B, int tensor)
{
    if (tensor && dtype == HASTE_BF16 && block->S % 16 == 0 && block->F % 16 == 0
        && block->units <= INT32_MAX / 8
        && ((uintptr_t)block->weight | (uintptr_t)block->index | (uintptr_t)block->bias) % 16 == 0) return 2;
    return block->path == HASTE_CUDA_GENERAL && B <= HASTE__CU_FEWER;
}

/* Of `all` the blocks that kernel `which` takes, cut into jobs. *shared: what it wants; 0 where that is more than there
   is. */
static void haste__cu_stream_cut(haste__cu_stream_args *a, const haste__cu_stream_args *all, haste_dtype dtype, int which,
                                 int tensor, size_t *shared)
{
    const int width = dtype == HASTE_F32 ? 4 : 2, N = a->B == 1 ? 1 : HASTE__CU_FEWER;
    const int given = haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    const size_t most = given > 1024 ? (size_t)given - 1024 : 0;   /* the kernels' own: less */
    size_t ring, lists;
    int i, labels = 0;
    *a = *all;
    a->blocks = 0;
    for (i = 0; i < all->blocks; i++) {
        haste__cu_stream_block *block = &a->block[a->blocks];
        if (haste__cu_stream_takes(&all->block[i], dtype, a->B, tensor) != which) continue;
        a->blocks++;
        *block = all->block[i];
        block->unit = block->S;
        block->per = 1;
        block->rows = HASTE__CU_STREAM_BYTES / (block->S * width);
        if (which == 2) {
            const int pairs = block->path == HASTE_CUDA_NARROW || block->S == 16, runs = pairs ? 2 : block->S % 32 ? 1 : 0;
            int stage;
            block->runs = runs;
            block->slots = (int64_t)block->units * block->S;
            block->unit = runs == 1 ? 16 : 32;
            block->per = pairs ? 1 : block->S / block->unit;
            block->units = (int32_t)((block->slots + block->unit - 1) / block->unit);
            block->rows = HASTE__FEW_ROWS;
            stage = HASTE__FEW_PLACES + (pairs ? 2 : 1) * haste__few_places(*block) * 2;
            if (stage > a->stage) a->stage = stage;
        }
        if (block->rows > HASTE__CU_STREAM_ROWS) block->rows = HASTE__CU_STREAM_ROWS;
        if (block->rows >= 8) block->rows -= block->rows % 8;
        if (block->rows > block->F) block->rows = block->F;
        block->chunks = (block->F + block->rows - 1) / block->rows;
        block->copied = block->index && (uintptr_t)block->index % 16 == 0 && block->F % 8 == 0
            && (block->rows % 8 == 0 || block->chunks == 1);
        if (block->S > labels) labels = block->S;
    }
    a->room = a->excluded_offset ? 512 : a->k <= 16 ? 64 : 4 * a->k;
    lists = (size_t)a->B * ((size_t)a->room + (size_t)a->k) * 8;
    if (which == 2) {
        for (a->warps = HASTE__FEW_WARPS; a->warps >= 4; a->warps--) {
            ring = (size_t)a->warps * (HASTE__FEW_STAGES * (size_t)a->stage + 32 * (size_t)a->B);
            *shared = ring + (size_t)a->D * 16 + lists;
            if (*shared <= most) return;
        }
    } else {
        a->warps = HASTE__CU_STREAM_WARPS;
        a->stage = HASTE__CU_STREAM_BYTES + HASTE__CU_STREAM_ROWS * 2 + labels * 4;
        for (a->stages = 3; a->stages > 0; a->stages--) {
            ring = (size_t)a->warps * ((size_t)a->stages * (size_t)a->stage + HASTE__CU_STREAM_ROWS * (size_t)N * 4 +
                                       32 * (size_t)a->B);
            *shared = ring + ((size_t)N * (size_t)a->D + 3) / 4 * 16 + lists;
            if (*shared <= most) return;
        }
    }
    *shared = 0;
}

#define HASTE__CU_STREAM_LAUNCH(kernel)                                                                               \
    do {                                                                                                               \
        const haste_status allowed = haste__cu_allow(HASTE__CU_KERNEL(kernel), shared, error);                             \
        if (allowed != HASTE_OK) return allowed;                                                                       \
        HASTE__CU_LAUNCH((kernel), grid, 32 * (unsigned)a->warps, shared, stream, *a);                                 \
    } while (0)
static haste_status haste__cu_stream_launch(const haste__cu_stream_args *a, haste_dtype dtype, int which, unsigned grid,
                                            size_t shared, cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    const int one = a->B == 1;
    if (which == 2 && a->B <= HASTE__CU_FEW / 2) HASTE__CU_STREAM_LAUNCH(haste__few_kernel<1>);
    else if (which == 2) HASTE__CU_STREAM_LAUNCH(haste__few_kernel<2>);
    else if (dtype == HASTE_F32 && one) HASTE__CU_STREAM_LAUNCH((haste__cu_stream_kernel<float, 1>));
    else if (dtype == HASTE_F32) HASTE__CU_STREAM_LAUNCH((haste__cu_stream_kernel<float, HASTE__CU_FEWER>));
    else if (one) HASTE__CU_STREAM_LAUNCH((haste__cu_stream_kernel<uint16_t, 1>));
    else HASTE__CU_STREAM_LAUNCH((haste__cu_stream_kernel<uint16_t, HASTE__CU_FEWER>));
    HASTE__CU_LAUNCHED("streaming top-k");
    return HASTE_OK;
}

/* Which streaming kernels take the blocks: those without tensor cores a[0], with them a[1], which want shared[0], shared[1]
   bytes. 0: not all blocks are taken. */
static int haste__cu_stream_plan(haste__cu_stream_args *a, size_t *shared, const haste__cu_stream_args *all,
                                 haste_dtype dtype)
{
    int i, tensor, fits = 0;
    if (all->B > HASTE__CU_FEW) return 0;
    for (tensor = 1; tensor >= 0 && !fits; tensor--) {   /* the other one has room for more inputs */
        for (i = 0; i < 2; i++) haste__cu_stream_cut(&a[i], all, dtype, i + 1, tensor, &shared[i]);
        fits = a[0].blocks + a[1].blocks == all->blocks;
        for (i = 0; i < 2; i++) if (a[i].blocks && !shared[i]) fits = 0;
    }
    return fits;
}

/* The k best of few samples, if streaming kernels take all blocks of labels; else *done = 0. */
static haste_status haste__cu_stream(const haste__cu_stream_args *all, haste_dtype dtype, int *done, cudaStream_t stream,
                                     haste_error *error)
{
    cudaError_t launched;
    haste__cu_stream_args a[2];
    size_t shared[2];
    const int processors = haste__cu_device_value(cudaDevAttrMultiProcessorCount);
    int i, j, parts = 0;
    *done = 0;
    if (!haste__cu_stream_plan(a, shared, all, dtype)) return HASTE_OK;
    for (i = 0; i < 2; i++) {
        haste_status status;
        int64_t units = 0;
        int grid = processors < HASTE__CU_FEW_PARTS ? processors : HASTE__CU_FEW_PARTS;
        if (!a[i].blocks) continue;
        for (j = 0; j < a[i].blocks; j++) units += a[i].block[j].units;
        if (units < grid) grid = (int)units;
        if (all->B > 1 || (a[0].blocks && a[1].blocks)) a[i].id = NULL;   /* a kernel of its own merges */
        a[i].best += (size_t)parts * (size_t)all->B * (size_t)all->k;
        parts += grid;
        status = haste__cu_stream_launch(&a[i], dtype, i + 1, (unsigned)grid, shared[i], stream, error);
        if (status != HASTE_OK) return status;
    }
    *done = 1;
    if (a[0].id == NULL || a[1].id == NULL) {
        HASTE__CU_LAUNCH(haste__cu_merge_kernel, (unsigned)all->B, HASTE__CU_THREADS, 0, stream, all->best, parts,
                         (int64_t)all->B, all->k, all->id, all->score);
        HASTE__CU_LAUNCHED("merging the best");
    }
    return HASTE_OK;
}

/* What a search leaves out: *excluded, or NULL. */
static haste_status haste__cu_search_check(const haste_cuda_layer *layer, const haste__cu_work *work, int32_t B,
                                           const haste_cuda_search_options *options, const haste_cuda_lists **excluded,
                                           cudaStream_t stream, haste_error *error)
{
    *excluded = options ? options->excluded : NULL;
    if (options && options->only) return haste__cu_fail(error, HASTE_ERR_ARG, "options.only: not on the device");
    return *excluded ? haste__cu_lists_check(layer, work, B, *excluded, "options.excluded", stream, error) : HASTE_OK;
}

haste_status haste_cuda_top_k(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                              haste_cuda_type x_type, int32_t B, int32_t k, const haste_cuda_search_options *options,
                              int32_t *id, float *score, haste_cuda_stream stream, haste_error *error)
{
    cudaError_t launched;
    haste__cu_work w;
    haste__cu_pass p;
    haste_cuda_lists lists;
    const haste_cuda_lists *excluded;
    cudaStream_t s = (cudaStream_t)stream;
    int streamed = 0;
    haste_status status = haste__cu_batch_check(&w, layer, work, HASTE_PREDICTION, x, x_type, B, 1, error);
    if (status == HASTE_OK) status = haste__cu_search_check(layer, &w, B, options, &excluded, s, error);
    if (status != HASTE_OK) return status;
    if (!id && B > 0) return haste__cu_fail(error, HASTE_ERR_ARG, "id is NULL");
    if (k < 1) return haste__cu_fail(error, HASTE_ERR_ARG, "k = %d, expected at least 1", (int)k);
    if (k > work->top_k)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "k = %d, expected at most the workspace's top_k = %d", (int)k,
                              (int)work->top_k);
    if (B == 0) return HASTE_OK;
    memset(&lists, 0, sizeof lists);
    if (excluded) {
        status = haste__cu_lists_to_device(&w, B, excluded, &lists, s, error);
        if (status != HASTE_OK) return status;
    }
    {
        haste__cu_stream_args a;
        haste__cu_stream_make(&a, layer, &w, x, x_type, B);
        a.k = k;
        a.id = id;
        a.score = score;
        a.excluded_offset = lists.offset;
        a.excluded_id = lists.id;
        a.excluded_most = w.ids;
        status = haste__cu_stream(&a, layer->dtype, &streamed, s, error);
        if (status != HASTE_OK || streamed) return status;
    }
    haste__cu_pass_make(&p, layer, &w, B);
    p.k = k;
    p.best = w.best;
    p.floor = w.floor;
    status = haste__cu_prepare_x(layer, &w, x, x_type, B, s, error);
    if (status == HASTE_OK && excluded) status = haste__cu_prepare_lists(layer, &w, B, &lists, 0, &p, s, error);
    if (status != HASTE_OK) return status;
    status = haste__cu_forward_all(layer, &w, &p, HASTE__CU_TOP_K, s, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_LAUNCH(haste__cu_merge_kernel, (unsigned)B, HASTE__CU_THREADS, 0, s, w.best, p.parts,
                     (int64_t)p.tiles * HASTE__CU_TILE, k, id, score);
    HASTE__CU_LAUNCHED("merging the best");
    return HASTE_OK;
}

haste_status haste_cuda_above(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                              haste_cuda_type x_type, int32_t B, float threshold,
                              const haste_cuda_search_options *options, int64_t *offset, int32_t *id, float *score,
                              int64_t capacity, int64_t *needed, haste_cuda_stream stream, haste_error *error)
{
    cudaError_t launched;
    haste__cu_work w;
    haste__cu_pass p;
    const haste_cuda_lists *excluded;
    cudaStream_t s = (cudaStream_t)stream;
    int64_t total = 0;
    haste_status status = haste__cu_batch_check(&w, layer, work, HASTE_PREDICTION, x, x_type, B, 1, error);
    if (status == HASTE_OK) status = haste__cu_search_check(layer, &w, B, options, &excluded, s, error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "haste_cuda_above", error);
    if (status != HASTE_OK) return status;
    if (!offset || !needed) return haste__cu_fail(error, HASTE_ERR_ARG, "offset or needed is NULL");
    if (capacity < 0 || (capacity > 0 && (!id || !score)))
        return haste__cu_fail(error, HASTE_ERR_ARG, "capacity = %lld with id = %p, score = %p", (long long)capacity,
                              (void *)id, (void *)score);
    if (threshold != threshold) return haste__cu_fail(error, HASTE_ERR_ARG, "threshold is NaN");
    if (B == 0) {
        HASTE__CU_TRY(cudaMemsetAsync(offset, 0, sizeof *offset, s), "an offset of 0");
        HASTE__CU_TRY(cudaStreamSynchronize(s), "an offset of 0");
        *needed = 0;
        return HASTE_OK;
    }
    haste__cu_pass_make(&p, layer, &w, B);
    p.threshold = threshold;
    p.count = w.count;
    status = haste__cu_prepare_x(layer, &w, x, x_type, B, s, error);
    if (status == HASTE_OK && excluded) status = haste__cu_prepare_lists(layer, &w, B, excluded, 0, &p, s, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_TRY(cudaMemsetAsync(w.count, 0, (size_t)B * 8, s), "cudaMemsetAsync");
    status = haste__cu_forward_all(layer, &w, &p, HASTE__CU_ABOVE, s, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_LAUNCH(haste__cu_offset_kernel, 1, HASTE__CU_THREADS, 0, s, w.count, B, offset);
    HASTE__CU_LAUNCHED("counting hits");
    HASTE__CU_TRY(cudaMemcpyAsync(&total, offset + B, 8, cudaMemcpyDeviceToHost, s), "counting hits");
    HASTE__CU_TRY(cudaStreamSynchronize(s), "counting hits");
    *needed = total;
    if (total > capacity)
        return haste__cu_fail(error, HASTE_ERR_SIZE, "capacity = %lld, expected at least %lld", (long long)capacity,
                              (long long)total);
    if (total == 0) return HASTE_OK;
    p.hit_id = id;
    p.hit_score = score;
    status = haste__cu_forward_all(layer, &w, &p, HASTE__CU_ABOVE, s, error);
    if (status != HASTE_OK) return status;
    HASTE__CU_LAUNCH(haste__cu_sort_kernel, (unsigned)B, HASTE__CU_THREADS, 0, s, offset, id, score);
    HASTE__CU_LAUNCHED("sorting hits");
    return HASTE_OK;
}

haste_status haste_cuda_score(const haste_cuda_layer *layer, haste_cuda_workspace *work, const void *x,
                              haste_cuda_type x_type, int32_t B, const haste_cuda_lists *candidates, float *score,
                              haste_cuda_stream stream, haste_error *error)
{
    cudaError_t launched;
    haste__cu_work w;
    haste_cuda_lists lists;
    haste__cu_stream_args a;
    haste__cu_map map;
    dim3 grid((unsigned)(B < 8192 ? (B > 0 ? B : 1) : 8192), 8);
    cudaStream_t s = (cudaStream_t)stream;
    haste_status status = haste__cu_batch_check(&w, layer, work, HASTE_ANY_PURPOSE, x, x_type, B, 0, error);
    if (status == HASTE_OK) status = haste__cu_lists_check(layer, &w, B, candidates, "candidates", s, error);
    if (status != HASTE_OK || B == 0) return status;
    if (!score) return haste__cu_fail(error, HASTE_ERR_ARG, "score is NULL");
    status = haste__cu_lists_to_device(&w, B, candidates, &lists, s, error);
    if (status != HASTE_OK) return status;
    haste__cu_stream_make(&a, layer, &w, x, x_type, B);
    haste__cu_map_make(&map, layer);
    if (layer->dtype == HASTE_F32)
        launched = haste__cu_launch(haste__cu_score_kernel<float>, grid, HASTE__CU_THREADS, 0, s, a, map, lists.offset,
                                    lists.id, score);
    else
        launched = haste__cu_launch(haste__cu_score_kernel<uint16_t>, grid, HASTE__CU_THREADS, 0, s, a, map, lists.offset,
                                    lists.id, score);
    HASTE__CU_LAUNCHED("scoring");
    return HASTE_OK;
}

/* ---- >>rewiring call ----------------------------------------------------------------------------------------- */

template <typename T, int SP>
static haste_status haste__cu_launch_probe(const haste__cu_pass *p, const haste__cu_rewire *r, int growth, int workers,
                                           cudaStream_t stream, haste_error *error)
{
    cudaError_t launched;
    int grid = 1;
    haste_status status = haste__cu_resident(HASTE__CU_KERNEL(haste__cu_probe_kernel<T, SP>), haste__cu_tile<T, SP>::BYTES,
                                             &grid, error);
    if (status != HASTE_OK) return status;
    if (grid > workers) grid = workers;
    if (p->groups < grid) grid = (int)p->groups;
    HASTE__CU_LAUNCH((haste__cu_probe_kernel<T, SP>), grid, HASTE__CU_THREADS, (haste__cu_tile<T, SP>::BYTES), stream, *p,
                     *r, growth);
    HASTE__CU_LAUNCHED("gradients for rewiring");
    return HASTE_OK;
}

/* Do the kernels of >>candidates find the inputs that grow? Then *plan. */
static int haste__cu_candidates_take(haste__cu_candidates_plan *plan, const haste__cu_pass *p, haste_dtype dtype)
{
    return dtype == HASTE_BF16
        && haste__cu_candidates_plan_make(plan, p, haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                                          haste__cu_device_value(cudaDevAttrMultiProcessorCount));
}

static haste_status haste__cu_probe(const haste__cu_pass *p, const haste__cu_rewire *r, haste_dtype dtype, int growth,
                                    int workers, cudaStream_t stream, haste_error *error)
{
    haste__cu_candidates_plan plan;
    if (growth && haste__cu_candidates_take(&plan, p, dtype)) {
        HASTE__CU_TRY(haste__cu_candidates_launch(p, r, &plan, stream), "gradients for rewiring");
        return HASTE_OK;
    }
    if (dtype == HASTE_F32)
        return p->S <= 16 ? haste__cu_launch_probe<float, 16>(p, r, growth, workers, stream, error) :
               p->S <= 32 ? haste__cu_launch_probe<float, 32>(p, r, growth, workers, stream, error) :
                            haste__cu_launch_probe<float, 64>(p, r, growth, workers, stream, error);
    return p->S <= 16 ? haste__cu_launch_probe<uint16_t, 16>(p, r, growth, workers, stream, error) :
           p->S <= 32 ? haste__cu_launch_probe<uint16_t, 32>(p, r, growth, workers, stream, error) :
                        haste__cu_launch_probe<uint16_t, 64>(p, r, growth, workers, stream, error);
}

/* share * n rounded down, but for the share's own rounding; see haste.h. */
static int64_t haste__cu_share_of(float share, int64_t n)
{
    const double exact = (double)share * (double)n, nearest = floor(exact + 0.5);
    return (int64_t)(nearest - exact <= exact / 8388608 ? nearest : floor(exact));
}

static haste_status haste__cu_rewire_options_check(const haste_rewire_options *o, haste_error *error)
{
    int i;
    if (!o) return haste__cu_fail(error, HASTE_ERR_ARG, "options is NULL");
    if (!(o->share >= 0 && o->share <= 1))
        return haste__cu_fail(error, HASTE_ERR_ARG, "share = %g, expected 0 to 1", (double)o->share);
    if (!((o->group_share >= 0 && o->group_share <= 1) || o->group_share == HASTE_NONE))
        return haste__cu_fail(error, HASTE_ERR_ARG, "group_share = %g, expected 0 to 1, or HASTE_NONE",
                              (double)o->group_share);
    if ((unsigned)o->prune > HASTE_PRUNE_SALIENCY || (unsigned)o->scope > HASTE_SCOPE_GROUP ||
        (unsigned)o->growth > HASTE_GROW_GRADIENT)
        return haste__cu_fail(error, HASTE_ERR_ARG, "prune = %d, scope = %d, growth = %d: one is unknown", (int)o->prune,
                              (int)o->scope, (int)o->growth);
    for (i = 0; i < HASTE_MAX_BLOCKS; i++)
        if (o->scores || o->origin[i])
            return haste__cu_fail(error, HASTE_ERR_ARG, "scores = %p, origin[%d] = %p, expected NULL: haste.h alone has them",
                                  (void *)o->scores, i, (void *)o->origin[i]);
    if (o->sum || o->softmax)
        return haste__cu_fail(error, HASTE_ERR_ARG, "sum or softmax is given, expected NULL: haste.h alone has them");
    return HASTE_OK;
}

/* What becomes of one block, up to the point where it changes. */
static haste_status haste__cu_rewire_decide(const haste_cuda_layer *layer, int number, const haste__cu_pass *p,
                                            const haste__cu_rewire *r, const haste_rewire_options *options, int64_t moves,
                                            int workers, cudaStream_t stream, haste_error *error)
{
    const haste_block *block = &layer->block[number];
    cudaError_t launched;
    int64_t places = block->groups * block->fan_in;
    haste__cu_bound bound;
    haste_status status = HASTE_OK;
    int levels = 3;
    if (options->prune == HASTE_PRUNE_SALIENCY) status = haste__cu_probe(p, r, layer->dtype, 0, workers, stream, error);
    else {
        int grid = haste__cu_grid(places / HASTE__CU_THREADS + 1);
        if (layer->dtype == HASTE_F32)
            HASTE__CU_LAUNCH(haste__cu_magnitude_kernel<float>, grid, HASTE__CU_THREADS, 0, stream, *p, *r);
        else HASTE__CU_LAUNCH(haste__cu_magnitude_kernel<uint16_t>, grid, HASTE__CU_THREADS, 0, stream, *p, *r);
        HASTE__CU_LAUNCHED("scores of inputs");
    }
    if (status != HASTE_OK) return status;
    HASTE__CU_LAUNCH(haste__cu_limit_kernel, haste__cu_grid(block->groups), block->fan_in <= 64 ? 32 : HASTE__CU_THREADS,
                     block->fan_in <= HASTE__CU_FEW_PLACES ? (size_t)(block->fan_in + 3) / 4 * 16
                                                           : (size_t)(block->fan_in + 31) / 32 * 4,
                     stream, *r, block->groups, block->fan_in);
    HASTE__CU_LAUNCHED("the lowest of each group");
    memset(&bound, 0, sizeof bound);
    bound.left = moves;
    bound.found_score = 32;
    for (bound.found_place = 1; bound.found_place < 63 && (places - 1) >> bound.found_place; bound.found_place++) { }
    levels += (bound.found_place + 10) / 11;
    HASTE__CU_TRY(cudaMemcpyAsync(r->bound, &bound, sizeof bound, cudaMemcpyHostToDevice, stream), "rewiring");
    HASTE__CU_TRY(cudaMemsetAsync(r->count, 0, 2048 * sizeof(uint32_t), stream), "rewiring");
    for (; levels > 0; levels--) {
        HASTE__CU_LAUNCH(haste__cu_histogram_kernel, haste__cu_grid(places / 2048 + 1), HASTE__CU_THREADS, 0, stream, *r,
                         places);
        HASTE__CU_LAUNCHED("the bound of the scores");
        HASTE__CU_LAUNCH(haste__cu_pick_kernel, 1, HASTE__CU_THREADS, 0, stream, *r);
        HASTE__CU_LAUNCHED("the bound of the scores");
    }
    if (options->growth == HASTE_GROW_GRADIENT) return haste__cu_probe(p, r, layer->dtype, 1, workers, stream, error);
    {
        const int few = block->fan_in <= HASTE__CU_FEW_PLACES;
        int grid = haste__cu_grid((block->groups + 3) / 4);
        if (!few && grid > workers) grid = workers;   /* there is no more room for draws */
        HASTE__CU_LAUNCH(haste__cu_grow_kernel, grid, HASTE__CU_THREADS, few ? (size_t)block->fan_in * 32 : 0, stream, *r,
                         block->groups, block->fan_in, block->end - block->begin, block->index);
        HASTE__CU_LAUNCHED("growing inputs");
    }
    return HASTE_OK;
}

static void haste__cu_rewire_of(haste__cu_rewire *r, const haste__cu_rewire_memory *m, const haste_cuda_layer *layer,
                                int number, const haste_rewire_options *options, int64_t limit)
{
    uint64_t rewires = (uint64_t)layer->rewires << 8;
    memset(r, 0, sizeof *r);
    r->place = m->place[number];
    r->grow = m->grow;
    r->bound = m->bound + number;
    r->count = m->count;
    r->key = m->key;
    r->order = m->order;
    r->rows = m->rows;
    r->key_grow = haste__cu_key(layer->seed, HASTE__CU_RANDOM_GROW | rewires);
    r->key_weight = haste__cu_key(layer->seed, HASTE__CU_RANDOM_GROW_WEIGHT | rewires);
    r->group_base = layer->group_base[number];
    r->limit = (int32_t)limit;
    r->uniform = options->uniform;
    r->root = (float)sqrt((double)layer->block[number].fan_in);
}

static haste_status haste__cu_rewire_all(haste_cuda_layer *layer, const haste__cu_work *work,
                                         const haste_rewire_options *options, const void *x, haste_cuda_type x_type,
                                         int32_t B, const haste_cuda_lists *positives, int batch, const int64_t *limit,
                                         const int64_t *moves, const haste__cu_rewire_memory *m, cudaStream_t s,
                                         haste_error *error)
{
    cudaError_t launched;
    haste__cu_pass p;
    haste__cu_rewire r;
    uint32_t stop = 0;
    int i;
    haste_status status = HASTE_OK;
    haste__cu_pass_make(&p, layer, work, batch ? B : 0);
    p.slopes = m->slopes;
    HASTE__CU_TRY(cudaMemsetAsync(work->flag + HASTE__CU_FLAG_STOP, 0, 4, s), "rewiring");
    if (batch) {
        haste__cu_clear clear;
        memset(&clear, 0, sizeof clear);
        clear.schedule = haste__cu_schedule_make(layer, work, NULL, B, 0, NULL);
        clear.schedule.scale = (float)(1.0 / (double)B);
        status = haste__cu_prepare(layer, work, x, x_type, B, 0, clear, s, error);
        if (status == HASTE_OK)
            status = haste__cu_prepare_lists(layer, work, B, positives, layer->loss == HASTE_SOFTMAX, &p, s, error);
        if (status == HASTE_OK && layer->loss == HASTE_SOFTMAX) status = haste__cu_softmax(layer, work, &p, s, error);
    }
    for (i = 0; i < layer->block_count && status == HASTE_OK; i++) {
        if (moves[i] == 0) continue;
        haste__cu_pass_block(&p, layer, i);
        p.now = work->moment + i;
        haste__cu_rewire_of(&r, m, layer, i, options, limit[i]);
        status = haste__cu_rewire_decide(layer, i, &p, &r, options, moves[i], m->workers, s, error);
    }
    if (status != HASTE_OK) return status;
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *b = &layer->block[i];
        const int state = layer->optimizer != HASTE_SGD && layer->state_dtype == HASTE_F32;
        int shared = haste__cu_rewire_shared(b->fan_in, b->group_size, 4), grid = haste__cu_grid(b->groups), threads;
        if (moves[i] == 0) continue;
        haste__cu_pass_block(&p, layer, i);
        haste__cu_rewire_of(&r, m, layer, i, options, limit[i]);
        if (!shared && grid > m->workers) grid = m->workers;
        if (shared) {
            r.rows = NULL;
            if (layer->dtype == HASTE_BF16 && !state) shared = haste__cu_rewire_shared(b->fan_in, b->group_size, 2);
        }
        threads = shared && b->fan_in * b->group_size <= 2048 ? 32 : HASTE__CU_THREADS;   /* many small groups at once */
        if (layer->dtype == HASTE_F32)
            HASTE__CU_LAUNCH(haste__cu_rewire_kernel<float>, grid, threads, (size_t)shared, s, p, r, b->index);
        else HASTE__CU_LAUNCH(haste__cu_rewire_kernel<uint16_t>, grid, threads, (size_t)shared, s, p, r, b->index);
        HASTE__CU_LAUNCHED("rewiring");
    }
    HASTE__CU_TRY(cudaMemcpyAsync(&stop, work->flag + HASTE__CU_FLAG_STOP, 4, cudaMemcpyDeviceToHost, s), "rewiring");
    HASTE__CU_TRY(cudaStreamSynchronize(s), "rewiring");
    if (stop) return haste__cu_fail(error, HASTE_ERR_NONFINITE,
                                    "a logit, or the score of an input, is not finite; nothing was changed");
    return HASTE_OK;
}

haste_status haste_cuda_rewire(haste_cuda_layer *layer, haste_cuda_workspace *work, const haste_rewire_options *options,
                               const void *x, haste_cuda_type x_type, int32_t B, const haste_cuda_lists *positives,
                               int64_t *moved, haste_cuda_stream stream, haste_error *error)
{
    cudaStream_t s = (cudaStream_t)stream;
    haste__cu_work w;
    haste__cu_rewire_memory m;
    int64_t limit[HASTE_MAX_BLOCKS], moves[HASTE_MAX_BLOCKS], total = 0;
    int i, batch, dense[HASTE_MAX_BLOCKS];
    float group_share;
    size_t bytes = 0;
    void *memory = NULL;
    haste_status status = haste__cu_work_check(&w, layer, work, HASTE_TRAINING, error);
    if (status == HASTE_OK) status = haste__cu_rewire_options_check(options, error);
    if (status == HASTE_OK) status = haste__cu_not_captured(s, "rewiring", error);
    if (status != HASTE_OK) return status;
    batch = options->prune == HASTE_PRUNE_SALIENCY || options->growth == HASTE_GROW_GRADIENT;
    if (batch && B == 0) {   /* nothing to judge by: nothing is done */
        if (moved) *moved = 0;
        return HASTE_OK;
    }
    if (batch) status = haste__cu_batch_check(&w, layer, work, HASTE_TRAINING, x, x_type, B, 1, error);
    if (status == HASTE_OK && batch) status = haste__cu_loss_check(layer, error);
    if (status == HASTE_OK && batch) status = haste__cu_lists_check(layer, &w, B, positives, "positives", s, error);
    if (status != HASTE_OK) return status;
    group_share = options->group_share > 0 ? options->group_share : options->group_share < 0 ? 0 : .5f;   /* < 0: HASTE_NONE */
    for (i = 0; i < layer->block_count; i++) {
        const haste_block *block = &layer->block[i];
        int64_t F = block->fan_in, spare = block->end - block->begin - F, wanted = block->groups * F;
        dense[i] = block->index == NULL;
        limit[i] = haste__cu_share_of(group_share, F);
        if (limit[i] > spare) limit[i] = spare;
        if (options->scope == HASTE_SCOPE_BLOCK) wanted = haste__cu_share_of(options->share, wanted);
        else if (limit[i] > haste__cu_share_of(options->share, F)) limit[i] = haste__cu_share_of(options->share, F);
        moves[i] = wanted < block->groups * limit[i] ? wanted : block->groups * limit[i];
        total += moves[i];
    }
    if (total > 0) {
        status = haste__cu_rewire_arrange(&m, layer, dense, w.tiles, NULL, &bytes, error);
        if (status != HASTE_OK) return status;
        HASTE__CU_TRY(HASTE_CUDA_MALLOC(&memory, bytes), "memory for rewiring");
        haste__cu_rewire_arrange(&m, layer, dense, w.tiles, (char *)memory, &bytes, error);
        status = haste__cu_rewire_all(layer, &w, options, x, x_type, B, positives, batch, limit, moves, &m, s, error);
        if (status != HASTE_OK) cudaStreamSynchronize(s);   /* nobody may still use the memory */
        HASTE_CUDA_FREE(memory);
        if (status != HASTE_OK) return status;
    }
    layer->rewires++;
    if (moved) *moved = total;
    return HASTE_OK;
}

/* ---- >>kernels of a block ------------------------------------------------------------------------------------ */

haste_cuda_kernels haste_cuda_kernels_of(const haste_cuda_layer *layer, const haste_cuda_workspace *work, int32_t number,
                                         int32_t B)
{
    haste_cuda_kernels kernels = { "", "", "", "", "", "", "", "" };
    const int shared_most = haste__cu_device_value(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    haste_cuda_workspace none;
    haste__cu_work w;
    haste__cu_pass p;
    haste__panel_plan panel;
    haste__narrow_plan narrow;
    haste__cu_given_plan given;
    haste__cu_candidates_plan candidates;
    haste__cu_stream_args all, streams[2];
    size_t shared[2];
    if (!layer || number < 0 || number >= layer->block_count || B < 1 || shared_most <= 1) return kernels;
    if (!work) {
        if (haste__cu_workspace_shape(&none, layer, NULL, NULL, NULL) != HASTE_OK) return kernels;
        work = &none;
    }
    haste__cu_work_make(&w, work);
    haste__cu_pass_make(&p, layer, &w, B);
    haste__cu_pass_block(&p, layer, number);
    kernels.step = haste_cuda_path_text(haste_cuda_path_of(layer, work, number, B, NULL));
    kernels.softmax = haste__panel_plan_make(&panel, &p, layer->dtype, HASTE__CU_SUMEXP, shared_most) ? "panel" : "general";
    kernels.forward = haste__cu_narrow_logits(&narrow, layer, &p, number) ? "narrow" :
                      haste__panel_plan_make(&panel, &p, layer->dtype, HASTE__CU_LOGITS, shared_most) ? "panel" : "general";
    kernels.grad_weight = haste__cu_given_takes(&given, &p, layer->dtype, 1) ? "given" : "general";
    kernels.grad_x = haste__cu_given_takes(&given, &p, layer->dtype, 0) ? "given" : "general";
    if (p.index && p.F < p.width)
        kernels.rewire = haste__cu_candidates_take(&candidates, &p, layer->dtype) ? "candidates" : "general";
    kernels.above = haste__panel_plan_make(&panel, &p, layer->dtype, HASTE__CU_TOP_K, shared_most) ? "panel" : "general";
    p.k = work->top_k;
    haste__cu_stream_make(&all, layer, &w, NULL, HASTE_CUDA_F32, B);
    all.k = p.k;
    if (haste__cu_stream_plan(streams, shared, &all, layer->dtype)) {
        const int which = haste__cu_stream_takes(&all.block[number], layer->dtype, B, streams[1].blocks > 0);
        kernels.top_k = which == 2 ? "few" : "stream";
    } else
        kernels.top_k = haste__panel_plan_make(&panel, &p, layer->dtype, HASTE__CU_TOP_K, shared_most) ? "panel" : "general";
    return kernels;
}

#undef HASTE__CU_ARRAY
#undef HASTE__CU_TRY
#undef HASTE__CU_LAUNCHED
#define HASTE__LETTERS 0
#include HASTE_FILE

#endif /* HASTE_CUDA_IMPLEMENTATION */

/* ---- >>history: at the end of haste.h, as is the licence ----------------------------------------------------- */
