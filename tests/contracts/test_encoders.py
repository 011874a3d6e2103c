"""What every encoder must hold, whatever its family; each harness is shown to go red on a model that breaks it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from zhixing.core.errors import DataError, ShapeError
from zhixing.layers import attention
from zhixing.layers.kinds import Causal, Encoder, Inputs, Masked
from zhixing.layers.scoring import embed
from zhixing.models import bidirectional, catalog

V, T, TOLERANCE = 37, 12, 1e-5
BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 32}
BERT |= {"vocab_size": V, "mask_token_id": V - 1}
TEXTCNN = {"vocab_size": V, "embedding_dim": 10, "kernel_sizes": [2, 3, 4], "filters": 8}
BIDIRECTIONAL = {"vocab_size": V, "embedding_dim": 10, "hidden_dim": 12}
ENCODERS = {
    "bert": {"model_type": "bert", **BERT, "hidden_dropout_prob": 0.1},
    "textcnn": {"model_type": "textcnn", **TEXTCNN, "dropout": 0.1},
    "textcnn-wide": {"model_type": "textcnn", **TEXTCNN, "kernel_sizes": [1, 20]},
    "bilstm": {"model_type": "bilstm", **BIDIRECTIONAL, "num_layers": 2, "dropout": 0.1},
    "bigru": {"model_type": "bigru", **BIDIRECTIONAL, "num_layers": 2, "dropout": 0.1},
}
REFUSED = [
    ({"model_type": "bert", **BERT, "num_attention_heads": 5}, "model.config_value", "hidden_size"),
    ({"model_type": "bert", **BERT, "hidden_act": "relu"}, "model.config_value", "gelu"),
    ({"model_type": "bert", **BERT, "position_embedding_type": "relative_key"}, "model.config_value", "absolute"),
    ({"model_type": "bert", **BERT, "mask_token_id": V}, "model.config_value", "vocab_size"),
    ({"model_type": "bert", **BERT, "hiden_size": 3}, "model.config_unknown", "hidden_size"),
    ({"model_type": "bert", "vocab_size": 9}, "model.config_missing", "hidden_size"),
    ({"model_type": "textcnn", **TEXTCNN, "kernel_sizes": [0, 3]}, "model.config_value", "at least 1"),
    ({"model_type": "textcnn", **TEXTCNN, "kernel_sizes": []}, "model.config_value", "at least 1"),
    ({"model_type": "textcnn", **TEXTCNN, "fliters": 3}, "model.config_unknown", "filters"),
    ({"model_type": "bilstm", **BIDIRECTIONAL, "num_layers": 0}, "model.config_value", "at least 1"),
    ({"model_type": "bigru", **BIDIRECTIONAL, "hiden_dim": 3}, "model.config_unknown", "hidden_dim"),
]


def make(name: str) -> nn.Module:
    """Make an encoder with no zero left from its initialisation, so that nothing is hidden by it."""
    torch.manual_seed(7)
    model = catalog.build(ENCODERS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def tokens(rows: int = 3, length: int = T, seed: int = 0) -> torch.Tensor:
    """Make rows of token ids."""
    return torch.randint(5, V - 1, (rows, length), generator=torch.Generator().manual_seed(seed))


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Give the largest difference, relative to the largest number."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))


@pytest.fixture(params=sorted(ENCODERS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


@torch.no_grad()
def check_padding(model: nn.Module) -> None:
    """Assert that what lies beyond a row's length, and how much of it, changes no real state, and that no state is no number."""
    read, lengths = tokens(3), torch.tensor([5, T, 1])
    states = []
    for filler in (0, 11):
        padded = read.clone()
        padded[0, 5:], padded[2, 1:] = filler, filler
        states.append(model.states(Inputs(padded, lengths)))
        assert bool(states[-1].isfinite().all())
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(states[0][row, :length], states[1][row, :length]), "padding changes a real state"
        alone = model.states(Inputs(read[row : row + 1, :length]))[0]
        assert gap(alone, states[0][row, :length]) < TOLERANCE, "a padded row is not what it is alone"


