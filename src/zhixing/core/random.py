"""Keyed randomness: every seed is a pure function of what it is for, so nothing about generators has to be saved or restored."""

from __future__ import annotations

import hashlib


def key(*parts: int | str) -> int:
    """Give a 63-bit seed that depends on every part and on nothing else: key(seed, "order", epoch)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
