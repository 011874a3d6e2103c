"""Pretrained models of other programs: what is read, and that whatever is wrong with a file is told, never run, never guessed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf_maker
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from zhixing import evaluate, import_model, load, prepare
from zhixing.core.errors import DataError, UsageError, ZhixingError
from zhixing.data.gguf import GGUF, unpack
from zhixing.importing.sources import open_source
from zhixing.layers.kinds import Inputs
from zhixing.layers.positions import stretched
from zhixing.models import catalog
from zhixing.models.gguf import LLAMA3
from zhixing.tokens import chat
from zhixing.tokens.bpe import alphabet
from zhixing.tokens.tokenizer import Tokenizer

TEXT = "the <|im_end|> 42 é 中\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("import")
    gguf_maker.write(where / "tiny.gguf", *gguf_maker.llama())
    import_model(where / "tiny.gguf", where / "model")
    return where


@pytest.fixture
def folder(place: Path, tmp_path: Path) -> Path:
    """Make a folder as another program writes it: the imported model's own files without ours."""
    made = tmp_path / "theirs"
    made.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "generation_config.json"):
        shutil.copy(place / "model" / name, made / name)
    kept = json.loads((place / "model" / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({name: kept[name] for name in kept if name != "zhixing"}))
    return made


def test_every_verb_works_on_it(place: Path, tmp_path: Path) -> None:
    model = load(place / "model")
    tokenizer = model.tokenizer
    assert tokenizer.sort == "imported" and model.family == "llama" and tokenizer.vocabulary_size == model.model.vocabulary
    assert (tokenizer.end_id, tokenizer.pad_id, tokenizer.opening, set(tokenizer.ends)) == (0, 2, (), {0, 2}) and tokenizer.barred == (1,)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT and not set(ids.tolist()) & set(tokenizer.controls), "a control token's name is text"
    assert tokenizer.token_bytes(0) == b"" and bytes(tokenizer.token_bytes(each)[0] for each in tokenizer.byte_ids) == bytes(range(256))
    written = model.generate("the the", temperature=0, max_tokens=5)
    assert written == model.generate("the the", temperature=0, max_tokens=5) and 1 not in written.tokens
    assert model.generate("", max_tokens=3, seed=1).tokens
    assert model.score("the he").bits_per_byte > 0 and model.embed(["the", "he"]).shape == (2, 64)
    (tmp_path / "text.txt").write_text("the he the\n\n" * 80)
    prepare(tmp_path / "text.txt", tmp_path / "corpus")
    report = evaluate(place / "model", tmp_path / "corpus", save=False, samples=0, rivals=False)
    assert report.figures[0].name == "bits_per_byte" and 0 < report.figures[0].value < 60
    again = Tokenizer.load(place / "model")
    assert again.hash == tokenizer.hash


def test_a_folder_gives_the_same_model_as_the_file(place: Path, folder: Path, tmp_path: Path) -> None:
    import_model(folder, tmp_path / "again")
    one, two = (load(each) for each in (place / "model", tmp_path / "again"))
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        assert torch.equal(*(each.model.logits(each.model.states(Inputs(tokens))) for each in (one, two)))
    assert one.tokenizer.hash == two.tokenizer.hash and two.folder.card["imported"].keys() >= {"model.safetensors", "tokenizer.json"}


def test_parts_and_half_precision_are_read(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    names = sorted(whole)
    (folder / "model.safetensors").unlink()
    index = {}
    for number, some in enumerate((names[::2], names[1::2])):
        save_file({name: whole[name].astype(np.float16) for name in some}, folder / f"part-{number}.safetensors")
        index |= dict.fromkeys(some, f"part-{number}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = open_source(folder).tensors
    assert sorted(found) == names and all(np.allclose(found[name], whole[name], atol=2e-3) for name in names)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(DataError) as caught:
        open_source(folder)
    assert caught.value.code == "file.missing" and "part-1" in str(caught.value)


def test_qwen2_and_mistral_become_llama(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for name in ("rope_parameters", "dropout"):
        config.pop(name)
    tensors = load_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mistral", "sliding_window": 20}))
    assert open_source(folder).config | {"model_type": "llama", "max_position_embeddings": 20} == open_source(folder).config
    for told, window in (({}, 4096), ({"sliding_window": None}, 5000)):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": "mistral", "max_position_embeddings": 5000, **told}))
        assert open_source(folder).config["max_position_embeddings"] == window
    biases = {name.replace(".weight", ".bias"): value[:, 0] for name, value in tensors.items() if name[-13:-8] in "q_pro k_pro v_pro"}
    save_file({**tensors, **{name: np.ascontiguousarray(value) for name, value in biases.items()}}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "qwen2", "sliding_window": 20, "use_sliding_window": False}))
    found = open_source(folder)
    assert found.config["attention_bias"] and found.config["max_position_embeddings"] == 64
    assert not found.tensors["model.layers.0.self_attn.o_proj.bias"].any()
    catalog.restore(found.config, found.tensors)


def changed(name: str, value: Any) -> Any:
    """Give what sets one setting of a folder's config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, name: value}))

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def outside(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))


def halved(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def shrunk(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].copy()
    save_file(tensors, folder / "model.safetensors")


def lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def unsound(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = np.where(np.arange(64) == 5, np.nan, tensors["model.norm.weight"]).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def worded(change: Any) -> Any:
    """Give what changes a folder's tokenizer.json."""

    def spoil(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        change(value)
        (folder / "tokenizer.json").write_text(json.dumps(value))

    return spoil


def shifted(folder: Path) -> None:
    """Leave a hole in the ids, which the library fills: it would give the token another one."""
    more = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    worded(lambda value: value["added_tokens"].append({**more, "content": "<tool>", "id": 270}))(folder)
    changed("vocab_size", 280)(folder)
    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.concatenate([table, table[: 280 - len(table)]])
    save_file(tensors, folder / "model.safetensors")


def piped(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("spoil", "code", "word"),
    [
        (changed("model_type", "mamba"), "import.architecture", "mamba"),
        (changed("model_type", ["llama"]), "import.architecture", "llama"),
        (changed("hidden_act", "relu"), "import.config", "hidden_act"),
        (changed("num_experts", 8), "import.config", "num_experts"),
        (changed("rope_parameters", {"rope_type": "yarn", "factor": 4}), "model.config_value", "yarn"),
        (changed("rope_parameters", {"rope_type": "llama3", "factor": 4}), "model.config_value", "low_freq_factor"),
        (changed("hidden_size", None), "import.config_missing", "hidden_size"),
        (changed("quantization_config", {"quant_method": "gptq"}), "import.quantization", "gptq"),
        (changed("vocab_size", 100), "model.tensor_shape", "embed_tokens"),
        (changed("vocab_size", "262"), "import.config", "whole number"),
        (changed("num_attention_heads", 0), "import.config", "num_attention_heads"),
        (changed("num_key_value_heads", 3), "model.config_value", "num_key_value_heads"),
        (changed("num_hidden_layers", 3), "model.tensor_missing", "model.layers.2"),
        (changed("num_hidden_layers", 10**9), "model.tensor_missing", "model.layers"),
        (changed("rms_norm_eps", "1e-5"), "import.config", "rms_norm_eps"),
        (changed("hidden_size", -64), "import.config", "hidden_size"),
        (changed("max_position_embeddings", 64.0), "import.config", "max_position_embeddings"),
        (changed("tie_word_embeddings", "yes"), "import.config", "tie_word_embeddings"),
        (changed("rope_scaling", "linear"), "import.config", "rope_scaling"),
        (changed("rope_parameters", [1]), "import.config", "rope_parameters"),
        (changed("rope_parameters", {"rope_type": ["linear"]}), "import.config", "rope_type"),
        (changed("rope_parameters", {"rope_theta": 5e5}), "import.config", "rope_theta"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "file.not_json", "config.json"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "file.not_json", "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "import.no_config", "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "import.tokenizer", "tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "import.tokenizer", "model"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("7"), "file.not_json", "tokenizer_config.json"),
        (piped, "import.file", "tokenizer.json"),
        (pickled, "import.weights", "pytorch_model.bin"),
        (outside, "import.shard", "../other"),
        (halved, "import.safetensors", "model.safetensors"),
        (shrunk, "model.tensor_shape", "model.norm.weight"),
        (lacking, "model.tensor_missing", "model.norm.weight"),
        (unsound, "import.number", "model.norm.weight"),
        (shifted, "import.tokenizer", "another id"),
        (worded(lambda value: value["model"].update(type="WordLevel")), "import.tokenizer", "WordLevel"),
        (worded(lambda value: value["model"]["vocab"].clear()), "import.tokenizer", "none of the 256 bytes"),
        (
            worded(lambda value: value["added_tokens"].append({**value["added_tokens"][0], "content": "", "id": 300})),
            "import.tokenizer",
            "300",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder: Path, tmp_path: Path, spoil: Any, code: str, word: str) -> None:
    spoil(folder)
    with pytest.raises(DataError) as caught:
        import_model(folder, tmp_path / "out")
    assert caught.value.code == code and word in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["theirs"], "nothing is left behind"


def test_rotations_are_read_wherever_they_are_told(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["rope_theta"]
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}))
    assert catalog.build(open_source(folder).config).config.rope_theta == 5e5
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 7e4, "rope_parameters": None}))
    assert catalog.build(open_source(folder).config).config.rope_theta == 7e4
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "rope_parameters"}))
    assert catalog.build(open_source(folder).config).config.rope_theta == 1e4


