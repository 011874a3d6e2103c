"""The interface as programs use it: the real `openai` client, and answers equal to Python's and the command line's."""

from __future__ import annotations

import concurrent.futures
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from zhixing import load
from zhixing.cli.app import main
from zhixing.serving import api, schema
from zhixing.tokens.chat import TEMPLATE, render

PROMPTS = [
    f"{start} {word}"
    for start in ("the old", "船 河", "evening", "", "a quiet river 月")
    for word in "boat stones 石 头 xyz Ω children count while the".split()
]
MESSAGES = [
    {"role": "system", "content": "the old"},
    {"role": "user", "content": [{"type": "text", "text": "quiet "}, {"type": "text", "text": "月"}]},
]


@pytest.fixture(scope="module")
def client(running: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models_are_listed_with_what_they_read_and_answer(client: openai.OpenAI, running: Any) -> None:
    listed = {each.id: each for each in client.models.list()}
    assert list(listed) == ["ngram", "neural", "classifier"]
    assert listed["neural"].window == 64 and listed["neural"].task == "language" and listed["neural"].input_schema is None
    assert listed["classifier"].input_schema["required"] == ["text"]
    assert listed["classifier"].output_schema["properties"]["answer"]["enum"] == ["down", "up"]
    assert listed["classifier"].routes == ["/v1/predict"]
    assert client.models.retrieve("ngram") == listed["ngram"]
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("ngrm")
    assert "'ngram'" in str(caught.value) and caught.value.code == "serve.model"
    schema.ModelList.model_validate(running.ask("GET", "/v1/models").json, strict=True)


@pytest.mark.parametrize("name", ["ngram", "neural"])
def test_fifty_prompts_have_one_answer_in_python_on_the_command_line_and_over_http(
    name: str, client: openai.OpenAI, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after another and all at once: the texts are equal to the byte, and so are their ends."""
    opened, settings = load(kit / name), {"max_tokens": 16, "seed": 7, "temperature": 0.9, "top_p": 0.95}
    assert len(PROMPTS) == 50

    def over_http(prompt: str) -> tuple[str, str, int]:
        made = client.completions.create(model=name, prompt=prompt, **settings)
        return made.choices[0].text, made.choices[0].finish_reason, made.usage.completion_tokens

    found = [opened.generate(prompt, **settings) for prompt in PROMPTS]
    python = [(each.text, "length" if each.finish_reason == "length" else "stop", len(each.tokens)) for each in found]
    assert [over_http(prompt) for prompt in PROMPTS] == python
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert list(pool.map(over_http, PROMPTS)) == python
    many = client.completions.create(model=name, prompt=PROMPTS, **settings)
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    capsys.readouterr()
    assert (
        main(
            [
                "generate",
                str(kit / name),
                *prompts,
                "--max-tokens",
                "16",
                "--seed",
                "7",
                "--temperature",
                "0.9",
                "--top-p",
                "0.95",
                "--json",
            ]
        )
        == 0
    )
    command_line = [each["text"] for each in json.loads(capsys.readouterr().out)]
    assert [each.text for each in many.choices] == command_line  # prompt i draws from random stream i, in both
    assert command_line[0] == python[0][0] and len(set(command_line)) > 40


def test_several_texts_of_a_prompt_draw_from_the_streams_that_count_draws_from(
    client: openai.OpenAI, kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = client.completions.create(model="ngram", prompt=["the", "月"], n=3, max_tokens=8, seed=2)
    assert [each.index for each in made.choices] == list(range(6))
    capsys.readouterr()
    main(
        ["generate", str(kit / "ngram"), "--prompt", "the", "--prompt", "月", "--count", "3", "--max-tokens", "8", "--seed", "2", "--json"]
    )
    assert [each.text for each in made.choices] == [each["text"] for each in json.loads(capsys.readouterr().out)]
    assert made.usage.prompt_tokens == 4 + 2 and made.usage.completion_tokens == 48


def test_without_a_seed_answers_differ_and_with_temperature_0_they_do_not(client: openai.OpenAI) -> None:
    texts = {client.completions.create(model="ngram", prompt="the", max_tokens=30).choices[0].text for _ in range(3)}
    assert len(texts) == 3
    assert len({client.completions.create(model="ngram", prompt="the", temperature=0).choices[0].text for _ in range(2)}) == 1


@pytest.mark.parametrize("name", ["ngram", "neural"])
def test_a_stream_makes_the_whole_answer(name: str, client: openai.OpenAI, running: Any) -> None:
    settings = {"model": name, "prompt": ["the old", "河"], "max_tokens": 20, "seed": 3, "n": 2, "stop": [" c", "月"]}
    whole = client.completions.create(**settings)
    texts, ends, usage = [""] * 4, [""] * 4, []
    for piece in client.completions.create(**settings, stream=True, stream_options={"include_usage": True}):
        usage += [piece.usage] if piece.usage else []
        for choice in piece.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [each.text for each in whole.choices]
    assert ends == [each.finish_reason for each in whole.choices]
    assert usage == [whole.usage]
    assert all(" c" not in text and "月" not in text for text in texts)
    reply = running.post("/v1/completions", **settings, stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert all("usage" not in piece for piece in reply.pieces())


def test_log_probabilities_are_pythons_and_the_alternatives_the_likeliest(client: openai.OpenAI, kit: Path) -> None:
    opened = load(kit / "ngram")
    python = opened.generate("the 月", max_tokens=12, seed=5)
    made = client.completions.create(model="ngram", prompt="the 月", max_tokens=12, seed=5, logprobs=3).choices[0]
    assert made.logprobs.token_logprobs == python.log_probabilities
    assert "".join(made.logprobs.tokens) == python.text
    assert [python.text[start : start + 1] for start in made.logprobs.text_offset] == made.logprobs.tokens
    for token, value, top in zip(made.logprobs.tokens, made.logprobs.token_logprobs, made.logprobs.top_logprobs, strict=True):
        assert len(top) == 3 and list(top.values()) == sorted(top.values(), reverse=True)
        assert top.get(token, value) == value <= max(top.values())
    bare = client.completions.create(model="ngram", prompt="the 月", max_tokens=12, seed=5, logprobs=0).choices[0]
    assert bare.logprobs.top_logprobs is None and bare.logprobs.token_logprobs == python.log_probabilities
    chat = {"model": "ngram", "messages": [{"role": "user", "content": "the"}], "max_tokens": 12, "seed": 5}
    spoken = client.chat.completions.create(**chat, logprobs=True, top_logprobs=2).choices[0]
    assert "".join(each.token for each in spoken.logprobs.content) == spoken.message.content
    assert bytes(byte for each in spoken.logprobs.content for byte in each.bytes).decode() == spoken.message.content
    assert all(len(each.top_logprobs) == 2 for each in spoken.logprobs.content)
    streamed = [
        token
        for piece in client.chat.completions.create(**chat, logprobs=True, top_logprobs=2, stream=True)
        for choice in piece.choices
        for token in (choice.logprobs.content if choice.logprobs else [])
    ]
    assert streamed == spoken.logprobs.content


def test_a_chat_continues_the_messages_texts(client: openai.OpenAI, running: Any) -> None:
    text = render([{"role": "system", "content": "the old"}, {"role": "user", "content": "quiet 月"}])
    assert text == "the old\nquiet 月\n"
    settings = {"max_tokens": 15, "seed": 4, "temperature": 0.8}
    made = client.chat.completions.create(model="neural", messages=MESSAGES, **settings)
    assert made.choices[0].message.content == client.completions.create(model="neural", prompt=text, **settings).choices[0].text
    assert made.choices[0].message.role == "assistant"
    pieces = list(client.chat.completions.create(model="neural", messages=MESSAGES, stream=True, **settings))
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == made.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == made.choices[0].finish_reason
    schema.ChatReply.model_validate(running.post("/v1/chat/completions", model="neural", messages=MESSAGES, **settings).json, strict=True)


def test_other_programs_render_the_same_chat(kit: Path) -> None:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    messages = [{"role": "user", "content": "  a\n"}, {"role": "assistant", "content": "<|end|>{{ 7*7 }}{% if %}"}]
    stored = json.loads((kit / "ngram" / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    assert stored == TEMPLATE
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(stored)
    assert template.render(messages=messages, add_generation_prompt=True) == render(messages)


def test_prompts_may_be_echoed_and_given_as_ids(client: openai.OpenAI, kit: Path, running: Any) -> None:
    ids = load(kit / "ngram").tokenizer.encode("the 月").tolist()
    settings = {"model": "ngram", "max_tokens": 6, "seed": 1}
    text = client.completions.create(prompt="the 月", **settings).choices[0].text
    assert client.completions.create(prompt=ids, **settings).choices[0].text == text
    assert client.completions.create(prompt=[ids], echo=True, **settings).choices[0].text == "the 月" + text
    pieces = running.post("/v1/completions", prompt="the 月", echo=True, stream=True, **settings).pieces()
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == "the 月" + text
    schema.CompletionReply.model_validate(running.post("/v1/completions", prompt="a", logprobs=1, **settings).json, strict=True)


def test_a_text_that_outgrows_the_window_says_so(client: openai.OpenAI, kit: Path) -> None:
    python = load(kit / "neural").generate("the old boat " * 3, max_tokens=60, seed=8)
    made = client.completions.create(model="neural", prompt="the old boat " * 3, max_tokens=60, seed=8).choices[0]
    assert made.text == python.text
    assert made.forgotten == python.forgotten


def test_rows_are_answered_as_python_and_the_command_line_answer_them(running: Any, kit: Path, tmp_path: Path) -> None:
    texts = [f"{word} {sign}ward" for word in ("boat", "月", "", "x" * 300) for sign in ("down", "up", "no", "<|end|>")] * 20
    reply = running.post("/v1/predict", model="classifier", rows=[{"text": text} for text in texts])
    schema.PredictReply.model_validate(reply.json, strict=True)
    opened = load(kit / "classifier")
    python = [(each.value, round(each.confidence, 6), each.scores) for each in opened.predict(texts)]
    assert [(each["answer"], each["confidence"], each["scores"]) for each in reply.json["answers"]] == python
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(["predict", str(kit / "classifier"), str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answered = [row for row in rows if not row["problem"]]
    assert len(answered) >= 240
    ours = dict(zip(texts, reply.json["answers"], strict=True))
    assert all((row["answer"], row["confidence"]) == (ours[row["text"]]["answer"], ours[row["text"]]["confidence"]) for row in answered)


def test_a_model_of_vectors_answers_with_the_nearest_word(start: Any, kit: Path) -> None:
    running = start("vectors")
    entry = running.ask("GET", "/v1/models/vectors").json
    assert (entry["task"], entry["routes"], entry["precisions"]) == ("embed", ["/v1/predict", "/v1/embeddings"], [])
    texts = ["quiet river", "?", "船"]
    reply = running.post("/v1/predict", model="vectors", rows=[{"text": text} for text in texts])
    python = [(each.value, each.confidence, each.scores, None, False) for each in load(kit / "vectors").predict(texts)]
    assert [tuple(each.values()) for each in reply.json["answers"]] == python
    assert python[0][0] and python[0][1] is None
    wrong = running.post("/v1/predict", model="vectors", rows=[{"text": "a"}], precision=0.95)
    assert (wrong.status, wrong.error["code"]) == (400, "predict.precision")


def test_rows_below_a_precisions_threshold_abstain(running: Any, kit: Path) -> None:
    from zhixing.evaluation.predict import find_threshold

    opened = load(kit / "classifier")
    rows = [{"text": "downward"}, {"text": "zebra"}]
    reply = running.post("/v1/predict", model="classifier", rows=rows, precision=0.95)
    threshold = find_threshold(opened, 0.95)
    assert [each["abstained"] for each in reply.json["answers"]] == [each["confidence"] < threshold for each in reply.json["answers"]]
    assert True in [each["abstained"] for each in reply.json["answers"]]
    wrong = running.post("/v1/predict", model="classifier", rows=rows, precision=0.5)
    assert (wrong.status, wrong.error["code"]) == (400, "predict.precision")


@pytest.mark.parametrize(
    ("call", "error", "code", "param"),
    [
        (lambda c: c.completions.create(model="no", prompt="a"), openai.NotFoundError, "serve.model", "model"),
        (lambda c: c.completions.create(model="classifier", prompt="a"), openai.BadRequestError, "serve.wrong_route", "model"),
        (
            lambda c: c.completions.create(model="ngram", prompt="a", temperature=3),
            openai.BadRequestError,
            "serve.field_value",
            "temperature",
        ),
        (lambda c: c.completions.create(model="ngram", prompt="a", suffix="b"), openai.BadRequestError, "serve.unsupported", None),
        (lambda c: c.completions.create(model="ngram", prompt="a", max_tokens=9999), openai.BadRequestError, "serve.limit", "max_tokens"),
        (lambda c: c.chat.completions.create(model="ngram", messages=[]), openai.BadRequestError, "serve.field_value", "messages"),
        (
            lambda c: c.chat.completions.create(model="ngram", messages=[{"role": "usr", "content": "a"}]),
            openai.BadRequestError,
            "serve.field_value",
            "messages.0.role",
        ),
        (
            lambda c: c.chat.completions.create(model="ngram", messages=[{"role": "user", "content": "a"}], extra_body={"temprature": 1}),
            openai.BadRequestError,
            "serve.field_unknown",
            "temprature",
        ),
    ],
)
def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, call: Any, error: type, code: str, param: str | None) -> None:
    with pytest.raises(error) as caught:
        call(client)
    assert caught.value.code == code
    assert caught.value.param == param
    assert caught.value.body["message"].count(".") >= 2


def test_an_empty_row_is_refused_by_its_index(running: Any) -> None:
    reply = running.post("/v1/predict", model="classifier", rows=[{"text": "the boat"}, {"text": " "}])
    assert reply.status == 400 and reply.error["code"] == "serve.field_empty" and reply.error["param"] == "rows.1.text"
    entry = next(each for each in running.ask("GET", "/v1/models").json["data"] if each["id"] == "classifier")
    assert entry["input_schema"]["properties"]["text"]["pattern"] == "\\S"


def test_a_fault_is_answered_in_the_form_of_errors_without_its_details(start: Any, monkeypatch: Any) -> None:
    running = start("classifier")

    def breaks(*given: Any) -> None:
        raise ValueError("the secret of a folder")

    monkeypatch.setattr(api.asks, "items_of", breaks)
    row = {"text": "the old river"}
    reply = running.post("/v1/predict", model="classifier", rows=[row])
    assert reply.status == 500 and reply.error["code"] == "serve.fault" and reply.error["type"] == "server_error"
    assert b"secret" not in reply.body
    end = time.monotonic() + 20
    while not (told := [values["problem"] for code, values in running.told if code == "serve.fault"]):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert len(told) == 1 and told[0].startswith("ValueError: the secret")
    monkeypatch.undo()
    assert running.post("/v1/predict", model="classifier", rows=[row]).status == 200
