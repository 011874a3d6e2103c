"""Reading a text out of an acoustic model: each state says a token or nothing, and runs of one token are that token once.

Greedy search follows what is likeliest at every state. Prefix beam search adds up all ways of saying a text, for the likeliest path need
not be that of the likeliest text; an n-gram, or any model of the same tokens that writes, can be asked how likely the text is as such.
Source: Graves et al. 2006, section 3.2; Hannun et al. 2014, arXiv:1408.2873 (prefixes with a language model and a bonus a token).
Differs: the language model speaks of tokens, not of words. Leaves out: times at which tokens were said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zhixing.core.errors import UsageError
from zhixing.tokens.layout import END

NONE = -math.inf
TOKENS = 12  # tokens that a prefix is continued by at one state: of the rest, the likeliest has hardly ever a share worth a path
KNOWN = 4096  # prefixes that a language model's answers are kept of from one search to the next
LEAST = math.log(1e-4)  # of a token at one state, below which no prefix is continued by it


@dataclass(frozen=True)
class Voice:
    """How to search.

    width   int      prefixes kept at each state; 1 without a language model: greedy
    weight  float    of the language model's log p of each token, beside the sound's
    bonus   float    nats for each token, since a language model favours short texts
    """

    width: int = 1
    weight: float = 0.0
    bonus: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("weight", 0), ("bonus", -math.inf)):
            if not (getattr(self, name) >= least and math.isfinite(getattr(self, name))):
                raise UsageError("settings.range", setting=name, value=getattr(self, name), origin="Voice")


def listen(model: Any, frames: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Give log p of every token, and of the blank, at each state of each row, by torch or by arrays alone.

    frames   (B, F, C) float
    lengths  (B,) int
    return   B arrays (F', V) float64
    """
    if hasattr(model, "run"):
        made = model.answer({"frames": frames, "frames_lengths": lengths}, "said", "counts")
        said, counts = made["said"], made["counts"]
    else:
        import torch

        from zhixing.layers.kinds import Inputs

        device = next(model.parameters()).device
        with torch.inference_mode():
            given, real = (torch.as_tensor(each).to(device) for each in (frames, lengths))
            said = model.logits(model.states(Inputs(None, frames=given, frames_lengths=real))).float().cpu().numpy()  # (B, F', V)
            counts = model.lengths(real).cpu().numpy()
    logs = said.astype(np.float64) - said.max(2, keepdims=True)
    logs -= np.log(np.exp(logs).sum(2, keepdims=True))
    return [row[:count] for row, count in zip(logs, counts.tolist(), strict=True)]


def collapse(path: Sequence[int], blank: int = END) -> list[int]:
    """Give the text of a path: runs of one token once, blanks left out."""
    return [each for place, each in enumerate(path) if each != blank and (place == 0 or path[place - 1] != each)]


def greedy(logs: np.ndarray, blank: int = END) -> list[int]:
    """Give the text of the likeliest path.

    logs    (F', V) float
    return  list of int
    """
    return collapse(logs.argmax(1).tolist(), blank)


def log_probability(logs: np.ndarray, tokens: Sequence[int], blank: int = END) -> float:
    """Give log p of a text, over all its paths, in nats; minus infinity where it cannot be said in so few states.

    logs  (F', V) float
    """
    said = np.full(2 * len(tokens) + 1, blank)  # the tokens, a blank around each
    said[1::2] = tokens
    passes = np.zeros(len(said), bool)  # which of them may follow the one before the last: no blank, and none that is said twice
    passes[2:] = (said[2:] != blank) & (said[2:] != said[:-2])
    paths = np.full(len(said), NONE)  # log p of all paths so far that end there
    paths[0] = 0.0
    for place, row in enumerate(np.asarray(logs, np.float64)[:, said]):
        before = np.full((2, len(said)), NONE)
        before[0, 1:] = paths[:-1]
        before[1, 2:] = paths[:-2]
        before[1, ~passes] = NONE
        paths = np.logaddexp(np.logaddexp(paths, before[0]), before[1]) if place else np.where(np.arange(len(said)) < 2, 0.0, NONE)
        paths = paths + row
    return float(np.logaddexp.reduce(paths[-2:]))


