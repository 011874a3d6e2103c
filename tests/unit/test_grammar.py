"""The weighted grammar: exact against every derivation, one distribution, caches, saving, learning, and rules that can be read."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from zhixing.cli.app import main
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.layers.kinds import Countable, Inputs
from zhixing.models import grammar
from zhixing.models.grammar import Counts, Grammar, GrammarConfig, expect
from zhixing.models.ngram import NGram
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.training.train import train

V, END = 12, 1


def make(classes: int = 4, seed: int = 0, sharp: float = 1.0) -> Grammar:
    """Make a grammar of random weights; class 0 writes the end token, which no other class does."""
    draw = np.random.default_rng(seed)
    emissions = draw.exponential(1.0, (V, classes)) ** sharp
    emissions[END], emissions[:, 0], emissions[END, 0] = 0, 0, 1
    return Grammar(GrammarConfig(V, classes, END), draw.exponential(1.0, (classes, classes)) ** sharp, emissions)


def derive(model: Grammar, text: list[int]) -> float:
    """Give p(text after its first token | that token) by adding up every derivation: each a chain of rules, class -> token class'."""
    total = opened = 0.0
    for path in itertools.product(range(model.config.classes), repeat=len(text) + 1):
        weight = model.unread[path[0]]
        for place, token in enumerate(text):
            weight *= model.emissions[token, path[place]] * model.transitions[path[place], path[place + 1]]
        total += weight
    for path in itertools.product(range(model.config.classes), repeat=2):
        opened += model.unread[path[0]] * model.emissions[text[0], path[0]] * model.transitions[path]
    return total / opened


@pytest.mark.parametrize("text", [[END, 3], [END, 3, 5, 2], [END, 3, END, 7, 7], [4, 4, 9]])
def test_a_text_weighs_as_much_as_all_its_derivations(text):
    model = make()
    assert np.exp(model.score(np.array(text)).sum()) == pytest.approx(derive(model, text), rel=1e-10)


HISTORIES = [[END], [END, 6], [END, 5, 11, 9, 7], [6, END, 6], [0], [2] * 70]


@pytest.mark.parametrize("sharp", [1.0, 6.0])
def test_distributions_sum_to_one(sharp):
    model = make(sharp=sharp)
    for history in HISTORIES:
        p = np.exp([model.score(np.array([*history, token]))[-1] for token in range(V)])
        assert p.sum() == pytest.approx(1, abs=1e-12) and (p > 0).all()
        cached = model.log_probabilities(Inputs(torch.tensor([history])))
        assert cached.shape == (1, V) and cached.dtype == torch.float32
        np.testing.assert_allclose(cached[0].exp().numpy(), p, rtol=1e-5)
    model.emissions[2] *= 1.01
    assert abs(np.exp([model.score(np.array([END, token]))[-1] for token in range(V)]).sum() - 1) > 1e-4, "the sum sees an error"


def test_nothing_is_carried_over_an_end_token():
    model = make()
    after = model.score(np.array([END, 7, 3, 3, 11, END, 4, 5]))
    np.testing.assert_allclose(after[-2:], model.score(np.array([END, 4, 5])), rtol=1e-12)


def slowly(model: Grammar, tokens: np.ndarray) -> np.ndarray:
    """Score one token at a time."""
    beliefs, scores = model.unread[None], []
    for token, target in itertools.pairwise(tokens.tolist()):
        beliefs = model.step(beliefs, np.array([token]))
        scores.append(np.log((beliefs @ model.emissions.T)[0, target]))
    return np.array(scores)


