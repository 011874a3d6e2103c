"""A prepared corpus, opened and verified: its examples split by split, and what its card says of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json
from zhixing.core.folder import open_folder
from zhixing.data.schema import Schema
from zhixing.data.splits import SPLITS


@dataclass(frozen=True)
class Corpus:
    """A Corpus folder. counts: examples by split."""

    path: Path
    card: dict[str, Any]
    task: str
    schema: Schema
    counts: dict[str, int]

    def file(self, split: str) -> Path:
        """Give the file of a split; raises UsageError for a split that there is not and DataError for one without examples."""
        if split not in SPLITS:
            raise UsageError("data.split", name=split, among=list(SPLITS))
        if not self.counts.get(split):
            raise DataError("data.empty_split", path=str(self.path), split=split)
        return self.path / f"{split}.jsonl.zst"

    def examples(self, split: str) -> Iterator[dict[str, Any]]:
        """Yield a split's examples, {"text": ...} or {"text": ..., "label": ...}, in their order."""
        return _stream(self.file(split))

    def size_bytes(self, split: str) -> int:
        """Give the UTF-8 bytes of a split's texts: the denominator of bits per byte."""
        self.file(split)
        return int(self.card["splits"][split]["bytes"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Give the labels of the training split, sorted; none for a language corpus."""
        return tuple(sorted(self.card.get("labels", {})))


def _stream(path: Path) -> Iterator[dict[str, Any]]:
    import zstandard

    with open(path, "rb") as handle, zstandard.ZstdDecompressor().stream_reader(handle) as reader:
        for line in io.TextIOWrapper(reader, encoding="utf-8", newline="\n"):
            yield json.loads(line)


def open_corpus(path: str | Path) -> Corpus:
    """Open a Corpus folder, every byte of it verified."""
    folder = open_folder(path, "corpus")
    card = folder.card
    counts = {split: int(card["splits"][split]["examples"]) for split in SPLITS}
    return Corpus(folder.path, card, card["task"], Schema.from_dict(read_json(folder.path / "schema.json")), counts)
