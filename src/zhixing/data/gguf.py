"""GGUF files: one file that holds a model's settings, its tokenizer and its weights, often of a few bits each.

Source: the format's description in ggml's docs, version 3, and its block layouts; version 2 differs in nothing that is read here. Every
length is held against what is left of the file before anything is made of it, and no two tensors lie in one place. Leaves out: big-endian
files, files in several parts, and forms of weights that are not in FORMS, each refused by its name; of these, those of WRITTEN are written.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zhixing.core.errors import DataError

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
MOST_ENTRIES, MOST_AXES, MOST_NAME = 1 << 16, 4, 1 << 10
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
BLOCK = 32  # numbers that share a scale
# Each form's number in the file: its name, the bytes of a block, and the numbers in one.
FORMS = {
    0: ("F32", 4, 1), 1: ("F16", 2, 1), 30: ("BF16", 2, 1), 8: ("Q8_0", 34, BLOCK),
    2: ("Q4_0", 18, BLOCK), 3: ("Q4_1", 20, BLOCK), 6: ("Q5_0", 22, BLOCK),
}  # fmt: skip
WRITTEN = ("F32", "F16", "BF16", "Q8_0")
UNREAD = {
    7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its form's number, its shape with the slowest axis first, and its bytes' place in the file."""

    form: int
    shape: tuple[int, ...]
    place: int
    size_bytes: int


class Reader:
    """A file's head, read piece by piece.

    Raises DataError, which names the file and what is wrong, wherever a length does not fit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        self.place = 0

    def wrong(self, problem: str) -> DataError:
        """Give the error for a file that is no GGUF file, or no whole one."""
        return DataError("import.gguf", path=str(self.path), problem=problem)

    def take(self, count: int) -> bytes:
        """Give the next bytes."""
        if count > len(self.data) - self.place:
            raise self.wrong(f"it ends at byte {len(self.data)}, in the middle of its head")
        found = self.data[self.place : self.place + count].tobytes()
        self.place += count
        return found

    def number(self, form: str) -> Any:
        """Give the next number; form is of `struct`."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def string(self, most: int | None = None) -> str:
        """Give the next string."""
        length = self.number("Q")
        if most is not None and length > most:
            raise self.wrong(f"a name of {length} bytes")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong("a text that is no UTF-8") from None

    def value(self, sort: int) -> Any:
        """Give the next value of a sort; arrays of numbers are NumPy's."""
        if sort in NUMBERS:
            return self.number(NUMBERS[sort])
        if sort == STRING:
            return self.string()
        if sort != ARRAY:
            raise self.wrong(f"a value of the unknown sort {sort}")
        each, count = self.number("I"), self.number("Q")
        if each in NUMBERS:
            width = struct.calcsize("<" + NUMBERS[each])
            if count > (len(self.data) - self.place) // width:
                raise self.wrong(f"an array of {count} numbers, for which it has no room")
            return np.frombuffer(self.take(count * width), np.dtype(NUMBERS[each]).newbyteorder("<"))
        if each != STRING or count > (len(self.data) - self.place) // 8:
            raise self.wrong(f"an array of {count} values of the sort {each}")
        return [self.string() for _ in range(count)]


