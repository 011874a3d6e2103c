"""The GPT-2 layout: layer norms, learned positions, plain multi-head attention, a GELU network, biases everywhere, one table for both ends.

Parameter and config names are Hugging Face's, so that the weights open in transformers unchanged; so is the form of its projections, whose
weights are (in, out).
Source: Radford et al. 2019, section 2.3; the projection is Hugging Face's Conv1D. Differs, at the start of training only: output
projections are zero, other matrices as large as their inputs ask, positions waves, keys like queries.
Leaves out: dropout of attention probabilities, cross-attention, heads of other tasks; a config that asks to compute otherwise is refused
by name.
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
from zhixing.layers.activations import gelu_new
from zhixing.layers.attention import KeyValues, attend, segment_mask
from zhixing.layers.blocks import over_table
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.positions import waves

# What this file can compute of settings that other models of this layout vary; another value would be another model.
FIXED = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
    "is_encoder_decoder": False,
}
# Settings of a config.json that say how a model was made or is to be run, and do not change what it computes. `attn_pdrop` acts in training
# only, and probabilities are never dropped out here; `n_ctx` repeats `n_positions`.
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version initializer_range use_cache _name_or_path attn_pdrop n_ctx task_specific_params "
    "reorder_and_upcast_attn summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj".split()
)
# Frozen: a recipe gives the same model for ever. What is below is the best of a few runs of `tiny` for 120 steps of 2,048 tokens, judged in
# bits per byte on the validation text of tiny_shakespeare (the 5 % at its head): 3.46 with noise for positions, 3.41 when queries, keys and
# values are optimised each by itself, 3.12 with waves for positions (3.41 at scale 0.02 and longest wave 10,000), 2.95 with keys that begin
# like queries, 2.89 with 32 windows of 64 tokens instead of 16 of 128. Rates of 0.01 and matrix rates of 0.03 changed less than 0.02.
PLANS = {
    "tiny": {"layers": 4, "width": 128, "heads": 4, "window": 64, "batch": 32, "epochs": 4.0},
    "small": {"layers": 6, "width": 160, "heads": 5, "window": 128, "batch": 16, "epochs": 4.0},
    "medium": {"layers": 8, "width": 384, "heads": 6, "window": 256, "batch": 32, "epochs": 8.0},
    "large": {"layers": 12, "width": 768, "heads": 12, "window": 1024, "batch": 16, "accumulate": 4, "epochs": 4.0},
}
TABLE_SCALE = 0.02  # as in GPT-2: nearly uniform at first
POSITION_SCALE = 0.06


@dataclass(frozen=True)
class GPT2Config:
    """The shape of the model, in Hugging Face's names; `n_inner` None: four times the width."""

    vocab_size: int
    n_positions: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int | None = None
    model_type: str = "gpt2"
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int | None = 1
    eos_token_id: int | None = 1
    pad_token_id: int | None = 0
    embd_pdrop: float = 0.0
    resid_pdrop: float = 0.0


