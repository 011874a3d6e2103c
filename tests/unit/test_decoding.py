"""Choosing tokens and writing rows: the filters against hand-made distributions, the machine against rows that are alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from zhixing.core.errors import UsageError
from zhixing.decoding.asking import Sampling, open_text
from zhixing.decoding.generate import Holder, Machine, generate, stream
from zhixing.decoding.sampling import CONTROL, choose, narrow
from zhixing.models import catalog
from zhixing.models.grammar import Grammar
from zhixing.models.ngram import NGram
from zhixing.tokens.tokenizer import train_characters

NONE = torch.empty(0, dtype=torch.long)
FREE = {"forbidden": ()}
TEXT = "the cat sat on the mat. 春眠不觉晓，处处闻啼鸟。"


@pytest.fixture(scope="module")
def tokenizer():
    return train_characters([TEXT] * 4)


def make(kind: str, tokenizer):
    """Make a model of any family over the tokenizer's vocabulary; the trained ones without zeros in their weights."""
    size = tokenizer.vocabulary_size
    if kind == "grammar":
        return Grammar.learn(np.concatenate([[1], tokenizer.encode(TEXT), [1]]), size, 5, 1)[0]
    if kind == "ngram":
        return NGram.count(np.concatenate([[1], tokenizer.encode(TEXT), [1]]), size, 3, 1)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    configs = {
        "qwen3": {"model_type": "qwen3", "vocab_size": size, **shape, "max_position_embeddings": 16},
        "lstm": {"model_type": "lstm", "vocab_size": size, "embedding_dim": 12, "hidden_dim": 14},
    }
    torch.manual_seed(5)
    model = catalog.build(configs[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


class Scripted:
    """A model that surely says one thing after each number of tokens read."""

    def __init__(self, vocabulary: int, script: list[int], prompt: int = 1) -> None:
        self.vocabulary, self.script, self.prompt = vocabulary, script, prompt

    def cache(self, rows: int):
        return self.Read([0] * rows)

    def log_probabilities(self, inputs, cache):
        log_probs = torch.full((len(cache.counts), self.vocabulary), -torch.inf)
        for row in range(len(cache.counts)):
            cache.counts[row] += inputs.tokens.shape[1]
            log_probs[row, self.script[cache.counts[row] - self.prompt]] = 0.0
        return log_probs

    class Read:
        def __init__(self, counts: list[int]) -> None:
            self.counts = counts

        def rows(self, index):
            return type(self)([self.counts[each] for each in index.tolist()])

        def join(self, other):
            return type(self)(self.counts + other.counts)


def scripted(tokenizer, ids: list[int]) -> Scripted:
    return Scripted(tokenizer.vocabulary_size, [int(each) for each in ids])


# --- choosing -------------------------------------------------------------------------------------------------------


def log(*p: float) -> torch.Tensor:
    return torch.tensor(p, dtype=torch.float64).log()


def kept(log_probs: torch.Tensor, **settings) -> list[float]:
    return [round(float(each), 6) for each in narrow(log_probs, Sampling(**{**FREE, **settings}), NONE).exp()]


def test_each_filter_keeps_what_it_says() -> None:
    p = log(0.5, 0.3, 0.15, 0.05)
    assert kept(p) == [0.5, 0.3, 0.15, 0.05]
    assert kept(p, top_k=0, top_p=1.0, min_p=0.0) == [0.5, 0.3, 0.15, 0.05]
    assert kept(p, top_k=2) == [0.625, 0.375, 0, 0]
    assert kept(p, top_k=99) == [0.5, 0.3, 0.15, 0.05]
    assert kept(p, top_k=2**65) == [0.5, 0.3, 0.15, 0.05]
    assert kept(p, top_p=0.5) == [1, 0, 0, 0]
    assert kept(p, top_p=0.51) == [0.625, 0.375, 0, 0]
    assert kept(p, top_p=1e-9) == [1, 0, 0, 0]
    assert kept(p, min_p=0.31) == [0.625, 0.375, 0, 0]
    assert kept(p, min_p=1.0) == [1, 0, 0, 0]
    assert kept(p, temperature=0) == [1, 0, 0, 0]
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert kept(p, temperature=0.5) == [round(float(each), 6) for each in squared / squared.sum()]
    assert kept(p, forbidden=(0, 3, 77)) == [0, round(2 / 3, 6), round(1 / 3, 6), 0]


def test_filters_apply_in_the_documented_order() -> None:
    """Temperature 0.5 squares the odds before top-p counts mass, and top-k renormalises before it."""
    p = log(0.5, 0.3, 0.15, 0.05)
    assert kept(p, top_p=0.6) == [0.625, 0.375, 0, 0]
    assert kept(p, top_p=0.6, temperature=0.5) == [1, 0, 0, 0]
    assert kept(p, top_p=0.62, top_k=2) == [1, 0, 0, 0]
    assert kept(p, min_p=0.5) == [0.625, 0.375, 0, 0]
    assert kept(p, min_p=0.5, temperature=0.5) == [1, 0, 0, 0]


def test_repetition_penalty_multiplies_the_log_probability_of_what_was_seen() -> None:
    p = log(0.5, 0.3, 0.2)
    sampling = Sampling(repetition_penalty=2.0, **FREE)
    found = narrow(p, sampling, torch.tensor([0, 0, 2])).exp()
    wanted = np.array([0.25, 0.3, 0.04])
    assert np.allclose(found, wanted / wanted.sum())
    assert choose(p, Sampling(repetition_penalty=2.0, temperature=0, **FREE), torch.tensor([0]), torch.Generator()) == 1


@given(
    numbers=some.lists(some.floats(-9, 9), min_size=2, max_size=12),
    temperature=some.floats(0, 3),
    top_k=some.none() | some.integers(0, 14),
    top_p=some.none() | some.floats(0.001, 1),
    min_p=some.none() | some.floats(0, 1),
    penalty=some.floats(0.5, 2),
    seed=some.integers(0, 1000),
)
def test_what_is_chosen_is_always_something_that_may_be(numbers, temperature, top_k, top_p, min_p, penalty, seed) -> None:
    log_probs = torch.tensor(numbers).log_softmax(-1)
    sampling = Sampling(temperature, top_k, top_p, min_p, penalty, forbidden=(0,))
    left = narrow(log_probs, sampling, torch.tensor([1]))
    assert float(left.exp().sum()) == pytest.approx(1)
    assert left[0] == -math.inf
    token = choose(log_probs, sampling, torch.tensor([1]), torch.Generator().manual_seed(seed))
    assert left[token] > -math.inf


def test_draws_follow_the_distribution() -> None:
    p, generator = log(0.5, 0.0, 0.3, 0.2), torch.Generator().manual_seed(1)
    counts = np.bincount([choose(p, Sampling(**FREE), NONE, generator) for _ in range(4000)], minlength=4)
    assert counts[1] == 0
    assert np.abs(counts / 4000 - [0.5, 0, 0.3, 0.2]).max() < 0.03


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", -0.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("max_tokens", 0),
        ("seed", -1),
        ("stop", ("",)),
        ("stop", "word"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**{name: value})
    assert caught.value.code == "sampling.range"
    assert name in caught.value.text()
    assert repr(value) in caught.value.text()


@pytest.mark.interop
def test_filters_equal_those_of_transformers() -> None:
    reason = "transformers is not installed: its filters cannot be compared with ours"
    transformers = pytest.importorskip("transformers", reason=reason)
    generator = torch.Generator().manual_seed(0)
    for settings in ({"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 20, "top_p": 0.9, "min_p": 0.05}):
        scores = torch.randn(1, 40, generator=generator).log_softmax(-1)
        history = torch.tensor([[3, 5, 3]])
        steps = [transformers.RepetitionPenaltyLogitsProcessor(1.3), transformers.TemperatureLogitsWarper(0.8)]
        makers = {"top_k": "TopKLogitsWarper", "top_p": "TopPLogitsWarper", "min_p": "MinPLogitsWarper"}
        steps += [getattr(transformers, makers[name])(value) for name, value in settings.items()]
        theirs = scores
        for step in steps:
            theirs = step(history, theirs)
        ours = narrow(scores[0], Sampling(temperature=0.8, repetition_penalty=1.3, **settings, **FREE), history[0])
        assert torch.allclose(theirs[0].log_softmax(-1).double().exp(), ours.exp(), atol=1e-6), settings


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen3", "lstm", "ngram", "grammar"])
def test_batched_equals_alone_and_streamed_equals_whole(kind, tokenizer) -> None:
    """Rows are admitted as others finish, the window of 16 slides, and still each row is what it is alone."""
    model, sampling = make(kind, tokenizer), Sampling(max_tokens=25, seed=4, top_p=0.95)
    prompts = ["the ", "", "春眠不", "cat sat on the mat. cat", "o"]
    together = generate(model, tokenizer, prompts, sampling, rows=3)
    for place, prompt in enumerate(prompts):
        alone = generate(model, tokenizer, [prompt], sampling, lane=place)[0]
        assert alone.tokens == together[place].tokens
        assert alone.text == together[place].text
        assert np.allclose(alone.log_probabilities, together[place].log_probabilities, atol=1e-4)
        events = list(stream(model, tokenizer, prompt, sampling, lane=place))
        assert "".join(event.text for event in events) == alone.text
        assert [event.finished for event in events] == [""] * (len(events) - 1) + [alone.finish_reason]
    assert len({tuple(each.tokens) for each in together}) == len(prompts)


@pytest.mark.parametrize("kind", ["qwen3", "lstm", "ngram", "grammar"])
def test_prompts_are_read_in_bounded_pieces_and_still_batched_equals_alone(kind, tokenizer, monkeypatch) -> None:
    """Prompts shorter and longer than one step reads, some while others write: no step reads more, and no row notices."""
    model, sampling = make(kind, tokenizer), Sampling(max_tokens=9, seed=6)
    prompts = ["the cat sat on the mat", "o", "", "春眠不觉晓，处处闻啼鸟。", "the", "cat sat", "mat"]
    whole = generate(model, tokenizer, prompts, sampling, rows=2)
    monkeypatch.setattr("zhixing.decoding.generate.READ", 6)
    read, ask = [], Machine._ask

    def counted(machine, inputs, cache):
        read.append(inputs.tokens.numel() if inputs.tokens.shape[1] > 1 or not machine._rows else 0)
        return ask(machine, inputs, cache)

    monkeypatch.setattr(Machine, "_ask", counted)
    for rows in (1, 3, 7):
        found = generate(model, tokenizer, prompts, sampling, rows=rows)
        assert [each.tokens for each in found] == [each.tokens for each in whole]
        assert [each.forgotten for each in found] == [each.forgotten for each in whole]
    assert 0 < max(read) <= 6
    monkeypatch.setattr("zhixing.decoding.generate.READ", 1000)
    generate(model, tokenizer, prompts, sampling)
    assert max(read) > 6  # the count sees a step that reads more


def test_rows_given_up_while_they_are_read_leave_nothing_behind(tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("zhixing.decoding.generate.READ", 4)
    model, sampling = make("qwen3", tokenizer), Sampling(max_tokens=5, seed=2)
    machine = Machine(model, tokenizer)
    first, second, third = (machine.admit(open_text(tokenizer, text), sampling) for text in ("the cat sat", "the", "cat sat on"))
    assert machine.step() == []  # a piece of the first prompt
    machine.retire(first, third)
    with pytest.raises(UsageError):
        machine.retire(first)
    written = []
    while machine.rows:
        written += machine.step()
    assert {event.row for event in written} == {second}
    assert [event.token for event in written] == generate(model, tokenizer, ["the"], sampling)[0].tokens


def test_events_tell_the_likeliest_tokens_that_were_asked_for(tokenizer) -> None:
    from zhixing.layers.kinds import Inputs, next_log_probabilities

    model, prompt = make("ngram", tokenizer), open_text(tokenizer, "the c")
    machine = Machine(model, tokenizer)
    tops = [0, 3, 10**6]
    for top in tops:
        machine.admit(prompt, Sampling(max_tokens=1, temperature=0, forbidden=(*CONTROL, 1)), top=top)
    log_probs = next_log_probabilities(model, Inputs(torch.tensor([prompt])), model.cache(1))[0]
    order = log_probs.argsort(descending=True, stable=True).tolist()
    for event, top in zip(machine.step(), tops, strict=True):
        assert len(event.top) == min(top, tokenizer.vocabulary_size)
        assert [value for _, value in event.top] == [float(log_probs[each]) for each in order[:top]]
        assert all(value == float(log_probs[token]) for token, value in event.top)
        assert event.log_probability == float(log_probs[event.token])


@pytest.mark.parametrize("kind", ["qwen3", "lstm", "ngram", "grammar"])
def test_rows_come_and_go_at_any_time(kind, tokenizer) -> None:
    model, sampling = make(kind, tokenizer), Sampling(max_tokens=12, seed=1)
    alone = {lane: generate(model, tokenizer, ["the c"], sampling, lane=lane)[0].tokens for lane in range(4)}
    machine, written = Machine(model, tokenizer), {}
    rows = {}
    for step in range(20):
        if step in (0, 1, 4):
            rows[machine.admit(open_text(tokenizer, "the c"), sampling, lane=len(rows))] = len(rows)
        if step == 6 and 1 in machine.rows:
            machine.retire(1)
        for event in machine.step():
            written.setdefault(event.row, []).append(event.token)
    assert machine.rows == []
    assert machine.step() == []
    assert written[0] == alone[0]
    assert written[2] == alone[2]
    assert written[1] == alone[1][: len(written[1])]
    with pytest.raises(UsageError):
        machine.retire(0)


def test_greedy_writing_is_the_argmax_of_uncached_reading(tokenizer) -> None:
    from zhixing.layers.kinds import Inputs, next_log_probabilities

    model = make("qwen3", tokenizer)
    read = open_text(tokenizer, "the")
    found = generate(model, tokenizer, ["the"], Sampling(temperature=0, max_tokens=10, forbidden=()))[0]
    for token, log_probability in zip(found.tokens, found.log_probabilities, strict=True):
        log_probs = next_log_probabilities(model, Inputs(torch.tensor([read])))[0]
        assert token == int(log_probs.argmax())
        assert log_probability == pytest.approx(float(log_probs[token]), abs=1e-5)
        read.append(token)


def test_a_text_that_outgrows_the_window_slides_and_says_so(tokenizer) -> None:
    from zhixing.layers.kinds import Inputs, next_log_probabilities

    model, read = make("qwen3", tokenizer), open_text(tokenizer, "the cat")
    found = generate(model, tokenizer, ["the cat"], Sampling(temperature=0, max_tokens=30, forbidden=(*CONTROL, 1)))[0]
    context, dropped = list(read), 0
    for token in found.tokens:
        if len(context) > 16:
            dropped += len(context) - 8
            context = context[-8:]
        log_probs = next_log_probabilities(model, Inputs(torch.tensor([context])))[0]
        assert token == int(log_probs.index_fill(0, torch.tensor([*CONTROL, 1]), -1e9).argmax())
        context.append(token)
    assert found.forgotten == dropped > 0
    long = generate(model, tokenizer, ["the cat sat on the mat"], Sampling(max_tokens=1))[0]
    assert long.forgotten == 23 - 8


def test_control_tokens_are_never_written_unless_asked(tokenizer) -> None:
    model = Scripted(tokenizer.vocabulary_size, [])
    logits = torch.tensor([[9.0, -9, 9, 9, 9] + [0.0] * (tokenizer.vocabulary_size - 5)])
    model.log_probabilities = lambda inputs, cache: logits.log_softmax(-1)
    written = generate(model, tokenizer, [""], Sampling(max_tokens=60, seed=2))[0].tokens
    assert not set(written) & set(CONTROL)
    asked = generate(model, tokenizer, [""], Sampling(max_tokens=60, seed=2, forbidden=()))[0].tokens
    assert set(asked) & set(CONTROL)


def test_the_end_token_ends_a_row_and_is_not_text(tokenizer) -> None:
    ids = [*tokenizer.encode("the cat"), tokenizer.end_id, *tokenizer.encode("sat")]
    found = generate(scripted(tokenizer, ids), tokenizer, [""], Sampling())[0]
    assert (found.text, found.finish_reason) == ("the cat", "end")
    assert found.tokens[-1] == tokenizer.end_id
    assert found.log_probabilities == [0.0] * 8


@pytest.mark.parametrize(
    ("stop", "text", "reason", "pieces"),
    [
        (("sat",), "the cat ", "stop", ["t", "h", "e", " ", "c", "a", "t", " ", "", "", ""]),
        (("cat sat", "at"), "the c", "stop", ["t", "h", "e", " ", "", "", "c"]),
        (("zebra", "ten"), "the cat sat", "end", None),
        (("at!",), "the cat sat", "end", ["t", "h", "e", " ", "c", "", "", "at ", "s", "", "", "at"]),
    ],
)
def test_a_stop_string_ends_the_text_before_it(stop, text, reason, pieces, tokenizer) -> None:
    ids = [*tokenizer.encode("the cat sat"), tokenizer.end_id]
    events = list(stream(scripted(tokenizer, ids), tokenizer, "", Sampling(stop=stop)))
    assert "".join(event.text for event in events) == text
    assert events[-1].finished == reason
    if pieces is not None:
        assert [event.text for event in events] == pieces


@given(
    pieces=some.lists(some.text("ab", max_size=3), max_size=12),
    stop=some.lists(some.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_text_held_back_is_cut_where_the_whole_text_would_be(pieces, stop) -> None:
    """The first stop string to be complete wins; what was shown never holds any part of it."""
    holder, shown, met = Holder(tuple(stop)), "", False
    for piece in pieces:
        out, met = holder.push(piece)
        shown += out
        if met:
            break
    else:
        shown += holder.flush()
    whole = "".join(pieces)
    assert met == any(each in whole for each in stop)
    assert whole.startswith(shown)
    if met:
        assert all(each not in shown for each in stop)
        assert any(whole[len(shown) :].startswith(each) for each in stop)
    else:
        assert shown == whole


def test_characters_are_shown_when_they_are_whole(tokenizer) -> None:
    """龘 is no token, so it is three bytes; a text cut inside it ends with the replacement character."""
    ids = [int(each) for each in tokenizer.encode("春龘")]
    assert len(ids) == 4
    events = list(stream(scripted(tokenizer, [*ids, tokenizer.end_id]), tokenizer, "", Sampling()))
    assert [event.text for event in events] == ["春", "", "", "龘", ""]
    cut = generate(scripted(tokenizer, ids), tokenizer, [""], Sampling(max_tokens=3))[0]
    assert (cut.text, cut.finish_reason) == ("春\ufffd", "length")
    stopped = generate(scripted(tokenizer, ids), tokenizer, [""], Sampling(stop=("龘",)))[0]
    assert (stopped.text, stopped.finish_reason) == ("春", "stop")


def test_ids_are_taken_as_they_stand_and_nothing_is_no_prompt(tokenizer) -> None:
    model = make("qwen3", tokenizer)
    ids = open_text(tokenizer, "the")
    sampling = Sampling(temperature=0, max_tokens=5)
    assert generate(model, tokenizer, [np.array(ids)], sampling) == generate(model, tokenizer, ["the"], sampling)
    with pytest.raises(UsageError) as caught:
        generate(model, tokenizer, [[]], Sampling())
    assert caught.value.code == "generate.empty_prompt"


def test_writing_leaves_training_as_it_was(tokenizer) -> None:
    model = make("lstm", tokenizer).train()
    generate(model, tokenizer, ["the"], Sampling(max_tokens=3))
    assert model.training
