"""The ladder: every era of language model on one corpus, one metric, one budget; where each overtakes the last; whatever the true order is.

All rungs share one tokenizer. Each trained rung has the same budget of core-seconds, counted rungs take what counting takes, and the
mixture is the newest trained model and the best counted one together, so its time is the sum. Choices are made on validation; the test
split is scored once a rung.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.config import fingerprint
from zhixing.core.errors import UsageError
from zhixing.core.files import read_json, sha256, write_json, write_text
from zhixing.core.folder import MANIFEST, Folder, check_new, locked, open_folder, replace, seal
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.data.shards import shard
from zhixing.evaluation.evaluate import SEED, Scored, score_text
from zhixing.metrics import intervals
from zhixing.studies import priors as prior_study
from zhixing.studies.plot import Line, crossings, draw, stack
from zhixing.tasks.artefact import load
from zhixing.tasks.language import Language
from zhixing.training.settings import TOLD, settle
from zhixing.training.train import identify, mix_trained, train

# From the oldest era to the newest: what each rung asks of training.
ERAS: dict[str, dict[str, Any]] = {
    "unigram": {"model": "ngram", "order": 1},
    "grammar": {"model": "grammar"},
    "dirichlet": {"model": "dirichlet"},
    "ngram": {"model": "ngram"},
    "feedforward": {"model": "feedforward"},
    "rnn": {"model": "rnn"},
    "gru": {"model": "gru"},
    "lstm": {"model": "lstm"},
    "convolution": {"model": "convolution"},
    "gpt2": {"model": "gpt2"},
    "llama": {"model": "llama"},
    "qwen3": {"model": "qwen3"},
    "mixture": {"model": "mixture"},
}
RUNGS = tuple(name for name in ERAS if name != "llama")  # unless others are asked for: llama is qwen3 but for two small norms
REQUEST = "request.json"  # in an unfinished comparison: what was asked for
RUNG_FOLDERS = "rungs"
# Plots of priors: the title, whether of priors over weights, and what their strength is.
PANELS = (
    (
        "bits per byte against a Dirichlet prior over counts (validation)",
        False,
        "pseudo-counts of a token (additive), of a context (dirichlet)",
    ),
    ("bits per byte against a prior over weights (excerpt, held out)", True, "precision (gaussian), rate (laplace)"),
)
Tell = Callable[..., None]


@dataclass(frozen=True)
class Rung:
    """One rung: its test bits per byte with interval, what it cost, and its curve on validation."""

    name: str
    bits_per_byte: float
    low: float
    high: float
    nats_per_token: float
    core_seconds: float
    seconds: float
    parameters: int
    curve: tuple[tuple[float, float], ...]
    against_last: dict[str, float] | None


def compare(
    corpus: str | Path,
    out: str | Path,
    core_seconds: float,
    models: tuple[str, ...] = RUNGS,
    settings: dict[str, Any] | None = None,
    *,
    priors: bool = False,
    tell: Tell = quiet,
    force: bool = False,
    stop: Stop | None = None,
) -> Folder:
    """Climb the ladder: train each rung under one budget, score it on the test split once, and say where each overtakes the last.

    core_seconds  budget of each trained rung
    models        names of rungs, from the oldest era to the newest; a mixture needs a trained one before it
    priors        besides the curves of priors over counts, train those of priors over weights: some seconds for each strength
    out           a Comparison folder: table.md, table.json, plot.svg, rungs/<name>/ (Model folders); unfinished, it is continued by the
                  same words

    Raises UsageError for what cannot be, and when an unfinished comparison of other words stands there and force is not given.
    """
    opened = open_corpus(corpus)
    if opened.task != "language":
        raise UsageError("ladder.task", path=str(opened.path), task=opened.task)
    for name in models or ("",):
        if name not in ERAS:
            raise UsageError("ladder.rung", name=name, among=list(ERAS))
    if "mixture" in models and partner(models) is None:
        raise UsageError("ladder.mixture")
    if not core_seconds > 0:
        raise UsageError("settings.range", setting="core_seconds", value=core_seconds, origin="flag")
    out = Path(out)
    work = out.absolute().parent / f".{out.name}.ladder"
    check_new(out, force, opened.path)
    given = {"evaluations": 40, **(settings or {})}
    for name in models:  # what cannot be is refused before anything is trained or written
        settle("language", settings_of(name, core_seconds, given))
    opened.file("test")
    with locked(out):
        return _compare(opened, out, work, core_seconds, models, given, priors, tell, force, stop)


def _compare(
    opened: Corpus,
    out: Path,
    work: Path,
    core_seconds: float,
    models: tuple[str, ...],
    given: dict[str, Any],
    priors: bool,
    tell: Tell,
    force: bool,
    stop: Stop | None,
) -> Folder:
    """Climb the ladder in a place that is held for this process."""
    request, note = fingerprint([sha256(opened.path / MANIFEST), core_seconds, list(models), given, priors]), work / REQUEST
    if work.exists() and not (note.exists() and read_json(note) == request):
        if not force and (work / RUNG_FOLDERS).exists():
            raise UsageError("ladder.other_run", path=str(work))
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_json(note, request)
    if priors:
        prior_study.excerpt(opened, work / prior_study.FOLDER)  # a text too short for it is refused before anything is trained
    scored: dict[str, Scored] = {}
    rungs: list[Rung] = []
    for place, name in enumerate(models):
        tell("ladder.rung", name=name, place=place + 1, count=len(models))
        folder = climb(opened, work, name, core_seconds, given, models, tell, stop)
        artefact = load(folder.path)
        scored[name] = score_text(artefact.model, artefact.tokenizer, opened, "test", tell)
        previous = scored[models[place - 1]] if place else None
        rungs.append(measure(opened, work, name, folder, scored[name], previous))
        tell("ladder.scored", name=name, value=rungs[-1].bits_per_byte, core_seconds=rungs[-1].core_seconds)
    curves: list[prior_study.Curve] = []
    if opened.counts.get("validation"):
        tell("ladder.priors")
        curves = prior_study.over_counts(opened, artefact.tokenizer, tell)
    if priors:
        curves += prior_study.over_weights(opened, work, given, tell, stop)
    return write(opened, out, work, rungs, curves, core_seconds, force)


def climb(
    corpus: Corpus,
    work: Path,
    name: str,
    core_seconds: float,
    given: dict[str, Any],
    models: tuple[str, ...],
    tell: Tell,
    stop: Stop | None,
) -> Folder:
    """Make one rung's Model folder, or open it when an earlier, interrupted run has made it of the same corpus, settings and budget."""
    path = work / RUNG_FOLDERS / name
    trained = partner(models) if name == "mixture" else name
    assert trained is not None
    asked = settings_of(trained, core_seconds, given)
    same = (path / "run.json").exists() and read_json(path / "run.json").get("request") == identify(corpus, settle("language", asked))
    if same and (path / MANIFEST).exists():
        return open_folder(path, "model")
    if name == "mixture":
        return mix_trained(corpus.path, path.with_name(trained), path, tell=tell, force=True)
    return train(corpus.path, path, asked, tell=tell, force=not same, stop=stop)


