"""Counted and mixed models: fitted without a loop. What must be chosen is chosen on validation; then validation is counted in as well.

A counted model pays nothing for the validation text once its order or prior is chosen, so it gets it: the rival of every neural model
is as strong as it can honestly be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.core.random import key
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.layers.scoring import score
from zhixing.models import dirichlet
from zhixing.models.grammar import Grammar
from zhixing.models.mixture import Mixture
from zhixing.models.mixture import fit_weights as weights_by_em
from zhixing.models.ngram import NGram, best_order
from zhixing.models.tables import nearly_numbers
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import function
from zhixing.tokens.tokenizer import Tokenizer

Tell = Callable[..., None]
ORDERS = range(1, 11)
SHOWN = 80  # characters of a cell that are told


def splits(corpus: Corpus, tokenizer: Tokenizer, tell: Tell) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the tokens of training and, where there is one, of validation."""
    train = shard(corpus, tokenizer, "train", tell).tokens
    held = shard(corpus, tokenizer, "validation", tell).tokens if corpus.counts.get("validation") else None
    return train, held


def together(train: np.ndarray, held: np.ndarray | None) -> np.ndarray:
    """Give validation and training as one stream; both open and close with the end token, which is shared."""
    return np.asarray(train) if held is None else np.concatenate([held, train[1:]])


def count_language(corpus: Corpus, tokenizer: Tokenizer, order: int, tell: Tell) -> tuple[NGram, dict[str, Any]]:
    """Count an n-gram of the given order or of the best on validation; then count training and validation together."""
    train, held = splits(corpus, tokenizer, tell)
    found: dict[str, Any] = {"order": order}
    if held is not None or not order:
        given = order
        order, curve = best_order(train, held, tokenizer.vocabulary_size, tokenizer.end_id, (order,) if order else ORDERS)
        found = {"order": order, "validation_nats": {str(each): nats for each, nats in curve.items()}}
        if not given:
            tell("train.order", order=order)
    return NGram.count(together(train, held), tokenizer.vocabulary_size, order, tokenizer.end_id), found


def learn_grammar(corpus: Corpus, tokenizer: Tokenizer, classes: int, seed: int, tell: Tell) -> tuple[Grammar, dict[str, Any]]:
    """Learn a grammar, with as many passes as are best on validation; its last pass learns from validation as well."""
    train, held = splits(corpus, tokenizer, tell)
    tell("train.classes", classes=classes, tokens=len(train))
    seed = key(seed, "grammar")
    model, losses = Grammar.learn(train, tokenizer.vocabulary_size, classes, tokenizer.end_id, seed, held)
    found: dict[str, Any] = {"classes": classes}
    if losses:
        found |= {"passes": losses.index(min(losses)) + 1, "validation_nats": min(losses)}
        tell("train.passes", passes=found["passes"], value=min(losses))
    return model, found


def count_under_prior(
    corpus: Corpus, tokenizer: Tokenizer, smoothing: str, order: int, strength: float, tell: Tell
) -> tuple[NGram, dict[str, Any]]:
    """Count an n-gram under a Dirichlet prior; what is not given of order and strength is chosen on validation, which is counted then too.

    smoothing  "dirichlet" or "additive"
    """
    train, held = splits(corpus, tokenizer, tell)
    size, end = tokenizer.vocabulary_size, tokenizer.end_id
    found: dict[str, Any] = {"order": order, "strength": strength}
    if held is not None or not (order and strength):
        given = order and strength
        orders, strengths = (order,) if order else ORDERS, (strength,) if strength else ()
        order, strength, trials = dirichlet.choose(train, held, size, end, smoothing, orders, strengths)
        found = {"order": order, "strength": strength, "validation_nats": {str(each): nats for each, (_, nats) in trials.items()}}
        found["strengths"] = {str(each): best for each, (best, _) in trials.items()}
        if not given:
            tell("train.prior", smoothing=smoothing, order=order, strength=strength)
    return NGram.count(together(train, held), size, order, end, smoothing, strength), found


def mix(corpus: Corpus, tokenizer: Tokenizer, models: Sequence[Any], order: int, tell: Tell) -> tuple[Mixture, dict[str, Any]]:
    """Mix trained models with an n-gram: order and weights on validation, then the n-gram counts validation too.

    Raises DataError when there is no validation text: weights chosen on what all have seen would be worthless.
    """
    train, held = splits(corpus, tokenizer, tell)
    if held is None:
        raise DataError("train.no_validation", path=str(corpus.path))
    if not order:
        order, _ = best_order(train, held, tokenizer.vocabulary_size, tokenizer.end_id)
    seen = NGram.count(train, tokenizer.vocabulary_size, order, tokenizer.end_id)
    parts = (*models, seen)
    scores = [score(part, held) for part in parts]
    fitted = Mixture.fit(parts, held, scores)
    whole = NGram.count(together(train, held), tokenizer.vocabulary_size, order, tokenizer.end_id)
    found = {
        "order": order,
        "weights": np.asarray(fitted.weights).round(4).tolist(),
        "validation_nats": -float(np.mean(fitted.mix(scores, seen.matched(held)))),
    }
    return Mixture([*models, whole], fitted.weights), found


def fit_weights(scores: np.ndarray, matched: np.ndarray, order: int) -> np.ndarray:
    """Fit a mixture's weights on scores that are known already.

    scores   (K, N) float64, nats
    matched  (N,) int
    return   (order, K) float64
    """
    return weights_by_em(scores, matched, order)[0]


def fit_rows(
    corpus: Corpus, task: Any, model: str, settings: dict[str, Any], tell: Tell, held: str | None = "validation"
) -> tuple[Any, Any, dict[str, Any]]:
    """Fit one of a task's counted models to a corpus of rows.

    held    the split by which what is not given is chosen; None: nothing is chosen
    return  the task with what was settled on validation, the model, and what is said of it in the card
    """
    rows = list(corpus.examples("train"))
    chosen_by = known_rows(task, corpus.examples(held), tell) if held is not None and corpus.counts.get(held) else []
    cells = [row["row"] for row in [*rows, *chosen_by] if "row" in row and model != "majority"]  # which reads none
    for column, (numbers, others, first) in nearly_numbers(cells).items():
        if column not in task.columns:  # one that validation alone has
            continue
        tell("train.nearly_numbers", column=column, numbers=numbers, others=others, value=first[:SHOWN])
    return function(task.counted[model])(task, rows, chosen_by, {"method": model, **settings}, tell)
