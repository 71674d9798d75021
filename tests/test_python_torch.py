"""haste.torch: every mode against dense masked layers of torch's in float64, and what people do to modules.

    python3 tests/test_python_torch.py [TestClass[.test]]"""
import contextlib
import copy
import importlib.util
import io
import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as functional
from torch.utils.checkpoint import checkpoint

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/python"))
import haste
import haste.torch
import train
from haste.shards import LabelShards
from haste.torch import Layer

L, D, B = 101, 24, 9
BLOCKS = [{"labels": 20, "fan_in": haste.DENSE, "group_size": 8}, {"fan_in": 10, "group_size": 16}]
torch.manual_seed(0)


def make(mode="fused", **options):
    if mode != "parameters":
        options.setdefault("lr", .1)
    return Layer(L, D, BLOCKS, mode=mode, seed=5, **options)


def batch(seed=0, n=B):
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(L, generator=g)[:torch.randint(0, 5, (1,), generator=g)].tolist() for _ in range(n)]
    return torch.randn(n, D, generator=g), rows


def csr(rows):
    return torch.tensor([0] + [len(r) for r in rows]).cumsum(0), torch.tensor([l for r in rows for l in r], dtype=torch.int64)


class Dense(torch.nn.Module):
    """The same layer as a masked matrix in float64."""

    def __init__(self, layer):
        super().__init__()
        core = layer.core
        offset, column, value = core.labels_get_sparse()
        mask = torch.zeros(L, D, dtype=torch.float64)
        for l in range(L):
            mask[l, column[offset[l]:offset[l + 1]]] = 1
        self.mask = mask
        self.W = torch.nn.Parameter(torch.from_numpy(core.labels_get()[0]).double())
        self.b = torch.nn.Parameter(torch.from_numpy(core.labels_get()[1]).double())

    def forward(self, x, rows):
        y = torch.zeros(len(x), L, dtype=torch.float64)
        for b, row in enumerate(rows):
            y[b, row] = 1
        z = x.double() @ (self.W * self.mask).T + self.b
        return functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(x)


def weights(layer):
    return torch.from_numpy(layer.core.labels_get()[0]).double()


class Case(unittest.TestCase):
    def close(self, got, want, tolerance=3e-6):
        got, want = torch.as_tensor(got).detach().double(), torch.as_tensor(want).detach().double()
        self.assertEqual(got.shape, want.shape)
        self.assertLess(float((got - want).abs().max() / want.abs().max().clamp(min=1e-30)), tolerance)

    def grad_of_labels(self, layer):
        """.grad of the parameters of mode parameters, as [L, D] or [L], through a layer that has it as weights."""
        core = layer.core.copy()
        for i in range(2):
            core.weight(i)[:] = layer._parameters[f"weight{i}"].grad.numpy()
            core.bias(i)[:] = layer._parameters[f"bias{i}"].grad.numpy()
        return [torch.from_numpy(a) for a in core.labels_get()]


