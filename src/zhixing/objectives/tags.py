"""Tagging: maximum likelihood of the tags, token by token or as a sequence, summed over tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.data.batch import IGNORED
from zhixing.layers import crf
from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term


@dataclass(frozen=True)
class TagNats:
    """Cross-entropy of each token's tag, summed over the tokens that have one."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the tokens that have a tag."""
        return {"nats": float((batch["tags"] != IGNORED).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(tag) over the batch, in nats.

        batch   tokens (B, T) int, lengths (B,) int, tags (B, T) int with IGNORED where there is none
        """
        logits = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # (B, T, K)
        return (
            Term("nats", F.cross_entropy(logits.float().flatten(0, 1), batch["tags"].flatten(), ignore_index=IGNORED, reduction="sum")),
        )


@dataclass(frozen=True)
class ChainNats:
    """-log p(tags | text) of whole sequences under the chain of the model's head, summed; counted by token, as TagNats is.

    A token without a tag (IGNORED), such as the later pieces of a word, is no member of the chain: the tokens that have tags follow each
    other directly.
    """

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the tokens that have a tag."""
        return {"nats": float((batch["tags"] != IGNORED).sum())}

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum -log p(tags) over the batch, in nats.

        batch   tokens (B, T) int, lengths (B,) int, tags (B, T) int with IGNORED where there is none
        """
        logits = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # (B, T, K)
        return (Term("nats", chain_nats(logits, batch["tags"], *model.head.chain())),)


def chain_nats(logits: Tensor, tags: Tensor, transitions: Tensor, start: Tensor) -> Tensor:
    """Sum -log p(tags) of whole sequences under a chain.

    logits       (B, T, K) float
    tags         (B, T) int with IGNORED
    transitions  (K, K) float, start (K,) float
    return       () float
    """
    logits, tags, lengths = gather(logits.float(), tags)
    nats = crf.log_partition(logits, transitions, lengths, start) - crf.score(logits, transitions, tags, lengths, start)  # (B,)
    return (nats * (lengths > 0)).sum()


def gather(logits: Tensor, tags: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move the tokens that have a tag to the left of their row, in their order.

    logits  (B, T, K) float
    tags    (B, T) int with IGNORED
    return  logits (B, T, K), tags (B, T), and how many each row has, (B,) int
    """
    there = tags != IGNORED  # (B, T)
    order = (~there).byte().argsort(dim=1, stable=True)  # (B, T)
    return logits.gather(1, order[..., None].expand_as(logits)), tags.gather(1, order), there.sum(1)
