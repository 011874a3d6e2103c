"""Will the next answer be right: logistic regression on what a learner got right and wrong before, on this skill and on all.

log-odds of right = ease[skill] + (a + a[skill]) log(1 + right on the skill) + (b + b[skill]) log(1 + wrong on the skill)
                  + c log(1 + right on all) + d log(1 + wrong on all)
Source: Pavlik, Cen & Koedinger 2009 (performance factors analysis); logarithms and the counts over all skills as in Gervet et al. 2020.
Leaves out: time between answers, the question itself, several skills a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REMARKS = frozenset({"architectures"})
SHARED = 5  # weights of no skill: bias, right and wrong on the skill, right and wrong on all
STEPS = 300  # of L-BFGS
TOLERANCE = 1e-8


@dataclass(frozen=True)
class PracticeConfig:
    """How many skills there are, and the precision of the Gaussian prior over weights; "base_rate": only the bias is fitted."""

    skill_count: int
    strength: float = 1.0
    method: str = "practice"
    model_type: str = "practice"


@dataclass(frozen=True)
class Counts:
    """What was before each answer, through all learners in order: skill (N,) int, and right and wrong on it and on all, (N,) float."""

    skill: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    right_all: np.ndarray
    wrong_all: np.ndarray


def count_before(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Give the sum of the values that stand earlier under the same key: (N,) int and (N,) int to (N,) int."""
    order = np.argsort(keys, kind="stable")
    sums = np.cumsum(values[order]) - values[order]
    first = np.concatenate([[True], np.diff(keys[order]) != 0])[: len(order)]
    base = sums[first][np.cumsum(first) - 1]
    found = np.empty_like(sums)
    found[order] = sums - base
    return found


def count(skills: Sequence[Sequence[int]], correct: Sequence[Sequence[int]], skill_count: int) -> Counts:
    """Count what each learner got right and wrong before every answer.

    Raises DataError naming the row whose lists differ in length, or hold a skill or an answer that is none.
    """
    check(skills, correct, skill_count)
    skill = np.array([each for row in skills for each in row], np.int64)
    answers = np.array([each for row in correct for each in row], np.int64)
    learner = np.repeat(np.arange(len(skills)), [len(row) for row in skills])
    key = learner * skill_count + skill
    return Counts(
        skill,
        count_before(key, answers),
        count_before(key, 1 - answers),
        count_before(learner, answers),
        count_before(learner, 1 - answers),
    )


def check(skills: Sequence[Sequence[int]], correct: Sequence[Sequence[int]], skill_count: int) -> None:
    """Raise when there are not as many histories of skills as of answers, or one is none."""
    if len(skills) != len(correct):
        raise DataError("fit.rows", model="practice", rows=len(skills), answers=len(correct))
    for row, (asked, given) in enumerate(zip(skills, correct, strict=True)):
        if len(asked) != len(given):
            raise DataError("practice.lengths", row=row, skills=len(asked), answers=len(given))
        for skill, answer in zip(asked, given, strict=True):
            if not 0 <= skill < skill_count or answer not in (0, 1):
                raise DataError("practice.value", row=row, skill=skill, answer=answer, skill_count=skill_count)


def widen(counts: Counts, skill_count: int) -> csr_matrix:
    """Turn counts into what the weights stand for: (N, F) float64; SHARED weights, then three of each skill."""
    from scipy.sparse import csr_matrix

    rows = np.arange(len(counts.skill))
    logs = [np.log1p(each) for each in (counts.right, counts.wrong, counts.right_all, counts.wrong_all)]
    values = [np.ones(len(rows)), *logs, np.ones(len(rows)), logs[0], logs[1]]
    places = [np.full(len(rows), place) for place in range(SHARED)]
    places += [SHARED + which * skill_count + counts.skill for which in range(3)]
    shape = (len(rows), SHARED + 3 * skill_count)
    return csr_matrix((np.stack(values, 1).ravel(), np.stack(places, 1).ravel(), 8 * np.arange(len(rows) + 1)), shape=shape)


