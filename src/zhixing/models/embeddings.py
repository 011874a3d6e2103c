"""A vector for every word, and a second one for the word as somebody's context: the model of skip-gram and CBOW.

It reads a tokenizer's ids: a table says which word each token is, so the model stands on any tokenizer. As an encoder its state at a place
is the vector of the word there, or nothing where there is no word.
Source: Mikolov et al. 2013, arXiv:1310.4546. A text's vector is the mean of its words', each weighted by RARE / (RARE + its share of the
text), so that what is said everywhere says little: Arora et al. 2017, "A simple but tough-to-beat baseline"; differs: the first principal
component is not taken out, since a single text has none.
Leaves out: vectors of words not seen in training (subwords, as in fastText).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.layers.kinds import Inputs
from zhixing.tokens.lexicon import find_pieces

REMARKS = frozenset({"architectures"})
RARE = 1e-3  # the share of the text at which a word's weight is halved. Source: Arora et al. 2017, section 4
NO_WORD = -1
# Frozen: a recipe gives the same model for ever. Rates and batch are the best of a few on 1.3 million words of film reviews, judged by 20
# pairs of like words; no decay, since what a product of vectors settles at is the figure that is wanted.
ALIKE = {
    "tokenizer": "words", "vocabulary": 32768, "window": 5, "negatives": 5, "subsample": 1e-3, "minimum": 5, "batch": 32,
    "learning_rate": 0.01, "table_decay": 0.0, "decay": 0.97, "dropout": 0.0, "evaluations": 5, "saves": 5,
}  # fmt: skip
PLANS = {
    "tiny": {"width": 50, "epochs": 5.0, **ALIKE},
    "small": {"width": 100, "epochs": 5.0, **ALIKE},
    "medium": {"width": 200, "epochs": 8.0, **ALIKE},
    "large": {"width": 300, "epochs": 10.0, **ALIKE},
}


@dataclass(frozen=True)
class EmbeddingsConfig:
    """The shape of the model.

    vocab_size     int    tokens that the tokenizer has
    word_count     int    words that have vectors, the most frequent first
    embedding_dim  int    width of a vector
    """

    vocab_size: int
    word_count: int
    embedding_dim: int
    model_type: str = "skipgram"


def find_words(rows: np.ndarray, edges: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Give the word at every token of a text, or NO_WORD.

    rows    (V,) int64    the word of each token, or NO_WORD
    edges   (V,) uint8    as in tokens/lexicon.py
    tokens  (N,) int
    return  (N,) int64
    """
    return np.where(find_pieces(edges[tokens]), NO_WORD, rows[tokens])


class Embeddings(nn.Module):
    """Two vectors a word, learnt so that their product says which words stand near each other.

    rows    (V,) int64    the word that each token is, or NO_WORD
    edges   (V,) uint8    where a token would join a letter beside it, as in tokens/lexicon.py
    counts  (N,) int64    how often each word stood in the training text
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"skipgram": PLANS, "cbow": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("lexical",)

    def __init__(self, config: EmbeddingsConfig) -> None:
        super().__init__()
        for name in ("vocab_size", "word_count", "embedding_dim"):
            if getattr(config, name) < 1:
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
        self.config = config
        self.width = config.embedding_dim
        self.vocabulary = config.vocab_size
        self.window = None
        self.embeddings = nn.Embedding(config.word_count, config.embedding_dim)
        self.context_embeddings = nn.Embedding(config.word_count, config.embedding_dim)
        self.register_buffer("rows", torch.full((config.vocab_size,), NO_WORD))
        self.register_buffer("edges", torch.zeros(config.vocab_size, dtype=torch.uint8))
        self.register_buffer("counts", torch.zeros(config.word_count, dtype=torch.int64))
        nn.init.uniform_(self.embeddings.weight, -0.5 / self.width, 0.5 / self.width)  # as word2vec's code has it
        nn.init.zeros_(self.context_embeddings.weight)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Embeddings:
        """Make a fresh model from a config.json's content."""
        return cls(read(EmbeddingsConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: width; as many words as tokens, which is the most there can be."""
        form = {"vocab_size": vocabulary, "word_count": vocabulary, "embedding_dim": settings.width}
        return {"model_type": settings.model, **form}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    @torch.no_grad()
    def know(self, rows: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> Embeddings:
        """Take in which token is which word; gives the model itself.

        rows    (V,) int
        edges   (V,) uint8
        counts  (N,) int
        """
        for name, value in (("rows", rows), ("edges", edges), ("counts", counts)):
            buffer = getattr(self, name)
            buffer.copy_(torch.as_tensor(np.asarray(value), dtype=buffer.dtype))
        return self

    def vectors(self, words: Tensor) -> Tensor:
        """Give words' vectors: (...) int words to (..., D) float."""
        return self.embeddings(words)

    def contexts(self, words: Tensor | None = None) -> Tensor:
        """Give words' vectors as contexts: (...) int words to (..., D) float; with no words, all of them."""
        return self.context_embeddings.weight if words is None else self.context_embeddings(words)

    def states(self, inputs: Inputs, cache: None = None) -> Tensor:
        """Give the vector of the word at every place, zero where there is none.

        inputs  tokens (B, T) int    token ids, each row a text
        return  (B, T, D) float
        """
        rows = torch.as_tensor(np.stack([self.read(row) for row in inputs.tokens.cpu().numpy()]), device=inputs.tokens.device)  # (B, T)
        return self.embeddings(rows.clamp(min=0)) * (rows != NO_WORD)[..., None]

    @torch.no_grad()
    def weights(self) -> Tensor:
        """Give each word's weight in a text's vector: (N,) float."""
        share = self.counts.double() / self.counts.sum().clamp(min=1)
        return (RARE / (RARE + share)).float()

    def read(self, tokens: np.ndarray) -> np.ndarray:
        """Give the word at every token of a text, or NO_WORD: (N,) int tokens to (N,) int64."""
        return find_words(self.rows.cpu().numpy(), self.edges.cpu().numpy(), np.asarray(tokens, np.int64))

    @torch.no_grad()
    def embed(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Give each text's vector: the weighted mean of its words' vectors, zero where it has none.

        texts   each the token ids of a text
        return  (B, D) float32
        """
        read = [words[words >= 0] for words in map(self.read, texts)]
        device = self.embeddings.weight.device
        words = torch.as_tensor(np.concatenate([np.zeros(0, np.int64), *read]), device=device)  # (N,)
        owner = torch.as_tensor(np.repeat(np.arange(len(read)), [len(each) for each in read]), device=device)  # (N,)
        weights = self.weights()[words]
        total = self.embeddings.weight.new_zeros(len(read), self.width).index_add_(0, owner, self.embeddings(words) * weights[:, None])
        means = total / weights.new_zeros(len(read)).index_add_(0, owner, weights).clamp(min=1e-12)[:, None]  # (B, D)
        return means.float().cpu().numpy()

    @torch.no_grad()
    def nearest(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Give the words whose vectors point most nearly as given ones.

        vectors  (B, D) float
        return   cosines, falling, and words, both (B, count); fewer where there are fewer words
        """
        table = F.normalize(self.embeddings.weight, dim=1)
        wanted = F.normalize(torch.as_tensor(vectors, dtype=table.dtype, device=table.device), dim=1)
        found = (wanted @ table.T).topk(min(count, len(table)), dim=1)
        return found.values.cpu().numpy(), found.indices.cpu().numpy()
