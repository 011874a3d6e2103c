"""The best losses on tiny_shakespeare at any time: one static model, several with counts, and all learning from the text as they read it.

    ZHIXING_DATA=... python benchmarks/losses.py OUT [--members 3] [--seeds 1] [--smoke]

Characters, the last tenth as test, the first hundredth for validation, which chooses nothing but the weights of the mixture and each run's
best step. The members differ in width, dropout, length and seed; --members takes the first of them, --seeds trains each so often. On two
cores the whole takes an hour or more: begun again in the same folder it goes on, and says how many models it found there. Static figures
are of `evaluate`; adaptive ones of `evaluate --dynamic`, in which the counted rival learns as well.
"""

from __future__ import annotations

import gzip
from typing import Any

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, prepare, train
from zhixing.core.files import read_json, write_json, write_text
from zhixing.preparation.prepare import Prepare
from zhixing.training.dynamic import Dynamic
from zhixing.training.train import mix_trained

COMMON = {"model": "qwen3", "size": "small", "batch": 8, "window": 256, "patience": 0, "evaluations": 6, "saves": 6, "matrix_rate": 0.02}
COMMON |= {"learning_rate": 0.006, "momentum": 0.9, "weight_decay": 0.1, "decay": 0.9}
MEMBERS: dict[str, dict[str, Any]] = {  # 1,400 steps are 2.9 passes
    "brief": {**COMMON, "width": 192, "heads": 6, "groups": 6, "dropout": 0.05, "steps": 1400, "seed": 2},
    "longer": {**COMMON, "width": 192, "heads": 6, "groups": 6, "dropout": 0.1, "steps": 1800, "seed": 3},
    "wide": {**COMMON, "width": 256, "heads": 8, "groups": 8, "dropout": 0.15, "steps": 1800, "seed": 4},
}
SMOKE = {"steps": 3, "size": "tiny", "layers": 1, "width": 32, "heads": 2, "groups": 2, "window": 128}
SMOKE_CHARACTERS = 20_000


def main() -> None:
    given = arguments(__doc__, goes_on=True, members=len(MEMBERS), seeds=1)
    out, smoke = given.out, given.smoke
    with gzip.open(find("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read(SMOKE_CHARACTERS if smoke else -1)
    corpus = out / "corpus"
    if not corpus.exists():
        write_text(out / "input.txt", text)
        prepare(out / "input.txt", corpus, Prepare(split="tail", validation=0.01, test=0.1), tell=tell)
    kept = out / "reports.json"
    details: dict[str, Any] = read_json(kept) if kept.exists() else {}
    figures, made, found = [], [], []

    def make(name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Train a model, or take the whole one that an earlier run of the same command left; gives its card."""
        card = out / name / "card.json"
        if not card.exists():
            return train(corpus, out / name, settings, tell=tell).card
        found.append(name)
        return read_json(card)

    def judge(name: str, what: str, wanted: str, reader: Dynamic | None = None) -> None:
        """Score a model, and write down what was found, with all that was found before: the whole takes long."""
        if what not in details:
            details[what] = evaluate(out / name, corpus, rivals=reader is not None, samples=0, tell=tell, reader=reader).to_dict()
            write_json(kept, details)
        loss = next(each for each in details[what]["figures"] if each["name"] == "nats_per_token")
        figures.append(Measured(f"{what} ({loss['low'] or 0:.4f} .. {loss['high'] or 0:.4f})", loss["value"], wanted))
        figures.extend(Measured(f"{what}: beside it, read the same way, {rival}", value) for rival, value in loss["rivals"].items())
        told = Measured("models that an earlier run of this command had made", len(found))
        about = {"reports": details, "members": MEMBERS, "found_made": found}
        write(out, "Best losses on tiny_shakespeare", [*figures, told], about, smoke)

    make("ngram", {"model": "ngram"})
    judge("ngram", "the best-order Kneser-Ney, static", "")
    for name, settings in list(MEMBERS.items())[: given.members]:
        for number in range(given.seeds):
            place = f"{name}{number}"
            chosen = {**settings, "seed": settings.get("seed", 0) + 10 * number, **(SMOKE if smoke else {})}
            card = make(place, chosen)
            judge(
                place, f"{name}, seed {chosen['seed']}, static, {card['measured']['core_seconds']:.0f} core-seconds", "<= 1.455, aim 1.43"
            )
            made.append(place)
    together = f"all{len(made)}"
    if not (out / together / "card.json").exists():
        mix_trained(corpus, [out / each for each in made], out / together, tell=tell)
    judge(together, f"{len(made)} models and counts, static", "<= 1.39, aim 1.36")
    judge(made[0], f"{made[0]} alone, adaptive", "<= 1.34, aim 1.29", Dynamic())
    judge(together, f"{len(made)} models and counts, adaptive", "<= 1.34, aim 1.29", Dynamic())


if __name__ == "__main__":
    main()
