"""Where a pretrained model lies: a folder as Hugging Face's programs write it, or a GGUF file; read into settings, tensors and a tokenizer.

Nothing of the folder is run and no pickle is opened: JSON, safetensors and, of Whisper, CTranslate2's arrays only. Every file must be a
plain one within its bound; a folder's own list of its parts may name files beside it only. Leaves out: downloads.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json
from zhixing.data.gguf import GGUF
from zhixing.importing import ctranslate2, families, vocabulary
from zhixing.models import gguf as names
from zhixing.tokens.chat import TEMPLATE
from zhixing.tokens.gguf import MORE_ENDS, from_gguf
from zhixing.tokens.imported import ABOUT
from zhixing.tokens.tokenizer import Tokenizer

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
CHAT = "chat_template.jinja"
PACKED = "model.bin"  # of CTranslate2; elsewhere it is a pickle
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")  # of Whisper
PACKED_NAMES = {"suppress_ids": SUPPRESSED[0], "suppress_ids_begin": SUPPRESSED[1]}
# Of sentence-transformers: what a text goes through one after the other, what the encoder is told, where pooling is, what is put before.
MODULES, SENTENCES, POOLING, PROMPTS = "modules.json", "sentence_bert_config.json", "1_Pooling", "config_sentence_transformers.json"
STEPS = ("Transformer", "Pooling", "Normalize")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
MOST_BYTES = {TOKENIZER: 1 << 27, ".json": 1 << 25, ".jinja": 1 << 18}  # of a file of settings; a tokenizer's vocabulary is long


def _with_ids(config: dict[str, Any], tokenizer: tuple[bytes, dict[str, Any]]) -> dict[str, Any]:
    """Add to a model's config which tokens begin, end and fill texts, as other programs look for them there."""
    about = tokenizer[1][ABOUT]
    found = {**config, "bos_token_id": about["begin"], "eos_token_id": about["last"], "pad_token_id": about["pad"]}
    return {**found, "mask_token_id": about.get("mask")} if config["model_type"] == "bert" else found


@dataclass(frozen=True)
class Source:
    """A pretrained model, read.

    path       the file or folder
    config     of our model that it becomes
    tensors    {name: tensor}, by our model's names
    tokenizer  what `vocabulary` gives: the content of tokenizer.json and its settings
    files      what was read
    longest    tokens of a text that the model was made to read, where a file says so
    barred     token ids that a Whisper never writes
    unopened   and those that it does not write first
    scaled     of an encoder of sentences: its own program leaves vectors as long as they are
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Any]
    tokenizer: tuple[bytes, dict[str, Any]]
    files: list[Path]
    longest: int | None = None
    barred: tuple[int, ...] = ()
    unopened: tuple[int, ...] = ()
    scaled: bool = False


def open_source(path: Path) -> Source:
    """Read a folder or a file.

    Raises UsageError when there is nothing, DataError for what is missing, damaged, too large, or of a family that is none of ours.
    """
    if not path.exists():
        raise UsageError("import.source", path=str(path))
    try:
        return _folder(path) if path.is_dir() else _gguf(path)
    except OSError as problem:  # a file of which only the name is plain, such as one of /proc
        raise DataError("import.unreadable", path=str(problem.filename or path), problem=problem.strerror or str(problem)) from None


def _checked(path: Path, config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Give tensors that are as many and as large as a config says, before a model is made of it.

    Raises DataError naming what is missing, of another shape, or no number.
    """
    import torch

    start, table, count = families.LAYOUT[config["model_type"]]
    layers = {name.removeprefix(start).split(".")[0] for name in tensors if name.startswith(start)}
    wanted = config[count]
    if len(layers) != wanted:
        raise DataError("model.tensor_missing", name=f"{start}{min(len(layers), wanted)}", among=sorted(tensors)[:8])
    if table not in tensors:
        raise DataError("model.tensor_missing", name=table, among=sorted(tensors)[:8])
    if tensors[table].shape[0] != config["vocab_size"]:
        size = (config["vocab_size"], *tensors[table].shape[1:])
        raise DataError("model.tensor_shape", name=table, shape=tuple(tensors[table].shape), wanted=size)
    for name, value in tensors.items():
        if not bool(torch.isfinite(torch.as_tensor(value)).all()):
            raise DataError("import.number", path=str(path), tensor=name)
    return tensors


