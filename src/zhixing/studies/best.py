"""`train --best`: fit the eras that fit into the time, choose by validation with an interval, say why in the card, serve the winner.

Counted models are fitted first: they are cheap and often win. What time is left goes to trained models of other eras, and for language the
trained one is mixed with the counted one. Candidates are judged on validation by models whose weights have not seen it, though all of them
settle there what they must (a prior's strength, the step to stop at, thresholds); a counted winner then counts validation as well.
"""

from __future__ import annotations

import contextlib
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
from zhixing.core.stop import Late, Stop, within
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.evaluation.baselines import answered
from zhixing.evaluation.evaluate import SEED, score_text, unseen_labels, weigh
from zhixing.metrics.figures import WHOLE_ROUNDS, Figures, Ratio
from zhixing.metrics.intervals import ENOUGH
from zhixing.tasks.artefact import Artefact, load
from zhixing.tasks.similar import SCORE
from zhixing.tasks.task import TASKS, task_class
from zhixing.training import counted
from zhixing.training.settings import TOLD, settle
from zhixing.training.train import make_tokenizer, mix_trained, train

LEAST_SECONDS = 20.0  # a trained model that would have less time than this is not tried
RESERVE = 0.15  # of the whole time, kept for comparing the candidates and fitting the winner
ONE_FIT = 0.5  # of the time of a model that tried several strengths, at most: fitting it again with the one that was chosen
JUDGING = 0.2  # of the time of one trained model, kept for its answers to validation
COMPARING = 0.05  # of the whole time, kept for the intervals
LEAST_ROWS, MOST_ROWS = 200, 5000  # of validation that candidates are judged on, if there are so many
SIZES = ((2.0, "tiny"), (40.0, "small"), (240.0, "medium"))  # minutes up to which a size is tried
APART = ("many",)  # its candidates answer several tasks, each of which might have another winner
Tell = Callable[..., None]


@dataclass(frozen=True)
class Candidate:
    """One candidate: what its figures are made of, arrays with a row for each unit of validation, and the seconds that it took."""

    name: str
    values: dict[str, np.ndarray]
    seconds: float

    @property
    def units(self) -> int:
        """How many rows, or stretches of a text, it was judged on."""
        return len(next(iter(self.values.values())))

    def on(self, units: int) -> Candidate:
        """Give the candidate as the first units alone show it."""
        return dataclasses.replace(self, values={name: each[:units] for name, each in self.values.items()})


@dataclass(frozen=True)
class Search:
    """What was found: the candidates, the figures that judge them, the first one the most, and how the winner becomes a Model folder.

    late  names of what did not fit into the time
    """

    task: str
    figures: Figures
    candidates: list[Candidate]
    make: Callable[[str, Path], None]
    late: list[str]


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
    of = task_class(opened.task)
    if not of.counted or opened.task in APART:
        raise UsageError("best.task", task=opened.task, among=[name for name in TASKS if task_class(name).counted and name not in APART])
    if not opened.counts.get("validation"):
        raise DataError("train.no_validation", path=str(opened.path))
    if opened.task == "similar" and not any(each.get(SCORE) is not None for each in opened.examples("validation")):
        raise DataError("best.unscored", path=str(opened.path))
    out = Path(out)
    check_new(out, force, opened.path)
    given = dict(settings or {})
    for name in ("steps", "core_seconds", "model"):
        if name in given:
            raise UsageError("best.setting", name=name)
    for name in of.eras:
        settle(opened.task, {**given, "model": name, "minutes": minutes})
    if not of.eras:
        settle(opened.task, given)  # refuses what no model of the task is told
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

    found = CHOOSERS.get(opened.task, rows)(opened, work, minutes, given, left, tell, stop)
    table = choose(found, minutes * 60 * COMPARING)
    winner = table["winner"]
    tell("best.winner", name=winner, value=table["candidates"][0]["validation"]["value"])
    made = work / "winner"
    shutil.rmtree(made, ignore_errors=True)
    found.make(winner, made)
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


