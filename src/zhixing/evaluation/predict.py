"""Rows in, the same rows out with answer, confidence and abstention: nothing is dropped, and an interrupted run goes on.

Answers are appended to `.<out>.partial` beside the output, flushed piece by piece; a note beside it says for which model and input.
The output takes its name when every row is answered. A row that cannot be read is kept, with an empty answer and the reason.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from zhixing.core.config import fingerprint
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, sha256, sync_folder, write_json
from zhixing.core.folder import MANIFEST, check_place, locked, ours
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.columns import Columns, choose, read_words
from zhixing.data.readers import Record, Source, records, survey
from zhixing.data.schema import Schema
from zhixing.tasks.artefact import Artefact, load

APART = ("language", "embed")  # tasks with verbs of their own: `generate`, `nearest`
PIECE = 2048  # rows answered and made durable at a time
ADDED = ("answer", "confidence", "abstained", "problem")
Tell = Callable[..., None]


def predict_rows(
    model: str | Path | Artefact,
    source: str | Path,
    out: str | Path,
    *,
    text: str | None = None,
    columns: str | None = None,
    precision: float | None = None,
    encoding: str | None = None,
    tell: Tell = quiet,
    force: bool = False,
    stop: Stop | None = None,
) -> dict[str, int]:
    """Answer every row of a file or folder.

    source     csv, tsv, jsonl or txt (one row a line), plain or compressed
    out        .csv, .tsv or .jsonl
    text       the column that holds the text; None: the one of the training corpus, else found by its name; it is settled once, by the
               first rows, and a later row without it is a problem
    columns    "field=column,field=column", for a task that asks for more than a text
    precision  answers below the confidence that reached this precision on validation are marked as abstained; None: none is
    encoding   of the source; None: found out
    return     {"rows": ..., "answered": ..., "abstained": ..., "problems": ...}

    Raises UsageError when source is a folder of ours or holds one, out exists, is of another form, is read itself or being written by
    another process, or the model has no threshold for the precision.
    """
    out = Path(out)
    if out.suffix not in (".csv", ".tsv", ".jsonl"):
        raise UsageError("predict.form", path=str(out))
    check_place(out)
    if os.path.lexists(out) and not force:
        raise UsageError("output.exists", path=str(out))
    if out.is_dir():
        raise UsageError("output.not_ours", path=str(out))
    artefact = model if isinstance(model, Artefact) else load(model)
    if artefact.task.name in APART:
        raise UsageError("predict.task", path=str(artefact.folder.path), task=artefact.task.name)
    threshold = find_threshold(artefact, precision)
    refuse_ours(Path(source), [Path(source)])
    sources = survey(source, encoding=encoding, tell=tell)
    refuse_ours(Path(source), [each.path.parent for each in sources])
    if any(each.path.resolve() == out.resolve() for each in sources):
        raise UsageError("output.is_source", path=str(out))
    given = read_words(columns)
    if text is not None and given.setdefault("text", text) != text:
        raise UsageError("prepare.columns", words=columns)
    with locked(out):
        return _predict(artefact, sources, out, given, precision, threshold, tell, stop)


def refuse_ours(source: Path, folders: list[Path]) -> None:
    """Refuse a folder of rows that is, lies in, or holds a Corpus or Model folder: its files are no rows of the user's."""
    if source.is_dir():
        for place in {above for each in folders for above in (each.absolute(), *each.absolute().parents)}:
            if ours(place):
                raise UsageError("predict.ours", path=str(source), folder=str(place))


