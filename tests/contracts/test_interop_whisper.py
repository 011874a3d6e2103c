"""Whisper as transformers has it: the same frames, the same logits, the same texts; and what is imported opens there again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper_maker

from zhixing import import_model, load
from zhixing.data import sound
from zhixing.decoding.search import Beam, search
from zhixing.layers.kinds import Inputs

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
