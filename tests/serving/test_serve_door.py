"""Who may ask what: the key on every route, names and origins, sizes, and the headers that every answer carries."""

from __future__ import annotations

import base64
import gc
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError
from zhixing.serving import served
from zhixing.serving.api import make_routes
from zhixing.serving.door import Door, read_key
from zhixing.serving.engine import Engine
from zhixing.serving.guard import OPEN, Guard
from zhixing.serving.limits import Limits
from zhixing.serving.meter import Meter

KEY = "correct-horse-battery"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ASKED = {"model": "ngram", "prompt": "the", "max_tokens": 3, "seed": 1}


@pytest.fixture(scope="module")
def locked(start: Callable[..., Any]) -> Any:
    """A server with a key, an allowed name and an allowed page; it writes to ten clients at once and takes small bodies."""
    door = Door(key=KEY, hosts=("notes.example",), origins=("https://notes.example",))
    return start("ngram", door=door, limits=Limits(body_bytes=2000, body_seconds=1.0))


def bearer(key: str) -> str:
    return f"Bearer {key}"


def paths_of(app: Starlette) -> set[str]:
    """List every path that the routes know, with something in place of what varies, and some that they do not."""
    known = {each.path.replace("{name}", "ngram") for each in app.routes}
    assert {"/health", "/v1/completions", "/openapi.json"} <= known
    return known | {"/", "/index.html", "/nothing", "/v1/models/../../health", "/health/", "//health", "/%68ealth/x", "/HEALTH"}


def test_every_route_but_health_needs_the_key(locked: Any) -> None:
    """All routes are enumerated, by every method: a route that is added later is held by this too."""
    found = {}
    for path in paths_of(locked.server.app.app):
        for method in METHODS:
            for headers in ({}, {"authorization": bearer("wrong" * 5)}, {"authorization": KEY}, {"authorization": "Basic x"}):
                found[method, path, headers.get("authorization", "")] = locked.ask(method, path, **headers).status
    opened = {path for (_, path, _), status in found.items() if status != 401}
    assert opened == set(OPEN) == {"/health"}
    assert len(found) > 8 * 4 * 12


def test_a_route_beside_the_door_is_seen() -> None:
    """The enumeration is not blind: without the door the same requests are let in."""
    routes = TestClient(make_routes({}, Engine({}, Limits(), Meter()), Limits(), Meter()))
    assert [routes.get(path).status_code for path in ("/v1/models", "/metrics", "/openapi.json")] == [200, 200, 200]


@pytest.mark.parametrize("shown", [bearer(KEY), f"bearer {KEY}", "Basic " + base64.b64encode(f"anyone:{KEY}".encode()).decode()])
def test_the_key_opens(locked: Any, shown: str) -> None:
    assert locked.ask("GET", "/v1/models", authorization=shown).status == 200
    assert locked.ask("GET", "/", authorization=shown).status == 200
    assert locked.ask("POST", "/v1/completions", ASKED, authorization=shown).status == 200


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", bearer(KEY[:-1]), bearer(KEY + "x"), bearer(KEY.upper()), "Basic " + base64.b64encode(KEY.encode()).decode(),
     "Basic !!!", "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(), bearer("\xe9" * 20), f"Digest {KEY}"],
)  # fmt: skip
def test_anything_else_does_not(locked: Any, shown: str) -> None:
    reply = locked.ask("POST", "/v1/completions", ASKED, authorization=shown)
    assert (reply.status, reply.error["code"], reply.error["type"]) == (401, "serve.key", "authentication_error")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert KEY not in reply.body.decode()


def test_a_browser_is_told_how_to_show_the_key(locked: Any) -> None:
    connection = locked.connect()
    connection.request("GET", "/")
    told = connection.getresponse().headers.get_all("www-authenticate")
    assert told == ["Bearer", 'Basic realm="zhixing", charset="UTF-8"']


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9", "localhost", "LOCALHOST:80", "localhost.", "[::1]:8000", "notes.example"])
def test_the_servers_own_names_are_known(locked: Any, host: str) -> None:
    assert locked.ask("GET", "/health", host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8000",
        "",
        "203.0.113.9",
        "notes.example.",
        "[",
        "a b",
    ],
)
def test_a_name_rebound_to_this_machine_is_refused(locked: Any, host: str) -> None:
    """DNS rebinding: the page's own name resolves here, so the browser sends it as Host and would let the page read the answer."""
    reply = locked.ask("GET", "/health", host=host)
    if host != "notes.example.":  # the same name, written whole
        assert (reply.status, reply.error["code"]) == (403, "serve.host")


