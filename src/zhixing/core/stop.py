"""Being asked to stop: SIGTERM and SIGINT set a flag and nothing else; loops poll it where their state is whole.

What has no loop of ours to poll it, a fit inside a library, and leaves nothing behind when it is broken off, is held to its time by
`within`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

AGAIN_SECONDS = 1.0  # after which Late is raised again, should something have swallowed it


class Stopped(BaseException):
    """Raised by a loop that was asked to stop, after it has saved; carries the signal, so that the exit code is 128 + signal."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


class Stop:
    """A flag that signals set. A second signal of the same sort acts at once, as it would without us."""

    def __init__(self) -> None:
        self.number: int | None = None

    def install(self) -> Stop:
        """Listen to SIGTERM and SIGINT; only in a main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def __bool__(self) -> bool:
        return self.number is not None

    def check(self) -> None:
        """Raise Stopped if a stop was asked for."""
        if self.number is not None:
            raise Stopped(self.number)


class Late(BaseException):
    """Raised inside `within` when its time is out."""


_held = [0]  # how many `unbroken` blocks the main thread is in


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Put Late off until the block has ended: a file is closed and named, or away, before a fit that wrote it is broken off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held[0] += 1
    try:
        yield
    finally:
        _held[0] -= 1


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Late in the block when the time is out; only in a main thread, elsewhere the block runs to its end.

    Whatever stands in the way of other alarms is put back, and their time goes on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    inside = True

    def ring(number: int, frame: FrameType | None) -> None:
        if inside and not _held[0]:  # held: it rings again in AGAIN_SECONDS
            raise Late

    start = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    rest, again = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6), AGAIN_SECONDS)
    try:
        yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if rest:
            signal.setitimer(signal.ITIMER_REAL, max(rest - (time.monotonic() - start), 1e-6), again)
