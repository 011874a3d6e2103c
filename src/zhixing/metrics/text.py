"""How well text is predicted: bits per byte, perplexity, nats per token, from the log-probability of every token.

bpb is the one figure that models of different tokenizers share: total bits over the UTF-8 bytes of the raw text, every byte once.
Log-probabilities are natural logarithms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def bits_per_byte(log_probs: NDArray[np.floating], size_bytes: int) -> float:
    """Give the bits that a model needs for each byte of a text.

    log_probs   (T,) float    natural log-probability of each token of the whole text
    size_bytes  int, bytes    the raw text in UTF-8
    """
    return float(-np.sum(log_probs, dtype=np.float64) / (math.log(2) * size_bytes))


def nats_per_token(log_probs: NDArray[np.floating]) -> float:
    """Give the mean negative log-probability of a token."""
    return float(-np.mean(log_probs, dtype=np.float64))


def perplexity(log_probs: NDArray[np.floating]) -> float:
    """Give the exponential of the mean negative log-probability: among how many equally likely tokens the model wavers."""
    return math.exp(nats_per_token(log_probs))


def blocks(values: NDArray[np.number], starts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Sum values over consecutive blocks, the units of a bootstrap over text: tokens near each other are not independent.

    values  (T,) float
    starts  (N,) int    where each block begins, ascending, the first 0; documents, or stretches of equal length
    return  (N,) float
    """
    return np.add.reduceat(np.asarray(values, dtype=np.float64), np.asarray(starts))


def stretch_length(count: int, units: int, shortest: int, longest: int) -> int:
    """Give the length of stretches that cuts a text into at least `units` of them, between the shortest and the longest that make sense."""
    return max(shortest, min(longest, count // units))


def stretches(count: int, length: int) -> NDArray[np.int64]:
    """Give the starts of stretches of equal length; a last one shorter than half joins the one before it."""
    starts = np.arange(0, max(count, 1), length)
    return starts[:-1] if len(starts) > 1 and count - starts[-1] < length / 2 else starts
