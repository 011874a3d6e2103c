"""Language modelling: p(next token | tokens so far), and by the chain rule p(text).   text -> more text"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.data.schema import Schema, Text
from zhixing.metrics.figures import Figures
from zhixing.tasks.task import Answer, Example, Item


@dataclass(frozen=True)
class Language:
    """A text continues itself; scored by its objective over whole texts (bits per byte), not by answers."""

    name: ClassVar[str] = "language"
    kinds: ClassVar[tuple[str, ...]] = ("causal", "countable")
    schema: ClassVar[Schema] = Schema({"text": Text()})
    figures: ClassVar[Figures] = {}  # bits per byte and what follows from it: made over whole texts, in evaluation
    counted: ClassVar[dict[str, str]] = dict.fromkeys(("grammar", "ngram", "dirichlet", "additive"), "")  # counted over tokens, in training
    default: ClassVar[str] = "qwen3"
    eras: ClassVar[tuple[str, ...]] = ("qwen3",)
    dial: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Language:
        """There is nothing to learn from the examples: the vocabulary is the tokenizer's."""
        return cls(**settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a text into {"tokens": (T,) int}, opened by the end token that separates texts."""
        return {"tokens": np.concatenate([[tokenizer.end_id], tokenizer.encode(example["text"])])}

    def head(self, width: int) -> None:
        """A language model has its own head, over the vocabulary."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the next token."""
        from zhixing.objectives.tokens import NextToken

        return NextToken()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Continue each item's text; decoding is a Sampling."""
        from zhixing.decoding.asking import Sampling
        from zhixing.decoding.generate import generate

        for item in items:
            for generation in generate(model, tokenizer, [item["tokens"]], decoding or Sampling()):
                yield Answer(generation.text, None)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Language models are judged by bits per byte, made in evaluation; there is no value per answer."""
        return {}
