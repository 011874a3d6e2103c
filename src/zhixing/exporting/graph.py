"""A trained model of rows leaves as a Model folder that needs no torch: taken apart into operations that NumPy computes (`models.graph`).

The operations are traced from the model itself, so that nothing is written twice; the same rows, some of them a single token long, are then
answered by both, and the folder's golden answers must be the model's. Source of the tracing: `torch.export`, with its core operations.
"""

from __future__ import annotations

import logging
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from zhixing.core.errors import DataError, UsageError
from zhixing.exporting import recurrent
from zhixing.layers.heads import named
from zhixing.layers.kinds import Inputs
from zhixing.models.graph import GIVEN, NAME, NUMBER, Graph, GraphConfig
from zhixing.models.operations import OPERATIONS
from zhixing.models.several import Several
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.many import see

SHAPES = ((3, 9), (1, 1), (1, 7), (5, 2))  # rows and tokens of what is answered by both
FRAMES = 7  # of a sound, where a text would have one token
TRACED_FRAMES = 32  # of which a few states are left at least, in every model: more than one
SENSES = {"text": ("tokens", "lengths"), "audio": ("frames", "frames_lengths"), "image": ("image",)}
TOLERANCE = 1e-4  # relative to the largest output
TRACED = (3, 9)
ASIDE = frozenset("device layout pin_memory memory_format non_blocking copy".split())  # of named arguments: where and how, not what
MOST_ROWS = 1 << 20


