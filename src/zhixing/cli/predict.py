"""`zhixing predict`: rows in, the same rows out with answer, confidence and abstention."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console
from zhixing.core.errors import DataError


def predict(
    model: Path,
    source: str,
    out: Path,
    /,
    *,
    text: str | None = None,
    columns: str | None = None,
    precision: float | None = None,
    encoding: str | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Answer every row of a file; an interrupted run continues where it stopped."""
    from zhixing.core.stop import Stop
    from zhixing.evaluation.predict import predict_rows

    console = Console(json)
    console.tell("cli.predict.will", model=model, source=source, out=out)
    stop = Stop().install()
    how = {"text": text, "columns": columns, "precision": precision, "encoding": encoding}
    counts = predict_rows(model, source, out, **how, tell=console.tell, force=force, stop=stop)
    if counts["rows"] and counts["problems"] == counts["rows"]:
        raise DataError("predict.no_row", rows=counts["rows"], path=str(out))
    console.answer(str(out), {"path": str(out), **counts})
    console.tell("cli.predict.done", out=out, **counts)
