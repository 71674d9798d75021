#!/bin/sh
# haste-train-nccl in several processes beside haste-train-cuda in one, both in the emulator (tests/emulator), with its stand-in for NCCL: the
# same model, and files for any number of processes. Called by `make test-nccl`; alone: sh tests/nccl.sh [NAME] (BUILD: where the
# programs are, default build). On GPUs: TRAIN_CUDA=build/haste-train-cuda TRAIN_NCCL=build/haste-train-nccl sh tests/nccl.sh; with
# NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL lets its processes share one.
set -u
cd "$(dirname "$0")/.." || exit 1
only=${1-}
. tests/processes.sh
bin=$(cd "${BUILD:-build}" && pwd) || exit 1
one=$(realpath "${TRAIN_CUDA:-$bin/emulated/haste-train-cuda}") train=$(realpath "${TRAIN_NCCL:-$bin/emulated/haste-train-nccl}")
predict="$bin/haste-predict" models="$bin/tests/models"
rm -rf "$bin/nccl"
mkdir -p "$bin/nccl" && cd "$bin/nccl" || exit 1
export HASTE_EMULATED_DEVICES=4 TMPDIR="$PWD"                      # the stand-in's files, too
run() {
    want=$1
    shift
    timeout 60 "$@" >out 2>err </dev/null
    got=$?
    ok [ "$got" = "$want" ]
}
# The losses of all epochs, but for their last digit.
same_losses() {
    sed -n 's/^epoch.*  loss \([0-9.]*\).*/\1/p' "$1" >one.losses
    sed -n 's/^epoch.*  loss \([0-9.]*\).*/\1/p' "$2" | paste one.losses - |
        awk '{ d = $1 - $2; bad += !(NF == 2 && $1 > 0 && d < .001 && d > -.001) } END { exit NR == 0 || bad }'
}

# 240 documents of 120 labels, which begin with words and names; the second file has 12 labels more.
words() {
    awk -v labels="$1" 'BEGIN { for (i = 0; i < 240; i++) { l = i * 7 % labels; print "__label__l" l " a" l " b" l " c" i % 5 " d" i } }'
}
words 120 >train.txt
words 132 >more.txt
# A dense head of one group, and seven groups, one of them short: two processes have four groups each, three do not divide the columns.
few="train.txt train.txt --head 16 --hidden 80 --fan-in 16 --group-size 16 --batch 24 --lr .02 --encoder-lr .02 --dropout .1 --valid 0
     --threads 1 --head-decay .5"
same=--deterministic
moving="--rewire-share .3 --rewire-every 4 --rewire-end 1"

if begin one; then   # a process alone: bit for bit, whatever the loss, and all that one GPU can do
    for how in "" "--loss softmax $moving" "--dtype f32 --loss hinge $moving --prune saliency"; do
        run 0 $one $few $same --epochs 2 $how --save one.haste
        run 0 $train $few $same --epochs 2 $how --gpus 1 --save nccl.haste
        ok $models same one.haste nccl.haste
    done
    run 0 $train --help
    says out '^usage: haste-train-nccl '
    run 0 $train --help-all
    says out '^ *--gpus N '
    run 0 $train --version
fi

if begin several; then   # to rounding, whatever the loss, the processes and the dtype; the same inputs without rewiring
    for how in "" "--group-size 32" "--dtype f32 --loss hinge" "--dtype f32 --activation relu --optimizer sgd --lr 1 --grouping random" "--dtype f32 --head 0"; do
        run 0 $one $few --epochs 2 $how --save one.haste
        cp out one.out
        for n in 2 3; do
            run 0 $train $few --epochs 2 $how --gpus $n --save nccl.haste
            case $how in *f32*) ok $models near one.haste nccl.haste 1e-5 0 ;; *) ok $models near one.haste nccl.haste 1e-3 0 ;; esac
            as_good one.out out .5
            says out "^processes +$n; the largest range has 1\."
            ok same_losses one.out out
        done
    done
fi