class Whole(nn.Module):
    """A model as a function of arrays: what it makes of rows.

    inputs  names of `models.graph.GIVEN`: what it is given, in this order
    last    of a model that has its own outputs, only what follows each row's last token is given, (B, V), not after every token, (B, T, V)
    """

    def __init__(self, model: nn.Module, inputs: tuple[str, ...], last: bool = False) -> None:
        super().__init__()
        self.model, self.inputs, self.last = recurrent.traceable(model), inputs, last

    def made(self, *given: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give what is made of rows, by name.

        return  as `layers.heads.named` says; of towers {"image_vectors": (B, D), "text_vectors": (B, D)}, of an acoustic model {"said":
                (B, F', V), "counts": (B,) int, how many of those states are real}, of another that has its own outputs {"next": as above}
        """
        inputs = Inputs(**{"tokens": None, **dict(zip(self.inputs, given, strict=True))})
        if hasattr(self.model, "head"):
            return named(self.model.head, self.model(inputs))
        if "towers" in self.model.kinds:
            return {"image_vectors": self.model.image(inputs), "text_vectors": self.model.text(inputs)}
        states = self.model.states(inputs)  # (B, T, D)
        if "acoustic" in self.model.kinds:
            return {"said": self.model.logits(states), "counts": self.model.lengths(inputs.frames_lengths)}
        if self.last:
            states = states.gather(1, (inputs.lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)  # (B, D)
        return {"next": self.model.logits(states)}

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give what is made of rows."""
        return tuple(self.made(*given).values())


def arrays_of(opened: Artefact, make: Callable[[Artefact], Any]) -> Any:
    """Make a model's form that needs no torch; of one of many tasks one a task.

    make  gives that of a model of one task, such as `graph_of`

    Raises UsageError for a model that cannot be taken apart; DataError when the operations give other numbers than the model.
    """
    if not hasattr(opened.task, "parts"):
        return make(opened)
    seen = {str(number): see(opened.task, opened.model, name, opened.tokenizer) for number, name in enumerate(opened.task.parts)}
    return Several("graph", {number: make(replace(opened, model=each)) for number, each in seen.items()})


def graph_of(opened: Artefact) -> Graph:
    """Take a model apart.

    Raises UsageError for a model that cannot be taken apart; DataError when the operations give other numbers than the model.
    """
    whole = as_function(opened)
    traced = trace(whole, opened, core=True)
    nodes, tensors, outputs = [], {}, {}
    held = {**traced.state_dict, **traced.constants}
    given = iter(whole.inputs)
    names = {}  # of what is given, by the name that tracing gave it
    for spec in traced.graph_signature.input_specs:
        if spec.target is not None:
            value = held[spec.target].detach()
            tensors[spec.arg.name] = np.ascontiguousarray((value.float() if value.is_floating_point() else value).numpy())
        else:
            names[spec.arg.name] = next(given)
    made = answered(whole, sample(opened))
    try:
        for node in traced.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                node.name = names[node.name]
            elif node.op == "call_function":
                nodes.append([node.name, name_of(node.target), plain(node.args), kept(node.kwargs)])
            elif node.op == "output":
                outputs = {name: each.name for name, each in zip(made, node.args[0], strict=True)}
    except KeyError as unknown:
        raise UsageError("export.apart", path=str(opened.folder.path), model=opened.family, problem=str(unknown.args[0])) from None
    config = GraphConfig(opened.family, width_of(made), window_of(opened), tuple(nodes), outputs, whole.inputs)
    found = Graph(config, tensors)
    compare(whole, found, opened)
    return found


def as_function(opened: Artefact) -> Whole:
    """Give a model as a function of arrays."""
    model, task = opened.model, opened.task
    body = getattr(model, "body", model)
    senses = getattr(body, "senses", ("audio",) if "acoustic" in body.kinds else ("text",))
    read = {name for sense in senses for name in SENSES[sense]} | ({"pictures"} if "fusion" in body.kinds and "image" in senses else set())
    return Whole(model, tuple(each for each in GIVEN if each in read), task.reads == "rows" and not task.schema.stepwise).eval()


def window_of(opened: Artefact) -> int | None:
    """Give how many tokens a model reads at most; None: any number. What stands for a task before a text is not among them."""
    window = getattr(getattr(opened.model, "body", opened.model), "window", None)
    return None if window is None else window - len(getattr(opened.model, "lead", ()))


def drawn(opened: Artefact, rows: int, length: int, draw: np.random.Generator, least_frames: int = 1) -> dict[str, np.ndarray]:
    """Draw rows, all that any model may be given, by name; the first has the whole length, others any, and all have a picture or none.

    length        int, tokens    of the longest, or FRAMES times as many frames
    least_frames  int            that the longest sound has at least
    """
    task, frames = opened.task, max(least_frames, FRAMES * length)
    vocabulary = getattr(task, "vocabulary", 1) if opened.tokenizer is None else opened.tokenizer.vocabulary_size
    least = 0 if hasattr(getattr(opened.model, "body", opened.model), "counts") else 1  # a row of these may lack a text or a sound
    size = getattr(task, "size", 1)
    found = {
        "tokens": draw.integers(0, vocabulary, (rows, length)),
        "lengths": np.append(length, draw.integers(least, length + 1, rows - 1)),
        "frames": draw.standard_normal((rows, frames, getattr(task, "bins", 1)), np.float32),
        "frames_lengths": np.append(frames, draw.integers(least, frames + 1, rows - 1)),
        "image": draw.integers(0, 256, (rows, 3, size, size), np.uint8),
        "pictures": np.append(1, draw.integers(0, 2, rows - 1)),
    }
    return {name: each.astype(GIVEN[name]) for name, each in found.items()}


def sample(opened: Artefact, rows: int = TRACED[0], length: int = TRACED[1]) -> dict[str, np.ndarray]:
    """Give rows to trace a model with, or to time it."""
    return drawn(opened, rows, min(length, window_of(opened) or length), np.random.default_rng(0), TRACED_FRAMES)


def answered(whole: Whole, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give what a model makes of drawn rows."""
    with torch.no_grad():
        made = whole.made(*(torch.from_numpy(rows[name]) for name in whole.inputs))
    return {name: each.float().numpy() for name, each in made.items()}


def dynamic(opened: Artefact, inputs: tuple[str, ...]) -> tuple[dict[int, Any], ...]:
    """Say of each input which of its axes may be of any length."""
    window = window_of(opened) or 4096
    B, T = torch.export.Dim("B", min=2, max=MOST_ROWS), torch.export.Dim("T", min=2, max=window)
    steps = {"tokens": T, "frames": torch.export.Dim("F", min=TRACED_FRAMES, max=MOST_ROWS)}
    return tuple({0: B, 1: steps[name]} if name in steps else {0: B} for name in inputs)


def trace(whole: Whole, opened: Artefact, core: bool = False) -> Any:
    """Trace a model for any number of rows and tokens, in torch's operations or, taken further apart, its core ones."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            rows = sample(opened)
            given = tuple(torch.from_numpy(rows[name]) for name in whole.inputs)
            traced = torch.export.export(whole, given, dynamic_shapes=(dynamic(opened, whole.inputs),))
            return traced.run_decompositions() if core else traced
        except Exception as problem:  # torch raises many sorts, none of them a promise
            raise unlike(opened, problem) from None


def unlike(opened: Artefact, problem: Exception) -> UsageError:
    """Give the error for a model whose tracing failed."""
    lines = [each for each in str(problem).splitlines() if each.strip()] or [type(problem).__name__]
    length = "Constraints violated" in lines[0]
    about = "its operations depend on how long a row is, place by place" if length else lines[0][:160].rstrip(".")
    return UsageError("export.apart", path=str(opened.folder.path), model=opened.family, problem=about)


def name_of(target: Any) -> str:
    """Give an operation's name; raises KeyError for one that is not read here."""
    name = target.__name__ if isinstance(target, type(operator.add)) else str(target).removeprefix("aten.")
    if name not in OPERATIONS:
        raise KeyError(name)
    return name


def plain(value: Any) -> Any:
    """Give an argument as JSON keeps it, nodes as references."""
    if isinstance(value, torch.fx.Node):
        return {NAME: value.name}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, float) and not math.isfinite(value):
        return {NUMBER: str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise KeyError(f"an argument {value!r}")


def kept(named_arguments: dict[str, Any]) -> dict[str, Any]:
    """Give the named arguments that say what is computed."""
    return {name: plain(value) for name, value in named_arguments.items() if name not in ASIDE}


def width_of(made: dict[str, np.ndarray]) -> int:
    """Count the numbers of a model's first output."""
    return next(iter(made.values())).shape[-1]


def compare(whole: Whole, graph: Any, opened: Artefact) -> None:
    """Answer the same drawn rows by a model and by its other form, which has `run` and `window`; raises DataError where they differ.

    What stands beyond the end of a row means nothing, and is not compared.
    """
    draw = np.random.default_rng(0)
    window = graph.window or max(length for _, length in SHAPES)
    for rows, length in (*SHAPES, (2, window)):
        length = min(length, window)
        given = drawn(opened, rows, length, draw)
        made, found = answered(whole, given), graph.run(*(given[name] for name in graph.inputs))
        real = made.get("counts", given["lengths"])
        for name, one in made.items():
            two = found[name]
            if one.shape == two.shape and one.ndim == 3:
                one, two = (each[np.arange(each.shape[1]) < real[:, None]] for each in (one, two))
            gap = float(np.abs(two - one).max() / max(np.abs(one).max(), 1e-12)) if one.shape == two.shape else np.inf
            if not gap <= TOLERANCE:
                about = {"text": f"{name} {rows} x {length}", "difference": f"{gap:.2g}", "tolerance": TOLERANCE}
                raise DataError("golden.differs", path=str(opened.folder.path), **about)
