/* HASTE_STATIC: all of it private to this file, beside another implementation in the same program (haste.o), and no warning
   for the functions that are not used. */
#define HASTE_STATIC
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

int main(void)
{
    uint64_t hash;
    return !job(1, &hash);
}
