"""A layer and its companions, on numpy arrays. What the functions do stands in haste.h, under the same names."""
import contextlib
import ctypes
import os
import struct
import threading

import numpy

from . import library
from .arrays import aligned, array, choice, count, integers, lists, put_lists, put_sparse, sparse, with_offsets
from .library import Error, Structs

LOSSES = ("bce", "squared_hinge", "softmax")
OPTIMIZERS = ("sgd", "momentum", "adamw")
DTYPES = ("float32", "bfloat16")
PATHS = ("auto", "portable", "avx2", "avx512", "neon")
PURPOSES = ("any", "training", "prediction")
DENSE = -1   # fan_in of a dense block
RETIRED = -1e9   # bias of a label that is out of use, see haste_labels_set
MAX_BLOCKS, MAX_SECTIONS, SOFTMAX_SUMS = 8, 32, 5


# ---- options ---------------------------------------------------------------------------------------------------------

def put_layer_options(s, labels, inputs, blocks=None, *, group_size=0, fan_in=0, order=None, frequency=None, samples=0,
                      loss="bce", optimizer="sgd", dtype="float32", state_dtype="float32", zero_weights=False, threads=0,
                      seed=0):
    """The members of haste_layer_options. Returns the arrays that must stay alive until they have been read."""
    if blocks is None:
        blocks = [{"group_size": group_size, "fan_in": fan_in}]
    elif group_size or fan_in:
        raise Error("group_size and fan_in are said in blocks, where these are given")
    if not 1 <= len(blocks) <= MAX_BLOCKS:
        raise Error(f"{len(blocks)} blocks, expected 1 to {MAX_BLOCKS}")
    s.clear("options")
    s["options.labels"], s["options.inputs"], s["options.block_count"] = labels, inputs, len(blocks)
    for i, block in enumerate(blocks):
        for name, value in block.items():
            s[f"options.block[{i}].{name}"] = value
    s["options.samples"], s["options.seed"] = samples, seed
    s["options.loss"] = choice(loss, "loss", LOSSES)
    s["options.optimizer"] = choice(optimizer, "optimizer", OPTIMIZERS)
    s["options.dtype"] = choice(dtype, "dtype", DTYPES)
    s["options.state_dtype"] = choice(state_dtype, "state_dtype", DTYPES)
    s["options.zero_weights"], s["options.threads"] = bool(zero_weights), library.threads(threads)
    keep = []
    for name, value, width in (("order", order, numpy.int32), ("frequency", frequency, numpy.int64)):
        if value is not None:
            value = integers(value, name, width)
            if len(value) != labels:
                raise Error(f"{name} has {len(value)} numbers, expected labels = {labels}")
            s[f"options.{name}"] = value
            keep.append(value)
    return keep


def plan_bytes(labels, inputs, blocks=None, *, batch=0, ids=0, top_k=0, chunks=0, purpose="any", cuda=False, **options):
    """haste_plan_bytes, or haste_cuda_plan_bytes, which needs nvcc but no device: the bytes that a layer and its companions
    will take, by name."""
    s = Structs(cuda)
    keep = put_layer_options(s, labels, inputs, blocks, **options)
    work = "cuda_work_options" if cuda else "work_options"
    s[f"{work}.batch"], s[f"{work}.ids"], s[f"{work}.top_k"], s[f"{work}.chunks"] = batch, ids, top_k, chunks
    s[f"{work}.purpose"] = choice(purpose, "purpose", PURPOSES)
    if cuda:
        s.call("haste_cuda_plan_bytes", s.at("options"), s.at(work), None, s.at("cuda_plan"))
        names = "layer", "workspace", "pinned", "gradient", "rewire"
    else:
        s.call("haste_plan_bytes", s.at("options"), s.at(work), s.at("plan"))
        names = ("weight", "index", "bias", "state", "order", "layer", "workspace", "gradient", "rewire", "scores",
                 "parameters")
    del keep
    return {name: s[f"{'cuda_' * cuda}plan.{name}"] for name in names}


# ---- the layer -------------------------------------------------------------------------------------------------------

WORK = {"batch": 128, "chunks": 0, "threads": 0, "path": "auto", "bf16_dot": False, "purpose": "any"}   # of the workspace

# Options of a step. Where haste.h gives 0 the meaning of a default, Python says None, or nothing: 0 is 0, or an error.
NONE = ("momentum", "beta1", "beta2")                                        # 0 is said as HASTE_NONE
NOT_ZERO = ("eps", "scale", "logit_scale", "positive_weight", "share")       # 0 cannot be said
LOSS_NUMBERS = ("scale", "logit_scale", "margin", "positive_weight", "smoothing", "negligible", "share")
STEP_NUMBERS = ("lr", "momentum", "beta1", "beta2", "eps", "weight_decay", "clip")


def number(name, value):
    if value == 0 and name in NOT_ZERO:
        raise Error(f"{name} = 0 would mean the default: leave it out")
    return -1 if value == 0 and name in NONE else value


def put_numbers(s, numbers):
    """Options of a step that are numbers."""
    for name, value in numbers.items():
        if name not in LOSS_NUMBERS + STEP_NUMBERS:
            raise TypeError(f"haste has no option {name!r} here")
        if value is not None:
            s[f"step.{'loss.' * (name in LOSS_NUMBERS)}{name}"] = number(name, value)


def put_rates(s, blocks, block_count):
    """Rates of each block."""
    if blocks is None:
        return
    if len(blocks) != block_count:
        raise Error(f"blocks has {len(blocks)} rates, expected one for each of {block_count}, or None")
    for i, rates in enumerate(blocks):
        for name, value in (rates or {}).items():
            s[f"rates[{i}].{name}"] = -1 if value == 0 and name != "frozen" else value
    s["step.block"] = s.at("rates")


