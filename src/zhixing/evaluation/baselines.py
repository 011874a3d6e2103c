"""The rivals that stand beside every score: cheap, strong, fitted on the same training text and scored on the same examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.log import quiet
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import function

Tell = Callable[..., None]
Reader = Callable[[Any, np.ndarray, int, Tell], np.ndarray]  # (model, tokens, end id, tell) -> log p of each token after the first
UNIGRAM, COUNTED = "unigram", "kneser_ney"


def fitted_on(corpus: Corpus, split: str) -> tuple[str, ...]:
    """Name the splits that rivals learn from: training, and validation unless that is what is scored."""
    return ("train", "validation") if corpus.counts.get("validation") and split != "validation" else ("train",)


def language_rivals(
    corpus: Corpus, tokenizer: Any, tokens: np.ndarray, split: str, family: str, tell: Tell, reader: Reader | None = None
) -> dict[str, np.ndarray]:
    """Score a text by the unigram and by the best-order n-gram, counted on training and validation with the model's own tokenizer.

    tokens  (N,) int
    split   where the tokens come from: validation is not counted when it is what is scored
    family  of the model judged: an n-gram is no rival of itself
    return  {name: (N-1,) float64 log-probabilities in nats}
    """
    models = language_models(corpus, tokenizer, family, tell, split)
    found = {}
    for name, model in models.items():
        if reader:
            tell("evaluate.rival_read", name=name)
        found[name] = reader(model, tokens, tokenizer.end_id, tell) if reader else model.score(tokens)
    return found


def language_models(corpus: Corpus, tokenizer: Any, family: str, tell: Tell, split: str = "test") -> dict[str, Any]:
    """Count the unigram and the best-order n-gram of a corpus: the rivals of every model of language.

    split  what is scored: validation is not counted when it is that
    """
    from zhixing.models.ngram import NGram, best_order

    train = shard(corpus, tokenizer, "train", tell).tokens
    held = shard(corpus, tokenizer, "validation", tell).tokens if "validation" in fitted_on(corpus, split) else None
    both = np.asarray(train) if held is None else np.concatenate([held, train[1:]])
    size, end = tokenizer.vocabulary_size, tokenizer.end_id
    models = {UNIGRAM: NGram.count(both, size, 1, end)}
    if family != "ngram":
        order, _ = best_order(train, held, size, end)
        tell("evaluate.rival", order=order)
        models[f"{COUNTED}_{order}"] = NGram.count(both, size, order, end)
    return models


def row_rivals(corpus: Corpus, task: Any, examples: list[dict[str, Any]], split: str, family: str, tell: Tell) -> dict[str, Any]:
    """Answer examples by each of the task's counted models, at its default settings; the model judged is no rival of itself.

    split   where the examples come from: validation is not fitted when it is what is scored
    return  {name: what the task's metrics give of the rival's answers}
    """
    rows = known_rows(task, (row for part in fitted_on(corpus, split) for row in corpus.examples(part)), quiet)
    if not rows:
        return {}  # a corpus of other labels has nothing to learn these from
    found: dict[str, Any] = {}
    for name in task.counted:
        if name != family:
            tell("evaluate.rival_fit", name=name)
            judge, model, _ = function(task.counted[name])(task, rows, [], {"method": name}, quiet)
            found[name] = answered(judge, model, None, examples)
    return found


def answered(
    task: Any, model: Any, tokenizer: Any, examples: list[dict[str, Any]], seconds: float = math.inf, least: int = 64
) -> dict[str, np.ndarray]:
    """Give what a task's metrics say of a model's answers to examples, without having shown it theirs.

    seconds  in which to answer: the first ones, in pieces each as large as all before it, until the next would end too late; the first
             piece, of `least` examples, always
    return   {name: (N, ...)}, a row for each of the examples that were answered
    """
    start, answers = time.perf_counter(), []
    while not answers or (len(answers) < len(examples) and 2 * (time.perf_counter() - start) <= seconds):
        size = len(examples) if seconds == math.inf else max(least, len(answers))
        piece = examples[len(answers) : len(answers) + size]
        answers += task.answers(model, [task.encode(asked(task, each), tokenizer) for each in piece], tokenizer)
    return task.metrics(answers, examples[: len(answers)])


def asked(task: Any, example: dict[str, Any]) -> dict[str, Any]:
    """Give an example without its answers, unless they are given step by step."""
    return {name: value for name, value in example.items() if task.schema.stepwise or name not in task.schema.told}
