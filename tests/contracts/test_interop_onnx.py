"""ONNX files: what ONNX Runtime computes from them is what the model does, and all that is needed to use them travels along."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forms_maker import made
from makers import MAKERS, SMALL

from zhixing import export_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json
from zhixing.core.messages import text
from zhixing.data.schema import Image, Sound
from zhixing.exporting import onnx as exporting
from zhixing.exporting import torchless
from zhixing.layers.kinds import Inputs
from zhixing.models import session as sessions
from zhixing.models.session import Session, SessionConfig
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.task import from_dict
from zhixing.tokens.tokenizer import Tokenizer
from zhixing.training.settings import settle

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


@pytest.mark.parametrize("task", TASKS)
def test_a_folder_of_either_form_answers_without_torch(task: str, place: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()][:20]
    opened = load(place / f"{task}-model")
    asked = [{name: each[name] for name in opened.task.schema.asked.fields if name in each} for each in rows]
    wanted = opened.predict(asked)
    for form, gap in (("onnx", 1e-4), ("int8", 0.2)):
        export_model(place / f"{task}-model", tmp_path / form, form)
        card = read_json(tmp_path / form / "card.json")
        assert card["exported"]["form"] == form
        program = "import sys; sys.modules['torch'] = None\nimport json, zhixing\n"
        program += f"found = zhixing.load({str(tmp_path / form)!r}).predict(json.loads(sys.argv[1]))\n"
        program += "print(json.dumps([each.scores or {'': each.confidence or each.value} for each in found]))"
        said = subprocess.run([sys.executable, "-c", program, json.dumps(asked)], capture_output=True, text=True, check=True)
        for one, two in zip(wanted, json.loads(said.stdout), strict=True):
            assert two == pytest.approx(one.scores or {"": one.confidence or one.value}, abs=gap)
    sizes = [(tmp_path / form / "model.safetensors").stat().st_size for form in ("onnx", "int8")]
    assert sizes[1] < sizes[0]
    if task == "classify":
        export_model(place / "classify-model", tmp_path / "eight.onnx", "int8")
        assert (tmp_path / "eight.onnx").stat().st_size < (place / "classify.onnx").stat().st_size
        told = runtime.InferenceSession(str(tmp_path / "eight.onnx"), providers=["CPUExecutionProvider"]).get_modelmeta()
        assert from_dict(json.loads(told.custom_metadata_map["zhixing.task"])) == opened.task


def test_the_fastest_form_is_the_one_that_was_measured_so(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paces = iter([[1.0, 9.0], [4.0, 4.0], [2.0, 3.0]])
    monkeypatch.setattr(torchless, "pace", lambda *_: next(paces))
    told: list[str] = []
    export_model(
        place / "classify-model", tmp_path / "out", "fastest", tell=lambda code, **values: told.append(f"{code} {values.get('form')}")
    )
    assert read_json(tmp_path / "out" / "card.json")["exported"]["form"] == "onnx" and "export.pace int8" in told
    assert len(load(tmp_path / "out").predict(["Ada says fine"])) == 1
    monkeypatch.undo()
    assert all(each > 0 for each in torchless.pace(load(tmp_path / "out").model, load(place / "classify-model")))


def test_what_is_no_program_is_refused(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"family": "bert", "width": 3, "window": None}
    bytes_of = np.fromfile(place / "classify.onnx", np.uint8)
    for config, tensors in (
        (about, {}),
        (about, {"onnx": bytes_of[:100]}),
        (about, {"onnx": bytes_of.astype(np.float32)}),
        ({**about, "width": 0}, {"onnx": bytes_of}),
        ({**about, "weights": "Q2"}, {"onnx": bytes_of}),
    ):
        with pytest.raises(DataError):
            Session.from_tensors(config, tensors)
    found = Session.from_tensors(about, {"onnx": bytes_of})
    with pytest.raises(DataError):
        found.run(np.full((1, 3), 10**6), np.array([3]))
    for said, threads in {"3": 3, "4,2": 4, " 2 ": 2, "99999999": 0, "2000": 0, "many": 0, "": 0}.items():
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert sessions.threads() == threads
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"zhixing\[onnx\]"):
        Session.from_tensors(about, {"onnx": bytes_of})


def test_one_that_answers_otherwise_takes_no_name(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Session.run
    half = np.float32(0.5)
    monkeypatch.setattr(Session, "run", lambda self, *given: {name: each + half for name, each in run(self, *given).items()})
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
        about = {each.key: each.value for each in onnx.load(tmp_path / "out.onnx").metadata_props}
        told, given = json.loads(about["zhixing.frame"]), opened.tokenizer
        assert told["opening"] == list(given.opening) and told["ends"] == sorted(given.ends) and told["barred"] == list(given.barred)
        return
    rows = [{"tokens": ["Ada", "in", "Chen"]}, {"tokens": ["fine", "好"] * 9}]
    items = [opened.task.encode(each, opened.tokenizer) for each in rows]
    for first, second in zip(opened.predict(rows), opened.task.answers(session, items, opened.tokenizer), strict=True):
        assert first.value == second.value and first.confidence == pytest.approx(second.confidence, abs=1e-4)


@pytest.mark.parametrize(
    ("task", "family", "rows", "inputs"),
    [
        ("see", "vit", [{"image": Image().probe(each)} for each in "ab"], {"image"}),
        ("see", "fusion", [{"image": Image().probe("a")}] * 2, {"image", "pictures"}),
        ("match", "towers", [{"image": Image().probe(each), "text": each * 9} for each in "ab"], {"image", "tokens", "lengths"}),
        ("transcribe", "bilstm_ctc", [{"audio": Sound().probe(each)} for each in ("a b c", "d")], {"frames", "frames_lengths"}),
        ("transcribe", "conformer", [{"audio": Sound().probe(each)} for each in ("a b c", "d")], {"frames", "frames_lengths"}),
    ],
)
def test_pictures_and_sounds_are_read_by_a_file_of_one(task: str, family: str, rows: list[Any], inputs: set[str], tmp_path: Path) -> None:
    opened = load(made(tmp_path / "model", task, family))
    export_model(tmp_path / "model", tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    assert {each.domain for each in onnx.load(tmp_path / "out.onnx").opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}
    session = runtime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert {each.name for each in session.get_inputs()} == inputs
    wanted = opened.predict(rows)
    export_model(tmp_path / "model", tmp_path / "folder", "onnx")
    for first, second in zip(wanted, load(tmp_path / "folder").predict(rows), strict=True):
        assert first.value == second.value and second.confidence == pytest.approx(first.confidence, abs=1e-4)


def test_many_tasks_do_not_fit_into_one_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="numpy"):
        export_model(made(tmp_path / "model", "many", "textcnn"), tmp_path / "out.onnx")


def heard() -> tuple[list[str], Any]:
    """Give what is told, and who hears it: by the program's own words, so that a value that is missing is a mistake."""
    told: list[str] = []
    return told, lambda code, **values: told.append(f"{code} {text(f'story.{code}', 'en', **values)}")


