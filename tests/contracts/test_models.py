"""What every next-token model must hold, whatever its family; each harness is shown to go red on a model that breaks it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from zhixing.core.errors import DataError, RunError, ShapeError, UsageError
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.models import catalog, llama
from zhixing.models.grammar import Grammar
from zhixing.models.ngram import NGram
from zhixing.models.recurrent import TextGenerator
from zhixing.objectives import tokens as objective
from zhixing.objectives.tokens import IGNORED

V, T, TOLERANCE = 37, 12, 1e-5
DECODER = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 32,
}
LSTM = {"vocab_size": V, "embedding_dim": 20, "hidden_dim": 28}
FEEDFORWARD = {"vocab_size": V, "embedding_dim": 6, "hidden_dim": 28, "context": 4}
CONVOLUTION = {"vocab_size": V, "hidden_size": 16, "kernel_size": 3, "dilations": [1, 2, 1]}
GPT2 = {"vocab_size": V, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32}
TRAINED = {
    "llama": {"model_type": "llama", **DECODER},
    "qwen3": {"model_type": "qwen3", **DECODER, "dropout": 0.1},
    "qwen3-tied": {"model_type": "qwen3", **DECODER, "tie_word_embeddings": True},
    "lstm": {"model_type": "lstm", **LSTM, "num_layers": 2, "dropout": 0.1},
    "lstm-tied": {"model_type": "lstm", "vocab_size": V, "embedding_dim": 28, "hidden_dim": 28, "tied": True},
    "rnn": {"model_type": "rnn", **LSTM, "num_layers": 2, "dropout": 0.1},
    "gru": {"model_type": "gru", **LSTM, "num_layers": 2, "dropout": 0.1},
    "feedforward": {"model_type": "feedforward", **FEEDFORWARD, "dropout": 0.1},
    "feedforward-direct": {"model_type": "feedforward", **FEEDFORWARD, "direct": True},
    "convolution": {"model_type": "convolution", **CONVOLUTION, "dropout": 0.1},
    "gpt2": {"model_type": "gpt2", **GPT2, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
}
GOING_BACK = ("llama", "qwen3", "qwen3-tied", "gpt2")  # the families whose caches keep all that was read


def make(name: str):
    """Make a trained family's model with no zero left from its initialisation, so that nothing is hidden by it."""
    torch.manual_seed(7)
    model = catalog.build(TRAINED[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def count(smoothing: str = "ngram", strength: float | None = None) -> NGram:
    """Count an n-gram model."""
    return NGram.count(stream(), V, 3, 1, smoothing, strength)


def stream() -> np.ndarray:
    """Make a text with structure."""
    generator = np.random.default_rng(3)
    return np.concatenate([[1], np.where(np.arange(400) % 3, generator.integers(5, V, 400), 9), [1]])


COUNTED = {
    "ngram": count,
    "dirichlet": lambda: count("dirichlet", 2.0),
    "additive": lambda: count("additive", 0.1),
    "grammar": lambda: Grammar.learn(stream(), V, 6, 1)[0],
}


def tokens(rows: int = 3, length: int = T, seed: int = 0) -> torch.Tensor:
    """Make rows of token ids."""
    return torch.randint(5, V, (rows, length), generator=torch.Generator().manual_seed(seed))


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """Give the largest difference, relative to the largest number."""
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))


@pytest.fixture(params=sorted(TRAINED))
def trained(request):
    return make(request.param)


@pytest.fixture(params=[*sorted(TRAINED), *COUNTED])
def model(request):
    return COUNTED[request.param]() if request.param in COUNTED else make(request.param)


@torch.no_grad()
def check_causality(model) -> None:
    """Assert that changing token t changes the state at t, and no state before it."""
    before = tokens(1)
    read = model.states(Inputs(before))
    for place in range(T):
        after = before.clone()
        after[0, place] = 5 + (after[0, place] - 4) % (V - 5)
        change = (model.states(Inputs(after)) - read).abs().amax(-1)[0]
        assert float(change[:place].sum()) == 0, f"token {place} changes a state before it"
        assert float(change[place]) > 0, f"token {place} does not change its own state"


