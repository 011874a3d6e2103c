"""The training loop: the only one. Flow chart 1 of the outline, with its "not finished" edge going back to the next batch.

    take the step's micro-batches -> count denominators -> forward, loss, backward for each -> clip -> update
    -> evaluate? -> save? -> finished? -- not finished --> the next batch

Data order is a pure function of (seed, step) and the generator is keyed by (seed, step, micro-batch), so a run that was killed at any
moment and started again ends in the same bytes (but for private gradients, which say why). A step whose loss or gradient is not finite,
or that has nothing to learn from, never updates: it is counted and told.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zhixing.core.errors import RunError
from zhixing.core.log import RunLog, quiet
from zhixing.core.stop import Stop
from zhixing.objectives.loss import Batch, Objective
from zhixing.training.checkpoint import Checkpoints, State
from zhixing.training.gradients import Gradients, to_device
from zhixing.training.optim import Optimizers, share_of_rate

NOT_FINITE_LIMIT = 20  # steps in a row without a finite loss after which a run is hopeless
LOG_LINES = 200  # lines of loss in the diary of a whole run, at most


class Stream(Protocol):
    """Batches as a pure function of the step."""

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, Any]:
        """Give micro-batch `micro` of `micros` of a step, as NumPy arrays."""


@dataclass(frozen=True)
class Pace:
    """How a run goes: everything the loop itself needs to know.

    steps                    int     updates in the whole run
    accumulate               int     micro-batches a step
    warmup, decay            share of the steps in which the rate rises, falls
    clip                     float   largest gradient norm; 0: no clipping
    evaluate_every           int     steps; 0: never
    save_every               int     steps; 0: at the end only
    patience                 int     evaluations without a new best after which the run stops early; 0: never
    """

    steps: int
    accumulate: int = 1
    warmup: float = 0.03
    decay: float = 0.6
    clip: float = 1.0
    evaluate_every: int = 0
    save_every: int = 0
    patience: int = 0


def to_tensors(batch: dict[str, Any], device: torch.device | None = None) -> Batch:
    """Make tensors of a stream's arrays, where they are or on a device."""
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    return tensors if device is None else to_device(tensors, device)


class Clock:
    """Seconds and core-seconds of a run, over all its lives."""

    def __init__(self, state: State) -> None:
        self.before = (state.seconds, state.core_seconds)
        self.start = (time.perf_counter(), time.process_time())

    def note(self, state: State) -> None:
        """Write the time so far into the state."""
        state.seconds = self.before[0] + time.perf_counter() - self.start[0]
        state.core_seconds = self.before[1] + time.process_time() - self.start[1]


def update(
    gradients: Gradients, model: nn.Module, optimizer: Optimizers, batches: list[Batch], step: int, pace: Pace
) -> tuple[dict[str, float], float, bool]:
    """Make one step; give each term's value, the gradient's norm and whether the weights were updated."""
    weights = gradients.begin(batches)
    if not all(weights.values()):
        return dict.fromkeys(weights, 0.0), 0.0, False
    for micro, batch in enumerate(batches):
        gradients.add(batch, step, micro)
    terms = gradients.finish()
    norms = torch.nn.utils.clip_grad_norm_(model.parameters(), pace.clip or math.inf)
    norm, *found = torch.stack([norms.double(), *terms.values()]).tolist()  # the one wait for a GPU
    values = dict(zip(terms, found, strict=True))
    if not (math.isfinite(norm) and all(map(math.isfinite, values.values()))):
        return values, norm, False
    optimizer.set_rate(share_of_rate(step, pace.steps, pace.warmup, pace.decay))
    optimizer.step()
    return values, norm, True


