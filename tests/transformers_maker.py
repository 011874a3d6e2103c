"""Models of random weights with a tokenizer, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

TEXTS = ["The quiet old river carries 12 small boats.", "大江东去，浪淘尽。", "don't  stop\n\n\tnow 🙂", "<|end|> is text"]
SHAPE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    "llama-biased": {"attention_bias": True},
    "llama-3.1": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}},
    "llama-slow": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}, "tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "mistral-sliding": {"sliding_window": 48},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 8},
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64},
}


def saved(name: str, where: Path, shards: str = "1GB") -> Any:
    """Let transformers save a model of random weights and a tokenizer; gives the model."""
    import transformers
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet))
    spoken = transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token=special[0], bos_token=special[1])
    spoken.save_pretrained(where)
    kind = name.split("-")[0]
    shape = {} if kind == "gpt2" else {**SHAPE, "max_position_embeddings": 64}
    config = transformers.AutoConfig.for_model(kind, **shape, **CONFIGS[name], vocab_size=310, eos_token_id=0, bos_token_id=1)
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(where, max_shard_size=shards)
    return model


def saved_encoder(config: Any, head: bool, where: Path) -> Any:
    """Let transformers save an encoder of random weights, with or without the head of masked language; gives the model."""
    import transformers

    torch.manual_seed(3)
    model = (transformers.AutoModelForMaskedLM if head else transformers.AutoModel).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(where)
    return model
