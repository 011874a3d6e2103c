"""What survives a loss of power: before a file or folder takes its name, everything in it was fsynced, and its folder afterwards."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CALL = re.compile(r"^(?:\d+\s+)?(\w+)\((.*)\)\s+=\s+(-?\d+)")
PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')


def whole(trace: str) -> list[str]:
    """Put the two halves of calls that another thread interrupted together again."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.splitlines():
        process = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>").rstrip()
        elif (rest := re.search(r"<\.\.\. \w+ resumed>(.*)$", line)) and process in begun:
            lines.append(begun.pop(process) + rest[1])
        else:
            lines.append(line)
    return lines


def unsynced(trace: str, top: Path) -> list[str]:
    """List the renames below `top` whose source holds a file that was written and not fsynced before."""
    handles: dict[str, str] = {}
    dirty: set[str] = set()
    faults = []
    for line in whole(trace):
        found = CALL.match(line)
        if not found or found[3].startswith("-"):
            continue
        call, words, result = found.groups()
        paths = PATH.findall(words)
        if call == "openat" and paths:
            handles[result] = paths[0]
            if "O_WRONLY" in words or "O_RDWR" in words:
                dirty.add(paths[0])
        elif call in ("fsync", "fdatasync"):
            dirty.discard(handles.get(words.split(",")[0].strip(), ""))
        elif call.startswith("rename") and paths[0].startswith(str(top)):
            hidden = ".building/" in paths[-1]  # inside a folder that has no name yet: what counts is that folder's own rename
            faults += (
                []
                if hidden
                else [
                    f"{name} was not durable when {paths[0]} took its name"
                    for name in dirty
                    if name == paths[0] or name.startswith(paths[0] + "/")
                ]
            )
            dirty = {name.replace(paths[0], paths[-1], 1) if name.startswith(paths[0]) else name for name in dirty}
    return faults


def test_a_missing_fsync_is_seen(tmp_path: Path) -> None:
    bad = f'openat(AT_FDCWD, "{tmp_path}/.a.tmp", O_WRONLY|O_CREAT) = 3\nrename("{tmp_path}/.a.tmp", "{tmp_path}/a") = 0\n'
    good = bad.replace("\nrename", "\nfsync(3) = 0\nrename")
    assert unsynced(bad, tmp_path) and not unsynced(good, tmp_path)


@pytest.mark.system
@pytest.mark.timeout(600)
def test_every_name_is_durable_before_it_is_taken(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"line {number} of the text, 第 {number} 行" for number in range(600)), encoding="utf-8")
    verbs = (
        ["prepare", str(text), str(tmp_path / "corpus"), "--unit", "line"],
        ["train", str(tmp_path / "corpus"), str(tmp_path / "model"), "--size", "tiny", "--steps", "3", "--window", "32"],
    )
    for verb in verbs:
        trace = tmp_path / f"{verb[0]}.trace"
        calls = "trace=openat,fsync,fdatasync,rename,renameat,renameat2"
        line = ["strace", "-f", "-s", "4096", "-e", calls, "-o", str(trace), sys.executable, "-m", "zhixing", *verb]
        subprocess.run(line, check=True, capture_output=True)
        content = trace.read_text(errors="replace")
        assert "rename" in content
        assert unsynced(content, tmp_path) == []