class Beside:
    """A language model that is asked about prefixes: log p of each next token, after the end token and the prefix.

    Of a prefix that outgrows the model's window, the last tokens are read.

    model   Countable, or causal
    places  (V,) int    which token of the model each token is that is searched for, below 0: none; None: the same
    end     int         the model's end token
    """

    def __init__(self, model: Any, places: np.ndarray | None = None, end: int = END) -> None:
        self.model, self.places, self.end = model, places, end
        self.known: dict[tuple[int, ...], np.ndarray] = {}

    def ask(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        """Read prefixes that are not known yet, side by side."""
        fresh = [each for each in dict.fromkeys(prefixes) if each not in self.known]
        if not fresh:
            return
        import torch

        from zhixing.decoding.generate import batch
        from zhixing.layers.kinds import next_log_probabilities

        device = next(self.model.parameters()).device if hasattr(self.model, "parameters") else torch.device("cpu")
        with torch.inference_mode():
            window = getattr(self.model, "window", None)
            texts = [[self.end, *map(self.place, each)] for each in fresh]
            read = batch(texts if window is None else [each[-window:] for each in texts], device)
            logs = next_log_probabilities(self.model, read, self.model.cache(len(fresh))).cpu().numpy()  # (B, V)
        self.known.update(zip(fresh, logs, strict=True))

    def place(self, token: int) -> int:
        """Give the model's token that a token is; one that it has not is its end, which it has never read inside a text."""
        found = token if self.places is None else int(self.places[token])
        return found if found >= 0 else self.end

    def log(self, prefix: tuple[int, ...], token: int) -> float:
        """Give log p(token | prefix)."""
        return float(self.known[prefix][self.place(token)])

    def log_end(self, prefix: tuple[int, ...]) -> float:
        """Give log p(end | prefix)."""
        return float(self.known[prefix][self.end])


def add(one: float, other: float) -> float:
    """Give log(exp(one) + exp(other))."""
    high, low = (one, other) if one >= other else (other, one)
    return high if low == NONE else high + math.log1p(math.exp(low - high))


def search(logs: np.ndarray, voice: Voice, beside: Beside | None = None, blank: int = END) -> list[int]:
    """Give the best text that a few prefixes kept side by side find.

    Of each prefix two sums are kept: over paths that end in a blank, and over those that end in its last token, for only after a blank can
    that token be said again.

    logs    (F', V) float
    return  list of int
    """
    if voice.width == 1 and (beside is None or not voice.weight):
        return greedy(logs, blank)
    rows = np.asarray(logs, np.float64)  # (F', V)
    sums: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NONE)}  # {prefix: (ending in a blank, in its last token)}
    told: dict[tuple[int, ...], float] = {(): 0.0}  # what the language model and the bonus add to a prefix
    ask = beside is not None and voice.weight > 0
    if ask and len(beside.known) > KNOWN:
        beside.known.clear()

    def score(prefix: tuple[int, ...]) -> float:
        return add(*sums[prefix]) + told[prefix]

    for row in rows:
        near = np.argpartition(-row, min(TOKENS, len(row) - 1))[:TOKENS]
        tokens = sorted(int(each) for each in near if each != blank and row[each] > LEAST)
        if ask and tokens:
            beside.ask(list(sums))
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (ended, held) in sums.items():
            whole = add(ended, held)
            last = prefix[-1] if prefix else -1
            before = found.get(prefix, (NONE, NONE))
            again = held + row[last] if prefix else NONE
            found[prefix] = add(before[0], whole + row[blank]), add(before[1], again)
            for token in tokens:
                longer = (*prefix, token)
                ways = (ended if token == last else whole) + row[token]
                if ways == NONE:
                    continue
                if longer not in told:
                    more = voice.weight * beside.log(prefix, token) if ask else 0.0
                    told[longer] = told[prefix] + more + voice.bonus
                before = found.get(longer, (NONE, NONE))
                found[longer] = before[0], add(before[1], ways)
        sums = found
        sums = {each: found[each] for each in sorted(found, key=lambda each: (-score(each), each))[: voice.width]}
    if ask:
        beside.ask(list(sums))
        for prefix in sums:
            told[prefix] += voice.weight * beside.log_end(prefix)
    return list(max(sums, key=lambda each: (score(each), each)))
