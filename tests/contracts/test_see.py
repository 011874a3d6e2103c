"""What families that see must hold: what a row lacks, or what lies beyond its length, is seen by none of its states; k micro-batches are
one batch; a sense that a model does not have is refused by name. Each harness is shown to go red."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from makers import MAKERS, SMALL
from torch import nn

from zhixing import load, prepare, train
from zhixing.core.errors import DataError, ShapeError, UsageError
from zhixing.core.stop import Stopped
from zhixing.data import media
from zhixing.data.columns import choose
from zhixing.data.corpus import open_corpus
from zhixing.data.stream import Rows
from zhixing.evaluation.predict import predict_rows
from zhixing.layers import pictures
from zhixing.layers.kinds import Encoder, Fusion, Headed, Inputs, Vision
from zhixing.models import catalog
from zhixing.models.pixels import Pixels
from zhixing.preparation.prepare import Prepare
from zhixing.tasks.see import See
from zhixing.tokens.tokenizer import train_characters
from zhixing.training import trainer
from zhixing.training.gradients import Gradients

V, SIDE, BINS, TOLERANCE = 37, 32, 6, 1e-5
FUSION = {"model_type": "fusion", "vocab_size": V, "width": 24, "heads": 3, "layers": 2, "window": 32, "image_size": SIDE, "bins": BINS}
VIT = {"model_type": "vit", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "fusion": {**FUSION, "dropout": 0.1},
    "vit": {**VIT, "image_size": SIDE, "patch_size": 8, "hidden_dropout_prob": 0.1},
    "cnn2d": {"model_type": "cnn2d", "width": 24, "image_size": SIDE, "dropout": 0.1},
}
REFUSED = [
    ({**FUSION, "heads": 5}, "model.config_value", "width"),
    ({**FUSION, "senses": ["smell"]}, "model.config_value", "audio"),
    ({**FUSION, "senses": []}, "model.config_value", "audio"),
    ({**FUSION, "hedas": 3}, "model.config_unknown", "heads"),
    ({**VIT, "num_attention_heads": 5}, "model.config_value", "hidden_size"),
    ({**VIT, "image_size": 30, "patch_size": 8}, "model.config_value", "image_size"),
    ({**VIT, "hidden_act": "relu"}, "model.config_value", "gelu"),
    ({"model_type": "cnn2d", "width": 0}, "model.config_value", "at least 1"),
]


def make(name: str, **more: Any) -> nn.Module:
    """Make a model with no zero left from its initialisation, so that nothing is hidden by it."""
    torch.manual_seed(7)
    model = catalog.build({**FAMILIES[name], **more})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def inputs(seed: int = 0) -> Inputs:
    """Make three rows: the first has all senses, the second no picture, the third no sound; all of different lengths."""
    source = torch.Generator().manual_seed(seed)
    return Inputs(
        torch.randint(5, V, (3, 7), generator=source),
        torch.tensor([4, 7, 0]),
        frames=torch.randn(3, 20, BINS, generator=source),
        frames_lengths=torch.tensor([20, 9, 0]),
        image=torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=source, dtype=torch.uint8),
        pictures=torch.tensor([1, 0, 1]),
    )


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))


@torch.no_grad()
def check_absence(model: nn.Module) -> None:
    """Assert that what a row lacks, whatever stands there, changes none of its real states, and that alone it is what it is in a batch."""
    read, other = inputs(0), inputs(1)
    mixed = replace(read, tokens=read.tokens.clone(), image=read.image.clone(), frames=read.frames.clone())
    mixed.tokens[0, 4:], mixed.tokens[2] = other.tokens[0, 4:], other.tokens[2]
    mixed.image[1], mixed.frames[1, 9:], mixed.frames[2] = other.image[1], other.frames[1, 9:], other.frames[2]
    states, again, lengths = model.states(read), model.states(mixed), model.counts(read)
    assert lengths.tolist() == [1 + 4 + 16 + 3, 1 + 7 + 2, 1 + 16]
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(states[row, :length], again[row, :length]), "what is not there changes a real state"
    alone = [
        Inputs(read.tokens[:1, :4], frames=read.frames[:1], image=read.image[:1]),
        Inputs(read.tokens[1:2], frames=read.frames[1:2, :9]),
        Inputs(None, image=read.image[2:]),
    ]
    for row, (each, length) in enumerate(zip(alone, lengths.tolist(), strict=True)):
        assert model.counts(each).tolist() == [length]
        assert gap(model.states(each)[0], states[row, :length]) < TOLERANCE, "a row is not what it is alone"


def test_what_a_row_lacks_changes_nothing() -> None:
    check_absence(make("fusion"))


@pytest.mark.parametrize("name", ["pictures", "lengths", "frames_lengths"])
def test_the_check_of_absence_goes_red(name: str) -> None:
    class Deaf:
        counts = make("fusion").counts

        def states(self, read: Inputs) -> torch.Tensor:
            return make("fusion").states(replace(read, **{name: None}))

    with pytest.raises(AssertionError, match="what is not there|is not what it is alone"):
        check_absence(Deaf())


@torch.no_grad()
def test_every_sense_reaches_the_state_that_a_head_reads() -> None:
    model, read = make("fusion"), inputs()
    for change in ({"tokens": read.tokens.roll(1, 1)}, {"image": 255 - read.image}, {"frames": -read.frames}):
        assert float((model.states(replace(read, **change)) - model.states(read))[0, 0].abs().max()) > 1e-3, change.keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_of_their_kinds(name: str) -> None:
    model = make(name)
    assert model.kinds == (("fusion",) if name == "fusion" else ("vision",))
    assert isinstance(model, Fusion) == (name == "fusion") and isinstance(model, Vision) and isinstance(model, Encoder)
    read = inputs() if name == "fusion" else Inputs(None, image=inputs().image)
    assert model.states(read).shape == (3, {"fusion": 1 + 7 + 16 + 3, "vit": 17, "cnn2d": 16}[name], model.width)
    assert torch.equal(model.states(read), model.states(read)) and not torch.equal(model.train().states(read), model.states(read))


def test_a_sense_that_a_model_does_not_have_is_refused_by_name() -> None:
    read = inputs()
    for model, given, name in (
        (make("vit"), read, "text"),
        (make("cnn2d"), Inputs(None, image=read.image, frames=read.frames), "audio"),
        (make("fusion", senses=["text"]), Inputs(None, image=read.image), "image"),
    ):
        with pytest.raises(DataError) as caught:
            model.states(given)
        assert caught.value.code == "model.sense" and caught.value.values["name"] == name
    for name in FAMILIES:
        with pytest.raises(ShapeError, match=str(SIDE)):
            make(name).states(Inputs(None, image=read.image[:, :, :16]))
    with pytest.raises(ShapeError, match="33"):
        make("fusion").states(Inputs(torch.ones(1, 33, dtype=torch.long)))


@pytest.mark.parametrize(("config", "code", "word"), REFUSED)
def test_a_config_that_cannot_be_read_is_refused_by_name(config: dict, code: str, word: str) -> None:
    with pytest.raises(DataError) as caught:
        catalog.build(config)
    assert caught.value.code == code and word in caught.value.text()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_restored_model_gives_the_same_bits(name: str) -> None:
    model = make(name)
    config = json.loads(json.dumps(catalog.config(model)))
    restored = catalog.restore(config, {key: value.clone() for key, value in catalog.tensors(model).items()})
    read = inputs() if name == "fusion" else Inputs(None, image=inputs().image)
    assert torch.equal(model.states(read), restored.states(read)) and set(catalog.tensors(model)) == set(model.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = make(name)
    states = model.states(inputs() if name == "fusion" else Inputs(None, image=inputs().image))
    (states * torch.linspace(-1, 1, states.numel()).view_as(states)).mean().backward()
    dead = [key for key, each in model.named_parameters() if each.grad is None or float(each.grad.abs().max()) == 0]
    assert [key for key in dead if not key.endswith("key.bias")] == []  # it shifts all scores of a query alike
    assert len(list(model.parameters())) > 8


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128])
def test_cells_are_counted_as_they_come(size: int) -> None:
    made = pictures.Convolutions(16, size)(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert made.shape[2] == made.shape[3] == pictures.cells_of(size) and 4 <= pictures.cells_of(size) <= 8


def rows(count: int, seed: int = 3) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [MAKERS["see"](draw, number) for number in range(count)]


def gradient(task: See, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    body = make("fusion", vocab_size=300, image_size=task.size, bins=task.bins)
    torch.manual_seed(1)
    made = Headed(body, task.head(body.width))
    with torch.no_grad():
        made.head.weight.normal_()
    gradients = Gradients(made, task.objective(), "fp32", 0)
    gradients.begin(batches)
    for micro, batch in enumerate(batches):
        gradients.add(batch, 0, micro)
    gradients.finish()
    return {name: each.grad.clone() for name, each in made.named_parameters()}


def test_micro_batches_equal_one_batch() -> None:
    examples = rows(12)
    task, tokenizer = See.fit(examples), train_characters([each.get("text", "") for each in examples])
    assert task.senses == ("image", "text", "audio") and (task.size, task.rate) == (16, 8000) and task.objective().additive
    batch = trainer.to_tensors(Rows([task.encode(each, tokenizer) for each in examples], 12, 0, tokenizer.pad_id).batch(0))
    assert 0 < int(batch["pictures"].sum()) < 12 and int((batch["lengths"] == 0).sum()) and int((batch["frames_lengths"] == 0).sum())
    whole = gradient(task, [batch])
    for sizes in ([6, 6], [1, 11], [5, 4, 2, 1]):
        parts = zip(*(value.split(sizes) for value in batch.values()), strict=True)
        split = gradient(task, [dict(zip(batch, part, strict=True)) for part in parts])
        for name, value in whole.items():
            if name.endswith("key.bias"):
                continue  # it shifts all scores of a query alike: its gradient is rounding
            assert float((split[name] - value).abs().max()) <= 1e-5 * float(value.abs().max()) + 1e-8, name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("see")
    (where / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows(160)), encoding="utf-8")
    prepare(where / "rows.jsonl", where / "corpus", Prepare(task="see", validation=0.15, test=0.25))
    return where


def test_stopped_and_resumed_is_uninterrupted_to_the_bit(place: Path) -> None:
    form = {**SMALL, "steps": 16, "saves": 4}
    train(place / "corpus", place / "whole", form)
    told: list[str] = []

    def tell(code: str, **values: Any) -> None:
        told.append(code)
        if code == "train.progress" and values["step"] >= 9 and "train.resumed" not in told:
            raise Stopped(15)

    with pytest.raises(Stopped):
        train(place / "corpus", place / "parts", form, tell=tell)
    train(place / "corpus", place / "parts", form, tell=tell)
    assert "train.resumed" in told
    for name in ("model.safetensors", "task.json", "golden.json"):
        assert (place / "whole" / name).read_bytes() == (place / "parts" / name).read_bytes(), name


def test_rows_of_pictures_alone_train_a_model_that_only_sees(place: Path) -> None:
    seen = [{name: each[name] for name in ("image", "label")} for each in rows(200, 5) if "image" in each]
    (place / "seen.jsonl").write_text("".join(json.dumps(each) + "\n" for each in seen), encoding="utf-8")
    prepare(place / "seen.jsonl", place / "seen", Prepare(task="see", validation=0.1, test=0.3))
    for name in ("vit", "cnn2d"):
        train(place / "seen", place / name, {"model": name, **SMALL, "steps": 40})
        model = load(place / name)
        said = model.predict([{"image": each["image"]} for each in seen])
        assert np.mean([one.value == each["label"] for one, each in zip(said, seen, strict=True)]) > 0.9, name
        assert model.task.senses == ("image",)
        with pytest.raises(DataError, match="text"):
            model.predict([{"text": "warm"}])
    with pytest.raises(UsageError) as caught:
        train(place / "corpus", place / "blind", {"model": "vit", **SMALL})
    assert caught.value.code == "train.senses" and not (place / "blind").exists()


def test_an_optional_field_takes_no_column_that_says_nothing_of_it() -> None:
    of = See.schema
    found = choose(["path", "image", "question", "label", "file"], of, {})
    assert found.names == {"image": "image", "text": "question", "label": "label"}
    assert choose(["picture", "caption", "label"], of, {}).names == {"image": "picture", "label": "label"}
    assert choose(["img", "question", "answer"], of, {"label": "answer"}).names == {"image": "img", "text": "question", "label": "answer"}
    assert choose(["img", "question", "answer"], of, {"label": "answer"}, without=["img"]).names == {"text": "question", "label": "answer"}
    assert choose(["wav", "class"], of, {}).names == {"audio": "wav", "label": "class"}


def test_a_column_that_is_left_out_is_not_read_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows(80)), encoding="utf-8")
    how = Prepare(task="see", without="image", validation=0.1, test=0.1, drop_bad=True)
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", how)
    found = list(open_corpus(tmp_path / "corpus").examples("train"))
    assert found and not any("image" in each for each in found)


def test_a_picture_that_cannot_be_read_is_named_wherever_it_comes_in(place: Path) -> None:
    broken = media.data_url(b"\x89PNG nothing", "image/png")
    task = See(("a", "b"), ("image",), 16)
    with pytest.raises(DataError) as caught:
        task.encode({"image": broken}, None)
    assert caught.value.code == "task.medium" and caught.value.values["reason"] == "unreadable_image"
    lines = [json.dumps(each) for each in rows(20)]
    lines[7] = json.dumps({"image": broken, "text": "x", "label": "red"})
    (place / "bad.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=r"bad\.jsonl:8") as caught:
        prepare(place / "bad.jsonl", place / "bad", Prepare(task="see"))
    assert "unreadable_image" in caught.value.text()


def test_what_is_missing_or_misspelt_is_told(place: Path, tmp_path: Path) -> None:
    told: list[tuple[str, Any]] = []
    train(place / "corpus", tmp_path / "model", {**SMALL, "steps": 1})
    image = next(each["image"] for each in rows(20) if "image" in each)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": image, "qestion": "x"}) + "\n" + '{"image": "no.png"}\n', encoding="utf-8")
    counts = predict_rows(tmp_path / "model", tmp_path / "rows.jsonl", tmp_path / "out.jsonl", tell=lambda *a, **v: told.append((a, v)))
    assert (("predict.lacking",), {"name": "text", "columns": "image, qestion"}) in told
    assert counts["problems"] == 1 and "(no.png)" in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()[1]
    columns = choose(["image", "audio", "label"], See.schema, {})
    (tmp_path / "ok.png").write_bytes(media.content_of(image))
    row = {"image": "ok.png", "audio": "no.wav", "label": "red"}
    assert columns.files(row, tmp_path / "rows.jsonl", "media_missing") == ["no.wav"], "only what is at fault"
    assert columns.files({"image": f" {image}", "audio": 7}, tmp_path / "rows.jsonl", "media_missing") == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"RIFF nothing", "sound.unreadable"),
        (media.wav(np.ones(4000 * 31) / 2, 4000), "task.medium"),
        (media.wav(np.ones(3000) / 2, 4000), "sound.rate"),
        (media.wav(np.ones(20) / 2, 8000), "sound.no_frame"),
    ],
)
def test_a_sound_that_cannot_be_heard_is_named(content: bytes, code: str) -> None:
    task = See(("a", "b"), ("audio",), rate=8000)
    with pytest.raises(DataError) as caught:
        task.encode({"audio": media.data_url(content, "audio/wav")}, train_characters(["a"]))
    assert caught.value.code == code


def test_pixels_tell_colours_apart_and_come_back() -> None:
    source = np.random.default_rng(0)
    labels = source.integers(0, 2, 200)
    images = source.integers(0, 200, (200, 3, 8, 8)) + 40 * labels[:, None, None, None]
    model = Pixels.fit(images.astype(np.uint8), labels, 3, 10.0)
    again = catalog.restore(catalog.config(model), catalog.tensors(model))
    p = again.probabilities(list(images.astype(np.uint8)))
    assert np.allclose(p.sum(1), 1) and (p.argmax(1) == labels).mean() > 0.9 and p[:, 2].max() < 1e-6
    large = images.astype(np.uint8).repeat(2, 2).repeat(2, 3)
    assert np.allclose(again.probabilities(list(large)), p), "a larger picture is averaged"
    with pytest.raises(UsageError):
        Pixels.fit(images, labels, 3, -1.0)


def test_golden_names_and_shapes() -> None:
    found = {}
    for name, config in FAMILIES.items():
        torch.manual_seed(11)
        found[name] = {key: list(each.shape) for key, each in catalog.tensors(catalog.build(config)).items()}
    path = Path(__file__).parent.parent / "golden" / "sights.json"
    if os.environ.get("ZHIXING_WRITE_GOLDEN") == "1":
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    assert found == json.loads(path.read_text(encoding="utf-8"))
