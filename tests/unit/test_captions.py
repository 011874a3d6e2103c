"""Utterances found by their pauses, captions of sounds that are there and of sounds still coming in, and the verb that gives them."""

from __future__ import annotations

import array
import fcntl
import io
import json
import os
import random
import signal
import struct
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import HERTZ, heard, tone

from zhixing import load, prepare, train
from zhixing.cli.app import main
from zhixing.cli.transcribe import drawn
from zhixing.core.errors import DataError, UsageError
from zhixing.data import media, sound
from zhixing.data.pauses import Pauses, utterances
from zhixing.decoding.ctc import Voice
from zhixing.evaluation import captions
from zhixing.preparation.prepare import Prepare

RATE = 8000
SMALL = {
    "model": "conformer",
    "size": "tiny",
    "width": 32,
    "batch": 8,
    "precision": "fp32",
    "threads": 1,
    "learning_rate": 0.02,
    "steps": 200,
}


def quiet(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.002, int(seconds * RATE)).astype(np.float32)


def said(*words: str) -> np.ndarray:
    """Say words as those of training are said."""
    parts = [np.zeros(400)]
    for word in words:
        parts += [tone(HERTZ[word], 0.15), np.zeros(400)]
    whole = np.concatenate(parts)
    return (whole + np.random.default_rng(len(words)).normal(0, 0.01, len(whole))).astype(np.float32)


# Pauses.


def test_utterances_are_found_between_pauses() -> None:
    whole = np.concatenate([quiet(1.0), tone(500, 0.6), quiet(0.8, 1), tone(900, 0.3), quiet(0.2, 2), tone(900, 0.3), quiet(1.0, 3)])
    found = utterances(whole, RATE)
    assert len(found) == 2, "a gap of 0.2 s is no pause, one of 0.8 s is"
    assert [each.start for each in found] == pytest.approx([0.8, 2.2], abs=0.1)
    assert [len(each.samples) / RATE for each in found] == pytest.approx([1.0, 1.2], abs=0.15)
    assert utterances(quiet(2.0), RATE) == [] and utterances(np.zeros(RATE, np.float32), RATE) == []


@pytest.mark.parametrize("size", [37, 800, 100_000])
def test_the_size_of_pieces_changes_nothing(size: int) -> None:
    whole = np.concatenate([quiet(0.7), tone(500, 0.6), quiet(0.8, 1), tone(900, 0.5), quiet(0.9, 2)])
    pauses, found = Pauses(RATE), []
    for start in range(0, len(whole), size):
        found += pauses.push(whole[start : start + size])
    found += pauses.flush()
    wanted = utterances(whole, RATE)
    assert [each.start for each in found] == [each.start for each in wanted]
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(found, wanted, strict=True))


def test_what_never_pauses_is_cut_all_the_same_and_nothing_is_lost() -> None:
    whole = tone(600, 7.0)
    whole[int(3.2 * RATE) : int(3.3 * RATE)] *= 0.2  # the quietest place
    pauses = Pauses(RATE, most_seconds=4.0)
    found = [*pauses.push(np.concatenate([quiet(0.5), whole])), *pauses.flush()]
    assert len(found) >= 2 and all(len(each.samples) <= 4.1 * RATE for each in found)
    assert sum(len(each.samples) for each in found) / RATE == pytest.approx(7.2, abs=0.15)
    assert found[0].start + len(found[0].samples) / RATE == pytest.approx(3.75, abs=0.15), "cut at the quietest place of its second half"


@pytest.mark.parametrize("rest", [0.0, 2.0])
@pytest.mark.parametrize("seconds", [14.80, 14.82, 14.86])
def test_what_is_left_of_a_cut_is_heard_though_nobody_speaks_on(seconds: float, rest: float) -> None:
    found = utterances(np.concatenate([quiet(0.5), tone(600, seconds), quiet(rest, 1)]), RATE)
    assert len(found) == 2 and found[0].start == pytest.approx(0.3, abs=0.05)
    ends = [each.start + len(each.samples) / RATE for each in found]
    assert ends[0] == pytest.approx(found[1].start) and ends[1] >= 0.5 + seconds - 0.02


