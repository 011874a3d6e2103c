"""Every task, family and form: what leaves in which is what the table of ARCHITECTURE.md says, and what leaves answers equally.

Models are of random weights, so that all of them can be tried.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms_maker import FLAGS, MADE, made, model_of
from safetensors.numpy import load_file

from zhixing import export_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json
from zhixing.core.folder import seal
from zhixing.data.schema import Image, Sound
from zhixing.exporting import export as exported
from zhixing.exporting.forms import GGUF, HUGGINGFACE, NUMPY, ONNX, VECTORS, forms_of
from zhixing.models import catalog, graph, operations
from zhixing.models.copying import Copy
from zhixing.preparation.prepare import Prepare
from zhixing.tasks import artefact
from zhixing.tasks.task import TASKS
from zhixing.training.settings import settle

COLUMNS = (NUMPY, ONNX, HUGGINGFACE, GGUF, VECTORS)
WITHOUT_MODELS = ("judge", "risk")  # of one no folder is of its own, of the other none is trained by the loop
# A family for each task, cheap to trace; what is asked of it, in several lengths.
SERVED: dict[str, tuple[str, list[Any]]] = {
    "classify": ("hashed", ["Ada says", "fine 好 " * 30, "龘"]),
    "tag": ("bigru", [{"tokens": ["Ada", "in", "Chen"]}, {"tokens": ["fine", "好"] * 20}, {"tokens": ["."]}]),
    "moderate": ("feedforward", [{"text": "Ada says"}, {"tokens": ["fine", "好"] * 20}, {"text": "."}]),
    "recommend": ("gru", [{"items": ["a", "书"]}, {"items": ["b"] * 9}, {"items": ["a"]}]),
    "trace": ("lstm", [{"items": ["add"] * 5, "correct": [1, 0, 1, 1]}, {"items": ["乘"], "correct": []}]),
    "many": ("rnn", [{"task": "classify/c", "text": "Ada"}, {"task": "tag/t", "tokens": ["in", "Chen"]}]),
    "see": ("vit", [{"image": Image().probe(text)} for text in ("Ada", "好" * 9)]),
    "match": ("towers", [{"image": Image().probe("Ada"), "text": text} for text in ("Ada says", "fine 好 " * 30)]),
    "transcribe": ("conformer", [{"audio": Sound().probe(text)} for text in ("Ada says", "fine 好 " * 9, ".")]),
}
SEEN = [
    {"image": Image().probe("Ada"), "text": "fine 好"},
    {"audio": Sound().probe("Bo " * 9), "text": "by Dee"},
    {"image": Image().probe("c")},
]
WITHOUT = """import sys
class Without:
    names = {"torch", "sklearn", "scipy", "zstandard"}
    def find_spec(self, name, *more):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
