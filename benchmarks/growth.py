"""How cost grows with work: training with parameters, tokens and the window; preparation, vocabulary and counting with the corpus.

    ZHIXING_DATA=... python benchmarks/growth.py OUT [--rounds 2] [--most-millions 30] [--threads 0] [--smoke]

Each point is a process of its own, the points of all lines in turns; the least of the rounds stands, since what disturbs only adds. What
should grow as the work does is a straight line of slope 1 on two logarithmic axes. From whole commands the seconds of the same command
with next to no work are taken away first, since what is fixed would hide a bend. A line's slope is told twice: over its upper half (least
squares), and the steepest between neighbours there. growth.svg shows the lines, each relative to its own first point.

Training: seconds a step of decoders (GPT-2's layout) of growing size at 64 rows of 256 characters; core-seconds of whole `zhixing train`
commands of a small decoder over growing numbers of tokens; seconds a step at 16,384 tokens in growing windows, over the operations that
these take, of which attention's grow with the window. Corpora: growing shares, by row, of English, Chinese of today and old Chinese mixed;
core-seconds of `zhixing prepare` and of `zhixing train --model ngram` (of order 5), and seconds of a byte-level BPE trained and applied.
Begun again in the same folder, it keeps the part, training.json or corpora.json, that stands there.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from results import ROOT, Measured, arguments, find, tell, write
from start import ZHIXING, sources

from zhixing import prepare
from zhixing.core.files import read_json, write_text
from zhixing.preparation.prepare import Prepare
from zhixing.studies.plot import Line, draw, stack

MOST_SLOPE = 1.1
SHAPES = ((2, 128), (3, 192), (4, 256), (6, 384), (8, 512), (10, 640), (12, 768))  # layers and width; a head is 64 wide
BATCH, WINDOW, STEPS = 64, 256, 3
WINDOWS = (64, 128, 256, 512, 1024, 2048)
TOKEN_STEPS = (50, 100, 200, 400, 800, 1600)
SMALL = {"model": "gpt2", "layers": 2, "width": 128, "heads": 2, "batch": 8, "window": 128, "dropout": 0.0}
MEGABYTES = (0.5, 1, 2, 4, 8, 16, 24)
SMOKE_SHAPES, SMOKE_WINDOWS, SMOKE_STEPS, SMOKE_MEGABYTES = ((1, 32), (1, 64)), (32, 64), (2, 4), (0.05, 0.1)
VOCABULARY, ORDER, SEED = 8192, 5, 3
SEEN = 0.05  # of the fixed part, that a point must cost to be seen beside it
LEAST_COST = 1e-3  # seconds: what costs no more than the fixed part is not seen
LEAST_STEPS, LEAST_ROWS = 1, 50  # of a command with next to no work
Point = tuple[
    float, Callable[[], float]
]  # an amount of work, and what gives its seconds; work 0: the fixed part, taken away from the others


def slopes(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Give the slope of log cost over log work in the upper half of some points: by least squares, and the steepest between neighbours."""
    upper = [point for point in points if point[0] >= math.sqrt(points[0][0] * points[-1][0])]
    logs = np.log(upper if len(upper) > 1 else points[-2:])
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]), float(np.max(np.diff(logs[:, 1]) / np.diff(logs[:, 0])))


