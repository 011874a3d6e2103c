"""Stock transformers opens the folders that we write, and we the ones that it writes: logits, token ids and texts are the same."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from zhixing.core.folder import seal
from zhixing.layers.kinds import Inputs
from zhixing.models import catalog
from zhixing.tasks import artefact
from zhixing.tasks.language import Language
from zhixing.tokens.tokenizer import Tokenizer, train_bpe, train_characters, train_unigram, train_words

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing can be opened in it")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
TEXTS = [
    "The quiet old river carries small boats past round stones, and nobody counts them.",
    "大江东去，浪淘尽，千古风流人物。故垒西边，人道是，三国周郎赤壁。",
    "Mixed 中英文 text: 第 3 章, section 4.2 (見圖), price ¥1,299.00!\n\tindented  twice  ",
]
ODD = [
    *("", " ", "\n", "\t\n \r\n", "  two  spaces  ", "don't won't I'm we'll THEY'RE", "a" * 300, "0123456789" * 9),
    *("<|end|>", "<|pad|> <|user|>hi<|assistant|>", "<0x41><0x0A>", "e\u0301 \u00e9 \ufb01 \u3000 \u00a0 \u200b", "naïve café Ω≈ç√"),
    *("👩‍👩‍👧‍👦 🇨🇳 🤖", "\U00020000\U0002a6d6 㐀", "مرحبا שלום हिन्दी ไทย", "\x00\x01\x7f\x80", "Ġ▁##", "这句话,没有空格。So is this—one…"),
    *("http://a.b/c?d=e&f=%20#g", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\ufffd\ufeff", "ﷺ" * 3, "x" + "\u0301" * 40),
]
TOKENIZERS = {
    "characters": lambda: train_characters(TEXTS),
    "bpe": lambda: train_bpe(TEXTS * 3, size=400),
    "unigram": lambda: train_unigram(TEXTS * 3, size=400),
}
DECODER = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
           "head_dim": 8, "max_position_embeddings": 32}  # fmt: skip
MODELS = {
    "llama": {"model_type": "llama", **DECODER},
    "llama-tied": {"model_type": "llama", **DECODER, "tie_word_embeddings": True, "rope_theta": 5e5},
    "qwen3": {"model_type": "qwen3", **DECODER, "dropout": 0.1},
    "qwen3-tied": {"model_type": "qwen3", **DECODER, "tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 32, "resid_pdrop": 0.1},
    "gpt2-narrow": {"model_type": "gpt2", "n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 32, "n_inner": 20},
}


def make(name: str, vocabulary: int) -> nn.Module:
    """Make a model of random weights, no zero left among them."""
    torch.manual_seed(7)
    model = catalog.build({**MODELS[name], "vocab_size": vocabulary})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def write(path: Path, model: nn.Module, tokenizer: Tokenizer) -> Path:
    path.mkdir()
    artefact.write(path, Language(), model, tokenizer)
    seal(path, "model", {"task": "language", "model": "made"})
    return path


@torch.no_grad()
def gap(ours: nn.Module, theirs: nn.Module) -> float:
    """Give the largest difference of two models' logits, relative to the largest logit."""
    read = torch.randint(0, ours.vocabulary, (3, 30), generator=torch.Generator().manual_seed(0))
    mine, other = ours.logits(ours.states(Inputs(read))), theirs(read).logits
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_transformers_opens_our_folder_with_equal_logits(name: str, tmp_path: Path) -> None:
    tokenizer = train_characters(TEXTS)
    model = make(name, tokenizer.vocabulary_size)
    folder = write(tmp_path / "made", model, tokenizer)
    theirs, about = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == json.loads((folder / "config.json").read_text())["architectures"][0]
    assert not about["unexpected_keys"] and not about["mismatched_keys"] and not set(about["missing_keys"]) - {"lm_head.weight"}
    assert gap(artefact.load(folder).model, theirs.eval()) <= TOLERANCE
    with torch.no_grad():
        list(theirs.parameters())[-2 if "tied" in name else -1].mul_(1.001)
    assert gap(model, theirs) > TOLERANCE, "the comparison sees a change of one in a thousand of one tensor"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_we_open_the_config_and_weights_that_transformers_writes(name: str, tmp_path: Path) -> None:
    model = make(name, 300)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**catalog.config(model))).eval()
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    from safetensors.torch import load_file

    assert gap(catalog.restore(config, load_file(tmp_path / "model.safetensors")), theirs) <= TOLERANCE


