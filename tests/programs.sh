#!/bin/sh
# The programs from the shell: options, a small training run, saving, resuming, signals, prediction, and what they say about bad
# input. Run by `make test`; alone: sh tests/programs.sh [NAME] (BUILD: where the programs are, default build).
set -u
cd "$(dirname "$0")/.." || exit 1
only=${1-}
root=$(pwd)
bin=$(cd "${BUILD:-build}" && pwd) || exit 1
RUN=${RUN-}
if [ -z "${ZLIB+set}" ]; then ZLIB=yes; fi
train="$RUN $bin/haste-train" predict="$RUN $bin/haste-predict"
rm -rf "$bin/programs"
mkdir -p "$bin/programs" && cd "$bin/programs" || exit 1
count=0
failed=0
name=

# begin NAME: what the next checks are about; false where it was not asked for.
begin() { name=$1; case $1 in *"$only"*) return 0 ;; esac; return 1; }
# ok CONDITION...: a command that must succeed; what the last program said is shown if it does not.
ok() {
    count=$((count + 1))
    if "$@" >check.log 2>&1; then return 0; fi
    failed=$((failed + 1))
    echo "programs.sh: $name: failed: $*"
    for f in check.log out err; do [ -s $f ] && head -n 5 $f | sed "s/^/    $f: /"; done
    return 1
}
# run CODE COMMAND...: runs a program, output into out and err, and checks its exit status.
run() {
    want=$1
    shift
    "$@" >out 2>err </dev/null
    got=$?
    ok [ "$got" = "$want" ]
}
# says FILE PATTERN: a line of the file matches.
says() { ok grep -Eq -e "$2" "$1"; }
# fails CODE MESSAGE COMMAND...: exits with the code, explains on standard error in one line, prints no result.
fails() {
    code=$1 message=$2
    shift 2
    run "$code" "$@"
    ok grep -Fq -e "$message" err
    ok [ "$(wc -l <err)" = 1 ]
    ok sh -c '! grep -q "^result" out'
}
same() { ok cmp "$1" "$2"; }
# The last line without its time and memory.
result() { tail -n 1 "$1" | sed 's/ seconds=.*//'; }
precision() { tail -n 1 "$1" | sed 's/.*P@1=\([0-9]*\).*/\1/'; }

# 120 documents: label l of 12 has the words 2l and 2l + 1; every document also has one word of 6 that says nothing,
# and a value of its own, since documents with the same features would be held out together.
make_data() {
    awk -v first="$1" 'BEGIN {
        print 120, 30, 12
        for (i = 0; i < 120; i++) { l = (i * 7 + first) % 12; print l " " 2 * l ":1 " 2 * l + 1 ":0.5 " 24 + (i + first) % 6 ":" 1 + i / 1000 }
    }'
}
make_data 0 >train.txt
make_data 3 >test.txt
# many N: test.txt N times over, which is scored in several batches.
many() { awk -v n="$1" 'NR == 1 { print $1 * n, $2, $3; next } { for (i = 0; i < n; i++) print }' test.txt; }
small="--head 0 --hidden 32 --fan-in 16 --group-size 8 --batch 16 --lr 0.02 --encoder-lr 0.02 --epochs 8 --dropout 0.1 --rewire-share .1 --rewire-every 5"
number='[0-9]+\.[0-9]+'

if begin minimal; then
    run 0 $RUN "$bin/haste-minimal"
    says out '^right: (5[89]|6[0-4]) of 64$'
    ok [ ! -e minimal.haste ]
fi

if begin own_loss; then
    run 0 $RUN "$bin/haste-own_loss"
    says out '^right: (5[89]|6[0-4]) of 64$'
fi

if begin surgery; then
    run 0 $RUN "$bin/haste-surgery"
    says out '^right: 64 of (5[89]|6[0-4])( (5[89]|6[0-4])){3}$'
fi

if begin readme; then   # its example is the text of examples/minimal.c
    awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/README.md" >readme.txt
    first=$(grep -nFx "$(head -n 1 readme.txt)" "$root/examples/minimal.c" | head -n 1 | cut -d : -f 1)
    ok [ "$(wc -l <readme.txt)" -ge 10 ]
    tail -n "+${first:-1}" "$root/examples/minimal.c" | head -n "$(wc -l <readme.txt)" >minimal.txt
    same readme.txt minimal.txt
fi

if begin copies; then
    # 100 documents, each twice, with a word and a label that no other has: what is held out cannot have been learnt.
    awk 'BEGIN { print 200, 100, 100; for (i = 0; i < 200; i++) print i % 100 " " i % 100 ":1" }' >copies.txt
    run 0 $train copies.txt --hidden 32 --valid .2 --epochs 20 --head 8 --fan-in 16 --group-size 8
    says out '^epoch 20/20 .* valid P@1 0\.00 '
    awk 'BEGIN { print 10, 2, 2; for (i = 0; i < 10; i++) print "0 0:1" }' >one.txt
    fails 1 'no document is left to train on' $train one.txt --hidden 32 --valid .2 --head 2
fi

if begin options; then
    run 0 $train --help                               # one screen
    ok [ "$(wc -l <out)" -le 24 ]
    ok [ "$(awk 'length > 80' out | wc -l)" = 0 ]
    for option in save resume export valid epochs ngrams log report threads help-all; do says out "^  --$option "; done
    run 0 $train --help-all
    for option in valid epochs save resume eval-test dense threads seed log head fan-in group-size format ngrams label-names export \
                  save-every save-wait report plan version; do says out "^  --$option "; done
    for group in Data Model Training Rewiring "The run"; do says out "^$group:$"; done
    for option in $(grep -o '^  --[a-z0-9-]*' out); do ok grep -q -e "\"${option#--}\"" "$root/examples/settings.h"; done
    run 0 $train --version
    says out '^haste-train [0-9]+\.[0-9]+\.[0-9]+, '
    run 0 $predict --version
    says out '^haste-predict [0-9]+\.[0-9]+\.[0-9]+, '
    run 0 $predict --help
    ok [ "$(awk 'length > 80' out | wc -l)" = 0 ]
    for option in top-k threshold batch exclude threads names format verify; do says out "^  --$option "; done
    fails 2 "unknown option --bogus" $train --bogus
    fails 2 "--epochs needs a value" $train --epochs
    fails 2 "--epochs -1: expected a whole number from 0 to" $train --epochs -1
    fails 2 "--epochs 1.5: expected a whole number" $train --epochs 1.5
    fails 2 "--lr nan: expected a number" $train --lr nan
    fails 2 "--loss bad: expected bce|hinge|softmax" $train --loss=bad
    fails 2 "--group-size 12: expected a multiple of 8" $train --group-size 12
    fails 2 "one file name too many" $train train.txt test.txt more.txt
    fails 2 "more than the 32 inputs of --hidden" $train train.txt --hidden 32 --fan-in 64
    if [ -w /dev/full ]; then fails 1 "cannot write" sh -c "$train --help >/dev/full"; fi
    fails 2 "expected a model and a file of documents" $predict train.txt
    fails 2 "unknown option --bogus" $predict --bogus
fi

