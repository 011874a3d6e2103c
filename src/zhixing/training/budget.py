"""What a run will cost, measured before it starts: a few steps of a throwaway copy give seconds, core-seconds and memory a step.

A length in minutes or core-seconds is turned into steps here, before step 0, and kept in `run.json`: a resumed run has the same steps.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from zhixing.training.settings import TrainSettings

TRIAL_OPERATIONS = 1e11  # of one trial, at most, where a piece of a step stands for the whole: a quarter of a second on two cores
GPU_CORES = 1000  # how many times as much a trial on a GPU may compute, in about the same time
TRIALS, TRIALS_OF_ROWS = 3, 9  # rows differ in length, and batches of them in cost
FINISH_SHARE = 0.06  # of a time budget, kept for the last evaluation and for writing the folder
EVALUATION_SHARE = 0.08  # of the steps' time, spent at most on validation
LEAST_BATCHES = 8  # that a validation reads, where there are so many
FORWARD_SHARE = 0.35  # of a step's time that its forward pass alone takes


@dataclass(frozen=True)
class Estimate:
    """What one step costs and what the whole run will.

    step_seconds, step_core_seconds   float, of one whole step
    memory_bytes                      int, the process's peak resident memory
    """

    step_seconds: float
    step_core_seconds: float
    memory_bytes: int
    steps: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0


def resident_bytes() -> int:
    """Give the process's resident memory now."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """The highest resident memory while the block ran, sampled by a thread every few milliseconds."""

    def __enter__(self) -> Peak:
        self.bytes = resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, resident_bytes())

    def __exit__(self, *problem: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident_bytes())


def give_back_memory() -> None:
    """Ask the C library to return freed memory, so that a throwaway copy does not count in what comes after."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def try_steps(
    one_step: Callable[[int], None],
    steps: list[int],
    middle: Callable[[list[float]], float] = statistics.median,
    warm: bool = False,
) -> Estimate:
    """Time a few steps of a throwaway copy; a first one, which warms up, is not counted, and not needed where the copy is warm.

    steps   which steps to try
    middle  the median where all steps cost the same, the mean where they do not
    """
    with Peak() as peak:
        if not warm:
            one_step(steps[0])
        wall, core = [], []
        for step in steps:
            start, core_start = time.perf_counter(), time.process_time()
            one_step(step)
            wall.append(time.perf_counter() - start)
            core.append(time.process_time() - core_start)
    return Estimate(middle(wall), middle(core), peak.bytes)


@dataclass(frozen=True)
class Schedule:
    """How long a run is: its updates, how often it is validated, and how many batches each validation reads."""

    steps: int
    evaluations: int
    batches: int

    @property
    def cost(self) -> float:
        """The whole run in steps' worth of time."""
        return self.steps + FORWARD_SHARE * self.batches * self.evaluations


def schedule(
    settings: TrainSettings, estimate: Estimate | None, tokens_a_step: int, train_tokens: int, spent: tuple[float, float], available: int
) -> Schedule:
    """Turn the length that the settings give into steps and evaluations; a pure function of the steps once these are known.

    estimate   what a step costs; None: the length is not one of time
    spent      (seconds, core-seconds) since the training was asked for
    available  batches of validation that there are
    """
    if settings.steps:
        return evaluated(settings.steps, settings.evaluations, available)
    if estimate is None:
        return evaluated(max(1, round(settings.epochs * train_tokens / tokens_a_step)), settings.evaluations, available)
    share = 1.0 - FINISH_SHARE
    if settings.minutes:
        affordable = (settings.minutes * 60 * share - spent[0]) / estimate.step_seconds
    elif settings.core_seconds:
        affordable = (settings.core_seconds * share - spent[1]) / estimate.step_core_seconds
    else:
        return evaluated(max(1, round(settings.epochs * train_tokens / tokens_a_step)), settings.evaluations, available)
    steps = max(1, int(affordable))
    while steps > 1 and evaluated(steps, settings.evaluations, available).cost > affordable:
        steps = min(steps - 1, int(steps * affordable / evaluated(steps, settings.evaluations, available).cost))
    return evaluated(max(1, steps), settings.evaluations, available)


def evaluated(steps: int, evaluations: int, available: int) -> Schedule:
    """Settle how often to validate: at most as often as asked, and seldom enough that it costs no more than its share of the run."""
    if not evaluations or not available:
        return Schedule(steps, 0, 0)
    least = min(available, LEAST_BATCHES)
    often = max(1, min(evaluations, steps, int(steps * EVALUATION_SHARE / (FORWARD_SHARE * least))))
    return Schedule(steps, often, min(available, max(least, int(steps * EVALUATION_SHARE / (FORWARD_SHARE * often)))))


def whole(estimate: Estimate, planned: Schedule, spent: tuple[float, float] = (0.0, 0.0)) -> Estimate:
    """Extend a step's cost to the whole run's.

    spent  (seconds, core-seconds) since the training was asked for
    """
    seconds = spent[0] + planned.cost * estimate.step_seconds
    core_seconds = spent[1] + planned.cost * estimate.step_core_seconds
    return Estimate(estimate.step_seconds, estimate.step_core_seconds, estimate.memory_bytes, planned.steps, seconds, core_seconds)
