"""Tokenizers: characters, BPE, unigram pieces and words on real text of both languages; and the grammar between the n-grams of each.

    ZHIXING_DATA=... python benchmarks/tokens.py OUT [--classes 128] [--smoke]

tiny_shakespeare, cut by its tail, and Tang poems without repeats, split by hash; each tokenizer with its default vocabulary. All figures
are of the test split; whatever is chosen is chosen on validation. Speed is that of one core, of the training text's first megabytes.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from ladder import texts
from results import Measured, arguments, tell, write

from zhixing import prepare
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.evaluation.evaluate import score_text
from zhixing.models.ngram import NGram
from zhixing.tokens.tokenizer import SORTS
from zhixing.training import counted
from zhixing.training.settings import settle
from zhixing.training.train import make_tokenizer

SAMPLE = 2_000_000  # characters encoded to take the speed
ROUNDS = 3


def speed(tokenizer: Any, sample: list[str]) -> float:
    """Give the megabytes encoded in a core-second, the median of some rounds."""
    size = sum(len(text.encode("utf-8")) for text in sample)
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        tokenizer.encode_batch(sample)
        taken.append(time.process_time() - start)
    return size / statistics.median(taken) / 1e6


def some(corpus: Corpus) -> list[str]:
    """Give the first texts of training, up to SAMPLE characters together."""
    found: list[str] = []
    for example in corpus.examples("train"):
        found.append(example["text"][: SAMPLE - sum(map(len, found))])
        if sum(map(len, found)) >= SAMPLE or len(found) >= SAMPLE // 40:
            break
    return found


def measure(name: str, corpus: Corpus, sort: str, classes: int) -> tuple[list[Measured], dict[str, Any]]:
    """Measure one tokenizer on one corpus."""
    start = time.process_time()
    tokenizer = make_tokenizer(corpus, settle("language", {"model": "ngram", "tokenizer": sort}).value)
    training = time.process_time() - start
    train, held = counted.splits(corpus, tokenizer, tell)
    both, size, end = counted.together(train, held), tokenizer.vocabulary_size, tokenizer.end_id
    best, chosen = counted.count_language(corpus, tokenizer, 0, tell)
    start = time.process_time()
    grammar, learnt = counted.learn_grammar(corpus, tokenizer, classes, 0, tell)
    learning = time.process_time() - start
    models = {"1-gram": NGram.count(both, size, 1, end), f"grammar of {classes} classes": grammar}
    models |= {"2-gram": NGram.count(both, size, 2, end), "3-gram": NGram.count(both, size, 3, end)}
    models[f"{chosen['order']}-gram, the best on validation"] = best
    scored = {model: score_text(made, tokenizer, corpus, "test", tell) for model, made in models.items()}
    first = next(iter(scored.values()))
    figures = [
        Measured(f"{name}, {sort}: tokens in the vocabulary", size),
        Measured(f"{name}, {sort}: bytes a token", first.size_bytes / len(first.logs)),
        Measured(f"{name}, {sort}: core-seconds to train it", training),
        Measured(f"{name}, {sort}: MB encoded in a core-second", speed(tokenizer, some(corpus))),
        *(Measured(f"{name}, {sort}: bits per byte, {model}", float(each.bits.sum() / each.size_bytes)) for model, each in scored.items()),
        Measured(f"{name}, {sort}: core-seconds to learn the grammar", learning),
    ]
    return figures, {"ngram": chosen, "grammar": learnt}


def main() -> None:
    given = arguments(__doc__, classes=128)
    figures: list[Measured] = []
    details: dict[str, Any] = {}
    for name, (source, how) in texts(given.out, given.smoke).items():
        folder = prepare(source, given.out / f"{name}-corpus", how, tell=tell)
        for sort in SORTS:
            found, details[f"{name}, {sort}"] = measure(name, open_corpus(folder.path), sort, given.classes)
            figures += found
    write(given.out, "Tokenizers and the grammar", figures, details, given.smoke)


if __name__ == "__main__":
    main()
