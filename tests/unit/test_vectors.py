"""Judging vectors of words: tellers are distributions, pairs and ranks as defined, nothing found in shuffled text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zhixing.cli.app import main
from zhixing.core.errors import DataError
from zhixing.data.stream import NOISE_POWER, ROW_WORDS, Neighbours
from zhixing.evaluation import neighbours
from zhixing.evaluation.evaluate import evaluate
from zhixing.evaluation.neighbours import Counted, Unigram, Vectors, collect, count, epoch, factorize, pair, tell_pairs
from zhixing.evaluation.vectors import share_of_label
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.training.train import train

N = 23  # words
QUICK = {"model": "skipgram", "width": 12, "minimum": 2, "batch": 8, "learning_rate": 0.03, "precision": "fp32", "threads": 1,
         "subsample": 0.0, "steps": 300}  # fmt: skip


def stream(drawn: int = 0, words: int = 3000) -> Neighbours:
    read = np.random.default_rng(0).integers(0, N, words).astype(np.int32)
    counts = np.bincount(read, minlength=N)
    return Neighbours(read, np.arange(words) // 97, counts, 4, 1, drawn, 0.05)


def by_hand(words: np.ndarray, texts: np.ndarray, window: int) -> np.ndarray:
    """Count all ordered pairs, place by place: (N, N)."""
    found = np.zeros((N, N))
    for row, text in zip(words, texts, strict=True):
        for one in range(len(row)):
            for other in range(len(row)):
                if 0 < abs(one - other) <= window and text[one] == text[other]:
                    found[row[one], row[other]] += (window + 1 - abs(one - other)) / window
    return found


def tellers() -> dict[str, Any]:
    source = np.random.default_rng(4)
    base = np.log(source.dirichlet(np.ones(N)))
    near = count(stream(), 3, N)
    left, right, free = factorize(near, 5)
    return {
        "unigram": Unigram(base), "counts": Counted(near, base, 10.0), "pmi_svd": Vectors(left, right, free, 0.7),
        "model": Vectors(source.normal(size=(N, 4)), source.normal(size=(N, 4)), base),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["unigram", "counts", "pmi_svd", "model"])
def test_every_teller_is_a_distribution(name: str) -> None:
    table = tellers()[name].table(np.array([0, 5, 5, 22]))
    assert table.shape == (4, N) and np.allclose(np.exp(table.astype(float)).sum(1), 1, atol=1e-5)
    assert np.array_equal(table[1], table[2])


def test_an_epoch_gives_every_row_once_and_its_pairs_are_those_of_the_definition() -> None:
    made = stream()
    assert made.rows % made.batch_rows, "the cuts of batches and epochs differ"
    for number in (0, 1):
        read = {name: np.concatenate([batch[name] for batch in epoch(made, number)]) for name in ("words", "texts")}
        assert np.array_equal(read["words"], made._epoch(number)[0])
    total = sum(by_hand(*made._epoch(number), 3) for number in range(neighbours.MOST_PASSES)) / neighbours.MOST_PASSES
    assert np.allclose(count(made, 3, N).toarray(), total)
    assert not np.allclose(count(made, 4, N).toarray(), total)


def test_pairs_of_a_split_are_weighed_and_bounded() -> None:
    made = stream(drawn=7)
    pairs = collect(made, 3, 10)
    found = np.zeros((N, N))
    np.add.at(found, (pairs.words, pairs.contexts), pairs.weights)
    words, texts = (each[:10] for each in made._epoch(0))
    assert np.allclose(found, by_hand(words, texts, 3)) and pairs.drawn.shape == (10, 7)
    assert set(pairs.rows.tolist()) == set(range(10)) and set(pairs.first(4).rows.tolist()) == set(range(4))
    assert collect(made, 3, 10**6).rows.max() == made.rows - 1
    one, other, weights, _ = pair(np.array([[1, 2, 3]]), np.array([[0, 0, 1]]), 5)
    assert (one.tolist(), other.tolist(), weights.tolist()) == ([1], [2], [1.0])


@pytest.mark.parametrize("name", ["counts", "model"])
def test_pairs_are_told_and_ranked_as_by_definition(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "WORDS_AT_ONCE", 5)
    teller, pairs = tellers()[name], collect(stream(drawn=9), 3, 6)
    noise = np.log(np.random.default_rng(8).dirichlet(np.ones(N)))
    logs, ranks = tell_pairs(teller, pairs, noise)
    for number in range(0, len(logs), 37):
        row = teller.table(pairs.words[number : number + 1])[0]
        own = pairs.contexts[number]
        rivals = [other for other in pairs.drawn[pairs.rows[number]] if other != own]
        better = sum(row[other] - noise[other] > row[own] - noise[own] for other in rivals)
        assert logs[number] == pytest.approx(row[own], abs=1e-6)
        assert ranks[number] == pytest.approx(1 / (1 + better), abs=0.02)


def test_all_singular_vectors_give_back_the_information() -> None:
    near = count(stream(), 3, N)
    left, right, base = factorize(near, N)
    full = near.toarray()
    free = full.sum(1) ** NOISE_POWER
    assert np.allclose(base, np.log(free / free.sum()))
    wanted = np.maximum(np.log(full / full.sum(1, keepdims=True) + 1e-300) - base, 0)
    assert np.allclose(left @ right.T, wanted, atol=1e-4)
    assert factorize(near, 99)[0].shape == (N, N)


def test_nearest_texts_share_a_label_where_vectors_say_so() -> None:
    labels = np.repeat(np.arange(4), 30)
    apart = np.eye(4)[labels] + 0.1 * np.random.default_rng(0).normal(size=(120, 4))
    assert share_of_label(apart, labels).mean() > 0.99
    assert share_of_label(apart, np.random.default_rng(1).permutation(labels)).mean() == pytest.approx(0.25, abs=0.06)
    apart[:5] = 0
    assert not share_of_label(apart, labels)[:5].any(), "a text without a vector has no nearest text"


TOPICS = {"sea": "ship sail wave harbour captain storm anchor tide".split(), "farm": "cow barn plough field wheat goat hen mill".split(),
          "市": "股 价 银 行 市 场 涨 跌".split()}  # fmt: skip

COMMON = "the and of on with in".split()


def rows(count: int, seed: int = 0, shuffled: bool = False) -> list[dict[str, str]]:
    """Make texts whose words are of one topic, half of them common to all; shuffled: words of any topic."""
    draw = random.Random(seed)
    every = [word for words in TOPICS.values() for word in words]
    made = []
    for number in range(count):
        label = draw.choice(list(TOPICS))
        words = draw.choices(TOPICS[label], k=6) + draw.choices(COMMON, k=6)
        if shuffled:
            words = [draw.choice(every) if draw.random() < 0.5 else draw.choice(COMMON) for _ in words]
        made.append({"text": " ".join(draw.sample(words, len(words))) + f" no{number}.", "label": label})
    return made


def made(place: Path, shuffled: bool = False, **settings: Any) -> Path:
    """Prepare and train; the Corpus is `corpus` and the Model `model`."""
    place.mkdir()
    lines = [json.dumps(each, ensure_ascii=False) for each in rows(1500, shuffled=shuffled)]
    (place / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(place / "rows.jsonl", place / "corpus", Prepare(validation=0.1, test=0.3))
    prepare(place / "rows.jsonl", place / "plain", Prepare(task="language", validation=0.1, test=0.3))
    train(place / "corpus", place / "model", {**QUICK, **settings})
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("judged") / "made")


def test_vectors_are_judged_beside_counting(place: Path) -> None:
    report = evaluate(place / "model", place / "corpus")
    nats, rank, label = report.figures
    assert [nats.name, rank.name, label.name] == ["context_nats", "reciprocal_rank", "same_label"]
    assert nats.low < nats.value < nats.high < nats.rivals["unigram"] - 0.2 and set(nats.rivals) == {"unigram", "counts", "pmi_svd"}
    assert nats.value > nats.rivals["counts"] - 0.01, "with so few words counting knows all there is to know"
    assert rank.value > rank.rivals["unigram"] + 0.01
    assert label.value > 0.95 and label.rivals["pmi_svd"] > 0.95 and label.rivals["chance"] == pytest.approx(1 / 3, abs=0.03)
    assert report.task == "embed" and report.comparisons["unigram"]["high"] < 0 and report.details["known_words"] > 0.9
    assert report.examples == 1500 - round(1500 * 0.7) or 350 < report.examples < 550
    assert report.details["units"] == pytest.approx(report.examples * 13 / ROW_WORDS, rel=0.3)
    assert json.loads(json.dumps(report.to_dict()))["verdict"] in ("model", "counts", "tie", "pmi_svd")
    plain = evaluate(place / "model", place / "plain", save=False)
    assert [each.name for each in plain.figures] == ["context_nats", "reciprocal_rank"]
    assert evaluate(place / "model", place / "corpus", split="train", save=False, rivals=False).verdict == "seen"


def test_shuffled_text_teaches_nothing_and_it_shows(tmp_path: Path) -> None:
    report = evaluate(made(tmp_path / "shuffled", shuffled=True) / "model", tmp_path / "shuffled" / "corpus")
    nats, _, label = report.figures
    assert nats.value > nats.rivals["unigram"] - 0.02 and report.verdict != "model"
    assert label.value == pytest.approx(label.rivals["chance"], abs=0.05)


@pytest.mark.parametrize("settings", [{"model": "cbow"}, {"negatives": 0}], ids=["cbow", "exact"])
def test_other_ways_of_learning_are_judged_alike(tmp_path: Path, settings: dict[str, Any]) -> None:
    report = evaluate(made(tmp_path / "other", **settings) / "model", tmp_path / "other" / "corpus")
    assert report.figures[0].value < report.figures[0].rivals["unigram"] - 0.1


def test_a_text_of_unknown_words_cannot_judge(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.txt").write_text("\n".join(f"zzqx{number} !" for number in range(200)), encoding="utf-8")
    prepare(tmp_path / "odd.txt", tmp_path / "odd", Prepare(unit="line"))
    with pytest.raises(DataError) as caught:
        evaluate(place / "model", tmp_path / "odd")
    assert caught.value.code == "data.no_words"
    capsys.readouterr()
    assert main(["evaluate", str(place / "model"), str(place / "corpus"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["figures"][0]["value"] == evaluate(place / "model", place / "corpus", save=False).figures[0].value
