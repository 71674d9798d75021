/* processes_nccl.cuh: several processes that train one model, each on a GPU of its own. Arrays of the GPUs go through NCCL;
   what the hosts say to each other goes through MPI, where mpirun has started them, or through memory that they share, where
   --gpus N made them from one. The twin of processes_mpi.h, with the same names; each function is called by all, in the same
   order.

   --gpus N forks before anything of CUDA is called, which does not outlive a fork. The process that was called becomes the
   keeper of the others: it hands signals on, and when one of them fails it ends all. */
#ifndef PROCESSES_NCCL_CUH
#define PROCESSES_NCCL_CUH
#define PROCESSES_H   /* in place of processes.h */

#include "system.h"

#include <nccl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#ifdef PROCESSES_MPI
    #define OMPI_SKIP_MPICXX     /* C is enough */
    #define MPICH_SKIP_MPICXX
    #include <mpi.h>
#endif

#define PROCESSES_MOST 64          /* of --gpus */
#define PROCESSES_BOX  (1 << 16)   /* words of 32 bits that a process shows the others at a time */

typedef struct processes_shared {
    int     arrived, turn;         /* of a barrier */
    int32_t box[][PROCESSES_BOX];  /* [count] */
} processes_shared;

typedef struct processes_state {
    int      rank, count;          /* this one, of how many */
    int      here, count_here;     /* the same on this machine */
    int      signal;               /* that all have agreed upon */
    int      mpi;                  /* mpirun has started them */
    int     *at, *n;               /* [count] scratch, */
    int64_t *number;               /* likewise */
    processes_shared *shared;
    ncclComm_t        nccl;
} processes_state;

static processes_state processes = { 0, 1, 0, 1, 0, 0, NULL, NULL, NULL, NULL, NULL };

/* ---- >>beginning and end ------------------------------------------------------------------------------------- */

/* What goes wrong in one process ends all; what goes wrong in all is said by the first: the others wait until that has ended
   them. */
static inline const char *processes_who(void)
{
    const double end = now() + 3;
    static char text[48];
    if (processes.rank == 0) return "";
    while (now() < end) wait_seconds(.1);
    snprintf(text, sizeof text, "process %d of %d: ", processes.rank, processes.count);
    return text;
}

/* Without what exit does: that waits for all. */
__attribute__((noreturn)) static inline void processes_exit(int code)
{
    fflush(stdout);
    fflush(stderr);
#ifdef PROCESSES_MPI
    if (processes.mpi && processes.count > 1) MPI_Abort(MPI_COMM_WORLD, code);
#endif
    _exit(code);
}

#define PROGRAM_EXIT(code) processes_exit(code)
#define PROGRAM_WHO()      processes_who()

static void processes_wait(void);

/* None ends before all have said and written what they wanted. */
static void processes_end(void)
{
    fflush(stdout);
    processes_wait();
#ifdef PROCESSES_MPI
    if (processes.mpi) MPI_Finalize();
#endif
}

static volatile pid_t processes_child[PROCESSES_MOST];

static void processes_hand_on(int number)
{
    int i;
    processes.signal = number;
    for (i = 0; i < processes.count; i++) if (processes_child[i] > 0) kill(processes_child[i], number);
}

/* The keeper: until all have ended. A process that failed takes the others with it. */
__attribute__((noreturn)) static inline void processes_keep(void)
{
    int left = processes.count, code = 0, status, i;
    while (left > 0) {
        const pid_t ended = wait(&status);
        if (ended < 0 && errno == EINTR) continue;
        for (i = 0; i < processes.count && processes_child[i] != ended; i++) { }
        if (ended < 0 || i == processes.count) break;
        processes_child[i] = 0;
        left--;
        if (status == 0 || code != 0) continue;
        code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (WIFSIGNALED(status) && WTERMSIG(status) != processes.signal)
            fprintf(stderr, TRAIN_NAME ": process %d of %d was ended by signal %d (%s): all end\n", i, processes.count,
                    WTERMSIG(status), strsignal(WTERMSIG(status)));
        for (i = 0; i < processes.count; i++) if (processes_child[i] > 0) kill(processes_child[i], SIGKILL);
    }
    exit(code);
}

