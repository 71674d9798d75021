#!/usr/bin/env python3
"""bench/transformer.py: the table of the paper in a setting of ours: a sentence encoder, fine-tuned with a dense output layer or with haste's.

    python3 bench/transformer.py TRAIN TEST ENCODER [--valid N] [--rows REGEX] [--at-once 8] [--options "--epochs 2 ..."]

TRAIN and TEST: fastText lines (examples/python/train.py reads them, which each row is a run of); ENCODER: a folder of Hugging Face's,
384 wide. A row is a run, or one for each of three seeds, `--at-once` of them side by side on one GPU (faster with CUDA's MPS); with
--alone rows run one after another on 60,000 documents, for seconds and memory of the second epoch. Prints Markdown."""
import argparse
import functools
import multiprocessing
import os
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples/python"))
os.environ.setdefault("OMP_NUM_THREADS", "2")
import train

# Rates, dropout: found on held-out documents, see results/transformer-h200.md. --tail-lr stays the default, inputs / fan-in.
COMMON = "--device cuda --batch 512 --epochs 3 --max-tokens 32 --encoder-lr 3e-4 --dropout 0 --lr .01"
F32, F64 = "--encoder-lr 6e-4 --fan-in 32", "--encoder-lr 6e-4 --fan-in 64"   # 92% and 83% of 384 inputs left out
W128, W256 = "--widen 1536 --fan-in 128", "--widen 3072 --fan-in 256"   # 92% of more inputs
REWIRE = "--rewire {} --rewire-every 100"
ROWS = [   # name, options, seeds
    ("dense", "--layer dense", 3),
    ("dense, 1,536 inputs", "--layer dense --widen 1536", 1),
    ("92%, head of 1,024", f"{F32} --head 1024", 1),
    ("92%, head of 4,096", f"{F32} --head 4096", 1),
    ("92% of 1,536 inputs, head of 1,024", f"{W128} --head 1024", 1),
    ("92% of 1,536 inputs, head of 4,096", f"{W128} --head 4096", 1),
    ("92% of 3,072 inputs, head of 4,096", f"{W256} --head 4096", 3),
    ("one change: none", f"{F32} --head 1024", 1),   # to 92%, head of 1,024
    ("one change: no head", f"{F32} --head 0", 1),
    ("one change: 83%", f"{F64} --head 1024", 1),
    ("one change: 83%, no head", f"{F64} --head 0", 1),
    ("one change: S 16", f"{F32} --head 1024 --group-size 16", 1),
    ("one change: S 64", f"{F32} --head 1024 --group-size 64", 1),
    ("one change: random groups", f"{F32} --head 1024 --groups random", 1),
    ("one change: semantic groups", f"{F32} --head 1024 --groups semantic", 1),
    ("one change: rewired at random", f"{F32} --head 1024 {REWIRE.format('random')}", 1),
    ("one change: rewired by gradients", f"{F32} --head 1024 {REWIRE.format('gradient')}", 1),
]


def run(files, options, seed, to):
    """One run, in a process of its own; `to` takes its lines of the log."""
    rows = []
    log = f"/tmp/transformer-{os.getpid()}.csv"
    sys.stdout = open(os.devnull, "w")
    try:
        train.main([*files, *options.split(), "--seed", str(seed), "--log", log])
        with open(log) as file:
            lines = [line.rstrip("\n").split(",") for line in file]
        rows = [dict(zip(lines[0], line)) for line in lines[1:]]
    finally:
        to.put(rows)
        if os.path.exists(log):
            os.remove(log)