class TestGradients(Case):
    def test_updates(self):
        """Modes that update themselves, three steps, an encoder before the layer."""
        for mode in ("fused", "exact", "accumulate"):
            for optimizer, lr in (("sgd", .3), ("adamw", .01)):
                with self.subTest(mode=mode, optimizer=optimizer):
                    layer = make(mode, optimizer=optimizer, lr=lr)
                    dense = Dense(layer)
                    other = (torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW)(dense.parameters(), lr=lr, weight_decay=0.)
                    encoder = torch.nn.Linear(7, D)
                    for step in range(3):
                        _, rows = batch(step)
                        x = torch.randn(B, 7)
                        encoder.zero_grad()
                        loss = layer(encoder(x), *csr(rows))
                        loss.backward()
                        if mode == "accumulate":
                            layer.apply()
                        got = encoder.weight.grad.clone()
                        encoder.zero_grad()
                        other.zero_grad()
                        want = dense(encoder(x), rows)
                        want.backward()
                        other.step()
                        self.close(loss, want.detach())
                        self.close(got, encoder.weight.grad, 1e-5)
                        self.close(weights(layer), (dense.W * dense.mask).detach(), 3e-5)
                    self.assertEqual(layer.core.step, 3)

    def test_parameters(self):
        layer = make("parameters")
        dense = Dense(layer)
        x, rows = batch()
        x.requires_grad_()
        (layer(x, rows) * .3).backward()
        gx, x.grad = x.grad, None
        (dense(x, rows) * .3).backward()
        W, b = self.grad_of_labels(layer)
        self.close(W, dense.W.grad)
        self.close(b, dense.b.grad)
        self.close(gx, x.grad, 1e-5)
        layer(x, rows).backward()   # += as of every parameter
        dense(x, rows).backward()
        self.close(self.grad_of_labels(layer)[0], dense.W.grad)
        self.assertTrue(np.shares_memory(layer.weight0.detach().numpy(), layer.core.weight(0)))
        self.assertEqual(sum(p.numel() for p in layer.parameters()),
                         sum(layer.core.weight(i).size + layer.core.bias(i).size for i in range(2)))

    def test_parameters_optimizers(self):
        for optimizer in (lambda p: torch.optim.AdamW(p, lr=.01, weight_decay=.1), lambda p: torch.optim.SGD(p, lr=.3, momentum=.9)):
            layer = make("parameters")
            dense = Dense(layer)
            ours, theirs = optimizer(layer.parameters()), optimizer(dense.parameters())
            for step in range(3):
                x, rows = batch(step)
                for module, o in ((layer, ours), (dense, theirs)):
                    o.zero_grad()
                    module(x, rows).backward()
                    torch.nn.utils.clip_grad_norm_(module.parameters(), .5)
                    o.step()
            self.close(weights(layer), (dense.W * dense.mask).detach(), 3e-5)
            layer.core.check()   # padding stayed 0

    def test_logits(self):
        """A loss of one's own."""
        layer = make("parameters")
        dense = Dense(layer)
        x, rows = batch()
        x.requires_grad_()
        y = torch.zeros(B, L)
        for b, row in enumerate(rows):
            y[b, row] = 1
        z = layer.logits(x)[:, torch.from_numpy(layer.core.slot_of).long()]
        functional.binary_cross_entropy_with_logits(z, y, reduction="sum").div(B).backward()
        gx, x.grad = x.grad, None
        dense(x, rows).backward()
        self.close(self.grad_of_labels(layer)[0], dense.W.grad)
        self.close(gx, x.grad, 1e-5)
        layer = make("exact")
        with self.assertRaisesRegex(haste.Error, "mode \"parameters\""):
            layer.logits(x)
        with torch.no_grad():
            self.assertEqual(layer.logits(x).shape, (B, layer.core.slots))
        x.grad = None
        layer.eval().logits(x).sum().backward()
        self.close(x.grad, weights(layer).sum(0).expand(B, D), 1e-5)

    def test_types_of_x(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for mode in haste.torch.MODES:
                layer = make(mode)
                x, rows = batch()
                x = x.to(dtype).requires_grad_()
                layer(x, rows).backward()
                self.assertEqual(x.grad.dtype, dtype)
                y = x.detach().float().requires_grad_()
                dense = Dense(make(mode))
                dense(y, rows).backward()
                self.close(x.grad, y.grad, 1e-5 if dtype == torch.float32 else 1e-2)
        with torch.autocast("cpu", torch.bfloat16):
            encoder = torch.nn.Linear(D, D)
            layer(encoder(batch()[0]), batch()[1]).backward()
            self.assertEqual(encoder.weight.grad.dtype, torch.float32)
        y = torch.randn(D, B).T.requires_grad_()   # not contiguous
        layer(y, rows).backward()
        self.assertEqual(y.grad.shape, (B, D))


    def test_default_dtype(self):
        """torch's default type is the caller's affair."""
        want = make("exact")
        want(*batch()).backward()
        for dtype in (torch.float64, torch.bfloat16):
            layers = [make(mode) for mode in haste.torch.MODES]
            x, rows = batch()
            torch.set_default_dtype(dtype)
            try:
                for layer in layers:
                    y = x.clone().requires_grad_()
                    layer(y, rows).backward()
                    layer.eval().logits(y).sum().backward()
                    self.assertEqual(layer.top_k(x, 3)[1].dtype, torch.float32)
            finally:
                torch.set_default_dtype(torch.float32)
            self.assertTrue((weights(layers[1]) == weights(want)).all())
            self.assertEqual([layer.core.pending for layer in layers], [0, 0, 1, 0])   # eval's logits leave no gradients

    def test_rates_of_blocks(self):
        """Of an update from what was accumulated, too."""
        layer = make("accumulate", lr=.1)
        layer.options["blocks"] = [{"lr": 0}, {"lr": 0}]
        before = weights(layer)
        layer(*batch()).backward()
        layer.apply()
        self.assertTrue((weights(layer) == before).all())


class TestSemantics(Case):
    """What falls on users of layers that train in forward."""

    def loss(self, layer, seed=0):
        with torch.no_grad():
            return float(layer(*batch(seed)))

    def change(self, mode, factor=1., run=None, optimizer="sgd"):
        """How far weights move for loss * factor."""
        layer = make(mode, optimizer=optimizer)
        before = weights(layer)
        x, rows = batch()
        (run(layer, x, rows) if run else layer(x, rows) * factor).backward()
        if mode == "accumulate":
            layer.apply()
        return weights(layer) - before

    def test_no_grad_and_eval_never_train(self):
        for mode in haste.torch.MODES:
            layer = make(mode)
            before = weights(layer)
            first = self.loss(layer)
            self.assertEqual(self.loss(layer), first)
            with torch.inference_mode():
                layer(*batch())
            layer.eval()
            x = batch()[0].requires_grad_()
            loss = layer(x, batch()[1])
            (loss * .5).backward()   # a frozen layer has gradients for x
            dense, y = Dense(layer), x.detach().clone().requires_grad_()
            (dense(y, batch()[1]) * .5).backward()
            self.close(x.grad, y.grad, 1e-5)
            self.assertFalse(layer(batch()[0], batch()[1]).requires_grad)
            self.assertTrue((weights(layer) == before).all())
            self.assertEqual(layer.core.step, 0)

    def test_factors(self):
        whole = self.change("fused")
        for mode in ("exact", "accumulate"):
            self.close(self.change(mode), whole)
            self.close(self.change(mode, .3), .3 * whole)
            self.close(self.change(mode, -2.), -2 * whole)
            self.assertTrue((self.change(mode, 0.) == 0).all())
            self.close(self.change(mode, run=lambda l, x, r: l(x, r, scale=1.) / (2 * B)), whole / 2)
        with self.assertRaisesRegex(haste.Error, "multiplied by 0.3 after the layer had been updated"):
            self.change("fused", .3)
        self.close(self.change("fused", run=lambda l, x, r: l(x, r, scale=.3 / B)), .3 * whole)
        self.close(self.change("fused", run=lambda l, x, r: l(x, r) + torch.ones(1, requires_grad=True).sum()), whole)

    def test_zero_gradient_still_decays(self):
        layer = make("exact", weight_decay=.5)
        before = weights(layer)
        (layer(*batch()) * 0).backward()
        self.close(weights(layer), before * (1 - .1 * .5))

    def test_without_a_gradient_for_x(self):
        """Fixed features: nothing but the layer needs backward."""
        whole = self.change("fused")
        for mode in haste.torch.MODES[1:3]:
            self.close(self.change(mode), whole)
        loss = make("exact")(*batch())
        self.assertTrue(loss.requires_grad)

    def test_checkpointing(self):
        whole = self.change("fused")
        for reentrant in (True, False):
            for mode in ("exact", "accumulate"):
                encoder = torch.nn.Linear(D, D)
                with torch.no_grad():
                    encoder.weight.copy_(torch.eye(D))
                    encoder.bias.zero_()
                run = lambda l, x, r: checkpoint(lambda x: l(encoder(x), r), x.requires_grad_(), use_reentrant=reentrant)
                self.close(self.change(mode, run=run), whole)
            with self.assertRaisesRegex(haste.Error, "gradient checkpointing"):
                self.change("fused", run=run)

    def test_accumulation(self):
        for optimizer in ("sgd", "adamw"):
            x, rows = batch(3, 12)
            whole, parts = make("exact", optimizer=optimizer), make("accumulate", optimizer=optimizer)
            whole(x, rows).backward()
            for first in range(0, 12, 4):
                (parts(x[first:first + 4], rows[first:first + 4]) / 3).backward()
            self.assertEqual(parts.core.pending, 3)
            for call in (lambda: parts.state_dict(), lambda: copy.deepcopy(parts), lambda: pickle.dumps(parts)):
                with self.assertRaisesRegex(haste.Error, "pending"):
                    call()
            parts.apply()
            self.close(weights(parts), weights(whole), 1e-5)
        with self.assertRaisesRegex(haste.Error, "accumulate"):
            whole.apply()
        self.assertIs(whole.apply(lambda module: None), whole)   # torch's own

    def test_clip(self):
        """Of all the layer's gradients together."""
        layer = make("accumulate", lr=1.)
        dense, before = Dense(layer), weights(layer)
        x, rows = batch()
        dense(x, rows).backward()
        norm = torch.cat([dense.W.grad.ravel(), dense.b.grad]).norm()
        layer(x, rows).backward()
        layer.apply(clip=float(norm) / 2, grad_norm=True)
        self.close(layer.core.grad_norm, norm)
        self.close(weights(layer), before - dense.W.grad / 2)

    def test_one_backward_each(self):
        layer = make("exact")
        loss = layer(*batch())
        loss.backward(retain_graph=True)
        with self.assertRaisesRegex(haste.Error, "changed between forward and backward"):
            loss.backward()
        a, b = layer(*batch(0)), layer(*batch(1))
        with self.assertRaisesRegex(haste.Error, "mode \"accumulate\""):
            (a + b).backward()
        layer = make("accumulate")
        (layer(*batch(0)) + layer(*batch(1))).backward()
        layer.apply()
        x = batch()[0].requires_grad_()
        with self.assertRaises(RuntimeError):   # no second derivatives, and torch says so
            torch.autograd.grad(torch.autograd.grad(make("exact")(x, batch()[1]), x, create_graph=True)[0].sum(), x)
        x, rows = batch()
        y = x.clone()
        loss = layer(y, rows)
        y.add_(1)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    def test_between_forward_and_backward(self):
        layer = make("parameters")
        for forward in (lambda: layer(*batch()), lambda: layer.logits(batch()[0]).sum()):
            loss = forward()
            with torch.no_grad():
                layer.weight1.mul_(2)
            with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
                loss.backward()
        for mode in ("exact", "accumulate", "parameters"):
            layer, other = make(mode), make(mode)
            x = batch()[0].requires_grad_()
            y = x.detach().clone().requires_grad_()
            loss, same = layer(x, batch()[1]), other(y, batch()[1])
            layer.share_memory()   # moves it
            loss.backward()
            same.backward()
            self.assertTrue((x.grad == y.grad).all() and (weights(layer) == weights(other)).all())

    def test_grad_scaler(self):
        whole = self.change("fused")
        for mode in ("exact", "accumulate", "fused", "parameters"):
            layer, x = make(mode), batch()[0].requires_grad_()
            before = weights(layer)
            anchor = torch.nn.Linear(D, D)
            optimizer = torch.optim.SGD([*anchor.parameters(), *layer.parameters()], lr=.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.)
            layer.loss_scale = scaler.get_scale()
            loss = layer(x, batch()[1])
            scaler.scale(loss).backward()
            y = x.detach().clone().requires_grad_()
            Dense(make(mode))(y, batch()[1]).backward()
            self.close(x.grad / 1024, y.grad, 1e-5)
            for p in anchor.parameters():
                p.grad = torch.zeros_like(p)
            scaler.step(optimizer)
            if mode == "accumulate":
                layer.apply()
            self.close(weights(layer) - before, whole)

    def test_options_of_a_call(self):
        layer = make("exact", lr=.1)
        x, rows = batch()
        weight = torch.rand(B)
        with torch.no_grad():
            got = layer(x, rows, sample_weight=weight, ignored=[[l] for l in range(B)], positive_weight=2.)
        want = layer.core.evaluate(x.numpy(), rows, sample_weight=weight.numpy(), ignored=[[l] for l in range(B)], positive_weight=2.)
        self.close(got, want)
        before = weights(layer)
        layer.options["lr"] = 0.
        layer(x, rows).backward()
        self.assertTrue((weights(layer) == before).all())
        layer(x, rows, lr=.1, sample_weight=weight).backward()
        self.assertFalse((weights(layer) == before).all())


class TestLists(Case):
    def test_forms(self):
        layer = make().eval()
        x, rows = batch()
        offset, ids = csr(rows)
        want = layer(x, rows)
        sparse = torch.sparse_csr_tensor(offset, ids, torch.ones(len(ids)), (B, L))
        for form in ((offset, ids), (offset.int(), ids.int()), (offset.numpy(), ids.numpy()), sparse,
                     [torch.tensor(row, dtype=torch.int64) for row in rows]):
            self.assertEqual(layer(x, form), want)
        self.assertEqual(layer(x, offset, ids), want)
        one = torch.arange(B)
        self.assertEqual(layer(x, one), layer(x, [[l] for l in range(B)]))

    def test_sentences(self):
        layer = make()
        x, rows = batch()
        for call, text in ((lambda: layer(x.double(), rows), "x is torch.float64 .*expected a tensor"),
                           (lambda: layer(x.numpy(), rows), "x is ndarray"), (lambda: layer(x[0], rows), r"x is torch.float32 \[24\]"),
                           (lambda: layer(x[:, :5], rows), r"\[9, 5\]"), (lambda: layer(x.to("meta"), rows), "x is on meta"),
                           (lambda: layer(x, rows[1:]), "positives has 8 lists"),
                           (lambda: layer(x, torch.arange(B).float()), "positives.id holds float32"),
                           (lambda: layer(x, torch.arange(B) + L), "expected -1 to 100"),
                           (lambda: layer(x, rows, sample_weight=torch.ones(B).double()), "sample_weight holds float64"),
                           (lambda: layer(x / 0, rows), "not finite"),
                           (lambda: layer.top_k(x.to("meta"), 1), "x is on meta"),
                           (lambda: layer.core.top_k(x, 1), "haste.torch.Layer takes tensors"),
                           (lambda: Layer(L, D), "needs lr"), (lambda: Layer(L, D, mode="lazy"), "mode = 'lazy'"),
                           (lambda: Layer(L, D, device="cuda"), "device = 'cuda'"),
                           (lambda: Layer(L, D, mode="parameters", dtype="bfloat16"), "dtype float32"),
                           (lambda: Layer(L, D, mode="parameters", optimizer="adamw"), "no optimizer"),
                           (lambda: make("parameters").half()(x, rows), "weight0 is torch.float16")):
            with self.subTest(text=text):
                with self.assertRaisesRegex(haste.Error, text):
                    call()
        self.assertEqual(layer.core.step, 0)


class TestState(Case):
    def trained(self, mode, **options):
        layer = make(mode, **options)
        for step in range(2):
            layer(*batch(step)).backward()
            if mode == "accumulate":
                layer.apply()
        if mode != "parameters":
            layer.rewire(.2)
        return layer

    def same(self, a, b):
        """They go on alike, bit for bit, and apart."""
        b_first = weights(b)
        for layer in (a, b):
            layer.zero_grad()
            layer(*batch(9)).backward()
            if layer.mode == "accumulate":
                layer.apply()
            elif layer.mode == "parameters":
                torch.optim.SGD(layer.parameters(), .1).step()
                layer.zero_grad()
            if layer is a:
                self.assertTrue((weights(b) == b_first).all())
            layer.rewire(.1)
        self.assertTrue((weights(a) == weights(b)).all())
        self.assertEqual((a.core.step, a.core.rewires), (b.core.step, b.core.rewires))
        self.assertTrue((a.core.index(1) == b.core.index(1)).all())
        b.core.check()

    def test_copies(self):
        def saved(layer):
            file = io.BytesIO()
            torch.save(layer, file)
            file.seek(0)
            return torch.load(file, weights_only=False)
        for mode in haste.torch.MODES:
            for how in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved):
                layer = self.trained(mode, **({} if mode == "parameters" else {"optimizer": "adamw", "lr": .01}))
                other = how(layer)
                self.assertNotEqual(other.memory.data_ptr(), layer.memory.data_ptr())
                self.same(layer, other)

    def test_state_dict(self):
        for mode in haste.torch.MODES:
            for assign in (False, True):
                for part_of_a_model in (False, True):
                    layer = self.trained(mode)
                    other = Layer(L, D, BLOCKS, mode=mode, seed=99, **({} if mode == "parameters" else {"lr": .1}))
                    a, b = (torch.nn.Sequential(torch.nn.Linear(2, 2), m) if part_of_a_model else m for m in (layer, other))
                    file = io.BytesIO()
                    torch.save(a.state_dict(), file)
                    self.assertLess(len(file.getvalue()), 2 * layer.memory.nbytes + 20000)
                    file.seek(0)
                    missing, unexpected = b.load_state_dict(torch.load(file, weights_only=True), assign=assign)
                    self.assertEqual((missing, unexpected), ([], []))
                    self.same(layer, other)

    def test_state_of_another_layer(self):
        layer = make()
        before = weights(layer)
        for other, text in ((Layer(L + 1, D, BLOCKS, lr=.1), "labels = 102, here 101"), (make(optimizer="adamw"), "optimizer = 'adamw'"),
                            (make(dtype="bfloat16"), "dtype")):
            with self.assertRaisesRegex(RuntimeError, text):
                layer.load_state_dict(other.state_dict())
        state = make().state_dict()
        state["memory"] = state["memory"].clone()
        state["memory"][:4] = 255
        with self.assertRaisesRegex(RuntimeError, "the state has another layer"):
            layer.load_state_dict(state)
        state = make().state_dict()
        state["_extra_state"]["haste"] = 100
        with self.assertRaisesRegex(RuntimeError, "version 100"):
            layer.load_state_dict(state)
        self.assertTrue((weights(layer) == before).all())
        with self.assertRaisesRegex(RuntimeError, "Missing key"):
            layer.load_state_dict({})

    def test_moved_memory(self):
        """share_memory, and memory that is not aligned."""
        for mode in ("exact", "parameters"):
            layer, other = self.trained(mode), self.trained(mode)
            layer.zero_grad(), other.zero_grad()
            layer.share_memory()
            self.assertTrue(layer.memory.is_shared())
            self.same(other, layer)
            odd = torch.empty(layer.memory.numel() + 8, dtype=torch.uint8)[8:]
            odd.copy_(layer.memory)
            layer.memory = odd
            self.same(other, layer)
            layer.double() if mode == "exact" else None   # a layer's numbers are not those of its buffer
            layer.top_k(batch()[0], 1)
            with self.assertRaisesRegex(haste.Error, "on meta|moved to meta"):
                layer.to("meta")(*batch())

    def test_vector_to_parameters(self):
        """Parameters whose storage somebody replaces."""
        layer = make("parameters")
        vector = torch.nn.utils.parameters_to_vector(layer.parameters()) * 2
        before = weights(layer)
        torch.nn.utils.vector_to_parameters(vector, layer.parameters())
        self.close(weights(layer), 2 * before)

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.haste")
            layer = self.trained("exact", optimizer="adamw")
            layer.save(path)
            self.same(Layer.load(path, mode="exact", lr=.1), layer)
            layer.save(path)
            other = Layer.load(path, mode="parameters")
            self.assertTrue((weights(other) == weights(layer)).all())
            other(*batch()).backward()
            self.assertTrue((haste.load(path).top_k(batch()[0].numpy(), 3)[0] == layer.top_k(batch()[0], 3)[0].numpy()).all())

    def test_from_core(self):
        """A module from a numpy layer, which stays as it is."""
        core = make("exact", optimizer="adamw").core.copy()
        wider, _ = core.labels_add(7)
        for mode in haste.torch.MODES:
            for source in (core, wider, core.slice(0, 24 + 32)[0], haste.load_memory(core.save_memory())):
                before = source.to_memory()
                layer = Layer.from_core(source, mode=mode, **({} if mode == "parameters" else {"lr": .1}))
                self.assertTrue((layer.core.labels_get()[0] == source.labels_get()[0]).all())
                layer(batch()[0], torch.arange(B)).backward()
                self.assertTrue((source.to_memory() == before).all())
        self.assertEqual((layer.labels, layer.core.loss), (L, "bce"))
        with self.assertRaisesRegex(haste.Error, "mode = 'lazy'"):
            Layer.from_core(core, mode="lazy", lr=.1)
        with self.assertRaisesRegex(TypeError, "batches"):
            Layer.from_core(core, lr=.1, batches=3)
        with self.assertRaisesRegex(haste.Error, "pending"):
            core.accumulate(batch()[0].numpy(), batch()[1])
            Layer.from_core(core, lr=.1)

    def test_average(self):
        for use_buffers in (False, True):
            layer = make("parameters")
            mean = torch.optim.swa_utils.AveragedModel(layer, use_buffers=use_buffers)
            mean.update_parameters(layer)
            with torch.no_grad():
                [p.mul_(3) for p in layer.parameters()]
            first = weights(mean.module)
            mean.update_parameters(layer)
            self.close(weights(mean.module), 2 * first)


