"""A layer on an NVIDIA GPU, on torch's tensors, with memory from torch's allocator, on torch's current stream: haste_cuda.cuh, as
layer.py is haste.h. haste.torch.Layer with device="cuda" is made of it; by itself:

    layer = haste.cuda.Layer(labels=670091, inputs=768, optimizer="adamw", frequency=frequency, samples=N)
    loss = layer.train_step(x, offsets, ids, lr=.007, grad_x=grad_x)       # a tensor: nothing has waited
    layer.check()                                                          # waits; raises what the device has noticed
"""
import ctypes
import threading

import numpy
import torch

from . import layer as plain
from .arrays import choice, lists, with_offsets
from .library import Error, Structs

PATHS = ("auto", "general", "wide", "narrow")
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}   # haste_cuda_type
WORK = {"batch": 128, "chunks": 0, "deterministic": False, "purpose": "any", "capturable": False}   # all but the last: of the workspace
FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parts(value, ids=None):
    """Lists of labels as (offset or rows, ids or None), with sparse CSR tensors taken apart."""
    if isinstance(value, torch.Tensor) and value.layout == torch.sparse_csr:
        return value.crow_indices(), value.col_indices()
    return value if isinstance(value, tuple) and len(value) == 2 and ids is None else (value, ids)


def host_array(value):
    """Tensors of the host as the numpy arrays that share their memory."""
    return value.detach().contiguous().numpy() if isinstance(value, torch.Tensor) else value


def device_ids(value, name, dtype, device, size=None):
    """A row of integers on the device. What does not fit becomes -1 or the largest number, a bad id."""
    if isinstance(value, torch.Tensor) and value.device != device:
        raise Error(f"{name} is on {value.device}, and the layer on {device}", "HASTE_ERR_DEVICE")
    if not isinstance(value, torch.Tensor) or value.dim() != 1 or value.dtype not in (torch.int32, torch.int64):
        what = f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise Error(f"{name} is {what}, expected a tensor of int32 or int64 in one row")
    if size is not None and len(value) != size:
        raise Error(f"{name} has {len(value)} numbers, expected {size}")
    value = value.detach()
    if dtype == torch.int32 and value.dtype == torch.int64:
        value = value.clamp(-1, 2**31 - 1)
    return value.to(dtype).contiguous()


class Lists:
    """B lists of labels: where all lies on the device, there, and haste_cuda_check finds what is wrong; else on the host, checked."""

    def __init__(self, device, value, name, B, ids=None):
        value, ids = parts(value, ids)
        self.on_host = not any(isinstance(part, torch.Tensor) and part.is_cuda for part in (value, ids))
        if self.on_host:
            if isinstance(value, list) and any(isinstance(row, torch.Tensor) and row.dim() for row in value):
                value = [host_array(row.cpu()) if isinstance(row, torch.Tensor) else row for row in value]
            self.offset, self.id = with_offsets(lists(host_array(value), name, B, host_array(ids)))
        elif ids is None:   # one label each; -1: none
            id = device_ids(value, name, torch.int32, device, B)
            none = id < 0
            self.offset = torch.cat([torch.zeros(1, dtype=torch.int64, device=id.device), (~none).cumsum(0)])
            self.id = id[none.to(torch.uint8).argsort(stable=True)]
        else:
            value, ids = (part if isinstance(part, torch.Tensor) and part.is_cuda else torch.as_tensor(part, device=device)
                          for part in (value, ids))
            offset = device_ids(value, f"{name}.offset", torch.int64, device, B + 1)
            self.id = device_ids(ids, f"{name}.id", torch.int32, device)
            self.offset = offset.masked_fill((offset < 0) | (offset > len(self.id)), -1)   # which the device takes for an error
        if len(self.id) == 0:   # the address must be one
            self.id = torch.zeros(1, dtype=torch.int32, device=self.offset.device) if not self.on_host else numpy.zeros(1, numpy.int32)

    @classmethod
    def of(cls, device, value, name, B, ids=None):
        return value if isinstance(value, cls) else cls(device, value, name, B, ids)

    def count(self, first=0, n=None):
        """The most ids that samples first .. first + n - 1 can have; all of those that lie on the device: to ask it would be to wait."""
        last = len(self.offset) - 1 if n is None else first + n
        return int(self.offset[last] - self.offset[first]) if self.on_host else len(self.id)

    def put(self, s, where, first=0):
        """Lists from sample `first` on to a haste_cuda_lists; returns its address."""
        s[f"{where}.offset"] = self.offset[first:] if self.on_host else self.offset.data_ptr() + 8 * first
        s[f"{where}.id"] = self.id if self.on_host else self.id.data_ptr()
        s[f"{where}.on_host"] = self.on_host
        return s.at(where)


