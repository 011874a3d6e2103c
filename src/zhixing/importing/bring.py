"""A pretrained model becomes a Model folder, which every verb works on as on one that was trained here."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zhixing
from zhixing.core.files import sha256
from zhixing.core.folder import Folder, check_new, create, locked, open_folder
from zhixing.core.log import quiet
from zhixing.importing.sources import Source, open_source
from zhixing.tasks import artefact
from zhixing.tasks.language import Language
from zhixing.tasks.masked import MaskedLanguage
from zhixing.tasks.similar import Similar
from zhixing.tokens.tokenizer import Tokenizer


def import_model(source: str | Path, out: str | Path, tell: Callable[..., None] = quiet, force: bool = False) -> Folder:
    """Make a Model folder of a pretrained model: one that writes, one that fills gaps in, or one that makes vectors of texts.

    source  a folder with config.json, safetensors and tokenizer.json, or a GGUF file
    out     the new Model folder

    Raises UsageError when there is nothing at the source or the place is taken, DataError for a model that cannot be read as one of ours.
    """
    source, out = Path(source), Path(out)
    with locked(out):
        check_new(out, force, source)
        found = open_source(source)
        tell("import.read", path=str(source), family=found.config["model_type"], tokens=found.config["vocab_size"])
        import torch

        from zhixing.models import catalog

        task, model = _served(found, catalog.restore(found.config, found.tensors))
        content, settings = found.tokenizer
        tokenizer = Tokenizer(content, str(source), settings=settings)
        card: dict[str, Any] = {
            "task": task.name,
            "model": found.config["model_type"],
            "parameters": sum(each.numel() for each in model.parameters()),
            "imported": {each.name: sha256(each) for each in found.files},
            "versions": {"zhixing": zhixing.__version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        with create(out, "model", card, force) as building:
            artefact.write(building, task, model, tokenizer)
    return open_folder(out, "model")


def _served(found: Source, model: Any) -> tuple[Any, Any]:
    """Say what a model answers as it comes, and give it with the head that this takes: any training may begin with its body."""
    from zhixing.layers.kinds import Headed

    if "masked" not in model.kinds:
        return Language(), model
    if model.mask_id is not None:
        return MaskedLanguage(), model
    task = Similar(longest=min(found.longest or model.window, model.window))
    return task, Headed(model, task.head(model.width))
