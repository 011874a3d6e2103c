"""A few steps of LoRA, or of training all weights, on a pretrained decoder in a process of its own; seconds a step and memory as JSON.

    python benchmarks/adapt.py '{"program": "ours" or "peft", "model": FOLDER, "corpus": FOLDER, "out": FOLDER, "rank": 16 (0: all weights),
                                 "batch": 8, "window": 256, "steps": 4, "precision": "fp32" or "bf16", ...}'

Run by lora.py; "peft" must work where zhixing is not installed, and reads random tokens. In bf16 its base is loaded in that form, as its
users do, and what it trains stays in fp32. Ours times as steps.py does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from steps import forget_peak, gaps, memory


def ours(asked: dict[str, Any]) -> dict[str, Any]:
    """Train by zhixing.train."""
    from zhixing.training.settings import settle
    from zhixing.training.train import train

    settings = {name: asked[name] for name in ("batch", "window", "steps", "precision", "seed") if name in asked}
    settings |= {"start": asked["model"], "lora": asked["rank"], "evaluations": 0, "saves": 0, "dropout": 0.0, **asked.get("settings", {})}
    settle("language", settings)  # imports every family of models
    marks: list[float] = []
    held = memory("VmRSS")
    forget_peak()
    told = {"before": 0}

    def tell(code: str, /, **values: Any) -> None:
        if code == "train.steps":
            told["before"] = memory("VmHWM")
            forget_peak()
        if code == "train.progress":
            marks.append(time.perf_counter())
            told["peak"] = memory("VmHWM")

    folder = train(asked["corpus"], asked["out"], settings, tell=tell)
    card = folder.card
    return {"seconds": gaps(marks), "peak": told["peak"] - held, "trained": card.get("trained", card["parameters"])}


def theirs(asked: dict[str, Any]) -> dict[str, Any]:
    """Train by peft and torch's AdamW, in a plain loop."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    held = memory("VmRSS")
    forget_peak()
    kind = torch.bfloat16 if asked["precision"] == "bf16" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=kind, use_safetensors=True)
    told = LoraConfig(r=asked["rank"], lora_alpha=2 * asked["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, told)
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, model.config.vocab_size, (asked["steps"], asked["batch"], asked["window"]), generator=draw)
    marks = []
    for batch in tokens:
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        marks.append(time.perf_counter())
    return {"seconds": gaps(marks), "peak": memory("VmHWM") - held, "trained": sum(each.numel() for each in trained)}


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    answer = {"ours": ours, "peft": theirs}[wanted["program"]](wanted)
    print("\n" + json.dumps(answer))
