"""The speed of an encoder in every form that it is served in, beside ONNX Runtime's own eight-bit forms of the same weights.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 ZHIXING_DATA=... python benchmarks/encoders.py OUT
        [--rounds 7] [--rows 256] [--threads 1] [--smoke]

The classifier begins with all-MiniLM-L6-v2 and is trained on 10 rows of each intent of banking77. Documents a second are from texts to
labels, tokenizing included, one at a time and 32 at a time, as the test split has them; ours by `load(folder).predict`. The rivals are
eight-bit forms that `their_encoder.py` makes of the same weights as users of transformers do, once as exported and once with ONNX Runtime's
own optimizer, computed by its session from texts that the tokenizers library encodes and pads to the longest of their 32. All forms take
turns in every round. Accuracy is that of the first 1,000 rows of the test split.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peers
from results import Measured, arguments, find, tell, write
from transfer import drawn, pretrained, read

from zhixing import export_model, import_model, load, prepare, train
from zhixing.core.files import read_json
from zhixing.models import session
from zhixing.preparation.prepare import Prepare

FORMS = ("numpy", "onnx", "int8", "fastest")
BATCHES = (1, 32)
RIVALS = ("exported", "optimised")  # what `their_encoder.py` writes
Predict = Callable[[list[str]], list[str]]


def made(out: Path, rows: list[dict[str, str]], smoke: bool) -> Path:
    """Train the classifier and export it in every form; what is there is kept."""
    model = out / "model"
    if not (model / "manifest.json").exists():
        import_model(pretrained(), out / "minilm", tell=tell, force=True)
        (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        corpus = prepare(out / "rows.jsonl", out / "corpus", Prepare(task="classify", validation=0.0, test=0.0), tell=tell, force=True)
        train(corpus.path, model, {"start": str(out / "minilm"), **({"steps": 2} if smoke else {})}, tell=tell, force=True)
    for form in FORMS:
        if not (out / form / "manifest.json").exists():
            export_model(model, out / form, form, tell=tell, force=True)
    return model


def rivals(out: Path, model: Path, threads: int) -> dict[str, Predict]:
    """Give eight-bit forms that users of transformers make of the same weights, as they run them: by name."""
    if not (out / "optimised.onnx").exists():
        script = Path(__file__).with_name("their_encoder.py")
        peers.child([peers.python(), str(script), str(pretrained()), str(model / "model.safetensors"), str(out)], threads)
    labels = load(model).task.labels
    return {f"ONNX Runtime int8, {name}": theirs(out / f"{name}.onnx", labels, threads) for name in RIVALS}


def theirs(path: Path, labels: Sequence[str], threads: int) -> Predict:
    """Open one of them."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(pretrained() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()

    def predict(texts: list[str]) -> list[str]:
        found = tokenizer.encode_batch(texts)
        tokens, real = (np.array([getattr(each, name) for each in found], np.int64) for name in ("ids", "attention_mask"))
        return [labels[place] for place in session.run(None, {"input_ids": tokens, "attention_mask": real})[0].argmax(1)]

    return predict


def ours(folder: Path) -> Predict:
    """Give a form of ours as `predict` and `serve` run it."""
    opened = load(folder)
    return lambda texts: [answer.value for answer in opened.predict(texts)]


def main() -> None:
    given = arguments(__doc__, goes_on=True, rounds=7, rows=256, threads=1)
    peers.threads(given.threads)
    if session.threads() != given.threads:
        raise SystemExit(f"Threads are not held: set OMP_NUM_THREADS and OPENBLAS_NUM_THREADS to {given.threads} and run again.")
    out, smoke = given.out, given.smoke
    parts = [read(find("banking77") / f"{part}.jsonl.gz") for part in ("train", "test")]
    model = made(out, drawn(parts[0], 1 if smoke else 10, 0), smoke)
    forms = {"torch": ours(model), **{form: ours(out / form) for form in FORMS}, **rivals(out, model, given.threads)}
    texts = [row["text"] for row in parts[1]][: 32 if smoke else given.rows]
    paces: dict[str, dict[int, list[float]]] = {name: {batch: [] for batch in BATCHES} for name in forms}
    for _ in range(1 if smoke else given.rounds):
        for batch in BATCHES:
            for name, predict in forms.items():
                predict(texts[:batch])
                began = time.perf_counter()
                for start in range(0, len(texts), batch):
                    predict(texts[start : start + batch])
                paces[name][batch].append(len(texts) / (time.perf_counter() - began))
    judged = parts[1][: 64 if smoke else 1000]
    figures: list[Measured] = []
    answers: dict[str, Any] = {name: [] for name in forms}
    for name, predict in forms.items():
        for start in range(0, len(judged), 32):
            answers[name] += predict([row["text"] for row in judged[start : start + 32]])
        right = sum(answer == row["label"] for answer, row in zip(answers[name], judged, strict=True)) / len(judged)
        same = sum(one == two for one, two in zip(answers[name], answers["torch"], strict=True)) / len(judged)
        figures.append(Measured(f"{name}: accuracy of {len(judged)} rows (as torch answers: {same:.3f})", right))
    figures.append(Measured("the fastest form", read_json(out / "fastest" / "card.json")["exported"]["form"]))
    for batch in BATCHES:
        for name in forms:
            label = f"{name}: documents a second, {batch} at a time ({peers.spread(paces[name][batch])})"
            figures.append(Measured(label, statistics.median(paces[name][batch])))
        for rival in forms:
            for name in ("torch", *FORMS) if rival.startswith("ONNX") else ():
                label = f"{name}: documents a second beside {rival}, {batch} at a time"
                wanted = ">= 1.0" if name == "fastest" else ""
                figures.append(peers.compared(label, paces[name][batch], paces[rival][batch], wanted))
    write(out, "Encoders", figures, paces, smoke)


if __name__ == "__main__":
    main()
