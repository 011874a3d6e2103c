"""Messages: two catalogues of equal keys and placeholders, every code in src has its text, every text is used."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from zhixing.core.messages import catalogue

ERRORS = {"ZhixingError", "UsageError", "DataError", "RunError", "ShapeError"}
PARTS = ("what", "expected", "do")
GIVEN_BY_US = {"hint"}


def placeholders(text: str) -> set[str]:
    """Name the values that a text needs."""
    return {re.split(r"[.\[]", field)[0] for _, field, _, _ in string.Formatter().parse(text) if field is not None}


def pattern(node: ast.AST) -> str | None:
    """Give the regular expression of a literal or formatted string, else None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(re.escape(each.value) if isinstance(each, ast.Constant) else ".+" for each in node.values)
    return None


def literals(node: ast.AST) -> list[str]:
    """Give the patterns of a first argument: a string, or either side of a choice."""
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    found = pattern(node)
    return [found] if found is not None else []


def uses(tree: ast.Module) -> list[tuple[str, str, set[str] | None]]:
    """List a file's (sort, code pattern, given values) of errors made and stories told; values None: not known here."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        given = None if any(each.arg is None for each in node.keywords) else {each.arg for each in node.keywords}
        sort = "error" if name in ERRORS else "story" if name.lstrip("_") in ("tell", "say_story") else None
        if sort:
            found += [(sort, code, given) for code in literals(node.args[0])]
    return found


def faults(tree: ast.Module, known: dict[str, str]) -> list[str]:
    """List the codes of a file that have no text, or whose text needs a value that is not given."""
    found = []
    for sort, code, given in uses(tree):
        keys = [key for key in known if re.fullmatch(f"{sort}\\.{code}" + (r"\.\w+" if sort == "error" else ""), key)]
        parts = {key.rsplit(".", 1)[1] for key in keys}
        if not keys or (sort == "error" and parts != set(PARTS)):
            found.append(f"{sort} {code}: no text")
        elif given is not None and ".+" not in code:
            missing = set().union(*(placeholders(known[key]) for key in keys)) - given - GIVEN_BY_US
            if missing:
                found.append(f"{sort} {code}: not given: {', '.join(sorted(missing))}")
    return found


def unused(known: dict[str, str], trees: dict[str, ast.Module]) -> list[str]:
    """List the texts that nothing in src can ask for."""
    strings = {found for tree in trees.values() for node in ast.walk(tree) if (found := pattern(node)) and re.match(r"[a-z_]+\\?\.", found)}
    plain = {re.sub(r"\\(.)", r"\1", each) for each in strings if ".+" not in each}
    # f"story.{code}" asks for everything and so proves nothing.
    blind = re.compile(r"(?:story|error|help|word)\\\.\.\+.*")
    made = re.compile("|".join(f"(?:{each})" for each in strings if ".+" in each and not blind.fullmatch(each)) or "(?!)")

    def asked(code: str) -> bool:
        return code in plain or made.fullmatch(code) is not None

    found = []
    for key in known:
        sort, _, rest = key.partition(".")
        code = rest.rsplit(".", 1)[0] if sort == "error" else rest
        if sort == "help":
            continue  # held against the verbs' signatures below
        if not (asked(key) or (sort in ("error", "story") and asked(code))):
            found.append(key)
    return found


@pytest.fixture(scope="module")
def english() -> dict[str, str]:
    return catalogue("en")


def test_catalogues_are_equal(english: dict[str, str]) -> None:
    chinese = catalogue("zh")
    assert set(english) == set(chinese)
    assert len(english) > 100
    for key, text in english.items():
        if "{hint}" in text or "{hint}" in chinese[key]:
            assert ("{hint}" in text) == ("{hint}" in chinese[key]), key
        assert placeholders(text) == placeholders(chinese[key]), key
        assert text.strip() and chinese[key].strip(), key


def test_chinese_is_chinese() -> None:
    silent = re.compile(r"[一-鿿]")
    bare = {
        key for key, text in catalogue("zh").items() if not silent.search(text) and re.search(r"[A-Za-z]{4,}", re.sub(r"\{.*?\}", "", text))
    }
    assert bare == set()


def test_every_code_has_its_text(trees: dict[str, ast.Module], english: dict[str, str]) -> None:
    found = [f"{path}: {fault}" for path, tree in trees.items() for fault in faults(tree, english)]
    assert "\n".join(found) == ""
    assert sum(len(uses(tree)) for tree in trees.values()) > 30


def test_every_text_is_used(root: Path, trees: dict[str, ast.Module], english: dict[str, str]) -> None:
    demo = root / "examples" / "demo.py"
    assert "\n".join(unused(english, {**trees, "demo.py": ast.parse(demo.read_text(encoding="utf-8"))})) == ""
    assert unused({"error.never.heard.what": ""}, trees) and unused({"story.never.told": ""}, trees)


def test_faults_are_seen(english: dict[str, str]) -> None:
    assert faults(ast.parse("raise DataError('never.heard')"), english)
    assert faults(ast.parse("raise UsageError('output.exists')"), english) == ["error output\\.exists: not given: path"]
    assert faults(ast.parse("raise UsageError('output.exists', path='a')"), english) == []
    assert faults(ast.parse("tell('never.told')"), english)
    assert placeholders("{a} {b:,} {c.d} {{e}}") == {"a", "b", "c"}


def test_errors_have_three_whole_sentences(english: dict[str, str]) -> None:
    codes = {key.rsplit(".", 1)[0] for key in english if key.startswith("error.")}
    for code in codes:
        for part in PARTS:
            text = english[f"{code}.{part}"].rstrip()
            assert text.endswith((".", "?", "!", "`", "{problem}", "{hint}")), f"{code}.{part}: {text}"


def test_commands_in_messages_exist() -> None:
    from zhixing.cli.app import VERBS

    found = 0
    for language in ("en", "zh"):
        for key, text in catalogue(language).items():
            for verb in re.findall(r"(?:`|^  |: |：)zhixing ([a-z]+)", text, re.M):
                assert verb in VERBS, f"{key}: {verb}"
                found += 1
    assert found > 20


def test_help_knows_every_word(english: dict[str, str]) -> None:
    import inspect

    from zhixing.cli.app import VERBS, find

    for verb in VERBS:
        wanted = {f"help.{verb}.{name}" for name in (*inspect.signature(find(verb)).parameters, "what", "example")}
        assert wanted == {key for key in english if key.startswith(f"help.{verb}.")}
