"""Attention: who may see whom, the one call that computes it, and the cache of keys and values.

The plain case passes no mask, so that torch takes its flash kernel; segments and caches need a mask. Attention probabilities are never
dropped out: it would disable the flash kernel on a CPU. Leaves out: sliding windows within a text.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import RunError
from zhixing.layers.kinds import Inputs

# Tokens up to which plain products over blocks of BLOCK queries beat torch's flash kernel on a CPU in bfloat16: forward and backward of
# 40 rows of 256 tokens took 6.0 ms instead of 13.2, of 96 rows twice as wide 19 instead of 46 (torch 2.13, two cores).
SHORT, BLOCK = 256, 128


class ShortAttention(torch.autograd.Function):
    """Causal attention in short rows by batched products; a block of queries meets only the keys that it may see.

    Written out with its gradient, so that a block's results go straight to their place and no mask is kept.
    """

    @staticmethod
    def forward(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Mix values; products of queries and keys are scaled as they are made.

        queries  (N, S, K) float        S = groups of T queries, side by side, that share a key
        keys     (N, T, K) float
        values   (N, T, K) float
        return   (N, S, K) float, and each block's shares
        """
        N, T, K = keys.shape
        each = queries.view(N, -1, T, K)  # (N, S / T, T, K)
        mixed = torch.empty_like(queries)
        out, kept = mixed.view_as(each), []
        for start in range(0, T, BLOCK):
            end = min(start + BLOCK, T)
            own = each[:, :, start:end].reshape(N, -1, K)
            scores = torch.baddbmm(own.new_empty(()), own, keys[:, :end].mT, beta=0, alpha=K**-0.5)
            future = torch.ones(end - start, end - start, dtype=torch.bool, device=queries.device).triu_(1)
            scores.view(N, -1, end - start, end)[..., start:].masked_fill_(future, float("-inf"))
            kept.append(scores.softmax(-1))
            out[:, :, start:end] = torch.bmm(kept[-1], values[:, :end]).view(N, -1, end - start, K)
        return (mixed, *kept)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *unused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the gradients of queries, keys and values; the last block reaches all of them."""
        queries, keys, values, *kept = ctx.saved_tensors
        N, T, K = keys.shape
        each, wide = queries.view(N, -1, T, K), slope.reshape(N, -1, T, K)  # (N, S / T, T, K)
        of_queries, of_keys, of_values = torch.empty_like(queries), torch.zeros_like(keys), torch.zeros_like(values)
        out = of_queries.view_as(each)
        for start, shares in zip(range(0, T, BLOCK), kept, strict=True):
            end = min(start + BLOCK, T)
            own, slopes = (x[:, :, start:end].reshape(N, -1, K) for x in (each, wide))
            of_values[:, :end].baddbmm_(shares.mT, slopes)
            of_scores = torch._softmax_backward_data(torch.bmm(slopes, values[:, :end].mT), shares, -1, shares.dtype)
            own_slopes = torch.baddbmm(own.new_empty(()), of_scores, keys[:, :end], beta=0, alpha=K**-0.5)
            out[:, :, start:end] = own_slopes.view(N, -1, end - start, K)
            of_keys[:, :end].baddbmm_(of_scores.mT, own, alpha=K**-0.5)
        return of_queries, of_keys, of_values


def attend_short(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend causally in short rows; a group of queries is laid side by side against the key they share.

    queries  (B, H, T, K) float
    keys     (B, H', T, K) float
    values   (B, H', T, K) float
    return   (B, H, T, K) float
    """
    B, H, T, K = queries.shape
    groups = keys.shape[1]
    flat = queries.reshape(B * groups, H // groups * T, K)
    mixed = ShortAttention.apply(flat, keys.reshape(B * groups, T, K), values.reshape(B * groups, T, K))[0]
    return mixed.view(B, H, T, K)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the values that each query may see.

    queries  (B, H, T, K) float
    keys     (B, H', S, K) float        H' divides H: a group of queries shares a key
    values   (B, H', S, K) float
    mask     (B, 1, T, S) bool, True: may see; None: all keys up to the query's own place
    return   (B, H, T, K) float
    """
    # One query sees all keys; where a model is taken apart, there are as many queries as keys, and their number must not be asked for.
    causal = mask is None and (torch.compiler.is_exporting() or queries.shape[2] > 1)
    if causal and queries.dtype == torch.bfloat16 and queries.device.type == "cpu" and queries.shape[2] <= SHORT:
        return attend_short(queries, keys, values)
    grouped = queries.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped)


def attend_masked(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the values that each query may see, later ones as well.

    queries  (B, H, T, K) float
    keys     (B, H, S, K) float
    values   (B, H, S, K) float
    mask     (B, 1, T, S) bool, True: may see, and every query may see something; None: all keys
    return   (B, H, T, K) float
    """
    cheap = queries.dtype == torch.bfloat16 and queries.device.type == "cpu"
    # As in `attend_short`; at 256 tokens both took the same with a mask.
    if not (cheap and max(queries.shape[2], keys.shape[2]) < SHORT):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    scores = (queries * queries.shape[3] ** -0.5) @ keys.mT  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill_(~mask, float("-inf"))
    return scores.softmax(-1, dtype=queries.dtype) @ values


def encoder_mask(tokens: Tensor, lengths: Tensor | None, segments: Tensor | None) -> Tensor | None:
    """Let a position see the real positions of its own segment, and itself: a padded one must see something, for NaN would spread.

    tokens    (B, T) int
    lengths   (B,) int      how many of a row's tokens are real, from the left; None: all
    segments  (B, T) int    None: one segment
    return    (B, 1, T, T) bool; None: everything may see everything
    """
    if lengths is None and segments is None:
        return None
    T = tokens.shape[1]
    seen = torch.ones(1, 1, T, dtype=torch.bool, device=tokens.device) if segments is None else segments[:, :, None] == segments[:, None]
    if lengths is not None:
        real = torch.arange(T, device=tokens.device) < lengths[:, None]  # (B, T)
        seen = seen & real[:, None]
    itself = torch.eye(T, dtype=torch.bool, device=tokens.device)  # (T, T)
    return (seen | itself).unsqueeze(1)  # (B, 1, T, T)


def segment_mask(segments: Tensor) -> Tensor:
    """Let a position see the earlier positions of its own segment, and itself.

    segments  (B, T) int
    return    (B, 1, T, T) bool
    """
    same = segments.unsqueeze(2) == segments.unsqueeze(1)  # (B, T, T)
    return same.tril().unsqueeze(1)  # (B, 1, T, T)


class KeyValues:
    """The keys and values of the texts read so far, one row a text; rows may differ in length.

    store    (2, L, B, H, S, K) float    zeros beyond a row's length, for a masked NaN would still spread
    lengths  list of int                 tokens remembered of each row
    A cache carries no gradient: it is for reading with `torch.no_grad`.
    """

    def __init__(self, layers: int, heads: int, width: int, lengths: list[int], store: Tensor | None = None) -> None:
        self.layers, self.heads, self.width = layers, heads, width
        self.lengths = lengths
        self.store = store
        self._counts: list[int] = []
        self._places: tuple[Tensor, Tensor] | None = None  # row (B, 1) and place (B, T) of the new tokens; None: the same for all rows

    def prepare(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Make room for new tokens, and say where they stand and what they may see.

        return  positions (1 or B, T) int, and mask (B, 1, T, S) bool or None
        """
        B, T = inputs.tokens.shape
        device = inputs.tokens.device
        if torch.is_grad_enabled():
            raise RunError("model.cache_gradient")
        if B != len(self.lengths):
            raise RunError("model.cache_rows", rows=B, wanted=len(self.lengths))
        if inputs.segments is not None:
            raise RunError("model.cache_segments")
        self._counts = [T] * B if inputs.lengths is None else inputs.lengths.tolist()
        steps = torch.arange(T, device=device)  # (T,)
        self._places = None
        if len(set(self.lengths)) == 1:
            past = self.lengths[0]
            places = (past + steps).unsqueeze(0)  # (1, T)
            if past == 0 or T == 1:
                return places, None
        else:
            places = torch.tensor(self.lengths, device=device).unsqueeze(1) + steps  # (B, T)
            self._places = (torch.arange(B, device=device).unsqueeze(1), places)
        keys = torch.arange(max(self.lengths) + T, device=device)  # (S,)
        mask = keys <= places.unsqueeze(-1)  # (1 or B, T, S)
        return places, mask.expand(B, -1, -1).unsqueeze(1)  # (B, 1, T, S)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add one layer's new keys and values after each row's own, and give all of them.

        keys    (B, H, T, K) float
        values  (B, H, T, K) float
        return  two (B, H, S, K) float
        """
        T = keys.shape[2]
        longest = max(self.lengths) + T
        self._reserve(keys, longest)
        if self._places is None:
            self.store[0, layer, :, :, longest - T : longest] = keys
            self.store[1, layer, :, :, longest - T : longest] = values
        else:
            row, place = self._places
            self.store[0, layer][row, :, place] = keys.transpose(1, 2)
            self.store[1, layer][row, :, place] = values.transpose(1, 2)
        return self.store[0, layer, :, :, :longest], self.store[1, layer, :, :, :longest]

    def advance(self) -> None:
        """Count the tokens that the last `prepare` announced as read, once every layer has added them."""
        self.lengths = [length + count for length, count in zip(self.lengths, self._counts, strict=True)]

    def rows(self, index: Tensor) -> KeyValues:
        """Return a cache that holds the chosen rows; index is (B',) int."""
        chosen = index.tolist()
        lengths = [self.lengths[row] for row in chosen]
        store = None
        if self.store is not None:
            store = self.store.index_select(2, index.to(self.store.device))[..., : max(lengths, default=0), :]
        return KeyValues(self.layers, self.heads, self.width, lengths, store)

    def join(self, other: KeyValues) -> KeyValues:
        """Return a cache that holds this cache's rows and then the other's."""
        lengths = self.lengths + other.lengths
        example = self.store if self.store is not None else other.store
        store = None
        if example is not None:
            store = example.new_zeros(2, self.layers, len(lengths), self.heads, max(lengths), self.width)
            first = 0
            for part in (self, other):
                longest = max(part.lengths, default=0)
                if part.store is not None:
                    store[:, :, first : first + len(part.lengths), :, :longest] = part.store[:, :, :, :, :longest]
                first += len(part.lengths)
        return KeyValues(self.layers, self.heads, self.width, lengths, store)

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of each row."""
        self.lengths = [min(each, length) for each in self.lengths]

    def _reserve(self, example: Tensor, longest: int) -> None:
        held = 0 if self.store is None else self.store.shape[4]
        if longest <= held:
            return
        # Half as much again, so that reading token by token copies the store seldom.
        room = max(longest, held + held // 2, 16)
        store = example.new_zeros(2, self.layers, len(self.lengths), self.heads, room, self.width)
        if self.store is not None:
            store[:, :, :, :, :held] = self.store
        self.store = store
