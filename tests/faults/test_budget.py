"""The budget that is printed before a run starts is what the run then costs: within 25 % in the middle of five runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = [
    ("qwen3", "tiny", "--steps", "60"),
    ("qwen3", "tiny", "--steps", "40", "--batch", "64"),
    ("lstm", "tiny", "--steps", "80"),
    ("lstm", "small", "--steps", "40"),
    ("llama", "small", "--steps", "12"),
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_estimates_are_within_a_quarter(tmp_path: Path) -> None:
    words = "the old river carries small boats past quiet stones and returns again".split()
    (tmp_path / "text.txt").write_text("\n".join(" ".join(words[(i * 7 + k * k) % 12] for k in range(9)) for i in range(8000)))

    def zhixing(*line: str) -> str:
        return subprocess.run([sys.executable, "-m", "zhixing", *line], check=True, capture_output=True, text=True).stdout

    zhixing("prepare", str(tmp_path / "text.txt"), str(tmp_path / "corpus"), "--unit", "line")
    seconds, memory = [], []
    for number, (model, size, *length) in enumerate(RUNS):
        out = tmp_path / f"run{number}"
        asked = ("train", str(tmp_path / "corpus"), str(out), "--model", model, "--size", size, *length)
        estimate = json.loads(zhixing(*asked, "--dry-run", "--json"))["estimate"]
        zhixing(*asked)
        measured = json.loads((out / "card.json").read_text())["measured"]
        seconds.append(abs(estimate["core_seconds"] / measured["core_seconds"] - 1))
        memory.append(abs(estimate["memory_bytes"] / measured["memory_bytes"] - 1))
    print("core-seconds off by", [f"{each:.0%}" for each in seconds], "memory off by", [f"{each:.0%}" for each in memory])
    assert statistics.median(seconds) <= 0.25, seconds
    assert statistics.median(memory) <= 0.25, memory