@pytest.mark.parametrize("lane", [1, 3, 40])
def test_lanes_score_as_one(lane, monkeypatch):
    """One grammar soon forgets how it began; the other never does, and where a lane guessed wrong it must be read again."""
    tokens = np.concatenate([[END], np.random.default_rng(1).integers(2, V, 200)])
    rounds = np.eye(5)[[1, 2, 3, 4, 1]] + 1e-12  # 1 -> 2 -> 3 -> 4 -> 1, and every class but the first writes nearly alike
    emissions = 1 + 0.01 * np.random.default_rng(2).random((V, 5))
    emissions[END], emissions[:, 0], emissions[END, 0] = 0, 0, 1
    stubborn = Grammar(GrammarConfig(V, 5, END), rounds, emissions)
    monkeypatch.setattr(grammar, "LANE", lane)
    read: list[int] = []
    whole = Grammar._read_lanes
    monkeypatch.setattr(Grammar, "_read_lanes", lambda self, *given: read.append(len(given[1])) or whole(self, *given))
    for model, again in ((make(), 0), (stubborn, 200 // lane - 1)):
        read.clear()
        np.testing.assert_allclose(model.score(tokens), slowly(model, tokens), rtol=1e-8)
        assert (len(read) - 1 <= 200 // lane // 4) if not again else len(read) - 1 >= again // 2
    monkeypatch.setattr(grammar, "APART", np.inf)
    assert abs(stubborn.score(tokens) - slowly(stubborn, tokens)).max() > 1e-6, "unless it is, the scores are others"


def test_cached_equals_scored():
    model = make(6, 3)
    tokens = np.concatenate([[END], np.random.default_rng(1).integers(0, V, 60)])
    cache, stepped = model.cache(1), []
    for token, target in itertools.pairwise(tokens.tolist()):
        stepped.append(model.log_probabilities(Inputs(torch.tensor([[token]])), cache)[0, target].item())
    np.testing.assert_allclose(stepped, model.score(tokens), atol=1e-5)


def test_cache_rows_join_crop_and_padding():
    model = make(5, 2)
    texts = [[END, 6, 2, 9, 7], [END, 9]]
    alone = [model.log_probabilities(Inputs(torch.tensor([text])))[0] for text in texts]
    cache = model.cache(2)
    padded = Inputs(torch.tensor([texts[0], texts[1] + [0, 0, 0]]), lengths=torch.tensor([5, 2]))
    torch.testing.assert_close(model.log_probabilities(padded, cache), torch.stack(alone))
    swapped = cache.rows(torch.tensor([1, 0])).join(cache.rows(torch.tensor([1])))
    step = torch.tensor([[6], [8], [6]])
    answers = model.log_probabilities(Inputs(step), swapped)
    for row, text in enumerate(([END, 9, 6], [*texts[0], 8], [END, 9, 6])):
        torch.testing.assert_close(answers[row], model.log_probabilities(Inputs(torch.tensor([text])))[0])
    swapped.crop(2)
    answers = model.log_probabilities(Inputs(step), swapped)
    for row, text in enumerate(([END, 9, 6], [END, 6, 8], [END, 9, 6])):
        torch.testing.assert_close(answers[row], model.log_probabilities(Inputs(torch.tensor([text])))[0])
    assert cache.texts == texts, "the rows that were taken are copies"


def test_expected_counts_are_those_of_all_paths():
    model = make(3, 5)
    transitions, emissions = model.transitions.astype(np.float32), model.emissions.astype(np.float32)
    start = np.array([0.2, 0.5, 0.3])
    rows = np.array([[4, END, 6, 4], [2, 2, 9, 10]])
    moves, writes = np.zeros((3, 3)), np.zeros((V, 3))
    for row in rows:
        weights = {}
        for path in itertools.product(range(3), repeat=4):
            weight = start[path[0]] * np.prod([emissions[token, c] for token, c in zip(row, path, strict=True)])
            weights[path] = weight * np.prod([transitions[move] for move in itertools.pairwise(path)])
        for path, weight in weights.items():
            share = weight / sum(weights.values())
            for move in itertools.pairwise(path):
                moves[move] += share
            for token, c in zip(row, path, strict=True):
                writes[token, c] += share
    found = expect(transitions, emissions, start, rows)
    np.testing.assert_allclose(found[0], moves, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], writes, rtol=1e-4, atol=1e-6)
    assert found[1].sum() == pytest.approx(8) and found[0].sum() == pytest.approx(6)


def test_weights_leave_nothing_without_some():
    base = np.full(V, 0.5)
    base[4], base[END] = 100, 0
    transitions, emissions = Counts(np.zeros((3, 3)), np.zeros((V, 3)), base).weights(END)
    np.testing.assert_allclose(transitions.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(emissions.sum(0), 1, rtol=1e-6)
    assert (transitions > 0).all() and emissions[END].tolist() == [1, 0, 0] and emissions[:, 0].sum() == 1
    assert (np.delete(emissions, END, 0)[:, 1:] > 0).all() and emissions[4, 1] > 0.9


@pytest.mark.parametrize("faded", [0.0, 1.0])
def test_counts_that_fade_are_the_blend_of_all_steps(faded, monkeypatch):
    monkeypatch.setattr(grammar, "FADED", faded)
    text, base = moody(1, 600)[:600].reshape(-1, 20), np.ones(V)
    base[END] = 0
    known = Counts.start(base, 4, np.random.default_rng(0))
    moves, writes = known.moves.copy(), known.writes.copy()
    for place, rate in enumerate((0.7, 0.5, 0.4)):
        rows = text[place * 5 : place * 5 + 5]
        found = expect(*known.weights(END), known.shares(), rows)
        known.learn(rows, END, 6.0, rate)
        moves, writes = (1 - rate) * moves + rate * 6 * found[0], (1 - rate) * writes + rate * 6 * found[1]
        np.testing.assert_allclose(known.moves, moves, rtol=1e-6)
        np.testing.assert_allclose(known.writes * known.scale, writes, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(known.totals, writes.sum(0), rtol=1e-6)


def moody(seed: int, length: int) -> np.ndarray:
    """Write from a hidden grammar: two moods that last, told apart only by what is frequent in them; no pair of tokens says which."""
    draw, mood, tokens = random.Random(seed), 0, [END]
    for place in range(length):
        mood ^= draw.random() < 0.02
        tokens.append(draw.choices(range(2, 8), (8, 8, 8, 1, 1, 1) if mood else (1, 1, 1, 8, 8, 8))[0])
        if place % 500 == 499:
            tokens.append(END)
    return np.array([*tokens, END])


def test_a_hidden_grammar_is_learnt():
    learnt, held, test = moody(1, 20_000), moody(2, 3000), moody(3, 3000)
    model, losses = Grammar.learn(learnt, V, 4, END, seed=0, held=held)
    nats = {order: -NGram.count(np.concatenate([held, learnt[1:]]), V, order, END).score(test).mean() for order in (1, 2)}
    mine = -model.score(test).mean()
    assert mine < nats[2] - 0.01 < nats[1], "memory longer than a pair"
    assert 1 < len(losses) <= grammar.PASSES and losses[0] > min(losses) + 0.1


def test_learning_depends_on_the_text_and_the_seed_alone():
    one, again, other = (Grammar.learn(moody(1, 1500), V, 4, END, seed, moody(2, 300))[0] for seed in (1, 1, 2))
    assert all(np.array_equal(again.weights[name], one.weights[name]) for name in one.weights)
    assert not np.array_equal(other.weights["emissions"], one.weights["emissions"])


def test_the_last_pass_learns_from_validation_as_well():
    learnt, held = moody(1, 2000), np.array([END, *[9] * 300, END])
    alone, _ = Grammar.learn(learnt, V, 3, END)
    both, _ = Grammar.learn(learnt, V, 3, END, held=held)
    assert both.score(held).mean() > alone.score(held).mean() + 1


@pytest.mark.parametrize("tokens", [[END], [END, END], [END, 5, END], [END, *[5, 6] * 200, END]])
def test_tiny_texts(tokens):
    for held in (None, np.array([END]), np.array([END, 5, END])):
        model, _ = Grammar.learn(np.array(tokens), V, 3, END, held=held)
        p = model.log_probabilities(Inputs(torch.tensor([[END, 7]]))).double().exp()
        assert p.sum() == pytest.approx(1, abs=1e-6) and (p > 0).all()
        assert np.isfinite(model.score(np.array([END, *range(V), END]))).all()


def test_a_long_text_is_sampled(monkeypatch):
    monkeypatch.setattr(grammar, "VISITS", 5000)
    model, losses = Grammar.learn(moody(1, 20_000), V, 4, END, held=moody(2, 1000))
    test = moody(3, 2000)
    assert len(losses) == 1 and -model.score(test).mean() < -NGram.count(moody(1, 20_000), V, 1, END).score(test).mean() + 0.02


def test_saved_model_scores_to_the_bit():
    model, _ = Grammar.learn(moody(1, 3000), V, 4, END)
    assert isinstance(model, Countable)
    config = json.loads(json.dumps({"architectures": ["Grammar"], **model.to_dict()}))
    again = Grammar.from_tensors({name: value for name, value in config.items() if name != "architectures"}, model.tensors())
    np.testing.assert_array_equal(again.score(moody(5, 500)), model.score(moody(5, 500)))
    assert again.config == model.config == GrammarConfig(V, 4, END)
    for tensors, code in (
        ({"transitions": model.tensors()["transitions"]}, "model.tensor_missing"),
        (model.tensors() | {"emissions": torch.ones(3, 4)}, "model.tensor_shape"),
    ):
        with pytest.raises(DataError) as caught:
            Grammar.from_tensors(model.to_dict(), tensors)
        assert caught.value.code == code and "emissions" in caught.value.text("en")


def test_rules_are_the_strongest():
    model = make(3, 4)
    found = model.rules(500)
    every = {
        (left, token, right): model.unread[left] * model.emissions[token, left] * model.transitions[left, right]
        for left, token, right in itertools.product(range(3), range(V), range(3))
    }
    assert len(found) == len(every) and sum(rule.share for rule in found) == pytest.approx(1)
    assert [rule.share for rule in found] == sorted((rule.share for rule in found), reverse=True)
    for rule in found:
        assert rule.share == pytest.approx(every[rule.left, rule.token, rule.right])
        assert rule.weight == pytest.approx(model.emissions[rule.token, rule.left] * model.transitions[rule.left, rule.right])
    assert model.rules(5) == found[:5]
    assert model.emissions[model.members(2, 3), 2].tolist() == sorted(model.emissions[:, 2])[::-1][:3]


def test_what_cannot_be():
    model = make()
    with pytest.raises(UsageError, match="1 classes"):
        Grammar.learn(np.array([END, 5, END]), V, 1, END)
    with pytest.raises(DataError, match="begins with token 5"):
        Grammar.learn(np.array([5, END]), V, 3, END)
    for wrong in ([END, V], [END, -1]):
        with pytest.raises(ShapeError, match="Token id"):
            model.score(np.array(wrong))
    with pytest.raises(ShapeError, match="segments"):
        model.log_probabilities(Inputs(torch.tensor([[END]]), segments=torch.tensor([[0]])))
    with pytest.raises(ShapeError, match="cache holds 2"):
        model.log_probabilities(Inputs(torch.tensor([[END]])), model.cache(2))


def test_rules_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw = random.Random(4)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(draw.choices("小船 river runs and 石头".split(), k=9)) for _ in range(300)))
    prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(validation=0.1, test=0.1))
    folder = train(tmp_path / "corpus", tmp_path / "made", {"model": "grammar", "size": "tiny", "tokenizer": "words"})
    assert folder.card["chosen"]["classes"] == 32 and folder.card["chosen"]["passes"] >= 1
    assert folder.card["fitted_on"] == ["train", "validation"]
    assert main(["show", str(tmp_path / "made")]) == 0
    page = capsys.readouterr().out
    assert re.search(r"-> '小船' \d+", page) and "' river'" in page
    assert main(["show", str(tmp_path / "made"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["grammar"]
    assert len(told["rules"]) == 20 and told["rules"][0]["share"] >= told["rules"][1]["share"] > 0
    assert len(told["classes"]) == 12 and all(len(each["writes"]) == 6 for each in told["classes"])


@pytest.mark.data
def test_tiny_shakespeare(data, monkeypatch):
    """Classes of characters with memory: better than pairs of characters, which are better than characters alone."""
    import gzip

    with gzip.open(data("tiny_shakespeare") / "input.txt.gz", "rt", encoding="utf-8") as handle:
        text = handle.read()
    ids = {letter: place + 2 for place, letter in enumerate(sorted(set(text)))}
    tokens = np.array([END, *map(ids.__getitem__, text)])
    cut = int(0.9 * len(tokens))
    monkeypatch.setattr(grammar, "VISITS", 1_000_000)
    model, _ = Grammar.learn(tokens[:cut], len(ids) + 2, 64, END)
    nats = [-NGram.count(tokens[:cut], len(ids) + 2, order, END).score(tokens[cut - 1 :]).mean() for order in (1, 2, 3)]
    assert nats[2] < -model.score(tokens[cut - 1 :]).mean() < nats[1] - 0.1 < nats[0]
