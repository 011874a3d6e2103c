"""What counts over texts, items and answers: ridge regression, recommenders, practice; each against its definition or another program."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhixing.core.errors import DataError, UsageError
from zhixing.models import catalog, histories, ridge
from zhixing.models.histories import Practice
from zhixing.models.items import Ease, Neighbours, Popularity
from zhixing.models.ridge import Ridge


def reopen(model: Any) -> Any:
    """Save a model and open it again."""
    tensors = safetensors.numpy.load(safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in model.tensors().items()}))
    assert all(np.array_equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in model.tensors().items())
    return catalog.restore(json.loads(json.dumps(catalog.config(model))), tensors)


def make_answers(count: int, seed: int = 0) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Write references and answers; the value is how many words of the reference the answer has, with noise."""
    source = np.random.default_rng(seed)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "队", "栈") for b in ("ra", "tu", "列", "so")]
    rows, values = [], []
    for _ in range(count):
        reference = [str(word) for word in source.permutation(words)[:6]]
        kept = int(source.integers(7))
        answer = reference[:kept] + [str(word) for word in source.permutation(words)[: 6 - kept]]
        rows.append((" ".join(reference), " ".join(answer)))
        values.append(kept + 0.3 * source.normal())
    return rows, np.array(values)


def test_ridge_is_scikit_learns_and_leaves_one_out_exactly():
    from sklearn.linear_model import Ridge as Peer

    rows, values = make_answers(40)
    model = Ridge.fit(rows, values, strength=0.7)
    features = model.widen(rows).toarray()
    peer = Peer(0.7, solver="cholesky").fit(features, values)
    np.testing.assert_allclose(model.weights, peer.coef_, atol=1e-8)
    assert model.bias[0] == pytest.approx(peer.intercept_, abs=1e-8)
    keep = ~np.eye(40, dtype=bool)
    alone = [values[i] - Peer(0.7, solver="cholesky").fit(features[keep[i]], values[keep[i]]).predict(features[[i]])[0] for i in range(40)]
    exact = ridge.decompose(model.widen(rows), values)(0.7)
    assert exact[2] == pytest.approx(np.mean(np.square(alone)), rel=1e-8)
    searched = ridge.search(model.widen(rows), values)(0.7)
    np.testing.assert_allclose(searched[0], exact[0], atol=1e-3)


def test_ridge_learns_from_overlap_and_is_the_same_after_saving(monkeypatch):
    rows, values = make_answers(120)
    test, truth = make_answers(60, 1)
    model = Ridge.fit(rows, values)
    said = model.predict(test)
    assert np.corrcoef(said, truth)[0, 1] > 0.9
    assert model.config.low == values.min() <= said.min() and said.max() <= values.max() == model.config.high
    assert np.array_equal(reopen(model).predict(test), said)
    assert np.array_equal(Ridge.fit(rows, values).weights, model.weights)
    errors = {each: np.mean((Ridge.fit(rows, values, strength=each).predict(test) - truth) ** 2) for each in (0.03, 30.0)}
    held = Ridge.fit(rows, values, (test, truth))
    assert np.mean((held.predict(test) - truth) ** 2) <= min(errors.values()) + 1e-9
    monkeypatch.setattr(ridge, "EXACT_ROWS", 10)
    assert np.corrcoef(Ridge.fit(rows, values).predict(test), truth)[0, 1] > 0.9
    alone = Ridge.fit([(answer,) for _, answer in rows], values)
    assert alone.predict([("",)]).shape == (1,) and alone.predict([]).shape == (0,)
    swapped = Ridge.fit([(b, a) for a, b in rows[:20]], values[:20], strength=1.0)
    assert not np.array_equal(swapped.predict(test), Ridge.fit(rows[:20], values[:20], strength=1.0).predict(test))


def test_ridge_names_rows_that_do_not_fit():
    with pytest.raises(DataError, match="Row 1 has 1 texts"):
        Ridge.fit([("a", "b"), ("a",)], [1.0, 2.0])
    with pytest.raises(DataError, match="Row 0 has 1 texts.*2 texts in every row"):
        Ridge.fit(*make_answers(5)).predict([("a",)])
    with pytest.raises(DataError, match="Row 1 has the value nan"):
        Ridge.fit([("a",), ("b",)], [1.0, float("nan")])
    with pytest.raises(DataError, match="0 rows"):
        Ridge.fit([], [])
    with pytest.raises(UsageError, match="strength"):
        Ridge.fit([("a",)], [1.0], strength=-1.0)


