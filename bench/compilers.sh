#!/bin/sh
# The same speed with every compiler? Builds the implementation with each compiler found, at -O2 and -O3, and times the
# builds in turn, by CPU time of one thread. Prints, for each path and row, the time over the fastest build of a baseline
# commit.
#
#     bench/compilers.sh [--baseline COMMIT] [--rounds N] [--paths "avx512 avx2 portable"] [--only WORD]
#                        [--compilers "gcc-12 ..."] [--also-baseline]
#
# --baseline none leaves it out: then the fastest build of all is 1. --also-baseline prints its builds as well.
# One processor, minutes; each entry is the least of all rounds. It is worth what else the machine does.
set -eu
cd "$(dirname "$0")/.."
baseline=308faa4 rounds=5 paths="avx512 avx2 portable" only="" also=0
compilers="gcc-11 gcc-12 gcc-13 gcc-14 clang-14 clang-15 clang-16 clang-17 clang-18 clang-19 clang-20"
while [ $# -gt 0 ]; do
    case $1 in
    --baseline) baseline=$2; shift 2 ;;
    --rounds) rounds=$2; shift 2 ;;
    --paths) paths=$2; shift 2 ;;
    --only) only=$2; shift 2 ;;
    --compilers) compilers=$2; shift 2 ;;
    --also-baseline) also=1; shift ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
done
work=${BUILD:-build}/compilers
mkdir -p "$work/now" "$work/base"
cp haste.h "$work/now/haste.h"
versions=now
if [ "$baseline" != none ]; then
    git show "$baseline:haste.h" > "$work/base/haste.h"
    versions="now base"
fi

builds=""
for version in $versions; do
    printf '#define HASTE_IMPLEMENTATION\n#include "haste.h"\n' > "$work/$version/implementation.c"
    for compiler in $compilers; do
        command -v "$compiler" >/dev/null 2>&1 || continue
        for level in O2 O3; do
            program=$work/$version/$compiler-$level
            if ! (ulimit -c 0; timeout 300 "$compiler" -w -std=c99 -$level -fno-math-errno -I"$work/$version" \
                  -c "$work/$version/implementation.c" -o "$program.o") 2>"$program.log"; then
                echo "$version $compiler -$level: not built" >&2
                rm -f "$program"
                continue
            fi
            cc -w -std=c99 -O1 -I"$work/$version" bench/bench_compilers.c "$program.o" -o "$program" -lm
            builds="$builds $version:$compiler-$level"
        done
    done
done

: > "$work/times"
round=0
while [ $round -lt "$rounds" ]; do
    for path in $paths; do
        for build in $builds; do
            "$work/${build%%:*}/${build#*:}" "$path" $only | sed "s/^/$path:${build}:/" >> "$work/times"
        done
    done
    round=$((round + 1))
done

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
echo "bench/compilers.sh: ${cpu:-unknown processor}, one thread, CPU time, least of $rounds rounds; -fno-math-errno"
[ "$baseline" = none ] || echo "ratio to the fastest build of $baseline, row by row; its time in milliseconds"
awk -v paths="$paths" -v builds="$builds" -v also="$also" -v baseline="$baseline" '
{
    # path:version:build:name of several words milliseconds
    n = split($0, part, ":"); path = part[1]; build = part[2] ":" part[3]; rest = part[4]
    time = $NF; name = rest; sub(/ +[0-9.]+$/, "", name); sub(/ +$/, "", name)
    key = path SUBSEP build SUBSEP name
    if (!(key in least) || time < least[key]) least[key] = time
    if (!(name in seen)) { seen[name] = 1; order[++rows] = name }
    version = part[2]
    if (version == "base" || baseline == "none")
        if (!((path, name) in fastest) || time + 0 < fastest[path, name]) fastest[path, name] = time + 0
}
END {
    nb = split(builds, all, " "); np = split(paths, each, " ")
    for (p = 1; p <= np; p++) {
        path = each[p]
        for (v = 0; v <= also; v++) {
            version = v ? "base" : "now"
            printf "\n%s, %s\n%-18s %9s", path, v ? baseline : "this version", "", "ms"
            for (i = 1; i <= nb; i++)
                if (index(all[i], version ":") == 1) printf " %11s", substr(all[i], length(version) + 2)
            printf "\n"
            for (r = 1; r <= rows; r++) {
                name = order[r]; reference = fastest[path, name]
                if (!reference) continue
                printf "%-18s %9.3f", name, reference
                for (i = 1; i <= nb; i++) if (index(all[i], version ":") == 1) {
                    time = least[path, all[i], name]
                    ratio = time / reference
                    above = version == "now" && ratio > 1.15
                    printf " %10.2f%s", ratio, (above ? "*" : " ")
                    over += above
                }
                printf "\n"
            }
        }
    }
    printf "\n* %d entries above 1.15\n", over
}' "$work/times"
