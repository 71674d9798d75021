#!/bin/sh
# haste.h for systems that are not here: clang reads it as it would for Windows with MSVC and for macOS, with declarations of the C
# library made below. This shows that the language that those compilers take is enough, and that what is declared is used rightly.
# It shows nothing about their real headers, nothing is linked, and nothing runs. What runs: the same code without GNU C's
# extensions, by a clang that says it has none, and by tcc. Run by `make test` where there is clang; sets as compile.sh.
set -u
cd "$(dirname "$0")/.." || exit 1
CLANG=${CLANG:-clang}
out=${BUILD:-build}/targets
log=$out/log
warn="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
count=0
failed=0
mkdir -p "$out/c/sys"

check() {   # NAME COMMAND: the command succeeds, and prints nothing
    count=$((count + 1))
    if sh -c "$2" >"$log" 2>&1 && [ ! -s "$log" ]; then return; fi
    failed=$((failed + 1))
    echo "compile_targets.sh: $1: failed: $2"
    head -n 20 "$log" | sed 's/^/    /'
}

if ! command -v "$CLANG" >/dev/null 2>&1; then
    echo "compile_targets.sh: skipped: no clang"
    exit 0
fi

# ---- a C library to read ------------------------------------------------------------------------------------------------

header() { { echo "#pragma once"; echo "#include <stddef.h>"; cat; } >"$out/c/$1.part"; printf '%s\n' "#ifdef __cplusplus" 'extern "C" {' "#endif" |
           cat - "$out/c/$1.part" >"$out/c/$1"; printf '%s\n' "#ifdef __cplusplus" "}" "#endif" >>"$out/c/$1"; rm "$out/c/$1.part"; }
header errno.h <<'end'
extern int *stub_errno(void);
#define errno (*stub_errno())
#define ENOENT 2
#define EINTR 4
#define EACCES 13
#define EEXIST 17
#define ENODEV 19
#define EIO 5
#define ENOMEM 12
#define ENOTDIR 20
#define EISDIR 21
#define ENFILE 23
#define EMFILE 24
#define EFBIG 27
#define EINVAL 22
#define ENOSPC 28
#define EROFS 30
#define ESRCH 3
#define EPERM 1
#define ELOOP 62
#define ENOTSUP 45
#define EOPNOTSUPP 102
#define ENOSYS 78
#define ENAMETOOLONG 63
#define ERANGE 34
#define EWOULDBLOCK 35
end
header math.h <<'end'
#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
#define HUGE_VAL __builtin_inf()
#define HUGE_VALF __builtin_inff()
#define isfinite(value) __builtin_isfinite(value)
#define isnan(value) __builtin_isnan(value)
#define isinf(value) __builtin_isinf(value)
double sqrt(double), fabs(double), exp(double), log(double), log1p(double), log2(double), pow(double, double), cos(double), sin(double);
double floor(double), ceil(double), ldexp(double, int), tanh(double), fmax(double, double), fmin(double, double);
float sqrtf(float), fabsf(float), expf(float), logf(float), log1pf(float), fmaf(float, float, float), floorf(float), ceilf(float);
float fmaxf(float, float), fminf(float, float), powf(float, float);
double fma(double, double, double);
end
header stdio.h <<'end'
#include <stdarg.h>
typedef struct stub_file FILE;
#define EOF (-1)
#define BUFSIZ 1024
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
int snprintf(char *, size_t, const char *, ...), vsnprintf(char *, size_t, const char *, va_list);
FILE *fopen(const char *, const char *), *fdopen(int, const char *);
FILE *_fdopen(int, const char *);
size_t fread(void *, size_t, size_t, FILE *), fwrite(const void *, size_t, size_t, FILE *);
int fclose(FILE *), fflush(FILE *), ferror(FILE *), feof(FILE *), fseek(FILE *, long, int), rename(const char *, const char *), remove(const char *);
int fileno(FILE *), _fileno(FILE *);
long ftell(FILE *);
int _fseeki64(FILE *, long long, int);
long long _ftelli64(FILE *);
end
header stdlib.h <<'end'
void *malloc(size_t), *calloc(size_t, size_t), *realloc(void *, size_t);
void free(void *);
void qsort(void *, size_t, size_t, int (*)(const void *, const void *));
char *realpath(const char *, char *);
long strtol(const char *, char **, int);
char *_fullpath(char *, const char *, size_t);
end
header string.h <<'end'
void *memcpy(void *, const void *, size_t), *memmove(void *, const void *, size_t), *memset(void *, int, size_t);
void *memchr(const void *, int, size_t);
int memcmp(const void *, const void *, size_t), strcmp(const char *, const char *), strncmp(const char *, const char *, size_t);
size_t strlen(const char *);
char *strchr(const char *, int), *strrchr(const char *, int), *strerror(int), *strstr(const char *, const char *);
char *strncpy(char *, const char *, size_t), *strcpy(char *, const char *), *strcat(char *, const char *);
end
header sys/file.h <<'end'
#define LOCK_SH 1
#define LOCK_EX 2
#define LOCK_NB 4
#define LOCK_UN 8
int flock(int, int);
end
header fcntl.h <<'end'
#define O_RDONLY 0
#define O_WRONLY 1
#define O_RDWR 2
#define O_CREAT 0x200
#define O_TRUNC 0x400
#define O_EXCL 0x800
#define O_NONBLOCK 4
#define O_CLOEXEC 0x1000000
#define F_FULLFSYNC 51
#define F_SETFD 2
#define FD_CLOEXEC 1
#define F_SETLK 8
#define F_GETLK 7
#define F_WRLCK 3
#define F_UNLCK 2
struct flock { long long l_start, l_len; int l_pid; short l_type, l_whence; };
int open(const char *, int, ...), fcntl(int, int, ...);
end
header unistd.h <<'end'
#include <sys/types.h>
int close(int), fsync(int), unlink(const char *), getpid(void), dup(int), ftruncate(int, off_t), fchown(int, uid_t, gid_t);
off_t lseek(int, off_t, int);
long read(int, void *, size_t), write(int, const void *, size_t), readlink(const char *, char *, size_t);
end
header sys/types.h <<'end'
typedef long long off_t;
typedef int pid_t;
typedef unsigned short mode_t;
typedef unsigned uid_t, gid_t;
typedef long ssize_t;
end
header sys/mman.h <<'end'
#include <sys/types.h>
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_SHARED 1
#define MAP_FAILED ((void *)-1)
void *mmap(void *, size_t, int, int, int, off_t);
int munmap(void *, size_t), mprotect(void *, size_t, int);
end
header sys/stat.h <<'end'
#include <sys/types.h>
struct stat { mode_t st_mode; off_t st_size; uid_t st_uid; gid_t st_gid; int st_dev; unsigned long long st_ino; unsigned short st_nlink; };
#define S_ISREG(mode) (((mode) & 0170000) == 0100000)
#define S_ISDIR(mode) (((mode) & 0170000) == 0040000)
#define S_ISLNK(mode) (((mode) & 0170000) == 0120000)
#define S_ISFIFO(mode) (((mode) & 0170000) == 0010000)
#define S_ISSOCK(mode) (((mode) & 0170000) == 0140000)
#define S_ISCHR(mode) (((mode) & 0170000) == 0020000)
#define S_ISBLK(mode) (((mode) & 0170000) == 0060000)
struct _stat64 { unsigned short st_mode; long long st_size; };
#define _S_IFMT 0xf000
#define _S_IFDIR 0x4000
#define _S_IFREG 0x8000
int _stat64(const char *, struct _stat64 *);
int stat(const char *, struct stat *), lstat(const char *, struct stat *), fstat(int, struct stat *), fchmod(int, mode_t), chmod(const char *, mode_t);
end
header signal.h <<'end'
#include <sys/types.h>
int kill(pid_t, int);
end
header dirent.h <<'end'
typedef struct stub_directory DIR;
struct dirent { char d_name[1024]; };
DIR *opendir(const char *);
struct dirent *readdir(DIR *);
int closedir(DIR *);
end
header io.h <<'end'
int _commit(int), _close(int), _open(const char *, int, ...);
end
header process.h <<'end'
int _getpid(void);
end

