"""A report: every figure with its interval and, beside it, what the cheap rivals reach on the same examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

HIGHER = {"accuracy", "macro_f1", "coverage_95", "coverage_98", "coverage_99"}


@dataclass(frozen=True)
class Figure:
    """One figure: its value, the ends of its 95 % interval where it has one, and the rivals' values by name."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    rivals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What evaluating one model on one split of one corpus found.

    comparisons  {rival: {value, low, high, p}}   the paired difference, model minus rival, in the first figure
    verdict      "model"; the name of the rival that is better in the first figure with an interval that excludes zero; "tie"; or
                 "none" without rivals
    """

    model: str
    corpus: str
    split: str
    task: str
    examples: int
    figures: tuple[Figure, ...]
    comparisons: dict[str, dict[str, float]]
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
            rows.append((each.name, f"{each.value:.4f}", ends, *(f"{each.rivals[r]:.4f}" if r in each.rivals else "" for r in rivals)))
        return rows


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