# Captions.


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, draw = tmp_path_factory.mktemp("captions"), random.Random(7)
    rows = [heard(draw, number) for number in range(160)]
    (place / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(place / "rows.jsonl", place / "corpus", Prepare(task="transcribe", validation=0.0, test=0.1))
    train(place / "corpus", place / "model", SMALL)
    texts = "\n".join(each["text"] for each in rows)
    (place / "texts.txt").write_text(texts + "\n", encoding="utf-8")
    prepare(place / "texts.txt", place / "texts", Prepare())
    train(place / "texts", place / "ngram", {"model": "ngram", "order": 4})
    return place / "model"


def test_a_whole_file_is_heard_as_predict_hears_it(model: Path) -> None:
    opened = load(model)
    content = media.wav(said("do", "mi"), RATE)
    (caption,), seconds = captions.hear(opened, content)
    (answer,) = opened.predict([{"audio": media.data_url(content, "audio/wav")}])
    assert (caption.text, caption.confidence) == (answer.value, answer.confidence)
    assert caption.text == "do mi" and caption.final and caption.delay_seconds is None
    assert seconds == pytest.approx(len(said("do", "mi")) / RATE)
    with pytest.raises(DataError) as caught:
        captions.hear(opened, content[:-400])
    assert caught.value.code == "sound.truncated"


def test_a_long_file_is_cut_at_its_pauses(model: Path) -> None:
    opened = load(model)
    whole = np.concatenate([np.concatenate([quiet(8.0, 2 * n), said("do", "re"), quiet(8.0, 2 * n + 1)]) for n in range(3)])
    found, seconds = captions.hear(opened, media.wav(whole, RATE))
    assert len(whole) > opened.task.seconds * RATE and len(found) == 3 and seconds == pytest.approx(len(whole) / RATE)
    assert [each.start for each in found] == pytest.approx([7.9, 24.5, 41.1], abs=0.6)


def test_a_language_model_is_asked_in_its_own_tokens(model: Path) -> None:
    opened, counted = load(model), load(model.parent / "ngram")
    voice, beside = captions.voice(opened, None, counted, 0.3)
    assert voice.width == captions.LEAST_BEAM
    assert captions.voice(opened, 3, counted)[0].width == 3, "as many as were asked for"
    token = int(opened.tokenizer.encode("d")[0])
    beside.ask([()])
    assert beside.log((), token) == pytest.approx(float(counted.score("d").log_probabilities[0]), abs=1e-5)
    (caption,), _ = captions.hear(opened, media.wav(said("do", "mi"), RATE), (voice, beside))
    assert caption.text == "do mi"
    with pytest.raises(UsageError, match="transcribe"):
        captions.voice(opened, 1, opened)
    assert captions.voice(opened, 3) == (Voice(3), None) and captions.voice(opened, None) == (Voice(1), None)


def test_templates_search_no_texts(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(model.parent / "corpus", model.parent / "dtw", {"model": "dtw"})
    (tmp_path / "a.wav").write_bytes(media.wav(said("re", "do"), RATE))
    words = ["transcribe", str(model.parent / "dtw"), str(tmp_path / "a.wav")]
    for more in (["--lm", str(model.parent / "ngram")], ["--beam", "50"]):
        assert main([*words, *more, "--json"]) == 2
        told = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert told["code"] == "transcribe.templates" and more[0] in told["what"]
    assert main(words) == 0 and main([*words, "--beam", "1"]) == 0


def test_captions_come_while_the_sound_does(model: Path) -> None:
    opened = load(model)
    whole = np.concatenate([quiet(0.6), said("do", "re"), quiet(0.9, 1), said("mi"), quiet(0.9, 2)])
    begun = time.monotonic()
    pieces = [(whole[start : start + 800], begun - 5) for start in range(0, len(whole), 800)]
    found = list(captions.follow(opened, iter(pieces)))
    final = [each for each in found if each.final]
    assert len(final) == 2 and any(not each.final for each in found)
    delays = [each.delay_seconds for each in found]
    assert delays == sorted(delays) and 5 < delays[0] and delays[-1] < 5 + time.monotonic() - begun, "from when the samples were there"
    assert found[0].end < final[0].end + 1e-9 and final[0].start < final[1].start
    late = list(captions.follow(opened, iter(pieces), waiting=lambda: True))
    assert [each.text for each in late] == [each.text for each in final] and all(each.final for each in late), "it catches up"


def send(writer: int, content: bytes, size: int, seconds: float, close: bool = True) -> threading.Thread:
    """Write content into a pipe, so many bytes every so many seconds."""

    def write() -> None:
        begun = time.monotonic()
        for number, start in enumerate(range(0, len(content), size)):
            time.sleep(max(0.0, begun + (number + 1) * seconds - time.monotonic()))
            os.write(writer, content[start : start + size])
        if close:
            os.close(writer)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_the_delay_is_counted_from_when_samples_came_not_from_when_they_were_read() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as handle:
        growing = captions.Growing(handle, 1.0)
        begun, thread = time.monotonic(), send(writer, bytes(16 * 1600), 1600, 0.1)
        came, read = [], []
        for _, arrived in captions.samples_of(growing, RATE, None, 0.1):
            came.append(arrived - begun)
            read.append(time.monotonic() - begun)
            time.sleep(0.2)  # a model that is slower than the sound
        thread.join()
    assert read[-1] > 3.0 and came == pytest.approx([0.1 * (number + 1) for number in range(16)], abs=0.6)


def test_after_a_gap_the_delay_is_counted_anew() -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as handle:
        growing = captions.Growing(handle, 1.0)
        begun, thread = time.monotonic(), send(writer, bytes(2 * 1600), 1600, 0.8)
        came = [arrived - begun for _, arrived in captions.samples_of(growing, RATE, None, 0.1)]
        thread.join()
    assert came[0] >= 0.8 and came[1] >= 1.6


@pytest.mark.parametrize("sort", ["pipe", "file"])
def test_it_is_known_whether_the_next_piece_is_there(sort: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    reader, writer = os.pipe()
    os.write(writer, bytes(100))
    with os.fdopen(reader, "rb", buffering=0) as pipe, open(tmp_path / "a", "rb", buffering=0) as file:
        growing = captions.Growing(pipe if sort == "pipe" else file, 1.0)
        assert [(len(growing.read(40, whole=True)), growing.waiting()) for _ in range(2)] == [(40, True), (40, False)]
    os.close(writer)


def chunks(samples: np.ndarray, sort: int, bits: int, channels: int = 1, rate: int = RATE, size: int | None = None) -> bytes:
    """Write a WAV file by hand, as a recorder that does not know the length yet does."""
    form = {16: "<i2", 32: "<f4" if sort == 3 else "<i4"}[bits]
    scale = 1.0 if sort == 3 else 2 ** (bits - 1) - 1
    content = np.repeat((samples * scale).astype(form), channels).tobytes()
    width = bits // 8 * channels
    head = struct.pack("<HHIIHH", sort, channels, rate, rate * width, width, bits)
    other = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunk = b"data" + struct.pack("<I", size or 0) + content
    return b"RIFF" + b"\xff" * 4 + b"WAVE" + other + b"fmt " + struct.pack("<I", 16) + head + chunk


@pytest.mark.parametrize(("sort", "bits", "channels", "rate"), [(1, 16, 1, 8000), (1, 32, 2, 8000), (3, 32, 1, 16000), (0, 16, 1, 8000)])
def test_wav_and_raw_samples_are_followed(tmp_path: Path, sort: int, bits: int, channels: int, rate: int) -> None:
    samples = np.sin(np.arange(rate) / 9).astype(np.float32) / 2
    raw = (samples * 32767).astype("<i2").tobytes()
    (tmp_path / "a").write_bytes(chunks(samples, sort, bits, channels, rate) if sort else raw)
    with open(tmp_path / "a", "rb", buffering=0) as handle:
        growing = captions.Growing(handle, 0.05)
        found = [each for each, _ in captions.samples_of(growing, 8000, None, 0.25)]
    assert sum(map(len, found)) == pytest.approx(8000, abs=4) and len(found) == pytest.approx(4, abs=1)
    if rate == 8000:
        assert np.abs(np.concatenate(found)[:7000] - samples[:7000]).max() < 1e-3


@pytest.mark.parametrize("size", [2000, 0, 0x7FFFF000, 0x7FFFFF00, 0xFFFFFFFF])
def test_what_stands_after_the_samples_of_a_file_is_not_heard(tmp_path: Path, size: int) -> None:
    samples = np.sin(np.arange(1000) / 9)
    other = b"LIST" + struct.pack("<I", 992) + b"\x55" * 992
    (tmp_path / "a.wav").write_bytes(chunks(samples, 1, 16, size=size) + other)
    with open(tmp_path / "a.wav", "rb", buffering=0) as handle:
        found = np.concatenate([each for each, _ in captions.samples_of(captions.Growing(handle, 0.01), RATE, None, 0.03)])
    assert len(found) == (1000 if size == 2000 else 1500) and np.abs(found[:1000] - samples).max() < 1e-3


@pytest.mark.parametrize(("given", "piece"), [(16000, 0.1), (44100, 0.1), (44100, 0.01), (48000, 0.25), (11025, 0.07)])
def test_pieces_are_brought_to_a_lower_rate_as_the_whole_is(tmp_path: Path, given: int, piece: float) -> None:
    samples = (np.sin(np.arange(given) * 2 * np.pi * 440 / given) / 2 * 32767).astype("<i2")
    (tmp_path / "a").write_bytes(samples.tobytes())
    with open(tmp_path / "a", "rb", buffering=0) as handle:
        found = [each for each, _ in captions.samples_of(captions.Growing(handle, 0.01), RATE, given, piece)]
    wanted = sound.resample(samples.astype(np.float32) / 32768, given, RATE)
    whole = np.concatenate(found)
    assert len(found) >= 0.9 / piece and whole.shape == wanted.shape and np.abs(whole - wanted).max() < 1e-5


def test_a_rate_is_for_raw_samples_alone(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(chunks(np.zeros(9), 1, 16))
    for rate, error, code in ((44100, UsageError, "transcribe.rate"), (0, DataError, "sound.rate")):
        if not rate:
            (tmp_path / "a.wav").write_bytes(bytes(90))
        with open(tmp_path / "a.wav", "rb", buffering=0) as handle, pytest.raises(error) as caught:
            list(captions.samples_of(captions.Growing(handle, 0.01), RATE, rate, 0.25))
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "transcribe.header"),
        (b"RIFF\0\0\0\0WAVEfmt ", "transcribe.header"),
        (chunks(np.zeros(9), 1, 16, channels=9), "transcribe.header"),
        (chunks(np.zeros(9), 2, 16), "transcribe.header"),
        (chunks(np.zeros(9), 1, 16, rate=4000), "sound.rate"),
    ],
)
def test_what_cannot_be_followed_is_named(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with open(tmp_path / "a.wav", "rb", buffering=0) as handle, pytest.raises(DataError) as caught:
        list(captions.samples_of(captions.Growing(handle, 0.01), RATE, None, 0.25))
    assert caught.value.code == code


def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    samples = np.sin(np.arange(6000) / 9)
    content = chunks(samples, 1, 16)
    (tmp_path / "a.wav").write_bytes(content[:5000])

    def grow() -> None:
        time.sleep(0.15)
        with open(tmp_path / "a.wav", "ab") as handle:
            handle.write(content[5000:])

    writer = threading.Thread(target=grow)
    writer.start()
    with open(tmp_path / "a.wav", "rb", buffering=0) as handle:
        found = [each for each, _ in captions.samples_of(captions.Growing(handle, 1.0), RATE, None, 0.1)]
    writer.join()
    assert sum(map(len, found)) == 6000


# The verb.


def test_the_verb_writes_what_is_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.wav").write_bytes(media.wav(said("re", "do"), RATE))
    assert main(["transcribe", str(model), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out == "re do\n"
    assert main(["transcribe", str(model), str(tmp_path / "a.wav"), "--lm", str(model.parent / "ngram"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == "re do" and value["segments"][0]["final"]


def test_that_nothing_was_heard_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(media.wav(said("re"), RATE))
    monkeypatch.setattr(captions, "hear", lambda *given: ([captions.Caption("", 0.0, 0.1)], 0.5))
    assert main(["transcribe", str(model), str(tmp_path / "a.wav")]) == 0
    out = capsys.readouterr()
    assert out.out == "\n" and "No word was heard in 0.5 seconds" in out.err
    monkeypatch.setattr(captions, "follow", lambda *given: iter(()))
    assert main(["transcribe", str(model), str(tmp_path / "a.wav"), "--follow", "--patience", "0.1"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "No caption."


class Piped(io.StringIO):
    """Stands for stdin, where a pipe's end is."""

    def __init__(self, reader: int) -> None:
        super().__init__()
        self.reader = reader

    def fileno(self) -> int:
        return self.reader


def test_a_pipe_is_followed_and_the_delay_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.concatenate([quiet(0.6), said("do", "re"), quiet(0.9, 1), said("mi", "do"), quiet(0.9, 2)])
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdin", Piped(reader))
    sender = send(writer, (whole * 32767).astype("<i2").tobytes(), len(whole) * 2, 0.0)
    assert main(["transcribe", str(model), "-", "--follow", "--json"]) == 0
    sender.join()
    os.close(reader)
    out = capsys.readouterr()
    found: list[dict[str, Any]] = [json.loads(line) for line in out.out.splitlines()]
    assert len([each for each in found if each["final"]]) == 2 and "median" in out.err
    (tmp_path / "a.wav").write_bytes(media.wav(whole, RATE))
    assert main(["transcribe", str(model), str(tmp_path / "a.wav"), "--follow", "--patience", "0.1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2, "without a terminal only what stands is written"


@pytest.mark.parametrize("speaks", [True, False])
def test_ctrl_c_ends_the_sound_and_what_was_under_way_is_told(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, speaks: bool
) -> None:
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdin", Piped(reader))
    whole = np.concatenate([quiet(0.6), said("do", "re")]) if speaks else np.zeros(0)
    content = (whole * 32767).astype("<i2").tobytes() if speaks else b"RIFF\0\0\0\0WAVEfmt "
    os.write(writer, content)

    def press() -> None:
        """Press Ctrl-C when the verb listens for it and has read all that came."""
        count = array.array("i", [1])
        while count[0] or signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]:
            time.sleep(0.02)
            fcntl.ioctl(reader, termios.FIONREAD, count)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    try:
        assert main(["transcribe", str(model), "-", "--follow"]) == 130
    finally:
        presser.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        os.close(reader)
    assert capsys.readouterr().out == ("do re\n" if speaks else "")


def test_a_caption_that_may_change_stays_within_the_line() -> None:
    assert drawn("do re mi", False, 80) == "\rdo re mi\x1b[K" and drawn("do re mi", True, 6) == "\rdo re mi\x1b[K\n"
    assert drawn("do re mi", False, 6) == "\rdo re\x1b[K" and drawn("听见了", False, 6) == "\r听见 \x1b[K"
