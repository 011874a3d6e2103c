"""Chinese for a model of English: continued pre-training with and without pieces of its own for Chinese, and what is kept of English.

    ZHIXING_DATA=... python benchmarks/extend.py OUT --model MODEL
        [--pieces 300 --steps 20 --batch 2 --rate 5e-4 --threads 1] [--smoke]

MODEL is a Model folder of an imported decoder with a byte-level BPE, such as SmolLM2-135M-Instruct. The text is the head of lctt_zh's
training split, and two thirds of us_speeches beside it, so that English is kept. Both trainings take the same steps of the same number of
tokens, in windows of 512; one reads its text by the model's own tokenizer, the other by the extended one, so that it reads more text in
them. Held out are the head of each document of lctt_zh's dev and of each third speech. Bits per byte are read in windows of 512 tokens,
half a window at a time, in the precision of the training; intervals are of documents drawn anew, those of differences in pairs. Runs are
kept: started again in the same folder, what is there is not done again.
"""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
from results import Measured, arguments, find, show, tell, write

from zhixing import load, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.data.corpus import open_corpus
from zhixing.evaluation.evaluate import SEED, score_text
from zhixing.metrics import intervals
from zhixing.preparation.prepare import Prepare

WINDOW = 512
HEAD_BYTES = 600  # of a held-out document
CHINESE_BYTES, ENGLISH_BYTES = 4_000_000, 800_000  # of the training text
LANGUAGES = {"zh": "Chinese (lctt_zh)", "en": "English (us_speeches)"}
KEPT = 0.05
LABELS = {"before": "before", "plain": "continued", "more": "extended and continued"}


@dataclass(frozen=True)
class Windowed:
    """Reads a text in windows shorter than the model's own, in a precision."""

    precision: str
    window: int = WINDOW

    def __call__(self, model: Any, tokens: np.ndarray, end: int, tell: Any) -> np.ndarray:
        import torch

        from zhixing.layers.scoring import score

        with torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return score(model, tokens, self.window)


def chinese(name: str) -> list[str]:
    """Give the documents of a file of lctt_zh."""
    with gzip.open(find("lctt_zh") / name, "rt", encoding="utf-8") as file:
        return file.read().split("\n\n")


def speeches() -> list[str]:
    """Give all speeches, one after the other."""
    found = []
    for name in ("inaugural", "state_union"):
        with gzip.open(find("us_speeches") / f"{name}.jsonl.gz", "rt", encoding="utf-8") as rows:
            found += [json.loads(row)["text"] for row in rows]
    return found


def head(text: str, size_bytes: int) -> str:
    """Give the beginning of a text, by whole characters."""
    return text.encode()[:size_bytes].decode("utf-8", "ignore")


def some(texts: list[str], size_bytes: int) -> list[str]:
    """Give the first texts of so many bytes together."""
    sizes = np.cumsum([len(each.encode()) for each in texts])
    return texts[: int(np.searchsorted(sizes, size_bytes)) + 1]


def corpora(out: Path, smoke: bool) -> dict[str, Path]:
    """Make the corpus to be learnt, and one of each language with its held-out documents."""
    spoken, share = speeches(), 100 if smoke else 1
    held = {"zh": chinese("dev.txt.gz"), "en": spoken[::3]}
    learnt = some(chinese("train.txt.gz"), CHINESE_BYTES // share)
    learnt += some([each for number, each in enumerate(spoken) if number % 3], ENGLISH_BYTES // share)
    files = {"learnt": learnt, **{name: [head(each, HEAD_BYTES // (8 if smoke else 1)) for each in texts] for name, texts in held.items()}}
    for name, texts in files.items():
        lines = "".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in texts)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    found = {name: out / f"corpus-{name}" for name in files}
    for name, place in found.items():
        if not (place / "manifest.json").exists():
            official = {} if name == "learnt" else {"test_source": str(out / f"{name}.jsonl"), "repeats": "keep"}
            told = Prepare(task="language", validation=0.0, test=0.0, **official)
            prepare(out / ("learnt.jsonl" if name == "learnt" else "en.jsonl"), place, told, tell=tell)
    return found


def judged(model: Path, corpus: Path, kept: Path, precision: str) -> dict[str, Any]:
    """Give the bits and bytes of each held-out document, and how many tokens they are."""
    if not kept.exists():
        opened = load(model)
        found = score_text(opened.model, opened.tokenizer, open_corpus(corpus), "test", tell, Windowed(precision))
        write_json(kept, {"bits": found.bits.tolist(), "sizes": found.sizes.tolist(), "tokens": len(found.logs)})
    return read_json(kept)


def figures(scores: dict[str, dict[str, dict[str, Any]]]) -> list[Measured]:
    """Set what was scored: each model's bits per byte and bytes a token in each language, and what the trainings changed."""
    rows = []
    for language, name in LANGUAGES.items():
        of = {model: scores[model][language] for model in scores}
        sizes = np.array(of["before"]["sizes"])
        for model, label in LABELS.items():
            spread = intervals.interval_of_ratio(np.array(of[model]["bits"]), sizes, SEED)
            text = f"{name}: bits per byte, {label} (95 %: {show(spread.low)} .. {show(spread.high)})"
            rows.append(Measured(text, spread.value))
        for first, second, wanted in (
            ("plain", "before", "" if language == "zh" else f"<= {KEPT}"),
            ("more", "before", "" if language == "zh" else f"<= {KEPT}"),
            ("more", "plain", "< 0" if language == "zh" else ""),
        ):
            gap = intervals.paired(np.array(of[first]["bits"]), np.array(of[second]["bits"]), SEED, sizes)
            text = f"{name}: bits per byte, {LABELS[first]}, less those {LABELS[second]} (95 %: {show(gap.low)} .. {show(gap.high)})"
            rows.append(Measured(text, gap.value, wanted))
        for model in ("before", "more"):
            rows.append(Measured(f"{name}: bytes a token, {LABELS[model]}", float(sizes.sum()) / of[model]["tokens"]))
    return rows


def main() -> None:
    given = arguments(__doc__, goes_on=True, model="", pieces=300, steps=20, batch=2, rate=5e-4, threads=1)
    peers.threads(given.threads)
    places = corpora(given.out, given.smoke)
    steps, pieces = (2, 50) if given.smoke else (given.steps, given.pieces)
    precision = peers.precisions()[-1]
    told = {"start": given.model, "steps": steps, "window": WINDOW, "batch": given.batch, "learning_rate": given.rate, "saves": 0}
    told |= {"precision": precision, "dropout": 0.0, "threads": given.threads}
    rows, details, scores = [], {}, {}
    for name, own in (("before", None), ("more", {"extend_vocabulary": pieces}), ("plain", {})):
        place = Path(given.model) if own is None else given.out / name
        if own is not None:
            if not (place / "manifest.json").exists():
                train(places["learnt"], place, {**told, **own}, tell=tell)
                shutil.rmtree(place / "checkpoints")
            card = read_json(place / "card.json")
            details[name] = {"measured": card["measured"], "extended": card.get("extended")}
            seconds, tokens = card["measured"]["core_seconds"], steps * given.batch * WINDOW
            rows.append(Measured(f"{LABELS[name]}: core-seconds of training, {steps} steps of {given.batch * WINDOW} tokens", seconds))
            rows.append(Measured(f"{LABELS[name]}: tokens a core-second", tokens / seconds))
        scores[name] = {of: judged(place, places[of], given.out / f"{name}-{of}.json", precision) for of in LANGUAGES}
    write(given.out, "Vocabulary extension", figures(scores) + rows, {"scores": scores, **details}, given.smoke)


if __name__ == "__main__":
    main()