if begin training; then
    run 0 $train train.txt test.txt $small --save model.haste --log log.csv --valid .1 --eval-test
    ok sh -c 'tail -n 1 out | grep -Eq "^result P@1=[0-9.]+ P@3=[0-9.]+ P@5=[0-9.]+ nDCG@5=[0-9.]+ PSP@1=[0-9.]+ PSP@3=[0-9.]+ PSP@5=[0-9.]+ epochs=8 seconds=[0-9.]+ peak_mib=[0-9]+ layer_seconds=[0-9.]+$"'
    ok [ "$(precision out)" -ge 95 ]
    says out "^epoch 8/8  loss $number  valid P@1 $number .*  test P@1 $number"
    ok [ ! -s err ]                                   # no terminal, so no progress line
    ok [ "$(wc -l <log.csv)" = 9 ]
    says log.csv '^run,epoch,step,seconds,loss,lr,moved,valid_P@1.*,train,settings$'
    says log.csv ',8,56,.*,"train\.txt",".* hidden=32 .* lr=0\.02 .*"$'
    ok [ "$(sed 1d log.csv | cut -d , -f 1 | sort -u | grep -Ec '^[0-9]{8}-[0-9]{6}-[0-9a-f]{4}$')" = 1 ]
    ok [ "$(awk -F , '{ print NF }' log.csv | sort -u)" = 23 ]
    ok [ "$(ls | grep -c 'model\.haste')" = 1 ]       # no temporary file is left
    says out 'moved [1-9]'                            # inputs were rewired on the way

    # Every kind of layer learns this.
    for option in --dense "--loss softmax" "--loss hinge" "--optimizer momentum --lr .5" "--optimizer sgd --lr 2" "--dtype bf16" \
                  "--head 4" "--head .5" "--grouping random" "--grouping semantic" "--growth random" "--prune saliency" "--scope group" \
                  "--path portable" "--values raw" "--activation none" "--rewire-share 0" "--hidden 10" "--batch 1 --epochs 2" "--uniform"; do
        name="training $option"
        run 0 $train train.txt test.txt --head 0 --hidden 32 --group-size 8 --batch 16 --lr .02 --encoder-lr .02 --epochs 12 --dropout 0 \
              --rewire-share .1 --rewire-every 5 $option
        ok [ "$(precision out)" -ge 90 ]
    done
fi

if begin repeat; then
    run 0 $train train.txt test.txt $small --threads 1 --save one.haste
    result out >one.result
    run 0 $train train.txt test.txt $small --threads 2 --save two.haste
    result out >two.result
    same one.result two.result
    run 0 $train train.txt test.txt $small --threads 1 --seed 2 --save other.haste
    ok sh -c '! cmp -s one.haste other.haste'
    run 0 $predict one.haste test.txt && mv out one.out
    run 0 $predict two.haste test.txt --threads 2
    same out one.out
fi

if begin batches; then   # of documents that are scored: what comes of them is the same
    run 0 $train train.txt test.txt $small
    result out >one.result
    many 9 >many.txt
    run 0 $train train.txt many.txt $small
    result out >many.result
    same one.result many.result
fi

if begin scripts; then
    mkdir -p folder
    cp train.txt test.txt folder
    run 0 env OPTIONS="$small" sh "$root/bench/train.sh" "$train" folder
    says out '^\| folder \| 120 / 12 \| [0-9]+ \| 8 \| [0-9.]+ \| ([0-9]+|-) \| ([0-9]+%|-) \| [0-9]+ \| [0-9.]+ / [0-9.]+ / [0-9.]+ \|'
fi

if begin resume; then
    run 0 $train train.txt test.txt $small --save whole.haste
    result out >whole.result
    run 0 $train train.txt test.txt $small --save part.haste --stop-after 3
    says out '^epoch 3/8'
    run 0 $train train.txt test.txt --resume part.haste
    says out '^resumed +after'
    result out >part.result
    same whole.result part.result
    $predict whole.haste test.txt >whole.out 2>/dev/null
    $predict part.haste test.txt >part.out 2>/dev/null
    same whole.out part.out
    run 0 $train train.txt test.txt $small --valid .2 --save whole.haste   # the same documents held out
    result out >whole.result
    grep '^epoch 8' out | sed 's/ [0-9.]* s$//' >whole.epoch
    run 0 $train train.txt test.txt $small --valid .2 --save held.haste --stop-after 3
    run 0 $train train.txt test.txt --resume held.haste
    result out >part.result
    grep '^epoch 8' out | sed 's/ [0-9.]* s$//' >part.epoch
    same whole.result part.result
    same whole.epoch part.epoch
    fails 1 "other documents" $train test.txt --resume part.haste
    fails 2 "cannot change on the way" $train train.txt --resume part.haste --hidden 64
    fails 1 "missing.haste" $train train.txt --resume missing.haste
    head -c 1000 part.haste >short.haste
    fails 1 "short.haste" $train train.txt --resume short.haste
    fails 1 "train.txt" $train train.txt --resume train.txt
fi

if begin export; then   # a model only to predict: smaller, and what it predicts is the same
    run 0 $train train.txt test.txt $small --save whole.haste --export small.haste
    says out '^exported +small\.haste, [0-9.]+ MiB; P@1 ([0-9.]+), before \1$'
    run 0 $predict whole.haste test.txt && mv out whole.out
    run 0 $predict small.haste test.txt
    same out whole.out
    run 0 $train --resume whole.haste --export again.haste
    says out '^exported +again\.haste, [0-9.]+ MiB \(whole\.haste: [0-9.]+\)$'
    same small.haste again.haste
    run 0 $train --resume again.haste --export half.haste --export-bf16
    run 0 $predict half.haste test.txt
    says err '^at 1 +P (9[5-9]|100)\.'
    ok [ "$(($(wc -c <whole.haste) * 10))" -gt "$(($(wc -c <small.haste) * 13))" ]
    ok [ "$(($(wc -c <small.haste) * 10))" -gt "$(($(wc -c <half.haste) * 15))" ]
    fails 1 "small.haste: was exported to predict" $train train.txt --resume small.haste
    fails 1 "missing.haste" $train --resume missing.haste --export x.haste
    run 0 $predict small.haste test.txt --verify
    same out whole.out
fi

# wait_for FILE PATTERN: until a line of a file matches; false where the program `pid` is gone, or after a minute.
wait_for() {
    tries=0
    until grep -Eq -e "$2" "$1" 2>/dev/null; do
        tries=$((tries + 1))
        kill -0 $pid 2>/dev/null && [ $tries -lt 600 ] || return 1
        sleep .1
    done
}
long="--hidden 32 --fan-in 16 --batch 1 --epochs 100000 --rewire-share 0"   # a run that does not end by itself

