"""BPE tokenizers in GGUF's terms: lists of tokens, merges and scores there, a `tokenizer.json` here, both ways.

Of byte-level BPE ("gpt2"), how a text is cut before pieces are looked for is a name in the file, which stands for an expression that every
program knows. That of our own tokenizers is `dbrx`, Llama 3's expression, but that ours bounds its runs: a word of more than 64 letters may
be cut otherwise. SentencePiece's BPE ("llama") has a score a piece and no merges: two are merged where the whole is a piece too, the best
score first. As transformers reads such a file, a text that begins with a space is given no other; llama.cpp gives it one,
and so do tokenizers with a Prepend, of which a setting of our own tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.imported import ENDING
from zhixing.tokens.pieces import EVERY, FIRST, MARK
from zhixing.tokens.unigram import MOST_LETTERS

MORE_ENDS = ("eot", "eom")  # of a turn and of a message, beside the end of a text
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # sorts of tokens
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
BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
    "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
SCORED, PREPENDS = "llama", "zhixing.tokenizer.prepend"
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
FALLBACK = [{**SPACE, "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]


def from_gguf(path: str, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Give a GGUF file's tokenizer as a `tokenizer.json` and a tokenizer_config.json.

    Raises DataError for a sort or a split that is not known, or lists that do not fit.
    """
    sort, pre = (settings.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if sort != SCORED and (sort != "gpt2" or not isinstance(pre, str) or pre not in SPLITS):
        known = ", ".join(SPLITS)
        raise DataError("import.tokenizer", path=path, problem=f"sort '{sort}', split '{pre}'; read are {SCORED}, and gpt2 with {known}")
    tokens, sorts, merges, scores = (settings.get(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges", "scores"))
    try:
        if not isinstance(tokens, list) or not isinstance(sorts, np.ndarray) or len(sorts) != len(tokens):
            raise ValueError("tokens and token_type are not there, or not equally many")
        sorts = sorts.astype(np.int64).tolist()
        if any(not name and kind in (CONTROL, USER_DEFINED) for name, kind in zip(tokens, sorts, strict=True)):
            raise ValueError("a control token has no name")
        told = _scored(tokens, sorts, merges, scores, settings) if sort == SCORED else _of_bytes(tokens, merges, str(pre))
    except ValueError as problem:
        raise DataError("import.tokenizer", path=path, problem=str(problem)) from None
    bare = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    value = {**bare, "added_tokens": list(_added(tokens, sorts)), **told}
    about: dict[str, Any] = {"add_bos_token": bool(settings.get("tokenizer.ggml.add_bos_token", pre == "llama-bpe" or sort == SCORED))}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        place = settings.get(f"tokenizer.ggml.{theirs}_token_id")
        if isinstance(place, int) and 0 <= place < len(tokens):
            about[f"{ours}_token"] = tokens[place]
    if isinstance(settings.get("tokenizer.chat_template"), str):
        about["chat_template"] = settings["tokenizer.chat_template"]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8"), about


def _of_bytes(tokens: list[str], merges: Any, pre: str) -> dict[str, Any]:
    """Give what a `tokenizer.json` tells of byte-level BPE. Raises ValueError for merges that are not there."""
    if not isinstance(merges, list):
        raise ValueError("there are no merges")
    if len(set(tokens)) < len(tokens):
        raise ValueError("one token stands at two places")
    own = {"ignore_merges": pre in WHOLE, "merges": merges, "vocab": {name: place for place, name in enumerate(tokens)}}
    split = {"type": "Sequence", "pretokenizers": SPLITS[pre]}
    return {"normalizer": NORMALIZED.get(pre), "pre_tokenizer": split, "decoder": GPT2_SPLIT, "model": {**BPE, **own}}


def _scored(tokens: list[str], sorts: list[int], merges: Any, scores: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a `tokenizer.json` tells of pieces with scores. Raises ValueError where these are missing or no numbers."""
    if not isinstance(scores, np.ndarray) or len(scores) != len(tokens) or not np.isfinite(scores).all():
        raise ValueError("scores are missing, not as many as tokens, or no numbers")
    if len(set(tokens)) < len(tokens):
        raise ValueError("one token stands at two places")
    if max(map(len, tokens), default=0) > MOST_LETTERS:
        raise ValueError(f"a token has more than {MOST_LETTERS} characters")
    pairs = merges if isinstance(merges, list) else [list(pair) for pair in by_scores(tokens, sorts, scores.astype(float).tolist())]
    unknown = next((name for name, sort in zip(tokens, sorts, strict=True) if sort == UNKNOWN), None)
    own = {"byte_fallback": True, "fuse_unk": True, "unk_token": unknown, "merges": pairs}
    spaces, scheme = settings.get("tokenizer.ggml.add_space_prefix", True), FIRST
    if settings.get(PREPENDS) is True:
        parts = [{"type": "Prepend", "prepend": MARK}, SPACE]
        normalizer, split = {"type": "Sequence", "normalizers": parts}, None
    else:
        scheme = FIRST if spaces is not False else "never"
        normalizer, split = None, {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": False}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if scheme == FIRST else []
    decoder = {"type": "Sequence", "decoders": [*FALLBACK, *strip]}
    vocabulary = {name: place for place, name in enumerate(tokens)}
    return {"normalizer": normalizer, "pre_tokenizer": split, "decoder": decoder, "model": {**BPE, **own, "vocab": vocabulary}}


def by_scores(tokens: Sequence[str], sorts: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Give the merges that scores stand for, first those of the best piece; of one piece that with the longest first part.

    Source: transformers' `generate_merges`, whose order this is.
    """
    ids = {name: place for place, name in enumerate(tokens) if sorts[place] in (NORMAL, USER_DEFINED)}
    found = []
    for name, place in ids.items():
        cuts = [(name[:cut], name[cut:]) for cut in range(1, len(name))]
        cuts = sorted((ids[first], ids[second], first, second) for first, second in cuts if first in ids and second in ids)
        found += [(scores[place], len(first), len(second), first, second) for _, _, first, second in cuts]
    found.sort(key=lambda each: each[:3], reverse=True)
    return [each[3:] for each in found]


def _added(tokens: Sequence[str], sorts: Sequence[int]) -> Iterable[dict[str, Any]]:
    """List the tokens that are looked for as they stand, before anything is cut."""
    for place, (name, sort) in enumerate(zip(tokens, sorts, strict=True)):
        if sort in (CONTROL, USER_DEFINED):
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            yield {"id": place, "content": name, **flags, "special": sort == CONTROL}


def to_gguf(tokenizer: Any) -> dict[str, Any]:
    """Give the settings of a GGUF file that a BPE tokenizer means.

    Raises UsageError for a tokenizer of another sort, one whose split has no name there, or whose merges no scores stand for.
    """
    value = json.loads(tokenizer.content)
    model = value["model"]
    scored = tokenizer.sort == "imported" and bool(model.get("byte_fallback"))
    if model["type"] != "BPE" or (model.get("byte_fallback") and not scored):
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem="no byte-level BPE, and none of SentencePiece's")
    names = {place: name for name, place in model["vocab"].items()}
    added = {each["id"]: each for each in value.get("added_tokens") or ()}
    tokens, sorts = [], []
    for place in range(tokenizer.vocabulary_size):
        known = added[place]["content"] if place in added else names.get(place)
        tokens.append(f"[UNUSED{place}]" if known is None else known)
        kind = NORMAL if place not in added else CONTROL if added[place].get("special") else USER_DEFINED
        sorts.append(UNUSED if known is None else kind)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    own = _with_scores(tokenizer, tokens, sorts, merges, model.get("unk_token")) if scored else _with_split(tokenizer, value, merges)
    settings = {
        **own,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": sorts,
        "tokenizer.ggml.bos_token_id": tokenizer.begin_id,
        "tokenizer.ggml.eos_token_id": tokenizer.last_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.ggml.add_bos_token": bool(tokenizer.opening),
    }
    # A reader knows some ends by their names; the others need an entry each.
    others = sorted(tokenizer.ends - {tokenizer.last_id}, key=lambda place: (tokenizer.controls.get(place) in ENDING, place))
    if any(tokenizer.controls.get(place) not in ENDING for place in others[len(MORE_ENDS) :]):
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem=f"it has {len(others) + 1} tokens that end a text, GGUF names 3")
    settings |= {f"tokenizer.ggml.{name}_token_id": place for name, place in zip(MORE_ENDS, others, strict=False)}
    template = (tokenizer.settings or {}).get("chat_template")
    return {**settings, **({"tokenizer.chat_template": template} if isinstance(template, str) else {})}


def _with_split(tokenizer: Any, value: Mapping[str, Any], merges: list[str]) -> dict[str, Any]:
    """Give what is told of byte-level BPE alone."""
    pre = "dbrx" if tokenizer.sort == "bpe" else _split_of(value.get("pre_tokenizer"), bool(value["model"].get("ignore_merges")))
    if pre is None or (tokenizer.sort != "bpe" and value.get("normalizer") != NORMALIZED.get(pre)):
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem="how it changes or cuts texts has no name in GGUF")
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}


