"""`zhixing nearest`: the words that a model of words puts nearest to a word, or to a sum and difference of words."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console, table
from zhixing.core.errors import UsageError
from zhixing.core.messages import text


def nearest(model: Path, words: list[str], /, *, count: int = 10, json: bool = False) -> None:
    """Answer each word or expression with its nearest words and their cosines."""
    if count < 1:
        raise UsageError("usage.count", value=count)
    from zhixing.tasks.artefact import load

    console = Console(json)
    console.tell("cli.nearest.will", model=model, words=len(words))
    opened = load(model)
    answers = [{"expression": each, "nearest": opened.nearest(each, count)} for each in words]
    heads = (text("nearest.word"), text("nearest.cosine"))
    blocks = [each["expression"] + "\n" + table([heads, *each["nearest"]]) for each in answers]
    value = [{**each, "nearest": [{"word": word, "cosine": cosine} for word, cosine in each["nearest"]]} for each in answers]
    console.answer("\n\n".join(blocks), value)
    console.tell("cli.nearest.done", model=model)
