"""Private gradients: equal to plain ones without noise and clip, no row moves them further than the clip, and seeded faults are caught."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing import evaluate, load, prepare, train
from zhixing.cli.evaluate import page
from zhixing.core.errors import DataError, UsageError
from zhixing.layers.heads import Pooled
from zhixing.layers.kinds import Headed, Inputs
from zhixing.models import catalog
from zhixing.objectives.labels import LabelNats
from zhixing.objectives.tokens import NextToken
from zhixing.preparation.prepare import Prepare
from zhixing.training import private, trainer
from zhixing.training.gradients import Gradients
from zhixing.training.optim import build
from zhixing.training.settings import TrainSettings, settle

V, T, ROWS = 29, 11, 7
BODIES = {
    "hashed": {"model_type": "hashed", "vocab_size": V, "buckets": 50, "grams": [1, 2, 3]},
    "textcnn": {"model_type": "textcnn", "vocab_size": V, "embedding_dim": 6, "kernel_sizes": [2, 3], "filters": 5},
    "bigru": {"model_type": "bigru", "vocab_size": V, "embedding_dim": 6, "hidden_dim": 8},
}
DECODERS = {
    "gpt2": {"model_type": "gpt2", "vocab_size": V, "n_embd": 12, "n_layer": 1, "n_head": 2, "n_positions": 16},
    "qwen3": {
        "model_type": "qwen3", "vocab_size": V, "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 6,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16, "tie_word_embeddings": True,
    },
}  # fmt: skip


def make(name: str) -> tuple[torch.nn.Module, Any, dict[str, torch.Tensor]]:
    """Make a model with nothing left at zero, its objective and a batch of rows."""
    torch.manual_seed(3)
    source = np.random.default_rng(0)
    tokens = torch.from_numpy(source.integers(5, V, (ROWS, T + 1)))
    if name in DECODERS:
        model, objective, batch = catalog.build(DECODERS[name]), NextToken(), {"tokens": tokens[:, :-1], "targets": tokens[:, 1:]}
    else:
        body = catalog.build(BODIES[name])
        model, objective = Headed(body, Pooled(body.width, 3)), LabelNats()
        lengths, labels = torch.from_numpy(source.integers(3, T, ROWS)), torch.from_numpy(source.integers(0, 3, ROWS))
        batch = {"tokens": tokens[:, :-1], "lengths": lengths, "labels": labels}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model.train(), objective, batch


def gather(gradients: Any, batches: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Give one step's gradient as a vector."""
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    gradients.finish()
    return torch.cat([p.grad.flatten() for p in gradients.model.parameters()])


