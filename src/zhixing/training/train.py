"""From a Corpus folder to a Model folder: settle, check, estimate, train or count, keep the best, seal.

Killed at any moment and started again with the same words, a training goes on from its newest whole checkpoint and ends in the same bytes;
a private one in others, since its random source is secret.
Before step 0 the settings, one batch, one save and one load are proven, so that a run does not fail at its first save after an hour.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
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
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.layers import lora, met
from zhixing.layers.machine import compile_problem, compiled, layers_of, machine, worth_compiling
from zhixing.models.mixture import Mixture
from zhixing.tasks import adapter, artefact
from zhixing.tasks.classify import known_rows
from zhixing.tasks.task import function, task_class
from zhixing.tokens.tokenizer import Tokenizer
from zhixing.training import budget, counted, optim, private, probe, start, teacher, trainer
from zhixing.training.checkpoint import Checkpoints, State
from zhixing.training.ready import Plan, Tell, choose, device, dropout_for, estimate, narrow, narrows, ready
from zhixing.training.settings import TrainSettings, as_dict, known_by, settle, task_of
from zhixing.training.start import make_tokenizer

CHECKPOINTS_KEPT = 4


def plan(corpus: str | Path, settings: dict[str, Any] | None = None, recipe: str | None = None, tell: Tell = quiet) -> dict[str, Any]:
    """Say what a training would be, without writing anything but the corpus's token cache: settings with origins, size, time, memory."""
    opened = open_corpus(corpus)
    settled = settle(opened.task, settings or {}, recipe)
    shown = {name: {"value": value, "origin": settled.origins[name]} for name, value in as_dict(settled.value).items()}
    if settled.value.model in task_class(opened.task).counted:
        return {"settings": shown, "task": opened.task}
    chosen = choose(settled.value, task_of(settled.value.model, opened.task))
    made = ready(opened, Settings(chosen, settled.origins), make_tokenizer(opened, chosen, tell), tell)
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
        made_of = [each for name in (settled.value.start, settled.value.teacher) if name for each in adapter.sources(name)]
        for source in (opened.path, *made_of):
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
            origin = _origin(opened, settled.value)
            _begin(out, {"request": request, "settings": as_dict(settled.value), "origins": settled.origins, "corpus": origin})

    if settled.value.model in task_class(opened.task).counted:
        return count(opened, out, settled, tell, begin)
    if settled.value.epsilon and settled.value.start:
        private.check_start(settled.value.start, opened)
    task = task_of(settled.value.model, opened.task)
    held = continued and (out / "tokenizer.json").exists()
    tokenizer = Tokenizer.load(out) if held else make_tokenizer(opened, settled.value, tell)
    made = ready(opened, Settings(choose(_as_begun(settled.value, out, continued), task), settled.origins), tokenizer, tell)
    if settled.value.epsilon and not continued:  # whatever it may refuse, before anything is replaced
        planned = budget.schedule(made.settings, None, made.tokens_a_step, made.train_tokens, (0.0, 0.0), 0)
        private.mechanism(made.settings, planned.steps, made.train_tokens)
    begin()
    return learn(opened, out, made, began, tell, stop)


def identify(corpus: Corpus, settled: Settings) -> str:
    """Name a training by what was asked for: the settled settings and the corpus; run.json holds it as "request"."""
    others = [sha256(Path(each) / MANIFEST) for each in (settled.value.teacher, settled.value.start) if each]
    asked = known_by(settled.value)
    if settled.value.epsilon:  # a hash of private rows would let one be guessed and proven
        return fingerprint([asked, str(corpus.path.absolute()), *others])
    return fingerprint([asked, sha256(corpus.path / MANIFEST), *others])


def _origin(corpus: Corpus, settings: TrainSettings) -> dict[str, Any]:
    if settings.epsilon:
        return {}
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


