"""What an image, a text and a sound together say: p(label | those of the three that a row has).   image, text, audio -> label

A picture with a question about it; a picture alone, or a sound: any of the three may be missing, in all rows or in some. What a row lacks
is masked, never filled with something that could mean something. A row may hold only what training rows have held.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data import media, sound
from zhixing.data.schema import Image, Label, Schema, Sound, Text
from zhixing.metrics import labels as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.classify import FEW, READ_AHEAD, Classify, calibrate, fit_bag, judge, likeliest, unsettled
from zhixing.tasks.reading import read_out
from zhixing.tasks.task import Answer, Example, Item

SENSES = ("image", "text", "audio")
SIDES = (16, 32, 64, 96, 128)  # pixels of a side: the least that the middle picture of training fits into, or the last
PROBED = 200  # training pictures whose size, and sounds whose rate, is looked at
MOST_RATE = 16_000  # samples a second that are heard: speech has little above half of it
MOST_SECONDS = 30.0  # of a sound that is heard whole, as every sound is
CELLS = 8  # of a side, of the picture that the linear rival reads


@dataclass(frozen=True)
class See:
    """An image, a text, a sound, or some of these; and one label.

    labels       the labels, in sorted order: index in this tuple is the model's output
    senses       which of image, text and audio training rows have
    size         int, pixels     of a side of every picture, whose shape is kept
    rate, bins   int             samples a second of every sound, and features of a frame of it
    longest      int, tokens     of a text that a neural model reads
    temperature, thresholds, support   as in `classify`
    """

    labels: tuple[str, ...]
    senses: tuple[str, ...] = SENSES
    size: int = 64
    rate: int = MOST_RATE
    bins: int = sound.BINS
    longest: int = 64
    temperature: float = 1.0
    thresholds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    support: dict[str, int] = dataclasses.field(default_factory=dict)

    name: ClassVar[str] = "see"
    kinds: ClassVar[tuple[str, ...]] = ("fusion", "vision")
    schema: ClassVar[Schema] = Schema(
        {"image": Image(optional=True), "text": Text(optional=True), "audio": Sound(optional=True), "label": Label()}, "label"
    )
    figures: ClassVar[Figures] = {
        "accuracy": Mean("correct"),
        "macro_f1": Whole(judged.macro_f1_of_all, ("expected", "predicted")),
        "mcc": Whole(judged.matthews, ("expected", "predicted")),
        "nats": Mean("nats", lower=True),
        "calibration_error": Whole(judged.calibration_error, ("confidence", "correct"), lower=True),
    }
    counted: ClassVar[dict[str, str]] = {
        "majority": "zhixing.tasks.classify:fit_majority",
        "logistic": "zhixing.tasks.see:fit_text",
        "pixels": "zhixing.tasks.see:fit_pixels",
    }
    default: ClassVar[str] = "fusion"
    eras: ClassVar[tuple[str, ...]] = ("fusion",)
    # Norms follow the convolutions: decay shrinks their matrices until each step turns them too far. After 150 steps on easy_vqa 98 % of
    # questions for a colour were answered; with the usual rate of 0.02 and decay of 0.5 (and no glance yet) 74 %.
    dial: ClassVar[dict[str, Any]] = {
        "tokenizer": "words",
        "window": 64,
        "learning_rate": 0.004,
        "matrix_rate": 0.008,
        "weight_decay": 0.02,
    }
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.see:calibrated"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> See:
        """Read the labels, what rows have, the size of pictures and the rate of sounds from the training examples.

        Raises DataError when there are fewer than two labels.
        """
        labels: set[str] = set()
        senses: set[str] = set()
        shown: list[Example] = []
        heard: list[int] = []
        for example in training_examples:
            labels.add(example["label"])
            senses |= {name for name in SENSES if name in example}
            if "image" in example and len(shown) < PROBED:
                shown.append(example)
            if "audio" in example and len(heard) < PROBED:
                heard.append(sound.read(example["audio"])[1])
        if len(labels) < 2:
            raise DataError("task.one_label", labels=", ".join(labels))
        found: dict[str, Any] = {"senses": tuple(name for name in SENSES if name in senses), "size": side_of(shown)}
        found["rate"] = min([MOST_RATE, *heard])
        return cls(labels=tuple(sorted(labels)), **{**found, **settings})

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into arrays for each sense of training, those that it lacks of length 0 or marked as missing.

        return  {"tokens": (T,) int, "image": (C, Y, X) uint8, "picture": 0 or 1, "frames": (F, C) float32}, those of the senses; with no
                tokenizer {"text": str, "image": as before}; and "label", its index, if it has one

        Raises DataError for a sense that no training row had, or a picture or sound that cannot be read.
        """
        for name in SENSES:
            if name in example and name not in self.senses:
                raise DataError("task.sense", name=name, among=self.senses)
        item: Item = {}
        if tokenizer is None:
            item["text"] = example.get("text", "")
        elif "text" in self.senses:
            item["tokens"] = tokenizer.framed(tokenizer.encode(example.get("text", "")), self.longest)  # (T,)
        if "image" in self.senses or tokenizer is None:
            item["picture"] = int("image" in example)
            item["image"] = looked_at(example["image"], self.size) if "image" in example else np.zeros((3, self.size, self.size), np.uint8)
        if "audio" in self.senses and tokenizer is not None:
            item["frames"] = (
                heard_of(example["audio"], self.rate, self.bins) if "audio" in example else np.zeros((0, self.bins), np.float32)
            )
        if "label" in example:
            if example["label"] not in self.labels:
                raise DataError("task.label_unseen", name=example["label"], among=self.labels, count=len(self.labels))
            item["label"] = self.labels.index(example["label"])
        return item

    def head(self, width: int) -> Any:
        """Give a map from a row's (B, T, D) joint states to (B, labels), starting at zero: every label equally likely."""
        from zhixing.layers.heads import Pooled

        return Pooled(width, len(self.labels))

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the label."""
        from zhixing.objectives.labels import LabelNats

        return LabelNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each item's most probable label with its probability; streams in pieces."""
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            yield from likeliest(self.labels, np.exp(log_probabilities(self, model, chunk, tokenizer)))

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per example what `classify` gives: correct, nats, confidence, and the two labels by number."""
        return judge(self.labels, answers, examples)


def side_of(examples: Iterable[Example]) -> int:
    """Say how large pictures are read, pixels of a side, by the first of them."""
    some = itertools.islice((each["image"] for each in examples if "image" in each), PROBED)
    middle = float(np.median([max(media.image(media.content_of(each)).shape[1:]) for each in some] or [0]))
    return next((side for side in SIDES if middle <= side), SIDES[-1])


def looked_at(image: str, size: int) -> np.ndarray:
    """Give the pixels of a data URL, (C, Y, X) uint8; raises DataError with the reason when they cannot be read."""
    try:
        return media.pixels(image, size)
    except media.Unreadable as problem:
        raise DataError("task.medium", name="image", reason=str(problem)) from None


def heard_of(audio: str, rate: int, bins: int) -> np.ndarray:
    """Give the log-mel frames of a data URL, (F, C) float32; raises DataError when it cannot be read or is too long, short or low."""
    samples, given = sound.read(audio)
    if len(samples) > MOST_SECONDS * given:
        raise DataError("task.medium", name="audio", reason=f"{len(samples) / given:.1f} > {MOST_SECONDS:g} s")
    return sound.normalise(sound.log_mel(sound.resample(samples, given, rate), rate, bins))


def log_probabilities(task: See, model: Any, items: list[Item], tokenizer: Any) -> np.ndarray:
    """Give (B, labels) float64 log p(label | row), tempered, whatever the kind of model."""
    if hasattr(model, "probabilities"):
        logs = np.log(np.maximum(model.probabilities([item[getattr(model, "sense", "text")] for item in items]), FEW))
    else:
        logs = read_out(model, items, 0 if tokenizer is None else tokenizer.pad_id, len(task.labels))
    logs = logs / task.temperature
    return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def calibrated(task: See, model: Any, rows: list[Example], tokenizer: Any) -> See:
    """Settle temperature and thresholds on validation rows whose labels are known; without any, nothing is settled."""
    items = [task.encode(row, tokenizer) for row in rows if row["label"] in task.labels]
    if not items:
        return task
    return calibrate(task, log_probabilities(task, model, items, tokenizer), np.array([item["label"] for item in items]))


def fit_text(
    task: See, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[See, Any, dict[str, Any]]:
    """Fit logistic regression on the texts alone; rows without one are told by their labels' shares."""

    def read(part: list[Example]) -> list[Example]:
        return [{"text": row.get("text", ""), "label": row["label"]} for row in part]

    inner, model, about = fit_bag(Classify(task.labels), read(rows), read(held), settings, tell)
    found = {name: getattr(inner, name) for name in ("temperature", "thresholds", "support")}
    return dataclasses.replace(unsettled(task), **found), model, about


