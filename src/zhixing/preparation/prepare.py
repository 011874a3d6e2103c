"""From a person's files to a Corpus folder: every row is kept, or rejected with file, line and reason, and the sum is proved.

Two passes over the input. The first reads every row, finds the bad ones, the repeats and the texts with two labels, and writes nothing;
the second writes the splits. Memory holds a short hash of each distinct text. Equal input and settings give equal bytes.
Leaves out: cleaning, near-repeats, personal data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.config import resolve
from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.files import atomic, write_json
from zhixing.core.folder import Folder, check_new, create, locked, open_folder, ours
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.data.columns import PLAIN, Columns, choose, labelled, read_words
from zhixing.data.histories import HISTORIES, Gathered, reading
from zhixing.data.histories import cut as leave_out
from zhixing.data.media import REASONS, bounds
from zhixing.data.readers import UNITS, Record, Source, excerpt, records, survey
from zhixing.data.schema import Schema
from zhixing.data.splits import SPLITS, cut, digest, split_of
from zhixing.preparation.mix import mix
from zhixing.preparation.settings import CHOICES, Prepare
from zhixing.preparation.written import Written, open_split
from zhixing.tasks.task import task_class

TAIL_BELOW = 100  # documents: fewer are too few to be split whole, so each is cut
LEAST_CHARACTERS = 200  # of a language corpus's training split; less is a mistake, not a corpus
PEEK_ROWS = 100  # rows whose columns say what a table holds
TELL_ROWS = 10_000


@dataclass
class Input:
    """One of up to three sources and the split that its rows go to; None: they are split here."""

    role: str
    given: str
    split: str | None
    sources: list[Source]
    rows: Counter[str] = field(default_factory=Counter)  # by file


@dataclass
class Plan:
    """What the first pass found: which inputs conflict, which are in the official splits, how many rows and documents there are."""

    seen: dict[bytes, int] = field(default_factory=dict)  # input -> label number, or CONFLICT
    official: dict[bytes, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    bad: Counter[str] = field(default_factory=Counter)
    first_bad: Record | None = None
    rows: int = 0
    documents: int = 0


CONFLICT, UNLABELLED = -1, -2


def prepare(
    source: str | Path,
    out: str | Path,
    settings: Prepare | dict[str, Any] | None = None,
    tell: Callable[..., None] = quiet,
    force: bool = False,
    stop: Stop | None = None,
) -> Folder:
    """Make a Corpus folder from files.

    settings  a Prepare, or {name: value} of its fields

    Raises UsageError for settings and columns that do not fit, DataError for input that cannot be used; then nothing is written.
    """
    if not isinstance(settings, Prepare):
        settings = resolve(Prepare, ("prepare", settings or {})).value
    _validate(settings)
    out = check_new(out, force)
    with locked(out):
        return (_prepare if settings.also is None else mix)(source, out, settings, tell, force, stop)


def _prepare(source: str | Path, out: Path, settings: Prepare, tell: Callable[..., None], force: bool, stop: Stop | None) -> Folder:
    inputs = _inputs(source, out, settings, tell)
    task, columns = _columns(inputs, settings, tell)
    split = settings.split
    stored = task_class(task).schema
    histories = stored.answer is not None and stored.answer not in columns.schema.fields
    if task != "language" and split == "tail" and not histories:
        raise UsageError("prepare.tail_rows", task=task)
    if settings.repeats == "auto":
        settings = dataclasses.replace(settings, repeats="keep" if stored.cases else "drop")
    plan = _first_pass(inputs, columns, settings, tell, stop)
    if plan.bad and not settings.drop_bad:
        first = plan.first_bad
        reasons = _counted(plan.bad)
        place, count = f"{first.path}:{first.line}", plan.bad.total()
        if first.reason in REASONS:
            place = ", ".join([place, *columns.files(first.value, first.path, first.reason)])
            raise DataError("prepare.bad_media", place=place, reason=first.reason, count=count, reasons=reasons, **bounds())
        raise DataError("prepare.bad_rows", place=place, reason=first.reason, count=count, reasons=reasons)
    if split == "auto":
        split = "tail" if histories or (task == "language" and plan.documents < TAIL_BELOW) else "hash"
    card: dict[str, Any] = {}
    with create(out, "corpus", card, force) as folder:
        card |= _second_pass(folder, inputs, columns, plan, settings, task, split, tell, stop)
    tell("prepare.done", path=str(out), rows=card["rows_in"], rejected=sum(card["rejected"].values()), task=task, split=split,
         **{name: card["splits"][name]["examples"] for name in SPLITS})  # fmt: skip
    return open_folder(out, "corpus")


def _validate(settings: Prepare) -> None:
    for name, among in {**CHOICES, "unit": ("auto", *UNITS)}.items():
        if getattr(settings, name) not in among:
            raise UsageError("prepare.choice", setting=name, name=getattr(settings, name), among=list(among))
    if not (0 <= settings.validation < 1 and 0 <= settings.test < 1 and settings.validation + settings.test < 1):
        raise UsageError("prepare.shares", validation=settings.validation, test=settings.test)


def _inputs(source: str | Path, out: Path, settings: Prepare, tell: Callable[..., None]) -> list[Input]:
    """Survey the sources; official splits come first, so that the rows to be split can be compared with them."""
    given = [("test_source", settings.test_source, "test"), ("validation_source", settings.validation_source, "validation")]
    inputs = []
    for role, place, split in [*given, ("source", source, None)]:
        if place is None:
            continue
        if ours(place):
            raise UsageError("prepare.ours", path=str(place))
        if Path(place).is_dir() and out.resolve().is_relative_to(Path(place).resolve()):
            raise UsageError("prepare.inside", out=str(out), source=str(place))
        sources = survey(place, encoding=settings.encoding, tell=tell)
        for each in sources:
            if each.path.resolve().is_relative_to(out.resolve()) or each.path.absolute().is_relative_to(out.absolute()):
                raise UsageError("prepare.swallowed", file=str(each.path), out=str(out))
        inputs.append(Input(role, str(place), split, sources))
    kinds = {each.sources[0].format == "txt": each.given for each in inputs}
    if len(kinds) > 1:
        raise UsageError("data.mixed", path=str(source), text=kinds[True], table=kinds[False])
    return inputs


def _columns(inputs: list[Input], settings: Prepare, tell: Callable[..., None]) -> tuple[str, Columns]:
    """Settle the task and the columns by the first rows of every file."""
    given = read_words(settings.columns)
    for name in ("text", "label"):
        value = getattr(settings, name)
        if value is not None and given.setdefault(name, value) != value:
            raise UsageError("prepare.columns", words=settings.columns)
    if inputs[-1].sources[0].format == "txt":
        if settings.task not in ("auto", "language") or "label" in given:
            raise UsageError("prepare.text_has_no_label", path=inputs[-1].given)
        if given or settings.form is not None:
            raise UsageError("prepare.text_has_no_columns", path=inputs[-1].given)
        return "language", Columns(PLAIN)
    task, chosen = settings.task, None
    for each in reversed(inputs):
        names: dict[str, None] = {}
        for record in _peek(each):
            names |= dict.fromkeys(record.value)
        if not names:
            continue
        if task == "auto":
            task = "classify" if labelled(list(names), given, settings.form) else "language"
        if task == "language" and "label" in given:
            raise UsageError("prepare.label_unused", label=given["label"])
        without = [each.strip() for each in (settings.without or "").split(",") if each.strip()]
        found = choose(list(names), reading(task_class(task).schema, names, given), given, settings.form, without)
        if chosen is None:
            others = [name for name in names if name != found.column("text")]
            if settings.task == "auto" and task == "language" and others and settings.form is None and not without:
                tell("prepare.no_label", columns=", ".join(others))
            chosen, given = found, dict(found.names)
    if task == "auto":
        task = "language"
    return task, chosen or Columns(task_class(task).schema)  # no readable row at all: the first pass says which


def _peek(given: Input) -> Iterator[Record]:
    for source in given.sources:
        yield from itertools.islice((record for record in records(source) if record.reason is None), PEEK_ROWS)


def _examples(
    inputs: list[Input], columns: Columns, unit: str, stop: Stop | None
) -> Iterator[tuple[Input, Source, Record, dict[str, str] | None]]:
    """Yield every row with its example, or with a record that carries the reason."""
    for given in inputs:
        for source in given.sources:
            for record in records(source, unit):
                if stop is not None:
                    stop.check()
                example = None
                if record.reason is None:
                    example, reason = columns.example(record.value, record.path)
                    if reason:
                        shown = record.value if isinstance(record.value, str) else json.dumps(record.value, ensure_ascii=False)
                        record = dataclasses.replace(record, reason=reason, excerpt=excerpt(shown))
                yield given, source, record, example


def _unit(settings: Prepare) -> str:
    return "file" if settings.unit == "auto" else settings.unit


def _first_pass(inputs: list[Input], columns: Columns, settings: Prepare, tell: Callable[..., None], stop: Stop | None) -> Plan:
    plan = Plan()
    for given, _, record, example in _examples(inputs, columns, _unit(settings), stop):
        plan.rows += 1
        if plan.rows % TELL_ROWS == 0:
            tell("prepare.reading", rows=plan.rows)
        if example is None:
            plan.bad[str(record.reason)] += 1
            plan.first_bad = plan.first_bad or record
            continue
        name = digest(columns.schema.key(example))
        if given.split is not None:
            plan.official[name] = given.split
            continue
        said = label_of(example, columns.schema)
        label = UNLABELLED if said is None else plan.labels.setdefault(said, len(plan.labels))
        known = plan.seen.setdefault(name, label)
        if known == UNLABELLED:
            plan.seen[name] = label
        elif label not in (known, UNLABELLED):
            plan.seen[name] = CONFLICT
    plan.documents = len(plan.seen)
    return plan


def label_of(example: dict[str, Any], schema: Schema) -> str | None:
    """Give the label of a text that has one; other answers may differ for one question, as translations do and cases of a table."""
    return example.get("label") if schema.answer == "label" and not schema.cases else None


def _second_pass(
    folder: Path,
    inputs: list[Input],
    columns: Columns,
    plan: Plan,
    settings: Prepare,
    task: str,
    split: str,
    tell: Callable[..., None],
    stop: Stop | None,
) -> dict[str, Any]:
    """Write the splits and the rejects; give the card."""
    given_splits = {each.split for each in inputs}
    validation = 0.0 if "validation" in given_splits else settings.validation
    test = 0.0 if "test" in given_splits else settings.test
    taken: set[bytes] = set()
    rejected: Counter[str] = Counter()
    found: Counter[str] = Counter({"repeat": 0, "leak": 0, "conflict": 0})
    rows_in = characters = 0
    rows_out = Counter({"cut": 0} if split == "tail" else dict.fromkeys(SPLITS, 0))
    with contextlib.ExitStack() as open_files:
        schema, stored = columns.schema, task_class(task).schema
        written = {name: Written(open_split(open_files, folder / f"{name}.jsonl.zst"), stored) for name in SPLITS}
        rejects = open_files.enter_context(atomic(folder / "rejected.jsonl"))
        shares = {"train": 1.0, "validation": validation, "test": test}
        gathered = Gathered()

        def reject(role: str, name: str, line: int, reason: str, shown: str) -> None:
            rejected[reason] += 1
            entry = {"source": role, "path": name, "line": line, "reason": reason, "excerpt": shown}
            rejects.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")

        def keep_history(given: Input, items: list[str], places: list[tuple[str, int]]) -> None:
            """Write a history into its splits, or reject its rows when it is too short for them."""
            where = given.split or ("cut" if split == "tail" else split_of(json.dumps(items), settings.seed, validation, test))
            examples = leave_out(items, [name for name in SPLITS if shares[name]] if where == "cut" else [where])
            for part, example in examples.items():
                written[part].write(example)
            rows_out[where] += len(places) if examples else 0
            for name, line in places if not examples else ():
                reject(given.role, name, line, "short_history", excerpt(" ".join(items)))

        for given, source, record, example in _examples(inputs, columns, _unit(settings), stop):
            rows_in += 1
            given.rows[source.name] += 1
            if rows_in % TELL_ROWS == 0:
                tell("prepare.writing", rows=rows_in, total=plan.rows)
            reason = record.reason
            if example is not None:
                whole = digest(json.dumps(example, ensure_ascii=False))
                fault = _fault(digest(schema.key(example)), whole, given, plan, taken)
                taken.add(whole)
                if fault:
                    found[fault] += 1
                reason = fault if settings.repeats == "drop" and given.split is None else None
            if reason or example is None:
                shown = record.excerpt or excerpt("" if example is None else schema.key(example))
                reject(given.role, source.name, record.line, str(reason), shown)
            elif "user" in schema.fields:
                gathered.add((given.role, example["user"]), example, (given, (source.name, record.line)))
            elif schema is HISTORIES:
                keep_history(given, example["items"], [(source.name, record.line)])
            elif split == "tail" and given.split is None:
                rows_out["cut"] += 1
                characters += sum(map(len, schema.texts(example)))
                for part, text in cut(example["text"], validation, test).items():
                    if text:
                        written[part].write({"text": text})
            else:
                whole_split = "test" if only_judged(task) else split_of(schema.key(example), settings.seed, validation, test)
                part = given.split or whole_split
                rows_out[part] += 1
                characters += sum(map(len, schema.texts(example)))
                written[part].write(example)
        for _, items, places in gathered:
            keep_history(places[0][0], items, [place for _, place in places])
    if rejected["short_history"] and not any(each.examples for each in written.values()):
        least = 1 + (sum(map(bool, shares.values())) if split == "tail" else 1)
        raise DataError("prepare.short_histories", count=rejected["short_history"], least=least)
    _prove(rows_in, plan.rows, rows_out, rejected, characters, written)
    write_json(folder / "schema.json", stored.as_dict())
    _judge(written, task, {"validation": validation, "test": test}, tell, rows_in, rejected)
    for code in ("conflict", "leak", "repeat"):
        if found[code]:
            tell(f"prepare.{code}", count=found[code], dropped=rejected[code])
    labels = written["train"].labels
    splits = {name: {"examples": each.examples, "bytes": each.bytes, "characters": each.characters} for name, each in written.items()}
    files = [
        {"role": given.role, "path": each.name, "format": each.format, "encoding": each.encoding, "bytes": each.size_bytes,
         "sha256": each.sha256, "rows": given.rows[each.name]}
        for given in reversed(inputs) for each in given.sources
    ]  # fmt: skip
    chosen = dataclasses.asdict(settings) | {"task": task, "split": split, "unit": _unit(settings)}
    chosen |= dict.fromkeys(("text", "label")) | {"form": columns.form, **columns.names}
    for name in ("test_source", "validation_source"):  # where a file lay is no property of the corpus; its hash is
        chosen[name] = Path(chosen[name]).name if chosen[name] else None
    return {
        "task": task,
        "rows_in": rows_in,
        "rows_out": dict(rows_out),
        "rejected": dict(sorted(rejected.items())),
        "found": dict(found),
        "splits": splits,
        "labels": dict(sorted(labels.items())),
        "inputs": files,
        "settings": chosen,
        "seed": settings.seed,
    }


def only_judged(task: str) -> bool:
    """Say whether nothing is trained on a task's rows: then all of them are for testing."""
    return not task_class(task).default