"""


def table() -> dict[str, dict[str, list[str]]]:
    """Read the table of ARCHITECTURE.md: of each task, the families that leave in each form; all are those that serve it."""
    text = (Path(__file__).parents[2] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text[text.index("## What leaves") :].split("\n\n")[2].splitlines()[2:]]
    found = {}
    for tasks, *cells in rows:
        for task in tasks.split(", "):
            every = [name for name in catalog.trained(MADE[task].kinds) if can_train(task, name)]
            lists = [every if cell == "all" else [] if cell == "-" else cell.split(", ") for cell in cells]
            found[task] = dict(zip(COLUMNS, lists, strict=True))
    return found


def can_train(task: str, family: str) -> bool:
    try:
        settle(task, {"model": family, **FLAGS})
    except UsageError:
        return False
    return family != "mixture"


@pytest.mark.parametrize("task", sorted(set(TASKS) - set(WITHOUT_MODELS)))
def test_what_leaves_is_what_the_table_says(task: str) -> None:
    told = table()[task]
    for family in (name for name in catalog.trained(MADE[task].kinds) if can_train(task, name)):
        found = forms_of(MADE[task], model_of(MADE[task], family, 330))
        assert set(found) == {form for form, families in told.items() if family in families}, family


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model of each task, and let a program in which there is no torch answer for all of them."""
    where = tmp_path_factory.mktemp("forms")
    for task, (family, _) in SERVED.items():
        export_model(made(where / f"{task}-model", task, family), where / task, form="numpy")
    (where / "copy").mkdir()
    artefact.write(where / "copy", MADE["translate"], Copy(), None)
    seal(where / "copy", "model", {"task": "translate", "model": "copy"})
    rows = {str(where / task): rows for task, (_, rows) in SERVED.items()} | {str(where / "copy"): [{"source": "a b"}]}
    program = WITHOUT + "import json\nfrom zhixing import load\nrows = json.load(sys.stdin)\n"
    program += "said = []\nfor path, some in rows.items():\n"
    program += "    if path.endswith('transcribe'):\n        Without.names.discard('scipy')  # which hears\n"
    program += "    said.append([each.value for each in load(path).predict(some)])\nprint(json.dumps(said))"
    done = subprocess.run([sys.executable, "-c", program], input=json.dumps(rows), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (where / "said.json").write_text(json.dumps(dict(zip([*SERVED, "copy"], json.loads(done.stdout), strict=True))))
    return where


@pytest.mark.parametrize("task", sorted(SERVED))
def test_it_answers_without_torch_as_it_did_with_it(task: str, place: Path) -> None:
    before, after = load(place / f"{task}-model"), load(place / task)
    said = json.loads((place / "said.json").read_text())[task]
    for first, second, value in zip(*(each.predict(SERVED[task][1]) for each in (before, after)), said, strict=True):
        assert second.value == value == (pytest.approx(first.value, abs=1e-4) if task == "trace" else first.value)
        assert second.scores == (first.scores if first.scores is None else pytest.approx(first.scores, abs=1e-4))
    assert after.task == before.task, "labels, thresholds and temperature travel along"


@pytest.mark.parametrize("senses", [("image", "text", "audio"), ("image", "text"), ("audio",)])
def test_what_a_row_lacks_is_lacking_without_torch_too(senses: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MADE, "see", replace(MADE["see"], senses=senses, longest=40))
    export_model(made(tmp_path / "model", "see", "fusion"), tmp_path / "out")
    rows = [{name: value for name, value in row.items() if name in senses} for row in SEEN]
    rows = [row for row in rows if row]
    for before, after in zip(*(load(tmp_path / each).predict(rows) for each in ("model", "out")), strict=True):
        assert after.value == before.value and after.scores == pytest.approx(before.scores, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "read", "gives"), [("vit", "see", "image", "answers"), ("conformer", "transcribe", "frames", "said")]
)
def test_what_it_is_given_and_gives_is_held_to(family: str, name: str, read: str, gives: str, tmp_path: Path) -> None:
    """Red cases: a folder that names other inputs than it reads, none, one twice or no names; one that fits another task."""
    place = export_model(made(tmp_path / "model", name, family), tmp_path / "out")
    config, tensors = read_json(place / "config.json"), load_file(place / "model.safetensors")
    given = np.zeros((2, 3, 64, 64), np.uint8) if read == "image" else np.zeros((2, 40, 40), np.float32)
    batch = {read: given, "frames_lengths": np.array([40, 3])}
    opened = graph.Graph.from_tensors(config, tensors)
    assert read in config["inputs"] and gives in opened.answer(batch, gives)
    for inputs in ([], ["tokens", "lengths"], [read, read], ["system"], [[read]], [3]):
        with pytest.raises(DataError):
            graph.Graph.from_tensors({**config, "inputs": inputs}, tensors)
    for wrong, wanted in ((batch, "next"), ({"tokens": given}, gives)):
        with pytest.raises(DataError) as caught:
            opened.answer(wrong, wanted)
        assert caught.value.code == "model.unfit"


