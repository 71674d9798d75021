#!/bin/sh
# How haste.h compiles: each way of including it, each macro, as C99 and C++17, every warning an error; and that what comes
# out works. Run by `make test`, which sets CC, CXX, NVCC, OPENMP, BUILD and RUN; alone: sh tests/compile.sh [NAME].
set -u
cd "$(dirname "$0")/.." || exit 1
only=${1-}
CC=${CC:-cc} CXX=${CXX:-c++} NVCC=${NVCC-} GPU_ARCH=${GPU_ARCH-} OPENMP=${OPENMP-} RUN=${RUN-}
out=${BUILD:-build}/compile
log=$out/log
warn="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
c="-std=c99 -O1 $warn"
cpp="-std=c++17 -O1 $warn"
t=tests/test_compile
count=0
failed=0
mkdir -p "$out"

# check NAME COMMAND: the command succeeds, and prints nothing.
check() {
    case $1 in *"$only"* | "implementation in an object") ;; *) return ;; esac
    count=$((count + 1))
    if sh -c "$2" >"$log" 2>&1 && [ ! -s "$log" ]; then return; fi
    failed=$((failed + 1))
    echo "compile.sh: $1: failed: $2"
    tail -n 20 "$log" | sed 's/^/    /'
}
# refused NAME TEXT COMMAND: the compiler stops with this text.
refused() {
    check "$1" "if $3 2>$log.refused; then echo compiled; else grep -q '$2' $log.refused || cat $log.refused; fi"
}

# The same files are read for the API as for <stddef.h> and <stdint.h>.
printf '#include <stddef.h>\n#include <stdint.h>\n' >"$out/two.c"
files() { echo "$1 -M $2 | tr ' ' '\\n' | grep '^/' | grep -v 'two\\.c\$' | sort -u"; }
check "API only: what is read" "$(files "$CC -std=c99" "$t"_api.c) >$out/api.list; $(files "$CC -std=c99" "$out/two.c") | diff - $out/api.list"
check "API only, C99" "$CC $c ${t}_api.c -o $out/api && $RUN $out/api"

# The C side of examples/python. Compiled by whoever imports it; here without a warning, also with the structs of CUDA.
check "shim.c" "$CC $c -I. -fsyntax-only examples/python/haste/shim.c"
check "shim.c, CUDA" "$CC $c -I. -DHASTE_PYTHON_CUDA -fsyntax-only examples/python/haste/shim.c"

check "included twice, C99" "$CC $c ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C99 without optimization" "$CC $c -O0 ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C11" "$CC $c -std=c11 ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C++17" "$CXX $cpp -x c++ ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "in a C++ file" "$CXX $cpp ${t}_cxx.cpp -o $out/cxx -lm && $RUN $out/cxx"
check "in a C++ file, HASTE_STATIC" "$CXX $cpp -DHASTE_STATIC ${t}_cxx.cpp -o $out/cxx -lm && $RUN $out/cxx"

# Macros of other projects, and every single letter (where the compiler can put macros aside), which are there again afterwards.
letters=
if printf '#define A 1\n#pragma push_macro("A")\n#undef A\n#pragma pop_macro("A")\n_Pragma("push_macro(\"A\")")\nint x = A;\n' |
       $CC -x c - -c -o "$out/letters.o" 2>/dev/null; then letters=-DHOSTILE_LETTERS; fi
printf '#include "hostile.h"\n#include "haste.h"\n#define HASTE_IMPLEMENTATION\n#include "haste.h"\n' >"$out/hostile.c"
cat >>"$out/hostile.c" <<end
#define TEXT_OF(what) #what
#define TEXT(what) TEXT_OF(what)
extern const char *const hostile_after[2];
const char *const hostile_after[2] = { TEXT(F), TEXT(x) };
end
cat >"$out/restored.c" <<end
#include <string.h>
extern const char *const hostile_after[2];
int main(void) { return strcmp(hostile_after[0], "broken F") != 0 || strcmp(hostile_after[1], "broken x") != 0; }
end
for with in "" $letters; do
    check "hostile macros, C99 $with" "$CC $c -O0 $with -I. -Itests -c $out/hostile.c -o $out/hostile.o &&
        $CC $c ${t}_two.c $out/hostile.o -o $out/hostile -lm && $RUN $out/hostile"
    check "hostile macros, C++17 $with" "$CXX $cpp -O0 $with -I. -Itests -x c++ -c $out/hostile.c -o $out/hostile.o &&
        $CXX $cpp -x c++ ${t}_two.c -x none $out/hostile.o -o $out/hostile -lm && $RUN $out/hostile"
    check "hostile macros, HASTE_NO_SIMD $with" "$CC $c $with -DHASTE_NO_SIMD -I. -Itests -fsyntax-only $out/hostile.c"
