#!/bin/sh
# Time against the number of labels, from the CSV file of bench_cuda: whole steps (its table "scale"), or logits alone (its
# table "paper"): sh bench/plot_cuda.sh FILE.csv [step|forward] > FILE.svg
# Needs only awk. No background, and colours that are seen on white and on black.
set -e
usage() { echo "usage: sh bench/plot_cuda.sh FILE.csv [step|forward] > FILE.svg" >&2; exit 2; }
[ $# = 1 ] || [ $# = 2 ] || usage
case ${2-step} in step|forward) ;; *) usage ;; esac
awk -F, -v what="${2-step}" '
BEGIN {
    forward = what == "forward"
    from = forward ? 5e4 : 1e5; to = 1e7
    least = forward ? .0025 : .008; most = forward ? 10 : 30
}
function x(labels) { return 40 + 545 * (log(labels) - log(from)) / (log(to) - log(from)) }
function y(ms) { return 400 - 330 * (log(ms) - log(least)) / (log(most) - log(least)) }
function text(at_x, at_y, anchor, class, words) {
    printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">%s</text>\n", at_x, at_y, anchor, class, words
}
function short(labels) { return labels < 1e6 ? sprintf("%.0fK", labels / 1e3) : sprintf("%.1fM", labels / 1e6) }
function line(who, style,   i, path) {
    if (!n[who]) return
    for (i = 1; i <= n[who]; i++) path = path sprintf("%s%.1f %.1f", i == 1 ? "M" : "L", x(labels[who, i]), y(ms[who, i]))
    printf "<path d=\"%s\" class=\"%s\"/>\n", path, style
    for (i = 1; i <= n[who] && who != "floor"; i++)
        printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" class=\"%s dot\"/>\n", x(labels[who, i]), y(ms[who, i]), style
    i = n[who]
    text(x(labels[who, i]) + 13, y(ms[who, i]) + (who in down ? down[who] : 4), "start", style " word",
         sprintf("%s %.3g ms", who, ms[who, i]))
}
# Of several rows of the same shape, the fastest.
function add(who, l, time) {
    if (!n[who] || labels[who, n[who]] != l) { labels[who, ++n[who]] = l; ms[who, n[who]] = time }
    else if (time < ms[who, n[who]]) ms[who, n[who]] = time
}
!forward && $1 == "scale" || forward && $1 == "paper" && $4 == "forward" && $2 ~ / F32/ {
    add($3, $5, $10)
    if ($3 == "haste") add("floor", $5, $14)
}
END {
    if (!n["haste"]) { print "plot_cuda.sh: no rows of the table " (forward ? "paper" : "scale") > "/dev/stderr"; exit 1 }
    if (!forward) down["haste"] = 10   # names that would touch
    else { down["haste"] = -2; down["bottleneck"] = 10; down["floor"] = 16; down["cuSPARSE"] = -12 }
    print "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 450\" width=\"760\" height=\"450\" role=\"img\">"
    print "<style>"
    print "text { font: 13px system-ui, -apple-system, \"Segoe UI\", \"DejaVu Sans\", sans-serif; fill: #7a8088 }"
    print ".title { font-size: 16px; font-weight: 600 } .word { font-weight: 600 }"
    print ".grid { stroke: #808890; stroke-opacity: .28; stroke-width: 1 }"
    print "path { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }"
    print ".dense { stroke: #d0543c } .dense.word, .dense.dot { fill: #d0543c; stroke: none }"
    print ".bottleneck { stroke: #bf8310 } .bottleneck.word, .bottleneck.dot { fill: #bf8310; stroke: none }"
    print ".single { stroke: #8b5cf6 } .single.word, .single.dot { fill: #8b5cf6; stroke: none }"
    print ".sparse { stroke: #3f9a5c } .sparse.word, .sparse.dot { fill: #3f9a5c; stroke: none }"
    print ".haste { stroke: #1a8ad6; stroke-width: 3.5 } .haste.word, .haste.dot { fill: #1a8ad6; stroke: none }"
    print ".floor { stroke: #7a8088; stroke-width: 1.5; stroke-dasharray: 2 5 } .floor.word { fill: #7a8088; stroke: none }"
    print "</style>"
    about = forward ? "Logits alone" : "Output layer: one training step"
    shape = "S 32, F 64, D 768, B 128, bfloat16. Dense and bottleneck: cuBLAS. Floor: copying the weights"
    if (forward) shape = "S 32, F 32, D 768, B 64, bfloat16. Dense and bottleneck: cuBLAS. Floor: weights read, logits written"
    print "<title>" about ": time against the number of labels</title>"
    text(20, 28, "start", "title", about ", in milliseconds")
    text(20, 48, "start", "", shape)
    for (tick = split("0.003 0.01 0.03 0.1 0.3 1 3 10 30", at, " "); tick > 0; tick--) {
        if (at[tick] < least || at[tick] > most) continue
        printf "<line x1=\"66\" x2=\"575\" y1=\"%.1f\" y2=\"%.1f\" class=\"grid\"/>\n", y(at[tick]), y(at[tick])
        text(58, y(at[tick]) + 4, "end", "", at[tick])
    }
    for (i = 1; i <= n["haste"]; i++) text(x(labels["haste", i]), 420, "middle", "", short(labels["haste", i]))
    text(326, 442, "middle", "", "labels")
    line("floor", "floor"); line("dense", "dense"); line("bottleneck", "bottleneck")
    line("per-label", "single"); line("cuSPARSE", "sparse"); line("haste", "haste")
    print "</svg>"
}' "$1"
