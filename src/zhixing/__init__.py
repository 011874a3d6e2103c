"""zhixing: from a person's own text to a language model, p(y | x).

The public names are looked up when first used, so that importing the package costs nothing and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

PUBLIC = {
    "compare": "zhixing.studies.ladder:compare",
    "evaluate": "zhixing.evaluation.evaluate:evaluate",
    "export_model": "zhixing.exporting.export:export_model",
    "import_model": "zhixing.importing.bring:import_model",
    "load": "zhixing.tasks.artefact:load",
    "prepare": "zhixing.preparation.prepare:prepare",
    "suggest": "zhixing.evaluation.suggest:suggest",
    "train": "zhixing.training.train:train",
}

__all__ = ["__version__", *PUBLIC]  # noqa: PLE0604 - the table is the list


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'zhixing' has no attribute '{name}'; its public names are {', '.join(sorted(__all__))}")
    module, attribute = PUBLIC[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
