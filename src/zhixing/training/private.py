"""Differential privacy: gradients of which no single row can be told from what leaves the training. DP-SGD.

    each row's gradient, scaled down to a norm of `clip` at most -> their sum + noise of `noise` clips, once a step -> / expected rows

Rows enter a step by a coin each (Poisson), coins and noise from the system's cryptographic source and kept nowhere: a run that was killed
goes on with other ones, so that a resumed private run does not end in the same bytes. Every step is written into a ledger before its noise
is drawn, and what stands there is spent, whether or not the step survived.
Source: Abadi et al. 2016, arXiv:1607.00133; the unit is one row, added or removed. Accountant: opacus' PRV, Gopi et al. 2021,
arXiv:2106.02848.
Leaves out: privacy of whole persons with several rows; what seconds and memory, which the diary and the card tell, show of how many rows
a step had; attacks on the last digits of floating point but for the sum of four normals that Holohan and Braghin 2021, arXiv:2107.10138,
give.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, sha256, sync_folder
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.data.batch import pad, size
from zhixing.data.corpus import Corpus
from zhixing.layers.heads import Pooled, pool
from zhixing.objectives.loss import Batch, Objective
from zhixing.training.gradients import to_device

CHUNK_NUMBERS = 1 << 26  # of rows' gradients held at once: 256 MiB in fp32
DELTA_POWER = 1.1  # delta, where none is given: rows to the power of minus this
LEDGER = "ledger.jsonl"
PARTS = 4  # normals in each number of the noise

# What leaves a private training, and why each may. A test holds a folder to this table.
RELEASED = {
    "model.safetensors": "made of noised sums only",
    "checkpoints": "the same, of earlier steps",
    "config.json": "settings",
    "generation_config.json": "settings",
    "golden.json": "answers to public texts, by those weights",
    "tokenizer.json": "bytes, or that of the model it began with",
    "tokenizer_config.json": "the same",
    "words.json": "the same",
    "task.json": "labels, taken as known to everyone; nothing fitted on rows",
    "run.json": "settings and the mechanism; no path, no hash, no command",
    "run.jsonl": "norms of noised sums; no loss",
    "ledger.jsonl": "the mechanism, a line a step",
    "card.json": "the same, the number of rows, taken as known, and times",
    "manifest.json": "hashes of the files above",
}
WITHHELD = ("loss", "validation", "command", "manifest_sha256", "estimate")  # keys that no JSON of such a folder holds with a value


class Whole(nn.Module):
    """A model and its objective as one function of a batch, so that its parameters can be put in from outside."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> Tensor:
        """Give the whole loss of a batch, not divided."""
        return sum(term.scale * term.total for term in self.objective(self.model, batch))


