#!/bin/sh
# haste-train-mpi in several processes beside haste-train in one: the same model, and files for any number of processes. Called by
# `make test-mpi`; alone: sh tests/mpi.sh [NAME] (BUILD: where the programs are, default build; MPIRUN: default mpirun, Open MPI's or MPICH's).
set -u
cd "$(dirname "$0")/.." || exit 1
only=${1-}
. tests/processes.sh
bin=$(cd "${BUILD:-build}" && pwd) || exit 1
one="$bin/haste-train" predict="$bin/haste-predict" models="$bin/tests/models" train="$bin/haste-train-mpi"
rm -rf "$bin/mpi"
mkdir -p "$bin/mpi" && cd "$bin/mpi" || exit 1
run() {
    want=$1
    shift
    "$@" >out 2>err </dev/null
    got=$?
    ok [ "$got" = "$want" ]
}
mpi() { n=$1; shift; "$MPIRUN" $more -n "$n" "$train" --threads 1 "$@"; }

# Made-up data: 2,000 labels, half of them in a dense head, which the first of two processes has and a part of which the second.
few="--limit-train 1000 --hidden 64 --fan-in 16 --batch 64 --epochs 1 --valid 0"
moving="--rewire-share .2 --rewire-every 4 --rewire-end 1"

if begin one; then   # a process alone: bit for bit, whatever the loss
    for loss in bce softmax; do
        run 0 $one $few $moving --loss $loss --threads 1 --save one.haste
        run 0 mpi 1 $few $moving --loss $loss --save mpi.haste
        ok $models same one.haste mpi.haste
    done
    run 0 $train $few $moving --loss softmax --threads 2 --save mpi.haste       # without mpirun
    ok $models same one.haste mpi.haste
    run 0 $train --help
    says out '^usage: haste-train-mpi '
    run 0 $train --version
fi

if begin several; then   # to rounding, whatever the loss, the processes and the dtype; the same inputs without rewiring
    for loss in bce hinge softmax; do
        run 0 $one $few --loss $loss --save one.haste
        cp out one.out
        for n in 2 3; do
            run 0 mpi $n $few --loss $loss --save mpi.haste
            ok $models near one.haste mpi.haste 1e-3 0
            as_good one.out out .3
            says out "^processes +$n; the largest range has 1\.0"
        done
    done
    for n in 4 8; do
        run 0 mpi $n $few --loss softmax --save mpi.haste
        ok $models near one.haste mpi.haste 1e-3 0
    done
    run 0 $one $few --dtype bf16 --optimizer sgd --lr 1 --save one.haste
    run 0 mpi 3 $few --dtype bf16 --optimizer sgd --lr 1 --save mpi.haste
    ok $models near one.haste mpi.haste .002 0
fi

if begin rewire; then   # thresholds over all ranges: by random growth in the same places, by gradients but for near-ties
    run 0 $one $few $moving --growth random --uniform --head 0 --save one.haste
    run 0 mpi 3 $few $moving --growth random --uniform --head 0 --save mpi.haste
    ok $models near one.haste mpi.haste 1e-3 .001
    for loss in bce softmax; do
        run 0 $one $few $moving --prune saliency --loss $loss --save one.haste
        cp out one.out
        run 0 mpi 2 $few $moving --prune saliency --loss $loss --save mpi.haste
        ok $models near one.haste mpi.haste .01 .005
        as_good one.out out 1
    done
fi

if begin files; then   # one file, for any number of processes
    run 0 $one $few --epochs 4 --save one.haste
    run 0 mpi 2 $few --epochs 4 --save two.haste
    cp out two.out
    run 0 mpi 2 $few --epochs 4 --stop-after 2 --save half.haste
    ok [ ! -e half.haste.tmp-ranges ]
    cp half.haste more.haste
    run 0 mpi 2 --resume half.haste --stop-after 4
    ok $models same two.haste half.haste                     # as many processes: bit for bit
    cp more.haste half.haste
    run 0 mpi 3 --resume half.haste --stop-after 4
    ok $models near one.haste half.haste .01 0
    cp more.haste half.haste
    run 0 $one --resume half.haste --stop-after 4       # and one program's for the other
    ok $models near one.haste half.haste .01 0
    run 0 $one $few --epochs 4 --stop-after 2 --save half.haste
    run 0 mpi 3 --resume half.haste --stop-after 4
    ok $models near one.haste half.haste .01 0
    run 0 mpi 2 $few --export small.haste --export-bf16
    says out '^exported .* P@1 [0-9.]+, before'
fi

