"""A pretrained model's tokenizer: its `tokenizer.json`, which a GGUF file tells in its own way, and what its control tokens are for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError
from zhixing.tokens import charsmap
from zhixing.tokens.imported import ABOUT, BETWEEN, ENDING, names_of
from zhixing.tokens.layout import Parts
from zhixing.tokens.tokenizer import coder

MOST_GROWTH = 64
MASKS = ("[MASK]", "<mask>")
SPARE = re.compile(r"\[(UNUSED|PAD)\d+\]")  # what GGUF files call places of the vocabulary that have no token
MATCHED = {"content": None, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
KEPT = (
    "bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "add_bos_token", "chat_template",
    "clean_up_tokenization_spaces",
)  # fmt: skip


def named(value: Any) -> str | None:
    """Read a token's name, which stands alone or with how it is matched."""
    return value.get("content") if isinstance(value, dict) else value if isinstance(value, str) else None


def growth(normalizer: Any) -> float:
    """Bound by how many times longer a text may become in a tokenizer's normalizer, which puts words in the place of letters."""
    if isinstance(normalizer, list):
        return math.prod(min(growth(each), 1e9) for each in normalizer)
    if not isinstance(normalizer, dict):
        return 1.0
    own = [len(normalizer[name]) for name in ("content", "prepend") if isinstance(normalizer.get(name), str)]
    own += [charsmap.growth(normalizer["precompiled_charsmap"])] if normalizer.get("type") == "Precompiled" else []
    return max([1, *own]) * growth(normalizer.get("normalizers"))


def whole(value: dict[str, Any], about: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Give a tokenizer.json with the added tokens that stand in tokenizer_config.json alone, of ids that the model has.

    Raises ValueError for one that is told of in no way that can be read.
    """
    told = about.get("added_tokens_decoder") or {}
    try:
        more = [{"id": int(place), **{name: {**MATCHED, **each}[name] for name in MATCHED}} for place, each in told.items()]
    except (AttributeError, TypeError, ValueError):
        raise ValueError("its added_tokens_decoder cannot be read") from None
    return with_added(value, more, size)


def with_added(value: dict[str, Any], more: Iterable[dict[str, Any]], size: int) -> dict[str, Any]:
    """Give a tokenizer.json with further added tokens.

    Left out are one that has a place by its name, one that has none in the model, and one that is text and whose place has a name: of
    bytes, pieces are spelt otherwise in the model's vocabulary.
    """
    names = names_of(value)
    places = {name: place for place, name in names.items()}
    added = list(value.get("added_tokens") or ())
    known = {each["content"] for each in added}
    new = [each for each in more if each["content"] not in known and places.get(each["content"], each["id"]) == each["id"] < size]
    new = [each for each in new if each["special"] or names.get(each["id"], each["content"]) == each["content"]]
    return {**value, "added_tokens": [*added, *sorted(new, key=lambda each: each["id"])]} if new else value


def of_adapter(path: str, base: dict[str, Any], own: dict[str, Any], about: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Give the tokenizer.json of an adapter: its base's, with the tokens that were added where the base has none.

    base   of the base
    own    of the adapter
    about  the adapter's tokenizer_config.json

    Raises DataError where the two have other tokens at one place.
    """
    try:
        own = whole(own, about, size)
        here, there = names_of(base), names_of(own)
        free = {place for place, name in here.items() if SPARE.fullmatch(name)}
        if any(here.get(place, name) != name and place not in free for place, name in there.items() if place < size):
            raise ValueError("its tokens are not those of the base")
        more = [each for each in own.get("added_tokens") or () if each["id"] not in here or each["id"] in free]
        if taken := free & {each["id"] for each in more if here.get(each["id"]) != each["content"]}:
            names = {each["id"]: each["content"] for each in more}
            vocabulary = {names[place] if place in taken else name: place for name, place in base["model"]["vocab"].items()}
            base = {**base, "model": {**base["model"], "vocab": vocabulary}}
        return with_added(base, more, size)
    except ValueError as problem:
        raise DataError("import.tokenizer", path=path, problem=str(problem)[:200]) from None
    except (KeyError, TypeError, AttributeError):
        raise DataError("import.tokenizer", path=path, problem="its tokens cannot be read") from None


def settle(
    path: str, content: bytes, about: Mapping[str, Any], others: Sequence[Mapping[str, Any]], size: int
) -> tuple[bytes, dict[str, Any]]:
    """Say what a tokenizer's control tokens are for.

    content  of its tokenizer.json
    about    its tokenizer_config.json
    others   further settings that may name ids: of generation, of the model
    size     int, tokens    of the model's vocabulary
    return   the content, with the tokens that its settings alone tell of, and the settings to be written beside it, with our own entry

    Raises DataError when the library cannot read it, or nothing says which token ends a text.
    """
    try:
        value = json.loads(content)
        if (full := whole(value, about, size)) is not value:
            value, content = full, json.dumps(full, ensure_ascii=False).encode("utf-8")
        names = names_of(value)
        if growth(value.get("normalizer")) > MOST_GROWTH:
            raise ValueError("its normalizer makes texts many times as long")
        coder(Parts(content, value, []), size)  # first: what it refuses could end the library's process
        library = Library.from_str(content.decode("utf-8"))
        library.no_padding()
        library.no_truncation()
        plain, opened = (library.encode("a", add_special_tokens=each).ids for each in (False, True))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as problem:  # the library raises bare Exception and, of a panic, less than that
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
    if not ends:
        raise DataError("import.tokenizer", path=path, problem="no eos_token")
    end = (between or ends)[0]
    place = next((each for each in range(len(opened)) if opened[each : each + len(plain)] == plain), 0)
    before, after = opened[:place], opened[place + len(plain) :]  # what comes after the text, an end, is no opening
    if about.get("add_bos_token") is True and not before:
        before = told("bos")[:1]
    if about.get("add_bos_token") is False:
        before = []
    own = {"vocabulary_size": size, "end": end, "pad": (told("pad") or [end])[0], "opening": before, "ends": sorted(ends)}
    own |= {"begin": (before or told("bos") or [end])[0], "last": ends[0], "frame": [before, after]}
    masks = [ids[each] for each in (named(about.get("mask_token")), *MASKS) if each in special]
    own |= {"mask": masks[0]} if masks else {}
    kept = {name: about[name] for name in KEPT if name in about}
    if isinstance(kept.get("chat_template"), list):  # several, by name
        several = {str(each.get("name")): each.get("template") for each in kept["chat_template"] if isinstance(each, dict)}
        kept["chat_template"] = several.get("default", next(iter(several.values()), None))
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 10**30, ABOUT: own}
    return content, kept