def secret(name: str = "textcnn", kind: type = private.PrivateGradients, **how: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Make private gradients of a model, and a batch."""
    model, objective, batch = make(name)
    return kind(model, objective, "fp32", 0, **{"clip": 0.1, "noise": 0.0, "expected": float(ROWS), **how}), batch


@pytest.mark.parametrize("name", [*BODIES, *DECODERS])
@pytest.mark.parametrize("together", [True, False])
def test_without_noise_and_clip_they_are_the_plain_ones(name: str, together: bool) -> None:
    model, objective, batch = make(name)
    if name == "qwen3":  # what is compared is the arithmetic, not how a processor rounds it: in fp32 some differ by 2e-6 here
        model = model.double()
    weights = objective.weights(batch)["nats"]
    gradients = private.PrivateGradients(model, objective, "fp32", 0, clip=math.inf, noise=0.0, expected=weights)
    gradients.together = together
    found = gather(gradients, [batch])
    wanted = gather(Gradients(model, objective, "fp32", 0), [batch])
    assert float((found - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())
    halves = [{key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, None))]
    assert float((gather(gradients, halves) - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


def test_rows_are_read_together_where_a_model_allows_it() -> None:
    """Row by row is right as well, and taken where it must be: torch's own GRU has no rule for it, and a loss of tokens chooses places."""
    ways = {}
    for name in (*BODIES, *DECODERS):
        gradients, batch = secret(name)
        gather(gradients, [batch])
        ways[name] = gradients.together
    assert [name for name, together in ways.items() if together] == ["hashed", "textcnn"]


@pytest.mark.parametrize("clip", [math.inf, 0.5, 0.05])
def test_a_linear_model_is_clipped_without_making_a_rows_gradient(clip: float) -> None:
    gradients, batch = secret("hashed", clip=clip)
    assert gradients.linear is not None and all(secret(name)[0].linear is None for name in (*BODIES, *DECODERS) if name != "hashed")
    quick = gather(gradients, [batch])
    gradients._each = lambda rows: pytest.fail("it was made")
    assert torch.equal(gather(gradients, [batch]), quick)
    slow = secret("hashed", clip=clip)[0]
    slow.linear = None
    wanted = gather(slow, [batch])
    assert float(wanted.norm()) > 0 and float((quick - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


# What privacy rests on, each proven of the true thing and shown to go red on a faulty one.


def check_noise(kind: type = private.PrivateGradients) -> None:
    """Assert that a step's noise has the promised size, whatever the number of micro-batches."""
    for micros in (1, 4):
        gradients, _ = secret(kind=kind, clip=0.5, noise=2.0, expected=10.0)
        drawn = torch.cat([gather(gradients, [{}] * micros) for _ in range(30)])
        assert float(drawn.std()) == pytest.approx(2.0 * 0.5 / 10.0, rel=0.03) and abs(float(drawn.mean())) < 0.01


def check_sensitivity(kind: type = private.PrivateGradients) -> None:
    """Assert that no row moves the sum by more than the clip, however large its gradient is."""
    gradients, batch = secret(kind=kind, clip=0.05)
    for row in range(ROWS):
        without = {key: torch.cat([value[:row], value[row + 1 :]]) for key, value in batch.items()}
        moved = (gather(gradients, [batch]) - gather(gradients, [without])) * ROWS
        assert float(moved.norm()) <= 0.05 * (1 + 1e-4)


def test_a_row_that_is_no_number_adds_nothing() -> None:
    """Else it would be seen in every weight, or by a step that is skipped."""
    gradients, batch = secret("hashed", clip=0.5)
    gradients.linear = None
    whole = gather(gradients, [batch])
    plain = gradients._each

    def broken(rows: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = plain(rows)
        return {name: value.index_fill(0, torch.tensor([2]), math.inf) for name, value in found.items()}

    gradients._each = broken
    found = gather(gradients, [batch])
    assert bool(torch.isfinite(found).all()) and float((whole - found).norm()) * ROWS <= 0.5 * (1 + 1e-4)


def check_divisor(kind: type = private.PrivateGradients) -> None:
    """Assert that a sum is divided by the expected rows, not by those that came, nor by a rounded number of them."""
    one, batch = secret(kind=kind, expected=6.4)
    two, _ = secret(kind=kind, expected=8.0)
    assert torch.allclose(6.4 * gather(one, [batch]), 8 * gather(two, [batch]), rtol=1e-5)
    few = {key: value[:3] for key, value in batch.items()}
    rest = {key: value[3:] for key, value in batch.items()}
    assert torch.allclose(gather(one, [few]) + gather(one, [rest]), gather(one, [batch]), rtol=1e-4, atol=1e-7)


def check_sampling(kind: Any = private.Poisson) -> None:
    """Assert that rows enter a step by independent coins: the number of rows varies as it must, and empty steps come."""
    items = [{"tokens": np.array([5 + each % 20]), "label": each % 2} for each in range(40)]
    stream = kind(items, 0.05, 0)
    sizes = np.array([len(stream.batch(step).get("labels", ())) for step in range(3000)])
    assert sizes.mean() == pytest.approx(2.0, rel=0.1) and sizes.var() == pytest.approx(40 * 0.05 * 0.95, rel=0.15)
    assert np.mean(sizes == 0) == pytest.approx(0.95**40, abs=0.03)


def test_noise_sensitivity_divisor_and_coins_are_as_promised() -> None:
    check_noise()
    check_sensitivity()
    check_divisor()
    check_sampling()


class HalfNoise(private.PrivateGradients):
    def finish(self) -> Any:
        self.noise = self.noise / 2
        found = super().finish()
        self.noise = self.noise * 2
        return found


class NoiseOfEach(private.PrivateGradients):
    def add(self, batch: Any, step: int, micro: int) -> None:
        super().add(batch, step, micro)
        for name, total in self.sums.items():
            drawn = torch.from_numpy(private.secret_normal(total.numel())).view(total.shape)
            self.sums[name] = total + (drawn * self.noise * self.clip).to(total)

    def finish(self) -> Any:
        noise, self.noise = self.noise, 0.0
        found = super().finish()
        self.noise = noise
        return found


class ClipAfter(private.PrivateGradients):
    def add(self, batch: Any, step: int, micro: int) -> None:
        clip, self.clip = self.clip, math.inf
        super().add(batch, step, micro)
        self.clip = clip

    def finish(self) -> Any:
        norm = torch.sqrt(sum(each.double().square().sum() for each in self.sums.values()))
        share = min(1.0, len(self.sums) and ROWS * self.clip / float(norm))
        self.sums = {name: each * share for name, each in self.sums.items()}
        return super().finish()


class Floored(private.PrivateGradients):
    def finish(self) -> Any:
        expected, self.expected = self.expected, float(math.floor(self.expected))
        found = super().finish()
        self.expected = expected
        return found


class Shuffled(private.Poisson):
    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, Any]:
        size = round(self.rate * len(self.items))
        chosen = np.random.default_rng(0).permutation(len(self.items))[step * size % len(self.items) :][:size]
        return private.pad([self.items[each] for each in chosen], 0)


@pytest.mark.parametrize(
    ("check", "faulty"),
    [
        (check_noise, HalfNoise),
        (check_noise, NoiseOfEach),
        (check_sampling, Shuffled),
        (check_sensitivity, ClipAfter),
        (check_divisor, Floored),
    ],
)
def test_seeded_faults_are_caught(check: Any, faulty: type) -> None:
    with pytest.raises(AssertionError):
        check(faulty)


def test_noise_is_normal_and_never_the_same() -> None:
    drawn = private.secret_normal(200_000)
    assert abs(drawn.mean()) < 0.01 and drawn.std() == pytest.approx(1.0, abs=0.01)
    assert np.mean(np.abs(drawn) > 1.96) == pytest.approx(0.05, abs=0.003) and np.abs(drawn).max() > 4
    assert not np.array_equal(drawn[:10], private.secret_normal(10))


def test_an_empty_step_is_a_step() -> None:
    """A step without a row updates by noise alone: to leave it out would show that there was none."""
    gradients, _ = secret(clip=1.0, noise=1.0)
    before = torch.cat([p.detach().clone().flatten() for p in gradients.model.parameters()])
    optimizer = build(gradients.model, TrainSettings(), False)
    values, norm, updated = trainer.update(gradients, gradients.model, optimizer, [{}], 0, trainer.Pace(10, clip=0.0))
    after = torch.cat([p.detach().flatten() for p in gradients.model.parameters()])
    assert updated and values == {} and norm > 0 and not torch.equal(before, after)


def test_objectives_that_couple_rows_are_refused_by_name() -> None:
    model, _, _ = make("textcnn")

    class Coupled:
        additive = False

    with pytest.raises(UsageError, match="Coupled"):
        private.PrivateGradients(model, Coupled(), "fp32", 0, clip=1.0, noise=1.0, expected=1.0)


def test_what_stands_in_the_ledger_is_spent(tmp_path: Path) -> None:
    ledger = private.Ledger(tmp_path / "ledger.jsonl", {"noise": 1.0})
    assert ledger.spent() == 0
    for _ in range(5):
        ledger.spend()
    told: list[str] = []
    assert ledger.spent() == 5 and ledger.affordable(5, 20, lambda code, **v: told.append(code)) == 20
    assert ledger.affordable(3, 20, lambda code, **v: told.append(code)) == 18 and "private.lost" in told
    with pytest.raises(DataError, match="ledger"):
        ledger.affordable(9, 20, lambda code, **v: None)
    with open(tmp_path / "ledger.jsonl", "ab") as handle:
        handle.write(b'{"noi')  # killed while it wrote
    assert private.Ledger(tmp_path / "ledger.jsonl", {"noise": 1.0}).spent() == 6


# The whole way.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("private")
    source = np.random.default_rng(1)
    good, bad = ("splendid", "lovely", "很好", "喜欢"), ("dreadful", "boring", "很差", "失望")
    rows = []
    for number in range(600):
        words = source.choice(good if number % 2 else bad, 3)
        rows.append({"text": " ".join([*words, str(source.integers(1000))]), "label": "good" if number % 2 else "bad"})
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    how = Prepare(text="text", label="label", split="hash", validation=0.1, test=0.2)
    return prepare(place / "rows.jsonl", place / "corpus", how).path


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Give every key of nested data with its value, counts of rows apart."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name != "counts":
                yield name, each
                yield from walk(each)


SETTINGS = {"epsilon": 8.0, "steps": 40, "batch": 100, "learning_rate": 0.05}


def test_a_private_model_learns_and_lets_out_what_the_table_says(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    story: dict[str, dict[str, Any]] = {}
    folder = train(corpus, tmp_path / "model", SETTINGS, tell=lambda code, **values: story.update({code: values}))
    card, run = folder.card, json.loads((folder.path / "run.json").read_text(encoding="utf-8"))
    told = card["private"]
    assert {name: value for name, value in story["private.spent"].items() if name != "path"}.items() <= told.items()
    assert 7.5 < told["epsilon"] <= 8.0 and told["steps_spent"] == 40 and told["noise"] == run["private"]["noise"] > 0.3
    assert card["settings"]["model"] == "hashed" and card["settings"]["tokenizer"] == "bytes"
    assert card["corpus"] == {"counts": card["corpus"]["counts"]} and run["corpus"] == {}
    text = json.dumps([card, run])
    assert str(corpus) not in text and card["fitted_on"] == ["train"]
    assert {each.name for each in folder.path.iterdir()} <= set(private.RELEASED)
    held = [(name, value) for file in (card, run) for name, value in walk(file)]
    assert not [name for name, value in held if name in private.WITHHELD and value not in (None, [], {})], held
    log = [json.loads(line) for line in (folder.path / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log and not any({"loss", "validation"} & set(line) for line in log)
    task = json.loads((folder.path / "task.json").read_text(encoding="utf-8"))
    assert task.get("temperature", 1.0) == 1.0 and not task.get("thresholds")
    assert evaluate(folder.path, corpus, tell=lambda *a, **v: None).figure("accuracy").value > 0.8
    assert load(folder.path).predict(["splendid lovely 很好"])[0].value == "good"
    told = page(evaluate(folder.path, corpus, tell=lambda *a, **v: None))
    assert "trained with privacy" in told and "no longer where it was" not in told


def test_a_private_run_that_is_killed_pays_for_what_it_lost(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opacus")
    calls = {"count": 0}
    spend = private.Ledger.spend

    def dies(self: private.Ledger) -> None:
        spend(self)
        calls["count"] += 1
        if calls["count"] == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(private.Ledger, "spend", dies)
    with pytest.raises(KeyboardInterrupt):
        train(corpus, tmp_path / "model", {**SETTINGS, "saves": 4})
    told: list[str] = []
    folder = train(corpus, tmp_path / "model", {**SETTINGS, "saves": 4}, tell=lambda code, **v: told.append(code))
    assert "private.lost" in told and "private.resumed" in told
    card = folder.card
    assert card["private"]["steps_spent"] == 40 and card["training"]["steps"] == 35 and card["private"]["epsilon"] <= 8.0


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"epsilon": 8.0, "tokenizer": "bpe"}, "tokenizer"),
        ({"epsilon": 8.0, "evaluations": 3}, "evaluations"),
        ({"epsilon": 8.0, "minutes": 1.0}, "minutes"),
        ({"epsilon": 8.0, "model": "logistic"}, "logistic"),
        ({"epsilon": 8.0, "model": "textcnn", "dropout": 0.2}, "dropout"),
        ({"model": "textcnn", "checker": "exact", "steps": 1}, "checker"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": 8.0, "delta": 1.5}, "delta"),
        ({"model": "hashed", "delta": 1e-5}, "epsilon"),
        ({"epsilon": 8.0, "example_clip": 0.0}, "example_clip"),
    ],
)
def test_what_would_let_a_row_be_seen_is_refused(corpus: Path, tmp_path: Path, settings: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        train(corpus, tmp_path / "model", settings)
    assert not (tmp_path / "model").exists()


def test_a_start_that_has_seen_the_rows_is_refused(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("opacus")
    train(corpus, tmp_path / "open", {"model": "textcnn", "layers": 1, "width": 8, "embedding": 4, "steps": 2, "tokenizer": "bytes"})
    with pytest.raises(UsageError, match="seen these rows"):
        train(corpus, tmp_path / "model", {**SETTINGS, "start": str(tmp_path / "open")})
    train(corpus, tmp_path / "paid", {**SETTINGS, "steps": 2})
    with pytest.raises(UsageError, match="seen these rows"):
        train(corpus, tmp_path / "model", {**SETTINGS, "start": str(tmp_path / "paid")})
    assert not (tmp_path / "model").exists()


def test_a_run_goes_on_only_with_as_many_rows() -> None:
    how = {"rate": private.rate_of(100, 1000), "expected": 100.0}
    assert private.check_resumed(how, 100, 1000) and not private.check_resumed(how, 100, 200)


def test_nothing_is_replaced_before_privacy_is_settled(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(corpus, tmp_path / "model", {"model": "majority"})
    before = (tmp_path / "model" / "manifest.json").read_bytes()

    def absent() -> Any:
        raise UsageError("private.needs_opacus", problem="no module")

    monkeypatch.setattr(private, "_opacus", absent)
    private.noise_for.cache_clear()
    with pytest.raises(UsageError, match="opacus"):
        train(corpus, tmp_path / "model", SETTINGS, force=True)
    assert (tmp_path / "model" / "manifest.json").read_bytes() == before


def test_the_two_accountants_agree() -> None:
    pytest.importorskip("opacus")
    accounting = pytest.importorskip("dp_accounting")
    pld = pytest.importorskip("dp_accounting.pld")
    for noise, rate, steps, delta in ((0.8, 0.02, 400, 1e-5), (1.2, 0.1, 200, 1e-5), (2.0, 0.05, 1000, 1e-6)):
        events = accounting.SelfComposedDpEvent(accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise)), steps)
        other = pld.PLDAccountant().compose(events).get_epsilon(delta)
        assert private.epsilon_of(noise, rate, steps, delta) == pytest.approx(other, rel=0.01)
    assert private.epsilon_of(1.0, 0.1, 0, 1e-5) == 0 and private.epsilon_of(0.0, 0.1, 5, 1e-5) == math.inf


def test_hashed_runs_do_not_see_beyond_a_text() -> None:
    model = catalog.build(BODIES["hashed"])
    tokens = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    one = model.states(Inputs(tokens, lengths=torch.tensor([3, 3])))
    assert torch.equal(one[0], one[1]) and float(one[0].norm()) == pytest.approx(1.0, abs=1e-6)
    other = model.states(Inputs(tokens, lengths=torch.tensor([3, 5])))
    assert not torch.equal(other[0], other[1]) and list(model.parameters()) == []
    swapped = model.states(Inputs(torch.tensor([[6, 5, 7]]), lengths=torch.tensor([3])))
    assert not torch.allclose(swapped[0], one[0]), "the order of tokens counts"


def test_descent_s_usual_rate_is_not_another_s() -> None:
    usual = settle("classify", {"epsilon": 8.0}).value
    assert (usual.optimizer, usual.learning_rate, usual.steps, usual.batch) == ("sgd", 200.0, 100, 4096)
    other = settle("classify", {"epsilon": 8.0, "optimizer": "adamw", "batch": 100, "epochs": 2.0}).value
    assert other.optimizer == "adamw" and other.learning_rate < 1 and (other.steps, other.accumulate) == (0, 0)


def test_hashed_runs_are_of_what_tokens_are() -> None:
    letters = catalog.configure(settle("classify", {"model": "hashed"}).value, V, 8)
    octets = catalog.configure(settle("classify", {"model": "hashed", "tokenizer": "bytes"}).value, V, 8)
    assert letters["grams"] == [1, 2, 3] and letters["inside"] == [] and octets["grams"] == [3, 6, 9] and len(octets["inside"]) == 2


def test_hashed_runs_begin_where_characters_do() -> None:
    form = {"model_type": "hashed", "vocab_size": V, "buckets": 997, "grams": [1, 2], "weights": [0.5, 2.0]}
    tokens = torch.tensor([[5, 6, 7]])
    free = catalog.build(form).states(Inputs(tokens))[0, 0]
    held = catalog.build({**form, "inside": [6, 6]}).states(Inputs(tokens))[0, 0]
    assert int((free > 0).sum()) == 5 and int((held > 0).sum()) == 3, "6 and 6 7 are gone"
    ratio = held.max() / held[held > 0].min()
    assert float(ratio) == pytest.approx(math.log1p(2.0) / math.log1p(0.5), rel=1e-5)
    for wrong in ({"weights": [1.0]}, {"inside": [3]}):
        with pytest.raises(DataError):
            catalog.build({**form, **wrong})
