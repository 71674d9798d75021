#!/usr/bin/env python3
"""train.py: from text to labels: a transformer, or a bag of words, with haste's output layer or a dense one, and all else the same.

    python3 train.py TRAIN TEST                              # a bag of words; needs torch and numpy alone
    python3 train.py TRAIN TEST --layer dense --log runs.csv --plot runs.png
    python3 train.py TRAIN TEST --encoder FOLDER             # a folder of Hugging Face's: config.json, weights, tokenizer
    python3 train.py TRAIN TEST --encoder FOLDER --device cuda
    python3 train.py TEST --load model.pt

A line is a document, as fastText has them, `__label__cats __label__dogs My pets`, or `cats;dogs<tab>My pets`; .gz and .xz are
unpacked. Labels and words are learnt from TRAIN; TEST is scored after each epoch, and decides nothing. On a GPU transformer and dense
layer compute in bfloat16, from float32 weights (autocast); haste's layer keeps bfloat16 weights there."""
import argparse
import csv
import gzip
import itertools
import lzma
import math
import os
import re
import resource
import sys
import time

import numpy
import torch
import torch.nn.functional as functional

import haste
import haste.torch

LOG = ("run", "layer", "encoder", "seed", "labels", "inputs", "head", "fan_in", "group_size", "groups", "rewire", "epoch",
       "loss", "seconds", "output_seconds", "output_share", "peak_mib", "p1", "p3", "p5", "psp1", "psp3", "psp5")


def arguments(given=None):
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="A line of TRAIN: __label__cats __label__dogs My pets")
    p.add_argument("files", nargs="+", metavar="FILE", help="TRAIN and TEST; with --load TEST alone, with --valid TRAIN alone")
    p.add_argument("--layer", choices=("haste", "dense"), default="haste", help="the output layer (default haste)")
    p.add_argument("--encoder", default="bag", metavar="bag|FOLDER", help="words, or a transformer (package transformers)")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="of haste's weights (default float32; on a GPU bfloat16)")
    p.add_argument("--epochs", type=int, default=5)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=.007, help="of the output layer, AdamW (default .007)")
    p.add_argument("--tail-lr", type=float, metavar="FACTOR", help="of the labels behind the head, times --lr (default inputs / fan-in: "
                   "logits that are sums of fewer inputs move as fast)")
    p.add_argument("--encoder-lr", type=float, help="default .003 of a bag, 5e-5 of a transformer, AdamW")
    p.add_argument("--weight-decay", type=float, default=0., help="of the output layer")
    p.add_argument("--dropout", type=float, default=.3)
    p.add_argument("--inputs", type=int, default=512, help="width of the bag (default 512); a transformer has its own")
    p.add_argument("--max-tokens", type=int, default=64, help="of a transformer (default 64)")
    p.add_argument("--widen", type=int, default=0, metavar="N", help="a layer between a transformer and the output layer, which then "
                   "has N inputs")
    p.add_argument("--head", type=int, help="labels with dense weights, the most frequent ones (default 4,096 of twice as many, "
                   "else 1,024)")
    p.add_argument("--fan-in", type=int, default=128, help="inputs of a group (default 128)")
    p.add_argument("--group-size", type=int, default=32)
    p.add_argument("--groups", choices=("frequency", "random", "semantic"), default="frequency")
    p.add_argument("--negligible", type=float, help="slopes that count as 0, see haste.h")
    p.add_argument("--rewire", choices=("never", "random", "gradient"), default="never", help="gradient: scored over ten batches")
    p.add_argument("--rewire-share", type=float, default=.1, help="of inputs moved at first, falling to 0")
    p.add_argument("--rewire-every", type=int, default=300, metavar="STEPS")
    p.add_argument("--rewire-end", type=float, default=.7, metavar="SHARE", help="of training, after which nothing moves")
    p.add_argument("--valid", type=int, default=0, metavar="N", help="score the last N documents of TRAIN, left out of training, in "
                   "place of TEST")
    p.add_argument("--limit", type=int, metavar="N", help="only the first N documents of each file")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--run", help="the run's name in the log (default: layer and encoder)")
    p.add_argument("--log", metavar="FILE", help="adds a line of CSV for each epoch")
    p.add_argument("--plot", metavar="FILE", help="draws the runs of --log (needs matplotlib)")
    p.add_argument("--save", metavar="FILE", help="the model, for --load")
    p.add_argument("--load", metavar="FILE", help="a model of --save; nothing is trained")
    a = p.parse_args(given)
    if len(a.files) != (1 if a.load or a.valid else 2):
        p.error(f"{len(a.files)} files, expected {'TEST alone' if a.load else 'TRAIN alone' if a.valid else 'TRAIN and TEST'}")
    if torch.device(a.device).type == "cuda" and not torch.cuda.is_available():
        p.error(f"--device {a.device}: torch finds no GPU")
    a.dtype = a.dtype or ("float32" if torch.device(a.device).type == "cpu" else "bfloat16")
    if a.widen and a.encoder == "bag":
        p.error("--widen is for a transformer: the bag is as wide as --inputs says")
    if a.plot and not a.log:
        p.error("--plot draws the runs of a log: --log FILE")
    if a.encoder_lr is None:
        a.encoder_lr = .003 if a.encoder == "bag" else 5e-5
    a.run = a.run or f"{a.layer} {'bag' if a.encoder == 'bag' else os.path.basename(a.encoder.rstrip('/'))}"
    return a


