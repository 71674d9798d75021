/* HASTE_MALLOC and HASTE_FREE: all memory comes from the caller's allocator, and all of it goes back there. */
#include <stddef.h>
#include <stdio.h>
static void *my_malloc(size_t bytes);
static void  my_free(void *memory);
#define HASTE_MALLOC(bytes) my_malloc(bytes)
#define HASTE_FREE(memory)  my_free(memory)
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

/* A stack of memory that the C library never sees, deliberately aligned to no more than 16 bytes. */
static union { double align; char bytes[8 << 20]; } pool;
static size_t used = 16;
static int held, calls;
static void *my_malloc(size_t bytes)
{
    void *memory = pool.bytes + used;
    if (bytes > sizeof pool - used) return NULL;
    used += (bytes + 15) / 16 * 16 + 16;
    held++;
    calls++;
    return memory;
}
static void my_free(void *memory) { if (memory) held--; }

int main(void)
{
    uint64_t hash;
    int ok = job(1, &hash);
    if (!ok || held != 0 || calls < 2) printf("job %d, %d allocations, %d still held\n", ok, calls, held);
    return !(ok && held == 0 && calls >= 2);
}
