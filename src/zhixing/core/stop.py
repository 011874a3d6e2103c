"""Being asked to stop: SIGTERM and SIGINT set a flag and nothing else; loops poll it where their state is whole."""

from __future__ import annotations

import signal
from types import FrameType


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
