"""Several Corpus folders become one of many tasks: each row as it was, with the name of its task beside it, in the split that it was in.

A task is named after the folder that it comes from: the corpus `reviews` of the task classify is "classify/reviews". A row whose texts
stand in a split of another corpus that is judged later (test, or validation for a training row) is rejected as a leak: one body reads all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zhixing.core.errors import UsageError
from zhixing.core.files import atomic, sha256, write_json
from zhixing.core.folder import MANIFEST, Folder, check_new, create, open_folder
from zhixing.core.stop import Stop
from zhixing.data.corpus import Corpus, open_corpus
from zhixing.data.readers import excerpt
from zhixing.data.schema import Schema
from zhixing.data.splits import SPLITS, digest
from zhixing.preparation.settings import Prepare
from zhixing.preparation.written import Written, open_split
from zhixing.tasks.many import SORTS
from zhixing.tasks.task import task_class

MANY = "many"
ALLOWED = ("also", "task")  # what a mixture may be told


def mix(source: str | Path, out: Path, settings: Prepare, tell: Callable[..., None], force: bool, stop: Stop | None) -> Folder:
    """Make the corpus of many tasks from the corpora that `source` and `settings.also` name.

    Raises UsageError for a corpus that cannot be one of many, for two of one name, and for a setting that would change nothing.
    """
    for each in dataclasses.fields(settings):
        given = getattr(settings, each.name)
        if each.name not in ALLOWED and given != each.default:
            raise UsageError("prepare.also_setting", setting=each.name.replace("_", "-"))
    if settings.task not in ("auto", MANY):
        raise UsageError("prepare.also_setting", setting="task")
    corpora: dict[str, Corpus] = {}
    for place in (str(source), *(each.strip() for each in str(settings.also).split(",") if each.strip())):
        corpus = open_corpus(place)
        if corpus.task not in SORTS:
            raise UsageError("prepare.also", path=place, task=corpus.task, among=SORTS)
        name = f"{corpus.task}/{corpus.path.resolve().name}"
        if name in corpora:
            raise UsageError("prepare.also_name", name=name)
        corpora[name] = corpus
        check_new(out, force, corpus.path)
    card: dict[str, Any] = {}
    with create(out, "corpus", card, force) as folder:
        card |= _write(folder, corpora, tell, stop)
    counts = {name: card["splits"][name]["examples"] for name in SPLITS}
    tell("prepare.done", path=str(out), rows=card["rows_in"], rejected=sum(card["rejected"].values()), task=MANY, split=MANY, **counts)
    return open_folder(out, "corpus")


def mark(example: dict[str, Any], schema: Schema) -> bytes:
    """Give the mark of an example's texts, by which equal ones are known whether they came as a text or as tokens: spaces do not count."""
    return digest("".join("".join(schema.texts(example)).split()))


def _write(folder: Path, corpora: dict[str, Corpus], tell: Callable[..., None], stop: Stop | None) -> dict[str, Any]:
    """Write the splits; give the card."""
    schema = task_class(MANY).schema
    total = sum(sum(corpus.counts.values()) for corpus in corpora.values())
    done = leaks = 0
    judged: dict[bytes, dict[str, set[str]]] = {}  # the texts of validation and test: in which splits of which corpora
    for name, corpus in corpora.items():
        for split in (each for each in SPLITS[1:] if corpus.counts.get(each)):
            for example in corpus.examples(split):
                judged.setdefault(mark(example, schema), {}).setdefault(split, set()).add(name)
    with contextlib.ExitStack() as open_files:
        written = {name: Written(open_split(open_files, folder / f"{name}.jsonl.zst"), schema) for name in SPLITS}
        rejects = open_files.enter_context(atomic(folder / "rejected.jsonl"))
        for name, corpus in corpora.items():
            tell("prepare.writing", rows=done, total=total)
            for split in (each for each in SPLITS if corpus.counts.get(each)):
                later = SPLITS[SPLITS.index(split) + 1 :]
                for line, example in enumerate(corpus.examples(split), 1):
                    if stop is not None:
                        stop.check()
                    done += 1
                    elsewhere = judged.get(mark(example, schema), {})
                    if any(elsewhere.get(each, set()) - {name} for each in later):
                        leaks += 1
                        shown = excerpt("\n".join(schema.texts(example)))
                        entry = {"source": name, "path": f"{split}.jsonl.zst", "line": line, "reason": "leak", "excerpt": shown}
                        rejects.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")
                        continue
                    written[split].write({"task": name, **example})
    if leaks:
        tell("prepare.leak", count=leaks, dropped=leaks)
    write_json(folder / "schema.json", schema.as_dict())
    splits = {name: {"examples": each.examples, "bytes": each.bytes, "characters": each.characters} for name, each in written.items()}
    inputs = [
        {"role": name, "path": corpus.path.name, "sha256": sha256(corpus.path / MANIFEST), "rows": sum(corpus.counts.values())}
        for name, corpus in corpora.items()
    ]
    return {
        "task": MANY,
        "rows_in": done,
        "rows_out": {name: each.examples for name, each in written.items()},
        "rejected": {"leak": leaks} if leaks else {},
        "found": {"leak": leaks},
        "splits": splits,
        "labels": {},
        "inputs": inputs,
        "settings": {"task": MANY, "also": [each["path"] for each in inputs[1:]]},
        "seed": 0,
    }
