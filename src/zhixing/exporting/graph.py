"""A trained model of rows leaves as a Model folder that needs no torch: taken apart into operations that NumPy computes (`models.graph`).

The operations are traced from the model itself, so that nothing is written twice; the same rows, some of them a single token long, are then
answered by both, and the folder's golden answers must be the model's. Source of the tracing: `torch.export`, with its core operations.
"""

from __future__ import annotations

import logging
import math
import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from zhixing.core.errors import DataError, UsageError
from zhixing.layers.heads import Direction, Pooled
from zhixing.layers.kinds import Headed, Inputs
from zhixing.models.graph import NAME, NUMBER, OPERATIONS, Graph, GraphConfig
from zhixing.tasks.artefact import Artefact

HEADS = (Pooled, Direction)  # one answer a text
SHAPES = ((3, 9), (1, 1), (1, 7), (5, 2))  # rows and tokens of what is answered by both
TOLERANCE = 1e-4  # relative to the largest output
TRACED = (3, 9)
ASIDE = frozenset("device layout pin_memory memory_format non_blocking copy".split())  # of named arguments: where and how, not what
MOST_ROWS = 1 << 20


class _Whole(nn.Module):
    """A model as a function of arrays."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Give what the head makes of rows."""
        return self.model(Inputs(tokens, lengths=lengths))


def graph_of(opened: Artefact) -> Graph:
    """Take a model apart.

    Raises UsageError for a model whose answers are not read out of one head over a text, or that cannot be taken apart; DataError when the
    operations give other numbers than the model.
    """
    whole = as_function(opened)
    traced = trace(whole, opened)
    nodes, tensors, output = [], {}, ""
    held = {**traced.state_dict, **traced.constants}
    for spec in traced.graph_signature.input_specs:
        if spec.target is not None:
            value = held[spec.target].detach()
            tensors[spec.arg.name] = np.ascontiguousarray((value.float() if value.is_floating_point() else value).numpy())
    try:
        for node in traced.graph.nodes:
            if node.op == "call_function":
                nodes.append([node.name, named(node.target), plain(node.args), kept(node.kwargs)])
            elif node.op == "output":
                output = node.args[0][0].name
    except KeyError as unknown:
        raise UsageError("export.apart", path=str(opened.folder.path), model=opened.family, problem=str(unknown.args[0])) from None
    config = GraphConfig(opened.family, width_of(whole), getattr(opened.model.body, "window", None), tuple(nodes), output)
    found = Graph(config, tensors)
    compare(whole, found, opened)
    return found


def as_function(opened: Artefact) -> nn.Module:
    """Give a model as a function of tokens and lengths; raises UsageError where answers are not read out of one head over a text."""
    model, task = opened.model, opened.task
    about: dict[str, Any] = {"path": str(opened.folder.path), "model": opened.family}
    if not isinstance(model, nn.Module):
        raise UsageError("export.no_torch", **about)
    if not isinstance(model, Headed) or type(model.head) not in HEADS or task.reads != "text" or not hasattr(model.body, "window"):
        raise UsageError("export.apart", **about, problem=f"the task {task.name} has no head that gives one answer a text")
    return _Whole(model).eval()


def sample(opened: Artefact) -> tuple[torch.Tensor, torch.Tensor]:
    """Give rows to trace a model with."""
    rows, length = TRACED
    length = min(length, getattr(opened.model.body, "window", None) or length)
    return torch.ones(rows, length, dtype=torch.long), torch.tensor([length, 1, 2][:rows])


def dynamic(opened: Artefact) -> dict[str, Any]:
    """Say which axes of the inputs may be of any length."""
    window = getattr(opened.model.body, "window", None) or 4096
    B, T = torch.export.Dim("B", min=2, max=MOST_ROWS), torch.export.Dim("T", min=2, max=window)
    return {"tokens": {0: B, 1: T}, "lengths": {0: B}}


def trace(whole: nn.Module, opened: Artefact) -> Any:
    """Trace a model for any number of rows and tokens."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(whole, sample(opened), dynamic_shapes=dynamic(opened)).run_decompositions()
        except Exception as problem:  # torch raises many sorts, none of them a promise
            raise unlike(opened, problem) from None


def unlike(opened: Artefact, problem: Exception) -> UsageError:
    """Give the error for a model whose tracing failed."""
    lines = [each for each in str(problem).splitlines() if each.strip()] or [type(problem).__name__]
    length = "Constraints violated" in lines[0]
    about = "its operations depend on how long a row is, place by place" if length else lines[0][:160].rstrip(".")
    return UsageError("export.apart", path=str(opened.folder.path), model=opened.family, problem=about)


def named(target: Any) -> str:
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


def width_of(whole: nn.Module) -> int:
    """Count a model's outputs."""
    with torch.no_grad():
        return int(whole(torch.ones(1, 2, dtype=torch.long), torch.tensor([2])).shape[1])


def compare(whole: nn.Module, graph: Any, opened: Artefact) -> None:
    """Answer the same drawn rows by a model and by its other form, which has `run` and `window`; raises DataError where they differ."""
    draw = np.random.default_rng(0)
    window = graph.window or max(length for _, length in SHAPES)
    for rows, length in (*SHAPES, (2, window)):
        length = min(length, window)
        tokens = draw.integers(0, opened.tokenizer.vocabulary_size, (rows, length))
        lengths = draw.integers(1, length + 1, rows)
        with torch.no_grad():
            wanted = whole(torch.from_numpy(tokens), torch.from_numpy(lengths)).float().numpy()
        found = graph.run(tokens, lengths)
        gap = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-12))
        if found.shape != wanted.shape or not gap <= TOLERANCE:
            about = {"text": f"{rows} x {length}", "difference": f"{gap:.2g}", "tolerance": TOLERANCE}
            raise DataError("golden.differs", path=str(opened.folder.path), **about)
