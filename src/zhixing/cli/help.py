"""Help texts: a verb's signature says which words and flags there are, the catalogue `[help.<verb>]` says what they mean.

Plain text in both languages, the same on every terminal; nothing is imported but the verb's own light file.
"""

from __future__ import annotations

import inspect
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from zhixing.core.messages import text

KINDS = {int: "int", float: "float", Path: "path", str: "text"}


def flag(name: str) -> str:
    """Spell a parameter as the user writes it."""
    return "--" + name.replace("_", "-")


def kind(annotation: object) -> str | None:
    """Name what a flag wants after it, or None for a switch."""
    options = [each for each in typing.get_args(annotation) if each is not types.NoneType]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return kind(options[0])
    if typing.get_origin(annotation) is list:
        return f"{kind(options[0])} ..."
    return None if annotation is bool else text(f"help.kind.{KINDS[annotation]}")


def columns(words: str) -> int:
    """Count the terminal columns that words fill; a Chinese character fills two."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in words)


def _rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    rows = list(rows)
    width = max(columns(left) for left, _ in rows)
    for left, right in rows:
        yield f"  {left}{' ' * (width - columns(left))}  {right}"


def overview(verbs: Iterable[str]) -> str:
    """Explain the program: its verbs in the order of the pipeline, and the first commands to try."""
    lines = [text("help.zhixing.usage"), "", text("help.zhixing.what"), ""]
    lines += _rows((verb, text(f"help.{verb}.what")) for verb in verbs)
    lines += ["", text("help.zhixing.more"), "", text("help.zhixing.example")]
    return "\n".join(lines)


def verb(name: str, function: Callable[..., object]) -> str:
    """Explain one verb: what it does, its words, its flags, an example."""
    words, flags = [], []
    for each in inspect.signature(function, eval_str=True).parameters.values():
        meaning = text(f"help.{name}.{each.name}")
        if each.kind is each.POSITIONAL_ONLY:
            words.append((each.name.upper(), meaning))
            continue
        if each.default is not None and each.default is not False:
            meaning += text("help.zhixing.default", value=each.default)
        wanted = kind(each.annotation)
        flags.append((flag(each.name) + (f" {wanted}" if wanted else ""), meaning))
    lines = [f"zhixing {name} {' '.join(word for word, _ in words)} [--flags]", "", text(f"help.{name}.what"), ""]
    lines += [*_rows(words), "", *_rows(flags), "", text(f"help.{name}.example")]
    return "\n".join(lines)
