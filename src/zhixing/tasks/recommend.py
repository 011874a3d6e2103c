"""Recommendation: p(next item | the items before it), for histories of what somebody watched, read or bought.   items -> label

Judged by the rank of the item that came next among all items not seen before, no sample of them: samples change who is better (Krichene
and Rendle 2020). Leaves out: who the user is, when something was, how it was liked.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.batch import pad
from zhixing.data.schema import Items, Label, Schema
from zhixing.metrics.figures import Figures, Mean
from zhixing.tasks.task import Answer, Example, Item, counted_in

START = 0  # the token before every history; item i is the token i + 1
BEST = 10  # items of an answer, and the rank down to which it is judged
READ_BATCH = 64  # histories read at once
# What validation chooses of: EASE's prior and the items that it reads, what of neighbours and of followers counts how much.
STRENGTHS, LASTS = (30.0, 100.0, 300.0, 1000.0), (3, 5, 10, 20, 0)
DECAYS, REACHES, SHARES = (0.5, 0.65, 0.8, 0.9), (0.7, 0.8, 0.9), (0.0, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Recommend:
    """One history, the next item.

    labels   the items of training, the most frequent first, so that equal scores fall to them; others in a history are not read
    longest  places that a trained model reads at once: to answer, the newest
    """

    labels: tuple[str, ...]
    longest: int = 128

    name: ClassVar[str] = "recommend"
    kinds: ClassVar[tuple[str, ...]] = ("causal",)
    schema: ClassVar[Schema] = Schema({"items": Items(), "label": Label()}, "label")
    figures: ClassVar[Figures] = {"ndcg_10": Mean("ndcg_10"), "hit_10": Mean("hit_10")}
    counted: ClassVar[dict[str, str]] = {
        "popularity": "zhixing.tasks.recommend:fit_popularity",
        "item_neighbours": "zhixing.tasks.recommend:fit_neighbours",
        "item_followers": "zhixing.tasks.recommend:fit_followers",
        "ease": "zhixing.tasks.recommend:fit_ease",
    }
    default: ClassVar[str] = "item_followers"
    eras: ClassVar[tuple[str, ...]] = ("gru", "qwen3")
    dial: ClassVar[dict[str, Any]] = {"batch": 8, "window": 128, "epochs": 10.0, "dropout": 0.3}
    reads: ClassVar[str] = "rows"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Recommend:
        """Read the items from the training examples; raises DataError when there are fewer than two."""
        counts = Counter(item for example in training_examples for item in (*example["items"], example["label"]))
        if len(counts) < 2:
            raise DataError("task.one_label", labels=", ".join(counts))
        return cls(labels=tuple(sorted(counts, key=lambda item: (-counts[item], item))), **settings)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: the start, and the items."""
        return len(self.labels) + 1

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a history into {"items": (N,) int}, the numbers of those items that are known.

        With a label, into {"tokens": (T,) int, "targets": (T,) int}, where every item is the target of the place before it.
        """
        index = self._numbers
        items = [index[each] for each in example["items"] if each in index]
        if "label" not in example:
            return {"items": np.array(items, np.int64)}
        if example["label"] not in index:
            raise DataError("task.label_unseen", name=example["label"], among=self.labels, count=len(self.labels))
        told = np.array([*items, index[example["label"]]], np.int64) + 1
        return {"tokens": np.concatenate([[START], told[:-1]]), "targets": told}

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.labels)}

    def _tokens(self, items: np.ndarray) -> np.ndarray:
        """Open a history by the start and keep its newest tokens."""
        return np.concatenate([[START], items + 1])[-self.longest :]

    def head(self, width: int) -> None:
        """A causal model has its own outputs, over the items."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the next item at every place."""
        from zhixing.objectives.items import NextItem

        return NextItem(self.longest)

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each history's best new items with their scores, equal ones in the order of the labels; the value is the first.

        A trained model's scores are probabilities among the new items; its confidence is that of the first. Where nothing is new, the value
        is empty.
        """
        items = iter(items)
        while chunk := [each["items"] for each in itertools.islice(items, READ_BATCH)]:
            trained = not hasattr(model, "scores")
            scores = self._read(model, chunk) if trained else model.scores(chunk)  # (B, N), what was seen at -inf
            for row in scores:
                best = np.argsort(-row, kind="stable")[:BEST]
                found = {self.labels[each]: float(row[each]) for each in best if np.isfinite(row[each])}
                first = next(iter(found), "")
                yield Answer(first, found.get(first) if trained else None, found)

    def _read(self, model: Any, histories: list[np.ndarray]) -> np.ndarray:
        from zhixing.models.items import rule_out

        batch = pad([{"tokens": self._tokens(each)} for each in histories], START)
        logs = rule_out(next_logits(model, batch)[:, 1:].astype(np.float64), histories)  # (B, N)
        kept = np.isfinite(logs).any(1, keepdims=True)
        p = np.exp(logs - np.where(kept, logs.max(1, keepdims=True, initial=-1e9), 0.0))
        p /= np.maximum(p.sum(1, keepdims=True), 1e-300)
        return np.where(np.isfinite(logs), p, -np.inf)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per history, of its true next item among all new ones: 1 / log2(1 + rank) and whether the rank is at most BEST."""
        gain, hit = np.zeros(len(examples)), np.zeros(len(examples))
        for place, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            scores = answer.scores or {}
            ranked = sorted(scores, key=lambda item: -scores[item])[:BEST]
            if example["label"] in ranked:
                hit[place], gain[place] = 1.0, 1 / np.log2(2 + ranked.index(example["label"]))
        return {"ndcg_10": gain, "hit_10": hit}


