"""What `suggest` gains: accuracy over the number of labelled rows, when the rows are those it names and when they are drawn at random.

    ZHIXING_DATA=... python benchmarks/suggest.py OUT [--seeds 3] [--pool 3000] [--smoke]

The pool is rows of banking77's training split, drawn anew for each seed, their labels hidden. First 77 are labelled, then twice as many
each time. Those that are named first come from all-MiniLM-L6-v2 as it is, which knows no labels; later ones from the classifier that the
labels so far made, which always begins with MiniLM. Both ways are judged on the whole test split. Begun again in the same folder, what is
there is not done again.
"""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from results import Measured, arguments, find, tell, write
from transfer import pretrained, read

from zhixing import evaluate, import_model, load, prepare, suggest, train
from zhixing.core.files import read_json, write_json
from zhixing.preparation.prepare import Prepare

COUNTS = (77, 154, 308, 616)
WAYS = ("random", "suggest")


def rows_file(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows, a line each."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def chosen(place: Path, way: str, pool: list[dict[str, str]], had: list[dict[str, str]], count: int, model: Path, seed: int) -> list[Any]:
    """Give the rows that are labelled now: those that were, and as many more as are missing."""
    known = {row["text"] for row in had}
    rest = [row for row in pool if row["text"] not in known]
    if way == "random":
        random.Random(seed * 1000 + count).shuffle(rest)
        return had + rest[: count - len(had)]
    labels = {row["text"]: row["label"] for row in pool}
    source = rows_file(place / "rest.jsonl", [{"text": row["text"]} for row in rest])
    suggest(model, source, place / "next.jsonl", count - len(had), seed=seed, tell=tell, force=True)
    with open(place / "next.jsonl", encoding="utf-8") as lines:
        named = [json.loads(line)["text"] for line in lines]
    return had + [{"text": text, "label": labels[text]} for text in named]


def curve(out: Path, way: str, pool: list[dict[str, str]], test: Path, start: Path, seed: int, smoke: bool) -> list[dict[str, Any]]:
    """Label, train and judge, as often as there are counts; what was done is read again."""
    had: list[dict[str, str]] = []
    model, found = start, []
    for count in COUNTS[: 2 if smoke else None]:
        place = out / f"{way}-{seed}-{count}"
        kept = place / "result.json"
        if not kept.exists():
            place.mkdir(parents=True, exist_ok=True)
            had = chosen(place, way, pool, had, count, model, seed)
            how = Prepare(task="classify", validation=0.0, test_source=str(test))
            corpus = prepare(rows_file(place / "train.jsonl", had), place / "corpus", how, tell=tell, force=True)
            train(
                corpus.path, place / "model", {"start": str(start), "seed": seed, **({"steps": 1} if smoke else {})}, tell=tell, force=True
            )
            figure = evaluate(place / "model", corpus.path, rivals=False, save=False).figure("accuracy")
            write_json(kept, {"value": figure.value, "labels": len({row["label"] for row in had}), "rows": had})
        held = read_json(kept)
        had, model = held["rows"], place / "model"
        found.append({"count": count, "value": held["value"], "labels": held["labels"]})
    return found


def reached(counts: list[int], values: list[float], wanted: float) -> float:
    """Give the number of labels at which a curve, straight between its points over the logarithm of labels, reaches an accuracy."""
    return float(np.exp(np.interp(wanted, values, np.log(counts))))


def main() -> None:
    given = arguments(__doc__, goes_on=True, seeds=3, pool=3000)
    out, smoke = given.out, given.smoke
    start = out / "minilm"
    if not start.exists():
        import_model(pretrained(), start, tell=tell)
    assert load(start).task.name == "similar"
    parts = [read(find("banking77") / f"{part}.jsonl.gz") for part in ("train", "test")]
    test = rows_file(out / "test.jsonl", parts[1][:: 40 if smoke else 1])
    runs: dict[str, list[list[dict[str, Any]]]] = {way: [] for way in WAYS}
    for seed in range(1 if smoke else given.seeds):
        pool = sorted(parts[0], key=lambda row: row["text"])
        random.Random(seed + 1).shuffle(pool)
        for way in WAYS:
            runs[way].append(curve(out, way, pool[: 300 if smoke else given.pool], test, start, seed, smoke))
    figures = []
    means: dict[str, list[float]] = {way: [] for way in WAYS}
    counts = [each["count"] for each in runs[WAYS[0]][0]]
    for number, count in enumerate(counts):
        for way in WAYS:
            values = [run[number]["value"] for run in runs[way]]
            labels = statistics.fmean(run[number]["labels"] for run in runs[way])
            means[way].append(statistics.fmean(values))
            spread = f"{min(values):.4f} .. {max(values):.4f}, {labels:.0f} of 77 labels seen"
            figures.append(Measured(f"{count} labelled, {way}: accuracy ({spread})", means[way][-1]))
        gains = [one[number]["value"] - other[number]["value"] for one, other in zip(runs["suggest"], runs["random"], strict=True)]
        figures.append(Measured(f"{count} labelled: gain of suggest ({min(gains):+.4f} .. {max(gains):+.4f})", statistics.fmean(gains)))
    least = means["random"][-1]
    if means["suggest"][-1] >= least:
        needed = reached(counts, means["suggest"], least) / counts[-1]
        figures.append(Measured(f"labels that suggest needs for the accuracy of {counts[-1]} at random, as a share", needed))
    write(out, "Suggest", figures, runs, smoke)


if __name__ == "__main__":
    main()
