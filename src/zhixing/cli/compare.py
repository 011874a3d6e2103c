"""`zhixing compare`: several models on one corpus under one budget; a table and a plot."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def compare(
    corpus: Path,
    out: Path,
    /,
    *,
    core_seconds: float = 60.0,
    models: str | None = None,
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    size: str | None = None,
    seed: int | None = None,
    threads: int | None = None,
    priors: bool = False,
    force: bool = False,
    json: bool = False,
) -> None:
    """Train the rungs of the ladder under one budget of core-seconds each, and compare them."""
    named = {"tokenizer": tokenizer, "vocabulary": vocabulary, "size": size, "seed": seed, "threads": threads}
    settings = {name: value for name, value in named.items() if value is not None}
    from zhixing.core.files import read_json
    from zhixing.core.stop import Stop
    from zhixing.studies.ladder import RUNGS
    from zhixing.studies.ladder import compare as climb

    rungs = RUNGS if models is None else tuple(name.strip() for name in models.split(",") if name.strip())
    console = Console(json)
    console.tell("cli.compare.will", corpus=corpus, out=out, models=", ".join(rungs), seconds=core_seconds)
    folder = climb(corpus, out, core_seconds, rungs, settings, priors=priors, tell=console.tell, force=force, stop=Stop().install())
    words = (folder.path / "table.md").read_text(encoding="utf-8").rstrip()
    console.answer(words, {"path": str(folder.path), **read_json(folder.path / "table.json")})
    console.tell("cli.compare.done", out=folder.path)