PAIR = {"model_type": "mbart", "vocab_size": 60, "d_model": 24, "encoder_layers": 2, "decoder_layers": 3,
        "encoder_attention_heads": 3, "decoder_attention_heads": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 36,
        "max_position_embeddings": 32, "dropout": 0.1}  # fmt: skip


@torch.no_grad()
def pair_gap(ours: nn.Module, theirs: nn.Module) -> float:
    """Give the largest difference of two encoder-decoder models' logits, relative to the largest logit; sources of several lengths."""
    draw = torch.Generator().manual_seed(0)
    source, read = (torch.randint(2, ours.vocabulary, (3, size), generator=draw) for size in (11, 30))
    lengths = torch.tensor([11, 4, 7])
    real = torch.arange(11) < lengths[:, None]
    source[~real] = 0
    mine = ours.logits(ours.states(Inputs(read, source=Inputs(source, lengths))))
    other = theirs(input_ids=source, attention_mask=real.long(), decoder_input_ids=read).logits
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("scaled", [True, False])
def test_an_encoder_decoder_is_the_same_on_both_sides(scaled: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    torch.manual_seed(7)
    model = catalog.build({**PAIR, "scale_embedding": scaled})
    with torch.no_grad():
        for each in (*model.parameters(), model.final_logits_bias):
            each.add_(0.2 * torch.randn(each.shape))
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    save_file(catalog.tensors(model.eval()), tmp_path / "ours" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "ours" / "config.json").write_text(json.dumps(catalog.config(model)))
    theirs, about = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(theirs).__name__ == catalog.config(model)["architectures"][0]
    assert not about["unexpected_keys"] and not about["mismatched_keys"]
    assert not [name for name in about["missing_keys"] if "embed_tokens" not in name and name != "lm_head.weight"]
    assert pair_gap(model, theirs.eval()) <= TOLERANCE
    theirs.save_pretrained(tmp_path / "theirs")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert pair_gap(catalog.restore(config, load_file(tmp_path / "theirs" / "model.safetensors")), theirs) <= TOLERANCE
    with torch.no_grad():
        theirs.model.encoder.layers[1].fc2.weight.mul_(1.01)
    assert pair_gap(model, theirs) > TOLERANCE, "the comparison sees a small change of one tensor"


@pytest.mark.parametrize("sort", sorted(TOKENIZERS))
def test_transformers_opens_our_tokenizer_with_equal_ids_and_texts(sort: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[sort]()
    folder = write(tmp_path / "made", make("qwen3", tokenizer.vocabulary_size), tokenizer)
    draw = random.Random(3)
    mixed = ["".join(draw.choices("".join(TEXTS + ODD), k=draw.randrange(1, 60))) for _ in range(300)]
    for theirs in (
        transformers.AutoTokenizer.from_pretrained(folder),
        transformers.PreTrainedTokenizerFast.from_pretrained(folder),
    ):
        assert (theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (tokenizer.end_id, tokenizer.pad_id, tokenizer.vocabulary_size)
        for text in [*TEXTS, *ODD, *mixed]:
            ids = tokenizer.encode(text).tolist()
            assert theirs(text, add_special_tokens=False)["input_ids"] == ids == theirs(text)["input_ids"], repr(text)
            assert theirs.decode(ids) == tokenizer.decode(ids) == text, repr(text)


def test_transformers_refuses_a_folder_of_words(tmp_path: Path) -> None:
    """Nobody but us can cut words as they were cut: what would read the file otherwise must not read it."""
    tokenizer = train_words(TEXTS * 3, 400)
    folder = write(tmp_path / "made", make("qwen3", tokenizer.vocabulary_size), tokenizer)
    for opener in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        with pytest.raises(Exception):  # noqa: B017 - whichever it is
            opener.from_pretrained(folder)