@pytest.mark.parametrize("told", [{"llama.rope.scaling.factor": 4.0}, {"llama.rope.scale_linear": 4.0}])
def test_a_stretch_without_its_sort_is_linear(tmp_path: Path, told: dict[str, Any]) -> None:
    assert open_source(spoilt(tmp_path / "a.gguf", told)).config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


def test_rotations_that_a_file_slows_pair_by_pair_are_those_of_llama_3(tmp_path: Path) -> None:
    plain = open_source(spoilt(tmp_path / "plain.gguf")).config
    waves = 2 * np.pi * plain["rope_theta"] ** (np.arange(0, plain["head_dim"], 2) / plain["head_dim"])  # tokens a turn
    share = (8192 / waves - 1) / (4 - 1)
    factors = np.where(waves < 8192 / 4, 1, np.where(waves > 8192, 8, 1 / ((1 - share) / 8 + share))).astype(np.float32)
    assert len(set(factors.tolist())) > 2 and factors.min() == 1 and factors.max() == 8
    found = open_source(spoilt(tmp_path / "a.gguf", **{"rope_freqs.weight": factors}))
    stretch = found.config["rope_scaling"]
    assert stretch == {"rope_type": "llama3", "factor": 8.0, **LLAMA3} and "rope_freqs.weight" not in found.tensors
    turns = torch.tensor(2 * np.pi / waves)
    assert torch.allclose(stretched(turns, stretch), turns / torch.tensor(factors))
    catalog.restore(found.config, found.tensors)
    assert open_source(spoilt(tmp_path / "b.gguf", **{"rope_freqs.weight": np.ones_like(factors)})).config == plain
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    for wrong, told in ((factors * 2, {}), (factors[:1], {}), (factors * np.nan, {}), (factors, linear)):
        with pytest.raises(DataError, match="rope_freqs"):
            open_source(spoilt(tmp_path / "c.gguf", told, **{"rope_freqs.weight": wrong}))


