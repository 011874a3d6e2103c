"""Priors over weights: the posterior's gradient and optimum are those of penalised likelihood, whatever the micro-batches; settings refuse
two pulls at once."""

from __future__ import annotations

import inspect
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zhixing.core.errors import UsageError
from zhixing.core.log import RunLog
from zhixing.data.batch import pad
from zhixing.data.stream import Windows
from zhixing.layers.heads import Pooled
from zhixing.layers.kinds import Headed, Inputs
from zhixing.models import catalog
from zhixing.objectives.labels import LabelNats
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.objectives.prior import PRIORS, Gaussian, Laplace, Posterior, covered
from zhixing.objectives.tokens import IGNORED, NextToken
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.training import optim, trainer
from zhixing.training.checkpoint import Checkpoints
from zhixing.training.gradients import Gradients
from zhixing.training.settings import CHOICES, TrainSettings, settle
from zhixing.training.train import train

V, LABELS = 23, 3
FORMS = {
    "qwen3": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 4, "max_position_embeddings": 12, "tie_word_embeddings": True,
    },
    "lstm": {"embedding_dim": 8, "hidden_dim": 12},
}  # fmt: skip


def model(family: str = "qwen3", headed: bool = False) -> nn.Module:
    """Build a very small model none of whose weights is zero."""
    torch.manual_seed(0)
    made = catalog.build({"model_type": family, "vocab_size": V, **FORMS[family]})
    if headed:
        made = Headed(made, Pooled(made.width, LABELS))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return made.eval()


def tokens_batch() -> Batch:
    """Give a batch of text whose rows have very different numbers of targets, the first none."""
    arrays = Windows(np.random.default_rng(1).integers(5, V, 500), 8, 12, 3).batch(0)
    batch = trainer.to_tensors(arrays, torch.device("cpu"))
    for row in range(8):
        batch["targets"][row, : 12 - (row * 3) % 12] = IGNORED
    return batch


def rows_batch(count: int = 8) -> Batch:
    """Give a batch of labelled rows."""
    draw = np.random.default_rng(2)
    items = [{"tokens": draw.integers(5, V, draw.integers(2, 9)), "label": int(draw.integers(LABELS))} for _ in range(count)]
    return trainer.to_tensors(pad(items, 0), torch.device("cpu"))


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into micro-batches of rows."""
    return [dict(zip(batch, rows, strict=True)) for rows in zip(*(value.chunk(parts) for value in batch.values()), strict=True)]


def gradient(made: nn.Module, objective: Any, batches: list[Batch]) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Give one step's gradients by the one seam of the trainer, and the terms' values."""
    gradients = Gradients(made, objective, "fp32", 0)
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    values = {name: float(value) for name, value in gradients.finish().items()}
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}, values


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Give the largest difference relative to the largest gradient of each tensor."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max() / a[name].abs().max()) for name in a)


CASES = {"text": (False, NextToken(), tokens_batch), "rows": (True, LabelNats(), rows_batch)}


# The gradient.


@pytest.mark.parametrize("family", sorted(FORMS))
@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize(("prior", "penalty"), [(Gaussian(7.0), lambda w: 3.5 * w**2), (Laplace(7.0), lambda w: 7.0 * w.abs())])
def test_the_gradient_is_that_of_the_penalised_mean(family: str, case: str, prior: Any, penalty: Any) -> None:
    """Mean nats plus penalty over count, written out by hand, to 1e-6; the penalty of shared weights counts once."""
    headed, inner, batch_of = CASES[case]
    made, batch, count = model(family, headed), batch_of(), 40
    found, values = gradient(made, Posterior(inner, prior, count), [batch])
    made.zero_grad()
    mean = inner(made, batch)[0].total / inner.weights(batch)["nats"]
    pull = sum(penalty(p).sum() for name, p in made.named_parameters() if p.ndim > 1) / count
    (mean + pull).backward()
    wanted = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    assert distance(found, wanted) < 1e-6
    assert values["nats"] == pytest.approx(mean.item(), rel=1e-6) and values["prior"] == pytest.approx(pull.item(), rel=1e-6)
    plain, _ = gradient(made, inner, [batch])
    assert distance({name: found[name] for name in plain}, plain) > 1e-3, "the prior is felt"


class EveryMicroBatch(Posterior):
    """The common fault: the prior stands in each micro-batch's loss, and is counted as often as there are micro-batches."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return self.inner.weights(batch)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        (term,) = self.inner(model, batch)
        return (Term("nats", term.total + self.prior.nats(covered(model))),)


class Silent(NextToken):
    """Data that say nothing, so that only the prior is left."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        (term,) = super().__call__(model, batch)
        return (Term("nats", 0.0 * term.total),)


