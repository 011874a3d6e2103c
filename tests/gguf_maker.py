"""Writes GGUF files, by the format's description, for tests: any settings, any tensors, and any damage."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.tokens.bpe import alphabet

F32, F16, Q8_0 = 0, 1, 8


def string(text: str) -> bytes:
    """Write a string."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def setting(name: str, value: Any) -> bytes:
    """Write one setting, by the sort of its Python value."""
    head = string(name)
    if isinstance(value, bool):
        return head + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return head + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return head + struct.pack("<I", 8) + string(value)
    if isinstance(value[0], str):
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(string, value))
    letter, number = ("f", 6) if isinstance(value[0], float) else ("i", 5)
    return head + struct.pack("<IIQ", 9, number, len(value)) + struct.pack(f"<{len(value)}{letter}", *value)


def q8(numbers: np.ndarray) -> bytes:
    """Write numbers in blocks of 32 with one scale each."""
    blocks = numbers.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    quanta = np.round(blocks / np.maximum(scale.astype(np.float32), 1e-12)).astype(np.int8)
    return b"".join(each.tobytes() + row.tobytes() for each, row in zip(scale, quanta, strict=True))


def write(path: Path, settings: dict[str, Any], tensors: dict[str, np.ndarray], form: int = F32, version: int = 3) -> Path:
    """Write a file; vectors are always F32."""
    head, body = [], b""
    for name, value in tensors.items():
        own = F32 if value.ndim == 1 else form
        raw = {F32: value.astype("<f4").tobytes, F16: value.astype("<f2").tobytes, Q8_0: lambda value=value: q8(value)}[own]()
        head.append(string(name) + struct.pack(f"<I{value.ndim}QIQ", value.ndim, *value.shape[::-1], own, len(body)))
        body += raw + b"\0" * (-len(raw) % 32)
    start = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings))
    start += b"".join(setting(*each) for each in settings.items()) + b"".join(head)
    path.write_bytes(start + b"\0" * (-len(start) % 32) + body)
    return path


def llama(seed: int = 0, width: int = 64, heads: int = 4, groups: int = 2, layers: int = 2) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Make the settings and the tensors of a decoder of random weights with a byte-level tokenizer."""
    draw = np.random.default_rng(seed)
    letters = alphabet()
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters, "Ġt", "he", "Ġthe"]
    merges = ["Ġ t", "h e", "Ġt he"]
    settings: dict[str, Any] = {
        "general.architecture": "llama", "general.alignment": 32, "llama.block_count": layers, "llama.context_length": 64,
        "llama.embedding_length": width, "llama.feed_forward_length": 96, "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 1e4,
        "llama.rope.dimension_count": width // heads, "llama.vocab_size": len(tokens), "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3), "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2, "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip
    narrow = width // heads * groups
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(tokens), width), "output_norm.weight": (width,)}
    for layer in range(layers):
        own = {
            "attn_norm": (width,), "attn_q": (width, width), "attn_k": (narrow, width), "attn_v": (narrow, width),
            "attn_output": (width, width), "ffn_norm": (width,), "ffn_gate": (96, width), "ffn_up": (96, width), "ffn_down": (width, 96),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in own.items()}
    return settings, {name: draw.normal(1 if len(shape) == 1 else 0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
