"""Answering a prompt by writing: p(answer | prompt), judged by a named checker.   prompt -> text

Trained to write the answers that are given (SFT), or, begun with such a model and told how many texts to try on each prompt (`--rollouts`),
to earn more by the checker (GRPO): then the given answers are only what the checker may look at.
Whether a reward was earned or found a way around it shows beside it: how many rewarded answers are not the right one, how long answers are,
and how many of them differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import UsageError
from zhixing.data.batch import IGNORED
from zhixing.data.schema import Schema, Text
from zhixing.metrics.checkers import CHECKERS, exact
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.task import Answer, Example, Item

READ_AHEAD = 512  # prompts answered side by side
BREAK = "\n"  # between a prompt and its answer


def variety(codes: np.ndarray) -> float:
    """Give the share of answers that are different from each other.

    codes  (N,) int    equal for equal answers
    """
    return float(len(np.unique(codes)) / len(codes)) if len(codes) else float("nan")


@dataclass(frozen=True)
class Reason:
    """A prompt, and a text that a checker rewards.

    longest  int, tokens   of a prompt with its answer; what lies beyond is not read
    checker  str           a name in `metrics.checkers`
    most     int, tokens   of an answer that is written; from the longest one of training
    """

    longest: int = 256
    checker: str = "exact"
    most: int = 64

    name: ClassVar[str] = "reason"
    kinds: ClassVar[tuple[str, ...]] = ("causal",)
    schema: ClassVar[Schema] = Schema({"prompt": Text(), "answer": Text()}, "answer")
    figures: ClassVar[Figures] = {
        "reward": Mean("reward"),
        "exact": Mean("exact"),
        "rewarded_not_right": Mean("odd", lower=True),
        "characters": Mean("characters"),
        "variety": Whole(variety, ("said",)),
    }
    counted: ClassVar[dict[str, str]] = {"copy": "zhixing.tasks.reason:copied"}
    default: ClassVar[str] = "qwen3"
    eras: ClassVar[tuple[str, ...]] = ("qwen3",)
    dial: ClassVar[dict[str, Any]] = {"window": 128, "batch": 64, "epochs": 12.0}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Reason:
        """Read how long answers are; raises UsageError for a checker that is not known."""
        if settings.get("checker", cls.checker) not in CHECKERS:
            raise UsageError("settings.choice", setting="checker", name=settings["checker"], among=tuple(CHECKERS))
        longest = max((len(example["answer"].encode("utf-8")) for example in training_examples), default=1)
        return cls(**{"most": max(1, min(2 * longest + 2, settings.get("longest", cls.longest) * 3 // 4)), **settings})

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"tokens": (T,) int, "targets": (T,) int}, the prompt not among the targets; without a tokenizer, {"source"}.

        The end token opens the prompt and closes the answer; a line break stands between them. A row to be answered has no
        targets. Of a prompt that would leave no room for an answer of `most` tokens, the end is kept.
        """
        if tokenizer is None:
            return {"source": example["prompt"]}
        prompt = [tokenizer.end_id, *tokenizer.encode(example["prompt"] + BREAK)][-max(1, self.longest - self.most) :]
        if "answer" not in example:
            return {"tokens": np.asarray(prompt, np.int64)}
        whole = np.asarray([*prompt, *tokenizer.encode(example["answer"]), tokenizer.end_id][: self.longest + 1], np.int64)
        targets = whole[1:].copy()
        targets[: len(prompt) - 1] = IGNORED
        return {"tokens": whole[:-1], "targets": targets}

    def head(self, width: int) -> None:
        """A model that writes has its own head, over the vocabulary."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the answer's tokens."""
        from zhixing.objectives.tokens import NextToken

        return NextToken()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Write an answer to each prompt; decoding is a Sampling, by default the most probable token each time.

        The confidence is the geometric mean of the probabilities of its tokens; a copy has none.
        """
        from zhixing.decoding.asking import Sampling

        items = iter(items)
        how = decoding or Sampling(temperature=0.0, max_tokens=self.most)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            if hasattr(model, "write"):
                yield from map(Answer, model.write([item["source"] for item in chunk]))
                continue
            from zhixing.decoding.generate import generate

            prompts = [self._asked(item) for item in chunk]
            for found in generate(model, tokenizer, prompts, how):
                yield Answer(found.text.strip(), float(np.exp(np.mean(found.log_probabilities))))

    @staticmethod
    def _asked(item: Item) -> list[int]:
        """Give the tokens of a row's prompt: those before the first that is a target."""
        if "targets" not in item:
            return item["tokens"].tolist()
        return item["tokens"][: int(np.argmax(item["targets"] != IGNORED)) + 1].tolist()

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per example: reward, exact, odd (rewarded, but not the right answer), characters, and said (a number an answer)."""
        said = [each.value for each in answers]
        check = CHECKERS[self.checker]
        rewards = np.array([check(e["prompt"], e["answer"], text) for text, e in zip(said, examples, strict=True)], float)
        right = np.array([exact(e["prompt"], e["answer"], text) for text, e in zip(said, examples, strict=True)], float)
        codes = {text: number for number, text in enumerate(dict.fromkeys(said))}
        return {
            "reward": rewards,
            "exact": right,
            "odd": np.maximum(0.0, rewards - right),
            "characters": np.array([len(text) for text in said], float),
            "said": np.array([codes[text] for text in said]),
        }


def copied(
    task: Reason, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Reason, Any, dict[str, Any]]:
    """Make the model that answers a prompt with the prompt; there is nothing to fit."""
    from zhixing.models.copying import Copy

    return task, Copy(), {}
