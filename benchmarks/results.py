"""What every benchmark shares: finding the real data, and writing what was measured as JSON and Markdown with where it came from."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from zhixing.core.files import write_json, write_text

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = ("torch", "numpy", "scikit-learn", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Measured:
    """One figure: what it is, its value, and what was asked for where something was."""

    name: str
    value: float | int | str | None
    wanted: str = ""


def arguments(description: str | None, goes_on: bool = False, **defaults: float | str) -> argparse.Namespace:
    """Read the command line: the folder for results, --smoke, and settings with their defaults; some go on in a folder in use."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="a new folder for results and models")
    parser.add_argument("--smoke", action="store_true", help="shrink everything to less than a minute: proves the script, measures nothing")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    given = parser.parse_args()
    if not goes_on and given.out.exists() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty; give a new folder")
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def find(name: str) -> Path:
    """Give the folder of a real data set, or end with the reason."""
    place = os.environ.get("ZHIXING_DATA")
    if not place or not (Path(place) / name).is_dir():
        sys.exit(f"The data set '{name}' was not found. It is expected in the folder that ZHIXING_DATA names. Set it and run again.")
    return Path(place) / name


def tell(code: str, /, **values: Any) -> None:
    """Tell the story of a run on stderr, but not every step of it."""
    if code not in ("train.progress", "private.progress", "train.validation", "data.shard", "predict.progress", "pack.progress"):
        print(time.strftime("%H:%M:%S"), code, *(f"{name}={value}" for name, value in values.items()), file=sys.stderr, flush=True)


def hardware() -> dict[str, Any]:
    """Say what the figures were measured on, without naming the machine."""
    processor = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"processor": processor, "cores": cores, "memory_gib": round(memory / 2**30, 1), "system": platform.system()}


def commit() -> str:
    """Name the commit that was measured, and say whether anything was changed since."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()

    return (ask("rev-parse", "HEAD") or "unknown") + (" with changes" if ask("status", "--porcelain", "--untracked-files=no") else "")


def write(out: Path, title: str, figures: list[Measured], details: dict[str, Any], smoke: bool) -> None:
    """Write results.json and results.md, and show the latter."""
    import torch

    import zhixing

    words = ["OUT" if Path(each) == out else each for each in sys.argv[1:]]
    origin = {
        "commit": commit(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "smoke": smoke,
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": {"zhixing": zhixing.__version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in LIBRARIES},
    }
    write_json(out / "results.json", {"title": title, "origin": origin, "figures": [asdict(each) for each in figures], "details": details})
    rows = [f"# {title}", "", *(["**A smoke run: these figures measure nothing.**", ""] if smoke else [])]
    rows += ["| figure | value | wanted |", "|---|---|---|", *(f"| {each.name} | {show(each.value)} | {each.wanted} |" for each in figures)]
    machine = ", ".join(f"{name} {value}" for name, value in origin["hardware"].items())
    versions = ", ".join(f"{name} {value}" for name, value in origin["versions"].items())
    rows += ["", f"- command: `{origin['command']}`", f"- commit: {origin['commit']}"]
    rows += [f"- hardware: {machine}, threads {origin['threads']}", f"- versions: {versions}", ""]
    write_text(out / "results.md", "\n".join(rows))
    print("\n".join(rows))


def show(value: float | int | str | None) -> str:
    """Set one value for the table."""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
