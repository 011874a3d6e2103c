"""Text to token ids and back, by characters, byte-level BPE, unigram pieces or words, all able to write every text; or another program's.

Stored as Hugging Face `tokenizer.json`. What a user types is only ever text: `encode` cannot give a control token, whatever the text
contains. The file is written here, not by the library, so that equal tokenizers have equal bytes and one hash. Each sort is a file of
this folder and one line of SORTS. Leaves out: normalisation (a text comes back exactly as it went in).
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import read_json, write_bytes, write_json
from zhixing.core.log import quiet
from zhixing.tokens import bpe, characters, extension, imported, pieces, unigram, wordpiece, words
from zhixing.tokens.chat import TEMPLATE
from zhixing.tokens.layout import BYTES, END, FIRST_BYTE, FIRST_PIECE, PAD, SPECIALS, USER, Parts

CHUNK = 1 << 22  # characters encoded at a time: bounds memory, not the result
SORTS = {"characters": characters.Characters, "bpe": bpe.BPE, "unigram": unigram.Unigram, "words": words.Words}
OTHERS = {"BPE": imported.Imported, wordpiece.SORT: wordpiece.WordPiece, pieces.SORT: pieces.Pieces}  # those that other programs made
TOKENIZER, WORDS, SETTINGS = "tokenizer.json", "words.json", "tokenizer_config.json"


class Tokenizer:
    """A tokenizer, from the bytes of its `tokenizer.json` and, where words are its tokens, its `words.json`.

    sort             "characters", "bpe", "unigram" or "words"; "imported": as another program made it
    portable         whether other programs can encode with the file: not words, for which exports refuse it
    lossless         whether a text comes back from its ids as it was
    vocabulary_size  int, tokens   control tokens and bytes included
    hash             SHA-256 of the files: equal hashes, equal ids
    end_id, pad_id   the token between texts, and the one that fills rows up
    opening          what a text to be written on begins with, before its own tokens
    begin_id, last_id  the control tokens that begin a text, or else divide texts, and that end one
    ends             tokens with which a text ends
    controls         {id: name} of tokens that are no text
    barred           tokens that are never written: controls that end nothing, and ids without a name
    added            {id: name} of all tokens that are looked for as they stand, controls among them
    byte_ids         the token of each byte; None of one that an imported tokenizer has none for
    frame            what an imported model reads before every text and after it, in training and later: two runs of control tokens
    mask_id          the token that stands where one is hidden; of our own the first number after the vocabulary
    prefix           where an imported one puts a space before a text, which is none of its bytes: `pieces.NONE`, FIRST or EVERY
    fallback         tokens of a byte that pieces may write as well

    settings  of an imported one its `tokenizer_config.json`, with the entry `imported.ABOUT`
    """

    def __init__(self, content: bytes, origin: str = TOKENIZER, words: bytes | None = None, settings: dict[str, Any] | None = None) -> None:
        self.content, self.words, self.settings = content, words, settings
        beside = words if settings is None else json.dumps(settings[imported.ABOUT], sort_keys=True).encode()
        self.hash = hashlib.sha256(content if beside is None else content + b"\0" + beside).hexdigest()
        try:
            value = json.loads(content)
            if settings is None:
                self._of_ours(value, words)
            else:
                self._of_others(value, settings[imported.ABOUT])
        except DataError:
            raise
        except Exception as problem:  # the library raises bare Exception
            raise DataError("tokens.file", path=origin, problem=str(problem)[:200]) from None
        self.portable = self._coder.portable
        self.lossless = getattr(self._coder, "lossless", True)
        self.prefix = getattr(self._coder, "prefix", pieces.NONE)
        self.barred = tuple(sorted((set(self.controls) - self.ends) | set(self._nameless)))

    def _of_ours(self, value: dict[str, Any], words: bytes | None) -> None:
        self.sort = _sort(value["model"])
        names = _names(value["model"]["vocab"])
        letters = tuple(bpe.alphabet()) if self.sort == "bpe" else BYTES
        if tuple(names[:FIRST_BYTE]) != SPECIALS or tuple(names[FIRST_BYTE:FIRST_PIECE]) != letters:
            raise ValueError("its first tokens are not the control tokens and the 256 bytes")
        self._coder = SORTS[self.sort](Parts(self.content, value, names, None if words is None else json.loads(words)))
        self.pad_id, self.end_id, self.opening, self.ends = PAD, END, (END,), frozenset({END})
        self.begin_id = self.last_id = END
        self.controls, self._nameless = dict(enumerate(SPECIALS)), ()
        self.added = self.controls
        self.byte_ids: list[int | None] = list(range(FIRST_BYTE, FIRST_PIECE))
        self.frame: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self.mask_id = len(names)
        self.vocabulary_size = len(names)
        self.fallback = frozenset(range(FIRST_BYTE, FIRST_PIECE) if self.sort != "bpe" else ())

    def _of_others(self, value: dict[str, Any], about: dict[str, Any]) -> None:
        self.sort, self.vocabulary_size = "imported", int(about["vocabulary_size"])
        self._coder = coder(Parts(self.content, value, []), self.vocabulary_size)
        self.fallback = getattr(self._coder, "fallback", frozenset())
        self.controls, self.added, self._nameless = self._coder.controls, self._coder.added, self._coder.nameless
        self.byte_ids = self._coder.byte_ids
        self.pad_id, self.end_id, self.opening, self.ends = about["pad"], about["end"], tuple(about["opening"]), frozenset(about["ends"])
        self.begin_id, self.last_id = about["begin"], about["last"]
        before, after = about.get("frame", ((), ()))
        self.frame, self.mask_id = (tuple(before), tuple(after)), about.get("mask", self.vocabulary_size)
        told = (self.pad_id, self.end_id, self.begin_id, self.last_id, *self.opening, *self.ends, *before, *after)
        if not all(type(each) is int and 0 <= each < self.vocabulary_size for each in told):
            raise ValueError("its control tokens are none of its ids")

    @cached_property
    def _bytes(self) -> list[bytes]:
        own = self._coder.pieces
        return own if self.sort == "imported" else [b""] * FIRST_BYTE + [bytes([byte]) for byte in range(256)] + own

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read the tokenizer of a folder.

        Raises DataError when there is none, when it is damaged, or when words are cut otherwise by the segmenter that is installed.
        """
        path, beside, about = (Path(folder) / name for name in (TOKENIZER, WORDS, SETTINGS))
        settings = read_json(about) if about.exists() else {}
        if not isinstance(settings, dict):
            raise DataError("file.not_json", path=str(about), problem="no object")
        try:
            return cls(
                path.read_bytes(),
                str(path),
                beside.read_bytes() if beside.exists() else None,
                settings if imported.ABOUT in settings else None,
            )
        except FileNotFoundError:
            raise DataError("file.missing", path=str(path)) from None

    def told_name(self, what: str) -> str:
        """Give the name of the token that an imported tokenizer's settings tell for "bos" or "eos"; nothing where they tell none."""
        given = (self.settings or {}).get(f"{what}_token")
        name = given.get("content") if isinstance(given, dict) else given
        return name if isinstance(name, str) else ""

    @property
    def templated(self) -> bool:
        """Whether the model that it belongs to has its own way of reading chats."""
        return isinstance((self.settings or {}).get("chat_template"), str)

    @property
    def prefixed(self) -> bool:
        """Whether a space is put before what follows a control token within a text, too."""
        return self.prefix == pieces.EVERY

    def save(self, folder: str | Path) -> None:
        """Write the files; `tokenizer_config.json`, by which transformers opens a tokenizer, only beside a portable one."""
        if self.words is not None:  # first: where a kill leaves a tokenizer.json, all that it needs is there
            write_bytes(Path(folder) / WORDS, self.words)
        if self.settings is not None:
            write_json(Path(folder) / SETTINGS, self.settings)
        write_bytes(Path(folder) / TOKENIZER, self.content)
        if not self.portable or self.settings is not None:
            return
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS[END],
            "eos_token": SPECIALS[END],
            "pad_token": SPECIALS[PAD],
            "additional_special_tokens": list(SPECIALS[USER:]),
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "chat_template": TEMPLATE,
            "model_max_length": 10**30,
        }
        write_json(Path(folder) / SETTINGS, settings)

    def encode(self, text: str, guarded: bool = False, begins: bool = True) -> np.ndarray:
        """Turn a text into token ids; never a control token, whatever the text contains.

        guarded  of an imported one, tokens that were added without being control tokens are not looked for either
        begins   the text begins here; False: it goes on, and no space is put before it
        return   (N,) int32
        Raises DataError for a lone surrogate, which is no character and has no bytes.
        """
        more = {"guarded": True} if guarded else {}
        on = {**more, "begins": False} if self.prefix else more
        if len(text) <= CHUNK:
            return self._coder.encode(text, **(more if begins else on))
        parts = enumerate(self.cut(text))
        return np.concatenate([self._coder.encode(each, **(on if number or not begins else more)) for number, each in parts])

    def framed(self, ids: np.ndarray, longest: int | None = None) -> np.ndarray:
        """Put what an imported model reads around every text around one that it is to answer; our own models read the text alone.

        ids      (N,) int
        longest  tokens of the whole; what of the text is too much is left out at its end
        return   (N',) int64

        Raises UsageError when there is no place for any token of a text.
        """
        before, after = self.frame
        room = None if longest is None else longest - len(before) - len(after)
        if room is not None and room < 1:
            raise UsageError("tokens.room", longest=longest, frame=len(before) + len(after))
        return np.concatenate([before, np.asarray(ids)[:room], after]).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Turn texts into token ids; the same ids as one by one."""
        if any(len(text) > CHUNK for text in texts):
            return [self.encode(text) for text in texts]
        return self._coder.encode_batch(texts)

    def decode(self, ids: Iterable[int], begins: bool = True) -> str:
        """Turn token ids into text; control tokens are no text; bytes that are no character become U+FFFD."""
        return self.decode_bytes(ids, begins).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], begins: bool = True) -> bytes:
        """Turn token ids into the bytes they stand for; a text begins with the first, unless it goes on, and as `begins_after` says."""
        told = []
        for each in ids:
            told.append(self.said(each, begins))
            begins = self.begins_after(each)
        return b"".join(told)

    def begins_after(self, id: int) -> bool:
        """Say whether a text begins after a token: a control token, or any that was added where what follows it is given a space."""
        return id in self.controls or (self.prefixed and id in self.added)

    def said(self, id: int, begins: bool) -> bytes:
        """Give the bytes that a token says in its place: of one that begins a text, without the space that was put before it."""
        content = self.token_bytes(id)
        return content.removeprefix(b" ") if begins and self.prefix else content

    def token_bytes(self, id: int) -> bytes:
        """Give the bytes of one token; none for a control token."""
        if not 0 <= id < self.vocabulary_size:
            raise DataError("tokens.id", id=int(id), size=self.vocabulary_size)
        return self._bytes[id]

    def cut(self, text: str, longest: int | None = None) -> Iterator[str]:
        """Cut a long text where no token crosses; longest: in characters, of a part that can be cut so."""
        start = 0
        while start < len(text):
            end = self._coder.cut(text, start, start + (longest or CHUNK))
            yield text[start:end]
            start = end

    def free_id(self) -> int:
        """Give the first id after all that have a name or a use; a model's table may be larger."""
        told = (self.pad_id, self.end_id, self.begin_id, self.last_id, self.mask_id, *self.opening, *self.ends, *sum(self.frame, ()))
        named = set(range(self.vocabulary_size)) - set(self._nameless)
        return max(each for each in (*named, *told) if each < self.vocabulary_size) + 1


