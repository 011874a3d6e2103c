"""What a model writes beside real text: where samples begin, and figures that a loop, a parrot and a breaker of form move."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from zhixing.evaluation import samples
from zhixing.evaluation.samples import find_places, judge_samples
from zhixing.metrics import intervals
from zhixing.tokens.tokenizer import train_bpe, train_characters

WORDS = [*"the old boat drifts along a quiet river while children count the stones 船 河 石 头 月".split(), "(all of them)"]


def lines(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=9)) for _ in range(count)]


TRAIN, TEST = lines(300, 1), lines(80, 2)
LONG = "\n".join(lines(600, 3))
TOKENIZER = train_characters(TRAIN)


def lay(tokenizer, texts: list[str]) -> np.ndarray:
    return np.concatenate([[tokenizer.end_id], *[np.append(tokenizer.encode(text), tokenizer.end_id) for text in texts]]).astype(np.int64)


class Follow:
    """A model that surely says what stood in a text after the longest of the last few tokens that stands there; a Countable kind."""

    def __init__(self, text: str, span: int = 12) -> None:
        self.vocabulary = TOKENIZER.vocabulary_size
        self.text = lay(TOKENIZER, [text]).tolist()
        self.next = {tuple(self.text[p - n : p]): self.text[p] for n in range(span + 1) for p in range(len(self.text) - 1, n - 1, -1)}
        self.span = span

    class Read:
        def __init__(self, texts: list[list[int]]) -> None:
            self.texts = texts

        def rows(self, index):
            return type(self)([self.texts[each] for each in index.tolist()])

        def join(self, other):
            return type(self)(self.texts + other.texts)

    def cache(self, rows: int):
        return self.Read([[] for _ in range(rows)])

    def log_probabilities(self, inputs, cache):
        logs = torch.full((len(cache.texts), self.vocabulary), -torch.inf)
        for row, new in enumerate(inputs.tokens.tolist()):
            cache.texts[row] += new
            spans = (tuple(cache.texts[row][-n:]) if n else () for n in range(self.span, -1, -1))
            logs[row, next(self.next[each] for each in spans if each in self.next)] = 0.0
        return logs


def judge(model, texts: list[str] = TEST, apart: bool = True, known=TRAIN, count: int = 40):
    figures, details = judge_samples(model, TOKENIZER, lay(TOKENIZER, texts), apart, known, count, lambda code, **values: None)
    return {each.name: each for each in figures}, details


def test_a_loop_is_seen() -> None:
    found, details = judge(Follow("river the old boat " * 60))
    assert found["repetition_4"].value > 0.8 > 0.1 > found["repetition_4"].rivals["held_out"]
    assert found["distinct_2"].value < 0.1 < 0.3 < found["distinct_2"].rivals["held_out"]
    assert details == {"count": 40, "longest": 200, "piece": 100, "run": 10, "openings": True}


def test_a_parrot_is_seen() -> None:
    found, _ = judge(Follow("\n".join(TRAIN[:60]), 40), known=["\n".join(TRAIN)])
    assert found["copied_10"].value > 0.95 and found["copied_10"].rivals["held_out"] < 0.05
    assert found["copied_10"].low > 0.9
    assert "copied_10" not in judge(Follow("a"), known=None)[0]


def test_broken_form_is_seen() -> None:
    found, _ = judge(Follow("boat) (of [a) ] stones " * 60))
    assert found["form_paired"].value < 0.3 and found["form_paired"].rivals["held_out"] == 1.0
    broken = "".join(chr(0xFFFD) if n % 50 == 9 else letter for n, letter in enumerate(" ".join(TRAIN)))
    tokens = lay(TOKENIZER, [broken])
    assert found["form_whole"].value == 1.0 and (tokens < 261).any()
    assert judge(Follow(broken))[0]["form_whole"].value < 0.2


def test_verse_is_asked_of_poems_only() -> None:
    draw = random.Random(4)
    poems = ["，".join("".join(draw.choices("船河石头月春风花", k=5)) for _ in range(4)) + "。" for _ in range(60)]
    prose = "。".join("".join(draw.choices("船河石头月春风花", k=draw.randint(2, 9))) for _ in range(90))
    found, _ = judge(Follow(prose), poems, known=poems)
    assert found["form_verse"].rivals["held_out"] == 1.0 and found["form_verse"].value < 0.3
    assert "form_verse" not in judge(Follow(prose))[0]
    assert "form_verse" not in judge(Follow(prose), ["\n".join(poems)], apart=False)[0]


def test_few_texts_have_no_intervals_and_none_no_figures() -> None:
    found, _ = judge(Follow("river the old boat " * 60), count=intervals.ENOUGH - 1)
    assert all(each.low is None for name, each in found.items() if not name.startswith("distinct"))
    assert judge(Follow("a"), count=0) == ({}, {}) and judge(Follow("a"), [], count=9) == ({}, {})
    assert judge(Follow("a"), TEST[:1], apart=False)[1] == {}
    silent, _ = judge(Follow(""))  # ends at once
    assert silent["repetition_4"].value is None and silent["copied_10"].value is None and silent["form_whole"].value == 1.0


def check_places(tokenizer, apart: bool, count: int) -> list[samples.Place]:
    """Assert that places lie in the text, apart from each other, never inside a character, and are followed by what is called real."""
    tokens = lay(tokenizer, TEST if apart else [LONG])
    places = find_places(tokens, tokenizer, apart, count)
    text = "".join(map(chr, tokens))  # a letter a token, to look stretches up in
    starts = []
    for each in places:
        whole = "".join(map(chr, [*each.prompt, *each.real]))
        starts.append(text.find(whole))
        assert starts[-1] >= 0
        assert 0 < len(each.real) <= samples.LONGEST and tokenizer.end_id not in each.real
        assert "\ufffd" not in tokenizer.decode(each.real)[: -1 if each.cut else None] and each.begun != apart
        assert each.cut == (text[starts[-1] + len(whole)] != chr(tokenizer.end_id))
        assert not apart or (each.prompt[0] == tokenizer.end_id and 1 < len(each.prompt))
    assert len(set(starts)) == len(places)
    assert apart or (np.diff(sorted(starts)) >= samples.LONGEST).all()
    return places


@pytest.mark.parametrize("apart", [True, False])
def test_places_are_in_the_text_and_whole(apart: bool) -> None:
    assert len(check_places(TOKENIZER, apart, 30)) == 30
    assert len(check_places(train_bpe(TRAIN[:2], 262), apart, 20)) == 20  # many characters are several tokens
    assert len(check_places(TOKENIZER, apart, 10**6)) == (len(TEST) if apart else (len(lay(TOKENIZER, [LONG])) - 64) // 200)


def test_samples_are_a_function_of_model_and_text() -> None:
    from zhixing.models.ngram import NGram

    model = NGram.count(lay(TOKENIZER, TRAIN), TOKENIZER.vocabulary_size, 4, 1)
    first, second = judge(model)[0], judge(model)[0]
    assert first == second and 0 < first["distinct_1"].value < 1
