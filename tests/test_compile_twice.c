/* haste.h may be included any number of times, before and after the implementation. C99 and C++17. */
#include "../haste.h"
#include "../haste.h"
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "../haste.h"
#undef HASTE_IMPLEMENTATION
#include "../haste.h"
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "job.h"

int main(void)
{
    uint64_t hash;
    return !job(1, &hash);
}