# ---- text ------------------------------------------------------------------------------------------------------------

def read(path, limit=None):
    """(texts, the names of each one's labels)"""
    texts, labels = [], []
    with {".gz": gzip.open, ".xz": lzma.open}.get(os.path.splitext(path)[1], open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(itertools.islice(lines, limit), 1):
            names, tab, text = line.rstrip("\n").partition("\t")
            if tab:
                names = [name for name in names.split(";") if name]
            else:
                words = line.split()
                count = next((i for i, word in enumerate(words) if not word.startswith("__label__")), len(words))
                names, text = [word[9:] for word in words[:count]], " ".join(words[count:])
                if not names:
                    sys.exit(f"{path}, line {number}: no label: expected __label__NAME ... text, or NAME;NAME<tab>text")
            texts.append(text)
            labels.append(names)
    if not texts:
        sys.exit(f"{path}: no documents")
    return texts, labels


def csr(rows, dtype):
    """(offset, values) of lists."""
    return (numpy.cumsum([0] + [len(row) for row in rows]),
            numpy.fromiter(itertools.chain.from_iterable(rows), dtype, sum(map(len, rows))))


def rows_of(offset, at):
    """Where the rows `at` of a CSR lie: (their own offset, the places of their values)."""
    first, count = offset[at], offset[at + 1] - offset[at]
    own = numpy.concatenate([[0], numpy.cumsum(count)])
    return own, numpy.arange(own[-1]) + numpy.repeat(first - own[:-1], count)


class Words:
    """Bags of words with tf-idf weights of length 1. Words of one document are left out from 10,000 documents on."""

    def __init__(self, texts=(), word=None, idf=None):
        self.word, self.idf = word, idf
        if word is None:
            count = {}
            for text in texts:
                for w in set(self.split(text)):
                    count[w] = count.get(w, 0) + 1
            least = 2 if len(texts) >= 10000 else 1
            kept = sorted(w for w, n in count.items() if n >= least)
            self.word = {w: i for i, w in enumerate(kept)}
            self.idf = numpy.log((len(texts) + 1) / numpy.array([count[w] for w in kept])).astype(numpy.float32)

    @staticmethod
    def split(text):
        return re.findall(r"\w+", text.lower())

    def bags(self, texts):
        """(offset, word, value), words ascending"""
        ids, values = [], []
        for text in texts:
            id, count = numpy.unique([self.word[w] for w in self.split(text) if w in self.word], return_counts=True)
            value = count * self.idf[id.astype(int)]
            ids.append(id.astype(numpy.int32))
            values.append((value / max(numpy.sqrt((value**2).sum()), 1e-9)).astype(numpy.float32))
        return numpy.cumsum([0] + [len(id) for id in ids]), numpy.concatenate(ids), numpy.concatenate(values)


def to(array, device):
    """A numpy array as a tensor on the device; nothing waits."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def tokens(folder, max_tokens, texts):
    """(offset, ids) of a transformer's tokens"""
    import transformers
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return csr(tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"], numpy.int64)


# ---- encoders --------------------------------------------------------------------------------------------------------

class RowAdam:
    """Adam without momentum for an embedding: a row changes in steps that have its word, its second moment, one number, catches up
    with the steps between. (As examples/encoder.h, which says what torch's SparseAdam costs here.)"""

    def __init__(self, weight, beta=.999, eps=1e-8):
        self.weight, self.beta, self.eps, self.t = weight, beta, eps, 0
        self.moment, self.seen = torch.zeros(len(weight), device=weight.device), torch.zeros(len(weight), device=weight.device)

    @torch.no_grad()
    def step(self, lr):
        self.t += 1
        grad = self.weight.grad.coalesce()
        row, grad = grad.indices()[0], grad.values()
        self.moment[row] = self.moment[row] * self.beta ** (self.t - self.seen[row]) + (1 - self.beta) * (grad**2).mean(1)
        self.seen[row] = float(self.t)
        self.weight.index_add_(0, row, grad * (-lr / ((self.moment[row] / (1 - self.beta**self.t)).sqrt() + self.eps))[:, None])
        self.weight.grad = None


class Bag(torch.nn.Module):
    def __init__(self, words, width):
        super().__init__()
        self.words, self.width = words, width
        self.bag = torch.nn.EmbeddingBag(max(len(words.word), 1), width, mode="sum", sparse=True)
        self.bias = torch.nn.Parameter(torch.zeros(width))
        torch.nn.init.uniform_(self.bag.weight, -.1, .1)

    def prepare(self, texts):
        return self.words.bags(texts)

    def length(self, documents):   # nothing is padded
        return None

    def forward(self, documents, at):
        offset, id, value = documents
        own, places = rows_of(offset, at)
        id, own, value = (to(array, self.bias.device) for array in (id[places], own[:-1], value[places]))
        return self.bag(id.long(), own, per_sample_weights=value) + self.bias

    def optimizer(self):
        rows, bias = RowAdam(self.bag.weight), torch.optim.Adam([self.bias])

        def step(lr):
            bias.param_groups[0]["lr"] = lr
            bias.step()
            bias.zero_grad()
            rows.step(lr)
        return step


class Transformer(torch.nn.Module):
    """The mean of a transformer's last states; with `widen` a layer after it."""

    def __init__(self, folder, max_tokens, widen=0):
        super().__init__()
        try:
            import transformers
        except ImportError:
            sys.exit("--encoder FOLDER needs the package transformers; --encoder bag does without")
        self.model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").float()   # others compile for each length
        self.folder, self.width, self.max_tokens, self.wide = folder, self.model.config.hidden_size, max_tokens, None
        if widen:
            self.wide, self.width = torch.nn.Sequential(torch.nn.Linear(self.width, widen), torch.nn.GELU()), widen

    def prepare(self, texts):
        return tokens(self.folder, self.max_tokens, texts)

    def length(self, documents):
        return numpy.diff(documents[0])

    def forward(self, documents, at):
        offset, ids = documents
        own, places = rows_of(offset, at)
        length = numpy.diff(own)
        mask = numpy.arange(length.max()) < length[:, None]
        padded = numpy.zeros(mask.shape, numpy.int64)
        padded[mask] = ids[places]
        padded, mask = to(padded, self.model.device), to(mask, self.model.device)
        with torch.autocast(padded.device.type, torch.bfloat16, enabled=padded.is_cuda):
            state = self.model(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        mean = (state.float() * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        return mean if self.wide is None else self.wide(mean)

    def optimizer(self):
        own = torch.optim.AdamW(self.parameters(), weight_decay=.01, fused=self.model.device.type == "cuda")

        def step(lr):
            own.param_groups[0]["lr"] = lr
            own.step()
            own.zero_grad()
        return step


# ---- output layers ---------------------------------------------------------------------------------------------------

class Dense(torch.nn.Module):
    """What haste takes the place of: nn.Linear, binary cross-entropy, AdamW."""

    def __init__(self, a, labels, inputs, frequency, samples):
        super().__init__()
        self.linear = torch.nn.Linear(inputs, labels)
        if frequency is not None:   # the bias begins at the prior, as haste's
            p = torch.from_numpy((frequency + .5) / (samples + 1))
            self.linear.bias.data = torch.logit(p).float()
        self.decay = a.weight_decay
        self.own = None

    def train_step(self, h, offset, ids, lr):
        """The loss, after an update. Leaves the gradient in h.grad."""
        if self.own is None:
            self.own = torch.optim.AdamW(self.linear.parameters(), weight_decay=self.decay, fused=h.is_cuda)
        z = self.logits(h)
        y = torch.zeros_like(z)
        row = numpy.repeat(numpy.arange(len(h)), numpy.diff(offset))
        y[to(row, h.device), to(ids, h.device).long()] = 1
        loss = functional.binary_cross_entropy_with_logits(z, y, reduction="sum") / len(h)
        self.own.zero_grad()
        loss.backward()
        self.own.param_groups[0]["lr"] = lr
        self.own.step()
        return loss.detach()

    def logits(self, h):
        with torch.autocast(h.device.type, torch.bfloat16, enabled=h.is_cuda):
            z = self.linear(h)
        return z.float()

    def top_k(self, h, k):
        return self.logits(h).topk(min(k, self.linear.out_features)).indices.int().cpu()


class Sparse(torch.nn.Module):
    """haste's layer: `fused`, since the gradient of the loss for h is asked for at once."""

    def __init__(self, a, labels, inputs, frequency, samples, order=None):
        super().__init__()
        self.a, self.recent, self.steps = a, [], 0
        blocks = [{"labels": a.head, "fan_in": haste.DENSE}] if a.head else []
        fan_in = min(a.fan_in, inputs)
        self.rates = [1.] * len(blocks)   # of the blocks
        if labels > a.head:
            blocks.append({"labels": labels - a.head, "fan_in": fan_in, "group_size": a.group_size})
            self.rates.append(a.tail_lr or inputs / fan_in)
        self.layer = haste.torch.Layer(labels, inputs, blocks, order=order, frequency=frequency, samples=samples, optimizer="adamw",
                                       lr=a.lr, weight_decay=a.weight_decay, negligible=a.negligible, seed=a.seed,
                                       batch=a.batch, dtype=a.dtype, device=a.device)

    def train_step(self, h, offset, ids, lr):
        self.layer.options["lr"] = lr
        self.layer.options["blocks"] = [{"lr": lr * rate} for rate in self.rates]
        loss = self.layer(h, to(offset, h.device), to(ids, h.device))
        loss.backward()
        return loss.detach()

    def rewire(self, h, offset, ids, total):
        """Every so many steps, with a share that falls; gradients are those of the ten batches before."""
        a, self.steps = self.a, self.steps + 1
        if a.rewire == "never":
            return
        left = -self.steps % a.rewire_every
        if a.rewire == "gradient" and left < 10:
            self.recent.append((h.detach(), numpy.diff(offset), ids))
        share = haste.rewire_share(self.steps, int(a.rewire_end * total), a.rewire_share)
        if left == 0 and share > 0 and a.rewire == "random":
            self.layer.rewire(share)
        elif left == 0 and share > 0:
            h, count, ids = zip(*self.recent)
            lists = numpy.concatenate([[0], numpy.cumsum(numpy.concatenate(count))]), numpy.concatenate(ids)
            self.layer.rewire(share, growth="gradient", x=torch.cat(h), positives=lists)
        if left == 0:
            self.recent = []

    def top_k(self, h, k):
        return self.layer.top_k(h, k)[0].cpu()


def order_of(a, frequency, bags, offset, ids):
    """Frequent labels first; behind the head, which labels share a group."""
    order = haste.order_by_frequency(frequency)
    rest = order[a.head:]
    if a.groups == "random":
        haste.order_random(rest, a.seed)
    elif a.groups == "semantic" and len(rest):
        embedding = numpy.zeros((len(frequency), 64), numpy.float32)
        haste.embed_sparse(embedding, bags, offset, ids, seed=a.seed)
        haste.embed_finish(embedding)
        haste.group(embedding, rest, group_size=a.group_size, seed=a.seed)
    return order


# ---- the run ---------------------------------------------------------------------------------------------------------

def progress(items, what):
    """tqdm's bar on a terminal, where it is installed; else a line every ten seconds."""
    try:
        from tqdm import tqdm
        yield from tqdm(items, desc=what, leave=False, disable=None)
    except ImportError:
        said = time.time()
        for i, item in enumerate(items):
            if time.time() - said > 10:
                print(f"{what}: {i} of {len(items)}", file=sys.stderr)
                said = time.time()
            yield item


def batches(order, size, length, random=None):
    """Parts of `order`. Where padding costs, of documents that are alike long: out of 32 parts that belong together."""
    if length is not None:
        runs = (order[i:i + 32 * size] for i in range(0, len(order), 32 * size))
        order = numpy.concatenate([run[numpy.argsort(length[run], kind="stable")] for run in runs])
    parts = [order[i:i + size] for i in range(0, len(order), size)]
    if length is not None and random is not None:
        random.shuffle(parts)
    return parts


def score(encoder, output, documents, lists, inverse, labels, batch):
    """P@k and PSP@k, k = 1, 3, 5, in percent."""
    encoder.eval(), output.eval()
    metrics = haste.Metrics(5, labels, inverse)
    offset, ids = lists
    with torch.no_grad():
        for at in batches(numpy.arange(len(offset) - 1), batch, encoder.length(documents)):
            found = torch.full((len(at), 5), -1, dtype=torch.int32)
            best = output.top_k(encoder(documents, at), 5)
            found[:, :best.shape[1]] = best
            own, places = rows_of(offset, at)
            metrics.add(found.numpy(), own, ids[places])
    encoder.train(), output.train()
    values = {k: metrics.get(k) for k in (1, 3, 5)}
    return [values[k]["precision"] for k in values] + [values[k]["psp"] for k in values]


def says(values):
    return "P@1/3/5 {:.2f} {:.2f} {:.2f}   PSP@1/3/5 {:.2f} {:.2f} {:.2f}".format(*values)


def peak(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


class Stopwatch:
    """Seconds between begin and end, added up; on a GPU by its events, so that nothing has to wait."""

    def __init__(self, device):
        self.gpu, self.pairs = device.type == "cuda", []

    def now(self):
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def begin(self):
        self.pairs.append([self.now()])

    def end(self):
        self.pairs[-1].append(self.now())

    def seconds(self):
        if self.gpu:
            torch.cuda.synchronize()
        return sum(a.elapsed_time(b) / 1000 if self.gpu else b - a for a, b in self.pairs)


def train(a, encoder, output, documents, lists, after):
    """after(epoch, loss, seconds, seconds of the output layer) is called at the end of each epoch."""
    device, N, (offset, ids) = torch.device(a.device), len(lists[0]) - 1, lists
    encoder_step = encoder.optimizer()
    steps = math.ceil(N / a.batch)
    total, step = steps * a.epochs, 0
    encoder.train(), output.train()
    for epoch in range(1, a.epochs + 1):
        random, losses = numpy.random.default_rng((a.seed, epoch)), torch.zeros((), device=device)
        parts = batches(random.permutation(N), a.batch, encoder.length(documents), random)
        of_output, begun = Stopwatch(device), time.perf_counter()
        for i in progress(range(steps), f"epoch {epoch}"):
            at = parts[i]
            own, places = rows_of(offset, at)
            h = functional.dropout(encoder(documents, at), a.dropout)
            leaf = h.detach().requires_grad_()   # so that the output layer's time can be told from the encoder's
            factor = haste.schedule(step + 1, total // 20, total + 1)
            of_output.begin()
            losses += output.train_step(leaf, own, ids[places], a.lr * factor)
            of_output.end()
            h.backward(leaf.grad)
            encoder_step(a.encoder_lr * factor)
            if isinstance(output, Sparse):
                of_output.begin()
                output.rewire(h, own, ids[places], total)
                of_output.end()
            step += 1
        of_output, loss = of_output.seconds(), losses.item() / steps
        after(epoch, loss, time.perf_counter() - begun, of_output)


def plot(log, to):
    """P@1 by epoch, and seconds an epoch, of each run of the log."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("--plot needs matplotlib; the numbers are in the log")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    runs = {}
    with open(log, newline="") as file:
        for row in csv.DictReader(file):
            runs.setdefault(row["run"], []).append([float(row[name]) for name in ("epoch", "p1", "seconds", "output_seconds")])
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for run, rows in runs.items():
        left.plot([row[0] for row in rows], [row[1] for row in rows], marker="o", label=run)
    mean = lambda column: [sum(row[column] for row in rows) / len(rows) for rows in runs.values()]
    right.barh(list(runs), mean(2), label="encoder and the rest")
    right.barh(list(runs), mean(3), label="output layer")
    left.set(xlabel="epoch", ylabel="P@1 (%)")
    right.set(xlabel="seconds an epoch")
    left.legend(), right.legend()
    figure.tight_layout()
    figure.savefig(to)


def build(a, names, words, frequency=None, samples=0, order=None):
    torch.manual_seed(a.seed)
    encoder = Bag(words, a.inputs) if a.encoder == "bag" else Transformer(a.encoder, a.max_tokens, a.widen)
    layer = (a, len(names), encoder.width, frequency, samples)
    return encoder.to(a.device), (Dense(*layer) if a.layer == "dense" else Sparse(*layer, order)).to(a.device)


def load(a):
    saved = torch.load(a.load, weights_only=True, map_location="cpu")
    kept = argparse.Namespace(**{**saved["arguments"], "device": a.device})   # any device reads any other's
    words = Words(word=saved["words"], idf=saved["idf"].numpy()) if kept.encoder == "bag" else None
    encoder, output = build(kept, saved["names"], words)
    encoder.load_state_dict(saved["encoder"])
    output.load_state_dict(saved["output"])
    return kept, saved["names"], saved["inverse"].numpy(), encoder, output


def lists_of(labels, id):
    """(offset, ids) of the labels that TRAIN has, and how many are left out."""
    rows = [sorted({id[name] for name in row if name in id}) for row in labels]
    return csr(rows, numpy.int32), sum(name not in id for row in labels for name in row)


def main(given=None):
    a = arguments(given)
    if a.load:
        texts, labels = read(a.files[0], a.limit)
        kept, names, inverse, encoder, output = load(a)
        lists, left = lists_of(labels, {name: i for i, name in enumerate(names)})
        values = score(encoder, output, encoder.prepare(texts), lists, inverse, len(names), kept.batch)
        print(f"TEST       {len(texts):,} documents; {left} labels that the model does not have\n{says(values)}")
        return values
    texts, labels = read(a.files[0], a.limit)
    if a.valid:
        if not 0 < a.valid < len(texts):
            sys.exit(f"--valid {a.valid}: {a.files[0]} has {len(texts)} documents")
        test, test_labels, texts, labels = texts[-a.valid:], labels[-a.valid:], texts[:-a.valid], labels[:-a.valid]
    else:
        test, test_labels = read(a.files[1], a.limit)
    names = sorted({name for row in labels for name in row})
    id = {name: i for i, name in enumerate(names)}
    lists, _ = lists_of(labels, id)
    frequency, N = numpy.bincount(lists[1], minlength=len(names)), len(texts)
    inverse = haste.inverse_propensity(frequency, N)
    test_lists, left = lists_of(test_labels, id)
    if a.head is None:
        a.head = 4096 if len(names) >= 8192 else 1024
    a.head = min(a.head, len(names))
    words = Words(texts) if a.encoder == "bag" or a.groups == "semantic" else None
    print(f"TRAIN      {N:,} documents, {len(names):,} labels{f', {len(words.word):,} words' if words else ''}\n"
          f"TEST       {len(test):,} documents; {left} labels that TRAIN does not have")
    order = None
    if a.layer == "haste":
        begun = time.time()
        order = order_of(a, frequency, words.bags(texts) if a.groups == "semantic" else None, *lists)
        print(f"groups     {a.groups}: {time.time() - begun:.1f} s")
    encoder, output = build(a, names, words, frequency, N, order)
    a.inputs = encoder.width
    print(f"output     {output.layer.core if a.layer == 'haste' else output.linear}")
    documents, test_documents = encoder.prepare(texts), encoder.prepare(test)
    values = []

    def after(epoch, loss, seconds, of_output):
        values[:] = score(encoder, output, test_documents, test_lists, inverse, len(names), a.batch)
        memory = peak(torch.device(a.device))
        print(f"epoch {epoch:3}  loss {loss:8.3f}  {seconds:7.1f} s, output layer {of_output / seconds:4.0%}, "
              f"peak {memory:,.0f} MiB  {says(values)}", flush=True)
        if a.log:
            new = not os.path.exists(a.log) or os.path.getsize(a.log) == 0
            row = {**vars(a), "labels": len(names), "epoch": epoch, "loss": loss, "seconds": seconds, "output_seconds": of_output,
                   "output_share": of_output / seconds, "peak_mib": memory, **dict(zip(LOG[-6:], values))}
            with open(a.log, "a", newline="") as file:
                out = csv.writer(file)
                if new:
                    out.writerow(LOG)
                out.writerow([f"{row[name]:.6g}" if isinstance(row[name], float) else row[name] for name in LOG])

    train(a, encoder, output, documents, lists, after)
    if a.save:
        torch.save({"arguments": vars(a), "names": names, "words": words and words.word,
                    "idf": words and torch.from_numpy(words.idf), "inverse": torch.from_numpy(inverse), "encoder": encoder.state_dict(), "output": output.state_dict()}, a.save)
    if a.plot:
        plot(a.log, a.plot)
    return values


if __name__ == "__main__":
    main()
