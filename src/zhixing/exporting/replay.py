"""A model of another form asked as the golden answers ask one: what it makes of rows is read out as a model's of ours is.

All that was read is read again at each step: what is asked is short. Leaves out: sampling, long texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from zhixing.data.batch import pad
from zhixing.layers.kinds import Inputs
from zhixing.models.graph import INPUTS, answer

Run = Callable[..., Mapping[str, np.ndarray]]


@dataclass
class Read:
    """What a model has read: of each row its tokens and, where it is given a source, that one's arrays.

    source  (B, S) int tokens and (B,) int lengths, or (B, F, C) float frames
    """

    rows: list[list[int]]
    source: tuple[np.ndarray, ...] = ()


class Writer:
    """A model that writes.

    run     (tokens (B, T) int, lengths (B,) int) -> {"next": (B, T, V)}, or (B, V) after each row's last; of one that is given a source,
            its arrays come after
    window  int, tokens    None: any number
    """

    def __init__(self, run: Run, window: int | None) -> None:
        self.run, self.window = run, window

    def cache(self, rows: int) -> Read:
        """Give what was read of each row: nothing yet."""
        return Read([[] for _ in range(rows)])

    def log_probabilities(self, inputs: Inputs, cache: Read) -> torch.Tensor:
        """Give (B, V) log p(next token) after all that was read, and remember it."""
        assert inputs.tokens is not None
        lengths = [inputs.tokens.shape[1]] * len(cache.rows) if inputs.lengths is None else inputs.lengths.tolist()
        for row, tokens, length in zip(cache.rows, inputs.tokens.tolist(), lengths, strict=True):
            row += tokens[:length]
        batch = pad([{"tokens": row} for row in cache.rows], 0)
        logits = self.run(batch["tokens"], batch["lengths"], *cache.source)["next"]  # (B, T, V), or (B, V)
        last = logits if logits.ndim == 2 else logits[np.arange(len(cache.rows)), batch["lengths"] - 1]
        return torch.from_numpy(np.array(last, np.float32)).log_softmax(-1)


class Translator:
    """A model that writes a text given another, or given a sound; as `Writer`, with `senses` as a model has them."""

    def __init__(self, run: Run, window: int | None, senses: tuple[str, ...] = ()) -> None:
        self.window, self.senses, self.log_probabilities = window, senses, Writer(run, window).log_probabilities

    def open(self, source: Inputs) -> Read:
        """Take sources; nothing of their translations has been read."""
        if source.frames is not None:
            return Read([[] for _ in range(len(source.frames))], (source.frames.numpy(),))
        assert source.tokens is not None and source.lengths is not None
        return Read([[] for _ in range(len(source.tokens))], (source.tokens.numpy(), source.lengths.numpy()))


class Answering:
    """A model of rows of tokens: `run` as `models.graph.Graph` has it, and the vector's width."""

    inputs, answer = INPUTS, answer

    def __init__(self, run: Run, width: int) -> None:
        self.run, self.width = run, width
