"""Moderation: p(label | text) and p(tags | text) in one pass, what a text is and whom or what it names.   text -> label, entities

One body, two heads. Rows need not have both: those with a label alone (comments marked as offensive) and those with tags alone (messages in
which names are marked) teach one model together, and each figure is over the rows that have what it judges. What a person sends is a text,
or its tokens; a text is cut into words, and into single characters where they are Chinese. An I-x that continues nothing begins an entity,
as CoNLL reads it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.batch import IGNORED
from zhixing.data.schema import Label, Schema, Tags, Text, Tokens
from zhixing.metrics import labels as judged
from zhixing.metrics import spans
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.models.crf import mend
from zhixing.tasks.classify import FEW, READ_AHEAD, calibrate, fit_bag, fit_majority
from zhixing.tasks.reading import read as read_made
from zhixing.tasks.tag import fit_crf, fit_frequent, follow
from zhixing.tasks.task import Answer, Example, Item

HAN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han and kana: scripts that part no words
WORDS = re.compile(rf"[{HAN}]|[^\W{HAN}]+|[^\w\s]")


@dataclass(frozen=True)
class Moderate:
    """One text, its label, and the entities in it.

    labels       the labels, in sorted order; none: no row of training has one
    tags         the tags, in sorted order; none: no row of training has any
    longest      pieces of a text that a neural model reads; words that lie beyond are in no entity
    temperature, thresholds, support   of the label, as in `classify`
    """

    labels: tuple[str, ...]
    tags: tuple[str, ...]
    longest: int = 256
    temperature: float = 1.0
    thresholds: dict[str, float | None] = dataclasses.field(default_factory=dict)
    support: dict[str, int] = dataclasses.field(default_factory=dict)

    name: ClassVar[str] = "moderate"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema(
        {
            "tokens": Tokens(optional=True),
            "text": Text(optional=True),
            "label": Label(optional=True),
            "tags": Tags("tokens", optional=True),
        },
        "label",
        ("tags",),
    )
    figures: ClassVar[Figures] = {
        "accuracy": Mean("correct"),
        "macro_f1": Whole(judged.macro_f1_of_all, ("expected", "predicted")),
        "span_f1": Whole(spans.f1, ("spans",)),
        "nats": Mean("nats", lower=True),
    }
    counted: ClassVar[dict[str, str]] = {"majority": "zhixing.tasks.moderate:fit_pair", "bag_crf": "zhixing.tasks.moderate:fit_pair"}
    default: ClassVar[str] = "bag_crf"
    eras: ClassVar[tuple[str, ...]] = ("bilstm", "qwen3")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 8.0, "learning_rate": 0.001, "dropout": 0.3}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = "zhixing.tasks.moderate:calibrated"

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Moderate:
        """Read labels and tags from the training examples; raises DataError when there is only one of a sort, or nothing."""
        labels: set[str] = set()
        tags: set[str] = set()
        for example in training_examples:
            labels |= {example["label"]} if "label" in example else set()
            tags |= set(mend(example.get("tags", ())))
        if len(labels) == 1 or len(tags) == 1 or not labels | tags:
            raise DataError("task.one_label", labels=", ".join(labels if len(labels) == 1 else tags))
        return cls(tuple(sorted(labels)), tuple(sorted(tags)), **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a text into {"tokens": (T,) int, "firsts": (N,) int, "starts", "ends": (N,) int} and what is told of it.

        tokens  the pieces of its words; firsts: where each word begins among them; starts, ends: where each stands in what was sent, in
                characters of a text, or in tokens
        told    "label", its number, and "tags" (T,) int, a tag's number at the first piece of its word; -100 where there is none

        With no tokenizer: {"text": str, "words" and "gaps": lists of str, "starts", "ends"}, and "label" where there is one.
        """
        words, gaps, starts = read(example)
        ends = [start + (1 if example.get("tokens") else len(word)) for start, word in zip(starts, words, strict=True)]
        places = {"starts": np.array(starts, np.int64), "ends": np.array(ends, np.int64)}
        known = {label: number for number, label in enumerate(self.labels)}
        if "label" in example and example["label"] not in known:
            raise DataError("task.label_unseen", name=example["label"], among=self.labels, count=len(self.labels))
        label = known.get(example.get("label"), IGNORED)
        if tokenizer is None:
            item: Item = {"text": written(words, gaps), "words": words, "gaps": gaps, **places}
            return item | ({"label": label} if "label" in example else {})
        pieces: list[np.ndarray] = []
        firsts, size = [], 0
        for word, gap in zip(words, gaps, strict=True):
            for part in (gap, word):
                if part is word:
                    firsts.append(size)
                if part:
                    pieces.append(encoded(tokenizer, part))
                    size += len(pieces[-1])
        tokens = np.concatenate(pieces)[: self.longest] if pieces else np.array([tokenizer.end_id])
        item = {
            "tokens": tokens.astype(np.int64),
            "firsts": np.array([each for each in firsts if each < self.longest], np.int64),
            **places,
        }
        if self.labels:
            item["label"] = label
        if self.tags:
            number = {tag: place for place, tag in enumerate(self.tags)}
            item["tags"] = np.full(len(tokens), IGNORED, np.int64)
            found = [number.get(tag, IGNORED) for tag in mend(example.get("tags", ()))][: len(item["firsts"])]
            item["tags"][item["firsts"][: len(found)]] = found
        return item

    def head(self, width: int) -> Any:
        """Give the two heads: a map from the text to its labels, and a chain over the tags of its words."""
        import torch

        from zhixing.layers.crf import Chain
        from zhixing.layers.heads import Pooled, Several
        from zhixing.models.crf import legal

        heads: dict[str, Any] = {"label": Pooled(width, len(self.labels))} if self.labels else {}
        if self.tags:
            heads["tags"] = Chain(width, len(self.tags), *map(torch.from_numpy, legal(self.tags)))
        return Several(heads)

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the label and of the tags, two terms."""
        from zhixing.objectives.several import LabelAndTags

        return LabelAndTags()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each text {"label": the most probable one, "entities": [{"type", "text", "start", "end"}]} and the label's probability.

        start and end count as in what was sent: characters of a text, or tokens. Without labels the confidence is that of the word which is
        least certain.
        """
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            logs, paths = self._read(model, chunk, 0 if tokenizer is None else tokenizer.pad_id)
            for item, row, (tags, sure) in zip(chunk, logs, paths, strict=True):
                value: dict[str, Any] = {}
                p = np.exp(row)
                if self.labels:
                    value["label"], sure = self.labels[int(p.argmax())], float(p.max())
                if self.tags:
                    value["entities"] = entities(item, tags, tokenizer)
                yield Answer(value, sure, dict(zip(self.labels, map(float, p), strict=True)) or None)

    def _read(self, model: Any, items: list[Item], pad_id: int) -> tuple[np.ndarray, list[tuple[list[str], float]]]:
        """Give (N, labels) log p(label | text), tempered, and each text's tags with the smallest of their probabilities."""
        logs = np.zeros((len(items), len(self.labels)))
        paths: list[tuple[list[str], float]] = [([], 1.0)] * len(items)
        if hasattr(model, "parts"):
            if self.labels:
                logs = np.log(np.maximum(model.parts["label"].probabilities([each["text"] for each in items]), FEW))
            if self.tags:
                tags, sure = model.parts["tags"].tag([each["words"] for each in items])
                paths = [(list(said), float(np.min(each, initial=1.0))) for said, each in zip(tags, sure, strict=True)]
        else:
            for chosen, made in read_made(model, items, pad_id):
                if self.labels:
                    logs[chosen] = made["label"]
                if self.tags:
                    firsts = [items[place]["firsts"] for place in chosen]
                    for place, (path, least) in zip(chosen, follow(made, firsts), strict=True):
                        paths[place] = ([self.tags[tag] for tag in path], least)
        logs = logs / self.temperature
        return (logs - np.logaddexp.reduce(logs, axis=1, keepdims=True) if self.labels else logs), paths

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per text: correct, nats, confidence, and the two labels by number; its spans found, answered and expected (N, 3).

        What a text has nothing to be judged by is NaN: the first five without a label, the spans without tags.
        """
        known = {label: number for number, label in enumerate(self.labels)}
        found = {name: np.full(len(examples), np.nan) for name in ("correct", "nats", "confidence", "expected", "predicted")}
        counts = np.full((len(examples), 3), np.nan)
        for place, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            if "label" in example and self.labels:
                wanted, said = known.get(example["label"], len(known)), known[answer.value["label"]]
                found["expected"][place], found["predicted"][place], found["correct"][place] = wanted, said, wanted == said
                found["nats"][place] = -np.log(max((answer.scores or {}).get(example["label"], 0.0), FEW))
                found["confidence"][place] = answer.confidence
            if "tags" in example and self.tags:
                wanted_spans = spans.read(example["tags"])
                said_spans = {(each["type"], each["start"], each["end"]) for each in answer.value["entities"]}
                counts[place] = len(wanted_spans & said_spans), len(said_spans), len(wanted_spans)
        return {**found, "spans": counts}


def read(example: Example) -> tuple[list[str], list[str], list[int]]:
    """Give a text's words, what stands before each, and where each begins: in characters of the text, or in tokens where these are given.

    Between tokens stands a space, unless one of the two characters that meet is Chinese, or all tokens are single characters.
    """
    if tokens := example.get("tokens"):
        spaced = max(map(len, tokens)) > 1
        gaps = ["", *(" " if spaced and not re.search(f"[{HAN}]", a[-1] + b[0]) else "" for a, b in itertools.pairwise(tokens))]
        return list(tokens), gaps, list(range(len(tokens)))
    text = example.get("text", "")
    found = list(WORDS.finditer(text))
    ends = [0, *(each.end() for each in found)]
    return (
        [each.group() for each in found],
        [text[a : each.start()] for a, each in zip(ends, found, strict=False)],
        [e.start() for e in found],
    )


def written(words: list[str], gaps: list[str]) -> str:
    """Put words and what stands before them together."""
    return "".join(part for pair in zip(gaps, words, strict=True) for part in pair)


@functools.lru_cache(maxsize=1 << 16)
def encoded(tokenizer: Any, word: str) -> np.ndarray:
    """Encode a word; texts hold the same ones again and again."""
    found = tokenizer.encode(word)
    return found if len(found) else np.array([tokenizer.end_id], found.dtype)


def entities(item: Item, tags: list[str], tokenizer: Any) -> list[dict[str, Any]]:
    """Turn a text's tags into its entities, in their order."""
    found = []
    for kind, first, last in sorted(spans.read(tags), key=lambda each: each[1]):
        start, end = int(item["starts"][first]), int(item["ends"][last - 1])
        if tokenizer is None:
            text = written(item["words"][first:last], item["gaps"][first:last])
        else:
            edge = item["firsts"][last] if last < len(item["firsts"]) else len(item["tokens"])
            text = tokenizer.decode(item["tokens"][item["firsts"][first] : edge])
        found.append({"type": kind, "text": text.strip(), "start": start, "end": end})
    return found


