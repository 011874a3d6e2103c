"""The routes by themselves: how a body is read, what the OpenAPI page says of them, and a client that leaves while it sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from zhixing.serving import schema
from zhixing.serving.api import make_routes
from zhixing.serving.door import Door
from zhixing.serving.engine import Engine
from zhixing.serving.guard import Guard
from zhixing.serving.limits import Limits
from zhixing.serving.meter import Meter

BODY = {"model": "nobody", "rows": [{"text": "a"}]}


def routes() -> Any:
    return make_routes({}, Engine({}, Limits(), Meter()), Limits(), Meter())


@pytest.fixture
def client() -> TestClient:
    return TestClient(routes(), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("content", "sort", "code", "param"),
    [
        (json.dumps(BODY).encode(), "application/json", "serve.model", "model"),
        (json.dumps(BODY).encode("utf-16"), "application/json", "serve.model", "model"),  # as RFC 4627 still allowed
        (json.dumps(BODY).encode(), 'Application/Vnd.Rows+JSON; note="a"', "serve.model", "model"),
        (json.dumps(BODY).encode(), "text/json", "serve.content_type", None),
        (json.dumps(BODY).encode(), "application/jsonl", "serve.content_type", None),
        (json.dumps(BODY).encode(), "application/a/b+json", "serve.content_type", None),
        (json.dumps(BODY).encode(), "application/a, b+json", "serve.content_type", None),
        (json.dumps(BODY).encode(), "", "serve.content_type", None),
        (b"", "application/json", "serve.field_missing", None),
        (b"null", "application/json", "serve.field_value", None),
        (b"[]", "application/json", "serve.field_value", None),
        (b"{", "application/json", "serve.json", None),
        (b'{"model": "\xff"}', "application/json", "serve.json", None),
        (b"[" * 100_000, "application/json", "serve.json", None),
        (b"9" * 5000, "application/json", "serve.json", None),
        (b'{"rows": [{}]}', "application/json", "serve.field_missing", "model"),
        (b'{"model": "a", "rows": [{}], "row": 1}', "application/json", "serve.field_unknown", "row"),
        (b'{"model": "a", "rows": [1]}', "application/json", "serve.field_value", "rows.0"),
    ],
)
def test_a_body_is_read_or_refused_with_a_reason(client: TestClient, content: bytes, sort: str, code: str, param: str | None) -> None:
    reply = client.post("/v1/predict", content=content, headers={"content-type": sort})
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param), error
    assert reply.status_code == (404 if code == "serve.model" else 400)


def test_no_depth_of_a_body_is_a_fault(client: TestClient) -> None:
    """Those who read it one after the other give up at different depths."""
    for depth in (*range(900, 1000), 3000, 9000):
        for open_, shut in ((b'{"a":', b"}"), (b"[", b"]")):
            body = b'{"model":"nobody","rows":[{"a":' + open_ * depth + b"1" + shut * depth + b"}]}"
            reply = client.post("/v1/predict", content=body, headers={"content-type": "application/json"})
            assert reply.json()["error"]["code"] in ("serve.model", "serve.json"), (depth, reply.text)


def test_what_can_be_read_can_be_asked_for_by_its_head_alone(client: TestClient) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json", "/", "/index.html"):
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b"") and head.headers["content-type"] == whole.headers["content-type"]
    refused = client.put("/v1/models")
    assert refused.status_code == 405 and set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


def references(value: Any) -> set[str]:
    """List what a page refers to."""
    if isinstance(value, dict):
        return {value["$ref"]} if "$ref" in value else set().union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_the_page_tells_of_every_route_and_type_and_of_no_other(client: TestClient) -> None:
    page = client.get("/openapi.json").json()
    files = {"/openapi.json", "/"}
    paths = {each.path for each in client.app.routes if not each.path.endswith((".html", ".js", ".css", ".svg", ".png"))} - files
    assert set(page["paths"]) == paths and len(paths) == 9
    types = {name for name, each in vars(schema).items() if isinstance(each, type) and issubclass(each, BaseModel)}
    inner = {"BaseModel", "Strict", "Asked", "Choosing", "Told"}
    assert set(page["components"]["schemas"]) == types - inner
    assert references(page) == {f"#/components/schemas/{name}" for name in types - inner}
    for path, ways in page["paths"].items():
        for method, told in ways.items():
            assert told["summary"] and told["description"].endswith(".") and told["operationId"].endswith(f"_{method}")
            assert {"200", "400", "401", "500"} <= set(told["responses"]) and (method == "post") == ("requestBody" in told)
            assert ("422" in told["responses"]) == (path == "/v1/audio/transcriptions")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/v1/predict", "/v1/audio/transcriptions"])
async def test_a_client_that_leaves_while_it_sends_is_no_fault(path: str) -> None:
    told: list[Any] = []
    meter = Meter()
    guard = Guard(routes(), Door(), Limits(), meter, lambda code, **values: told.append((code, values)))
    coming = [{"type": "http.request", "body": b"--a\r\n", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    sort = b"multipart/form-data; boundary=a" if "audio" in path else b"application/json"
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "http_version": "1.1", "scheme": "http"}
    await guard({**scope, "headers": [(b"host", b"localhost"), (b"content-type", sort)]}, receive, send)
    assert told == [] and sent[0]["status"] == 499
    assert f'zhixing_requests_total{{route="{path}",status="499"}} 1.0' in meter.page().decode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
