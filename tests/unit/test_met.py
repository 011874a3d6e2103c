"""A training that begins with a model trains only the rows of its table that it meets, and ends where a training of all of them would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stops import Once
from torch import nn
from wordpiece_maker import folder

from zhixing import import_model, load, prepare, train
from zhixing.core.files import read_json, write_json
from zhixing.core.stop import Stopped
from zhixing.layers import met
from zhixing.preparation.prepare import Prepare

TABLE = "body.bert.embeddings.word_embeddings.weight"
SETTINGS = {"precision": "fp32", "threads": 1, "batch": 8, "steps": 12, "dropout": 0.0, "saves": 3}
WORDS = "red green blue warm cold wet dry old new far near high low soft hard".split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("met")
    rows = [{"text": f"{WORDS[n % 7]} and {WORDS[n % 5]}", "label": "ab"[n % 7 > 3]} for n in range(35)] * 2
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    (where / "held.jsonl").write_text("".join(json.dumps({"text": each, "label": "a"}) + "\n" for each in WORDS), encoding="utf-8")
    held = Prepare(task="classify", validation_source=str(where / "held.jsonl"), test=0.0, repeats="keep")
    prepare(where / "rows.jsonl", where / "corpus", held)
    import_model(folder(where / "theirs", [*WORDS, "and", *(f"word{n} stone{n}" for n in range(60))]), where / "start")
    return where


def tensors(where: Path) -> dict[str, torch.Tensor]:
    return load_file(where / "model.safetensors")


def test_it_ends_where_a_training_of_the_whole_table_does(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    narrow = met.narrow
    monkeypatch.setattr(met, "narrow", lambda model, tokens: (narrow(model, tokens), seen.extend(len(e.weight) for e in met.tables(model))))
    settings = {**SETTINGS, "start": str(place / "start")}
    train(place / "corpus", tmp_path / "met", settings)
    monkeypatch.setattr(met, "WORTH", 0.0)
    train(place / "corpus", tmp_path / "all", settings)
    one, other, before = tensors(tmp_path / "met"), tensors(tmp_path / "all"), tensors(place / "start")
    whole = len(one[TABLE])
    assert seen[0] < whole == seen[1], "the second training was of all rows"
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=2e-6)
    began = next(value for name, value in before.items() if name.endswith("word_embeddings.weight"))
    still = (one[TABLE] == began).all(1)
    assert 5 < int((~still).sum()) <= seen[0], "rows that are met move, one that is not lies as it was"
    texts = ["red and blue", "word3 stone4 hard", "soft"]
    ours, theirs = (load(tmp_path / each).predict(texts) for each in ("met", "all"))
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.value == its.value and abs(mine.confidence - its.confidence) < 1e-4


def test_the_best_of_several_is_kept(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SETTINGS, "steps": 40, "evaluations": 10, "patience": 2, "learning_rate": 0.02, "start": str(place / "start")}
    one = train(place / "corpus", tmp_path / "met", settings)
    monkeypatch.setattr(met, "WORTH", 0.0)
    other = train(place / "corpus", tmp_path / "all", settings)
    told = one.card["training"]
    assert told["best_step"] < told["steps"] and told["best_step"] == other.card["training"]["best_step"]
    for name, value in tensors(one.path).items():
        torch.testing.assert_close(value, tensors(other.path)[name], rtol=1e-3, atol=1e-5)


def test_it_goes_on_where_it_was_stopped(place: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "start": str(place / "start")}
    train(place / "corpus", tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        train(place / "corpus", tmp_path / "parts", settings, stop=Once(6))
    newest = max((tmp_path / "parts" / "checkpoints").iterdir())
    assert len(load_file(newest / "model.safetensors")[TABLE]) < len(tensors(tmp_path / "whole")[TABLE])
    train(place / "corpus", tmp_path / "parts", settings)
    one, other = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_that_an_earlier_version_began_trains_all_rows(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SETTINGS, "start": str(place / "start")}
    with monkeypatch.context() as before, pytest.raises(Stopped):
        before.setattr(met, "WORTH", 0.0)
        train(place / "corpus", tmp_path / "model", settings, stop=Once(6))
    run = read_json(tmp_path / "model" / "run.json")
    assert run.pop("narrowed")
    write_json(tmp_path / "model" / "run.json", run)
    train(place / "corpus", tmp_path / "model", settings)
    assert load(tmp_path / "model").predict(["red and blue"])


@pytest.mark.parametrize("more", [{"table_decay": 0.01}, {"epsilon": 9.0, "optimizer": "sgd"}, {"lora": 2}, {"prior": "gaussian"}])
def test_tables_that_move_as_a_whole_are_trained_as_a_whole(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    monkeypatch.setattr(met, "narrow", lambda *_: pytest.fail("it was narrowed"))
    train(place / "corpus", tmp_path / "model", {**SETTINGS, "steps": 1, "start": str(place / "start"), **more})


def test_a_token_that_is_not_met_is_read_but_not_trained() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 3), "positions": nn.Embedding(9, 3)})
    table, whole = model["embedding"], model["embedding"].weight.detach().clone()
    met.narrow(model, torch.tensor([2, 5]))
    assert type(table) is met.Met and type(model["positions"]) is nn.Embedding and table.weight.shape == (2, 3)
    tokens = torch.tensor([[2, 5], [5, 2]])
    assert torch.equal(table(tokens), whole[tokens])
    with pytest.raises(IndexError):
        table(torch.tensor([3]))
    table.eval()
    assert torch.equal(table(torch.arange(9)), whole)
    with torch.no_grad():
        table.weight[0] = 7.0
    met.widen(model)
    assert type(table) is nn.Embedding and [n for n, _ in table.named_parameters()] == ["weight"] and not list(table.buffers())
    assert torch.equal(table.weight[2], torch.full((3,), 7.0)) and torch.equal(table.weight[[0, 1, 3, 4, 5]], whole[[0, 1, 3, 4, 5]])
    met.narrow(model, torch.tensor([12]))
    assert type(table) is nn.Embedding, "a token beyond the table: it is another one"
