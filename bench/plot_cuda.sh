#!/bin/sh
# Time per step against the number of labels, from the CSV file of bench_cuda: sh bench/plot_cuda.sh FILE.csv > FILE.svg
# Needs gnuplot, and the table "scale" in the file.
set -e
[ $# = 1 ] || { echo "usage: sh bench/plot_cuda.sh FILE.csv > FILE.svg" >&2; exit 2; }
command -v gnuplot >/dev/null || { echo "plot_cuda.sh: gnuplot is not installed" >&2; exit 1; }
points=$(mktemp -d)
trap 'rm -rf "$points"' EXIT
for who in haste bottleneck dense; do
    awk -F, -v who="$who" '$1 == "scale" && $3 == who { print $5, $10 }' "$1" > "$points/$who"
done
[ -s "$points/haste" ] || { echo "plot_cuda.sh: $1: no rows of the table scale" >&2; exit 1; }
lines=
for who in dense bottleneck haste; do
    [ -s "$points/$who" ] && lines="$lines${lines:+, }'$points/$who' with linespoints linewidth 2 pointtype 7 title '$who'"
done
gnuplot <<END
set terminal svg size 760,460 background 'white'
set title 'Output layer, one training step: S 32, F 64, D 768, B 128, bfloat16'
set logscale xy
set format x '10^{%L}'
set xlabel 'labels'
set ylabel 'ms'
set key top left
set grid
plot $lines
END
