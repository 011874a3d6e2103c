"""Sounds and images in rows: what is taken, what is refused and by which word, and where a named file is looked for."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from zhixing.core.errors import DataError
from zhixing.data import media
from zhixing.data.batch import pad
from zhixing.data.columns import Columns
from zhixing.data.schema import Image, Label, Schema, Sound
from zhixing.tasks.task import encoded

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
        (sound_url(media.wav(np.ones(900) / 2, 8000)[:-100]), "truncated_sound"),
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
    ("more", "whole"), [(0, True), (44, True), (2, True), (200, False), (2_000_000_000, True), (0xFFFFFFFF - 1800, True)]
)
def test_a_count_of_samples_that_writers_get_wrong_is_no_cut(more: int, whole: bool) -> None:
    content = media.wav(np.ones(900) / 2, 8000)
    counted = content[:40] + (1800 + more).to_bytes(4, "little") + content[44:]
    assert media.cut_off(counted) is not whole and media.cut_off(b"RF64" + content[4:]) == media.cut_off(content)
    assert len(media.sound(counted)[0]) == 900, "what a corpus holds is read as ever"


@pytest.mark.parametrize(("sort", "endian"), [("WAV", "LITTLE"), ("WAV", "BIG"), ("RF64", "LITTLE")])
def test_a_cut_file_is_told_from_a_whole_one_in_every_form(sort: str, endian: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    target = io.BytesIO()
    soundfile.write(target, np.sin(np.arange(4000) / 9), 16_000, "PCM_16", endian, sort)
    content = target.getvalue()
    assert content[:4] == {"WAVLITTLE": b"RIFF", "WAVBIG": b"RIFX", "RF64LITTLE": b"RF64"}[sort + endian]
    assert not media.cut_off(content) and media.cut_off(content[:-2000]) and len(media.sound(content)[0]) == 4000


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


def test_a_row_that_cannot_be_learnt_from_is_named() -> None:
    class Strict:
        def encode(self, example: dict[str, str], tokenizer: object) -> dict[str, str]:
            if example["text"] == "bad":
                raise DataError("task.label_unseen", name="x", among=["y"], count=1)
            return example

    with pytest.raises(DataError) as caught:
        list(encoded(Strict(), [{"text": "good"}, {"text": "bad"}], None, "train"))
    assert caught.value.parts("en")["what"].startswith("train:2: ") and caught.value.parts("zh")["what"].startswith("train:2: ")


def test_many_channels_are_refused_before_they_are_unfolded() -> None:
    soundfile = pytest.importorskip("soundfile")
    target = io.BytesIO()
    soundfile.write(target, np.tile(TONE[:, None], (1, 12)), 8000, format="WAV")
    assert Sound().read(sound_url(target.getvalue()))[1] == "sound_channels"
    two = io.BytesIO()
    soundfile.write(two, np.stack([TONE, -TONE / 2], 1), 8000, format="WAV")
    assert np.abs(media.sound(two.getvalue())[0] - TONE / 4).max() < 1e-3


def test_odd_pictures_are_read_or_named() -> None:
    from PIL import Image as Pillow

    target = io.BytesIO()
    Pillow.fromarray(np.full((4, 4), 30000, np.uint16)).save(target, "PNG")
    assert (media.image(target.getvalue()) == 30000 >> 8).all(), "16 bits of grey"
    turned = Pillow.fromarray(PIXELS.transpose(1, 2, 0))
    exif = Pillow.Exif()
    exif[media.ORIENTATION], exif[0x010E] = 6, "hello"
    whole = io.BytesIO()
    turned.save(whole, "PNG", exif=exif)
    assert media.image(whole.getvalue()).shape == (3, 7, 5)
    jpeg = io.BytesIO()
    turned.resize((64, 64)).save(jpeg, "JPEG", exif=exif)
    draw = np.random.default_rng(3)
    for _ in range(300):  # whatever a decoder stumbles over has a name
        broken = bytearray(jpeg.getvalue())
        for place in draw.integers(0, 120, 3):
            broken[place] = draw.integers(256)
        try:
            media.image(bytes(broken))
        except media.Unreadable as problem:
            assert str(problem) in ("unreadable_image", "huge_image")


def test_damaged_archives_are_named_and_changed_ones_read_anew(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", media.png(NOISE))
        packed.writestr("b.png", media.png(PIXELS))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:200] = bytes(140)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert media.named("loop.png", rows)[1] in ("media_damaged", "media_outside", "media_missing")
    (tmp_path / "z.zip").write_bytes(b"no archive")
    assert media.named("b.png", rows)[1] is None, "another archive that is broken does not matter"
    assert media.named("c.png", rows)[1] == "media_damaged"
    (tmp_path / "a.zip").write_bytes(content)
    assert media.named("a.png", rows)[1] == "media_damaged"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("b.png", media.png(NOISE))
    assert media.content_of(media.named("b.png", rows)[0]) == media.png(NOISE)


def test_what_is_kept_is_safe_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "KEPT", 2)
    ask = media.kept(lambda url: url.upper())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: ask(str(number % 7)), range(4000)))
    assert found == [str(number % 7) for number in range(4000)]


def test_every_reason_has_its_advice() -> None:
    """`prepare` tells of these by a message of their own; the last codes are of rows that name nothing."""
    source = Path(media.__file__).read_text(encoding="utf-8")
    codes = set(re.findall(r'Unreadable\("(\w+)"\)', source)) | set(re.findall(r'"((?:media|large)_\w+)"', source))
    assert len(codes) > 10 and codes <= media.REASONS
