"""Decoders in GGUF's terms: the names of settings and tensors there, and as Hugging Face has them, both ways.

Source: llama.cpp's conversion of Hugging Face models. In the layout "llama" the two halves of each pair that rotary positions turn lie
beside one another in the file, half a head apart in Hugging Face's weights. Leaves out: everything that `llama.py` does not compute, and
the file itself (`data/gguf.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
REST = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ARCHITECTURES = ("llama", "qwen2", "qwen3")
TURNED = ("llama",)  # whose queries and keys lie in the file with the two halves of each pair beside one another


def config_of(path: str, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config.json that a GGUF file's settings mean, by Hugging Face's names.

    Raises DataError for an architecture that is not read, or a setting that is missing or asks for what is not computed here.
    """
    kind = settings.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise DataError("import.architecture", path=path, name=kind, among=list(ARCHITECTURES))

    def told(name: str, default: Any = None) -> Any:
        value = settings.get(f"{kind}.{name}", default)
        if value is None:
            raise DataError("import.config_missing", path=path, name=f"{kind}.{name}")
        return value

    scaling = settings.get(f"{kind}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise DataError("import.config", path=path, name=f"{kind}.rope.scaling.type", value=scaling, wanted="none, linear")
    for name in ("expert_count", "attention.sliding_window"):
        if settings.get(f"{kind}.{name}"):
            raise DataError("import.config", path=path, name=f"{kind}.{name}", value=settings[f"{kind}.{name}"], wanted="not there")
    heads, width = int(told("attention.head_count")), int(told("embedding_length"))
    head = int(settings.get(f"{kind}.attention.key_length", width // max(heads, 1)))
    if int(settings.get(f"{kind}.rope.dimension_count", head)) != head:
        raise DataError("import.config", path=path, name=f"{kind}.rope.dimension_count", value=told("rope.dimension_count"), wanted=head)
    return {
        "model_type": kind,
        "vocab_size": int(tensors["token_embd.weight"].shape[0]),
        "hidden_size": width,
        "intermediate_size": int(told("feed_forward_length")),
        "num_hidden_layers": int(told("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(told("attention.head_count_kv", heads)),
        "head_dim": head,
        "max_position_embeddings": int(told("context_length")),
        "rms_norm_eps": float(told("attention.layer_norm_rms_epsilon")),
        "rope_theta": float(told("rope.freq_base", 10000.0)),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        **({"rope_scaling": {"rope_type": "linear", "factor": float(told("rope.scaling.factor"))}} if scaling == "linear" else {}),
    }


def name_of(path: str, name: str) -> str:
    """Give a tensor's name as Hugging Face has it. Raises DataError for a tensor that no model of ours has."""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdecimal() and parts[2] in LAYER:
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in REST:
        return f"{REST[parts[0]]}.{parts[1]}"
    raise DataError("import.tensor", path=path, tensor=name)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a GGUF file that a decoder's config means.

    config  a config.json of the llama or qwen3 layout

    Raises UsageError for a layout that GGUF has no name for here, or stretched rotations other than linear ones.
    """
    kind = config["model_type"]
    if kind not in ARCHITECTURES:
        raise UsageError("export.architecture", name=kind, among=", ".join(ARCHITECTURES))
    stretch = config.get("rope_scaling") or {}
    if stretch.get("rope_type", "linear") != "linear":
        raise UsageError("export.rope", sort=stretch["rope_type"])
    own = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
        "attention.value_length": config["head_dim"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(config["rope_theta"]),
        "rope.dimension_count": config["head_dim"],
        "vocab_size": config["vocab_size"],
        **({"rope.scaling.type": "linear", "rope.scaling.factor": float(stretch["factor"])} if stretch else {}),
    }
    return {"general.architecture": kind, **{f"{kind}.{name}": value for name, value in own.items()}}


def gguf_name(name: str) -> str:
    """Give the name in a GGUF file of a tensor that Hugging Face's name is given of."""
    of_layer, of_rest = ({theirs: ours for ours, theirs in table.items()} for table in (LAYER, REST))
    if name.startswith("model.layers."):
        _, _, number, part = name.split(".", 3)
        middle, _, sort = part.rpartition(".")
        return f"blk.{number}.{of_layer[middle]}.{sort}"
    middle, _, sort = name.rpartition(".")
    return f"{of_rest[middle]}.{sort}"


def heads_of(name: str, config: Mapping[str, Any]) -> int | None:
    """Say how many heads a tensor of a GGUF file has whose pairs are laid otherwise than in Hugging Face's weights; None: it has none."""
    part = name.split(".")[2] if name.count(".") == 3 else ""
    if config["model_type"] not in TURNED or part not in ("attn_q", "attn_k"):
        return None
    return int(config["num_attention_heads" if part == "attn_q" else "num_key_value_heads"])


def laid(weight: np.ndarray, heads: int) -> np.ndarray:
    """Lay the two halves of each turned pair beside one another, as a GGUF file has them: what `turned` undoes.

    weight  (H * K, ...) float
    return  the same
    """
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])  # (H, 2, K / 2, ...)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Put the two halves of each turned pair, which lie beside one another, half a head apart, as Hugging Face's weights have them.

    weight  (H * K, ...) float
    return  the same
    """
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])  # (H, K / 2, 2, ...)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)
