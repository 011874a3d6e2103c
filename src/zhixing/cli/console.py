"""The console: answers go to stdout, the story to stderr, one line an event.

A code that ends in `.progress` is drawn over itself on a terminal, and told at most every ten seconds elsewhere.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from zhixing.core.messages import text

PROGRESS_SECONDS = 10.0  # between two lines of progress where lines cannot be redrawn
REDRAW_SECONDS = 0.1
RULE = 40  # columns of the line under a head, at most


class Console:
    """Where a verb speaks.

    as_json  the answer is one JSON value instead of text
    clock    () -> seconds; for the pace of progress
    """

    def __init__(
        self, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._clock = clock
        self._terminal = self._err.isatty()
        self._told: dict[str, float] = {}
        self._drawn = False

    def tell(self, code: str, /, **values: Any) -> None:
        """Tell one line of the story: the text `story.<code>` with its values."""
        line = text(f"story.{code}", **values)
        if code.endswith(".progress"):
            self._progress(code, line)
            return
        self.end()
        self._told.clear()
        print(line, file=self._err, flush=True)

    def _progress(self, code: str, line: str) -> None:
        now = self._clock()
        if now - self._told.get(code, float("-inf")) < (REDRAW_SECONDS if self._terminal else PROGRESS_SECONDS):
            return
        self._told[code] = now
        if self._terminal:
            self._err.write("\r" + fit(line, shutil.get_terminal_size().columns - 1) + "\x1b[K")
            self._err.flush()
            self._drawn = True
        else:
            print(line, file=self._err, flush=True)

    def end(self) -> None:
        """End a line of progress that is still being drawn."""
        if self._drawn:
            print(file=self._err, flush=True)
            self._drawn = False

    def answer(self, words: str, value: Any) -> None:
        """Give the verb's answer: text for people, or with --json the value for machines."""
        self.end()
        if self.as_json:
            words = json.dumps(value, ensure_ascii=False, allow_nan=False)
        print(words, file=self._out, flush=True)

    def write(self, piece: str) -> None:
        """Write a piece of an answer that is still being made."""
        self.end()
        self._out.write(piece)
        self._out.flush()


def fit(line: str, width: int) -> str:
    """Cut a line to the columns it may fill; a Chinese character fills two."""
    from rich.cells import cell_len, set_cell_size

    return line if cell_len(line) <= width else set_cell_size(line, max(0, width))


def table(rows: Sequence[Sequence[object]]) -> str:
    """Set rows in columns, the first row as the head; columns of numbers lean right.

    Widths are counted in terminal columns, so Chinese and English line up.
    """
    from rich.cells import cell_len

    cells = [[show(value) for value in row] for row in rows]
    widths = [max(cell_len(row[column]) for row in cells) for column in range(len(cells[0]))]
    right = [len(rows) > 1 and all(isinstance(row[column], (int, float, type(None))) for row in rows[1:]) for column in range(len(widths))]
    lines = []
    for row in cells:
        padded = []
        for value, width, leaning in zip(row, widths, right, strict=True):
            space = " " * (width - cell_len(value))
            padded.append(space + value if leaning else value + space)
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * min(width, RULE) for width in widths))
    return "\n".join(lines)


def flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Spread nested tables into (dotted name, value) rows."""
    if isinstance(value, dict) and value:
        return [row for key, inner in value.items() for row in flatten(inner, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        return [row for place, inner in enumerate(value) for row in flatten(inner, f"{name}.{place}")]
    if isinstance(value, list):
        shown = ", ".join(str(each) for each in value[:8])
        return [(name, f"{shown}, ... ({len(value)})" if len(value) > 8 else shown)]
    return [(name, "-" if value is None or value == {} else value)]


def show(value: object) -> str:
    """Write one value for people: four significant digits, thousands apart, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
