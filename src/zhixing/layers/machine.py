"""The arithmetic of this machine: what must be equal for the same program to give the same bytes again."""

from __future__ import annotations

import functools
import importlib.util
import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SIDE, ROUNDS = 256, 30  # of the matrices by which precisions are timed, and how often: a fiftieth of a second in all
WORTH = 1.3  # times as fast
LONG_OPERATIONS = 1e17  # of a training: some minutes on a large GPU; compiling takes most of one


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


@functools.cache
def fast_bf16() -> bool:
    """Say whether this machine multiplies bfloat16 so much faster than float32 that it is worth its rounding.

    A processor that has the instructions need not: some do as many operations a second in float32, or more. They are timed, once.
    """
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.cuda.is_available() or (bool(native()) and gain_of_bf16() >= WORTH)


def gain_of_bf16() -> float:
    """Measure how many times as fast as in float32 a product of matrices is in bfloat16: the best of some rounds of each, in turns.

    One thread multiplies: several wait for each other where other programs run, and then the clock tells nothing.
    """
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}
    matrices = {dtype: torch.ones(SIDE, SIDE, dtype=dtype) for dtype in seconds}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(ROUNDS):
            for dtype, matrix in matrices.items():
                began = time.perf_counter()
                torch.mm(matrix, matrix)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return seconds[torch.float32] / seconds[torch.bfloat16]


def worth_compiling(operations: float) -> bool:
    """Say whether compiling pays back within a training of so many operations: on a GPU only; on two cores it gains less than it takes."""
    return torch.cuda.is_available() and operations >= LONG_OPERATIONS and importlib.util.find_spec("triton") is not None


def layers_of(model: nn.Module) -> list[nn.Module]:
    """List the layers of a model that can be compiled: those in a row of layers that are called, not asked by other names."""
    rows = (each for each in model.modules() if isinstance(each, nn.ModuleList))
    return [layer for row in rows for layer in row if type(layer).forward is not nn.Module.forward]


def compile_problem(device: torch.device) -> str:
    """Say why nothing can be compiled here, by trying the smallest function; nothing where it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler uses what torch calls old
        try:
            torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
        except Exception as problem:
            return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return ""


def wait() -> None:
    """Wait until a GPU has done what it was given, so that a clock tells the truth; a CPU has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Let the layers of a model compute compiled while the block runs: layers that are alike share one compilation.

    Names of parameters stay as they are. Source: torch's tutorial of regional compilation.
    """
    layers = layers_of(model) if wanted else []
    for layer in layers:
        layer.compile()
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None