if begin signal; then
    mkdir -p "with space"
    cp train.txt "with space/it's.txt"
    for signal in INT TERM HUP PIPE; do
        name="signal $signal"
        rm -f "with space/stopped.haste" out
        # A background job of sh ignores SIGINT, and so would its child: the trainer sets its own handlers.
        $train "with space/it's.txt" test.txt $long --save "with space/stopped.haste" --log "with space/log.csv" >out 2>err &
        pid=$!
        ok wait_for out '^epoch 2/'
        kill -$signal $pid
        wait $pid
        got=$?
        case $signal in INT) want=130 ;; TERM) want=143 ;; HUP) want=129 ;; PIPE) want=141 ;; esac
        ok [ $got = $want ]
        says out '^stopped +after [0-9]+ of 12000000 steps; go on with$'
        ok [ ! -s err ]
    done
    name=signal
    run 0 $predict "with space/stopped.haste" test.txt
    # What it says works when it is pasted.
    $train "with space/it's.txt" test.txt $long --save "with space/stopped.haste" --threads 1 --eval-test >out 2>err &
    pid=$!
    ok wait_for out '^epoch 2/'
    kill -TERM $pid
    wait $pid
    tail -n 1 out >command
    after=$(sed -n 's/^stopped *after \([0-9]*\) .*/\1/p' out)
    says command " 'with space/it'.''s\.txt' test\.txt --eval-test --threads 1 --resume 'with space/stopped\.haste'$"
    run 0 sh -c "$(cat command) --stop-after $((after / 120 + 1))"
    says out "^resumed +after $after of 12000000 steps$"
    says out ' test P@1 '
    # Nobody reads what it prints: the model is kept all the same.
    rm -f piped.haste
    sh -c "$train train.txt $long --save piped.haste; echo \$? >code" 2>err | head -n 8 >out
    ok [ "$(cat code)" = 141 ]
    run 0 $predict piped.haste test.txt
    # Before a model is kept the first time nothing is lost; nohup stays nohup.
    rm -f out
    (trap '' HUP; exec $train train.txt $long >out 2>err) &
    pid=$!
    ok wait_for out '^epoch 2/'
    kill -HUP $pid
    epoch=$(grep -c '^epoch' out)
    ok wait_for out "^epoch $((epoch + 5))/"
    kill -TERM $pid
    wait $pid
    says out '; nothing is kept without --save$'
fi

if begin keeping; then   # what is there and is no model is left alone, and what cannot be written is tried again
    cp test.txt precious.txt
    cp log.csv precious.csv 2>/dev/null || echo 'epoch,loss' >precious.csv
    fails 2 "--save precious.txt: is there, and is no model" $train train.txt --save precious.txt
    fails 2 "--export precious.txt: is there, and is no model" $train train.txt --export precious.txt
    fails 2 "--log precious.txt: is there, and is no log" $train train.txt --log precious.txt
    fails 2 "--report precious.txt: cannot make this folder" $train train.txt --report precious.txt
    fails 2 "--log x.haste: that is the file of --save" $train train.txt --save x.haste --log x.haste
    fails 2 "--export ./x.haste: that is the file of --save" $train train.txt --save x.haste --export ./x.haste
    fails 2 "--export-bf16 needs --export" $train train.txt --export-bf16
    fails 2 "--plan reads no file" $train --plan 1000 train.txt
    fails 2 "unknown option --nope; --help-all lists them all" $train --nope
    same test.txt precious.txt
    ok [ ! -e x.haste ]
    fails 1 "no/such/folder/x.haste" $train train.txt --save no/such/folder/x.haste
    run 0 $train train.txt $small --epochs 1
    says out '^kept +nowhere: '
    run 0 $train train.txt $small --epochs 1 --save kept.haste
    ok sh -c '! grep -q "^kept" out'
    run 0 $train train.txt $small --epochs 1 --save kept.haste   # a model may be replaced
    cp kept.haste again.haste
    fails 2 "--export kept.haste: that is the file of --resume" $train --resume kept.haste --export kept.haste
    fails 2 "--export $PWD/kept.haste: that is the file of --resume" $train train.txt --resume kept.haste --export "$PWD/kept.haste" --save new.haste
    same kept.haste again.haste
    fails 1 "no/such/folder/x.haste" $train train.txt --resume kept.haste --epochs 2 --save no/such/folder/x.haste
    { sed -n '1s/^[0-9]*/2/p' train.txt; printf ' 1:1\n 2:1\n'; } >nothing.txt
    fails 1 "nothing.txt: no document has a label" $train nothing.txt --resume kept.haste --save kept.haste
    same kept.haste again.haste
    : >empty.haste
    run 0 $train train.txt $small --epochs 1 --save empty.haste  # as by mktemp

    # A folder that goes away and comes back is a disk that is full for a while.
    rm -rf place away out err
    mkdir place
    $train train.txt $long --save place/m.haste --threads 1 >out 2>err &
    pid=$!
    ok wait_for out '^epoch 2/'
    mv place away
    ok wait_for err 'cannot write place/m\.haste: .*; training goes on, and this is tried again$'
    before=$(grep -c '^epoch' out)
    ok wait_for out "^epoch $((before + 3))/"
    rm -f away/m.haste
    mv away place
    ok wait_for err 'place/m\.haste is kept again$'
    ok [ "$(wc -l <err)" = 2 ]
    kill -TERM $pid
    wait $pid
    ok [ $? = 143 ]
    run 0 $predict place/m.haste test.txt
    # At the end it waits, and says what is lost.
    rm -rf place away out err
    mkdir place
    $train train.txt $small --batch 1 --epochs 400 --save place/m.haste --save-wait .02 --threads 1 >out 2>err &
    pid=$!
    ok wait_for out '^epoch 1/'
    mv place away
    wait $pid
    ok [ $? = 1 ]
    says err 'what came after it was last kept is lost$'
    says out '^result '
    run 0 $predict away/m.haste test.txt
    # Within an epoch.
    rm -f often.haste out
    awk 'BEGIN { print 200000, 4, 4; for (i = 0; i < 200000; i++) print i % 4 " " i % 4 ":1" }' >many.txt
    $train many.txt --hidden 16 --fan-in 8 --batch 1 --epochs 100000 --save often.haste --save-every .001 --valid .01 >out 2>err &
    pid=$!
    first=$( (ok wait_for out '^runs on'; tries=0; while [ ! -s often.haste ] && [ $tries -lt 300 ]; do sleep .1; tries=$((tries + 1)); done; cksum often.haste) 2>/dev/null)
    tries=0
    while [ "$(cksum often.haste)" = "$first" ] && [ $tries -lt 300 ]; do sleep .1; tries=$((tries + 1)); done
    ok [ "$(cksum often.haste)" != "$first" ]
    kill -KILL $pid
    wait $pid 2>/dev/null
    run 0 $train many.txt --resume often.haste --stop-after 1
    says out '^resumed +after [1-9][0-9]* of '
fi

