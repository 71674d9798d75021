/* processes.h: what haste-train asks of the processes that train one model together, where there is only one. train_mpi.c
   and train_nccl.cu bring processes_mpi.h and processes_nccl.cuh in its place. */
#ifndef PROCESSES_H
#define PROCESSES_H

#include "program.h"

static inline void    processes_begin(int *argc, char ***argv) { (void)argc; (void)argv; }
static inline int     processes_first(void) { return 1; }          /* is this the one that speaks and writes? */
static inline int64_t processes_agree(int64_t value) { return value; }   /* what the first one says */
static inline int     processes_signal(void) { return stop_signal; }     /* one that all know of; 0: none */
static inline void    processes_meet(int signal) { (void)signal; }       /* this one has got that signal, or 0 */
static inline int     processes_threads(int threads) { return threads; } /* of each, of so many here */

#endif /* PROCESSES_H */