def test_padding_changes_no_real_state(model: nn.Module) -> None:
    check_padding(model)


def test_padding_check_goes_red() -> None:
    class Deaf:
        def states(self, inputs: Inputs) -> torch.Tensor:
            return self.inner.states(Inputs(inputs.tokens))

    for name in ENCODERS:
        deaf = Deaf()
        deaf.inner = make(name)
        with pytest.raises(AssertionError, match="padding changes|is not what it is alone"):
            check_padding(deaf)


def test_a_direction_that_starts_in_the_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bidirectional, "turn", lambda x, lengths: x.flip(1))
    with pytest.raises(AssertionError, match="padding changes"):
        check_padding(make("bilstm"))


@torch.no_grad()
def test_states_see_both_sides(model: nn.Module) -> None:
    before = tokens(1)
    after = before.clone()
    after[0, 6] = 5 + (after[0, 6] - 4) % (V - 6)
    change = (model.states(Inputs(after)) - model.states(Inputs(before))).abs().amax(-1)[0]  # (T,)
    assert float(change[5]) > 0 and float(change[6]) > 0 and float(change[7]) > 0


@torch.no_grad()
@pytest.mark.parametrize("padded", [0, 3])
def test_a_segment_is_read_as_if_alone(model: nn.Module, padded: int) -> None:
    read = tokens(2)
    segments = torch.tensor([[0] * 4 + [1] * 8, [0] * 7 + [1] + [2] * 4])
    places = torch.tensor([[*range(4), *range(8)], [*range(7), 0, *range(4)]])
    lengths = torch.tensor([T - padded, T - padded]) if padded else None
    states = model.states(Inputs(read, lengths, segments, places))
    for row, first, last in ((0, 0, 4), (0, 4, 12 - padded), (1, 0, 7), (1, 7, 8), (1, 8, 12 - padded)):
        assert gap(model.states(Inputs(read[row : row + 1, first:last]))[0], states[row, first:last]) < TOLERANCE
    assert bool(states.isfinite().all())


@torch.no_grad()
def test_turned_twice_is_as_before() -> None:
    x, lengths = torch.randn(3, 5, 4), torch.tensor([5, 2, 1])
    turned = bidirectional.turn(x, lengths)
    assert torch.equal(turned[0], x[0].flip(0)) and torch.equal(turned[1, :2], x[1, :2].flip(0)) and torch.equal(turned[1, 2:], x[1, 2:])
    assert torch.equal(bidirectional.turn(turned, lengths), x)


