"""Stock transformers opens a ViT that we write, and gives the same states: names are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from zhixing.layers.kinds import Inputs
from zhixing.models import catalog

transformers = pytest.importorskip("transformers", reason="transformers is not installed: nothing can be opened in it")
pytestmark = pytest.mark.interop

FORM = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40, "image_size": 32, "patch_size": 8}


@torch.no_grad()
def test_transformers_opens_our_vit_with_equal_states(tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = catalog.build({"model_type": "vit", **FORM}).eval()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn(parameter.shape))
    (tmp_path / "config.json").write_text(json.dumps(catalog.config(model)))
    save_file({key: value.contiguous() for key, value in catalog.tensors(model).items()}, tmp_path / "model.safetensors", {"format": "pt"})
    theirs, about = transformers.ViTModel.from_pretrained(tmp_path, add_pooling_layer=False, output_loading_info=True)
    assert not about["unexpected_keys"] and not about["mismatched_keys"] and not about["missing_keys"]
    image = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mine, other = model.states(Inputs(None, image=image)), theirs(image.float() / 127.5 - 1).last_hidden_state
    assert float((mine - other).abs().max() / other.abs().max()) < 1e-5
