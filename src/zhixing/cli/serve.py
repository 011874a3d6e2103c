"""`zhixing serve`: Model folders answer over HTTP, with OpenAI's interface and a page to try them."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from zhixing.cli.console import Console
from zhixing.core.errors import UsageError

KEY = "ZHIXING_KEY"


def serve(
    models: list[Path],
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    allow_host: list[str] | None = None,
    allow_origin: list[str] | None = None,
    rows: int = 32,
    queue: int = 64,
    max_tokens: int = 4096,
    prompt_tokens: int = 8192,
    body_bytes: int = 1 << 20,
    drain_seconds: float = 30.0,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Serve models until a signal comes; ends with 0 when everything under way was finished, else with 128 and the signal."""
    if not 0 <= port < 1 << 16:
        raise UsageError("serve.port", port=port)
    if threads is not None and threads < 1:
        raise UsageError("serve.limit_setting", name="--threads", value=threads)
    console = Console(json)
    console.tell("cli.serve.will", models=", ".join(map(str, models)), host=host, port=port or "?")
    if threads is not None:
        for library in ("OMP", "OPENBLAS"):  # of what is served without torch; read when NumPy is imported
            os.environ[f"{library}_NUM_THREADS"] = str(threads)
    from zhixing.core.stop import Stop
    from zhixing.serving.door import Door, read_key
    from zhixing.serving.limits import Limits

    limits = Limits(
        rows=rows,
        queue=queue,
        max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
        body_bytes=body_bytes,
        drain_seconds=drain_seconds,
    )
    door = Door(host, read_key(key_file, os.environ.get(KEY)), tuple(allow_host or ()), tuple(allow_origin or ()))
    stop = Stop().install()
    opened, run = opening(models)
    if threads is not None:
        with suppress(ImportError):
            import torch

            torch.set_num_threads(threads)

    def ready(url: str, models: list[str]) -> None:
        console.answer(url, {"url": url, "models": models})
        console.tell("cli.serve.ready", url=url, models=", ".join(models))
        console.tell("cli.serve.locked" if door.key else "cli.serve.open")

    run(opened, door, limits, port, console.tell, stop, ready)
    console.tell("cli.serve.done")


def opening(models: list[Path]) -> tuple[Any, Any]:
    """Open the models while the web's modules are imported, which takes about as long; give them, and what serves them.

    Raises what opening raises.
    """
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(open_models(models))
        except BaseException as problem:  # told by the thread that waits
            found.append(problem)

    beside = threading.Thread(target=work, name="opening", daemon=True)
    gc.disable()  # what is made from here on stays to the end
    try:
        from zhixing.serving.served import open_models

        beside.start()
        from zhixing.serving.run import serve as run

        beside.join()
        if isinstance(found[0], BaseException):
            raise found[0]
        gc.freeze()
    finally:
        gc.enable()
    return found[0], run
