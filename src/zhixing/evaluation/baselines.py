"""The rivals that stand beside every score: cheap, strong, fitted on the same training text and scored on the same examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard

Tell = Callable[..., None]
MAJORITY, LINEAR, BAYES, UNIGRAM, COUNTED = "majority", "logistic", "naive_bayes", "unigram", "kneser_ney"


def fitted_on(corpus: Corpus, split: str) -> tuple[str, ...]:
    """Name the splits that rivals learn from: training, and validation unless that is what is scored."""
    return ("train", "validation") if corpus.counts.get("validation") and split != "validation" else ("train",)


def language_rivals(corpus: Corpus, tokenizer: Any, tokens: np.ndarray, split: str, family: str, tell: Tell) -> dict[str, np.ndarray]:
    """Score a text by the unigram and by the best-order n-gram, counted on training and validation with the model's own tokenizer.

    tokens  (N,) int
    split   where the tokens come from: validation is not counted when it is what is scored
    family  of the model judged: an n-gram is no rival of itself
    return  {name: (N-1,) float64 log-probabilities in nats}
    """
    from zhixing.models.ngram import NGram, best_order

    train = shard(corpus, tokenizer, "train", tell).tokens
    held = shard(corpus, tokenizer, "validation", tell).tokens if "validation" in fitted_on(corpus, split) else None
    both = np.asarray(train) if held is None else np.concatenate([held, train[1:]])
    size, end = tokenizer.vocabulary_size, tokenizer.end_id
    scores = {UNIGRAM: NGram.count(both, size, 1, end).score(tokens)}
    if family != "ngram":
        order, _ = best_order(train, held, size, end)
        tell("evaluate.rival", order=order)
        scores[f"{COUNTED}_{order}"] = NGram.count(both, size, order, end).score(tokens)
    return scores


def class_rivals(corpus: Corpus, task: Any, texts: list[str], split: str, family: str, tell: Tell) -> dict[str, np.ndarray]:
    """Answer texts by the most frequent label and by a linear model of hashed n-grams at its default prior.

    split   where the texts come from: validation is not fitted when it is what is scored
    return  {name: (B, labels) float64 probabilities}
    """
    from zhixing.models.bag import Bag

    index = {label: place for place, label in enumerate(task.labels)}
    rows = [row for part in fitted_on(corpus, split) for row in corpus.examples(part) if row["label"] in index]
    if not rows:
        return {}  # a corpus of other labels has nothing to learn these from
    labels = np.array([index[row["label"]] for row in rows])
    shares = np.bincount(labels, minlength=len(index)) / len(labels)  # (labels,)
    found = {MAJORITY: np.tile(shares, (len(texts), 1))}
    method = BAYES if family == LINEAR else LINEAR
    tell("evaluate.rival_bag", method=method)
    bag = Bag.fit([row["text"] for row in rows], labels, len(index), method, None)
    found[method] = np.asarray(bag.probabilities(texts))
    return found