class Layer(plain.Described):
    """haste_cuda_layer, with its workspace and gradient. Calls return before the device is done; losses and results are tensors.

    labels, inputs, blocks, order, frequency, samples, loss, optimizer, dtype, state_dtype, zero_weights, seed
                      as of haste.Layer; the default dtype is bfloat16, which the fast kernels are for
    device            "cuda", "cuda:1", ...
    path              "auto", "general", "wide", "narrow", or one of each block: haste_cuda_options
    batch             the B that kernels are chosen for. Training takes larger ones (memory grows), predictions work on so many
                      samples at a time
    chunks, deterministic, purpose: haste_cuda_workspace_options
    capturable        training may be captured in CUDA graphs: the number of steps is kept on the device, where `step` waits for it
    The layer lies in `memory`, a tensor. Where it is used on other streams than the one it was made on, wait for these before it goes."""

    _at = "cuda_layer"

    def __init__(self, labels, inputs, blocks=None, *, device="cuda", path="auto", dtype="bfloat16", **options):
        self._begin(device, path, **{name: options.pop(name) for name in WORK if name in options})
        s = self._s
        keep = plain.put_layer_options(s, labels, inputs, blocks, dtype=dtype, **options)
        self.memory = self._place()
        self._call("haste_cuda_layer_create", s.at("cuda_layer"), s.at("options"), s.at("cuda_options"), self._stream())
        del keep

    def _begin(self, device, path, **work):
        for name in work:
            if name not in WORK:
                raise TypeError(f"haste has no option {name!r} here")
        self._work = {**WORK, **work}
        if not 1 <= self._work["batch"] < 2**31:
            raise Error(f"batch = {self._work['batch']}, expected a number of samples from 1")
        if not torch.cuda.is_available():
            raise Error(f"device = {str(device)!r}, and torch finds no GPU", "HASTE_ERR_DEVICE")
        device = torch.device(device)
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._s = Structs(cuda=True)
        self._path, self._lock = path, threading.RLock()
        self.memory = self._scratch = self._gradient = self.origin = None
        self._captured, self._noticed = [], None   # workspaces that graphs use; an error that check() has still to raise
        self._step = torch.zeros((), dtype=torch.int64, device=self.device) if self._work["capturable"] else None

    def _place(self):
        """Memory for the layer that s["options"] describes, that of now if it is as large."""
        s = self._s
        block_count = s["options.block_count"]
        each = [self._path] * block_count if isinstance(self._path, str) else self._path
        if len(each) != block_count:
            raise Error(f"path has {len(each)} names, expected one for each of {block_count} blocks")
        s.clear("cuda_options")
        s["cuda_options.batch"] = self.batch
        for i, path in enumerate(each):
            s[f"cuda_options.path[{i}]"] = choice(path, "path", PATHS)
        self._call("haste_cuda_plan_bytes", s.at("options"), None, s.at("cuda_options"), s.at("cuda_plan"))
        size = s["cuda_plan.layer"]
        same = self.memory is not None and len(self.memory) == size
        memory = self.memory if same else torch.empty(size, dtype=torch.uint8, device=self.device)
        s["cuda_options.memory"], s["cuda_options.bytes"] = memory.data_ptr(), size
        return memory

    def _call(self, name, *arguments):
        with torch.cuda.device(self.device):
            self._s.call(name, *arguments)

    def _stream(self):
        return torch.cuda.current_stream(self.device).cuda_stream

    # ---- to the host and back

    @classmethod
    def from_host(cls, host, *, device="cuda", path="auto", **work):
        """haste_cuda_upload: a haste.Layer on the device."""
        layer = cls.__new__(cls)
        layer._begin(device, path, **work)
        layer.upload(host)
        return layer

    def upload(self, host):
        """haste_cuda_upload, in place of what this layer was."""
        s = self._s
        with self._lock, host._lock:
            plain.put_layer_options(s, **host.options())
            memory = self._place()
            self._call("haste_cuda_upload", s.at("cuda_layer"), host._s.at("layer"), s.at("cuda_options"), self._stream())
            self._free_work()   # made for the layer of before
            self.memory, self._gradient = memory, None
            if self._step is not None:
                self._step.fill_(s["cuda_layer.step"])
            s.clear("cuda_gradient")

    def host(self):
        """haste_cuda_download: a copy as a haste.Layer on the CPU, for files, surgery and all that is not here."""
        with self._lock:
            self._nothing_pending()
            to = plain.Layer(**self.options(), zero_weights=True)
            self._call("haste_cuda_download", self._s.at("cuda_layer"), to._s.at("layer"), self._stream())
            to._s["layer.step"] = self.step
            return to

    # ---- what it is: views, no copies

    @property
    def step(self):
        """Steps made."""
        return self._s["cuda_layer.step"] if self._step is None else int(self._step)

    @property
    def moment(self):
        """What is another after each update that Python has asked for, and each rewiring."""
        return self._s["cuda_layer.step"], self.rewires

    @property
    def path(self):
        """The kernels that train each block: haste_cuda_path_of."""
        return [PATHS[self._s[f"cuda_layer.path[{i}]"]] for i in range(len(self.blocks))]

    @property
    def nbytes(self):
        return len(self.memory)

    def _tensor(self, pointer, dtype, shape):
        if not pointer:
            return None
        first, size = pointer - self.memory.data_ptr(), dtype.itemsize
        for n in shape:
            size *= n
        return self.memory[first:first + size].view(dtype).view(shape)

    def weight(self, i=0):
        """[G, F, S], where the path is general: the others have orders of their own, and host() has the plain one."""
        pointer = self._pointer(i, "weight")
        if self.path[i] != "general":
            raise Error(f"block {i} is {self.path[i]}, with an order of its own: host().weight({i}), or path=\"general\"")
        return self._tensor(pointer, FLOATS[self.dtype], self._shape(i))

    def index(self, i=0):
        return self._tensor(self._pointer(i, "index"), torch.uint16, self._shape(i)[:2])

    def bias(self, i=0):
        return self._tensor(self._pointer(i, "bias"), torch.float32, self._shape(i)[::2])

    @property
    def label_of(self):
        return self._tensor(self._s["cuda_layer.label_of"], torch.int32, (self.slots,))

    @property
    def slot_of(self):
        return self._tensor(self._s["cuda_layer.slot_of"], torch.int32, (self.labels,))

    # ---- calls

    def _free_work(self):
        """Gives the workspace back, when the device is done with it."""
        if self._scratch is not None:
            try:   # which waits; what the device has noticed is raised by check()
                self._call("haste_cuda_check", self._s.at("cuda_work"), self._stream())
            except Error as error:
                self._noticed = self._noticed or error
            with torch.cuda.device(self.device):
                self._s.library.function["haste_cuda_workspace_free"](self._s.at("cuda_work"))
            self._scratch = None
        self._s.clear("cuda_work")

    def _reserve(self, B=0, ids=0, k=0):
        """Sees to a workspace of at least that size."""
        s = self._s
        capturing = self.capturing()
        if self._scratch is not None and B <= s["cuda_work.batch"] and ids <= s["cuda_work.ids"] and k <= s["cuda_work.top_k"]:
            if capturing and not any(kept is self._scratch for kept in self._captured):
                self._captured.append(self._scratch)   # replays write there when the layer may have another
            return
        if capturing:
            raise Error("a graph is being captured, and the call needs a larger workspace: make the same call once before",
                        "HASTE_ERR_STATE")
        s.clear("cuda_work_options")
        s["cuda_work_options.batch"] = max(B, self.batch, s["cuda_work.batch"])
        s["cuda_work_options.ids"] = max(ids, 64 * s["cuda_work_options.batch"], s["cuda_work.ids"])
        s["cuda_work_options.top_k"] = max(k, 16, s["cuda_work.top_k"])
        s["cuda_work_options.deterministic"], s["cuda_work_options.chunks"] = bool(self._work["deterministic"]), self._work["chunks"]
        s["cuda_work_options.purpose"] = choice(self._work["purpose"], "purpose", plain.PURPOSES)
        plain.put_layer_options(s, **self.options())
        self._call("haste_cuda_plan_bytes", s.at("options"), s.at("cuda_work_options"), s.at("cuda_options"), s.at("cuda_plan"))
        self._free_work()
        scratch = torch.empty(s["cuda_plan.workspace"], dtype=torch.uint8, device=self.device)
        s["cuda_work_options.memory"], s["cuda_work_options.bytes"] = scratch.data_ptr(), len(scratch)
        self._call("haste_cuda_workspace_create", s.at("cuda_work"), s.at("cuda_layer"), s.at("cuda_work_options"))
        self._scratch = scratch

    def _array(self, value, name, shape, types):
        """A tensor that the device can read as it lies, copied only where its rows are not one after another."""
        if not isinstance(value, torch.Tensor):
            raise Error(f"{name} is a {type(value).__name__}, expected a tensor on {self.device}")
        if value.device != self.device:
            raise Error(f"{name} is on {value.device}, and the layer on {self.device}", "HASTE_ERR_DEVICE")
        if value.dtype not in types:
            raise Error(f"{name} holds {value.dtype}, expected {' or '.join(map(str, types))}")
        if len(value.shape) != len(shape) or any(want not in (None, got) for want, got in zip(shape, value.shape)):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise Error(f"{name} has shape {tuple(value.shape)}, expected ({wanted}{',' * (len(shape) == 1)})")
        return value.detach().contiguous()

    def _x(self, x):
        """x, and how it is passed"""
        x = self._array(x, "x", (None, self.inputs), TYPES)
        return x, (x.data_ptr(), TYPES[x.dtype], len(x))

    def _grad_x(self, grad_x, B):
        if grad_x is None:
            return None, 0
        self._array(grad_x, "grad_x", (B, self.inputs), (torch.float32, torch.bfloat16))
        if not grad_x.is_contiguous():
            raise Error("grad_x is not contiguous, and the gradient is added there")
        return grad_x.data_ptr(), TYPES[grad_x.dtype]

    def _put_step(self, B, positives, ids, blocks=None, grad_norm=False, **options):
        """Options of a call, and its lists. Returns what must stay alive until it ends."""
        s = self._s
        s.clear("step", "rates", "cuda_lists")
        positives = Lists.of(self.device, positives, "positives", B, ids)
        positives.put(s, "cuda_lists")
        keep = [positives]
        for name in ("positive_value", "ignored", "function", "softmax"):
            if options.pop(name, None) is not None:
                raise Error(f"{name} is not on the GPU yet: haste.Layer on the CPU has it")
        if grad_norm:
            raise Error("grad_norm is not on the GPU yet: haste.Layer on the CPU has it")
        for name, shape in (("sample_weight", B), ("label_weight", self.labels), ("label_scale", self.labels),
                            ("label_offset", self.labels)):
            value = options.pop(name, None)
            if value is not None:
                keep.append(self._array(value, name, (shape,), (torch.float32,)))
                s[f"step.loss.{name}"] = keep[-1].data_ptr()
        live = {"step": self._step}
        for name in ("lr", "scale", "skip"):   # numbers on the device are read there, when the step runs
            if isinstance(options.get(name), torch.Tensor) or name == "skip":
                live[name] = self._on_device(options.pop(name, None), name)
                if name != "skip":
                    options[name] = 1
        plain.put_numbers(s, options)
        plain.put_rates(s, blocks, s["cuda_layer.block_count"])
        self._reserve(B, positives.count())
        for name in ("lr", "scale", "skip", "step"):
            s[f"cuda_work.live.{name}"] = None if live.get(name) is None else live[name].data_ptr()
        return [*keep, live]

    def _on_device(self, value, name):
        """A number that lies on the device, as float32; None: there is none."""
        if value is None:
            return None
        if not isinstance(value, torch.Tensor) or value.device != self.device or value.numel() != 1:
            what = f"{list(value.shape)} on {value.device}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise Error(f"{name} is {what}, expected a tensor of one number on {self.device}")
        return value.detach().to(torch.float32)

    def check(self):
        """haste_cuda_check: waits for the stream, and raises what the device has noticed since the last check: bad ids, numbers that
        are not finite. Where it raises, all else was done."""
        with self._lock:
            noticed, self._noticed = self._noticed, None
            if noticed is not None:
                raise noticed
            if self._scratch is not None:
                self._call("haste_cuda_check", self._s.at("cuda_work"), self._stream())

    def capturing(self):
        """Is torch's current stream being captured into a graph?"""
        with torch.cuda.device(self.device):
            return torch.cuda.is_current_stream_capturing()

    # ---- training

    def train_step(self, x, positives, ids=None, *, grad_x=None, loss=True, **options):
        """haste_cuda_train_step. Returns the loss, a float64 tensor without dimensions (None with loss=False).

        x           [B, inputs], float32, bfloat16 or float16
        positives   B lists of labels: offsets and ids, or one label each, as tensors on the device; else as of haste.Layer
        grad_x      [B, inputs], float32 or bfloat16, to which the gradient is added (+=)
        options     as of haste.Layer, arrays as float32 tensors on the device; lr and scale may be tensors of one number there, which
                    are read when the step runs, and in each replay of a graph; skip: one that leaves the step out where it is not 0"""
        return self._train("haste_cuda_train_step", x, positives, ids, grad_x, loss, options)

    def evaluate(self, x, positives, ids=None, *, grad_x=None, loss=True, **options):
        """haste_cuda_evaluate: the loss, and grad_x (+=), without an update."""
        return self._train("haste_cuda_evaluate", x, positives, ids, grad_x, loss, options)

    def accumulate(self, x, positives, ids=None, *, grad_x=None, loss=True, gradient=None, **options):
        """haste_cuda_accumulate: adds gradients to `gradient`, or, without it, to the layer's own, which `apply` takes.

        gradient    [(weight, bias), ...] of each block, float32 [G, F, S] and [G, S]: (+=)"""
        return self._train("haste_cuda_accumulate", x, positives, ids, grad_x, loss, options, gradient)

    def _train(self, function, x, positives, ids, grad_x, loss, options, gradient=None):
        s = self._s
        with self._lock:
            if function == "haste_cuda_train_step":
                self._may_capture()
            x, (pointer, kind, B) = self._x(x)
            to_x = self._grad_x(grad_x, B)
            out = torch.zeros((), dtype=torch.float64, device=self.device) if loss else None
            keep = self._put_step(B, positives, ids, **options)
            extra, own = [], gradient is None
            if function == "haste_cuda_accumulate":
                extra = [self._own_gradient() if own else self._gradient_over(gradient)]
            try:
                self._call(function, s.at("cuda_layer"), s.at("cuda_work"), pointer, kind, B, s.at("cuda_lists"),
                           s.at("step.loss" if function == "haste_cuda_evaluate" else "step"), *extra,
                           out.data_ptr() if loss else None, *to_x, self._stream())
            finally:
                if not own:
                    s.clear("cuda_gradient")
            self._counted(function == "haste_cuda_train_step")
            del keep
        return out

    def _may_capture(self):
        if self._step is None and self.capturing():
            raise Error("a graph is being captured, and replays would repeat this step's number, by which Adam and rounding go: make the "
                        "layer with capturable=True", "HASTE_ERR_STATE")

    def _counted(self, updates):
        if self._step is not None:   # the device counts: here only for `moment`
            self._s["cuda_layer.step"] += updates

    def _gradient_over(self, gradient):
        """haste_cuda_gradient_init"""
        s, n = self._s, self._s["cuda_layer.block_count"]
        if self.pending:
            raise Error("the layer's own gradient is pending: apply it first", "HASTE_ERR_STATE")
        if len(gradient) != n:
            raise Error(f"gradient has {len(gradient)} blocks, expected {n}")
        pointers = (ctypes.c_void_p * n)(), (ctypes.c_void_p * n)()
        for i, pair in enumerate(gradient):
            for to, name, a, shape in zip(pointers, ("weight", "bias"), pair, (self._shape(i), self._shape(i)[::2])):
                to[i] = self._array(a, f"gradient[{i}].{name}", shape, (torch.float32,)).data_ptr()
                if not a.is_contiguous():
                    raise Error(f"gradient[{i}].{name} is not contiguous")
        s.clear("cuda_gradient")
        self._call("haste_cuda_gradient_init", s.at("cuda_gradient"), s.at("cuda_layer"), *map(ctypes.addressof, pointers))
        return s.at("cuda_gradient")

    def _own_gradient(self):
        if self._gradient is None:
            self._gradient = [tuple(torch.zeros(shape, dtype=torch.float32, device=self.device) for shape in (self._shape(i), self._shape(i)[::2]))
                              for i in range(self._s["cuda_layer.block_count"])]
            self._gradient_over(self._gradient)
        elif not self.pending:   # another may have been there in between
            self._gradient_over(self._gradient)
        return self._s.at("cuda_gradient")

    @property
    def gradient(self):
        """The layer's own gradient: [(weight, bias), ...] of each block. Who fills it says pending = 1."""
        with self._lock:
            self._own_gradient()
            return self._gradient

    @property
    def pending(self):
        return self._s["cuda_gradient.pending"]

    @pending.setter
    def pending(self, value):
        self._own_gradient()
        self._s["cuda_gradient.pending"], self._s["cuda_gradient.rewires"] = value, self.rewires

    def gradient_zero(self):
        with self._lock:
            self._own_gradient()
            self._call("haste_cuda_gradient_zero", self._s.at("cuda_gradient"), self._s.at("cuda_layer"), self._stream())

    def apply(self, **options):
        """haste_cuda_apply: one update from what was accumulated. Options as of train_step, but for the loss's."""
        s = self._s
        with self._lock:
            self._may_capture()
            keep = self._put_step(0, [], None, **options)
            self._call("haste_cuda_apply", s.at("cuda_layer"), s.at("cuda_work"), self._own_gradient(), s.at("step"),
                       self._stream())
            self._counted(True)
            del keep

    def forward(self, x, dtype=torch.float32):
        """haste_cuda_forward: logits [B, slots] in slot order, float32 or bfloat16."""
        s = self._s
        with self._lock:
            x, given = self._x(x)
            self._reserve(len(x))
            logits = torch.empty((len(x), self.slots), dtype=dtype, device=self.device)
            self._call("haste_cuda_forward", s.at("cuda_layer"), s.at("cuda_work"), *given, logits.data_ptr(), TYPES[dtype],
                       self._stream())
        return logits

    def backward(self, x, grad_logits, *, grad_x=None, gradient=None):
        """haste_cuda_backward: fills `gradient` (=), as of accumulate, or the layer's own, for apply, or, with False, none; and grad_x
        (+=)."""
        s = self._s
        with self._lock:
            x, given = self._x(x)
            grad_logits = self._array(grad_logits, "grad_logits", (len(x), self.slots), (torch.float32, torch.bfloat16))
            self._reserve(len(x))
            to = self._own_gradient() if gradient is None else self._gradient_over(gradient) if gradient else None
            try:
                self._call("haste_cuda_backward", s.at("cuda_layer"), s.at("cuda_work"), *given, grad_logits.data_ptr(),
                           TYPES[grad_logits.dtype], to, *self._grad_x(grad_x, len(x)), self._stream())
            finally:
                if gradient:
                    s.clear("cuda_gradient")

    def rewire(self, share, *, group_share=None, prune="magnitude", scope="block", growth="random", uniform=False, x=None,
               positives=None, ids=None, scores=None, origin=False):
        """haste_cuda_rewire, which waits for the device. Returns how many places moved. saliency and gradient need a batch, x and
        positives, of any size: what the device does not take is InputScores. origin as of haste.Layer."""
        s = self._s
        moved = ctypes.c_int64()
        if scores is not None:
            raise Error("scores are not on the GPU yet: rewire with x and positives of several batches")
        if x is None and (prune == "saliency" or growth == "gradient"):
            raise Error(f"prune = {prune!r}, growth = {growth!r} needs a batch, x and positives")
        with self._lock:
            plain.put_rewire(s, share, group_share, prune, scope, growth, uniform)
            s.clear("cuda_lists")
            given, pair = (None, 0, 0), None
            if x is not None:
                x, given = self._x(x)
                pair = Lists.of(self.device, positives, "positives", len(x), ids)
                pair.put(s, "cuda_lists")
            self._reserve(given[2], pair.count() if pair else 0)
            before = [self.index(i).to(torch.int32) if self._pointer(i, "index") else None
                      for i in range(len(self.blocks))] if origin else None
            arguments = (s.at("cuda_layer"), s.at("cuda_work"), s.at("rewire"), *given, s.at("cuda_lists") if pair else None,
                         ctypes.addressof(moved), self._stream())
            try:
                self._call("haste_cuda_rewire", *arguments)
            except Error as error:   # its memory is not torch's, which may hold all there is
                if error.status != "HASTE_ERR_MEMORY":
                    raise
                torch.cuda.empty_cache()
                self._call("haste_cuda_rewire", *arguments)
            if origin:
                self.origin = [self._origin(i, index) for i, index in enumerate(before)]
        return moved.value

    def _origin(self, i, before):
        """Where the rows of block i stood, of each group: int32 [G, F]; -1: nowhere."""
        if before is None:   # dense: nothing moves
            G, F, _ = self._shape(i)
            return torch.arange(F, dtype=torch.int32, device=self.device).expand(G, F)
        now = self.index(i).to(torch.int32)
        there, place = before.sort(1)
        at = torch.searchsorted(there, now).clamp(max=now.shape[1] - 1)
        return torch.where(there.gather(1, at) == now, place.gather(1, at), -1).to(torch.int32)

    # ---- prediction

    def _search(self, x, excluded, only, k=0):
        """Samples first .. first + n - 1, so many at a time, with a workspace and haste_cuda_search_options for them."""
        s = self._s
        if only is not None:
            raise Error("only is not on the GPU yet: score() scores listed labels")
        excluded = None if excluded is None else Lists.of(self.device, excluded, "excluded", len(x))
        for first in range(0, len(x), self.batch):
            n = min(self.batch, len(x) - first)
            self._reserve(n, excluded.count(first, n) if excluded else 0, k)
            s.clear("cuda_search")
            if excluded:
                s["cuda_search.excluded"] = excluded.put(s, "cuda_excluded", first)
            yield first, n

    def top_k(self, x, k, excluded=None, only=None):
        """haste_cuda_top_k: (id, score), int32 and float32 [B, k]. Any B."""
        s = self._s
        with self._lock:
            x, (pointer, kind, B) = self._x(x)
            id = torch.empty((B, max(k, 0)), dtype=torch.int32, device=self.device)
            score = torch.empty((B, max(k, 0)), dtype=torch.float32, device=self.device)
            row = self.inputs * x.element_size()
            for first, n in self._search(x, excluded, only, k):
                self._call("haste_cuda_top_k", s.at("cuda_layer"), s.at("cuda_work"), pointer + first * row, kind, n, k,
                           s.at("cuda_search"), id[first:].data_ptr(), score[first:].data_ptr(), self._stream())
        return id, score

    def above(self, x, threshold, excluded=None, only=None):
        """haste_cuda_above, which waits for the device: (offset, id, score), int64 [B + 1], int32 and float32. Any B."""
        s = self._s
        needed = ctypes.c_int64()
        with self._lock:
            x, (pointer, kind, B) = self._x(x)
            offset = torch.zeros(B + 1, dtype=torch.int64, device=self.device)
            ids, scores = [], []
            row, total = self.inputs * x.element_size(), 0
            for first, n in self._search(x, excluded, only):
                at, capacity = torch.empty(n + 1, dtype=torch.int64, device=self.device), 64 * n
                while True:
                    id = torch.empty(capacity, dtype=torch.int32, device=self.device)
                    score = torch.empty(capacity, dtype=torch.float32, device=self.device)
                    try:
                        self._call("haste_cuda_above", s.at("cuda_layer"), s.at("cuda_work"), pointer + first * row, kind, n,
                                   threshold, s.at("cuda_search"), at.data_ptr(), id.data_ptr(), score.data_ptr(), capacity,
                                   ctypes.addressof(needed), self._stream())
                        break
                    except Error as error:
                        if error.status != "HASTE_ERR_SIZE" or needed.value <= capacity:
                            raise
                        capacity = needed.value
                offset[first + 1:first + n + 1] = at[1:] + total
                total += needed.value
                ids.append(id[:needed.value])
                scores.append(score[:needed.value])
            empty = torch.empty(0, dtype=torch.float32, device=self.device)
        return offset, torch.cat([empty.int(), *ids]), torch.cat([empty, *scores])

    def score(self, x, candidates, ids=None):
        """haste_cuda_score: logits of given labels, float32, in the order of the candidates' ids. Waits for the device."""
        s = self._s
        with self._lock:
            x, (pointer, kind, B) = self._x(x)
            pair = Lists.of(self.device, candidates, "candidates", B, ids)
            self._reserve(*((B, pair.count()) if pair.on_host else ()))
            score = torch.zeros(len(pair.id), dtype=torch.float32, device=self.device)
            self._call("haste_cuda_score", s.at("cuda_layer"), s.at("cuda_work"), pointer, kind, B,
                       pair.put(s, "cuda_lists"), score.data_ptr(), self._stream())
        return score[:max(int(pair.offset[-1] - pair.offset[0]), 0)]

    # ---- files

    def save(self, path, **options):
        """haste_save, of host()."""
        self.check()
        self.host().save(path, **options)

    @classmethod
    def load(cls, path, *, device="cuda", **options):
        """haste_load, onto the device."""
        return cls.from_host(plain.Layer.load(path, map=True), device=device, **options)
