"""haste.h for ctypes: compiled once, and called as it is.

The shared library is shim.c, which includes haste.h. It is compiled at the first use, with $CC or cc, into $HASTE_CACHE,
else the folder `cache` beside this file, else ~/.cache/haste, under a name that is a hash of the sources, the command and
the machine. $HASTE_LIBRARY names a library that was built beforehand instead (`python -m haste` prints the command).

What the functions take is read from the declarations in haste.h, and where members of structs lie is asked of the
library, so nothing of the header is written down here a second time.
"""
import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy

VERSION = 5   # HASTE_PYTHON_VERSION of shim.c
HERE = Path(__file__).resolve().parent


class Error(ValueError):
    """What haste says: its sentence is the text, its status the attribute `status`."""

    def __init__(self, text, status="HASTE_ERR_ARG"):
        super().__init__(text)
        self.status = status

    def __reduce__(self):
        return Error, (str(self), self.status)


STATUS = ("HASTE_OK", "HASTE_ERR_ARG", "HASTE_ERR_SIZE", "HASTE_ERR_MEMORY", "HASTE_ERR_DATA", "HASTE_ERR_NONFINITE",
          "HASTE_ERR_STATE", "HASTE_ERR_FILE", "HASTE_ERR_FORMAT", "HASTE_ERR_DEVICE")


# ---- compiling -------------------------------------------------------------------------------------------------------

def header(cuda=False):
    """haste.h or haste_cuda.cuh: in this folder (installed), or in one above it (copied, or a checkout)."""
    name = "haste_cuda.cuh" if cuda else "haste.h"
    for folder in (HERE, *list(HERE.parents)[:3]):
        if (folder / name).is_file():
            return folder / name
    raise Error(f"{name} is neither in {HERE} nor in the three folders above it: put it beside them")


def flags(openmp=True):
    return [*shlex.split(os.environ.get("CC", "cc")), "-std=c99", "-O3", "-fno-math-errno", "-fPIC",
            "-DHASTE_DLL", *(["-fopenmp"] if openmp else []), *shlex.split(os.environ.get("CFLAGS", ""))]


def nvcc():
    """$NVCC, or nvcc where it is found, or where CUDA puts it."""
    if os.environ.get("NVCC"):
        return shlex.split(os.environ["NVCC"])
    home = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin" / "nvcc"
    return [shutil.which("nvcc") or (str(home) if home.is_file() else "nvcc")]


def architectures():
    """$GPU_ARCH ("sm_80 sm_90a"), or that of the first GPU here, or sm_90a."""
    if os.environ.get("GPU_ARCH"):
        return os.environ["GPU_ARCH"].replace("sm_", "").split()
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True)
        capability = found.stdout.split("\n")[0].strip().replace(".", "") if found.returncode == 0 else ""
    except OSError:
        capability = ""
    return [{"": "90a", "90": "90a"}.get(capability, capability)]


def cuda_flags():
    archs = architectures()
    return [*nvcc(), "-std=c++17", "-O3", "-Xcompiler", "-fPIC", "-DHASTE_DLL",
            "-DHASTE_CUDA_IMPLEMENTATION", *(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs)]


def commands(to, openmp=True, cuda=False):
    """How the library is compiled: shim.c, with haste.h in it, and for CUDA an object of haste_cuda.cuh beside it."""
    include = f"-I{header().parent}"
    if not cuda:
        return [[*flags(openmp), "-shared", include, str(HERE / "shim.c"), "-o", to, "-lm"]]
    return [[*flags(openmp), "-DHASTE_PYTHON_CUDA", include, "-c", str(HERE / "shim.c"), "-o", f"{to}.o"],
            [*cuda_flags(), "-shared", include, "-Xlinker", f"{to}.o", "-x", "cu", str(header(cuda)), "-o", to,
             *(["-lgomp"] if openmp else []), "-lm"]]


def folders():
    """Where the compiled library may lie."""
    if "HASTE_CACHE" in os.environ:
        return [Path(os.environ["HASTE_CACHE"])]
    return [HERE / "cache", Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "haste"]


def writable():
    """The first of them that can be written to."""
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
        except OSError as reason:
            failed = reason
    raise Error(f"no folder for the compiled library can be written to ({failed}): set HASTE_CACHE", "HASTE_ERR_FILE")


