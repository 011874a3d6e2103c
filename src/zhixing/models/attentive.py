"""A recurrent encoder-decoder with attention: an LSTM reads the source both ways, another writes on, and looks at the source at every step.

Source: Bahdanau et al. 2015, arXiv:1409.0473 (a source read both ways; attention); Luong et al. 2015, section 3.1, arXiv:1508.04025
("general" scores, and the state that attention makes with the decoder's own). Differs: what was looked at is not fed back into the decoder,
so that all positions of a text are trained at once; scores are divided by the root of the width; one table serves the source, what was
written and the prediction, as in Press and Wolf 2017.
Leaves out: coverage, scores of other forms.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zhixing.core.config import read
from zhixing.core.errors import DataError, RunError
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.models.recurrent import KEEPING, REMARKS

# Frozen: a recipe gives the same model for ever.
PLANS = {
    "tiny": {"layers": 1, "width": 128, "embedding": 128, "batch": 64, "epochs": 10.0},
    "small": {"layers": 1, "width": 256, "embedding": 256, "batch": 64, "epochs": 12.0},
    "medium": {"layers": 2, "width": 512, "embedding": 512, "batch": 128, "epochs": 20.0},
    "large": {"layers": 3, "width": 1024, "embedding": 1024, "batch": 128, "epochs": 20.0},
}


@dataclass(frozen=True)
class AttentiveConfig:
    """The shape of the model.

    hidden_dim  int      of the decoder's state, even: each direction of the encoder has half of it
    dropout     float    on embeddings, between layers and on what predicts, in training only
    """

    vocab_size: int
    embedding_dim: int
    hidden_dim: int
    num_layers: int = 1
    dropout: float = 0.0
    model_type: str = "lstm_attention"


@dataclass
class Notes:
    """What a decoder remembers: the source's states and their keys, and its own last state, which cannot go back.

    memory   (B, S, D) float
    keys     (B, S, D) float
    lengths  (B,) int          of the sources
    hidden   (L, B, D) float
    cell     (L, B, D) float
    length   int, tokens       written so far of the longest row
    """

    memory: Tensor
    keys: Tensor
    lengths: Tensor
    hidden: Tensor
    cell: Tensor
    length: int = 0

    def rows(self, index: Tensor) -> Notes:
        """Return a cache that holds the chosen rows; index is (B',) int."""
        index = index.to(self.memory.device)
        lengths = self.lengths[index]
        longest = int(lengths.max()) if len(lengths) else 0
        memory, keys = self.memory[:, :longest].index_select(0, index), self.keys[:, :longest].index_select(0, index)  # (B', S, D)
        return Notes(memory, keys, lengths, self.hidden.index_select(1, index), self.cell.index_select(1, index), self.length)

    def join(self, other: Notes) -> Notes:
        """Return a cache that holds this cache's rows and then the other's."""
        longest = max(self.memory.shape[1], other.memory.shape[1])

        def together(one: Tensor, two: Tensor) -> Tensor:
            return torch.cat([F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in (one, two)])  # (B + B', S, D)

        return Notes(
            together(self.memory, other.memory),
            together(self.keys, other.keys),
            torch.cat([self.lengths, other.lengths]),
            torch.cat([self.hidden, other.hidden], 1),
            torch.cat([self.cell, other.cell], 1),
            max(self.length, other.length),
        )

    def crop(self, length: int) -> None:
        """Do nothing when there is nothing to forget.

        Raises RunError when there is: a recurrent state keeps no earlier state to go back to.
        """
        if length < self.length:
            raise RunError("model.cache_crop", length=length)


class Attentive(nn.Module):
    """p(next token | source, tokens so far), at every position at once; `width` is that of the embeddings, which predict as well."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"lstm_attention": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("encoder_decoder",)

    def __init__(self, config: AttentiveConfig) -> None:
        super().__init__()
        if config.hidden_dim % 2:
            raise DataError("model.config_value", name="hidden_dim", value=config.hidden_dim, wanted="an even number")
        self.config = config
        self.width = config.embedding_dim
        self.vocabulary = config.vocab_size
        self.window = None
        D, E, L = config.hidden_dim, config.embedding_dim, config.num_layers
        between = config.dropout if L > 1 else 0.0
        self.embedding = nn.Embedding(config.vocab_size, E)
        self.encoder = nn.LSTM(E, D // 2, L, batch_first=True, dropout=between, bidirectional=True)
        self.decoder = nn.LSTM(E, D, L, batch_first=True, dropout=between)
        self.bridge = nn.Linear(D, D)
        self.key = nn.Linear(D, D, bias=False)
        self.attended = nn.Linear(2 * D, E)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = Dropout(config.dropout)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Attentive:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing or of another type.
        """
        return cls(read(AttentiveConfig, config, REMARKS - {"model_type"}))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers (of each LSTM), width, embedding, dropout; texts may be of any length."""
        form = {"embedding_dim": settings.embedding, "hidden_dim": settings.width, "num_layers": settings.layers}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def encode(self, source: Inputs) -> Notes:
        """Read sources both ways; the decoder begins from the last states of both.

        source  tokens (B, S) int    a row's real tokens come first
        """
        B, S = source.tokens.shape
        lengths = torch.full((B,), S, device=source.tokens.device) if source.lengths is None else source.lengths
        embedded = self.dropout(self.embedding(source.tokens))  # (B, S, E)
        packed, (hidden, cell) = self.encoder(pack_padded_sequence(embedded, lengths.cpu(), True, enforce_sorted=False))
        memory, _ = pad_packed_sequence(packed, batch_first=True, total_length=S)  # (B, S, D)
        memory = self.dropout(memory)
        hidden, cell = (each.unflatten(0, (-1, 2)).transpose(1, 2).flatten(2) for each in (hidden, cell))  # (L, B, D)
        return Notes(memory, self.key(memory), lengths, torch.tanh(self.bridge(hidden)), cell.contiguous())

    def states(self, inputs: Inputs, cache: Notes | None = None) -> Tensor:
        """Compute a state for every position from the source and the tokens up to it; with a cache, go on from it.

        The last state is left in the cache, without a gradient.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, E) float

        Raises RunError when there is no source to read.
        """
        if inputs.segments is not None:
            raise RunError("model.source_segments")
        if cache is None and inputs.source is None:
            raise RunError("model.source_missing")
        notes = cache if cache is not None else self.encode(inputs.source)
        B, T = inputs.tokens.shape
        if notes.hidden.shape[1] != B:
            raise RunError("model.cache_rows", rows=B, wanted=notes.hidden.shape[1])
        embedded = self.dropout(self.embedding(inputs.tokens))  # (B, T, E)
        before = (notes.hidden, notes.cell)
        if cache is None or inputs.lengths is None:
            written, after = self.decoder(embedded, before)  # (B, T, D)
        else:
            packed, after = self.decoder(pack_padded_sequence(embedded, inputs.lengths.cpu(), True, enforce_sorted=False), before)
            written, _ = pad_packed_sequence(packed, batch_first=True, total_length=T)  # (B, T, D)
        if cache is not None:
            cache.hidden, cache.cell = after[0].detach(), after[1].detach()
            cache.length += T
        return self.dropout(self.look(self.dropout(written), notes))

    def look(self, written: Tensor, notes: Notes) -> Tensor:
        """Join each state of the decoder with what it finds in the source.

        written  (B, T, D) float
        return   (B, T, E) float
        """
        scores = written @ notes.keys.mT * self.config.hidden_dim**-0.5  # (B, T, S)
        beyond = torch.arange(scores.shape[2], device=scores.device) >= notes.lengths[:, None]  # (B, S)
        shares = scores.masked_fill(beyond[:, None], float("-inf")).softmax(-1, dtype=torch.float32).to(notes.memory.dtype)
        return torch.tanh(self.attended(torch.cat([shares @ notes.memory, written], -1)))  # (B, T, E)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., E) float
        return  (..., V) float
        """
        return F.linear(states, self.embedding.weight, self.bias)

    @torch.no_grad()
    def open(self, source: Inputs) -> Notes:
        """Read sources, once, and return a cache in which nothing of their translations has been read yet; without dropout.

        source  tokens (B, S) int
        """
        training = self.training
        self.eval()
        try:
            return self.encode(source)
        finally:
            self.train(training)

    @torch.no_grad()
    def _initialise(self) -> None:
        self.embedding.weight.normal_(0.0, self.width**-0.5)
        for layers in (self.encoder, self.decoder):
            for name, parameter in layers.named_parameters():
                if "bias" in name:
                    parameter.zero_()
                if "bias_ih" in name:
                    parameter[layers.hidden_size : 2 * layers.hidden_size] = KEEPING["lstm"]
