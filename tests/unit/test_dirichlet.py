"""Dirichlet priors over counts: the formulas by brute force, mean = pseudo-counts = mode one higher, the choice of the strength."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import dirichlet as distribution

from zhixing.core.errors import UsageError
from zhixing.layers.kinds import Countable, Inputs
from zhixing.models import bag, catalog, dirichlet
from zhixing.models.bag import Bag
from zhixing.models.ngram import NGram
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import load
from zhixing.training.train import train

V, END = 30, 1
SMOOTHINGS = ("dirichlet", "additive")


def make_shard(seed: int, documents: int) -> np.ndarray:
    """Write documents of tokens 5 .. 19 with repeats; tokens 20 .. 29 never occur."""
    source = np.random.default_rng(seed)
    tokens = [END]
    for _ in range(documents):
        token = 5
        for _ in range(source.integers(0, 20)):
            token = 5 + int((token * 7 + source.integers(0, 4) ** 2) % 15)
            tokens.append(token)
        tokens.append(END)
    return np.array(tokens, np.int32)


class Plain:
    """The formulas, word by word, over dictionaries of counts; every document opened and closed by the end token."""

    def __init__(self, tokens: np.ndarray, order: int, smoothing: str, strength: float) -> None:
        self.order, self.smoothing, self.strength = order, smoothing, strength
        self.grams: Counter[tuple[int, ...]] = Counter()
        self.contexts: Counter[tuple[int, ...]] = Counter()
        document = [END]
        for token in tokens[1:].tolist():
            document.append(token)
            for length in range(1, min(order, len(document)) + 1):
                if length < len(document) or length == 1:
                    self.note(tuple(document[-length:]))
                else:
                    self.note(tuple(document))
            if token == END:
                document = [END]

    def note(self, gram: tuple[int, ...]) -> None:
        self.grams[gram] += 1
        self.contexts[gram[:-1]] += 1

    def p(self, history: list[int], token: int) -> float:
        """p(token | history), which reaches back to the last end token."""
        opened = max((place for place, each in enumerate(history) if each == END), default=0)
        context = tuple(history[opened:])[-(self.order - 1) :] if self.order > 1 else ()
        a = self.strength
        if self.smoothing == "additive":
            return (self.grams[*context, token] + a) / (self.contexts[context] + a * V)
        p = 1 / V
        for length in range(len(context) + 1):
            end = context[len(context) - length :]
            p = (self.grams[*end, token] + a * p) / (self.contexts[end] + a)
        return p

    def score(self, tokens: np.ndarray) -> np.ndarray:
        text = tokens.tolist()
        return np.log([self.p(text[:place], text[place]) for place in range(1, len(text))])


def count(smoothing: str, order: int, strength: float, tokens: np.ndarray | None = None) -> NGram:
    return NGram.count(make_shard(0, 60) if tokens is None else tokens, V, order, END, smoothing, strength)


# The formulas.


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_scores_are_the_formula(smoothing: str, order: int) -> None:
    read = np.concatenate([make_shard(3, 12), [6, 25, 7, 14, 9, 6], [END], [25, 25, END]])  # words and contexts never seen too
    for strength in (0.02, 1.0, 40.0):
        plain = Plain(make_shard(0, 60), order, smoothing, strength)
        np.testing.assert_allclose(count(smoothing, order, strength).score(read), plain.score(read), rtol=1e-10)
        other = Plain(make_shard(0, 60), order, smoothing, strength * 1.01)
        assert np.abs(count(smoothing, order, strength).score(read) - other.score(read)).max() > 1e-4


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_distributions_are_whole_and_those_that_score(smoothing: str, order: int) -> None:
    model = count(smoothing, order, 0.5)
    assert isinstance(model, Countable)
    for history in ([END], [END, 6], [END, 6, 12, 19, 7], [END, 6, END], [END, 25, 26], [6, 25, 12], [0]):
        p = np.exp([model.score(np.array([*history, token]))[-1] for token in range(V)])
        assert p.sum() == pytest.approx(1, abs=1e-12) and (p > 0).all()
        cached = model.log_probabilities(Inputs(torch.tensor([history])))
        np.testing.assert_allclose(cached[0].double().exp().numpy(), p, rtol=1e-5)
    assert model.distributions(model.cache(1).ids).sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_cached_equals_scored_and_cropped(smoothing: str) -> None:
    model, tokens = count(smoothing, 4, 0.7), np.concatenate([make_shard(3, 4), [6, 25, 7, 14]])
    cache, stepped, matched = model.cache(1), [], []
    for token, target in zip(tokens[:-1], tokens[1:], strict=True):
        stepped.append(model.log_probabilities(Inputs(torch.tensor([[int(token)]])), cache)[0, target].item())
        matched.append(model.matched_next(cache)[0])
    np.testing.assert_allclose(stepped, model.score(tokens), atol=1e-5)
    np.testing.assert_array_equal(matched, NGram.count(make_shard(0, 60), V, 4, END).matched(tokens))
    cache.crop(9)
    again = model.log_probabilities(Inputs(torch.tensor([[int(tokens[9])]])), cache)[0, tokens[10]].item()
    assert again == pytest.approx(stepped[9], abs=1e-6)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_long_text_is_scored_in_parts(smoothing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = count(smoothing, 4, 0.7), make_shard(5, 10)
    whole = model.score(tokens)
    monkeypatch.setattr("zhixing.models.ngram.SCORED_AT_ONCE", 7)
    np.testing.assert_array_equal(model.score(tokens), whole)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_a_saved_model_is_the_same_to_the_bit(smoothing: str) -> None:
    model = count(smoothing, 3, 0.3)
    config = json.loads(json.dumps(catalog.config(model)))
    assert config["model_type"] == smoothing and config["strength"] == 0.3
    again = catalog.restore(config, model.tensors())
    np.testing.assert_array_equal(again.score(make_shard(5, 20)), model.score(make_shard(5, 20)))
    assert again.config == model.config and again.prior == model.prior == {
        "name": "dirichlet", "strength": 0.3, "per": "token" if smoothing == "additive" else "context",
    }  # fmt: skip


def test_a_folder_of_before_priors_opens_as_kneser_ney() -> None:
    model = NGram.count(make_shard(0, 60), V, 3, END)
    config = {"model_type": "ngram", "vocab_size": V, "order": 3, "end_id": END}
    assert model.to_dict() == config and model.prior is None
    np.testing.assert_array_equal(catalog.restore(config, model.tensors()).score(make_shard(5, 9)), model.score(make_shard(5, 9)))


def test_what_cannot_be_is_refused() -> None:
    for smoothing, strength in (("ngram", 1.0), ("dirichlet", None), ("additive", 0.0), ("additive", -1.0), ("dirichlet", float("nan"))):
        with pytest.raises(UsageError) as caught:
            NGram.count(make_shard(0, 5), V, 2, END, smoothing, strength)
        assert caught.value.code == "ngram.strength"
    with pytest.raises(UsageError) as caught:
        NGram.count(make_shard(0, 5), V, 2, END, "dirichle", 1.0)
    assert caught.value.code == "ngram.smoothing" and "'dirichlet'" in caught.value.text()


# Bayes: mean, mode, pseudo-counts, maximum likelihood.


def context_counts(context: int) -> np.ndarray:
    """Count what follows a token in the training text, (V,)."""
    tokens = make_shard(0, 60)
    return np.bincount(tokens[1:][tokens[:-1] == context], minlength=V)


def predicted(smoothing: str, strength: float, context: int, order: int = 2) -> np.ndarray:
    """Give p(. | context), (V,)."""
    model = count(smoothing, order, strength)
    return np.exp([model.score(np.array([context, token]))[-1] for token in range(V)])


@pytest.mark.parametrize("a", [0.1, 1.0, 7.5])
def test_the_posterior_mean_is_additive_smoothing(a: float) -> None:
    """Dirichlet(a, .., a) and counts n: mean of Dirichlet(n + a) = (n + a) / (N + a V), to the last digits."""
    n = context_counts(6)
    p = predicted("additive", a, 6)
    np.testing.assert_allclose(p, (n + a) / (n.sum() + a * V), rtol=1e-12)
    np.testing.assert_allclose(p, distribution.mean(n + a), rtol=1e-12)


@pytest.mark.parametrize("a", [0.5, 20.0])
def test_the_posterior_mean_around_the_shorter_context(a: float) -> None:
    """Dirichlet(a m), m the unigram's posterior: mean of Dirichlet(n + a m)."""
    n, m = context_counts(6), predicted("dirichlet", a, 6, order=1)
    np.testing.assert_allclose(predicted("dirichlet", a, 6), distribution.mean(n + a * m), rtol=1e-12)


