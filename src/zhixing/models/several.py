"""Several counted models in one Model folder, each for its own part of an answer: a bag for a text's label beside a chain for its tags.

Nothing is shared between them; each keeps its own configuration and arrays. Leaves out: models that are trained (they share a body).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zhixing.models import catalog


class Several:
    """Counted models by the part of the answer that each gives.

    method  str            what the whole is called
    parts   {name: model}  each made of NumPy arrays
    """

    arrays = True

    def __init__(self, method: str, parts: Mapping[str, Any]) -> None:
        self.method, self.parts = method, dict(parts)

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return {"model_type": "several", "method": self.method, "parts": {name: catalog.config(part) for name, part in self.parts.items()}}

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was fitted, to be saved."""
        return {f"{name}.{key}": value for name, part in self.parts.items() for key, value in catalog.tensors(part).items()}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Several:
        """Build the models again from their configurations and saved arrays."""
        parts = {}
        for name, own in config["parts"].items():
            arrays = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            parts[name] = catalog.restore(own, arrays)
        return cls(config["method"], parts)
