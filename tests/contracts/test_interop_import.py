"""What transformers saves opens as one of our models: the same logits, the same ids; and a GGUF file of random weights, as it reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
import torch
from transformers_maker import CONFIGS, TEXTS, saved

from zhixing import import_model, load
from zhixing.importing.sources import open_source
from zhixing.layers.kinds import Inputs
from zhixing.tokens.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
def same(ours: Any, theirs: Any, length: int = 40) -> None:
    tokens = torch.randint(0, 260, (3, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        here, there = ours.logits(ours.states(Inputs(tokens))), theirs(tokens).logits
    assert float((here - there).abs().max() / there.abs().max()) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_ids_and_greedy_texts_are_the_same(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path / "theirs", "20KB" if name == "llama" else "1GB")
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1) == (name == "llama")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    opened = load(tmp_path / "ours")
    same(opened.model, theirs)
    spoken = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "theirs")  # the file as it is; a class of its own may not be
    for text in TEXTS[:3]:
        ids = spoken(text, add_special_tokens=False)["input_ids"]
        assert opened.tokenizer.encode(text).tolist() == ids and opened.tokenizer.decode(ids) == text
    read = spoken(TEXTS[0], return_tensors="pt")["input_ids"]
    # What is never written here is never written there; the same tokens end a text.
    barred = [[each] for each in opened.tokenizer.barred]
    long = theirs.generate(read, max_new_tokens=12, do_sample=False, bad_words_ids=barred, eos_token_id=0, pad_token_id=0)
    assert opened.generate(TEXTS[0], temperature=0, max_tokens=12).tokens == long[0, read.shape[1] :].tolist()


def test_what_is_imported_opens_in_transformers(tmp_path: Path) -> None:
    theirs = saved("qwen2", tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, theirs(tokens).logits, atol=1e-4)
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (
        spoken.eos_token == "<|endoftext|>" and spoken(TEXTS[0])["input_ids"] == Tokenizer.load(tmp_path / "ours").encode(TEXTS[0]).tolist()
    )


FORMS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0")


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_gguf_is_read_as_its_own_library_reads_it(form: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: there is nothing to compare with")
    from zhixing.data.gguf import unpack

    numbers = np.random.default_rng(0).normal(0, 1, (6, 96)).astype(np.float32)
    raw = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[form])
    wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[form])
    assert np.array_equal(unpack(form, np.ascontiguousarray(raw).view(np.uint8).reshape(-1)).reshape(6, 96), wanted.reshape(6, 96))


@pytest.mark.parametrize("form", [gguf_maker.F32, gguf_maker.F16, gguf_maker.Q8_0])
def test_a_gguf_file_is_read_as_transformers_reads_it(form: int, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed: transformers reads no such file without it")
    gguf_file = gguf_maker.write(tmp_path / "model.gguf", *gguf_maker.llama(), form=form)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32).eval()
    from zhixing.models import catalog

    found = open_source(gguf_file)
    same(catalog.restore(found.config, found.tensors), theirs, 24)