def test_causality(trained) -> None:
    check_causality(trained)


def test_causality_catches_a_mask_that_is_off_by_one(monkeypatch) -> None:
    def peek(queries, keys, values, mask):
        mask = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool).tril(diagonal=1)
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)

    monkeypatch.setattr(llama, "attend", peek)
    with pytest.raises(AssertionError, match="changes a state before it"):
        check_causality(make("qwen3"))


def test_causality_catches_a_model_that_reads_the_next_token() -> None:
    class Peeking:
        def __init__(self, inner) -> None:
            self.inner = inner

        def states(self, inputs):
            return self.inner.states(inputs).roll(-1, 1)

    with pytest.raises(AssertionError, match="changes a state before it"):
        check_causality(Peeking(make("lstm")))


@torch.no_grad()
def test_padding_changes_no_real_state(trained) -> None:
    read = tokens(2)
    lengths = torch.tensor([5, T])
    states = []
    for filler in (0, 11):
        padded = read.clone()
        padded[0, 5:] = filler
        states.append(trained.states(Inputs(padded, lengths)))
    assert torch.equal(states[0][0, :5], states[1][0, :5])
    alone = trained.states(Inputs(read[:1, :5]))
    assert gap(alone[0], states[0][0, :5]) < TOLERANCE


@torch.no_grad()
def test_a_segment_is_read_as_if_alone(trained) -> None:
    read = tokens(2)
    segments = torch.tensor([[0] * 4 + [1] * 8, [0] * 7 + [1] + [2] * 4])
    places = torch.tensor([[*range(4), *range(8)], [*range(7), 0, *range(4)]])
    states = trained.states(Inputs(read, segments=segments, positions=places))
    for row, first, last in ((0, 0, 4), (0, 4, 12), (1, 0, 7), (1, 7, 8), (1, 8, 12)):
        assert gap(trained.states(Inputs(read[row : row + 1, first:last]))[0], states[row, first:last]) < TOLERANCE


@torch.no_grad()
def test_only_distances_between_positions_matter_to_a_decoder() -> None:
    model, read, places = make("qwen3"), tokens(1), torch.arange(T).unsqueeze(0)
    states = model.states(Inputs(read))
    assert gap(states, model.states(Inputs(read, positions=places + 9))) < TOLERANCE
    assert gap(states, model.states(Inputs(read, positions=places * 2))) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1] * T, [5, 1, 6], [T]])
def test_cached_equals_uncached(trained, sizes) -> None:
    read = tokens()
    cache = trained.cache(3)
    pieces = [trained.states(Inputs(piece), cache) for piece in read.split(sizes, 1)]
    assert gap(trained.states(Inputs(read)), torch.cat(pieces, 1)) < TOLERANCE


def test_next_tokens_are_one_distribution(model) -> None:
    log_probs = next_log_probabilities(model, Inputs(tokens()))
    assert log_probs.shape == (3, V)
    assert log_probs.dtype == torch.float32
    assert torch.allclose(log_probs.double().exp().sum(-1), torch.ones(3, dtype=torch.float64), atol=1e-5)


def test_batched_equals_alone_through_every_change_of_rows(model) -> None:
    """Rows of unequal lengths, joined, chosen and reordered, then read on: each is what it would be alone."""
    texts = [tokens(1, length, seed=length) for length in (3, 7, 5)]
    cache = model.cache(1)
    next_log_probabilities(model, Inputs(texts[0]), cache)
    padded = torch.zeros(2, 7, dtype=torch.long)
    padded[0], padded[1, :5] = texts[1], texts[2]
    other = model.cache(2)
    next_log_probabilities(model, Inputs(padded, torch.tensor([7, 5])), other)
    cache = cache.join(other)
    more = tokens(3, 2, seed=9)
    for step in range(2):
        together = next_log_probabilities(model, Inputs(more[:, step : step + 1]), cache)
    for row in range(3):
        alone = next_log_probabilities(model, Inputs(torch.cat([texts[row], more[row : row + 1]], 1)))
        assert gap(alone[0], together[row]) < TOLERANCE
    cache = cache.rows(torch.tensor([2, 0]))
    last = torch.tensor([[8], [6]])
    together = next_log_probabilities(model, Inputs(last), cache)
    for place, row in enumerate((2, 0)):
        whole = torch.cat([texts[row], more[row : row + 1], last[place : place + 1]], 1)
        assert gap(next_log_probabilities(model, Inputs(whole))[0], together[place]) < TOLERANCE


