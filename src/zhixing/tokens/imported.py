"""Tokenizers that other programs made: byte-level BPE with any split, encoded by the library (`wordpiece` and `pieces` are other sorts).

Their control tokens stand anywhere, so what is where is written beside them when they are imported: the entry ABOUT of
`tokenizer_config.json`. As with our own, what a user types is only ever text. Leaves out: making such files (`importing`), and other sorts,
which are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError
from zhixing.tokens.bpe import alphabet
from zhixing.tokens.layout import Parts, line_end, meets, run

ABOUT = "zhixing"
# What divides texts in pretraining, the first that there is; and what ends one, beside what the files say.
BETWEEN = ("<|endoftext|>", "<|end_of_text|>", "</s>")
ENDING = ("<|im_end|>", "<|eot_id|>", "<|end|>", *BETWEEN, "[SEP]")


def holds(value: Any, sort: str) -> bool:
    """Say whether a part of a tokenizer.json is of a sort, or any part within it."""
    if isinstance(value, dict):
        return value.get("type") == sort or any(holds(each, sort) for each in value.values())
    return isinstance(value, list) and any(holds(each, sort) for each in value)


def names_of(value: dict[str, Any]) -> dict[int, str]:
    """Give every token's name by its id: those of the model and those that were added; a piece of no letters has none.

    Raises ValueError for a tokenizer of another sort, for two names with one id or two ids of one name, and for an added token without a
    name.
    """
    model = value["model"]
    of_bytes = model["type"] == "BPE" and not model.get("byte_fallback") and holds([value.get("pre_tokenizer")], "ByteLevel")
    if not of_bytes and not (model["type"] == "BPE" and model.get("byte_fallback")) and model["type"] not in ("WordPiece", "Unigram"):
        read = "BPE on the level of bytes or with bytes to fall back on, Unigram and WordPiece are read"
        raise ValueError(f"its sort is {model['type']}, and only {read}")
    vocabulary = model["vocab"]
    own = vocabulary.items() if isinstance(vocabulary, dict) else [(name, place) for place, (name, _) in enumerate(vocabulary)]
    if len({name for name, _ in own}) < len(own):
        raise ValueError("one name has two ids")
    found: dict[int, str] = {}
    for name, place in [*own, *((each["content"], each["id"]) for each in value.get("added_tokens") or ())]:
        if name == "" and isinstance(vocabulary, dict) and name in vocabulary and type(place) is int and place >= 0:  # Whisper has one
            continue
        if not name or type(place) is not int or place < 0 or found.setdefault(place, name) != name:
            raise ValueError(f"'{name}' has the id {place}, which another has too, or none")
    if of_bytes and not any(letter in vocabulary for letter in alphabet()):
        raise ValueError("none of the 256 bytes has a token")
    return found


@dataclass(frozen=True)
class Standing:
    """What stands where in such a tokenizer.

    names     {id: name}
    told      the tokens that were added, as the file tells of them
    added     {id: name} of these
    controls  {id: name} of those that are no text
    nameless  ids that stand for nothing
    """

    names: dict[int, str]
    told: list[dict[str, Any]]
    added: dict[int, str]
    controls: dict[int, str]
    nameless: tuple[int, ...]

    @classmethod
    def of(cls, value: dict[str, Any], size: int) -> Standing:
        """Read a `tokenizer.json` for a model of `size` tokens. Raises ValueError as `names_of` does, and for an id beyond."""
        names, told = names_of(value), value.get("added_tokens") or []
        if max(names) >= size:
            raise ValueError(f"its ids go up to {max(names)}, and the model has {size} tokens")
        controls = {each["id"]: each["content"] for each in sorted(told, key=lambda each: each["id"]) if each.get("special")}
        nameless = tuple(place for place in range(size) if place not in names)
        return cls(names, told, {each["id"]: each["content"] for each in told}, controls, nameless)


def check_ids(library: Library, told: Sequence[dict[str, Any]]) -> None:
    """Raise ValueError where the library gives an added token another id than the file does."""
    if wrong := [each["content"] for each in told if library.token_to_id(each["content"]) != each["id"]]:
        raise ValueError(f"the library gives '{wrong[0]}' another id than the file does")


def unwritable(byte: int, count: int) -> DataError:
    """Give the error for a text with bytes that a tokenizer has no token for."""
    return DataError("tokens.byte", byte=f"0x{byte:02X}", count=count)


class Imported:
    """The coder of such a tokenizer.

    size      int, tokens        of the model's vocabulary; ids beyond the tokenizer's have no name
    pieces    the bytes of each token; none of a control token or one without a name
    controls  {id: name}         of tokens that are no text
    added     {id: name}         of all tokens that are looked for as they stand, controls among them
    nameless  ids that stand for nothing
    byte_ids  the token of each byte; None of one that has none: a text with it cannot be written
    """

    portable = True

    def __init__(self, parts: Parts, size: int) -> None:
        value = parts.value
        stands = Standing.of(value, size)
        self.added, self.controls, self.nameless = stands.added, stands.controls, stands.nameless
        self.byte_ids = [value["model"]["vocab"].get(letter) for letter in alphabet()]
        self._missing = bytes(byte for byte, place in enumerate(self.byte_ids) if place is None)
        letters = {ord(letter): byte for byte, letter in enumerate(alphabet())}
        self.pieces = [b""] * size
        for place, name in stands.names.items():
            if place in self.controls:
                continue
            plain = place not in self.added and all(ord(letter) in letters for letter in name)
            self.pieces[place] = name.translate(letters).encode("latin-1") if plain else name.encode("utf-8", "replace")
        self._library = parts.library()
        check_ids(self._library, stands.told)
        guarded = {**value, "added_tokens": [{**each, "special": True} for each in stands.told]}
        self._guarded = Parts(json.dumps(guarded).encode(), guarded, []).library()
        self._names = re.compile("|".join(re.escape(each) for each in sorted(self.controls.values(), key=len, reverse=True)) or r"(?!)")

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: where the split cuts it too."""
        return line_end(text, start, end)

    def encode(self, text: str, guarded: bool = False) -> np.ndarray:
        """Turn a text into (N,) int32 ids, no control token among them.

        guarded  nothing that was added is looked for either, special or not

        Raises DataError where the pieces of a text are control tokens however it is cut, or a byte of it has no token.
        """
        return self._safe(text, run(self._guarded if guarded else self._library, [text])[0], guarded)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return [self._safe(text, ids, False) for text, ids in zip(texts, run(self._library, list(texts)), strict=True)]

    def _safe(self, text: str, ids: np.ndarray, guarded: bool) -> np.ndarray:
        """Encode a text again whose words are names of control tokens, each name in two parts: the library takes whole words as tokens."""
        if self._missing and not text.isascii():  # the library would leave such bytes out without a word
            raw = text.encode("utf-8")
            if (kept := raw.translate(None, self._missing)) != raw:
                raise unwritable(next(byte for byte in raw if byte in self._missing), len(raw) - len(kept))
        if not meets(ids, self.controls.keys()):
            return ids
        library: Library = self._guarded if guarded else self._library
        cuts = [0, *(match.start() + 1 for match in self._names.finditer(text)), len(text)]
        parts = run(library, [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)])
        found = np.concatenate(parts).astype(np.int32)
        if meets(found, self.controls.keys()):
            raise DataError("tokens.control", text=text[:40])
        return found
