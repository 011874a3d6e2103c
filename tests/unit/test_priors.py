"""The study of priors: strength against held-out bits per byte, over counts and over weights, in the ladder's plot and table."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from zhixing import compare, prepare, train
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.preparation.prepare import Prepare
from zhixing.studies import priors
from zhixing.studies.ladder import read_table
from zhixing.studies.plot import Line, draw, stack

WORDS = "the old boat drifts along a quiet river while children count stones and evening comes 船 河 石头 月亮".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    top, draws = tmp_path_factory.mktemp("priors"), random.Random(5)
    text = "\n".join(" ".join(draws.choices(WORDS, range(len(WORDS), 0, -1), k=7)) for _ in range(260))
    (top / "text.txt").write_text(text + "\n", encoding="utf-8")
    return open_corpus(prepare(top / "text.txt", top / "corpus", Prepare(split="tail", validation=0.1, test=0.1)).path)


def test_the_best_strength_over_counts_is_the_one_that_training_chooses(corpus: Corpus, tmp_path: Path) -> None:
    found = {curve.name: curve for curve in priors.over_counts(corpus, {})}
    assert "additive 1" in found and any(name.startswith("dirichlet") for name in found)
    name = min((each for each in found if each.startswith("dirichlet")), key=lambda each: found[each].best[1])
    order = int(name.split()[1])
    chosen = train(corpus.path, tmp_path / "model", {"model": "dirichlet", "order": order}).card["chosen"]
    strength, value = found[name].best
    assert chosen["strength"] == strength
    tokenizer = priors.make_tokenizer(corpus, priors.settle("language", {"model": "ngram"}).value)
    assert value == pytest.approx(chosen["validation_nats"][str(order)] * priors.factor_of(corpus, tokenizer))


def test_too_weak_and_too_strong_a_prior_cost_bits(corpus: Corpus) -> None:
    for curve in priors.over_counts(corpus, {}):
        values = [value for _, value in curve.points]
        if curve.name != "additive 1":  # single tokens are seen often enough for nearly no prior
            assert min(values) < values[0], f"{curve.name}: the weakest prior is not the best"
        assert min(values) < values[-1], f"{curve.name}: the strongest prior is not the best"
        assert list(curve.points) == sorted(curve.points)


def test_the_ladder_shows_priors_over_counts_and_weights(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "STRENGTHS", (1.0, 1e6))
    told: list[str] = []
    folder = compare(
        corpus.path,
        tmp_path / "out",
        6.0,
        ("unigram", "dirichlet", "ngram"),
        {"seed": 1},
        priors=True,
        tell=lambda code, **v: told.append(code),
    )
    table = read_table(folder.path)
    names = [each["name"] for each in table["priors"]]
    assert {"gaussian", "laplace", "additive 1"} <= set(names) and [each["name"] for each in table["rungs"]] == [
        "unigram",
        "dirichlet",
        "ngram",
    ]
    assert told.count("ladder.prior") == 4
    over = {each["name"]: each for each in table["priors"]}
    assert over["gaussian"]["points"][0][1] < over["gaussian"]["points"][1][1], "a prior of a million leaves nothing to the data"
    words = (folder.path / "table.md").read_text(encoding="utf-8")
    assert "| gaussian |" in words and "best strength" in words
    plot = ElementTree.fromstring((folder.path / "plot.svg").read_text(encoding="utf-8"))
    panels = plot.findall("{http://www.w3.org/2000/svg}svg")
    assert len(panels) == 2 and panels[1].get("y") == "460" and "laplace" in "".join(panels[1].itertext())


def test_a_curve_is_told_by_its_lowest_point_and_a_race_by_its_last() -> None:
    line = Line("curve", ((0.1, 3.0), (1.0, 2.0), (10.0, 2.5)))
    assert "curve  2.500" in draw([line], "a", "x", "y") and "curve  2.000" in draw([line], "a", "x", "y", race=False)
    both = stack(draw([line], "a", "x", "y"), draw([line], "b", "x", "y", race=False))
    assert ElementTree.fromstring(both).get("height") == "920"
