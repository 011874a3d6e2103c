"""Captions: what a model of the task transcribe says of a whole sound, or of one that is still coming in.

A short sound is heard whole, as `predict` hears it; a longer one is cut at pauses. Of a sound that comes in pieces, the utterance under
way is heard anew with every piece, but not while the next one waits, and once more when it has ended: what stands then, stands. The delay
of a caption is the time from when its last samples were there to when it was given; of samples that had to wait, it is reckoned from the
sound's own pace when they were there.
"""

from __future__ import annotations

import array
import fcntl
import functools
import math
import os
import select
import statistics
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.core.stop import Stop
from zhixing.data import media, sound
from zhixing.data.pauses import Pauses, Utterance, utterances
from zhixing.tasks.artefact import Artefact
from zhixing.tasks.transcribe import item_of as item_of_samples
from zhixing.tokens.layout import FIRST_PIECE

LEAST_BEAM = 8  # prefixes kept where a language model is asked, unless it is said how many
LEAST_SECONDS = 0.05  # of an utterance under way, before it is heard for the first time
WAIT_SECONDS = 0.05  # between two looks at a file that may grow
HELD_BYTES = 1 << 15  # that a pipe can surely hold
AROUND = 10  # samples of the lower rate on each side, on which one depends: the filter of scipy's resample_poly
SAMPLE_BYTES = {1: {16: np.dtype("<i2"), 32: np.dtype("<i4")}, 3: {32: np.dtype("<f4")}}  # {format: {bits: how a sample is written}}
LONGEST_SECONDS = 14_400.0  # of a person's own file, which is cut at pauses
Unfold = Callable[[bytes], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Caption:
    """What was said in a piece of a sound.

    start, end     float, seconds    from the beginning of the sound
    final          bool              False: the utterance goes on, and its words may change
    delay_seconds  float             from when its last samples were there to when it was known; None: nothing was waited for
    """

    text: str
    start: float
    end: float
    final: bool = True
    confidence: float | None = None
    delay_seconds: float | None = None


@dataclass
class Delays:
    """The delays of captions, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def worst(self) -> float:
        """The longest one."""
        return max(self.seconds, default=0.0)


def check(artefact: Artefact) -> Any:
    """Give a model's task; raises UsageError when it does not hear."""
    if artefact.task.name != "transcribe":
        raise UsageError("transcribe.task", path=str(artefact.folder.path), task=artefact.task.name)
    return artefact.task


def voice(artefact: Artefact, beam: int | None, language: Artefact | None = None, weight: float = 1.0) -> tuple[Any, Any]:
    """Say how texts are searched: greedily, with a beam, or with a language model beside it, whose tokens mean the same letters.

    beam    prefixes kept; None: as the model's task says
    weight  of the language model's log p of each token, and nats that each token is given back, for it favours short texts

    Raises UsageError for a language model that writes nothing, or whose tokens are other pieces of text, and for templates, which search
    nothing, when they are to.
    """
    from zhixing.decoding.ctc import Beside, Voice

    plain = Voice(artefact.task.beam if beam is None else beam)
    if artefact.tokenizer is None:
        if language is not None or plain.width > 1 and beam is not None:
            raise UsageError("transcribe.templates", path=str(artefact.folder.path), flag="--lm" if language is not None else "--beam")
        return Voice(), None
    if language is None:
        return plain, None
    if artefact.task.written:
        raise UsageError("transcribe.written", path=str(artefact.folder.path))
    if language.task.name != "language":
        raise UsageError("usage.not_language", path=str(language.folder.path), task=language.task.name)
    of, other = artefact.tokenizer, language.tokenizer
    places = np.full(of.vocabulary_size, -1, np.int64)  # of each token of the one, which it is of the other
    for token in range(FIRST_PIECE, of.vocabulary_size):
        found = other.encode(of.decode([token]))
        if len(found) == 1:
            places[token] = found[0]
    if (places[FIRST_PIECE:] < 0).any():
        strange = of.decode([FIRST_PIECE + int(np.argmin(places[FIRST_PIECE:]))])
        raise UsageError("transcribe.tokens", path=str(language.folder.path), token=strange, model=str(artefact.folder.path))
    width = plain.width if beam is not None else max(plain.width, LEAST_BEAM)
    return Voice(width, weight, weight), Beside(language.model, places, other.end_id)


def cut(artefact: Artefact, content: bytes, unfold: Unfold = media.sound) -> tuple[list[Utterance], int, float]:
    """Read a sound file, and cut it into what is heard at once; give these, their rate, and the seconds of the whole sound.

    unfold  gives a file's (N,) float samples and its rate; raises Unreadable

    Raises UsageError when the model does not hear, DataError when the sound cannot be used.
    """
    task = check(artefact)
    try:
        samples, rate = unfold(content)
    except media.Unreadable as problem:
        if str(problem) == "truncated_sound":
            raise DataError("sound.truncated") from None
        raise DataError("sound.unreadable", reason=str(problem)) from None
    if media.cut_off(content):
        raise DataError("sound.truncated")
    seconds = len(samples) / rate
    samples, rate = sound.resample(samples, rate, task.rate, raised=task.written), task.rate
    whole = len(samples) <= task.seconds * rate
    return [Utterance(samples, 0.0)] if whole else utterances(samples, rate, task.seconds / 2), rate, seconds


def check_language(artefact: Artefact, language: str) -> None:
    """Refuse a language that a model does not tell apart from others; "" is none."""
    among = check(artefact).languages
    if language and language not in among:
        raise UsageError("transcribe.language", value=language, among=", ".join(among) or "-")


def item_of(artefact: Artefact, utterance: Utterance, language: str = "") -> Any:
    """Encode an utterance as the task does a row's sound; language: in which it is to be written down, where the model knows several."""
    return item_of_samples(artefact.task, utterance.samples, artefact.task.rate, artefact.tokenizer is not None, language)


def hear(artefact: Artefact, content: bytes, decoding: Any = None, language: str = "") -> tuple[list[Caption], float]:
    """Give the captions of a sound file's content, and its seconds.

    Raises UsageError when the model does not hear, or not in that language, DataError when the sound cannot be used.
    """
    check_language(artefact, language)
    pieces, rate, seconds = cut(artefact, content, functools.partial(media.sound, most_seconds=LONGEST_SECONDS))
    items = [item_of(artefact, each, language) for each in pieces]
    answers = artefact.task.answers(artefact.model, items, artefact.tokenizer, decoding)
    captions = [
        Caption(answer.value, each.start, each.start + len(each.samples) / rate, confidence=answer.confidence)
        for answer, each in zip(answers, pieces, strict=True)
    ]
    return captions, seconds


def follow(
    artefact: Artefact,
    pieces: Iterator[tuple[np.ndarray, float]],
    decoding: Any = None,
    waiting: Callable[[], bool] = lambda: False,
    language: str = "",
) -> Iterator[Caption]:
    """Give captions while a sound comes in: one that may change with every piece, one that stands at every pause.

    pieces   samples (N,) float at the task's rate, and when they were there, by time.monotonic()
    waiting  says whether the next piece is there already: then no time is spent on a caption that may change
    """
    task = check(artefact)
    pauses = Pauses(task.rate, most_seconds=task.seconds / 2)
    before = ""

    def caption(utterance: Utterance, final: bool, arrived: float) -> Caption:
        (answer,) = task.answers(artefact.model, [item_of(artefact, utterance, language)], artefact.tokenizer, decoding)
        end = utterance.start + len(utterance.samples) / task.rate
        return Caption(answer.value, utterance.start, end, final, answer.confidence, time.monotonic() - arrived)

    arrived = time.monotonic()
    for samples, arrived in pieces:
        for ended in pauses.push(samples):
            yield caption(ended, True, arrived)
            before = ""
        current = None if waiting() else pauses.under_way()
        if current is not None and len(current.samples) >= LEAST_SECONDS * task.rate and current.samples.any():
            found = caption(current, False, arrived)
            if found.text != before:
                before = found.text
                yield found
    for ended in pauses.flush():
        yield caption(ended, True, arrived)


class Growing:
    """Bytes of a file that may still grow, or of a pipe.

    The end is where nothing has come for a while, the pipe is closed, or a stop was asked for.

    came    float, time.monotonic()  when the last bytes were read
    waited  bool                     the last read found that not all was there yet
    """

    def __init__(self, handle: BinaryIO, patience_seconds: float, stop: Stop | None = None) -> None:
        self.handle, self.patience, self.stop = handle, patience_seconds, stop
        self.pipe = not handle.seekable()
        self.came, self.waited, self.asked = time.monotonic(), False, 0

    def read(self, count: int, whole: bool = False) -> bytes:
        """Give the next bytes, at most so many; with `whole`, so many unless the end comes before; none at the end."""
        found, self.waited, self.asked = b"", False, count
        since = time.monotonic()
        while len(found) < count and not self.stop:
            if self.pipe and not select.select([self.handle], [], [], 0)[0]:
                self.waited = True
                select.select([self.handle], [], [], WAIT_SECONDS)
                continue
            piece = os.read(self.handle.fileno(), count - len(found))
            if piece:
                found, since = found + piece, time.monotonic()
                self.came = since
                if not whole:
                    return found
            elif self.pipe or time.monotonic() - since >= self.patience:
                break
            else:
                self.waited = True
                time.sleep(WAIT_SECONDS)
        return found

    def waiting(self) -> bool:
        """Say whether as much as the last read asked for is there already."""
        if not self.pipe:
            return os.fstat(self.handle.fileno()).st_size - self.handle.tell() >= self.asked
        count = array.array("i", [0])
        fcntl.ioctl(self.handle.fileno(), termios.FIONREAD, count)
        return count[0] >= min(self.asked, HELD_BYTES)


class Lowered:
    """Brings a sound that comes in pieces to another rate as if it were whole: what hangs on samples still to come comes with them."""

    def __init__(self, given: int, wanted: int) -> None:
        self.given, self.wanted = given, wanted
        common = math.gcd(given, wanted)
        self.up, self.down = wanted // common, given // common
        self.around = -(-AROUND * max(self.up, self.down) // self.up) + 1  # samples of the given rate
        self.kept = np.zeros(0, np.float32)  # from a place on at which a sample of the one rate falls on one of the other
        self.known = 0  # samples of the lower rate since that place that were given away

    def push(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """Take samples in, and give those of the lower rate that are settled with them; all that are left with the last.

        samples  (N,) float32
        return   (N,) float32, N of the lower rate
        """
        if self.given == self.wanted:
            return samples
        self.kept = np.concatenate([self.kept, samples])
        if not len(self.kept):
            return self.kept
        whole = sound.resample(self.kept, self.given, self.wanted, raised=True)
        stop = len(whole) if last else max(self.known, (len(self.kept) - self.around) * self.up // self.down)
        found, self.known = whole[self.known : stop], stop
        past = max(0, stop * self.down // self.up - self.around) // self.down
        self.kept, self.known = self.kept[past * self.down :], stop - past * self.up
        return found


def samples_of(
    source: Growing, rate: int, raw_rate: int | None, piece_seconds: float, raised: bool = False
) -> Iterator[tuple[np.ndarray, float]]:
    """Give the samples of a WAV file or of raw 16-bit samples as they come, brought to a rate, and when each piece was there.

    A piece that nobody waited for may have been there for long: it came as much after an earlier one as there are samples between them.

    raw_rate  Hz, of raw samples; None: the wanted rate
    raised    a lower rate is brought to the wanted one as well

    Raises UsageError for the rate of a WAV file, DataError for one of a form that cannot be followed, or of a lower rate.
    """
    head = source.read(12, whole=True)
    given, channels, form, left, rest = rate if raw_rate is None else raw_rate, 1, SAMPLE_BYTES[1][16], math.inf, head
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        if raw_rate is not None:
            raise UsageError("transcribe.rate", value=raw_rate)
        given, channels, form, left = _header(source)
        rest = b""
    if given < rate and not raised:
        raise DataError("sound.rate", given=given, wanted=rate)
    size = form.itemsize * channels
    wanted = max(1, round(piece_seconds * given)) * size
    lowered, heard, begun, last = Lowered(given, rate), 0, math.inf, False
    while not last:
        piece = source.read(int(min(wanted - len(rest), left)), whole=True)
        left -= len(piece)
        rest += piece
        last = len(rest) < wanted
        whole = len(rest) // size * size
        if whole:
            heard += whole // size
            begun = min(math.inf if source.waited else begun, source.came - heard / given)
        found = lowered.push(_floats(rest[:whole], form, channels), last)
        if len(found):
            yield found, begun + heard / given
        rest = rest[whole:]


def _floats(content: bytes, form: np.dtype[Any], channels: int) -> np.ndarray:
    numbers = np.frombuffer(content, form).reshape(-1, channels).astype(np.float32).mean(1)  # (N,)
    return numbers if form.kind == "f" else (numbers / np.float32(np.iinfo(form).max + 1)).astype(np.float32)


def _header(source: Growing) -> tuple[int, int, np.dtype[Any], float]:
    """Read a WAV file's chunks up to its samples; give rate, channels, how a sample is written, and the bytes of samples."""
    found: tuple[int, int, np.dtype[Any]] | None = None
    while True:
        chunk = source.read(8, whole=True)
        if len(chunk) < 8:
            raise DataError("transcribe.header")
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data":
            if found is None:
                raise DataError("transcribe.header")
            return *found, size if 0 < size < media.UNKNOWN_BYTES else math.inf
        if size > media.MOST_BYTES:
            raise DataError("transcribe.header")
        content = source.read(size + size % 2, whole=True)
        if name == b"fmt " and len(content) >= 16:
            sort, channels, rate = (int.from_bytes(content[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
            bits = int.from_bytes(content[14:16], "little")
            if sort == 0xFFFE and len(content) >= 26:  # the form stands further on
                sort = int.from_bytes(content[24:26], "little")
            if bits not in SAMPLE_BYTES.get(sort, {}) or not 1 <= channels <= 8 or not media.LEAST_RATE <= rate <= media.MOST_RATE:
                raise DataError("transcribe.header")
            found = rate, channels, SAMPLE_BYTES[sort][bits]