def compile_library(cuda=False):
    """The path of the library, compiled unless a cache has it. Processes that start at once wait for the first one
    where the file system has locks, else each compiles for itself; the file appears whole or not at all, by renaming."""
    sources = b"".join(file.read_bytes() for file in (header(), HERE / "shim.c", *([header(cuda)] if cuda else [])))
    what = [flags(), cuda_flags() if cuda else "", sys.platform, platform.machine(), struct.calcsize("P")]
    if any("native" in flag for flag in flags()):   # a folder may be shared by machines
        what.append(platform.node())
    name = f"haste-{'cuda-' * cuda}{hashlib.sha256(sources + repr(what).encode()).hexdigest()[:20]}.so"
    for folder in folders():
        if (folder / name).exists():
            return folder / name
    path = writable() / name
    with open(path.with_suffix(".lock"), "w") as lock:
        try:
            import fcntl
            fcntl.flock(lock, fcntl.LOCK_EX)   # given back when the file is closed, or the process dies
        except (ImportError, OSError):
            pass
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.stem + ".") as folder:
            made = os.path.join(folder, path.name)
            for openmp in (True, False):   # a compiler without OpenMP: one thread
                failed = ""
                for command in commands(made, openmp, cuda):
                    failed = failed or run(command)
                if not failed:
                    break
            else:
                raise Error(failed, "HASTE_ERR_FILE")
            os.replace(made, path)
    return path


def run(command):
    """Runs a compiler. What went wrong, or an empty text."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as reason:
        return (f"haste is compiled at the first use, and that needs a compiler: {reason} (CC names one, NVCC that of CUDA, "
                f"HASTE_LIBRARY a library that was built elsewhere)")
    return f"haste could not be compiled by\n  {shlex.join(command)}\n{done.stderr[-2000:]}" if done.returncode else ""


# ---- loading ---------------------------------------------------------------------------------------------------------

TYPES = {"int": ctypes.c_int, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint64_t": ctypes.c_uint64,
         "size_t": ctypes.c_size_t, "float": ctypes.c_float, "double": ctypes.c_double, "void": None}


def declarations(text):
    """name -> (result, arguments) as ctypes, of the functions that pass no struct by value."""
    found = {}
    types = {**TYPES, **dict.fromkeys(re.findall(r"typedef enum (haste_\w+)", text), ctypes.c_int),
             **dict.fromkeys(re.findall(r"typedef struct \w+ \*(haste_\w+);", text), ctypes.c_void_p)}

    def ctype(words):
        if "char *" in words and words.count("*") == 1:
            return ctypes.c_char_p
        if "*" in words:
            return ctypes.c_void_p
        return types[next(word for word in words.split() if word != "const")]

    for result, name, arguments in re.findall(r"^HASTE_API\s+([\w *]+?)\s*\b(haste_\w+)\(([^;]*)\);", text, re.M):
        try:
            found[name] = (ctype(result), [ctype(argument) for argument in arguments.split(",")
                                           if argument.strip() != "void"])
        except KeyError:   # ..., or a struct by value: shim.c has what is needed of those
            pass
    return found


class Library:
    """The loaded library: its functions, and the members of shim.c's struct: name -> (offset, format)."""

    def __init__(self, cuda=False):
        prebuilt = os.environ.get("HASTE_LIBRARY")
        self.path = Path(prebuilt) if prebuilt else compile_library(cuda)
        try:
            self.dll = ctypes.CDLL(str(self.path))
            version = self.dll.haste_python_version()
        except (OSError, AttributeError) as reason:
            raise Error(f"{self.path} is not a library of shim.c: {reason}", "HASTE_ERR_FILE")
        if version != VERSION:
            raise Error(f"{self.path} was built from version {version} of shim.c, this package needs {VERSION}",
                        "HASTE_ERR_FILE")
        text = header().read_text(encoding="utf-8")
        major, minor, patch = (int(re.search(rf"#define HASTE_VERSION_{part} (\d+)", text)[1])
                               for part in ("MAJOR", "MINOR", "PATCH"))
        if self.dll.haste_version() != major * 10000 + minor * 100 + patch:
            raise Error(f"{self.path} has version {self.dll.haste_version()} of haste, the header {header()} is another",
                        "HASTE_ERR_FILE")
        self.function = {}
        text += (HERE / "shim.c").read_text(encoding="utf-8") + (header(cuda).read_text(encoding="utf-8") if cuda else "")
        if cuda and not hasattr(self.dll, "haste_cuda_supported"):
            raise Error(f"{self.path} was built without CUDA: python -m haste cuda says how it is built with it", "HASTE_ERR_DEVICE")
        for name, (result, arguments) in declarations(text).items():
            function = getattr(self.dll, name)
            function.restype, function.argtypes = result, arguments
            self.function[name] = function
        self.size = self.function["haste_python_size"]()
        self.member = self._members()

    def _members(self):
        members = {}
        scratch = ctypes.create_string_buffer(self.size)
        name, offset, size = ctypes.c_char_p(), ctypes.c_int64(), ctypes.c_int64()
        ask = self.function["haste_python_member"]
        while True:
            kind = chr(ask(len(members), ctypes.addressof(scratch), ctypes.addressof(name), ctypes.addressof(offset),
                           ctypes.addressof(size)))
            if kind == "\0":
                return members
            letter = {"i": {4: "i", 8: "q"}, "u": {4: "I", 8: "Q"}, "f": {4: "f", 8: "d"}}.get(kind, {})
            members[name.value.decode()] = (offset.value, letter.get(size.value, "P"), size.value, kind)


