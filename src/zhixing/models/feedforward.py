"""The feed-forward neural language model: the last n tokens, as vectors side by side, through one hidden layer.

The first neural model that beat counting: tokens that are used alike get like vectors, so that a context never seen is like some that
were. All positions of a text are computed at once; a text's first tokens see zeros where nothing stands before them.
Source: Bengio et al. 2003, eq. 1, JMLR 3: y = b + W x + U tanh(d + H x), with x the n vectors; the direct connection W is optional there
too.
Leaves out: their mixture with a trigram, which is the family `mixture`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, RunError
from zhixing.layers.dropout import Dropout
from zhixing.layers.history import History, before, taps
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import apart

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
# Frozen: a recipe gives the same model for ever. Rates, scale and context are the best of a few runs of `tiny` for 500 steps, judged on the
# validation text of tiny_shakespeare (the 5 % at its head): bits per byte 2.84 with the decoders' rates and scale (0.004, decay 0.5, 0.3),
# 2.61 with scale 1 and decay 0.1, 2.55 with the rate 0.01 as well; then a context of 8 gave 2.49, 12 gave 2.55; a width of 512, 2.48.
RATES = {"learning_rate": 0.01, "weight_decay": 0.1}
PLANS = {
    "tiny": {"width": 256, "embedding": 32, "context": 8, "window": 128, "batch": 16, "epochs": 4.0, **RATES},
    "small": {"width": 512, "embedding": 64, "context": 10, "window": 128, "batch": 16, "epochs": 8.0, **RATES},
    "medium": {"width": 1024, "embedding": 96, "context": 16, "window": 128, "batch": 64, "epochs": 8.0, **RATES},
    "large": {"width": 2048, "embedding": 192, "context": 24, "window": 256, "batch": 64, "epochs": 8.0, **RATES},
}
EMBEDDING_SCALE = 1.0


@dataclass(frozen=True)
class FeedForwardConfig:
    """The shape of the model.

    context  int, tokens    how many it sees, the last one included
    direct   bool           the vectors speak to the output directly as well
    dropout  float          on vectors and hidden units, in training only
    """

    vocab_size: int
    embedding_dim: int
    hidden_dim: int
    context: int
    direct: bool = False
    dropout: float = 0.0
    model_type: str = "feedforward"


class FeedForward(nn.Module):
    """A causal language model: p(next token | the last n tokens), at every position at once."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"feedforward": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")

    def __init__(self, config: FeedForwardConfig) -> None:
        super().__init__()
        if config.context < 1:
            raise DataError("model.config_value", name="context", value=config.context, wanted="at least 1")
        self.config = config
        seen = config.context * config.embedding_dim
        self.width = config.hidden_dim + (seen if config.direct else 0)
        self.vocabulary = config.vocab_size
        self.window = None  # of the text it can read; of each token it sees `context`
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_dim)
        self.hidden = nn.Linear(seen, config.hidden_dim)
        self.lm_head = nn.Linear(self.width, config.vocab_size)
        self.dropout = Dropout(config.dropout)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FeedForward:
        """Make a fresh model from a config.json's content."""
        return cls(read(FeedForwardConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: width, embedding, context, dropout; texts may be of any length."""
        form = {"embedding_dim": settings.embedding, "hidden_dim": settings.width, "context": settings.context}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def states(self, inputs: Inputs, cache: History | None = None) -> Tensor:
        """Compute a state for every position from the last tokens up to it; with a cache, go on from it and leave the last ones in it.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float
        """
        if inputs.segments is not None:
            if cache is not None:
                raise RunError("model.cache_segments")
            return apart(lambda rows: self.states(Inputs(rows)), inputs.tokens, inputs.segments)
        x = self.dropout(self.embedding(inputs.tokens))  # (B, T, E)
        whole = before(x, self.config.context - 1, cache, 0, inputs.lengths)  # (B, S, E)
        if cache is not None:
            cache.advance(inputs.tokens.shape[1])
        seen = taps(whole, self.config.context)  # (B, T, C)
        states = self.dropout(torch.tanh(self.hidden(seen)))  # (B, T, D)
        return torch.cat([states, seen], -1) if self.config.direct else states

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return self.lm_head(states)

    def cache(self, rows: int) -> History:
        """Return an empty cache of so many rows."""
        return History([self.embedding.weight.new_zeros(rows, self.config.context - 1, self.config.embedding_dim)])

    @torch.no_grad()
    def _initialise(self) -> None:
        self.embedding.weight.normal_(0.0, EMBEDDING_SCALE)
        self.hidden.weight.normal_(0.0, self.hidden.in_features**-0.5)
        self.hidden.bias.zero_()
        self.lm_head.weight.zero_()
        self.lm_head.bias.zero_()