class TestRewire(Case):
    def test_state_follows(self):
        layer = make("parameters")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=.01)
        x, rows = batch()
        layer(x, rows).backward()
        optimizer.step()
        with self.assertRaisesRegex(haste.Error, "zero_grad"):
            layer.rewire(.3)
        optimizer.zero_grad()
        index = layer.core.index(1).copy()
        dense, state = (optimizer.state[p]["exp_avg"].clone() for p in (layer.weight0, layer.weight1))
        moved = layer.rewire(.3, optimizer=optimizer)
        row, now = layer.core.origin[1], optimizer.state[layer.weight1]["exp_avg"]
        self.assertEqual((row < 0).sum(), moved)
        self.assertGreater(moved, 0)
        for g in range(len(index)):
            for f in range(index.shape[1]):
                self.assertTrue((now[g, f] == (state[g, row[g, f]] if row[g, f] >= 0 else 0)).all())
                if row[g, f] >= 0:
                    self.assertEqual(layer.core.index(1)[g, f], index[g, row[g, f]])
        self.assertTrue((optimizer.state[layer.weight0]["exp_avg"] == dense).all())
        self.assertTrue((layer.weight1.detach().numpy() == layer.core.weight(1)).all())
        layer(x, rows).backward()
        optimizer.step()
        layer.core.check()

    def test_from_gradients(self):
        x, rows = batch()
        self.assertGreater(make().rewire(.3, growth="gradient", prune="saliency", x=x, positives=rows), 0)
        layer, core = make(positive_weight=2.), make().core   # the module's options count
        scores, same = haste.InputScores(layer.core), haste.InputScores(core)
        for step in range(3):
            x, rows = batch(step)
            layer.score_inputs(scores, x, *csr(rows))
            core.score_inputs(same, x.numpy(), rows, positive_weight=2.)
        self.assertTrue((scores.score[1] == same.score[1]).all() and scores.score[1].any())
        self.assertGreater(layer.rewire(.3, growth="gradient", scores=scores), 0)


