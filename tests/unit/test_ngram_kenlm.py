"""The n-gram model equals KenLM's on a generated text: the numbers in golden/kenlm.json came from lmplz and query.

KenLM's vocabulary, as its uniform distribution counts it, is every word of the training text, </s> and <unk>, without <s>. Ours here is
the same set: 0 is the end token (<s> as context, </s> as a prediction), 1 stands for every unseen word, the words follow. In both a word
that was never seen has the unigram level's left-over share divided by the size of that vocabulary. KenLM refuses order 1.
"""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from zhixing.models.ngram import NGram

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "kenlm.json").read_text(encoding="utf-8"))


def make_sentences(seed: int, count: int, words: int) -> list[list[str]]:
    """Write sentences of set phrases and of words whose successors are a few of many; frequent words are few."""
    source = random.Random(seed)

    def follow(word: int) -> int:
        if source.random() < 0.7:
            return (word * 31 + int(15 * source.random() ** 2) * 97 + 1) % words
        return int(words * source.random() ** 6)

    def phrase(number: int) -> list[int]:
        return [(number * 37 + (place + 1) ** 3 * 11) % 900 for place in range(3 + number % 5)]

    sentences = []
    for _ in range(count):
        sentence = [follow(0)]
        while source.random() > 0.15:
            sentence += phrase(int(700 * source.random() ** 2)) if source.random() < 0.3 else [follow(sentence[-1])]
        sentences.append([f"w{word}" for word in sentence])
    return sentences


def make_shards() -> tuple[np.ndarray, np.ndarray, int]:
    """Give the training and the test tokens as shards, and the vocabulary's size."""
    train = make_sentences(GOLDEN["seed"], GOLDEN["train_sentences"], GOLDEN["words"])
    test = make_sentences(GOLDEN["seed"] + 1, GOLDEN["test_sentences"], GOLDEN["words"])
    ids: dict[str, int] = {}
    for sentence in train:
        for word in sentence:
            ids.setdefault(word, len(ids) + 2)

    def shard(sentences: list[list[str]]) -> np.ndarray:
        return np.array([0] + [each for sentence in sentences for each in [*(ids.get(word, 1) for word in sentence), 0]])

    return shard(train), shard(test), len(ids) + 2


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_kenlm_agrees(order):
    train, test, vocabulary = make_shards()
    expected = GOLDEN["orders"][str(order)]
    model = NGram.count(train, vocabulary, order, 0)
    scores = model.score(test) / math.log(10)
    assert (test == 1).sum() == GOLDEN["test_unknown"] > 0
    assert len(test) - 1 == GOLDEN["test_tokens"]
    assert scores.sum() == pytest.approx(expected["total_log10"], rel=1e-3)
    assert 10 ** -scores.mean() == pytest.approx(expected["perplexity"], rel=1e-3)
    ends = np.flatnonzero(test[1:] == 0)
    sentences = np.add.reduceat(scores, np.concatenate([[0], ends[:-1] + 1]))
    np.testing.assert_allclose(sentences[: len(expected["sentences_log10"])], expected["sentences_log10"], rtol=1e-3)


def test_kenlm_differs_from_a_model_without_continuation_counts():
    """The comparison sees an error: lower orders on raw counts miss the 0.1 %."""
    train, test, vocabulary = make_shards()
    raw = [NGram.count(train, vocabulary, order, 0).levels[order - 1] for order in (1, 2, 3)]
    model = NGram(NGram.count(train, vocabulary, 3, 0).config, raw)
    total = model.score(test).sum() / math.log(10)
    assert total != pytest.approx(GOLDEN["orders"]["3"]["total_log10"], rel=1e-3)
