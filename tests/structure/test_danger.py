"""What must never be called: anything that runs a stranger's code or reaches the network; and the one place where weights change."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

NAMES = {"eval", "exec", "compile", "__import__"}
MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "socket",
    "requests",
    "httpx",
    "huggingface_hub",
    "urllib.request",
}
MODULES |= {"http.client", "ftplib", "telnetlib", "smtplib"}
METHODS = {"torch.load", "torch.save", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "numpy.load", "np.load"}
ANYWHERE = {"extractall"}
KEYWORDS = {("shell", True), ("allow_pickle", True), ("trust_remote_code", True), ("weights_only", False)}


def dangers(tree: ast.Module) -> list[str]:
    """List the dangerous calls and imports of a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in MODULES or alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            found += sorted(({module, module.split(".")[0]} & MODULES) | (names & (METHODS | MODULES)))
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in NAMES:
                found.append(node.func.id)
            if isinstance(node.func, ast.Attribute):
                whole = ast.unparse(node.func)
                if whole in METHODS - {"numpy.load", "np.load"} or node.func.attr in ANYWHERE:
                    found.append(whole)
                if whole in METHODS & {"numpy.load", "np.load"} and not any(
                    k.arg == "allow_pickle" and isinstance(k.value, ast.Constant) and k.value.value is False for k in node.keywords
                ):
                    found.append(f"{whole} without allow_pickle=False")
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
                    found.append(f"{keyword.arg}={keyword.value.value}")
    return found


def test_nothing_dangerous_is_called(trees: dict[str, ast.Module]) -> None:
    assert {path: found for path, tree in trees.items() if (found := dangers(tree))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load('a')",
        "eval('1')",
        "exec('1')",
        "__import__('os')",
        "import os\nos.system('ls')",
        "subprocess.run('ls', shell=True)",
        "tarfile.open('a').extractall()",
        "yaml.load('a')",
        "import marshal",
        "np.load('a', allow_pickle=True)",
        "np.load('a')",
        "import urllib.request",
    ],
)
def test_danger_is_seen(source: str) -> None:
    assert dangers(ast.parse(source))


def test_a_model_set_to_evaluation_is_no_danger() -> None:
    assert dangers(ast.parse("model.eval()\nre.compile('a')\nnp.load('a', allow_pickle=False)")) == []


def steps(text: str) -> int:
    return len(re.findall(r"\boptim\w*\.step\(", text))


def test_weights_change_in_one_place(root: Path) -> None:
    places = {path.name: n for path in (root / "src").rglob("*.py") if (n := steps(path.read_text(encoding="utf-8")))}
    assert places == {"trainer.py": 1}
    assert steps("self.optimizer.step()\noptimizer.step()") == 2


PRINTING = {"print", "input", "exit", "quit", "breakpoint"}


def printing(tree: ast.Module) -> list[str]:
    """List the calls that a library must leave to its caller: printing and quitting."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [each.id for each in calls if isinstance(each, ast.Name) and each.id in PRINTING]
    return named + [
        ast.unparse(each) for each in calls if isinstance(each, ast.Attribute) and ast.unparse(each) in ("sys.exit", "os._exit")
    ]


def test_library_code_neither_prints_nor_quits(trees: dict[str, ast.Module]) -> None:
    library = {path: tree for path, tree in trees.items() if not path.startswith("cli/") and path != "__main__.py"}
    assert {path: found for path, tree in library.items() if (found := printing(tree))} == {}
    assert printing(ast.parse("print(1)\nimport sys\nsys.exit(2)")) == ["print", "sys.exit"]
