"""Grading: the score of an answer, beside a reference where there is one.   answer, reference -> score

Agreement with the teacher is quadratic weighted kappa, for which a grade that is far off counts more; questions that training has not
seen are judged apart, since a grader of known questions may know their answers by heart. Where questions have scales of their own (an essay
out of 12, another out of 3), each is graded on its own, and kappa is the mean over the questions, as is the custom for essays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Number, Schema, Text
from zhixing.metrics import grades as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item, counted_in

OWN_ROWS = 50  # scores of a question in training, from which on its highest and lowest are known
SHARED = "shared"  # the model of the questions that share a scale, beside those of questions with their own
MOST_GRADES = 100  # steps of a scale that is counted in steps; a finer one has as many


@dataclass(frozen=True)
class Grade:
    """One answer, one score.

    low, high, step  of the scale: the lowest and the highest score of training, and the smallest gap between two
    longest          tokens of answer and reference that a neural model reads
    questions        marks of the questions that training has shown, 8 bytes of a hash each
    scales           {mark of a question: low, high and step of its own}; empty where questions share a scale: where in training all of at
                     least OWN_ROWS scores reach the same highest
    """

    low: float
    high: float
    step: float
    longest: int = 256
    questions: tuple[str, ...] = ()
    scales: dict[str, list[float]] = field(default_factory=dict)

    name: ClassVar[str] = "grade"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema(
        {"text": Text(), "reference": Text(optional=True), "question": Text(optional=True), "score": Number()}, "score"
    )
    figures: ClassVar[Figures] = {
        "kappa": Whole(judged.mean_kappa, ("expected", "given", "scale")),
        "kappa_unseen": Whole(judged.kappa_of_unseen, ("expected", "given", "unseen")),
        "exact": Mean("correct"),
        "gap": Mean("gap", lower=True),
    }
    counted: ClassVar[dict[str, str]] = {"mean_score": "zhixing.tasks.grade:fit_mean", "ridge": "zhixing.tasks.grade:fit_ridge"}
    default: ClassVar[str] = "ridge"
    eras: ClassVar[tuple[str, ...]] = ("textcnn", "bigru")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 12.0, "learning_rate": 0.001, "dropout": 0.2}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Grade:
        """Read the scale and the questions from the training examples; raises DataError when all have one score."""
        scores: dict[str, list[float]] = {}
        for example in training_examples:
            scores.setdefault(mark(example), []).append(example["score"])
        every = {score for each in scores.values() for score in each}
        if len(every) < 2:
            raise DataError("task.one_label", labels=", ".join(map(str, every)))
        known = {name: set(each) for name, each in scores.items() if name and len(each) >= OWN_ROWS and len(set(each)) > 1}
        differ = len({max(each) for each in known.values()}) > 1
        scales = {name: list(read_scale(each)) for name, each in sorted(known.items())} if differ else {}
        return cls(*read_scale(every), questions=tuple(sorted(set(scores) - {""})), scales=scales, **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"tokens": (T,) int} of reference, end token and answer; with no tokenizer into {"texts": (answer, reference)}.

        With a score there is "label", the score's place on the scale, 0..1.
        """
        texts = (example["text"], example.get("reference") or example.get("question") or "")
        item: Item = {"texts": texts, "question": mark(example)}
        if tokenizer is not None:
            pieces = [tokenizer.encode(texts[1]), [tokenizer.end_id], tokenizer.encode(texts[0])]
            kept = self.longest - sum(map(len, tokenizer.frame))  # the answer comes last, and is what must not be cut
            item = {"tokens": tokenizer.framed(np.concatenate(pieces)[-max(1, kept) :], self.longest)}
        low, high, _ = item["scale"] = scale_of(self, example)
        if "score" in example:
            item["label"] = (example["score"] - low) / (high - low)
        return item

    def head(self, width: int) -> Any:
        """Give a map from a text's states to one number, starting at zero."""
        from zhixing.layers.heads import Pooled

        return Pooled(width, 1)

    def objective(self, start: Any = None) -> Any:
        """Give the squared gap between the grade and the score: the mean is what is learnt."""
        from zhixing.objectives.numbers import SquaredGap

        return SquaredGap()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each answer's grade, the step of the scale that is nearest, and as its score the value before it was rounded."""
        kept = list(items)
        if hasattr(model, "predict"):
            places = model.predict([each["texts"] for each in kept])
        elif hasattr(model, "parts"):
            places = np.zeros(len(kept))
            owners = [each["question"] if each["question"] in model.parts else SHARED for each in kept]
            for name in set(owners):
                own = [place for place, owner in enumerate(owners) if owner == name]
                places[own] = model.parts[name].predict([kept[place]["texts"] for place in own])
        else:
            places = read_out(model, kept, tokenizer.pad_id, 1)[:, 0]
        for place, (low, high, step) in zip(places, (each["scale"] for each in kept), strict=True):
            value = low + (high - low) * place
            yield Answer(float(np.clip(low + round((value - low) / step) * step, low, high)), None, {"exact": float(value)})

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per row: steps expected and given, the number of its scale (0: shared), if its question is new, if it is right, the gap."""
        scales = np.array([scale_of(self, each) for each in examples], float).reshape(-1, 3)  # (B, 3)
        points = np.array([[each["score"], answer.value] for each, answer in zip(examples, answers, strict=True)], float).reshape(-1, 2)
        expected, given = np.round((points - scales[:, :1]) / scales[:, 2:]).astype(int).T  # (B,) each
        marks = [mark(each) for each in examples]
        numbers = {name: number for number, name in enumerate(self.scales, 1)}
        seen = set(self.questions)
        return {
            "expected": expected,
            "given": given,
            "scale": np.array([numbers.get(each, 0) for each in marks], int),
            "unseen": np.array([bool(each) and each not in seen for each in marks], bool),
            "correct": (expected == given).astype(float),
            "gap": np.abs(points[:, 0] - points[:, 1]),
        }


def scale_of(task: Grade, example: Example) -> tuple[float, float, float]:
    """Give the lowest and the highest score of an example's question, and the step between two."""
    shared = (task.low, task.high, task.step)
    low, high, step = task.scales.get(mark(example), shared) if task.scales else shared
    return low, high, step


