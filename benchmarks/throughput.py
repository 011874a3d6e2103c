"""Tokens a second in training: one decoder of 10.65M parameters, the GPT-2 layout, by zhixing, by nanoGPT and by transformers' Trainer.

    ZHIXING_DATA=... ZHIXING_PEERS=... ZHIXING_PEER_PYTHON=... python benchmarks/throughput.py OUT [--rounds 3] [--steps 3] [--threads 0]
                                                                                                   [--smoke]

On the CPU: 6 layers, 384 wide, 6 heads, 64 rows of 256 characters of tiny_shakespeare a step, without dropout and with 0.2. Each program
in a process of its own, in turns; of its steps the first is not timed, and the median of the others is taken. Ours and the Trainer as
they come, with their own optimisers (Muon and AdamW; AdamW). nanoGPT as it comes computes in fp32 on a CPU, since there its autocast is
none, and drops attention's probabilities out as well, which the others leave; beside it stands one with that line changed to bf16. The
floor is the step's operations at the machine's own rate of matrix products:

    6 x tokens x (12 x layers x width^2 + vocabulary x width)  +  12 x layers x window x width x tokens / 2    (causal: half of all pairs)
"""

from __future__ import annotations

import gzip
import pickle
import re
import shutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
from results import Measured, arguments, find, tell, write

from zhixing import prepare
from zhixing.preparation.prepare import Prepare

SHAPE = {"layers": 6, "width": 384, "heads": 6, "batch": 64, "window": 256}
SMOKE = {"layers": 2, "width": 64, "heads": 2, "batch": 4, "window": 64}
SMOKE_CHARACTERS = 60_000
DROPOUTS = (0.0, 0.2)
ALIKE = 0.02  # by which the numbers of parameters may differ: our characters come with 261 tokens for bytes and control
AUTOCAST = "nullcontext() if device_type == 'cpu' else torch.amp.autocast"  # as nanoGPT's train.py has it
LINE = re.compile(r"^iter (\d+): loss [\d.]+, time ([\d.]+)ms", re.MULTILINE)


def copy_nanogpt(place: Path, text: str, bf16: bool) -> Path:
    """Copy nanoGPT's program and write its data from the text, as its own prepare.py does."""
    data = place / "data" / "shakespeare_char"
    data.mkdir(parents=True)
    source = peers.clone("nanoGPT")
    for name in ("train.py", "model.py", "configurator.py"):
        shutil.copyfile(source / name, place / name)
    if bf16:
        program = (source / "train.py").read_text(encoding="utf-8")
        assert AUTOCAST in program, "nanoGPT's train.py has another line where its autocast is made"
        (place / "train.py").write_text(program.replace(AUTOCAST, "torch.amp.autocast"), encoding="utf-8")
    letters = sorted(set(text))
    ids = {letter: number for number, letter in enumerate(letters)}
    tokens, cut = np.array([ids[letter] for letter in text], dtype=np.uint16), int(len(text) * 0.9)
    tokens[:cut].tofile(data / "train.bin")
    tokens[cut:].tofile(data / "val.bin")
    np.save(place / "tokens.npy", tokens[:cut])
    meta = {"vocab_size": len(letters), "itos": dict(enumerate(letters)), "stoi": ids}
    (data / "meta.pkl").write_bytes(pickle.dumps(meta))
    return place


def nanogpt(place: Path, shape: dict[str, int], dropout: float, steps: int, threads: int) -> dict[str, Any]:
    """Run nanoGPT's train.py; its step 0, which holds its evaluation, is not counted."""
    names = {"n_layer": "layers", "n_head": "heads", "n_embd": "width", "batch_size": "batch", "block_size": "window"}
    words = {name: shape[ours] for name, ours in names.items()} | {"dropout": dropout, "max_iters": steps, "out_dir": "out"}
    words |= {"dataset": "shakespeare_char", "device": "cpu", "compile": False, "bias": True, "dtype": "bfloat16"}
    words |= {"eval_iters": 1, "log_interval": 1, "gradient_accumulation_steps": 1}
    said = peers.child([sys.executable, "-u", "train.py", *(f"--{name}={value}" for name, value in words.items())], threads, place)
    seconds = [float(each) / 1000 for number, each in LINE.findall(said) if int(number)]
    assert len(seconds) == steps, said[-1000:]
    return {"seconds": seconds, "millions": float(re.search(r"number of parameters: ([\d.]+)M", said).group(1))}


def operations(shape: dict[str, int], vocabulary: int) -> float:
    """Count the multiplications and additions of a step, forward and backward."""
    tokens, width, layers = shape["batch"] * shape["window"], shape["width"], shape["layers"]
    return 6 * tokens * (12 * layers * width**2 + vocabulary * width) + 12 * layers * shape["window"] * width * tokens / 2


def median(runs: list[dict[str, Any]]) -> list[float]:
    """Give each run's median seconds a step."""
    return [statistics.median(each["seconds"]) for each in runs]


