"""Folders are the only thing that passes between stages: a card that says what they are, and a manifest that proves it.

`card.json` says kind, format, inputs by hash, settings and versions; `manifest.json`, written last, holds the SHA-256 of every file.
A folder without a manifest is unfinished; a folder whose files differ from it is damaged; both are refused by name.
Working folders inside (checkpoints, evaluation, cache) lie outside the manifest: they may grow and be deleted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, sha256, sync_folder, write_json

FORMAT = 2  # 2: a Model folder holds golden.json
CARD = "card.json"
MANIFEST = "manifest.json"
OUTSIDE = ("checkpoints", "evaluation", "cache")
RUN = "run.json"
KINDS = ("adapter", "checkpoint", "comparison", "corpus", "huggingface", "model")
SERVES_AS = {"adapter": "model"}  # what is accepted wherever another kind is: an adapter is a model, less what its base holds
WORKING = frozenset((  # what a folder may hold before its manifest says so
    CARD, RUN, "run.jsonl", "ledger.jsonl", "task.json", "config.json", "generation_config.json", "golden.json", "model.safetensors",
    "tokenizer.json", "tokenizer_config.json", "words.json", "adapter_config.json", "adapter_model.safetensors", "head.safetensors",
    "optimizer.safetensors", "state.json", "schema.json", "rejected.jsonl",
    "train.jsonl.zst",
    "validation.jsonl.zst", "test.jsonl.zst", "table.json", "table.md", "plot.svg", "request.json",
))  # fmt: skip
HIDDEN = re.compile(r"\..+\.[0-9]+\.(?:tmp|building|old)")


@dataclass(frozen=True)
class Folder:
    """An opened, verified folder: where it is, what kind it is, and its card."""

    path: Path
    kind: str
    card: dict[str, Any]


def check_place(path: str | Path) -> Path:
    """Refuse an output that cannot be made, or that would lie inside a finished folder of ours and so damage it."""
    path = Path(path)
    parents = path.absolute().parents
    nearest = next(each for each in parents if each.exists())
    if not nearest.is_dir():
        raise UsageError("output.parent_is_file", path=str(path), parent=str(nearest))
    for each in parents:
        if ours(each):
            raise UsageError("output.inside", path=str(path), folder=str(each))
    return path


def check_new(path: str | Path, force: bool = False, source: str | Path | None = None) -> Path:
    """Refuse an output that would overwrite something, unless forced; force only ever replaces a folder of ours.

    source  the folder that the output is made from; it is never replaced
    """
    path = check_place(path)
    recover(path)
    if source is not None and path.resolve() == Path(source).resolve():
        raise UsageError("output.is_source", path=str(path))
    if not os.path.lexists(path):
        return path
    if not force:
        raise UsageError("output.exists", path=str(path))
    if not path.is_dir() or path.is_symlink():
        raise UsageError("output.not_ours", path=str(path))
    if foreign := find_foreign(path):
        raise UsageError("output.not_ours", path=str(foreign))
    return path


def find_foreign(path: Path) -> Path | None:
    """Give what was not made by zhixing: the folder itself or the first such file in it; None: all of it is ours, or it is empty."""
    if not any(path.iterdir()):
        return None
    card, run, manifest = (_table(path / name) for name in (CARD, RUN, MANIFEST))
    whole = _flaw(manifest) is None
    carded = card.get("kind") in KINDS and type(card.get("format")) is int
    if not (carded or "request" in run or (whole and manifest["kind"] in KINDS)):
        return path
    known = set(manifest["files"]) if whole else WORKING
    for name in _files(path):
        if name not in known and not any(HIDDEN.fullmatch(part) for part in name.split("/")):
            return path / name
    return None


def ours(path: str | Path) -> bool:
    """Say whether a folder is a finished one of ours."""
    return (Path(path) / CARD).is_file() and (Path(path) / MANIFEST).is_file()


def _table(path: Path) -> dict[str, Any]:
    """Read a JSON object; one that cannot be read proves nothing and counts as empty."""
    try:
        found = read_json(path)
    except (DataError, OSError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _left(path: Path, ending: str) -> list[Path]:
    """List the folders `.name.PID.ending` beside a place whose process is no more; our own number is an earlier process's too."""
    beside = path.absolute().parent
    if not beside.is_dir():
        return []
    form = re.compile(rf"\.{re.escape(path.name)}\.([0-9]+)\.{ending}")
    found = [(each, match) for each in sorted(beside.iterdir()) if (match := form.fullmatch(each.name)) and not each.is_symlink()]
    return [each for each, match in found if each.is_dir() and not _lives(int(match[1]))]


