"""How much a prior should say: its strength against held-out bits per byte, for priors over counts and over weights.

Without a prior, maximum likelihood: what training never saw costs nearly infinitely much, or, with weights, what is particular to it is
learnt too. With too strong a one, what the data say is not heard. Between them lies the strength that held-out text prefers; the curve
says how much it matters. Counts have Dirichlet priors (models/dirichlet.py), all strengths and orders in a few passes over the text.
Weights have Gaussian and Laplace ones (objectives/prior.py), a training of a small feed-forward model for each strength, only when asked:
on an excerpt so short that the model can learn it by heart, for the same number of steps each, without dropout and without early
stopping, which would do the prior's work.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError
from zhixing.core.files import read_json, write_text
from zhixing.core.folder import MANIFEST, open_folder
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.data.shards import shard
from zhixing.models import dirichlet
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.studies.plot import Line
from zhixing.tasks.artefact import load
from zhixing.training.settings import TOLD, settle
from zhixing.training.train import identify, train

ORDERS = (1, 2, 3, 4, 5)
OF = {"additive": "token", "dirichlet": "context", "gaussian": "weight", "laplace": "weight"}
# Of priors over weights: precision, rate. The lightest changes nothing that the plot could show.
STRENGTHS = {"gaussian": (0.01, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0), "laplace": (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)}
CHARACTERS, HELD_OUT = 20_000, 0.2  # of the training text, and what share of them is held out
FORM = {"model": "feedforward", "size": "tiny", "context": 8, "window": 64, "steps": 240}
WHOLE = {"dropout": 0.0, "evaluations": 1, "saves": 0}  # judged once, by the last step
FOLDER = "priors"
Tell = Callable[..., None]


@dataclass(frozen=True)
class Curve:
    """One prior: its name, what has so much of it, and (strength, held-out bits per byte), ascending in strength.

    of  "token", "context": pseudo-counts; "weight": precision or rate
    """

    name: str
    of: str
    points: tuple[tuple[float, float], ...]

    @property
    def best(self) -> tuple[float, float]:
        """The strength that held-out text prefers, and its bits per byte."""
        return min(self.points, key=lambda point: point[1])

    @property
    def line(self) -> Line:
        """The curve as a line of a plot."""
        return Line(self.name, self.points)


def over_counts(corpus: Corpus, tokenizer: Any, tell: Tell = quiet) -> list[Curve]:
    """Give the curves of additive and hierarchical Dirichlet priors: of single tokens, where both are one, and of their best orders."""
    train_tokens, held = (shard(corpus, tokenizer, split, tell).tokens for split in ("train", "validation"))
    factor = factor_of(corpus, tokenizer, tell)
    found: dict[str, list[Curve]] = {}
    for order, losses in dirichlet.curves(train_tokens, held, tokenizer.vocabulary_size, tokenizer.end_id, ORDERS):
        for smoothing, curve in losses.items():
            points = tuple((strength, nats * factor) for strength, nats in sorted(curve.items()))
            found.setdefault(smoothing, []).append(Curve(f"{smoothing} {order}", OF[smoothing], points))
    best = [min(curves[1:], key=lambda curve: curve.best[1]) for curves in found.values()]
    return [found["additive"][0], *best]


def factor_of(corpus: Corpus, tokenizer: Any, tell: Tell = quiet) -> float:
    """Give what turns nats a token of the validation text into bits a byte of it."""
    piece = shard(corpus, tokenizer, "validation", tell)
    return (len(piece.tokens) - 1) / (math.log(2) * piece.size_bytes)


def excerpt(corpus: Corpus, work: Path) -> Corpus:
    """Make a small corpus of the head of the training text, the test split untouched; what an interrupted study has made is opened.

    Raises DataError when there is too little text for a small model's windows.
    """
    path = work / "corpus"
    work.mkdir(parents=True, exist_ok=True)
    if not (path / MANIFEST).exists():
        text, size = [], 0
        for example in corpus.examples("train"):
            text.append(example["text"][: CHARACTERS - size])
            size += len(text[-1]) + 1
            if size >= CHARACTERS:
                break
        if size * (1 - HELD_OUT) <= 4 * FORM["window"]:
            raise DataError("train.short_corpus", tokens=size, window=FORM["window"])
        write_text(work / "excerpt.txt", "\n".join(text))
        prepare(work / "excerpt.txt", path, Prepare(task="language", split="tail", validation=HELD_OUT, test=0.0))
    return open_corpus(path)


def over_weights(corpus: Corpus, work: Path, given: dict[str, Any], tell: Tell = quiet, stop: Stop | None = None) -> list[Curve]:
    """Train a small model under each prior and strength, and give the curves.

    work  where excerpt and models lie until the curves are known; what an interrupted study has trained there is opened
    """
    place = work / FOLDER
    small = excerpt(corpus, place)
    told = {name: given[name] for name in (*TOLD["ngram"], "seed", "threads") if name in given and name != "order"}
    points: dict[str, list[tuple[float, float]]] = {prior: [] for prior in STRENGTHS}
    for prior, strength in itertools.chain.from_iterable(((prior, each) for each in tried) for prior, tried in STRENGTHS.items()):
        asked = {**told, **FORM, **WHOLE, "prior": prior, "prior_strength": strength}
        path = place / f"{prior}-{strength:g}"
        same = (path / "run.json").exists() and read_json(path / "run.json").get("request") == identify(small, settle("language", asked))
        if not (same and (path / MANIFEST).exists()):
            train(small.path, path, asked, tell=quiet, force=not same, stop=stop)
        nats = open_folder(path, "model").card["training"]["validation_nats"]
        points[prior].append((strength, nats * factor_of(small, load(path).tokenizer)))
        tell("ladder.prior", prior=prior, strength=strength, value=points[prior][-1][1])
    shutil.rmtree(place)
    return [Curve(prior, OF[prior], tuple(each)) for prior, each in points.items()]
