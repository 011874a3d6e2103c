"""Beam search: the likeliest text, as far as a few prefixes kept side by side can find it.

At every step each of a row's kept prefixes is continued in every way and the best `width` are kept. Those that end are put aside; a row is
done when no prefix left can still become better than the best of them, or when it has `width` of them and no prefix is better as it stands.
A text's score is its log-probability divided by a power of its length, for a product of probabilities favours short texts. Where no text
has ended within the limit, the best prefix is given, and says so. All rows are searched side by side, and each finds what it finds alone
(where logits, equal to about 1e-6, leave one choice); nothing is drawn at random. With a width of 1 it is greedy.
Source: Sutskever et al. 2014, section 3.2; the length penalty is Wu et al. 2016, eq. 14, arXiv:1609.08144.
Leaves out: coverage penalties, variety among the texts found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zhixing.core.errors import UsageError
from zhixing.decoding.generate import batch
from zhixing.layers.kinds import Inputs, next_log_probabilities

ROWS = 64  # sources searched side by side; bounds the memory, no answer depends on it


@dataclass(frozen=True)
class Beam:
    """How to search.

    width  int      prefixes kept of each row
    alpha  float    0: the likeliest text; above: longer texts are favoured
    ratio  float    the limit of a text's length is ratio * (length of the source) + extra, the end token counted
    extra  int, tokens
    offset    int, tokens    added to a length before it counts: 5 is Wu's; -1: a text is as good as its tokens are on average, whose end
              shares no part of what it costs
    patient   bool     a row whose `width` texts have ended goes on while a prefix is better as it stands
    barred    tokens that are never written
    unopened  tokens that are not written first
    """

    width: int = 5
    alpha: float = 0.6
    ratio: float = 1.5
    extra: int = 10
    offset: int = 5
    patient: bool = True
    barred: tuple[int, ...] = ()
    unopened: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, wrong in (("width", self.width < 1), ("alpha", self.alpha < 0), ("ratio", self.ratio < 0), ("extra", self.extra < 1)):
            if wrong:
                raise UsageError("settings.range", setting=name, value=getattr(self, name), origin="Beam")

    def score(self, log_probability: float, length: int) -> float:
        """Give the score of a text of so many tokens."""
        return log_probability / (max(1, self.offset + length) / max(1, self.offset + 1)) ** self.alpha


@dataclass(frozen=True)
class Found:
    """The best text that was found for a row.

    tokens             list of int      what follows the prompt; the end token is the last of them when the text has ended
    log_probabilities  list of float    log p of each of them, in nats
    score              float            by which it was the best
    ended              bool             False: it met the limit of its length
    """

    tokens: list[int]
    log_probabilities: list[float]
    score: float
    ended: bool

    @property
    def log_probability(self) -> float:
        """Log p of the whole text, in nats."""
        return sum(self.log_probabilities)


@dataclass
class Hunt:
    """One row under way: its prefixes, in the order of the cache's rows, and the best text that has ended."""

    number: int
    limit: int
    prefixes: list[tuple[list[int], list[float]]] = field(default_factory=lambda: [([], [])])
    best: Found | None = None
    ended: int = 0

    def done(self, beam: Beam, sums: list[float]) -> bool:
        """Say whether to stop: the best that a prefix may become is to lose nothing more and be as long as it can."""
        if not self.prefixes or len(self.prefixes[0][0]) >= self.limit:
            return True
        if self.best is None:
            return False
        if self.ended >= beam.width and not beam.patient:
            return True
        length = len(self.prefixes[0][0]) if self.ended >= beam.width else self.limit
        return self.best.score >= max(beam.score(each, length) for each in sums)

    def result(self, beam: Beam) -> Found:
        """Give the best text or, where none has ended, the best prefix."""
        if self.best is not None:
            return self.best
        return max((found(beam, *each, False) for each in self.prefixes), key=lambda each: each.score)


def found(beam: Beam, tokens: list[int], logs: list[float], ended: bool) -> Found:
    """Make a result of tokens and their log-probabilities."""
    return Found(tokens, logs, beam.score(sum(logs), len(tokens)), ended)


