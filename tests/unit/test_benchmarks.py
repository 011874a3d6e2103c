"""What the benchmarks judge by is right itself: each judgement is shown to go red on a known-bad case."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def growth(scripts):
    return scripts("growth")


@pytest.fixture
def voices(scripts):
    return scripts("voices")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """Import a script of benchmarks/, which finds its neighbours as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
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


def vowel(pitch: float, resonances: tuple[float, ...], seconds: float = 0.6) -> np.ndarray:
    """Make a vowel of ours: pulses through resonances 80 Hz wide."""
    from scipy.signal import lfilter

    sound = np.zeros(int(seconds * 8000))
    sound[np.arange(0, len(sound), 8000 / pitch).astype(int)] = 1
    for each in resonances:
        radius = np.exp(-np.pi * 80 / 8000)
        sound = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * each / 8000), radius**2], sound)
    return sound / np.abs(sound).max()


def pitch_of(sound: np.ndarray) -> float:
    """Find the pitch, 70 to 300 Hz, by where a sound is most like itself."""
    middle = sound[len(sound) // 4 : 3 * len(sound) // 4]
    like = np.correlate(middle, middle, "full")[len(middle) - 1 :]
    return 8000 / (26 + int(np.argmax(like[26:115])))


def centre_of(sound: np.ndarray, low: float, high: float) -> float:
    """Find the mean frequency of the power in a band."""
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    lines = np.fft.rfftfreq(len(sound), 1 / 8000)
    inside = (lines >= low) & (lines <= high)
    return float((lines * power)[inside].sum() / power[inside].sum())


def test_a_voice_is_changed_in_one_thing_at_a_time(voices) -> None:
    said, sound = voices.said, vowel(110, (600, 1800))
    assert np.abs(said(sound, 1, 1, 1)[500:4000] - sound[500:4000]).max() < 0.01, "nothing asked, nothing changed"
    assert pitch_of(said(sound, 1.3, 1, 1)) == pytest.approx(143, rel=0.02)
    assert pitch_of(said(sound, 1, 1.15, 1)) == pytest.approx(110, rel=0.02)
    assert len(said(sound, 1.3, 1.1, 1.5)) == pytest.approx(1.5 * len(sound), rel=0.03)
    plain = centre_of(sound, 1200, 2600)
    assert centre_of(said(sound, 1, 1.15, 1), 1200, 2800) / plain == pytest.approx(1.15, abs=0.04), "resonances go up"
    assert centre_of(said(sound, 1.3, 1, 1), 1200, 2600) / plain == pytest.approx(1, abs=0.05), "and stay where only the pitch does"


def test_quiet_ends_are_cut_and_noise_is_as_loud_as_drawn(voices) -> None:
    loud = np.sin(np.arange(1600))
    sound = np.concatenate([loud * 0.01, loud, loud * 0.01])  # 40 dB below at both ends
    assert len(voices.cut(sound, 30, 30)) == 1600 and len(voices.cut(sound, 50, 50)) == 4800 and len(voices.cut(sound, 50, 30)) == 3200
    source, sizes = np.random.default_rng(3), []
    for _ in range(200):
        made = voices.noise(sound, source)
        if made.any():
            sizes.append(10 * np.log10(np.square(sound).mean() / np.square(made).mean()))
    assert min(sizes) >= voices.DECIBELS[0] - 0.01 and max(sizes) <= voices.DECIBELS[1] + 0.01
    assert 0.8 < len(sizes) / 200 < 1
    who = voices.Someone.draw(source)
    assert len(who.recorded(sound)) == len(sound), "a room makes a string no longer"
