#!/usr/bin/env python3
"""bench/python_layers.py: a training step of output layers in PyTorch on a GPU, haste's beside the ways torch has.

    python3 bench/python_layers.py [--labels 670208] [--inputs 768] [--batch 128] [--rows REGEX]

A step: loss, gradients, AdamW's update of the layer, gradient for x; x in bfloat16 under autocast, two labels a sample (softmax: one).
Prints Markdown: milliseconds (median of 20, GPU events), peak MiB of torch's allocator, and the same with a transformer of 6 layers
before it (64 tokens a sample), five times in turn with the transformer alone, since the time to launch it varies. Last, haste's layer
with 100,000,000 labels, where memory suffices."""
import argparse
import re
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as functional
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples/python"))
import haste.torch

GPU = torch.device("cuda")


def autocast():
    return torch.autocast("cuda", torch.bfloat16)


class Haste:
    def __init__(self, a, loss, mode, **options):
        self.layer = haste.torch.Layer(a.labels, a.inputs, group_size=a.group_size, fan_in=a.fan_in, loss=loss, mode=mode, device="cuda",
                                       lr=.001, batch=a.batch, **{"optimizer": "adamw", **options})

    def step(self, h, offset, ids):
        self.layer(h, offset, ids).backward()


class Dense:
    def __init__(self, a, loss):
        self.linear = torch.nn.Linear(a.inputs, a.labels, device=GPU)
        self.optimizer = torch.optim.AdamW(self.linear.parameters(), lr=.001, fused=True)
        self.loss = loss

    def step(self, h, offset, ids):
        with autocast():
            loss = self.loss(self.linear, h, offset, ids)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def rows_of(offset):
    return torch.repeat_interleave(torch.arange(len(offset) - 1, device=GPU), offset.diff(), output_size=2 * (len(offset) - 1))


def bce(linear, h, offset, ids):
    z = linear(h)
    y = torch.zeros_like(z)
    y[rows_of(offset), ids.long()] = 1
    return functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(h)


def bce_chunked(linear, h, offset, ids, chunks=16):
    """A sixteenth of the labels at a time, logits computed again in backward."""
    def part(weight, bias, first):
        z = functional.linear(h, weight, bias)
        y = torch.zeros_like(z)
        inside = (ids >= first) & (ids < first + len(bias))   # the others add 0 to place 0
        y.index_put_((row, torch.where(inside, ids - first, 0).long()), inside.to(z.dtype), accumulate=True)
        return functional.binary_cross_entropy_with_logits(z, y, reduction="sum")
    row, total, first = rows_of(offset), 0., 0
    for weight, bias in zip(linear.weight.chunk(chunks), linear.bias.chunk(chunks)):
        total = total + checkpoint(part, weight, bias, first, use_reentrant=False, preserve_rng_state=False)
        first += len(bias)
    return total / len(h)


def cross_entropy(linear, h, offset, ids):
    return functional.cross_entropy(linear(h), ids.long())


def sampled(linear, h, offset, ids, count=8192):
    """The batch's labels and 8,192 drawn evenly, with the logQ correction for these."""
    drawn = torch.randint(0, linear.out_features, (count,), device=GPU)
    some = torch.cat([ids.long(), drawn])
    z = functional.linear(h, linear.weight[some], linear.bias[some]).float()
    z = torch.cat([z[:, :len(ids)], z[:, len(ids):] + torch.log(torch.tensor(linear.out_features / count))], 1)
    z[:, :len(ids)].masked_fill_(~torch.eye(len(ids), dtype=torch.bool, device=GPU), -1e4)   # of the batch's labels only its own
    return functional.cross_entropy(z, torch.arange(len(ids), device=GPU))


