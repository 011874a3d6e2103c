"""Whisper as we run it beside CTranslate2 on the same weights: word errors, and the time both take.

    ZHIXING_DATA=... ZHIXING_PEER_PYTHON=... python benchmarks/transcribe.py OUT --packed FOLDER
        [--clips FOLDER --digits 150 --words 100 --sentences 40] [--smoke]

FOLDER of --packed is a Whisper in CTranslate2's layout; it is imported first. --clips is a folder of .wav files with .txt or .lab files
beside them. Digits are fsdd's test recordings, brought from 8 to 16 kHz; Chinese words are dspspeech20's; Chinese sentences are stsb_zh's,
said by espeak-ng from what pypinyin makes of them, where both are installed: a machine's voice, so that their errors are high and only the
difference says something. Texts are judged in small letters, without marks, digits as words; of Chinese, characters. The language is told
to both. Both run on one thread in fp32, one set after the other, each sound on its own.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tempfile
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
import soundfile
from hear import recordings, samples
from results import Measured, arguments, find, tell, write

from zhixing import import_model, load
from zhixing.core.files import read_json, write_json
from zhixing.data import media
from zhixing.data.sound import resample
from zhixing.metrics.figures import Whole
from zhixing.metrics.transcripts import differ, error_rate, words_of
from zhixing.tasks.transcribe import RATE, item_of

POINTS = 0.5
NAMES = dict(zip("0123456789", "zero one two three four five six seven eight nine".split(), strict=True))
VOICE = "cmn-latn-pinyin"  # of characters the voice for Mandarin says the tones as English numbers


def plain(text: str) -> list[str]:
    """Cut a text into the words that are judged."""
    text = unicodedata.normalize("NFKC", text).lower().replace("'", "")
    return words_of("".join(f" {NAMES[each]} " if each in NAMES else each if each.isalpha() else " " for each in text))


def clips(folder: Path) -> dict[str, tuple[np.ndarray, str]]:
    """Read recordings and what is said in them."""
    found = {}
    for path in sorted(folder.glob("*.wav")):
        beside = next((path.with_suffix(end) for end in (".txt", ".lab") if path.with_suffix(end).exists()), None)
        if beside is not None:
            content, rate = soundfile.read(path, dtype="float32")
            found[path.stem] = resample(content, rate, RATE, raised=True), beside.read_text(encoding="utf-8")
    return found


def digits(count: int) -> dict[str, tuple[np.ndarray, str]]:
    """Read single digits, evenly spread over the set."""
    rows = recordings("fsdd", "test")
    return {
        str(place): (resample(samples(row), 8000, RATE, raised=True), row["text"])
        for place, row in enumerate(rows[:: max(1, len(rows) // count)])
    }


def spoken(count: int) -> dict[str, tuple[np.ndarray, str]]:
    """Read Chinese words that people said, evenly spread over the set."""
    rows = [row for row in recordings("dspspeech20", "dev") if not row["text"].isascii()]
    found = {}
    for place, row in enumerate(rows[:: max(1, len(rows) // count)]):
        content, rate = media.sound(row["content"])
        found[str(place)] = resample(content, rate, RATE, raised=True), row["text"]
    return found


def pinyin() -> Callable[[str], list[str]] | None:
    """Give what writes Chinese as syllables with the number of their tone; None where it is not installed."""
    try:
        from pypinyin import Style, lazy_pinyin
    except ImportError:
        return None
    return partial(lazy_pinyin, style=Style.TONE3, neutral_tone_with_five=True)


def chinese(count: int) -> dict[str, tuple[np.ndarray, str]]:
    """Let espeak-ng say sentences, by their syllables; nothing where it is not installed."""
    if not shutil.which("espeak-ng") or (lazy_pinyin := pinyin()) is None:
        return {}
    with gzip.open(find("stsb_zh") / "test.jsonl.gz", "rt", encoding="utf-8") as handle:
        texts = sorted({json.loads(line)["text1"] for line in handle})
    found = {}
    for place, text in enumerate(texts[:: max(1, len(texts) // count)][:count]):
        with tempfile.NamedTemporaryFile(suffix=".wav") as handle:
            subprocess.run(["espeak-ng", "-v", VOICE, "-s", "140", "-w", handle.name, " ".join(lazy_pinyin(text))], check=True)
            content, rate = soundfile.read(io.BytesIO(Path(handle.name).read_bytes()), dtype="float32")
        found[str(place)] = resample(content, rate, RATE, raised=True), text
    return found


def ours(opened: Any, sounds: dict[str, np.ndarray], language: str) -> dict[str, Any]:
    """Write down sounds one by one, as a served model does."""
    start, texts = time.perf_counter(), {}
    for name, each in sounds.items():
        (answer,) = opened.task.answers(opened.model, [item_of(opened.task, each, RATE, language=language)], opened.tokenizer)
        texts[name] = answer.value
    return {"texts": texts, "seconds": time.perf_counter() - start}


def theirs(out: Path, packed: str, name: str, sounds: dict[str, np.ndarray], language: str) -> dict[str, Any]:
    """Let CTranslate2 write them down."""
    np.savez(out / f"{name}.npz", **sounds)
    script = Path(__file__).with_name("their_whisper.py")
    peers.child([peers.python(), str(script), packed, str(out / f"{name}.npz"), str(out / f"{name}.json"), language], 1)
    return read_json(out / f"{name}.json")


def main() -> None:
    given = arguments(__doc__, goes_on=True, packed="", clips="", digits=150, words=100, sentences=40)
    out, smoke = given.out, given.smoke
    peers.threads(1)
    if not (out / "model" / "manifest.json").exists():
        import_model(given.packed, out / "model", tell=tell)
    opened = load(out / "model")
    sets: dict[str, dict[str, tuple[np.ndarray, str]]] = {
        "clips": clips(Path(given.clips)) if given.clips else {},
        "fsdd": digits(4 if smoke else given.digits),
    }
    sets["dspspeech20, Chinese"] = spoken(2 if smoke else given.words)
    sets["stsb_zh by espeak-ng"] = chinese(2 if smoke else given.sentences)
    figures, details = [], {}
    for name, rows in sets.items():
        rows = dict(list(rows.items())[:2]) if smoke else rows
        if not rows:
            continue
        sounds = {key: sound for key, (sound, _) in rows.items()}
        short = name.split()[0].strip(",")
        language = "en" if short in ("clips", "fsdd") else "zh"
        kept = out / f"{short}-{len(rows)}.kept.json"
        if not kept.exists():
            write_json(kept, {"ours": ours(opened, sounds, language), "theirs": theirs(out, given.packed, short, sounds, language)})
        both = read_json(kept)
        true = {key: plain(text) for key, (_, text) in rows.items()}
        wers = {}
        for who in ("ours", "theirs"):
            errors = np.array([differ(plain(both[who]["texts"][key]), true[key]) for key in rows], float)
            words = np.array([len(true[key]) for key in rows], float)
            whole = Whole(error_rate, ("errors", "words"), lower=True).interval({"errors": errors, "words": words}, 0)
            wers[who] = 100 * whole.value
            figures.append(Measured(f"{name}, {who}: WER, % ({100 * whole.low:.1f} .. {100 * whole.high:.1f})", wers[who]))
        same = np.mean([plain(both["ours"]["texts"][key]) == plain(both["theirs"]["texts"][key]) for key in rows])
        figures.append(Measured(f"{name}: points between them", abs(wers["ours"] - wers["theirs"]), f"<= {POINTS}"))
        figures.append(Measured(f"{name}: texts that are the same, of {len(rows)}", float(same)))
        ratio = both["ours"]["seconds"] / both["theirs"]["seconds"]
        figures.append(Measured(f"{name}: our time over theirs ({both['ours']['seconds']:.0f} s)", ratio))
        details[name] = both
        write(out, "Writing down", figures, {"runs": details, "peers": peers.versions("ctranslate2", "transformers")}, smoke)


if __name__ == "__main__":
    main()
