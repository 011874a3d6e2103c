"""How far a transcript is from the right one: words, or characters, that must be changed, put in or left out.

Source: Levenshtein 1966. Case and punctuation at the edges of a word are not judged, as is usual for speech.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

EDGES = re.compile(r"^\W+|\W+$")
# Han, kana, Thai, Lao, Khmer and Burmese put no spaces between words: there each letter is one.
UNSPACED = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff\u3040-\u30ff\u0e00-\u0eff\u1780-\u17ff\u1000-\u109f]")


def words_of(text: str) -> list[str]:
    """Cut a text into what is counted as words: by spaces, and every letter of a script that has none by itself."""
    apart = UNSPACED.sub(lambda found: f" {found.group()} ", text.lower())
    return [word for each in apart.split() if (word := EDGES.sub("", each))]


def differ(said: Sequence[str], true: Sequence[str]) -> int:
    """Count the fewest changes that make one sequence of another: one put in, one left out, or one in another's place."""
    row = np.arange(len(true) + 1)
    steps = np.arange(len(true) + 1)
    codes = {each: number for number, each in enumerate({*said, *true})}
    wanted = np.array([codes[each] for each in true], int)
    for each in said:
        best = np.concatenate([[row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + (wanted != codes[each]))])
        row = np.minimum.accumulate(best - steps) + steps  # what is put in, from the left
    return int(row[-1])


def error_rate(errors: np.ndarray, counts: np.ndarray) -> float:
    """Give errors over what was said, all examples together.

    errors, counts  (N,) float
    """
    return float(errors.sum() / counts.sum()) if counts.sum() else float("nan")
