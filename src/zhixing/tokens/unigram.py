"""Unigram pieces: a text is cut into the pieces whose probabilities multiply to the most; what no piece covers is written as bytes.

Source: Kudo 2018, arXiv:1804.10959. The library trains it (with pruning) and encodes (Viterbi). Differs from SentencePiece: nothing is
normalised and a space is a space, so that a text comes back exactly; the alphabet is bounded by coverage and the rest are bytes.

The library would take a text's literal "<0x41>" or "<|end|>" for the token of that name: all names stand in one trie, and characters
unknown side by side are looked up as one string. It never sees such a string whole: SPLIT parts digits from letters and puts nothing
after the letters of a word, and a byte's name needs the one, a control token's the other. A file is tried for it when it is opened.
Leaves out: sampling of segmentations (subword regularisation).
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.characters import rank
from zhixing.tokens.layout import BYTES, FALLBACK, FIRST_BYTE, FIRST_PIECE, SPECIALS, SPLIT, Parts, bounded, check, line_end, run, write

COVERAGE = 0.9995  # of the characters of the text, as SentencePiece's default; rarer ones are bytes
ALPHABET = 0.75  # and at most so much of the vocabulary that is left for pieces
MARK, END_OF_WORD = "\uffff", "\0"  # no character, and the library's own mark between words: neither is part of a piece
LONGEST = 16  # characters of a piece that is learnt
MOST_LETTERS = 256  # and of any
WORDS = 100_000  # different words that pieces are learnt from, the most frequent: each costs time in every round, however rare
STEP = 1e-4  # by which the library sets required characters that it has no use for apart, in an order that changes from run to run
PLACES = 4  # decimals of a score; the last bits of the library's sums change from run to run


class Unigram:
    """The coder of unigram pieces.

    pieces  the bytes of each token from FIRST_PIECE on
    """

    portable = True

    def __init__(self, parts: Parts) -> None:
        self.pieces = [name.encode("utf-8") for name in parts.names[FIRST_PIECE:]]
        if max(map(len, parts.names)) > MOST_LETTERS:  # the library follows a piece letter by letter, each a call within the last
            raise ValueError(f"it has a piece of more than {MOST_LETTERS} characters")
        self._library = parts.library()
        for names in ("".join(BYTES), "".join(SPECIALS), *BYTES, *SPECIALS):
            ids = run(self._library, [names])[0]
            known = [bytes([id - FIRST_BYTE]) if id < FIRST_PIECE else self.pieces[id - FIRST_PIECE] for id in ids if id >= FIRST_BYTE]
            if len(known) < len(ids) or b"".join(known) != names.encode():
                raise ValueError("it takes what is typed for a control token or a byte")

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: where the split cuts it too."""
        return line_end(text, start, end)

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into (N,) int32 ids."""
        return run(self._library, [text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return run(self._library, list(texts))


def cover(counts: Counter[str], limit: int) -> set[str]:
    """Choose the most frequent characters: as many as cover the text up to COVERAGE, at most `limit`."""
    ranked = rank(counts)
    if not ranked:
        return set()
    total = np.cumsum([counts[each] for each in ranked])
    return set(ranked[: min(limit, int(np.searchsorted(total, COVERAGE * total[-1])) + 1)])


def split(word: str, alphabet: set[str]) -> Iterator[str]:
    """Give the longest parts of a word that lie within the alphabet."""
    for inside, letters in itertools.groupby(word, alphabet.__contains__):
        if inside:
            yield "".join(letters)


def repeat(words: Counter[str]) -> Iterator[str]:
    """Give each word as often as it was counted, once of these with MARK behind it.

    The library looks for pieces that go on in two ways, and looks at each different word once: a frequent word that is part of no other
    would never be a piece. With MARK behind it, it is another word that has the first in it; MARK never goes on, so no piece has it.
    """
    for word, count in sorted(words.items()):
        yield from itertools.repeat(word, max(1, count - 1))
        if count > 1:
            yield word + MARK


def settle(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Make the library's pieces the same in every run: scores to the decimals that are, best first, equal ones by text.

    A character that no segmentation needs has the lowest score plus a step by its place in a hash table; here it has the lowest.
    """
    if not found:
        return []
    least = min(score for _, score in found)
    band = least + STEP * (1 + sum(len(piece) == 1 for piece, _ in found))
    scores = {piece: round(least if len(piece) == 1 and score < band else score, PLACES) for piece, score in found}
    return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))


def train(texts: Iterable[str], size: int, tell: Callable[..., None]) -> bytes:
    """Make the `tokenizer.json` of unigram pieces; see `train_unigram`."""
    if size <= FIRST_PIECE:
        raise UsageError("tokens.size", size=size, least=FIRST_PIECE + 1)
    splitter = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    words: Counter[str] = Counter()
    for text in texts:
        check(text)
        for part in bounded(text):
            words.update(word for word, _ in splitter.pre_tokenize_str(part))
    if not words:
        raise DataError("tokens.no_text")
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    seen = len(counts)
    for mark in (MARK, END_OF_WORD):
        counts.pop(mark, None)
    room = size - FIRST_PIECE
    alphabet = cover(counts, max(1, int(ALPHABET * room)))
    parts: Counter[str] = Counter()
    for word, count in words.items():
        for part in split(word, alphabet):
            parts[part] += count
    library = Library(models.Unigram())
    kept = Counter({part: parts[part] for part in rank(parts)[:WORDS]})
    letters = sorted(alphabet)
    trainer = trainers.UnigramTrainer(vocab_size=room + 1, max_piece_length=LONGEST, initial_alphabet=letters, show_progress=False)
    if kept:
        library.train_from_iterator(repeat(kept), trainer)
    learnt: list[tuple[str, float]] = json.loads(library.to_str())["model"]["vocab"]
    pieces = settle([(piece, score) for piece, score in learnt if piece != MARK])
    tell("tokens.unigram", size=FIRST_PIECE + len(pieces), wanted=size, kept=len(alphabet), seen=seen)
    # Control tokens and bytes cannot match; their score must only not be the lowest, from which the price of an unknown character is made.
    vocabulary = [*([name, 0.0] for name in (*SPECIALS, *BYTES)), *([piece, score] for piece, score in pieces)]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": True}
    library.pre_tokenizer = splitter
    return write(model, json.loads(library.to_str())["pre_tokenizer"], FALLBACK)
