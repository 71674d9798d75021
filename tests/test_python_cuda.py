"""haste.torch on a GPU: every mode against masked dense layers of torch's in float64 and against the CPU's layer, and what people do to
modules. Needs a GPU, torch, and nvcc or a library that HASTE_LIBRARY names.

    python3 tests/test_python_cuda.py [TestClass[.test]]"""
import copy
import io
import os
import pickle
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
from haste.torch import Layer

L, D, B = 2003, 96, 40
BLOCKS = [{"labels": 96, "fan_in": haste.DENSE}, {"fan_in": 32, "group_size": 32}]
MODES = haste.torch.MODES
GPU = torch.device("cuda", 0)


def make(mode="fused", device=GPU, **options):
    if mode != "parameters":
        options.setdefault("lr", .1)
    return Layer(L, D, BLOCKS, mode=mode, seed=5, device=device, **{"dtype": "float32", **options})


def batch(seed=0, n=B, device=GPU):
    g = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(L, generator=g)[:torch.randint(0, 5, (1,), generator=g)].tolist() for _ in range(n)]
    return torch.randn(n, D, generator=g).to(device), rows


def csr(rows, device=GPU, dtype=torch.int64):
    return (torch.tensor([0] + [len(r) for r in rows], device=device).cumsum(0).to(dtype),
            torch.tensor([l for r in rows for l in r], dtype=dtype, device=device))


def host(layer):
    return layer.core.host() if layer.memory.is_cuda else layer.core


def weights(layer):
    return torch.from_numpy(host(layer).labels_get()[0]).double().to(GPU)


class Dense(torch.nn.Module):
    """The same layer as a masked matrix in float64."""

    def __init__(self, layer):
        super().__init__()
        core = host(layer)
        offset, column, _ = core.labels_get_sparse()
        mask = np.zeros((L, D))
        mask[np.repeat(np.arange(L), np.diff(offset)), column] = 1
        self.mask = torch.from_numpy(mask).to(GPU)
        self.W = torch.nn.Parameter(weights(layer))
        self.b = torch.nn.Parameter(torch.from_numpy(core.labels_get()[1]).double().to(GPU))

    def forward(self, x, rows):
        y = torch.zeros(len(x), L, dtype=torch.float64, device=GPU)
        for b, row in enumerate(rows):
            y[b, row] = 1
        z = x.double() @ (self.W * self.mask).T + self.b
        return functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(x)


class Case(unittest.TestCase):
    def close(self, got, want, tolerance=1e-5):
        got, want = (torch.as_tensor(a).detach().double().to(GPU) for a in (got, want))
        self.assertEqual(got.shape, want.shape)
        self.assertLess(float((got - want).abs().max() / want.abs().max().clamp(min=1e-30)), tolerance)

    def step(self, layer, x, rows):
        layer(x, rows).backward()
        if layer.mode == "accumulate":
            layer.apply()


