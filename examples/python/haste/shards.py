"""Labels in several processes: each has some of them, in a layer of its own, and all see all samples. Exact: losses and gradients
are those of one layer with all labels, but for the order of sums.

    layer = haste.torch.Layer(labels=len(mine), inputs=768, shard=True, frequency=frequency[mine], ...)
    shards = LabelShards(layer, mine)                # mine: range(first, end), or ascending ids
    loss = shards(encoder(batch), offsets, ids)      # this process's batch, labels of all; call it in every process at once
    id, score = shards.top_k(encoder(batch), 5)

Processes gather x and lists of all; the gradient for x is summed back, times the number of processes, as
DistributedDataParallel, round the encoder alone, divides by it. Whoever averages nothing divides himself."""

import numpy
import torch
import torch.distributed as distributed

from . import functions
from . import layer as plain
from .arrays import integers, with_offsets
from .library import Error
from .torch import plain_lists


def gather(rows, group):
    """The rows of each process, which may have different numbers of them."""
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(sizes, torch.tensor([len(rows)]), group=group)
    padded = rows.new_zeros((int(max(sizes)), *rows.shape[1:]))
    padded[:len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded, group=group)
    return [part[:int(size)] for part, size in zip(parts, sizes)]


class Gather(torch.autograd.Function):
    """x of all processes, in the order of ranks."""

    @staticmethod
    def forward(ctx, x, group):
        parts = gather(x.detach().contiguous(), group)
        rank, sizes = distributed.get_rank(group), [len(part) for part in parts]
        ctx.group, ctx.own = group, slice(sum(sizes[:rank]), sum(sizes[:rank + 1]))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous().clone()
        distributed.all_reduce(grad, group=ctx.group)
        return grad[ctx.own] * distributed.get_world_size(ctx.group), None


class Total(torch.autograd.Function):
    """The losses of all processes, summed; each process's gradient is that of its own."""

    @staticmethod
    def forward(ctx, loss, group):
        loss = loss.detach().clone()
        distributed.all_reduce(loss, group=group)
        return loss

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class LabelShards(torch.nn.Module):
    """layer     haste.torch.Layer with this process's labels, and shard=True
    labels    their ids in the whole, ascending: range(first, end) or integers
    group     of torch.distributed; the default one"""

    def __init__(self, layer, labels, group=None):
        super().__init__()
        labels = integers(labels, "labels", numpy.int32)
        if len(labels) != layer.labels or (labels[1:] <= labels[:-1]).any():
            raise Error(f"labels are {len(labels)} numbers, expected {layer.labels}, ascending: one for each label of the layer")
        if layer.memory.is_cuda:
            raise Error("the layer is on a GPU, and label shards in several processes work on the CPU", "HASTE_ERR_DEVICE")
        if not layer.shard:
            raise Error("the layer is not one shard of several: make it with shard=True")
        self.layer, self.group = layer, group
        self.all = [part.numpy() for part in gather(torch.from_numpy(labels), group)]
        ids = numpy.concatenate(self.all)
        self.labels = len(ids)
        if (numpy.sort(ids) != numpy.arange(len(ids))).any():
            raise Error("the labels of all processes together are not 0 .. L - 1, each once", "HASTE_ERR_DATA")
        self.local = numpy.full(len(ids), -1, numpy.int32)   # of each label the id here
        self.local[labels] = numpy.arange(len(labels))

    def _lists(self, positives, ids, B):
        """(offset, id) of all samples, as far as their labels are here."""
        offset, id = plain_lists(positives, "positives", B, ids)
        if offset is None and (id < 0).any():
            raise Error("positives hold -1: lists of labels, of which some may be empty, can do without")
        offset, id = with_offsets((offset, id))
        id = id[offset[0]:offset[-1]]
        if len(id) and not (0 <= id.min() and id.max() < self.labels):
            raise Error(f"positives hold {id.min()} to {id.max()}, expected 0 to {self.labels - 1}", "HASTE_ERR_DATA")
        counts = torch.cat(gather(torch.from_numpy(numpy.diff(offset)), self.group)).numpy()
        id = self.local[torch.cat(gather(torch.from_numpy(id), self.group)).numpy()]
        row = numpy.repeat(numpy.arange(len(counts)), counts)[id >= 0]
        return numpy.concatenate([[0], numpy.cumsum(numpy.bincount(row, minlength=len(counts)))]), id[id >= 0]

    def forward(self, x, positives, ids=None, *, sample_weight=None, **options):
        """The mean loss of all processes' samples. options: numbers, the same everywhere; label_weight, label_scale and
        label_offset of this shard's labels."""
        lists = self._lists(positives, ids, len(x))
        x = Gather.apply(x, self.group)
        if sample_weight is not None:
            options["sample_weight"] = torch.cat(gather(sample_weight, self.group))
        core = self.layer.core
        if core.loss == "softmax":
            call = self.layer._call(x, lists, None, options)
            sums = gather(torch.from_numpy(core.softmax_begin(x.detach().float().numpy(), lists, **call.loss_options)), self.group)
            for other in sums[1:]:   # in the same order everywhere
                functions.softmax_merge(sums[0].numpy(), other.numpy())
            options["softmax"] = sums[0]
        return Total.apply(self.layer(x, lists, **options), self.group)

    @torch.no_grad()
    def top_k(self, x, k):
        """(id, score) [B, k] of this process's samples, among all labels."""
        parts = gather(x.detach().contiguous(), self.group)
        rank = distributed.get_rank(self.group)
        first = sum(map(len, parts[:rank]))
        found = [gather(part, self.group) for part in self.layer.top_k(torch.cat(parts), k)]
        found = [tuple(part[first:first + len(x)].numpy() for part in pair) for pair in zip(*found)]
        return tuple(map(torch.from_numpy, functions.top_k_merge(found, self.all)))

    def join(self):
        """All labels as one haste.Layer, in the process of rank 0; None in the others."""
        parts = [None] * distributed.get_world_size(self.group)
        distributed.all_gather_object(parts, self.layer.core.save_memory(), group=self.group)
        if distributed.get_rank(self.group) == 0:
            return plain.layer_join([plain.Layer.load_memory(part) for part in parts], self.all)
