"""`zhixing chat`: a talk with a model of language, line by line, the talk so far before it each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from zhixing.cli.console import Console
from zhixing.core.errors import DataError, UsageError


def chat(
    model: Path,
    /,
    *,
    system: str | None = None,
    max_tokens: int = 200,
    temperature: float = 0.7,
    top_p: float | None = 0.95,
    seed: int = 0,
    json: bool = False,
) -> None:
    """Answer each line of stdin."""
    from zhixing.decoding.asking import Sampling
    from zhixing.decoding.generate import stream
    from zhixing.tasks.artefact import load
    from zhixing.tokens.chat import ids

    sampling = Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    console = Console(json)
    opened = load(model)
    if opened.task.name != "language":
        raise UsageError("usage.not_language", path=str(model), task=opened.task.name)
    console.tell("cli.chat.will", model=model, tokens=max_tokens)
    if not opened.tokenizer.templated:
        console.tell("cli.chat.plain")
    head = [{"role": "system", "content": system}] if system else []
    talk: list[dict[str, str]] = []
    window = getattr(opened.model, "window", None)
    for lane, line in enumerate(_lines()):
        said = line.strip()
        if not said:
            break
        talk.append({"role": "user", "content": said})
        read, left = ids(opened.tokenizer, [*head, *talk]), 0
        # The oldest question and its answer go first; the newest question always stays.
        while window and len(read) + max_tokens > window and len(talk) > 2:
            talk, left = talk[2:], left + 2
            read = ids(opened.tokenizer, [*head, *talk])
        if left:
            console.tell("cli.chat.full", count=left)
        pieces, forgotten = [], 0
        for event in stream(opened.model, opened.tokenizer, read, sampling, lane):
            pieces.append(event.text)
            forgotten = event.forgotten
            if not json:
                console.write(event.text)
        talk.append({"role": "assistant", "content": "".join(pieces)})
        if json:
            console.answer("", {"message": said, "answer": "".join(pieces), "forgotten": forgotten})
        else:
            console.write("\n")
        if forgotten:
            console.tell("cli.generate.forgotten", tokens=forgotten, window=window)


def _lines() -> Iterator[str]:
    """Read stdin line by line; raises DataError where it is no UTF-8, which Python may let through as lone surrogates."""
    try:
        for line in sys.stdin:
            line.encode()
            yield line
    except UnicodeError as problem:
        raise DataError("file.not_utf8", path="-", position=problem.start) from None
