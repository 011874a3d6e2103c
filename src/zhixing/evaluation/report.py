"""A report: every figure with its interval and, beside it, what the cheap rivals reach on the same examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

DOUBTED = ("seen", "chosen", "overlap", "few", "none")  # verdicts that declare nobody better


@dataclass(frozen=True)
class Figure:
    """One figure: its value (None: there is nothing to take it from), the ends of its 95 % interval where it has one, and the rivals'."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    rivals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What evaluating one model on one split of one corpus found.

    comparisons  {rival: {value, low, high, p}}   the paired difference, model minus rival, in the first figure; few units: value alone
    verdict      "model"; the name of the rival that is better in the first figure with an interval that excludes zero; "tie"; or, where
                 nobody is declared better, "seen": the model was fitted on this very split; "chosen": its best step, temperature or
                 thresholds were chosen on it; "overlap": texts of it stand in the model's
                 training corpus; "few": too few units to be sure of anything; "none": there are no rivals

    Of classifiers, coverage_95/98/99 pick the threshold on the scored split itself: the best possible there. answered_* and precision_*
    do not: they are the share answered, and the share of those that is right, at the threshold that was chosen on validation.
    """

    model: str
    corpus: str
    split: str
    task: str
    examples: int
    figures: tuple[Figure, ...]
    comparisons: dict[str, dict[str, float | None]]
    verdict: str
    details: dict[str, Any] = field(default_factory=dict)

    def figure(self, name: str) -> Figure:
        """Give a figure by its name."""
        return next(each for each in self.figures if each.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as JSON-able data."""
        return asdict(self)

    def table(self) -> list[tuple[str, ...]]:
        """Give the report as rows of text, the first a heading."""
        rivals = sorted({name for each in self.figures for name in each.rivals})
        rows = [("figure", "value", "95 % interval", *rivals)]
        for each in self.figures:
            ends = "" if each.low is None else f"{each.low:.4f} .. {each.high:.4f}"
            value = "-" if each.value is None else f"{each.value:.4f}"
            rows.append((each.name, value, ends, *(f"{each.rivals[r]:.4f}" if r in each.rivals else "" for r in rivals)))
        return rows


def unsure(report: Report) -> Report:
    """Take back every interval and p of a report on too few units: they would say more than is known."""
    return replace(
        report,
        figures=tuple(replace(each, low=None, high=None) for each in report.figures),
        comparisons={name: {**gap, "low": None, "high": None, "p": None} for name, gap in report.comparisons.items()},
        verdict="few",
    )


def decide(comparisons: dict[str, dict[str, float]], higher: bool) -> str:
    """Say who is better in the first figure: the model, a rival, or nobody for certain."""
    if not comparisons:
        return "none"
    verdict = "model"
    worst = 0.0
    for rival, gap in comparisons.items():
        sign = 1.0 if higher else -1.0
        low, high = sorted((sign * gap["low"], sign * gap["high"]))
        if high < 0 and sign * gap["value"] < worst:
            verdict, worst = rival, sign * gap["value"]
        elif low <= 0 <= high and verdict == "model":
            verdict = "tie"
    return verdict
