"""The encoder-decoder Transformer in the mBART layout: the encoder reads a whole source, the decoder writes and looks at it at every step.

Layer norms stand before each part and once more at the end of both stacks, which is what lets such a model learn from little text without
a long warm-up. One table serves the source, what was written and the prediction. Parameter and config names are Hugging Face's, so that the
weights open in transformers unchanged. It is an EncoderDecoder kind: objectives and search see only `states`, `logits` and `open`.
Source: Vaswani et al. 2017, section 3, arXiv:1706.03762; Liu et al. 2020, section 2, arXiv:2001.08210; norms first as in Xiong et al. 2020,
arXiv:2002.04745. Differs, at the start of training only: output projections are zero, other matrices as large as their inputs ask,
positions waves.
Leaves out: dropout of attention probabilities and inside the network, dropped layers, heads of other tasks; a config that asks to compute
otherwise is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.config import read
from zhixing.core.errors import DataError, RunError, ShapeError
from zhixing.layers.attention import KeyValues, attend
from zhixing.layers.blocks import over_table
from zhixing.layers.dropout import Dropout
from zhixing.layers.kinds import Inputs
from zhixing.models.gpt2 import waves

# What this file can compute of settings that other models of this layout vary; another value would be another model.
FIXED = {"activation_function": "gelu", "tie_word_embeddings": True, "is_encoder_decoder": True, "is_decoder": False}
# Settings of a config.json that say how a model was made or is to be run, and do not change what it computes. Dropouts act in training
# only, and here there is one.
REMARKS = frozenset(
    "architectures torch_dtype dtype transformers_version init_std use_cache _name_or_path attention_dropout activation_dropout "
    "encoder_layerdrop decoder_layerdrop classifier_dropout classif_dropout forced_eos_token_id num_hidden_layers task_specific_params "
    "add_bias_logits add_final_layer_norm normalize_before normalize_embedding static_position_embeddings output_past id2label label2id "
    "num_beams max_length gradient_checkpointing extra_pos_embeddings".split()
)
# Frozen: a recipe gives the same model for ever.
# On multi30k (German to English, 29,000 pairs, 4,000 pieces) 192 wide reaches 31.6 BLEU after 1.3 epochs, 320 core-seconds; decay as strong
# as a decoder's 0.5, which sees its text many times, was not tried there.
PLANS = {
    "tiny": {"layers": 2, "width": 128, "heads": 4, "batch": 64, "epochs": 10.0},
    "small": {"layers": 3, "width": 192, "heads": 4, "batch": 128, "epochs": 12.0},
    "medium": {"layers": 6, "width": 512, "heads": 8, "batch": 128, "epochs": 20.0},
    "large": {"layers": 6, "width": 1024, "heads": 16, "batch": 128, "accumulate": 4, "epochs": 20.0},
}
PLANS = {size: {"learning_rate": 0.003, "weight_decay": 0.05, "dropout": 0.1, **plan} for size, plan in PLANS.items()}
WIDENING = 4  # of the feed-forward network
POSITION_SCALE = 0.5  # beside tokens of mean square 1
BEGUN = 2  # rows at the head of the table of positions that no position has, as in the Hugging Face weights


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The shape of the model, in Hugging Face's names; `dropout` acts on embeddings and on what each part adds, in training only."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_attention_heads: int
    decoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    max_position_embeddings: int
    model_type: str = "mbart"
    scale_embedding: bool = True
    dropout: float = 0.0
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 1
    decoder_start_token_id: int | None = 1


def look(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Mix the values of all that the mask lets each query see, by two batched products.

    queries  (B, H, T, K) float
    keys     (B, H, S, K) float
    values   (B, H, S, K) float
    mask     (B, 1, 1, S) bool, True: may see; None: everything
    return   (B, H, T, K) float
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values


class Attention(nn.Module):
    """Multi-head attention with a projection each for queries, keys and values."""

    def __init__(self, width: int, heads: int, key_bias: bool = True) -> None:
        super().__init__()
        self.head_width = width // heads
        self.k_proj = nn.Linear(width, width, bias=key_bias)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """Cut vectors into heads.

        x       (B, T, D) float
        return  (B, H, T, K) float
        """
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def ask(self, x: Tensor) -> Tensor:
        """Give what vectors look for.

        x       (B, T, D) float
        return  (B, H, T, K) float
        """
        return self.split(self.q_proj(x))

    def remember(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the keys and values by which vectors are found.

        x       (B, S, D) float
        return  two (B, H, S, K) float
        """
        return self.split(self.k_proj(x)), self.split(self.v_proj(x))

    def join(self, mixed: Tensor) -> Tensor:
        """Put heads side by side and project them.

        mixed   (B, H, T, K) float
        return  (B, T, D) float
        """
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """One layer: what attention gathers from the text itself, in the decoder from the source as well, and a feed-forward network.

    config        with d_model and dropout
    heads, inner  int     of this stack
    writes        bool    a layer of the decoder: no position sees a later one, and all see the source
    key_bias      bool    whether the keys' projections have biases; what they add is the same for every key
    """

    def __init__(self, config: Any, heads: int, inner: int, writes: bool, key_bias: bool = True) -> None:
        super().__init__()
        D = config.d_model
        self.self_attn = Attention(D, heads, key_bias)
        self.self_attn_layer_norm = nn.LayerNorm(D)
        self.encoder_attn = Attention(D, heads, key_bias) if writes else None
        self.encoder_attn_layer_norm = nn.LayerNorm(D) if writes else None
        self.fc1 = nn.Linear(D, inner)
        self.fc2 = nn.Linear(inner, D)
        self.final_layer_norm = nn.LayerNorm(D)
        self.dropout = Dropout(config.dropout)
        self.mix: Callable[..., Tensor] | None = None  # None: `look`

    def read(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Add the contributions of a layer of the encoder.

        x       (B, S, D) float
        real    (B, 1, 1, S) bool    None: all are real
        return  (B, S, D) float
        """
        normed = self.self_attn_layer_norm(x)
        mixed = (self.mix or look)(self.self_attn.ask(normed), *self.self_attn.remember(normed), real)  # (B, H, S, K)
        return self.think(x + self.dropout(self.self_attn.join(mixed)))

    def write(
        self, x: Tensor, mask: Tensor | None, memory: tuple[Tensor, Tensor], real: Tensor | None, own: KeyValues | None, layer: int
    ) -> Tensor:
        """Add the contributions of a layer of the decoder.

        x       (B, T, D) float
        mask    (B, 1, T, T) bool        of the text itself; None: everything up to a position
        memory  two (B, H, S, K) float   keys and values of the source
        real    (B, 1, 1, S) bool        of the source; None: all are real
        return  (B, T, D) float
        """
        normed = self.self_attn_layer_norm(x)
        keys, values = self.self_attn.remember(normed)
        if own is not None:
            keys, values = own.extend(layer, keys, values)
        mixed = attend(self.self_attn.ask(normed), keys, values, mask)  # (B, H, T, K)
        x = x + self.dropout(self.self_attn.join(mixed))
        mixed = (self.mix or look)(self.encoder_attn.ask(self.encoder_attn_layer_norm(x)), *memory, real)  # (B, H, T, K)
        return self.think(x + self.dropout(self.encoder_attn.join(mixed)))

    def think(self, x: Tensor) -> Tensor:
        """Add the network's contribution at each position alone.

        x       (B, T, D) float
        return  (B, T, D) float
        """
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))


class Stack(nn.Module):
    """Positions, layers and norms of the encoder or of the decoder."""

    def __init__(self, config: Seq2SeqConfig, layers: list[nn.Module]) -> None:
        super().__init__()
        self.embed_positions = nn.Embedding(config.max_position_embeddings + BEGUN, config.d_model)
        self.layers = nn.ModuleList(layers)
        self.layernorm_embedding = nn.LayerNorm(config.d_model)
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def begin(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Give tokens their places.

        embedded   (B, T, D) float
        positions  (1, T) int        or one row a text
        return     (B, T, D) float
        """
        return self.dropout(self.layernorm_embedding(embedded + self.embed_positions(positions + BEGUN)))


class Pair(nn.Module):
    """Everything below the prediction; it exists so that parameter names begin with `model.`, as Hugging Face's do."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        reading = (config.encoder_attention_heads, config.encoder_ffn_dim, False)
        writing = (config.decoder_attention_heads, config.decoder_ffn_dim, True)
        self.encoder = Stack(config, [Layer(config, *reading) for _ in range(config.encoder_layers)])
        self.decoder = Stack(config, [Layer(config, *writing) for _ in range(config.decoder_layers)])


class Reading:
    """What a decoder remembers: of the sources, each layer's keys and values; of what was written, the same, token by token.

    memory   (2, L, B, H, S, K) float
    lengths  (B,) int                   of the sources
    own      KeyValues                  of what was written
    sources  (B,) int                   equal for rows of one source; None: each row has its own
    """

    def __init__(self, memory: Tensor, lengths: Tensor, own: KeyValues, sources: Tensor | None = None) -> None:
        self.memory, self.lengths, self.own = memory, lengths, own
        self.sources = torch.arange(len(lengths), device=memory.device) if sources is None else sources
        self.real = real_places(lengths, memory.shape[4])

    def rows(self, index: Tensor) -> Reading:
        """Return a cache that holds the chosen rows; index is (B',) int. Where every row keeps its source, nothing of these is copied."""
        index = index.to(self.memory.device)
        lengths, sources = self.lengths[index], self.sources[index]
        if torch.equal(sources, self.sources):
            return Reading(self.memory, self.lengths, self.own.rows(index), sources)
        longest = int(lengths.max()) if len(lengths) else 0
        return Reading(self.memory[..., :longest, :].index_select(2, index), lengths, self.own.rows(index), sources)

    def join(self, other: Reading) -> Reading:
        """Return a cache that holds this cache's rows and then the other's."""
        longest = max(self.memory.shape[4], other.memory.shape[4])
        parts = [F.pad(each.memory, (0, 0, 0, longest - each.memory.shape[4])) for each in (self, other)]
        last = int(self.sources.max()) + 1 if len(self.sources) else 0
        sources = torch.cat([self.sources, other.sources + last])
        return Reading(torch.cat(parts, 2), torch.cat([self.lengths, other.lengths]), self.own.join(other.own), sources)

    def crop(self, length: int) -> None:
        """Forget every token after the first `length` of what was written in each row."""
        self.own.crop(length)


def real_places(lengths: Tensor | None, longest: int) -> Tensor | None:
    """Mark the real places of padded rows; None where all are real.

    lengths  (B,) int
    return   (B, 1, 1, S) bool
    """
    if lengths is None or bool((lengths == longest).all()):
        return None
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None, None]  # (B, 1, 1, S)


class Seq2Seq(nn.Module):
    """p(next token | source, tokens so far), at every position at once.

    Output projections begin at zero, so that a fresh model is its embeddings alone.
    """

    PLANS: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {"mbart": PLANS}
    WINDOW: ClassVar[str] = "max_position_embeddings"  # the setting that bounds what is written
    kinds: ClassVar[tuple[str, ...]] = ("encoder_decoder",)

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            if config.d_model % getattr(config, name):
                wanted = f"a divisor of d_model, {config.d_model}"
                raise DataError("model.config_value", name=name, value=getattr(config, name), wanted=wanted)
        self.config = config
        self.width = config.d_model
        self.vocabulary = config.vocab_size
        self.window = config.max_position_embeddings
        self.model = Pair(config)
        self.register_buffer("final_logits_bias", torch.zeros(1, config.vocab_size))
        self._initialise()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Seq2Seq:
        """Make a fresh model from a config.json's content.

        Raises DataError for a setting that is unknown, missing, or asks for what this model does not compute.
        """
        return cls(read(Seq2SeqConfig, config, REMARKS, FIXED))

    @classmethod
    def configure(cls, settings: Any, vocabulary: int, longest: int) -> dict[str, Any]:
        """Give the config that training settings describe: layers (of each stack), width, heads, dropout."""
        form: dict[str, Any] = {"d_model": settings.width, cls.WINDOW: longest}
        for stack in ("encoder", "decoder"):
            form |= {f"{stack}_layers": settings.layers, f"{stack}_attention_heads": settings.heads}
            form[f"{stack}_ffn_dim"] = WIDENING * settings.width
        return {"model_type": settings.model, "vocab_size": vocabulary, **form, "dropout": max(0.0, settings.dropout)}

    def to_dict(self) -> dict[str, Any]:
        """Give the config.json."""
        settings = {**FIXED, "attention_dropout": 0.0, "activation_dropout": 0.0, "forced_eos_token_id": None}
        return {"architectures": ["MBartForConditionalGeneration"], **dataclasses.asdict(self.config), **settings}

    def encode(self, source: Inputs) -> Tensor:
        """Compute a state for every token of a source from all of it.

        source  tokens (B, S) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, S, D) float

        Raises ShapeError when a source exceeds the positions the model was built for.
        """
        S = source.tokens.shape[1]
        self._fits(S)
        positions = torch.arange(S, device=source.tokens.device).unsqueeze(0)  # (1, S)
        x = self.model.encoder.begin(self._embed(source.tokens), positions)  # (B, S, D)
        real = real_places(source.lengths, S)
        for layer in self.model.encoder.layers:
            x = layer.read(x, real)
        return self.model.encoder.layer_norm(x)

    def states(self, inputs: Inputs, cache: Reading | None = None) -> Tensor:
        """Compute a state for every position from the source and the tokens up to it; with a cache, read it and add the new tokens to it.

        inputs  tokens (B, T) int    a row's real tokens come first; states beyond its length mean nothing
        return  (B, T, D) float

        Raises ShapeError when a text exceeds the positions the model was built for, RunError when there is no source to read.
        """
        T = inputs.tokens.shape[1]
        if inputs.segments is not None:
            raise RunError("model.source_segments")
        if cache is None:
            if inputs.source is None:
                raise RunError("model.source_missing")
            read = self.encode(inputs.source)  # (B, S, D)
            memories = [layer.encoder_attn.remember(read) for layer in self.model.decoder.layers]
            real = real_places(inputs.source.lengths, read.shape[1])
            positions, mask, own = torch.arange(T, device=inputs.tokens.device).unsqueeze(0), None, None  # (1, T)
        else:
            memories, real, own = [*cache.memory.unbind(1)], cache.real, cache.own
            self._fits(T + max(own.lengths, default=0))
            positions, mask = own.prepare(inputs)
        self._fits(T)
        x = self.model.decoder.begin(self._embed(inputs.tokens), positions if inputs.positions is None else inputs.positions)  # (B, T, D)
        for number, layer in enumerate(self.model.decoder.layers):
            x = layer.write(x, mask, (memories[number][0], memories[number][1]), real, own, number)
        if own is not None:
            own.advance()
        return self.model.decoder.layer_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Give unnormalised log-probabilities of the next token.

        states  (..., D) float
        return  (..., V) float
        """
        return over_table(states, self.model.shared.weight, self.final_logits_bias[0])

    @torch.no_grad()
    def open(self, source: Inputs) -> Reading:
        """Read sources, once, and return a cache in which nothing of what is written of them has been read yet; without dropout.

        source  what `encode` reads
        """
        training = self.training
        self.eval()
        try:
            read = self.encode(source)  # (B, S, D)
            pairs = [torch.stack(layer.encoder_attn.remember(read)) for layer in self.model.decoder.layers]  # (2, B, H, S, K) each
        finally:
            self.train(training)
        B, S = read.shape[:2]
        lengths = torch.full((B,), S, device=read.device) if source.lengths is None else source.lengths
        heads = self.config.decoder_attention_heads
        return Reading(torch.stack(pairs, 1), lengths, KeyValues(len(pairs), heads, self.width // heads, [0] * B))

    def _embed(self, tokens: Tensor) -> Tensor:
        """Give each token its vector, enlarged where the config says so.

        tokens  (B, T) int
        return  (B, T, D) float
        """
        embedded = self.model.shared(tokens)
        return embedded * self.width**0.5 if self.config.scale_embedding else embedded

    def _fits(self, length: int) -> None:
        if length > self.window:
            raise ShapeError("model.too_long", length=length, window=self.window)

    @torch.no_grad()
    def _initialise(self) -> None:
        scale = self.width**-0.5
        for name, parameter in self.named_parameters():
            if name.endswith("embed_positions.weight"):
                parameter.copy_(POSITION_SCALE * waves(*parameter.shape, parameter.device))
                if not self.config.scale_embedding:
                    parameter.mul_(scale)
            elif name.endswith("shared.weight"):
                parameter.normal_(0.0, scale)
            elif name.endswith((".bias", "out_proj.weight", "fc2.weight")):
                parameter.zero_()
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5)
