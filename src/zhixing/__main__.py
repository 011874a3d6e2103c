"""The program `zhixing`, also `python -m zhixing`."""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType
from typing import NoReturn

from zhixing.core.stop import Stopped


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Unwind, so that unfinished folders are removed; verbs that can save first listen for themselves."""
    raise Stopped(number)


def main() -> NoReturn:
    """Run the words of the command line and leave with their exit code."""
    signal.signal(signal.SIGTERM, _stop)
    gc.disable()  # nothing that is imported on the way to a verb is garbage
    from zhixing.cli.app import main as run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
