"""A model that teaches another: its probabilities on the training rows, asked once before step 0 and kept with each item."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import UsageError
from zhixing.core.files import sha256
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.evaluation.baselines import asked
from zhixing.tasks.artefact import load


def taught(items: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]], task: Any, place: str, tell: Callable[..., None]) -> None:
    """Write into each item, as "teacher" (labels,) float32, what a teacher says of its row.

    place  the teacher's Model folder, of any family

    Raises UsageError when the teacher is of another task or of other labels.
    """
    found = load(place)
    if found.task.name != task.name or set(found.task.labels) != set(task.labels):
        labels = ", ".join(getattr(found.task, "labels", ())[:8])
        raise UsageError("train.teacher", path=place, task=found.task.name, labels=labels, wanted=", ".join(task.labels[:8]))
    tell("train.teacher", path=place, rows=len(items))
    for item, answer in zip(items, found.predict([asked(task, row) for row in rows]), strict=True):
        scores = answer.scores or {}
        item["teacher"] = np.array([scores[label] for label in task.labels], np.float32)


def origin(place: str) -> dict[str, Any]:
    """Say of a teacher, for the card: where it lay, its manifest's hash, its size and what it was fitted on."""
    folder = open_folder(place, "model")
    about = {name: folder.card.get(name) for name in ("model", "parameters", "fitted_on")}
    return {"path": place, "manifest_sha256": sha256(folder.path / MANIFEST), **about}
