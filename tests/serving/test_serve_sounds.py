"""OpenAI's transcriptions: a form with a sound file becomes text, and what is wrong with a form is named."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whisper_maker
from makers import heard

from zhixing import import_model, load, prepare, train
from zhixing.core.errors import UsageError
from zhixing.data import media
from zhixing.evaluation import captions
from zhixing.preparation.prepare import Prepare
from zhixing.serving import sounds
from zhixing.serving.limits import SOUNDS, Limits

EDGE = "edge-of-a-part"
RATE = 8000


@pytest.fixture(scope="module")
def hearing(kit: Path) -> Path:
    """Keep templates of three words: no training is needed for this."""
    draw = random.Random(7)
    rows = [heard(draw, number) for number in range(60)]
    (kit / "sounds.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(kit / "sounds.jsonl", kit / "sounds", Prepare(task="transcribe", validation=0.0, test=0.1))
    return train(kit / "sounds", kit / "hearing", {"model": "dtw"}).path


@pytest.fixture(scope="module")
def whisper(kit: Path) -> Path:
    return import_model(whisper_maker.folder(kit / "whisper-theirs"), kit / "whisper").path


@pytest.fixture(scope="module")
def server(start: Callable[..., Any], hearing: Path, whisper: Path) -> Any:
    return start("hearing", "ngram", "classifier", "whisper", limits=Limits(body_bytes=4000, sound_bytes=600_000))


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Write a form of (name, file name or None, content) parts."""
    found = b""
    for name, file, content in parts:
        named = f'; filename="{file}"' if file is not None else ""
        found += f'--{EDGE}\r\ncontent-disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return found + f"--{EDGE}--\r\n".encode()


def send(server: Any, *parts: tuple[str, str | None, bytes], sort: str = f"multipart/form-data; boundary={EDGE}") -> Any:
    return server.ask("POST", SOUNDS, form(*parts), content_type=sort)


def sound(number: int = 1) -> tuple[bytes, str]:
    row = heard(random.Random(100 + number), number)
    return media.content_of(row["audio"]), row["audio"]


def test_a_sound_becomes_text_in_each_form(server: Any, hearing: Path) -> None:
    content, url = sound()
    (wanted,) = load(hearing).predict([{"audio": url}])
    parts = (("file", "a.wav", content), ("model", None, b"hearing"))
    plain = send(server, *parts)
    assert plain.status == 200 and plain.json == {"text": wanted.value} and wanted.value
    assert send(server, *parts, ("response_format", None, b"text")).body == f"{wanted.value}\n".encode()
    told = send(server, *parts, ("response_format", None, b"verbose_json")).json
    assert told["task"] == "transcribe" and told["text"] == wanted.value and len(told["segments"]) == 1
    assert told["duration"] == pytest.approx(len(media.sound(content)[0]) / RATE, abs=0.01)
    entry = server.ask("GET", "/v1/models/hearing").json
    assert entry["routes"] == ["/v1/predict", SOUNDS]
    answer = server.post("/v1/predict", model="hearing", rows=[]).status
    assert answer in (200, 400)


def test_the_duration_is_that_of_the_sound_pauses_and_all(server: Any) -> None:
    samples, _ = media.sound(sound()[0])
    long = np.concatenate([samples, np.random.default_rng(0).normal(0, 1e-3, 31 * RATE - len(samples))])
    parts = (("file", "a.wav", media.wav(long.astype(np.float32), RATE)), ("model", None, b"hearing"))
    told = send(server, *parts, ("response_format", None, b"verbose_json")).json
    assert told["duration"] == 31.0 and told["segments"] and told["segments"][-1]["end"] < 10


def test_so_many_sounds_are_read_at_once_and_no_more() -> None:
    under_way: list[int] = []
    most: list[int] = []

    class Slow:
        """A model whose task takes time to be asked for."""

        @property
        def task(self) -> Any:
            under_way.append(1)
            most.append(len(under_way))
            time.sleep(0.05)
            under_way.pop()
            raise UsageError("transcribe.task", path="", task="")

    async def many() -> list[Any]:
        decoder = sounds.Decoder(2)
        return await asyncio.gather(*(decoder.items_of(Slow(), b"") for _ in range(8)), return_exceptions=True)

    found = asyncio.run(many())
    assert all(isinstance(each, UsageError) for each in found) and len(most) == 8 and max(most) == 2


