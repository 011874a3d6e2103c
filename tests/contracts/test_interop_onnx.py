"""ONNX files: what ONNX Runtime computes from them is what the model does, and all that is needed to use them travels along."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from forms_maker import made
from makers import MAKERS, SMALL

from zhixing import export_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.exporting import onnx as exporting
from zhixing.layers.kinds import Inputs
from zhixing.models.session import Session, SessionConfig
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.task import from_dict
from zhixing.tokens.tokenizer import Tokenizer

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no such file can be written")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: there is nothing to read such a file with")
pytestmark = pytest.mark.interop

TASKS = {"classify": "bert", "grade": "textcnn", "similar": "bert"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("onnx")
    draw = random.Random(5)
    for task, model in TASKS.items():
        rows = [MAKERS[task](draw, number) for number in range(60)]
        (where / f"{task}.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
        prepare(where / f"{task}.jsonl", where / task, Prepare(task=task, validation=0.1, test=0.2))
        train(where / task, where / f"{task}-model", {**SMALL, "model": model, "steps": 20})
        export_model(where / f"{task}-model", where / f"{task}.onnx")
    return where


def opened_again(path: Path, width: int, window: int | None) -> Session:
    return Session(SessionConfig("", width, window), np.frombuffer(path.read_bytes(), np.uint8))


@pytest.mark.parametrize("task", TASKS)
def test_the_file_alone_answers_as_the_model_does(task: str, place: Path) -> None:
    """Task and tokenizer are taken from the file's own metadata, as another program would."""
    onnx.checker.check_model(str(place / f"{task}.onnx"))
    session = runtime.InferenceSession(str(place / f"{task}.onnx"), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    read = from_dict(json.loads(about["zhixing.task"]))
    tokenizer = Tokenizer(about["zhixing.tokenizer"].encode())
    opened = load(place / f"{task}-model")
    rows = [json.loads(line) for line in (place / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [{name: each[name] for name in opened.task.schema.asked.fields if name in each} for each in rows]
    found = opened_again(place / f"{task}.onnx", session.get_outputs()[0].shape[1], opened.model.body.window)
    items = [read.encode(each, tokenizer) for each in asked]
    for first, second in zip(opened.predict(asked), read.answers(found, items, tokenizer), strict=True):
        assert first.scores == pytest.approx(second.scores, abs=1e-4)
    assert {each.name for each in session.get_inputs()} == {"tokens", "lengths"} and json.loads(about["zhixing.frame"])["pad"] == 0


def test_one_that_answers_otherwise_takes_no_name(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = exporting.Session.run
    half = np.float32(0.5)
    monkeypatch.setattr(exporting.Session, "run", lambda self, *given: {name: each + half for name, each in run(self, *given).items()})
    with pytest.raises(DataError):
        export_model(place / "classify-model", tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="Q8_0"):
        export_model(place / "classify-model", tmp_path / "out.onnx", form="Q8_0")
    with pytest.raises(UsageError):
        export_model(place / "classify-model", place / "classify.onnx")
    monkeypatch.setattr(exporting, "PACKAGES", ("onnx_of_nobody",))
    with pytest.raises(UsageError, match=r"zhixing\[onnx\]"):
        export_model(place / "classify-model", tmp_path / "out.onnx")


@pytest.mark.parametrize(("task", "family"), [("tag", "lstm"), ("language", "gru")])
def test_recurrent_layers_chains_and_next_tokens_are_onnx_own(task: str, family: str, tmp_path: Path) -> None:
    opened = load(made(tmp_path / "model", task, family))
    export_model(tmp_path / "model", tmp_path / "out.onnx")
    names = {each.op_type for each in onnx.load(tmp_path / "out.onnx").graph.node}
    assert family.upper() in names
    session = opened_again(tmp_path / "out.onnx", 1, None)
    if task == "language":
        tokens = np.array([[5, 300, 7, 8], [9, 9, 9, 9]])
        with torch.no_grad():
            wanted = opened.model.logits(opened.model.states(Inputs(torch.from_numpy(tokens)))).numpy()
        assert np.allclose(session.run(tokens, np.array([4, 4]))["next"], wanted, atol=1e-4)
        return
    rows = [{"tokens": ["Ada", "in", "Chen"]}, {"tokens": ["fine", "好"] * 9}]
    items = [opened.task.encode(each, opened.tokenizer) for each in rows]
    for first, second in zip(opened.predict(rows), opened.task.answers(session, items, opened.tokenizer), strict=True):
        assert first.value == second.value and first.confidence == pytest.approx(second.confidence, abs=1e-4)


def test_many_tasks_do_not_fit_into_one_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="numpy"):
        export_model(made(tmp_path / "model", "many", "textcnn"), tmp_path / "out.onnx")
