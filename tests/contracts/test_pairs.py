"""What every encoder-decoder model must hold, whatever its family; each harness is shown to go red on a model that breaks it."""

from __future__ import annotations

import inspect
import json

import pytest
import torch

from zhixing.core.errors import DataError, RunError, ShapeError
from zhixing.layers.kinds import EncoderDecoder, Inputs, next_log_probabilities
from zhixing.models import attentive, catalog, seq2seq
from zhixing.objectives.tokens import NextToken

V, S, T, TOLERANCE = 37, 9, 7, 1e-5
TRANSFORMER = {
    "model_type": "mbart",
    "vocab_size": V,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 32,
    "dropout": 0.1,
}
RECURRENT = {"model_type": "lstm_attention", "vocab_size": V, "embedding_dim": 20, "hidden_dim": 28, "num_layers": 2, "dropout": 0.1}
PAIRED = {
    "mbart": TRANSFORMER,
    "mbart-unscaled": {**TRANSFORMER, "scale_embedding": False, "encoder_layers": 1},
    "lstm_attention": RECURRENT,
    "lstm_attention-one": {**RECURRENT, "num_layers": 1, "hidden_dim": 20},
}


def make(name: str):
    """Make a family's model with no zero left from its initialisation, so that nothing is hidden by it."""
    torch.manual_seed(7)
    model = catalog.build(PAIRED[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def tokens(rows: int = 3, length: int = T, seed: int = 0) -> torch.Tensor:
    """Make rows of token ids."""
    return torch.randint(5, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def sources(lengths: tuple[int, ...] = (9, 4, 7), seed: int = 5, filler: int = 0) -> Inputs:
    """Make sources of several lengths."""
    read = tokens(len(lengths), max(lengths), seed)
    for row, length in enumerate(lengths):
        read[row, length:] = filler
    return Inputs(read, torch.tensor(lengths))


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Give the largest difference, relative to the largest number."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))


@pytest.fixture(params=sorted(PAIRED))
def model(request):
    return make(request.param)


def test_it_is_of_the_kind(model) -> None:
    assert isinstance(model, EncoderDecoder)
    assert model.logits(model.states(Inputs(tokens(), source=sources()))).shape == (3, T, V)
    assert model.states(Inputs(tokens(), source=sources())).shape == (3, T, model.width)


@torch.no_grad()
def check_order(model) -> None:
    """Assert that token t changes the state at t and none before it, and that every real token of the source changes every state."""
    source, before = sources((S,)), tokens(1)
    read = model.states(Inputs(before, source=source))
    for place in range(T):
        after = before.clone()
        after[0, place] = 5 + (after[0, place] - 4) % (V - 5)
        change = (model.states(Inputs(after, source=source)) - read).abs().amax(-1)[0]
        assert float(change[:place].sum()) == 0, f"token {place} changes a state before it"
        assert float(change[place]) > 0, f"token {place} does not change its own state"
    for place in range(S):
        other = source.tokens.clone()
        other[0, place] = 5 + (other[0, place] - 4) % (V - 5)
        change = (model.states(Inputs(before, source=Inputs(other, source.lengths))) - read).abs().amax(-1)[0]
        assert float(change.min()) > 0, f"token {place} of the source changes not every state"


def test_the_past_and_the_whole_source_are_seen_and_no_more(model) -> None:
    check_order(model)


def test_the_order_check_goes_red(monkeypatch) -> None:
    made = make("mbart")
    monkeypatch.setattr(seq2seq, "attend", lambda queries, keys, values, mask: seq2seq.look(queries, keys, values, None))
    with pytest.raises(AssertionError, match="changes a state before it"):
        check_order(made)
    monkeypatch.undo()
    whole = seq2seq.look
    monkeypatch.setattr(seq2seq, "look", lambda queries, keys, values, mask: whole(queries, keys[:, :, :1], values[:, :, :1], None))
    with pytest.raises(AssertionError, match="of the source changes not every state"):
        check_order(made)


@torch.no_grad()
def check_padding(model) -> None:
    """Assert that what fills a source up changes nothing, and that a row among others is what it is alone."""
    read = tokens()
    states = [model.states(Inputs(read, source=sources(filler=filler))) for filler in (0, 11)]
    assert torch.equal(*states), "what fills a source up is read"
    source = sources()
    for row, length in enumerate(source.lengths.tolist()):
        alone = model.states(Inputs(read[row : row + 1], source=Inputs(source.tokens[row : row + 1, :length])))
        assert gap(alone[0], states[0][row]) < TOLERANCE
    padded = read.clone()
    padded[:, 5:] = 0
    assert gap(model.states(Inputs(padded, source=source))[:, :5], states[0][:, :5]) < TOLERANCE


def test_padding_changes_nothing(model) -> None:
    check_padding(model)


def test_the_padding_check_goes_red(monkeypatch) -> None:
    monkeypatch.setattr(seq2seq, "real_places", lambda lengths, longest: None)
    with pytest.raises(AssertionError, match="is read"):
        check_padding(make("mbart"))


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * T, [3, 1, 3], [T]])
def test_cached_equals_uncached(model, sizes) -> None:
    read, source = tokens(), sources()
    cache = model.open(source)
    pieces = [model.states(Inputs(piece), cache) for piece in read.split(sizes, 1)]
    assert gap(model.states(Inputs(read, source=source)), torch.cat(pieces, 1)) < TOLERANCE


def test_a_source_is_read_once(model, monkeypatch) -> None:
    cache = model.open(sources())
    monkeypatch.setattr(type(model), "encode", None)
    next_log_probabilities(model, Inputs(tokens()), cache)


def test_batched_equals_alone_through_every_change_of_rows(model) -> None:
    """Rows of unequal sources and lengths, joined, chosen and reordered, then read on: each is what it would be alone."""
    texts = [tokens(1, length, seed=length) for length in (3, 7, 5)]
    read = [tokens(1, length, seed=length) for length in (4, 9, 6)]
    cache = model.open(Inputs(read[0]))
    next_log_probabilities(model, Inputs(texts[0]), cache)
    both = torch.zeros(2, 9, dtype=torch.long)
    both[0], both[1, :6] = read[1], read[2]
    other = model.open(Inputs(both, torch.tensor([9, 6])))
    padded = torch.zeros(2, 7, dtype=torch.long)
    padded[0], padded[1, :5] = texts[1], texts[2]
    next_log_probabilities(model, Inputs(padded, torch.tensor([7, 5])), other)
    cache = cache.join(other)
    more = tokens(3, 2, seed=9)
    for step in range(2):
        together = next_log_probabilities(model, Inputs(more[:, step : step + 1]), cache)
    for row in range(3):
        whole = torch.cat([texts[row], more[row : row + 1]], 1)
        assert gap(next_log_probabilities(model, Inputs(whole, source=Inputs(read[row])))[0], together[row]) < TOLERANCE
    cache = cache.rows(torch.tensor([2, 0, 2]))
    last = torch.tensor([[8], [6], [5]])
    together = next_log_probabilities(model, Inputs(last), cache)
    for place, row in enumerate((2, 0, 2)):
        whole = torch.cat([texts[row], more[row : row + 1], last[place : place + 1]], 1)
        assert gap(next_log_probabilities(model, Inputs(whole, source=Inputs(read[row])))[0], together[place]) < TOLERANCE


def test_a_cropped_cache_keeps_its_source() -> None:
    model, read, source = make("mbart"), tokens(), sources()
    cache = model.open(source)
    next_log_probabilities(model, Inputs(read), cache)
    cache.crop(3)
    again = next_log_probabilities(model, Inputs(read[:, 5:6]), cache)
    whole = Inputs(torch.cat([read[:, :3], read[:, 5:6]], 1), source=source)
    assert gap(next_log_probabilities(model, whole), again) < TOLERANCE
    model = make("lstm_attention")
    cache = model.open(source)
    next_log_probabilities(model, Inputs(read), cache)
    cache.crop(T)
    with pytest.raises(RunError):
        cache.crop(3)


def batch(smallest: int = 2) -> dict[str, torch.Tensor]:
    """Make a batch as a task makes it."""
    source, read = sources(), tokens()
    targets = tokens(seed=2)
    targets[1, smallest:] = -100
    return {"source": source.tokens, "source_lengths": source.lengths, "tokens": read, "targets": targets}


def test_every_parameter_gets_a_gradient(model) -> None:
    (term,) = NextToken()(model, batch())
    term.total.backward()
    # Of the table of positions, those in use; of keys, the bias has no effect: it moves all scores of a query alike.
    dead = [name for name, each in model.named_parameters() if each.grad is None or float(each.grad.abs().max()) == 0]
    assert [name for name in dead if not name.endswith("k_proj.bias")] == []


def test_losses_add_up(model) -> None:
    whole, objective = batch(), NextToken()
    with torch.no_grad():
        (term,) = objective(model, whole)
        parts = [objective(model, {name: each[row : row + 1] for name, each in whole.items()})[0].total for row in range(3)]
    assert float(sum(parts)) == pytest.approx(float(term.total), rel=1e-5)
    assert objective.weights(whole) == {"nats": 16.0}
    again = {**whole, "tokens": whole["tokens"].clone()}
    again["tokens"][1, 3:] = 0
    assert float(objective(model, again)[0].total.detach()) == pytest.approx(float(term.total), rel=1e-6), "what is not counted has no say"


def test_smoothing_is_for_training_only() -> None:
    model = make("lstm_attention-one")
    model.dropout.p = 0.0
    plain, smoothed, data = NextToken(), NextToken(smoothing=0.1), batch()
    assert torch.equal(smoothed(model, data)[0].total, plain(model, data)[0].total)
    nats = float(plain(model.train(), data)[0].total.detach())
    counted = data["targets"] != -100
    states = model.states(Inputs(data["tokens"], source=Inputs(data["source"], data["source_lengths"])))[counted]
    even = -float(model.logits(states).log_softmax(-1).mean(-1).sum().detach())
    assert float(smoothed(model, data)[0].total.detach()) == pytest.approx(0.9 * nats + 0.1 * even, rel=1e-5)


def test_a_restored_model_gives_the_same_bits(model) -> None:
    config = json.loads(json.dumps(catalog.config(model)))
    restored = catalog.restore(config, {name: torch.as_tensor(value).clone() for name, value in catalog.tensors(model).items()})
    assert catalog.config(restored) == catalog.config(model)
    inputs = Inputs(tokens(), source=sources())
    assert torch.equal(model.states(inputs), restored.states(inputs))


def test_a_build_depends_on_the_generator_only(model) -> None:
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(catalog.tensors(catalog.build(catalog.config(model))))
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert any(not torch.equal(built[0][name], built[2][name]) for name in built[0])


def test_dropout_acts_in_training_only(model) -> None:
    inputs = Inputs(tokens(), source=sources())
    assert torch.equal(model.states(inputs), model.states(inputs))
    model.train()
    assert not torch.equal(model.states(inputs), model.states(inputs))
    first, second = (next_log_probabilities(model, Inputs(tokens()), model.open(sources())) for _ in range(2))
    assert torch.equal(first, second) and model.training


@pytest.mark.parametrize("name", ["mbart", "lstm_attention"])
def test_reversing_is_learnt(name) -> None:
    """In a few hundred steps, from fresh strings each step, and tried on strings that were not seen."""
    torch.manual_seed(0)
    form = {"dropout": 0.0, "vocab_size": 12}
    if name == "mbart":
        form |= {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    model = catalog.build({**PAIRED[name], "num_layers": 1, **form} if name != "mbart" else {**PAIRED[name], **form})
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    draw = torch.Generator().manual_seed(1)

    def made(rows: int) -> dict[str, torch.Tensor]:
        read = torch.randint(2, 12, (rows, 4), generator=draw)
        end = torch.ones(rows, 1, dtype=torch.long)
        return {"source": read, "tokens": torch.cat([end, read.flip(1)], 1), "targets": torch.cat([read.flip(1), end], 1)}

    for _ in range(180):
        optimizer.zero_grad()
        data = made(32)
        (NextToken()(model, data)[0].total / 160).backward()
        optimizer.step()
    held = made(100)
    with torch.no_grad():
        said = model.eval().logits(model.states(Inputs(held["tokens"], source=Inputs(held["source"])))).argmax(-1)
    assert float((said == held["targets"]).all(1).float().mean()) > 0.9


@pytest.mark.parametrize(
    ("config", "code", "word"),
    [
        ({**TRANSFORMER, "d_modle": 3}, "model.config_unknown", "d_model"),
        ({**TRANSFORMER, "decoder_attention_heads": 5}, "model.config_value", "d_model"),
        ({**TRANSFORMER, "activation_function": "relu"}, "model.config_value", "gelu"),
        ({"model_type": "mbart", "vocab_size": 9}, "model.config_missing", "d_model"),
        ({**RECURRENT, "hidden_dim": 27}, "model.config_value", "even"),
        ({**RECURRENT, "hidden": 2}, "model.config_unknown", "hidden_dim"),
        ({"model_type": "lstm_attention", "vocab_size": 9}, "model.config_missing", "embedding_dim"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_by_name(config, code, word) -> None:
    with pytest.raises(DataError) as caught:
        catalog.build(config)
    assert caught.value.code == code
    assert word in caught.value.text()


def test_what_cannot_be_read_is_refused(model) -> None:
    for inputs, code in (
        (Inputs(tokens()), "model.source_missing"),
        (Inputs(tokens(), source=sources(), segments=torch.zeros(3, T, dtype=torch.long)), "model.source_segments"),
    ):
        with pytest.raises(RunError) as caught:
            model.states(inputs)
        assert caught.value.code == code
    with torch.no_grad(), pytest.raises(RunError) as caught:
        model.states(Inputs(tokens(2)), model.open(sources()))
    assert caught.value.code == "model.cache_rows"


def test_a_text_longer_than_the_window_is_refused_with_both_numbers() -> None:
    model = make("mbart")
    for inputs in (Inputs(tokens(1, 33), source=sources((4,))), Inputs(tokens(1, 3), source=sources((33,)))):
        with pytest.raises(ShapeError, match="33"):
            model.states(inputs)
    cache = model.open(sources((4,)))
    next_log_probabilities(model, Inputs(tokens(1, 32)), cache)
    with pytest.raises(ShapeError):
        next_log_probabilities(model, Inputs(tokens(1, 1)), cache)


def test_plans_make_models() -> None:
    from types import SimpleNamespace

    for family in (seq2seq.Seq2Seq, attentive.Attentive):
        assert inspect.ismethod(family.configure)
        for name, plans in family.PLANS.items():
            assert list(plans) == ["tiny", "small", "medium", "large"]
            config = catalog.configure(SimpleNamespace(**{"model": name, "dropout": 0.1, **plans["tiny"]}), V, 16)
            assert catalog.build(config).vocabulary == V
