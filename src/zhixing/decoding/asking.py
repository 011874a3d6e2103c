"""What a text to be written is asked for by: how it begins, how its tokens are chosen, when it stops. Nothing here computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zhixing.core.errors import UsageError
from zhixing.tokens.tokenizer import Tokenizer

SEEDS = 1 << 63


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, and when to stop.

    temperature         float >= 0        0: the most probable token; 1: the model's own distribution
    top_k               int >= 0          keep so many of the most probable tokens; 0 or None: all
    top_p               float in (0, 1]   keep the smallest set of the most probable tokens that reaches this mass; 1 or None: all
    min_p               float in [0, 1]   keep tokens at least this probable, relative to the most probable; 0 or None: all
    repetition_penalty  float > 0         above 1, tokens already in the text become less probable; see `penalise`
    max_tokens          int >= 1          how many tokens to write at most
    stop                tuple of str      end before the first of these
    seed                int >= 0          the same seed, lane and prompt give the same text
    forbidden           tuple of int      ids that are never chosen; None: the tokenizer's control tokens that end nothing
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    max_tokens: int = 200
    stop: tuple[str, ...] = ()
    seed: int = 0
    forbidden: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check every value. Raises UsageError naming the first that is out of its range."""
        ranges = (
            ("temperature", math.isfinite(self.temperature) and self.temperature >= 0, "temperature >= 0"),
            ("top_k", self.top_k is None or self.top_k >= 0, "top_k >= 0"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "0 < top_p <= 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "0 <= min_p <= 1"),
            ("repetition_penalty", math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty > 0"),
            ("max_tokens", self.max_tokens >= 1, "max_tokens >= 1"),
            ("seed", 0 <= self.seed < SEEDS, "0 <= seed < 2^63"),
            ("stop", not isinstance(self.stop, str) and all(isinstance(each, str) and each for each in self.stop), "stop: ['text', ...]"),
        )
        for name, right, wanted in ranges:
            if not right:
                raise UsageError("sampling.range", name=name, value=repr(getattr(self, name)), wanted=wanted)
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "forbidden", None if self.forbidden is None else tuple(self.forbidden))


def open_text(tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    """Give the ids that a row begins with: of a text, the end token and then the text's; ids as they stand."""
    if not isinstance(prompt, str):
        return [int(each) for each in prompt]
    return [*tokenizer.opening, *[int(each) for each in tokenizer.encode(prompt)]] or [tokenizer.end_id]