@pytest.mark.parametrize("parts", [2, 4, 8])
@pytest.mark.parametrize("case", sorted(CASES))
def test_the_prior_counts_once_a_step_whatever_the_micro_batches(case: str, parts: int) -> None:
    headed, inner, batch_of = CASES[case]
    made, batch = model("qwen3", headed), batch_of()
    objective = Posterior(inner, Gaussian(5.0), 40)
    whole, values = gradient(made, objective, [batch])
    found, again = gradient(made, objective, split(batch, parts))
    assert distance(whole, found) < 1e-5 and again == pytest.approx(values, rel=1e-6)
    faulty = EveryMicroBatch(inner, Gaussian(5.0), 40)
    assert distance(gradient(made, faulty, [batch])[0], gradient(made, faulty, split(batch, parts))[0]) > 1e-3


@pytest.mark.parametrize("parts", [1, 3, 8])
def test_alone_the_prior_pulls_by_strength_over_count(parts: int) -> None:
    made = model("lstm")
    found, _ = gradient(made, Posterior(Silent(), Gaussian(5.0), 40), split(tokens_batch(), parts))
    for name, p in made.named_parameters():
        wanted = 5.0 / 40 * p.detach() if p.ndim > 1 else torch.zeros_like(p)
        assert float((found[name] - wanted).abs().max()) <= 1e-6 * float(p.detach().abs().max()), name


def test_half_the_data_doubles_what_the_prior_says() -> None:
    made, batch = model(), tokens_batch()
    for prior in (Gaussian(3.0), Laplace(3.0)):
        few, _ = gradient(made, Posterior(Silent(), prior, 500), [batch])
        many, _ = gradient(made, Posterior(Silent(), prior, 1000), [batch])
        assert all(torch.equal(few[name], 2 * many[name]) for name in few)


def test_no_strength_is_maximum_likelihood() -> None:
    made, batch = model(), tokens_batch()
    plain, _ = gradient(made, NextToken(), [batch])
    for kind in PRIORS.values():
        found, values = gradient(made, Posterior(NextToken(), kind(0.0), 40), [batch])
        assert distance(plain, found) == 0 and values["prior"] == 0


def test_a_prior_is_a_log_density_up_to_its_constant() -> None:
    """Differences of nats between two points are those of the normalised densities."""
    points = [torch.tensor([[0.3, -1.2]]), torch.tensor([[2.0, 0.1]])]
    for prior, density in (
        (Gaussian(4.0), torch.distributions.Normal(0.0, 0.5)),
        (Laplace(4.0), torch.distributions.Laplace(0.0, 0.25)),
    ):
        ours = [float(prior.nats([point])) for point in points]
        true = [float(-density.log_prob(point).sum()) for point in points]
        assert ours[0] - ours[1] == pytest.approx(true[0] - true[1], rel=1e-6)


def test_a_prior_that_cannot_be_is_refused() -> None:
    for kind in PRIORS.values():
        for strength in (-1.0, math.nan, math.inf):
            with pytest.raises(UsageError):
                kind(strength)
    with pytest.raises(UsageError):
        Posterior(NextToken(), Gaussian(1.0), 0)


# The optimum, found by the one trainer on convex cases.


@dataclass(frozen=True)
class Whole:
    """The same rows in every step."""

    arrays: dict[str, np.ndarray]

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        return {name: np.array_split(value, micros)[micro] for name, value in self.arrays.items()}


def fit(
    made: nn.Module, objective: Any, arrays: dict[str, np.ndarray], path: Path, steps: int = 600, micros: int = 1, rate: float = 0.1
) -> nn.Module:
    """Train to the optimum: every row in every step, the rate falling to nothing."""
    settings = TrainSettings(optimizer="adamw", learning_rate=rate, weight_decay=0.0, table_decay=0.0)
    log = RunLog(path / "run.jsonl")
    pace = trainer.Pace(steps, micros, decay=0.9, clip=0.0)
    optimizer = optim.build(made, settings, False)
    trainer.run(made, objective, Whole(arrays), pace, optimizer, seed=0, checkpoints=Checkpoints(path), log=log)
    log.close()
    return made


class Linear(nn.Module):
    """Softmax regression on one-hot tokens: a bag of them for rows, the last one for text."""

    vocabulary = V

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(outputs, V)), nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        real = torch.arange(inputs.tokens.shape[1]) < inputs.lengths[:, None]
        return self.logits((F.one_hot(inputs.tokens, V) * real[..., None]).sum(1).float())

    def states(self, inputs: Inputs) -> torch.Tensor:
        return F.one_hot(inputs.tokens, V).float()

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return states @ self.weight.T + self.bias


