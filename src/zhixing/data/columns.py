"""Which columns of a person's table are the text and the label, and how a row becomes an example.

Names are recognised in English and Chinese; the user's own words (`text=`, `label=`, `form=`) always win, and a wrong one is answered
with the nearest column. A form such as "{title}\\n{text}" builds the text of a row from several columns.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.data.readers import flaw

TEXTS = (
    "text", "texts", "sentence", "content", "review", "comment", "message", "question", "query", "utterance", "document", "body",
    "文本", "内容", "正文", "句子", "评论", "评价", "留言", "问题", "消息", "短信",
)  # fmt: skip
LABELS = (
    "label", "labels", "category", "class", "sentiment", "intent", "target", "topic", "tag",
    "标签", "类别", "分类", "情感", "意图", "类型", "主题",
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """How rows are read: from a text column or a form; label: a column, or None for language."""

    text: str | None
    form: str | None
    label: str | None

    def example(self, value: Any) -> tuple[dict[str, str] | None, str | None]:
        """Make the example of a row: (example, None), or (None, reason) when the row is bad."""
        if isinstance(value, str):
            text, reason = value, None
        elif self.form is not None:
            text, reason = _fill(self.form, value)
        else:
            text, reason = _text(value.get(self.text))
        reason = reason or flaw(text) or (None if text.strip() else "empty")
        if reason:
            return None, reason
        if self.label is None:
            return {"text": text}, None
        label, reason = _label(value.get(self.label))
        return (None, reason) if reason else ({"text": text, "label": label}, None)


def _text(value: Any) -> tuple[str, str | None]:
    if value is None:
        return "", "no_text"
    if isinstance(value, str):
        return value, None
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value), None
    return "", "not_text"


def _label(value: Any) -> tuple[str, str | None]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "", "no_label"
    if isinstance(value, bool):
        return ("true" if value else "false"), None
    if isinstance(value, str | int):
        return str(value), flaw(str(value))
    return "", "not_label"


def _fill(form: str, value: dict[str, Any]) -> tuple[str, str | None]:
    parts = []
    for literal, name, _, _ in string.Formatter().parse(form):
        parts.append(literal)
        if name is not None:
            given = value.get(name)
            text, reason = (str(given), None) if isinstance(given, int | float) and not isinstance(given, bool) else _text(given)
            if reason:
                return "", reason
            parts.append(text)
    return "".join(parts), None


def _names(form: str, columns: Iterable[str]) -> list[str]:
    """List the columns that a form names; raises UsageError for a form that is not one."""
    try:
        parts = list(string.Formatter().parse(form))
    except ValueError as problem:
        raise UsageError("prepare.form", form=form, problem=str(problem)) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names or any(not name or specification or conversion for _, name, specification, conversion in parts if name is not None):
        raise UsageError("prepare.form", form=form, problem="{}")
    for name in names:
        _known(name, columns)
    return names


def _known(name: str, columns: Iterable[str]) -> str:
    columns = list(columns)
    if name not in columns:
        raise UsageError("prepare.column", name=name, among=columns)
    return name


def _guess(columns: Iterable[str], known: tuple[str, ...]) -> str | None:
    """Find the column whose name is the best known one, whatever its case."""
    plain = {each.strip().lower(): each for each in reversed(list(columns))}
    return next((plain[name] for name in known if name in plain), None)


def choose(columns: list[str], task: str, text: str | None, label: str | None, form: str | None) -> tuple[str, Columns]:
    """Settle the task ("language" or "classify") and its columns for rows with these columns.

    Raises UsageError for a name that is no column and when no column can be recognised.
    """
    if form is not None:
        if text is not None:
            raise UsageError("prepare.form_and_text", form=form, text=text)
        _names(form, columns)
    elif text is not None:
        _known(text, columns)
    else:
        text = _guess(columns, TEXTS)
        others = [each for each in columns if each != label]
        if text is None and len(others) == 1:
            text = others[0]
        if text is None:
            raise UsageError("prepare.no_text", columns=", ".join(columns))
    if label is not None:
        _known(label, columns)
        if task == "language":
            raise UsageError("prepare.label_unused", label=label)
    elif task != "language":
        label = _guess([each for each in columns if each != text], LABELS)
    if task == "classify" and label is None:
        raise UsageError("prepare.no_label", columns=", ".join(columns))
    return ("classify" if label else "language"), Columns(text, form, label)