def test_a_server_that_listens_everywhere_is_called_by_addresses_not_by_strange_names() -> None:
    door = Door(host="0.0.0.0", key=KEY)
    guard = Guard(Starlette(), door, Limits(), Meter())
    assert guard._known("203.0.113.7:8000") and guard._known("[2001:db8::1]:80") and guard._known("localhost")
    assert not guard._known("evil.example") and not guard._known("0x7f.1") and not guard._known("")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "https://notes.example:444", "file://"]
)
def test_pages_of_others_may_not_ask(locked: Any, origin: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        reply = locked.ask(method, "/v1/completions", ASKED, origin=origin, authorization=bearer(KEY))
        assert (reply.status, reply.error["code"]) == (403, "serve.origin")
        assert "access-control-allow-origin" not in reply.headers


def test_the_servers_own_page_and_an_allowed_one_may_ask(locked: Any) -> None:
    own = locked.ask("POST", "/v1/completions", ASKED, origin=locked.url, authorization=bearer(KEY))
    assert own.status == 200 and "access-control-allow-origin" not in own.headers
    other = locked.ask("POST", "/v1/completions", ASKED, origin="https://notes.example", authorization=bearer(KEY))
    assert other.status == 200
    assert (other.headers["access-control-allow-origin"], other.headers["vary"]) == ("https://notes.example", "Origin")
    assert "access-control-allow-credentials" not in other.headers
    before = locked.ask("OPTIONS", "/v1/completions", origin="https://notes.example", access_control_request_method="POST")
    assert (before.status, before.headers["access-control-allow-headers"]) == (204, "authorization, content-type")
    assert locked.ask("POST", "/v1/completions", ASKED, origin="https://notes.example").status == 401


def test_every_answer_carries_the_headers_that_protect(locked: Any) -> None:
    for method, path, key in (
        ("GET", "/", KEY),
        ("GET", "/health", ""),
        ("GET", "/nothing", KEY),
        ("POST", "/v1/completions", ""),
        ("PUT", "/", KEY),
    ):
        headers = locked.ask(method, path, authorization=bearer(key)).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in headers["content-security-policy"] and "*" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert "server" not in headers


def chunked(running: Any, total: int, piece: int = 500, pause: float = 0.0) -> bytes:
    """Send a body whose length the head does not tell, until all is sent or an answer comes; give the answer's first line."""
    with socket.create_connection((running.host, running.port), timeout=20) as line:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer(KEY)}\r\ntransfer-encoding: chunked\r\n\r\n"
        line.sendall(head.encode())
        try:
            for _ in range(total // piece):
                line.sendall(f"{piece:x}\r\n".encode() + b" " * piece + b"\r\n")
                time.sleep(pause)
            line.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        return line.recv(1000).split(b"\r\n")[0]


def test_a_body_is_counted_whatever_its_head_says(locked: Any) -> None:
    large = dict(ASKED, prompt="a" * 2000)
    reply = locked.ask("POST", "/v1/completions", large, authorization=bearer(KEY))
    assert (reply.status, reply.error["code"]) == (413, "serve.body_large")
    assert b" 413 " in chunked(locked, 4000)
    assert b" 400 " in chunked(locked, 1500)  # small enough, and no JSON
    assert locked.ask("POST", "/v1/completions", b"{}", content_length="-5", authorization=bearer(KEY)).status in (400, 413)


def test_who_sends_all_before_reading_sees_why_it_was_refused(locked: Any) -> None:
    body = b" " * 4_000_000  # more than a connection holds on its way
    for key, status in ((KEY, b" 413 "), ("wrong", b" 401 ")):
        with socket.create_connection((locked.host, locked.port), timeout=20) as line:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer(key)}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            line.sendall(head.encode())
            time.sleep(0.1)
            line.sendall(body)
            answer = line.makefile("rb").read()
        assert status in answer.split(b"\r\n")[0] and answer.endswith(b"}}")


