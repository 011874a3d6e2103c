"""What a training begins with: a tokenizer and weights, fresh ones or those of a model that was trained before (`--start`).

The body of the earlier model is taken whole, whatever its task was; a head of another task begins anew.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhixing.core.errors import UsageError
from zhixing.core.files import read_json, sha256
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.data.corpus import Corpus
from zhixing.layers import lora
from zhixing.models import catalog
from zhixing.tasks.artefact import CONFIG, TASK, weights_of
from zhixing.tasks.task import from_dict, task_class
from zhixing.tokens.tokenizer import Tokenizer, make_bytes, train_bpe, train_characters, train_unigram, train_words
from zhixing.tokens.words import read_dictionary
from zhixing.training.settings import TrainSettings, task_of

if TYPE_CHECKING:
    from torch import nn

# Training bytes up to which a vocabulary is this large, of pieces and of words.
PIECES = ((5_000_000, 2048), (50_000_000, 8192), (1 << 62, 32768))
WORDS = ((5_000_000, 4096), (50_000_000, 32768), (1 << 62, 65536))


def make_tokenizer(corpus: Corpus, settings: TrainSettings) -> Tokenizer | None:
    """Train the tokenizer on the training split only, or take that of the start; none for a task that reads rows as they are."""
    of = task_class(task_of(settings.model, corpus.task))
    if of.reads == "rows":
        return None
    if settings.start:
        return Tokenizer.load(settings.start)
    optional = all(getattr(each, "optional", False) for each in of.schema.asked.fields.values())
    # Rows of pictures may hold no text: then there is nothing to learn.
    if settings.tokenizer == "bytes" or (optional and not any(any(of.schema.texts(each)) for each in corpus.examples("train"))):
        return make_bytes()
    texts = (text for example in corpus.examples("train") for text in corpus.schema.texts(example))
    if settings.tokenizer == "characters":
        return train_characters(texts, limit=settings.vocabulary or None)
    sizes = WORDS if settings.tokenizer == "words" else PIECES
    size = settings.vocabulary or next(size for most, size in sizes if corpus.size_bytes("train") <= most)
    if settings.tokenizer == "words":
        return train_words(texts, size, read_dictionary(settings.dictionary) if settings.dictionary else ())
    return train_bpe(texts, size) if settings.tokenizer == "bpe" else train_unigram(texts, size)


def body(settings: TrainSettings, vocabulary: int, longest: int, task: Any = None) -> nn.Module:
    """Make the model's body, by the settings; with a start, as that is, but for dropout, which is the settings' own.

    Raises UsageError when the start reads less than is to be read.
    """
    fresh = catalog.configure(settings, vocabulary, longest, task)
    if not settings.start:
        return catalog.build(fresh)
    place = Path(settings.start)
    config = {name: value for name, value in read_json(place / CONFIG).items() if name not in ("head", "architectures")}
    made = catalog.build({**config, **{name: value for name, value in fresh.items() if "drop" in name}})
    if made.window is not None and made.window < longest:
        raise UsageError("train.start_window", path=settings.start, window=longest, most=made.window)
    if getattr(task, "name", "") == "masked" and made.mask_id is None:
        raise UsageError("train.start_head", path=settings.start)
    tensors = {name: value for name, value in weights_of(open_folder(place, "model")).items() if not name.startswith("head.")}
    catalog.load(made, {name.removeprefix("body."): value for name, value in tensors.items()})
    return made


def check_maps(place: str) -> None:
    """Refuse a start that has no maps to be adapted, before anything is made or replaced."""
    import torch

    config = {name: value for name, value in read_json(Path(place) / CONFIG).items() if name not in ("head", "architectures")}
    with torch.device("meta"):
        lora.attach(catalog.build(config), 1, 1.0)


def carried(place: str, task: str, names: Collection[str]) -> dict[str, Any]:
    """Give those settings of a start's task on which its weights rest; none of a start of another task."""
    of = from_dict(read_json(Path(place) / TASK), str(Path(place) / TASK))
    return {name: getattr(of, name) for name in names} if of.name == task else {}


def origin(place: str) -> dict[str, Any]:
    """Say of a start, for the card: where it lay, its manifest's hash, its model, task and corpus."""
    folder = open_folder(place, "model")
    about: dict[str, Any] = {name: folder.card.get(name) for name in ("model", "task")}
    if "imported" in folder.card or (folder.card.get("start") or {}).get("pretrained"):
        about["pretrained"] = True
    return {"path": place, "manifest_sha256": sha256(folder.path / MANIFEST), **about, "corpus": folder.card.get("corpus", {}).get("path")}
