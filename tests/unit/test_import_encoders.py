"""Encoders of other programs: what is read of their folders, how a text is framed, and what a training that begins with one does."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import MAKERS
from safetensors.torch import load_file, save_file
from wordpiece_maker import folder

from zhixing import evaluate, import_model, load, prepare, train
from zhixing.core.errors import DataError, UsageError
from zhixing.importing.sources import open_source
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.classify import Classify
from zhixing.tasks.grade import Grade
from zhixing.tasks.many import lead
from zhixing.tasks.tag import Tag
from zhixing.training import probe
from zhixing.training.settings import settle

CLS, SEP = 2, 3
LETTER = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100_000}
BOMB = {"type": "Sequence", "normalizers": [LETTER, LETTER]}
BEGUN = {"precision": "fp32", "threads": 1, "batch": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("encoders")
    draw = random.Random(1)
    for task in ("classify", "tag", "similar"):
        rows = [MAKERS[task](draw, number) for number in range(160)]
        (where / f"{task}.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows), encoding="utf-8")
        prepare(where / f"{task}.jsonl", where / task, Prepare(task=task, validation=0.2, test=0.3))
    texts = [text for line in (where / "classify.jsonl").read_text(encoding="utf-8").splitlines() for text in [json.loads(line)["text"]]]
    import_model(folder(where / "theirs", texts), where / "bare")
    import_model(folder(where / "with", texts, head=True), where / "masked")
    return where


def test_texts_are_framed_as_the_model_was_taught(place: Path) -> None:
    tokenizer = load(place / "bare").tokenizer
    plain = tokenizer.encode("Ada says [CLS] fine")
    assert CLS not in plain and tokenizer.framed(plain).tolist() == [CLS, *plain.tolist(), SEP]
    assert tokenizer.framed(plain, 5).tolist() == [CLS, *plain[:3].tolist(), SEP], "what is too long loses its end, not its frame"
    with pytest.raises(UsageError, match="control tokens"):
        tokenizer.framed(plain, 2)
    assert Classify(("a", "b"), longest=4).encode({"text": "Ada says fine"}, tokenizer)["tokens"][[0, -1]].tolist() == [CLS, SEP]
    tagged = Tag(("O", "B-x")).encode({"tokens": ["Ada", "says"], "tags": ["B-x", "O"]}, tokenizer)
    assert tagged["firsts"][0] == 1 and tagged["tokens"][0] == CLS and tagged["tags"][0] < 0
    assert len(tagged["tags"]) == len(tagged["tokens"])
    graded = Grade(0.0, 1.0, 1.0, longest=6).encode({"text": "fine", "reference": "good " * 20}, tokenizer)["tokens"]
    assert len(graded) == 6 and graded[[0, -1]].tolist() == [CLS, SEP] and graded[-2] == tokenizer.encode("fine")[-1]
    unknown = tokenizer.encode("龘 fine")
    assert tokenizer.decode(unknown).strip() and 1 in unknown, "what no piece spells is the unknown token"


def test_what_is_imported_is_a_model_of_its_kind(place: Path) -> None:
    bare, masked = load(place / "bare"), load(place / "masked")
    assert (bare.task.name, masked.task.name) == ("similar", "masked")
    vectors = bare.embed(["Ada says fine", "Bo says awful", "Ada says fine"])
    assert vectors.shape == (3, 16) and np.allclose((vectors**2).sum(1), 1, atol=1e-6) and np.array_equal(vectors[0], vectors[2])
    first, second = bare.predict([{"text": "Ada says fine", "other": "Ada says fine"}, {"text": "Ada says fine", "other": "Bo says awful"}])
    assert first.value == pytest.approx(1, abs=1e-6) and second.value == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    (filled,) = masked.predict(["龘 Ada\n\n[mask] FINE"])
    assert filled.scores and filled.confidence
    assert filled.value.startswith("龘 Ada\n\n") and filled.value.endswith(" FINE"), "the user's own words stay as they are"
    assert masked.predict(["\u200b NAÏVE"])[0].value == "\u200b NAÏVE"


def test_a_classifier_begins_at_the_regression_on_its_states(place: Path, tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    still = {**BEGUN, "start": str(place / "bare"), "steps": 1, "learning_rate": 1e-12, "dropout": 0.0}
    train(place / "classify", tmp_path / "still", still, tell=lambda code, **values: told.append((code, values)))
    assert [values["rows"] for code, values in told if code == "train.probe"] == [_rows(place)]
    opened = load(tmp_path / "still")
    body = load_file(place / "bare/model.safetensors")
    after = load_file(tmp_path / "still/model.safetensors")
    assert all(torch.allclose(after[name], value, atol=1e-9) for name, value in body.items()), "the body is taken over whole"
    assert opened.model.head.weight.abs().max() > 0
    accuracy = evaluate(tmp_path / "still", place / "classify", rivals=False, save=False).figures[0].value
    assert accuracy > 0.8, "random states tell much already"
    report = evaluate(tmp_path / "still", place / "classify", rivals=False, save=False)
    assert report.figures[0].value == accuracy


def _rows(place: Path) -> int:
    from zhixing.data.corpus import open_corpus

    return open_corpus(place / "classify").counts["train"]


def test_the_regression_is_the_library_s_own_and_strengths_are_chosen_by_likelihood() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 90)
    features = 5 * np.eye(4)[labels] + draw.normal(0, 2, (90, 4))
    size = np.linalg.norm(features, axis=1).mean()
    weights, bias, strength = probe.fit(features, labels, 4, None)
    wanted = LogisticRegression(C=10, max_iter=300).fit(features / size, labels)
    p = features @ weights.T + bias
    assert strength == 0.1 and (p[:, :3].argmax(1) == wanted.predict(features / size)).all() and (p.argmax(1) < 3).all()
    noise = draw.normal(0, 1, (90, 4))
    held = (draw.normal(0, 1, (90, 4)), draw.integers(0, 3, 90))
    assert probe.fit(noise, labels, 4, held)[2] == 1.0, "where nothing can be learnt, the strongest prior is likeliest"
    two = probe.fit(features, (labels > 0).astype(int), 2, None)
    assert ((features @ two[0].T + two[1]).argmax(1) == (labels > 0)).mean() > 0.9
    assert probe.fit(features, labels * 0, 2, None) is None


def test_a_start_settles_how_pretrained_weights_are_kept(place: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('learning_rate = 0.002\noptimizer = "muon"\n')
    start = {"start": str(place / "bare")}
    usual = settle("classify", start)
    assert usual.value.model == "bert" and usual.value.optimizer == "adamw" and usual.origins["learning_rate"] == "pretrained"
    recipe = settle("classify", start, str(tmp_path / "own.toml"))
    assert recipe.value.optimizer == "muon" and recipe.origins["learning_rate"] == "recipe"
    assert settle("classify", {**start, "learning_rate": 0.5}).value.learning_rate == 0.5
    assert settle("classify", {"model": "bert"}).value.optimizer == "muon"
    assert (usual.value.layers, usual.value.width, usual.value.heads, usual.value.evaluations) == (2, 16, 2, 0)
    begun = train(place / "classify", tmp_path / "begun", {**BEGUN, **start, "steps": 2})
    assert begun.card["settings"]["width"] == 16 and begun.card["start"]["pretrained"]
    again = settle("classify", {"start": str(tmp_path / "begun")})
    assert again.value.optimizer == "adamw" and again.origins["learning_rate"] == "pretrained", (
        "what began with such weights still has them"
    )
    language = settle("language", {"start": str(place / "masked")}).value
    assert language.optimizer == "adamw" and language.evaluations > 0, "running text is validated as ever"


@pytest.mark.parametrize("task", ["tag", "similar"])
def test_other_tasks_begin_with_it_too(task: str, place: Path, tmp_path: Path) -> None:
    train(place / task, tmp_path / "model", {**BEGUN, "start": str(place / "masked"), "steps": 60, "learning_rate": 0.003})
    report = evaluate(tmp_path / "model", place / task, save=False)
    assert report.task == task and np.isfinite(report.figures[0].value)


def test_masked_language_goes_on_only_with_its_head(place: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("Ada says 1: fine 好 and Bo says 2: awful 差. " * 60, encoding="utf-8")
    prepare(tmp_path / "book.txt", tmp_path / "book", Prepare(task="language"))
    settings = {**BEGUN, "steps": 20, "window": 24}
    train(tmp_path / "book", tmp_path / "more", {**settings, "start": str(place / "masked")})
    opened = load(tmp_path / "more")
    assert opened.task.name == "masked" and opened.model.mask_id == opened.tokenizer.mask_id == 4
    with pytest.raises(UsageError, match="no head that tells hidden tokens"):
        train(tmp_path / "book", tmp_path / "none", {**settings, "start": str(place / "bare")})


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("config.json", {"hidden_act": "gelu_new"}, "hidden_act"),
        ("config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("config.json", {"num_hidden_layers": 3}, "layer.2"),
        ("config.json", {"layer_norm_eps": "small"}, "layer_norm_eps"),
        ("config.json", {"model_type": "deberta"}, "deberta"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "max_tokens"),
        ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {}}}, "WordLevel"),
        ("tokenizer.json", {"normalizer": BOMB}, "many times as long"),
        ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, "lasttoken"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "max_seq_length"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
    ],
)
def test_what_is_wrong_is_named(name: str, change: dict[str, Any], code: str, place: Path, tmp_path: Path) -> None:
    where = folder(tmp_path / "theirs", ["Ada says fine"])
    path = where / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **change}))
    with pytest.raises(DataError, match=code):
        import_model(where, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_the_first_place_is_pooled_where_the_folder_says_so(tmp_path: Path) -> None:
    where = folder(tmp_path / "theirs", ["Ada says fine"])
    import_model(where, tmp_path / "mean")
    (where / "1_Pooling").mkdir()
    (where / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True}))
    (where / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8, "do_lower_case": False}))
    import_model(where, tmp_path / "first")
    mean, first = load(tmp_path / "mean"), load(tmp_path / "first")
    assert (mean.model.body.pooling, first.model.body.pooling) == ("mean", "first") and (mean.task.longest, first.task.longest) == (48, 8)
    assert not np.allclose(mean.embed(["Ada says"]), first.embed(["Ada says"]), atol=1e-3)
    assert np.array_equal(first.embed(["Ada says " * 9]), first.embed(["Ada says " * 12]))


def test_what_comes_after_the_encoder_is_read_or_refused(tmp_path: Path) -> None:
    where = folder(tmp_path / "theirs", ["Ada says fine"])
    kind = "sentence_transformers.models."
    modules = [
        {"type": f"{kind}Transformer", "path": ""},
        {"type": f"{kind}Pooling", "path": "pool"},
        {"type": f"{kind}Normalize", "path": "2"},
    ]
    (where / "pool").mkdir()
    (where / "pool/config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    (where / "modules.json").write_text(json.dumps(modules))
    import_model(where, tmp_path / "ours")
    assert load(tmp_path / "ours").model.body.pooling == "first"
    told: list[str] = []
    (where / "modules.json").write_text(json.dumps(modules[:2]))
    import_model(where, tmp_path / "scaled", tell=lambda code, **_: told.append(code))
    assert "import.scaled" in told
    compared = where / "config_sentence_transformers.json"
    for steps, way, fits in (
        (modules[:2], "dot", False),
        (modules, "dot", True),
        (modules, "manhattan", False),
        (modules[:2], "cosine", True),
    ):
        (where / "modules.json").write_text(json.dumps(steps))
        compared.write_text(json.dumps({"similarity_fn_name": way}))
        with nullcontext() if fits else pytest.raises(DataError, match="similarity_fn_name"):
            open_source(where)
    compared.unlink()
    for wrong, word in (
        ([*modules, {"type": f"{kind}Dense", "path": "3"}], "Dense"),
        ([{**modules[1], "path": "../pool"}], "path"),
        ({"a": 1}, "modules"),
    ):
        (where / "modules.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=word):
            import_model(where, tmp_path / "other")


def test_a_head_with_weights_of_its_own_is_refused(tmp_path: Path) -> None:
    where = folder(tmp_path / "theirs", ["Ada says fine"], head=True)
    tensors = load_file(where / "model.safetensors")
    table = tensors["embeddings.word_embeddings.weight"]
    save_file({**tensors, "cls.predictions.decoder.weight": table.clone()}, where / "model.safetensors")
    import_model(where, tmp_path / "tied")
    save_file({**tensors, "cls.predictions.decoder.weight": table + 1}, where / "model.safetensors")
    with pytest.raises(DataError, match=r"decoder\.weight"):
        import_model(where, tmp_path / "untied")
    save_file({**tensors, "embeddings.LayerNorm.gamma": tensors["embeddings.LayerNorm.weight"] * 2}, where / "model.safetensors")
    with pytest.raises(DataError, match="twice"):
        import_model(where, tmp_path / "twice")


def test_the_name_of_a_task_stands_within_the_frame(place: Path, tmp_path: Path) -> None:
    prepare(str(place / "classify"), tmp_path / "many", Prepare(task="many", also=str(place / "tag")))
    train(tmp_path / "many", tmp_path / "model", {**BEGUN, "start": str(place / "bare"), "steps": 4, "window": 48})
    opened = load(tmp_path / "model")
    seen: list[torch.Tensor] = []
    states = opened.model.body.states
    opened.model.body.states = lambda inputs: seen.append(inputs.tokens) or states(inputs)
    (answer,) = opened.predict([{"task": "classify", "text": "Ada says fine"}])
    name = next(each for each in opened.task.parts if each.startswith("classify"))
    own = lead(name, opened.tokenizer).tolist()
    assert len(own) > 2 and seen[0][0, 1 : 1 + len(own)].tolist() == own
