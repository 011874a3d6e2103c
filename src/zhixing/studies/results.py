"""One table of all that was evaluated: each saved report below a folder is a row, with its interval and its strongest rival beside it.

A report is what `evaluate` writes into a Model folder. Nothing is computed anew; a table says what was measured, and by which model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError
from zhixing.core.files import read_json
from zhixing.core.folder import CARD
from zhixing.evaluation.report import DOUBTED
from zhixing.tasks.artefact import CONFIG

LOWER = ("bits_per_byte", "context_nats", "masked_nats")  # first figures of which less is better; those of tasks of rows say it themselves
HEAD = ("task", "corpus", "model", "figure", "value", "95 % interval", "strongest rival", "its value", "verdict", "examples")


@dataclass(frozen=True)
class Row:
    """One report: its first figure, and the rival that comes nearest to it or beats it."""

    task: str
    corpus: str
    split: str
    model: str
    place: str
    figure: str
    value: float
    low: float | None
    high: float | None
    rival: str
    rival_value: float | None
    verdict: str
    examples: int
    core_seconds: float | None
    memory_bytes: int | None
    parameters: int | None
    dynamic: bool  # the model learnt from the split as it read it


def gather(places: Iterable[Path]) -> list[Row]:
    """Read every report below some folders, by task, corpus and value.

    Raises DataError when there is none.
    """
    places = list(places)
    found = [row for place in places for path in sorted(place.glob("**/evaluation/*.json")) if (row := read(path)) is not None]
    if not found:
        raise DataError("results.none", path=", ".join(map(str, places)))
    return sorted(found, key=lambda row: (row.task, row.corpus, row.split, row.value if lower(row.task, row.figure) else -row.value))


def lower(task: str, figure: str) -> bool:
    """Say whether less is better in a task's figure."""
    from zhixing.tasks.task import TASKS, task_class

    figures = task_class(task).figures if task in TASKS else {}
    own = figures.get(figure) if isinstance(figures, Mapping) else None  # many tasks have figures only once they are known
    return own.lower if own is not None else figure in LOWER


def read(path: Path) -> Row | None:
    """Read one report; None for a file that is none, or whose Model folder is gone."""
    report, folder = read_json(path), path.parent.parent
    if not isinstance(report, dict) or not report.get("figures") or not (folder / CARD).exists():
        return None
    card, first = read_json(folder / CARD), report["figures"][0]
    less = lower(report["task"], first["name"])
    rivals = sorted(first["rivals"].items(), key=lambda pair: pair[1] if less else -pair[1])
    rival, rival_value = rivals[0] if rivals else ("", None)
    return Row(
        task=report["task"],
        corpus=Path(report["corpus"]).name,
        split=report["split"],
        model=str(card.get("model", "")),
        place=str(folder),
        figure=first["name"],
        value=first["value"],
        low=first["low"],
        high=first["high"],
        rival=rival,
        rival_value=rival_value,
        verdict=report["verdict"],
        examples=report["examples"],
        core_seconds=card.get("measured", {}).get("core_seconds"),
        memory_bytes=card.get("measured", {}).get("memory_bytes"),
        parameters=card.get("parameters") or weights(folder),
        dynamic="reader" in (report.get("details") or {}),
    )


def weights(folder: Path) -> int | None:
    """Count a model's numbers by the header of its weights."""
    import math

    from safetensors import safe_open

    if not (folder / CONFIG).exists():
        return None
    with safe_open(folder / "model.safetensors", framework="np") as handle:
        return sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118 - not a dict


def as_text(rows: list[Row]) -> str:
    """Set the rows as a table in Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    for row in rows:
        ends = "" if row.low is None else f"{row.low:.4f} .. {row.high:.4f}"
        beside = "" if row.rival_value is None else f"{row.rival_value:.4f}"
        corpus = row.corpus if row.split == "test" else f"{row.corpus} ({row.split})"
        verdict = row.verdict if row.verdict in ("model", "tie", *DOUBTED) else f"{row.verdict} is better"
        model = f"{row.model} ({'/'.join(Path(row.place).resolve().parts[-2:])}{', dynamic' if row.dynamic else ''})"
        cells = (row.task, corpus, model, row.figure, f"{row.value:.4f}", ends, row.rival, beside, verdict, str(row.examples))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_dict(rows: list[Row]) -> dict[str, Any]:
    """Give the rows as JSON-able data."""
    return {"rows": [asdict(row) for row in rows]}