def read_scale(scores: set[float]) -> tuple[float, float, float]:
    """Give the lowest and the highest of at least two scores, and the smallest gap between two."""
    ordered = sorted(scores)
    low, high = ordered[0], ordered[-1]
    return low, high, max(min(b - a for a, b in zip(ordered, ordered[1:], strict=False)), (high - low) / MOST_GRADES)


def mark(example: Example) -> str:
    """Give the mark of an example's question, or of its reference where it has none; empty: neither is there."""
    text = example.get("question") or example.get("reference") or ""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest() if text else ""


Fitted = tuple[Grade, Any, dict[str, Any]]


def fit_ridge(task: Grade, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit ridge regression on the words of answer and reference and on what they share, to training and held rows together.

    The strength is the best by leaving each row out in turn, which on few rows is far surer than a tenth of them; on held rows where there
    are more than EXACT_ROWS.
    Each question with a scale of its own has a model of its own, since what is worth a point differs as well.
    """
    from zhixing.models.ridge import EXACT_ROWS, Ridge
    from zhixing.models.several import Several

    def fit(seen: list[Item], apart: list[Item]) -> Ridge:
        strength = settings.get("strength") or None
        texts, labels = ([[each[name] for each in part] for part in (seen, apart)] for name in ("texts", "label"))
        every = [counted_in(*each, settings) for each in (texts, labels)]
        if apart and strength is None and len(every[0]) > EXACT_ROWS:
            strength = Ridge.fit(texts[0], labels[0], (texts[1], labels[1])).config.strength
        model = Ridge.fit(*every, strength=strength)
        tell("train.strength", method="ridge", strength=model.config.strength)
        return model

    seen, apart = ([task.encode(each, None) for each in part] for part in (rows, held))
    if not task.scales:
        model = fit(seen, apart)
        return task, model, {"strength": model.config.strength}
    parts = {}
    for name in (*task.scales, SHARED):
        own = [
            [each for each in part if (each["question"] if each["question"] in task.scales else SHARED) == name] for part in (seen, apart)
        ]
        parts[name] = fit(*own) if own[0] else Ridge.constant(2, [each["label"] for each in seen])
    return task, Several("ridge", parts), {"strength": {name: part.config.strength for name, part in parts.items()}}


def fit_mean(task: Grade, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Give every answer the mean place on its scale."""
    from zhixing.models.ridge import Ridge

    return task, Ridge.constant(2, [task.encode(each, None)["label"] for each in counted_in(rows, held, settings)]), {}
