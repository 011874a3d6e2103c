"""What every acoustic model must hold, and the task of hearing the whole way: prepare, train, evaluate, predict, serve.

The sounds are tones made here, one a word, so that all of it can be learnt in seconds; no real recording is needed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import heard, tone
from torch import nn

from zhixing import evaluate, load, prepare, train
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.data import media, sound
from zhixing.decoding import ctc
from zhixing.evaluation.predict import predict_rows
from zhixing.layers.augment import at_lengths, augment, paced
from zhixing.layers.kinds import Acoustic, Encoder, Inputs
from zhixing.metrics.transcripts import differ, words_of
from zhixing.models import catalog
from zhixing.models.ngram import NGram
from zhixing.models.warping import Warping
from zhixing.objectives.ctc import TextNats
from zhixing.preparation.prepare import Prepare
from zhixing.serving import asks
from zhixing.serving.limits import Limits
from zhixing.serving.schema import PredictRequest
from zhixing.serving.served import open_models
from zhixing.tasks.task import task_class
from zhixing.tasks.transcribe import Transcribe
from zhixing.tokens.layout import END
from zhixing.tokens.tokenizer import train_characters
from zhixing.training.gradients import Gradients

V, C, F, TOLERANCE = 11, 8, 26, 1e-5
MODELS = {
    "bilstm_ctc": {"embedding_dim": 10, "hidden_dim": 12, "num_layers": 2},
    "conformer": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
                  "conv_depthwise_kernel_size": 5},
}  # fmt: skip
SMALL = {"size": "tiny", "width": 32, "batch": 8, "precision": "fp32", "threads": 1, "learning_rate": 0.02}
ROWS = 160


def make(name: str, **form: Any) -> nn.Module:
    """Make a small model, nothing of it left at zero."""
    torch.manual_seed(3)
    model = catalog.build({"model_type": name, "vocab_size": V, "num_mel_bins": C, **MODELS[name], **form})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def frames(rows: int = 3, count: int = F) -> torch.Tensor:
    return torch.randn(rows, count, C, generator=torch.Generator().manual_seed(rows + count))


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return make(request.param)


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_padding_changes_no_real_state(name: str, stride: int) -> None:
    model, read, lengths = make(name, stride=stride), frames(), torch.tensor([7, F, 1])
    counts = model.lengths(lengths).tolist()
    assert counts == [-(-each // stride) for each in lengths.tolist()]
    states = []
    for filler in (0.0, 5.0):
        padded = read.clone()
        padded[0, 7:], padded[2, 1:] = filler, filler
        states.append(model.states(Inputs(None, frames=padded, frames_lengths=lengths)))
    for row, count in enumerate(counts):
        assert torch.equal(states[0][row, :count], states[1][row, :count]), "padding changes a real state"
        alone = model.states(Inputs(None, frames=read[row : row + 1, : lengths[row]]))[0]
        assert gap(alone, states[0][row, :count]) < TOLERANCE and len(alone) == count


@torch.no_grad()
def test_states_hear_both_sides_and_are_of_the_kind(model: nn.Module) -> None:
    assert isinstance(model, Acoustic) and not isinstance(model, Encoder) and model.kinds == ("acoustic",)
    before = frames(1)
    after = before.clone()
    after[0, 12] += 1.0
    states, changed = (model.states(Inputs(None, frames=each)) for each in (before, after))
    change = (states - changed).abs().amax(-1)[0]
    assert float(change[2]) > 0 and float(change[-1]) > 0
    assert states.shape == (1, 13, model.width) and model.logits(states).shape == (1, 13, V) and model.vocabulary == V


def test_a_restored_model_gives_the_same_bits(model: nn.Module) -> None:
    config = json.loads(json.dumps(catalog.config(model)))
    restored = catalog.restore(config, {name: value.clone() for name, value in catalog.tensors(model).items()})
    read = Inputs(None, frames=frames(), frames_lengths=torch.tensor([9, F, 4]))
    assert torch.equal(model.logits(model.states(read)), restored.logits(restored.states(read)))


def test_golden_names_and_shapes(golden: Callable[[str, str], None]) -> None:
    found = {name: {key: list(each.shape) for key, each in catalog.tensors(make(name)).items()} for name in MODELS}
    golden("acoustic.json", json.dumps(found) + "\n")


def test_what_a_model_cannot_hear_is_named(model: nn.Module) -> None:
    for inputs, code in ((Inputs(torch.ones(1, 3)), "model.no_frames"), (Inputs(None, frames=torch.zeros(1, 5, C + 1)), "model.channels")):
        with pytest.raises(ShapeError) as caught:
            model.states(inputs)
        assert caught.value.code == code
    for wrong in ({"stride": 3}, {"stride": 0}, {"num_mel_bins": 0}):
        with pytest.raises(DataError):
            make(model.config.model_type, **wrong)


def batch_of(count: int) -> dict[str, torch.Tensor]:
    """Make sounds and texts of unlike lengths."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(14, F + 1, (count,), generator=draw)
    targets = torch.randint(2, V, (count, 4), generator=draw)
    for row in range(count):
        targets[row, 1 + row % 4 :] = -100
    return {"frames": frames(count), "frames_lengths": lengths, "targets": targets}


