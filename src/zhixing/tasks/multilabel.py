"""Classification with any number of labels: p(text has the label) for each label, on its own.   text -> labels

A label is given where its probability reaches a cut of its own, fitted on validation: rare labels seldom reach a half.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Labels, Schema, Text
from zhixing.metrics import labels as judged
from zhixing.metrics import spans
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.classify import FEW, READ_AHEAD
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item, counted_in

SUPPORT = 10  # validation rows that must have a label for a cut of its own: one fitted on fewer is luck
HALF = 0.5
HELD_OUT = 10  # one row in so many settles the cuts where there are no validation rows


@dataclass(frozen=True)
class Multilabel:
    """One text, any number of labels.

    labels   the labels, in sorted order: index in this tuple is the model's output
    longest  tokens of a text that a neural model reads
    cuts     the probability from which on each label is given
    """

    labels: tuple[str, ...]
    longest: int = 256
    cuts: tuple[float, ...] = ()

    name: ClassVar[str] = "multilabel"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "document", "causal")
    schema: ClassVar[Schema] = Schema({"text": Text(), "labels": Labels()}, "labels")
    figures: ClassVar[Figures] = {
        "micro_f1": Whole(spans.f1, ("sets",)),
        "macro_f1": Whole(judged.macro_f1_of_sets, ("expected", "given")),
        "exact": Mean("correct"),
        "nats": Mean("nats", lower=True),
    }
    counted: ClassVar[dict[str, str]] = {
        "frequent_set": "zhixing.tasks.multilabel:fit_frequent",
        "bag_each": "zhixing.tasks.multilabel:fit_each",
    }
    default: ClassVar[str] = "bag_each"
    eras: ClassVar[tuple[str, ...]] = ("textcnn", "bigru")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 12.0, "learning_rate": 0.001, "dropout": 0.2}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.multilabel:cut"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Multilabel:
        """Read the labels from the training examples; raises DataError when there are fewer than two."""
        labels = sorted({label for example in training_examples for label in example["labels"]})
        if len(labels) < 2:
            raise DataError("task.one_label", labels=", ".join(labels))
        return cls(labels=tuple(labels), **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"tokens": (T,) int} or, with no tokenizer, {"text": str}; and "wanted" (labels,) float32, 1 for those it has.

        A label that training has not seen is not among them.
        """
        item: Item = {}
        if tokenizer is None:
            item["text"] = example["text"]
        else:
            tokens = tokenizer.framed(tokenizer.encode(example["text"]), self.longest)
            item["tokens"] = np.asarray(tokens if len(tokens) else [tokenizer.end_id], np.int64)  # (T,)
        if "labels" in example:
            item["wanted"] = np.isin(self.labels, example["labels"]).astype(np.float32)
        return item

    def head(self, width: int) -> Any:
        """Give a map from a text's states to the log-odds of each label, starting at zero."""
        from zhixing.layers.heads import Pooled

        return Pooled(width, len(self.labels))

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of each label's being there or not."""
        from zhixing.objectives.labels import BinaryNats

        return BinaryNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each text's labels; the confidence is the probability of just this set, the scores are each label's own."""
        items = iter(items)
        cuts = np.array(self.cuts or [HALF] * len(self.labels))
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            for row in self._read(model, chunk, 0 if tokenizer is None else tokenizer.pad_id):
                there = row >= cuts
                sure = float(np.where(there, row, 1 - row).prod())
                value = [label for label, given in zip(self.labels, there, strict=True) if given]
                yield Answer(value, sure, dict(zip(self.labels, map(float, row), strict=True)))

    def _read(self, model: Any, items: list[Item], pad_id: int) -> np.ndarray:
        """Give (N, labels) float64 p(text has the label), whatever the kind of model."""
        if hasattr(model, "probabilities"):
            return model.probabilities([each["text"] for each in items])
        return np.exp(-np.logaddexp(0.0, -read_out(model, items, pad_id, len(self.labels))))

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per text: its labels found, given and expected (N, 3); both sets as (N, labels + 1) 0 or 1, the last for labels that
        training has not seen; whether they are equal, nats a label, and the confidence."""
        expected, given = (np.zeros((len(examples), len(self.labels) + 1)) for _ in range(2))
        sets, nats = np.zeros((len(examples), 3)), np.zeros(len(examples))
        for place, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            wanted, said = set(example["labels"]), set(answer.value)
            sets[place] = len(wanted & said), len(said), len(wanted)
            there = np.isin(self.labels, list(wanted))
            expected[place] = [*there, bool(wanted - set(self.labels))]
            given[place, :-1] = np.isin(self.labels, list(said))
            p = np.array([(answer.scores or {}).get(label, 0.0) for label in self.labels])
            nats[place] = -np.log(np.maximum(np.where(there, p, 1 - p), FEW)).mean()
        correct = ((sets[:, 0] == sets[:, 1]) & (sets[:, 0] == sets[:, 2])).astype(float)
        confidence = np.array([each.confidence for each in answers], float)
        return {"sets": sets, "expected": expected, "given": given, "correct": correct, "nats": nats, "confidence": confidence}


