"""`train --best`: fit the eras that fit into the time, choose by validation with an interval, say why in the card, serve the winner.

Counted models are fitted first: they are cheap and often win. What time is left goes to a neural model, and for language the two are mixed.
Candidates are judged on validation by models that have not seen it; a counted winner then counts validation as well.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.config import fingerprint
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, sha256, write_json
from zhixing.core.folder import MANIFEST, Folder, check_new, locked, open_folder, replace, seal
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.evaluation.evaluate import SEED, score_text
from zhixing.metrics import intervals
from zhixing.tasks.artefact import Artefact, load
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import task_class
from zhixing.training import counted
from zhixing.training.settings import settle
from zhixing.training.train import make_tokenizer, mix_trained, train

NEURAL = "qwen3"
LEAST_SECONDS = 20.0  # a neural model that has less time left than this is not tried
RESERVE = 0.15  # of the whole time, kept for scoring the candidates and fitting the winner
SIZES = ((2.0, "tiny"), (40.0, "small"), (240.0, "medium"))  # minutes up to which a size is tried
Tell = Callable[..., None]


@dataclass(frozen=True)
class Candidate:
    """One candidate: its value per unit of validation (bits of a stretch, or right or wrong of a row) and what it took."""

    name: str
    values: np.ndarray
    sizes: np.ndarray
    seconds: float
    lower_is_better: bool
    nats: float = 0.0

    @property
    def mean(self) -> float:
        """The value in one figure: bits per byte, or accuracy."""
        return float(self.values.sum() / self.sizes.sum())


def best(
    corpus: str | Path,
    out: str | Path,
    minutes: float,
    settings: dict[str, Any] | None = None,
    *,
    tell: Tell = quiet,
    force: bool = False,
    stop: Stop | None = None,
) -> Folder:
    """Fit the candidates that fit into the time and keep the best as a Model folder.

    minutes   for everything, from here to the sealed folder
    settings  of the neural candidate and the tokenizer, as the user gave them
    Raises DataError when the corpus has no validation split to choose by.
    """
    began = time.perf_counter()
    if not (minutes > 0 and math.isfinite(minutes)):
        raise UsageError("settings.range", setting="minutes", value=minutes, origin="flag")
    opened = open_corpus(corpus)
    if opened.task not in CHOOSERS:
        raise UsageError("best.task", task=opened.task, among=list(CHOOSERS))
    if not opened.counts.get("validation"):
        raise DataError("train.no_validation", path=str(opened.path))
    out = Path(out)
    check_new(out, force, opened.path)
    given = dict(settings or {})
    for name in ("steps", "core_seconds", "model"):
        if name in given:
            raise UsageError("best.setting", name=name)
    settle(opened.task, {**given, "model": NEURAL, "minutes": minutes})
    with locked(out):
        return _best(opened, out, minutes, given, began, tell, force, stop)


def _best(
    opened: Corpus, out: Path, minutes: float, given: dict[str, Any], began: float, tell: Tell, force: bool, stop: Stop | None
) -> Folder:
    """Search in a place that is held for this process."""
    work = out.absolute().parent / f".{out.name}.candidates"
    request, note = fingerprint([sha256(opened.path / MANIFEST), given, minutes]), work / "request.json"
    if work.exists() and not (note.exists() and read_json(note) == request):
        shutil.rmtree(work)  # an interrupted search of another corpus or with other settings
    work.mkdir(parents=True, exist_ok=True)
    write_json(note, request)

    def left() -> float:
        return minutes * 60 * (1 - RESERVE) - (time.perf_counter() - began)

    candidates, make = CHOOSERS[opened.task](opened, work, minutes, given, left, tell, stop)
    order = sorted(candidates, key=lambda each: (each.mean if each.lower_is_better else -each.mean, each.nats))
    table = explain(order)
    winner = order[0].name
    tell("best.winner", name=winner, value=order[0].mean)
    made = work / "winner"
    shutil.rmtree(made, ignore_errors=True)
    make(winner, made)
    artefact = open_folder(made, "model")
    measured = artefact.card["measured"] | {"best_seconds": round(time.perf_counter() - began, 3)}
    seal_again(made, artefact.card | {"best": table, "measured": measured})
    check_new(out, force, opened.path)
    replace(made, out)
    shutil.rmtree(work)
    return open_folder(out, "model")


def seal_again(path: Path, card: dict[str, Any]) -> None:
    """Write a folder's card anew, with its manifest."""
    seal(path, "model", {name: value for name, value in card.items() if name not in ("format", "kind")})


def explain(order: list[Candidate]) -> dict[str, Any]:
    """Say in figures why the first was chosen: each candidate's value with interval, and its paired difference to the winner."""
    rows = []
    for each in order:
        spread = intervals.interval_of_ratio(each.values, each.sizes, SEED)
        row: dict[str, Any] = {"name": each.name, "validation": spread.to_dict(), "nats": each.nats, "seconds": round(each.seconds, 1)}
        if each is not order[0]:
            row["minus_winner"] = intervals.paired(each.values, order[0].values, SEED, each.sizes).to_dict()
        rows.append(row)
    sure = len(rows) > 1 and (rows[1]["minus_winner"]["low"] > 0 or rows[1]["minus_winner"]["high"] < 0)
    figure = "bits_per_byte" if order[0].lower_is_better else "accuracy"
    return {"figure": figure, "winner": order[0].name, "certain": bool(sure), "candidates": rows}


def size_for(minutes: float, given: dict[str, Any]) -> dict[str, Any]:
    """Choose the dial by the time, unless the user did."""
    return {"size": next((size for most, size in SIZES if minutes <= most), "medium"), **given}