def gradient(name: str, batches: list[dict[str, torch.Tensor]], strength: float = 0.0) -> dict[str, torch.Tensor]:
    model = make(name, augment=strength).train()
    gradients = Gradients(model, TextNats(), "fp32", 0)
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    gradients.finish()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_micro_batches_equal_one_batch(name: str) -> None:
    batch = batch_of(9)
    whole = gradient(name, [batch])
    # A key's bias shifts all scores of a query alike: its gradient is nought but for rounding.
    dead = [each for each, value in whole.items() if float(value.abs().max()) == 0 and not each.endswith("linear_k.bias")]
    assert dead == [], "every parameter gets a gradient"
    parts = zip(*(value.split([5, 1, 3]) for value in batch.values()), strict=True)
    split = gradient(name, [dict(zip(batch, part, strict=True)) for part in parts])
    largest = max(float(value.abs().max()) for value in whole.values())
    for each, value in whole.items():
        assert float((split[each] - value).abs().max()) <= 1e-5 * max(float(value.abs().max()), 1e-2 * largest), each


@pytest.mark.parametrize("name", sorted(MODELS))
def test_what_is_drawn_depends_on_the_step_alone(name: str) -> None:
    """The loop keys the generator: the same step again gives the same bits, with changed frames other ones than without."""
    first, second, plain = (gradient(name, [batch_of(4)], strength) for strength in (1.0, 1.0, 0.0))
    assert all(torch.equal(first[each], second[each]) for each in first)
    assert any(not torch.equal(first[each], plain[each]) for each in first)


def test_augmenting_keeps_lengths_and_silence() -> None:
    torch.manual_seed(0)
    read, lengths = frames(4), torch.tensor([5, F, 1, 20])
    for row, length in enumerate(lengths.tolist()):
        read[row, length:] = 0
    changed = augment(read, lengths)
    assert changed.shape == read.shape and bool(changed.isfinite().all()) and not torch.equal(changed, read)
    assert all(not changed[row, length:].any() for row, length in enumerate(lengths.tolist()))
    assert torch.equal(augment(read, lengths, 0.0), read)
    ramp = torch.arange(C, dtype=torch.float32).expand(1, 3, C).contiguous()
    assert bool((augment(ramp, None, 0.01) - ramp).abs().amax() < 8), "a little strength changes a little"


def test_another_pace_changes_how_long_is_spoken_and_nothing_else() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([40, 1, 200])
    drawn = torch.stack([paced(lengths) for _ in range(200)])
    assert drawn.min() >= 1 and drawn[:, 2].min() < 150 and drawn[:, 2].max() > 280 and drawn[:, 2].max() <= 320
    assert torch.equal(paced(lengths, 0.0), lengths)
    ramp = torch.arange(10.0).view(1, 10, 1).expand(3, 10, C).contiguous()
    found = at_lengths(ramp, torch.tensor([10, 4, 1]), torch.tensor([19, 7, 3]))
    assert torch.allclose(found[0, :, 0], torch.arange(19) / 2) and torch.allclose(found[1, :7, 1], torch.arange(7) / 2)
    assert not found[1, 7:].any() and not found[2].any() and found.shape == (3, 19, C)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_pace_makes_a_sound_too_short_for_its_text(name: str) -> None:
    """As many states as the text needs, and one frame less would be too few: every shorter pace must be left."""
    model = make(name, augment=3.0, stride=2).train()
    lengths, targets = torch.tensor([13, 7]), torch.tensor([[2, 2, 3, 3, 2], [2, 3, 2, 3, -100]])
    batch = {"frames": frames(2)[:, :13], "frames_lengths": lengths, "targets": targets}
    for seed in range(40):
        torch.manual_seed(seed)
        (term,) = TextNats()(model, batch)
        assert bool(term.total.isfinite())


