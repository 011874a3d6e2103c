"""Two processes are one: the same weights after some steps to 1e-5; objectives that do not add up are refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn

from zhixing.core.errors import UsageError
from zhixing.data.batch import IGNORED
from zhixing.layers.heads import Pooled
from zhixing.layers.kinds import Headed
from zhixing.models import catalog
from zhixing.objectives.contrastive import PairNats
from zhixing.objectives.labels import BinaryNats, LabelNats
from zhixing.objectives.masked import MaskedToken
from zhixing.objectives.tokens import NextToken
from zhixing.training import optim, trainer
from zhixing.training.gradients import Gradients
from zhixing.training.settings import TrainSettings

V, B, T, LABELS, MICROS, STEPS, TOLERANCE = 23, 8, 9, 3, 4, 3, 1e-5
DECODER = {"model_type": "qwen3", "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
DECODER |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": T, "dropout": 0.2}
ENCODER = {"model_type": "bigru", "vocab_size": V, "embedding_dim": 8, "hidden_dim": 8, "dropout": 0.2}
BERT = {"model_type": "bert", "vocab_size": V, "mask_token_id": V - 1, "hidden_size": 16, "num_hidden_layers": 1}
BERT |= {"num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": T, "hidden_dropout_prob": 0.2}


def case(name: str) -> tuple[nn.Module, Any]:
    """Make a model and its objective."""
    torch.manual_seed(3)
    if name in ("tokens", "masked"):
        made = catalog.build(DECODER if name == "tokens" else BERT)
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.05 * torch.randn(p.shape))
        return made, NextToken() if name == "tokens" else MaskedToken()
    body = catalog.build(ENCODER)
    return Headed(body, Pooled(body.width, LABELS)), LabelNats() if name == "labels" else BinaryNats()


def micro_batches(name: str, step: int) -> list[dict[str, torch.Tensor]]:
    """Make a step's micro-batches, with very different numbers of targets."""
    source = torch.Generator().manual_seed(step)
    made = []
    for micro in range(MICROS):
        tokens = torch.randint(5, V - 1, (B, T), generator=source)
        targets = torch.randint(5, V - 1, (B, T), generator=source)
        targets[:, : 2 * micro] = IGNORED
        rows = 2 * micro + 1  # other micro-batches have other numbers of rows
        labels = {"labels": torch.randint(0, LABELS, (B,), generator=source)[:rows]}
        wanted = {"wanted": torch.randint(0, 2, (B, LABELS), generator=source).float()[:rows]}
        whole = {"tokens": tokens, "targets": targets} if name in ("tokens", "masked") else {"tokens": tokens[:rows]}
        lengths = {} if name in ("tokens", "masked") else {"lengths": torch.full((rows,), T)}
        made.append({**whole, **lengths, **(labels if name == "labels" else wanted if name == "several" else {})})
    return made


def trained(name: str, chosen: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Train for some steps on some of each step's micro-batches; gives the weights, and each step's loss."""
    model, objective = case(name)
    settings = TrainSettings(optimizer="sgd", learning_rate=0.5)  # Adam makes as much of a gradient that is only rounding as of any other
    optimizer = optim.build(model, settings, False)
    gradients = Gradients(model, objective, "fp32", 5)
    losses = []
    for step in range(STEPS):
        model.train()
        values, _, updated = trainer.update(gradients, model, optimizer, micro_batches(name, step)[chosen], step, trainer.Pace(STEPS))
        assert updated
        losses.append(next(iter(values.values())))
    return torch.cat([p.detach().flatten() for p in model.parameters()]), torch.tensor(losses)


NAMES = ("tokens", "masked", "labels", "several")


def work(rank: int, place: Path) -> None:
    """Be one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
    torch.save({name: trained(name, slice(rank, None, 2)) for name in NAMES}, place / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = tmp_path_factory.mktemp("ranks")
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "GLOO_SOCKET_IFNAME": "lo"}
    started = [subprocess.Popen([sys.executable, __file__, str(rank), str(place)], env=surroundings) for rank in range(2)]
    assert [each.wait(timeout=150) for each in started] == [0, 0]
    return [torch.load(place / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(name: str, pair: list[dict[str, Any]]) -> None:
    weights, losses = trained(name)
    for mine, seen in (each[name] for each in pair):
        assert float((mine - weights).norm() / weights.norm()) < TOLERANCE and torch.allclose(seen, losses, rtol=TOLERANCE)
    assert torch.equal(pair[0][name][0], pair[1][name][0]), "both hold the same weights, to the bit"
    alone = trained(name, slice(0, None, 2))[0]
    assert float((alone - weights).norm() / weights.norm()) > 10 * TOLERANCE, "the harness sees what one rank alone would make"


def test_what_does_not_add_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError) as caught:
        Gradients(case("tokens")[0], PairNats(), "fp32", 0).begin([{}])
    assert caught.value.code == "train.not_additive"


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