done
if [ -n "$letters" ]; then
    check "hostile macros are there again" "$CC $c -O0 $letters -I. -Itests -c $out/hostile.c -o $out/hostile.o &&
        $CC $c $out/restored.c $out/hostile.o -o $out/restored -lm && $RUN $out/restored"
fi
for header in complex.h curses.h sys/param.h sys/sysmacros.h termios.h windows.h; do   # the real ones, where there are any
    printf '#include <%s>\n#define HASTE_IMPLEMENTATION\n#include "haste.h"\n' $header >"$out/real.c"
    if echo "#include <$header>" | $CC -E -x c - >/dev/null 2>&1; then
        check "after $header" "$CC $warn -I. -fsyntax-only $out/real.c"
    fi
done
check "no declaration twice" "$CC $c -Wredundant-decls -DHASTE_IMPLEMENTATION -x c -fsyntax-only haste.h"

check "implementation in an object" "$CC $c -DHASTE_IMPLEMENTATION -x c -c haste.h -o $out/haste.o"
check "two files, C" "$CC $c ${t}_two.c $out/haste.o -o $out/two -lm && $RUN $out/two"
check "two files, C++ and C" "$CXX $cpp -x c++ ${t}_two.c -x none $out/haste.o -o $out/two -lm && $RUN $out/two"
check "HASTE_STATIC" "$CC $c ${t}_static.c $out/haste.o -o $out/static -lm && $RUN $out/static"

# Symbols: HASTE_API may be the user's; what a shared library exports with HASTE_DLL and without.
haste_symbols='nm -D --defined-only'
shared="$CC $c -fPIC -fvisibility=hidden -shared -DHASTE_IMPLEMENTATION"
if [ -z "$RUN" ] && command -v nm >/dev/null 2>&1; then
    check "HASTE_API of the user" "$CC $c '-DHASTE_API=__attribute__((visibility(\"hidden\")))' ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
    check "HASTE_API of the user, C++17" "$CXX $cpp '-DHASTE_API=__attribute__((weak))' -x c++ ${t}_two.c -x none $out/haste.o -o $out/two -lm && $RUN $out/two"
    check "hidden where HASTE_DLL is not asked for" "$shared -x c haste.h -o $out/libhidden.so -lm && ! $haste_symbols $out/libhidden.so | grep ' T haste_'"
    check "HASTE_DLL with -fvisibility=hidden" "$shared -DHASTE_DLL -x c haste.h -o $out/libhaste.so -lm &&
        $CC $c -DHASTE_DLL ${t}_two.c -o $out/dll -L$out -lhaste -Wl,-rpath,\$(cd $out && pwd) && $out/dll"
    check "HASTE_DLL exports what is declared" "$haste_symbols $out/libhaste.so | awk '\$2 == \"T\" { print \$3 }' | grep -v '^_' | sort >$out/exported &&
        sed -n 's/^HASTE_API .*[ *]\(haste_[a-z0-9_]*\)(.*/\1/p' haste.h | sort | diff - $out/exported"
fi

# A program and an implementation whose headers differ. The copies are changed here.
check "HASTE_CHECK_VERSION knows every struct" "sed -n '/^#define HASTE__STRUCTS/,/[^\\\\]\$/p' haste.h | grep -o 'of(haste_[a-z_]*)' | sed 's/of(//; s/)//' | sort >$out/listed &&
    sed -n 's/^typedef struct \(haste_[a-z][a-z_]*\) {.*/\1/p' haste.h | sort | diff - $out/listed"