class GGUF:
    """An opened file: `settings`, {name: value}, and `entries`, {name: where a tensor lies}.

    Raises DataError when it is no GGUF file, is cut off, or holds weights of a form that is not read.
    """

    def __init__(self, path: Path) -> None:
        reader = Reader(path)
        if reader.take(4) != MAGIC:
            raise reader.wrong("it does not begin as a GGUF file does")
        version = reader.number("I")
        if version not in VERSIONS:
            raise reader.wrong(f"version {version}, where {' and '.join(map(str, VERSIONS))} are read")
        tensors, settings = reader.number("Q"), reader.number("Q")
        if max(tensors, settings) > MOST_ENTRIES:
            raise reader.wrong(f"{tensors} tensors and {settings} settings")
        self.path, self.settings = path, {}
        for _ in range(settings):
            name = reader.string(MOST_NAME)
            self.settings[name] = reader.value(reader.number("I"))
        found = [self._entry(reader) for _ in range(tensors)]
        step = self.settings.get("general.alignment", ALIGNMENT)
        if not isinstance(step, int) or not 1 <= step <= 1 << 20:
            raise reader.wrong(f"an alignment of {step}")
        begin = -(-reader.place // step) * step
        self.data, self.entries = reader.data, {}
        for name, form, shape, offset in found:
            _, width, numbers = FORMS[form]
            if (shape[-1] if shape else 1) % numbers:
                raise reader.wrong(f"rows of {shape[-1]} numbers in '{name}', which blocks of {numbers} do not divide")
            entry = Entry(form, shape, begin + offset, math.prod(shape) // numbers * width)
            if entry.place + entry.size_bytes > len(self.data):
                missing = entry.place + entry.size_bytes - len(self.data)
                raise reader.wrong(f"it ends at byte {len(self.data)}; for '{name}' {missing} bytes more are needed")
            self.entries[name] = entry
        ends = 0
        for name, entry in sorted(self.entries.items(), key=lambda each: each[1].place):
            if entry.place < ends:
                raise reader.wrong(f"'{name}' lies within another tensor")
            ends = entry.place + entry.size_bytes

    @staticmethod
    def _entry(reader: Reader) -> tuple[str, int, tuple[int, ...], int]:
        name, axes = reader.string(MOST_NAME), reader.number("I")
        if axes > MOST_AXES:
            raise reader.wrong(f"{axes} axes of '{name}'")
        shape = tuple(reader.number("Q") for _ in range(axes))[::-1]
        form, offset = reader.number("I"), reader.number("Q")
        if form not in FORMS:
            among = ", ".join(name for name, _, _ in FORMS.values())
            raise DataError("import.quantization", path=str(reader.path), tensor=name, form=UNREAD.get(form, f"number {form}"), among=among)
        return name, form, shape, offset

    def tensor(self, name: str) -> np.ndarray:
        """Give a tensor in full.

        return  (...) float32
        """
        entry = self.entries[name]
        raw = self.data[entry.place : entry.place + entry.size_bytes]
        return unpack(FORMS[entry.form][0], raw).reshape(entry.shape)


def unpack(form: str, raw: np.ndarray) -> np.ndarray:
    """Give the numbers that stored bytes mean.

    form    a name of FORMS
    raw     (X,) uint8
    return  (N,) float32
    """
    if form in ("F32", "F16"):
        return np.ascontiguousarray(raw).view({"F32": "<f4", "F16": "<f2"}[form]).astype(np.float32)
    if form == "BF16":
        return (np.ascontiguousarray(raw).view("<u2").astype(np.uint32) << 16).view(np.float32)
    width = next(width for name, width, _ in FORMS.values() if name == form)
    blocks = raw.reshape(-1, width)
    scale = _halves(blocks[:, :2])  # (B, 1)
    if form == "Q8_0":
        return (scale * blocks[:, 2:].view(np.int8)).reshape(-1)
    packed = blocks[:, -BLOCK // 2 :]
    quanta = np.concatenate([packed & 15, packed >> 4], 1).astype(np.int16)  # (B, BLOCK)
    if form == "Q4_0":
        return (scale * (quanta - 8)).reshape(-1)
    if form == "Q4_1":
        return (scale * quanta + _halves(blocks[:, 2:4])).reshape(-1)
    fifth = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")  # (B, BLOCK)
    return (scale * (quanta + (fifth.astype(np.int16) << 4) - 16)).reshape(-1)


def _halves(raw: np.ndarray) -> np.ndarray:
    """Read one half-precision number a row: (B, 2) uint8 to (B, 1) float32."""
    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


def pack(form: str, numbers: np.ndarray) -> bytes:
    """Give the bytes by which numbers are stored, each rounded to the nearest that its form has.

    form     a name of WRITTEN
    numbers  (..., N) float    of Q8_0, blocks of 32 must divide N

    Source of Q8_0: ggml's reference: the scale is the largest magnitude of a block over 127.
    """
    if form in ("F32", "F16"):
        return numbers.astype({"F32": "<f4", "F16": "<f2"}[form]).tobytes()
    if form == "BF16":
        bits = np.ascontiguousarray(numbers, "<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    blocks = numbers.reshape(-1, BLOCK).astype(np.float32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127  # (B, 1)
    quanta = np.rint(blocks * np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), quanta.view(np.uint8)], 1).tobytes()


def write(handle: BinaryIO, settings: Mapping[str, Any], tensors: Mapping[str, np.ndarray], form: str) -> None:
    """Write a file: matrices in a form, all else in F32; a matrix whose rows blocks do not divide in F16.

    settings  {name: bool, int, float, str, or a list of str, of int or of float}
    tensors   {name: (...) float}
    """
    head, place, packed = [], 0, []
    for name, value in tensors.items():
        own = form if value.ndim > 1 else "F32"
        own = "F16" if own == "Q8_0" and value.shape[-1] % BLOCK else own
        number, (_, width, numbers) = next((key, each) for key, each in FORMS.items() if each[0] == own)
        head.append(_text(name) + struct.pack(f"<I{value.ndim}QIQ", value.ndim, *value.shape[::-1], number, place))
        size = value.size // numbers * width
        packed.append((own, value, -size % ALIGNMENT))
        place += size + -size % ALIGNMENT
    start = MAGIC + struct.pack("<IQQ", max(VERSIONS), len(tensors), len(settings))
    start += b"".join(_text(name) + _value(value) for name, value in settings.items()) + b"".join(head)
    handle.write(start + b"\0" * (-len(start) % ALIGNMENT))
    for own, value, rest in packed:
        handle.write(pack(own, value) + b"\0" * rest)


def _text(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """Write a setting's value, its sort before it."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if value and isinstance(value[0], int):
        return struct.pack("<IIQ", ARRAY, 5, len(value)) + np.array(value, "<i4").tobytes()
    if value and isinstance(value[0], float):
        return struct.pack("<IIQ", ARRAY, 6, len(value)) + np.array(value, "<f4").tobytes()
    return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_text, value))
