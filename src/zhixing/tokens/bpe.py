"""Byte-level BPE: pairs of pieces merged in the order in which they were most frequent in training; Chinese is bounded by words only then.

Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes, Radford et al. 2019 (GPT-2). The library trains it and encodes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.layout import FIRST_BYTE, FIRST_PIECE, SPECIALS, SPLIT, Parts, bounded, check, line_end, merging, run, write


def alphabet() -> list[str]:
    """Give the letter by which byte-level BPE writes each byte. Source: GPT-2's bytes_to_unicode."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    odd = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(odd)) for byte in range(256)]


class BPE:
    """The coder of a byte-level BPE.

    pieces  the bytes of each token from FIRST_PIECE on
    """

    portable = True

    def __init__(self, parts: Parts) -> None:
        byte = {ord(letter): number for number, letter in enumerate(alphabet())}
        names = parts.names[FIRST_PIECE:]
        if odd := [letter for letter in set("".join(names)) if ord(letter) not in byte]:
            raise KeyError(odd[0])
        self.pieces = [name.translate(byte).encode("latin-1") for name in names]
        self._library = parts.library()

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: where the split cuts it too."""
        return line_end(text, start, end)

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into (N,) int32 ids."""
        return run(self._library, [text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return run(self._library, list(texts))


def train(texts: Iterable[str], size: int, tell: Callable[..., None]) -> bytes:
    """Make the `tokenizer.json` of a byte-level BPE; see `train_bpe`."""
    if size < FIRST_PIECE:
        raise UsageError("tokens.size", size=size, least=FIRST_PIECE)
    library = Library(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), level])
    library.decoder = decoders.ByteLevel()
    letters = alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - FIRST_BYTE, initial_alphabet=letters, show_progress=False)
    seen = False

    def pieces() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            check(text)
            seen = seen or bool(text)
            yield from bounded(text)

    library.train_from_iterator(pieces(), trainer)
    if not seen:
        raise DataError("tokens.no_text")
    value: dict[str, Any] = json.loads(library.to_str())
    merges = [list(pair) for pair in value["model"]["merges"]]
    names = [*SPECIALS, *letters, *dict.fromkeys(first + second for first, second in merges)]
    tell("tokens.bpe", size=len(names), wanted=size)
    vocabulary = {name: id for id, name in enumerate(names)}
    return write(merging(vocabulary, merges, False), value["pre_tokenizer"], value["decoder"])
