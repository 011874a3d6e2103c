"""Hostile ONNX programs among a model's tensors: none reads another file, none takes steps without end; each is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhixing.core.errors import DataError
from zhixing.models import session as sessions
from zhixing.models.session import Session

onnx = pytest.importorskip("onnx", reason="onnx is not installed: no program can be written")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: there is nothing to read a program with")
pytestmark = pytest.mark.interop

INT, FLOAT, TRUE = 7, 1, 9
MANY = 4096
ABOUT = {"family": "bert", "width": 1, "window": None}


def program(nodes: list[Any], held: list[Any]) -> np.ndarray:
    """Give the bytes of a program that reads tokens and lengths and says `answers`, (1,)."""
    given = [onnx.helper.make_tensor_value_info("tokens", INT, ["B", "T"]), onnx.helper.make_tensor_value_info("lengths", INT, ["B"])]
    graph = onnx.helper.make_graph(nodes, "evil", given, [onnx.helper.make_tensor_value_info("answers", FLOAT, [1])], held)
    made = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    return np.frombuffer(made.SerializeToString(), np.uint8)


def elsewhere(place: str) -> Any:
    """Give numbers that lie in a file: so many that the library does not look at them before it opens the file."""
    tensor = onnx.TensorProto(name="secret", data_type=FLOAT, dims=[MANY], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=place)
    return tensor


def endless(steps: int) -> np.ndarray:
    """Give a program that adds one so often."""
    info = onnx.helper.make_tensor_value_info
    add = [onnx.helper.make_node("Add", ["x", "one"], ["y"]), onnx.helper.make_node("Identity", ["go"], ["on"])]
    body = onnx.helper.make_graph(
        add, "body", [info("i", INT, []), info("go", TRUE, []), info("x", FLOAT, [1])], [info("on", TRUE, []), info("y", FLOAT, [1])]
    )
    held = [onnx.helper.make_tensor("n", INT, [], [steps]), onnx.helper.make_tensor("one", FLOAT, [1], [1.0])]
    return program([onnx.helper.make_node("Loop", ["n", "", "one"], ["answers"], body=body)], held)


def test_a_program_reads_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.bin").write_bytes(np.full(MANY, 42, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    same = [onnx.helper.make_node("Sub", ["lengths"] * 2, ["x"]), onnx.helper.make_node("Gather", ["secret", "x"], ["answers"])]
    constant = onnx.helper.make_node("Constant", [], ["answers"], value=elsewhere("secret.bin"))
    for made in (program(same, [elsewhere("secret.bin")]), program([constant], []), program(same, [elsewhere("*/_ORT_MEM_ADDR_/*")])):
        with pytest.raises(DataError, match="another file"):
            Session.from_tensors(ABOUT, {"onnx": made})
    monkeypatch.setattr(sessions, "check", lambda _: None)  # and where it were not seen, nothing is found
    with pytest.raises(DataError):
        Session.from_tensors(ABOUT, {"onnx": program(same, [elsewhere("secret.bin")])})


@pytest.mark.timeout(60)
def test_a_program_takes_no_steps_without_end() -> None:
    for steps in (3, 2**62):
        with pytest.raises(DataError, match="Loop"):
            Session.from_tensors(ABOUT, {"onnx": endless(steps)})


def test_bytes_are_walked_to_their_end() -> None:
    sound = program([onnx.helper.make_node("Identity", ["one"], ["answers"])], [onnx.helper.make_tensor("one", FLOAT, [1], [1.0])])
    found = Session.from_tensors(ABOUT, {"onnx": sound})
    assert found.run(np.ones((1, 2)), np.ones(1))["answers"].tolist() == [1.0]
    for made in (sound[:-1], np.uint8([255] * 40), np.uint8([8]), np.uint8([59, 0]), np.uint8([58, 255, 255, 255, 127, 0])):
        with pytest.raises(DataError, match="no ONNX file"):
            Session.from_tensors(ABOUT, {"onnx": made})


def test_a_program_is_given_what_it_reads() -> None:
    sound = program([onnx.helper.make_node("Identity", ["one"], ["answers"])], [onnx.helper.make_tensor("one", FLOAT, [1], [1.0])])
    turned = Session.from_tensors({**ABOUT, "inputs": ["lengths", "tokens"]}, {"onnx": sound})
    assert turned.inputs == ("lengths", "tokens") and turned.run(np.ones(1), np.ones((1, 2)))["answers"].tolist() == [1.0]
    for inputs in (["tokens"], ["tokens", "lengths", "image"]):
        with pytest.raises(DataError, match="it reads tokens, lengths"):
            Session.from_tensors({**ABOUT, "inputs": inputs}, {"onnx": sound})
    for inputs in ([], ["tokens", "tokens"], ["tokens", "secrets"]):
        with pytest.raises(DataError, match="inputs"):
            Session.from_tensors({**ABOUT, "inputs": inputs}, {"onnx": sound})
