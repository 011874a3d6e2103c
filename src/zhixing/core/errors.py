"""The errors of zhixing: one tree, each with a code, three parts in two languages, an exit code and an HTTP status.

An error holds its code and its values; the words are looked up when it is shown (`messages/en.toml`, `messages/zh.toml`, table
`[error.<code>]` with `what`, `expected` and `do`), so that the same error reads in the language of whoever sees it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from zhixing.core import messages


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Name the known word that is most like a given one, or None when none is near."""
    known = {str(each).lower(): str(each) for each in names}
    found = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None


class ZhixingError(Exception):
    """An error that says what is wrong, what was expected and what to do.

    code    str   the message table is [error.<code>]
    values        fill the placeholders; `name` together with `among` (the known names) also makes `{hint}`, the nearest name; `reason`,
                  the code of why a row is bad, is told in words too ([reason]); `at`, a place such as file and line, stands before all
    """

    exit_code = 1
    http_status = 500

    def __init__(self, code: str, /, **values: Any) -> None:
        self.code = code
        self.values = values
        super().__init__(code, values)

    def parts(self, language: str | None = None) -> dict[str, str]:
        """Give the three parts: {"what": ..., "expected": ..., "do": ...}."""
        values = dict(self.values)
        if "among" in values:
            among = values["among"].split(", ") if isinstance(values["among"], str) else list(values["among"])
            near = nearest(str(values.get("name", "")), among)
            values["hint"] = messages.text("word.nearest", language, name=near) if near else ""
            values["among"] = ", ".join(str(each) for each in among)
        values.setdefault("hint", "")
        if f"reason.{values.get('reason')}" in messages.catalogue("en"):
            told = messages.text(f"reason.{values['reason']}", language)
            values["reason"] = messages.text("word.reason", language, words=told, code=values["reason"])
        found = {part: messages.text(f"error.{self.code}.{part}", language, **values).strip() for part in ("what", "expected", "do")}
        return found | {"what": f"{self.values['at']}: {found['what']}"} if "at" in self.values else found

    def text(self, language: str | None = None) -> str:
        """Give the whole message as one paragraph."""
        return " ".join(part for part in self.parts(language).values() if part)

    def as_dict(self, language: str | None = None) -> dict[str, Any]:
        """Give the error for machines: its code, its exit code and its three parts."""
        return {"code": self.code, "exit_code": self.exit_code, **self.parts(language)}

    def __str__(self) -> str:
        return self.text()


class UsageError(ZhixingError):
    """What the user asked for cannot be: a word, a flag, a value, an existing output."""

    exit_code = 2
    http_status = 400


class DataError(ZhixingError):
    """What the user brought cannot be used: a file, a row, a corpus, a model folder."""

    exit_code = 3
    http_status = 422


class RunError(ZhixingError):
    """The run itself failed: a full disk, numbers that are not finite, shapes that do not fit."""

    exit_code = 1
    http_status = 500


class ShapeError(RunError):
    """A model was given something larger than, or shaped other than, what it was built for."""

    http_status = 400
