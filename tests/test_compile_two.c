/* The API in one file, the implementation in another, and the caller may be C or C++. */
#include "../haste.h"
#include "job.h"

int main(void)
{
    uint64_t hash;
    return haste_version() != HASTE_VERSION_MAJOR * 10000 + HASTE_VERSION_MINOR * 100 + HASTE_VERSION_PATCH || !job(0, &hash);
}
