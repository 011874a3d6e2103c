"""`zhixing import`: a pretrained model of another program becomes a Model folder."""

from __future__ import annotations

from pathlib import Path

from zhixing.cli.console import Console


def import_(source: Path, out: Path, /, *, base: str = "", force: bool = False, json: bool = False) -> None:
    """Read a Hugging Face folder, a GGUF file or, with --base, an adapter."""
    from zhixing.importing.bring import import_model

    console = Console(json)
    folder = import_model(source, out, tell=console.tell, force=force, base=base)
    console.answer(str(folder.path), {"path": str(folder.path), "card": folder.card})
    task = folder.card["task"]
    following = f"generate {out} --prompt TEXT" if task == "language" else f"train CORPUS MODEL --start {out}"
    console.tell("cli.import.done", out=folder.path, parameters=folder.card["parameters"], task=task, next=f"zhixing {following}")
