"""The loop, its gradients and its checkpoints: exact accumulation, keyed randomness, refusal of what is not finite, resuming to the bit."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.log import RunLog
from zhixing.core.stop import Stop, Stopped
from zhixing.data.stream import Windows
from zhixing.models import catalog
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.objectives.tokens import IGNORED, NextToken
from zhixing.tasks.match import Match
from zhixing.tasks.see import See
from zhixing.tasks.transcribe import Transcribe
from zhixing.training import budget, optim, trainer
from zhixing.training.checkpoint import Checkpoints, State, model_tensors
from zhixing.training.gradients import Gradients
from zhixing.training.settings import CHOICES, TrainSettings, as_dict, read_recipe, settle

VOCABULARY = 29
FORM = {
    "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 12, "dropout": 0.1,
}  # fmt: skip


def model(seed: int = 0, **changes: Any) -> nn.Module:
    """Build a very small decoder whose output head is not zero any more."""
    torch.manual_seed(seed)
    made = catalog.build({**FORM, **changes})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    return made


def stream(seed: int = 3, batch: int = 8) -> Windows:
    """Give windows of a seeded random text."""
    return Windows(np.random.default_rng(seed).integers(5, VOCABULARY, 2000), batch, 12, seed)


def masked(batch: dict[str, Any]) -> Batch:
    """Give a batch whose rows have very different numbers of targets."""
    tensors = trainer.to_tensors(batch, torch.device("cpu"))
    targets = tensors["targets"].clone()
    for row in range(len(targets)):
        targets[row, : (row * 3) % 12] = IGNORED
    return {**tensors, "targets": targets}


def gradient(batches: list[Batch], objective: Any = None) -> dict[str, torch.Tensor]:
    """Give the gradients of one step over micro-batches."""
    made = model(dropout=0.0)
    gradients = Gradients(made, objective or NextToken(), "fp32", 0)
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    gradients.finish()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


def split(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into micro-batches of rows."""
    return [dict(zip(batch, rows, strict=True)) for rows in zip(*(value.chunk(parts) for value in batch.values()), strict=True)]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Give the largest difference relative to the largest gradient."""
    return max(float((a[name] - b[name]).abs().max() / a[name].abs().max()) for name in a)


class MeanOfMeans(NextToken):
    """The common fault: each micro-batch divided by its own count, then averaged."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"nats": 1.0}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        (term,) = NextToken()(model, batch)
        return (Term("nats", term.total / NextToken().weights(batch)["nats"]),)


def test_micro_batches_equal_one_batch() -> None:
    whole = masked(stream().batch(0))
    assert distance(gradient([whole]), gradient(split(whole, 4))) < 1e-5


def test_mean_of_means_is_caught() -> None:
    whole = masked(stream().batch(0))
    with pytest.raises(AssertionError):
        assert distance(gradient([whole], MeanOfMeans()), gradient(split(whole, 4), MeanOfMeans())) < 1e-5


def test_loss_is_the_mean_over_targets() -> None:
    made = model(dropout=0.0)
    batch = masked(stream().batch(1))
    value = trainer.measure(made, NextToken(), [batch])
    with torch.no_grad():
        from zhixing.layers.kinds import Inputs

        logs = made.logits(made.states(Inputs(batch["tokens"]))).log_softmax(-1)
    chosen = [float(-logs[row, t, batch["targets"][row, t]]) for row in range(8) for t in range(12) if batch["targets"][row, t] != IGNORED]
    assert value == pytest.approx(sum(chosen) / len(chosen), rel=1e-6)
    assert trainer.measure(made, NextToken(), split(batch, 4)) == pytest.approx(value, rel=1e-6)


def test_chunked_vocabulary_equals_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = masked(stream().batch(0))
    whole = gradient([batch])
    monkeypatch.setattr("zhixing.objectives.tokens.CHUNK_LOGITS", VOCABULARY * 7)
    assert distance(whole, gradient([batch])) < 1e-5


