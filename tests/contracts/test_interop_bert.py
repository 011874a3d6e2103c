"""Stock transformers opens a BERT that we write, and we one that it writes: names are the same, and so are logits, padded or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from zhixing.layers.kinds import Inputs
from zhixing.models import catalog

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing can be opened in it")
pytestmark = pytest.mark.interop

TOLERANCE = 1e-5
V = 90
FORM = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 32}
MODELS = {
    "bert": {"model_type": "bert", "vocab_size": V, **FORM, "mask_token_id": V - 1},
    "bert-other": {"model_type": "bert", "vocab_size": V, **FORM, "hidden_dropout_prob": 0.1, "type_vocab_size": 1, "layer_norm_eps": 1e-6},
}
TIED = {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # second names of the table and of the bias
LENGTHS = torch.tensor([30, 7, 1])


def make(name: str) -> nn.Module:
    """Make a model of random weights, no zero left among them."""
    torch.manual_seed(7)
    model = catalog.build(MODELS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


@torch.no_grad()
def gap(ours: nn.Module, theirs: nn.Module, lengths: torch.Tensor | None) -> float:
    """Give the largest difference of two models' logits at real places, relative to the largest logit."""
    read = torch.randint(0, V, (3, 30), generator=torch.Generator().manual_seed(0))
    real = torch.arange(30) < (torch.full((3,), 30) if lengths is None else lengths)[:, None]
    mine = ours.logits(ours.states(Inputs(read, lengths)))[real]
    other = theirs(read, attention_mask=None if lengths is None else real.long()).logits[real]
    return float((mine - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_transformers_opens_our_bert_with_equal_logits(name: str, tmp_path: Path) -> None:
    model = make(name)
    (tmp_path / "config.json").write_text(json.dumps(catalog.config(model)))
    save_file({key: value.contiguous() for key, value in catalog.tensors(model).items()}, tmp_path / "model.safetensors", {"format": "pt"})
    theirs, about = transformers.BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not about["unexpected_keys"] and not about["mismatched_keys"] and not set(about["missing_keys"]) - TIED
    assert set(theirs.state_dict()) - TIED == set(model.state_dict())
    assert theirs.config.mask_token_id == MODELS[name].get("mask_token_id")
    assert type(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)) is type(theirs)
    for lengths in (None, LENGTHS):
        assert gap(model, theirs.eval(), lengths) <= TOLERANCE
    with torch.no_grad():
        theirs.bert.encoder.layer[0].output.dense.weight.mul_(1.001)
    assert gap(model, theirs, LENGTHS) > TOLERANCE, "the comparison sees a change of one in a thousand of one tensor"


@pytest.mark.parametrize("name", sorted(MODELS))
def test_we_open_the_config_and_weights_that_transformers_writes(name: str, tmp_path: Path) -> None:
    made = transformers.AutoConfig.for_model(**catalog.config(make(name)))
    theirs = transformers.BertForMaskedLM(made).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    theirs.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    ours = catalog.restore(json.loads((tmp_path / "config.json").read_text()), written)
    assert set(ours.state_dict()) == set(written)
    for lengths in (None, LENGTHS):
        assert gap(ours, theirs, lengths) <= TOLERANCE


def test_the_config_that_transformers_writes_by_itself_is_read() -> None:
    """A config of BERT's own defaults but for the sizes, with all that transformers writes beside."""
    value = json.loads(transformers.BertConfig(vocab_size=V, **FORM).to_json_string(use_diff=False))
    taken = {name: each for name, each in value.items() if name in json.loads(transformers.BertConfig().to_json_string())} | FORM
    model = catalog.build({**taken, "vocab_size": V})
    assert (model.mask_id, model.window, model.config.hidden_dropout_prob) == (None, 32, 0.1)