def _predict(
    artefact: Artefact,
    sources: list[Source],
    out: Path,
    words: dict[str, str],
    precision: float | None,
    threshold: float | None,
    tell: Tell,
    stop: Stop | None,
) -> dict[str, int]:
    """Answer the rows that the partial output does not hold yet, and give it its name."""
    partial, note = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.partial.json")
    given = [[str(each.path), each.sha256] for each in sources]
    identity = fingerprint([sha256(artefact.folder.path / MANIFEST), given, words, precision])
    columns: Columns | None = None
    counts = {"rows": 0, "answered": 0, "abstained": 0, "problems": 0}
    names: list[str] = []
    size_bytes = 0
    if partial.exists() and note.exists():
        before = read_json(note)
        if before["identity"] == identity and partial.stat().st_size >= before["size_bytes"]:
            counts, size_bytes, names = before["counts"], before["size_bytes"], before["names"]
            columns = Columns(artefact.task.schema.asked, **before["columns"]) if before["columns"] else None
            tell("predict.resumed", rows=counts["rows"])
    beside = free_names((*ADDED, "reasons"), columns_of(sources))
    rows = itertools.islice((record for each in sources for record in records(each, "line")), counts["rows"], None)
    if not size_bytes:
        note.unlink(missing_ok=True)  # of another model or input: it must not outlive the answers that it speaks of
    try:
        with open(partial, "r+b" if size_bytes else "wb") as handle:
            handle.truncate(size_bytes)
            handle.seek(size_bytes)
            for chunk in _chunks(rows):
                if columns is None and (columns := find_columns(artefact, chunk, words)) is not None:
                    tell_lacking(artefact, columns, chunk, tell)
                answered = list(answer(artefact, chunk, columns or Columns(artefact.task.schema.asked), threshold, counts, beside))
                handle.write(render(answered, out, names).encode("utf-8"))
                handle.flush()
                os.fsync(handle.fileno())
                settled = columns and {"names": dict(columns.names), "form": columns.form}
                write_json(note, {"identity": identity, "counts": counts, "size_bytes": handle.tell(), "names": names, "columns": settled})
                tell("predict.progress", rows=counts["rows"])
                if stop is not None:
                    stop.check()
    except BaseException as problem:
        # Run again, the same words would meet the same fault: there is nothing to go on with.
        if isinstance(problem, (UsageError, DataError)) or not note.exists():
            partial.unlink(missing_ok=True)
            note.unlink(missing_ok=True)
        raise
    os.replace(partial, out)
    note.unlink(missing_ok=True)
    sync_folder(out.absolute().parent)
    return counts


