"""Packing: tiny_shakespeare's last tenth and Tang poems, by an n-gram, a decoder and the two mixed, beside xz and zstd.

    ZHIXING_DATA=... python benchmarks/pack.py OUT [--core-seconds 200] [--poems 1000] [--smoke]

Each file is packed, unpacked and compared byte for byte. Its size stands beside -sum log2 p, which `layers.scoring.score` gives for the
whole text in one piece: the difference is the file's header, what opening the lanes costs, and the coder itself.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from results import Measured, arguments, find, tell, write

from zhixing import load, prepare, train
from zhixing.data.corpus import open_corpus
from zhixing.decoding.coding import read_file, to_tokens
from zhixing.layers.scoring import score
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.archive import pack_file, rivals, unpack_file
from zhixing.training.train import mix_trained

MODELS = ("ngram", "qwen3", "mixture")
SMOKE_CHARACTERS, SMOKE_POEMS = 60_000, 1500


def shakespeare(out: Path, smoke: bool) -> Path:
    """Prepare the corpus as benchmarks/shakespeare.py does, and write its test text as a file."""
    source = find("tiny_shakespeare") / "input.txt.gz"
    if smoke:
        with gzip.open(source, "rt", encoding="utf-8") as handle:
            (out / "input.txt").write_text(handle.read(SMOKE_CHARACTERS), encoding="utf-8")
        source = out / "input.txt"
    corpus = prepare(source, out / "corpus", Prepare(split="tail", validation=0.05, test=0.1), tell=tell)
    (text,) = [each["text"] for each in open_corpus(corpus.path).examples("test")]
    (out / "test.txt").write_bytes(text.encode("utf-8"))
    return corpus.path


def poems(out: Path, most: int, smoke: bool) -> Path:
    """Prepare the poems, each text once and 10 % of them for test; write some of those as a file, an empty line between two."""
    seen: dict[str, None] = {}
    with gzip.open(find("chinese_poetry") / "tang.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            if text := json.loads(line)["text"].strip():
                seen[text] = None
            if smoke and len(seen) == SMOKE_POEMS:
                break
    (out / "poems.jsonl").write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in seen), encoding="utf-8")
    shares = {"task": "language", "split": "hash", "validation": 0.05, "test": 0.1}
    corpus = prepare(out / "poems.jsonl", out / "corpus", Prepare(**shares), tell=tell)
    texts = [each["text"] for each in open_corpus(corpus.path).examples("test")]
    (out / "test.txt").write_bytes("\n\n".join(texts[:most]).encode("utf-8"))
    return corpus.path


def measure(name: str, model: Path, source: Path) -> tuple[list[Measured], dict[str, Any]]:
    """Pack and unpack one file by one model."""
    packed, again = model.with_suffix(".zxp"), model.with_suffix(".txt")
    start = time.process_time()
    found = pack_file(model, source, packed, tell=tell)
    packing = time.process_time() - start
    start = time.process_time()
    unpack_file(model, packed, again, tell=tell)
    unpacking = time.process_time() - start
    data = source.read_bytes()
    header, content = read_file(packed.read_bytes())
    opened = load(model)
    tokens = np.concatenate([[opened.tokenizer.end_id], to_tokens(opened.tokenizer, data, header.separator)])
    wanted = -float(score(opened.model, tokens).sum()) / math.log(2) / 8
    figures = [
        Measured(f"{name}: bytes packed", len(packed.read_bytes())),
        Measured(f"{name}: -sum log2 p, in bytes", wanted),
        Measured(f"{name}: file above it, %", 100 * (found["bytes_out"] / wanted - 1), "<= 0.5"),
        Measured(f"{name}: of these, its stream without the header, %", 100 * (len(content) / wanted - 1)),
        Measured(f"{name}: bits per byte", found["bits_per_byte"]),
        Measured(f"{name}: bytes, share of xz -9e", found["bytes_out"] / found["xz_9e"]),
        Measured(f"{name}: lanes", header.lanes),
        Measured(f"{name}: comes back byte for byte", str(again.read_bytes() == data), "True"),
        Measured(f"{name}: kB packed in a core-second", len(data) / packing / 1000),
        Measured(f"{name}: kB unpacked in a core-second", len(data) / unpacking / 1000),
    ]
    return figures, found | {"header_bytes": found["bytes_out"] - len(content), "separator": header.separator.decode(), "wanted": wanted}


def main() -> None:
    given = arguments(__doc__, core_seconds=200.0, poems=1000, seed=0)
    settings = {"model": "qwen3", "size": "small", "seed": given.seed, "core_seconds": given.core_seconds}
    if given.smoke:
        settings |= {"size": "tiny", "core_seconds": 5.0, "window": 64}
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for title in ("shakespeare", "tang"):
        out = given.out / title
        out.mkdir()
        corpus = shakespeare(out, given.smoke) if title == "shakespeare" else poems(out, 20 if given.smoke else given.poems, given.smoke)
        train(corpus, out / "ngram", {"model": "ngram"}, tell=tell)
        train(corpus, out / "qwen3", settings, tell=tell)
        mix_trained(corpus, out / "qwen3", out / "mixture", tell=tell)
        data = (out / "test.txt").read_bytes()
        beside = rivals(data)
        figures += [Measured(f"{title}: bytes of the file", len(data)), Measured(f"{title}: bytes by xz -9e", beside["xz_9e"])]
        figures.append(Measured(f"{title}: bytes by zstd -19", beside["zstd_19"]))
        for name in MODELS:
            found, details[f"{title}_{name}"] = measure(f"{title}, {name}", out / name, out / "test.txt")
            figures += found
    write(given.out, "Packing", figures, details, given.smoke)


if __name__ == "__main__":
    main()