def counted(name: str) -> bool:
    """Say whether a rung is counted, not trained."""
    return ERAS[name]["model"] in Language.counted


def partner(models: tuple[str, ...]) -> str | None:
    """Name the rung that is mixed with counts: the newest trained one of those before the mixture."""
    earlier = [name for name in models[: models.index("mixture")] if not counted(name)]
    return max(earlier, key=list(ERAS).index, default=None)


def settings_of(name: str, core_seconds: float, given: dict[str, Any]) -> dict[str, Any]:
    """Give what a rung asks of training: a counted one has no budget and no form."""
    if counted(name):
        told = (*TOLD[ERAS[name]["model"]], "seed", "threads")
        return {key: value for key, value in given.items() if key in told} | ERAS[name]
    return {**given, **ERAS[name], "core_seconds": core_seconds}


def measure(corpus: Corpus, work: Path, name: str, folder: Folder, found: Scored, previous: Scored | None) -> Rung:
    """Gather one rung's figures."""
    spread = intervals.interval_of_ratio(found.bits, found.sizes, SEED)
    nats = float(found.bits.sum()) * math.log(2) / len(found.logs)
    gap = intervals.paired(found.bits, previous.bits, SEED, found.sizes).to_dict() if previous is not None else None
    measured = folder.card["measured"]
    parameters = folder.card.get("parameters") or sum(_sizes(folder.path / "model.safetensors"))
    curve = curve_of(corpus, folder)
    return Rung(name, spread.value, spread.low, spread.high, nats, measured["core_seconds"], measured["seconds"], parameters, curve, gap)


