"""Which rows are most worth labelling next: those that a model is unsure of, each in its own way.

A row's worth is the gradient that its most probable label would give the last layer: large where the model is unsure, and pointing
elsewhere for a text of another sort. Rows are drawn one after the other with chances as the squared distance to the nearest one drawn
(k-means++), the first being the largest. A model of likeness, which has no labels, gives spread alone: what to label first of all.
Source: Ash et al. 2020, arXiv:1906.03671 (BADGE). Leaves out: what a label costs; asking for several rows' labels at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import UsageError
from zhixing.core.files import atomic
from zhixing.core.folder import above, check_place
from zhixing.core.log import quiet
from zhixing.data.columns import Columns, read_words
from zhixing.data.readers import records, survey
from zhixing.evaluation.predict import encoded, find_columns, free_names, refuse_ours, render
from zhixing.models.overlap import Overlap
from zhixing.tasks.artefact import Artefact, load

FORMS = (".csv", ".tsv", ".jsonl")
TASKS = ("classify", "similar")
FEW = 1e-12
Tell = Callable[..., None]


def suggest(
    model: str | Path | Artefact,
    source: str | Path,
    out: str | Path,
    count: int = 50,
    *,
    seed: int = 0,
    text: str | None = None,
    columns: str | None = None,
    encoding: str | None = None,
    tell: Tell = quiet,
    force: bool = False,
) -> dict[str, int]:
    """Write the rows of a file that are most worth labelling, in their order, with the model's answer and confidence beside each.

    model   a Model folder that classifies, or one of likeness
    source  csv, tsv, jsonl or txt; rows that cannot be read, and repeated texts, are not suggested, and are counted
    out     .csv, .tsv or .jsonl
    return  {"rows": ..., "suggested": ..., "problems": ..., "repeated": ...}

    Raises UsageError for another model, another form, a place that is taken, or a count below 1.
    """
    out = Path(out)
    if out.suffix not in FORMS:
        raise UsageError("predict.form", path=str(out))
    if count < 1:
        raise UsageError("usage.count", value=count)
    check_place(out)
    if out.is_dir():
        raise UsageError("output.not_ours", path=str(out))
    if out.exists() and not force:
        raise UsageError("output.exists", path=str(out))
    artefact = model if isinstance(model, Artefact) else load(model)
    if artefact.task.name not in TASKS:
        raise UsageError("suggest.task", path=str(artefact.folder.path), task=artefact.task.name)
    refuse_ours(Path(source), [Path(source)])
    sources = survey(source, encoding=encoding, tell=tell)
    if any(each.path.resolve() == out.resolve() for each in sources):
        raise UsageError("output.is_source", path=str(out))
    words = read_words(columns)
    if text is not None and words.setdefault("text", text) != text:
        raise UsageError("prepare.columns", words=columns)
    rows, texts, answers, counts = _read(artefact, [record for each in sources for record in records(each, "line")], words)
    chosen: list[int] = []
    if rows:
        gradients = np.array([_gradient(each.scores) for each in answers]) if artefact.task.name == "classify" else np.ones((len(rows), 1))
        chosen = spread(gradients, _vectors(artefact, texts), min(count, len(rows)), seed)
    beside = free_names(("answer", "confidence"), {name for row in rows for name in row})
    told = []
    for place in chosen:
        added: dict[str, Any] = {}
        if artefact.task.name == "classify":
            added = {"answer": answers[place].value, "confidence": round(answers[place].confidence, 6)}
        told.append(rows[place] | {beside[name]: value for name, value in added.items()})
    with above(out), atomic(out) as handle:
        handle.write(render(told, out, []).encode("utf-8"))
    return counts | {"suggested": len(chosen)}


def _read(artefact: Artefact, found: list[Any], words: dict[str, str]) -> tuple[list[dict[str, Any]], list[str], list[Any], dict[str, int]]:
    """Read rows, each text once: the rows, their texts, what the model answers, and how many were left out."""
    alone = "text" if artefact.task.name == "similar" else None
    schema = artefact.task.schema.asked
    rows, texts, items = [], [], []
    counts = {"rows": len(found), "problems": 0, "repeated": 0}
    if alone and found:  # of pairs the first texts are asked for, whatever stands beside them
        columns: Columns | None = _of_text(found, words)
    else:
        columns = find_columns(artefact, found, words) if found else None
    seen: set[str] = set()
    for record in found:
        own = columns or Columns(schema)
        example, reason = own.example(record.value, record.path) if record.reason is None else (None, record.reason)
        item = None
        if example is not None and not reason:
            item, reason = (True, None) if alone else encoded(artefact, record, own)
        if item is None:
            counts["problems"] += 1
            continue
        if example["text"] in seen:
            counts["repeated"] += 1
            continue
        seen.add(example["text"])
        rows.append({"text": record.value} if isinstance(record.value, str) else dict(record.value))
        texts.append(example["text"])
        items.append(item)
    answers = [] if alone else list(artefact.task.answers(artefact.model, items, artefact.tokenizer))
    return rows, texts, answers, counts


def _of_text(found: list[Any], words: dict[str, str]) -> Columns:
    """Settle where the texts stand, of rows of which nothing else is read."""
    from zhixing.data.columns import choose
    from zhixing.data.schema import Schema, Text

    values = [record.value for record in found if record.reason is None]
    schema = Schema({"text": Text()})
    if not values or isinstance(values[0], str):
        return Columns(schema)
    return choose(list(dict.fromkeys(name for value in values for name in value)), schema, words)


def _gradient(scores: dict[str, float]) -> np.ndarray:
    """Give (labels,) float64: each label's probability, less 1 for the most probable one."""
    p = np.array(list(scores.values()), np.float64)
    p[int(p.argmax())] -= 1
    return p


def _vectors(artefact: Artefact, texts: Sequence[str]) -> Any:
    """Give (N, D) vectors of length one: of the model's states or, where it has none, of the texts' n-grams."""
    if not artefact.embeds:
        return Overlap.fit(list(texts)).vectors(list(texts))
    found = artefact.embed(texts).astype(np.float64)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), FEW)


def spread(gradients: np.ndarray, vectors: Any, count: int, seed: int) -> list[int]:
    """Draw rows by k-means++ on the products of gradients and vectors, which are never made.

    gradients  (N, labels) float
    vectors    (N, D) float, of length one; sparse ones too
    return     count places, the largest product first
    """
    source = np.random.default_rng(seed)
    sizes = (gradients**2).sum(1)  # (N,)
    chosen = [int(sizes.argmax())]
    far = np.full(len(sizes), np.inf)
    while len(chosen) < count:
        last = chosen[-1]
        near = vectors @ vectors[last].T
        near = np.asarray(near.todense()).ravel() if hasattr(near, "todense") else near  # (N,)
        far = np.minimum(far, np.maximum(sizes + sizes[last] - 2 * (gradients @ gradients[last]) * near, 0))
        far[chosen] = 0
        total = far.sum()
        left = np.setdiff1d(np.arange(len(sizes)), chosen)
        chosen.append(int(source.choice(len(sizes), p=far / total)) if total > FEW else int(left[sizes[left].argmax()]))
    return chosen
