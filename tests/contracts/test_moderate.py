"""Moderation goes the whole way: rows with a label alone and rows with tags alone teach one model, and each figure is over the rows that
have what it judges; one answer, whatever the door."""

from __future__ import annotations

import asyncio
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.data.corpus import open_corpus
from zhixing.data.stream import LEVELLED, Rows, level
from zhixing.evaluation.baselines import asked
from zhixing.evaluation.predict import predict_rows
from zhixing.layers.kinds import Headed
from zhixing.models import catalog
from zhixing.objectives.several import LabelAndTags
from zhixing.preparation.prepare import Prepare
from zhixing.serving import asks
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models
from zhixing.studies import best as study
from zhixing.studies.best import best
from zhixing.tasks.moderate import Moderate, read, written
from zhixing.tasks.task import Answer
from zhixing.tokens.tokenizer import train_bpe, train_characters
from zhixing.training import trainer
from zhixing.training.gradients import Gradients

NAMES = ("Ada", "Bo", "Chen", "Dee", "王芳", "李明")
SMALL = {"steps": 80, "size": "tiny", "width": 48, "batch": 16, "window": 48, "precision": "fp32", "threads": 1, "learning_rate": 0.01}


def labelled(draw: random.Random, number: int) -> dict[str, Any]:
    label = draw.choice(("safe", "rude"))
    return {"text": f"{draw.choice(NAMES)} says {number}: {'fine 好' if label == 'safe' else 'awful 差'}!", "label": label}


def tagged(draw: random.Random, number: int) -> dict[str, Any]:
    """Make a sentence in which a name is a person or a place by the word before it."""
    tokens, tags = [str(number)], ["O"]
    for _ in range(draw.randrange(4)):
        word, sort = draw.choice((("with", "person"), ("in", "place"), ("by", "")))
        name = read({"text": draw.choice(NAMES)})[0]
        tokens += [word, *name]
        tags += ["O", *([f"B-{sort}", *[f"I-{sort}"] * (len(name) - 1)] if sort else ["O"] * len(name))]
    return {"tokens": [*tokens, "."], "tags": [*tags, "O"]}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    draw = random.Random(5)
    return [labelled(draw, n) for n in range(240)] + [tagged(draw, n) for n in range(240)]


