"""An adapter of ours opens in peft, and one of peft's here: the same logits over the same base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers_maker import saved
from wordpiece_maker import folder

from zhixing import import_model, load, prepare, train
from zhixing.layers.kinds import Inputs
from zhixing.preparation.prepare import Prepare
from zhixing.tasks import adapter

transformers = pytest.importorskip("transformers", reason="transformers is not installed: there is nothing to compare with")
peft = pytest.importorskip("peft", reason="peft is not installed: there is nothing to compare with")
pytestmark = [pytest.mark.interop, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")]  # of their own calls

TOLERANCE = 1e-5
TOKENS = torch.randint(0, 260, (2, 30), generator=torch.Generator().manual_seed(0))


def gap(ours: Any, theirs: Any) -> float:
    with torch.no_grad():
        here, there = ours.logits(ours.states(Inputs(TOKENS))), theirs(TOKENS).logits
    return float((here - there).abs().max() / there.abs().max())


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_ours_opens_in_peft(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "base")
    (tmp_path / "text.txt").write_text("the quiet old river carries 12 small boats\n" * 200)
    prepare(tmp_path / "text.txt", tmp_path / "corpus", Prepare(task="language"))
    settings = {"lora": 4, "steps": 6, "precision": "fp32", "threads": 1, "window": 32, "batch": 4, "learning_rate": 0.02}
    train(tmp_path / "corpus", tmp_path / "adapter", {**settings, "start": str(tmp_path / "base")})
    opened, base = load(tmp_path / "adapter").model, load(tmp_path / "base").model
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert gap(base, model.eval()) < TOLERANCE < 1e-2 < gap(opened, model), "what was learnt is seen"
    assert gap(opened, peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(("targets", "rooted"), [("all-linear", False), ("some", False), ("of one place", False), ("some", True)])
def test_peft_s_opens_here(name: str, targets: str, rooted: bool, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "base")
    chosen = {
        "all-linear": {},
        "some": {"gpt2": ["c_attn"], "llama": ["q_proj", "up_proj"]},
        "of one place": {"gpt2": ["attn.c_proj"], "llama": ["layers.1.self_attn.q_proj"]},
    }
    maps = chosen[targets].get(name, targets)
    told = peft.LoraConfig(r=3, lora_alpha=5, target_modules=maps, use_rslora=rooted, init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    theirs = peft.get_peft_model(model, told).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    import_model(tmp_path / "adapter", tmp_path / "ours", base=tmp_path / "base")
    opened = load(tmp_path / "ours")
    assert opened.folder.kind == adapter.KIND and gap(opened.model, theirs) < TOLERANCE
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert gap(opened.model, peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()) < TOLERANCE


@pytest.mark.parametrize("targets", ["query", "attention.output.dense"])
def test_one_of_an_encoder_opens_there_and_here(targets: str, tmp_path: Path) -> None:
    folder(tmp_path / "theirs", ["Ada says fine", "the old river"])
    import_model(tmp_path / "theirs", tmp_path / "base")
    told = peft.LoraConfig(r=3, target_modules=[targets], init_lora_weights=False, task_type="FEATURE_EXTRACTION")
    torch.manual_seed(0)
    bare = transformers.AutoModel.from_pretrained(tmp_path / "theirs").eval()
    tokens = torch.randint(5, bare.config.vocab_size, (1, 9), generator=torch.Generator().manual_seed(0))

    def states(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(tokens).last_hidden_state

    before = states(bare)
    theirs = peft.get_peft_model(bare, told).eval()
    wanted = states(theirs)
    theirs.save_pretrained(tmp_path / "adapter")
    import_model(tmp_path / "adapter", tmp_path / "ours", base=tmp_path / "base")
    with torch.no_grad():
        ours = load(tmp_path / "ours").model.body.states(Inputs(tokens))
    again = transformers.AutoModel.from_pretrained(tmp_path / "theirs").eval()
    there = states(peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval())
    scale = wanted.abs().max()
    assert (ours - wanted).abs().max() / scale < TOLERANCE < 1e-3 < (before - wanted).abs().max() / scale
    assert (there - wanted).abs().max() / scale < TOLERANCE
