"""The layer as a torch.nn.Module, on the CPU or, with device="cuda", on an NVIDIA GPU. It lies in a tensor, `memory`, and nothing is
copied on the way.

    layer = haste.torch.Layer(labels=670091, inputs=768, optimizer="adamw", lr=.007, frequency=frequency, samples=N)
    loss = layer(encoder(batch), offsets, ids)    # mode "fused": the update has happened
    loss.backward()                               # the encoder's gradients

mode says when weights change, if the module is in training mode and gradients are enabled (else they never do):

    fused        in forward, in one pass. The loss must not be scaled on its way to backward; an error says so
    exact        forward looks, backward trains, with the gradient that reaches the loss as its scale
    accumulate   forward looks, backward adds gradients to a buffer as large as the weights, apply() makes the update
    parameters   weights and biases are Parameters with .grad, for optimizers, clipping and DDP of torch's. float32
"""
import numpy
import torch
from torch.autograd.function import once_differentiable

from . import arrays
from . import cuda as gpu
from . import layer as plain
from . import library
from . import ops
from .library import Error

MODES = ("fused", "exact", "accumulate", "parameters")
SHARED, ON_GPU = ("batch", "chunks", "purpose"), ("path", "deterministic", "capturable")   # options of both cores, and of haste.cuda.Layer
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def apart(function):
    """Not to be had in a graph of torch.compile's, which breaks there, or says why it cannot."""
    try:
        return torch.compiler.disable(function, reason="a graph can hold haste.torch.Layer's loss, from lists that are tensors "
                                                       "(offsets and ids, or one label each), and nothing else of it")
    except TypeError:   # torch before 2.7 gives no reasons
        return torch.compiler.disable(function)


def plain_array(value):
    """Tensors as the numpy arrays that share their memory; all else stays what it is."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.device.type != "cpu":
        raise Error(f"a tensor is on {value.device}, and the layer on the CPU", "HASTE_ERR_DEVICE")
    return value.detach().contiguous().numpy()


def plain_lists(value, name, B, ids=None):
    """Lists of labels as arrays.lists takes them, from tensors too: offsets and ids, CSR, one label each, rows."""
    value, ids = gpu.parts(value, ids)
    if isinstance(value, list) and any(isinstance(row, torch.Tensor) and row.dim() for row in value):
        value = [plain_array(row) for row in value]
    return arrays.lists(plain_array(value), name, B, plain_array(ids))


# What a core takes: haste.Layer numpy's arrays, x in float32; haste.cuda.Layer tensors. And what it gives, as a tensor.

def given(x):
    return x.detach() if x.is_cuda else single(x).numpy()


def given_array(core, value):
    return value if isinstance(core, gpu.Layer) else plain_array(value)


def given_lists(core, value, name, B, ids=None):
    return gpu.Lists(core.device, value, name, B, ids) if isinstance(core, gpu.Layer) else plain_lists(value, name, B, ids)


def tensor(value):
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value)


def loss_tensor(value):
    return value.to(torch.float32) if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float32, device="cpu")


def aligned(memory):
    """Bytes on the CPU, at an address that haste takes: torch aligns what it allocates, but not every view."""
    memory = memory.detach().cpu().contiguous()
    return memory.clone() if memory.data_ptr() % 64 else memory


def host_layer(memory, extra, **work):
    """haste_layer_attach: the layer that lies in a state's memory, aligned()."""
    return plain.layer_attach(memory.numpy(), extra["options"], step=extra["step"], rewires=extra["rewires"], **work)


