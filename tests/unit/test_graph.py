"""A model that was taken apart answers as it did, without torch: every family that can be, and what is refused of the others."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import MAKERS, SMALL
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as torch_save
from torch.nn import functional as F
from wordpiece_maker import folder

from zhixing import evaluate, export_model, import_model, load, prepare, train
from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError
from zhixing.core.folder import seal
from zhixing.exporting import graph as apart
from zhixing.layers.kinds import Inputs
from zhixing.models import operations
from zhixing.models.graph import Graph, GraphConfig
from zhixing.preparation.prepare import Prepare
from zhixing.tasks import artefact

TASKS = {"classify": "textcnn", "multilabel": "bert", "grade": "convolution", "similar": "qwen3"}
WITHOUT = "import sys; sys.modules['torch'] = sys.modules['sklearn'] = sys.modules['scipy'] = sys.modules['zstandard'] = None\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("graph")
    draw = random.Random(5)
    for task, model in TASKS.items():
        rows = [MAKERS[task](draw, number) for number in range(80)]
        (where / f"{task}.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
        prepare(where / f"{task}.jsonl", where / task, Prepare(task=task, validation=0.1, test=0.2))
        train(where / task, where / f"{task}-model", {**SMALL, "model": model, "steps": 20})
        export_model(where / f"{task}-model", where / f"{task}-out")
    return where


@pytest.mark.parametrize("task", TASKS)
def test_it_answers_as_the_model_does(task: str, place: Path) -> None:
    before, after = load(place / f"{task}-model"), load(place / f"{task}-out")
    assert isinstance(after.model, Graph) and after.model.config.family == TASKS[task] and after.task == before.task
    asked = before.task.schema.asked.fields
    rows = [json.loads(line) for line in (place / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [{name: each[name] for name in asked if name in each} for each in rows]
    for first, second in zip(before.predict(rows), after.predict(rows), strict=True):
        assert first.value == pytest.approx(second.value, rel=1e-4) if isinstance(first.value, float) else first.value == second.value
        assert first.scores == pytest.approx(second.scores, abs=1e-4)
    reports = [evaluate(each, place / task, rivals=False, save=False) for each in (before, after)]
    assert reports[0].figures[0].value == pytest.approx(reports[1].figures[0].value, abs=1e-4)
    card = after.folder.card
    assert card["model"] == TASKS[task] and card["exported"]["from"] == f"{task}-model" and "torch" not in card["versions"]
    assert (place / f"{task}-out/golden.json").exists() and after.embeds == (task == "similar")


def test_arrays_lie_in_their_file_and_are_never_written(place: Path, tmp_path: Path) -> None:
    path = place / "classify-out/model.safetensors"
    found, wanted = artefact.mapped(path), load_file(path)
    assert set(found) == set(wanted) and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert {each.dtype for each in found.values()} == {each.dtype for each in wanted.values()}
    kept = load(place / "classify-out").model.kept
    assert not any(each.flags.writeable or each.flags.owndata for each in (*found.values(), *kept.values()))
    torch_save({"x": torch.ones(3, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    with pytest.raises(DataError, match="x: BF16"):
        artefact.mapped(tmp_path / "half.safetensors")
    (tmp_path / "short.safetensors").write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SafetensorError):
        artefact.mapped(tmp_path / "short.safetensors")
    x = np.linspace(-6, 6, 999, dtype=np.float32)
    assert np.abs(operations.error_function(x) - torch.erf(torch.from_numpy(x)).numpy()).max() < 1e-6
    assert np.abs(operations.gelu(x) - F.gelu(torch.from_numpy(x)).numpy()).max() < 1e-6


def test_nothing_of_a_training_is_needed_to_answer(place: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "Ada says 3: fine 好"}\n', encoding="utf-8")
    words = ["predict", str(place / "classify-out"), str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl")]
    program = WITHOUT + f"from zhixing.cli.app import main\nraise SystemExit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = load(place / "classify-model").predict(["Ada says 3: fine 好"])[0].value
    assert json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))["answer"] == wanted
    serving = WITHOUT + "import zhixing.serving.run, zhixing.cli.serve\nfrom zhixing.serving.served import open_models\n"
    serving += f"from pathlib import Path\nserved = open_models([Path({str(place / 'similar-out')!r})])['similar-out']\n"
    serving += "print(served.routes, served.artefact.embed(['Ada says']).shape)"
    done = subprocess.run([sys.executable, "-c", serving], capture_output=True, text=True)
    assert done.returncode == 0 and "/v1/embeddings" in done.stdout and "(1, 32)" in done.stdout, done.stderr
    words[1] = str(place / "classify-model")
    program = WITHOUT + f"from zhixing.cli.app import main\nraise SystemExit(main({[*words, '--force']!r}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and "'zhixing[train]'" in done.stderr, "and what does need it says what to install"


def test_an_imported_encoder_leaves_with_its_frame(tmp_path: Path) -> None:
    import_model(folder(tmp_path / "theirs", ["Ada says fine"]), tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "out"), "--form", "numpy"]) == 0
    texts = ["Ada says", "fine " * 80, "龘"]
    assert np.allclose(load(tmp_path / "out").embed(texts), load(tmp_path / "ours").embed(texts), atol=1e-5)


def test_what_needs_no_torch_or_has_a_name_already_is_refused(place: Path, tmp_path: Path) -> None:
    train(place / "classify", tmp_path / "counted", {})
    with pytest.raises(UsageError, match="needs no torch as it is"):
        export_model(tmp_path / "counted", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="needs no torch as it is"):
        export_model(place / "classify-out", tmp_path / "out")
    with pytest.raises(UsageError, match="numpy"):
        export_model(place / "classify-model", tmp_path / "out", form="onyx")
    with pytest.raises(UsageError):
        export_model(place / "classify-model", place / "classify-out")


def test_an_operation_that_computes_otherwise_is_found(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(operations.OPERATIONS, "relu.default", lambda x: np.maximum(x, 0.01))
    with pytest.raises(DataError, match="classify-model"):
        export_model(place / "classify-model", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda nodes: nodes[0].__setitem__(1, "system"), "system"),
        (lambda nodes: nodes.pop(0), "refer to what comes before"),
        (lambda nodes: nodes.__setitem__(0, ["a", "relu.default"]), "damaged"),
        (lambda nodes: nodes.__setitem__(0, {"x": 1}), "damaged"),
        (lambda nodes: nodes[0].__setitem__(1, ["relu.default"]), "damaged"),
        (lambda nodes: nodes.insert(0, ["a", "neg.default", [{"#": "abc"}], {}]), "damaged"),
        (lambda nodes: nodes.insert(0, ["a", "neg.default", [{"$": ["tokens"]}], {}]), "damaged"),
        (lambda nodes: nodes.insert(0, ["a", "mul.Tensor", [{"$": "tokens"}, 2], {"out": {"$": "tokens"}}]), "told out"),
    ],
)
def test_a_damaged_list_is_refused(change: Any, words: str, place: Path) -> None:
    path = place / "classify-out"
    config = json.loads((path / "config.json").read_text())
    change(config["nodes"])
    with pytest.raises(DataError) as caught:
        Graph.from_tensors(config, load_file(path / "model.safetensors"))
    assert words in caught.value.text("en")


@pytest.mark.parametrize(
    "node",
    [
        ["a", "full.default", [[10**7, 10**6], 1.0], {}],
        ["a", "arange.start_step", [0, 10**15], {}],
        ["a", "expand.default", [{"$": "lengths"}, [10**12, -1]], {}],
        ["a", "mul.Scalar", [{"$": "tokens"}], {}],
        ["a", "cat.default", [[{"$": "tokens"}, {"$": "lengths"}], 0], {}],
    ],
)
def test_a_list_that_asks_for_too_much_or_cannot_be_computed_is_refused(node: list[Any]) -> None:
    made = Graph.from_tensors({"family": "x", "width": 1, "window": None, "nodes": [node], "outputs": {"y": "a"}}, {})
    with pytest.raises(DataError, match="'a'"):
        made.run(np.ones((2, 3), np.int64), np.ones(2, np.int64))
    for wrong in ({"width": 10**9}, {"window": -5}, {"nodes": 5}, {"outputs": {"y": "nothing"}}, {"outputs": {}}):
        with pytest.raises(DataError):
            Graph.from_tensors({"family": "x", "width": 1, "window": None, "nodes": [node], "outputs": {"y": "a"}} | wrong, {})


def test_other_weights_are_found_when_it_is_opened(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "classify-out", tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    name = next(each for each in tensors if "embedding" in each)
    save_file({**tensors, name: tensors[name] * 1.5}, tmp_path / "out/model.safetensors")
    (tmp_path / "out/manifest.json").unlink()
    card = json.loads((tmp_path / "out/card.json").read_text())
    (tmp_path / "out/card.json").unlink()
    seal(tmp_path / "out", "model", {key: value for key, value in card.items() if key not in ("kind", "format")})
    with pytest.raises(DataError, match="golden|answers"):
        load(tmp_path / "out")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "theirs", "given"),
    [
        ("gelu.default", F.gelu, [numbers(5, 7)]),
        ("_softmax.default", lambda x, dim: x.softmax(dim), [numbers(5, 7), -1]),
        ("native_layer_norm.default", lambda *a: (F.layer_norm(*a),), [numbers(3, 5), [5], numbers(5), numbers(5), 1e-5]),
        (
            "convolution.default",
            lambda x, w, b, *_: F.conv1d(x, w, b, 2, 3, 2, 2),
            [numbers(2, 4, 20), numbers(6, 2, 3), numbers(6), [2], [3], [2], False, [0], 2],
        ),
        ("constant_pad_nd.default", lambda x, p, v: F.pad(x, p, value=v), [numbers(2, 3, 4), [1, 2, 3, 0], 0.5]),
        ("slice.Tensor", lambda x, d, s, e: torch.ops.aten.slice.Tensor(x, d, s, e), [numbers(4, 9), 1, -5, 9223372036854775807]),
        ("select.int", torch.select, [numbers(4, 9), 1, -2]),
        ("sum.dim_IntList", lambda x, d, k: x.sum(d, k), [numbers(4, 3, 2), [0, 2], True]),
        ("linalg_vector_norm.default", lambda x, o, d, k: torch.linalg.vector_norm(x, o, d, k), [numbers(4, 3), 2, [1], True]),
        ("expand.default", lambda x, s: x.expand(s), [numbers(3, 1), [2, -1, 4]]),
        ("div.Tensor", torch.div, [np.arange(4), np.full(4, 3)]),
        ("sigmoid.default", torch.sigmoid, [40 * numbers(50)]),
    ],
)  # fmt: skip
def test_an_operation_means_what_torch_means(name: str, theirs: Any, given: list[Any]) -> None:
    wanted = theirs(*(torch.from_numpy(each.copy()) if isinstance(each, np.ndarray) else each for each in given))
    found = operations.OPERATIONS[name](*given)
    if isinstance(wanted, tuple):
        wanted, found = wanted[0], found[0]
    assert found.shape == tuple(wanted.shape) and found.dtype == wanted.numpy().dtype and np.allclose(found, wanted.numpy(), atol=1e-5)


def test_rows_of_any_number_and_length_are_compared(place: Path) -> None:
    opened = load(place / "multilabel-model")
    found = apart.graph_of(opened)
    tokens, lengths = np.full((7, 13), 9), np.array([13, 1, 2, 3, 4, 5, 6])
    with torch.no_grad():
        wanted = opened.model(Inputs(torch.from_numpy(tokens), lengths=torch.from_numpy(lengths))).numpy()
    assert np.allclose(found.run(tokens, lengths)["answers"], wanted, atol=1e-4 * np.abs(wanted).max())
    config = GraphConfig("x", 1, None, (("a", "neg.default", [{"$": "tokens"}], {}),), {"y": "b"})
    with pytest.raises(DataError, match="damaged"):
        Graph(config, {})