class PrivateGradients:
    """Sums of clipped gradients of single rows, with noise. A form of `gradients.Gradients`.

    clip      float   largest norm of a row's gradient; inf: none
    noise     float   standard deviation of the noise, in clips
    expected  float   rows a step on average
    spend     called before noise is drawn: writes the step into the ledger
    normal    gives so many numbers of a standard normal, secret; another one is for tests
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        precision: str,
        seed: int,
        *,
        clip: float,
        noise: float,
        expected: float,
        spend: Callable[[], None] = lambda: None,
        normal: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        if not objective.additive:
            raise UsageError("private.not_additive", objective=type(objective).__name__)
        if noise and not math.isfinite(clip):
            raise UsageError("settings.range", setting="example_clip", value=clip, origin="PrivateGradients")
        self.model, self.objective, self.precision, self.seed = model, objective, precision, seed
        self.clip, self.noise, self.expected, self.spend, self.normal = clip, noise, expected, spend, normal or secret_normal
        self.whole = Whole(model, objective)
        self.names = {name: p for name, p in self.whole.named_parameters() if p.requires_grad}  # a tied one once
        numbers = sum(p.numel() for p in self.names.values())
        self.chunk = max(1, CHUNK_NUMBERS // max(1, numbers))
        self.together = True  # until a model is seen that cannot be read for many rows at once
        self.linear = only_linear(self.model, self.names)

    def begin(self, batches: list[Batch]) -> dict[str, float]:
        """Forget the last step's sums; a step counts whether or not a row is in it."""
        self.model.zero_grad(set_to_none=True)
        self.sums = {name: torch.zeros_like(p) for name, p in self.names.items()}
        return {"rows": self.expected}

    def add(self, batch: Batch, step: int, micro: int) -> None:
        """Add the clipped gradients of a micro-batch's rows; a batch without a row adds nothing."""
        if not batch:
            return
        torch.manual_seed(int.from_bytes(os.urandom(8), "little") >> 1)  # what is drawn for a row must tell nothing of the others
        device = next(iter(self.names.values())).device
        batch = to_device(batch, device)
        rows = len(next(iter(batch.values())))
        for start in range(0, rows, self.chunk):
            some = {name: value[start : start + self.chunk] for name, value in batch.items()}
            if self.linear is not None and self._add_linear(self.linear, some):
                continue
            each = self._each(some)
            norms = sum(value.flatten(1).double().square().sum(1) for value in each.values()).sqrt()  # (B,)
            scales = (self.clip / norms.clamp(min=1e-30)).clamp(max=1.0)  # (B,)
            odd = ~torch.isfinite(norms)  # one such row would else be seen in every weight
            for name, value in each.items():
                if bool(odd.any()):
                    value = torch.where(odd.view(-1, *[1] * (value.ndim - 1)), torch.zeros((), dtype=value.dtype), value)
                self.sums[name] += torch.einsum("b,b...->...", torch.where(odd, 0.0, scales).to(value.dtype), value)

    def _add_linear(self, head: Pooled, batch: Batch) -> bool:
        """Add the clipped gradients of rows where all that is learnt is one linear map of a vector a row; False: it is not so.

        A row's gradient is the product of what goes in and what comes back, and so is its norm: none has to be made.
        Source: Goodfellow 2015, arXiv:1510.01799.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        hook = head.register_forward_hook(lambda _, given, made: seen.append((pool(*given, head.pooling), made)))
        try:
            with torch.autocast(head.weight.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                loss = self.whole(batch)
        finally:
            hook.remove()
        if len(seen) != 1 or len(seen[0][0]) != len(next(iter(batch.values()))):
            return False
        x, back = seen[0][0].detach().float(), torch.autograd.grad(loss, seen[0][1])[0].float()  # (B, D), (B, outputs)
        of_x = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)  # (B,)
        norms = torch.linalg.vector_norm(back, dim=1, dtype=torch.float64) * (of_x.square() + 1).sqrt()
        scales = (self.clip / norms.clamp(min=1e-30)).clamp(max=1.0)
        odd = ~torch.isfinite(norms).unsqueeze(1)
        back = back * scales.unsqueeze(1).to(back.dtype)
        if bool(odd.any()):
            back, x = torch.where(odd, 0.0, back), torch.where(odd, 0.0, x)
        for name, p in self.names.items():
            self.sums[name] += (back.mT @ x if p is head.weight else back.sum(0)).to(p.dtype)
        return True

    def _each(self, batch: Batch) -> dict[str, Tensor]:
        """Give each row's own gradients: {name: (B, ...)}."""

        def of_row(parameters: dict[str, Tensor], row: Batch) -> Tensor:
            return functional_call(self.whole, parameters, ({name: value.unsqueeze(0) for name, value in row.items()},))

        held = {name: p.detach() for name, p in self.names.items()}
        device = next(iter(held.values())).device
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.together:
                try:
                    return vmap(grad(of_row), in_dims=(None, 0), randomness="different")(held, batch)
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, NotImplementedError):  # no rule for many rows; any other fault comes again row by row, and is raised
                    self.together = False
            alone = []
            for row in range(len(next(iter(batch.values())))):
                loss = self.whole({name: value[row : row + 1] for name, value in batch.items()})
                found = torch.autograd.grad(loss, list(self.names.values()), allow_unused=True)
                alone.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, held.values(), strict=True)])
        return {name: torch.stack(each) for name, each in zip(held, zip(*alone, strict=True), strict=True)}

    def finish(self) -> dict[str, Tensor]:
        """Write the step into the ledger, add the noise, divide, and set the gradients; no loss leaves."""
        self.spend()
        for name, p in self.names.items():
            total = self.sums[name]
            if self.noise:
                drawn = torch.from_numpy(self.normal(p.numel())).view(p.shape)
                total = total + (drawn * self.noise * self.clip).to(total)
            p.grad = total / self.expected
        self.sums = {}
        return {}


