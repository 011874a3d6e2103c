"""Models of tables: trees against scikit-learn, Shapley values against the sum over all sets, logistic regression, the commonest label."""

import itertools
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from zhixing.core.errors import DataError, UsageError
from zhixing.models import catalog, trees
from zhixing.models.tables import Columns, Majority, TableLogistic
from zhixing.models.trees import Trees


def reopen(model: Any) -> Any:
    """Save a model and open it again."""
    tensors = safetensors.numpy.load(safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in model.tensors().items()}))
    assert all(np.array_equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in model.tensors().items())
    return catalog.restore(json.loads(json.dumps(catalog.config(model))), tensors)


def make_table(count: int, labels: int = 2, seed: int = 0) -> tuple[list[dict], np.ndarray]:
    """Draw rows of numbers and categories, some missing, whose label hangs on both."""
    source = np.random.default_rng(seed)
    towns = ["Ost", "West", "北", "南"]
    rows, answers = [], []
    for _ in range(count):
        town, age, debt = int(source.integers(4)), float(source.normal()), float(source.normal())
        score = np.array([0.0, age * (1 if town < 2 else -1) + debt, 2 * (town == 3) - age])[:labels]
        answers.append(int((2 * score + source.gumbel(size=labels)).argmax()))
        row = {"age": age if source.random() > 0.2 else None, "town": towns[town], "debt": debt, "noise": int(source.integers(5))}
        if source.random() < 0.1:
            row["town"] = None
        rows.append(row)
    return rows, np.array(answers)


@pytest.mark.parametrize("labels", [2, 3])
def test_trees_read_as_scikit_learn_does(labels):
    rows, answers = make_table(400, labels)
    model = Trees.fit(rows, answers, labels, rounds=15)
    columns = Columns.learn(rows)
    assert columns.names == ("town", "age", "debt", "noise") and columns.categorical == 1
    peer = trees.start_growing(columns, trees.RATE, trees.LEAVES).set_params(max_iter=15)
    peer.fit(columns.read(rows), answers)
    test, _ = make_table(200, labels, 1)
    test[0] = {}
    test[1]["town"] = "Atlantis"
    p = model.probabilities(test)
    assert (model.forest.category != trees.NONE).any() and model.forest.missing_left.any()
    np.testing.assert_allclose(p, peer.predict_proba(columns.read(test)), atol=1e-10, rtol=0)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    opened = reopen(model)
    assert np.array_equal(opened.probabilities(test), p) and opened.to_dict() == model.to_dict()
    again = Trees.fit(rows, answers, labels, rounds=15)
    assert all(np.array_equal(again.tensors()[name], value) for name, value in model.tensors().items())
    assert model.probabilities([]).shape == (0, labels)


def expected(forest, table: np.ndarray, known: set[int], output: int, outputs: int) -> float:
    """Give the score expected where only some columns are known: down both ways, by their training rows, at the others."""
    goes = forest.decide(table[None])[0]

    def walk(node: int) -> float:
        if forest.feature[node] == trees.NONE:
            return float(forest.value[node])
        left, right = int(forest.left[node]), int(forest.right[node])
        if int(forest.feature[node]) in known:
            return walk(left if goes[node] else right)
        return (forest.cover[left] * walk(left) + forest.cover[right] * walk(right)) / forest.cover[node]

    return sum(walk(int(root)) for root in forest.roots[output::outputs])


@pytest.mark.parametrize("labels", [2, 3])
def test_reasons_are_exact_shapley_values(labels):
    rows, answers = make_table(400, labels)
    model = Trees.fit(rows, answers, labels, rounds=6)
    outputs = 1 if labels == 2 else 3
    table = model.columns.read(rows[:4])
    shares = model.contributions(rows[:4])
    assert shares.shape == (4, 4, labels)
    for row, output in itertools.product(range(4), range(outputs)):
        known = {
            chosen: expected(model.forest, table[row], set(chosen), output, outputs)
            for size in range(5)
            for chosen in itertools.combinations(range(4), size)
        }
        for column in range(4):
            total = 0.0
            for chosen, value in known.items():
                if column not in chosen:
                    weight = math.factorial(len(chosen)) * math.factorial(3 - len(chosen)) / math.factorial(4)
                    total += weight * (known[tuple(sorted((*chosen, column)))] - value)
            assert shares[row, column, output if outputs > 1 else 1] == pytest.approx(total, abs=1e-10)
        whole = model.scores(table)[row, output] - model._known_baseline()[output]
        assert shares[row, :, output if outputs > 1 else 1].sum() == pytest.approx(whole - known[()], abs=1e-10)
    said = model.reasons(rows[:4], 1, 2)
    for row, reasons in enumerate(said):
        assert len(reasons) <= 2 and all(share > 0 for _, share in reasons)
        assert [share for _, share in reasons] == sorted((share for _, share in reasons), reverse=True)
        assert all(shares[row, model.columns.names.index(name), 1] == share for name, share in reasons)
    assert model.reasons(rows[:4], 1, 2) == said


