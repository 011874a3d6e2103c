"""`zhixing unpack`: what `zhixing pack` made becomes the file again, with the same Model folder."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def unpack(model: Path, file: Path, out: Path, /, *, force: bool = False, json: bool = False) -> None:
    """Give back a packed file, proved byte for byte."""
    from zhixing.core.stop import Stop
    from zhixing.tasks.archive import unpack_file

    console = Console(json)
    console.tell("cli.unpack.will", model=model, file=file, out=out)
    found = unpack_file(model, file, out, force=force, tell=console.tell, stop=Stop().install())
    console.answer(str(out), {"path": str(out), **found})
    console.tell("cli.unpack.done", out=out, size_bytes=found["bytes_out"])
