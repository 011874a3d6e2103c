"""A run's diary: one JSON object a line, appended and flushed; and the silent teller."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from zhixing.core.files import write_text


def quiet(code: str, /, **values: Any) -> None:
    """Tell nothing: the default for every `tell`."""


class RunLog:
    """`run.jsonl`: what happened, step by step.

    step  on opening, lines of later steps are cut away: they will happen again, so that the diary tells each step once
    """

    def __init__(self, path: str | Path, step: int | None = None) -> None:
        self.path = Path(path)
        kept: list[str] = []
        if step is not None and self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a line that a kill cut in half
                if entry.get("step", 0) <= step:
                    kept.append(line)
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._handle = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, **entry: Any) -> None:
        """Append one entry."""
        self._handle.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._handle.flush()

    def close(self) -> None:
        """Make the diary durable and close it."""
        if not self._handle.closed:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
