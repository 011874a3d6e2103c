"""Towers and the loss that contrasts a batch: neither tower sees the other, a batch is one, pairs are found again; and what its loss cannot
bear, micro-batches, ranks and privacy, is refused by name."""

from __future__ import annotations

import asyncio
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import SMALL
from torch import nn

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.core.stop import Stopped
from zhixing.data import media
from zhixing.evaluation import matches
from zhixing.evaluation.predict import predict_rows
from zhixing.layers.kinds import Inputs, Towers
from zhixing.models import catalog
from zhixing.objectives.contrastive import PairNats
from zhixing.preparation.prepare import Prepare
from zhixing.serving import asks
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models
from zhixing.studies.best import best
from zhixing.tasks.match import logit_of
from zhixing.training import private, trainer
from zhixing.training.gradients import Gradients
from zhixing.training.settings import settle

CONFIG = {"model_type": "towers", "vocab_size": 37, "width": 24, "heads": 3, "layers": 1, "window": 16, "image_size": 16}
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (30, 30, 240), "black": (0, 0, 0)}
SIDES = {"left": 0, "right": 9}


def pair(draw: random.Random, number: int) -> dict[str, Any]:
    """Make a patch of a colour at a side, and words that say so."""
    colour, side = draw.choice(sorted(COLOURS)), draw.choice(sorted(SIDES))
    pixels = np.full((3, 16, 16), 255, np.uint8)
    down = draw.randrange(9)
    pixels[:, down : down + 7, SIDES[side] : SIDES[side] + 7] = np.array(COLOURS[colour])[:, None, None]
    pixels[:, draw.randrange(16), draw.randrange(16)] = draw.randrange(256)
    return {"image": media.data_url(media.png(pixels), "image/png"), "text": f"a {colour} patch at the {side}", "number": number}


