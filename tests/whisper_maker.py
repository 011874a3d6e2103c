"""A Whisper of random weights, as Hugging Face's programs write one and as CTranslate2 packs it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from zhixing.importing.ctranslate2 import ENDS, FUSED, PARTS, SORT, VERSION

CONTROLS = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
SHAPE = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20}
SHAPE |= {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "max_source_positions": 50,
    "max_target_positions": 32,
    "num_mel_bins": 16,
}
SIZE = 256 + len(CONTROLS) + 2
COMMA = 11  # its id among the 256 letters


def tokenizer() -> Library:
    """Make a tokenizer of single bytes with Whisper's control tokens, and two time stamps after them."""
    library = Library(models.BPE({letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.add_special_tokens([AddedToken(each, special=True) for each in CONTROLS])
    library.add_tokens(["<|0.00|>", "<|0.02|>"])
    return library


def model() -> Any:
    """Make the model, nothing of it left at zero."""
    from zhixing.models import catalog

    torch.manual_seed(0)
    made = catalog.build({"model_type": "whisper", "vocab_size": SIZE, **SHAPE})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made.eval()


def folder(where: Path, packed: bool = False, **config: Any) -> Path:
    """Write a folder: safetensors, or packed into a model.bin."""
    where.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in model().state_dict().items() if name != "final_logits_bias"}
    tokenizer().save(str(where / "tokenizer.json"))
    if packed:
        (where / "config.json").write_text(
            json.dumps({"suppress_ids": [COMMA], "suppress_ids_begin": [3], "lang_ids": [258, 259], **config})
        )
        pack(where / "model.bin", {name: value.numpy() for name, value in tensors.items()})
        return where
    save_file(tensors, where / "model.safetensors")
    (where / "config.json").write_text(json.dumps({"model_type": "whisper", "vocab_size": SIZE, **SHAPE, **config}))
    (where / "generation_config.json").write_text(json.dumps({"suppress_tokens": [COMMA], "begin_suppress_tokens": [3]}))
    (where / "tokenizer_config.json").write_text(json.dumps({"eos_token": CONTROLS[0], "pad_token": CONTROLS[0]}))
    return where


def pack(path: Path, tensors: dict[str, np.ndarray], dtype: str = "<f4", **scalars: int) -> None:
    """Write arrays as CTranslate2 does, by its own names."""
    found: dict[str, np.ndarray] = {}
    for side, layers in (("encoder", SHAPE["encoder_layers"]), ("decoder", SHAPE["decoder_layers"])):
        start = f"model.{side}"
        found[f"{side}/num_heads"] = np.int16(2)
        found[f"{side}/position_encodings/encodings"] = tensors[f"{start}.embed_positions.weight"]
        for end, ours in (("gamma", "weight"), ("beta", "bias")):
            found[f"{side}/layer_norm/{end}"] = tensors[f"{start}.layer_norm.{ours}"]
        for layer in range(layers):
            for part, name in PARTS.items():
                for end in ("gamma", "beta") if "layer_norm" in part else ("weight", "bias"):
                    key = f"{start}.layers.{layer}.{name}.{ENDS[end]}"
                    if key in tensors:
                        found[f"{side}/layer_{layer}/{part}/{end}"] = tensors[key]
            for part, names in FUSED.items():
                for end in ("weight", "bias"):
                    keys = [f"{start}.layers.{layer}.{name}.{end}" for name in names]
                    if keys[-1] in tensors:  # keys have no biases: zeros stand for them
                        each = [tensors.get(key, np.zeros(SHAPE["d_model"], np.float32)) for key in keys]
                        found[f"{side}/layer_{layer}/{part}/{end}"] = np.concatenate(each)
    for name in ("conv1", "conv2"):
        for end in ("weight", "bias"):
            found[f"encoder/{name}/{end}"] = tensors[f"model.encoder.{name}.{end}"]
    found["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"]
    told = {"activation": 3, "alibi": 0, "pre_norm": 1, "scale_embeddings": 0, "start_from_zero_embedding": 0, "scale_alibi": 1, **scalars}
    found |= {f"decoder/{name}": np.int8(value) for name, value in told.items()}
    kinds = {np.dtype("<f4"): 0, np.dtype("i1"): 1, np.dtype("<i2"): 2, np.dtype("<f2"): 4}

    def named(name: str) -> bytes:
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    parts = [struct.pack("<I", VERSION), named(SORT), struct.pack("<II", 3, len(found))]
    for name, value in sorted(found.items()):
        array = np.asarray(value)
        array = array.astype(dtype) if array.ndim else array
        parts += [named(name), struct.pack("<B", array.ndim), struct.pack(f"<{array.ndim}I", *array.shape)]
        parts += [struct.pack("<BI", kinds[array.dtype], array.nbytes), array.tobytes()]
    path.write_bytes(b"".join([*parts, struct.pack("<I", 1), named("decoder/projection/weight"), named("decoder/embeddings/weight")]))
