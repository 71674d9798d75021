"""What peers.sh runs:

    peers.py prepare FOLDER SCRATCH    reads FOLDER/train.txt and test.txt, and leaves them in SCRATCH as the systems want them
    peers.py SYSTEM FOLDER SCRATCH     trains SYSTEM, predicts the five best labels of each document, prints a row of the table
    peers.py memory                    of a process that does nothing, MiB

All but haste and fastText get tf-idf of unit length: (1 + log of the count) * log(1 + documents / documents that have it). haste works its
own out, fastText gets words. Its defaults are for one label a document, so it gets what its documentation suggests for several.
"""
import math
import os
import resource
import subprocess
import sys

import numpy as np
import scipy.sparse as sp

K = 5
SVC_LABELS = 2000   # one-vs-rest is left out above: it would take hours


def read(path):
    """Features and labels of a file: two sparse matrices."""
    with open(path) as lines:
        documents, features, labels = map(int, next(lines).split())
        x, y = ([0], [], []), ([0], [])
        for line in lines:
            first, _, rest = line.rstrip("\n").partition(" ")
            if ":" in first:
                first, rest = "", line
            y[1].extend(sorted({int(label) for label in first.split(",") if label}))
            y[0].append(len(y[1]))
            for pair in rest.split():
                feature, value = pair.split(":")
                x[1].append(int(feature))
                x[2].append(float(value))
            x[0].append(len(x[1]))
    return (sp.csr_matrix((np.array(x[2], np.float32), x[1], x[0]), (documents, features)),
            sp.csr_matrix((np.ones(len(y[1]), np.float32), y[1], y[0]), (documents, labels)))


def tf_idf(x, documents, having):
    x = x.copy()
    x.data = np.where(x.data > 1, 1 + np.log(np.maximum(x.data, 1)), x.data)
    x.data *= np.where(having > 0, np.log(1 + documents / np.maximum(having, 1)), 0)[x.indices]
    length = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.where(length > 0, length, 1)) @ x).astype(np.float32).sorted_indices()   # PECOS wants order


def rows(matrix):
    for i in range(matrix.shape[0]):
        part = slice(matrix.indptr[i], matrix.indptr[i + 1])
        yield matrix.indices[part].tolist(), matrix.data[part].tolist()


def prepare(folder, scratch):
    having = documents = None
    for part in "train", "test":
        x, y = read(f"{folder}/{part}.txt")
        if part == "train":
            documents, having = x.shape[0], np.bincount(x.indices, minlength=x.shape[1])
        weighed = tf_idf(x, documents, having)
        sp.save_npz(f"{scratch}/{part}.x.npz", weighed)
        sp.save_npz(f"{scratch}/{part}.y.npz", y)
        with open(f"{scratch}/{part}.omikuji", "w") as out:
            print(*x.shape, y.shape[1], file=out)
            for (ids, _), (features, values) in zip(rows(y), rows(weighed)):
                print(",".join(map(str, ids)), *(f"{f}:{v:.6g}" for f, v in zip(features, values)), file=out)
        with open(f"{scratch}/{part}.fasttext", "w") as out:
            for (ids, _), (features, values) in zip(rows(y), rows(x)):
                labels = [f"__label__{i}" for i in ids] if part == "train" else []
                print(*labels, *(f"f{f}" for f, v in zip(features, values) for _ in range(max(1, round(v)))), file=out)


def load(scratch, part):
    return sp.load_npz(f"{scratch}/{part}.x.npz"), sp.load_npz(f"{scratch}/{part}.y.npz")


# A system is given where the model goes, and returns two functions: the first trains (and returns the most memory of another process
# that did it, MiB), the second returns a list of at most K labels, best first, for each document of TEST. What is loaded before is
# not counted.

