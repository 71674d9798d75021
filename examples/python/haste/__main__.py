"""python -m haste [cuda]: compiles the library if need be, and says where it lies and how it was made. With `cuda` the one
that has the functions of haste_cuda.cuh too: nvcc takes minutes."""
import shlex
import sys

from . import library

cuda = sys.argv[1:] == ["cuda"]
loaded = library.library(cuda)
path = loaded.function["haste_path_text"](loaded.function["haste_path_best"]()).decode()
version = loaded.function["haste_version"]()
print(f"haste {version // 10000}.{version // 100 % 100}.{version % 100}, kernels: {path}")
print(f"library: {loaded.path}")
for command in library.commands("libhaste_python.so", cuda=cuda):
    print(f"by hand: {shlex.join(command)}")
print("then:    HASTE_LIBRARY=.../libhaste_python.so")
if cuda:
    try:
        library.Structs(cuda).call("haste_cuda_supported")
        print("device:  one that can run it")
    except library.Error as error:
        print(f"device:  {error}")
