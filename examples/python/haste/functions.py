"""What of haste.h needs no layer: lists and sums of shards, grouping, schedules, metrics."""
import ctypes

import numpy

from . import library
from .arrays import aligned, array, integers, lists, offsets, put_lists, put_sparse, sparse, with_offsets
from .layer import SOFTMAX_SUMS
from .library import Error, Structs


# ---- shards ----------------------------------------------------------------------------------------------------------

def softmax_merge(sums, other):
    """haste_softmax_merge: sums (in, out) takes those of another shard."""
    array(sums, "sums", "float64", (None, SOFTMAX_SUMS), written=True)
    array(other, "other", "float64", sums.shape)
    Structs().call("haste_softmax_merge", sums, other, len(sums))


def _found(found, labels):
    """The structs, an array of haste_found in them, and what must stay alive. found: (offset or None, id, score) each."""
    if len(found) != len(labels):
        raise Error(f"labels has {len(labels)} shards, expected {len(found)}")
    s, keep, structs = Structs(), [], b""
    for i, ((offset, id, score), whole) in enumerate(zip(found, labels)):
        s.clear("found")
        if isinstance(whole, range) and whole.step == 1:
            s["found.first"] = whole.start
        else:
            whole = integers(whole, f"labels[{i}]", numpy.int32)
            s["found.map"] = whole
        s["found.labels"] = len(whole)
        s["found.offset"], s["found.id"], s["found.score"] = offset, id, score
        keep.append(whole)
        structs += ctypes.string_at(s.at("found"), s.library.member["found"][2])
    structs = numpy.frombuffer(structs, numpy.uint8)
    memory = aligned(structs.nbytes)
    memory[:] = structs
    return s, memory, keep


def top_k_merge(found, labels):
    """haste_top_k_merge: (id, score) [B, k] of all shards.

    found     [(id, score), ...] of each shard's top_k
    labels    of each shard its labels in the whole: range(first, end), or ascending numbers"""
    shape = numpy.shape(found[0][0]) if len(found) else (0, 0)
    for i, (id, score) in enumerate(found):
        array(id, f"found[{i}].id", "int32", shape if i else (None, None))
        array(score, f"found[{i}].score", "float32", shape)
    s, structs, keep = _found([(None, id, score) for id, score in found], labels)
    id, score = numpy.empty(shape, numpy.int32), numpy.empty(shape, numpy.float32)
    s.call("haste_top_k_merge", structs, len(found), *shape, id, score)
    del keep
    return id, score


def above_merge(found, labels):
    """haste_above_merge: (offset, id, score) of all shards, from [(offset, id, score), ...] of each shard's above."""
    B = len(found[0][0]) - 1 if len(found) else 0
    rows = []
    for i, (offset, id, score) in enumerate(found):
        array(id, f"found[{i}].id", "int32", (None,))
        array(score, f"found[{i}].score", "float32", id.shape)
        rows.append((offsets(offset, f"found[{i}]", B, len(id)), id, score))
    s, structs, keep = _found(rows, labels)
    total = sum(int(offset[B] - offset[0]) for offset, _, _ in rows)
    offset, needed = numpy.zeros(B + 1, numpy.int64), ctypes.c_int64()
    id, score = numpy.empty(total, numpy.int32), numpy.empty(total, numpy.float32)
    s.call("haste_above_merge", structs, len(found), B, offset, id, score, total, ctypes.addressof(needed))
    del keep
    return offset, id, score


# ---- grouping, schedules, metrics ------------------------------------------------------------------------------------

def order_by_frequency(frequency):
    """haste_order_by_frequency: labels, most frequent first, int32 [L]."""
    frequency = integers(frequency, "frequency", numpy.int64)
    order = numpy.empty(len(frequency), numpy.int32)
    Structs().call("haste_order_by_frequency", frequency, len(frequency), order)
    return order


def order_random(order, seed=0):
    """haste_order_random: shuffles int32 [n] in place."""
    array(order, "order", "int32", (None,), written=True)
    Structs().call("haste_order_random", order, len(order), seed)


def embed_sparse(embedding, x, positives, ids=None, *, seed=0, threads=0):
    """haste_embed_sparse: adds (+=) sparse feature vectors, (offset, feature, value) or scipy's csr, to the rows of their
    labels."""
    array(embedding, "embedding", "float32", (None, None), written=True)
    s = Structs()
    rows = sparse(x, "x")
    pair = with_offsets(lists(positives, "positives", len(rows[0]) - 1, ids))
    s.call("haste_embed_sparse", embedding, *embedding.shape, seed, put_sparse(s, rows), len(rows[0]) - 1,
           put_lists(s, "lists", pair), library.threads(threads))