if begin longer; then   # a model's life after its end
    run 0 $train train.txt test.txt $small --epochs 4 --save life.haste --log life.csv
    run 0 $train train.txt test.txt --resume life.haste --epochs 8 --log life.csv
    says out '^resumed +after 32 of 64 steps$'
    says out '^epoch 5/8 '
    ok [ "$(precision out)" -ge 95 ]
    ok [ "$(sed 1d life.csv | cut -d , -f 1,2 | sort -u | wc -l)" = 8 ]          # one run, epochs 1 to 8
    ok [ "$(sed 1d life.csv | cut -d , -f 1 | sort -u | wc -l)" = 1 ]
    fails 1 "life.haste: 64 steps are done, and 5 epochs have 40" $train train.txt --resume life.haste --epochs 5
    run 0 $train train.txt test.txt --resume life.haste                          # at its end it is only scored
    ok sh -c '! grep -q "^epoch" out'
    fails 2 "name them, too: haste-train TRAIN" $train --resume life.haste
    fails 1 "life.haste was trained on other documents than test.txt; to train it on these, too, give --save" $train test.txt --resume life.haste

    # Other documents, with labels, words and names that are new. What was known is found by name, in any order.
    for kind in fasttext libsvm xmc; do
        name="longer $kind"
        awk -v kind=$kind 'BEGIN { for (f = 0; f < 2; f++) {
            file = f ? "after.txt" : "before.txt"; L = f ? 8 : 6; V = f ? 40 : 32
            if (kind == "xmc") print 240, V, L >file
            for (i = 0; i < 240; i++) {
                l = f ? (L - 1 - i % L) : i % L
                if (kind == "fasttext") print "__label__name" l " W" l " v" l " n" i % 7 >file
                else print l " " 2 * l + 1 ":1 " 2 * l + 2 ":1 " 20 + i % 7 ":1" >file
            } } }'
        run 0 $train before.txt before.txt $small --epochs 15 --save before.haste --min-count 1
        ok [ "$(precision out)" -ge 95 ]
        run 0 $predict before.haste before.txt && mv out before.out
        run 0 $train after.txt after.txt --resume before.haste --save after.haste --epochs 15
        says out '^anew +before\.haste on other documents: its 6 labels( by name)? and 2 new ones, its [0-9]+ features and [0-9]+ new ones; rates x 0\.333$'
        if [ $kind = fasttext ]; then says out ' features and 4 new ones;'; fi
        says out '^epoch 15/15 '
        ok [ "$(precision out)" -ge 95 ]
        run 0 $predict after.haste before.txt --top-k 1
        says err '^at 1 +P (9[5-9]|100)\.'                                       # the old ones were among the new documents
        ok [ "$(sed 's/:[0-9.e-]*$//' out | sort -u | wc -l)" = 6 ]
        run 0 $train after.txt after.txt --resume after.haste --epochs 16        # and that model goes on with them
        says out '^resumed +after 225 of 240 steps$'
        ok sh -c '! grep -q "^anew" out'
    done
fi

if begin chosen; then   # how long to train is chosen on documents held out, which are then trained on
    awk 'function r() { x = x * 16807 % 2147483647; return x / 2147483647 }
         BEGIN { x = 1; print 3200, 100, 1100; for (i = 0; i < 3200; i++) { l = int(40 * r() * r()); if (r() < .3) m = int(40 * r()); else m = l
        print m " " 2 * l ":1 " 2 * l + 1 ":1 " 80 + i % 20 ":" 1 + i / 10000 } }' >chosen.txt
    little="--hidden 16 --fan-in 8 --group-size 8 --head 8 --lr .02 --encoder-lr .02"
    run 0 $train chosen.txt chosen.txt $little --save whole.haste
    says out '^held out +400 documents, which say how long to train, and are trained on at the end \(--valid 0: none\)$'
    says out '^training +up to 18 epochs of 88 steps '
    says out '^epoch 1/18 .* valid P@1 '
    ended=$(sed -n 's/^result.* epochs=\([0-9]*\).*/\1/p' out)
    ok [ "$ended" -lt 18 ]
    ok sh -c "grep '^epoch $ended/18' out | grep -vq valid"                      # joined by then
    joined=$(grep '^epoch' out | grep -vn valid | head -n 1 | cut -d : -f 1)
    result out >whole.result
    run 0 $predict whole.haste chosen.txt && mv out whole.out
    run 0 $train chosen.txt chosen.txt $little --save part.haste --stop-after 1  # stopped after each epoch, and gone on with
    i=1
    while [ $i -lt "$ended" ]; do
        i=$((i + 1))
        cp part.haste "part$i.haste"
        run 0 $train chosen.txt chosen.txt --resume part.haste --stop-after $i
        says out "^epoch $i/18 "
    done
    result out >part.result
    same whole.result part.result
    run 0 $predict part.haste chosen.txt
    same out whole.out
    run 0 $train chosen.txt chosen.txt --resume part.haste                       # at its end it is only scored
    ok sh -c '! grep -q "^epoch" out'
    result out >part.result
    same whole.result part.result
    for i in 3 $((joined + 1)); do                                               # by a signal, wherever it comes
        cp "part$i.haste" killed.haste
        for wait in .02 .05 .1; do
            $train chosen.txt chosen.txt --resume killed.haste --threads 1 >out 2>err &
            pid=$!
            wait_for out '^resumed' && sleep $wait
            kill -TERM $pid 2>/dev/null
            wait $pid
        done
        run 0 $train chosen.txt chosen.txt --resume killed.haste
        result out >killed.result
        same whole.result killed.result
        run 0 $predict killed.haste chosen.txt
        same out whole.out
    done
    run 0 $train chosen.txt chosen.txt --resume part.haste --epochs $((ended + 2))   # longer than was chosen
    says out "^epoch $((ended + 1))/$((ended + 2)) "
    says out " epochs=$((ended + 2)) "
    fails 1 "part.haste: " $train chosen.txt --resume part.haste --epochs $((ended - 1))
    cp part2.haste longer.haste
    run 0 $train chosen.txt chosen.txt --resume longer.haste --epochs 4          # given now: not chosen any more
    says out '^held out +400 documents, and are trained on at the end'
    says out '^epoch [45]/4 '
    for settings in "--valid 0" "--epochs 2"; do
        run 0 $train chosen.txt chosen.txt $little $settings
        ok sh -c '! grep -Eq "^held out|valid P|up to" out'
    done
    sed '1s/1100/40/' chosen.txt >frequent.txt                                   # few documents, and no tail
    run 0 $train frequent.txt frequent.txt $little
    ok sh -c '! grep -Eq "^held out|valid P|up to" out'
    run 0 $train chosen.txt chosen.txt $little --valid .2                        # held out to the end
    says out '^held out +6[0-9][0-9] documents, which say how long to train$'
    says out '^training +up to '
    sed 1d chosen.txt | awk 'NR == 1 { print 3100, 100, 1100 } NR > 100' >others.txt
    run 0 $train others.txt others.txt --resume whole.haste --save others.haste  # anew: none are held out
    says out '^training +6 epochs of 97 steps '
    ok sh -c '! grep -q "^held out" out'
    run 0 $train others.txt others.txt --resume others.haste --epochs 7
    says out '^resumed +after 582 of 679 steps$'
fi

