"""Bidirectional recurrent encoders: at every place, what an LSTM or a GRU remembers of the text before it, and another of the text after.

The second reads each row from its own last real token backwards, so that padding is never read before the text. Rows are turned around by
an index: as packed sequences, torch reads them three to four times as slowly on a CPU (32 rows of 64 and 128 tokens, one core).
Source: Schuster and Paliwal 1997; Graves and Schmidhuber 2005 (LSTM); dropout between layers as in Zaremba et al. 2014, arXiv:1409.2329.
Leaves out: Elman networks both ways; an output layer of tags that depend on each other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import alone
from zhixing.models.recurrent import KEEPING

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
CELLS = {"bilstm": nn.LSTM, "bigru": nn.GRU}
PLANS = {
    "tiny": {"layers": 1, "width": 128, "embedding": 64, "window": 256, "batch": 32, "epochs": 12.0},
    "small": {"layers": 1, "width": 256, "embedding": 128, "window": 256, "batch": 32, "epochs": 12.0},
    "medium": {"layers": 2, "width": 512, "embedding": 256, "window": 256, "batch": 32, "epochs": 12.0},
    "large": {"layers": 3, "width": 1024, "embedding": 512, "window": 512, "batch": 32, "epochs": 12.0},
}


@dataclass(frozen=True)
class BidirectionalConfig:
    """The shape of the model.

    hidden_dim  int      width of each direction's state; the model's is twice that
    dropout     float    on embeddings, between layers and on states, in training only
    """

    vocab_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int = 1
    dropout: float = 0.0
    model_type: str = "bilstm"


def turn(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn each row's real places around; padding stays where it is. Done twice, it is undone.

    x        (B, T, D) float
    lengths  (B,) int           how many of a row's places are real; None: all
    return   (B, T, D) float
    """
    if lengths is None:
        return x.flip(1)
    place = torch.arange(x.shape[1], device=x.device)  # (T,)
    back = lengths[:, None] - 1 - place  # (B, T)
    return x.gather(1, torch.where(back >= 0, back, place).unsqueeze(2).expand_as(x))


class Layer(nn.Module):
    """One layer: a recurrent network each way, their states side by side."""

    def __init__(self, cell: type[nn.RNNBase], width: int, hidden: int) -> None:
        super().__init__()
        self.ahead = cell(width, hidden, batch_first=True)
        self.back = cell(width, hidden, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Read rows both ways.

        x        (B, T, E) float
        lengths  (B,) int           None: all of a row is real
        return   (B, T, D) float
        """
        return torch.cat([self.ahead(x)[0], turn(self.back(turn(x, lengths))[0], lengths)], 2)


class Bidirectional(nn.Module):
    """An encoder: at every place, a state of what stands before and after it."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"bilstm": PLANS, "bigru": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    pooling: ClassVar[str] = "mean"

    def __init__(self, config: BidirectionalConfig) -> None:
        super().__init__()
        for name in ("hidden_dim", "num_layers"):
            if getattr(config, name) < 1:
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
        self.config = config
        self.width = 2 * config.hidden_dim
        self.window = None  # of the text it can read
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        widths = [config.embedding_dim] + [self.width] * (config.num_layers - 1)
        self.layers = nn.ModuleList(Layer(CELLS[config.model_type], width, config.hidden_dim) for width in widths)
        self.dropout = Dropout(config.dropout)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bidirectional:
        """Make a fresh model from a config.json's content."""
        return cls(read(BidirectionalConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width (half of it each way), embedding, dropout."""
        form = {"embedding_dim": settings.embedding, "hidden_dim": settings.width // 2, "num_layers": settings.layers}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for every position from the real tokens before and after it.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float
        """
        if inputs.segments is not None:
            return alone(lambda rows, lengths: self.states(Inputs(rows, lengths)), inputs.tokens, inputs.segments, inputs.lengths)
        x = self.dropout(self.embedding(inputs.tokens))  # (B, T, E)
        for layer in self.layers:
            x = self.dropout(layer(x, inputs.lengths))  # (B, T, D)
        return x

    @torch.no_grad()
    def _initialise(self) -> None:
        self.embedding.weight.normal_(0.0, 0.1)
        keeping = KEEPING[self.config.model_type.removeprefix("bi")]
        for name, parameter in self.layers.named_parameters():
            if "bias" in name:
                parameter.zero_()
            if "bias_ih" in name:
                parameter[self.config.hidden_dim : 2 * self.config.hidden_dim] = keeping
