"""Tracing: each answer is judged from those before it alone, in pieces of long histories, by the same odds in training and in reading."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing.core.errors import DataError
from zhixing.data.batch import pad
from zhixing.data.corpus import open_corpus
from zhixing.data.schema import Flags, Items
from zhixing.metrics.labels import area_under_curve
from zhixing.models import catalog
from zhixing.models.histories import Practice
from zhixing.objectives.items import NextAnswer, before
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.tasks import golden
from zhixing.tasks.task import Answer
from zhixing.tasks.trace import Trace

TASK = Trace(tuple("abc"), longest=8)


def rows(count: int = 7, longest: int = 30) -> list[dict[str, Any]]:
    source = np.random.default_rng(0)
    sizes = source.integers(1, longest, count)
    return [{"items": list(source.choice(list("abc"), n)), "correct": source.integers(0, 2, n).tolist()} for n in map(int, sizes)]


def tiny(name: str = "gru") -> Any:
    torch.manual_seed(0)
    form = {"embedding_dim": 8, "hidden_dim": 8}
    if name == "qwen3":
        form = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                "head_dim": 8, "max_position_embeddings": 8}  # fmt: skip
    model = catalog.build({"model_type": name, "vocab_size": TASK.vocabulary, **form})
    torch.nn.init.normal_((model.fc if name == "gru" else model.lm_head).weight)
    return model.eval()


def chances(model: Any, examples: list[dict[str, Any]], task: Trace = TASK) -> list[np.ndarray]:
    return [np.array(each.value) for each in task.answers(model, [task.encode(row, None) for row in examples], None)]


def models() -> list[Any]:
    counted = [TASK.encode(each, None) for each in rows()]
    return [tiny("gru"), tiny("qwen3"), Practice.fit([each["items"] for each in counted], [each["correct"] for each in counted], 4)]


@pytest.mark.parametrize("model", models(), ids=["gru", "qwen3", "practice"])
def test_an_answer_depends_on_what_is_before_it_alone(model: Any) -> None:
    every = rows()
    p = chances(model, every)  # of histories that qwen3 has to read in pieces
    assert [len(each) for each in p] == [len(each["items"]) for each in every]
    for place in (0, 3, 9, 17):
        some = [each for each in every if len(each["items"]) > place]
        known = [{"items": each["items"][: place + 1], "correct": each["correct"][:place]} for each in some]
        for one, whole in zip(chances(model, known), chances(model, some), strict=True):
            assert one[-1] == pytest.approx(whole[place], abs=1e-5), "the last answer may be open"
    changed = [{**each, "correct": [*each["correct"][:-1], 1 - each["correct"][-1]]} for each in every]
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(p, chances(model, changed), strict=True))
    alone = [chances(model, [each])[0] for each in every]
    assert all(np.allclose(one, other, atol=1e-5) for one, other in zip(p, alone, strict=True))


def test_pieces_answer_every_place_once_with_half_of_them_before_it() -> None:
    for longest in (1, 2, 5, 8):
        for length in range(1, 40):
            found = list(Trace._pieces(length, longest))
            assert [place for _, last, first in found for place in range(first, last)] == list(range(length))
            assert all(0 <= start <= first and last - start <= longest for start, last, first in found)
            assert all(first - start >= longest // 2 for start, _, first in found[1:])


def test_the_objective_is_the_sum_of_what_is_read() -> None:
    task, model, every = Trace(tuple("abc"), longest=64), tiny(), rows()
    items = [task.encode(each, None) for each in every]
    batch = {name: torch.as_tensor(value) for name, value in pad(items, 0).items()}
    flags = [np.array(each["correct"]) for each in every]
    p = chances(model, every, task)
    wanted = -sum(np.log(np.where(flag > 0, each, 1 - each)).sum() for each, flag in zip(p, flags, strict=True))
    with torch.no_grad():
        assert float(task.objective()(model, batch)[0].total) == pytest.approx(wanted, rel=1e-5)
        parts = [NextAnswer(64)(model, {n: torch.as_tensor(v) for n, v in pad([each], 0).items()})[0].total for each in items]
        assert float(sum(parts)) == pytest.approx(wanted, rel=1e-5)
        open_end = [{**each, "correct": each["correct"][:-1]} for each in items]
        shorter = {name: torch.as_tensor(value) for name, value in pad(open_end, 0).items()}
        less = wanted + sum(np.log(each[-1] if flag[-1] else 1 - each[-1]) for each, flag in zip(p, flags, strict=True))
        assert float(NextAnswer(64)(model, shorter)[0].total) == pytest.approx(less, rel=1e-5)
    assert NextAnswer(64).weights(batch) == {"nats": float(sum(map(len, flags)))}
    loss = NextAnswer(8)(tiny("qwen3"), batch)[0].total  # pieces of 8, for which alone the model has places
    loss.backward()
    assert torch.isfinite(loss.detach()) and before(batch["items"], batch["items"] * 0).shape == batch["items"].shape


def test_the_figures_are_over_all_places() -> None:
    every = rows()
    answers = [Answer(list(each)) for each in chances(tiny(), every)]
    values = TASK.metrics(answers, every)
    p, flags = np.concatenate([each.value for each in answers]), np.concatenate([each["correct"] for each in every])
    figures = {name: figure(values) for name, figure in TASK.figures.items()}
    assert figures["auc"] == pytest.approx(area_under_curve(p, flags))
    assert figures["nats"] == pytest.approx(-np.log(np.where(flags > 0, p, 1 - p)).mean())
    assert figures["accuracy"] == pytest.approx(((p > 0.5) == (flags > 0)).mean())
    spread = TASK.figures["auc"].interval(values, 0)
    assert spread.low <= spread.value <= spread.high


def test_an_exercise_that_training_has_not_seen_is_one_more() -> None:
    assert TASK.encode({"items": ["b", "new", "other"], "correct": [1, 0]}, None)["items"].tolist() == [1, 3, 3]
    assert all(np.isfinite(each).all() for model in models() for each in chances(model, [{"items": ["new", "a"], "correct": [1]}]))
    assert chances(tiny(), [{"items": [], "correct": []}])[0].tolist() == []


@pytest.mark.parametrize(("items", "correct"), [(["a"], [1, 0]), (["a", "b", "c"], [1]), (["a"], [0.5])])
def test_what_is_no_history_is_refused(items: list[str], correct: list[Any]) -> None:
    with pytest.raises(DataError, match=f"{len(items)} items and {len(correct)} answers"):
        TASK.encode({"items": items, "correct": correct}, None)


def test_golden_answers_agree_up_to_the_tolerance() -> None:
    before = golden.ask(TASK, tiny(), None)
    assert any(len(set(each["value"])) > 2 for each in before), "what is asked are exercises that the task knows"
    near, far = ([{**each, "value": [p + gap for p in each["value"]]} for each in before] for gap in (5e-5, 5e-4))
    assert [golden.differ(one, other, 1e-4) for one, other in zip(before, near, strict=True)] == [None] * len(before)
    assert any(golden.differ(one, other, 1e-4) for one, other in zip(before, far, strict=True))


def test_flags_and_items_are_read_from_lists_and_texts() -> None:
    assert [Flags().read(each) for each in ([1, 0], "1 0", [True, "0"])] == [([1, 0], None)] * 3
    assert [Flags().read(each)[1] for each in (None, [2], "yes", 1, [0.5])] == ["no_flags", *["not_flags"] * 4]
    assert [Items().read(each) for each in (["a", 7], "a 7")] == [(["a", "7"], None)] * 2
    assert [Items().read(each)[1] for each in (None, 7, [""], [1.5], [True])] == ["no_items", *["not_items"] * 4]


def test_rows_whose_lists_do_not_fit_are_named(tmp_path: Path) -> None:
    table = [{"skills": ["a", "b"], "correct": [1, 0]}, {"skills": ["a", "b", "c"], "correct": [1]}, {"skills": ["b", "a"], "correct": [1]}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(each) + "\n" for each in table), encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.jsonl:2.*flags_count"):
        prepare(tmp_path / "t.jsonl", tmp_path / "c", Prepare(task="trace"))
    prepare(tmp_path / "t.jsonl", tmp_path / "c", Prepare(task="trace", drop_bad=True, validation=0.0, test=0.0))
    assert list(open_corpus(tmp_path / "c").examples("train")) == [
        {"items": ["a", "b"], "correct": [1, 0]},
        {"items": ["b", "a"], "correct": [1]},
    ]
