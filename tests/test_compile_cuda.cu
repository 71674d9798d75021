// haste.h, implementation included, in a file that nvcc compiles. Runs on the host: no GPU is needed.
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

int main()
{
    uint64_t hash = 0;
    return !job(1, &hash);
}
