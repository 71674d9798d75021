/* hostile.h: names that the headers of other projects define as macros. tests/compile.sh puts it before haste.h, which must
   compile all the same, and find them unchanged after it. HOSTILE_LETTERS: every single letter too. The library's headers
   come first, as those projects include them. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__cplusplus)
    #include <algorithm>
    #include <cmath>
#endif
#if defined(__unix__) || defined(__APPLE__)
    #include <fcntl.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <unistd.h>
#endif
#if defined(_OPENMP)
    #include <omp.h>
#endif
#if defined(__GNUC__) && defined(__x86_64__)
    #include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__)
    #include <arm_neon.h>
#endif

/* windows.h and what it brings along */
#define near
#define far
#define small char
#define hyper long
#define huge
#define interface struct
#define pascal
#define cdecl
#define IN
#define OUT
#define OPTIONAL
#define CONST const
#define VOID void
#define TRUE 1
#define FALSE 0
#define BOOL int
#define ERROR 0
#define NO_ERROR 0
#define DELETE 0x00010000L
#define STRICT 1
#define CALLBACK
#define DIFFERENCE 11
#define IGNORE 0
#define INFINITE 0xffffffffu
#define THIS void
#define PURE
#define rad1 0x0420
#define lst1 0x0460
#define edt1 0x0480
#define frm1 0x0434
#define min(first, second) (((first) < (second)) ? (first) : (second))
#define max(first, second) (((first) > (second)) ? (first) : (second))
#define GetObject GetObjectA
#define LoadString LoadStringA

/* curses.h: the functions of the standard window */
#define move(row, column) broken from curses
#define clear() broken from curses
#define erase() broken from curses
#define refresh() broken from curses
#define addch(what) broken from curses
#define insert(what) broken from curses
#define filter() broken from curses
#define border(what) broken from curses
#define box(window, one, other) broken from curses
#define scroll(window) broken from curses
#define timeout(delay) broken from curses
#define standout() broken from curses
#define attrset(what) broken from curses
#define bkgd(what) broken from curses
#define inch() broken from curses
#define delch() broken from curses
#define LINES broken from curses
#define COLS broken from curses
#define stdscr broken from curses

/* sys/sysmacros.h, sys/param.h, termios.h; gcc's own in its default mode */
#define major(device) broken from sysmacros
#define minor(device) broken from sysmacros
#define makedev(one, other) broken from sysmacros
#define MIN(first, second) (((first) < (second)) ? (first) : (second))
#define MAX(first, second) (((first) > (second)) ? (first) : (second))
#define howmany(first, second) broken from param
#define roundup(first, second) broken from param
#define powerof2(what) broken from param
#define B0 0000000
#define B50 0000001
#define CR1 0001000
#define ECHO 0000010
#undef linux
#undef unix
#define linux 1
#define unix 1

/* complex.h (with HOSTILE_LETTERS, I is broken below) */
#define complex _Complex
#define imaginary _Imaginary
#if !defined(HOSTILE_LETTERS)
    #define I (__extension__ 1.0iF)
#endif

/* Arduino.h */
#define abs(number) ((number) > 0 ? (number) : -(number))
#define round(number) ((long)((number) + 0.5))
#define radians(degrees) ((degrees) * 0.017453292519943295)
#define degrees(radians) ((radians) * 57.295779513082321)
#define constrain(what, low, high) broken from Arduino
#define sq(number) ((number) * (number))
#define bit(which) (1UL << (which))
#define bitRead(value, which) (((value) >> (which)) & 1)
#define bitSet(value, which) ((value) |= (1UL << (which)))
#define word(...) broken from Arduino
#define lowByte(what) ((unsigned char)((what) & 0xff))
#define highByte(what) ((unsigned char)((what) >> 8))
#define interrupts() broken from Arduino
#define PI 3.1415926535897932384626433832795
#define TWO_PI 6.283185307179586476925286766559
#define EULER 2.718281828459045235360287471352
#define HIGH 1
#define LOW 0
#define INPUT 0
#define OUTPUT 1
#define DEFAULT 1
#define EXTERNAL 0
#define INTERNAL 3
#define SERIAL 0
#define CHANGE 1
#define FALLING 2
#define RISING 3
#define B1 1
#define B10 2
#define B11 3
#if !defined(HOSTILE_LETTERS)
    #define F(text) broken from Arduino
#endif

/* X.h, Xlib.h, AssertMacros.h, and what people write themselves */
#define None 0L
#define Bool int
#define True 1
#define False 0
#define Success 0
#define Status int
#define Always 2
#define check(what) broken from AssertMacros
#define verify(what) broken from AssertMacros
#define require(what, where) broken from AssertMacros
#define swap(one, other) broken by its user
#define countof(array) (sizeof(array) / sizeof *(array))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof *(array))
#define likely(what) __builtin_expect(!!(what), 1)
#define unlikely(what) __builtin_expect(!!(what), 0)
#define ALIGN(what) broken by its user
#define INLINE inline
#define RESTRICT
#define PREFETCH(what) broken by its user
#define EPS 1e-6
#define SIZE 100
#define NDEBUG 1
#define DEBUG 1
#define pi 3.14159
#define foreach broken by its user
#define loop for (;;)
#define forever for (;;)
#define elif else if
#define until(what) while (!(what))

#if defined(HOSTILE_LETTERS)
    #define A broken A
    #define B broken B
    #define C broken C
    #define D broken D
    #define E broken E
    #define F broken F
    #define G broken G
    #define H broken H
    #define I broken I
    #define J broken J
    #define K broken K
    #define L broken L
    #define M broken M
    #define N broken N
    #define O broken O
    #define P broken P
    #define Q broken Q
    #define R broken R
    #define S broken S
    #define T broken T
    #define U broken U
    #define V broken V
    #define W broken W
    #define X broken X
    #define Y broken Y
    #define Z broken Z
    #define a broken a
    #define b broken b
    #define c broken c
    #define d broken d
    #define e broken e
    #define f broken f
    #define g broken g
    #define h broken h
    #define i broken i
    #define j broken j
    #define k broken k
    #define l broken l
    #define m broken m
    #define n broken n
    #define o broken o
    #define p broken p
    #define q broken q
    #define r broken r
    #define s broken s
    #define t broken t
    #define u broken u
    #define v broken v
    #define w broken w
    #define x broken x
    #define y broken y
    #define z broken z
#endif

#endif /* HOSTILE_H */
