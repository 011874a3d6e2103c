"""The splits of a corpus while they are written: one compressed file each, counted as it grows."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.files import atomic
from zhixing.data.schema import Schema

LEVEL = 3


@dataclass
class Written:
    """One split while it is written."""

    handle: Any
    schema: Schema
    examples: int = 0
    bytes: int = 0
    characters: int = 0
    labels: Counter[str] = field(default_factory=Counter)

    def write(self, example: dict[str, Any]) -> None:
        self.handle.write(json.dumps(example, ensure_ascii=False).encode("utf-8") + b"\n")
        self.examples += 1
        for text in self.schema.texts(example):
            self.bytes += len(text.encode("utf-8"))
            self.characters += len(text)
        if "label" in example and "items" not in example:  # what may come next is every item, not a few labels
            self.labels[example["label"]] += 1


def open_split(files: contextlib.ExitStack, path: Path) -> Any:
    import zstandard

    handle = files.enter_context(atomic(path))
    return files.enter_context(zstandard.ZstdCompressor(level=LEVEL).stream_writer(handle, closefd=False))
