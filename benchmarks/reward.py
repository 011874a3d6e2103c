"""Reward: two-digit arithmetic, generated; a small decoder taught until it is right at times, then GRPO, and SFT given the same minutes.

    python benchmarks/reward.py OUT [--sft-steps 260] [--steps 900] [--seeds 3] [--smoke]

Prompts a+b= and a-b= with a, b below 100, a fifth of all pairs for the test, by hash; the reward is of the checker `arithmetic`, on the
test prompts, greedily answered, by `evaluate`. How soon a decoder begins to be right differs from seed to seed: the start is the first of
trainings of sft-steps, and of as many and an eighth, a quarter ... more, each from nothing, that is right in ENOUGH of the test prompts.
"The same minutes" are the core-seconds that GRPO's command took, given to a training on
the answers that begins with the same model. The probe for ways around the reward stands beside it: rewarded answers that are not the right
ones, their length and variety.
"""

from __future__ import annotations

import json
import random
import statistics
from pathlib import Path
from typing import Any

from results import Measured, arguments, tell, write

from zhixing import evaluate, prepare, train
from zhixing.preparation.prepare import Prepare

SIZE = {"model": "qwen3", "layers": 4, "width": 128, "heads": 4, "groups": 4, "window": 24, "checker": "arithmetic"}
SFT = {**SIZE, "batch": 128, "evaluations": 0, "saves": 1}
GRPO: dict[str, Any] = {"checker": "arithmetic", "rollouts": 8, "batch": 256, "kl": 0.01, "saves": 1}
TRIES, ENOUGH = 6, 0.25
SMOKE = {"layers": 1, "width": 32, "heads": 2, "groups": 2}


def rows(most: int) -> list[dict[str, str]]:
    """Make all sums and differences below a bound, in a drawn order."""
    found = [(f"{a}{sign}{b}=", a + b if sign == "+" else a - b) for a in range(most) for b in range(most) for sign in "+-"]
    random.Random(1).shuffle(found)
    return [{"prompt": prompt, "answer": str(value)} for prompt, value in found]


def main() -> None:
    given = arguments(__doc__, sft_steps=260, steps=900, seeds=3)
    out, smoke = given.out, given.smoke
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(12 if smoke else 100)), encoding="utf-8")
    corpus = prepare(out / "rows.jsonl", out / "corpus", Prepare(task="reason", split="hash", validation=0.0, test=0.2), tell=tell).path
    kept: dict[str, list[dict[str, float]]] = {"SFT": [], "GRPO": [], "SFT, the same minutes more": []}

    def judge(name: str, folder: Path) -> None:
        report = evaluate(folder, corpus, tell=tell)
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        found = {each.name: each.value for each in report.figures}
        kept[name].append({**found, "core_seconds": card["measured"]["core_seconds"], "seconds": card["measured"]["seconds"]})

    for seed in range(1 if smoke else given.seeds):
        form = SMOKE if smoke else {}
        for more in range(TRIES):
            start = out / f"sft{seed}-{more}"
            steps = 30 if smoke else given.sft_steps * (8 + more) // 8
            train(corpus, start, {**SFT, **form, "steps": steps, "seed": seed}, tell=tell)
            judge("SFT", start)
            if smoke or more + 1 == TRIES or kept["SFT"][-1]["reward"] >= ENOUGH:
                break
            kept["SFT"].pop()
        how = {**GRPO, "start": str(start), "steps": 3 if smoke else given.steps, "seed": seed}
        judge("GRPO", train(corpus, out / f"grpo{seed}", how, tell=tell).path)
        longer = {"checker": "arithmetic", "start": str(start), "batch": 128, "evaluations": 0, "saves": 1, "seed": seed + 100}
        longer["core_seconds"] = max(5.0, kept["GRPO"][-1]["core_seconds"])
        judge("SFT, the same minutes more", train(corpus, out / f"more{seed}", longer, tell=tell).path)
    figures = []
    for name, runs in kept.items():
        for what in ("reward", "exact", "rewarded_not_right", "characters", "variety", "seconds", "core_seconds"):
            values = [run[what] for run in runs]
            wanted = "0.2 to 0.5" if (name, what) == ("SFT", "reward") else "<= 900" if (name, what) == ("GRPO", "seconds") else ""
            figures.append(Measured(f"{name}: {what}, mean ({min(values):.3f} .. {max(values):.3f})", statistics.mean(values), wanted))
    gains = [two["reward"] - one["reward"] for one, two in zip(kept["SFT"], kept["GRPO"], strict=True)]
    figures.append(Measured(f"reward that GRPO adds ({min(gains):.3f} .. {max(gains):.3f})", statistics.mean(gains), ">= 0.3"))
    write(out, "Reward: two-digit arithmetic", figures, {"runs": kept, "settings": {"sft": SFT, "grpo": GRPO}}, smoke)


if __name__ == "__main__":
    main()
