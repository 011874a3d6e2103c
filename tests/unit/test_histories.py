"""Histories: rows of who, what and when become one history a user, whose last items are what is asked; and what is learnt from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zhixing import load, train
from zhixing.core.errors import DataError, UsageError
from zhixing.data.batch import pad
from zhixing.data.corpus import open_corpus
from zhixing.data.histories import Gathered, Time, cut
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog
from zhixing.models.items import Neighbours, followers
from zhixing.objectives.items import NextItem
from zhixing.preparation.prepare import Prepare, prepare
from zhixing.serving.asks import items_of
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models
from zhixing.tasks.recommend import Recommend, fit_ease, fit_followers, fit_neighbours, whole

WORDS = "user=who,items=what,time=when"
EVENTS = """who,what,when,stars
ann,a,30,1
bob,d,10,2
ann,b,10,3
bob,a,20,1
ann,c,20,5
ann,d,30,2
bob,b,20,4
bob,c,5,1
cat,a,1,1
cat,b,2,1
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def read(corpus: Path) -> dict[str, list[Any]]:
    opened = open_corpus(corpus)
    return {name: list(opened.examples(name)) for name, count in opened.counts.items() if count}


def test_rows_become_histories_whose_last_items_are_asked(tmp_path: Path) -> None:
    folder = prepare(write(tmp_path / "e.csv", EVENTS), tmp_path / "c", Prepare(task="recommend", columns=WORDS))
    assert read(tmp_path / "c") == {
        "train": [{"items": ["b"], "label": "c"}, {"items": ["c"], "label": "d"}],
        "validation": [{"items": ["b", "c"], "label": "a"}, {"items": ["c", "d"], "label": "a"}],
        "test": [{"items": ["b", "c", "a"], "label": "d"}, {"items": ["c", "d", "a"], "label": "b"}],
    }, "in order of time, rows of one time in their order"
    card = folder.card
    assert (card["rows_in"], card["rows_out"], card["rejected"]) == (10, {"cut": 8}, {"short_history": 2})
    rejected = [json.loads(line) for line in (tmp_path / "c" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(each["line"], each["reason"]) for each in rejected] == [(10, "short_history"), (11, "short_history")]
    assert open_corpus(tmp_path / "c").schema.as_dict() == Recommend.schema.as_dict()


def test_the_order_of_rows_does_for_time_and_no_validation_may_be_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "e.csv", EVENTS)
    prepare(source, tmp_path / "c", Prepare(task="recommend", columns="user=who,items=what", validation=0.0))
    found = read(tmp_path / "c")
    assert set(found) == {"train", "test"} and found["test"][0] == {"items": ["a", "b", "c"], "label": "d"}
    folder = prepare(source, tmp_path / "h", Prepare(task="recommend", columns=WORDS, split="hash", validation=0.3, test=0.3))
    every = [(*each["items"], each["label"]) for rows in read(tmp_path / "h").values() for each in rows]
    assert sorted(every) == [("a", "b"), ("b", "c", "a", "d"), ("c", "d", "a", "b")] and sum(folder.card["rows_out"].values()) == 10


def test_ready_histories_and_official_splits(tmp_path: Path) -> None:
    rows = [{"items": ["a", "b", 3, "d"]}, {"items": "a b c d e"}, {"items": ["a"]}]
    lines = write(tmp_path / "h.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    folder = prepare(lines, tmp_path / "c", Prepare(task="recommend"))
    found = read(tmp_path / "c")
    assert found["test"] == [{"items": ["a", "b", "3"], "label": "d"}, {"items": ["a", "b", "c", "d"], "label": "e"}]
    assert found["train"][1] == {"items": ["a", "b"], "label": "c"} and folder.card["rejected"] == {"short_history": 1}
    other = write(tmp_path / "t.jsonl", json.dumps({"items": ["x", "y"]}) + "\n")
    folder = prepare(lines, tmp_path / "o", Prepare(task="recommend", test_source=str(other)))
    found = read(tmp_path / "o")
    assert found["test"] == [{"items": ["x"], "label": "y"}] and found["validation"][0] == {"items": ["a", "b", "3"], "label": "d"}
    assert folder.card["rows_out"] == {"cut": 2, "test": 1}


def test_what_cannot_be_gathered_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "e.csv", EVENTS)
    with pytest.raises(DataError, match=r"10 rows were rejected.*4 items.*--columns user="):
        prepare(source, tmp_path / "c", Prepare(task="recommend", columns="items=what"))
    with pytest.raises(UsageError, match="hash"):
        prepare(write(tmp_path / "l.csv", "items,label\na b,c\n"), tmp_path / "c", Prepare(task="recommend", split="tail"))
    with pytest.raises(UsageError, match="whom"):
        prepare(source, tmp_path / "c", Prepare(task="recommend", columns="user=whom,items=what"))
    broken = write(tmp_path / "b.csv", EVENTS.replace("ann,c,20,5", "ann,c,soon,5"))
    with pytest.raises(DataError, match=r"b\.csv:6.*not_time"):
        prepare(broken, tmp_path / "c", Prepare(task="recommend", columns=WORDS))
    assert not (tmp_path / "c").exists()
    folder = prepare(broken, tmp_path / "c", Prepare(task="recommend", columns=WORDS, drop_bad=True))
    assert folder.card["rejected"] == {"not_time": 1, "short_history": 5} and folder.card["rows_out"] == {"cut": 4}


