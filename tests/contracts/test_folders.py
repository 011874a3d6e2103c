"""What every Model folder must hold, whatever is in it: it opens as the same model to the last bit, says what it is, is refused by name
when anything in it is not as sealed, and carries no one's text."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import sha256
from zhixing.core.folder import CARD, FORMAT, MANIFEST, open_folder, seal
from zhixing.core.log import quiet
from zhixing.data.corpus import open_corpus
from zhixing.layers.kinds import Headed
from zhixing.layers.scoring import score
from zhixing.models import catalog
from zhixing.models.bag import Bag
from zhixing.models.grammar import Grammar
from zhixing.models.mixture import Mixture
from zhixing.models.ngram import NGram
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks import artefact, golden
from zhixing.tasks.artefact import load
from zhixing.tasks.classify import Classify
from zhixing.tasks.language import Language
from zhixing.tasks.task import function, task_class
from zhixing.tokens.tokenizer import train_characters
from zhixing.training.train import mix_trained, train

MARKER = "zqxjkv-霹雳玛瑙-0417"  # in the training text once, and in no folder made of it
WORDS = "the quiet river carries small boats past stones and 小船 沿 河 而下 石头 不语".split()
TEXTS = [" ".join(random.Random(line).choices(WORDS, k=8)) for line in range(120)]
SIGNS = (("poor", "bad"), ("fine", "good"))
LABELLED = [{"text": f"{text} {SIGNS[line % 2][0]} {line}", "label": SIGNS[line % 2][1]} for line, text in enumerate(TEXTS)]
TOKENIZER = train_characters(TEXTS)
V = TOKENIZER.vocabulary_size
DECODER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
           "head_dim": 8, "max_position_embeddings": 32, "vocab_size": V}  # fmt: skip
LSTM = {"vocab_size": V, "embedding_dim": 12, "hidden_dim": 16}
CONVOLUTION = {"vocab_size": V, "hidden_size": 16, "kernel_size": 3, "dilations": [1, 2]}
GPT2 = {"vocab_size": V, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
BERT = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
        "max_position_embeddings": 64}  # fmt: skip
CLASSES = Classify(labels=("bad", "good"), longest=32, temperature=1.25, thresholds={"0.95": 0.75, "0.98": None})


def stream() -> np.ndarray:
    """Lay the texts out between end tokens."""
    parts = [np.array([TOKENIZER.end_id])]
    for text in TEXTS:
        parts += [TOKENIZER.encode(text), [TOKENIZER.end_id]]
    return np.concatenate(parts).astype(np.int64)


def neural(kind: str, **form: Any) -> Any:
    """Make a trained family's model with no zero left from its initialisation."""
    torch.manual_seed(11)
    made = catalog.build({"model_type": kind, **form})
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made.eval()


def headed(kind: str, **form: Any) -> Headed:
    below = neural(kind, **form)
    made = Headed(below, CLASSES.head(below.width))
    torch.nn.init.normal_(made.head.weight)
    return made.eval()


def bag(method: str) -> Bag:
    labels = np.array([CLASSES.labels.index(each["label"]) for each in LABELLED])
    return Bag.fit([each["text"] for each in LABELLED], labels, 2, method)


def ngram() -> NGram:
    return NGram.count(stream(), V, 4, TOKENIZER.end_id)


