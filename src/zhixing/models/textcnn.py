"""The text CNN: filters of a few widths slide over the words' vectors, and what they find is an encoder's states.

A state at a place holds what every filter, centred there, found; a head that takes each filter's maximum over the text is then the model
as it was published, one that keeps the places tags tokens. Nothing of padding is seen: it is zero before the filters and after them.
Source: Kim 2014, arXiv:1408.5882. Differs: filters also stand where they reach beyond the text's ends, which are zero there.
Leaves out: the second, frozen table of vectors from elsewhere; the bound on the norm of the head's weights.
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
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import alone

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
TABLE_SCALE = 0.1  # of fresh vectors: small enough to be moved; on reviews 72 % beside 64 % with 1, after 30 core-seconds
FIRST_WIDTH = 3  # filters are of this many tokens and up, one more each: 3, 4, 5 as published
PLANS = {
    "tiny": {"layers": 3, "width": 192, "embedding": 64, "window": 256, "batch": 32, "epochs": 12.0},
    "small": {"layers": 3, "width": 300, "embedding": 128, "window": 256, "batch": 32, "epochs": 12.0},
    "medium": {"layers": 4, "width": 800, "embedding": 256, "window": 512, "batch": 32, "epochs": 12.0},
    "large": {"layers": 5, "width": 2000, "embedding": 300, "window": 512, "batch": 32, "epochs": 12.0},
}


@dataclass(frozen=True)
class TextCNNConfig:
    """The shape of the model.

    kernel_sizes  ints, tokens    widths of the filters
    filters       int             how many there are of each width
    dropout       float           on embeddings and on states, in training only
    """

    vocab_size: int
    embedding_dim: int
    kernel_sizes: tuple[int, ...]
    filters: int
    dropout: float = 0.0
    model_type: str = "textcnn"


class TextCNN(nn.Module):
    """An encoder: at every place, what each filter found around it."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"textcnn": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    pooling: ClassVar[str] = "max"

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__()
        for name, least in (("kernel_sizes", min(config.kernel_sizes, default=0)), ("filters", config.filters)):
            if least < 1:
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
        self.config = config
        self.width = len(config.kernel_sizes) * config.filters
        self.window = None  # of the text it can read
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.filters = nn.ModuleList(nn.Conv1d(config.embedding_dim, config.filters, size) for size in config.kernel_sizes)
        self.dropout = Dropout(config.dropout)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextCNN:
        """Make a fresh model from a config.json's content."""
        return cls(read(TextCNNConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers (side by side, a width of filters each), width (of all), embedding."""
        form = {"kernel_sizes": [FIRST_WIDTH + layer for layer in range(settings.layers)], "filters": settings.width // settings.layers}
        form |= {"embedding_dim": settings.embedding, "dropout": max(0.0, settings.dropout)}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {**dataclasses.asdict(self.config), "kernel_sizes": list(self.config.kernel_sizes)}

    def states(self, inputs: Inputs) -> Tensor:
        """Compute what every filter finds at every position, never negative.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length are zero
        return  (B, T, D) float
        """
        if inputs.segments is not None:
            return alone(lambda rows, lengths: self.states(Inputs(rows, lengths)), inputs.tokens, inputs.segments, inputs.lengths)
        x = self.dropout(self.embedding(inputs.tokens))  # (B, T, E)
        real = None
        if inputs.lengths is not None:
            real = torch.arange(x.shape[1], device=x.device) < inputs.lengths[:, None]  # (B, T)
            x = x * real.unsqueeze(2)
        x = x.mT  # (B, E, T)
        found = [each(F.pad(x, ((size - 1) // 2, size // 2))) for each, size in zip(self.filters, self.config.kernel_sizes, strict=True)]
        states = torch.cat(found, 1).relu().mT  # (B, T, D)
        return self.dropout(states if real is None else states * real.unsqueeze(2))

    @torch.no_grad()
    def _initialise(self) -> None:
        self.embedding.weight.normal_(0.0, TABLE_SCALE)
        for each in self.filters:
            each.weight.normal_(0.0, (2 / (each.in_channels * each.kernel_size[0])) ** 0.5)
            each.bias.zero_()
