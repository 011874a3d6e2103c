"""Two towers: a picture and a text, each read alone, become vectors of length one; those that belong together lie near.

    image -> convolutions -> mean of cells -> a matrix  \\
                                                          cosine, times a learnt scale
    text  -> tokens, places, blocks -> mean -> a matrix /

Since neither sees the other, vectors of many can be made once and compared later.
Source: Radford et al. 2021, section 2.3, arXiv:2103.00020. Leaves out: pooling by attention.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, ShapeError
from zhixing.layers.attention import encoder_mask
from zhixing.layers.dropout import Dropout
from zhixing.layers.heads import pool
from zhixing.layers.kinds import Inputs
from zhixing.layers.pictures import Convolutions, Looking
from zhixing.layers.positions import waves

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
FIRST_SCALE, MOST_SCALE = 1 / 0.07, 100.0  # as published
TABLE_SCALE = 0.06
PLANS = {
    "tiny": {"layers": 1, "width": 64, "heads": 4, "window": 32, "batch": 64, "epochs": 8.0},
    "small": {"layers": 2, "width": 128, "heads": 4, "window": 64, "batch": 128, "epochs": 8.0},
    "medium": {"layers": 4, "width": 256, "heads": 4, "window": 128, "batch": 256, "epochs": 8.0},
    "large": {"layers": 8, "width": 512, "heads": 8, "window": 256, "batch": 256, "epochs": 8.0},
}


@dataclass(frozen=True)
class TowersConfig:
    """The shape of the model.

    width       int            of states and of the vectors that are compared
    window      int, tokens    of a text it can read
    image_size  int, pixels    of a side of a picture
    """

    vocab_size: int
    width: int
    heads: int
    layers: int
    window: int
    image_size: int = 64
    dropout: float = 0.0
    model_type: str = "towers"


class Towers(nn.Module):
    """A tower for pictures, a tower for texts, one space."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"towers": PLANS}
    TASK: ClassVar[dict[str, str]] = {"image_size": "size"}
    kinds: ClassVar[tuple[str, ...]] = ("towers",)
    senses: ClassVar[tuple[str, ...]] = ("image", "text")

    def __init__(self, config: TowersConfig) -> None:
        super().__init__()
        if config.heads < 1 or config.width % config.heads:
            raise DataError("model.config_value", name="heads", value=config.heads, wanted=f"a divisor of width, {config.width}")
        self.config = config
        self.width, self.window = config.width, config.window
        D = config.width
        self.cells = Convolutions(D, config.image_size)
        self.words = nn.Embedding(config.vocab_size, D)
        self.blocks = nn.ModuleList(Looking(D, config.heads, config.dropout) for _ in range(config.layers))
        self.norms = nn.ModuleDict({name: nn.LayerNorm(D) for name in self.senses})
        self.maps = nn.ModuleDict({name: nn.Linear(D, D, bias=False) for name in self.senses})
        self.dropout = Dropout(config.dropout)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Towers:
        """Make a fresh model from a config.json's content."""
        return cls(read(TowersConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout; its task says how large pictures are."""
        form = {"width": settings.width, "heads": settings.heads, "layers": settings.layers, "window": longest}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def image(self, inputs: Inputs) -> Tensor:
        """Give each picture's vector, of length one.

        inputs  image (B, C, Y, X) uint8
        return  (B, D) float

        Raises ShapeError for pictures of another size.
        """
        size = self.config.image_size
        if inputs.image is None or tuple(inputs.image.shape[1:]) != (3, size, size):
            raise ShapeError("model.picture", shape=tuple(inputs.image.shape[1:]) if inputs.image is not None else (), size=size)
        x = self.cells(inputs.image).flatten(2).mean(2)  # (B, D)
        return F.normalize(self.maps["image"](self.norms["image"](self.dropout(x))).float(), dim=1)

    def text(self, inputs: Inputs) -> Tensor:
        """Give each text's vector, of length one.

        inputs  tokens (B, T) int
        return  (B, D) float

        Raises ShapeError for a text that is longer than the window.
        """
        T = inputs.tokens.shape[1]
        if T > self.window:
            raise ShapeError("model.too_long", length=T, window=self.window)
        x = self.dropout(self.words(inputs.tokens) + TABLE_SCALE * waves(T, self.width, inputs.tokens.device))  # (B, T, D)
        mask = encoder_mask(inputs.tokens, inputs.lengths, None)
        for block in self.blocks:
            x = block(x, mask)
        return F.normalize(self.maps["text"](self.norms["text"](pool(x, inputs.lengths))).float(), dim=1)

    def scale(self) -> Tensor:
        """Give by what a cosine is multiplied to be a logit: () float."""
        return self.log_scale.exp().clamp(max=MOST_SCALE)

    @torch.no_grad()
    def _initialise(self) -> None:
        self.cells.initialise()
        for block in self.blocks:
            block.initialise()
        self.words.weight.normal_(0.0, TABLE_SCALE)
        for each in self.maps.values():
            each.weight.normal_(0.0, self.width**-0.5)
