"""Encoders of pictures: the vision Transformer, whose states are patches, and a residual convolution net, whose states are cells.

Parameter and config names of "vit" are those of Hugging Face's ViTModel. Its first state belongs to no patch and sees all of them: a head
reads it. Cells of "cnn2d" are averaged.
Source: Dosovitskiy et al. 2021, section 3.1, arXiv:2010.11929; `layers/pictures.py`. Differs, at the start of training only: output
projections are zero, positions waves. Leaves out: the pooler, the mask token, other sizes than the one it was built for.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, ShapeError
from zhixing.layers.attention import attend_masked
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.pictures import Convolutions, places, scaled

FIXED = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version initializer_range attention_probs_dropout_prob encoder_stride pooler_act "
    "pooler_output_size _name_or_path".split()
)
POSITION_SCALE = 0.06
PATCHES = 8  # of a side
PLANS = {
    "tiny": {"layers": 2, "width": 64, "heads": 4, "window": 64, "batch": 32, "epochs": 8.0},
    "small": {"layers": 4, "width": 128, "heads": 4, "window": 64, "batch": 64, "epochs": 8.0},
    "medium": {"layers": 6, "width": 256, "heads": 4, "window": 64, "batch": 64, "epochs": 8.0},
    "large": {"layers": 12, "width": 512, "heads": 8, "window": 64, "batch": 64, "epochs": 8.0},
}


def picture(inputs: Inputs, model: str, size: int) -> Tensor:
    """Give the (B, C, Y, X) uint8 pictures of a batch.

    Raises DataError for a batch of something else, ShapeError for pictures of another size.
    """
    for name, value in (("text", inputs.tokens), ("audio", inputs.frames)):
        if value is not None:
            raise DataError("model.sense", model=model, name=name, among="image")
    if inputs.image is None or tuple(inputs.image.shape[1:]) != (3, size, size):
        raise ShapeError("model.picture", shape=tuple(inputs.image.shape[1:]) if inputs.image is not None else (), size=size)
    return inputs.image


@dataclass(frozen=True)
class ViTConfig:
    """The shape of the model, in Hugging Face's names; sizes in pixels of a side."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    image_size: int = 64
    patch_size: int = 8
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    model_type: str = "vit"


