#!/bin/sh
# haste as a library: what `make lib install` puts there, and what CMake makes of examples/cmake, each with a program that uses it.
# Run by CI; sets as compile.sh. Needs make and cc; pkg-config and cmake are skipped where they are not.
set -u
cd "$(dirname "$0")/.." || exit 1
CC=${CC:-cc}
out=$(mkdir -p "${BUILD:-build}/package" && cd "${BUILD:-build}/package" && pwd) || exit 1
log=$out/log
user=examples/cmake/user/user.c
count=0
failed=0
skipped=0

check() {   # NAME COMMAND: the command succeeds
    count=$((count + 1))
    if sh -ec "$2" >"$log" 2>&1; then return; fi
    failed=$((failed + 1))
    echo "package.sh: $1: failed: $2"
    tail -n 20 "$log" | sed 's/^/    /'
}
skip() { skipped=$((skipped + 1)); echo "package.sh: skipped: $1"; }

rm -rf "$out"/*
check "make lib install" "make lib install NVCC=none BUILD=$out/build PREFIX=$out/usr LIBDIR=$out/usr/lib"
check "the shared library, by hand" "$CC -std=c99 -I$out/usr/include $user -o $out/user -L$out/usr/lib -lhaste -Wl,-rpath,$out/usr/lib; $out/user"
check "the static library, by hand" "$CC -std=c99 -I$out/usr/include $user -o $out/user $out/usr/lib/libhaste.a \$(cat $out/build/lib/openmp) -lm; $out/user"
check "only the API is exported" "! nm -D --defined-only $out/usr/lib/libhaste.so | grep -v ' T haste_[a-z]'"
if command -v pkg-config >/dev/null 2>&1; then
    export PKG_CONFIG_PATH="$out/usr/lib/pkgconfig"
    check "pkg-config" "$CC -std=c99 $user -o $out/user \$(pkg-config --cflags --libs haste) -Wl,-rpath,$out/usr/lib; $out/user"
    check "pkg-config --static" "$CC -std=c99 $user -o $out/user \$(pkg-config --cflags haste) -Wl,-Bstatic -lhaste -Wl,-Bdynamic \$(pkg-config --static --libs haste); $out/user;
        ! ldd $out/user | grep libhaste"
    check "pkg-config knows the version" "pkg-config --atleast-version=0.2 haste; ! pkg-config --atleast-version=99 haste"
else skip "pkg-config"; fi

if command -v cmake >/dev/null 2>&1; then
    project() {   # FOLDER OPTION...: examples/cmake/user, built in it, and run
        echo "cmake -S examples/cmake/user -B $out/$1 -DCMAKE_C_COMPILER=$CC $2; cmake --build $out/$1; $out/$1/user"
    }
    check "find_package" "$(project find -DCMAKE_PREFIX_PATH=$out/usr)"
    check "find_package takes the shared library" "ldd $out/find/user | grep libhaste"
    check "find_package, HASTE_USE_STATIC" "$(project find_static "-DCMAKE_PREFIX_PATH=$out/usr -DHASTE_USE_STATIC=1"); ! ldd $out/find_static/user | grep libhaste"
    check "find_package of another version" "sed 's/haste 0.2/haste 0.9/' examples/cmake/user/CMakeLists.txt >$out/CMakeLists.txt; cp $user $out;
        ! cmake -S $out -B $out/other -DCMAKE_PREFIX_PATH=$out/usr >$out/other.log 2>&1 && grep -F 0.9 $out/other.log"
    check "add_subdirectory" "$(project subdirectory -DHOW=subdirectory)"
    check "FetchContent, shared, without OpenMP" "$(project fetch "-DHOW=fetch -DBUILD_SHARED_LIBS=ON -DHASTE_OPENMP=OFF"); ldd $out/fetch/user | grep libhaste"
    check "cmake --install" "cmake -S examples/cmake -B $out/cmake -DCMAKE_INSTALL_PREFIX=$out/cmake_usr -DCMAKE_BUILD_TYPE=Release; cmake --build $out/cmake;
        cmake --install $out/cmake; $(project find_cmake -DCMAKE_PREFIX_PATH=$out/cmake_usr)"
else skip "cmake"; fi

check "make uninstall" "make uninstall BUILD=$out/build PREFIX=$out/usr LIBDIR=$out/usr/lib; [ -z \"\$(find $out/usr -type f -o -type l)\" ]"
check "a program of its own with the installed header" "make install BUILD=$out/none PREFIX=$out/usr; $CC -std=c99 -O1 -I$out/usr/include examples/minimal.c -o $out/minimal -lm; cd $out; ./minimal"
check "make install of headers alone" "make install BUILD=$out/none PREFIX=$out/usr LIBDIR=$out/usr/lib; [ \"\$(find $out/usr -type f | wc -l)\" = 2 ]"

printf '%-22s %9d checks, %d failed, %d skipped\n' package.sh $count $failed $skipped
[ $failed = 0 ] && [ $count != 0 ]
