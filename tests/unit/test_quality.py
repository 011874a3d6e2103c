"""Figures of written text: each against a count by hand, and each red on the text that it is there to find."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from zhixing.metrics import quality

POEM = "床前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。"


def test_units_are_words_characters_and_marks() -> None:
    assert quality.units("Don't stop: 学而时习之， it’s 3.5\n(ok)") == [
        "Don't", "stop", ":", "学", "而", "时", "习", "之", "，", "it’s", "3", ".", "5", "(", "ok", ")",
    ]  # fmt: skip
    assert quality.units("abc学d") == ["abc", "学", "d"] and quality.units(" \n") == []


def test_a_loop_repeats_itself_and_varied_text_does_not() -> None:
    loop, varied = "the sea the sea the sea the sea".split(), "the old sea sings of a boat and the stones".split()
    assert quality.repetition(loop) == 1 - 2 / 5 and quality.repetition(varied) == 0
    assert quality.distinct(loop, 1) == 2 / 8 and quality.distinct(loop, 2) == 2 / 7 and quality.distinct(varied, 1) == 9 / 10
    assert quality.repetition(["a"] * 200) == 1 - 1 / 197
    assert quality.repetition(["a"] * 3) is None and quality.distinct([], 1) is None


def test_variety_is_compared_at_one_length() -> None:
    draw = random.Random(1)
    text = draw.choices([str(n) for n in range(300)], k=4000)
    assert quality.distinct(text, 1) < 0.1 < 0.8 < quality.distinct(text[:100], 1)
    cut = quality.pieces([text[:150], [], text[150:1190]], 100)
    assert [len(each) for each in cut] == [100] * 11 and [unit for each in cut for unit in each] == text[:1100]
    assert quality.pieces([text[:99]], 100) == []


def slowly(texts: list[list[str]], known: list[list[str]], run: int) -> list[list[bool]]:
    """Mark copied units by looking every run up in every known text."""
    grams = {tuple(text[place : place + run]) for text in known for place in range(len(text) - run + 1)}
    marks = []
    for text in texts:
        mark = [False] * len(text)
        for place in range(len(text) - run + 1):
            if tuple(text[place : place + run]) in grams:
                mark[place : place + run] = [True] * run
        marks.append(mark)
    return marks


words = some.lists(some.sampled_from("a b c 学 ,".split()), max_size=14)


@given(texts=some.lists(words, max_size=3), known=some.lists(words, max_size=4), run=some.integers(1, 5), at_once=some.integers(1, 9))
def test_copied_runs_are_those_of_a_slow_search(texts, known, run, at_once) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "READ_AT_ONCE", at_once)
        found = quality.copied(texts, [" ".join(text) for text in known], run)
    assert [each.tolist() for each in found] == slowly(texts, known, run)


def test_a_parrot_is_found_out() -> None:
    draw = random.Random(2)
    known = [" ".join(draw.choices([f"w{n}" for n in range(500)], k=300)) for _ in range(3)]
    parrot = quality.units(known[1])[50:250]
    shuffled = draw.sample(parrot, len(parrot))
    half = parrot[:100] + shuffled[:100]
    found = quality.copied([parrot, shuffled, half, []], known, 10)
    assert [float(each.mean()) for each in found[:3]] == [1.0, 0.0, 0.5] and found[3].dtype == np.bool_
    assert [float(each.mean()) for each in quality.copied([parrot, shuffled], [], 10)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "begun", "cut", "right"),
    [
        ("He said: “Come (now)!” 他说：「来《春》吧」。", False, False, True),
        ('"yes" (no) ["both"]', False, False, True),
        ("it's a dog's ’tis", False, False, True),
        ("(open", False, False, False),
        ("(open", False, True, True),
        ("closed)", False, False, False),
        ("closed)", True, False, True),
        ("(a]", True, True, False),
        (")(", False, True, False),
        ('"odd', False, False, False),
        ('("crossed) it"', False, False, False),
        ("「『』", True, False, False),
        ("", False, False, True),
    ],
)
def test_brackets_and_quotes(text, begun, cut, right) -> None:
    assert quality.paired(text, begun, cut) is right


def test_shuffled_brackets_are_out_of_form() -> None:
    draw = random.Random(3)
    right = "(a [b] c) {d} “e” "
    assert quality.paired(right * 4, False, False)
    wrong = ["".join(draw.sample(right * 4, len(right * 4))) for _ in range(20)]
    assert not any(quality.paired(each, False, False) for each in wrong)


def test_broken_characters_and_verse() -> None:
    assert quality.whole("好", False, False) and not quality.whole("�好", False, True)
    assert quality.whole("好�", False, True) and not quality.whole("好�", False, False)
    assert quality.verse(POEM, False, False) and quality.verse(POEM + "\n春眠不", False, True)
    assert quality.verse("風急天高猿嘯哀，渚清沙白鳥飛迴。", False, False)
    for wrong in (POEM + "\n春眠不", POEM.replace("床", ""), "春眠不覺曉", "", "春眠曉，聞啼鳥。夜雨聲，花落了。"):
        assert not quality.verse(wrong, False, False), wrong
    assert list(quality.FORMS) == ["paired", "whole", "verse"]
