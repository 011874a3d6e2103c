"""Whisper as transformers has it: the same frames, the same logits, the same texts; and what is imported opens there again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper_maker

from zhixing import export_model, import_model, load
from zhixing.core.errors import DataError
from zhixing.core.folder import seal
from zhixing.data import sound
from zhixing.decoding.search import Beam, search
from zhixing.exporting import hearing, huggingface
from zhixing.layers.kinds import Inputs
from zhixing.tasks import artefact
from zhixing.tasks.transcribe import item_of

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of random weights that transformers saved, and where."""
    where = tmp_path_factory.mktemp("theirs")
    shape = {**whisper_maker.SHAPE, "vocab_size": whisper_maker.SIZE, "suppress_tokens": [11], "begin_suppress_tokens": [3]}
    config = transformers.WhisperConfig(**shape, pad_token_id=256, bos_token_id=256, eos_token_id=256, decoder_start_token_id=257)
    torch.manual_seed(5)
    model = transformers.WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(where)
    whisper_maker.tokenizer().save(str(where / "tokenizer.json"))
    return model, where


def same(ours: Any, theirs: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    frames, tokens = torch.randn(2, 100, 16, generator=draw), torch.randint(0, 260, (2, 20), generator=draw)
    with torch.no_grad():
        here = ours.logits(ours.states(Inputs(tokens, source=Inputs(None, frames=frames))))
        there = theirs(input_features=frames.mT, decoder_input_ids=tokens).logits
    assert float((here - there).abs().max() / there.abs().max()) < TOLERANCE


def test_logits_and_greedy_tokens_are_the_same_and_it_opens_there_again(theirs: tuple[Any, Path], tmp_path: Path) -> None:
    model, where = theirs
    import_model(where, tmp_path / "ours")
    opened = load(tmp_path / "ours")
    same(opened.model, model)
    same(opened.model, transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path / "ours").eval())
    frames = torch.randn(1, 100, 16, generator=torch.Generator().manual_seed(1))
    cache = opened.model.open(Inputs(None, frames=frames))
    (found,) = search(opened.model, [[257, 258]], 256, Beam(1, ratio=0.0, extra=16), opened=cache)
    tokens = [257, 258]
    with torch.no_grad():
        while len(tokens) < 18 and tokens[-1] != 256:
            tokens.append(int(model(input_features=frames.mT, decoder_input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    assert found.tokens == tokens[2:]


def test_frames_are_the_same() -> None:
    theirs = transformers.WhisperFeatureExtractor()
    for seconds in (0.4, 29.99, 31.0):
        samples = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16000)).astype(np.float32)
        there = theirs(samples, sampling_rate=16000, return_tensors="np")["input_features"][0].T
        assert np.abs(sound.whisper_frames(samples, 16000, 80, 30.0) - there).max() < 1e-5


@pytest.mark.parametrize("trained_on", [False, True])
def test_what_leaves_writes_in_transformers_what_it_writes_here(theirs: tuple[Any, Path], tmp_path: Path, trained_on: bool) -> None:
    import_model(theirs[1], tmp_path / "ours")
    opened = load(tmp_path / "ours")
    task = replace(opened.task, beam=1)
    if trained_on:
        task = replace(task, filled=0.5, barred=(262,), unopened=(), languages=("zh",))
    with torch.no_grad():  # so that what is written depends on the sound and on the language
        for name, parameter in opened.model.named_parameters():
            parameter.mul_(3.0 if "embed" in name or "attn" in name else 1.0)
    (tmp_path / "wilder").mkdir()
    artefact.write(tmp_path / "wilder", task, opened.model, opened.tokenizer)
    seal(tmp_path / "wilder", "model", {"task": "transcribe", "model": "whisper"})
    told: list[str] = []
    export_model(tmp_path / "wilder", tmp_path / "left", "huggingface", lambda code, **values: told.append(code))
    assert ("export.filled" in told) == trained_on
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "left")
    model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path / "left").eval()
    ids = {name: place for place, name in opened.tokenizer.controls.items()}
    written = set()
    for seed, language in ((0, "zh"), (1, "zh"), *(() if trained_on else ((0, "en"), (1, "en")))):
        samples = np.random.default_rng(seed).normal(0, 10.0 ** (-1 - seed), 12_000).astype(np.float32)
        read = processor(samples, sampling_rate=16000, return_tensors="pt")["input_features"]
        item = item_of(replace(task, filled=0.0), samples, 16000)
        assert np.abs(read[0].T.numpy() - item["frames"]).max() < TOLERANCE
        made = model.generate(read, language=language, task="transcribe", max_new_tokens=12)[0].tolist()
        opening = [ids["<|startoftranscript|>"], ids[f"<|{language}|>"], ids["<|transcribe|>"], ids["<|notimestamps|>"]]
        cache = opened.model.open(Inputs(None, frames=torch.from_numpy(item["frames"])[None]))
        barred = [each for each in task.barred if each <= opening[-1]]
        beam = Beam(1, ratio=0.0, extra=12, barred=tuple(barred), unopened=task.unopened)
        (found,) = search(opened.model, [opening], 256, beam, opened=cache)
        assert [each for each in made if each not in (*opening, 256)] == [each for each in found.tokens if each != 256]
        written.add(tuple(found.tokens))
    assert len(written) == (2 if trained_on else 4)


def test_a_whisper_that_answers_otherwise_in_transformers_is_not_written(
    theirs: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_model(theirs[1], tmp_path / "ours")
    right, name = huggingface.catalog.tensors, "model.decoder.layer_norm.weight"
    with monkeypatch.context() as there:
        there.setattr(huggingface.catalog, "tensors", lambda body: {**right(body), name: right(body)[name] * 1.5})
        with pytest.raises(DataError, match="answers differently"):
            export_model(tmp_path / "ours", tmp_path / "wrong", "huggingface")
    monkeypatch.setattr(hearing, "item_of", lambda *given: {"frames": item_of(*given)["frames"] + 0.01})
    with pytest.raises(DataError, match="frames: 0.01"):
        export_model(tmp_path / "ours", tmp_path / "wrong", "huggingface")
    assert not (tmp_path / "wrong").exists()
