"""Processes of their own for what strangers wrote: what such a process is begun with, and the bounds that it sets itself."""

from __future__ import annotations

import os
import resource
import sys

KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "SYSTEMROOT")  # of the environment


def command(code: str) -> tuple[str, ...]:
    """Give the command that runs some code of ours; nothing of the folder that one stands in is imported."""
    return (sys.executable, "-P", "-c", code)


def environment(**more: str) -> dict[str, str]:
    """Give the environment of such a process."""
    return {**{name: value for name, value in os.environ.items() if name in KEPT}, **more}


def limit(memory_bytes: int, files: int, seconds: int | None = None) -> None:
    """Bound this process: its memory, the files that it has open and, where told, its seconds of the processor.

    It writes no file, and leaves none of its memory on the disk when it dies. A bound that is narrower already stays.
    """
    wanted = {resource.RLIMIT_AS: memory_bytes, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: files, resource.RLIMIT_CORE: 0}
    if seconds is not None:
        wanted[resource.RLIMIT_CPU] = seconds
    for what, bound in wanted.items():
        hard = resource.getrlimit(what)[1]
        least = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (least, least))