def test_a_language_is_written_in_where_a_model_knows_it(server: Any, whisper: Path) -> None:
    content, _ = sound()
    parts = (("file", "a.wav", content), ("model", None, b"whisper"))
    opened = load(whisper)
    for language in ("en", "zh", ""):
        (found,), _ = captions.hear(opened, content, language=language)
        told = send(server, *parts, *([("language", None, language.encode())] if language else []))
        assert told.status == 200 and told.json["text"] == found.text


def test_openai_s_own_client_is_understood(server: Any) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    content, _ = sound(2)
    assert client.audio.transcriptions.create(model="hearing", file=("a.wav", content)).text


@pytest.mark.parametrize(
    ("parts", "status", "code", "word"),
    [
        ((("model", None, b"hearing"),), 400, "serve.field_missing", "file"),
        ((("file", "a.wav", b"x"),), 400, "serve.field_missing", "model"),
        ((("file", None, b"x"), ("model", None, b"hearing")), 400, "serve.field_value", "a file"),
        ((("model", "b", b"hearing"),), 400, "serve.field_value", "a string"),
        ((("file", "a.wav", b"x"), ("model", None, b"hearing"), ("prompt", None, b"en")), 400, "serve.field_unknown", "response_format"),
        ((("file", "a.wav", b"x"), ("model", None, b"hearing"), ("language", None, b"en")), 400, "transcribe.language", "One of: -"),
        ((("file", "a.wav", b"x"), ("model", None, b"whisper"), ("language", None, b"de")), 400, "transcribe.language", "en, zh"),
        ((("file", "a.wav", b"x"), ("model", None, b"hearing"), ("model", None, b"hearing")), 400, "serve.field_value", "once"),
        ((("file", "a.wav", b"x"), ("model", None, b"hearing"), ("response_format", None, b"srt")), 400, "serve.field_value", "verbose"),
        ((("file", "a.wav", b"x"), ("model", None, b"heering")), 404, "serve.model", "hearing"),
        ((("file", "a.wav", b"x"), ("model", None, b"ngram")), 400, "serve.wrong_route", "/v1/completions"),
        ((("file", "a.wav", b"x"), ("model", None, b"classifier")), 400, "serve.wrong_route", "'classifier' is for classify"),
        ((("file", "a.wav", b"RIFF nothing"), ("model", None, b"hearing")), 422, "sound.unreadable", "WAV"),
        ((("file", "a.wav", media.wav(np.zeros(900), RATE)), ("model", None, b"hearing")), 422, "sound.unreadable", "silent"),
        ((("file", "a.wav", media.wav(np.ones(900), RATE)[:-200]), ("model", None, b"hearing")), 422, "sound.truncated", "whole"),
        ((("file", "a.wav", media.wav(np.sin(np.arange(4000)), 4000)), ("model", None, b"hearing")), 422, "sound.rate", "4000"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_named(server: Any, parts: tuple[Any, ...], status: int, code: str, word: str) -> None:
    reply = send(server, *parts)
    assert (reply.status, reply.error["code"]) == (status, code) and word in reply.error["message"]


def test_what_is_no_form_or_too_large_is_refused(server: Any) -> None:
    content, _ = sound()
    parts = (("file", "a.wav", content), ("model", None, b"hearing"))
    assert len(content) > 4000, "larger than any other body may be here"
    for sort, code in (("application/json", "serve.form_type"), ("multipart/form-data", "serve.form")):
        assert send(server, *parts, sort=sort).error["code"] == code
    large = send(server, ("file", "a.wav", b"x" * 700_000), ("model", None, b"hearing"))
    assert (large.status, large.error["code"]) == (413, "serve.body_large") and "600000" in large.error["message"]
    assert server.ask("POST", "/v1/completions", b"x" * 5000).status == 413
    assert server.ask("POST", "/v1/predict", b"x" * 5000).status == 400, "a file as a data URL may be as large as a file"
