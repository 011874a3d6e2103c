"""What comparisons with other programs share: finding them, running each in a process of its own, in turns, and what the machine can do.

ZHIXING_PEERS names a folder of clones. ZHIXING_PEER_PYTHON names the Python that has transformers and accelerate; by default this one.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import ROOT, Measured, hardware, show

MATRIX, COPY_BYTES, TRIES = 2048, 1 << 28, 5
SMOKE_MATRIX, SMOKE_BYTES = 256, 1 << 22


def clone(name: str) -> Path:
    """Give the folder of another program's clone, or end with the reason."""
    place = os.environ.get("ZHIXING_PEERS")
    if not place or not (Path(place) / name).is_dir():
        sys.exit(f"The program '{name}' was not found. A clone is expected in the folder that ZHIXING_PEERS names. Set it and run again.")
    return Path(place).absolute() / name


def python() -> str:
    """Give the Python that other libraries are installed for."""
    return os.environ.get("ZHIXING_PEER_PYTHON") or sys.executable


def missing(*modules: str) -> str:
    """Say which modules that Python cannot import, and why; nothing where it can import all."""
    done = subprocess.run([python(), "-c", f"import {', '.join(modules)}"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"left out: {(done.stderr.strip().splitlines() or ['it ended without a word'])[-1]}"


def versions(*modules: str) -> dict[str, str]:
    """Give the versions of that Python's modules."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run([python(), "-c", code, *modules], capture_output=True, text=True, check=True)
    return dict(zip(modules, done.stdout.split(), strict=True))


def threads(asked: int) -> int:
    """Give every process of a comparison, this one too, the same number of threads; 0: all cores."""
    import torch

    count = asked or hardware()["cores"]
    torch.set_num_threads(count)
    return count


def surroundings(count: int) -> dict[str, str]:
    """Give the environment of a process on the CPU with so many threads."""
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(count))
    paths = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        **numbers,
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONPATH": paths,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "ZHIXING_LANG": "en",
    }


def child(command: list[str], count: int, place: Path | None = None) -> str:
    """Run a program to its end in a process of its own; gives what it printed, or ends with what went wrong."""
    done = subprocess.run(command, cwd=place, env=surroundings(count), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def few(asked: dict[str, Any], out: Path, count: int) -> dict[str, Any]:
    """Run a few steps by steps.py, ours or the Trainer's, in a folder that is thrown away; gives what it measured."""
    program = sys.executable if asked["program"] == "ours" else python()
    said = child([program, str(ROOT / "benchmarks" / "steps.py"), json.dumps({**asked, "out": str(out)})], count)
    shutil.rmtree(out, ignore_errors=True)
    return json.loads(said.strip().splitlines()[-1])


def rounds(number: int, programs: dict[str, Callable[[], Any]], tell: Callable[..., None]) -> dict[str, list[Any]]:
    """Run programs in turns, each once a round; gives what each gave, round by round."""
    found: dict[str, list[Any]] = {name: [] for name in programs}
    for place in range(number):
        for name, run in programs.items():
            tell("benchmark.round", round=place + 1, program=name)
            found[name].append(run())
    return found


def compared(name: str, ours: list[float], other: list[float], wanted: str = "") -> Measured:
    """Give the median of ours / other, a ratio a round, with the range in the name."""
    ratios = [one / two for one, two in zip(ours, other, strict=True)]
    return Measured(f"{name}, ours / other, median of {len(ratios)} ({spread(ratios)})", statistics.median(ratios), wanted)


def spread(values: list[float]) -> str:
    """Write the range of some values."""
    return f"{show(float(min(values)))} .. {show(float(max(values)))}"


def best(run: Callable[[], Any], tries: int = TRIES) -> float:
    """Give the least of the seconds that something takes, after a first time that is not counted."""
    run()
    taken = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def precisions() -> tuple[str, ...]:
    """Give the precisions worth comparing on the CPU: bf16 only where it multiplies that; elsewhere a product takes hundreds of times."""
    import torch

    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return ("fp32", "bf16") if native() else ("fp32",)


NO_BF16 = "not measured: this processor has no products in bf16"


def matrix_rate(precision: str, size: int = MATRIX) -> float:
    """Give the operations a second of a product of square matrices on the CPU, multiplications and additions, the best of some.

    precision  "fp32" or "bf16"
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    first, second = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / best(lambda: first @ second)


def bandwidth(smoke: bool = False) -> float:
    """Give the bytes a second that a large copy reads and writes, both counted, the best of some."""
    import torch

    size = SMOKE_BYTES if smoke else COPY_BYTES
    source = torch.ones(size // 4)
    goal = torch.empty_like(source)
    return 2 * size / best(lambda: goal.copy_(source))
