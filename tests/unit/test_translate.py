"""Translation: what is encoded, answered and counted; figures are sacrebleu's own, made from summed counts."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zhixing.core.errors import UsageError
from zhixing.core.log import quiet
from zhixing.decoding.search import Beam
from zhixing.models import catalog
from zhixing.models.copying import Copy
from zhixing.objectives.tokens import NextToken
from zhixing.tasks import translate
from zhixing.tasks.task import Answer, from_dict, to_dict
from zhixing.tasks.translate import Translate, copied
from zhixing.tokens.tokenizer import train_characters

WORDS = "the small boat went past a round stone and nobody saw it there".split()


def pairs(count: int = 40, seed: int = 0) -> list[dict[str, str]]:
    """Make sentences and their words in reverse."""
    draw = np.random.default_rng(seed)
    made = [[WORDS[place] for place in draw.integers(0, len(WORDS), draw.integers(1, 9))] for _ in range(count)]
    return [{"source": " ".join(each), "target": " ".join(each[::-1]) + "."} for each in made]


TOKENIZER = train_characters([each["target"] for each in pairs()])


def near(rows: list[dict[str, str]], seed: int = 1) -> list[Answer]:
    """Make answers that are partly right; the first is empty."""
    draw = np.random.default_rng(seed)
    said = []
    for row in rows:
        words = row["target"].split()
        words[int(draw.integers(0, len(words)))] = "thing"
        said.append(Answer(" ".join(words[: int(draw.integers(1, 9))])))
    return [Answer(""), *said[1:]]


def test_an_item_is_a_source_and_a_shifted_target() -> None:
    task, row = Translate(), pairs()[0]
    item, end = task.encode(row, TOKENIZER), TOKENIZER.end_id
    assert item["source"].tolist() == [*TOKENIZER.encode(row["source"]), end]
    assert item["tokens"].tolist() == [end, *TOKENIZER.encode(row["target"])]
    assert item["targets"].tolist() == [*TOKENIZER.encode(row["target"]), end]
    asked = task.encode({"source": row["source"]}, TOKENIZER)
    assert asked["tokens"].tolist() == [end] and "targets" not in asked
    assert task.encode({"source": ""}, TOKENIZER)["source"].tolist() == [end]
    assert task.encode(row, None) == {"source": row["source"]}
    short = dataclasses.replace(task, longest=4).encode(row, TOKENIZER)
    assert {name: len(value) for name, value in short.items()} == {"source": 4, "tokens": 4, "targets": 4}
    assert short["source"][-1] == end and all(each.dtype == np.int64 for each in short.values())


@pytest.mark.parametrize(
    ("targets", "way"),
    [
        (["Ein Mann mit Hut.", "北京 is a city"], "13a"),
        (["一个戴帽子的男人。", "两只 dog 在跑"], "zh"),
        (["帽子をかぶった男の人がいる。"], "char"),
        (["ผู้ชายใส่หมวก"], "char"),
        (["", "12.5"], "13a"),
    ],
)
def test_the_targets_say_how_words_are_told_apart(targets: list[str], way: str) -> None:
    rows = [{"source": "x", "target": target} for target in targets]
    assert Translate.fit(iter(rows)).tokenize == way
    assert Translate.fit(rows, tokenize="char", beam=2) == Translate(tokenize="char", beam=2)


@pytest.mark.parametrize("way", ["13a", "zh", "char"])
def test_figures_are_those_of_sacrebleu(way: str) -> None:
    import sacrebleu

    rows = pairs() if way == "13a" else [{"source": "x", "target": "一个戴帽子的男人在跑步，两只 dog 看着他。"[: 9 + n]} for n in range(9)]
    said = near(rows) if way == "13a" else [Answer(row["target"][n % 3 :]) for n, row in enumerate(rows)]
    values = Translate(tokenize=way).metrics(said, rows)
    assert {name: value.shape for name, value in values.items()} == {
        "bleu": (len(rows), 10), "chrf": (len(rows), 18), "exact": (len(rows),)
    }  # fmt: skip
    texts, true = [answer.value for answer in said], [[row["target"] for row in rows]]
    expected = sacrebleu.corpus_bleu(texts, true, tokenize=way).score
    assert 1 < expected < 99
    assert Translate.figures["bleu"](values) == pytest.approx(expected, abs=1e-9)
    assert Translate.figures["chrf"](values) == pytest.approx(sacrebleu.corpus_chrf(texts, true).score, abs=1e-9)
    some = [3, 3, 5, 7, 1, 2]
    drawn = {name: value[some] for name, value in values.items()}
    expected = sacrebleu.corpus_bleu([texts[place] for place in some], [[true[0][place] for place in some]], tokenize=way).score
    assert Translate.figures["bleu"](drawn) == pytest.approx(expected, abs=1e-9), "as resampling asks"


def test_perfect_answers_score_best_and_shuffled_ones_at_chance() -> None:
    rows, task = pairs(), Translate()
    perfect = task.metrics([Answer(row["target"]) for row in rows], rows)
    shuffled = task.metrics([Answer(rows[place - 7]["target"]) for place in range(len(rows))], rows)
    for figure in (Translate.figures[name] for name in ("bleu", "chrf")):
        assert figure(perfect) == pytest.approx(100)
        assert figure(shuffled) < 60
    assert perfect["exact"].all() and not shuffled["exact"].all()
    assert next(iter(Translate.figures)) == "bleu"


def test_no_answers_are_judged_without_a_warning() -> None:
    rows = pairs(3)
    values = Translate().metrics([Answer("")] * 3, rows)
    assert Translate.figures["bleu"](values) == Translate.figures["chrf"](values) == 0


def test_a_missing_sacrebleu_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    translate.judges.cache_clear()
    with pytest.raises(UsageError) as caught:
        Translate().metrics([], [])
    assert "pip install 'zhixing[translate]'" in caught.value.text()
    monkeypatch.undo()
    translate.judges.cache_clear()


def test_a_copy_answers_with_the_source() -> None:
    rows, task = pairs(), Translate()
    fitted, model, about = copied(task, rows, [], {}, quiet)
    again = catalog.restore(json.loads(json.dumps(catalog.config(model))), catalog.tensors(model))
    assert isinstance(again, Copy) and fitted == task and about == {}
    items = [task.encode(row, None) for row in rows]
    assert [each.value for each in task.answers(again, iter(items), None)] == [row["source"] for row in rows]


def built(family: str):
    """Make a small model by the family's tiny plan, made smaller."""
    torch.manual_seed(0)
    form = {"layers": 1, "width": 32, "heads": 2, "embedding": 32, "dropout": 0.0}
    return catalog.build(catalog.configure(SimpleNamespace(model=family, **form), TOKENIZER.vocabulary_size, 96))