class Call:
    """One call of the layer: x as C reads it, the lists, the options."""

    def __init__(self, layer, x, positives, ids, options):
        self.layer, self.core = layer, layer._core
        self.lists = given_lists(self.core, positives, "positives", len(x), ids)
        self.options = {name: given_array(self.core, value) for name, value in options.items() if name != "ignored"}
        if options.get("ignored") is not None:
            self.options["ignored"] = given_lists(self.core, options["ignored"], "ignored", len(x))
        self.loss_options = {name: value for name, value in self.options.items() if name not in plain.STEP_NUMBERS
                             and name not in ("blocks", "grad_norm")}

    def scaled(self, options, B, factor):
        """The options with a loss so many times as large; on a GPU the factor lies there, and is not waited for."""
        options = dict(options)
        if isinstance(factor, torch.Tensor):
            return {**options, "scale": factor * (options["scale"] if options.get("scale") is not None else 1 / max(B, 1))}
        if factor == 0:   # a scale of 0 would mean the default: decay and momentum go on, nothing else does
            return {**options, "sample_weight": given_array(self.core, torch.zeros(B, dtype=torch.float32, device=self.layer.memory.device))}
        return {**options, "scale": (options.get("scale") or 1 / max(B, 1)) * factor}

    def run(self, function, x, options, wanted, **extra):
        """(loss, gradient for x or None)"""
        grad_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device) if wanted else None
        loss = function(given(x), self.lists, grad_x=given_array(self.core, grad_x), **options, **extra)
        return loss, grad_x


def single(x):
    """x as float32 rows, without a copy where it is that."""
    return x.detach().to(torch.float32).contiguous()


