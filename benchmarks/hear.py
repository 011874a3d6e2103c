"""Hearing: strings of 1 to 5 digits of a speaker no model has heard (fsdd); Chinese and English words of unseen speakers (dspspeech20).

    ZHIXING_DATA=... python benchmarks/hear.py OUT [--speakers 6] [--strings 8000] [--steps 2500] [--words-steps 1500]
        [--whisper MODEL --whisper-strings 2000 --whisper-steps 150] [--smoke]

Strings are spliced from real recordings of one speaker with short gaps of quiet noise. A training string is said by somebody else than the
one who was recorded (`voices.py`): five speakers differ from a sixth in how long they say which digit, in their pitch, vocal tracts, rooms,
microphones and loudness, and a model takes each of these for what is said. A third of the training strings are of machines' voices, where
espeak-ng and flite are installed; the table tells how many there were. Templates are made of plain strings.
Each of the six speakers in turn is left out whole, and only strings of that one are judged. Steps are fixed, and the last weights are used.
The settings were chosen on held-out speakers too, for there are only six: on strings of george, theo, yweweler and nicolas, and earlier of
jackson; none on lucas's.
With --whisper, the Model folder of an imported Whisper, a training that begins with it stands beside those that begin with nothing, on
fewer strings and steps, and what it says of the same test strings as it comes (small letters, no marks, digits as words).
Beside greedy search stand a beam, a beam with an n-gram of the training texts, and dynamic time warping of training recordings.
Results are written after every speaker; started again in the same folder, what is there is not done again.
"""

from __future__ import annotations

import functools
import gzip
import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from results import Measured, arguments, find, tell, write
from voices import RATE, Someone, machines, noise

from zhixing import load, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.data import media
from zhixing.data.corpus import open_corpus
from zhixing.data.sound import read as read_sound
from zhixing.decoding.ctc import Beside, Voice
from zhixing.evaluation.baselines import asked
from zhixing.evaluation.captions import Delays, follow
from zhixing.metrics.figures import Whole
from zhixing.metrics.transcripts import error_rate
from zhixing.models.ngram import NGram
from zhixing.preparation.prepare import Prepare

DIGITS = 5  # of a string, at most
GAP_SECONDS = 0.25  # between digits and around them, at most
NOISE = 0.15  # of the gaps, in units of the quietest tenth of the recordings beside them
ALONE = 4  # recordings of each digit and speaker that stand in training as they are; templates are made of these
TEST_STRINGS = 200
WANTED = 5.0  # % of words
PIECE_SECONDS = 0.25
WAYS = ("greedy", "beam", "n-gram", "dtw")
ORDER, BEAM, WEIGHT, BONUS = 2, 8, 0.5, 1.0  # of the n-gram and the search; digits are drawn, so that it has nothing to tell but how many
SETTINGS: dict[str, Any] = {
    "model": "conformer", "size": "tiny", "tokenizer": "words", "learning_rate": 0.008, "augment": 0.5, "evaluations": 0,
    "saves": 4, "precision": "fp32",
}  # fmt: skip
# Of a training that begins with Whisper; its rate of learning is the family's own.
WHISPER: dict[str, Any] = {"batch": 16, "evaluations": 0, "saves": 1}
NAMES = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))
SMOKE: dict[str, Any] = {"model": "bilstm_ctc", "size": "tiny", "width": 32, "batch": 8, "steps": 8, "evaluations": 0, "saves": 1}


def recordings(name: str, *splits: str) -> list[dict[str, Any]]:
    """Read a set of sounds: each row with its samples and the file's own bytes."""
    place = find(name)
    found = []
    with tarfile.open(place / "audio.tar") as archive:
        for split in splits:
            with gzip.open(place / f"{split}.jsonl.gz", "rt", encoding="utf-8") as handle:
                for row in map(json.loads, handle):
                    content = archive.extractfile(row["audio"]).read()
                    found.append({**row, "content": content, "split": split})
    return found


