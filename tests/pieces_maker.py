"""Tokenizers of SentencePiece's sort over a few texts, as other programs write them, and models that a test can import with them."""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from zhixing.tokens.gguf import by_scores
from zhixing.tokens.layout import BYTES

MARK = "▁"
TEXTS = [
    "The quiet old river carries small boats past the stones.",
    "大江东去，浪淘尽，千古风流人物。",
    "the river and the boats; 大江和小船。",
]
ODD = [
    "", " ", "  ", "\n", " the", "  two  spaces ", "the\n\n\triver  \n", "</s>", "a</s><s>b", "<unk><pad><mask> <|im_start|>",
    "<0x41> <0x0A>",
    "é e\u0301 ﬁ ①", "🙂 👩\u200d👧", "\x00\x01\x7f\ufeff", "大江东去 the river", "aaaaaaa", "龘靐", " 大江", "\r\n the", "the" * 40,
]  # fmt: skip
CONTROLS = ("<unk>", "<s>", "</s>")
SPACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
FORMS: dict[str, dict[str, Any]] = {
    "legacy": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, SPACE]}, "pre_tokenizer": None},
    "first": {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False}},
    "gemma": {
        "normalizer": SPACE,
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
    },
}


def control(place: int, name: str, special: bool = True) -> dict[str, Any]:
    """Tell of a token that was added."""
    return {"id": place, "content": name, **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False), "special": special}


def framed(before: str, after: str, ids: dict[str, int]) -> dict[str, Any]:
    """Tell what stands around a text."""

    def named(name: str) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": name, "type_id": 0}}] if name else []

    text = [*named(before), {"Sequence": {"id": "A", "type_id": 0}}, *named(after)]
    told = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (before, after) if name}
    return {"type": "TemplateProcessing", "single": text, "pair": [*text, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": told}


def learnt(texts: list[str], count: int) -> list[str]:
    """Learn pieces by merging the commonest pair, equal counts by text."""
    rows = [list(MARK + text.replace(" ", MARK)) for text in texts]
    found: list[str] = []
    for _ in range(count):
        pairs = Counter(pair for row in rows for pair in zip(row, row[1:], strict=False))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append("".join(best))
        for number, row in enumerate(rows):
            made: list[str] = []
            for letter in row:
                if made and (made[-1], letter) == best:
                    made[-1] += letter
                else:
                    made.append(letter)
            rows[number] = made
    return list(dict.fromkeys(found))


def listed(texts: list[str] = TEXTS) -> tuple[list[str], list[int], list[float]]:
    """Give the tokens of a BPE, their sorts and scores, as a GGUF file lists them; some lead to names of control tokens."""
    letters = sorted({letter for text in texts for letter in text.replace(" ", MARK)} | set("</s>x04A"))
    pieces = [*learnt(texts, 60), MARK * 2, "</", "s>", "<s", "<0x", "41>", "aa", "aaaa"]
    pieces = list(dict.fromkeys(pieces))
    tokens = [*CONTROLS, *BYTES, *pieces, *letters]
    sorts = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) + len(letters))]
    return tokens, sorts, [0.0] * 259 + [-float(place) for place in range(len(pieces) + len(letters))]


def bpe(form: str, texts: list[str] = TEXTS, **change: Any) -> dict[str, Any]:
    """Give the tokenizer.json of a BPE with bytes to fall back on, whose merges lead to control tokens where a program follows them."""
    tokens, _, scores = listed(texts)
    vocabulary = {name: place for place, name in enumerate(tokens)}
    merges = by_scores(tokens, [1] * len(tokens), scores)
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for pair in merges],
    }  # fmt: skip
    strip = [] if form == "gemma" else [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    back = [{**SPACE, "pattern": {"String": MARK}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]
    bare = {"version": "1.0", "truncation": None, "padding": None, "post_processor": framed("<s>", "", vocabulary)}
    added = [control(place, name) for place, name in enumerate(CONTROLS)]
    decoder = {"type": "Sequence", "decoders": back}
    return {**bare, "added_tokens": added, **FORMS[form], "decoder": decoder, "model": {**model, **change}}


def table(replacements: dict[str, str]) -> str:
    """Write the table by which letters are made alike: a double array, and what stands in the place of each letter."""
    units, texts, taken = [0] * 1024, b"", {0}
    tree: dict[Any, Any] = {}
    for key, value in replacements.items():
        node = tree
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node["value"] = len(texts)
        texts += value.encode() + b"\0"

    def lay(node: dict[Any, Any], place: int, label: int) -> None:
        letters = [each for each in node if each != "value"]
        wanted = [*letters, *([0] if "value" in node else [])]
        base = next(b for b in range(1, 768) if b not in taken and not any(b ^ each in taken for each in wanted))
        taken.update({base, *(base ^ each for each in wanted)})
        units[place] = (place ^ base) << 10 | ("value" in node) << 8 | label
        if "value" in node:
            units[base] = 1 << 31 | node["value"]
        for each in letters:
            lay(node[each], base ^ each, each)

    lay(tree, 0, 0)
    return base64.b64encode(struct.pack("<I", 4096) + struct.pack("<1024I", *units) + texts).decode()


TABLE = {"ﬁ": "fi", "①": "1", "\n": " ", "\t": " ", "é": "e\u0301", "\u3000": " ", "，": ","}


def unigram(texts: list[str] = TEXTS, **change: Any) -> dict[str, Any]:
    """Give the tokenizer.json of a Unigram as XLM-RoBERTa has one, with a table of letters that are made alike."""
    words = Counter(MARK + word for text in texts for word in text.replace("，", ",").split())
    letters = sorted({letter for word in words for letter in word} | set("</s>"))
    scored = [[name, 0.0] for name in ("<s>", "<pad>", "</s>", "<unk>")]
    scored += [[word, -2.0 - place / 100] for place, word in enumerate(sorted(words))] + [
        [letter, -6.0 - ord(letter) / 1e6] for letter in letters
    ]
    scored += [["<mask>", 0.0]]
    ids = {name: place for place, (name, _) in enumerate(scored)}
    metaspace = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [control(ids[name], name) for name in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": table(TABLE)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": framed("<s>", "</s>", ids),
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": scored, "byte_fallback": False, **change},
    }


def folder(where: Path, value: dict[str, Any], config: dict[str, Any], **settings: Any) -> Path:
    """Write a model of random weights as another program would.

    config  of our model; model_type is written as it is told
    """
    from zhixing.models import catalog

    torch.manual_seed(0)
    kind = config["model_type"]
    model = catalog.build({**config, "model_type": "llama" if kind == "mistral" else kind})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    where.mkdir(parents=True, exist_ok=True)
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, where / "model.safetensors")
    (where / "config.json").write_text(json.dumps(config))
    (where / "tokenizer.json").write_text(json.dumps(value, ensure_ascii=False))
    (where / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **settings}))
    return where


def decoder(where: Path, form: str, texts: list[str] = TEXTS, **settings: Any) -> Path:
    """Write a Mistral of random weights with a BPE."""
    value = bpe(form, texts)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    shape |= {"head_dim": 16, "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": True}
    return folder(where, value, {"model_type": "mistral", "vocab_size": len(value["model"]["vocab"]), **shape}, **settings)
