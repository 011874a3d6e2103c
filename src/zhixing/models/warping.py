"""Dynamic time warping: recordings of words are kept, and a sound is laid over the chain of them that it is nearest to.

A sound of several words is read in one pass (Ney): at each of its frames every place of every template holds the least distance of a path
that has come there, and the first place of a template may follow the last of any other, for a price. Between words, and around them, a
single frame of quiet may stand. Each frame of the sound counts once, so chains of any length can be compared; in a template a path stays,
goes on, or leaves one frame out.
Source: Sakoe and Chiba 1978; Ney 1984 (connected words in one pass). Rows of several words are cut evenly, where a word has no recording of
its own. Leaves out: averaging of templates, a grammar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError

REMARKS = frozenset({"architectures"})
TEMPLATES = 20  # recordings kept of a word
QUIET_SHARE = 0.1  # of the frames of a row, those of least energy
LOUD = 0.3  # of the way from quiet to loud, from where on something is said
PRICE = 0.5  # of one more word, in units of the middle distance between a frame and another
PRICES = (0.0, 0.5, 1.0, 2.0, 4.0)
TRIED = 30  # held rows by which the price is chosen
LEAST_FRAMES = 4  # of a template; shorter ones fit anywhere


@dataclass(frozen=True)
class WarpingConfig:
    """The words, and of each template which word it is; the price of one more word.

    words      the words, in sorted order
    templates  ints, one a template
    """

    words: tuple[str, ...]
    templates: tuple[int, ...]
    price: float = PRICE
    model_type: str = "dtw"


class Warping:
    """Templates of words.

    frames  (F, C) float32    of all templates, one after another; the last is the frame of quiet
    starts  (N,) int64        where each template begins, the frame of quiet as one more
    scale   float             the middle distance between frames of different templates, in which the price is told
    """

    arrays = True

    def __init__(self, config: WarpingConfig, frames: np.ndarray, starts: np.ndarray) -> None:
        if len(starts) != len(config.templates) + 1 or not config.words:
            raise DataError("model.config_value", name="templates", value=len(config.templates), wanted=f"{len(starts) - 1} numbers")
        self.config, self.frames, self.starts = config, frames, starts
        self.ends = np.append(starts[1:], len(frames)) - 1  # (N,)
        self.scale = float(np.median(distances(frames[:: max(1, len(frames) // 200)], frames))) if len(frames) else 1.0

    @classmethod
    def fit(cls, sounds: Sequence[np.ndarray], texts: Sequence[Sequence[str]], price: float = PRICE) -> Warping:
        """Keep recordings of each word, spread evenly over those that there are.

        sounds  list of (F, C) float
        texts   the words of each
        """
        alone: dict[str, list[np.ndarray]] = {}
        cut: dict[str, list[np.ndarray]] = {}
        quiet = []
        for whole, words in zip(sounds, texts, strict=True):
            frames = trim(whole)
            quiet.append(whole[np.argsort(whole[:, 0])[: max(1, int(QUIET_SHARE * len(whole)))]].mean(0))
            for word, piece in zip(words, np.array_split(frames, max(1, len(words))), strict=False):
                if len(piece) >= LEAST_FRAMES:
                    (alone if len(words) == 1 else cut).setdefault(word, []).append(piece)
        found = {**cut, **alone}
        names = tuple(sorted(found))
        if not names:
            raise DataError("sound.no_word")
        pieces, numbers = [], []
        for number, word in enumerate(names):
            kept = found[word]
            for place in np.unique(np.linspace(0, len(kept) - 1, min(TEMPLATES, len(kept))).astype(int)):
                pieces.append(kept[place])
                numbers.append(number)
        pieces.append(np.mean(quiet, 0)[None])
        starts = np.concatenate([[0], np.cumsum([len(each) for each in pieces])[:-1]]).astype(np.int64)
        return cls(WarpingConfig(names, tuple(numbers), price), np.concatenate(pieces).astype(np.float32), starts)

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Warping:
        """Make the model that a config and its tensors describe."""
        form = {**config, "words": tuple(config["words"]), "templates": tuple(config["templates"])}
        return cls(read(WarpingConfig, form, REMARKS), np.asarray(tensors["frames"]), np.asarray(tensors["starts"]))

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {**asdict(self.config), "words": list(self.config.words), "templates": list(self.config.templates)}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what is stored."""
        return {"frames": self.frames, "starts": self.starts}

    def hear(self, sounds: Sequence[np.ndarray]) -> Iterator[tuple[str, None]]:
        """Give each sound's text; how sure it is cannot be said of a distance."""
        for frames in sounds:
            yield " ".join(self.follow(frames)), None

    def follow(self, frames: np.ndarray) -> list[str]:
        """Give the words of the chain of templates that a sound is nearest to.

        frames  (F, C) float
        """
        local = distances(frames, self.frames)  # (F, N) with N places of templates
        firsts, lasts = self.starts, self.ends
        quiet = len(firsts) - 1
        price = np.full(len(firsts), self.config.price * self.scale, np.float32)
        price[quiet] = 0.0
        barred = [np.zeros(len(self.frames), np.float32) for _ in range(2)]  # a path does not cross from one template into the next
        barred[0][firsts] = barred[1][firsts] = barred[1][firsts[lasts > firsts] + 1] = np.inf
        cost = np.full(len(self.frames), np.inf, np.float32)
        cost[firsts] = price + local[0, firsts]
        begun = np.zeros(len(self.frames), np.int32)  # the frame of the sound at which a path's last template began
        kept = np.zeros((len(frames), 2), np.int64)  # of the best path that ends a template here: the template, the frame it began at
        ending = np.float32(0.0)  # the cost of the best chain so far
        for place in range(len(frames)):
            if place:
                best, started = cost.copy(), begun.copy()
                for step, bar in enumerate(barred, 1):
                    come = cost[:-step] + bar[step:]
                    nearer = come < best[step:]
                    np.copyto(best[step:], come, where=nearer)
                    np.copyto(started[step:], begun[:-step], where=nearer)
                entered = ending + price  # (N,) after the best chain up to the frame before
                fresh = entered < best[firsts]
                best[firsts] = np.where(fresh, entered, best[firsts])
                started[firsts] = np.where(fresh, place, started[firsts])
                cost, begun = best + local[place], started
            template = int(np.argmin(cost[lasts]))
            ending = np.float32(cost[lasts[template]])
            kept[place] = template, begun[lasts[template]]
        found: list[str] = []
        place = len(frames) - 1
        while place >= 0:
            template, start = int(kept[place, 0]), int(kept[place, 1])
            if template != quiet:
                found.append(self.config.words[self.config.templates[template]])
            place = start - 1
        return found[::-1]


def trim(frames: np.ndarray) -> np.ndarray:
    """Cut off the quiet before and after what is said.

    frames  (F, C) float    the first channel is the energy
    return  (F', C) float
    """
    low, high = np.quantile(frames[:, 0], (QUIET_SHARE, 1 - QUIET_SHARE))
    loud = np.flatnonzero(frames[:, 0] > low + LOUD * (high - low))
    return frames[loud[0] : loud[-1] + 1] if len(loud) else frames


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Give the distance of every frame from every other.

    one     (F, C) float
    other   (N, C) float
    return  (F, N) float
    """
    squares = (one * one).sum(1)[:, None] + (other * other).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0.0))


def dearest(model: Warping, sounds: Sequence[np.ndarray], judge: Any) -> tuple[float, dict[str, float]]:
    """Choose the price of a word on held sounds.

    judge   judge(list of lists of words) -> errors, the fewer the better
    return  the best price, and what each earned
    """
    from dataclasses import replace

    trials = {}
    for price in PRICES:
        priced = Warping(replace(model.config, price=price), model.frames, model.starts)
        trials[price] = float(judge([priced.follow(each) for each in sounds]))
    return min(trials, key=lambda each: (trials[each], abs(each - PRICE))), {str(price): value for price, value in trials.items()}
