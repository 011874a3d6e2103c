"""More pieces for a byte-level BPE: those that counting by hand finds, after all that there was; and a body with a row for each."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import gguf_maker
import pytest
import torch
from stops import Once
from wordpiece_maker import folder as encoder

from zhixing import evaluate, export_model, import_model, load, prepare, train
from zhixing.cli.app import main
from zhixing.core.errors import UsageError, ZhixingError
from zhixing.core.stop import Stopped
from zhixing.models import catalog
from zhixing.preparation.prepare import Prepare
from zhixing.tokens import extension
from zhixing.tokens.tokenizer import Tokenizer, extend_bpe, make_bytes, train_bpe
from zhixing.training import start
from zhixing.training.settings import settle

TEXT = "大江东去，浪淘尽，千古风流人物。\nthe old river 大江 runs by the 东去 mill\n\n" * 60
SETTINGS: dict[str, Any] = {"steps": 4, "precision": "fp32", "threads": 1, "window": 32, "batch": 4, "extend_vocabulary": 20}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("extension")
    gguf_maker.write(where / "base.gguf", *gguf_maker.llama())
    import_model(where / "base.gguf", where / "base")
    (where / "text.txt").write_text(TEXT)
    prepare(where / "text.txt", where / "corpus", Prepare(task="language"))
    train(where / "corpus", where / "more", {**SETTINGS, "start": str(where / "base")})
    return where


def by_hand(words: Counter[tuple[int, ...]], names: dict[int, str], first: int, most: int) -> list[tuple[str, str]]:
    """Merge the most frequent pair, the one of the least ids among equals, over and over; every count anew."""
    merges, ids = [], {name: place for place, name in names.items()}
    while first < 10**6 and most:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, number in words.items():
            for pair in zip(word, word[1:], strict=False):
                pairs[pair] += number
        one, two = min(pairs, key=lambda each: (-pairs[each], each), default=(0, 0))
        if pairs[one, two] < 2:
            break
        name = names[one] + names[two]
        merges.append((names[one], names[two]))
        if name not in ids:
            ids[name], names[first] = first, name
            first, most = first + 1, most - 1
        merged: Counter[tuple[int, ...]] = Counter()
        for word, number in words.items():
            out, place = [], 0
            while place < len(word):
                both = word[place : place + 2] == (one, two)
                out.append(ids[name] if both else word[place])
                place += 2 if both else 1
            merged[tuple(out)] += number
        words = merged
    return merges


@pytest.mark.parametrize("seed", range(6))
def test_the_pieces_are_those_that_counting_by_hand_finds(seed: int) -> None:
    draw = random.Random(seed)
    letters = "ab" if seed % 2 else "abcde"
    texts = [" ".join("".join(draw.choices(letters, k=draw.randrange(1, 9))) for _ in range(60)) for _ in range(3)]
    base = train_bpe(["zz zq"], 265)
    more = extend_bpe(base, texts, 40)
    value, grown = (json.loads(each.content)["model"] for each in (base, more))
    names = {place: name for name, place in value["vocab"].items()}
    library = extension.Parts(base.content, json.loads(base.content), []).library()
    words = Counter(tuple(base.encode(word).tolist()) for text in texts for word in split(library, text))
    wanted = by_hand(words, names, base.vocabulary_size, 40)
    assert grown["merges"][: len(value["merges"])] == value["merges"] and len(wanted) > 30
    assert [tuple(each) for each in grown["merges"][len(value["merges"]) :]] == wanted
    counted = extension.Words(extension.words_of(library, texts))
    assert len(counted.ids) == sum(len(each) for each in words if len(each) > 1)
    assert all(more.decode(more.encode(text)) == text and len(more.encode(text)) < len(base.encode(text)) for text in texts)


def split(library: Any, text: str) -> list[str]:
    return [text[start:end] for _, (start, end) in library.pre_tokenizer.pre_tokenize_str(text)]


def test_the_words_end_as_the_tokenizer_writes_them() -> None:
    texts = ["大江东去浪淘尽千古风流人物故垒西边人道是三国周郎赤壁" * 3, "大江 江东 东去 大江东去 aa aaa aaaa aaaaa", "江大东江去东"]
    base = train_bpe(["zz 江"], 266)
    words = extension.words_of(extension.Parts(base.content, json.loads(base.content), []).library(), texts)
    value, made = extension.grown(json.loads(base.content), base.free_id(), words, 25)
    more = Tokenizer(json.dumps(value).encode())
    assert made == 25 == more.vocabulary_size - base.vocabulary_size
    assert [place for place, _ in extension.parts(base.content, more.content)] == list(range(base.vocabulary_size, more.vocabulary_size))
    for place, parts in extension.parts(base.content, more.content):
        assert more.token_bytes(place) == b"".join(map(base.token_bytes, parts)) and max(parts) < base.vocabulary_size
    assert not extension.grown(json.loads(base.content), base.free_id(), extension.words_of(
        extension.Parts(base.content, json.loads(base.content), []).library(), ["qwerty"]), 5)[1], "no pair stands twice"  # fmt: skip
    assert extend_bpe(base, [], 5).hash == base.hash


def imported(where: Path, change: Any) -> Tokenizer:
    """Give the imported tokenizer with its files changed."""
    base = Tokenizer.load(where / "base")
    value, settings = json.loads(base.content), json.loads(json.dumps(base.settings))
    change(value, settings["zhixing"])
    return Tokenizer(json.dumps(value).encode(), settings=settings)


def as_qwen(value: dict[str, Any], about: dict[str, Any]) -> None:
    """Move a control token behind all pieces, in a table that is larger, and add one that is text; merges are written as texts."""
    value["added_tokens"] = [each for each in value["added_tokens"] if each["content"] != "<|im_end|>"]
    place = len(value["model"]["vocab"])
    value["model"]["vocab"] = {name if name != "<|im_end|>" else "qq": each for name, each in value["model"]["vocab"].items()}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    value["added_tokens"] += [{"id": place, "content": "<|im_end|>", "special": True, **flags}]
    value["added_tokens"] += [{"id": place + 1, "content": "river", "special": False, **flags}]
    value["model"]["merges"] = [each if isinstance(each, str) else " ".join(each) for each in value["model"]["merges"]]
    about |= {"vocabulary_size": place + 10, "ends": [0, place], "last": place, "pad": place}


@pytest.mark.parametrize("change", [lambda value, about: None, as_qwen], ids=["plain", "qwen"])
def test_what_there_was_keeps_its_ids(place: Path, change: Any) -> None:
    base = imported(place, change)
    more = extend_bpe(base, [TEXT, "ri ver river im_end <|im_end|> " * 9], 30)
    first, size = base.free_id(), base.vocabulary_size
    assert first == size - (8 if change is as_qwen else 0)
    assert more.vocabulary_size == max(size, first + 30)
    assert more.controls == base.controls and more.added == base.added and more.byte_ids == base.byte_ids and more.ends == base.ends
    assert [more.token_bytes(each) for each in range(first)] == [base.token_bytes(each) for each in range(first)]
    assert all(more.token_bytes(each) for each in range(first, first + 30)) and not set(more.barred) & set(range(first, first + 30))
    for text in (TEXT, "<|im_end|> river <|endoftext|>", "中文 é 🙂"):
        ids = more.encode(text)
        assert more.decode(ids) == text and not set(ids.tolist()) & set(more.controls)
    unseen = "zebra quiz 1234 ïé"
    assert more.encode(unseen).tolist() == base.encode(unseen).tolist()
    assert len(more.encode(TEXT)) < 0.6 * len(base.encode(TEXT))
    again = Tokenizer(more.content, settings=more.settings)
    assert again.hash == more.hash == extend_bpe(base, [TEXT, "ri ver river im_end <|im_end|> " * 9], 30).hash


DECODERS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64},
    "gpt2": {"n_positions": 64, "n_embd": 8, "n_layer": 1, "n_head": 2},
    "lstm": {"embedding_dim": 6, "hidden_dim": 8, "output_dim": 300},
    "feedforward": {},
    "convolution": {},
}
TABLES = {
    "llama": ["model.embed_tokens.weight", "lm_head.weight"],
    "gpt2": ["transformer.wte.weight"],
    "lstm": ["embedding.weight", "fc.weight", "fc.bias"],
    "feedforward": ["embedding.weight", "lm_head.weight", "lm_head.bias"],
    "convolution": ["embedding.weight", "lm_head.weight"],
}


def small(name: str, vocabulary: int) -> dict[str, Any]:
    if DECODERS[name]:
        return {**DECODERS[name], "model_type": name, "vocab_size": vocabulary}
    return catalog.configure(settle("language", {"model": name, "size": "tiny", "width": 8}).value, vocabulary, 16)


@pytest.mark.parametrize("name", DECODERS)
def test_new_rows_are_the_mean_of_their_parts(name: str) -> None:
    model = catalog.build(small(name, 300))
    assert sorted(start.tables(model)) == sorted(TABLES[name])
    old = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in model.state_dict().items()}
    pieces = {298: (3, 5), 300: (7, 7, 9), 301: (4,)}
    larger = catalog.build(start.resized(catalog.config(model), 304))
    found = start.grow(larger, old, pieces)
    catalog.load(larger, found)
    for key, value in found.items():
        if key not in TABLES[name]:
            assert value is old[key]
            continue
        assert torch.equal(value[:298], old[key][:298]) and torch.equal(value[299], old[key][299]) and not value[302:].any()
        for place, parts in pieces.items():
            assert torch.allclose(value[place], sum(old[key][each] for each in parts) / len(parts), atol=1e-6)


def test_a_body_of_the_extended_vocabulary_is_the_start_s(place: Path) -> None:
    base, more = load(place / "base"), Tokenizer.load(place / "more")
    of = settle("language", {"start": str(place / "base"), "extend_vocabulary": 20, "dropout": 0.0}).value
    made = start.body(of, more.vocabulary_size, 32, None, more)
    held = base.model.state_dict()
    for name, value in made.state_dict().items():
        rows = len(held[name])
        assert torch.equal(value[:rows], held[name]) and (len(value) > rows) == (name in start.tables(made))
    assert made.vocabulary == more.vocabulary_size == base.tokenizer.vocabulary_size + 20


def test_the_whole_way(place: Path, tmp_path: Path) -> None:
    base, more = load(place / "base"), load(place / "more")
    size = base.tokenizer.vocabulary_size
    about = more.folder.card["extended"]
    assert about == {"asked": 20, "added": 20, "first_id": size, "tokens_before": size, "tokens": size + 20}
    assert more.model.vocabulary == more.tokenizer.vocabulary_size == size + 20
    assert more.generate("大江", temperature=0, max_tokens=4).tokens and more.score(TEXT).bits_per_byte > 0
    assert evaluate(place / "more", place / "corpus", save=False, rivals=False, samples=0).figures[0].value > 0
    export_model(place / "more", tmp_path / "more.gguf", "F32")
    import_model(tmp_path / "more.gguf", tmp_path / "again")
    again = load(tmp_path / "again")
    assert again.tokenizer.encode(TEXT).tolist() == more.tokenizer.encode(TEXT).tolist()
    assert again.generate("大江", temperature=0, max_tokens=8).tokens == more.generate("大江", temperature=0, max_tokens=8).tokens
    train(place / "corpus", tmp_path / "third", {**SETTINGS, "start": str(place / "more")})
    third = Tokenizer.load(tmp_path / "third")
    assert third.vocabulary_size == size + 40 and len(third.encode(TEXT)) < len(more.tokenizer.encode(TEXT))
    train(place / "corpus", tmp_path / "lora", {**SETTINGS, "extend_vocabulary": None, "start": str(place / "more"), "lora": 2})


def test_our_own_bpe_is_extended(place: Path, tmp_path: Path) -> None:
    told = {"precision": "fp32", "threads": 1, "window": 32, "batch": 4, "steps": 2, "size": "tiny"}
    train(place / "corpus", tmp_path / "own", {**told, "model": "gpt2", "tokenizer": "bpe", "vocabulary": 270})
    said: list[Any] = []
    own = train(
        place / "corpus", tmp_path / "more", {**SETTINGS, "start": str(tmp_path / "own"), "extend_vocabulary": 900},
        tell=lambda code, **values: said.append((code, values)),
    )  # fmt: skip
    added = own.card["extended"]["added"]
    assert 0 < added < 900 and ("tokens.extended", {"count": added, "wanted": 900}) in said
    assert Tokenizer.load(tmp_path / "more").vocabulary_size == 270 + added and load(tmp_path / "more").generate("大", max_tokens=2)


def test_it_goes_on_where_it_was_stopped(place: Path, tmp_path: Path) -> None:
    told = {**SETTINGS, "start": str(place / "base")}
    with pytest.raises(Stopped):
        train(place / "corpus", tmp_path / "parts", told, stop=Once(3))
    train(place / "corpus", tmp_path / "parts", told)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (place / "more" / name).read_bytes()


def test_refusals(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(place / "base")
    train(place / "corpus", tmp_path / "characters", {"size": "tiny", "steps": 1, "window": 16, "batch": 2, "threads": 1})
    encoder(tmp_path / "bert", [TEXT])
    import_model(tmp_path / "bert", tmp_path / "encoder")
    for flags, code in (
        ({}, "extend.start"),
        ({"start": base, "extend_vocabulary": 0}, "extend.size"),
        ({"start": base, "extend_vocabulary": -3}, "extend.size"),
        ({"start": base, "extend_vocabulary": 1 << 18}, "extend.size"),
        ({"start": base, "lora": 4}, "extend.lora"),
        ({"start": str(tmp_path / "encoder")}, "extend.model"),
        ({"start": str(tmp_path / "characters")}, "tokens.extend_sort"),
    ):
        with pytest.raises(ZhixingError) as caught:
            train(place / "corpus", tmp_path / "out", {**SETTINGS, **flags})
        assert caught.value.code == code and not (tmp_path / "out").exists()
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        with pytest.raises(UsageError, match=name):
            extension.check_sort({"model": {"type": "BPE", name: "##"}}, "imported")
    for model in ({"type": "BPE", "byte_fallback": True}, {"type": "Unigram"}, {"type": "WordPiece"}):
        with pytest.raises(UsageError, match=model["type"]):
            extension.check_sort({"model": model}, "imported")
    with pytest.raises(UsageError):
        extend_bpe(make_bytes(), [TEXT], 3)
    words = ["train", str(place / "corpus"), str(tmp_path / "out"), "--extend-vocabulary", "5"]
    assert main(words) == 2 and "--start" in capsys.readouterr().err
    assert main([*words, "--start", base, "--steps", "1", "--window", "16", "--dry-run"]) == 0
