"""A model of an extended vocabulary opens in transformers, from its folder and from a GGUF file: the same ids, logits and greedy text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_maker import TEXTS, saved

from zhixing import export_model, import_model, load, prepare, train
from zhixing.layers.kinds import Inputs
from zhixing.preparation.prepare import Prepare
from zhixing.tokens.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
SETTINGS: dict[str, Any] = {"steps": 8, "precision": "fp32", "threads": 1, "window": 24, "batch": 4, "learning_rate": 0.01}


def extended(name: str, where: Path) -> Any:
    """Extend a model of random weights that transformers saved; the corpus is in Chinese and English."""
    saved(name, where / "theirs")
    import_model(where / "theirs", where / "base")
    (where / "text.txt").write_text("\n\n".join([*TEXTS[:3], "千古风流人物，江山如画。", "浪淘尽 the quiet boats"] * 40))
    prepare(where / "text.txt", where / "corpus", Prepare(task="language"))
    train(where / "corpus", where / "ours", {**SETTINGS, "start": str(where / "base"), "extend_vocabulary": 40})
    return load(where / "ours")


def same(opened: Any, model: Any, spoken: Any, base: Tokenizer) -> None:
    """Compare ids, logits over ids old and new, and a greedy text."""
    first = opened.folder.card["extended"]["first_id"]
    for text in (*TEXTS[:3], "江山如画，千古 the boats of 浪淘尽"):
        ids = opened.tokenizer.encode(text).tolist()
        assert spoken(text, add_special_tokens=False)["input_ids"] == ids and spoken.decode(ids) == text
        assert opened.tokenizer.decode(ids) == text and len(ids) <= len(base.encode(text))
    read = torch.tensor([opened.tokenizer.encode("江山如画，千古 the boats of 浪淘尽").tolist()])
    assert int(read.max()) >= first
    tokens = torch.cat([read[0], torch.arange(first - 5, opened.model.vocabulary)])[None, :48]
    with torch.no_grad():
        here, there = opened.model.logits(opened.model.states(Inputs(tokens))), model(tokens).logits
    assert here.shape == there.shape and float((here - there).abs().max() / there.abs().max()) < TOLERANCE
    barred = [[each] for each in opened.tokenizer.barred] or None
    long = model.generate(read, max_new_tokens=12, do_sample=False, bad_words_ids=barred, eos_token_id=0, pad_token_id=0)
    written = opened.generate("江山如画，千古 the boats of 浪淘尽", temperature=0, max_tokens=12).tokens
    assert written == long[0, read.shape[1] :].tolist()


@pytest.mark.parametrize("name", ["llama", "llama-slow", "mistral", "qwen2", "qwen3", "gpt2"])
def test_the_folder_opens(name: str, tmp_path: Path) -> None:
    opened, base = extended(name, tmp_path), Tokenizer.load(tmp_path / "base")
    about = opened.folder.card["extended"]
    assert about["added"] == 40 and about["tokens_before"] == 310 and about["first_id"] < 310, "a padded table is filled first"
    assert about["tokens"] == about["first_id"] + 40 == opened.model.vocabulary
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    same(opened, model, transformers.AutoTokenizer.from_pretrained(tmp_path / "ours"), base)


def test_the_gguf_file_opens(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: transformers reads no such file without it")
    opened, base = extended("llama", tmp_path), Tokenizer.load(tmp_path / "base")
    export_model(tmp_path / "ours", tmp_path / "ours.gguf", "F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="ours.gguf", dtype=torch.float32).eval()
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="ours.gguf")
    same(opened, model, spoken, base)
