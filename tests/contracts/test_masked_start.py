"""A model of masked tokens is learnt from a corpus of language, fills gaps, judges pairs, and is what a later training can begin with."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from makers import MAKERS, SMALL
from safetensors.numpy import load_file

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import UsageError
from zhixing.evaluation.predict import predict_rows
from zhixing.preparation.prepare import Prepare
from zhixing.training.train import plan

TINY = {**SMALL, "model": "bert", "tokenizer": "words", "width": 64, "batch": 32, "learning_rate": 0.0015}
PAIRS = {"sun": "shines", "rain": "falls", "wind": "blows", "dog": "barks", "cat": "purrs"}


def sentence(noun: str, verb: str) -> str:
    return f"{noun} {verb} ."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("masked")
    draw = random.Random(2)
    lines = [f"{sentence(*draw.choice(sorted(PAIRS.items())))} {draw.randrange(60)}" for _ in range(900)]
    (where / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    prepare(where / "text.txt", where / "corpus", Prepare(unit="line", repeats="keep", validation=0.1, test=0.1))
    train(where / "corpus", where / "bert", {**TINY, "steps": 500, "window": 16})
    return where


def test_hidden_tokens_are_told_from_both_sides(place: Path) -> None:
    report = evaluate(place / "bert", place / "corpus", save=False)
    figures = {each.name: each for each in report.figures}
    nats = figures["masked_nats"]
    assert report.task == "masked" and nats.value < nats.rivals["unigram"] - 0.5
    assert figures["masked_accuracy"].value > figures["masked_accuracy"].rivals["most_frequent"] + 0.2
    assert figures["pseudo_perplexity"].value < 12 and report.details["comparable_with_bits_per_byte"] is False
    model = load(place / "bert")
    said = model.predict([{"text": sentence(noun, "[mask]") + " 7"} for noun in PAIRS])
    assert [each.value for each in said] == [sentence(noun, verb) + " 7" for noun, verb in PAIRS.items()]
    assert all(next(iter(each.scores)).strip() == verb and each.confidence > 0.2 for each, verb in zip(said, PAIRS.values(), strict=True))
    usual, unusual = model.predict([{"text": "dog barks . 7"}, {"text": "7 barks dog ."}])
    assert usual.value == "dog barks . 7" and usual.confidence > 3 * unusual.confidence
    (place / "rows.csv").write_text("text\ncat [mask] . 5\n", encoding="utf-8")
    predict_rows(place / "bert", place / "rows.csv", place / "rows.jsonl")
    assert json.loads((place / "rows.jsonl").read_text(encoding="utf-8"))["answer"] == "cat purrs . 5"


def test_a_gap_beyond_the_window_is_told_from_what_is_near(place: Path) -> None:
    near = load(place / "bert").predict([{"text": "wind [mask] . 7"}])[0]
    model = load(place / "bert")
    text = "sun shines . 3 " * 12 + "wind [mask] . 7"
    item = model.task.encode({"text": text}, model.tokenizer)
    width = model.model.window
    cut = {"tokens": item["tokens"][-width:], "gaps": item["gaps"] - (len(item["tokens"]) - width)}
    whole, alone = (next(model.task.answers(model.model, [each], model.tokenizer)) for each in (item, cut))
    assert len(item["tokens"]) > 2 * width and whole.scores == alone.scores != near.scores
    assert whole.value.startswith("sun shines . 3 sun") and whole.value.endswith(". 7")


def test_it_judges_pairs_of_sentences(place: Path) -> None:
    pairs = [
        {"good": f"{noun} {verb} . 8", "bad": f"{noun} {other} . 8"}
        for noun, verb in PAIRS.items()
        for other in PAIRS.values()
        if other != verb
    ]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    prepare(place / "pairs.jsonl", place / "pairs", Prepare(task="judge"))
    report = evaluate(place / "bert", place / "pairs", save=False, rivals=False)
    assert report.task == "judge" and report.figures[0].value > 0.9


def test_a_training_begins_with_it(place: Path, tmp_path: Path) -> None:
    draw = random.Random(4)
    rows = [{"text": f"{sentence(*first)} {sentence(*second)}", "label": second[1]} for first in PAIRS.items() for second in PAIRS.items()]
    rows = draw.sample(5 * rows, 125)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(repeats="keep", validation=0.2, test=0.2))
    begun = {"start": str(place / "bert"), "precision": "fp32", "threads": 1, "batch": 8}
    train(tmp_path / "rows", tmp_path / "none", {**begun, "steps": 1, "learning_rate": 1e-12, "matrix_rate": 1e-12, "dropout": 0.0})
    before, after = (load_file(each / "model.safetensors") for each in (place / "bert", tmp_path / "none"))
    shared = {name: value for name, value in after.items() if name.startswith("body.")}
    assert set(shared) == {f"body.{name}" for name in before}
    assert all(np.allclose(value, before[name.removeprefix("body.")], atol=1e-3) for name, value in shared.items()), (
        "the body is taken over"
    )
    assert (tmp_path / "none/tokenizer.json").read_bytes() == (place / "bert/tokenizer.json").read_bytes()
    folder = train(tmp_path / "rows", tmp_path / "model", {**begun, "steps": 100, "learning_rate": 0.003})
    assert folder.card["start"]["task"] == "masked" and folder.card["model"] == "bert"
    assert evaluate(tmp_path / "model", tmp_path / "rows", save=False).figures[0].value > 0.75
    again = train(
        tmp_path / "rows", tmp_path / "again", {"start": str(tmp_path / "model"), "precision": "fp32", "threads": 1, "steps": 2, "batch": 8}
    )
    assert again.card["start"]["task"] == "classify", "and with a model of any other task"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"width": 64}, "settings.start_form"),
        ({"tokenizer": "bpe"}, "settings.start_form"),
        ({"model": "bigru"}, "train.start"),
        ({"window": 32}, "train.start_window"),
        ({"model": "ngram"}, "train.start"),
    ],
)
def test_what_does_not_go_with_a_start_is_named(place: Path, more: dict[str, object], code: str) -> None:
    draw = random.Random(4)
    name = "classify" if more.get("model") != "ngram" else "corpus"
    if name == "classify" and not (place / name).exists():
        rows = [MAKERS["classify"](draw, number) for number in range(60)]
        (place / "classify.jsonl").write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in rows), encoding="utf-8")
        prepare(place / "classify.jsonl", place / "classify", Prepare(task="classify"))
    with pytest.raises(UsageError) as problem:
        plan(place / name, {"start": str(place / "bert"), "batch": 8, **more})
    assert problem.value.code == code


def test_a_table_begins_with_nothing(place: Path, tmp_path: Path) -> None:
    draw = random.Random(4)
    rows = [MAKERS["risk"](draw, number) for number in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(task="risk", without="number"))
    with pytest.raises(UsageError, match="--start"):
        train(tmp_path / "rows", tmp_path / "no", {"start": str(place / "bert")})
    assert not (tmp_path / "no").exists()


def test_neither_start_nor_teacher_is_replaced_by_what_is_made_of_it(place: Path) -> None:
    before = (place / "bert/manifest.json").read_bytes()
    with pytest.raises(UsageError) as problem:
        train(place / "corpus", place / "bert", {"start": str(place / "bert"), "steps": 1}, force=True)
    assert problem.value.code == "output.is_source" and (place / "bert/manifest.json").read_bytes() == before


def test_a_recipe_with_another_form_than_its_start_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f'width = 16\nstart = "{place / "bert"}"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="width"):
        train(place / "corpus", tmp_path / "out", {}, recipe=str(tmp_path / "r.toml"))
    (tmp_path / "r.toml").write_text(f'model = "skipgram"\nstart = "{place / "bert"}"\n', encoding="utf-8")
    with pytest.raises(UsageError, match="skipgram"):
        train(place / "corpus", tmp_path / "out", {}, recipe=str(tmp_path / "r.toml"))


def test_it_is_not_judged_on_rows_of_another_task(place: Path, tmp_path: Path) -> None:
    draw = random.Random(4)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(MAKERS["tag"](draw, n)) for n in range(60)), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(task="tag"))
    with pytest.raises(UsageError) as problem:
        evaluate(place / "bert", tmp_path / "rows")
    assert problem.value.code == "evaluate.other_task"
