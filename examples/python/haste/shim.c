/* shim.c: what Python needs besides the functions of haste.h, which library.py calls as they are: a place where all
   structs live, and the names of their members. No struct's layout is written down in Python: it asks here for the
   offset and kind of `step.lr`, and passes the address of `step` to haste_train_step. So a header that has changed is
   noticed (a name is missing) or does not matter.

   cc -std=c99 -O3 -fno-math-errno -fopenmp -fPIC -shared -I../../.. shim.c -o libhaste_python.so -lm

   library.py compiles it so at the first import. With -DHASTE_PYTHON_CUDA the structs of haste_cuda.cuh are there as
   well, for cuda.py: the library is then linked with an object of that header. */
#define HASTE_IMPLEMENTATION
#include "haste.h"
#ifdef HASTE_PYTHON_CUDA
    #include "haste_cuda.cuh"
#endif

#include <stddef.h>
#include <string.h>

/* All that belongs to one layer in Python, and the options of its next call. Zero is empty. */
typedef struct haste_python {
    haste_layer             layer;
    haste_workspace         work;
    haste_gradient          gradient;
    haste_file              file;              /* where the layer lies in a file's memory */
    haste_error             error;
    haste_layer_options     options;
    haste_workspace_options work_options;
    haste_plan              plan;
    haste_step_options      step;              /* its block and grad_norm, where wanted, are these: */
    haste_block_rates       rates[HASTE_MAX_BLOCKS];
    double                  grad_norm;
    haste_loss_tile         tile;              /* for its layout only: a loss of the caller's own is handed others */
    haste_rewire_options    rewire;
    haste_input_scores      scores;
    haste_group_options     group;
    haste_rows              rows;
    haste_sparse            sparse;
    haste_lists             lists, ignored, only;
    haste_search_options    search;
    haste_found             found;             /* one shard's, to be copied behind those of others */
    haste_section           section[HASTE_MAX_SECTIONS];
    haste_metrics           metrics;
    haste_metrics_values    values;
#ifdef HASTE_PYTHON_CUDA
    haste_cuda_layer             cuda_layer;
    haste_cuda_workspace         cuda_work;
    haste_cuda_gradient          cuda_gradient;
    haste_cuda_options           cuda_options;
    haste_cuda_workspace_options cuda_work_options;
    haste_cuda_plan              cuda_plan;
    haste_cuda_lists             cuda_lists, cuda_excluded;
    haste_cuda_search_options    cuda_search;
#endif
} haste_python;

/* Changes whenever library.py could no longer work with a library that was built before. */
#define HASTE_PYTHON_VERSION 5

HASTE_API int     haste_python_version(void);
HASTE_API int64_t haste_python_size(void);
HASTE_API int     haste_python_member(int number, void *scratch, const char **name, int64_t *offset, int64_t *bytes);
HASTE_API void    haste_python_metrics_get(void *memory, int32_t k);
HASTE_API void    haste_python_file_layer(void *memory);

int     haste_python_version(void) { return HASTE_PYTHON_VERSION; }
int64_t haste_python_size(void) { return (int64_t)sizeof(haste_python); }

/* The members by number, from 0. Returns what a member is: 'i' a signed integer, 'u' an unsigned one, 'f' a floating
   point number, 'p' a pointer, 'a' an array or a struct, whose address is what matters; 0: there are no more. The kinds
   of numbers come from the compiler: a type that keeps one half is floating, one in which 0 - 1 is below 0 signed.
   scratch: haste_python_size() bytes to try that in. */
#define NUMBER(member)                                                                                                 \
    if (number-- == 0) {                                                                                               \
        haste_python *h = (haste_python *)scratch;                                                             \
        *name = #member, *offset = (char *)&h->member - (char *)h, *bytes = (int64_t)sizeof h->member;                   \
        h->member = 1, h->member /= 2;                                                                                 \
        if (h->member != 0) return 'f';                                                                                \
        h->member--;                                                                                                   \
        return h->member < 1 ? 'i' : 'u';                                                                              \
    }
