"""How alike two texts are, by the cosine of their vectors: search, duplicates, sentence vectors.   text, other -> how alike

Pairs come with a score of how alike they are, or without one: then each text belongs to its other and to none of the rest, as a question
does to its answer. With scores a model is judged by its order (Spearman) and its line (Pearson); without, by how often a text finds its
own among all others of the split (`evaluation/partners.py`). The answer is on the scale of the scores, fitted on validation; where there
are none it is the cosine.
Source: Reimers and Gurevych 2019, arXiv:1908.10084.
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.data.schema import Number, Schema, Text
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.metrics.likeness import pearson, spearman
from zhixing.tasks.classify import READ_AHEAD
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item, counted_in

FIRST, SECOND, SCORE, COSINE = "text", "other", "score", "cosine"
LEAST_PAIRS = 20  # of validation, from which a line is fitted


@dataclass(frozen=True)
class Similar:
    """Pairs of texts.

    longest      int, tokens    of a text that a neural model reads
    scored       bool           whether a pair of training has a score
    low, high    float          the lowest and the highest of these, -1 and 1 where there are none; answers stay between them
    slope, bias  float          answer = slope x cosine + bias
    """

    longest: int = 256
    scored: bool = False
    low: float = -1.0
    high: float = 1.0
    slope: float = 1.0
    bias: float = 0.0

    name: ClassVar[str] = "similar"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema({FIRST: Text(), SECOND: Text(turned=True), SCORE: Number(optional=True)}, SCORE)
    figures: ClassVar[Figures] = {
        "spearman": Whole(spearman, ("expected", "given")),
        "pearson": Whole(pearson, ("expected", "given")),
        "gap": Mean("gap", lower=True),
    }
    counted: ClassVar[dict[str, str]] = {
        "same_for_all": "zhixing.tasks.similar:fit_same",
        "overlap": "zhixing.tasks.similar:fit_overlap",
    }
    default: ClassVar[str] = "overlap"
    eras: ClassVar[tuple[str, ...]] = ("bigru", "bert")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 128, "epochs": 8.0, "learning_rate": 0.001, "dropout": 0.1, "accumulate": 1}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.similar:calibrated"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Similar:
        """Read the ends of the scale from the training examples, if any has a score."""
        scores = [each[SCORE] for each in training_examples if each.get(SCORE) is not None]
        ends = {"scored": True, "low": min(scores), "high": max(scores)} if scores else {}
        return cls(**{**ends, **settings})

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a pair into {"tokens": (T,) int, "others": (T',) int, "text_key", "other_key": equal where texts are}; with no tokenizer
        into {"texts": (text, other)}.

        Of a pair that may be learnt from there is "alike" as well, its score's place on the scale, 0..1, or NaN.
        """
        texts = (example[FIRST], example[SECOND])
        if tokenizer is None:
            return {"texts": texts}
        first, second = (tokens_of(self, each, tokenizer) for each in texts)
        keys = {f"{name}_key": zlib.crc32(each.encode()) for name, each in zip(("text", "other"), texts, strict=True)}
        return {"tokens": first, "others": second, **keys, "alike": place_of(self, example.get(SCORE))}

    def head(self, width: int) -> Any:
        """Give what makes a vector of length one of a text's states."""
        from zhixing.layers.heads import Direction

        return Direction()

    def objective(self, start: Any = None) -> Any:
        """Give the loss of telling which pairs are more alike."""
        from zhixing.objectives.contrastive import Alike

        return Alike()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give how alike each pair is, and the cosine; streams in pieces."""
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            for cosine in cosines_of(model, chunk, 0 if tokenizer is None else tokenizer.pad_id):
                value = min(max(self.slope * cosine + self.bias, self.low), self.high)
                yield Answer(float(value), None, {COSINE: float(cosine)})

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per pair the score, NaN where there is none, what was given, and the gap between the two."""
        expected = np.array([np.nan if each.get(SCORE) is None else each[SCORE] for each in examples], float)
        given = np.array([each.value for each in answers], float)
        return {"expected": expected, "given": given, "gap": np.abs(expected - given)}


def place_of(task: Similar, score: float | None) -> float:
    """Give a score's place on the scale, 0..1 in training; NaN where there is none."""
    return float("nan") if score is None else (score - task.low) / ((task.high - task.low) or 1.0)


def tokens_of(task: Similar, text: str, tokenizer: Any) -> np.ndarray:
    """Give the (T,) int64 tokens of one text."""
    found = tokenizer.framed(tokenizer.encode(text), task.longest)
    return found if len(found) else np.array([tokenizer.end_id], np.int64)


def vectors(task: Similar, model: Any, texts: Sequence[str], tokenizer: Any) -> Any:
    """Give (B, D) float64 vectors of length one, sparse ones of a counted model."""
    if hasattr(model, "vectors"):
        return model.vectors(list(texts))
    return read_out(model, [{"tokens": tokens_of(task, each, tokenizer)} for each in texts], tokenizer.pad_id, width_of(model))


def width_of(model: Any) -> int:
    """Give how many numbers a trained model's vectors have."""
    return getattr(model, "body", model).width


def cosines_of(model: Any, items: Sequence[Item], pad_id: int) -> np.ndarray:
    """Give (N,) float64: the cosine of each pair."""
    if hasattr(model, "vectors"):
        first, second = (model.vectors([each["texts"][side] for each in items]) for side in (0, 1))
        return np.asarray(first.multiply(second).sum(1), float).ravel()
    sides = [{"tokens": each[name]} for name in ("tokens", "others") for each in items]
    vectors = read_out(model, sides, pad_id, width_of(model))  # (2 N, D)
    return (vectors[: len(items)] * vectors[len(items) :]).sum(1)


def calibrated(task: Similar, model: Any, rows: list[Example], tokenizer: Any) -> Similar:
    """Fit the line from cosine to score on validation, by least squares; with few scores, or none, a cosine of 0 and 1 are its ends."""
    told = [each for each in rows if each.get(SCORE) is not None]
    if not task.scored:
        return task
    plain = dataclasses.replace(task, slope=task.high - task.low, bias=task.low)
    if len(told) < LEAST_PAIRS:
        return plain
    found = cosines_of(model, [task.encode(each, tokenizer) for each in told], 0 if tokenizer is None else tokenizer.pad_id)
    if found.std() < 1e-9:
        return plain
    slope, bias = np.polyfit(found, [each[SCORE] for each in told], 1)
    return dataclasses.replace(task, slope=float(slope), bias=float(bias)) if slope > 0 else plain


Fitted = tuple[Similar, Any, dict[str, Any]]


def fit_same(task: Similar, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Give every pair the mean score: what a model must at least be better than."""
    from zhixing.models.overlap import Overlap

    scores = [each[SCORE] for each in counted_in(rows, held, settings) if each.get(SCORE) is not None]
    middle = float(np.mean(scores)) if scores else (task.low + task.high) / 2
    return dataclasses.replace(task, slope=0.0, bias=middle), Overlap.fit([each[FIRST] for each in rows]), {}


def fit_overlap(task: Similar, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Weigh n-grams by the texts of both sides, and fit the line on the held rows, or on those of training where none are held."""
    from zhixing.models.overlap import Overlap

    counted = counted_in(rows, held, settings)
    model = Overlap.fit([each[name] for each in counted for name in (FIRST, SECOND)])
    return calibrated(task, model, held or rows, None), model, {}
