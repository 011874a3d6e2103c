"""The one artefact: a Model folder holds task, model and tokenizer, and everything after training opens it here.

Files have Hugging Face's names where it has one (config.json, model.safetensors, tokenizer.json, generation_config.json) and ours beside
(task.json, golden.json, card.json, manifest.json). No pickle is read and no code is taken from the folder. A model that does not answer as
it did when it was made is refused (`golden`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, sha256, write_bytes, write_json
from zhixing.core.folder import MANIFEST, Folder, open_folder
from zhixing.tasks import adapter, golden
from zhixing.tasks.similar import tokens_of, vectors
from zhixing.tasks.task import Answer, from_dict, to_dict
from zhixing.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from zhixing.decoding.generate import Generation

READERS = frozenset({"encoder", "causal", "lexical"})  # kinds of models that have states or vectors of a text alone
GOLDEN_SINCE = 2  # the format of folders from which on a Model folder must hold its golden answers
MAPPED = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}  # of safetensors, in NumPy's words
CONFIG, WEIGHTS, TASK, GENERATION = "config.json", "model.safetensors", "task.json", "generation_config.json"


@dataclass(frozen=True)
class Score:
    """What a model says of one text: the log-probability of every token, given the text before it.

    tokens             (N,) int       of the text, without the end token that opens it
    log_probabilities  (N,) float64   log p of each, in nats
    size_bytes         int            of the text in UTF-8
    """

    tokens: np.ndarray
    log_probabilities: np.ndarray
    size_bytes: int

    @property
    def nats(self) -> float:
        """-log p(text), in nats."""
        return -float(self.log_probabilities.sum())

    @property
    def bits_per_byte(self) -> float:
        """-log2 p(text) over its bytes; NaN for an empty text."""
        return self.nats / math.log(2) / self.size_bytes if self.size_bytes else math.nan


@dataclass(frozen=True)
class Artefact:
    """A Model folder, opened: what every verb after training works on.

    `predict`, `generate`, `score` and `embed` read it out; the command line and the server give the same answers.
    """

    folder: Folder
    task: Any
    model: Any
    tokenizer: Tokenizer | None

    @property
    def family(self) -> str:
        """The name that `train --model` gave the model: a bag's method, else its type in the table of models."""
        config = read_json(self.folder.path / CONFIG)
        return str(config.get("method", config["model_type"]))

    def predict(self, rows: Sequence[str | Mapping[str, Any]]) -> list[Answer]:
        """Answer rows, in their order: of a classifier the most probable label, its probability, and every label's.

        rows  texts, where a text is all that the task asks for; or {field: value} by the task's schema

        Raises UsageError when the model writes instead of answering, or a row is not what the task asks for or holds nothing to ask.
        """
        if self.task.name == "language":
            raise UsageError("predict.task", path=str(self.folder.path), task=self.task.name)
        asked = self.task.schema.asked.fields
        given = _texts(rows) if not isinstance(rows, str) and all(isinstance(each, str) for each in rows) else rows
        if isinstance(given, str) or (list(asked) == ["text"] and not all(isinstance(each, Mapping) for each in given)):
            given = _texts(given)
        read = [_row(each, asked, place) for place, each in enumerate(given)]
        for place, row in enumerate(read):
            if (name := self.task.schema.void(row)) is not None:
                raise UsageError("texts.empty", place=place, name=name)
        items = [self.encode(row, at=f"rows[{place}]") for place, row in enumerate(read)]
        return list(self.task.answers(self.model, items, self.tokenizer))

    def encode(self, row: Mapping[str, Any], **place: str) -> Any:
        """Give one row, {field: value} as the schema reads it, as the model reads it.

        place  told with an error: `at`, which stands before its message, and `param`, the field of a request

        Raises DataError for what the task cannot read, and for a cell of a table that the model's columns cannot hold.
        """
        try:
            item = self.task.encode(row, self.tokenizer)
            if "row" in item and hasattr(self.model, "columns"):
                self.model.columns.check(item["row"])
        except DataError as error:
            raise DataError(error.code, **{**error.values, **place}) from None
        return item

    @overload
    def generate(self, prompt: str = "", **sampling: Any) -> Generation: ...

    @overload
    def generate(self, prompt: list[str], **sampling: Any) -> list[Generation]: ...

    def generate(self, prompt: str | list[str] = "", **sampling: Any) -> Generation | list[Generation]:
        """Write on from a prompt, or from each of a list.

        sampling  fields of `Sampling`: temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed; prompt i of a list
                  draws from the seed's random stream i
        return    Generation, with text, finish_reason, tokens and log_probabilities; a list of them for a list

        Raises UsageError when the model does not write, or for a setting that is unknown or out of its range.
        """
        from zhixing.core.config import resolve
        from zhixing.decoding.asking import Sampling
        from zhixing.decoding.generate import generate

        self._must_write()
        settings = resolve(Sampling, ("generate", sampling)).value
        prompts = _texts(prompt if isinstance(prompt, list | tuple) else [prompt])
        made = generate(self.model, self.tokenizer, prompts, settings)
        return made[0] if isinstance(prompt, str) else made

    def score(self, text: str) -> Score:
        """Give log p of every token of a text given the text before it; the text is opened by the end token, and its end is not paid for.

        Raises UsageError when the model is none of language.
        """
        from zhixing.layers.scoring import score

        self._must_write()
        _texts([text])
        tokens = np.concatenate([[self._opener], self.tokenizer.encode(text)]).astype(np.int64)
        return Score(tokens[1:], score(self.model, tokens), len(text.encode("utf-8")))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Give each text as a vector: the mean of the model's states over its tokens, or what the model itself has for a text's vector.

        Of a model of likeness it has length one, and what of a text is longer than the model reads is left out, as in its answers.

        return  (N, D) float32

        Raises UsageError when the model has no states: a counted or linear one.
        """
        if not self.embeds:
            raise UsageError("embed.no_states", path=str(self.folder.path), model=self.family)
        if self.task.name == "similar":
            return np.asarray(vectors(self.task, self.model, _texts(texts), self.tokenizer), np.float32)
        from zhixing.layers.scoring import embed

        tokens, body = [self.read(text) for text in _texts(texts)], self._body
        return body.embed(tokens) if hasattr(body, "embed") else embed(body, tokens)

    def read(self, text: str) -> list[int]:
        """Give the tokens that are read of a text whose vector is wanted, with what stands around them."""
        if self.task.name == "similar":
            return tokens_of(self.task, text, self.tokenizer).tolist()
        tokens = self.tokenizer.encode(text)
        return self.tokenizer.framed(tokens).tolist() if any(self.tokenizer.frame) else [self._opener, *tokens.tolist()]

    def unread(self, text: str, count: int) -> int:
        """Say how many tokens at the end of a text its vector says nothing of: a model of likeness reads only so many.

        count  int, tokens    that are read of it
        """
        if self.task.name != "similar" or count < self.task.longest:
            return 0
        return max(0, len(self.tokenizer.framed(self.tokenizer.encode(text))) - count)

    @property
    def embeds(self) -> bool:
        """Whether it has vectors of texts: a trained model that reads texts and nothing else."""
        if hasattr(self.model, "run"):
            return self.task.name == "similar"
        return self.tokenizer is not None and hasattr(self._body, "states") and bool(READERS & set(self._body.kinds))

    @property
    def _body(self) -> Any:
        return getattr(self.model, "body", self.model)

    def nearest(self, expression: str, count: int = 10) -> list[tuple[str, float]]:
        """Give the words nearest to a word, or to words joined by + and - as in "king - man + woman", each with its cosine.

        Raises UsageError when the model is none of words, a word has no vector, or the expression cannot be read.
        """
        from zhixing.tasks.embed import nearest

        if self.task.name != "embed":
            raise UsageError("embed.no_vectors", path=str(self.folder.path), task=self.task.name)
        return nearest(self.model, self.tokenizer, expression, count)

    @property
    def _opener(self) -> int:
        """The token before a text's first: what the tokenizer opens texts with, or else what divides them."""
        return (self.tokenizer.opening or (self.tokenizer.end_id,))[-1]

    def _must_write(self) -> None:
        if self.task.name != "language":
            raise UsageError("usage.not_language", path=str(self.folder.path), task=self.task.name)


