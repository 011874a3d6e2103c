"""A Model folder leaves in a form that needs less or that others read; what it answers then is held against the model before it has a name.

A language model becomes a GGUF file; a model of rows becomes a Model folder that NumPy reads, without torch; both become an ONNX file, or a
folder that transformers opens; vectors of words become a file of theirs. `forms` says which task of which model leaves in which form.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import zhixing
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import atomic, read_json, sha256
from zhixing.core.folder import MANIFEST, above, check_new, check_place, create, locked
from zhixing.core.log import quiet
from zhixing.data import gguf
from zhixing.exporting import words
from zhixing.exporting.forms import (
    FASTEST,
    FOLDERS,
    GGUF,
    HEARD,
    HUGGINGFACE,
    MERGED,
    NUMPY,
    ONNX,
    PROGRAMS,
    TOLERANCES,
    VECTORS,
    forms_of,
    writes,
)
from zhixing.exporting.llamacpp import File, library
from zhixing.models import catalog
from zhixing.models import gguf as names
from zhixing.tasks import adapter, artefact, golden
from zhixing.tasks.embed import words_of
from zhixing.tokens.gguf import from_gguf, to_gguf
from zhixing.tokens.layout import Parts
from zhixing.tokens.tokenizer import coder

CARRIED = ("task", "model", "parameters", "fitted_on", "corpus", "training", "start", "teacher")  # what a card says of the model itself
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7}  # what most of a file's matrices are, as programs show it


def export_model(model: str | Path, out: str | Path, form: str = "", tell: Callable[..., None] = quiet, force: bool = False) -> Path:
    """Write a language model's GGUF file; of a model that answers rows a Model folder without torch or, by its name, an .onnx file.

    Vectors of words become a file whose name ends in .vec, word2vec's text.

    model  a Model folder, or an Adapter folder
    out    the new file, or the new folder
    form   a name of `gguf.WRITTEN`: of the matrices; of a folder "numpy", "onnx" (computed by ONNX Runtime), "int8" (so, with weights in
           eight bits; of an .onnx file too), "fastest" of these, which is measured, "huggingface", or "merged": the Model folder of an
           adapter and its base in one. Empty: by the name of what is written, F16 of .gguf, ONNX of .onnx, else numpy

    Raises UsageError for a model or tokenizer that the form has no name for, or a place that is taken; DataError, and nothing is written,
    when the answers are not the model's.
    """
    out = check_place(out)
    form = form.lower() if form.lower() in FOLDERS else form.upper()
    if form and form not in (*gguf.WRITTEN, *FOLDERS):
        raise UsageError("export.form", name=form, among=[*gguf.WRITTEN, *FOLDERS])
    if form == MERGED:
        return _merged(model, out, tell, force)
    if form == HUGGINGFACE:
        return _huggingface(model, out, tell, force)
    if not form and out.suffix == ".vec":
        return _vectors(model, out, tell, force)
    if form not in (NUMPY, FASTEST) and out.suffix == ".onnx":
        return _onnx(model, out, form, tell, force)
    if form in FOLDERS or (not form and out.suffix != ".gguf"):
        return _arrays(model, out, form or NUMPY, tell, force)
    return _gguf(model, out, form or "F16", tell, force)


def leaving(model: str | Path, form: str, asked: str = "") -> artefact.Artefact:
    """Open a model that is to leave in a form.

    asked  what that form was called; empty: as it is

    Raises UsageError, which names those that it can leave in, where it cannot, or where other programs cannot cut texts as it does.
    """
    opened = whole(model)
    if form in (found := forms_of(opened.task, opened.model)):
        if form in (ONNX, HUGGINGFACE) and opened.tokenizer is not None and not opened.tokenizer.portable:
            raise UsageError("export.portable", path=str(model), sort=opened.tokenizer.sort, form=form)
        return opened
    about = {"path": str(model), "task": opened.task.name, "model": opened.family, "form": asked or form}
    if getattr(opened.model, "arrays", False):
        raise UsageError("export.no_torch", **about)
    if asked in PROGRAMS and ONNX in found:
        raise UsageError("export.one_file", **about)
    raise UsageError("export.task", **about, forms=", ".join(found)) if found else UsageError("export.nothing", **about)


def _done(tell: Callable[..., None], out: Path, mib: float, form: str) -> None:
    """Tell that a form is written, and how near its answers are."""
    if form.upper() == "INT8":
        tell("export.rounded", path=str(out), mib=mib, form=form)
    else:
        tell("export.done", path=str(out), mib=mib, form=form)


def _gguf(model: str | Path, out: Path, form: str, tell: Callable[..., None], force: bool) -> Path:
    """Write a GGUF file, which is read again as any program would."""
    check_file(out, force)
    opened = leaving(model, GGUF)
    config = opened.model.to_dict()
    settings = {**names.settings_of(config), "general.name": Path(model).name, **to_gguf(opened.tokenizer)}
    settings |= {"general.file_type": FILE_TYPES[form], "general.quantization_version": 2}
    tensors = names.factors_of(config)
    for name, value in catalog.tensors(opened.model).items():
        theirs, array = names.gguf_name(name), value.float().cpu().numpy()
        heads = names.heads_of(theirs, config)
        tensors[theirs] = names.laid(array, heads) if heads else array
    with above(out), atomic(out) as handle:
        gguf.write(handle, settings, tensors, form)
        handle.flush()
        replay(Path(handle.name), opened, TOLERANCES[form])
        if found := library():
            replay_there(File(found, Path(handle.name)), out, opened, TOLERANCES[form])
            tell("export.reader", reader="llama.cpp")
    tell("export.done", path=str(out), mib=out.stat().st_size / (1 << 20), form=form)
    return out


def whole(model: str | Path) -> artefact.Artefact:
    """Open a model, an adapter with what it learnt added to its base's weights."""
    from zhixing.layers import lora

    opened = artefact.load(model)
    return replace(opened, model=lora.merge(opened.model)) if opened.folder.kind == adapter.KIND else opened


