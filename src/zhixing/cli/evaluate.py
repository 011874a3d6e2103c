"""`zhixing evaluate`: a Model folder's scores on a Corpus folder, with intervals and a baseline beside each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhixing.cli.console import Console, table
from zhixing.core.messages import text

ROUNDING = 1e-12  # a difference below it is that of sums of the same numbers in another order


def evaluate(
    model: Path, corpus: Path, /, *, split: str = "test", samples: int | None = None, dynamic: bool = False, json: bool = False
) -> None:
    """Score a model on a split it was not trained on."""
    from zhixing.evaluation.evaluate import evaluate as score

    reader = None
    if dynamic:
        from zhixing.training.dynamic import Dynamic

        reader = Dynamic()
    console = Console(json)
    console.tell("cli.evaluate.will", model=model, corpus=corpus, split=split)
    report = score(model, corpus, split=split, tell=console.tell, samples=samples, reader=reader)
    console.answer(page(report), report.to_dict())
    console.tell("cli.evaluate.done", model=model)


def signed(difference: float) -> str:
    """Give a difference with four places, or a smaller one by its power of ten; what rounding alone makes is none."""
    if abs(difference) < ROUNDING:
        return f"{0.0:+.4f}"
    return f"{difference:+.4f}" if abs(difference) >= 5e-5 else f"{difference:+.0e}"


def page(report: Any) -> str:
    """Set a report as text: its figures beside the rivals', the paired differences in the first figure, and what follows from them."""
    from zhixing.evaluation.report import DOUBTED

    blocks = [table(report.table())]
    if any(each.name.startswith("answered_") for each in report.figures):
        blocks.append(text("verdict.thresholds"))
    if written := report.details.get("samples"):
        blocks.append(text("verdict.samples", **written))
    if report.comparisons:
        heads = tuple(text(f"verdict.head.{name}") for name in ("rival", "difference", "ends", "p"))
        rows = [
            (name, signed(gap["value"]), "" if gap["low"] is None else f"{signed(gap['low'])} .. {signed(gap['high'])}", gap["p"])
            for name, gap in report.comparisons.items()
        ]
        blocks.append(table([heads, *rows]))
    known = report.verdict if report.verdict in ("model", "tie", *DOUBTED) else "rival"
    values = {"split": report.split, "examples": report.examples, "units": report.details.get("units", report.examples)}
    overlap = report.details.get("overlap", 0)
    blocks.append(text(f"verdict.{known}", figure=report.figures[0].name, rival=report.verdict, overlap=overlap, **values))
    if overlap is None:
        blocks.append(text("verdict.withheld" if report.details.get("withheld") else "verdict.unchecked"))
    return "\n\n".join(blocks)
