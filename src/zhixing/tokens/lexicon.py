"""Which tokens are words: what a model of words looks up, whatever the tokenizer.

A word is a token that holds a letter or digit, without the spaces around it and without capitals, so that " The", "The" and "the" are one.
Spaces, punctuation, control tokens and broken characters are none. Scripts that part words by spaces have pieces as well: a token that
touches another letter with no space between, as "ing" does in "train" "ing", is a piece of a longer word and counts as none. Chinese
characters part no words: each token of them is one, a character or a whole word as the tokenizer has it.
Leaves out: lemmas; stop words, which are dropped by frequency where they are in the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NONE, STARTS, ENDS = 0, 1, 2  # which ends of a token are letters of a script that parts words by spaces


def is_han(character: str) -> bool:
    """Say whether a character is of a script that parts no words: Chinese with its extensions, and kana."""
    code = ord(character)
    return 0x3040 <= code <= 0x30FF or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF or 0x20000 <= code <= 0x3FFFF


def fold(text: str) -> str:
    """Write a word as it is looked up: no spaces around it, no capitals."""
    return text.strip().casefold()


def _edge(character: str) -> bool:
    return character.isalnum() and not is_han(character)


@dataclass(frozen=True)
class Lexicon:
    """What every token of a tokenizer is as a word.

    forms  V str           the word, "" where the token is none
    edges  (V,) uint8      STARTS, ENDS or both: where the token would join a letter beside it
    """

    forms: tuple[str, ...]
    edges: np.ndarray

    @classmethod
    def of(cls, tokenizer: Any) -> Lexicon:
        """Read every token of a tokenizer."""
        forms, edges = [], np.zeros(tokenizer.vocabulary_size, np.uint8)
        for id in range(tokenizer.vocabulary_size):
            try:
                text = tokenizer.token_bytes(id).decode("utf-8")
            except UnicodeDecodeError:
                text = ""
            form = fold(text)
            forms.append(form if any(each.isalnum() for each in form) else "")
            if text:
                edges[id] = STARTS * _edge(text[0]) | ENDS * _edge(text[-1])
        return cls(tuple(forms), edges)


def find_pieces(edges: np.ndarray) -> np.ndarray:
    """Say which tokens of a text are pieces of a longer word.

    edges   (N,) uint8    of each token, in the order of the text
    return  (N,) bool
    """
    joined = (edges[:-1] & ENDS > 0) & (edges[1:] & STARTS > 0)  # (N-1,) between each token and the next
    pieces = np.zeros(len(edges), bool)
    pieces[:-1] |= joined
    pieces[1:] |= joined
    return pieces
