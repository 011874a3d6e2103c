"""The modern decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU and, in the Qwen3 layout, normalised queries and keys.

One file serves two layouts of Hugging Face: `llama`, and `qwen3`, which adds q_norm and k_norm. Parameter and config names are theirs, so
the weights open in transformers, vLLM and llama.cpp unchanged. It is a Causal kind: objectives, scoring and decoding see only
`states`, `logits` and `cache`.
Source: Touvron et al. 2023, section 2.2, arXiv:2302.13971; Yang et al. 2025, section 2, arXiv:2505.09388.
Leaves out: sliding windows, experts, biases of the feed-forward network; a config that asks for one is refused by name.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zhixing.core.errors import DataError, ShapeError
from zhixing.layers.attention import KeyValues, attend, segment_mask
from zhixing.layers.blocks import GatedMLP, Norm, over_table, working_dtype
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.layers.positions import STRETCHES, rotate, rotation

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}
# What this file can compute of settings that other decoders vary; another value would be another model.
FIXED = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "attention_dropout": 0.0,
    "pretraining_tp": 1,
    "is_decoder": True,
}
# Settings of a config.json that say how a model was made or is to be run, and do not change what it computes.
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version initializer_range use_cache max_window_layers layer_types _name_or_path".split()
)
# Frozen: a recipe gives the same model for ever.
PLANS = {
    "tiny": {"layers": 4, "width": 128, "heads": 4, "groups": 2, "window": 128, "batch": 16, "epochs": 4.0},
    # On the same head in the same time: 8 windows a step 1.471 nats, 16 windows 1.473, 192 wide 1.504.
    "small": {"layers": 6, "width": 160, "heads": 5, "groups": 5, "window": 256, "batch": 8, "epochs": 4.0},
    "medium": {"layers": 8, "width": 384, "heads": 6, "groups": 3, "window": 256, "batch": 32, "epochs": 8.0},
    "large": {"layers": 12, "width": 768, "heads": 12, "groups": 4, "window": 1024, "batch": 16, "accumulate": 4, "epochs": 4.0},
}
# Untied: 0.3 gave 1.4709 and 1.4729 nats where 1 gave 1.4787 and 1.4896, on the validation head of tiny_shakespeare after 1.2 million
# tokens in batches of 8 and of 16 windows (small plan, one seed). Tied: as in GPT-2, nearly uniform at first.
UNTIED_SCALE, TIED_SCALE = 0.3, 0.02


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a decoder, in Hugging Face's names; `dropout` is ours: on embeddings and on what each block adds, in training only."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    model_type: str = "qwen3"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | None = 1
    pad_token_id: int | None = 0
    dropout: float = 0.0
    attention_bias: bool = False
    rope_scaling: dict[str, Any] | None = None  # how rotations are stretched: `positions.stretched`

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> LlamaConfig:
        """Read a config.json of the llama or qwen3 layout.

        Raises DataError for a setting that is unknown, missing, or asks for what this decoder does not compute.
        """
        values = dict(config)
        rotary = values.pop("rope_parameters", None) or {}
        if "rope_theta" in rotary:
            values.setdefault("rope_theta", rotary["rope_theta"])
        values["rope_scaling"] = _stretch(values.get("rope_scaling") or rotary)
        if "num_attention_heads" in values and "hidden_size" in values:
            values.setdefault("num_key_value_heads", values["num_attention_heads"])
            if values.get("head_dim") is None:
                values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in config.items():
            if name in FIXED and value != FIXED[name]:
                raise DataError("model.config_value", name=name, value=value, wanted=FIXED[name])
            if name not in fields and name not in FIXED and name not in REMARKS and name != "rope_parameters":
                raise DataError("model.config_unknown", name=name, among=sorted(fields))
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise DataError("model.config_missing", name=name)
        settled = cls(**{name: value for name, value in values.items() if name in fields})
        if settled.num_attention_heads % settled.num_key_value_heads:
            wanted = f"a divisor of num_attention_heads, {settled.num_attention_heads}"
            raise DataError("model.config_value", name="num_key_value_heads", value=settled.num_key_value_heads, wanted=wanted)
        if settled.head_dim % 2:
            raise DataError("model.config_value", name="head_dim", value=settled.head_dim, wanted="an even number")
        return settled


def _stretch(given: dict[str, Any]) -> dict[str, Any] | None:
    """Read how rotations are stretched, under either of the names that its sort has had; None: not at all.

    Raises DataError for a sort that is not computed here, or one without its values.
    """
    sort = given.get("rope_type", given.get("type", "default"))
    if sort == "default":
        return None
    if sort not in STRETCHES:
        raise DataError("model.config_value", name="rope_type", value=sort, wanted=", ".join(["default", *STRETCHES]))
    for name in STRETCHES[sort]:
        if not isinstance(given.get(name), int | float) or given[name] <= 0:
            raise DataError("model.config_value", name=name, value=given.get(name), wanted="a number above 0")
    return {"rope_type": sort, **{name: given[name] for name in STRETCHES[sort]}}


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and, in the Qwen3 layout, queries and keys of unit root mean square."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        D, H, G, K = config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.head_width = K
        self.q_proj = nn.Linear(D, H * K, bias=config.attention_bias)
        self.k_proj = nn.Linear(D, G * K, bias=config.attention_bias)
        self.v_proj = nn.Linear(D, G * K, bias=config.attention_bias)
        self.o_proj = nn.Linear(H * K, D, bias=config.attention_bias)
        normed = config.model_type == "qwen3"
        self.q_norm = Norm(K, config.rms_norm_eps) if normed else nn.Identity()
        self.k_norm = Norm(K, config.rms_norm_eps) if normed else nn.Identity()

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValues | None, layer: int) -> Tensor:
        """Let each position gather from those it may see.

        x       (B, T, D) float
        turn    two (..., T, K) float    from `rotation`
        mask    (B, 1, T, S) bool        None: everything up to itself
        return  (B, T, D) float
        """
        B, T, _ = x.shape
        shape = (B, T, -1, self.head_width)
        queries = self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2)  # (B, H, T, K)
        keys = self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2)  # (B, H', T, K)
        values = self.v_proj(x).view(shape).transpose(1, 2)  # (B, H', T, K)
        queries, keys = rotate(queries, *turn), rotate(keys, *turn)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)  # (B, H', S, K)
        mixed = attend(queries, keys, values, mask)  # (B, H, T, K)
        return self.o_proj(mixed.transpose(1, 2).reshape(B, T, -1))  # (B, T, D)


class Layer(nn.Module):
    """One layer: what attention gathers and then what the feed-forward network computes are added to the stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, cache: KeyValues | None, layer: int) -> Tensor:
        """Add this layer's two contributions; shapes as in Attention."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), turn, mask, cache, layer))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """The stack below the vocabulary; it exists so that parameter names begin with `model.`, as Hugging Face's do."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.dropout = Dropout(config.dropout)


