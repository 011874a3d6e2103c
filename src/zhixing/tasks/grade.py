"""Grading: the score of an answer, beside a reference where there is one.   answer, reference -> score

Agreement with the teacher is quadratic weighted kappa, for which a grade that is far off counts more; questions that training has not
seen are judged apart, since a grader of known questions may know their answers by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Number, Schema, Text
from zhixing.metrics import grades as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item, counted_in

MOST_GRADES = 100  # steps of a scale that is counted in steps; a finer one has as many


@dataclass(frozen=True)
class Grade:
    """One answer, one score.

    low, high, step  of the scale: the lowest and the highest score of training, and the smallest gap between two
    longest          tokens of answer and reference that a neural model reads
    questions        marks of the questions that training has shown, 8 bytes of a hash each
    """

    low: float
    high: float
    step: float
    longest: int = 256
    questions: tuple[str, ...] = ()

    name: ClassVar[str] = "grade"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema(
        {"text": Text(), "reference": Text(optional=True), "question": Text(optional=True), "score": Number()}, "score"
    )
    figures: ClassVar[Figures] = {
        "kappa": Whole(judged.quadratic_kappa, ("expected", "given")),
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
        scores: set[float] = set()
        questions: set[str] = set()
        for example in training_examples:
            scores.add(example["score"])
            questions.add(mark(example))
        if len(scores) < 2:
            raise DataError("task.one_label", labels=", ".join(map(str, scores)))
        ordered = sorted(scores)
        low, high = ordered[0], ordered[-1]
        step = max(min(b - a for a, b in zip(ordered, ordered[1:], strict=False)), (high - low) / MOST_GRADES)
        return cls(low, high, step, questions=tuple(sorted(questions - {""})), **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"tokens": (T,) int} of reference, end token and answer; with no tokenizer into {"texts": (answer, reference)}.

        With a score there is "label", the score's place on the scale, 0..1.
        """
        texts = (example["text"], example.get("reference") or example.get("question") or "")
        item: Item = {"texts": texts}
        if tokenizer is not None:
            pieces = [tokenizer.encode(texts[1]), [tokenizer.end_id], tokenizer.encode(texts[0])]
            item = {"tokens": np.concatenate(pieces).astype(np.int64)[-self.longest :]}
        if "score" in example:
            item["label"] = (example["score"] - self.low) / (self.high - self.low)
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
            values = model.predict([each["texts"] for each in kept])
        else:
            values = self.low + (self.high - self.low) * read_out(model, kept, tokenizer.pad_id, 1)[:, 0]
        for value in values:
            rounded = self.low + round((value - self.low) / self.step) * self.step
            yield Answer(float(np.clip(rounded, self.low, self.high)), None, {"exact": float(value)})

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per row: the steps expected and given, whether its question is new, whether the grade is exact, and the gap in points."""

        def steps(values: list[float]) -> np.ndarray:
            return np.round((np.array(values, float) - self.low) / self.step).astype(int)

        given, expected = [each.value for each in answers], [each["score"] for each in examples]
        seen = set(self.questions)
        unseen = np.array([bool(mark(each)) and mark(each) not in seen for each in examples])
        gap = np.abs(np.array(given, float) - np.array(expected, float))
        first, second = steps(expected), steps(given)
        return {"expected": first, "given": second, "unseen": unseen, "correct": (first == second).astype(float), "gap": gap}


def mark(example: Example) -> str:
    """Give the mark of an example's question, or of its reference where it has none; empty: neither is there."""
    text = example.get("question") or example.get("reference") or ""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8).hexdigest() if text else ""


Fitted = tuple[Grade, Any, dict[str, Any]]


def fit_ridge(task: Grade, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit ridge regression on the words of answer and reference and on what they share: strength on the held rows, then both together."""
    from zhixing.models.ridge import Ridge

    def split(part: list[Example]) -> tuple[list[tuple[str, ...]], list[float]]:
        return [task.encode(each, None)["texts"] for each in part], [each["score"] for each in part]

    strength = settings.get("strength") or None
    if held and strength is None:
        strength = Ridge.fit(*split(rows), split(held)).config.strength
        tell("train.strength", method="ridge", strength=strength)
    model = Ridge.fit(*split(counted_in(rows, held, settings)), strength=strength)
    return task, model, {"strength": model.config.strength}


def fit_mean(task: Grade, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Give every answer the mean score."""
    from zhixing.models.ridge import Ridge

    return task, Ridge.constant(2, [each["score"] for each in counted_in(rows, held, settings)]), {}
