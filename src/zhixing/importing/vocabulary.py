"""A pretrained model's tokenizer: its `tokenizer.json`, which a GGUF file tells in its own way, and what its control tokens are for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError
from zhixing.tokens.imported import ABOUT, names_of

# What divides texts in pretraining, the first that there is; and what ends one, beside what the files say.
BETWEEN = ("<|endoftext|>", "<|end_of_text|>", "</s>")
ENDING = ("<|im_end|>", "<|eot_id|>", "<|end|>", *BETWEEN)
KEPT = ("bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "chat_template", "clean_up_tokenization_spaces")
CONTROL, USER_DEFINED = 3, 4  # sorts of tokens in a GGUF file
GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LEVEL = {**GPT2_SPLIT, "use_regex": False}
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# By a GGUF file's `tokenizer.ggml.pre`: how a text is cut before pieces are looked for.
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [GPT2_SPLIT],
    "smollm": [{"type": "Digits", "individual_digits": True}, GPT2_SPLIT],
    "llama-bpe": [{"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}, LEVEL],
    "qwen2": [{"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False}, LEVEL],
}
NORMALIZED = {"qwen2": {"type": "NFC"}}
WHOLE = ("llama-bpe",)  # a word that is a token is not merged out of its parts


def named(value: Any) -> str | None:
    """Read a token's name, which stands alone or with how it is matched."""
    return value.get("content") if isinstance(value, dict) else value if isinstance(value, str) else None


def settle(
    path: str, content: bytes, about: Mapping[str, Any], others: Sequence[Mapping[str, Any]], size: int
) -> tuple[bytes, dict[str, Any]]:
    """Say what a tokenizer's control tokens are for.

    content  of its tokenizer.json
    about    its tokenizer_config.json
    others   further settings that may name ids: of generation, of the model
    size     int, tokens    of the model's vocabulary
    return   the content, and the settings to be written beside it, our own entry among them

    Raises DataError when the library cannot read it, or nothing says which token ends a text.
    """
    try:
        value = json.loads(content)
        names = names_of(value)
        library = Library.from_str(content.decode("utf-8"))
        plain, opened = (library.encode("a", add_special_tokens=each).ids for each in (False, True))
    except Exception as problem:  # the library raises bare Exception
        raise DataError("import.tokenizer", path=path, problem=str(problem)[:200]) from None
    ids = {name: place for place, name in names.items()}
    special = {each["content"] for each in value.get("added_tokens") or () if each.get("special")}

    def told(name: str) -> list[int]:
        """Give the ids that are told for one of bos, eos and pad, those of its name first."""
        found = [ids[each] for each in (named(about.get(f"{name}_token")),) if each in ids]
        for other in others:
            given = other.get(f"{name}_token_id")
            found += [each for each in (given if isinstance(given, list) else [given]) if type(each) is int and 0 <= each < size]
        return list(dict.fromkeys(found))

    ends = list(dict.fromkeys([*told("eos"), *(ids[each] for each in ENDING if each in special)]))
    between = [ids[each] for each in BETWEEN if each in special]
    if max(names) >= size:
        raise DataError("import.tokenizer", path=path, problem=f"its ids go up to {max(names)}, and the model has {size} tokens")
    if not ends:
        raise DataError("import.tokenizer", path=path, problem="no eos_token")
    end = (between or ends)[0]
    before = opened[: len(opened) - len(plain)] if opened[len(opened) - len(plain) :] == plain else []
    if about.get("add_bos_token") is True and not before:
        before = told("bos")[:1]
    if about.get("add_bos_token") is False:
        before = []
    own = {"vocabulary_size": size, "end": end, "pad": (told("pad") or [end])[0], "opening": before, "ends": sorted(ends)}
    own |= {"begin": (before or told("bos") or [end])[0], "last": ends[0]}
    kept = {name: about[name] for name in KEPT if name in about}
    if isinstance(kept.get("chat_template"), list):  # several, by name
        several = {str(each.get("name")): each.get("template") for each in kept["chat_template"] if isinstance(each, dict)}
        kept["chat_template"] = several.get("default", next(iter(several.values()), None))
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30, ABOUT: own}
    return content, kept


def of_gguf(path: str, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Give a GGUF file's tokenizer as a `tokenizer.json` and a tokenizer_config.json.

    Raises DataError for a sort or a split that is not known, or lists that do not fit.
    """
    sort, pre = (settings.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if sort != "gpt2" or pre not in SPLITS:
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
