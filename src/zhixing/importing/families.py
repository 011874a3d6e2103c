"""Pretrained families as ours: what of another program's settings and names means which of our models, with the same numbers out.

A family whose layout is one of ours but for names or for parts that are zero becomes that one: Mistral and Qwen2 are Llama (Qwen2's output
projections get biases of zero), and a window that slides is a shorter one. Leaves out: everything that would compute otherwise, which is
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from zhixing.core.errors import DataError

# Settings that say how a model was made, stored or is to be run, and change nothing of what it computes.
ASIDE = frozenset(
    "transformers.js_config _attn_implementation attn_implementation is_llama_config auto_map pad_token_id bos_token_id eos_token_id "
    "unk_token_id use_return_dict output_attentions output_hidden_states tokenizer_class torch_dtype dtype id2label label2id "
    "problem_type finetuning_task attention_dropout initializer_range use_cache max_window_layers layer_types _name_or_path "
    "transformers_version architectures model_type dropout".split()
)
LLAMA = ("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
         "max_position_embeddings rms_norm_eps rope_theta tie_word_embeddings").split()  # fmt: skip
MISTRAL_WINDOW = 4096  # where no file says one; null says that there is none
LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "max_position_embeddings": 2048}
THETA = 10000.0  # where nothing is told
LLAMA_FIXED = {"hidden_act": "silu", "mlp_bias": False, "pretraining_tp": 1, "rope_interleaved": False, "partial_rotary_factor": 1.0}
GPT2 = "vocab_size n_positions n_embd n_layer n_head n_inner layer_norm_epsilon".split()
BERT = ("vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size max_position_embeddings type_vocab_size "
        "layer_norm_eps").split()  # fmt: skip
BERT_DEFAULTS = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "max_position_embeddings": 512}
BERT_ASIDE = frozenset({"hidden_dropout_prob"})  # how it was trained; a training from it has its own
WHISPER = ("vocab_size d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim "
           "decoder_ffn_dim max_source_positions max_target_positions num_mel_bins").split()  # fmt: skip
WHISPER_DEFAULTS = {"max_source_positions": 1500, "max_target_positions": 448, "num_mel_bins": 80}
ROBERTA = ("roberta", "xlm-roberta")
SKIPPED = 2  # positions that RoBERTa never uses: its texts begin at the number after that of its padding, 1
GPT2_DEFAULTS = {"n_positions": 1024, "layer_norm_epsilon": 1e-5, "n_inner": None, "vocab_size": 50257}

COUNTS = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim max_position_embeddings "
    "n_positions n_embd n_layer n_head n_inner sliding_window type_vocab_size".split()
) | frozenset(WHISPER)
NUMBERS = frozenset({"rms_norm_eps", "rope_theta", "layer_norm_epsilon", "layer_norm_eps"})
SWITCHES = frozenset({"tie_word_embeddings", "attention_bias", "use_sliding_window"})
TABLES = frozenset({"rope_scaling", "rope_parameters"})
MOST = 1 << 31

Tensors = dict[str, Any]


def _wanted(name: str, value: Any) -> str | None:
    """Say what a setting should be, where its value is none; None: it is well."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in COUNTS and not (number and isinstance(value, int) and 0 < value < MOST):
        return "a whole number above 0"
    if name in NUMBERS and not (number and 0 < value < float("inf")):
        return "a number above 0"
    if name in SWITCHES and not isinstance(value, bool):
        return "true or false"
    return "a table of settings" if name in TABLES and not isinstance(value, dict) else None