def embed_dense(embedding, x, positives, ids=None, *, threads=0):
    """haste_embed_dense: the same from float32 [B, E]."""
    array(embedding, "embedding", "float32", (None, None), written=True)
    array(x, "x", "float32", (None, embedding.shape[1]))
    s = Structs()
    pair = with_offsets(lists(positives, "positives", len(x), ids))
    s.call("haste_embed_dense", embedding, *embedding.shape, x, len(x), put_lists(s, "lists", pair),
           library.threads(threads))


def embed_finish(embedding):
    """haste_embed_finish: rows of length 1, in place."""
    array(embedding, "embedding", "float32", (None, None), written=True)
    Structs().call("haste_embed_finish", embedding, *embedding.shape)


def group(embedding, order, *, group_size=32, iterations=None, threads=0, seed=0):
    """haste_group: reorders int32 [n] in place, so that each run of group_size labels looks alike. Pass order[H:] to keep
    a head of H labels where it is."""
    array(embedding, "embedding", "float32", (None, None))
    array(order, "order", "int32", (None,), written=True)
    s = Structs()
    s["group.group_size"], s["group.threads"], s["group.seed"] = group_size, library.threads(threads), seed
    if iterations is not None:
        s["group.iterations"] = -1 if iterations == 0 else iterations
    s.call("haste_group", embedding, *embedding.shape, order, len(order), s.at("group"))


def cohesion(embedding, order, *, group_size=32, threads=0, empty=False):
    """haste_cohesion: the mean cosine of labels to the centroid of their group. empty=True: (that, how many of the labels
    have no embedding)."""
    array(embedding, "embedding", "float32", (None, None))
    array(order, "order", "int32", (None,))
    out, without = ctypes.c_double(), ctypes.c_int64()
    Structs().call("haste_cohesion", embedding, *embedding.shape, order, len(order), group_size,
                   library.threads(threads), ctypes.addressof(out), ctypes.addressof(without))
    return (out.value, without.value) if empty else out.value


def has_bf16_dot():
    """haste_has_bf16_dot: whether bf16_dot=True can be had."""
    return bool(library.library().function["haste_has_bf16_dot"]())


def schedule(step, warmup, total, floor=0.):
    """haste_schedule: the learning-rate factor of a step."""
    return library.library().function["haste_schedule"](step, warmup, total, floor)


def rewire_share(step, end, share):
    """haste_rewire_share"""
    return library.library().function["haste_rewire_share"](step, end, share)


def inverse_propensity(frequency, samples, a=0., b=0.):
    """haste_inverse_propensity: float64 [L], from training frequencies and the number of training samples."""
    frequency = integers(frequency, "frequency", numpy.int64)
    out = numpy.empty(len(frequency))
    Structs().call("haste_inverse_propensity", frequency, len(frequency), samples, a, b, out)
    return out


class Metrics:
    """haste_metrics for depth k: add(id, truth) for batches, then get(k)."""

    def __init__(self, k, labels, inverse_propensity=None):
        self._s = Structs()
        self._s.call("haste_metrics_init", self._s.at("metrics"), k)
        self.labels = labels
        self.inverse_propensity = inverse_propensity
        if inverse_propensity is not None:
            array(inverse_propensity, "inverse_propensity", "float64", (labels,))

    samples = property(lambda self: self._s["metrics.samples"])

    def add(self, id, truth, ids=None, *, filter=None):
        """id: int32 [B, k] from top_k; truth, filter: B lists."""
        s = self._s
        array(id, "id", "int32", (None, None))
        B, k = id.shape
        truth = with_offsets(lists(truth, "truth", B, ids))
        filter = None if filter is None else with_offsets(lists(filter, "filter", B))
        s.call("haste_metrics_add", s.at("metrics"), id, B, k, self.labels, put_lists(s, "lists", truth),
               self.inverse_propensity, put_lists(s, "ignored", filter) if filter else None)

    def get(self, k):
        """precision, ndcg, recall, psp, psndcg at k, in percent."""
        self._s.library.function["haste_python_metrics_get"](self._s.base, k)
        return {name: self._s[f"values.{name}"] for name in ("precision", "ndcg", "recall", "psp", "psndcg")}