def rows(a):
    yield "haste, BCE, fused", lambda: Haste(a, "bce", "fused")
    yield "haste, BCE, exact", lambda: Haste(a, "bce", "exact")
    yield "nn.Linear, BCE", lambda: Dense(a, bce)
    yield "nn.Linear, BCE, torch.compile", lambda: Dense(a, torch.compile(bce))
    yield "nn.Linear, BCE, 16 chunks", lambda: Dense(a, bce_chunked)
    yield "haste, softmax, fused", lambda: Haste(a, "softmax", "fused")
    yield "nn.Linear, softmax", lambda: Dense(a, cross_entropy)
    yield "nn.Linear, softmax, torch.compile", lambda: Dense(a, torch.compile(cross_entropy))
    if hasattr(torch.nn, "LinearCrossEntropyLoss"):
        yield "nn.LinearCrossEntropyLoss", lambda: Dense(a, lambda l, h, o, i: functional.linear_cross_entropy(h, l.weight, i.long(), l.bias))
    yield "nn.Linear, sampled softmax (8,192)", lambda: Dense(a, sampled)


def measure(step, n=20):
    for _ in range(5):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(n + 1)]
    for event in events[:-1]:
        event.record()
        step()
    events[-1].record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(events, events[1:])), torch.cuda.max_memory_allocated() / 2**20


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    for name, value in (("labels", 670208), ("inputs", 768), ("batch", 128), ("group-size", 32), ("fan-in", 64), ("many", 100_000_000)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--rows", default="")
    a = p.parse_args()
    torch.manual_seed(0)
    x = torch.randn(a.batch, a.inputs, device=GPU).bfloat16().requires_grad_()
    one = torch.randint(0, a.labels, (a.batch,), device=GPU)
    two = torch.arange(a.batch + 1, device=GPU) * 2, torch.randint(0, a.labels, (2 * a.batch,), device=GPU, dtype=torch.int32)
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(a.inputs, 12, 4 * a.inputs, 0., batch_first=True, device=GPU), 6)
    its = torch.optim.AdamW(encoder.parameters(), lr=1e-4, fused=True)
    tokens = torch.randn(a.batch, 64, a.inputs, device=GPU)

    def encoded(then):
        with autocast():
            h = encoder(tokens).mean(1)
        then(h)
        its.step()
        its.zero_grad(set_to_none=True)

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: {a.labels:,} labels, {a.inputs} inputs, B {a.batch}; "
          f"haste S {a.group_size}, F {a.fan_in}, bfloat16 weights\n")
    print("| | ms a step | peak MiB | the encoder, ms | both, ms | peak MiB |\n|---|---|---|---|---|---|", flush=True)
    for name, make in rows(a):
        if not re.search(a.rows, name):
            continue
        try:
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated() / 2**20
            layer = make()
            lists = (None, one) if "softmax" in name or "Entropy" in name else two
            given = (lambda h: layer.step(h, one, None)) if isinstance(layer, Haste) and lists[0] is None else (lambda h: layer.step(h, *lists))

            def alone():
                x.grad = None
                given(x)
            ms, peak = measure(alone)
            turns = [(measure(lambda: encoded(lambda h: h.float().sum().backward()))[0], *measure(lambda: encoded(given))) for _ in range(5)]
            encoder_ms, both, whole = map(statistics.median, zip(*turns))
            low, high = min(b - a for a, b, _ in turns), max(b - a for a, b, _ in turns)
            print(f"| {name} | {ms:.2f} | {peak - before:,.0f} | {encoder_ms:.2f} | {both:.2f} ({low:+.2f} to {high:+.2f}) | {whole:,.0f} |",
                  flush=True)
        except Exception as error:   # a row that this torch or GPU does not have is no reason to lose the others
            print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:80]} |", flush=True)
        layer = given = None
    if a.many:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        layer = haste.torch.Layer(a.many, 384, group_size=32, fan_in=32, device="cuda", lr=1.)
        for B in (64, 256):
            h = torch.randn(B, 384, device=GPU, requires_grad=True)
            ids = torch.randint(0, a.many, (B,), device=GPU)
            ms, peak = measure(lambda: layer(h, ids).backward(), 10)
            best, _ = measure(lambda: layer.top_k(h, 5), 10)
            print(f"\n{a.many:,} labels, 384 inputs, S 32, F 32, SGD, B {B}: {ms:.1f} ms a step, top-5 {best:.1f} ms, "
                  f"{peak - before / 2**20:,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