def test_times_are_numbers_or_dates() -> None:
    said = [Time().read(each)[0] for each in ("12", 12.5, "1970-01-01", "1970-01-01T01:00:00+01:00", "1970-01-02 00:00:01")]
    assert said == [12.0, 12.5, 0.0, 0.0, 86401.0]
    assert [Time().read(each)[1] for each in (None, "", "noon", True)] == ["no_time", "no_time", "not_time", "not_time"]


def test_histories_are_cut_and_gathered() -> None:
    assert cut(["a", "b"], ["train", "test"]) == {} and cut([], ["test"]) == {}
    assert cut(["a", "b"], ["test"]) == {"test": {"items": ["a"], "label": "b"}}
    gathered = Gathered()
    for user, item, time in [(1, "a", 2.0), (2, "b", 1.0), (1, "c", 1.0), (1, "d", 2.0)]:
        gathered.add(user, {"items": item, "time": time}, item)
    assert list(gathered) == [(1, ["c", "a", "d"], ["c", "a", "d"]), (2, ["b"], ["b"])]


def example(history: str) -> dict[str, Any]:
    *items, label = history
    return {"items": items, "label": label}


def test_a_history_is_learnt_once_though_it_stands_in_two_splits() -> None:
    rows = [example(each) for each in ("abc", "bca", "abcd", "ab", "abc", "xd")]
    task = Recommend.fit(rows)
    assert task.labels == tuple("abcdx") and task.vocabulary == 6
    kept = ["".join(task.labels[item] for item in each) for each in whole(task, rows)]
    assert sorted(kept) == sorted(["bca", "abcd", "abc", "xd"]), "abc began once more and ended; ab went on"


def test_an_item_is_the_target_of_the_place_before_it() -> None:
    task = Recommend(("a", "b", "c", "d"), longest=3)
    item = task.encode(example("abcd"), None)
    assert item["tokens"].tolist() == [0, 1, 2, 3] and item["targets"].tolist() == [1, 2, 3, 4], "all is learnt from, in pieces"
    item = task.encode(example("ab"), None)
    assert item["tokens"].tolist() == [0, 1] and item["targets"].tolist() == [1, 2]
    assert task.encode({"items": ["b", "new", "a"]}, None)["items"].tolist() == [1, 0]
    with pytest.raises(DataError, match="new"):
        task.encode({"items": ["a"], "label": "new"}, None)


def tiny(vocabulary: int) -> Any:
    torch.manual_seed(0)
    model = catalog.build({"model_type": "gru", "vocab_size": vocabulary, "embedding_dim": 8, "hidden_dim": 8})
    torch.nn.init.normal_(model.fc.weight)
    return model.eval()


@torch.no_grad()
def test_held_histories_are_judged_at_their_last_place() -> None:
    task = Recommend(tuple("abcdef"))
    rows = [example("abcd"), example("fe")]
    batch = {name: torch.as_tensor(value) for name, value in pad([task.encode(each, None) for each in rows], 0).items()}
    model = tiny(task.vocabulary)
    objective = NextItem(128)
    assert objective.weights(batch) == {"nats": 6.0} and objective.held.weights(batch) == {"nats": 2.0}
    logs = [model.logits(model.states(inputs_of(task, each))).log_softmax(-1)[0] for each in rows]
    nats = [-each.gather(1, torch.as_tensor(task.encode(row, None)["targets"])[:, None]) for each, row in zip(logs, rows, strict=True)]
    assert float(objective(model, batch)[0].total) == pytest.approx(float(sum(each.sum() for each in nats)), rel=1e-5)
    assert float(objective.held(model, batch)[0].total) == pytest.approx(float(sum(each[-1] for each in nats)), rel=1e-5)


