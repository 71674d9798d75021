#!/bin/sh
# Time of a training step against the number of labels, from the CSV file of bench_cpu (its table "scale"):
#     sh bench/plot_cpu.sh FILE.csv FILE.svg
# Needs gnuplot. The picture brings its own background, so it can be read on a white page and on a dark one.
set -e
[ $# = 2 ] || { echo "usage: sh bench/plot_cpu.sh FILE.csv FILE.svg" >&2; exit 2; }
command -v gnuplot >/dev/null || { echo "plot_cpu.sh: gnuplot is not installed" >&2; exit 1; }
points=$(mktemp -d)
trap 'rm -rf "$points"' EXIT

# A file for each line: labels and milliseconds. A name may hold commas: what follows it is counted from the end.
select_rows() {   # FILE PATTERN
    awk -F, -v name="$2" '$1 == "scale" && $0 ~ name { print $2, $(NF - 9) }' "$csv" | sort -n > "$points/$1"
}
csv=$1
select_rows dense '"oneDNN full layer'
select_rows bottleneck '"oneDNN bottleneck'
select_rows per_label '"per-label'
select_rows haste '"haste S=32 f32"'
[ -s "$points/haste" ] || { echo "plot_cpu.sh: $1: no rows of the table scale" >&2; exit 1; }

machine=$(sed -n 's/^# machine *\([^,]*\),.*/\1/p' "$1" | head -n 1)
path=$(sed -n 's/^# machine.* haste runs on \([a-z0-9]*\).*/\1/p' "$1" | head -n 1)
from=$(head -n 1 "$points/haste" | cut -d ' ' -f 1)
to=$(tail -n 1 "$points/haste" | cut -d ' ' -f 1)
threads=$(awk -F, '$1 == "scale" { print $6; exit }' "$1")
[ "$threads" = 1 ] && threads="1 thread" || threads="$threads threads"

# Each line is named at its right end, where there is room for it; lines that are not there (no oneDNN) are left out.
lines=
line() {   # FILE COLOUR WIDTH NAME VERTICAL-SHIFT
    [ -s "$points/$1" ] || return 0
    end=$(tail -n 1 "$points/$1")
    lines="$lines${lines:+, }'$points/$1' with linespoints linewidth $3 linecolor rgb '$2' pointtype 7 pointsize 0.5 notitle"
    labels="$labels
set label '$4' at ${end% *}*1.12,${end#* } left offset 0,$5 textcolor rgb '$2' font ',13'"
}
labels=
line dense '#9a3412' 2 'dense, all 768 inputs (oneDNN)' 0
line per_label '#7c3aed' 2 'per-label fixed fan-in, fused' 0.15
line bottleneck '#0369a1' 2 'bottleneck, 64 inputs (oneDNN)' 0.1
line haste '#15803d' 3.5 'haste, 64 of 768 inputs' -0.35

gnuplot > "$2" <<END
set terminal svg size 860,500 dynamic enhanced font 'Helvetica,13' background '#ffffff'
set title "{/:Bold One training step of the output layer, float32, batch 128}\n$machine ($path), $threads" \
    font ',14' textcolor rgb '#1f2937'
set logscale xy
set xrange [$from*0.85:$to*9]
set xtics ('2 K' 2048, '16 K' 16384, '32 K' 32768, '64 K' 65536, '128 K' 131072, '256 K' 262144, '512 K' 524288, \
           '1 M' 1048576) textcolor rgb '#374151'
set ytics textcolor rgb '#374151'
set xlabel 'labels' textcolor rgb '#374151'
set ylabel 'milliseconds' textcolor rgb '#374151'
set border 3 linecolor rgb '#9ca3af'
set tics nomirror
set grid ytics linecolor rgb '#e5e7eb' linewidth 1
unset key
$labels
plot $lines
END
