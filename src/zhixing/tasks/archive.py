"""Files packed by a Model folder and given back by it: where the coder meets paths, and the compressors that everybody has."""

from __future__ import annotations

import lzma
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import sha256, write_bytes
from zhixing.core.folder import MANIFEST, check_place, locked
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.tasks.artefact import Artefact, load

DICTIONARIES = (4096, 64 << 20)  # bytes: the least that xz allows, and what its preset 9 has
Tell = Callable[..., None]


def pack_file(
    model: str | Path | Artefact, source: str | Path, out: str | Path, *, force: bool = False, tell: Tell = quiet, stop: Stop | None = None
) -> dict[str, Any]:
    """Pack a file of any bytes.

    model   a Model folder of the task language; the file can be opened with this very model only
    return  bytes_in, bytes_out, bits_per_byte, tokens, lanes, seconds, and what xz_9e and zstd_19 make of the same file

    Raises UsageError when out stands already, DataError when there is no file to read.
    """
    out, artefact = Path(out), _open(model)
    with _place(Path(source), out, force) as data:
        from zhixing.decoding import coding

        began = time.perf_counter()
        packed = coding.pack(artefact.model, artefact.tokenizer, data, _identity(artefact), tell, stop)
        seconds = time.perf_counter() - began
        write_bytes(out, packed)
    header, _ = coding.read_file(packed)
    found = {"bytes_in": len(data), "bytes_out": len(packed), "bits_per_byte": 8 * len(packed) / len(data) if data else None}
    return found | {"tokens": header.tokens, "lanes": header.lanes, "seconds": seconds} | rivals(data)


def unpack_file(
    model: str | Path | Artefact, source: str | Path, out: str | Path, *, force: bool = False, tell: Tell = quiet, stop: Stop | None = None
) -> dict[str, Any]:
    """Give back the file that was packed, with as many threads as it was packed with.

    return  bytes_in, bytes_out, seconds

    Raises UsageError when it was packed with another model, DataError when it is damaged or not packed at all, RunError when this machine's
    arithmetic does not give the text back; nothing is written then.
    """
    import torch

    from zhixing.decoding import coding

    out, artefact = Path(out), _open(model)
    with _place(Path(source), out, force) as data:
        began, threads = time.perf_counter(), torch.get_num_threads()
        try:
            torch.set_num_threads(max(1, coding.read_file(data, str(source))[0].threads))
            text = coding.unpack(artefact.model, artefact.tokenizer, data, _identity(artefact), str(source), tell, stop)
        finally:
            torch.set_num_threads(threads)
        write_bytes(out, text)
    return {"bytes_in": len(data), "bytes_out": len(text), "seconds": time.perf_counter() - began}


def rivals(data: bytes) -> dict[str, int]:
    """Give the sizes that xz -9e and zstd -19 bring the same bytes to."""
    import zstandard

    size = min(max(len(data), DICTIONARIES[0]), DICTIONARIES[1])  # a larger dictionary than the text only costs memory
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": size}]
    small = zstandard.ZstdCompressor(level=19).compress(data)
    return {"xz_9e": len(lzma.compress(data, filters=filters)), "zstd_19": len(small)}


def _open(model: str | Path | Artefact) -> Artefact:
    artefact = model if isinstance(model, Artefact) else load(model)
    if artefact.task.name != "language":
        raise UsageError("usage.not_language", path=str(artefact.folder.path), task=artefact.task.name)
    return artefact


def _identity(artefact: Artefact) -> bytes:
    return bytes.fromhex(sha256(artefact.folder.path / MANIFEST))


@contextmanager
def _place(source: Path, out: Path, force: bool) -> Iterator[bytes]:
    """Read a file and hold the place of another; refuse what must not be written."""
    check_place(out)
    if out.is_dir():
        raise UsageError("output.not_ours", path=str(out))
    if os.path.lexists(out) and not force:
        raise UsageError("output.exists", path=str(out))
    try:
        data = source.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError("file.missing", path=str(source)) from None
    if out.exists() and out.samefile(source):
        raise UsageError("output.is_source", path=str(out))
    with locked(out):
        if os.path.lexists(out) and not force:  # it came into being while this waited
            raise UsageError("output.exists", path=str(out))
        yield data
