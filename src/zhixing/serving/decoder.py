"""Sounds and pictures that others send are unfolded in a process of its own, whose memory and time are bounded, and become plain numbers.

What a decoder of files gets wrong happens there: a process that dies or is stuck is replaced, and only that request hears of it. The
numbers are written again as a sound or a picture of ours, so that whoever reads them next reads nothing that a stranger wrote.

    server ── sort, size, bytes ──▶ process ── numbers, or the code of a reason ──▶ server

Leaves out: shielding from what a taken-over process could do besides (it may read what the server's user may).
"""

from __future__ import annotations

import atexit
import contextlib
import resource
import struct
import subprocess
import sys
import threading
from typing import Any

import numpy as np

from zhixing.core import apart
from zhixing.core.errors import RunError, UsageError
from zhixing.data import media

MEMORY_BYTES = 1 << 30  # of the process: the largest picture takes about a quarter of it
SECONDS = 10.0  # for one sound or picture, by the clock and of the processor
MOST_ITEMS = 1000  # that one process unfolds
MOST_TOLD = max(3 * media.MOST_PIXELS, 4 * int(media.MOST_SECONDS * media.MOST_RATE)) + 8  # bytes of an answer
FILES = 32  # that it may have open
ASKED, TOLD = struct.Struct("<BIQ"), struct.Struct("<BQ")
PICTURE, HEARD = struct.Struct("<II"), struct.Struct("<I")
SORTS = ("sound", "image")


class Decoder:
    """A process that unfolds, begun when it is needed, one item at a time.

    command  what is begun; another one is for tests
    """

    def __init__(self, seconds: float = SECONDS, command: tuple[str, ...] | None = None) -> None:
        self.seconds = seconds
        self.command = command or apart.command("from zhixing.serving import decoder; decoder.unfold()")
        self._process: subprocess.Popen[bytes] | None = None
        self._items = 0
        self._lock = threading.Lock()

    def clean(self, url: str, sort: str, size: int | None = None) -> str:
        """Give a data URL of our own making that holds what a stranger's does.

        sort  "sound" or "image"
        size  pixels of a side, of a picture that is read as a square; None: as large as it is

        Raises Unreadable with the code of the reason, "undecoded" where the process did not come to an end within its bounds.
        """
        content = media.content_of(url)
        if sort == "sound":
            samples, rate = self.samples(content)
            return media.data_url(float_wav(samples.astype("<f4").tobytes(), rate), "audio/wav")
        found = self._numbers(sort, content, size or 0)
        try:
            rows, columns = PICTURE.unpack_from(found)
            pixels = np.frombuffer(found, np.uint8, offset=PICTURE.size).reshape(3, rows, columns)
        except (struct.error, ValueError):
            raise media.Unreadable("undecoded") from None
        return media.data_url(media.png(pixels), "image/png")

    def samples(self, content: bytes) -> tuple[np.ndarray, int]:
        """Give what a sound file's content holds: (N,) float32, and how many of them make a second. Raises Unreadable as `clean` does."""
        found = self._numbers("sound", content)
        try:
            (rate,) = HEARD.unpack_from(found)
            return np.frombuffer(found, "<f4", offset=HEARD.size).astype(np.float32), rate
        except (struct.error, ValueError):
            raise media.Unreadable("undecoded") from None

    def _numbers(self, sort: str, content: bytes, size: int = 0) -> bytes:
        """Ask the process, one question at a time; raises Unreadable with what it tells, UsageError when a library is missing."""
        media.need(sort)
        with self._lock:
            good, found = self._ask(SORTS.index(sort), size, content)
        if not good:
            raise media.Unreadable(found.decode("ascii"))
        return found

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()
                except OSError:  # what was not written yet cannot be any more
                    pass
            process.wait()

    def _ask(self, sort: int, size: int, content: bytes) -> tuple[bool, bytes]:
        if self._process is None or self._process.poll() is not None or self._items >= MOST_ITEMS:
            self.close()
            self._process, self._items = self._begin(), 0
        process = self._process
        self._items += 1
        watch = threading.Timer(self.seconds, process.kill)
        watch.start()
        try:
            process.stdin.write(ASKED.pack(sort, size, len(content)) + content)
            process.stdin.flush()
            good, length = TOLD.unpack(_exactly(process.stdout, TOLD.size))
            return bool(good), _exactly(process.stdout, length)
        except (OSError, EOFError):
            self.close()
            return False, b"undecoded"
        finally:
            watch.cancel()

    def _begin(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=apart.environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
            )
        except OSError as problem:
            raise RunError("serve.decoder") from problem


def _exactly(source: Any, count: int) -> bytes:
    """Read so many bytes; raises EOFError when there are fewer, or when they are more than any answer has."""
    if count > MOST_TOLD:
        raise EOFError
    found = source.read(count)
    if len(found) < count:
        raise EOFError
    return found


def float_wav(samples: bytes, rate: int) -> bytes:
    """Write samples, float32 as they lie, as a WAV file of floats: nothing is rounded."""
    form = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    count = struct.pack("<I", len(samples) // 4)
    chunks = b"".join(name + struct.pack("<I", len(each)) + each for name, each in ((b"fmt ", form), (b"fact", count), (b"data", samples)))
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def unfold() -> None:
    """Be the process: answer until nobody asks any more."""
    limit()
    asked, told = sys.stdin.buffer, sys.stdout.buffer
    while len(head := asked.read(ASKED.size)) == ASKED.size:
        sort, size, length = ASKED.unpack(head)
        content = asked.read(length)
        grant()
        try:
            good, found = 1, unfolded(SORTS[sort], size, content)
        except media.Unreadable as reason:
            good, found = 0, str(reason).encode("ascii")
        except MemoryError:
            good, found = 0, b"large_media"
        told.write(TOLD.pack(good, len(found)))
        told.write(found)
        told.flush()


def unfolded(sort: str, size: int, content: bytes) -> bytes:
    """Give the numbers of a sound or a picture, with its rate or its size before them."""
    if sort == "image":
        pixels = media.image(content)
        pixels = media.square(pixels, size) if size else pixels
        return PICTURE.pack(*pixels.shape[1:]) + pixels.tobytes()
    samples, rate = media.sound(content)
    if media.cut_off(content):
        raise media.Unreadable("truncated_sound")
    return HEARD.pack(rate) + samples.astype("<f4").tobytes()


def limit() -> None:
    """Bound this process: memory, no files written, few open, none of its memory left on the disk when it dies."""
    for use in (lambda: media.image(media.png(np.zeros((3, 1, 1), np.uint8))), lambda: media.sound(media.wav(np.ones(9) / 2, 8000))):
        with contextlib.suppress(UsageError):  # whoever serves pictures alone may not have what reads sounds
            use()  # what is loaded at first use is loaded before files are few
    apart.limit(MEMORY_BYTES, FILES)


def grant() -> None:
    """Give this process so many more seconds of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    wanted = int(used.ru_utime + used.ru_stime + SECONDS) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


DECODER = Decoder()  # of this server: its process begins with the first sound or picture
atexit.register(DECODER.close)
