"""Judging pairs of texts that belong together and have no scores: how often a text finds its own other among all others of the split.

`recall_1` is the share of texts whose own other is the nearest of all that differ from one another, `recall_5` that whose own is one of
the five nearest, `mean_reciprocal_rank` the mean of 1 over its place. Beside it: `chance`, and `overlap`, the n-grams in common.
Source: Voorhees 1999 (the reciprocal rank). Leaves out: others that would be as right as a text's own; such a set should not be judged so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.log import quiet
from zhixing.data.corpus import Corpus
from zhixing.evaluation.report import Figure, Report, decide
from zhixing.metrics import intervals
from zhixing.metrics.figures import Mean
from zhixing.tasks.similar import FIRST, SECOND, fit_overlap, vectors

SEED = 20231
AT_ONCE = 512  # rows of the table of cosines
NAMES = ("recall_1", "recall_5", "mean_reciprocal_rank")
Tell = Callable[..., None]
Found = tuple[np.ndarray, np.ndarray]


def judge_partners(artefact: Any, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score a model of likeness on the pairs of a split."""
    examples = list(corpus.examples(split))
    tell("evaluate.answering", rows=len(examples))
    values = values_of(places_of(artefact.task, artefact.model, examples, artefact.tokenizer))
    beside: dict[str, dict[str, float]] = {name: {} for name in NAMES}
    comparisons: dict[str, Any] = {}
    others = len({each[SECOND] for each in examples})
    if rivals:
        harmonic = float((1 / np.arange(1, others + 1)).mean())
        beside = {name: {"chance": each} for name, each in zip(NAMES, (1 / others, min(1.0, 5 / others), harmonic), strict=True)}
        task, counted, _ = fit_overlap(artefact.task, list(corpus.examples("train")), [], {}, quiet)
        told = values_of(places_of(task, counted, examples, None))
        for name in NAMES:
            beside[name]["overlap"] = float(told[name].mean())
        comparisons["overlap"] = intervals.paired(values[NAMES[0]], told[NAMES[0]], SEED).to_dict()
    figures = []
    for name, each in values.items():
        spread = Mean(name).interval({name: each}, SEED)
        figures.append(Figure(name, float(each.mean()), spread.low, spread.high, beside[name]))
    where = (str(artefact.folder.path), str(corpus.path))
    details = {"others": others}
    return Report(*where, split, artefact.task.name, len(examples), tuple(figures), comparisons, decide(comparisons, True), details)


def values_of(found: Found) -> dict[str, np.ndarray]:
    """Give what is judged, by row: each figure's expected value, were equal cosines put in a drawn order."""
    nearer, equal = found
    hits = {name: np.clip((most - nearer) / equal, 0, 1) for name, most in zip(NAMES, (1, 5), strict=False)}
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int((nearer + equal).max(initial=0)) + 1))])
    return hits | {NAMES[2]: (harmonic[nearer + equal] - harmonic[nearer]) / equal}


def places_of(task: Any, model: Any, examples: list[dict[str, Any]], tokenizer: Any) -> Found:
    """Count for each text the others that are nearer than its own, and those that are as near, its own among them: two (N,) int."""
    kinds, own = np.unique([each[SECOND] for each in examples], return_inverse=True)
    first, second = (vectors(task, model, texts, tokenizer) for texts in ([each[FIRST] for each in examples], kinds.tolist()))
    nearer, equal = np.zeros(len(examples), np.int64), np.zeros(len(examples), np.int64)
    for start in range(0, len(examples), AT_ONCE):
        table = first[start : start + AT_ONCE] @ second.T
        cosines = table if isinstance(table, np.ndarray) else table.toarray()  # (B, N)
        mine = cosines[np.arange(len(cosines)), own[start : start + AT_ONCE]][:, None]
        nearer[start : start + AT_ONCE], equal[start : start + AT_ONCE] = (cosines > mine).sum(1), (cosines == mine).sum(1)
    return nearer, equal
