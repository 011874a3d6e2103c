"""Grades of questions whose scales differ: each on its own, and kappa the mean over them."""

import json
import random

import numpy as np
import pytest

from zhixing.core.log import quiet
from zhixing.metrics import grades
from zhixing.models import catalog
from zhixing.tasks.grade import OWN_ROWS, SHARED, Grade, fit_mean, fit_ridge, mark, scale_of
from zhixing.tasks.task import Answer, from_dict, to_dict

WORDS = ("sun", "moon", "star", "sky", "fog", "rain")


def make(question: str, count: int, most: int, step: float = 1.0, seed: int = 0) -> list[dict]:
    """Draw answers worth a point a word, on a scale from 0 to `most`; another question wants the other half of the words."""
    draw = random.Random(f"{question}{seed}")
    rows = []
    for _ in range(count):
        said = draw.sample(WORDS, draw.randrange(len(WORDS) + 1))
        worth = [each for each in said if (each < "s") == (question < "b")]
        rows.append({"text": " ".join(said), "question": question, "score": step * round(most / step * len(worth) / 3)})
    return rows


def test_scales_are_read_from_questions_that_are_frequent():
    rows = make("a", OWN_ROWS, 12) + make("b", OWN_ROWS, 3, 0.5) + make("c", 10, 2)
    task = Grade.fit(rows)
    first, second = mark(rows[0]), mark({"question": "b"})
    assert task.scales == {first: [0, 12, 4], second: [0, 3, 1]} and (task.low, task.high, task.step) == (0, 12, 1)
    assert scale_of(task, {"question": "c"}) == scale_of(task, {}) == (0, 12, 1)
    assert task.encode({"text": "", "question": "b", "score": 3.0}, None)["label"] == 1
    assert from_dict(json.loads(json.dumps(to_dict(task)))) == task
    assert not Grade.fit(make("a", OWN_ROWS, 3) + make("b", OWN_ROWS, 3)).scales, "one scale is shared"
    assert not Grade.fit(make("a", OWN_ROWS, 3) + make("b", OWN_ROWS - 1, 12)).scales, "too few to know"


def test_every_question_is_graded_on_its_own_scale(tmp_path):
    rows = [*make("a", 80, 12), *make("b", 80, 3), *make("c", 5, 2)]
    task = Grade.fit(rows)
    test = make("a", 40, 12, seed=1) + make("b", 40, 3, seed=1) + make("d", 4, 2)
    items = [task.encode(each, None) for each in test]
    values = {}
    for fit in (fit_mean, fit_ridge):
        task, model, about = fit(task, rows, make("a", 20, 12, seed=2), {}, quiet)
        opened = catalog.restore(json.loads(json.dumps(catalog.config(model))), catalog.tensors(model))
        answers = list(task.answers(opened, items, None))
        values[fit] = task.metrics(answers, test)
        assert {each.value for each in answers[40:80]} <= {0, 1, 2, 3}
    assert set(about["strength"]) == {*task.scales, SHARED}
    kappa = {fit: task.figures["kappa"]({name: each[:80] for name, each in found.items()}) for fit, found in values.items()}
    assert kappa[fit_ridge] > 0.9 > kappa[fit_mean] + 0.5
    assert np.bincount(values[fit_ridge]["scale"]).tolist() == [4, 40, 40] and values[fit_ridge]["unseen"].sum() == 4


def test_kappa_is_the_mean_over_the_scales():
    draw = np.random.default_rng(0)
    scale = np.repeat([0, 1], 200)
    expected, given = draw.integers(0, 4, (2, 400)) + 20 * scale
    assert grades.quadratic_kappa(expected, given) > 0.9, "of two scales together it is high for nothing"
    apart = [grades.quadratic_kappa(expected[scale == each], given[scale == each]) for each in (0, 1)]
    assert grades.mean_kappa(expected, given, scale) == pytest.approx(np.mean(apart)) and abs(np.mean(apart)) < 0.15
    assert grades.mean_kappa(np.array([1, 1]), np.array([1, 1]), np.array([0, 1])) != grades.mean_kappa(expected, given, scale)
    assert grades.mean_kappa(expected, given, scale * 0) == grades.quadratic_kappa(expected, given)


def test_kappa_of_a_grader_that_always_says_the_same_is_exactly_none():
    draw = np.random.default_rng(0)
    for count in range(3, 60):
        expected = draw.integers(0, 5, count)
        assert grades.quadratic_kappa(expected, np.full(count, 2)) == 0, "a rounding's worth lies outside of an interval of zeros"
        assert grades.quadratic_kappa(expected, expected) == 1
    assert np.isnan(grades.quadratic_kappa(np.full(4, 2), np.full(4, 2))) and grades.quadratic_kappa(np.full(4, 1), np.full(4, 2)) == 0


def test_an_answer_is_rounded_to_a_step_of_its_question():
    task = Grade.fit(make("a", OWN_ROWS, 12) + make("b", OWN_ROWS, 3))
    examples = [{"question": "a", "score": 8.0}, {"question": "b", "score": 3.0}]
    found = task.metrics([Answer(4.0), Answer(3.0)], examples)
    assert found["expected"].tolist() == [2, 3] and found["given"].tolist() == [1, 3] and found["gap"].tolist() == [4, 0]