MADE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "grammar": lambda: (Language(), Grammar.learn(stream(), V, 8, TOKENIZER.end_id)[0]),
    "ngram": lambda: (Language(), ngram()),
    "dirichlet": lambda: (Language(), NGram.count(stream(), V, 4, TOKENIZER.end_id, "dirichlet", 3.0)),
    "additive": lambda: (Language(), NGram.count(stream(), V, 2, TOKENIZER.end_id, "additive", 0.1)),
    "qwen3": lambda: (Language(), neural("qwen3", **DECODER)),
    "llama": lambda: (Language(), neural("llama", **DECODER)),
    "qwen3-tied": lambda: (Language(), neural("qwen3", **DECODER, tie_word_embeddings=True)),
    **{name: lambda name=name: (Language(), neural(name, **LSTM)) for name in ("rnn", "gru", "lstm")},
    "feedforward": lambda: (Language(), neural("feedforward", **LSTM, context=4)),
    "convolution": lambda: (Language(), neural("convolution", **CONVOLUTION)),
    "gpt2": lambda: (Language(), neural("gpt2", **GPT2)),
    "mixture": lambda: (Language(), Mixture.fit([neural("lstm", **LSTM), ngram()], stream()[:500])),
    "naive_bayes": lambda: (CLASSES, bag("naive_bayes")),
    "logistic": lambda: (CLASSES, bag("logistic")),
    "headed-qwen3": lambda: (CLASSES, headed("qwen3", **DECODER)),
    "headed-lstm": lambda: (CLASSES, headed("lstm", **LSTM)),
    "headed-convolution": lambda: (CLASSES, headed("convolution", **CONVOLUTION)),
    "headed-gpt2": lambda: (CLASSES, headed("gpt2", **GPT2)),
}
WORDS = [{"tokens": each["text"].split(), "tags": ["B-x" if word == "fine" else "O" for word in each["text"].split()]} for each in LABELLED]
CELLS = [{"row": {"length": float(len(each["text"])), "first": each["text"][:1]}, "label": each["label"]} for each in LABELLED]
SCORES = [{"text": each["text"], "reference": "good", "score": float(each["label"] == "good")} for each in LABELLED]
TABLE = {"tag": WORDS, "risk": CELLS, "grade": SCORES, "classify": LABELLED}


def counted(name: str, of: str) -> tuple[Any, Any]:
    """Fit a task's counted model at its defaults."""
    task = task_class(of).fit(TABLE[of])
    return function(task.counted[name])(task, TABLE[of], [], {"method": name}, quiet)[:2]


def tagger() -> tuple[Any, Any]:
    task = task_class("tag").fit(WORDS)
    made = neural("bilstm", vocab_size=V, embedding_dim=12, hidden_dim=8)
    made = Headed(made, task.head(made.width))
    torch.nn.init.normal_(made.head.weight)
    return task, made.eval()


ROWS = {"majority": "classify", "frequent_tag": "tag", "crf": "tag", "table_logistic": "risk", "trees": "risk", "ridge": "grade"}
MADE |= {name: (lambda name=name, of=of: counted(name, of)) for name, of in ROWS.items()}
MADE |= {
    "tagger-bilstm": tagger,
    "headed-bert": lambda: (CLASSES, headed("bert", **BERT)),
    "headed-textcnn": lambda: (CLASSES, headed("textcnn", vocab_size=V, embedding_dim=12, filters=8, kernel_sizes=[2, 3])),
    "headed-bigru": lambda: (CLASSES, headed("bigru", vocab_size=V, embedding_dim=12, hidden_dim=8)),
}
BAGS = ("naive_bayes", "logistic", *ROWS)
COUNTS = ("ngram", "dirichlet", "additive")


def save(path: Path, name: str) -> tuple[Any, Any]:
    task, model = MADE[name]()
    path.mkdir()
    artefact.write(path, task, model, None if name in BAGS else TOKENIZER)
    seal(path, "model", {"task": task.name, "model": name})
    return task, model


