"""Files: short, named by what they hold, each table matching its folder, no trace of a machine."""

from __future__ import annotations

import importlib
import keyword
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LONGEST = 500
NEVER = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers"}
# Written so that this file does not match itself.
TRACES = re.compile(
    r"/ho[m]e/\w|/Us[e]rs/\w|/ro[o]t/|/wo[r]k/|/tmp/z[x]|C:\\\\?Us[e]rs|\b19[2]\.168\.\d|\b1[0]\.\d{1,3}\.\d{1,3}\.\d{1,3}\b"
)
AXES = set("BTSDHKVLEFCYXN")
AXIS = r"(?:[A-Z]'?(?:\s?[*·/+-]\s?\w+)*|\d+|\.\.\.)"
SHAPE = re.compile(rf"\(({AXIS}(?:, {AXIS})+|{AXIS},)\)")
NOT_VERBS = {"__init__", "app", "console", "failure", "help"}


@pytest.fixture(scope="module")
def tracked(root: Path) -> list[Path]:
    """The repository's files: those that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("this copy is not a git checkout")
    files = [root / name for name in listed.stdout.splitlines() if (root / name).is_file()]
    assert len(files) > 40
    return files


def too_long(name: str, text: str) -> bool:
    return name.endswith(".py") and len(text.splitlines()) > LONGEST


def badly_named(path: Path) -> bool:
    """Tell whether a source file's or folder's name is not one plain word, or is a word that says nothing."""
    words = [part.removesuffix(".py") for part in path.parts]
    return any(word not in ("__init__", "__main__") and (not re.fullmatch(r"[a-z][a-z0-9]*", word) or word in NEVER) for word in words)


def test_no_file_is_long(tracked: list[Path]) -> None:
    assert [str(path) for path in tracked if path.suffix == ".py" and too_long(path.name, path.read_text(encoding="utf-8"))] == []
    assert too_long("a.py", "x = 1\n" * (LONGEST + 1)) and not too_long("a.py", "x = 1\n" * LONGEST)


def test_names_are_words(root: Path) -> None:
    package = root / "src" / "zhixing"
    assert [str(path) for path in package.rglob("*.py") if badly_named(path.relative_to(package))] == []
    assert badly_named(Path("data/utils.py")) and badly_named(Path("data/TextReader.py")) and badly_named(Path("common/a.py"))


def axes(text: str) -> set[str]:
    """Name the axis letters of the shapes that comments and docstrings write, as in (B, T, D)."""
    found: set[str] = set()
    for line in text.splitlines():
        written = line.split("#", 1)[1] if "#" in line else line if re.match(r"\s+(?:\w+(?:, \w+)*|return)\s{2,}\(", line) else ""
        for shape in SHAPE.findall(written):
            found |= set(re.findall(r"[A-Z]", shape))
    return found


def test_axes_are_the_agreed_letters(root: Path) -> None:
    package = root / "src" / "zhixing"
    wrong = {path.relative_to(package).as_posix(): odd for path in package.rglob("*.py") if (odd := axes(path.read_text("utf-8")) - AXES)}
    assert wrong == {}
    assert axes("    x = y  # (B, T, Q)\n") == {"B", "T", "Q"}
    assert axes("    tokens  (B, T) int    ids\n    return  (Z,) float\n    f(A, B)\n") == {"B", "T", "Z"}


def test_no_trace_of_a_machine(tracked: list[Path]) -> None:
    found = []
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.name}: {line.strip()[:80]}" for line in text.splitlines() if TRACES.search(line)]
    assert found == []
    assert TRACES.search("data = '" + "/".join(["", "home", "someone", "text"]) + "'")


def test_verbs_are_files(root: Path) -> None:
    from zhixing.cli.app import VERBS, find

    files = {path.stem for path in (root / "src" / "zhixing" / "cli").glob("*.py")} - NOT_VERBS
    assert files == set(VERBS)
    assert all(callable(find(verb)) and VERBS[verb] == f"zhixing.cli.{verb}:{verb}{'_' * keyword.iskeyword(verb)}" for verb in VERBS)


def test_models_are_classes_in_files(root: Path) -> None:
    from zhixing.models.catalog import MODELS

    for name, target in MODELS.items():
        module, attribute = target.split(":")
        assert isinstance(getattr(importlib.import_module(module), attribute), type), name
    named = {target.split(":")[0].rsplit(".", 1)[1] for target in MODELS.values()}
    files = {path.stem for path in (root / "src" / "zhixing" / "models").glob("*.py")}
    assert named <= files, "a family without its file"


def test_the_wheel_carries_everything(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="the test extra is not installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=root, check=True, capture_output=True
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = {name for name in wheel.namelist() if name.startswith("zhixing/")}
        assert any(name.endswith("entry_points.txt") for name in wheel.namelist())
        assert any(name.endswith("LICENSE") for name in wheel.namelist())
    package = root / "src" / "zhixing"
    wanted = {f"zhixing/{path.relative_to(package).as_posix()}" for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert wanted == inside
