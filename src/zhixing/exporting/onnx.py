"""A trained model of rows leaves as one ONNX file, with the task and the tokenizer in its metadata; read again by ONNX Runtime first.

Inputs are `tokens` (rows, tokens) int64, padded on the right, and `lengths` (rows,) int64. Outputs are what the head gives: `answers`, the
log-odds of labels before the temperature, a place on a scale, or a vector; of a tagger `tags`, the scores of each token, and the chain's
`transitions` and `start`; of a model of language `next`, the log-odds of the token after each.
Source: the Open Neural Network Exchange; torch's exporter makes the file.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from zhixing.core.errors import UsageError
from zhixing.exporting.graph import as_function, compare, trace, unlike, width_of, window_of
from zhixing.exporting.recurrent import in_onnx
from zhixing.models.graph import INPUTS
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.task import to_dict

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Session:
    """An ONNX file, opened by ONNX Runtime, as read_out reads it.

    width   int, outputs
    window  int, tokens    None: any number
    """

    def __init__(self, path: Path, width: int, window: int | None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.width, self.window = width, window

    def run(self, tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what is made of rows, by name: of (B, T) int and (B,) int, as `layers.heads.named` says, float32."""
        given = dict(zip(INPUTS, (np.asarray(each, np.int64) for each in (tokens, lengths)), strict=True))
        names = [each.name for each in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, given), strict=True))


def write(opened: Artefact, path: Path) -> Session:
    """Write a model's ONNX file and open it again.

    Raises UsageError when a package is missing, or for a model that cannot be written so; DataError when it computes other numbers.
    """
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError:
            raise UsageError("extra.missing", package=package, extra="onnx") from None
    whole = as_function(opened)
    traced = trace(whole, opened)
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            said = {torch.ops.zhixing.recurrence.default: in_onnx}
            named = {"input_names": list(INPUTS), "output_names": list(whole.names), "custom_translation_table": said}
            made = torch.onnx.export(traced, dynamo=True, verbose=False, **named)
        except Exception as problem:  # torch raises many sorts, none of them a promise
            raise unlike(opened, problem) from None
    assert made is not None
    told = made.model.metadata_props
    told["zhixing.task"] = json.dumps(to_dict(opened.task), ensure_ascii=False)
    if opened.tokenizer is not None:
        told["zhixing.tokenizer"] = opened.tokenizer.content.decode("utf-8")
        told["zhixing.frame"] = json.dumps({"frame": opened.tokenizer.frame, "pad": opened.tokenizer.pad_id})
    made.save(str(path), external_data=False)
    found = Session(path, width_of(whole), window_of(opened))
    compare(whole, found, opened)
    return found