# ---- compilers that are not here ------------------------------------------------------------------------------------------

for target in x86_64-pc-windows-msvc i686-pc-windows-msvc aarch64-pc-windows-msvc arm64-apple-macos11 x86_64-apple-macos11; do
    case $target in *msvc) own="-fms-compatibility -fms-compatibility-version=19.29 -Wno-language-extension-token" ;; *) own= ;; esac
    if ! echo 'int x;' | $CLANG --target=$target -x c -fsyntax-only - 2>/dev/null; then echo "compile_targets.sh: skipped: $target"; continue; fi
    read_it="$CLANG --target=$target -ffreestanding -nostdlibinc -isystem $out/c $warn $own -fsyntax-only"
    for with in "" -DHASTE_IMPLEMENTATION "-DHASTE_IMPLEMENTATION -DHASTE_DLL" "-DHASTE_DLL" "-DHASTE_IMPLEMENTATION -DHASTE_STATIC"; do
        check "$target, C99 $with" "$read_it -std=c99 $with -x c haste.h"
        check "$target, C++17 $with" "$read_it -std=c++17 $with -x c++ haste.h"
    done
done

# ---- compilers without GNU C's extensions ---------------------------------------------------------------------------------

plain="$CLANG -fgnuc-version=0 -O1"   # the system's own headers may need the extensions, haste.h does not
check "no extensions of GNU C, C99" "$plain $warn -Wgnu -Wno-literal-range -std=c99 tests/test_compile_twice.c -o $out/plain -lm && $out/plain"
check "no extensions of GNU C, C++17" "$CLANG++ -fgnuc-version=0 $warn -Wgnu -Wno-literal-range -std=c++17 -fsyntax-only -DHASTE_IMPLEMENTATION -x c++ haste.h"
if command -v tcc >/dev/null 2>&1; then check "tcc" "tcc tests/test_compile_twice.c -o $out/tcc -lm && $out/tcc"; fi

printf '%-22s %9d checks, %d failed\n' compile_targets.sh $count $failed
[ $failed = 0 ] && [ $count != 0 ]
