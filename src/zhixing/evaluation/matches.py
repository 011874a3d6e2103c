"""Judging pairs of pictures and texts: how often each finds its partner among all of the split.

`recall_1` is the share of pictures whose own text is the nearest of all texts that differ from one another, `recall_5` that whose own is
one of the five nearest; `recall_1_of_texts` the share of pairs whose text is nearer to its own picture than to every picture of another
text.
Beside it: `chance`, and `nearest_picture`, which gives a picture the text of the training picture that looks most like it, pixel by pixel.
Source: Radford et al. 2021, arXiv:2103.00020 (retrieval both ways).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.data.corpus import Corpus
from zhixing.evaluation.report import Figure, Report, decide
from zhixing.metrics import intervals
from zhixing.metrics.figures import Mean
from zhixing.tasks.match import vectors

SEED = 20231
AT_ONCE = 512  # rows of the table of cosines
CELLS = 8  # of a side, of the pictures that are compared pixel by pixel
MOST_KNOWN = 10_000  # training pictures that they are compared with
Tell = Callable[..., None]


def judge_matches(artefact: Any, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score towers on all pairs of a split."""
    task, model, tokenizer = artefact.task, artefact.model, artefact.tokenizer
    examples = list(corpus.examples(split))
    tell("evaluate.answering", rows=len(examples))
    items = [task.encode(each, tokenizer) for each in examples]
    images, texts = vectors(model, items, tokenizer.pad_id)
    _, first, of = np.unique([each["text"] for each in examples], return_index=True, return_inverse=True)
    ranks, firsts = rank(images, texts[first], of), first_of_texts(images, texts, of)
    values = {"recall_1": ranks < 1, "recall_5": ranks < 5, "recall_1_of_texts": firsts}
    beside: dict[str, dict[str, float]] = {name: {} for name in values}
    comparisons: dict[str, Any] = {}
    if rivals:
        kinds = len(first)
        counts = np.bincount(of)[of]
        beside["recall_1"]["chance"], beside["recall_5"]["chance"] = 1 / kinds, min(1.0, 5 / kinds)
        beside["recall_1_of_texts"]["chance"] = float(np.mean(1 / (len(of) - counts + 1)))
        known = list(corpus.examples("train"))[:MOST_KNOWN]
        near = nearest(shrunk(task, examples), shrunk(task, known))
        told = np.array([known[place]["text"] == each["text"] for place, each in zip(near, examples, strict=True)])
        beside["recall_1"]["nearest_picture"] = float(told.mean())
        comparisons["nearest_picture"] = intervals.paired(values["recall_1"].astype(float), told.astype(float), SEED).to_dict()
    figures = []
    for name, each in values.items():
        spread = Mean(name).interval({name: each.astype(float)}, SEED)
        figures.append(Figure(name, float(each.mean()), spread.low, spread.high, beside[name]))
    where = (str(artefact.folder.path), str(corpus.path))
    details = {"texts": len(first)}
    return Report(*where, split, task.name, len(examples), tuple(figures), comparisons, decide(comparisons, True), details)


def rank(images: np.ndarray, texts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Count for each picture the other texts that are at least as near as its own: (B,) int.

    images  (B, D) float
    texts   (N, D) float    the texts, each once
    of      (B,) int        which of them is a picture's own
    """
    found = np.zeros(len(images), np.int64)
    for start in range(0, len(images), AT_ONCE):
        own = of[start : start + AT_ONCE]
        cosines = images[start : start + AT_ONCE] @ texts.T  # (B, N)
        found[start : start + AT_ONCE] = (cosines >= cosines[np.arange(len(own)), own][:, None]).sum(1) - 1
    return found


def first_of_texts(images: np.ndarray, texts: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Say of each pair whether its text is nearer to its own picture than to every picture of another text: (B,) bool."""
    found = np.zeros(len(images), bool)
    for start in range(0, len(images), AT_ONCE):
        rows = np.arange(start, min(start + AT_ONCE, len(images)))
        cosines = texts[rows] @ images.T  # (B, B)
        own = cosines[np.arange(len(rows)), rows]
        cosines[of[rows][:, None] == of] = -np.inf
        found[rows] = own > cosines.max(1, initial=-np.inf)
    return found


def shrunk(task: Any, examples: list[dict[str, Any]]) -> np.ndarray:
    """Give pictures as few numbers: (B, N) float32."""
    from zhixing.models.pixels import shrink
    from zhixing.tasks.see import looked_at

    return np.stack([shrink(looked_at(each["image"], task.size), CELLS).ravel() for each in examples]).astype(np.float32)


def nearest(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give for each row the place of the nearest known one: (B, N) and (B', N) float to (B,) int."""
    squares = (known**2).sum(1)
    parts = [(squares - 2 * rows[start : start + AT_ONCE] @ known.T).argmin(1) for start in range(0, len(rows), AT_ONCE)]
    return np.concatenate(parts)
