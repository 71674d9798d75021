#!/bin/sh
# Whole training runs on data sets, by default settings: how fast files are read, documents learnt and scored, and how well.
# One run a folder, one table in Markdown.
#
#     sh bench/train.sh build/haste-train FOLDER... >bench/results/train-cpu.md
#     sh bench/train.sh build/haste-train-cuda FOLDER... >bench/results/train-h200.md
#
# A folder holds train.txt and test.txt. OPTIONS="..." goes to all runs.
set -eu
[ $# -ge 2 ] || { echo "usage: sh bench/train.sh PROGRAM FOLDER..." >&2; exit 2; }
program=$1
shift
out=$(mktemp)
trap 'rm -f "$out" "$out.rows"' EXIT
for folder in "$@"; do
    $program "$folder/train.txt" "$folder/test.txt" ${OPTIONS-} >"$out"
    awk -v name="$(basename "$folder")" '
        /^train /   { documents = $2; for (i = NF - 1; i > 1; i--) if ($(i + 1) ~ /^labels/) labels = $i }   # the first
        /^read in/  { read = $5 }
        /^test .*documents\/s/ { scored = $(NF - 1) }
        /^result/   { for (i = 2; i <= NF; i++) { split($i, a, "="); v[a[1]] = a[2] } }
        END {
            layer = v["layer_seconds"] > 0 ? sprintf("%.0f%%", 100 * v["layer_seconds"] / v["seconds"]) : "-"
            memory = v["peak_mib"] (v["gpu_mib"] ? " + " v["gpu_mib"] " on the GPU" : "")
            rate = v["seconds"] > 0 ? sprintf("%.0f", documents * v["epochs"] / v["seconds"]) : "-"
            printf "| %s | %d / %d | %s | %d | %.2f | %s | %s | %s ", name, documents, labels, read, v["epochs"],
                   v["seconds"] / v["epochs"], rate, layer, scored
            printf "| %s / %s / %s | %s / %s / %s | %s |\n", v["P@1"], v["P@3"], v["P@5"], v["PSP@1"], v["PSP@3"],
                   v["PSP@5"], memory
        }' "$out" >>"$out.rows"
done
echo "# Whole training runs"
echo
echo "    sh bench/train.sh $program FOLDER...${OPTIONS:+   with OPTIONS=\"$OPTIONS\"}"
echo
processor=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)
echo "$(date -u +%Y-%m-%d); ${processor:-unknown processor}, $(getconf _NPROCESSORS_ONLN) processors; runs on" \
     "$(sed -n 's/^runs on *//p' "$out")."
echo "Scores are those of TEST; the layer's share is of the time of training, the rest of which goes to the encoder and to"
echo "gathering labels; reading: both files, plain text."
echo
echo "| data | documents / labels | reading, MB/s | epochs | seconds an epoch | documents/s | layer |" \
     "scoring, documents/s | P@1 / P@3 / P@5 | PSP@1 / PSP@3 / PSP@5 | peak MiB |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
cat "$out.rows"
