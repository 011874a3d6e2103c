"""`zhixing generate`: a Model folder writes; text comes out as it is made."""

from __future__ import annotations

import sys
from pathlib import Path

from zhixing.cli.console import Console
from zhixing.core.errors import DataError, UsageError


def generate(
    model: Path,
    /,
    *,
    prompt: list[str] | None = None,
    prompts: str | None = None,
    max_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: list[str] | None = None,
    count: int = 1,
    json: bool = False,
) -> None:
    """Continue each prompt `count` times and write the text to stdout."""
    if count < 1:
        raise UsageError("usage.count", value=count)
    starts = [each for each in gather(prompt, prompts) for _ in range(count)]
    from zhixing.decoding.asking import Sampling
    from zhixing.decoding.generate import stream
    from zhixing.tasks.artefact import load

    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        max_tokens=max_tokens,
        stop=tuple(stop or ()),
        seed=seed,
    )
    console = Console(json)
    console.tell("cli.generate.will", model=model, prompts=len(starts), tokens=max_tokens)
    opened = load(model)
    if opened.task.name != "language":
        raise UsageError("usage.not_language", path=str(model), task=opened.task.name)
    made = []
    show = (lambda piece: None) if json else console.write
    for lane, start in enumerate(starts):
        show(start)
        events = []
        for event in stream(opened.model, opened.tokenizer, start, sampling, lane):
            show(event.text)
            events.append(event)
        show("\n")
        if events[-1].forgotten:
            console.tell("cli.generate.forgotten", tokens=events[-1].forgotten, window=opened.model.window)
        text = "".join(event.text for event in events)
        made.append({"prompt": start, "text": text, "finish_reason": events[-1].finished, "tokens": len(events)})
    if json:
        console.answer("", made)
    console.tell("cli.generate.done", model=model)


def gather(prompt: list[str] | None, source: str | None) -> list[str]:
    """Collect the prompts: those given as flags, then a file's lines ('-' is stdin); one empty prompt when there are none."""
    found = list(prompt or [])
    if source is not None:
        try:
            words = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
            words.encode()
        except (FileNotFoundError, IsADirectoryError):
            raise DataError("file.missing", path=source) from None
        except UnicodeError as error:  # of stdin Python may let other bytes through as lone surrogates
            raise DataError("file.not_utf8", path=source, position=error.start) from None
        found += [line for line in words.splitlines() if line]
        if not found:
            raise DataError("file.no_prompts", path=source)
    return found or [""]
