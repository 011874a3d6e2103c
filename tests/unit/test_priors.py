"""The study of priors: strength against held-out bits per byte, over counts and over weights, in the ladder's plot and table."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from zhixing import compare, prepare, train
from zhixing.core.errors import DataError
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.preparation.prepare import Prepare
from zhixing.studies import priors
from zhixing.studies.ladder import read_table
from zhixing.studies.plot import Line, draw, stack
from zhixing.training.settings import settle
from zhixing.training.train import make_tokenizer

WORDS = "the old boat drifts along a quiet river while children count stones and evening comes 船 河 石头 月亮".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    top, draws = tmp_path_factory.mktemp("priors"), random.Random(5)
    text = "\n".join(" ".join(draws.choices(WORDS, range(len(WORDS), 0, -1), k=7)) for _ in range(260))
    (top / "text.txt").write_text(text + "\n", encoding="utf-8")
    return open_corpus(prepare(top / "text.txt", top / "corpus", Prepare(split="tail", validation=0.1, test=0.1)).path)


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    """The tokenizer that every rung of a ladder has."""
    return make_tokenizer(corpus, settle("language", {"model": "ngram"}).value)


def test_the_best_strength_over_counts_is_the_one_that_training_chooses(corpus: Corpus, tokenizer: Any, tmp_path: Path) -> None:
    found = {curve.name: curve for curve in priors.over_counts(corpus, tokenizer)}
    assert [(name.split()[0], curve.of) for name, curve in found.items()] == [
        ("additive", "token"), ("additive", "token"), ("dirichlet", "context"),
    ]  # fmt: skip
    assert "additive 1" in found
    name = next(each for each in found if each.startswith("dirichlet"))
    order = int(name.split()[1])
    chosen = train(corpus.path, tmp_path / "model", {"model": "dirichlet", "order": order}).card["chosen"]
    strength, value = found[name].best
    assert chosen["strength"] == strength
    assert value == pytest.approx(chosen["validation_nats"][str(order)] * priors.factor_of(corpus, tokenizer))


def test_too_weak_and_too_strong_a_prior_cost_bits(corpus: Corpus, tokenizer: Any) -> None:
    for curve in priors.over_counts(corpus, tokenizer):
        values = [value for _, value in curve.points]
        if curve.name != "additive 1":  # single tokens are seen often enough for nearly no prior
            assert min(values) < values[0], f"{curve.name}: the weakest prior is not the best"
        assert min(values) < values[-1], f"{curve.name}: the strongest prior is not the best"
        assert list(curve.points) == sorted(curve.points)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three strengths, each a short training of a small model on an excerpt of a few lines."""
    monkeypatch.setattr(priors, "STRENGTHS", {"gaussian": (0.01, 3.0, 1e5), "laplace": (0.01, 1.0, 1e5)})
    monkeypatch.setattr(
        priors, "FORM", {**priors.FORM, "width": 128, "embedding": 16, "context": 4, "window": 16, "steps": 200, "batch": 8}
    )
    monkeypatch.setattr(priors, "CHARACTERS", 1200)


def test_priors_over_weights_are_best_between_the_ends(corpus: Corpus, small: None, tmp_path: Path) -> None:
    """By heart without a prior, nothing learnt under the strongest; an interrupted study goes on, and leaves nothing behind."""
    told: list[dict[str, Any]] = []

    class Enough(Exception):
        pass

    def until(code: str, **values: Any) -> None:
        told.append(values)
        if len(told) == 2:
            raise Enough

    with pytest.raises(Enough):
        priors.over_weights(corpus, tmp_path, {"seed": 1}, until)
    before = {each.parent.name: each.stat().st_mtime_ns for each in tmp_path.glob("priors/*/manifest.json")}
    assert set(before) == {"corpus", "gaussian-0.01", "gaussian-3"}
    made: list[str] = []
    real = priors.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(priors, "train", lambda corpus, path, *rest, **more: (made.append(path.name), real(corpus, path, *rest, **more)))
        curves = priors.over_weights(corpus, tmp_path, {"seed": 1})
    assert made == ["gaussian-100000", "laplace-0.01", "laplace-1", "laplace-100000"] and list(tmp_path.iterdir()) == []
    for curve in curves:
        light, best, heavy = (value for _, value in curve.points)
        assert curve.of == "weight" and curve.best[1] == best < min(light, heavy)


