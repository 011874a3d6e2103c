"""The words of zhixing in English and Chinese, looked up by code; both catalogues have equal keys and placeholders (tested)."""

from __future__ import annotations

import functools
import locale
import os
import tomllib
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "zh")


def language() -> str:
    """Say which language to speak: `ZHIXING_LANG`, else the locale's, else English."""
    chosen = os.environ.get("ZHIXING_LANG", "").lower()[:2]
    if chosen in LANGUAGES:
        return chosen
    name = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or (locale.getlocale()[0] or "")
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


@functools.cache
def catalogue(name: str) -> dict[str, str]:
    """Read one language's catalogue as {dotted code: text}."""
    with open(Path(__file__).with_name(f"{name}.toml"), "rb") as handle:
        tree = tomllib.load(handle)
    flat: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend((f"{prefix}.{key}" if prefix else key, inner) for key, inner in value.items())
        else:
            flat[prefix] = value
    return flat


def text(code: str, in_language: str | None = None, /, **values: Any) -> str:
    """Give the text of a code with its placeholders filled; raises KeyError for a code or value that is not there."""
    return catalogue(in_language or language())[code].format(**values)
