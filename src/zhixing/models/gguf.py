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
from zhixing.data.gguf import GGUF

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
REST = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
ARCHITECTURES = ("llama", "qwen2", "qwen3")
READ = frozenset(  # of what is told of rotations and attention
    "rope.freq_base rope.dimension_count rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scale_linear "
    "rope.scaling.finetuned attention.head_count attention.head_count_kv attention.key_length attention.value_length "
    "attention.layer_norm_rms_epsilon attention.causal".split()
)
FACTORS = "rope_freqs.weight"  # what each pair's rotation is slowed by, as Llama 3.1 and later have it
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # of all of them
CLOSE = 1e-3
TURNED = ("llama",)  # whose queries and keys lie in the file with the two halves of each pair beside one another


def _nothing(value: Any) -> bool:
    """Say whether a setting's value asks for nothing: 0 or false; an array or a text always asks for something."""
    return isinstance(value, bool | int | float) and not value


def config_of(path: str, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Give the config.json that a GGUF file's settings mean, by Hugging Face's names.

    Raises DataError for an architecture that is not read, or a setting that is missing or asks for what is not computed here.
    """
    kind = settings.get("general.architecture")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise DataError("import.architecture", path=path, name=str(kind)[:80], among=list(ARCHITECTURES))

    def told(name: str, sort: type, default: Any = None) -> Any:
        """Give a setting, which must be above 0."""
        value = settings.get(f"{kind}.{name}", default)
        if value is None:
            raise DataError("import.config_missing", path=path, name=f"{kind}.{name}")
        if isinstance(value, bool) or not isinstance(value, int if sort is int else int | float) or not 0 < value < 1 << 31:
            shown = str(value)[:80]
            raise DataError("import.config", path=path, name=f"{kind}.{name}", value=shown, wanted="one number above 0")
        return sort(value)

    # Whatever else is told of rotations or attention would change what is computed.
    for name, value in settings.items():
        part = name.removeprefix(f"{kind}.")
        if part != name and part.startswith(("rope.", "attention.", "expert")) and part not in READ and not _nothing(value):
            raise DataError("import.config", path=path, name=name, value=str(value)[:80], wanted="not there")
    factor = settings.get(f"{kind}.rope.scaling.factor", settings.get(f"{kind}.rope.scale_linear"))
    scaling = settings.get(f"{kind}.rope.scaling.type", "none" if factor is None or _nothing(factor) else "linear")
    if not isinstance(scaling, str) or scaling not in ("none", "linear"):
        raise DataError("import.config", path=path, name=f"{kind}.rope.scaling.type", value=str(scaling)[:80], wanted="none, linear")
    if scaling == "linear":
        factor = told("rope.scaling.factor", float, factor)
    heads, width = told("attention.head_count", int), told("embedding_length", int)
    head = told("attention.key_length", int, width // heads)
    for name in ("rope.dimension_count", "attention.value_length"):
        if told(name, int, head) != head:
            raise DataError("import.config", path=path, name=f"{kind}.{name}", value=told(name, int), wanted=head)
    if "token_embd.weight" not in tensors:
        raise DataError("model.tensor_missing", name="token_embd.weight", among=sorted(tensors)[:8])
    if len(tensors["token_embd.weight"].shape) != 2:
        raise DataError("model.tensor_shape", name="token_embd.weight", shape=tensors["token_embd.weight"].shape, wanted="two axes")
    layers = len({name.split(".")[1] for name in tensors if name.startswith("blk.")})
    if told("block_count", int) != layers:
        raise DataError("import.config", path=path, name=f"{kind}.block_count", value=told("block_count", int), wanted=layers)
    return {
        "model_type": kind,
        "vocab_size": int(tensors["token_embd.weight"].shape[0]),
        "hidden_size": width,
        "intermediate_size": told("feed_forward_length", int),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": told("attention.head_count_kv", int, heads),
        "head_dim": head,
        "max_position_embeddings": told("context_length", int),
        "rms_norm_eps": told("attention.layer_norm_rms_epsilon", float),
        "rope_theta": told("rope.freq_base", float, 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        **({"rope_scaling": {"rope_type": "linear", "factor": factor}} if scaling == "linear" else {}),
    }


def stretch_of(path: str, factors: np.ndarray, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give the setting that factors of the rotations mean: none where all are 1, else Llama 3's.

    factors  (K / 2,) float

    Raises DataError for others.
    """
    if factors.shape == (config["head_dim"] // 2,) and np.isfinite(factors).all():
        if np.allclose(factors, 1, 1e-6):
            return {}
        found = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
        if np.allclose(_slowed(config, found), factors, CLOSE):
            return {"rope_scaling": found}
    shown = str(factors.ravel()[:4])[:80]
    raise DataError("import.config", path=path, name=FACTORS, value=shown, wanted="Llama 3.1's: factors of 1 up to one factor")


def _slowed(config: Mapping[str, Any], stretch: Mapping[str, Any]) -> np.ndarray:
    """Give what each pair's rotation is slowed by, (K / 2,) float64."""
    import torch

    from zhixing.layers.positions import stretched

    head = config["head_dim"]
    turns = config["rope_theta"] ** (-torch.arange(0, head, 2).double() / head)
    return (turns / stretched(turns, stretch)).numpy()


def factors_of(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Give the tensor that tells a GGUF file's reader of Llama 3's rotations, {its name: (K / 2,) float32}; none for other rotations.

    config  a config.json of the llama or qwen3 layout

    Raises UsageError for rotations that neither a setting nor such a tensor tells a reader of.
    """
    stretch = config.get("rope_scaling") or {}
    sort = stretch.get("rope_type", "linear")
    if sort == "linear":
        return {}
    if config["model_type"] != "llama":  # whose readers alone look for them
        raise UsageError("export.rope_layout", sort=sort, name=config["model_type"])
    factors = _slowed(config, stretch) if all(stretch.get(name) == value for name, value in LLAMA3.items()) else np.zeros(0)
    # A reader takes the greatest for the factor.
    if not factors.size or stretch["factor"] > float(np.finfo(np.float32).max) or not np.isclose(factors.max(), stretch["factor"], CLOSE):
        raise UsageError("export.rope", sort=sort)
    return {FACTORS: factors.astype(np.float32)}


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

    Rotations that are stretched otherwise than linearly are told of in a tensor: `factors_of`.

    Raises UsageError for a layout that GGUF has no name for here.
    """
    kind = config["model_type"]
    if kind not in ARCHITECTURES:
        raise UsageError("export.architecture", name=kind, among=", ".join(ARCHITECTURES))
    stretch = config.get("rope_scaling") or {}
    linear = stretch and stretch.get("rope_type", "linear") == "linear"
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
        **({"rope.scaling.type": "linear", "rope.scaling.factor": float(stretch["factor"])} if linear else {}),
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


def read(held: GGUF) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Give the config and the tensors of a decoder in a file, by Hugging Face's names.

    Raises DataError for what `config_of`, `stretch_of` and `name_of` refuse, or rows of queries or keys that their heads do not divide.
    """
    path = str(held.path)
    config = config_of(path, held.settings, held.entries)
    factors = held.tensor(FACTORS) if FACTORS in held.entries and "rope_scaling" not in config else None
    if factors is not None:
        config |= stretch_of(path, factors, config)
    tensors = {}
    for name in held.entries:
        if name == FACTORS and factors is not None:
            continue
        value, heads = held.tensor(name), heads_of(name, config)
        if heads and value.shape[0] % (2 * heads):
            raise DataError("model.tensor_shape", name=name, shape=value.shape, wanted=f"rows that {heads} heads divide")
        tensors[name_of(path, name)] = np.ascontiguousarray(turned(value, heads) if heads else value)
    return config, tensors