def haste(scratch, folder, model):
    build = os.environ.get("BUILD", "build")
    threads = ["--threads", "1"]

    def train():
        # A shell between, since a program started from here would count Python's memory as its own most.
        out = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", f"{build}/haste-train", f"{folder}/train.txt", "--export", model, *threads],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        return float(out.split("peak_mib=")[1].split()[0])

    def predict():
        out = subprocess.run([f"{build}/haste-predict", model, f"{folder}/test.txt", "--top-k", str(K), "--names", "ids", *threads],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
        return [[int(pair.split(":")[0]) for pair in line.split()] for line in out.splitlines()]
    return train, predict


def omikuji(scratch, folder, model):
    from omikuji import Model
    x = [list(zip(*row)) for row in rows(load(scratch, "test")[0])]
    made = []

    def train():
        made.append(Model.train_on_data(f"{scratch}/train.omikuji", None, 1))
        made[0].save(model)

    def predict():
        made[0].init_prediction_thread_pool(1)
        return [[label for label, _ in made[0].predict(document, top_k=K)] for document in x]
    return train, predict


def pecos(scratch, folder, model):
    from pecos.xmc import Indexer, LabelEmbeddingFactory
    from pecos.xmc.xlinear import XLinearModel
    (x, y), (x_test, _) = load(scratch, "train"), load(scratch, "test")
    made = []

    def train():
        clusters = Indexer.gen(LabelEmbeddingFactory.create(y, x, method="pifa", threads=1), indexer_type="hierarchicalkmeans", threads=1)
        made.append(XLinearModel.train(x, y.tocsc(), C=clusters, threads=1))
        made[0].save(model)

    def predict():
        out = made[0].predict(x_test, only_topk=K, threads=1)
        return [[ids[i] for i in np.argsort(-np.array(scores), kind="stable")] for ids, scores in rows(out)]
    return train, predict


def napkinxc(scratch, folder, model):
    from napkinxc.models import PLT
    (x, y), (x_test, _) = load(scratch, "train"), load(scratch, "test")
    made = PLT(model, threads=1)
    return lambda: made.fit(x, y), lambda: made.predict(x_test, top_k=K)


def fasttext(scratch, folder, model):
    from fasttext import train_supervised
    with open(f"{scratch}/test.fasttext") as lines:
        x = lines.read().split("\n")[:-1]
    made = []

    def train():
        for lr in .5, .25, .1:   # with the first some data end in "Encountered NaN"
            try:
                made.append(train_supervised(f"{scratch}/train.fasttext", loss="ova", lr=lr, epoch=25, thread=1, verbose=0))
                return made[0].save_model(model)
            except RuntimeError as error:
                print(f"lr {lr}: {error}", file=sys.stderr)
        sys.exit("no rate works")

    def predict():
        return [[int(label[len("__label__"):]) for label in labels] for labels in made[0].predict(x, k=K)[0]]
    return train, predict


def linearsvc(scratch, folder, model):
    import joblib
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC
    (x, y), (x_test, _) = load(scratch, "train"), load(scratch, "test")
    if y.shape[1] > SVC_LABELS:
        sys.exit(f"left out: {y.shape[1]} labels are more than {SVC_LABELS}")
    known = np.flatnonzero(np.asarray(y.sum(0)).ravel())
    made = OneVsRestClassifier(LinearSVC())

    def train():
        made.fit(x, y[:, known])
        joblib.dump(made, model)

    def predict():
        return known[np.argsort(-made.decision_function(x_test), axis=1, kind="stable")[:, :K]].tolist()
    return train, predict


NAMES = {"haste": (haste, "haste"), "omikuji": (omikuji, "omikuji (Parabel)"), "pecos": (pecos, "PECOS XR-Linear"),
         "napkinxc": (napkinxc, "napkinXC PLT"), "fasttext": (fasttext, "fastText (ova, 25 epochs)"),
         "linearsvc": (linearsvc, "scikit-learn LinearSVC, one-vs-rest")}


def scores(predicted, scratch):
    """P and PSP at 1, 3, 5 in percent (Jain et al. 2016)."""
    y, truth = load(scratch, "train")[1], load(scratch, "test")[1]
    frequency, documents = np.asarray(y.sum(0)).ravel(), y.shape[0]
    inverse = 1 + (math.log(documents) - 1) * 2.5 ** .55 * (frequency + 1.5) ** -.55
    hits, worth, best = np.zeros((3, len(predicted), K))
    if len(predicted) != truth.shape[0]:
        sys.exit(f"{len(predicted)} predictions for {truth.shape[0]} documents")
    for i, (ids, _) in enumerate(rows(truth)):
        for rank, label in enumerate(predicted[i][:K]):
            hits[i, rank] = label in ids
            worth[i, rank] = hits[i, rank] * inverse[label]
        most = sorted((inverse[label] for label in ids), reverse=True)[:K]
        best[i, :len(most)] = most
    return ([100 * hits[:, :k].sum(1).mean() / k for k in (1, 3, 5)],
            [100 * worth[:, :k].sum() / best[:, :k].sum() for k in (1, 3, 5)])


def seconds():
    return sum(os.times()[:4])   # of this process and its children


def size(path):
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(system, folder="", scratch=""):
    if system == "memory":
        return print(round(peak()))
    if system == "prepare":
        return prepare(folder, scratch)
    make, name = NAMES[system]
    model = f"{scratch}/{os.path.basename(folder.rstrip('/'))}.{system}"
    output = os.dup(1)
    os.dup2(2, 1)   # what they print is not the table's
    train, predict = make(scratch, folder, model)
    begin = seconds()
    memory = train()
    trained = seconds()
    predicted = predict()
    done = seconds()
    p, psp = scores(predicted, scratch)
    line = (f"| {os.path.basename(folder.rstrip('/'))} | {name} | {' / '.join(f'{v:.1f}' for v in p)} | {' / '.join(f'{v:.1f}' for v in psp)} "
            f"| {trained - begin:.1f} | {1000 * (done - trained) / len(predicted):.2f} | {memory or peak():.0f} | {size(model) / 1048576:.1f} |\n")
    os.write(output, line.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