/* Makes the processes of --gpus N, and returns in each of them. */
static inline void processes_fork(int count)
{
    const pid_t keeper = getpid();
    int i;
    processes.count = processes.count_here = count;
    processes.shared = (processes_shared *)mmap(NULL, sizeof(processes_shared) + (size_t)count * PROCESSES_BOX * sizeof(int32_t),
                                                PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (processes.shared == MAP_FAILED) { perror("--gpus: memory to share"); exit(1); }
    fflush(NULL);
    catch_signals(processes_hand_on);
    signal(SIGUSR1, processes_hand_on);
    for (i = 0; i < count; i++) {
        const pid_t child = fork();
        if (child < 0) { perror("--gpus: fork"); processes_hand_on(SIGKILL); exit(1); }
        processes_child[i] = child;
        if (child > 0) continue;
        catch_signals(SIG_DFL);
        signal(SIGUSR1, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);   /* none outlives the keeper */
        if (getppid() != keeper) _exit(1);
        processes.rank = processes.here = i;
        return;
    }
    processes_keep();
}

static inline void processes_begin(int *argc, char ***argv)
{
    int i, gpus = 0;
    for (i = 1; i < *argc; i++) {   /* before the options are read, which says what is wrong with it */
        const char *value = strncmp((*argv)[i], "--gpus", 6) != 0 ? NULL : (*argv)[i][6] == '=' ? (*argv)[i] + 7 :
                            (*argv)[i][6] == 0 && i + 1 < *argc ? (*argv)[i + 1] : NULL;
        if (value) gpus = atoi(value);
    }
    for (i = 0; i < 2 && gpus > 0; i++) {
        const char *size = getenv(i == 0 ? "OMPI_COMM_WORLD_SIZE" : "PMI_SIZE");
        if (!size || atoi(size) < 2) continue;
        fprintf(stderr, TRAIN_NAME ": --gpus %d: mpirun has started %s processes, and each takes one\n", gpus, size);
        exit(2);
    }
    if (gpus > 1 && gpus <= PROCESSES_MOST) processes_fork(gpus);
#ifdef PROCESSES_MPI
    if (gpus == 0) {
        MPI_Comm here;
        int provided = 0;
        setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);   /* Open MPI's processes spin while they wait, else */
        if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) exit(1);
        MPI_Comm_rank(MPI_COMM_WORLD, &processes.rank);
        MPI_Comm_size(MPI_COMM_WORLD, &processes.count);
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
        MPI_Comm_rank(here, &processes.here);
        MPI_Comm_size(here, &processes.count_here);
        MPI_Comm_free(&here);
        processes.mpi = 1;
    }
#endif
    atexit(processes_end);
    processes.at = (int *)malloc((size_t)processes.count * sizeof(int));
    processes.n = (int *)malloc((size_t)processes.count * sizeof(int));
    processes.number = (int64_t *)malloc((size_t)processes.count * sizeof(int64_t));
    if (!processes.at || !processes.n || !processes.number || (processes.rank > 0 && !freopen("/dev/null", "w", stdout)))
        processes_exit(1);
}

static inline int processes_first(void) { return processes.rank == 0; }

static inline int processes_threads(int threads)
{
    return threads / processes.count_here > 1 ? threads / processes.count_here : 1;
}

/* ---- >>what hosts say ---------------------------------------------------------------------------------------- */

static void processes_wait(void)
{
    processes_shared *shared = processes.shared;
    int turn, tries;
#ifdef PROCESSES_MPI
    if (processes.mpi) { MPI_Barrier(MPI_COMM_WORLD); return; }
#endif
    if (!shared) return;
    turn = __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&shared->arrived, 1, __ATOMIC_ACQ_REL) == processes.count) {
        shared->arrived = 0;
        __atomic_store_n(&shared->turn, turn + 1, __ATOMIC_RELEASE);
        return;
    }
    for (tries = 0; __atomic_load_n(&shared->turn, __ATOMIC_ACQUIRE) == turn; tries++) {
        if (tries < 1000) sched_yield();
        else wait_seconds(1e-5);
    }
}

