"""Masked language: p(token | the text on both sides of it).   a text with gaps -> the text, filled in

Learnt from the corpus of a language model by an encoder, which a later training of any task of texts can begin with (`train --start`). What
is learnt are conditionals; a product of them is no probability of a text, so nothing here is comparable with bits per byte.
Source: Devlin et al. 2019, arXiv:1810.04805.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zhixing.data.schema import Schema, Text
from zhixing.metrics.figures import Figures
from zhixing.tasks.task import Answer, Example, Item

GAP = "[mask]"  # what stands in a text where one token is to be told
SHOWN = 8  # tokens whose probabilities are given of the first gap


@dataclass(frozen=True)
class MaskedLanguage:
    """A text tells its own gaps; scored over whole texts, at places that are hidden."""

    name: ClassVar[str] = "masked"
    kinds: ClassVar[tuple[str, ...]] = ("masked",)
    schema: ClassVar[Schema] = Schema({"text": Text()})
    figures: ClassVar[Figures] = {}  # made over whole texts, in evaluation
    counted: ClassVar[dict[str, str]] = {}
    default: ClassVar[str] = "bert"
    eras: ClassVar[tuple[str, ...]] = ()
    dial: ClassVar[dict[str, Any]] = {"batch": 32, "window": 128}
    reads: ClassVar[str] = "text"
    fitted: ClassVar[str] = ""

    @classmethod
    def fit(cls, training_examples: Iterable[Example], **settings: Any) -> MaskedLanguage:
        """There is nothing to learn from the examples: the vocabulary is the tokenizer's."""
        return cls(**settings)

    def encode(self, example: Example, tokenizer: Any) -> Item:
        """Turn a text into {"tokens": (T,) int, "gaps": (M,) int, "parts": the text between the gaps}; in gaps stands the mask.

        A space before a gap is the gap's own, where tokens are more than characters: a word's token begins with it.
        """
        pieces: list[np.ndarray] = []
        kept: list[str] = []
        parts = example["text"].split(GAP)
        for number, part in enumerate(parts):
            pieces += [np.array([tokenizer.mask_id])] if number else []
            if number < len(parts) - 1 and tokenizer.sort != "characters":
                part = part.removesuffix(" ")
            pieces.append(tokenizer.encode(part))
            kept.append(part)
        tokens = tokenizer.framed(np.concatenate(pieces))
        return {"tokens": tokens, "gaps": np.flatnonzero(tokens == tokenizer.mask_id), "parts": kept}

    def head(self, width: int) -> None:
        """A model of masked tokens has its own head, over the vocabulary."""

    def objective(self, start: Any = None) -> Any:
        """Give the cross-entropy of the hidden tokens."""
        from zhixing.objectives.masked import MaskedToken

        return MaskedToken()

    def answers(self, model: Any, items: Iterable[Item], tokenizer: Any, decoding: Any = None) -> Iterator[Answer]:
        """Give each text with its gaps filled by their most probable tokens, and the probabilities of the first gap's.

        The confidence is the geometric mean of the tokens' probabilities; of a text without a gap, that of each of its tokens given the
        others. In a text that is longer than the model's window, a gap is told from what stands around it.
        """
        import torch

        from zhixing.layers.kinds import Inputs
        from zhixing.layers.pseudo import pseudo_log_probabilities

        device = next(model.parameters()).device
        for item in items:
            tokens, gaps = item["tokens"].copy(), item["gaps"]
            if not len(gaps):
                before, after = map(len, tokenizer.frame)
                own = pseudo_log_probabilities(model, tokens)[before : len(tokens) - after]
                sure = np.exp(own.mean()) if len(own) else 1.0
                yield Answer(filled(item, tokens, tokenizer), float(sure))
                continue
            logs = np.zeros(len(gaps))
            scores: dict[str, float] = {}
            width = min(len(tokens), model.window or len(tokens))
            with torch.inference_mode():
                for number, gap in enumerate(gaps):
                    start = int(np.clip(gap - width // 2, 0, len(tokens) - width))
                    row = torch.from_numpy(item["tokens"][start : start + width]).to(device)
                    state = model.states(Inputs(row[None]))[0, gap - start]  # (D,)
                    said = model.logits(state).float()[: tokenizer.vocabulary_size].log_softmax(-1).cpu().numpy()  # (V,)
                    said[list(controls(tokenizer))] = -np.inf
                    tokens[gap] = int(said.argmax())
                    logs[number] = said.max()
                    if not scores:
                        best = np.argsort(-said, kind="stable")[:SHOWN]
                        scores = {shown(tokenizer, int(each)): float(np.exp(said[each])) for each in best}
            yield Answer(filled(item, tokens, tokenizer), float(np.exp(logs.mean())), scores)

    def metrics(self, answers: list[Answer], examples: list[Example]) -> dict[str, np.ndarray]:
        """Models of masked tokens are judged over whole texts, in evaluation; there is no value per answer."""
        return {}


def filled(item: Item, tokens: np.ndarray, tokenizer: Any) -> str:
    """Write a text with its gaps filled: by its tokens or, where these do not hold all of a text, around the user's own words."""
    if tokenizer.lossless:
        return tokenizer.decode(tokens)
    found = item["parts"][0]
    for gap, part in zip(item["gaps"], item["parts"][1:], strict=True):
        piece = tokenizer.decode([int(tokens[gap])], begins=False)
        found += (piece if found else piece.removeprefix(" ")) + part
    return found


def controls(tokenizer: Any) -> Iterator[int]:
    """Give the tokens that are no writing: those of no bytes."""
    return (each for each in range(tokenizer.vocabulary_size) if not tokenizer.token_bytes(each))


def shown(tokenizer: Any, token: int) -> str:
    """Write a token as text; one that is a part of a character as its bytes."""
    raw = tokenizer.token_bytes(token)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return f"<{raw.hex()}>"
