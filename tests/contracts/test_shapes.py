"""The shape lines of docstrings are true: each documented function is called, with axes of distinct sizes."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

from zhixing.layers import attention, augment, blocks, history, positions, segments
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.models import bidirectional, catalog

V = 37
SHAPE = re.compile(r"^\s+(\w+)\s+(?:two |tokens |frames )?\(([^)]*)\) (?:int|float|bool)", re.MULTILINE)


def check_shapes(function, values: dict, sizes: dict[str, int]) -> int:
    """Assert that every shape line of a docstring fits the values of a call; returns how many lines were checked.

    Letters are bound in `sizes` and are of distinct sizes, but for derived axes that the caller names.
    """
    lines = SHAPE.findall(inspect.getdoc(function).replace("\n", "\n  "))
    checked = 0
    for name, shape in lines:
        if name not in values:
            continue
        for value in values[name] if isinstance(values[name], tuple) else (values[name],):
            actual = list(value.shape)
            axes = [axis.strip() for axis in shape.split(",") if axis.strip()]
            if axes and axes[0] == "...":
                axes = axes[1:]
                actual = actual[len(actual) - len(axes) :]
            wanted = [int(axis) if axis.isdigit() else sizes[axis] for axis in axes]
            assert actual == wanted, f"{function.__qualname__}: {name} is {actual}, its docstring says ({shape})"
        checked += 1
    return checked


def make(kind: str, **form) -> torch.nn.Module:
    """Make a small model of a family."""
    torch.manual_seed(7)
    return catalog.build({"model_type": kind, "vocab_size": V, **form}).eval()


DECODER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
           "head_dim": 8, "max_position_embeddings": 32}  # fmt: skip
BERT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 32}
MODELS = {
    "qwen3": (DECODER, 24),
    "lstm": ({"embedding_dim": 20, "hidden_dim": 28}, 28),
    "feedforward": ({"embedding_dim": 6, "hidden_dim": 28, "context": 4}, 28),
    "convolution": ({"hidden_size": 16, "kernel_size": 3, "dilations": [1, 2]}, 16),
    "gpt2": ({"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32}, 24),
    "bert": (BERT, 24),
}
ENCODERS = {
    "textcnn": ({"embedding_dim": 10, "kernel_sizes": [2, 3], "filters": 14}, 28),
    "bilstm": ({"embedding_dim": 10, "hidden_dim": 14, "num_layers": 2}, 28),
}


def shape_cases():
    """Call each documented function once, with axes of distinct sizes."""
    sizes = {"B": 3, "T": 5, "S": 5, "D": 24, "H": 4, "H'": 2, "K": 8, "V": V}
    x = torch.randn(3, 5, 24)
    turn = positions.rotation(torch.arange(5), 8, 10000.0)
    queries, keys = torch.randn(3, 4, 5, 8), torch.randn(3, 2, 5, 8)
    mask = attention.segment_mask(torch.zeros(3, 5, dtype=torch.long))
    inputs = Inputs(torch.ones(3, 5, dtype=torch.long))
    yield blocks.Norm.forward, {"x": x, "return": blocks.Norm(24, 1e-6)(x)}, sizes
    yield blocks.GatedMLP.forward, {"x": x, "return": blocks.GatedMLP(24, 40)(x)}, sizes
    yield positions.rotation, {"positions": torch.arange(5), "return": turn}, sizes
    yield positions.rotate, {"heads": queries, "cosine": turn[0], "sine": turn[1], "return": positions.rotate(queries, *turn)}, sizes
    mixed = attention.attend(queries, keys, keys, mask)
    yield attention.attend, {"queries": queries, "keys": keys, "values": keys, "mask": mask, "return": mixed}, sizes
    yield attention.segment_mask, {"segments": torch.zeros(3, 5), "return": mask}, sizes
    steps = {**sizes, "C": 24, "S": 9, "E": 72}
    whole = history.before(x, 4, None, 0, None)
    yield history.before, {"x": x, "return": whole}, steps
    yield history.taps, {"x": whole, "return": history.taps(whole, 3, 2)}, steps
    read = torch.nn.Embedding(V, 24)
    states = segments.apart(read, inputs.tokens, torch.zeros(3, 5))
    yield segments.apart, {"tokens": inputs.tokens, "segments": torch.zeros(3, 5), "return": states}, sizes
    made = {name: make(name, **form) for name, (form, _) in MODELS.items()}
    layer = made["qwen3"].model.layers[0].self_attn
    yield type(layer).forward, {"x": x, "turn": turn, "mask": mask, "return": layer(x, turn, mask, None, 0)}, sizes
    block = made["gpt2"].transformer.h[0]
    yield type(block.attn).forward, {"x": x, "mask": mask, "return": block.attn(x, mask, None, 0)}, sizes
    yield type(block.mlp).forward, {"x": x, "return": block.mlp(x)}, sizes
    yield type(block.attn.c_attn).forward, {"x": x, "return": block.attn.c_attn(x)}, steps
    layer, x = made["convolution"].layers[1], torch.randn(3, 5, 16)
    yield type(layer).forward, {"x": x, "lengths": torch.ones(3), "return": layer(x, None, 0, None)}, {**sizes, "D": 16}
    for name, (_, width) in MODELS.items():
        states = made[name].states(inputs)
        yield type(made[name]).states, {"inputs": inputs.tokens, "return": states}, {**sizes, "D": width}
        yield type(made[name]).logits, {"states": states, "return": made[name].logits(states)}, {**sizes, "D": width}
    for name, (form, width) in ENCODERS.items():
        encoder = make(name, **form)
        yield type(encoder).states, {"inputs": inputs.tokens, "return": encoder.states(inputs)}, {**sizes, "D": width}
    x, lengths = torch.randn(3, 5, 10), torch.tensor([5, 2, 1])
    back = {**sizes, "D": 10, "E": 10}
    yield bidirectional.turn, {"x": x, "lengths": lengths, "return": bidirectional.turn(x, lengths)}, back
    layer = make("bilstm", **ENCODERS["bilstm"][0]).layers[0]
    yield type(layer).forward, {"x": x, "lengths": lengths, "return": layer(x, lengths)}, {**back, "D": 28}
    mask, heads = attention.encoder_mask(inputs.tokens, lengths, torch.zeros(3, 5)), torch.randn(3, 4, 5, 8)
    seen = {"tokens": inputs.tokens, "lengths": lengths, "segments": torch.zeros(3, 5), "return": mask}
    yield attention.encoder_mask, seen, sizes
    mixed = attention.attend_masked(queries, heads, heads, mask)
    yield attention.attend_masked, {"queries": queries, "keys": heads, "values": heads, "mask": mask, "return": mixed}, sizes
    x, made_of = torch.randn(3, 5, 24), made["bert"].bert
    block, places = made_of.encoder["layer"][0], torch.zeros(3, 5, dtype=torch.long)
    embedded = made_of.embeddings(inputs.tokens, places)
    yield type(made_of.embeddings).forward, {"tokens": inputs.tokens, "positions": places, "return": embedded}, sizes
    gather = block.attention["self"]
    yield type(gather).forward, {"x": x, "mask": mask, "return": gather(x, mask)}, sizes
    wide = torch.randn(3, 5, 40)
    yield type(block.output).forward, {"made": wide, "stream": x, "return": block.output(wide, x)}, {**sizes, "E": 40}
    yield positions.waves, {"return": positions.waves(5, 24, x.device)}, sizes
    yield segments.alone, {"tokens": inputs.tokens, "segments": places, "lengths": lengths,
                           "return": segments.alone(lambda rows, _: read(rows), inputs.tokens, places, lengths)}, sizes  # fmt: skip
    yield from heard_cases()
    yield next_log_probabilities, {"return": next_log_probabilities(made["lstm"], inputs)}, sizes


def heard_cases():
    """Call what reads frames, in the same way."""
    sizes = {"B": 3, "F": 9, "F'": 5, "C": 7, "D": 24, "V": V, "T": 5, "H": 4, "K": 6}
    frames, lengths = torch.randn(3, 9, 7), torch.tensor([9, 4, 1])
    read = Inputs(None, frames=frames, frames_lengths=lengths)
    forms = {"bilstm_ctc": {"embedding_dim": 10, "hidden_dim": 12}, "conformer": {"hidden_size": 24, "num_hidden_layers": 1}}
    for name, form in forms.items():
        model = make(name, num_mel_bins=7, **form)
        states = model.states(read)
        yield type(model).states, {"inputs": frames, "return": states}, sizes
        yield type(model).logits, {"states": states, "return": model.logits(states)}, sizes
        yield type(model).lengths, {"frames": lengths, "return": model.lengths(lengths)}, sizes
    front = model.front
    yield type(front).forward, {"x": frames, "lengths": lengths, "return": front(frames, lengths)[0]}, sizes
    x, turn = torch.randn(3, 5, 24), positions.rotation(torch.arange(5)[None, None], 6, 100.0)
    gather, mask = model.layers[0].self_attn, torch.ones(3, 1, 5, 5, dtype=torch.bool)
    yield type(gather).forward, {"x": x, "turn": turn, "mask": mask, "return": gather(x, turn, mask)}, sizes
    yield augment.augment, {"frames": frames, "lengths": lengths, "return": augment.augment(frames, lengths)}, sizes
    yield augment.paced, {"lengths": lengths, "return": augment.paced(lengths)}, sizes
    wanted = torch.tensor([5, 4, 1])
    found = augment.at_lengths(frames, lengths, wanted)
    yield augment.at_lengths, {"frames": frames, "lengths": lengths, "wanted": wanted, "return": found}, sizes
    yield augment.pick, {"frames": frames, "places": torch.zeros(3, 9), "return": augment.pick(frames, torch.zeros(3, 9))}, sizes


def test_shape_lines_of_docstrings_are_true() -> None:
    for function, values, sizes in shape_cases():
        assert check_shapes(function, values, sizes) == len(values), function.__qualname__


def test_the_shape_check_goes_red() -> None:
    def wrong(x):
        """Do nothing.

        x       (B, T, D) float
        return  (B, D, T) float
        """
        return x

    x = torch.zeros(3, 5, 24)
    with pytest.raises(AssertionError, match="return is"):
        check_shapes(wrong, {"x": x, "return": wrong(x)}, {"B": 3, "T": 5, "D": 24})