@pytest.mark.parametrize(
    "node",
    [
        ["convolution.default", [{"$": "image"}, {"$": "image"}, None, [1, 1], [0, 0], [1, 1], False, [0], 0]],
        ["convolution.default", [{"$": "image"}, {"$": "image"}, None, [-1, -1], [0, 0], [1, 1], False, [0], 1]],
        ["convolution.default", [{"$": "image"}, {"$": "image"}, None, [1, 1], [60000, 60000], [1, 1], False, [0], 1]],
        ["constant_pad_nd.default", [{"$": "image"}, [60000, 60000, 60000, 60000]]],
        ["sort.stable", [{"$": "image"}], {"dim": 1 << 70}],
        ["div.Tensor_mode", [{"$": "image"}, 3], {"rounding_mode": "zz"}],
        ["native_group_norm.default", [{"$": "image"}, None, None, 2, 3, 4, 0, 1e-5]],
        ["add", [1 << 70, {"$": "image"}]],
        ["mod", [1, 0]],
    ],
)
def test_operations_that_cannot_be_are_refused(node: list[Any]) -> None:
    about = {"family": "x", "width": 1, "window": None, "outputs": {"answers": "a"}, "inputs": ["image"]}
    found = graph.Graph.from_tensors({**about, "nodes": [["a", *node, *([{}] if len(node) == 2 else [])]]}, {})
    with pytest.raises(DataError) as caught:
        found.run(np.ones((2, 3, 8, 8), np.uint8))
    assert caught.value.code == "graph.operation"


def test_what_is_made_of_arrays_needs_no_torch_as_it_is(place: Path) -> None:
    assert json.loads((place / "said.json").read_text())["copy"] == ["a b"]
    for form in ("numpy", "huggingface"):
        with pytest.raises(UsageError, match="needs no torch as it is"):
            export_model(place / "copy", place / "out", form=form)


def test_what_cannot_leave_says_what_can(tmp_path: Path) -> None:
    for task, family, out, form, words in (
        ("language", "gru", "out", "numpy", "onnx"),
        ("language", "gru", "a.gguf", "", "onnx"),
        ("grade", "textcnn", "out", "huggingface", "numpy, onnx"),
        ("translate", "lstm_attention", "out", "numpy", "nor in any other"),
        ("see", "vit", "out", "huggingface", "numpy, onnx"),
        ("embed", "skipgram", "out", "numpy", "word2vec"),
        ("grade", "textcnn", "a.vec", "", "numpy, onnx"),
    ):
        model = tmp_path / f"{task}-{family}"
        model = model if model.exists() else made(model, task, family)
        with pytest.raises(UsageError, match=words):
            export_model(model, tmp_path / out, form=form)
        assert not (tmp_path / out).exists()