def samples(row: dict[str, Any]) -> np.ndarray:
    """Give a row's samples, kept once they are read."""
    if "samples" not in row:
        row["samples"] = media.sound(row["content"])[0]
    return row["samples"]


def splice(rows: list[dict[str, Any]], source: np.random.Generator, other: bool) -> dict[str, str]:
    """Make one string of some recordings, with gaps; other: said by somebody else, as training strings are."""
    parts: list[np.ndarray] = []
    who = Someone.draw(source) if other else None
    digits = [who.say(samples(row), source) if who else samples(row) for row in rows]
    for row in [None, *digits]:
        near = digits[0] if row is None else row
        level = np.sqrt(np.quantile(np.square(near[: len(near) // 64 * 64].reshape(-1, 64)).mean(1), 0.1))
        if row is not None:
            parts.append(row)
        gap = source.normal(0, NOISE * level + 1e-5, int(source.uniform(0.02, GAP_SECONDS) * RATE))
        parts.append(gap.astype(np.float32))
    whole = np.concatenate(parts)
    if who:
        whole = who.recorded(whole)
        whole = whole + noise(whole, source)
    peak = max(float(np.abs(whole).max()), 1e-6)
    url = media.data_url(media.wav(whole / peak * 0.7, RATE), "audio/wav")
    return {"audio": url, "text": " ".join(row["text"] for row in rows)}


def strings(rows: list[dict[str, Any]], count: int, source: np.random.Generator, other: bool) -> list[dict[str, str]]:
    """Make strings, each of one speaker, of 1 to DIGITS digits, all speakers and digits equally often."""
    by: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        by.setdefault(row["speaker"], {}).setdefault(row["text"], []).append(row)
    found = []
    for number in range(count):
        own = by[sorted(by)[number % len(by)]]
        digits = source.choice(sorted(own), int(source.integers(1, DIGITS + 1)))
        chosen = [own[str(digit)][int(source.integers(len(own[str(digit)])))] for digit in digits]
        found.append(splice(chosen, source, other))
    return found


def put(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def corpus_of(place: Path, training: list[dict[str, str]], test: list[dict[str, str]]) -> Path:
    """Prepare a corpus of training strings and test strings."""
    if not (place / "corpus" / "manifest.json").exists():
        first, second = put(place / "train.jsonl", training), put(place / "test.jsonl", test)
        how = Prepare(task="transcribe", validation=0.0, test_source=str(second), drop_bad=True)
        prepare(first, place / "corpus", how, tell=tell, force=True)
    return place / "corpus"


def language_model(folder: Path, texts: list[str], order: int) -> Any:
    """Count an n-gram of the training texts, in the tokens of a model that hears; give what the search asks."""
    opened = load(folder)
    ends, encode = opened.tokenizer.end_id, opened.tokenizer.encode
    tokens = np.concatenate([[ends], *(np.append(encode(text), ends) for text in texts)])
    return Beside(NGram.count(tokens, opened.tokenizer.vocabulary_size, order, ends), end=ends)


def judged(folder: Path, corpus: Path, decoding: Any = None) -> dict[str, Any]:
    """Give word and character errors of a model on the test split, with the rows' own counts, by a way of searching."""
    opened, rows = load(folder), list(open_corpus(corpus).examples("test"))
    items = [opened.task.encode(asked(opened.task, row), opened.tokenizer) for row in rows]
    answers = list(opened.task.answers(opened.model, items, opened.tokenizer, decoding))
    if opened.task.languages[1:]:  # a Whisper as it comes
        answers = [replace(answer, value=plain(answer.value)) for answer in answers]
    values = opened.task.metrics(answers, rows)
    figures = {name: figure.interval(values, 0) for name, figure in opened.task.figures.items()}
    found = {name: {"value": each.value, "low": each.low, "high": each.high} for name, each in figures.items()}
    return {**found, "errors": values["word_errors"].tolist(), "words": values["words"].tolist()}


def one(place: Path, corpus: Path, settings: dict[str, Any], plain: Path | None = None, voices: int = 0) -> dict[str, Any]:
    """Train on a corpus and judge it, greedily, with a beam and with an n-gram; and templates beside it. Done once, it is read again.

    plain   the corpus of the templates, if it is another one
    voices  machines' voices among those of training, to be told beside the figures
    """
    kept = place / "result.json"
    if kept.exists():
        return read_json(kept)
    texts = [row["text"] for row in open_corpus(corpus).examples("train")]
    model, templates = place / "model", place / "dtw"
    if not (model / "manifest.json").exists():
        train(corpus, model, settings, tell=tell)
    if not (templates / "manifest.json").exists():
        train(plain or corpus, templates, {"model": "dtw"}, tell=tell)
    beside = language_model(model, texts, ORDER)
    found = {
        "greedy": judged(model, corpus),
        "beam": judged(model, corpus, (Voice(BEAM), None)),
        "n-gram": judged(model, corpus, (Voice(BEAM, WEIGHT, BONUS), beside)),
        "dtw": judged(templates, corpus),
    }
    measured = read_json(model / "card.json")["measured"]
    write_json(kept, {**found, "measured": measured, "settings": settings, "rows": len(texts), "voices": voices})
    return read_json(kept)


def digits(out: Path, number: int, size: int, settings: dict[str, Any], smoke: bool) -> tuple[str, dict[str, Any]]:
    """Leave one speaker out, and judge its strings; give its name and the results."""
    speakers = sorted({row["speaker"] for row in rows_of_digits()})
    speaker = speakers[number]
    place = out / "fsdd" / speaker
    if not (place / "result.json").exists():
        rows, source = rows_of_digits(), np.random.default_rng([number, 7])
        known = [row for row in rows if row["speaker"] != speaker]
        test = strings([row for row in rows if row["speaker"] == speaker], 12 if smoke else TEST_STRINGS, source, False)
        near = strings(known, size // 8, source, False) + alone(known, 1 if smoke else ALONE)
        machine = [] if smoke else rows_of_machines()
        training = strings(known, size * 2 // 3 if machine else size, source, True) + alone(known, 1 if smoke else ALONE)
        training += strings(machine, size // 3, source, True) if machine else []
        corpora = corpus_of(place, training, test), corpus_of(place / "plain", near, test)
        one(place, corpora[0], {**settings, "seed": number}, corpora[1], len({row["speaker"] for row in machine}))
    return speaker, read_json(place / "result.json")


def plain(text: str) -> str:
    """Give a text as the strings are written: small letters, no marks, each digit its word."""
    return " ".join("".join(f" {NAMES[each]} " if each in NAMES else each if each.isalpha() else " " for each in text.lower()).split())


def begun(out: Path, number: int, size: int, start: Path, steps: int, smoke: bool) -> dict[str, Any]:
    """Begin with Whisper on strings of all speakers but one, and judge it on the test strings of that one, and Whisper as it comes."""
    speaker = sorted({row["speaker"] for row in rows_of_digits()})[number]
    place = out / "fsdd" / speaker / "whisper"
    kept = place / "result.json"
    if kept.exists():
        return read_json(kept)
    source = np.random.default_rng([number, 8])
    known = [row for row in rows_of_digits() if row["speaker"] != speaker]
    machine = [] if smoke else rows_of_machines()
    training = strings(known, size * 2 // 3 if machine else size, source, True) + alone(known, 1 if smoke else 2)
    training += strings(machine, size // 3, source, True) if machine else []
    corpus = corpus_of(place, training, list(open_corpus(place.parent / "corpus").examples("test")))
    if not (place / "model" / "manifest.json").exists():
        train(corpus, place / "model", {**WHISPER, "start": str(start), "steps": steps, "seed": number}, tell=tell)
    found = {"greedy": judged(place / "model", corpus, (Voice(1), None)), "beam": judged(place / "model", corpus)}
    found["as it comes"] = judged(start, corpus)
    measured = read_json(place / "model" / "card.json")["measured"]
    voices = len({row["speaker"] for row in machine})
    write_json(kept, {**found, "measured": measured, "settings": {**WHISPER, "steps": steps}, "rows": len(training), "voices": voices})
    return read_json(kept)


@functools.cache
def rows_of_digits() -> list[dict[str, Any]]:
    """Read the digits, once."""
    return recordings("fsdd", "train", "test")


@functools.cache
def rows_of_machines() -> list[dict[str, Any]]:
    """Let machines say the digits, once."""
    return machines(sorted({row["text"] for row in rows_of_digits()}))


def alone(rows: list[dict[str, Any]], each: int) -> list[dict[str, str]]:
    """Give some recordings of every word and speaker as they are: what templates are made of."""
    seen: dict[tuple[str, str], int] = {}
    found = []
    for row in rows:
        key = (row["speaker"], row["text"])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= each:
            found.append({"audio": media.data_url(row["content"], "audio/flac"), "text": row["text"]})
    return found


def words(out: Path, settings: dict[str, Any], smoke: bool) -> dict[str, dict[str, Any]]:
    """Train on the words of the training speakers of dspspeech20, both languages at once, and judge those of the others."""
    place = out / "dspspeech20"
    if not (place / "result.json").exists():
        rows = recordings("dspspeech20", "train", "dev")
        split: dict[str, list[dict[str, str]]] = {"train": [], "dev": []}
        for row in rows[:: 60 if smoke else 1]:
            split[row["split"]].append({"audio": media.data_url(row["content"], "audio/ogg"), "text": row["text"]})
        one(place, corpus_of(place, split["train"], split["dev"]), settings)
    return {"dspspeech20": read_json(place / "result.json")}


def played(out: Path, place: Path, seconds: float) -> dict[str, Any]:
    """Play test strings with pauses between them, as they would come from a microphone, and give the delays of their captions."""
    kept = out / "captions.json"
    if not kept.exists():
        opened, source = load(place / "model"), np.random.default_rng(5)
        parts: list[np.ndarray] = []
        for row in open_corpus(place / "corpus").examples("test"):
            parts += [source.normal(0, 1e-4, RATE).astype(np.float32), read_sound(row["audio"])[0]]
            if sum(map(len, parts)) > seconds * RATE:
                break
        whole = np.concatenate([*parts, np.zeros(RATE, np.float32)])
        step, start = int(PIECE_SECONDS * RATE), time.monotonic()

        def pieces() -> Iterator[tuple[np.ndarray, float]]:
            for first in range(0, len(whole), step):
                there = start + (first + step) / RATE
                time.sleep(max(0.0, there - time.monotonic()))
                yield whole[first : first + step], there

        found = list(follow(opened, pieces()))
        delays = Delays([each.delay_seconds for each in found])
        counts = {"captions": len(found), "standing": sum(each.final for each in found), "seconds": len(whole) / RATE}
        write_json(kept, {**counts, "median_seconds": delays.median, "worst_seconds": delays.worst})
    return read_json(kept)


def figures_of_whisper(found: dict[str, dict[str, Any]]) -> list[Measured]:
    """Give the rows of the table for trainings that began with Whisper."""
    figures = []
    for way in ("as it comes", "greedy", "beam"):
        errors, words = (np.concatenate([each[way][name] for each in found.values()]) for name in ("errors", "words"))
        whole = Whole(error_rate, ("errors", "words"), lower=True).interval({"errors": errors, "words": words}, 0)
        about = f"{way}" if way == "as it comes" else f"trained on from, {way}"
        label = f"Whisper {about}, digits of {len(found)} unseen speakers: WER, % ({100 * whole.low:.1f} .. {100 * whole.high:.1f})"
        figures.append(Measured(label, 100 * whole.value, f"<= {WANTED:g}" if way == "beam" else ""))
    for name, each in found.items():
        wer = each["beam"]["wer"]
        figures.append(
            Measured(
                f"Whisper trained on from, {name}, beam: WER, % ({100 * wer['low']:.1f} .. {100 * wer['high']:.1f})", 100 * wer["value"]
            )
        )
    seconds = [each["measured"]["core_seconds"] for each in found.values()]
    figures.append(Measured("Whisper: core-seconds of a training, the longest", max(seconds)))
    return figures


def told(
    out: Path, found: dict[str, dict[str, Any]], settings: dict[str, Any], captions: dict[str, Any], smoke: bool, whisper: dict[str, Any]
) -> None:
    """Write the table of what there is so far."""
    figures = figures_of_whisper(whisper) if whisper else []
    spoken = {name: each for name, each in found.items() if name != "dspspeech20"}
    for way in WAYS:
        if spoken:
            errors, words = (np.concatenate([each[way][name] for each in spoken.values()]) for name in ("errors", "words"))
            whole = Whole(error_rate, ("errors", "words"), lower=True).interval({"errors": errors, "words": words}, 0)
            wanted = f"<= {WANTED:g}" if way == "n-gram" and not whisper else ""
            label = f"digits of {len(spoken)} unseen speakers, {way}: WER, % ({100 * whole.low:.1f} .. {100 * whole.high:.1f})"
            figures.append(Measured(label, 100 * whole.value, wanted))
    for name, each in found.items():
        for way in WAYS:
            wer = each[way]["wer"]
            figures.append(Measured(f"{name}, {way}: WER, % ({100 * wer['low']:.1f} .. {100 * wer['high']:.1f})", 100 * wer["value"]))
        figures.append(Measured(f"{name}: core-seconds of the training", each["measured"]["core_seconds"]))
    for number in sorted({each["voices"] for each in spoken.values()}):
        figures.append(Measured("machines' voices among those of training, an accent and a timbre each", number))
    if captions:
        label = f"captions of {captions['seconds']:.0f} s played, a piece {1000 * PIECE_SECONDS:.0f} ms: delay, ms"
        figures.append(Measured(f"{label}, median of {captions['captions']}", 1000 * captions["median_seconds"]))
        figures.append(Measured(f"{label}, worst", 1000 * captions["worst_seconds"]))
    write(out, "Hearing", figures, {"runs": found, "whisper": whisper, "captions": captions, "settings": settings}, smoke)


def main() -> None:
    numbers = {"speakers": 6, "strings": 8000, "steps": 2500, "words_steps": 1500, "whisper_strings": 2000, "whisper_steps": 150}
    given = arguments(__doc__, goes_on=True, whisper="", **numbers)
    out, smoke = given.out, given.smoke
    settings = SMOKE if smoke else {**SETTINGS, "steps": given.steps}
    found: dict[str, dict[str, Any]] = {}
    captions: dict[str, Any] = {}
    whisper: dict[str, dict[str, Any]] = {}
    for number in range(1 if smoke else given.speakers):
        speaker, result = digits(out, number, 24 if smoke else given.strings, settings, smoke)
        found[speaker] = result
        captions = played(out, out / "fsdd" / next(iter(found)), 5.0 if smoke else 60.0)
        if given.whisper:
            sizes = (24, 2) if smoke else (given.whisper_strings, given.whisper_steps)
            whisper[speaker] = begun(out, number, sizes[0], Path(given.whisper), sizes[1], smoke)
        told(out, found, settings, captions, smoke, whisper)
    found |= words(out, settings if smoke else {**SETTINGS, "augment": 1.0, "steps": given.words_steps}, smoke)
    told(out, found, settings, captions, smoke, whisper)


if __name__ == "__main__":
    main()