def says_alone(row):
    return "{:.2f} | {:.3f} | {:.1%} | {:,.0f}".format(*(float(row[key]) for key in ("seconds", "output_seconds", "output_share", "peak_mib")))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("files", nargs=3, metavar="FILE", help="TRAIN, TEST, ENCODER")
    p.add_argument("--rows", default="", help="those whose names match")
    p.add_argument("--valid", type=int, default=0, help="score the last N documents of TRAIN instead of TEST")
    p.add_argument("--at-once", type=int, default=8)
    p.add_argument("--alone", action="store_true")
    p.add_argument("--seeds", type=int, help="of every row")
    p.add_argument("--options", default="", help="of train.py, for all rows")
    p.add_argument("--try", dest="tried", nargs="*", default=[""], help="options of train.py, each tried with each row")
    a = p.parse_args()
    train_file, test_file, encoder = a.files
    files = [train_file] if a.valid else [train_file, test_file]
    common = f"{COMMON} --encoder {encoder} {a.options}" + (f" --valid {a.valid}" if a.valid else "")
    common += " --limit 60000 --epochs 2" if a.alone else ""
    chosen = [(f"{name} {more}".strip(), f"{options} {more}", seed) for name, options, seeds in ROWS if re.search(a.rows, name)
              for more in a.tried for seed in range(1, (a.seeds or (1 if a.alone else seeds)) + 1)]

    # Read, tokenized and grouped once, for the processes that are forked.
    begun = time.time()
    kept = {}
    tokens = train.tokens

    def kept_tokens(folder, most, texts):
        key = most, len(texts), texts[0], texts[-1]
        if key not in kept:
            kept[key] = tokens(folder, most, texts)
        return kept[key]

    train.read, train.tokens = functools.cache(train.read), kept_tokens
    limit = 60000 if a.alone else None
    texts = train.read(train_file, limit)[0]
    parts = [texts[:-a.valid], texts[-a.valid:]] if a.valid else [texts, train.read(test_file, limit)[0]]
    for part in parts:
        train.tokens(encoder, 32, part)
    print(f"read and tokenized in {time.time() - begun:.0f} s", file=sys.stderr, flush=True)

    fork = multiprocessing.get_context("fork")
    waiting, running, done = list(chosen), {}, {}
    while waiting or running:
        while waiting and len(running) < (1 if a.alone else a.at_once):
            name, options, seed = waiting.pop(0)
            results = fork.SimpleQueue()
            process = fork.Process(target=run, args=(files, f"{common} {options}", seed, results))
            process.start()
            running[process] = name, results, time.time()
        time.sleep(.2)
        for process in [p for p in running if not p.is_alive()]:
            name, results, since = running.pop(process)
            rows = [] if results.empty() else results.get()   # it may have been killed
            print(f"{name}: {time.time() - since:.0f} s, P@1 by epoch {' '.join(row['p1'] for row in rows)}", file=sys.stderr, flush=True)
            if a.alone:   # said at once: whoever stops it here keeps these
                print(f"{name}: {says_alone(rows[-1]) if rows else 'failed'}", file=sys.stderr, flush=True)
            if rows:
                done.setdefault(name, []).append(rows[-1])
    if a.alone:
        print("| | seconds an epoch | of which output layer | share | peak MiB |\n|---|---|---|---|---|")
    else:
        print("| | seeds | P@1 / P@3 / P@5 | PSP@1 / PSP@3 / PSP@5 |\n|---|---|---|---|")
    for name in dict.fromkeys(name for name, _, _ in chosen):
        rows = done.get(name, [])
        if not rows:
            print(f"| {name} | failed |")
        elif a.alone:
            print(f"| {name} | {says_alone(rows[0])} |")
        else:
            mean = [sum(float(row[key]) for row in rows) / len(rows) for key in ("p1", "p3", "p5", "psp1", "psp3", "psp5")]
            spread = max(float(row["p1"]) for row in rows) - min(float(row["p1"]) for row in rows)
            print(f"| {name} | {len(rows)}{f' (P@1 within {spread:.2f})' if len(rows) > 1 else ''} | "
                  f"{mean[0]:.2f} / {mean[1]:.2f} / {mean[2]:.2f} | {mean[3]:.2f} / {mean[4]:.2f} / {mean[5]:.2f} |")


if __name__ == "__main__":
    main()
