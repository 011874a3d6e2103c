"""A byte-level BPE trained and a text encoded with it, in a process of its own: by zhixing or by the tokenizers library used directly.

    python benchmarks/pieces.py ours|library ROWS.txt SIZE

Prints seconds of both as JSON, without the imports and the reading of the rows. The library is given the same split and size; ours cuts
Chinese at words while it trains, which the library cannot. Ours encodes in groups as a training does, the library all rows at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

SETTLED = 5  # control tokens, which the library's own vocabulary has not


def ours(rows: list[str], size: int) -> tuple[Callable[[], object], Callable[[], int]]:
    """Give the two things to be timed: training, and encoding, which counts its tokens."""
    from zhixing.data.shards import GROUP_CHARACTERS
    from zhixing.tokens.tokenizer import train_bpe

    made = []
    groups, filled = [[]], 0
    for row in rows:
        if filled >= GROUP_CHARACTERS:
            groups.append([])
            filled = 0
        groups[-1].append(row)
        filled += len(row)
    return lambda: made.append(train_bpe(rows, size)), lambda: sum(len(ids) for group in groups for ids in made[0].encode_batch(group))


def library(rows: list[str], size: int) -> tuple[Callable[[], object], Callable[[], int]]:
    """As `ours`, by the library alone."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from zhixing.tokens.bpe import alphabet
    from zhixing.tokens.layout import SPLIT

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), level])
    trainer = trainers.BpeTrainer(vocab_size=size - SETTLED, initial_alphabet=alphabet(), show_progress=False)
    train = lambda: tokenizer.train_from_iterator(iter(rows), trainer)  # noqa: E731
    return train, lambda: sum(len(each.ids) for each in tokenizer.encode_batch_fast(rows, add_special_tokens=False))


def main() -> None:
    who, path, size = sys.argv[1:]
    rows = [row for row in Path(path).read_text(encoding="utf-8").split("\n") if row]
    train, encode = {"ours": ours, "library": library}[who](rows, int(size))
    start = time.perf_counter()
    train()
    middle = time.perf_counter()
    tokens = encode()
    print(json.dumps({"training": middle - start, "encoding": time.perf_counter() - middle, "tokens": tokens}))


if __name__ == "__main__":
    main()
