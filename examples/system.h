/* system.h: what the programs ask of the system: a clock, the memory they took, signals. POSIX, or Windows by
   mingw-w64. */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <signal.h>
#include <string.h>
#if defined(_WIN32)
    #define WIN32_LEAN_AND_MEAN
    #define NOMINMAX
    #define PSAPI_VERSION 2   /* in kernel32: no library to link */
    #include <windows.h>
    #include <psapi.h>
#else
    #include <sys/resource.h>
    #include <time.h>
#endif

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

/* What ends a program politely: Ctrl-C, and a request to end. On POSIX a system call that waits is ended by it. */
static inline void catch_signals(void (*handler)(int))
{
#if defined(_WIN32)
    signal(SIGINT, handler);
    signal(SIGTERM, handler);
#else
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
#endif
}

#endif /* SYSTEM_H */
