"""`zhixing serve`: Model folders answer over HTTP, with OpenAI's interface and a page to try them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

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
    from zhixing.core.stop import Stop
    from zhixing.serving.guard import Door
    from zhixing.serving.limits import Limits
    from zhixing.serving.run import read_key
    from zhixing.serving.run import serve as run

    stop = Stop().install()
    limits = Limits(
        rows=rows,
        queue=queue,
        max_tokens=max_tokens,
        prompt_tokens=prompt_tokens,
        body_bytes=body_bytes,
        drain_seconds=drain_seconds,
    )
    door = Door(host, read_key(key_file, os.environ.get(KEY)), tuple(allow_host or ()), tuple(allow_origin or ()))
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of what is served without torch
        with suppress(ImportError):
            import torch

            torch.set_num_threads(threads)

    def ready(url: str, models: list[str]) -> None:
        console.answer(url, {"url": url, "models": models})
        console.tell("cli.serve.ready", url=url, models=", ".join(models))
        console.tell("cli.serve.locked" if door.key else "cli.serve.open")

    run(models, door, limits, port, console.tell, stop, ready)
    console.tell("cli.serve.done")
