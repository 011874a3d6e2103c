"""Which columns of a person's table hold the fields of a task, and how a row becomes an example.

Names are recognised in English and Chinese; the user's own words (`text=`, `label=`, `columns=`, `form=`) always win, and a wrong one is
answered with the nearest column. A form such as "{title}\\n{text}" builds the text of a row from several columns. Each field reads its own
cell (`data/schema.py`).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.data.media import REASONS, named
from zhixing.data.schema import Flags, Image, Labels, Number, Record, Schema, Sound, Tags, Text

# What a field may be called in a person's table, the best name first; a field that is not here goes by its own name.
KNOWN = {
    "text": (
        "text", "texts", "sentence", "content", "review", "comment", "message", "question", "query", "utterance", "document", "body",
        "answer", "response", "文本", "内容", "正文", "句子", "评论", "评价", "留言", "问题", "消息", "短信", "回答",
    ),
    "label": (
        "label", "labels", "category", "class", "sentiment", "intent", "target", "topic", "tag",
        "标签", "类别", "分类", "情感", "意图", "类型", "主题",
    ),
    "labels": ("labels", "categories", "topics", "genres", "tags", "label", "标签", "类别", "主题"),
    "good": ("good", "sentence_good"),
    "bad": ("bad", "sentence_bad"),
    "source": ("source", "src", "原文", "源文"),
    "target": ("target", "tgt", "translation", "译文"),
    "reference": ("reference", "reference1", "参考答案", "标准答案"),
    "score": ("score", "grade", "points", "mark", "分数", "得分", "成绩"),
    "tokens": ("tokens", "words", "词", "词语", "字"),
    "tags": ("tags", "labels", "ner_tags", "pos_tags", "标签", "标注"),
    "items": ("items", "history", "skills", "历史", "记录", "知识点"),
    "audio": ("audio", "sound", "wav", "recording", "file", "path", "音频", "录音"),
    "image": ("image", "picture", "img", "photo", "图片", "图像"),
    "correct": ("correct", "right", "对错", "正误"),
}  # fmt: skip
VAGUE = ("file", "path")  # names that say nothing of what they hold: taken only for what must be there
SHOWN = 80  # characters of a file's name in a message, at most
PLAIN = Schema({"text": Text()})


@dataclass(frozen=True)
class Columns:
    """How rows are read.

    schema  the fields that a row holds
    names   {field: column}; a field that is not here is read from the row itself: a text from a line, a record from all other columns
    form    what the field "text" is built from, instead of a column
    without columns that a record leaves out
    """

    schema: Schema = PLAIN
    names: Mapping[str, str] = field(default_factory=dict)
    form: str | None = None
    without: tuple[str, ...] = ()

    def column(self, field: str) -> str | None:
        """Name the column of a field: the one that was given or, unless that is another field's or left out, the one of its own name."""
        return self.names.get(field, None if field in (*self.names.values(), *self.without) else field)

    def example(self, value: Any, rows: str | Path = "") -> tuple[dict[str, Any] | None, str | None]:
        """Make the example of a row: (example, None), or (None, reason) when the row is bad.

        A field that a row may lack, and does, is not in its example; but something must be asked, and something answered.

        rows  the file that the row stands in, beside which the sounds and images lie that it names; "": it may name none
        """
        found: dict[str, Any] = {}
        if isinstance(value, dict):
            value = spell(
                value, [(self.column(kind.of), self.column(name)) for name, kind in self.schema.fields.items() if isinstance(kind, Tags)]
            )
        for name, kind in self.schema.fields.items():
            optional = getattr(kind, "optional", False)
            if isinstance(value, str):
                cell, reason = kind.read(None if optional and not isinstance(kind, Text) else value)
            elif self.form is not None and name == "text":
                cell, reason = _fill(self.form, value)
            elif isinstance(kind, Record):
                left_out = {*self.names.values(), *self.without}
                cell, reason = kind.read({each: cell for each, cell in value.items() if each not in left_out})
            else:
                cell, reason = value.get(self.column(name)), None
                if rows and isinstance(kind, Sound | Image) and (file := _file(cell)):
                    cell, reason = named(file, Path(rows))
                if reason is None:
                    cell, reason = kind.read(cell)
            if reason is None and isinstance(kind, Flags) and not 0 <= len(found[kind.of]) - len(cell) <= 1:
                reason = "flags_count"
            if reason:
                return None, reason
            if optional and (cell is None if isinstance(kind, Labels | Number) else not cell):
                continue
            if isinstance(kind, Tags) and len(cell) != len(found.get(kind.of, ())):
                return None, "tags_count"
            found[name] = cell
        told = self.schema.told
        if not set(found) - set(told):
            return None, "empty"
        return (None, "no_answer") if len(told) > 1 and not set(found) & set(told) else (found, None)

    def files(self, value: Any, rows: str | Path, reason: str | None) -> list[str]:
        """List the files that a row names for its sounds and pictures and that cannot be used for a reason.

        rows    the file that the row stands in
        reason  as `example` gives it
        """
        found = []
        for name, kind in self.schema.fields.items():
            medium = reason in REASONS and isinstance(kind, Sound | Image) and isinstance(value, dict)
            if medium and (file := _file(value.get(self.column(name)))):
                content, problem = named(file, Path(rows))
                found += [file[:SHOWN]] if reason == (problem or kind.read(content)[1]) else []
        return found


