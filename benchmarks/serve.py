"""Serving: a decoder of 10M parameters behind `zhixing serve`, asked by another process; its speed, its ends, its equality, its memory.

    python benchmarks/serve.py OUT [--streams 16] [--tokens 128] [--rounds 5] [--clients 16] [--seconds 30] [--leavers 2000]
                               [--strings 10000] [--smoke]

The decoder has random weights: speed does not depend on what it says. One stream and many are measured in turns. The server is a process
of its own with one thread of arithmetic, and this process, its clients, another; both share the machine with whatever else runs on it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import ROOT, Measured, arguments, write

from zhixing import load
from zhixing.cli.app import main as zhixing
from zhixing.core.folder import create
from zhixing.tasks import artefact
from zhixing.tasks.language import Language
from zhixing.tokens.tokenizer import FIRST_BYTE, train_characters

SHAPE = {
    "hidden_size": 320,
    "intermediate_size": 864,
    "num_hidden_layers": 8,
    "num_attention_heads": 5,
    "num_key_value_heads": 5,
    "head_dim": 64,
}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
LETTERS = "".join(
    chr(0x4E00 + number) for number in range(1700)
)  # a vocabulary as large as that of Tang poems in their commoner characters
WINDOW = 512
SPREAD = 0.02  # of the random weights
LEAVE_AFTER = 3  # pieces of a stream that a client reads before it leaves
AT_ONCE = 16


def make(out: Path, shape: dict[str, int]) -> tuple[Path, int]:
    """Write a Model folder of a decoder with random weights; gives it and its number of parameters."""
    import torch

    from zhixing.models import catalog

    tokenizer = train_characters([LETTERS])
    torch.manual_seed(1)
    config = {
        "model_type": "qwen3",
        "vocab_size": tokenizer.vocabulary_size,
        "max_position_embeddings": WINDOW,
        "tie_word_embeddings": True,
    }
    model = catalog.build(config | shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(SPREAD * torch.randn(parameter.shape))
    count = sum(parameter.numel() for parameter in model.parameters())
    with create(out, "model", {"task": "language", "parameters": count}) as place:
        artefact.write(place, Language(), model, tokenizer)
    return out, count


@dataclass
class Server:
    """A server under way in a process of its own."""

    port: int
    number: int

    def resident(self) -> int:
        """Give the bytes of memory that it holds."""
        page = Path(f"/proc/{self.number}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", page).group(1)) * 1024


@contextmanager
def serving(*models: Path) -> Iterator[Server]:
    """Run `zhixing serve` on a free port; it must end with 0."""
    command = [sys.executable, "-m", "zhixing", "serve", *map(str, models), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ZHIXING_LANG": "en"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    lines = [child.stderr.readline() for _ in range(3)]
    yield Server(int(re.search(r":(\d+) \(", lines[1]).group(1)), child.pid)
    child.terminate()
    child.communicate()
    assert child.returncode == 0, child.returncode


@dataclass
class Told:
    """What a client saw of one request: when it began, when the first piece came, when the last, and how many tokens there were."""

    began: float
    first: float
    ended: float
    tokens: int


async def request(port: int, method: str, path: str, body: Any = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request on a connection of its own and read the answer's head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    writer.write((head + "connection: close\r\n\r\n").encode() + content)
    await writer.drain()
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    assert status == b"200", (path, status, await reader.read())
    return reader, writer


async def whole(port: int, method: str, path: str, body: Any = None) -> bytes:
    """Give an answer's body."""
    reader, writer = await request(port, method, path, body)
    content = await reader.read()
    writer.close()
    return content


async def stream(port: int, body: dict[str, Any]) -> Told:
    """Read a stream to its end."""
    began, first, usage = time.monotonic(), 0.0, b""
    reader, writer = await request(port, "POST", "/v1/completions", body | {"stream": True, "stream_options": {"include_usage": True}})
    async for line in reader:
        first = first or (time.monotonic() if line.startswith(b"data:") else 0.0)
        usage = line if b'"usage"' in line else usage
    writer.close()
    return Told(began, first, time.monotonic(), json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"])


async def figure(port: int, name: str) -> float:
    """Give a figure of /metrics, summed over its labels."""
    page = (await whole(port, "GET", "/metrics")).decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.split(r"[{ ]", line)[0] == name)


def ask(name: str, draw: random.Random, tokens: int, letters: int = 40) -> dict[str, Any]:
    """Make up a request."""
    return {"model": name, "prompt": "".join(draw.choices(LETTERS, k=letters)), "max_tokens": tokens, "seed": draw.randrange(1 << 30)}


async def rate(port: int, name: str, streams: int, tokens: int, draw: random.Random) -> float:
    """Give the tokens a second of so many streams together, from the first request to the last end."""
    told = await asyncio.gather(*(stream(port, ask(name, draw, tokens)) for _ in range(streams)))
    return sum(each.tokens for each in told) / (max(each.ended for each in told) - min(each.began for each in told))


