"""Small models of each sort, and servers of them in threads of this process, asked over real connections."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from zhixing.cli.app import main
from zhixing.serving.door import Door
from zhixing.serving.limits import Limits
from zhixing.serving.run import Server
from zhixing.serving.served import open_models

WORDS = "the old boat drifts along a quiet river while children count the stones and evening comes 船 河 石 头 月".split()
SHAPE = "layers = 1\nwidth = 16\nheads = 2\ngroups = 1\nevaluations = 1\nsaves = 1\n"


def do(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an n-gram, a tiny decoder and vectors of one text, and a classifier of a table."""
    kit, draw = tmp_path_factory.mktemp("kit"), random.Random(3)
    lines = [" ".join(draw.choices(WORDS, k=9)) for _ in range(300)]
    (kit / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [f"{' '.join(draw.choices(WORDS, k=6))} {label}ward {number},{label}" for number in range(100) for label in ("down", "up")]
    (kit / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (kit / "shape.toml").write_text(SHAPE, encoding="utf-8")
    do("prepare", kit / "text.txt", kit / "corpus")
    do("prepare", kit / "rows.csv", kit / "table", "--validation", 0.2, "--test", 0.2)
    do("train", kit / "corpus", kit / "ngram", "--model", "ngram", "--order", 3)
    do(
        "train",
        kit / "corpus",
        kit / "neural",
        "--model",
        "qwen3",
        "--recipe",
        kit / "shape.toml",
        "--steps",
        5,
        "--window",
        64,
        "--batch",
        2,
    )
    do("train", kit / "corpus", kit / "vectors", "--model", "skipgram", "--size", "tiny", "--steps", 5)
    do("train", kit / "table", kit / "classifier", "--model", "naive_bayes")
    return kit


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    def pieces(self) -> list[Any]:
        """Read a stream of server-sent events, which must end as OpenAI's do."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@dataclass
class Running:
    """A server, and the way to ask it."""

    server: Server
    host: str
    port: int
    told: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send one request on a connection of its own; a body that is not bytes is sent as JSON."""
        connection = self.connect()
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, content, {"content-type": "application/json", **named})
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> Reply:
        return self.ask("POST", path, body)

    def figure(self, name: str) -> float:
        """Give a figure of /metrics, summed over its labels."""
        page = self.ask("GET", "/metrics").body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.split("{")[0].split(" ")[0] == name)

    def until(self, name: str, wanted: Callable[[float], bool], seconds: float = 20) -> float:
        """Wait until a figure is as wanted."""
        end = time.monotonic() + seconds
        while not wanted(value := self.figure(name)):
            assert time.monotonic() < end, f"{name} is {value}"
            time.sleep(0.01)
        return value


@pytest.fixture(scope="session")
def start(kit: Path) -> Iterator[Callable[..., Running]]:
    """Start servers of models of the kit; all are stopped in the end."""
    started: list[Running] = []

    def begin(*names: str, door: Door | None = None, limits: Limits | None = None) -> Running:
        told: list[tuple[str, dict[str, Any]]] = []
        paths = [kit / name for name in names or ("ngram", "neural", "classifier")]
        server = Server(open_models(paths), door or Door(), limits or Limits(), 0, lambda code, **values: told.append((code, values)))
        started.append(Running(server, *server.start(), told))
        return started[-1]

    yield begin
    for each in started:
        if each.server.alive:
            each.server.stop(0)


@pytest.fixture(scope="session")
def running(start: Callable[..., Running]) -> Running:
    """A server of everything, as it is started without flags."""
    return start()
