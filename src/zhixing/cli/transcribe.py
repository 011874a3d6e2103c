"""`zhixing transcribe`: a sound becomes text, whole or while it comes in."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from zhixing.cli.console import Console
from zhixing.core.errors import DataError, UsageError


def transcribe(
    model: Path,
    sound: str,
    /,
    *,
    follow: bool = False,
    lm: Path | None = None,
    beam: int | None = None,
    weight: float = 1.0,
    piece: float = 0.25,
    patience: float = 2.0,
    rate: int | None = None,
    json: bool = False,
) -> None:
    """Write what is said in a sound file; with --follow, in one that is still being written or comes through a pipe."""
    for name, value in (("--piece", piece), ("--patience", patience)):
        if not 0.01 <= value <= 60:
            raise UsageError("usage.seconds", flag=name, value=value)
    if sound == "-" and not follow:
        raise UsageError("transcribe.pipe")
    if follow is False and rate is not None:
        raise UsageError("transcribe.rate", value=rate)
    if sound != "-" and not Path(sound).is_file():
        raise DataError("file.missing", path=sound)
    from zhixing.core.stop import Stop
    from zhixing.evaluation import captions
    from zhixing.tasks.artefact import load

    console = Console(json)
    console.tell("cli.transcribe.follows" if follow else "cli.transcribe.will", model=model, sound=sound)
    opened = load(model)
    task = captions.check(opened)
    decoding = captions.voice(opened, task.beam if beam is None else beam, None if lm is None else load(lm), weight)
    if not follow:
        found = captions.hear(opened, Path(sound).read_bytes(), decoding)
        words = " ".join(each.text for each in found if each.text)
        console.answer(words, {"text": words, "segments": [dataclasses.asdict(each) for each in found]})
        console.tell("cli.transcribe.done", seconds=found[-1].end if found else 0.0, words=len(words.split()))
        return
    delays, stop = captions.Delays(), Stop().install()
    terminal = sys.stdout.isatty() and not json
    with open(sys.stdin.fileno() if sound == "-" else sound, "rb", buffering=0, closefd=sound != "-") as handle:
        growing = captions.Growing(handle, patience, stop)
        try:
            for each in captions.follow(opened, captions.samples_of(growing, task.rate, rate, piece), decoding):
                if json:
                    console.answer("", dataclasses.asdict(each))
                elif terminal:
                    console.write("\r" + each.text + ("\x1b[K\n" if each.final else "\x1b[K"))
                elif each.final:
                    console.write(each.text + "\n")
                delays.seconds.append(each.delay_seconds)
        finally:
            told = {"median": 1000 * delays.median, "worst": 1000 * delays.worst}
            console.tell("cli.transcribe.delay", captions=len(delays.seconds), **told)
