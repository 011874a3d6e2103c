"""What clients send wrong, as one table: each a clear refusal in OpenAI's form, in both languages, and the server as well as before."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DEEP = 100_000
COMPLETION = {"model": "ngram", "prompt": "the", "max_tokens": 2}
CHAT = {"model": "ngram", "messages": [{"role": "user", "content": "the"}], "max_tokens": 2}
ROWS = {"model": "classifier", "rows": [{"text": "a"}]}
HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Case:
    """One mistake: the route, the body as bytes or as changes to a right one, the status, the error and a word of it."""

    name: str
    path: str
    body: Any
    status: int
    code: str
    said: str = ""
    param: str | None = None


def completion(name: str, code: str, said: str = "", param: str | None = None, status: int = 400, **changes: Any) -> Case:
    return Case(f"completion-{name}", "/v1/completions", COMPLETION | changes, status, code, said, param)


def chat(name: str, code: str, said: str = "", param: str | None = None, **changes: Any) -> Case:
    return Case(f"chat-{name}", "/v1/chat/completions", CHAT | changes, 400, code, said, param)


def rows(name: str, code: str, said: str = "", param: str | None = None, **changes: Any) -> Case:
    return Case(f"rows-{name}", "/v1/predict", ROWS | changes, 400, code, said, param)


def raw(name: str, body: bytes, code: str = "serve.json", said: str = "", param: str | None = None) -> Case:
    return Case(f"raw-{name}", "/v1/completions", body, 400, code, said, param)


CASES = [
    raw("empty", b"", "serve.field_missing", "body"),
    raw("not-json", b"{model: ngram}"),
    raw("cut-off", b'{"model": "ngram", "prompt": "th'),
    raw("array", b"[]", "serve.field_value", "object"),
    raw("number", b"3", "serve.field_value", "object"),
    raw("null", b"null", "serve.field_value", "object"),
    raw("not-utf8", b'{"model": "ngram", "prompt": "\xff\xfe"}'),
    raw("two", b"{}{}"),
    raw("deep", b'{"prompt":' + b"[" * DEEP),
    raw("deep-whole", b'{"model": "ngram", "prompt":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    raw("nan", b'{"model": "ngram", "prompt": "a", "temperature": NaN}', "serve.field_value", "number", "temperature"),
    raw("infinity", b'{"model": "ngram", "prompt": "a", "temperature": -Infinity}', "serve.field_value", "number", "temperature"),
    raw("huge", b'{"model": "ngram", "prompt": "a", "temperature": 1e999}', "serve.field_value", "number", "temperature"),
    raw("long-number", b'{"model": "ngram", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}"),
    raw("surrogate", b'{"model": "ngram", "prompt": "a\\ud800"}', "serve.field_value", "Unicode", "prompt"),
    raw("surrogate-in-stop", b'{"model": "ngram", "prompt": "a", "stop": ["\\udfff"]}', "serve.field_value", "Unicode", "stop.0"),
    raw("surrogate-in-model", b'{"model": "\\ud800", "prompt": "a"}', "serve.field_value", "Unicode", "model"),
    raw("surrogate-in-name", b'{"model": "ngram", "prompt": "a", "\\ud800": 1}', "serve.field_value", "Unicode"),
    raw("no-model", b'{"prompt": "a"}', "serve.field_missing", "'model'", "model"),
    completion("model", "serve.model", "'ngram'", "model", 404, model="ngrm"),
    completion("model-empty", "serve.model", "", "model", 404, model=""),
    completion("model-long", "serve.model", "", "model", 404, model="x" * 100_000),
    completion("model-path", "serve.model", "", "model", 404, model="../ngram"),
    completion("model-null", "serve.field_value", "string", "model", model=None),
    completion("model-of-rows", "serve.wrong_route", "/v1/predict", "model", model="classifier"),
    completion("field", "serve.field_unknown", "'temperature'", "temprature", temprature=1),
    completion("prompt-null", "serve.field_value", "", "prompt", prompt=None),
    completion("prompt-number", "serve.field_value", "string", "prompt", prompt=3),
    completion("prompt-mixed", "serve.field_value", "", "prompt.1", prompt=["a", 3]),
    completion("prompt-float", "serve.field_value", "", "prompt.0", prompt=[1.5]),
    completion("prompt-control", "serve.token", "2", "prompt", prompt=[2, 100]),
    completion("prompt-end", "serve.token", "1", "prompt", prompt=[[100, 1]]),
    completion("prompt-beyond", "serve.token", "999999", "prompt", prompt=[999999]),
    completion("prompt-negative", "serve.field_value", ">= 0", "prompt.0", prompt=[-1]),
    completion("prompt-long", "serve.limit", "8192", "prompt", prompt="a" * 9000),
    completion("prompt-long-in-bytes", "serve.limit", "8192", "prompt", prompt="龘" * 3000),
    completion("prompts-many", "serve.limit", "64", "prompt", prompt=["a"] * 65),
    completion("max-tokens-0", "serve.field_value", ">= 1", "max_tokens", max_tokens=0),
    completion("max-tokens-text", "serve.field_value", "integer", "max_tokens", max_tokens="5"),
    completion("max-tokens-true", "serve.field_value", "integer", "max_tokens", max_tokens=True),
    completion("max-tokens-float", "serve.field_value", "integer", "max_tokens", max_tokens=2.5),
    completion("max-tokens-huge", "serve.limit", "4096", "max_tokens", max_tokens=10**30),
    completion("n-many", "serve.limit", "16", "n", n=17),
    completion("n-0", "serve.field_value", ">= 1", "n", n=0),
    completion("temperature", "serve.field_value", "<= 2", "temperature", temperature=2.1),
    completion("temperature-text", "serve.field_value", "number", "temperature", temperature="hot"),
    completion("top-p-0", "serve.field_value", "> 0", "top_p", top_p=0),
    completion("top-k", "serve.field_value", ">= -1", "top_k", top_k=-2),
    completion("min-p", "serve.field_value", "<= 1", "min_p", min_p=1.5),
    completion("penalty", "serve.field_value", "> 0", "repetition_penalty", repetition_penalty=0),
    completion("seed-negative", "serve.field_value", ">= 0", "seed", seed=-1),
    completion("seed-huge", "serve.field_value", "<", "seed", seed=1 << 63),
    completion("stop-empty", "serve.field_value", "length", "stop", stop=""),
    completion("stop-many", "serve.limit", "8", "stop", stop=["x"] * 9),
    completion("stop-long", "serve.limit", "200", "stop", stop="x" * 201),
    completion("logprobs", "serve.limit", "20", "logprobs", logprobs=21),
    completion("echo-logprobs", "serve.echo_logprobs", "echo", "echo", echo=True, logprobs=1),
    completion("stream-options", "serve.stream_options", "stream", "stream_options", stream_options={"include_usage": True}),
    completion(
        "stream-options-field", "serve.field_unknown", "'include_usage'", "stream_options.include_usge",
        stream=True, stream_options={"include_usge": True},
    ),
    completion("best-of", "serve.unsupported", "best_of", None, best_of=2),
    completion("logit-bias", "serve.unsupported", "logit_bias", None, logit_bias={"5": 1}),
    completion("frequency-penalty", "serve.unsupported", "frequency_penalty", None, frequency_penalty=0.5),
    completion("response-format", "serve.unsupported", "response_format", None, response_format={"type": "json_object"}),
    chat("tools", "serve.unsupported", "tools", None, tools=[{"type": "function", "function": {"name": "f"}}]),
    chat("none", "serve.field_value", "length", "messages", messages=[]),
    chat("text", "serve.field_value", "array", "messages", messages="hello"),
    chat("role", "serve.field_value", "'user'", "messages.0.role", messages=[{"role": "usr", "content": "a"}]),
    chat("role-tool", "serve.field_value", "'user'", "messages.0.role", messages=[{"role": "tool", "content": "a"}]),
    chat("content", "serve.field_missing", "content", "messages.0.content", messages=[{"role": "user"}]),
    chat("content-null", "serve.field_value", "", "messages.0.content", messages=[{"role": "user", "content": None}]),
    chat(
        "image", "serve.field_unknown", "image_url", "messages.0.content.0.image_url",
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
    ),
    chat(
        "message-field", "serve.field_unknown", "'content'", "messages.0.contnt",
        messages=[{"role": "user", "content": "a", "contnt": "b"}],
    ),
    chat("name", "serve.unsupported", "name", None, messages=[{"role": "user", "content": "a", "name": "Ann"}]),
    chat("top-logprobs", "serve.top_logprobs", "logprobs", "top_logprobs", top_logprobs=2),
    chat("max-twice", "serve.twice", "max_completion_tokens", "max_tokens", max_completion_tokens=2),
    chat("long", "serve.limit", "8192", "prompt", messages=[{"role": "user", "content": "a" * 9000}]),
    rows("none", "serve.field_value", "length", "rows", rows=[]),
    rows("many", "serve.limit", "1024", "rows", rows=[{"text": "a"}] * 1025),
    rows("text", "serve.field_value", 'object, {"FIELD": value, ...}', "rows.0", rows=["a"]),
    rows("field", "serve.field_unknown", "'text'", "rows.1", rows=[{"text": "a"}, {"txt": "a"}]),
    rows("missing", "serve.field_missing", "rows.0.text", "rows.0.text", rows=[{}]),
    rows("number", "serve.field_value", "string", "rows.0.text", rows=[{"text": 3}]),
    rows("nothing", "serve.field_value", "null", "rows.0.text", rows=[{"text": None}]),
    rows("model", "serve.wrong_route", "/v1/completions", "model", model="ngram"),
    rows("precision", "predict.precision", "0.95", "precision", precision=0.5),
    rows("precision-text", "serve.field_value", "number", "precision", precision="high"),
    Case("path", "/v1/completion", COMPLETION, 404, "serve.route", "'/v1/completions'"),
    Case("path-long", "/" + "x" * 5000, COMPLETION, 404, "serve.route"),
    Case("path-up", "/../../../../etc/passwd", COMPLETION, 404, "serve.route"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_refused_clearly(case: Case, running: Any, kit: Path) -> None:
    replies = {}
    for language in ("en", "zh"):
        reply = running.ask("POST", case.path, case.body, accept_language=language)
        assert reply.status == case.status, reply.body[:300]
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json) == {"error"} and set(reply.error) == {"message", "type", "param", "code"}
        assert (reply.error["code"], reply.error["param"]) == (case.code, case.param)
        assert len(reply.body) < 3000
        assert not re.search(rf"Traceback|site-packages|\.py\b|{kit}", reply.body.decode())
        replies[language] = reply.error["message"]
    assert case.said in replies["en"]
    assert HAN.search(replies["zh"]) and not HAN.search(re.sub("[龘]", "", replies["en"]))
    assert running.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "ngram", "prompt": [True] * 100_000}),
        ("/v1/completions", {"model": "ngram", "prompt": "a", "stop": [1] * 100_000}),
        ("/v1/chat/completions", {"model": "ngram", "messages": [1] * 100_000}),
        ("/v1/predict", {"model": "classifier", "rows": [1] * 100_000}),
    ],
)
def test_a_long_list_of_wrong_items_is_refused_at_its_first(path: str, body: dict[str, Any], running: Any) -> None:
    start = time.process_time()
    reply = running.post(path, **body)
    assert reply.status == 400
    assert len(reply.body) < 2000
    assert time.process_time() - start < 1.0  # client and server are this process


def test_a_method_that_a_route_does_not_know_is_named(running: Any) -> None:
    reply = running.ask("GET", "/v1/completions")
    assert (reply.status, reply.error["code"], reply.headers["allow"]) == (405, "serve.method", "POST")
    assert running.ask("DELETE", "/v1/models").status == 405
    assert running.ask("POST", "/").status in (404, 405)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a\u0000b"},
        {"prompt": "\u2028\r\n\ufeff\U0010ffff"},
        {"prompt": []},
        {"prompt": ""},
        dict.fromkeys(["stop", "temperature", "top_p", "n", "seed", "stream", "logprobs", "echo", "max_tokens", "stream_options"]),
        {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "best_of": 1, "suffix": None, "user": "someone"},
        {"temperature": 0, "top_k": -1, "min_p": 0, "repetition_penalty": 1},
        {"temperature": 5e-324},
        {"seed": (1 << 63) - 1},
        {"stop": ["\u0000"]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_odd_and_right_is_answered(changes: dict[str, Any], running: Any) -> None:
    reply = running.post("/v1/completions", **(COMPLETION | changes))
    assert reply.status == 200, reply.body
    assert reply.json["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_content_type_that_is_not_json_is_still_read_or_refused_but_never_a_fault(running: Any) -> None:
    """A page of another origin can send text/plain without asking first; its Origin is what stops it."""
    for sort in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=gbk", ""):
        reply = running.ask("POST", "/v1/completions", json.dumps(COMPLETION).encode(), content_type=sort)
        assert reply.status in (200, 400, 415), (sort, reply.body)
        if reply.status == 400 and "charset" not in sort:
            assert reply.error["code"] == "serve.content_type" and "application/json" in reply.error["message"]


def test_what_does_not_look_like_http_harms_nothing(running: Any) -> None:
    import socket

    for noise in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"\x00" * 500,
        b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ):
        with socket.create_connection((running.host, running.port), timeout=10) as line:
            line.sendall(noise)
            line.shutdown(socket.SHUT_WR)
            line.recv(1000)
    assert running.ask("GET", "/health").status == 200