@pytest.mark.parametrize("family", ["mbart", "lstm_attention"])
def test_answers_are_those_of_the_search_in_the_order_of_the_items(family: str) -> None:
    task, model, rows = Translate(beam=2), built(family).eval(), pairs(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    items = [task.encode({"source": row["source"]}, TOKENIZER) for row in rows]
    answers = list(task.answers(model, iter(items), TOKENIZER))
    alone = [next(task.answers(model, iter([item]), TOKENIZER, Beam(2, 1.0, barred=TOKENIZER.barred))) for item in items]
    assert [each.value for each in answers] == [each.value for each in alone]
    assert all(isinstance(each.value, str) and 0 < each.confidence <= 1 and each.scores is None for each in answers)


def test_what_is_never_written_is_no_part_of_an_answer() -> None:
    task, model = Translate(beam=2), built("lstm_attention").eval()
    items = [task.encode({"source": row["source"]}, TOKENIZER) for row in pairs(3)]
    fewer = copy.copy(TOKENIZER)
    before = [each.value for each in task.answers(model, iter(items), TOKENIZER)]
    fewer.barred = tuple(sorted({*TOKENIZER.barred, *(id for each in before for id in TOKENIZER.encode(each).tolist())}))
    asked = [each.value for each in task.answers(model, iter(items), fewer)]
    beam = Beam(2, 1.0, barred=fewer.barred)
    assert asked == [each.value for each in task.answers(model, iter(items), TOKENIZER, beam)] != before


def test_a_few_pairs_are_learnt_by_heart_and_answered() -> None:
    """Encode, pad, train by the task's objective, answer, judge: the whole way."""
    task, model, rows = Translate(smoothing=0.05), built("mbart").train(), [each for each in pairs(30) if len(each["source"]) < 16][:4]
    items = [task.encode(row, TOKENIZER) for row in rows]
    objective = task.objective()
    assert objective == NextToken(smoothing=0.05)
    data: dict[str, torch.Tensor] = {"source_lengths": torch.tensor([len(item["source"]) for item in items])}
    for name, filler in (("source", 0), ("tokens", 0), ("targets", -100)):
        longest = max(len(item[name]) for item in items)
        data[name] = torch.tensor([[*item[name].tolist(), *[filler] * (longest - len(item[name]))] for item in items])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004)
    for _ in range(80):
        optimizer.zero_grad()
        (objective(model, data)[0].total / objective.weights(data)["nats"]).backward()
        optimizer.step()
    asked = [task.encode({"source": row["source"]}, TOKENIZER) for row in rows]
    answers = list(task.answers(model.eval(), asked, TOKENIZER))
    assert Translate.figures["bleu"](task.metrics(answers, rows)) > 90
    assert np.mean([each.confidence for each in answers]) > 0.8


def test_a_task_comes_back_from_its_data() -> None:
    task = Translate(longest=64, tokenize="zh", beam=3)
    assert from_dict(json.loads(json.dumps(to_dict(task)))) == task