def _settings(
    path: str, given: Mapping[str, Any], read: list[str], defaults: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Take a config's settings; each must be read, be fixed as it is here, or change nothing.

    known  settings that have one value here
    """
    for name, value in given.items():
        if name in known and value != known[name]:
            raise DataError("import.config", path=path, name=name, value=value, wanted=known[name])
        if name not in read and name not in known and name not in ASIDE:
            raise DataError("import.config", path=path, name=name, value=value, wanted="not there")
    found = {name: given.get(name, defaults.get(name)) for name in read}
    for name, value in found.items():
        if value is None and name not in defaults and name != "head_dim":
            raise DataError("import.config_missing", path=path, name=name)
        if wanted := _wanted(name, value):
            raise DataError("import.config", path=path, name=name, value=repr(value)[:80], wanted=wanted)
    return found


def _llama(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of a decoder of Llama's layout."""
    kind = given["model_type"]
    read = [*LLAMA, "attention_bias", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window"]
    defaults = {**LLAMA_DEFAULTS, **dict.fromkeys([*read[len(LLAMA) :], "rope_theta"])}
    defaults |= {"sliding_window": MISTRAL_WINDOW} if kind == "mistral" else {}
    defaults["num_key_value_heads"] = given.get("num_attention_heads")
    found = _settings(path, given, read, defaults, LLAMA_FIXED)
    slides, used = found.pop("sliding_window"), found.pop("use_sliding_window")
    if slides and used is not False:
        found["max_position_embeddings"] = min(found["max_position_embeddings"], slides)
    found["attention_bias"] = bool(found["attention_bias"]) or kind == "qwen2"
    # transformers 5 tells the base of the rotations beside how they are stretched, earlier ones by itself.
    bases = [each for each in (found["rope_theta"], (found["rope_parameters"] or {}).get("rope_theta")) if each is not None]
    if any(_wanted("rope_theta", each) or each != bases[0] for each in bases):
        shown = " and ".join(map(repr, bases))[:80]
        raise DataError("import.config", path=path, name="rope_theta", value=shown, wanted="one number above 0")
    stretch = found["rope_scaling"] or found["rope_parameters"] or {}
    if not isinstance(stretch.get("rope_type", stretch.get("type", "default")), str):
        raise DataError("import.config", path=path, name="rope_type", value=repr(stretch)[:80], wanted="a name")
    found |= {"rope_theta": bases[0] if bases else THETA, "rope_parameters": found["rope_parameters"] or {}}
    return {"model_type": "qwen3" if kind == "qwen3" else "llama", **{name: value for name, value in found.items() if value is not None}}


def _gpt2(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of a GPT-2."""
    from zhixing.models.gpt2 import FIXED, REMARKS

    aside = {name: given[name] for name in given if name in REMARKS or name in ("resid_pdrop", "embd_pdrop")}
    rest = {name: value for name, value in given.items() if name not in aside}
    return {"model_type": "gpt2", **_settings(path, rest, GPT2, GPT2_DEFAULTS, FIXED)}


def _bert(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of an encoder of BERT's layout; RoBERTa's differs in where its positions begin."""
    from zhixing.models.bert import FIXED, REMARKS

    rest = {name: value for name, value in given.items() if name not in REMARKS | BERT_ASIDE}
    known = {**FIXED, **({"pad_token_id": 1} if given["model_type"] in ROBERTA else {})}
    found = _settings(path, rest, BERT, BERT_DEFAULTS, known)
    if given["model_type"] in ROBERTA:
        found["max_position_embeddings"] -= SKIPPED
    return {"model_type": "bert", **found}


def _whisper(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config of a Whisper."""
    from zhixing.models.whisper import FIXED, REMARKS

    ids = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}  # the tokenizer's, which are read from itself
    rest = {name: value for name, value in given.items() if name not in REMARKS | ids}
    return {"model_type": "whisper", **_settings(path, rest, WHISPER, WHISPER_DEFAULTS, FIXED)}


def _heard(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Take Whisper's tensors; the head is the table again."""
    return {name: value for name, value in tensors.items() if name != "proj_out.weight"}


def _encoder(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Take BERT's tensors, whose names may lack their first part; the pooler, the head of sentence pairs and saved places go.

    Biases of the head stand under two names. An older program wrote gamma and beta for a norm's weight and bias.
    """
    found: Tensors = {}
    for given, value in tensors.items():
        name = given.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("pooler.", "cls.seq_relationship.")) or name.endswith("position_ids"):
            continue
        name = name if name.startswith("cls.") else f"bert.{name}"
        if name in found:
            raise DataError("import.twice", tensor=given)
        found[name] = value
    for second, first in (("decoder.weight", "bert.embeddings.word_embeddings.weight"), ("decoder.bias", "cls.predictions.bias")):
        other = found.pop(f"cls.predictions.{second}", None)
        if other is not None and first in found and not np.array_equal(np.asarray(other), np.asarray(found[first])):
            raise DataError("import.untied", tensor=f"cls.predictions.{second}", other=first)
    return found


def _roberta(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Take RoBERTa's tensors under BERT's names; the positions that it never uses go."""
    found: Tensors = {}
    for name, value in tensors.items():
        if name == "lm_head.bias":
            found["cls.predictions.bias"] = value
        elif name.startswith("lm_head."):
            part = name.removeprefix("lm_head.").replace("layer_norm", "LayerNorm")
            found[f"cls.predictions.{part}" if part.startswith("decoder.") else f"cls.predictions.transform.{part}"] = value
        else:
            found[name.removeprefix("roberta.")] = value
    places = "embeddings.position_embeddings.weight"
    if places in found:
        found[places] = found[places][SKIPPED:]
    return _encoder(found, config)


def _same(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Take a decoder's tensors; a head that is the table again, or biases that are not there, are settled."""
    found = {name: value for name, value in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.get("tie_word_embeddings"):
        found.pop("lm_head.weight", None)
    if config.get("attention_bias"):
        for name in [each for each in found if each.endswith("o_proj.weight")]:
            found.setdefault(name.replace(".weight", ".bias"), np.zeros(found[name].shape[0], np.float32))
    return found


def _prefixed(tensors: Tensors, config: Mapping[str, Any]) -> Tensors:
    """Take GPT-2's tensors, whose names may lack their first part; masks that were saved, and the table's second name, go."""
    found = {}
    for name, value in tensors.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue
        found[name if name.startswith("transformer.") else f"transformer.{name}"] = value
    return found


# By `model_type` of a config.json: how its settings are read, and what its tensors become.
FAMILIES: dict[str, tuple[Callable[[str, Mapping[str, Any]], dict[str, Any]], Callable[[Tensors, Mapping[str, Any]], Tensors]]] = {
    "llama": (_llama, _same),
    "mistral": (_llama, _same),
    "qwen2": (_llama, _same),
    "qwen3": (_llama, _same),
    "gpt2": (_gpt2, _prefixed),
    "bert": (_bert, _encoder),
    **dict.fromkeys(ROBERTA, (_bert, _roberta)),
    "whisper": (_whisper, _heard),
}
# By `model_type` of ours: where its layers' names begin, the name of its table of tokens, and the setting that counts its layers.
LAYOUT = {
    **dict.fromkeys(("llama", "qwen3"), ("model.layers.", "model.embed_tokens.weight", "num_hidden_layers")),
    "gpt2": ("transformer.h.", "transformer.wte.weight", "n_layer"),
    "bert": ("bert.encoder.layer.", "bert.embeddings.word_embeddings.weight", "num_hidden_layers"),
    "whisper": ("model.encoder.layers.", "model.decoder.embed_tokens.weight", "encoder_layers"),
}
