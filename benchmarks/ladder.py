"""The ladder on real text of both languages: every era of language model, one tokenizer, one budget, one metric; what overtakes what, when.

    ZHIXING_DATA=... python benchmarks/ladder.py OUT [--core-seconds 120] [--smoke]

tiny_shakespeare, cut by its tail, and Tang poems without repeats, split by hash, characters as tokens. The plots are written beside the
table: bits per byte against core-seconds, and the strength of a prior against held-out bits per byte.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

from poems import clean
from results import Measured, arguments, find, tell, write

from zhixing import compare, prepare
from zhixing.preparation.prepare import Prepare
from zhixing.studies.ladder import read_table

SMOKE_CHARACTERS, SMOKE_POEMS, SMOKE_SECONDS = 60_000, 800, 2.0


def texts(out: Path, smoke: bool) -> dict[str, tuple[Path, Prepare]]:
    """Give the two texts and how each is prepared."""
    shakespeare = find("tiny_shakespeare") / "input.txt.gz"
    if smoke:
        with gzip.open(shakespeare, "rt", encoding="utf-8") as handle:
            (out / "input.txt").write_text(handle.read(SMOKE_CHARACTERS), encoding="utf-8")
        shakespeare = out / "input.txt"
    clean(find("chinese_poetry") / "tang.jsonl.gz", out / "poems.jsonl", SMOKE_POEMS if smoke else None)
    poems = Prepare(task="language", text="text", split="hash", validation=0.05, test=0.1)
    return {"tiny_shakespeare": (shakespeare, Prepare(split="tail", validation=0.05, test=0.1)), "tang": (out / "poems.jsonl", poems)}


def main() -> None:
    given = arguments(__doc__, core_seconds=120.0)
    seconds = SMOKE_SECONDS if given.smoke else given.core_seconds
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for name, (source, how) in texts(given.out, given.smoke).items():
        prepare(source, given.out / f"{name}-corpus", how, tell=tell)
        settings = {"size": "tiny"} if given.smoke else {}
        folder = compare(given.out / f"{name}-corpus", given.out / name, seconds, settings=settings, tell=tell)
        table = details[name] = read_table(folder.path)
        for rung in sorted(table["rungs"], key=lambda each: each["bits_per_byte"]):
            spread = f"{rung['low']:.4f} .. {rung['high']:.4f}, {rung['core_seconds']:.0f} core-seconds, {rung['parameters']:,} numbers"
            figures.append(Measured(f"{name}: {rung['name']}, test bits per byte ({spread})", rung["bits_per_byte"]))
        for each in table["overtakes"]:
            figures.append(Measured(f"{name}: core-seconds after which {each['winner']} is below {each['loser']}", each["x"]))
        shutil.copyfile(folder.path / "plot.svg", given.out / f"{name}.svg")
    write(given.out, "The ladder", figures, details, given.smoke)


if __name__ == "__main__":
    main()