def put_rewire(s, share, group_share, prune, scope, growth, uniform):
    """Options of rewiring, but for what is an address."""
    s.clear("rewire")
    s["rewire.share"] = share
    if group_share is not None:
        s["rewire.group_share"] = -1 if group_share == 0 else group_share
    s["rewire.prune"] = choice(prune, "prune", ("magnitude", "saliency"))
    s["rewire.scope"] = choice(scope, "scope", ("block", "group"))
    s["rewire.growth"] = choice(growth, "growth", ("random", "gradient"))
    s["rewire.uniform"] = bool(uniform)


def view(owner, pointer, dtype, shape):
    """An array over C's memory, which its owner keeps alive; None for NULL."""
    if not pointer:
        return None
    size = int(numpy.prod(shape, dtype=numpy.int64)) * numpy.dtype(dtype).itemsize
    memory = (ctypes.c_char * size).from_address(pointer)
    memory.owner = owner
    return numpy.frombuffer(memory, dtype).reshape(shape)


TILE = 32   # samples of a haste_loss_tile, and numbers of its rows
TILE_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def tile_function(function, failed):
    """A loss of the caller's own, for C: `function` as a haste_loss_function. What it raises goes to the list `failed`, and
    NaN to C, which then leaves the group as it was."""
    member = library.library().member
    base = member["tile"][0]

    def call(context, tile):
        tile = {name: struct.unpack(member[f"tile.{name}"][1], ctypes.string_at(
            tile + member[f"tile.{name}"][0] - base, member[f"tile.{name}"][2]))[0]
            for name in ("samples", "labels", "first_sample", "label", "target", "logit", "loss")}
        n, shape = tile["samples"], (tile["labels"], TILE)
        logit, target = (view(None, tile[name], numpy.float32, shape)[:, :n] for name in ("logit", "target"))
        try:
            loss, slope = function(logit, target, view(None, tile["label"], numpy.int32, shape[:1]), tile["first_sample"])
            view(None, tile["loss"], numpy.float32, (n,))[:] += loss
            logit[:] = slope
        except BaseException as error:   # C cannot pass it on
            failed.append(error)
            logit[:] = numpy.nan
    return TILE_FUNCTION(call)


class Described:
    """What a layer says of itself: members of the struct `_at`."""

    labels, inputs, slots, seed, step, rewires = (
        property(lambda self, name=name: self._s[f"{self._at}.{name}"])
        for name in ("labels", "inputs", "slots", "seed", "step", "rewires"))
    loss = property(lambda self: LOSSES[self._s[f"{self._at}.loss"]])
    optimizer = property(lambda self: OPTIMIZERS[self._s[f"{self._at}.optimizer"]])
    dtype = property(lambda self: DTYPES[self._s[f"{self._at}.dtype"]])
    state_dtype = property(lambda self: DTYPES[self._s[f"{self._at}.state_dtype"]])
    batch = property(lambda self: self._work["batch"])
    moment = property(lambda self: (self.step, self.rewires))   # another after each update and each rewiring

    @property
    def blocks(self):
        return [{name: self._s[f"{self._at}.block[{i}].{name}"] for name in
                 ("labels", "group_size", "fan_in", "begin", "end")} for i in range(self._s[f"{self._at}.block_count"])]

    def options(self):
        """What a layer with the same memory is made with."""
        return {"labels": self.labels, "inputs": self.inputs, "blocks": self.blocks, "loss": self.loss,
                "optimizer": self.optimizer, "dtype": self.dtype, "state_dtype": self.state_dtype, "seed": self.seed}

    def __repr__(self):
        blocks = ", ".join("{labels} x {0}".format("dense" if b["fan_in"] == b["end"] - b["begin"] else
                                                   f"{b['fan_in']} (S {b['group_size']})", **b) for b in self.blocks)
        return (f"haste.Layer(labels={self.labels}, inputs={self.inputs}, blocks: {blocks}, {self.loss}, "
                f"{self.optimizer}, {self.dtype}, step={self.step})")

    def _pointer(self, i, name):
        if not 0 <= i < self._s[f"{self._at}.block_count"]:
            raise Error(f"block {i}, expected 0 to {self._s[f'{self._at}.block_count'] - 1}")
        return self._s[f"{self._at}.block[{i}].{name}"]

    def _shape(self, i):
        return tuple(self._s[f"{self._at}.block[{i}].{name}"] for name in ("groups", "fan_in", "group_size"))

    def _nothing_pending(self):
        if self.pending:
            raise Error("gradients are pending, and would be lost: apply them first", "HASTE_ERR_STATE")