def _as_begun(settings: TrainSettings, out: Path, continued: bool) -> TrainSettings:
    """Keep the precision that a run began with: what "auto" means is measured, and a measurement may come out otherwise."""
    begun = read_json(out / "run.json").get("machine", {}) if continued else {}
    return replace(settings, precision=begun["precision"]) if settings.precision == "auto" and "precision" in begun else settings


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
        spent = (time.perf_counter() - began[0], time.process_time() - began[1])
        planned = budget.schedule(settings, cost, made.tokens_a_step, made.train_tokens, spent, made.held_batches)
        run_file |= {"steps": planned.steps, "evaluations": planned.evaluations, "validation_batches": planned.batches}
        if settings.epsilon:
            run_file["private"] = private.mechanism(settings, planned.steps, made.train_tokens)
        run_file |= {"dropout": dropout_for(settings, planned.steps, made), "machine": here, "narrowed": narrows(made)}
        if not settings.epsilon:  # it names the corpus
            run_file["command"] = sys.argv[1:]
        if cost is not None:
            run_file["estimate"] = asdict(budget.whole(cost, planned, spent))
        write_json(out / "run.json", run_file)
    elif run_file["machine"] != here:
        tell("train.other_machine", before=str(run_file["machine"]), now=str(here))
    if settings.epsilon and not private.check_resumed(run_file["private"], settings.batch, made.train_tokens):
        raise UsageError("train.other_run", path=str(out))
    steps, settings = run_file["steps"], replace(settings, dropout=run_file["dropout"])
    costs = {k: run_file["estimate"][k] for k in ("seconds", "core_seconds", "memory_bytes")} if "estimate" in run_file else {}
    tell("train.plan" if costs else "train.steps", steps=steps, precision=settings.precision, **costs)

    budget.give_back_memory()  # what the tokenizer and the trial steps took
    model = made.build(settings).to(device())
    if run_file.get("narrowed"):  # runs of earlier versions were not
        narrow(model, made)
    if "compiled" not in run_file:
        run_file["compiled"] = _compiles(model, settings, 6.0 * made.tokens_a_step * steps, tell)
        write_json(out / "run.json", run_file)
    elif run_file["compiled"] and (problem := compile_problem(device())):
        raise RunError("train.cannot_compile", problem=problem)
    optimizer = optim.build(model, settings, settings.precision == "bf16")
    checkpoints = Checkpoints(out, tell)
    if checkpoints.newest() is None:
        probe.set_head(model, made, tell)
    state = _resume(checkpoints, model, optimizer, out, tell)
    if state.step == 0:
        state.seconds, state.core_seconds = time.perf_counter() - began[0], time.process_time() - began[1]
    if hasattr(made.stream, "bind"):  # it writes with the model, and holds it to what it began with
        made.stream.bind(model, made.build(settings))
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
    gradients = None
    if settings.epsilon:
        ledger = private.Ledger(out / private.LEDGER, run_file["private"])
        pace = replace(pace, steps=ledger.affordable(state.step, steps, tell))
        gradients = private.gradients(model, objective, settings, run_file["private"], ledger)
    log = RunLog(out / "run.jsonl", state.step)
    try:
        with budget.Peak() as peak, compiled(model, run_file["compiled"]):
            state = trainer.run(
                model, objective, made.stream, pace, optimizer, seed=settings.seed, precision=settings.precision,
                checkpoints=checkpoints, log=log, state=state, validate=validate, tell=tell, stop=stop,
                gradients=gradients,
            )  # fmt: skip
    finally:
        log.close()
    if state.best_step is not None and state.best_step != state.step:
        checkpoints.load(state.best_step, model)
    met.widen(model)
    return finish(corpus, out, Settings(settings, made.settled.origins), made, model, state, peak.bytes, tell)


def _compiles(model: nn.Module, settings: TrainSettings, operations: float, tell: Tell) -> bool:
    """Settle whether a training is compiled, and prove that it can be.

    operations  of the whole training, a parameter
    """
    asked = settings.compile == "yes"
    if asked and not layers_of(model):
        raise UsageError("settings.unused", setting="compile", model=settings.model)
    if not asked and not (settings.compile == "auto" and layers_of(model)):
        return False
    if not asked and not worth_compiling(operations * sum(p.numel() for p in model.parameters())):
        return False
    if not (problem := compile_problem(device())):
        return True
    if asked:
        raise RunError("train.cannot_compile", problem=problem)
    tell("train.not_compiled", problem=problem)
    return False


def _resume(checkpoints: Checkpoints, model: nn.Module, optimizer: optim.Optimizers, out: Path, tell: Tell) -> State:
    """Go on from the newest whole checkpoint, or prove that one can be saved and loaded before step 0."""
    step = checkpoints.newest()
    if step is None:
        size_bytes = sum(p.numel() * p.element_size() for p in model.parameters()) * 3
        aside_bytes = sum(each.nbytes for each in model.buffers())  # of a table that was narrowed, and is whole at the end
        needed, free = CHECKPOINTS_KEPT * size_bytes + aside_bytes, shutil.disk_usage(out).free
        if free < needed:
            raise RunError("train.no_space", path=str(out), free=free >> 20, needed=needed >> 20)
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
    if settings.lora:
        about["trained"] = sum(p.numel() for p in model.parameters() if p.requires_grad)  # of these
        about["base"] = adapter.base_for(settings.start, out)
        served = model = _widened(made, settings, model)
    about["training"] = {"steps": state.step, "best_step": state.best_step, "validation_nats": state.best, "skipped": state.skipped}
    if settings.prior != "none":
        about["prior"] = {"name": settings.prior, "strength": settings.prior_strength, "per": "weight"}
    if settings.model == "mixture":
        assert tokenizer is not None
        served, about["chosen"] = counted.mix(corpus, tokenizer, [model], settings.order, tell)
    if settings.epsilon:
        about["private"] = private.account(out)
        spent = {name: about["private"][name] for name in ("epsilon", "delta", "steps_spent")}
        tell("private.spent", **spent, path=str(out / private.LEDGER))
    elif task.fitted and corpus.counts.get("validation"):
        task = function(task.fitted)(task, model, known_rows(task, corpus.examples("validation"), quiet), tokenizer)
    if settings.teacher:
        about["teacher"] = teacher.origin(settings.teacher)
    if settings.start:
        about["start"] = start.origin(settings.start)
    if settings.extend_vocabulary:
        assert tokenizer is not None
        about["extended"] = start.extended(settings.start, tokenizer, settings.extend_vocabulary)
    learned = about.get("teacher", {}).get("fitted_on", ())  # what a teacher has seen, its pupil has
    about["fitted_on"] = _fitted_on(corpus, settings.model == "mixture" or "validation" in learned)
    artefact.write(out, task, served, tokenizer, settings.start if settings.lora else "")
    measured = {"seconds": state.seconds + time.perf_counter() - began[0]}
    measured |= {"core_seconds": state.core_seconds + time.process_time() - began[1], "memory_bytes": memory_bytes}
    return _seal(out, corpus, settled, task, about, measured)


