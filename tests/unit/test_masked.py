"""Masks are a pure function of seed, step and row; the loss is paid at masked places only and adds up; pseudo-scores mask each place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from zhixing.core.errors import UsageError
from zhixing.data.stream import IGNORED, Masked, Rows, Windows
from zhixing.layers.kinds import Inputs
from zhixing.layers.pseudo import pseudo_log_probabilities, pseudo_perplexity
from zhixing.models import catalog
from zhixing.objectives import tokens as objective_tokens
from zhixing.objectives.loss import Batch
from zhixing.objectives.masked import MaskedToken

V, MASK, WINDOW = 40, 39, 20
FORM = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": WINDOW}
BERT = {"model_type": "bert", "vocab_size": V, "mask_token_id": MASK, **FORM}


def make(**form) -> nn.Module:
    """Make a small model without zeros in its weights."""
    torch.manual_seed(3)
    model = catalog.build({**BERT, **form})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def windows(batch: int = 6, seed: int = 0) -> Masked:
    """Make masked windows of a random text."""
    text = np.random.default_rng(1).integers(5, MASK, 4000)
    return Masked(Windows(text, batch, WINDOW, seed), MASK, MASK, seed)


def rows(batch: int = 6) -> Masked:
    """Make masked rows of unequal lengths, an empty one and one of one token among them."""
    source = np.random.default_rng(2)
    items = [{"tokens": source.integers(5, MASK, length), "label": length % 2} for length in [0, 1, *range(2, 18)]]
    return Masked(Rows(items, batch, 0, pad_id=0), MASK, MASK, 0)


def tensors(batch: dict[str, np.ndarray]) -> Batch:
    return {name: torch.from_numpy(value) for name, value in batch.items()}


@pytest.mark.parametrize("make_stream", [windows, rows])
def test_targets_are_what_stood_there_and_nothing_else_changed(make_stream) -> None:
    stream = make_stream()
    for step in range(8):
        whole, seen = stream.stream.batch(step), stream.batch(step)
        hidden = seen["targets"] != IGNORED
        assert (seen["targets"][hidden] == whole["tokens"][hidden]).all()
        assert (seen["tokens"][~hidden] == whole["tokens"][~hidden]).all()
        assert set(seen) == set(whole) | {"targets"} and seen["targets"].dtype == np.int64
        lengths = whole.get("lengths", np.full(len(hidden), WINDOW))
        assert hidden.sum(1).tolist() == [min(n, max(1, round(0.15 * n))) for n in lengths.tolist()]
        assert not (hidden & (np.arange(hidden.shape[1]) >= lengths[:, None])).any(), "padding is no target"


def test_shares_of_what_hides_a_token() -> None:
    stream, found = windows(batch=100), np.zeros(3)
    for step in range(30):
        whole, seen = stream.stream.batch(step)["tokens"], stream.batch(step)
        hidden = seen["targets"] != IGNORED
        before, after = whole[hidden], seen["tokens"][hidden]
        found += [(after == MASK).sum(), ((after != MASK) & (after != before)).sum(), (after == before).sum()]
    count = found.sum()
    assert count == 30 * 100 * 3
    # A random token is the true one in 1 of 39 draws; four standard deviations of 9,000 draws.
    for share, wanted in zip(found / count, (0.8, 0.1 * 38 / 39, 0.1 + 0.1 / 39), strict=True):
        assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / count) ** 0.5


@pytest.mark.parametrize("micros", [2, 3, 6])
@pytest.mark.parametrize("make_stream", [windows, rows])
def test_masks_do_not_depend_on_micro_batches(make_stream, micros: int) -> None:
    stream = make_stream()
    for step in (0, 1, 7):
        whole = stream.batch(step)
        row = 0
        for micro in range(micros):
            part = stream.batch(step, micro, micros)
            for tokens, targets in zip(part["tokens"], part["targets"], strict=True):
                assert (tokens == whole["tokens"][row, : len(tokens)]).all() and (targets == whole["targets"][row, : len(targets)]).all()
                row += 1
        assert row == len(whole["tokens"])


def test_masks_depend_on_seed_and_step_only() -> None:
    one, other = windows(), windows()
    for step in (9, 0, 300):
        assert all((one.batch(step)[name] == other.batch(step)[name]).all() for name in ("tokens", "targets"))
    assert (one.batch(0)["targets"] != windows(seed=1).batch(0)["targets"]).any()
    epoch = one.steps_per_epoch * one.batch_rows
    places = {tuple(np.flatnonzero(row != IGNORED)) for step in range(epoch // 6) for row in one.batch(step)["targets"]}
    assert len(places) > epoch / 2, "rows are masked at places of their own"


@pytest.mark.parametrize("make_stream", [windows, rows])
def test_the_loss_adds_up_and_is_paid_where_something_is_hidden(make_stream) -> None:
    model, stream, objective = make(), make_stream(), MaskedToken()
    whole = tensors(stream.batch(3))
    parts = [tensors(stream.batch(3, micro, 3)) for micro in range(3)]
    assert objective.additive and sum(objective.weights(part)["nats"] for part in parts) == objective.weights(whole)["nats"]
    gradients = []
    for batches in ([whole], parts):
        model.zero_grad()
        total = sum(objective(model, batch)[0].total for batch in batches)
        total.backward()
        gradients.append((float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    assert float((gradients[0][1] - gradients[1][1]).abs().max()) < 1e-5 * float(gradients[0][1].abs().max())
    with torch.no_grad():
        logs = model.logits(model.states(Inputs(whole["tokens"], whole.get("lengths")))).log_softmax(-1)  # (B, T, V)
    hidden = whole["targets"] != IGNORED
    assert gradients[0][0] == pytest.approx(-float(logs[hidden, whole["targets"][hidden]].sum()), rel=1e-5)


def test_logits_are_made_at_hidden_places_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, made = make(), tensors(windows().batch(0)), []
    plain = model.logits
    monkeypatch.setattr(model, "logits", lambda states: made.append(len(states)) or plain(states))
    wanted = float(MaskedToken()(model, batch)[0].total.detach())
    assert made == [18]
    monkeypatch.setattr(objective_tokens, "CHUNK_LOGITS", 5 * V)
    assert float(MaskedToken()(model, batch)[0].total.detach()) == pytest.approx(wanted, rel=1e-6) and made[1:] == [5, 5, 5, 3]


def test_every_parameter_gets_a_gradient() -> None:
    model = make()
    MaskedToken()(model, tensors(windows().batch(0)))[0].total.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0]
    assert [name for name in dead if not name.endswith("key.bias")] == []


def test_a_batch_without_a_hidden_place_costs_nothing() -> None:
    batch = {"tokens": torch.zeros(2, 3, dtype=torch.long), "targets": torch.full((2, 3), IGNORED)}
    (term,) = MaskedToken()(make(), batch)
    assert float(term.total.detach()) == 0 and MaskedToken().weights(batch) == {"nats": 0.0}


def test_what_the_rest_of_a_text_tells_is_learnt() -> None:
    """Where each of 8 tokens stands 50 times in a row, most of what is hidden follows from the rest; by their shares it costs log 8."""
    torch.manual_seed(0)
    text = 5 + np.random.default_rng(0).integers(0, 8, 80).repeat(50)
    stream = Masked(Windows(text, 32, WINDOW, 0), MASK, MASK, 0)
    model = catalog.build(BERT)
    optimizer, objective = torch.optim.AdamW(model.parameters(), lr=0.01), MaskedToken()
    for step in range(60):
        batch = tensors(stream.batch(step))
        optimizer.zero_grad()
        (objective(model, batch)[0].total / objective.weights(batch)["nats"]).backward()
        optimizer.step()
    assert -pseudo_log_probabilities(model, text[200:350]).mean() < 0.5 * np.log(8)


def slowly(model: nn.Module, text: np.ndarray, low: int, place: int) -> float:
    """Score one place by masking it in the window that begins at `low`."""
    read = torch.from_numpy(text[low : low + WINDOW].copy()).unsqueeze(0)
    read[0, place - low] = MASK
    return float(model.logits(model.states(Inputs(read))[0, place - low]).log_softmax(-1)[text[place]].detach())


@pytest.mark.parametrize("count", [1, 7, WINDOW, WINDOW + 1, 55])
def test_pseudo_scores_mask_one_place_at_a_time(count: int) -> None:
    model, text = make(), np.random.default_rng(count).integers(5, MASK, count)
    found = pseudo_log_probabilities(model.train(), text)
    assert model.training and found.shape == (count,) and found.dtype == np.float64 and (found < 0).all()
    model.eval()
    wanted = [slowly(model, text, int(np.clip(i - WINDOW // 2, 0, max(0, count - WINDOW))), i) for i in range(count)]
    assert np.allclose(found, wanted, atol=1e-5)
    assert np.allclose(found, pseudo_log_probabilities(model, text, batch=3), atol=1e-5)
    assert pseudo_perplexity(model, text) == pytest.approx(float(np.exp(-found.mean())))


def test_an_empty_text_has_no_pseudo_scores() -> None:
    assert pseudo_log_probabilities(make(), np.zeros(0, np.int64)).shape == (0,)
    assert np.isnan(pseudo_perplexity(make(), np.zeros(0, np.int64)))


def test_a_model_without_a_mask_is_refused() -> None:
    for model in (make(mask_token_id=None), catalog.build({"model_type": "lstm", "vocab_size": V, "embedding_dim": 8, "hidden_dim": 8})):
        with pytest.raises(UsageError) as caught:
            pseudo_log_probabilities(model, np.arange(5, 9))
        assert caught.value.code == "score.no_mask" and caught.value.text("en") and caught.value.text("zh")