def next_logits(model: Any, batch: Mapping[str, np.ndarray]) -> np.ndarray:
    """Give (B, V) log-odds of the token that follows each row's last.

    batch  "tokens" (B, T) int, "lengths" (B,) int
    """
    if hasattr(model, "run"):
        return model.answer(batch, "next")["next"]
    import torch

    from zhixing.layers.kinds import Inputs, next_log_probabilities

    device = next(model.parameters()).device
    tokens, lengths = (torch.as_tensor(batch[name]).to(device) for name in ("tokens", "lengths"))
    return next_log_probabilities(model, Inputs(tokens, lengths=lengths)).cpu().numpy()


Fitted = tuple[Recommend, Any, dict[str, Any]]


def whole(task: Recommend, rows: Iterable[Example]) -> list[np.ndarray]:
    """Give the histories of rows with the items that came next; a row that another one continues is that one's beginning, and left out."""
    told = [(*row["items"], row["label"]) for row in rows]
    continued = Counter(each[:-1] for each in told)
    kept = []
    for each in told:
        if continued[each]:
            continued[each] -= 1
        else:
            kept.append(task.encode({"items": each}, None)["items"])
    return kept


def fit_popularity(
    task: Recommend, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> Fitted:
    """Count how many histories have each item."""
    from zhixing.models.items import Popularity

    return task, Popularity.fit(whole(task, counted_in(rows, held, settings)), len(task.labels)), {}


def choose(
    task: Recommend, make: Callable[..., Any], among: Mapping[str, Sequence[Any]], held: list[Example], tell: Callable[..., None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Choose settings by ndcg_10 on the held histories, one setting after another, each given the best found so far.

    make    gives the model of settings by name; it has a value of its own for each that is not given
    among   {setting: its values}
    return  the settings, and all trials for the card; nothing of either where no history is held
    """
    chosen: dict[str, Any] = {}
    trials: dict[str, float] = {}
    items = [task.encode({"items": each["items"]}, None) for each in held]
    for name, values in among.items() if held else ():
        found = {}
        for value in values:
            answers = list(task.answers(make(**chosen, **{name: value}), items, None))
            found[value] = float(np.mean(task.metrics(answers, held)["ndcg_10"]))
        chosen[name] = max(found, key=lambda value: found[value])
        trials |= {f"{name} {value}": gain for value, gain in found.items()}
        tell("train.chosen", setting=name, value=chosen[name], gain=found[chosen[name]])
    return chosen, {"trials": trials} if trials else {}


def fit_neighbours(
    task: Recommend, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> Fitted:
    """Find each item's neighbours: how fast a history fades on the held histories, then all together."""
    from zhixing.models.items import Neighbours

    count = len(task.labels)
    first = Neighbours.fit(whole(task, rows), count)
    chosen, found = choose(task, first.reading, {"decay": DECAYS}, held, tell)
    return task, Neighbours.fit(whole(task, counted_in(rows, held, settings)), count, **chosen), found | chosen


def fit_followers(
    task: Recommend, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> Fitted:
    """Find each item's followers: how near, how fast a history fades and how much neighbours count on the held histories, then all."""
    from zhixing.models.items import Neighbours

    learnt, count = whole(task, rows), len(task.labels)
    among = {"reach": REACHES, "decay": DECAYS, "share": SHARES}
    chosen, found = choose(task, functools.partial(Neighbours.follow, learnt, count), among, held, tell)
    return task, Neighbours.follow(whole(task, counted_in(rows, held, settings)), count, **chosen), found | chosen


def fit_ease(task: Recommend, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit EASE: the prior's strength and how many items are read on the held histories, then all together."""
    from zhixing.models.items import Ease

    learnt, count, strength = whole(task, rows), len(task.labels), settings.get("strength") or 0.0
    fitted = functools.lru_cache(1)(lambda strength: Ease.fit(learnt, count, strength))
    chosen, found = choose(
        task, lambda strength, last=10: fitted(strength).reading(last), {"strength": [strength] if strength else STRENGTHS, "last": LASTS},
        held, tell,
    )  # fmt: skip
    model = Ease.fit(whole(task, counted_in(rows, held, settings)), count, **({"strength": strength} if strength else {}) | chosen)
    return task, model, found | {"strength": model.config.strength, "last": model.config.last}
