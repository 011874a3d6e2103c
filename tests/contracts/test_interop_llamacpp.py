"""GGUF files read by llama.cpp itself before they take their name: its tokens and its log-probabilities are the model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
from forms_maker import made

from zhixing import export_model, import_model, load
from zhixing.core.errors import DataError
from zhixing.exporting import llamacpp
from zhixing.models.gguf import LLAMA3

pytest.importorskip("cyllama", reason="cyllama is not installed: llama.cpp cannot be asked")
pytestmark = pytest.mark.interop


def told_by(model: Path, out: Path, form: str) -> list[str]:
    told: list[str] = []
    export_model(model, out, form, lambda code, **values: told.append(code))
    return told


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("form", ["F32", "F16", "BF16", "Q8_0"])
def test_it_answers_the_golden_questions(family: str, form: str, tmp_path: Path) -> None:
    model = made(tmp_path / "model", "language", family)
    assert told_by(model, tmp_path / "a.gguf", form) == ["export.reader", "export.done"]
    held, opened = llamacpp.File(llamacpp.library(), tmp_path / "a.gguf"), load(model)
    for text in ("the old boat", "大江东去", "<|end|> is text", "x = 12345\n\n  y"):
        assert held.encode(text) == opened.tokenizer.encode(text).tolist()


def test_it_slows_the_rotations_of_llama_3_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tmp_path / "model", "language", "llama", rope_theta=5e5, rope_scaling={"rope_type": "llama3", "factor": 32.0, **LLAMA3})
    assert told_by(model, tmp_path / "a.gguf", "F32") == ["export.reader", "export.done"]
    monkeypatch.setattr("zhixing.exporting.export.replay", lambda *given: None)
    monkeypatch.setattr("zhixing.models.gguf.factors_of", lambda config: {})
    with pytest.raises(DataError) as caught:  # red: llama.cpp turns them at full pace where nothing slows them
        export_model(model, tmp_path / "b.gguf", "F32")
    assert caught.value.code == "golden.differs"


def test_pieces_of_others_are_cut_alike_there(tmp_path: Path) -> None:
    gguf_maker.write(tmp_path / "theirs.gguf", *gguf_maker.llama())
    import_model(tmp_path / "theirs.gguf", tmp_path / "model")
    assert told_by(tmp_path / "model", tmp_path / "a.gguf", "F16") == ["export.reader", "export.done"]


def test_what_it_answers_otherwise_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red cases: other numbers, other tokens, a file that it does not open."""
    model, run = made(tmp_path / "model", "language", "llama"), llamacpp.File.run

    def moved(self: Any, *given: np.ndarray) -> dict[str, np.ndarray]:
        return {name: each + np.linspace(0, 1, each.shape[-1], dtype=np.float32) for name, each in run(self, *given).items()}

    monkeypatch.setattr(llamacpp.File, "run", moved)
    with pytest.raises(DataError) as caught:
        export_model(model, tmp_path / "a.gguf", "F32")
    assert caught.value.code == "golden.differs"
    monkeypatch.undo()
    monkeypatch.setattr(llamacpp.File, "encode", lambda self, text: [1])
    with pytest.raises(DataError) as caught:
        export_model(model, tmp_path / "a.gguf", "F32")
    assert "token ids" in str(caught.value) and not (tmp_path / "a.gguf").exists()
    (tmp_path / "b.gguf").write_bytes(b"GGUF of nobody")
    with pytest.raises(DataError) as caught:
        llamacpp.File(llamacpp.library(), tmp_path / "b.gguf")
    assert caught.value.code == "export.reader"


def test_without_it_a_file_is_written_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zhixing.exporting.export.library", lambda: None)
    assert told_by(made(tmp_path / "model", "language", "llama"), tmp_path / "a.gguf", "F16") == ["export.done"]
