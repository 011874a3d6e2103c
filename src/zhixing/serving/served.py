"""The models that are served, by name, and what each says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.core.files import sha256
from zhixing.core.folder import MANIFEST
from zhixing.data.schema import Items, Label, Labels, Record, Text, needed
from zhixing.serving.limits import SOUNDS, VECTORS
from zhixing.tasks.artefact import Artefact, load

TEXT_ROUTES = ["/v1/completions", "/v1/chat/completions"]
ROW_ROUTES = ["/v1/predict"]


@dataclass(frozen=True)
class Served:
    """A model with the name that requests call it by; fingerprint: the first digits of its manifest's hash."""

    name: str
    artefact: Artefact
    fingerprint: str

    @property
    def writes(self) -> bool:
        """Whether it writes texts; else it answers rows."""
        return self.artefact.task.name == "language"

    @property
    def routes(self) -> list[str]:
        """List where it answers."""
        found = list(TEXT_ROUTES if self.writes else ROW_ROUTES)
        heard = [SOUNDS] if self.artefact.task.name == "transcribe" else []
        return [*found, *heard, *([VECTORS] if self.artefact.embeds else [])]

    def inputs(self) -> dict[str, Any]:
        """Give the JSON Schema of a row, from the task's own schema: every field but the answer."""
        fields = self.artefact.task.schema.asked.fields
        properties = {name: kind.form() for name, kind in fields.items()}
        for name, kind in fields.items():
            if isinstance(kind, Record):  # the columns that are read, others are not refused
                columns = self.artefact.task.columns
                properties[name]["properties"] = dict.fromkeys(columns, properties[name]["additionalProperties"])
        return {"type": "object", "properties": properties, "required": needed(fields), "additionalProperties": False}

    def outputs(self) -> dict[str, Any]:
        """Give the JSON Schema of an answer, whose form is that of the task's own answer, with probabilities where there are labels."""
        task = self.artefact.task
        answers = task.schema.fields.get(task.schema.answer, Text())
        share = {"type": "number", "minimum": 0, "maximum": 1}
        labels = isinstance(answers, Label)
        answer = {"type": "string", "enum": list(task.labels)} if labels else answers.form()
        if task.schema.beside:  # several answers by name or, of many tasks, that of the row's own
            told = [task.schema.fields[name].form() for name in task.schema.told]
            answer = {"type": "object"} if task.schema.answer is not None else {"anyOf": [{"type": "object"}, *told]}
        ranks = any(isinstance(each, Items) for each in task.schema.fields.values())  # by what need be no probability
        score = share if isinstance(answers, Label | Labels) and not ranks else {"type": "number"}
        properties = {
            "answer": answer,
            "confidence": {"anyOf": [share, {"type": "null"}]},
            "scores": {"anyOf": [{"type": "object", "additionalProperties": score}, {"type": "null"}]},
            "reasons": {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]},
            "abstained": {"type": "boolean"},
        }
        return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}

    def entry(self) -> dict[str, Any]:
        """Give the model's entry in `/v1/models`."""
        card, model = self.artefact.folder.card, self.artefact.model
        thresholds = getattr(self.artefact.task, "thresholds", {})
        return {
            "id": self.name,
            "object": "model",
            "created": int((self.artefact.folder.path / MANIFEST).stat().st_mtime),
            "owned_by": "zhixing",
            "task": self.artefact.task.name,
            "family": self.artefact.family,
            "system_fingerprint": self.fingerprint,
            "routes": self.routes,
            "window": getattr(model, "window", None),
            "vocabulary": self.artefact.tokenizer.vocabulary_size if self.artefact.tokenizer else None,
            "parameters": card.get("parameters"),
            "input_schema": None if self.writes else self.inputs(),
            "output_schema": None if self.writes else self.outputs(),
            "precisions": sorted(float(name) for name, value in thresholds.items() if value is not None),
            "scores": scores(card),
        }


def scores(card: dict[str, Any]) -> dict[str, Any]:
    """Give the figures that a model's card holds of its training: those of validation, by which it was chosen."""
    found: dict[str, Any] = {}
    for name in ("training", "chosen", "best"):
        for key, value in (card.get(name) or {}).items() if isinstance(card.get(name), dict) else ():
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                found[key] = value
    return found


def open_models(paths: Sequence[Path]) -> dict[str, Served]:
    """Open Model folders, every byte verified, each under its folder's name.

    Raises UsageError when two have one name, and whatever `load` raises.
    """
    found: dict[str, Served] = {}
    shared: dict[str, dict[str, Any]] = {}  # adapters of one base, and it, are one memory
    for path in paths:
        name = path.resolve().name
        if name in found:
            raise UsageError("serve.two_names", name=name, path=str(path))
        artefact = load(path, shared)
        found[name] = Served(name, artefact, sha256(artefact.folder.path / MANIFEST)[:16])
    return found
