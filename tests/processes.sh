# What tests/mpi.sh and tests/nccl.sh share: how trainers are started, and checks of what they wrote. `only` is the name of the one part
# that is wanted, or empty. Read before they go to a folder of their own.
MPIRUN=${MPIRUN:-mpirun}
count=0
failed=0
name=
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1   # in a container
export OMPI_MCA_btl_vader_single_copy_mechanism=none               # which a container may forbid
more= ; "$MPIRUN" --version 2>&1 | grep -q 'Open MPI' && more="--oversubscribe --bind-to none"

begin() { name=$1; case $1 in *"$only"*) return 0 ;; esac; return 1; }
ok() {
    count=$((count + 1))
    if "$@" >check.log 2>&1; then return 0; fi
    failed=$((failed + 1))
    echo "${0##*/}: $name: failed: $*"
    for f in check.log out err; do [ -s $f ] && tail -n 8 $f | sed "s/^/    $f: /"; done
    return 1
}
says() { ok grep -Eq -e "$2" "$1"; }
value() { tail -n 1 "$1" | sed "s/.* $2=\([0-9.]*\).*/\1/"; }
# Precision that differs by at most so many points.
as_good() { ok awk "BEGIN { d = $(value "$1" P@1) - $(value "$2" P@1); exit !(d <= $3 && d >= -$3) }"; }
