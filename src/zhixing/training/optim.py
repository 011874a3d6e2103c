"""Optimisers: AdamW for vectors, embeddings and heads, Muon for the matrices between, or plain descent for all; one composite that can be
saved without pickle.

Muon orthogonalises the momentum of each matrix by Newton-Schulz iterations. Source: Jordan et al. 2024, "Muon"; coefficients of the
quintic (3.4445, -4.7750, 2.0315). Differs: matrices of one shape are stacked and orthogonalised in one batched product, since on a CPU
the number of calls, not of operations, is what costs; the update is scaled by sqrt(max(1, rows / columns)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


@torch.no_grad()
def orthogonalize(matrices: Tensor, low_precision: bool) -> Tensor:
    """Map each matrix to a near-orthogonal one with the same singular vectors.

    matrices  (L, Y, X) float
    return    (L, Y, X) float32, singular values roughly in [0.7, 1.2]
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if low_precision else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (L, Y, Y)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram gram) x
    return (x.mT if tall else x).float()


# The moments of a row that is met seldom fade below what float32 holds in full, and a processor takes 15 times as long over such numbers:
# 11.7 million of them .45 s a step for .03. They are zero before that, where what they would move a weight by is 1e-27 of the rate at most.
FORGOTTEN, FORGET_EVERY = 1e-36, 20
FORGET_AT_ONCE = 1 << 20  # numbers


def groups_of(groups: list[dict[str, Any]], **defaults: Any) -> list[dict[str, Any]]:
    """Give groups of parameters with what they do not say for themselves; groups without parameters are left out."""
    return [{**defaults, **group} for group in groups if group["params"]]


