"""Hearing: p(text | sound).   sound -> text

Trained by CTC on characters, or whatever tokens are asked for; or, on a model that writes, as a translation of the sound. Judged by how
many words of the right texts must be changed, put in or left out for each of them (WER), and the same of characters (CER). A character of a
script without spaces, such as Chinese, counts as a word. Beside every score stands the oldest way of doing it: each word's recordings are
kept, and a sound is laid over a chain of them by dynamic time warping (`models/warping.py`).
Source: Graves et al. 2006; word errors by Levenshtein 1966, summed over all texts and divided once.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data import sound
from zhixing.data.batch import IGNORED, pad
from zhixing.data.schema import Schema, Sound, Text
from zhixing.metrics.figures import Figures, Mean, Whole
from zhixing.metrics.transcripts import differ, error_rate, words_of
from zhixing.tasks.task import Answer, Example, Item, counted_in

READ_BATCH, PAIRS = 16, 1 << 23  # sounds heard side by side at most, and pairs of states of all of them
RATE = 16_000  # Hz, at most: above its half there is little of speech
APART = 5  # one row in so many is kept out of the templates while their price is chosen, where no row is held
WRITE_BATCH = 8  # sounds of which a model that writes writes side by side
MOST_TOKENS = 224  # that it writes of one
MARGIN_SECONDS = 0.25  # of silence after the longest sound of training
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]")
READ_AHEAD = 256  # sounds sorted by length before that
# Whisper's control tokens.
STARTS, TRANSCRIBES, TRANSLATES, UNTIMED = "<|startoftranscript|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


@dataclass(frozen=True)
class Transcribe:
    """One sound, what is said in it.

    rate     int, Hz         of the sounds that a model hears; from the training rows, at most 16 kHz
    bins     int, channels   of a frame
    seconds  float           the longest sound that is read whole; `zhixing transcribe` cuts longer ones at pauses
    stride   int, frames     of the model's states, by which a sound may be too short for its text
    beam     int             prefixes kept when answering; 1: greedy

    Of a model that writes, as Whisper does:

    written    bool          the model is one
    filled     float         seconds up to which a shorter sound is filled with silence; 0: as long as the longest. A longer one is
                             filled up to a whole half second
    opening    token ids     that it reads before a text; (): the tokenizer's end token alone
    barred     token ids     that it never writes
    unopened   token ids     that it does not write first
    longest    int, tokens   of a text, its opening counted
    languages  names         of which the likeliest is put after the first token of the opening; (): the opening stands as it is
    """

    rate: int
    bins: int = sound.BINS
    seconds: float = 30.0
    stride: int = sound.STRIDE
    beam: int = 1
    written: bool = False
    filled: float = 0.0
    opening: tuple[int, ...] = ()
    barred: tuple[int, ...] = ()
    unopened: tuple[int, ...] = ()
    languages: tuple[str, ...] = ()
    longest: int = 448

    name: ClassVar[str] = "transcribe"
    kinds: ClassVar[tuple[str, ...]] = ("acoustic", "speech_seq2seq")
    schema: ClassVar[Schema] = Schema({"audio": Sound(), "text": Text()}, "text")
    figures: ClassVar[Figures] = {
        "wer": Whole(error_rate, ("word_errors", "words"), lower=True),
        "cer": Whole(error_rate, ("character_errors", "characters"), lower=True),
        "exact": Mean("exact"),
    }
    counted: ClassVar[dict[str, str]] = {"dtw": "zhixing.tasks.transcribe:fit_dtw"}
    default: ClassVar[str] = "conformer"
    eras: ClassVar[tuple[str, ...]] = ("conformer", "bilstm_ctc", "whisper")
    dial: ClassVar[dict[str, Any]] = {"tokenizer": "characters"}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> Transcribe:
        """Read from the training rows how many samples make a second: the most common number of them, or RATE.

        Of a model that writes also up to what length sounds are filled, that of the longest, and which of its languages is theirs: Chinese
        where most of the letters are, else English.
        """
        rates: Counter[int] = Counter()
        longest, han, letters = 0.0, 0, 0
        for example in training_examples:
            samples, rate = sound.read(example["audio"])
            rates[rate] += 1
            longest = max(longest, len(samples) / rate)
            if settings.get("languages"):
                han, letters = han + len(HAN.findall(example["text"])), letters + sum(map(str.isalpha, example["text"]))
        task = cls(**{"rate": min(RATE, max(rates, key=lambda each: (rates[each], -each), default=RATE)), **settings})
        if not task.written:
            return task
        chosen = ("zh" if 2 * han > letters else "en",)
        languages = chosen if set(chosen) <= set(task.languages) else task.languages[:1]
        # What a model was kept from writing, its rows may say; time stamps, which come last of all tokens, they cannot.
        barred = tuple(each for each in task.barred if each > max(task.opening, default=0))
        task = replace(task, barred=barred, unopened=())
        return replace(task, filled=min(task.seconds, math.ceil(2 * (longest + MARGIN_SECONDS)) / 2), languages=languages)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a row into {"frames": (F, C) float32}, with its text {"targets": (T,) int}; with no tokenizer, into cepstra {"frames"}.

        For a model that writes a row with its text has {"tokens": (T,) int} as well: the opening and the text, without its end.

        Raises DataError for a sound of a lower rate than training's, one too long to be read whole, and one too short for its text.
        """
        item = item_of(self, *sound.read(example["audio"]), trained=tokenizer is not None)
        if self.written and "text" in example:
            # Where the text begins with a letter of Latin script, a tokenizer of another program has met it after a space.
            text = " ".join(example["text"].split())
            text = f" {text}" if self.opening and text[:1].isascii() else text
            opening, said = openings(self, tokenizer)[0], tokenizer.encode(text, guarded=bool(self.opening))
            item["tokens"] = np.array([*opening, *said], np.int64)
            item["targets"] = np.array([*[IGNORED] * (len(opening) - 1), *said, tokenizer.end_id], np.int64)
            if len(item["tokens"]) > self.longest:
                raise DataError("sound.text", text=text[:40], tokens=len(item["tokens"]), most=self.longest)
        elif tokenizer is not None and "text" in example:
            item["targets"] = np.asarray(tokenizer.encode(example["text"]), np.int64)
            self._check(item, example["text"])
        return item

    def _check(self, item: Item, text: str) -> None:
        """Refuse a sound that has fewer states than its text needs: one a token, and a blank between two equal ones."""
        states = -(-len(item["frames"]) // self.stride)
        needed = len(item["targets"]) + int((item["targets"][1:] == item["targets"][:-1]).sum())
        if states < needed:
            seconds = len(item["frames"]) / sound.FRAMES_A_SECOND
            least = needed * self.stride / sound.FRAMES_A_SECOND
            raise DataError("sound.short", seconds=seconds, text=text[:40], needed=needed, states=states, least=least)

    def head(self, width: int) -> None:
        """An acoustic model has its own head, over the vocabulary and the blank."""

    def objective(self, start: Any = None) -> Any:
        """Give -log p(text | sound), over all ways of saying it; of a model that writes, token by token."""
        from zhixing.objectives.ctc import TextNats
        from zhixing.objectives.tokens import NextToken

        return NextToken() if self.written else TextNats()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each sound's text; decoding is a (Voice, Beside or None).

        The confidence is the geometric mean of the probabilities of its tokens, the end counted, over all ways of saying them.
        """
        kept = list(items)
        if hasattr(model, "hear"):
            for text, sure in model.hear([each["frames"] for each in kept]):
                yield Answer(text, sure)
            return
        if self.written:
            for start in range(0, len(kept), READ_AHEAD):
                part, found = kept[start : start + READ_AHEAD], {}
                for places in alike(part):  # of one length, so that each finds what it finds alone
                    found |= dict(zip(places, self._write(model, [part[each] for each in places], tokenizer, decoding), strict=True))
                yield from (found[place] for place in range(len(part)))
            return
        for start in range(0, len(kept), READ_AHEAD):
            yield from self._read(model, kept[start : start + READ_AHEAD], tokenizer, decoding)

    def _read(self, model: Any, items: list[Item], tokenizer: Any, decoding: Any) -> Iterator[Answer]:
        from zhixing.decoding.ctc import Voice, listen, log_probability, search

        voice, beside = decoding or (Voice(self.beam), None)
        found: dict[int, Answer] = {}
        order = sorted(range(len(items)), key=lambda place: len(items[place]["frames"]))
        while order:
            # What attends holds a number for every two states of a sound: long ones are read a few at a time.
            longest = max(1, -(-len(items[order[-1]]["frames"]) // self.stride))
            many = max(1, min(READ_BATCH, PAIRS // longest**2))
            order, places = order[:-many], order[-many:]
            batch = pad([{"frames": items[place]["frames"]} for place in places], 0)
            for place, logs in zip(places, listen(model, batch["frames"], batch["frames_lengths"]), strict=True):
                tokens = search(logs, voice, beside)
                sure = float(np.exp(log_probability(logs, tokens) / (len(tokens) + 1)))
                found[place] = Answer(" ".join(tokenizer.decode(tokens).split()), sure)
        yield from (found[place] for place in range(len(items)))

    def _write(self, model: Any, items: list[Item], tokenizer: Any, decoding: Any) -> Iterator[Answer]:
        """Give texts as translations of sounds; the confidence is the geometric mean of the probabilities of their tokens, as there."""
        import torch

        from zhixing.decoding.search import Beam, search
        from zhixing.layers.kinds import Inputs, next_log_probabilities

        width = decoding[0].width if decoding else self.beam
        beam = Beam(width, alpha=1.0, offset=-1, patient=False, ratio=0.0, extra=MOST_TOKENS, barred=self.barred, unopened=self.unopened)
        device = next(model.parameters()).device
        cache = model.open(Inputs(None, frames=torch.as_tensor(np.stack([each["frames"] for each in items])).to(device)))
        before = openings(self, tokenizer)
        chosen = [self.languages.index(each["language"]) if "language" in each else 0 for each in items]
        if unsure := [place for place, each in enumerate(items) if "language" not in each and len(before) > 1]:
            first = torch.full((len(items), 1), before[0][0], device=device)
            logs = next_log_probabilities(model, Inputs(first), cache)[:, [each[1] for each in before]]  # (B, N)
            for place in unsure:  # the language is the likeliest next token among them
                chosen[place] = int(logs[place].argmax())
            cache.crop(0)
        for found in search(model, [before[each] for each in chosen], tokenizer.end_id, beam, opened=cache):
            text = tokenizer.decode([each for each in found.tokens if each != tokenizer.end_id])
            yield Answer(" ".join(text.split()), float(np.exp(np.mean(found.log_probabilities))))

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Give per example its words and characters, how many of them are wrong, and exact (0 or 1)."""
        pairs = [(answer.value, example["text"]) for answer, example in zip(answers, examples, strict=True)]
        words = [(words_of(said), words_of(true)) for said, true in pairs]
        letters = [("".join(said.split()), "".join(true.split())) for said, true in pairs]
        return {
            "word_errors": np.array([differ(*each) for each in words], float),
            "words": np.array([len(true) for _, true in words], float),
            "character_errors": np.array([differ(*each) for each in letters], float),
            "characters": np.array([len(true) for _, true in letters], float),
            "exact": np.array([said == true for said, true in words], float),
        }


def openings(task: Transcribe, tokenizer: Any) -> list[tuple[int, ...]]:
    """Give the tokens that a model which writes reads before a text, for each of the languages."""
    opening = task.opening or (tokenizer.end_id,)
    ids = {name: place for place, name in tokenizer.controls.items()}
    return [(opening[0], ids[f"<|{name}|>"], *opening[1:]) for name in task.languages] or [opening]


def alike(items: list[Item]) -> Iterator[list[int]]:
    """Give the places of sounds of one length, a few at a time."""
    order = sorted(range(len(items)), key=lambda place: len(items[place]["frames"]))
    for _, places in itertools.groupby(order, key=lambda place: len(items[place]["frames"])):
        same = list(places)
        for start in range(0, len(same), WRITE_BATCH):
            yield same[start : start + WRITE_BATCH]


def item_of(task: Transcribe, samples: np.ndarray, rate: int, trained: bool = True, language: str = "") -> Item:
    """Turn samples into what a model hears: log-mel frames, or cepstra for templates.

    samples   (N,) float in -1 .. 1
    rate      Hz
    trained   it is a trained model
    language  one of the task's, in which it is to be written down; "": the likeliest

    Raises DataError as `encode`.
    """
    if len(samples) > task.seconds * rate:
        raise DataError("sound.long", seconds=len(samples) / rate, most=task.seconds)
    samples = sound.resample(samples, rate, task.rate, raised=task.written)
    if task.written:
        length = max(task.filled or task.seconds, math.ceil(2 * len(samples) / task.rate) / 2)
        frames = sound.whisper_frames(samples, task.rate, task.bins, min(length, task.seconds))
        return {"frames": frames, **({"language": language} if language else {})}
    if not trained:
        return {"frames": sound.mfcc(samples, task.rate)}
    return {"frames": sound.normalise(sound.log_mel(samples, task.rate, task.bins))}


Fitted = tuple[Transcribe, Any, dict[str, Any]]


def fit_dtw(task: Transcribe, rows: list[Example], held: list[Example], settings: Mapping[str, Any], tell: Callable[..., None]) -> Fitted:
    """Keep a few recordings of each word; what one more word costs is chosen on held rows or, without any, on a part of the others.

    Where every word was said alone at least once, rows of several words are not needed.
    """
    from zhixing.models.warping import PRICE, TRIED, Warping, dearest

    heard: dict[str, np.ndarray] = {}

    def cepstra(part: list[Example]) -> tuple[list[np.ndarray], list[list[str]]]:
        for each in part:
            if each["audio"] not in heard:
                heard[each["audio"]] = task.encode(each, None)["frames"]
        return [heard[each["audio"]] for each in part], [each["text"].split() for each in part]

    def fit(part: list[Example], price: float = PRICE) -> Warping:
        lone = [each for each in part if len(each["text"].split()) == 1]
        enough = {each["text"].strip() for each in lone} >= {word for each in part for word in each["text"].split()}
        return Warping.fit(*cepstra(lone if enough else part), price=price)

    part, judged = (rows, held) if held else ([each for place, each in enumerate(rows) if place % APART], rows[::APART])
    price, trials = PRICE, {}
    if part and judged:
        sounds, texts = cepstra(judged[:: max(1, len(judged) // TRIED)][:TRIED])

        def errors(said: list[list[str]]) -> float:
            return sum(differ(one, true) for one, true in zip(said, texts, strict=True))

        price, trials = dearest(fit(part), sounds, errors)
    return task, fit(counted_in(rows, held, settings), price), {"price": price, "trials": trials}
