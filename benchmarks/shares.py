"""Where the time of a training step goes: torch's profiler over some steps of the model of throughput.py, operations put into sorts.

    ZHIXING_DATA=... python benchmarks/shares.py OUT [--steps 3] [--threads 1] [--smoke]

One thread, so that no thread waits for another; the profiler itself takes time, of small operations more than of large ones. Each
operation's own time is counted, without that of those it calls; the first step is left out. The rate of products is the step's operations
over the time of products and attention, beside that of one large product alone.
"""

from __future__ import annotations

import gzip
from typing import Any

import peers
import torch
from results import Measured, arguments, find, tell, write
from throughput import SHAPE, SMOKE, SMOKE_CHARACTERS, operations
from torch.profiler import ProfilerActivity, profile

from zhixing import prepare, train
from zhixing.preparation.prepare import Prepare

SORTS = {
    "products of matrices": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_mkldnn_linear", "mkldnn", "aten::linear"),
    "attention by one kernel": ("flash", "scaled_dot"),
    "norms": ("norm",),
    "activations": ("gelu", "silu", "relu", "tanh"),
    "loss": ("softmax", "nll"),
    "dropout and random numbers": ("dropout", "bernoulli", "rand", "uniform"),
    "copies and casts": ("copy_", "contiguous", "clone", "_to_copy", "cat"),
    "sums and products of equal shape": ("add", "mul", "sub", "div", "sum", "lerp", "addc", "sqrt", "fill", "zero"),
}


def sort_of(name: str) -> str:
    """Give the sort of an operation by its name."""
    return next((sort for sort, parts in SORTS.items() if any(part in name for part in parts)), "else")


def main() -> None:
    given = arguments(__doc__, steps=3, threads=1)
    shape = SMOKE if given.smoke else SHAPE
    torch.set_num_threads(given.threads)
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read(SMOKE_CHARACTERS if given.smoke else -1)
    (given.out / "input.txt").write_text(text, encoding="utf-8")
    corpus = prepare(given.out / "input.txt", given.out / "corpus", Prepare(split="tail", validation=0.05, test=0.1), tell=tell)
    watch = profile(activities=[ProfilerActivity.CPU])
    seen: list[int] = []

    def watched(code: str, /, **values: Any) -> None:
        """Begin after the first step, end after the last."""
        tell(code, **values)
        if code == "train.progress" and not seen:
            watch.start()
        if code == "train.progress":
            seen.append(values["step"])
            if len(seen) == given.steps + 1:
                watch.stop()

    settings = {"model": "gpt2", "evaluations": 0, "saves": 0, "dropout": 0.0, "threads": given.threads, **shape, "steps": given.steps + 1}
    folder = train(corpus.path, given.out / "model", settings, tell=watched)
    spent: dict[str, float] = {}
    kinds: dict[str, float] = {}
    for each in watch.key_averages():
        spent[sort_of(each.key)] = spent.get(sort_of(each.key), 0.0) + each.self_cpu_time_total / 1e6 / given.steps
        kinds[each.key] = each.self_cpu_time_total / 1e6 / given.steps
    whole = sum(spent.values())
    products = spent["products of matrices"] + spent.get("attention by one kernel", 0.0)  # which multiplies as well
    precision = folder.card["settings"]["precision"]
    rate = peers.matrix_rate(precision, peers.SMOKE_MATRIX if given.smoke else peers.MATRIX)
    wanted = operations(shape, len(set(text)))
    figures = [
        Measured(f"seconds a step under the profiler, {precision}, threads {given.threads}", whole),
        *(Measured(f"of these, {sort}: %", 100 * value / whole) for sort, value in sorted(spent.items(), key=lambda pair: -pair[1])),
        Measured("1e9 operations a second of a large product", rate / 1e9),
        Measured("1e9 operations a second of the step's products", wanted / products / 1e9),
        Measured("share of the large product's rate, the step's products", wanted / products / rate),
        Measured("share of the large product's rate, the whole step", wanted / whole / rate),
    ]
    most = sorted(kinds.items(), key=lambda pair: -pair[1])[:20]
    write(given.out, "Where the time of a step goes", figures, {"operations": dict(most), "shape": shape}, given.smoke)


if __name__ == "__main__":
    main()
