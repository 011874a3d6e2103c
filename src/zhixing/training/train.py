"""From a Corpus folder to a Model folder: settle, check, estimate, train or count, keep the best, seal.

Killed at any moment and started again with the same words, a training goes on from its newest whole checkpoint and ends in the same bytes.
Before step 0 the settings, one batch, one save and one load are proven, so that a run does not fail at its first save after an hour.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zhixing
from zhixing.core.config import Settings, fingerprint
from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.files import read_json, sha256, sync_folder, write_json
from zhixing.core.folder import CARD, MANIFEST, Folder, check_new, create, locked, open_folder, recover, seal
from zhixing.core.folder import replace as put_in_place
from zhixing.core.log import RunLog, quiet
from zhixing.core.random import key
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.data.shards import shard
from zhixing.data.stream import ROW_WORDS, Masked, Mixture, Rows, Windows
from zhixing.data.stream import rows as rows_of
from zhixing.layers.kinds import Headed
from zhixing.layers.machine import machine
from zhixing.models import catalog
from zhixing.objectives.distil import Distill
from zhixing.objectives.prior import PRIORS, Posterior
from zhixing.tasks import artefact
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import function, task_class
from zhixing.tokens.tokenizer import Tokenizer
from zhixing.training import budget, counted, optim, start, teacher, trainer, vectors
from zhixing.training.checkpoint import Checkpoints, State
from zhixing.training.gradients import Gradients
from zhixing.training.settings import TrainSettings, as_dict, settle, task_of
from zhixing.training.start import make_tokenizer

DROPOUTS = ((1.5, 0.0), (4.5, 0.05), (8.0, 0.1), (float("inf"), 0.2))  # passes over the text up to which dropout is this large
CHECKPOINTS_KEPT = 4
MICRO_TOKENS = 4096  # of 10.7 million parameters, 4 x 4,096 tokens took 4.2 s, 1 x 16,384 took 4.9, 8 x 2,048 took 4.4 (two cores)
Tell = Callable[..., None]


@dataclass
class Plan:
    """A training made ready: everything but the weights."""

    settled: Settings
    task: Any
    tokenizer: Tokenizer | None
    build: Callable[[TrainSettings], nn.Module]
    stream: Any
    held_out: Any
    tokens_a_step: int
    train_tokens: int
    units: int  # of the training split, whose mean is minimised: targets of a text, or rows

    @property
    def settings(self) -> TrainSettings:
        """The settled settings."""
        return self.settled.value

    @property
    def held_batches(self) -> int:
        """How many batches of validation there are."""
        return self.held_out.steps_per_epoch if self.held_out else 0

    def objective(self) -> Any:
        """Give what is minimised: the task's objective, beside a teacher and under a prior on the weights where these are asked for."""
        inner, settings = self.task.objective(), self.settings
        if settings.teacher:
            inner = Distill(inner, settings.teacher_weight, settings.teacher_temperature)
        return inner if settings.prior == "none" else Posterior(inner, PRIORS[settings.prior](settings.prior_strength), self.units)