@torch.no_grad()
def test_a_long_history_is_learnt_from_in_pieces_and_judged_by_its_newest_places() -> None:
    task = Recommend(tuple("abcdef"))
    batch = {name: torch.as_tensor(value) for name, value in pad([task.encode(example(each), None) for each in ("abcde", "fe")], 0).items()}
    model = tiny(task.vocabulary)

    def nats(before: str, items: str) -> float:
        tokens = [task.labels.index(each) + 1 if each != "." else 0 for each in (before + items)[:-1]]
        logs = model.logits(model.states(Inputs(torch.tensor([tokens])))).log_softmax(-1)[0]
        return -float(sum(logs[place, task.labels.index(item) + 1] for place, item in enumerate(items)))

    objective = NextItem(2)
    assert objective.weights(batch) == {"nats": 7.0}
    pieces = nats(".", "ab") + nats("b", "cd") + nats("d", "e") + nats(".", "fe")
    assert float(objective(model, batch)[0].total) == pytest.approx(pieces, rel=1e-5)
    last = nats("c", "de") - nats("c", "d") + nats(".", "fe") - nats(".", "f")
    assert float(objective.held(model, batch)[0].total) == pytest.approx(last, rel=1e-5)


def test_followers_are_what_came_near_and_after() -> None:
    histories = [[0, 1, 2, 3], [4, 0, 1], [3, 5]]
    near = followers(histories, 6, 0.5).toarray()
    assert near[0, 1] == near[0].max() and near[0, 1] > near[1, 0] > 0, "after counts more than before"
    assert near[0, 2] > near[0, 3] > 0 and near[0, 5] == near[5, 0] == 0, "nearer counts more, and nobody else's"
    assert near[0, 3] == pytest.approx(0.25 * 3**-0.5 * 3**-0.2)
    model = Neighbours.follow(histories, 6, decay=0.5, reach=0.5, share=0.0)
    scores = model.scores([[4, 0], [], [1, 1]])
    assert scores[0].argmax() == 1 and np.isneginf(scores[0][[0, 4]]).all() and not scores[1].any()
    again = catalog.restore(model.to_dict(), model.tensors())
    assert again.config == model.config and (again.scores([[3]]) == model.scores([[3]])).all()
    for wrong in ({"reach": 1.0}, {"reach": 0.0}, {"share": -1.0}, {"decay": 0.0}, {"neighbours": 0}):
        with pytest.raises(UsageError):
            Neighbours.follow(histories, 6, **wrong)
    with pytest.raises(DataError):
        Neighbours.follow([[]], 6)


def test_counted_models_choose_on_held_histories() -> None:
    rows = [example(each) for each in ("abcd", "bcde", "cdef", "defg", "efgh", "ghab", "habc")]
    held = [example(each) for each in ("fgha", "bc")]
    task = Recommend.fit(rows)
    for fit, names in ((fit_followers, ("reach", "decay", "share")), (fit_neighbours, ("decay",)), (fit_ease, ("strength", "last"))):
        told: list[str] = []
        _, model, found = fit(task, rows, held, {}, lambda *_, told=told, **said: told.append(said["setting"]))
        assert tuple(told) == names and all(getattr(model.config, name) == found[name] for name in names) and found["trials"]
        assert "trials" not in fit(task, rows, [], {}, print)[2], "nothing is chosen where nothing is held"
    assert fit_ease(task, rows, held, {"strength": 7.0}, lambda *_, **said: None)[1].config.strength == 7.0


def inputs_of(task: Recommend, row: dict[str, Any]) -> Any:
    return Inputs(torch.as_tensor(task.encode(row, None)["tokens"])[None])


