"""Sounds and images inside rows: each is a data URL, all the way from a person's file into a corpus, a request and a model.

A name in a row stands for a file beside the rows, or in a .tar or .zip beside them (`named`). What comes from others is bounded before it
is unfolded: bytes, seconds, pixels. Nothing is ever fetched from elsewhere.
Source: RFC 2397 (data URLs). Leaves out: video; more than one frame of a moving image.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import importlib
import io
import lzma
import tarfile
import threading
import wave
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import UsageError

SOUNDS = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".aiff": "audio/aiff",
}
IMAGES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".bmp": "image/bmp"}
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
MOST_BYTES = 1 << 24  # of one sound or image as a file
MOST_SECONDS = 300.0
MOST_PIXELS = 1 << 24
MOST_CHANNELS, BLOCK = 8, 1 << 16  # of a sound; samples of each that are unfolded at once
LEAST_RATE, MOST_RATE = 4000, 192_000  # samples a second
HEADER_BYTES, LEAST_UNKNOWN_BYTES = 64, 1_900_000_000  # by which a count may be too large; and from which on it counts nothing
UNTOLD_BYTES = 0xFFFFFFFF  # where the true count stands in a chunk of its own
UNKNOWN_BYTES = 0x7FFFF000  # of a WAV's samples, from which on sox, arecord and ffmpeg mean that they could not know
DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
ORIENTATION = 0x0112  # of EXIF; by it, how a picture is turned until it stands upright
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
KEPT = 1 << 13  # images whose pixels are kept: rows often ask several things of one
# Codes of what may be wrong with a sound or an image.
REASONS = frozenset(
    "not_data_url large_media media_type media_outside media_twice media_missing media_damaged sound_rate sound_channels unreadable_sound "
    "truncated_sound long_sound empty_sound silent_sound huge_image unreadable_image".split()
)
Read = tuple[Any, str | None]  # the value, and None or the code of what is wrong


def bounds() -> dict[str, Any]:
    """Say, for a message, what a sound or an image may be at most."""
    return {"mib": MOST_BYTES >> 20, "pixels": MOST_PIXELS >> 20, "seconds": f"{MOST_SECONDS:g}", "channels": MOST_CHANNELS}


class Unreadable(Exception):
    """A sound or an image that cannot be used; its argument is the code of the reason."""


def data_url(content: bytes, kind: str) -> str:
    """Write bytes as a data URL.

    kind  its media type, such as "image/png"
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def content_of(url: str) -> bytes:
    """Give the bytes of a data URL; raises Unreadable("not_data_url" or "large_media")."""
    head, comma, body = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise Unreadable("not_data_url")
    if len(body) > MOST_BYTES * 4 // 3 + 4:
        raise Unreadable("large_media")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("not_data_url") from None


def named(name: str, rows: Path) -> Read:
    """Give the data URL of the file that a row names, or why there is none: a file beside the rows, or in an archive beside them.

    rows  the file that the row stands in
    """
    kind = {**SOUNDS, **IMAGES}.get(Path(name).suffix.lower())
    if kind is None:
        return "", "media_type"
    place, folder = Path(name), rows.absolute().parent
    try:
        if place.is_absolute() or ".." in place.parts or not (folder / place).resolve().is_relative_to(folder.resolve()):
            return "", "media_outside"
        if (folder / place).is_file():
            if (folder / place).stat().st_size > MOST_BYTES:
                return "", "large_media"
            return data_url((folder / place).read_bytes(), kind), None
        packed = [_members(each, each.stat().st_mtime_ns) for each in sorted([*folder.glob("*.tar"), *folder.glob("*.zip")])]
        found = [each for each in packed if each is not None and place.as_posix() in each[1]]
        if len(found) > 1:
            return "", "media_twice"
        if not found:
            return "", "media_damaged" if None in packed else "media_missing"
        return data_url(_unpack(*found[0], place.as_posix()), kind), None
    except Unreadable as problem:
        return "", str(problem)
    except DAMAGE:
        return "", "media_damaged"


@functools.lru_cache(maxsize=64)
def _members(path: Path, changed: int) -> tuple[Any, dict[str, Any]] | None:
    """Open an archive, once while it stays as it is, and list what it holds: {name: member}; None: it cannot be read.

    changed  when it was changed last, ns
    """
    try:
        if path.suffix == ".tar":
            with tarfile.open(path, "r:") as archive:
                return path, {each.name.removeprefix("./"): each for each in archive if each.isreg()}
        packed = zipfile.ZipFile(path)
        return packed, {each.filename: each for each in packed.infolist() if not each.is_dir()}
    except DAMAGE:
        return None


def _unpack(archive: Any, members: dict[str, Any], name: str) -> bytes:
    """Read a member of a tar's path, or of an opened zip."""
    member = members[name]
    if getattr(member, "size", 0) > MOST_BYTES or getattr(member, "file_size", 0) > MOST_BYTES:
        raise Unreadable("large_media")
    if isinstance(member, tarfile.TarInfo):
        with open(archive, "rb") as handle:
            handle.seek(member.offset_data)
            return handle.read(member.size)
    return archive.read(member)


