#!/bin/sh
# The numbers of README.md from the files in bench/results: its three tables line by line, then those of its sentences.
#     sh bench/readme.sh           prints them
#     sh bench/readme.sh check     only says which lines of the tables README.md does not have
set -eu
cd "$(dirname "$0")/.."
cpu=bench/results/cpu-epyc-zen4.csv
gpu=bench/results/cuda-h200
train=bench/results/train

# Whole training runs: without the column of the nearest neighbours, which comes last.
train_rows() {
    awk -F' *[|] *' '
    function tenths(list,   n, i, part, out) {
        n = split(list, part, " / ")
        for (i = 1; i <= n; i++) out = out (i > 1 ? " / " : "") sprintf("%.1f", part[i])
        return out
    }
    function thousands(n) { return (n >= 1000 ? thousands(int(n / 1000)) "," sprintf("%03d", n % 1000) : n "") }
    NF < 12 || $5 !~ /^[0-9]/ { next }
    {
        gpu = FILENAME ~ /h200/
        if (gpu && $2 != "arxiv-authors") next
        split($3, size, " / ")
        seconds = $5 * $6
        split($12, memory, " ")
        printf "| %s | %s / %s | %s | %s | %d | %s | %s MiB%s |\n", $2 (gpu ? ", NVIDIA H200" : ""), thousands(size[1]),
               thousands(size[2]), tenths($10), tenths($11), $5,
               seconds < 100 ? sprintf("%.0f s", seconds) : sprintf("%.0f min", seconds / 60), memory[1],
               gpu ? ", and " memory[3] " on the GPU" : ""
    }' "$train-cpu.md" "$train-h200.md"
}

