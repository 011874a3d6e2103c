"""What every task must hold: six methods and nothing inherited, settings that come back, an objective that sums, answers that are the same
from every door. A new task is one class and one line in the table: a toy task made here goes through the whole trainer."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import random
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from zhixing.cli.app import main
from zhixing.core.errors import DataError
from zhixing.core.log import RunLog
from zhixing.data.corpus import open_corpus
from zhixing.data.schema import Number, Schema, Text
from zhixing.data.stream import Rows
from zhixing.evaluation.evaluate import evaluate
from zhixing.layers.heads import Pooled
from zhixing.layers.kinds import Headed, Inputs
from zhixing.metrics.figures import Figures, Mean
from zhixing.models import catalog
from zhixing.objectives.loss import Term
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks.artefact import load
from zhixing.tasks.classify import SUPPORT, Classify, calibrate
from zhixing.tasks.embed import Embed
from zhixing.tasks.language import Language
from zhixing.tasks.task import TASKS, Answer, Task, from_dict, function, task_class, to_dict
from zhixing.tokens.tokenizer import train_characters
from zhixing.training import optim, trainer
from zhixing.training.checkpoint import Checkpoints
from zhixing.training.gradients import Gradients
from zhixing.training.settings import TOLD, settle
from zhixing.training.train import train

METHODS = {"fit", "encode", "head", "objective", "answers", "metrics"}
LABELS = ("bad", "good", "odd")
SIGNS = {"bad": "xq", "good": "yv", "odd": "zw"}
BODIES = {
    "qwen3": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
              "head_dim": 8, "max_position_embeddings": 32},
    "lstm": {"embedding_dim": 12, "hidden_dim": 16},
    "rnn": {"embedding_dim": 12, "hidden_dim": 16},
    "gru": {"embedding_dim": 12, "hidden_dim": 16},
    "feedforward": {"embedding_dim": 12, "hidden_dim": 16, "context": 4},
    "convolution": {"hidden_size": 16, "kernel_size": 3, "dilations": [1, 2]},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
}  # fmt: skip


def examples(count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Make texts whose label is a letter in them."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        label = draw.choice(LABELS)
        text = "".join(draw.choices("abc " + SIGNS[label] * 3, k=12)) + f" {number} 文"
        made.append({"text": text, "label": label, "number": float(sum(text.count(sign) for sign in SIGNS["good"]))})
    return made


TOKENIZER = train_characters([each["text"] for each in examples(200)])


@dataclass(frozen=True)
class Praise:
    """A task of one file and no table line: how many signs of praise a text has.   text -> number"""

    largest: float = 1.0

    name: ClassVar[str] = "praise"
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "causal")
    schema: ClassVar[Schema] = Schema({"text": Text(), "number": Number()}, "number")
    figures: ClassVar[Figures] = {"gap": Mean("gap")}
    counted: ClassVar[dict[str, str]] = {}
    default: ClassVar[str] = "lstm"
    eras: ClassVar[tuple[str, ...]] = ("lstm",)
    dial: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[dict[str, Any]], **settings: Any) -> Praise:
        return cls(largest=max(each["number"] for each in training_examples), **settings)

    def encode(self, example: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        return {"tokens": np.asarray(tokenizer.encode(example["text"]), np.int64), "label": example["number"] / self.largest}

    def head(self, width: int) -> nn.Module:
        return Pooled(width, 1)

    def objective(self, start: Any = None) -> Any:
        return SquaredGap()

    def answers(self, model: Any, items: Iterable[dict[str, Any]], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        for item in items:
            with torch.no_grad():
                yield Answer(float(model(Inputs(torch.as_tensor(item["tokens"])[None]))) * self.largest)

    def metrics(self, answers: list[Answer], examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return {"gap": -np.array([abs(a.value - e["number"]) for a, e in zip(answers, examples, strict=True)])}


@dataclass(frozen=True)
class SquaredGap:
    """The squared gap, summed over examples."""

    additive: bool = True

    def weights(self, batch: dict[str, Any]) -> dict[str, float]:
        return {"gap": float(len(batch["labels"]))}

    def __call__(self, model: nn.Module, batch: dict[str, Any]) -> tuple[Term, ...]:
        values = model(Inputs(batch["tokens"], lengths=batch["lengths"]))[:, 0]
        return (Term("gap", ((values - batch["labels"]) ** 2).sum()),)


EVERY = {**{name: task_class(name) for name in TASKS}, "praise": Praise}
CLASSES = {name: EVERY[name] for name in ("language", "classify", "embed", "praise")}  # that read one text; the others: test_flow.py
KINDS = {"encoder", "fusion", "vision", "towers", "document", "causal", "countable", "encoder_decoder", "tabular", "masked", "acoustic"}
KINDS |= {"speech_seq2seq"}


@pytest.fixture(params=sorted(CLASSES))
def cls(request: pytest.FixtureRequest) -> Any:
    return CLASSES[request.param]


@pytest.fixture
def task(cls: Any) -> Any:
    return cls.fit(examples())


def methods(cls: Any) -> set[str]:
    """Name a class's own public methods."""
    return {name for name, value in vars(cls).items() if not name.startswith("_") and (callable(value) or isinstance(value, classmethod))}