def cut(task: Multilabel, model: Any, rows: list[Example], tokenizer: Any) -> Multilabel:
    """Settle for each label the cut whose F1 on validation is best; one that too few rows have keeps a half, as all do without any rows."""
    if not rows:
        return task
    items = [task.encode(row, tokenizer) for row in rows]
    p = task._read(model, items, 0 if tokenizer is None else tokenizer.pad_id)  # (N, labels)
    wanted = np.stack([each["wanted"] for each in items]) > 0
    cuts = [best_cut(each, there) if there.sum() >= SUPPORT else HALF for each, there in zip(p.T, wanted.T, strict=True)]
    return dataclasses.replace(task, cuts=tuple(cuts))


def best_cut(p: np.ndarray, wanted: np.ndarray) -> float:
    """Give the cut between two probabilities, (N,), from which on answering yes has the best F1; the highest of equals."""
    order = np.argsort(-p, kind="stable")
    found = np.cumsum(wanted[order])
    f1 = 2 * found / (np.arange(1, len(p) + 1) + wanted.sum())  # of taking the first 1, 2, ... of them
    ordered = np.append(p[order], -1.0)
    whole = ordered[:-1] > ordered[1:]  # equal ones are taken together
    place = int(np.argmax(np.where(whole, f1, -1.0)))
    return max(0.0, float((ordered[place] + ordered[place + 1]) / 2))


Fitted = tuple[Multilabel, Any, dict[str, Any]]


def split(task: Multilabel, rows: list[Example]) -> tuple[list[str], np.ndarray]:
    """Give the texts, and (N, labels) bool which labels each has."""
    wanted = [task.encode(each, None)["wanted"] > 0 for each in rows]
    return [each["text"] for each in rows], np.array(wanted).reshape(len(rows), len(task.labels))


def fit_frequent(
    task: Multilabel, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> Fitted:
    """Remember the most frequent set."""
    from zhixing.models.each import FrequentSet

    return dataclasses.replace(task, cuts=()), FrequentSet.fit(split(task, counted_in(rows, held, settings))[1]), {}


def fit_each(task: Multilabel, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit each label against the rest: prior strength and cuts on the held rows, then both together.

    Without held rows the strength is the usual one, and the cuts come from a tenth of the rows, which stands apart until they are settled.
    """
    from zhixing.models.each import BagEach

    strength = settings.get("strength") or 0.0
    found: dict[str, Any] = {}
    seen, apart = rows, held
    if not held:
        tenth = np.random.default_rng(0).permutation(len(rows)) % HELD_OUT == 0
        seen, apart = ([row for row, out in zip(rows, tenth, strict=True) if out == wanted] for wanted in (False, True))
    if held and not strength:
        model, trials = BagEach.choose(*split(task, seen), split(task, apart))
        strength, found["trials"] = model.config.strength, {str(each): nats for each, nats in trials.items()}
        tell("train.strength", method="bag_each", strength=strength)
    else:
        model = BagEach.fit(*split(task, seen), strength)
    task = cut(task, model, apart, None)
    if settings.get("refit", True):
        model = BagEach.fit(*split(task, [*seen, *apart]), strength)
    return task, model, found | {"strength": model.config.strength}
