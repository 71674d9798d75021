"""The layer for torch.compile: two opaque operators, haste::loss and haste::backward, which a graph may contain.

To torch they are functions without side effects, and the layer's memory is none of their arguments: so no compiler copies it,
and options of the layer (a learning rate that falls) may change without compiling anew. What orders the calls, and keeps
any from being dropped or merged, is a token: a call that trains takes the layer's, an int64 tensor, and returns another, which is
written to the place where the next call finds it; backward takes that one."""
import itertools
import weakref
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from .library import Error

LAYERS = weakref.WeakValueDictionary()   # number -> haste.torch.Layer
_next = itertools.count()
there = hasattr(torch.library, "custom_op") and hasattr(torch.compiler, "is_compiling")   # from 2.4 on


def number(layer):
    """A new number by which graphs know a layer."""
    n = next(_next)
    LAYERS[n] = layer
    return n


def layer_of(n):
    try:
        return LAYERS[n]
    except KeyError:
        raise Error("the layer of a compiled function is gone", "HASTE_ERR_STATE") from None


def options_of(names, values):
    return {name: value if value.dim() else value.item() for name, value in zip(names.split(), values)}


if there:
    @torch.library.custom_op("haste::loss", mutates_args=())
    def loss(x: Tensor, anchor: Tensor, parameters: List[Tensor], token: Tensor, offset: Optional[Tensor], ids: Tensor,
             names: str, values: List[Tensor], layer: int, mode: str, train: bool, wanted: bool) -> Tuple[Tensor, Tensor, Tensor]:
        """(the loss; the gradient for x where it is known by now, else empty; the next token)"""
        module = layer_of(layer)
        call = module._call(x, ids if offset is None else offset, None if offset is None else ids, options_of(names, values))
        value, grad_x = module._forward_of(call, x, train, wanted)
        token = torch.tensor(module._core.moment, device="cpu")
        value = value.to(torch.float32) if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float32, device="cpu")
        return value, x.new_empty(0, dtype=torch.float32) if grad_x is None else grad_x, token

    @loss.register_fake
    def _(x, anchor, parameters, token, offset, ids, names, values, layer, mode, train, wanted):
        known = wanted and (mode == "fused" or not train)
        return (x.new_empty((), dtype=torch.float32), x.new_empty(x.shape if known else (0,), dtype=torch.float32),
                token.new_empty(2))

    @torch.library.custom_op("haste::backward", mutates_args=())
    def backward(grad: Tensor, grad_x: Tensor, x: Tensor, parameters: List[Tensor], token: Tensor, offset: Optional[Tensor],
                 ids: Tensor, names: str, values: List[Tensor], layer: int, mode: str, train: bool,
                 wanted: bool) -> List[Tensor]:
        """The gradients for x, the anchor and the parameters."""
        module = layer_of(layer)
        if train and mode != "fused":
            call = module._call(x, ids if offset is None else offset, None if offset is None else ids,
                                options_of(names, values))
            grad_x, gradients = module._backward_of(call, x, grad if grad.is_cuda else float(grad), tuple(token.tolist()), wanted)
        else:
            if train:
                module._unscaled(grad)
            grad_x, gradients = (grad_x * grad).to(x.dtype), []
        return [grad_x if wanted else x.new_empty(0), x.new_zeros(0, dtype=torch.float32), *gradients]

    @backward.register_fake
    def _(grad, grad_x, x, parameters, token, offset, ids, names, values, layer, mode, train, wanted):
        return [torch.empty_like(x, memory_format=torch.contiguous_format) if wanted else x.new_empty(0),
                x.new_empty(0, dtype=torch.float32), *(torch.empty_like(p) for p in parameters)]

    def setup(ctx, inputs, output):
        x, _, parameters, _, offset, ids, names, values, *ctx.rest = inputs
        _, grad_x, token = output
        ctx.mark_non_differentiable(grad_x, token)
        ctx.counts, ctx.names = (len(parameters), len(values)), names
        ctx.save_for_backward(grad_x, x, token, offset, ids, *parameters, *values)

    def gradients(ctx, grad, *_):
        grad_x, x, token, offset, ids, *others = ctx.saved_tensors
        n = ctx.counts[0]
        to_x, to_anchor, *to_parameters = torch.ops.haste.backward(grad, grad_x, x, others[:n], token, offset, ids, ctx.names,
                                                                   others[n:], *ctx.rest)
        return (to_x if ctx.rest[-1] else None, to_anchor, to_parameters, None, None, None, None, [None] * ctx.counts[1],
                None, None, None, None)

    loss.register_autograd(gradients, setup_context=setup)