class Layer(Described):
    """haste_layer, with its workspace and gradient. Calls on one layer wait for each other; each uses all threads.

    labels, inputs    L, D
    blocks            list of dicts with labels, group_size, fan_in, begin, end: haste_block_options. Without it one
                      block, of group_size and fan_in
    order, frequency, samples, loss, optimizer, dtype, state_dtype, zero_weights, seed: haste_layer_options; enumerations
                      by their names in lower case: "bce", "adamw", "bfloat16"
    batch, chunks, threads, path, bf16_dot, purpose: haste_workspace_options. Training takes larger batches than `batch`
                      (memory grows), predictions work on so many samples at a time
    allocate          a function of a number of bytes that returns an array of so many uint8, aligned to 64 bytes, in
                      which the layer will lie"""

    def __init__(self, labels, inputs, blocks=None, *, allocate=None, **options):
        self._begin(**{name: options.pop(name) for name in WORK if name in options})
        s = self._s
        keep = put_layer_options(s, labels, inputs, blocks, threads=self._work["threads"], **options)
        if allocate is None:
            s.call("haste_layer_create", s.at("layer"), s.at("options"))
        else:
            s.call("haste_plan_bytes", s.at("options"), None, s.at("plan"))
            self._memory = allocate(s["plan.layer"])
            s.call("haste_layer_init", s.at("layer"), s.at("options"), self._memory, self._memory.nbytes)
        del keep

    def _begin(self, **work):
        for name in work:
            if name not in WORK:
                raise TypeError(f"haste has no option {name!r} here")
        work = {**WORK, **work}
        if not 1 <= work["batch"] < 2**31:
            raise Error(f"batch = {work['batch']}, expected a number of samples from 1")
        self._s = Structs()
        self._work = work
        self._lock = threading.RLock()
        self._memory = None     # where the layer lies, if not in memory of its own
        self._read_only = False
        self._failed = []       # what a loss of the caller's own has raised
        self.sections = {}      # of the file it was loaded from
        self.grad_norm = None   # of the last call with grad_norm=True
        self.origin = None      # of the last rewire with origin=True

    @classmethod
    def _empty(cls, **work):
        layer = cls.__new__(cls)
        layer._begin(**work)
        return layer

    def _another(self):
        """An empty layer with the same workspace options."""
        return Layer._empty(**self._work)

    # ---- what it is

    _at = "layer"

    @property
    def path(self):
        with self._lock:
            self._reserve()
            return PATHS[self._s["work.path"]]

    @property
    def nbytes(self):
        return self.plan()["layer"]

    def plan(self):
        return plan_bytes(batch=self.batch, chunks=self._work["chunks"], purpose=self._work["purpose"], **self.options())

    def _view(self, pointer, dtype, shape):
        there = view((self._s, self._memory), pointer, dtype, shape)
        if there is not None and self._read_only:
            there.flags.writeable = False
        return there

    def _written(self):
        if self._read_only:
            raise Error("the layer lies in memory that is read-only: it predicts, and copy() trains", "HASTE_ERR_STATE")

    # Views, no copies: [G, F, S], [G, F], [G, S] of block i. bfloat16 comes as its bits, uint16.
    def weight(self, i=0):
        return self._view(self._pointer(i, "weight"), self._bits(self.dtype), self._shape(i))

    def index(self, i=0):
        return self._view(self._pointer(i, "index"), numpy.uint16, self._shape(i)[:2])

    def bias(self, i=0):
        return self._view(self._pointer(i, "bias"), numpy.float32, self._shape(i)[::2])

    def weight_state(self, i, which):
        return self._view(self._pointer(i, f"weight_state[{which}]"), self._bits(self.state_dtype),
                          self._shape(i))

    def bias_state(self, i, which):
        return self._view(self._pointer(i, f"bias_state[{which}]"), numpy.float32, self._shape(i)[::2])

    @staticmethod
    def _bits(dtype):
        return numpy.float32 if dtype == "float32" else numpy.uint16

    @property
    def label_of(self):
        return self._view(self._s["layer.label_of"], numpy.int32, (self.slots,))

    @property
    def slot_of(self):
        return self._view(self._s["layer.slot_of"], numpy.int32, (self.labels,))

    def check(self):
        self._s.call("haste_layer_check", self._s.at("layer"))

    # ---- its memory: copies, pickles, other places

    def attach(self, memory, options=None, step=0, rewires=0):
        """haste_layer_attach: from now on the layer lies in `memory`, uint8. Without options memory holds this layer,
        moved; with options(), step and rewires of one, any. An error leaves all as it was."""
        array(memory, "memory", "uint8", (None,), written=True)
        s = self._s
        with self._lock:
            if s["layer.memory"] or s["file.memory"]:
                raise Error("a layer in memory of its own does not move: to_memory() copies it, layer_attach makes a layer "
                            "of that", "HASTE_ERR_STATE")
            if options is not None:
                put_layer_options(s, **options)
            s.call("haste_layer_attach", s.at("layer"), s.at("options") if options else None, memory, memory.nbytes)
            if options is not None:
                s["layer.step"], s["layer.rewires"] = step, rewires
                s.library.function["haste_gradient_free"](s.at("gradient"))
            self._memory = memory

    def copy(self, dtype=None, state_dtype=None, optimizer=None):
        """haste_layer_copy."""
        with self._lock:
            to = self._another()
            to._s.call("haste_layer_copy", to._s.at("layer"), self._s.at("layer"),
                       choice(dtype or self.dtype, "dtype", DTYPES),
                       choice(state_dtype or self.state_dtype, "state_dtype", DTYPES),
                       choice(optimizer or self.optimizer, "optimizer", OPTIMIZERS))
            return to

    def to_memory(self):
        """The layer's memory, copied as an array of uint8: with options(), step and rewires it is the layer."""
        with self._lock:
            self._nothing_pending()
            if self._memory is not None:
                return self._memory.copy()
            layer = self if self._s["layer.memory"] and not hasattr(self._s, "of") else self.copy()
            return layer._view(layer._s["layer.memory"], numpy.uint8, (layer._s["layer.bytes"],)).copy()

    def __getstate__(self):
        with self._lock:
            self._nothing_pending()
            return {"work": self._work, "file": self.save_memory(sections=self.sections)}

    def __setstate__(self, state):
        self._begin(**state["work"])
        self._loaded("haste_load_memory", state["file"], state["file"].nbytes, False)

    def __copy__(self):
        self._nothing_pending()
        return self.copy()

    def __deepcopy__(self, memo):
        return self.__copy__()

    # ---- training

    def _reserve(self, B=0, ids=0, k=0):
        """Sees to a workspace of at least that size."""
        s = self._s
        threads = library.threads(self._work["threads"])
        made = s["work.bytes"]
        if made and B <= s["work.batch"] and ids <= s["work.ids"] and k <= s["work.top_k"] and \
                (threads != 1 or s["work.threads"] == 1):
            return
        s.clear("work_options")
        s["work_options.batch"] = max(B, self.batch, s["work.batch"])
        s["work_options.ids"] = max(ids, 64 * self.batch, s["work.ids"])
        s["work_options.top_k"] = max(k, 16, s["work.top_k"])
        s["work_options.chunks"], s["work_options.threads"] = self._work["chunks"], threads
        s["work_options.path"] = choice(self._work["path"], "path", PATHS)
        s["work_options.bf16_dot"] = bool(self._work["bf16_dot"])
        s["work_options.purpose"] = choice(self._work["purpose"], "purpose", PURPOSES)
        s.library.function["haste_workspace_free"](s.at("work"))
        s.clear("work")
        s.call("haste_workspace_create", s.at("work"), s.at("layer"), s.at("work_options"))

    def _x(self, x, name="x"):
        return array(x, name, "float32", (None, self.inputs))

    def _put_step(self, B, positives, ids, grad_x, x, sample_weight=None, positive_value=None, label_weight=None,
                  label_scale=None, label_offset=None, ignored=None, softmax=None, function=None, blocks=None,
                  grad_norm=False, **numbers):
        """Options of a call, and its lists. Returns what must stay alive until it ends."""
        s = self._s
        s.clear("step", "rates", "lists", "ignored")
        positives = lists(positives, "positives", B, ids)
        keep = [positives]
        put_lists(s, "lists", positives)
        put_numbers(s, numbers)
        for name, value, shape in (("sample_weight", sample_weight, (B,)), ("label_weight", label_weight, (self.labels,)),
                                   ("positive_value", positive_value, (len(positives[1]),)),
                                   ("label_scale", label_scale, (self.labels,)),
                                   ("label_offset", label_offset, (self.labels,))):
            if value is not None:
                s[f"step.loss.{name}"] = array(value, name, "float32", shape)
        if function is not None:
            if callable(function):
                keep.append(function if isinstance(function, ctypes._CFuncPtr) else tile_function(function, self._failed))
                function = ctypes.cast(keep[-1], ctypes.c_void_p).value
            s["step.loss.function"] = function
        if softmax is not None:
            s["step.loss.softmax"] = array(softmax, "softmax", "float64", (B, SOFTMAX_SUMS))
        most = count(positives, 0, B)
        if ignored is not None:
            ignored = lists(ignored, "ignored", B)
            keep.append(ignored)
            s["step.loss.ignored"] = put_lists(s, "ignored", ignored)
            most = max(most, count(ignored, 0, B))
        put_rates(s, blocks, s["layer.block_count"])
        if grad_norm:
            s["step.grad_norm"] = s.at("grad_norm")
        if grad_x is not None:
            array(grad_x, "grad_x", "float32", (B, self.inputs), written=True)
            if numpy.may_share_memory(grad_x, x):
                raise Error("grad_x overlaps x")
        self._reserve(B, most)
        return keep

    def _called(self, *arguments):
        """A call that may reach a loss of the caller's own: what that has raised comes first."""
        self._failed.clear()
        try:
            self._s.call(*arguments)
        finally:
            if self._failed:
                raise self._failed.pop(0)

    def train_step(self, x, positives, ids=None, *, grad_x=None, loss=True, **options):
        """haste_train_step. Returns the loss (None with loss=False, which saves its logarithms).

        x           float32 [B, inputs], contiguous
        positives   B lists of labels, see `lists`; or offsets, with ids
        grad_x      float32 [B, inputs] to which the gradient is added (+=)
        options     of haste_step_options and its loss, by name: lr, momentum, weight_decay, clip, scale, sample_weight,
                    negligible, ...; blocks=[None, dict(frozen=1)] are rates of blocks; grad_norm=True leaves the norm in
                    `grad_norm`. None is the default
        function    a loss of one's own: function(logit, target, label, first) is called for tiles of a group's labels by
                    at most 32 samples, from several threads, with float32 [labels, samples] of logits and targets, the
                    labels' ids int32, and the number of the first sample; it returns (the samples' losses, summed over
                    these labels; d loss / d logit [labels, samples]). Or a haste_loss_function: a function of ctypes's, or
                    the address of one that is compiled (numba's cfunc has it), which needs no turn with Python"""
        self._written()
        return self._train("haste_train_step", x, positives, ids, grad_x, loss, options)

    def accumulate(self, x, positives, ids=None, *, grad_x=None, loss=True, gradient=None, **options):
        """haste_accumulate: adds gradients to `gradient`, or, without it, to the layer's own, which `apply` takes.

        gradient    [(weight, bias), ...] of each block, float32 [G, F, S] and [G, S]: (+=)"""
        return self._train("haste_accumulate", x, positives, ids, grad_x, loss, options, gradient)

    def _train(self, function, x, positives, ids, grad_x, loss, options, gradient=None):
        s = self._s
        x = self._x(x)
        B = len(x)
        out = ctypes.c_double()
        with self._lock:
            keep = self._put_step(B, positives, ids, grad_x, x, **options)
            extra = []
            if function == "haste_accumulate":
                own = gradient is None
                extra = [self._own_gradient() if own else self._gradient_over(gradient)]
            try:
                self._called(function, s.at("layer"), s.at("work"), x, B, s.at("lists"), s.at("step"), *extra,
                             ctypes.addressof(out) if loss else None, grad_x)
            finally:
                if extra and not own:
                    s.clear("gradient")
            del keep
            if options.get("grad_norm"):
                self.grad_norm = ctypes.c_double.from_address(s.at("grad_norm")).value
        return out.value if loss else None

    def _own_gradient(self):
        s = self._s
        if not s["gradient.memory"]:
            s.call("haste_gradient_create", s.at("gradient"), s.at("layer"))
        return s.at("gradient")

    def _gradient_over(self, gradient):
        """haste_gradient_init"""
        s, n = self._s, self._s["layer.block_count"]
        if s["gradient.pending"]:
            raise Error("the layer's own gradient is pending: apply it first", "HASTE_ERR_STATE")
        if len(gradient) != n:
            raise Error(f"gradient has {len(gradient)} blocks, expected {n}")
        s.library.function["haste_gradient_free"](s.at("gradient"))
        pointers = (ctypes.c_void_p * n)(), (ctypes.c_void_p * n)()
        for i, pair in enumerate(gradient):
            for to, name, a, shape in zip(pointers, ("weight", "bias"), pair, (self._shape(i), self._shape(i)[::2])):
                to[i] = library.address(array(a, f"gradient[{i}].{name}", "float32", shape, written=True))
        s.call("haste_gradient_init", s.at("gradient"), s.at("layer"), *map(ctypes.addressof, pointers))
        return s.at("gradient")

    @property
    def gradient(self):
        """Views of the layer's own gradient: [(weight, bias), ...] of each block. Who fills it says pending = 1."""
        with self._lock:
            self._own_gradient()
            return [(self._view(self._s[f"gradient.weight[{i}]"], numpy.float32, self._shape(i)),
                     self._view(self._s[f"gradient.bias[{i}]"], numpy.float32, self._shape(i)[::2]))
                    for i in range(self._s["layer.block_count"])]

    @property
    def pending(self):
        return self._s["gradient.pending"]

    @pending.setter
    def pending(self, value):
        self._own_gradient()
        self._s["gradient.pending"], self._s["gradient.rewires"] = value, self.rewires

    def gradient_zero(self):
        with self._lock:
            self._own_gradient()
            self._s.call("haste_gradient_zero", self._s.at("gradient"), self._s.at("layer"))

    def apply(self, **options):
        """haste_apply: one update from what was accumulated. Options as of train_step, but for the loss's."""
        self._written()
        s = self._s
        with self._lock:
            empty = numpy.zeros((0, self.inputs), numpy.float32)
            self._put_step(0, [], None, None, empty, **options)
            s.call("haste_apply", s.at("layer"), s.at("work"), self._own_gradient(), s.at("step"))
            if options.get("grad_norm"):
                self.grad_norm = ctypes.c_double.from_address(s.at("grad_norm")).value

    def evaluate(self, x, positives, ids=None, *, grad_x=None, loss=True, **options):
        """haste_evaluate: the loss, and grad_x (+=), without an update. Options: the loss's."""
        s = self._s
        x = self._x(x)
        out = ctypes.c_double()
        with self._lock:
            keep = self._put_step(len(x), positives, ids, grad_x, x, **options)
            self._called("haste_evaluate", s.at("layer"), s.at("work"), x, len(x), s.at("lists"), s.at("step.loss"),
                         ctypes.addressof(out) if loss else None, grad_x)
            del keep
        return out.value if loss else None

    def softmax_begin(self, x, positives, ids=None, **options):
        """haste_softmax_begin: float64 [B, 5]; softmax_merge adds those of other shards, then softmax=sums."""
        s = self._s
        x = self._x(x)
        sums = numpy.empty((len(x), SOFTMAX_SUMS))
        with self._lock:
            keep = self._put_step(len(x), positives, ids, None, x, **options)
            s.call("haste_softmax_begin", s.at("layer"), s.at("work"), x, len(x), s.at("lists"), s.at("step.loss"), sums)
            del keep
        return sums

    def forward(self, x):
        """haste_forward: logits [B, slots] in slot order: label_of names the label of a slot (-1: padding)."""
        s = self._s
        x = self._x(x)
        logits = numpy.empty((len(x), self.slots), numpy.float32)
        with self._lock:
            self._reserve(len(x))
            s.call("haste_forward", s.at("layer"), s.at("work"), x, len(x), logits)
        return logits

    def backward(self, x, grad_logits, *, grad_x=None, gradient=None):
        """haste_backward: fills `gradient` (=), as of accumulate, or the layer's own, for apply, or, with False, none; and grad_x (+=)."""
        s = self._s
        x = self._x(x)
        array(grad_logits, "grad_logits", "float32", (len(x), self.slots))
        if grad_x is not None:
            array(grad_x, "grad_x", "float32", x.shape, written=True)
        with self._lock:
            self._reserve(len(x))
            to = self._own_gradient() if gradient is None else self._gradient_over(gradient) if gradient else None
            try:
                s.call("haste_backward", s.at("layer"), s.at("work"), x, len(x), grad_logits, to, grad_x)
            finally:
                if gradient:
                    s.clear("gradient")

    def score_inputs(self, scores, x, positives, ids=None, **options):
        """haste_score_inputs: adds what a batch says to InputScores of this layer. Options: the loss's."""
        s = self._s
        x = self._x(x)
        with self._lock:
            keep = self._put_step(len(x), positives, ids, None, x, **options)
            self._called("haste_score_inputs", s.at("layer"), s.at("work"), x, len(x), s.at("lists"), s.at("step.loss"),
                         scores._s.at("scores"))
            del keep

    def rewire(self, share, *, group_share=None, prune="magnitude", scope="block", growth="random", uniform=False, x=None,
               positives=None, ids=None, scores=None, origin=False):
        """haste_rewire. Returns how many places moved. saliency and gradient need a batch, x and positives, or scores,
        InputScores that batches were added to. origin=True leaves in `origin` where rows came from: of each block int32
        [G, F], the row's old place in its group, or -1: it is new."""
        self._written()
        s = self._s
        moved = ctypes.c_int64()
        with self._lock:
            put_rewire(s, share, group_share, prune, scope, growth, uniform)
            s.clear("lists")
            B, pair = 0, None
            if x is None and scores is None and (prune == "saliency" or growth == "gradient"):
                raise Error(f"prune = {prune!r}, growth = {growth!r} needs a batch, x and positives, or scores")
            if scores is not None:
                s["rewire.scores"] = scores._s.at("scores")
            if origin:
                origin = [numpy.empty(self._shape(i)[:2], numpy.int32) for i in range(s["layer.block_count"])]
                for i, rows in enumerate(origin):
                    s[f"rewire.origin[{i}]"] = rows
            if x is not None:
                x = self._x(x)
                B, pair = len(x), lists(positives, "positives", len(x), ids)
                put_lists(s, "lists", pair)
            self._reserve(B, count(pair, 0, B) if pair else 0)
            s.call("haste_rewire", s.at("layer"), s.at("work"), s.at("rewire"), x, B, s.at("lists") if pair else None,
                   ctypes.addressof(moved))
            if origin:
                self.origin = origin
        return moved.value

    # ---- prediction

    def _search(self, x, excluded, only, k=0):
        """Samples first .. first + n - 1, so many at a time, with a workspace and haste_search_options for them."""
        s = self._s
        options = [(name, where, lists(value, name, len(x))) for name, where, value in
                   (("excluded", "lists", excluded), ("only", "only", only)) if value is not None]
        for first in range(0, len(x), self.batch):
            n = min(self.batch, len(x) - first)
            self._reserve(n, max((count(pair, first, n) for _, _, pair in options), default=0), k)
            s.clear("search")
            for name, where, pair in options:
                s[f"search.{name}"] = put_lists(s, where, pair, first)
            yield first, n

    def top_k(self, x, k, excluded=None, only=None):
        """haste_top_k: (id, score), int32 and float32 [B, k]. Any B. excluded, only: B lists of labels, see `lists`: which
        may not be found, and which alone may."""
        s = self._s
        x = self._x(x)
        id = numpy.empty((len(x), max(k, 0)), numpy.int32)
        score = numpy.empty(id.shape, numpy.float32)
        with self._lock:
            for first, n in self._search(x, excluded, only, k):
                s.call("haste_top_k", s.at("layer"), s.at("work"), x[first:], n, k, s.at("search"), id[first:], score[first:])
        return id, score

    def above(self, x, threshold, excluded=None, only=None):
        """haste_above: (offset, id, score), int64 [B + 1], int32 and float32: sample b has
        id[offset[b]:offset[b + 1]], best first. Any B."""
        s = self._s
        x = self._x(x)
        offset = numpy.zeros(len(x) + 1, numpy.int64)
        ids, scores = [numpy.zeros(0, numpy.int32)], [numpy.zeros(0, numpy.float32)]
        needed = ctypes.c_int64()
        with self._lock:
            for first, n in self._search(x, excluded, only):
                at, capacity = numpy.empty(n + 1, numpy.int64), 64 * n
                while True:
                    id, score = numpy.empty(capacity, numpy.int32), numpy.empty(capacity, numpy.float32)
                    try:
                        s.call("haste_above", s.at("layer"), s.at("work"), x[first:], n, threshold, s.at("search"), at, id,
                               score, capacity, ctypes.addressof(needed))
                        break
                    except Error as error:
                        if error.status != "HASTE_ERR_SIZE" or needed.value <= capacity:
                            raise
                        capacity = needed.value
                offset[first + 1:first + n + 1] = offset[first] + at[1:]
                ids.append(id[:needed.value])
                scores.append(score[:needed.value])
        return offset, numpy.concatenate(ids), numpy.concatenate(scores)

    def score(self, x, candidates, ids=None):
        """haste_score: logits of given labels, float32, in the order of the candidates' ids."""
        s = self._s
        x = self._x(x)
        pair = lists(candidates, "candidates", len(x), ids)
        if pair[0] is None:
            pair = with_offsets(pair)
        score = numpy.empty(max(count(pair, 0, len(x)), 0), numpy.float32)
        with self._lock:
            self._reserve()
            s.call("haste_score", s.at("layer"), s.at("work"), x, len(x), put_lists(s, "lists", pair), score)
        return score

    # ---- files

    def save(self, path, *, dtype=None, sections=None):
        """haste_save, with sections {name: bytes}. dtype "bfloat16" rounds, for prediction."""
        self._save("haste_save", [os.fsencode(path)], [], dtype, sections)

    def save_memory(self, *, dtype=None, sections=None):
        """haste_save_memory: the bytes of the file, as uint8."""
        memory, needed = aligned(0), ctypes.c_size_t()
        with self._lock:
            while True:
                try:
                    self._save("haste_save_memory", [memory, memory.nbytes], [ctypes.addressof(needed)], dtype, sections)
                    return memory
                except Error as error:
                    if error.status != "HASTE_ERR_SIZE" or needed.value <= memory.nbytes:
                        raise
                    memory = aligned(needed.value)

    def _save(self, function, to, after, dtype, sections):
        s = self._s
        sections = {name: numpy.frombuffer(data, numpy.uint8) for name, data in (sections or {}).items()}
        if len(sections) > MAX_SECTIONS:
            raise Error(f"{len(sections)} sections, expected at most {MAX_SECTIONS}")
        with self._lock:
            s.clear("section")
            for i, (name, data) in enumerate(sections.items()):
                text = name.encode()
                if len(text) > 23:
                    raise Error(f"section {name!r} has a name of {len(text)} bytes, expected at most 23")
                ctypes.memmove(s.at(f"section[{i}].name"), text, len(text))
                s[f"section[{i}].data"], s[f"section[{i}].bytes"] = data, data.nbytes
            s.call(function, *to, s.at("layer"), choice(dtype or self.dtype, "dtype", DTYPES), s.at("section"),
                   len(sections), *after)

    @classmethod
    def load(cls, path, *, map=False, **work):
        """haste_load. map=True maps the file, to predict. The caller's sections come as `sections`, bytes by name."""
        layer = cls._empty(**work)
        layer._loaded("haste_load", os.fsencode(path), bool(map))
        return layer

    @classmethod
    def load_memory(cls, memory, *, borrow=False, **work):
        """haste_load_memory, of bytes or uint8. borrow=True: the layer lies there, and training writes to it; in memory
        that is read-only (bytes, a memmap of mode "r") it only predicts."""
        layer = cls._empty(**work)
        memory = numpy.frombuffer(memory, numpy.uint8)
        layer._loaded("haste_load_memory", memory, memory.nbytes, bool(borrow))
        if borrow:
            layer._s.file_bytes = memory   # there it lives as long as the layer's views
            layer._read_only = not memory.flags.writeable
        return layer

    def _loaded(self, function, *source):
        s = self._s
        s.call(function, *source, s.at("file"))
        s.library.function["haste_python_file_layer"](s.base)
        for i in range(s["file.section_count"]):
            name = ctypes.string_at(s.at(f"file.section[{i}].name")).decode(errors="replace")
            self.sections[name] = ctypes.string_at(s[f"file.section[{i}].data"] or s.base, s[f"file.section[{i}].bytes"])

    def file_check(self):
        """haste_file_check, of a layer that was loaded."""
        self._s.call("haste_file_check", self._s.at("file"))

    # ---- surgery

    def _ids(self, id):
        """Given labels, one alone, or all: (their array or None, how many)."""
        if id is None:
            return None, self.labels
        if isinstance(id, (int, numpy.integer)):
            id = [id]
        id = integers(id, "id", numpy.int32)
        return id, len(id)

    def labels_get(self, id=None):
        """haste_labels_get: (weight [n, inputs], bias [n]) of given labels, of one, or of all."""
        id, n = self._ids(id)
        weight, bias = numpy.empty((n, self.inputs), numpy.float32), numpy.empty(n, numpy.float32)
        with self._lock:
            self._s.call("haste_labels_get", self._s.at("layer"), id, n, weight, bias)
        return weight, bias

    def labels_get_sparse(self, id=None):
        """haste_labels_get_sparse: the weights as CSR, (offset, column, value). For scipy:
        csr_array((value, column, offset), (n, inputs))."""
        s = self._s
        id, n = self._ids(id)
        offset, needed = numpy.empty(n + 1, numpy.int64), ctypes.c_int64()
        column, value = numpy.empty(0, numpy.int32), numpy.empty(0, numpy.float32)
        with self._lock:
            while True:
                try:
                    s.call("haste_labels_get_sparse", s.at("layer"), id, n, offset, column if len(column) else None,
                           value if len(column) else None, len(column), ctypes.addressof(needed))
                    return offset, column, value
                except Error as error:
                    if error.status != "HASTE_ERR_SIZE" or needed.value <= len(column):
                        raise
                    column, value = numpy.empty(needed.value, numpy.int32), numpy.empty(needed.value, numpy.float32)

    def labels_set(self, id=None, weight=None, **rows):
        """haste_labels_set: writes labels in place. Returns the share of energy that was kept.

        weight    float32 [n, inputs], or sparse rows (offset, column, value)
        rows      scale, bias, frequency, samples: haste_rows"""
        self._written()
        s = self._s
        id, n = self._ids(id)
        kept = ctypes.c_double()
        with self._lock:
            keep = put_rows(s, n, self.inputs, weight, **rows)
            s.call("haste_labels_set", s.at("layer"), id, n, s.at("rows"), ctypes.addressof(kept))
            del keep
        return kept.value

    def choose_inputs(self, id=None, weight=None, *, threads=None, **rows):
        """haste_choose_inputs, of a layer that was not trained: groups get the inputs in which rows of their labels hold
        the most energy. Returns the share of energy that these hold. Arguments as of labels_set."""
        self._written()
        s = self._s
        id, n = self._ids(id)
        kept = ctypes.c_double()
        with self._lock:
            keep = put_rows(s, n, self.inputs, weight, **rows)
            s.call("haste_choose_inputs", s.at("layer"), id, n, s.at("rows"),
                   library.threads(self._work["threads"] if threads is None else threads), ctypes.addressof(kept))
            del keep
        return kept.value

    def labels_add(self, n, weight=None, *, block=None, strongest=False, **rows):
        """haste_labels_add: (a layer with n more labels, the share of energy that was kept). block: the last."""
        s = self._s
        kept = ctypes.c_double()
        to = self._another()
        with self._lock:
            keep = put_rows(s, n, self.inputs, weight, **rows)
            s.call("haste_labels_add", to._s.at("layer"), s.at("layer"), s["layer.block_count"] - 1 if block is None else
                   block, n, s.at("rows"), bool(strongest), ctypes.addressof(kept))
            del keep
        return to, kept.value

    def labels_remove(self, id):
        """haste_labels_remove: (a layer without these labels, map [labels]: new ids, -1 removed)."""
        id, n = self._ids(id)
        map = numpy.empty(self.labels, numpy.int32)
        to = self._another()
        with self._lock:
            self._s.call("haste_labels_remove", to._s.at("layer"), self._s.at("layer"), id, n, map)
        return to, map

    def slice(self, first_slot, end_slot):
        """haste_layer_slice: (a range of whole groups as a layer on this one's memory, int32: the ids of its labels here).
        Who trains one trains the other, but for step and rewires; copy() cuts it loose."""
        s = self._s
        id = numpy.empty(min(max(end_slot - first_slot, 0), self.slots), numpy.int32)
        to = self._another()
        with self._lock:
            to._s.call("haste_layer_slice", to._s.at("layer"), s.at("layer"), first_slot, end_slot, id)
        to._lock, to._read_only = self._lock, self._read_only
        to._s.of = s, self._memory   # they stay as long as the slice's views
        return to, id[:to.labels]


