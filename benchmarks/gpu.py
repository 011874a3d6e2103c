"""Training on one GPU: tokens a second of a model of 124M parameters beside compiled nanoGPT, and the time to nanoGPT's published loss.

    ZHIXING_DATA=... ZHIXING_PEERS=... python benchmarks/gpu.py OUT [--rounds 3] [--rows 32] [--micro 4] [--steps 20] [--smoke]

From a copy of the repository, with zhixing's dependencies and a torch that sees the GPU; the clone of nanoGPT in the folder that
ZHIXING_PEERS names. With --smoke it runs on a CPU, small and not compiled, and measures nothing.

Tokens a second: GPT-2's layout, 12 layers, 768 wide, windows of 1,024, 50,304 pieces, bf16, no dropout, --micro times --rows rows a step on
both sides; each as it comes, ours with Muon, the model compiled; the first quarter of the steps is not counted. nanoGPT's steps are those
its own diary tells, each ended by its own wait. The share of the peak is of a bf16 product of matrices 8,192 wide on the same card:
6 x parameters + 12 x layers x width x window / 2 operations a token (a causal half of attention).

Time to a loss: nanoGPT's train_shakespeare_char recipe, compiled, its checkpoints kept as they come every 250 steps and each scored over
the whole of the held-out text in windows of 256, until one is at 1.4697 nats or below; its evaluations are cut to one batch, which costs
next to nothing. Ours is the plan `alone` of targets.py, scored in the same windows, the whole command by the clock. One run of each; the
ratio is also given without what comes before nanoGPT's first step is told, which is where it compiles.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
import targets
from results import ROOT, Measured, arguments, find, tell, write
from throughput import ALIKE, LINE, copy_nanogpt

from zhixing import prepare
from zhixing.core.files import write_text
from zhixing.data.corpus import open_corpus
from zhixing.preparation.prepare import Prepare
from zhixing.training.settings import settle
from zhixing.training.start import make_tokenizer

SHAPE = {"layers": 12, "width": 768, "heads": 12, "window": 1024}
SMOKE = {"layers": 2, "width": 64, "heads": 2, "window": 64}
VOCABULARY, SMOKE_VOCABULARY = 50304, 1024
MATRIX, SMOKE_MATRIX = 8192, 256
PEER_STEPS, PEER_EVERY = 5000, 250  # of nanoGPT's published run
SCORED = 256  # characters of a window in which both sides are scored
SAVED = re.compile(r"saving checkpoint")


def environment(smoke: bool) -> dict[str, str]:
    """Give the environment of a process that may use the GPU."""
    kept = peers.surroundings(os.cpu_count() or 1)
    if not smoke:
        kept.pop("CUDA_VISIBLE_DEVICES")
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            kept["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return kept


def run(words: list[str], smoke: bool, place: Path | None = None) -> str:
    """Run a program to its end; gives what it said, or ends with what went wrong."""
    done = subprocess.run(words, cwd=place, env=environment(smoke), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def peak(smoke: bool) -> float:
    """Give the operations a second of a product of matrices in bf16, the best of some, on the card."""
    import torch

    size, device = (SMOKE_MATRIX, "cpu") if smoke else (MATRIX, "cuda")
    first, second = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))

    def product() -> None:
        for _ in range(1 if smoke else 20):
            first @ second
        if not smoke:
            torch.cuda.synchronize()

    return 2 * size**3 * (1 if smoke else 20) / peers.best(product)


def ours(corpus: Path, out: Path, shape: dict[str, int], given: Any) -> dict[str, Any]:
    """Train some steps by zhixing; gives seconds a step, the first quarter left out."""
    settings = {"tokenizer": "bpe", "vocabulary": SMOKE_VOCABULARY if given.smoke else VOCABULARY, "accumulate": given.micro}
    settings["compile"] = "no" if given.smoke else "yes"
    asked = {**shape, "program": "ours", "corpus": str(corpus), "steps": given.steps + 1, "dropout": 0.0, "out": str(out)}
    asked |= {"precision": "fp32" if given.smoke else "bf16", "batch": given.rows * given.micro, "settings": settings}
    said = run([sys.executable, str(ROOT / "benchmarks" / "steps.py"), json.dumps(asked)], given.smoke)
    shutil.rmtree(out, ignore_errors=True)
    found = json.loads(said.strip().splitlines()[-1])
    return {**found, "seconds": found["seconds"][given.steps // 4 :]}


def nanogpt(place: Path, shape: dict[str, int], given: Any) -> dict[str, Any]:
    """Train some steps by nanoGPT's train.py; its step 0, which holds its evaluation, and the first quarter are left out."""
    words = {"n_layer": shape["layers"], "n_head": shape["heads"], "n_embd": shape["width"], "block_size": shape["window"]}
    words |= {"batch_size": given.rows, "gradient_accumulation_steps": given.micro, "dropout": 0.0, "bias": True, "max_iters": given.steps}
    words |= {"dataset": "shakespeare_char", "compile": not given.smoke, "eval_iters": 1, "log_interval": 1, "out_dir": "out"}
    words |= {"device": "cpu"} if given.smoke else {"device": "cuda", "dtype": "bfloat16"}
    said = run([sys.executable, "-u", "train.py", *(f"--{name}={value}" for name, value in words.items())], given.smoke, place)
    seconds = [float(each) / 1000 for number, each in LINE.findall(said) if int(number)]
    assert len(seconds) == given.steps, said[-1000:]
    millions = float(re.search(r"number of parameters: ([\d.]+)M", said).group(1))
    return {"seconds": seconds[given.steps // 4 :], "millions": millions}


def tokens_a_second(out: Path, given: Any) -> tuple[list[Measured], dict[str, Any]]:
    """Compare the rates, interleaved."""
    shape, smoke = (SMOKE, True) if given.smoke else (SHAPE, False)
    texts = [gzip.open(each, "rt", encoding="utf-8").read() for each in sorted(find("lctt_zh").glob("*.txt.gz"))]
    write_text(out / "rows.txt", "\n".join(texts)[: 200_000 if smoke else None])
    corpus = prepare(out / "rows.txt", out / "rows", Prepare(split="tail", validation=0.0, test=0.1), tell=tell).path
    wanted = {"model": "gpt2", "tokenizer": "bpe", "vocabulary": SMOKE_VOCABULARY if smoke else VOCABULARY}
    vocabulary = make_tokenizer(open_corpus(corpus), settle("language", wanted).value).vocabulary_size  # fewer where the text has no more
    place = copy_nanogpt(out / "large", "zhixing", bf16=False)
    data = place / "data" / "shakespeare_char"
    tokens = np.random.default_rng(0).integers(vocabulary, size=1 << 22).astype(np.uint16)  # what is learnt does not change the rate
    for name in ("train.bin", "val.bin"):
        tokens.tofile(data / name)
    (data / "meta.pkl").write_bytes(meta(vocabulary))
    programs = {"ours": partial(ours, corpus, out / "run", shape, given), "nanoGPT": partial(nanogpt, place, shape, given)}
    found = peers.rounds(1 if smoke else given.rounds, programs, tell)
    per_step = given.rows * given.micro * shape["window"]
    rate = {name: [per_step / statistics.median(each["seconds"]) for each in runs] for name, runs in found.items()}
    parameters = found["ours"][0]["parameters"] - shape["window"] * shape["width"]
    operations = 6 * parameters + 6 * shape["layers"] * shape["width"] * shape["window"]
    top = peak(smoke)
    other = found["nanoGPT"][0]["millions"] * 1e6
    assert smoke or abs(parameters - other) <= ALIKE * other, (parameters, other)
    figures = [Measured("millions of parameters without places, ours", parameters / 1e6)]
    figures.append(Measured("millions of parameters without places, nanoGPT", found["nanoGPT"][0]["millions"]))
    for name, each in rate.items():
        figures.append(Measured(f"tokens a second, {name} ({peers.spread(each)})", statistics.median(each)))
    figures.append(peers.compared("tokens a second, other compiled nanoGPT", rate["ours"], rate["nanoGPT"], ">= 1.2, aim 1.5"))
    figures.append(Measured(f"1e12 operations a second of a bf16 product {SMOKE_MATRIX if smoke else MATRIX} wide", top / 1e12))
    for name, each in rate.items():
        wanted = ">= 0.45" if name == "ours" else ""
        figures.append(Measured(f"share of that peak reached, {name}", statistics.median(each) * operations / top, wanted))
    return figures, {"rates": rate, "runs": found, "shape": shape}


def meta(vocabulary: int) -> bytes:
    """Give what nanoGPT reads of its data: the size of the vocabulary."""
    import pickle

    return pickle.dumps({"vocab_size": vocabulary, "itos": {}, "stoi": {}})


def published(out: Path, text: str, smoke: bool) -> tuple[list[tuple[int, float, float]], float]:
    """Run nanoGPT's published recipe and score its checkpoints up to the first that is there.

    return  (step, seconds since its start, nats) of each, and the seconds until its first step was told
    """
    place = copy_nanogpt(out / "published", text, bf16=False)
    (place / "config").mkdir()
    shutil.copyfile(peers.clone("nanoGPT") / "config" / targets.RECIPE, place / "config" / targets.RECIPE)
    every = 2 if smoke else PEER_EVERY
    words = {
        "always_save_checkpoint": True,
        "eval_iters": 1,
        "eval_interval": every,
        "compile": not smoke,
        "max_iters": 4 if smoke else PEER_STEPS,
    }
    if smoke:
        words |= {"device": "cpu", "n_layer": 1, "n_embd": 32, "n_head": 2, "block_size": 64, "batch_size": 2}
    flags = [f"--{name}={value}" for name, value in words.items()]
    start, kept = time.perf_counter(), []
    program = [sys.executable, "-u", "train.py", f"config/{targets.RECIPE}", *flags]
    with (out / "published.log").open("w", encoding="utf-8") as log:
        going = subprocess.Popen(program, cwd=place, env=environment(smoke), stdout=subprocess.PIPE, stderr=log, text=True)
        waiting, first = False, 0.0
        for line in going.stdout:
            log.write(line)
            if not first and line.startswith("iter "):
                first = time.perf_counter() - start
            if waiting:  # the next line after the word of saving: the file is whole
                step = len(kept) * every + every
                kept.append((step, time.perf_counter() - start))
                shutil.copyfile(place / "out-shakespeare-char" / "ckpt.pt", out / f"ckpt{step}.pt")
            waiting = bool(SAVED.search(line))
        if going.wait():
            sys.exit(f"nanoGPT ended with {going.returncode}; see {out / 'published.log'}.")
    found = []
    for step, seconds in kept:
        shutil.copyfile(out / f"ckpt{step}.pt", place / "out-shakespeare-char" / "ckpt.pt")
        found.append((step, seconds, targets.score_peer(place)))
        if found[-1][2] <= targets.GPU_LOSS:
            break
    return found, first


def to_a_loss(out: Path, given: Any) -> tuple[list[Measured], dict[str, Any]]:
    """Measure the time to the published loss on both sides."""
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read(60_000 if given.smoke else -1)
    write_text(out / "input.txt", text)
    corpus = prepare(out / "input.txt", out / "corpus", Prepare(split="tail", validation=0.0, test=0.1), tell=tell).path
    settings = {**targets.PLANS["alone"], **(targets.SMOKE if given.smoke else {})}
    write_text(out / "alone.toml", "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    start = time.perf_counter()
    words = ["train", str(corpus), str(out / "alone"), "--recipe", str(out / "alone.toml")]
    run([sys.executable, "-m", "zhixing", *words], given.smoke)
    seconds = time.perf_counter() - start
    nats = targets.score_ours(out / "alone", corpus, 64 if given.smoke else SCORED)
    curve, first = published(out, text, given.smoke)
    step, theirs, reached = curve[-1] if curve else (0, 0.0, float("nan"))
    there = reached <= targets.GPU_LOSS
    ratio = seconds / theirs if there and nats <= targets.GPU_LOSS else None
    figures = [
        Measured("ours: nats on test", nats, f"<= {targets.GPU_LOSS}"),
        Measured("ours: seconds of the command", seconds),
        Measured("nanoGPT's published recipe: step of its first checkpoint that is there, whole held-out text", step if there else None),
        Measured("nanoGPT's published recipe: nats at its last checkpoint scored", reached),
        Measured("nanoGPT's published recipe: seconds until then", theirs if there else None),
        Measured("seconds, ours / nanoGPT", ratio),
        Measured("seconds, ours / nanoGPT without its compiling", None if ratio is None else seconds / (theirs - first)),
    ]
    return figures, {"nanoGPT_curve": curve, "plan": settings}


def main() -> None:
    import torch

    given = arguments(__doc__, rounds=3, rows=32, micro=4, steps=20)
    out = given.out = given.out.resolve()
    if given.smoke:
        given.rows, given.micro, given.steps = 2, 2, 4
    elif not torch.cuda.is_available():
        sys.exit("There is no GPU that torch can see. One is expected. Run on a machine that has one, or with --smoke.")
    figures, details = tokens_a_second(out, given)
    more, others = to_a_loss(out, given)
    card = "none" if given.smoke else torch.cuda.get_device_name()
    write(out, "Training on a GPU", [Measured("card", card), *figures, *more], {**details, **others}, given.smoke)


if __name__ == "__main__":
    main()
