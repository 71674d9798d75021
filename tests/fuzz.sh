#!/bin/sh
# Fuzzes one subject for so many seconds, from a few inputs made here, and says how often it ran:
#     sh tests/fuzz.sh data|api|file SECONDS [SEED]
# One seed gives about the same inputs every time; SEED 0 others each time.
# Needs clang with its fuzzer. Portable kernels: the sanitizers see into them best. What broke it lies in build/fuzz/crash-*.
set -u
cd "$(dirname "$0")/.." || exit 1
name=$1 seconds=$2 seed=${3-1}
out=${BUILD:-build}/fuzz
corpus=$out/$name
rm -rf "$corpus" && mkdir -p "$corpus" || exit 1
clang -std=c99 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -DHASTE_NO_SIMD -DFUZZ_LIBFUZZER -I. -Iexamples \
    "tests/fuzz_$name.c" -o "$out/fuzz_$name" -lm || exit 1

# 24 long inputs without meaning, so that no input has to be grown byte by byte; and for the reader, files
most=3000
awk 'BEGIN { srand(1); for (i = 0; i < 24; i++) { for (j = 0; j < 2600; j++) printf "%c", int(rand() * 256) > "'"$corpus"'/" i; close("'"$corpus"'/" i) } }'
case $name in
data)
    printf '\000\000\0003 4 3\n0 0:1\n1 1:1\n2 2:1\n' >"$corpus/small"
    printf '\017\000\0005 6 4\n0,1,3 0:.5 5:1e-3 0:2\n\n 1:1\n3 2:-7\n2,2 3:0 4:4\r\n\0010 1:1 9:1\n' >"$corpus/odd"
    printf '\000\000\000[1, 3] 2:1 # x\n3 7:.5\n\0013,4 2:1\n' >"$corpus/libsvm"
    printf '\000\000\0001 2147483647 2147483647\n2147483646 2147483646:1\n' >"$corpus/far"
    printf '\040\100\000__label__a \303\204x \346\227\245\n__label__b y\n\001x q\n' >"$corpus/fasttext"
    printf '\000\100\000labels\ttext\na;b\tx y\n\001"a"\tx\n' >"$corpus/tsv"
    printf '\100\000\000"a,b","x ""y""\nz"\nc,d\n\001"c",x\n' >"$corpus/csv"
    printf "\\200\\000\\000\\223NUMPY\\001\\000\\073\\000{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\\n%s" abcdefghijklmnopqrstuvwx >"$corpus/npy" ;;
file) most=65536 ;;
esac
"$out/fuzz_$name" -max_total_time="$seconds" -seed="$seed" -max_len=$most -rss_limit_mb=4000 -timeout=60 -print_final_stats=1 -artifact_prefix="$out/crash-" \
    "$corpus" >"$out/$name.log" 2>&1
code=$?
runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$name.log")
[ $code = 0 ] || tail -n 60 "$out/$name.log"
echo "fuzz_$name: ${runs:-0} runs, status $code"
[ $code = 0 ] && [ "${runs:-0}" -ge 200 ]