# In the CPU's files a name may hold commas: what follows it is counted from the end.
cpu_numbers() {
    awk -F, -v tables="$1" '
    function name() { match($0, /"[^"]*"/); return substr($0, RSTART + 1, RLENGTH - 2) }
    function least(at, value) { if (!(at in t) || value < t[at]) t[at] = value }
    function range(at, value) {
        if (!(at in low) || value < low[at]) low[at] = value
        if (value > high[at] + 0) high[at] = value
    }
    /^#/ || NF < 18 { next }
    {
        who = name(); what = $(NF - 10); ms = $(NF - 9); L = $2; F = $4; B = $5; threads = $6
        at = $1 " " L " " F " " B " " threads " " what " "
        time[at who] = ms
        if (who ~ /^OpenBLAS bottleneck/) least(at "OpenBLAS", ms)
        if (who ~ /^oneDNN bottleneck/ && who !~ /bf16/) least(at "oneDNN", ms)
        if ($1 == "dense" && what == "step" && B == 128 && threads == 2) {
            if (who ~ /^oneDNN full/) least("dense " L, ms)
            if (who == "haste S=32 f32, F=64") beside_dense[L] = ms
        }
        if (who == "haste S=32 f32" && what == "step") memory[at] = $(NF - 2)
        if (who ~ /^oneDNN bottleneck, \[L, F\]$/) added[at] = $(NF - 2)
        if ($1 == "train" && F == 64 && B == 128 && threads == 2 && what == "step" && who ~ /^haste S=(32|64|128) f32$/)
            range("share", $(NF - 4))
        if ($1 == "rewire" && what ~ /^rewire/) range(what, $(NF - 3))
        if ($1 == "odd") range("odd", $(NF - 3))
        lines[++n] = $1 SUBSEP L SUBSEP F SUBSEP B SUBSEP threads SUBSEP what SUBSEP who SUBSEP ms
    }
    END {
        split("131072 670080", labels, " "); split("131,072 670,080", written, " ")
        for (i = 1; i <= 2; i++) {
            at = "train " labels[i] " 64 128 2 step "
            printf "| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %s | %.0f MiB |\n", written[i], time[at "haste S=32 f32"],
                   time[at "haste S=128 f32"], time[at "per-label fixed fan-in"], t[at "OpenBLAS"], t[at "oneDNN"],
                   thousands(t["dense " labels[i]]), memory[at]
        }
        if (tables) exit
        for (i = 1; i <= n; i++) {
            split(lines[i], f, SUBSEP)
            at = f[1] " " f[2] " " f[3] " " f[4] " " f[5] " " f[6] " "
            if (f[1] == "train" && f[7] ~ /bf16_dot/) {
                plain = f[7]; sub(/ bf16, bf16_dot/, " f32", plain)
                if (time[at plain]) range("bf16_dot", time[at plain] / f[8])
            }
            if (f[1] == "topk" && f[4] == 1 && f[7] ~ /bf16_dot/) {
                plain = f[7]; sub(/, bf16_dot/, "", plain)
                if (time[at plain]) range("bf16_dot, one", f[8] / time[at plain])
            }
            if (f[1] == "train" && f[6] == "step" && f[7] ~ /^haste S=[0-9]+ bf16$/) {
                plain = f[7]; sub(/bf16/, "f32", plain)
                if (time[at plain]) range(f[4] == 32 ? "bf16 step, B 32" : "bf16 step, B >= 128", f[8] / time[at plain])
            }
        }
        print ""
        printf "share of the peak, steps, S >= 32: %.0f to %.0f%%\n", 100 * low["share"], 100 * high["share"]
        printf "haste in the tables of the dense layer: %.0f and %.0f ms\n", beside_dense[131072], beside_dense[670080]
        printf "the bottleneck adds %.0f and %.0f MiB\n", added["train 131072 64 128 2 step "],
               added["train 670080 64 128 2 step "]
        at = "topk 670080 64 1 2 top-5 "
        printf "best five of 670,080: %.1f ms; plain read %.1f\n", time[at "haste S=32 f32"],
               time[at "plain read of f32 weights"]
        printf "rewiring, steps: random %.1f to %.1f, gradient %.1f to %.1f (F 128 to F 64)\n", low["rewire random"],
               high["rewire random"], low["rewire gradient"], high["rewire gradient"]
        for (i = 1; i <= 2; i++) {
            at = "train " labels[i] " 64 128 2 "
            printf "%s labels: input gradient %.2f of oneDNN'\''s speed; its bottleneck in bfloat16 %.2f of our time\n",
                   written[i],
                   time[at "input gradient oneDNN bottleneck, [L, F]"] / time[at "input gradient haste S=32 f32"],
                   time[at "step oneDNN bottleneck, [L, F] bf16"] / time[at "step haste S=32 f32"]
        }
        printf "a step in bfloat16 over one in float32: B 32 %.2f to %.2f, B >= 128 %.2f to %.2f\n", low["bf16 step, B 32"],
               high["bf16 step, B 32"], low["bf16 step, B >= 128"], high["bf16 step, B >= 128"]
        printf "odd shapes, padding counted: %.2f to %.2f times the time\n", low["odd"], high["odd"]
        printf "bf16_dot, batches from 32, over float32: %.1f to %.1f times as fast; one vector: %.1f to %.1f times the time\n",
               low["bf16_dot"], high["bf16_dot"], low["bf16_dot, one"], high["bf16_dot, one"]
    }
    function thousands(n) { n = int(n + .5); return n < 1000 ? n "" : int(n / 1000) sprintf(",%03d", n % 1000) }' "$cpu"
}

gpu_numbers() {
    awk -F, -v tables="$1" '
    function ms(t) { return sprintf(t < 9.995 ? "%.2f" : t < 99.95 ? "%.1f" : "%.0f", t) }
    function bytes(mb) { return mb < 1000 ? sprintf("%d MB", mb + .5) : sprintf("%.1f GB", mb / 1000) }
    function row(name, about,   key) {
        key = name
        gsub(/,/, "", key)
        printf "| %s | %s | %s | %s | %s |\n", about, ms(time["step" key "haste"]), ms(time["step" key "dense"]),
               ms(time["step" key "bottleneck"]), bytes(layer[name])
    }
    function least(at, value) { if (!(at in time) || value < time[at]) time[at] = value }
    FILENAME ~ /txt$/ {   # the memory of layers stands only there
        if (/^Memory/) on = 1
        else if (/^Rewiring/) on = 0
        name = substr($0, 1, 40)
        sub(/ +$/, "", name)
        if (on && name ~ /^[AL].* [SB][0-9]/) layer[name] = substr($0, 41) + 0
        next
    }
    /^#/ || $1 == "table" { next }
    {
        if ($1 == "step" && $4 == "step") least("step" $2 $3, $10)
        if ($1 == "topk" || $1 == "kernels") least($1 $2 $3 $4, $10)
        if (($1 == "kernels" || $1 == "paper") && $4 == "forward") { least("f" $1 $2 $3, $10); shape[$1 $2] }
        if ($1 == "topk" && $9 == 1) best_of_one[$2]
    }
    END {
        row("A670K L 670,091 head S16 F64 B64",
            "670,091 labels, a tenth of them dense, S 16, F 64, 384 + 384 inputs, batch 64")
        row("A670K L 670,091 head S16 F64 B128", "the same, batch 128")
        row("L 670,208 S32 F64 D768 B128", "670,208 labels, S 32, F 64, 768 inputs, batch 128")
        row("A3M L 2,812,281 head S64 F128 B128", "2,812,281 labels, 56,256 dense, S 64, F 128, 768 inputs, batch 128")
        row("L 8,192,000 S32 F64 D384 B128", "8,192,000 labels, S 32, F 64, 384 inputs, batch 128")
        row("L 100,000,000 S32 F32 D384 B64", "100,000,000 labels, S 32, F 32, 384 inputs, batch 64")
        if (tables) exit
        print ""
        for (name in best_of_one)
            printf "top-5, %s: %.3f ms, dense %.1f times that\n", name, time["topk" name "hastetop-5"],
                   time["topk" name "densetop-5"] / time["topk" name "hastetop-5"]
        for (name in shape) if (time["f" name "bottleneck"] > 0) {
            r = time["f" name "bottleneck"] / time["f" name "haste"]
            if (low == 0 || r < low) low = r
            if (r > high) high = r
        }
        printf "logits: cuBLAS on the bottleneck takes %.2f to %.2f of our time\n", low, high
        name = "kernelsL 670208 S32 F64 D768 B128"
        printf "670,208 labels, S 32, B 128: logits %.2f ms, gradients %.2f and %.2f; cuBLAS, bottleneck: %.2f and %.2f\n",
               time[name "hasteforward"], time[name "hastegrad W"], time[name "hastegrad x"], time[name "bottleneckgrad W"],
               time[name "bottleneckgrad x"]
    }' "$gpu.txt" "$gpu.csv"
}

case ${1-} in
'') echo "From $train-*.md:"; train_rows; echo; echo "From $cpu:"; cpu_numbers 0; echo; echo "From $gpu.txt and .csv:"; gpu_numbers 0 ;;
check)
    { train_rows; cpu_numbers 1; gpu_numbers 1; } | {
        missing=0
        while IFS= read -r line; do grep -qF -e "$line" README.md || { echo "not in README.md: $line"; missing=1; }; done
        exit $missing
    } ;;
*) echo "usage: sh bench/readme.sh [check]" >&2; exit 2 ;;
esac