_loaded = {}


def library(cuda=False):
    if cuda not in _loaded:
        _loaded[cuda] = Library(cuda)
    return _loaded[cuda]


# ---- threads after fork ----------------------------------------------------------------------------------------------

# GCC's OpenMP hangs in a forked child of a process that has used several threads, here or in torch. Such a child works with
# one; the numbers are the same.
_used_threads = False
_forked = False


def _after_fork():
    global _forked
    _forked = _forked or _used_threads or "torch" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def threads(wanted=0):
    """How many threads a call may be told to use: 0 as many as OpenMP would."""
    global _used_threads
    if _forked:
        return 1
    if wanted != 1:
        _used_threads = True
    return wanted


# ---- structs ---------------------------------------------------------------------------------------------------------

def address(array):
    """Of a numpy array; of None 0; addresses stay what they are. Whoever passes it keeps the array alive."""
    if isinstance(array, numpy.ndarray):
        return array.__array_interface__["data"][0]
    return array or 0


class Structs:
    """The structs of one layer, in C: `s["step.lr"] = .01`, and s.call("haste_train_step", s.at("layer"), ...)."""

    FREE = (("haste_gradient_free", "gradient"), ("haste_input_scores_free", "scores"), ("haste_workspace_free", "work"),
            ("haste_layer_free", "layer"), ("haste_file_free", "file"))
    FREE_CUDA = (("haste_cuda_workspace_free", "cuda_work"), ("haste_cuda_layer_free", "cuda_layer"))

    def __init__(self, cuda=False):
        self.library = library(cuda)
        self.memory = ctypes.create_string_buffer(self.library.size)
        self.base = ctypes.addressof(self.memory)
        self.free = (self.FREE_CUDA if cuda else ()) + self.FREE

    def __del__(self):
        for function, member in getattr(self, "free", ()):
            self.library.function[function](self.at(member))

    def at(self, name):
        """The address of a struct or array."""
        return self.base + self.library.member[name][0]

    def clear(self, *names):
        for name in names:
            offset, _, size, _ = self.library.member[name]
            ctypes.memset(self.base + offset, 0, size)

    def __getitem__(self, name):
        offset, letter, _, _ = self.library.member[name]
        return struct.unpack_from(letter, self.memory, offset)[0]

    def __setitem__(self, name, value):
        try:
            offset, letter, size, kind = self.library.member[name]
        except KeyError:
            raise TypeError(f"haste has no {name.rsplit('.', 1)[-1]}") from None
        try:
            struct.pack_into(letter, self.memory, offset, address(value) if kind == "p" else value)
        except (struct.error, OverflowError, TypeError):
            kind = {"f": "floating-point number"}.get(kind, "integer") + f" of {8 * size} bits"
            raise Error(f"{name.rsplit('.', 1)[-1]} = {value!r}, expected {'an' if kind[0] == 'i' else 'a'} {kind}") from None

    def call(self, name, *arguments):
        """Calls a function that returns a status, with `error` as its last argument. Arrays pass their address."""
        function = self.library.function[name]
        arguments = [address(a) if kind is ctypes.c_void_p else a for a, kind in zip(arguments, function.argtypes)]
        for value, kind in zip(arguments, function.argtypes):   # ctypes would cut it to 32 bits without a word
            if kind is ctypes.c_int and not -2**31 <= value < 2**31:
                raise Error(f"{value} does not fit in 32 bits")
        status = function(*arguments, self.at("error"))
        if status:
            text = ctypes.string_at(self.at("error.text")).decode(errors="replace")
            raise Error(text or self.library.function["haste_status_text"](status).decode(), STATUS[status])