# 240 documents of 48 labels, with words and names; the second file has 12 labels more.
words() {
    awk -v labels="$1" 'BEGIN { for (i = 0; i < 240; i++) { l = i * 7 % labels; print "__label__l" l " a" l " b" l " c" i % 5 " d" i } }'
}
small="--head 8 --hidden 16 --fan-in 8 --group-size 8 --batch 16 --lr .02 --encoder-lr .02 --dropout .1"
words 48 >train.txt
words 60 >more.txt
if begin documents; then   # from files; the log and the report of one; other documents and new labels
    run 0 mpi 3 train.txt train.txt $small --epochs 20 --save docs.haste --log log.csv --report report
    ok [ "$(wc -l <log.csv)" = 21 ]
    ok [ -s report/report.html ]
    ok [ "$(value out P@1 | cut -d . -f 1)" -ge 90 ]
    run 0 $predict docs.haste train.txt --verify
    says err '^at 1 +P (9[0-9]|100)\.'
    run 0 mpi 2 more.txt more.txt --epochs 20 --rates 1 --resume docs.haste --save grown.haste
    says out 'its 48 labels by name and 12 new ones'
    ok [ "$(value out P@1 | cut -d . -f 1)" -ge 80 ]
    # Dense features: document i is the unit vector of its label.
    { printf '\223NUMPY\001\000v\000'
      printf '%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (240, 48), }"
      awk 'BEGIN { for (i = 0; i < 240; i++) {
          for (j = 0; j < 48; j++) printf "%s", j == i * 7 % 48 ? "\\000\\000\\200\\077" : "\\000\\000\\000\\000"
          print "" } }' | while read -r row; do printf "$row"; done; } >dense.npy
    ok [ "$(wc -c <dense.npy)" = $((128 + 240 * 48 * 4)) ]
    awk '{ sub("__label__l", ""); print $1 }' train.txt >labels.txt
    run 0 $one labels.txt --features dense.npy $small --epochs 4 --save one.haste
    run 0 mpi 2 labels.txt --features dense.npy $small --epochs 4 --save mpi.haste
    ok $models near one.haste mpi.haste 1e-3 0
fi

if begin mistakes; then   # are said once, and end all
    run 2 mpi 2 --hiden 5
    ok [ "$(grep -c 'hiden' err)" = 1 ]
    run 1 mpi 2 missing.txt
    ok [ "$(grep -c 'missing.txt: cannot open' err)" = 1 ]
    run 2 sh -c "cat train.txt | \"$MPIRUN\" $more -n 2 $train -"
    says err '^haste-train-mpi: -: is no file, and 2 processes read it'
    run 1 mpi 3 train.txt $small --head 0 --group-size 32
    says err '^haste-train-mpi: fewer groups of labels than the 3 processes'
    run 2 mpi 3 train.txt $small --hidden 8
    says err 'too few columns for 3 processes'
    if [ "$(id -u)" != 0 ]; then
        mkdir -p closed && chmod 555 closed
        run 1 mpi 2 $few --save closed/m.haste
        says err 'cannot write closed/m.haste'
    fi
    run 1 mpi 2 $few --save nowhere/m.haste
    ok [ "$(grep -c 'cannot write nowhere/m.haste' err)" = 1 ]
fi

children() { cat /proc/$1/task/$1/children 2>/dev/null; }
# Starts a long run of 2 processes, and waits until it has kept a model anew; $pid is mpirun's, $second the last process's.
start() {
    rm -f long.haste
    "$MPIRUN" $more -n 2 $train --threads 1 $few --epochs 100000 --save long.haste >out 2>err </dev/null &
    pid=$!
    tries=0
    while ! grep -q '^epoch 2/' out; do
        kill -0 $pid 2>/dev/null && [ $tries -lt 300 ] || return 1
        sleep .1
        tries=$((tries + 1))
    done
    second=$pid   # MPICH's mpirun has a process between
    while next=$(children "$second" | awk '{ print $NF }') && [ -n "$next" ]; do second=$next; done
}
if [ -e /proc/$$/task/$$/children ]; then
    if begin signal; then   # that one process gets is everybody's: all save, and say how to go on
        for signal in TERM USR1; do ok start && {
            case $signal in TERM) kill -TERM "$second" ;; *) kill -USR1 $pid ;; esac   # mpirun hands USR1 on
            wait $pid
            got=$?
            case $signal$more in TERM*) ok [ $got = 143 ] ;; USR1?*) ok [ $got = 138 ] ;; esac   # MPICH's mpirun may end with 0
            says out '^stopped    after [0-9]+ of [0-9]+ steps; go on with$'
            run 0 mpi 3 --resume long.haste --epochs $(($(grep -c '^epoch' out) + 1))
            says out '^resumed    after [0-9]+ of '
        }; done
    fi
    if begin kill; then   # a process that is gone ends all, with a sentence; the file is the last one that was kept
        ok start && {
            kill -KILL "$second"
            wait $pid
            ok [ $? != 0 ]
            ok grep -q Killed out err   # mpirun's sentence
            run 0 $one --resume long.haste --epochs 1000 --stop-after 1
        }
    fi
else echo "mpi.sh: no /proc: signals are not tried"
fi

echo "mpi.sh: $count checks, $failed failed"
[ $failed = 0 ] && [ $count != 0 ]
