"""Tokenizers that other programs made: byte-level BPE, pieces with or without byte tokens, WordPiece; the library encodes.

Their control tokens stand anywhere, so what is where is written beside them when they are imported: the entry ABOUT of
`tokenizer_config.json`. As with our own, what a user types is only ever text. Leaves out: making such files (`importing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zhixing.tokens.bpe import alphabet
from zhixing.tokens.layout import BYTES, Parts, line_end, run

ABOUT = "zhixing"
SPACE = "\u2581"  # how pieces write a space


def holds(value: Any, sort: str) -> bool:
    """Say whether a part of a tokenizer.json is of a sort, or any part within it."""
    if isinstance(value, dict):
        return value.get("type") == sort or any(holds(each, sort) for each in value.values())
    return isinstance(value, list) and any(holds(each, sort) for each in value)


def names_of(value: dict[str, Any]) -> dict[int, str]:
    """Give every token's name by its id: those of the model and those that were added. Raises ValueError where two share an id."""
    vocabulary = value["model"]["vocab"]
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else [(name, place) for place, (name, _) in enumerate(vocabulary)]
    found: dict[int, str] = {}
    for name, place in [*pairs, *((each["content"], each["id"]) for each in value.get("added_tokens") or ())]:
        if type(place) is not int or place < 0 or found.setdefault(place, name) != name:
            raise ValueError(f"'{name}' has the id {place}, which another has too, or none")
    return found


class Imported:
    """The coder of such a tokenizer.

    size      int, tokens        of the model's vocabulary; ids beyond the tokenizer's have no name
    pieces    the bytes of each token; none of a control token or one without a name
    controls  {id: name}         of tokens that are no text
    nameless  ids that stand for nothing
    byte_ids  the token of each byte; None: not every byte has one
    leading   whether a text's first token brings a space that the text has not
    """

    portable = True

    def __init__(self, parts: Parts, size: int) -> None:
        value = parts.value
        names = names_of(value)
        if max(names) >= size:
            raise ValueError(f"its ids go up to {max(names)}, and the model has {size} tokens")
        added = {each["id"]: each for each in value.get("added_tokens") or ()}
        self.controls = {place: each["content"] for place, each in sorted(added.items()) if each.get("special")}
        self.nameless = tuple(sorted(set(range(size)) - set(names)))
        kind = value["model"]["type"]
        levelled = holds([value.get("pre_tokenizer"), value.get("decoder")], "ByteLevel")
        self.leading = kind == "WordPiece" or (not levelled and holds([value.get("normalizer"), value.get("pre_tokenizer")], "Metaspace"))
        self.leading |= not levelled and holds(value.get("normalizer"), "Prepend")
        ids = {name: place for place, name in names.items() if place not in added}
        if levelled:
            letters = {ord(letter): byte for byte, letter in enumerate(alphabet())}
            spelt = {letter: ids.get(letter) for letter in alphabet()}
        else:
            letters, spelt = {}, {name: ids.get(name) for name in BYTES}
        self.byte_ids = None if None in spelt.values() else list(spelt.values())
        self._cuts = levelled
        bytes_of = {name: bytes([byte]) for byte, name in enumerate(BYTES)}
        self.pieces = [b""] * size
        for place, name in names.items():
            if place in self.controls:
                continue
            if place in added or (levelled and any(ord(letter) not in letters for letter in name)):
                self.pieces[place] = name.encode("utf-8", "replace")
            elif levelled:
                self.pieces[place] = name.translate(letters).encode("latin-1")
            elif kind == "WordPiece":
                mark = value["model"].get("continuing_subword_prefix") or "##"
                self.pieces[place] = (name.removeprefix(mark) if name.startswith(mark) else f" {name}").encode("utf-8", "replace")
            else:
                self.pieces[place] = bytes_of.get(name) or name.replace(SPACE, " ").encode("utf-8", "replace")
        self._library = parts.library()

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut; pieces may cross any place, so such a text stays whole."""
        return line_end(text, start, end) if self._cuts else len(text)

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into (N,) int32 ids."""
        return run(self._library, [text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return run(self._library, list(texts))
