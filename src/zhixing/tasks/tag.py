"""Tagging: p(tags | tokens), one tag a token: names in texts, parts of speech, the fold of each residue of a protein.   tokens -> tags

Tags that begin with B- and I- mark spans (BIO): then spans are judged, exactly as CoNLL does, and no invalid sequence is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.batch import IGNORED
from zhixing.data.schema import Schema, Tags, Tokens
from zhixing.metrics import spans as judged
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.models import chain
from zhixing.models.crf import mend
from zhixing.tasks.reading import read
from zhixing.tasks.task import Answer, Example, Item, counted_in

OUTSIDE = "O"


@dataclass(frozen=True)
class Tag:
    """One tag for each token.

    tags     the tags, in sorted order: index in this tuple is the model's output
    longest  pieces of a text that a neural model reads; tokens that lie beyond get the tag O
    letters  every token of training is one character: then a text that comes as one token is tagged letter by letter
    """

    tags: tuple[str, ...]
    longest: int = 256
    letters: bool = False

    name: ClassVar[str] = "tag"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema({"tokens": Tokens(), "tags": Tags("tokens")}, "tags")
    figures: ClassVar[Figures] = {
        "span_f1": Whole(judged.f1, ("spans",)),
        "precision": Whole(judged.precision, ("spans",)),
        "recall": Whole(judged.recall, ("spans",)),
        "token_accuracy": Whole(judged.share, ("right_tokens", "tokens")),
        "whole_texts": Mean("correct"),
    }
    counted: ClassVar[dict[str, str]] = {"frequent_tag": "zhixing.tasks.tag:fit_frequent", "crf": "zhixing.tasks.tag:fit_crf"}
    default: ClassVar[str] = "crf"
    eras: ClassVar[tuple[str, ...]] = ("bilstm", "qwen3")
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 256, "epochs": 16.0, "learning_rate": 0.001, "dropout": 0.3}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Tag:
        """Read the tags from the training examples; raises DataError when there are fewer than two."""
        given: set[str] = set()
        mended: set[str] = set()
        letters = True
        for example in training_examples:
            letters = letters and all(len(token) == 1 for token in example["tokens"])
            given |= set(example["tags"])
            mended |= set(mend(example["tags"]))
        tags = sorted(mended if any(tag.startswith("B-") for tag in given) else given)
        if len(tags) < 2:
            raise DataError("task.one_label", labels=", ".join(tags))
        return cls(tags=tuple(tags), letters=letters, **settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a text into {"tokens": (T,) int, "firsts": (N,) int}, the pieces of its tokens and where each token begins.

        With the example's tags there is "tags" (T,) int as well: the tag's number at the first piece of a token, -100 at the others, and
        at tags that training has not seen. With no tokenizer: {"words": the tokens}.
        """
        if tokenizer is None:
            return {"words": tokens_of(self, example)}
        pieces = [tokenizer.encode(each) for each in tokens_of(self, example)]
        sizes = np.array([max(1, len(each)) for each in pieces])
        before, after = map(len, tokenizer.frame)
        firsts = before + np.concatenate([[0], np.cumsum(sizes)[:-1]])  # (N,)
        tokens = np.concatenate([each if len(each) else [tokenizer.end_id] for each in pieces])
        item: Item = {"tokens": tokenizer.framed(tokens, self.longest), "firsts": firsts[firsts < self.longest - after]}
        if "tags" in example:
            index = {tag: place for place, tag in enumerate(self.tags)}
            told = np.full(len(item["tokens"]), IGNORED, np.int64)
            numbers = np.array([index.get(tag, IGNORED) for tag in valid(self, example)])
            told[item["firsts"]] = numbers[: len(item["firsts"])]
            item["tags"] = told
        return item

    def head(self, width: int) -> Any:
        """Give a chain over the tags: the next tag depends on the one before it, and only valid sequences have a probability."""
        import torch

        from zhixing.layers.crf import Chain
        from zhixing.models.crf import legal

        return Chain(width, len(self.tags), *map(torch.from_numpy, legal(self.tags)))

    def objective(self, start: Any = None) -> Any:
        """Give -log p(tags | tokens) of the whole sequence."""
        from zhixing.objectives.tags import ChainNats

        return ChainNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each text's most probable sequence of tags; the confidence is the smallest of its tokens' probabilities."""
        kept = list(items)
        if hasattr(model, "tag"):
            tags, sure = model.tag([each["words"] for each in kept])
            for found, each in zip(tags, sure, strict=True):
                yield Answer(list(found), float(np.min(each, initial=1.0)))
            return
        found: list[tuple[np.ndarray, float]] = [(np.zeros(0, np.int64), 1.0)] * len(kept)
        for chosen, made in read(model, kept, tokenizer.pad_id):
            for place, each in zip(chosen, follow(made, [kept[place]["firsts"] for place in chosen]), strict=True):
                found[place] = each
        for path, least in found:
            yield Answer([self.tags[tag] for tag in path], least)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per text: its spans found, answered and expected (N, 3), its tokens and how many are right, whether all are, confidence."""
        spans = np.zeros((len(examples), 3))
        right, tokens = np.zeros(len(examples)), np.zeros(len(examples))
        for place, (answer, example) in enumerate(zip(answers, examples, strict=True)):
            count = len(example["tags"])
            said = [*answer.value, *[OUTSIDE] * count][:count]
            spans[place] = judged.count(example["tags"], said)
            right[place] = sum(one == other for one, other in zip(example["tags"], said, strict=True))
            tokens[place] = len(said)
        confidence = np.array([each.confidence for each in answers], float)
        return {
            "spans": spans,
            "right_tokens": right,
            "tokens": tokens,
            "correct": (right == tokens).astype(float),
            "confidence": confidence,
        }


