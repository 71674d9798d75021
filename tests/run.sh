#!/bin/sh
# Runs tests, all of them even if one fails, and counts; the exit status says whether all passed. Called by make:
#     sh tests/run.sh TEST...
# TEST is a program, FILE.sh, or FILE.sh:NAME (one subject of a script). JOBS run at a time (default 1), the first ones first; RUN
# is put before programs. What a test prints is shown when it has ended.
set -u
results=$(mktemp -d) || exit 1
trap 'rm -rf "$results"' EXIT
JOBS=${JOBS:-1} RUN=${RUN-}
[ "$JOBS" = 1 ] || export OMP_WAIT_POLICY=passive   # threads that wait would take the core from another test
export RUN
printf '%s\n' "$@" | xargs -P "$JOBS" -I '{}' sh -c '
    out=$1/$(echo "$2" | tr / _)
    case $2 in *.sh) sh "$2" ;; *.sh:*) sh "${2%:*}" "${2#*:}" ;; *) $RUN "$2" ;; esac >"$out" 2>&1
    code=$?
    cat "$out"
    if [ $code = 0 ]; then echo "$2" >>"$1/passed"; else echo "$2" >>"$1/failed"; echo "$2 FAILED"; fi
' run "$results" '{}'
number() { [ ! -e "$results/$1" ] && echo 0 || wc -l <"$results/$1" | tr -d ' '; }
passed=$(number passed)
failed=$(($# - passed))   # those that never ended too
if [ $failed != 0 ]; then echo "failed:" $(cat "$results/failed"); fi
echo "tests: $passed passed, $failed failed"
[ $failed = 0 ] && [ "$passed" != 0 ]