@pytest.mark.parametrize("cls", EVERY.values(), ids=EVERY)
def test_a_task_has_six_methods_and_nothing_inherited(cls: Any) -> None:
    assert methods(cls) == METHODS and cls.__bases__ == (object,)
    assert methods(Task) == METHODS, "the protocol itself"
    for name in METHODS:
        said, made = inspect.signature(getattr(Task, name)), inspect.signature(getattr(cls, name))
        assert list(said.parameters) == list(made.parameters), name
    assert isinstance(cls.name, str) and cls.kinds and isinstance(cls.schema, Schema)
    assert set(cls.kinds) <= KINDS
    own = {name for name in vars(cls) if not name.startswith("_")} - METHODS - {field.name for field in dataclasses.fields(cls)}
    assert own - {"vocabulary"} == set(Task.__annotations__), "what a task says of itself, no more and no less"
    assert cls.schema.told or not cls.figures or cls.name == "judge"
    assert all(callable(function(place)) for place in cls.counted.values() if place)
    trained = catalog.trained((*cls.kinds, "lexical"))
    assert not cls.default or cls.default in (*cls.counted, *trained)
    assert set(cls.eras) <= set(trained)
    assert cls.counted.keys() <= TOLD.keys(), "what a counted model may be told"


def test_the_table_is_keyed_by_name() -> None:
    assert {name: cls.name for name, cls in EVERY.items()} == {name: name for name in EVERY}


def test_a_task_is_frozen_and_comes_back_from_its_data(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in dataclasses.fields(task):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(task, field.name, None)
    monkeypatch.setitem(TASKS, "praise", f"{__name__}:Praise")
    monkeypatch.setattr("zhixing.tasks.task.task_class", EVERY.__getitem__)  # a test's module cannot be imported by name
    assert from_dict(json.loads(json.dumps(to_dict(task)))) == task


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="classify"):
        from_dict({"task": "clasify"})


def test_a_task_learns_from_the_training_examples_alone(cls: Any) -> None:
    """Fitting reads exactly the examples it is given, and each of them at most once."""
    read = []

    def once() -> Iterator[dict[str, Any]]:
        for each in examples():
            read.append(each)
            yield each

    fitted = cls.fit(once())
    assert fitted == cls.fit(iter(examples())) and read in ([], examples())
    if cls is Classify:
        assert fitted.labels == LABELS
        assert Classify.fit([each for each in examples() if each["label"] != "odd"]).labels == ("bad", "good")
        with pytest.raises(DataError):
            Classify.fit([each for each in examples() if each["label"] == "odd"])


def test_an_item_has_no_batch_axis(task: Any) -> None:
    for example in (examples()[0], {**examples()[0], "text": ""}):
        item = task.encode(example, TOKENIZER)
        assert item["tokens"].ndim == 1 and item["tokens"].dtype.kind == "i"
        assert all(np.ndim(value) == 0 for name, value in item.items() if name != "tokens")
    if isinstance(task, Classify):
        assert len(task.encode(examples()[0], TOKENIZER)["tokens"]) > 4
        assert len(dataclasses.replace(task, longest=4).encode(examples()[0], TOKENIZER)["tokens"]) == 4
        assert len(task.encode({"text": ""}, TOKENIZER)["tokens"]) == 1
        with pytest.raises(DataError, match="godo"):
            task.encode({"text": "x", "label": "godo"}, TOKENIZER)
    if isinstance(task, Language):
        assert item["tokens"][0] == TOKENIZER.end_id


def body(family: str) -> nn.Module:
    torch.manual_seed(0)
    return catalog.build({"model_type": family, "vocab_size": TOKENIZER.vocabulary_size, **BODIES[family]})


