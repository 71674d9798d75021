/* keep.h: looks at what stands where a program is told to write, before it works for hours: what is no model is not
   replaced by one, and what is no log gets no lines. A forgotten value turns `--save FILE test.txt` into
   `--save test.txt`, and the data would be gone. */
#ifndef KEEP_H
#define KEEP_H

#include "reader.h"

#include <sys/stat.h>

#define KEEP_MODEL "HASTE\r\n\x1a"   /* what a model file begins with */

/* Whether the option may write to path: there is nothing, or something empty, or a file that begins with `begins`. What
   is no ordinary file is for the system to refuse. 0 with error. what: "model". */
static inline int keep_may_write(const char *option, const char *path, const char *begins, const char *what,
                                 char *error)
{
    struct stat about;
    char first[64];
    size_t n = strlen(begins), got;
    FILE *file;
    if (stat(path, &about) != 0 || !S_ISREG(about.st_mode) || about.st_size == 0) return 1;
    file = fopen(path, "rb");
    if (!file) return data_fail(error, "--%s %s: is there, and cannot be read: %s", option, path, strerror(errno));
    got = fread(first, 1, n, file);
    fclose(file);
    if (got == n && memcmp(first, begins, n) == 0) return 1;
    return data_fail(error, "--%s %s: is there, and is no %s: it is left alone; name another file, or remove it",
                     option, path, what);
}

/* Two options that write must not name the same file. NULL: not given. */
static inline int keep_differ(const char *option, const char *path, const char *other, const char *same, char *error)
{
    if (!path || !same || strcmp(path, same) != 0) return 1;
    return data_fail(error, "--%s %s: --%s writes there, too", option, path, other);
}

#endif /* KEEP_H */