@torch.no_grad()
def test_a_packed_lstm_says_the_same() -> None:
    """Rows turned around by an index are what torch reads both ways from packed rows."""
    layer, x, lengths = bidirectional.Layer(nn.LSTM, 10, 12), torch.randn(3, T, 10), torch.tensor([5, T, 1])
    both = nn.LSTM(10, 12, batch_first=True, bidirectional=True)
    names = dict(layer.ahead.state_dict())
    both.load_state_dict(names | {f"{name}_reverse": value for name, value in layer.back.state_dict().items()})
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    theirs = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True, total_length=T)[0]
    real = torch.arange(T) < lengths[:, None]
    assert gap(theirs[real], layer(x, lengths)[real]) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_attention_is_its_formula(dtype: torch.dtype) -> None:
    """Both ways of computing it; a bfloat16 number has 8 bits of mantissa."""
    queries, keys, values = (torch.randn(2, 3, 6, 8).to(dtype) for _ in range(3))
    mask = attention.encoder_mask(torch.zeros(2, 6, dtype=torch.long), torch.tensor([4, 0]), None)
    for seen in (mask, None):
        scores = queries.double() @ keys.double().mT / 8**0.5
        wanted = (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(-1) @ values.double()
        found = attention.attend_masked(queries, keys, values, seen)
        assert found.dtype == dtype and gap(wanted, found.double()) < (TOLERANCE if dtype == torch.float32 else 0.02)


def test_it_is_an_encoder_and_says_how_its_states_are_pooled(model: nn.Module) -> None:
    assert isinstance(model, Encoder) and not isinstance(model, Causal)
    assert model.kinds == (("encoder", "masked") if model.config.model_type == "bert" else ("encoder",))
    assert model.pooling == ("max" if model.config.model_type == "textcnn" else "mean")
    assert isinstance(model, Masked) == (model.config.model_type == "bert")
    assert model.states(Inputs(tokens())).shape == (3, T, model.width)


def test_the_kinds_say_what_can_be_trained() -> None:
    every, pairs, heard = catalog.trained(), catalog.trained(("encoder_decoder",)), catalog.trained(("acoustic", "speech_seq2seq"))
    sights = catalog.trained(("fusion", "vision", "towers"))
    assert sights == ("fusion", "vit", "cnn2d", "towers") and catalog.trained(("fusion",)) == ("fusion",)
    assert pairs == ("mbart", "lstm_attention") and heard == ("bilstm_ctc", "conformer", "whisper")
    assert set(catalog.trained(("encoder",))) == set(every) - {"skipgram", "cbow", "mixture", "hashed", *pairs, *sights, *heard}
    encoders = {"skipgram", "cbow", "bert", "textcnn", "bilstm", "bigru", "hashed", *pairs, *sights, *heard}
    assert set(catalog.trained(("causal",))) == set(every) - encoders
    assert catalog.trained(("lexical",)) == ("skipgram", "cbow") and catalog.trained(()) == ()
    assert catalog.trained(("document",)) == ("hashed",)
    assert set(catalog.trained(("causal", "lexical"))) == set(catalog.trained(("causal",))) | {"skipgram", "cbow"}
    for name in every:
        family = catalog.find({"model_type": name})
        assert family.kinds and set(family.kinds) <= {
            "causal",
            "encoder",
            "masked",
            "speech_seq2seq",
            "encoder_decoder",
            "lexical",
            "document",
            "fusion",
            "vision",
            "towers",
            "acoustic",
        }


def test_a_restored_model_gives_the_same_bits(model: nn.Module) -> None:
    config = json.loads(json.dumps(catalog.config(model)))
    assert config["architectures"] and config["model_type"] in catalog.MODELS
    restored = catalog.restore(config, {name: value.clone() for name, value in catalog.tensors(model).items()})
    read = Inputs(tokens(), torch.tensor([T, 3, 7]))
    assert torch.equal(model.states(read), restored.states(read))
    assert set(catalog.tensors(model)) == set(model.state_dict())


def test_a_build_depends_on_the_generator_only(model: nn.Module) -> None:
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(catalog.tensors(catalog.build(catalog.config(model))))
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])
    assert any("embedding" in name and not torch.equal(built[0][name], built[2][name]) for name in built[0])


@pytest.mark.parametrize(("config", "code", "word"), REFUSED)
def test_a_config_that_cannot_be_read_is_refused_by_name(config: dict, code: str, word: str) -> None:
    with pytest.raises(DataError) as caught:
        catalog.build(config)
    assert caught.value.code == code and word in caught.value.text()


def test_a_text_longer_than_the_window_is_refused_with_both_numbers() -> None:
    with pytest.raises(ShapeError) as caught:
        make("bert").states(Inputs(tokens(1, 33)))
    assert caught.value.code == "model.too_long" and "33" in caught.value.text() and "32" in caught.value.text()


def test_dropout_acts_in_training_only() -> None:
    for name in ("bert", "textcnn", "bilstm", "bigru"):
        model, read = make(name), Inputs(tokens(1))
        assert torch.equal(model.states(read), model.states(read))
        assert not torch.equal(model.train().states(read), model.states(read))


