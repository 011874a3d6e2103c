"""Translation: p(target | source).   text -> text, with how sure the model is of each of its tokens

Any pair of texts will do: languages, questions and answers, long and short. Judged by BLEU and chrF, whose arithmetic is sacrebleu's; they
are functions of counts summed over a corpus, so `metrics` gives each row's counts.
Source: Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Post 2018, arXiv:1804.08771 (how to report them).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import UsageError
from zhixing.data.schema import Schema, Text
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.tasks.task import Answer, Example, Item

READ_AHEAD = 1024  # sources sorted by length before they are searched side by side
ORDERS = 4  # of BLEU's n-grams
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
# Scripts that, like Chinese, put no spaces between words, and for which sacrebleu has no words either: kana, Thai, Lao, Khmer, Burmese.
UNSPACED = re.compile(r"[\u3040-\u30ff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f]")
LETTER = re.compile(r"[^\W\d_]")


@functools.cache
def judges(tokenize: str) -> tuple[Any, Any]:
    """Give sacrebleu's BLEU, which cuts texts into words as `tokenize` says, and its chrF.

    Raises UsageError with what to install when sacrebleu is missing.
    """
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as missing:
        raise UsageError("extra.missing", package="sacrebleu", extra="translate") from missing
    return BLEU(tokenize=tokenize, effective_order=True), CHRF()


def bleu(rows: np.ndarray) -> float:
    """Give BLEU, 0 to 100, from counts of rows.

    rows  (N, 10) float    each the two lengths, then matches and n-grams of orders 1 to 4
    """
    counts = np.rint(rows.sum(0)).astype(int).tolist()
    made = judges("13a")[0].compute_bleu(
        counts[2 : 2 + ORDERS], counts[2 + ORDERS :], counts[0], counts[1], smooth_method="exp", max_ngram_order=ORDERS
    )
    return float(made.score)


def chrf(rows: np.ndarray) -> float:
    """Give chrF, 0 to 100, from counts of rows.

    rows  (N, 18) float    each n-grams of the answer, of the target and of both, for orders 1 to 6
    """
    return float(judges("13a")[1]._compute_f_score(np.rint(rows.sum(0)).astype(int).tolist()))


@dataclass(frozen=True)
class Translate:
    """One text, another text.

    longest    int, tokens    of a source and of a target that a model reads; what lies beyond is not read
    tokenize   str            how BLEU cuts texts into words: "13a" where spaces stand between words, "zh" for Chinese, "char" for others
    smoothing  float          label smoothing of training
    beam       int            prefixes kept when answering
    alpha      float          the higher, the longer the answers
    """

    longest: int = 128
    tokenize: str = "13a"
    smoothing: float = 0.1
    beam: int = 5
    alpha: float = 1.0

    name: ClassVar[str] = "translate"
    kinds: ClassVar[tuple[str, ...]] = ("encoder_decoder",)
    schema: ClassVar[Schema] = Schema({"source": Text(), "target": Text()}, "target")
    figures: ClassVar[Figures] = {"bleu": Whole(bleu, ("bleu",)), "chrf": Whole(chrf, ("chrf",)), "exact": Mean("exact")}
    counted: ClassVar[dict[str, str]] = {"copy": "zhixing.tasks.translate:copied"}
    default: ClassVar[str] = "mbart"
    eras: ClassVar[tuple[str, ...]] = ("mbart", "lstm_attention")
    dial: ClassVar[dict[str, Any]] = {"tokenizer": "bpe", "vocabulary": 4000, "window": 128}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Translate:
        """Read from the targets how words are to be told apart when answers are judged."""
        letters = han = unspaced = 0
        for example in training_examples:
            letters += len(LETTER.findall(example["target"]))
            han += len(HAN.findall(example["target"]))
            unspaced += len(UNSPACED.findall(example["target"]))
        way = "13a"
        if 2 * (han + unspaced) > letters:
            way = "zh" if han > 9 * unspaced else "char"
        return cls(**{"tokenize": way, **settings})

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"source": (S,) int, "tokens": (T,) int, "targets": (T,) int}; with no tokenizer, into {"source": str}.

        The end token closes the source; it opens the target, as tokens, and closes it, as targets. A row to be answered has no target:
        its tokens are the end token alone, and it has no targets.
        """
        if tokenizer is None:
            return {"source": example["source"]}
        end = np.array([tokenizer.end_id], np.int64)
        item: Item = {"source": np.concatenate([tokenizer.encode(example["source"])[: self.longest - 1], end]).astype(np.int64)}
        if "target" not in example:
            return {**item, "tokens": end}
        target = np.asarray(tokenizer.encode(example["target"]), np.int64)  # (T,)
        item["tokens"] = np.concatenate([end, target])[: self.longest]
        item["targets"] = np.concatenate([target, end])[: self.longest]
        return item

    def head(self, width: int) -> None:
        """A model that writes has its own head, over the vocabulary."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the next token, smoothed in training."""
        from zhixing.objectives.tokens import NextToken

        return NextToken(smoothing=self.smoothing)

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each source's best text by beam search; decoding is a Beam.

        The confidence is the geometric mean of the probabilities of its tokens, the end token among them; a copy has none.
        """
        items = iter(items)
        while chunk := list(itertools.islice(items, READ_AHEAD)):
            sources = [item["source"] for item in chunk]
            if hasattr(model, "write"):
                for text in model.write(sources):
                    yield Answer(text)
                continue
            from zhixing.decoding.search import Beam, search

            beam, end = decoding or Beam(width=self.beam, alpha=self.alpha, barred=tokenizer.barred), tokenizer.end_id
            for found in search(model, [[end]] * len(chunk), end, beam, sources):
                confidence = float(np.exp(np.mean(found.log_probabilities)))
                yield Answer(tokenizer.decode(found.tokens), confidence)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per example what BLEU and chrF count, and exact (0 or 1): "bleu" (N, 10), "chrf" (N, 18), "exact" (N,)."""
        words, characters = judges(self.tokenize)
        said = [answer.value for answer in answers]
        true = [[example["target"] for example in examples]]
        return {
            "bleu": np.array(words._extract_corpus_statistics(said, true), float).reshape(-1, 2 + 2 * ORDERS),
            "chrf": np.array(characters._extract_corpus_statistics(said, true), float).reshape(len(said), -1),
            "exact": np.array([text == example["target"] for text, example in zip(said, examples, strict=True)], float),
        }


def copied(
    task: Translate, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]
) -> tuple[Translate, Any, dict[str, Any]]:
    """Make the model that answers a source with the source; there is nothing to fit."""
    from zhixing.models.copying import Copy

    return task, Copy(), {}
