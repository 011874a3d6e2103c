"""`zhixing prepare`: your files become a Corpus folder."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def prepare(
    source: str,
    out: Path,
    /,
    *,
    task: str | None = None,
    text: str | None = None,
    label: str | None = None,
    unit: str | None = None,
    split: str | None = None,
    validation: float | None = None,
    test: float | None = None,
    validation_source: str | None = None,
    test_source: str | None = None,
    seed: int | None = None,
    repeats: str | None = None,
    drop_bad: bool = False,
    encoding: str | None = None,
    form: str | None = None,
    columns: str | None = None,
    also: str | None = None,
    without: str | None = None,
    force: bool = False,
    json: bool = False,
) -> None:
    """Read files, account for every row, split, and write a Corpus folder."""
    given = {name: value for name, value in locals().items() if value is not None}
    settings = {name: value for name, value in given.items() if name not in ("source", "out", "force", "json")}
    from zhixing.core.stop import Stop
    from zhixing.preparation.prepare import Prepare
    from zhixing.preparation.prepare import prepare as make

    console = Console(json)
    console.tell("cli.prepare.will", source=source, out=out)
    folder = make(source, out, Prepare(**settings), tell=console.tell, force=force, stop=Stop().install())
    console.answer(str(folder.path), {"path": str(folder.path), "card": folder.card})
    console.tell("cli.prepare.done", out=folder.path)
