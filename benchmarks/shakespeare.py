"""tiny_shakespeare, characters, last 10 % as test: the best counted model, the decoder alone, and the two mixed.

    ZHIXING_DATA=... python benchmarks/shakespeare.py OUT [--core-seconds 900] [--smoke]

Nats per token on the test text, with the first 5 % of the text for validation: counted models choose their order on it and then count
it too.
"""

from __future__ import annotations

import gzip
import time

from results import Measured, arguments, find, tell, write

from zhixing import evaluate, prepare, train
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.artefact import load
from zhixing.training.train import mix_trained

SMOKE_CHARACTERS = 150_000


def main() -> None:
    given = arguments(__doc__, core_seconds=900.0, seed=0)
    source = find("tiny_shakespeare") / "input.txt.gz"
    out, settings = given.out, {"model": "qwen3", "size": "small", "seed": given.seed, "core_seconds": given.core_seconds}
    if given.smoke:
        with gzip.open(source, "rt", encoding="utf-8") as handle:
            (out / "input.txt").write_text(handle.read(SMOKE_CHARACTERS), encoding="utf-8")
        source, settings = out / "input.txt", {**settings, "size": "tiny", "core_seconds": 8.0}
    corpus = prepare(source, out / "corpus", Prepare(split="tail", validation=0.05, test=0.1), tell=tell)

    start = time.perf_counter()
    counted = train(corpus.path, out / "ngram", {"model": "ngram"}, tell=tell)
    counting = time.perf_counter() - start
    decoder = train(corpus.path, out / "qwen3", settings, tell=tell)
    mixed = mix_trained(corpus.path, out / "qwen3", out / "mixture", tell=tell)

    found = {name: evaluate(out / name, corpus.path, rivals=False, tell=tell) for name in ("ngram", "qwen3", "mixture")}
    nats = {name: report.figure("nats_per_token").value for name, report in found.items()}
    figures = [
        Measured("n-gram: order, best on validation", load(out / "ngram").model.config.order, "7"),
        Measured("n-gram: nats on test", nats["ngram"], "1.5165 +- 0.5 %"),
        Measured("n-gram: seconds from corpus to model, every order tried", counting, "<= 5"),
        Measured("decoder: nats on test", nats["qwen3"], "<= 1.50"),
        Measured("decoder: core-seconds", decoder.card["measured"]["core_seconds"], f"<= {settings['core_seconds']:g}"),
        Measured("decoder: steps", decoder.card["training"]["steps"]),
        Measured("decoder: best step", decoder.card["training"]["best_step"]),
        Measured("decoder: parameters", decoder.card["parameters"]),
        Measured("mixture: nats on test", nats["mixture"], "<= 1.44"),
        Measured("mixture: core-seconds", mixed.card["measured"]["core_seconds"]),
    ]
    details = {
        "reports": {name: report.to_dict() for name, report in found.items()},
        "validation_nats_by_order": counted.card["chosen"]["validation_nats"],
        "settings": decoder.card["settings"],
        "weights": mixed.card["chosen"]["weights"],
    }
    write(out, "tiny_shakespeare", figures, details, given.smoke)


if __name__ == "__main__":
    main()