def test_answers_are_new_items_the_best_first() -> None:
    task = Recommend(tuple("abcdefghijklmn"))
    model = tiny(task.vocabulary)
    histories = [["a", "b", "c"], [], ["n"], list("abcdefghijklm"), list("abcdefghijklmn"), ["unknown"]]
    items = [task.encode({"items": each}, None) for each in histories]
    answers = list(task.answers(model, items, None))
    for answer, history in zip(answers, histories, strict=True):
        scores = list(answer.scores.values())
        assert not set(answer.scores) & set(history) and scores == sorted(scores, reverse=True)
        assert len(scores) == min(10, 14 - len(set(history) & set(task.labels)))
        assert answer.value == next(iter(answer.scores), "") and answer.confidence == (scores[0] if scores else None)
    assert answers[3].scores == {"n": pytest.approx(1.0)} and answers[4].value == "", "nothing is left"
    assert answers[1] == answers[5], "what is not known is not read"
    alone = [next(task.answers(model, [each], None)) for each in items]
    for one, other in zip(alone, answers, strict=True):
        assert one.value == other.value and one.scores == pytest.approx(other.scores, rel=1e-5)


def test_the_figures_are_those_of_the_rank() -> None:
    from zhixing.tasks.task import Answer

    task = Recommend(tuple("abcd"))
    answers = [Answer("a", None, {"a": 3.0, "b": 2.0}), Answer("a", None, {"a": 3.0, "b": 2.0}), Answer("", None, {})]
    found = task.metrics(answers, [example("xb"), example("xc"), example("xa")])
    assert found["hit_10"].tolist() == [1, 0, 0] and found["ndcg_10"] == pytest.approx([1 / np.log2(3), 0, 0])


@pytest.mark.parametrize(("name", "family"), [("recommend", "qwen3"), ("recommend", "lstm"), ("trace", "gru"), ("trace", "gpt2")])
def test_any_causal_family_reads_histories(name: str, family: str, tmp_path: Path) -> None:
    rows = [{"items": [f"i{(start + step) % 9}" for step in range(start % 5 + 4)]} for start in range(24)]
    rows = [{**row, "correct": [len(row["items"]) % 2] * len(row["items"])} if name == "trace" else row for row in rows]
    write(tmp_path / "h.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    prepare(tmp_path / "h.jsonl", tmp_path / "c", Prepare(task=name, **({"validation": 0.2, "test": 0.2} if name == "trace" else {})))
    form = {"width": 16, "embedding": 16, "heads": 2, "groups": 1, "layers": 1, "window": 6, "batch": 8}
    folder = train(tmp_path / "c", tmp_path / "m", {"model": family, **form, "steps": 5, "threads": 1, "precision": "fp32"})
    assert folder.card["training"]["validation_nats"] > 0
    asked = [{"items": ["i1", "i2"]}, {"items": []}, {"items": [f"i{step % 9}" for step in range(20)]}]
    asked = [{**each, "correct": [1] * len(each["items"])} if name == "trace" else each for each in asked]
    found = load(tmp_path / "m").predict(asked)
    assert len(found) == 3 and (name == "recommend" or [len(each.value) for each in found] == [2, 0, 20])


def test_a_server_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    rows = [{"items": ["a", "b", "c"], "label": "d"}, {"items": ["b"], "label": "a"}, {"items": ["c", "d"], "label": "b"}]
    write(tmp_path / "h.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    prepare(tmp_path / "h.jsonl", tmp_path / "c", Prepare(task="recommend", validation=0.0, test=0.0))
    train(tmp_path / "c", tmp_path / "m", {"model": "popularity"})
    served = open_models([tmp_path / "m"])["m"]
    assert served.inputs()["properties"] == {"items": {"type": "array", "items": {"type": "string", "minLength": 1}}}
    said = served.outputs()["properties"]
    assert said["answer"]["enum"] == ["b", "a", "c", "d"] and said["scores"]["anyOf"][0]["additionalProperties"] == {"type": "number"}
    wrong = PredictRequest(model="m", rows=[{"items": ["a", ""]}])
    with pytest.raises(UsageError, match=r"rows\.0\.items"):
        items_of(wrong, served, Limits())
    train(tmp_path / "c", tmp_path / "e", {"model": "ease"})
    assert load(tmp_path / "e").predict([{"items": []}])[0].value == "b", "who has no history is told what is most frequent"
    (answer,) = served.artefact.predict([{"items": ["a", "b"]}])
    assert list(answer.scores.items()) == [("c", 2.0), ("d", 2.0)], "counts, equal ones in the order of their names"
