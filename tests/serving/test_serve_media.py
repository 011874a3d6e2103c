"""Pictures and sounds that are sent are data URLs, bounded, and unfolded in a process of its own: its faults end one request alone."""

from __future__ import annotations

import base64
import json
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import MAKERS, SMALL

from zhixing import load, prepare, train
from zhixing.core.errors import RunError, UsageError
from zhixing.data import media
from zhixing.preparation.prepare import Prepare
from zhixing.serving import asks, decoder
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models

NOISE = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
PICTURE = media.data_url(media.png(NOISE), "image/png")
TONE = (np.sin(np.arange(3000) / 5) / 3).astype(np.float32)
SOUND = media.data_url(media.wav(TONE, 8000), "audio/wav")


def bomb(width: int, height: int) -> str:
    """Make a PNG of one colour that is small and unfolds to much."""
    row = b"\0" + bytes(width * 3)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return media.data_url(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(row * height, 9)) + chunk(b"IEND", b""), "image/png")


@pytest.fixture(scope="module")
def made() -> Any:
    found = decoder.Decoder()
    yield found
    found.close()


def test_what_comes_back_is_ours_and_the_same(made: decoder.Decoder) -> None:
    assert np.array_equal(media.image(media.content_of(made.clean(PICTURE, "image"))), NOISE)
    small = media.content_of(made.clean(PICTURE, "image", 16))
    assert np.array_equal(media.image(small), media.pixels(PICTURE, 16)) and small != media.content_of(PICTURE)
    samples, rate = media.sound(media.content_of(made.clean(SOUND, "sound")))
    wanted, _ = media.sound(media.content_of(SOUND))
    assert rate == 8000 and np.array_equal(samples, wanted), "not a bit is rounded"


@pytest.mark.parametrize(
    ("url", "sort", "reason"),
    [
        ("https://example.org/a.png", "image", "not_data_url"),
        ("file:///etc/passwd", "image", "not_data_url"),
        (media.data_url(b"\x89PNG nothing", "image/png"), "image", "unreadable_image"),
        (bomb(9000, 9000), "image", "huge_image"),
        ("data:image/png;base64," + "A" * (media.MOST_BYTES * 4 // 3 + 8), "image", "large_media"),
        (SOUND, "image", "unreadable_image"),
        (PICTURE, "sound", "unreadable_sound"),
        (media.data_url(media.wav(0 * TONE, 8000), "audio/wav"), "sound", "silent_sound"),
    ],
)
def test_what_cannot_be_used_is_named_and_the_process_lives_on(made: decoder.Decoder, url: str, sort: str, reason: str) -> None:
    made.clean(PICTURE, "image")
    process = made._process
    with pytest.raises(media.Unreadable, match=reason):
        made.clean(url, sort)
    assert made._process is process and process.poll() is None


def test_the_largest_picture_fits_into_its_memory(made: decoder.Decoder) -> None:
    found = made.clean(bomb(4096, 4096), "image", 32)
    assert media.image(media.content_of(found)).shape == (3, 32, 32)


def test_a_process_that_dies_or_is_stuck_is_replaced() -> None:
    """Red case: what these processes answer is never taken for a picture."""
    for program in ("import sys; sys.exit(3)", "import time; time.sleep(60)", "print('x' * 99, flush=True); import time; time.sleep(60)"):
        made = decoder.Decoder(0.5, (sys.executable, "-c", program))
        with pytest.raises(media.Unreadable, match="undecoded"):
            made.clean(PICTURE, "image")
        assert made._process is None
        made.command, made.seconds = decoder.Decoder().command, decoder.SECONDS
        assert made.clean(PICTURE, "image", 16)
        made._process.kill()
        made._process.wait()
        assert made.clean(PICTURE, "image", 16), "one that was killed between two requests is begun anew"
        made.close()
    with pytest.raises(RunError) as caught:
        decoder.Decoder(1.0, ("/nowhere/at/all",)).clean(PICTURE, "image")
    assert caught.value.code == "serve.decoder" and "nowhere" not in caught.value.text()


def test_its_memory_is_bounded(tmp_path: Path) -> None:
    program = "from zhixing.serving import decoder; decoder.limit(); bytearray(2 << 30)"
    made = decoder.Decoder(20.0, (sys.executable, "-c", program))
    with pytest.raises(media.Unreadable, match="undecoded"):
        made.clean(PICTURE, "image")
    (tmp_path / "a").write_text("")
    program = f"from zhixing.serving import decoder; decoder.limit(); open({str(tmp_path / 'a')!r}, 'w').write('x' * 99)"
    made = decoder.Decoder(20.0, (sys.executable, "-c", program))
    with pytest.raises(media.Unreadable, match="undecoded"):
        made.clean(PICTURE, "image")
    assert (tmp_path / "a").read_text() == ""


def test_a_float_wav_is_read_as_it_was() -> None:
    samples = np.random.default_rng(1).normal(0, 0.3, 500).astype("<f4")
    found, rate = media.sound(decoder.float_wav(samples.tobytes(), 16000))
    assert rate == 16000 and np.array_equal(found, samples)


def test_a_row_with_a_bad_picture_is_refused_by_name_and_a_good_one_is_answered(tmp_path: Path) -> None:
    draw = random.Random(5)
    rows = [MAKERS["see"](draw, number) for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="see"))
    train(tmp_path / "corpus", tmp_path / "model", {**SMALL, "steps": 3})
    served = open_models([tmp_path / "model"])["model"]
    assert asks.unfolds(served)
    some = [{name: each[name] for name in ("image", "text", "audio") if name in each} for each in rows[:12]]
    items = asks.items_of(PredictRequest(model="model", rows=some), served, Limits())
    said = served.artefact.task.answers(served.artefact.model, items, served.artefact.tokenizer)
    assert [each.scores for each in said] == [each.scores for each in load(tmp_path / "model").predict(some)]
    for bad, reason in (
        ({"image": "http://127.0.0.1/a.png"}, "not_data_url"),
        ({"image": media.data_url(base64.b64decode("aGVsbG8="), "image/png"), "text": "x"}, "unreadable_image"),
        ({"audio": "data:audio/wav;base64,@@"}, "not_data_url"),
    ):
        with pytest.raises(UsageError) as caught:
            asks.items_of(PredictRequest(model="model", rows=[some[0], bad]), served, Limits())
        name = next(iter(bad))
        assert caught.value.code == "serve.medium" and caught.value.values["param"] == f"rows.1.{name}"
        assert reason in caught.value.text() and "16 MiB" in caught.value.text() and str(tmp_path) not in caught.value.text()
    with pytest.raises(UsageError) as caught:
        asks.items_of(PredictRequest(model="model", rows=[{"image": 3}]), served, Limits())
    assert caught.value.code == "serve.field_value"
