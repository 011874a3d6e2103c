"""Captions: what a model of the task transcribe says of a whole sound, or of one that is still coming in.

A short sound is heard whole, as `predict` hears it; a longer one is cut at pauses. Of a sound that comes in pieces, the utterance under
way is heard anew with every piece, and once more when it has ended: what stands then, stands. The delay of a caption is the time from when
its last samples were there to when it was given.
"""

from __future__ import annotations

import os
import select
import statistics
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

LEAST_BEAM = 8  # prefixes kept where a language model is asked
LEAST_SECONDS = 0.05  # of an utterance under way, before it is heard for the first time
WAIT_SECONDS = 0.05  # between two looks at a file that may grow
SAMPLE_BYTES = {1: {16: np.dtype("<i2"), 32: np.dtype("<i4")}, 3: {32: np.dtype("<f4")}}  # {format: {bits: how a sample is written}}


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


def voice(artefact: Artefact, beam: int, language: Artefact | None = None, weight: float = 1.0) -> tuple[Any, Any]:
    """Say how texts are searched: greedily, with a beam, or with a language model beside it, whose tokens mean the same letters.

    weight  of the language model's log p of each token, and nats that each token is given back, for it favours short texts

    Raises UsageError for a model that writes nothing, or whose tokens are other pieces of text.
    """
    from zhixing.decoding.ctc import Beside, Voice

    if language is None:
        return Voice(beam), None
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
    return Voice(max(beam, LEAST_BEAM), weight, weight), Beside(language.model, places, other.end_id)


def cut(artefact: Artefact, content: bytes) -> tuple[list[Utterance], int, float]:
    """Read a sound file, and cut it into what is heard at once; give these, their rate, and the seconds of the whole sound.

    Raises UsageError when the model does not hear, DataError when the sound cannot be used.
    """
    task = check(artefact)
    try:
        samples, rate = media.sound(content)
    except media.Unreadable as problem:
        raise DataError("sound.unreadable", reason=str(problem)) from None
    seconds = len(samples) / rate
    samples, rate = sound.resample(samples, rate, task.rate), task.rate
    whole = len(samples) <= task.seconds * rate
    return [Utterance(samples, 0.0)] if whole else utterances(samples, rate, task.seconds / 2), rate, seconds


def item_of(artefact: Artefact, utterance: Utterance) -> Any:
    """Encode an utterance as the task does a row's sound."""
    return item_of_samples(artefact.task, utterance.samples, artefact.task.rate, artefact.tokenizer is not None)


def hear(artefact: Artefact, content: bytes, decoding: Any = None) -> list[Caption]:
    """Give the captions of a sound file's content.

    Raises UsageError when the model does not hear, DataError when the sound cannot be used.
    """
    pieces, rate, _ = cut(artefact, content)
    items = [item_of(artefact, each) for each in pieces]
    answers = artefact.task.answers(artefact.model, items, artefact.tokenizer, decoding)
    return [
        Caption(answer.value, each.start, each.start + len(each.samples) / rate, confidence=answer.confidence)
        for answer, each in zip(answers, pieces, strict=True)
    ]


def follow(artefact: Artefact, pieces: Iterator[tuple[np.ndarray, float]], decoding: Any = None) -> Iterator[Caption]:
    """Give captions while a sound comes in: one that may change with every piece, one that stands at every pause.

    pieces  samples (N,) float at the task's rate, and when they were there, by time.monotonic()
    """
    task = check(artefact)
    pauses = Pauses(task.rate, most_seconds=task.seconds / 2)
    before = ""

    def caption(utterance: Utterance, final: bool, arrived: float) -> Caption:
        (answer,) = task.answers(artefact.model, [item_of(artefact, utterance)], artefact.tokenizer, decoding)
        end = utterance.start + len(utterance.samples) / task.rate
        return Caption(answer.value, utterance.start, end, final, answer.confidence, time.monotonic() - arrived)

    arrived = time.monotonic()
    for samples, arrived in pieces:
        for ended in pauses.push(samples):
            yield caption(ended, True, arrived)
            before = ""
        current = pauses.under_way()
        if current is not None and len(current.samples) >= LEAST_SECONDS * task.rate and current.samples.any():
            found = caption(current, False, arrived)
            if found.text != before:
                before = found.text
                yield found
    for ended in pauses.flush():
        yield caption(ended, True, arrived)


class Growing:
    """Bytes of a file that may still grow, or of a pipe: the end is where nothing has come for a while, or the pipe is closed."""

    def __init__(self, handle: BinaryIO, patience_seconds: float, stop: Stop | None = None) -> None:
        self.handle, self.patience, self.stop = handle, patience_seconds, stop
        self.pipe = not handle.seekable()

    def read(self, count: int, whole: bool = False) -> bytes:
        """Give the next bytes, at most so many; with `whole`, so many unless the end comes before; none at the end."""
        found = b""
        since = time.monotonic()
        while len(found) < count:
            if self.stop is not None:
                self.stop.check()
            if self.pipe and not select.select([self.handle], [], [], WAIT_SECONDS)[0]:
                continue
            piece = os.read(self.handle.fileno(), count - len(found))
            if piece:
                found, since = found + piece, time.monotonic()
                if not whole:
                    return found
            elif self.pipe or time.monotonic() - since >= self.patience:
                break
            else:
                time.sleep(WAIT_SECONDS)
        return found


def samples_of(
    source: Growing, rate: int, raw_rate: int | None, piece_seconds: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[tuple[np.ndarray, float]]:
    """Give the samples of a WAV file or of raw 16-bit samples as they come, brought to a rate, and when each piece was there.

    raw_rate  Hz, of raw samples; None: the wanted rate

    Raises DataError for a WAV file of a form that cannot be followed, or of a lower rate.
    """
    head = source.read(12, whole=True)
    given, channels, form, rest = raw_rate or rate, 1, SAMPLE_BYTES[1][16], head
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        given, channels, form = _header(source)
        rest = b""
    if given < rate:
        raise DataError("sound.rate", given=given, wanted=rate)
    size = form.itemsize * channels
    wanted = max(1, round(piece_seconds * given)) * size
    while True:
        piece = source.read(wanted - len(rest), whole=True)
        arrived = clock()
        rest += piece
        whole = len(rest) // size * size
        if whole:
            yield sound.resample(_floats(rest[:whole], form, channels), given, rate), arrived
        if not piece or len(rest) < wanted:
            return
        rest = rest[whole:]


def _floats(content: bytes, form: np.dtype[Any], channels: int) -> np.ndarray:
    numbers = np.frombuffer(content, form).reshape(-1, channels).astype(np.float32).mean(1)  # (N,)
    return numbers if form.kind == "f" else (numbers / np.float32(np.iinfo(form).max + 1)).astype(np.float32)


def _header(source: Growing) -> tuple[int, int, np.dtype[Any]]:
    """Read a WAV file's chunks up to its samples; give rate, channels and how a sample is written."""
    found: tuple[int, int, np.dtype[Any]] | None = None
    while True:
        chunk = source.read(8, whole=True)
        if len(chunk) < 8:
            raise DataError("transcribe.header")
        name, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if name == b"data":
            if found is None:
                raise DataError("transcribe.header")
            return found
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
