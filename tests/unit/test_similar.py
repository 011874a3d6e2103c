"""Likeness of texts: scales of any kind, pairs with scores and without, ties, and what is worth labelling next."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import MAKERS, SMALL
from torch import nn

from zhixing import evaluate, load, prepare, suggest, train
from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError
from zhixing.core.log import quiet
from zhixing.data.batch import pad
from zhixing.evaluation.partners import values_of
from zhixing.evaluation.suggest import spread
from zhixing.metrics.likeness import pearson, spearman
from zhixing.objectives.contrastive import SCALE, Alike
from zhixing.preparation.prepare import Prepare
from zhixing.studies.best import best
from zhixing.tasks.similar import Similar, calibrated, fit_overlap, fit_same
from zhixing.tokens.tokenizer import train_characters


def rows(count: int, scores: tuple[float, float] | None, seed: int = 1) -> list[dict[str, Any]]:
    """Make pairs whose likeness, 0..4, stands on a scale from one score to another; None: pairs that belong together."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        row = MAKERS["similar"](draw, number)
        score = row.pop("score")
        if scores is None:
            row["other"] = f"{row['text']} again {number * 7}"
        else:
            row["score"] = scores[0] + (scores[1] - scores[0]) * score / 4
        found.append(row)
    return found


def corpus(place: Path, found: list[dict[str, Any]], **how: Any) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in found), encoding="utf-8")
    prepare(place / "rows.jsonl", place / "corpus", Prepare(task="similar", **{"validation": 0.3, "test": 0.3, **how}), force=True)
    return place / "corpus"


@pytest.mark.parametrize("scale", [(0.0, 1.0), (-1.0, 1.0), (0.0, 5.0), (-3.0, -1.0)])
def test_any_scale_is_fitted(scale: tuple[float, float]) -> None:
    found = rows(200, scale)
    task = Similar.fit(found[:120])
    fitted, model, _ = fit_overlap(task, found[:120], found[120:], {}, quiet)
    answers = list(fitted.answers(model, [fitted.encode(each, None) for each in found], None))
    values = fitted.metrics(answers, found)
    assert (task.low, task.high, task.scored) == (*scale, True)
    assert values["gap"].mean() < 0.25 * (scale[1] - scale[0]) and spearman(values["expected"], values["given"]) > 0.6


def test_scores_that_are_all_the_same_are_what_is_answered() -> None:
    found = [{**each, "score": -3.0} for each in rows(40, (0.0, 1.0))]
    task = Similar.fit(found)
    assert np.isfinite(task.encode(found[0], train_characters(["a"]))["alike"])
    for fit in (fit_same, fit_overlap):
        fitted, model, _ = fit(task, found, [], {}, quiet)
        assert {each.value for each in fitted.answers(model, [fitted.encode(each, None) for each in found], None)} == {-3.0}
    without = Similar.fit([{"text": "a", "other": "b"}])
    assert not without.scored and calibrated(without, None, found, None) == without