class TestPrediction(Case):
    def test_all(self):
        layer = make()
        x, rows = batch(n=300)
        z = x.double() @ weights(layer).T
        id, score = layer.top_k(x, 5)
        want = z.topk(5)
        self.assertTrue((id == want.indices).all())
        self.close(score, want.values)
        self.assertEqual((layer.top_k(x.bfloat16(), 1)[0].dtype, score.dtype), (torch.int32, torch.float32))
        offset, id, score = layer.above(x, 1.)
        self.assertEqual(int(offset[-1]), int((z > 1).sum()))
        self.close(layer.score(x, rows), torch.cat([z[b, row] for b, row in enumerate(rows)]))
        self.close(layer.score(x, *csr(rows)), torch.cat([z[b, row] for b, row in enumerate(rows)]))
        excluded, _ = layer.top_k(x, 5, excluded=csr(rows))
        self.assertFalse(any(set(row) & set(got.tolist()) for row, got in zip(rows, excluded)))
        id, _ = layer.top_k(x, 5, only=csr(rows))
        self.assertEqual([set(got.tolist()) - {-1} for got in id], list(map(set, rows)))
        self.assertEqual(layer.above(x, -99., csr(rows), [torch.arange(L)] * len(rows))[0][-1], len(rows) * L - sum(map(len, rows)))


