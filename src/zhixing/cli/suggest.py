"""`zhixing suggest`: the rows that are most worth labelling next."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console
from zhixing.core.errors import DataError


def suggest(
    model: Path,
    source: str,
    out: Path,
    /,
    *,
    count: int = 50,
    seed: int = 0,
    text: str | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Choose rows of a file."""
    from zhixing.evaluation.suggest import suggest as choose

    console = Console(json)
    console.tell("cli.suggest.will", model=model, source=source, count=count)
    how = {"seed": seed, "text": text, "columns": columns, "encoding": encoding}
    counts = choose(model, source, out, count, **how, tell=console.tell, force=force)
    if counts["rows"] and counts["problems"] == counts["rows"]:
        raise DataError("predict.no_row", rows=counts["rows"], path=str(out))
    console.answer(str(out), {"path": str(out), **counts})
    console.tell("cli.suggest.done", out=out, **counts)
