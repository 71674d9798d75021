"""examples/python on numpy: against a dense masked reference in float64, errors by hand, and how it is built.

    python3 tests/test_python.py [TestClass[.test]]     (make test-python chooses a cache under build/)"""
import copy
import ctypes
import importlib.util
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples/python"))
import haste
from haste import arrays
from haste import layer as plain
from haste import library

BLOCKS = [{"labels": 20, "fan_in": haste.DENSE, "group_size": 8}, {"labels": 37, "fan_in": 9, "group_size": 16, "end": 19},
          {"fan_in": 5, "group_size": 8, "begin": 7, "end": 23}]   # 20 + 37 + 50 labels: no block fills its groups
L, D = 107, 23


def make(seed=1, **options):
    order = np.random.default_rng(7).permutation(L)
    return haste.Layer(L, D, BLOCKS, order=order, seed=seed, batch=options.pop("batch", 8), **options)


def batch(B, seed=0, empty=True):
    """x, and lists with duplicates, empty ones among them."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((B, D)).astype(np.float32)
    rows = [list(random.integers(0, L, random.integers(0 if empty else 1, 5))) for _ in range(B)]
    if B > 1:
        rows[1] = rows[1] + rows[1]
    return x, rows


# ---- the reference: dense, float64 -----------------------------------------------------------------------------------

class Dense:
    """The layer as one matrix [L, D], with a mask of the places that it has."""

    def __init__(self, layer):
        self.W, self.b = (a.astype(np.float64) for a in layer.labels_get())
        offset, column, _ = layer.labels_get_sparse()
        self.mask = np.zeros((L, D))
        for l in range(L):
            self.mask[l, column[offset[l]:offset[l + 1]]] = 1
        self.loss_name, self.optimizer = layer.loss, layer.optimizer
        self.state = {name: [np.zeros_like(a), np.zeros_like(a)] for name, a in (("W", self.W), ("b", self.b))}
        self.t = 0

    def logits(self, x):
        return x.astype(np.float64) @ self.W.T + self.b

    def loss(self, z, rows, scale=None, sample_weight=None, positive_value=None, label_weight=None, label_scale=None,
             label_offset=None, ignored=None, logit_scale=1, margin=0, positive_weight=1, smoothing=0):
        """(loss, d loss / dz)"""
        B = len(z)
        scale = 1 / B if scale is None else scale
        y, named, live = np.zeros((B, L)), np.zeros((B, L)), np.ones((B, L))
        at = 0
        for b, row in enumerate(rows):
            for l in row:
                if not named[b, l]:
                    y[b, l], named[b, l] = 1 if positive_value is None else positive_value[at], 1
                at += 1
            if ignored is not None:
                live[b, ignored[b]] = 0
        u_scale = logit_scale * (np.ones(L) if label_scale is None else label_scale.astype(float))
        u = u_scale * (z - margin * named) + (0 if label_offset is None else label_offset)
        weight = live * (1 if label_weight is None else label_weight) * \
            (1 if sample_weight is None else sample_weight[:, None])
        if self.loss_name == "softmax":
            y = y * live
            t = y / np.maximum(y.sum(1, keepdims=True), 1e-300)
            has = y.sum(1, keepdims=True) > 0
            t = np.where(has, t * (1 - smoothing) + smoothing * live / live.sum(1, keepdims=True), 0)
            masked = np.where(live > 0, u, -np.inf)
            log = masked - masked.max(1, keepdims=True)
            log = log - np.log(np.exp(log).sum(1, keepdims=True))
            tw = t * weight
            loss = -(tw * np.where(live > 0, log, 0)).sum()
            du = np.exp(log) * tw.sum(1, keepdims=True) - tw
            du *= live
        else:
            y = y * (1 - smoothing) + smoothing / 2
            if self.loss_name == "bce":
                loss = (weight * (positive_weight * y * np.logaddexp(0, -u) + (1 - y) * np.logaddexp(0, u))).sum()
                p = 1 / (1 + np.exp(-u))
                du = weight * (positive_weight * y * (p - 1) + (1 - y) * p)
            else:
                low, high = np.maximum(0, 1 - u), np.maximum(0, 1 + u)
                loss = (weight * (positive_weight * y * low**2 + (1 - y) * high**2)).sum()
                du = weight * (-2 * positive_weight * y * low + 2 * (1 - y) * high)
        return scale * loss, scale * du * u_scale

    def gradients(self, x, dz):
        x = x.astype(np.float64)
        return dz.T @ x * self.mask, dz.sum(0), dz @ self.W

    def update(self, gW, gb, lr, momentum=.9, beta1=.9, beta2=.999, eps=1e-8, weight_decay=0):
        self.t += 1
        for name, g in (("W", gW), ("b", gb)):
            w, (m, v) = getattr(self, name), self.state[name]
            decay = weight_decay if name == "W" else 0
            if self.optimizer == "adamw":
                w -= lr * decay * w
                m += (1 - beta1) * (g - m)
                v += (1 - beta2) * (g * g - v)
                w -= lr * (m / (1 - beta1**self.t)) / (np.sqrt(v / (1 - beta2**self.t)) + eps)
                continue
            g = g + decay * w
            if self.optimizer == "momentum":
                m[:] = momentum * m + g
                g = m
            w -= lr * g


def parts(layer):
    """W and b of any layer, as Dense has them."""
    dense = Dense.__new__(Dense)
    dense.W, dense.b = (a.astype(np.float64) for a in layer.labels_get())
    return dense


def close(test, got, want, tolerance=3e-6):
    """Relative to the largest number."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    test.assertEqual(got.shape, want.shape)
    test.assertTrue(np.isfinite(got).all())
    worst = np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30)
    test.assertLess(worst, tolerance)


def content(layer):
    """All that a layer holds, as bytes, without the gaps between its arrays."""
    views = [layer.label_of, layer.slot_of]
    for i in range(len(layer.blocks)):
        views += [layer.weight(i), layer.bias(i), layer.index(i)] + \
            [view(i, which) for view in (layer.weight_state, layer.bias_state) for which in (0, 1)]
    return [a.tobytes() for a in views if a is not None] + [layer.step, layer.rewires, layer.seed]