class Practice:
    """p(right) of each answer from those before it: weights (F,) float64, the SHARED ones, then ease, right and wrong of each skill."""

    arrays = True

    def __init__(self, config: PracticeConfig, weights: np.ndarray) -> None:
        self.config = config
        self.weights = weights

    @classmethod
    def fit(cls, skills: Sequence[Sequence[int]], correct: Sequence[Sequence[int]], skill_count: int, strength: float = 1.0) -> Practice:
        """Fit the mode of the posterior; the shared weights are free.

        skills   for each learner the skill of every answer, 0 <= skill < skill_count, the oldest first
        correct  for each learner whether it was right, 0 or 1

        Raises DataError naming the row that is wrong, UsageError for a strength that is not above zero.
        """
        from scipy.optimize import minimize

        if not strength > 0:
            raise UsageError("fit.strength", value=strength)
        counts = count(skills, correct, skill_count)
        if not len(counts.skill):
            raise DataError("fit.rows", model="practice", rows=len(skills), answers=0)
        features = widen(counts, skill_count)
        flipped = features.T.tocsr()
        answers = np.array([each for row in correct for each in row], np.float64)
        precision = np.where(np.arange(features.shape[1]) < SHARED, 0.0, strength)

        def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
            odds = features @ weights
            nats = np.logaddexp(0, odds).sum() - answers @ odds
            return nats + precision @ weights**2 / 2, flipped @ (squash(odds) - answers) + precision * weights

        options = {"maxiter": STEPS, "ftol": TOLERANCE, "gtol": 0}
        found = minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B", options=options)
        return cls(PracticeConfig(skill_count, float(strength)), found.x)

    @classmethod
    def constant(cls, share: float, skill_count: int) -> Practice:
        """Give every answer one probability of being right, which lies inside (0, 1)."""
        weights = np.zeros(SHARED + 3 * skill_count)
        weights[0] = np.log(share / (1 - share))
        return cls(PracticeConfig(skill_count, 0.0, "base_rate"), weights)

    def probabilities(self, skills: Sequence[Sequence[int]], correct: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Give p(right) of every answer of each learner, from the answers before it: each (T,) float64."""
        counts = count(skills, correct, self.config.skill_count)
        p = squash(widen(counts, self.config.skill_count) @ self.weights)
        return np.split(p, np.cumsum([len(row) for row in skills])[:-1]) if len(skills) else []

    def ahead(self, skills: Sequence[Sequence[int]], correct: Sequence[Sequence[int]]) -> np.ndarray:
        """Give p(right) of each learner's next answer on every skill: (B, C) float64."""
        number = self.config.skill_count
        check(skills, correct, number)
        right, wrong = np.zeros((len(skills), number)), np.zeros((len(skills), number))
        for row, (asked, given) in enumerate(zip(skills, correct, strict=True)):
            np.add.at(right[row], np.asarray(asked, np.int64), np.asarray(given, np.int64))
            np.add.at(wrong[row], np.asarray(asked, np.int64), 1 - np.asarray(given, np.int64))
        every = np.tile(np.arange(number), len(skills))
        totals = [np.repeat(each.sum(1), number) for each in (right, wrong)]
        counts = Counts(every, right.ravel(), wrong.ravel(), *totals)
        return squash(widen(counts, number) @ self.weights).reshape(len(skills), number)

    @property
    def prior(self) -> dict[str, Any]:
        """The prior by name, strength and what has so much of it; empty: there is none."""
        if not self.config.strength:
            return {}
        return {"name": "gaussian", "strength": self.config.strength, "per": "weight"}

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {"weights": self.weights}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Practice:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(PracticeConfig, dict(config), REMARKS), np.asarray(tensors["weights"]))


def squash(odds: np.ndarray) -> np.ndarray:
    """Turn log-odds into probabilities without overflow."""
    return np.exp(-np.logaddexp(0, -odds))
