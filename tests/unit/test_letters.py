"""Sequences of letters: tagged letter by letter, and read by a bag as runs, gapped runs and runs with their places."""

import json
import random

import numpy as np
import pytest

from zhixing.core.log import quiet
from zhixing.models import bag
from zhixing.models.bag import Bag, BagConfig, read_features, readings_of
from zhixing.models.crf import CRF
from zhixing.tasks.classify import Classify, fit_bag
from zhixing.tasks.tag import Tag, fit_crf


def draw_text(source: random.Random, length: int = 80) -> str:
    return "".join(source.choices("ACGT", k=length))


def test_readings_are_for_long_runs_of_few_letters():
    source = random.Random(0)
    texts = [draw_text(source) for _ in range(20)]
    assert readings_of(texts) == bag.READINGS
    for other in ("ACGT", "an ordinary sentence of words that part", "千山鸟飞绝" * 10, "-" * 40, ""):
        assert readings_of([*texts, other]) == ("text",)
    assert readings_of(["".join(map(chr, range(0x400, 0x440)))]) == ("text",) and readings_of([]) == ("text",)


def slow(text: str, placed: bool) -> set[tuple]:
    """List a sequence's distinct features, one by one."""
    found = {("run", text[i : i + n]) for n in range(3, 8) for i in range(len(text) - n + 1)}
    found |= {("gap", g, text[i : i + 3], text[i + 3 + g : i + 6 + g]) for g in range(1, 7) for i in range(len(text) - 5 - g)}
    for i in range(len(text)) if placed else ():
        found |= {("exact", text[i : i + n], i) for n in (1, 2, 3) if i + n <= len(text)}
        found |= {("near", text[i : i + n], s, (i + s) // 20) for n in (2, 3, 4, 5) for s in (0, 10) if i + n <= len(text)}
    return found


@pytest.mark.parametrize("reading", ["letters", "places"])
def test_features_of_sequences_are_those_listed_one_by_one(reading):
    source = random.Random(1)
    texts = [draw_text(source, length) for length in (80, 31, 50)]
    rows, hashes = read_features(texts, BagConfig(2, reading=reading))
    for place, text in enumerate(texts):
        assert len(np.unique(hashes[rows == place])) == len(slow(text, reading == "places"))
        alone = read_features([f" {text.lower()}"], BagConfig(2, reading=reading))[1]
        np.testing.assert_array_equal(np.sort(alone), np.sort(hashes[rows == place]))
    short = read_features(["A", "", "AC"], BagConfig(2, reading=reading))
    assert len(short[0]) == (0 if reading == "letters" else 1 + 0 + 2 + 1 + 2)


def test_the_reading_is_chosen_on_validation_and_saved():
    source = random.Random(2)
    texts, labels = [], []
    for number in range(400):
        text = draw_text(source)
        place = 30 if number % 2 else 50  # the same word, here or there
        texts.append(text[:place] + "TATA" + text[place + 4 :])
        labels.append("here" if number % 2 else "there")
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    task, model, about = fit_bag(Classify.fit(rows), rows[:250], rows[250:300], {"method": "logistic"}, quiet)
    assert model.config.reading == about["reading"] == "places" and {each["reading"] for each in about["trials"]} == set(bag.READINGS)
    opened = Bag.from_tensors(json.loads(json.dumps(model.to_dict())), model.tensors())
    p = opened.probabilities(texts[300:])
    np.testing.assert_array_equal(p, model.probabilities(texts[300:]))
    assert np.mean([task.labels[k] == label for k, label in zip(p.argmax(1), labels[300:], strict=True)]) > 0.9
    plain = [{**each, "text": f"{each['text'][:30]} {each['text'][30:]}"} for each in rows]
    assert fit_bag(Classify.fit(plain), plain[:250], plain[250:300], {"method": "logistic"}, quiet)[1].config.reading == "text"


def test_a_text_that_comes_as_one_token_is_tagged_by_letters():
    source = random.Random(3)
    rows = []
    for _ in range(60):
        text = draw_text(source, 20)
        rows.append({"tokens": list(text), "tags": ["H" if letter in "AC" else "E" for letter in text]})
    task = Tag.fit(rows)
    assert task.letters and not Tag.fit([*rows, {"tokens": ["AC"], "tags": ["H"]}]).letters
    task, model, _ = fit_crf(task, rows, [], {}, quiet)
    answers = list(task.answers(model, [task.encode(each, None) for each in ({"tokens": ["ACGT"]}, {"tokens": list("ACGT")})], None))
    assert answers[0].value == answers[1].value == ["H", "H", "E", "E"]
    assert task.encode({"tokens": ["AC"], "tags": ["H"]}, None) == {"words": ["AC"]}


def test_letters_whose_tags_mark_no_spans_are_read_widely():
    source = random.Random(4)
    rows = []
    for _ in range(150):
        text = draw_text(source, 40)
        rows.append({"tokens": list(text), "tags": ["H" if place > 5 and text[place - 6] in "AC" else "E" for place in range(40)]})
    task, model, _ = fit_crf(Tag.fit(rows), rows[:100], rows[100:120], {}, quiet)
    assert model.config.around == 8 and CRF.from_tensors(json.loads(json.dumps(model.to_dict())), model.tensors()).config == model.config
    answers = list(task.answers(model, [task.encode({"tokens": each["tokens"]}, None) for each in rows[120:]], None))
    figure = task.figures["token_accuracy"](task.metrics(answers, rows[120:]))
    assert figure > 0.99
    spans = [{**each, "tags": [f"B-{tag}" for tag in each["tags"]]} for each in rows[:30]]
    assert fit_crf(Tag.fit(spans), spans, [], {}, quiet)[1].config.around == 2
