"""Golden answers: what a model said to a fixed public set of texts when it was made, asked again wherever its folder is opened.

A manifest proves that a folder's bytes are as they were written; these answers prove that what is computed from them is too: by another
version, another library, another machine, another form of the weights. A loader whose model answers differently refuses it. The texts are
ours, so that no one's own text travels with a model.

Of a model that writes, each text has log p of a few next tokens (the most probable, and some spread over the vocabulary) and the greedy
continuation, which must be equal up to the first token that was chosen by less than the tolerance; of any other, each answer with its
scores. Leaves out: exported forms, which replay the same file by loaders of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.core.files import read_json, write_json
from zhixing.data.batch import pad
from zhixing.data.schema import Items, Part

GOLDEN = "golden.json"
FORMAT = 1
# By the form of the weights: how far numbers may lie apart, relative to the largest of their text. Where what is read is rounded to eight
# bits as well, the order of a sum may move a number by a step, and each layer moves more: .053 between two orders of a norm's sums.
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "int8": 1e-1}
PROBES = (
    "The river was quiet, and nobody on the bridge spoke.",
    "She counted the coins twice: 3 of silver, 12 of copper, and one that was neither.",
    "Is this what I ordered? It arrived late, but the colour is lovely and it works well.",
    "春天的雨下了一夜，早晨的街道很干净。",
    "他问：“这封信是谁写的？”没有人回答。",
    "质量很好，送货也快，下次还会再来。",
    "我用 Python 写了 42 行代码, and then went home.",
    "\tfor x in (1, 2):\n\t\tprint(x)\n",
    "<|end|><|user|>This is only text.<0x41>",
    "🙂 é ß ﬁ 𠮷 \u200d\u00a0.",
    "a" * 40,
    "",
)
HEARD = 2  # probes that are given as sounds to a model that writes: each takes it as long as the longest sound that it hears
READ = 48  # tokens of a text that are read, its last; with WRITTEN more they fit into a small model's window
WRITTEN = 8  # tokens of the greedy continuation
TOP, SPREAD = 8, 8  # log-probabilities kept of each text: of the most probable tokens, and of tokens spread over the vocabulary
SCORES = 8  # scores kept of an answer, the highest


def form_of(model: Any) -> str:
    """Name the numeric form of a model's weights, a key of TOLERANCES; a counted model's numbers leave it as float32."""
    if hasattr(model, "form"):
        return model.form
    if isinstance(parts := getattr(model, "parts", None), Mapping):
        return max((form_of(each) for each in parts.values()), key=TOLERANCES.__getitem__)
    dtypes = {str(p.dtype) for p in model.parameters()} if hasattr(model, "parameters") else set()
    return "bf16" if "torch.bfloat16" in dtypes else "fp32"


def ask(task: Any, model: Any, tokenizer: Any, kept: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """Ask a model for its answers to texts, as JSON-able values.

    kept  earlier answers: their texts are asked, and log p of their tokens is given; none: the probes, and the tokens that matter most now
    """
    hears = "audio" in getattr(model, "senses", ()) and hasattr(model, "open")
    texts = [each["text"] for each in kept] or [text for text in PROBES[: HEARD if hears else None] if _writable(tokenizer, text)]
    if task.reads == "text" and any(hasattr(model, name) for name in ("cache", "open", "log_probabilities")):
        sounds = [task.encode(_probe(task, text), tokenizer)["frames"] for text in texts] if hears else None
        found = list(_write_on(model, tokenizer, texts, [each["ids"] for each in kept], sounds))
    else:
        items = [task.encode(_probe(task, text), tokenizer) for text in texts]
        found = []
        for number, answer in enumerate(task.answers(model, items, tokenizer)):
            scores = answer.scores or ({} if answer.confidence is None else {"confidence": answer.confidence})
            best = kept[number]["scores"] if kept else sorted(scores, key=lambda name: (-scores[name], name))[:SCORES]
            found.append({"value": _plain(answer.value), "scores": {name: _short(scores[name]) for name in best if name in scores}})
    return [{"text": text, **each} for text, each in zip(texts, found, strict=True)]


def _writable(tokenizer: Any, text: str) -> bool:
    """Say whether a tokenizer can write a text: one that was imported may lack the tokens of some bytes."""
    try:
        return tokenizer is None or len(tokenizer.encode(text)) >= 0
    except DataError:
        return False


def _probe(task: Any, text: str) -> dict[str, Any]:
    """Give the example that stands for a text; histories are of items that the task knows, for others say nothing, and so with tasks.

    A task that has some senses only is asked by these.
    """
    known = {Items: "labels", Part: "parts"}
    fields = [(n, kind) for n, kind in task.schema.asked.fields.items() if n in getattr(task, "senses", (n,))]
    return {n: kind.probe(text, tuple(getattr(task, known[type(kind)]))) if type(kind) in known else kind.probe(text) for n, kind in fields}


def _plain(value: Any) -> Any:
    """Give an answer as JSON keeps it."""
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _short(value: float) -> float:
    """Round to what a float32 holds."""
    return float(f"{float(value):.8g}")


def _write_on(
    model: Any, tokenizer: Any, texts: Sequence[str], wanted: Sequence[list[int]], sounds: Sequence[np.ndarray] | None
) -> Iterator[dict[str, Any]]:
    """Read texts side by side, and write on from each greedily; of an encoder-decoder they are sources, and what is written is new.

    sounds  (F, C) float each: what a model that hears is given for the texts; None: it reads
    """
    import torch

    from zhixing.layers.kinds import Inputs, next_log_probabilities

    device = next(model.parameters()).device if hasattr(model, "parameters") else torch.device("cpu")
    window = getattr(model, "window", None)
    longest = READ if window is None else max(1, min(READ, window - WRITTEN))
    opening = tokenizer.opening or (tokenizer.end_id,)
    rows = [[*opening, *(int(each) for each in tokenizer.encode(text))][-longest:] for text in texts]
    written = WRITTEN if window is None else min(WRITTEN, window - longest)

    def side_by_side(rows: list[list[int]]) -> Inputs:
        batch = pad([{"tokens": row} for row in rows], tokenizer.pad_id)
        return Inputs(*(torch.from_numpy(batch[name]).to(device) for name in ("tokens", "lengths")))

    read = side_by_side(rows)
    if hasattr(model, "open"):
        if sounds is not None:
            longest = max(map(len, sounds))  # a shorter one goes on in silence, which is the least of its values
            filled = [np.pad(each, ((0, longest - len(each)), (0, 0)), constant_values=each.min()) for each in sounds]
            read = Inputs(None, frames=torch.from_numpy(np.stack(filled)).to(device))
        with torch.no_grad():
            cache = model.open(read)
        read = side_by_side([list(opening) if sounds is not None else [tokenizer.end_id]] * len(rows))
    else:
        cache = model.cache(len(rows))
    logs = next_log_probabilities(model, read, cache).cpu()  # (B, V)
    V = logs.shape[1]
    spread = np.unique(np.linspace(0, V - 1, SPREAD).astype(int)).tolist()
    found: list[dict[str, Any]] = []
    for number, row in enumerate(logs):
        ids = wanted[number] if wanted else sorted({*row.topk(min(TOP, V)).indices.tolist(), *spread})
        found.append({"ids": ids, "logs": [_short(row[each]) for each in ids], "greedy": [], "margins": []})
    barred = [each for each in tokenizer.barred if each < V]
    for step in range(written):
        allowed = logs.index_fill(1, torch.tensor(barred, dtype=torch.long), -torch.inf)
        best = allowed.topk(2, dim=1)  # two (B, 2)
        for each, values, ids in zip(found, best.values.tolist(), best.indices.tolist(), strict=True):
            if tokenizer.ends.isdisjoint(each["greedy"]):
                each["greedy"].append(ids[0])
                each["margins"].append(_short(values[0] - values[1]))
        if step + 1 < written:
            logs = next_log_probabilities(model, Inputs(best.indices[:, :1].to(device)), cache).cpu()
    yield from found


def write(folder: Path, task: Any, model: Any, tokenizer: Any) -> None:
    """Write what the model says now into its folder, which is not sealed yet."""
    form = form_of(model)
    write_json(folder / GOLDEN, {"format": FORMAT, "form": form, "tolerance": TOLERANCES[form], "answers": ask(task, model, tokenizer)})


def check(folder: Path, task: Any, model: Any, tokenizer: Any, allowed: float | None = None) -> None:
    """Ask again and compare.

    allowed  how far numbers may lie apart, of another form of the weights; None: as the folder says, or as its form may by now

    Raises DataError when the folder's file is no golden.json of a known format, or when the model answers a text differently.
    """
    path = folder / GOLDEN
    kept = read_json(path)
    try:
        if kept["format"] > FORMAT:
            raise DataError("folder.newer", path=str(path), format=kept["format"], known=FORMAT)
        tolerance = float(kept["tolerance"])
        if not kept["answers"] or not 0 < tolerance <= max(TOLERANCES.values()):
            raise KeyError("answers")
        tolerance = allowed or max(tolerance, TOLERANCES[form_of(model)])
        for before, now in zip(kept["answers"], ask(task, model, tokenizer, kept["answers"]), strict=True):
            if difference := differ(before, now, tolerance):
                raise DataError("golden.differs", path=str(folder), text=before["text"][:40], difference=difference, tolerance=tolerance)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as problem:
        raise DataError("golden.file", path=str(path), problem=f"{type(problem).__name__}: {problem}"[:100]) from None


def differ(before: dict[str, Any], now: dict[str, Any], tolerance: float) -> str | None:
    """Say how two answers to one text differ by more than the tolerance; None: they agree."""
    if "logs" not in before:
        return _differ_in_scores(before, now, tolerance)
    old, new = np.array(before["logs"], np.float64), np.array(now["logs"], np.float64)
    scale = float(np.abs(old).max())
    gap = float(np.abs(old - new).max())
    if not gap <= tolerance * scale:
        return f"log p: {gap / scale:.2e}"
    return _differ_in_text(before, now, 2 * tolerance * scale)


def _differ_in_text(before: dict[str, Any], now: dict[str, Any], margin: float) -> str | None:
    """Compare greedy continuations up to the first token that was chosen by a margin too small to be certain."""
    for place, (old, sure) in enumerate(zip(before["greedy"], before["margins"], strict=True)):
        if sure <= margin:
            return None
        if place >= len(now["greedy"]) or now["greedy"][place] != old:
            return f"greedy token {place + 1}: {old}"
    return None


def _differ_in_scores(before: dict[str, Any], now: dict[str, Any], tolerance: float) -> str | None:
    if missing := sorted(set(before["scores"]) - set(now["scores"])):
        return f"scores: {missing[0]}"
    names = sorted(before["scores"])
    values = sorted(before["scores"].values(), reverse=True)
    scale = max([abs(value) for value in values], default=1.0) or 1.0
    gap = max((abs(before["scores"][name] - now["scores"][name]) for name in names), default=0.0)
    if not gap <= tolerance * scale:
        return f"scores: {gap / scale:.2e}"
    sure = len(values) < 2 or values[0] - values[1] > 2 * tolerance * scale
    return f"answer: {before['value']}" if sure and not _agree(before["value"], now["value"], tolerance) else None


def _agree(before: Any, now: Any, tolerance: float) -> bool:
    """Say whether two answers are the same, numbers and lists of numbers up to the tolerance."""
    if isinstance(before, float) and isinstance(now, float):
        return abs(before - now) <= tolerance * max(1.0, abs(before))
    lists = isinstance(before, list) and isinstance(now, list) and len(before) == len(now)
    if lists and all(isinstance(each, float) for each in (*before, *now)):
        return bool(np.allclose(before, now, rtol=0, atol=tolerance))
    return before == now
