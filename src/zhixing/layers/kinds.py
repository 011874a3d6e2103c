"""The kinds of model: what objectives, decoding and evaluation may ask of one.

A trained kind gives `states(inputs, cache=None) -> (B, T, D)`; a language kind adds `logits(states) -> (B, T, V)`, so that a loss or a
sampler pays for the vocabulary only where it needs it. A counted model has no states: it gives log-probabilities.
Objectives and decoding import the kinds from here and never a model class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Inputs:
    """What a model reads.

    tokens     (B, T) int     token ids; None: a row is no text
    lengths    (B,) int       how many of a row's tokens are real, from the left; None: all
    segments   (B, T) int     a position sees only positions of its own segment; None: one segment
    positions  (B, T) int     place of each token in its text; None: counted from the cache's length
    source     Inputs         another text of each row, read whole beforehand: what an encoder-decoder model translates; None: there is none
    numbers    (B, N) float   quantities beside a row's text; None: there are none
    frames     (B, F, C) float      a row's sound, C features a frame; None: there is none
    frames_lengths  (B,) int        how many of a row's frames are real, from the left; None: all
    image      (B, C, Y, X) uint8   a row's picture; None: there is none
    pictures   (B,) int             how many pictures a row has, 0 or 1; None: each has one
    """

    tokens: Tensor | None
    lengths: Tensor | None = None
    segments: Tensor | None = None
    positions: Tensor | None = None
    source: Inputs | None = None
    numbers: Tensor | None = None
    frames: Tensor | None = None
    frames_lengths: Tensor | None = None
    image: Tensor | None = None
    pictures: Tensor | None = None


READ = ("tokens", "lengths", "frames", "frames_lengths", "image", "pictures")


def inputs_of(batch: Mapping[str, Any]) -> Inputs:
    """Give what a model reads of a batch: its text, its sound and its picture, those that are there."""
    return Inputs(**{"tokens": None, **{name: batch[name] for name in READ if name in batch}})


class Cache(Protocol):
    """What a causal model remembers of the texts read so far, one row a text; the family's own value."""

    def rows(self, index: Tensor) -> Cache:
        """Return a cache that holds the chosen rows; index is (B',) int."""

    def join(self, other: Cache) -> Cache:
        """Return a cache that holds this cache's rows and then the other's."""

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of each row."""


@runtime_checkable
class Causal(Protocol):
    """A trained next-token model: a state at a position depends on no later token."""

    width: int
    vocabulary: int
    window: int | None

    def states(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        """Return (B, T, D) states; with a cache, read it and add the new tokens to it."""

    def logits(self, states: Tensor) -> Tensor:
        """Return (..., V) unnormalised log-probabilities of the next token from (..., D) states."""

    def cache(self, rows: int) -> Cache:
        """Return an empty cache of so many rows."""


@runtime_checkable
class Encoder(Protocol):
    """A model whose states say what stands where in a whole text: a state may depend on every real token of its row."""

    width: int
    pooling: str  # "mean", "max" or "first": how a head best makes one vector of a text's states
    window: int | None

    def states(self, inputs: Inputs) -> Tensor:
        """Return (B, T, D) states; what lies beyond a row's length changes none of its real ones."""


@runtime_checkable
class Masked(Protocol):
    """An encoder that fills in masked tokens: p(token at a place | every other place)."""

    window: int | None
    vocabulary: int
    mask_id: int | None  # the token that stands where one is masked; None: the config names none

    def states(self, inputs: Inputs) -> Tensor:
        """Return (B, T, D) states."""

    def logits(self, states: Tensor) -> Tensor:
        """Return (..., V) unnormalised log-probabilities of the token at a place itself from (..., D) states."""


