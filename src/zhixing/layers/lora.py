"""LoRA: a linear map gets a second one of low rank beside it, and only that is trained: y = W x + scale * B A x.

`attach` puts A and B into the maps of a model; no weight of it changes, and none of its names. A begins at random and B at zero, so that
what is attached changes nothing at first. Where a gradient goes through, no product of the width of W is made for W itself, and nothing is
kept for it. `halve` keeps W in bfloat16 and `squeeze` in eight bits while A and B are trained. `merge` adds B A to W, for an export or a
further training; `unmerge` takes it off again.
Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; the names are peft's. W in few bits beneath: Dettmers et al. 2023, arXiv:2305.14314.
Leaves out: dropout before A, embeddings, convolutions; bits fewer than eight.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.core.errors import DataError, UsageError

LEVELS = 127  # of an int8 weight on either side of zero
PEFT = "base_model.model."  # before every name in peft's files
ENDS = ("lora_A.weight", "lora_B.weight")


class LowRankSum(torch.autograd.Function):
    """W x + b + scale * B A x, with gradients of A, B and x alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, steps: Tensor | None, bias: Tensor | None, first: Tensor, second: Tensor, scale: float
    ) -> Tensor:
        """Give (N, E) from x (N, D), weight (E, D), first (K, D) and second (E, K), all of one type.

        weight  (E, D) int8    where there are steps
        steps   (E,) float    what one level of each of its rows is worth
        """
        low = x @ first.T  # (N, K)
        if steps is not None:
            y = (x @ weight.to(x.dtype).T).mul_(steps)  # (N, E)
            y = y if bias is None else y.add_(bias)
        else:
            y = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)  # (N, E)
        ctx.save_for_backward(x, weight, steps, first, second, low)
        ctx.scale = scale
        return y.addmm_(low, second.T, alpha=scale)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upper: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients; that of x only where it is asked for."""
        x, weight, steps, first, second, low = ctx.saved_tensors
        _last[:] = NOTHING
        of_low = (upper @ second).mul_(ctx.scale)  # (N, K)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (upper @ weight if steps is None else (upper * steps) @ weight.to(upper.dtype)).addmm_(of_low, first)
        return of_x, None, None, None, of_low.T @ x, (upper.T @ low).mul_(ctx.scale), None


class LowRank(nn.Module):
    """What a linear map's class is mixed with; `lora_A` and `lora_B` are maps without bias, (K, D) and (E, K)."""

    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis.

        x       (..., D) float
        return  (..., E) float
        """
        first, second = self.lora_A.weight, self.lora_B.weight
        mixed = torch.is_autocast_enabled(x.device.type)
        kind = torch.get_autocast_dtype(x.device.type) if mixed else self.weight.dtype
        kind = x.dtype if kind == torch.int8 else kind
        weight = self.weight if isinstance(self, nn.Linear) else self.weight.T
        bias = None if self.bias is None else self.bias.to(kind)
        steps = getattr(self, "steps", None)
        weight, steps = (weight.to(kind), None) if steps is None else (weight, steps.to(kind))
        y = LowRankSum.apply(_flat(x, kind), weight, steps, bias, first.to(kind), second.to(kind), self.scale)
        y = y.view(*x.shape[:-1], len(second))
        return y if mixed else y.to(x.dtype)


NOTHING = (lambda: None, -1, None)
_last: list[Any] = [*NOTHING]  # what was laid flat last, known by a weak reference; its version then, and its form


def _flat(x: Tensor, kind: torch.dtype) -> Tensor:
    """Give states as rows of a type, (N, D); several maps in a row read the same ones, which then stand in memory once."""
    if torch.compiler.is_compiling() or x.is_inference() or torch.is_inference_mode_enabled():
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(kind)
    read, version, flat = _last
    graded = x.requires_grad and torch.is_grad_enabled()
    if read() is not x or version != x._version or flat.dtype != kind or flat.requires_grad != graded:
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(kind)
        _last[:] = [weakref.ref(x), x._version, flat]
    return flat


@functools.cache
def _mixed(cls: type[nn.Module]) -> type[nn.Module]:
    return type(f"LowRank{cls.__name__}", (LowRank, cls), {})


def maps(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List the linear maps of a model that can be adapted, by name: all but the one over the vocabulary."""
    for name, each in model.named_modules():
        linear = isinstance(each, nn.Linear) or hasattr(each, "pieces")  # GPT-2 keeps its maps turned
        if linear and "lora_" not in name and name.rsplit(".", 1)[-1] != "lm_head":
            yield name, each


def found(model: nn.Module) -> dict[str, Any]:
    """Give the maps of a model that are adapted, by name."""
    return {name: each for name, each in model.named_modules() if isinstance(each, LowRank)}


