"""log p of every token: each counted once, with the context that was promised, and equal to reading the text token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zhixing.core.errors import UsageError
from zhixing.layers import scoring
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.layers.scoring import place, score
from zhixing.models import catalog

V = 19


def make(kind: str):
    """Make a small model of a trained family without zeros in its weights."""
    torch.manual_seed(5)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    configs = {
        "qwen3": {"model_type": "qwen3", "vocab_size": V, **shape, "max_position_embeddings": 8, "dropout": 0.2},
        "lstm": {"model_type": "lstm", "vocab_size": V, "embedding_dim": 12, "hidden_dim": 14},
    }
    model = catalog.build(configs[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def text(length: int) -> np.ndarray:
    """Make the end token and then random tokens."""
    body = np.random.default_rng(length).integers(2, V, length - 1)
    return np.concatenate([[1], body]).astype(np.uint16)


def slowly(model, tokens: np.ndarray, contexts: list[int]) -> np.ndarray:
    """Score token i by asking for the distribution after exactly contexts[i] tokens."""
    found = []
    for place_, context in zip(range(1, len(tokens)), contexts, strict=True):
        seen = torch.from_numpy(tokens[place_ - context : place_].astype(np.int64)).unsqueeze(0)
        found.append(float(next_log_probabilities(model, Inputs(seen))[0, int(tokens[place_])]))
    return np.array(found)


@pytest.mark.parametrize("window", [2, 3, 7, 8])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 12, 13, 40])
def test_windows_count_every_token_once_and_with_its_context(count, window) -> None:
    placed = place(count, window)
    counted = np.zeros(count, int)
    for start, first, end in placed:
        assert 0 <= start <= first < end <= count
        counted[first:end] += 1
        assert end - start == min(window, count)
        if start > 0:
            assert first - start + 1 > window / 2, "a counted token sees more than half a window before it"
    assert (counted == 1).all()


@pytest.mark.parametrize("length", [2, 3, 8, 9, 10, 13, 14, 33])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_window_slides_as_token_by_token_reading_does(length, batch) -> None:
    model, tokens = make("qwen3"), text(length)
    contexts = [i - start + 1 for start, first, end in place(length - 1, 8) for i in range(first, end)]
    assert max(contexts) <= 8
    assert np.allclose(score(model, tokens, batch=batch), slowly(model, tokens, contexts), atol=1e-5)


def test_a_shorter_window_is_obeyed_and_changes_the_answer() -> None:
    model, tokens = make("qwen3"), text(30)
    contexts = [i - start + 1 for start, first, end in place(29, 4) for i in range(first, end)]
    short = score(model, tokens, window=4)
    assert np.allclose(short, slowly(model, tokens, contexts), atol=1e-5)
    assert not np.allclose(short, score(model, tokens), atol=1e-3)


def test_a_recurrent_model_carries_the_whole_text(monkeypatch) -> None:
    model, tokens = make("lstm"), text(60)
    monkeypatch.setattr(scoring, "CHUNK", 7)
    whole = score(model, tokens)
    assert whole.dtype == np.float64
    assert np.allclose(whole, slowly(model, tokens, list(range(1, 60))), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_lanes_count_every_token_once_after_their_run_up(monkeypatch, batch) -> None:
    """With a run-up, lanes differ from one long reading by no more than what the state forgets; here it reaches the start."""
    model, tokens = make("lstm"), text(61)
    whole = score(model, tokens)
    monkeypatch.setattr(scoring, "LANE", 9)
    monkeypatch.setattr(scoring, "CHUNK", 5)
    monkeypatch.setattr(scoring, "RUN_UP", 60)
    assert np.allclose(score(model, tokens, batch=batch), whole, atol=1e-5)
    monkeypatch.setattr(scoring, "RUN_UP", 0)
    bounds = np.linspace(0, 60, batch + 1).astype(int)
    contexts = [i - low + 1 for low, high in zip(bounds[:-1], bounds[1:], strict=True) for i in range(low, high)]
    assert np.allclose(score(model, tokens, batch=batch), slowly(model, tokens, contexts), atol=1e-5)


def test_logits_in_pieces_change_nothing(monkeypatch) -> None:
    model, tokens = make("qwen3"), text(40)
    whole = score(model, tokens)
    monkeypatch.setattr(scoring, "LOGITS_NUMBERS", 3 * V)
    assert np.allclose(score(model, tokens), whole, atol=1e-6)


def test_scoring_reads_without_dropout_and_leaves_training_as_it_was() -> None:
    model, tokens = make("qwen3"), text(20)
    quiet = score(model, tokens)
    model.train()
    assert np.array_equal(score(model, tokens), quiet)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_text_of_the_end_token_alone_has_no_scores() -> None:
    assert score(make("qwen3"), text(1)).shape == (0,)


@pytest.mark.parametrize("window", [0, 1, 9])
def test_an_impossible_window_is_refused(window) -> None:
    with pytest.raises(UsageError) as caught:
        score(make("qwen3"), text(20), window=window)
    assert caught.value.code == "score.window"
    assert str(window) in caught.value.text()
