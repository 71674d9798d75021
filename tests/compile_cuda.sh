#!/bin/sh
# The declarations of haste_cuda.cuh in plain C99 and C++17 files, every warning an error, no CUDA header read. Run by `make test`, which
# sets CC, CXX, BUILD and RUN. What needs nvcc is done by `make cuda`.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc} CXX=${CXX:-c++}
out=${BUILD:-build}/compile
warn="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
count=0
failed=0
mkdir -p "$out"

# check NAME COMMAND: the command succeeds, and prints nothing.
check() {
    count=$((count + 1))
    if sh -c "$2" >"$out/cuda.log" 2>&1 && [ ! -s "$out/cuda.log" ]; then return; fi
    failed=$((failed + 1))
    echo "compile_cuda.sh: $1: failed: $2"
    tail -n 20 "$out/cuda.log" | sed 's/^/    /'
}

printf '#include "haste_cuda.cuh"\n#include "haste_cuda.cuh"\nint test(void);\nint test(void) { return (int)sizeof(haste_cuda_layer); }\n' >"$out/api_cuda.c"
check "API only, C99" "$CC -std=c99 $warn -I. -c $out/api_cuda.c -o $out/api_cuda.o"
check "API only, C++17" "$CXX -std=c++17 $warn -I. -x c++ -c $out/api_cuda.c -o $out/api_cuda.o"
for with in "" -DHOSTILE_LETTERS; do
    check "hostile macros, C99 $with" "$CC -std=c99 $warn $with -I. -include tests/hostile.h -fsyntax-only $out/api_cuda.c"
    check "hostile macros, C++17 $with" "$CXX -std=c++17 $warn $with -I. -include tests/hostile.h -x c++ -fsyntax-only $out/api_cuda.c"
done
check "API only: reads no CUDA header" "! $CC -std=c99 -I. -M $out/api_cuda.c | tr ' ' '\\n' | grep -i 'cuda[^.]*\\.h\$'"
check "a C program" "$CC -std=c99 $warn -c tests/test_compile_cuda_c.c -o $out/cuda_c.o"
check "the implementation without nvcc says why not" \
      "printf '#define HASTE_CUDA_IMPLEMENTATION\\n#include \"haste_cuda.cuh\"\\n' >$out/no_nvcc.c; $CC -I. -c $out/no_nvcc.c -o $out/no_nvcc.o 2>&1 | grep -q 'compiled by nvcc'"

printf '%-22s %9d checks, %d failed\n' compile_cuda.sh $count $failed
[ $failed = 0 ] && [ $count != 0 ]