def choose(found: Search, seconds: float) -> dict[str, Any]:
    """Order the candidates, the best first, and say in figures why: each value with its interval, and its paired difference to the winner.

    The first figure decides, those after it where candidates are equal in it; one that nothing can be made of says nothing. All are judged
    on the same units: as many as the slowest candidate had time for, and as intervals can be made of in the seconds.
    """
    units = min(each.units for each in found.candidates)
    leading(found.figures, found.candidates[0])  # the first call may import what it needs
    start = time.perf_counter()
    leading(found.figures, found.candidates[0].on(units))
    cost = (time.perf_counter() - start) * WHOLE_ROUNDS * 3 * len(found.candidates)
    units = max(min(units, ENOUGH), int(units * min(1.0, seconds / max(cost, 1e-9))))
    candidates = [each.on(units) for each in found.candidates]

    def rank(each: Candidate) -> list[float]:
        said = [(figure.lower, figure(each.values)) for figure in found.figures.values()]
        return [math.inf if math.isnan(value) else value if lower else -value for lower, value in said]

    order = sorted(candidates, key=rank)
    name = leading(found.figures, order[0])
    if name is None:
        raise DataError("evaluate.nothing", task=found.task)
    rows: list[dict[str, Any]] = []
    for each in order:
        row: dict[str, Any] = {"name": each.name, "seconds": round(each.seconds, 1), "validation": None}
        rows.append(row)
        if math.isnan(found.figures[name](each.values)):
            continue
        beside = {} if each is order[0] else {order[0].name: order[0].values}
        (figure,), gaps, _ = weigh({name: found.figures[name]}, each.values, beside, found.task)
        row["validation"] = {"value": figure.value, "low": figure.low, "high": figure.high}
        if beside:
            row["minus_winner"] = gaps[order[0].name]
    gap = rows[1].get("minus_winner") if len(rows) > 1 else None
    sure = gap is not None and units >= ENOUGH and (gap["low"] > 0 or gap["high"] < 0)
    return {"figure": name, "winner": order[0].name, "certain": sure, "units": units, "candidates": rows, "late": found.late}


def leading(figures: Figures, candidate: Candidate) -> str | None:
    """Name the first figure that something can be made of."""
    return next((name for name, figure in figures.items() if not math.isnan(figure(candidate.values))), None)


def size_for(minutes: float, given: dict[str, Any]) -> dict[str, Any]:
    """Choose the dial by the time, unless the user did."""
    return {"size": next((size for most, size in SIZES if minutes <= most), "medium"), **given}


def language(
    corpus: Corpus, work: Path, minutes: float, given: dict[str, Any], left: Callable[[], float], tell: Tell, stop: Stop | None
) -> Search:
    """Candidates for language: the best-order n-gram, the decoder, and their mixture."""
    from zhixing.models.mixture import Mixture
    from zhixing.models.ngram import NGram

    figures: Figures = {"bits_per_byte": Ratio("bits", "bytes", lower=True)}
    candidates: list[Candidate] = []

    def enter(name: str, bits: np.ndarray, seconds: float, shown: str = "") -> None:
        candidates.append(Candidate(name, {"bits": bits, "bytes": scored.sizes}, seconds))
        tell("best.candidate", name=shown or name, value=figures["bits_per_byte"](candidates[-1].values))

    start = time.perf_counter()
    tokenizer = make_tokenizer(corpus, counted_settings(given))
    train_tokens, held = counted.splits(corpus, tokenizer, tell)
    assert held is not None
    order, _ = counted.best_order(train_tokens, held, tokenizer.vocabulary_size, tokenizer.end_id)
    ngram = NGram.count(train_tokens, tokenizer.vocabulary_size, order, tokenizer.end_id)
    scored = score_text(ngram, tokenizer, corpus, "validation", tell)
    enter("ngram", scored.bits, time.perf_counter() - start, f"ngram {order}")
    only = {name: given[name] for name in ("tokenizer", "vocabulary", "dictionary", "seed", "threads") if name in given}
    (neural,) = task_class("language").eras
    late = [] if left() > LEAST_SECONDS else [neural]
    if not late:
        start = time.perf_counter()
        trained = fit(corpus, work, neural, size_for(minutes, given), left(), tell, stop)
        own = score_text(trained.model, trained.tokenizer, corpus, "validation", tell)
        enter(neural, own.bits, time.perf_counter() - start)
        # The weights are fitted on one half of validation and judged on the other, both ways.
        tokens, halves = scored.tokens, np.arange(len(scored.logs)) < len(scored.logs) // 2
        mixed = np.empty_like(scored.logs)
        matched = ngram.matched(tokens)
        for half in (halves, ~halves):
            weights = counted.fit_weights(np.stack([own.logs[half], scored.logs[half]]), matched[half], order)
            mixed[~half] = Mixture([trained.model, ngram], weights).mix([own.logs[~half], scored.logs[~half]], matched[~half])
        enter("mixture", scored.unit_bits(mixed), sum(each.seconds for each in candidates))

    def make(winner: str, path: Path) -> None:
        if winner == "ngram":
            train(corpus.path, path, {**only, "model": "ngram", "order": order}, tell=tell)
        elif winner == neural:
            shutil.copytree(work / neural, path)
        else:
            mix_trained(corpus.path, work / neural, path, order=order, tell=tell)

    return Search("language", figures, candidates, make, late)


