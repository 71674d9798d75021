// nccl.h: as much of NCCL as haste-train-nccl calls, between processes of one machine whose GPUs are emulated (cuda_runtime.h): a file
// that all of them map stands for the wires. Everything is done at once, and sums go in the order of the processes.
#ifndef EMULATOR_NCCL_H
#define EMULATOR_NCCL_H

#include <cuda_runtime.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

typedef enum { ncclSuccess, ncclSystemError = 2, ncclInvalidArgument = 4 } ncclResult_t;
typedef enum { ncclFloat32 = 7, ncclFloat64 = 8 } ncclDataType_t;
typedef enum { ncclSum } ncclRedOp_t;
typedef struct { char internal[128]; } ncclUniqueId;   // the file's name

struct emulated_wires {
    enum { PROCESSES = 16, BOX = 1 << 20 };
    int  arrived, turn;                // of a barrier
    char box[PROCESSES][BOX];          // what each shows
};
typedef struct emulated_comm { int rank, count; emulated_wires *wires; } *ncclComm_t;

static inline const char *ncclGetErrorString(ncclResult_t r) { return r == ncclSuccess ? "no error" : "an error of the emulator"; }

static inline ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const char *folder = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s/emulated-nccl-XXXXXX", folder ? folder : "/tmp");
    const int file = mkstemp(id->internal);
    const bool made = file >= 0 && ftruncate(file, sizeof(emulated_wires)) == 0;
    close(file);
    return made ? ncclSuccess : ncclSystemError;
}

static inline void emulated_meet(ncclComm_t c)
{
    emulated_wires *w = c->wires;
    const int turn = __atomic_load_n(&w->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&w->arrived, 1, __ATOMIC_ACQ_REL) == c->count) {
        w->arrived = 0;
        __atomic_store_n(&w->turn, turn + 1, __ATOMIC_RELEASE);
    } else while (__atomic_load_n(&w->turn, __ATOMIC_ACQUIRE) == turn) sched_yield();
}

static inline ncclResult_t ncclCommInitRank(ncclComm_t *comm, int count, ncclUniqueId id, int rank)
{
    const int file = open(id.internal, O_RDWR);
    if (file < 0 || count > emulated_wires::PROCESSES) return ncclSystemError;
    *comm = new emulated_comm { rank, count,
        (emulated_wires *)mmap(NULL, sizeof(emulated_wires), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) };
    close(file);
    emulated_meet(*comm);
    if (rank == 0) unlink(id.internal);
    return ncclSuccess;
}

static inline ncclResult_t ncclCommDestroy(ncclComm_t c) { delete c; return ncclSuccess; }

static inline size_t emulated_width(ncclDataType_t type) { return type == ncclFloat64 ? 8 : 4; }

// Of [bytes] that each process has, a piece after the other: take(at, n) looks at the boxes.
template <typename F> static inline void emulated_exchange(ncclComm_t c, const void *own, size_t bytes, F take)
{
    for (size_t at = 0; at < bytes; at += emulated_wires::BOX) {
        const size_t n = bytes - at < emulated_wires::BOX ? bytes - at : (size_t)emulated_wires::BOX;
        memcpy(c->wires->box[c->rank], (const char *)own + at, n);
        emulated_meet(c);
        take(at, n);
        emulated_meet(c);
    }
}

static inline ncclResult_t ncclAllGather(const void *own, void *all, size_t count, ncclDataType_t type, ncclComm_t c, cudaStream_t)
{
    const size_t bytes = count * emulated_width(type);
    emulated_exchange(c, own, bytes, [=](size_t at, size_t n) {
        for (int i = 0; i < c->count; i++) memcpy((char *)all + (size_t)i * bytes + at, c->wires->box[i], n);
    });
    return ncclSuccess;
}

// Elements [first, end) of the sums, to `to`.
template <typename T> static inline void emulated_sum(ncclComm_t c, const void *own, size_t count, size_t first, size_t end, T *to)
{
    emulated_exchange(c, own, count * sizeof(T), [=](size_t at, size_t n) {
        for (size_t i = 0, e = at / sizeof(T); i < n / sizeof(T); i++, e++) {
            if (e < first || e >= end) continue;
            T sum = ((const T *)c->wires->box[0])[i];
            for (int p = 1; p < c->count; p++) sum += ((const T *)c->wires->box[p])[i];
            to[e - first] = sum;
        }
    });
}

static inline ncclResult_t ncclReduceScatter(const void *all, void *own, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t c,
                                             cudaStream_t)
{
    const size_t first = (size_t)c->rank * count, whole = (size_t)c->count * count;
    if (type == ncclFloat64) emulated_sum(c, all, whole, first, first + count, (double *)own);
    else emulated_sum(c, all, whole, first, first + count, (float *)own);
    return ncclSuccess;
}

static inline ncclResult_t ncclAllReduce(const void *own, void *sum, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t c,
                                         cudaStream_t)
{
    if (type == ncclFloat64) emulated_sum(c, own, count, 0, count, (double *)sum);
    else emulated_sum(c, own, count, 0, count, (float *)sum);
    return ncclSuccess;
}

#endif  // EMULATOR_NCCL_H