def _file(cell: Any) -> str | None:
    """Give the file that a cell names, where it names one: what is no data URL."""
    name = cell.strip() if isinstance(cell, str) else ""
    return None if not name or name.startswith("data:") else name


def spell(row: dict[str, Any], pairs: Iterable[tuple[str | None, str | None]]) -> dict[str, Any]:
    """Cut into letters every pair of columns that hold as many letters each and no space: a sequence, and a letter for each place in it."""
    for first, second in pairs:
        cells = row.get(first), row.get(second)
        texts = [each for each in cells if isinstance(each, str) and len(each) > 1 and len(each.split()) == 1 and each == each.strip()]
        if len(texts) == 2 and len(texts[0]) == len(texts[1]):
            row = {**row, first: list(texts[0]), second: list(texts[1])}
    return row


def _fill(form: str, value: dict[str, Any]) -> tuple[str, str | None]:
    parts: list[str] = []
    for literal, name, _, _ in string.Formatter().parse(form):
        parts.append(literal)
        if name is not None:
            given = value.get(name)
            given = str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given
            text, reason = Text().read(given)
            if reason and reason != "empty":
                return "", reason
            parts.append(text)
    return Text().read("".join(parts))


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


def _guess(columns: Iterable[str], field_name: str) -> str | None:
    """Find the column whose name is the best known one of a field, whatever its case."""
    plain = {each.strip().lower(): each for each in reversed(list(columns))}
    return next((plain[name] for name in KNOWN.get(field_name, (field_name,)) if name in plain), None)


def read_words(words: str | None) -> dict[str, str]:
    """Read the user's own choice of columns, "field=column,field=column"; raises UsageError for words that are none."""
    found: dict[str, str] = {}
    for each in (words or "").split(","):
        name, equals, column = (part.strip() for part in each.partition("="))
        if each.strip() and not (name and equals and column):
            raise UsageError("prepare.columns", words=words)
        if each.strip():
            found[name] = column
    return found


def choose(
    columns: list[str], schema: Schema, given: Mapping[str, str | None], form: str | None = None, without: Iterable[str] = ()
) -> Columns:
    """Settle which column holds each field of a schema, for rows with these columns.

    given    {field: column} of the user's own words; None: recognised
    without  columns that no field is recognised in, and that a record leaves out

    Raises UsageError for a name that is no field or no column, and when no column can be recognised.
    """
    names: dict[str, str] = {}
    without = [_known(name, columns) for name in without]
    chosen = {name: column for name, column in given.items() if column is not None}
    for name, column in chosen.items():
        if name not in schema.fields:
            raise UsageError("prepare.field", name=name, among=list(schema.fields))
        if name == "text" and form is not None:
            raise UsageError("prepare.form_and_text", form=form, text=column)
        names[name] = _known(column, columns)
    if form is not None:
        if "text" not in schema.fields:
            raise UsageError("prepare.field", name="text", among=list(schema.fields))
        _names(form, columns)
    for name, kind in schema.fields.items():
        if name in names or isinstance(kind, Record) or (name == "text" and form is not None):
            continue
        others = [each for each in columns if each not in names.values() and each not in without]
        # A column that bears another field's own name is that field's.
        clear = [each for each in others if each.strip().lower() not in VAGUE or not getattr(kind, "optional", False)]
        found = _guess([each for each in clear if each == name or each not in schema.fields], name)
        if found is None and name == "text" and len(others) == 1 and not getattr(kind, "optional", False):
            found = others[0]
        if found is None and getattr(kind, "optional", False):
            continue
        if found is None:
            code = {"text": "prepare.no_text", "label": "prepare.no_label"}.get(name, "prepare.no_field")
            raise UsageError(code, columns=", ".join(columns), name=name)
        names[name] = found
    return Columns(schema, names, form, tuple(without))


def labelled(columns: list[str], given: Mapping[str, str | None], form: str | None) -> bool:
    """Say whether rows with these columns have a label besides their text, as far as names tell."""
    if given.get("label") is not None:
        return True
    text = given.get("text") or (None if form is not None else _guess(columns, "text"))
    return _guess([each for each in columns if each != text], "label") is not None
