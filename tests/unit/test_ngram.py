"""The counted language model: distributions, caches, saving, the choice of the order, and the known figures on real text."""

import gzip
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.layers.kinds import Countable, Inputs
from zhixing.models import ngram
from zhixing.models.counts import estimate_discounts, in_order
from zhixing.models.ngram import NGram, NGramConfig, best_order

V, END = 40, 1


def make_shard(seed: int, documents: int, length: int = 30) -> np.ndarray:
    """Write documents of tokens 5 .. 29 with repeats; tokens 30 .. 39 never occur."""
    source = np.random.default_rng(seed)
    tokens = [END]
    for _ in range(documents):
        token = 5
        for _ in range(source.integers(0, length)):
            token = 5 + int((token * 7 + source.integers(0, 4) ** 2) % 25)
            tokens.append(token)
        tokens.append(END)
    return np.array(tokens, np.int32)


def next_all(model: NGram, history: list[int]) -> np.ndarray:
    """Give p(next token) by scoring every continuation, without a cache."""
    return np.exp([model.score(np.array([*history, token]))[-1] for token in range(model.vocabulary)])


HISTORIES = [[END], [END, 6], [END, 5, 12, 19, 7], [12, 19, 7, 9], [END, 6, END], [END, 35, 36], [6, 35, 12], [0]]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_distributions_sum_to_one(order):
    model = NGram.count(make_shard(0, 60), V, order, END)
    for history in HISTORIES:
        p = next_all(model, history)
        assert p.sum() == pytest.approx(1, abs=1e-9)
        assert (p > 0).all()
        cached = model.log_probabilities(Inputs(torch.tensor([history])))
        assert cached.shape == (1, V) and cached.dtype == torch.float32
        np.testing.assert_allclose(cached[0].exp().numpy(), p, rtol=1e-5)
    empty = model.distributions(model.cache(1).ids)
    assert empty.sum() == pytest.approx(1, abs=1e-9) and (empty > 0).all()


def test_a_dropped_discount_does_not_sum_to_one():
    """The sum sees an error: counts kept whole while the shorter context still gets its share."""
    model = NGram.count(make_shard(0, 60), V, 3, END)
    model.levels[1] = replace(model.levels[1], discounts=np.zeros(4))
    assert abs(next_all(model, [END, 6]).sum() - 1) > 1e-3


def test_probabilities_by_hand():
    """The paper's formula on a text small enough to count by eye; its counts of counts are missing, so the fall-back discounts hold."""
    tokens = np.array([0, 2, 3, 0, 2, 2, 0])  # two documents, "2 3" and "2 2"
    model = NGram.count(tokens, 4, 2, 0)
    # Unigrams are continuation counts: 2 follows {end, 2}, 3 follows {2}, the end follows {3, 2}: 2, 1, 2 of 5.
    left = (1.0 + 0.5 + 1.0) / 5
    p3, p2, p1 = (1 - 0.5) / 5 + left / 4, (2 - 1.0) / 5 + left / 4, left / 4
    # After 2 came 3, 2, end, once each; after the end came 2, twice.
    after2 = 3 * 0.5 / 3
    expected = [(2 - 1.0) / 2 + 1.0 / 2 * p2, (1 - 0.5) / 3 + after2 * p3]
    np.testing.assert_allclose(np.exp(model.score(np.array([0, 2, 3]))), expected, rtol=1e-12)
    assert np.exp(model.score(np.array([0, 2, 1])))[1] == pytest.approx(after2 * p1, rel=1e-12)


