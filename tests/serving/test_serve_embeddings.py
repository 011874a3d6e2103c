"""OpenAI's embeddings: every model that has states gives texts as vectors, the same as in Python; what is wrong is named."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import MAKERS
from wordpiece_maker import folder

from zhixing import import_model, load, prepare, train
from zhixing.preparation.prepare import Prepare
from zhixing.serving.limits import VECTORS, Limits

TEXTS = ["the old boat drifts", "船 河", "the old boat drifts along a quiet river"]


@pytest.fixture(scope="module")
def server(kit: Path, start: Callable[..., Any]) -> Any:
    import_model(folder(kit / "theirs", TEXTS), kit / "likeness")
    draw = random.Random(1)
    rows = [MAKERS["similar"](draw, number) for number in range(60)]
    (kit / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(kit / "pairs.jsonl", kit / "pairs", Prepare(task="similar", validation=0.1, test=0.2))
    train(kit / "pairs", kit / "overlap", {})
    return start("likeness", "neural", "vectors", "classifier", "overlap", limits=Limits(predict_rows=4, prompt_tokens=64))


@pytest.mark.parametrize("name", ["likeness", "neural", "vectors"])
def test_vectors_are_those_of_python(name: str, server: Any, kit: Path) -> None:
    opened = load(kit / name)
    wanted = opened.embed(TEXTS)
    told = server.post(VECTORS, model=name, input=TEXTS).json
    assert told["object"] == "list" and [each["index"] for each in told["data"]] == [0, 1, 2] and told["model"] == name
    assert np.allclose([each["embedding"] for each in told["data"]], wanted, atol=1e-5)
    packed = server.post(VECTORS, model=name, input=TEXTS, encoding_format="base64").json["data"]
    assert np.allclose([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in packed], wanted, atol=1e-5)
    one = server.post(VECTORS, model=name, input=TEXTS[0]).json
    assert np.allclose(one["data"][0]["embedding"], wanted[0], atol=1e-5) and len(one["data"]) == 1
    assert one["usage"]["prompt_tokens"] == one["usage"]["total_tokens"] == len(opened.read(TEXTS[0]))
    assert VECTORS in server.ask("GET", f"/v1/models/{name}").json["routes"]


def test_what_is_not_read_is_counted(server: Any, kit: Path) -> None:
    opened = load(kit / "likeness")
    longest = opened.task.longest
    texts = ["a river", "a " * longest + "river"]
    first, second = server.post(VECTORS, model="likeness", input=texts).json["data"]
    assert (first["forgotten"], second["forgotten"]) == (0, len(opened.tokenizer.framed(opened.tokenizer.encode(texts[1]))) - longest)
    assert second["forgotten"] > 0 and server.post(VECTORS, model="neural", input=TEXTS).json["data"][2]["forgotten"] == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"model": "classifier", "input": "a"}, "serve.wrong_route"),
        ({"model": "overlap", "input": "a"}, "serve.wrong_route"),
        ({"model": "nothing", "input": "a"}, "serve.model"),
        ({"model": "likeness", "input": "  "}, "texts.empty"),
        ({"model": "likeness", "input": ["a"] * 5}, "serve.limit"),
        ({"model": "neural", "input": "river " * 80}, "serve.limit"),
        ({"model": "likeness", "input": [2, 9]}, "serve.field"),
        ({"model": "likeness", "input": []}, "serve.field"),
        ({"model": "likeness", "input": "a", "dimensions": 8}, "serve.field"),
        ({"model": "likeness", "input": "a", "encoding_format": "hex"}, "serve.field"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], code: str, server: Any) -> None:
    reply = server.ask("POST", VECTORS, json.dumps(body).encode(), content_type="application/json")
    assert reply.status in (400, 404, 422) and reply.json["error"]["code"].startswith(code), reply.body


def test_texts_are_written_and_embedded_side_by_side(server: Any) -> None:
    asked = {"model": "neural", "prompt": "the", "max_tokens": 20, "temperature": 0}

    async def both() -> list[Any]:
        return await asyncio.gather(
            asyncio.to_thread(server.post, "/v1/completions", **asked),
            *(asyncio.to_thread(server.post, VECTORS, model="neural", input=TEXTS) for _ in range(3)),
        )

    written, *embedded = asyncio.run(both())
    assert written.status == 200 and all(each.status == 200 and each.json == embedded[0].json for each in embedded)
    assert written.json["choices"] == server.post("/v1/completions", **asked).json["choices"]


def test_openai_s_own_client_is_understood(server: Any, kit: Path) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        found = client.embeddings.create(model="likeness", input=TEXTS)
        assert np.allclose([each.embedding for each in found.data], load(kit / "likeness").embed(TEXTS), atol=1e-5)
        with pytest.raises(openai.BadRequestError, match="classifier"):
            client.embeddings.create(model="classifier", input="a")


def test_what_is_counted_is_what_is_read_and_a_field_is_named(server: Any, kit: Path) -> None:
    long = "river " * 60
    opened = load(kit / "likeness")
    assert len(opened.tokenizer.encode(long)) > opened.task.longest == len(opened.read(long)) == 48
    assert server.post(VECTORS, model="likeness", input=long).json["usage"]["prompt_tokens"] == 48
    wrong = server.ask("POST", VECTORS, json.dumps({"model": "likeness", "input": "a", "dimensions": 8}).encode())
    assert "encoding_format" in wrong.json["error"]["message"]


def test_a_fault_of_one_work_ends_nothing_of_the_other(kit: Path) -> None:
    """Texts that a model writes and vectors that it makes are apart: whichever fails, every ticket is answered or failed."""
    from zhixing.core.errors import RunError
    from zhixing.decoding.asking import Sampling
    from zhixing.serving.engine import Engine
    from zhixing.serving.meter import Meter
    from zhixing.serving.queue import Ask, Ticket

    async def run(spoilt: str) -> tuple[Any, Any]:
        engine = Engine({"neural": load(kit / "neural")}, Limits(), Meter())

        def fail(*given: Any) -> Any:
            raise ValueError("broken")

        if spoilt == "writing":
            engine.workers["neural"]._machine.step = fail
        else:
            engine.embedders["neural"].turn = fail
        engine.start()
        write, embed = Ticket("neural", [Ask([1, 9], Sampling(max_tokens=3), 0)]), Ticket("neural", items=TEXTS, vectors=True)
        for ticket in (embed, write):
            engine.submit(ticket)

        async def all_of(ticket: Any, count: int) -> Any:
            found: list[Any] = []
            while len(found) < count:
                found += await asyncio.wait_for(ticket.take(), 10)
            return found

        said = await asyncio.gather(all_of(write, 1), all_of(embed, 3), return_exceptions=True)
        assert await asyncio.to_thread(engine.wait_idle, 5), "no ticket is left behind"
        engine.close()
        return tuple(said)

    written, embedded = asyncio.run(run("writing"))
    assert isinstance(written, RunError) and len(embedded) == 3
    written, embedded = asyncio.run(run("embedding"))
    assert isinstance(embedded, RunError) and isinstance(written, list)
