"""A model whose layers are compiled learns what it learns otherwise, and is the same folder afterwards. Needs a C++ compiler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zhixing import prepare, train
from zhixing.core.errors import RunError, UsageError
from zhixing.core.stop import Stopped
from zhixing.layers import machine
from zhixing.layers.machine import compiled, worth_compiling
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.artefact import load
from zhixing.training import ready

SETTINGS = {
    "model": "gpt2",
    "layers": 3,
    "width": 32,
    "heads": 2,
    "window": 32,
    "batch": 4,
    "steps": 6,
    "dropout": 0.0,
    "precision": "fp32",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 200, encoding="utf-8")
    return prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(split="tail", validation=0.1, test=0.1)).path


def test_only_long_trainings_on_a_gpu_are_compiled_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not worth_compiling(1e30) or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert worth_compiling(1e18) and not worth_compiling(1e15)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not worth_compiling(1e18), "without its compiler nothing is compiled"


@pytest.mark.parametrize(("native", "gain", "fast"), [(True, 2.2, True), (True, 0.5, False), (False, 9.0, False)])
def test_the_faster_precision_is_taken_not_the_newer(monkeypatch: pytest.MonkeyPatch, native: bool, gain: float, fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(machine, "gain_of_bf16", lambda: gain)
    assert machine.fast_bf16.__wrapped__() is fast


def test_a_run_goes_on_in_the_precision_that_it_began_with(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def tell(code: str, **values: object) -> None:
        told.append(code)
        if code == "train.progress" and values["step"] >= 4 and "train.resumed" not in told:
            raise Stopped(15)

    how = {**SETTINGS, "precision": "auto", "saves": 3}
    monkeypatch.setattr(ready, "fast_bf16", lambda: True)
    with pytest.raises(Stopped):
        train(corpus, tmp_path / "model", how, tell=tell)
    monkeypatch.setattr(ready, "fast_bf16", lambda: False)
    folder = train(corpus, tmp_path / "model", how, tell=tell)
    assert "train.resumed" in told and "train.other_machine" not in told
    assert json.loads((folder.path / "run.json").read_text(encoding="utf-8"))["machine"]["precision"] == "bf16"


def test_precisions_are_timed_and_threads_are_as_before() -> None:
    threads = torch.get_num_threads()
    assert 0.001 < machine.gain_of_bf16() < 1000 and torch.get_num_threads() == threads


def test_where_nothing_can_be_compiled(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for is refused by name; what was only thought worth it is told and goes on without."""
    monkeypatch.setattr("zhixing.training.train.compile_problem", lambda device: "no compiler")
    with pytest.raises(RunError, match="no compiler"):
        train(corpus, tmp_path / "asked", {**SETTINGS, "compile": "yes"})
    monkeypatch.setattr("zhixing.training.train.worth_compiling", lambda operations: True)
    told: list[str] = []
    folder = train(corpus, tmp_path / "auto", SETTINGS, tell=lambda code, **values: told.append(code))
    assert "train.not_compiled" in told and json.loads((folder.path / "run.json").read_text())["compiled"] is False
    with pytest.raises(UsageError, match="compile"):
        train(corpus, tmp_path / "none", {"model": "lstm", "steps": 1, "window": 32, "batch": 4, "compile": "yes"})


def test_an_unknown_word_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="compile"):
        train(corpus, tmp_path / "model", {**SETTINGS, "compile": "maybe"})


def test_what_is_compiled_is_told_and_kept(corpus: Path, tmp_path: Path) -> None:
    train(corpus, tmp_path / "model", SETTINGS)
    assert json.loads((tmp_path / "model" / "run.json").read_text())["compiled"] is False


@pytest.mark.filterwarnings("ignore")  # torch's compiler uses what torch calls old
def test_layers_are_as_before_when_the_block_ends() -> None:
    layers = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    model = torch.nn.ModuleDict({"layers": layers})
    names = list(model.state_dict())
    with compiled(model, True):
        assert layers[0]._compiled_call_impl is not None and list(model.state_dict()) == names
    assert layers[0]._compiled_call_impl is None
    with compiled(model, False):
        assert layers[0]._compiled_call_impl is None


@pytest.mark.system
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_learns_the_same(corpus: Path, tmp_path: Path) -> None:
    losses = {}
    for compiling in ("no", "yes"):
        folder = train(corpus, tmp_path / compiling, {**SETTINGS, "compile": compiling})
        assert json.loads((folder.path / "run.json").read_text())["compiled"] is (compiling == "yes")
        rows = [json.loads(line) for line in (folder.path / "run.jsonl").read_text().splitlines()]
        losses[compiling] = [row["loss"]["nats"] for row in rows if "loss" in row]
    assert len(losses["no"]) == SETTINGS["steps"] and losses["yes"] == pytest.approx(losses["no"], rel=1e-3)
    weights = [dict(load(tmp_path / each).model.state_dict()) for each in ("no", "yes")]
    assert list(weights[0]) == list(weights[1]) and losses["no"][-1] < losses["no"][0]
