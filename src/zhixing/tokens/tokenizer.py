"""Text to token ids and back: single characters or byte-level BPE, both able to write every text, stored as Hugging Face `tokenizer.json`.

Ids 0 to 4 are the control tokens, 5 to 260 the bytes, then characters by frequency or merges by age. What a user types is only ever text:
`encode` cannot give a control token, whatever the text contains. The file is written here, not by the library, so that equal tokenizers
have equal bytes and one hash. Leaves out: words, normalisation (a text comes back exactly as it went in).
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import write_bytes, write_json
from zhixing.core.log import quiet

SPECIALS = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
PAD, END, USER, ASSISTANT, SYSTEM = range(len(SPECIALS))
FIRST_BYTE = len(SPECIALS)
FIRST_PIECE = FIRST_BYTE + 256
CODE_POINTS = 0x110000
CHUNK = 1 << 22  # characters encoded at a time: bounds memory, not the result
# GPT-4's split, with every repetition bounded, so that no text makes a word long and its merging slow (tiktoken issue 195).
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}{1,64}|\p{N}{1,3}| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,64}"
    r"|\s{0,64}[\r\n]{1,64}|\s{1,64}(?!\S)|\s{1,64}"
)
HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff]{2,}")


def _alphabet() -> list[str]:
    """Give the letter by which byte-level BPE writes each byte. Source: GPT-2's bytes_to_unicode."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    odd = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(odd)) for byte in range(256)]