def test_other_answers_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red cases: a recurrent layer that computes otherwise, and a chain whose best path is another."""
    model = made(tmp_path / "model", "tag", "rnn")
    monkeypatch.setitem(operations.OPERATIONS, "zhixing.recurrence.default", lambda x, w, cell: 0.9 * operations.recurrence(x, w, cell))
    with pytest.raises(DataError, match="tags"):
        export_model(model, tmp_path / "out")
    monkeypatch.undo()
    run = graph.Graph.run
    monkeypatch.setattr(graph.Graph, "run", lambda *given: {**(made := run(*given)), "transitions": made["transitions"].T})
    with pytest.raises(DataError):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("axes", [1, 2])
def test_a_convolution_means_what_torch_means(axes: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    make = (torch.nn.Conv1d, torch.nn.Conv2d)[axes - 1]
    given = [{"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2}, {"kernel_size": 1}, {"kernel_size": 4, "stride": 4}][
        :: 1 if axes == 2 else 2
    ]
    monkeypatch.setattr(operations, "AT_ONCE", 1000)  # some rows at a time
    for how in given:
        layer = make(6, 6 if groups == 6 else 8, groups=groups, **how)
        x = torch.randn(5, 6, *(13, 17)[:axes])
        with torch.no_grad():
            wanted = layer(x).numpy()
        about = [list(each) for each in (layer.stride, layer.padding, layer.dilation)]
        weight, bias = (each.detach().numpy() for each in (layer.weight, layer.bias))
        found = operations.convolution(x.numpy(), weight, bias, *about, False, [0], groups)
        assert found.dtype == np.float32 and np.allclose(found, wanted, atol=1e-5)
    norm = torch.nn.GroupNorm(3, 6)
    norm.weight.data.uniform_(1, 2)
    with torch.no_grad():
        wanted = norm(x).numpy()
    found = operations.group_norm(x.numpy(), norm.weight.detach().numpy(), norm.bias.detach().numpy(), 5, 6, 0, 3, norm.eps)[0]
    assert np.allclose(found, wanted, atol=1e-5)
    for some in ([[1, 0, 1, 0]], [[True, False, True, True]], [[3, 0, 200, 3]], [[1.0, float("nan"), 2.0, 1.0]]):
        for down in (True, False):
            rows = np.array(some, np.uint8 if 200 in some[0] else None)
            values, places = torch.sort(torch.from_numpy(rows), stable=True, dim=1, descending=down)
            found = operations.sort(rows, dim=1, descending=down)
            assert found[1].tolist() == places.tolist() and np.array_equal(found[0], values.numpy(), equal_nan=rows.dtype.kind == "f")


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_recurrent_layer_means_what_torch_means(cell: str) -> None:
    import torch

    from zhixing.exporting.recurrent import recurrence

    layers = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](5, 7, num_layers=2, batch_first=True)
    x = torch.randn(3, 11, 5)
    weights = [each for layer in layers.all_weights for each in layer]
    with torch.no_grad():
        wanted = layers(x)[0]
        assert torch.equal(recurrence(x, weights, cell), wanted)
    found = operations.recurrence(x.numpy(), [each.detach().numpy() for each in weights], cell)
    assert found.dtype == np.float32 and np.allclose(found, wanted.numpy(), atol=1e-6)


def test_a_folder_of_before_has_one_output() -> None:
    config = {"family": "x", "width": 1, "window": None, "nodes": [["a", "neg.default", [{"$": "lengths"}], {}]], "output": "a"}
    found = graph.Graph.from_tensors(config, {}).run(np.ones((2, 3), int), np.array([2, 3]))
    assert found["answers"].tolist() == [-2, -3]


def test_vectors_of_words_leave_as_word2vec_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"the river and the bridge 春天 的 雨 and the river {number}"} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="language", validation=0.1, test=0.1))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "skipgram", "size": "tiny", "steps": 5, "minimum": 1})
    export_model(tmp_path / "model", tmp_path / "out.vec")
    opened = load(tmp_path / "model")
    head, *lines = (tmp_path / "out.vec").read_text(encoding="utf-8").splitlines()
    words = [line.split(" ")[0] for line in lines]
    assert head == f"{len(words)} 50" and {"river", "春天"} <= set(words)
    vectors = np.array([[float(each) for each in line.split(" ")[1:]] for line in lines], np.float32)
    assert np.array_equal(vectors, opened.model.embeddings.weight.detach().numpy())
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    order = [words[place] for place in np.argsort(-(unit @ unit[words.index("river")])) if words[place] != "river"]
    assert order[:3] == [word for word, _ in opened.nearest("river", 3)]
    export_model(tmp_path / "model", tmp_path / "out.vec", force=True)
    (tmp_path / "notes.vec").write_text(f"{head}\nnotes 1 2 3\n")  # another program's, of as many words
    with pytest.raises(UsageError, match="notes"):
        export_model(tmp_path / "model", tmp_path / "notes.vec", force=True)
    write = exported.words.write
    monkeypatch.setattr(exported, "words_of", lambda *_: ["two words", *words[1:]])
    with pytest.raises(UsageError, match="two words"):
        export_model(tmp_path / "model", tmp_path / "wrong.vec")
    monkeypatch.undo()
    monkeypatch.setattr(exported.words, "write", lambda handle, spelt, array: write(handle, spelt, array + np.float32(1e-6)))
    with pytest.raises(DataError, match="words or vectors"):
        export_model(tmp_path / "model", tmp_path / "wrong.vec")
    assert not (tmp_path / "wrong.vec").exists()
