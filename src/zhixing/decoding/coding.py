"""Text to few bytes and back, by any model of the next token: what it says with probability p costs -log2 p bits.

Both sides read the same tokens in the same calls of the same shapes, so that their distributions are equal to the bit; these become whole
numbers, and from there on the arithmetic is exact. A long text is cut into lanes that are read side by side as one batch, each opening a
text of its own, and all write into one stream, token by token in turn. A model with a window slides as in scoring: over half a window.
Source: Witten, Neal & Cleary 1987 (arithmetic coding by a model); Martin 1979 (the coder, byte by byte).
Leaves out: models that learn from what they read; other coders (ANS) that need the text backwards.
"""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from zhixing.core.errors import DataError, RunError, UsageError
from zhixing.core.log import quiet
from zhixing.core.stop import Stop
from zhixing.layers.kinds import Causal, Countable, Inputs, next_log_probabilities
from zhixing.layers.machine import machine
from zhixing.layers.scoring import score
from zhixing.tokens.imported import unwritable
from zhixing.tokens.tokenizer import Tokenizer

TOTAL_BITS = 32  # a distribution is whole numbers that sum to 2^32: even a vocabulary of 2^17 costs below 0.0001 bits a token
WEIGHT_BITS = 30  # so that weight * 2^32 stays below 2^63
RANGE_BITS = 64  # after each token the range is kept above 2^56, so that a share of 2^-32 of it is exact to 2^-24
# Tokens of a lane. Opening it costs what the text before would have told: 0.8 to 1.5 bytes a lane on tiny_shakespeare in characters, by an
# n-gram, a decoder of 2M parameters and their mixture; of the 1,100 bytes or so that a lane becomes, about 0.1 %.
LANE = 4096
MOST_THREADS = 1024  # of a machine that packed; a file that claims more is damaged
LANES = 64  # at most: bounds the memory of their caches
SEPARATORS = (b"", b"\n", b"\n\n")  # what may divide a text into documents as the model knows them
TRIED_BYTES = 8192  # by which the separator is chosen
REPORT_SECONDS = 0.1  # between two reports of progress
ESCAPED = re.compile("[\udc80-\udcff]+|[^\udc80-\udcff]+")  # bytes that are no UTF-8, and text
MAGIC, VERSION = b"\x89zxp", 1
Tell = Callable[..., None]


