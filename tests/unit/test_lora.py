"""LoRA: what is attached changes nothing until it has learnt, learns as the formula says, and leaves the base as it was."""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf_maker
import pytest
import torch
import whisper_maker
from makers import MAKERS
from safetensors.torch import load_file, save_file
from stops import Once
from torch import nn
from wordpiece_maker import folder as encoder

from zhixing import evaluate, export_model, import_model, load, prepare, train
from zhixing.cli.app import main
from zhixing.core.errors import DataError, UsageError
from zhixing.core.files import sha256
from zhixing.core.folder import open_folder
from zhixing.core.stop import Stopped
from zhixing.data.corpus import open_corpus
from zhixing.importing import vocabulary
from zhixing.layers import lora
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog
from zhixing.preparation.prepare import Prepare
from zhixing.serving.served import open_models
from zhixing.tasks import adapter
from zhixing.tokens import chat
from zhixing.tokens.tokenizer import Tokenizer
from zhixing.training.ready import choose
from zhixing.training.settings import LATER, as_dict, settle
from zhixing.training.train import fingerprint, identify

TEXT = "the old river runs by the old mill\n" * 300
SETTINGS: dict[str, Any] = {"lora": 4, "steps": 12, "precision": "fp32", "threads": 1, "window": 32, "batch": 4, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("lora")
    gguf_maker.write(where / "base.gguf", *gguf_maker.llama())
    import_model(where / "base.gguf", where / "base")
    (where / "text.txt").write_text(TEXT)
    prepare(where / "text.txt", where / "corpus", Prepare(task="language"))
    train(where / "corpus", where / "adapter", {**SETTINGS, "start": str(where / "base")})
    return where


def linear(bias: bool = True) -> tuple[nn.Module, nn.Module]:
    """Give a small model adapted, its B not zero any more, and the same as plain products by autograd."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4, bias=bias))
    adapted = copy.deepcopy(plain)
    lora.attach(adapted, 2, 3.0)
    for each in lora.found(adapted).values():
        nn.init.normal_(each.lora_B.weight)
    return plain, adapted


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_formula(bias: bool) -> None:
    plain, adapted = linear(bias)
    x = torch.randn(3, 7, 6)
    low = [tuple(p.detach().clone().requires_grad_() for p in (m.lora_A.weight, m.lora_B.weight)) for m in lora.found(adapted).values()]
    before = [x.clone().requires_grad_() for _ in range(2)]

    def wanted(x: torch.Tensor) -> torch.Tensor:
        for map_, (a, b) in zip((plain[0], plain[2]), low, strict=True):
            x = map_(x) + 1.5 * (x @ a.T @ b.T)
            x = x.tanh() if map_ is plain[0] else x
        return x

    ours, theirs = adapted(before[0]), wanted(before[1])
    assert torch.allclose(ours, theirs, atol=1e-6)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    assert torch.allclose(before[0].grad, before[1].grad, rtol=1e-4, atol=1e-5)
    for each, (a, b) in zip(lora.found(adapted).values(), low, strict=True):
        assert torch.allclose(each.lora_A.weight.grad, a.grad, rtol=1e-4, atol=1e-5)
        assert torch.allclose(each.lora_B.weight.grad, b.grad, rtol=1e-4, atol=1e-5)
        assert each.weight.grad is None and not each.weight.requires_grad


def test_what_is_attached_changes_nothing_at_first_and_no_name() -> None:
    config = {"model_type": "llama", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16}  # fmt: skip
    model = catalog.build(config)
    for each in model.parameters():
        nn.init.normal_(each, 0.0, 0.3)
    inputs = Inputs(torch.arange(8)[None])
    before, names = model.states(inputs).detach(), set(model.state_dict())
    held = {name: value.clone() for name, value in model.state_dict().items()}
    lora.attach(model, 2, 4.0)
    assert torch.allclose(model.states(inputs), before, atol=1e-6)
    assert {name for name in model.state_dict() if "lora_" not in name} == names
    assert len(lora.found(model)) == 14 and not any("lm_head" in name for name in lora.found(model))
    for each in lora.found(model).values():
        nn.init.normal_(each.lora_B.weight)
    now, learnt = model.states(inputs).detach(), lora.tensors(model)
    lora.merge(model)
    assert set(model.state_dict()) == names and torch.allclose(model.states(inputs), now, atol=1e-4)
    assert not lora.found(model) and type(model.model.layers[0].mlp.up_proj) is nn.Linear
    lora.unmerge(model, learnt, 2, 4.0)
    assert all(torch.allclose(model.state_dict()[name], value, atol=1e-5) for name, value in held.items())
    assert torch.allclose(model.states(inputs), now, atol=1e-4)
    with pytest.raises(UsageError, match="up_proj"):
        lora.attach(catalog.build(config), 2, 4.0, ["nothing"])
    some = catalog.build(config)
    lora.attach(some, 2, 4.0, ["q_proj", "model.layers.1.mlp.up_proj"])
    assert sorted(lora.found(some)) == ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"]
    assert lora.endings(some) == ["1.mlp.up_proj", "q_proj"]


def test_the_maps_of_gpt2_lie_turned() -> None:
    model = catalog.build({"model_type": "gpt2", "vocab_size": 9, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 16})
    for each in model.parameters():
        nn.init.normal_(each, 0.0, 0.3)
    lora.attach(model, 2, 4.0)
    for each in lora.found(model).values():
        nn.init.normal_(each.lora_B.weight)
    inputs = Inputs(torch.arange(6)[None])
    now = model.states(inputs).detach()
    assert set(lora.found(model)) == {f"transformer.h.0.{each}" for each in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert torch.allclose(lora.merge(model).states(inputs), now, atol=1e-4)
    lora.attach(model, 2, 4.0, ["attn.c_proj"])
    assert lora.endings(model) == ["attn.c_proj"], "the other c_proj is not adapted"


def test_a_training_makes_an_adapter_and_leaves_its_base_alone(place: Path) -> None:
    before, opened = load(place / "base"), load(place / "adapter")
    assert opened.folder.kind == "adapter" and not (place / "adapter" / "model.safetensors").exists()
    assert (place / "adapter" / adapter.ADAPTER).stat().st_size < (place / "base" / "model.safetensors").stat().st_size / 3
    state = opened.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.model.state_dict().items())
    one, other = (evaluate(place / each, place / "corpus", rivals=False, save=False).figures[0].value for each in ("adapter", "base"))
    assert one < other - 1, "it has learnt"
    checkpoint = next((place / "adapter" / "checkpoints").iterdir())
    assert all("lora_" in name for name in load_file(checkpoint / "model.safetensors"))
    told = json.loads((place / "adapter" / adapter.ADAPTER_CONFIG).read_text())
    assert (told["r"], told["lora_alpha"], told["peft_type"]) == (4, 8.0, "LORA") and "q_proj" in told["target_modules"]


def test_it_goes_on_where_it_was_stopped(place: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "start": str(place / "base"), "saves": 4}
    train(place / "corpus", tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        train(place / "corpus", tmp_path / "parts", settings, stop=Once(6))
    train(place / "corpus", tmp_path / "parts", settings)
    one, other = (load_file(tmp_path / each / adapter.ADAPTER) for each in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_in_bfloat16_large_weights_are_halves_and_answers_are_of_whole_ones(place: Path, tmp_path: Path) -> None:
    train(place / "corpus", tmp_path / "half", {**SETTINGS, "start": str(place / "base"), "precision": "bf16"})
    one, other = (
        evaluate(each, place / "corpus", rivals=False, save=False).figures[0].value for each in (tmp_path / "half", place / "adapter")
    )
    assert one == pytest.approx(other, abs=0.1)
    model = load(place / "base").model
    lora.attach(model, 2, 4.0)
    lora.halve(model)
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    assert kinds["model.embed_tokens.weight"] == kinds["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert kinds["model.norm.weight"] == kinds["model.layers.0.mlp.up_proj.lora_A.weight"] == torch.float32
    assert model.states(Inputs(torch.tensor([[3, 4]]))).dtype == torch.float32


def test_over_eight_bits_answers_are_of_whole_ones(place: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "start": str(place / "base"), "lora_base": "int8"}
    train(place / "corpus", tmp_path / "squeezed", settings)
    one, other = (
        evaluate(each, place / "corpus", rivals=False, save=False).figures[0].value for each in (tmp_path / "squeezed", place / "adapter")
    )
    assert one == pytest.approx(other, abs=0.1)
    model = load(place / "base").model
    lora.attach(model, 2, 4.0)
    lora.squeeze(model)
    lora.halve(model)
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    assert kinds["model.layers.0.mlp.up_proj.weight"] == torch.int8 and kinds["model.embed_tokens.weight"] == torch.bfloat16
    assert model.states(Inputs(torch.tensor([[3, 4]]))).dtype == torch.float32
    with pytest.raises(UsageError, match="lora-base"):
        train(place / "corpus", tmp_path / "none", {**settings, "lora": 0})


@pytest.mark.parametrize("bias", [True, False])
def test_a_map_in_eight_bits_is_that_of_the_rounded_weight(bias: bool) -> None:
    plain, squeezed = linear(bias)
    _, rounded = linear(bias)
    lora.squeeze(squeezed)
    for name, part in lora.found(squeezed).items():
        whole = part.weight.float() * part.steps[:, None]
        assert part.weight.dtype == torch.int8 and part.steps.shape == part.weight.shape[:1]
        assert float((whole - plain.get_parameter(f"{name}.weight").detach()).abs().max()) <= float(part.steps.max()) * 0.501
        rounded.get_submodule(name).weight.data = whole
    x = torch.randn(7, 6)
    found = []
    for each in (squeezed, rounded):
        given = x.clone().requires_grad_(True)
        y = each(given)
        y.square().sum().backward()
        found.append([y.detach(), given.grad, *(p.grad for p in each.parameters() if p.requires_grad)])
    assert len(found[0]) == 6 and all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))


def test_heads_and_sounds_are_adapted_too(tmp_path: Path) -> None:
    draw = random.Random(2)
    rows = [MAKERS["classify"](draw, number) for number in range(120)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    prepare(tmp_path / "rows.jsonl", tmp_path / "corpus", Prepare(task="classify", validation=0.2, test=0.2))
    import_model(encoder(tmp_path / "theirs", [each["text"] for each in rows]), tmp_path / "base")
    settings = {"lora": 2, "precision": "fp32", "threads": 1, "batch": 8, "start": str(tmp_path / "base"), "steps": 10}
    train(tmp_path / "corpus", tmp_path / "made", settings)
    opened = load(tmp_path / "made")
    assert (tmp_path / "made" / adapter.HEAD).exists() and opened.folder.card["trained"] < opened.folder.card["parameters"]
    answers = opened.predict(["Ada says fine", "Bo says awful"])
    export_model(tmp_path / "made", tmp_path / "merged", "merged")
    export_model(tmp_path / "made", tmp_path / "numpy")
    for each in ("merged", "numpy"):
        again = load(tmp_path / each).predict(["Ada says fine", "Bo says awful"])
        assert [x.confidence for x in again] == pytest.approx([x.confidence for x in answers], abs=1e-4)
    assert open_folder(tmp_path / "merged", "model").kind == "model"
    train(
        tmp_path / "corpus",
        tmp_path / "further",
        {**settings, "lora": 0, "start": str(tmp_path / "made"), "steps": 1, "learning_rate": 1e-9},
    )
    body, was = load(tmp_path / "further").model.body.state_dict(), load(tmp_path / "merged").model.body.state_dict()
    assert all(torch.allclose(body[name], value, atol=1e-5) for name, value in was.items()), "a training may begin with an adapter's sum"
    whisper = whisper_maker.model()
    lora.attach(whisper, 2, 4.0)
    assert len(lora.found(whisper)) == 2 * 6 + 2 * 10


def test_several_over_one_base_are_one_memory(place: Path) -> None:
    shutil.copytree(place / "adapter", place / "second")
    served = open_models([place / "base", place / "adapter", place / "second"])
    weights = [each.artefact.model.state_dict()["model.layers.0.mlp.up_proj.weight"].data_ptr() for each in served.values()]
    assert len(set(weights)) == 1
    alone = open_models([place / "adapter"])["adapter"].artefact
    assert (
        alone.generate("the", temperature=0, max_tokens=5).text
        == served["second"].artefact.generate("the", temperature=0, max_tokens=5).text
    )
    shutil.rmtree(place / "second")


def test_it_moves_with_its_base_and_refuses_another(place: Path, tmp_path: Path) -> None:
    for name in ("base", "adapter"):
        shutil.copytree(place / name, tmp_path / "moved" / name)
    assert load(tmp_path / "moved" / "adapter").folder.card["base"]["manifest_sha256"] == sha256(place / "base" / "manifest.json")
    card = json.loads((place / "adapter" / "card.json").read_text())["base"]
    folder = open_folder(place / "adapter")
    gone = {**card, "path": str(tmp_path / "none"), "beside": "../none"}
    with pytest.raises(DataError, match="none"):
        adapter.base_of(type(folder)(folder.path, folder.kind, {"base": gone}))
    other = {**card, "manifest_sha256": "0" * 64}
    with pytest.raises(DataError, match="another model"):
        adapter.base_of(type(folder)(folder.path, folder.kind, {"base": other}))


def peft_folder(place: Path, where: Path, **change: Any) -> Path:
    where.mkdir()
    for name in (adapter.ADAPTER, adapter.ADAPTER_CONFIG):
        shutil.copy(place / "adapter" / name, where / name)
    told = json.loads((where / adapter.ADAPTER_CONFIG).read_text()) | change
    (where / adapter.ADAPTER_CONFIG).write_text(json.dumps(told))
    return where


def test_one_that_peft_wrote_is_imported_over_its_base(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = peft_folder(place, tmp_path / "theirs")
    assert main(["import", str(source), str(tmp_path / "ours"), "--base", str(place / "base")]) == 0
    same = [load(each).generate("the old", temperature=0, max_tokens=6).text for each in (tmp_path / "ours", place / "adapter")]
    assert same[0] == same[1]
    for base, code in (("", "no base"), (str(place / "adapter"), "merged")):
        assert main(["import", str(source), str(tmp_path / "not"), *(["--base", base] if base else [])]) != 0
        assert code in capsys.readouterr().err
    assert main(["import", str(place / "base.gguf"), str(tmp_path / "not"), "--base", str(place / "base")]) != 0


def test_one_of_a_single_layer_opens_again_and_brings_its_template(place: Path, tmp_path: Path) -> None:
    source = peft_folder(place, tmp_path / "theirs", target_modules=["layers.1.self_attn.q_proj"])
    kept = {name: value for name, value in load_file(source / adapter.ADAPTER).items() if "layers.1.self_attn.q_proj" in name}
    assert len(kept) == 2
    save_file(kept, source / adapter.ADAPTER)
    template = "{% for each in messages %}USER: {{ each['content'] }}{% endfor %}"
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "eos_token": "<|im_end|>"}))
    shutil.copy(place / "base" / "tokenizer.json", source / "tokenizer.json")
    told = import_model(source, tmp_path / "ours", base=place / "base").card["imported"]
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(told)
    opened, base = load(tmp_path / "ours"), load(place / "base")
    assert list(lora.found(opened.model)) == ["model.layers.1.self_attn.q_proj"]
    asked = [{"role": "user", "content": "hi"}]
    assert chat.ids(opened.tokenizer, asked) == base.tokenizer.encode("USER: hi").tolist() != chat.ids(base.tokenizer, asked)
    assert opened.tokenizer.controls[opened.tokenizer.last_id] == "<|im_end|>" and opened.tokenizer.ends == base.tokenizer.ends
    for none in (None, 5, []):
        (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": none}))
        import_model(source, tmp_path / "ours", base=place / "base", force=True)
        assert chat.ids(load(tmp_path / "ours").tokenizer, asked) == chat.ids(base.tokenizer, asked)
    value = json.loads((source / "tokenizer.json").read_text())
    named = value["model"]["vocab"]
    (first, one), (second, two) = list(named.items())[-2:]
    named |= {first: two, second: one}
    (source / "tokenizer.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match="not those of the base"):
        import_model(source, tmp_path / "not", base=place / "base")


@pytest.mark.parametrize("spare", [True, False])
def test_tokens_that_a_trainer_added_take_places_that_have_none(place: Path, spare: bool) -> None:
    value, size = json.loads((place / "base" / "tokenizer.json").read_text()), load(place / "base").tokenizer.vocabulary_size
    model = value["model"]
    dropped, last = max(model["vocab"].items(), key=lambda each: each[1])
    del model["vocab"][dropped]
    model["merges"] = [each for each in model["merges"] if (each if isinstance(each, str) else " ".join(each)).replace(" ", "") != dropped]
    own = copy.deepcopy(value)
    if spare:
        model["vocab"][f"[UNUSED{last}]"] = last  # as GGUF files call it
    told = {str(last): {"content": "<|eot|>", "special": True}, str(size): {"content": "[PAD]", "special": True}}
    about = {"eos_token": "<|eot|>", "added_tokens_decoder": told}
    found = vocabulary.of_adapter("a", value, own, about, size)
    content, settings = vocabulary.settle("a", json.dumps(found).encode(), {"eos_token": "<|eot|>"}, [], size)
    tokenizer = Tokenizer(content, "a", settings=settings)
    assert tokenizer.controls[last] == "<|eot|>" and tokenizer.last_id == last and tokenizer.vocabulary_size == size
    assert vocabulary.of_adapter("a", value, own, {}, size) == value, "nothing was added"
    own["model"]["vocab"]["other"] = own["model"]["vocab"].pop(next(reversed(own["model"]["vocab"])))
    with pytest.raises(DataError, match="not those of the base"):
        vocabulary.of_adapter("a", value, own, {}, size)
    with pytest.raises(DataError, match="cannot be read"):
        vocabulary.of_adapter("a", value, {"model": {}}, {}, size)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layers_to_transform": 0}, "layers_to_transform"),
        ({"r": 0}, "'r'"),
        ({"r": "4"}, "'r'"),
        ({"r": 3}, "does not fit"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"target_modules": ["up_proj"]}, "does not fit"),
        ({"target_modules": "q|k"}, "target_modules"),
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"lora_bias": True}, "lora_bias"),
        ({"lora_alpha": 1e300}, "lora_alpha"),
        ({"use_rslora": True, "lora_alpha": 9e5}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
    ],
)
def test_another_sort_of_adapter_is_refused_by_name(place: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        import_model(peft_folder(place, tmp_path / "theirs", **change), tmp_path / "ours", base=place / "base")
    assert not (tmp_path / "ours").exists()


def test_a_root_of_the_rank_is_told_as_the_alpha_that_means_the_same(place: Path, tmp_path: Path) -> None:
    made = [peft_folder(place, tmp_path / str(each), r=4, lora_alpha=6, use_rslora=each) for each in (True, False, 0)]
    assert [adapter.read_config(each / "adapter_config.json")[1] for each in made] == [12.0, 6.0, 6.0]


def test_settings_that_cannot_be_are_refused(place: Path, tmp_path: Path) -> None:
    for settings, code in (
        ({"lora": 4}, "--start"),
        ({"lora_alpha": 4.0, "start": str(place / "base")}, "--lora"),
        ({"lora": 4, "start": str(place / "adapter")}, "merged"),
        ({"lora": -1, "start": str(place / "base")}, "lora"),
    ):
        with pytest.raises(UsageError, match=code):
            train(place / "corpus", tmp_path / "out", settings)
    with pytest.raises(UsageError, match="no adapter"):
        export_model(place / "base", tmp_path / "out", "merged")


def test_nothing_that_is_made_of_a_base_takes_its_place(place: Path, tmp_path: Path) -> None:
    for name in ("base", "adapter"):
        shutil.copytree(place / name, tmp_path / name)
    base, made = tmp_path / "base", tmp_path / "adapter"
    source = peft_folder(place, tmp_path / "theirs")
    before = sha256(base / "model.safetensors")
    tries = [
        lambda: train(place / "corpus", base, {"start": str(made), "steps": 2}, force=True),
        lambda: import_model(source, base, base=base, force=True),
        lambda: export_model(made, base, "merged", force=True),
    ]
    card = json.loads((made / "card.json").read_text())
    assert adapter.sources(made)[1:] == [Path(card["base"]["path"]), made / "../base"]
    for each in tries:
        with pytest.raises(UsageError, match="both"):
            each()
        assert sha256(base / "model.safetensors") == before
    with pytest.raises(UsageError, match="already"):
        import_model(made, tmp_path / "again", base=base)


def test_what_stands_at_a_place_stays_until_nothing_can_be_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "adapter", tmp_path / "victim")
    shutil.copytree(place / "adapter", tmp_path / "orphan")
    (tmp_path / "text.txt").write_text(TEXT)
    card = json.loads((tmp_path / "orphan" / "card.json").read_text())
    card["base"] |= {"path": str(tmp_path / "none"), "beside": "../none"}
    (tmp_path / "orphan" / "card.json").write_text(json.dumps(card))
    manifest = json.loads((tmp_path / "orphan" / "manifest.json").read_text())
    manifest["files"]["card.json"] = {"sha256": sha256(tmp_path / "orphan" / "card.json"),
                                      "size_bytes": (tmp_path / "orphan" / "card.json").stat().st_size}  # fmt: skip
    (tmp_path / "orphan" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="none"):
        train(place / "corpus", tmp_path / "victim", {"start": str(tmp_path / "orphan"), "steps": 2}, force=True)
    assert main(["show", str(tmp_path / "orphan")]) != 0
    draw = random.Random(3)
    rows = [MAKERS["classify"](draw, number) for number in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    prepare(tmp_path / "rows.jsonl", tmp_path / "labels", Prepare(task="classify", validation=0.2, test=0.2))
    train(tmp_path / "labels", tmp_path / "cnn", {"model": "textcnn", "size": "tiny", "steps": 1, "batch": 8, "threads": 1})
    with pytest.raises(UsageError, match="linear maps"):
        train(tmp_path / "labels", tmp_path / "victim", {"start": str(tmp_path / "cnn"), "lora": 2, "steps": 2}, force=True)
    assert load(tmp_path / "victim").folder.kind == "adapter"


def test_an_adapter_is_mixed_as_a_whole_model(place: Path, tmp_path: Path) -> None:
    from zhixing.training.train import mix_trained

    mix_trained(place / "corpus", place / "adapter", tmp_path / "mixed", order=2)
    assert load(tmp_path / "mixed").generate("the", temperature=0, max_tokens=3).tokens
    with pytest.raises(UsageError, match="no trained language model"):
        mix_trained(place / "corpus", place / "base", tmp_path / "not", order=2)


def test_the_learning_rate_is_the_adapters_own(place: Path, tmp_path: Path) -> None:
    train(place / "corpus", tmp_path / "own", {"model": "qwen3", "size": "tiny", "width": 16, "steps": 1, "window": 32, "threads": 1})
    for rate in (1e-9, 0.05):
        settings = {"start": str(tmp_path / "own"), "lora": 2, "steps": 3, "precision": "fp32", "threads": 1, "learning_rate": rate}
        train(place / "corpus", tmp_path / str(rate), settings)
    still, moved = (load_file(tmp_path / str(rate) / adapter.ADAPTER) for rate in (1e-9, 0.05))
    learnt = [name for name in still if "lora_B" in name]
    assert all(still[name].abs().max() < 1e-6 < moved[name].abs().max() for name in learnt)


@pytest.mark.parametrize("spoil", ["nan", "ints"])
def test_numbers_that_are_none_are_refused(place: Path, tmp_path: Path, spoil: str) -> None:
    from safetensors.torch import save_file

    source = peft_folder(place, tmp_path / "theirs")
    tensors = load_file(source / adapter.ADAPTER)
    name = next(iter(tensors))
    tensors[name] = tensors[name] * float("nan") if spoil == "nan" else tensors[name].int()
    save_file(tensors, source / adapter.ADAPTER)
    with pytest.raises(DataError, match="lora_A"):
        import_model(source, tmp_path / "out", base=place / "base")


def test_no_rows_and_rows_read_without_gradients_are_mapped_as_they_are() -> None:
    plain, adapted = linear()
    for shape in ((0, 6), (2, 0, 6)):
        assert adapted(torch.zeros(shape)).shape == plain(torch.zeros(shape)).shape
    x = torch.randn(4, 6)
    with torch.inference_mode():
        read = adapted(x)
    assert torch.equal(adapted(x).detach(), read) and adapted(x).requires_grad
    with torch.inference_mode():
        y = torch.randn(4, 6)
        first = adapted(y).clone()
        y.add_(100)
        assert not torch.allclose(adapted(y), first)
    z = torch.randn(4, 6)
    before = adapted(z)
    z.add_(1)
    assert not torch.allclose(adapted(z), before)


def test_a_run_that_an_earlier_version_began_is_known_again(place: Path, tmp_path: Path) -> None:
    """Settings that came later count in what a run is known by only where they are given."""
    corpus = open_corpus(place / "corpus")
    settings = {**SETTINGS, "start": str(place / "base")}
    before = {name: value for name, value in as_dict(settle("language", settings).value).items() if name not in LATER}
    known = identify(corpus, settle("language", settings))
    hashes = [sha256(place / each / "manifest.json") for each in ("corpus", "base")]
    assert known == fingerprint([before, *hashes])
    assert known != identify(corpus, settle("language", {**settings, "lora_base": "int8"}))


@pytest.mark.parametrize(("precision", "rank", "micros"), [("fp32", 4, 4), ("bf16", 4, 2), ("fp32", 0, 1), ("bf16", 0, 1)])
def test_an_adapters_step_is_cut_smaller(precision: str, rank: int, micros: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = settle("language", {"model": "llama", "batch": 8, "window": 256, "precision": precision}).value
    assert choose(replace(settings, lora=rank), "language").accumulate == micros
