"""log p of every token of a text given all the others, by a model of masked tokens: each is masked in turn.

These are conditionals on both sides at once; their sum is the logarithm of no probability of the text, and bits or perplexities made from
it can be compared with each other, under one tokenizer, but never with those of a causal model, which sees one side only.
Source: Wang and Cho 2019, arXiv:1902.04094; Salazar et al. 2020, arXiv:1910.14659, eq. 1 (pseudo-log-likelihood), eq. 2 (its perplexity).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from zhixing.core.errors import UsageError
from zhixing.layers.kinds import Inputs, Masked


@torch.no_grad()
def pseudo_log_probabilities(model: Masked, tokens: np.ndarray, batch: int = 32) -> np.ndarray:
    """Give log p(tokens[i] | every other token that the model can see) in nats; in a text longer than its window, those around i.

    tokens  (N,) int
    batch   int, rows       how many masked places are read side by side; changes the time, not the answer
    return  (N,) float64

    Raises UsageError when the model has no mask.
    """
    mask = getattr(model, "mask_id", None)
    if mask is None:
        raise UsageError("score.no_mask", model=type(model).__name__)
    count = len(tokens)
    width = min(count, model.window or count)
    device = next(model.parameters()).device
    scores = np.empty(count, np.float64)
    training = model.training
    if training:
        model.eval()
    try:
        for low in range(0, count, batch):
            places = np.arange(low, min(low + batch, count))  # (B,)
            starts = np.clip(places - width // 2, 0, count - width)  # (B,)
            rows = tokens[starts[:, None] + np.arange(width)].astype(np.int64)  # (B, T)
            rows[places - low, places - starts] = mask
            states = model.states(Inputs(torch.from_numpy(rows).to(device)))  # (B, T, D)
            hidden = states[torch.as_tensor(places - low, device=device), torch.as_tensor(places - starts, device=device)]  # (B, D)
            answers = torch.from_numpy(tokens[places].astype(np.int64)).to(device)  # (B,)
            scores[places] = -F.cross_entropy(model.logits(hidden).float(), answers, reduction="none").double().cpu().numpy()
    finally:
        if training:
            model.train()
    return scores


def pseudo_perplexity(model: Masked, tokens: np.ndarray) -> float:
    """Give exp(-mean of the pseudo-log-probabilities); not comparable with a causal model's perplexity. NaN for an empty text."""
    return float(np.exp(-pseudo_log_probabilities(model, tokens).mean())) if len(tokens) else float("nan")