class TestTraining(unittest.TestCase):
    def test_steps(self):
        for loss in plain.LOSSES:
            for optimizer, lr in (("sgd", .3), ("momentum", .1), ("adamw", .01)):
                with self.subTest(loss=loss, optimizer=optimizer):
                    layer = make(loss=loss, optimizer=optimizer)
                    dense = Dense(layer)
                    for step, B in enumerate((5, 33, 1, 0, 8)):
                        x, rows = batch(B, step)
                        grad_x = np.full((B, D), .5, np.float32)
                        got = layer.train_step(x, rows, lr=lr, weight_decay=.1, momentum=.8, grad_x=grad_x)
                        if B == 0:
                            self.assertEqual(got, 0)
                            continue
                        want, dz = dense.loss(dense.logits(x), rows)
                        gW, gb, gx = dense.gradients(x, dz)
                        dense.update(gW, gb, lr, momentum=.8, weight_decay=.1)
                        close(self, got, want)
                        close(self, grad_x - .5, gx, 1e-5)
                        W, b = layer.labels_get()
                        close(self, W, dense.W, 2e-5 if optimizer == "adamw" else 3e-6)
                        close(self, b, dense.b, 2e-5 if optimizer == "adamw" else 3e-6)
                    self.assertEqual(layer.step, 4)
                    layer.check()

    def test_loss_options(self):
        random = np.random.default_rng(3)
        B = 13
        x, rows = batch(B, 5)
        ids = sum(len(row) for row in rows)
        f = lambda n, low=.5: (low + random.random(n)).astype(np.float32)
        label_weight, label_scale, label_offset = f(L), f(L), f(L, -.5)
        ignored = [list(random.integers(0, L, 4)) for _ in range(B)]
        ignored = [[l for l in row if l not in named] for row, named in zip(ignored, rows)]
        common = dict(scale=.03, sample_weight=f(B), positive_value=f(ids, .2), label_scale=label_scale, margin=.2,
                      label_offset=label_offset, logit_scale=1.3, ignored=ignored)
        for loss, options in (("bce", dict(common, label_weight=label_weight, positive_weight=2.5, smoothing=.1)),
                              ("squared_hinge", dict(common, label_weight=label_weight, positive_weight=2.5)),
                              ("softmax", dict(common, smoothing=.1)), ("softmax", dict(common, label_weight=label_weight))):
            with self.subTest(loss=loss):
                layer = make(loss=loss)
                dense = Dense(layer)
                before = content(layer)
                grad_x = np.zeros((B, D), np.float32)
                got = layer.evaluate(x, rows, grad_x=grad_x, **options)
                z = dense.logits(x)
                want, dz = dense.loss(z, rows, **options)
                close(self, got, want)
                close(self, grad_x, dense.gradients(x, dz)[2], 1e-5)
                self.assertEqual(content(layer), before)
                for b, l in ((0, 3), (7, rows[7][0] if rows[7] else 1), (2, 9)):   # the reference itself, by differences
                    step = np.zeros_like(z)
                    step[b, l] = 1e-5
                    slope = (dense.loss(z + step, rows, **options)[0] - dense.loss(z - step, rows, **options)[0]) / 2e-5
                    self.assertAlmostEqual(slope, dz[b, l], delta=1e-7)
                layer.train_step(x, rows, lr=.1, **options)
                gW, gb, _ = dense.gradients(x, dz)
                dense.update(gW, gb, .1)
                close(self, layer.labels_get()[0], dense.W)

    def test_rates_of_blocks_and_norms(self):
        layer = make()
        x, rows = batch(8)
        dense = Dense(layer)
        gW, gb, _ = dense.gradients(x, dense.loss(dense.logits(x), rows)[1])
        layer.train_step(x, rows, lr=0, grad_norm=True)
        close(self, layer.grad_norm, np.sqrt((gW**2).sum() + (gb**2).sum()))
        before = [layer.weight(i).copy() for i in range(3)]
        layer.train_step(x, rows, lr=.1, blocks=[None, {"frozen": 1}, {"lr": 0}])
        moved = [(layer.weight(i) != before[i]).any() for i in range(3)]
        self.assertEqual(moved, [True, False, False])
        norm = layer.grad_norm
        layer.train_step(x, rows, lr=.1)
        self.assertEqual(layer.grad_norm, norm)

    def test_accumulate(self):
        x, rows = batch(12, 2)
        whole, parts = make(optimizer="adamw"), make(optimizer="adamw")
        whole.train_step(x, rows, lr=.01)
        for first in range(0, 12, 4):
            parts.accumulate(x[first:first + 4], rows[first:first + 4], scale=1 / 12)
        self.assertEqual(parts.pending, 3)
        for call in (lambda: pickle.dumps(parts), lambda: copy.deepcopy(parts)):
            with self.assertRaisesRegex(haste.Error, "pending"):
                call()
        parts.apply(lr=.01)
        close(self, parts.labels_get()[0], whole.labels_get()[0], 1e-5)
        with self.assertRaises(haste.Error) as caught:
            parts.apply(lr=.01)
        self.assertEqual(caught.exception.status, "HASTE_ERR_STATE")

        dense = Dense(layer := make())
        gW, gb, gx = dense.gradients(x, dense.loss(dense.logits(x), rows)[1])
        norm = np.sqrt((gW**2).sum() + (gb**2).sum())
        layer.accumulate(x, rows)
        layer.apply(lr=1, clip=norm / 2, grad_norm=True)
        close(self, layer.grad_norm, norm)
        close(self, layer.labels_get()[0], dense.W - gW / 2)

        layer = make()   # into the caller's arrays, twice
        own = [(np.zeros_like(layer.weight(i)), np.zeros_like(layer.bias(i))) for i in range(3)]
        for _ in range(2):
            layer.accumulate(x, rows, gradient=own)
        self.assertEqual(layer.pending, 0)
        close(self, np.sqrt(sum((a.astype(float)**2).sum() for pair in own for a in pair)), 2 * norm)
        for (weight, bias), (to_weight, to_bias) in zip(own, layer.gradient):   # an optimizer of one's own, over haste_apply
            to_weight[:], to_bias[:] = weight / 2, bias / 2
        layer.pending = 1
        layer.apply(lr=1)
        close(self, layer.labels_get()[0], dense.W - gW)

        layer, grad_x = make(), np.zeros_like(x)   # a loss of one's own, over logits
        z = layer.forward(x)
        dz = np.zeros_like(z)
        dz[:, layer.slot_of] = dense.loss(dense.logits(x), rows)[1]
        layer.backward(x, dz, grad_x=grad_x)
        close(self, grad_x, gx, 1e-5)
        layer.apply(lr=1)
        close(self, layer.labels_get()[0], dense.W - gW)

    def test_softmax_over_shards(self):
        x, rows = batch(6, 4, empty=False)
        shards = [haste.Layer(53, D, loss="softmax", seed=1, fan_in=5), haste.Layer(L - 53, D, loss="softmax", seed=2, fan_in=5)]
        positives = [[[l for l in row if l < 53] for row in rows], [[l - 53 for l in row if l >= 53] for row in rows]]
        sums, other = (layer.softmax_begin(x, p) for layer, p in zip(shards, positives))
        haste.softmax_merge(sums, other)
        got = sum(layer.evaluate(x, p, softmax=sums) for layer, p in zip(shards, positives))
        z = np.concatenate([(lambda W, b: x.astype(float) @ W.T.astype(float) + b)(*layer.labels_get()) for layer in shards], 1)
        dense = Dense.__new__(Dense)
        dense.loss_name = "softmax"
        close(self, got, dense.loss(z, rows)[0])

    def test_bfloat16(self):
        x, rows = batch(8)
        layer = make(dtype="bfloat16", state_dtype="bfloat16", optimizer="adamw")
        first = layer.train_step(x, rows, lr=.01)
        for _ in range(30):
            last = layer.train_step(x, rows, lr=.01)
        self.assertLess(last, first / 2)
        self.assertEqual(layer.weight(0).dtype, np.uint16)
        self.assertEqual(layer.copy(dtype="float32").dtype, "float32")
        close(self, layer.copy(dtype="float32").labels_get()[0], layer.labels_get()[0])

    def test_prior(self):
        frequency = np.arange(L) % 40
        for dtype in (np.int32, np.int64):
            layer = make(frequency=frequency.astype(dtype), samples=1000)
            p = (frequency + .5) / 1001
            close(self, layer.labels_get()[1], np.log(p / (1 - p)))

    def test_same_bits_for_any_number_of_threads(self):
        x, rows = batch(40)
        contents = []
        for threads in (1, 2, 5):
            layer = make(threads=threads, optimizer="adamw")
            for _ in range(3):
                layer.train_step(x, rows, lr=.01)
            layer.rewire(.2)
            contents.append(content(layer))
        self.assertTrue(contents[0] == contents[1] == contents[2])

    def test_paths(self):
        x, rows = batch(8)
        losses = []
        for path in ("portable", "auto"):
            layer = make(path=path)
            losses.append(layer.evaluate(x, rows))
        self.assertEqual(make(path="portable").path, "portable")
        close(self, losses[0], losses[1])