def _widened(made: Plan, settings: TrainSettings, model: nn.Module) -> nn.Module:
    """Give an adapted model over its base as that lies in its folder: it was trained over one that may have been rounded."""
    whole = made.build(replace(settings, precision="fp32", lora_base="auto"))
    wanted = {name: value for name, value in model.named_parameters() if value.requires_grad}
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(wanted[name])
    return whole.to(device()).eval()


def _fitted_on(corpus: Corpus, counts_validation: bool) -> list[str]:
    """List the splits that a model's parameters come from; what is evaluated on them is no evidence."""
    return ["train", "validation"] if counts_validation and corpus.counts.get("validation") else ["train"]


def mix_trained(
    corpus: str | Path,
    models: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    order: int = 0,
    tell: Tell = quiet,
    force: bool = False,
) -> Folder:
    """Mix trained language models with each other and with an n-gram of the same corpus, without training any of them again.

    models  Model folders of trained language models of one tokenizer, or one; of a mixture, its trained parts are taken
    order   of the n-gram; 0: the best on validation
    Raises UsageError for a model that is counted or of another task, DataError for one of another tokenizer or a corpus without
    validation text.
    """
    began, core = time.perf_counter(), time.process_time()
    places = [models] if isinstance(models, str | Path) else list(models)
    opened, found = open_corpus(corpus), [artefact.load(each) for each in places]
    first = found[0]
    for each in found:
        if each.folder.kind == adapter.KIND:
            lora.merge(each.model)
        told = {"settings", "measured", "training"} <= each.folder.card.keys()
        if each.task.name != "language" or not told or not trained_parts(each.model):
            raise UsageError("mix.not_trained", path=str(each.folder.path), family=each.family)
        if each.tokenizer.hash != first.tokenizer.hash:
            raise DataError("mix.tokenizers", path=str(each.folder.path), other=str(first.folder.path))
    cards = [each.folder.card for each in found]
    settled = Settings(TrainSettings(**(cards[0]["settings"] | {"model": "mixture"})), cards[0]["origins"])
    card: dict[str, Any] = {}
    with create(out, "model", card, force) as building:
        served, chosen = counted.mix(opened, first.tokenizer, [part for each in found for part in trained_parts(each.model)], order, tell)
        for name in ("run.json", "run.jsonl"):
            shutil.copyfile(first.folder.path / name, building / name)
        artefact.write(building, first.task, served, first.tokenizer)
        before = [each["measured"] for each in cards]
        measured = {
            "seconds": time.perf_counter() - began + sum(each["seconds"] for each in before),
            "core_seconds": time.process_time() - core + sum(each["core_seconds"] for each in before),
            "memory_bytes": max(each["memory_bytes"] for each in before),
        }
        about = {"model": "mixture", "parameters": sum(each["parameters"] for each in cards), "training": cards[0]["training"]}
        about |= {"chosen": chosen, "fitted_on": _fitted_on(opened, True)}
        if len(cards) > 1:
            about["members"] = [start.origin(str(each)) for each in places]
        card |= _card(opened, settled, first.task, about, measured)
    return open_folder(out, "model")


def trained_parts(model: Any) -> list[Any]:
    """List what is trained of a model of language: itself, the trained parts of a mixture, or nothing."""
    return [each for each in (model.parts if isinstance(model, Mixture) else (model,)) if hasattr(each, "states")]


def _card(corpus: Corpus, settled: Settings, task: Any, about: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task.name,
        **about,
        "corpus": _origin(corpus, settled.value) | {"counts": corpus.counts},
        "settings": as_dict(settled.value),
        "origins": settled.origins,
        "versions": {"zhixing": zhixing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "measured": {name: round(value, 3) for name, value in measured.items()},
    }


def _seal(out: Path, corpus: Corpus, settled: Settings, task: Any, about: dict[str, Any], measured: dict[str, Any]) -> Folder:
    (out / CARD).unlink(missing_ok=True)
    folder = seal(out, adapter.KIND if settled.value.lora else "model", _card(corpus, settled, task, about, measured))
    sync_folder(out.absolute().parent)
    return folder
