"""Judgement of language: which of two sentences is the acceptable one, by the probability that a language model gives to each.

Nothing is trained: a corpus of pairs is what any language model can be evaluated on (`evaluate MODEL PAIRS`).
Source: Warstadt et al. 2020 (BLiMP). Leaves out: lengths that differ, which such sets avoid by how they are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.data.schema import Label, Schema, Text
from zhixing.metrics.figures import Figures, Mean
from zhixing.tasks.task import Answer, Example, Item

GOOD, BAD = "good", "bad"


@dataclass(frozen=True)
class Judge:
    """Two sentences, of which the first is acceptable and the second is not."""

    name: ClassVar[str] = "judge"
    kinds: ClassVar[tuple[str, ...]] = ("causal", "countable")
    schema: ClassVar[Schema] = Schema({GOOD: Text(), BAD: Text(), "label": Label(optional=True)}, "label")
    figures: ClassVar[Figures] = {"accuracy": Mean("correct"), "margin": Mean("margin")}
    counted: ClassVar[dict[str, str]] = {}
    default: ClassVar[str] = ""
    eras: ClassVar[tuple[str, ...]] = ()
    dial: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Judge:
        """There is nothing to learn from pairs."""
        return cls(**settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a pair into {"tokens": (T,) int, "others": (T,) int}, each between two end tokens."""
        ends = [tokenizer.end_id]
        first, second = (np.concatenate([ends, tokenizer.encode(example[name]), ends]).astype(np.int64) for name in (GOOD, BAD))
        return {"tokens": first, "others": second}

    def head(self, width: int) -> None:
        """A language model has its own head."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the next token, by which language models are trained."""
        from zhixing.objectives.tokens import NextToken

        return NextToken()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Say which sentence is more probable; the scores are the nats of each, of a model of masked tokens the pseudo-nats.

        Source of the latter: Salazar et al. 2020, arXiv:1910.14659.
        """
        from zhixing.layers.pseudo import pseudo_log_probabilities
        from zhixing.layers.scoring import score as read

        score = pseudo_log_probabilities if getattr(model, "mask_id", None) is not None else read
        for item in items:
            first, second = (float(score(model, item[name]).sum()) for name in ("tokens", "others"))
            yield Answer(GOOD if first > second else BAD, float(1 / (1 + np.exp(-abs(first - second)))), {GOOD: first, BAD: second})

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per pair: whether the acceptable sentence is the more probable one (equal ones: half), and by how many nats."""
        margin = np.array([(each.scores or {})[GOOD] - (each.scores or {})[BAD] for each in answers])
        return {"correct": np.where(margin == 0, 0.5, margin > 0), "margin": margin}