@pytest.mark.parametrize("name", GOING_BACK)
def test_a_cropped_cache_is_that_of_the_shorter_text(name) -> None:
    model, read = make(name), tokens(2)
    cache = model.cache(2)
    next_log_probabilities(model, Inputs(read), cache)
    cache.crop(4)
    again = next_log_probabilities(model, Inputs(read[:, 7:8]), cache)
    alone = next_log_probabilities(model, Inputs(torch.cat([read[:, :4], read[:, 7:8]], 1)))
    assert gap(alone, again) < TOLERANCE


@pytest.mark.parametrize("name", sorted(set(TRAINED) - set(GOING_BACK)))
def test_a_cache_of_fixed_size_cannot_go_back(name) -> None:
    model = make(name)
    cache = model.cache(1)
    next_log_probabilities(model, Inputs(tokens(1)), cache)
    cache.crop(T)
    with pytest.raises(RunError, match="12|4"):
        cache.crop(4)


def test_a_restored_model_gives_the_same_bits(model) -> None:
    config = json.loads(json.dumps(catalog.config(model)))
    assert config["architectures"]
    assert config["model_type"] in catalog.MODELS
    restored = catalog.restore(config, {name: torch.as_tensor(value).clone() for name, value in catalog.tensors(model).items()})
    assert torch.equal(next_log_probabilities(model, Inputs(tokens())), next_log_probabilities(restored, Inputs(tokens())))
    assert {name: tuple(value.shape) for name, value in catalog.tensors(restored).items()} == {
        name: tuple(value.shape) for name, value in catalog.tensors(model).items()
    }


def test_a_build_depends_on_the_generator_only(trained) -> None:
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(catalog.tensors(catalog.build(catalog.config(trained))))
    same = [name for name in built[0] if not torch.equal(built[0][name], built[1][name])]
    changed = [name for name in built[0] if not torch.equal(built[0][name], built[2][name])]
    assert same == []
    assert any("embed" in name or "wte" in name for name in changed)


def test_wrong_tensors_are_refused_by_name(trained) -> None:
    config, tensors = catalog.config(trained), catalog.tensors(trained)
    name = next(iter(tensors))
    for wrong, code in (
        ({key: value for key, value in tensors.items() if key != name}, "model.tensor_missing"),
        ({**tensors, "stray.weight": torch.zeros(2)}, "model.tensor_unexpected"),
        ({**tensors, name: torch.zeros(2, 3)}, "model.tensor_shape"),
    ):
        with pytest.raises(DataError) as caught:
            catalog.restore(config, wrong)
        assert caught.value.code == code
        assert (name if code != "model.tensor_unexpected" else "stray.weight") in caught.value.text()


