"""Reinforcement as a source of data: batches of texts that the model being trained has just written, with what they earned.

A step takes some prompts, writes several texts on each, rewards them by a named checker and gives each its advantage over the others of its
prompt. Which prompts, and every random choice of the texts, is a function of seed and step, and the weights at a step are those of the run,
so that a run that was killed goes on to the same bytes.
Source: Shao et al. 2024, arXiv:2402.03300 (GRPO): advantages are rewards less their mean over their spread, prompt by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from zhixing.core.errors import DataError, UsageError
from zhixing.core.random import key
from zhixing.data.batch import IGNORED
from zhixing.data.stream import generator
from zhixing.decoding.asking import SEEDS, Sampling
from zhixing.decoding.generate import generate
from zhixing.layers.kinds import Inputs
from zhixing.objectives.policy import allowed

SPREAD = 1e-4  # added to the spread of a prompt's rewards, so that equal ones give no advantage


class Rollouts:
    """Texts on prompts, written by the model itself.

    prompts     of each a list of token ids
    reward      (place of the prompt, text) -> float
    tokenizer   of the model
    batch       texts a step; group of them on each prompt
    most        tokens of a text, at most
    """

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        reward: Callable[[int, str], float],
        tokenizer: Any,
        batch: int,
        group: int,
        most: int,
        seed: int,
    ) -> None:
        if not prompts:
            raise DataError("data.no_rows")
        if group < 2 or batch % group:
            raise UsageError("reason.group", group=group, batch=batch)
        self.prompts, self.reward, self.tokenizer, self.seed = prompts, reward, tokenizer, seed
        self.batch_rows, self.group, self.most = batch, group, most
        self.model: Any = None
        self.reference: Any = None
        self._made: tuple[int, dict[str, np.ndarray]] = (-1, {})

    @property
    def steps_per_epoch(self) -> int:
        """Count the steps after which every prompt was taken once."""
        return math.ceil(len(self.prompts) / (self.batch_rows // self.group))

    def bind(self, model: nn.Module, reference: nn.Module) -> None:
        """Say which model writes, the one being trained, and which it is held to."""
        self.forget()
        self.model, self.reference = model, reference.to(next(model.parameters()).device).eval().requires_grad_(False)

    def forget(self) -> None:
        """Forget the texts of the last step: another model may have written them."""
        self._made = (-1, {})

    def batch(self, step: int, micro: int = 0, micros: int = 1) -> dict[str, np.ndarray]:
        """Give one micro-batch of a step's texts: see `objectives.policy`. They are written when the first of them is asked for."""
        if self._made[0] != step:
            self._made = step, self._write(step)
        first, last = (self.batch_rows * each // micros for each in (micro, micro + 1))
        return {name: value[first:last] for name, value in self._made[1].items()}

    def _write(self, step: int) -> dict[str, np.ndarray]:
        """Write a step's texts and reward them."""
        many = self.batch_rows // self.group
        epoch, place = divmod(step, self.steps_per_epoch)
        order = generator(self.seed, "prompts", epoch).permutation(len(self.prompts))
        chosen = np.resize(order[place * many : (place + 1) * many], many)  # the last step of an epoch takes some twice
        asked = [self.prompts[each] for each in chosen for _ in range(self.group)]
        sampling = Sampling(max_tokens=self.most, seed=key(self.seed, "rollouts", step) % SEEDS)
        written = generate(self.model, self.tokenizer, asked, sampling, rows=self.batch_rows)
        rewards = np.array([self.reward(int(chosen[number // self.group]), each.text) for number, each in enumerate(written)])
        groups = rewards.reshape(many, self.group)
        advantages = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, keepdims=True) + SPREAD)
        texts = [[*prompt, *each.tokens] for prompt, each in zip(asked, written, strict=True)]
        longest = max(map(len, texts)) - 1
        tokens = np.full((len(texts), longest), self.tokenizer.pad_id, np.int64)  # (B, T)
        targets = np.full((len(texts), longest), IGNORED, np.int64)
        for row, (text, prompt) in enumerate(zip(texts, asked, strict=True)):
            tokens[row, : len(text) - 1] = text[:-1]
            targets[row, len(prompt) - 1 : len(text) - 1] = text[len(prompt) :]
        return {
            "tokens": tokens,
            "targets": targets,
            "advantages": advantages.ravel().astype(np.float32),
            "rewards": rewards.astype(np.float32),
            "references": self._refer(tokens, targets),
        }

    @torch.no_grad()
    def _refer(self, tokens: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Give log p of each target by the reference, (B, T) float32; 0 where nothing was written."""
        device = next(self.reference.parameters()).device
        read, wanted = (torch.from_numpy(each).to(device) for each in (tokens, targets))
        logs = allowed(self.reference.logits(self.reference.states(Inputs(read)))).log_softmax(-1)  # (B, T, V)
        said = logs.gather(2, wanted.clamp(min=0).unsqueeze(2)).squeeze(2)
        return (said * (wanted != IGNORED)).cpu().numpy()
