"""Words: Chinese as rjieba cuts it, all else at Unicode word boundaries; every character is kept, a space goes with the word after it.

A word outside the vocabulary is written by its characters, and a character outside it by its bytes. What is a word depends on the
segmenter and a dictionary, which `words.json` holds beside `tokenizer.json`; a segmenter that cuts otherwise is refused when the
folder is opened. No other program can do this, so its `tokenizer.json` is in a form that the library refuses, and exports refuse it too.
Source: Unicode Standard Annex 29, whose boundaries are followed between letters with their marks, digits and the rest. Differs: an
underscore is punctuation, and a run of one common mark is one word. Leaves out: dictionaries for Thai, Lao, Khmer and Japanese.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.characters import rank, spell, table
from zhixing.tokens.layout import BYTES, FIRST_PIECE, SPECIALS, Parts, check, chinese, line_end, write

SEGMENTER = "rjieba"
MINIMUM_COUNT = 2  # a word seen once teaches a model less than its characters do
ALPHABET = 0.5  # of the vocabulary that is left for pieces: so much is kept for characters
REMEMBERED = 1 << 16  # words outside the vocabulary whose spelling is kept at hand
SHORT = 64  # characters: a longer one is not worth keeping
REPEATED = "!\"#$%&*+,-./:;<=>?@\\^_`|~…—·！？。，、～"  # marks of which a run is one word
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
# Our own words, in which segmenters differ: names, overlapping words, numbers, marks, other scripts, spaces and line ends.
PROBE = (
    "知行合一的工具能在两个核心的机器上研究生命起源，南京市长江大桥边，小明硕士毕业于中国科学院计算所。乒乓球拍卖完了；他说的确实在理！！\n"
    "It didn't rain on 12,345 of O’Neill's days...  a_b naïve Ελληνικά हिन्दी 日本語のテキスト\r\n\t😀😀 ３月5日 第一章\n"
)


@functools.cache
def pattern() -> re.Pattern[str]:
    """Give the pattern of words; 0.2 s for the classes of all characters, paid once and only by this sort."""
    classes = {"L": [], "M": [], "N": []}  # type: dict[str, list[int]]
    for point in range(sys.maxunicode + 1):
        kind = unicodedata.category(chr(point))[0]
        if kind in classes:
            classes[kind].append(point)
    chosen = re.compile(f"[{HAN}]")
    letters = ranges([point for point in classes["L"] if not chosen.match(chr(point))])
    marks, digits = ranges(classes["M"]), ranges(classes["N"])
    word = f"[{letters}{marks}]+"
    runs = "|".join(re.escape(mark) + "{2,}" for mark in REPEATED)
    return re.compile(
        rf"[{HAN}]+| ?{word}(?:['’]{word})*| ?[{digits}]+| ?(?:{runs}|[^\s{letters}{marks}{digits}{HAN}])"
        r"|[\r\n]+|[^\S\r\n]+(?= \S)|[^\S\r\n]+"
    )


def ranges(points: list[int]) -> str:
    """Write sorted code points as the inside of a character class."""
    places = np.array(points)
    heads = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    lasts = np.append(heads[1:], len(places)) - 1
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in zip(places[heads], places[lasts], strict=True))


class Dictionary:
    """A user's words: wherever one of them stands, it is a word, the longest first; letters and digits must not go on beside it."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._held = frozenset(words)
        firsts: dict[str, set[int]] = {}
        for word in words:
            firsts.setdefault(word[0], set()).add(len(word))
        self._sizes = {first: sorted(sizes, reverse=True) for first, sizes in firsts.items()}
        self._starts = re.compile("[" + "".join(map(re.escape, sorted(firsts))) + "]") if firsts else None

    def cut(self, text: str) -> list[tuple[str, bool]]:
        """Cut a text into stretches, and say which of them are words of the dictionary; the space before such a word goes with it."""
        if self._starts is None:
            return [(text, False)]
        found, done, place = [], 0, 0
        while match := self._starts.search(text, place):
            place = match.start()
            word = self._at(text, place)
            if word is None:
                place += 1
                continue
            spaced = place > done and text[place - 1] == " "
            if place - spaced > done:
                found.append((text[done : place - spaced], False))
            place += len(word)
            found.append((text[place - len(word) - spaced : place], True))
            done = place
        return [*found, (text[done:], False)] if done < len(text) else found

    def _at(self, text: str, place: int) -> str | None:
        for size in self._sizes[text[place]]:
            word = text[place : place + size]
            if word in self._held and not joined(text, place) and not joined(text, place + size):
                return word
        return None


def joined(text: str, place: int) -> bool:
    """Say whether two letters or digits of a script that writes spaces meet at a place of a text."""
    return 0 < place < len(text) and all(each.isalnum() and not "\u3400" <= each <= "\u9fff" for each in text[place - 1 : place + 1])


RUN = re.compile(f"[{HAN}]{{2}}")
NO_WORDS = Dictionary(())


