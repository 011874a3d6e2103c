"""Tokenizers of SentencePiece's sort that other programs made: pieces in which ▁ is a space, one put before a text; the library encodes.

Two models: BPE whose every byte has a token to fall back on (Llama 2, Mistral, Gemma), which writes every text; and Unigram (XLM-RoBERTa),
mostly behind a table that makes letters alike, which reads and does not write where it has no bytes. The space put before a text is no byte
of it: `Tokenizer.decode` takes it away. Two things are not told apart, and come back as a space: ▁ itself and, where `Metaspace` is what
puts the space there, a text's own first one.
No control token can be reached: the library is given names for them that hold a space, which no text has once it is ▁, and no merge that
leads to one or to a byte's name. Leaves out: a merge of words, dropout, other expressions than one for several spaces, which are refused;
that Unigram's library takes a typed name of a byte for the byte, as it does everywhere.
Source: Kudo and Richardson 2018, arXiv:1808.06226.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError
from zhixing.tokens.charsmap import growth
from zhixing.tokens.imported import Standing, check_ids
from zhixing.tokens.layout import BYTES, Parts, meets, run
from zhixing.tokens.unigram import MOST_LETTERS

SORT = "Unigram"
MARK = "▁"
STRETCH = 1 << 12  # characters that BPE merges within; a long text takes several times as long in one
NONE, FIRST, EVERY = "", "first", "every"  # where a space is put: nowhere, before a text, or after a control token within it too
# Normalizers and splits of Unigram that end in good time whatever the text; those of BPE are ▁ alone.
NORMALIZERS = ("Precompiled", "Replace", "Prepend", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents", "Lowercase")
SPLITS = ("Metaspace", "WhitespaceSplit", "Whitespace", "Digits", "Punctuation")
SPACES = (" {2,}", r"\s+", r"\s{2,}")
BETWEEN = re.compile(r"[A-Za-z\u4e00-\u9fff](?=[ \n][A-Za-z\u4e00-\u9fff])")


def parts_of(given: Any) -> Iterator[dict[str, Any]]:
    """Give the parts of a normalizer or of a split, one after the other."""
    for each in given if isinstance(given, list) else [given]:
        if isinstance(each, dict) and each.get("type") == "Sequence":
            yield from parts_of(each.get("normalizers", each.get("pretokenizers")))
        elif each is not None:
            yield each


def scheme(part: dict[str, Any]) -> str:
    """Say where a Metaspace puts a space: always, first or never."""
    return part.get("prepend_scheme") or ("never" if part.get("add_prefix_space") is False else "always")


def _spaces(part: dict[str, Any]) -> bool:
    """Say whether a part of a normalizer writes spaces as ▁."""
    return part["type"] == "Replace" and part.get("pattern") == {"String": " "} and part.get("content") == MARK


def _unread(value: dict[str, Any]) -> str:
    """Name what is read of no such tokenizer; nothing: all is."""
    bpe = value["model"]["type"] == "BPE"
    for part in parts_of(value.get("normalizer")):
        kind, pattern = part["type"], part.get("pattern") or {}
        if kind == "Prepend" and part.get("prepend") != MARK:
            return "a normalizer that prepends a word"
        if kind not in NORMALIZERS or (bpe and kind != "Prepend" and not _spaces(part)):
            return f"the normalizer {kind}"
        if kind == "Replace" and pattern.get("Regex", SPACES[0]) not in SPACES:
            return "an expression in its normalizer"
    for part in parts_of(value.get("pre_tokenizer")):
        kind = part["type"]
        if kind == "Split" and part.get("pattern") == {"String": " "} and any(map(_spaces, parts_of(value.get("normalizer")))):
            continue  # Gemma's: there is no space left
        if kind not in SPLITS or (bpe and kind != "Metaspace"):
            return f"the split {kind}"
        if kind == "Metaspace" and part.get("replacement") != MARK:
            return "a Metaspace of another letter"
    return ""


def prefix_of(value: dict[str, Any]) -> str:
    """Say where a tokenizer puts a space before a text."""
    schemes = [scheme(part) for part in parts_of(value.get("pre_tokenizer")) if part["type"] == "Metaspace"]
    if "always" in schemes or any(part["type"] == "Prepend" for part in parts_of(value.get("normalizer"))):
        return EVERY
    return FIRST if "first" in schemes else NONE


class Pieces:
    """The coder of such a tokenizer; attributes as `imported.Imported` has them.

    prefix    str               where a space is put before a text: NONE, FIRST or EVERY
    unknown   int, or None      the token of what no piece spells, of Unigram; it has no bytes
    fallback  frozenset of int  the tokens of single bytes
    """

    portable = True
    lossless = False

    def __init__(self, parts: Parts, size: int) -> None:
        value, model = parts.value, parts.value["model"]
        stands = self._stands = Standing.of(value, size)
        self.added, self.nameless = stands.added, stands.nameless
        if unread := _unread(value):
            raise ValueError(f"it has {unread}")
        marked = any(part["type"] == "Metaspace" for part in parts_of(value.get("pre_tokenizer")))
        if not marked and not any(map(_spaces, parts_of(value.get("normalizer")))):
            raise ValueError(f"nothing in it makes {MARK} of a space")
        if max(map(len, stands.names.values())) > MOST_LETTERS:
            raise ValueError(f"it has a piece of more than {MOST_LETTERS} characters")
        for part in parts_of(value.get("normalizer")):
            if part["type"] == "Precompiled":
                growth(part["precompiled_charsmap"])
        self._bpe = model["type"] == "BPE"
        ids = {name: place for place, name in stands.names.items()}
        self.byte_ids = [ids.get(name) if model.get("byte_fallback") else None for name in BYTES]
        self.fallback = frozenset(place for place in self.byte_ids if place is not None)
        self.unknown = self._unknown(model, ids)
        unspelt = {} if self.unknown is None else {self.unknown: stands.names[self.unknown]}
        self.controls = dict(sorted({**stands.controls, **unspelt}.items()))
        self._never = frozenset(place for place in self.controls if self._bpe or place != self.unknown)
        of_bytes = {place: byte for byte, place in enumerate(self.byte_ids) if place is not None}
        self.pieces = [b""] * size
        for place, name in stands.names.items():
            if place not in self.controls:
                spelt = name.replace(MARK, " ").encode("utf-8", "replace")
                self.pieces[place] = bytes([of_bytes[place]]) if place in of_bytes else spelt
        self.prefix = prefix_of(value)
        self._value = self._renamed(value)
        self._libraries: dict[tuple[bool, bool], Library] = {}
        self._joined: set[str] = set()
        self._library(False, True)

    def _unknown(self, model: dict[str, Any], ids: dict[str, int]) -> int | None:
        """Give the unknown token; raises ValueError for a model that computes otherwise, or has no way to write what no piece spells."""
        if not self._bpe:
            place = model.get("unk_id")
            if type(place) is not int or not 0 <= place < len(model["vocab"]):
                raise ValueError("it has no unknown token")
            return place
        if None in self.byte_ids:
            raise ValueError("not every byte has a token")
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
            if model.get(name):
                raise ValueError(f"it has {name}")
        return ids.get(model.get("unk_token"))

    def _renamed(self, value: dict[str, Any]) -> dict[str, Any]:
        """Give a `tokenizer.json` in which no text leads to a control token."""
        model, names = value["model"], {name: f" {place}" for place, name in self.controls.items()}
        if self._bpe:
            never = {*names, *BYTES}
            pairs = [each.split(" ") if isinstance(each, str) else each for each in model["merges"]]
            pairs = [pair for pair in pairs if not never & {*pair, "".join(pair)}]
            own = {"vocab": {names.get(name, name): place for name, place in model["vocab"].items()}, "merges": pairs, "unk_token": None}
        else:
            own = {"vocab": [[names.get(name, name), score] for name, score in model["vocab"]]}
        told = [{**each, "content": names.get(each["content"], each["content"])} for each in self._stands.told]
        return {**value, "model": {**model, **own}, "added_tokens": told, "post_processor": None, "truncation": None, "padding": None}

    def _library(self, guarded: bool, begins: bool) -> Library:
        """Give the library's tokenizer: one that looks for no added token, or one that puts no space before a text."""
        if (guarded, begins) not in self._libraries:
            value = dict(self._value)
            if guarded:
                value["added_tokens"] = [{**each, "special": True} for each in value["added_tokens"]]
            if not begins and self._goes_on:
                kept = [part for part in parts_of(value["normalizer"]) if part["type"] != "Prepend"]
                value["normalizer"] = {"type": "Sequence", "normalizers": kept}
                never = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "never"}
                split = [
                    {**never, "split": part.get("split", True)} if part["type"] == "Metaspace" else part
                    for part in parts_of(value["pre_tokenizer"])
                ]
                value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": split}
            library = Parts(json.dumps(value).encode(), value, []).library()
            check_ids(library, value["added_tokens"])
            self._libraries[guarded, begins] = library
        return self._libraries[guarded, begins]

    @property
    def _goes_on(self) -> bool:
        """Whether a text that goes on can be encoded as one: not where each word is given its space, or spaces around a text are lost."""
        alone = [*parts_of(self._value.get("pre_tokenizer")), *parts_of(self._value.get("normalizer"))]
        return not any(part["type"] in ("WhitespaceSplit", "Whitespace") or part.get("strip_left") for part in alone)

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: between two letters that no piece has side by side, of Unigram before a space."""
        if end >= len(text):
            return len(text)
        if not self._bpe:
            return max((match.end() for match in BETWEEN.finditer(text, start, end)), default=len(text))
        if not self._joined:
            for name in self._stands.names.values():
                self._joined.update(name[place : place + 2] for place in range(len(name) - 1))
        wide = any(each.get(name) for each in self._looked_for for name in ("lstrip", "rstrip", "single_word", "normalized"))
        closing = {each["content"][-1] for each in self._looked_for}  # after one, a space may be put
        for place in itertools.chain(range(end, start, -1), range(end + 1, len(text))) if not wide else ():
            both = text[place - 1 : place + 1]
            if both not in self._joined and both.replace(" ", MARK) not in self._joined and both[0] not in closing:
                return place
        return len(text)

    @property
    def _looked_for(self) -> list[dict[str, Any]]:
        """What is looked for in a text as it stands."""
        return [each for each in self._stands.told if not each.get("special")]

    def _stretches(self, text: str) -> list[str]:
        """Cut a text so that its parts have the same ids as the whole; the first begins it."""
        cuts = [0]
        while self._bpe and len(text) - cuts[-1] > STRETCH:
            cuts.append(self.cut(text, cuts[-1], cuts[-1] + STRETCH))
        return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True) if end > start or not start]

    def encode(self, text: str, guarded: bool = False, begins: bool = True) -> np.ndarray:
        """Turn a text into (N,) int32 ids; no control token among them but the unknown one of Unigram.

        guarded  nothing that was added is looked for either, special or not
        begins   a space is put before the text, where the tokenizer does that

        Raises DataError for a text that the library takes for a control token.
        """
        begun, going_on = [], self._stretches(text)
        if begins:
            begun, going_on = going_on[:1], going_on[1:]
        found = run(self._library(guarded, True), begun) + self._run_on(going_on, guarded)
        return self._safe(text, np.concatenate(found))

    def _run_on(self, texts: list[str], guarded: bool) -> list[np.ndarray]:
        """Encode texts that go on; where what follows a token that stands as it is begins with a space, it does so here too."""
        names = "|".join(re.escape(each["content"]) for each in self._looked_for)
        if guarded or self.prefix != EVERY or not names:
            return run(self._library(guarded, False), texts)
        cuts = [next((match.start() for match in re.finditer(names, text)), len(text)) for text in texts]
        heads = run(self._library(False, False), [text[:cut] for text, cut in zip(texts, cuts, strict=True)])
        tails = run(self._library(False, True), [text[cut:] for text, cut in zip(texts, cuts, strict=True)])
        return [np.concatenate(both) for both in zip(heads, tails, strict=True)]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        if any(len(text) > STRETCH for text in texts):
            return [self.encode(text) for text in texts]
        return [self._safe(text, ids) for text, ids in zip(texts, run(self._library(False, True), list(texts)), strict=True)]

    def _safe(self, text: str, ids: np.ndarray) -> np.ndarray:
        """Refuse control tokens, which no text should lead to."""
        if meets(ids, self._never):
            raise DataError("tokens.control", text=text[:40])
        return ids