def forget(moments: list[Tensor]) -> None:
    """Make numbers zero that are next to it, a few rows at once, so that no copy of a whole table is made."""
    for each in moments:
        rows = each.split(max(1, FORGET_AT_ONCE // max(1, each[0].numel()))) if each.dim() and each.numel() else (each,)
        for some in rows:
            some.masked_fill_(some.abs() < FORGOTTEN, 0.0)


class AdamW:
    """Adam with decoupled weight decay: torch's function over our own state.

    torch's class would import its compiler for a second before the first step. Source: Loshchilov and Hutter 2019, algorithm 2.

    groups  each {"params": list of Tensor, "weight_decay": float}
    fused   one call over all parameters, where the device has it
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, fused: bool) -> None:
        self.param_groups = groups_of(groups, lr=lr)
        self.betas, self.eps, self.fused = betas, eps, fused
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter once."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if p not in self.state:
                    zero = torch.zeros((), dtype=torch.float32, device=p.device if self.fused else "cpu")
                    self.state[p] = {"step": zero, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            first, second, steps = ([self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq", "step"))
            adamw(
                params, [p.grad for p in params], first, second, [], steps, fused=self.fused, foreach=False, amsgrad=False,
                beta1=self.betas[0], beta2=self.betas[1], lr=group["lr"], weight_decay=group["weight_decay"], eps=self.eps, maximize=False,
            )  # fmt: skip
            for p, *moments in zip(params, first, second, strict=True):
                if p.device.type == "cpu" and self.state[p]["step"] % FORGET_EVERY == 0:
                    forget(moments)


class Muon:
    """Momentum orthogonalised per matrix, decoupled weight decay. Every parameter must be a matrix.

    pieces  {parameter: count}   matrices that lie side by side in one parameter are orthogonalised each by itself: together, the one
                                 whose gradient is largest would leave the others next to nothing
    """

    def __init__(
        self,
        params: list[Tensor],
        lr: float,
        momentum: float,
        weight_decay: float,
        low_precision: bool,
        pieces: dict[Tensor, int] | None = None,
    ) -> None:
        own = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "low_precision": low_precision}
        self.param_groups = groups_of([{"params": params}], **own)
        self.pieces, self.fused = pieces or {}, False
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix once."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                for matrix in zip(*(each.chunk(self.pieces.get(p, 1), 1) for each in (p, p.grad, state["momentum"])), strict=True):
                    shapes.setdefault(tuple(matrix[0].shape), []).append(matrix)
            for (rows, columns), matrices in shapes.items():
                alike, grads, buffers = (list(each) for each in zip(*matrices, strict=True))
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                nesterov = torch._foreach_lerp(grads, buffers, group["momentum"])
                update = orthogonalize(torch.stack(nesterov), group["low_precision"])  # (L, Y, X)
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(alike, list(update.unbind(0)), alpha=-rate)


class Descent:
    """Gradient descent with Polyak's momentum and decoupled weight decay: every step is linear in the gradients.

    So noise in them, as privacy wants it, stays as small beside what is learnt as it is in their sum; Adam would bring each coordinate's
    noise to the size of its signal.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        self.param_groups = groups_of(groups, lr=lr, momentum=momentum)
        self.fused = False
        self.state: dict[Tensor, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter once."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {})
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(state["momentum"], alpha=-group["lr"])


class Optimizers:
    """Several optimisers that act as one; state in and out as plain named tensors.

    names  {parameter: its name in the model's state dict}
    """

    def __init__(self, parts: list[AdamW | Muon | Descent], names: dict[Tensor, str]) -> None:
        self.parts, self.names = parts, names
        for part in parts:
            for group in part.param_groups:
                group["peak"] = group["lr"]

    def set_rate(self, share: float) -> None:
        """Set every learning rate to this share of its peak."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["peak"] * share

    def step(self) -> None:
        """Update every parameter once."""
        for part in self.parts:
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """Give the whole state as {"<parameter>|<state>": tensor}."""
        found = {}
        for part in self.parts:
            for p, state in part.state.items():
                for what, value in state.items():
                    found[f"{self.names[p]}|{what}"] = torch.as_tensor(value)
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        owner = {self.names[p]: (part, p) for part in self.parts for group in part.param_groups for p in group["params"]}
        for part in self.parts:
            part.state.clear()
        for name, value in tensors.items():
            parameter, what = name.rsplit("|", 1)
            part, p = owner[parameter]
            stays = what == "step" and not part.fused  # a count that the device does not read
            part.state.setdefault(p, {})[what] = value.clone() if stays else value.to(p.device).clone()


def build(model: nn.Module, settings: Any, low_precision: bool) -> Optimizers:
    """Give each parameter its optimiser: Muon for hidden matrices when asked, plain descent for all when asked, AdamW for all else; vectors
    are never decayed.

    Embeddings are known by their module, heads by name: `head` at the top, or the module lm_head. A module that has several matrices
    side by side in its weight says how many: `pieces`.

    settings  has optimizer, learning_rate, matrix_rate, weight_decay, momentum
    """
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    embeddings = {each.weight for each in model.modules() if isinstance(each, nn.Embedding)}
    matrices, tables, vectors = [], [], []
    for p, name in names.items():
        of_head = name.startswith("head.") or name.endswith("lm_head.weight")
        hidden = p.ndim == 2 and p not in embeddings and not of_head
        if p.ndim < 2:
            vectors.append(p)
        elif hidden and settings.optimizer == "muon":
            matrices.append(p)
        else:
            tables.append(p)
    fused = next(iter(names)).device.type in ("cpu", "cuda")
    groups = [{"params": tables, "weight_decay": settings.table_decay}, {"params": vectors, "weight_decay": 0.0}]
    parts: list[AdamW | Muon | Descent] = []
    if settings.optimizer == "sgd":
        parts.append(Descent(groups, settings.learning_rate, settings.momentum))
    elif any(group["params"] for group in groups):
        parts.append(AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-9, fused=fused))
    if matrices:
        pieces = {each.weight: each.pieces for each in model.modules() if hasattr(each, "pieces")}
        parts.append(Muon(matrices, settings.matrix_rate, settings.momentum, settings.weight_decay, low_precision, pieces))
    return Optimizers(parts, names)


def share_of_rate(step: int, steps: int, warmup: float, decay: float) -> float:
    """Give the learning rate's share of its peak: linear warm-up, flat, then linear decay towards 0 at the last step.

    warmup, decay  as shares of all steps
    """
    rising = (step + 1) / max(1.0, warmup * steps)
    falling = (steps - step) / max(1.0, decay * steps)
    return min(1.0, rising, falling)
