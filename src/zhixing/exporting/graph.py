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
from zhixing.models.graph import NAME, NUMBER, OPERATIONS, Graph, GraphConfig
from zhixing.models.several import Several
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.many import see

SHAPES = ((3, 9), (1, 1), (1, 7), (5, 2))  # rows and tokens of what is answered by both
TOLERANCE = 1e-4  # relative to the largest output
TRACED = (3, 9)
ASIDE = frozenset("device layout pin_memory memory_format non_blocking copy".split())  # of named arguments: where and how, not what
MOST_ROWS = 1 << 20


class Whole(nn.Module):
    """A model as a function of arrays: what it makes of rows, in the order of `names`.

    names  of what is given: as `layers.heads.named` says; "next" of a model that has its own outputs
    last   of those only what follows each row's last token is given, (B, V), not what follows every token, (B, T, V)
    """

    def __init__(self, model: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.model, self.last = recurrent.traceable(model), last
        with torch.no_grad():
            self.names = tuple(self.made(torch.ones(1, 2, dtype=torch.long), torch.tensor([2])))

    def made(self, tokens: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give what is made of rows, by name."""
        inputs = Inputs(tokens, lengths=lengths)
        if hasattr(self.model, "head"):
            return named(self.model.head, self.model(inputs))
        states = self.model.states(inputs)  # (B, T, D)
        if self.last:
            states = states.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)  # (B, D)
        return {"next": self.model.logits(states)}

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give what is made of rows."""
        return tuple(self.made(tokens, lengths).values())


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
    for spec in traced.graph_signature.input_specs:
        if spec.target is not None:
            value = held[spec.target].detach()
            tensors[spec.arg.name] = np.ascontiguousarray((value.float() if value.is_floating_point() else value).numpy())
    try:
        for node in traced.graph.nodes:
            if node.op == "call_function":
                nodes.append([node.name, name_of(node.target), plain(node.args), kept(node.kwargs)])
            elif node.op == "output":
                outputs = {name: each.name for name, each in zip(whole.names, node.args[0], strict=True)}
    except KeyError as unknown:
        raise UsageError("export.apart", path=str(opened.folder.path), model=opened.family, problem=str(unknown.args[0])) from None
    found = Graph(GraphConfig(opened.family, width_of(whole), window_of(opened), tuple(nodes), outputs), tensors)
    compare(whole, found, opened)
    return found


def as_function(opened: Artefact) -> Whole:
    """Give a model as a function of tokens and lengths."""
    model, task = opened.model, opened.task
    return Whole(model, task.reads == "rows" and not task.schema.stepwise).eval()


def window_of(opened: Artefact) -> int | None:
    """Give how many tokens a model reads at most; None: any number. What stands for a task before a text is not among them."""
    window = getattr(opened.model, "body", opened.model).window
    return None if window is None else window - len(getattr(opened.model, "lead", ()))


def sample(opened: Artefact) -> tuple[torch.Tensor, torch.Tensor]:
    """Give rows to trace a model with."""
    rows, length = TRACED
    length = min(length, window_of(opened) or length)
    return torch.ones(rows, length, dtype=torch.long), torch.tensor([length, 1, 2][:rows])


def dynamic(opened: Artefact) -> dict[str, Any]:
    """Say which axes of the inputs may be of any length."""
    window = window_of(opened) or 4096
    B, T = torch.export.Dim("B", min=2, max=MOST_ROWS), torch.export.Dim("T", min=2, max=window)
    return {"tokens": {0: B, 1: T}, "lengths": {0: B}}


def trace(whole: nn.Module, opened: Artefact, core: bool = False) -> Any:
    """Trace a model for any number of rows and tokens, in torch's operations or, taken further apart, its core ones."""
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            traced = torch.export.export(whole, sample(opened), dynamic_shapes=dynamic(opened))
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


def width_of(whole: Whole) -> int:
    """Count the numbers of a model's first output."""
    with torch.no_grad():
        return int(whole(torch.ones(1, 2, dtype=torch.long), torch.tensor([2]))[0].shape[-1])


def compare(whole: Whole, graph: Any, opened: Artefact) -> None:
    """Answer the same drawn rows by a model and by its other form, which has `run` and `window`; raises DataError where they differ.

    What stands beyond the end of a row means nothing, and is not compared.
    """
    draw = np.random.default_rng(0)
    window = graph.window or max(length for _, length in SHAPES)
    vocabulary = opened.task.vocabulary if opened.tokenizer is None else opened.tokenizer.vocabulary_size
    for rows, length in (*SHAPES, (2, window)):
        length = min(length, window)
        tokens = draw.integers(0, vocabulary, (rows, length))
        lengths = draw.integers(1, length + 1, rows)
        with torch.no_grad():
            made = whole.made(torch.from_numpy(tokens), torch.from_numpy(lengths))
        found = graph.run(tokens, lengths)
        for name, value in made.items():
            one, two = value.float().numpy(), found[name]
            if one.shape == two.shape and one.ndim == 3:
                one, two = (each[np.arange(length) < lengths[:, None]] for each in (one, two))
            gap = float(np.abs(two - one).max() / max(np.abs(one).max(), 1e-12)) if one.shape == two.shape else np.inf
            if not gap <= TOLERANCE:
                about = {"text": f"{name} {rows} x {length}", "difference": f"{gap:.2g}", "tolerance": TOLERANCE}
                raise DataError("golden.differs", path=str(opened.folder.path), **about)
