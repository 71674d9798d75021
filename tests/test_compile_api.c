/* The API half brings nothing along but <stddef.h> and <stdint.h>. tests/compile.sh also compares the lists of files read. */
#include "../haste.h"

#if defined(EOF) || defined(BUFSIZ) || defined(RAND_MAX) || defined(FLT_MAX) || defined(HUGE_VAL) || defined(EDOM)
    #error "the API half of haste.h includes more than it should"
#endif
#if defined(HASTE_IMPLEMENTATION_DONE) || defined(HASTE_MALLOC)
    #error "the API half of haste.h contains some of the implementation"
#endif

int main(void)
{
    haste_layer layer = { 0 };
    haste_lists lists = { 0 };
    return layer.labels != 0 || lists.offset != NULL || HASTE_OK != 0;
}
