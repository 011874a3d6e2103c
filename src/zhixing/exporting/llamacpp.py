"""A GGUF file read by llama.cpp itself, where it is installed: its own cutting of texts and its own log-probabilities.

The package `cyllama` has llama.cpp built. Keys and values are kept in 32 bits there, so that what is left of a difference is the weights'
rounding and, of rounded weights, that of what they are multiplied with. Leaves out: devices other than the processor, more rows at once.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import DataError

MOST = 256  # tokens of one text, of which golden answers have fewer
F32, OFF = 0, 0  # as its enumerations say: of types, and of attention in one operation, which rounds to 16 bits


def library() -> Any | None:
    """Give llama.cpp, or None where it is not installed."""
    try:
        found = importlib.import_module("cyllama.llama.llama_cpp")
    except ImportError:
        return None
    found.disable_logging()
    return found


class File:
    """A file that llama.cpp has opened.

    Raises DataError for one that it does not open.
    """

    def __init__(self, given: Any, path: Path) -> None:
        class Model(given.LlamaModel):
            n_vocab = property(lambda self: self.get_vocab().n_vocab)  # which cyllama 0.2.18 asks the model for when it gives logits

        self._path = path
        how, reading = given.LlamaModelParams(), given.LlamaContextParams()
        how.n_gpu_layers = 0
        reading.n_ctx = reading.n_batch = reading.n_ubatch = MOST
        reading.type_k = reading.type_v = F32
        reading.flash_attn_type = OFF
        try:
            self._model = Model(str(path), how, verbose=False)
            self._context = given.LlamaContext(self._model, reading, verbose=False)
        except Exception as problem:  # the library raises sorts of its own
            raise self._problem(problem) from None
        self._vocabulary = self._model.get_vocab()
        self._batch = given.LlamaBatch(n_tokens=MOST, embd=0, n_seq_max=1)

    def encode(self, text: str) -> list[int]:
        """Cut a text as it does, none of it a control token."""
        return list(self._vocabulary.tokenize(text, False, False))

    def run(self, tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Compute what follows each row.

        tokens   (B, T) int, T at most MOST
        lengths  (B,) int
        return   {"next": (B, V) float32}, of the token after each row's last

        Raises DataError where it does not read them.
        """
        found = []
        try:
            for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
                self._context.kv_cache_clear()
                self._batch.clear()
                for place, token in enumerate(row[:length]):
                    self._batch.add(token, place, [0], place == length - 1)
                self._context.decode(self._batch)
                found.append(np.asarray(self._context.get_logits(), np.float32))
        except Exception as problem:  # as above
            raise self._problem(problem) from None
        return {"next": np.stack(found)}

    def _problem(self, problem: Exception) -> DataError:
        return DataError("export.reader", path=str(self._path), problem=f"{type(problem).__name__}: {problem}"[:160])
