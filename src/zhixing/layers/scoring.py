"""log p of every token of a text given the text before it, whatever the kind of model: what bits per byte are made of.

A counted model scores a text itself. A trained one with a window slides over the text by half a window, and only the second half of
each window after the first counts, so that every token counts exactly once and has at least half a window before it. One without a
window carries its state through the text; a long text is cut into lanes that are read side by side, each after a run-up over the text
before it.
Leaves out: dynamic evaluation, which changes the model while it reads.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import UsageError
from zhixing.layers.kinds import Causal, Countable, Encoder, Inputs

# A lane's first counted token has this many before it; a lane is at least LANE tokens long, so the run-up costs at most an eighth.
RUN_UP, LANE, CHUNK = 1024, 8192, 256
LOGITS_NUMBERS = 1 << 24  # 64 MiB of float32 at a time


@torch.no_grad()
def score(model: Causal | Countable, tokens: np.ndarray, window: int | None = None, batch: int = 16) -> np.ndarray:
    """Give log p(tokens[i] | tokens[:i]) in nats for i >= 1.

    tokens  (N,) int          tokens[0] is the end token that opens the text
    window  int, tokens       how much text a trained model reads at once; None: what it was built for
    batch   int, rows         how many windows are read side by side; changes the time, not the answer
    return  (N-1,) float64

    Raises UsageError when the window is shorter than two tokens or longer than the model was built for.
    """
    if not hasattr(model, "states"):
        return model.score(tokens)
    if window is not None and (window < 2 or (model.window is not None and window > model.window)):
        raise UsageError("score.window", window=window, longest=model.window or "")
    scores = np.empty(max(len(tokens) - 1, 0), np.float64)
    if len(scores) == 0:
        return scores
    was_training = isinstance(model, nn.Module) and model.training
    if was_training:
        model.eval()
    try:
        window = window or model.window
        if window is None:
            _carry(model, tokens, batch, scores)
        else:
            _slide(model, tokens, window, batch, scores)
    finally:
        if was_training:
            model.train()
    return scores


@torch.no_grad()
def embed(model: Causal | Encoder, texts: list[list[int]]) -> np.ndarray:
    """Give the mean of a model's states over each text's tokens; a text longer than the window is read in windows, and all of it counts.

    texts   N lists of int, tokens, none of them empty
    return  (N, D) float32
    """
    device = next(model.parameters()).device
    was_training = model.training
    if was_training:
        model.eval()
    try:
        means = []
        for tokens in texts:
            # Without a window, the state of a causal model goes on through the text; what looks ahead reads all of it at once.
            cache = model.cache(1) if model.window is None and hasattr(model, "cache") else None
            pieces = torch.tensor(tokens, device=device).split(model.window or (len(tokens) if cache is None else CHUNK))
            carried = {} if cache is None else {"cache": cache}
            total = torch.stack([model.states(Inputs(each.unsqueeze(0)), **carried)[0].sum(0) for each in pieces]).sum(0)  # (D,)
            means.append((total / len(tokens)).float().cpu().numpy())
    finally:
        if was_training:
            model.train()
    return np.stack(means) if means else np.empty((0, model.width), np.float32)


def place(count: int, window: int) -> list[tuple[int, int, int]]:
    """Lay windows over `count` predictions: (start, first, end), a window's start and the part [first, end) of the text that it counts.

    The last window ends with the text, so that its context is full as well.
    """
    placed = [(0, 0, min(window, count))]
    while placed[-1][2] < count:
        first = placed[-1][2]
        end = min(first + max(window // 2, 1), count)
        placed.append((end - window, first, end))
    return placed


def _slide(model: Causal, tokens: np.ndarray, window: int, batch: int, scores: np.ndarray) -> None:
    device = next(model.parameters()).device
    placed = place(len(scores), window)
    width = min(window, len(scores))
    for low in range(0, len(placed), batch):
        chosen = placed[low : low + batch]
        rows = np.stack([tokens[start : start + width + 1] for start, _, _ in chosen]).astype(np.int64)  # (B, T+1)
        read = torch.from_numpy(rows).to(device)
        states = model.states(Inputs(read[:, :-1]))  # (B, T, D)
        counted = torch.zeros(len(chosen), width, dtype=torch.bool)
        for row, (start, first, end) in enumerate(chosen):
            counted[row, first - start : end - start] = True
        counted = counted.to(device)
        found = _log_probabilities(model, states[counted], read[:, 1:][counted])
        for _, first, end in chosen:
            scores[first:end], found = found[: end - first], found[end - first :]


def _carry(model: Causal, tokens: np.ndarray, batch: int, scores: np.ndarray) -> None:
    device = next(model.parameters()).device
    lanes = max(1, min(batch, len(scores) // LANE))
    bounds = np.linspace(0, len(scores), lanes + 1).astype(np.int64)
    starts = np.maximum(bounds[:-1] - RUN_UP, 0)  # (B,)
    steps = int((bounds[1:] - starts).max())
    cache = model.cache(lanes)
    for low in range(0, steps, CHUNK):
        length = min(CHUNK, steps - low)
        where = starts[:, None] + low + np.arange(length)  # (B, T)
        counted = (where >= bounds[:-1, None]) & (where < bounds[1:, None])  # (B, T)
        # A shorter lane reads on past its end while the longest finishes; nothing of that counts.
        inside = np.minimum(where, len(scores) - 1)
        read = torch.from_numpy(tokens[inside].astype(np.int64)).to(device)
        states = model.states(Inputs(read), cache)  # (B, T, D)
        chosen = torch.from_numpy(counted).to(device)
        answers = torch.from_numpy(tokens[inside + 1].astype(np.int64)).to(device)
        scores[where[counted]] = _log_probabilities(model, states[chosen], answers[chosen])


def _log_probabilities(model: Causal, states: Tensor, answers: Tensor) -> np.ndarray:
    """Give log p of each answer; the vocabulary is paid for in pieces.

    states   (N, D) float
    answers  (N,) int
    return   (N,) float64
    """
    size = max(1, LOGITS_NUMBERS // model.vocabulary)
    pieces = [
        -F.cross_entropy(model.logits(some).float(), right, reduction="none")
        for some, right in zip(states.split(size), answers.split(size), strict=True)
    ]
    return torch.cat(pieces).double().cpu().numpy()