def reference(features: np.ndarray, labels: np.ndarray, strength: float, l1: bool = False) -> Any:
    """Fit scikit-learn's logistic regression, C = 1 / strength."""
    from sklearn.linear_model import LogisticRegression

    form: dict[str, Any] = {"solver": "lbfgs"}
    if l1:
        # Until 1.8 the penalty was named, since then it is a share of L1.
        old = inspect.signature(LogisticRegression).parameters["penalty"].default == "l2"
        form = {"solver": "saga", "random_state": 0} | ({"penalty": "l1"} if old else {"l1_ratio": 1})
    return LogisticRegression(C=1 / strength, tol=1e-9, max_iter=20000, **form).fit(features, labels)


@pytest.mark.parametrize("strength", [0.3, 4.0])
def test_gaussian_rows_end_where_scikit_learn_does(tmp_path: Path, strength: float) -> None:
    batch = rows_batch(60)
    arrays = {name: value.numpy() for name, value in batch.items()}
    made = fit(Linear(LABELS), Posterior(LabelNats(), Gaussian(strength), 60), arrays, tmp_path, micros=2)
    features = np.stack([np.bincount(row[:length], minlength=V) for row, length in zip(arrays["tokens"], arrays["lengths"], strict=True)])
    wanted = reference(features, arrays["labels"], strength)
    np.testing.assert_allclose(made.weight.detach().numpy(), wanted.coef_, atol=2e-4)
    bias = made.bias.detach().numpy()
    np.testing.assert_allclose(bias - bias.mean(), wanted.intercept_ - wanted.intercept_.mean(), atol=2e-4)
    other = reference(features, arrays["labels"], 2 * strength)
    assert np.abs(made.weight.detach().numpy() - other.coef_).max() > 1e-2, "another strength is told apart"


def test_a_gaussian_language_model_ends_where_scikit_learn_does(tmp_path: Path) -> None:
    """The linear softmax model of the next token given the last."""
    draw = np.random.default_rng(4)
    text = [5]
    for _ in range(400):
        text.append(int((text[-1] * 7 + draw.integers(0, 4) ** 2) % V))
    arrays = {"tokens": np.array(text[:-1]).reshape(10, 40), "targets": np.array(text[1:]).reshape(10, 40)}
    made = fit(Linear(V), Posterior(NextToken(), Gaussian(0.5), 400), arrays, tmp_path)
    targets = arrays["targets"].ravel()
    wanted = reference(np.eye(V)[arrays["tokens"].ravel()], targets, 0.5)
    assert len(np.unique(targets)) == V
    np.testing.assert_allclose(made.weight.detach().numpy(), wanted.coef_, atol=2e-4)


@dataclass(frozen=True)
class Squares:
    """Half squared gaps to one weight: a normal likelihood of variance 1."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"nats": float(len(batch["y"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        return (Term("nats", ((model.weight[0, 0] - batch["y"]) ** 2).sum() / 2),)


@pytest.mark.parametrize("strength", [0.0, 2.0, 6.0, 30.0])
def test_laplace_in_one_dimension_is_the_soft_threshold(tmp_path: Path, strength: float) -> None:
    """w = sign(m) max(|m| - strength / N, 0), m the mean of N observations; Gaussian: N m / (N + strength)."""
    y = np.random.default_rng(0).normal(-1.0, 1.0, 20).astype(np.float32)
    mean = y.mean()
    made = fit(nn.Linear(1, 1), Posterior(Squares(), Laplace(strength), 20), {"y": y}, tmp_path)
    soft = np.sign(mean) * max(abs(mean) - strength / 20, 0)
    assert made.weight.item() == pytest.approx(soft, abs=1e-3)
    assert (soft == 0) == (strength == 30.0)
    made = fit(nn.Linear(1, 1), Posterior(Squares(), Gaussian(strength), 20), {"y": y}, tmp_path)
    assert made.weight.item() == pytest.approx(20 * mean / (20 + strength), abs=1e-3)


@dataclass(frozen=True)
class Bernoulli:
    """Cross-entropy of yes or no under one logit."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"nats": float(len(batch["y"]))}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        return (Term("nats", F.binary_cross_entropy_with_logits(model(batch["x"])[:, 0], batch["y"], reduction="sum")),)


def test_laplace_is_as_sparse_as_scikit_learn(tmp_path: Path) -> None:
    draw = np.random.default_rng(11)  # no weight of this draw stands so near the threshold that it needs long to fall
    x = draw.normal(size=(200, 20)).astype(np.float32)
    y = (x[:, 0] * 2 - x[:, 1] + 0.7 * x[:, 2] + draw.logistic(size=200) > 0).astype(np.float32)
    wanted = reference(x, y, 8.0, l1=True).coef_[0]
    made = fit(nn.Linear(20, 1), Posterior(Bernoulli(), Laplace(8.0), 200), {"x": x, "y": y}, tmp_path, 1500, rate=0.02)
    found = made.weight.detach().numpy()[0]
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    near = np.abs(found) < 1e-3
    assert 5 <= near.sum() <= 17 and (near == (wanted == 0)).all()
    dense = fit(nn.Linear(20, 1), Posterior(Bernoulli(), Gaussian(8.0), 200), {"x": x, "y": y}, tmp_path)
    assert (np.abs(dense.weight.detach().numpy()) > 1e-3).sum() > 17, "a Gaussian leaves next to nothing out"


