"""One model of several tasks: each answers by its own head and is judged by its own figures; the mixture is a pure function of the step."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import MAKERS, SMALL

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.core.stop import Stopped
from zhixing.data.corpus import open_corpus
from zhixing.data.stream import Mixture, Rows, rows
from zhixing.evaluation.predict import predict_rows
from zhixing.preparation.prepare import Prepare
from zhixing.serving.served import open_models
from zhixing.tasks.many import Average, Of
from zhixing.tasks.task import Answer

SORTS = ("classify", "tag", "grade", "multilabel")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("many")
    draw = random.Random(7)
    for sort in (*SORTS, "translate"):
        lines = [json.dumps(MAKERS[sort](draw, number), ensure_ascii=False) for number in range(120 if sort == "tag" else 240)]
        (where / f"{sort}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        prepare(where / f"{sort}.jsonl", where / f"{sort}_one", Prepare(task=sort, validation=0.15, test=0.25))
    prepare(where / "classify_one", where / "mix", Prepare(also=",".join(str(where / f"{sort}_one") for sort in SORTS[1:])))
    return where


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    train(place / "mix", place / "model", {**SMALL, "model": "bigru", "steps": 240})
    return place / "model"


def examples(place: Path, split: str = "test") -> list[dict[str, Any]]:
    return list(open_corpus(place / "mix").examples(split))


def test_a_mixture_holds_every_row_with_its_task(place: Path) -> None:
    mixed = open_corpus(place / "mix")
    assert mixed.task == "many" and mixed.card["rows_in"] == sum(mixed.counts.values())
    for split, count in mixed.counts.items():
        parts = {f"{sort}/{sort}_one": list(open_corpus(place / f"{sort}_one").examples(split)) for sort in SORTS}
        assert count == sum(map(len, parts.values()))
        found = Counter(row["task"] for row in mixed.examples(split))
        assert found == {name: len(own) for name, own in parts.items()}
    first = next(open_corpus(place / "classify_one").examples("train"))
    assert next(mixed.examples("train")) == {"task": "classify/classify_one", **first}


def test_one_body_learns_every_task(place: Path, trained: Path) -> None:
    report = evaluate(trained, place / "mix", save=False)
    figures = {each.name: each for each in report.figures}
    least = {name: each.rivals["least_each"] for name, each in figures.items()}
    assert report.figures[0].name == "average" and set(figures["average"].rivals) == {"least_each", "default_each"}
    firsts = {"classify": "accuracy", "tag": "span_f1", "grade": "kappa", "multilabel": "micro_f1"}
    for sort, name in firsts.items():
        figure = figures[f"{sort}/{sort}_one {name}"]
        assert figure.value > least[figure.name] + 0.1, figure
        assert figure.low <= figure.value <= figure.high
    average = np.mean([figures[f"{sort}/{sort}_one {name}"].value for sort, name in firsts.items()])
    assert figures["average"].value == pytest.approx(average)
    assert figures["average"].low < average < figures["average"].high


def test_the_counted_models_of_each_task_are_what_they_are_alone(place: Path) -> None:
    train(place / "mix", place / "counted", {})
    both = {each.name: each.value for each in evaluate(place / "counted", place / "mix", save=False, rivals=False).figures}
    for sort in SORTS:
        train(place / f"{sort}_one", place / f"{sort}_model", {})
        for each in evaluate(place / f"{sort}_model", place / f"{sort}_one", save=False, rivals=False).figures:
            if not each.name.startswith(("coverage", "answered", "precision_")):
                assert both[f"{sort}/{sort}_one {each.name}"] == pytest.approx(each.value, abs=1e-9), each.name


def test_one_answer_from_every_door(place: Path, trained: Path) -> None:
    some = [{key: value for key, value in row.items() if key not in ("label", "labels", "tags", "score")} for row in examples(place)]
    random.Random(3).shuffle(some)
    model = load(trained)
    said = model.predict(some)
    assert [each.value for each in said] == [model.predict([row])[0].value for row in some], "the order of the rows says nothing"
    (place / "some.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in some), encoding="utf-8")
    predict_rows(trained, place / "some.jsonl", place / "out.jsonl", force=True)
    out = [json.loads(line) for line in (place / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in out] == [each.value for each in said]
    served = open_models([trained])["model"]
    assert served.inputs()["required"] == ["task"] and "tags" not in served.inputs()["properties"]
    short = [{**row, "task": row["task"].partition("/")[2]} for row in some[:10]]
    assert [each.value for each in model.predict(short)] == [each.value for each in said[:10]], "a name without its sort will do"


def test_the_name_of_the_task_is_read(place: Path, trained: Path) -> None:
    model = load(trained)
    see, tokenizer = model.task, model.tokenizer
    item = see.encode(next(row for row in examples(place) if row["task"].startswith("classify")), tokenizer)
    (answer,) = see.answers(model.model, [item], tokenizer)
    from zhixing.layers.kinds import Inputs, Led

    head = model.model.head.heads[str(item["part"])]
    with torch.inference_mode():
        inputs = Inputs(torch.from_numpy(item["tokens"])[None], lengths=torch.tensor([len(item["tokens"])]))
        named, other = (Led(model.model, head, torch.from_numpy(lead)).eval()(inputs) for lead in (item["lead"], item["lead"][::-1].copy()))
    assert not torch.allclose(named, other, atol=1e-4)
    assert answer.confidence == pytest.approx(
        float((named[0].double() / see._tasks[list(see.parts)[item["part"]]].temperature).softmax(-1).max()), abs=1e-5
    )


def test_perfect_answers_score_best(place: Path, trained: Path) -> None:
    task, shown = load(trained).task, examples(place)
    told = {"classify": "label", "tag": "tags", "grade": "score", "multilabel": "labels"}
    truth = [row[told[row["task"].partition("/")[0]]] for row in shown]
    perfect = [Answer(each, 1.0, {each: 1.0} if isinstance(each, str) else None) for each in truth]
    values = task.metrics(perfect, shown)
    assert task.figures["average"](values) == pytest.approx(1.0)
    own = {name: figure(values) for name, figure in task.figures.items()}
    assert own["classify/classify_one accuracy"] == own["tag/tag_one span_f1"] == 1.0


def test_an_average_is_as_sure_as_its_parts_together() -> None:
    from zhixing.metrics.figures import Mean

    draw = np.random.default_rng(5)
    values = {f"{name} correct": (draw.random(400) < share).astype(float) for name, share in (("a", 0.7), ("b", 0.5))}
    average = Average((Of("a", Mean("correct")), Of("b", Mean("correct")), Of("c", Mean("correct"))))
    spread = average.interval(values, 1)
    wanted = np.sqrt(sum(np.var(each) / 400 for each in values.values())) / 2
    assert (spread.high - spread.low) / 3.92 == pytest.approx(wanted, rel=0.05), "and what nothing speaks of is left out"
    worse = {name: each * (draw.random(400) < 0.8) for name, each in values.items()}
    assert average.paired(values, worse, 1).p < 0.01 < 0.9 < average.paired(values, values, 1).p


def test_a_mixture_is_a_pure_function_of_the_step() -> None:
    items = [{"tokens": np.full(3, number), "part": int(number >= 40), "number": number} for number in range(60)]
    first, again = (rows(items, [None] * 60, 4, 3, 0) for _ in range(2))
    assert isinstance(first, Mixture) and isinstance(rows(items[:40], [None] * 40, 4, 3, 0), Rows)
    order = [first.batch(step) for step in range(3 * first.steps_per_epoch)]
    for step in (17, 2, 30, 2):
        assert all((again.batch(step)[name] == each).all() for name, each in order[step].items())
    assert all(len(set(batch["parts"])) == 1 for batch in order)
    turns = Counter(int(batch["parts"][0]) for batch in order)
    assert turns[0] / turns[1] == pytest.approx(np.sqrt(2), rel=0.2), "shares by the square root of the sizes"
    for part, size in ((0, 40), (1, 20)):  # within a part, every row once an epoch of its own
        seen = np.concatenate([batch["numbers"] for batch in order if batch["parts"][0] == part])[:size]
        assert sorted(seen) == sorted(each["number"] for each in items if each["part"] == part)
    whole, halves = first.batch(5), [first.batch(5, micro, 2) for micro in range(2)]
    assert (np.concatenate([each["tokens"] for each in halves]) == whole["tokens"]).all()


def test_stopped_and_resumed_is_uninterrupted(place: Path) -> None:
    class Soon:
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if self.asked == 12:
                raise Stopped(15)

        def __bool__(self) -> bool:
            return self.asked >= 11

    settings = {**SMALL, "model": "textcnn", "steps": 30}
    train(place / "mix", place / "whole", settings)
    with pytest.raises(Stopped):
        train(place / "mix", place / "cut", settings, stop=Soon())
    told: list[str] = []
    train(place / "mix", place / "cut", settings, tell=lambda code, **_: told.append(code))
    assert "train.resumed" in told
    assert (place / "cut/model.safetensors").read_bytes() == (place / "whole/model.safetensors").read_bytes()


def test_what_cannot_be_mixed_is_named(place: Path, trained: Path, tmp_path: Path) -> None:
    one = place / "classify_one"
    with pytest.raises(UsageError, match="translate_one"):
        prepare(one, tmp_path / "out", Prepare(also=str(place / "translate_one")))
    with pytest.raises(UsageError, match="classify/classify_one"):
        prepare(one, tmp_path / "out", Prepare(also=str(one)))
    with pytest.raises(UsageError, match="--drop-bad"):
        prepare(one, tmp_path / "out", Prepare(also=str(place / "tag_one"), drop_bad=True))
    assert not (tmp_path / "out").exists()
    model = load(trained)
    with pytest.raises(DataError, match="classify_on'"):
        model.predict([{"task": "classify_on", "text": "fine"}])
    with pytest.raises(DataError, match="has no text"):
        model.predict([{"task": "classify/classify_one", "tokens": ["fine"]}])
    rows = [{"task": "poetry/x", "text": f"fine {number}", "label": "ab"[number % 2]} for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "rows", Prepare(task="many"))
    with pytest.raises(DataError, match="poetry/x"):
        train(tmp_path / "rows", tmp_path / "no", {**SMALL, "model": "textcnn"})


def test_a_text_that_another_corpus_is_judged_by_is_not_learnt(place: Path, tmp_path: Path) -> None:
    """The same reviews, split apart by another seed, are put beside themselves: no test text may be in training."""
    rows = [{"text": f"{'good' if number % 2 else 'bad'} thing {number}", "label": str(number % 2)} for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for seed in range(2):
        prepare(tmp_path / "rows.jsonl", tmp_path / f"c{seed}", Prepare(validation=0.1, test=0.1, seed=seed))
    made = prepare(tmp_path / "c0", tmp_path / "mix", Prepare(also=str(tmp_path / "c1")))
    opened = open_corpus(tmp_path / "mix")
    texts = {split: {row["text"] for row in opened.examples(split)} for split in opened.counts}
    assert not texts["train"] & (texts["validation"] | texts["test"]) and not texts["validation"] & texts["test"]
    assert made.card["rejected"]["leak"] > 30 and made.card["rows_in"] == 600 == sum(opened.counts.values()) + made.card["rejected"]["leak"]
    rejected = [json.loads(line) for line in (tmp_path / "mix/rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rejected) == made.card["rejected"]["leak"] and {each["reason"] for each in rejected} == {"leak"}


def test_a_text_is_known_again_in_its_tokens(tmp_path: Path) -> None:
    texts = [f"Ada met Bo {number}" for number in range(200)]
    for name, made_rows in (
        ("text", [{"text": each, "label": str(number % 2)} for number, each in enumerate(texts)]),
        ("tokens", [{"tokens": each.split(), "tags": ["B-person", "O", "O", "O"]} for each in texts]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made_rows)), encoding="utf-8")
    prepare(tmp_path / "text.jsonl", tmp_path / "a", Prepare(task="classify", validation=0.1, test=0.1))
    prepare(tmp_path / "tokens.jsonl", tmp_path / "b", Prepare(task="tag", validation=0.1, test=0.1, seed=1))
    made = prepare(tmp_path / "a", tmp_path / "mix", Prepare(also=str(tmp_path / "b")))
    assert made.card["rejected"]["leak"] > 20


def test_what_a_mixture_is_made_of_is_never_replaced(place: Path) -> None:
    before = (place / "tag_one/manifest.json").read_bytes()
    for out in ("classify_one", "tag_one"):
        with pytest.raises(UsageError, match=out):
            prepare(place / "classify_one", place / out, Prepare(also=str(place / "tag_one")), force=True)
    assert (place / "tag_one/manifest.json").read_bytes() == before


def test_an_empty_text_is_refused_as_a_missing_one_is(trained: Path) -> None:
    with pytest.raises(UsageError) as problem:
        load(trained).predict([{"task": "classify/classify_one", "text": " "}])
    assert problem.value.code == "texts.empty"


def test_what_is_not_read_to_the_end_is_counted_by_each_task(place: Path, trained: Path) -> None:
    from zhixing.evaluation.evaluate import unread

    model = load(trained)
    long = {"task": "classify/classify_one", "text": "x" * 99, "label": "good"}
    assert unread(model.task, model.tokenizer, [long, {**long, "text": "x"}]) == 1