@pytest.mark.parametrize("a", [0.5, 3.0])
def test_the_mode_under_a_prior_one_higher_is_likelihood_with_pseudo_counts(a: float) -> None:
    """argmax of n log p + a log p, found numerically: MAP under Dirichlet(1 + a) = MLE of n + a = mean under Dirichlet(a)."""
    n = context_counts(6)

    def loss(logits: np.ndarray, prior: float) -> tuple[float, np.ndarray]:
        logs = logits - np.logaddexp.reduce(logits)
        density = (n * logs).sum() + prior * logs.sum()  # log-likelihood + (1 + a - 1) sum of log p
        return -density, -(n + prior - (n.sum() + prior * V) * np.exp(logs))

    found = minimize(loss, np.zeros(V), (a,), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-8, "maxiter": 5000}).x
    mode = np.exp(found - np.logaddexp.reduce(found))
    np.testing.assert_allclose(mode, predicted("additive", a, 6), atol=1e-7)
    assert np.abs(mode - predicted("additive", a + 1, 6)).max() > 1e-3


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_no_strength_is_maximum_likelihood(smoothing: str) -> None:
    n = context_counts(6)
    np.testing.assert_allclose(predicted(smoothing, 1e-12, 6), n / n.sum(), atol=1e-9)


def test_twice_the_data_halves_what_the_prior_says() -> None:
    tokens = make_shard(0, 60)
    twice = np.concatenate([tokens, tokens[1:]])
    for smoothing in SMOOTHINGS:
        once = count(smoothing, 2, 3.0, tokens).score(make_shard(3, 9))
        np.testing.assert_allclose(count(smoothing, 2, 6.0, twice).score(make_shard(3, 9)), once, rtol=1e-12)
        assert np.abs(count(smoothing, 2, 3.0, twice).score(make_shard(3, 9)) - once).max() > 1e-3


