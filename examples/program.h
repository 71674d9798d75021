/* program.h: what the programs do alike: end with a message, ask for memory, remember a signal. Whoever includes it says
   what PROGRAM_NAME is. */
#ifndef PROGRAM_H
#define PROGRAM_H

#include "data.h"
#include "system.h"

#include <sys/stat.h>

#ifndef PROGRAM_EXIT                         /* where several processes are one program, they end together */
    #define PROGRAM_EXIT(code) exit(code)
    #define PROGRAM_WHO()      ""            /* what a last message begins with */
#endif

static volatile sig_atomic_t stop_signal;
static int progress_shown;   /* columns of a line that will be overwritten */

static inline void on_signal(int number) { stop_signal = number; }

static inline double mib(size_t bytes) { return (double)bytes / 1048576; }

/* The size of a file as it lies there, compressed or not; 0 if there is none, or it is a pipe. */
static inline double file_bytes(const char *path)
{
    struct stat s;
    return path && stat(path, &s) == 0 && S_ISREG(s.st_mode) ? (double)s.st_size : 0;
}

/* Ends the program: 2 for a mistake on the command line, 1 for anything else. */
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3), noreturn))
#endif
static inline void die(int code, const char *format, ...)
{
    va_list arguments;
    terminal_clear(&progress_shown);
    fflush(stdout);
    fprintf(stderr, PROGRAM_NAME ": %s", PROGRAM_WHO());
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    PROGRAM_EXIT(code);
}

static inline void *need(size_t count, size_t width)
{
    void *memory = count <= SIZE_MAX / width ? malloc(count * width + 1) : NULL;
    if (!memory) die(1, "out of memory (%.0f MiB)", (double)count * (double)width / 1048576);
    return memory;
}

#endif /* PROGRAM_H */