def test_contexts_never_reach_over_an_end_token():
    model = NGram.count(make_shard(0, 60), V, 4, END)
    other = make_shard(9, 5)
    alone = model.score(np.array([END, 6, 12, 19]))
    after = model.score(np.concatenate([other, [6, 12, 19]]))
    np.testing.assert_array_equal(after[-3:], alone)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_cached_equals_scored(order, monkeypatch):
    model = NGram.count(make_shard(0, 60), V, order, END)
    tokens = np.concatenate([make_shard(3, 4), [6, 35, 7, 14]])
    scores = model.score(tokens)
    cache, stepped, matched = model.cache(1), [], []
    for token, target in zip(tokens[:-1], tokens[1:], strict=True):
        stepped.append(model.log_probabilities(Inputs(torch.tensor([[int(token)]])), cache)[0, target].item())
        matched.append(model.matched_next(cache)[0])
    np.testing.assert_allclose(stepped, scores, atol=1e-5)
    np.testing.assert_array_equal(matched, model.matched(tokens))
    assert max(matched) == order - 1
    whole = (scores, model.matched(tokens))
    monkeypatch.setattr(ngram, "SCORED_AT_ONCE", 7)
    np.testing.assert_array_equal(model.score(tokens), whole[0])
    np.testing.assert_array_equal(model.matched(tokens), whole[1])


def test_cache_rows_join_crop_and_padding():
    model = NGram.count(make_shard(0, 60), V, 4, END)
    texts = [[END, 6, 12, 19, 7], [END, 9]]
    padded = torch.tensor([texts[0], texts[1] + [0, 0, 0]])
    alone = [model.log_probabilities(Inputs(torch.tensor([text])))[0] for text in texts]
    cache = model.cache(2)
    both = model.log_probabilities(Inputs(padded, lengths=torch.tensor([5, 2])), cache)
    assert torch.equal(both, torch.stack(alone))
    swapped = cache.rows(torch.tensor([1, 0])).join(cache.rows(torch.tensor([1])))
    step = torch.tensor([[6], [8], [6]])
    expected = [[END, 9, 6], [*texts[0], 8], [END, 9, 6]]
    answers = model.log_probabilities(Inputs(step), swapped)
    for row, text in enumerate(expected):
        assert torch.equal(answers[row], model.log_probabilities(Inputs(torch.tensor([text])))[0])
    swapped.crop(2)
    answers = model.log_probabilities(Inputs(step), swapped)
    for row, text in enumerate(expected):
        wanted = model.log_probabilities(Inputs(torch.tensor([[*text[:2], int(step[row])]])))[0]
        assert torch.equal(answers[row], wanted)
    assert torch.equal(model.log_probabilities(Inputs(padded, lengths=torch.tensor([5, 2])))[1], alone[1])


@pytest.mark.parametrize("order", [1, 2, 5])
def test_saved_model_scores_to_the_bit(order):
    repeated = np.concatenate([make_shard(0, 60), np.tile([6, 7, END], 400)])  # counts over 255 too
    model = NGram.count(repeated, V, order, END)
    assert isinstance(model, Countable)
    config = json.loads(json.dumps({"architectures": ["NGram"], **model.to_dict()}))
    again = NGram.from_tensors(config, model.tensors())
    tokens = make_shard(5, 20)
    np.testing.assert_array_equal(again.score(tokens), model.score(tokens))
    assert again.config == model.config == NGramConfig(V, order, END)
    assert max(level.counts.max() for level in model.levels) > 255
    grams = sum(len(level.keys) for level in model.levels)
    assert sum(tensor.nbytes for tensor in model.tensors().values()) < 5 * grams


def test_best_order_agrees_with_whole_models():
    train, validation = make_shard(0, 120), make_shard(1, 30)
    order, losses = best_order(train, validation, V, END, range(1, 7))
    for each, loss in losses.items():
        assert loss == pytest.approx(-NGram.count(train, V, each, END).score(validation).mean(), rel=1e-12)
    assert losses[order] == min(losses.values())
    assert len(losses) >= 3
    again, held = best_order(train, None, V, END, range(1, 4))
    cut = round(len(train) * 0.95)
    assert held[2] == pytest.approx(-NGram.count(train[:cut], V, 2, END).score(train[cut - 1 :]).mean(), rel=1e-12)
    assert again in held


def test_best_order_stops_after_two_rises():
    source = np.random.default_rng(0)
    noise = [np.concatenate([[END], source.integers(5, 30, 3000), [END]]) for _ in range(2)]
    order, losses = best_order(*noise, V, END)
    assert order == 1 and len(losses) < 10
    last = [losses[each] for each in sorted(losses)][-3:]
    assert last == sorted(last)


