"""Tables of vectors of which a training meets few rows: those alone are trained, the others lie as they were.

Ten thousand questions hold 2,419 of the 30,522 pieces that MiniLM knows. Without decay a row that is never met has a gradient and moments
of zero: what training does to the others is the same without it, and its gradient, its update and its place in checkpoints are saved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TABLES = ("word_embeddings", "embed_tokens", "wte", "embedding")  # what the families call the table that tokens are looked up in
WORTH = 0.75  # of its rows that are met at most, for a table to be narrowed


class Met(nn.Embedding):
    """A table whose `weight` is the rows that are met, (K, D).

    rest    (V, D)       the whole table as it was
    places  (V,) int64   which row of `weight` a token's is; -1: it is not met
    """

    rest: Tensor
    places: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        """Give (..., D) vectors of (...) int tokens; while it trains, on a CPU, a token that is not met raises IndexError."""
        places = self.places[tokens]
        if self.training:
            return F.embedding(places, self.weight)
        return torch.where((places < 0).unsqueeze(-1), F.embedding(tokens, self.rest), F.embedding(places.clamp(min=0), self.weight))


def tables(model: nn.Module) -> list[nn.Embedding]:
    """List the trained tables that tokens are looked up in."""
    named = [each for name, each in model.named_modules() if isinstance(each, nn.Embedding) and name.rsplit(".", 1)[-1] in TABLES]
    return [each for each in named if each.weight.requires_grad]


@torch.no_grad()
def narrow(model: nn.Module, rows: Tensor) -> None:
    """Let only some rows be trained, (K,) int64 tokens in their order, where that is worth it."""
    for each in tables(model):
        count, rows = each.num_embeddings, rows.to(each.weight.device)
        if len(rows) > WORTH * count or int(rows[-1]) >= count:
            continue
        whole = each.weight.detach()
        places = torch.full((count,), -1, device=whole.device)
        places[rows] = torch.arange(len(rows), device=whole.device)
        each.register_buffer("rest", whole, persistent=False)
        each.register_buffer("places", places, persistent=False)
        each.weight = nn.Parameter(whole[rows])
        each.__class__ = Met


@torch.no_grad()
def widen(model: nn.Module) -> None:
    """Make whole tables again of those that were narrowed, with what was learnt."""
    for each in model.modules():
        if type(each) is Met:
            whole = each.rest.clone()
            whole[each.places >= 0] = each.weight
            del each.rest, each.places
            each.weight = nn.Parameter(whole)
            each.__class__ = nn.Embedding