# The objective, and what reads it out.


def paths(logs: torch.Tensor, text: list[int]) -> float:
    """Give log p of a text by writing out every path."""
    F_, V_ = logs.shape
    found = [
        math.fsum(float(logs[place, each]) for place, each in enumerate(path))
        for path in itertools.product(range(V_), repeat=F_)
        if ctc.collapse(path) == text
    ]
    return float(torch.logsumexp(torch.tensor(found, dtype=torch.float64), 0)) if found else -math.inf


@pytest.mark.parametrize("text", [[], [2], [2, 2], [0, 2], [2, 3, 2], [3, 3, 3]])
def test_log_p_is_the_sum_over_all_paths(text: list[int]) -> None:
    logs = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).log_softmax(-1)
    assert ctc.log_probability(logs, text) == pytest.approx(paths(logs, text), abs=1e-9)
    assert ctc.log_probability(logs[:2], [2, 2]) == -math.inf, "two equal tokens need a blank between"


def test_the_objective_is_minus_log_p() -> None:
    model, batch = make("bilstm_ctc"), batch_of(5)
    (term,) = TextNats()(model, batch)
    logs = ctc.listen(model, batch["frames"], batch["frames_lengths"])
    wanted = [
        ctc.log_probability(row, [each for each in text.tolist() if each >= 0]) for row, text in zip(logs, batch["targets"], strict=True)
    ]
    assert float(term.total.detach()) == pytest.approx(-sum(wanted), rel=1e-5)
    assert TextNats().weights(batch) == {"nats": 5.0} and TextNats().additive


def test_a_wide_beam_finds_the_likeliest_text_and_greedy_does_not_always() -> None:
    differs = 0
    for seed in range(30):
        logs = (1.2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).log_softmax(-1)
        every = {tuple(ctc.collapse(path)) for path in itertools.product(range(4), repeat=5)}
        best = max(every, key=lambda text: ctc.log_probability(logs, text))
        assert tuple(ctc.search(logs, ctc.Voice(width=200))) == best
        differs += tuple(ctc.greedy(logs)) != best
        assert ctc.search(logs, ctc.Voice()) == ctc.greedy(logs)
    assert differs, "else this proves nothing of the sums"


def test_a_language_model_beside_it_settles_what_the_sound_leaves_open() -> None:
    counted = NGram.count(np.array([END, 2, 3, END, 2, 3, END, 2, 3, END]), 5, 2, END)
    logs = torch.full((3, 5), -9.0, dtype=torch.float64)
    logs[0, 2], logs[1, END] = -0.01, -0.01
    logs[2, 3], logs[2, 4] = math.log(0.45), math.log(0.55)
    beside = ctc.Beside(counted)
    assert ctc.search(logs, ctc.Voice(width=8)) == [2, 4]
    assert ctc.search(logs, ctc.Voice(width=8, weight=0.5), beside) == [2, 3]
    for wrong in ({"width": 0}, {"weight": -1.0}, {"weight": math.nan}, {"weight": math.inf}, {"bonus": math.nan}):
        with pytest.raises(UsageError):
            ctc.Voice(**wrong)


def test_a_language_model_with_a_window_reads_the_last_of_a_long_text() -> None:
    torch.manual_seed(3)
    form = {"model_type": "qwen3", "vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4}  # fmt: skip
    beside = ctc.Beside(catalog.build(form))
    logs = torch.full((9, 5), -9.0, dtype=torch.float64)
    logs[torch.arange(9), torch.tensor([2, 3, 4, 2, 3, 4, 2, 3, 4])] = -0.01
    assert len(ctc.search(logs, ctc.Voice(8, 0.1), beside)) == 9
    text = (3, 4, 2, 3, 4, 2, 3)
    beside.ask([text, (2, 4, 3, 4, 2, 3)])
    assert beside.log(text, 4) == beside.log((2, 4, 3, 4, 2, 3), 4), "their last four tokens are the same"


def test_what_a_language_model_said_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctc, "KNOWN", 20)
    beside = ctc.Beside(NGram.count(np.array([END, 2, 3, END, 2, 3, END, 2, 3, END]), 5, 2, END))
    sizes = []
    for seed in range(12):
        logs = torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).log_softmax(-1)
        ctc.search(logs, ctc.Voice(4, 0.5), beside)
        sizes.append(len(beside.known))
    assert max(sizes) <= 20 + 6 * 4 and sizes != sorted(sizes), "it is let go between searches"


