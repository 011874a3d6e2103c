"""What a training begins with: a tokenizer and weights, fresh ones or those of a model that was trained before (`--start`).

The body of the earlier model is taken whole, whatever its task was; a head of another task begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhixing.core.errors import UsageError
from zhixing.core.files import read_json, sha256
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.core.log import quiet
from zhixing.data.corpus import Corpus
from zhixing.layers import lora
from zhixing.models import catalog
from zhixing.tasks.artefact import CONFIG, TASK, weights_of
from zhixing.tasks.task import from_dict, task_class
from zhixing.tokens import extension
from zhixing.tokens.tokenizer import Tokenizer, extend_bpe, make_bytes, train_bpe, train_characters, train_unigram, train_words
from zhixing.tokens.words import read_dictionary
from zhixing.training.settings import TrainSettings, task_of

if TYPE_CHECKING:
    from torch import nn

# Training bytes up to which a vocabulary is this large, of pieces and of words.
PIECES = ((5_000_000, 2048), (50_000_000, 8192), (1 << 62, 32768))
WORDS = ((5_000_000, 4096), (50_000_000, 32768), (1 << 62, 65536))


def make_tokenizer(corpus: Corpus, settings: TrainSettings, tell: Callable[..., None] = quiet) -> Tokenizer | None:
    """Train the tokenizer on the training split only, or take that of the start; none for a task that reads rows as they are.

    That of the start is given the pieces of the training split that were asked for.
    """
    of = task_class(task_of(settings.model, corpus.task))
    if of.reads == "rows":
        return None
    if settings.start and not settings.extend_vocabulary:
        return Tokenizer.load(settings.start)
    if settings.start:
        tell("train.extending")
        return extend_bpe(Tokenizer.load(settings.start), texts_of(corpus), settings.extend_vocabulary, tell)
    optional = all(getattr(each, "optional", False) for each in of.schema.asked.fields.values())
    # Rows of pictures may hold no text: then there is nothing to learn.
    if settings.tokenizer == "bytes" or (optional and not any(any(of.schema.texts(each)) for each in corpus.examples("train"))):
        return make_bytes()
    texts = texts_of(corpus)
    if settings.tokenizer == "characters":
        return train_characters(texts, limit=settings.vocabulary or None)
    sizes = WORDS if settings.tokenizer == "words" else PIECES
    size = settings.vocabulary or next(size for most, size in sizes if corpus.size_bytes("train") <= most)
    if settings.tokenizer == "words":
        return train_words(texts, size, read_dictionary(settings.dictionary) if settings.dictionary else ())
    return train_bpe(texts, size) if settings.tokenizer == "bpe" else train_unigram(texts, size)


def texts_of(corpus: Corpus) -> Iterator[str]:
    """Give the texts of the training split."""
    return (text for example in corpus.examples("train") for text in corpus.schema.texts(example))


def body(settings: TrainSettings, vocabulary: int, longest: int, task: Any = None, tokenizer: Tokenizer | None = None) -> nn.Module:
    """Make the model's body, by the settings; with a start, as that is, but for dropout, which is the settings' own.

    tokenizer  of the model; where it has more pieces than that of the start, the body has a row for each, as `grow` gives it

    Raises UsageError when the start reads less than is to be read.
    """
    fresh = catalog.configure(settings, vocabulary, longest, task)
    if not settings.start:
        return catalog.build(fresh)
    place = Path(settings.start)
    config = {name: value for name, value in read_json(place / CONFIG).items() if name not in ("head", "architectures")}
    if settings.extend_vocabulary:
        config = resized(config, max(config["vocab_size"], vocabulary))
    made = catalog.build({**config, **{name: value for name, value in fresh.items() if "drop" in name}})
    if made.window is not None and made.window < longest:
        raise UsageError("train.start_window", path=settings.start, window=longest, most=made.window)
    if getattr(task, "name", "") == "masked" and made.mask_id is None:
        raise UsageError("train.start_head", path=settings.start)
    tensors = {name: value for name, value in weights_of(open_folder(place, "model")).items() if not name.startswith("head.")}
    tensors = {name.removeprefix("body."): value for name, value in tensors.items()}
    if settings.extend_vocabulary and tokenizer is not None:
        tensors = grow(made, tensors, dict(extension.parts(Tokenizer.load(place).content, tokenizer.content)))
    catalog.load(made, tensors)
    return made


def grow(made: nn.Module, tensors: dict[str, Any], pieces: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    """Give tables of a vocabulary their new rows: each the mean of those of the old pieces that the new one consists of.

    made     a model of the larger vocabulary
    tensors  {name: Tensor}   of the start
    pieces   {id of a new piece: ids of the old pieces that it consists of}
    """
    import torch

    found = dict(tensors)
    for name in tables(made):
        old = tensors[name]
        found[name] = torch.zeros_like(made.state_dict()[name], dtype=old.dtype)
        found[name][: len(old)] = old
        for place, parts in pieces.items():
            found[name][place] = old[list(parts)].float().mean(0).to(old.dtype)
    return found


def tables(model: nn.Module) -> list[str]:
    """Name the tensors that have a row for each token of the vocabulary: those that another vocabulary would make longer."""
    import torch

    def shapes(more: int) -> dict[str, torch.Size]:
        config = catalog.config(model)
        with torch.device("meta"):
            made = catalog.build(resized(config, config["vocab_size"] + more))
        return {name: value.shape for name, value in made.state_dict().items()}

    longer = shapes(1)
    return [name for name, shape in shapes(0).items() if longer[name] != shape]


def resized(config: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """Give the config of a decoder of another vocabulary."""
    return {name: vocabulary if name in ("vocab_size", "output_dim") else value for name, value in config.items()}


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


def extended(place: str, tokenizer: Tokenizer, asked: int) -> dict[str, Any]:
    """Say of a vocabulary that was extended, for the card: pieces asked for and added, the first of them, and the size before and after."""
    before = Tokenizer.load(place)
    added = [each for each, _ in extension.parts(before.content, tokenizer.content)]
    sizes = {"tokens_before": before.vocabulary_size, "tokens": tokenizer.vocabulary_size}
    return {"asked": asked, "added": len(added), **({"first_id": added[0]} if added else {}), **sizes}
