"""A Model folder leaves as a file that other programs open; what it answers is held against the model before it takes its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import atomic, read_json
from zhixing.core.folder import above, check_place
from zhixing.core.log import quiet
from zhixing.data import gguf
from zhixing.models import catalog
from zhixing.models import gguf as names
from zhixing.tasks import artefact, golden
from zhixing.tokens.gguf import from_gguf, to_gguf
from zhixing.tokens.imported import Imported
from zhixing.tokens.layout import Parts

# How far log p may lie from the model's, relative to the largest of a text, by the form of the weights.
TOLERANCES = {"F32": 1e-4, "F16": 1e-2, "BF16": 3e-2, "Q8_0": 5e-2}
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}  # what most of a file's matrices are, as programs show it


def export_model(model: str | Path, out: str | Path, form: str = "F16", tell: Callable[..., None] = quiet, force: bool = False) -> Path:
    """Write a language model's GGUF file.

    model  a Model folder of the llama or qwen3 layout, with a byte-level BPE tokenizer
    out    the new file
    form   a name of `gguf.WRITTEN`: of the matrices

    Raises UsageError for a model or tokenizer that GGUF has no name for, or a place that is taken; DataError, and nothing is written, when
    the file's answers are not the model's.
    """
    out = check_place(out)
    if form.upper() not in gguf.WRITTEN:
        raise UsageError("export.form", name=form, among=list(gguf.WRITTEN))
    form = form.upper()
    if out.exists() and (not force or out.is_dir()):
        raise UsageError("output.exists", path=str(out))
    opened = artefact.load(model)
    if opened.task.name != "language" or not hasattr(opened.model, "states"):
        raise UsageError("export.task", path=str(model), model=opened.family)
    config = opened.model.to_dict()
    settings = {**names.settings_of(config), "general.name": Path(model).name, **to_gguf(opened.tokenizer)}
    settings |= {"general.file_type": FILE_TYPES[form], "general.quantization_version": 2}
    tensors = {}
    for name, value in catalog.tensors(opened.model).items():
        theirs, array = names.gguf_name(name), value.float().cpu().numpy()
        heads = names.heads_of(theirs, config)
        tensors[theirs] = names.laid(array, heads) if heads else array
    with above(out), atomic(out) as handle:
        gguf.write(handle, settings, tensors, form)
        handle.flush()
        replay(Path(handle.name), opened, TOLERANCES[form])
    tell("export.done", path=str(out), mib=out.stat().st_size / (1 << 20), form=form)
    return out


def replay(path: Path, opened: artefact.Artefact, tolerance: float) -> None:
    """Read a file as any program would, and hold what it answers against the model's golden answers. Raises DataError where they differ."""
    held = gguf.GGUF(path)
    content, _ = from_gguf(str(path), held.settings)
    coder = Imported(Parts(content, json.loads(content), []), opened.tokenizer.vocabulary_size)
    for text in (each["text"] for each in read_json(opened.folder.path / golden.GOLDEN)["answers"]):
        if coder.encode(text).tolist() != opened.tokenizer.encode(text).tolist():
            raise DataError("golden.differs", path=str(path), text=text[:40], difference="token ids", tolerance=0)
    again = catalog.restore(*names.read(held))
    golden.check(opened.folder.path, opened.task, again, opened.tokenizer, tolerance)