def test_naive_bayes_has_a_dirichlet_and_logistic_regression_a_gaussian() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = random.Random(1)
    labels = np.array([draw.randrange(3) for _ in range(80)])
    texts = [" ".join(draw.choices(["abc"[label] * 3, "common", "词语", "stone"], k=6)) for label in labels]
    bayes = Bag.fit(texts, labels, 3, "naive_bayes", 0.3)
    assert bayes.prior == {"name": "dirichlet", "strength": 0.3, "per": "feature"}
    columns, counts = bag.learn_columns(texts, bayes.config)
    for label in range(3):
        n = np.asarray(counts[labels == label].sum(0)).ravel()
        np.testing.assert_allclose(np.exp(bayes.weights[:, label]), distribution.mean(n + 0.3), rtol=1e-5)
    np.testing.assert_allclose(np.exp(bayes.bias), distribution.mean(np.bincount(labels) + 0.3), rtol=1e-12)
    linear = Bag.fit(texts, labels, 3, "logistic", 0.5)
    assert linear.prior == {"name": "gaussian", "strength": 0.5, "per": "weight"}
    features = bag.scale(counts, bag.weigh_rare(counts))
    wanted = LogisticRegression(C=1 / 0.5, tol=1e-8, max_iter=5000).fit(features, labels)
    assert (columns == linear.columns).all()
    np.testing.assert_allclose(linear.probabilities(texts), wanted.predict_proba(features), atol=0.02)
    assert set(bag.PRIORS) == set(bag.METHODS)


