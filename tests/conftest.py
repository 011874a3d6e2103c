"""What every test stands on: one thread, English messages, our source for child processes too, and the way to the real data sets."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Before anything imports torch or NumPy: other numbers of threads give other last bits.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["ZHIXING_LANG"] = "en"
for _name in ("ZHIXING_DEBUG", "ZHIXING_KEY"):
    os.environ.pop(_name, None)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples in every run, and no red from a slow machine.
    settings.register_profile("zhixing", derandomize=True, deadline=None)
    settings.load_profile("zhixing")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the signals back to the test runner: verbs that can save listen to them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def collections(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep Hypothesis from timing the garbage collector in other tests than its own: a `within` that rings in its callback is swallowed."""
    if hasattr(request.function, "hypothesis"):
        yield
        return
    before = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = before


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Give the folder of a real data set by name; the test skips, and says why, when it is not there."""

    def find(name: str) -> Path:
        place = os.environ.get("ZHIXING_DATA")
        if not place:
            pytest.skip("ZHIXING_DATA is not set: the real data sets are not here")
        folder = Path(place) / name
        if not folder.exists():
            pytest.skip(f"the data set '{name}' is not in $ZHIXING_DATA")
        return folder

    return find


@pytest.fixture(scope="session")
def golden() -> Callable[[str, str], None]:
    """Compare text with a frozen file of tests/golden; ZHIXING_WRITE_GOLDEN=1 writes the file, for a reader to judge the change."""

    def compare(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if os.environ.get("ZHIXING_WRITE_GOLDEN") == "1":
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; if that is meant, run with ZHIXING_WRITE_GOLDEN=1"

    return compare