def only_linear(model: nn.Module, names: dict[str, nn.Parameter]) -> Pooled | None:
    """Give the head of a model that learns nothing else, where it is a linear map of one vector a row; None: it is not so."""
    head = getattr(model, "head", None)
    return head if isinstance(head, Pooled) and {id(p) for p in head.parameters()} == {id(p) for p in names.values()} else None


def secret_normal(count: int) -> np.ndarray:
    """Draw from a standard normal by the system's cryptographic source: (count,) float64.

    Source: Box and Muller 1958; each number is the mean of PARTS ones, scaled back.
    """
    raw = np.frombuffer(os.urandom(16 * PARTS * count), np.uint64).reshape(2, PARTS, count)
    radius, angle = ((raw >> np.uint64(11)).astype(np.float64) + 1.0) / 2.0**53  # in (0, 1]
    return (np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle)).sum(0) / math.sqrt(PARTS)


class Poisson:
    """Items that enter each step by a coin each, secret and kept nowhere; a step may be empty.

    items  as in data.stream.Rows
    rate   float   the coin's chance, in (0, 1]
    """

    def __init__(self, items: Sequence[dict[str, Any]], rate: float, pad_id: int) -> None:
        if not items:
            raise DataError("data.no_rows")
        if not 0 < rate <= 1:
            raise UsageError("settings.range", setting="batch", value=rate * len(items), origin="Poisson")
        self.items, self.rate, self.pad_id = items, rate, pad_id
        self.lengths = np.array([size(each) for each in items], np.int64)  # (N,)
        self._drawn: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which an item was drawn once on average."""
        return math.ceil(1 / self.rate)

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, Any]:
        """Give one micro-batch of a step's rows; {} where there is none. The coins are thrown when the first of them is asked for."""
        if micro == 0 or self._drawn[0] != step:
            coins = np.frombuffer(os.urandom(8 * len(self.items)), np.uint64) >> np.uint64(11)
            drawn = np.flatnonzero(coins < np.uint64(round(self.rate * 2**53)))
            self._drawn = step, drawn[np.argsort(self.lengths[drawn], kind="stable")]  # those of like length lie in one micro-batch
        chosen = np.array_split(self._drawn[1], micros)[micro]
        return pad([self.items[each] for each in chosen], self.pad_id) if len(chosen) else {}


