"""The one artefact: a Model folder holds task, model and tokenizer, and everything after training opens it here.

Files have Hugging Face's names where it has one (config.json, model.safetensors, tokenizer.json, generation_config.json) and ours beside
(task.json, card.json, manifest.json). No pickle is read and no code is taken from the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError
from zhixing.core.files import read_json, write_bytes, write_json
from zhixing.core.folder import Folder, open_folder
from zhixing.tasks.task import from_dict, to_dict
from zhixing.tokens.tokenizer import Tokenizer

CONFIG, WEIGHTS, TASK, GENERATION = "config.json", "model.safetensors", "task.json", "generation_config.json"


@dataclass(frozen=True)
class Artefact:
    """A Model folder, opened: what every verb after training works on."""

    folder: Folder
    task: Any
    model: Any
    tokenizer: Tokenizer | None

    @property
    def family(self) -> str:
        """The name that `train --model` gave the model: a bag's method, else its type in the table of models."""
        config = read_json(self.folder.path / CONFIG)
        return str(config.get("method", config["model_type"]))


def describe(model: Any) -> dict[str, Any]:
    """Give a model's config.json; a headed model is its body's with the head beside."""
    from zhixing.layers.kinds import Headed
    from zhixing.models import catalog

    if isinstance(model, Headed):
        return {**catalog.config(model.body), "head": {"labels": model.head.out_features}}
    return catalog.config(model)


def write(path: Path, task: Any, model: Any, tokenizer: Tokenizer | None) -> None:
    """Write task, model and tokenizer into a folder that is not sealed yet; every file is durable afterwards."""
    if type(model).__name__ == "Bag":
        import numpy as np
        from safetensors.numpy import save

        # safetensors writes an array's memory as it lies, whatever its order.
        config, tensors = model.to_dict(), {name: np.ascontiguousarray(value) for name, value in model.tensors().items()}
    else:
        from safetensors.torch import save

        from zhixing.layers.kinds import Headed
        from zhixing.models import catalog

        config = describe(model)
        if isinstance(model, Headed):
            tensors = {f"body.{name}": value for name, value in catalog.tensors(model.body).items()}
            tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
        else:
            tensors = catalog.tensors(model)
        tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    write_bytes(path / WEIGHTS, save(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    write_json(path / CONFIG, config)
    write_json(path / TASK, to_dict(task))
    if tokenizer is not None:
        tokenizer.save(path)
        if task.name == "language":
            write_json(path / GENERATION, {"eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id, "do_sample": True})


def load(path: str | Path) -> Artefact:
    """Open a Model folder, every byte verified.

    Raises UsageError when it is no Model folder, DataError when it is damaged or of an unknown model or task.
    """
    folder = open_folder(path, "model")
    task = from_dict(read_json(folder.path / TASK), str(folder.path / TASK))
    config = read_json(folder.path / CONFIG)
    tokenizer = Tokenizer.load(folder.path) if (folder.path / "tokenizer.json").exists() else None
    return Artefact(folder, task, restore(config, folder.path / WEIGHTS, task), tokenizer)


def restore(config: dict[str, Any], weights: Path, task: Any) -> Any:
    """Rebuild a model from its config and its weights file."""
    if config.get("model_type") == "bag":
        from safetensors.numpy import load_file as load_arrays

        from zhixing.models.bag import Bag

        return Bag.from_tensors(config, load_arrays(weights))
    from safetensors.torch import load_file

    from zhixing.layers.kinds import Headed
    from zhixing.models import catalog

    # A file's tensors lie at any address, and the last bit of a product may depend on that: torch lays copies as it lays its own.
    tensors = {name: value.clone() for name, value in load_file(weights).items()}
    if "head" not in config:
        return catalog.restore(config, tensors)
    body = {name.removeprefix("body."): value for name, value in tensors.items() if name.startswith("body.")}
    head = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    model = Headed(catalog.restore({k: v for k, v in config.items() if k != "head"}, body), None)
    model.head = task.head(model.body.width)
    if {name: tuple(value.shape) for name, value in head.items()} != {name: tuple(v.shape) for name, v in model.head.state_dict().items()}:
        raise DataError("model.head_shape", path=str(weights))
    model.head.load_state_dict(head)
    return model.eval()
