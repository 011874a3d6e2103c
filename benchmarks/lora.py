"""LoRA on a pretrained decoder: memory and gain beside training all its weights, and the time of a step beside peft.

    ZHIXING_DATA=... ZHIXING_PEER_PYTHON=... python benchmarks/lora.py OUT --model MODEL
        [--rank 16 --seeds 3 --steps 60 --rounds 3 --threads 1] [--smoke]

MODEL is a Model folder of an imported decoder, such as SmolLM2-135M-Instruct; peft reads the same folder. The text is instruct_demo's
English rows, an instruction and its answer each, a twentieth of them held out; the gain is what a training takes off the bits per byte of
those. Batches are 8 rows of 256 tokens, without dropout. Times are of a few steps, one run after the other in turns; memory is the most
that a process holds above its imports while it makes steps. Runs are kept: started again in the same folder, what is there is not done
again.
"""

from __future__ import annotations

import gzip
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import peers
from results import ROOT, Measured, arguments, find, tell, write

from zhixing import evaluate, prepare
from zhixing.core.files import read_json, write_json
from zhixing.preparation.prepare import Prepare

SHAPE = {"batch": 8, "window": 256}
TIMED = 5  # steps of a timed run
MIB = 2**20
GAIN, MEMORY, SAME, BEST = 0.9, 0.5, 1.0, 0.6


def texts(out: Path, most: int | None) -> Path:
    """Write the rows as texts."""
    with gzip.open(find("instruct_demo") / "en.jsonl.gz", "rt", encoding="utf-8") as rows, open(out, "w", encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, rows)):
            if number == most:
                break
            asked = "\n".join(filter(None, (row["instruction"], row.get("input", ""))))
            lines.write(json.dumps({"text": f"{asked}\n\n{row['output']}\n"}, ensure_ascii=False) + "\n")
    return out


def one(asked: dict[str, Any], out: Path, threads: int) -> dict[str, Any]:
    """Run adapt.py, once: what it gave is kept."""
    kept = out.with_suffix(".json")
    if not kept.exists():
        program = sys.executable if asked["program"] == "ours" else peers.python()
        said = peers.child([program, str(ROOT / "benchmarks" / "adapt.py"), json.dumps({**asked, "out": str(out)})], threads)
        write_json(kept, json.loads(said.strip().splitlines()[-1]))
    return read_json(kept)


def judged(model: Path | str, corpus: Path, kept: Path) -> float:
    """Give bits per byte of the held-out rows."""
    if not kept.exists():
        write_json(kept, {"bits": evaluate(model, corpus, rivals=False, save=False).figures[0].value})
    return read_json(kept)["bits"]


