"""Policy gradient: texts that the model wrote are made more probable where they earned more than others on the same prompt.

    - sum of A log p(token)  +  kl * sum of (r - log r - 1),  r = p_reference(token) / p(token)

A is the text's advantage, made by the stream that samples (`training/rollouts.py`), constant here. Texts are from the model as it is, so
that the ratio of new to old probability is 1, in bf16 but for rounding, and nothing has to be clipped. The other terms are told and move
nothing: their scale is 0.
Source: Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, section 4.1 (GRPO), equations 3 and 4. Differs: each token counts once, not
each text's mean: Yu et al. 2025, "DAPO", arXiv:2503.14476, section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.data.batch import IGNORED
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term

BARRED = (0, 2, 3, 4)  # as decoding.sampling.CONTROL: a test holds them equal
LEAST = -1e9  # in the place of minus infinity, whose product with a probability of 0 would be no number


def allowed(logits: Tensor, barred: tuple[int, ...] = BARRED) -> Tensor:
    """Bar the tokens that no text is made of, padding and the control tokens of a chat, as whoever writes the texts does.

    logits  (..., V) float
    barred  the tokenizer's
    return  (..., V) float32
    """
    return logits.float().index_fill(-1, torch.tensor(barred, dtype=torch.long, device=logits.device), LEAST)


@dataclass(frozen=True)
class PolicyGradient:
    """The loss of one step of GRPO, summed over the tokens that were written.

    kl      float         how strongly the model is held to what it began with
    barred  tuple of int  tokens that are never written: the tokenizer's
    """

    kl: float = 0.02
    barred: tuple[int, ...] = BARRED
    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the tokens that were written and, for what is told of texts, the texts."""
        tokens, texts = float((batch["targets"] != IGNORED).sum()), float(len(batch["targets"]))
        return {"policy": tokens, "kl": tokens, "entropy": tokens, "reward": texts, "length": texts}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Give the loss of a batch of texts, and what is told of them.

        batch   tokens (B, T) int, targets (B, T) int with IGNORED at the prompt and beyond the text, advantages (B,) float,
                rewards (B,) float, references (B, T) float: log p of each target by the model that it is held to
        """
        written = batch["targets"] != IGNORED  # (B, T)
        logs = allowed(model.logits(model.states(Inputs(batch["tokens"]))), self.barred).log_softmax(-1)  # (B, T, V)
        said = -F.cross_entropy(logs.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED, reduction="none")
        said = said.view(written.shape)  # (B, T), 0 where nothing was written
        gap = (batch["references"] - said) * written
        unsure = -(logs.exp() * logs).sum(-1) * written
        return (
            Term("policy", -(batch["advantages"][:, None] * said).sum()),
            Term("kl", (gap.exp() - gap - 1).sum(), self.kl),
            Term("entropy", unsure.detach().sum(), 0.0),
            Term("reward", batch["rewards"].float().sum(), 0.0),
            Term("length", written.float().sum(), 0.0),
        )
