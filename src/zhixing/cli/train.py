"""`zhixing train`: a Corpus folder becomes a Model folder."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console, flatten, table
from zhixing.core.errors import UsageError
from zhixing.core.messages import text

OURS = ("corpus", "out", "recipe", "best", "dry_run", "force", "json")  # the rest are settings of the training


def train(
    corpus: Path,
    out: Path,
    /,
    *,
    model: str | None = None,
    size: str | None = None,
    tokenizer: str | None = None,
    vocabulary: int | None = None,
    dictionary: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    core_seconds: float | None = None,
    batch: int | None = None,
    window: int | None = None,
    learning_rate: float | None = None,
    dropout: float | None = None,
    weight_decay: float | None = None,
    prior: str | None = None,
    prior_strength: float | None = None,
    checker: str | None = None,
    rollouts: int | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    start: str | None = None,
    lora: int | None = None,
    lora_alpha: float | None = None,
    lora_base: str | None = None,
    extend_vocabulary: int | None = None,
    teacher: str | None = None,
    seed: int | None = None,
    accumulate: int | None = None,
    precision: str | None = None,
    threads: int | None = None,
    classes: int | None = None,
    order: int | None = None,
    strength: float | None = None,
    recipe: str | None = None,
    best: bool = False,
    dry_run: bool = False,
    force: bool = False,
    json: bool = False,
) -> None:
    """Fit a model to a corpus; only what was given on the command line is passed on."""
    given = {name: value for name, value in locals().items() if value is not None}
    settings = {name: value for name, value in given.items() if name not in OURS}
    if best and minutes is None:
        raise UsageError("usage.best_minutes")
    for name, wanted in (("recipe", recipe is not None), ("start", start is not None), ("dry-run", dry_run)):
        if best and wanted:
            raise UsageError("best.setting", name=name)
    console = Console(json)
    if dry_run:
        preview(console, corpus, settings, recipe)
        return
    from zhixing.core.stop import Stop

    stop = Stop().install()
    if best:
        from zhixing.studies.best import best as fit

        console.tell("cli.train.will_best", corpus=corpus, out=out, minutes=minutes)
        del settings["minutes"]
        folder = fit(corpus, out, minutes, settings, tell=console.tell, force=force, stop=stop)
    else:
        from zhixing.training.train import train as fit

        console.tell("cli.train.will", corpus=corpus, out=out)
        folder = fit(corpus, out, settings, tell=console.tell, force=force, stop=stop, recipe=recipe)
    console.answer(str(folder.path), {"path": str(folder.path), "card": folder.card})
    console.tell("cli.train.done", out=folder.path, corpus=corpus)


def preview(console: Console, corpus: Path, settings: dict[str, object], recipe: str | None) -> None:
    """Show what a training would do, what each setting is and where it came from; train nothing."""
    from zhixing.training.train import plan

    console.tell("cli.train.dry", corpus=corpus)
    planned = plan(corpus, settings, recipe, tell=console.tell)
    heads = (text("dry.setting"), text("dry.value"), text("dry.origin"))
    rows = [(name, each["value"], each["origin"]) for name, each in planned["settings"].items()]
    facts = [(name, value) for name, value in flatten({name: value for name, value in planned.items() if name != "settings"})]
    console.answer(table([heads, *rows]) + "\n\n" + table([(text("dry.estimate"), heads[1]), *facts]), planned)
    console.tell("cli.train.dry_done")