def gains(given: Any, corpus: Path, precision: str) -> tuple[list[Measured], dict[str, Any]]:
    """Train all weights, and an adapter, of every seed; give what each took off the bits, and what each held."""
    out, steps, seeds = given.out, (2 if given.smoke else given.steps), (1 if given.smoke else given.seeds)
    before = judged(given.model, corpus, out / "before.json")
    found: dict[str, list[float]] = {"all": [], "lora": []}
    held: dict[str, list[float]] = {"all": [], "lora": []}
    for seed in range(seeds):
        for name, rank in (("all", 0), ("lora", given.rank)):
            place = out / f"{name}-{seed}"
            asked = {**SHAPE, "program": "ours", "model": given.model, "corpus": str(corpus), "rank": rank, "steps": steps}
            run = one({**asked, "precision": precision, "seed": seed}, place, given.threads)
            found[name].append(before - judged(place, corpus, out / f"{name}-{seed}.bits.json"))
            held[name].append(run["peak"])
    asked = {**SHAPE, "program": "ours", "model": given.model, "corpus": str(corpus), "rank": given.rank, "steps": steps, "seed": 0}
    asked |= {"precision": precision, "settings": {"lora_base": "int8"}}
    squeezed = one(asked, out / "int8-0", given.threads)
    fewer = before - judged(out / "int8-0", corpus, out / "int8-0.bits.json")
    share = [one / two for one, two in zip(found["lora"], found["all"], strict=True)]
    memory = [one / two for one, two in zip(held["lora"], held["all"], strict=True)]
    whole = sum(found["lora"]) / sum(found["all"])
    rows = [Measured("bits per byte of held-out rows before", before)]
    rows += [
        Measured(f"{label}: bits taken off, mean of {seeds} seeds ({peers.spread(found[name])})", statistics.fmean(found[name]))
        for name, label in (("all", "all weights"), ("lora", f"LoRA of rank {given.rank}"))
    ]
    rows.append(Measured(f"LoRA's gain over that of all weights, {seeds} seeds ({peers.spread(share)})", whole, f">= {GAIN}"))
    for name, label in (("all", "all weights"), ("lora", "LoRA")):
        rows.append(Measured(f"{precision}: peak MiB above imports, {label}", statistics.median(held[name]) / MIB))
    rows.append(Measured(f"{precision}: LoRA's peak over that of all weights", statistics.median(memory), f"<= {MEMORY}"))
    rows.append(Measured("over int8: LoRA's gain over that of all weights, seed 0", fewer / found["all"][0], f">= {GAIN}"))
    rows.append(Measured("over int8: LoRA's peak over that of all weights", squeezed["peak"] / held["all"][0], f"<= {MEMORY}"))
    return rows, {"before": before, "gains": {**found, "int8": [fewer]}, "peaks": {**held, "int8": [squeezed["peak"]]}}


def times(given: Any, corpus: Path) -> tuple[list[Measured], dict[str, Any]]:
    """Time steps of ours and peft's in turns, in every precision."""
    absent = peers.missing("torch", "transformers", "peft")
    if absent:
        return [Measured("seconds a step beside peft", None, absent)], {}
    kinds = peers.precisions()
    taken: dict[str, list[float]] = {}
    for number in range(1 if given.smoke else given.rounds):
        for precision in kinds:
            for program in ("ours", "peft"):
                asked = {**SHAPE, "program": program, "model": given.model, "corpus": str(corpus), "rank": given.rank, "steps": TIMED}
                tell("benchmark.round", round=number + 1, program=program, precision=precision)
                run = one({**asked, "precision": precision}, given.out / f"time-{program}-{precision}-{number}", given.threads)
                taken.setdefault(f"{program} {precision}", []).append(statistics.median(run["seconds"]))
                taken.setdefault(f"{program} {precision} peak", []).append(run["peak"])
    rows = []
    for precision in kinds:
        mine, other = taken[f"ours {precision}"], taken[f"peft {precision}"]
        rows.append(Measured(f"{precision}: seconds a step, ours ({peers.spread(mine)})", statistics.median(mine)))
        rows.append(peers.compared(f"{precision}: seconds a step beside peft's", mine, other, f"<= {SAME}"))
        peaks = taken[f"ours {precision} peak"], taken[f"peft {precision} peak"]
        rows.append(peers.compared(f"{precision}: peak memory beside peft's", *peaks))
    best = f"ours {kinds[-1]}"
    rows.append(
        peers.compared(f"our best ({kinds[-1]}) beside peft in fp32: seconds a step", taken[best], taken["peft fp32"], f"<= {BEST}")
    )
    return rows, taken


def main() -> None:
    given = arguments(__doc__, goes_on=True, model="", rank=16, seeds=3, steps=60, rounds=3, threads=1)
    peers.threads(given.threads)
    source = texts(given.out / "rows.jsonl", 60 if given.smoke else None)
    corpus = given.out / "corpus"
    if not (corpus / "manifest.json").exists():
        prepare(source, corpus, Prepare(task="language", validation=0.0, test=0.05), tell=tell)
    precision = peers.precisions()[-1]
    rows, details = gains(given, corpus, precision)
    write(given.out, "LoRA", rows, details, given.smoke)
    more, taken = times(given, corpus)
    write(given.out, "LoRA", rows + more, {**details, "seconds": taken}, given.smoke)


if __name__ == "__main__":
    main()