def make_histories(count: int, items: int, seed: int = 0) -> list[list[int]]:
    """Draw histories, each of items that lie near each other; the last item is never drawn."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        middle = int(source.integers(items - 1))
        found.append([int((middle + step) % (items - 1)) for step in source.permutation(5)[: source.integers(1, 6)]])
    return found


@pytest.mark.parametrize(("users", "items"), [(8, 20), (60, 12)])
def test_ease_is_the_closed_form(users, items):
    rows = make_histories(users, items)
    model = Ease.fit(rows, items, 3.0, last=0)
    x = np.zeros((users, items))
    for user, history in enumerate(rows):
        x[user, history] = 1
    p = np.linalg.inv(x.T @ x + 3 * np.eye(items))
    weights = -p / np.diag(p)
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(model.scores(rows, unseen=False), x @ weights, atol=1e-5)
    np.testing.assert_allclose(model.scores(np.arange(items)[:, None].tolist(), unseen=False), weights, atol=1e-5)
    assert model.factors.shape[0] <= min(users, items)
    last = Ease.fit(rows, items, 3.0, last=2)
    assert np.array_equal(last.scores(rows, unseen=False), model.scores([row[-2:] for row in rows], unseen=False))


def test_neighbours_and_popularity_by_hand():
    rows = [[0, 1], [0, 1, 2], [1, 2], [3]]
    assert Popularity.fit(rows, 5).scores([[0]], unseen=False).tolist() == [[2, 3, 2, 1, 0]]
    model = Neighbours.fit(rows, 5, 2, 0.5)
    near = {(a, b): both / (np.sqrt(one * other) + 10) for a, b, both, one, other in [(0, 1, 2, 2, 3), (0, 2, 1, 2, 2), (1, 2, 2, 3, 2)]}
    wanted = [0.5 * near[0, 1], near[0, 1], 0.5 * near[1, 2] + near[0, 2], 0, 0]
    np.testing.assert_allclose(model.scores([[1, 0]], unseen=False)[0], wanted, rtol=1e-6)
    assert model.scores([[1, 0]])[0].tolist()[:2] == [-np.inf, -np.inf]
    assert model.scores([[1, 0, 1]], unseen=False)[0, 0] == pytest.approx(near[0, 1], rel=1e-6)


@pytest.mark.parametrize("family", [Popularity, Neighbours, Ease])
def test_recommenders_rule_out_what_was_seen_and_are_the_same_after_saving(family):
    rows = make_histories(50, 15)
    model = family.fit(rows, 15)
    scores = model.scores(rows)
    assert scores.shape == (50, 15)
    assert all({*np.flatnonzero(np.isneginf(row)).tolist()} == set(history) for row, history in zip(scores, rows, strict=True))
    np.testing.assert_array_equal(reopen(model).scores(rows), scores)
    assert all(np.array_equal(family.fit(rows, 15).tensors()[name], value) for name, value in model.tensors().items())
    np.testing.assert_allclose(model.scores(rows[3:4])[0], scores[3], atol=1e-9)
    assert np.isfinite(model.scores([[]])).all() and model.scores([]).shape == (0, 15)
    for wrong in (15, -1):
        with pytest.raises(DataError, match=f"Row 1 has the item number {wrong}"):
            family.fit([[0], [wrong]], 15)
        with pytest.raises(DataError, match="item number"):
            model.scores([[wrong]])
    with pytest.raises(DataError, match="to learn from"):
        family.fit([[]], 15)


def test_recommenders_beat_popularity_where_histories_say_more():
    rows, test = make_histories(400, 40), [each for each in make_histories(200, 40, 1) if len(each) > 1]
    scores = {family: family.fit(rows, 40).scores([row[:-1] for row in test]) for family in (Popularity, Neighbours, Ease)}
    hits = {
        family: np.mean([row[-1] in np.argsort(-given)[:5] for row, given in zip(test, table, strict=True)])
        for family, table in scores.items()
    }
    assert min(hits[Neighbours], hits[Ease]) > 0.8 and hits[Popularity] < 0.4


def test_unusable_settings_of_recommenders():
    for settings in ({"decay": 0.0}, {"decay": 1.5}, {"neighbours": 0}):
        with pytest.raises(UsageError, match="decay"):
            Neighbours.fit([[0, 1]], 2, **settings)
    with pytest.raises(UsageError, match="strength"):
        Ease.fit([[0, 1]], 2, 0.0)


def make_practice(count: int, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Draw learners who get better on a skill the more of it they had right, and skills of unequal ease."""
    source = np.random.default_rng(seed)
    skills, correct = [], []
    for _ in range(count):
        asked, given, right = [], [], np.zeros(4)
        for _ in range(int(source.integers(1, 30))):
            skill = int(source.integers(4))
            odds = skill - 2.5 + 1.2 * np.log1p(right[skill])
            answer = int(source.random() < 1 / (1 + np.exp(-odds)))
            right[skill] += answer
            asked.append(skill)
            given.append(answer)
        skills.append(asked)
        correct.append(given)
    return skills, correct


