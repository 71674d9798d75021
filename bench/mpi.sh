#!/bin/sh
# What several processes cost beside one, on one machine: steps of haste-train-mpi on documents that awk makes up.
#     make examples mpi && sh bench/mpi.sh >bench/results/mpi-NAME.md
#     sh bench/mpi.sh 131072 128                  one case: labels, documents in a step
# (BUILD: where the programs are; CORES: how many all together may use, default 2; MPIRUN.) Tables in Markdown, minutes.
set -u
cd "$(dirname "$0")/.." || exit 1
bin=$(cd "${BUILD:-build}" && pwd) || exit 1
cores=${CORES:-2}
MPIRUN=${MPIRUN:-mpirun}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
more= ; "$MPIRUN" --version 2>&1 | grep -q 'Open MPI' && more="--oversubscribe --bind-to none"
data=$(mktemp -d) || exit 1
trap 'rm -rf "$data"' EXIT

# DOCUMENTS of LABELS labels, one each, and 40 of 50,000 words, the small numbers more often.
documents() {
    awk -v n="$1" -v labels="$2" 'BEGIN {
        srand(1)
        print n, 50000, labels
        for (i = 0; i < n; i++) {
            line = i < labels ? i * 7919 % labels : int(rand() * labels)
            for (j = 0; j < 40; j++) { u = rand(); line = line " " int(u * u * u * 50000) ":1" }
            print line
        }
    }'
}
# NAME COMMAND...: one row, the fastest of five runs
row() {
    name=$1
    shift
    for i in 1 2 3 4 5; do
        "$@" 2>/dev/null | awk -v name="$name" '
            /^training/ { for (i = 1; i < NF; i++) if ($(i + 1) == "steps") steps = $i }
            /^result/ { for (i = 2; i <= NF; i++) { split($i, a, "="); v[a[1]] = a[2] }
                        printf "%.1f %.1f %.1f %d\n", 1e3 * v["seconds"] / steps, 1e3 * v["layer_seconds"] / steps, 1e3 * v["talk_seconds"] / steps, v["peak_mib"] }'
    done | sort -n | head -n 1 | { read -r step layer talk peak; echo "| $name | $step | $layer | $talk | $peak |"; }
}

# LABELS DOCUMENTS: one table, 32 steps a run
table() {
    documents $((32 * $2)) "$1" >"$data/train.txt"
    options="$data/train.txt --batch $2 --epochs 1 --valid 0 --head 0 --fan-in 64 --hidden 512 --negligible 0 --loss bce"
    printf '\n%s labels, S 32, F 64 of 512 inputs, float32, AdamW, BCE, B %s\n\n' "$1" "$2"
    echo "| | step | layer | talk | MiB |"
    echo "|---|---|---|---|---|"
    row "haste-train, $cores threads" "$bin/haste-train" $options --threads "$cores"
    row "1 process of $cores threads" "$MPIRUN" $more -n 1 "$bin/haste-train-mpi" $options --threads "$cores"
    row "$cores processes of 1 thread" "$MPIRUN" $more -n "$cores" "$bin/haste-train-mpi" $options --threads 1
}
if [ $# = 2 ]; then table "$1" "$2"; exit; fi
echo "haste-train-mpi beside haste-train, $cores cores of one machine ($(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)),"
echo "$("$MPIRUN" --version 2>&1 | head -n 1); \`sh bench/mpi.sh\`. Milliseconds of a step, the fastest of five runs of 32 steps: all of it; the layer's"
echo "part; what the first process spent in gathering, scattering and adding up, waiting for the others included. The first process's peak memory, documents included."
table 131072 128
table 32768 512
