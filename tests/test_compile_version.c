/* HASTE_CHECK_VERSION, with an implementation compiled from another copy of the header (tests/compile.sh makes them). Prints what it
   says. */
#include <stdio.h>
#include HEADER

int main(void)
{
    haste_error error = { HASTE_OK, "nothing" };
    haste_status status = HASTE_CHECK_VERSION(&error);
    printf("%d %s\n", status != HASTE_OK, error.text);
    return HASTE_CHECK_VERSION(NULL) != status;
}