def go(
    path: Path, pace: trainer.Pace, *, stop: Stop | None = None, validate: Any = None, objective: Any = None, way: str = "muon"
) -> tuple[nn.Module, Any, State]:
    """Run, or go on with, a training in a folder."""
    made = model()
    settings = TrainSettings(optimizer=way, weight_decay=0.1)
    optimizer = optim.build(made, settings, low_precision=False)
    path.mkdir(exist_ok=True)
    checkpoints = Checkpoints(path)
    newest = checkpoints.newest()
    state = checkpoints.load(newest, made, optimizer) if newest is not None else State()
    log = RunLog(path / "run.jsonl", state.step)
    try:
        state = trainer.run(
            made, objective or NextToken(), stream(), pace, optimizer, seed=7,
            checkpoints=checkpoints, log=log, state=state, validate=validate, stop=stop,
        )  # fmt: skip
    finally:
        log.close()
    return made, optimizer, state


class StopAfter(Stop):
    """A stop that is asked for at the n-th poll."""

    def __init__(self, polls: int) -> None:
        super().__init__()
        self.polls = polls

    def __bool__(self) -> bool:
        self.polls -= 1
        if self.polls < 0:
            self.number = 15
        return self.number is not None


@pytest.mark.parametrize("way", ["muon", "adamw", "sgd"])
def test_stop_and_resume_is_uninterrupted_to_the_bit(way: str, tmp_path: Path) -> None:
    pace = trainer.Pace(30, accumulate=2, save_every=11)
    whole, whole_optimizer, _ = go(tmp_path / "whole", pace, way=way)
    with pytest.raises(Stopped):
        go(tmp_path / "broken", pace, stop=StopAfter(17), way=way)
    again, again_optimizer, state = go(tmp_path / "broken", pace, way=way)
    assert state.step == 30
    for (name, a), b in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    first, second = whole_optimizer.tensors(), again_optimizer.tensors()
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_descent_is_torchs_but_for_the_first_steps_momentum() -> None:
    made, settings = model(), TrainSettings(optimizer="sgd", learning_rate=0.3, momentum=0.8, table_decay=0.0)
    mine, peer = optim.build(made, settings, False), model()
    theirs = torch.optim.SGD(peer.parameters(), lr=0.3, momentum=0.8, dampening=0.8)
    for parameter in peer.parameters():  # torch's begins with the first gradient, ours with nothing
        theirs.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    for step in range(3):
        source = torch.Generator().manual_seed(step)
        for one, other in zip(made.parameters(), peer.parameters(), strict=True):
            one.grad = other.grad = torch.randn(one.shape, generator=source)
        mine.step()
        theirs.step()
    for one, other in zip(made.parameters(), peer.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_dropout_depends_on_the_step_only() -> None:
    made = model(dropout=0.3)
    batch = trainer.to_tensors(stream().batch(0), torch.device("cpu"))

    def value(step: int) -> float:
        gradients = Gradients(made, NextToken(), "fp32", 0)
        gradients.begin([batch])
        made.train()
        gradients.add(batch, step, 0)
        return gradients.finish()["nats"]

    first, other = value(4), value(5)
    torch.rand(17)
    assert value(4) == first != other


class NotFinite(NextToken):
    """An objective that breaks at will."""

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        (term,) = NextToken()(model, batch)
        return (Term("nats", term.total * math.nan),)


def test_loss_that_is_not_finite_never_updates(tmp_path: Path) -> None:
    before = model_tensors(model())
    with pytest.raises(RunError) as caught:
        go(tmp_path / "run", trainer.Pace(50), objective=NotFinite())
    assert caught.value.code == "train.not_finite"
    assert not (tmp_path / "run" / "checkpoints" / "00000020").exists()
    made = model()
    gradients = Gradients(made, NotFinite(), "fp32", 0)
    optimizer = optim.build(made, TrainSettings(), low_precision=False)
    batch = trainer.to_tensors(stream().batch(0), torch.device("cpu"))
    _, _, updated = trainer.update(gradients, made, optimizer, [batch], 0, trainer.Pace(10))
    assert not updated
    assert all(torch.equal(before[name], value) for name, value in model_tensors(made).items())


def test_step_without_targets_is_skipped_and_said() -> None:
    made = model()
    optimizer = optim.build(made, TrainSettings(), low_precision=False)
    batch = trainer.to_tensors(stream().batch(0), torch.device("cpu"))
    batch["targets"] = torch.full_like(batch["targets"], IGNORED)
    _, _, updated = trainer.update(Gradients(made, NextToken(), "fp32", 0), made, optimizer, [batch], 0, trainer.Pace(10))
    assert not updated


def test_early_stop_and_best(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, 2.5, 2.6, 2.7, 1.0])
    _, _, state = go(tmp_path / "run", trainer.Pace(60, evaluate_every=5, patience=3), validate=lambda: next(values))
    assert (state.finished, state.best_step, state.step) == (True, 10, 25)
    assert Checkpoints(tmp_path / "run").at(10).exists()