class TestOwnLoss(unittest.TestCase):
    """loss=function: binary cross-entropy once more, with weights that tell labels and samples apart."""

    def setUp(self):
        random = np.random.default_rng(6)
        self.B = 70   # three tiles, the last with 6 samples
        self.x, self.rows = batch(self.B, 3)
        self.label_weight, self.sample_weight = (random.random(n).astype(np.float32) + .5 for n in (L, self.B))
        self.tiles = 0

    def bce(self, logit, target, label, first):
        self.assertEqual((logit.dtype, target.dtype, label.dtype, logit.shape), (np.float32, np.float32, np.int32, target.shape))
        self.assertEqual((len(label), first % 32, min(32, self.B - first)), (len(logit), 0, logit.shape[1]))
        self.tiles += 1
        weight = self.label_weight[label][:, None] * self.sample_weight[first:first + logit.shape[1]]
        return ((np.logaddexp(0, logit) - target * logit) * weight).sum(0), (1 / (1 + np.exp(-logit)) - target) * weight

    def test_as_the_built_in_one(self):
        weights = dict(label_weight=self.label_weight, sample_weight=self.sample_weight)
        for threads in (1, 2):
            ours, theirs = make(threads=threads), make(threads=threads)
            grad_x, want_x = np.zeros((2, self.B, D), np.float32)
            for step in range(2):
                close(self, ours.evaluate(self.x, self.rows, function=self.bce), theirs.evaluate(self.x, self.rows, **weights))
                got = ours.train_step(self.x, self.rows, lr=.3, grad_x=grad_x, function=self.bce)
                close(self, got, theirs.train_step(self.x, self.rows, lr=.3, grad_x=want_x, **weights))
                close(self, grad_x, want_x, 1e-5)
                close(self, ours.labels_get()[0], theirs.labels_get()[0], 1e-5)
        self.assertGreater(self.tiles, 3 * ours.slots // 16)

    def test_compiled(self):
        """A haste_loss_function of C's, as ctypes's function and as an address: half the squared distance to the target."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "own.c"
            source.write_text("""
#include "haste.h"
void squares(void *context, const haste_loss_tile *tile)
{
    int s, b;
    (void)context;
    for (s = 0; s < tile->labels; s++)
        for (b = 0; b < tile->samples; b++) {
            float *z = &tile->logit[s * 32 + b], d = *z - tile->target[s * 32 + b];
            tile->loss[b] += d * d / 2;
            *z = d;
        }
}""")
            subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", f"-I{ROOT}", source, "-o", f"{folder}/own.so"],
                           check=True)
            own = ctypes.CDLL(f"{folder}/own.so").squares
            layer = make()
            W, b = (a.astype(float) for a in layer.labels_get())
            y = np.zeros((self.B, L))
            for i, row in enumerate(self.rows):
                y[i, row] = 1
            z = self.x @ W.T + b
            want = ((z - y)**2).sum() / 2 / self.B
            python = lambda logit, target, label, first: (((logit - target)**2).sum(0) / 2, logit - target)
            for function in (own, ctypes.cast(own, ctypes.c_void_p).value, python):
                close(self, layer.evaluate(self.x, self.rows, function=function), want)
                close(self, layer.evaluate(self.x, self.rows, function=function, sample_weight=np.full(self.B, 2, np.float32)),
                      2 * want)

    def test_what_it_raises(self):
        layer = make()
        before = content(layer)

        def wrong(logit, target, label, first):
            raise KeyError("of the loss")
        for function, error, text in ((wrong, KeyError, "of the loss"), (lambda *a: (1, np.zeros((2, 3))), ValueError, "broadcast"),
                                      (lambda *a: None, TypeError, "unpack")):
            for call in (layer.evaluate, lambda *a, **k: layer.train_step(*a, lr=.1, **k),
                         lambda *a, **k: layer.score_inputs(haste.InputScores(layer), *a, **k)):
                with self.assertRaisesRegex(error, text):
                    call(self.x, self.rows, function=function)
        self.assertEqual(content(layer)[:-3], before[:-3])
        with self.assertRaisesRegex(haste.Error, "are its own"):
            layer.evaluate(self.x, self.rows, function=wrong, smoothing=.1)
        self.assertTrue(np.isfinite(layer.evaluate(self.x, self.rows)))


class TestLists(unittest.TestCase):
    def test_forms(self):
        x, rows = batch(7, 1)
        offset = np.cumsum([0] + [len(row) for row in rows])
        ids = np.array([l for row in rows for l in row])
        layer = make()
        want = layer.evaluate(x, rows)
        for o in (np.int32, np.int64):
            for i in (np.int32, np.int64, np.uint16):
                self.assertEqual(layer.evaluate(x, (offset.astype(o), ids.astype(i))), want)
                self.assertEqual(layer.evaluate(x, offset.astype(o), ids.astype(i)), want)
        shifted = np.concatenate([[5, 6, 7], ids])   # a slice of a larger set
        self.assertEqual(layer.evaluate(x, offset + 3, shifted), want)

        class Csr:   # what scipy's have
            indptr, indices, data = offset.astype(np.int32), ids.astype(np.int32), np.ones(len(ids))
        self.assertEqual(layer.evaluate(x, Csr), want)
        Csr.data = np.zeros(len(ids))
        with self.assertRaisesRegex(haste.Error, "stores zeros"):
            layer.evaluate(x, Csr)

        one = np.array([3, 5, 5, 0, 1, 2, 106])
        want = layer.evaluate(x, [[l] for l in one])
        for form in (one, one.astype(np.int32), list(one), [int(l) for l in one]):
            self.assertEqual(layer.evaluate(x, form), want)
        one[2] = -1   # left out: as if it had no weight
        weight = np.ones(7, np.float32)
        weight[2] = 0
        self.assertAlmostEqual(layer.evaluate(x, one), layer.evaluate(x, [[max(l, 0)] for l in one], sample_weight=weight), 4)

    def test_no_copies(self):
        ids, offset = np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int64)
        got = arrays.lists((offset, ids), "positives", 3)
        self.assertIs(got[0], offset)
        self.assertIs(got[1], ids)

    def test_none(self):
        layer = make()
        x, _ = batch(3)
        self.assertGreater(layer.evaluate(x, [[], [], []]), 0)
        self.assertEqual(layer.train_step(x[:0], [], lr=.1), 0)


class TestPrediction(unittest.TestCase):
    def setUp(self):
        self.layer = make()
        self.x, self.rows = batch(29)   # batch is 8: four goes
        self.dense = Dense(self.layer)
        self.z = self.dense.logits(self.x)

    def test_forward(self):
        close(self, self.layer.forward(self.x)[:, self.layer.slot_of], self.z)
        padding = self.layer.label_of < 0
        self.assertEqual(padding.sum(), self.layer.slots - L)
        self.assertTrue((self.layer.forward(self.x)[:, padding] == 0).all())

    def test_top_k(self):
        for k in (1, 5, 40, L + 3):   # more than the workspace was made for, and more than there are
            id, score = self.layer.top_k(self.x, k)
            self.assertEqual((id.dtype, score.dtype, id.shape), (np.int32, np.float32, (29, k)))
            order = np.argsort(-self.z, 1)[:, :k]
            self.assertTrue((id[:, :L] == order).all())
            close(self, score[:, :L], np.take_along_axis(self.z, order, 1))
            self.assertTrue((id[:, L:] == -1).all() and (score[:, L:] == -np.inf).all())
        id, _ = self.layer.top_k(self.x, 5, excluded=self.rows)
        for b, row in enumerate(self.rows):
            z = self.z[b].copy()
            z[row] = -np.inf
            self.assertEqual(list(id[b]), list(np.argsort(-z)[:5]))
        self.assertEqual(self.layer.top_k(self.x[:0], 5)[0].shape, (0, 5))

    def test_only(self):
        """Among listed labels alone, some of which are excluded, some listed twice; lists of every form."""
        random = np.random.default_rng(4)
        only = [list(random.integers(0, L, random.integers(0, 30))) for _ in self.rows]
        only[3] = only[3] + only[3] + [5, 5]
        for excluded in (None, self.rows):
            id, score = self.layer.top_k(self.x, 10, excluded=excluded, only=only)
            offset, above, _ = self.layer.above(self.x, .2, excluded, only)
            for b, row in enumerate(only):
                allowed = sorted(set(row) - set(excluded[b] if excluded else ()), key=lambda l: -self.z[b, l])
                self.assertEqual([l for l in id[b] if l >= 0], allowed[:10])
                self.assertTrue((score[b, len(allowed):] == -np.inf).all())
                close(self, score[b, :len(allowed)], self.z[b, allowed[:10]])
                self.assertEqual(list(above[offset[b]:offset[b + 1]]), [l for l in allowed if self.z[b, l] > .2])
        one = np.arange(29)
        self.assertEqual(list(self.layer.top_k(self.x, 1, only=one)[0][:, 0]), list(one))
        self.assertTrue((self.layer.top_k(self.x, 5)[0] == self.layer.top_k(self.x, 5, only=[range(L)] * 29)[0]).all())
        many = [[l for l in range(L) for _ in range(20)]] * 29   # more than a workspace of this batch is made for
        self.assertTrue((self.layer.top_k(self.x, 5, [[]] * 29, many)[0] == self.layer.top_k(self.x, 5)[0]).all())

    def test_above(self):
        for threshold in (1.5, -.2, 99):
            offset, id, score = self.layer.above(self.x, threshold)
            self.assertEqual(offset[0], 0)
            for b in range(29):
                order = [l for l in np.argsort(-self.z[b]) if self.z[b, l] > threshold]
                self.assertEqual(list(id[offset[b]:offset[b + 1]]), order)
                close(self, score[offset[b]:offset[b + 1]], self.z[b, order])
        wide = haste.Layer(3000, D, batch=4)   # more than the first guess has room for
        offset, id, _ = wide.above(self.x[:9], -100.)
        self.assertEqual(list(np.diff(offset)), [3000] * 9)
        offset, id, _ = wide.above(self.x[:9], -100., excluded=[[1, 2]] * 9)
        self.assertEqual(list(np.diff(offset)), [2998] * 9)

    def test_shards(self):
        """Lists of two layers, by numbers in a row and by numbers that alternate."""
        shards = [haste.Layer(53, D, seed=1, fan_in=5), haste.Layer(L - 53, D, seed=2, fan_in=5)]
        z = [Dense.logits(d, self.x) for d in map(parts, shards)]
        for labels in ([range(53), range(53, L)], [np.arange(1, L, 2), np.arange(0, L, 2)]):
            whole = np.empty((29, L))
            for part, where in zip(z, labels):
                whole[:, where] = part
            order = np.argsort(-whole, 1)
            for k in (1, 5, 60):   # more than a shard has
                id, score = haste.top_k_merge([layer.top_k(self.x, k) for layer in shards], labels)
                self.assertTrue((id == order[:, :k]).all())
                close(self, score, np.take_along_axis(whole, order[:, :k], 1))
            offset, id, score = haste.above_merge([layer.above(self.x, .3) for layer in shards], labels)
            for b in range(29):
                want = [l for l in order[b] if whole[b, l] > .3]
                self.assertEqual(list(id[offset[b]:offset[b + 1]]), want)
                close(self, score[offset[b]:offset[b + 1]], whole[b, want])

    def test_score(self):
        got = self.layer.score(self.x, self.rows)
        close(self, got, [self.z[b, l] for b, row in enumerate(self.rows) for l in row])
        close(self, self.layer.score(self.x, np.arange(29)), self.z[np.arange(29), np.arange(29)])

    def test_threads_share_a_layer(self):
        want = self.layer.top_k(self.x, 5)[0]
        wrong = []

        def work():
            for n in (29, 3, 17):
                if (self.layer.top_k(self.x[:n], 5)[0] != want[:n]).any():
                    wrong.append(n)

        threads = [threading.Thread(target=work) for _ in range(6)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(wrong, [])

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_fork_after_threads(self):
        """GCC's OpenMP would hang in the child."""
        layer = make(threads=2)
        x, rows = batch(40)
        layer.train_step(x, rows, lr=.1)
        want = layer.top_k(x, 3)[0]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if (layer.top_k(x, 3)[0] == want).all() and layer._s["work.threads"] == 1 and \
                    np.isfinite(make(threads=3).train_step(x, rows, lr=.1)) else 2
            finally:
                os._exit(code)
        for _ in range(600):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            threading.Event().wait(.05)
        else:
            os.kill(child, 9)
            os.waitpid(child, 0)
            self.fail("the forked child hangs")
        self.assertEqual(status, 0)


class TestRewire(unittest.TestCase):
    def test_moves(self):
        for options in ({}, {"scope": "group"}, {"uniform": True}, {"prune": "saliency", "growth": "gradient"}):
            with self.subTest(options=options):
                layer = make(optimizer="adamw")
                x, rows = batch(20)
                layer.train_step(x, rows, lr=.01)
                before = [(layer.weight(i).copy(), layer.weight_state(i, 0).copy()) for i in range(3)]
                index = [None, *(layer.index(i).copy() for i in (1, 2))]
                needs = {"x": x, "positives": rows} if "growth" in options else {}
                moved = layer.rewire(.3, origin=True, **needs, **options)
                layer.check()
                self.assertGreater(moved, 0)
                self.assertEqual(layer.rewires, 1)
                grown = 0
                for i, (weight, state) in enumerate(before):
                    row = layer.origin[i]
                    self.assertEqual((row.dtype, row.shape), (np.int32, weight.shape[:2]))
                    grown += (row < 0).sum()
                    for g in range(len(row)):
                        for f in range(row.shape[1]):
                            if row[g, f] >= 0:
                                self.assertTrue((weight[g, row[g, f]] == layer.weight(i)[g, f]).all())
                                self.assertTrue((state[g, row[g, f]] == layer.weight_state(i, 0)[g, f]).all())
                                if i > 0:
                                    self.assertEqual(index[i][g, row[g, f]], layer.index(i)[g, f])
                            else:
                                self.assertNotIn(layer.index(i)[g, f], index[i][g])
                                self.assertTrue((layer.weight_state(i, 0)[g, f] == 0).all())
                self.assertEqual(grown, moved)
                before = layer.origin
                layer.rewire(.1)
                self.assertIs(layer.origin, before)
                if not options:
                    layer.rewire(0, origin=True)
                    self.assertTrue(all((rows == np.arange(rows.shape[1])).all() for rows in layer.origin))
        self.assertEqual(make().rewire(.3, group_share=0), 0)
        one, same = make(), make()   # one label each
        x, _ = batch(8)
        self.assertEqual(one.rewire(.3, growth="gradient", x=x, positives=np.arange(8)),
                         same.rewire(.3, growth="gradient", x=x, positives=[[l] for l in range(8)]))
        self.assertTrue(content(one) == content(same))

    def test_scores(self):
        """Summed over batches of several sizes, against the reference; a range; what rewiring does with them."""
        layer = make()
        dense = Dense(layer)
        scores = haste.InputScores(layer)
        some = haste.InputScores(layer, 24, 24 + 48 + 16)   # all of block 1 and two groups of block 2
        self.assertEqual([None if a is None else a.shape for a in scores.score], [None, (3, 19), (7, 16)])
        self.assertEqual([None if a is None else a.shape for a in some.score], [None, (3, 19), (2, 16)])
        self.assertEqual(sum(a.nbytes for a in scores.score[1:]), 4 * (3 * 19 + 7 * 16))
        self.assertGreaterEqual(layer.plan()["scores"], 4 * (3 * 19 + 7 * 16))
        want = [np.zeros((3, 19)), np.zeros((7, 16))]
        before = content(layer)
        for seed, B in enumerate((5, 33, 8)):
            x, rows = batch(B, seed)
            for s in (scores, some):
                layer.score_inputs(s, x, rows, positive_weight=2.)
            dz = dense.loss(dense.logits(x), rows, positive_weight=2.)[1]
            full = np.abs(dz.T @ x.astype(np.float64))
            full = np.where(dense.mask > 0, np.abs(dense.W) * full, full)
            for to, first, size, begin in ((want[0], 24, 16, 0), (want[1], 72, 8, 7)):
                for g in range(len(to)):
                    labels = layer.label_of[first + g * size:first + (g + 1) * size]
                    to[g] += full[labels[labels >= 0]][:, begin:begin + to.shape[1]].mean(0)
        self.assertEqual((scores.batches, some.batches), (3, 3))
        self.assertTrue(content(layer) == before)
        for got, all_of_it in zip(scores.score[1:], want):
            close(self, got, all_of_it, 1e-5)
        self.assertTrue((some.score[1] == scores.score[1]).all() and (some.score[2] == scores.score[2][:2]).all())

        kept, index = [a.copy() for a in scores.score[1:]], [layer.index(i).copy() for i in (1, 2)]
        moved = layer.rewire(.3, growth="gradient", prune="saliency", scope="group", scores=scores, origin=True)
        self.assertEqual(moved, 3 * 2 + 7 * 1)
        for i, score in enumerate(kept, 1):   # what has grown was worth most of what was not there
            for g, new in enumerate(layer.origin[i] < 0):
                others = np.setdiff1d(np.arange(score.shape[1]), np.concatenate([layer.index(i)[g], index[i - 1][g]]))
                self.assertGreaterEqual(score[g, layer.index(i)[g][new]].min(), score[g, others].max())
        self.assertTrue(scores.batches == 0 and all((a == 0).all() for a in scores.score[1:]))
        for wrong, text in ((lambda: layer.score_inputs(some, x, rows), "rewire"),
                            (lambda: layer.rewire(.1, growth="gradient", scores=scores), "batches = 0")):
            with self.assertRaisesRegex(haste.Error, text):
                wrong()
        layer.score_inputs(scores, x, rows)
        layer.rewire(.1)
        with self.assertRaises(haste.Error):
            layer.score_inputs(scores, x, rows)
        scores.zero(layer)
        layer.score_inputs(scores, x, rows)
        self.assertEqual(scores.batches, 1)
        view = haste.InputScores(layer).score[1]   # it outlives the object
        self.assertTrue((view == 0).all())

    def test_choose_inputs(self):
        """Labels of a group whose rows lie in F columns of the slice: those are chosen, from dense and sparse rows."""
        random = np.random.default_rng(8)
        for form in ("dense", "sparse"):
            layer = make()
            rows = np.zeros((L, D), np.float32)
            chosen = {}
            for i, first, size, begin, end, F in ((1, 24, 16, 0, 19, 9), (2, 72, 8, 7, 23, 5)):
                for g in range(len(layer.index(i))):
                    labels = layer.label_of[first + g * size:first + (g + 1) * size]
                    chosen[i, g] = np.sort(random.permutation(end - begin)[:F])
                    for l in labels[labels >= 0]:
                        rows[l, begin + chosen[i, g]] = random.random(F) + .5
            rows[layer.label_of[:20]] = 1   # of the dense block
            id = random.permutation(L)
            weight = rows[id]
            if form == "sparse":
                at = [np.flatnonzero(row) for row in weight]
                weight = (np.cumsum([0] + [len(a) for a in at]), np.concatenate(at), weight[weight != 0])
            weights = [layer.weight(i).copy() for i in range(3)]
            kept = layer.choose_inputs(id, weight, frequency=np.ones(L, int), samples=5)
            self.assertAlmostEqual(kept, 1)
            for (i, g), columns in chosen.items():
                self.assertEqual(list(layer.index(i)[g]), list(columns))
            self.assertTrue(all((layer.weight(i) == weights[i]).all() for i in range(3)))
            layer.check()
            self.assertLess(make().choose_inputs(weight=random.random((L, D)).astype(np.float32)), 1)   # all, by id
            x, lists = batch(4)
            layer.train_step(x, lists, lr=.1)
            with self.assertRaises(haste.Error) as caught:
                layer.choose_inputs(id, weight)
            self.assertEqual(caught.exception.status, "HASTE_ERR_STATE")

    def test_pending(self):
        layer = make()
        x, rows = batch(8)
        layer.accumulate(x, rows)
        layer.rewire(.3)
        with self.assertRaises(haste.Error) as caught:
            layer.apply(lr=.1)
        self.assertEqual(caught.exception.status, "HASTE_ERR_STATE")


class TestGrouping(unittest.TestCase):
    def test_group(self):
        """64 labels of 8 kinds in scrambled order: each group of 8 is one kind."""
        random = np.random.default_rng(1)
        kind = random.permutation(np.repeat(np.arange(8), 8))
        centre = np.eye(8, 12, dtype=np.float32)
        x = (centre[kind] + .02 * random.standard_normal((64, 12))).astype(np.float32)
        dense = np.zeros((64, 12), np.float32)
        haste.embed_dense(dense, x, np.arange(64))
        haste.embed_finish(dense)
        close(self, (dense**2).sum(1), np.ones(64))
        spread = np.zeros((64, 32), np.float32)
        bags = np.arange(65) * 12, np.tile(np.arange(12), 64), x.ravel()
        haste.embed_sparse(spread, bags, np.arange(65), np.arange(64), seed=3)
        haste.embed_finish(spread)
        for embedding in (dense, spread):
            order = np.arange(64, dtype=np.int32)
            haste.order_random(order, 5)
            loose = haste.cohesion(embedding, order, group_size=8)
            haste.group(embedding, order, group_size=8)
            self.assertGreater(haste.cohesion(embedding, order, group_size=8), max(loose, .9))
            self.assertEqual(haste.cohesion(embedding, order, group_size=8, empty=True)[1], 0)
            self.assertTrue((kind[order].reshape(8, 8) == kind[order].reshape(8, 8)[:, :1]).all())
        self.assertEqual(list(haste.order_by_frequency([3, 9, 3, 0])), [1, 0, 2, 3])

    def test_schedules(self):
        self.assertEqual(haste.schedule(5, 10, 100), .5)
        self.assertAlmostEqual(haste.schedule(100, 10, 100, .1), .1)
        self.assertAlmostEqual(haste.rewire_share(50, 100, .3), .15)


class TestMetrics(unittest.TestCase):
    def test_by_hand(self):
        id = np.array([[1, 2, 3], [4, 0, 1]], np.int32)
        truth = [[1, 3], [5]]
        metrics = haste.Metrics(3, 6)
        metrics.add(id, truth)
        self.assertEqual(metrics.samples, 2)
        at1, at3 = metrics.get(1), metrics.get(3)
        self.assertAlmostEqual(at1["precision"], 50)
        self.assertAlmostEqual(at3["precision"], 100 * 2 / 6)
        self.assertAlmostEqual(at3["recall"], 50)
        self.assertAlmostEqual(at3["ndcg"], 50 * (1 + 1 / 2) / (1 + 1 / np.log2(3)))
        inverse = np.array([1, 4, 1, 2, 1, 8], np.float64)
        metrics = haste.Metrics(3, 6, inverse)
        metrics.add(id, truth)
        self.assertAlmostEqual(metrics.get(1)["psp"], 100 * 4 / (4 + 8))
        metrics = haste.Metrics(1, 6)
        metrics.add(id, truth, filter=[[1], []])
        self.assertAlmostEqual(metrics.get(1)["precision"], 0)
        metrics = haste.Metrics(1, 6)
        metrics.add(id, np.array([1, -1]))   # one label each
        self.assertAlmostEqual(metrics.get(1)["precision"], 50)

    def test_propensity(self):
        n, N = np.array([0, 3, 100]), 5000
        c = (np.log(N) - 1) * 2.5**.55
        close(self, haste.inverse_propensity(n, N), 1 + c * (n + 1.5)**-.55, 1e-12)


class TestMemory(unittest.TestCase):
    def setUp(self):
        self.layer = make(optimizer="adamw")
        self.x, self.rows = batch(8)
        for _ in range(2):
            self.layer.train_step(self.x, self.rows, lr=.01)
        self.layer.rewire(.1)

    def same(self, other):
        """It goes on as this one does, bit for bit."""
        this = copy.copy(self.layer)
        for layer in (this, other):
            layer.train_step(self.x, self.rows, lr=.01)
            layer.rewire(.1)
        self.assertTrue(content(this) == content(other))
        self.assertEqual(other.step, 3)

    def test_copies(self):
        self.same(copy.deepcopy(self.layer))
        self.same(pickle.loads(pickle.dumps(self.layer)))
        before = content(self.layer)
        self.layer.copy().train_step(self.x, self.rows, lr=.01)
        self.assertTrue(content(self.layer) == before)

    def test_attach(self):
        memory = arrays.aligned(self.layer.nbytes)
        layer = make(optimizer="adamw", allocate=lambda size: memory[:size])
        self.assertIn(library.address(layer.weight(2)) - library.address(memory), range(memory.nbytes))
        memory[:] = self.layer.to_memory()
        layer.attach(memory, self.layer.options(), self.layer.step, self.layer.rewires)
        self.same(layer)
        moved = arrays.aligned(memory.nbytes)
        moved[:] = memory
        layer.attach(moved)
        memory[:] = 0
        layer.check()
        moved[:4] = 255   # NaN
        with self.assertRaises(haste.Error):
            layer.attach(moved)
        with self.assertRaisesRegex(haste.Error, "memory of its own"):
            self.layer.attach(moved)
        with self.assertRaisesRegex(haste.Error, "aligned"):
            layer.attach(arrays.aligned(memory.nbytes + 8)[8:])

    def test_wherever_it_lies(self):
        """A layer that was unpickled, loaded, borrowed, attached, cut or joined is one like any other."""
        data, shared = self.layer.save_memory(), haste.aligned(self.layer.nbytes)
        shared[:] = self.layer.to_memory()
        options = self.layer.options()
        cuts = [0, 16, 24 + 16, 24 + 48, 24 + 48 + 24, self.layer.slots]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.haste"
            self.layer.save(path)
            places = {"unpickled": pickle.loads(pickle.dumps(self.layer)), "loaded": haste.load(path),
                      "mapped": haste.load(path, map=True), "from memory": haste.load_memory(data),
                      "borrowed": haste.load_memory(data, borrow=True),
                      "attached": haste.layer_attach(shared, options, step=self.layer.step, rewires=self.layer.rewires, batch=8),
                      "slice": self.layer.copy().slice(0, self.layer.slots)[0],
                      "joined": haste.layer_join([self.layer.slice(*cut)[0] for cut in zip(cuts, cuts[1:])],
                                                 [self.layer.slice(*cut)[1] for cut in zip(cuts, cuts[1:])])}
        self.assertIn(library.address(places["attached"].weight(2)) - library.address(shared), range(shared.nbytes))
        random = np.random.default_rng(1)
        new = random.standard_normal((3, D)).astype(np.float32)
        for name, layer in places.items():
            with self.subTest(place=name):
                self.same(layer)
                like = layer.copy()
                self.assertTrue(content(like) == content(layer))
                for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), haste.load_memory(layer.save_memory())):
                    self.assertTrue(content(other) == content(like))
                moved = haste.aligned(layer.nbytes)
                moved[:] = layer.to_memory()
                there = haste.layer_attach(moved, layer.options(), step=layer.step, rewires=layer.rewires)
                self.assertTrue(content(there) == content(like))
                for a in (layer, like):
                    a.labels_set([3, 50, 99], new)
                    a.accumulate(self.x, self.rows)
                    a.apply(lr=.01)
                    scores = haste.InputScores(a)
                    a.score_inputs(scores, self.x, self.rows)
                    a.rewire(.1, growth="gradient", scores=scores)
                self.assertTrue(content(layer) == content(like))
                for make_another in (lambda a: a.labels_add(3, new)[0], lambda a: a.labels_remove([5, 60])[0],
                                     lambda a: a.slice(24, 88)[0].copy(), lambda a: a.copy(dtype="bfloat16")):
                    self.assertTrue(content(make_another(layer)) == content(make_another(like)))

    def test_read_only(self):
        """Memory that cannot be written to: no write, no crash."""
        data = self.layer.save_memory()
        data.flags.writeable = False
        layer = haste.load_memory(data, borrow=True)
        part, _ = layer.slice(0, 24)
        for a in (layer, part):
            x, rows = self.x[:, :a.inputs], [[0]] * 8
            for call in (lambda: a.train_step(x, rows, lr=.1), lambda: a.apply(lr=.1), lambda: a.rewire(.1),
                         lambda: a.labels_set([1]), lambda: a.choose_inputs([1], np.ones((1, D), np.float32))):
                with self.assertRaisesRegex(haste.Error, "read-only: it predicts, and copy.. trains"):
                    call()
            with self.assertRaises(ValueError):
                a.weight(0)[:] = 0
            a.copy().train_step(x, rows, lr=.1)
            a.evaluate(x, rows)
        self.assertTrue((layer.top_k(self.x, 3)[0] == self.layer.top_k(self.x, 3)[0]).all())

    def test_shared_between_processes(self):
        """As the example of README.md, in two processes: what the child trains, the parent has."""
        with tempfile.TemporaryDirectory() as folder:
            memory = np.memmap(f"{folder}/layer", np.uint8, "w+", shape=self.layer.nbytes)
            memory[:] = self.layer.to_memory()
            here = haste.layer_attach(memory, self.layer.options(), step=self.layer.step, rewires=self.layer.rewires)
            code = f"""
import numpy, haste
memory = numpy.memmap({folder + "/layer"!r}, numpy.uint8, "r+")
layer = haste.layer_attach(memory, {self.layer.options()!r}, step={here.step}, rewires={here.rewires})
x = numpy.arange(3 * layer.inputs, dtype="f4").reshape(3, layer.inputs) / 50
print(layer.train_step(x, [[1], [2, 60], []], lr=.1))"""
            child = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "examples/python", capture_output=True, text=True)
            self.assertEqual(child.returncode, 0, child.stderr)
            x = np.arange(3 * D, dtype=np.float32).reshape(3, D) / 50
            self.assertEqual(self.layer.train_step(x, [[1], [2, 60], []], lr=.1), float(child.stdout.split()[0]))
            self.assertTrue(content(here)[:-3] == content(self.layer)[:-3])
            del here, memory

    def test_views_outlive_the_layer(self):
        weight = make().weight(0)
        self.assertTrue(np.isfinite(weight).all())

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.haste"
            self.layer.save(path, sections={"encoder": b"abc", "empty": b""})
            for map in (False, True):
                layer = haste.load(path, map=map)
                self.assertEqual(layer.sections, {"encoder": b"abc", "empty": b""})
                layer.file_check()
                self.assertTrue((layer.top_k(self.x, 3)[0] == self.layer.top_k(self.x, 3)[0]).all())
                self.same(layer)
            self.same(pickle.loads(pickle.dumps(haste.load(path))))
            self.layer.save(path, dtype="bfloat16")
            self.assertEqual(haste.load(path).dtype, "bfloat16")
            path.write_bytes(path.read_bytes()[:-100])
            with self.assertRaises(haste.Error) as caught:
                haste.load(path)
            self.assertEqual(caught.exception.status, "HASTE_ERR_FORMAT")
            with self.assertRaisesRegex(haste.Error, "nowhere"):
                haste.load(Path(folder) / "nowhere" / "x.haste")
            with self.assertRaisesRegex(haste.Error, "name of 30 bytes"):
                self.layer.save(path, sections={"x" * 30: b""})
            with self.assertRaisesRegex(haste.Error, "haste."):
                self.layer.save(path, sections={"haste.x": b""})

    def test_in_memory(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.haste"
            self.layer.save(path, sections={"encoder": b"abc"})
            data = self.layer.save_memory(sections={"encoder": b"abc"})
            self.assertEqual(data.tobytes(), path.read_bytes())
            self.same(haste.load_memory(path.read_bytes()))
            self.assertEqual(haste.load_memory(data, batch=3).batch, 3)
            mapped = haste.load_memory(np.memmap(path, mode="r"), borrow=True)
            self.assertTrue((mapped.top_k(self.x, 3)[0] == self.layer.top_k(self.x, 3)[0]).all())
        self.assertEqual(haste.load_memory(self.layer.save_memory(dtype="bfloat16")).dtype, "bfloat16")
        layer = haste.load_memory(data, borrow=True)
        self.assertIn(library.address(layer.weight(2)) - library.address(data), range(data.nbytes))
        before = data.copy()
        weight, sections = layer.weight(0), layer.sections
        self.same(layer)
        self.assertEqual(sections, {"encoder": b"abc"})
        self.assertTrue((data != before).any())   # it lies there
        del layer, data
        self.assertTrue(np.isfinite(weight).all())
        again = pickle.loads(pickle.dumps(haste.load_memory(before)))
        self.assertEqual(again.sections, {"encoder": b"abc"})
        self.same(again)
        before[300:] = 0
        for wrong in (before, before[:-64], b"abc", b""):
            with self.assertRaises(haste.Error) as caught:
                haste.load_memory(wrong)
            self.assertEqual(caught.exception.status, "HASTE_ERR_FORMAT")

    def test_plan(self):
        plan = haste.plan_bytes(L, D, BLOCKS, optimizer="adamw")
        self.assertEqual(plan["layer"], self.layer.to_memory().nbytes)
        self.assertEqual(plan["weight"] + plan["index"] + plan["bias"] + plan["state"] + plan["order"], plan["layer"])
        self.assertEqual(self.layer.plan()["layer"], self.layer.nbytes)


class TestSurgery(unittest.TestCase):
    def test_get_and_set(self):
        layer = make(optimizer="adamw")
        W, b = layer.labels_get()
        offset, column, value = layer.labels_get_sparse()
        dense = np.zeros_like(W)
        for l in range(L):
            dense[l, column[offset[l]:offset[l + 1]]] = value[offset[l]:offset[l + 1]]
        self.assertTrue((dense == W).all())
        for one in (5, np.int64(5), [5]):
            self.assertTrue((layer.labels_get(one)[0] == W[5:6]).all() and (layer.labels_get(one)[1] == b[5]).all())
        self.assertEqual(layer.labels_get_sparse(5)[0][1], offset[6] - offset[5])
        layer.labels_set(5, W[5:6] * 2, bias=b[5:6])
        self.assertTrue((layer.labels_get(5)[0] == W[5:6] * 2).all())
        layer.labels_set(5, W[5:6], bias=b[5:6])
        some, bias = layer.labels_get([5, 2, 5])
        self.assertTrue((some == W[[5, 2, 5]]).all() and (bias == b[[5, 2, 5]]).all())

        rows = np.ones((2, D), np.float32)
        kept = layer.labels_set([3, 60], rows, scale=2, bias=np.float32([.5, -.5]))
        mask = Dense(layer).mask
        got = layer.labels_get([3, 60])
        self.assertTrue((got[0] == 2 * mask[[3, 60]]).all())
        self.assertEqual(list(got[1]), [.5, -.5])
        self.assertAlmostEqual(kept, mask[[3, 60]].sum() / (2 * D))
        layer.labels_set([3, 60], (np.array([0, 1, 1]), np.array([4]), np.float32([7])), frequency=[1, 9], samples=99)
        close(self, layer.labels_get([3, 60])[1], np.log([1.5 / 98.5, 9.5 / 90.5]))
        layer.labels_set([3], bias=np.float32([haste.RETIRED]))
        x, _ = batch(5)
        self.assertTrue((layer.top_k(x, L)[0][:, -1] == 3).all())

    def test_add_and_remove(self):
        layer = make(optimizer="adamw")
        x, rows = batch(8)
        layer.train_step(x, rows, lr=.01)
        W, b = layer.labels_get()
        more, kept = layer.labels_add(40, np.ones((40, D), np.float32), strongest=True)
        self.assertEqual((more.labels, layer.labels), (L + 40, L))
        self.assertTrue(0 < kept < 1)
        self.assertTrue((more.labels_get(np.arange(L))[0] == W).all())
        more.check()
        more.train_step(x, [[L + 39]] * 8, lr=.01)
        fewer, map = layer.labels_remove([0, 5, 5, 100])
        kept = map >= 0
        self.assertEqual((~kept).sum(), 3)
        self.assertTrue((fewer.labels_get(map[kept])[0] == W[kept]).all())
        fewer.check()
        for other in (more, fewer):
            again = pickle.loads(pickle.dumps(other))
            self.assertTrue((again.labels_get()[0] == other.labels_get()[0]).all())

    def test_from_rows(self):
        random = np.random.default_rng(2)
        W, b = random.standard_normal((L, D)).astype(np.float32), random.standard_normal(L).astype(np.float32)
        layer, kept = haste.layer_from_rows(L, D, [{"fan_in": haste.DENSE}], weight=W, bias=b)
        self.assertAlmostEqual(kept, 1)
        self.assertTrue((layer.labels_get()[0] == W).all() and (layer.labels_get()[1] == b).all())
        layer, kept = haste.layer_from_rows(L, D, fan_in=8, weight=W)
        self.assertTrue(8 / D < kept < 1)
        rows = np.arange(L + 1) * D, np.tile(np.arange(D), L), W.ravel()   # the same as sparse rows
        same, kept_too = haste.layer_from_rows(L, D, fan_in=8, weight=rows)
        self.assertTrue(kept == kept_too and content(same) == content(layer))
        twice, _ = haste.layer_from_rows(L, D, fan_in=8, weight=W, scale=2)
        self.assertTrue((twice.labels_get()[0] == 2 * layer.labels_get()[0]).all())

    def test_slice(self):
        """Labels 16 .. of the dense block to the second group of the last: logits, training, ids; and what keeps it alive."""
        layer = make(optimizer="adamw")
        x, rows = batch(8)
        layer.train_step(x, rows, lr=.01)
        part, id = layer.slice(16, 24 + 48 + 16)
        slots = np.arange(16, 24 + 48 + 16)
        there = np.sort(layer.label_of[slots][layer.label_of[slots] >= 0])
        self.assertEqual((id.dtype, list(id)), (np.int32, list(there)))
        self.assertEqual((part.labels, part.slots, [b["labels"] for b in part.blocks]), (len(id), len(slots), [4, 37, 16]))
        self.assertTrue(np.shares_memory(part.weight(1), layer.weight(1)))
        self.assertTrue((part.labels_get()[0] == layer.labels_get(id)[0]).all())
        close(self, part.forward(x), layer.forward(x)[:, slots])
        found, score = part.top_k(x, 4)
        self.assertTrue((id[found] == layer.top_k(x, 4, only=[id] * 8)[0]).all())
        whole, alone = layer.copy(), part.copy()
        W = layer.labels_get()[0]
        for a in (part, alone):
            a.train_step(x, np.arange(8), lr=.01)
        self.assertTrue((part.labels_get()[0] == alone.labels_get()[0]).all())   # state went along
        changed = (layer.labels_get()[0] != W).any(1)
        self.assertEqual(list(np.flatnonzero(changed)), list(id))   # and nobody else
        self.assertEqual((layer.step, part.step), (1, 2))
        weight = part.weight(0)
        del layer, part
        self.assertTrue(np.isfinite(weight).all())
        self.assertTrue((whole.labels_get()[0] == W).all())
        self.assertEqual(pickle.loads(pickle.dumps(whole.slice(0, 24)[0])).labels, 20)

    def test_join(self):
        layer = make(optimizer="momentum")
        x, rows = batch(8)
        layer.train_step(x, rows, lr=.1)
        parts = [layer.slice(*cut) for cut in ((0, 8), (8, 40), (40, layer.slots))]
        again = haste.layer_join([part for part, _ in parts], [id for _, id in parts], batch=3)
        self.assertTrue(content(again) == content(layer))
        self.assertEqual(again.batch, 3)
        other = haste.Layer(30, D, group_size=8, fan_in=3, optimizer="momentum", seed=4)
        both = haste.layer_join([layer, other])
        self.assertEqual((both.labels, len(both.blocks)), (L + 30, 4))
        self.assertTrue((both.labels_get(np.arange(L))[0] == layer.labels_get()[0]).all())
        self.assertTrue((both.labels_get(np.arange(L, L + 30))[0] == other.labels_get()[0]).all())
        turned = haste.layer_join([layer, other], [np.arange(30, L + 30), range(30)])
        self.assertTrue((turned.labels_get(np.arange(30))[0] == other.labels_get()[0]).all())
        both.train_step(x, [[L + 29]] * 8, lr=.1)
        both.check()


@unittest.skipUnless(importlib.util.find_spec("jax"), "no jax")
class TestJax(unittest.TestCase):
    def test_loss(self):
        """Under jit, with an encoder before it: the loss looks, its gradient trains."""
        import haste.jax
        import jax
        layer, same = make(optimizer="adamw"), make(optimizer="adamw")
        options = {"lr": .01}
        loss = haste.jax.loss_of(layer, options)
        x, rows = batch(8)
        offset, ids = np.cumsum([0] + [len(row) for row in rows]), np.array([l for row in rows for l in row])
        encoder = np.random.default_rng(1).standard_normal((D, D)).astype(np.float32)
        step = jax.jit(jax.value_and_grad(lambda encoder: loss(jax.numpy.tanh(x @ encoder), offset, ids)))
        look = jax.jit(lambda encoder: loss(jax.numpy.tanh(x @ encoder), offset, ids))
        for n in range(3):
            options["lr"] = .01 / (n + 1)
            h = np.tanh(x @ encoder)
            grad_h = np.zeros_like(h)
            close(self, look(encoder), same.evaluate(h, rows))
            self.assertEqual(layer.step, n)
            value, grad = step(encoder)
            close(self, value, same.train_step(h, rows, lr=.01 / (n + 1), grad_x=grad_h))
            close(self, grad, x.T @ (grad_h * (1 - h**2)), 1e-5)
            self.assertEqual(layer.step, n + 1)
            close(self, layer.labels_get()[0], same.labels_get()[0], 1e-5)


class TestErrors(unittest.TestCase):
    """Each says what was wrong, and leaves the layer as it was."""

    def test_sentences(self):
        layer = make()
        x, rows = batch(4)
        f = np.float32
        step = lambda *a, **k: layer.train_step(*a, lr=.1, **k)
        cases = [
            (lambda: step(x.astype(np.float64), rows), "x holds float64, expected float32: x.astype"),
            (lambda: step(x.astype(">f4"), rows), "x holds >f4"),
            (lambda: step([[1.]], rows), "x is a list, expected a numpy array of float32"),
            (lambda: step(x[:, :-1], rows), r"x has shape \(4, 22\), expected \(any, 23\)"),
            (lambda: step(x[0], rows), r"x has shape \(23,\), expected \(any, 23\)"),
            (lambda: step(np.asfortranarray(x), rows), "x is not contiguous.*ascontiguousarray"),
            (lambda: step(np.zeros((4, 2 * D), f)[:, ::2], rows), "x is not contiguous"),
            (lambda: step(np.frombuffer(bytes(4 * 4 * D + 1), np.uint8)[1:].view(f).reshape(4, D), rows), "x is not contiguous"),
            (lambda: step(x * np.inf, rows), r"x\[0, 0\] = .*not finite"),
            (lambda: step(x, rows[:-1]), "positives has 3 lists, expected B = 4"),
            (lambda: step(x, np.array([1, 2])), "positives holds 2 labels for B = 4 samples"),
            (lambda: step(x, np.array([.5, 1, 2, 3])), "positives.id holds float64"),
            (lambda: step(x, [[0], [1], [2], [L]]), rf"positives.id\[3\] = {L}, expected 0 to {L - 1}"),
            (lambda: step(x, [[0], [1], [2], [-1]]), r"positives.id\[3\] = -1"),
            (lambda: step(x, [[0], [1], [2], [2**40]]), r"positives.id\[3\] = 1099511627776 does not fit in 32 bits"),
            (lambda: step(x, [[0], [1], [2], [2**32 + 3]]), "does not fit in 32 bits"),
            (lambda: step(x, [[0], [1], [2], [.5]]), "positives.id holds float64"),
            (lambda: step(x, [0, 2, 1, 3, 4], [1, 2, 3, 4]), r"positives.offset\[2\] = 1 is below its predecessor"),
            (lambda: step(x, [0, 10**9, 1, 3, 4], [1, 2, 3, 4]), r"positives.offset\[2\] = 1 is below its predecessor"),
            (lambda: step(x, [0, 1, 2, 3, 5], [1, 2, 3, 4]), "positives.offset goes from 0 to 5, but there are 4 ids"),
            (lambda: step(x, [-1, 1, 2, 3, 4], [1, 2, 3, 4]), "positives.offset goes from -1 to 4, but"),
            (lambda: step(x, np.arange(5.), [1, 2, 3, 4]), "positives.offset holds float64"),
            (lambda: step(x, rows, grad_x=np.zeros((4, D))), "grad_x holds float64"),
            (lambda: step(x, rows, grad_x=np.zeros((3, D), f)), "grad_x has shape"),
            (lambda: step(x, rows, grad_x=x), "grad_x overlaps x"),
            (lambda: step(x, rows, grad_x=np.broadcast_to(f(0), (4, D))), "grad_x is not contiguous"),
            (lambda: step(x, rows, grad_x=np.frombuffer(bytes(16 * D), f).reshape(4, D)), "grad_x is read-only"),
            (lambda: step(x, rows, sample_weight=np.ones(4)), "sample_weight holds float64"),
            (lambda: step(x, rows, sample_weight=np.ones(3, f)), "sample_weight has shape"),
            (lambda: step(x, rows, label_weight=np.ones(3, f)), "label_weight has shape"),
            (lambda: step(x, rows, label_weight=-np.ones(L, f)), r"label_weight\[0\]"),
            (lambda: step(x, rows, ignored=[[L], [], [], []]), "ignored.id"),
            (lambda: step(x, rows, scale=0), "scale = 0 would mean the default"),
            (lambda: step(x, rows, share=2), "share = 2"),
            (lambda: step(x, rows, smoothing=1), "smoothing = 1"),
            (lambda: step(x, rows, blocks=[None]), "blocks has 1 rates"),
            (lambda: step(x, rows, clip="much"), "clip = 'much', expected a floating-point number"),
            (lambda: layer.train_step(x, rows, lr=1e300), "lr = inf"),
            (lambda: layer.train_step(x, rows, lr=np.nan), "lr = nan"),
            (lambda: layer.top_k(x, 0), "k = 0"),
            (lambda: layer.top_k(x, -1), "k = -1"),
            (lambda: layer.top_k(x.astype(np.float16), 1), "x holds float16"),
            (lambda: layer.top_k(x, 1, excluded=[[L]] + [[]] * 3), "excluded.id"),
            (lambda: layer.top_k(x, 1, only=[[L]] + [[]] * 3), "only.id"),
            (lambda: layer.above(x, 0, only=[[]] * 3), "only has 3 lists, expected B = 4"),
            (lambda: haste.top_k_merge([layer.top_k(x, 2)], []), "labels has 0 shards, expected 1"),
            (lambda: haste.top_k_merge([layer.top_k(x, 2)], [range(3)]), r"shards\[0\].id\[\d\] = "),
            (lambda: haste.top_k_merge([layer.top_k(x, 2), layer.top_k(x, 3)], [range(L)] * 2), r"found\[1\].id has shape"),
            (lambda: haste.top_k_merge([layer.top_k(x, 2)], [np.ones(L)]), r"labels\[0\] holds float64"),
            (lambda: haste.top_k_merge([layer.top_k(x, 2)], [range(2**31 - 5, 2**31 + L - 5)]), "below 2\^31"),
            (lambda: haste.top_k_merge([], []), "k = 0|count = 0"),
            (lambda: haste.above_merge([([0, 1, 2, 3, 9], np.zeros(4, np.int32), np.zeros(4, f))], [range(L)]),
             "goes from 0 to 9, but there are 4 ids"),
            (lambda: haste.above_merge([], []), "count = 0"),
            (lambda: haste.InputScores(layer, 1, 24), "1"),
            (lambda: layer.score_inputs(haste.InputScores(haste.Layer(50, D)), x, rows), "scores"),
            (lambda: layer.slice(1, 24), "first_slot = 1"),
            (lambda: layer.slice(24, 25), "end_slot = 25"),
            (lambda: layer.slice(24, 24), "24"),
            (lambda: layer.slice(0, 2**40), "end_slot = 1099511627776"),
            (lambda: layer.slice(-8, 24), "first_slot = -8"),
            (lambda: haste.layer_join([]), "count is below 1"),
            (lambda: haste.layer_join([layer, 3]), r"layers\[1\] is a int, expected a haste.Layer"),
            (lambda: haste.layer_join([layer, haste.Layer(30, D + 1)]), r"from\[1\] differs from from\[0\] in inputs"),
            (lambda: haste.layer_join([layer, layer], [range(L)]), rf"ids has \[{L}\] numbers, and the layers \[{L}, {L}\] labels"),
            (lambda: haste.layer_join([layer, layer], [range(L), range(L)]), r"id\[1\]\[\d+\] = \d+: this id stood before"),
            (lambda: haste.layer_join([layer], [np.arange(L) * 1.5]), r"ids\[0\] holds float64"),
            (lambda: haste.layer_attach(layer.to_memory()[:64], layer.options()), "bytes = 64|64 bytes"),
            (lambda: haste.layer_attach(haste.aligned(layer.nbytes + 8)[8:], layer.options()), "aligned"),
            (lambda: haste.layer_attach(bytes(layer.nbytes), layer.options()), "memory is a bytes, expected a numpy array of uint8"),
            (lambda: haste.load_memory(haste.aligned(1032)[8:], borrow=True), "memory is 8 bytes behind a multiple of 64"),
            (lambda: haste.Layer(L, D, purpose="fun").path, "purpose = 'fun', expected one of any, training, prediction"),
            (lambda: make(purpose="prediction").train_step(x, rows, lr=.1), "made for prediction alone"),
            (lambda: layer.choose_inputs([L], np.ones((1, D), f)), f"{L}"),
            (lambda: layer.choose_inputs([1], np.ones((1, D + 1), f)), "weight has shape"),
            (lambda: layer.choose_inputs([1], np.ones((1, D), f), threads=-1), "threads = -1"),
            (lambda: make(batch=1).top_k(x, 1, ([0, 10**9, 1, 3, 4], [1, 2, 3, 4])), r"excluded.offset\[2\] = 1 is below"),
            (lambda: layer.score(x, [[0], [], [], [L]]), f"{L}"),
            (lambda: layer.weight(3), "block 3, expected 0 to 2"),
            (lambda: layer.bias_state(-1, 0), "block -1, expected 0 to 2"),
            (lambda: layer.backward(x, np.zeros((4, 3), f)), "grad_logits has shape"),
            (lambda: layer.accumulate(x, rows, gradient=[]), "gradient has 0 blocks"),
            (lambda: layer.accumulate(x, rows, gradient=[(np.zeros(3, f),) * 2] * 3), r"gradient\[0\].weight has shape"),
            (lambda: layer.rewire(2), "share = 2"),
            (lambda: layer.rewire(.1, prune="weight"), "prune = 'weight', expected one of magnitude, saliency"),
            (lambda: layer.rewire(.1, growth="gradient"), "growth = 'gradient' needs a batch"),
            (lambda: layer.labels_get([L]), f"{L}"),
            (lambda: layer.labels_set([1], np.ones((2, D), f)), "weight has shape"),
            (lambda: layer.labels_set([1], np.full((1, D), np.nan, f)), "not finite|finite"),
            (lambda: layer.labels_add(3, block=7), "block = 7"),
            (lambda: layer.labels_remove(np.arange(L)), ""),
            (lambda: haste.Layer(L, D, loss="mse"), "loss = 'mse', expected one of bce, squared_hinge, softmax"),
            (lambda: haste.Layer(L, D, dtype="float16"), "dtype = 'float16'"),
            (lambda: haste.Layer(0, D), "labels = 0"),
            (lambda: haste.Layer(5 * 10**9, D), "labels = 5000000000, expected an integer of 32 bits"),
            (lambda: haste.Layer(L, 70000), "inputs = 70000"),
            (lambda: haste.Layer(L, D, group_size=12), "group_size = 12"),
            (lambda: haste.Layer(L, D, fan_in=99), "99"),
            (lambda: haste.Layer(L, D, [{"labels": 5}], fan_in=4), "said in blocks"),
            (lambda: haste.Layer(L, D, []), "0 blocks"),
            (lambda: haste.Layer(L, D, order=np.zeros(L, int)), "order"),
            (lambda: haste.Layer(L, D, order=np.zeros(3, int)), f"order has 3 numbers, expected labels = {L}"),
            (lambda: haste.Layer(L, D, frequency=np.ones(L, int)), r"frequency\[0\] = 1, expected 0 to samples = 0"),
            (lambda: haste.Layer(L, D, frequency=np.ones(L), samples=9), "frequency holds float64"),
            (lambda: haste.Layer(L, D, batch=-1).top_k(x, 1), "batch = -1"),
            (lambda: haste.Layer(L, D, path="sse").path, "path = 'sse'"),
            (lambda: haste.Metrics(0, 5), "k = 0"),
            (lambda: haste.embed_sparse(np.zeros((4, 8), f), ([0, 9], [1], f([1])), [1]), "x.offset goes from 0 to 9, but"),
            (lambda: haste.embed_dense(np.zeros((4, D), f), x, [0, 1, 2, 4]), "4, expected 0 to 3"),
            (lambda: haste.group(np.ones((4, 2), f), np.arange(4)), "order holds int64, expected int32"),
        ]
        layer.accumulate(x, rows)   # so that a gradient is there
        layer.gradient_zero()
        before = content(layer)
        for i, (call, text) in enumerate(cases):
            with self.subTest(case=i, text=text):
                with self.assertRaisesRegex(haste.Error, text):
                    call()
        self.assertTrue(content(layer) == before)
        for wrong in (lambda: step(x, rows, learning_rate=1), lambda: haste.Layer(L, D, head=3),
                      lambda: haste.Layer(L, D, [{"fanin": 3}]), lambda: step(x, rows, blocks=[{"rate": 1}, None, None])):
            with self.assertRaises(TypeError):
                wrong()

    def test_zero_is_zero(self):
        """momentum = 0 is no momentum, not the default of .9."""
        x, rows = batch(8)
        a, b = make(optimizer="momentum"), make(optimizer="sgd")
        for _ in range(2):
            a.train_step(x, rows, lr=.1, momentum=0)
            b.train_step(x, rows, lr=.1)
        self.assertTrue((a.labels_get()[0] == b.labels_get()[0]).all())

    def test_not_finite(self):
        layer = make()
        layer.weight(0)[0, 0, 0] = np.inf
        x, rows = batch(4)
        with self.assertRaises(haste.Error) as caught:
            layer.train_step(x, rows, lr=.1)
        self.assertEqual(caught.exception.status, "HASTE_ERR_NONFINITE")
        again = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual((str(again), again.status), (str(caught.exception), "HASTE_ERR_NONFINITE"))


class TestHeader(unittest.TestCase):
    def test_every_function_is_known(self):
        text = (ROOT / "haste.h").read_text()
        names = set(re.findall(r"^HASTE_API\s[^;]*?\b(haste_\w+)\(", text, re.M))
        known = set(library.library().function)
        self.assertEqual(names - known, {"haste_check_version", "haste_metrics_get"})
        self.assertGreater(len(names), 55)
        above = library.library().function["haste_above"].argtypes
        p = ctypes.c_void_p
        self.assertEqual(above, [p, p, p, ctypes.c_int32, ctypes.c_float, p, p, p, p, ctypes.c_int64, p, p])

    def test_every_function_is_offered(self):
        """By the classes and functions of the package, or for a reason not."""
        names = set(re.findall(r"^HASTE_API\s[^;]*?\b(haste_\w+)\(", (ROOT / "haste.h").read_text(), re.M))
        text = "".join((ROOT / f"examples/python/haste/{file}.py").read_text()
                       for file in ("layer", "functions", "library", "__main__"))
        freed = {f"haste_{name}_free" for name in ("gradient", "input_scores", "workspace", "layer", "file")}
        self.assertEqual({name for name in names if f'"{name}"' not in text} - freed,
                         {name for name in names if name.endswith("_ref")} |   # for tests in C
                         {"haste_workspace_init",    # workspaces have memory of their own
                          "haste_file_find",         # `sections` is a dict
                          "haste_metrics_get",       # shim.c calls it
                          "haste_check_version"})    # library.py compares versions itself

    def test_enumerations(self):
        text = re.sub(r"/\*.*?\*/", "", (ROOT / "haste.h").read_text(), flags=re.S)
        for name, prefix, words in (("loss", "HASTE_", plain.LOSSES), ("optimizer", "HASTE_", plain.OPTIMIZERS),
                                    ("path", "HASTE_PATH_", plain.PATHS), ("status", "", library.STATUS),
                                    ("purpose", "HASTE_", ("any_purpose", *plain.PURPOSES[1:])),
                                    ("prune", "HASTE_PRUNE_", ("magnitude", "saliency")),
                                    ("scope", "HASTE_SCOPE_", ("block", "group")),
                                    ("growth", "HASTE_GROW_", ("random", "gradient"))):
            body = re.search(rf"typedef enum haste_{name}\s*\{{(.*?)\}}", text, re.S)[1]
            items = [item.split("=") for item in body.split(",") if item.strip()]
            self.assertEqual([item[0].strip() for item in items],
                             [prefix + (word if name == "status" else word.upper()) for word in words])
            self.assertEqual([int(item[1]) for item in items if len(item) > 1],
                             [i for i, item in enumerate(items) if len(item) > 1])
        self.assertIn("HASTE_F32 = 0, HASTE_BF16 = 1", text)
        for name, value in (("DENSE", r"\(-1\)"), ("MAX_BLOCKS", "8"), ("MAX_SECTIONS", "32"), ("SOFTMAX_SUMS", "5"),
                            ("NONE", r"\(-1\)")):
            self.assertRegex(text, rf"#define HASTE_{name}\s+{value}")

    def test_kinds_of_members(self):
        member = library.library().member
        self.assertEqual({name: member[name][1] for name in ("step.lr", "step.loss.scale", "layer.step", "layer.seed",
                                                             "layer.labels", "layer.loss", "plan.layer", "lists.id")},
                         {"step.lr": "f", "step.loss.scale": "d", "layer.step": "q", "layer.seed": "Q", "layer.labels": "i",
                          "layer.loss": member["layer.loss"][1], "plan.layer": "Q", "lists.id": "P"})


NVCC = shutil.which(os.environ.get("NVCC") or "nvcc")
OBJECT = ROOT / (os.environ.get("BUILD") or "build") / "haste_cuda.o"


@unittest.skipUnless(NVCC and OBJECT.exists(), f"no nvcc, or no {OBJECT.name} (make cuda)")
class TestCuda(unittest.TestCase):
    """What needs no device: the library links, its functions and structs are known."""

    def test_library(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([os.environ.get("CC", "cc"), "-std=c99", "-O0", "-DHASTE_NO_SIMD", "-fPIC", "-DHASTE_DLL",
                            "-DHASTE_PYTHON_CUDA", f"-I{ROOT}", "-c", ROOT / "examples/python/haste/shim.c", "-o",
                            f"{folder}/shim.o"], check=True)
            subprocess.run([NVCC, "-shared", "-o", f"{folder}/cuda.so", f"{folder}/shim.o", OBJECT, "-lm"], check=True)
            p = python(f"""
import haste, re
from haste import library
cuda = library.library(cuda=True)
text = open({str(ROOT / "haste_cuda.cuh")!r}).read()
names = set(re.findall(r"^HASTE_API\\s[^;]*?\\b(haste_\\w+)\\(", text, re.M))
print(sorted(names - set(cuda.function)), len(names) > 25)
plan = [haste.plan_bytes(labels, 128, fan_in=16, optimizer="adamw", cuda=True) for labels in (32000, 64000)]
host = haste.plan_bytes(32000, 128, fan_in=16, optimizer="adamw")
print(1 <= plan[0]["layer"] / host["layer"] < 1.1, 1.9 < plan[1]["layer"] / plan[0]["layer"] < 2.1, plan[0]["pinned"] > 0)
try:
    haste.plan_bytes(0, 128, cuda=True)
except haste.Error as error:
    print(error)
""", HASTE_LIBRARY=f"{folder}/cuda.so")
            out = p.communicate()[0].splitlines()
            self.assertEqual(out[:2], ["['haste_cuda_kernels_of'] True", "True True True"])   # it returns a struct
            self.assertIn("labels = 0", out[2])


class TestReadme(unittest.TestCase):
    """The examples of examples/python/README.md, as they stand there."""

    def test_examples(self):
        text = (ROOT / "examples/python/README.md").read_text(encoding="utf-8")
        blocks = [code for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if ("torch" in code) == False]
        self.assertGreaterEqual(len(blocks), 2)
        here = os.getcwd()
        for code in blocks:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                try:
                    exec(compile(code, "README.md", "exec"), {})
                finally:
                    os.chdir(here)


# ---- how it is built: small flags, since nothing but building is looked at -------------------------------------------

QUICK = "-O0 -DHASTE_NO_SIMD"
SMALL = "import haste, numpy; l = haste.Layer(50, 8, fan_in=4); print(l.top_k(numpy.ones((1, 8), 'f4'), 1)[0][0, 0])"


def python(code, folder=ROOT / "examples/python", **environment):
    clean = {name: value for name, value in os.environ.items() if name not in ("HASTE_LIBRARY", "CFLAGS", "PYTHONPATH")}
    return subprocess.Popen([sys.executable, "-c", code], cwd=folder, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**clean, "CFLAGS": QUICK, "OMP_NUM_THREADS": "1", **environment})


class TestBuild(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def test_many_processes_at_once(self):
        processes = [python(SMALL, HASTE_CACHE=str(self.folder / "new/cache")) for _ in range(5)]
        answers = {(p.communicate()[0], p.returncode) for p in processes}
        self.assertEqual(len(answers), 1, answers)
        processes_say, code = answers.pop()
        self.assertEqual(code, 0, processes_say)
        files = sorted(p.suffix for p in (self.folder / "new/cache").iterdir())
        self.assertEqual(files, [".lock", ".so"])
        built = next((self.folder / "new/cache").glob("*.so")).stat().st_mtime_ns
        self.assertIn(python(SMALL, HASTE_CACHE=str(self.folder / "new/cache")).communicate()[0], [processes_say])
        self.assertEqual(next((self.folder / "new/cache").glob("*.so")).stat().st_mtime_ns, built)
        library_file = str(next((self.folder / "new/cache").glob("*.so")))   # named, without a compiler
        p = python(SMALL, HASTE_LIBRARY=library_file, CC="false", HASTE_CACHE="/nonexistent")
        self.assertEqual((p.communicate()[0].strip().isdigit(), p.returncode), (True, 0))

    def test_copied_beside_the_header(self):
        """The folder `haste` and haste.h, in some project; the cache lies beside it."""
        shutil.copytree(ROOT / "examples/python/haste", self.folder / "project/haste",
                        ignore=shutil.ignore_patterns("cache", "__pycache__"))
        shutil.copy(ROOT / "haste.h", self.folder / "project")
        code = "import os; os.environ.pop('HASTE_CACHE', None); " + SMALL
        p = python(code, self.folder / "project")
        out = p.communicate()[0]
        self.assertEqual(p.returncode, 0, out)
        self.assertEqual(len(list((self.folder / "project/haste/cache").glob("*.so"))), 1)
        (self.folder / "project/haste.h").unlink()
        p = python(code, self.folder / "project")
        self.assertIn("haste.h is neither in", p.communicate()[0])

    def test_what_cannot_be_built(self):
        for environment, text in (({"CC": "no-such-compiler"}, "needs a compiler"), ({"CC": "false"}, "could not be compiled"),
                                  ({"CFLAGS": "-ffast-math"}, "could not be compiled"),
                                  ({"HASTE_LIBRARY": "/nonexistent.so"}, "is not a library of shim.c")):
            p = python(SMALL, **{"HASTE_CACHE": str(self.folder), **environment})
            out = p.communicate()[0]
            self.assertIn(text, out)
            self.assertEqual(p.returncode, 1)
        self.assertEqual([p for p in self.folder.iterdir() if p.suffix != ".lock"], [])
        (self.folder / "file").write_text("")
        p = python(SMALL, HASTE_CACHE=str(self.folder / "file"))
        self.assertIn("set HASTE_CACHE", p.communicate()[0])

    def test_library_of_another_version(self):
        source = self.folder / "old.c"
        source.write_text("int haste_python_version(void) { return 0; }")
        subprocess.run([os.environ.get("CC", "cc"), "-shared", "-fPIC", source, "-o", self.folder / "old.so"], check=True)
        p = python(SMALL, HASTE_LIBRARY=str(self.folder / "old.so"))
        self.assertIn("was built from version 0 of shim.c", p.communicate()[0])

    def test_main(self):
        run = subprocess.run([sys.executable, "-m", "haste"], cwd=ROOT / "examples/python", capture_output=True, text=True)
        self.assertRegex(run.stdout, r"haste \d+\.\d+\.\d+, kernels: \w+\nlibrary: .*\.so\nby hand: .*\nthen: ")

    def test_installed(self):
        """pip install ./examples/python: a wheel with the header in it, without network."""
        if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
            self.skipTest("no pip")
        run = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target",
                              self.folder / "site", ROOT / "examples/python"], capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        self.assertTrue((self.folder / "site/haste/haste.h").is_file() and (self.folder / "site/haste/haste_cuda.cuh").is_file())
        p = python(SMALL, self.folder / "site", HASTE_CACHE=str(self.folder / "cache"))
        out = p.communicate()[0]
        self.assertEqual(p.returncode, 0, out)


if __name__ == "__main__":
    result = unittest.main(exit=False, warnings="ignore").result
    failed = len(result.failures) + len(result.errors)
    if result.skipped:
        print("skipped:", "; ".join(f"{test}: {why}" for test, why in result.skipped))
    sys.exit(failed != 0)