def check(shape: dict[str, int], found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Give each program's parameters without those of places, in millions, and prove that they are alike."""
    places = shape["window"] * shape["width"]
    counts = {name: runs[0].get("millions") or (runs[0]["parameters"] - places) / 1e6 for name, runs in found.items()}
    if shape is SHAPE:
        assert max(counts.values()) <= (1 + ALIKE) * min(counts.values()), counts
    return counts


def best_precision(shape: dict[str, Any], out: Path, threads: int) -> str:
    """Try the Trainer in both precisions and name the faster one."""
    taken = {each: median([peers.few({**shape, "precision": each, "steps": 2}, out, threads)])[0] for each in peers.precisions()}
    tell("benchmark.trainer", **taken)
    return min(taken, key=taken.__getitem__)


def main() -> None:
    given = arguments(__doc__, rounds=3, steps=3, threads=0)
    shape, number, steps = (SMOKE, 1, 2) if given.smoke else (SHAPE, given.rounds, given.steps)
    threads, out = peers.threads(given.threads), given.out
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read(SMOKE_CHARACTERS if given.smoke else -1)
    (out / "input.txt").write_text(text, encoding="utf-8")
    corpus = prepare(out / "input.txt", out / "corpus", Prepare(split="tail", validation=0.05, test=0.1), tell=tell)
    places = {bf16: copy_nanogpt(out / f"nanogpt-{'bf16' if bf16 else 'fp32'}", text, bf16) for bf16 in (False, True)}
    vocabulary, absent = len(set(text)), peers.missing("torch", "transformers", "accelerate")
    mine = {**shape, "program": "ours", "corpus": str(corpus.path), "steps": steps + 1, "dropout": 0.0, "precision": "auto"}
    theirs = {**shape, "program": "trainer", "tokens": str(places[False] / "tokens.npy"), "vocabulary": vocabulary, "steps": steps + 1}
    theirs["dropout"] = 0.0
    theirs["precision"] = "" if absent else best_precision(theirs, out / "run", threads)

    size = peers.SMOKE_MATRIX if given.smoke else peers.MATRIX
    rates = {each: peers.matrix_rate(each, size) for each in peers.precisions()}
    wanted_operations = operations(shape, vocabulary)
    floor = wanted_operations / max(rates.values())
    tokens = shape["batch"] * shape["window"]
    figures = [
        Measured("1e9 operations a step", wanted_operations / 1e9),
        *(Measured(f"1e9 operations a second of a product of matrices {size} wide, {name}", rate / 1e9) for name, rate in rates.items()),
        Measured("GB a second of a large copy, read and written", peers.bandwidth(given.smoke) / 1e9),
        Measured("floor: seconds a step at the faster of these rates", floor),
    ]
    details: dict[str, Any] = {"shape": shape, "vocabulary": vocabulary, "threads_of_each": threads, "rates": rates, "runs": {}}
    for dropout in DROPOUTS:
        programs: dict[str, Callable[[], dict[str, Any]]] = {
            "ours": partial(peers.few, {**mine, "dropout": dropout}, out / "run", threads),
            "nanoGPT": partial(nanogpt, places[False], shape, dropout, steps, threads),
        }
        if not absent:
            programs["Trainer"] = partial(peers.few, {**theirs, "dropout": dropout}, out / "run", threads)
        if not dropout:
            programs["ours in fp32"] = partial(peers.few, {**mine, "precision": "fp32"}, out / "run", threads)
            if "bf16" in rates:
                programs["nanoGPT changed to bf16"] = partial(nanogpt, places[True], shape, dropout, steps, threads)
        found = peers.rounds(number, programs, tell)
        details["runs"][f"dropout {dropout:g}"] = found
        details.setdefault("millions_of_parameters", check(shape, found))
        named = {
            "ours": f"ours ({found['ours'][0]['precision']})",
            "nanoGPT": "nanoGPT (fp32)",
            "Trainer": f"Trainer ({theirs['precision']})",
        }
        taken = {name: median(runs) for name, runs in found.items()}
        figures += rows(f"dropout {dropout:g}", taken, named, tokens, floor)
        if absent:
            figures.append(Measured(f"dropout {dropout:g}: tokens a second, ours / Trainer", None, absent))
    if not absent:
        details["peer_versions"] = peers.versions("torch", "transformers", "accelerate")
    write(out, "Tokens a second in training", figures, details, given.smoke)


def rows(title: str, taken: dict[str, list[float]], named: dict[str, str], tokens: int, floor: float) -> list[Measured]:
    """Give the figures of one dropout: the rate of each program, ours beside each, and how near to the floor ours comes."""
    rate = {name: [tokens / each for each in seconds] for name, seconds in taken.items()}
    figures = []
    for name, each in rate.items():
        figures.append(Measured(f"{title}: tokens a second, {named.get(name, name)} ({peers.spread(each)})", statistics.median(each)))
    for name in ("nanoGPT", "Trainer"):
        if name in rate:
            figures.append(peers.compared(f"{title}: tokens a second, other {named[name]}", rate["ours"], rate[name], ">= 2.6, aim 3.9"))
    if "ours in fp32" in rate:
        figures.append(peers.compared(f"{title}: tokens a second, both in fp32, other nanoGPT", rate["ours in fp32"], rate["nanoGPT"]))
    if "nanoGPT changed to bf16" in rate:
        name = f"{title}: tokens a second, other nanoGPT changed to bf16"
        figures.append(peers.compared(name, rate["ours"], rate["nanoGPT changed to bf16"]))
    seconds = statistics.median(taken["ours"])
    figures.append(Measured(f"{title}: seconds a step, ours", seconds))
    figures.append(Measured(f"{title}: share of the peak reached, ours", floor / seconds))
    return figures


if __name__ == "__main__":
    main()