class Asks(torch.utils.data.Dataset):
    def __init__(self, layer):
        self.layer = layer

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.layer.top_k(batch(i)[0], 2)[0]


def begin(rank, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)


def spawn(function, folder):
    """function(rank, port, folder) in two processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(function, (port, folder), nprocs=2)


def replica(rank, port, folder):
    """Two processes with half of the samples each, in one of DDP's."""
    begin(rank, port)

    class Model(torch.nn.Module):
        def __init__(self, mode):
            super().__init__()
            self.encoder, self.layer = torch.nn.Linear(D, D), make(mode)

        def forward(self, x, rows):
            return self.layer(self.encoder(x), rows)
    for model in (*map(make, haste.torch.MODES[:3]), *(torch.nn.parallel.DistributedDataParallel(Model(m)) for m in haste.torch.MODES[:3])):
        try:
            model(*batch())
            raise AssertionError("a layer that updates itself was not refused")
        except haste.Error as error:
            assert "replicas would drift apart" in str(error)
    make("exact", shard=True)(*batch()).backward()
    layer = make("parameters", threads=1)
    model = torch.nn.parallel.DistributedDataParallel(layer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=.01)
    for step in range(2):
        x, rows = batch(step, 8)
        optimizer.zero_grad()
        model(x[rank * 4:rank * 4 + 4], rows[rank * 4:rank * 4 + 4]).backward()
        optimizer.step()
    np.save(f"{folder}/{rank}.npy", layer.core.labels_get()[0])
    layer = make("accumulate", shard=True, threads=1, optimizer="adamw", lr=.01)
    for step in range(2):
        x, rows = batch(step, 8)
        layer(x[rank * 4:rank * 4 + 4], rows[rank * 4:rank * 4 + 4]).backward()
        for array in (array for pair in layer.core.gradient for array in pair):
            torch.distributed.all_reduce(torch.from_numpy(array))
            array /= 2
        layer.apply()
    np.save(f"{folder}/summed{rank}.npy", layer.core.labels_get()[0])
    torch.distributed.destroy_process_group()