def test_words_are_counted_as_speech_counts_them() -> None:
    assert words_of("Seven, nine!") == ["seven", "nine"] and words_of("数字 A4纸") == ["数", "字", "a4", "纸"]
    for said, true, wanted in (
        ("a b c", "a b c", 0),
        ("a c", "a b c", 1),
        ("a x b c", "a b c", 1),
        ("", "a b", 2),
        ("b a", "a b", 2),
        ("x", "", 1),
    ):
        assert differ(said.split(), true.split()) == wanted, (said, true)


# Bad sounds, each named with its fix.


def url(samples: np.ndarray, rate: int = 8000) -> str:
    return media.data_url(media.wav(samples, rate), "audio/wav")


def test_a_sound_that_cannot_be_heard_is_named() -> None:
    task, tokenizer = Transcribe(rate=8000), train_characters(["do re mi"])
    long = np.sin(np.arange(8000 * 31) / 3)
    for audio, text, code, words in (
        (url(long[:4000], 4000), None, "sound.rate", ("4000", "8000")),
        (url(long), None, "sound.long", ("31.0", "30")),
        (url(long[:800]), "do re mi do re mi", "sound.short", ("0.10", "17")),
        (url(long[:30]), None, "sound.no_frame", ("30",)),
        (url(0 * long[:800]), None, "sound.unreadable", ("silent",)),
    ):
        with pytest.raises(DataError) as caught:
            task.encode({"audio": audio, **({"text": text} if text else {})}, tokenizer)
        assert caught.value.code == code and all(word in caught.value.text() for word in words)
    item = task.encode({"audio": url(long[:800]), "text": "do re"}, tokenizer)
    assert item["frames"].shape == (10, 40) and item["targets"].shape == (5,)
    higher = task.encode({"audio": url(np.sin(np.arange(16000) / 6), 16000)}, tokenizer)["frames"]
    lower = task.encode({"audio": url(np.sin(np.arange(8000) / 3))}, tokenizer)["frames"]
    assert higher.shape == lower.shape and float(np.abs(higher - lower)[5:-5].mean()) < 0.5


def plainly(frames: np.ndarray) -> np.ndarray:
    """Normalise by all frames alike."""
    return (frames - frames.mean(0)) / frames.std()


def test_frames_are_those_of_the_sound() -> None:
    tones = [sound.log_mel(tone(hertz, 0.3), 8000) for hertz in (300.0, 900.0, 2500.0)]
    peaks = [int(each.mean(0).argmax()) for each in tones]
    assert peaks == sorted(set(peaks)) and all(each.shape == (30, 40) for each in tones)
    said = np.concatenate([tone(300.0, 0.2), tone(900.0, 0.3), tone(2500.0, 0.2)])
    said += np.random.default_rng(0).normal(0, 0.05, len(said)).astype(np.float32)  # as wide as speech is
    found, softer = (sound.normalise(sound.log_mel(each, 8000)) for each in (said, 0.1 * said))
    assert np.abs(found - softer).max() < 0.05, "loudness does not matter"
    rested = np.concatenate([np.zeros(4000, np.float32), said])
    gaps = [
        np.abs(norm(sound.log_mel(said, 8000)) - norm(sound.log_mel(rested, 8000))[-len(found) :]) for norm in (sound.normalise, plainly)
    ]
    assert gaps[0].mean() < 0.3 * gaps[1].mean(), "nor, much, how long nothing was said before"
    assert sound.mfcc(tone(500.0, 0.3), 8000).shape == (30, 26)


# The whole way.


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    draw = random.Random(7)
    return [heard(draw, number) for number in range(ROWS)]