#define OTHER(member, kind)                                                                                            \
    if (number-- == 0) {                                                                                               \
        haste_python *h = (haste_python *)scratch;                                                             \
        *name = #member, *offset = (char *)&h->member - (char *)h, *bytes = (int64_t)sizeof h->member;                   \
        return kind;                                                                                                   \
    }
#define POINTER(member) OTHER(member, 'p')
#define ADDRESS(member) OTHER(member, 'a')

#define EACH_BLOCK(of) of(0) of(1) of(2) of(3) of(4) of(5) of(6) of(7)
#if HASTE_MAX_BLOCKS != 8
    #error "EACH_BLOCK is for 8"
#endif
#define EACH_SECTION(of) \
    EACH_BLOCK(of) of(8) of(9) of(10) of(11) of(12) of(13) of(14) of(15) of(16) of(17) of(18) of(19) of(20) of(21)     \
    of(22) of(23) of(24) of(25) of(26) of(27) of(28) of(29) of(30) of(31)
#if HASTE_MAX_SECTIONS != 32
    #error "EACH_SECTION is for 32"
#endif

int haste_python_member(int number, void *scratch, const char **name, int64_t *offset, int64_t *bytes)
{
    ADDRESS(layer) ADDRESS(work) ADDRESS(gradient) ADDRESS(file) ADDRESS(error) ADDRESS(options) ADDRESS(work_options)
    ADDRESS(plan) ADDRESS(step) ADDRESS(step.loss) ADDRESS(rates) ADDRESS(grad_norm) ADDRESS(rewire) ADDRESS(group)
    ADDRESS(rows) ADDRESS(sparse) ADDRESS(lists) ADDRESS(ignored) ADDRESS(only) ADDRESS(search) ADDRESS(found)
    ADDRESS(tile)
    ADDRESS(scores) ADDRESS(section) ADDRESS(metrics) ADDRESS(values) ADDRESS(error.text) ADDRESS(file.layer)

    NUMBER(layer.labels) NUMBER(layer.inputs) NUMBER(layer.slots) NUMBER(layer.dtype) NUMBER(layer.state_dtype)
    NUMBER(layer.loss) NUMBER(layer.optimizer) NUMBER(layer.block_count) NUMBER(layer.seed) NUMBER(layer.step)
    NUMBER(layer.rewires) NUMBER(layer.bytes)
    POINTER(layer.label_of) POINTER(layer.slot_of) POINTER(layer.memory)
#define ROWS(i)                                                                                                        \
    NUMBER(layer.block[i].groups) NUMBER(layer.block[i].labels) NUMBER(layer.block[i].first_slot)                      \
    NUMBER(layer.block[i].group_size) NUMBER(layer.block[i].fan_in) NUMBER(layer.block[i].begin)                       \
    NUMBER(layer.block[i].end)                                                                                         \
    POINTER(layer.block[i].index) POINTER(layer.block[i].weight) POINTER(layer.block[i].bias)                          \
    POINTER(layer.block[i].weight_state[0]) POINTER(layer.block[i].weight_state[1])                                    \
    POINTER(layer.block[i].bias_state[0]) POINTER(layer.block[i].bias_state[1])
    EACH_BLOCK(ROWS)
#undef ROWS

    NUMBER(options.labels) NUMBER(options.inputs) NUMBER(options.block_count) NUMBER(options.samples)
    NUMBER(options.loss) NUMBER(options.optimizer) NUMBER(options.dtype) NUMBER(options.state_dtype)
    NUMBER(options.zero_weights) NUMBER(options.threads) NUMBER(options.seed)
    POINTER(options.order) POINTER(options.frequency)
#define ROWS(i)                                                                                                        \
    NUMBER(options.block[i].labels) NUMBER(options.block[i].group_size) NUMBER(options.block[i].fan_in)                \
    NUMBER(options.block[i].begin) NUMBER(options.block[i].end)
    EACH_BLOCK(ROWS)
#undef ROWS

    NUMBER(work_options.batch) NUMBER(work_options.ids) NUMBER(work_options.top_k) NUMBER(work_options.chunks)
    NUMBER(work_options.threads) NUMBER(work_options.purpose) NUMBER(work_options.path) NUMBER(work_options.bf16_dot)
    NUMBER(work.batch) NUMBER(work.ids) NUMBER(work.top_k) NUMBER(work.chunks) NUMBER(work.threads) NUMBER(work.path)
    NUMBER(work.bytes)

    NUMBER(plan.weight) NUMBER(plan.index) NUMBER(plan.bias) NUMBER(plan.state) NUMBER(plan.order) NUMBER(plan.layer)
    NUMBER(plan.workspace) NUMBER(plan.gradient) NUMBER(plan.rewire) NUMBER(plan.scores)
    NUMBER(plan.parameters)

    NUMBER(step.loss.scale) NUMBER(step.loss.logit_scale) NUMBER(step.loss.margin) NUMBER(step.loss.positive_weight)
    NUMBER(step.loss.smoothing) NUMBER(step.loss.negligible) NUMBER(step.loss.share)
    POINTER(step.loss.sample_weight) POINTER(step.loss.positive_value) POINTER(step.loss.label_weight)
    POINTER(step.loss.label_scale) POINTER(step.loss.label_offset) POINTER(step.loss.ignored)
    POINTER(step.loss.softmax) POINTER(step.loss.function) POINTER(step.loss.context)
    NUMBER(tile.samples) NUMBER(tile.labels) NUMBER(tile.first_sample)
    POINTER(tile.label) POINTER(tile.target) POINTER(tile.logit) POINTER(tile.loss)
    NUMBER(step.lr) NUMBER(step.momentum) NUMBER(step.beta1) NUMBER(step.beta2) NUMBER(step.eps)
    NUMBER(step.weight_decay) NUMBER(step.clip)
    POINTER(step.block) POINTER(step.grad_norm)
#define ROWS(i)                                                                                                        \
    NUMBER(rates[i].lr) NUMBER(rates[i].weight_decay) NUMBER(rates[i].momentum) NUMBER(rates[i].beta1)                 \
    NUMBER(rates[i].beta2) NUMBER(rates[i].frozen) POINTER(gradient.weight[i]) POINTER(gradient.bias[i])               \
    POINTER(scores.score[i]) POINTER(rewire.origin[i])
    EACH_BLOCK(ROWS)
#undef ROWS
    NUMBER(gradient.pending) NUMBER(gradient.rewires) POINTER(gradient.memory)

    NUMBER(rewire.share) NUMBER(rewire.group_share) NUMBER(rewire.prune) NUMBER(rewire.scope) NUMBER(rewire.growth)
    NUMBER(rewire.uniform) POINTER(rewire.scores)
    NUMBER(scores.first_slot) NUMBER(scores.end_slot) NUMBER(scores.batches)
    NUMBER(group.group_size) NUMBER(group.iterations) NUMBER(group.threads) NUMBER(group.seed)
    POINTER(rows.dense) POINTER(rows.sparse) POINTER(rows.bias) POINTER(rows.frequency)
    NUMBER(rows.scale) NUMBER(rows.samples)
    POINTER(sparse.offset) POINTER(sparse.feature) POINTER(sparse.value)
    POINTER(lists.offset) POINTER(lists.id) POINTER(ignored.offset) POINTER(ignored.id) POINTER(only.offset)
    POINTER(only.id) POINTER(search.excluded) POINTER(search.only)
    POINTER(found.offset) POINTER(found.id) POINTER(found.score) NUMBER(found.labels) POINTER(found.map)
    NUMBER(found.first)

    NUMBER(file.section_count) NUMBER(file.mapped) POINTER(file.memory)
#define ROWS(i)                                                                                                        \
    ADDRESS(section[i].name) POINTER(section[i].data) NUMBER(section[i].bytes)                                         \
    ADDRESS(file.section[i].name) POINTER(file.section[i].data) NUMBER(file.section[i].bytes)
    EACH_SECTION(ROWS)
#undef ROWS

    NUMBER(metrics.k) NUMBER(metrics.samples)
    NUMBER(values.precision) NUMBER(values.ndcg) NUMBER(values.recall) NUMBER(values.psp) NUMBER(values.psndcg)

#ifdef HASTE_PYTHON_CUDA
    ADDRESS(cuda_layer) ADDRESS(cuda_work) ADDRESS(cuda_gradient) ADDRESS(cuda_options) ADDRESS(cuda_work_options)
    ADDRESS(cuda_plan) ADDRESS(cuda_lists) ADDRESS(cuda_excluded) ADDRESS(cuda_search)
    NUMBER(cuda_layer.labels) NUMBER(cuda_layer.inputs) NUMBER(cuda_layer.slots) NUMBER(cuda_layer.dtype)
    NUMBER(cuda_layer.state_dtype) NUMBER(cuda_layer.loss) NUMBER(cuda_layer.optimizer) NUMBER(cuda_layer.block_count)
    NUMBER(cuda_layer.seed) NUMBER(cuda_layer.step) NUMBER(cuda_layer.rewires) NUMBER(cuda_layer.device)
    POINTER(cuda_layer.label_of) POINTER(cuda_layer.slot_of)
#define ROWS(i)                                                                                                        \
    NUMBER(cuda_layer.block[i].groups) NUMBER(cuda_layer.block[i].labels) NUMBER(cuda_layer.block[i].first_slot)       \
    NUMBER(cuda_layer.block[i].group_size) NUMBER(cuda_layer.block[i].fan_in) NUMBER(cuda_layer.block[i].begin)        \
    NUMBER(cuda_layer.block[i].end) NUMBER(cuda_layer.path[i]) NUMBER(cuda_options.path[i])                            \
    POINTER(cuda_layer.block[i].index) POINTER(cuda_layer.block[i].weight) POINTER(cuda_layer.block[i].bias)           \
    POINTER(cuda_layer.block[i].weight_state[0]) POINTER(cuda_layer.block[i].weight_state[1])                          \
    POINTER(cuda_layer.block[i].bias_state[0]) POINTER(cuda_layer.block[i].bias_state[1])
    EACH_BLOCK(ROWS)
#undef ROWS
    NUMBER(cuda_options.batch) NUMBER(cuda_options.first_slot) NUMBER(cuda_options.end_slot)
    POINTER(cuda_options.memory) NUMBER(cuda_options.bytes)
    NUMBER(cuda_work.batch) NUMBER(cuda_work.ids) NUMBER(cuda_work.top_k) NUMBER(cuda_work.bytes)
    POINTER(cuda_work.live.lr) POINTER(cuda_work.live.scale) POINTER(cuda_work.live.skip) POINTER(cuda_work.live.step)
    NUMBER(cuda_work_options.batch) NUMBER(cuda_work_options.ids) NUMBER(cuda_work_options.top_k)
    NUMBER(cuda_work_options.deterministic) NUMBER(cuda_work_options.chunks) NUMBER(cuda_work_options.purpose)
    POINTER(cuda_work_options.memory) NUMBER(cuda_work_options.bytes)
    NUMBER(cuda_gradient.pending) NUMBER(cuda_gradient.rewires)
    NUMBER(cuda_plan.layer) NUMBER(cuda_plan.workspace) NUMBER(cuda_plan.pinned) NUMBER(cuda_plan.gradient)
    NUMBER(cuda_plan.rewire)
    POINTER(cuda_lists.offset) POINTER(cuda_lists.id) NUMBER(cuda_lists.on_host)
    POINTER(cuda_excluded.offset) POINTER(cuda_excluded.id) NUMBER(cuda_excluded.on_host)
    POINTER(cuda_search.excluded)
#endif
    return 0;
}

/* haste_metrics_get returns a struct: here it goes to `values`. */
void haste_python_metrics_get(void *memory, int32_t k)
{
    haste_python *h = (haste_python *)memory;
    h->values = haste_metrics_get(&h->metrics, k);
}

/* After haste_load: the file's layer becomes the layer. */
void haste_python_file_layer(void *memory)
{
    haste_python *h = (haste_python *)memory;
    h->layer = h->file.layer;
}
