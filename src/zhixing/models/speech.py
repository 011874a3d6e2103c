"""Acoustic models: frames of a sound become states, and each state says a token or nothing (`objectives/ctc.py`).

Two families share a front that makes one state of every few frames by convolutions: `bilstm_ctc` reads them both ways with LSTMs;
`conformer` by layers of attention, for what lies far apart, and convolution, for what lies near. In training, and only then, frames are
changed as another speaker might have said them (`layers/augment.py`).
Source: Graves, Mohamed and Hinton 2013 (BiLSTM); Gulati et al. 2020, arXiv:2005.08100 (Conformer). Names are those of Hugging Face's
Wav2Vec2Conformer, below `wav2vec2_conformer.encoder.layers` without that prefix. Differs: the front reads log-mel frames; positions are
rotary; where Conformer normalises by the batch, it is by the state itself, so that a row's states depend on no other row; point-wise
convolutions are linear maps. Leaves out: states made before the sound has ended.
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
from zhixing.data.sound import BINS, STRIDE
from zhixing.layers.attention import attend_masked
from zhixing.layers.augment import augment
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.positions import rotate, rotation
from zhixing.models.bidirectional import Layer as BothWays
from zhixing.models.recurrent import KEEPING
from zhixing.tokens.layout import END

REMARKS = frozenset({"architectures", "bos_token_id", "eos_token_id", "pad_token_id"})
KERNEL = 5  # frames, and channels, that one step of the front sees
FILTERS, LEAST_CONVS = 16, 2  # of each convolution of the front, and how many there are at least
THETA = 10_000.0  # of the rotary positions
BILSTM_PLANS = {
    "tiny": {"layers": 1, "width": 128, "embedding": 64, "batch": 16, "epochs": 30.0, "learning_rate": 0.01},
    "small": {"layers": 2, "width": 256, "embedding": 128, "batch": 16, "epochs": 30.0, "learning_rate": 0.006},
    "medium": {"layers": 3, "width": 640, "embedding": 256, "batch": 16, "epochs": 30.0, "learning_rate": 0.004},
    "large": {"layers": 5, "width": 1280, "embedding": 512, "batch": 16, "epochs": 30.0, "learning_rate": 0.003},
}
CONFORMER_PLANS = {
    "tiny": {"layers": 2, "width": 96, "heads": 4, "batch": 16, "epochs": 30.0, "learning_rate": 0.01},
    "small": {"layers": 4, "width": 144, "heads": 4, "batch": 16, "epochs": 30.0, "learning_rate": 0.006},
    "medium": {"layers": 8, "width": 256, "heads": 4, "batch": 16, "epochs": 30.0, "learning_rate": 0.004},
    "large": {"layers": 17, "width": 512, "heads": 8, "batch": 16, "epochs": 30.0, "learning_rate": 0.003},
}


@dataclass(frozen=True)
class SpeechConfig:
    """The shape of a BiLSTM, and what both families share.

    num_mel_bins  int, channels    of a frame
    stride        int, frames      that become one state: 1, or a power of 2
    hidden_dim    int              width of each direction's state
    dropout       float            between layers and on states, in training only
    augment       float            how far training frames are changed; 0: not at all
    """

    vocab_size: int
    num_mel_bins: int = BINS
    stride: int = STRIDE
    embedding_dim: int = 128
    hidden_dim: int = 128
    num_layers: int = 2
    dropout: float = 0.0
    augment: float = 1.0
    model_type: str = "bilstm_ctc"


@dataclass(frozen=True)
class ConformerConfig:
    """The shape of a Conformer, in Hugging Face's names where it has one.

    conv_depthwise_kernel_size  int, states    that the convolution sees, odd
    """

    vocab_size: int
    num_mel_bins: int = BINS
    stride: int = STRIDE
    hidden_size: int = 144
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    intermediate_size: int = 576
    conv_depthwise_kernel_size: int = 15
    layer_norm_eps: float = 1e-5
    hidden_dropout: float = 0.0
    augment: float = 1.0
    model_type: str = "conformer"


def check(config: Any, names: tuple[str, ...]) -> None:
    """Refuse a shape that cannot be, by name."""
    for name in names:
        if getattr(config, name) < 1:
            raise DataError("model.config_value", name=name, value=getattr(config, name), wanted="at least 1")
    if config.stride & (config.stride - 1):
        raise DataError("model.config_value", name="stride", value=config.stride, wanted="1, or a power of 2")


def real_frames(lengths: Tensor | None, steps: int, device: torch.device) -> Tensor | None:
    """Say which steps are real: (B, F, 1) bool; None: all."""
    return None if lengths is None else (torch.arange(steps, device=device) < lengths[:, None]).unsqueeze(2)


class Front(nn.Module):
    """Frames become states, one of every `stride`: convolutions over time and channels, each of which halves the channels.

    What a filter finds it finds wherever it lies on the channels' axis, so that a voice a little higher or lower looks much the same.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        steps = [2] * (stride.bit_length() - 1)
        steps += [1] * (LEAST_CONVS - len(steps))
        self.convs = nn.ModuleList(
            nn.Conv2d(FILTERS if place else 1, FILTERS, KERNEL, (step, 2), KERNEL // 2) for place, step in enumerate(steps)
        )
        for _ in steps:
            channels = (channels - 1) // 2 + 1
        self.out = nn.Linear(FILTERS * channels, width)

    def lengths(self, frames: Tensor) -> Tensor:
        """Give how many states so many frames become."""
        for conv in self.convs:
            frames = (frames - 1) // conv.stride[0] + 1
        return frames

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Read frames; what lies beyond a row's length is read as silence.

        x        (B, F, C) float
        lengths  (B,) int           None: all of a row is real
        return   (B, F', D) float, zero beyond a row's length, and the rows' lengths
        """
        x = x.unsqueeze(1)  # (B, 1, F, C)
        for conv in self.convs:
            real = real_frames(lengths, x.shape[2], x.device)
            x = x if real is None else torch.where(real.unsqueeze(1), x, 0.0)
            x = F.silu(conv(x))  # (B, filters, F', C')
            lengths = None if lengths is None else (lengths - 1) // conv.stride[0] + 1
        x = self.out(x.transpose(1, 2).flatten(2))  # (B, F', D)
        real = real_frames(lengths, x.shape[1], x.device)
        return (x if real is None else torch.where(real, x, 0.0)), lengths


def read_frames(model: Any, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Give the frames of a batch, changed in training, and their lengths; raises ShapeError where there are none, or others."""
    if inputs.frames is None:
        raise ShapeError("model.no_frames", model=model.config.model_type)
    if inputs.frames.shape[2] != model.config.num_mel_bins:
        raise ShapeError("model.channels", channels=inputs.frames.shape[2], wanted=model.config.num_mel_bins)
    frames = augment(inputs.frames, inputs.frames_lengths, model.config.augment) if model.training else inputs.frames
    return frames, inputs.frames_lengths


@torch.no_grad()
def begin(head: nn.Linear) -> None:
    """Let a head say nothing at every second state, and any token as likely as another: the first steps need not learn that."""
    head.bias.zero_()
    head.bias[END] = math.log(len(head.bias))


class BiLSTM(nn.Module):
    """An acoustic model: LSTMs both ways over the front's states."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"bilstm_ctc": BILSTM_PLANS}
    TASK: ClassVar[dict[str, str]] = {"num_mel_bins": "bins", "stride": "stride"}
    CARRIES: ClassVar[tuple[str, ...]] = ("rate", "bins", "stride")
    kinds: ClassVar[tuple[str, ...]] = ("acoustic",)

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        check(config, ("num_mel_bins", "stride", "embedding_dim", "hidden_dim", "num_layers"))
        self.config = config
        self.width = 2 * config.hidden_dim
        self.vocabulary = config.vocab_size
        self.window = None  # of frames that it can read
        self.front = Front(config.num_mel_bins, config.embedding_dim, config.stride)
        widths = [config.embedding_dim] + [self.width] * (config.num_layers - 1)
        self.layers = nn.ModuleList(BothWays(nn.LSTM, width, config.hidden_dim) for width in widths)
        self.dropout = Dropout(config.dropout)
        self.lm_head = nn.Linear(self.width, config.vocab_size)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BiLSTM:
        """Make a fresh model from a config.json's content."""
        return cls(read(SpeechConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width (half each way), embedding (of the front), dropout, augment."""
        form = {"embedding_dim": settings.embedding, "hidden_dim": settings.width // 2, "num_layers": settings.layers}
        form |= {"dropout": max(0.0, settings.dropout), "augment": settings.augment}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def lengths(self, frames: Tensor) -> Tensor:
        """Give how many states so many frames become.

        frames  (B,) int
        return  (B,) int
        """
        return self.front.lengths(frames)

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for every few frames from all real frames of its row.

        inputs  frames (B, F, C) float    states beyond a row's length mean nothing
        return  (B, F', D) float

        Raises ShapeError when there are no frames, or of another number of channels.
        """
        x, lengths = self.front(*read_frames(self, inputs))  # (B, F', E)
        for layer in self.layers:
            x = self.dropout(layer(x, lengths))  # (B, F', D)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the token, or of the blank, that each state says.

        states  (..., D) float
        return  (..., V) float
        """
        return self.lm_head(states)

    @torch.no_grad()
    def _initialise(self) -> None:
        hidden = self.config.hidden_dim
        for name, parameter in self.layers.named_parameters():
            if "bias" in name:
                parameter.zero_()
            if "bias_ih" in name:
                parameter[hidden : 2 * hidden] = KEEPING["lstm"]
        begin(self.lm_head)


class FeedForward(nn.Module):
    """Each state on its own, through a wider layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, F, D) from (B, F, D)."""
        return self.output_dense(F.silu(self.intermediate_dense(x)))


class Attention(nn.Module):
    """Every state reads all real states of its row, at angles that depend on how far apart they stand."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
            setattr(self, name, nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Mix states.

        x       (B, T, D) float
        turn    two (1, 1, T, K) float    of `rotation`
        mask    (B, 1, T, T) bool         None: all may be seen
        return  (B, T, D) float
        """
        B, T, D = x.shape
        queries, keys, values = (
            each(x).view(B, T, self.heads, -1).transpose(1, 2) for each in (self.linear_q, self.linear_k, self.linear_v)
        )  # (B, H, T, K)
        turned = (rotate(each, *turn).to(values.dtype) for each in (queries, keys))
        return self.linear_out(attend_masked(*turned, values, mask).transpose(1, 2).reshape(B, T, D))


class Convolution(nn.Module):
    """Each channel over neighbouring states, between two maps of each state on its own."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        D, kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(D, config.layer_norm_eps)
        self.pointwise_conv1 = nn.Linear(D, 2 * D)
        self.depthwise_conv = nn.Conv1d(D, D, kernel, padding=kernel // 2, groups=D)
        self.norm = nn.LayerNorm(D, config.layer_norm_eps)
        self.pointwise_conv2 = nn.Linear(D, D)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Give (B, F, D) from (B, F, D); what is not real (B, F, 1) is read as zeros."""
        x = F.glu(self.pointwise_conv1(self.layer_norm(x)), 2)
        x = x if real is None else torch.where(real, x, 0.0)
        return self.pointwise_conv2(F.silu(self.norm(self.depthwise_conv(x.mT).mT)))


class Layer(nn.Module):
    """Half a network, attention, convolution, half a network."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        D, epsilon = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm, self.ffn1 = nn.LayerNorm(D, epsilon), FeedForward(config)
        self.self_attn_layer_norm, self.self_attn = nn.LayerNorm(D, epsilon), Attention(config)
        self.conv_module = Convolution(config)
        self.ffn2_layer_norm, self.ffn2 = nn.LayerNorm(D, epsilon), FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(D, epsilon)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, real: Tensor | None) -> Tensor:
        """Give (B, F, D) from (B, F, D)."""
        x = x + 0.5 * self.dropout(self.ffn1(self.ffn1_layer_norm(x)))
        x = x + self.dropout(self.self_attn(self.self_attn_layer_norm(x), turn, mask))
        x = x + self.dropout(self.conv_module(x, real))
        x = x + 0.5 * self.dropout(self.ffn2(self.ffn2_layer_norm(x)))
        return self.final_layer_norm(x)


class Conformer(nn.Module):
    """An acoustic model: layers of attention and convolution over the front's states."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"conformer": CONFORMER_PLANS}
    TASK: ClassVar[dict[str, str]] = {"num_mel_bins": "bins", "stride": "stride"}
    CARRIES: ClassVar[tuple[str, ...]] = ("rate", "bins", "stride")
    kinds: ClassVar[tuple[str, ...]] = ("acoustic",)

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        check(config, ("num_mel_bins", "stride", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
        if config.hidden_size % (2 * config.num_attention_heads):
            wanted = f"half of a divisor of hidden_size, {config.hidden_size}"
            raise DataError("model.config_value", name="num_attention_heads", value=config.num_attention_heads, wanted=wanted)
        if config.conv_depthwise_kernel_size % 2 != 1:
            raise DataError(
                "model.config_value", name="conv_depthwise_kernel_size", value=config.conv_depthwise_kernel_size, wanted="an odd number"
            )
        self.config = config
        self.width = config.hidden_size
        self.vocabulary = config.vocab_size
        self.window = None
        self.front = Front(config.num_mel_bins, config.hidden_size, config.stride)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.dropout = Dropout(config.hidden_dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        begin(self.lm_head)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Conformer:
        """Make a fresh model from a config.json's content."""
        return cls(read(ConformerConfig, config, REMARKS))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout, augment."""
        form = {"hidden_size": settings.width, "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads}
        form |= {"augment": settings.augment}
        form |= {"intermediate_size": 4 * settings.width, "hidden_dropout": max(0.0, settings.dropout)}
        return {"model_type": settings.model, "vocab_size": vocabulary, **form}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return dataclasses.asdict(self.config)

    def lengths(self, frames: Tensor) -> Tensor:
        """Give how many states so many frames become.

        frames  (B,) int
        return  (B,) int
        """
        return self.front.lengths(frames)

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for every few frames from all real frames of its row.

        inputs  frames (B, F, C) float    states beyond a row's length mean nothing
        return  (B, F', D) float

        Raises ShapeError when there are no frames, or of another number of channels.
        """
        x, lengths = self.front(*read_frames(self, inputs))  # (B, F', D)
        T = x.shape[1]
        turn = rotation(torch.arange(T, device=x.device)[None, None], self.width // self.config.num_attention_heads, THETA)
        real, mask = real_frames(lengths, T, x.device), None
        if real is not None:
            mask = (real.mT | torch.eye(T, dtype=torch.bool, device=x.device)).unsqueeze(1)  # (B, 1, T, T): a padded one sees itself
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, turn, mask, real)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the token, or of the blank, that each state says.

        states  (..., D) float
        return  (..., V) float
        """
        return self.lm_head(states)