if begin standard; then   # measurements
    awk 'function r() { x = x * 16807 % 2147483647; return x / 2147483647 }
         BEGIN { x = 2; print 400, 6, 3; for (i = 0; i < 400; i++) { l = i % 3; printf "%d", l
        for (f = 0; f < 6; f++) printf " %d:%.4f", f, 100 * f + (f == l ? 3 : 0) + r(); print "" } }' >measured.txt
    measured="--hidden 16 --fan-in 8 --group-size 8 --head 0 --lr .02 --encoder-lr .02 --epochs 6"
    run 0 $train measured.txt measured.txt $measured --save measured.haste --export small.haste
    ok [ "$(precision out)" -ge 99 ]
    result out >whole.result
    run 0 $train measured.txt measured.txt $measured --save part.haste --stop-after 2
    run 0 $train measured.txt measured.txt --resume part.haste
    result out >part.result
    same whole.result part.result
    run 0 $predict measured.haste measured.txt && mv out whole.out
    says err '^at 1 +P (99|100)\.'
    run 0 $predict small.haste measured.txt --batch 7
    same out whole.out
    run 0 $train measured.txt measured.txt $measured --values unit               # they are small beside their means
    ok [ "$(precision out)" -lt 90 ]
    sed '1d; s/$/ 6:1/' measured.txt | awk 'NR == 1 { print 300, 7, 3 } NR <= 300' >others.txt
    run 0 $train others.txt measured.txt --resume measured.haste --save others.haste --epochs 1 --rates 0
    says out ' its 6 features and 1 new ones'
    ok [ "$(precision out)" -ge 99 ]                                             # with the weights and means that it knows
fi

if begin report; then
    rm -rf report report.csv
    run 0 $train train.txt test.txt $small --valid .2 --eval-test --report report
    says out '^report +report/report\.html$'
    for word in 'P@5' '<svg' 'Held-out documents' 'Test documents' 'recall@5' 'peak\|memory' 'group-size<td>8' 'train\.txt test\.txt' 'training 0\.[0-9]* s'; do
        ok grep -q -e "$word" report/report.html
    done
    ok sh -c '! grep -Eq "(src|href)=|nan|inf" report/report.html'               # it needs nothing else
    ok [ "$(wc -l <report/curves.csv)" = 9 ]
    ok [ "$(awk -F , 'NR > 1 { n += $2; wanted += $3; right += $5 } END { print n, wanted, right == 120 }' report/frequency.csv)" = "12 120 1" ]
    if command -v gnuplot >/dev/null 2>&1; then
        ok grep -q '</svg>' report/curves.svg
        ok grep -q '</svg>' report/frequency.svg
    fi
    run 0 $train train.txt test.txt $small --save part.haste --valid .2 --stop-after 3
    run 0 $train train.txt test.txt --resume part.haste --report report          # all of the run, from its beginning
    ok [ "$(wc -l <report/curves.csv)" = 9 ]
    run 0 $train train.txt $small --report "report/it's one"                     # nothing to score
    ok [ -s "report/it's one/report.html" ]
fi

if begin plan; then
    run 0 $train --plan 3000,5000,1000 --hidden 64 --fan-in 16 --batch 16
    says out '^dense +1024 of 3000 labels$'
    says out '^memory +layer [0-9.]+ MiB \(weights [0-9.]+\), workspace [0-9.]+, encoder 0\.2: '
    says out '^step +[0-9.]+ ms for 16 documents'
    says out '^training +at most 14 epochs of 313 steps: '
    plan=$(sed -n 's/^memory *layer \([0-9.]* MiB (weights [0-9.]*)\).*/\1/p' out)
    awk 'BEGIN { print 5000, 1000, 3000; for (i = 0; i < 5000; i++) print i % 3000 " " i % 1000 ":1" }' >planned.txt
    run 0 $train planned.txt --hidden 64 --fan-in 16 --batch 16 --epochs 1
    ok grep -Fq "layer $plan" out                                                # what was planned is what it takes
    fails 2 "--plan x: expected labels" $train --plan x
    fails 2 "--plan 3,: expected labels" $train --plan 3,
    fails 2 "--plan 3,4,5,6: expected labels" $train --plan 3,4,5,6
    fails 2 "--plan 99999999999: expected labels" $train --plan 99999999999
fi

if command -v script >/dev/null 2>&1 && script --version >/dev/null 2>&1 && [ -z "$RUN" ] && begin terminal; then
    # The progress line: in 100 columns all of it, in 40 what fits, in 20 still no line that wraps.
    for columns in 100 40 20; do
        rm -f typescript
        ok script -qec "stty cols $columns; $train train.txt --hidden 32 --fan-in 16 --batch 1 --epochs 4000 --rewire-share 0 --valid .2" typescript </dev/null
        ok [ "$(tr '\n' '\r' <typescript | tr '\r' '\n' | grep -a 'left *$' | awk -v most=$columns 'length >= most' | wc -l)" = 0 ]
        if [ $columns = 100 ]; then ok grep -aEq 'epoch [0-9]+/4000  batch [0-9]+/96  loss [0-9.]+  (P@1 [0-9.]+  )?[0-9]+ documents/s  [0-9]+:[0-9]+ left' typescript; fi
        if [ $columns = 40 ]; then ok grep -aEq 'epoch [0-9]+/4000  loss [0-9.]+  [0-9]+:[0-9]+ left' typescript; fi
    done
fi

if begin predict; then
    [ -e model.haste ] || $train train.txt test.txt $small --save model.haste >/dev/null
    run 0 $predict model.haste test.txt
    ok [ "$(wc -l <out)" = 120 ]
    says err '^at 1 +P (9[5-9]|100)\.'
    says err 'latency +median'
    cp out all.out
    ok [ "$(awk '{ print NF }' all.out | sort -u)" = 5 ]
    ok awk '{ for (i = 1; i <= NF; i++) { split($i, a, ":"); if (i > 1 && a[2] > before) exit 1; before = a[2]; if (a[2] < 0 || a[2] > 1) exit 1 } }' all.out
    run 0 $predict model.haste test.txt --batch 1
    same out all.out
    run 0 $predict model.haste test.txt --top-k 1
    cut -d ' ' -f 1 all.out >first.out
    same out first.out
    run 0 $predict model.haste test.txt --top-k 1000            # more than there are labels
    ok [ "$(awk '{ print NF }' out | sort -u)" = 12 ]
    run 0 $predict model.haste test.txt --logits
    ok grep -q -e '-' out
    run 0 $predict model.haste test.txt --threshold .5
    ok [ "$(wc -l <out)" = 120 ]
    ok awk '{ for (i = 1; i <= NF; i++) { split($i, a, ":"); if (a[2] <= .5) exit 1 } }' out
    run 0 $predict model.haste test.txt --exclude test.txt      # its own labels must not come back
    ok sh -c 'tail -n +2 test.txt | cut -d " " -f 1 | paste -d " " - out | awk "{ for (i = 2; i <= NF; i++) if (index(\$i, \$1 \":\") == 1) exit 1 }"'
    fails 1 "missing.haste" $predict missing.haste test.txt
    fails 1 "test.txt" $predict test.txt test.txt
    head -c 2000 model.haste >short.haste
    fails 1 "short.haste" $predict short.haste test.txt
    run 0 $predict model.haste test.txt --verify
    same out all.out
    # One byte of the weights, which lie behind the header, the label order and the indices, is not seen without --verify.
    at=$(od -A d -t x1 -v -w48 -j 64 -N 1440 model.haste | awk '/ 68 61 73 74 65 2e 30 2e 77 65 69 67 68 74 00/ {
             for (i = 33; i > 25; i--) printf "%s", $i; exit }')
    { head -c $((0x$at + 5)) model.haste; printf '\125'; tail -c +$((0x$at + 7)) model.haste; } >damaged.haste
    ok sh -c '! cmp -s model.haste damaged.haste'
    run 0 $predict damaged.haste test.txt
    fails 1 "damaged.haste: the model file: the checksum of section haste.0.weight is wrong" $predict damaged.haste test.txt --verify
    fails 1 "missing.txt" $predict model.haste missing.txt
    fails 2 "expected a probability between 0 and 1" $predict model.haste test.txt --threshold 2
    run 0 $predict model.haste test.txt --threshold 0
    ok [ "$(awk '{ print NF }' out | sort -u)" = 12 ]
    run 0 $predict model.haste test.txt --threshold 1
    ok [ "$(tr -d '\n' <out | wc -c)" = 0 ]
    run 0 $predict model.haste test.txt --threshold .01 --top-k 2          # both hold
    ok awk '{ if (NF > 2) exit 1; for (i = 1; i <= NF; i++) { split($i, a, ":"); if (a[2] <= .01) exit 1 } }' out
    run 0 $predict model.haste test.txt --top-k 2
    cp out two.out
    run 0 $predict model.haste test.txt --top-k 2 --threshold 0
    same out two.out
    run 0 sh -c "cat test.txt | $predict model.haste - --top-k 2"
    same out two.out
    run 0 sh -c "sed 1d test.txt | $predict model.haste /dev/stdin --top-k 2"   # no header
    same out two.out
    printf '2 6 12\n0 1:1\n1 5:1 6:1\n' >other.txt
    fails 1 "other.txt:3: feature 6 is not below V = 6" $predict model.haste other.txt
    printf '0 1:1\n20 5:1 60:1\n' >other.txt
    run 0 $predict model.haste other.txt
    says err '^skipped +1 unknown features, 1 unknown labels$'
    fails 1 "test.txt: 120 documents; many.txt has more" sh -c "many() { :; }; sed 1d test.txt >many.txt; sed 1d test.txt >>many.txt; $predict model.haste many.txt --exclude test.txt"
    if [ -w /dev/full ]; then fails 1 "cannot write" sh -c "$predict model.haste test.txt >/dev/full"; fi
