"""A trained model as a program of the Open Neural Network Exchange, which ONNX Runtime computes; it answers and cannot be trained.

The program lies among the folder's tensors as bytes. With weights in eight bits its answers to a row move a little with the rows beside it,
whose values share one scale. Threads are as many as OMP_NUM_THREADS says, else as many as there are cores.
A program is read before it is opened: one that has its numbers in another file, or programs inside (`Loop`, `Scan`, `If`, functions), whose
steps nothing bounds, is refused. Source: onnx.ai, the operator sets and onnx.proto; ONNX Runtime's documentation. Leaves out: devices other
than the processor, a bound on the memory that a program's operations take.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError
from zhixing.models.graph import GIVEN, INPUTS, MOST, answer, check_inputs

PROGRAM = "onnx"
REMARKS = frozenset({"architectures"})
# Of onnx.proto, by message: fields that are messages, to be walked through, and those that no program of ours has.
INSIDE = {"model": {7: "graph"}, "graph": {1: "node", 5: "tensor"}, "node": {5: "attribute"}, "attribute": {5: "tensor", 10: "tensor"}}
ELSEWHERE, WITHIN, SPARSE = "numbers in another file", "a program inside it, as Loop, Scan and If have", "sparse tensors"
UNTAKEN = {
    "model": {20: WITHIN, 25: WITHIN},
    "graph": {15: SPARSE},
    "attribute": {6: WITHIN, 11: WITHIN, 22: SPARSE, 23: SPARSE},
    "tensor": {13: ELSEWHERE},
}
MOST_THREADS = 1024
# A sum and its norm in one operation go number by number: apart, a row of 15 tokens took three quarters of the time (ONNX Runtime 1.32).
SLOW = ["SkipLayerNormFusion"]
FORMS = {"F32": "fp32", "INT8": "int8"}  # of the weights, and which of golden's forms that is


@dataclass(frozen=True)
class SessionConfig:
    """What is known of a program beside itself.

    family  the model's own `model_type`
    width   int, outputs     columns of what is given
    window  int, tokens      the most it reads; None: any number
    weights a name of FORMS
    inputs  names of GIVEN   what it reads, in the order in which it is given
    """

    family: str
    width: int
    window: int | None
    weights: str = "F32"
    inputs: tuple[str, ...] = INPUTS
    model_type: str = "session"


class Session:
    """A program, opened.

    program  (N,) uint8    the bytes of an ONNX file

    Raises UsageError where ONNX Runtime is not installed, DataError for bytes that it does not open or that read something else.
    """

    arrays = True

    def __init__(self, config: SessionConfig, program: np.ndarray) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UsageError("extra.missing", package="onnxruntime", extra="onnx") from None
        if not 0 < config.width <= MOST or (config.window is not None and not 0 < config.window <= MOST):
            raise DataError("model.config_value", name="width, window", value=f"{config.width}, {config.window}", wanted=f"1 to {MOST}")
        if config.weights not in FORMS:
            raise DataError("model.config_value", name="weights", value=str(config.weights)[:40], wanted=" | ".join(FORMS))
        self.config, self.program = config, program
        self.width, self.window, self.form = config.width, config.window, FORMS[config.weights]
        self.inputs = check_inputs(config.inputs)
        check(program)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.log_severity_level = 4  # what it cannot open is told as an error below
        options.intra_op_num_threads = threads()
        try:
            with tempfile.TemporaryDirectory() as empty:  # where it would look for other files
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
                given = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": SLOW}
                self._session = onnxruntime.InferenceSession(program.tobytes(), options, **given)
        except Exception as problem:  # the library raises sorts of its own
            raise DataError("model.session", problem=f"{type(problem).__name__}: {problem}"[:160]) from None
        self.names = [each.name for each in self._session.get_outputs()]
        if sorted(each.name for each in self._session.get_inputs()) != sorted(self.inputs):
            raise DataError("model.session", problem=f"it reads {', '.join(each.name for each in self._session.get_inputs())}"[:160])

    def run(self, *given: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what is made of rows, by name: given and returned as of `models.graph.Graph`."""
        arrays = {name: np.asarray(each, GIVEN[name]) for name, each in zip(self.inputs, given, strict=True)}
        try:
            return dict(zip(self.names, self._session.run(self.names, arrays), strict=True))
        except Exception as problem:
            raise DataError("model.session", problem=f"{type(problem).__name__}: {problem}"[:160]) from None

    answer = answer

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give the program, to be saved."""
        return {PROGRAM: self.program}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Session:
        """Open a saved program again. Raises as the class does."""
        program = np.asarray(tensors.get(PROGRAM, ()))
        if program.dtype != np.uint8 or program.ndim != 1:
            raise DataError("model.session", problem=f"no bytes of the name {PROGRAM!r}")
        return cls(read(SessionConfig, config, REMARKS), program)


def check(program: np.ndarray) -> None:
    """Refuse a program that would read other files, or take any number of steps, by its bytes (N,) uint8; raises DataError."""
    waiting = [("model", memoryview(np.ascontiguousarray(program)))]
    try:
        while waiting:
            message, held = waiting.pop()
            inside, untaken = INSIDE.get(message, {}), UNTAKEN.get(message, {})
            for field, content in fields(held):
                if field in untaken:
                    raise DataError("model.session", problem=f"it has {untaken[field]}")
                if field in inside and content is not None:
                    waiting.append((inside[field], content))
    except IndexError:
        raise DataError("model.session", problem="its bytes are no ONNX file") from None


def fields(held: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Give a message's fields, by protobuf's encoding: the number, and the bytes of those that have a length. Raises IndexError."""
    place = 0
    while place < len(held):
        key, place = _number(held, place)
        sort, content = key & 7, None
        if sort == 0:
            _, place = _number(held, place)
        elif sort == 2:
            length, place = _number(held, place)
            content, place = held[place : place + length], place + length
        elif sort in (1, 5):
            place += 8 if sort == 1 else 4
        else:
            raise IndexError(sort)
        if place > len(held):
            raise IndexError(place)
        yield key >> 3, content


def _number(held: memoryview, place: int) -> tuple[int, int]:
    """Read a number of seven bits a byte: it, and where it ends."""
    found = 0
    for shift in range(0, 70, 7):
        found |= (held[place + shift // 7] & 127) << shift
        if held[place + shift // 7] < 128:
            return found, place + shift // 7 + 1
    raise IndexError(place)


def threads() -> int:
    """Give how many threads the environment asks for, of a list the first number; 0: as many as there are cores."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    found = int(told) if told.isdecimal() and len(told) <= len(str(MOST_THREADS)) else 0
    return found if found <= MOST_THREADS else 0
