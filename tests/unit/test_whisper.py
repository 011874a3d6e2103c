"""Whisper: what is read of it, how it writes down what it hears, and what a training that begins with it keeps and changes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper_maker
from makers import heard, tone
from safetensors.torch import load_file
from whisper_maker import COMMA, CONTROLS, SIZE

from zhixing import evaluate, import_model, load, prepare, train
from zhixing.cli.app import main
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.data import media, sound
from zhixing.data.batch import IGNORED
from zhixing.decoding.ctc import Voice
from zhixing.decoding.search import Beam, search
from zhixing.evaluation import captions
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.transcribe import Transcribe
from zhixing.tokens.tokenizer import train_characters

OPENING = (257, 261, 262)
BEGUN = {"batch": 8, "precision": "fp32", "threads": 1}
SMALL = {**BEGUN, "size": "tiny"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("whisper")
    import_model(whisper_maker.folder(where / "theirs"), where / "folder")
    import_model(whisper_maker.folder(where / "other", packed=True), where / "packed")
    return where


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where, draw = tmp_path_factory.mktemp("tones"), random.Random(0)
    rows = [heard(draw, number) for number in range(160)]
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    prepare(where / "rows.jsonl", where / "corpus", Prepare(task="transcribe", validation=0.1, test=0.1))
    return where / "corpus"


def url(hertz: float = 440.0, seconds: float = 0.5, rate: int = 16000) -> str:
    return media.data_url(media.wav(tone(hertz, seconds, rate), rate), "audio/wav")


def test_both_layouts_are_one_model(place: Path) -> None:
    one, other = load(place / "folder"), load(place / "packed")
    assert one.task == other.task and one.task.opening == OPENING and one.task.languages == ("en", "zh")
    assert one.task.barred == (COMMA, 263, 264) and one.task.unopened == (3,) and one.task.seconds == 1.0 and one.task.written
    first, second = (load_file(place / each / "model.safetensors") for each in ("folder", "packed"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert not any(name.endswith("k_proj.bias") for name in first)


def test_a_sound_is_read_in_the_likeliest_language_and_nothing_barred_is_written(place: Path) -> None:
    opened = load(place / "folder")
    item = opened.task.encode({"audio": url()}, opened.tokenizer)
    assert item["frames"].shape == (100, 16) and "tokens" not in item
    read = Inputs(None, frames=torch.from_numpy(item["frames"])[None])
    states = opened.model.states(Inputs(torch.tensor([[OPENING[0]]]), source=read))
    logs = opened.model.logits(states)[0, -1]
    language = 258 if logs[258] > logs[259] else 259
    tokens = [OPENING[0], language, *OPENING[1:]]
    first = len(tokens)
    while len(tokens) < 33:  # greedy, without a cache; the window is 32, and the last may be written after it
        nats = opened.model.logits(opened.model.states(Inputs(torch.tensor([tokens]), source=read)))[0, -1]
        nats[[*opened.task.barred, *(opened.task.unopened if len(tokens) == first else ())]] = -torch.inf
        tokens.append(int(nats.argmax()))
        if tokens[-1] == opened.tokenizer.end_id:
            break
    (answer,) = opened.task.answers(opened.model, [item], opened.tokenizer, (Voice(1), None))
    wanted = opened.tokenizer.decode([each for each in tokens[first:] if each != opened.tokenizer.end_id])
    assert answer.value == " ".join(wanted.split()) and 0 < answer.confidence < 1
    known = [{**item, "language": each} for each in ("en", "zh")]
    said = list(opened.task.answers(opened.model, [*known, item], opened.tokenizer, (Voice(1), None)))
    assert said[2].value == said[language - 258].value == answer.value and said[0].confidence != said[1].confidence
    mixed = [{"frames": item["frames"][:60]}, item, {"frames": item["frames"][:60]}, {"frames": item["frames"][20:80]}]
    apart = [next(opened.task.answers(opened.model, [each], opened.tokenizer)).value for each in mixed]
    assert [each.value for each in opened.task.answers(opened.model, mixed, opened.tokenizer)] == apart
    several = list(opened.task.answers(opened.model, [item] * 3, opened.tokenizer))
    assert len({each.value for each in several}) == 1 and several[0].value == opened.predict([{"audio": url()}])[0].value
    certain = Beam(1, ratio=0.0, extra=1, unopened=tuple(each for each in range(SIZE) if each != 65))
    cache = opened.model.open(read)
    assert search(opened.model, [tokens[:first]], 256, certain, opened=cache)[0].tokens == [65]


def test_states_depend_on_frames_in_order_and_a_shorter_sound_takes_the_first_positions() -> None:
    model = whisper_maker.model()
    frames = torch.randn(2, 60, 16, generator=torch.Generator().manual_seed(0))
    states = model.encode(Inputs(None, frames=frames))
    assert states.shape == (2, 30, 16)
    assert torch.allclose(model.encode(Inputs(None, frames=frames[1:])), states[1:], atol=1e-5)
    assert not torch.allclose(model.encode(Inputs(None, frames=frames.flip(1))).flip(1), states, atol=1e-2)
    for wrong in (frames[..., :8], torch.randn(1, 104, 16)):
        with pytest.raises(ShapeError):
            model.encode(Inputs(None, frames=wrong))
    with pytest.raises(ShapeError):
        model.encode(Inputs(torch.zeros(1, 2, dtype=torch.long)))
    again = catalog.restore(catalog.config(model), catalog.tensors(model))
    assert torch.equal(again.encode(Inputs(None, frames=frames)), states)


def test_a_tone_lies_in_its_channel_and_silence_is_one_value() -> None:
    found = sound.whisper_frames(tone(1000.0, 0.5, 16000), 16000, 80, 1.0)
    filters = sound.triangles(16000, 400, 80)
    assert found.shape == (100, 80) and found.dtype == np.float32
    assert found[20].argmax() == filters[:, 25].argmax(), "line 25 of the spectrum is 1,000 Hz"
    assert np.ptp(found[60:]) == 0 and found[60, 0] == found.min() == pytest.approx(found.max() - 2.0)
    assert np.allclose(filters[40:].sum(1) * 40, 1, atol=0.1), "of area one"
    assert len(sound.whisper_frames(tone(440.0, 3.0, 16000), 16000, 16, 1.0)) == 100


def test_a_lower_rate_is_raised_for_a_model_that_has_heard_such_sounds(place: Path) -> None:
    opened = load(place / "folder")
    low, high = (opened.task.encode({"audio": url(rate=each)}, opened.tokenizer)["frames"] for each in (8000, 16000))
    assert np.abs(low[:45, :10] - high[:45, :10]).mean() < 0.1
    with pytest.raises(DataError, match="8000"):
        Transcribe(16000).encode({"audio": url(rate=8000)}, train_characters(["a"]))


def test_a_text_is_framed_for_the_decoder_and_control_tokens_stay_text(place: Path) -> None:
    tokenizer = load(place / "folder").tokenizer
    task = Transcribe(16000, 16, 1.0, written=True, opening=OPENING, languages=("zh",))
    item = task.encode({"audio": url(), "text": "a  b"}, tokenizer)
    text = [*tokenizer.encode(" a b")]
    assert item["tokens"].tolist() == [257, 259, 261, 262, *text] and item["targets"].tolist() == [*[IGNORED] * 3, *text, 256]
    assert task.encode({"audio": url(), "text": "一"}, tokenizer)["tokens"].tolist()[4:] == tokenizer.encode("一").tolist()
    for name in (*CONTROLS, "<|0.00|>"):
        assert max(task.encode({"audio": url(), "text": f"x{name}"}, tokenizer)["tokens"][4:]) < 256, name


def test_a_text_that_is_too_long_for_the_decoder_is_refused_with_its_row(place: Path, tmp_path: Path) -> None:
    rows = [{"audio": url(), "text": "word " * (1 + 9 * (number == 7))} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="transcribe", validation=0.0, test=0.0))
    with pytest.raises(DataError, match=r"train:\d+.*word word") as raised:
        train(tmp_path / "corpus", tmp_path / "out", {**BEGUN, "start": str(place / "folder"), "steps": 1})
    assert raised.value.code == "sound.text" and not (tmp_path / "out").exists()


def test_a_training_keeps_how_a_model_is_asked_and_reads_no_more_than_it_must(place: Path, tones: Path, tmp_path: Path) -> None:
    train(tones, tmp_path / "one", {**BEGUN, "start": str(place / "folder"), "steps": 2, "learning_rate": 1e-12, "dropout": 0.0})
    task = load(tmp_path / "one").task
    assert (task.rate, task.bins, task.opening, task.unopened, task.barred) == (16000, 16, OPENING, (), (263, 264))
    assert task.languages == ("en",) and task.seconds == task.filled == 1.0
    first, second = (load_file(each / "model.safetensors") for each in (place / "folder", tmp_path / "one"))
    assert all(torch.allclose(second[name], value, atol=1e-9) for name, value in first.items())
    sounds = [{"audio": url(seconds=0.3), "text": "大江"}]
    chosen = Transcribe.fit(sounds, rate=16000, written=True, languages=("en", "zh"), opening=OPENING)
    assert chosen.languages == ("zh",) and (chosen.filled, chosen.seconds) == (1.0, 30.0)
    assert Transcribe.fit(sounds, rate=16000, written=True, languages=("de",), opening=OPENING).languages == ("de",)
    short = Transcribe.fit([{"audio": url(seconds=1.4), "text": ""}], written=True, seconds=4.0)
    assert short.filled == 2.0
    lengths = [len(short.encode({"audio": url(seconds=each)}, None)["frames"]) for each in (0.3, 1.9, 2.1, 3.9)]
    assert lengths == [200, 200, 250, 400], "what is longer than all of training is heard as well"
    with pytest.raises(DataError, match="4"):
        short.encode({"audio": url(seconds=4.1)}, None)


def test_one_that_begins_with_nothing_learns_tones(tones: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "model": "whisper", "width": 48, "steps": 350, "learning_rate": 0.004, "evaluations": 0}
    train(tones, tmp_path / "made", settings)
    opened = load(tmp_path / "made")
    assert opened.task.opening == () and opened.task.rate == 8000
    report = evaluate(tmp_path / "made", tones, rivals=False, save=False)
    assert report.figures[0].name == "wer" and report.figures[0].value < 0.2


def test_commands_hear_with_it_and_a_language_model_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoken = np.concatenate([np.zeros(4000), tone(440.0, 0.4, 8000)] * 3 + [np.zeros(4000)])
    (tmp_path / "a.wav").write_bytes(media.wav(spoken + np.random.default_rng(0).normal(0, 1e-4, len(spoken)), 8000))
    assert main(["transcribe", str(place / "folder"), str(tmp_path / "a.wav"), "--beam", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["segments"][-1]["end"] == pytest.approx(2.7, abs=0.4) and len(told["segments"]) >= 3, "cut to what it hears at once"
    assert main(["transcribe", str(place / "folder"), str(tmp_path / "a.wav"), "--follow", "--patience", "0.1", "--beam", "1"]) == 0
    for language, right in (("zh", True), ("de", False)):
        assert (main(["transcribe", str(place / "folder"), str(tmp_path / "a.wav"), "--language", language]) == 0) == right
    assert "en, zh" in capsys.readouterr().err
    opened = load(place / "folder")
    with pytest.raises(UsageError, match="--lm"):
        captions.voice(opened, None, opened)


def spoilt(where: Path, change: Any) -> Path:
    folder = whisper_maker.folder(where / "spoilt", packed=True)
    content = change((folder / "model.bin").read_bytes())
    (folder / "model.bin").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"fc", b"fx").replace(b"linear_1", b"linear_9"),
        lambda content: content[:21] + b"\xff\xff\xff\xff" + content[25:],
        lambda content: content[:30],
        lambda content: content.replace(b"decoder/activation\0\0\x01\x01\0\0\0\x03", b"decoder/activation\0\0\x01\x01\0\0\0\x00"),
    ],
    ids=["half", "names", "count", "head", "activation"],
)
def test_a_damaged_or_another_file_is_refused(tmp_path: Path, change: Any) -> None:
    folder = spoilt(tmp_path, change)
    with pytest.raises(DataError) as raised:
        import_model(folder, tmp_path / "out")
    assert "model.bin" in str(raised.value) and not (tmp_path / "out").exists()


def test_whole_numbers_pickles_and_missing_tokens_are_refused_by_name(tmp_path: Path) -> None:
    folder = whisper_maker.folder(tmp_path / "whole", packed=True)
    state = {name: value.numpy() for name, value in whisper_maker.model().state_dict().items()}
    whisper_maker.pack(folder / "model.bin", state, "i1")
    with pytest.raises(DataError, match="int8"):
        import_model(folder, tmp_path / "out")
    whisper_maker.pack(folder / "model.bin", state, "<f2")
    import_model(folder, tmp_path / "half")
    (folder / "model.bin").write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError):
        import_model(folder, tmp_path / "out")
    lacking = whisper_maker.folder(tmp_path / "lacking")
    text = (lacking / "tokenizer.json").read_text(encoding="utf-8").replace("<|transcribe|>", "<|write|>")
    (lacking / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="transcribe"):
        import_model(lacking, tmp_path / "out")
    with pytest.raises(DataError, match="suppress_tokens"):
        wrong = whisper_maker.folder(tmp_path / "wrong")
        (wrong / "generation_config.json").write_text('{"suppress_tokens": [-1]}')
        import_model(wrong, tmp_path / "out")