def tokens_of(task: Tag, example: Example) -> list[str]:
    """Give an example's tokens: the letters of a text that came as one, unless it has one tag."""
    tokens = list(example["tokens"])
    return list(tokens[0]) if task.letters and len(tokens) == 1 and len(example.get("tags", ())) != 1 else tokens


def valid(task: Tag, example: Example) -> list[str]:
    """Give an example's tags as a sequence that can be: in BIO tags, an I-x that continues nothing begins a span, as CoNLL reads it."""
    return mend(example["tags"]) if any(tag.startswith("B-") for tag in task.tags) else list(example["tags"])


def follow(made: Mapping[str, np.ndarray], firsts: list[np.ndarray]) -> Iterator[tuple[np.ndarray, float]]:
    """Give each text's best sequence of tags, by number, and the smallest of its tokens' probabilities.

    made    what a chain made of the texts (`layers.heads.named`): "tags" (B, T, K), "transitions" (K, K), "start" (K,)
    firsts  B (N,) int    where each token begins among its text's pieces
    """
    lengths = np.array([len(each) for each in firsts], np.int64)
    scores = made["tags"][np.repeat(np.arange(len(firsts)), lengths), np.concatenate(firsts)]  # (N, K), text after text
    best, marginals = chain.follow(scores, made["transitions"], made["start"], lengths)
    sure = marginals[np.arange(len(best)), best]
    ends = np.cumsum(lengths)[:-1]
    for path, share in zip(np.split(best, ends), np.split(sure, ends), strict=True):
        yield path, float(np.min(share, initial=1.0))


Fitted = tuple[Tag, Any, dict[str, Any]]


def fit_frequent(task: Tag, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Remember the most frequent tag of each token."""
    from zhixing.models.crf import FrequentTag

    both = counted_in(rows, held, settings)
    return task, FrequentTag.fit([each["tokens"] for each in both], [valid(task, each) for each in both]), {}


def span_f1(answered: Iterable[list[str]], expected: Iterable[list[str]]) -> float:
    """Give F1 over the spans of several texts."""
    return judged.f1(np.array([judged.count(wanted, said) for wanted, said in zip(expected, answered, strict=True)]))


def fit_crf(task: Tag, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Fit a chain over sparse features: the prior's strength on the held texts, then both together.

    A sequence of letters whose tags mark no spans (the fold of a protein) is read more widely: a letter says less than a word.
    """
    from zhixing.models.crf import AROUND, CRF, WIDE

    def split(part: list[Example]) -> tuple[list[list[str]], list[list[str]]]:
        return [each["tokens"] for each in part], [valid(task, each) for each in part]

    strength = settings.get("strength") or 0.0
    found: dict[str, Any] = {}
    around = WIDE if getattr(task, "letters", False) and not any(tag.startswith("B-") for tag in task.tags) else AROUND
    if held and not strength:
        chosen, trials = CRF.choose(*split(rows), split(held), span_f1, around=around)
        strength = chosen.config.strength
        found["trials"] = {str(each): value for each, value in trials.items()}
        tell("train.strength", method="crf", strength=strength)
    both = counted_in(rows, held, settings)
    model = CRF.fit(*split(both), around=around, **({"strength": strength} if strength else {}))
    return task, model, found | {"strength": model.config.strength}