if begin rewire; then   # within each group: in the same places
    for how in "--growth random --uniform" "--growth gradient --prune saliency"; do
        run 0 $one $few --epochs 2 --dtype f32 $moving --scope group $how --save one.haste
        ok grep -q ' moved [1-9]' out
        moved=$(grep -o 'moved [0-9]*' out)
        run 0 $train $few --epochs 2 --dtype f32 $moving --scope group $how --gpus 3 --save nccl.haste
        ok [ "$(grep -o 'moved [0-9]*' out)" = "$moved" ]
        ok $models near one.haste nccl.haste 1e-4 .002
    done
fi

if begin files; then   # one file, for any number of processes and for the other programs
    run 0 $one $few --dtype f32 --epochs 4 --save one.haste
    run 0 $train $few $same --dtype f32 --epochs 4 --gpus 2 --save two.haste
    run 0 $train $few $same --dtype f32 --epochs 4 --gpus 2 --stop-after 2 --save half.haste
    ok [ ! -e half.haste.tmp-ranges ]
    cp half.haste more.haste
    run 0 $train train.txt train.txt $same --gpus 2 --resume half.haste --stop-after 4
    ok $models same two.haste half.haste                     # as many processes: bit for bit
    cp more.haste half.haste
    run 0 $train train.txt train.txt --gpus 3 --resume half.haste --stop-after 4
    ok $models near one.haste half.haste 1e-4 0
    cp more.haste half.haste
    run 0 $one train.txt train.txt --resume half.haste --stop-after 4
    ok $models near one.haste half.haste 1e-4 0
    run 0 $one $few --dtype f32 --epochs 4 --stop-after 2 --save half.haste
    run 0 $train train.txt train.txt --gpus 3 --resume half.haste --stop-after 4 --export small.haste
    ok $models near one.haste half.haste 1e-4 0
    says out '^exported .* P@1 [0-9.]+, before'
    run 0 $predict half.haste train.txt --verify
    says err '^at 1 +P '
    run 0 $train $few --epochs 20 --gpus 3 --save docs.haste --log log.csv --report report
    ok [ "$(wc -l <log.csv)" = 21 ]
    ok [ -s report/report.html ]
    ok [ "$(value out P@1 | cut -d . -f 1)" -ge 90 ]
    run 0 $train more.txt more.txt --epochs 10 --rates 1 --gpus 2 --resume docs.haste --save grown.haste
    says out 'its 120 labels by name and 12 new ones'
    ok [ "$(value out P@1 | cut -d . -f 1)" -ge 80 ]
fi

if begin dense; then   # document i is the unit vector of its label
    { printf '\223NUMPY\001\000v\000'
      printf '%-117s\n' "{'descr': '<f4', 'fortran_order': False, 'shape': (240, 48), }"
      awk 'BEGIN { for (i = 0; i < 240; i++) {
          for (j = 0; j < 48; j++) printf "%s", j == i * 7 % 48 ? "\\000\\000\\200\\077" : "\\000\\000\\000\\000"
          print "" } }' | while read -r row; do printf "$row"; done; } >dense.npy
    words 48 | awk '{ sub("__label__l", ""); print $1 }' >labels.txt
    features="labels.txt --features dense.npy --head 8 --fan-in 8 --group-size 8 --batch 16 --lr .02 --dropout .1 --valid 0 --dtype f32 --epochs 2"
    run 0 $one $features --save one.haste
    run 0 $train $features --gpus 2 --save nccl.haste
    ok $models near one.haste nccl.haste 1e-5 0
fi

