"""From files to records, streaming: txt, jsonl, csv and tsv, each plain, gz or zst; one file, a folder or a glob.

`survey` looks at every byte of every file once: encoding, hash, damage. `records` then yields what is in a file, one record a row, each
with file and line; a row that cannot be read is a record with a reason instead of a value, so that nothing disappears uncounted.
Blank lines between rows are not rows. Leaves out: what the columns mean (`preparation`), archives, office formats.
"""

from __future__ import annotations

import codecs
import csv
import glob
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError, UsageError
from zhixing.core.log import quiet
from zhixing.data.encoding import Evidence, settle

FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
COMPRESSIONS = (".gz", ".zst")
UNITS = ("file", "paragraph", "line")
EXCERPT = 200
CHUNK_BYTES = 1 << 16  # of compressed input: a bomb unfolds at most so much at a time
MAX_ROW = 10_000_000  # characters of one row; a longer one is a file without line ends, not a row
DELIMITERS = {";": ";", "\t": "\\t", "|": "|"}  # of tables that are called .csv all the same, and how each is shown
MARK = "\udfff"  # a lone surrogate, which no valid text holds


class Damage(Exception):
    """A compressed file that ends too early or is corrupt from here on."""


@dataclass(frozen=True)
class Source:
    """One surveyed file. name is how cards and rejects call it: relative to what the user gave."""

    path: Path
    name: str
    format: str
    compression: str
    encoding: str  # "": the file is empty
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """One row: its value, a dict of columns or a str; or a reason why it could not be read. line counts from 1."""

    path: str
    line: int
    value: Any
    reason: str | None = None
    excerpt: str = ""


def read(source: str | Path, *, encoding: str | None = None, unit: str = "file", tell: Callable[..., None] = quiet) -> Iterator[Record]:
    """Yield the records of a file, a folder (sorted, all levels, hidden files skipped) or a glob.

    encoding  None: found out and told
    unit      what one record of a txt file is: "file", "paragraph" (blank lines between) or "line"
    Raises, before the first record, UsageError or DataError for what cannot be read at all.
    """
    sources = survey(source, encoding=encoding, tell=tell)
    return (record for each in sources for record in records(each, unit))


def survey(source: str | Path, *, encoding: str | None = None, tell: Callable[..., None] = quiet) -> list[Source]:
    """Look at every byte of every file: what it is, how it is written, its hash."""
    if encoding is not None:
        try:
            if not codecs.lookup(encoding)._is_text_encoding:
                raise LookupError
        except LookupError:
            known = ["utf-8", "gb18030", "gbk", "utf-16", "big5", "shift_jis", "euc-kr", "latin-1", "cp1252"]
            raise UsageError("data.encoding_name", name=encoding, among=known) from None
    found = _find(source, tell)
    surveyed = [_look(path, name, encoding, tell, alone=len(found) == 1) for path, name in found]
    kinds = {each.format == "txt": each.name for each in surveyed}
    if len(kinds) > 1:
        raise UsageError("data.mixed", path=str(source), text=kinds[True], table=kinds[False])
    return surveyed


def kind(path: str | Path) -> tuple[str, str] | None:
    """Give (format, compression) by a file's name, or None when the name says neither."""
    suffixes = [each.lower() for each in Path(path).suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    form = FORMATS.get(suffixes[-1]) if suffixes else None
    return (form, compression.lstrip(".")) if form else None


def _find(source: str | Path, tell: Callable[..., None]) -> list[tuple[Path, str]]:
    """List the files of a source with the names that cards use."""
    path = Path(source)
    known = ", ".join(FORMATS)
    if path.is_file():
        if kind(path) is None:
            raise UsageError("data.format", path=str(source), known=known)
        return [(path, path.name)]
    if path.is_dir():
        inside = []
        for root, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            inside += [Path(root) / name for name in names if not name.startswith(".")]
        found = sorted((each, each.relative_to(path).as_posix()) for each in inside if each.is_file())
    elif glob.has_magic(str(source)):
        matches = [Path(each) for each in glob.glob(str(source), recursive=True) if Path(each).is_file()]
        if not matches:
            raise UsageError("data.glob", path=str(source))
        above = Path(os.path.commonpath([each.parent for each in matches]))
        found = sorted((each, each.relative_to(above).as_posix()) for each in matches)
    else:
        raise UsageError("data.not_found", path=str(source))
    chosen = [(each, name) for each, name in found if kind(each)]
    if not chosen:
        raise UsageError("data.no_files", path=str(source), known=known)
    if len(chosen) < len(found):
        other = next(name for each, name in found if not kind(each))
        tell("data.skipped", count=len(found) - len(chosen), first=other)
    return chosen


def _look(path: Path, name: str, encoding: str | None, tell: Callable[..., None], alone: bool) -> Source:
    form, compression = kind(path) or ("", "")
    digest = hashlib.sha256()
    evidence = Evidence()
    crlf, last, whole = 0, b"", True
    try:
        for chunk in _chunks(path, compression, digest):
            evidence.add(chunk)
            crlf += chunk.count(b"\r\n") + (last == b"\r" and chunk[:1] == b"\n")
            last = chunk[-1:]
    except Damage:
        whole = False
        if not evidence.size:
            raise DataError("data.damaged", path=str(path)) from None
        tell("data.damaged", file=name)
    except OSError as problem:
        raise DataError("data.unreadable", path=str(path), problem=problem.strerror or str(problem)) from None
    evidence.finish(whole)
    if not whole:  # the pass ended early, but the hash is of the whole file
        digest = hashlib.sha256(path.read_bytes())
    if evidence.size == 0 or (evidence.size <= 3 and evidence.mark):
        if alone:
            raise DataError("data.empty", path=str(path))
        return Source(path, name, form, compression, "", path.stat().st_size, digest.hexdigest())
    if encoding is None:
        if evidence.binary:
            raise DataError("data.binary", path=str(path))
        settled = evidence.mark or ("utf-8" if evidence.valid else settle(_raw_lines(path, compression)))
        if settled is None:
            raise DataError("data.binary" if evidence.nul else "data.encoding", path=str(path))
        if settled != "utf-8":
            tell("data.encoding", file=name, encoding=settled)
        encoding = settled
    if crlf and form == "txt":
        tell("data.crlf", file=name, count=crlf)
    return Source(path, name, form, compression, encoding, path.stat().st_size, digest.hexdigest())


def unpacker(compression: str) -> tuple[Any, tuple[type[Exception], ...]]:
    """Give what unpacks a stream of "gz" or "zst", and what it raises of a damaged one."""
    if compression == "gz":
        return zlib.decompressobj(31), (zlib.error,)
    import zstandard

    return zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)


