#!/bin/sh
# The kernels of haste_cuda.cuh on a CPU (tests/emulator), where there is no GPU. Called by make test-emulated with BUILD:
#     sh tests/emulated.sh [TEST[:SUBJECT] ...]     of tests/test_cuda_TEST.cu, those already built; all: everything, an hour
# As a device of compute capability 9.0; steps with threads in another order too, and as one of 8.6 with 99 KiB of shared memory.
set -u
BUILD=${BUILD:-build}
passed=0
failed=0
log=$BUILD/emulated/log
run() {   # CAPABILITY BYTES ORDER TEST[:SUBJECT]
    subject=
    case $4 in *:*) subject=${4#*:} ;; esac
    if HASTE_EMULATED_CAPABILITY=$1 HASTE_EMULATED_SHARED=$2 HASTE_EMULATED_ORDER=$3 HASTE_EMULATED_PROCESSORS=8 HASTE_TEST_RUNS=2 \
        "$BUILD/emulated/test_cuda_${4%%:*}" $subject >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "$4 at $1, order $3: $(tail -n 1 "$log")"
    else
        failed=$((failed + 1))
        echo "$4 at $1, order $3 FAILED"
        tail -n 30 "$log"
    fi
}
[ $# != 0 ] || set -- step:small step:batches step:accumulate step:gradients step:rates_of_none step:loss_options step:hot_labels errors graph layer shards:shards shards:part_softmax
[ "$1" != all ] || set -- backward deterministic errors finite forward graph layer predict rewire rounding shards step whole
for one in "$@"; do
    run 90 232448 0 "$one"
    case $one in step*) run 90 232448 1 "$one"; run 86 101376 2 "$one" ;; esac
done
echo "tests: $passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
