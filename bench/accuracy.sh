#!/bin/sh
# What sparsity, grouping, growth and group size do to accuracy: one training run a row, one table in Markdown.
#
#     make examples && sh bench/accuracy.sh FOLDER [options of haste-train for all rows] >bench/results/accuracy-NAME.md
#
# FOLDER holds train.txt and test.txt. Sparsity is that of the tail: 1 - F/D with D = 512 inputs.
set -eu
folder=$1
shift
train=${BUILD:-build}/haste-train
echo "| tail | grouping | growth | S | P@1 | P@3 | P@5 | PSP@1 | PSP@3 | PSP@5 | seconds/epoch | peak MiB |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
row() {   # what stands in the first four columns, then options
    cells="| $1 | $2 | $3 | $4"
    shift 4
    $train "$folder/train.txt" "$folder/test.txt" --rewire-share .1 "$@" | awk -v cells="$cells" '
        /^result/ { for (i = 2; i <= NF; i++) { split($i, a, "="); v[a[1]] = a[2] }
                    printf "%s | %s | %s | %s | %s | %s | %s | %.1f | %s |\n", cells, v["P@1"], v["P@3"], v["P@5"], v["PSP@1"], v["PSP@3"],
                           v["PSP@5"], v["seconds"] / v["epochs"], v["peak_mib"] }'
}
row "dense" - - -                                          "$@" --dense
row "92% sparse, F 40" frequency gradient 32               "$@" --fan-in 40
row "92% sparse, F 40" semantic  gradient 32               "$@" --fan-in 40 --grouping semantic
row "92% sparse, F 40" random    gradient 32               "$@" --fan-in 40 --grouping random
row "92% sparse, F 40" frequency random 32                 "$@" --fan-in 40 --growth random
row "92% sparse, F 40" semantic  random 32                 "$@" --fan-in 40 --grouping semantic --growth random
row "92% sparse, F 40" frequency "never rewired" 32        "$@" --fan-in 40 --rewire-share 0
row "92% sparse, F 40" frequency gradient 16               "$@" --fan-in 40 --group-size 16
row "92% sparse, F 40" frequency gradient 64               "$@" --fan-in 40 --group-size 64
row "83% sparse, F 88" frequency gradient 32               "$@" --fan-in 88
row "83% sparse, F 88" semantic  gradient 32               "$@" --fan-in 88 --grouping semantic
