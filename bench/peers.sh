#!/bin/sh
# The trainer beside other systems, each as it comes, on the same files: one table in Markdown.
#
#     make examples && sh bench/peers.sh FOLDER... >bench/results/peers.md
#
# FOLDER holds train.txt and test.txt in the format of the Extreme Classification Repository, with counts of words as values. The
# others (omikuji, PECOS, napkinXC, fastText, scikit-learn) are installed from PyPI into PEERS (default build/peers), a Python
# environment that can be removed; which of them cannot be is said on standard error. What each is asked for stands in peers.py.
# SYSTEMS="haste omikuji" runs only these, BUILD is where the programs are, PYTHON makes the environment.
set -eu
cd "$(dirname "$0")/.."
[ $# -ge 1 ] || { echo "usage: sh bench/peers.sh FOLDER..." >&2; exit 2; }
build=${BUILD:-build}
peers=${PEERS:-build/peers}
systems=${SYSTEMS:-haste omikuji pecos napkinxc fasttext linearsvc}
for folder in "$@"; do
    for file in train.txt test.txt; do [ -r "$folder/$file" ] || { echo "peers.sh: no $folder/$file" >&2; exit 2; }; done
done
[ -x "$build/haste-predict" ] || { echo "peers.sh: no $build/haste-predict: make examples" >&2; exit 2; }

if [ ! -x "$peers/bin/pip" ]; then ${PYTHON:-python3} -m venv "$peers"; fi
add() { "$peers/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: "$@" >&2; }
have() { "$peers/bin/python" -c "import $1" 2>/dev/null; }
# PECOS wants this old numpy. Of what it lists, such as PyTorch, its linear models need nothing more.
have sklearn || add 'numpy<2' 'scipy<1.14' 'scikit-learn<1.7' || { echo "peers.sh: numpy, scipy, scikit-learn are needed" >&2; exit 1; }
have omikuji   || add omikuji            || echo "peers.sh: omikuji cannot be installed" >&2
have pecos.xmc || add --no-deps libpecos || echo "peers.sh: PECOS (libpecos) cannot be installed" >&2
have napkinxc  || add --no-deps napkinxc || echo "peers.sh: napkinXC cannot be installed" >&2
have fasttext  || add fasttext-wheel     || echo "peers.sh: fastText (fasttext-wheel) cannot be installed" >&2

echo "# Other systems on the same files"
echo
echo "    sh bench/peers.sh FOLDER..."
echo
processor=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)
echo "$(date -u +%Y-%m-%d); ${processor:-unknown processor}. One thread, one run, scores of TEST in percent. Seconds of the processor that training took"
echo "(of haste with reading the files, of the others without), and milliseconds a document; the most memory of training (of the others: of"
echo "a process that did both, with Python and the documents: $("$peers/bin/python" bench/peers.py memory) MiB without any); the model as it lies on the disk."
echo
echo "| data | system | P@1 / P@3 / P@5 | PSP@1 / PSP@3 / PSP@5 | training, s | prediction, ms | peak MiB | model, MiB |"
echo "|---|---|---|---|---|---|---|---|"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for folder in "$@"; do
    "$peers/bin/python" bench/peers.py prepare "$folder" "$scratch"
    for system in $systems; do
        OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 BUILD=$build "$peers/bin/python" bench/peers.py "$system" "$folder" "$scratch" \
            2>"$scratch/log" || { echo "peers.sh: $system on $folder:" >&2; tail -n 2 "$scratch/log" >&2; }
    done
done