def loss(model: nn.Module) -> torch.Tensor:
    """Give a number that depends on every real state and, where there is one, on the head that fills in tokens."""
    read = tokens(4)
    states = model.states(Inputs(read, torch.tensor([T, 3, 7, 1])))
    if hasattr(model, "logits"):
        return nn.functional.cross_entropy(model.logits(states[:, 0]), read[:, 0])
    return (states[0] * torch.linspace(-1, 1, states[0].numel()).view_as(states[0])).mean() + states[1, :3].square().mean()


def test_every_parameter_gets_a_gradient(model: nn.Module) -> None:
    loss(model).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None or float(parameter.grad.abs().max()) == 0]
    # A key's bias shifts all scores of a query alike, which changes no share: its gradient is nought but for rounding.
    assert [name for name in dead if not name.endswith("key.bias")] == []


@torch.no_grad()
def test_a_text_becomes_a_vector_of_all_its_tokens(model: nn.Module) -> None:
    read = tokens(1, 300)[0].tolist()
    (vector,) = embed(model, [read])
    pieces = [torch.tensor([read])] if model.window is None else list(torch.tensor([read]).split(model.window, 1))
    states = torch.cat([model.states(Inputs(piece)) for piece in pieces], 1)[0]  # (T, D)
    assert gap(states.mean(0), torch.from_numpy(vector)) < TOLERANCE


MARK, WORDS, LONG = 5, np.arange(6, 16), 14


def marked(count: int, source: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make texts and labels: which of two words comes first, somewhere among others, so that no count of words can tell.

    return  tokens (B, T) int, lengths (B,) int, labels (B,) int
    """
    lengths, labels = source.integers(4, LONG + 1, count), source.integers(0, 2, count)
    read = source.choice(WORDS[2:], (count, LONG))
    for row, (length, label) in enumerate(zip(lengths, labels, strict=True)):
        place = source.integers(0, length - 1)
        read[row, place : place + 2] = WORDS[:2] if label else WORDS[1::-1]
        read[row, length:] = source.choice(WORDS, LONG - length)  # what lies beyond the end must not mislead
    return tuple(map(torch.from_numpy, (read, lengths, labels)))


def pool(model: nn.Module, read: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Pool the states of texts as the family says: (B, D) float."""
    states = model.states(Inputs(read, lengths))  # (B, T, D)
    real = (torch.arange(read.shape[1]) < lengths[:, None]).unsqueeze(2)  # (B, T, 1)
    if model.pooling == "max":
        return states.masked_fill(~real, -torch.inf).amax(1)
    return (states * real).sum(1) / lengths[:, None]


@pytest.mark.parametrize("name", ["bert", "textcnn", "bilstm", "bigru"])
def test_order_is_learnt_from_few_texts(name: str) -> None:
    """From 512 texts, more than 19 in 20 of 512 others are told, which no bag of words could tell better than by a coin."""
    torch.manual_seed(0)
    model = catalog.build({**ENCODERS[name], **({"num_layers": 1} if name.startswith("bi") else {})})
    head = nn.Linear(model.width, 2)
    source = np.random.default_rng(0)
    training, held = marked(512, source), marked(512, source)
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=0.004 if name == "bert" else 0.01)
    for step in range(120):
        chosen = [each[(step % 8) * 64 : (step % 8 + 1) * 64] for each in training]
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(pool(model, *chosen[:2])), chosen[2]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (head(pool(model, *held[:2])).argmax(1) == held[2]).float().mean()
    assert float(right) > 0.95


def test_golden_names_and_shapes() -> None:
    found = {}
    for name, config in ENCODERS.items():
        torch.manual_seed(11)
        found[name] = {key: list(each.shape) for key, each in catalog.tensors(catalog.build(config)).items()}
    path = Path(__file__).parent.parent / "golden" / "encoders.json"
    if os.environ.get("ZHIXING_WRITE_GOLDEN") == "1":
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))
