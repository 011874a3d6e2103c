"""Whisper: an encoder-decoder Transformer that reads the log-mel frames of a sound and writes what is said in it.

Two convolutions make one state of every two frames; layers of attention read all of them; a decoder writes, token by token, and looks at
the states at every step. What a sound is filled up with is read as silence, not masked: a sound of the length that a model was taught has
no padding. Of a sound that is made shorter, the first positions are used. Parameter and config names are Hugging Face's.
It is the kind "speech_seq2seq": an EncoderDecoder whose source is frames.
Source: Radford et al. 2022, arXiv:2212.04356, section 2.2. Differs, at the start of a training from nothing only: as `seq2seq` does.
Leaves out: time stamps, dropout of attention probabilities, changes of frames in training.
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
from zhixing.layers.attention import attend_masked
from zhixing.layers.blocks import over_table
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.models.seq2seq import Layer, Seq2Seq

FIXED = {"activation_function": "gelu", "tie_word_embeddings": True, "is_encoder_decoder": True, "scale_embedding": False}
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version init_std use_cache _name_or_path attention_dropout activation_dropout "
    "encoder_layerdrop decoder_layerdrop num_hidden_layers max_length "
    "suppress_tokens begin_suppress_tokens forced_decoder_ids apply_spec_augment mask_time_prob mask_time_length mask_time_min_masks "
    "mask_feature_prob mask_feature_length mask_feature_min_masks median_filter_width use_weighted_layer_sum classifier_proj_size".split()
)
KERNEL, HALVING = 3, 2  # of the convolutions, and frames that become one state
PLANS = {
    "tiny": {"layers": 2, "width": 96, "heads": 4},
    "small": {"layers": 4, "width": 256, "heads": 4},
    "medium": {"layers": 6, "width": 512, "heads": 8},
    "large": {"layers": 12, "width": 768, "heads": 12},
}
PLANS = {size: {"batch": 16, "epochs": 30.0, "learning_rate": 0.003, **plan} for size, plan in PLANS.items()}


@dataclass(frozen=True)
class WhisperConfig:
    """The shape of the model, in Hugging Face's names; `dropout` acts on embeddings and on what each part adds, in training only.

    max_source_positions  int, states    that a sound may have, two frames each
    max_target_positions  int, tokens    that may be written
    """

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_source_positions: int = 1500
    max_target_positions: int = 448
    num_mel_bins: int = 80
    model_type: str = "whisper"
    dropout: float = 0.0
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 1
    decoder_start_token_id: int | None = 1


def sinusoids(positions: int, width: int) -> Tensor:
    """Give the waves that tell positions apart: sines in the first half of a row, cosines in the second.

    return  (S, D) float32
    """
    steps = math.log(10_000.0) / (width // 2 - 1)
    turn = torch.arange(positions).unsqueeze(1) * torch.exp(-steps * torch.arange(width // 2))  # (S, K)
    return torch.cat([turn.sin(), turn.cos()], 1)


class Positions(nn.Module):
    """The encoder's table of positions, which is not learnt."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", sinusoids(positions, width))


class Encoder(nn.Module):
    """What reads the frames."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        D = config.d_model
        self.conv1 = nn.Conv1d(config.num_mel_bins, D, KERNEL, padding=1)
        self.conv2 = nn.Conv1d(D, D, KERNEL, stride=HALVING, padding=1)
        self.embed_positions = Positions(config.max_source_positions, D)
        form = (config.encoder_attention_heads, config.encoder_ffn_dim, False, False)
        self.layers = nn.ModuleList(Layer(config, *form) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(D)
        self.dropout = Dropout(config.dropout)


class Decoder(nn.Module):
    """What writes."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_target_positions, config.d_model)
        form = (config.decoder_attention_heads, config.decoder_ffn_dim, True, False)
        self.layers = nn.ModuleList(Layer(config, *form) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def begin(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Give tokens their places.

        embedded   (B, T, D) float
        positions  (1, T) int        or one row a text
        return     (B, T, D) float
        """
        return self.dropout(embedded + self.embed_positions(positions))


class Both(nn.Module):
    """Everything; it exists so that parameter names begin with `model.`, as Hugging Face's do."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)


class Whisper(Seq2Seq):
    """p(next token | sound, tokens so far), at every position at once."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"whisper": PLANS}
    # It never met dropout: with 0.1 its first loss on spliced digits was 6.5 nats a token, and 1.7 without.
    PRETRAINED: ClassVar[dict[str, Any]] = {"dropout": 0.0, "learning_rate": 2e-5}
    WINDOW: ClassVar[str] = "max_target_positions"
    TASK: ClassVar[dict[str, str]] = {"num_mel_bins": "bins"}
    CARRIES: ClassVar[tuple[str, ...]] = ("rate", "bins", "seconds", "beam", "opening", "barred", "unopened", "languages")
    kinds: ClassVar[tuple[str, ...]] = ("speech_seq2seq",)
    senses: ClassVar[tuple[str, ...]] = ("audio",)

    def __init__(self, config: WhisperConfig) -> None:
        nn.Module.__init__(self)
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if config.d_model % getattr(config, name) or config.d_model < 4:
                wanted = f"a divisor of d_model, {config.d_model}"
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted=wanted)
        self.config = config
        self.width, self.vocabulary, self.window = config.d_model, config.vocab_size, config.max_target_positions
        self.model = Both(config)
        for layer in (*self.model.encoder.layers, *self.model.decoder.layers):
            layer.mix = attend_masked
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Whisper:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing, or asks for what this model does not compute.
        """
        return cls(read(WhisperConfig, config, REMARKS, FIXED))

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        return {"architectures": ["WhisperForConditionalGeneration"], **dataclasses.asdict(self.config), **FIXED}

    def encode(self, source: Inputs) -> Tensor:
        """Compute a state for every two frames of a sound from all of it; frames that fill a row up are read as they are.

        source  frames (B, F, C) float
        return  (B, S, D) float

        Raises ShapeError when there are no frames, frames of another number of channels, or more than the model was built for.
        """
        if source.frames is None:
            raise ShapeError("model.no_frames", model=self.config.model_type)
        frames, encoder = source.frames, self.model.encoder
        if frames.shape[2] != self.config.num_mel_bins:
            raise ShapeError("model.channels", channels=frames.shape[2], wanted=self.config.num_mel_bins)
        x = F.gelu(encoder.conv1(frames.mT))  # (B, D, F)
        x = F.gelu(encoder.conv2(x)).mT  # (B, S, D)
        if x.shape[1] > self.config.max_source_positions:
            raise ShapeError("model.too_long", length=x.shape[1], window=self.config.max_source_positions)
        x = encoder.dropout(x + encoder.embed_positions.weight[: x.shape[1]])
        for layer in encoder.layers:
            x = layer.read(x, None)
        return encoder.layer_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return over_table(states, self.model.decoder.embed_tokens.weight)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.model.decoder.embed_tokens(tokens)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("embed_tokens.weight", "decoder.embed_positions.weight")):
                parameter.normal_(0.0, self.width**-0.5)
            elif name.endswith((".bias", "out_proj.weight", "fc2.weight")):
                parameter.zero_()
            elif parameter.dim() > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