def counted_settings(given: dict[str, Any]) -> Any:
    """Settle the settings that the tokenizer needs."""
    return settle("language", {name: given[name] for name in ("tokenizer", "vocabulary", "dictionary") if name in given}).value


def fit(corpus: Corpus, work: Path, model: str, given: dict[str, Any], seconds: float, tell: Tell, stop: Stop | None) -> Artefact:
    """Train a candidate in the time that it has, or go on with one that was interrupted, with its own number of steps."""
    path = work / model
    request = {**given, "model": model, "minutes": round(seconds / 60, 4)}
    if "batch" not in given:  # of a small table, whose rows do not fill the usual one
        request["batch"] = min(settle(corpus.task, request).value.batch, corpus.counts["train"])
    if (path / "run.json").exists() and not (path / MANIFEST).exists():
        request["minutes"] = read_json(path / "run.json")["settings"]["minutes"]
    if not (path / MANIFEST).exists():
        train(corpus.path, path, request, tell=tell, stop=stop)
    return load(path)


def rows(
    corpus: Corpus, work: Path, minutes: float, given: dict[str, Any], left: Callable[[], float], tell: Tell, stop: Stop | None
) -> Search:
    """Candidates for a task of rows: all its counted models, and its trained ones when time is left, each with an equal share of it.

    A counted model may take so much of the time that is left that it can be fitted again; the first, which is the least, all of it.
    """
    task = task_class(corpus.task).fit(corpus.examples("train"))
    held = list(corpus.examples("validation"))
    unseen_labels(task, held)
    held = [held[place] for place in np.random.default_rng(SEED).permutation(len(held))[:MOST_ROWS]]
    candidates: list[Candidate] = []
    late: list[str] = []
    only = {name: given[name] for name in ("seed", "threads") if name in given}
    found: dict[str, dict[str, Any]] = {}

    def enter(name: str, judge: Any, model: Any, tokenizer: Any, start: float, seconds: float) -> None:
        values = answered(judge, model, tokenizer, held, seconds, LEAST_ROWS)
        candidates.append(Candidate(name, values, time.perf_counter() - start))
        first = leading(task.figures, candidates[-1])
        if first is not None:
            tell("best.candidate", name=name, value=task.figures[first](values))

    def share(name: str) -> float:
        return ONE_FIT if "strength" in TOLD[name] else 1.0

    for name in task.counted:
        start, seconds = time.perf_counter(), left() / (1 + share(name))
        try:
            with within(seconds) if candidates else contextlib.nullcontext():
                judge, model, found[name] = counted.fit_rows(corpus, task, name, {"seed": given.get("seed", 0), "refit": False}, tell)
                enter(name, judge, model, None, start, seconds - (time.perf_counter() - start))
        except Late:
            late.append(name)
            tell("best.late", name=name, seconds=seconds)
        if stop is not None:
            stop.check()
    again = max(each.seconds * share(each.name) for each in candidates)
    waiting = list(task.eras)
    while waiting:
        start, seconds = time.perf_counter(), (left() - again) / len(waiting)
        if seconds < LEAST_SECONDS:
            late.append(waiting.pop())
            tell("best.untried", name=late[-1], least=LEAST_SECONDS)
            continue
        name = waiting.pop(0)
        most = left() - again
        try:
            with within(most):
                trained = fit(corpus, work, name, size_for(seconds / 60, given), seconds * (1 - JUDGING), tell, stop)
                enter(name, trained.task, trained.model, trained.tokenizer, start, seconds - (time.perf_counter() - start))
        except Late:
            late.append(name)
            tell("best.late", name=name, seconds=most)

    def make(winner: str, path: Path) -> None:
        if winner in found:
            strength = {"strength": found[winner]["strength"]} if "strength" in TOLD[winner] and "strength" in found[winner] else {}
            train(corpus.path, path, {"model": winner, **only, **strength}, tell=tell)
        else:
            shutil.copytree(work / winner, path)

    return Search(task.name, task.figures, candidates, make, late)


CHOOSERS: dict[str, Callable[..., Search]] = {"language": language}  # every other task is one of rows
