"""Representation: which words stand near a word, p(context word | word), read out as a vector a word.   text -> vector, nearest words

What training makes is not text: words that are used alike get vectors that point alike. Nearest words are those of the largest cosine, and
an expression like `king - man + woman` adds and subtracts vectors of length 1 and leaves its own words out of the answer
(Mikolov et al. 2013, arXiv:1301.3781; Levy and Goldberg 2014, "Linguistic regularities", 3CosAdd).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.data.schema import Schema, Text
from zhixing.metrics.figures import Figures
from zhixing.tasks.task import Answer, Example, Item
from zhixing.tokens.lexicon import Lexicon, find_pieces, fold

READ_AHEAD = 512  # texts whose nearest words are looked up at once
WORDS_ANSWERED = 10
SIGNS = {"+": 1, "-": -1, "＋": 1, "－": -1, "−": -1}
LEAST_LENGTH = 1e-3  # of a sum of unit vectors; a shorter one is rounding, not a direction
# Where signs stand without spaces they part words only where no word can hold them: "well-known" is one word.
TIGHT = re.compile(r"^[-−－]|[+＋]|(?<=[\u3400-\u9fff])[-−－]|[-−－](?=[\u3400-\u9fff])")


@dataclass(frozen=True)
class Embed:
    """A vector for every word of a text.

    method     "skipgram" or "cbow"
    window     int, words     how far a context reaches
    negatives  int            words drawn against a pair; 0: the exact softmax
    subsample  float          share of the text above which a word is thinned out in training; 0: never
    minimum    int            a word that stands in the training text more rarely gets no vector
    """

    method: str = "skipgram"
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    minimum: int = 5

    name: ClassVar[str] = "embed"
    kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    schema: ClassVar[Schema] = Schema({"text": Text()})
    figures: ClassVar[Figures] = {}  # of contexts, not of answers: made in evaluation
    counted: ClassVar[dict[str, str]] = {}
    default: ClassVar[str] = "skipgram"
    eras: ClassVar[tuple[str, ...]] = ()
    dial: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Embed:
        """There is nothing to learn from the examples: the words are the tokenizer's."""
        return cls(**settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a text into {"tokens": (T,) int}."""
        return {"tokens": np.asarray(tokenizer.encode(example["text"]), np.int64)}

    def head(self, width: int) -> None:
        """Vectors have no head: they are the states themselves."""

    def objective(self, start: Any = None) -> Any:
        """Give the loss of telling words that stand near from words that do not."""
        from zhixing.objectives.contexts import ContextNats

        return ContextNats(self.method, self.window, self.negatives)

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give the word nearest to each text's vector, and the cosines of the nearest ones; no word for a text that holds none."""
        words = words_of(model, tokenizer)
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            vectors = model.embed([item["tokens"] for item in chunk])  # (B, D)
            cosines, found = model.nearest(vectors, WORDS_ANSWERED)
            for vector, row, near in zip(vectors, cosines, found, strict=True):
                scores = {words[word]: float(cosine) for word, cosine in zip(near, row, strict=True)} if vector.any() else {}
                yield Answer(next(iter(scores), ""), None, scores)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Vectors are judged by held-out contexts, in evaluation; there is no value per answer."""
        return {}


def learn_words(tokens: np.ndarray, tokenizer: Any, minimum: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose the words that get vectors, the most frequent first, equal counts in the order of the alphabet.

    tokens  (N,) int    the training text
    return  rows (V,) int64, the word of each token or -1; edges (V,) uint8; counts (N,) int64, of each word

    Raises DataError when no word is frequent enough.
    """
    lexicon = Lexicon.of(tokenizer)
    whole = np.asarray(tokens)[~find_pieces(lexicon.edges[tokens])]  # (N,)
    found: Counter[str] = Counter()
    for form, count in zip(lexicon.forms, np.bincount(whole, minlength=len(lexicon.forms)).tolist(), strict=True):
        if form:
            found[form] += count
    kept = sorted(((-count, form) for form, count in found.items() if count >= max(1, minimum)))
    if len(kept) < 2:
        raise DataError("embed.no_words", minimum=minimum, tokenizer=tokenizer.sort)
    row = {form: number for number, (_, form) in enumerate(kept)}
    rows = np.array([row.get(form, -1) for form in lexicon.forms], np.int64)
    return rows, lexicon.edges, np.array([-count for count, _ in kept], np.int64)


def place_words(words: np.ndarray, tokens: np.ndarray, end_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Leave out the places without a word of a run of texts, `[end] text [end] text ... [end]`, and number the texts.

    words   (N,) int   the word at each token, negative where there is none
    tokens  (N,) int
    return  words and which text each stands in, both (N',) int32
    """
    kept = words >= 0
    return words[kept].astype(np.int32), np.cumsum(np.asarray(tokens) == end_id)[kept].astype(np.int32)


def words_of(model: Any, tokenizer: Any) -> list[str]:
    """Spell the words that a model has vectors for, in their order."""
    words = [""] * len(model.counts)
    for form, row in zip(Lexicon.of(tokenizer).forms, model.rows.tolist(), strict=True):
        if row >= 0:
            words[row] = form
    return words


def parse(expression: str, known: Iterable[str]) -> list[tuple[int, str]]:
    """Read words joined by + and -; a sign needs spaces around it, except + and what touches a Chinese character.

    known   words that are never taken apart
    return  (1 or -1, word) pairs

    Raises UsageError when there is no word, a sign without a word, or a word without a sign before it.
    """
    known = frozenset(known)
    pieces: list[str] = []
    for piece in expression.split():
        if fold(piece) in known:
            pieces.append(piece)
            continue
        start = 0
        for match in TIGHT.finditer(piece):
            pieces += [piece[start : match.start()], match.group()]
            start = match.end()
        pieces.append(piece[start:])
    pieces = [piece for piece in pieces if piece]
    terms: list[tuple[int, str]] = []
    sign: int | None = 1
    for place, piece in enumerate(pieces):
        if piece in SIGNS and (sign is None or place == 0):
            sign = SIGNS[piece]
        elif piece in SIGNS or sign is None:
            raise UsageError("embed.expression", expression=expression, piece=piece)
        else:
            terms.append((sign, fold(piece)))
            sign = None
    if sign is not None:
        raise UsageError("embed.expression", expression=expression, piece=pieces[-1] if pieces else "")
    return terms


def nearest(model: Any, tokenizer: Any, expression: str, count: int = 10) -> list[tuple[str, float]]:
    """Give the words nearest to a word, or to a sum and difference of words, with their cosines; its own words are left out.

    Raises UsageError for an expression that cannot be read or leaves nothing, a word that has no vector, or a count below 1.
    """
    import torch
    from torch.nn import functional as F

    if count < 1:
        raise UsageError("usage.count", value=count)
    words = words_of(model, tokenizer)
    place = {word: number for number, word in enumerate(words)}
    terms = parse(expression, place)
    for _, word in terms:
        if word not in place:
            raise UsageError("embed.unknown_word", name=word, among=words, count=len(words))
    own = torch.tensor([place[word] for _, word in terms])
    signs = torch.tensor([float(sign) for sign, _ in terms])
    with torch.no_grad():
        vector = signs @ F.normalize(model.vectors(own), dim=1)  # (D,)
    if vector.norm() < LEAST_LENGTH:  # such as king - king: nothing is near to nothing
        raise UsageError("embed.nothing", expression=expression)
    cosines, found = model.nearest(vector[None].numpy(), count + len(terms))
    pairs = zip(found[0].tolist(), cosines[0].tolist(), strict=True)
    return [(words[word], cosine) for word, cosine in pairs if word not in own.tolist()][:count]
