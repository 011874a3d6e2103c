"""Which text belongs to which picture: vectors of both in one space, learnt from pairs.   image, text -> do they belong together?

A pair's answer is yes or no, with the probability that they belong together: its cosine against those of pictures and texts of validation
that were put together at random. How often a picture finds its own text among all is judged in evaluation (`evaluation/matches.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.data.batch import pad
from zhixing.data.schema import Image, Schema, Text
from zhixing.metrics.figures import Figures
from zhixing.tasks.classify import READ_AHEAD
from zhixing.tasks.see import looked_at, side_of
from zhixing.tasks.task import Answer, Example, Item

READ_BATCH = 64
YES, NO = "yes", "no"
STEPS = 50  # of Newton, for two numbers
LEAST_PAIRS = 20  # of validation, from which a probability can be told


@dataclass(frozen=True)
class Match:
    """Pairs of a picture and a text.

    size           int, pixels     of a side of every picture, whose shape is kept
    longest        int, tokens     of a text that is read
    slope, bias    float           logit of a pair = slope x cosine + bias; fitted on validation
    """

    size: int = 64
    longest: int = 64
    slope: float = 10.0
    bias: float = -5.0

    name: ClassVar[str] = "match"
    kinds: ClassVar[tuple[str, ...]] = ("towers",)
    schema: ClassVar[Schema] = Schema({"image": Image(), "text": Text()})
    figures: ClassVar[Figures] = {}  # of all pairs, not of answers: made in evaluation
    counted: ClassVar[dict[str, str]] = {}
    default: ClassVar[str] = "towers"
    eras: ClassVar[tuple[str, ...]] = ()
    dial: ClassVar[dict[str, Any]] = {"tokenizer": "words", "window": 64, "weight_decay": 0.02, "accumulate": 1}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.match:calibrated"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Match:
        """Read the size of pictures from the training examples."""
        return cls(**{"size": side_of(training_examples), **settings})

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a pair into {"tokens": (T,) int, "image": (C, Y, X) uint8, "text_key", "image_key": equal where texts or pictures are}.

        Raises DataError for a picture that cannot be read.
        """
        tokens = tokenizer.framed(tokenizer.encode(example["text"]), self.longest)
        return {
            "tokens": np.asarray(tokens if len(tokens) else [tokenizer.end_id], np.int64),
            "image": looked_at(example["image"], self.size),
            "text_key": zlib.crc32(example["text"].encode()),
            "image_key": zlib.crc32(example["image"].encode()),
        }

    def head(self, width: int) -> None:
        """Towers have no head: their vectors are compared as they are."""

    def objective(self, start: Any = None) -> Any:
        """Give the loss of telling the partner from the others of a batch."""
        from zhixing.objectives.contrastive import PairNats

        return PairNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each pair yes or no, and the probability that they belong together; streams in pieces."""
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            images, texts = vectors(model, chunk, tokenizer.pad_id)
            for cosine in (images * texts).sum(1):
                p = float(1 / (1 + np.exp(-(self.slope * cosine + self.bias))))
                yield Answer(YES if p >= 0.5 else NO, max(p, 1 - p), {YES: p, NO: 1 - p})

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Pairs are judged against all others of their split, in evaluation; there is no value per answer."""
        return {}


def vectors(model: Any, items: list[Item], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the vectors of pictures and of texts: two (B, D) float64, of length one."""
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for start in range(0, len(items), READ_BATCH):
        batch = pad([{name: each[name] for name in ("tokens", "image")} for each in items[start : start + READ_BATCH]], pad_id)
        if hasattr(model, "run"):
            told = model.answer(batch, "image_vectors", "text_vectors")
            both = told["image_vectors"], told["text_vectors"]
        else:
            both = _by_torch(model, batch)
        for kept, each in zip(found, both, strict=True):
            kept.append(each.astype(np.float64))
    return np.concatenate(found[0]), np.concatenate(found[1])


def _by_torch(model: Any, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from zhixing.layers.kinds import inputs_of

    device = next(model.parameters()).device
    with torch.inference_mode():
        inputs = inputs_of({name: torch.as_tensor(value).to(device) for name, value in batch.items()})
        return model.image(inputs).cpu().numpy(), model.text(inputs).cpu().numpy()


def calibrated(task: Match, model: Any, rows: list[Example], tokenizer: Any) -> Match:
    """Fit the logit of a pair on validation: its pairs, and as many pictures and texts of different pairs; with few, nothing is settled.

    Source: Platt 1999, with one wrong pair a right one.
    """
    if len(rows) < LEAST_PAIRS:
        return task
    items = [task.encode(row, tokenizer) for row in rows]
    images, texts = vectors(model, items, tokenizer.pad_id)
    apart = np.roll(np.arange(len(items)), len(items) // 2)
    keys = np.array([item["text_key"] for item in items])
    wrong = keys != keys[apart]
    cosines = np.concatenate([(images * texts).sum(1), (images * texts[apart]).sum(1)[wrong]])
    truth = np.concatenate([np.ones(len(items)), np.zeros(int(wrong.sum()))])
    if not wrong.any():
        return task
    slope, bias = logit_of(cosines, truth)
    return dataclasses.replace(task, slope=slope, bias=bias)


def logit_of(numbers: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Fit log-odds that are linear in a number, by Newton's method, held a little to 0: slope and bias.

    numbers  (N,) float
    truth    (N,) float    0 or 1
    """
    centre, spread = float(numbers.mean()), max(float(numbers.std()), 1e-6)
    table = np.stack([(numbers - centre) / spread, np.ones_like(numbers)], 1)  # (N, 2)
    weights = np.zeros(2)
    hold = np.eye(2) * 0.5
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(table @ weights, -30, 30)))
        slope = table.T @ (p - truth) + hold @ weights
        weights = weights - np.linalg.solve(table.T @ (table * (p * (1 - p))[:, None]) + hold, slope)
    return float(weights[0] / spread), float(weights[1] - weights[0] * centre / spread)
