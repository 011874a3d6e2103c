"""Python's way in: load(folder) and its methods, documented, stable, and saying what the command line says."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import zhixing
from zhixing.cli.app import main
from zhixing.core.errors import UsageError
from zhixing.layers.scoring import score
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.artefact import Artefact, Score

METHODS = ("predict", "generate", "score", "embed")
TEXT = "".join(f"In year {n * 37 % 91} a 小船 went down the river past {n % 7} hills and 3 桥.\n" for n in range(300))
WORDS = {"good": "lovely fine great 很好 喜欢", "bad": "awful poor broken 很差 讨厌"}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("api")
    (top / "book.txt").write_text(TEXT, encoding="utf-8")
    rows = [f'"a {word} thing number {n}",{label}' for n in range(12) for label, words in WORDS.items() for word in words.split()]
    (top / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    zhixing.prepare(top / "book.txt", top / "corpus", Prepare(split="tail", validation=0.1, test=0.1))
    zhixing.prepare(top / "rows.csv", top / "table")
    small = {"size": "tiny", "layers": 1, "width": 16, "heads": 2, "groups": 1, "window": 32, "batch": 4, "steps": 8, "precision": "fp32"}
    zhixing.train(top / "corpus", top / "qwen3", {"model": "qwen3", **small})
    zhixing.train(top / "corpus", top / "ngram", {"model": "ngram"})
    zhixing.train(top / "table", top / "logistic", {"model": "logistic"})
    zhixing.train(top / "table", top / "headed", {"model": "qwen3", **small})
    return top


def test_the_interface_is_frozen(golden: Callable[[str, str], None]) -> None:
    functions = {name: getattr(zhixing, name) for name in sorted(zhixing.PUBLIC)}
    methods = {f"load(folder).{name}": getattr(Artefact, name) for name in METHODS}
    lines = [f"{name}{inspect.signature(each)}\n" for name, each in {**functions, **methods}.items()]
    golden("api.txt", re.sub(r"<function (\w+) at \w+>", r"\1", "".join(lines)))


@pytest.mark.parametrize("name", [*sorted(zhixing.PUBLIC), *METHODS])
def test_the_interface_is_documented_and_typed(name: str) -> None:
    function = getattr(zhixing, name) if name in zhixing.PUBLIC else getattr(Artefact, name)
    assert len(function.__doc__.strip().splitlines()[0]) > 30
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    untyped = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty and p.name != "self"]
    assert untyped == [], f"{name}: {untyped}"


def test_the_package_says_that_it_is_typed(root: Path) -> None:
    assert (root / "src" / "zhixing" / "py.typed").exists()


@pytest.mark.parametrize("name", ["qwen3", "ngram"])
def test_generation_is_what_the_command_line_writes(kit: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    model = zhixing.load(kit / name)
    prompts = ["In year ", "小船", ""]
    made = model.generate(prompts, temperature=0.8, seed=5, max_tokens=20)
    words = ["generate", str(kit / name), "--temperature", "0.8", "--seed", "5", "--max-tokens", "20", "--json"]
    assert main([*words, *(word for prompt in prompts for word in ("--prompt", prompt))]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [each.text for each in made] == [each["text"] for each in said] and any(each.text for each in made)
    alone = model.generate(prompts[0], temperature=0.8, seed=5, max_tokens=20)
    assert alone.text == made[0].text
    assert model.generate(prompts[0], temperature=0.8, seed=6, max_tokens=20).text != alone.text


@pytest.mark.parametrize("name", ["logistic", "headed"])
def test_prediction_is_what_the_command_line_answers(kit: Path, tmp_path: Path, name: str) -> None:
    texts = ["a lovely thing", "an awful thing", "很好 thing"]
    answers = zhixing.load(kit / name).predict(texts)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*texts, ""]))
    assert main(["predict", str(kit / name), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in rows] == [*(each.value for each in answers), ""]
    assert [each["confidence"] for each in rows[:3]] == pytest.approx([each.confidence for each in answers], abs=1e-6)
    with pytest.raises(UsageError) as caught:
        zhixing.load(kit / name).predict([*texts, ""])
    assert caught.value.code == "texts.empty" and rows[3]["problem"], "an empty text is refused, or kept and marked"
    assert all(sum(each.scores.values()) == pytest.approx(1) for each in answers)
    if name == "logistic":
        assert [each.value for each in answers] == ["good", "bad", "good"]


@pytest.mark.parametrize("name", ["qwen3", "ngram"])
def test_a_score_is_the_chain_of_its_tokens(kit: Path, name: str) -> None:
    model = zhixing.load(kit / name)
    text = TEXT[:400] + "鼎🙂"
    found = model.score(text)
    assert isinstance(found, Score) and len(found.tokens) == len(found.log_probabilities) and (found.log_probabilities < 0).all()
    assert model.tokenizer.decode(found.tokens) == text and found.size_bytes == len(text.encode())
    tokens = np.concatenate([[model.tokenizer.end_id], found.tokens])
    assert found.nats == pytest.approx(-score(model.model, tokens).sum())
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / found.size_bytes)
    assert model.score(text[::-1]).nats > found.nats
    empty = model.score("")
    assert empty.nats == 0 and math.isnan(empty.bits_per_byte)


@pytest.mark.parametrize("name", ["qwen3", "headed"])
def test_vectors_are_of_texts_and_not_of_their_neighbours(kit: Path, name: str) -> None:
    model = zhixing.load(kit / name)
    texts = ["In year 3 a 小船", "", "the river " * 40]
    vectors = model.embed(texts)
    assert vectors.shape == (3, 16) and vectors.dtype == np.float32 and np.isfinite(vectors).all()
    np.testing.assert_allclose(model.embed(texts[2:])[0], vectors[2], rtol=1e-5, atol=1e-6)
    assert not np.allclose(vectors[0], vectors[2])
    assert model.embed([]).shape == (0, 16)


def test_what_a_model_cannot_do_is_said(kit: Path) -> None:
    writer, judge, counted = (zhixing.load(kit / name) for name in ("qwen3", "logistic", "ngram"))
    cases = [
        (lambda: writer.predict(["a"]), "predict.task"),
        (lambda: judge.generate("a"), "usage.not_language"),
        (lambda: judge.score("a"), "usage.not_language"),
        (lambda: judge.embed(["a"]), "embed.no_states"),
        (lambda: counted.embed(["a"]), "embed.no_states"),
        (lambda: judge.predict("a"), "texts.one"),
        (lambda: writer.embed(["a", 3]), "texts.not_text"),
        (lambda: writer.generate("a", temprature=1.0), "settings.unknown"),
        (lambda: writer.generate("a", temperature="hot"), "settings.type"),
        (lambda: writer.generate("a", top_p=2.0), "sampling.range"),
    ]
    for call, code in cases:
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == code, str(caught.value)
