"""A text's label and its tokens' tags, learnt by one body: two terms, each over the examples that have it.

An example may have either alone. A term that no example of a batch speaks of is not there, so that the denominators stay what they are for
each alone: labels are counted by example, tags by token.
Source: Caruana 1997 (several tasks on one representation).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn import functional as F

from zhixing.layers.kinds import Inputs
from zhixing.objectives.loss import Batch, Loss, Term
from zhixing.objectives.tags import IGNORED, chain_nats


@dataclass(frozen=True)
class LabelAndTags:
    """-log p(label | text) summed over the examples that have a label, and -log p(tags | text) over those that have tags."""

    additive: bool = True

    def weights(self, batch: Batch) -> dict[str, float]:
        """Count the labels and the tokens that have a tag; what is not there has no term, unless nothing is."""
        counts = {f"{name[:-1]}_nats": float((batch[name] != IGNORED).sum()) for name in ("labels", "tags") if name in batch}
        return {name: count for name, count in counts.items() if count} or dict.fromkeys(counts, 0.0)

    def __call__(self, model: nn.Module, batch: Batch) -> Loss:
        """Sum both over the batch, in nats.

        batch   tokens (B, T) int, lengths (B,) int; labels (B,) int and tags (B, T) int, IGNORED where there is none, or one of the two
        """
        made = model(Inputs(batch["tokens"], lengths=batch["lengths"]))  # label (B, labels), tags (B, T, K)
        terms = []
        for name in self.weights(batch):
            if name == "label_nats":
                nats = F.cross_entropy(made["label"].float(), batch["labels"], ignore_index=IGNORED, reduction="sum")
            else:
                nats = chain_nats(made["tags"], batch["tags"], *model.head.heads["tags"].chain())
            terms.append(Term(name, nats))
        return tuple(terms)
