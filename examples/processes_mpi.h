/* processes_mpi.h: several processes that train one model, over MPI: all that they say to each other goes through these
   functions. Include before program.h; each is called by all processes, in the same order. Its twin for arrays
   on GPUs is processes_nccl.cuh. */
#ifndef PROCESSES_MPI_H
#define PROCESSES_MPI_H
#define PROCESSES_H   /* in place of processes.h */

#include "system.h"

#include <mpi.h>

typedef struct processes_state {
    int     rank, count;   /* this one, of how many */
    int     signal;        /* that all have agreed upon */
    double  seconds;       /* spent here so far, waiting for others included */
    int    *at, *n;        /* [count] scratch */
} processes_state;

static processes_state processes = { 0, 1, 0, 0, NULL, NULL };

/* ---- >>beginning and end ------------------------------------------------------------------------------------- */

/* What goes wrong in one process ends all; what goes wrong in all is said by the first: the others wait until that has ended
   them, which mpirun takes a second for. */
static inline const char *processes_who(void)
{
    const double end = now() + 3;
    static char text[48];
    if (processes.rank == 0) return "";
    while (now() < end) wait_seconds(.1);
    snprintf(text, sizeof text, "process %d of %d: ", processes.rank, processes.count);
    return text;
}

#if defined(__GNUC__)
__attribute__((noreturn))
#endif
static inline void processes_exit(int code)
{
    fflush(stderr);
    if (processes.count > 1) MPI_Abort(MPI_COMM_WORLD, code);
    exit(code);
}

#define PROGRAM_EXIT(code) processes_exit(code)
#define PROGRAM_WHO()      processes_who()

static void processes_end(void)
{
    int ended = 0;
    MPI_Finalized(&ended);
    if (!ended) MPI_Finalize();
}

static inline void processes_begin(int *argc, char ***argv)
{
    int provided = 0;
    /* Open MPI's processes wait for each other by spinning, unless they are told to let others run meanwhile. Beside other
       programs a run of two processes on two processors took 25 s without this, and 2 with it. */
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) exit(1);
    MPI_Comm_rank(MPI_COMM_WORLD, &processes.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &processes.count);
    atexit(processes_end);
    processes.at = (int *)malloc((size_t)processes.count * sizeof(int));
    processes.n = (int *)malloc((size_t)processes.count * sizeof(int));
    if (!processes.at || !processes.n || (processes.rank > 0 && !freopen("/dev/null", "w", stdout))) processes_exit(1);
}

static inline int processes_first(void) { return processes.rank == 0; }

/* Of each process, where so many are useful on this machine: they share them, unless each is bound to its own. */
static inline int processes_threads(int threads)
{
    MPI_Comm here;
    int count = 1;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    MPI_Comm_size(here, &count);
    MPI_Comm_free(&here);
#ifdef _OPENMP
    if (getenv("OMP_NUM_THREADS") || omp_get_num_procs() < (int)sysconf(_SC_NPROCESSORS_ONLN)) return threads;   /* bound */
#endif
    return threads / count > 1 ? threads / count : 1;
}

/* ---- >>agreeing ---------------------------------------------------------------------------------------------- */

/* What the first one says. */
static inline void processes_from_first(void *data, size_t bytes)
{
    if (processes.count > 1) MPI_Bcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD);
}

static inline int64_t processes_agree(int64_t value)
{
    processes_from_first(&value, sizeof value);
    return value;
}

/* A signal that any has got is everybody's from here on. */
static inline void processes_meet(int signal)
{
    processes.signal = signal;
    if (processes.count > 1) MPI_Allreduce(&signal, &processes.signal, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
}

static inline int processes_signal(void) { return processes.signal; }

/* 1: it went well everywhere. 0 with the reason of the lowest process where it did not; why [room] */
static inline int processes_all(int ok, char *why, size_t room)
{
    int bad = ok ? processes.count : processes.rank, first = bad;
    if (processes.count > 1) MPI_Allreduce(&bad, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (first == processes.count) return 1;
    if (processes.count > 1) MPI_Bcast(why, (int)room, MPI_CHAR, first, MPI_COMM_WORLD);
    return 0;
}

/* ---- >>moving numbers ---------------------------------------------------------------------------------------- */

/* Where the numbers of each process begin in an array of all: at [count]. */
static inline void processes_places(const int *n)
{
    int i, at = 0;
    for (i = 0; i < processes.count; at += n[i++]) processes.at[i] = at;
}

/* all (=): words [n[i]] of 32 bits of each process, one process after the other; own: those of this one, none of all. */
static inline void processes_gather(const void *own, const int *n, void *all)
{
    const double begin = now();
    processes_places(n);
    MPI_Allgatherv(own, n[processes.rank], MPI_INT32_T, all, n, processes.at, MPI_INT32_T, MPI_COMM_WORLD);
    processes.seconds += now() - begin;
}

/* The other way: own (=) are the sums, over all processes, of the numbers that are this one's. */
static inline void processes_scatter(const float *all, const int *n, float *own)
{
    const double begin = now();
    MPI_Reduce_scatter(all, own, n, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    processes.seconds += now() - begin;
}

/* number [n] (in, out): their sums. */
static inline void processes_sum(double *number, int n)
{
    const double begin = now();
    if (processes.count > 1) MPI_Allreduce(MPI_IN_PLACE, number, n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    processes.seconds += now() - begin;
}

/* A haste_sum_function. */
static void processes_count_up(void *context, int64_t *number, int32_t n)
{
    (void)context;
    MPI_Allreduce(MPI_IN_PLACE, number, n, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
}

#endif /* PROCESSES_MPI_H */
