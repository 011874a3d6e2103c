"""A model of masked tokens on a split's text: how well it tells hidden tokens, beside models that count, at the same places.

Each stretch of the model's window has 15 % of its places hidden, all by the mask. The rivals see less: an n-gram knows the text before a
place, whole, and nothing after it. None of these figures is comparable with bits per byte: they are of conditionals on both sides.
Source: Devlin et al. 2019, arXiv:1810.04805; Salazar et al. 2020, arXiv:1910.14659 (pseudo-perplexity).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zhixing.core.errors import DataError
from zhixing.data.corpus import Corpus
from zhixing.data.shards import shard
from zhixing.evaluation.baselines import language_rivals
from zhixing.evaluation.report import Figure, Report, decide
from zhixing.metrics import intervals

SEED = 20231
SHARE = 0.15  # of places that are hidden
ROWS = 32  # stretches read at once
PSEUDO_TOKENS = 4096  # of the split's beginning, each masked in turn for the pseudo-perplexity
Tell = Callable[..., None]


def judge_masked(artefact: Any, corpus: Corpus, split: str, tell: Tell, rivals: bool) -> Report:
    """Score a model of masked tokens over a split's text; raises DataError for a split without a token."""
    from zhixing.layers.pseudo import pseudo_perplexity

    model, tokenizer = artefact.model, artefact.tokenizer
    tokens = np.asarray(shard(corpus, tokenizer, split, tell).tokens)
    if len(tokens) < 2:
        raise DataError("data.empty_split", path=str(corpus.path), split=split)
    width = min(model.window or len(tokens), len(tokens))
    stretches = len(tokens) // width
    hidden = hide(stretches, width)  # (B, T) bool
    hidden[0, 0] = False  # the end token that opens the text, which no rival tells
    tell("evaluate.scoring", tokens=int(hidden.sum()))
    rows = tokens[: stretches * width].reshape(stretches, width)  # (B, T)
    nats, right = read(model, rows, hidden)
    counts = hidden.sum(1)  # (B,)
    there = counts > 0
    others: dict[str, np.ndarray] = {}
    for name, logs in (language_rivals(corpus, tokenizer, tokens, split, artefact.family, tell) if rivals else {}).items():
        whole = np.concatenate([[0.0], -np.asarray(logs)])[: stretches * width].reshape(stretches, width)
        others[name] = (whole * hidden).sum(1)[there]
    spread = intervals.interval_of_ratio(nats[there], counts[there], SEED)
    beside = {name: float(each.sum() / counts.sum()) for name, each in others.items()}
    figures = [Figure("masked_nats", spread.value, spread.low, spread.high, beside)]
    spread = intervals.interval_of_ratio(right[there], counts[there], SEED)
    most = float(np.bincount(rows[hidden]).max() / hidden.sum())
    figures.append(Figure("masked_accuracy", spread.value, spread.low, spread.high, {"most_frequent": most}))
    figures.append(Figure("pseudo_perplexity", pseudo_perplexity(model, tokens[1 : 1 + PSEUDO_TOKENS])))
    gaps = {name: intervals.paired(nats[there], each, SEED, counts[there]).to_dict() for name, each in others.items()}
    details = {"units": int(there.sum()), "hidden": int(hidden.sum()), "comparable_with_bits_per_byte": False}
    details["tokens_left_out"] = len(tokens) - stretches * width
    details["pseudo_perplexity_tokens"] = min(PSEUDO_TOKENS, len(tokens) - 1)
    where = (str(artefact.folder.path), str(corpus.path))
    return Report(*where, split, "masked", corpus.counts[split], tuple(figures), gaps, decide(gaps, False), details)


def hide(stretches: int, width: int) -> np.ndarray:
    """Choose the hidden places of each stretch, at least one: (B, T) bool."""
    order = np.random.default_rng(SEED).random((stretches, width)).argsort(1)
    return order < max(1, round(SHARE * width))


def read(model: Any, rows: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read stretches with their hidden places masked.

    rows, hidden  (B, T) int and bool
    return        (B,) float64 each: -log p of the hidden tokens, summed, and how many of them are the most probable ones
    """
    import torch
    from torch.nn import functional as F

    from zhixing.layers.kinds import Inputs

    device = next(model.parameters()).device
    nats, right = np.zeros(len(rows)), np.zeros(len(rows))
    with torch.inference_mode():
        for start in range(0, len(rows), ROWS):
            wanted = torch.from_numpy(rows[start : start + ROWS].astype(np.int64)).to(device)  # (B, T)
            there = torch.from_numpy(hidden[start : start + ROWS]).to(device)  # (B, T)
            states = model.states(Inputs(wanted.masked_fill(there, model.mask_id)))  # (B, T, D)
            logits = model.logits(states[there]).float()  # (N, V)
            lost = F.cross_entropy(logits, wanted[there], reduction="none").double().cpu().numpy()
            hit = (logits.argmax(-1) == wanted[there]).cpu().numpy()
            place = there.nonzero()[:, 0].cpu().numpy()
            nats[start : start + ROWS] = np.bincount(place, lost, len(wanted))
            right[start : start + ROWS] = np.bincount(place, hit, len(wanted))
    return nats, right
