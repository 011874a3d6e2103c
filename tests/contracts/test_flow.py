"""Every task of rows goes the whole way with no code: prepare, train, evaluate, predict, serve; one answer, whatever the door.

The rows are made here, each with a rule that can be learnt. A figure must be better than the least model's, perfect answers must score
best and shuffled ones like chance, and bad rows must be named by file and line.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import MAKERS, SMALL, TOLD

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.log import quiet
from zhixing.data.corpus import open_corpus
from zhixing.data.schema import Text
from zhixing.evaluation.evaluate import unread
from zhixing.evaluation.predict import predict_rows
from zhixing.models import catalog
from zhixing.preparation.prepare import Prepare
from zhixing.serving import asks
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models
from zhixing.studies import best as study
from zhixing.studies.best import best
from zhixing.tasks.task import TASKS, Answer, function, task_class
from zhixing.tokens.tokenizer import train_characters
from zhixing.training import settings

LONGER = {"grade": {"steps": 200}}
SLACK = 9.0  # seconds by which a busy machine may end a search too late: a call into a library is not broken off before it returns
TRAINED = {
    "classify": "bigru",
    "tag": "bilstm",
    "grade": "textcnn",
    "multilabel": "textcnn",
    "recommend": "gru",
    "trace": "qwen3",
    "see": "fusion",
}
TRAINED |= {"see": "fusion", "similar": "bigru"}
WITHOUT_LABELS = ("language", "masked", "embed", "judge")
APART = ("many", "match", "moderate", "reason", "transcribe")  # held by the same contract in tests of their own
FIELD = {"classify": "text", "tag": "tokens", "risk": "label", "grade": "score", "multilabel": "labels", "translate": "target"}
FIELD |= {"recommend": "items", "trace": "correct", "see": "label", "similar": "other"}


@pytest.fixture(params=sorted(MAKERS), scope="module")
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def rows(task: str) -> list[dict[str, Any]]:
    draw = random.Random(7)
    return [MAKERS[task](draw, number) for number in range(300)]


@pytest.fixture(scope="module")
def place(task: str, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp(task)
    (where / "rows.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    without = {"without": "number"} if task == "risk" else {}
    prepare(where / "rows.jsonl", where / "corpus", Prepare(task=task, validation=0.15, test=0.25, **without))
    counted = task_class(task).default in task_class(task).counted
    train(where / "corpus", where / "default", {} if counted else {**SMALL, "steps": 150})
    return where


def asked(task: str, row: dict[str, Any]) -> dict[str, Any]:
    """Give what a client sends of a row."""
    schema = task_class(task).schema
    if task == "risk":
        return {"row": {name: value for name, value in row.items() if name not in ("label", "number")}}
    return {name: row[name] for name in schema.asked.fields if name in row}


def test_every_task_of_rows_is_here() -> None:
    assert set(MAKERS) | set(WITHOUT_LABELS) | set(APART) == set(TASKS)


def test_the_default_beats_the_least_model(task: str, place: Path) -> None:
    report = evaluate(place / "default", place / "corpus", save=False)
    of = task_class(task)
    least, first = next(iter(of.counted)), report.figures[0]
    assert report.task == task and first.name == next(iter(of.figures)) and least in first.rivals
    assert first.value > first.rivals[least] + 0.1 and report.verdict in ("model", "tie")
    assert all(each.low is None or each.low <= each.value <= each.high for each in report.figures)
    corpus = open_corpus(place / "corpus")
    assert sum(corpus.counts.values()) + sum(corpus.card["rejected"].values()) == 300 and report.examples == corpus.counts["test"]


def test_one_answer_from_every_door(task: str, rows: list[dict[str, Any]], place: Path) -> None:
    model = load(place / "default")
    some = rows[:40]
    said = model.predict([asked(task, each) for each in some])
    (place / "some.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in some), encoding="utf-8")
    predict_rows(place / "default", place / "some.jsonl", place / "out.jsonl", force=True)
    out = [json.loads(line) for line in (place / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in out] == [each.value for each in said]
    assert [{name: each[name] for name in row} for each, row in zip(out, some, strict=True)] == some, "the rows come back as they were"
    served = open_models([place / "default"])["default"]
    request = PredictRequest(model="default", rows=[asked(task, each) for each in some])

    async def ask() -> list[Answer]:
        items = asks.items_of(request, served, Limits())
        return list(served.artefact.task.answers(served.artefact.model, items, served.artefact.tokenizer))

    assert [each.value for each in asyncio.run(ask())] == [each.value for each in said]
    if task == "risk":
        assert all(each.reasons and set(each.reasons) <= {"age", "job", "debt"} for each in said)


def test_the_best_is_chosen_by_validation_within_the_time(task: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LEAST_SECONDS", 1.5)
    of, minutes = task_class(task), 0.12
    given = {name: SMALL[name] for name in ("size", "width", "precision", "threads")} if of.eras else {}
    start = time.perf_counter()
    folder = best(place / "corpus", tmp_path / "made", minutes, given)
    assert time.perf_counter() - start < minutes * 60 + SLACK
    told = folder.card["best"]
    names = [each["name"] for each in told["candidates"]]
    assert set(of.counted) <= {*names, *told["late"]} == {*of.counted, *of.eras} and not set(names) & set(told["late"])
    assert of.counted.keys() & set(names)
    assert [each.name for each in tmp_path.iterdir()] == ["made"]
    opened = load(tmp_path / "made")
    assert opened.family == names[0] == told["winner"] and told["figure"] == next(iter(of.figures))
    values = [each["validation"]["value"] for each in told["candidates"]]
    assert values == sorted(values, reverse=not of.figures[told["figure"]].lower)
    for each in told["candidates"]:
        assert each["validation"]["low"] <= each["validation"]["value"] <= each["validation"]["high"]
        if each["name"] != names[0]:
            assert each["minus_winner"]["value"] == pytest.approx(each["validation"]["value"] - values[0], abs=1e-9)
    if names[0] in of.eras and told["units"] == open_corpus(place / "corpus").counts["validation"]:
        again = evaluate(opened, place / "corpus", "validation", rivals=False, save=False).figure(told["figure"])
        assert again.value == pytest.approx(values[0], abs=1e-6)
    assert evaluate(opened, place / "corpus", rivals=False, save=False).figures[0].value is not None


def test_what_is_judged_on_validation_has_not_counted_it(task: str, place: Path) -> None:
    """Fitted without the held rows, or by other held rows, a counted model is the same; trees only stop by them, followers are chosen."""
    corpus, of = open_corpus(place / "corpus"), task_class(task)
    rows, held = list(corpus.examples("train")), list(corpus.examples("validation"))
    made, differs = of.fit(rows), False
    for name, place_of in of.counted.items():
        given = {"method": name, **({"strength": 1.0} if "strength" in settings.TOLD[name] else {})}

        def fit(part: list[Any], refit: bool, name: str = name, of: str = place_of, given: dict[str, Any] = given) -> dict[str, Any]:
            return catalog.tensors(function(of)(made, rows, part, {**given, "refit": refit}, quiet)[1])

        if name not in ("trees", "copy", "item_followers"):
            first, second, both = fit(held, False), fit(held[: len(held) // 2], False), fit(held, True)
            assert first.keys() == second.keys() and all(np.array_equal(first[each], second[each]) for each in first), name
            differs |= any(np.shape(first[each]) != np.shape(both[each]) or not np.array_equal(first[each], both[each]) for each in first)
    assert differs or task in ("risk", "translate"), "the judge of this test: validation is counted where it may be"


def test_perfect_answers_score_best_and_shuffled_ones_at_chance(task: str, rows: list[dict[str, Any]], place: Path) -> None:
    model, of = load(place / "default").task, task_class(task)
    shown = [{**asked(task, each), of.schema.answer: each[of.schema.answer]} for each in rows]
    truth = [each[of.schema.answer] for each in shown]
    mixed = random.Random(1).sample(truth, len(truth))

    def judge(values: list[Any]) -> dict[str, float]:
        labels = getattr(model, "labels", ())
        sets = [value if isinstance(value, list) else [value] for value in values]
        scores = [{label: float(label in each) for label in labels} or None for each in sets]
        answers = [Answer(value, 1.0, each) for value, each in zip(values, scores, strict=True)]
        found = model.metrics(answers, shown)
        assert all(len(each) == len(shown) for each in found.values()), "one row an example"
        return {name: figure(found) for name, figure in of.figures.items()}

    best, chance = judge(truth), judge(mixed)
    for name, figure in of.figures.items():
        if math.isnan(best[name]):
            continue
        assert best[name] == pytest.approx(0.0 if figure.lower else 100.0 if name in ("bleu", "chrf") else 1.0, abs=1e-6), name
        assert (chance[name] > best[name] + 0.02) if figure.lower else (chance[name] < best[name] - 0.02), name


@pytest.mark.parametrize("way", ["missing", "wrong"])
def test_a_bad_row_is_named_by_file_and_line(task: str, rows: list[dict[str, Any]], tmp_path: Path, way: str) -> None:
    name = FIELD[task]
    broken = {each: value for each, value in rows[3].items() if each != name} if way == "missing" else {**rows[3], name: {"a": 1}}
    lines = [json.dumps(each, ensure_ascii=False) for each in (*rows[:3], broken, *rows[4:])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task=task))
    assert not (tmp_path / "corpus").exists()
    folder = prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task=task, drop_bad=True))
    assert sum(each for name, each in folder.card["rejected"].items() if name != "repeat") == 1 and folder.card["rows_in"] == 300


@pytest.mark.parametrize("name", sorted(TRAINED))
def test_a_trained_model_learns_the_task(name: str, tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = [MAKERS[name](draw, number) for number in range(240)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task=name, validation=0.15, test=0.25))
    train(tmp_path / "corpus", tmp_path / "model", {"model": TRAINED[name], **SMALL, **LONGER.get(name, {})})
    report = evaluate(tmp_path / "model", tmp_path / "corpus", save=False)
    first = report.figures[0]
    assert first.value > first.rivals[next(iter(task_class(name).counted))] + 0.1
    again = load(tmp_path / "model")
    assert again.family == TRAINED[name] and again.predict([asked(name, rows[0])])[0].value is not None


def test_a_figure_that_nothing_can_be_made_of_is_left_out(tmp_path: Path) -> None:
    """Of two new answers to one new question, both with one score, no agreement can be told: the report is written without it."""
    draw = random.Random(5)
    seen = [MAKERS["grade"](draw, number) for number in range(80)]
    fresh = [{**MAKERS["grade"](draw, number), "question": "A new one", "score": 2.0} for number in range(30)]
    for name, rows in (("train", seen), ("test", fresh)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(tmp_path / "train.jsonl", tmp_path / "corpus", Prepare(task="grade", test_source=str(tmp_path / "test.jsonl")))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "mean_score"})
    report = evaluate(tmp_path / "model", tmp_path / "corpus")
    assert all(each.value is not None and not math.isnan(each.value) for each in report.figures)
    assert not any(math.isnan(value) for each in report.figures for value in each.rivals.values())
    assert list((tmp_path / "model" / "evaluation").glob("*.json"))


def test_a_row_that_cannot_be_encoded_is_a_problem_and_the_others_are_answered(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows = [MAKERS["risk"](draw, number) for number in range(120)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="risk", without="number"))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "table_logistic"})
    odd = [rows[0], {"colour": "red"}, rows[1]]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(each) + "\n" for each in odd), encoding="utf-8")
    counts = predict_rows(tmp_path / "model", tmp_path / "odd.jsonl", tmp_path / "out.jsonl")
    assert (counts["rows"], counts["answered"], counts["problems"]) == (3, 2, 1)
    assert "task.no_column" in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[1]


def test_the_default_is_not_served_where_a_rival_is_better(tmp_path: Path) -> None:
    """Red case: the default of risk is trees, and here the label is a plane through eight numbers; that of translate is trained."""
    draw = random.Random(11)

    def plane(number: int) -> dict[str, Any]:
        cells = {f"x{place}": round(draw.gauss(0, 1), 4) for place in range(8)}
        return {**cells, "label": "1" if sum(cells.values()) > 0 else "0"}

    def same(number: int) -> dict[str, Any]:
        text = " ".join(draw.choices(sorted(TOLD), k=4))
        return {"source": text, "target": text}

    for task, maker, rival in (("risk", plane, "table_logistic"), ("translate", same, "copy")):
        rows = [maker(number) for number in range(260)]
        (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
        prepare(tmp_path / f"{task}.jsonl", tmp_path / f"{task}-corpus", Prepare(task=task, validation=0.3, test=0.1, drop_bad=True))
        folder = best(tmp_path / f"{task}-corpus", tmp_path / f"{task}-model", 0.1 if task == "translate" else 0.4)
        assert task_class(task).default != rival == folder.card["best"]["winner"] == load(folder.path).family
        assert task == "translate" or folder.card["best"]["certain"]


def test_a_validation_split_by_which_a_model_was_chosen_is_marked(task: str, place: Path, tmp_path: Path) -> None:
    """A counted model has seen it; a trained one was chosen by it; test is neither."""
    report = evaluate(place / "default", place / "corpus", "validation", rivals=False, save=False)
    of = task_class(task)
    assert report.verdict == ("seen" if of.default in of.counted else "chosen")
    assert evaluate(place / "default", place / "corpus", rivals=False, save=False).verdict == "none"


def test_an_empty_row_is_refused_by_every_door(task: str, rows: list[dict[str, Any]], place: Path) -> None:
    schema = task_class(task).schema.asked
    texts = [name for name, kind in schema.fields.items() if isinstance(kind, Text) and not kind.optional]
    if not texts:
        pytest.skip("the task asks for no text that must be there")
    served = open_models([place / "default"])["default"]
    for empty in ("", " \u3000\n"):
        some = [asked(task, rows[0]), {**asked(task, rows[1]), texts[0]: empty}]
        with pytest.raises(UsageError) as caught:
            served.artefact.predict(some)
        assert caught.value.code == "texts.empty" and caught.value.values == {"place": 1, "name": texts[0]}
        with pytest.raises(UsageError) as caught:
            asks.items_of(PredictRequest(model="default", rows=some), served, Limits())
        assert caught.value.code == "serve.field_empty" and caught.value.values["param"] == f"rows.1.{texts[0]}"
        (place / "empty.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in some), encoding="utf-8")
        counts = predict_rows(place / "default", place / "empty.jsonl", place / "empty-out.jsonl", force=True)
        assert (counts["answered"], counts["problems"]) == (1, 1)


@pytest.mark.parametrize("name", ["classify", "tag", "grade", "multilabel", "translate", "moderate"])
def test_what_is_not_read_to_the_end_is_counted_by_what_the_task_reads(name: str) -> None:
    """Each field is of five characters: what is cut depends on which fields a task reads, and on whether together or apart."""
    tokenizer = train_characters(["abcde fghij"])
    row = {
        "classify": {"text": "abcde"},
        "multilabel": {"text": "abcde"},
        "tag": {"tokens": ["abc", "de"]},
        "grade": {"text": "ab", "reference": "cd", "question": "fghij fghij"},  # with the end token 5; the question is not read
        "translate": {"source": "abcd", "target": "abcdeabcde"},  # with the end token 5; the target is not asked
        "moderate": {"tokens": ["ab", "cd"]},  # with the space between them 5
    }[name]
    of = task_class(name)
    made = {"grade": (0.0, 1.0, 1.0), "translate": (), "moderate": (("a", "b"), ("B-x", "O"))}.get(name, (("a", "b"),))
    for longest, cut in ((5, 0), (4, 1)):
        task = of(*made, longest=longest)
        assert unread(task, tokenizer, [row, row]) == 2 * cut, longest
