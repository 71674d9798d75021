"""What callers hand over: numpy arrays that C reads as they lie, or a sentence about why it cannot."""
import itertools

import numpy

from . import library
from .library import Error


def choice(value, name, values):
    """The number of a word."""
    if value not in values:
        raise Error(f"{name} = {value!r}, expected one of {', '.join(values)}")
    return values.index(value)


def array(value, name, dtype, shape, written=False):
    """`value`, if it is what C can read as it lies: never a copy. A size of None in `shape` is any."""
    if not isinstance(value, numpy.ndarray):
        also = "; haste.torch.Layer takes tensors" if type(value).__module__.startswith("torch") else ""
        raise Error(f"{name} is a {type(value).__name__}, expected a numpy array of {dtype}{also}")
    if value.dtype != dtype:
        raise Error(f"{name} holds {value.dtype}, expected {dtype}: {name}.astype(numpy.{dtype})")
    if len(value.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, value.shape)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise Error(f"{name} has shape {value.shape}, expected ({wanted}{',' * (len(shape) == 1)})")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise Error(f"{name} is not contiguous (strides {value.strides}), expected rows one after another: "
                    f"numpy.ascontiguousarray({name})")
    if written and not value.flags.writeable:
        raise Error(f"{name} is read-only, and results go there")
    return value


def integers(value, name, dtype):
    """A 1-D array of int32 or int64, from one of either: copied only where the width differs."""
    value = numpy.asarray(value)
    if value.size == 0:
        return numpy.zeros(0, dtype)
    if value.dtype.kind not in "iu" or value.ndim != 1:
        raise Error(f"{name} holds {value.dtype} in shape {value.shape}, expected one row of int32 or int64")
    limits = numpy.iinfo(dtype)
    if value.dtype.itemsize >= limits.bits // 8 and value.dtype != dtype:
        for i in (int(value.argmin()), int(value.argmax())):
            if not limits.min <= int(value[i]) <= limits.max:
                raise Error(f"{name}[{i}] = {value[i]} does not fit in {limits.bits} bits")
    return numpy.ascontiguousarray(value, dtype)


def offsets(value, name, n, ids):
    """Where n lists begin and end, among so many ids. C checks the numbers of a call, but not that they stay within arrays."""
    value = integers(value, f"{name}.offset", numpy.int64)
    if len(value) != n + 1:
        raise Error(f"{name} has {len(value) - 1} lists, expected B = {n}")
    down = numpy.flatnonzero(value[1:] < value[:-1])
    if len(down):
        b = down[0] + 1
        raise Error(f"{name}.offset[{b}] = {value[b]} is below its predecessor, {value[b - 1]}")
    if value[0] < 0 or value[n] > ids:
        raise Error(f"{name}.offset goes from {value[0]} to {value[n]}, but there are {ids} ids")
    return value


def lists(value, name, B, ids=None):
    """(offset, id) of B lists of labels, given as one of
         offset, ids             CSR, a tuple of two arrays: sample b has ids[offset[b]:offset[b + 1]]
         a matrix of scipy's     csr_matrix or csr_array [B, L], whose stored entries are the labels
         [[3, 17], [], [5]]      a list of lists
         [3, 17, 5]              one label each, -1: none (offset is None then)"""
    if ids is not None or (isinstance(value, tuple) and len(value) == 2):
        offset, ids = value if ids is None else (value, ids)
        if offset is None:
            return lists(numpy.asarray(ids), name, B)
    elif hasattr(value, "indptr"):
        if (value.data == 0).any():
            raise Error(f"{name} stores zeros, which would count as labels: {name}.eliminate_zeros()")
        offset, ids = value.indptr, value.indices
    elif isinstance(value, numpy.ndarray) or (len(value) and isinstance(value[0], (int, numpy.integer))):
        ids = integers(value, f"{name}.id", numpy.int32)
        if len(ids) != B:
            raise Error(f"{name} holds {len(ids)} labels for B = {B} samples, expected one for each")
        return None, ids
    else:
        offset = [0, *itertools.accumulate(len(row) for row in value)]
        ids = [label for row in value for label in row]
    ids = integers(ids, f"{name}.id", numpy.int32)
    return offsets(offset, name, B, len(ids)), ids


def put_lists(s, where, pair, first=0):
    """Lists from sample `first` on to a haste_lists; returns its address."""
    offset, ids = pair
    s[f"{where}.offset"] = None if offset is None else offset[first:]
    s[f"{where}.id"] = ids if offset is not None else ids[first:]
    return s.at(where)


def count(pair, first, n):
    return n if pair[0] is None else int(pair[0][first + n] - pair[0][first])


def sparse(value, name, n=None):
    """(offset, feature, value) of sparse rows, from such a tuple or a csr matrix of scipy's."""
    if hasattr(value, "indptr"):
        value = value.indptr, value.indices, value.data
    offset, feature, number = value
    feature = integers(feature, f"{name}.feature", numpy.int32)
    number = array(number, f"{name}.value", "float32", (len(feature),))
    return offsets(offset, name, len(offset) - 1 if n is None else n, len(feature)), feature, number


def put_sparse(s, rows):
    s["sparse.offset"], s["sparse.feature"], s["sparse.value"] = rows
    return s.at("sparse")


def with_offsets(pair):
    """One label each, as lists: where haste.h wants offsets."""
    offset, ids = pair
    if offset is None:
        offset, ids = numpy.concatenate([[0], numpy.cumsum(ids >= 0)]), ids[ids >= 0]
    return offset.astype(numpy.int64, copy=False), numpy.ascontiguousarray(ids)


def aligned(size):
    """So many uint8, aligned to 64 bytes: numpy promises 16."""
    memory = numpy.empty(size + 64, numpy.uint8)
    return memory[-library.address(memory) % 64:][:size]
