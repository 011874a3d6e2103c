"""What every sort of tokenizer shares: which ids are what, what a text must be, where words end, and how a `tokenizer.json` is written.

Ids 0 to 4 are the control tokens, 5 to 260 the bytes, then the sort's own pieces. Leaves out: everything that is one sort's own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError

SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
PAD, END, USER, ASSISTANT, SYSTEM = range(len(SPECIALS))
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # the names by which the library falls back to bytes
# GPT-4's split, with every repetition bounded, so that no text makes a word long and its encoding slow (tiktoken issue 195).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}{1,64}|\p{N}{1,3}| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,64}"
    r"|\s{0,64}[\r\n]{1,64}|\s{1,64}(?!\S)|\s{1,64}"
)
HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]{2,}")
FEW_IDS = 4096
LINE = re.compile(r"\n[A-Za-z\u4e00-\u9fff]")


@dataclass(frozen=True)
class Parts:
    """A tokenizer's files, read: what a sort's coder is made from.

    content  the bytes of tokenizer.json; value: what they say
    names    every token's name, by id
    words    what words.json says; None: there is no such file
    """

    content: bytes
    value: dict[str, Any]
    names: list[str]
    words: dict[str, Any] | None = None

    def library(self) -> Library:
        """Give the library's tokenizer, by which what looks like a control token is text."""
        library = Library.from_str(self.content.decode("utf-8"))
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        return library


def check(text: str) -> None:
    """Raise DataError for a lone surrogate, which is no character and has no bytes."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise surrogate(problem) from None


def surrogate(problem: UnicodeEncodeError) -> DataError:
    """Give the error for a lone surrogate."""
    return DataError("tokens.surrogate", place=problem.start, code=f"U+{ord(problem.object[problem.start]):04X}")


def line_end(text: str, start: int, end: int) -> int:
    """Give the last place up to `end` that no token of words crosses: after a line end that a letter follows; else the text's end."""
    if end >= len(text):
        return len(text)
    found = max((match.start() + 1 for match in LINE.finditer(text, start, end)), default=start)
    return found if found > start else len(text)


@functools.cache
def chinese() -> Callable[[str], list[str]]:
    """Give the function that cuts a run of Chinese characters into words."""
    import rjieba  # 0.1 s for its dictionary, paid only where Chinese is cut into words

    return rjieba.cut


def bounded(text: str) -> Iterator[str]:
    """Cut a text between Chinese words, so that nothing learnt from the parts is a piece of two words."""
    start = 0
    for match in () if text.isascii() else HAN.finditer(text):
        words = chinese()(match.group())
        place = match.start()
        for word in words[:-1]:
            place += len(word)
            yield text[start:place]
            start = place
    if start < len(text):
        yield text[start:]


def meets(ids: np.ndarray, places: Set[int]) -> bool:
    """Say whether any of some ids (N,) int is one of these places; of a few ids a set answers ten times sooner than an array."""
    if len(ids) > FEW_IDS:
        return bool(np.isin(ids, list(places)).any())
    return not places.isdisjoint(ids.tolist())


def run(library: Library, texts: list[str]) -> list[np.ndarray]:
    """Encode texts by the library, each to (N,) int32 ids."""
    for text in texts:
        check(text)
    return [np.array(each.ids, dtype=np.int32) for each in library.encode_batch_fast(texts, add_special_tokens=False)]


def write(model: dict[str, Any], split: Any = None, decoder: Any = None) -> bytes:
    """Write a `tokenizer.json`, the same bytes for the same tokenizer."""
    added = [
        {"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for id, name in enumerate(SPECIALS)
    ]
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


FALLBACK = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}  # how the library reads pieces and bytes back
MERGING = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}


def merging(vocabulary: dict[str, int], merges: list[list[str]], byte_fallback: bool) -> dict[str, Any]:
    """Give the library's BPE model, by which single characters are written too: BPE without a merge."""
    own = {"byte_fallback": byte_fallback, "vocab": vocabulary, "merges": merges}
    return {"type": "BPE", **MERGING, **own, "ignore_merges": False}
