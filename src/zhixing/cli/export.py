"""`zhixing export`: a Model folder leaves as a GGUF file or as a folder without torch, its answers compared before it takes its name."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def export(model: Path, out: Path, /, *, form: str = "", force: bool = False, json: bool = False) -> None:
    """Write the file or the folder."""
    from zhixing.exporting.export import export_model

    console = Console(json)
    made = export_model(model, out, form, console.tell, force)
    files = [made] if made.is_file() else [each for each in made.iterdir() if each.is_file()]
    console.answer(str(made), {"path": str(made), "size_bytes": sum(each.stat().st_size for each in files)})