class Llama(nn.Module):
    """A causal language model: p(next token | tokens so far), at every position at once.

    Output projections begin at zero, so that a fresh model is its embeddings alone and, untied, predicts uniformly.
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"qwen3": PLANS, "llama": PLANS}
    kinds: ClassVar[tuple[str, ...]] = ("causal", "encoder")

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.width = config.hidden_size
        self.vocabulary = config.vocab_size
        self.window = config.max_position_embeddings
        self.model = Decoder(config)
        self.lm_head = None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Llama:
        """Make a fresh model from a config.json's content."""
        return cls(LlamaConfig.from_dict(config))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers, width, heads, groups, dropout."""
        return {
            "model_type": settings.model,
            "vocab_size": vocabulary,
            "hidden_size": settings.width,
            "intermediate_size": -(-settings.width * 8 // 3 // 64) * 64,
            "num_hidden_layers": settings.layers,
            "num_attention_heads": settings.heads,
            "num_key_value_heads": settings.groups,
            "head_dim": settings.width // settings.heads,
            "max_position_embeddings": longest,
            "dropout": max(0.0, settings.dropout),
        }

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json; the rotary base stands both where transformers 4 and where transformers 5 look for it."""
        config = dataclasses.asdict(self.config)
        theta, stretch = config["rope_theta"], config.pop("rope_scaling")
        return {
            "architectures": [ARCHITECTURES[self.config.model_type]],
            **config,
            "rope_parameters": {"rope_theta": theta, **(stretch or {"rope_type": "default"})},
            **({"rope_scaling": stretch} if stretch else {}),
            "hidden_act": "silu",
        }

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
        x = self.model.dropout(self.model.embed_tokens(inputs.tokens))  # (B, T, D)
        of = self.config
        cosine, sine = rotation(positions.unsqueeze(1), of.head_dim, of.rope_theta, of.rope_scaling)  # two (B, 1, T, K)
        turn = (cosine.to(working_dtype(x)), sine.to(working_dtype(x)))
        for number, layer in enumerate(self.model.layers):
            x = layer(x, turn, mask, cache, number)
        if cache is not None:
            cache.advance()
        return self.model.norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        weight = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return over_table(states, weight)

    def cache(self, rows: int) -> KeyValues:
        """Return an empty cache of so many rows."""
        return KeyValues(self.config.num_hidden_layers, self.config.num_key_value_heads, self.config.head_dim, [0] * rows)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("_proj.bias"):
                parameter.zero_()
            if parameter.dim() < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
                parameter.zero_()
            elif name.endswith("embed_tokens.weight"):
                parameter.normal_(0.0, TIED_SCALE if self.lm_head is None else UNTIED_SCALE)
            else:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