async def first_tokens(port: int, name: str, clients: int, seconds: float, tokens: int, draw: random.Random) -> list[float]:
    """Give the times to first token of clients that each ask again as soon as they are answered, prompts of 20 to 200 tokens."""
    end, times = time.monotonic() + seconds, []

    async def client() -> None:
        while time.monotonic() < end:
            told = await stream(port, ask(name, draw, tokens, draw.randrange(20, 200)))
            times.append(told.first - told.began)

    await asyncio.gather(*(client() for _ in range(clients)))
    return times


async def leave(port: int, name: str, draw: random.Random) -> None:
    """Begin a long stream, read a little, and go without a word."""
    reader, writer = await request(port, "POST", "/v1/completions", ask(name, draw, 1000) | {"stream": True})
    for _ in range(2 * LEAVE_AFTER):
        await reader.readline()
    writer.transport.abort()


async def stops(port: int, name: str, times: int, draw: random.Random) -> tuple[list[float], float]:
    """Give the seconds from a client's going to a page of figures that shows no text being written, and the engine's own mean."""
    seen = []
    for _ in range(times):
        await leave(port, name, draw)
        start = time.monotonic()
        while await figure(port, "zhixing_running"):
            pass
        seen.append(time.monotonic() - start)
    count, total = [await figure(port, f"zhixing_stop_seconds_{part}") for part in ("count", "sum")]
    return seen, total / count


async def leavers(server: Server, name: str, count: int, draw: random.Random) -> list[int]:
    """Give the memory that the server holds after each twentieth of so many clients that leave."""
    held = []
    for _ in range(20):
        for _ in range(max(count // 20 // AT_ONCE, 1)):
            await asyncio.gather(*(leave(server.port, name, draw) for _ in range(AT_ONCE)))
        while await figure(server.port, "zhixing_running") or await figure(server.port, "zhixing_waiting"):
            await asyncio.sleep(0.01)
        held.append(server.resident())
    return held


async def texts(port: int, bodies: list[dict[str, Any]], at_once: int) -> list[str]:
    """Give the texts of requests, so many at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(body: dict[str, Any]) -> str:
        async with gate:
            return json.loads(await whole(port, "POST", "/v1/completions", body))["choices"][0]["text"]

    return list(await asyncio.gather(*map(one, bodies)))


def equal(port: int, model: Path, prompts: int, draw: random.Random) -> dict[str, int]:
    """Count the seeded prompts whose text over HTTP, alone and with others, and on the command line is Python's, byte for byte."""
    settings = {"max_tokens": 48, "temperature": 0.9, "top_p": 0.95, "seed": 11}
    asked = ["".join(draw.choices(LETTERS, k=draw.randrange(1, 60))) for _ in range(prompts)]
    opened = load(model)
    python = [opened.generate(prompt, **settings).text.encode() for prompt in asked]
    found = {}
    for name, at_once in (("one after another", 1), ("16 at once", 16)):
        bodies = [settings | {"model": model.name, "prompt": prompt} for prompt in asked]
        found[f"over HTTP, {name}"] = [each.encode() for each in asyncio.run(texts(port, bodies, at_once))]
    words = [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), str(value))]
    found["on the command line"] = []
    for prompt in asked:
        out = io.StringIO()
        with redirect_stdout(out):
            assert zhixing(["generate", str(model), "--prompt", prompt, *words, "--json"]) == 0
        found["on the command line"].append(json.loads(out.getvalue())[0]["text"].encode())
    return {name: sum(a == b for a, b in zip(each, python, strict=True)) for name, each in found.items()}


