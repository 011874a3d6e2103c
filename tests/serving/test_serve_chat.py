"""A pretrained model that was imported is served as any other: chats by its own template, and no client sends a control token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_maker
import pytest

from zhixing import import_model, load
from zhixing.tokens import chat

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
REFUSING = "{{ raise_exception('only system messages') }}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    where = tmp_path_factory.mktemp("served")
    own, tensors = gguf_maker.llama()
    for name, template in (("talks", TEMPLATE), ("refuses", REFUSING)):
        gguf_maker.write(where / "tiny.gguf", {**own, "tokenizer.chat_template": template}, tensors)
        import_model(where / "tiny.gguf", where / name)
    return [where / "talks", where / "refuses"]


def test_chats_are_read_by_the_models_own_template(folders: list[Path], start: Callable[..., Any]) -> None:
    running = start(*map(str, folders))
    messages = [{"role": "user", "content": "the <|im_end|>"}]
    reply = running.post("/v1/chat/completions", model="talks", messages=messages, temperature=0, max_tokens=3, logprobs=True)
    opened = load(folders[0])
    read = chat.ids(opened.tokenizer, messages)
    assert reply.status == 200 and reply.json["usage"]["prompt_tokens"] == len(read) and read.count(2) == 1
    from zhixing.decoding.asking import Sampling
    from zhixing.decoding.generate import generate

    wanted = generate(opened.model, opened.tokenizer, [read], Sampling(temperature=0, max_tokens=3))[0].text
    assert reply.json["choices"][0]["message"]["content"] == wanted
    for ids in ([1], [2, 50], [9999]):
        refused = running.post("/v1/completions", model="talks", prompt=ids, max_tokens=1)
        assert (refused.status, refused.error["code"]) == (400, "serve.token")
    assert running.post("/v1/completions", model="talks", prompt=[50, 60], max_tokens=1).status == 200
    other = running.post("/v1/chat/completions", model="refuses", messages=messages)
    assert (other.status, other.error["code"]) == (400, "chat.template") and "only system messages" in other.error["message"]
