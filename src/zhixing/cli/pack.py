"""`zhixing pack`: a file becomes as small as a Model folder can make it, and comes back byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhixing.cli.console import Console, table
from zhixing.core.messages import text


def pack(model: Path, file: Path, out: Path, /, *, force: bool = False, json: bool = False) -> None:
    """Pack a file with a language model."""
    from zhixing.core.stop import Stop
    from zhixing.tasks.archive import pack_file

    console = Console(json)
    console.tell("cli.pack.will", model=model, file=file, out=out)
    found = pack_file(model, file, out, force=force, tell=console.tell, stop=Stop().install())
    console.answer(page(found), {"path": str(out), **found})
    console.tell("cli.pack.done", model=model, out=out)


def page(found: dict[str, Any]) -> str:
    """Set the sizes side by side: the file, what became of it, and what the usual compressors make of it."""
    sizes = {text("pack.file"): found["bytes_in"], text("pack.packed"): found["bytes_out"]}
    sizes |= {"xz -9e": found["xz_9e"], "zstd -19": found["zstd_19"]}
    rows = [(name, size, 8 * size / found["bytes_in"] if found["bytes_in"] else None) for name, size in sizes.items()]
    return table([(text("pack.what"), text("pack.bytes"), text("pack.bits")), *rows])
