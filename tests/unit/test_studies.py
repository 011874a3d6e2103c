"""Studies: the ladder tells the true order, its table and plot agree, an interrupted one goes on; the best is the best on validation."""

from __future__ import annotations

import json
import os
import random
import re
import xml.etree.ElementTree as etree
from pathlib import Path
from typing import Any

import pytest

from zhixing.core.errors import DataError, UsageError
from zhixing.core.folder import open_folder
from zhixing.core.log import quiet
from zhixing.core.stop import Stop, Stopped
from zhixing.data.corpus import open_corpus
from zhixing.evaluation.evaluate import evaluate
from zhixing.models import catalog
from zhixing.models.ngram import NGram
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.studies import best as study
from zhixing.studies.best import best
from zhixing.studies.ladder import ERAS, RUNGS, compare, partner, read_table
from zhixing.studies.plot import Crossing, Line, crossings, draw, level_at
from zhixing.tasks.artefact import load
from zhixing.tasks.language import Language
from zhixing.training import counted
from zhixing.training.settings import TASK_OF
from zhixing.training.train import train

WORDS = "the quiet old river carries small boats past round stones and 小船 沿 河 而下 石头 不语 , .".split()
SECONDS = 1.5
CLIMBED = ("unigram", "grammar", "dirichlet", "ngram", "lstm", "qwen3", "mixture")
TINY = {"size": "tiny", "batch": 4, "window": 32, "width": 32, "precision": "fp32", "threads": 1, "evaluations": 4}