@pytest.fixture(scope="module")
def place(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("transcribe")
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    prepare(where / "rows.jsonl", where / "corpus", Prepare(task="transcribe", validation=0.15, test=0.25))
    train(where / "corpus", where / "default", {"model": "conformer", **SMALL, "steps": 120})
    return where


def test_it_learns_and_templates_stand_beside_it(place: Path) -> None:
    report = evaluate(place / "default", place / "corpus", save=False)
    first = report.figures[0]
    assert first.name == "wer" and set(first.rivals) == {"dtw"} and report.task == "transcribe"
    assert first.value < 0.3 and first.low <= first.value <= first.high and 0 <= first.rivals["dtw"] < 0.7


def test_one_answer_from_every_door(place: Path, rows: list[dict[str, Any]]) -> None:
    model, some = load(place / "default"), rows[:12]
    said = model.predict([{"audio": each["audio"]} for each in some])
    assert all(0 <= each.confidence <= 1 for each in said)
    (place / "some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in some), encoding="utf-8")
    predict_rows(place / "default", place / "some.jsonl", place / "out.jsonl", force=True)
    out = [json.loads(line) for line in (place / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [each["answer"] for each in out] == [each.value for each in said]
    served = open_models([place / "default"])["default"]
    request = PredictRequest(model="default", rows=[{"audio": each["audio"]} for each in some])

    async def ask() -> list[str]:
        items = asks.items_of(request, served, Limits())
        return [each.value for each in served.artefact.task.answers(served.artefact.model, items, served.artefact.tokenizer)]

    assert asyncio.run(ask()) == [each.value for each in said]


def test_perfect_answers_score_best_and_shuffled_ones_at_chance(place: Path, rows: list[dict[str, Any]]) -> None:
    from zhixing.tasks.task import Answer

    task, truth = load(place / "default").task, [each["text"] for each in rows]
    mixed = random.Random(1).sample(truth, len(truth))

    def judge(values: list[str]) -> dict[str, float]:
        found = task.metrics([Answer(each) for each in values], rows)
        assert all(len(each) == len(rows) for each in found.values())
        return {name: figure(found) for name, figure in task_class("transcribe").figures.items()}

    best, chance = judge(truth), judge(mixed)
    assert best == {"wer": 0.0, "cer": 0.0, "exact": 1.0} and chance["wer"] > 0.4 and chance["exact"] < 0.5


def test_a_bad_row_is_named_by_file_and_line(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    for broken in ({"text": "do"}, {**rows[3], "audio": "gone.wav"}, {**rows[3], "audio": url(np.zeros(800))}, {**rows[3], "text": ""}):
        lines = [json.dumps(each) for each in (*rows[:3], broken, *rows[4:9])]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(DataError, match=r"rows\.jsonl:4"):
            prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="transcribe"))


def test_a_row_of_another_rate_is_a_problem_and_the_others_are_answered(place: Path, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    odd = [rows[0], {"audio": url(np.sin(np.arange(4000)), 4000)}, rows[1]]
    (tmp_path / "odd.jsonl").write_text("".join(json.dumps(each) + "\n" for each in odd), encoding="utf-8")
    counts = predict_rows(place / "default", tmp_path / "odd.jsonl", tmp_path / "out.jsonl")
    assert (counts["answered"], counts["problems"]) == (2, 1)
    assert "sound.rate" in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[1]


def test_templates_are_chained_and_come_back(rows: list[dict[str, Any]], place: Path) -> None:
    train(place / "corpus", place / "dtw", {"model": "dtw"}, force=True)
    opened = load(place / "dtw")
    report = evaluate(opened, place / "corpus", save=False)
    assert report.figure("wer").value < 0.5 and isinstance(opened.model, Warping)
    task = opened.task
    some = [(task.encode(each, None)["frames"], each["text"].split()) for each in rows[:60]]
    model = Warping.fit(*map(list, zip(*some, strict=True)), price=opened.model.config.price)
    again = catalog.restore(json.loads(json.dumps(catalog.config(model))), catalog.tensors(model))
    assert [again.follow(each) for each, _ in some[:9]] == [model.follow(each) for each, _ in some[:9]]
    assert any(len(model.follow(each)) > 1 for each, _ in some), "more than one word is heard in a sound"


def test_stopped_and_resumed_is_uninterrupted(place: Path, tmp_path: Path) -> None:
    """Bit for bit, with dropout and changed frames."""
    from zhixing.core.stop import Stop, Stopped

    class After(Stop):
        """Asks for a stop once it was polled a few times."""

        polls = 0

        def check(self) -> None:
            self.polls += 1
            if self.polls == 6:
                raise Stopped(15)

        def __bool__(self) -> bool:
            return self.polls == 5

    how = {"model": "bilstm_ctc", **SMALL, "steps": 10, "dropout": 0.1, "evaluations": 0}
    whole = train(place / "corpus", tmp_path / "whole", how)
    with pytest.raises(Stopped):
        train(place / "corpus", tmp_path / "parts", how, stop=After())
    parts = train(place / "corpus", tmp_path / "parts", how)
    assert (whole.path / "model.safetensors").read_bytes() == (parts.path / "model.safetensors").read_bytes()
