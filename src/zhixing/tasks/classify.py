"""Classification: p(label | text).   text -> label, with a confidence, and no answer where the confidence is too low"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.schema import Label, Schema, Text
from zhixing.metrics import labels as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item, counted_in

READ_AHEAD = 2048  # texts sorted by length before batching
FEW = 1e-12
PRECISIONS = (0.95, 0.98, 0.99)
UNSETTLED: dict[str, Any] = {"temperature": 1.0, "shifts": (), "thresholds": {}, "support": {}}  # where a task has them
SUPPORT = 20  # validation rows that a threshold must accept: precise on fewer is luck


@dataclass(frozen=True)
class Classify:
    """One text, one label.

    labels       the labels, in sorted order: index in this tuple is the model's output
    longest      tokens of a text that a neural model reads; what lies beyond is not read, and evaluation says how often
    temperature  divides the logits: calibration, fitted on validation
    thresholds   {precision: confidence}: answers below it abstain; None where no threshold with enough support reaches the precision
    support      {precision: rows}: how many validation rows lay at or above the best threshold
    """

    labels: tuple[str, ...]
    longest: int = 256
    temperature: float = 1.0
    thresholds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    support: dict[str, int] = dataclasses.field(default_factory=dict)

    name: ClassVar[str] = "classify"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "document", "causal", "countable")
    schema: ClassVar[Schema] = Schema({"text": Text(), "label": Label()}, "label")
    figures: ClassVar[Figures] = {
        "accuracy": Mean("correct"),
        "macro_f1": Whole(judged.macro_f1_of_all, ("expected", "predicted")),
        "mcc": Whole(judged.matthews, ("expected", "predicted")),
        "nats": Mean("nats", lower=True),
        "calibration_error": Whole(judged.calibration_error, ("confidence", "correct"), lower=True),
    }
    counted: ClassVar[dict[str, str]] = {
        "majority": "zhixing.tasks.classify:fit_majority",
        "naive_bayes": "zhixing.tasks.classify:fit_bag",
        "logistic": "zhixing.tasks.classify:fit_bag",
    }
    default: ClassVar[str] = "logistic"
    eras: ClassVar[tuple[str, ...]] = ("textcnn", "bigru", "qwen3")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 12.0, "learning_rate": 0.001, "dropout": 0.2}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.classify:calibrated"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Classify:
        """Read the labels from the training examples; raises DataError when there are fewer than two."""
        labels = sorted({example["label"] for example in training_examples})
        if len(labels) < 2:
            raise DataError("task.one_label", labels=", ".join(labels))
        return cls(labels=tuple(labels), **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"tokens": (T,) int} or, with no tokenizer, {"text": str}; and "label", the label's index, if it has one."""
        item: Item = {}
        if tokenizer is None:
            item["text"] = example["text"]
        else:
            tokens = tokenizer.framed(tokenizer.encode(example["text"]), self.longest)
            item["tokens"] = np.asarray(tokens if len(tokens) else [tokenizer.end_id], np.int64)  # (T,)
        if "label" in example:
            if example["label"] not in self.labels:
                raise DataError("task.label_unseen", name=example["label"], among=self.labels, count=len(self.labels))
            item["label"] = self.labels.index(example["label"])
        return item

    def head(self, width: int) -> Any:
        """Give a map from a text's (B, T, D) states to (B, labels), starting at zero: every label equally likely."""
        from zhixing.layers.heads import Pooled

        return Pooled(width, len(self.labels))

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the label."""
        from zhixing.objectives.labels import LabelNats

        return LabelNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each item's most probable label with its probability; streams in pieces."""
        items = iter(items)
        pad_id = 0 if tokenizer is None else tokenizer.pad_id
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            yield from likeliest(self.labels, np.exp(log_probabilities(self, model, chunk, pad_id)))

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per example: correct (0 or 1), nats (-log p of the true label), confidence, and the two labels by number.

        A label that training never saw is a class of its own, all such labels the same one.
        """
        return judge(self.labels, answers, examples)


def likeliest(labels: tuple[str, ...], probabilities: np.ndarray) -> Iterator[Answer]:
    """Give each row's most probable label with its probability, and every label's.

    probabilities  (B, labels) float
    """
    for row in probabilities:
        best = int(row.argmax())
        yield Answer(labels[best], float(row[best]), dict(zip(labels, map(float, row), strict=True)))


def judge(labels: tuple[str, ...], answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
    """Judge answers that are labels, as `Classify.metrics` says."""
    index = {label: place for place, label in enumerate(labels)}
    expected = np.array([index.get(each["label"], len(index)) for each in examples])
    predicted = np.array([index[each.value] for each in answers])
    correct = (expected == predicted).astype(float)
    nats = np.array([-np.log(max((a.scores or {}).get(e["label"], 0.0), FEW)) for a, e in zip(answers, examples, strict=True)])
    confidence = np.array([a.confidence for a in answers], float)
    return {"correct": correct, "nats": nats, "confidence": confidence, "expected": expected, "predicted": predicted}


def log_probabilities(task: Classify, model: Any, items: list[Item], pad_id: int) -> np.ndarray:
    """Give (B, labels) float64 log p(label | text), tempered, whatever the kind of model."""
    if hasattr(model, "probabilities"):
        logs = np.log(np.maximum(model.probabilities([item["text"] for item in items]), FEW))
    else:
        logs = read_out(model, items, pad_id, len(task.labels))
    logs = logs / task.temperature
    return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def calibrate(task: Classify, log_probabilities: np.ndarray, labels: np.ndarray) -> Classify:
    """Fit the temperature by validation likelihood, then the thresholds of confidence that reach each precision.

    log_probabilities  (B, labels) float, of a task whose temperature is 1
    labels             (B,) int

    Source: Guo et al. 2017, arXiv:1706.04599.
    """

    def tempered(temperature: float) -> np.ndarray:
        logs = log_probabilities / temperature
        return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)

    grid = np.exp(np.linspace(np.log(0.2), np.log(20.0), 93))
    nats = [-tempered(t)[np.arange(len(labels)), labels].mean() for t in grid]
    temperature = float(grid[int(np.argmin(nats))])
    return set_thresholds(dataclasses.replace(task, temperature=temperature), tempered(temperature), labels)


def set_thresholds(task: Any, log_probabilities: np.ndarray, labels: np.ndarray) -> Any:
    """Choose the thresholds of confidence that reach each precision, by `metrics.labels.coverage_at_precision`.

    log_probabilities  (B, labels) float, as the task gives them
    labels             (B,) int

    A threshold counts when the answers at or above it are at least SUPPORT rows and the wanted share of them is right; with fewer rows
    even the largest share that is precise enough proves nothing, and there is no threshold.
    """
    confidence, correct = np.exp(log_probabilities.max(1)), log_probabilities.argmax(1) == labels
    thresholds: dict[str, float | None] = {}
    support: dict[str, int] = {}
    for precision in PRECISIONS:
        _, threshold = judged.coverage_at_precision(confidence, correct, precision)
        support[str(precision)] = 0 if threshold is None else int(np.count_nonzero(confidence >= threshold))
        thresholds[str(precision)] = threshold if support[str(precision)] >= SUPPORT else None
    return dataclasses.replace(task, thresholds=thresholds, support=support)


def calibrated(task: Classify, model: Any, rows: list[Example], tokenizer: Any) -> Classify:
    """Settle temperature and thresholds on validation rows whose labels are known; without any, nothing is settled."""
    items = [task.encode(row, tokenizer) for row in rows if row["label"] in task.labels]
    if not items:
        return task
    logs = log_probabilities(task, model, items, 0 if tokenizer is None else tokenizer.pad_id)
    return calibrate(task, logs, np.array([item["label"] for item in items]))


def fit_majority(
    task: Classify, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Classify, Any, dict[str, Any]]:
    """Answer every text by the shares of the labels."""
    from zhixing.models.tables import Majority

    index = {label: place for place, label in enumerate(task.labels)}
    labels = np.array([index[row["label"]] for row in counted_in(rows, held, settings) if row["label"] in index])
    return unsettled(task), Majority.fit(labels, len(index)), {}


def unsettled(task: Any) -> Any:
    """Give a task without what was settled for another model: a rival is not tempered by the model that it stands beside."""
    has = {field.name for field in dataclasses.fields(task)}
    return dataclasses.replace(task, **{name: value for name, value in UNSETTLED.items() if name in has})


def fit_bag(
    task: Classify, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Classify, Any, dict[str, Any]]:
    """Fit a bag of n-grams: prior strength, temperature and thresholds on the held rows, then both together.

    settings  method; strength: of the prior, 0 or none: chosen on the held rows; by: what chooses it, "loss" or "accuracy"; refit: False
              gives the model that has not seen the held rows, to be judged on them
    """
    from zhixing.models.bag import Bag

    task, method, strength = unsettled(task), settings["method"], settings.get("strength") or 0.0
    index = {label: place for place, label in enumerate(task.labels)}
    rows, held = ([row for row in part if row["label"] in index] for part in (rows, held))
    texts, labels = [row["text"] for row in rows], np.array([index[row["label"]] for row in rows], np.int64)
    held_texts, held_labels = [row["text"] for row in held], np.array([index[row["label"]] for row in held], np.int64)
    found: dict[str, Any] = {"method": method}
    if not held:
        return task, Bag.fit(texts, labels, len(index), method, strength or None), found
    if strength:
        model = Bag.fit(texts, labels, len(index), method, strength, settings.get("reading") or "text")
    else:
        model, trials = Bag.choose(texts, labels, len(index), (held_texts, held_labels), (method,), settings.get("by", "loss"))
        strength = model.config.strength
        found["trials"] = [dataclasses.asdict(each) for each in trials]
    found |= {"strength": strength, "reading": model.config.reading}
    tell("train.strength", method=method, strength=strength)
    task = calibrated(task, model, held, None)
    if not settings.get("refit", True):
        return task, model, found
    both = texts + held_texts, np.concatenate([labels, held_labels])
    return task, Bag.fit(*both, len(index), method, strength, model.config.reading), found


def known_rows(task: Any, rows: Iterable[Example], tell: Callable[..., None]) -> list[Example]:
    """Keep the validation rows whose label training has seen, and tell how many have another: nothing could be chosen by them.

    A row without a label, which some tasks allow, is kept.
    """
    from zhixing.tasks.many import part_of

    every = list(rows)
    known = []
    for row in every:
        own = part_of(task, row)
        if own.schema.answer != "label" or "label" not in row or row["label"] in own.labels:
            known.append(row)
    if len(known) < len(every):
        tell("train.unseen", rows=len(every) - len(known), of=len(every))
    return known