class Ledger:
    """The steps that were spent, a line each, written and made durable before each step's noise is drawn.

    A line that a kill cut off is spent as well. `ledger.jsonl` lies in the model's folder.
    """

    def __init__(self, path: Path, mechanism: dict[str, float]) -> None:
        self.path, self.mechanism = path, mechanism
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            with open(path, "ab") as handle:
                handle.write(b"\n")

    def spent(self) -> int:
        """Count the steps that stand there."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def affordable(self, step: int, steps: int, tell: Callable[..., None]) -> int:
        """Give the step at which a run that is now at `step` must end, so that no more than `steps` are ever spent; tell what was lost.

        Raises DataError when fewer steps stand there than the run has made: what was spent is not known then.
        """
        lost = self.spent() - step
        if lost < 0:
            raise DataError("private.ledger", path=str(self.path), spent=self.spent(), step=step)
        if lost:
            tell("private.lost", lost=lost, steps=steps)
        if step:
            tell("private.resumed")
        return steps - lost

    def spend(self) -> None:
        """Write down one more step."""
        fresh = not self.path.exists()
        with open(self.path, "ab") as handle:
            handle.write((json.dumps(self.mechanism) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())
        if fresh:
            sync_folder(self.path.parent)


def check_start(place: str, corpus: Corpus) -> None:
    """Refuse a start that has seen the rows of this corpus, or rows of its own that were paid for: what it shows would be counted nowhere.

    Raises UsageError.
    """
    seen = open_folder(place, "model").card
    while seen:
        about = seen.get("corpus") or {}
        path = about if isinstance(about, str) else about.get("path")
        same = isinstance(about, dict) and about.get("manifest_sha256") == sha256(corpus.path / MANIFEST)
        if "private" in seen or same or (path and Path(path).absolute() == corpus.path.absolute()):
            raise UsageError("private.start", path=place)
        seen = seen.get("start") or {}


def check_resumed(how: dict[str, Any], batch: int, rows: int) -> bool:
    """Say whether the rows at hand are as many as a run began with, so that its coins are those that were paid for."""
    return how["rate"] == rate_of(batch, rows) and how["expected"] == rate_of(batch, rows) * rows


def rate_of(batch: int, rows: int) -> float:
    """Give the chance with which each row enters a step, so that `batch` rows are expected, or all where there are fewer."""
    return min(1.0, batch / rows)


def mechanism(settings: Any, steps: int, rows: int) -> dict[str, Any]:
    """Settle what a private training does: the noise that so many steps over so many rows need; in run.json as "private"."""
    delta, rate = settings.delta or rows**-DELTA_POWER, rate_of(settings.batch, rows)
    noise = noise_for(settings.epsilon, delta, rate, steps)
    return {"delta": delta, "rate": rate, "noise": noise, "clip": settings.example_clip, "expected": rate * rows}


def gradients(model: nn.Module, objective: Objective, settings: Any, how: dict[str, Any], ledger: Ledger) -> PrivateGradients:
    """Make the gradients of a private training from what was settled."""
    own = {name: how[name] for name in ("clip", "noise", "expected")}
    return PrivateGradients(model, objective, settings.precision, settings.seed, **own, spend=ledger.spend)


def account(out: Path) -> dict[str, Any]:
    """Say, for the card, what a training has cost: epsilon by what stands in its ledger, not by what was planned."""
    how = read_json(out / "run.json")["private"]
    spent = Ledger(out / LEDGER, how).spent()
    epsilon = epsilon_of(how["noise"], how["rate"], spent, how["delta"])
    return {
        "epsilon": math.ceil(epsilon * 1e4) / 1e4,
        "steps_spent": spent,
        "unit": "row, added or removed",
        **how,
        "accountant": "opacus, PRV",
    }


def _opacus() -> Any:
    """Import the accountant."""
    try:
        from opacus import accountants
    except ImportError as problem:
        raise UsageError("private.needs_opacus", problem=str(problem)) from None
    return accountants


def epsilon_of(noise: float, rate: float, steps: int, delta: float) -> float:
    """Give the epsilon that so many steps cost, by opacus' PRV accountant."""
    if not steps:
        return 0.0
    if not noise:
        return math.inf
    accountant = _opacus().create_accountant("prv")
    accountant.history = [(noise, rate, steps)]
    with np.errstate(all="ignore"):  # where every row is in every step, it takes logarithms of zero, and rightly
        return float(accountant.get_epsilon(delta=delta))


@functools.lru_cache(maxsize=8)
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Give the least noise, in clips, with which so many steps cost at most epsilon."""
    low, high = 0.2, 1.0
    while epsilon_of(high, rate, steps, delta) > epsilon:
        high *= 2
        if high > 1e4:
            raise UsageError("settings.range", setting="epsilon", value=epsilon, origin="accountant")
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon_of(middle, rate, steps, delta) <= epsilon else (middle, high)
    return high