Made = tuple[list[Candidate], Callable[[str, Path], None]]


def language(
    corpus: Corpus, work: Path, minutes: float, given: dict[str, Any], left: Callable[[], float], tell: Tell, stop: Stop | None
) -> Made:
    """Candidates for language: the best-order n-gram, the decoder, and their mixture."""
    from zhixing.models.mixture import Mixture
    from zhixing.models.ngram import NGram

    start = time.perf_counter()
    tokenizer = make_tokenizer(corpus, counted_settings(given))
    train_tokens, held = counted.splits(corpus, tokenizer, tell)
    assert held is not None
    order, _ = counted.best_order(train_tokens, held, tokenizer.vocabulary_size, tokenizer.end_id)
    ngram = NGram.count(train_tokens, tokenizer.vocabulary_size, order, tokenizer.end_id)
    scored = score_text(ngram, tokenizer, corpus, "validation", tell)
    candidates = [Candidate("ngram", scored.bits, scored.sizes, time.perf_counter() - start, True)]
    tell("best.candidate", name=f"ngram {order}", value=candidates[0].mean)
    only = {name: given[name] for name in ("tokenizer", "vocabulary", "dictionary", "seed", "threads") if name in given}
    if left() > LEAST_SECONDS:
        start = time.perf_counter()
        trained = neural(corpus, work, size_for(minutes, given), left(), tell, stop)
        own = score_text(trained.model, trained.tokenizer, corpus, "validation", tell)
        candidates.append(Candidate(NEURAL, own.bits, own.sizes, time.perf_counter() - start, True))
        tell("best.candidate", name=NEURAL, value=candidates[-1].mean)
        # The weights are fitted on one half of validation and judged on the other, both ways.
        tokens, halves = scored.tokens, np.arange(len(scored.logs)) < len(scored.logs) // 2
        mixed = np.empty_like(scored.logs)
        matched = ngram.matched(tokens)
        for half in (halves, ~halves):
            weights = counted.fit_weights(np.stack([own.logs[half], scored.logs[half]]), matched[half], order)
            mixed[~half] = Mixture([trained.model, ngram], weights).mix([own.logs[~half], scored.logs[~half]], matched[~half])
        seconds = sum(each.seconds for each in candidates)
        candidates.append(Candidate("mixture", scored.unit_bits(mixed), scored.sizes, seconds, True))
        tell("best.candidate", name="mixture", value=candidates[-1].mean)

    def make(winner: str, path: Path) -> None:
        if winner == "ngram":
            train(corpus.path, path, {**only, "model": "ngram", "order": order}, tell=tell)
        elif winner == NEURAL:
            shutil.copytree(work / NEURAL, path)
        else:
            mix_trained(corpus.path, work / NEURAL, path, order=order, tell=tell)

    return candidates, make


def counted_settings(given: dict[str, Any]) -> Any:
    """Settle the settings that the tokenizer needs."""
    return settle("language", {name: given[name] for name in ("tokenizer", "vocabulary", "dictionary") if name in given}).value


def neural(corpus: Corpus, work: Path, given: dict[str, Any], seconds: float, tell: Tell, stop: Stop | None) -> Artefact:
    """Train the neural candidate in the time that is left, or go on with one that was interrupted, with its own number of steps."""
    path = work / NEURAL
    request = {**given, "model": NEURAL, "minutes": round(seconds / 60, 3)}
    if (path / "run.json").exists() and not (path / MANIFEST).exists():
        request["minutes"] = read_json(path / "run.json")["settings"]["minutes"]
    if not (path / MANIFEST).exists():
        train(corpus.path, path, request, tell=tell, stop=stop)
    return load(path)


def classes(
    corpus: Corpus, work: Path, minutes: float, given: dict[str, Any], left: Callable[[], float], tell: Tell, stop: Stop | None
) -> Made:
    """Candidates for classification: naive Bayes, logistic regression, and a small neural classifier when time is left."""
    task = task_class("classify").fit(corpus.examples("train"))
    rows = known_rows(task, corpus.examples("validation"), quiet)
    candidates: list[Candidate] = []

    def judge(name: str, fitted: Any, model: Any, tokenizer: Any, seconds: float) -> None:
        items = [fitted.encode(row, tokenizer) for row in rows]
        values = fitted.metrics(list(fitted.answers(model, items, tokenizer)), rows)
        candidates.append(Candidate(name, values["correct"], np.ones(len(rows)), seconds, False, float(values["nats"].mean())))
        tell("best.candidate", name=name, value=candidates[-1].mean)

    strengths: dict[str, float] = {}
    for method in ("naive_bayes", "logistic"):
        start = time.perf_counter()
        fitted, model, found = counted.fit_rows(corpus, task, method, {"refit": False}, tell)
        strengths[method] = found["strength"]
        judge(method, fitted, model, None, time.perf_counter() - start)
        if stop is not None:
            stop.check()
    fit_again = max(each.seconds for each in candidates)
    if left() - fit_again > LEAST_SECONDS:
        start = time.perf_counter()
        found_model = neural(corpus, work, {"size": "tiny", **given}, left() - fit_again, tell, stop)
        judge(NEURAL, dataclasses.replace(found_model.task), found_model.model, found_model.tokenizer, time.perf_counter() - start)

    def make(winner: str, path: Path) -> None:
        if winner == NEURAL:
            shutil.copytree(work / NEURAL, path)
        else:
            train(corpus.path, path, {"model": winner, "strength": strengths[winner]}, tell=tell)

    return candidates, make


CHOOSERS: dict[str, Callable[..., Made]] = {"language": language, "classify": classes}
