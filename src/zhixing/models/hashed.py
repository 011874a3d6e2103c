"""Hashed n-grams: a text is the counts of its runs of tokens, each hashed into one of a fixed number of places; nothing is learnt in it.

With a head of its own it is the linear model on n-grams, trained by the one loop. What it computes depends on no training text, so that
a model trained privately on it lets out nothing but its head. Read from bytes, runs of three, six and nine that begin where a character
does are one to three Chinese characters, among others.
Source: Weinberger et al. 2009, arXiv:0902.2206 (feature hashing). Differs: no signs, logarithms of counts, each text of length one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import alone
from zhixing.tokens.layout import FIRST_BYTE

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
BASE, SALT = 1_000_003, 0x9E3779B1  # of the rolling hash, and what tells lengths of runs apart
MIX = 0x5851F42D4C957F2D  # an odd number that spreads what is alike; products wrap
GRAMS = (3, 6, 9)  # bytes
LETTERS = (1, 2, 3)  # tokens, where they are no bytes
# What is most frequent says least: at epsilon 8, 81.9 % of validation reviews for 81.3 with (0.5, 1, 0).
WEIGHTS = (0.4, 1.0, 0.7)
CONTINUED = (FIRST_BYTE + 0x80, FIRST_BYTE + 0xBF)  # bytes within a character of UTF-8
PLANS = {
    "tiny": {"width": 4096, "window": 512, "batch": 64, "epochs": 12.0, "learning_rate": 0.02},
    "small": {"width": 32768, "window": 1024, "batch": 64, "epochs": 12.0, "learning_rate": 0.02},
    "medium": {"width": 131072, "window": 1024, "batch": 64, "epochs": 12.0, "learning_rate": 0.02},
    "large": {"width": 524288, "window": 2048, "batch": 64, "epochs": 12.0, "learning_rate": 0.02},
}


@dataclass(frozen=True)
class HashedConfig:
    """The shape of the model.

    buckets  int            places that runs are hashed into: the width of its one state
    grams    ints, tokens   lengths of runs
    weights  floats         what a run of each length counts; none: 1
    inside   two ints       at tokens from the first to the second no run begins; none: at all it may
    """

    vocab_size: int
    buckets: int
    grams: tuple[int, ...] = GRAMS
    weights: tuple[float, ...] = ()
    inside: tuple[int, ...] = ()
    model_type: str = "hashed"


class Hashed(nn.Module):
    """An encoder of one state a text: what runs of tokens stand in it."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"hashed": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("document",)
    pooling: ClassVar[str] = "first"

    def __init__(self, config: HashedConfig) -> None:
        super().__init__()
        for name, least in (("buckets", config.buckets), ("grams", min(config.grams, default=0))):
            if least < 1:
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
        if config.weights and len(config.weights) != len(config.grams):
            raise DataError("model.config_value", name="weights", value=config.weights, wanted="one for each of grams")
        if len(config.inside) not in (0, 2):
            raise DataError("model.config_value", name="inside", value=config.inside, wanted="two tokens, or none")
        self.config = config
        self.width = config.buckets
        self.window = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Hashed:
        """Make a model from a config.json's content."""
        return cls(read(HashedConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: its width, and whether tokens are bytes."""
        of_bytes = settings.tokenizer == "bytes"
        form = {"buckets": settings.width, "grams": list(GRAMS if of_bytes else LETTERS), "weights": list(WEIGHTS)}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "inside": list(CONTINUED) if of_bytes else []}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self.config).items()}

    def states(self, inputs: Inputs) -> Tensor:
        """Count the runs of each text.

        inputs  tokens (B, T) int, lengths (B,) int
        return  (B, 1, D) float, each row of length 1, or 0 where a text has no run
        """
        if inputs.segments is not None:
            return alone(lambda rows, lengths: self.states(Inputs(rows, lengths)), inputs.tokens, inputs.segments, inputs.lengths)
        tokens = inputs.tokens.long()
        B, T = tokens.shape
        place = torch.arange(T, device=tokens.device)
        lengths = torch.full_like(tokens[:, 0], T) if inputs.lengths is None else inputs.lengths  # (B,)
        begins = torch.ones_like(tokens, dtype=torch.bool)  # (B, T)
        if self.config.inside:
            begins = (tokens < self.config.inside[0]) | (tokens > self.config.inside[1])
        weights = dict(zip(self.config.grams, self.config.weights or (1.0,) * len(self.config.grams), strict=True))
        longest = max(self.config.grams)
        padded = F.pad(tokens, (0, longest - 1))  # runs that reach beyond a row are whole nowhere
        run = torch.zeros_like(tokens)  # (B, T): the hash of the run that begins at each place
        found: list[tuple[Tensor, Tensor]] = []
        for size in range(1, longest + 1):
            run = run * BASE + padded[:, size - 1 : size - 1 + T] + 1
            if size in self.config.grams:
                mixed = (run + size * SALT) * MIX
                bucket = ((mixed ^ (mixed >> 29)) * MIX).remainder(self.width)  # (B, T)
                found.append((bucket, ((place + size <= lengths[:, None]) & begins) * weights[size]))
        counts = torch.zeros(B, self.width, device=tokens.device)  # (B, D)
        buckets, amounts = (torch.cat(each, 1) for each in zip(*found, strict=True))
        counts = counts.scatter_add(1, buckets, amounts.to(counts.dtype)).log1p()
        return (counts / counts.norm(dim=1, keepdim=True).clamp(min=1e-12)).unsqueeze(1)
