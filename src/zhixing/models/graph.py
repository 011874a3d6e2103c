"""A trained model as a list of operations on arrays: what it computes from texts, sounds or pictures, read with NumPy and nothing else.

The operations are those of torch's core set, into which a model is taken apart when it is exported (`exporting.graph`); `operations` says
what each means, so that what the model is stays in the model's own file. It answers and cannot be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.models.operations import OPERATIONS

REMARKS = frozenset({"architectures"})
INPUTS = ("tokens", "lengths")
# All that a form without torch may be given, each as `layers.kinds.Inputs` has it, and of what type.
GIVEN = {
    "tokens": np.int64,
    "lengths": np.int64,
    "frames": np.float32,
    "frames_lengths": np.int64,
    "image": np.uint8,
    "pictures": np.int64,
}
MOST = 1 << 24  # outputs and tokens
ARGUMENTS = frozenset("dtype alpha approximate rounding_mode stable dim descending".split())  # what an operation may be told by name
NAME, NUMBER = "$", "#"  # a reference to another node, {"$": name}, and a number that JSON has no sign for, {"#": "-inf"}
FLOATS = {"float32": np.float32, "float64": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_, "uint8": np.uint8}


@dataclass(frozen=True)
class GraphConfig:
    """The operations in their order.

    family   the model's own `model_type`
    width    int, outputs     the last axis of what is given first
    window   int, tokens      the most it reads; None: any number
    nodes    [name, operation, positional arguments, named arguments] each; references and numbers as NAME and NUMBER say
    outputs  what is given, by name, and the node or the array that it is
    inputs   names of GIVEN   what it reads, in the order in which it is given
    """

    family: str
    width: int
    window: int | None
    nodes: tuple[Any, ...]
    outputs: dict[str, str]
    inputs: tuple[str, ...] = INPUTS
    model_type: str = "graph"


def answer(model: Any, batch: Mapping[str, np.ndarray], *wanted: str) -> dict[str, np.ndarray]:
    """Let a model without torch read a batch: what its `run` makes of those arrays that its `inputs` name.

    wanted  names that must be among what it gives

    Raises DataError for one that reads or gives something else than its task has.
    """
    lacking = [name for name in model.inputs if name not in batch]
    made = {} if lacking else model.run(*(batch[name] for name in model.inputs))
    lacking = lacking or [name for name in wanted if name not in made]
    if lacking:
        raise DataError("model.unfit", names=", ".join(lacking))
    return made


class Graph:
    """Operations and the arrays among them."""

    arrays = True
    mapped = True  # its arrays may lie in their file: nothing writes into them

    def __init__(self, config: GraphConfig, tensors: dict[str, np.ndarray]) -> None:
        if not 0 < config.width <= MOST or (config.window is not None and not 0 < config.window <= MOST):
            raise DataError("model.config_value", name="width, window", value=f"{config.width}, {config.window}", wanted=f"1 to {MOST}")
        self.config, self.kept = config, tensors
        self.width, self.window, self.inputs = config.width, config.window, check_inputs(config.inputs)
        known = {*self.inputs, *tensors}
        self._steps: list[tuple[str, Callable[..., Any], Any, dict[str, Any]]] = []
        uses: dict[str, int] = {}
        for place, node in enumerate(config.nodes):
            sound = isinstance(node, list | tuple) and len(node) == 4 and all(isinstance(each, str) for each in node[:2])
            if not sound or not isinstance(node[2], list | tuple) or not isinstance(node[3], dict):
                raise DataError("graph.node", place=place, node=repr(node)[:80])
            name, operation, given, named = node
            if operation not in OPERATIONS:
                raise DataError("graph.operation", name=operation, problem="not one that is read here")
            if not set(named) <= ARGUMENTS:
                raise DataError("graph.operation", name=operation, problem=f"told {', '.join(map(str, named))}"[:80])
            for each in references([given, named]):
                if each not in known:
                    raise DataError("graph.node", place=place, node=repr(node)[:80])
                uses[each] = place
            known.add(name)
            typed = {key: FLOATS.get(value, value) if key == "dtype" else value for key, value in named.items()}
            self._steps.append((name, OPERATIONS[operation], numbered(given), numbered(typed)))
        for each in config.outputs.values() or [""]:
            if each not in known:
                raise DataError("graph.node", place=len(config.nodes), node=repr(each)[:80])
        self._last: list[list[str]] = [[] for _ in self._steps]  # what no later operation needs
        for name, place in uses.items():
            if name not in config.outputs.values() and name not in tensors:
                self._last[place].append(name)

    def run(self, *given: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what is made of rows, by name.

        given   what its `inputs` name, of B rows each
        return  as `layers.heads.named` says, float32; of towers and of acoustic models as `exporting.graph.Whole` does
        """
        held: dict[str, Any] = {**self.kept, **{name: np.asarray(each) for name, each in zip(self.inputs, given, strict=True)}}
        with np.errstate(all="ignore"):  # of what is masked away
            for (name, operation, places, named), done in zip(self._steps, self._last, strict=True):
                try:
                    held[name] = operation(*(filled_in(each, held) for each in places), **{k: filled_in(v, held) for k, v in named.items()})
                except (TypeError, ValueError, LookupError, AttributeError, MemoryError, ArithmeticError) as problem:
                    raise DataError("graph.operation", name=name, problem=f"{type(problem).__name__}: {problem}"[:120]) from None
                for each in done:
                    del held[each]
        return {name: np.asarray(held[node]) for name, node in self.config.outputs.items()}

    answer = answer

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return {**asdict(self.config), "nodes": list(self.config.nodes)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the arrays, to be saved."""
        return self.kept

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Graph:
        """Build the model again from its configuration and its saved arrays.

        Raises DataError for an operation that is not known, or one that refers to nothing.
        """
        nodes, config = config.get("nodes"), dict(config)
        if "output" in config:  # of folders of the time when there was but one
            config["outputs"] = {"answers": config.pop("output")}
        if not isinstance(nodes, list | tuple):
            raise DataError("graph.node", place=0, node=repr(nodes)[:80])
        try:
            return cls(
                read(GraphConfig, {**config, "nodes": tuple(nodes)}, REMARKS), {name: np.asarray(each) for name, each in tensors.items()}
            )
        except (TypeError, ValueError, RecursionError) as problem:  # of a list that no export wrote
            raise DataError("graph.node", place=0, node=f"{type(problem).__name__}: {problem}"[:80]) from None


def check_inputs(names: Sequence[str]) -> tuple[str, ...]:
    """Refuse what no form is given, by name; raises DataError."""
    if not names or not all(isinstance(each, str) for each in names) or len({*names}) < len(names) or not {*names} <= {*GIVEN}:
        raise DataError("model.config_value", name="inputs", value=", ".join(map(str, names))[:80], wanted=", ".join(GIVEN))
    return tuple(names)


def references(value: Any) -> list[str]:
    """List the names that an argument refers to."""
    if isinstance(value, dict):
        if set(value) == {NAME}:
            return [value[NAME]]
        return [each for one in value.values() for each in references(one)]
    return [each for one in value for each in references(one)] if isinstance(value, list | tuple) else []


def numbered(value: Any) -> Any:
    """Put numbers in the place of those that JSON has no sign for."""
    if isinstance(value, dict):
        return float(value[NUMBER]) if set(value) == {NUMBER} else {name: numbered(each) for name, each in value.items()}
    return [numbered(each) for each in value] if isinstance(value, list | tuple) else value


def filled_in(value: Any, held: Mapping[str, Any]) -> Any:
    """Put what references name in their places."""
    if isinstance(value, dict) and set(value) == {NAME}:
        return held[value[NAME]]
    return [filled_in(each, held) for each in value] if isinstance(value, list | tuple) else value
