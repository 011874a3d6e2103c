"""The test of the design: a new task is one class and one line of a table, a new model is one class and one line; every verb then works.

Both are made here and nowhere else. They go from rows through prepare, train, evaluate and predict, by the command line.
"""

from __future__ import annotations

import json
import random
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zhixing import load
from zhixing.cli.app import main
from zhixing.data.schema import Number, Schema, Text
from zhixing.layers.heads import Pooled
from zhixing.layers.kinds import Inputs
from zhixing.metrics.figures import Figures, Mean
from zhixing.models import catalog
from zhixing.models.tables import Majority
from zhixing.objectives.numbers import SquaredGap
from zhixing.tasks.task import TASKS, Answer

HERE = "a_module_of_toys"


@dataclass(frozen=True)
class Count:
    """How many stars stand in a text.   text -> number"""

    longest: int = 64

    name: ClassVar[str] = "count"
    kinds: ClassVar[tuple[str, ...]] = ("encoder",)
    schema: ClassVar[Schema] = Schema({"text": Text(), "stars": Number()}, "stars")
    figures: ClassVar[Figures] = {"gap": Mean("gap", lower=True)}
    counted: ClassVar[dict[str, str]] = {"nothing": f"{HERE}:fit_nothing"}
    default: ClassVar[str] = "toy"
    dial: ClassVar[dict[str, Any]] = {"batch": 16, "learning_rate": 0.01, "dropout": 0.0}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[dict[str, Any]], **settings: Any) -> Count:
        return cls(**settings)

    def encode(self, example: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
        if tokenizer is None:
            return {"text": example["text"]}
        item = {"tokens": np.asarray([*tokenizer.encode(example["text"]), tokenizer.end_id][: self.longest], np.int64)}
        return item | ({"label": example["stars"] / 4} if "stars" in example else {})

    def head(self, width: int) -> nn.Module:
        return Pooled(width, 1)

    def objective(self, start: Any = None) -> Any:
        return SquaredGap()

    def answers(self, model: Any, items: Iterable[dict[str, Any]], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        for item in items:
            if hasattr(model, "probabilities"):
                yield Answer(2.0)
                continue
            with torch.inference_mode():
                yield Answer(float(model(Inputs(torch.as_tensor(item["tokens"])[None]))) * 4)

    def metrics(self, answers: list[Answer], examples: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return {"gap": np.array([abs(a.value - e["stars"]) for a, e in zip(answers, examples, strict=True)])}


def fit_nothing(task: Count, rows: list[Any], held: list[Any], settings: Any, tell: Any) -> tuple[Count, Any, dict[str, Any]]:
    return task, Majority.fit(np.array([0, 1]), 2), {}


class Toy(nn.Module):
    """A family of one table: the state of a place is its token's vector, squashed."""

    PLANS: ClassVar[dict[str, Any]] = {"toy": {size: {"width": 8} for size in ("tiny", "small", "medium", "large")}}
    kinds: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.width = config, config["width"]
        self.table = nn.Embedding(config["vocab_size"], self.width)

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        return {"model_type": "toy", "vocab_size": vocabulary, "width": settings.width}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Toy:
        return cls({name: value for name, value in config.items() if name != "architectures"})

    def to_dict(self) -> dict[str, Any]:
        return dict(self.config)

    def states(self, inputs: Inputs) -> Tensor:
        return self.table(inputs.tokens).tanh()


def run(*words: str) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main(list(words)) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_toy_task_and_a_toy_model_need_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    monkeypatch.setitem(TASKS, "count", f"{HERE}:Count")
    monkeypatch.setitem(catalog.MODELS, "toy", f"{HERE}:Toy")
    monkeypatch.setattr("zhixing.preparation.prepare.CHOICES", {"task": ("count",), "split": ("auto", "hash"), "repeats": ("auto",)})
    monkeypatch.chdir(tmp_path)
    draw = random.Random(2)
    texts = ["".join(draw.choices("ab*", (3, 3, 1), k=8)) + "*" * draw.randrange(3) for _ in range(500)]
    rows = [{"text": text, "stars": text.count("*")} for text in dict.fromkeys(texts)]
    Path("rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    run("prepare", "rows.jsonl", "corpus", "--task", "count", "--validation", "0.1", "--test", "0.2")
    run("train", "corpus", "model", "--steps", "150", "--threads", "1")
    capsys.readouterr()
    run("evaluate", "model", "corpus", "--json")
    figure = json.loads(capsys.readouterr().out)["figures"][0]
    assert figure["name"] == "gap" and figure["value"] < 0.8 * figure["rivals"]["nothing"]
    run("predict", "model", "rows.jsonl", "out.jsonl")
    answers = [json.loads(line)["answer"] for line in Path("out.jsonl").read_text().splitlines()]
    assert answers == [each.value for each in load("model").predict([each["text"] for each in rows])]
    run("train", "corpus", "least", "--model", "nothing")
    assert load("least").family == "majority"
