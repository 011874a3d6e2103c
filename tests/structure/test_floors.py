"""Who imports whom: the table of floors in ARCHITECTURE.md, held against every import of src."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = ("core", "data", "tokens", "metrics", "cli")
LAZY = re.compile(r"zhixing(\.\w+)+:\w+")


@pytest.fixture(scope="module")
def floors(root: Path) -> dict[str, int]:
    text = (root / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = re.search(r"## Floors.*?```\n(.*?)```", text, re.S).group(1)
    found = {}
    for line in table.splitlines():
        number, names = re.match(r"\s*(\d+)\s+((?:\w+(?: \([^)]*\))?(?: \| )?)+)", line).groups()
        found.update(dict.fromkeys(re.sub(r"\([^)]*\)", "", names).replace("|", " ").split(), int(number)))
    return found


def imports(tree: ast.Module) -> list[str]:
    """List every module that a file imports anywhere, also those that its lazy tables name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            found += [node.module] if node.module != "zhixing" else [f"zhixing.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LAZY.fullmatch(node.value):
            found.append(node.value.split(":")[0])
    return found


def wrong(path: str, tree: ast.Module, floors: dict[str, int]) -> list[str]:
    """List the imports of a file that its floor does not allow."""
    if "/" not in path:
        return []  # the package's own door stands above all floors
    here = path.split("/")[0]
    found = []
    for name in imports(tree):
        top, *rest = name.split(".")
        if top == "zhixing":
            there = rest[0] if rest else ""
            if there in floors and there != here and floors[there] >= floors[here]:
                found.append(f"{path} (floor {floors[here]}) imports {name} (floor {floors[there]})")
        elif here == "core" and top not in sys.stdlib_module_names:
            found.append(f"{path}: core imports {name}")
        elif here in ("data", "metrics") and top == "torch":
            found.append(f"{path}: {here} imports torch")
    return found


def test_every_folder_stands_on_a_floor(trees: dict[str, ast.Module], floors: dict[str, int]) -> None:
    folders = {path.split("/")[0] for path in trees if "/" in path} - {"recipes"}
    assert folders == set(floors)


def test_imports_go_down(trees: dict[str, ast.Module], floors: dict[str, int]) -> None:
    assert [each for path, tree in trees.items() for each in wrong(path, tree, floors)] == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/files.py", "import numpy"),
        ("core/files.py", "def f():\n    from zhixing.data import readers"),
        ("data/stream.py", "import torch"),
        ("data/stream.py", "from zhixing.tokens.tokenizer import Tokenizer"),
        ("models/llama.py", "from zhixing.objectives.loss import Loss"),
        ("training/trainer.py", "from zhixing import preparation"),
        ("models/catalog.py", "TABLE = {'a': 'zhixing.tasks.language:Language'}"),
    ],
)
def test_a_wrong_import_is_seen(path: str, source: str, floors: dict[str, int]) -> None:
    assert wrong(path, ast.parse(source), floors)


def heavy(modules: list[str]) -> list[str]:
    """Import modules in a fresh Python and list the frameworks that came with them."""
    program = (
        "import importlib, sys\nfor m in sys.argv[1:]: importlib.import_module(m)\nprint(*{'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_light_parts_import_no_torch(trees: dict[str, ast.Module]) -> None:
    parts = [path for path in trees if path.split("/")[0] in WITHOUT_TORCH]
    modules = ["zhixing." + path.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for path in parts]
    assert len(modules) > 15
    assert heavy(["zhixing", *modules]) == []
    assert heavy(["zhixing.layers.kinds"]) == ["torch"]  # the harness sees it where it is