class Table(nn.Module):
    """Vectors by the first token of a text."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(nn.functional.normalize(vectors, dim=1))

    def forward(self, inputs: Any) -> torch.Tensor:
        return self.vectors[inputs.tokens[:, 0]]


def test_the_loss_is_that_of_its_definition_with_scores_and_without() -> None:
    torch.manual_seed(0)
    model = Table(torch.randn(12, 5))
    items = [
        {"tokens": np.array([n]), "others": np.array([n + 6]), "text_key": n, "other_key": n, "alike": alike}
        for n, alike in enumerate((0.0, 0.5, 0.5, 1.0, np.nan, np.nan))
    ]
    batch = {name: torch.as_tensor(value) for name, value in pad(items, 0).items()}
    (term,) = Alike()(model, batch)
    cosines = (model.vectors[:6] * model.vectors[6:]).sum(1).detach()
    gaps = [float(SCALE * (cosines[j] - cosines[i])) for i in range(4) for j in range(4) if items[i]["alike"] > items[j]["alike"]]
    told = 4 * np.log1p(np.exp(gaps).sum())
    logits = SCALE * model.vectors[4:6] @ model.vectors[10:12].T
    both = -(logits.log_softmax(1).diagonal().sum() + logits.log_softmax(0).diagonal().sum()) / 2
    assert float(term.total.detach()) == pytest.approx(told + float(both.detach()), rel=1e-5) and Alike().weights(batch) == {"nats": 6.0}


def test_ties_are_worth_what_chance_is() -> None:
    nearer, equal = np.array([0, 0, 3, 0]), np.array([1, 20, 4, 2])
    found = values_of((nearer, equal))
    assert found["recall_1"].tolist() == [1, 0.05, 0, 0.5] and found["recall_5"].tolist() == [1, 0.25, 0.5, 1]
    assert found["mean_reciprocal_rank"] == pytest.approx([1, np.mean(1 / np.arange(1, 21)), np.mean([1 / 4, 1 / 5, 1 / 6, 1 / 7]), 0.75])


def test_correlations() -> None:
    from scipy.stats import pearsonr, spearmanr

    draw = np.random.default_rng(0)
    first, second = draw.integers(0, 5, 60), draw.normal(0, 1, 60)
    assert spearman(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert pearson(first, second) == pytest.approx(pearsonr(first, second).statistic)
    assert pearson(np.ones(9), second[:9]) == 0 and np.isnan(pearson(first[:2], second[:2]))


def test_pairs_without_scores_are_judged_by_their_partners(tmp_path: Path) -> None:
    place = corpus(tmp_path, rows(80, None))
    train(place, tmp_path / "overlap", {})
    report = evaluate(tmp_path / "overlap", place, save=False)
    assert [each.name for each in report.figures] == ["recall_1", "recall_5", "mean_reciprocal_rank"]
    assert report.figures[0].value > 0.9 > report.figures[0].rivals["chance"]
    train(place, tmp_path / "neural", {**SMALL, "model": "bert", "steps": 30, "window": 16})
    report = evaluate(tmp_path / "neural", place, save=False)
    assert report.details["texts_not_read_to_the_end"] > 0 and np.isfinite(report.figures[0].value)
    with pytest.raises(DataError, match="No pair of the validation split"):
        best(place, tmp_path / "best", 0.05, {})


def test_what_is_not_judged_is_told(tmp_path: Path) -> None:
    found = rows(120, (0.0, 4.0))
    for each in found[::2]:
        del each["score"]
    place = corpus(tmp_path, found)
    train(place, tmp_path / "overlap", {})
    report = evaluate(tmp_path / "overlap", place, save=False)
    assert report.details["pairs_without_a_score"] > 5 and report.figures[0].name == "spearman"
    train(place, tmp_path / "neural", {**SMALL, "model": "bigru", "steps": 10})
    assert np.isfinite(load(tmp_path / "neural").embed(["sun moon"])).all()


def test_suggested_rows_are_unsure_ones_of_every_sort(tmp_path: Path) -> None:
    draw = random.Random(3)
    known = [{"text": f"{'fine good' if n % 2 else 'awful bad'} {n}", "label": "good" if n % 2 else "bad"} for n in range(60)]
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known))
    prepare(tmp_path / "known.jsonl", tmp_path / "corpus", Prepare(task="classify", validation=0.2, test=0.0))
    train(tmp_path / "corpus", tmp_path / "model", {})
    new = [{"id": n, "text": f"fine good {n}"} for n in range(40)] + [
        {"id": 100 + n, "text": f"{draw.choice('xyz')} {n * 31}"} for n in range(6)
    ]
    new += [{"id": 200, "text": ""}, {"id": 201, "text": "fine good 3"}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(each) + "\n" for each in new))
    counts = suggest(tmp_path / "model", tmp_path / "new.jsonl", tmp_path / "out.jsonl", 5)
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert counts == {"rows": 48, "problems": 1, "repeated": 1, "suggested": 5} and len(out) == len({each["id"] for each in out}) == 5
    assert out[0]["id"] >= 100 and sum(each["id"] >= 100 for each in out) >= 3, "those that the model knows nothing of"
    assert all(each["answer"] in ("good", "bad") and 0.5 <= each["confidence"] <= 1 for each in out)
    again = suggest(tmp_path / "model", tmp_path / "new.jsonl", tmp_path / "again.csv", 500)
    assert again["suggested"] == 46 and len((tmp_path / "again.csv").read_text().splitlines()) == 47
    assert main(["suggest", str(tmp_path / "model"), str(tmp_path / "new.jsonl"), str(tmp_path / "third.tsv"), "--count", "5"]) == 0
    assert [line.split("\t")[0] for line in (tmp_path / "third.tsv").read_text().splitlines()[1:]] == [str(each["id"]) for each in out]
    with pytest.raises(UsageError, match="out.jsonl"):
        suggest(tmp_path / "model", tmp_path / "new.jsonl", tmp_path / "out.jsonl", 5)
    with pytest.raises(UsageError):
        suggest(tmp_path / "model", tmp_path / "new.jsonl", tmp_path / "new.jsonl", 5, force=True)


def test_rows_are_spread_where_all_are_as_unsure() -> None:
    draw = np.random.default_rng(0)
    centres = np.eye(4)
    vectors = np.concatenate([centres[n] + 0.01 * draw.normal(0, 1, (20, 4)) for n in range(4)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = spread(np.ones((80, 1)), vectors, 4, 0)
    assert {place // 20 for place in chosen} == {0, 1, 2, 3}
    assert len(set(spread(np.zeros((6, 2)), np.eye(6), 6, 0))) == 6, "nothing is unsure: each row once all the same"