fi

# bad TEXT MESSAGE: the trainer refuses a file with this text (printf's escapes) and says so.
bad() { printf "$1" >bad.txt; fails 1 "$2" $train bad.txt --epochs 1; }
good() { printf "$1" >good.txt; run 0 $train good.txt --epochs 1 --hidden 8 --fan-in 8; }

if begin reader; then
    bad '' "bad.txt:1: the file is empty"
    bad 'x\n' "bad.txt:1: cannot tell what this is"
    bad '2 4\n' "bad.txt:1: a first line of 2 numbers; expected three: documents, features and labels"
    bad '0 4 3\n' "bad.txt:1: 0 documents"
    bad '1 99999999999 3\n0 1:1\n' "bad.txt:1: 99999999999 features"
    bad '\377\376a\000' "bad.txt:1: is UTF-16"
    bad '2 4 3\n 1:1\n 2:1\n' "bad.txt: no document has a label"
    bad '0,1\n2\n' "bad.txt: no document has a feature"
    bad '2 4 3\n0 1:1\n3 1:1\n' "bad.txt:3: label 3 is not below L = 3 (ids count from 0)"
    bad '2 4 3\n0 1:1\n1,70000 1:1\n' "bad.txt:3: label 70000 is not below L = 3"
    bad '2 4 3\n0 1:1\n1 4:1\n' "bad.txt:3: feature 4 is not below V = 4 (ids count from 0)"
    bad '2 4 3\n0 1:1\n-1 1:1\n' "bad.txt:3: expected a label id, found '-1'"
    bad '2 4 3\n0 1:1\n1,,2 1:1\n' "bad.txt:3: expected a label id"
    bad '2 4 3\n0 1:1\n1 word\n' "bad.txt:3: expected feature:value, found 'word'"
    bad '2 4 3\n0 1:1\n1 2:nan\n' "bad.txt:3: the value of feature 2 should be a finite number, found 'nan'"
    bad '2 4 3\n0 1:1\n1 2:1e99\n' "bad.txt:3: the value of feature 2 should be a finite number"
    bad '2 4 3\n0 1:1\n1 2:\n' "bad.txt:3: the value of feature 2 should be a finite number"
    bad '3 4 3\n0 1:1\n1 1:1\n' "the file ends after 2 documents; line 1 promises 3"
    bad '1 4 3\n0 1:1\n1 1:1\n' "bad.txt:3: one document more than the 1 that line 1 promises"
    fails 1 "missing.txt: cannot open" $train missing.txt
    fails 1 "cannot read" $train .
    printf '3 400 300\n0 1:1\n3,12,299 6:1 7:.5 30:1\n1 2:1 399:1\n' >other.txt   # more than TRAIN has, and less
    run 0 $train train.txt other.txt $small
    says out '^skipped +other\.txt: 2 unknown features, 2 unknown labels$'
    printf '1 400 300\n299 399:1\n' >other.txt                     # TEST that has nothing to do with TRAIN
    run 0 $train train.txt other.txt $small
    run 0 sh -c "$train - test.txt $small <train.txt"
    good '3 2147483647 2147483647\n0 1:1\n2147483646 2:1\n3 2147483646:1\n'   # promises cost nothing
    good '\357\273\277# made by hand\n2 4 3\n0 1:1\n# more\n1 2:1 # why\n'
    good '4 4 3\r\n0 1:1\r\n1,2 2:1 3:.5\r\n0 1:1\r\n2 0:1\r\n'      # carriage returns
    good '5 4 3\n0 1:1\n 2:1\n\n3:1 2:1\n1,1,1 0:2'                    # no labels, nothing at all, a label thrice, no last newline
    run 0 $train good.txt good.txt --epochs 1 --hidden 8
    if [ -n "$ZLIB" ] && command -v gzip >/dev/null 2>&1; then
        gzip -c train.txt >train.txt.gz
        run 0 $train train.txt.gz test.txt $small
        result out >gz.result
        run 0 $train train.txt test.txt $small
        result out >plain.result
        same gz.result plain.result
        head -c $(($(wc -c <train.txt.gz) / 2)) train.txt.gz >short.txt.gz
        fails 1 "short.txt.gz: after line" $train short.txt.gz
    elif [ -z "$ZLIB" ]; then
        printf '\037\213' >train.txt.gz
        fails 1 "built without zlib" $train train.txt.gz
    fi
fi