def make() -> nn.Module:
    torch.manual_seed(7)
    model = catalog.build(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def batch(rows: int = 6) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    return {
        "tokens": torch.randint(5, 37, (rows, 5), generator=source),
        "lengths": torch.tensor([5, 3, 4, 5, 1, 2][:rows]),
        "image": torch.randint(0, 256, (rows, 3, 16, 16), generator=source, dtype=torch.uint8),
        "image_keys": torch.arange(rows),
        "text_keys": torch.arange(rows) + 10,
    }


@torch.no_grad()
def test_each_tower_reads_its_own_and_nothing_beyond_it() -> None:
    model, read = make(), batch()
    assert isinstance(model, Towers) and model.kinds == ("towers",)
    inputs = Inputs(read["tokens"], read["lengths"], image=read["image"])
    images, texts = model.image(inputs), model.text(inputs)
    assert images.shape == texts.shape == (6, 24)
    for each in (images, texts):
        assert torch.allclose(each.norm(dim=1), torch.ones(6), atol=1e-6)
    assert torch.equal(model.image(replace(inputs, tokens=inputs.tokens.roll(1, 0))), images)
    assert torch.equal(model.text(replace(inputs, image=255 - inputs.image)), texts)
    padded = inputs.tokens.clone()
    padded[1, 3:], padded[4, 1:] = 5, 6
    assert torch.equal(model.text(replace(inputs, tokens=padded)), texts)
    assert float((model.text(Inputs(read["tokens"][1:2, :3]))[0] - texts[1]).abs().max()) < 1e-5
    assert float((model.text(replace(inputs, lengths=None)) - texts).abs().max()) > 1e-3, "the check of padding can go red"
    assert 1 < float(model.scale()) <= 100
    with pytest.raises(ShapeError):
        model.text(Inputs(torch.ones(1, 17, dtype=torch.long)))
    with pytest.raises(ShapeError):
        model.image(Inputs(None, image=read["image"][:, :, :8]))
    with pytest.raises(DataError):
        catalog.build({**CONFIG, "heads": 5})


def test_the_loss_is_its_formula_and_equal_texts_are_no_wrong_answers() -> None:
    model, read = make(), batch()
    read["text_keys"][3] = read["text_keys"][0]
    inputs = Inputs(read["tokens"], read["lengths"], image=read["image"])
    logits = (model.image(inputs) @ model.text(inputs).T * model.scale()).double().detach().numpy()
    total = 0.0
    for table in (logits, logits.T):
        for row in range(6):
            others = [column for column in range(6) if column == row or {row, column} != {0, 3}]
            total += math.log(sum(math.exp(table[row, column] - table[row, row]) for column in others)) / 2
    (term,) = PairNats()(model, read)
    assert float(term.total.detach()) == pytest.approx(total, rel=1e-5) and PairNats().weights(read) == {"nats": 6.0}
    term.total.backward()
    dead = [key for key, each in model.named_parameters() if each.grad is None or float(each.grad.abs().max()) == 0]
    assert [key for key in dead if not key.endswith("key.bias")] == []


def test_a_loss_that_does_not_add_up_is_refused_in_parts() -> None:
    """Red case first: the halves of a batch are not the whole; so no gradients of parts are made, plain or private."""
    model, read = make(), batch()
    with torch.no_grad():
        whole = float(PairNats()(model, read)[0].total)
    parts = [{name: value[half] for name, value in read.items()} for half in (slice(0, 3), slice(3, 6))]
    halves = sum(float(PairNats()(model, each)[0].total.detach()) for each in parts)
    assert abs(halves - whole) > 0.1 and not PairNats.additive
    gradients = Gradients(model, PairNats(), "fp32", 0)
    gradients.begin([read])
    with pytest.raises(UsageError) as caught:
        gradients.begin(parts)
    assert caught.value.code == "train.not_additive" and caught.value.values["setting"] == "accumulate"
    with pytest.raises(UsageError) as caught:
        private.PrivateGradients(model, PairNats(), "fp32", 0, clip=1.0, noise=1.0, expected=6.0)
    assert caught.value.code == "private.not_additive" and "PairNats" in caught.value.text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where, draw = tmp_path_factory.mktemp("match"), random.Random(2)
    rows = [pair(draw, number) for number in range(320)]
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(where / "rows.jsonl", where / "corpus", Prepare(task="match", validation=0.15, test=0.25, repeats="keep"))
    train(where / "corpus", where / "model", FORM)
    return where


FORM = {**SMALL, "batch": 32, "steps": 100}


def test_pairs_find_each_other(place: Path) -> None:
    report = evaluate(place / "model", place / "corpus")
    recall, five, back = report.figures
    assert [each.name for each in report.figures] == ["recall_1", "recall_5", "recall_1_of_texts"]
    assert recall.value > 0.8 and recall.low <= recall.value <= recall.high and five.value >= recall.value
    assert back.value > back.rivals["chance"] + 0.2 and recall.rivals["chance"] == 1 / 8 and "nearest_picture" in recall.rivals
    assert report.details["texts"] == 8


def test_one_answer_from_every_door(place: Path) -> None:
    draw = random.Random(9)
    some = [pair(draw, number) for number in range(40)]
    asked = [{name: each[name] for name in ("image", "text")} for each in some]
    model = load(place / "model")
    said = list(model.predict(asked))
    wrong = [{**each, "text": asked[place - 1]["text"]} for place, each in enumerate(asked)]
    crossed = [each["text"] != other["text"] for each, other in zip(asked, wrong, strict=True)]
    assert np.mean([each.value == "yes" for each in said]) > 0.8
    assert np.mean([each.value == "no" for each, apart in zip(model.predict(wrong), crossed, strict=True) if apart]) > 0.8
    (place / "some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in some), encoding="utf-8")
    predict_rows(place / "model", place / "some.jsonl", place / "out.jsonl", force=True)
    out = [json.loads(line) for line in (place / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in out] == [each.value for each in said] and [each["number"] for each in out] == list(range(40))
    served = open_models([place / "model"])["model"]

    async def ask() -> list[Any]:
        items = asks.items_of(PredictRequest(model="model", rows=asked), served, Limits())
        return list(served.artefact.task.answers(served.artefact.model, items, served.artefact.tokenizer))

    assert [each.value for each in asyncio.run(ask())] == [each.value for each in said]


def test_what_the_loss_cannot_bear_is_refused_before_anything_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**more: Any) -> UsageError:
        with pytest.raises(UsageError) as caught:
            train(place / "corpus", place / "refused", {**FORM, **more})
        assert not (place / "refused").exists()
        return caught.value

    found = refusal(accumulate=2)
    assert found.code == "train.not_additive" and found.values == {"objective": "PairNats", "setting": "accumulate", "value": 2}
    assert refusal(epsilon=8.0).code == "private.task"
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = refusal()
    assert found.code == "train.not_additive" and found.values["setting"] == "ranks"
    assert settle("match", {}).value.accumulate == 1
    with pytest.raises(UsageError) as caught:
        best(place / "corpus", place / "refused", 0.1)
    assert caught.value.code == "best.task"


def test_stopped_and_resumed_is_uninterrupted_to_the_bit(place: Path) -> None:
    form = {**FORM, "steps": 12, "saves": 4}
    train(place / "corpus", place / "whole", form)
    told: list[str] = []

    def tell(code: str, **values: Any) -> None:
        told.append(code)
        if code == "train.progress" and values["step"] >= 7 and "train.resumed" not in told:
            raise Stopped(15)

    with pytest.raises(Stopped):
        train(place / "corpus", place / "parts", form, tell=tell)
    train(place / "corpus", place / "parts", form, tell=tell)
    assert "train.resumed" in told
    for name in ("model.safetensors", "task.json", "golden.json"):
        assert (place / "whole" / name).read_bytes() == (place / "parts" / name).read_bytes(), name


def test_ranks_and_neighbours_are_as_counted_by_hand() -> None:
    texts = np.array([[1.0, 0], [0, 1], [0.8, 0.6]])
    images = np.array([[1.0, 0], [0.6, 0.8], [0, 1]])
    of = np.array([0, 1, 2])
    assert matches.rank(images, texts, of).tolist() == [0, 1, 1]
    assert matches.first_of_texts(images, texts[of], of).tolist() == [True, False, False]
    assert matches.first_of_texts(images, texts[[0, 1, 1]], np.array([0, 1, 1])).tolist() == [True, True, True]
    assert matches.nearest(images, texts).tolist() == [0, 2, 1]
    assert matches.rank(np.zeros((2, 2)), texts, np.array([0, 2])).tolist() == [2, 2], "a model that says nothing finds nothing"


def test_log_odds_are_found() -> None:
    source = np.random.default_rng(0)
    numbers = source.normal(0.3, 0.2, 4000)
    truth = (source.random(4000) < 1 / (1 + np.exp(-(9 * numbers - 2)))).astype(float)
    slope, bias = logit_of(numbers, truth)
    assert slope == pytest.approx(9, abs=1) and bias == pytest.approx(-2, abs=0.4)
    assert all(map(math.isfinite, logit_of(np.array([0.1, 0.9]), np.array([0.0, 1.0]))))


def test_a_batch_trains_through_the_one_trainer() -> None:
    read = batch()
    assert trainer.measure(make(), PairNats(), [read]) == pytest.approx(float(PairNats()(make(), read)[0].total.detach()) / 6, rel=1e-5)
