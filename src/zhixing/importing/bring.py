"""A pretrained model becomes a Model folder, which every verb works on as on one that was trained here."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zhixing
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import sha256
from zhixing.core.folder import MANIFEST, Folder, check_new, create, locked, open_folder
from zhixing.core.log import quiet
from zhixing.data.sound import FRAMES_A_SECOND
from zhixing.importing.sources import Source, open_source, plain, tokenizer_beside
from zhixing.tasks import adapter, artefact
from zhixing.tasks.language import Language
from zhixing.tasks.masked import MaskedLanguage
from zhixing.tasks.similar import Similar
from zhixing.tasks.transcribe import LANGUAGE, RATE, STARTS, TRANSCRIBES, UNTIMED, Transcribe
from zhixing.tokens.tokenizer import Tokenizer

CARRIED = ("task", "model", "versions", "fitted_on", "corpus", "training")  # what an adapter's card says of its base
ENGLISH_ONLY, BEAM = 51864, 5  # the vocabulary of a Whisper that holds one language, and prefixes kept when it answers


def import_model(
    source: str | Path, out: str | Path, tell: Callable[..., None] = quiet, force: bool = False, base: str | Path = ""
) -> Folder:
    """Make a Model folder of a pretrained model: one that writes, fills gaps in, makes vectors of texts, or writes down what it hears.

    source  a folder with config.json, safetensors (of Whisper also CTranslate2's model.bin) and tokenizer.json, or a GGUF file
    out     the new Model folder
    base    of an adapter, a folder as peft writes it, the Model folder that it belongs to: then an Adapter folder is made

    Raises UsageError when there is nothing at the source or the place is taken, or a base is asked for or given too much, DataError for a
    model that cannot be read as one of ours.
    """
    source, out = Path(source), Path(out)
    adapts = os.path.lexists(source / adapter.ADAPTER_CONFIG)
    if adapts != bool(base):
        raise UsageError("import.base" if adapts else "import.base_alone", path=str(source))
    if adapts and (source / MANIFEST).is_file():
        raise UsageError("import.own", path=str(source))
    with locked(out):
        for each in (source, *([base] if base else [])):
            check_new(out, force, each)
        if adapts:
            return _adapter(source, out, Path(base), tell, force)
        found = open_source(source)
        tell("import.read", path=str(source), family=found.config["model_type"], tokens=found.config["vocab_size"])
        if found.scaled:
            tell("import.scaled")
        import torch

        from zhixing.models import catalog

        content, settings = found.tokenizer
        tokenizer = Tokenizer(content, str(source), settings=settings)
        task, model = _served(found, catalog.restore(found.config, found.tensors), tokenizer)
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


def _adapter(source: Path, out: Path, base: Path, tell: Callable[..., None], force: bool) -> Folder:
    """Make an Adapter folder of one that peft wrote, over a Model folder of ours."""
    opened = artefact.load(base)
    if opened.folder.kind != "model" or not hasattr(opened.model, "modules"):
        raise UsageError("lora.on_adapter", path=str(base))
    files = [plain(source / name) for name in (adapter.ADAPTER_CONFIG, adapter.ADAPTER)]
    adapter.attach(getattr(opened.model, "body", opened.model), source)
    tokenizer, told = tokenizer_beside(source, opened.tokenizer)
    trained = sum(each.numel() for name, each in opened.model.named_parameters() if "lora_" in name)
    tell("import.adapter", path=str(source), parameters=trained, base=str(base))
    card: dict[str, Any] = {
        **{name: value for name, value in opened.folder.card.items() if name in CARRIED},
        "parameters": sum(each.numel() for each in opened.model.parameters()),
        "trained": trained,
        "base": adapter.base_for(base, out),
        "imported": {each.name: sha256(each) for each in (*files, *told)},
    }
    with create(out, adapter.KIND, card, force) as building:
        artefact.write(building, opened.task, opened.model.eval(), tokenizer, str(base))
    return open_folder(out, "model")


def _served(found: Source, model: Any, tokenizer: Tokenizer) -> tuple[Any, Any]:
    """Say what a model answers as it comes, and give it with the head that this takes: any training may begin with its body."""
    from zhixing.layers.kinds import Headed

    if "speech_seq2seq" in model.kinds:
        return _hearing(found, tokenizer), model
    if "masked" not in model.kinds:
        return Language(), model
    if model.mask_id is not None:
        return MaskedLanguage(), model
    task = Similar(longest=min(found.longest or model.window, model.window))
    return task, Headed(model, task.head(model.width))


def _hearing(found: Source, tokenizer: Tokenizer) -> Transcribe:
    """Say how a Whisper is asked: which control tokens stand before a text, and which languages it tells apart.

    Raises DataError when its tokenizer lacks one of them.
    """
    ids = {name: place for place, name in (*tokenizer.controls.items(), *tokenizer.added.items())}
    several = found.config["vocab_size"] != ENGLISH_ONLY
    wanted = (STARTS, *([TRANSCRIBES] if several else []), UNTIMED)
    if missing := [name for name in wanted if name not in ids]:
        raise DataError("import.tokenizer", path=str(found.path), problem=f"no {missing[0]}")
    languages: list[str] = []
    for place in range(ids[STARTS] + 1, found.config["vocab_size"]):
        match = LANGUAGE.fullmatch(tokenizer.controls.get(place, ""))
        if not several or not match:
            break
        languages.append(match[1])
    if several and not languages:
        raise DataError("import.tokenizer", path=str(found.path), problem="no language's token")
    times = tuple(range(ids[UNTIMED] + 1, found.config["vocab_size"]))
    seconds = 2 * found.config["max_source_positions"] / FRAMES_A_SECOND
    barred = tuple(sorted({*found.barred, *times}))
    return Transcribe(
        RATE, found.config["num_mel_bins"], seconds, beam=BEAM, written=True, opening=tuple(ids[name] for name in wanted), barred=barred,
        unopened=found.unopened, languages=tuple(languages), longest=found.config["max_target_positions"],
    )  # fmt: skip
