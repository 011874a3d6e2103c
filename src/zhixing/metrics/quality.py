"""How written text looks beside real text: does it repeat itself, how varied is it, how much is copied, is its form whole?

None of these figures is better when higher or lower: the aim is what real text of the same sort has, so it is measured in the same way.
A unit is a word, a Chinese character or a mark, whatever the model's tokens are; white space is no unit.
Leaves out: whether the text is true, or any good.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

HAN = r"\u3400-\u9fff\U00020000-\U0003ffff"
UNIT = re.compile(rf"[{HAN}]|[^\W{HAN}]+(?:['’][^\W{HAN}]+)*|[^\w\s]")
READ_AT_ONCE = 1 << 18  # units of known text; bounds memory and time, no answer depends on it
PAIRS = {")": "(", "]": "[", "}": "{", "）": "（", "】": "【", "〕": "〔", "」": "「", "』": "『", "》": "《", "〉": "〈", "”": "“"}
OPENING = frozenset(PAIRS.values())
BREAKS = re.compile(r"[\s，。？！；、：,.?!;:「」『』《》〈〉“”‘’（）()]+")  # what ends a line of verse
VERSE_LENGTHS = (5, 7)


def units(text: str) -> list[str]:
    """Cut a text into words, Chinese characters and marks."""
    return UNIT.findall(text)


def distinct(text: Sequence[str], n: int) -> float | None:
    """Give the share of a text's n-grams that are different from each other; None where there is none.

    It falls as a text grows, so that only texts of one length compare (`pieces`).
    Source: Li et al. 2016, arXiv:1510.03055, section 4.4. Differs: divided by the n-grams, not the tokens.
    """
    grams = [tuple(text[place : place + n]) for place in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(text: Sequence[str], n: int = 4) -> float | None:
    """Give the share of a text's n-grams that stood in it before.

    Source: Welleck et al. 2020, arXiv:1908.04319, section 6.1 (seq-rep-n).
    """
    share = distinct(text, n)
    return None if share is None else 1 - share


def pieces(texts: Iterable[Sequence[str]], size: int) -> list[list[str]]:
    """Lay texts end to end and cut them into pieces of exactly `size` units; what is left at the end goes."""
    whole = [unit for text in texts for unit in text]
    return [whole[start : start + size] for start in range(0, len(whole) - size + 1, size)]


def copied(texts: Sequence[Sequence[str]], known: Iterable[str], run: int) -> list[NDArray[np.bool_]]:
    """Say which units of each text lie in a run of at least `run` units that stands in a known text, word for word.

    known   the training texts, read once, in order
    return  one (N,) bool a text

    Runs are compared by 64-bit hashes: that one is taken for another has a chance of about 1e-9 for a million texts.
    """
    codes: dict[str, int] = {}
    for unit in (unit for text in texts for unit in text):
        if unit not in codes:
            codes[unit] = int.from_bytes(hashlib.blake2b(unit.encode("utf-8", "replace"), digest_size=8).digest(), "little")
    grams = [_grams([codes[unit] for unit in text], run) for text in texts]
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *grams]))
    found = np.zeros(len(wanted), bool)
    # Between two texts stands a code that no unit has, so that no run reaches from one into the next.
    read = (code for text in known for code in itertools.chain((codes.get(unit, 0) for unit in UNIT.findall(text)), (0,)))
    left: list[int] = []
    while len(wanted) and (fresh := list(itertools.islice(read, READ_AT_ONCE))):
        fresh = left + fresh
        have = _grams(fresh, run)
        places = np.minimum(np.searchsorted(wanted, have), len(wanted) - 1)
        found[places[wanted[places] == have]] = True
        left = fresh[max(0, len(fresh) - run + 1) :]
    covers = []
    for text, each in zip(texts, grams, strict=True):
        edges = np.zeros(len(text) + 1, np.int64)
        starts = np.flatnonzero(found[np.searchsorted(wanted, each)])
        np.add.at(edges, starts, 1)
        np.add.at(edges, starts + run, -1)
        covers.append(np.cumsum(edges)[:-1] > 0)
    return covers


def _grams(codes: Sequence[int], run: int) -> NDArray[np.uint64]:
    """Give a hash of every run of so many units, (N,) uint64."""
    values = np.array(codes, np.uint64)
    count = max(len(values) - run + 1, 0)
    total = np.zeros(count, np.uint64)
    for place in range(run):
        factor = int.from_bytes(hashlib.blake2b(bytes([place]), digest_size=8).digest(), "little") | 1
        total += values[place : place + count] * np.uint64(factor)
    return total


def paired(text: str, begun: bool, cut: bool) -> bool:
    """Say whether brackets and quotation marks close what they opened, in their order.

    begun  the text begins in the middle of another, so that marks may close what was opened before it
    cut    the text was cut off, so that marks may stay open

    Single quotation marks are left out: English writes its apostrophes with them.
    """
    opened: list[str] = []
    for letter in text:
        if letter == '"' and opened[-1:] == ['"']:
            opened.pop()
        elif letter in OPENING or letter == '"':
            opened.append(letter)
        elif letter in PAIRS:
            if opened:
                if opened.pop() != PAIRS[letter]:
                    return False
            elif not begun:
                return False
    return cut or not opened


def whole(text: str, begun: bool, cut: bool) -> bool:
    """Say whether every character is one: no U+FFFD, which stands where bytes made none; the last may have been cut."""
    return "\ufffd" not in (text[:-1] if cut else text)


def verse(text: str, begun: bool, cut: bool) -> bool:
    """Say whether a poem has two lines of verse or more, all of five or all of seven characters; the last may have been cut."""
    lines = [each for each in BREAKS.split(text) if each]
    lengths = {len(each) for each in (lines[:-1] if cut else lines)}
    return len(lines) > 1 and len(lengths) == 1 and lengths <= set(VERSE_LENGTHS)


# What can be judged of a text's form: (text, begun, cut) -> whether it is whole.
FORMS: dict[str, Callable[[str, bool, bool], bool]] = {"paired": paired, "whole": whole, "verse": verse}