class TestProcesses(Case):
    def test_data_loader(self):
        """Workers that are forked after threads were used: no hanging."""
        layer = make(threads=2)
        layer(*batch()).backward()
        loader = torch.utils.data.DataLoader(Asks(layer), num_workers=2, timeout=60,
                                             multiprocessing_context="fork" if hasattr(os, "fork") else None)
        for i, got in enumerate(loader):
            self.assertTrue((got[0] == layer.top_k(batch(i)[0], 2)[0]).all())

    def test_replicas(self):
        with tempfile.TemporaryDirectory() as folder:
            spawn(replica, folder)
            a, b = (np.load(f"{folder}/{rank}.npy") for rank in range(2))
            c, d = (np.load(f"{folder}/summed{rank}.npy") for rank in range(2))
        self.assertTrue((a == b).all() and (c == d).all())
        layer = make("exact", optimizer="adamw", lr=.01)
        for step in range(2):
            layer(*batch(step, 8)).backward()
        self.close(c, weights(layer), 3e-5)
        layer = make("parameters")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=.01)
        for step in range(2):
            optimizer.zero_grad()
            layer(*batch(step, 8)).backward()
            optimizer.step()
        self.close(a, weights(layer), 3e-5)

    def test_shared(self):
        """share_memory: what a child trains, the parent has."""
        for mode in ("fused", "exact"):
            layer, other = make(mode), make(mode)
            layer.share_memory()
            torch.multiprocessing.spawn(child, (layer,), nprocs=1)
            other(*batch()).backward()
            self.assertTrue((weights(layer) == weights(other)).all())
            self.assertEqual(layer.core.step, 0)   # that stays in each process

    def test_label_shards(self):
        """Two processes with half of the labels each, and 5 and 4 samples, against one layer with all."""
        with tempfile.TemporaryDirectory() as folder:
            spawn(sharded, folder)
            for name, options in SHARDED.items():
                layer, encoder, (x, rows) = make(**options), encoder_of(), batch()
                with torch.no_grad():
                    want = layer.top_k(encoder(x), 4)
                loss = layer(encoder(x), rows, sample_weight=torch.arange(1., B + 1))
                loss.backward()
                for rank, own in ((0, slice(0, 5)), (1, slice(5, B))):
                    with np.load(f"{folder}/{name}{rank}.npz") as got:
                        self.close(got["loss"], loss)
                        self.close(got["grad"], encoder.weight.grad, 1e-5)
                        self.close(got["weight"], weights(layer)[got["id"]], 3e-5)
                        self.assertTrue((got["top"] == want[0][own].numpy()).all())
                        self.close(got["score"], want[1][own])
                joined = haste.load(f"{folder}/{name}.haste")
                self.close(joined.labels_get()[0], weights(layer), 3e-5)


SHARDED = {"bce": {}, "softmax": {"loss": "softmax", "mode": "exact"}, "hinge": {"loss": "squared_hinge", "optimizer": "adamw", "lr": .01}}


def encoder_of():
    torch.manual_seed(3)
    return torch.nn.Linear(D, D)


def child(rank, layer):
    torch.set_num_threads(1)
    layer(*batch()).backward()


def sharded(rank, port, folder):
    begin(rank, port)
    for name, options in SHARDED.items():
        whole = make(**options)
        slots = (0, 24 + 32, whole.core.slots)[rank:rank + 2]
        part, labels = whole.core.slice(*slots)
        layer = Layer.from_core(part, mode=whole.mode, shard=True, lr=whole.options["lr"])
        shards = LabelShards(layer, labels)
        encoder = torch.nn.parallel.DistributedDataParallel(encoder_of())
        x, rows = batch()
        own = slice(0, 5) if rank == 0 else slice(5, B)
        with torch.no_grad():
            id, score = shards.top_k(encoder(x[own]), 4)
        loss = shards(encoder(x[own]), *csr(rows[own]), sample_weight=torch.arange(1., B + 1)[own])
        loss.backward()
        np.savez(f"{folder}/{name}{rank}.npz", loss=loss.detach().numpy(), grad=encoder.module.weight.grad.numpy(), id=labels,
                 weight=layer.core.labels_get()[0], top=id.numpy(), score=score.numpy())
        joined = shards.join()
        if rank == 0:
            joined.save(f"{folder}/{name}.haste")
        else:
            assert joined is None
    for call, text in ((lambda: LabelShards(Layer.from_core(part, lr=.1), labels), "shard=True"),
                       (lambda: LabelShards(layer, labels[:-1]), "ascending"),
                       (lambda: LabelShards(layer, range(layer.labels)), "not 0 .. L - 1"),
                       (lambda: shards(x, [[L]] * B), f"positives hold {L} to {L}"),
                       (lambda: shards(x, torch.full((B,), -1)), "positives hold -1")):
        try:
            call()
            raise AssertionError(f"no error: {text}")
        except haste.Error as error:
            assert text in str(error), error
    torch.distributed.destroy_process_group()