def test_of_several_forms_those_that_fail_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, failing = torchless.made, {"numpy", "int8"}

    def some(opened: Any, form: str, tell: Any) -> Any:
        if form in failing:
            raise UsageError("export.apart", path="", model="", problem="odd") if form == "numpy" else DataError("golden.missing", path="")
        return make(opened, form, tell)

    monkeypatch.setattr(torchless, "made", some)
    model = made(tmp_path / "model", "grade", "textcnn")
    told, tell = heard()
    export_model(model, tmp_path / "out", "fastest", tell)
    assert read_json(tmp_path / "out" / "card.json")["exported"]["form"] == "onnx"
    assert [each.split(":")[0] for each in told if "no_form" in each] == ["export.no_form numpy", "export.no_form int8"]
    failing.add("onnx")
    with pytest.raises(DataError):
        export_model(model, tmp_path / "none", "fastest", tell)
    assert not (tmp_path / "none").exists()


def test_weights_in_eight_bits_are_named_so(tmp_path: Path) -> None:
    """Of a file as of a folder, of many tasks as of one; nobody is told that they answer as before."""
    for task, family, name in (
        ("grade", "textcnn", "a"),
        ("grade", "textcnn", "b.onnx"),
        ("language", "gru", "c.onnx"),
        ("many", "textcnn", "d"),
    ):
        model = tmp_path / f"{task}-{family}"
        told, tell = heard()
        export_model(model if model.exists() else made(model, task, family), tmp_path / name, "int8", tell)
        assert [each.split()[0] for each in told if "export.pace" not in each][-2:] == ["export.agreement", "export.rounded"]
        if not name.endswith(".onnx"):
            assert read_json(tmp_path / name / "golden.json")["form"] == "int8"


@pytest.mark.parametrize("form", ["", "int8"])
def test_a_file_has_only_the_operations_of_the_standard_and_a_folder_those_of_its_reader(place: Path, tmp_path: Path, form: str) -> None:
    export_model(place / "classify-model", tmp_path / "a.onnx", form)
    export_model(place / "classify-model", tmp_path / "b", form or "onnx")
    folder = onnx.load_from_string(load(tmp_path / "b").model.program.tobytes()).graph.node
    assert {each.domain for each in onnx.load(tmp_path / "a.onnx").graph.node} == {""}
    assert {each.op_type for each in folder if each.domain == "com.microsoft"} == {"QAttention" if form else "Attention"}


def test_what_does_not_fit_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tmp_path / "model", "grade", "textcnn")
    with monkeypatch.context() as there:
        there.setattr(exporting, "MOST_MIB", 0)
        with pytest.raises(UsageError, match="too many for one ONNX file"):
            export_model(model, tmp_path / "out.onnx")
    monkeypatch.setattr(exporting, "squeezed", lambda _: 1 / 0)
    with pytest.raises(UsageError, match="division"):
        export_model(model, tmp_path / "out.onnx", "int8")
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_no_folder_or_no_start_says_what_to_do(tmp_path: Path) -> None:
    model = made(tmp_path / "language", "language", "gru")
    for form in ("onnx", "int8"):
        with pytest.raises(UsageError, match=rf"OUT.onnx --form {form}"):
            export_model(model, tmp_path / "out", form)
    for form in ("numpy", "onnx"):
        export_model(made(tmp_path / f"grade-{form}", "grade", "textcnn"), tmp_path / form, form)
        with pytest.raises(UsageError, match=f"exported from, 'grade-{form}'"):
            settle("grade", {"start": str(tmp_path / form)})
        with pytest.raises(UsageError, match=r"zhixing\[onnx\]"):
            export_model(tmp_path / form, tmp_path / "again")


def test_threads_are_given_where_there_is_no_torch(tmp_path: Path) -> None:
    export_model(made(tmp_path / "made", "classify", "textcnn"), tmp_path / "numpy", "numpy")
    program = "import os, sys; sys.modules['torch'] = None\nfrom pathlib import Path\nfrom zhixing.cli.serve import serve\n"
    program += "assert 'numpy' not in sys.modules  # else its threads are settled already\nimport zhixing.serving.run as run\n"
    program += "run.serve = lambda *given: print(os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'])\n"
    program += f"serve([Path({str(tmp_path / 'numpy')!r})], threads=1)"
    given = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=given)
    assert said.stdout.split() == ["1", "1"], said.stderr
