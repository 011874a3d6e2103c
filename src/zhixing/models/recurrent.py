"""Recurrent language models: an Elman network, a GRU or an LSTM reads token by token and carries what it read in a state of fixed size.

It is the course outline's `TextGenerator(vocab_size, embedding_dim, hidden_dim, output_dim)`, repaired. As printed, it predicts from the
last state alone, once a sentence, so that every other position teaches nothing; its `target` is defined nowhere; `squeeze(0)` works for
one layer only; the time axis comes first, so that a batch of rows is read as time; and its evaluation loop computes no figure. Here
every position predicts the next token, rows are the batch, and training, scoring and decoding are those of every Causal kind.
Source: Elman 1990; Cho et al. 2014, arXiv:1406.1078; Hochreiter and Schmidhuber 1997; dropout between layers as in Zaremba et al. 2014,
arXiv:1409.2329. Differs: the GRU resets after the recurrent product, as in torch.
Leaves out: weight drop and other regularisers of recurrent weights.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zhixing.core.errors import DataError, RunError
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.segments import apart

REMARKS = frozenset({"model_type", "architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
# Frozen: a recipe gives the same model for ever.
# In bits per byte on the validation text of tiny_shakespeare (the 5 % at its head), at the rates 0.004 and 0.01: an Elman network after 300
# steps of `tiny` 2.71 and 2.64, a GRU after 200 steps 3.09 and 2.93, an LSTM after 150 steps of `small` 3.45 and 3.20.
PLANS = {
    "tiny": {"layers": 1, "width": 192, "embedding": 64, "batch": 16, "epochs": 4.0},
    "small": {"layers": 1, "width": 384, "embedding": 128, "batch": 16, "epochs": 8.0},
    "medium": {"layers": 2, "width": 640, "embedding": 256, "batch": 64, "epochs": 8.0},
    "large": {"layers": 3, "width": 1024, "embedding": 512, "window": 256, "batch": 64, "epochs": 8.0},
}
PLANS = {size: {"window": 128, "weight_decay": 0.1, "learning_rate": 0.01, **plan} for size, plan in PLANS.items()}
CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
# The bias of the gate that says how much of the state stays, which stands second in both. A fresh LSTM remembers. Source: Jozefowicz et al.
# 2015, section 3. A GRU begins by renewing: judged as above, after 200 steps 2.93 at 1, 2.84 at 0 and 2.80 at -1.
KEEPING = {"lstm": 1.0, "gru": -1.0}


@dataclass
class State:
    """What a model remembers of each row; it is of one size whatever was read, so nothing of it can be forgotten.

    hidden  (L, B, D) float
    cell    (L, B, D) float    of an LSTM; None: the others have none
    length  int, tokens     read so far of the longest row
    """

    hidden: Tensor
    cell: Tensor | None
    length: int = 0

    def rows(self, index: Tensor) -> State:
        """Return a cache that holds the chosen rows; index is (B',) int."""
        index = index.to(self.hidden.device)
        cell = None if self.cell is None else self.cell.index_select(1, index)  # (L, B', D)
        return State(self.hidden.index_select(1, index), cell, self.length)

    def join(self, other: State) -> State:
        """Return a cache that holds this cache's rows and then the other's."""
        hidden = torch.cat([self.hidden, other.hidden], 1)  # (L, B + B', D)
        cell = None if self.cell is None or other.cell is None else torch.cat([self.cell, other.cell], 1)
        return State(hidden, cell, max(self.length, other.length))

    def crop(self, length: int) -> None:
        """Do nothing when there is nothing to forget.

        Raises RunError when there is: a recurrent state keeps no earlier state to go back to.
        """
        if length < self.length:
            raise RunError("model.cache_crop", length=length)


class TextGenerator(nn.Module):
    """A causal language model: p(next token | tokens so far), at every position at once.

    output_dim  int    the vocabulary again: what is predicted is a token
    tied        bool   the embedding predicts as well; needs embedding_dim == hidden_dim
    cell        str    "rnn" (Elman's, tanh), "gru" or "lstm"; its parameters are named after it
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = dict.fromkeys(("rnn", "gru", "lstm"), PLANS)
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
        cell: str = "lstm",
    ) -> None:
        super().__init__()
        if output_dim != vocab_size:
            raise DataError("model.config_value", name="output_dim", value=output_dim, wanted=f"vocab_size, {vocab_size}")
        if tied and embedding_dim != hidden_dim:
            raise DataError("model.config_value", name="embedding_dim", value=embedding_dim, wanted=f"hidden_dim, {hidden_dim}")
        self.cell = cell
        self.settings = {
            "model_type": cell,
            "vocab_size": vocab_size,
            "embedding_dim": embedding_dim,
            "hidden_dim": hidden_dim,
            "output_dim": output_dim,
            "num_layers": num_layers,
            "dropout": dropout,
            "tied": tied,
        }
        self.width = hidden_dim
        self.vocabulary = vocab_size
        self.window = None
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        between = dropout if num_layers > 1 else 0.0
        self.add_module(cell, CELLS[cell](embedding_dim, hidden_dim, num_layers, batch_first=True, dropout=between))
        self.dropout = Dropout(dropout)
        self.fc = None if tied else nn.Linear(hidden_dim, output_dim)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TextGenerator:
        """Make a fresh model from a config.json's content; without output_dim, it is vocab_size."""
        parameters = [each for each in inspect.signature(cls).parameters.values() if each.name != "cell"]
        values = {name: value for name, value in config.items() if name not in REMARKS}
        for name in values:
            if name not in {each.name for each in parameters}:
                raise DataError("model.config_unknown", name=name, among=sorted(each.name for each in parameters))
        if "vocab_size" in values:
            values.setdefault("output_dim", values["vocab_size"])
        for each in parameters:
            if each.default is inspect.Parameter.empty and each.name not in values:
                raise DataError("model.config_missing", name=each.name)
        return cls(**values, cell=config["model_type"])

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, embedding, dropout; a state has no longest text."""
        form = {"embedding_dim": settings.embedding, "hidden_dim": settings.width, "num_layers": settings.layers}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {"architectures": ["TextGenerator"], **self.settings}

    @property
    def recurrence(self) -> nn.RNNBase:
        """The layers that carry the state."""
        return getattr(self, self.cell)

    def states(self, inputs: Inputs, cache: State | None = None) -> Tensor:
        """Compute a state for every position from the tokens up to it; with a cache, go on from it and leave the last state in it.

        What is left in the cache carries no gradient, so that training over carried states is truncated there.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float
        """
        if inputs.segments is not None:
            if cache is not None:
                raise RunError("model.cache_segments")
            return apart(lambda rows: self.states(Inputs(rows)), inputs.tokens, inputs.segments)
        embedded = self.dropout(self.embedding(inputs.tokens))  # (B, T, E)
        if cache is None:
            return self.dropout(self.recurrence(embedded)[0])  # (B, T, D)
        B, T = inputs.tokens.shape
        if cache.hidden.shape[1] != B:
            raise RunError("model.cache_rows", rows=B, wanted=cache.hidden.shape[1])
        before = cache.hidden if cache.cell is None else (cache.hidden, cache.cell)
        if inputs.lengths is None:
            states, after = self.recurrence(embedded, before)
        else:
            packed, after = self.recurrence(pack_padded_sequence(embedded, inputs.lengths.cpu(), True, enforce_sorted=False), before)
            states, _ = pad_packed_sequence(packed, batch_first=True, total_length=T)  # (B, T, D)
        if cache.cell is None:
            cache.hidden = after.detach()
        else:
            cache.hidden, cache.cell = after[0].detach(), after[1].detach()
        cache.length += T
        return self.dropout(states)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return F.linear(states, self.embedding.weight) if self.fc is None else self.fc(states)

    def cache(self, rows: int) -> State:
        """Return an empty cache of so many rows."""
        empty = self.embedding.weight.new_zeros(self.recurrence.num_layers, rows, self.width)  # (L, B, D)
        return State(empty, empty.clone() if self.cell == "lstm" else None)

    @torch.no_grad()
    def _initialise(self) -> None:
        self.embedding.weight.normal_(0.0, self.embedding.embedding_dim**-0.5 if self.fc is None else 0.1)
        if self.fc is not None:
            self.fc.weight.zero_()
            self.fc.bias.zero_()
        for name, parameter in self.recurrence.named_parameters():
            if "bias" in name:
                parameter.zero_()
            if "bias_ih" in name and self.cell in KEEPING:
                parameter[self.width : 2 * self.width] = KEEPING[self.cell]