def test_practice_counts_what_was_before():
    counts = histories.count([[0, 1, 0, 0], [], [0, 0]], [[1, 0, 0, 1], [], [0, 1]], 2)
    assert counts.right.tolist() == [0, 0, 1, 1, 0, 0] and counts.wrong.tolist() == [0, 0, 0, 1, 0, 1]
    assert counts.right_all.tolist() == [0, 1, 1, 1, 0, 0] and counts.wrong_all.tolist() == [0, 0, 1, 2, 0, 1]


def test_practice_is_the_posterior_mode_and_learns():
    skills, correct = make_practice(150)
    model = Practice.fit(skills, correct, 4, 0.5)
    features = histories.widen(histories.count(skills, correct, 4), 4).toarray()
    answers = np.concatenate([np.array(row, float) for row in correct])
    p = np.concatenate(model.probabilities(skills, correct))
    slope = features.T @ (p - answers) + 0.5 * model.weights * (np.arange(17) >= histories.SHARED)
    assert abs(slope).max() < 0.1
    test = make_practice(60, 1)
    said, truth = np.concatenate(model.probabilities(*test)), np.concatenate(test[1])
    assert said[truth == 1].mean() - said[truth == 0].mean() > 0.2
    again = reopen(model)
    assert all(np.array_equal(a, b) for a, b in zip(again.probabilities(*test), model.probabilities(*test), strict=True))
    assert np.array_equal(Practice.fit(skills, correct, 4, 0.5).weights, model.weights)


def test_practice_looks_only_back_and_ahead_of_the_last():
    skills, correct = make_practice(20)
    model = Practice.fit(skills, correct, 4)
    p = model.probabilities(skills, correct)
    cut = model.probabilities([row[:3] for row in skills], [row[:3] for row in correct])
    assert all(np.allclose(whole[:3], part, atol=1e-12) for whole, part in zip(p, cut, strict=True))
    changed = model.probabilities(skills, [[*row[:-1], 1 - row[-1]] for row in correct])
    assert all(np.array_equal(a, b) for a, b in zip(p, changed, strict=True))
    ahead = model.ahead([row[:-1] for row in skills], [row[:-1] for row in correct])
    assert ahead.shape == (20, 4)
    np.testing.assert_allclose([row[each[-1]] for row, each in zip(ahead, skills, strict=True)], [each[-1] for each in p], atol=1e-12)
    assert model.probabilities([], []) == [] and model.ahead([], []).shape == (0, 4)


def test_practice_names_rows_that_do_not_fit():
    with pytest.raises(DataError, match="Row 1 has 2 skills and 1 answers"):
        Practice.fit([[0], [0, 1]], [[1], [1]], 2)
    for skill, answer in ((2, 1), (0, 2)):
        with pytest.raises(DataError, match=f"skill number {skill} with the answer {answer}"):
            Practice.fit([[0, skill]], [[1, answer]], 2)
    with pytest.raises(DataError, match="to learn from"):
        Practice.fit([[]], [[]], 2)
    with pytest.raises(DataError, match="2 rows and 1 answers"):
        Practice.fit([[], []], [[]], 2)


def test_ridge_reads_what_an_answer_leaves_out():
    fields = ridge.split_fields([("the sun", "sun sets"), ("日出", "日出东方")])
    assert [texts for texts, _ in fields[:2]] == [("the sun", "日出"), ("sun sets", "日出东方")]
    assert fields[2][0] == ["et ns se ts", "东方 出东"]
    assert len(ridge.split_fields([("one",)])) == 1
    draw = np.random.default_rng(0)
    words = ["gold", "lead", "zinc", "iron"]  # the first is worth three points, the others nothing
    rows = [(" ".join(word for word in words if draw.random() < 0.5), " ".join(words)) for _ in range(80)]
    values = [3.0 * ("gold" in row[0]) for row in rows]
    assert np.abs(Ridge.fit(rows[:60], values[:60]).predict(rows[60:]) - values[60:]).max() < 0.4