def read_out(task: Any, model: Any, tokenizer: Any) -> np.ndarray:
    """Give what a model says: the score of every token, or every label's probability for every text."""
    if task.name == "language":
        return score(model, stream()[:700])
    items = [task.encode(each, tokenizer) for each in TABLE[task.name][:80]]
    answers = list(task.answers(model, items, tokenizer))
    numbers = [answer.value if isinstance(answer.value, float) else answer.confidence for answer in answers]
    return np.array([[*(each.scores or {}).values(), number] for each, number in zip(answers, numbers, strict=True)])


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_model_opens_as_the_same_to_the_last_bit(tmp_path: Path, name: str) -> None:
    task, model = save(tmp_path / "a", name)
    opened = load(tmp_path / "a")
    before = read_out(task, model, None if name in BAGS else TOKENIZER)
    after = read_out(opened.task, opened.model, opened.tokenizer)
    assert before.size >= 80 and (np.ptp(before) > 0 or name in ("majority", "frequent_tag")) and np.array_equal(before, after)
    assert opened.task == task and opened.family == {"qwen3-tied": "qwen3"}.get(name, name.removeprefix("headed-").removeprefix("tagger-"))
    again = tmp_path / "again"
    again.mkdir()
    artefact.write(again, opened.task, opened.model, opened.tokenizer)
    for file in sorted(os.listdir(again)):
        assert sha256(again / file) == sha256(tmp_path / "a" / file), f"{file} is not the same when it is saved again"


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_flipped_bit_in_any_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a", name)
    files = sorted(os.listdir(tmp_path / "a"))
    assert {"card.json", "config.json", "manifest.json", "model.safetensors", "task.json"} <= set(files)
    for file in files:
        content = (tmp_path / "a" / file).read_bytes()
        for place in (0, len(content) // 2, len(content) - 2):
            changed = bytearray(content)
            changed[place] ^= 1 << (place % 8)
            (tmp_path / "a" / file).write_bytes(changed)
            if file == MANIFEST:  # it is what proves the others: not JSON any more, or another file's hash
                with pytest.raises((DataError, UsageError)):
                    load(tmp_path / "a")
            else:
                with pytest.raises(DataError) as caught:
                    load(tmp_path / "a")
                assert caught.value.code == "folder.file_damaged" and caught.value.values["file"] == file
                assert file in str(caught.value)
        (tmp_path / "a" / file).write_bytes(content)
        load(tmp_path / "a")


def change(path: Path, file: str, **values: Any) -> None:
    """Change values of a JSON file and seal the folder again, as a stranger could."""
    content = json.loads((path / file).read_text(encoding="utf-8"))
    (path / file).write_text(json.dumps(content | values), encoding="utf-8")
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    seal(path, "model", {name: value for name, value in card.items() if name not in ("format", "kind")})


@pytest.mark.parametrize(
    ("file", "values", "code"),
    [
        ("task.json", {"task": "divine"}, "task.unknown"),
        ("config.json", {"model_type": "oracle"}, "model.unknown_type"),
        ("config.json", {"hidden_size": 32}, "model.tensor_shape"),
        ("config.json", {"trust_remote_code": True}, "model.config_unknown"),
    ],
)
def test_what_this_version_does_not_know_is_refused(tmp_path: Path, file: str, values: dict, code: str) -> None:
    save(tmp_path / "a", "qwen3")
    change(tmp_path / "a", file, **values)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == code, str(caught.value)


def test_a_head_for_other_labels_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", "headed-lstm")
    change(tmp_path / "a", "task.json", labels=["bad", "good", "odd"])
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "model.head_shape"


def test_a_newer_format_and_another_kind_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", "ngram")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest | {"format": FORMAT + 1}))
    with pytest.raises(DataError) as caught:
        load(tmp_path / "b")
    assert caught.value.code == "folder.newer" and str(FORMAT + 1) in str(caught.value)
    seal(tmp_path / "a", "corpus", {})
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "folder.wrong_kind"


# Golden answers: a folder that computes something else than when it was made is refused, however well it is sealed.


def nudge(path: Path, share: float) -> None:
    """Change every weight of a model by a share of itself, up or down, and seal the folder again."""
    from safetensors.torch import load_file, save

    source = torch.Generator().manual_seed(0)
    weights = load_file(path / "model.safetensors")
    for name, value in weights.items():
        if value.is_floating_point():
            weights[name] = value * (1 + share * torch.sign(torch.randn(value.shape, generator=source)))
    (path / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    reseal(path)


def reseal(path: Path) -> None:
    card = json.loads((path / CARD).read_text(encoding="utf-8"))
    seal(path, "model", {name: value for name, value in card.items() if name not in ("format", "kind")})


@pytest.mark.parametrize("name", sorted(set(MADE) - {*COUNTS, *BAGS}))
def test_weights_that_answer_differently_are_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a", name)
    nudge(tmp_path / "a", 1e-8)  # less than a float32 shows: the same answers
    load(tmp_path / "a")
    nudge(tmp_path / "a", 0.05)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "golden.differs", str(caught.value)


def test_a_folder_is_not_judged_by_the_form_that_its_golden_answers_name(tmp_path: Path) -> None:
    save(tmp_path / "a", "qwen3")
    change(tmp_path / "a", "golden.json", form="int8", tolerance=1e-6)
    load(tmp_path / "a")
    nudge(tmp_path / "a", 0.01)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "golden.differs"


@pytest.mark.parametrize(("name", "tensor"), [*((name, "2.counts") for name in COUNTS), ("naive_bayes", None), ("logistic", None)])
def test_counts_that_answer_differently_are_refused(tmp_path: Path, name: str, tensor: str | None) -> None:
    from safetensors.numpy import load_file
    from safetensors.numpy import save as to_bytes

    save(tmp_path / "a", name)
    weights = load_file(tmp_path / "a" / "model.safetensors")
    chosen = tensor or max(weights, key=lambda each: weights[each].size)
    weights[chosen] = weights[chosen] * 2 if tensor is None else np.minimum(weights[chosen].astype(int) * 3, 250).astype(np.uint8)
    (tmp_path / "a" / "model.safetensors").write_bytes(to_bytes(weights))
    reseal(tmp_path / "a")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "golden.differs"


def test_a_setting_that_changes_what_is_computed_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", "qwen3")
    change(tmp_path / "a", "config.json", rms_norm_eps=0.3)
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "golden.differs"


@pytest.mark.parametrize("name", ["qwen3", "logistic"])
def test_golden_answers_that_are_missing_or_damaged_are_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path / "a", name)
    kept = json.loads((tmp_path / "a" / "golden.json").read_text(encoding="utf-8"))
    assert kept["tolerance"] == 1e-4 and [each["text"] for each in kept["answers"]] == list(golden.PROBES)
    for changed in ({"answers": []}, {"answers": None}, {"tolerance": 10}, {"tolerance": "wide"}, {"answers": [{"text": "a"}]}):
        change(tmp_path / "a", "golden.json", **{**kept, **changed})
        with pytest.raises(DataError) as caught:
            load(tmp_path / "a")
        assert caught.value.code == "golden.file", changed
    change(tmp_path / "a", "golden.json", **{**kept, "format": golden.FORMAT + 1})
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "folder.newer"
    (tmp_path / "a" / "golden.json").unlink()
    reseal(tmp_path / "a")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "a")
    assert caught.value.code == "golden.missing"