@pytest.mark.parametrize(
    ("config", "code", "word"),
    [
        ({"model_type": "qwen"}, "model.unknown_type", "qwen3"),
        ({}, "model.unknown_type", "llama"),
        ({"model_type": "qwen3", **DECODER, "rope_teta": 1.0}, "model.config_unknown", "rope_theta"),
        ({"model_type": "qwen3", **DECODER, "hidden_act": "gelu"}, "model.config_value", "gelu"),
        ({"model_type": "qwen3", **DECODER, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "model.config_value", "yarn"),
        ({"model_type": "qwen3", **DECODER, "num_key_value_heads": 3}, "model.config_value", "num_attention_heads"),
        ({"model_type": "qwen3", "vocab_size": 9}, "model.config_missing", "hidden_size"),
        ({"model_type": "lstm", **LSTM, "hiden_dim": 3}, "model.config_unknown", "hidden_dim"),
        ({"model_type": "lstm", **LSTM, "output_dim": 3}, "model.config_value", "output_dim"),
        ({"model_type": "lstm", "vocab_size": 9}, "model.config_missing", "embedding_dim"),
        ({"model_type": "gru", **LSTM, "cell": "lstm"}, "model.config_unknown", "num_layers"),
        ({"model_type": "feedforward", **FEEDFORWARD, "contxt": 3}, "model.config_unknown", "context"),
        ({"model_type": "feedforward", **FEEDFORWARD, "context": 0}, "model.config_value", "at least 1"),
        ({"model_type": "feedforward", "vocab_size": 9}, "model.config_missing", "embedding_dim"),
        ({"model_type": "convolution", **CONVOLUTION, "dilations": [1, 0]}, "model.config_value", "dilations"),
        ({"model_type": "convolution", **CONVOLUTION, "kernel_size": "3"}, "model.config_value", "int"),
        ({"model_type": "gpt2", **GPT2, "n_haed": 3}, "model.config_unknown", "n_head"),
        ({"model_type": "gpt2", **GPT2, "n_head": 5}, "model.config_value", "n_embd"),
        ({"model_type": "gpt2", **GPT2, "activation_function": "relu"}, "model.config_value", "gelu_new"),
        ({"model_type": "gpt2", **GPT2, "scale_attn_by_inverse_layer_idx": True}, "model.config_value", "scale_attn_by_inverse_layer_idx"),
        ({"model_type": "gpt2", "vocab_size": 9}, "model.config_missing", "n_positions"),
    ],
)
def test_a_config_that_cannot_be_read_is_refused_by_name(config, code, word) -> None:
    with pytest.raises(DataError) as caught:
        catalog.build(config)
    assert caught.value.code == code
    assert word in caught.value.text()


def test_the_config_of_a_published_gpt2_is_read() -> None:
    """As it stands in the folder of the smallest GPT-2, but for the sizes."""
    config = {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 36, "embd_pdrop": 0.1,
        "eos_token_id": 36, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 32, "n_embd": 24,
        "n_head": 3, "n_layer": 2, "n_positions": 32, "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": V,
    }  # fmt: skip
    model = catalog.build(config)
    assert (model.window, model.vocabulary, model.width, model.config.embd_pdrop) == (32, V, 24, 0.1)
    assert catalog.build(catalog.config(model)).config == model.config


def test_a_counted_family_is_not_built() -> None:
    with pytest.raises(UsageError) as caught:
        catalog.build({"model_type": "ngram"})
    assert caught.value.code == "model.not_buildable"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_text_longer_than_the_window_is_refused_with_both_numbers(name) -> None:
    model = make(name)
    with pytest.raises(ShapeError) as caught:
        model.states(Inputs(tokens(1, 33)))
    assert "33" in caught.value.text()
    assert "32" in caught.value.text()
    cache = model.cache(1)
    next_log_probabilities(model, Inputs(tokens(1, 32)), cache)
    with pytest.raises(ShapeError):
        next_log_probabilities(model, Inputs(tokens(1, 1)), cache)


def test_a_cache_refuses_what_it_cannot_hold(trained) -> None:
    model = trained
    for inputs, rows, code in (
        (Inputs(tokens(3)), 2, "model.cache_rows"),
        (Inputs(tokens(2), segments=torch.zeros(2, T, dtype=torch.long)), 2, "model.cache_segments"),
    ):
        with torch.no_grad(), pytest.raises(RunError) as caught:
            model.states(inputs, model.cache(rows))
        assert caught.value.code == code


def test_a_key_value_cache_takes_no_gradient() -> None:
    model = make("llama")
    with pytest.raises(RunError) as caught:
        model.states(Inputs(tokens(2)), model.cache(2))
    assert caught.value.code == "model.cache_gradient"


def loss(model) -> torch.Tensor:
    """Give the mean negative log-probability of generated text."""
    read = tokens(4)
    logits = model.logits(model.states(Inputs(read[:, :-1])))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), read[:, 1:].flatten())


def test_every_parameter_gets_a_gradient(trained) -> None:
    loss(trained).backward()
    dead = [name for name, parameter in trained.named_parameters() if parameter.grad is None or float(parameter.grad.abs().max()) == 0]
    assert dead == []


