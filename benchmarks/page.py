"""One page of everything measured of training, one of hearing, seeing, privacy and reward, and one of pretrained weights: figures from the
result files, beside what was asked for.

    python benchmarks/page.py

Reads the tables in benchmarks/results/ and writes training.md, shape.md and pretrained.md there. A figure is named by its file and by words
of its row; nothing on a page is typed by hand but which rows it shows; a row that a file should have and has not ends the program. A file
says which machine, commit and command it comes from; those of different files may differ, and the page names them. A row that a
file has not, or has without a value, stands as not measured.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from zhixing.core.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
SHOWN: dict[str, dict[str, list[str]]] = {
    "Time to a loss": {
        "targets": [
            "seconds, ours / nanoGPT (",
            "tiny_shakespeare: the decoder alone",
            "tiny_shakespeare: minutes",
            "Tang poems: the decoder alone",
            "Tang poems: minutes",
            "decoder mixed with counts: nats",
            "decoder mixed with counts: minutes",
            "decoder alone (opens in transformers): nats",
            "seconds, ours / nanoGPT's",
        ],
        "nanochat": ["time, ours / nanochat", "time without", "core-seconds, ours / nanochat", "rounds of"],
    },
    "Best loss, any time": {
        "losses": ["brief, seed", "models and counts, static", "brief0 alone, adaptive (", "models and counts, adaptive"]
    },
    "Speed": {
        "throughput": [
            "dropout 0: tokens a second, other nanoGPT (fp32), ours",
            "dropout 0: tokens a second, other Trainer",
            "dropout 0: tokens a second, both in fp32",
            "dropout 0: share of the peak",
            "dropout 0.2: tokens a second, other nanoGPT (fp32), ours",
            "dropout 0.2: tokens a second, other Trainer",
        ],
        "shares": ["of these, products", "of these, copies", "of these, activations", "share of the large product's rate"],
        "gpu": ["tokens a second, other compiled nanoGPT", "share of that peak reached, ours", "seconds, ours / nanoGPT"],
    },
    "Memory": {"memory": ["fp32: peak above imports", "bf16: peak above imports", "fp32: floor / ours", "bf16: floor / ours"]},
    "Before the first step": {
        "start": [
            "seconds between, median",
            "seconds above import until the first step begins",
            "seconds of `zhixing --help`",
            "BPE of 32,768 pieces, brown, 6.1 MB: seconds of both",
            "BPE of 32,768 pieces, all texts, 27.0 MB: seconds of both",
            "BPE of 32,768 pieces, all texts, 27.0 MB: tokens, ours",
            "BPE of 32,768 pieces, all texts, 27.0 MB: tokens, library",
            "characters, brown, a row a line",
            "characters, lctt_zh, a row a line",
        ]
    },
    "Growth": {
        "growth": [
            "seconds a step over parameters of the layers: slope",
            "seconds of a training over tokens read: slope",
            "seconds a step over the operations of growing windows: slope",
            "seconds of prepare over bytes: slope",
            "seconds of counting an n-gram over bytes: slope",
            "seconds of a BPE trained and applied over bytes: slope",
        ]
    },
}
SHAPE: dict[str, dict[str, list[str]]] = {"Hear": {"hear": []}, "See": {"see": []}, "Private": {"private": []}, "Reward": {"reward": []}}
PRETRAINED: dict[str, dict[str, list[str]]] = {"Transfer": {"transfer": []}, "LoRA": {"lora": []}, "Serving small": {"small": []}}
PRETRAINED["Writing down what is said, beside CTranslate2"] = {"transcribe": []}
PAGES = {"training": ("Training, measured", SHOWN), "shape": ("Hearing, seeing, privacy, reward, measured", SHAPE)}
PAGES |= {"pretrained": ("Pretrained weights, measured", PRETRAINED)}
# Rows that a file may lack: where there was no such peer, or that are newer than the file.
PERHAPS = ("bf16", "dropout 0: tokens a second, other Trainer", "dropout 0.2: tokens a second, other Trainer", "seconds above import")
PERHAPS += ("models and counts, adaptive",)
ROW = re.compile(r"^\| (.*) \| (.*) \| (.*) \|$")
ORIGIN = re.compile(r"^- (command|commit|hardware|versions): (.*)$")


def read(name: str) -> tuple[list[tuple[str, str, str]], dict[str, str]]:
    """Give a result file's rows and where they come from; nothing where there is no such file."""
    path = RESULTS / f"{name}.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if any("smoke run" in line for line in lines):
        sys.exit(f"{path} is of a smoke run, which measures nothing. Run the benchmark itself.")
    rows = [found.groups() for line in lines if (found := ROW.match(line))]
    return rows[1:], dict(found.groups() for line in lines if (found := ORIGIN.match(line)))


def page(title: str, shown: dict[str, dict[str, list[str]]]) -> str:
    """Write a page; of a file with no words named, every row."""
    lines = [f"# {title}", ""]
    lines += ["Written by `python benchmarks/page.py` from the files beside it; each says what it was measured on.", ""]
    plots = {
        "growth": "how cost grows with work",
        "ladder_tiny_shakespeare": "every era on tiny_shakespeare",
        "ladder_tang": "on Tang poems",
    }
    there = [f"[{about}]({name}.svg)" for name, about in plots.items() if (RESULTS / f"{name}.svg").exists()]
    if shown is SHOWN:
        lines += [f"The plots: {', '.join(there)}. What was tried, with predictions: [the notebook](../NOTEBOOK.md).", ""]
    origins: dict[str, dict[str, str]] = {}
    for title, files in shown.items():
        lines += [f"## {title}", "", "| figure | value | wanted | from |", "|---|---|---|---|"]
        for name, named in files.items():
            rows, origins[name] = read(name)
            for words in named or [row[0] for row in rows]:
                row = next((each for each in rows if words in each[0]), None)
                if rows and row is None and not words.startswith(PERHAPS):
                    sys.exit(f"{name}.md has no row with the words '{words}'.")
                if row is None or not row[1]:
                    lines.append(f"| {row[0] if row else words} | not measured | {row[2] if row else ''} | `{name}.py` |")
                else:
                    lines.append(f"| {row[0]} | {row[1]} | {row[2]} | [{name}]({name}.md) |")
        lines.append("")
    lines += ["## Where they come from", ""]
    for name, origin in origins.items():
        if origin:
            lines.append(f"- {name}: {origin['command']} at {origin['commit'][:8]}{origin['commit'][40:]}, {origin['hardware']}")
        else:
            lines.append(f"- {name}: not run; `python benchmarks/{name}.py OUT`")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    for name, about in PAGES.items():
        write_text(RESULTS / f"{name}.md", page(*about))