def _chunks(path: Path, compression: str, digest: Any = None) -> Iterator[bytes]:
    """Yield a file's decompressed bytes, member after member; everything before a damage comes first, then Damage is raised."""
    with open(path, "rb") as handle:
        machine = None
        while raw := handle.read(CHUNK_BYTES):
            if digest is not None:
                digest.update(raw)
            if not compression:
                yield raw
                continue
            while raw:
                if machine is None:
                    raw = raw.lstrip(b"\0")  # padding between members
                    if not raw:
                        break
                    machine, faults = unpacker(compression)
                try:
                    plain = machine.decompress(raw)
                except faults as problem:
                    raise Damage from problem
                if plain:
                    yield plain
                raw = machine.unused_data if machine.eof else b""
                if machine.eof:
                    machine = None
        if machine is not None:
            raise Damage


def _raw_lines(path: Path, compression: str) -> Iterator[bytes]:
    rest = b""
    try:
        for chunk in _chunks(path, compression):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    except Damage:
        return
    yield rest


def _texts(source: Source) -> Iterator[str]:
    """Yield a file's characters; bytes that are no character become lone surrogates, which no valid text holds."""
    wide = source.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32"))
    decoder = codecs.getincrementaldecoder(source.encoding)("surrogatepass" if wide else "surrogateescape")
    first = True
    for chunk in _chunks(source.path, source.compression):
        try:
            text = decoder.decode(chunk)
        except UnicodeDecodeError:
            raise Damage from None
        if first and text:
            text, first = text.removeprefix("\ufeff"), False
        yield text
    try:
        yield decoder.decode(b"", True)
    except UnicodeDecodeError:
        yield MARK


def _lines(source: Source) -> Iterator[tuple[int, str, str | None]]:
    """Yield (number, line with its end, reason); \\r\\n ends become \\n; a line longer than a row may be is given only by its start."""
    parts: list[str] = []
    held = number = 0
    try:
        for text in _texts(source):
            *whole, rest = text.split("\n")
            for line in whole:
                number += 1
                size = held + len(line)
                if parts:
                    line = "".join(parts) + line
                    parts = []
                if size > MAX_ROW:
                    yield number, line[:EXCERPT], "over_long"
                else:
                    yield number, (line[:-1] if line.endswith("\r") else line) + "\n", None
                held = 0
            if rest:
                held += len(rest)
                parts = [*parts, rest] if held <= MAX_ROW else ["".join([*parts, rest])[:EXCERPT]]
    except Damage:
        yield number + 1, "".join(parts)[:EXCERPT], "damaged"
        return
    if parts:
        line = "".join(parts)
        yield number + 1, line if held <= MAX_ROW else line[:EXCERPT], None if held <= MAX_ROW else "over_long"


def flaw(text: str, broken: str = "surrogate") -> str | None:
    """Name what is wrong with a text's characters: "nul", or `broken` for lone surrogates; None: nothing."""
    if "\0" in text:
        return "nul"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return broken
    return None


def excerpt(text: str) -> str:
    """Give the start of a text in a form that can always be written."""
    return text[:EXCERPT].encode("utf-8", "replace").decode("utf-8")


