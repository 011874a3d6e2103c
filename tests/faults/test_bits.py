"""A manifest of which one bit has flipped is never taken for whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zhixing.core.errors import ZhixingError
from zhixing.core.folder import create, open_folder


def test_no_bit_of_a_manifest_can_flip_unseen(tmp_path: Path) -> None:
    with create(tmp_path / "small", "model", {"note": "a"}) as folder:
        (folder / "a.txt").write_text("content")
    manifest = tmp_path / "small" / "manifest.json"
    whole = manifest.read_bytes()
    hashes = {place for found in re.finditer(rb"[0-9a-f]{64}", whole) for place in range(*found.span())}
    for place in range(len(whole)):
        for bit in (place % 8,) if place in hashes else range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            manifest.write_bytes(changed)
            with pytest.raises(ZhixingError):
                open_folder(tmp_path / "small")
    manifest.write_bytes(whole)
    assert open_folder(tmp_path / "small").kind == "model"