version() {   # WHAT SED-COMMAND EXPECTED: another implementation, which the program linked with it refuses, or not
    check "HASTE_CHECK_VERSION: $1" "sed '$2' haste.h >$out/other_haste.h && $CC -std=c99 -O0 '-DHASTE_FILE=\"other_haste.h\"' -DHASTE_IMPLEMENTATION -x c -c $out/other_haste.h -o $out/other_haste.o &&
        $CC $c '-DHEADER=\"../haste.h\"' ${t}_version.c $out/other_haste.o -o $out/version -lm && $RUN $out/version >$out/version.out && grep -Ex '$3' $out/version.out >$log.found || cat $out/version.out"
}
version "the same" "" "0 nothing"
version "another patch" "s/\\(define HASTE_VERSION_PATCH\\) .*/\\1 77/" "0 nothing"
version "another version" "s/\\(define HASTE_VERSION_MINOR\\) .*/\\1 77/" "1 the header is version [0-9.]* of haste, the implementation [0-9]+.77.[0-9]+"
version "a member more" "s/^} haste_step_options;/    double more; &/" "1 haste_step_options has [0-9]+ bytes in the header, [0-9]+ in the implementation"
version "a struct less" "/^#define HASTE__STRUCTS/,/haste_file/s/ of(haste_plan)//" "1 haste_plan is in the header, but not in the implementation"
version "another haste_error" "s/char         text\\[240\\]/char text[24000]/" "1 nothing"

check "HASTE_NO_SIMD, C99" "$CC $c -DHASTE_NO_SIMD ${t}_twice.c -o $out/nosimd -lm && $RUN $out/nosimd"
check "HASTE_NO_SIMD, C++17" "$CXX $cpp -DHASTE_NO_SIMD -x c++ ${t}_twice.c -o $out/nosimd -lm && $RUN $out/nosimd"
cp haste.h "$out/renamed.h"
check "HASTE_FILE" "$CC $c -DHASTE_IMPLEMENTATION '-DHASTE_FILE=\"renamed.h\"' -x c -c $out/renamed.h -o $out/renamed.o"
if echo 'int main(void) { return 0; }' | $CC -mfpmath=387 -x c - -o "$out/empty" 2>/dev/null; then   # FLT_EVAL_METHOD 2
    check "x87 arithmetic, C99" "$CC $c -mfpmath=387 -DHASTE_IMPLEMENTATION -x c -c haste.h -o $out/x87.o"
fi
check "HASTE_MALLOC and HASTE_FREE" "$CC $c ${t}_malloc.c -o $out/malloc -lm && $RUN $out/malloc"
refused "HASTE_MALLOC alone" "define both of HASTE_MALLOC and HASTE_FREE" \
        "$CC $c -DHASTE_IMPLEMENTATION '-DHASTE_MALLOC(n)=malloc(n)' -x c -c haste.h -o $out/refused.o"
refused "HASTE_FREE alone" "define both of HASTE_MALLOC and HASTE_FREE" \
        "$CC $c -DHASTE_IMPLEMENTATION '-DHASTE_FREE(p)=free(p)' -x c -c haste.h -o $out/refused.o"
check "HASTE_PARALLEL_FOR" "$CC $c ${t}_parallel.c -o $out/parallel -lm && $RUN $out/parallel"
if [ -n "$OPENMP" ]; then
    check "OpenMP, C99" "$CC $c $OPENMP ${t}_twice.c -o $out/openmp -lm && $RUN $out/openmp"
    check "HASTE_PARALLEL_FOR where there is OpenMP" "$CC $c $OPENMP ${t}_parallel.c -o $out/parallel -lm && $RUN $out/parallel"
fi

# The other compiler, where there is one.
for other in gcc clang; do
    if [ "$other" = "$CC" ] || ! command -v $other >/dev/null 2>&1; then continue; fi
    if [ "$($other --version | head -n 1)" = "$($CC --version | head -n 1 | sed "s/^$CC /$other /")" ]; then continue; fi
    check "$other, C99" "$other $c ${t}_twice.c -o $out/other -lm && $RUN $out/other"
    check "$other, C++17" "$other $cpp -DHASTE_IMPLEMENTATION -x c++ -c haste.h -o $out/other.o"
done

if [ -n "$NVCC" ]; then
    check "nvcc" "$NVCC ${GPU_ARCH:+-arch=$GPU_ARCH} -O1 -c ${t}_cuda.cu -o $out/cuda.o"
    check "nvcc: the program runs" "$NVCC $out/cuda.o -o $out/cuda && $out/cuda"
else
    echo "compile.sh: skipped: nvcc (not found)"
fi

printf '%-22s %9d checks, %d failed\n' compile.sh $count $failed
[ $failed = 0 ] && [ $count != 0 ]