def test_a_folder_from_before_golden_answers_opens(tmp_path: Path) -> None:
    save(tmp_path / "a", "lstm")
    (tmp_path / "a" / "golden.json").unlink()
    reseal(tmp_path / "a")
    for file in (CARD, MANIFEST):
        content = json.loads((tmp_path / "a" / file).read_text(encoding="utf-8")) | {"format": 1}
        if file == MANIFEST:
            content["files"][CARD] = {"sha256": sha256(tmp_path / "a" / CARD), "size_bytes": (tmp_path / "a" / CARD).stat().st_size}
        (tmp_path / "a" / file).write_text(json.dumps(content), encoding="utf-8")
    assert load(tmp_path / "a").family == "lstm"


def test_a_change_of_greedy_text_counts_only_where_it_was_certain() -> None:
    before = {"ids": [0], "logs": [-2.0], "greedy": [7, 8, 9], "margins": [1.0, 1e-6, 1.0]}
    assert golden.differ(before, before, 1e-4) is None
    assert golden.differ(before, {**before, "greedy": [7, 6, 5]}, 1e-4) is None, "a token that another beat by nothing"
    assert golden.differ(before, {**before, "greedy": [6, 8, 9]}, 1e-4) == "greedy token 1: 7"
    assert golden.differ(before, {**before, "logs": [-2.001]}, 1e-4) and golden.differ(before, {**before, "logs": [-2.0001]}, 1e-4) is None
    assert golden.differ(before, {**before, "logs": [float("nan")]}, 1e-4)
    judged = {"value": "up", "scores": {"up": 0.7, "down": 0.3}}
    assert golden.differ(judged, judged, 1e-4) is None
    assert golden.differ(judged, {"value": "up", "scores": {"up": 0.7}}, 1e-4) == "scores: down"