class Projection(nn.Module):
    """A linear map whose weight is (in, out), as Hugging Face's Conv1D keeps it.

    pieces  int    how many maps lie side by side in it; the optimiser of matrices takes each by itself
    """

    def __init__(self, width: int, out: int, pieces: int = 1) -> None:
        super().__init__()
        self.pieces = pieces
        self.weight = nn.Parameter(torch.empty(width, out))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map the last axis.

        x       (..., D) float
        return  (..., E) float
        """
        return F.linear(x, self.weight.T, self.bias)


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values come from one projection."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.head_width = config.n_embd // config.n_head
        self.c_attn = Projection(config.n_embd, 3 * config.n_embd, pieces=3)
        self.c_proj = Projection(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValues | None, layer: int) -> Tensor:
        """Let each position gather from those it may see.

        x       (B, T, D) float
        mask    (B, 1, T, S) bool    None: everything up to itself
        return  (B, T, D) float
        """
        B, T, D = x.shape
        parts = self.c_attn(x).view(B, T, 3, -1, self.head_width)  # (B, T, 3, H, K)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (B, H, T, K)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)  # (B, H, S, K)
        mixed = attend(queries, keys, values, mask)  # (B, H, T, K)
        return self.c_proj(mixed.transpose(1, 2).reshape(B, T, D))  # (B, T, D)


class MLP(nn.Module):
    """The feed-forward network: widen, GELU in its tanh form, narrow."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Projection(config.n_embd, inner)
        self.c_proj = Projection(inner, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the network to each position alone.

        x       (B, T, D) float
        return  (B, T, D) float
        """
        return self.c_proj(gelu_new(self.c_fc(x)))


class Block(nn.Module):
    """One layer: what attention gathers and then what the feed-forward network computes are added to the stream."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValues | None, layer: int) -> Tensor:
        """Add this layer's two contributions; shapes as in Attention."""
        x = x + self.dropout(self.attn(self.ln_1(x), mask, cache, layer))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """The stack below the vocabulary; it exists so that parameter names begin with `transformer.`, as Hugging Face's do."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.dropout = Dropout(config.embd_pdrop)


class GPT2(nn.Module):
    """A causal language model: p(next token | tokens so far), at every position at once."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"gpt2": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        if config.n_embd % config.n_head:
            raise DataError("model.config_value", name="n_head", value=config.n_head, wanted=f"a divisor of n_embd, {config.n_embd}")
        self.config = config
        self.width = config.n_embd
        self.vocabulary = config.vocab_size
        self.window = config.n_positions
        self.transformer = Transformer(config)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> GPT2:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing, or asks for what this model does not compute.
        """
        return cls(read(GPT2Config, config, REMARKS, FIXED))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout."""
        form = {"n_embd": settings.width, "n_layer": settings.layers, "n_head": settings.heads, "n_positions": longest}
        dropout = max(0.0, settings.dropout)
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "embd_pdrop": dropout, "resid_pdrop": dropout}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        settings = {"activation_function": FIXED["activation_function"], "attn_pdrop": 0.0}
        return {"architectures": ["GPT2LMHeadModel"], **dataclasses.asdict(self.config), **settings}

    def states(self, inputs: Inputs, cache: KeyValues | None = None) -> Tensor:
        """Compute a state for every position from the tokens up to it; with a cache, read it and add the new tokens to it.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float

        Raises ShapeError when a text exceeds the positions the model was built for.
        """
        T = inputs.tokens.shape[1]
        reach = T + (max(cache.lengths, default=0) if cache is not None else 0)
        if reach > self.window:
            raise ShapeError("model.too_long", length=reach, window=self.window)
        if cache is not None:
            positions, mask = cache.prepare(inputs)
        else:
            positions = torch.arange(T, device=inputs.tokens.device).unsqueeze(0)  # (1, T)
            mask = None if inputs.segments is None else segment_mask(inputs.segments)  # (B, 1, T, T)
        if inputs.positions is not None:
            positions = inputs.positions
        x = self.transformer.dropout(self.transformer.wte(inputs.tokens) + self.transformer.wpe(positions))  # (B, T, D)
        for number, block in enumerate(self.transformer.h):
            x = block(x, mask, cache, number)
        if cache is not None:
            cache.advance()
        return self.transformer.ln_f(x)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return over_table(states, self.transformer.wte.weight)

    def cache(self, rows: int) -> KeyValues:
        """Return an empty cache of so many rows."""
        return KeyValues(self.config.n_layer, self.config.n_head, self.config.n_embd // self.config.n_head, [0] * rows)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("c_proj.weight", ".bias")):
                parameter.zero_()
            elif name.endswith("wte.weight"):
                parameter.normal_(0.0, TABLE_SCALE)
            elif name.endswith("wpe.weight"):
                parameter.copy_(POSITION_SCALE * waves(*parameter.shape, parameter.device))
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[0] ** -0.5)
            if name.endswith("c_attn.weight"):
                queries, keys, _ = parameter.chunk(3, 1)  # (D, D)
                keys.copy_(queries)  # like meets like: a place looks at those near it from the first step on
