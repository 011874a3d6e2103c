"""`zhixing export`: a Model folder leaves as a GGUF file, its answers compared with the model's before it takes its name."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def export(model: Path, out: Path, /, *, form: str = "F16", force: bool = False, json: bool = False) -> None:
    """Write the file."""
    from zhixing.exporting.export import export_model

    console = Console(json)
    made = export_model(model, out, form, console.tell, force)
    console.answer(str(made), {"path": str(made), "size_bytes": made.stat().st_size})
