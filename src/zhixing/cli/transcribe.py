"""`zhixing transcribe`: a sound becomes text, whole or while it comes in."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from pathlib import Path

from zhixing.cli.console import Console, fit
from zhixing.core.errors import DataError, UsageError

WEIGHT, PIECE_SECONDS, PATIENCE_SECONDS = 1.0, 0.25, 2.0


def transcribe(
    model: Path,
    sound: str,
    /,
    *,
    follow: bool = False,
    lm: Path | None = None,
    beam: int | None = None,
    weight: float | None = None,
    piece: float | None = None,
    patience: float | None = None,
    rate: int | None = None,
    language: str = "",
    json: bool = False,
) -> None:
    """Write what is said in a sound file; with --follow, in one that is still being written or comes through a pipe."""
    from zhixing.data import media

    for name, value in (("--piece", piece), ("--patience", patience)):
        if value is not None and not follow:
            raise UsageError("transcribe.alone", flag=name, other="--follow")
        if value is not None and not 0.01 <= value <= 60:
            raise UsageError("usage.seconds", flag=name, value=value)
    if weight is not None and lm is None:
        raise UsageError("transcribe.alone", flag="--weight", other="--lm")
    for name, value, right in (("beam", beam, beam is None or beam >= 1), ("weight", weight, weight is None or 0 <= weight < math.inf)):
        if not right:
            raise UsageError("settings.range", setting=name, value=value, origin=f"--{name}")
    if sound == "-" and not follow:
        raise UsageError("transcribe.pipe")
    if follow is False and rate is not None:
        raise UsageError("transcribe.rate", value=rate)
    if rate is not None and not media.LEAST_RATE <= rate <= media.MOST_RATE:
        raise UsageError("transcribe.raw_rate", value=rate, least=media.LEAST_RATE, most=media.MOST_RATE)
    if sound != "-" and not Path(sound).is_file():
        raise DataError("file.missing", path=sound)
    from zhixing.core.stop import Stop
    from zhixing.evaluation import captions
    from zhixing.tasks.artefact import load

    console = Console(json)
    console.tell("cli.transcribe.follows" if follow else "cli.transcribe.will", model=model, sound=sound)
    opened = load(model)
    task = captions.check(opened)
    captions.check_language(opened, language)
    decoding = captions.voice(opened, beam, None if lm is None else load(lm), WEIGHT if weight is None else weight)
    if not follow:
        found, seconds = captions.hear(opened, Path(sound).read_bytes(), decoding, language)
        words = " ".join(each.text for each in found if each.text)
        console.answer(words, {"text": words, "segments": [dataclasses.asdict(each) for each in found]})
        if words:
            console.tell("cli.transcribe.done", seconds=seconds, words=len(words.split()))
        else:
            console.tell("cli.transcribe.silent", seconds=seconds)
        return
    delays, stop = captions.Delays(), Stop().install()
    terminal = sys.stdout.isatty() and not json
    with open(sys.stdin.fileno() if sound == "-" else sound, "rb", buffering=0, closefd=sound != "-") as handle:
        growing = captions.Growing(handle, PATIENCE_SECONDS if patience is None else patience, stop)
        pieces = captions.samples_of(growing, task.rate, rate, PIECE_SECONDS if piece is None else piece, task.written)
        try:
            for each in captions.follow(opened, pieces, decoding, growing.waiting, language):
                if json:
                    console.answer("", dataclasses.asdict(each))
                elif terminal:
                    console.write(drawn(each.text, each.final, shutil.get_terminal_size().columns))
                elif each.final:
                    console.write(each.text + "\n")
                delays.seconds.append(each.delay_seconds)
        except DataError:
            stop.check()  # a head that was broken off is no fault of the file's
            raise
        finally:
            if delays.seconds:
                told = {"median": 1000 * delays.median, "worst": 1000 * delays.worst}
                console.tell("cli.transcribe.delay", captions=len(delays.seconds), **told)
    stop.check()
    if not delays.seconds:
        console.tell("cli.transcribe.none")


def drawn(text: str, final: bool, columns: int) -> str:
    """Draw a caption over the one before it on a terminal; one that may change stays within the line, for only a line can be drawn over."""
    return f"\r{text}\x1b[K\n" if final else f"\r{fit(text, columns - 1)}\x1b[K"
