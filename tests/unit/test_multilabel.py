"""Any number of labels a text: how they are read, the objective that sums over labels, the cut of each label, and the linear rival."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from zhixing.core.errors import DataError
from zhixing.core.log import quiet
from zhixing.data.schema import Labels
from zhixing.layers.kinds import Inputs
from zhixing.metrics.labels import macro_f1_of_sets
from zhixing.models import catalog
from zhixing.models.each import BagEach, FrequentSet
from zhixing.objectives.labels import BinaryNats
from zhixing.tasks.classify import Classify, fit_bag, fit_majority
from zhixing.tasks.multilabel import HALF, Multilabel, best_cut, cut, fit_each, fit_frequent
from zhixing.tasks.task import Answer
from zhixing.training.gradients import Gradients


def test_labels_are_read_from_a_list_or_a_text() -> None:
    read = Labels().read
    assert read(["b", "a", "b"]) == read("b|a") == read(" a ;b； ") == (["a", "b"], None)
    assert read([]) == read("") == ([], None), "a text may have none"
    assert read([1, 2]) == (["1", "2"], None)
    assert read(None)[1] == "no_labels" and read({"a": 1})[1] == read([["a"]])[1] == "not_labels"
    assert read(["\ud800"])[1] == "surrogate"


class Guess(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        return self.table(inputs.tokens).sum(1)


def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    wanted = torch.randint(2, (12, 4)).float()
    return Guess(), {"tokens": torch.randint(9, (12, 5)), "lengths": torch.full((12,), 5), "wanted": wanted}


def test_the_objective_sums_over_rows_and_labels() -> None:
    model, batch = make()
    objective = BinaryNats()
    with torch.no_grad():
        whole = float(objective(model, batch)[0].total)
        parts = [float(objective(model, {name: value[row : row + 1] for name, value in batch.items()})[0].total) for row in range(12)]
        p = model(Inputs(batch["tokens"])).sigmoid()
    assert objective.additive and objective.weights(batch) == {"nats": 48.0}
    assert whole == pytest.approx(sum(parts), rel=1e-5)
    assert whole == pytest.approx(-float(torch.where(batch["wanted"] > 0, p, 1 - p).log().sum()), rel=1e-5)


def test_micro_batches_equal_one_batch() -> None:
    model, batch = make()

    def gradient(sizes: list[int]) -> torch.Tensor:
        parts = [dict(zip(batch, part, strict=True)) for part in zip(*(value.split(sizes) for value in batch.values()), strict=True)]
        gradients = Gradients(model, BinaryNats(), "fp32", 0)
        gradients.begin(parts)
        for micro, part in enumerate(parts):
            gradients.add(part, 0, micro)
        gradients.finish()
        return model.table.weight.grad.clone()

    whole = gradient([12])
    for sizes in ([4, 4, 4], [1, 11], [5, 4, 2, 1]):
        assert float((gradient(sizes) - whole).abs().max()) <= 1e-5 * float(whole.abs().max())


def test_the_best_cut_is_found_by_trying_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        p, wanted = draw.integers(0, 12, 40) / 12, draw.random(40) < 0.3

        def f1(at: float, p: np.ndarray = p, wanted: np.ndarray = wanted) -> float:
            return 2 * (wanted & (p >= at)).sum() / max(1, (p >= at).sum() + wanted.sum())

        assert f1(best_cut(p, wanted)) == pytest.approx(max(f1(at) for at in np.unique(p)))
    assert 0.2 < best_cut(np.array([0.9, 0.4, 0.2, 0.1]), np.array([True, True, False, False])) < 0.4


def rows(count: int = 200, seed: int = 0) -> list[dict[str, object]]:
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        labels = [name for name, share in (("cat", 0.5), ("鸟", 0.2), ("rare", 0.02)) if draw.random() < share]
        found.append({"text": f"{number} saw {' '.join(labels)}", "labels": labels})
    return found


def test_a_rare_label_keeps_a_half_and_others_have_cuts_of_their_own() -> None:
    task = Multilabel.fit(rows())
    assert task.labels == ("cat", "rare", "鸟")
    wanted = np.array([np.isin(task.labels, each["labels"]) for each in rows()])
    model = BagEach.fit([str(each["text"]) for each in rows()], wanted)
    settled = cut(task, model, rows(100, 1), None)
    assert settled.cuts[1] == HALF and settled.cuts[0] != HALF and cut(task, model, [], None) is task
    said = list(settled.answers(model, [settled.encode(each, None) for each in rows(50, 2)], None))
    assert np.mean([each.value == row["labels"] for each, row in zip(said, rows(50, 2), strict=True)]) > 0.9
    assert all(0 <= each.confidence <= 1 and set(each.scores) == set(task.labels) for each in said)
    with pytest.raises(DataError):
        Multilabel.fit([{"text": "a", "labels": ["one"]}, {"text": "b", "labels": []}])


def test_a_label_that_training_has_not_seen_counts_as_missed() -> None:
    task = Multilabel(("a", "b"))
    values = task.metrics(
        [Answer(["a"], 1.0, {"a": 1.0, "b": 0.0})] * 2, [{"text": "", "labels": ["a"]}, {"text": "", "labels": ["a", "z"]}]
    )
    assert values["correct"].tolist() == [1, 0] and values["sets"].tolist() == [[1, 1, 1], [1, 1, 2]]
    assert task.figures["micro_f1"](values) == pytest.approx(0.8) and task.figures["macro_f1"](values) == pytest.approx(0.5)
    assert np.isnan(macro_f1_of_sets(np.zeros((2, 3)), np.zeros((2, 3))))


def test_the_linear_rival_comes_back_and_beats_the_most_frequent_set() -> None:
    texts = [str(each["text"]) for each in rows()]
    wanted = np.array([np.isin(("cat", "rare", "鸟"), each["labels"]) for each in rows()])
    for model in (BagEach.fit(texts, wanted, 0.25), FrequentSet.fit(wanted)):
        again = catalog.restore(catalog.config(model), model.tensors())
        assert np.array_equal(again.probabilities(texts), model.probabilities(texts))
        assert model.probabilities([]).shape == (0, 3)
    chosen, trials = BagEach.choose(texts[:150], wanted[:150], (texts[150:], wanted[150:]))
    assert trials[chosen.config.strength] == min(trials.values())
    frequent = FrequentSet.fit(wanted).probabilities(texts)[0] > 0.5
    assert (wanted == frequent).all(1).mean() == max((wanted == each).all(1).mean() for each in wanted)
    assert ((chosen.probabilities(texts) > 0.5) == wanted).all(1).mean() > (wanted == frequent).all(1).mean() + 0.2
    with pytest.raises(DataError):
        BagEach.fit([], np.zeros((0, 2)))


def test_a_rival_has_nothing_of_what_was_settled_for_the_model_beside_it() -> None:
    settled = Multilabel(("cat", "rare", "鸟"), cuts=(0.01, 0.01, 0.01))
    task, model, _ = fit_frequent(settled, rows(), [], {}, quiet)
    assert task.cuts == () and {tuple(each.value) for each in task.answers(model, [{"text": "x"}], None)} == {most_frequent(rows())}
    each, _, found = fit_each(settled, rows(), [], {}, quiet)
    assert each.cuts[1] == HALF and each.cuts[0] > 0.1 and found["strength"] > 0
    classify = Classify(("a", "b"), temperature=5.0, thresholds={"0.95": 0.9})
    sample = [{"text": f"{name} {n}", "label": name} for n in range(6) for name in "ab"]
    for fit, method in ((fit_bag, "logistic"), (fit_majority, "majority")):
        task, _, _ = fit(classify, sample, [], {"method": method}, quiet)
        assert task.temperature == 1.0 and task.thresholds == {}


def most_frequent(examples: list[dict[str, object]]) -> tuple[str, ...]:
    return Counter(tuple(each["labels"]) for each in examples).most_common(1)[0][0]
