"""What CTranslate2 writes of sounds, in its own Python, with the same weights; run by transcribe.py, imports nothing of ours.

    PEER_PYTHON benchmarks/their_whisper.py FOLDER SOUNDS.npz OUT.json LANGUAGE

SOUNDS.npz holds samples at 16 kHz by name. The frames are those of transformers' extractor; five prefixes are kept, and no time stamps are
written, as in ours.
"""

from __future__ import annotations

import json
import sys
import time

import ctranslate2
import numpy as np
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor

START, TRANSCRIBE, UNTIMED = "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>"


def main() -> None:
    folder, sounds, out, language = sys.argv[1:]
    model = ctranslate2.models.Whisper(folder, device="cpu", compute_type="float32", intra_threads=1, inter_threads=1)
    tokenizer, frames = Tokenizer.from_file(f"{folder}/tokenizer.json"), WhisperFeatureExtractor()
    texts, start = {}, time.perf_counter()
    for name, samples in np.load(sounds).items():
        features = frames(samples, sampling_rate=16000, return_tensors="np")["input_features"]
        read = model.encode(ctranslate2.StorageView.from_array(features))
        prompt = [tokenizer.token_to_id(each) for each in (START, f"<|{language}|>", TRANSCRIBE, UNTIMED)]
        result = model.generate(read, [prompt], beam_size=5, length_penalty=1.0)[0]
        texts[name] = tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip()
    with open(out, "w", encoding="utf-8") as handle:
        json.dump({"texts": texts, "seconds": time.perf_counter() - start}, handle, ensure_ascii=False)


if __name__ == "__main__":
    main()