def free_names(names: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Name the columns that are put beside a row's own: `zhixing_` stands before a name as often as it takes until no row has it."""
    found = {}
    for name in names:
        free = name
        while free in taken:
            free = f"zhixing_{free}"
        found[name] = free
    return found


def columns_of(sources: Iterable[Source]) -> set[str]:
    """Give the columns that any row has: of tables those of the first row that can be read, of JSON lines those of all."""
    found: set[str] = set()
    for each in sources:
        rows = (record.value for record in records(each, "line") if isinstance(record.value, dict))
        for row in itertools.islice(rows, None if each.format == "jsonl" else 1):
            found.update(row)
    return found


def find_threshold(artefact: Artefact, precision: float | None) -> float | None:
    """Give the confidence below which to abstain; infinity when no confidence reached the precision on validation."""
    if precision is None:
        return None
    known = getattr(artefact.task, "thresholds", {})
    if str(precision) not in known:
        raise UsageError("predict.precision", name=precision, among=sorted(known) or ["-"], path=str(artefact.folder.path))
    value = known[str(precision)]
    return float("inf") if value is None else float(value)


def find_columns(artefact: Artefact, chunk: list[Record], words: dict[str, str]) -> Columns | None:
    """Settle where the rows' fields stand: the columns asked for, else as in the training corpus, else found by their names.

    The columns are those of all the rows together, for one row may lack what the others have; None: no row can be read.
    """
    values = [record.value for record in chunk if record.reason is None]
    senses = getattr(artefact.task, "senses", None)  # a column of what the model does not read is one more column of the row
    schema = artefact.task.schema.asked
    if senses is not None:
        schema = Schema({name: kind for name, kind in schema.fields.items() if name in senses})
    if not values:
        return None
    if isinstance(values[0], str):
        return Columns(schema)
    found = list(dict.fromkeys(name for value in values for name in value))
    learned = artefact.folder.card.get("corpus", {}).get("columns", {})
    if "text" not in words and learned.get("form"):
        return choose(found, schema, words, learned["form"])
    return choose(found, schema, {n: learned[n] for n in schema.fields if learned.get(n) in found} | words)


def tell_lacking(artefact: Artefact, columns: Columns, chunk: list[Record], tell: Tell) -> None:
    """Tell of each field that rows may lack, that the model reads, and that the first rows have no column for: it may be misspelt."""
    found = list(dict.fromkeys(name for record in chunk if isinstance(record.value, dict) for name in record.value))
    senses = getattr(artefact.task, "senses", ())
    if hasattr(artefact.model, "probabilities"):  # of counted rivals each reads one
        senses = [name for name in senses if name == getattr(artefact.model, "sense", "text")]
    for name in senses if found else ():
        if columns.column(name) not in found and not (name == "text" and columns.form is not None):
            tell("predict.lacking", name=name, columns=", ".join(found))
    known = getattr(artefact.task, "columns", ())
    cells = [name for name in known if name not in found]
    if found and 0 < len(cells) < len(known):  # where all lack, each row is a problem
        tell("predict.lacking_cells", names=", ".join(cells[:8]), columns=", ".join(found))


def answer(
    artefact: Artefact, chunk: list[Record], columns: Columns, threshold: float | None, counts: dict[str, int], beside: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """Give each record's row with the answer beside it, in columns by the names of `beside`; counts is updated."""
    explains = hasattr(artefact.model, "contributions")
    read_out = [encoded(artefact, record, columns) for record in chunk]
    answers = iter(artefact.task.answers(artefact.model, [item for item, _ in read_out if item is not None], artefact.tokenizer))
    for record, (item, reason) in zip(chunk, read_out, strict=True):
        counts["rows"] += 1
        row = (
            {"text": record.value}
            if isinstance(record.value, str)
            else dict(record.value or {columns.names.get("text", "text"): record.excerpt})
        )
        added: dict[str, Any] = dict.fromkeys((*ADDED, "reasons") if explains else ADDED, "")
        if item is None:
            added["problem"] = f"{record.path}:{record.line}: {reason}"
            counts["problems"] += 1
        else:
            found = next(answers)
            abstained = threshold is not None and found.confidence is not None and found.confidence < threshold
            sure = "" if found.confidence is None else round(found.confidence, 6)
            added |= {"answer": found.value, "confidence": sure, "abstained": abstained}
            if explains:
                added["reasons"] = found.reasons or {}
            counts["abstained" if abstained else "answered"] += 1
        yield row | {beside[name]: value for name, value in added.items()}


def encoded(artefact: Artefact, record: Record, columns: Columns) -> tuple[Any, str | None]:
    """Give a record as the task encodes it, or None with the reason why it cannot be: that row alone is then a problem."""
    example, reason = columns.example(record.value, record.path) if record.reason is None else (None, record.reason)
    if example is None:
        files = columns.files(record.value, record.path, reason)
        return None, f"{reason} ({', '.join(files)})" if files else reason
    try:
        return artefact.encode(example), None
    except DataError as error:
        return None, f"{error.code}: {error.parts()['what']}"


def _chunks(rows: Iterator[Record]) -> Iterator[list[Record]]:
    while chunk := list(itertools.islice(rows, PIECE)):
        yield chunk


def flat(value: Any) -> Any:
    """Write a list in one cell of a table: its parts with spaces between, where none holds one, else as JSON."""
    if not isinstance(value, (list, tuple, dict)):
        return value
    plain = not isinstance(value, dict) and all(isinstance(each, str) and each and not set(each) & set(" \t\n") for each in value)
    return " ".join(value) if plain else json.dumps(value, ensure_ascii=False)


def render(rows: list[dict[str, Any]], out: Path, names: list[str]) -> str:
    """Write rows in the form that the output's name asks for; names, the columns, are settled by the first piece and kept.

    Raises DataError when a later row of a table has a column that the first piece did not have.
    """
    text = io.StringIO()
    if out.suffix == ".jsonl":
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return text.getvalue()
    found = list(dict.fromkeys(name for row in rows for name in row))
    fresh = not names
    if fresh:
        names.extend(found)
    if extra := set(found) - set(names):
        raise DataError("predict.columns", column=sorted(extra)[0], path=str(out))
    writer = csv.DictWriter(text, names, delimiter="\t" if out.suffix == ".tsv" else ",", lineterminator="\n", restval="")
    if fresh:
        writer.writeheader()
    writer.writerows({name: flat(value) for name, value in row.items()} for row in rows)
    return text.getvalue()
