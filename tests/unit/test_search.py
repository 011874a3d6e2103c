"""Beam search: exact when it keeps everything, greedy when it keeps one, the same alone and side by side."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from zhixing.core.errors import UsageError
from zhixing.decoding.search import Beam, limit, search
from zhixing.layers.kinds import Inputs, next_log_probabilities
from zhixing.models import catalog

END = 1
PAIR = {
    "model_type": "mbart", "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
}  # fmt: skip
FAMILIES = {
    "mbart": PAIR,
    "lstm_attention": {"model_type": "lstm_attention", "embedding_dim": 8, "hidden_dim": 12},
    "lstm": {"model_type": "lstm", "embedding_dim": 8, "hidden_dim": 12},
}


def make(name: str, vocabulary: int = 20, seed: int = 3):
    """Make a model that prefers some tokens to others."""
    torch.manual_seed(seed)
    model = catalog.build({**FAMILIES[name], "vocab_size": vocabulary})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.6 * torch.randn(parameter.shape))
    return model.eval()


def given(name: str, count: int = 7) -> tuple[list[list[int]], list[list[int]] | None]:
    """Make prompts and, where the model reads them, sources."""
    draw = torch.Generator().manual_seed(2)
    texts = [torch.randint(2, 20, (1 + 3 * row % 8,), generator=draw).tolist() for row in range(count)]
    return ([END, *text] for text in texts) if name == "lstm" else [[END]] * count, None if name == "lstm" else texts


def log_probability(model, prompt: list[int], source: list[int] | None, text: list[int]) -> float:
    """Give log p of a text, read all at once."""
    beside = None if source is None else Inputs(torch.tensor([source]))
    read = torch.tensor([[*prompt, *text]])
    with torch.no_grad():
        logs = model.logits(model.states(Inputs(read[:, :-1], source=beside))).double().log_softmax(-1)[0]
    return sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(text))


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_a_beam_that_keeps_everything_finds_the_optimum(name: str, alpha: float) -> None:
    """Brute force over every text of a vocabulary of five and at most four tokens."""
    model = make(name, 5)
    prompts, sources = [[END, 2]], None if name == "lstm" else [[3, 4, 2]]
    beam = Beam(width=5**4, alpha=alpha, ratio=0.0, extra=4)
    texts = [(*head, END) for size in range(4) for head in itertools.product((0, 2, 3, 4), repeat=size)]
    source = None if sources is None else sources[0]
    scores = {text: beam.score(log_probability(model, prompts[0], source, list(text)), len(text)) for text in texts}
    best = max(scores, key=scores.__getitem__)
    (found,) = search(model, prompts, END, beam, sources)
    assert tuple(found.tokens) == best and found.ended
    assert found.score == pytest.approx(scores[best], abs=1e-5)
    narrow = search(model, prompts, END, Beam(1, alpha, 0.0, 4), sources)[0]
    assert narrow.score <= found.score + 1e-9 or not narrow.ended


@pytest.mark.parametrize("offset", [-1, 0])
def test_an_average_of_tokens_and_barred_ones_find_their_own_optimum(offset: int) -> None:
    model, kept = make("mbart", 5), [3, 4, 2]
    beam = Beam(width=5**4, alpha=1.0, offset=offset, ratio=0.0, extra=4, barred=(0,), unopened=(END, 3))
    texts = [(*head, END) for size in range(1, 4) for head in itertools.product((2, 3, 4), repeat=size) if head[0] != 3]
    found_by = {text: log_probability(model, [END, 2], kept, list(text)) / max(1, len(text) + offset) for text in texts}
    best = max(found_by, key=found_by.__getitem__)
    (found,) = search(model, [[END, 2]], END, beam, [kept])
    assert tuple(found.tokens) == best and found.score == pytest.approx(found_by[best], abs=1e-5)
    opened = model.open(Inputs(torch.tensor([kept])))
    assert search(model, [[END, 2]], END, beam, opened=opened) == [found]


def test_one_that_is_not_patient_stops_when_as_many_texts_have_ended_as_it_keeps() -> None:
    """After the first token the end costs much and 2 nothing: the patient one goes on, for the prefix is better as it stands."""

    class Late(Trap):
        after = {END: [0.0, 0.1, 0.9, 0.0], 2: [0.0, 0.1, 0.9, 0.0], 3: [0.25] * 4, 0: [0.25] * 4}

    told = {patient: search(Late(), [[END]], END, Beam(2, 1.0, 0.0, 6, -1, patient))[0] for patient in (True, False)}
    assert told[False].tokens == [END] and len(told[True].tokens) > 2 and told[True].score > told[False].score


class Trap:
    """After the end token 2 is likelier than 3; after 2 nothing is likely, after 3 the end is sure."""

    after = {END: [0.0, 0.0, 0.6, 0.4], 2: [0.25] * 4, 3: [0.0, 1.0, 0.0, 0.0], 0: [0.25] * 4}

    def cache(self, rows: int) -> Trap:
        return self

    def rows(self, index: torch.Tensor) -> Trap:
        return self

    def log_probabilities(self, inputs: Inputs, cache: Trap) -> torch.Tensor:
        return torch.tensor([self.after[token] for token in inputs.tokens[:, -1].tolist()]).log()


def test_a_wider_beam_finds_what_greed_misses() -> None:
    for width, tokens, sure in ((1, [2], 0.6), (2, [3, END], 0.4)):
        (found,) = search(Trap(), [[END]], END, Beam(width, alpha=0.0))
        assert found.tokens[: len(tokens)] == tokens
        assert found.log_probabilities[0] == pytest.approx(math.log(sure), abs=1e-6)
    assert found.log_probability == pytest.approx(math.log(0.4), abs=1e-6)


def greedy(model, prompt: list[int], source: list[int] | None, most: int) -> list[int]:
    """Take the likeliest token until the end."""
    text: list[int] = []
    while len(text) < most and text[-1:] != [END]:
        beside = None if source is None else Inputs(torch.tensor([source]))
        text.append(int(next_log_probabilities(model, Inputs(torch.tensor([[*prompt, *text]]), source=beside)).argmax()))
    return text


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_beam_of_one_is_greedy(name: str) -> None:
    model, beam = make(name), Beam(width=1)
    prompts, sources = given(name)
    prompts = [list(each) for each in prompts]
    for place, found in enumerate(search(model, prompts, END, beam, sources)):
        source = None if sources is None else sources[place]
        most = limit(model, beam, len(prompts[place]), len(prompts[place] if source is None else source))
        assert found.tokens == greedy(model, prompts[place], source, most)
        assert found.ended == (found.tokens[-1] == END)
        assert found.log_probability == pytest.approx(log_probability(model, prompts[place], source, found.tokens), abs=1e-4)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_side_by_side_is_as_alone(name: str) -> None:
    model, beam = make(name), Beam(width=3)
    prompts, sources = given(name)
    prompts = [list(each) for each in prompts]
    together = search(model, prompts, END, beam, sources)
    assert len({len(each.tokens) for each in together}) > 1, "rows end at different steps"
    for rows in (1, 2):
        alone = search(model, prompts, END, beam, sources, rows=rows)
        assert [each.tokens for each in alone] == [each.tokens for each in together]
        assert [each.score for each in alone] == pytest.approx([each.score for each in together], abs=1e-5)
    assert search(model, prompts, END, beam, sources) == together


def test_a_counted_model_is_searched_too() -> None:
    import numpy as np

    from zhixing.models.ngram import NGram

    model = NGram.count(np.array([1, *[5, 6, 7, 8, 1] * 40]), 10, 3, 1, "ngram", None)
    (found,) = search(model, [[1, 5]], 1, Beam(width=3))
    assert found.tokens == [6, 7, 8, 1] and found.ended


def test_a_text_is_no_longer_than_its_limit() -> None:
    model, beam = make("mbart"), Beam(width=2, ratio=1.0, extra=2)
    assert (limit(model, beam, 1, 6), limit(model, beam, 1, 100)) == (8, 40)
    prompts, sources = given("mbart")
    for found, source in zip(search(model, prompts, END, beam, sources), sources, strict=True):
        assert len(found.tokens) <= len(source) + 2
        assert found.ended == (found.tokens[-1] == END)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"alpha": -1.0}, {"ratio": -0.1}, {"extra": 0}])
def test_wrong_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Beam(**wrong)


def test_what_cannot_be_searched_is_refused() -> None:
    model = make("mbart")
    for prompts, sources in (([[]], [[3]]), ([[END]], [[]])):
        with pytest.raises(UsageError):
            search(model, prompts, END, Beam(), sources)
    with pytest.raises(UsageError, match="41"):
        search(model, [[2] * 41], END, Beam(), [[3]])