def vectors() -> nn.Module:
    torch.manual_seed(0)
    size = TOKENIZER.vocabulary_size
    return catalog.build({"model_type": "skipgram", "vocab_size": size, "word_count": size, "embedding_dim": 12})


def make(task: Any, family: str) -> nn.Module:
    """Make a model for a task: a body, and the task's head on it where it has one; vectors of words have a family of their own."""
    made = vectors() if isinstance(task, Embed) else body(family)
    head = task.head(made.width)
    made = made if head is None else Headed(made, head)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return made


def batch_of(task: Any, count: int = 12) -> dict[str, torch.Tensor]:
    items = [task.encode(each, TOKENIZER) for each in examples(count)]
    if isinstance(task, Embed):
        rows = np.stack([item["tokens"][:12] for item in items])
        arrays = {"words": rows, "texts": np.arange(12) // 5 + np.zeros_like(rows), "negatives": rows[:, ::-1][:, :7].copy()}
    elif "label" not in items[0]:
        rows = np.stack([item["tokens"][:12] for item in items])
        arrays = {"tokens": rows[:, :-1], "targets": rows[:, 1:].copy()}
        arrays["targets"][0, 3:] = -100
    else:
        arrays = Rows(items, count, 0, TOKENIZER.pad_id).batch(0)
    return trainer.to_tensors(arrays, torch.device("cpu"))


def gradient(task: Any, family: str, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    made = make(task, family)
    gradients = Gradients(made, task.objective(), "fp32", 0)
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    gradients.finish()
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", sorted(BODIES))
def test_micro_batches_equal_one_batch(task: Any, family: str) -> None:
    batch = batch_of(task)
    assert task.objective().additive
    whole = gradient(task, family, [batch])
    assert whole and max(float(value.abs().max()) for value in whole.values()) > 1e-3
    for sizes in ([4, 4, 4], [1, 11], [5, 4, 2, 1]):  # unequal ones too: a mean of means would show
        parts = zip(*(value.split(sizes) for value in batch.values()), strict=True)
        split = gradient(task, family, [dict(zip(batch, part, strict=True)) for part in parts])
        for name, value in whole.items():
            assert float((split[name] - value).abs().max()) <= 1e-5 * float(value.abs().max()) + 1e-8, name


def test_a_loss_is_the_sum_over_its_rows(task: Any) -> None:
    batch, made = batch_of(task), make(task, "lstm").eval()
    with torch.no_grad():
        whole = task.objective()(made, batch)[0].total
        alone = [task.objective()(made, {name: value[row : row + 1] for name, value in batch.items()})[0].total for row in range(12)]
    assert float(whole) == pytest.approx(float(sum(alone)), rel=1e-5)
    weights = task.objective().weights(batch)
    assert set(weights) == {term.name for term in task.objective()(made, batch)}


def test_perfect_answers_score_best_and_shuffled_ones_at_chance(task: Any) -> None:
    shown = examples(3000, seed=5)
    if isinstance(task, Language | Embed):
        assert task.metrics([], []) == {}  # judged by its objective
        return
    key = "label" if isinstance(task, Classify) else "number"

    def judge(values: list[Any]) -> dict[str, float]:
        said = [Answer(v, 1.0, {label: float(label == v) for label in LABELS} if key == "label" else None) for v in values]
        found = task.metrics(said, shown)
        assert all(value.shape == (len(shown),) for value in found.values()), "one value per example"
        return {name: float(value.mean()) for name, value in found.items()}

    truth = [each[key] for each in shown]
    mixed = random.Random(0).sample(truth, len(truth))
    best, chance = judge(truth), judge(mixed)
    if key == "label":
        shares = [truth.count(label) / len(truth) for label in LABELS]
        assert best["correct"] == 1 and best["nats"] == pytest.approx(0, abs=1e-9)
        assert chance["correct"] == pytest.approx(sum(share**2 for share in shares), abs=0.04) and chance["nats"] > 1
    else:
        assert best["gap"] == 0 and chance["gap"] < -0.5


@pytest.mark.parametrize("family", sorted(BODIES))
@pytest.mark.parametrize("name", ["classify", "praise"])
def test_a_headed_model_learns_through_the_one_trainer(tmp_path: Path, name: str, family: str) -> None:
    task = CLASSES[name].fit(examples(200))
    below = body(family)
    made = Headed(below, task.head(below.width))
    items = [task.encode(each, TOKENIZER) for each in examples(200)]
    stream = Rows(items, 16, 0, TOKENIZER.pad_id)
    held = [stream.batch(step) for step in range(4)]
    before = trainer.measure(made, task.objective(), held)
    settings = settle("classify", {"model": family, "learning_rate": 0.01, "matrix_rate": 0.02, "dropout": 0.0}).value
    log = RunLog(tmp_path / "run.jsonl")
    trainer.run(
        made, task.objective(), stream, trainer.Pace(40), optim.build(made, settings, False), seed=0,
        checkpoints=Checkpoints(tmp_path), log=log,
    )  # fmt: skip
    log.close()
    assert trainer.measure(made, task.objective(), held) < 0.6 * before
    fresh = examples(100, seed=9)
    if name == "classify":
        answers = list(task.answers(made.eval(), [task.encode(each, TOKENIZER) for each in fresh], TOKENIZER))
        assert task.metrics(answers, fresh)["correct"].mean() > 0.8
    else:
        answers = list(task.answers(made.eval(), [task.encode(each, TOKENIZER) for each in fresh], TOKENIZER))
        blind = [Answer(float(np.mean([each["number"] for each in fresh])))] * len(fresh)
        assert task.metrics(answers, fresh)["gap"].mean() > 0.7 * task.metrics(blind, fresh)["gap"].mean()


@pytest.mark.parametrize(("sure", "kept"), [(SUPPORT - 1, False), (SUPPORT, True)])
def test_a_threshold_needs_enough_validation_rows(sure: int, kept: bool) -> None:
    """A few confident rows that are right, and many that are guesses: precise on a handful is luck."""
    made = Classify(labels=("a", "b"))
    logits = np.zeros((sure + 200, 2))
    logits[:sure, 0], logits[sure:, 0] = 6.0, 0.1
    labels = np.concatenate([np.zeros(sure, int), np.arange(200) % 2])
    fitted = calibrate(made, logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), labels)
    assert set(fitted.thresholds) == set(fitted.support) == {"0.95", "0.98", "0.99"}
    assert all((value is not None) == kept for value in fitted.thresholds.values())
    assert set(fitted.support.values()) == {sure}
    assert from_dict(json.loads(json.dumps(to_dict(fitted)))) == fitted
    wrong = calibrate(made, logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), 1 - labels)
    assert set(wrong.thresholds.values()) == {None} and set(wrong.support.values()) == {0}
    old = {name: value for name, value in to_dict(fitted).items() if name != "support"}
    assert from_dict(old).thresholds == fitted.thresholds, "a folder of before opens"


