"""Folders for transformers: it opens them with nothing of ours, and its own classes and pipelines say what the model does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
import torch
from forms_maker import made
from safetensors.numpy import load_file, save_file

from zhixing import evaluate, export_model, import_model, load
from zhixing.core.errors import DataError, UsageError
from zhixing.decoding.search import Beam
from zhixing.exporting import huggingface
from zhixing.models.chain import follow

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing can be opened in it")
pytestmark = pytest.mark.interop

TEXTS = ["Ada says 3: fine", "大江东去", "fine 好 " * 30]


def out(where: Path, task: str, family: str, **config: Any) -> tuple[Any, Path]:
    folder = export_model(made(where / "model", task, family, **config), where / "out", form="huggingface")
    card = json.loads((folder / "card.json").read_text())
    assert card["kind"] == "huggingface" and card["versions"]["transformers"] == transformers.__version__
    return load(where / "model"), folder


def test_what_writes_goes_on_as_here(tmp_path: Path) -> None:
    model, folder = out(tmp_path, "language", "qwen3")
    write = transformers.pipeline("text-generation", model=str(folder))
    said = write("the old", max_new_tokens=8, do_sample=False, return_full_text=False)[0]["generated_text"]
    assert said == model.generate("the old", temperature=0.0, max_tokens=8).text


@pytest.mark.parametrize("opens", [True, False])
def test_what_opens_a_text_and_what_is_never_written_leave_with_an_imported_model(opens: bool, tmp_path: Path) -> None:
    settings, tensors = gguf_maker.llama()
    gguf_maker.write(tmp_path / "model.gguf", {**settings, "tokenizer.ggml.add_bos_token": opens}, tensors)
    model = load(import_model(tmp_path / "model.gguf", tmp_path / "model").path)
    folder = export_model(tmp_path / "model", tmp_path / "out", form="huggingface")
    cut, theirs = (getattr(transformers, name).from_pretrained(folder) for name in ("AutoTokenizer", "AutoModelForCausalLM"))
    assert model.tokenizer.opening == (1,) * opens and model.tokenizer.barred == (1,)
    assert cut("the old")["input_ids"] == [*model.tokenizer.opening, *model.tokenizer.encode("the old").tolist()]
    assert theirs.generation_config.suppress_tokens == [1]
    read = cut("the old", return_tensors="pt")
    said = theirs.generate(**read, max_new_tokens=8, do_sample=False)[0, read["input_ids"].shape[1] :].tolist()
    assert said == model.generate("the old", temperature=0.0, max_tokens=8).tokens
    assert load(import_model(folder, tmp_path / "again").path).tokenizer.opening == model.tokenizer.opening, "and it comes back"


def test_gaps_are_filled_as_here(tmp_path: Path) -> None:
    model, folder = out(tmp_path, "masked", "bert")
    fill = transformers.pipeline("fill-mask", model=str(folder))
    scores = model.predict(["the old [mask] drifts along"])[0].scores
    theirs = {each["token_str"]: each["score"] for each in fill(f"the old {fill.tokenizer.mask_token} drifts along", top_k=9)}
    assert {name: value for name, value in scores.items() if name in theirs} == pytest.approx(
        {name: value for name, value in theirs.items() if name in scores}, abs=2e-3
    )
    assert len(set(theirs) & set(scores)) >= 3


def test_a_text_is_translated_as_here(tmp_path: Path) -> None:
    """As far as by one beam: nothing is told but the text, of which no more is read than here."""
    model, folder = out(tmp_path, "translate", "mbart")
    cut, theirs = (getattr(transformers, name).from_pretrained(folder) for name in ("AutoTokenizer", "AutoModelForSeq2SeqLM"))
    about, barred = theirs.generation_config, model.tokenizer.barred
    assert about.max_new_tokens == min(int(1.5 * model.task.longest) + 10, model.model.window) and about.length_penalty == model.task.alpha
    assert about.suppress_tokens == list(barred)
    texts = [*TEXTS[:2], "awful 差 Bo " * 60]
    items = [model.task.encode({"source": each}, model.tokenizer) for each in texts]
    most = Beam(1, 0.0, 0.0, about.max_new_tokens, barred=barred)
    wanted = [each.value for each in model.task.answers(model.model, items, model.tokenizer, most)]
    read = cut(texts, return_tensors="pt", padding=True, truncation=True)
    assert read["attention_mask"].sum(1).tolist() == [len(each["source"]) for each in items]
    assert cut.batch_decode(theirs.generate(**read, num_beams=1), skip_special_tokens=True) == wanted


@pytest.mark.parametrize("task", ["classify", "multilabel"])
def test_labels_of_the_first_state_are_a_pipeline(task: str, tmp_path: Path) -> None:
    model, folder = out(tmp_path, task, "bert", pooling="first")
    answer = transformers.pipeline("text-classification", model=str(folder), top_k=None, truncation=True)
    texts = [*TEXTS, "awful 差 Bo " * 60]
    assert len(model.tokenizer.encode(texts[-1])) > model.model.body.window > model.task.longest
    theirs = [{each["label"]: each["score"] for each in found} for found in answer(texts, batch_size=3)]
    for first, second in zip(model.predict(texts), theirs, strict=True):
        assert first.scores == pytest.approx(second, abs=1e-4), "the temperature is in the weights, and padding changes nothing"
    assert json.loads((folder / "task.json").read_text()).get("cuts", [0.4, 0.6]) == [0.4, 0.6]


@pytest.mark.parametrize(("task", "family"), [("classify", "qwen3"), ("similar", "bert"), ("similar", "gpt2")])
def test_means_of_states_are_a_body_and_what_is_beside_it(task: str, family: str, tmp_path: Path) -> None:
    """By the files alone, as sentence-transformers reads them."""
    model, folder = out(tmp_path, task, family)
    cut, body = (getattr(transformers, name).from_pretrained(folder) for name in ("AutoTokenizer", "AutoModel"))
    steps = [each["type"].rsplit(".", 1)[1] for each in json.loads((folder / "modules.json").read_text())]
    longest = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    read = cut(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=longest)
    with torch.no_grad():
        states, real = body(**read).last_hidden_state, read["attention_mask"][..., None]
    found = ((states * real).sum(1) / real.sum(1)).numpy()
    if task == "similar":
        assert steps == ["Transformer", "Pooling", "Normalize"]
        assert np.allclose(found / np.linalg.norm(found, axis=1, keepdims=True), model.embed(TEXTS), atol=1e-5)
        if family == "bert":
            again = import_model(folder, tmp_path / "again").path
            assert np.allclose(load(again).embed(TEXTS), model.embed(TEXTS), atol=1e-5), "and it comes back"
        return
    held = load_file(folder / "2_Dense" / "model.safetensors")
    logits = found @ held["linear.weight"].T + held["linear.bias"]
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert steps == ["Transformer", "Pooling", "Dense"]
    assert np.allclose(p, [list(each.scores.values()) for each in model.predict(TEXTS)], atol=1e-4)


def test_tags_are_scores_and_a_chain(tmp_path: Path) -> None:
    model, folder = out(tmp_path, "tag", "bert")
    cut, theirs = (getattr(transformers, name).from_pretrained(folder) for name in ("AutoTokenizer", "AutoModelForTokenClassification"))
    words = ["Ada", "in", "Chen", "王芳", "."]
    read = cut(words, is_split_into_words=True, return_tensors="pt")
    places = read.word_ids()
    with torch.no_grad():
        scores = theirs(**read).logits[0].numpy()
    firsts = [places.index(number) for number in range(len(words))]
    chain = [np.array(getattr(theirs.config, name)) for name in ("transitions", "start")]
    best, p = follow(scores[firsts], *chain, np.array([len(words)]))
    said = model.predict([{"tokens": words}])[0]
    assert [theirs.config.id2label[each] for each in best] == said.value
    assert math.isclose(p[np.arange(len(words)), best].min(), said.confidence, abs_tol=1e-4)


def test_what_transformers_answers_otherwise_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(tmp_path / "model", "classify", "bert", pooling="first")
    monkeypatch.setattr(huggingface, "SMALL", 1.0)  # then the tanh is one
    with pytest.raises(DataError):
        export_model(model, tmp_path / "out", form="huggingface")
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    with pytest.raises(UsageError, match="numpy, onnx"):
        export_model(made(tmp_path / "grade", "grade", "bert"), tmp_path / "out", form="huggingface")
    folder = export_model(model, tmp_path / "out", form="huggingface")
    with pytest.raises(UsageError, match="huggingface"):
        evaluate(folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "classifier.bias": tensors["classifier.bias"] + 1}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError):
        export_model(model, folder, form="huggingface")
    export_model(model, tmp_path / "out2", form="huggingface")
    assert (tmp_path / "out2" / "manifest.json").exists()
