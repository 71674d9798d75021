#!/bin/sh
# How many of haste.h's lines the unit tests run, by gcc's gcov; fails below the floor, and lists what never ran:
#     sh tests/coverage.sh FLOOR
set -u
cd "$(dirname "$0")/.." || exit 1
floor=$1
out=${BUILD:-build}/coverage
rm -rf "$out"
make units BUILD="$out" CC=gcc CFLAGS="-O1 --coverage -fprofile-update=atomic" || exit 1
for notes in "$out"/tests/*.gcno; do gcov -t "$notes" 2>/dev/null; done | awk -v floor="$floor" '
    # COUNT:LINE:TEXT; "-": no code, "#####" and "=====": code that did not run
    { count = $0; sub(/:.*/, "", count); gsub(/ /, "", count); line = $0; sub(/^[^:]*: */, "", line); line += 0 }
    line == 0 && /Source:/ { of_haste = $0 ~ /haste\.h$/ }
    of_haste && line > 0 && count != "-" && count != "" {
        seen[line] = 1
        if (count !~ /[#=]/) ran[line] = 1
        if (line > last) last = line
    }
    END {
        for (i = 1; i <= last; i++) if (i in seen) { n++; if (i in ran) m++; else never = never " " i }
        printf "never run:%s\nhaste.h: %d of %d lines run, %.2f%%, floor %s%%\n", never, m, n, 100 * m / (n ? n : 1), floor
        exit !(n > 1000 && 100 * m >= floor * n)
    }'
