"""A model leaves as a GGUF file and comes back with the same ids and numbers; a file that answers otherwise is not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
import torch
from forms_maker import MADE, TEXTS, made, model_of

from zhixing import export_model, import_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.folder import seal
from zhixing.data import gguf
from zhixing.exporting import export
from zhixing.layers.kinds import Inputs
from zhixing.models import gguf as names
from zhixing.tasks import artefact
from zhixing.tokens.tokenizer import train_words

TEXT = "Once upon a time, 42 hens ran past the 大江东去 hills.\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("export")
    (where / "text.txt").write_text(TEXT * 60, encoding="utf-8")
    prepare(where / "text.txt", where / "corpus")
    shape = {
        "layers": 1,
        "width": 32,
        "heads": 2,
        "groups": 1,
        "window": 64,
        "batch": 4,
        "steps": 20,
        "tokenizer": "bpe",
        "vocabulary": 300,
    }
    for model in ("qwen3", "llama"):
        train(where / "corpus", where / model, {"model": model, **shape})
    gguf_maker.write(where / "tiny.gguf", *gguf_maker.llama())
    import_model(where / "tiny.gguf", where / "imported")
    return where


@pytest.mark.parametrize("form", gguf.WRITTEN)
@pytest.mark.parametrize("name", ["qwen3", "llama", "imported"])
def test_it_comes_back_as_it_went(place: Path, tmp_path: Path, name: str, form: str) -> None:
    export_model(place / name, tmp_path / "a.gguf", form.lower())
    import_model(tmp_path / "a.gguf", tmp_path / "again")
    before, after = load(place / name), load(tmp_path / "again")
    ids = before.tokenizer.encode(TEXT * 2)
    assert after.tokenizer.encode(TEXT * 2).tolist() == ids.tolist() and after.tokenizer.decode(ids) == TEXT * 2
    row = torch.tensor(ids[:40].tolist())[None]
    with torch.no_grad():
        one, two = (each.model.logits(each.model.states(Inputs(row))) for each in (before, after))
    gap = float((one - two).abs().max() / one.abs().max())
    assert gap <= {"F32": 1e-6, "F16": 3e-3, "BF16": 2e-2, "Q8_0": 6e-2}[form] and (gap > 0) == (form != "F32")
    assert after.tokenizer.ends >= before.tokenizer.ends and after.tokenizer.opening == before.tokenizer.opening


def test_a_file_that_answers_otherwise_is_not_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "laid", lambda weight, heads: weight)
    with pytest.raises(DataError) as caught:
        export_model(place / "llama", tmp_path / "a.gguf")
    assert caught.value.code == "golden.differs" and not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "a.gguf").write_bytes(b"GGUF of yesterday")
    with pytest.raises(UsageError):
        export_model(place / "llama", tmp_path / "a.gguf")
    export_model(place / "llama", tmp_path / "a.gguf", force=True)
    assert (tmp_path / "a.gguf").stat().st_size > 100 and export.TOLERANCES.keys() >= set(gguf.WRITTEN)


def test_a_tokenizer_that_comes_back_otherwise_is_not_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_model(place / "qwen3", tmp_path / "new" / "folder" / "a.gguf")
    wrong = export.to_gguf

    def fewer(tokenizer: Any) -> dict[str, Any]:
        settings = wrong(tokenizer)
        return {**settings, "tokenizer.ggml.merges": settings["tokenizer.ggml.merges"][:1]}

    monkeypatch.setattr(export, "to_gguf", fewer)
    with pytest.raises(DataError) as caught:
        export_model(place / "qwen3", tmp_path / "other" / "a.gguf")
    assert "token ids" in str(caught.value) and not (tmp_path / "other").exists()


def test_a_tokenizer_that_changes_texts_is_refused_by_name(place: Path) -> None:
    tokenizer = load(place / "imported").tokenizer
    value = json.loads(tokenizer.content)
    tokenizer.content = json.dumps({**value, "normalizer": {"type": "Lowercase"}}).encode()
    with pytest.raises(UsageError) as caught:
        export.to_gguf(tokenizer)
    assert caught.value.code == "export.tokenizer"


@pytest.mark.parametrize(("form", "name"), [("huggingface", "out"), ("", "out.onnx"), ("int8", "out.onnx")])
def test_words_no_other_program_cuts_by_stay_here(form: str, name: str, tmp_path: Path) -> None:
    task, tokenizer = MADE["classify"], train_words(TEXTS, 330)
    (tmp_path / "model").mkdir()
    artefact.write(tmp_path / "model", task, model_of(task, "bert", tokenizer.vocabulary_size, pooling="first"), tokenizer)
    seal(tmp_path / "model", "model", {"task": task.name, "model": "bert"})
    with pytest.raises(UsageError) as caught:
        export_model(tmp_path / "model", tmp_path / name, form)
    assert caught.value.code == "export.portable" and "words" in str(caught.value) and not (tmp_path / name).exists()
    asked = ["Ada says 3: fine 好"]
    folder = load(export_model(tmp_path / "model", tmp_path / "arrays"))
    assert folder.predict(asked)[0].scores == pytest.approx(load(tmp_path / "model").predict(asked)[0].scores, abs=1e-4), "as it may"


@pytest.mark.parametrize("form", gguf.WRITTEN)
def test_numbers_are_rounded_to_the_nearest(form: str) -> None:
    numbers = np.random.default_rng(0).normal(0, 3, (5, 64)).astype(np.float32)
    numbers[0, :32] = 0
    found = gguf.unpack(form, np.frombuffer(gguf.pack(form, numbers), np.uint8)).reshape(5, 64)
    step = np.abs(numbers.reshape(-1, 32)).max(1).repeat(32).reshape(5, 64) / 127
    bound = {"F32": 0 * step, "F16": 2**-11 * np.abs(numbers), "BF16": 2**-8 * np.abs(numbers), "Q8_0": 0.56 * step}[form]
    assert (np.abs(found - numbers) <= bound + 1e-9).all()


LLAMA3 = {"rope_type": "llama3", "factor": 32.0, **names.LLAMA3}


def test_rotations_of_llama_3_travel_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "model", "language", "llama", rope_theta=5e5, rope_scaling=LLAMA3)
    export_model(tmp_path / "model", tmp_path / "a.gguf")
    factors = gguf.GGUF(tmp_path / "a.gguf").tensor(names.FACTORS)
    assert factors.min() == 1 and factors.max() == pytest.approx(32)
    import_model(tmp_path / "a.gguf", tmp_path / "again")
    again, before = (load(tmp_path / name).model.to_dict() for name in ("again", "model"))
    assert (again["rope_scaling"], again["rope_theta"]) == (before["rope_scaling"], before["rope_theta"]) == (LLAMA3, 5e5)
    monkeypatch.setattr(names, "factors_of", lambda config: {})
    with pytest.raises(DataError) as caught:  # red: a file without them answers otherwise
        export_model(tmp_path / "model", tmp_path / "b.gguf", "f32")
    assert caught.value.code == "golden.differs"


@pytest.mark.parametrize("stretch", [{"rope_type": "linear", "factor": 4.0}, {**LLAMA3, "factor": 1.0005}])
def test_rotations_stretched_otherwise_travel_along(stretch: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path / "model", "language", "llama", rope_theta=5e5, rope_scaling=stretch)
    export_model(tmp_path / "model", tmp_path / "a.gguf")
    import_model(tmp_path / "a.gguf", tmp_path / "again")
    found = load(tmp_path / "again").model.to_dict()["rope_scaling"]
    assert found["rope_type"] == stretch["rope_type"] and found["factor"] == pytest.approx(stretch["factor"], rel=1e-6)


@pytest.mark.parametrize(
    ("family", "theta", "changed"),
    [
        ("qwen3", 5e5, {}),
        ("llama", 5e5, {"original_max_position_embeddings": 16}),
        ("llama", 10.0, {}),
        ("llama", 5e5, {"factor": 1e39}),
    ],
    ids=["a layout whose readers know none", "another window", "no pair turns slowly enough to tell the factor", "a factor without end"],
)
def test_rotations_that_no_reader_would_know_are_refused(family: str, theta: float, changed: dict[str, Any], tmp_path: Path) -> None:
    made(tmp_path / "model", "language", family, rope_theta=theta, rope_scaling={**LLAMA3, **changed})
    with pytest.raises(UsageError) as caught:
        export_model(tmp_path / "model", tmp_path / "a.gguf")
    assert caught.value.code == ("export.rope" if family == "llama" else "export.rope_layout") and not (tmp_path / "a.gguf").exists()


def test_force_replaces_no_file_that_no_export_wrote(place: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("my notes")
    with pytest.raises(UsageError) as caught:
        export_model(place / "llama", tmp_path / "notes.gguf", force=True)
    assert caught.value.code == "output.not_ours" and (tmp_path / "notes.gguf").read_text() == "my notes"
