"""A pupil learns from its teacher through the one trainer: the loss sums, the batch carries what was said, and the card says by whom."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import UsageError
from zhixing.layers.kinds import Inputs
from zhixing.objectives.distil import Distill
from zhixing.objectives.labels import LabelNats
from zhixing.preparation.prepare import Prepare
from zhixing.training.gradients import Gradients

SMALL = {"model": "textcnn", "size": "tiny", "width": 24, "embedding": 8, "batch": 8, "window": 48, "precision": "fp32", "threads": 1}


class Guess(nn.Module):
    """Logits of three labels from the sum of a row's tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.table(inputs.tokens).sum(1)


def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    batch = {"tokens": torch.randint(9, (12, 5)), "lengths": torch.full((12,), 5), "labels": torch.randint(3, (12,))}
    return Guess(), {**batch, "teacher": torch.rand(12, 3).softmax(1)}


def test_a_loss_is_the_sum_over_its_rows() -> None:
    model, batch = make()
    objective = Distill(LabelNats(), 0.6, 3.0)
    assert objective.additive and objective.weights(batch) == {"nats": 12.0, "teacher": 12.0}
    whole = {term.name: float(term.total.detach()) for term in objective(model, batch)}
    parts = [objective(model, {name: value[row : row + 1] for name, value in batch.items()}) for row in range(12)]
    for place, name in enumerate(("nats", "teacher")):
        assert whole[name] == pytest.approx(sum(float(part[place].total.detach()) for part in parts), rel=1e-5)
    scales = {term.name: term.scale for term in objective(model, batch)}
    assert scales == pytest.approx({"nats": 0.4, "teacher": 0.6})


def test_micro_batches_equal_one_batch() -> None:
    model, batch = make()

    def gradient(sizes: list[int]) -> torch.Tensor:
        parts = [dict(zip(batch, part, strict=True)) for part in zip(*(value.split(sizes) for value in batch.values()), strict=True)]
        gradients = Gradients(model, Distill(LabelNats()), "fp32", 0)
        gradients.begin(parts)
        for micro, part in enumerate(parts):
            gradients.add(part, 0, micro)
        gradients.finish()
        return model.table.weight.grad.clone()

    whole = gradient([12])
    for sizes in ([4, 4, 4], [1, 11], [5, 4, 2, 1]):
        assert float((gradient(sizes) - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


def test_the_teacher_is_what_is_least() -> None:
    """Told by the teacher alone, the loss is zero at its probabilities, and falls towards them at any temperature."""
    model, batch = make()
    with torch.no_grad():
        batch["teacher"] = model(Inputs(batch["tokens"])).softmax(1)
    for temperature in (0.5, 1.0, 4.0):
        nats = Distill(LabelNats(), 1.0, temperature)(model, batch)[1].total
        assert float(nats.detach()) == pytest.approx(0.0, abs=1e-4)
        other = {**batch, "teacher": batch["teacher"].roll(1, 1)}
        assert float(Distill(LabelNats(), 1.0, temperature)(model, other)[1].total.detach()) > 0.1
    batch["teacher"] = nn.functional.one_hot(batch["labels"], 3).float()  # a teacher that is certain
    assert torch.isfinite(Distill(LabelNats(), 1.0)(model, batch)[1].total)
    for wrong in ({"weight": 1.5}, {"temperature": 0.0}):
        with pytest.raises(UsageError):
            Distill(LabelNats(), **wrong)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where, draw = tmp_path_factory.mktemp("distil"), random.Random(2)
    rows: list[dict[str, Any]] = []
    for number in range(240):
        label = draw.choice(("good", "bad"))
        rows.append({"text": f"{number} says {'fine 好' if label == 'good' else 'awful 差'}", "label": label})
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(where / "rows.jsonl", where / "corpus", Prepare(validation=0.15, test=0.25))
    train(where / "corpus", where / "bag", {"model": "logistic"})
    return where


def test_a_counted_model_teaches_a_trained_one(place: Path) -> None:
    told: list[str] = []
    settings = {**SMALL, "steps": 60, "learning_rate": 0.01, "teacher": str(place / "bag")}
    train(place / "corpus", place / "pupil", settings, tell=lambda code, **values: told.append(code))
    assert "train.teacher" in told
    opened = load(place / "pupil")
    assert opened.folder.card["teacher"]["manifest_sha256"] and opened.folder.card["teacher"]["model"] == "logistic"
    assert opened.folder.card["fitted_on"] == ["train", "validation"], "the teacher has seen validation"
    line = json.loads((place / "pupil" / "run.jsonl").read_text().splitlines()[0])
    assert set(line["loss"]) == {"nats", "teacher"}
    assert evaluate(place / "pupil", place / "corpus", save=False, rivals=False).figures[0].value > 0.9


def test_with_the_teacher_alone_a_pupil_says_what_it_says(place: Path) -> None:
    """No label is learnt: the pupil follows a teacher that is wrong on purpose."""
    task_file = place / "bag" / "task.json"
    assert json.loads(task_file.read_text())["labels"] == ["bad", "good"]
    rows = [{"text": f"{n} says {'awful 差' if n % 2 else 'fine 好'}", "label": "good" if n % 2 else "bad"} for n in range(240)]
    (place / "wrong.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(place / "wrong.jsonl", place / "wrong_corpus", Prepare(validation=0.1, test=0.1))
    train(place / "wrong_corpus", place / "liar", {"model": "logistic"})
    settings = {**SMALL, "steps": 60, "learning_rate": 0.01, "teacher": str(place / "liar"), "teacher_weight": 1.0, "evaluations": 0}
    train(place / "corpus", place / "deceived", settings)
    said = [each.value for each in load(place / "deceived").predict(["9 says fine 好", "8 says awful 差"])]
    assert said == ["bad", "good"]


def test_a_teacher_that_does_not_fit_is_refused(place: Path) -> None:
    (place / "other.jsonl").write_text(
        "".join(json.dumps({"text": f"t {n}", "label": str(n % 3)}) + "\n" for n in range(60)), encoding="utf-8"
    )
    prepare(place / "other.jsonl", place / "other_corpus", Prepare(validation=0.1, test=0.1))
    with pytest.raises(UsageError) as caught:
        train(place / "other_corpus", place / "never", {**SMALL, "steps": 2, "teacher": str(place / "bag")})
    assert caught.value.code == "train.teacher" and not (place / "never").exists()
    with pytest.raises(UsageError):
        train(place / "corpus", place / "never", {"model": "logistic", "teacher": str(place / "bag")})
    with pytest.raises(UsageError):
        train(place / "corpus", place / "never", {**SMALL, "teacher_weight": 2.0})
    assert np.isfinite(load(place / "bag").predict(["x"])[0].confidence)


def test_a_task_without_one_label_has_no_teacher(place: Path) -> None:
    rows = [{"tokens": [f"n{n}", "runs"], "tags": ["B-x", "O"]} for n in range(60)]
    (place / "tags.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(place / "tags.jsonl", place / "tags_corpus", Prepare(task="tag", validation=0.1, test=0.1))
    with pytest.raises(UsageError) as caught:
        train(place / "tags_corpus", place / "never", {"model": "textcnn", "teacher": str(place / "bag")})
    assert caught.value.code == "settings.teacher"
