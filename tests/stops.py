"""A stop in the middle of a run, as a signal asks for it."""

from __future__ import annotations

from zhixing.core.stop import Stop, Stopped


class Once(Stop):
    """Stops a run after so many polls.

    polls  how many go by
    """

    def __init__(self, polls: int) -> None:
        super().__init__()
        self.left = polls

    def check(self) -> None:
        """Raise Stopped at the poll that is one too many."""
        self.left -= 1
        if self.left < 0:
            raise Stopped(15)