def put_rows(s, n, inputs, weight=None, scale=None, bias=None, frequency=None, samples=0):
    """haste_rows: n of them. Returns what must stay alive until they have been read."""
    s.clear("rows", "sparse")
    keep = []
    if isinstance(weight, numpy.ndarray):
        s["rows.dense"] = array(weight, "weight", "float32", (n, inputs))
    elif weight is not None:
        keep.append(sparse(weight, "weight", n))
        s["rows.sparse"] = put_sparse(s, keep[0])
    if scale is not None:
        if scale == 0:
            raise Error("scale = 0 would mean 1: leave the weights out")
        s["rows.scale"] = scale
    if bias is not None:
        s["rows.bias"] = array(bias, "bias", "float32", (n,))
    if frequency is not None:
        keep.append(integers(frequency, "frequency", numpy.int64))
        if len(keep[-1]) != n:
            raise Error(f"frequency has {len(keep[-1])} numbers, expected {n}")
        s["rows.frequency"] = keep[-1]
    s["rows.samples"] = samples
    return keep


class InputScores:
    """haste_input_scores of a layer, for the groups from first_slot to end_slot, or for all: what each input of x is worth
    to each group. layer.score_inputs(scores, x, positives) adds a batch, layer.rewire(share, growth="gradient",
    scores=scores) uses them up."""

    def __init__(self, layer, first_slot=0, end_slot=0):
        s = self._s = Structs()
        with layer._lock:
            s.call("haste_input_scores_create", s.at("scores"), layer._s.at("layer"), first_slot, end_slot)
            self._shapes = []
            for i, block in enumerate(layer.blocks):
                first, size = layer._s[f"layer.block[{i}].first_slot"], block["group_size"]
                end = first + layer._s[f"layer.block[{i}].groups"] * size
                slots = min(end, s["scores.end_slot"]) - max(first, s["scores.first_slot"])
                self._shapes.append((max(slots, 0) // size, block["end"] - block["begin"]))

    batches = property(lambda self: self._s["scores.batches"])

    def zero(self, layer):
        """haste_input_scores_zero: for the layer as it is now."""
        self._s.call("haste_input_scores_zero", self._s.at("scores"), layer._s.at("layer"))

    @property
    def score(self):
        """Views of the sums, float32 [groups of the range, end - begin] of each block; None: nothing of it can change.
        Those of several machines may be added up in place."""
        return [view(self._s, self._s[f"scores.score[{i}]"], numpy.float32, shape) for i, shape in enumerate(self._shapes)]


def layer_from_rows(labels, inputs, blocks=None, *, weight, bias=None, scale=None, work=None, **options):
    """haste_layer_from_rows: (a sparse layer from a trained dense one, the share of energy that it has).

    weight    float32 [labels, inputs]: that of nn.Linear; or sparse rows, (offset, column, value); bias float32 [labels]"""
    layer = Layer._empty(**(work or {}))
    s = layer._s
    keep = put_layer_options(s, labels, inputs, blocks, **options), put_rows(s, labels, inputs, weight, scale, bias)
    kept = ctypes.c_double()
    s.call("haste_layer_from_rows", s.at("layer"), s.at("options"), s.at("rows"), ctypes.addressof(kept))
    del keep
    return layer, kept.value


def layer_join(layers, ids=None, **work):
    """haste_layer_join: one layer of several, copied, their blocks one after another. ids: of each layer its labels in the
    whole, as slice() gives them; without them the first's stay, and the others follow."""
    layers = list(layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise Error(f"layers[{i}] is a {type(layer).__name__}, expected a haste.Layer")
    if ids is not None:
        ids = [integers(part, f"ids[{i}]", numpy.int32) for i, part in enumerate(ids)]
        if [len(part) for part in ids] != [layer.labels for layer in layers]:
            raise Error(f"ids has {[len(part) for part in ids]} numbers, and the layers "
                        f"{[layer.labels for layer in layers]} labels")
    to = Layer._empty(**(work or (layers[0]._work if layers else {})))
    pointers = ctypes.c_void_p * len(layers)
    with contextlib.ExitStack() as held:
        for lock in sorted({layer._lock for layer in layers}, key=id):   # always in the same order
            held.enter_context(lock)
        parts = pointers(*(layer._s.at("layer") for layer in layers))
        maps = None if ids is None else pointers(*map(library.address, ids))
        to._s.call("haste_layer_join", to._s.at("layer"), ctypes.addressof(parts), len(layers),
                   None if ids is None else ctypes.addressof(maps))
    return to


def layer_attach(memory, options, *, step=0, rewires=0, **work):
    """haste_layer_attach: a layer over memory that holds one, uint8 as of to_memory() and aligned to 64 bytes (aligned()),
    say shared between processes. options, step and rewires are those of the layer that it came from."""
    layer = Layer._empty(**work)
    layer.attach(memory, options, step, rewires)
    return layer