def _merged(model: str | Path, out: Path, tell: Callable[..., None], force: bool) -> Path:
    """Write the Model folder of an adapter and its base in one."""
    with locked(out):
        for source in adapter.sources(model):
            check_new(out, force, source)
        opened = whole(model)
        if opened.folder.kind != adapter.KIND:
            raise UsageError("export.not_adapter", path=str(model))
        golden.check(opened.folder.path, opened.task, opened.model, opened.tokenizer, TOLERANCES["F32"])
        about = {name: value for name, value in opened.folder.card.items() if name not in ("kind", "format", "base", "trained")}
        with create(out, "model", {**about, "merged": opened.folder.card["base"]}, force) as building:
            artefact.write(building, opened.task, opened.model, opened.tokenizer)
    tell("export.done", path=str(out), mib=size_of(out), form=MERGED)
    return out


def _onnx(model: str | Path, out: Path, form: str, tell: Callable[..., None], force: bool) -> Path:
    """Write an ONNX file, whose golden answers ONNX Runtime gives again."""
    if form not in ("", "F32", *PROGRAMS):
        raise UsageError("export.form", name=form, among=["F32", *PROGRAMS])
    check_file(out, force)
    opened = leaving(model, ONNX)
    from zhixing.exporting import onnx
    from zhixing.exporting.replay import Writer
    from zhixing.exporting.torchless import agreement

    with above(out), atomic(out) as handle:
        made = onnx.session_of(opened, weights := PROGRAMS.get(form, "F32"), portable=True)
        handle.write(made.program.tobytes())
        found = Writer(made.run, made.window) if "next" in made.names and writes(opened.task) else made
        golden.check(opened.folder.path, opened.task, found, opened.tokenizer, TOLERANCES[weights])
        if weights == "INT8":
            agreement(opened, found, tell)
    _done(tell, out, out.stat().st_size / (1 << 20), weights)
    return out


def _vectors(model: str | Path, out: Path, tell: Callable[..., None], force: bool) -> Path:
    """Write words and their vectors, read again and compared."""
    check_free(out, force)
    opened = leaving(model, VECTORS)
    spelt, array = words_of(opened.model, opened.tokenizer), opened.model.embeddings.weight.detach().float().cpu().numpy()
    if out.exists() and not words.begins_alike(out, spelt, array):
        raise UsageError("output.not_ours", path=str(out))
    if blank := [each for each in spelt if each.split() != [each]]:
        raise UsageError("export.blank", path=str(model), word=blank[0][:40], count=len(blank))
    with above(out), atomic(out) as handle:
        words.write(handle, spelt, array)
        handle.flush()
        again, vectors = words.read(Path(handle.name))
        wrong = [word for word, other in zip(spelt, again, strict=True) if word != other]
        if wrong or not np.array_equal(vectors, array):
            raise DataError("golden.differs", path=str(out), text=(wrong or spelt)[0][:40], difference="words or vectors", tolerance=0)
    tell("export.done", path=str(out), mib=out.stat().st_size / (1 << 20), form=VECTORS)
    return out