if begin mistakes; then   # are said once, and end all
    run 2 $train --gpus 2 --hiden 5
    ok [ "$(grep -c 'hiden' err)" = 1 ]
    run 1 $train missing.txt --gpus 2
    ok [ "$(grep -c 'missing.txt: cannot open' err)" = 1 ]
    run 2 $train --gpus 1000
    says err '^haste-train-nccl: --gpus 1000: '
    run 2 sh -c "cat train.txt | $train - --gpus 2"
    says err '^haste-train-nccl: -: is no file, and 2 processes read it'
    run 2 $train $few --gpus 2 --loss softmax
    says err '^haste-train-nccl: --loss softmax: not on several GPUs yet'
    run 2 $train $few --gpus 2 $moving
    says err '^haste-train-nccl: --rewire-share 0.3: .* take --scope group, one GPU, or haste-train-mpi$'
    run 1 $train $few --gpus 3 --head 0 --group-size 64
    says err '^haste-train-nccl: fewer groups of labels than the 3 processes'
    run 2 $train $few --gpus 3 --hidden 8 --fan-in 4
    says err 'too few columns for 3 processes'
    run 1 $train $few --gpus 2 --save nowhere/m.haste
    ok [ "$(grep -c 'cannot write nowhere/m.haste' err)" = 1 ]
    case $train in */emulated/*)
        HASTE_EMULATED_DEVICES=1 run 1 $train $few --gpus 2
        says err '^haste-train-nccl: 2 processes on a machine with 1 GPU: each needs one' ;;
    esac
fi

if begin mpirun; then   # where it was built with MPI
    if command -v "$MPIRUN" >/dev/null 2>&1 && ldd "$train" 2>/dev/null | grep -q libmpi; then
        run 0 $train $few $same --dtype f32 --epochs 2 --gpus 3 --save three.haste
        run 0 "$MPIRUN" $more -n 3 $train $few $same --dtype f32 --epochs 2 --save nccl.haste
        ok $models same three.haste nccl.haste
        run 2 "$MPIRUN" $more -n 2 $train $few --gpus 2
        says err '^haste-train-nccl: --gpus 2: mpirun has started 2 processes'
        run 2 "$MPIRUN" $more -n 2 $train --hiden 5
        ok [ "$(grep -c 'hiden' err)" = 1 ]
    else echo "nccl.sh: no mpirun, or built without MPI: it is not tried"; fi
fi

# Starts a long run of 2 processes, and waits until it has kept a model anew; $pid is the keeper's, $second the last process's.
start() {
    rm -f long.haste
    $train $few --epochs 100000 --gpus 2 --save long.haste >out 2>err </dev/null &
    pid=$!
    tries=0
    while ! grep -q '^epoch 2/' out; do
        kill -0 $pid 2>/dev/null && [ $tries -lt 300 ] || return 1
        sleep .1
        tries=$((tries + 1))
    done
    second=$(awk '{ print $NF }' /proc/$pid/task/$pid/children)
}
# Until the keeper has ended: its code in $got.
ended() {
    tries=0
    while kill -0 $pid 2>/dev/null && [ $tries -lt 300 ] && ! grep -q '^State:.Z' /proc/$pid/status; do sleep .1; tries=$((tries + 1)); done
    ok [ $tries -lt 300 ] || kill -KILL $pid
    wait $pid 2>/dev/null
    got=$?
}
if [ -e /proc/$$/task/$$/children ]; then
    if begin signal; then   # that one process gets is everybody's, and so is the keeper's: all save, and say how to go on
        for whom in second pid; do ok start && {
            eval "kill -TERM \$$whom"
            ended
            ok [ $got = 143 ]
            says out '^stopped    after [0-9]+ of [0-9]+ steps; go on with$'
            says out '--gpus 2 --resume long.haste$'
            run 0 $train train.txt train.txt --gpus 3 --resume long.haste --epochs $(($(grep -c '^epoch' out) + 1))
            says out '^resumed    after [0-9]+ of '
        }; done
    fi
    if begin kill; then   # a process that is gone ends all, with a sentence; the file is the last one that was kept
        ok start && {
            kill -KILL "$second"
            ended
            ok [ $got = 137 ]
            says err '^haste-train-nccl: process 1 of 2 was ended by signal 9 \(Killed\): all end$'
            run 0 $one train.txt train.txt --resume long.haste --epochs 1000 --stop-after 1
        }
        ok start && {   # and none outlives the keeper
            kill -KILL "$pid"
            wait $pid 2>/dev/null
            sleep .3
            ok sh -c "! tr -d '\\0' </proc/$second/cmdline 2>/dev/null | grep -q ."   # a zombie has none
        }
    fi
else echo "nccl.sh: no /proc: signals are not tried"; fi

echo "nccl.sh: $count checks, $failed failed"
[ $failed = 0 ] && [ $count != 0 ]