def test_tensors_that_share_a_place_are_refused(tmp_path: Path) -> None:
    content = spoilt(tmp_path / "a.gguf").read_bytes()
    name = gguf_maker.string("blk.0.attn_v.weight")
    place = content.index(name) + len(name) + 4 + 16 + 4
    (tmp_path / "b.gguf").write_bytes(content[:place] + (0).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(DataError) as caught:
        GGUF(tmp_path / "b.gguf")
    assert caught.value.code == "import.gguf" and "within another" in str(caught.value)


@pytest.mark.parametrize("after", [[], [{"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}]])
def test_what_opens_a_text_is_found_whatever_else_is_added(folder: Path, tmp_path: Path, after: list[Any]) -> None:
    pieces = [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    special = {name: {"id": name, "ids": [place], "tokens": [name]} for name, place in (("<|im_start|>", 1), ("<|im_end|>", 2))}
    template = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": special}
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    worded(lambda value: value.update(post_processor=template, padding=padding))(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about.pop("add_bos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    import_model(folder, tmp_path / "model")
    model = load(tmp_path / "model")
    assert (
        model.tokenizer.opening == (1,)
        and model.tokenizer.encode("the").tolist() == Tokenizer.load(tmp_path / "model").encode("the").tolist()
    )
    assert 1 not in model.tokenizer.encode("the") and model.generate("", max_tokens=2, seed=3).tokens


def test_a_token_that_the_settings_alone_tell_of_is_one(folder: Path, tmp_path: Path) -> None:
    content, about = (json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = content["model"]
    dropped, last = max(model["vocab"].items(), key=lambda each: each[1])
    del model["vocab"][dropped]
    model["merges"] = [each for each in model["merges"] if (each if isinstance(each, str) else " ".join(each)).replace(" ", "") != dropped]
    last -= 1
    assert last + 1 == size - 1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    told = {str(last + 1): {"content": "<|user|>", "special": True}, str(size): {"content": "<|beyond|>", "special": True}}
    template = "{% for each in messages %}<|user|>{{ each['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "added_tokens_decoder": told, "chat_template": template}))
    import_model(folder, tmp_path / "ours")
    tokenizer = load(tmp_path / "ours").tokenizer
    assert tokenizer.controls[last + 1] == "<|user|>" and "<|beyond|>" not in tokenizer.controls.values()
    assert chat.ids(tokenizer, [{"role": "user", "content": "<|user|>"}]) == [last + 1, *tokenizer.encode("<|user|>")]
    assert last + 1 not in tokenizer.encode("<|user|>")
    known = {str(last + 1): {"content": "<|im_end|>", "special": True}}  # which has a place
    known |= {str(last): {"content": "  ", "special": False}}  # whose place has a name
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "added_tokens_decoder": known}))
    open_source(folder)
    for wrong in ({"a": {"content": "x"}}, {str(last + 1): {"content": 3}}, [1], {str(last + 1): {"content": ""}}):
        (folder / "tokenizer_config.json").write_text(json.dumps({**about, "added_tokens_decoder": wrong}))
        with pytest.raises(DataError, match="tokenizer"):
            open_source(folder)


def test_a_byte_without_a_token_is_told_and_not_lost(tmp_path: Path) -> None:
    own, tensors = gguf_maker.llama()
    tokens = own["tokenizer.ggml.tokens"]
    gone = tokens.index(alphabet()[0xC3])  # é is 0xC3 0xA9
    gguf_maker.write(tmp_path / "a.gguf", {**own, "tokenizer.ggml.tokens": [*tokens[:gone], "zz", *tokens[gone + 1 :]]}, tensors)
    import_model(tmp_path / "a.gguf", tmp_path / "model")
    model = load(tmp_path / "model")
    assert model.tokenizer.decode(model.tokenizer.encode("the 中 e")) == "the 中 e" and model.tokenizer.byte_ids[0xC3] is None
    for ask in (model.tokenizer.encode, model.generate, model.score, lambda text: model.tokenizer.encode_batch(["a", text])):
        with pytest.raises(DataError) as caught:
            ask("caf\u00e9")
        assert caught.value.code == "tokens.byte" and "0xC3" in str(caught.value)


def test_places_are_checked_before_anything_is_read(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        import_model(tmp_path / "nothing", tmp_path / "out")
    assert caught.value.code == "import.source"
    with pytest.raises(UsageError) as caught:
        import_model(place / "tiny.gguf", place / "model")
    assert caught.value.code == "output.exists"


def spoilt(path: Path, settings: dict[str, Any] | None = None, without: str = "", **named: Any) -> Path:
    """Write a tiny file with other settings, or without some tensors."""
    own, tensors = gguf_maker.llama()
    kept = {name: value for name, value in tensors.items() if not without or without not in name}
    return gguf_maker.write(path, {**own, **(settings or {})}, {**kept, **named})


@pytest.mark.parametrize(
    ("settings", "without", "code", "word"),
    [
        ({"general.architecture": "falcon"}, "", "import.architecture", "falcon"),
        ({"general.alignment": 0}, "", "import.gguf", "alignment"),
        ({"general.architecture": [1, 2]}, "", "import.architecture", "1"),
        ({"llama.block_count": 3}, "", "import.config", "block_count"),
        ({"llama.block_count": 10_000_000}, "", "import.config", "block_count"),
        ({"llama.attention.head_count": [4, 4]}, "", "import.config", "head_count"),
        ({"llama.attention.head_count": "4"}, "", "import.config", "head_count"),
        ({"llama.attention.head_count_kv": 0}, "", "import.config", "head_count_kv"),
        ({"llama.rope.dimension_sections": [4, 4]}, "", "import.config", "dimension_sections"),
        ({"llama.rope.scaling.factor": [2, 2]}, "", "import.config", "factor"),
        ({"llama.rope.scaling.type": [2, 2]}, "", "import.config", "scaling.type"),
        ({"llama.attention.clamp_kqv": 8.0}, "", "import.config", "clamp_kqv"),
        ({"llama.rope.scaling.attn_factor": 2.0}, "", "import.config", "attn_factor"),
        ({"tokenizer.ggml.pre": [1]}, "", "import.tokenizer", "split"),
        ({"llama.expert_count": 8}, "", "import.config", "expert_count"),
        ({"llama.rope.scaling.type": "yarn"}, "", "import.config", "yarn"),
        ({"llama.rope.dimension_count": 8}, "", "import.config", "dimension_count"),
        ({"llama.attention.head_count": 3}, "", "import.config", "dimension_count"),
        ({"tokenizer.ggml.pre": "strange"}, "", "import.tokenizer", "strange"),
        ({"tokenizer.ggml.model": "t5"}, "", "import.tokenizer", "t5"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "", "import.tokenizer", "token_type"),
        ({}, "token_embd", "model.tensor_missing", "token_embd"),
        ({}, "blk.1.ffn_up", "model.tensor_missing", "mlp.up_proj"),
    ],
)
def test_what_is_wrong_with_a_gguf_file_is_named(tmp_path: Path, settings: dict[str, Any], without: str, code: str, word: str) -> None:
    with pytest.raises(DataError) as caught:
        import_model(spoilt(tmp_path / "a.gguf", settings, without), tmp_path / "out")
    assert caught.value.code == code and word in str(caught.value)


def test_a_tensor_that_no_model_has_and_a_form_that_is_not_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_source(spoilt(tmp_path / "a.gguf", **{"blk.0.attn_lora.weight": np.ones((32, 32), np.float32)}))
    assert caught.value.code == "import.tensor" and "attn_lora" in str(caught.value)
    content = (tmp_path / "a.gguf").read_bytes()
    name = gguf_maker.string("token_embd.weight")
    place = content.index(name) + len(name) + 4 + 16
    (tmp_path / "b.gguf").write_bytes(content[:place] + (14).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "b.gguf")
    assert caught.value.code == "import.quantization" and "Q6_K" in str(caught.value) and "Q8_0" in str(caught.value)


def test_a_file_cut_anywhere_or_of_any_noise_is_refused_and_never_more_is_read_than_there_is(place: Path, tmp_path: Path) -> None:
    content = (place / "tiny.gguf").read_bytes()
    head = 12_000
    draw = np.random.default_rng(0)
    spoilt = [content[:cut] for cut in (*range(64), *draw.integers(64, len(content), 60).tolist(), len(content) - 33)]
    refused = 0
    for number in range(200):
        noisy = bytearray(content)
        for where in draw.integers(4, head, 1 + number % 4).tolist():
            noisy[where] = int(draw.integers(256))
        spoilt.append(bytes(noisy))
    spoilt += [b"GGUF" + bytes([3, 0, 0, 0]) + b"\xff" * 16, b"GGUF" + bytes([9, 0, 0, 0]) + bytes(16), b"", b"PK\x03\x04" + bytes(100)]
    for number, each in enumerate(spoilt):
        path = tmp_path / f"{number % 2}.gguf"
        path.write_bytes(each)
        try:
            GGUF(path)
        except ZhixingError:
            refused += 1
    assert refused >= 64 + 60 + 1 + 4, "each that is cut, and each that is nothing"


@pytest.mark.parametrize(("form", "raw", "numbers"), [
    ("F32", np.array([1.5, -2], "<f4"), [1.5, -2]),
    ("F16", np.array([1.5, -2], "<f2"), [1.5, -2]),
    ("BF16", np.array([0x3FC0, 0xC000], "<u2"), [1.5, -2]),
    ("Q8_0", b"\x00\x3c" + bytes([1, 255] * 16), [1, -1] * 16),
    ("Q4_0", b"\x00\x40" + bytes([0x8A] * 16), [4.0] * 16 + [0.0] * 16),
    ("Q4_1", b"\x00\x40\x00\x3c" + bytes([0x21] * 16), [3.0] * 16 + [5.0] * 16),
    ("Q5_0", b"\x00\x3c" + bytes([1, 0, 1, 0]) + bytes([0x21] * 16), [1.0] + [-15.0] * 15 + [2.0] + [-14.0] * 15),
])  # fmt: skip
def test_forms_of_weights_by_hand(form: str, raw: Any, numbers: list[float]) -> None:
    assert unpack(form, np.frombuffer(raw if isinstance(raw, bytes) else raw.tobytes(), np.uint8)).tolist() == numbers