def command(words: list[str], threads: int) -> float:
    """Run a command; gives its core-seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    peers.child([*ZHIXING, *words], threads)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def training(out: Path, corpus: Path, most: float, threads: int, smoke: bool) -> dict[str, list[Point]]:
    """Give the lines of training."""
    shapes = [pair for pair in SHAPES if 12 * pair[0] * pair[1] ** 2 <= most * 1e6] if not smoke else SMOKE_SHAPES
    windows, counts = (SMOKE_WINDOWS, SMOKE_STEPS) if smoke else (WINDOWS, TOKEN_STEPS)
    batch = 2 if smoke else BATCH
    many = iter(range(1 << 30))

    def step(layers: int, width: int, rows: int, window: int) -> float:
        asked = {"program": "ours", "corpus": str(corpus), "steps": STEPS, "dropout": 0.0, "precision": "auto"}
        shape = {"layers": layers, "width": width, "heads": max(1, width // 64), "batch": rows, "window": window}
        return min(peers.few({**asked, **shape}, out / "run", threads)["seconds"])

    def whole(steps: int) -> float:
        recipe = out / f"{steps}.toml"
        write_text(recipe, "".join(f"{name} = {json.dumps(value)}\n" for name, value in {**SMALL, "steps": steps}.items()))
        return command(["train", str(corpus), str(out / f"model{next(many)}"), "--recipe", str(recipe)], threads)

    sizes = [(12.0 * layers * width**2, partial(step, layers, width, batch, WINDOW)) for layers, width in shapes]
    tokens = [(float(steps * SMALL["batch"] * SMALL["window"]), partial(whole, steps)) for steps in counts]
    tokens.insert(0, (0.0, partial(whole, LEAST_STEPS)))
    layers, width = shapes[1]
    every = [batch * WINDOW * layers * (12 * width**2 + each * width) for each in windows]  # operations / 6, attention's causal half
    spans = [(float(work), partial(step, layers, width, batch * WINDOW // each, each)) for work, each in zip(every, windows, strict=True)]
    return {
        "seconds a step over parameters of the layers": sizes,
        "core-seconds of a training over tokens read": tokens,
        "seconds a step over the operations of growing windows": spans,
    }


def corpora(out: Path, threads: int, smoke: bool) -> dict[str, list[Point]]:
    """Give the lines of what comes before a training, over corpora of growing size."""
    rows = [line for text in sources(out, False).values() for line in text.split("\n") if line.strip()]
    random.Random(SEED).shuffle(rows)
    lines: dict[str, list[Point]] = {
        "core-seconds of prepare over bytes": [],
        "core-seconds of counting an n-gram over bytes": [],
        "seconds of a BPE trained and applied over bytes": [],
    }
    many = iter(range(1 << 30))
    pieces = [sys.executable, str(ROOT / "benchmarks" / "pieces.py"), "ours"]

    def prepared(path: Path) -> float:
        return command(["prepare", str(path), str(out / f"corpus{next(many)}"), "--split", "hash"], threads)

    def counted(corpus: Path, recipe: Path) -> float:
        shutil.rmtree(corpus / "cache", ignore_errors=True)
        return command(["train", str(corpus), str(out / f"model{next(many)}n"), "--recipe", str(recipe)], threads)

    def applied(path: Path) -> float:
        said = json.loads(peers.child([*pieces, str(path), str(VOCABULARY)], threads))
        return said["training"] + said["encoding"]

    for megabytes in (0.0, *(SMOKE_MEGABYTES if smoke else MEGABYTES)):
        size, end = 0, 0
        while size < megabytes * 1e6 or end < LEAST_ROWS:
            size += len(rows[end].encode()) + 1
            end += 1
        path = out / f"rows{size}.txt"
        path.write_text("\n".join(rows[:end]), encoding="utf-8")
        table = out / f"rows{size}.jsonl"
        table.write_text("".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows[:end]), encoding="utf-8")
        made = prepare(table, out / f"rows{size}", Prepare(split="hash", validation=0.0, test=0.1), tell=tell).path
        recipe = out / "counted.toml"
        write_text(recipe, f'model = "ngram"\norder = {ORDER}\n')
        works = (partial(prepared, table), partial(counted, made, recipe), partial(applied, path))
        for line, work in zip(lines.values(), works, strict=True):
            if megabytes or line is not lines["seconds of a BPE trained and applied over bytes"]:  # which is timed within its process
                line.append((float(size) if megabytes else 0.0, work))
    return lines


def measure(lines: dict[str, list[Point]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Measure every point of every line, round by round; gives the least seconds of each, less those of no work.

    A point whose own cost cannot be seen beside the fixed part is left out: it would be noise.
    """
    least: dict[tuple[str, float], float] = {}
    for number in range(rounds):
        for name, points in lines.items():
            tell("benchmark.round", round=number + 1, line=name)
            for work, run in points:
                taken = run()
                least[name, work] = min(taken, least.get((name, work), taken))
    found: dict[str, list[tuple[float, float]]] = {}
    for name, points in lines.items():
        fixed = least.get((name, 0.0), 0.0)
        costs = [(work, max(LEAST_COST, least[name, work] - fixed)) for work, _ in points if work]
        found[name] = [point for point in costs if point[1] > SEEN * fixed] or costs[-2:]
    return found


def main() -> None:
    given = arguments(__doc__, goes_on=True, rounds=2, most_millions=30.0, threads=0)
    out, smoke, threads = given.out.resolve(), given.smoke, peers.threads(given.threads)
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read(60_000 if smoke else -1)
    corpus = out / "corpus"
    if not corpus.exists():
        write_text(out / "input.txt", text)
        prepare(out / "input.txt", corpus, Prepare(split="tail", validation=0.02, test=0.1), tell=tell)
    parts = {
        "training": partial(training, out / "training", corpus, given.most_millions, threads, smoke),
        "corpora": partial(corpora, out / "corpora", threads, smoke),
    }
    found = {}
    for title, lines_of in parts.items():
        kept = out / f"{title}.json"
        if not kept.exists():
            shutil.rmtree(out / title, ignore_errors=True)
            (out / title).mkdir()
            write_text(kept, json.dumps(measure(lines_of(), 1 if smoke else given.rounds)))
        found[title] = {name: [(work, cost) for work, cost in points] for name, points in read_json(kept).items()}
    figures: list[Measured] = []
    for lines in found.values():
        for name, points in lines.items():
            slope, steepest = slopes(points)
            ends = ", ".join(f"{work:.3g}: {seconds:.2f}" for work, seconds in points)
            figures.append(Measured(f"{name}: points", ends))
            figures.append(Measured(f"{name}: slope of the upper half, steepest {steepest:.2f}", slope, f"<= {MOST_SLOPE}"))
    panels = [
        draw(
            [
                Line(name, tuple((work / points[0][0], seconds / points[0][1]) for work, seconds in points))
                for name, points in lines.items()
                if points[0][1] > 0
            ],
            f"Growth: {title}",
            "work, of the least",
            "cost, of the least",
            kind="growth",
        )
        for title, lines in found.items()
    ]
    write_text(out / "growth.svg", stack(*panels))
    details: dict[str, Any] = {"points": found, "threads_of_each": threads}
    write(out, "How cost grows with work", figures, details, smoke)


if __name__ == "__main__":
    main()