class Tokenizer:
    """A tokenizer, from the bytes of its `tokenizer.json`.

    sort             "characters" or "bpe"
    vocabulary_size  int, tokens   control tokens and bytes included
    hash             SHA-256 of the file: equal hashes, equal ids
    """

    pad_id, end_id, user_id, assistant_id, system_id = PAD, END, USER, ASSISTANT, SYSTEM

    def __init__(self, content: bytes, origin: str = "tokenizer.json") -> None:
        self.content = content
        self.hash = hashlib.sha256(content).hexdigest()
        try:
            value = json.loads(content)
            model = value["model"]
            vocabulary: dict[str, int] = model["vocab"]
            self.sort = "characters" if model["byte_fallback"] else "bpe"
            names = [name for name, _ in sorted(vocabulary.items(), key=lambda entry: entry[1])]
            letters = [f"<0x{byte:02X}>" for byte in range(256)] if self.sort == "characters" else _alphabet()
            whole = sorted(vocabulary.values()) == list(range(len(names)))
            if not whole or tuple(names[:FIRST_BYTE]) != SPECIALS or names[FIRST_BYTE:FIRST_PIECE] != letters:
                raise ValueError("its first tokens are not the control tokens and the 256 bytes")
            if self.sort == "characters" and (model["merges"] or any(len(name) != 1 for name in names[FIRST_PIECE:])):
                raise ValueError("a character tokenizer holds something longer than a character")
            self._library = Library.from_str(content.decode("utf-8"))
        except Exception as problem:  # the library raises bare Exception
            raise DataError("tokens.file", path=origin, problem=str(problem)[:200]) from None
        self._library.encode_special_tokens = True
        self._library.no_truncation()
        self._library.no_padding()
        self.vocabulary_size = len(names)
        self._bytes = [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)]
        if self.sort == "characters":
            self._bytes += [name.encode("utf-8") for name in names[FIRST_PIECE:]]
            points = np.array([ord(name) for name in names[FIRST_PIECE:]], dtype=np.int64)
            self._table = np.full(CODE_POINTS, -1, dtype=np.int32)
            self._table[points] = np.arange(FIRST_PIECE, len(names), dtype=np.int32)
        else:
            byte = {letter: number for number, letter in enumerate(letters)}
            self._bytes += [bytes(byte[letter] for letter in name) for name in names[FIRST_PIECE:]]

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read `tokenizer.json` of a folder."""
        path = Path(folder) / "tokenizer.json"
        try:
            return cls(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise DataError("file.missing", path=str(path)) from None

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, which also open in transformers."""
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS[END],
            "eos_token": SPECIALS[END],
            "pad_token": SPECIALS[PAD],
            "additional_special_tokens": list(SPECIALS[USER:]),
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "model_max_length": 10**30,
        }
        write_bytes(Path(folder) / "tokenizer.json", self.content)
        write_json(Path(folder) / "tokenizer_config.json", settings)

    def encode(self, text: str) -> np.ndarray:
        """Turn a text into token ids; never a control token, whatever the text contains.

        return  (N,) int32
        Raises DataError for a lone surrogate, which is no character and has no bytes.
        """
        if len(text) <= CHUNK:
            return self._encode(text)
        return np.concatenate([self._encode(text[start:end]) for start, end in self._cuts(text)])

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into token ids; the same ids as one by one."""
        if self.sort == "characters" or any(len(text) > CHUNK for text in texts):
            return [self.encode(text) for text in texts]
        for text in texts:
            _check(text)
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int32) for each in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn token ids into text; control tokens are no text; bytes that are no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Turn token ids into the bytes they stand for."""
        return b"".join([self.token_bytes(each) for each in ids])

    def token_bytes(self, id: int) -> bytes:
        """Give the bytes of one token; none for a control token."""
        if not 0 <= id < self.vocabulary_size:
            raise DataError("tokens.id", id=int(id), size=self.vocabulary_size)
        return self._bytes[id]

    def _cuts(self, text: str) -> Iterator[tuple[int, int]]:
        """Cut a long text where the split cuts it too: between characters, or after a line end that a letter follows."""
        start = 0
        while start < len(text):
            end = min(start + CHUNK, len(text))
            if self.sort == "bpe" and end < len(text):
                found = max((match.start() + 1 for match in re.finditer(r"\n[A-Za-z\u4e00-\u9fff]", text[start:end])), default=0)
                end = start + found if found else len(text)
            yield start, end
            start = end

    def _encode(self, text: str) -> np.ndarray:
        if self.sort == "bpe":
            _check(text)
            return np.array(self._library.encode_batch_fast([text], add_special_tokens=False)[0].ids, dtype=np.int32)
        try:
            points = np.frombuffer(text.encode("ascii"), np.uint8) if text.isascii() else np.frombuffer(text.encode("utf-32-le"), "<u4")
        except UnicodeEncodeError as problem:
            raise _surrogate(problem) from None
        ids = self._table.take(points)  # (N,)
        return self._fall(points.astype(np.int64), ids) if len(ids) and ids.min() < 0 else ids

    def _fall(self, points: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Replace the characters that have no token by their UTF-8 bytes.

        points, ids  (N,) int    code points; token ids, -1 where there is none
        return       (found,) int32
        """
        missing = ids < 0
        sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)  # (N,)
        sizes[~missing] = 1
        ends = np.cumsum(sizes)
        out = np.repeat(ids, sizes)  # (found,)
        for size, lead in ((1, 0), (2, 0xC0), (3, 0xE0), (4, 0xF0)):
            rows = np.flatnonzero(missing & (sizes == size))
            point, start = points[rows], ends[rows] - size
            out[start] = FIRST_BYTE + (lead | point >> 6 * (size - 1))
            for place in range(1, size):
                out[start + place] = FIRST_BYTE + (0x80 | point >> 6 * (size - 1 - place) & 0x3F)
        return out


class Decoder:
    """Text from a stream of ids; a character is given only when it is whole. The pieces and the rest make what `decode` makes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Take one id; give the characters that it completes."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """End the stream; give U+FFFD for a character that was begun and not finished."""
        return self._decoder.decode(b"", True)


def _check(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise _surrogate(problem) from None


def _surrogate(problem: UnicodeEncodeError) -> DataError:
    return DataError("tokens.surrogate", place=problem.start, code=f"U+{ord(problem.object[problem.start]):04X}")


def _file(model: dict[str, Any], split: Any, decoder: Any) -> bytes:
    """Write a `tokenizer.json`, the same bytes for the same tokenizer."""
    added = [
        {"id": id, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for id, name in enumerate(SPECIALS)
    ]
    rest = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False}
    value = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": decoder,
        "model": {"type": "BPE", **rest, **model, "ignore_merges": False},
    }
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def train_characters(
    texts: Iterable[str], limit: int | None = None, minimum_count: int = 1, tell: Callable[..., None] = quiet
) -> Tokenizer:
    """Make a tokenizer of single characters, the most frequent first, equal counts by code point.

    limit          int, characters   keep at most so many; None: all; the others are written as bytes
    minimum_count  int               a rarer character is written as bytes
    """
    if minimum_count < 1 or (limit is not None and limit < 0):
        raise UsageError("tokens.settings", limit=limit, minimum_count=minimum_count)
    counts: Counter[str] = Counter()
    for text in texts:
        _check(text)
        counts.update(text)
    if not counts:
        raise DataError("tokens.no_text")
    ranked = sorted((-count, letter) for letter, count in counts.items() if count >= minimum_count)
    letters = [letter for _, letter in ranked][:limit]
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    model = {"byte_fallback": True, "vocab": {name: id for id, name in enumerate(names)}, "merges": []}
    tell("tokens.characters", kept=len(letters), seen=len(counts))
    return Tokenizer(_file(model, None, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}))


def train_bpe(texts: Iterable[str], size: int, tell: Callable[..., None] = quiet) -> Tokenizer:
    """Make a byte-level BPE tokenizer; Chinese is bounded by words while it is trained, and only then.

    size  int, tokens   of the whole vocabulary; fewer come out, and are told, when the text has no more pairs
    """
    if size < FIRST_PIECE:
        raise UsageError("tokens.size", size=size, least=FIRST_PIECE)
    library = Library(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), level])
    library.decoder = decoders.ByteLevel()
    letters = _alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - FIRST_BYTE, initial_alphabet=letters, show_progress=False)
    seen = False

    def pieces() -> Iterator[str]:
        nonlocal seen
        for text in texts:
            _check(text)
            seen = seen or bool(text)
            yield from _bounded(text)

    library.train_from_iterator(pieces(), trainer)
    if not seen:
        raise DataError("tokens.no_text")
    value = json.loads(library.to_str())
    merges = [list(pair) for pair in value["model"]["merges"]]
    names = [*SPECIALS, *letters, *dict.fromkeys(first + second for first, second in merges)]
    model = {"byte_fallback": False, "vocab": {name: id for id, name in enumerate(names)}, "merges": merges}
    tell("tokens.bpe", size=len(names), wanted=size)
    return Tokenizer(_file(model, value["pre_tokenizer"], value["decoder"]))


@functools.cache
def _words() -> Callable[[str], list[str]]:
    import rjieba  # 0.1 s for its dictionary, paid only by Chinese text that BPE is trained on

    return rjieba.cut


def _bounded(text: str) -> Iterator[str]:
    """Cut a text between Chinese words, so that no merge learnt is a piece of two words."""
    start = 0
    for match in HAN.finditer(text):
        words = _words()(match.group())
        place = match.start()
        for word in words[:-1]:
            place += len(word)
            yield text[start:place]
            start = place
    if start < len(text):
        yield text[start:]
