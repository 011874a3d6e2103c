"""The linear classifier of texts: features, naive Bayes by hand, logistic regression, the choice of a strength, saving."""

import gzip
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from zhixing.core.errors import DataError, UsageError
from zhixing.models import bag
from zhixing.models.bag import Bag, BagConfig, fit_logistic, fit_naive_bayes, read_features


def make_rows(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Write short texts in two languages whose label a few words give away, with noise."""
    source = np.random.default_rng(seed)
    hints = [["good", "fine film", "很好看", "喜欢"], ["bad", "dull film", "太难看", "讨厌"], ["late", "slow parcel", "快递慢", "还没到"]]
    fill = ["the", "this one", "今天", "我们", "really", "and", "了", "12"]
    texts, labels = [], []
    for _ in range(count):
        label = int(source.integers(3))
        shown = label if source.random() < 0.9 else int(source.integers(3))
        words = [fill[i] for i in source.integers(0, len(fill), 5)]
        words.insert(int(source.integers(5)), hints[shown][source.integers(4)])
        texts.append(" ".join(words))
        labels.append(label)
    return texts, np.array(labels)


def slow_features(text: str, config: BagConfig) -> int:
    """Count a text's features the plain way: runs of characters, then runs of words."""
    text = f" {' '.join(text.lower().split())} "
    kinds = [bag.classify_character(character) for character in text]
    found = 0
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            run, kind = text[start:end], kinds[start:end]
            longest, shortest = (config.han, 1) if bag.HAN in kind else (config.characters[1], config.characters[0])
            found += shortest <= len(run) <= longest and " " not in run[1:-1] and not (run[0] == run[-1] == " ")
    words = "".join(character if kind == bag.WORD else " " for character, kind in zip(text, kinds, strict=True)).split()
    return found + sum(max(len(words) - length + 1, 0) for length in range(1, config.words + 1))


TEXTS = ["Hello, big  World", "", "我喜欢 Python3 编程。", "a", "   ", "x y", "好", "\U0001f600 e\u0301 \ud800", "Hello, big World"]


def test_features_are_those_of_the_plain_way():
    config = BagConfig(2)
    rows, hashes = read_features(TEXTS, config)
    for row, text in enumerate(TEXTS):
        own = np.sort(hashes[rows == row])
        assert len(own) == slow_features(text, config), text
        _, alone = read_features([text], config)
        np.testing.assert_array_equal(own, np.sort(alone))
    np.testing.assert_array_equal(np.sort(hashes[rows == 0]), np.sort(hashes[rows == 8]))
    assert hashes.min() >= 0
    assert read_features([], config)[0].size == 0
    assert len(read_features(["big big"], config)[1]) != len(np.unique(read_features(["big big"], config)[1]))
    different = [np.unique(read_features([text], config)[1]).size for text in ("我喜欢编程", "abcdefgh")]
    assert different == [5 + 6 + 5, sum(10 - n + 1 for n in (2, 3, 4, 5)) + 1]


def test_naive_bayes_by_hand():
    counts = csr_matrix(np.array([[2, 0, 1], [1, 1, 0], [0, 3, 0]], np.float32))
    weights, bias = fit_naive_bayes(counts, np.array([0, 0, 1]), 2, 0.5)
    np.testing.assert_allclose(np.exp(weights.T), [[3.5 / 6.5, 1.5 / 6.5, 1.5 / 6.5], [0.5 / 4.5, 3.5 / 4.5, 0.5 / 4.5]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(bias), [2.5 / 4, 1.5 / 4])
    np.testing.assert_allclose(np.exp(weights).sum(0), 1, rtol=1e-6)


def test_logistic_is_the_posterior_mode():
    """At the mode the slope is zero; scikit-learn finds the same weights."""
    from sklearn.linear_model import LogisticRegression

    source = np.random.default_rng(0)
    x = source.normal(size=(200, 5)).astype(np.float32)
    labels = (x @ source.normal(size=(5, 3)) + source.normal(size=(200, 3))).argmax(1)
    weights, bias = fit_logistic(csr_matrix(x), labels, 3, 0.5)
    p = bag.normalise(x @ weights + bias)
    slope = x.T @ (p - np.eye(3)[labels]) + 0.5 * weights
    assert np.abs(slope).max() < 0.5
    peer = LogisticRegression(C=1 / 0.5, tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(p, peer.predict_proba(x), atol=0.02)
    strong, _ = fit_logistic(csr_matrix(x), labels, 3, 500.0)
    assert np.abs(strong).max() < 0.2 * np.abs(weights).max()


@pytest.mark.parametrize("method", bag.METHODS)
def test_bag_learns_and_is_the_same_twice_and_after_saving(method):
    texts, labels = make_rows(600)
    test, answers = make_rows(300, seed=1)
    model = Bag.fit(texts, labels, 3, method)
    p = model.probabilities(test)
    assert p.shape == (300, 3) and p.dtype == np.float64
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    assert (p.argmax(1) == answers).mean() > 0.85
    shuffled = Bag.fit(texts, np.random.default_rng(0).permutation(labels), 3, method)
    assert (shuffled.probabilities(test).argmax(1) == answers).mean() < 0.6
    np.testing.assert_array_equal(Bag.fit(texts, labels, 3, method).probabilities(test), p)
    config = json.loads(json.dumps({"architectures": ["Bag"], **model.to_dict()}))
    again = Bag.from_tensors(config, model.tensors())
    np.testing.assert_array_equal(again.probabilities(test), p)
    assert again.config == model.config
    unseen = model.probabilities(["", "qqqq"])
    prior = bag.normalise(model.bias[None])
    np.testing.assert_allclose(unseen, np.repeat(prior, 2, 0))
    assert model.probabilities([]).shape == (0, 3)


def test_batches_change_nothing(monkeypatch):
    texts, labels = make_rows(100)
    model = Bag.fit(texts, labels, 3)
    monkeypatch.setattr(bag, "ROWS_AT_ONCE", 7)
    again = Bag.fit(texts, labels, 3)
    np.testing.assert_array_equal(again.columns, model.columns)
    np.testing.assert_allclose(again.probabilities(texts), model.probabilities(texts), atol=1e-6)


def test_choose_takes_the_best_trial():
    texts, labels = make_rows(500)
    held = make_rows(200, seed=2)
    best, trials = Bag.choose(texts, labels, 3, held)
    top = min(trials, key=lambda trial: trial.loss)
    assert (best.config.method, best.config.strength) == (top.method, top.strength)
    p = best.probabilities(held[0])
    assert -np.log(p[np.arange(200), held[1]]).mean() == pytest.approx(top.loss, rel=1e-6)
    assert (p.argmax(1) == held[1]).mean() == top.accuracy
    best, trials = Bag.choose(texts, labels, 3, held, by="accuracy")
    assert (best.probabilities(held[0]).argmax(1) == held[1]).mean() == max(trial.accuracy for trial in trials)
    best, _ = Bag.choose(texts, labels, 3, methods=["naive_bayes"])
    np.testing.assert_array_equal(best.columns, Bag.fit(texts, labels, 3, "naive_bayes").columns)


def test_unusable_rows_and_words():
    with pytest.raises(UsageError, match="logistic"):
        Bag.fit(["a"], np.array([0]), 1, "logistc")
    with pytest.raises(UsageError, match="loss"):
        Bag.choose(["a"], np.array([0]), 1, by="los")
    with pytest.raises(DataError, match="1 texts and 2 labels"):
        Bag.fit(["a"], np.array([0, 1]), 2)
    with pytest.raises(DataError):
        Bag.fit(["a", "b"], np.array([0, 2]), 2)
    with pytest.raises(DataError, match="0 texts"):
        Bag.choose([], np.array([]), 2)
    with pytest.raises(DataError):
        Bag.choose(["a"], np.array([0]), 1)


def test_reading_needs_neither_torch_nor_scikit_learn():
    program = (
        "import sys; import numpy as np; from zhixing.models.bag import Bag; "
        "print(Bag.fit(['good film', 'bad film'] * 4, np.array([0, 1] * 4), 2).probabilities(['good']).argmax(), "
        "'torch' in sys.modules, 'sklearn' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["0", "False", "False"]


@pytest.mark.data
@pytest.mark.slow
def test_banking77(data):
    """Know-how: 91.5 % within 30 seconds; 10,000 rows are answered within 3 seconds."""

    def read(split: str) -> list[dict]:
        with gzip.open(data("banking77") / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    train, test = read("train"), read("test")
    names = sorted({row["label"] for row in train})
    texts, labels = [row["text"] for row in train], np.array([names.index(row["label"]) for row in train])
    start = time.process_time()
    model = Bag.fit(texts, labels, len(names), "logistic", 0.06)
    assert time.process_time() - start < 30
    answers = model.probabilities([row["text"] for row in test]).argmax(1)
    assert (answers == [names.index(row["label"]) for row in test]).mean() >= 0.91
    start = time.process_time()
    model.probabilities(texts[:10000])
    assert time.process_time() - start < 3
