"""Seeing: easy_vqa by a fusion of picture and question, beside the same model on either alone; nlvr; digits by sound or by text.

    ZHIXING_DATA=... python benchmarks/see.py OUT [--steps 4000] [--seeds 1] [--smoke]

easy_vqa: the official test, on pictures that no training row has; 5 % of the training rows, by hash, choose among checkpoints. Questions
alone, and pictures alone, are given a fifth of the steps: validation shows that they have nothing left to learn by then. nlvr: the
official train file is not to be had, so the dev set teaches (all six pictures of a statement; statements are split, not rows) and the
released hidden set tests, one picture a statement: with fewer than a thousand rows its interval is about three points to each side.
fsdd: half of the rows hold a spoken digit, half a sentence that names one; one model answers both, takes 0 to 4 of each speaker as test.
Figures are written as they come; started again, it goes on.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, load, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.data.corpus import open_corpus
from zhixing.preparation.prepare import Prepare

SMALL: dict[str, Any] = {"size": "tiny", "width": 16, "steps": 8, "batch": 8}
WANTED = 15.0  # points above either modality alone
VARIANTS = {"image and text": None, "text only": "image", "image only": "question"}
SENTENCES = ("{}", "the number {}", "it is {} this time", "say {} please", "{} was said")
SMOKE_ROWS = 300


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Read a packed file of rows."""
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def put(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, beside which their archives lie."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def beside(place: Path, *archives: Path) -> Path:
    """Make a folder in which archives lie, as links."""
    place.mkdir(parents=True, exist_ok=True)
    for each in archives:
        if not (place / each.name).exists():
            (place / each.name).symlink_to(each.resolve())
    return place


def main() -> None:
    given = arguments(__doc__, goes_on=True, steps=4000, seeds=1)
    out, smoke = given.out, given.smoke
    store = out / "found.json"
    found: dict[str, Any] = read_json(store) if store.exists() else {}

    def once(name: str, work: Callable[[], Any]) -> Any:
        """Do what was not done yet, and keep what came of it."""
        if name not in found:
            found[name] = work()
            write_json(store, found)
        return found[name]

    def corpus(name: str, train_rows: Path, test_rows: Path, **how: Any) -> Path:
        if not (out / name / "manifest.json").exists():
            settings = Prepare(task="see", repeats="keep", test_source=str(test_rows), **how)
            prepare(train_rows, out / name, settings, tell=tell, force=True)
        return out / name

    def judged(name: str, place: Path, seed: int, **how: Any) -> dict[str, Any]:
        settings = {"model": "fusion", "seed": seed, "threads": 1, "evaluations": 8, **how, **(SMALL if smoke else {})}
        model = out / f"{place.name}-{seed}"
        if not (model / "manifest.json").exists():
            train(place, model, settings, tell=tell)
        report = evaluate(model, place, rivals=not place.name.endswith("only"), tell=tell)
        one = report.figure("accuracy")
        card = read_json(model / "card.json")
        return {
            "accuracy": one.value, "low": one.low, "high": one.high, "rivals": one.rivals, "examples": report.examples,
            "parameters": card["parameters"], "core_seconds": card["measured"]["core_seconds"], "seconds": card["measured"]["seconds"],
        }  # fmt: skip

    seeds = 1 if smoke else given.seeds
    figures: list[Measured] = []

    def tell_of(name: str, runs: list[dict[str, Any]]) -> None:
        ends = f"{100 * runs[0]['low']:.1f} .. {100 * runs[0]['high']:.1f}"
        mean = 100 * statistics.mean(run["accuracy"] for run in runs)
        figures.append(Measured(f"{name}: accuracy, %, {runs[0]['examples']} rows ({ends})", mean))

    # easy_vqa
    source = find("easy_vqa")
    train_rows, test_rows = source / "train.jsonl.gz", source / "test.jsonl.gz"
    if smoke:
        place = beside(out / "vqa", source / "images.zip")
        train_rows, test_rows = (put(place / f"{each.name[:5]}.jsonl", rows_of(each)[:SMOKE_ROWS]) for each in (train_rows, test_rows))
    means = {}
    for name, without in VARIANTS.items():
        columns = ",".join(f"{field}={column}" for field, column in (("text", "question"), ("label", "answer")) if column != without)
        place = corpus("vqa-" + name.replace(" ", "-"), train_rows, test_rows, columns=columns, without=without, validation=0.05)
        steps = given.steps // (5 if without else 1)
        runs = [once(f"{name} {seed}", lambda n=name, p=place, s=seed, k=steps: judged(n, p, s, steps=k)) for seed in range(seeds)]
        means[name] = statistics.mean(run["accuracy"] for run in runs)
        tell_of(f"easy_vqa, {name}", runs)
        figures += [Measured(f"easy_vqa, {name}: core-seconds of training", statistics.mean(run["core_seconds"] for run in runs))]
        if without is None:
            figures += [Measured(f"easy_vqa, {rival}: accuracy, %", 100 * value) for rival, value in runs[0]["rivals"].items()]
        show(out, figures, found, smoke)
    for name in ("text only", "image only"):
        figures.append(Measured(f"easy_vqa: points above {name}", 100 * (means["image and text"] - means[name]), f">= {WANTED:g}"))
    show(out, figures, found, smoke)

    # fsdd
    source = find("fsdd")
    place = beside(out / "digits", source / "audio.tar")
    files = {}
    for name in ("train", "test"):
        draw, rows = random.Random(name), []
        for number, row in enumerate(rows_of(source / f"{name}.jsonl.gz")[:: 9 if smoke and name == "train" else 1]):
            text = draw.choice(SENTENCES).format(row["text"])
            rows.append({"label": str(row["label"]), **({"audio": row["audio"]} if number % 2 or name == "test" else {"text": text})})
            if name == "test":
                rows.append({"label": str(row["label"]), "text": text})
        files[name] = put(place / f"{name}.jsonl", rows)
    made = corpus("digits-any", files["train"], files["test"], validation=0.1)

    def apart() -> dict[str, Any]:
        whole = judged("digits", made, 0, steps=given.steps // 8)
        model, examples = load(out / f"{made.name}-0"), list(open_corpus(made).examples("test"))
        for sense in ("audio", "text"):
            some = [each for each in examples if sense in each]
            answers = model.predict([{sense: each[sense]} for each in some])
            right = [one.value == each["label"] for one, each in zip(answers, some, strict=True)]
            whole[sense] = sum(right) / len(right)
        return whole

    digits = once("digits", apart)
    tell_of("fsdd, a digit by sound or by text", [digits])
    figures += [Measured(f"fsdd, rows of {sense}: accuracy, %", 100 * digits[sense]) for sense in ("audio", "text")]
    show(out, figures, found, smoke)

    # nlvr
    source = find("nlvr")
    place = beside(out / "nlvr", source / "dev_images.zip", source / "hidden_images.zip")
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for number, row in enumerate(rows_of(source / "dev.jsonl.gz")[: SMOKE_ROWS // 6 if smoke else None]):
        part = parts["validation" if number % 10 == 0 else "train"]
        part += [{"image": name, "text": row["text"], "label": str(row["label"]).lower()} for name in row["images"]]
    for row in rows_of(source / "hidden.jsonl.gz")[: 60 if smoke else None]:
        parts["test"].append({"image": row["images"][0], "text": row["text"], "label": str(row["label"]).lower()})
    files = {name: put(place / f"{name}.jsonl", rows) for name, rows in parts.items()}
    made = corpus("nlvr-both", files["train"], files["test"], validation_source=str(files["validation"]))
    runs = [once(f"nlvr {seed}", lambda s=seed: judged("nlvr", made, s, steps=given.steps // 5)) for seed in range(seeds)]
    tell_of("nlvr, image and text", runs)
    figures += [Measured(f"nlvr, {rival}: accuracy, %", 100 * value) for rival, value in runs[0]["rivals"].items()]
    show(out, figures, found, smoke)


def show(out: Path, figures: list[Measured], found: dict[str, Any], smoke: bool) -> None:
    """Write what was found so far."""
    write(out, "Seeing", figures, found, smoke)


if __name__ == "__main__":
    main()