class TestGradients(Case):
    def test_updates(self):
        """Modes that update themselves, three steps, an encoder before the layer."""
        for mode in MODES[:3]:
            for optimizer, lr in (("sgd", .3), ("adamw", .01)):
                for dtype, tolerance in (("float32", 1), ("bfloat16", 500)):
                    with self.subTest(mode=mode, optimizer=optimizer, dtype=dtype):
                        layer = make(mode, optimizer=optimizer, lr=lr, dtype=dtype)
                        dense = Dense(layer)
                        other = (torch.optim.SGD if optimizer == "sgd" else torch.optim.AdamW)(dense.parameters(), lr=lr,
                                                                                              weight_decay=0.)
                        encoder = torch.nn.Linear(7, D, device=GPU)
                        for step in range(3):
                            _, rows = batch(step)
                            x = torch.randn(B, 7, device=GPU)
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
                            self.close(loss, want, 1e-4)
                            self.close(got, encoder.weight.grad, 2e-5 * tolerance)
                            if optimizer == "sgd" or dtype == "float32":   # Adam's first steps are signs of gradients
                                self.close(weights(layer), dense.W * dense.mask, 1e-4 * tolerance)
                        self.assertEqual(layer.core.step, 3)
                        layer.check()

    def test_paths(self):
        layer = Layer(5000, 768, [{"labels": 512, "fan_in": haste.DENSE}, {"fan_in": 64, "group_size": 32}], device="cuda", lr=.1)
        self.assertEqual(layer.core.dtype, "bfloat16")
        if torch.cuda.get_device_capability() == (9, 0):
            self.assertEqual(layer.core.path, ["wide", "wide"])
            with self.assertRaisesRegex(haste.Error, "an order of its own"):
                layer.core.weight(1)
        self.assertEqual(layer.core.index(1).dtype, torch.uint16)
        self.assertEqual(layer.core.bias(0).shape[0] * layer.core.bias(0).shape[1], 512)
        self.assertEqual(make(path="general").core.path, ["general", "general"])

    def test_parameters(self):
        layer = make("parameters")
        dense = Dense(layer)
        x, rows = batch()
        x.requires_grad_()
        (layer(x, rows) * .3).backward()
        gx, x.grad = x.grad, None
        (dense(x, rows) * .3).backward()
        self.close(gx, x.grad)
        ours, theirs = torch.optim.AdamW(layer.parameters(), lr=.01), torch.optim.AdamW(dense.parameters(), lr=.01)
        for step in range(3):
            x, rows = batch(step)
            for module, o in ((layer, ours), (dense, theirs)):
                o.zero_grad()
                module(x, rows).backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), .5)
                o.step()
        self.close(weights(layer), dense.W * dense.mask, 1e-4)

    def test_logits(self):
        """A loss of one's own."""
        layer = make("parameters")
        dense = Dense(layer)
        x, rows = batch()
        x.requires_grad_()
        y = torch.zeros(B, L, device=GPU)
        for b, row in enumerate(rows):
            y[b, row] = 1
        z = layer.logits(x)[:, layer.core.slot_of.long()]
        functional.binary_cross_entropy_with_logits(z, y, reduction="sum").div(B).backward()
        gx, x.grad = x.grad, None
        dense(x, rows).backward()
        self.close(gx, x.grad, 2e-5)
        W = make("parameters")
        with torch.no_grad():
            for p, q in zip(W.parameters(), layer.parameters()):
                p.copy_(q.grad)
        self.close(weights(W), dense.W.grad * dense.mask, 2e-5)

    def test_types_of_x(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for mode in MODES:
                layer = make(mode)
                x, rows = batch()
                x = x.to(dtype).requires_grad_()
                layer(x, rows).backward()
                self.assertEqual(x.grad.dtype, dtype)
                y = x.detach().float().requires_grad_()
                Dense(make(mode))(y, rows).backward()
                self.close(x.grad, y.grad, 2e-5 if dtype == torch.float32 else 1e-2)
        with torch.autocast("cuda", torch.bfloat16):
            encoder = torch.nn.Linear(D, D, device=GPU)
            layer(encoder(batch()[0]), batch()[1]).backward()
            self.assertEqual(encoder.weight.grad.dtype, torch.float32)
        y = torch.randn(D, B, device=GPU).T.requires_grad_()   # not contiguous
        layer(y, rows).backward()
        self.assertEqual(y.grad.shape, (B, D))


class TestSemantics(Case):
    def change(self, mode, factor=1., run=None, **options):
        """How far weights move for loss * factor."""
        layer = make(mode, **options)
        before = weights(layer)
        x, rows = batch()
        (run(layer, x, rows) if run else layer(x, rows) * factor).backward()
        if mode == "accumulate":
            layer.apply()
        layer.check()
        return weights(layer) - before

    def test_no_grad_and_eval_never_train(self):
        for mode in MODES:
            layer = make(mode)
            before = weights(layer)
            with torch.no_grad():
                layer(*batch())
            layer.eval()
            x = batch()[0].requires_grad_()
            (layer(x, batch()[1]) * .5).backward()
            dense, y = Dense(layer), x.detach().clone().requires_grad_()
            (dense(y, batch()[1]) * .5).backward()
            self.close(x.grad, y.grad)
            self.assertTrue((weights(layer) == before).all())
            self.assertEqual(layer.core.step, 0)

    def test_factors(self):
        whole = self.change("fused")
        for mode in ("exact", "accumulate"):
            self.close(self.change(mode), whole)
            self.close(self.change(mode, .3), .3 * whole)
            self.assertTrue((self.change(mode, 0.) == 0).all())
            self.close(self.change(mode, -2.), -2 * whole)
        self.close(self.change("fused", run=lambda l, x, r: l(x, r, scale=.3 / B)), .3 * whole)
        layer = make("fused")
        (layer(*batch()) * .3).backward()
        with self.assertRaisesRegex(haste.Error, "multiplied by a factor after the layer had been updated"):
            layer.check()
        layer.check()   # said once
        layer = make("fused", check_every=3)
        with self.assertRaisesRegex(haste.Error, "multiplied by a factor"):
            for step in range(4):
                (layer(*batch()) * .3).backward()

    def test_checkpointing(self):
        whole = self.change("fused")
        for reentrant in (True, False):
            encoder = torch.nn.Linear(D, D, device=GPU)
            with torch.no_grad():
                encoder.weight.copy_(torch.eye(D))
                encoder.bias.zero_()
            run = lambda l, x, r: checkpoint(lambda x: l(encoder(x), r), x.requires_grad_(), use_reentrant=reentrant)
            for mode in ("exact", "accumulate"):
                self.close(self.change(mode, run=run), whole)
            with self.assertRaisesRegex(haste.Error, "gradient checkpointing"):
                self.change("fused", run=run)

    def test_accumulation(self):
        x, rows = batch(3, 12)
        whole, parts = make("exact"), make("accumulate")
        whole(x, rows).backward()
        for first in range(0, 12, 4):
            (parts(x[first:first + 4], rows[first:first + 4]) / 3).backward()
        self.assertEqual(parts.core.pending, 3)
        for call in (lambda: parts.state_dict(), lambda: copy.deepcopy(parts), lambda: parts.cpu()):
            with self.assertRaisesRegex(haste.Error, "pending"):
                call()
        parts.apply()
        self.close(weights(parts), weights(whole))
        loss = whole(*batch())
        loss.backward(retain_graph=True)
        with self.assertRaisesRegex(haste.Error, "changed between forward and backward"):
            loss.backward()

    def test_grad_scaler(self):
        whole = self.change("fused")
        for mode in MODES:
            layer, x = make(mode), batch()[0].requires_grad_()
            before = weights(layer)
            anchor = torch.nn.Linear(D, D, device=GPU)
            optimizer = torch.optim.SGD([*anchor.parameters(), *layer.parameters()], lr=.1)
            scaler = torch.amp.GradScaler("cuda", init_scale=1024.)
            layer.loss_scale = scaler.get_scale()
            scaler.scale(layer(x, batch()[1])).backward()
            for p in anchor.parameters():
                p.grad = torch.zeros_like(p)
            scaler.step(optimizer)
            if mode == "accumulate":
                layer.apply()
            layer.check()
            self.close(weights(layer) - before, whole)

    def test_lists(self):
        layer = make().eval()
        x, rows = batch()
        want = layer(x, rows)
        o, i = csr(rows)
        sparse = torch.sparse_csr_tensor(o, i, torch.ones(len(i), device=GPU), (B, L))
        for given in (csr(rows), csr(rows, dtype=torch.int32), csr(rows, "cpu"), tuple(a.cpu().numpy() for a in csr(rows)), (o, i.cpu()),
                      [torch.tensor(row, dtype=torch.int64) for row in rows]):
            self.close(layer(x, given), want, 1e-12)
        self.close(layer(x, sparse), want, 1e-12)
        self.close(layer(x, o, i), want, 1e-12)
        one = torch.arange(B, device=GPU)
        one[3:9] = -1
        self.close(layer(x, one), layer(x, [[l] if l >= 0 else [] for l in one.tolist()]), 1e-12)
        self.close(layer(x, one.cpu()), layer(x, one), 1e-12)
        self.close(layer(x, torch.full((B,), -1, device=GPU)), layer(x, [[]] * B), 1e-12)
        weight = torch.rand(B, device=GPU)
        ours = layer(x, rows, sample_weight=weight, positive_weight=2., smoothing=.1)
        cpu = layer.core.host().evaluate(x.cpu().numpy(), rows, sample_weight=weight.cpu().numpy(), positive_weight=2., smoothing=.1)
        self.close(ours, cpu)

    def test_sentences(self):
        layer = make()
        x, rows = batch()
        for call, text in ((lambda: layer(x.double(), rows), "x is torch.float64"), (lambda: layer(x.cpu(), rows), "x is on cpu"),
                           (lambda: layer(x[:, :5], rows), r"\[40, 5\]"), (lambda: layer(x, rows[1:]), "positives has 39 lists"),
                           (lambda: layer(x, *csr(rows[1:])), "positives.offset has 40 numbers, expected 41"),
                           (lambda: layer(x, torch.arange(B, device=GPU).float()), "positives is torch.float32"),
                           (lambda: layer(x, [[L]] * B), f"{L}"),
                           (lambda: layer(x, rows, sample_weight=torch.ones(B)), "sample_weight is on cpu"),
                           (lambda: layer(x, rows, sample_weight=torch.ones(B - 1, device=GPU)), "sample_weight has shape"),
                           (lambda: layer(x, rows, ignored=rows), "ignored is not on the GPU yet"),
                           (lambda: layer(x, rows, clip=1.), "clip"), (lambda: layer(x, rows, learning=1), "no option 'learning'"),
                           (lambda: layer.top_k(x, 3, only=rows), "only is not on the GPU yet"),
                           (lambda: layer.core.train_step(x.cpu(), rows, lr=.1), "x is on cpu"),
                           (lambda: Layer(L, D, device="cuda"), "needs lr"),
                           (lambda: Layer(L, D, device="cuda", lr=.1, path="quick"), "path = 'quick'"),
                           (lambda: Layer(L, D, device="meta", lr=.1), "device = 'meta'"),
                           (lambda: Layer(L, D, device="cuda", mode="parameters", dtype="bfloat16"), "dtype float32"),
                           (lambda: make("exact").logits(x), "mode \"parameters\"")):
            with self.subTest(text=text):
                with self.assertRaisesRegex((haste.Error, TypeError), text):
                    call()
        self.assertEqual(layer.core.step, 0)
        layer.check()

    def test_what_the_device_sees(self):
        layer = make()
        x, rows = batch()
        layer(x, torch.arange(B, device=GPU) + L - 1)
        with self.assertRaisesRegex(haste.Error, "sample 1"):
            layer.check()
        layer(x, torch.arange(B, device=GPU) + 2**32)   # does not fit in 32 bits
        with self.assertRaisesRegex(haste.Error, "sample 0"):
            layer.check()
        layer(x / 0, rows)
        with self.assertRaisesRegex(haste.Error, "finite"):
            layer.state_dict()
        layer.check()


    def test_default_dtype(self):
        layer = make("exact")
        x, rows = batch()
        torch.set_default_dtype(torch.bfloat16)
        try:
            layer(x, rows).backward()
            (id, score), found, some = layer.top_k(x, 5), layer.above(x, 1.), layer.score(x, csr(rows))
        finally:
            torch.set_default_dtype(torch.float32)
        self.assertEqual({score.dtype, found[2].dtype, some.dtype}, {torch.float32})
        self.assertTrue((layer.top_k(x, 5)[0] == id).all())

    def test_offsets(self):
        """Lists on the device that reach beyond their ids, or begin in the middle of them."""
        layer = make().eval()
        x, rows = batch()
        o, i = csr(rows)
        self.close(layer(x, o + 3, torch.cat([i[:3], i, i[:9]])), layer(x, rows), 1e-12)
        for bad in (o + 1, o - 1, o.flip(0), o + 10**9):
            layer(x, bad, i)
            with self.assertRaisesRegex(haste.Error, "sample"):
                layer.check()
            layer.score(x, bad, i)
            with self.assertRaises(haste.Error):
                layer.check()

    def test_noticed_before_the_workspace_grew(self):
        layer = make(batch=16)
        x, _ = batch(n=16)
        layer(x, torch.arange(16, device=GPU) + L)
        layer.top_k(batch(n=300)[0], 40)
        with self.assertRaisesRegex(haste.Error, "sample 0"):
            layer.check()
        layer.check()
        with self.assertRaises(haste.Error):
            layer.top_k(x, 1000)
        layer(x, torch.arange(16, device=GPU)).backward()


class TestState(Case):
    def trained(self, mode, device=GPU, **options):
        layer = make(mode, device, **options)
        for step in range(2):
            self.step(layer, *batch(step, device=device))
        if mode != "parameters":
            layer.rewire(.2)
        layer.zero_grad()
        return layer

    def same(self, a, b, tolerance=2e-6):
        """They go on alike, and apart."""
        b_first = weights(b)
        for layer in (a, b):
            device = layer.memory.device
            layer.zero_grad()
            self.step(layer, *batch(9, device=device))
            if layer.mode == "parameters":
                torch.optim.SGD(layer.parameters(), .1).step()
                layer.zero_grad()
            if layer is a:
                self.assertTrue((weights(b) == b_first).all())
            layer.rewire(.1)
        self.close(weights(a), weights(b), tolerance)
        self.assertEqual((a.core.step, a.core.rewires), (b.core.step, b.core.rewires))
        self.assertTrue((host(a).index(1) == host(b).index(1)).all())
        host(b).check()

    def test_copies(self):
        def saved(layer):
            file = io.BytesIO()
            torch.save(layer, file)
            file.seek(0)
            return torch.load(file, weights_only=False)
        for mode in MODES:
            for how in (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved):
                layer = self.trained(mode)
                self.same(layer, how(layer))

    def test_state_dict(self):
        """Between devices too."""
        for mode in MODES:
            for source, target in ((GPU, GPU), (GPU, "cpu"), ("cpu", GPU)):
                for assign in (False, True):
                    layer = self.trained(mode, source)
                    other = Layer(L, D, BLOCKS, mode=mode, seed=99, device=target, dtype="float32",
                                  **({} if mode == "parameters" else {"lr": .1}))
                    a, b = (torch.nn.Sequential(torch.nn.Linear(2, 2), m) for m in (layer, other))
                    file = io.BytesIO()
                    torch.save(a.state_dict(), file)
                    file.seek(0)
                    self.assertEqual(tuple(b.load_state_dict(torch.load(file, weights_only=True), assign=assign)), ([], []))
                    self.assertEqual(other.memory.device.type, torch.device(target).type)
                    self.same(layer, other)
        with self.assertRaisesRegex(RuntimeError, "labels = 2004, here 2003"):
            layer.load_state_dict(Layer(L + 1, D, BLOCKS, lr=.1, device="cuda", dtype="float32").state_dict())

    def test_moved(self):
        for mode in MODES:
            layer, other = self.trained(mode), self.trained(mode)
            model = torch.nn.Sequential(layer)
            self.assertEqual(model.cpu()[0].memory.device.type, "cpu")
            self.same(other, layer)
            layer.zero_grad()
            model.cuda()
            self.assertTrue(layer.memory.is_cuda and all(p.is_cuda for p in layer.parameters()))
            self.same(other, layer)
            layer.share_memory()
            self.same(other, layer)
        layer = make(path="general", deterministic=True).cpu().cuda()
        self.assertEqual((layer.core.path, layer.core._work["deterministic"]), (["general", "general"], True))
        with self.assertRaisesRegex(haste.Error, "another place"):
            layer.memory = layer.memory.clone()
            layer(*batch())

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.haste")
            layer = self.trained("exact", optimizer="adamw", lr=.01)
            layer.save(path)
            self.same(Layer.load(path, mode="exact", device="cuda", lr=.01), layer)
            layer.save(path)
            cpu = haste.load(path)
            x = batch()[0]
            self.assertTrue((cpu.top_k(x.cpu().numpy(), 3)[0] == layer.top_k(x, 3)[0].cpu().numpy()).all())
            for mode in MODES:
                other = Layer.from_core(cpu, mode=mode, device="cuda", **({} if mode == "parameters" else {"lr": .1}))
                self.assertTrue((weights(other) == weights(layer)).all())
                self.step(other, *batch())
            module = Layer.from_core(layer.core, device="cpu", lr=.1)
            self.assertTrue((weights(module) == weights(layer)).all())


class TestRewire(Case):
    def test_as_on_the_cpu(self):
        ours, theirs = make(), make(device="cpu")
        self.assertEqual(ours.rewire(.3), theirs.rewire(.3))
        self.assertTrue((host(ours).index(1) == theirs.core.index(1)).all())
        x, rows = batch()
        self.assertGreater(ours.rewire(.3, growth="gradient", prune="saliency", x=x, positives=rows), 0)
        self.assertGreater(make(dtype="bfloat16").rewire(.3, growth="gradient", x=x.bfloat16(), positives=csr(rows)), 0)
        with self.assertRaisesRegex(haste.Error, "needs a batch"):
            ours.rewire(.3, growth="gradient")

    def test_state_follows(self):
        layer = make("parameters")
        optimizer = torch.optim.AdamW(layer.parameters(), lr=.01)
        x, rows = batch()
        layer(x, rows).backward()
        optimizer.step()
        with self.assertRaisesRegex(haste.Error, "zero_grad"):
            layer.rewire(.3)
        optimizer.zero_grad()
        index = layer.core.index(1).to(torch.int32)
        dense, state = (optimizer.state[p]["exp_avg"].clone() for p in (layer.weight0, layer.weight1))
        moved = layer.rewire(.3, optimizer=optimizer)
        row, now = layer.core.origin[1].long(), optimizer.state[layer.weight1]["exp_avg"]
        self.assertEqual(int((row < 0).sum()), moved)
        self.assertGreater(moved, 0)
        there = row >= 0
        moved_index = layer.core.index(1).to(torch.int32)
        self.assertTrue((moved_index[there] == index.gather(1, row.clamp(min=0))[there]).all())
        want = state.gather(1, row.clamp(min=0)[:, :, None].expand_as(state)) * there[:, :, None]
        self.assertTrue((now == want).all())
        self.assertTrue((optimizer.state[layer.weight0]["exp_avg"] == dense).all())
        layer(x, rows).backward()
        optimizer.step()
        host(layer).check()


class TestPrediction(Case):
    def test_all(self):
        layer = make()
        x, rows = batch(n=300)
        z = x.double() @ weights(layer).T
        id, score = layer.top_k(x, 5)
        want = z.topk(5)
        self.assertGreater(float((id == want.indices).double().mean()), .999)
        self.close(score, want.values)
        offset, id, score = layer.above(x, 1.)
        self.assertLess(abs(int(offset[-1]) - int((z > 1).sum())), 3)
        cpu = layer.core.host().above(x.cpu().numpy(), 1.)
        self.assertEqual([set(id[a:b].tolist()) for a, b in zip(offset[:9], offset[1:10])],
                         [set(cpu[1][a:b].tolist()) for a, b in zip(cpu[0][:9], cpu[0][1:10])])
        want = torch.cat([z[b, row] for b, row in enumerate(rows)])
        for given in (rows, csr(rows), csr(rows, "cpu")):
            self.close(layer.score(x, given), want, 2e-5)
            excluded, _ = layer.top_k(x, 5, excluded=given)
            self.assertFalse(any(set(row) & set(got.tolist()) for row, got in zip(rows, excluded)))
        self.assertEqual(layer.top_k(x[:0], 3)[0].shape, (0, 3))
        self.assertEqual([len(a) for a in layer.above(x[:0], 0.)], [1, 0, 0])
        self.assertEqual(layer.top_k(x.bfloat16(), 40)[0].dtype, torch.int32)   # beyond the workspace's 16


class TestTorch(Case):
    def test_compile(self):
        for mode in MODES:
            torch._dynamo.reset()
            got = []
            for compiled in (True, False):
                torch.manual_seed(0)
                layer, encoder = make(mode), torch.nn.Linear(D, D, device=GPU)
                step = lambda x, o, i, layer=layer, encoder=encoder: layer(torch.relu(encoder(x)), o, i) * 1.
                step = torch.compile(step, fullgraph=True) if compiled else step
                for n in range(3):
                    x, rows = batch(n)
                    loss = step(x, *csr(rows))
                    loss.backward()
                    if mode == "accumulate":
                        layer.apply()
                    layer.zero_grad()
                    layer.options["lr"] = .1 / (n + 2)
                got.append((loss.detach(), encoder.weight.grad, weights(layer)))
            for a, b in zip(*got):
                self.close(a, b, 1e-4)

    def test_graphs(self):
        layer = make(dtype="bfloat16").eval()
        x, rows = batch()
        o, i = csr(rows)
        layer.top_k(x, 5)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            id, score = layer.top_k(x, 5)
            z = layer.logits(x)
        other = batch(7)[0]
        x.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        want = layer.top_k(other, 5)
        self.assertTrue((id == want[0]).all() and (score == want[1]).all())
        self.close(z, layer.logits(other), 1e-6)
        layer.top_k(batch(n=300)[0], 40)   # another workspace; the graph keeps its own
        del other
        full = torch.full((2**26,), 7, dtype=torch.uint8, device=GPU)
        graph.replay()
        torch.cuda.synchronize()
        self.assertTrue((id == want[0]).all() and (full == 7).all())
        layer.train()
        with self.assertRaisesRegex(haste.Error, "captured"):
            with torch.cuda.graph(torch.cuda.CUDAGraph()):
                layer(x, o, i)

    def test_training_graphs(self):
        """A captured training step, replayed with other batches and learning rates, does what as many calls do, to the bit."""
        for mode in MODES[:3]:
            for optimizer in ("sgd", "adamw"):
                for dtype in ("float32", "bfloat16"):
                    with self.subTest(mode=mode, optimizer=optimizer, dtype=dtype):
                        lr, ours = torch.zeros((), device=GPU), torch.zeros((), device=GPU)
                        told = make(mode, optimizer=optimizer, lr=.1, dtype=dtype, deterministic=True)
                        layer = make(mode, optimizer=optimizer, lr=lr, dtype=dtype, deterministic=True, capturable=True)
                        encoder = torch.nn.Linear(7, D, device=GPU)
                        other = copy.deepcopy(encoder)
                        x, (_, rows) = torch.randn(B, 7, device=GPU), batch()
                        o, i = (t.clone() for t in csr(rows))
                        i = torch.cat([i, i])   # room for longer lists

                        def step(layer, encoder):
                            encoder.zero_grad(set_to_none=False)
                            loss = layer(encoder(x), o, i)
                            loss.backward()
                            if mode == "accumulate":
                                layer.apply()
                            for p in encoder.parameters():
                                p.data.add_(p.grad, alpha=-.1)
                            return loss.detach()

                        lr.fill_(.2)
                        told.options["lr"] = .2
                        side = torch.cuda.Stream()   # as torch asks for before a capture
                        side.wait_stream(torch.cuda.current_stream())
                        with torch.cuda.stream(side):
                            step(layer, encoder)
                        torch.cuda.current_stream().wait_stream(side)
                        step(told, other)
                        graph = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(graph):
                            ours = step(layer, encoder)
                        self.assertEqual(layer.core.step, 1)
                        for n in range(5):
                            _, rows = batch(n + 1)
                            offset, ids = csr(rows)
                            o.copy_(offset)
                            i[:len(ids)] = ids
                            x.normal_()
                            lr.fill_(.3 / (n + 1))
                            told.options["lr"] = float(lr)
                            want = step(told, other)
                            graph.replay()
                            torch.cuda.synchronize()
                            self.close(ours, want, 1e-6)
                        self.assertEqual((layer.core.step, told.core.step), (6, 6))
                        layer.check()
                        self.assertTrue(torch.equal(weights(layer), weights(told)))
                        self.assertTrue(torch.equal(encoder.weight, other.weight))
                        again = copy.deepcopy(layer)
                        self.assertEqual(again.core.step, 6)
                        loaded = make(mode, optimizer=optimizer, lr=.1, dtype=dtype)
                        loaded.load_state_dict(layer.state_dict())
                        self.assertEqual(loaded.core.step, 6)
                        del graph

    def test_numbers_on_the_device(self):
        layer, told = make(lr=torch.tensor(.3, device=GPU)), make(lr=.3)
        x, rows = batch()
        for to in (layer, told):
            self.step(to, x, rows)
        self.assertTrue(torch.equal(weights(layer), weights(told)))
        before = weights(layer)
        layer(x, rows, lr=torch.tensor(1., device=GPU), scale=torch.tensor(.5, device=GPU), skip=torch.tensor(1., device=GPU))
        self.assertTrue(torch.equal(weights(layer), before))
        layer(x, rows, skip=torch.tensor(0., device=GPU))
        self.assertFalse(torch.equal(weights(layer), before))
        layer.check()
        layer(x, rows, lr=torch.tensor(float("nan"), device=GPU))
        with self.assertRaisesRegex(haste.Error, "finite"):
            layer.check()
        for wrong in (torch.tensor(1.), torch.ones(2, device=GPU), 1.):
            with self.assertRaisesRegex(haste.Error, "skip is .*expected a tensor of one number"):
                layer(x, rows, skip=wrong)
        # in modes that train in backward the gradient of the loss is not waited for, and may be negative
        for mode in ("exact", "accumulate"):
            layer, told = make(mode, lr=.3), make(mode, lr=.3)
            for to, factor in ((layer, -1.), (told, 1.)):
                (to(x, rows) * factor).backward()
                if mode == "accumulate":
                    to.apply()
            start = weights(make(mode))
            self.close(weights(layer) - start, start - weights(told), 1e-4)

    def test_streams(self):
        """All goes to torch's current stream."""
        got = []
        for side in (False, True):
            layer = make(check_every=0)
            stream = torch.cuda.Stream() if side else torch.cuda.current_stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for n in range(3):
                    x, rows = batch(n)
                    layer(x, *csr(rows)).backward()
                layer.check()
            torch.cuda.current_stream().wait_stream(stream)
            got.append(weights(layer))
        self.assertTrue((got[0] == got[1]).all())

    def test_allocator(self):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        layer = Layer(200000, 256, device="cuda", optimizer="adamw", lr=.01)
        self.assertGreaterEqual(torch.cuda.memory_allocated() - before, layer.core.nbytes)
        self.assertEqual(layer.core.nbytes, haste.plan_bytes(200000, 256, optimizer="adamw", dtype="bfloat16", cuda=True)["layer"])
        x = torch.randn(500, 256, device=GPU, requires_grad=True)   # more than the workspace is for
        layer(x, torch.arange(500, device=GPU)).backward()
        layer.check()
        del layer, x
        self.assertLess(torch.cuda.memory_allocated() - before, 2**20)

    def test_learns(self):
        """The default layer, end to end."""
        torch.manual_seed(1)
        labels = 3000
        direction = torch.randn(labels, 64, device=GPU)
        encoder = torch.nn.Linear(64, 256, device=GPU)
        layer = Layer(labels, 256, frequency=np.full(labels, 8), samples=labels * 8, optimizer="adamw", lr=.01, device="cuda")
        optimizer = torch.optim.AdamW(encoder.parameters(), lr=.003)
        for step in range(300):
            y = torch.randint(0, labels, (256,), device=GPU)
            x = direction[y] + .5 * torch.randn(256, 64, device=GPU)
            loss = layer(encoder(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        y = torch.randint(0, labels, (512,), device=GPU)
        with torch.no_grad():
            id, _ = layer.eval().top_k(encoder(direction[y] + .5 * torch.randn(512, 64, device=GPU)), 1)
        self.assertGreater(float((id[:, 0] == y).double().mean()), .9)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("test_python_cuda.py: torch finds no GPU")
    unittest.main(warnings="ignore")