def write_text(path: Path, lines: int = 700) -> Path:
    draw = random.Random(4)
    path.write_text("\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of language with all three splits."""
    top = tmp_path_factory.mktemp("text")
    prepare(write_text(top / "text.txt"), top / "corpus", Prepare(split="tail", validation=0.1, test=0.1))
    return top / "corpus"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of labelled rows."""
    top, draw = tmp_path_factory.mktemp("table"), random.Random(2)
    signs = {"good": ["fine", "很好"], "bad": ["poor", "太差"]}
    with open(top / "rows.jsonl", "w", encoding="utf-8") as handle:
        for number in range(300):
            label = draw.choice(sorted(signs))
            shown = label if draw.random() < 0.75 else draw.choice(sorted(signs))
            row = {"text": " ".join([*draw.choices(signs[shown] + WORDS, k=7), str(number)]), "label": label}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    prepare(top / "rows.jsonl", top / "corpus", Prepare(validation=0.3, test=0.1))
    return top / "corpus"


@pytest.fixture(scope="module")
def climbed(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A ladder that was interrupted after its third rung and continued; and the rungs that were made anew when it went on."""
    out, stop, told = tmp_path_factory.mktemp("ladder") / "made", Stop(), []

    def tell(code: str, **values: Any) -> None:
        if code == "ladder.rung" and values["name"] == "qwen3":
            stop.number = 15

    with pytest.raises(Stopped):
        compare(text, out, SECONDS, CLIMBED, TINY, tell=tell, stop=stop)
    assert not out.exists()
    before = {each.parent.name: each.stat().st_mtime_ns for each in out.parent.glob(".made.ladder/rungs/*/manifest.json")}
    assert set(before) == {"unigram", "grammar", "dirichlet", "ngram", "lstm"}
    compare(text, out, SECONDS, CLIMBED, TINY, tell=lambda code, **values: told.append(code))
    after = {each.parent.name: each.stat().st_mtime_ns for each in out.glob("rungs/*/manifest.json")}
    assert set(after) == set(CLIMBED)
    return out, [name for name in after if before.get(name) != after[name]]


def test_a_continued_ladder_reuses_what_is_finished(climbed: tuple[Path, list[str]]) -> None:
    out, made_anew = climbed
    assert sorted(made_anew) == ["mixture", "qwen3"]
    assert os.listdir(out.parent) == ["made"], "nothing is left beside the result"


def test_the_table_holds_what_evaluation_finds(climbed: tuple[Path, list[str]], text: Path) -> None:
    out = climbed[0]
    assert open_folder(out, "comparison").card["core_seconds"] == SECONDS
    rungs = read_table(out)["rungs"]
    assert [each["name"] for each in rungs] == list(CLIMBED)
    for each in rungs:
        found = evaluate(out / "rungs" / each["name"], text, rivals=False, save=False)
        assert each["bits_per_byte"] == found.figure("bits_per_byte").value
        assert each["nats_per_token"] == pytest.approx(found.figure("nats_per_token").value)
        assert each["low"] <= each["bits_per_byte"] <= each["high"] and each["core_seconds"] > 0 and each["parameters"] > 0
    for last, each in zip([None, *rungs], rungs, strict=False):
        if last is None:
            assert each["against_last"] is None
        else:
            assert each["against_last"]["value"] == pytest.approx(each["bits_per_byte"] - last["bits_per_byte"], abs=1e-9)
    by_name = {each["name"]: each for each in rungs}
    assert by_name["ngram"]["bits_per_byte"] < by_name["unigram"]["bits_per_byte"] > by_name["grammar"]["bits_per_byte"]
    assert load(out / "rungs" / "grammar").model.config.classes == 32, "the dial's size is a grammar's too"
    assert len(by_name["grammar"]["curve"]) == 1
    assert by_name["mixture"]["core_seconds"] > by_name["qwen3"]["core_seconds"]
    for name in ("lstm", "qwen3"):
        assert by_name[name]["core_seconds"] < 6 * SECONDS and by_name[name]["curve"]


def test_the_written_table_is_in_the_true_order(climbed: tuple[Path, list[str]]) -> None:
    rungs = read_table(climbed[0])["rungs"]
    lines = (climbed[0] / "table.md").read_text(encoding="utf-8").splitlines()
    shown = [re.match(r"\| (\w+) \| ([\d.]+) \|", line) for line in lines[2:]]
    rows = [(found[1], float(found[2])) for found in shown if found]
    assert len(rows) == len(CLIMBED) and [value for _, value in rows] == sorted(value for _, value in rows)
    assert dict(rows) == {each["name"]: round(each["bits_per_byte"], 4) for each in rungs}
    passed = read_table(climbed[0])["overtakes"]
    assert sum(line.startswith("- ") for line in lines) == len(passed)
    for each in passed:
        when = f"after {each['x']:.0f} core-seconds, at {each['y']:.4f} bits per byte of validation"
        assert f"- {each['winner']} is below {each['loser']} {when}" in lines


def test_the_plot_is_whole_and_says_what_the_table_says(climbed: tuple[Path, list[str]]) -> None:
    root = etree.parse(climbed[0] / "plot.svg").getroot()
    assert root.tag.endswith("svg")
    words = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    for rung in read_table(climbed[0])["rungs"]:
        last = rung["curve"][-1][1]
        assert f"{rung['name']}  {last:.3f}" in words
    assert any("core-seconds" in each for each in words)


def test_a_rung_may_be_evaluated_and_the_comparison_stays_whole(climbed: tuple[Path, list[str]], text: Path) -> None:
    evaluate(climbed[0] / "rungs" / "ngram", text, rivals=False)
    assert (climbed[0] / "rungs" / "ngram" / "evaluation").is_dir()
    open_folder(climbed[0], "comparison")


def test_a_ladder_of_another_budget_or_order_is_not_mixed_with_the_old(text: Path, tmp_path: Path) -> None:
    """What an interrupted ladder left is only taken where it was asked for in the same words."""
    stop, rungs = Stop(), ("unigram", "ngram", "lstm")
    form = {**TINY, "evaluations": 2}

    def tell(code: str, **values: Any) -> None:
        if code == "ladder.scored" and values["name"] == "ngram":
            stop.number = 15

    with pytest.raises(Stopped):
        compare(text, tmp_path / "out", 0.5, rungs, form, tell=tell, stop=stop)
    marks = {each.parent.name: each.stat().st_mtime_ns for each in tmp_path.glob(".out.ladder/rungs/*/manifest.json")}
    for words in ((0.75, rungs, form), (0.5, rungs[:2], form), (0.5, rungs, {**form, "seed": 1})):
        with pytest.raises(UsageError, match="unfinished comparison"):
            compare(text, tmp_path / "out", *words)
    assert set(marks) == {each.parent.name for each in tmp_path.glob(".out.ladder/rungs/*/manifest.json")}, (
        "what was finished is still there"
    )
    compare(text, tmp_path / "out", 0.75, rungs, {**form, "seed": 1}, force=True)
    assert load(tmp_path / "out" / "rungs" / "lstm").folder.card["settings"]["core_seconds"] == 0.75
    now = {each.parent.name: each.stat().st_mtime_ns for each in tmp_path.glob("out/rungs/*/manifest.json")}
    assert set(marks) == {"unigram", "ngram"} and all(marks[name] != now[name] for name in marks)


def test_every_era_stands_on_the_ladder(text: Path, tmp_path: Path) -> None:
    """Each trained family is a rung, none is left out by default but llama, and those that no other test climbs are climbed here."""
    of_language = {*catalog.trained(("causal",)), *Language.counted} - set(TASK_OF)
    assert {each["model"] for each in ERAS.values()} == of_language - {"additive"}, "additive is the older form of dirichlet"
    assert RUNGS == tuple(name for name in ERAS if name != "llama")
    assert partner(RUNGS) == "qwen3" and partner(("qwen3", "lstm", "mixture")) == "qwen3" and partner(("unigram", "mixture")) is None
    rungs = ("unigram", "rnn", "feedforward", "gru", "convolution", "gpt2", "mixture")
    assert {*rungs, *CLIMBED, "llama"} == set(ERAS)
    found = {each["name"]: each for each in read_table(compare(text, tmp_path / "out", SECONDS, rungs, TINY).path)["rungs"]}
    assert list(found) == list(rungs)
    assert all(each["curve"] for each in found.values())
    # How far a rung of seconds comes is the machine's affair; that counts help what was trained is not.
    bits = {name: each["bits_per_byte"] for name, each in found.items()}
    assert bits["mixture"] < min(bits["gpt2"], bits["unigram"]), found
    assert load(tmp_path / "out" / "rungs" / "mixture").model.parts[0].to_dict()["model_type"] == "gpt2"


def test_a_ladder_that_cannot_be_is_refused(text: Path, table: Path, tmp_path: Path) -> None:
    for code, words in {
        "ladder.rung": (text, 1.0, ("unigrm",)),
        "ladder.mixture": (text, 1.0, ("ngram", "mixture")),
        "ladder.task": (table, 1.0, ("unigram",)),
        "settings.range": (text, 0.0, ("unigram",)),
    }.items():
        with pytest.raises(UsageError) as caught:
            compare(words[0], tmp_path / "out", words[1], words[2])
        assert caught.value.code == code and os.listdir(tmp_path) == []


# Crossings and plots of made-up lines.


def cross(**lines: tuple[tuple[float, float], ...]) -> list[tuple[float, str, str]]:
    return [(each.x, each.winner, each.loser) for each in crossings([Line(name, points) for name, points in lines.items()])]


def test_a_true_crossing_is_where_the_later_line_stays_below() -> None:
    slow = ((1.0, 5.0), (2.0, 4.0), (3.0, 2.0), (4.0, 1.0))
    assert cross(flat=((1.0, 3.0),), slow=slow) == [(3.0, "slow", "flat")]
    assert crossings([Line("flat", ((1.0, 3.0),)), Line("slow", slow)]) == [Crossing(3.0, 2.0, "slow", "flat")]


def test_lines_that_do_not_cross_give_none() -> None:
    assert cross(high=((1.0, 5.0), (2.0, 4.0)), low=((1.0, 3.0), (2.0, 2.0))) == []
    assert cross(low=((1.0, 1.0),), late=((2.0, 3.0), (3.0, 2.0))) == []
    assert cross(equal=((1.0, 2.0),), same=((1.0, 2.0),)) == []


def test_a_line_that_crosses_back_has_not_overtaken() -> None:
    wave = ((1.0, 4.0), (2.0, 2.0), (3.0, 4.0))
    assert cross(flat=((1.0, 3.0),), wave=wave) == [(3.0, "flat", "wave")]  # it is the flat line that wins for good
    assert cross(flat=((1.0, 3.0),), wave=wave[:2]) == [(2.0, "wave", "flat")]
    assert cross(flat=((1.0, 3.0),), wave=(*wave, (4.0, 1.0))) == [(4.0, "wave", "flat")]


def test_a_model_that_comes_later_and_is_better_overtakes_when_it_comes() -> None:
    assert cross(unigram=((0.1, 4.0),), ngram=((0.5, 2.0),)) == [(0.5, "ngram", "unigram")]
    assert cross(unigram=((0.5, 4.0),), ngram=((0.1, 2.0),)) == []


def test_levels_hold_until_the_next_point() -> None:
    line = Line("a", ((1.0, 3.0), (2.0, 1.0)))
    assert [level_at(line, x) for x in (0.5, 1.0, 1.9, 2.0, 9.0)] == [None, 3.0, 3.0, 1.0, 1.0]


def test_names_cannot_break_the_plot() -> None:
    lines = [Line("a<b & 'c'", ((1.0, 3.0), (10.0, 1.0))), Line("诗", ((2.0, 2.0),)), Line('"q"', ((1.0, 2.0),))]
    root = etree.fromstring(draw(lines, "<title> & more", "x & y", "</svg>"))
    words = " ".join(each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "a<b & 'c'" in words and "诗" in words and "<title> & more" in words
    points = next(root.iter("{http://www.w3.org/2000/svg}polyline")).attrib["points"].split()
    (x1, y1), (x2, y2) = (tuple(map(float, each.split(","))) for each in points)
    assert x1 < x2 and y1 < y2, "time goes to the right, and a lower loss lies lower"


# The best.


def check_choice(card: dict[str, Any], lower: bool) -> None:
    """Assert that the winner is the best on validation and that the card explains it."""
    told = card["best"]
    values = {each["name"]: each["validation"]["value"] for each in told["candidates"]}
    assert told["winner"] == (min if lower else max)(values, key=lambda name: values[name])
    assert told["candidates"][0]["name"] == told["winner"] and "minus_winner" not in told["candidates"][0]
    assert list(values.values()) == sorted(values.values(), reverse=not lower)
    for each in told["candidates"]:
        assert each["validation"]["low"] <= each["validation"]["value"] <= each["validation"]["high"] and each["seconds"] >= 0
        if each["name"] != told["winner"]:
            assert each["minus_winner"]["value"] == pytest.approx(values[each["name"]] - values[told["winner"]], abs=1e-9)
    second = told["candidates"][1]["minus_winner"] if len(values) > 1 else None
    assert told["certain"] == (second is not None and second["low"] is not None and (second["low"] > 0 or second["high"] < 0))
    assert card["measured"]["best_seconds"] > 0


def test_the_best_of_a_text_is_the_lowest_on_validation(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LEAST_SECONDS", 0.5)
    folder = best(text, tmp_path / "made", 0.1, {"heads": 2, "groups": 1, **{key: value for key, value in TINY.items() if key != "size"}})
    check_choice(folder.card, lower=True)
    assert {each["name"] for each in folder.card["best"]["candidates"]} == {"ngram", "qwen3", "mixture"}
    assert folder.card["best"]["figure"] == "bits_per_byte" and os.listdir(tmp_path) == ["made"]
    opened = load(tmp_path / "made")
    assert opened.family == folder.card["best"]["winner"]
    assert evaluate(opened, text, save=False, rivals=False).figures[0].value > 0


def test_a_counted_winner_has_counted_validation_as_well(text: Path, tmp_path: Path) -> None:
    folder = best(text, tmp_path / "made", 0.02)  # too short for anything that is trained
    check_choice(folder.card, lower=True)
    assert folder.card["best"]["winner"] == "ngram" == folder.card["model"]
    opened, corpus = load(tmp_path / "made"), open_corpus(text)
    train, held = counted.splits(corpus, opened.tokenizer, lambda *a, **k: None)
    order, size, end = opened.model.config.order, opened.tokenizer.vocabulary_size, opened.tokenizer.end_id
    test = counted.shard(corpus, opened.tokenizer, "test").tokens
    alone, both = (NGram.count(each, size, order, end).score(test).sum() for each in (train, counted.together(train, held)))
    assert opened.model.score(test).sum() == both != alone


def test_the_best_of_a_table_is_the_highest_on_validation(table: Path, tmp_path: Path) -> None:
    folder = best(table, tmp_path / "made", 0.15)
    check_choice(folder.card, lower=False)
    told = folder.card["best"]
    assert {each["name"] for each in told["candidates"]} == {"majority", "naive_bayes", "logistic"} and told["figure"] == "accuracy"
    opened, corpus = load(tmp_path / "made"), open_corpus(table)
    assert opened.family == told["winner"] and opened.task.thresholds
    fits = {
        refit: counted.fit_rows(corpus, opened.task, told["winner"], {"strength": opened.model.config.strength, "refit": refit}, quiet)[1]
        for refit in (True, False)
    }
    assert (opened.model.weights == fits[True].weights).all()
    assert fits[True].weights.shape != fits[False].weights.shape, "validation was counted as well"


def test_the_best_needs_validation_and_is_told_what_it_decides_itself(text: Path, tmp_path: Path) -> None:
    for name in ("steps", "core_seconds", "model"):
        with pytest.raises(UsageError) as caught:
            best(text, tmp_path / "made", 0.01, {name: 1})
        assert caught.value.code == "best.setting"
    with pytest.raises(UsageError):
        best(text, tmp_path / "made", float("nan"))
    prepare(write_text(tmp_path / "text.txt", 60), tmp_path / "corpus", Prepare(split="tail", validation=0.0, test=0.1))
    with pytest.raises(DataError) as caught:
        best(tmp_path / "corpus", tmp_path / "made", 0.01)
    assert caught.value.code == "train.no_validation" and not (tmp_path / "made").exists()


def test_a_place_is_held_for_one_process(text: Path, table: Path, tmp_path: Path) -> None:
    from zhixing.core.folder import locked

    with locked(tmp_path / "made"):
        for call in (
            lambda: train(text, tmp_path / "made", {"model": "ngram"}),
            lambda: best(table, tmp_path / "made", 0.05),
            lambda: compare(text, tmp_path / "made", 1.0, ("unigram",)),
        ):
            with pytest.raises(UsageError) as caught:
                call()
            assert caught.value.code == "output.busy"
    assert train(text, tmp_path / "made", {"model": "ngram"}).kind == "model"
    assert os.listdir(tmp_path) == ["made"]