# Settings.


def test_the_settings_know_the_priors() -> None:
    assert CHOICES["prior"] == ("none", *PRIORS)
    assert all(kind.name == name for name, kind in PRIORS.items())


def test_a_prior_takes_the_place_of_decay() -> None:
    for model_name in ("lstm", "qwen3", "mixture"):
        plain = settle("language", {"model": model_name})
        assert plain.value.prior == "none" and plain.value.weight_decay > 0 and plain.value.table_decay > 0
        settled = settle("language", {"model": model_name, "prior": "gaussian"})
        assert (settled.value.weight_decay, settled.value.table_decay, settled.value.prior_strength) == (0.0, 0.0, 1.0)
        assert {settled.origins[name] for name in ("weight_decay", "table_decay")} == {"prior"}
    settled = settle("language", {"model": "lstm", "prior": "laplace", "prior_strength": 0.3, "weight_decay": 0.0})
    assert settled.origins["weight_decay"] == "flag" and settled.origins["table_decay"] == "prior"


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        ("settings.prior_decay", {"prior": "gaussian", "weight_decay": 0.1}),
        ("settings.prior_decay", {"prior": "laplace", "table_decay": 0.1}),
        ("settings.no_prior", {"prior_strength": 2.0}),
        ("settings.choice", {"prior": "gausian"}),
        ("settings.range", {"prior": "gaussian", "prior_strength": 0.0}),
        ("settings.range", {"prior": "gaussian", "prior_strength": math.nan}),
        ("settings.unused", {"model": "ngram", "prior": "gaussian"}),
    ],
)
def test_settings_that_cannot_be_are_refused(code: str, flags: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        settle("language", flags)
    assert caught.value.code == code


def test_a_recipe_of_decay_is_refused_with_a_prior(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("weight_decay = 0.1")
    with pytest.raises(UsageError) as caught:
        settle("language", {"prior": "gaussian"}, str(tmp_path / "a.toml"))
    assert caught.value.code == "settings.prior_decay"
    assert settle("language", {"prior": "gaussian", "weight_decay": 0.0}, str(tmp_path / "a.toml")).value.weight_decay == 0


# Whole trainings.

SHORT = {"steps": 6, "width": 16, "embedding": 8, "batch": 4, "accumulate": 2, "window": 16, "precision": "fp32", "threads": 1}


def test_training_under_a_prior_is_judged_by_the_data_alone(tmp_path: Path) -> None:
    draw = random.Random(0)
    (tmp_path / "text.txt").write_text("\n".join(" ".join(draw.choices("a b cd e 山 水".split(), k=9)) for _ in range(200)))
    prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(split="tail", validation=0.1, test=0.1))
    ends = {}
    for strength in (1.0, 1e6):
        form = {**SHORT, "model": "lstm", "prior": "gaussian", "prior_strength": strength, "evaluations": 2}
        folder = train(tmp_path / "corpus", tmp_path / f"model-{strength}", form)
        assert folder.card["prior"] == {"name": "gaussian", "strength": strength, "per": "weight"}
        assert folder.card["settings"]["weight_decay"] == 0 and folder.card["origins"]["weight_decay"] == "prior"
        lines = [json.loads(line) for line in (folder.path / "run.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        assert len(losses) == 6 and all(set(each) == {"nats", "prior"} and each["prior"] > 0 for each in losses)
        ends[strength] = losses[-1]
        assert folder.card["training"]["validation_nats"] < 10
        replayed = settle("language", {}, str(folder.path / "run.json")).value
        assert (replayed.prior, replayed.prior_strength, replayed.weight_decay) == ("gaussian", strength, 0.0)
    assert ends[1e6]["prior"] > 1000 and ends[1.0]["prior"] < 1


def test_rows_are_trained_under_a_prior_too(tmp_path: Path) -> None:
    draw = random.Random(0)
    rows = [{"text": f"{label} {number} {draw.random()}", "label": label} for number in range(60) for label in ("up", "down")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(validation=0.2, test=0.1))
    folder = train(tmp_path / "corpus", tmp_path / "model", {**SHORT, "model": "lstm", "prior": "laplace", "prior_strength": 0.1})
    assert folder.card["prior"] == {"name": "laplace", "strength": 0.1, "per": "weight"} and folder.card["settings"]["prior"] == "laplace"
