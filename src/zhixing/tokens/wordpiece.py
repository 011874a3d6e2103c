"""Tokenizers of BERT's sort that other programs made: words, and the pieces of rarer ones, which begin with ##; encoded by the library.

What no piece spells is the unknown token, and letters and spaces are made alike first, so that a text does not come back as it went in:
such a tokenizer reads and does not write. Leaves out: making such files (`importing`).
Source: Wu et al. 2016, arXiv:1609.08144, section 4.1; Devlin et al. 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from zhixing.core.errors import DataError
from zhixing.tokens.imported import Standing
from zhixing.tokens.layout import HAN, Parts, line_end, meets, run

SORT = "WordPiece"
LONGEST = 100  # characters of a word that is looked for in pieces; the library's own bound is in the file and no larger one is taken


class WordPiece:
    """The coder of such a tokenizer; attributes as `imported.Imported` has them.

    unknown  int    the token of what no piece spells; it has no bytes
    """

    portable = True
    lossless = False

    def __init__(self, parts: Parts, size: int) -> None:
        value = parts.value
        stands, model = Standing.of(value, size), value["model"]
        if not model.get("max_input_chars_per_word", LONGEST) <= LONGEST:
            raise ValueError(f"it cuts words of more than {LONGEST} characters")
        self.added, self.controls, self.nameless = stands.added, stands.controls, stands.nameless
        self.byte_ids: list[int | None] = [None] * 256
        self.unknown = model["vocab"][model["unk_token"]]
        self._never = frozenset(self.controls) - {self.unknown}
        self._inside = model.get("continuing_subword_prefix") or "##"
        self._names, self._size = stands.names, size
        self._library = parts.library()

    @cached_property
    def pieces(self) -> list[bytes]:
        """What each token spells; made when it is first asked for, which a model that only answers never is."""
        found, inside = [b""] * self._size, self._inside
        for place, name in self._names.items():
            if place in self.controls or place == self.unknown:
                continue
            alone = name[:1].isalnum() and not HAN.match(name[:1] * 2)
            spelt = name.removeprefix(inside) if name.startswith(inside) and len(name) > len(inside) else f" {name}" if alone else name
            found[place] = spelt.encode("utf-8", "replace")
        return found

    def cut(self, text: str, start: int, end: int) -> int:
        """Say where a long text may be cut: at the end of a line, which no word crosses."""
        return line_end(text, start, end)

    def encode(self, text: str, guarded: bool = False) -> np.ndarray:
        """Turn a text into (N,) int32 ids; no control token among them but the unknown one.

        guarded  as in `imported.Imported`; nothing is looked for here that is not a piece

        Raises DataError for a text that the library takes for a control token.
        """
        return self._safe(text, run(self._library, [text])[0])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into (N,) int32 ids."""
        return [self._safe(text, ids) for text, ids in zip(texts, run(self._library, list(texts)), strict=True)]

    def _safe(self, text: str, ids: np.ndarray) -> np.ndarray:
        """Refuse control tokens: names in brackets are cut at the brackets, so that only a made-up file can lead to one."""
        if meets(ids, self._never):
            raise DataError("tokens.control", text=text[:40])
        return ids
