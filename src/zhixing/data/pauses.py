"""Utterances in a sound that is still coming in: where somebody speaks, by energy alone, and where they pause.

A frame is loud when it lies well above the quietest of the last seconds. An utterance begins with a few loud frames, with a little of what
came before, and ends with a pause or, at the latest, after so many seconds, at the quietest place of its second half.
Source: the idea is Rabiner and Sambur 1975. Leaves out: telling speech from other noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_SECONDS = 0.01
ABOVE = 10 ** (9 / 20)  # 9 dB above the quiet
LEAST_LEVEL = 10 ** (-60 / 20)  # of full scale, below which nothing is said
QUIET_SECONDS, QUIET_SHARE = 4.0, 0.1  # the quiet is what a tenth of the last frames lie below
AGAIN = 5  # steps after which the quiet is measured again
BEGIN_STEPS = 3  # loud frames in a row with which an utterance begins
LEAD_SECONDS = 0.2  # kept of what came before, and of the pause after
PAUSE_SECONDS = 0.5
MOST_SECONDS = 15.0
LEAST_SECONDS = 0.1  # loud ones of an utterance, else it was a click


@dataclass(frozen=True)
class Utterance:
    """A piece of a sound in which somebody speaks.

    samples  (N,) float32
    start    float, seconds    from the beginning of the whole sound
    """

    samples: np.ndarray
    start: float


class Pauses:
    """Cuts a sound that comes in pieces into utterances.

    rate  Hz
    """

    def __init__(self, rate: int, pause_seconds: float = PAUSE_SECONDS, most_seconds: float = MOST_SECONDS) -> None:
        self.rate, self.step = rate, max(1, round(rate * STEP_SECONDS))
        self.pause, self.most = round(pause_seconds / STEP_SECONDS), round(most_seconds / STEP_SECONDS)
        self.lead = round(LEAD_SECONDS / STEP_SECONDS)
        self.kept = np.zeros(0, np.float32)  # samples not yet given away
        self.levels: list[float] = []  # of the steps of `kept`
        self.recent: list[float] = []  # of the last seconds, for the quiet
        self.given = 0  # samples that were given away or dropped before `kept`
        self.begun: int | None = None  # the step of `kept` at which an utterance began
        self.quiet, self.heard = 0.0, 0  # the level of quiet, and steps heard
        self.silent = self.loud = 0  # steps of quiet since the last loud one, and loud ones of this utterance

    def push(self, samples: np.ndarray) -> list[Utterance]:
        """Take samples in, and give the utterances that have ended with them.

        samples  (N,) float
        """
        self.kept = np.concatenate([self.kept, np.asarray(samples, np.float32)])
        found = []
        while (len(self.levels) + 1) * self.step <= len(self.kept):
            piece = self.kept[len(self.levels) * self.step : (len(self.levels) + 1) * self.step]
            found += self._hear(float(np.sqrt(np.mean(np.square(piece)))))
        return found

    def under_way(self) -> Utterance | None:
        """Give the utterance that has begun and not ended, as far as it is there."""
        if self.begun is None or self.loud * STEP_SECONDS < LEAST_SECONDS:
            return None
        first = self.begun * self.step
        return Utterance(self.kept[first:], (self.given + first) / self.rate)

    def flush(self) -> list[Utterance]:
        """End the sound; give the utterance that was under way."""
        last = self.under_way()
        self.begun = None
        return [] if last is None else [last]

    def _hear(self, level: float) -> list[Utterance]:
        """Take one step in."""
        self.levels.append(level)
        self.recent = [*self.recent[-round(QUIET_SECONDS / STEP_SECONDS) :], level]
        if self.heard % AGAIN == 0:
            quiet = float(np.quantile(self.recent, QUIET_SHARE))
            self.quiet = quiet if self.begun is None else min(quiet, self.quiet)  # one who does not pause is not quiet
        self.heard += 1
        loud = self._loud(level)
        place = len(self.levels) - 1
        if self.begun is None:
            self.loud = self.loud + 1 if loud else 0
            if self.loud >= BEGIN_STEPS:
                self.begun, self.silent = max(0, place - self.loud + 1 - self.lead), 0
            elif place > 2 * self.lead:
                self._drop(place - self.lead)
            return []
        self.loud += loud
        self.silent = 0 if loud else self.silent + 1
        if self.silent >= self.pause:
            return self._end(place + 1 - self.silent + self.lead)
        if place + 1 - self.begun >= self.most:
            half = self.begun + self.most // 2
            return self._end(half + int(np.argmin(self.levels[half:])) + 1, True)
        return []

    def _end(self, stop: int, goes_on: bool = False) -> list[Utterance]:
        stop = min(stop, len(self.levels))
        first, enough = self.begun, self.loud * STEP_SECONDS >= LEAST_SECONDS
        piece = Utterance(self.kept[first * self.step : stop * self.step].copy(), (self.given + first * self.step) / self.rate)
        self._drop(stop)
        self.begun, self.loud, self.silent = (0 if goes_on else None), 0, 0
        if goes_on:  # what was heard beyond the cut is part of the next utterance
            louds = [self._loud(each) for each in self.levels]
            self.loud, self.silent = sum(louds), next((steps for steps, each in enumerate(reversed(louds)) if each), len(louds))
        return [piece] if enough else []

    def _loud(self, level: float) -> bool:
        return level > max(self.quiet * ABOVE, LEAST_LEVEL)

    def _drop(self, steps: int) -> None:
        self.kept, self.levels = self.kept[steps * self.step :], self.levels[steps:]
        self.given += steps * self.step


def utterances(samples: np.ndarray, rate: int, most_seconds: float = MOST_SECONDS) -> list[Utterance]:
    """Cut a whole sound into its utterances."""
    pauses = Pauses(rate, most_seconds=most_seconds)
    return [*pauses.push(samples), *pauses.flush()]