def run(
    model: nn.Module,
    objective: Objective,
    stream: Stream,
    pace: Pace,
    optimizer: Optimizers,
    *,
    seed: int,
    precision: str = "fp32",
    checkpoints: Checkpoints,
    log: RunLog,
    state: State | None = None,
    validate: Callable[[], float] | None = None,
    tell: Callable[..., None] = quiet,
    stop: Stop | None = None,
    gradients: Gradients | None = None,
) -> State:
    """Train a model until its steps are done, early stopping says so, or a stop is asked for; save on every way out.

    state      where to go on from, with weights and optimiser state already in place; None: from the beginning
    gradients  how they come about; None: plainly
    Raises RunError when nothing finite comes any more; Stopped, after saving, when a signal asked for it.
    """
    state = state or State()
    clock = Clock(state)
    gradients = gradients or Gradients(model, objective, precision, seed)
    every = max(1, pace.steps // LOG_LINES)
    began = state.step
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while state.step < pace.steps and not state.finished:
            model.train()
            step = state.step
            batches = [to_tensors(stream.batch(step, micro, pace.accumulate)) for micro in range(pace.accumulate)]
            values, norm, updated = update(gradients, model, optimizer, batches, step, pace)
            state.step += 1
            if updated:
                state.skipped_in_a_row = 0
            else:
                state.skipped += 1
                state.skipped_in_a_row += 1
                tell("train.skipped", step=state.step)
                log.write(step=state.step, skipped=True, norm=repr(norm))
                if state.skipped_in_a_row >= NOT_FINITE_LIMIT:
                    raise RunError("train.not_finite", step=state.step, count=state.skipped_in_a_row)
            clock.note(state)
            if updated and (state.step % every == 0 or state.step == pace.steps):
                told = {"loss": values} if values else {}  # private gradients tell none
                log.write(step=state.step, **told, norm=norm, seconds=round(state.seconds, 3), core_seconds=round(state.core_seconds, 3))
            rate = (time.perf_counter() - clock.start[0]) / (state.step - began)
            left = rate * (pace.steps - state.step)
            if values or not updated:
                loss = sum(gradients.scales.get(name, 1.0) * value for name, value in values.items())
                tell("train.progress", step=state.step, steps=pace.steps, loss=loss, left=left)
            else:
                tell("private.progress", step=state.step, steps=pace.steps, left=left)
            last = state.step == pace.steps
            if validate is not None and pace.evaluate_every and (last or state.step % pace.evaluate_every == 0):
                judge(model, validate, state, pace, log, clock, tell)
            if stop or state.finished or last or state.best_step == state.step or (pace.save_every and state.step % pace.save_every == 0):
                checkpoints.save(model, optimizer, state)
            if stop is not None:
                stop.check()
    finally:
        gc.enable()
        gc.unfreeze()
        model.zero_grad(set_to_none=True)
        model.eval()
    return state


def judge(
    model: nn.Module, validate: Callable[[], float], state: State, pace: Pace, log: RunLog, clock: Clock, tell: Callable[..., None]
) -> None:
    """Measure the validation loss, keep the best step, and stop the run when patience is out."""
    model.eval()
    value = validate()
    clock.note(state)
    if state.best is None or value < state.best:
        state.best, state.best_step, state.worse = value, state.step, 0
    else:
        state.worse += 1
    log.write(step=state.step, validation=value, seconds=round(state.seconds, 3), core_seconds=round(state.core_seconds, 3))
    tell("train.validation", step=state.step, value=value, best=state.best)
    if pace.patience and state.worse >= pace.patience:
        state.finished = True
        tell("train.early", step=state.step, best_step=state.best_step)


@torch.no_grad()
def measure(model: nn.Module, objective: Objective, batches: list[Batch], precision: str = "fp32") -> float:
    """Give an objective's value over given batches: sums over denominators, each divided once."""
    device = next(model.parameters()).device
    weights: dict[str, float] = {}
    totals: dict[str, Tensor] = {}
    for batch in batches:
        counted = to_tensors(batch)
        for name, weight in objective.weights(counted).items():
            weights[name] = weights.get(name, 0.0) + weight
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            for term in objective(model, to_device(counted, device)):
                total = term.scale * term.total.double()
                totals[term.name] = totals[term.name] + total if term.name in totals else total
    return sum(float(totals[name]) / weights[name] for name in totals)