@pytest.fixture(scope="module")
def place(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of one folder with two files, each with its own columns, and the model that is made by default."""
    where = tmp_path_factory.mktemp("moderate")
    (where / "files").mkdir()
    for name, part in (("a.jsonl", rows[:240]), ("b.jsonl", rows[240:])):
        (where / "files" / name).write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in part), encoding="utf-8")
    prepare(where / "files", where / "corpus", Prepare(task="moderate", validation=0.15, test=0.25))
    train(where / "corpus", where / "default")
    return where


def test_a_corpus_keeps_rows_of_both_sorts(place: Path) -> None:
    corpus = open_corpus(place / "corpus")
    kept = [each for split in ("train", "validation", "test") for each in corpus.examples(split)]
    assert len(kept) + sum(corpus.card["rejected"].values()) == 480 and len(kept) > 400
    assert {frozenset(each) for each in kept} == {frozenset({"text", "label"}), frozenset({"tokens", "tags"})}
    assert corpus.labels == ("rude", "safe")


@pytest.mark.parametrize("row", [{"text": "alone"}, {"label": "safe"}, {"tokens": ["a", "b"], "tags": ["O"]}, {"text": "a", "tags": ["O"]}])
def test_a_row_without_question_or_answer_is_named(rows: list[dict[str, Any]], row: dict[str, Any], tmp_path: Path) -> None:
    lines = [json.dumps(each, ensure_ascii=False) for each in (*rows[:3], row, *rows[4:])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:4"):
        prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="moderate"))


def test_the_pair_beats_the_least_model(place: Path) -> None:
    report = evaluate(place / "default", place / "corpus", save=False)
    figures = {each.name: each for each in report.figures}
    assert load(place / "default").family == "bag_crf" and report.verdict == "model"
    for name in ("accuracy", "macro_f1", "span_f1"):
        assert figures[name].value > figures[name].rivals["majority"] + 0.1, name
        assert figures[name].low <= figures[name].value <= figures[name].high
    assert figures["coverage_95"].value > 0.5


def test_one_body_learns_both(place: Path) -> None:
    train(place / "corpus", place / "trained", {"model": "bigru", **SMALL})
    report = evaluate(place / "trained", place / "corpus", save=False)
    figures = {each.name: each for each in report.figures}
    for name in ("accuracy", "span_f1"):
        assert figures[name].value > figures[name].rivals["majority"] + 0.1, name
    assert set(figures["accuracy"].rivals) == {"majority", "bag_crf"}


def test_the_best_is_chosen_by_validation(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LEAST_SECONDS", 1.0)
    given = {name: SMALL[name] for name in ("size", "width", "precision", "threads")}
    told = best(place / "corpus", tmp_path / "made", 0.12, given).card["best"]
    assert {*Moderate.counted, *Moderate.eras} == {*(each["name"] for each in told["candidates"]), *told["late"]}
    assert told["figure"] == "accuracy" and load(tmp_path / "made").family == told["winner"] == told["candidates"][0]["name"]


@pytest.mark.parametrize("model", ["default", "trained"])
def test_one_answer_from_every_door(rows: list[dict[str, Any]], place: Path, model: str) -> None:
    if not (place / model).exists():
        train(place / "corpus", place / model, {"model": "bigru", **SMALL})
    opened, some = load(place / model), [*rows[:20], *rows[-20:]]
    sent = [asked(opened.task, each) for each in some]
    said = opened.predict(sent)
    (place / "some.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in sent), encoding="utf-8")
    predict_rows(opened, place / "some.jsonl", place / "out.jsonl", force=True)
    out = [json.loads(line) for line in (place / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in out] == [each.value for each in said]
    served = open_models([place / model])[model]
    items = asks.items_of(PredictRequest(model=model, rows=sent), served, Limits())

    async def ask() -> list[Answer]:
        return list(served.artefact.task.answers(served.artefact.model, items, served.artefact.tokenizer))

    assert [each.value for each in asyncio.run(ask())] == [each.value for each in said]
    assert served.outputs()["properties"]["answer"] == {"type": "object"}
    for sent_row, answer in zip(sent, said, strict=True):
        for each in answer.value["entities"]:
            part = sent_row.get("tokens", sent_row.get("text"))[each["start"] : each["end"]]
            assert each["text"].replace(" ", "") == "".join(part).replace(" ", "")
    raw = opened.predict(["王芳 says 7: awful 差!"])[0]
    assert raw.value["label"] == "rude" and raw.confidence == raw.scores["rude"]


def test_perfect_answers_score_best_and_shuffled_ones_at_chance(rows: list[dict[str, Any]], place: Path) -> None:
    task, draw = load(place / "default").task, random.Random(1)

    def judge(order: list[int]) -> dict[str, float]:
        answers = []
        for number in order:
            label, tags = rows[number].get("label", "safe"), rows[number].get("tags", [])
            found = [{"type": kind, "text": "", "start": first, "end": last} for kind, first, last in spans_of(tags)]
            answers.append(Answer({"label": label, "entities": found}, 1.0, {each: float(each == label) for each in task.labels}))
        values = task.metrics(answers, rows)
        assert all(len(each) == len(rows) for each in values.values()), "one row an example"
        assert np.isnan(values["correct"]).sum() == 240 and np.isnan(values["spans"][:, 0]).sum() == 240
        return {name: figure(values) for name, figure in task.figures.items()}

    best = judge(list(range(480)))
    chance = judge([*draw.sample(range(240), 240), *draw.sample(range(240, 480), 240)])
    for name, figure in task.figures.items():
        assert best[name] == pytest.approx(0.0 if figure.lower else 1.0, abs=1e-6), name
        assert (chance[name] > 0.1) if figure.lower else (chance[name] < 0.9), name
    alone = task.metrics([Answer({"label": "safe", "entities": []}, 1.0)] * 240, rows[240:])
    assert math.isnan(task.figures["accuracy"](alone)) and task.figures["span_f1"](alone) == 0


def spans_of(tags: list[str]) -> list[tuple[str, int, int]]:
    from zhixing.metrics.spans import read as read_spans

    return sorted(read_spans(tags))


@pytest.mark.parametrize("sort", ["label", "tags"])
def test_one_sort_of_rows_is_enough(rows: list[dict[str, Any]], tmp_path: Path, sort: str) -> None:
    part = rows[:240] if sort == "label" else rows[240:]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in part), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="moderate", validation=0.15, test=0.25))
    for model, settings in (("bag_crf", {}), ("textcnn", SMALL | {"steps": 20})):
        train(tmp_path / "corpus", tmp_path / model, {"model": model, **settings})
        report = evaluate(tmp_path / model, tmp_path / "corpus", save=False)
        names = {each.name for each in report.figures}
        assert ("accuracy" in names, "span_f1" in names) == (sort == "label", sort == "tags")
        assert report.comparisons, "the first figure that there is decides"
        value = load(tmp_path / model).predict(["Ada says 3: fine"])[0].value
        assert set(value) == {"label" if sort == "label" else "entities"}


def test_text_is_cut_into_words_and_chinese_characters() -> None:
    words, gaps, starts = read({"text": "  RT @ada_1: 王芳来了, ok…\n"})
    assert words == ["RT", "@", "ada_1", ":", "王", "芳", "来", "了", ",", "ok", "…"]
    assert written(words, gaps) == "  RT @ada_1: 王芳来了, ok…" and starts[4] == 13
    assert written(*read({"tokens": ["New", "York", "很", "大"]})[:2]) == "New York很大"
    assert written(*read({"tokens": ["R", "T", "王"]})[:2]) == "RT王"
    assert read({}) == ([], [], [])


@pytest.mark.parametrize("make", [train_characters, lambda texts: train_bpe(texts, 300)], ids=["characters", "bpe"])
def test_tags_stand_at_the_first_piece_of_their_word(rows: list[dict[str, Any]], make: Any) -> None:
    tokenizer = make([*(each["text"] for each in rows[:240]), *(" ".join(each["tokens"]) for each in rows[240:])])
    task = Moderate.fit(rows)
    for row in rows[240:260]:
        item = task.encode(row, tokenizer)
        assert [task.tags[n] for n in item["tags"][item["firsts"]]] == row["tags"]
        assert (np.delete(item["tags"], item["firsts"]) == -100).all() and item["label"] == -100
        heads = [tokenizer.decode(item["tokens"][first : first + 1]).lstrip() for first in item["firsts"]]
        assert all(word.startswith(head) and head for word, head in zip(row["tokens"], heads, strict=True) if word.isascii())
    cut = Moderate(task.labels, task.tags, longest=3).encode(rows[-1], tokenizer)
    assert len(cut["tokens"]) == len(cut["tags"]) == 3 and (cut["firsts"] < 3).all()
    assert len(task.encode({"text": ""}, tokenizer)["tokens"]) == 1
    with pytest.raises(DataError, match="safe"):
        task.encode({"text": "x", "label": "saef"}, tokenizer)


def test_rows_of_a_rare_sort_come_again() -> None:
    items = [{"number": n} for n in range(40)]
    found = [each["number"] for each in level(items, ["many"] * 30 + ["few"] * 10)]
    assert found[:30] == list(range(30)) and found[30:] == [n for n in range(30, 40) for _ in range(3)]
    assert len(level(items, ["many"] * 39 + ["one"])) == 39 + LEVELLED and level(items, ["same"] * 40) == items and level([], []) == []


def batches(rows: list[dict[str, Any]]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Give a model that has seen nothing, and a batch of both sorts of rows."""
    chosen = [*rows[:6], *rows[-6:]]
    tokenizer, task = train_characters([each["text"] for each in rows[:240]]), Moderate.fit(rows)
    torch.manual_seed(0)
    body = catalog.build(
        {"model_type": "bigru", "vocab_size": tokenizer.vocabulary_size, "embedding_dim": 8, "hidden_dim": 8, "num_layers": 1}
    )
    model = Headed(body, task.head(body.width))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    arrays = Rows([task.encode(each, tokenizer) for each in chosen], 12, 0, tokenizer.pad_id).batch(0)
    return model, trainer.to_tensors(arrays, torch.device("cpu"))


def test_a_loss_is_the_sum_over_its_rows_and_lacks_what_no_row_has(rows: list[dict[str, Any]]) -> None:
    model, batch = batches(rows)
    objective = LabelAndTags()
    whole = {term.name: float(term.total.detach()) for term in objective(model.eval(), batch)}
    assert set(whole) == {"label_nats", "tag_nats"} == set(objective.weights(batch)) and objective.weights(batch)["label_nats"] == 6
    alone: dict[str, float] = {}
    for row in range(12):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        terms = objective(model, one)
        assert [term.name for term in terms] == list(objective.weights(one)) and len(terms) == 1
        alone[terms[0].name] = alone.get(terms[0].name, 0.0) + float(terms[0].total.detach())
    assert alone == pytest.approx(whole, rel=1e-5)
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100), "tags": torch.full_like(batch["tags"], -100)}
    assert objective.weights(nothing) == {"label_nats": 0.0, "tag_nats": 0.0}, "the step is skipped"