def _need(package: str, module: str, extra: str) -> Any:
    """Import what an extra brings, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise UsageError("extra.missing", package=package, extra=extra) from missing


def need(sort: str) -> Any:
    """Give the library that reads a "sound" or an "image"; raises UsageError with what to install when it is missing."""
    return _need(*{"sound": ("soundfile", "soundfile", "hear"), "image": ("pillow", "PIL.Image", "see")}[sort])


def sound(content: bytes, most_seconds: float = MOST_SECONDS) -> tuple[np.ndarray, int]:
    """Give the samples of a sound file and how many of them make a second; several channels become one.

    return  (N,) float32 in -1 .. 1, and the rate in Hz

    Raises Unreadable with the code of the reason: unreadable_sound, empty_sound, silent_sound, long_sound, sound_rate, sound_channels.
    """
    soundfile = need("sound")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as opened:
            rate = int(opened.samplerate)
            if not LEAST_RATE <= rate <= MOST_RATE:
                raise Unreadable("sound_rate")
            if opened.channels > MOST_CHANNELS:
                raise Unreadable("sound_channels")
            most = int(most_seconds * rate)
            blocks = opened.blocks(BLOCK, frames=most + 1, dtype="float32", always_2d=True)  # each (N, channels)
            mono = np.concatenate([np.zeros(0, np.float32), *(each.mean(1) for each in blocks)])  # (N,)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError):
        raise Unreadable("unreadable_sound") from None
    if len(mono) > most:
        raise Unreadable("long_sound")
    if not len(mono):
        raise Unreadable("empty_sound")
    if not np.isfinite(mono).all():
        raise Unreadable("unreadable_sound")
    if not mono.any():
        raise Unreadable("silent_sound")
    return mono, rate


def cut_off(content: bytes) -> bool:
    """Say whether a WAV file (RIFF, RIFX, or RF64 and BW64 for more than 4 GB) ends well before the samples do that its header counts.

    Some writers count the header with the samples, and who writes to a pipe cannot know how many there will be: both are whole.
    """
    order: Any = {b"RIFF": "little", b"RF64": "little", b"BW64": "little", b"RIFX": "big"}.get(content[:4])
    at, wide = 12, 0
    while order and at + 8 <= len(content):
        sort, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], order)
        if sort == b"ds64":
            wide = int.from_bytes(content[at + 16 : at + 24], order)
        if sort == b"data":
            told = wide if wide and size == UNTOLD_BYTES else size if size < LEAST_UNKNOWN_BYTES else 0
            return HEADER_BYTES < at + 8 + told - len(content)
        at += 8 + size + size % 2
    return False


def wav(samples: np.ndarray, rate: int) -> bytes:
    """Write samples as a WAV file of 16 bits.

    samples  (N,) float in -1 .. 1
    rate     Hz
    """
    target = io.BytesIO()
    with wave.open(target, "wb") as handle:
        handle.setnchannels(1)
        handle.setsampwidth(2)
        handle.setframerate(rate)
        handle.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return target.getvalue()


def image(content: bytes) -> np.ndarray:
    """Give the pixels of an image file, upright, what is transparent on white.

    return  (C, Y, X) uint8, three channels

    Raises Unreadable with the code of the reason: unreadable_image, huge_image.
    """
    pillow = need("image")
    try:
        opened = pillow.open(io.BytesIO(content), formats=FORMATS)
        if opened.width * opened.height > MOST_PIXELS:
            raise Unreadable("huge_image")
        turn = TURNS.get(opened.getexif().get(ORIENTATION))
        if opened.mode.startswith("I"):  # 16 bits of grey
            opened = pillow.fromarray((np.asarray(opened).clip(0, 65535).astype(np.uint32) >> 8).astype(np.uint8))
        upright = (opened.transpose(getattr(pillow.Transpose, turn)) if turn else opened).convert("RGBA")
    except Unreadable:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning):
        raise Unreadable("huge_image") from None
    except Exception:  # a decoder of others, fed with what others sent
        raise Unreadable("unreadable_image") from None
    whole = pillow.new("RGBA", upright.size, "white")
    whole.alpha_composite(upright)
    return np.ascontiguousarray(np.asarray(whole.convert("RGB")).transpose(2, 0, 1))


def png(pixels: np.ndarray) -> bytes:
    """Write pixels as a PNG file.

    pixels  (C, Y, X) uint8, three channels
    """
    pillow = need("image")
    target = io.BytesIO()
    pillow.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(target, "PNG")
    return target.getvalue()


def kept(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what a function found of the last KEPT media, by a digest of each, so that large ones are not held themselves."""
    found: dict[tuple[Any, ...], Any] = {}
    lock = threading.Lock()  # a server asks from several threads

    @functools.wraps(function)
    def ask(url: str, *how: Any) -> Any:
        key = (hashlib.blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).digest(), *how)
        with lock:
            if key in found:
                return found[key]
        value = function(url, *how)
        with lock:
            while len(found) >= KEPT:
                found.pop(next(iter(found)))
            found[key] = value
        return value

    return ask


@kept
def flaw_of(url: str, sort: str) -> str | None:
    """Say by a code why a data URL cannot be used as a "sound" or an "image"; None: it can."""
    try:
        content = content_of(url)
        {"sound": sound, "image": image}[sort](content)
    except Unreadable as problem:
        return str(problem)
    return "truncated_sound" if sort == "sound" and cut_off(content) else None


@kept
def pixels(url: str, size: int) -> np.ndarray:
    """Give the pixels of an image's data URL as a square, its shape kept and the rest filled up with white.

    size    pixels of a side
    return  (C, Y, X) uint8; shared, not to be written to

    Raises Unreadable, as `image`.
    """
    found = square(image(content_of(url)), size)
    found.flags.writeable = False
    return found


def square(found: np.ndarray, size: int) -> np.ndarray:
    """Make a picture a square, its shape kept and the rest filled up with white: (C, Y, X) uint8 to (C, Y', X') uint8."""
    if found.shape[1:] == (size, size):
        return found
    pillow = need("image")
    from PIL import ImageOps

    padded = ImageOps.pad(pillow.fromarray(found.transpose(1, 2, 0)), (size, size), color="white")
    return np.ascontiguousarray(np.asarray(padded).transpose(2, 0, 1))
