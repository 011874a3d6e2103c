"""OpenAI's `/v1/audio/transcriptions`: a form with a sound file becomes text.

The fields are OpenAI's: file, model, response_format and, of a model that knows several, language. Others of theirs (prompt, temperature
and such) steer models that take instructions, which these do not; they are refused by name, for nothing is silently ignored. Leaves out:
subtitles, streams of events.
"""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from zhixing.core.errors import UsageError
from zhixing.data.pauses import Utterance
from zhixing.serving.decoder import DECODER
from zhixing.serving.limits import SOUNDS
from zhixing.serving.problems import SHOWN, show
from zhixing.serving.routes import JSON

ROUTE = SOUNDS
FORMS = ("json", "text", "verbose_json")
FIELDS = ("file", "model", "response_format", "language")
FORM = "multipart/form-data"
DECODED = 4  # sounds at once: a minute of speech is a few megabytes as a file and many times that as samples
BODY: dict[str, Any] = {
    FORM: {
        "schema": {
            "type": "object",
            "required": ["file", "model"],
            "additionalProperties": False,
            "properties": {
                "file": {"type": "string", "format": "binary"},
                "model": {"type": "string"},
                "response_format": {"type": "string", "enum": list(FORMS), "default": "json"},
                "language": {"type": "string"},
            },
        }
    }
}

REPLY: dict[str, Any] = {
    JSON: {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    "text/plain": {"type": "string"},
}


@dataclass(frozen=True)
class Heard:
    """A request for a transcript, read: the model's name, the sound file's bytes, the form of the answer, the language or ""."""

    model: str
    content: bytes
    form: str
    language: str = ""


async def read(request: Request) -> Heard:
    """Read a request's form; the door has bounded its size.

    Raises UsageError for another content type and for a field that is missing, unknown, given twice or wrong.
    """
    sort = request.headers.get("content-type", "")
    if not sort.lower().startswith(FORM):
        raise UsageError("serve.form_type", sort=sort[:SHOWN])
    if importlib.util.find_spec("python_multipart") is None:
        raise UsageError("extra.missing", package="python-multipart", extra="hear")
    try:
        form = await request.form(max_files=1, max_fields=len(FIELDS), max_part_size=1 << 12)
    except HTTPException as fault:
        raise UsageError("serve.form", problem=str(fault.detail)[:SHOWN]) from None
    try:
        found: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name not in FIELDS:
                raise UsageError("serve.field_unknown", name=name[:SHOWN], among=FIELDS, param=name[:SHOWN])
            if name in found:
                raise UsageError("serve.field_value", name=name, value="given twice", wanted="once", param=name)
            if isinstance(value, UploadFile) != (name == "file"):
                wanted = "a file" if name == "file" else "a string"
                raise UsageError("serve.field_value", name=name, value=show(str(value)[:SHOWN]), wanted=wanted, param=name)
            found[name] = await value.read() if isinstance(value, UploadFile) else value
    finally:
        await form.close()
    for name in FIELDS[:2]:
        if name not in found:
            raise UsageError("serve.field_missing", name=name, param=name)
    answer = found.get("response_format", FORMS[0])
    if answer not in FORMS:
        param = "response_format"
        raise UsageError("serve.field_value", name=param, value=show(answer[:SHOWN]), wanted=" | ".join(FORMS), param=param)
    return Heard(found["model"], found["file"], answer, found.get("language", ""))


def items_of(artefact: Any, content: bytes, language: str = "") -> tuple[list[Utterance], list[Any], float]:
    """Cut a sound, unfolded in a process of its own, into what is heard at once, and encode each piece; give both, and its seconds."""
    from zhixing.evaluation import captions  # with all that hearing needs, which the server of another task does not wait for

    captions.check_language(artefact, language)
    pieces, _, seconds = captions.cut(artefact, content, DECODER.samples)
    return pieces, [captions.item_of(artefact, each, language) for each in pieces], seconds


class Decoder:
    """Reads sounds in other threads, a few at once; the others wait."""

    def __init__(self, most: int = DECODED) -> None:
        self.places = asyncio.Semaphore(most)

    async def items_of(self, artefact: Any, content: bytes, language: str = "") -> tuple[list[Utterance], list[Any], float]:
        """Do `items_of` when there is a place."""
        async with self.places:
            return await asyncio.to_thread(items_of, artefact, content, language)


def reply(form: str, pieces: list[Utterance], answers: list[Any], rate: int, seconds: float) -> Response:
    """Write the transcript in the form that was asked for.

    rate     Hz     of the pieces
    seconds  float  the whole sound's, pauses and all
    """
    text = " ".join(each.value for each in answers if each.value)
    if form == "text":
        return PlainTextResponse(text + "\n")
    if form == "json":
        return JSONResponse({"text": text})
    segments = [
        {
            "id": number,
            "start": round(piece.start, 3),
            "end": round(piece.start + len(piece.samples) / rate, 3),
            "text": answer.value,
            "confidence": None if answer.confidence is None else round(answer.confidence, 6),
        }
        for number, (piece, answer) in enumerate(zip(pieces, answers, strict=True))
    ]
    return JSONResponse({"task": "transcribe", "duration": round(seconds, 3), "text": text, "segments": segments})