class Patches(nn.Module):
    """Patches as vectors, with the state of none before them and a learnt vector for each place."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        D, T = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.position_embeddings = nn.Parameter(torch.zeros(1, T + 1, D))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, D, config.patch_size, stride=config.patch_size)})
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, image: Tensor) -> Tensor:
        """Give (B, T + 1, D) float from (B, C, Y, X) uint8."""
        x = self.patch_embeddings["projection"](scaled(image)).flatten(2).mT  # (B, T, D)
        return self.dropout(torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.position_embeddings)


class Attention(nn.Module):
    """Multi-head attention before its output projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Let each place gather from all: (B, T, D) float to (B, T, D) float."""
        B, T, D = x.shape
        heads = (each(x).view(B, T, self.heads, -1).transpose(1, 2) for each in (self.query, self.key, self.value))  # (B, H, T, K)
        return attend_masked(*heads, None).transpose(1, 2).reshape(B, T, D)  # (B, T, D)


class Layer(nn.Module):
    """One layer: attention, then the feed-forward network; a norm stands before each, and each is added to the stream."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        D = config.hidden_size
        dense = nn.ModuleDict({"dense": nn.Linear(D, D)})
        self.attention = nn.ModuleDict({"attention": Attention(config), "output": dense})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(D, config.intermediate_size)})
        self.output = nn.ModuleDict({"dense": nn.Linear(config.intermediate_size, D)})
        self.layernorm_before = nn.LayerNorm(D, config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(D, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both halves: (B, T, D) float to (B, T, D) float."""
        y = self.attention["attention"](self.layernorm_before(x))
        x = x + self.dropout(self.attention["output"]["dense"](y))
        return x + self.dropout(self.output["dense"](F.gelu(self.intermediate["dense"](self.layernorm_after(x)))))


class ViT(nn.Module):
    """The vision Transformer: a state for each patch, and one for the whole before them."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"vit": PLANS}
    TASK: ClassVar[dict[str, str]] = {"image_size": "size"}
    kinds: ClassVar[tuple[str, ...]] = ("vision",)
    pooling: ClassVar[str] = "first"
    senses: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        if config.hidden_size % config.num_attention_heads:
            wanted = f"a divisor of hidden_size, {config.hidden_size}"
            raise DataError("model.config_value", name="num_attention_heads", value=config.num_attention_heads, wanted=wanted)
        if not 0 < config.patch_size <= config.image_size or config.image_size % config.patch_size:
            wanted = f"a divisor of image_size, {config.image_size}"
            raise DataError("model.config_value", name="patch_size", value=config.patch_size, wanted=wanted)
        self.config = config
        self.width, self.window = config.hidden_size, None
        self.embeddings = Patches(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ViT:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing, or asks for what this model does not compute.
        """
        return cls(read(ViTConfig, config, REMARKS, FIXED))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout; its task says how large pictures are."""
        form = {"hidden_size": settings.width, "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads}
        form |= {"intermediate_size": 4 * settings.width, "patch_size": PATCHES}
        return {"model_type": settings.model, **form, "hidden_dropout_prob": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {"architectures": ["ViTModel"], **dataclasses.asdict(self.config), **FIXED, "attention_probs_dropout_prob": 0.0}

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for the whole and one for every patch, row by row.

        inputs  image (B, C, Y, X) uint8
        return  (B, T, D) float

        Raises DataError for a batch that holds something else, ShapeError for pictures of another size.
        """
        x = self.embeddings(picture(inputs, "vit", self.config.image_size))  # (B, T, D)
        for layer in self.encoder["layer"]:
            x = layer(x)
        return self.layernorm(x)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("output.dense.weight", "bias")):
                parameter.zero_()
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
        projection = self.embeddings.patch_embeddings["projection"].weight
        projection.normal_(0.0, projection[0].numel() ** -0.5)
        side = self.config.image_size // self.config.patch_size
        self.embeddings.position_embeddings[0, 1:] = POSITION_SCALE * places(side, side, self.width, projection.device)
        self.embeddings.cls_token.normal_(0.0, POSITION_SCALE)


@dataclass(frozen=True)
class CNNConfig:
    """The shape of the model: channels of its last stage, and pixels of a side."""

    width: int
    image_size: int = 64
    dropout: float = 0.0
    model_type: str = "cnn2d"


class CNN(nn.Module):
    """A residual convolution net: a state for each of few cells."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"cnn2d": {size: {**plan, "heads": 0} for size, plan in PLANS.items()}}
    TASK: ClassVar[dict[str, str]] = {"image_size": "size"}
    kinds: ClassVar[tuple[str, ...]] = ("vision",)
    pooling: ClassVar[str] = "mean"
    senses: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        if config.width < 1:
            raise DataError("model.config_value", name="width", value=config.width, wanted="at least 1")
        self.config = config
        self.width, self.window = config.width, None
        self.convolutions = Convolutions(config.width, config.image_size)
        self.dropout = Dropout(config.dropout)
        self.convolutions.initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CNN:
        """Make a fresh model from a config.json's content."""
        return cls(read(CNNConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: width, dropout; its task says how large pictures are."""
        return {"model_type": settings.model, "width": settings.width, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for every cell, row by row.

        inputs  image (B, C, Y, X) uint8
        return  (B, T, D) float

        Raises DataError for a batch that holds something else, ShapeError for pictures of another size.
        """
        x = self.convolutions(picture(inputs, "cnn2d", self.config.image_size))  # (B, D, Y', X')
        return self.dropout(x.flatten(2).mT)  # (B, T, D)
