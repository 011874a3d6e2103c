"""Fusion: an encoder each for a text, a picture and a sound, whose states become joint ones in blocks where everything sees everything.

    text  -> tokens, places, blocks of its own   \\
    image -> convolutions, a state a cell          } + what sort each is -> joint blocks -> a state a place, the summary's first
    sound -> strided convolutions over frames    /

The summary begins with the product of what is asked and of the most that is seen or heard: a short way to what only both can say. Without
it colours were told after 300 steps and shapes not after 1,500; with it shapes begin at 400.
What a row lacks is seen by nothing: its places are masked and stand behind the real ones. A learnt summary, which sees all, is the first
state of every row; a head reads it.
Source: Chen et al. 2020, arXiv:1909.11740 (one stream of joint blocks); Antol et al. 2015, arXiv:1505.00468 (the product of a picture's
and a question's vectors). Differs: convolutions on pixels, not a detector's regions; a sound as a third branch. Leaves out: pretraining on
pairs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, ShapeError
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.pictures import Convolutions, Looking, cells_of, places
from zhixing.layers.positions import waves
from zhixing.layers.strides import Strides

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
SENSES = ("image", "text", "audio")
TABLE_SCALE = 0.06  # of words, sorts and the summary, beside places of the same size
MEETING_SCALE = 0.3  # of the product: most of what the summary begins with
PLANS = {
    "tiny": {"layers": 1, "width": 64, "heads": 4, "window": 32, "batch": 32, "epochs": 8.0},
    "small": {"layers": 2, "width": 128, "heads": 4, "window": 64, "batch": 64, "epochs": 8.0},
    "medium": {"layers": 4, "width": 256, "heads": 4, "window": 128, "batch": 64, "epochs": 8.0},
    "large": {"layers": 8, "width": 512, "heads": 8, "window": 256, "batch": 64, "epochs": 8.0},
}


@dataclass(frozen=True)
class FusionConfig:
    """The shape of the model.

    senses      names            which encoders it has, of "image", "text" and "audio"
    image_size  int, pixels      of a side of a picture
    bins        int              features of a frame of sound
    layers      int              joint blocks; the text has half as many of its own, at least one
    window      int, tokens      of a text it can read
    """

    vocab_size: int
    width: int
    heads: int
    layers: int
    window: int
    senses: tuple[str, ...] = SENSES
    image_size: int = 64
    bins: int = 40
    dropout: float = 0.0
    model_type: str = "fusion"


class Meeting(nn.Module):
    """The product of two vectors, each mapped to twice its width, mapped back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.found, self.asked = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width, bias=False)

    def forward(self, found: Tensor, asked: Tensor) -> Tensor:
        """Give (B, D) from two (B, D)."""
        return self.out(self.found(found) * self.asked(asked))


