"""Time that is kept from outside: a block is broken off when its time is out, and other alarms go on."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from zhixing.core.files import atomic
from zhixing.core.stop import Late, within


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_block_is_broken_off_when_its_time_is_out() -> None:
    start = time.monotonic()
    with pytest.raises(Late), within(0.1):
        spin(20)
    assert time.monotonic() - start < 10
    with within(30):
        spin(0.01)
    spin(0.2)  # nothing rings afterwards


def test_what_swallows_it_hears_it_again() -> None:
    with pytest.raises(Late), within(0.05):
        try:
            spin(20)
        except Late:
            pass
        spin(20)


def test_a_file_being_written_is_whole_before_the_block_is_broken_off(tmp_path: Path) -> None:
    path = tmp_path / "made"
    with pytest.raises(Late), within(0.05):
        with atomic(path) as handle:
            spin(0.2)
            handle.write(b"whole")
        spin(20)
    assert path.read_bytes() == b"whole" and [one.name for one in tmp_path.iterdir()] == ["made"]


def test_the_alarm_of_others_goes_on() -> None:
    rung: list[int] = []
    handler, rest = signal.getsignal(signal.SIGALRM), signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Late), within(0.1):
            spin(20)
        assert rung == []
        spin(1.0)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *rest)


def test_elsewhere_the_block_runs_to_its_end() -> None:
    ended: list[bool] = []

    def work() -> None:
        with within(0.01):
            spin(0.1)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]
