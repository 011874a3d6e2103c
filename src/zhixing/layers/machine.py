"""The arithmetic of this machine: what must be equal for the same program to give the same bytes again."""

from __future__ import annotations

from typing import Any

import torch


def machine(precision: str) -> dict[str, Any]:
    """Name the arithmetic: equal bytes are promised only where all of this is equal."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    capability = torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name()
    return {
        "torch": torch.__version__,
        "device": device,
        "arithmetic": capability,
        "threads": torch.get_num_threads(),
        "precision": precision,
    }


def native_bf16() -> bool:
    """Say whether this machine multiplies bfloat16 natively, so that it is worth its rounding."""
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.cuda.is_available() or bool(native())
