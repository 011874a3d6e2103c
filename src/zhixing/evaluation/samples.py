"""What a language model writes, beside the real text that stands in its place: repetition, variety, copying, form.

The model goes on from openings of held-out documents or, in few long texts, from places in them; what really follows there is measured in
the same way and stands beside each figure as `held_out`. That is the aim: neither more nor less is better.
Cost: SAMPLES texts of at most LONGEST tokens, written side by side, and one pass over the training text: a few seconds of one core for a
decoder of 2M parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zhixing.evaluation.report import Figure
from zhixing.metrics import intervals, quality
from zhixing.tokens.tokenizer import Tokenizer

SAMPLES, LONGEST = 64, 200  # texts; tokens of each, at most
OPENING = 8  # tokens of a document that a sample goes on from, at most half of it
BEFORE = 64  # tokens before a place in a long text that a sample goes on from
PIECE = 100  # units: the fixed amount of text whose variety is measured
RUN = 10  # units that are taken for copied: real text has 0 % of them from other Shakespeare, 1 to 3 % from other chapters of a novel
USUAL = 0.5  # a form of verse is looked for where at least this share of the real texts has it
HELD_OUT = "held_out"
SEED = 20231
Tell = Callable[..., None]


@dataclass(frozen=True)
class Place:
    """Where a sample goes on, and what really follows there.

    prompt, real  (N,) int   real is at most LONGEST tokens
    begun         the prompt is the middle of a text: its form is judged from there on, else with the opening
    cut           the real text goes on after `real`
    """

    prompt: np.ndarray
    real: np.ndarray
    begun: bool
    cut: bool


@dataclass(frozen=True)
class Written:
    """A text that follows a place, of the model or real: the text alone, and with what its form is judged by."""

    text: str
    formed: str
    begun: bool
    cut: bool


def find_places(tokens: np.ndarray, tokenizer: Tokenizer, apart: bool, count: int) -> list[Place]:
    """Choose places at equal distances.

    tokens  (N,) int   [end] document [end] ... [end]
    apart   there are enough documents: go on from their openings
    return  at most `count`, fewer where there is not so much text
    """
    firsts = np.array([tokenizer.token_bytes(each)[:1] for each in range(tokenizer.vocabulary_size)], object)
    inside = np.array([bool(each) and each[0] & 0xC0 == 0x80 for each in firsts])  # begins inside a character

    def whole(place: int) -> int:
        while place < len(tokens) and inside[tokens[place]]:
            place += 1
        return place

    ends = np.flatnonzero(tokens == tokenizer.end_id)
    if apart:
        long = np.flatnonzero(np.diff(ends) > 2)
        chosen = long[np.unique(np.linspace(0, len(long) - 1, min(count, len(long))).astype(int))] if len(long) else []
        found = []
        for start, stop in ((ends[each], ends[each + 1]) for each in chosen):
            place = whole(int(start + 1 + min(OPENING, (stop - start - 1) // 2)))
            found.append(Place(tokens[start:place], tokens[place:stop][:LONGEST], False, stop - place > LONGEST))
        return found
    count = min(count, (len(tokens) - BEFORE) // LONGEST)
    found = []
    for start in np.linspace(BEFORE, len(tokens) - LONGEST, max(count, 0)).astype(int).tolist():
        place = whole(start)
        real = tokens[place : place + LONGEST]
        stops = np.flatnonzero(real == tokenizer.end_id)
        found.append(Place(tokens[start - BEFORE : place], real[: stops[0]] if len(stops) else real, True, not len(stops)))
    return found


def judge_samples(
    model: Any, tokenizer: Tokenizer, tokens: np.ndarray, apart: bool, known: Iterable[str] | None, count: int, tell: Tell
) -> tuple[tuple[Figure, ...], dict[str, Any]]:
    """Let a model write, and measure what it wrote.

    tokens, apart  see `find_places`
    known          the texts that the model was made from; None: they are not there, and nothing is said about copying
    count          how many texts; 0: none
    return         the figures, each with the real text's beside it, and what they were measured with
    """
    from zhixing.decoding.asking import Sampling
    from zhixing.decoding.generate import generate

    places = find_places(tokens, tokenizer, apart, count)
    if not places:
        return (), {}
    tell("evaluate.writing", count=len(places), tokens=LONGEST)
    made = generate(model, tokenizer, [each.prompt for each in places], Sampling(max_tokens=LONGEST, seed=SEED), rows=count)
    openings = ["" if each.begun else tokenizer.decode(each.prompt) for each in places]
    written = [
        Written(each.text, opening + each.text, place.begun, each.finish_reason == "length")
        for each, opening, place in zip(made, openings, places, strict=True)
    ]
    real = [
        Written(text, opening + text, place.begun, place.cut)
        for text, opening, place in zip([tokenizer.decode(each.real, False) for each in places], openings, places, strict=True)
    ]
    figures = [*_varied(written, real), *_copied(written, real, known), *_formed(written, real)]
    return tuple(figures), {"count": len(places), "longest": LONGEST, "piece": PIECE, "run": RUN, "openings": apart}


def _varied(written: list[Written], real: list[Written]) -> list[Figure]:
    ours, theirs = ([quality.units(each.text) for each in some] for some in (written, real))
    figures = [_mean("repetition_4", [quality.repetition(each) for each in ours], [quality.repetition(each) for each in theirs])]
    for n in (1, 2, 3):
        shares = [[quality.distinct(piece, n) for piece in quality.pieces(some, PIECE)] for some in (ours, theirs)]
        figures.append(_mean(f"distinct_{n}", *shares))
    return figures


def _copied(written: list[Written], real: list[Written], known: Iterable[str] | None) -> list[Figure]:
    if known is None:
        return []
    texts = [quality.units(each.text) for each in (*written, *real)]
    covers = quality.copied(texts, known, RUN)
    sizes = [np.array([len(unit) for unit in text]) for text in texts]
    shares = np.array([(int(size[cover].sum()), int(size.sum())) for size, cover in zip(sizes, covers, strict=True)])  # (N, 2)
    ours, theirs = shares[: len(written)], shares[len(written) :]
    beside = {HELD_OUT: float(theirs[:, 0].sum() / theirs[:, 1].sum())} if theirs[:, 1].any() else {}
    name = f"copied_{RUN}"
    ours = ours[ours[:, 1] > 0]
    if not len(ours):
        return [Figure(name, None, rivals=beside)]
    if len(ours) < intervals.ENOUGH:
        return [Figure(name, float(ours[:, 0].sum() / ours[:, 1].sum()), rivals=beside)]
    spread = intervals.interval_of_ratio(ours[:, 0], ours[:, 1], SEED)
    return [Figure(name, spread.value, spread.low, spread.high, beside)]


def _formed(written: list[Written], real: list[Written]) -> list[Figure]:
    figures = []
    for name, check in quality.FORMS.items():
        ours, theirs = ([check(each.formed, each.begun, each.cut) for each in some] for some in (written, real))
        beside = sum(theirs) / len(theirs)
        if name == "verse" and (beside < USUAL or real[0].begun):
            continue
        spread = intervals.wilson(sum(ours), len(ours))
        ends = (spread.low, spread.high) if len(ours) >= intervals.ENOUGH else (None, None)
        figures.append(Figure(f"form_{name}", spread.value, *ends, {HELD_OUT: beside}))
    return figures


def _mean(name: str, ours: Sequence[float | None], theirs: Sequence[float | None]) -> Figure:
    """Give the mean of what is there, with its interval, and the real texts' mean beside it."""
    values, real = ([each for each in some if each is not None] for some in (ours, theirs))
    beside = {HELD_OUT: sum(real) / len(real)} if real else {}
    if len(values) < intervals.ENOUGH:
        return Figure(name, sum(values) / len(values) if values else None, rivals=beside)
    spread = intervals.interval(np.array(values), SEED)
    return Figure(name, spread.value, spread.low, spread.high, beside)
