"""What transformers reads beside a Whisper's weights: how a sound becomes frames, and which control tokens stand before what is said in it.

What is written down there may differ where the two programs ask differently: transformers fills every sound up to the longest, also where a
model was trained on shorter ones (`filled`); cuts long ones elsewhere; does not bar time stamps where none are asked for.
Leaves out: models that hear otherwise, which no class of transformers computes; heads that tell when a word was said.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.files import read_json, write_json
from zhixing.data import sound
from zhixing.tasks import golden
from zhixing.tasks.artefact import GENERATION, Artefact
from zhixing.tasks.transcribe import LANGUAGE, STARTS, TRANSCRIBES, TRANSLATES, UNTIMED, item_of
from zhixing.tokens.tokenizer import SETTINGS

EXTRACTOR = "preprocessor_config.json"
PROCESSOR, CUTTER = "WhisperProcessor", "WhisperTokenizer"


def write(opened: Artefact, path: Path) -> None:
    """Write the settings of a Whisper's sounds, tokens and answers into a folder that has its tokenizer."""
    given, task = opened.tokenizer, opened.task
    assert given is not None
    ids = {name: place for place, name in (*given.controls.items(), *given.added.items())}
    end = given.controls[given.end_id]
    pad = given.controls.get(given.pad_id, end)
    settings = {**read_json(path / SETTINGS), "tokenizer_class": CUTTER, "processor_class": PROCESSOR, "model_max_length": task.longest}
    write_json(path / SETTINGS, {**settings, **dict.fromkeys(("bos_token", "eos_token", "unk_token"), end), "pad_token": pad})
    size, hop = (task.rate * int(each) // 1000 for each in (sound.FRAME_MS, sound.SHIFT_MS))  # samples
    frames = {"feature_size": task.bins, "sampling_rate": task.rate, "chunk_length": int(task.seconds), "hop_length": hop, "n_fft": size}
    sorts = {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": PROCESSOR}
    write_json(path / EXTRACTOR, {**sorts, **frames, "padding_value": 0.0, "return_attention_mask": False})
    untimed = ids[UNTIMED]
    told: dict[str, Any] = {
        "decoder_start_token_id": ids[STARTS],
        "bos_token_id": given.end_id,
        "eos_token_id": given.end_id,
        "pad_token_id": given.pad_id,
        "no_timestamps_token_id": untimed,
        "suppress_tokens": [each for each in task.barred if each <= untimed],  # time stamps may be asked for
        "begin_suppress_tokens": list(task.unopened),
        "max_length": task.longest,
        "num_beams": task.beam,
        "length_penalty": 1.0,
        "return_timestamps": False,
        "is_multilingual": bool(task.languages),
    }
    if task.languages:
        known = {name: place for name, place in ids.items() if LANGUAGE.fullmatch(name) and ids[STARTS] < place < ids[TRANSCRIBES]}
        told |= {"lang_to_id": known, "task": "transcribe", "task_to_id": {"transcribe": ids[TRANSCRIBES]}}
        told["task_to_id"] |= {"translate": ids[TRANSLATES]} if TRANSLATES in ids else {}
        if len(task.languages) == 1:
            told["language"] = task.languages[0]
    write_json(path / GENERATION, told)


def same_frames(opened: Artefact, path: Path, transformers: Any) -> float:
    """Give how far the frames that transformers makes of a probe's sound lie from ours."""
    kind = opened.task.schema.fields["audio"]
    samples, rate = sound.read(kind.probe(golden.PROBES[0]))
    samples = sound.resample(samples, rate, opened.task.rate, raised=True)
    there = transformers.AutoFeatureExtractor.from_pretrained(path)(samples, sampling_rate=opened.task.rate, return_tensors="np")
    here = item_of(dataclasses.replace(opened.task, filled=0.0), samples, opened.task.rate)["frames"]  # (F, C)
    frames = there["input_features"][0].T
    return float(np.abs(frames - here).max()) if frames.shape == here.shape else math.inf
