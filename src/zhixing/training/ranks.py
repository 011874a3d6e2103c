"""Several processes as one: what each made of its share of a step's micro-batches is added up.

Where micro-batch m of a step is given to rank m modulo their number, it draws from the generator of its own number, so that any number of
ranks computes what one computes with as many micro-batches, but for the order of sums. Sums are added, never means: each term is divided
by its denominator over all ranks. torch's own process groups carry them, on CPUs (gloo); nothing is pickled.
Leaves out, so far: who starts the processes and gives each its share (the loop reads all of a step), and weights that no one process holds.
"""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn
from torch import distributed as dist


def rank() -> int:
    """Give the number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def ranks() -> int:
    """Give the number of processes that train as one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def added(values: dict[str, float]) -> dict[str, float]:
    """Add up numbers by name over all ranks; a name that one rank alone knows is every rank's afterwards, in one order."""
    if ranks() == 1:
        return values
    mine = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(ranks())]
    dist.all_gather(sizes, torch.tensor([len(mine)]))
    longest = int(max(sizes))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(mine)] = mine
    gathered = [torch.zeros(longest, dtype=torch.uint8) for _ in range(ranks())]
    dist.all_gather(gathered, padded)
    whole: dict[str, float] = {}
    for size, each in zip(sizes, gathered, strict=True):
        for name, value in json.loads(bytes(each[: int(size)].tolist())).items():
            whole[name] = whole.get(name, 0.0) + value
    return whole


@torch.no_grad()
def add_gradients(model: nn.Module) -> None:
    """Add up every parameter's gradient over all ranks; one that no rank has stays away."""
    if ranks() == 1:
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.long)
    dist.all_reduce(there)
    held = [p for p, count in zip(parameters, there.tolist(), strict=True) if count]
    if not held:
        return
    whole: Tensor = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in held])
    dist.all_reduce(whole)
    for p, grad in zip(held, whole.split([p.numel() for p in held]), strict=True):
        p.grad = grad.view_as(p).to(p.dtype)
