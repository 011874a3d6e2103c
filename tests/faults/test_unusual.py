"""What looks like a mistake and is none: long and odd prompts, rows that cannot be answered, texts longer than a model reads."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from zhixing.cli.app import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """Run a verb that must succeed; give its answer and its story."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out, said.err


@pytest.mark.parametrize("model", ["ngram", "neural"])
def test_unusual_prompts_are_no_mistakes(model: str, kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("generate", kit / model, "--max-tokens", 5, "--json")
    long = "the old boat drifts " * 30
    out, err = run(capsys, *words, "--prompt", long)
    assert json.loads(out)[0]["prompt"] == long and json.loads(out)[0]["tokens"] >= 1
    assert ("16 tokens" in err and "no longer read" in err) == (model == "neural")  # an n-gram has no window
    for prompt in ("", "<|end|>", "a<|end|>b\x00\u200d\U0001f6a3"):
        out, _ = run(capsys, *words, f"--prompt={prompt}")
        assert json.loads(out)[0]["prompt"] == prompt
    from zhixing.tasks.artefact import load

    tokenizer = load(kit / model).tokenizer
    assert tokenizer is not None
    ids = tokenizer.encode("a<|end|>b")
    assert tokenizer.end_id not in list(ids) and tokenizer.decode(ids) == "a<|end|>b"


def test_rows_that_cannot_be_answered_stay(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import csv

    source = tmp_path / "new.csv"
    source.write_text(f'review,id\nupward we go,1\n,2\n"{"downward " * 4000}",3\nshort\n"  ",5\n', encoding="utf-8")
    out, _ = run(capsys, "predict", kit / "classifier", source, tmp_path / "out.csv", "--json")
    assert {name: json.loads(out)[name] for name in ("rows", "answered", "problems")} == {"rows": 5, "answered": 2, "problems": 3}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert [row["answer"] for row in rows] == ["up", "", "down", "", ""]
    assert [row["problem"].rpartition(": ")[2] for row in rows] == ["", "empty", "", "columns", "empty"]
    assert "new.csv:3" in rows[1]["problem"] and [row["id"] for row in rows[:3]] == ["1", "2", "3"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.csv", "out.csv"]


def test_a_text_longer_than_a_classifier_reads_is_answered(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", kit / "table", tmp_path / "reader", "--model", "qwen3", "--recipe", kit / "short.toml", "--steps", 2, "--window", 8)
    run(capsys, *words, "--batch", 4)
    (tmp_path / "long.txt").write_text("upward " * 2000 + "\nshort\n", encoding="utf-8")
    out, _ = run(capsys, "predict", tmp_path / "reader", tmp_path / "long.txt", tmp_path / "out.jsonl", "--json")
    assert json.loads(out)["rows"] == 2 and json.loads(out)["problems"] == 0