def search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: int,
    beam: Beam,
    sources: Sequence[Sequence[int]] | None = None,
    rows: int = ROWS,
    opened: Any = None,
) -> list[Found]:
    """Find the best continuation of each prompt; with sources, of an encoder-decoder model that reads them.

    prompts  list       token ids, at least one each
    end      int        the token that ends a text
    sources  list       token ids, one source a prompt; None: the model is causal, and limits count from the prompt's length
    rows     int        how many are searched side by side; changes the time, not the answers
    opened   Cache      what the model has read already, a row a prompt: of sources of another sort; all are searched side by side
    return   list of Found, one a prompt, in their order

    Raises UsageError when a prompt or a source is empty.
    """
    if any(len(each) == 0 for each in (*prompts, *(sources or ()))):
        raise UsageError("generate.empty_prompt")
    given = prompts if sources is None else sources
    if opened is not None:
        hunts = [Hunt(place, limit(model, beam, len(prompt), 0)) for place, prompt in enumerate(prompts)]
        return [hunt.result(beam) for hunt in _hunt(model, opened, [list(map(int, each)) for each in prompts], hunts, end, beam)]
    order = sorted(range(len(prompts)), key=lambda place: len(given[place]))
    results: dict[int, Found] = {}
    for first in range(0, len(order), max(rows, 1)):
        chosen = order[first : first + max(rows, 1)]
        hunts = [Hunt(place, limit(model, beam, len(prompts[place]), len(given[place]))) for place in chosen]
        device = next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")
        beside = None if sources is None else batch([list(map(int, sources[place])) for place in chosen], device)
        cache = model.cache(len(chosen)) if beside is None else model.open(beside)
        for hunt in _hunt(model, cache, [list(map(int, prompts[place])) for place in chosen], hunts, end, beam):
            results[hunt.number] = hunt.result(beam)
    return [results[place] for place in range(len(prompts))]


def limit(model: Any, beam: Beam, prompt: int, source: int) -> int:
    """Give the most tokens of a text: by the beam, and no more than the model's window allows.

    Raises UsageError when the prompt fills the window.
    """
    most = int(beam.ratio * source) + beam.extra
    window = getattr(model, "window", None)
    if window is not None:
        most = min(most, window - prompt + 1)
        if most < 1:
            raise UsageError("search.no_room", prompt=prompt, window=window)
    return most


def _hunt(model: Any, cache: Any, prompts: list[list[int]], hunts: list[Hunt], end: int, beam: Beam) -> list[Hunt]:
    device = next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")
    read = batch(prompts, device)
    going, sums = list(hunts), [[0.0] for _ in hunts]
    barred = [*beam.barred, *beam.unopened]
    while going:
        found = next_log_probabilities(model, read, cache).cpu()  # (B, V)
        if barred:
            found[:, barred] = -torch.inf
        barred = list(beam.barred)
        logs, tokens = likeliest(found, 2 * beam.width)  # (B, N)
        parents: list[int] = []
        last: list[int] = []
        kept, kept_sums = [], []
        first = 0
        for hunt, before in zip(going, sums, strict=True):
            mine = slice(first, first + len(before))
            after = _grow(hunt, before, logs[mine], tokens[mine], end, beam)
            if not hunt.done(beam, [total for _, total in after]):
                kept.append(hunt)
                kept_sums.append([total for _, total in after])
                parents += [first + parent for parent, _ in after]
                last += [each[0][-1] for each in hunt.prefixes]
            first += len(before)
        going, sums = kept, kept_sums
        if going:
            cache = cache.rows(torch.tensor(parents))
            read = Inputs(torch.tensor(last, device=device)[:, None])  # (B, 1)
    return hunts


def likeliest(log_probs: Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    """Give the likeliest tokens of each row, the likeliest first, equals by id.

    log_probs  (B, V) float
    return     two lists of B lists: log-probabilities and token ids
    """
    count = min(count, log_probs.shape[1])
    values, ids = log_probs.topk(count)  # (B, N)
    rank = ids.argsort(dim=1)
    values, ids = values.gather(1, rank), ids.gather(1, rank)
    rank = torch.sort(values, dim=1, descending=True, stable=True).indices
    return values.gather(1, rank).double().tolist(), ids.gather(1, rank).tolist()


def _grow(hunt: Hunt, sums: list[float], logs: list[list[float]], tokens: list[list[int]], end: int, beam: Beam) -> list[tuple[int, float]]:
    """Continue a row's prefixes by one token; give each kept prefix's parent and log-probability.

    As many ways again are looked at as are kept, for half of them may end; a text that ends counts when it is among the best `width`.
    """
    ways = [
        (total + log, parent, token, log)
        for parent, total in enumerate(sums)
        for log, token in zip(logs[parent], tokens[parent], strict=True)
        if log > float("-inf")
    ]
    ways.sort(key=lambda way: (-way[0], way[1], way[2]))
    before, kept = hunt.prefixes, []
    hunt.prefixes = []
    for place, (total, parent, token, log) in enumerate(ways[: 2 * beam.width]):
        text, written = before[parent]
        if token != end:
            if len(kept) < beam.width:
                kept.append((parent, total))
                hunt.prefixes.append(([*text, token], [*written, log]))
        elif place < beam.width:
            ended = found(beam, [*text, token], [*written, log], True)
            hunt.ended += 1
            if hunt.best is None or ended.score > hunt.best.score:
                hunt.best = ended
    return kept