class Look(torch.autograd.Function):
    """Loss and gradient for x, no update: eval mode."""

    @staticmethod
    def forward(ctx, x, call):
        loss, grad_x = call.run(call.core.evaluate, x, call.loss_options, ctx.needs_input_grad[0])
        if grad_x is not None:
            ctx.save_for_backward(grad_x)
        ctx.dtype = x.dtype
        return loss_tensor(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return (ctx.saved_tensors[0] * grad).to(ctx.dtype), None


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, anchor, call):
        loss, grad_x = call.layer._forward_of(call, x, True, ctx.needs_input_grad[0])
        if grad_x is not None:
            ctx.save_for_backward(grad_x)
        ctx.dtype, ctx.layer = x.dtype, call.layer
        return loss_tensor(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        ctx.layer._unscaled(grad)
        return (ctx.saved_tensors[0] * grad).to(ctx.dtype) if ctx.saved_tensors else None, None, None


class Exact(torch.autograd.Function):
    """Modes exact, accumulate and parameters: all but what backward does with the gradient."""

    @staticmethod
    def forward(ctx, x, anchor, call, *parameters):
        loss, _ = call.layer._forward_of(call, x, True, False)
        ctx.save_for_backward(x, *parameters)   # for torch's look whether somebody has changed them
        ctx.call, ctx.moment = call, call.core.moment
        return loss_tensor(loss)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x, gradients = ctx.call.layer._backward_of(ctx.call, ctx.saved_tensors[0], grad if grad.is_cuda else float(grad), ctx.moment,
                                                        ctx.needs_input_grad[0])
        return grad_x, None, None, *gradients


class Logits(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer, *parameters):
        ctx.save_for_backward(x, *parameters)
        ctx.layer = layer
        return tensor(layer._core.forward(given(x)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, core = ctx.saved_tensors[0], ctx.layer._bound()
        gradients = [torch.zeros_like(p) for p in ctx.layer.parameters(recurse=False)]
        grad_x = torch.zeros(x.shape, dtype=torch.float32, device=x.device) if ctx.needs_input_grad[0] else None
        each = [given_array(core, g) for g in gradients]
        core.backward(given(x), given_array(core, single(grad)), grad_x=given_array(core, grad_x),
                      gradient=list(zip(each[::2], each[1::2])) or False)
        return None if grad_x is None else grad_x.to(x.dtype), None, *gradients


class Layer(torch.nn.Module):
    """haste_layer as a module.

    labels, inputs, blocks, order, frequency, samples, loss, optimizer, dtype, ...: as of haste.Layer
    lr, weight_decay, negligible, scale, ...: options of every step; `options` is a dict that may change between steps
    mode        "fused", "exact", "accumulate" or "parameters", see above
    device      "cpu" or "cuda": x, and lists and weights that are tensors, are there. to(), cpu() and cuda() move the layer. On a GPU
                dtype is bfloat16 unless said otherwise (in mode "parameters" float32)
    path, deterministic, capturable: on a GPU, as of haste.cuda.Layer. capturable=True, as of torch.optim: training may be captured in
                CUDA graphs; lr may be a tensor there, so that replays find each its own
    check_every on a GPU: after so many training batches the next one first looks for what only the device can see (a bad id there, an
                infinite logit), and waits for that; 0: only check() looks
    shard       True: this process has labels of its own, or the caller sums what replicas accumulate. Else a layer that
                updates itself is refused where torch.distributed has several processes, since replicas would drift apart:
                take "parameters" with DDP
    loss_scale  an attribute: the factor by which the loss is multiplied before backward (GradScaler's get_scale())"""

    def __init__(self, labels, inputs, blocks=None, *, mode="fused", device="cpu", shard=False, check_every=100,
                 **options):
        super().__init__()
        arrays.choice(mode, "mode", MODES)
        arrays.choice(torch.device(device).type, "device", ("cpu", "cuda"))
        self.mode, self.shard, self.loss_scale, self.check_every = mode, shard, 1., check_every
        self.options = {name: options.pop(name) for name in list(options)
                        if name in plain.STEP_NUMBERS + plain.LOSS_NUMBERS}

        self._on_gpu = {}   # options of haste.cuda.Layer, also for a layer that moves
        if torch.device(device).type == "cuda":
            if mode == "parameters":
                options.setdefault("dtype", "float32")
            self._core = gpu.Layer(labels, inputs, blocks, device=device, **options)
            self._on_gpu = {name: options[name] for name in ON_GPU if name in options}
            self._keep(self._core.memory)
        else:
            def allocate(size):
                self._keep(torch.empty(size, dtype=torch.uint8, device="cpu"))
                return self.memory.numpy()
            self._core = plain.Layer(labels, inputs, blocks, allocate=allocate, **options)
        self._ready()

    def _keep(self, memory):
        """The tensor that the layer lies in: a buffer. Where parameters are views of it, they are what torch knows: whoever
        copies or averages buffers besides would undo what he did to them. And DistributedDataParallel broadcasts buffers:
        a shard would get another's labels."""
        if self.mode == "parameters" or self.shard:
            self.memory = memory
        else:
            self.register_buffer("memory", memory)

    def _numbered(self):
        """What compiled functions need: see ops.py."""
        self._number, self._since_check = ops.number(self), 0
        self._token = torch.zeros(2, dtype=torch.int64, device="cpu")
        self._anchor = torch.empty(0, requires_grad=True, device=self.memory.device)   # backward comes by also where x needs none
        self._scaled = torch.zeros((), dtype=torch.bool, device=self.memory.device)    # on a GPU: _unscaled has something to say

    def _ready(self):
        self._numbered()
        if self.mode == "parameters":
            if self._core.dtype != "float32" or self._core.optimizer != "sgd":
                raise Error("mode \"parameters\": the optimizer is torch's: dtype float32, and no optimizer of haste's")
            for name, view in self._views():
                if name not in self._parameters:
                    self.register_parameter(name, torch.nn.Parameter(view))
        elif "lr" not in self.options:
            raise Error(f"mode {self.mode!r} needs lr: without it nothing would ever change")

    def _views(self):
        """(name, tensor over `memory`) of each block's weights and biases."""
        for i in range(len(self._core.blocks)):
            for name, there in ((f"weight{i}", self._core.weight(i)), (f"bias{i}", self._core.bias(i))):
                if isinstance(there, numpy.ndarray):
                    first = library.address(there) - self.memory.data_ptr()
                    there = self.memory[first:first + there.nbytes].view(torch.float32).view(there.shape)
                yield name, there

    def _bound(self):
        """The layer, after a look whether torch has moved its memory (share_memory, load_state_dict(assign=True))."""
        core, memory = self._core, self.memory
        if isinstance(core, gpu.Layer):
            if memory.data_ptr() != core.memory.data_ptr():
                raise Error(f"the layer's memory was given another place, on {memory.device}: to(), cpu() and cuda() of the module, "
                            f"or of one that has it, move it", "HASTE_ERR_DEVICE")
        elif memory.device.type != "cpu":
            raise Error(f"the layer's memory was moved to {memory.device}: to() and cuda() of the module move all of it",
                        "HASTE_ERR_DEVICE")
        elif memory.data_ptr() != library.address(core._memory):
            if memory.data_ptr() % 64:
                self.memory = memory.clone()
            core.attach(self.memory.numpy())
        for name, p in self._parameters.items():
            if p.data_ptr() != core._pointer(int(name[-1]), name[:-1]):   # somebody gave it another place
                if p.dtype != torch.float32 or p.device != memory.device:
                    raise Error(f"{name} is {p.dtype} on {p.device}, expected torch.float32 on {memory.device}")
                self._lay(copy=True)
                break
        return core

    def _apply(self, fn, recurse=True):
        """to(), cpu(), cuda(): the layer goes along."""
        device = fn(torch.empty(0, dtype=torch.uint8, device=self.memory.device)).device
        if device != self.memory.device and device.type in ("cpu", "cuda"):
            self._set_state(*self._state(), device)
        return super()._apply(fn, recurse)

    def check(self):
        """On a GPU: waits for the device, and raises what it has noticed since the last look: haste_cuda_check. Where it raises, all
        else was done. Also done every check_every batches, and by state_dict() and save()."""
        core, self._since_check = self._core, 0
        if isinstance(core, gpu.Layer):
            core.check()
            if self._scaled.item():
                self._scaled.zero_()
                self._unscaled(None)

    def _lay(self, copy):
        """Makes parameters views of `memory`, which takes their values or gives them its own."""
        for name, view in self._views() if self._parameters else ():
            if copy:
                view.copy_(self._parameters[name].data)
            self._parameters[name].data = view

    def extra_repr(self):
        return f"{self._core!r}, mode={self.mode!r}"

    # Numbers and views of the layer: haste.Layer has them all, as `core`.
    core = property(_bound)
    labels = property(lambda self: self._core.labels)
    inputs = property(lambda self: self._core.inputs)

    # ---- training

    def _x(self, x):
        if not isinstance(x, torch.Tensor) or x.dim() != 2 or x.shape[1] != self.inputs or x.dtype not in FLOATS:
            what = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise Error(f"x is {what}, expected a tensor [B, {self.inputs}] of float32, bfloat16 or float16")
        if x.device != self.memory.device:
            raise Error(f"x is on {x.device}, and the layer on {self.memory.device}", "HASTE_ERR_DEVICE")
        return x

    def forward(self, x, positives, ids=None, **options):
        """The loss. positives: B lists of labels (see arrays.lists; tensors too), or offsets, with ids. options: of this
        call alone: sample_weight, ignored, scale, lr, ..."""
        if ops.there and torch.compiler.is_compiling():
            if ids is None and isinstance(positives, tuple):
                positives, ids = positives
            if isinstance(positives, torch.Tensor) and (ids is None or isinstance(ids, torch.Tensor)) and \
                    all(isinstance(value, (torch.Tensor, int, float)) for value in options.values()):
                return self._compiled(x, positives, ids, options)
        return self._plain(x, positives, ids, options)

    def _call(self, x, positives, ids, options):
        self._bound()
        return Call(self, self._x(x), positives, ids, {**self.options, **options})

    @apart
    def _plain(self, x, positives, ids, options):
        call = self._call(x, positives, ids, options)
        if not (self.training and torch.is_grad_enabled()):
            return Look.apply(x, call)
        if self.mode != "fused":
            return Exact.apply(x, self._anchor, call, *self.parameters(recurse=False))
        return Fused.apply(x, self._anchor, call)

    def _compiled(self, x, offset, ids, options):
        """The same as an operator in a graph. Lists: offsets and ids, or one label each."""
        if ids is None:
            offset, ids = None, offset
        train = self.training and torch.is_grad_enabled()
        values = [value if isinstance(value, torch.Tensor) else torch.full((), value, dtype=torch.float64, device="cpu")
                  for value in options.values()]
        loss, _, token = torch.ops.haste.loss(
            x, self._anchor if train else self._anchor.detach(), list(self.parameters(recurse=False)) if train else [],
            self._token, offset, ids, " ".join(options), values, self._number, self.mode, train,
            x.requires_grad and torch.is_grad_enabled())
        if train:
            self._token.copy_(token)
        return loss

    # What forward and backward do, in eager mode and in a graph.
    def _forward_of(self, call, x, train, wanted):
        """(loss, gradient for x if it is known and wanted)"""
        core = self._core
        if not train:
            return call.run(core.evaluate, x, call.loss_options, wanted)
        if isinstance(core, gpu.Layer) and 0 < self.check_every <= self._since_check and not core.capturing():
            self.check()
        self._since_check += 1
        if self.mode != "parameters" and not self.shard and torch.distributed.is_available() and \
                torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            raise Error(f"mode {self.mode!r} in one of {torch.distributed.get_world_size()} processes: replicas would drift "
                        f"apart. Take mode \"parameters\" with DistributedDataParallel, or shard=True where each process "
                        f"has labels of its own", "HASTE_ERR_STATE")
        if self.mode != "fused":
            return call.run(core.evaluate, x, call.loss_options, False)
        if torch._C._current_graph_task_id() != -1:   # inside a backward pass
            raise Error("mode \"fused\" cannot be computed again in a backward pass (gradient checkpointing): it would train "
                        "twice: mode \"exact\"", "HASTE_ERR_STATE")
        return call.run(core.train_step, x, call.options, wanted)

    def _unscaled(self, grad):
        """Mode fused: the loss must come back as it went. None: it did not."""
        if grad is not None and grad.is_cuda:   # to ask would be to wait: check() does
            self._scaled.logical_or_(grad != self.loss_scale)
        elif grad is None or float(grad) != self.loss_scale:
            raise Error(f"the loss was multiplied by {'a factor' if grad is None else f'{float(grad):g}'} after the layer had been "
                        f"updated for it as it was (mode \"fused\"): give the factor to the layer (scale=..., for GradScaler "
                        f"loss_scale), or take mode \"exact\"", "HASTE_ERR_STATE")

    def _backward_of(self, call, x, factor, moment, wanted):
        """Modes exact, accumulate and parameters: (gradient for x, those for the parameters)"""
        core = self._bound()
        if moment != core.moment:
            raise Error("the layer's weights have changed between forward and backward: one backward for each forward, or "
                        "mode \"accumulate\"", "HASTE_ERR_STATE")
        function = core.train_step if self.mode == "exact" else core.accumulate
        gradients, extra, unscale = [], {}, self.loss_scale
        if self.mode == "parameters":   # .grad stays multiplied by GradScaler's factor: its step divides
            unscale = 1.
            gradients = [torch.zeros_like(p) for p in self.parameters(recurse=False)]
            each = [given_array(core, g) for g in gradients]
            extra = {"gradient": list(zip(each[::2], each[1::2]))}
        options = call.scaled(call.options if self.mode == "exact" else call.loss_options, len(x), factor / unscale)
        _, grad_x = call.run(function, x, options, wanted, loss=False, **extra)
        return grad_x if grad_x is None else (grad_x * unscale).to(x.dtype), gradients

    def apply(self, *function, **options):
        """Mode accumulate: haste_apply, one update from what backward has added up. With grad_norm=True it leaves the norm
        in core.grad_norm. (With a function: that of torch.nn.Module.)"""
        if function:
            return super().apply(*function)
        if self.mode != "accumulate":
            raise Error(f"apply() is for mode \"accumulate\", and the layer's is {self.mode!r}", "HASTE_ERR_STATE")
        own = {name: value for name, value in self.options.items() if name in plain.STEP_NUMBERS or name == "blocks"}
        self._bound().apply(**{**own, **options})

    def score_inputs(self, scores, x, positives, ids=None, **options):
        """haste_score_inputs: adds what a batch says to haste.InputScores(layer.core)."""
        call = Call(self, self._x(x), positives, ids, {**self.options, **options})
        core = self._bound()
        if isinstance(core, gpu.Layer):
            raise Error("score_inputs is not on the GPU yet: rewire with x and positives of several batches")
        core.score_inputs(scores, given(x), call.lists, **call.loss_options)

    def rewire(self, share, *, x=None, positives=None, ids=None, optimizer=None, **options):
        """haste_rewire; returns how many places moved. In mode parameters give the optimizer: its state of places that
        stayed goes along, that of new ones becomes 0."""
        core = self._bound()
        for p in self.parameters(recurse=False):
            if p.grad is not None:
                raise Error("gradients belong to inputs that are about to move: optimizer.step() and zero_grad() first",
                            "HASTE_ERR_STATE")
        if x is not None:
            positives, x = given_lists(core, positives, "positives", len(x), ids), given(self._x(x))
        if optimizer is None:
            return core.rewire(share, x=x, positives=positives, **options)
        moved = core.rewire(share, x=x, positives=positives, **{**options, "origin": True})
        for i, origin in enumerate(core.origin):
            p, row = self._parameters.get(f"weight{i}"), tensor(origin).long()[:, :, None]
            for value in optimizer.state[p].values() if p in optimizer.state else ():
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    value.copy_(torch.where(row < 0, 0, torch.take_along_dim(value, row.clamp(min=0), 1)))
        return moved

    # ---- prediction

    @apart
    def logits(self, x):
        """haste_forward: [B, slots] in slot order (core.label_of), for a loss of one's own, which trains in mode
        parameters alone."""
        self._bound()
        if self.training and torch.is_grad_enabled() and self.mode != "parameters":
            raise Error(f"a loss of one's own over logits trains in mode \"parameters\", and this is {self.mode!r}: there "
                        f"under no_grad, or in eval mode", "HASTE_ERR_STATE")
        return Logits.apply(self._x(x), self, *self.parameters(recurse=False))

    @apart
    def _found(self, search, x, what, excluded, only):
        options = (None if value is None else given_lists(self._core, value, name, len(x))
                   for name, value in (("excluded", excluded), ("only", only)))
        return tuple(map(tensor, search(given(self._x(x)), what, *options)))

    def top_k(self, x, k, excluded=None, only=None):
        """haste_top_k: (id, score) [B, k]"""
        return self._found(self._bound().top_k, x, k, excluded, only)

    def above(self, x, threshold, excluded=None, only=None):
        """haste_above: (offset, id, score)"""
        return self._found(self._bound().above, x, threshold, excluded, only)

    @apart
    def score(self, x, candidates, ids=None):
        """haste_score, in the order of the candidates' ids"""
        candidates = given_lists(self._core, candidates, "candidates", len(x), ids)
        return tensor(self._bound().score(given(self._x(x)), candidates))

    # ---- state

    def get_extra_state(self):
        core = self._core
        return {"haste": library.library().function["haste_version"](), "options": core.options(), "step": core.step,
                "rewires": core.rewires}

    def set_extra_state(self, state):
        if self.memory.data_ptr() % 64:
            self.memory = self.memory.clone()
        self._core.attach(self.memory.numpy(), state["options"], state["step"], state["rewires"])
        self._lay(copy=False)

    def _state(self):
        """(its memory as it is on the CPU, what that means)"""
        self._core._nothing_pending()
        core = self._bound()
        self.check()
        memory = aligned(torch.from_numpy(core.host().to_memory())) if isinstance(core, gpu.Layer) else self.memory
        return memory, self.get_extra_state()

    def _set_state(self, memory, extra, device):
        """Makes it that layer, on `device`."""
        work, memory = {name: self._core._work[name] for name in SHARED}, aligned(memory)
        core = host_layer(memory, extra, **work)
        if device.type == "cuda":
            core = gpu.Layer.from_host(core, device=device, **work, **self._on_gpu)
            memory = core.memory
        self._core = core
        self._keep(memory)
        self._numbered()
        self._lay(copy=False)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        """`memory` is all of it: parameters lie in there, and torch.save would refuse the same bytes under two types."""
        memory, _ = self._state()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._parameters:
            del destination[prefix + name]
        destination[prefix + "memory"] = memory

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
        """Says what does not fit before anything is overwritten."""
        memory, extra = state.get(prefix + "memory"), state.get(prefix + "_extra_state")
        if memory is None or extra is None:
            missing += [prefix + name for name in ("memory", "_extra_state") if prefix + name not in state]
            return
        ours, theirs = self._core.options(), extra["options"]
        differ = [f"{name} = {theirs.get(name)!r}, here {ours[name]!r}" for name in ours
                  if name != "seed" and ours[name] != theirs.get(name)]
        if extra["haste"] // 100 != library.library().function["haste_version"]() // 100:
            differ.append(f"it is of version {extra['haste']} of haste (files, save and load, go between versions)")
        if not differ:
            try:
                memory = aligned(memory)
                host = host_layer(memory, extra)
            except Error as error:
                differ.append(str(error))
        if differ:
            errors.append(f"haste.torch.Layer {prefix.rstrip('.')!r}: the state has another layer: {'; '.join(differ)}")
        elif isinstance(self._core, gpu.Layer):
            self._core.upload(host)
            self._keep(self._core.memory)
            self._lay(copy=False)
        elif metadata.get("assign_to_params_buffers"):
            self.memory = memory
            self.set_extra_state(extra)
        else:
            self.memory.copy_(memory)
            self.set_extra_state(extra)

    def __getstate__(self):
        memory, extra = self._state()
        state = {**self.__dict__, "_core": None, "_extra": (extra, self._core._work)}
        if isinstance(self._core, gpu.Layer):
            state["_extra"] += (memory, self._core.device)
            state["_buffers"] = {name: value for name, value in self._buffers.items() if name != "memory"}
            state.pop("memory", None)
        elif self._parameters:   # as above
            state["memory"] = self.memory.clone()
        for name in ("_number", "_token", "_anchor", "_scaled", "_since_check"):
            del state[name]
        return state

    def __setstate__(self, state):
        extra, work, *on_device = state.pop("_extra")
        super().__setstate__(state)
        if on_device:
            memory, device = on_device
            work = {name: work[name] for name in SHARED}
            self._core = gpu.Layer.from_host(host_layer(aligned(memory), extra), device=device, **work, **self._on_gpu)
            self._keep(self._core.memory)
            self._numbered()
            self._lay(copy=False)
        else:
            self._core = plain.Layer.__new__(plain.Layer)
            self._core._begin(**work)
            self._numbered()
            self.set_extra_state(extra)

    # ---- files

    def save(self, path, **options):
        """haste_save: the model file of haste.h, for any program of haste's."""
        self.check()
        core = self._bound()
        (core.host() if isinstance(core, gpu.Layer) else core).save(path, **options)

    @classmethod
    def load(cls, path, *, mode="fused", device="cpu", shard=False, **options):
        """haste_load. The file says what the layer is; options: lr, ... of steps, batch, threads, ... of the workspace."""
        work = {name: options.pop(name) for name in list(options) if name in plain.WORK and name not in ON_GPU}
        if torch.device(device).type == "cpu" and "path" in options:
            work["path"] = options.pop("path")
        return cls.from_core(plain.Layer.load(path, map=True, **work), mode=mode, device=device, shard=shard, **options)

    @classmethod
    def from_core(cls, core, *, mode="fused", device="cpu", shard=False, check_every=100, **steps):
        """A module from a haste.Layer or haste.cuda.Layer, copied: of layer_from_rows, labels_add, slice, ... steps: lr, ... of every
        step; for a GPU path and deterministic too."""
        on_gpu = {name: steps.pop(name) for name in ON_GPU if name in steps} if torch.device(device).type == "cuda" else {}
        for name in steps:
            if name not in plain.STEP_NUMBERS + plain.LOSS_NUMBERS:
                raise TypeError(f"haste has no option {name!r} here")
        layer = cls.__new__(cls)
        torch.nn.Module.__init__(layer)
        arrays.choice(mode, "mode", MODES)
        arrays.choice(torch.device(device).type, "device", ("cpu", "cuda"))
        layer.mode, layer.shard, layer.loss_scale, layer.check_every, layer.options = mode, shard, 1., check_every, steps
        work, layer._on_gpu = {name: core._work[name] for name in SHARED}, on_gpu
        if isinstance(core, gpu.Layer):
            core = core.host()
        if mode == "parameters":
            core = core.copy(optimizer="sgd")
        if torch.device(device).type == "cuda":
            layer._core = gpu.Layer.from_host(core, device=device, **work, **on_gpu)
            layer._keep(layer._core.memory)
        else:
            layer._keep(torch.from_numpy(core.to_memory()).clone())
            layer._core = plain.Layer._empty(**{**core._work, **work})
            layer._core.attach(layer.memory.numpy(), core.options(), core.step, core.rewires)
        layer._ready()
        return layer