def calibrated(task: Moderate, model: Any, rows: list[Example], tokenizer: Any) -> Moderate:
    """Settle temperature and thresholds on validation rows whose labels are known; without any, nothing is settled."""
    items = [task.encode(row, tokenizer) for row in rows if row.get("label") in task.labels]
    if not items:
        return task
    logs, _ = task._read(model, items, 0 if tokenizer is None else tokenizer.pad_id)
    return calibrate(task, logs, np.array([item["label"] for item in items]))


def fit_pair(
    task: Moderate, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Moderate, Any, dict[str, Any]]:
    """Fit a model for the label and another for the tags, each on the rows that have it, and keep both as one.

    settings  method: "bag_crf" or "majority", which is the most frequent label and tag of each word; the rest as in `fit_bag` and `fit_crf`
    """
    from zhixing.models.several import Several

    method = settings["method"]
    fit_label, fit_tags = (fit_majority, fit_frequent) if method == "majority" else (fit_bag, fit_crf)
    parts: dict[str, Any] = {}
    found: dict[str, Any] = {}
    if task.labels:
        labelled = [[{"text": task.encode(e, None)["text"], "label": e["label"]} for e in part if "label" in e] for part in (rows, held)]
        task, parts["label"], found["label"] = fit_label(task, *labelled, {**settings, "method": "logistic"}, tell)
    if task.tags:
        tagged = [[{**each, "tags": mend(each["tags"])} for each in part if "tags" in each] for part in (rows, held)]
        _, parts["tags"], found["tags"] = fit_tags(task, *tagged, {**settings, "method": "crf"}, tell)
    return task, Several(method, parts), found
