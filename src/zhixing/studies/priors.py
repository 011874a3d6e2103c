"""How much a prior should say: its strength against held-out bits per byte, for priors over counts and over weights.

Without a prior, maximum likelihood: what training never saw costs nearly infinitely much, or, with weights, what is particular to it is
learnt too. With too strong a one, what the data say is not heard. Between them lies the strength that held-out text prefers; the curve
says how much it matters. Counts have Dirichlet priors (models/dirichlet.py), all strengths and orders in a few passes over the text;
weights have Gaussian and Laplace ones (objectives/prior.py), a training of a small feed-forward model for each strength: only when asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.files import read_json
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.models import dirichlet
from zhixing.studies.plot import Line
from zhixing.training.settings import TOLD, settle
from zhixing.training.train import identify, make_tokenizer, train

ORDERS = (1, 2, 3, 4, 5)
STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # of a prior over weights: precision, or rate
PRIORS = ("gaussian", "laplace")
MODEL = {"model": "feedforward", "size": "tiny"}
SHARE = 1 / 8  # of a rung's budget, for each strength
FOLDER = "priors"
Tell = Callable[..., None]


@dataclass(frozen=True)
class Curve:
    """One prior: its name, and {strength: validation bits per byte}, ascending in strength."""

    name: str
    points: tuple[tuple[float, float], ...]

    @property
    def best(self) -> tuple[float, float]:
        """The strength that held-out text prefers, and its bits per byte."""
        return min(self.points, key=lambda point: point[1])

    @property
    def line(self) -> Line:
        """The curve as a line of a plot."""
        return Line(self.name, self.points)


def over_counts(corpus: Corpus, given: dict[str, Any], tell: Tell = quiet) -> list[Curve]:
    """Give the curves of additive and hierarchical Dirichlet priors for orders 1 to 5; of order 1 both are one."""
    settings = settle("language", {name: given[name] for name in TOLD["ngram"] if name in given} | {"model": "ngram"}).value
    tokenizer = make_tokenizer(corpus, settings)
    train_tokens, held = (shard(corpus, tokenizer, split, tell) for split in ("train", "validation"))
    factor = factor_of(corpus, tokenizer, tell)
    found: dict[str, Curve] = {}
    size, end = tokenizer.vocabulary_size, tokenizer.end_id
    for order, losses in dirichlet.curves(train_tokens.tokens, held.tokens, size, end, ORDERS):
        for smoothing, curve in losses.items():
            if order > 1 or smoothing == "additive":
                points = tuple((strength, nats * factor) for strength, nats in sorted(curve.items()))
                found[f"{smoothing} {order}"] = Curve(f"{smoothing} {order}", points)
    best = {smoothing: min((c for n, c in found.items() if n.startswith(smoothing)), key=lambda c: c.best[1]) for smoothing in losses}
    return [found["additive 1"], *(curve for name, curve in found.items() if curve in best.values() and name != "additive 1")]


def factor_of(corpus: Corpus, tokenizer: Any, tell: Tell = quiet) -> float:
    """Give what turns nats a token of the validation text into bits a byte of it."""
    piece = shard(corpus, tokenizer, "validation", tell)
    return (len(piece.tokens) - 1) / (math.log(2) * piece.size_bytes)


def over_weights(
    corpus: Corpus, work: Path, core_seconds: float, given: dict[str, Any], tell: Tell = quiet, stop: Stop | None = None
) -> list[Curve]:
    """Train a small model under each prior and strength, and give the curves; one that an interrupted study has trained is opened.

    core_seconds  of a rung of the ladder; each strength gets SHARE of it
    """
    told = {name: given[name] for name in (*TOLD["ngram"], "seed", "threads") if name in given and name != "order"}
    curves = []
    for prior in PRIORS:
        points = []
        for strength in STRENGTHS:
            asked = {**told, **MODEL, "core_seconds": core_seconds * SHARE, "prior": prior, "prior_strength": strength}
            path = work / FOLDER / f"{prior}-{strength:g}"
            same = (path / "run.json").exists() and read_json(path / "run.json").get("request") == identify(
                corpus, settle("language", asked)
            )
            done = same and (path / MANIFEST).exists()
            folder = open_folder(path, "model") if done else train(corpus.path, path, asked, tell=tell, force=not same, stop=stop)
            settings = settle("language", asked).value
            points.append((strength, folder.card["training"]["validation_nats"] * factor_of(corpus, make_tokenizer(corpus, settings))))
            tell("ladder.prior", prior=prior, strength=strength, value=points[-1][1])
        curves.append(Curve(prior, tuple(points)))
    return curves