@pytest.mark.parametrize("sizes", [[6, 6], [1, 11], [5, 4, 2, 1]])
def test_micro_batches_equal_one_batch(rows: list[dict[str, Any]], sizes: list[int]) -> None:
    """Some of the micro-batches hold one sort of rows alone."""
    model, batch = batches(rows)
    order = torch.argsort((batch["labels"] == -100).long(), stable=True)
    batch = {name: value[order] for name, value in batch.items()}

    def gradient(parts: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        gradients = Gradients(model.eval(), LabelAndTags(), "fp32", 0)
        gradients.begin(parts)
        for micro, part in enumerate(parts):
            gradients.add(part, 0, micro)
        assert set(gradients.finish()) == {"label_nats", "tag_nats"}
        return [p.grad.clone() for p in model.parameters()]

    split = zip(*(value.split(sizes) for value in batch.values()), strict=True)
    for one, many in zip(gradient([batch]), gradient([dict(zip(batch, part, strict=True)) for part in split]), strict=True):
        assert float((one - many).abs().max()) <= 1e-5 * float(one.abs().max()) + 1e-8


def test_a_row_with_neither_text_nor_tokens_is_refused_by_every_door(place: Path) -> None:
    served = open_models([place / "default"])["default"]
    for row in ({}, {"text": " "}, {"tokens": [], "text": ""}):
        with pytest.raises(UsageError) as caught:
            served.artefact.predict([{"text": "one"}, row])
        assert caught.value.code == "texts.empty" and caught.value.values["place"] == 1
