/* HASTE_PARALLEL_FOR: the caller's own loop. This one runs tasks backwards and hands out threads in turn: the bits must not
   notice. */
#include <stdint.h>
#include <stdio.h>
static int loops, most_thread;
#define HASTE_PARALLEL_FOR(n, threads, task, context)                                                                  \
    do {                                                                                                               \
        int64_t my_i;                                                                                                  \
        loops++;                                                                                                       \
        for (my_i = (n) - 1; my_i >= 0; my_i--) {                                                                      \
            int my_thread = (int)(my_i % (threads));                                                                   \
            if (my_thread > most_thread) most_thread = my_thread;                                                      \
            (task)((context), my_i, my_thread);                                                                        \
        }                                                                                                              \
    } while (0)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

int main(void)
{
    uint64_t one = 0, three = 1;
    int ok = job(1, &one) && most_thread == 0 && job(3, &three) && most_thread == 2 && loops > 0;
    if (!ok || one != three) printf("%d loops, thread %d at most, bits %s\n", loops, most_thread, one == three ? "equal" : "differ");
    return !ok || one != three;
}