# One answer, whatever the door: Python, `predict`, `evaluate`.


@pytest.mark.parametrize("model", ["logistic", "lstm"])
def test_the_same_answer_from_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    shown = [{"text": each["text"], "label": each["label"]} for each in examples(160, seed=3)]
    lines = [json.dumps(each, ensure_ascii=False) for each in shown]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(validation=0.2, test=0.3))
    form = {"steps": 6, "width": 16, "embedding": 8, "batch": 8, "window": 32, "precision": "fp32", "threads": 1}
    train(tmp_path / "corpus", tmp_path / "model", {"model": model, **(form if model == "lstm" else {})})
    opened = load(tmp_path / "model")
    items = [opened.task.encode({"text": each["text"]}, opened.tokenizer) for each in shown]
    answers = list(opened.task.answers(opened.model, items, opened.tokenizer))

    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(["predict", "model", "rows.jsonl", "out.csv"]) == 0
        capsys.readouterr()
        assert main(["evaluate", "model", "corpus", "--json"]) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    report = json.loads(capsys.readouterr().out)
    with open("out.csv", encoding="utf-8", newline="") as handle:
        predicted = list(csv.DictReader(handle))
    assert [each["answer"] for each in predicted] == [each.value for each in answers]
    assert [float(each["confidence"]) for each in predicted] == pytest.approx([each.confidence for each in answers], abs=2e-6)

    said = {each["text"]: answer.value for each, answer in zip(shown, answers, strict=True)}
    tested = list(open_corpus(tmp_path / "corpus").examples("test"))
    right = np.mean([said[each["text"]] == each["label"] for each in tested])
    accuracy = next(each["value"] for each in report["figures"] if each["name"] == "accuracy")
    assert accuracy == pytest.approx(right, abs=1e-12)
    assert evaluate(opened, tmp_path / "corpus", save=False).figure("accuracy").value == accuracy
