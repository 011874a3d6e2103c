"""Requests that a machine makes up from the server's own description of its interface: none may meet a fault, whatever it asks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from zhixing.serving.limits import Limits

# A rule between two fields, such as top_logprobs only with logprobs, cannot be written into the description.
LEFT_OUT = "positive_data_acceptance"


def fuzz(url: str, seconds: int, place: Path) -> tuple[int, str]:
    """Let schemathesis make up requests for so long; gives its exit code, 0 when it found nothing wrong, and its page."""
    words = ["run", f"{url}/openapi.json", "--max-time", str(seconds), "--exclude-checks", LEFT_OUT, "--seed", "1", "--no-color"]
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    command = [sys.executable, "-c", program, *words, "--continue-on-failure", "--phases", "coverage,fuzzing"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def check(running: Any, seconds: int, place: Path) -> None:
    """Fuzz a server and hold it to: nothing wrong found, no fault told, no status from 500 but 503, and as well as before."""
    code, page = fuzz(running.url, seconds, place)
    assert code == 0, page
    assert "Tested: 9" in page
    counted = running.ask("GET", "/metrics").body.decode().splitlines()
    statuses = {line.split('status="')[1][:3] for line in counted if line.startswith("zhixing_requests_total")}
    assert {"200", "400"} <= statuses
    assert {each for each in statuses if each >= "500"} <= {"503"}
    assert [code for code, _ in running.told if code in ("serve.fault", "serve.failed")] == []
    assert running.post("/v1/completions", model="ngram", prompt="the", max_tokens=2).status == 200


@pytest.fixture(scope="module")
def target(start: Callable[..., Any]) -> Any:
    return start(limits=Limits(max_tokens=8, prompt_tokens=512))


@pytest.mark.timeout(180)
def test_requests_made_up_from_the_description_meet_no_fault(target: Any, tmp_path: Path) -> None:
    check(target, 20, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_more_of_them_meet_none_either(target: Any, tmp_path: Path) -> None:
    check(target, 240, tmp_path)


@pytest.fixture
def faulty() -> Iterator[str]:
    """A server with a fault that one query in two meets."""

    async def half(request: Request) -> Response:
        return JSONResponse(1 // (int(request.query_params["number"]) % 2))

    number = {"name": "number", "in": "query", "required": True, "schema": {"type": "integer"}}
    told = {"parameters": [number], "responses": {"200": {"description": "half", "content": {"application/json": {}}}}}
    page = {"openapi": "3.1.0", "info": {"title": "faulty", "version": "1"}, "paths": {"/half": {"get": told}}}

    async def described(request: Request) -> Response:
        return JSONResponse(page)

    app = Starlette(routes=[Route("/half", half), Route("/openapi.json", described)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_a_fault_is_found(faulty: str, tmp_path: Path) -> None:
    code, page = fuzz(faulty, 5, tmp_path)
    assert code == 1 and "Server error" in page, page