/* all (=): words [n[i]] of 32 bits of each process, one process after the other; own: those of this one, none of all. */
static inline void processes_gather(const void *own, const int *n, void *all)
{
    int i, most = 0, at, done;
    for (i = 0, at = 0; i < processes.count; at += n[i++]) {
        processes.at[i] = at;
        if (n[i] > most) most = n[i];
    }
#ifdef PROCESSES_MPI
    if (processes.mpi) {
        MPI_Allgatherv(own, n[processes.rank], MPI_INT32_T, all, n, processes.at, MPI_INT32_T, MPI_COMM_WORLD);
        return;
    }
#endif
    if (!processes.shared) memcpy(all, own, (size_t)most * sizeof(int32_t));
    for (done = 0; done < most && processes.shared; done += PROCESSES_BOX) {
        #define PROCESSES_PART(i) \
            ((size_t)(n[i] < done ? 0 : n[i] - done < PROCESSES_BOX ? n[i] - done : PROCESSES_BOX) * sizeof(int32_t))
        memcpy(processes.shared->box[processes.rank], (const int32_t *)own + done, PROCESSES_PART(processes.rank));
        processes_wait();
        for (i = 0; i < processes.count; i++)
            memcpy((int32_t *)all + processes.at[i] + done, processes.shared->box[i], PROCESSES_PART(i));
        processes_wait();
    }
}

/* number (=): the value of each process. */
static inline const int64_t *processes_numbers(int64_t value)
{
    int i;
    for (i = 0; i < processes.count; i++) processes.n[i] = 2;
    processes_gather(&value, processes.n, processes.number);
    return processes.number;
}

/* What one of them says. bytes: a multiple of 4, at most 1024 */
static inline void processes_from(int rank, void *data, size_t bytes)
{
    char said[1024];
    int i;
    for (i = 0; i < processes.count; i++) processes.n[i] = i == rank ? (int)(bytes / 4) : 0;
    processes_gather(data, processes.n, said);
    memcpy(data, said, bytes);
}

static inline int64_t processes_agree(int64_t value) { return processes_numbers(value)[0]; }

/* A signal that any has got is everybody's from here on. */
static inline void processes_meet(int signal)
{
    const int64_t *all = processes_numbers(signal);
    int i;
    for (i = 0, processes.signal = 0; i < processes.count; i++) if (all[i] > processes.signal) processes.signal = (int)all[i];
}

static inline int processes_signal(void) { return processes.signal; }

/* 1: it went well everywhere. 0 with the reason of the lowest process where it did not; why [room] */
static inline int processes_all(int ok, char *why, size_t room)
{
    const int64_t *all = processes_numbers(ok);
    int i;
    for (i = 0; i < processes.count; i++)
        if (!all[i]) {
            processes_from(i, why, room);
            return 0;
        }
    return 1;
}

/* ---- >>what GPUs bring together ------------------------------------------------------------------------------ */

/* Queued on a stream, from device memory to device memory, in place or not. n: numbers that each process has. */
static inline ncclResult_t processes_gather_cuda(const void *own, size_t n, void *all, cudaStream_t stream)
{
    return ncclAllGather(own, all, n, ncclFloat32, processes.nccl, stream);   /* of any words of 32 bits */
}

static inline ncclResult_t processes_scatter_cuda(const float *all, size_t n, float *own, cudaStream_t stream)
{
    return ncclReduceScatter(all, own, n, ncclFloat32, ncclSum, processes.nccl, stream);
}

static inline ncclResult_t processes_sum_cuda(double *number, size_t n, cudaStream_t stream)
{
    return ncclAllReduce(number, number, n, ncclFloat64, ncclSum, processes.nccl, stream);
}

static void processes_leave_gpus(void) { ncclCommDestroy(processes.nccl); }

/* Takes this process's GPU, and meets the others. NULL, or what is wrong. text [200] */
static inline const char *processes_meet_gpus(char *text)
{
    ncclUniqueId id;
    ncclResult_t result = ncclSuccess;
    int gpus = 0, several = getenv("NCCL_MULTI_RANK_GPU_ENABLE") != NULL;   /* NCCL lets them share one, to try things out */
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus < 1) return "no GPU is there";
    if (gpus < processes.count_here && !several) {
        snprintf(text, 200, "%d processes on a machine with %d GPU%s: each needs one", processes.count_here, gpus,
                 gpus == 1 ? "" : "s");
        return text;
    }
    if (cudaSetDevice(processes.here % gpus) != cudaSuccess) return "its GPU cannot be used";
    memset(&id, 0, sizeof id);
    if (processes_first()) result = ncclGetUniqueId(&id);
    processes_from(0, &id, sizeof id);
    if (result == ncclSuccess) result = ncclCommInitRank(&processes.nccl, processes.count, id, processes.rank);
    if (result == ncclSuccess && atexit(processes_leave_gpus) == 0) return NULL;   /* at exit before CUDA, which was there first */
    snprintf(text, 200, "NCCL: %s (NCCL_DEBUG=WARN says more)", ncclGetErrorString(result));
    return text;
}

#endif /* PROCESSES_NCCL_CUH */