def plain(path: Path) -> Path:
    """Give a file's path. Raises DataError when it is no plain file or larger than any of its sort should be."""
    try:
        about = path.stat()
    except OSError:
        raise DataError("file.missing", path=str(path)) from None
    most = MOST_BYTES.get(path.name, MOST_BYTES.get(path.suffix))
    if not stat.S_ISREG(about.st_mode) or (most is not None and about.st_size > most):
        raise DataError("import.file", path=str(path), size=about.st_size, most=most or "any")
    return path


def _table(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = read_json(plain(path))
    except RecursionError:
        raise DataError("file.not_json", path=str(path), problem="too deep") from None
    if not isinstance(found, dict):
        raise DataError("file.not_json", path=str(path), problem="no object")
    return found


def _told(path: Path) -> dict[str, Any]:
    """Read what a folder says of its tokenizer; a template in a file of its own goes before another."""
    about = _table(path / SETTINGS) if (path / SETTINGS).exists() else {}
    if (path / CHAT).exists():
        about["chat_template"] = plain(path / CHAT).read_text(encoding="utf-8", errors="replace")
    return about


def tokenizer_beside(path: Path, base: Tokenizer) -> tuple[Tokenizer, list[Path]]:
    """Give an adapter's tokenizer, and the files that tell of it: its base's, with the adapter's own template and ends of texts.

    Raises DataError where the adapter was trained with other tokens, or with a template that its base has no place for.
    """
    files = [path / name for name in (TOKENIZER, SETTINGS, CHAT) if (path / name).exists()]
    if not files:
        return base, []
    about, size = _told(path), base.vocabulary_size
    if not about.get("chat_template") or not isinstance(about["chat_template"], str | list):
        about.pop("chat_template", None)  # none is told: the base's stays
    own = _table(path / TOKENIZER) if (path / TOKENIZER).exists() else json.loads(base.content)
    if base.settings is None:
        model = own.get("model")
        if not isinstance(model, dict) or model.get("vocab") != json.loads(base.content)["model"]["vocab"]:
            raise DataError("import.tokenizer", path=str(path), problem="its tokens are not those of the base")
        if about.get("chat_template") not in (None, TEMPLATE):
            raise DataError("import.tokenizer", path=str(path), problem="it has a chat_template, and its base, trained here, takes none")
        return base, files
    value = vocabulary.of_adapter(str(path), json.loads(base.content), own, about, size)
    kept = base.settings[ABOUT]
    known = {"eos_token_id": [kept["last"], *kept["ends"]], "bos_token_id": kept["begin"], "pad_token_id": kept["pad"]}
    told = {**base.settings, **{name: each for name, each in about.items() if name != "added_tokens_decoder"}}
    content, settings = vocabulary.settle(str(path), json.dumps(value, ensure_ascii=False).encode("utf-8"), told, [known], size)
    return Tokenizer(content, str(path), settings=settings), files


def _folder(path: Path) -> Source:
    if not os.path.lexists(path / CONFIG):
        raise DataError("import.no_config", path=str(path))
    given, arrays = _table(path / CONFIG), None
    if "model_type" not in given and (path / PACKED).exists() and ctranslate2.is_one(plain(path / PACKED)):
        told, arrays = ctranslate2.read(path / PACKED)
        given = {**{theirs: given[name] for name, theirs in PACKED_NAMES.items() if name in given}, **told}
    kind = given.get("model_type")
    if not isinstance(kind, str) or kind not in families.FAMILIES:
        raise DataError("import.architecture", path=str(path / CONFIG), name=str(kind), among=list(families.FAMILIES))
    if given.get("quantization_config"):
        form = str(given["quantization_config"])[:60]
        raise DataError("import.quantization", path=str(path / CONFIG), tensor=CONFIG, form=form, among=["F32", "F16", "BF16"])
    settle, rename = families.FAMILIES[kind]
    config = settle(str(path / CONFIG), given)
    parts = _parts(path) if arrays is None else [path / PACKED]
    content = plain(path / TOKENIZER).read_bytes() if (path / TOKENIZER).exists() else None
    if content is None:
        raise DataError("import.tokenizer", path=str(path), problem=f"there is no {TOKENIZER}")
    tensors = _checked(path, config, rename(_tensors(parts) if arrays is None else _of_arrays(arrays), config))
    beside: list[Path] = []
    scaled = False
    if config["model_type"] == "bert":
        pooling, beside, scaled = _sentences(path)
        config |= {"masked_head": any(name.startswith("cls.") for name in tensors), "pooling": pooling}
    about, generation = _told(path), _table(path / GENERATION) if (path / GENERATION).exists() else {}
    tokenizer = vocabulary.settle(str(path / TOKENIZER), content, about, [generation, given], config["vocab_size"])
    files = [path / CONFIG, *parts, *(path / name for name in (TOKENIZER, SETTINGS, GENERATION, CHAT) if (path / name).exists())]
    if config["model_type"] == "whisper":
        size = config["vocab_size"]
        barred, unopened = (_ids(path, name, generation.get(name, given.get(name)), size) for name in SUPPRESSED)
        config = {**_with_ids(config, tokenizer), "decoder_start_token_id": tokenizer[1][ABOUT]["begin"]}
        return Source(path, config, tensors, tokenizer, files, None, barred, unopened)
    longest = _longest(path, sum(map(len, tokenizer[1][ABOUT]["frame"])))
    return Source(path, _with_ids(config, tokenizer), tensors, tokenizer, files + beside, longest, scaled=scaled)


def _of_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def _ids(path: Path, name: str, given: Any, size: int) -> tuple[int, ...]:
    """Read a setting that lists tokens; raises DataError where it does not."""
    found = given or []
    if not isinstance(found, list) or not all(type(each) is int and 0 <= each < size for each in found):
        raise DataError("import.config", path=str(path), name=name, value=str(given)[:80], wanted=f"ids of the {size} tokens")
    return tuple(sorted(set(found)))


def _sentences(path: Path) -> tuple[str, list[Path], bool]:
    """Say how sentence-transformers makes one vector of a text's states, "mean" where no file says otherwise, and which files say it.

    return  the way, the files, and whether vectors are left as long as they are: ours have length one, so they are told apart by cosine

    Raises DataError for what would give other vectors than ours: further layers, another way, texts made small, words put before them, or
    vectors that are compared otherwise.
    """

    def refused(place: Path, name: str, value: Any, wanted: str) -> DataError:
        return DataError("import.config", path=str(place), name=name, value=str(value)[:80], wanted=wanted)

    read, place, scaled = [], POOLING, False
    if (path / MODULES).exists():
        try:
            modules = read_json(plain(path / MODULES))
            steps = [(str(each["type"]).rsplit(".", 1)[-1], str(each["path"])) for each in modules]
        except (TypeError, KeyError, RecursionError):
            raise DataError("file.not_json", path=str(path / MODULES), problem="no list of modules") from None
        if other := [kind for kind, _ in steps if kind not in STEPS]:
            raise refused(path / MODULES, "type", other[0], " | ".join(STEPS))
        place = next((where for kind, where in steps if kind == "Pooling"), POOLING)
        if Path(place).name != place:
            raise refused(path / MODULES, "path", place, "a folder beside it")
        read.append(path / MODULES)
        scaled = all(kind != "Normalize" for kind, _ in steps)
    told = path / place / CONFIG
    ways = []
    if told.exists():
        settings = _table(told)
        named = settings.get("pooling_mode")
        chosen = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
        ways = [name.removeprefix("pooling_mode_") for name in chosen]
        ways += [named] if isinstance(named, str) else []
        read.append(told)
    known = {"mean_tokens": "mean", "mean": "mean", "cls_token": "first", "cls": "first"}
    if len(ways) > 1 or not set(ways) <= set(known):
        raise refused(told, "pooling_mode", ", ".join(ways), "mean | cls")
    for name, setting in ((SENTENCES, "do_lower_case"), (PROMPTS, "default_prompt_name")):
        if (path / name).exists():
            if _table(path / name).get(setting):
                raise refused(path / name, setting, _table(path / name)[setting], "none")
            read.append(path / name)
    compared = _table(path / PROMPTS).get("similarity_fn_name") if (path / PROMPTS).exists() else None
    if compared not in ((None, "cosine") if scaled else (None, "cosine", "dot", "euclidean")):
        raise refused(path / PROMPTS, "similarity_fn_name", compared, "cosine")
    return known[ways[0]] if ways else "mean", read, scaled


def _longest(path: Path, frame: int) -> int | None:
    """Give how many tokens of a text an encoder of sentences reads, where a file says so; raises DataError when no text has room."""
    longest = _table(path / SENTENCES).get("max_seq_length") if (path / SENTENCES).exists() else None
    if type(longest) is not int:
        return None
    if longest <= frame:
        raise DataError("import.config", path=str(path / SENTENCES), name="max_seq_length", value=longest, wanted=f"more than {frame}")
    return longest


def _parts(path: Path) -> list[Path]:
    """List a folder's files of weights."""
    if (path / WEIGHTS).exists():
        return [plain(path / WEIGHTS)]
    if not (path / INDEX).exists():
        pickles = sorted(each.name for each in path.iterdir() if each.suffix in PICKLES)
        raise DataError("import.weights", path=str(path), found=", ".join(pickles[:4]) or "-")
    where = _table(path / INDEX).get("weight_map")
    names = sorted(set(where.values())) if isinstance(where, dict) and all(isinstance(each, str) for each in where.values()) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise DataError("import.shard", path=str(path / INDEX), shard=name)
        if not (path / name).exists():
            raise DataError("file.missing", path=str(path / name))
    if not names:
        raise DataError("file.not_json", path=str(path / INDEX), problem="no weight_map")
    return [plain(path / name) for name in names]


def _tensors(parts: list[Path]) -> dict[str, Any]:
    """Read files of weights into float32. Raises DataError for one that is damaged, or a tensor that stands in two."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for part in parts:
        try:
            held = load_file(part)
        except (SafetensorError, OSError, ValueError, KeyError) as problem:
            raise DataError("import.safetensors", path=str(part), problem=str(problem)[:200]) from None
        for name, value in held.items():
            if name in found:
                raise DataError("import.safetensors", path=str(part), problem=f"'{name}' stands in another part too")
            if value.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
                if name.endswith((".attn.bias", ".masked_bias", "position_ids")):  # masks and places that were saved
                    continue
                form = str(value.dtype).removeprefix("torch.")
                raise DataError("import.quantization", path=str(part), tensor=name, form=form, among=["F32", "F16", "BF16"])
            found[name] = value.float()
    return found


def _gguf(path: Path) -> Source:
    import torch

    if path.suffix in PICKLES:
        raise DataError("import.weights", path=str(path), found=path.name)
    held = GGUF(plain(path))
    given, arrays = names.read(held)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    settle, rename = families.FAMILIES[given["model_type"]]
    config = settle(str(path), given)
    found = _checked(path, config, rename(tensors, config))
    content, about = from_gguf(str(path), held.settings)
    ends = {"eos_token_id": [held.settings.get(f"tokenizer.ggml.{name}_token_id") for name in MORE_ENDS]}
    tokenizer = vocabulary.settle(str(path), content, about, [ends], config["vocab_size"])
    return Source(path, _with_ids(config, tokenizer), found, tokenizer, [path])
