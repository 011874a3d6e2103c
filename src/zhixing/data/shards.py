"""A split as one run of token ids on disk, `[end] document [end] document ... [end]`, mapped into memory.

Shards are made once for each tokenizer, in the corpus's `cache/` (outside its manifest, safe to delete), and verified whenever they are
opened again: one that is damaged, or of other text, is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zhixing.core.errors import DataError
from zhixing.core.files import atomic, read_json, sha256, write_json
from zhixing.core.log import quiet

if TYPE_CHECKING:
    from zhixing.core.stop import Stop
    from zhixing.data.corpus import Corpus

GROUP_CHARACTERS = 1 << 20  # characters encoded at a time


class Encoder(Protocol):
    """What shards ask of a tokenizer; tokenizers live in `tokens/`, which this folder does not see."""

    hash: str
    vocabulary_size: int
    end_id: int

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Return one (N,) int array of token ids a text."""


@dataclass(frozen=True)
class Shard:
    """tokens: (N,) uint16 or uint32, begins and ends with the end token; size_bytes: UTF-8 bytes of the texts."""

    tokens: np.ndarray
    size_bytes: int
    documents: int


def shard(corpus: Corpus, tokenizer: Encoder, split: str, tell: Callable[..., None] = quiet, stop: Stop | None = None) -> Shard:
    """Give a split's tokens, from the cache when it holds them."""
    text = corpus.file(split)
    folder = corpus.path / "cache" / tokenizer.hash[:16]
    path, note = folder / f"{split}.tokens", folder / f"{split}.json"
    source = sha256(text)
    if note.exists():
        entry = _verified(path, note, source, tokenizer)
        if entry is not None:
            return _open(path, entry)
        tell("data.cache_damaged", path=str(path))
    folder.mkdir(parents=True, exist_ok=True)
    form = np.dtype("<u2" if tokenizer.vocabulary_size <= 1 << 16 else "<u4")
    digest = hashlib.sha256()
    documents = size_bytes = tokens = 0
    end = np.array([tokenizer.end_id], dtype=form)
    total = corpus.counts[split]
    with atomic(path) as handle:
        for group in _groups(corpus, split):
            if stop is not None:
                stop.check()
            parts = [end] if not documents else []
            for ids in tokenizer.encode_batch(group):
                parts += [ids, end]
            block = np.concatenate(parts, dtype=form, casting="unsafe")  # the form holds every id of the vocabulary
            raw = block.tobytes()
            digest.update(raw)
            handle.write(raw)
            tokens += len(block)
            documents += len(group)
            size_bytes += sum(len(each) if each.isascii() else len(each.encode("utf-8")) for each in group)
            tell("data.shard", split=split, documents=documents, total=total, tokens=tokens)
    if documents != total or size_bytes != corpus.size_bytes(split):
        path.unlink()
        raise DataError("data.corpus_differs", path=str(corpus.path), split=split)
    entry = {
        "tokenizer": tokenizer.hash,
        "source": source,
        "dtype": form.str,
        "tokens": tokens,
        "documents": documents,
        "size_bytes": size_bytes,
        "sha256": digest.hexdigest(),
    }
    write_json(note, entry)
    return _open(path, entry)


def _groups(corpus: Corpus, split: str) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for example in corpus.examples(split):
        group.append(example["text"])
        size += len(example["text"])
        if size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _verified(path: Path, note: Path, source: str, tokenizer: Encoder) -> dict[str, Any] | None:
    """Read a cache's note if its tokens are whole and of this text and tokenizer, else None."""
    try:
        entry = read_json(note)
        same = entry["source"] == source and entry["tokenizer"] == tokenizer.hash
        return entry if same and path.is_file() and sha256(path) == entry["sha256"] else None
    except (DataError, KeyError, TypeError):
        return None


def _open(path: Path, entry: dict[str, Any]) -> Shard:
    tokens = np.memmap(path, dtype=np.dtype(entry["dtype"]), mode="r", shape=(entry["tokens"],))
    return Shard(tokens, entry["size_bytes"], entry["documents"])
