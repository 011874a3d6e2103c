"""`zhixing results`: one table of all that was evaluated below a folder."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def results(folder: Path, /, *, out: Path | None = None, force: bool = False, json: bool = False) -> None:
    """Gather the saved reports of all Model folders below a folder."""
    from zhixing.core.errors import UsageError
    from zhixing.core.files import write_text
    from zhixing.studies.results import as_dict, as_text, gather

    console = Console(json)
    if out is not None and out.exists() and not force:
        raise UsageError("output.exists", path=str(out))
    console.tell("cli.results.will", folder=folder)
    rows = gather([folder])
    words = as_text(rows)
    if out is not None:
        write_text(out, words + "\n")
    console.answer(words, as_dict(rows))
    console.tell("cli.results.done", rows=len(rows))
