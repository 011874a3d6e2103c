"""One model for several tasks beside a model for each, trained by the same family with the same time in all.

    ZHIXING_DATA=... python benchmarks/many.py OUT [--core-seconds 480] [--again] [--smoke]

Four sets of `benchmarks/tasks.py`: intents and reviews to be classified, short answers to be graded, names to be tagged, in two languages.
Each model alone gets a quarter of the time. The counted default of each task stands beside both.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from results import Measured, tell, write
from tasks import CASES, corpus_of

from zhixing import evaluate, train
from zhixing.core.files import read_json
from zhixing.core.folder import MANIFEST

SET = "four_tasks"
FORM = {"model": "bigru", "tokenizer": "bpe"}


def run(corpus: Path, place: Path, core_seconds: float) -> dict[str, Any]:
    """Train and evaluate, each only if that was not done before; give the report."""
    if not (place / MANIFEST).exists():
        train(corpus, place, {**FORM, "core_seconds": core_seconds}, tell=tell)
    if not any((place / "evaluation").glob("*.json")):
        evaluate(place, corpus, tell=tell)
    return read_json(next((place / "evaluation").glob("*.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--core-seconds", type=float, default=480.0)
    parser.add_argument("--again", action="store_true", help="go on in OUT")
    parser.add_argument("--smoke", action="store_true", help="a few seconds a model: proves the script, measures nothing")
    given = parser.parse_args()
    if given.out.exists() and any(given.out.iterdir()) and not given.again:
        parser.error(f"{given.out} is not empty; give a new folder, or --again")
    spent = 8.0 if given.smoke else given.core_seconds
    mixed = corpus_of(SET, CASES[SET], given.out, 0)
    together = {each["name"]: each for each in run(mixed, given.out / "models" / "together", spent)["figures"]}
    figures = [Measured("average of the four, one model", together["average"]["value"])]
    figures.append(Measured("average of the four, counted models", together["average"]["rivals"]["default_each"]))
    alone_values = []
    for part in CASES[SET].parts:
        corpus = corpus_of(part, CASES[part], given.out, 0)
        report = run(corpus, given.out / "models" / part, spent / len(CASES[SET].parts))
        first = report["figures"][0]
        shared = next(
            each for name, each in together.items() if name.startswith(f"{report['task']}/{part}") and name.endswith(first["name"])
        )
        ends = "({:.4f} .. {:.4f})"
        figures += [
            Measured(f"{part}: {first['name']}, one model for all {ends.format(shared['low'], shared['high'])}", shared["value"]),
            Measured(f"{part}: {first['name']}, a model of its own {ends.format(first['low'], first['high'])}", first["value"]),
            Measured(f"{part}: {first['name']}, counted", shared["rivals"]["default_each"]),
        ]
        alone_values.append(first["value"])
    figures.insert(1, Measured("average of the four, a model each", sum(alone_values) / len(alone_values)))
    write(given.out, "One model, many tasks", figures, {"core_seconds": spent, **FORM}, given.smoke)


if __name__ == "__main__":
    main()