def test_discounts_follow_the_paper():
    counts = np.repeat([1, 2, 3, 4, 9], [100, 40, 20, 10, 3])
    y = 100 / 180
    np.testing.assert_allclose(estimate_discounts(counts), [0, 1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.5])
    assert estimate_discounts(np.array([1, 1, 2])).tolist() == [0, 0.5, 1, 1.5]


def test_tiny_texts_and_unusable_ones():
    for tokens in ([END], [END, END], [END, 5, END]):
        model = NGram.count(np.array(tokens), V, 3, END)
        assert next_all(model, [END, 7]).sum() == pytest.approx(1, abs=1e-9)
    with pytest.raises(DataError, match="begins with token 5"):
        NGram.count(np.array([5, END]), V, 2, END)
    with pytest.raises(ShapeError, match="Token id 40"):
        NGram.count(np.array([END, 40, END]), V, 2, END)
    with pytest.raises(UsageError, match="order"):
        NGram.count(np.array([END, 5, END]), V, 0, END)
    with pytest.raises(UsageError, match="order"):
        best_order(np.array([END, 5, END]), None, V, END, [0])
    with pytest.raises(ShapeError, match="Token id -1"):
        model.score(np.array([END, -1]))
    with pytest.raises(ShapeError, match="segments"):
        model.log_probabilities(Inputs(torch.tensor([[END]]), segments=torch.tensor([[0]])))
    with pytest.raises(ShapeError, match="cache holds 2"):
        model.log_probabilities(Inputs(torch.tensor([[END]])), model.cache(2))


@pytest.mark.data
def test_tiny_shakespeare(data):
    """Know-how, measured independently with 65 characters in the vocabulary: 1.5612, 1.5226, 1.5165, 1.5192 nats; 5 seconds."""
    text = gzip.open(data("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8").read()
    ids = {character: place + 261 for place, character in enumerate(sorted(set(text)))}
    tokens = np.array([ids[character] for character in text], np.int32)
    train, test = (np.concatenate([[0], part, [0]]) for part in (tokens[:1003854], tokens[-111540:]))
    start = time.process_time()
    model = NGram.count(train, 326, 7, 0)
    assert time.process_time() - start < 5
    assert -model.score(test)[:-1].mean() == pytest.approx(1.5165, rel=5e-3)
    order, losses = best_order(train, test, 326, 0, range(5, 9))
    assert order == 7
    assert [losses[each] for each in (5, 6, 7, 8)] == pytest.approx([1.5612, 1.5226, 1.5165, 1.5192], rel=5e-3)


@pytest.mark.data
@pytest.mark.slow
def test_tang_poems(data):
    """Know-how, measured independently over poems that each end with a line break: 5.2204, 4.9331, 4.8398, 4.8025 nats."""
    with gzip.open(data("chinese_poetry") / "tang.jsonl.gz", "rt", encoding="utf-8") as lines:
        poems = [json.loads(line)["text"] + "\n" for line in lines]
    ids = {character: place + 261 for place, character in enumerate(sorted(set("".join(poems))))}
    order = np.random.default_rng(0).permutation(len(poems))
    cut = int(0.9 * len(poems))

    def shard(rows: np.ndarray) -> np.ndarray:
        return np.array([0] + [each for row in rows for each in [*(ids[character] for character in poems[row]), 0]], np.int32)

    _, losses = best_order(shard(order[:cut]), shard(order[cut:]), 261 + len(ids), 0, range(2, 6))
    assert [losses[each] for each in (2, 3, 4, 5)] == pytest.approx([5.2204, 4.9331, 4.8398, 4.8025], rel=5e-3)


@pytest.mark.parametrize("end", [1 << 20, 1 << 44, 1 << 54, 1 << 62])
def test_keys_are_sorted_with_their_places_whether_or_not_both_fit_into_one_number(end):
    draw = np.random.default_rng(3)
    keys, places = draw.integers(0, end, 5000), draw.permutation(1 << 20)[:5000].astype(np.int64)
    keys[::3] = keys[0]
    keys[-1] = end - 1
    ordered, moved = in_order(keys, places, end, 1 << 20)
    assert np.array_equal(ordered, np.sort(keys)) and sorted(zip(ordered, moved, strict=True)) == sorted(zip(keys, places, strict=True))