def fit_pixels(
    task: See, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[See, Any, dict[str, Any]]:
    """Fit logistic regression on the pictures alone, each of few coarse cells; its strength is chosen on held rows where none is given."""
    from zhixing.models.pixels import STRENGTHS, Pixels, shrink

    task = unsettled(task)
    index = {label: place for place, label in enumerate(task.labels)}
    rows, held = ([row for row in part if row["label"] in index] for part in (rows, held))

    def read(part: list[Example]) -> tuple[np.ndarray, np.ndarray]:
        items = [task.encode(row, None) for row in part]
        images = np.array([shrink(item["image"], CELLS) for item in items]).reshape(-1, 3, CELLS, CELLS)
        return images, np.array([item["label"] for item in items], np.int64)

    strength = settings.get("strength") or 0.0
    images, labels = read(rows)
    if not held:
        return task, Pixels.fit(images, labels, len(index), strength or 1.0), {}
    trials = {each: Pixels.fit(images, labels, len(index), each) for each in ((strength,) if strength else STRENGTHS)}
    held_images, held_labels = read(held)
    nats = {each: model.nats(held_images, held_labels) for each, model in trials.items()}
    strength = min(nats, key=nats.get)
    model, about = trials[strength], {"strength": strength, "validation_nats": {str(each): value for each, value in nats.items()}}
    task = calibrated(task, model, held, None)
    if settings.get("refit", True):
        images, labels = np.concatenate([images, held_images]), np.concatenate([labels, held_labels])
        model = Pixels.fit(images, labels, len(index), strength)
    return task, model, about
