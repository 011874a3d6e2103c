"""Whisper as CTranslate2 keeps it: a model.bin of named arrays, read into Hugging Face's config and names.

The file begins with its version, the name of the model's sort and a count; then each array has a name, its sizes, the sort of its numbers
and its bytes; at the end stand second names of arrays. It is no pickle: nothing in it can run. Source: CTranslate2's documentation of its
own format, version 6. Leaves out: other sorts of model, and weights in whole numbers, which are refused by name.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zhixing.core.errors import DataError

SORT, VERSION = "WhisperSpec", 6
TYPES = {0: np.dtype("<f4"), 1: np.dtype("i1"), 2: np.dtype("<i2"), 3: np.dtype("<i4"), 4: np.dtype("<f2"), 5: np.dtype("<u2")}
WHOLE, BRAIN = (1, 2, 3), 5  # sorts of whole numbers; bfloat16, the upper half of a float32
MOST_NAMES, MOST_LETTERS, MOST_SIZES = 1 << 16, 1 << 12, 8
GELU = 3  # its number among the activations
# What the decoder of a Whisper is; another value would be another model.
FIXED = {"activation": GELU, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0}
PARTS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
FUSED = {  # maps that stand in one array, one below the other
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
}
ENDS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias", "encodings": "weight"}
WHOLE_NAMES = {"embeddings": "embed_tokens", "position_encodings": "embed_positions"}
LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/(.+)/(gamma|beta|weight|bias)")
REST = re.compile(r"(encoder|decoder)/([a-z_0-9]+)/(gamma|beta|weight|bias|encodings)")
ALIGNMENT = ("decoder/alignment_heads", "decoder/alignment_layer", "decoder/scale_alibi", "decoder/alibi_use_positive_positions")


def is_one(path: Path) -> bool:
    """Say whether a file begins as such a file does."""
    start = struct.pack("<IH", VERSION, len(SORT) + 1) + SORT.encode()
    with open(path, "rb") as handle:
        return handle.read(len(start)) == start


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a file.

    return  a config as Hugging Face's Whisper has one, without what only the folder tells, and {name: array}

    Raises DataError for a file that is damaged, holds what no Whisper has, or in another form.
    """
    try:
        arrays = _arrays(path)
        for name, value in FIXED.items():
            if (told := int(arrays.pop(f"decoder/{name}"))) != value:
                raise DataError("import.config", path=str(path), name=f"decoder/{name}", value=told, wanted=value)
        for name in ALIGNMENT:
            arrays.pop(name, None)
        heads = {part: int(arrays.pop(f"{part}/num_heads")) for part in ("encoder", "decoder")}
        tensors = {ours: value for name, array in arrays.items() for ours, value in _named(path, name, array)}
        table, conv = tensors["model.decoder.embed_tokens.weight"], tensors["model.encoder.conv1.weight"]
        config: dict[str, Any] = {"model_type": "whisper", "vocab_size": table.shape[0], "d_model": table.shape[1]}
        config["num_mel_bins"] = conv.shape[1]
        for part, told in (("encoder", "source"), ("decoder", "target")):
            config[f"{part}_layers"] = len({match[2] for each in arrays if (match := LAYER.fullmatch(each)) and match[1] == part})
            config[f"{part}_attention_heads"] = heads[part]
            config[f"{part}_ffn_dim"] = tensors[f"model.{part}.layers.0.fc1.weight"].shape[0]
            config[f"max_{told}_positions"] = tensors[f"model.{part}.embed_positions.weight"].shape[0]
    except (struct.error, KeyError, ValueError, TypeError, IndexError, UnicodeDecodeError, OverflowError) as problem:
        raise DataError("import.ctranslate2", path=str(path), problem=f"{type(problem).__name__}: {problem}"[:120]) from None
    return config, tensors


def _named(path: Path, name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Give an array by Hugging Face's names, those that stand in one apart."""
    if match := LAYER.fullmatch(name):
        side, number, part, end = match.groups()
        start = f"model.{side}.layers.{number}"
        if part in FUSED:
            cut = np.split(array, len(FUSED[part]))
            named = [(f"{start}.{each}.{ENDS[end]}", value) for each, value in zip(FUSED[part], cut, strict=True)]
            if end == "bias" and any(np.any(value) for each, value in named if each.endswith("k_proj.bias")):
                raise DataError("import.tensor", path=str(path), tensor=name)
            return [(each, value) for each, value in named if not each.endswith("k_proj.bias")]
        if part in PARTS:
            return [(f"{start}.{PARTS[part]}.{ENDS[end]}", array)]
    elif match := REST.fullmatch(name):
        side, part, end = match.groups()
        return [(f"model.{side}.{WHOLE_NAMES.get(part, part)}.{ENDS[end]}", array)]
    raise DataError("import.tensor", path=str(path), tensor=name)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as handle:
        version = _number(handle, "<I")
        sort = _name(handle)
        if version != VERSION or sort != SORT:
            raise ValueError(f"{sort[:40]}, version {version}; {SORT}, version {VERSION} is read")
        _number(handle, "<I")  # the sort's own version
        found: dict[str, np.ndarray] = {}
        count, left = _number(handle, "<I"), path.stat().st_size
        if count > MOST_NAMES:
            raise ValueError(f"{count} arrays")
        for _ in range(count):
            name = _name(handle)
            sizes = [_number(handle, "<I") for _ in range(min(_number(handle, "<B"), MOST_SIZES))]
            kind, size = _number(handle, "<B"), _number(handle, "<I")
            if kind not in TYPES or size > left or name in found:
                raise ValueError(f"array '{name[:60]}'")
            if sizes and kind in WHOLE:
                form = str(TYPES[kind])
                raise DataError("import.quantization", path=str(path), tensor=name, form=form, among=["float32", "float16", "bfloat16"])
            content = handle.read(size)
            array = np.frombuffer(content, TYPES[kind]).reshape(sizes)
            if kind == BRAIN:
                array = (array.astype("<u4") << 16).view("<f4")
            found[name] = array.astype(np.float32) if sizes else array
        return found


def _number(handle: BinaryIO, form: str) -> int:
    return struct.unpack(form, handle.read(struct.calcsize(form)))[0]


def _name(handle: BinaryIO) -> str:
    size = _number(handle, "<H")
    if not 0 < size < MOST_LETTERS:
        raise ValueError(f"a name of {size} bytes")
    return handle.read(size)[:-1].decode("utf-8")
