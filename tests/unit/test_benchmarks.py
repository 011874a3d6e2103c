"""What the benchmarks judge by is right itself: each judgement is shown to go red on a known-bad case."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch):
    """Import benchmarks/growth.py, which finds its neighbours as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module("growth")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_a_straight_line_with_a_fixed_cost_passes(growth) -> None:
    slope, steepest = growth.slopes([(float(work), 3.0 + 0.01 * work) for work in (50, 100, 200, 400, 800, 1600)])
    assert 0.5 < slope <= 1.0 and slope <= steepest <= 1.0


@pytest.mark.parametrize("power", [1.3, 2.0])
def test_a_line_that_bends_up_is_seen(growth, power: float) -> None:
    points = [(float(work), 3.0 + work**power) for work in (50, 100, 200, 400, 800, 1600)]
    slope, steepest = growth.slopes(points)
    assert slope > growth.MOST_SLOPE and steepest > growth.MOST_SLOPE
    late = [(work, cost if work < 1600 else 3 * cost) for work, cost in [(point[0], point[0]) for point in points]]
    assert growth.slopes(late)[1] > growth.MOST_SLOPE, "a bend at the last point alone is seen by the steepest"


def test_every_point_keeps_its_least_round(growth) -> None:
    taken = iter([5.0, 9.0, 4.0, 11.0])
    assert growth.measure({"line": [(1.0, lambda: next(taken)), (2.0, lambda: next(taken))]}, 2) == {"line": [(1.0, 4.0), (2.0, 9.0)]}


def test_what_is_fixed_is_taken_away(growth) -> None:
    """A start of three seconds hides how cost grows; what cannot be seen beside it is left out."""
    points = [(0.0, lambda: 3.0), *((float(work), lambda work=work: 3.0 + 0.01 * work**2) for work in (2, 8, 16, 32, 64))]
    (found,) = growth.measure({"line": points}, 1).values()
    assert [work for work, _ in found] == [8, 16, 32, 64] and growth.slopes(found)[0] == pytest.approx(2.0)
    assert growth.slopes([(work, seconds + 3) for work, seconds in found])[0] < 1.8
