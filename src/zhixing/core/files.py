"""Files that appear whole or not at all, and survive a loss of power: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from zhixing.core.errors import DataError
from zhixing.core.stop import unbroken

CHUNK_BYTES = 1 << 20


def sync_folder(path: str | Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: str | Path) -> None:
    """Make a file that another library wrote durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing bytes that takes its name only when the block ends well; on an error nothing is left behind."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with unbroken():
        try:
            with open(beside, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_folder(path.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file atomically and durably."""
    with atomic(path) as handle:
        handle.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a whole text file as UTF-8, atomically and durably."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as readable JSON, atomically and durably; keys keep their order, so equal values give equal bytes."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; raises DataError naming the file when it is missing or not JSON."""
    try:
        with open(path, encoding="utf-8") as handle:
            return json.load(handle)
    except FileNotFoundError:
        raise DataError("file.missing", path=str(path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise DataError("file.not_json", path=str(path), problem=str(problem)) from None


def sha256(path: str | Path) -> str:
    """Give the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