# Text: label l of 6 has the words wl and vl; one third of the documents has two labels.
make_text() {
    awk -v kind="$1" -v seed="$2" 'BEGIN {
        for (i = 0; i < 120; i++) {
            l = (i * 5 + seed) % 6; m = (l + 3) % 6; both = int(i / 6) % 3 == 0
            words = "W" l " v" l (both ? ", w" m " V" m : ".") " and n" (i * 7 + seed) % 11
            if (kind == "fasttext") print "__label__name" l (both ? " __label__name" m : "") " " words
            if (kind == "tsv") print "name " l (both ? ";name " m : "") "\t" words
            if (kind == "csv") print "\"name \"\"" l "\"\"" (both ? "|name \"\"" m "\"\"" : "") "\",\"" words "\""
            if (kind == "libsvm") print l + 1 (both ? "," m + 1 : "") " " 2 * l + 1 ":1 " 2 * l + 2 ":1" (both ? " " 2 * m + 1 ":1 " 2 * m + 2 ":1 " : " ") 20 + (i * 7 + seed) % 11 ":1"
        }
    }'
}
if begin text; then
    for kind in fasttext tsv csv libsvm; do
        name="text $kind"
        make_text $kind 0 >text.$kind
        make_text $kind 1 >more.$kind
        run 0 $train text.$kind more.$kind $small --epochs 30 --save text-$kind.haste
        ok [ "$(precision out)" -ge 95 ]
        cp out text-$kind.out
        run 0 $predict text-$kind.haste more.$kind
        ok [ "$(wc -l <out)" = 120 ]
        says err '^at 1 +P (9[5-9]|100)\.'
        cp out text-$kind.answers
        run 0 sh -c "cat more.$kind | $predict text-$kind.haste - --batch 1"
        same out text-$kind.answers
        run 0 $predict text-$kind.haste more.$kind --names ids
        ok sh -c "! grep -q name out"
    done
    name=text
    says text-fasttext.out '^format +fastText$'
    says text-tsv.out '^format +TSV, labels separated by ;$'
    says text-csv.out '^format +CSV, labels separated by \|$'
    says text-libsvm.out '^format +LIBSVM, no header, features from 1 to 30$'
    says text-fasttext.answers '^name[0-5]:0\.[0-9]+ name'
    says text-tsv.answers '^"name [0-5]":0\.[0-9]+ "name'
    says text-csv.answers '"name ""[0-5]""":0\.'
    says text-libsvm.answers '^[1-6]:0\.[0-9]+ [1-6]:'
    printf 'w2 V2\n\nunheard of w2\n' >queries.txt               # one answer for each line
    run 0 $predict text-fasttext.haste queries.txt --top-k 1
    ok [ "$(wc -l <out)" = 3 ]
    says out '^name2:'
    says err '^skipped +2 unknown words$'
    run 0 $predict text-csv.haste queries.txt --top-k 1
    says out '^"name ""2""":'
    run 0 $train text.tsv more.tsv $small --label-separator none  # names of several labels are then one
    says out '^format +TSV, one label each$'
    run 0 $train text.fasttext more.fasttext $small --ngrams 2 --hash-bits 12
    says out '^train .* 4096 features'
    run 0 $train text.fasttext $small --min-count 120
    says out '^train .* 1 features, 6 labels'                     # only "and" is in all
    run 0 $train text.csv more.tsv $small                         # other columns, the same names but for their marks
    says out '^skipped +more\.tsv: 120 unknown labels$'
    fails 1 "text.fasttext:1: expected a label id, found '__label__name0'" $train train.txt text.fasttext
    fails 1 "train.txt:1: expected labels, a tab, and text" $train train.txt --format tsv
    fails 1 "more.libsvm:7: expected labels, a comma, and text" $train text.tsv more.libsvm
    fails 2 "knows no names of labels" sh -c "[ -e model.haste ] || $train train.txt $small --save model.haste >/dev/null; $predict model.haste test.txt --names names"
    awk 'BEGIN { for (i = 0; i < 12; i++) print "label no. " i }' >names.txt
    run 0 $train train.txt test.txt $small --label-names names.txt --save named.haste
    run 0 $predict named.haste test.txt --top-k 1
    says out '^"label no\. [0-9]+":0\.'
    fails 1 "names.txt:12: 12 names for 6 labels" sh -c "sed 's/[^ ]*:/0:/g; 1d' train.txt | awk '{ print int(NR % 6) \" 1:\" NR }' | sed '1i 120 2 6' >six.txt; $train six.txt --label-names names.txt --epochs 1"

    # Resumed, words and names are those of the model.
    run 0 $train text.csv more.csv $small --save whole.haste
    result out >whole.result
    run 0 $train text.csv more.csv $small --save part.haste --stop-after 3
    run 0 $train text.csv more.csv --resume part.haste
    result out >part.result
    same whole.result part.result
    run 0 $predict part.haste more.csv && mv out part.out
    run 0 $predict whole.haste more.csv
    same out part.out
fi

if begin service; then   # each line is answered before the next one comes
    [ -e text-fasttext.haste ] || { make_text fasttext 0 >text.fasttext; $train text.fasttext $small --epochs 30 --save text-fasttext.haste >/dev/null; }
    rm -f ask answer
    mkfifo ask answer
    $predict text-fasttext.haste - --top-k 2 <ask >answer 2>err &
    pid=$!
    exec 3>ask 4<answer
    : >out
    for i in 0 1 2 3 4 5; do
        echo "w$i v$i" >&3
        IFS= read -r line <&4 && echo "$line" >>out
    done
    exec 3>&-
    wait $pid
    ok [ $? = 0 ]
    exec 4<&-
    ok [ "$(wc -l <out)" = 6 ]
    ok awk '{ if (index($1, "name" NR - 1 ":") != 1) exit 1 }' out
    says err '^latency +median [0-9.]+ ms, p99 [0-9.]+ ms'
    ok awk '/^latency/ { exit !($6 >= $3) }' err
    [ -e model.haste ] || $train train.txt test.txt $small --save model.haste >/dev/null
    printf '0 1:1\n1 2:x\n3 6:1 7:.5\n' >wrong.txt                # a wrong line does not end a service
    run 1 sh -c "$predict model.haste - --top-k 1 <wrong.txt"
    says err '^haste-predict: -:2: the value of feature 2 should be a finite number'
    ok awk 'NR == 2 ? NF != 0 : NF != 1 { exit 1 } END { exit NR != 3 }' out
    fails 1 "wrong.txt:2: the value of feature 2" $predict model.haste wrong.txt
    fails 1 "-:1: is UTF-16" sh -c "printf '\377\376a' | $predict text-fasttext.haste -"
    for signal in TERM INT HUP; do                                # who is asked to end says how fast it was
        rm -f out err
        $predict text-fasttext.haste - --top-k 1 <ask >out 2>err &
        pid=$!
        exec 3>ask
        echo "w1 v1" >&3
        wait_for out '^name1:'
        kill -$signal $pid
        wait $pid
        got=$?
        exec 3>&-
        case $signal in INT) want=130 ;; TERM) want=143 ;; HUP) want=129 ;; esac
        ok [ $got = $want ]
        says err '^latency +median [0-9.]+ ms, p99 [0-9.]+ ms'
        ok awk '/^latency/ { exit !($6 >= $3) }' err
    done
fi

