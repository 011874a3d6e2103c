"""Tang poems: the best model of so many minutes against the best counted one, and what the poems that they write look like.

    ZHIXING_DATA=... python benchmarks/poems.py OUT [--minutes 20] [--poems 100] [--both 1] [--smoke]

A poem that stands under two titles would land in train and test once the title is part of the text, so repeats of a poem's own text are
removed first. Two corpora are made of what is left, 10 % of each for test by hash: the poems alone, for the figures in nats, and
"title, line end, poem", for poems written from the titles of test poems. The best model is fitted on the second; with --both 1 on the
first as well.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, load, prepare, train
from zhixing.data.corpus import open_corpus
from zhixing.decoding.asking import Sampling
from zhixing.decoding.generate import generate
from zhixing.preparation.prepare import Prepare
from zhixing.studies.best import best

SMOKE_POEMS = 1500
BREAKS = re.compile(r"[\s，。？！；、：,.?!;:「」『』《》〈〉“”‘’（）()]+")
LENGTHS = (5, 7)
TEMPERATURES = (1.0, 0.7)
LONGEST = 200  # tokens of a poem


def clean(source: Path, out: Path, most: int | None) -> dict[str, int]:
    """Write the poems that have a title and a text, each text once, as title and text."""
    seen: set[str] = set()
    count = {"read": 0, "empty": 0, "repeats": 0, "kept": 0}
    with gzip.open(source, "rt", encoding="utf-8") as lines, open(out, "w", encoding="utf-8") as handle:
        for line in lines:
            if most is not None and count["kept"] >= most:
                break
            count["read"] += 1
            row = json.loads(line)
            title, text = " ".join(row["title"].split()), row["text"].strip()
            fate = "empty" if not title or not text else "repeats" if text in seen else "kept"
            count[fate] += 1
            if fate == "kept":
                seen.add(text)
                handle.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
    return count


def verses(poem: str) -> list[str]:
    """Cut a poem into its lines of verse."""
    return [each for each in BREAKS.split(poem) if each]


def regular(poem: str) -> bool:
    """Say whether all lines of verse are of one length, five or seven characters."""
    found = {len(each) for each in verses(poem)}
    return len(found) == 1 and found <= set(LENGTHS)


def compose(model: Path, prompts: list[str], temperature: float) -> list[str]:
    """Write one poem for each title; of one that was cut off at the greatest length, the unfinished last line goes."""
    opened = load(model)
    sampling = Sampling(temperature=temperature, seed=1, max_tokens=LONGEST)
    made = []
    for each in generate(opened.model, opened.tokenizer, prompts, sampling):
        cut = each.finish_reason == "length"
        made.append("\n".join(verses(each.text)[:-1]) if cut else each.text)
    return made


def judge(poems: list[str], known: set[str]) -> dict[str, float]:
    """Give the share of regular poems, and of lines that stand in the training text."""
    lines = [each for poem in poems for each in verses(poem)]
    return {"regular": sum(map(regular, poems)) / len(poems), "copied": sum(each in known for each in lines) / max(len(lines), 1)}


def write_poems(out: Path, prompts: int, winner: str, found: dict[str, Any]) -> list[Measured]:
    """Judge the corpus's own poems and those written by the winner and by the n-gram."""
    corpus = open_corpus(out / "titled")
    known = {each for example in corpus.examples("train") for each in verses(example["text"].partition("\n")[2])}
    tests = [example["text"].partition("\n") for example in corpus.examples("test")]
    chosen = tests[:: max(1, len(tests) // prompts)][:prompts]
    own = judge([poem for _, _, poem in tests], known)
    figures = [
        Measured("test poems: share of regular poems", own["regular"]),
        Measured("test poems: share of lines that training has too", own["copied"]),
    ]
    for name in ("best", "ngram"):
        for temperature in TEMPERATURES:
            poems = compose(out / f"titled-{name}", [f"{title}\n" for title, _, _ in chosen], temperature)
            value = judge(poems, known)
            label = f"{'winner' if name == 'best' else 'n-gram'} ({winner if name == 'best' else 'ngram'}), {len(poems)} poems"
            figures.append(Measured(f"{label}, temperature {temperature}: share of regular poems", value["regular"]))
            figures.append(Measured(f"{label}, temperature {temperature}: share of lines copied", value["copied"]))
            found[f"poems_{name}_{temperature}"] = [{"title": t, "poem": p} for (t, _, _), p in zip(chosen, poems, strict=True)][:5]
    return figures


def main() -> None:
    given = arguments(__doc__, minutes=20.0, poems=100, both=0)
    out, minutes, poems = given.out, (0.4 if given.smoke else given.minutes), (8 if given.smoke else given.poems)
    count = clean(find("chinese_poetry") / "tang.jsonl.gz", out / "poems.jsonl", SMOKE_POEMS if given.smoke else None)
    shares = {"task": "language", "split": "hash", "validation": 0.05, "test": 0.1}
    forms = {"plain": {"text": "text"}, "titled": {"form": "{title}\n{text}"}}
    details: dict[str, Any] = {"rows": count}
    figures = [Measured("poems after repeats were removed", count["kept"])]
    winner = ""
    for name, form in forms.items():
        prepare(out / "poems.jsonl", out / name, Prepare(**shares, **form), tell=tell)
        train(out / name, out / f"{name}-ngram", {"model": "ngram"}, tell=tell)
        settings = {"size": "tiny", "window": 64} if given.smoke else {}
        tried = name == "titled" or bool(given.both)
        folder = best(out / name, out / f"{name}-best", minutes, settings, tell=tell) if tried else None
        nats = {
            each: evaluate(out / f"{name}-{each}", out / name, rivals=False, tell=tell).figure("nats_per_token").value
            for each in ("ngram", "best")[: 1 + tried]
        }
        order = load(out / f"{name}-ngram").model.config.order
        wanted = "near 4.80" if name == "plain" else ""
        figures.append(Measured(f"{name}: best n-gram (order {order}), nats on test", nats["ngram"], wanted))
        if folder is not None:
            winner = folder.card["best"]["winner"]
            details[f"{name}_best"] = folder.card["best"] | {"settings": folder.card["settings"], "measured": folder.card["measured"]}
            figures.append(Measured(f"{name}: winner of {minutes:g} minutes", winner))
            figures.append(Measured(f"{name}: winner, nats on test", nats["best"]))
            figures.append(Measured(f"{name}: winner below the n-gram, share", 1 - nats["best"] / nats["ngram"], ">= 0.08"))
            figures.append(Measured(f"{name}: minutes for everything", folder.card["measured"]["best_seconds"] / 60, f"<= {minutes:g}"))
    figures += write_poems(out, poems, winner, details)
    write(out, "Tang poems", figures, details, given.smoke)


if __name__ == "__main__":
    main()
