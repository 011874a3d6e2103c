"""Which split a text belongs to: a pure function of its bytes and a seed, so repeats of a text can never lie on both sides."""

from __future__ import annotations

import hashlib
from fractions import Fraction

SPLITS = ("train", "validation", "test")


def digest(text: str) -> bytes:
    """Give the 16 bytes by which an exact text is known."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def split_of(text: str, seed: int, validation: float, test: float) -> str:
    """Name the split of a text: "train", "validation" or "test".

    validation, test  0..1   the expected shares; changing the share of validation moves no text in or out of test
    """
    key = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=f"split:{seed}".encode()).digest()
    place = int.from_bytes(key, "little") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def cut(text: str, validation: float, test: float) -> dict[str, str]:
    """Cut one document into contiguous parts: validation is its head, test its tail, train what lies between; the cuts are exact counts.

    Were validation between train and test, a model that counts validation as well in the end would know the text next to the test, and one
    trained on train alone would not: on tiny_shakespeare's last tenth that is worth 0.16 nats a character to a 7-gram.
    Fractions, because 1 - 0.05 - 0.05 is not 0.9 in floating point.
    """
    size = len(text)
    start = int(size * Fraction(str(validation)))
    end = int(size * (1 - Fraction(str(test))))
    return {"train": text[start:end], "validation": text[:start], "test": text[end:]}