# Dense features: document i is the unit vector of its label. A .npy file is a header of 128 bytes, then little-endian floats.
make_dense() {
    zero='\000\000\000\000' one='\000\000\200\077'
    dict="{'descr': '<f4', 'fortran_order': False, 'shape': (36, 12), }"
    { printf '\223NUMPY\001\000\166\000'; printf '%-117s\n' "$dict"
      i=0; while [ $i -lt 36 ]; do
          row= j=0; while [ $j -lt 12 ]; do if [ $((i % 12)) = $j ]; then row=$row$one; else row=$row$zero; fi; j=$((j + 1)); done
          printf "$row"; i=$((i + 1)); done; } >dense.npy
    awk 'BEGIN { print 36, 1, 12; for (i = 0; i < 36; i++) print i % 12 " 0:1" }' >dense.txt
}
if begin dense; then
    make_dense
    ok [ "$(wc -c <dense.npy)" = $((128 + 36 * 48)) ]
    run 0 $train dense.txt dense.txt --features dense.npy --test-features dense.npy --fan-in 12 --group-size 8 --batch 4 --lr .05 \
          --epochs 20 --dropout 0 --save dense.haste
    ok [ "$(precision out)" -ge 95 ]
    run 0 $predict dense.haste dense.npy --top-k 1
    ok [ "$(wc -l <out)" = 36 ]
    fails 1 "dense.txt: not a .npy file of dense features" $predict dense.haste dense.txt
    run 0 sh -c "cat dense.npy | $predict dense.haste - --top-k 1"
    ok [ "$(wc -l <out)" = 36 ]
    awk 'BEGIN { for (i = 0; i < 36; i++) print i % 12 }' >labels.txt    # nothing but labels, no header
    run 0 $train labels.txt --features dense.npy --valid .1 --fan-in 12 --group-size 8 --epochs 1
    run 0 $predict dense.haste dense.txt --features dense.npy
    says err '^at 1 +P '
    run 0 $predict dense.haste dense.npy --exclude dense.txt --top-k 12
    ok [ "$(awk '{ print NF }' out | sort -u)" = 11 ]
    fails 1 "sparse documents" sh -c "[ -e model.haste ] || $train train.txt $small --save model.haste >/dev/null; $predict model.haste dense.npy"
    fails 2 "--features needs TRAIN" $train --features dense.npy
    fails 1 "36 rows for 120 documents" $train train.txt --features dense.npy
    head -c 500 dense.npy >short.npy
    fails 1 "short.npy: ends too early" $train dense.txt --features short.npy
    fails 1 "not a .npy file" $train dense.txt --features dense.txt
fi

# The programs of `make cuda`, where they have been built. What needs no GPU; with one, that models go both ways.
if [ -x "$bin/haste-train-cuda" ] && [ -x "$bin/haste-predict-cuda" ] && begin cuda; then
    train_cuda="$RUN $bin/haste-train-cuda" predict_cuda="$RUN $bin/haste-predict-cuda"
    run 0 $train_cuda --help-all
    for option in epochs save resume dtype path deterministic; do says out "^  --$option "; done
    run 0 $predict_cuda --help
    fails 2 "unknown option --bogus" $train_cuda --bogus
    fails 2 "--path avx2: expected auto|general|wide|narrow" $train_cuda --path avx2
    fails 2 "--group-size 12: expected a multiple of 8" $train_cuda --group-size 12
    fails 2 "expected a model and a file of documents" $predict_cuda train.txt
    fails 2 "--top-k 65: expected a whole number from 1 to 64" $predict_cuda model.haste test.txt --top-k 65
    fails 1 "missing.haste" $train_cuda train.txt --resume missing.haste
    fails 1 "missing.haste" $predict_cuda missing.haste test.txt
    [ -e model.haste ] || $train train.txt test.txt $small --save model.haste >/dev/null
    if $train_cuda train.txt $small --epochs 1 2>&1 >/dev/null | grep -q 'no GPU that can be used'; then
        fails 1 "no GPU that can be used" $train_cuda train.txt test.txt
        fails 1 "no GPU that can be used" $predict_cuda model.haste test.txt
    else
        for option in "--dtype bf16" "--dtype f32" --dense "--loss softmax" "--loss hinge" "--optimizer momentum --lr .5" "--head 4" --deterministic; do
            name="cuda $option"
            run 0 $train_cuda train.txt test.txt --head 0 --hidden 32 --group-size 8 --batch 16 --lr .02 --encoder-lr .02 --epochs 12 \
                  --dropout 0 --rewire-share .1 --rewire-every 5 $option
            ok [ "$(precision out)" -ge 90 ]
        done
        name=cuda
        run 0 $train_cuda train.txt test.txt $small --save cuda.haste --stop-after 5
        cp cuda.haste half.haste
        run 0 $train train.txt test.txt --resume half.haste       # begun there, ended here
        ok [ "$(precision out)" -ge 95 ]
        run 0 $train train.txt test.txt $small --save part.haste --stop-after 3
        run 0 $train_cuda train.txt test.txt --resume part.haste  # and the other way round
        says out '^resumed +after'
        ok [ "$(precision out)" -ge 95 ]
        run 0 $predict_cuda model.haste test.txt --top-k 1
        cut -d : -f 1 out >cuda.out
        run 0 $predict model.haste test.txt --top-k 1
        cut -d : -f 1 out >cpu.out
        same cuda.out cpu.out
        run 0 $predict_cuda model.haste test.txt --threshold .5 --exclude test.txt
        ok [ "$(wc -l <out)" = 120 ]
        fails 1 "missing.txt: cannot open" $train_cuda missing.txt
        fails 1 "training diverged" $train_cuda train.txt $small --optimizer sgd --loss hinge --lr 1e6

        run 0 $train_cuda train.txt test.txt $small --deterministic --save whole.haste
        result out >whole.result
        many 20 >many.txt
        run 0 $train_cuda train.txt many.txt $small --deterministic
        result out >many.result
        same whole.result many.result
        run 0 $train_cuda train.txt test.txt $small --deterministic --save part.haste --stop-after 3
        run 0 $train_cuda train.txt test.txt --resume part.haste --deterministic
        result out >part.result
        same whole.result part.result
        $predict whole.haste test.txt >whole.out 2>/dev/null
        $predict part.haste test.txt >part.out 2>/dev/null
        same whole.out part.out

        rm -f stopped.haste
        $train_cuda train.txt test.txt --hidden 32 --fan-in 16 --batch 1 --epochs 100000 --rewire-share 0 --save stopped.haste >out 2>err &
        pid=$!
        tries=0
        while [ ! -e stopped.haste ] && [ $tries -lt 100 ]; do sleep .1; tries=$((tries + 1)); done
        kill -INT $pid
        wait $pid
        got=$?
        ok [ $got = 130 ]
        says out '^stopped +after .*; go on with$'
        says out ' --resume stopped\.haste$'
        run 0 $predict_cuda stopped.haste test.txt

        make_dense
        run 0 $train_cuda dense.txt dense.txt --features dense.npy --test-features dense.npy --fan-in 12 --group-size 8 --batch 4 \
              --lr .05 --epochs 20 --dropout 0 --grouping semantic --save dense.haste
        ok [ "$(precision out)" -ge 95 ]
        run 0 $predict_cuda dense.haste dense.npy --top-k 1
        ok [ "$(wc -l <out)" = 36 ]
    fi
fi

printf '%-22s %9d checks, %d failed\n' programs.sh $count $failed
[ $failed = 0 ] && [ $count != 0 ]
