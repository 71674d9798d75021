#!/bin/sh
# What can be said of the kernels' speed without a clock: the implementation is compiled with each compiler found, at -O2
# and -O3, and in the disassembly each kernel must use registers of its path's width, and the matrix products must keep
# their sums in registers: there is a loop with as many multiply-adds as the tile has, and innermost loops with
# multiply-adds have no spills (no vector comes from the stack, nothing is stored there; a loop's bound may be read).
#
#     tests/disassembly.sh [HEADER]     HEADER instead of haste.h; COMPILERS="gcc-12 ..." instead of all that are found
#
# Run by `make disassembly`. Nothing is run: a cross compiler will do for Arm.
set -u
cd "$(dirname "$0")/.." || exit 1
header=${1:-haste.h}
out=${BUILD:-build}/disassembly
mkdir -p "$out"
cp "$header" "$out/haste.h" || exit 1
passed=0
failed=0

# judge FILE PATH: complaints about the kernels of a path in a disassembly, one a line.
judge() {
    awk -v path="$2" '
    BEGIN {
        wide["avx512"] = "%zmm"; wide["avx2"] = "%ymm"; wide["portable"] = "%xmm"; wide["neon"] = "v[0-9]+\\.4s|q[0-9]+"
        # multiply-adds of a whole tile: rows times two vectors
        tile["avx512"] = 16; tile["avx2"] = 8; tile["portable"] = 8; tile["neon"] = 16
        products = " forward predict grad_input grad_weight "
        scalar = " score "                             # one number at a time, by design
        borrowed = " transpose sum_abs project "       # AVX-512 has those of AVX2
        all = " forward predict grad_input grad_weight score transpose split_rows stream bce hinge softmax sumexp" \
              " scan drop_small all_below widen narrow sgd momentum adamw axpy dot dot4 sum_abs project "
        split(all, kernel, " ")
    }
    function name_of(line) { sub(/^[0-9a-f]+ </, "", line); sub(/>:.*/, "", line); return line }
    /^[0-9a-f]+ <.*>:/ { close_function(); current = name_of($0); n = 0; frame = 0; next }
    /^ +[0-9a-f]+:/ {
        n++
        line = $0
        address = line; sub(/^ +/, "", address); sub(/:.*/, "", address)
        sub(/^ +[0-9a-f]+:[ \t]*/, "", line)
        text[n] = line; at[address] = n; addresses[n] = address
        if (line ~ /^mov +%rsp,%rbp/) frame = 1
    }
    END {
        close_function()
        for (k in kernel) if (!(kernel[k] in seen)) print path " " kernel[k] ": not found"
    }
    function close_function(   i, j, t, loops, from, to, inner, fma, stack, width, most, prefix, kernel_name, target,
                            calls) {
        prefix = "haste__" path "_"
        if (current == "" || index(current, prefix) != 1) { clear(); return }
        kernel_name = substr(current, length(prefix) + 1)
        if (index(all, " " kernel_name " ") == 0) { clear(); return }
        seen[kernel_name] = 1
        width = 0
        calls = 0
        for (i = 1; i <= n; i++) {
            if (text[i] ~ wide[path]) width++
            if (text[i] ~ /<(fmaf|sqrtf|fmaf@plt|sqrtf@plt)>/)
                print path " " kernel_name ": calls the library: " text[i]
            if (text[i] ~ /^(call|jmp|b|bl) .*<haste__avx2_/) calls++
        }
        if (path == "avx512" && index(borrowed, " " kernel_name " ")) {
            if (!calls) for (i = 1; i <= n; i++) if (text[i] ~ /%ymm/) calls++
            if (!calls) print path " " kernel_name ": neither %ymm nor a call of the kernel of avx2"
        } else if (!index(scalar, " " kernel_name " ") && width < 2)
            print path " " kernel_name ": no registers of the width of the path"
        if (index(products, " " kernel_name " ")) {
            loops = 0
            for (i = 1; i <= n; i++) {
                if (text[i] !~ /^(j[a-z]+|b\.[a-z]+|b|cbn?z|tbn?z)[ \t]/) continue
                target = text[i]
                sub(/ <.*/, "", target); sub(/.*[ \t,]/, "", target); sub(/^0x/, "", target)
                if (!(target in at) || at[target] > i) continue
                loops++; from[loops] = at[target]; to[loops] = i
            }
            most = 0
            for (j = 1; j <= loops; j++) {
                inner = 1
                for (t = 1; t <= loops; t++)
                    # a loop within it, or one whose body the compiler has moved behind it
                    if (t != j && from[t] >= from[j] && from[t] <= to[j] && (to[t] <= to[j] || from[t] > from[j]))
                        inner = 0
                if (!inner) continue
                fma = 0; stack = ""
                for (i = from[j]; i <= to[j]; i++) {
                    if (text[i] ~ wide[path] && text[i] ~ /^(vfn?m(add|sub)[0-9]*ps|mulps|vmulps|fmla|fmul)/) fma++
                    if (text[i] !~ /\(%[re]sp|\[sp/ && !(frame && text[i] ~ /\(%rbp/)) continue
                    if (text[i] ~ /^(cmp|test)/) continue
                    if (text[i] ~ /%[xyz]mm|^(str|stp|ldr|ldp) +q|,[^,]*\(%r[sb]p[^,]*$/) stack = text[i]
                }
                if (fma > most && stack == "") most = fma
                if (fma >= 2 && stack != "") print path " " kernel_name ": a spill in an inner loop: " stack
            }
            if (most < tile[path])
                print path " " kernel_name ": no loop of " tile[path] " multiply-adds without spills, at most " most
        }
        clear()
    }
    function clear(   i) { for (i = 1; i <= n; i++) delete at[addresses[i]]; n = 0; current = "" }
    ' "$1" | sort | uniq -c | sed 's/^ *\([0-9]*\) /\1 times: /; s/^1 times: //'
}

# try NAME OBJDUMP "PATH ..." COMMAND...: compiles, and judges the paths.
try() {
    name=$1 objdump=$2 paths=$3
    shift 3
    command -v "$1" >/dev/null 2>&1 && command -v "$objdump" >/dev/null 2>&1 || return
    for level in -O2 -O3; do
        if ! (ulimit -c 0; timeout 300 "$@" $level -w -std=c99 -fno-math-errno -DHASTE_IMPLEMENTATION \
              -x c -c "$out/haste.h" -o "$out/$name.o") 2>"$out/log"; then
            echo "$name $level: does not compile"
            tail -n 5 "$out/log"
            failed=$((failed + 1))
            continue
        fi
        "$objdump" -d --no-show-raw-insn "$out/$name.o" >"$out/$name.s"
        for path in $paths; do
            complaints=$(judge "$out/$name.s" "$path")
            if [ -z "$complaints" ]; then passed=$((passed + 1))
            else
                failed=$((failed + 1))
                echo "$name $level:"
                echo "$complaints" | sed 's/^/    /'
            fi
        done
    done
}

x86="gcc-11 gcc-12 gcc-13 gcc-14 clang-14 clang-15 clang-16 clang-17 clang-18 clang-19 clang-20 gcc clang"
for compiler in ${COMPILERS:-$x86}; do
    # gcc and clang alone only where they are no other name of one that was tried
    case $compiler in gcc | clang)
        this=$(readlink -f "$(command -v $compiler 2>/dev/null)")
        for other in $x86; do
            [ $other != $compiler ] && [ "$(readlink -f "$(command -v $other 2>/dev/null)")" = "$this" ] && continue 2
        done ;;
    esac
    case $("$compiler" -dumpmachine 2>/dev/null) in
        x86_64*) try "$compiler" objdump "portable avx2 avx512" "$compiler" ;;
    esac
done
arm=/usr/aarch64-linux-gnu/include
for compiler in ${COMPILERS:-$x86}; do
    case $compiler in clang-*)
        [ -d $arm ] && try "$compiler-aarch64" aarch64-linux-gnu-objdump neon \
                           "$compiler" --target=aarch64-linux-gnu -isystem $arm ;;
    esac
done
[ -n "${COMPILERS-}" ] || try aarch64-linux-gnu-gcc aarch64-linux-gnu-objdump neon aarch64-linux-gnu-gcc

echo "tests: $passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
