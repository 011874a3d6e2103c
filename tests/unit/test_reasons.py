"""Why a row is bad is told in words, in both languages, and its code beside them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from zhixing.core import messages
from zhixing.core.errors import DataError
from zhixing.data import columns, encoding, histories, media, readers, schema

WORD = re.compile("[a-z]+(_[a-z]+)*")
FILES = (columns, encoding, histories, media, readers, schema)
NO_REASONS = {"file", "image", "sound", "text"}  # of tuples and calls that are of another sort


def words(node: ast.AST) -> set[str]:
    """Give the constants inside a node that a code may be; one that is put together cannot be looked up here."""
    assert not [each for each in ast.walk(node) if isinstance(each, ast.JoinedStr)], ast.unparse(node)
    found = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return {each for each in found if WORD.fullmatch(each)}


def codes(source: str) -> set[str]:
    """Give the codes that a file of source hands on as reasons: last of a tuple, named reason, or told to Unreadable, flaw and Record."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        given = node.value if isinstance(node, ast.Return | ast.Yield) else None
        for branch in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
            found |= words(branch.elts[-1]) if isinstance(branch, ast.Tuple) else set()
        if isinstance(node, ast.FunctionDef) and node.name == "flaw":
            found |= set().union(*map(words, node.args.defaults))
        if isinstance(node, ast.Assign) and any(isinstance(each, ast.Name) and each.id == "reason" for each in node.targets):
            found |= words(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Unreadable", "flaw", "Record"):
            found |= set().union(*map(words, node.args))
    return found - NO_REASONS


def test_each_reason_has_words():
    found = set(media.REASONS).union(*(codes(Path(each.__file__).read_text("utf-8")) for each in FILES))
    assert {"bad_json", "no_label", "not_number", "surrogate", "tags_count", "over_long", "silent_sound", "not_time", "no_image"} <= found
    assert not [each for each in sorted(found) if f"reason.{each}" not in messages.catalogue("en")]
    assert codes('def f():\n    return "", "not_told"') == {"not_told"}


@pytest.mark.parametrize(("language", "words"), [("en", "a label or a name is missing (no_label)"), ("zh", "缺标签或名称（no_label）")])
def test_words_stand_before_the_code(language, words):
    error = DataError("prepare.bad_rows", place="a.csv:2", reason="no_label", count=1, reasons="no_label 1")
    assert words in error.text(language)


def test_another_reason_is_told_as_it_is():
    assert "31.2 > 30 s" in DataError("task.medium", name="audio", reason="31.2 > 30 s").text("zh")
