"""Checkpoints that a kill cannot spoil: a sealed folder a step, safetensors and JSON, verified before it is believed.

The newest is computed, never noted; a damaged one is set aside with its reason and the next older one is used, loudly.
Differs from common practice: no pickle, every file fsynced, the manifest last.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zhixing.core.errors import DataError
from zhixing.core.files import read_json, sync_file, write_json
from zhixing.core.folder import create, open_folder
from zhixing.core.log import quiet
from zhixing.training.optim import Optimizers

WIDTH = 8  # digits of a step in a folder's name


@dataclass
class State:
    """Where a run stands; with the weights and the optimiser, all that resuming needs."""

    step: int = 0
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    finished: bool = False
    core_seconds: float = 0.0
    seconds: float = 0.0


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: value.detach().contiguous().cpu() for name, value in sorted(tensors.items())}, path)
    sync_file(path)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Give a model's state, a tied tensor once, without weights that are not trained: these stand where the training begins."""
    seen: set[int] = set()
    kept = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) not in seen and (value.requires_grad or not isinstance(value, nn.Parameter)):
            seen.add(id(value))
            kept[name] = value.detach()
    return kept


class Checkpoints:
    """The checkpoints of one run, in `<run>/checkpoints/<step>/`: the newest two and the best."""

    def __init__(self, run: Path, tell: Any = quiet) -> None:
        self.path = run / "checkpoints"
        self.path.mkdir(parents=True, exist_ok=True)
        self.tell = tell
        for stale in self.path.glob(".*.building"):
            shutil.rmtree(stale, ignore_errors=True)

    def steps(self) -> list[int]:
        """List the steps that have a checkpoint, oldest first."""
        return sorted(int(each.name) for each in self.path.iterdir() if each.name.isdigit())

    def at(self, step: int) -> Path:
        """Give the folder of a step."""
        return self.path / f"{step:0{WIDTH}d}"

    def save(self, model: nn.Module, optimizer: Optimizers, state: State) -> None:
        """Write a checkpoint, prove that it reads back, then let go of those no longer needed."""
        target = self.at(state.step)
        with create(target, "checkpoint", {"step": state.step}, force=True) as building:
            _write_tensors(building / "model.safetensors", model_tensors(model))
            _write_tensors(building / "optimizer.safetensors", optimizer.tensors())
            write_json(building / "state.json", asdict(state))
        open_folder(target, "checkpoint")
        kept = set(self.steps()[-2:]) | {state.best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.at(step))

    def newest(self) -> int | None:
        """Give the newest step whose checkpoint is whole; damaged ones are set aside as `<step>.damaged`."""
        for step in reversed(self.steps()):
            try:
                open_folder(self.at(step), "checkpoint")
                return step
            except DataError as problem:
                aside = self.path / f"{self.at(step).name}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                os.rename(self.at(step), aside)
                self.tell("train.damaged", step=step, problem=problem.text())
        return None

    def load(self, step: int, model: nn.Module, optimizer: Optimizers | None = None) -> State:
        """Put a checkpoint's weights, and optimiser state if asked, in place."""
        folder = open_folder(self.at(step), "checkpoint").path
        restore_model(model, load_file(folder / "model.safetensors"))
        if optimizer is not None:
            optimizer.restore(load_file(folder / "optimizer.safetensors"))
        return State(**read_json(folder / "state.json"))


@torch.no_grad()
def restore_model(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy tensors into a model of the same form; a tied tensor may stand under one of its names only."""
    state = model.state_dict(keep_vars=True)
    missing = set(model_tensors(model)) - set(tensors)
    if missing or set(tensors) - set(state):
        raise DataError("checkpoint.other_model", names=", ".join(sorted(missing ^ (set(tensors) - set(state)))[:3]))
    for name, value in tensors.items():
        if state[name].shape != value.shape:
            raise DataError("checkpoint.other_model", names=name)
        state[name].copy_(value)