class TestCompile(Case):
    """torch.compile, fullgraph: the layer is one operator in the graph."""

    def setUp(self):
        torch._dynamo.reset()

    def pair(self, mode, **options):
        """(layer, encoder, step) compiled and not, equal."""
        for backend in ("aot_eager", None):
            layer, encoder = make(mode, **options), encoder_of()

            def step(x, o, i, layer=layer, encoder=encoder, **more):
                return layer(torch.relu(encoder(x)), o, i, **more) * 1.
            yield layer, encoder, torch.compile(step, backend=backend, fullgraph=True) if backend else step

    def test_modes(self):
        for mode in haste.torch.MODES:
            with self.subTest(mode=mode):
                got = []
                for layer, encoder, step in self.pair(mode):
                    numbers = []
                    optimizer = torch.optim.SGD([*encoder.parameters(), *layer.parameters()], .1)
                    for n in range(3):
                        x, rows = batch(n, 9 + (n == 2))
                        optimizer.zero_grad()
                        loss = step(x, *csr(rows))
                        loss.backward()
                        optimizer.step()
                        if mode == "accumulate":
                            layer.apply()
                        numbers += [loss.detach(), encoder.weight.grad.clone()]
                        layer.options["lr"] = .1 / (n + 2)
                    got.append([*numbers, weights(layer)])
                    self.assertEqual(layer.core.step, 0 if mode == "parameters" else 3)
                self.assertTrue(all((a == b).all() for a, b in zip(*got)))

    def test_no_gradient_for_x(self):
        for mode in haste.torch.MODES[:3]:
            layer, other = make(mode), make(mode)
            step = torch.compile(lambda x, o, i: layer(x, o, i), backend="aot_eager", fullgraph=True)
            step(batch()[0], *csr(batch()[1])).backward()
            other(*batch()).backward()
            if mode == "accumulate":
                layer.apply(), other.apply()
            self.assertEqual(layer.core.step, 1)
            self.assertTrue((weights(layer) == weights(other)).all())

    def test_eval(self):
        for mode in haste.torch.MODES:
            torch._dynamo.reset()
            layer = make(mode)
            before = weights(layer)
            step = torch.compile(lambda x, o, i: layer(x, o, i), backend="aot_eager", fullgraph=True)
            x, rows = batch()
            with torch.no_grad():
                want = layer(x, rows)
                self.assertEqual(step(x, *csr(rows)), want)
            layer.eval()
            y, z = (x.clone().requires_grad_() for _ in range(2))
            (step(y, *csr(rows)) * .5).backward()
            (layer(z, rows) * .5).backward()
            self.assertTrue((y.grad == z.grad).all() and (weights(layer) == before).all())
            self.assertFalse(step(x, *csr(rows)).requires_grad)

    def test_options_and_lists(self):
        x, rows = batch()
        weight, one = torch.rand(B), torch.arange(B)
        got = []
        for layer, _, step in self.pair("exact"):
            numbers = []
            for more in ({"sample_weight": weight}, {"scale": .2}, {"ignored": (one + 50) % L}):
                loss = step(x, *csr(rows), **more)
                loss.backward()
                numbers.append(loss.detach())
            loss = step(x, one, None)
            loss.backward()
            loss = step(x, csr(rows), None)
            got.append([*numbers, loss.detach(), weights(layer)])
        self.assertTrue(all((a == b).all() for a, b in zip(*got)))

    def test_compiled_once(self):
        """A rate that falls, and a step counter, are no part of the graph."""
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        layer = make("fused")
        step = torch.compile(lambda x, o, i: layer(x, o, i), backend=counter, fullgraph=True)
        x, (o, i) = batch()[0], csr(batch()[1])
        for n in range(4):
            layer.options["lr"] = .1 / (n + 1)
            step(x, o, i).backward()
        self.assertEqual((counter.frame_count, layer.core.step), (1, 4))

    def test_neither_dropped_nor_merged(self):
        x, (o, i) = batch()[0], csr(batch()[1])
        layer = make("fused")
        torch.compile(lambda: (layer(x, o, i), x + 1)[1], backend="aot_eager", fullgraph=True)()
        self.assertEqual(layer.core.step, 1)
        torch.compile(lambda: layer(x, o, i) + layer(x, o, i), backend="aot_eager", fullgraph=True)().backward()
        self.assertEqual(layer.core.step, 3)
        layer = make("accumulate")
        torch.compile(lambda: layer(x, o, i) + layer(x, o, i), backend="aot_eager", fullgraph=True)().backward()
        self.assertEqual(layer.core.pending, 2)
        layer = make("exact")
        with self.assertRaisesRegex(haste.Error, "mode \"accumulate\""):
            torch.compile(lambda: layer(x, o, i) + layer(x, o, i), backend="aot_eager", fullgraph=True)().backward()

    def test_two_layers(self):
        """One function, a layer and its copy."""
        a = make("fused")
        b = copy.deepcopy(a)
        step = torch.compile(lambda layer, x, o, i: layer(x, o, i), backend="aot_eager", fullgraph=True)
        for layer, n in ((a, 1), (b, 1), (a, 2)):
            step(layer, batch()[0], *csr(batch()[1])).backward()
            self.assertEqual(layer.core.step, n)

    def test_sentences(self):
        x, rows = batch()
        o, i = csr(rows)
        layer = make("fused")
        with self.assertRaisesRegex(haste.Error, "multiplied by 0.3 after"):
            torch.compile(lambda: layer(x, o, i) * .3, backend="aot_eager", fullgraph=True)().backward()
        with self.assertRaisesRegex(Exception, "from lists that are tensors"):
            torch.compile(lambda: layer(x, rows), backend="aot_eager", fullgraph=True)()
        step = layer.core.step
        torch.compile(lambda: layer(x, rows), backend="aot_eager")().backward()   # a break in the graph
        self.assertEqual(layer.core.step, step + 1)
        id = torch.compile(lambda: layer.top_k(x * 2, 3)[0] + 0, backend="aot_eager")()
        self.assertTrue((id == layer.top_k(x * 2, 3)[0]).all())
        with self.assertRaisesRegex(haste.Error, "expected a tensor"):
            torch.compile(lambda x: layer(x, o, i), backend="aot_eager")(x[:, :5])

    def test_checkpointing(self):
        got = []
        for layer, encoder, step in self.pair("exact"):
            x, (o, i) = batch()[0], csr(batch()[1])
            run = lambda x: checkpoint(lambda x: layer(torch.relu(encoder(x)), o, i), x, use_reentrant=False)
            run = run if got else torch.compile(run, backend="aot_eager")
            run(x).backward()
            self.assertEqual(layer.core.step, 1)
            got.append([encoder.weight.grad, weights(layer)])
        self.assertTrue(all((a == b).all() for a, b in zip(*got)))

    def test_operators(self):
        """What torch asks of operators: schema, fakes, autograd."""
        for mode in haste.torch.MODES:
            layer = make(mode).eval()
            x, (o, i) = batch()[0].requires_grad_(), csr(batch()[1])
            torch.library.opcheck(torch.ops.haste.loss, (x, torch.empty(0), [], layer._token, o, i, "", [], layer._number, mode, False,
                                                         True))


