"""What two texts have in common: the cosine of their hashed n-grams, the rare ones weighed up. The rival of every model of likeness.

The features are those of the linear classifier (`bag`). Source: Salton and Buckley 1988 (TF-IDF, cosine). Leaves out: synonyms, word order
beyond the n-grams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zhixing.core.config import read
from zhixing.core.errors import DataError
from zhixing.models.bag import BagConfig, count_columns, learn_columns, scale, weigh_rare

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REMARKS = frozenset({"architectures"})
READING = BagConfig(1)  # how texts are read


@dataclass(frozen=True)
class OverlapConfig:
    """How many texts were read."""

    texts: int
    model_type: str = "overlap"


class Overlap:
    """Weights of n-grams by how few texts have them.

    columns  (F,) int32 sorted     hashes of the features that are kept
    idf      (F,) float32
    """

    arrays = True

    def __init__(self, config: OverlapConfig, columns: np.ndarray, idf: np.ndarray) -> None:
        self.config = config
        self.columns, self.idf = columns, idf

    @classmethod
    def fit(cls, texts: Sequence[str]) -> Overlap:
        """Count in how many texts each n-gram stands. Raises DataError when there are none."""
        if not texts:
            raise DataError("fit.rows", model="overlap", rows=0, answers=0)
        columns, counts = learn_columns(texts, READING)
        return cls(OverlapConfig(len(texts)), columns, weigh_rare(counts))

    def vectors(self, texts: Sequence[str]) -> csr_matrix:
        """Give texts as (B, F) float32 vectors of length one; of zeros where nothing of a text is known."""
        return scale(count_columns(texts, self.columns, READING), self.idf)

    def to_dict(self) -> dict[str, Any]:
        """Give the configuration as a JSON-able value."""
        return asdict(self.config)

    def tensors(self) -> dict[str, np.ndarray]:
        """Give what was counted, to be saved."""
        return {"columns": self.columns, "idf": self.idf}

    @classmethod
    def from_tensors(cls, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Overlap:
        """Build the model again from its configuration and its saved arrays."""
        return cls(read(OverlapConfig, dict(config), REMARKS), *(np.asarray(tensors[name]) for name in ("columns", "idf")))
