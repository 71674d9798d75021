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
files() { echo "$1 -M $2 | tr ' ' '\\n' | grep '^/' | sort -u"; }
check "API only: what is read" "$(files "$CC -std=c99" "$t"_api.c) >$out/api.list; $(files "$CC -std=c99" "$out/two.c") | diff - $out/api.list"
check "API only, C99" "$CC $c ${t}_api.c -o $out/api && $RUN $out/api"

check "included twice, C99" "$CC $c ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C99 without optimization" "$CC $c -O0 ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C11" "$CC $c -std=c11 ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "included twice, C++17" "$CXX $cpp -x c++ ${t}_twice.c -o $out/twice -lm && $RUN $out/twice"
check "in a C++ file" "$CXX $cpp ${t}_cxx.cpp -o $out/cxx -lm && $RUN $out/cxx"
check "in a C++ file, HASTE_STATIC" "$CXX $cpp -DHASTE_STATIC ${t}_cxx.cpp -o $out/cxx -lm && $RUN $out/cxx"

check "implementation in an object" "$CC $c -DHASTE_IMPLEMENTATION -x c -c haste.h -o $out/haste.o"
check "two files, C" "$CC $c ${t}_two.c $out/haste.o -o $out/two -lm && $RUN $out/two"
check "two files, C++ and C" "$CXX $cpp -x c++ ${t}_two.c -x none $out/haste.o -o $out/two -lm && $RUN $out/two"
check "HASTE_STATIC" "$CC $c ${t}_static.c $out/haste.o -o $out/static -lm && $RUN $out/static"

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