def test_a_refused_body_is_not_read_for_long_nor_asked_for(locked: Any) -> None:
    for more in ("content-length: 90000\r\n", "content-length: 90000\r\nexpect: 100-continue\r\n"):
        start = time.monotonic()
        with socket.create_connection((locked.host, locked.port), timeout=20) as line:
            line.sendall(f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer(KEY)}\r\n{more}\r\n".encode())
            answer = line.makefile("rb").read()
        assert b" 413 " in answer.split(b"\r\n")[0] and answer.endswith(b"}}") and time.monotonic() - start < 5


def test_a_body_that_dribbles_is_not_waited_for(locked: Any) -> None:
    start = time.monotonic()
    assert b" 408 " in chunked(locked, 1500, 100, 0.3)
    assert time.monotonic() - start < 10


def test_a_head_without_end_is_cut_off(locked: Any) -> None:
    with socket.create_connection((locked.host, locked.port), timeout=20) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        try:
            for _ in range(100):
                line.sendall(b"x: " + b"y" * 1000 + b"\r\n")
            answer = line.recv(1000)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]
    assert locked.ask("GET", "/health").status == 200


def test_a_connection_that_rests_is_closed_and_one_that_asks_now_and_then_is_not(start: Callable[..., Any]) -> None:
    running = start("classifier", limits=Limits(idle_seconds=1.5))
    with socket.create_connection((running.host, running.port), timeout=30) as silent:
        with socket.create_connection((running.host, running.port), timeout=30) as halfway:
            halfway.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: loc")
            asking = running.connect()
            for _ in range(12):
                asking.request("GET", "/health")
                assert asking.getresponse().read() == b'{"status":"ok"}'
                time.sleep(0.5)
            asking.close()
            assert halfway.recv(100) == b""
        assert silent.recv(100) == b""


def test_the_description_of_the_interface_is_whole(locked: Any) -> None:
    page = json.loads(locked.ask("GET", "/openapi.json", authorization=bearer(KEY)).body)
    assert set(page["paths"]) == {
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/predict",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
    }
    for path in page["paths"].values():
        for operation in path.values():
            assert "200" in operation["responses"]
            assert operation["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorReply")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.4", "::", "notes.example"])
def test_a_server_that_others_reach_has_a_key(host: str) -> None:
    with pytest.raises(UsageError) as caught:
        Door(host=host)
    assert caught.value.code == "serve.no_key"
    assert Door(host=host, key=KEY).key == KEY


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_a_server_of_this_machine_needs_none(host: str) -> None:
    assert Door(host=host).key is None


@pytest.mark.parametrize("origin", ["*", "notes.example", "https://notes.example/", "https://notes.example/a", "ftp://a", ""])
def test_an_origin_is_written_as_browsers_write_it(origin: str) -> None:
    with pytest.raises(UsageError) as caught:
        Door(origins=(origin,))
    assert caught.value.code == "serve.allow_origin"


def test_the_key_comes_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    assert read_key(path, "another-key-of-the-environment") == KEY
    assert read_key(None, KEY) == KEY
    assert read_key(None, None) is None and read_key(None, "") is None
    path.chmod(0o640)
    with pytest.raises(DataError) as caught:
        read_key(path, None)
    assert caught.value.code == "serve.key_readable"
    with pytest.raises(DataError):
        read_key(tmp_path / "none", None)
    for weak in ("brief", "with a space in the middle", "密钥" * 20):
        with pytest.raises(UsageError) as caught:
            read_key(None, weak)
        assert caught.value.code == "serve.key_form"
        assert weak not in caught.value.text()


@pytest.mark.parametrize(("flag", "code"), [(("--rows", "0"), "--rows"), (("--host", "0.0.0.0"), "key"), (("--key-file", "none"), "none")])
def test_what_is_wrong_is_told_before_a_model_is_opened(
    flag: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZHIXING_KEY", raising=False)
    asked: list[Any] = []
    monkeypatch.setattr(served, "open_models", asked.append)
    assert main(["serve", "no-model", *flag]) in (2, 3)
    assert code in capsys.readouterr().err and not asked


def test_a_model_that_cannot_be_opened_is_told_and_leaves_nothing_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path / "no-model")]) == 2
    assert "no-model" in capsys.readouterr().err and gc.isenabled() and gc.get_freeze_count() == 0
