"""`zhixing show`: what any folder of ours is, in words: its card, its files, its scores, and whether every byte is as it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zhixing.cli.console import Console, flatten, table
from zhixing.core.errors import DataError
from zhixing.core.files import read_json
from zhixing.core.folder import CARD, MANIFEST, OUTSIDE, open_folder
from zhixing.core.messages import text
from zhixing.tasks import adapter

CLASSES, MEMBERS, RULES = 12, 6, 20  # of a grammar, so many are shown


def show(folder: Path, /, *, json: bool = False) -> None:
    """Explain a folder; a damaged one is explained as far as it can be, and then refused by name."""
    console = Console(json)
    damage = None
    try:
        opened = open_folder(folder)
        if opened.kind == adapter.KIND:
            adapter.base_of(opened)
    except DataError as error:
        if not (folder / CARD).exists():
            raise
        damage = error
    found = explain(folder, damage)
    console.answer(page(found), found)
    if damage is not None:
        raise damage
    console.tell(f"cli.show.{'model' if found['kind'] == 'model' else 'corpus' if found['kind'] == 'corpus' else 'other'}", folder=folder)


def explain(folder: Path, damage: DataError | None) -> dict[str, Any]:
    """Gather what there is to say about a folder as plain values."""
    card = read_json(folder / CARD)
    listed = read_json(folder / MANIFEST).get("files", {}) if damage is None else {}
    files = {name: entry["size_bytes"] for name, entry in listed.items()}
    scores = {}
    for each in sorted(folder.glob("evaluation/**/*.json")):
        value = read_json(each)
        if isinstance(value, dict) and each.name not in (CARD, MANIFEST):
            scores[each.relative_to(folder / "evaluation").as_posix()] = value
    task = folder / "task.json"
    return {
        "path": str(folder),
        "kind": card.get("kind"),
        "verified": damage is None,
        "damage": None if damage is None else damage.as_dict(),
        "size_bytes": sum(files.values()),
        "files": files,
        "beside": [name for name in OUTSIDE if (folder / name).is_dir()],
        "card": {name: value for name, value in card.items() if name != "kind"},
        "task": read_json(task) if task.is_file() and damage is None else None,
        "grammar": grammar(folder) if damage is None and card.get("model") == "grammar" else None,
        "scores": scores,
    }


def grammar(folder: Path) -> dict[str, Any]:
    """Read a grammar: its busiest classes with what they write, and the rules that write the most."""
    from zhixing.tasks.artefact import load

    opened = load(folder)
    model, tokenizer = opened.model, opened.tokenizer

    def spell(token: int) -> str:
        if token in tokenizer.controls:
            return tokenizer.controls[token]
        return repr(tokenizer.token_bytes(int(token)).decode("utf-8", "backslashreplace"))

    shares = [(float(share), label) for label, share in enumerate(model.unread)]
    classes = [
        {"class": label, "share": share, "writes": [spell(token) for token in model.members(label, MEMBERS)]}
        for share, label in sorted(shares, key=lambda each: (-each[0], each[1]))[:CLASSES]
    ]
    rules = [
        {"rule": f"{each.left} -> {spell(each.token)} {each.right}", "weight": each.weight, "share": each.share}
        for each in model.rules(RULES)
    ]
    return {"classes": classes, "rules": rules}


def page(found: dict[str, Any]) -> str:
    """Set what was gathered as text."""
    state = text("show.verified" if found["verified"] else "show.damaged", files=len(found["files"]), size_bytes=found["size_bytes"])
    blocks = [f"{found['path']}: {found['kind']}. {state}"]
    heads = (text("show.name"), text("show.value"))
    blocks.append(table([(text("show.card"), heads[1]), *flatten(found["card"])]))
    if found["task"]:
        blocks.append(table([(text("show.task"), heads[1]), *flatten(found["task"])]))
    if found["grammar"]:
        parts = found["grammar"]
        rows = [(each["class"], each["share"], " ".join(each["writes"])) for each in parts["classes"]]
        blocks.append(table([(text("show.class"), text("show.share"), text("show.writes")), *rows]))
        rows = [(each["rule"], each["weight"], each["share"]) for each in parts["rules"]]
        blocks.append(table([(text("show.rule"), text("show.weight"), text("show.share")), *rows]))
    if found["files"]:
        blocks.append(table([(text("show.file"), text("show.bytes")), *found["files"].items()]))
    for name, value in found["scores"].items():
        blocks.append(scores(name, value))
    if found["beside"]:
        blocks.append(text("show.beside", names=", ".join(found["beside"])))
    return "\n\n".join(blocks)


def scores(name: str, value: dict[str, Any]) -> str:
    """Set one report as text: its figures with their intervals, or whatever else it holds."""
    figures = value.get("figures")
    if not figures:
        return table([(name, text("show.value")), *flatten(value)])
    return table(
        [(name, text("show.value"), text("show.low"), text("show.high")), *((f["name"], f["value"], f["low"], f["high"]) for f in figures)]
    )