def records(source: Source, unit: str = "file") -> Iterator[Record]:
    """Yield the records of one surveyed file."""
    if not source.encoding:
        return iter([Record(str(source.path), 1, None, "empty")])
    if source.format == "jsonl":
        return _jsonl(source)
    if source.format in ("csv", "tsv"):
        return _table(source)
    if unit not in UNITS:
        raise UsageError("data.unit", name=unit, among=list(UNITS))
    return _whole(source) if unit == "file" else _pieces(source, unit)


def _whole(source: Source) -> Iterator[Record]:
    path, text, reason = str(source.path), [], None
    try:
        for each in _texts(source):
            text.append(each)
    except Damage:
        reason = "damaged"
    whole = "".join(text).replace("\r\n", "\n")
    reason = reason or flaw(whole, "undecodable")
    line = 1
    if reason == "damaged":
        line += whole.count("\n")
    elif reason:
        line = next(number for number, each in enumerate(whole.split("\n"), 1) if flaw(each))
    yield Record(path, line, None if reason else whole, reason, excerpt(whole.split("\n")[line - 1]) if reason else "")


def _pieces(source: Source, unit: str) -> Iterator[Record]:
    """Yield lines or paragraphs."""
    path = str(source.path)
    start, held = 0, []
    wrong: str | None = None

    def close() -> Record:
        text = "".join(held).rstrip("\n")
        reason = wrong or flaw(text, "undecodable") or ("over_long" if len(text) > MAX_ROW else None)
        return Record(path, start, None if reason else text, reason, excerpt(text) if reason else "")

    for number, line, reason in _lines(source):
        blank = reason is None and not line.strip()
        if held and (blank or unit == "line" or reason == "damaged"):
            yield close()
            held, wrong = [], None
        if not blank:
            start = start if held else number
            held.append(line)
            wrong = wrong or reason
    if held:
        yield close()


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            waiting += each


def refuse(name: str) -> None:
    """Take NaN and Infinity for what they are in JSON: nothing."""
    raise ValueError(name)


def _jsonl(source: Source) -> Iterator[Record]:
    path = str(source.path)
    for number, line, reason in _lines(source):
        if reason is None and not line.strip():
            continue
        value = None
        reason = reason or flaw(line, "undecodable")
        if reason is None:
            try:
                value = json.loads(line, parse_constant=refuse)
            except (ValueError, RecursionError):
                reason = "bad_json"
            else:
                if not isinstance(value, dict):
                    reason = "not_object"
                elif "\\u" in line:
                    reason = next((found for each in _strings(value) if (found := flaw(each))), None)
        yield Record(path, number, None if reason else value, reason, excerpt(line.rstrip("\n")) if reason else "")


def _delimiter(text: str, row: list[str], reason: str | None) -> str | None:
    """Give what seems to divide a header that commas do not divide; None: nothing does."""
    one = reason is None and len(row) == 1 and not text.lstrip().startswith('"')  # quoted, a mark is part of the name
    many = reason == "bad_csv" and "," not in text  # "a";"b" is no row at all where commas are expected
    mark = max(DELIMITERS, key=text.count)
    return mark if (one or many) and mark in text.strip() else None


def _table(source: Source) -> Iterator[Record]:
    """Yield the rows of a table whose first row names the columns; a quoted field may hold line ends."""
    path = str(source.path)
    csv.field_size_limit(MAX_ROW)  # the library's own limit would refuse documents of 128 KiB
    raw: list[str] = []
    marks: dict[int, str] = {}
    tail: list[tuple[int, str]] = []

    def feed() -> Iterator[str]:
        for number, line, reason in _lines(source):
            if reason == "damaged":
                tail.append((number, line))
                return
            if reason:
                marks[number] = reason
                line = line.replace('"', " ") + "\n"
            raw.append(line)
            yield line

    reader = csv.reader(feed(), delimiter="\t" if source.format == "tsv" else ",", strict=True)
    header: list[str] | None = None
    while True:
        first = reader.line_num + 1
        raw.clear()
        row: list[str] = []
        reason = None
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as problem:
            if tail:
                break  # the row was cut by the damage, which is told below
            reason = "over_long" if "field larger" in str(problem) else "bad_csv"
        text = "".join(raw)
        reason = next((marks[each] for each in range(first, reader.line_num + 1) if each in marks), reason)
        reason = flaw(text, "undecodable") or reason
        if not row and reason is None:
            continue
        if header is None:
            header = row
            if source.format == "csv" and (mark := _delimiter(text, row, reason)):
                raise DataError("data.delimiter", path=path, header=excerpt(text.strip()), delimiter=DELIMITERS[mark])
            if reason or len(set(header)) < len(header) or not all(each.strip() for each in header):
                raise DataError("data.header", path=path, line=first, header=excerpt(text.strip()))
            continue
        if reason is None and len(row) != len(header):
            reason = "columns"
        value = None if reason else dict(zip(header, row, strict=True))
        yield Record(path, first, value, reason, excerpt(text.rstrip("\n")) if reason else "")
    for number, line in tail:
        start = min(number, first) if raw else number
        yield Record(path, start, None, "damaged", excerpt("".join(raw) + line))
