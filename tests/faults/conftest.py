"""What the tests of mistakes and faults share: one small text, one table, and a model of each sort, made once by the command line."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from zhixing.cli.app import main
from zhixing.core.files import sha256

WORDS = "the old boat drifts along a quiet river while children count the stones and evening comes 船 河 石 头 月".split()
GROWING = ("cache", "__pycache__")  # working folders that may grow at any time


def write_rows(path: Path, count: int, labels: tuple[str, ...] = ("down", "up")) -> Path:
    """Write a table of seeded random words whose label stands in the text."""
    draw = random.Random(11)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["number", "review", "stars"])
        for number in range(count):
            label = draw.choice(labels)
            writer.writerow([number, " ".join([*draw.choices(WORDS, k=6), f"{label}ward", str(number)]), label])
    return path


def snapshot(*folders: Path) -> dict[str, str]:
    """Give every path below some folders with what it is: a folder, a link with its target, or a file with its hash."""
    found = {}
    for folder in folders:
        for root, inside, names in os.walk(folder):
            inside[:] = [name for name in inside if name not in GROWING]
            for name in [*inside, *names]:
                path = Path(root) / name
                if path.is_symlink():
                    found[str(path)] = f"-> {os.readlink(path)}"
                else:
                    found[str(path)] = "folder" if path.is_dir() else sha256(path)
    return found


def do(*words: object) -> None:
    """Run a verb that must succeed."""
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the text, the table, their corpora and one small model of each sort."""
    kit = tmp_path_factory.mktemp("kit")
    draw = random.Random(3)
    lines = [" ".join(draw.choices(WORDS, k=9)) for _ in range(300)]
    (kit / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_rows(kit / "rows.csv", 200)
    write_rows(kit / "other.csv", 60, ("sideways", "upside"))
    do("prepare", kit / "text.txt", kit / "corpus")
    do("prepare", kit / "text.txt", kit / "bare", "--validation", 0, "--test", 0)
    do("prepare", kit / "rows.csv", kit / "table", "--text", "review", "--label", "stars", "--validation", 0.2, "--test", 0.2)
    do("prepare", kit / "other.csv", kit / "other", "--text", "review", "--label", "stars", "--test", 0.5)
    do("train", kit / "corpus", kit / "ngram", "--model", "ngram", "--order", 3)
    recipe = kit / "short.toml"
    recipe.write_text("layers = 1\nwidth = 16\nheads = 2\ngroups = 1\nevaluations = 1\nsaves = 1\n", encoding="utf-8")
    do("train", kit / "corpus", kit / "neural", "--model", "qwen3", "--recipe", recipe, "--steps", 5, "--window", 16, "--batch", 2)
    do("train", kit / "corpus", kit / "vectors", "--model", "skipgram", "--size", "tiny", "--steps", 5)
    do("train", kit / "table", kit / "classifier", "--model", "naive_bayes")
    return kit


@pytest.fixture(scope="session", name="snapshot")
def give_snapshot() -> Callable[..., dict[str, str]]:
    """Hand `snapshot` to the tests, which cannot import this file."""
    return snapshot


@pytest.fixture(scope="session", name="write_rows")
def give_write_rows() -> Callable[..., Path]:
    """Hand `write_rows` to the tests."""
    return write_rows
