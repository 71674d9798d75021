/* system.h: what the programs ask of the system: a clock, the memory they took, signals, processors, the terminal.
   POSIX, or Windows by mingw-w64. */
#ifndef SYSTEM_H
#define SYSTEM_H

#include "haste.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
    #include <omp.h>
#endif
#if defined(_WIN32)
    #define WIN32_LEAN_AND_MEAN
    #define NOMINMAX
    #define PSAPI_VERSION 2   /* in kernel32: no library to link */
    #include <windows.h>
    #include <psapi.h>
#else
    #include <sys/ioctl.h>
    #include <sys/resource.h>
    #include <time.h>
    #include <unistd.h>
#endif

/* What was built, for --version: "0.2.0, OpenMP, zlib". text [64] */
static inline const char *version_text(char *text)
{
    snprintf(text, 64, "%d.%d.%d%s%s", haste_version() / 10000, haste_version() / 100 % 100, haste_version() % 100,
#ifdef _OPENMP
             ", OpenMP",
#else
             ", one thread",
#endif
#ifdef HASTE_ZLIB
             ", zlib");
#else
             ", no zlib");
#endif
    return text;
}

/* Seconds of a clock that only goes forward. */
static inline double now(void)
{
#if defined(_WIN32)
    LARGE_INTEGER ticks, second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&second);
    return (double)ticks.QuadPart / (double)second.QuadPart;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
#endif
}

/* The most memory that the process has had. */
static inline double peak_mib(void)
{
#if defined(_WIN32)
    PROCESS_MEMORY_COUNTERS counters;
    const BOOL known = GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters);
    return known ? (double)counters.PeakWorkingSetSize / 1048576 : 0;
#else
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    #ifdef __APPLE__
        return (double)usage.ru_maxrss / 1048576;
    #else
        return (double)usage.ru_maxrss / 1024;
    #endif
#endif
}

/* What ends a program politely: Ctrl-C, a request to end, a terminal that is gone (unless that is to be ignored, as
   under nohup), and a reader of standard output that is. A file that grows beyond its limit is an error of a write, and
   nothing else. On POSIX a system call that waits is ended by it. */
static inline void catch_signals(void (*handler)(int))
{
#if defined(_WIN32)
    signal(SIGINT, handler);
    signal(SIGTERM, handler);
#else
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGPIPE, &action, NULL);
    if (sigaction(SIGHUP, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, NULL);
    action.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &action, NULL);
#endif
}

/* So much later, or when a signal comes. */
static inline void wait_seconds(double seconds)
{
#if defined(_WIN32)
    Sleep((DWORD)(seconds * 1000));
#else
    struct timespec t;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
#endif
}

/* ---- >>processors -------------------------------------------------------------------------------------------- */

/* Threads that wait for each other by spinning take the processors from those they wait for as soon as other programs
   run, too: on a machine of two cores with two of those, a training run took 40 times as long. How threads wait is read
   from the environment before main begins, so this sets it and starts the program again, once. Who sets OMP_WAIT_POLICY
   or GOMP_SPINCOUNT is left alone. Only on Linux, where it is known how; elsewhere nothing happens. */
static inline void wait_without_spinning(char **argv)
{
#if defined(_OPENMP) && defined(__linux__)
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || getenv("KMP_BLOCKTIME")) return;
    self[n] = 0;
    if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0) execv(self, argv);   /* comes back only where it failed */
#else
    (void)argv;
#endif
}

/* The number in a file that begins with `quota period`, as processors; 0: none, or no limit. */
static inline double processors_of(const char *path)
{
    FILE *file = fopen(path, "r");
    double quota = 0, period = 0;
    if (!file) return 0;
    if (fscanf(file, "%lf %lf", &quota, &period) != 2 || quota <= 0 || period <= 0) quota = 0;
    fclose(file);
    return quota > 0 ? quota / period : 0;
}

/* How many threads are useful: as many as there are processors that this process may use, but no more than its control
   group (a container, a job) gets time for: threads beyond that would only be stopped together. OMP_NUM_THREADS, where
   it is set, wins. */
static inline int useful_threads(void)
{
#ifdef _OPENMP
    int threads = omp_get_max_threads();
    #if defined(__linux__)
    char line[1024], path[1200], *end;
    FILE *group = getenv("OMP_NUM_THREADS") ? NULL : fopen("/proc/self/cgroup", "r");
    while (group && fgets(line, sizeof line, group)) {
        if (strncmp(line, "0::", 3) != 0) continue;
        line[strcspn(line, "\n")] = 0;
        for (end = line + strlen(line); end; end = strrchr(line + 3, '/')) {   /* its own limit, and those above */
            double limit;
            *end = 0;
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
            limit = processors_of(path);
            if (limit > 0 && limit < threads) threads = limit < 1 ? 1 : (int)(limit + .5);
        }
    }
    if (group) fclose(group);
    #endif
    return threads;
#else
    return 1;
#endif
}

/* ---- >>terminal ---------------------------------------------------------------------------------------------- */

/* Columns of the terminal that a descriptor is; 0: it is none, or does not say. */
static inline int terminal_columns(int descriptor)
{
#if defined(_WIN32)
    CONSOLE_SCREEN_BUFFER_INFO info;
    const HANDLE handle = GetStdHandle(descriptor == 2 ? STD_ERROR_HANDLE : STD_OUTPUT_HANDLE);
    return GetConsoleScreenBufferInfo(handle, &info) ? info.srWindow.Right - info.srWindow.Left + 1 : 0;
#elif defined(TIOCGWINSZ)
    struct winsize size;
    return ioctl(descriptor, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
#else
    (void)descriptor;
    return 0;
#endif
}

/* A line that is overwritten in place, on standard error: parts side by side, as many as fit. Where not all do, those
   with the highest numbers in `last` go first. *shown (in, out): columns that are taken. */
static inline void terminal_show(const char *const *part, const int *last, int parts, int *shown)
{
    const int columns = terminal_columns(2), room = columns > 1 ? columns - 1 : 79;
    int width, worst = 0, i;
    char line[512];
    for (i = 0; i < parts; i++) if (last[i] > worst) worst = last[i];
    for (;; worst--) {
        for (i = 0, width = 0; i < parts; i++)
            if (part[i][0] && last[i] <= worst) width += (width ? 2 : 0) + (int)strlen(part[i]);
        if (width <= room || worst == 0) break;
    }
    for (i = 0, line[0] = 0; i < parts; i++)
        if (part[i][0] && last[i] <= worst && strlen(line) + strlen(part[i]) + 3 < sizeof line) {
            if (line[0]) strcat(line, "  ");
            strcat(line, part[i]);
        }
    width = (int)strlen(line) < room ? (int)strlen(line) : room;
    fprintf(stderr, "\r%.*s%*s", width, line, *shown > width && *shown <= room ? *shown - width : 0, "");
    *shown = width;
}

static inline void terminal_clear(int *shown)
{
    const int columns = terminal_columns(2);
    if (*shown > 0) fprintf(stderr, "\r%*s\r", columns > 1 && *shown > columns - 1 ? columns - 1 : *shown, "");
    *shown = 0;
}

#endif /* SYSTEM_H */