class TestTrain(Case):
    """examples/python/train.py on a text of its own: 40 labels with three words each, and noise."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        random = np.random.default_rng(0)
        for name, n in (("train", 600), ("test", 100)):
            with open(cls.folder / f"{name}.txt", "w") as fast, open(cls.folder / f"{name}.tsv", "w") as tsv:
                for _ in range(n):
                    labels = [f"l{int(l)}" for l in random.integers(0, 40, random.integers(1, 3))]
                    text = " ".join(f"{label}w{random.integers(3)}" for label in labels * 2) + f" noise{random.integers(50)}"
                    fast.write("".join(f"__label__{label} " for label in labels) + text + "\n")
                    tsv.write(";".join(labels) + "\t" + text + "\n")

    def run_main(self, *options, files=("train.txt", "test.txt")):
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(io.StringIO()) as wrong:
            try:
                return train.main([*(str(self.folder / file) for file in files), *map(str, options)]), said.getvalue()
            except SystemExit as end:
                return None, f"{wrong.getvalue()}{end}"

    def test_layers(self):
        log = self.folder / "runs.csv"
        common = ("--epochs", 4, "--lr", .03, "--inputs", 48, "--batch", 20, "--head", 8, "--fan-in", 24, "--group-size", 8, "--log", log)
        model = self.folder / "model.pt"
        for options in (("--layer", "dense"), ("--save", model), ("--groups", "semantic", "--rewire", "gradient", "--rewire-every", 20),
                        ("--groups", "random", "--rewire", "random", "--rewire-every", 20, "--run", "moved")):
            values, said = self.run_main(*common, *options)
            self.assertIsNotNone(values, said)
            self.assertGreater(values[0], 85)
            self.assertIn("epoch   4", said)
        again, said = self.run_main("--load", model, files=("test.txt",))
        self.assertEqual([f"{v:.2f}" for v in again], [f"{v:.2f}" for v in self.run_main(*common)[0]])
        with open(log) as file:
            lines = file.read().splitlines()
        self.assertEqual(len(lines), 1 + 5 * 4)
        self.assertEqual({line.count(",") for line in lines}, {len(train.LOG) - 1})
        self.assertEqual(self.run_main(*common)[0], self.run_main(*common, files=("train.tsv", "test.tsv"))[0])
        _, said = self.run_main(*common, "--plot", self.folder / "runs.png")
        self.assertTrue((self.folder / "runs.png").exists() if importlib.util.find_spec("matplotlib") else "needs matplotlib" in said)

    def test_sentences(self):
        (self.folder / "bad.txt").write_text("__label__a word\nno label\n")
        (self.folder / "empty.txt").write_text("")
        for options, files, text in ((("--device", "cuda"), ("train.txt", "test.txt"), "torch finds no GPU"),
                                     (("--valid", 600), ("train.txt",), "has 600 documents"), (("--valid", 9), ("train.txt", "test.txt"), "TRAIN alone"),
                                     ((), ("train.txt",), "expected TRAIN and TEST"),
                                     (("--load", "x"), ("train.txt", "test.txt"), "TEST alone"),
                                     ((), ("bad.txt", "test.txt"), "bad.txt, line 2: no label"),
                                     ((), ("empty.txt", "test.txt"), "no documents"),
                                     (("--plot", "x.png"), ("train.txt", "test.txt"), "--log FILE")):
            values, said = self.run_main(*options, files=files)
            self.assertIsNone(values)
            self.assertIn(text, said)

    @unittest.skipUnless(importlib.util.find_spec("transformers"), "no transformers")
    def test_transformer(self):
        """A small BERT with random weights, from a folder."""
        import transformers
        words = sorted({word for line in (self.folder / "train.txt").read_text().split() for word in [line.lower()]})
        (self.folder / "bert").mkdir()
        (self.folder / "bert/vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        transformers.BertTokenizer(str(self.folder / "bert/vocab.txt")).save_pretrained(self.folder / "bert")
        config = transformers.BertConfig(vocab_size=len(words) + 5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                         intermediate_size=32)
        transformers.BertModel(config).save_pretrained(self.folder / "bert")
        common = ("--epochs", 6, "--batch", 20, "--head", 8, "--group-size", 8, "--encoder", self.folder / "bert", "--encoder-lr", .01,
                  "--dropout", 0, "--lr", .01)
        for layer in ("haste", "dense"):
            values, said = self.run_main(*common, "--layer", layer, "--save", self.folder / "bert.pt")
            self.assertIsNotNone(values, said)
            self.assertGreater(values[0], 50)
            self.assertEqual(self.run_main("--load", self.folder / "bert.pt", files=("test.txt",))[0], values)


@unittest.skipUnless(shutil.which(os.environ.get("CXX", "c++")), "no C++ compiler")
class TestLibtorch(unittest.TestCase):
    def test_example(self):
        """libtorch.cpp, as its opening says it is compiled, but for -O0."""
        with tempfile.TemporaryDirectory() as folder:
            T = Path(torch.__path__[0])
            run = subprocess.run([os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-fopenmp", f"-I{ROOT}", f"-I{T}/include",
                                  f"-I{T}/include/torch/csrc/api/include", ROOT / "examples/python/libtorch.cpp", f"-L{T}/lib",
                                  f"-Wl,-rpath,{T}/lib", "-ltorch", "-ltorch_cpu", "-lc10", "-o", f"{folder}/libtorch"],
                                 capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stderr[-3000:])
            run = subprocess.run([f"{folder}/libtorch"], capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            self.assertRegex(run.stdout, r"step   0  loss [^$]*\nright: \d+ of 64\n")


class TestReadme(unittest.TestCase):
    """The examples of examples/python/README.md, as they stand there."""

    def test_examples(self):
        text = (ROOT / "examples/python/README.md").read_text(encoding="utf-8")
        blocks = [code for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if ("torch" in code) == True]
        self.assertGreaterEqual(len(blocks), 1)
        here = os.getcwd()
        for code in blocks:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    exec(compile(code, "README.md", "exec"), {})
                finally:
                    os.chdir(here)


if __name__ == "__main__":
    result = unittest.main(exit=False, warnings="ignore").result   # torch's, of what it calls beta
    if result.skipped:
        print("skipped:", "; ".join(f"{test}: {why}" for test, why in result.skipped))
    sys.exit(bool(result.failures or result.errors))
