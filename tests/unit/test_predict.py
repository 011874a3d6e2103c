"""Predict: every row out with its answer, in order; interrupted and continued it ends in the same bytes; nothing is half written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError
from zhixing.core.folder import locked
from zhixing.core.stop import Stop, Stopped
from zhixing.evaluation import predict
from zhixing.evaluation.predict import predict_rows
from zhixing.evaluation.suggest import suggest
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import load
from zhixing.training.train import train

SIGNS = {"good": ["fine", "lovely", "很好"], "bad": ["poor", "broken", "太差"]}
WORDS = "the shop sent it on time and 包装 物流 客服".split()


def rows(count: int, seed: int, noise: float = 0.0) -> list[dict[str, Any]]:
    """Make rows with an identity, a text and a label."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        label = draw.choice(sorted(SIGNS))
        shown = draw.choice(sorted(SIGNS)) if draw.random() < noise else label
        made.append({"id": str(number), "text": f"{' '.join(draw.choices(SIGNS[shown] + WORDS, k=6))} {number}", "label": label})
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear classifier with thresholds, of rows that words tell apart most of the time."""
    top = tmp_path_factory.mktemp("predict")
    write(top / "rows.jsonl", rows(600, 1, noise=0.3))
    prepare(top / "rows.jsonl", top / "corpus", Prepare(validation=0.3, test=0.05))
    train(top / "corpus", top / "model", {"model": "logistic"})
    return top / "model"


def write(path: Path, values: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    """Write rows in the form that the name asks for."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in values), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("".join(each["text"] + "\n" for each in values), encoding="utf-8")
    else:
        with open(path, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, names or list(values[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(values)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read rows back with the standard library alone."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("given", [".jsonl", ".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("wanted", [".jsonl", ".csv", ".tsv"])
def test_every_form_in_and_out(model: Path, tmp_path: Path, given: str, wanted: str) -> None:
    values = rows(20, 5)
    out = tmp_path / f"out{wanted}"
    counts = predict_rows(model, write(tmp_path / f"in{given}", values), out)
    found = read(out)
    assert counts == {"rows": 20, "answered": 20, "abstained": 0, "problems": 0}
    kept = ["text"] if given == ".txt" else ["id", "text", "label"]
    assert list(found[0]) == [*kept, "answer", "confidence", "abstained", "problem"], "input columns come first, in their order"
    assert [each["text"] for each in found] == [each["text"] for each in values]
    opened = load(model)
    answers = list(opened.task.answers(opened.model, [{"text": each["text"]} for each in values], None))
    assert [each["answer"] for each in found] == [each.value for each in answers]
    assert [float(each["confidence"]) for each in found] == pytest.approx([each.confidence for each in answers], abs=1e-6)
    assert sorted(os.listdir(tmp_path)) == sorted([f"in{given}", f"out{wanted}"])


def test_compressed_rows_are_read(model: Path, tmp_path: Path) -> None:
    plain = write(tmp_path / "in.jsonl", rows(10, 5))
    with gzip.open(tmp_path / "in.jsonl.gz", "wb") as handle:
        handle.write(plain.read_bytes())
    predict_rows(model, plain, tmp_path / "a.csv")
    predict_rows(model, tmp_path / "in.jsonl.gz", tmp_path / "b.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("wanted", [".csv", ".jsonl"])
def test_interrupted_and_continued_ends_in_the_same_bytes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    source = write(tmp_path / "in.csv", rows(57, 5))
    predict_rows(model, source, tmp_path / f"whole{wanted}", precision=0.95)
    monkeypatch.setattr(predict, "PIECE", 10)
    out, stop, told = tmp_path / f"out{wanted}", Stop(), []

    def tell(code: str, **values: Any) -> None:
        told.append((code, values.get("rows")))
        if code == "predict.progress" and values["rows"] == 20:
            stop.number = signal.SIGTERM

    with pytest.raises(Stopped):
        predict_rows(model, source, out, precision=0.95, tell=tell, stop=stop)
    assert not out.exists(), "half an output must not look like a whole one"
    assert len((tmp_path / f".out{wanted}.partial").read_text().splitlines()) == 20 + (wanted == ".csv")
    with open(tmp_path / f".out{wanted}.partial", "ab") as handle:
        handle.write(b"half a row " * 1000)  # a kill between writing rows and noting them
    told.clear()
    counts = predict_rows(model, source, out, precision=0.95, tell=tell)
    assert ("predict.resumed", 20) in told and [n for code, n in told if code == "predict.progress"] == [30, 40, 50, 57]
    assert out.read_bytes() == (tmp_path / f"whole{wanted}").read_bytes()
    assert counts["rows"] == 57 and counts["answered"] + counts["abstained"] == 57
    assert sorted(os.listdir(tmp_path)) == sorted(["in.csv", f"out{wanted}", f"whole{wanted}"])


def test_another_input_or_precision_is_not_continued(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "PIECE", 10)
    source = write(tmp_path / "in.csv", rows(30, 5))
    stop = Stop()
    stop.number = signal.SIGINT
    with pytest.raises(Stopped):
        predict_rows(model, source, tmp_path / "out.csv", stop=stop)
    write(source, rows(30, 6))
    predict_rows(model, source, tmp_path / "out.csv")
    assert [each["text"] for each in read(tmp_path / "out.csv")] == [each["text"] for each in rows(30, 6)]


@pytest.mark.parametrize("form", ["folder", "glob"])
def test_a_folder_whose_files_changed_is_not_continued(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    monkeypatch.setattr(predict, "PIECE", 10)
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" if form == "folder" else tmp_path / "in" / "*.csv"
    write(tmp_path / "in" / "a.csv", rows(15, 5))
    write(tmp_path / "in" / "b.csv", rows(15, 6))
    stop, told = Stop(), []
    stop.number = signal.SIGINT
    for changed in (True, False):
        with pytest.raises(Stopped):
            predict_rows(model, source, tmp_path / "out.csv", stop=stop, force=True)
        if changed:
            write(tmp_path / "in" / "a.csv", rows(15, 7))
        told.clear()
        predict_rows(model, source, tmp_path / "out.csv", tell=lambda code, **values: told.append(code), force=True)
        assert ("predict.resumed" in told) != changed
        assert [each["text"] for each in read(tmp_path / "out.csv")] == [each["text"] for each in [*rows(15, 7), *rows(15, 6)]]


@pytest.mark.parametrize("asked", [None, "text"])
def test_the_column_of_the_text_is_settled_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None) -> None:
    """Where a piece's first row lacks the text, no other column may be read in its place, in that row or the others."""
    monkeypatch.setattr(predict, "PIECE", 2)
    bad, good = "poor broken 太差 poor", "fine lovely 很好 fine"
    whole, bare = {"text": bad, "content": good}, {"content": good}
    values = [bare, whole, bare, whole, whole, bare, bare, bare]
    source = write(tmp_path / "in.jsonl", values)
    wanted = ["bad" if "text" in each else "" for each in values]
    counts = predict_rows(model, source, tmp_path / "out.jsonl", text=asked)
    found = read(tmp_path / "out.jsonl")
    assert [each["answer"] for each in found] == wanted and counts["problems"] == 5
    assert found[2]["problem"].endswith("in.jsonl:3: no_text")
    stop = Stop()
    stop.number = signal.SIGINT
    for _ in range(3):  # and continued it is settled already
        with pytest.raises(Stopped):
            predict_rows(model, source, tmp_path / "again.jsonl", text=asked, stop=stop)
    predict_rows(model, source, tmp_path / "again.jsonl", text=asked)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_a_first_piece_that_cannot_be_read_settles_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "PIECE", 2)
    (tmp_path / "in.jsonl").write_text('{"a\n{"b\n{"c\n{"text": "lovely fine"}\n', encoding="utf-8")
    assert predict_rows(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")["problems"] == 3
    assert [each["answer"] for each in read(tmp_path / "out.jsonl")] == ["", "", "", "good"]


def test_an_output_is_not_its_own_input_nor_written_by_two(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", rows(5, 5))
    before = source.read_bytes()
    with pytest.raises(UsageError) as caught:
        predict_rows(model, tmp_path, source, force=True)
    assert caught.value.code == "output.is_source"
    with locked(tmp_path / "out.csv"), pytest.raises(UsageError) as caught:
        predict_rows(model, source, tmp_path / "out.csv")
    assert caught.value.code == "output.busy"
    assert os.listdir(tmp_path) == ["in.csv"] and source.read_bytes() == before


def test_a_column_called_answer_is_kept_and_ours_is_called_otherwise(model: Path, tmp_path: Path) -> None:
    values = [{"answer": f"theirs {each['id']}", "text": each["text"], "problem": "none"} for each in rows(5, 5)]
    predict_rows(model, write(tmp_path / "in.csv", values), tmp_path / "out.csv")
    found = read(tmp_path / "out.csv")
    assert list(found[0]) == ["answer", "text", "problem", "zhixing_answer", "confidence", "abstained", "zhixing_problem"]
    assert [each["answer"] for each in found] == [each["answer"] for each in values]
    assert {each["zhixing_answer"] for each in found} <= set(SIGNS)
    predict_rows(model, tmp_path / "out.csv", tmp_path / "again.csv")
    again = read(tmp_path / "again.csv")
    assert [each["zhixing_answer"] for each in again] == [each["zhixing_answer"] for each in found]
    assert {each["zhixing_zhixing_answer"] for each in again} <= set(SIGNS)


def test_a_bad_first_row_costs_no_column(model: Path, tmp_path: Path) -> None:
    text = rows(1, 1)[0]["text"]
    (tmp_path / "in.csv").write_text(f"text,answer\nx,y,z\n{text},gold\n", "utf-8")
    assert predict_rows(model, tmp_path / "in.csv", tmp_path / "out.csv")["problems"] == 1
    found = read(tmp_path / "out.csv")[1]
    assert found["answer"] == "gold" and found["zhixing_answer"] in SIGNS


def test_answers_stand_in_one_column_whatever_some_rows_hold(model: Path, tmp_path: Path) -> None:
    lines = [{"text": each["text"], **({"answer": "theirs"} if number == 3 else {})} for number, each in enumerate(rows(5, 5))]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
    predict_rows(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [each.get("answer") for each in found] == [each.get("answer") for each in lines]
    assert all(each["zhixing_answer"] in SIGNS for each in found)
    suggest(model, tmp_path / "in.jsonl", tmp_path / "chosen.jsonl", 5)
    chosen = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text("utf-8").splitlines()]
    assert len(chosen) == len(lines) and all("zhixing_answer" in each for each in chosen)
    assert sum("answer" in each for each in chosen) == 1


@pytest.mark.parametrize("piece", [2, 2048])
@pytest.mark.parametrize("wanted", [".csv", ".jsonl"])
def test_rows_that_cannot_be_read_are_kept_with_file_and_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, piece: int
) -> None:
    monkeypatch.setattr(predict, "PIECE", piece)
    good = [json.dumps({"review": each["text"]}, ensure_ascii=False) for each in rows(4, 5)]
    lines = [good[0], good[1], '{"review": "cut', good[2], '{"review": "  "}', good[3], '{"review": 7}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    counts = predict_rows(model, tmp_path / "in.jsonl", tmp_path / f"out{wanted}", text="review")
    found = read(tmp_path / f"out{wanted}")
    assert counts == {"rows": 7, "answered": 4, "abstained": 0, "problems": 3} and len(found) == 7
    problems = {place: each["problem"] for place, each in enumerate(found, 1) if each["problem"]}
    assert list(problems) == [3, 5, 7]
    for place, reason in problems.items():
        assert f"in.jsonl:{place}:" in reason
        assert found[place - 1]["answer"] == "" and str(found[place - 1]["confidence"]) == ""
    assert found[2]["review"] == '{"review": "cut', "what stood there is kept"


def test_a_run_that_answers_no_row_fails_and_leaves_the_reasons(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in.csv").write_text("text,problem\n,mine\n  ,mine\n", encoding="utf-8")
    assert main(["predict", str(model), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), "--json"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and json.loads(err.splitlines()[-1])["code"] == "predict.no_row"
    assert [each["zhixing_problem"].endswith("empty") for each in read(tmp_path / "out.csv")] == [True, True]


def test_a_table_with_a_short_row_loses_nothing(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,lovely 很好\n2\n3,broken 太差\n", encoding="utf-8")
    counts = predict_rows(model, tmp_path / "in.csv", tmp_path / "out.csv")
    found = read(tmp_path / "out.csv")
    assert counts["problems"] == 1 and [each["answer"] for each in found] == ["good", "", "bad"]
    assert "in.csv:3:" in found[1]["problem"]


def test_a_precision_marks_exactly_the_answers_below_its_threshold(model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", rows(200, 9, noise=0.3))
    thresholds = load(model).task.thresholds
    precision = next(float(name) for name, value in thresholds.items() if value is not None)
    threshold = thresholds[str(precision)]
    counts = predict_rows(model, source, tmp_path / "out.csv", precision=precision)
    found = read(tmp_path / "out.csv")
    below = [float(each["confidence"]) < threshold - 1e-6 for each in found]
    assert [each["abstained"] == "True" for each in found] == below and 0 < sum(below) < len(found)
    assert counts["abstained"] == sum(below) and counts["answered"] == len(found) - sum(below)
    assert all(each["answer"] in SIGNS for each in found), "an abstained row still says what it would have answered"


def test_a_precision_that_was_never_reached_abstains_always(model: Path, tmp_path: Path) -> None:
    import dataclasses

    opened = load(model)
    unsure = dataclasses.replace(opened, task=dataclasses.replace(opened.task, thresholds={"0.99": None}))
    counts = predict_rows(unsure, write(tmp_path / "in.csv", rows(6, 5)), tmp_path / "out.csv", precision=0.99)
    assert counts == {"rows": 6, "answered": 0, "abstained": 6, "problems": 0}
    with pytest.raises(UsageError) as caught:
        predict_rows(opened, tmp_path / "in.csv", tmp_path / "other.csv", precision=0.5)
    assert caught.value.code == "predict.precision" and "0.95" in str(caught.value)


def test_the_column_of_the_training_text_is_found_again(tmp_path: Path) -> None:
    values = [{"text": "nothing here", "said": each["text"], "label": each["label"]} for each in rows(80, 3)]
    write(tmp_path / "rows.jsonl", values)
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(text="said", label="label", test=0.1))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "naive_bayes"})
    predict_rows(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert sum(each["answer"] == each["label"] for each in found) > 70
    assert "confidence" in found[0] and found[0]["text"] == "nothing here"


def test_a_neural_classifier_answers_the_same_rows(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows(120, 3))
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(validation=0.2, test=0.1))
    form = {"layers": 1, "width": 16, "heads": 2, "groups": 1, "window": 32, "batch": 8, "precision": "fp32", "threads": 1}
    train(tmp_path / "corpus", tmp_path / "model", {"model": "qwen3", "size": "tiny", "steps": 3, **form})
    predict_rows(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "out.csv")
    opened = load(tmp_path / "model")
    items = [opened.task.encode({"text": each["text"]}, opened.tokenizer) for each in rows(120, 3)]
    wanted = [each.value for each in opened.task.answers(opened.model, items, opened.tokenizer)]
    assert [each["answer"] for each in read(tmp_path / "out.csv")] == wanted


@pytest.mark.parametrize(
    ("out", "code"), [("out.xlsx", "predict.form"), ("taken.csv", "output.exists"), ("missing_model", "folder.not_found")]
)
def test_what_cannot_be_is_refused_before_anything_is_written(model: Path, tmp_path: Path, out: str, code: str) -> None:
    source = write(tmp_path / "in.csv", rows(5, 5))
    (tmp_path / "taken.csv").write_text("mine")
    chosen = tmp_path / "none" if out == "missing_model" else model
    with pytest.raises(UsageError) as caught:
        predict_rows(chosen, source, tmp_path / (out if "." in out else "out.csv"))
    assert caught.value.code == code
    assert sorted(os.listdir(tmp_path)) == ["in.csv", "taken.csv"] and (tmp_path / "taken.csv").read_text() == "mine"


def test_an_input_that_cannot_be_read_leaves_no_output(model: Path, tmp_path: Path) -> None:
    with pytest.raises((DataError, UsageError)):
        predict_rows(model, tmp_path / "none.csv", tmp_path / "out.csv")
    write(tmp_path / "in.csv", [{"a": "1", "b": "2"}])
    with pytest.raises(UsageError) as caught:
        predict_rows(model, tmp_path / "in.csv", tmp_path / "out.csv")
    assert caught.value.code == "prepare.no_text"
    assert not (tmp_path / "out.csv").exists()


def test_a_table_whose_later_rows_have_new_columns_is_refused_by_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "PIECE", 2)
    write(tmp_path / "in.jsonl", [{"text": "lovely"}, {"text": "broken"}, {"text": "fine", "late": "x"}])
    with pytest.raises(DataError) as caught:
        predict_rows(model, tmp_path / "in.jsonl", tmp_path / "out.csv")
    assert caught.value.code == "predict.columns" and "late" in str(caught.value) and not (tmp_path / "out.csv").exists()
    predict_rows(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl")[2]["late"] == "x"


def test_a_model_that_gives_no_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(each["text"] for each in rows(60, 1)), encoding="utf-8")
    prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(unit="line"))
    train(tmp_path / "corpus", tmp_path / "model", {"model": "ngram", "order": 2})
    with pytest.raises(UsageError) as caught:
        predict_rows(tmp_path / "model", tmp_path / "text.txt", tmp_path / "out.csv")
    assert caught.value.code == "predict.task"
