"""More pieces for a byte-level BPE that exists: pairs of its tokens, the most frequent of a text first, merged after all that it merges.

Ids and the order of the merges that there are stay as they are, so that a model keeps what it knows of its tokens. A text is cut as the
tokenizer cuts it, and pairs are counted over its distinct words, as this tokenizer writes them.
Source: Sennrich et al. 2016, section 3.2, arXiv:1508.07909. Differs: it goes on from a tokenizer instead of from characters, and Chinese is
bounded as the tokenizer bounds it, not by words.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from zhixing.core.errors import DataError, UsageError
from zhixing.tokens.layout import Parts, check

LEAST_COUNT = 2  # a pair that stands once in a text is no piece of any other
PIECE, BATCH = 1 << 14, 16  # characters that a long text is cut into, and such parts encoded at a time: bounds memory
SHIFT = 32  # a pair of tokens as one number
NONE = -1


class Words:
    """The distinct words of a text as linked tokens, and how often each pair of neighbours stands in the text.

    words   {int32 ids as bytes: how often the word stands in the text}
    counts  {pair: int}    above 0
    """

    def __init__(self, words: Mapping[bytes, int]) -> None:
        lengths = np.array([len(each) >> 2 for each in words], np.int64)
        self.ids = np.frombuffer(b"".join(words), np.int32).astype(np.int64)
        self.weights = np.repeat(np.fromiter(words.values(), np.int64, len(words)), lengths)
        ends = np.cumsum(lengths)
        places = np.arange(len(self.ids))
        self.after, self.before = places + 1, places - 1
        self.after[ends - 1], self.before[ends - lengths] = NONE, NONE
        order = np.argsort(self.ids, kind="stable")
        tokens, starts = np.unique(self.ids[order], return_index=True)
        self.places = dict(zip(tokens.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
        self.counts: dict[int, int] = dict(zip(*self._pairs(places[self.after >= 0]), strict=True))

    def _pairs(self, places: np.ndarray) -> tuple[list[int], list[int]]:
        """Give the pairs that begin at places, each once, and how often they stand in the text."""
        pairs, which = np.unique((self.ids[places] << SHIFT) | self.ids[self.after[places]], return_inverse=True)
        return pairs.tolist(), np.bincount(which, self.weights[places], len(pairs)).astype(np.int64).tolist()

    def _begin(self, first: int, second: int) -> np.ndarray:
        """Find where a pair begins, from left to right, none within another."""
        rarer = first if len(self.places[first]) <= len(self.places[second]) else second
        found = self.places[rarer]
        found = self.places[rarer] = found[self.ids[found] == rarer]  # what was merged since is let go
        if rarer == first:
            found = found[self.after[found] >= 0]
            found = found[self.ids[self.after[found]] == second]
        else:
            found = self.before[found]
            found = found[found >= 0]
            found = found[self.ids[found] == first]
        if first != second or not len(found):
            return found
        chained = np.concatenate([[False], found[1:] == self.after[found[:-1]]])
        number = np.arange(len(found))
        return found[(number - np.maximum.accumulate(np.where(chained, 0, number))) % 2 == 0]

    def merge(self, first: int, second: int, made: int) -> list[int]:
        """Put one token in the place of two, wherever they stand side by side; gives the pairs that stand there now."""
        starts = self._begin(first, second)
        seconds = self.after[starts]
        touched = _known(self.before[starts], starts, seconds)
        for pair, number in zip(*self._pairs(touched[self.after[touched] >= 0]), strict=True):
            left = self.counts[pair] - number
            if left:
                self.counts[pair] = left
            else:
                del self.counts[pair]
        rights = self.after[seconds]
        self.ids[starts], self.ids[seconds] = made, NONE
        self.after[starts] = rights
        self.before[rights[rights >= 0]] = starts[rights >= 0]
        held = self.places.get(made)
        self.places[made] = starts if held is None else np.union1d(held[self.ids[held] == made], starts)
        touched = _known(self.before[starts], starts)
        pairs, numbers = self._pairs(touched[self.after[touched] >= 0])
        for pair, number in zip(pairs, numbers, strict=True):
            self.counts[pair] = self.counts.get(pair, 0) + number
        return pairs


def _known(*places: np.ndarray) -> np.ndarray:
    """Give places in order, each once, without those that are none."""
    found = np.unique(np.concatenate(places))
    return found[found >= 0]


def grown(value: dict[str, Any], first: int, words: Mapping[bytes, int], most: int) -> tuple[dict[str, Any], int]:
    """Give a `tokenizer.json` with more pieces, and how many they are.

    value  what the file says, of a byte-level BPE
    first  int    the id of the first new piece
    words  {int32 ids as bytes: how often the word stands in the text}
    most   int, tokens    that may be added; fewer are when no other pair stands twice
    """
    ids = dict(value["model"]["vocab"])
    names = {place: name for name, place in ids.items()}
    old = [each.split(" ") if isinstance(each, str) else each for each in value["model"]["merges"]]
    known = {(ids[one] << SHIFT) | ids[two]: (rank, ids[one + two]) for rank, (one, two) in enumerate(old)}
    added = {each["content"]: each["id"] for each in value.get("added_tokens") or ()}
    text, new = Words(words), []
    heap = [(-number, pair) for pair, number in text.counts.items() if number >= LEAST_COUNT]
    heapq.heapify(heap)
    free = itertools.count(first)
    made = 0
    while heap and made < most:
        number, pair = heapq.heappop(heap)
        now = text.counts.get(pair, 0)
        if now != -number:  # it became rarer
            if now >= LEAST_COUNT:
                heapq.heappush(heap, (-now, pair))
            continue
        one, two = names[pair >> SHIFT], names[pair & ((1 << SHIFT) - 1)]
        if one + two in added:
            continue
        if one + two not in ids:
            place = ids[one + two] = next(free)
            names[place] = one + two
            made += 1
        new.append([one, two])
        known[pair] = (len(known), ids[one + two])
        waiting = {pair}
        while waiting:  # a piece that there was already may be the beginning of what is merged before
            of = min(waiting, key=lambda each: known[each][0])
            waiting.discard(of)
            if of not in text.counts:
                continue
            for each in text.merge(of >> SHIFT, of & ((1 << SHIFT) - 1), known[of][1]):
                if text.counts[each] >= LEAST_COUNT:
                    heapq.heappush(heap, (-text.counts[each], each))
                if each in known:
                    waiting.add(each)
    # The library numbers added tokens that are no pieces by how many pieces there are.
    ids |= {name: place for name, place in added.items() if name not in ids}
    written = new if not value["model"]["merges"] or not isinstance(value["model"]["merges"][0], str) else [" ".join(each) for each in new]
    return {**value, "model": {**value["model"], "vocab": ids, "merges": [*value["model"]["merges"], *written]}}, made


def words_of(library: Library, texts: Iterable[str]) -> Counter[bytes]:
    """Count the words of texts as a tokenizer cuts and writes them, by their int32 ids as bytes; words of one token are left out."""
    found: Counter[bytes] = Counter()
    waiting = iter(texts)
    while batch := list(itertools.islice(waiting, BATCH)):
        for each in batch:
            check(each)
        for each in library.encode_batch(batch, add_special_tokens=False):
            raw, words = np.array(each.ids, "<i4").tobytes(), np.array(each.word_ids)
            edges = [0, *(np.flatnonzero(words[1:] != words[:-1]) + 1).tolist(), len(words)]
            found.update(raw[4 * start : 4 * end] for start, end in itertools.pairwise(edges) if end - start > 1)
    return found


def check_sort(value: dict[str, Any], sort: str) -> None:
    """Raise UsageError for a tokenizer that is no byte-level BPE whose pieces are written by their letters alone."""
    model = value["model"]
    odd = [name for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout") if model.get(name)]
    if sort not in ("bpe", "imported") or model["type"] != "BPE" or model.get("byte_fallback") or odd:
        raise UsageError("tokens.extend_sort", sort=" ".join([sort if sort != "imported" else model["type"], *odd]))


def extend(content: bytes, first: int, texts: Iterable[str], most: int, tell: Callable[..., None]) -> bytes:
    """Make the `tokenizer.json` of a byte-level BPE with more pieces; see `extend_bpe`."""
    value = json.loads(content)
    words = words_of(Parts(content, value, []).library(), texts)
    found, made = grown(value, first, words, most)
    tell("tokens.extended", count=made, wanted=most)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parts(before: bytes, after: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Give the id of each piece that was added to a tokenizer, and the ids of the old pieces that it consists of.

    before, after  of its `tokenizer.json`

    Raises DataError when the one is not the other with more pieces.
    """
    old, new = (json.loads(each)["model"] for each in (before, after))
    count = len(old["merges"])
    if new["merges"][:count] != old["merges"] or any(new["vocab"].get(name) != place for name, place in old["vocab"].items()):
        raise DataError("tokens.extend_other")
    consists = {name: (place,) for name, place in old["vocab"].items()}
    for each in new["merges"][count:]:
        one, two = each.split(" ") if isinstance(each, str) else each
        if one + two not in consists:
            consists[one + two] = consists[one] + consists[two]
            yield new["vocab"][one + two], consists[one + two]