def _arrays(model: str | Path, out: Path, form: str, tell: Callable[..., None], force: bool) -> Path:
    """Write a Model folder that needs no torch."""
    with locked(out):
        for source in adapter.sources(model):
            check_new(out, force, source)
        opened = leaving(model, NUMPY, form)
        from zhixing.exporting.torchless import without_torch

        found, form = without_torch(opened, form, tell)
        card = provenance(opened, model)
        card["exported"] |= {"form": form}
        with create(out, "model", card, force) as building:
            artefact.write(building, opened.task, found, opened.tokenizer)
    _done(tell, out, size_of(out), form)
    return out


def _huggingface(model: str | Path, out: Path, tell: Callable[..., None], force: bool) -> Path:
    """Write a folder that transformers opens."""
    with locked(out):
        for source in adapter.sources(model):
            check_new(out, force, source)
        opened = leaving(model, HUGGINGFACE)
        from zhixing.exporting import huggingface

        card = provenance(opened, model)
        with create(out, HUGGINGFACE, card, force) as building:
            auto, versions = huggingface.write(opened, building)
            if auto == HEARD and 0 < opened.task.filled < opened.task.seconds:
                tell("export.filled", filled=opened.task.filled, seconds=opened.task.seconds)
            card["exported"] |= {"opens": auto}
            card["versions"] |= versions
    tell("export.done", path=str(out), mib=size_of(out), form=auto)
    return out


def check_free(out: Path, force: bool) -> None:
    """Refuse a file's place that is taken; with force only where a folder lies there."""
    if out.exists() and (not force or out.is_dir()):
        raise UsageError("output.exists", path=str(out))


def check_file(out: Path, force: bool) -> None:
    """Refuse a place that is taken: with force too where what lies there is a folder, or a file that no export wrote."""
    check_free(out, force)
    if not out.exists():
        return
    with open(out, "rb") as handle:
        head = handle.read(4)
    if head != b"GGUF" and not (out.suffix == ".onnx" and b"zhixing.task" in out.read_bytes()):
        raise UsageError("output.not_ours", path=str(out))


def provenance(opened: artefact.Artefact, model: str | Path) -> dict[str, Any]:
    """Give the card of what a model is exported to: what it was, and where it came from."""
    card = {name: opened.folder.card[name] for name in CARRIED if name in opened.folder.card}
    card["exported"] = {"from": Path(model).name, "manifest_sha256": sha256(opened.folder.path / MANIFEST)}
    card["versions"] = {"zhixing": zhixing.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return card


def size_of(folder: Path) -> float:
    """Give how large a folder is, in MiB."""
    return sum(each.stat().st_size for each in folder.rglob("*") if each.is_file()) / (1 << 20)


def replay(path: Path, opened: artefact.Artefact, tolerance: float) -> None:
    """Read a file as any program would, and hold what it answers against the model's golden answers. Raises DataError where they differ."""
    held = gguf.GGUF(path)
    content, _ = from_gguf(str(path), held.settings)
    again = coder(Parts(content, json.loads(content), []), opened.tokenizer.vocabulary_size)
    same_tokens(lambda text: again.encode(text).tolist(), path, opened)
    restored = catalog.restore(*names.read(held))
    golden.check(opened.folder.path, opened.task, restored, opened.tokenizer, tolerance)


def replay_there(held: File, path: Path, opened: artefact.Artefact, tolerance: float) -> None:
    """Let llama.cpp read a file, and hold what it answers against the model's golden answers. Raises DataError where they differ."""
    from zhixing.exporting.replay import Writer

    same_tokens(held.encode, path, opened)
    golden.check(opened.folder.path, opened.task, Writer(held.run, getattr(opened.model, "window", None)), opened.tokenizer, tolerance)


def same_tokens(encode: Callable[[str], list[int]], path: Path, opened: artefact.Artefact) -> None:
    """Cut the golden texts as another tokenizer does. Raises DataError where the tokens are others."""
    for text in (each["text"] for each in read_json(opened.folder.path / golden.GOLDEN)["answers"]):
        if encode(text) != opened.tokenizer.encode(text).tolist():
            raise DataError("golden.differs", path=str(path), text=text[:40], difference="token ids", tolerance=0)