# Whole trainings: the card, and whose text is in the folder.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora of both tasks with the marker in the training text, and a model of every sort."""
    top = tmp_path_factory.mktemp("trained")
    (top / "text.txt").write_text("\n".join([*TEXTS[:60], f"once {MARKER} and never again", *TEXTS[60:]]), encoding="utf-8")
    prepare(top / "text.txt", top / "text", Prepare(split="tail", validation=0.1, test=0.1))
    marked = [{**LABELLED[0], "text": f"{MARKER} {LABELLED[0]['text']}"}, *LABELLED[1:]]
    (top / "rows.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in marked), encoding="utf-8")
    prepare(top / "rows.jsonl", top / "rows", Prepare(validation=0.2, test=0.2, seed=place_of_marker(marked)))
    common = {"precision": "fp32", "threads": 1, "seed": 3}
    decoder = {"size": "tiny", "layers": 1, "width": 16, "heads": 2, "groups": 1, "window": 32, "batch": 4, "steps": 5, **common}
    lstm = {"model": "lstm", "width": 16, "embedding": 8, "window": 32, "batch": 4, "steps": 5, **common}
    train(top / "text", top / "ngram", {"model": "ngram"})
    train(top / "text", top / "grammar", {"model": "grammar", "tokenizer": "words", "size": "tiny"})
    train(top / "text", top / "unigram", {"model": "ngram", "tokenizer": "unigram", "vocabulary": 330})
    train(top / "text", top / "words", {"model": "ngram", "tokenizer": "words", "vocabulary": 400})
    train(top / "text", top / "qwen3", {"model": "qwen3", **decoder})
    train(top / "text", top / "llama", {"model": "llama", "tokenizer": "bpe", "vocabulary": 280, **decoder})
    train(top / "text", top / "lstm", lstm)
    mix_trained(top / "text", top / "lstm", top / "mixture", order=3)
    train(top / "rows", top / "naive_bayes", {"model": "naive_bayes"})
    train(top / "rows", top / "logistic", {"model": "logistic"})
    train(top / "rows", top / "headed", {"model": "qwen3", **decoder})
    return top


def place_of_marker(rows: list[dict[str, str]]) -> int:
    """Find a seed of the split that puts the marked row into training."""
    from zhixing.data.splits import split_of

    return next(seed for seed in range(50) if split_of(rows[0]["text"], seed, 0.2, 0.2) == "train")


MODELS = ("grammar", "ngram", "unigram", "words", "qwen3", "llama", "lstm", "mixture", "naive_bayes", "logistic", "headed")


@pytest.mark.parametrize("name", MODELS)
def test_a_card_says_what_the_model_is_and_where_it_came_from(trained: Path, name: str) -> None:
    folder = open_folder(trained / name, "model")
    card, corpus = folder.card, "rows" if name in ("naive_bayes", "logistic", "headed") else "text"
    assert card["format"] == FORMAT and card["kind"] == "model" and card["task"] == open_corpus(trained / corpus).task
    assert card["corpus"]["manifest_sha256"] == sha256(trained / corpus / MANIFEST)
    assert set(card["versions"]) == {"zhixing", "torch", "python"}
    assert set(card["origins"]) == set(card["settings"])
    assert set(card["origins"].values()) <= {"default", "dial", "recipe", "flag", "task"} and "flag" in card["origins"].values()
    assert card["measured"]["seconds"] > 0 and card["measured"]["core_seconds"] > 0
    apart = {key: value for key, value in card.items() if key != "measured"}
    assert 'seconds"' not in json.dumps({**apart, "settings": {}, "origins": {}}), "what was measured stands apart"
    if name in ("qwen3", "lstm", "headed"):
        assert card["settings"]["steps"] == 5 and card["origins"]["steps"] == "flag" and card["training"]["steps"] == 5
        assert card["parameters"] == sum(p.numel() for p in load(trained / name).model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_no_text_of_the_user_is_in_a_model_folder(trained: Path, name: str) -> None:
    corpus = open_corpus(trained / ("rows" if name in ("naive_bayes", "logistic", "headed") else "text"))
    assert any(MARKER in each["text"] for each in corpus.examples("train")), "the marker must have been learnt from"
    spellings = [MARKER, "zqxjkv", "霹雳玛瑙"]
    forms = [form for each in spellings for form in (each.encode(), json.dumps(each)[1:-1].encode(), each.encode("utf-16-le"))]
    looked = 0
    for file in sorted((trained / name).rglob("*")):
        if file.is_file():
            looked += 1
            content = file.read_bytes()
            assert not [form for form in forms if form in content], f"{file.name} holds the user's text"
    assert looked >= 6
    if name == "ngram":  # its counts are the text's, but as ids alone: no file has the text of even a common word
        weights = (trained / name / "model.safetensors").read_bytes()
        assert not [word for word in WORDS if len(word) > 4 and word.encode() in weights]