def choose(settings: TrainSettings, task: str) -> TrainSettings:
    """Settle what depends on the machine: "auto" becomes bf16 where it is multiplied natively, and a step becomes micro-batches.

    On a CPU what a micro-batch computes should stay in the caches; a model that reads place by place has nothing to gain.
    """
    if settings.precision == "auto":
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        fast = torch.cuda.is_available() or bool(native())
        settings = replace(settings, precision="bf16" if fast else "fp32")
    if settings.accumulate:
        return settings
    split = task in ("language", "masked") and settings.heads and not torch.cuda.is_available()
    least = -(-settings.batch * settings.window // MICRO_TOKENS) if split else 1
    micros = next((k for k in range(least, settings.batch) if settings.batch % k == 0), settings.batch)
    return replace(settings, accumulate=micros)


def ready(corpus: Corpus, settled: Settings, tokenizer: Tokenizer | None, tell: Tell) -> Plan:
    """Make a neural training ready: task, streams and a builder of the model."""
    settings: TrainSettings = settled.value
    name = task_of(settings.model, corpus.task)
    if name == "embed":
        return ready_vectors(corpus, settled, tokenizer, tell)
    task = fit_task(corpus, name, settings)

    def build(chosen: TrainSettings) -> nn.Module:
        torch.manual_seed(key(chosen.seed, "init"))
        vocabulary = task.vocabulary if tokenizer is None else tokenizer.vocabulary_size
        body = start.body(chosen, vocabulary, chosen.window)
        head = task.head(body.width)
        return body if head is None else Headed(body, head)

    if settings.model == "mixture" and not corpus.counts.get("validation"):
        raise DataError("train.no_validation", path=str(corpus.path))
    if corpus.task == "language":
        tokens = shard(corpus, tokenizer, "train", tell).tokens
        if len(tokens) <= settings.window:
            raise DataError("train.short_corpus", tokens=len(tokens), window=settings.window)
        stream: Any = Windows(tokens, settings.batch, settings.window, settings.seed)
        held = shard(corpus, tokenizer, "validation", tell).tokens if corpus.counts.get("validation") else None
        held_out = None
        if held is not None:
            window = min(settings.window, len(held) - 1)  # a short validation text is read whole
            held_out = Windows(held, min(settings.batch, max(1, (len(held) - 1) // window)), window, 0)
        if name == "masked":
            mask = tokenizer.vocabulary_size
            stream = Masked(stream, mask, mask, settings.seed)
            held_out = held_out and Masked(held_out, mask, mask, 0)
        return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch * settings.window, len(tokens), len(tokens) - 1)
    items = [task.encode(example, tokenizer) for example in corpus.examples("train")]
    held_rows = known_rows(task, corpus.examples("validation"), tell) if corpus.counts.get("validation") else []
    held_items = [task.encode(example, tokenizer) for example in held_rows]
    if settings.batch > len(items):
        raise UsageError("train.batch_rows", batch=settings.batch, rows=len(items))
    if settings.teacher:
        teacher.taught(items, list(corpus.examples("train")), task, settings.teacher, tell)
    pad_id = 0 if tokenizer is None else tokenizer.pad_id
    # Rows of which one answer is known are seen about as often as those of another.
    stream = rows_of(
        items, [frozenset(task.schema.told) & frozenset(row) for row in corpus.examples("train")], settings.batch, settings.seed, pad_id
    )
    held_out = rows_of(held_items, [None] * len(held_items), min(settings.batch, len(held_items)), 0, pad_id, 1.0) if held_items else None
    return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch, len(items), len(items))


def fit_task(corpus: Corpus, name: str, settings: TrainSettings) -> Any:
    """Let a task read what it must know from the training split; one that cuts what is too long is told the window."""
    cls = task_class(name)
    cuts = any(each.name == "longest" for each in fields(cls))
    return cls.fit(corpus.examples("train"), **({"longest": settings.window} if cuts else {}))


def ready_vectors(corpus: Corpus, settled: Settings, tokenizer: Tokenizer, tell: Tell) -> Plan:
    """Make a training of word vectors ready; its corpus may be of any task, since only texts are read."""
    settings: TrainSettings = settled.value
    if settings.window > ROW_WORDS // 2:
        raise UsageError("train.wide_window", window=settings.window, most=ROW_WORDS // 2, row=ROW_WORDS)
    form = {name: getattr(settings, name) for name in ("window", "negatives", "subsample", "minimum")}
    task = task_class("embed").fit(corpus.examples("train"), method=settings.model, **form)
    learnt, stream, held_out = vectors.streams(corpus, tokenizer, task, settings, tell)

    def build(chosen: TrainSettings) -> nn.Module:
        torch.manual_seed(key(chosen.seed, "init"))
        config = catalog.configure(chosen, tokenizer.vocabulary_size, chosen.window)
        return catalog.build({**config, "word_count": len(learnt[-1])}).know(*learnt)

    places = stream.rows * ROW_WORDS
    units = places * (settings.window + 1) if settings.model == "skipgram" else places  # the weights of a place's pairs
    epoch = max(places, vectors.LEAST_WORDS)
    return Plan(settled, task, tokenizer, build, stream, held_out, settings.batch * ROW_WORDS, epoch, units)


def dropout_for(settings: TrainSettings, steps: int, plan: Plan) -> float:
    """Give the dropout that the number of passes over the training text calls for, unless one was given."""
    if settings.dropout >= 0:
        return settings.dropout
    passes = steps * plan.tokens_a_step / plan.train_tokens
    return next(value for most, value in DROPOUTS if passes <= most)


def estimate(plan: Plan, settings: TrainSettings) -> budget.Estimate:
    """Time a few steps of a throwaway copy of the model on real batches; of a long step of text, a piece stands for all."""
    model = plan.build(replace(settings, dropout=max(0.0, settings.dropout))).to(_device())
    gradients = Gradients(model, plan.objective(), settings.precision, settings.seed)
    optimizer = optim.build(model, settings, settings.precision == "bf16")
    pace = trainer.Pace(1 << 20, clip=settings.clip)
    alike = not isinstance(plan.stream, Rows | Mixture)
    pieces = settings.accumulate
    if alike:
        parameters = sum(p.numel() for p in model.parameters())
        long = (k for k in range(pieces, settings.batch) if settings.batch % k == 0 and k % pieces == 0)
        pieces = next((k for k in long if 6 * parameters * plan.tokens_a_step / k < budget.TRIAL_OPERATIONS), settings.batch)

    def one_step(step: int) -> None:
        model.train()
        each = range(1) if alike else range(pieces)
        batches = [trainer.to_tensors(plan.stream.batch(step, m, pieces), _device()) for m in each]
        trainer.update(gradients, model, optimizer, batches, step, pace)

    if not alike:  # batches hold rows of like length: try some from the whole of an epoch
        spread = [place * plan.stream.steps_per_epoch // budget.TRIALS_OF_ROWS for place in range(budget.TRIALS_OF_ROWS)]
        return budget.try_steps(one_step, spread, statistics.fmean)
    if pieces == settings.accumulate == 1:
        return budget.try_steps(one_step, list(range(budget.TRIALS)))
    model.train()
    gradients.begin([batch := trainer.to_tensors(plan.stream.batch(0, 0, pieces), _device())])
    held = budget.resident_bytes()
    piece = budget.try_steps(lambda step: gradients.add(batch, step, 0), [0])
    grown = max(0, piece.memory_bytes - held) * (pieces // settings.accumulate - 1)
    whole = budget.try_steps(one_step, [0], warm=True)
    return budget.Estimate(
        max(whole.step_seconds, piece.step_seconds) + (pieces - 1) * piece.step_seconds,
        max(whole.step_core_seconds, piece.step_core_seconds) + (pieces - 1) * piece.step_core_seconds,
        max(whole.memory_bytes, piece.memory_bytes) + grown,
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plan(corpus: str | Path, settings: dict[str, Any] | None = None, recipe: str | None = None, tell: Tell = quiet) -> dict[str, Any]:
    """Say what a training would be, without writing anything but the corpus's token cache: settings with origins, size, time, memory."""
    opened = open_corpus(corpus)
    settled = settle(opened.task, settings or {}, recipe)
    shown = {name: {"value": value, "origin": settled.origins[name]} for name, value in as_dict(settled.value).items()}
    if settled.value.model in task_class(opened.task).counted:
        return {"settings": shown, "task": opened.task}
    chosen = choose(settled.value, task_of(settled.value.model, opened.task))
    made = ready(opened, Settings(chosen, settled.origins), make_tokenizer(opened, chosen), tell)
    cost = estimate(made, chosen)
    total = budget.whole(cost, budget.schedule(chosen, cost, made.tokens_a_step, made.train_tokens, (0.0, 0.0), made.held_batches))
    parameters = sum(p.numel() for p in made.build(replace(chosen, dropout=0.0)).parameters())
    return {"settings": shown, "task": made.task.name, "parameters": parameters, "estimate": asdict(total)}


def train(
    corpus: str | Path,
    out: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    recipe: str | None = None,
    tell: Tell = quiet,
    force: bool = False,
    stop: Stop | None = None,
) -> Folder:
    """Train a model on a corpus, or go on with a training that was interrupted.

    corpus    a Corpus folder
    out       the Model folder to make; an unfinished one of the same request is continued
    settings  {name: value} of TrainSettings, as the user gave them
    Raises UsageError, DataError or RunError; Stopped, after saving, when a signal asked for it.
    """
    began = (time.perf_counter(), time.process_time())
    opened = open_corpus(corpus)
    settled = settle(opened.task, settings or {}, recipe)
    if settled.value.threads:
        torch.set_num_threads(settled.value.threads)
    out = Path(out)
    if not _continued(out, force):
        for source in filter(None, (opened.path, settled.value.start, settled.value.teacher)):
            check_new(out, force, source)  # before the lock is made beside it
    with locked(out):
        return _train(opened, out, settled, began, tell, force, stop)


def _continued(out: Path, force: bool) -> bool:
    """Say whether an unfinished run stands there to be continued."""
    return (out / "run.json").exists() and not (out / MANIFEST).exists() and not force


def _train(opened: Corpus, out: Path, settled: Settings, began: tuple[float, float], tell: Tell, force: bool, stop: Stop | None) -> Folder:
    """Train in a place that is held for this process."""
    recover(out)
    request = identify(opened, settled)
    continued = _continued(out, force)
    if not continued:
        check_new(out, force, opened.path)
    elif read_json(out / "run.json").get("request") != request:
        raise UsageError("train.other_run", path=str(out))

    def begin() -> None:
        """Take the place, once nothing in the corpus or the settings can be refused any more: what stands there is lost only then."""
        if stop is not None:
            stop.check()
        if not continued:
            _begin(out, {"request": request, "settings": as_dict(settled.value), "origins": settled.origins, "corpus": _origin(opened)})

    if settled.value.model in task_class(opened.task).counted:
        return count(opened, out, settled, tell, begin)
    tokenizer = Tokenizer.load(out) if continued and (out / "tokenizer.json").exists() else make_tokenizer(opened, settled.value)
    made = ready(opened, Settings(choose(settled.value, task_of(settled.value.model, opened.task)), settled.origins), tokenizer, tell)
    begin()
    return learn(opened, out, made, began, tell, stop)


def identify(corpus: Corpus, settled: Settings) -> str:
    """Name a training by what was asked for: the settled settings and the corpus; run.json holds it as "request"."""
    others = [sha256(Path(each) / MANIFEST) for each in (settled.value.teacher, settled.value.start) if each]
    return fingerprint([as_dict(settled.value), sha256(corpus.path / MANIFEST), *others])


def _origin(corpus: Corpus) -> dict[str, Any]:
    columns = {name: corpus.card.get("settings", {}).get(name) for name in (*corpus.schema.fields, "form")}
    return {"path": str(corpus.path), "manifest_sha256": sha256(corpus.path / MANIFEST), "columns": columns}


def _begin(out: Path, run: dict[str, Any]) -> None:
    """Make the run's folder appear together with its run.json, so that it is never taken for anything else."""
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    building = out.absolute().parent / f".{out.name}.{os.getpid()}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        write_json(building / "run.json", run)
        put_in_place(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def count(corpus: Corpus, out: Path, settled: Settings, tell: Tell, begin: Callable[[], None]) -> Folder:
    """Count a model: one pass, no loop, no gradient."""
    began, core = time.perf_counter(), time.process_time()
    settings: TrainSettings = settled.value
    task = task_class(corpus.task).fit(corpus.examples("train"))
    tokenizer = None
    with budget.Peak() as peak:
        if corpus.task == "language":
            tokenizer = make_tokenizer(corpus, settings)
            if settings.model == "grammar":
                model, found = counted.learn_grammar(corpus, tokenizer, settings.classes, settings.seed, tell)
            elif settings.model == "ngram":
                model, found = counted.count_language(corpus, tokenizer, settings.order, tell)
            else:
                model, found = counted.count_under_prior(corpus, tokenizer, settings.model, settings.order, settings.strength, tell)
        else:
            task, model, found = counted.fit_rows(
                corpus, task, settings.model, {"strength": settings.strength, "seed": settings.seed}, tell
            )
    begin()
    artefact.write(out, task, model, tokenizer)
    measured = {"seconds": time.perf_counter() - began, "core_seconds": time.process_time() - core, "memory_bytes": peak.bytes}
    about = {"model": settings.model, "chosen": found, "fitted_on": _fitted_on(corpus, True)}
    if getattr(model, "prior", None):
        about["prior"] = model.prior
    return _seal(out, corpus, settled, task, about, measured)


def learn(corpus: Corpus, out: Path, made: Plan, began: tuple[float, float], tell: Tell, stop: Stop | None) -> Folder:
    """Train a neural model by the one loop, from the beginning or from the newest checkpoint."""
    run_file = read_json(out / "run.json")
    settings = made.settings
    if made.tokenizer is not None and not (out / "tokenizer.json").exists():
        made.tokenizer.save(out)
    here = machine(settings.precision)
    if "steps" not in run_file:
        cost = None
        if settings.minutes or settings.core_seconds:  # only a length in time has to know what a step costs before the first one
            tell("train.trying")
            cost = estimate(made, settings)
            budget.give_back_memory()
        spent = (time.perf_counter() - began[0], time.process_time() - began[1])
        planned = budget.schedule(settings, cost, made.tokens_a_step, made.train_tokens, spent, made.held_batches)
        run_file |= {"steps": planned.steps, "evaluations": planned.evaluations, "validation_batches": planned.batches}
        run_file |= {"dropout": dropout_for(settings, planned.steps, made), "machine": here, "command": sys.argv[1:]}
        if cost is not None:
            run_file["estimate"] = asdict(budget.whole(cost, planned, spent))
        write_json(out / "run.json", run_file)
    elif run_file["machine"] != here:
        tell("train.other_machine", before=str(run_file["machine"]), now=str(here))
    steps, settings = run_file["steps"], replace(settings, dropout=run_file["dropout"])
    costs = {k: run_file["estimate"][k] for k in ("seconds", "core_seconds", "memory_bytes")} if "estimate" in run_file else {}
    tell("train.plan" if costs else "train.steps", steps=steps, precision=settings.precision, **costs)

    model = made.build(settings).to(_device())
    optimizer = optim.build(model, settings, settings.precision == "bf16")
    checkpoints = Checkpoints(out, tell)
    state = _resume(checkpoints, model, optimizer, out, tell)
    if state.step == 0:
        state.seconds, state.core_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    objective, judged = made.objective(), made.task.objective()  # a prior says nothing about text that is held out
    judged = getattr(judged, "held", judged)
    held = [made.held_out.batch(step) for step in range(run_file["validation_batches"])] if made.held_out else []
    validate = (lambda: trainer.measure(model, judged, held, settings.precision)) if held else None
    pace = trainer.Pace(
        steps,
        settings.accumulate,
        settings.warmup,
        settings.decay,
        settings.clip,
        evaluate_every=max(1, steps // run_file["evaluations"]) if run_file["evaluations"] else 0,
        save_every=max(1, steps // settings.saves) if settings.saves else 0,
        patience=settings.patience,
    )
    log = RunLog(out / "run.jsonl", state.step)
    try:
        with budget.Peak() as peak:
            state = trainer.run(
                model, objective, made.stream, pace, optimizer, seed=settings.seed, precision=settings.precision,
                checkpoints=checkpoints, log=log, state=state, validate=validate, tell=tell, stop=stop,
            )  # fmt: skip
    finally:
        log.close()
    if state.best_step is not None and state.best_step != state.step:
        checkpoints.load(state.best_step, model)
    return finish(corpus, out, Settings(settings, made.settled.origins), made, model, state, peak.bytes, tell)


def _resume(checkpoints: Checkpoints, model: nn.Module, optimizer: optim.Optimizers, out: Path, tell: Tell) -> State:
    """Go on from the newest whole checkpoint, or prove that one can be saved and loaded before step 0."""
    step = checkpoints.newest()
    if step is None:
        size_bytes = sum(p.numel() * p.element_size() for p in model.parameters()) * 3
        free = shutil.disk_usage(out).free
        if free < CHECKPOINTS_KEPT * size_bytes:
            raise RunError("train.no_space", path=str(out), free=free >> 20, needed=CHECKPOINTS_KEPT * size_bytes >> 20)
        checkpoints.save(model, optimizer, State())
        return checkpoints.load(0, model, optimizer)
    state = checkpoints.load(step, model, optimizer)
    if step:
        tell("train.resumed", step=step)
    return state


def finish(
    corpus: Corpus, out: Path, settled: Settings, made: Plan, model: nn.Module, state: State, memory_bytes: int, tell: Tell
) -> Folder:
    """Calibrate, mix if asked, write the model's files and seal the folder."""
    began = (time.perf_counter(), time.process_time())
    settings: TrainSettings = settled.value
    task, served, tokenizer = made.task, model.eval(), made.tokenizer
    about: dict[str, Any] = {"model": settings.model, "parameters": sum(p.numel() for p in model.parameters())}
    about["training"] = {"steps": state.step, "best_step": state.best_step, "validation_nats": state.best, "skipped": state.skipped}
    if settings.prior != "none":
        about["prior"] = {"name": settings.prior, "strength": settings.prior_strength, "per": "weight"}
    if settings.model == "mixture":
        assert tokenizer is not None
        served, about["chosen"] = counted.mix(corpus, tokenizer, model, settings.order, tell)
    if task.fitted and corpus.counts.get("validation"):
        task = function(task.fitted)(task, model, known_rows(task, corpus.examples("validation"), quiet), tokenizer)
    if settings.teacher:
        about["teacher"] = teacher.origin(settings.teacher)
    if settings.start:
        about["start"] = start.origin(settings.start)
    learned = about.get("teacher", {}).get("fitted_on", ())  # what a teacher has seen, its pupil has
    about["fitted_on"] = _fitted_on(corpus, settings.model == "mixture" or "validation" in learned)
    artefact.write(out, task, served, tokenizer)
    measured = {"seconds": state.seconds + time.perf_counter() - began[0]}
    measured |= {"core_seconds": state.core_seconds + time.process_time() - began[1], "memory_bytes": memory_bytes}
    return _seal(out, corpus, settled, task, about, measured)


def _fitted_on(corpus: Corpus, counts_validation: bool) -> list[str]:
    """List the splits that a model's parameters come from; what is evaluated on them is no evidence."""
    return ["train", "validation"] if counts_validation and corpus.counts.get("validation") else ["train"]


def mix_trained(
    corpus: str | Path, model: str | Path, out: str | Path, *, order: int = 0, tell: Tell = quiet, force: bool = False
) -> Folder:
    """Mix a trained language model with an n-gram of the same corpus, without training it again.

    model  a Model folder of a neural language model
    order  of the n-gram; 0: the best on validation
    """
    began, core = time.perf_counter(), time.process_time()
    opened, found = open_corpus(corpus), artefact.load(model)
    assert found.tokenizer is not None
    before = found.folder.card
    settled = Settings(TrainSettings(**(before["settings"] | {"model": "mixture"})), before["origins"])
    card: dict[str, Any] = {}
    with create(out, "model", card, force) as building:
        served, chosen = counted.mix(opened, found.tokenizer, found.model, order, tell)
        for name in ("run.json", "run.jsonl"):
            shutil.copyfile(found.folder.path / name, building / name)
        artefact.write(building, found.task, served, found.tokenizer)
        measured = dict(before["measured"])
        measured["seconds"] += time.perf_counter() - began
        measured["core_seconds"] += time.process_time() - core
        about = {"model": "mixture", "parameters": before["parameters"], "training": before["training"], "chosen": chosen}
        about["fitted_on"] = _fitted_on(opened, True)
        card |= _card(opened, settled, found.task, about, measured)
    return open_folder(out, "model")


def _card(corpus: Corpus, settled: Settings, task: Any, about: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task.name,
        **about,
        "corpus": _origin(corpus) | {"counts": corpus.counts},
        "settings": as_dict(settled.value),
        "origins": settled.origins,
        "versions": {"zhixing": zhixing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "measured": {name: round(value, 3) for name, value in measured.items()},
    }


def _seal(out: Path, corpus: Corpus, settled: Settings, task: Any, about: dict[str, Any], measured: dict[str, Any]) -> Folder:
    (out / CARD).unlink(missing_ok=True)
    folder = seal(out, "model", _card(corpus, settled, task, about, measured))
    sync_folder(out.absolute().parent)
    return folder
