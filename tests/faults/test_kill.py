"""A run that is killed at any moment and started again ends in the same bytes; a damaged checkpoint or folder is never believed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zhixing.core.files import sha256
from zhixing.core.folder import MANIFEST, open_folder

WORDS = "the old river carries small boats past quiet stones and 小船 沿 河 而下 石头 不语".split()
TRAIN = ["--model", "qwen3", "--size", "tiny", "--steps", "48", "--batch", "8", "--window", "32", "--precision", "fp32", "--threads", "1"]


def make_text(path: Path, lines: int = 3000) -> Path:
    """Write a text of seeded random words."""
    draw = random.Random(5)
    path.write_text("\n".join(" ".join(draw.choices(WORDS, k=9)) for _ in range(lines)), encoding="utf-8")
    return path


def command(*words: str) -> list[str]:
    """Give the command line of a verb."""
    return [sys.executable, "-m", "zhixing", *map(str, words)]


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start a verb in a process of its own."""
    return subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(*words: str) -> None:
    """Run a verb to its end."""
    done = subprocess.run(command(*words), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def fingerprints(model: Path) -> dict[str, str]:
    """Give the hashes of the final weights and of the optimiser at the last step."""
    last = sorted(path for path in (model / "checkpoints").iterdir() if path.name.isdigit())[-1]
    return {
        "weights": sha256(model / "model.safetensors"),
        "last": sha256(last / "model.safetensors"),
        "optimizer": sha256(last / "optimizer.safetensors"),
        "step": last.name,
    }


def corpus_hashes(path: Path) -> dict[str, str]:
    """Give the hashes of a corpus's data files."""
    return {
        each.name: sha256(each) for each in sorted(path.iterdir()) if each.is_file() and each.name not in ("card.json", "manifest.json")
    }


def kill_and_repeat(tmp_path: Path, kills: int, seed: int) -> None:
    """Prepare and train without a break, then with kills at random moments, and compare."""
    text = make_text(tmp_path / "text.txt")
    prepare = ["prepare", str(text), "{}", "--unit", "line"]
    began = time.monotonic()
    run(*[word.format(tmp_path / "whole.corpus") for word in prepare])
    prepare_seconds = time.monotonic() - began
    began = time.monotonic()
    run("train", str(tmp_path / "whole.corpus"), str(tmp_path / "whole"), *TRAIN)
    train_seconds = time.monotonic() - began
    draw = random.Random(seed)
    left = kills
    for _ in range(max(1, kills // 4)):
        process = start(*[word.format(tmp_path / "killed.corpus") for word in prepare])
        time.sleep(draw.uniform(0, prepare_seconds))
        process.send_signal(signal.SIGKILL)
        left -= process.wait() == -signal.SIGKILL
        if (tmp_path / "killed.corpus").exists():
            break
    if not (tmp_path / "killed.corpus").exists():
        run(*[word.format(tmp_path / "killed.corpus") for word in prepare])
    assert corpus_hashes(tmp_path / "killed.corpus") == corpus_hashes(tmp_path / "whole.corpus")
    landed = 0
    for _ in range(left * 6):
        if landed >= left:
            break
        process = start("train", str(tmp_path / "whole.corpus"), str(tmp_path / "killed"), *TRAIN)
        waited = draw.uniform(0.4, 0.75) * train_seconds if landed % 2 else draw.uniform(0, train_seconds)
        time.sleep(waited)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            landed += 1
        else:  # the machine has become faster since the whole run was timed
            train_seconds = min(train_seconds, waited)
        if (tmp_path / "killed" / MANIFEST).exists():  # it was done before the kill came, or just then: begin anew elsewhere
            done = tmp_path / f"done{len(list(tmp_path.glob('done*')))}"
            os.rename(tmp_path / "killed", done)
            assert fingerprints(done) == fingerprints(tmp_path / "whole")
    assert landed == left
    run("train", str(tmp_path / "whole.corpus"), str(tmp_path / "killed"), *TRAIN)
    assert fingerprints(tmp_path / "killed") == fingerprints(tmp_path / "whole")
    open_folder(tmp_path / "killed", "model")


@pytest.mark.timeout(600)
def test_few_kills(tmp_path: Path) -> None:
    kill_and_repeat(tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills(tmp_path: Path) -> None:
    kill_and_repeat(tmp_path, kills=20, seed=2)


@pytest.mark.timeout(600)
def test_terminated_run_saves_and_continues(tmp_path: Path) -> None:
    run("prepare", str(make_text(tmp_path / "text.txt")), str(tmp_path / "corpus"), "--unit", "line")
    run("train", str(tmp_path / "corpus"), str(tmp_path / "whole"), *TRAIN)
    process = start("train", str(tmp_path / "corpus"), str(tmp_path / "stopped"), *TRAIN)
    diary = tmp_path / "stopped" / "run.jsonl"
    for _ in range(600):
        if diary.exists() and diary.read_text().count("\n") > 3:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    assert code in (143, 0)
    if code == 143:
        assert not (tmp_path / "stopped" / "manifest.json").exists()
        run("train", str(tmp_path / "corpus"), str(tmp_path / "stopped"), *TRAIN)
    assert fingerprints(tmp_path / "stopped") == fingerprints(tmp_path / "whole")
    steps = [line for line in (tmp_path / "stopped" / "run.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == len(set(steps))
