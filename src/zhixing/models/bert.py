"""The BERT layout: an encoder in which every place sees the whole text, and a head that says which token stood at a masked place.

Layer norms stand after each addition; positions are learned; the network's GELU is exact. Parameter and config names are those of Hugging
Face's BertForMaskedLM, so that the weights open in transformers unchanged. The mask is a token of the model's own, not of the tokenizer's,
which has none: one row more in the table, `mask_token_id`, after the last token of the tokenizer. Text can therefore never contain it.
Source: Devlin et al. 2019, section 3, arXiv:1810.04805. Differs, at the start of training only: output projections are zero, other
matrices as large as their inputs ask, positions waves.
Leaves out: the pooler and next-sentence prediction, dropout of attention probabilities, cross-attention; a config that asks to compute
otherwise is refused by name. Every token is of the first type.
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
from zhixing.layers.attention import attend_masked, encoder_mask
from zhixing.layers.blocks import over_table
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.positions import waves

# What this file can compute of settings that other models of this layout vary; another value would be another model.
FIXED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "add_cross_attention": False,
}
# Settings of a config.json that say how a model was made or is to be run, and do not change what it computes.
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version initializer_range use_cache _name_or_path attention_probs_dropout_prob "
    "classifier_dropout gradient_checkpointing chunk_size_feed_forward bos_token_id eos_token_id".split()
)
POOLINGS = ("mean", "first")
TABLE_SCALE = 0.02  # as in BERT: nearly uniform at first
# How large positions begin beside words. Told which of two neighbours comes first, after 256 short texts, three seeds of a model of width
# 24: 0.90, 0.63 and 0.89 of others right at 0.02; 0.98, 0.85 and 0.99 at 0.06; 0.72, 0.59 and 0.93 with noise of 0.02 instead of waves.
POSITION_SCALE = 0.06
PLANS = {
    "tiny": {"layers": 2, "width": 128, "heads": 4, "window": 128, "batch": 32, "epochs": 12.0},
    "small": {"layers": 4, "width": 192, "heads": 6, "window": 256, "batch": 32, "epochs": 12.0},
    "medium": {"layers": 6, "width": 384, "heads": 6, "window": 256, "batch": 32, "epochs": 12.0},
    "large": {"layers": 12, "width": 768, "heads": 12, "window": 512, "batch": 32, "epochs": 12.0},
}


@dataclass(frozen=True)
class BertConfig:
    """The shape of the model, in Hugging Face's names.

    mask_token_id  int    the token that stands where one is masked; None: not known, and nothing can be masked
    masked_head    bool   whether the head of masked language is there; a model that was imported may have none
    pooling        str    how one vector is best made of a text's states: "mean", or "first", that of the first place
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.0
    pad_token_id: int | None = 0
    mask_token_id: int | None = None
    masked_head: bool = True
    pooling: str = "mean"
    model_type: str = "bert"


class Embeddings(nn.Module):
    """The sum of what a token, its place and its type are, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens, all of them of the first type.

        tokens     (B, T) int
        positions  (B, T) int
        return     (B, T, D) float
        """
        types = self.token_type_embeddings.weight[0]  # (D,)
        return self.dropout(self.LayerNorm(self.word_embeddings(tokens) + self.position_embeddings(positions) + types))


class SelfAttention(nn.Module):
    """Multi-head attention before its output projection."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.head_width = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Let each position gather from those it may see.

        x       (B, T, D) float
        mask    (B, 1, T, T) bool    None: everything
        return  (B, T, D) float
        """
        B, T, D = x.shape
        heads = (each(x).view(B, T, -1, self.head_width).transpose(1, 2) for each in (self.query, self.key, self.value))  # (B, H, T, K)
        return attend_masked(*heads, mask).transpose(1, 2).reshape(B, T, D)  # (B, T, D)


class Output(nn.Module):
    """What ends each half of a layer: project, add to the stream, normalise."""

    def __init__(self, config: BertConfig, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, made: Tensor, stream: Tensor) -> Tensor:
        """Add what a half made to the stream.

        made    (B, T, E) float
        stream  (B, T, D) float
        return  (B, T, D) float
        """
        return self.LayerNorm(stream + self.dropout(self.dense(made)))


