"""The convolutional language model: layers of gated convolutions that look back only, wider and wider.

Each layer mixes a few positions, some steps apart, through a gate, and adds the outcome to the stream; stacked, they see as far as the sum
of their steps. No state is carried, so that training reads all positions at once, as it does in a Transformer.
Source: Dauphin et al. 2017, arXiv:1612.08083 (gated linear units); the steps apart double from layer to layer as in van den Oord et al.
2016, arXiv:1609.03499. Differs: the stream is normalised before each layer, instead of the weights.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, RunError
from zhixing.layers.blocks import Norm
from zhixing.layers.dropout import Dropout
from zhixing.layers.history import History, before, taps
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import apart

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
# Frozen: a recipe gives the same model for ever. A few runs of `tiny` for 250 steps, in bits per byte on the validation text of
# tiny_shakespeare (the 5 % at its head): 2.446 at the decoders' rate of 0.004 and decay of 0.5; 2.414 at the rate 0.01 and 2.395 at 0.02;
# 2.386 at 0.01 with a decay of 0.1. Embeddings of scale 1 instead of 0.3: 2.466.
RATES = {"learning_rate": 0.01, "weight_decay": 0.1}
PLANS = {
    "tiny": {"layers": 6, "width": 96, "context": 3, "window": 128, "batch": 16, "epochs": 4.0, **RATES},
    "small": {"layers": 8, "width": 160, "context": 3, "window": 256, "batch": 8, "epochs": 4.0, **RATES},
    "medium": {"layers": 10, "width": 384, "context": 3, "window": 256, "batch": 32, "epochs": 8.0, **RATES},
    "large": {"layers": 16, "width": 768, "context": 3, "window": 512, "batch": 32, "epochs": 8.0, **RATES},
}
DOUBLINGS = 4  # layers after which the steps apart begin again at 1
EMBEDDING_SCALE = 0.3


@dataclass(frozen=True)
class ConvolutionConfig:
    """The shape of the model.

    kernel_size  int, positions          that a layer mixes, the present one included
    dilations    ints, steps, a layer    between those positions
    dropout      float                   on embeddings and on what each layer adds, in training only
    """

    vocab_size: int
    hidden_size: int
    kernel_size: int
    dilations: tuple[int, ...]
    norm_eps: float = 1e-6
    dropout: float = 0.0
    model_type: str = "convolution"


class Layer(nn.Module):
    """One layer: out(a * sigmoid(b)), with a and b of the positions that the layer mixes, is added to the stream."""

    def __init__(self, config: ConvolutionConfig, dilation: int) -> None:
        super().__init__()
        self.count, self.dilation = config.kernel_size, dilation
        self.norm = Norm(config.hidden_size, config.norm_eps)
        self.gated = nn.Linear(config.kernel_size * config.hidden_size, 2 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.dropout)

    @property
    def reach(self) -> int:
        """How many positions back the layer looks."""
        return (self.count - 1) * self.dilation

    def forward(self, x: Tensor, cache: History | None, layer: int, lengths: Tensor | None) -> Tensor:
        """Add the layer's contribution.

        x        (B, T, D) float
        lengths  (B,) int           how many of a row's positions are real; None: all
        return   (B, T, D) float
        """
        whole = before(self.norm(x), self.reach, cache, layer, lengths)  # (B, S, D)
        mixed = self.gated(taps(whole, self.count, self.dilation))  # (B, T, E), E = 2 * D
        return x + self.dropout(self.out(F.glu(mixed, -1)))


class Convolution(nn.Module):
    """A causal language model: p(next token | the tokens in reach), at every position at once.

    Output projections begin at zero, so that a fresh model is its embeddings alone and predicts uniformly.
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"convolution": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")

    def __init__(self, config: ConvolutionConfig) -> None:
        super().__init__()
        for name, least in (("kernel_size", config.kernel_size), ("dilations", min(config.dilations, default=0))):
            if least < 1:
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
        self.config = config
        self.width = config.hidden_size
        self.vocabulary = config.vocab_size
        self.window = None  # of the text it can read; of each token it sees what is in reach
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, dilation) for dilation in config.dilations)
        self.norm = Norm(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.dropout = Dropout(config.dropout)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Convolution:
        """Make a fresh model from a config.json's content."""
        return cls(read(ConvolutionConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, context (of a layer), dropout; texts may be of any length."""
        form = {"hidden_size": settings.width, "kernel_size": settings.context}
        form["dilations"] = [2 ** (layer % DOUBLINGS) for layer in range(settings.layers)]
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {**dataclasses.asdict(self.config), "dilations": list(self.config.dilations)}

    def states(self, inputs: Inputs, cache: History | None = None) -> Tensor:
        """Compute a state for every position from the tokens in reach; with a cache, go on from it and leave the last inputs in it.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float
        """
        if inputs.segments is not None:
            if cache is not None:
                raise RunError("model.cache_segments")
            return apart(lambda rows: self.states(Inputs(rows)), inputs.tokens, inputs.segments)
        x = self.dropout(self.embedding(inputs.tokens))  # (B, T, D)
        for number, layer in enumerate(self.layers):
            x = layer(x, cache, number, inputs.lengths)
        if cache is not None:
            cache.advance(inputs.tokens.shape[1])
        return self.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return self.lm_head(states)

    def cache(self, rows: int) -> History:
        """Return an empty cache of so many rows."""
        return History([self.embedding.weight.new_zeros(rows, layer.reach, self.width) for layer in self.layers])

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith((".out.weight", "lm_head.weight", ".bias")):
                parameter.zero_()
            elif name == "embedding.weight":
                parameter.normal_(0.0, EMBEDDING_SCALE)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
