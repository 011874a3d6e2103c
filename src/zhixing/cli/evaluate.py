"""`zhixing evaluate`: a Model folder's scores on a Corpus folder, with intervals and a baseline beside each."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console, table


def evaluate(model: Path, corpus: Path, /, *, split: str = "test", json: bool = False) -> None:
    """Score a model on a split it was not trained on."""
    from zhixing.evaluation.evaluate import evaluate as score

    console = Console(json)
    console.tell("cli.evaluate.will", model=model, corpus=corpus, split=split)
    report = score(model, corpus, split=split, tell=console.tell)
    console.answer(table(report.table()), report.to_dict())
    console.tell("cli.evaluate.done", model=model)