class Layer(nn.Module):
    """One layer: attention, then the feed-forward network, each added to the stream and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(config), "output": Output(config, config.hidden_size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.intermediate_size)})
        self.output = Output(config, config.intermediate_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply both halves; shapes as in SelfAttention."""
        x = self.attention["output"](self.attention["self"](x, mask), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Transform(nn.Module):
    """What stands between a state and the table of tokens that it is compared with."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each position alone: (..., D) float to (..., D) float."""
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """The head of masked language modelling but for the table, which is that of the embeddings."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.bias = nn.Parameter(torch.empty(config.vocab_size))


class Stack(nn.Module):
    """Embeddings and layers; it exists so that parameter names begin with `bert.`, as Hugging Face's do."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})


class Bert(nn.Module):
    """An encoder, and p(token at a masked place | the rest of the text) on top of it."""

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"bert": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("encoder", "masked")

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        if config.pooling not in POOLINGS:
            raise DataError("model.config_value", name="pooling", value=config.pooling, wanted=" | ".join(POOLINGS))
        if config.hidden_size % config.num_attention_heads:
            wanted = f"a divisor of hidden_size, {config.hidden_size}"
            raise DataError("model.config_value", name="num_attention_heads", value=config.num_attention_heads, wanted=wanted)
        if config.mask_token_id is not None and not 0 <= config.mask_token_id < config.vocab_size:
            wanted = f"a token, below vocab_size, {config.vocab_size}"
            raise DataError("model.config_value", name="mask_token_id", value=config.mask_token_id, wanted=wanted)
        self.config = config
        self.pooling = config.pooling
        self.width = config.hidden_size
        self.vocabulary = config.vocab_size
        self.window = config.max_position_embeddings
        self.mask_id = config.mask_token_id if config.masked_head else None
        self.bert = Stack(config)
        if config.masked_head:
            self.cls = nn.ModuleDict({"predictions": Predictions(config)})
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Bert:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing, or asks for what this model does not compute.
        """
        return cls(read(BertConfig, config, REMARKS, FIXED))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, dropout; the mask comes after the tokenizer's tokens."""
        form = {"hidden_size": settings.width, "num_hidden_layers": settings.layers, "num_attention_heads": settings.heads}
        form |= {"intermediate_size": 4 * settings.width, "max_position_embeddings": longest, "mask_token_id": vocabulary}
        return {"model_type": settings.model, "vocab_size": vocabulary + 1, **form, "hidden_dropout_prob": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        settings = {"hidden_act": FIXED["hidden_act"], "attention_probs_dropout_prob": 0.0}
        kind = "BertForMaskedLM" if self.config.masked_head else "BertModel"
        return {"architectures": [kind], **dataclasses.asdict(self.config), **settings}

    def states(self, inputs: Inputs) -> Tensor:
        """Compute a state for every position from all real tokens of its segment.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float

        Raises ShapeError when a text exceeds the positions the model was built for.
        """
        T = inputs.tokens.shape[1]
        if T > self.window:
            raise ShapeError("model.too_long", length=T, window=self.window)
        positions = inputs.positions
        if positions is None:
            positions = torch.arange(T, device=inputs.tokens.device).unsqueeze(0)  # (1, T)
        mask = encoder_mask(inputs.tokens, inputs.lengths, inputs.segments)  # (B, 1, T, T)
        x = self.bert.embeddings(inputs.tokens, positions)  # (B, T, D)
        for layer in self.bert.encoder["layer"]:
            x = layer(x, mask)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the token that stands at each place itself.

        states  (..., D) float
        return  (..., V) float
        """
        head = self.cls["predictions"]
        return over_table(head.transform(states), self.bert.embeddings.word_embeddings.weight, head.bias)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(("output.dense.weight", "bias")):
                parameter.zero_()
            elif name.endswith("position_embeddings.weight"):
                parameter.copy_(POSITION_SCALE * waves(*parameter.shape, parameter.device))
            elif name.endswith("embeddings.weight"):
                parameter.normal_(0.0, TABLE_SCALE)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