@pytest.mark.parametrize("name", ["llama", "qwen3", "lstm", "rnn", "gru", "feedforward", "convolution"])
def test_an_untied_model_begins_uniform_and_learns_every_position(name) -> None:
    torch.manual_seed(0)
    model = catalog.build(TRAINED[name])
    assert abs(float(loss(model.eval()).detach()) - np.log(V)) < 1e-5
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert float(loss(model.eval()).detach()) < 0.5, "44 predictions on four fixed rows can be learnt by heart"


def test_dropout_acts_in_training_only() -> None:
    for name in ("qwen3", "lstm", "rnn", "gru", "feedforward", "convolution", "gpt2"):
        model, read = make(name), Inputs(tokens(1))
        assert torch.equal(model.states(read), model.states(read))
        model.train()
        assert not torch.equal(model.states(read), model.states(read))
        assert torch.equal(next_log_probabilities(model, read), next_log_probabilities(model, read))
        assert model.training


def test_the_outline_call_makes_a_working_model() -> None:
    torch.manual_seed(0)
    model = TextGenerator(V, 20, 28, V)
    assert model.logits(model.states(Inputs(tokens()))).shape == (3, T, V)


def test_golden_names_shapes_and_losses() -> None:
    """Names and shapes to the letter; losses of seeded models within what other instruction sets change."""
    found = {}
    for name, config in TRAINED.items():
        torch.manual_seed(11)
        model = catalog.build(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
            value = float(loss(model))
        found[name] = {"loss": value, "tensors": {key: list(each.shape) for key, each in catalog.tensors(model).items()}}
    path = Path(__file__).parent.parent / "golden" / "models.json"
    if os.environ.get("ZHIXING_WRITE_GOLDEN") == "1":
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    frozen = json.loads(path.read_text(encoding="utf-8"))
    assert {name: each["tensors"] for name, each in found.items()} == {name: each["tensors"] for name, each in frozen.items()}
    for name, each in found.items():
        assert each["loss"] == pytest.approx(frozen[name]["loss"], rel=1e-5), name


def check_chunks(model) -> None:
    """Assert that a loss whose vocabulary is paid for in chunks has the value and every gradient of the whole."""
    read = tokens(3)
    batch = {"tokens": read[:, :-1], "targets": read[:, 1:].clone()}
    batch["targets"][0, 3:] = IGNORED
    found = []
    for chunk in (V * 1000, V * 4):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective, "CHUNK_LOGITS", chunk)
            model.zero_grad()
            (term,) = objective.NextToken(smoothing=0.1)(model, batch)
            (term.total * 0.5).backward()
            found.append((term.total.detach(), {name: p.grad for name, p in model.named_parameters()}))
    assert gap(found[0][0], found[1][0]) < TOLERANCE
    for name, whole in found[0][1].items():
        part = found[1][1][name]
        assert (whole is None) == (part is None) and (whole is None or gap(whole, part) < 10 * TOLERANCE), name


def test_a_vocabulary_in_chunks_has_the_whole_one_s_gradients(trained) -> None:
    check_chunks(trained)


def test_chunks_under_autocast_keep_the_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of a step is no number that bf16 holds: rounded to it, every gradient below the head would be wrong by one factor."""
    read, found = tokens(3), []
    batch = {"tokens": read[:, :-1], "targets": read[:, 1:]}
    model = make("lstm-tied")
    for chunk in (V * 1000, V * 4):
        monkeypatch.setattr(objective, "CHUNK_LOGITS", chunk)
        model.zero_grad()
        states = torch.randn(len(read), T - 1, 28, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            total = objective.summed_nats(model, states.bfloat16().flatten(0, 1), batch["targets"].flatten())
        (total / 105.3).backward()
        found.append(states.grad)
    ratio = float((found[0] * found[1]).sum() / found[0].square().sum())
    assert ratio == pytest.approx(1.0, abs=5e-4)


def test_the_harness_sees_a_gradient_that_chunks_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy = objective.ChunkedNats.backward
    monkeypatch.setattr(objective.ChunkedNats, "backward", staticmethod(lambda ctx, scale: (*lossy(ctx, scale)[:-1], None)))
    with pytest.raises(AssertionError, match="lm_head"):
        check_chunks(make("llama"))
