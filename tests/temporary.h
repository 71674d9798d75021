/* temporary.h: files that a test writes: `written` names the last one. */
#ifndef TEMPORARY_H
#define TEMPORARY_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char written[200];

static const char *temporary(const char *ending)
{
    const char *folder = getenv("TMPDIR");
    snprintf(written, sizeof written, "%s/haste_test_data_%ld%s", folder ? folder : "/tmp", (long)getpid(), ending);
    return written;
}

static const char *write_file(const char *ending, const void *bytes, size_t n)
{
    FILE *file = fopen(temporary(ending), "wb");
    if (!file || fwrite(bytes, 1, n, file) != n || fclose(file) != 0) { printf("cannot write %s\n", written); exit(1); }
    return written;
}

#endif /* TEMPORARY_H */
