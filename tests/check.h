/* check.h: what the tests share: three checks, a counter, a name filter, poisoned memory with guards.

   A test program runs its subjects one after the other and exits with 1 if a check failed:
       int main(int argc, char **argv) { check_begin(argc, argv); RUN(subject); ... return check_end(); }
   Alone, `build/tests/test_x NAME` runs only the subjects whose name contains NAME. */
#ifndef CHECK_H
#define CHECK_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int         check_count, check_failures;
static const char *check_filter, *check_program, *check_subject;

/* Names the failing line; only the first 20 failures are printed. */
static int check_that(int ok, const char *file, int line, const char *what)
{
    check_count++;
    if (!ok && check_failures++ < 20) printf("%s:%d: %s: failed: %s\n", file, line, check_subject ? check_subject : "", what);
    return ok;
}

static int check_near(double got, double want, double tolerance, const char *file, int line, const char *what)
{
    int ok = fabs(got - want) <= tolerance;   /* false for NaN */
    check_count++;
    if (!ok && check_failures++ < 20)
        printf("%s:%d: %s: %s: got %.9g, want %.9g, off by %.3g, allowed %.3g\n", file, line, check_subject ? check_subject : "", what,
               got, want, got - want, tolerance);
    return ok;
}

#define CHECK(condition)               check_that(!!(condition), __FILE__, __LINE__, #condition)
#define CHECK_NEAR(got, want, tolerance) check_near((got), (want), (tolerance), __FILE__, __LINE__, #got)
/* An expected status; on a surprise the sentence that came with it is shown. */
#define CHECK_STATUS(call, status_wanted, error)                                                                       \
    do {                                                                                                               \
        haste_status check_got = (call);                                                                               \
        if (!check_that(check_got == (status_wanted), __FILE__, __LINE__, #call " gives " #status_wanted))             \
            printf("    it gave %d: %s\n", (int)check_got, (error).text);                                              \
    } while (0)

#define RUN(subject)                                                                                                   \
    do {                                                                                                               \
        if (!check_filter || strstr(#subject, check_filter)) { check_subject = #subject; subject(); }                  \
    } while (0)

static void check_begin(int argc, char **argv)
{
    check_program = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    check_filter = argc > 1 ? argv[1] : NULL;
}

static int check_end(void)
{
    printf("%-22s %9d checks, %d failed\n", check_program, check_count, check_failures);
    if (check_filter && check_count == 0) printf("no subject's name contains \"%s\"\n", check_filter);
    return check_failures != 0 || check_count == 0;
}

/* A buffer of n floats filled with NaN, with guard words after it; check_guard says whether they are intact. */
#define CHECK_GUARD 16
static float *check_floats(size_t n)
{
    float *p = (float *)malloc((n + CHECK_GUARD) * sizeof(float));
    if (!p) { printf("out of memory\n"); exit(1); }
    memset(p, 0xff, (n + CHECK_GUARD) * sizeof(float));
    return p;
}

static int check_guard(const float *p, size_t n)
{
    const unsigned char *c = (const unsigned char *)(p + n);
    size_t i;
    for (i = 0; i < CHECK_GUARD * sizeof(float); i++) if (c[i] != 0xff) return 0;
    return 1;
}

/* Reproducible numbers for test data. */
static uint64_t check_seed = 1;
static uint32_t check_random(void)
{
    check_seed = check_seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(check_seed >> 33);
}
static float check_normal(void)   /* near enough: sum of uniform numbers, variance 1 */
{
    double sum = 0;
    int i;
    for (i = 0; i < 12; i++) sum += check_random() / 2147483648.0;
    return (float)(sum - 6);
}

/* Unused in some programs. */
static void check_unused(void) __attribute__((unused));
static void check_unused(void)
{
    (void)check_that; (void)check_near; (void)check_begin; (void)check_end; (void)check_floats; (void)check_guard;
    (void)check_random; (void)check_normal;
}

#endif /* CHECK_H */
