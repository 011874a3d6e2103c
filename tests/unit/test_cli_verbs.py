"""Every verb, by the words a user would type: the answer on stdout, the story on stderr, the same figures as the functions give."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from zhixing.cli.app import main

WORDS = "the river runs past the old mill and the children watch the water from the bridge while evening falls on 水 车 桥 上".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a table of our own making."""
    folder = tmp_path_factory.mktemp("verbs")
    draw = random.Random(4)
    lines = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 15))) + "." for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["number", "review", "stars"])
        for number in range(400):
            good = draw.random() < 0.5
            words = ["fine", "great", "好"] if good else ["poor", "dull", "差"]
            writer.writerow([number, " ".join(draw.choice([*words, "book", "film", "it"]) for _ in range(9)), "up" if good else "down"])
    return folder


def ask(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """Run a verb that must succeed."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out, said.err


@pytest.fixture
def corpus(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    if not (place / "corpus").exists():
        out, err = ask(capsys, "prepare", place / "text.txt", place / "corpus")
        assert out == f"{place / 'corpus'}\n"
        assert err.splitlines()[0].startswith("Reading") and "zhixing train" in err.splitlines()[-1]
    return place / "corpus"


@pytest.fixture
def model(place: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    if not (place / "model").exists():
        out, err = ask(capsys, "train", corpus, place / "model", "--model", "ngram", "--order", 3)
        assert out == f"{place / 'model'}\n"
        assert err.splitlines()[0].startswith("Training") and "zhixing evaluate" in err.splitlines()[-1]
    return place / "model"


@pytest.fixture
def classifier(place: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    if not (place / "classifier").exists():
        ask(
            capsys,
            "prepare",
            place / "rows.csv",
            place / "table",
            "--text",
            "review",
            "--label",
            "stars",
            "--test",
            0.2,
            "--validation",
            0.2,
        )
        ask(capsys, "train", place / "table", place / "classifier", "--model", "naive_bayes")
    return place / "classifier"


def test_evaluate_says_what_the_function_says(model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from zhixing.evaluation.evaluate import evaluate

    out, err = ask(capsys, "evaluate", model, corpus, "--json")
    expected = evaluate(model, corpus).to_dict()
    assert json.loads(out) == json.loads(json.dumps(expected))
    assert err.splitlines()[0].startswith("Scoring")
    out, _ = ask(capsys, "evaluate", model, corpus)
    value = next(each["value"] for each in expected["figures"] if each["name"] == "bits_per_byte")
    assert f"{value:.4f}" in out and "unigram" in out
    assert "held_out" in out and "copied_10" in out and "Neither more nor less is better" in out
    assert "held_out" not in ask(capsys, "evaluate", model, corpus, "--samples", 0)[0]
    out, _ = ask(capsys, "show", model)
    assert "bits_per_byte" in out and "language" in out


def test_generate_writes_the_same_again(model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("generate", model, "--prompt", "the river", "--max-tokens", 30, "--seed", 5)
    out, err = ask(capsys, *words)
    assert out.startswith("the river") and len(out) > len("the river") + 5
    assert ask(capsys, *words)[0] == out
    assert ask(capsys, *words[:-1], 6)[0] != out
    (made,) = json.loads(ask(capsys, *words, "--json")[0])
    assert made["prompt"] + made["text"] + "\n" == out
    assert len(json.loads(ask(capsys, *words, "--count", 3, "--json")[0])) == 3
    assert main(["generate", str(model), "--temperature", "-1"]) == 2
    (tmp_path / "prompts.txt").write_text("the\nold\n", encoding="utf-8")
    made = json.loads(ask(capsys, "generate", model, "--prompts", tmp_path / "prompts.txt", "--max-tokens", 5, "--json")[0])
    assert [each["prompt"] for each in made] == ["the", "old"]


def test_a_classifier_answers_rows_and_does_not_write(classifier: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = ask(capsys, "evaluate", classifier, place / "table", "--json")
    figures = {each["name"]: each["value"] for each in json.loads(out)["figures"]}
    assert figures["accuracy"] > 0.9
    out, err = ask(capsys, "predict", classifier, place / "rows.csv", place / "answers.csv", "--text", "review", "--json")
    assert json.loads(out)["rows"] == 400 and "400 rows" in err
    with open(place / "answers.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["number"] for row in rows] == [str(number) for number in range(400)]
    assert sum(row["answer"] == row["stars"] for row in rows) > 360
    assert main(["predict", str(classifier), str(place / "rows.csv"), str(place / "answers.csv"), "--text", "review"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["generate", str(classifier)]) == 2
    assert "predict" in capsys.readouterr().err


def test_nothing_is_overwritten_without_force(model: Path, corpus: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (model / "manifest.json").read_bytes()
    for words in (["prepare", place / "text.txt", corpus], ["train", corpus, model, "--model", "ngram"]):
        assert main([str(word) for word in words]) == 2
        assert "--force" in capsys.readouterr().err
    assert (model / "manifest.json").read_bytes() == before


def test_a_dry_run_shows_settings_and_writes_nothing(corpus: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "train",
        corpus,
        place / "never",
        "--model",
        "llama",
        "--size",
        "tiny",
        "--window",
        16,
        "--batch",
        2,
        "--steps",
        7,
        "--dry-run",
    )
    out, _ = ask(capsys, *words)
    row = next(line.split() for line in out.splitlines() if line.startswith("steps"))
    assert row == ["steps", "7", "flag"]
    planned = json.loads(ask(capsys, *words, "--json")[0])
    assert planned["settings"]["steps"] == {"value": 7, "origin": "flag"} and planned["estimate"]["memory_bytes"] > 1e6
    assert not (place / "never").exists()


def test_a_mixture_and_its_reading_are_told_apart(corpus: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is mixed says how much its counts weigh; `results` tells two reports of one model apart by how it read."""
    made = place / "mixed"
    ask(capsys, "train", corpus, place / "gru", "--model", "gru", "--steps", 8, "--size", "tiny")
    _, err = ask(capsys, "mix", corpus, made, place / "gru", "--order", 3)
    chosen = json.loads((made / "card.json").read_text(encoding="utf-8"))["chosen"]
    assert f"{chosen['validation_nats']:.4f} nats" in err and f"0: {chosen['weights'][0][-1]:.2f}" in err
    ask(capsys, "evaluate", made, corpus, "--samples", 0)
    _, err = ask(capsys, "evaluate", made, corpus, "--dynamic")
    assert "learning from each stretch" in err and "as the rival unigram" in err
    out, _ = ask(capsys, "results", made)
    assert f"mixture ({place.name}/mixed) |" in out and f"mixture ({place.name}/mixed, dynamic) |" in out
    report = next((made / "evaluation").glob("*.json"))
    report.write_text(json.dumps({**json.loads(report.read_text(encoding="utf-8")), "details": None}), encoding="utf-8")
    assert "mixture" in ask(capsys, "results", made)[0]


@pytest.mark.parametrize(
    ("difference", "shown"),
    [(0.25, "+0.2500"), (-0.00005, "-0.0001"), (-0.000012, "-1e-05"), (0.0, "+0.0000"), (-0.0, "+0.0000"), (0.1 + 0.2 - 0.3, "+0.0000")],
)
def test_a_small_difference_is_not_shown_as_none_nor_rounding_as_one(difference: float, shown: str) -> None:
    from zhixing.cli.evaluate import signed

    assert signed(difference) == shown


def test_compare_ends_with_a_table_and_a_plot(corpus: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", corpus, place / "ladder", "--models", "unigram,ngram", "--core-seconds", 1)
    out, err = ask(capsys, *words)
    assert "unigram" in out and "ngram" in out and str(place / "ladder") in err.splitlines()[-1]
    assert (place / "ladder" / "plot.svg").read_text(encoding="utf-8").startswith("<svg")
    out, _ = ask(capsys, *words, "--force", "--json")
    rungs = {each["name"]: each["bits_per_byte"] for each in json.loads(out)["rungs"]}
    assert rungs["ngram"] < rungs["unigram"]
    assert "comparison" in ask(capsys, "show", place / "ladder")[0]


def test_the_best_model_is_found_within_the_time(corpus: Path, classifier: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twelve seconds are too few for a neural candidate: the counted ones compete, in a moment."""
    for source, out, figure in ((corpus, place / "best-text", "bits_per_byte"), (place / "table", place / "best-rows", "accuracy")):
        made, err = ask(capsys, "train", source, out, "--best", "--minutes", 0.2)
        assert made == f"{out}\n" and "The winner is" in err
        card = json.loads((out / "card.json").read_text(encoding="utf-8"))
        assert card["best"]["figure"] == figure and card["best"]["winner"] == card["best"]["candidates"][0]["name"]
        figures = {each["name"]: each["value"] for each in json.loads(ask(capsys, "evaluate", out, source, "--json")[0])["figures"]}
        assert figures[figure] > 0.9
        assert not list(place.glob(".best-*"))
    words = ("predict", place / "best-rows", place / "rows.csv", place / "best.jsonl", "--text", "review")
    out, _ = ask(capsys, *words, "--precision", 0.98, "--json")
    assert json.loads(out)["answered"] > 300


def test_a_saved_classifier_is_the_fitted_one(tmp_path: Path) -> None:
    """Its weights are the transpose of what was counted: what is written must be their values, not their memory."""
    import numpy as np

    from zhixing.models.bag import Bag
    from zhixing.tasks import artefact
    from zhixing.tasks.classify import Classify

    texts = ["good day", "good book", "bad day", "bad book"] * 3
    for method in ("naive_bayes", "logistic"):
        model = Bag.fit(texts, np.array([0, 0, 1, 1] * 3), 2, method)
        (tmp_path / method).mkdir()
        artefact.write(tmp_path / method, Classify(("down", "up")), model, None)
        config = json.loads((tmp_path / method / "config.json").read_text(encoding="utf-8"))
        again = artefact.restore(config, tmp_path / method / "model.safetensors", None)
        assert np.array_equal(again.weights, model.weights) and np.array_equal(again.probabilities(texts), model.probabilities(texts))