def test_growing_stops_when_held_rows_lose():
    rows, answers = make_table(300)
    held = make_table(200, seed=1)
    noise = np.random.default_rng(0).permutation(answers)
    assert Trees.fit(rows, noise, 2, held, leaves=8).config.rounds <= 2 * trees.ROUNDS
    model = Trees.fit(rows, answers, 2, held, leaves=8)
    longer = Trees.fit(rows, answers, 2, leaves=8, rounds=model.config.rounds + trees.ROUNDS * trees.PATIENCE)
    assert trees.judge(model.probabilities(held[0]), held[1]) <= trees.judge(longer.probabilities(held[0]), held[1])
    inside = Trees.fit(rows, answers, 2, leaves=8)
    assert 0 < inside.config.rounds < trees.MOST and (inside.probabilities(held[0]).argmax(1) == held[1]).mean() > 0.7
    assert Trees.fit(rows[:50], answers[:50], 2).config.rounds == trees.FEW_ROUNDS


@pytest.mark.parametrize("labels", [2, 3])
def test_several_forests_are_their_mean(labels):
    rows, answers = make_table(500, labels)
    whole, apart = Trees.average(rows, answers, labels, 6, leaves=8)
    table = whole.columns.read(rows)
    alone, logs = [], np.zeros((500, labels))
    for number in range(6):
        out = trees.deal_rows(answers, 3, number // 3) == number % 3
        assert all(abs((answers[out] == label).sum() - (answers == label).sum() / 3) < 1 for label in range(labels))
        held = table[out], answers[out]
        alone.append(Trees._grow(whole.columns, table[~out], answers[~out], labels, held, trees.RATE, 8, trees.MOST))
        logs[out] += np.log(alone[-1]._read(table[out])) / 2
    assert whole.config.forests == 6 and whole.config.rounds == sum(each.config.rounds for each in alone)
    np.testing.assert_allclose(apart, logs, atol=1e-12)
    np.testing.assert_allclose(whole.scores(table), np.mean([each.scores(table) for each in alone], 0), atol=1e-12)
    np.testing.assert_allclose(whole.contributions(rows[:5]), np.mean([each.contributions(rows[:5]) for each in alone], 0), atol=1e-12)
    opened = reopen(whole)
    assert np.array_equal(opened.probabilities(rows), whole.probabilities(rows)) and opened.to_dict() == whole.to_dict()


def test_rows_of_a_rare_label_are_in_all_forests():
    rows, answers = make_table(300)
    answers[[5, 50]] = 2
    model, apart = Trees.average(rows, answers, 4, 3, leaves=4)
    assert np.isnan(apart).any(1).nonzero()[0].tolist() == [5, 50] and np.isfinite(model.baseline).tolist() == [True, True, True, False]
    assert (model.probabilities(rows)[:, 2] > 0).all() and not model.probabilities(rows)[:, 3].any()


def test_labels_that_training_lacks():
    rows, answers = make_table(60)
    p = Trees.fit(rows, 2 * answers, 4, rounds=5).probabilities(rows)
    assert (p[:, [1, 3]] == 0).all() and (p[:, [0, 2]] > 0).all()
    alone = Trees.fit(rows, np.full(60, 1), 3)
    assert (alone.probabilities(rows) == [0, 1, 0]).all() and not alone.contributions(rows[:2]).any()
    opened = reopen(alone)
    assert (opened.probabilities(rows) == [0, 1, 0]).all()
    p = TableLogistic.fit(rows, 2 * answers, 4).probabilities(rows)
    assert (p[:, [1, 3]] < 1e-9).all()
    assert TableLogistic.fit(rows, np.full(60, 1), 3).probabilities(rows)[:, 1].min() > 0.999


@pytest.mark.parametrize("labels", [2, 3])
def test_logistic_is_scikit_learns_on_the_same_columns(labels):
    from sklearn.linear_model import LogisticRegression

    rows, answers = make_table(300, labels)
    model = TableLogistic.fit(rows, answers, labels, strength=2.0)
    wide = model.widen(model.columns.read(rows))
    assert wide.shape == (300, 3 + 3 + 4) and abs(wide[:, 3:6].mean(0)).max() < 1e-12
    peer = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(wide, answers)
    p = model.probabilities(rows)
    np.testing.assert_allclose(p, peer.predict_proba(wide), atol=1e-4)
    score = model.contributions(rows).sum(1) + model.bias
    np.testing.assert_allclose(np.exp(score - np.logaddexp.reduce(score, 1)[:, None]), p, atol=1e-12)
    opened = reopen(model)
    assert np.array_equal(opened.probabilities(rows), p)
    assert np.array_equal(TableLogistic.fit(rows, answers, labels, strength=2.0).weights, model.weights)
    held = make_table(200, labels, 1)
    nats = {each: TableLogistic.fit(rows, answers, labels, strength=each).probabilities(held[0]) for each in (100.0, 10.0, 1.0, 0.1)}
    best = min(nats, key=lambda each: trees.judge(nats[each], held[1]))
    assert TableLogistic.fit(rows, answers, labels, held).config.strength == best


def test_columns_say_what_they_are():
    rows = [{"a": 1, "b": "x", "c": None}, {"a": 2.0, "b": "y", "c": True}, {"b": "y", "a": float("nan")}]
    columns = Columns.learn(rows)
    assert columns == Columns(("b", "a", "c"), (("y", "x"), None, None)) == Columns.from_dict(json.loads(json.dumps(columns.to_dict())))
    np.testing.assert_array_equal(columns.read(rows), [[1, 1, np.nan], [0, 2, 1], [0, np.nan, np.nan]])
    codes = Columns.learn(rows, {"a": "category"})
    assert dict(zip(codes.names, codes.categories, strict=True))["a"] == ("1", "2", "nan")
    with pytest.raises(UsageError, match="'categry'.*'category'"):
        Columns.learn(rows, {"a": "categry"})
    with pytest.raises(UsageError, match="'d'"):
        Columns.learn(rows, {"d": "category"})
    with pytest.raises(DataError, match="no column"):
        Columns.learn([{}])
    with pytest.raises(DataError, match="Row 1 has a column 'agee'.*'age'"):
        Columns.learn([{"age": 1}]).read([{"agee": 1}])
    with pytest.raises(DataError, match="Row 2 has 'old' in the column 'age'"):
        Columns.learn([{"age": 1}]).read([{"age": 1}, {"age": "old"}])


def test_majority_gives_the_shares():
    model = Majority.fit(np.array([1, 1, 0, 1]), 3)
    np.testing.assert_array_equal(model.probabilities(["any", {"thing": 1}]), [[0.25, 0.75, 0]] * 2)
    opened = reopen(model)
    assert np.array_equal(opened.counts, model.counts)


@pytest.mark.parametrize("fit", [Trees.fit, TableLogistic.fit, lambda rows, *rest: Majority.fit(*rest)])
def test_rows_that_do_not_fit_are_named(fit):
    with pytest.raises(DataError, match="Row 1 has the label number 2"):
        fit([{"a": 1}, {"a": 2}], np.array([0, 2]), 2)
    with pytest.raises(DataError, match="0 rows"):
        fit([], np.array([], int), 2)


def test_reading_needs_neither_torch_nor_scikit_learn():
    rows, answers = make_table(40)
    model = Trees.fit(rows, answers, 2, rounds=2)
    config, tensors = json.dumps(model.to_dict()), json.dumps({name: value.tolist() for name, value in model.tensors().items()})
    program = (
        "import json, sys; import numpy as np; from zhixing.models.trees import Trees\n"
        "config, tensors = json.loads(sys.argv[1]), json.loads(sys.argv[2])\n"
        "kinds = {'bitsets': np.uint32, 'missing_left': bool}\n"
        "whole = {name: np.array(value, kinds.get(name)) for name, value in tensors.items()}\n"
        "whole['bitsets'] = whole['bitsets'].reshape(-1, 8)\n"
        "print(Trees.from_tensors(config, whole).probabilities([{'age': 1.0}]).shape, 'torch' in sys.modules, 'sklearn' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program, config, tensors], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["(1,", "2)", "False", "False"]