def control(out: Path, strings: int) -> dict[str, tuple[int, int]]:
    """Count the prompts that reach the machine, and the control tokens among their tokens, by each door."""
    from zhixing.decoding.generate import Machine
    from zhixing.serving.guard import Door
    from zhixing.serving.limits import Limits
    from zhixing.serving.run import Server as Served

    source = importlib.util.spec_from_file_location("process", ROOT / "tests" / "serving" / "test_serve_process.py")
    module = importlib.util.module_from_spec(source)
    source.loader.exec_module(module)
    given = module.disguised(strings)
    model, _ = make(out / "small", SMALL)
    opened, admit = load(model), Machine.admit
    seen: list[list[int]] = []

    def watched(machine: Machine, prompt: Any, *rest: Any, **more: Any) -> int:
        seen.append([int(each) for each in prompt])
        return admit(machine, prompt, *rest, **more)

    def count() -> tuple[int, int]:
        # The first token of each is the end token, put there by us to open the text.
        found = len(seen), sum(each < FIRST_BYTE for prompt in seen for each in prompt[1:])
        seen.clear()
        return found

    Machine.admit = watched
    server = Served([model], Door(), Limits(max_tokens=1, prompts=64), 0)
    _, port = server.start()
    found = {}
    opened.generate(given, max_tokens=1)
    found["Python"] = count()
    with redirect_stdout(io.StringIO()):
        for start in range(0, len(given), 500):
            words = [f"--prompt={each}" for each in given[start : start + 500]]
            assert zhixing(["generate", str(model), *words, "--max-tokens", "1"]) == 0
    found["the command line"] = count()

    async def send() -> None:
        for start in range(0, len(given), 64):
            body = {"model": "small", "prompt": given[start : start + 64], "max_tokens": 1}
            await whole(port, "POST", "/v1/completions", body)

    async def chat() -> None:
        gate = asyncio.Semaphore(8)

        async def one(text: str) -> None:
            messages = [{"role": role, "content": text} for role in ("system", "user")]
            async with gate:
                await whole(port, "POST", "/v1/chat/completions", {"model": "small", "messages": messages, "max_tokens": 1})

        await asyncio.gather(*map(one, given))

    asyncio.run(send())
    found["HTTP, completions"] = count()
    asyncio.run(chat())
    found["HTTP, chats"] = count()
    server.stop(10)
    Machine.admit = admit
    return found


def spread(numbers: list[float], share: float) -> float:
    """Give a quantile."""
    return sorted(numbers)[min(int(len(numbers) * share), len(numbers) - 1)]


def main() -> None:
    given = arguments(__doc__, streams=16, tokens=128, rounds=5, clients=16, seconds=30.0, leavers=2000, strings=10_000)
    if given.smoke:
        given.tokens, given.rounds, given.seconds, given.leavers, given.strings = 8, 1, 2.0, 320, 200
    out, draw = given.out, random.Random(1)
    model, parameters = make(out / "decoder", SMALL if given.smoke else SHAPE)
    details: dict[str, Any] = {"one": [], "many": []}
    figures = [
        Measured("parameters of the decoder (random weights)", parameters),
        Measured("load of the machine by others when it began, processes that want a core", os.getloadavg()[0]),
        Measured("priority that it ran with, as nice", os.nice(0)),
    ]
    with serving(model) as server:
        port, name = server.port, model.name
        asyncio.run(rate(port, name, given.streams, 8, draw))  # warms up
        for _ in range(given.rounds):
            details["one"].append(asyncio.run(rate(port, name, 1, given.tokens, draw)))
            details["many"].append(asyncio.run(rate(port, name, given.streams, given.tokens, draw)))
        ratios = [many / one for one, many in zip(details["one"], details["many"], strict=True)]
        figures += [
            Measured(f"tokens a second, one stream, median of {given.rounds}", statistics.median(details["one"])),
            Measured(f"tokens a second, {given.streams} streams together, median of {given.rounds}", statistics.median(details["many"])),
            Measured(f"{given.streams} streams against one, median ratio of interleaved pairs", statistics.median(ratios), ">= 4"),
        ]
        times = details["first"] = asyncio.run(first_tokens(port, name, given.clients, given.seconds, given.tokens // 2, draw))
        for share in (0.5, 0.95):
            label = f"seconds to first token under {given.clients} clients, p{share * 100:g} of {len(times)} requests"
            figures.append(Measured(label, spread(times, share)))
        seen, mean = asyncio.run(stops(port, name, 5 if given.smoke else 50, draw))
        details["stops"] = seen
        figures += [
            Measured(
                "milliseconds from a client's going until nothing is written, p50, as another process sees it", 1000 * spread(seen, 0.5)
            ),
            Measured(
                "milliseconds from a client's going until nothing is written, p95, as another process sees it",
                1000 * spread(seen, 0.95),
                "<= 100",
            ),
            Measured("milliseconds from the server's noticing until the work ends, mean, by the engine's own count", 1000 * mean),
        ]
        held = details["held"] = asyncio.run(leavers(server, name, given.leavers, draw))
        figures += [
            Measured(f"MiB held by the server after {given.leavers // 4} streams whose clients left", held[4] / 2**20),
            Measured(f"MiB held by the server after {given.leavers} streams whose clients left", held[-1] / 2**20),
            Measured("MiB that grew between", (held[-1] - held[4]) / 2**20, "<= 1"),
        ]
        for door, count in equal(port, model, 5 if given.smoke else 50, draw).items():
            figures.append(Measured(f"seeded prompts whose text {door} is Python's to the byte", count, "5" if given.smoke else "50"))
    for door, (prompts, tokens) in control(out, given.strings).items():
        figures.append(Measured(f"control tokens in {prompts:,} prompts of disguised ones through {door}", tokens, "0"))
    write(out, "Serving", figures, details, given.smoke)


if __name__ == "__main__":
    main()
