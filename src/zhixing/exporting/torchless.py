"""A model in a form that needs no torch: operations that NumPy computes, or a program of ONNX Runtime; on request the fastest of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.core.files import read_json
from zhixing.exporting.forms import FASTEST, NUMPY, PROGRAMS, TOLERANCES
from zhixing.exporting.graph import arrays_of, graph_of, sample
from zhixing.tasks import golden
from zhixing.tasks.artefact import Artefact

ROWS, TOKENS, TRIES = (1, 32), 24, 5  # what is read when the forms are timed


def without_torch(opened: Artefact, form: str, tell: Callable[..., None]) -> tuple[Any, str]:
    """Make a model's form, its golden answers asked again; of several the fastest, and its name.

    form  "numpy", "onnx", "int8" or "fastest"

    Raises UsageError for a model that cannot be taken apart, or a package that is missing; DataError for other answers. Of several, those
    that fail are left out, which is told; the last one's error is raised where none is left.
    """
    if form != FASTEST:
        return made(opened, form, tell), form
    found, paces = {}, {}
    failed: ZhixingError | None = None
    for each in (NUMPY, *PROGRAMS):
        try:
            found[each] = made(opened, each, tell)
        except (UsageError, DataError) as problem:
            tell("export.no_form", form=each, reason=problem.parts()["what"])
            failed = problem
            continue
        paces[each] = pace(found[each], opened)
        tell("export.pace", form=each, **{f"at_{rows}": value for rows, value in zip(ROWS, paces[each], strict=True)})
    if failed is not None and not found:
        raise failed
    best = max(paces, key=lambda name: float(np.prod(paces[name])))
    return found[best], best


def made(opened: Artefact, form: str, tell: Callable[..., None]) -> Any:
    """Make one form, its golden answers asked again."""
    if form == NUMPY:
        found, tolerance = arrays_of(opened, graph_of), TOLERANCES["F32"]
    else:
        from zhixing.exporting.onnx import session_of

        weights = PROGRAMS[form]
        found, tolerance = arrays_of(opened, lambda each: session_of(each, weights)), TOLERANCES[weights]
    golden.check(opened.folder.path, opened.task, found, opened.tokenizer, tolerance)
    if form == "int8":
        agreement(opened, found, tell)
    return found


def agreement(opened: Artefact, found: Any, tell: Callable[..., None]) -> None:
    """Tell how many golden answers are the same: rounded weights may move numbers. Of a model that writes, all that it continues with."""
    before = read_json(opened.folder.path / golden.GOLDEN)["answers"]
    now = golden.ask(opened.task, found, opened.tokenizer, before)
    name = "greedy" if "greedy" in before[0] else "value"
    tell("export.agreement", same=sum(one[name] == two[name] for one, two in zip(before, now, strict=True)), of=len(before))


def pace(found: Any, opened: Artefact) -> list[float]:
    """Time a form: rows a second, one at a time and many side by side, each of TOKENS tokens at most; the median of some tries."""
    paces = []
    for rows in ROWS:
        taken = []
        for _ in range(TRIES):
            for part in getattr(found, "parts", {"": found}).values():
                drawn = sample(opened, rows, min(TOKENS, part.window or TOKENS))
                given = [drawn[name] for name in part.inputs]
                part.run(*given)
                began = time.perf_counter()
                part.run(*given)
                taken.append(time.perf_counter() - began)
        paces.append(rows / statistics.median(taken))
    return paces