class Fusion(nn.Module):
    """Joint states of a picture, a text and a sound, of those that a row has."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"fusion": PLANS}
    TASK: ClassVar[dict[str, str]] = {"senses": "senses", "image_size": "size", "bins": "bins"}
    kinds: ClassVar[tuple[str, ...]] = ("fusion",)
    pooling: ClassVar[str] = "first"

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        if config.heads < 1 or config.width % config.heads:
            raise DataError("model.config_value", name="heads", value=config.heads, wanted=f"a divisor of width, {config.width}")
        if not config.senses or not set(config.senses) <= set(SENSES):
            raise DataError("model.config_value", name="senses", value=", ".join(config.senses), wanted=", ".join(SENSES))
        self.config, self.senses = config, config.senses
        self.width, self.window = config.width, config.window
        D = config.width
        self.sorts = nn.Embedding(len(SENSES) + 1, D)  # of states, the last the summary's
        self.dropout = Dropout(config.dropout)
        if "text" in self.senses:
            self.words = nn.Embedding(config.vocab_size, D)
            self.text = nn.ModuleList(Looking(D, config.heads, config.dropout) for _ in range(max(1, config.layers // 2)))
            self.asked_norm = nn.LayerNorm(D, elementwise_affine=False)
            self.meetings = nn.ModuleDict({name: Meeting(D) for name in self.senses if name != "text"})
        if "image" in self.senses:
            self.image = Convolutions(D, config.image_size)
            self.image_norm = nn.LayerNorm(D)
            self.image_glance = nn.Linear(D, D, bias=False)
        if "audio" in self.senses:
            self.audio = Strides(config.bins, D)
            self.audio_norm = nn.LayerNorm(D)
        self.joint = nn.ModuleList(Looking(D, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(D)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Fusion:
        """Make a fresh model from a config.json's content."""
        return cls(read(FusionConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout; what its task says of rows comes to it."""
        form = {"width": settings.width, "heads": settings.heads, "layers": settings.layers, "window": longest}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {**dataclasses.asdict(self.config), "senses": list(self.config.senses)}

    def states(self, inputs: Inputs) -> Tensor:
        """Compute the joint states, a row's real ones first: the summary, its text's, its picture's, its sound's.

        inputs  tokens (B, T) int, image (B, C, Y, X) uint8, frames (B, F, C) float, those of its senses; with their lengths
        return  (B, T', D) float

        Raises DataError for a sense that the model does not have, ShapeError for a text or a picture that it was not built for.
        """
        parts, real = self._parts(inputs)
        x, real = torch.cat(parts, 1), torch.cat(real, 1)  # (B, T', D) and (B, T') bool
        order = real.int().argsort(dim=1, descending=True, stable=True)  # (B, T')
        x, real = x.gather(1, order[..., None].expand_as(x)), real.gather(1, order)
        mask = _mask(real)
        x = self.dropout(x)
        for block in self.joint:
            x = block(x, mask)
        return self.norm(x) * real[..., None]

    def counts(self, inputs: Inputs) -> Tensor:
        """Count each row's real states: (B,) int."""
        count = torch.ones(_rows(inputs), dtype=torch.long, device=self.norm.weight.device)  # (B,), the summary
        if inputs.tokens is not None:
            count = count + (inputs.tokens.shape[1] if inputs.lengths is None else inputs.lengths)
        if inputs.image is not None:
            count = count + cells_of(self.config.image_size) ** 2 * (1 if inputs.pictures is None else inputs.pictures)
        if inputs.frames is not None:
            count = count + Strides.lengths(inputs.frames.shape[1] if inputs.frames_lengths is None else inputs.frames_lengths)
        return count

    def _parts(self, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
        """Give the states of each sense with what sort they are, and which of them are real."""
        given = {"image": inputs.image, "text": inputs.tokens, "audio": inputs.frames}
        for name, value in given.items():
            if value is not None and name not in self.senses:
                raise DataError("model.sense", model=self.config.model_type, name=name, among=", ".join(self.senses))
        B, device = _rows(inputs), self.norm.weight.device
        parts = [self.sorts.weight[-1].expand(B, 1, -1)]
        real = [torch.ones(B, 1, dtype=torch.bool, device=device)]
        asked = None
        if inputs.tokens is not None:
            T = inputs.tokens.shape[1]
            if T > self.window:
                raise ShapeError("model.too_long", length=T, window=self.window)
            real.append(_first(B, T, inputs.lengths, device))
            x = self.words(inputs.tokens) + TABLE_SCALE * waves(T, self.width, device)  # (B, T, D)
            x, mask = self.dropout(x), _mask(real[-1])
            for block in self.text:
                x = block(x, mask)
            asked = self.asked_norm((x * real[-1][..., None]).sum(1)) * real[-1].any(1, keepdim=True)  # (B, D); nought where no text is
            parts.append(x + self.sorts.weight[1])
        if inputs.image is not None:
            if tuple(inputs.image.shape[1:]) != (3, self.config.image_size, self.config.image_size):
                raise ShapeError("model.picture", shape=tuple(inputs.image.shape[1:]), size=self.config.image_size)
            x = self.image(inputs.image)  # (B, D, Y', X')
            where = places(x.shape[2], x.shape[3], self.width, device)  # (T, D)
            x = x.flatten(2).mT  # (B, T, D)
            most = self.image_norm(x.amax(1))  # (B, D)
            glance = TABLE_SCALE * self.image_glance(most) + self._met("image", most, asked)
            parts[0] = parts[0] + (glance if inputs.pictures is None else glance * inputs.pictures[:, None]).unsqueeze(1)
            parts.append(TABLE_SCALE * (x + where) + self.sorts.weight[0])
            there = None if inputs.pictures is None else inputs.pictures * x.shape[1]
            real.append(_first(B, x.shape[1], there, device))
        if inputs.frames is not None:
            x, lengths = self.audio(inputs.frames, inputs.frames_lengths)  # (B, T, D)
            x, heard = self.audio_norm(x), _first(B, x.shape[1], lengths, device)  # (B, T, D) and (B, T)
            most = x.masked_fill(~heard[..., None], float("-inf")).amax(1)  # (B, D)
            glance = self._met("audio", torch.where(heard[:, :1], most, 0.0), asked) * heard[:, :1]
            parts[0] = parts[0] + glance.unsqueeze(1)
            parts.append(TABLE_SCALE * (x + waves(x.shape[1], self.width, device)) + self.sorts.weight[2])
            real.append(heard)
        return parts, real

    def _met(self, name: str, most: Tensor, asked: Tensor | None) -> Tensor:
        """Give the product of what was found, (B, D), and of what is asked, (B, D) or None where no row has a text; nought where it is."""
        if asked is None:
            return torch.zeros_like(most)
        return MEETING_SCALE * self.meetings[name](most, asked) * asked.any(1, keepdim=True)

    @torch.no_grad()
    def _initialise(self) -> None:
        for each in self.modules():
            if isinstance(each, Looking | Convolutions | Strides):
                each.initialise()
            elif isinstance(each, nn.Embedding):
                each.weight.normal_(0.0, TABLE_SCALE)
        for name, each in self.named_modules():
            if isinstance(each, nn.Linear) and (name.startswith("meetings.") or name.endswith("_glance")):
                each.weight.normal_(0.0, each.in_features**-0.5)
                if each.bias is not None:
                    each.bias.zero_()


def _rows(inputs: Inputs) -> int:
    """Count the rows of a batch, by whatever it holds."""
    return next(each for each in (inputs.tokens, inputs.image, inputs.frames) if each is not None).shape[0]


def _first(B: int, T: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """Mark the first places of each row: (B, T) bool; lengths (B,) int, None: all."""
    if lengths is None:
        return torch.ones(B, T, dtype=torch.bool, device=device)
    return torch.arange(T, device=device) < lengths[:, None]


def _mask(real: Tensor) -> Tensor:
    """Let every place see the real ones, and itself: (B, T) bool to (B, 1, T, T) bool."""
    itself = torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    return (real[:, None] | itself).unsqueeze(1)
