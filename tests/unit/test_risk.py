"""Risk of rows of a table: its probabilities are calibrated on rows that the model has not seen."""

import json

import numpy as np
import pytest

from zhixing import prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.log import quiet
from zhixing.evaluation.predict import predict_rows
from zhixing.metrics import labels as judged
from zhixing.models.tables import nearly_numbers
from zhixing.preparation.prepare import Prepare
from zhixing.serving.asks import items_of
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import Served
from zhixing.tasks.artefact import load
from zhixing.tasks.risk import Risk, calibrated, fit_table, settle
from zhixing.tasks.task import from_dict, to_dict


def make(count: int, seed: int = 0) -> list[dict]:
    """Draw rows whose event has the log-odds 2 a - b - 1."""
    source = np.random.default_rng(seed)
    a, b = source.normal(size=(2, count))
    happened = source.random(count) < 1 / (1 + np.exp(1 + b - 2 * a))
    return [{"row": {"a": x, "b": y}, "label": "yes" if z else "no"} for x, y, z in zip(a.tolist(), b.tolist(), happened, strict=True)]


@pytest.mark.parametrize("labels", [2, 3])
def test_calibration_finds_a_slope_and_shifts(labels):
    source = np.random.default_rng(0)
    true = 2 * source.normal(size=(20_000, labels))
    true -= np.logaddexp.reduce(true, 1, keepdims=True)
    happened = (np.log(source.random(20_000))[:, None] < np.log(np.cumsum(np.exp(true), 1))).argmax(1)
    wrong = 1.5 * true + np.arange(labels)
    wrong = np.exp(wrong - np.logaddexp.reduce(wrong, 1, keepdims=True))
    task = settle(Risk(tuple("abc"[:labels]), ("x",)), wrong, happened)
    assert task.temperature == pytest.approx(1.5, abs=0.05) and np.diff(task.shifts) == pytest.approx(-1 / 1.5, abs=0.05)
    np.testing.assert_allclose(np.exp(calibrated(task, wrong)), np.exp(true), atol=0.03)
    assert from_dict(json.loads(json.dumps(to_dict(task)))) == task
    few = settle(Risk(("a", "b"), ("x",)), np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    assert 0.5 < few.temperature <= 1 and abs(np.diff(few.shifts)) < 0.2 and set(few.thresholds.values()) == {None}


@pytest.mark.parametrize("method", ["trees", "table_logistic"])
def test_fitted_models_are_calibrated(method):
    rows, held, test = make(1500), make(500, 1), make(3000, 2)
    task = Risk.fit(rows)
    settled, model, about = fit_table(task, rows, held, {"method": method}, quiet)
    assert about["method"] == method and settled.shifts and settled.support
    items = [settled.encode({"row": each["row"]}, None) for each in test]
    answers = list(settled.answers(model, items, None))
    values = settled.metrics(answers, test)
    assert judged.calibration_beyond_chance(values["risk"], values["event"]) < 0.05
    assert all(set(each.reasons) <= {"a", "b"} for each in answers[:20])
    np.testing.assert_allclose(
        values["risk"], np.exp(calibrated(settled, model.probabilities([each["row"] for each in items])))[:, 1], atol=1e-12
    )


def test_forests_learn_of_validation_unless_they_are_judged_on_it():
    rows, held = make(300), make(100, 1)
    task = Risk.fit(rows)
    for settings, seen in (({}, 400), ({"refit": False}, 300)):
        settled, model, _ = fit_table(task, rows, held, {"method": "trees", **settings}, quiet)
        assert (
            model.config.forests == 6
            and model.forest.cover[model.forest.roots].max() == pytest.approx(seen * 2 / 3, abs=2)
            and settled.shifts
        )
    for few, apart in ((rows[:100], held[:40]), (rows[:100], [])):
        settled, model, _ = fit_table(task, few, apart, {"method": "trees"}, quiet)
        assert model.config.forests == 1 and bool(settled.shifts) == bool(apart)


def test_a_cell_that_makes_a_column_names_is_told(tmp_path):
    rows = [{"age": each, "city": "ab"[each % 2], "code": None} for each in range(40)]
    assert nearly_numbers(rows) == {}
    rows[7]["age"] = "unknown"
    assert nearly_numbers(rows) == {"age": (39, 1, "unknown")}
    rows[8:11] = [{**each, "age": "?"} for each in rows[8:11]]
    assert nearly_numbers(rows) == {}, "a column of numbers and names"
    cells = [f"{each},{'ab'[each % 3 % 2]},{'yes' if each % 2 else 'no'}" for each in range(80)]
    (tmp_path / "a.csv").write_text("\n".join(["age,city,label", *cells, "unknown,a,no"]) + "\n", "utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "corpus", Prepare(task="risk", validation=0.0, test=0.0))
    told: list = []
    settings = {"model": "table_logistic"}
    train(tmp_path / "corpus", tmp_path / "model", settings, tell=lambda code, **values: told.append((code, values)))
    assert ("train.nearly_numbers", {"column": "age", "numbers": 80, "others": 1, "value": "unknown"}) in told
    clean = [{"row": {"age": float(each)}, "label": "yn"[each % 2]} for each in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({**each["row"], "label": each["label"]}) + "\n" for each in clean), "utf-8")
    (tmp_path / "v.jsonl").write_text('{"age": "?", "label": "y"}\n{"age": 3, "label": "n"}\n', "utf-8")
    prepare(tmp_path / "t.jsonl", tmp_path / "held", Prepare(task="risk", validation_source=str(tmp_path / "v.jsonl"), test=0.0))
    told.clear()
    with pytest.raises(DataError, match="'[?]' in the column 'age'"):
        train(tmp_path / "held", tmp_path / "trees", {"model": "trees"}, tell=lambda code, **values: told.append((code, values)))
    assert "train.nearly_numbers" in [code for code, _ in told], "a cell of validation counts as well"


def test_a_cell_that_cannot_be_is_the_problem_of_its_row(tmp_path):
    cells = [f"{each},{'ab'[each % 3 % 2]},{'yes' if each % 2 else 'no'}" for each in range(80)]
    (tmp_path / "a.csv").write_text("\n".join(["age,city,label", *cells]) + "\n", "utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "corpus", Prepare(task="risk", validation=0.0, test=0.0))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "table_logistic"})
    (tmp_path / "b.csv").write_text("age,city\n3,a\nold,b\n5,a\n", "utf-8")
    counts = predict_rows(tmp_path / "model", tmp_path / "b.csv", tmp_path / "out.jsonl")
    assert counts["rows"] == 3 and counts["problems"] == 1 and counts["answered"] == 2
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [bool(each.get("problem")) for each in found] == [False, True, False]
    assert found[1]["problem"].endswith("b.csv:3: table.cell: The column 'age' holds 'old'.")
    with pytest.raises(DataError) as refused:  # before the rows wait for their turn among those of others
        sent = PredictRequest(model="model", rows=[{"row": {"age": 3, "city": "a"}}, {"row": {"age": "old", "city": "b"}}])
        items_of(sent, Served("model", load(tmp_path / "model"), ""), Limits())
    assert (refused.value.code, refused.value.values["param"]) == ("table.cell", "rows.1") and "'age' holds 'old'" in str(refused.value)
    with pytest.raises(DataError, match=r"rows\[1\]: The column 'age' holds 'old'"):
        load(tmp_path / "model").predict([{"row": {"age": 3}}, {"row": {"age": "old"}}])
    (tmp_path / "c.csv").write_text("city\na\n", "utf-8")
    told = []
    predict_rows(tmp_path / "model", tmp_path / "c.csv", tmp_path / "c.jsonl", tell=lambda code, **values: told.append((code, values)))
    assert ("predict.lacking_cells", {"names": "age", "columns": "city"}) in told


def test_cells_are_read_alike_by_the_interface_and_the_server(tmp_path):
    cells = [f"{each},{'12x'[each % 5 % 3]},{'yes' if each % 2 else 'no'}" for each in range(80)]
    (tmp_path / "a.csv").write_text("\n".join(["age,code,label", *cells]) + "\n", "utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "corpus", Prepare(task="risk", validation=0.0, test=0.0))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "table_logistic"})
    model = load(tmp_path / "model")
    served = Served("model", model, "")

    def sent(row: dict) -> list:
        return items_of(PredictRequest(model="model", rows=[{"row": row}]), served, Limits())

    for row in ({"age": "30", "code": "1.0"}, {"age": " ", "code": 2}, {"age": None}, {"age": 1e308}, {"age": -1e308, "code": "x"}):
        answered = next(model.task.answers(model.model, sent(row), None))
        assert answered.scores == model.predict([{"row": row}])[0].scores and np.isfinite(answered.confidence)
    assert sent({"age": "30", "code": "1.0"}) == sent({"age": 30, "code": 1})
    for row, reason in (({}, "no_cells"), ({"age": 10**400}, "not_cell")):
        with pytest.raises(UsageError) as refused:
            sent(row)
        assert refused.value.values["reason"] == reason and refused.value.values["param"] == "rows.0.row"
        with pytest.raises(UsageError):
            model.predict([{"row": row}])
    (tmp_path / "b.jsonl").write_text(f'{{"age": {10**400}}}\n{{"age": 3}}\n', "utf-8")
    counts = predict_rows(tmp_path / "model", tmp_path / "b.jsonl", tmp_path / "out.jsonl")
    assert counts["problems"] == 1 and counts["answered"] == 1


@pytest.mark.parametrize("model", ["trees", "table_logistic"])
def test_a_column_without_a_cell_says_nothing(tmp_path, model):
    cells = [f"{each % 7},,{5 if each == 150 else ''},{'z' if each == 9 else ''},{'yes' if each % 7 > 3 else 'no'}" for each in range(300)]
    (tmp_path / "a.csv").write_text("\n".join(["age,empty,rare,name,label", *cells]) + "\n", "utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "corpus", Prepare(task="risk", validation=0.1, test=0.0))
    train(tmp_path / "corpus", tmp_path / "model", {"model": model})
    opened = load(tmp_path / "model")
    plain, *others = [opened.predict([{"row": {"age": 6, "empty": each}}])[0] for each in (None, "hello", 3, "4")]
    assert plain.value == "yes" and plain.confidence > 0.9
    assert all(each.scores == plain.scores for each in others)


def test_a_column_of_validation_alone_is_not_told(tmp_path):
    cells = [f"{each},{'yes' if each % 2 else 'no'}" for each in range(80)]
    (tmp_path / "a.csv").write_text("\n".join(["age,label", *cells]) + "\n", "utf-8")
    more = [f"{each},{'?' if each == 3 else each},{'yes' if each % 2 else 'no'}" for each in range(40)]
    (tmp_path / "v.csv").write_text("\n".join(["age,extra,label", *more]) + "\n", "utf-8")
    prepare(tmp_path / "a.csv", tmp_path / "corpus", Prepare(task="risk", validation_source=str(tmp_path / "v.csv"), test=0.0))
    told = []
    train(tmp_path / "corpus", tmp_path / "model", {"model": "table_logistic"}, tell=lambda code, **values: told.append(code))
    assert "train.nearly_numbers" not in told
