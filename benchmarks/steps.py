"""A few steps of training in a process of its own, by zhixing or by transformers' Trainer: seconds a step and memory, printed as JSON.

    python benchmarks/steps.py '{"program": "ours" or "trainer", "layers": 6, "width": 384, "heads": 6, "batch": 64, "window": 256,
                                 "vocabulary": 65, "dropout": 0.0, "precision": "bf16", "steps": 4, "out": "...", ...}'

A step is timed from the end of the one before to its own end, so that taking the batch is part of it; the first has none before it. Other
benchmarks run this file; it must work where zhixing is not installed. "ours" needs "corpus" and may have "settings"; "trainer" reads
random windows of "tokens", a .npy file, or of random tokens without it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any


def memory(name: str) -> int:
    """Give a count of bytes that the system keeps of this process: "VmRSS" now, "VmHWM" the most so far."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def forget_peak() -> None:
    """Let the most so far begin at what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def ours(asked: dict[str, Any]) -> dict[str, Any]:
    """Train by zhixing.train; the memory is that of the whole call and that from the making of the model on."""
    from zhixing.training.settings import settle
    from zhixing.training.train import train

    shape = {name: asked[name] for name in ("layers", "width", "heads", "batch", "window", "dropout", "precision", "steps")}
    settings = {"model": "gpt2", "evaluations": 0, "saves": 0, **shape, **asked.get("settings", {})}
    settle("language", settings)  # imports every family of models
    marks: list[float] = []
    peaks = {"before": 0}

    def tell(code: str, /, **values: Any) -> None:
        if code == "train.steps":
            peaks["before"] = memory("VmHWM")
            forget_peak()
        if code == "train.progress":
            marks.append(time.perf_counter())

    held = memory("VmRSS")
    forget_peak()
    folder = train(asked["corpus"], asked["out"], settings, tell=tell)
    found = {"parameters": folder.card["parameters"], "precision": folder.card["settings"]["precision"], "held": held}
    found |= {"accumulate": folder.card["settings"]["accumulate"], "optimizer": folder.card["settings"]["optimizer"]}
    loop = memory("VmHWM")
    return found | {"seconds": gaps(marks), "peak": max(loop, peaks["before"]) - held, "peak_of_steps": loop - held}


def trainer(asked: dict[str, Any]) -> dict[str, Any]:
    """Train by transformers' Trainer; nothing is logged, saved or evaluated."""
    import numpy as np
    import torch
    from torch.utils.data import Dataset
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Windows(Dataset):
        """Windows of a run of tokens, each at a random place that its number settles."""

        def __init__(self, tokens: np.ndarray, window: int, size: int) -> None:
            self.tokens, self.window, self.size = tokens, window, size
            self.starts = np.random.default_rng(0).integers(len(tokens) - window, size=size)

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
            start = self.starts[place]
            row = torch.from_numpy(self.tokens[start : start + self.window].astype(np.int64))
            return {"input_ids": row, "labels": row}

    class Marks(TrainerCallback):
        def __init__(self) -> None:
            self.marks: list[float] = []

        def on_step_end(self, *args: Any, **named: Any) -> None:
            self.marks.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=asked["out"], max_steps=asked["steps"], per_device_train_batch_size=asked["batch"], bf16=asked["precision"] == "bf16",
        use_cpu=True, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    held = memory("VmRSS")
    forget_peak()
    config = GPT2Config(
        vocab_size=asked["vocabulary"], n_positions=asked["window"], n_embd=asked["width"], n_layer=asked["layers"], n_head=asked["heads"],
        embd_pdrop=asked["dropout"], resid_pdrop=asked["dropout"], attn_pdrop=0.0, bos_token_id=1, eos_token_id=1, use_cache=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    if "tokens" in asked:
        tokens = np.load(asked["tokens"], mmap_mode="r")
    else:
        tokens = np.random.default_rng(0).integers(asked["vocabulary"], size=1 << 20).astype(np.uint16)
    marks = Marks()
    data = Windows(tokens, asked["window"], asked["batch"] * asked["steps"])
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=[marks]).train()
    peak = memory("VmHWM") - held
    found = {"parameters": sum(p.numel() for p in model.parameters()), "precision": asked["precision"], "held": held}
    found |= {"attention": model.config._attn_implementation, "optimizer": str(arguments.optim)}
    return found | {"seconds": gaps(marks.marks), "peak": peak, "peak_of_steps": peak}


def gaps(marks: list[float]) -> list[float]:
    """Give the seconds between marks."""
    return [later - earlier for earlier, later in zip(marks, marks[1:], strict=False)]


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    answer = {"ours": ours, "trainer": trainer}[wanted["program"]](wanted)
    print("\n" + json.dumps(answer))
