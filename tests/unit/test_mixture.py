"""The mixture: EM climbs, the mixture is at least its best part, distributions sum to 1, caches and saving agree."""

import json

import numpy as np
import pytest
import torch

from zhixing.core.errors import DataError, UsageError
from zhixing.layers.kinds import Countable, Inputs, next_log_probabilities
from zhixing.layers.scoring import score
from zhixing.models import catalog
from zhixing.models.mixture import Mixture, fit_weights
from zhixing.models.ngram import NGram

V, END = 40, 1


def make_shard(seed: int, length: int, factor: int = 7) -> np.ndarray:
    """Write one document whose next token is nearly fixed by the last two; another factor is another language."""
    source = np.random.default_rng(seed)
    tokens = [END, 5]
    for _ in range(length):
        tokens.append(5 + int((tokens[-1] * factor + tokens[-2] * 3 + source.integers(0, 3) ** 2) % 30))
    return np.array([*tokens, END])


@pytest.fixture(scope="module")
def parts():
    """An untrained neural model and two counted ones, each of its own language; the text to fit on has some of both."""
    torch.manual_seed(0)
    neural = catalog.build({"model_type": "lstm", "vocab_size": V, "embedding_dim": 8, "hidden_dim": 12}).eval()
    return neural, NGram.count(make_shard(0, 3000), V, 3, END), NGram.count(make_shard(1, 3000, 11), V, 2, END)


def make_both(seed: int) -> np.ndarray:
    """Write a text in both languages by turns."""
    return np.concatenate([make_shard(seed, 300), make_shard(seed, 300, 11)[1:], make_shard(seed + 1, 300)[1:]])


def test_em_climbs_and_beats_the_best_part(parts):
    tokens = make_both(2)
    scores = np.stack([score(part, tokens) for part in parts])
    matched = parts[1].matched(tokens)
    weights, trace = fit_weights(scores, matched, 3)
    assert len(trace) > 2 and (np.diff(trace) >= -1e-9).all()
    np.testing.assert_allclose(weights.sum(1), 1)
    mixed = Mixture.fit(parts, tokens)
    np.testing.assert_allclose(mixed.weights, weights)
    assert mixed.score(tokens).mean() > scores.mean(1).max() + 0.01
    shared, _ = fit_weights(scores, np.zeros(len(matched), int), 1)
    assert mixed.score(tokens).mean() > mixed.mix(scores, matched * 0).mean()
    assert mixed.score(tokens).mean() >= np.logaddexp.reduce(scores + np.log(shared[0])[:, None], axis=0).mean()
    given = Mixture.fit(parts, tokens, scores=list(scores))
    np.testing.assert_array_equal(given.weights, mixed.weights)


@pytest.mark.parametrize("prior", [0.0, 20.0, 1e6])
def test_a_useless_part_costs_nothing(parts, prior):
    tokens = make_shard(4, 400)
    scores = np.stack([score(part, tokens) for part in parts[:2]])
    weights, _ = fit_weights(scores, parts[1].matched(tokens), 3, prior)
    mixed = Mixture(parts[:2], weights)
    assert mixed.score(tokens).mean() >= scores.mean(1).max() - 1e-6


def test_weights_follow_the_buckets():
    """Where one part is better in one bucket and the other in the other, the weights say so; an empty bucket keeps the global ones."""
    source = np.random.default_rng(0)
    buckets = source.integers(0, 2, 4000)
    good, bad = np.log(source.uniform(0.5, 0.9, 4000)), np.log(source.uniform(0.01, 0.3, 4000))
    scores = np.stack([np.where(buckets == 0, good, bad), np.where(buckets == 0, bad, good)])
    weights, _ = fit_weights(scores, buckets, 3)
    shared, _ = fit_weights(scores, np.zeros(4000, int), 1, prior=0)
    assert weights[0, 0] > 0.9 and weights[1, 1] > 0.9
    np.testing.assert_allclose(weights[2], shared[0], atol=1e-3)
    pulled, _ = fit_weights(scores, buckets, 3, prior=1e9)
    np.testing.assert_allclose(pulled, np.repeat(shared, 3, 0), atol=1e-3)


def test_weights_of_the_wrong_bucket_are_worse_than_none():
    """The likelihood sees an error: each bucket read with the other's weights lies below where the climb began."""
    source = np.random.default_rng(0)
    buckets = source.integers(0, 2, 2000)
    scores = np.stack([np.where(buckets == 0, -0.1, -4.0), np.where(buckets == 0, -4.0, -0.1)])
    weights, trace = fit_weights(scores, buckets, 2, prior=0.0)
    wrong = np.logaddexp.reduce(scores + np.log(weights)[1 - buckets].T, axis=0).sum()
    assert trace[-1] == pytest.approx(np.logaddexp.reduce(scores + np.log(weights)[buckets].T, axis=0).sum(), rel=1e-6)
    assert wrong < trace[0]


def test_no_text_gives_equal_weights():
    assert fit_weights(np.zeros((2, 0)), np.zeros(0, int), 3)[0].tolist() == [[0.5, 0.5]] * 3


def test_distributions_cache_and_saving(parts):
    tokens = make_both(6)[270:340]
    tokens[0] = END
    mixed = Mixture.fit(parts, make_both(2))
    assert isinstance(mixed, Countable) and mixed.vocabulary == V
    scores, cache, stepped = mixed.score(tokens), mixed.cache(1), []
    for token, target in zip(tokens[:-1], tokens[1:], strict=True):
        log_p = next_log_probabilities(mixed, Inputs(torch.tensor([[int(token)]])), cache)
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
        stepped.append(log_p[0, target].item())
    np.testing.assert_allclose(stepped, scores, atol=1e-4)
    both = cache.rows(torch.tensor([0])).join(cache)
    answers = mixed.log_probabilities(Inputs(torch.tensor([[7], [8]])), both)
    for row, token in enumerate((7, 8)):
        whole = mixed.log_probabilities(Inputs(torch.tensor([[*tokens[:-1].tolist(), token]])))
        torch.testing.assert_close(answers[row], whole[0], atol=1e-4, rtol=1e-4)
    config = json.loads(json.dumps(catalog.config(mixed)))
    again = catalog.restore(config, catalog.tensors(mixed))
    np.testing.assert_array_equal(again.score(tokens), scores)


def test_a_cache_forgets(parts):
    mixed = Mixture.fit(parts[1:], make_both(2))
    cache = mixed.cache(2)
    mixed.log_probabilities(Inputs(torch.tensor([[END, 5, 9, 12], [END, 8, 8, 30]])), cache)
    cache.crop(2)
    answers = mixed.log_probabilities(Inputs(torch.tensor([[7], [7]])), cache)
    assert torch.equal(answers, mixed.log_probabilities(Inputs(torch.tensor([[END, 5, 7], [END, 8, 7]]))))


def test_parts_that_cannot_be_mixed(parts):
    with pytest.raises(UsageError, match="counted"):
        Mixture.fit(parts[:1], make_shard(1, 50))
    other = NGram.count(np.array([END, 5, END]), V + 1, 2, END)
    with pytest.raises(DataError, match="41"):
        Mixture.fit([parts[1], other], make_shard(1, 50))
    with pytest.raises(UsageError, match="shape"):
        Mixture(parts[:2], np.full((2, 2), 0.5))
