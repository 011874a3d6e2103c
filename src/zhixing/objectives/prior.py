"""Priors over weights, and the posterior as an objective: maximum a posteriori, p(w | data) ~ p(data | w) p(w).

    -log p(w | data) = sum over N units of -log p(unit | w)  -  log p(w)  +  what does not depend on w

Divided by N it is what the loop minimises for any other objective, the mean over units, plus one term: -log p(w) / N. The more data, the
less the prior says. Gaussian is the L2 penalty of ridge regression, Laplace the L1 penalty of the lasso, and no prior is maximum
likelihood. Counts have a Dirichlet; so has naive Bayes, and logistic regression a Gaussian, under these names (models/bag.py).
A prior stands in the objective, so its pull goes through the optimiser with everything else and the point where training ends is an
optimum of the posterior. Decoupled weight decay pulls beside the objective, by an amount that depends on the learning rate and not on N:
it is no prior and is not called one.
Sources: MacKay 1992 (Gaussian); Williams 1995, Goodman 2004 (Laplace: exponential priors for maximum entropy models). Leaves out: priors
with a scale of their own for each group of weights, and the evidence, which would choose the strength without validation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from zhixing.core.errors import UsageError
from zhixing.objectives.loss import Batch, Loss, Objective, Term


@dataclass(frozen=True)
class Gaussian:
    """Each weight is normal around 0.

    strength  float   precision, 1 / variance; 0: flat, maximum likelihood
    """

    strength: float

    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        check(self.strength)

    def nats(self, weights: Iterable[Tensor]) -> Tensor:
        """Give -log p(w) without its constant, 1/2 log(2 pi / strength) a weight: strength / 2 * sum of w^2."""
        return self.strength / 2 * sum((w.float() ** 2).sum() for w in weights)


@dataclass(frozen=True)
class Laplace:
    """Each weight falls off exponentially on both sides of 0, so that what the data hardly speak for ends at 0.

    By gradients alone such weights come as near to 0 as the last learning rate allows, not to it.

    strength  float   rate, 1 / scale; 0: flat, maximum likelihood
    """

    strength: float

    name: ClassVar[str] = "laplace"

    def __post_init__(self) -> None:
        check(self.strength)

    def nats(self, weights: Iterable[Tensor]) -> Tensor:
        """Give -log p(w) without its constant, log(2 / strength) a weight: strength * sum of |w|."""
        return self.strength * sum(w.float().abs().sum() for w in weights)


PRIORS: dict[str, Any] = {"gaussian": Gaussian, "laplace": Laplace}


@dataclass(frozen=True)
class Posterior:
    """Any objective under a prior on the model's weights: mean nats a unit + (-log p(w)) / count.

    The prior's term is counted once a step, however many micro-batches there are: each bears the share of it that it has of the step's
    units.

    inner  Objective   -log p(data | w), one term
    prior  Gaussian or Laplace
    count  int         units of the whole training split, N: targets of a text, or rows
    """

    inner: Objective
    prior: Any
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError("settings.range", setting="count", value=self.count, origin="Posterior")

    @property
    def additive(self) -> bool:
        """Whether losses of micro-batches add up: as the inner objective's do."""
        return self.inner.additive

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the inner denominators, and for the prior the batch's units."""
        weights = self.inner.weights(batch)
        return {**weights, "prior": sum(weights.values())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Give the inner terms, and -log p(w) / count times the batch's units."""
        share = self.weights(batch)["prior"] / self.count
        return (*self.inner(model, batch), Term("prior", share * self.prior.nats(covered(model))))


def covered(model: nn.Module) -> list[Tensor]:
    """List what a prior speaks of: everything that is multiplied, matrices, tables and kernels, each once.

    Biases and the gains of norms have a flat prior: 0 is not where they are expected (a gain of 0 silences its layer), and what they
    add has no scale that a common strength could fit. So it is in linear models too: the intercept is free.
    """
    return [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]


def check(strength: float) -> None:
    """Raise UsageError for a strength that is negative or not a number."""
    if not 0 <= strength < float("inf"):
        raise UsageError("settings.range", setting="prior_strength", value=strength, origin="prior")