class Encoder:
    """An arithmetic coder: shares of an interval in, bytes out."""

    def __init__(self) -> None:
        self.low, self.range = 0, (1 << RANGE_BITS) - 1
        self.out = bytearray()

    def push(self, start: int, size: int) -> None:
        """Write the share [start, start + size) of 2^TOTAL_BITS; 0 < size."""
        step = self.range >> TOTAL_BITS
        self.low += step * start
        self.range = step * size
        if self.low >> RANGE_BITS:
            self._carry()
        while self.range >> (RANGE_BITS - 8) == 0:
            self.out.append(self.low >> (RANGE_BITS - 8))
            self.low = (self.low << 8) & ((1 << RANGE_BITS) - 1)
            self.range <<= 8

    def finish(self) -> bytes:
        """End the stream with as few bytes as name a point of the interval; whoever reads on reads zeros."""
        for kept in range(RANGE_BITS // 8 + 1):
            free = RANGE_BITS - 8 * kept
            point = (self.low + (1 << free) - 1) >> free << free  # the first point at or after low with so many bytes
            if point < self.low + self.range:
                self.low = point
                if self.low >> RANGE_BITS:
                    self._carry()
                self.out += self.low.to_bytes(RANGE_BITS // 8, "big")[:kept]
                break
        return bytes(self.out)

    def _carry(self) -> None:
        """Add one to the bytes already written."""
        self.low &= (1 << RANGE_BITS) - 1
        place = len(self.out) - 1
        while self.out[place] == 0xFF:
            self.out[place] = 0
            place -= 1
        self.out[place] += 1


class Decoder:
    """The other side: bytes in, points out; what the point is a share of must then be taken."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, RANGE_BITS // 8
        self.code, self.range = int.from_bytes(content[: self.place].ljust(self.place, b"\0"), "big"), (1 << RANGE_BITS) - 1

    def point(self) -> int:
        """Give a number below 2^TOTAL_BITS that lies in the share that was written."""
        return min(self.code // (self.range >> TOTAL_BITS), (1 << TOTAL_BITS) - 1)

    def take(self, start: int, size: int) -> None:
        """Pass over the share [start, start + size) that holds the point."""
        step = self.range >> TOTAL_BITS
        self.range = step * size
        self.code = min(self.code - step * start, self.range - 1)  # larger only in a stream that is not of these shares
        while self.range >> (RANGE_BITS - 8) == 0:
            byte = self.content[self.place] if self.place < len(self.content) else 0
            self.code = self.code << 8 | byte
            self.range <<= 8
            self.place += 1


def shares(log_probabilities: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Turn distributions into whole numbers: where each token's share begins, and after the last where it ends.

    log_probabilities  (B, V) float    log p(next token)
    allowed            (V,) bool       the others get nothing; each of these at least 1
    return             (B, V + 1) int64   from 0 to 2^TOTAL_BITS

    Raises RunError when a log-probability is no number, or all of them are -inf.
    """
    logs = np.where(allowed, log_probabilities, -np.inf).astype(np.float64)  # (B, V)
    best = logs.max(1, keepdims=True)  # (B, 1)
    if not np.isfinite(best).all():
        raise RunError("coding.not_finite")
    weights = (np.exp(logs - best) * (1 << WEIGHT_BITS)).astype(np.int64)  # (B, V)
    spare = (1 << TOTAL_BITS) - int(allowed.sum())
    sizes = weights * spare // weights.sum(1, keepdims=True) + allowed
    sizes[np.arange(len(sizes)), logs.argmax(1)] += (1 << TOTAL_BITS) - sizes.sum(1)
    ends = np.zeros((len(sizes), sizes.shape[1] + 1), np.int64)
    np.cumsum(sizes, 1, out=ends[:, 1:])
    return ends


class Reader:
    """Lanes of tokens as a model reads them: both sides make exactly the same calls."""

    def __init__(self, model: Causal | Countable, lanes: int, end_id: int) -> None:
        self.model = model
        self.device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
        self.window: int | None = getattr(model, "window", None)
        self.context: list[np.ndarray] = []
        self.cache = model.cache(lanes)
        self.read(np.full(lanes, end_id))

    def read(self, tokens: np.ndarray) -> None:
        """Read one token a lane; (B,) int."""
        self.fresh = tokens[:, None].astype(np.int64)  # (B, T)
        if self.window is None:
            return
        self.context.append(self.fresh)
        if len(self.context) > self.window:
            # As `scoring.place`: the next half window is predicted before it slides again.
            self.context = self.context[max(self.window // 2, 1) :]
            self.cache = self.model.cache(len(tokens))
            self.fresh = np.concatenate(self.context, 1)

    def log_probabilities(self) -> np.ndarray:
        """Give log p(next token) of each lane, (B, V) float32."""
        return next_log_probabilities(self.model, Inputs(torch.from_numpy(self.fresh).to(self.device)), self.cache).cpu().numpy()


def lanes_for(tokens: int) -> int:
    """Say into how many lanes a text is cut: a pure function of its length."""
    return max(1, min(LANES, tokens // LANE))


def allow(tokenizer: Tokenizer, separated: bool) -> np.ndarray:
    """Say which tokens a text can be made of: no control token, but the end token where it divides documents; (V,) bool."""
    allowed = np.ones(tokenizer.vocabulary_size, bool)
    allowed[[*tokenizer.controls, *tokenizer.barred]] = False
    allowed[tokenizer.end_id] = separated
    return allowed


def encode_tokens(
    model: Causal | Countable, tokens: np.ndarray, lanes: int, allowed: np.ndarray, end_id: int, told: Callable[[int], None]
) -> bytes:
    """Write tokens as bytes.

    tokens   (N,) int
    allowed  (V,) bool   holds for every one of them
    told     (tokens done) -> None, once a step
    """
    steps = -(-len(tokens) // lanes)
    grid = np.full(lanes * steps, end_id, np.int64)
    grid[: len(tokens)] = tokens
    grid = grid.reshape(lanes, steps)  # (B, T)
    coder, rows = Encoder(), np.arange(lanes)
    reader = Reader(model, lanes, end_id) if steps else None
    for step in range(steps):
        live = (len(tokens) - 1 - step) // steps + 1  # the last lanes may be shorter
        ends = shares(reader.log_probabilities(), allowed)  # (B, V + 1)
        chosen = grid[:, step]  # (B,)
        starts, stops = ends[rows, chosen][:live].tolist(), ends[rows, chosen + 1][:live].tolist()
        for start, stop in zip(starts, stops, strict=True):
            coder.push(start, stop - start)
        reader.read(chosen)
        told(min((step + 1) * lanes, len(tokens)))
    return coder.finish()


def decode_tokens(
    model: Causal | Countable, content: bytes, count: int, lanes: int, allowed: np.ndarray, end_id: int, told: Callable[[int], None]
) -> np.ndarray:
    """Read back the tokens that `encode_tokens` wrote; other bytes give other tokens, as many.

    return  (N,) int64
    """
    steps = -(-count // lanes)
    grid = np.full((lanes, steps), end_id, np.int64)  # (B, T)
    coder = Decoder(content)
    reader = Reader(model, lanes, end_id) if steps else None
    for step in range(steps):
        live = (count - 1 - step) // steps + 1
        ends = shares(reader.log_probabilities(), allowed)  # (B, V + 1)
        for lane in range(live):
            token = int(ends[lane].searchsorted(coder.point(), side="right")) - 1
            start = int(ends[lane, token])
            coder.take(start, int(ends[lane, token + 1]) - start)
            grid[lane, step] = token
        reader.read(grid[:, step])
        told(min((step + 1) * lanes, count))
    return grid.reshape(-1)[:count]


def to_tokens(tokenizer: Tokenizer, data: bytes, separator: bytes = b"") -> np.ndarray:
    """Turn any bytes into tokens: text by the tokenizer, bytes that are no UTF-8 by the byte tokens, separators by the end token.

    return  (N,) int64
    """
    documents = data.decode("utf-8", "surrogateescape")
    parts: list[np.ndarray] = []
    for document in documents.split(separator.decode()) if separator else [documents]:
        if separator:
            parts.append(np.array([tokenizer.end_id]))
        for number, piece in enumerate(re.findall(ESCAPED, document)):
            if "\udc80" <= piece[0] <= "\udcff":
                raw = piece.encode("utf-8", "surrogateescape")
                if lost := [byte for byte in raw if tokenizer.byte_ids[byte] is None]:
                    raise unwritable(lost[0], len(lost))
                parts.append(np.array([tokenizer.byte_ids[byte] for byte in raw], np.int64))
            else:
                parts.append(tokenizer.encode(piece, begins=not number))
    tokens = np.concatenate([np.zeros(0, np.int64), *parts])
    return tokens[1:] if separator else tokens  # nothing is divided from the first document


def to_bytes(tokenizer: Tokenizer, tokens: np.ndarray, separator: bytes = b"") -> bytes:
    """Turn tokens back into the bytes that they were made of."""
    pieces = [tokenizer.token_bytes(each) for each in range(tokenizer.vocabulary_size)]
    pieces[tokenizer.end_id] = separator
    if not tokenizer.prefix:
        return b"".join([pieces[each] for each in tokens.tolist()])
    ids = tokens.tolist()
    begins = [True, *map(tokenizer.begins_after, ids)]
    return b"".join([pieces[each].removeprefix(b" " * first) for each, first in zip(ids, begins, strict=False)])


def choose_separator(model: Causal | Countable, tokenizer: Tokenizer, data: bytes) -> bytes:
    """Say what divides a text into documents as the model knows them: of the separators, that by which its beginning is likeliest."""
    sample = data[:TRIED_BYTES]
    bits = {}
    for separator in SEPARATORS:
        if separator in sample:
            tokens = to_tokens(tokenizer, sample, separator)
            bits[separator] = -score(model, np.concatenate([[tokenizer.end_id], tokens])).sum()
    return min(bits, key=lambda each: bits[each])


@dataclass(frozen=True)
class Header:
    """What a packed file says of itself.

    model       SHA-256 of the manifest of the model that it was packed with
    digest      SHA-256 of the text
    size_bytes  of the text; tokens: of all lanes together
    separator   what the end token stands for; b"": the text was not divided
    arithmetic  what must be equal, together with threads, to be sure of equal bytes: versions of torch and NumPy, device, instruction set
    """

    model: bytes
    digest: bytes
    size_bytes: int
    tokens: int
    lanes: int
    threads: int
    separator: bytes
    arithmetic: str

    @property
    def made_on(self) -> str:
        """Say on what arithmetic it was packed."""
        return spell(self.arithmetic, self.threads)


def arithmetic() -> tuple[str, int]:
    """Name the arithmetic of this process, briefly, and its threads."""
    here = machine("fp32")
    return "\t".join([here["torch"], np.__version__, f"{here['device']} {here['arithmetic']}"]), here["threads"]


def spell(arithmetic: str, threads: int) -> str:
    """Write an arithmetic out for people."""
    return ", ".join(f"{name} {part}" for name, part in zip(("torch", "numpy", "device"), arithmetic.split("\t"), strict=False)) + (
        f", threads {threads}"
    )


def write_file(header: Header, content: bytes) -> bytes:
    """Set header and stream as a file: magic, version, the CRC-32 of all that follows, the header, the stream."""
    body = bytearray(header.model + header.digest)
    for number in (header.size_bytes, header.tokens, header.lanes, header.threads):
        while number > 0x7F:
            body.append(number & 0x7F | 0x80)
            number >>= 7
        body.append(number)
    for text in (header.separator, header.arithmetic.encode()):
        body += bytes([len(text)]) + text
    body += content
    return MAGIC + bytes([VERSION]) + zlib.crc32(body).to_bytes(4, "big") + bytes(body)


def read_file(data: bytes, origin: str = "-") -> tuple[Header, bytes]:
    """Read a file's header, and give its stream; origin is the path to name where it is refused.

    Raises DataError when it is no packed file, of a newer version, or damaged: cut, lengthened or changed anywhere.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise DataError("coding.not_packed", path=origin)
    if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
        raise DataError("coding.newer", path=origin, version=data[len(MAGIC)], known=VERSION)
    place = len(MAGIC) + 1
    body = data[place + 4 :]
    if zlib.crc32(body) != int.from_bytes(data[place : place + 4], "big") or len(data) < place + 4 or data[place - 1] != VERSION:
        raise DataError("coding.damaged", path=origin)
    place, numbers, texts = 64, [], []
    try:
        for _ in range(4):
            number = shift = 0
            while body[place] > 0x7F:
                number |= (body[place] & 0x7F) << shift
                shift, place = shift + 7, place + 1
            numbers.append(number | body[place] << shift)
            place += 1
        for _ in range(2):
            texts.append(body[place + 1 : place + 1 + body[place]])
            place += 1 + body[place]
        header = Header(body[:32], body[32:64], *numbers, texts[0], texts[1].decode())
    except (IndexError, UnicodeDecodeError):
        raise DataError("coding.damaged", path=origin) from None
    if not 1 <= header.lanes <= LANES or header.tokens > header.size_bytes or not 1 <= header.threads <= MOST_THREADS:
        raise DataError("coding.damaged", path=origin)
    return header, body[place:]


def watch(total_tokens: int, size_bytes: int, tell: Tell, stop: Stop | None) -> Callable[[int], None]:
    """Give what is called with the tokens done: it tells how far, how fast and how long still, and obeys a stop."""
    began = last = time.monotonic()

    def told(done: int) -> None:
        nonlocal last
        if stop is not None:
            stop.check()
        now = time.monotonic()
        if now - last >= REPORT_SECONDS:
            last, share = now, done / total_tokens
            pace = share / (now - began)  # of the whole, in a second
            tell("pack.progress", done=int(share * size_bytes), total=size_bytes, rate=pace * size_bytes / 1000, left=(1 - share) / pace)

    return told


def pack(
    model: Causal | Countable,
    tokenizer: Tokenizer,
    data: bytes,
    identity: bytes = bytes(32),
    tell: Tell = quiet,
    stop: Stop | None = None,
) -> bytes:
    """Pack bytes of any sort; of those that the model expects, few are left.

    identity  32 bytes that name the model: its manifest's SHA-256
    return    a whole file; `unpack` gives the bytes back with the same model on the same arithmetic
    """
    separator = choose_separator(model, tokenizer, data)
    tokens = to_tokens(tokenizer, data, separator)
    if to_bytes(tokenizer, tokens, separator) != data:
        raise RunError("coding.not_lossless")
    name, threads = arithmetic()
    header = Header(identity, hashlib.sha256(data).digest(), len(data), len(tokens), lanes_for(len(tokens)), threads, separator, name)
    told = watch(len(tokens), len(data), tell, stop)
    allowed = allow(tokenizer, bool(separator))
    return write_file(header, encode_tokens(model, tokens, header.lanes, allowed, tokenizer.end_id, told))


def unpack(
    model: Causal | Countable,
    tokenizer: Tokenizer,
    packed: bytes,
    identity: bytes = bytes(32),
    origin: str = "-",
    tell: Tell = quiet,
    stop: Stop | None = None,
) -> bytes:
    """Give back the bytes that were packed, proved by their SHA-256.

    Raises DataError when the file is damaged, UsageError when it was packed with another model, RunError when the bytes that come out are
    not those that went in: the arithmetic is another.
    """
    header, content = read_file(packed, origin)
    if header.model != identity:
        raise UsageError("coding.other_model", path=origin, packed=header.model.hex()[:12], given=identity.hex()[:12])
    here = spell(*arithmetic())
    if here != header.made_on:
        tell("pack.other_machine", before=header.made_on, now=here)
    told = watch(header.tokens, header.size_bytes, tell, stop)
    allowed = allow(tokenizer, bool(header.separator))
    tokens = decode_tokens(model, content, header.tokens, header.lanes, allowed, tokenizer.end_id, told)
    data = to_bytes(tokenizer, tokens, header.separator)
    if hashlib.sha256(data).digest() != header.digest:
        raise RunError("coding.differs", path=origin, before=header.made_on, now=here)
    return data