def coder(parts: Parts, size: int) -> Any:
    """Make the coder of another program's tokenizer, for a model of so many tokens.

    Raises ValueError or KeyError for a sort that is not read.
    """
    model = parts.value["model"]
    return (pieces.Pieces if model.get("byte_fallback") else OTHERS[model["type"]])(parts, size)


def _sort(model: dict[str, Any]) -> str:
    """Name the sort of a tokenizer by its model."""
    if model["type"] == "BPE":
        return "characters" if model["byte_fallback"] else "bpe"
    return {"Unigram": "unigram", "Words": "words"}[model["type"]]


def _names(vocabulary: dict[str, int] | list[list[Any]]) -> list[str]:
    """Give every token's name, by id."""
    if isinstance(vocabulary, list):
        names, ids = [name for name, _ in vocabulary], list(range(len(vocabulary)))
    else:
        names = [name for name, _ in sorted(vocabulary.items(), key=lambda entry: entry[1])]
        ids = sorted(vocabulary.values())
    if ids != list(range(len(names))) or len(set(names)) != len(names):
        raise ValueError("its ids are not 0 and on, each with a name of its own")
    return names


class Decoder:
    """Text from a stream of ids; a character is given only when it is whole. The pieces and the rest make what `decode` makes.

    begins  a text begins with the first id; False: one goes on
    """

    def __init__(self, tokenizer: Tokenizer, begins: bool = True) -> None:
        self._tokenizer, self._begins = tokenizer, begins
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Take one id; give the characters that it completes."""
        content = self._tokenizer.said(id, self._begins)
        self._begins = self._tokenizer.begins_after(id)
        return self._decoder.decode(content)

    def flush(self) -> str:
        """End the stream; give U+FFFD for a character that was begun and not finished."""
        return self._decoder.decode(b"", True)


def train_characters(
    texts: Iterable[str], limit: int | None = None, minimum_count: int = 1, tell: Callable[..., None] = quiet
) -> Tokenizer:
    """Make a tokenizer of single characters, the most frequent first, equal counts by code point.

    limit          int, characters   keep at most so many; None: all; the others are written as bytes
    minimum_count  int               a rarer character is written as bytes
    """
    return Tokenizer(characters.train(texts, limit, minimum_count, tell))


def make_bytes() -> Tokenizer:
    """Make a tokenizer of the 256 bytes, which no text has to be read for."""
    return Tokenizer(characters.train(["-"], 0, 1, quiet))


def train_bpe(texts: Iterable[str], size: int, tell: Callable[..., None] = quiet) -> Tokenizer:
    """Make a byte-level BPE tokenizer; Chinese is bounded by words while it is trained, and only then.

    size  int, tokens   of the whole vocabulary; fewer come out, and are told, when the text has no more pairs
    """
    return Tokenizer(bpe.train(texts, size, tell))


def extend_bpe(tokenizer: Tokenizer, texts: Iterable[str], most: int, tell: Callable[..., None] = quiet) -> Tokenizer:
    """Give a byte-level BPE tokenizer more pieces, of one's own or of an imported model; its ids and merges stay as they are.

    most  int, tokens   that may be added; fewer are, and are told, when no other pair stands twice in the texts

    Raises UsageError for a tokenizer of another sort.
    """
    value = json.loads(tokenizer.content)
    extension.check_sort(value, tokenizer.sort)
    parts = (part for text in texts for part in tokenizer.cut(text, extension.PIECE))
    content = extension.extend(tokenizer.content, tokenizer.free_id(), parts, most, tell)
    if tokenizer.settings is None:
        return Tokenizer(content)
    size = max(tokenizer.vocabulary_size, 1 + max(json.loads(content)["model"]["vocab"].values()))
    about = tokenizer.settings[imported.ABOUT]
    return Tokenizer(content, settings={**tokenizer.settings, imported.ABOUT: {**about, "vocabulary_size": size}})


def train_unigram(texts: Iterable[str], size: int, tell: Callable[..., None] = quiet) -> Tokenizer:
    """Make a tokenizer of unigram pieces; Chinese is bounded by words while it is trained, and only then.

    size  int, tokens   of the whole vocabulary; fewer come out, and are told, when the text has no more pieces
    """
    return Tokenizer(unigram.train(texts, size, tell))


def train_words(
    texts: Iterable[str],
    size: int,
    dictionary: Sequence[str] = (),
    minimum_count: int = words.MINIMUM_COUNT,
    tell: Callable[..., None] = quiet,
) -> Tokenizer:
    """Make a tokenizer of words, the most frequent up to the size, and of the characters that spell the others.

    size           int, tokens   of the whole vocabulary; fewer come out, and are told, when the text has no more words
    dictionary     the user's words: each is one wherever it stands, however rare
    minimum_count  int           a rarer word is written by its characters
    """
    content, about = words.train(texts, size, dictionary, minimum_count, tell)
    return Tokenizer(content, words=about)