def _lives(number: int) -> bool:
    """Say whether another process has this number."""
    if number in (0, os.getpid()):
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


def recover(path: str | Path) -> None:
    """Finish what a kill between the two renames of `replace` left: nothing at the place: the old folder returns; else it goes."""
    path = Path(path)
    for old in _left(path, "old"):
        with contextlib.suppress(FileNotFoundError):  # another process does the same
            if os.path.lexists(path):
                _discard(old)
            elif find_foreign(old) is None:
                os.rename(old, path)
                sync_folder(path.absolute().parent)


def _discard(old: Path) -> None:
    """Remove a folder that was replaced, under a name by which half of it is never taken for the whole and put back."""
    gone = old.with_suffix(".building")
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(old, gone)
    shutil.rmtree(gone)


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a place for one process, so that no two write one output at once; the lock is `.name.lock` beside it and dies with its process.

    Raises UsageError when it is held already, by another process or by this one. Folders above are made, and go again when the block fails.
    """
    path = check_place(path)
    lock = path.absolute().parent / f".{path.name}.lock"
    with above(path):
        handle = _lock(lock, path)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink()  # before it is let go: afterwards it may be another's
            os.close(handle)


def _lock(lock: Path, path: Path) -> int:
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.lexists(lock) and os.path.samestat(os.fstat(handle), os.stat(lock)):
                return handle
        except FileNotFoundError:
            pass  # removed by its holder in between: what is locked has no name any more
        except OSError as problem:
            os.close(handle)
            if problem.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise UsageError("output.busy", path=str(path), lock=str(lock)) from None
            raise
        os.close(handle)


def _files(path: Path) -> list[str]:
    """List the files below a folder that a manifest covers, as sorted relative POSIX paths."""
    found = []
    for root, folders, names in os.walk(path):
        here = Path(root)
        if here == path or MANIFEST in names:  # a folder of ours inside another keeps its own working folders
            folders[:] = [name for name in folders if name not in OUTSIDE]
        for name in [*names, *(each for each in folders if (here / each).is_symlink())]:
            relative = (here / name).relative_to(path).as_posix()
            if relative != MANIFEST:
                found.append(relative)
    return sorted(found)


def seal(path: str | Path, kind: str, card: dict[str, Any]) -> Folder:
    """Write a folder's card and then its manifest: from here on it is finished and protected."""
    path = Path(path)
    for half in path.glob(".*.tmp"):
        half.unlink()  # what a kill left in the middle of a write
    full = {"format": FORMAT, "kind": kind, **card}
    write_json(path / CARD, full)
    entries = {name: {"sha256": sha256(path / name), "size_bytes": (path / name).stat().st_size} for name in _files(path)}
    write_json(path / MANIFEST, {"format": FORMAT, "kind": kind, "files": entries})
    sync_folder(path)
    return Folder(path, kind, full)


@contextlib.contextmanager
def create(path: str | Path, kind: str, card: dict[str, Any], force: bool = False) -> Iterator[Path]:
    """Build a folder beside its place; when the block ends well it is sealed and takes its name, else nothing is left.

    card  may be filled by the block until it ends
    Raises UsageError when the place is taken and force is not given.
    """
    path = check_new(path, force)
    with above(path):
        for stale in _left(path, "building"):
            shutil.rmtree(stale, ignore_errors=True)
        building = path.absolute().parent / f".{path.name}.{os.getpid()}.building"
        building.mkdir()
        try:
            yield building
            seal(building, kind, card)
            replace(building, path)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise


@contextlib.contextmanager
def above(path: str | Path) -> Iterator[None]:
    """Make the folders above a place; when the block fails, those that were made for it go again."""
    made = [each for each in Path(path).absolute().parents if not each.exists()]  # the innermost first
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # one of them holds something by now
            for each in made:
                each.rmdir()
        raise


def replace(building: Path, path: str | Path) -> None:
    """Give a finished folder its name; what stood there is removed only after the new one is in place."""
    path = Path(path)
    old = path.absolute().parent / f".{path.name}.{os.getpid()}.old"
    if os.path.lexists(path):
        os.rename(path, old)
    os.rename(building, path)
    sync_folder(path.absolute().parent)
    if old.exists():
        _discard(old)


def verify(path: Path) -> dict[str, Any]:
    """Compare a folder with its manifest; raises DataError that names the first file which is missing, damaged or added."""
    if not (path / MANIFEST).exists():
        raise DataError("folder.unfinished", path=str(path))
    manifest = read_json(path / MANIFEST)
    if flaw := _flaw(manifest):
        raise DataError("file.not_json", path=str(path / MANIFEST), problem=flaw)
    if manifest["format"] > FORMAT:
        raise DataError("folder.newer", path=str(path), format=manifest["format"], known=FORMAT)
    present = set(_files(path))
    for name, entry in manifest["files"].items():
        if name not in present:
            raise DataError("folder.file_missing", path=str(path), file=name)
        if (path / name).is_symlink() or (path / name).stat().st_size != entry["size_bytes"] or sha256(path / name) != entry["sha256"]:
            raise DataError("folder.file_damaged", path=str(path), file=name)
    added = sorted(present - set(manifest["files"]))
    if added:
        raise DataError("folder.file_added", path=str(path), file=added[0])
    return manifest


def _flaw(manifest: Any) -> str | None:
    """Say what a manifest that is JSON lacks to be one of ours; None: nothing."""
    if not isinstance(manifest, dict) or set(manifest) != {"format", "kind", "files"} or not isinstance(manifest["files"], dict):
        return "no table of files"
    if type(manifest["format"]) is not int or manifest["format"] < 1:
        return f"format {manifest['format']}"
    if CARD not in manifest["files"]:
        return f"no {CARD}"
    wrong = [name for name, entry in manifest["files"].items() if not isinstance(entry, dict) or set(entry) != {"sha256", "size_bytes"}]
    return f"files, {wrong[0]}" if wrong else None


def open_folder(path: str | Path, kind: str | None = None) -> Folder:
    """Open a folder of ours, every byte of it verified.

    kind  what it must be: "corpus" or "model"; None: anything
    Raises UsageError when there is no such folder or it is of another kind, DataError when it is unfinished or damaged.
    """
    path = Path(path)
    if not path.exists():
        recover(path)
    if not path.exists():
        raise UsageError("folder.not_found", path=str(path))
    if not path.is_dir():
        raise UsageError("folder.not_folder", path=str(path))
    if not (path / CARD).exists() and not (path / MANIFEST).exists():
        raise UsageError("folder.unfinished_run" if (path / RUN).exists() else "folder.not_ours", path=str(path))
    manifest = verify(path)
    card = read_json(path / CARD)
    if card.get("kind") != manifest["kind"]:
        raise DataError("file.not_json", path=str(path / MANIFEST), problem=f"kind {manifest['kind']}")
    if kind is not None and kind not in (card.get("kind"), SERVES_AS.get(card.get("kind"))):
        raise UsageError("folder.wrong_kind", path=str(path), kind=card.get("kind"), wanted=kind)
    return Folder(path, card["kind"], card)
