"""A trained model of rows leaves as one ONNX file, with the task and the tokenizer in its metadata; read again by ONNX Runtime first.

Inputs are `tokens` (rows, tokens) int64, padded on the right, and `lengths` (rows,) int64; of a sound `frames` (rows, frames, features)
float32 and `frames_lengths` (rows,) int64; of a picture `image` (rows, 3, height, width) uint8 and, where a row may lack one, `pictures`
(rows,) int64, 0 or 1. Outputs are what the head gives: `answers`, the log-odds of labels before the temperature, a place on a scale, or a
vector; of a tagger `tags`, the scores of each token, and the chain's `transitions` and `start`; of a model of language `next`, the log-odds
of the token after each; of towers `image_vectors` and `text_vectors`; of an acoustic model `said`, the log-odds of a token or of nothing
(the end token) at each state, and `counts`, how many states of a row are real.
Source: the Open Neural Network Exchange; torch's exporter makes the file.
"""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zhixing.core.errors import UsageError
from zhixing.exporting import attention, recurrent
from zhixing.exporting.graph import answered, as_function, compare, sample, trace, unlike, width_of, window_of
from zhixing.models.session import Session, SessionConfig
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.task import to_dict

MOST_MIB = 1536  # of weights: beyond 2 GiB a file of this sort keeps them beside itself
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def session_of(opened: Artefact, weights: str = "F32", portable: bool = False) -> Session:
    """Write a model as an ONNX program and open it.

    weights   a name of `models.session.FORMS`
    portable  only ONNX's own operations, for any program that reads them; else ONNX Runtime's as well, which are faster there

    Raises UsageError when a package is missing, or for a model that is too large or cannot be written so; DataError when it computes other
    numbers.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UsageError("extra.missing", package=package, extra="onnx") from None
    size = sum(each.numel() * each.element_size() for each in {*opened.model.parameters(), *opened.model.buffers()}) / (1 << 20)
    if size > MOST_MIB:
        raise UsageError("export.large", path=str(opened.folder.path), model=opened.family, mib=f"{size:.0f}", most=MOST_MIB)
    whole = as_function(opened)
    if not portable:
        attention.in_one(whole)
    traced = trace(whole, opened)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            said = {torch.ops.zhixing.recurrence.default: recurrent.in_onnx, torch.ops.aten.sort.stable: in_order}
            answers = answered(whole, sample(opened))
            named = {"input_names": list(whole.inputs), "output_names": list(answers), "custom_translation_table": said}
            made = torch.onnx.export(traced, dynamo=True, verbose=False, **named)
        except Exception as problem:  # torch raises many sorts, none of them a promise
            raise unlike(opened, problem) from None
    assert made is not None
    told = made.model.metadata_props
    told["zhixing.task"] = json.dumps(to_dict(opened.task), ensure_ascii=False)
    if (given := opened.tokenizer) is not None:
        told["zhixing.tokenizer"] = given.content.decode("utf-8")
        writes = {"opening": given.opening, "ends": sorted(given.ends), "barred": given.barred}
        told["zhixing.frame"] = json.dumps({"frame": given.frame, "pad": given.pad_id, **writes})
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        try:
            made.save(str(path), external_data=False)
            if weights == "INT8":
                path = squeezed(path)
        except Exception as problem:  # as above
            raise unlike(opened, problem) from None
        program = np.frombuffer(path.read_bytes(), np.uint8)
    found = Session(SessionConfig(opened.family, width_of(answers), window_of(opened), weights, whole.inputs), program)
    if weights == "F32":
        compare(whole, found, opened)
    return found


def in_order(x: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
    """Say in ONNX's operations what sorting is, for torch's exporter to call: of equal values its `TopK` gives the first one first."""
    from onnxscript import opset18 as op

    many = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]), axis=0)
    return op.TopK(x, many, axis=dim, largest=int(descending), sorted=1)


def squeezed(path: Path) -> Path:
    """Give a file's products of matrices weights of eight bits, a scale a column; what they read is rounded as it comes.

    Of the eight bits seven are used: older processors add two products in sixteen bits, and would lose what does not fit.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out = path.with_name("int8.onnx")
    logging.disable(logging.WARNING)
    try:
        how: dict[str, Any] = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
        what = {"op_types_to_quantize": ["MatMul", "Gemm", "Attention"], "extra_options": {"DefaultTensorType": TensorProto.FLOAT}}
        quantize_dynamic(str(path), str(out), **how, **what)
    finally:
        logging.disable(logging.NOTSET)
    return out
