"""What has to be done with nanochat's own modules and in its own Python: write its shards, and score held-out text with its checkpoint.

    PEER_PYTHON benchmarks/theirs.py shards CLONE BASE TRAIN.jsonl TEST.jsonl CHARACTERS
    PEER_PYTHON benchmarks/theirs.py score CLONE BASE TEST.jsonl

Run by nanochat.py; imports nothing of ours. `score` reads the text as our own scoring does: a window slides by half its length and only the
second half of each after the first counts, so that every byte counts once and has at least half a window before it. As in nanochat's
training every window begins with the opening token and so does every document, and as in its own measure those tokens cost nothing.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

ROWS = 8  # windows read at once
ROW_GROUP = 100  # documents of one group of a shard


def documents(path: str) -> list[str]:
    """Read the texts of a file of rows."""
    with open(path, encoding="utf-8") as handle:
        return [json.loads(line)["text"] for line in handle]


def pieces(text: str, characters: int) -> list[str]:
    """Cut a text at its lines into pieces of about equal length, none much longer than so many characters."""
    lines = text.splitlines(keepends=True)
    most = len(text) / max(1, math.ceil(len(text) / characters))
    found = [""]
    for line in lines:
        if found[-1] and len(found[-1]) + len(line) / 2 > most:
            found.append("")
        found[-1] += line
    return found


def shards(base: Path, train: str, test: str, characters: int) -> dict[str, Any]:
    """Write the training text as one shard and the held-out one as the last, which nanochat takes for its validation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = base / "base_data_climbmix"
    folder.mkdir(parents=True)
    cut = [[piece for text in documents(path) for piece in pieces(text, characters)] for path in (train, test)]
    for number, texts in enumerate(cut):
        pq.write_table(pa.table({"text": texts}), folder / f"shard_{number:05d}.parquet", row_group_size=ROW_GROUP)
    return {"pieces": len(cut[0]), "characters": sum(map(len, cut[0]))}


def score(test: str) -> dict[str, Any]:
    """Score a held-out text with the newest checkpoint."""
    import torch
    from nanochat.checkpoint_manager import load_model
    from nanochat.tokenizer import get_token_bytes

    model, tokenizer, meta = load_model("base", torch.device("cpu"), "eval")
    sizes, begin = get_token_bytes(), tokenizer.get_bos_token_id()
    texts = documents(test)
    tokens = [token for text in texts for token in (begin, *tokenizer.encode(text))]
    window = meta["model_config"]["sequence_len"] - 1  # after the opening token
    stride = window // 2
    rows = []  # the tokens a window reads, and how many of its last ones count
    end = 0
    while end < len(tokens):
        until = min(len(tokens), max(window, end + stride))
        first = max(0, until - window)
        rows.append((tokens[first:until], until - end))
        end = until
    nats, size_bytes, counted = 0.0, 0, 0
    with torch.no_grad():
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            longest = max(len(each) for each, _ in part)
            x, y = (torch.full((len(part), longest), fill) for fill in (begin, -1))
            for row, (each, new) in enumerate(part):
                x[row, 1 : len(each)] = torch.tensor(each[:-1])
                y[row, len(each) - new : len(each)] = torch.tensor(each[len(each) - new :])
            losses = model(x, y, loss_reduction="none").view(len(part), longest)
            held = torch.where(y >= 0, sizes[y.clamp(min=0)], 0)
            nats += float(losses.double()[held > 0].sum())
            size_bytes += int(held.sum())
            counted += int((y >= 0).sum())
    wanted = sum(len(text.encode("utf-8")) for text in texts)
    assert (size_bytes, counted) == (wanted, len(tokens)), (size_bytes, wanted, counted, len(tokens))
    parameters = sum(each.numel() for each in model.parameters())
    found = {"bits_per_byte": nats / math.log(2) / size_bytes, "bytes": size_bytes, "tokens": len(tokens) - len(texts)}
    return {**found, "parameters": parameters, "steps": meta["step"], "model": meta["model_config"]}


def main() -> None:
    verb, clone, base, *rest = sys.argv[1:]
    sys.path[0] = clone  # in the place of this folder, in which a file is called nanochat too
    os.environ["NANOCHAT_BASE_DIR"] = base
    found = shards(Path(base), rest[0], rest[1], int(rest[2])) if verb == "shards" else score(rest[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