@runtime_checkable
class EncoderDecoder(Protocol):
    """A trained next-token model of one text given another: a state at a position depends on the whole source and on no later token."""

    width: int
    vocabulary: int
    window: int | None

    def states(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        """Return (B, T, D) states; the source is the inputs' own or, with a cache, the one that the cache was opened with."""

    def logits(self, states: Tensor) -> Tensor:
        """Return (..., V) unnormalised log-probabilities of the next token from (..., D) states."""

    def open(self, source: Inputs) -> Cache:
        """Read sources, once, and return a cache in which nothing of their translations has been read yet."""


@runtime_checkable
class Vision(Protocol):
    """An encoder of pictures: a state for each patch or cell of them."""

    width: int
    pooling: str  # as in Encoder
    senses: tuple[str, ...]  # ("image",): a batch that holds something else is refused by name

    def states(self, inputs: Inputs) -> Tensor:
        """Return (B, T, D) states, all of them real."""


@runtime_checkable
class Fusion(Protocol):
    """Several encoders whose states become joint ones: an Encoder of a picture, a text and a sound for every later stage.

    What a row lacks is seen by none of its states. Its real states come first, as in an Encoder; how many they are is `counts`.
    """

    width: int
    pooling: str  # as in Encoder
    senses: tuple[str, ...]  # what it was made to read, of "image", "text" and "audio"

    def states(self, inputs: Inputs) -> Tensor:
        """Return (B, T, D) joint states; one at least is real."""

    def counts(self, inputs: Inputs) -> Tensor:
        """Return (B,) int: how many of a row's joint states are real, from the left."""


@runtime_checkable
class Towers(Protocol):
    """Two encoders with no state in common, of pictures and of texts, into one space: near means that they belong together."""

    width: int
    senses: tuple[str, ...]

    def image(self, inputs: Inputs) -> Tensor:
        """Return (B, D) vectors of length one of the pictures."""

    def text(self, inputs: Inputs) -> Tensor:
        """Return (B, D) vectors of length one of the texts."""

    def scale(self) -> Tensor:
        """Return () float: by what a cosine is multiplied to be a logit."""


@runtime_checkable
class Acoustic(Protocol):
    """A trained model of what is said in a sound: at every few frames a state, which depends on all real frames of its row."""

    width: int
    vocabulary: int

    def states(self, inputs: Inputs) -> Tensor:
        """Return (B, F', D) states of the inputs' frames; what lies beyond a row's length changes none of its real ones."""

    def logits(self, states: Tensor) -> Tensor:
        """Return (..., V) unnormalised log-probabilities of the token, or of the blank, from (..., D) states."""

    def lengths(self, frames: Tensor) -> Tensor:
        """Return (B,) int, how many states so many frames become."""


@runtime_checkable
class Countable(Protocol):
    """A counted or mixed next-token model: it gives log-probabilities and has no states."""

    vocabulary: int

    def log_probabilities(self, inputs: Inputs, cache: Cache | None = None) -> Tensor:
        """Return (B, V) log p(next token | tokens so far), from the cache and the new tokens, and update the cache."""

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """Return (N-1,) float64: log p(tokens[i] | tokens[:i]) in nats for i >= 1; tokens is (N,) int, tokens[0] the end token."""

    def cache(self, rows: int) -> Cache:
        """Return an empty cache of so many rows."""


@runtime_checkable
class Lexical(Protocol):
    """A trained model of words: each has a vector, and a second one as the context of others."""

    width: int

    def vectors(self, words: Tensor) -> Tensor:
        """Return (..., D) vectors of (...) int words."""

    def contexts(self, words: Tensor | None = None) -> Tensor:
        """Return (..., D) vectors of (...) int words as contexts; of all words when none are given."""


class Headed(nn.Module):
    """A trained body with a task's head on top: what every supervised task trains.

    The body keeps its own state-dict names below `body.`; the head is whatever module the task gave: head(states, lengths). A head that
    pools does it in the way that the body asks for, where it asks.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head
        for part in head.modules():
            if hasattr(part, "pooling"):
                part.pooling = getattr(body, "pooling", part.pooling)

    def forward(self, inputs: Inputs) -> Tensor:
        """Give what the head makes of a batch's states."""
        lengths = self.body.counts(inputs) if hasattr(self.body, "counts") else inputs.lengths  # joint states are counted by the body
        return self.head(self.body.states(inputs), lengths)


class Led(nn.Module):
    """A body of several heads as it is seen through one of them, which reads some tokens before every text: the name of its task.

    The body sees those tokens, the head does not.

    lead    (K,) int
    before  int, tokens    of a row that stay before the name: what an imported model reads before every text
    """

    def __init__(self, model: Headed, head: nn.Module, lead: Tensor, before: int = 0) -> None:
        super().__init__()
        self.body, self.head, self.before = model.body, head, before
        self.register_buffer("lead", lead, persistent=False)

    def forward(self, inputs: Inputs) -> Tensor:
        """Give what the head makes of a batch's states."""
        B, K, first = inputs.tokens.shape[0], len(self.lead), self.before
        tokens = torch.cat([inputs.tokens[:, :first], self.lead.expand(B, -1), inputs.tokens[:, first:]], 1)  # (B, K + T)
        lengths = None if inputs.lengths is None else inputs.lengths + K
        states = self.body.states(replace(inputs, tokens=tokens, lengths=lengths))  # (B, K + T, D)
        own = torch.cat([states[:, :first], states[:, first + K :]], 1) if first else states[:, K:]
        return self.head(own, inputs.lengths)


@torch.no_grad()
def next_log_probabilities(model: Causal | Countable, inputs: Inputs, cache: Cache | None = None) -> Tensor:
    """Give log p(next token) after the last real token of each row, whatever the kind of model; a trained one is read without dropout.

    return  (B, V) float32
    """
    if not hasattr(model, "states"):
        return model.log_probabilities(inputs, cache)
    training = model.training
    if training:
        model.eval()
    try:
        states = model.states(inputs, cache)  # (B, T, D)
        if inputs.lengths is None:
            last = states[:, -1]  # (B, D)
        else:
            rows = torch.arange(states.shape[0], device=states.device)
            last = states[rows, inputs.lengths - 1]  # (B, D)
        return model.logits(last).float().log_softmax(-1)
    finally:
        if training:
            model.train()
