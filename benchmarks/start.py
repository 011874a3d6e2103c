"""What comes before the work: the first step of a training, the help, a vocabulary of pieces, and the encoding of characters.

    ZHIXING_DATA=... python benchmarks/start.py OUT [--rounds 5] [--helps 10] [--threads 0] [--smoke]

The first step: seconds from the start of `python -m zhixing train` to the first line of its run.jsonl, which is written when that step has
ended, beside those of a process that imports torch and leaves at once; a decoder of 10.65M parameters, 16 rows of 256 characters a step,
the token cache thrown away before each round. What the step itself takes is told by the second line. A byte-level BPE of 32,768 pieces is
trained and all rows are encoded, once by zhixing and once by the tokenizers library directly, the same split and all threads; English,
Chinese of today and old Chinese. Characters are encoded on one core, by the core's own clock, in groups as a training cuts them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import peers
from memory import write_brown
from results import ROOT, Measured, arguments, find, tell, write

from zhixing import prepare
from zhixing.data.corpus import open_corpus
from zhixing.data.shards import GROUP_CHARACTERS, shard
from zhixing.preparation.prepare import Prepare
from zhixing.tokens.tokenizer import train_characters

SHAPE = {"layers": 6, "width": 384, "heads": 6}
SMOKE = {"layers": 1, "width": 32, "heads": 2}
POLL_SECONDS, LONGEST_SECONDS = 0.005, 300.0
ZHIXING = [sys.executable, "-m", "zhixing"]
MODERN, OLD = "lctt_zh", "zh_classic_novels"
VOCABULARY, SMOKE_VOCABULARY = 32768, 1024
SMOKE_CHARACTERS = 60_000


def first_steps(corpus: Path, recipe: Path, out: Path, threads: int) -> dict[str, float]:
    """Start a training, wait for the first two lines of its diary, and end it."""
    shutil.rmtree(corpus / "cache", ignore_errors=True)
    start = time.perf_counter()
    words = [*ZHIXING, "train", str(corpus), str(out), "--model", "gpt2", "--recipe", str(recipe), "--steps", "3"]
    run = subprocess.Popen(words, env=peers.surroundings(threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: list[float] = []
    diary = out / "run.jsonl"
    while len(seen) < 2:
        lines = diary.read_bytes().count(b"\n") if diary.exists() else 0
        now = time.perf_counter() - start
        seen += [now] * (lines - len(seen))
        if len(seen) < 2 and (run.poll() is not None or now > LONGEST_SECONDS):
            run.kill()
            sys.exit(f"{' '.join(words)} ended with {run.poll()} before its second step.")
        time.sleep(POLL_SECONDS)
    run.kill()
    run.wait()
    second = [json.loads(line)["seconds"] for line in diary.read_text(encoding="utf-8").splitlines()[:2]]
    shutil.rmtree(out)
    return {"first": seen[0], "step": second[1] - second[0]}


def seconds(words: list[str], threads: int) -> float:
    """Give the seconds that a process takes."""
    start = time.perf_counter()
    subprocess.run(words, env=peers.surroundings(threads), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def beginning(out: Path, corpus: Path, number: int, threads: int, smoke: bool) -> tuple[list[Measured], dict[str, Any]]:
    """Measure the way to the end of the first step."""
    recipe = out / "start.toml"
    settings = {**(SMOKE if smoke else SHAPE), "batch": 16, "window": 256, "evaluations": 0, "saves": 0}
    recipe.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()), encoding="utf-8")
    programs = {
        "train": partial(first_steps, corpus, recipe, out / "run", threads),
        "import": partial(seconds, [sys.executable, "-c", "import torch, os; os._exit(0)"], threads),
    }
    found = peers.rounds(number, programs, tell)
    firsts = [each["first"] for each in found["train"]]
    above = [one - two for one, two in zip(firsts, found["import"], strict=True)]
    before = [seconds - each["step"] for seconds, each in zip(above, found["train"], strict=True)]
    return [
        Measured(f"seconds from process start to the end of the first step ({peers.spread(firsts)})", statistics.median(firsts)),
        Measured(f"seconds of a process that imports torch ({peers.spread(found['import'])})", statistics.median(found["import"])),
        Measured(f"seconds between, median of {number} ({peers.spread(above)})", statistics.median(above), "<= 2"),
        Measured("of these, what a step takes", statistics.median(each["step"] for each in found["train"])),
        Measured(f"seconds above import until the first step begins ({peers.spread(before)})", statistics.median(before), "<= 2, aim 1"),
    ], found


def helps(number: int, threads: int) -> tuple[list[Measured], dict[str, Any]]:
    """Measure the help beside a Python that does nothing."""
    programs = {"help": partial(seconds, [*ZHIXING, "--help"], threads), "pass": partial(seconds, [sys.executable, "-c", "pass"], threads)}
    found = peers.rounds(number, programs, lambda *words, **values: None)
    return [
        Measured(
            f"seconds of `zhixing --help`, median of {number} ({peers.spread(found['help'])})", statistics.median(found["help"]), "<= 0.2"
        ),
        Measured(f"seconds of a Python that does nothing ({peers.spread(found['pass'])})", statistics.median(found["pass"])),
    ], found


def sources(out: Path, smoke: bool) -> dict[str, str]:
    """Give the texts: English, Chinese of today, old Chinese."""
    texts = {"brown": write_brown(out / "brown.txt", None).read_text(encoding="utf-8")}
    for name in (MODERN, OLD):
        files = sorted(find(name).glob("*.txt.gz"))
        texts[name] = "".join(gzip.open(each, "rt", encoding="utf-8").read() for each in files)
    return {name: text[:SMOKE_CHARACTERS] if smoke else text for name, text in texts.items()}


def pieces(out: Path, texts: dict[str, str], number: int, threads: int, smoke: bool) -> tuple[list[Measured], dict[str, Any]]:
    """Measure a vocabulary of pieces, of each text and of all together."""
    size = SMOKE_VOCABULARY if smoke else VOCABULARY
    figures, details = [], {}
    program = str(ROOT / "benchmarks" / "pieces.py")
    for name, text in {"brown": texts["brown"], "all texts": "\n".join(texts.values())}.items():
        path = out / "rows.txt"
        path.write_text(text, encoding="utf-8")
        programs = {who: partial(peers.child, [sys.executable, program, who, str(path), str(size)], threads) for who in ("ours", "library")}
        found = {who: [json.loads(each) for each in runs] for who, runs in peers.rounds(number, programs, tell).items()}
        details[name] = found
        title = f"BPE of {size:,} pieces, {name}, {len(text.encode()) / 1e6:.1f} MB"
        for what in ("training", "encoding"):
            taken = {who: [each[what] for each in runs] for who, runs in found.items()}
            figures += [Measured(f"{title}: seconds of {what}, {who}", statistics.median(each)) for who, each in taken.items()]
            figures.append(peers.compared(f"{title}: seconds of {what}", taken["ours"], taken["library"]))
        whole = {who: [each["training"] + each["encoding"] for each in runs] for who, runs in found.items()}
        figures.append(peers.compared(f"{title}: seconds of both", whole["ours"], whole["library"], "<= 1.1"))
        figures += [Measured(f"{title}: tokens, {who}", runs[0]["tokens"]) for who, runs in found.items()]
    return figures, details


def grouped(texts: list[str]) -> list[list[str]]:
    """Group texts as a training does before it encodes them."""
    groups: list[list[str]] = [[]]
    size = 0
    for text in texts:
        if size >= GROUP_CHARACTERS:
            groups.append([])
            size = 0
        groups[-1].append(text)
        size += len(text)
    return groups


def characters(out: Path, texts: dict[str, str]) -> tuple[list[Measured], dict[str, Any]]:
    """Measure how fast characters are encoded, whole texts and their lines as rows; and the whole making of a token cache."""
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for name, text in texts.items():
        tokenizer = train_characters([text])
        for form, cut in (("as one text", [text]), ("a row a line", [line for line in text.split("\n") if line])):
            groups, taken = grouped(cut), []
            for _ in range(peers.TRIES + 1):
                start = time.process_time()
                for group in groups:
                    tokenizer.encode_batch(group)
                taken.append(time.process_time() - start)
            size, rates = sum(len(each.encode()) for each in cut) / 1e6, []
            rates = details[f"{name}, {form}"] = [size / max(each, 1e-9) for each in taken[1:]]
            title = f"characters, {name}, {form}, {1e6 * size / len(cut):.0f} bytes each: MB a core-second"
            figures.append(Measured(f"{title} ({peers.spread(rates)})", statistics.median(rates), ">= 200"))
        (out / f"{name}.txt").write_text(text, encoding="utf-8")
        made = prepare(out / f"{name}.txt", out / f"{name}-corpus", Prepare(split="tail", validation=0.0, test=0.0), tell=tell)
        corpus = open_corpus(made.path)
        start = time.process_time()
        shard(corpus, tokenizer, "train")
        rate = corpus.size_bytes("train") / (time.process_time() - start) / 1e6
        figures.append(Measured(f"characters, {name}, as one text: MB a core-second of the whole token cache, read, hashed, written", rate))
    return figures, details


def main() -> None:
    given = arguments(__doc__, rounds=5, helps=10, threads=0)
    number, threads, out = 1 if given.smoke else given.rounds, peers.threads(given.threads), given.out
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        (out / "input.txt").write_text(handle.read(SMOKE_CHARACTERS if given.smoke else -1), encoding="utf-8")
    corpus = prepare(out / "input.txt", out / "corpus", Prepare(split="tail", validation=0.05, test=0.1), tell=tell)
    texts = sources(out, given.smoke)
    figures: list[Measured] = []
    details: dict[str, Any] = {"threads_of_each": threads}
    for name, made in {
        "start": lambda: beginning(out, corpus.path, number, threads, given.smoke),
        "help": lambda: helps(2 if given.smoke else given.helps, threads),
        "pieces": lambda: pieces(out, texts, number, threads, given.smoke),
        "characters": lambda: characters(out, texts),
    }.items():
        found, details[name] = made()
        figures += found
    write(out, "What comes before the work", figures, details, given.smoke)


if __name__ == "__main__":
    main()
