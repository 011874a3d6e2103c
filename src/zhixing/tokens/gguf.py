"""Byte-level BPE tokenizers in GGUF's terms: lists of tokens and merges there, a `tokenizer.json` here, both ways.

How a text is cut before pieces are looked for is a name in the file, which stands for an expression that every program knows. That of our
own tokenizers is `dbrx`, Llama 3's expression, but that ours bounds its runs: a word of more than 64 letters may be cut otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zhixing.core.errors import DataError, UsageError

MORE_ENDS = ("eot", "eom")  # of a turn and of a message, beside the end of a text
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # sorts of tokens
GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LEVEL = {**GPT2_SPLIT, "use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# By a GGUF file's `tokenizer.ggml.pre`: how a text is cut before pieces are looked for.
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_SPLIT],
    "smollm": [{"type": "Digits", "individual_digits": True}, GPT2_SPLIT],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, LEVEL],
    "dbrx": [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, LEVEL],
    "qwen2": [{"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}, LEVEL],
}
NORMALIZED = {"qwen2": {"type": "NFC"}}
WHOLE = ("llama-bpe",)  # a word that is a token is not merged out of its parts


def from_gguf(path: str, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Give a GGUF file's tokenizer as a `tokenizer.json` and a tokenizer_config.json.

    Raises DataError for a sort or a split that is not known, or lists that do not fit.
    """
    sort, pre = (settings.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if sort != "gpt2" or not isinstance(pre, str) or pre not in SPLITS:
        known = ", ".join(SPLITS)
        raise DataError("import.tokenizer", path=path, problem=f"sort '{sort}', split '{pre}'; read are gpt2 with {known}")
    tokens, sorts, merges = (settings.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))
    if not isinstance(tokens, list) or not isinstance(merges, list) or sorts is None or len(sorts) != len(tokens):
        raise DataError("import.tokenizer", path=path, problem="tokens, token_type and merges are not there, or not equally many")
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
        "byte_fallback": False, "ignore_merges": pre in WHOLE, "merges": merges, "vocab": {name: id for id, name in enumerate(tokens)},
    }  # fmt: skip
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_added(tokens, [int(each) for each in sorts])),
        "normalizer": NORMALIZED.get(pre),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": SPLITS[pre]},
        "post_processor": None,
        "decoder": GPT2_SPLIT,
        "model": model,
    }
    about: dict[str, Any] = {"add_bos_token": bool(settings.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe"))}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        place = settings.get(f"tokenizer.ggml.{theirs}_token_id")
        if isinstance(place, int) and 0 <= place < len(tokens):
            about[f"{ours}_token"] = tokens[place]
    if isinstance(settings.get("tokenizer.chat_template"), str):
        about["chat_template"] = settings["tokenizer.chat_template"]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"), about


def _added(tokens: Sequence[str], sorts: Sequence[int]) -> Iterable[dict[str, Any]]:
    """List the tokens that are looked for as they stand, before anything is cut."""
    for place, (name, sort) in enumerate(zip(tokens, sorts, strict=True)):
        if sort in (CONTROL, USER_DEFINED):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            yield {"id": place, "content": name, **flags, "special": sort == CONTROL}


def to_gguf(tokenizer: Any) -> dict[str, Any]:
    """Give the settings of a GGUF file that a byte-level BPE tokenizer means.

    Raises UsageError for a tokenizer of another sort, or one whose split has no name there.
    """
    value = json.loads(tokenizer.content)
    model, names = value["model"], {place: name for name, place in value["model"].get("vocab", {}).items()} if tokenizer.byte_ids else {}
    if model["type"] != "BPE" or model.get("byte_fallback") or not names:
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem="no byte-level BPE")
    pre = "dbrx" if tokenizer.sort == "bpe" else _split_of(value.get("pre_tokenizer"), bool(model.get("ignore_merges")))
    if tokenizer.sort != "bpe" and value.get("normalizer") != NORMALIZED.get(pre or ""):
        pre = None
    if pre is None:
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem="how it changes or cuts texts has no name in GGUF")
    added = {each["id"]: each for each in value.get("added_tokens") or ()}
    tokens, sorts = [], []
    for place in range(tokenizer.vocabulary_size):
        known = added[place]["content"] if place in added else names.get(place)
        tokens.append(f"[UNUSED{place}]" if known is None else known)
        kind = NORMAL if place not in added else CONTROL if added[place].get("special") else USER_DEFINED
        sorts.append(UNUSED if known is None else kind)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    settings = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": sorts,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.begin_id,
        "tokenizer.ggml.eos_token_id": tokenizer.last_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": bool(tokenizer.opening),
    }
    others = sorted(tokenizer.ends - {tokenizer.last_id})
    settings |= {f"tokenizer.ggml.{name}_token_id": place for name, place in zip(MORE_ENDS, others, strict=False)}
    template = (tokenizer.settings or {}).get("chat_template")
    return {**settings, **({"tokenizer.chat_template": template} if isinstance(template, str) else {})}


def _split_of(given: Any, whole: bool) -> str | None:
    """Name a split; whole: words that are tokens are not merged out of their parts."""
    parts = given.get("pretokenizers", [given]) if isinstance(given, dict) else []
    plain = [_plain(each) for each in parts]
    return next((name for name, split in SPLITS.items() if [_plain(each) for each in split] == plain and (name in WHOLE) == whole), None)


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of a part of a split changes how texts are cut."""
    return {name: value for name, value in part.items() if name not in ("trim_offsets", "invert")}