def attach(model: nn.Module, rank: int, alpha: float, targets: Collection[str] | None = None) -> None:
    """Put maps of low rank beside linear ones, and let nothing else be trained.

    rank     int      K, of the two maps
    alpha    float    what is added is scaled by alpha / rank
    targets  what the names of those that get one end in, whole parts; None: all linear maps

    Raises UsageError for a model that has none of them.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ends = None if targets is None else tuple(f".{each}" for each in targets)
    chosen = [(name, each) for name, each in maps(model) if ends is None or f".{name}".endswith(ends)]
    if not chosen:
        among = sorted({name.rsplit(".", 1)[-1] for name, _ in maps(model)})
        raise UsageError("lora.no_maps", targets=", ".join(sorted(targets or ())) or "-", among=", ".join(among) or "-")
    for _, each in chosen:
        rows, columns = each.weight.shape if isinstance(each, nn.Linear) else each.weight.T.shape
        device = each.weight.device
        each.lora_A = nn.Linear(columns, rank, bias=False, device=device)
        each.lora_B = nn.Linear(rank, rows, bias=False, device=device)
        nn.init.kaiming_uniform_(each.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(each.lora_B.weight)
        each.scale = alpha / rank
        each.__class__ = _mixed(type(each))


def endings(model: nn.Module) -> list[str]:
    """Give the shortest ends of names that say which maps of a model are adapted, and name no other: what `attach` takes as its targets."""
    adapted, chosen = set(found(model)), set()
    others = [f".{name}" for name, _ in maps(model) if name not in adapted]
    for name in adapted:
        parts = name.split(".")
        ends = (".".join(parts[place:]) for place in reversed(range(len(parts))))
        chosen.add(next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), name))
    return sorted(chosen)


def halve(model: nn.Module) -> None:
    """Keep in bfloat16 what is not trained of an adapted model: its large weights; what a table of vectors gives is as wide as before."""
    for each in (*found(model).values(), *(part for part in model.modules() if isinstance(part, nn.Embedding))):
        if not each.weight.requires_grad and each.weight.is_floating_point():
            each.weight.data = each.weight.data.bfloat16()
        if isinstance(each, nn.Embedding):
            each.register_forward_hook(lambda _module, _inputs, given: given.float())


@torch.no_grad()
def squeeze(model: nn.Module) -> None:
    """Keep in eight bits what is not trained of the adapted maps: each row of a weight is whole numbers of a step of its own."""
    for each in found(model).values():
        weight = each.weight.float()
        rows = 1 if isinstance(each, nn.Linear) else 0  # the axis that is reduced
        steps = weight.abs().amax(rows).clamp_(min=torch.finfo(torch.float32).tiny) / LEVELS  # (E,)
        each.weight = nn.Parameter((weight / steps.unsqueeze(rows)).round_().to(torch.int8), requires_grad=False)
        each.register_buffer("steps", steps, persistent=False)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Give A and B of every adapted map by peft's names."""
    return {f"{PEFT}{name}.{end}": each.get_parameter(end).detach() for name, each in found(model).items() for end in ENDS}


@torch.no_grad()
def load(model: nn.Module, given: Mapping[str, Tensor], path: str = "") -> None:
    """Put A and B of every adapted map in place. Raises DataError where one is missing, is of another shape, or belongs to no map."""
    wanted = {f"{PEFT}{name}.{end}": each.get_parameter(end) for name, each in found(model).items() for end in ENDS}
    for name, parameter in wanted.items():
        if name not in given:
            raise DataError("lora.tensor", path=path, name=name, shape="-", wanted=tuple(parameter.shape))
        if given[name].shape != parameter.shape:
            raise DataError("lora.tensor", path=path, name=name, shape=tuple(given[name].shape), wanted=tuple(parameter.shape))
        parameter.copy_(given[name])
    if more := sorted(set(given) - set(wanted)):
        raise DataError("lora.tensor", path=path, name=more[0], shape=tuple(given[more[0]].shape), wanted="-")


def _change(each: Any) -> Tensor:
    """Give what a map's A and B add to its weight, laid as that is."""
    change = each.scale * (each.lora_B.weight.float() @ each.lora_A.weight.float())  # (E, D)
    return change if isinstance(each, nn.Linear) else change.T


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add what was learnt to the weights; the model is again as if nothing had been attached, and has new weights of its own."""
    for each in found(model).values():
        each.weight = nn.Parameter(each.weight.float() + _change(each), requires_grad=False)
        del each.lora_A, each.lora_B, each.scale
        each.__class__ = type(each).__mro__[2]
    return model.requires_grad_(True)


@torch.no_grad()
def unmerge(model: nn.Module, given: Mapping[str, Tensor], rank: int, alpha: float, targets: Collection[str] | None = None) -> None:
    """Take off from merged weights what was added, and put it beside them again."""
    attach(model, rank, alpha, targets)
    load(model, given)
    for each in found(model).values():
        each.weight = nn.Parameter(each.weight - _change(each), requires_grad=False)
