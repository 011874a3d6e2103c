"""The chain of a conditional random field over a network's scores: log Z and the score of a sequence, from which it learns.

p(tags | scores) = exp(sum over t of emissions[t, tag t] + transitions[tag t-1, tag t]) / Z
The first tag has start in place of a transition.
All in the log domain; gradients are autograd's. Moves that are never made score FORBIDDEN, which is finite so that no gradient is NaN.
Source: Lafferty, McCallum & Pereira 2001; over a network: Collobert et al. 2011, section 3.3. The best sequence and the marginals are read
out by models/chain.py. Leaves out: chains of higher order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FORBIDDEN = -1e4  # nats; e^-10000 is zero in every float


def real(emissions: Tensor, lengths: Tensor | None) -> Tensor:
    """Say which places hold a token: (B, T) bool."""
    B, T = emissions.shape[:2]
    steps = torch.arange(T, device=emissions.device)
    return steps.expand(B, T) < (T if lengths is None else lengths[:, None])


def forwards(emissions: Tensor, transitions: Tensor, lengths: Tensor | None, start: Tensor | None) -> list[Tensor]:
    """Give, for each step, the log of the sum over all beginnings that end there in each tag: T of (B, K); after the end, the last one."""
    there = real(emissions, lengths)
    ahead = emissions[:, 0] if start is None else emissions[:, 0] + start  # (B, K)
    found = [ahead]
    for step in range(1, emissions.shape[1]):
        reached = torch.logsumexp(ahead[:, :, None] + transitions, 1) + emissions[:, step]  # (B, K)
        ahead = torch.where(there[:, step, None], reached, ahead)
        found.append(ahead)
    return found


def log_partition(emissions: Tensor, transitions: Tensor, lengths: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Give log Z, the log of the sum over all sequences of tags.

    emissions    (B, T, K) float
    transitions  (K, K) float     from row to column
    lengths      (B,) int         real tokens of each row, at least 1; None: all
    start        (K,) float       of the first tag; None: zero
    return       (B,) float
    """
    return torch.logsumexp(forwards(emissions, transitions, lengths, start)[-1], 1)


def score(emissions: Tensor, transitions: Tensor, tags: Tensor, lengths: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """Give the score of given sequences: log p(tags) is this minus log Z.

    emissions    (B, T, K) float
    transitions  (K, K) float     from row to column
    tags         (B, T) int       anything where there is no token
    return       (B,) float
    """
    there = real(emissions, lengths)
    tags = torch.where(there, tags, 0)
    own = emissions.gather(2, tags[..., None])[..., 0]  # (B, T)
    moved = transitions[tags[:, :-1], tags[:, 1:]]  # (B, T-1)
    total = (own * there).sum(1) + (moved * there[:, 1:]).sum(1)
    return total if start is None else total + start[tags[:, 0]]


class Chain(nn.Module):
    """A tagger's head: scores of each tag of each token, and the transitions between tags.

    weight       (K, D)    from states to scores, zero at first, so that every valid sequence is equally likely
    transitions  (K, K)    what is learnt of moves; `chain` gives them with the forbidden ones
    begins, moves          bool: which tags may begin a sequence, and which may follow which
    """

    def __init__(self, width: int, tags: int, begins: Tensor | None = None, moves: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tags, width))
        self.bias = nn.Parameter(torch.zeros(tags))
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.register_buffer("begins", torch.ones(tags, dtype=torch.bool) if begins is None else torch.as_tensor(begins))
        self.register_buffer("moves", torch.ones(tags, tags, dtype=torch.bool) if moves is None else torch.as_tensor(moves))

    def forward(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Give the scores of each tag of each token.

        states  (B, T, D) float
        return  (B, T, K) float
        """
        return nn.functional.linear(states, self.weight, self.bias)

    def chain(self) -> tuple[Tensor, Tensor]:
        """Give transitions and start, forbidden moves at FORBIDDEN: (K, K) and (K,) float."""
        return self.transitions.float().masked_fill(~self.moves, FORBIDDEN), self.start.float().masked_fill(~self.begins, FORBIDDEN)