def _with_scores(tokenizer: Any, tokens: list[str], sorts: list[int], merges: list[str], unknown: str | None) -> dict[str, Any]:
    """Give what is told of SentencePiece's BPE alone; sorts are made those that such a file tells.

    The merges themselves are told where the scores stand for the same ones in another order of those that make one piece.
    """
    for place, name in enumerate(tokens):
        if place in tokenizer.fallback or name == unknown:
            sorts[place] = UNKNOWN if name == unknown else BYTE
    scores = _scores([pair.replace(" ", "", 1) for pair in merges], tokens)
    reached = {name for place, name in enumerate(tokens) if sorts[place] in (NORMAL, USER_DEFINED)}
    kept = [pair for pair in merges if {*pair.split(" "), pair.replace(" ", "", 1)} <= reached]
    meant = [" ".join(pair) for pair in by_scores(tokens, sorts, scores)]
    made = [[pair.replace(" ", "", 1) for pair in each] for each in (kept, meant)]
    if sorted(kept) != sorted(meant) or made[0] != made[1]:
        raise UsageError("export.tokenizer", sort=tokenizer.sort, problem="no scores of pieces stand for its merges")
    return {
        "tokenizer.ggml.model": SCORED,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": scores,
        **({"tokenizer.ggml.unknown_token_id": tokens.index(unknown)} if unknown in tokens else {}),
        "tokenizer.ggml.add_space_prefix": bool(tokenizer.prefix),
        **({PREPENDS: True} if tokenizer.prefix == EVERY else {}),
        **({} if kept == meant else {"tokenizer.ggml.merges": kept}),
    }


def _scores(made: Sequence[str], tokens: Sequence[str]) -> list[float]:
    """Give each token a score: the earlier its merges the better, those whose merges stand among one another's the same.

    made    the pieces that the merges make, in their order
    tokens  all names
    return  one number a token
    """
    last = {name: place for place, name in enumerate(made)}
    found: dict[str, float] = {}
    group, reach = 0, -1
    for place, name in enumerate(made):
        group += place > reach
        reach = max(reach, last[name])
        found.setdefault(name, -float(group))
    return [found.get(name, 0.0) for name in tokens]


def _split_of(given: Any, whole: bool) -> str | None:
    """Name a split; whole: words that are tokens are not merged out of their parts."""
    parts = given.get("pretokenizers", [given]) if isinstance(given, dict) else []
    plain = [_plain(each) for each in parts]
    return next((name for name, split in SPLITS.items() if [_plain(each) for each in split] == plain and (name in WHOLE) == whole), None)


def _plain(part: Mapping[str, Any]) -> dict[str, Any]:
    """Give what of a part of a split changes how texts are cut."""
    return {name: value for name, value in part.items() if name not in ("trim_offsets", "invert")}
