"""ONNX files: what ONNX Runtime computes from them is what the model does, and all that is needed to use them travels along."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from makers import MAKERS, SMALL

from zhixing import export_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.exporting import onnx as exporting
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
    found = exporting.Session(place / f"{task}.onnx", session.get_outputs()[0].shape[1], opened.model.body.window)
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
