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

/* Is it one file, under whatever name? Of one that is not there yet its name in its folder counts. */
static inline int keep_same(const char *a, const char *b)
{
    const char *const path[2] = { a, b }, *name[2];
    char folder[2][4096];
    struct stat about[2];
    int i, there;
    if (strcmp(a, b) == 0) return 1;
    there = stat(a, &about[0]) == 0;
    if (there != (stat(b, &about[1]) == 0)) return 0;
    for (i = 0; i < 2 && !there; i++) {
        name[i] = strrchr(path[i], '/');
        name[i] = name[i] ? name[i] + 1 : path[i];
        if (snprintf(folder[i], sizeof folder[i], "%.*s.", (int)(name[i] - path[i]), path[i]) >= (int)sizeof folder[i] ||
            stat(folder[i], &about[i]) != 0) return 0;
    }
    return about[0].st_dev == about[1].st_dev && about[0].st_ino == about[1].st_ino &&
           about[0].st_ino != 0 /* of Windows */ && (there || strcmp(name[0], name[1]) == 0);
}

/* Two options that write must not name the same file. NULL: not given. */
static inline int keep_differ(const char *option, const char *path, const char *other, const char *same, char *error)
{
    if (!path || !same || !keep_same(path, same)) return 1;
    return data_fail(error, "--%s %s: that is the file of --%s", option, path, other);
}

#endif /* KEEP_H */