# The choice.


def test_curves_are_the_scores_of_whole_models() -> None:
    learned, held = make_shard(0, 120), make_shard(1, 30)
    tried = {"additive": (0.01, 1.0), "dirichlet": (0.5, 30.0)}
    found = dict(dirichlet.curves(learned, held, V, END, range(1, 5), tried))
    assert set(found) == {1, 2, 3, 4}
    for order, losses in found.items():
        for smoothing, each in losses.items():
            assert tuple(each) == tried[smoothing]
            for strength, nats in each.items():
                assert nats == pytest.approx(-count(smoothing, order, strength, learned).score(held).mean(), rel=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_choice_is_the_lowest_of_its_curves(smoothing: str) -> None:
    learned, held = make_shard(0, 15), make_shard(1, 30)  # few enough that most contexts are rare
    order, strength, trials = dirichlet.choose(learned, held, V, END, smoothing)
    every = {(o, s): nats for o, each in dirichlet.curves(learned, held, V, END, range(1, 8)) for s, nats in each[smoothing].items()}
    assert every[order, strength] == min(every.values()) == trials[order][1]
    assert order > 1, "the text has structure"
    values = [every[order, s] for s in dirichlet.STRENGTHS[smoothing]]
    assert values[0] > min(values) + 0.01 and values[-1] > min(values) + 0.01, "too weak and too strong both lose"
    again, _, held_out = dirichlet.choose(learned, None, V, END, smoothing, (2,), (0.5,))
    assert again == 2 and set(held_out) == {2} and held_out[2][0] == 0.5


def test_a_choice_goes_up_until_the_loss_has_risen_twice() -> None:
    source = np.random.default_rng(0)
    noise = [np.concatenate([[END], source.integers(5, V, 3000), [END]]) for _ in range(2)]
    order, _, trials = dirichlet.choose(*noise, V, END, "additive")
    assert order == 1 and list(trials) == [1, 2, 3]


def test_grids_are_even_in_logarithms() -> None:
    for each in dirichlet.STRENGTHS.values():
        steps = np.diff(np.log10(each))
        assert len(each) > 15 and np.allclose(steps, 0.25, atol=0.003)


def test_training_chooses_counts_and_says_so(tmp_path: Path) -> None:
    draw = random.Random(4)
    words = "the quiet old river carries 小船 沿 河 而下 , .".split()
    (tmp_path / "a.txt").write_text("\n".join(" ".join(draw.choices(words, k=9)) for _ in range(300)), encoding="utf-8")
    prepare(tmp_path / "a.txt", tmp_path / "corpus", Prepare(split="tail", validation=0.1, test=0.1))
    told: list[tuple[str, dict[str, Any]]] = []
    folder = train(
        tmp_path / "corpus", tmp_path / "chosen", {"model": "dirichlet"}, tell=lambda code, **values: told.append((code, values))
    )
    chosen = folder.card["chosen"]
    assert folder.card["prior"] == {"name": "dirichlet", "strength": chosen["strength"], "per": "context"}
    assert min(chosen["validation_nats"], key=chosen["validation_nats"].get) == str(chosen["order"])
    assert ("train.prior", {"smoothing": "dirichlet", "order": chosen["order"], "strength": chosen["strength"]}) in told
    opened = load(tmp_path / "chosen")
    assert opened.family == "dirichlet" and opened.model.config.order == chosen["order"] and opened.generate("the ").text
    given = train(tmp_path / "corpus", tmp_path / "given", {"model": "additive", "order": 2, "strength": 0.25})
    assert given.card["chosen"]["order"] == 2 and given.card["prior"]["strength"] == 0.25 == load(tmp_path / "given").model.config.strength
    assert load(tmp_path / "given").family == "additive"
    assert "prior" not in train(tmp_path / "corpus", tmp_path / "plain", {"model": "ngram"}).card
