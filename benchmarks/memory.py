"""Peak memory of training above what the imports hold, at a vocabulary of 32,768 pieces: zhixing beside transformers' Trainer.

    ZHIXING_DATA=... ZHIXING_PEER_PYTHON=... python benchmarks/memory.py OUT [--rounds 3] [--steps 3] [--threads 0] [--smoke]

On the CPU: the GPT-2 layout, 6 layers, 384 wide, 6 heads, 16 rows of 256 pieces a step in one micro-batch, in fp32 and in bf16 (products in
bf16, weights in fp32, both sides). Each run is a process of its own; what it holds once everything is imported is taken from the most that
it ever holds, by the system's count. Ours trains its byte-level BPE on the Brown corpus in the same process; that the call needs no more
for it is told beside the steps alone. The Trainer reads random tokens. The floor is what no training can do without: weights, gradients,
the optimiser's state (one number a weight of Muon's matrices, two of others) and one piece of the logits as ours cuts them, in fp32.
"""

from __future__ import annotations

import gzip
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import peers
from results import Measured, arguments, find, tell, write

from zhixing import prepare
from zhixing.objectives.tokens import CHUNK_LOGITS
from zhixing.preparation.prepare import Prepare

VOCABULARY = 32768
SHAPE = {"layers": 6, "width": 384, "heads": 6, "batch": 16, "window": 256}
SMOKE = {"layers": 1, "width": 64, "heads": 2, "batch": 2, "window": 64}
SMOKE_ROWS, SMOKE_VOCABULARY = 2000, 1024
MIB = 2**20


def write_brown(out: Path, most: int | None) -> Path:
    """Write the sentences of the Brown corpus, a line each."""
    with gzip.open(find("brown") / "brown.jsonl.gz", "rt", encoding="utf-8") as rows, open(out, "w", encoding="utf-8") as lines:
        for number, row in enumerate(rows):
            if number == most:
                break
            lines.write(json.loads(row)["tokens"] + "\n")
    return out


def floor(shape: dict[str, int], vocabulary: int) -> int:
    """Count the bytes that no training of ours can do without."""
    width, layers = shape["width"], shape["layers"]
    matrices = 12 * layers * width**2
    others = (vocabulary + shape["window"] + 13 * layers + 2) * width  # tables; biases and norms
    return 4 * (3 * matrices + 4 * others + min(CHUNK_LOGITS, shape["batch"] * shape["window"] * vocabulary))


def mib(runs: list[dict[str, Any]], name: str) -> list[float]:
    """Give each run's count in MiB."""
    return [each[name] / MIB for each in runs]


def main() -> None:
    given = arguments(__doc__, rounds=3, steps=3, threads=0)
    shape, number, wanted = (SMOKE, 1, SMOKE_VOCABULARY) if given.smoke else (SHAPE, given.rounds, VOCABULARY)
    threads, out = peers.threads(given.threads), given.out
    source = write_brown(out / "brown.txt", SMOKE_ROWS if given.smoke else None)
    corpus = prepare(source, out / "corpus", Prepare(split="tail", validation=0.05, test=0.05), tell=tell)
    absent = peers.missing("torch", "transformers", "accelerate")
    settings = {"tokenizer": "bpe", "vocabulary": wanted, "accumulate": 1}
    mine = {**shape, "program": "ours", "corpus": str(corpus.path), "steps": given.steps, "dropout": 0.0, "settings": settings}
    theirs = {**shape, "program": "trainer", "steps": given.steps, "dropout": 0.0, "vocabulary": wanted}
    figures: list[Measured] = []
    least = floor(shape, wanted)
    details: dict[str, Any] = {"shape": shape, "threads_of_each": threads, "floor_bytes": least, "runs": {}}
    for precision in peers.precisions():
        programs = {"ours": partial(peers.few, {**mine, "precision": precision}, out / "run", threads)}
        if not absent:
            programs["Trainer"] = partial(peers.few, {**theirs, "precision": precision}, out / "run", threads)
        found = details["runs"][precision] = peers.rounds(number, programs, tell)
        for name, runs in found.items():
            peak = mib(runs, "peak")
            figures.append(Measured(f"{precision}: parameters, {name}", runs[0]["parameters"]))
            figures.append(Measured(f"{precision}: peak MiB above imports, {name} ({peers.spread(peak)})", statistics.median(peak)))
        steps = statistics.median(mib(found["ours"], "peak_of_steps"))
        figures.append(Measured(f"{precision}: of these, from the making of the model on, ours", steps))
        if absent:
            figures.append(Measured(f"{precision}: peak above imports, ours / Trainer", None, absent))
        else:
            one, two = (found[name][0]["parameters"] for name in ("ours", "Trainer"))
            assert abs(one - two) <= 0.02 * two, (one, two)
            both = (mib(found[name], "peak") for name in ("ours", "Trainer"))
            figures.append(peers.compared(f"{precision}: peak above imports, other Trainer", *both, wanted="<= 0.5, aim 0.3"))
        figures.append(Measured(f"{precision}: floor in MiB", least / MIB))
        figures.append(Measured(f"{precision}: floor / ours", least / statistics.median(each["peak"] for each in found["ours"])))
    if "bf16" not in peers.precisions():
        figures.append(Measured("bf16: peak above imports, ours / Trainer", None, peers.NO_BF16))
    if not absent:
        details["peer_versions"] = peers.versions("torch", "transformers", "accelerate")
    write(out, "Peak memory of training", figures, details, given.smoke)


if __name__ == "__main__":
    main()