def cut(text: str, dictionary: Dictionary = NO_WORDS) -> list[str]:
    """Cut a text into words, which together are the text."""
    words: list[str] = []
    for stretch, known in dictionary.cut(text):
        if known:
            words.append(stretch)
            continue
        found = pattern().findall(stretch)
        if not RUN.search(stretch):
            words += found
            continue
        for word in found:
            if RUN.match(word):
                words += chinese()(word)
            else:
                words.append(word)
    return words


@functools.cache
def probe() -> str:
    """Give the hash of how this installation cuts a fixed text."""
    return hashlib.sha256(json.dumps(cut(PROBE)).encode()).hexdigest()


def version() -> str:
    """Give the version of the segmenter."""
    return importlib.metadata.version(SEGMENTER)


class Words:
    """The coder of words.

    pieces  the bytes of each token from FIRST_PIECE on
    """

    portable = False

    def __init__(self, parts: Parts) -> None:
        if parts.words is None:
            raise ValueError("its words.json is missing")
        about = parts.words
        if about["segmenter"] != SEGMENTER or about["probe"] != probe():
            raise DataError("tokens.segmenter", name=about["segmenter"], version=about["version"], here=f"{SEGMENTER} {version()}")
        self._dictionary = Dictionary(check_words(about["dictionary"]))
        self.pieces = [name.encode("utf-8") for name in parts.names[FIRST_PIECE:]]
        self._ids = {name: id for id, name in enumerate(parts.names[FIRST_PIECE:], FIRST_PIECE)}
        self._table = table({name: id for name, id in self._ids.items() if len(name) == 1})
        self._spelt: dict[str, list[int]] = {}

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: after a line end that a letter follows, which no word holds."""
        return line_end(text, start, end)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return [self.encode(text) for text in texts]

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into (N,) int32 ids."""
        check(text)
        ids: list[int] = []
        known = self._ids.get
        for word in cut(text, self._dictionary):
            id = known(word)
            if id is None:
                ids += self._spell(word)
            else:
                ids.append(id)
        return np.array(ids, dtype=np.int32)

    def _spell(self, word: str) -> list[int]:
        """Write a word by its characters, those outside the vocabulary by their bytes."""
        if word in self._spelt:
            return self._spelt[word]
        ids = spell(self._table, word).tolist()
        if len(word) <= SHORT:
            if len(self._spelt) >= REMEMBERED:
                self._spelt.clear()
            self._spelt[word] = ids
        return ids


def check_words(words: Any) -> list[str]:
    """Give a dictionary's words, each once, sorted; raises DataError for one that cannot be a word."""
    if not isinstance(words, list):
        raise DataError("tokens.dictionary", word=str(words)[:40])
    for word in words:
        plain = isinstance(word, str) and word == word.strip() and word and not re.search(r"[^\S ]", word) and "\ufffd" not in word
        if not plain or word in SPECIALS or word in BYTES:
            raise DataError("tokens.dictionary", word=str(word)[:40])
        check(word)
    return sorted(set(words))


def read_dictionary(path: str | Path) -> list[str]:
    """Read a dictionary file: one word a line, in UTF-8; empty lines are passed over."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("file.missing", path=str(path)) from None
    except UnicodeDecodeError as problem:
        raise DataError("file.not_utf8", path=str(path), position=problem.start) from None
    words = check_words([line.strip() for line in lines if line.strip()])
    if not words:
        raise DataError("tokens.no_dictionary", path=str(path))
    return words


def train(texts: Iterable[str], size: int, dictionary: Sequence[str], minimum_count: int, tell: Callable[..., None]) -> tuple[bytes, bytes]:
    """Make the `tokenizer.json` and the `words.json` of words; see `train_words`."""
    if size <= FIRST_PIECE:
        raise UsageError("tokens.size", size=size, least=FIRST_PIECE + 1)
    if minimum_count < 1:
        raise UsageError("tokens.settings", limit=size, minimum_count=minimum_count)
    own = Dictionary(check_words(list(dictionary)))
    letters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for text in texts:
        check(text)
        letters.update(text)
        words.update(cut(text, own))
    if not words:
        raise DataError("tokens.no_text")
    room = size - FIRST_PIECE
    asked = set(own.words)
    longer = [word for word in rank(words) if len(word) > 1 and (words[word] >= minimum_count or word.strip() in asked)]
    longer.sort(key=lambda word: word.strip() not in asked)  # what the user asked for comes before what is frequent
    longer = longer[: room - min(len(letters), max(1, int(ALPHABET * room)))]
    characters = rank(letters)[: room - len(longer)]
    pieces = rank(Counter({each: letters[each] for each in characters} | {each: words[each] for each in longer}))
    tell("tokens.words", size=FIRST_PIECE + len(pieces), characters=len(characters), words=len(longer), seen=len(words))
    names = [*SPECIALS, *BYTES, *pieces]
    about = {"segmenter": SEGMENTER, "version": version(), "probe": probe(), "dictionary": list(own.words)}
    model = {"type": "Words", "vocab": {name: id for id, name in enumerate(names)}}
    return write(model), (json.dumps(about, ensure_ascii=False, indent=1) + "\n").encode("utf-8")
