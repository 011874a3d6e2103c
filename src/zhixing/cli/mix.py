"""`zhixing mix`: trained language models and an n-gram of the same corpus become one Model folder that weighs them."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def mix(corpus: Path, out: Path, models: list[Path], /, *, order: int | None = None, force: bool = False, json: bool = False) -> None:
    """Mix models without training any of them again."""
    from zhixing.training.train import mix_trained

    console = Console(json)
    console.tell("cli.mix.will", models=", ".join(map(str, models)), corpus=corpus, out=out)
    folder = mix_trained(corpus, models, out, order=order or 0, tell=console.tell, force=force)
    chosen = folder.card["chosen"]
    shares = ", ".join(f"{known}: {row[-1]:.2f}" for known, row in enumerate(chosen["weights"]))
    console.tell("cli.mix.found", nats=chosen["validation_nats"], order=chosen["order"], shares=shares)
    console.answer(str(folder.path), {"path": str(folder.path), "card": folder.card})
    console.tell("cli.mix.done", out=folder.path, corpus=corpus)
