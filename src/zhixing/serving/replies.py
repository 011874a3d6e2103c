"""Answers in OpenAI's forms: whole ones, and the pieces of a stream."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from zhixing.decoding.generate import Event

REASONS = {"end": "stop", "stop": "stop", "length": "length"}
DONE = b"data: [DONE]\n\n"


def vectors_told(model: str, vectors: Sequence[np.ndarray], tokens: int, form: str, unread: Sequence[int]) -> dict[str, Any]:
    """Give vectors, (D,) float32 each, in OpenAI's form.

    form    "float", or "base64" of little-endian float32
    unread  tokens at the end of each text that its vector says nothing of
    """
    data = []
    for index, (each, left) in enumerate(zip(vectors, unread, strict=True)):
        told = base64.b64encode(each.astype("<f4").tobytes()).decode() if form == "base64" else [float(number) for number in each]
        data.append({"object": "embedding", "index": index, "embedding": told, "forgotten": left})
    return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, list[int] | None]:
    """Give a token's name and its bytes; a control token has a name and no bytes, and bytes that are no character are spelt."""
    if token in tokenizer.controls:
        return tokenizer.controls[token], None
    content = tokenizer.token_bytes(token)
    try:
        if token in tokenizer.fallback:  # two tokens must not share a name: "a" is a piece and, where it must be, a byte
            raise UnicodeDecodeError("utf-8", content, 0, 1, "a byte of its own")
        name = content.decode("utf-8")
    except UnicodeDecodeError:
        name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
    return name, list(content)


@dataclass
class Text:
    """One text on its way: what has been told of it, and its tokens where they were asked for."""

    index: int
    text: str = ""
    tokens: int = 0
    finished: str = ""
    forgotten: int = 0
    events: list[Event] = field(default_factory=list)


class Form:
    """How one route writes its answers.

    sort       "completion" or "chat"
    about      the fields at the head of each answer: id, created, model, system_fingerprint
    texts      one for each text asked for
    logprobs   whether tokens and log-probabilities are told
    top        alternatives beside each token
    """

    def __init__(self, sort: str, model: str, fingerprint: str, tokenizer: Tokenizer, count: int, logprobs: bool, top: int) -> None:
        self.chat = sort == "chat"
        self.tokenizer, self.logprobs, self.top = tokenizer, logprobs, top
        mark = "chatcmpl-" if self.chat else "cmpl-"
        self.about = {"id": mark + secrets.token_hex(12), "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}
        self.texts = [Text(index) for index in range(count)]
        self.object = "chat.completion" if self.chat else "text_completion"
        piece = {"object": "chat.completion.chunk" if self.chat else "text_completion", **self.about}
        self._head = "data: " + json.dumps(piece, ensure_ascii=False)[:-1] + ', "choices": ['

    def add(self, place: int, event: Event) -> None:
        """Note what happened to a text, of which pieces are told: nothing that grows with what each token has beside it."""
        each = self.texts[place]
        each.text += event.text
        each.tokens += 1
        each.finished, each.forgotten = event.finished, event.forgotten

    def keep(self, place: int, event: Event) -> None:
        """Note what happened to a text that is told whole, in the end."""
        self.add(place, event)
        if self.logprobs:
            self.texts[place].events.append(event)

    @property
    def done(self) -> bool:
        """Whether every text is finished."""
        return all(each.finished for each in self.texts)

    def usage(self, prompt_tokens: int) -> dict[str, int]:
        """Count the tokens."""
        chosen = sum(each.tokens for each in self.texts)
        return {"prompt_tokens": prompt_tokens, "completion_tokens": chosen, "total_tokens": prompt_tokens + chosen}

    def whole(self, prompt_tokens: int, echo: Sequence[str] = ()) -> dict[str, Any]:
        """Give the answer of a request that does not stream; echo holds what goes before each text."""
        choices = []
        for each in self.texts:
            before = echo[each.index] if echo else ""
            content: dict[str, Any] = {"index": each.index}
            if self.chat:
                content["message"] = {"role": "assistant", "content": each.text, "refusal": None}
            else:
                content["text"] = before + each.text
            content["logprobs"] = self._logprobs(each.events, len(before)) if self.logprobs else None
            choices.append(content | {"finish_reason": REASONS[each.finished], "forgotten": each.forgotten})
        return {"object": self.object, **self.about, "choices": choices, "usage": self.usage(prompt_tokens)}

    def _logprobs(self, events: Sequence[Event], offset: int = 0) -> dict[str, Any]:
        write: Callable[..., dict[str, Any]] = self._chat_logprobs if self.chat else self._legacy_logprobs
        return write(events, offset)

    def _chat_logprobs(self, events: Sequence[Event], offset: int) -> dict[str, Any]:
        def spelt(token: int, log_probability: float) -> dict[str, Any]:
            name, content = token_text(self.tokenizer, token)
            return {"token": name, "logprob": log_probability, "bytes": content}

        content = [spelt(each.token, each.log_probability) | {"top_logprobs": [spelt(*pair) for pair in each.top]} for each in events]
        return {"content": content, "refusal": None}

    def _legacy_logprobs(self, events: Sequence[Event], offset: int) -> dict[str, Any]:
        names = [token_text(self.tokenizer, each.token)[0] for each in events]
        tops = [{token_text(self.tokenizer, token)[0]: value for token, value in each.top} for each in events]
        offsets = []
        for each in events:
            offsets.append(offset)
            offset += len(each.text)
        return {
            "tokens": names,
            "token_logprobs": [each.log_probability for each in events],
            "top_logprobs": tops if self.top else None,
            "text_offset": offsets,
        }

    def opening(self, echo: Sequence[str] = ()) -> bytes:
        """Give what a stream begins with: whose turn it is, in a chat; the prompts, where they are echoed."""
        if self.chat:
            return b"".join(self._piece(each.index, '{"role": "assistant", "content": ""}', None, "") for each in self.texts)
        return b"".join(self._piece(index, json.dumps(text, ensure_ascii=False), None, "") for index, text in enumerate(echo))

    def piece(self, place: int, event: Event) -> bytes:
        """Give the piece of a stream that one token makes; none when there is nothing to tell yet."""
        if not event.text and not event.finished and not self.logprobs:
            return b""
        told = None
        if self.logprobs:
            each = self.texts[place]
            told = self._logprobs([event], len(each.text) - len(event.text))
        words = json.dumps(event.text, ensure_ascii=False)
        content = ('{"content": ' + words + "}" if event.text or told else "{}") if self.chat else words
        return self._piece(place, content, told, event.finished, event.forgotten)

    def _piece(self, place: int, content: str, told: dict[str, Any] | None, finished: str, forgotten: int = 0) -> bytes:
        field_name = "delta" if self.chat else "text"
        logprobs = "null" if told is None else json.dumps(told, ensure_ascii=False)
        end = f'"{REASONS[finished]}", "forgotten": {forgotten}' if finished else "null"
        line = f'{self._head}{{"index": {place}, "{field_name}": {content}, "logprobs": {logprobs}, "finish_reason": {end}}}]}}\n\n'
        return line.encode()

    def closing(self, prompt_tokens: int, with_usage: bool) -> bytes:
        """Give what a stream ends with."""
        if not with_usage:
            return DONE
        return f'{self._head}], "usage": {json.dumps(self.usage(prompt_tokens))}}}\n\n'.encode() + DONE


def failing(problem: dict[str, Any]) -> bytes:
    """Give the piece that ends a stream whose work failed."""
    return b"data: " + json.dumps(problem, ensure_ascii=False).encode() + b"\n\n"