def _sizes(weights: Path) -> list[int]:
    """Give the number of values of each tensor of a weights file, from its header."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as handle:
        return [math.prod(handle.get_slice(name).get_shape()) for name in handle.keys()]  # noqa: SIM118 - not a dict


def curve_of(corpus: Corpus, folder: Folder) -> tuple[tuple[float, float], ...]:
    """Give (core-seconds, validation bits per byte) of a rung: its diary's evaluations, or the one point of a counted model."""
    if not corpus.counts.get("validation"):
        return ()
    artefact = load(folder.path)
    piece = shard(corpus, artefact.tokenizer, "validation")
    factor = (len(piece.tokens) - 1) / (math.log(2) * piece.size_bytes)
    diary = folder.path / "run.jsonl"
    if folder.card["model"] not in (*Language.counted, "mixture") and diary.exists():
        entries = [json.loads(line) for line in diary.read_text(encoding="utf-8").splitlines()]
        return tuple((each["core_seconds"], each["validation"] * factor) for each in entries if "validation" in each)
    chosen = folder.card.get("chosen", {})
    nats = chosen.get("validation_nats")
    if isinstance(nats, dict):
        nats = nats[str(chosen["order"])]
    return ((folder.card["measured"]["core_seconds"], nats * factor),) if nats is not None else ()


def write(
    corpus: Corpus, out: Path, work: Path, rungs: list[Rung], curves: list[prior_study.Curve], core_seconds: float, force: bool
) -> Folder:
    """Write the table and the plot, and give the folder its name."""
    lines = [Line(rung.name, rung.curve) for rung in rungs if rung.curve]
    passed = crossings(lines)
    table = {
        "corpus": str(corpus.path),
        "core_seconds": core_seconds,
        "rungs": [rung.__dict__ for rung in rungs],
        "overtakes": [each.__dict__ for each in passed],
        "priors": [{"name": each.name, "of": each.of, "best": each.best, "points": each.points} for each in curves],
    }
    write_json(work / "table.json", table)
    write_text(work / "table.md", as_text(rungs, lines, curves))
    if lines:
        title = f"{corpus.path.name}: bits per byte against core-seconds (validation)"
        panels = [draw(lines, title, "core-seconds", "bits per byte")]
        for about, weighed, axis in PANELS:
            drawn = [each.line for each in curves if (each.of == "weight") == weighed]
            if drawn:
                panels.append(draw(drawn, f"{corpus.path.name}: {about}", axis, "bits per byte", kind="curve"))
        write_text(work / "plot.svg", stack(*panels))
    card = {"corpus": {"path": str(corpus.path), "manifest_sha256": sha256(corpus.path / MANIFEST)}, "core_seconds": core_seconds}
    (work / REQUEST).unlink()
    folder = seal(work, "comparison", card)
    check_new(out, force)
    replace(work, out)
    return Folder(out, "comparison", folder.card)


def as_text(rungs: list[Rung], lines: list[Line], curves: list[prior_study.Curve]) -> str:
    """Give the table in Markdown, best first, the points where each rung overtakes another, and the best strength of each prior."""
    rows = ["| model | test bits per byte | 95 % interval | nats per token | core-seconds | parameters |", "|---|---|---|---|---|---|"]
    for rung in sorted(rungs, key=lambda each: each.bits_per_byte):
        rows.append(
            f"| {rung.name} | {rung.bits_per_byte:.4f} | {rung.low:.4f} .. {rung.high:.4f} | {rung.nats_per_token:.4f} "
            f"| {rung.core_seconds:.1f} | {rung.parameters:,} |"
        )
    passed = (
        f"- {c.winner} is below {c.loser} after {c.x:.0f} core-seconds, at {c.y:.4f} bits per byte of validation" for c in crossings(lines)
    )
    rows += ["", *passed, ""]
    if curves:
        rows += ["| prior | best strength | of each | held-out bits per byte | weakest | strongest |", "|---|---|---|---|---|---|"]
        for each in curves:
            ends = (each.points[0][1], each.points[-1][1])
            rows.append(f"| {each.name} | {each.best[0]:g} | {each.of} | {each.best[1]:.4f} | {ends[0]:.4f} | {ends[1]:.4f} |")
        rows.append("")
    return "\n".join(rows)


def read_table(path: str | Path) -> dict[str, Any]:
    """Read the table of a Comparison folder."""
    return read_json(open_folder(path, "comparison").path / "table.json")