def _fault(name: bytes, whole: bytes, given: Input, plan: Plan, taken: set[bytes]) -> str | None:
    """Name why a good row may not be wanted: its text has two labels, what it asks is in an official split, or all of it came before."""
    if given.split is None:
        if plan.seen.get(name) == CONFLICT:
            return "conflict"
        if name in plan.official:
            return "leak"
    return "repeat" if whole in taken else None


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))


def _prove(
    rows_in: int, rows_first: int, rows_out: Counter[str], rejected: Counter[str], characters: int, written: dict[str, Written]
) -> None:
    """Prove the account before anything is sealed: rows in = rows out + rejected, and no character was lost between the splits."""
    same = rows_in == rows_first and rows_in == rows_out.total() + rejected.total()
    if not same or characters != sum(each.characters for each in written.values()):
        raise RunError("prepare.account", rows_in=rows_in, rows_first=rows_first, rows_out=rows_out.total(), rejected=rejected.total())


def _judge(
    written: dict[str, Written], task: str, shares: dict[str, float], tell: Callable[..., None], rows: int, rejected: Counter[str]
) -> None:
    """Refuse a corpus that nothing can be learnt from, and say what is thin."""
    train = written["train"]
    if only_judged(task):
        return
    if not rows:
        raise DataError("prepare.no_rows")
    if not train.examples or (task == "language" and train.characters < LEAST_CHARACTERS):
        left = {"examples": train.examples, "characters": train.characters}
        reasons = f" ({_counted(rejected)})" if rejected else ""
        raise DataError("prepare.too_small", **left, rows=rows, rejected=rejected.total(), reasons=reasons, least=LEAST_CHARACTERS)
    if train.labels:
        if len(train.labels) < 2:
            raise DataError("prepare.one_label", label=next(iter(train.labels)), examples=train.examples)
        unseen = sorted((set(written["validation"].labels) | set(written["test"].labels)) - set(train.labels))
        if unseen:
            tell("prepare.unseen", count=len(unseen), first=unseen[0])
    for name, share in shares.items():
        if share and not written[name].examples:
            tell("prepare.empty_split", split=name)