def _row(given: Any, asked: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Read one row that code gave: a text for a task that asks for nothing else, or fields by name."""
    row = {"text": given} if isinstance(given, str) else given
    if not isinstance(row, Mapping):
        raise UsageError("texts.not_text", place=place, sort=type(given).__name__)
    read: dict[str, Any] = {}
    for name, kind in asked.items():
        if row.get(name) is None and getattr(kind, "optional", False):
            continue
        read[name], reason = (given, None) if isinstance(given, str) and name == "text" else kind.read(row.get(name))
        if reason and reason != "empty":
            raise UsageError("texts.field", place=place, name=name, reason=reason, fields=", ".join(asked))
    return read


def _texts(texts: Any) -> list[str]:
    """Refuse a single text where several are read, and anything that is no text."""
    if isinstance(texts, str):
        raise UsageError("texts.one", text=texts[:40])
    found = list(texts)
    for place, each in enumerate(found):
        if not isinstance(each, str):
            raise UsageError("texts.not_text", place=place, sort=type(each).__name__)
    return found


def describe(model: Any) -> dict[str, Any]:
    """Give a model's config.json; a headed model is its body's with the head beside."""
    from zhixing.layers.kinds import Headed
    from zhixing.models import catalog

    if isinstance(model, Headed):
        return {**catalog.config(model.body), "head": {name: list(value.shape) for name, value in model.head.state_dict().items()}}
    return catalog.config(model)


def write(path: Path, task: Any, model: Any, tokenizer: Tokenizer | None, base: str = "") -> None:
    """Write task, model and tokenizer into a folder that is not sealed yet; every file is durable afterwards.

    base  of an adapted model, where its base lies, as other programs may look for it: of such a one the adapter alone is written
    """
    from zhixing.models import catalog

    if getattr(model, "arrays", False):
        from safetensors.numpy import save

        # safetensors writes an array's memory as it lies, whatever its order.
        config, tensors = catalog.config(model), {name: np.ascontiguousarray(value) for name, value in model.tensors().items()}
    else:
        from safetensors.torch import save

        from zhixing.layers.kinds import Headed

        config = describe(model)
        if isinstance(model, Headed):
            tensors = {f"body.{name}": value for name, value in catalog.tensors(model.body).items()}
            tensors |= {f"head.{name}": value for name, value in model.head.state_dict().items()}
        else:
            tensors = catalog.tensors(model)
        tensors = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    if adapter.is_adapted(model):
        adapter.write(path, model, base)
    else:
        write_bytes(path / WEIGHTS, save(dict(sorted(tensors.items())), metadata={"format": "pt"}))
    write_json(path / CONFIG, config)
    write_json(path / TASK, to_dict(task))
    if tokenizer is not None:
        tokenizer.save(path)
        if task.name == "language":
            ends = sorted(tokenizer.ends)
            ending = ends if len(ends) > 1 else tokenizer.end_id
            write_json(path / GENERATION, {"eos_token_id": ending, "pad_token_id": tokenizer.pad_id, "do_sample": True})
    golden.write(path, task, model, tokenizer)


def load(path: str | Path, shared: dict[str, dict[str, Any]] | None = None) -> Artefact:
    """Open a Model folder, or an Adapter folder and its base: every byte verified, and its golden answers given again.

    shared  weights by their folder's hash, to be used by all that are opened with it: several adapters of one base are one base in memory

    Raises UsageError when it is no Model folder, DataError when it is damaged, of an unknown model or task, or answers differently.
    """
    folder = open_folder(path, "model")
    task = from_dict(read_json(folder.path / TASK), str(folder.path / TASK))
    config = read_json(folder.path / CONFIG)
    tokenizer = Tokenizer.load(folder.path) if (folder.path / "tokenizer.json").exists() else None
    if folder.kind == adapter.KIND:
        model = _adapted(config, folder, task, shared)
    else:
        arrays = getattr(_family(config), "arrays", False)  # these are read without torch, and are small
        model = restore(config, folder.path / WEIGHTS, task, None if shared is None or arrays else _kept(folder, shared))
    if (folder.path / golden.GOLDEN).exists():
        golden.check(folder.path, task, model, tokenizer)
    elif folder.card["format"] >= GOLDEN_SINCE:
        raise DataError("golden.missing", path=str(folder.path))
    return Artefact(folder, task, model, tokenizer)


def _family(config: dict[str, Any]) -> type:
    from zhixing.models import catalog

    return catalog.find(config)


def _read(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    # A file's tensors lie at any address, and the last bit of a product may depend on that: torch lays copies as it lays its own.
    return {name: value.clone() for name, value in load_file(path).items()}


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Give a file's arrays as they lie there, read from the disk where they are first looked at, and never written.

    Raises as the library does, by which the file is held to its own account of itself; DataError for numbers that NumPy has no type for.
    """
    from safetensors import safe_open

    content = np.asarray(np.memmap(path, np.uint8, "r"))
    start, found = 8 + int.from_bytes(content[:8].tobytes(), "little"), {}
    with safe_open(path, framework="np") as held:
        for name in held.offset_keys():
            part = held.get_slice(name)
            if part.get_dtype() not in MAPPED:
                raise DataError("import.safetensors", path=str(path), problem=f"{name}: {part.get_dtype()}"[:200])
            dtype, shape = np.dtype(MAPPED[part.get_dtype()]), part.get_shape()
            end = start + math.prod(shape) * dtype.itemsize
            found[name] = content[start:end].view(dtype).reshape(shape)
            start = end
    return found


def _kept(folder: Folder, shared: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give a Model folder's tensors, read once for all that share them."""
    name = sha256(folder.path / MANIFEST)
    if name not in shared:
        shared[name] = _read(folder.path / WEIGHTS)
    return shared[name]


def _adapted(config: dict[str, Any], folder: Folder, task: Any, shared: dict[str, dict[str, Any]] | None) -> Any:
    """Rebuild a model from its base, its adapter and its head."""
    from safetensors.torch import load_file

    from zhixing.layers.kinds import Headed
    from zhixing.models import catalog

    if not hasattr(_family(config), "from_config"):
        raise DataError("file.not_json", path=str(folder.path / CONFIG), problem=f"model_type {config['model_type']}")
    tensors = _kept(adapter.base_of(folder), {} if shared is None else shared)
    held = {name.removeprefix("body."): value for name, value in tensors.items() if not name.startswith("head.")}
    body = catalog.restore({name: value for name, value in config.items() if name != "head"}, held)
    adapter.attach(body, folder.path)
    if "head" not in config:
        return body.eval()
    model = Headed(body, task.head(body.width))
    catalog.load(model.head, load_file(folder.path / adapter.HEAD))
    return model.eval()


def weights_of(folder: Folder) -> dict[str, Any]:
    """Give the tensors of a folder's model by name, those of an adapter merged with its base's."""
    if folder.kind != adapter.KIND:
        return _read(folder.path / WEIGHTS)
    from zhixing.layers import lora

    config, task = read_json(folder.path / CONFIG), from_dict(read_json(folder.path / TASK), str(folder.path / TASK))
    model = lora.merge(_adapted(config, folder, task, None))
    return {name: value.detach() for name, value in model.state_dict().items()}


def restore(config: dict[str, Any], weights: Path, task: Any, held: dict[str, Any] | None = None) -> Any:
    """Rebuild a model from its config and its weights file; held: what that holds, where it was read already."""
    from zhixing.models import catalog

    family = catalog.find(config)
    if getattr(family, "arrays", False):
        from safetensors.numpy import load_file as load_arrays

        return catalog.restore(config, (mapped if getattr(family, "mapped", False) else load_arrays)(weights))
    from zhixing.layers.kinds import Headed

    tensors = _read(weights) if held is None else held
    if "head" not in config:
        return catalog.restore(config, tensors)
    body = {name.removeprefix("body."): value for name, value in tensors.items() if name.startswith("body.")}
    head = {name.removeprefix("head."): value for name, value in tensors.items() if name.startswith("head.")}
    below = catalog.restore({k: v for k, v in config.items() if k != "head"}, body)
    model = Headed(below, task.head(below.width))
    if {name: tuple(value.shape) for name, value in head.items()} != {name: tuple(v.shape) for name, v in model.head.state_dict().items()}:
        raise DataError("model.head_shape", path=str(weights))
    model.head.load_state_dict(head)
    return model.eval()
