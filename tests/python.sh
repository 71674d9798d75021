#!/bin/sh
# The tests of examples/python, with PYTHON (default python3). Sets as compile.sh.
#     sh tests/python.sh            numpy's and torch's; what is not there is skipped
#     sh tests/python.sh need       the same, but without numpy it fails
#     sh tests/python.sh numpy      numpy's alone; torch: torch's alone. They fail without
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
what=${1:-all}
out=${BUILD:-build}/python
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
export HASTE_CACHE="$out/cache" PYTHONDONTWRITEBYTECODE=1 CC="${CC:-cc}" TMPDIR="$out"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"   # threads that spin would wait for each other where others work too
unset HASTE_LIBRARY CFLAGS
failed=0

test_of() {   # PACKAGE NEEDED FILE
    if "$PYTHON" -c "import sys, $1; sys.exit(sys.version_info < (3, 9))" 2>/dev/null; then "$PYTHON" "$3" || failed=1
    elif [ "$2" = yes ]; then echo "python.sh: no $PYTHON of 3.9 with $1"; failed=1
    else echo "python.sh: skipped: no $PYTHON of 3.9 with $1"; fi
}
case $what in all) test_of numpy no tests/test_python.py ;; need | numpy) test_of numpy yes tests/test_python.py ;; esac
case $what in all | need) test_of torch no tests/test_python_torch.py ;; torch) test_of torch yes tests/test_python_torch.py ;; esac
exit $failed
