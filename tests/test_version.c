/* haste_check_version: what a caller with another header is told. tests/compile.sh does the same with other headers. */
#define HASTE_IMPLEMENTATION
#include "../haste.h"
#include "check.h"

static haste_error error;

static void same(void)
{
    CHECK(haste_version() == HASTE_VERSION);
    CHECK_STATUS(HASTE_CHECK_VERSION(&error), HASTE_OK, error);
    CHECK_STATUS(HASTE_CHECK_VERSION(NULL), HASTE_OK, error);
    CHECK_STATUS(haste_check_version(&error, HASTE_VERSION / 100 * 100 + 99, "haste_plan", sizeof(haste_plan),
                                     (const char *)0), HASTE_OK, error);   /* a patch goes with all of its series */
}

static void other(void)
{
    const size_t error_bytes = sizeof(haste_error);
    CHECK_STATUS(haste_check_version(&error, 123456, "haste_error", error_bytes, (const char *)0),
                 HASTE_ERR_ARG, error);
    CHECK(error.status == HASTE_ERR_ARG && strstr(error.text, "version 12.34.56 ") != NULL);
    CHECK_STATUS(haste_check_version(&error, HASTE_VERSION, "haste_error", error_bytes, "haste_plan", (size_t)8,
                                     (const char *)0), HASTE_ERR_ARG, error);
    CHECK(strncmp(error.text, "haste_plan has 8 bytes in the header, ", 38) == 0);
    CHECK_STATUS(haste_check_version(&error, HASTE_VERSION, "haste_error", error_bytes, "haste_later", (size_t)8,
                                     (const char *)0), HASTE_ERR_ARG, error);
    CHECK(strstr(error.text, "haste_later") != NULL);
    /* An error of another size is not written to. */
    memset(&error, 0xff, sizeof error);
    CHECK(haste_check_version(&error, HASTE_VERSION, "haste_error", error_bytes + 8, (const char *)0) == HASTE_ERR_ARG);
    CHECK((unsigned char)error.text[0] == 0xff);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(same);
    RUN(other);
    return check_end();
}
