"""The cache of a model that looks back a fixed number of steps: the last inputs of each of its layers.

What stands before a text is zeros, in a cache as in a whole reading, so that both give the same states.
Leaves out: going back; what fell out of the last inputs is gone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zhixing.core.errors import RunError


def taps(x: Tensor, count: int, apart: int = 1) -> Tensor:
    """Lay each position beside the ones before it, `apart` steps from one to the next; the oldest comes first.

    x       (B, S, C) float    S = T + (count - 1) * apart: what comes before the T positions stands in front
    return  (B, T, E) float    E = count * C
    """
    T = x.shape[1] - (count - 1) * apart
    return torch.cat([x[:, apart * tap : apart * tap + T] for tap in range(count)], -1)


class History:
    """The last inputs of each layer, one row a text.

    layers  list of (B, S, C) float    oldest first; S may differ from layer to layer
    length  int, tokens                read so far of the longest row
    """

    def __init__(self, layers: list[Tensor], length: int = 0) -> None:
        self.layers, self.length = layers, length

    def extend(self, layer: int, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Put a layer's new inputs after the old, remember the last of each row's real ones, and give old and new.

        What is remembered carries no gradient.

        x        (B, T, C) float
        lengths  (B,) int           how many of a row's inputs are real; None: all
        return   (B, S + T, C) float

        Raises RunError when the rows are not those of the cache.
        """
        past = self.layers[layer]
        if len(past) != len(x):
            raise RunError("model.cache_rows", rows=len(x), wanted=len(past))
        whole = torch.cat([past.to(x.dtype), x], 1)
        if lengths is None:
            kept = whole[:, x.shape[1] :]
        else:
            place = lengths.to(x.device)[:, None] + torch.arange(past.shape[1], device=x.device)  # (B, S)
            kept = whole.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        self.layers[layer] = kept.detach().clone()  # not a view, which would hold all of `whole`
        return whole

    def advance(self, count: int) -> None:
        """Count so many tokens as read, once every layer has taken them in."""
        self.length += count

    def rows(self, index: Tensor) -> History:
        """Return a cache that holds the chosen rows; index is (B',) int."""
        return History([each.index_select(0, index.to(each.device)) for each in self.layers], self.length)

    def join(self, other: History) -> History:
        """Return a cache that holds this cache's rows and then the other's."""
        layers = [torch.cat([mine, theirs]) for mine, theirs in zip(self.layers, other.layers, strict=True)]
        return History(layers, max(self.length, other.length))

    def crop(self, length: int) -> None:
        """Do nothing when there is nothing to forget.

        Raises RunError when there is: the inputs before the last ones are gone.
        """
        if length < self.length:
            raise RunError("model.cache_crop", length=length)


def before(x: Tensor, steps: int, cache: History | None, layer: int, lengths: Tensor | None) -> Tensor:
    """Put in front of a layer's inputs what stands before them: what the cache remembers, or zeros where a text begins.

    x       (B, T, C) float
    steps   int                 how far back the layer looks
    return  (B, S, C) float     S = steps + T
    """
    return F.pad(x, (0, 0, steps, 0)) if cache is None else cache.extend(layer, x, lengths)