def test_damaged_checkpoint_is_set_aside(tmp_path: Path) -> None:
    told: list[str] = []
    go(tmp_path / "run", trainer.Pace(20, save_every=5))
    checkpoints = Checkpoints(tmp_path / "run", lambda code, **values: told.append(code))
    newest = checkpoints.newest()
    assert newest == 20
    weights = checkpoints.at(20) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 4
    weights.write_bytes(bytes(content))
    assert checkpoints.newest() == 15
    assert told == ["train.damaged"]
    assert not checkpoints.at(20).exists()


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    go(tmp_path / "run", trainer.Pace(2))
    other = catalog.build({**FORM, "num_hidden_layers": 1})
    with pytest.raises(DataError):
        Checkpoints(tmp_path / "run").load(2, other)


def test_rate_rises_stays_and_falls() -> None:
    shares = [optim.share_of_rate(step, 100, 0.1, 0.5) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == shares[49] == 1.0
    assert shares[99] == pytest.approx(0.02) and all(a >= b for a, b in zip(shares[50:], shares[51:], strict=False))


def test_muon_orthogonalises() -> None:
    torch.manual_seed(0)
    for shape in ((3, 24, 40), (2, 40, 24)):
        singular = torch.linalg.svdvals(optim.orthogonalize(torch.randn(shape), low_precision=False))
        assert 0.5 < float(singular.min()) and float(singular.max()) < 1.3


def test_matrices_side_by_side_are_taken_each_by_itself() -> None:
    torch.manual_seed(0)
    parts, grads = torch.randn(3, 8, 12), torch.randn(3, 8, 12) * torch.tensor([1.0, 1e-3, 1e-3])[:, None, None]
    apart, beside, whole = [nn.Parameter(each.clone()) for each in parts], *(nn.Parameter(torch.cat(list(parts), 1)) for _ in range(2))
    for each, grad in zip(apart, grads, strict=True):
        each.grad = grad
    beside.grad = whole.grad = torch.cat(list(grads), 1)
    optim.Muon([*apart, beside, whole], 0.1, 0.9, 0.5, False, {beside: 3}).step()
    wanted = torch.cat([each.detach() for each in apart], 1)
    assert torch.allclose(beside.detach(), wanted, atol=1e-6)
    assert float((whole.detach() - wanted).abs().max()) > 0.01, "together, the small ones are moved otherwise"


def test_training_learns(tmp_path: Path) -> None:
    text = np.tile(np.arange(5, 17), 300)
    made = model()
    optimizer = optim.build(made, TrainSettings(learning_rate=0.01, weight_decay=0.0), low_precision=False)
    log = RunLog(tmp_path / "run.jsonl")
    source = Windows(text, 8, 12, 0)
    held = [source.batch(step) for step in range(3)]
    before = trainer.measure(made, NextToken(), held)
    trainer.run(made, NextToken(), source, trainer.Pace(60), optimizer, seed=0, checkpoints=Checkpoints(tmp_path), log=log)
    log.close()
    assert trainer.measure(made, NextToken(), held) < 0.5 < 2.0 < before


# ---- settings and budget


def test_settings_layers_and_origins() -> None:
    settled = settle("language", {"batch": 4})
    assert (settled.value.model, settled.value.batch, settled.origins["batch"], settled.origins["width"]) == ("qwen3", 4, "flag", "dial")


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ({"model": "qwem3"}, "settings.model"),
        ({"model": "feedforward", "context": -1}, "settings.range"),
        ({"model": "convolution", "contxt": 3}, "settings.unknown"),
        ({"model": "gpt2", "heads": 7}, "settings.heads"),
        ({"model": "gru", "order": 3}, "settings.unused"),
        ({"sise": "small"}, "settings.unknown"),
        ({"size": "giant"}, "settings.choice"),
        ({"steps": -1}, "settings.range"),
        ({"learning_rate": 0.0}, "settings.range"),
        ({"dropout": 1.5}, "settings.dropout"),
        ({"steps": 5, "minutes": 1.0}, "settings.lengths"),
        ({"heads": 3, "width": 64}, "settings.heads"),
        ({"heads": 4, "groups": 3, "width": 64}, "settings.groups"),
        ({"batch": 10, "accumulate": 3}, "settings.accumulate"),
        ({"batch": "many"}, "settings.type"),
    ],
)
def test_wrong_settings_are_refused(flags: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle("language", flags)
    assert caught.value.code == code
    assert caught.value.text("zh") != caught.value.text("en")


def test_recipe_weaker_than_flag(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('size = "tiny"\nbatch = 6\nsteps = 9\n', encoding="utf-8")
    settled = settle("language", {"steps": 3}, str(recipe))
    assert (settled.value.batch, settled.value.steps, settled.origins["batch"]) == (6, 3, "recipe")
    assert settled.value.width == catalog.plan("qwen3", "tiny")["width"]
    timed = settle("language", {"minutes": 2.0}, str(recipe)).value
    assert (timed.minutes, timed.steps) == (2.0, 0), "a length that was asked for stands instead of the recipe's"
    assert settle("language", {"batch": 2}, str(recipe)).value.steps == 9
    with pytest.raises(UsageError):
        read_recipe("no_such_recipe")
    recipe.write_text("batch = = 6", encoding="utf-8")
    with pytest.raises(DataError):
        read_recipe(str(recipe))


def task_of(name: str) -> str:
    """Name a task that the family can be trained for."""
    kinds = catalog.find({"model_type": name}).kinds
    own = {
        "encoder_decoder": "translate",
        "acoustic": "transcribe",
        "speech_seq2seq": "transcribe",
        "fusion": "see",
        "vision": "see",
        "towers": "match",
    }
    return next((own[kind] for kind in kinds if kind in own), "classify" if kinds in (("encoder",), ("document",)) else "language")


def config_of(name: str, settings: TrainSettings) -> dict[str, Any]:
    """Give the config of a family at some settings, for a task of 999 tokens where the task has its say in it."""
    said = {"see": See(("a", "b")), "match": Match(), "transcribe": Transcribe(8000)}.get(task_of(name))
    return catalog.configure(settings, 999, settings.window, said)


@pytest.mark.parametrize("name", catalog.trained())
def test_a_trained_family_has_a_plan_of_each_size(name: str) -> None:
    sizes = []
    for size in CHOICES["size"]:
        settled = settle(task_of(name), {"model": name, "size": size})
        assert all(settled.origins[key] == "dial" for key in catalog.plan(name, size))
        with torch.device("meta"):
            made = catalog.build(config_of(name, settled.value))
        sizes.append(sum(p.numel() for p in made.parameters()) or made.width)  # of hashed n-grams nothing is learnt but the head
    assert sizes == sorted(set(sizes)) and sizes[0] < 2_000_000


@pytest.mark.parametrize("name", [name for name in catalog.trained() if name != "hashed"])
def test_tables_are_not_orthogonalised(name: str) -> None:
    settings = settle(task_of(name), {"model": name, "size": "tiny"}).value
    made = catalog.build(config_of(name, settings))
    named = optim.build(made, settings, low_precision=False)
    matrices = [p for part in named.parts if isinstance(part, optim.Muon) for group in part.param_groups for p in group["params"]]
    tables = [named.names[p] for p in matrices if {999, 1000} & set(p.shape)]  # BERT has one token more than its tokenizer, the mask
    # The recurrent families' output has always been with the matrices: the frozen plans were chosen so. Vectors of words are all tables,
    # and filters are no matrices.
    assert bool(matrices) == (name not in ("skipgram", "cbow", "textcnn"))
    assert tables == (["fc.weight"] if name in ("rnn", "gru", "lstm") else [])
    assert not any("wpe" in named.names[p] or "embeddings" in named.names[p] for p in matrices)
    hidden = {p for p_name, p in made.named_parameters() if p_name.endswith(("output.dense.weight", "ahead.weight_hh_l0"))}
    assert hidden <= set(matrices), "what only sounds like a head is none"


def test_length_in_time_becomes_steps() -> None:
    cost = budget.Estimate(0.5, 1.0, 1 << 28)

    def steps(spent: tuple[float, float] = (0.0, 0.0), **given: float) -> int:
        return budget.schedule(TrainSettings(**given), cost, 100, 1000, spent, 0).steps

    assert steps(steps=12) == 12
    assert steps(minutes=1.0, spent=(10.0, 0.0)) == int((60 * 0.94 - 10) / 0.5)
    assert steps(core_seconds=60.0, spent=(0.0, 10.0)) == int(60 * 0.94 - 10)
    assert steps(epochs=3.0) == 30


@pytest.mark.parametrize("seconds", [3.0, 20.0, 90.0, 700.0])
@pytest.mark.parametrize("available", [0, 3, 500])
def test_validation_fits_into_the_budget(seconds: float, available: int) -> None:
    cost = budget.Estimate(0.6, 1.0, 1 << 28)
    planned = budget.schedule(TrainSettings(core_seconds=seconds), cost, 100, 1000, (0.0, 0.0), available)
    least = 1 + budget.FORWARD_SHARE * min(available, budget.LEAST_BATCHES)
    assert planned.cost * cost.step_core_seconds <= max(seconds, least)
    assert planned == budget.evaluated(planned.steps, 20, available), "replaying the steps gives the same evaluations"
    assert (planned.evaluations > 0) == (available > 0) and planned.batches <= available


def test_replaying_a_timed_run_keeps_its_steps(tmp_path: Path) -> None:
    run = {"settings": as_dict(replace(TrainSettings(), minutes=3.0)), "steps": 77, "dropout": 0.05}
    (tmp_path / "run.json").write_text(json.dumps(run))
    settled = settle("language", {}, str(tmp_path / "run.json"))
    assert (settled.value.steps, settled.value.minutes, settled.value.dropout) == (77, 0.0, 0.05)


def test_how_far_sounds_are_changed_is_told_to_models_that_hear_alone() -> None:
    for name in ("conformer", "bilstm_ctc"):
        settled = settle("transcribe", {"model": name, "augment": 0.3}).value
        assert catalog.configure(settled, 20, 100, Transcribe(8000))["augment"] == 0.3
        assert settle("transcribe", {"model": name}).value.augment == 1
    for value in (-0.1, float("nan"), 2.5, 1e9):
        with pytest.raises(UsageError, match="augment"):
            settle("transcribe", {"model": "conformer", "augment": value})
    for task, name in (("language", "qwen3"), ("transcribe", "dtw"), ("see", "fusion")):
        with pytest.raises(UsageError, match="augment"):
            settle(task, {"model": name, "augment": 0.3})


@pytest.mark.parametrize("path", sorted(resources.files("zhixing.recipes").iterdir(), key=str), ids=lambda path: path.name)
def test_every_recipe_is_one_of_its_task(path) -> None:
    """A recipe settles for the task that it is named after, or says in its first lines; a wrong key or value would be refused."""
    name = path.name.removesuffix(".toml")
    task = {"judge": "language", "poems": "language", "quick": "language", "shakespeare": "language", "sequences": "classify"}.get(
        name, name
    )
    settled = settle(task, {}, name)
    assert {key: getattr(settled.value, key) for key in tomllib.loads(path.read_text(encoding="utf-8"))} == tomllib.loads(
        path.read_text(encoding="utf-8")
    )


@pytest.mark.parametrize(("size", "scale"), [(1.0, 1.0), (0.0, 1e-15)])
def test_moments_of_what_is_met_seldom_fade_to_zero_and_weights_are_those_of_torch(size: float, scale: float) -> None:
    """Of weights of the usual size, and of those that begin at zero and are hardly moved."""
    draw = torch.Generator().manual_seed(0)
    start = size * torch.randn(40, 8, generator=draw)
    mine, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    ours = optim.AdamW([{"params": [mine], "weight_decay": 0.01}], lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=True)
    other = torch.optim.AdamW([theirs], lr=1e-3, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.01, fused=True)
    faded = 0
    for step in range(1300):
        slope = torch.zeros_like(start)
        slope[step % 4] = scale * torch.randn(8, generator=draw)
        if step == 0:
            slope = scale * torch.randn(40, 8, generator=draw)  # each row is met once, most of them never again
        mine.grad, theirs.grad = slope, slope.clone()
        ours.step()
        other.step()
        faded += int(subnormal(other.state[theirs]["exp_avg"]).sum())
        assert not subnormal(ours.state[mine]["exp_avg"]).any()
        assert size == 0 or not subnormal(ours.state[mine]["exp_avg_sq"]).any()
    assert faded > 0  # so that torch's own do fade
    assert torch.allclose(mine, theirs, rtol=0, atol=0 if size else 1e-20)


def subnormal(values: torch.Tensor) -> torch.Tensor:
    return (values != 0) & (values.abs() < torch.finfo(torch.float32).tiny)
