"""Sounds and images in rows: what is taken, what is refused and by which word, and where a named file is looked for."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from zhixing.data import media
from zhixing.data.batch import pad
from zhixing.data.columns import Columns
from zhixing.data.schema import Image, Label, Schema, Sound

TONE = np.sin(np.arange(4000) / 5).astype(np.float32) / 2
PIXELS = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
NOISE = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)


def sound_url(content: bytes) -> str:
    return media.data_url(content, "audio/wav")


def header_only(width: int, height: int) -> bytes:
    """Make a PNG that says it is of this size and holds nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")


def test_what_is_written_is_read() -> None:
    samples, rate = media.sound(media.wav(TONE, 8000))
    assert rate == 8000 and np.abs(samples - TONE).max() < 1e-4
    assert (media.image(media.png(PIXELS)) == PIXELS).all()
    assert media.pixels(media.data_url(media.png(PIXELS), "image/png"), 8).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no_sound"),
        (3, "not_sound"),
        ("name.wav", "not_data_url"),
        ("data:audio/wav;base64,@@@", "not_data_url"),
        (sound_url(b"RIFF nothing"), "unreadable_sound"),
        (sound_url(media.wav(TONE[:0], 8000)), "empty_sound"),
        (sound_url(media.wav(0 * TONE, 8000)), "silent_sound"),
        (sound_url(media.wav(TONE, 2000)), "sound_rate"),
        (sound_url(media.wav(np.ones(4000 * 301), 4000)), "long_sound"),
        ("data:audio/wav;base64," + "A" * (media.MOST_BYTES * 4 // 3 + 8), "large_media"),
    ],
)
def test_a_bad_sound_is_named(value: object, reason: str) -> None:
    assert Sound().read(value)[1] == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "no_image"),
        ([], "not_image"),
        (media.data_url(b"GIF89a", "image/gif"), "unreadable_image"),
        (media.data_url(media.png(NOISE)[:3000], "image/png"), "unreadable_image"),
        (media.data_url(header_only(5000, 5000), "image/png"), "huge_image"),
        (media.data_url(header_only(60000, 60000), "image/png"), "huge_image"),
    ],
)
def test_a_bad_image_is_named(value: object, reason: str) -> None:
    assert Image().read(value)[1] == reason
    assert Image(optional=True).read(None) == ("", None)


def test_the_values_that_stand_for_golden_texts_can_be_read() -> None:
    for text in ("", "春天", "abc"):
        assert Sound().read(Sound().probe(text))[1] is None
        assert Image().read(Image().probe(text))[1] is None
    assert Sound().probe("ab") != Sound().probe("ba") and Image().probe("ab") != Image().probe("ba")


def test_a_named_file_lies_beside_the_rows_or_in_an_archive_there(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.png").write_bytes(media.png(PIXELS))
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        packed.writestr("train/0.png", media.png(PIXELS))
        packed.writestr("twice.png", media.png(PIXELS))
    with tarfile.open(tmp_path / "audio.tar", "w") as archive:
        for name, content in (("b.wav", media.wav(TONE, 8000)), ("twice.png", b"?")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (tmp_path.parent / "outside.png").write_bytes(b"?")
    (tmp_path / "link.png").symlink_to(tmp_path.parent / "outside.png")
    assert media.named("more/a.png", rows) == media.named("train/0.png", rows) != ("", None)
    assert media.content_of(media.named("b.wav", rows)[0]) == media.wav(TONE, 8000)
    for name, reason in (
        ("c.wav", "media_missing"),
        ("a.txt", "media_type"),
        ("../outside.png", "media_outside"),
        ("/outside.png", "media_outside"),
        ("link.png", "media_outside"),
        ("twice.png", "media_twice"),
    ):
        assert media.named(name, rows) == ("", reason), name


def test_a_row_holds_its_sound_as_a_data_url(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(media.wav(TONE, 8000))
    columns = Columns(Schema({"sound": Sound(), "label": Label()}, "label"), {"sound": "file"})
    example, reason = columns.example({"file": "a.wav", "label": "x"}, str(tmp_path / "rows.jsonl"))
    assert reason is None and example is not None and Sound().read(example["sound"]) == (example["sound"], None)
    assert json.loads(json.dumps(example)) == example
    assert columns.example({"file": "a.wav", "label": "x"}) == (None, "not_data_url"), "a request names no file"
    assert columns.example({"file": "b.wav", "label": "x"}, str(tmp_path / "rows.jsonl")) == (None, "media_missing")


def test_frames_and_images_are_put_side_by_side() -> None:
    items = [
        {"frames": np.ones((2, 4), np.float32), "image": PIXELS, "targets": np.array([1])},
        {"frames": np.ones((3, 4), np.float32), "image": PIXELS, "targets": np.array([1, 2])},
    ]
    batch = pad(items, 0)
    assert batch["frames"].shape == (2, 3, 4) and batch["frames"][0, 2].sum() == 0
    assert batch["frames_lengths"].tolist() == [2, 3] and batch["image"].shape == (2, 3, 5, 7) and batch["image"].dtype == np.uint8
    assert batch["targets"].tolist() == [[1, -100], [1, 2]]
