"""Plots as plain SVG, written by hand so that no plotting library is needed: lines of loss against time, both readable in print."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 760, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 40, 56
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#0b3d91", "#7a0019", "#004d25", "#c49102"),
)
LEAST_SECONDS, MANY_DECADES = 1e-3, 5  # where a logarithmic axis of time begins at the latest; from where on it has no room for 3, 30 ..
FONT = "font-family='Noto Sans, Noto Sans CJK SC, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True)
class Line:
    """One line of a plot: points (x, y), x ascending; a single point is drawn as a dot and carried on as a dashed level."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Crossing:
    """Where one line comes to lie below another, and stays there for the rest of what was measured."""

    x: float
    y: float
    winner: str
    loser: str


def level_at(line: Line, x: float) -> float | None:
    """Give a line's value at x: its last point at or before x; None before its first point."""
    value = None
    for place, height in line.points:
        if place <= x:
            value = height
    return value


def crossings(lines: list[Line]) -> list[Crossing]:
    """Find, for every pair, the measured x from which one lies below the other for good, where the other was ahead or alone before."""
    found = []
    for winner in lines:
        for loser in lines:
            if winner is loser:
                continue
            since = None
            for x in sorted({p[0] for line in (winner, loser) for p in line.points}):
                mine, theirs = level_at(winner, x), level_at(loser, x)
                if mine is None or theirs is None:
                    continue
                if mine < theirs:
                    since = x if since is None else since
                else:
                    since = None
            height = None if since is None else level_at(winner, since)
            if since is not None and height is not None and since > loser.points[0][0]:
                found.append(Crossing(since, height, winner.name, loser.name))
    return sorted(found, key=lambda each: each.x)


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / count))
    step = next(step * m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step) * step
    return [first + k * step for k in range(int((high - first) / step + 1e-9) + 1)]


def stack(*panels: str) -> str:
    """Set plots one below the other, as one SVG document."""
    height = HEIGHT * len(panels)
    inside = "".join(each.replace("<svg ", f"<svg y='{HEIGHT * place}' ", 1) for place, each in enumerate(panels))
    return f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}'>\n{inside}</svg>\n"


def draw(lines: list[Line], title: str, x_name: str, y_name: str, kind: Literal["race", "curve", "growth"] = "race") -> str:
    """Draw lines over a logarithmic x as an SVG document.

    kind  "race": runs in time, low where they end: their last level goes on, and where one overtakes another is marked; "curve": curves,
          of which the lowest point counts, and what rises far above the highest of these leaves the picture; "growth": y is logarithmic
          too, all is shown, and the last point counts
    """
    if kind == "growth":
        lines = [Line(line.name, tuple((x, math.log10(y)) for x, y in line.points)) for line in lines]
    race = kind == "race"
    least = LEAST_SECONDS if race else min(x for line in lines for x, _ in line.points)
    xs = [max(x, least) for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    left, right = math.log10(min(xs)), math.log10(max(xs))
    right = max(right, left + 0.3)
    low, high = min(ys), max(ys)
    if race:
        best_last = sorted(line.points[-1][1] for line in lines)
        high = min(high, best_last[len(best_last) // 2] * 1.6)  # the first moments of training would flatten all that matters
    elif kind == "curve":
        lowest = [min(y for _, y in line.points) for line in lines]
        high = min(high, max(max(lowest) * 1.15, min(lowest) * 1.6))
    margin = (high - low) * 0.08 or 0.1
    low, high = low - margin, high + margin

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (math.log10(max(x, least)) - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - (min(y, high) if race else y)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' {FONT}>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        f"<text x='{LEFT}' y='22' font-size='15' font-weight='bold'>{escape(title)}</text>",
    ]
    end = WIDTH - RIGHT
    for tick in _ticks(low, high):
        _, y = at(1.0, tick)
        named = f"{10**tick:.3g}" if kind == "growth" else f"{tick:g}"
        parts.append(f"<line x1='{LEFT}' y1='{y:.1f}' x2='{end}' y2='{y:.1f}' stroke='#e5e5e5'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' font-size='11' text-anchor='end'>{named}</text>")
    for power in range(math.floor(left), math.ceil(right) + 1):
        for factor in (1, 3) if right - left < MANY_DECADES else (1,):
            tick = factor * 10.0**power
            if left <= math.log10(tick) <= right:
                x, _ = at(tick, low)
                parts.append(f"<line x1='{x:.1f}' y1='{TOP}' x2='{x:.1f}' y2='{HEIGHT - BOTTOM}' stroke='#f0f0f0'/>")
                parts.append(f"<text x='{x:.1f}' y='{HEIGHT - BOTTOM + 16}' font-size='11' text-anchor='middle'>{tick:g}</text>")
    parts.append(f"<text x='{(LEFT + end) / 2}' y='{HEIGHT - 14}' font-size='12' text-anchor='middle'>{escape(x_name)}</text>")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f"<text x='16' y='{middle}' font-size='12' text-anchor='middle' transform='rotate(-90 16 {middle})'>{escape(y_name)}</text>"
    )
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(x, y) for x, y in line.points]
        told = min(line.points, key=lambda point: point[1]) if kind == "curve" else line.points[-1]
        value = 10 ** told[1] if kind == "growth" else told[1]
        last_x, last_y = at(*told)
        if len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            inside = f"x='{LEFT}' y='{TOP}' width='{end - LEFT}' height='{HEIGHT - TOP - BOTTOM}'"  # what leaves it is not drawn
            seen = f"viewBox='{LEFT} {TOP} {end - LEFT} {HEIGHT - TOP - BOTTOM}'"
            parts.append(f"<svg {inside} {seen}><polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/></svg>")
        parts.append(f"<circle cx='{last_x:.1f}' cy='{last_y:.1f}' r='3.5' fill='{colour}'/>")
        if race:
            parts.append(
                f"<line x1='{last_x:.1f}' y1='{last_y:.1f}' x2='{end}' y2='{last_y:.1f}' stroke='{colour}' "
                "stroke-dasharray='4 4' opacity='0.5'/>"
            )
        label_y = TOP + 14 + (20 if race else 34) * number
        parts.append(f"<rect x='{end + 14}' y='{label_y - 9}' width='12' height='12' fill='{colour}'/>")
        parts.append(f"<text x='{end + 31}' y='{label_y + 1}' font-size='12'>{escape(line.name)}  {value:.3f}</text>")
        if not race:
            parts.append(f"<text x='{end + 31}' y='{label_y + 14}' font-size='11' fill='#666666'>at {told[0]:g}</text>")
    for crossing in crossings(lines) if race else ():
        x, y = at(crossing.x, crossing.y)
        parts.append(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='6' fill='none' stroke='black'>"
            f"<title>{escape(crossing.winner)} &lt; {escape(crossing.loser)}</title></circle>"
        )
        parts.append(f"<text x='{x + 8:.1f}' y='{y - 8:.1f}' font-size='10'>{crossing.x:.0f}</text>")
    parts.append("</svg>\n")
    return "\n".join(parts)