def test_an_excerpt_is_of_the_training_text_alone(corpus: Corpus, small: None, tmp_path: Path) -> None:
    made = priors.excerpt(corpus, tmp_path)
    whole = "\n".join(example["text"] for example in corpus.examples("train"))
    parts = {split: "".join(example["text"] for example in made.examples(split)) for split in ("validation", "train")}
    assert whole.startswith(parts["validation"]) and parts["train"] in whole[:1200] and not made.counts.get("test")
    assert 1150 < sum(map(len, parts.values())) <= 1200 and 200 < len(parts["validation"]) < 280


def test_a_text_too_short_for_priors_over_weights_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A sentence to count. " * 20, encoding="utf-8")
    prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(split="tail", validation=0.2, test=0.2))
    told: list[str] = []
    with pytest.raises(DataError) as caught:
        compare(tmp_path / "corpus", tmp_path / "out", 1.0, ("unigram",), priors=True, tell=lambda code, **v: told.append(code))
    assert caught.value.code == "train.short_corpus" and "ladder.rung" not in told
    assert compare(tmp_path / "corpus", tmp_path / "out", 1.0, ("unigram",)).kind == "comparison"


def test_the_ladder_shows_priors_over_counts_and_weights(corpus: Corpus, small: None, tmp_path: Path) -> None:
    told: list[str] = []
    rungs = ("unigram", "dirichlet", "ngram")
    folder = compare(corpus.path, tmp_path / "out", 6.0, rungs, {"seed": 1}, priors=True, tell=lambda code, **v: told.append(code))
    table = read_table(folder.path)
    over = {each["name"]: each for each in table["priors"]}
    assert {"gaussian", "laplace", "additive 1"} < set(over) and tuple(each["name"] for each in table["rungs"]) == rungs
    assert told.count("ladder.prior") == 6
    words = (folder.path / "table.md").read_text(encoding="utf-8")
    for name, each in over.items():
        assert each["best"] == min(each["points"], key=lambda point: point[1])
        assert f"| {name} | {each['best'][0]:g} | {each['of']} | {each['best'][1]:.4f} |" in words
    plot = ElementTree.fromstring((folder.path / "plot.svg").read_text(encoding="utf-8"))
    panels = plot.findall("{http://www.w3.org/2000/svg}svg")
    assert [panel.get("y") for panel in panels] == ["0", "460", "920"]
    said = ["".join(panel.itertext()) for panel in panels]
    assert "additive 1" in said[1] and "laplace" not in said[1] and "laplace" in said[2] and "core-seconds" in said[0]
    assert not (folder.path / "priors").exists(), "neither the excerpt nor its models stay"


def test_a_curve_is_told_by_its_lowest_point_and_a_race_by_its_last() -> None:
    line = Line("curve", ((0.1, 3.0), (1.0, 2.0), (10.0, 2.5)))
    assert "curve  2.500<" in draw([line], "a", "x", "y") and "at 1<" not in draw([line], "a", "x", "y")
    assert "curve  2.000<" in draw([line], "a", "x", "y", kind="curve") and "at 1<" in draw([line], "a", "x", "y", kind="curve")
    both = stack(draw([line], "a", "x", "y"), draw([line], "b", "x", "y", kind="curve"))
    assert ElementTree.fromstring(both).get("height") == "920"


def test_the_weakest_priors_have_their_places() -> None:
    """Strengths far below a thousandth stand side by side, and a line that rises out of the picture is cut, not bent along its edge."""
    shown = ElementTree.fromstring(draw([Line("curve", ((1e-6, 9.0), (1e-5, 2.0), (1e-4, 1.0)))], "a", "x", "y", kind="curve"))
    (line,) = shown.iter("{http://www.w3.org/2000/svg}polyline")
    across = [float(point.split(",")[0]) for point in line.attrib["points"].split()]
    down = [float(point.split(",")[1]) for point in line.attrib["points"].split()]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2) and across[1] > across[0] + 100
    assert down[0] < down[1] < 40 < down[2], "what lies above the picture is placed above it"


def test_growth_is_straight_where_cost_is_a_power_of_work() -> None:
    """Points of a power law lie on a straight line, and the last one is told as it was given."""
    picture = draw([Line("square", ((1.0, 0.1), (10.0, 10.0), (100.0, 1000.0)))], "a", "work", "cost", kind="growth")
    (line,) = ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}polyline")
    across, down = zip(*(map(float, point.split(",")) for point in line.attrib["points"].split()), strict=True)
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)
    assert down[0] - down[1] == pytest.approx(down[1] - down[2], abs=0.2) and down[0] > down[1] + 50
    assert "square  1000.000<" in picture
